"""Counts and comparisons by known answers."""

import pytest

from consilience.comparison import compare_models, compare_with_classes, count_concepts
from consilience.errors import ConsilienceError
from consilience.tables import COMPARISON, CONCEPTS, make_table


def neuron(unit, concept, model="m", layer="l", similarity=1.0, absent=None):
    return {
        "model": model,
        "layer": layer,
        "unit": unit,
        "status": "ok" if concept else "constant",
        "concept": concept,
        "similarity": similarity if concept else None,
        "rank": unit if concept else None,
        "absent": absent,
        "top_pictures": [],
    }


def neurons(words, **kwargs):
    return [neuron(unit, word, **kwargs) for unit, word in enumerate(words)]


def test_concepts_are_counted():
    rows = [
        *neurons(["box", "ball", None, "box", "ant"], model="b", absent=True),
        *neurons(["ring"], model="a"),
    ]
    counted = count_concepts(rows)
    make_table(counted, CONCEPTS)
    assert [(r["model"], r["concept"], r["neurons"], r["share"], r["absent"]) for r in counted] == [
        ("b", "box", 2, 0.4, True),
        ("b", "ant", 1, 0.2, True),
        ("b", "ball", 1, 0.2, True),
        ("a", "ring", 1, 1.0, None),
    ]


def compared(rows, **kwargs):
    found = compare_models(rows, **kwargs)
    make_table(found, COMPARISON)
    keyed = {(r["layer"], r["model_a"], r["model_b"], r["metric"]): r for r in found}
    assert len(keyed) == len(found)
    return keyed


def test_models_are_compared():
    a = neurons(["box", "box", "ball", "moon", None], model="a", absent=False)
    b = neurons(["box", "ring", "ring", "ball"], model="b")
    b[0]["absent"], b[1]["absent"] = True, False
    found = compared(a + b)
    values = {key[1:]: row["value"] for key, row in found.items()}
    assert values == {
        ("a", None, "neurons"): 5,
        ("a", None, "labelled_neurons"): 4,
        ("a", None, "distinct_concepts"): 3,
        ("a", None, "share_absent"): 0,
        ("b", None, "neurons"): 4,
        ("b", None, "labelled_neurons"): 4,
        ("b", None, "distinct_concepts"): 3,
        ("b", None, "share_absent"): 0.5,
        ("a", "b", "shared_concepts"): 2,  # ball and box
        ("a", "b", "jaccard"): 0.5,  # of ball, box, moon, ring
        ("a", "b", "top_overlap"): pytest.approx(2 / 3),
        ("a", "b", "distribution_overlap"): 0.5,  # box .25 of .5, ball .25
        ("a", "b", "share_in_other"): 0.75,
        ("b", "a", "share_in_other"): 0.5,
    }
    assert {row["reason"] for row in found.values()} == {None}
    # The two most frequent are ball and box (of a), ring and ball (of b): ball comes before box.
    assert compared(a + b, top=2)["l", "a", "b", "top_overlap"]["value"] == 0.5
    assert compared(a + b, top=1)["l", "a", "b", "top_overlap"]["value"] == 0


def test_what_cannot_be_compared_says_why():
    rows = [
        *neurons(["box"], model="a", layer="fc"),
        *neurons(["box"], model="a", layer="layer4"),
        *neurons([None], model="b", layer="fc"),
    ]
    found = compared(rows)
    reasons = {key: row["reason"] for key, row in found.items() if row["value"] is None}
    assert reasons["fc", "a", None, "share_absent"] == "not known which concepts are absent"
    assert reasons["fc", "b", None, "share_absent"] == "no labelled neuron"
    assert found["fc", "b", None, "labelled_neurons"]["value"] == 0
    for layer, reason in (
        ("fc", "b has no labelled neuron in this layer"),
        ("layer4", "b has no such layer"),
    ):
        for metric in ("shared_concepts", "jaccard", "top_overlap", "distribution_overlap"):
            assert reasons[layer, "a", "b", metric] == reason
        for pair in (("a", "b"), ("b", "a")):
            assert reasons[layer, *pair, "share_in_other"] == reason
    assert ("layer4", "b", None, "neurons") not in found


def test_equal_models_overlap_fully():
    words = ["box", "ball", "box", "ring"]
    found = compared(neurons(words, model="a") + neurons(words[::-1], model="b"))
    for metric in ("jaccard", "top_overlap", "distribution_overlap", "share_in_other"):
        assert found["l", "a", "b", metric]["value"] == pytest.approx(1)


def test_output_labels_against_class_names():
    rows = neurons(["airport terminal", "box", None, "ball"], layer="fc") + neurons(["ball"])
    names = ["Airport_Terminal", "ball", "ring", "tench"]
    concepts = ["airport terminal", "box", "ball", "ring"]
    found = compare_with_classes(rows, "m", "fc", names, concepts)
    make_table(found, COMPARISON)
    assert {row["metric"]: row["value"] for row in found} == {
        "label_is_class_name": pytest.approx(1 / 3),  # of those that a concept could name
        "classes_among_concepts": 0.75,
    }
    none = compare_with_classes(rows, "m", "fc", names, ["sun"])[0]
    assert none["value"] is None
    assert none["reason"] == "no class name is among the concepts"
    with pytest.raises(ConsilienceError, match="4 neurons, but 3 classes"):
        compare_with_classes(rows, "m", "fc", names[:3], concepts)

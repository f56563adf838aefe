"""Counts and comparisons by known answers."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from consilience import configuration, descriptions, world
from consilience.comparison import (
    compare_models,
    compare_outputs,
    compare_with_classes,
    count_concepts,
    order_neurons,
    rarefy,
    vectors_by_name,
)
from consilience.errors import ConsilienceError
from consilience.tables import COMPARISON, CONCEPTS, EMBEDDINGS, NEURONS, make_table


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
        "candidates": [],
        "doubts": [],
        "top_pictures": [],
    }


def neurons(words, **kwargs):
    return [neuron(unit, word, **kwargs) for unit, word in enumerate(words)]


def test_neurons_come_in_the_studys_order_whatever_order_they_were_labelled_in():
    rows = [
        *neurons(["ball", "box"], model="b", layer="fc"),
        *neurons(["star"], model="a", layer="fc"),
        *neurons(["ball", "star"], model="a", layer="layer1"),
        *neurons(["box"], model="a", layer="gone"),
    ]
    ordered = order_neurons(
        make_table(rows, NEURONS), [("a", ["layer1", "fc"]), ("b", ["layer4", "fc"])]
    ).to_pylist()
    assert [(row["model"], row["layer"], row["unit"]) for row in ordered] == [
        ("a", "layer1", 0),
        ("a", "layer1", 1),
        ("a", "fc", 0),
        ("b", "fc", 0),
        ("b", "fc", 1),
    ]
    assert order_neurons(make_table(rows, NEURONS), []).num_rows == 0


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
    keyed = {
        (r["layer"], r["model_a"], r["model_b"], r["metric"])
        + ((r["category"],) if r["category"] else ()): r
        for r in found
    }
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
        ("a", None, "rarefied_concepts"): pytest.approx(3),
        ("a", None, "rarefied_to"): 4,
        ("a", None, "share_absent"): 0,
        ("b", None, "neurons"): 4,
        ("b", None, "labelled_neurons"): 4,
        ("b", None, "distinct_concepts"): 3,
        ("b", None, "rarefied_concepts"): pytest.approx(3),
        ("b", None, "rarefied_to"): 4,
        ("b", None, "share_absent"): 0.5,
        ("a", "b", "shared_concepts"): 2,  # ball and box
        ("a", "b", "jaccard"): 0.5,  # of ball, box, moon, ring
        ("a", "b", "top_overlap"): pytest.approx(2 / 3),
        ("a", "b", "distribution_overlap"): 0.5,  # box .25 of .5, ball .25
        ("a", "b", "rarefied_difference"): pytest.approx(0),
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
        for metric in (
            "shared_concepts",
            "jaccard",
            "top_overlap",
            "distribution_overlap",
            "rarefied_difference",
        ):
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
        "class_name_among_candidates": None,
        "class_name_cosine": None,
        "classes_among_concepts": 0.75,
    }
    reasons = {row["metric"]: row["reason"] for row in found if row["reason"]}
    assert reasons == {
        "class_name_among_candidates": "the neurons have no candidates beside their label",
        "class_name_cosine": "the class names are not embedded",
    }
    none = compare_with_classes(rows, "m", "fc", names, ["sun"])[0]
    assert none["value"] is None
    assert none["reason"] == "no class name is among the concepts"
    with pytest.raises(ConsilienceError, match="4 neurons, but 3 classes"):
        compare_with_classes(rows, "m", "fc", names[:3], concepts)


def test_output_layers_only_are_held_against_class_names():
    rows = [
        *neurons(["ball", "box"], layer="fc"),
        *neurons(["box", "box"], layer="layer4"),
        *neurons(["ball", "box"], model="published", layer="fc"),
    ]
    vectors = [{"key": key, "values": [1.0, 0.0]} for key in ("ball", "box")]
    table = make_table(vectors, EMBEDDINGS)
    models = {"m": {"output_layer": "fc", "class_names": ["ball", "box"]}}
    found = compare_outputs(rows, models, table, table)
    assert {(row["model_a"], row["layer"]) for row in found} == {("m", "fc")}
    assert found == compare_with_classes(
        rows,
        "m",
        "fc",
        ["ball", "box"],
        ["ball", "box"],
        np.array([[1.0, 0.0]] * 2),
        vectors_by_name(table),
    )


def test_candidates_and_embeddings_against_class_names():
    rows = neurons(["ball", "box", None], layer="fc")
    for row, found in zip(rows, (["ball", "ring"], ["box", "RING"], None), strict=True):
        row["candidates"] = found
    concepts = ["ball", "box", "ring"]
    vectors = np.array([[1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
    keys = ["ball", "ring", "box"]
    classes = [
        {"key": key, "values": vectors[concepts.index(key)].tolist()} for key in reversed(keys)
    ]
    classes = vectors_by_name(make_table(classes, EMBEDDINGS))
    again = [
        {"model": "m", "layer": "fc", "unit": unit, "concepts": found}
        for unit, found in enumerate([[0, 0, 1], [2, -1, 2], [1, 1, 1]])
    ]
    found = compare_with_classes(rows, "m", "fc", keys, concepts, vectors, classes, again)
    make_table(found, COMPARISON)
    found = {row["metric"]: row for row in found}
    assert found["label_is_class_name"]["value"] == pytest.approx(1 / 3)
    assert found["class_name_among_candidates"]["value"] == pytest.approx(2 / 3)
    # ball against ball, box against ring.
    assert found["class_name_cosine"]["value"] == pytest.approx((1 + 0.8) / 2)
    low, high = np.percentile([3 / 3, 2 / 3, 2 / 3], [2.5, 97.5])
    assert found["label_is_class_name"]["low"] == pytest.approx(low)
    assert found["label_is_class_name"]["high"] == pytest.approx(high)
    low, high = np.percentile([1, 1, (0 + 1 + 1) / 3], [2.5, 97.5])
    assert found["class_name_cosine"]["low"] == pytest.approx(low)
    assert found["class_name_cosine"]["high"] == pytest.approx(high)
    del classes["ring"]
    found = compare_with_classes(rows, "m", "fc", keys, concepts, vectors, classes)
    assert [row["reason"] for row in found][2] == "class 'ring' is not embedded"


def mean_distinct(words, size):
    samples = list(combinations(words, size))
    return sum(len(set(sample)) for sample in samples) / len(samples)


@pytest.mark.parametrize("words", ["aaabbc", "abcdef", "aaaaaa", "aabbccd"])
def test_rarefaction_is_the_mean_over_all_samples(words):
    counts = np.array([words.count(word) for word in "abcdef"])
    for size in range(len(words) + 1):
        assert rarefy(counts, size) == pytest.approx(mean_distinct(words, size), abs=1e-12)
    assert np.isnan(rarefy(counts, len(words) + 1))


def test_rarefaction_of_many_neurons():
    counts = np.array([[2048 - 511] + [1] * 511, [1] * 512 + []])
    found = rarefy(counts, np.array([1, 512]))
    np.testing.assert_allclose(found, [1, 512], rtol=1e-9)


def test_diversity_is_compared_at_equal_numbers_of_neurons():
    few, many = list("abcd"), list("abcdabcdee")
    found = compared(neurons(few, model="few") + neurons(many, model="many"))
    assert found["l", "many", None, "distinct_concepts"]["value"] == 5
    assert found["l", "many", None, "rarefied_to"]["value"] == 4
    expected = mean_distinct(many, 4)
    assert found["l", "many", None, "rarefied_concepts"]["value"] == pytest.approx(expected)
    difference = found["l", "few", "many", "rarefied_difference"]["value"]
    assert difference == pytest.approx(4 - expected)


RESAMPLES = 40
WORDS = ["ring", "ball", "box", "moon", "star"]


def resample(model, units, seed):
    """Labels on each resample, some of them none."""
    codes = np.random.default_rng(seed).integers(-1, len(WORDS), (units, RESAMPLES))
    return [
        {"model": model, "layer": "l", "unit": unit, "concepts": found}
        for unit, found in enumerate(codes.tolist())
    ]


def test_intervals_are_percentiles_of_the_comparison_on_each_resample():
    """Each resample is compared as if it were a study of its own."""
    labels = {"a": ["ring", "ball", "ball", "ring", "box", "moon"], "b": ["star", "box", "box"]}
    again = {model: resample(model, len(found), ord(model)) for model, found in labels.items()}
    absent, kinds = {"moon"}, {"Ring": "round", "ball": "round", "box": "square"}

    def rows(choose):
        return [
            {**neuron(unit, word, model=model), "absent": word in absent if word else None}
            for model in labels
            for unit, word in enumerate(choose(model))
        ]

    def on_resample(index):
        return compared(
            rows(
                lambda model: [
                    WORDS[row["concepts"][index]] if row["concepts"][index] >= 0 else None
                    for row in again[model]
                ]
            ),
            top=2,
            categories=kinds,
        )

    found = compared(
        rows(labels.get),
        top=2,
        categories=kinds,
        concepts=WORDS,
        absent=absent,
        resampled=[*reversed(again["a"]), *again["b"]],
    )
    alone = [on_resample(index) for index in range(RESAMPLES)]
    checked = 0
    for key, row in found.items():
        if key[3] in ("neurons", "rarefied_to"):
            assert row["low"] is row["high"] is None
            continue
        values = [one[key]["value"] for one in alone if one[key]["value"] is not None]
        low, high = np.percentile(values, [2.5, 97.5])
        assert (row["low"], row["high"]) == (pytest.approx(low), pytest.approx(high)), key
        assert low < high
        checked += 1
    assert checked == 2 * 7 + 7 + 2  # two categories differ


def test_models_are_paired_resample_by_resample():
    """Two models that waver together never differ."""
    rows = neurons(["ring", "ball"], model="a") + neurons(["ring", "ball"], model="b")
    again = [row | {"model": model} for model in "ab" for row in resample("a", 2, 0)]
    found = compared(rows, resampled=again, concepts=WORDS)
    assert found["l", "a", None, "distinct_concepts"]["low"] < 2
    for metric, value in (("rarefied_difference", 0), ("jaccard", 1), ("share_in_other", 1)):
        row = found["l", "a", "b", metric]
        assert row["low"] == row["high"] == pytest.approx(value)


def test_a_model_without_resamples_has_no_interval_nor_has_its_comparison():
    rows = neurons(["ring", "ball"], model="a") + neurons(["ring", "lamp"], model="published")
    found = compared(rows, resampled=resample("a", 2, 0), concepts=WORDS)
    assert found["l", "a", None, "rarefied_concepts"]["low"] is not None
    for a, b, metric in (
        ("published", None, "rarefied_concepts"),
        ("a", "published", "jaccard"),
        ("a", "published", "rarefied_difference"),
    ):
        assert found["l", a, b, metric]["value"] is not None
        assert found["l", a, b, metric]["low"] is found["l", a, b, metric]["high"] is None


def test_resamples_that_do_not_belong_are_refused():
    rows = neurons(["ring", "ball"])
    again = resample("m", 2, 0)
    short = [again[0], again[1] | {"concepts": again[1]["concepts"][1:]}]
    for wrong, said in (
        (again[:1], "model 'm', layer 'l': the resampled labels are of other neurons"),
        (short, "labels of 39 and 40 resamples cannot be paired"),
        ([again[0] | {"concepts": [5] * 40}, again[1]], "not of these 5 concepts"),
        ([row | {"layer": "other"} for row in again], "layer 'other': .* of other neurons"),
    ):
        with pytest.raises(ConsilienceError, match=said):
            compare_models(rows, resampled=wrong, concepts=WORDS)


def test_categories_of_words():
    rows = neurons(["red_Ball", "ball", "mud", None, "tree"], model="a") + neurons([None])
    kinds = {"red ball": "made", "Ball": "made", "tree": "natural", "sea": "natural"}
    found = compared(rows, categories=kinds)
    assert found["l", "a", None, "share_category", "made"]["value"] == 0.5
    assert found["l", "a", None, "share_category", "natural"]["value"] == 0.25
    assert found["l", "a", None, "share_uncategorised"]["value"] == 0.25
    none = found["l", "m", None, "share_category", "made"]
    assert (none["value"], none["reason"]) == (None, "no labelled neuron")
    assert found["l", "a", "m", "category_difference", "made"]["reason"]
    assert not any("categor" in key[3] for key in compared(rows))


def test_models_differ_by_category_and_kinds_stand_beside():
    rows = neurons(["ball", "box", "tree", "sea"], model="a") + neurons(["tree", "sea"], model="b")
    categories = {"ball": "made", "box": "made", "tree": "natural", "sea": "natural"}
    kinds = {"ball": "object", "box": "object", "tree": "object", "sea": "scene"}
    found = compared(rows, categories=categories, kinds=kinds)
    values = {key: row["value"] for key, row in found.items()}
    assert values["l", "a", "b", "category_difference", "made"] == 0.5
    assert values["l", "a", "b", "category_difference", "natural"] == -0.5
    assert values["l", "a", None, "share_kind", "object"] == 0.75
    assert values["l", "b", None, "share_kind", "scene"] == 0.5
    assert values["l", "a", None, "share_category", "made"] == 0.5
    assert ("l", "a", None, "share_kind", "object") not in compared(rows, categories=categories)


def test_every_word_of_the_world_has_a_category():
    path = configuration.find_categories("natural-man-made")
    listed = descriptions.read_categories(path)
    assert set(world.concepts()) <= set(listed)
    assert set(listed.values()) == {"natural", "man-made", "neither"}
    assert all(listed[word] == "neither" for word in world.COLOURS)
    assert (listed["brick"], listed["moon"], listed["dog"]) == ("man-made", "natural", "natural")
    assert configuration.find_categories("mine.csv") == Path("mine.csv")
    assert configuration.find_categories("../categories/natural-man-made") != path
    kinds = world.categories()
    assert tuple(kinds) == world.concepts()
    assert set(kinds.values()) == {"object", "scene", "colour", "absent"}
    assert (kinds["ball"], kinds["brick"], kinds["red"]) == ("object", "scene", "colour")
    assert {word for word, kind in kinds.items() if kind == "absent"} == set(world.ABSENT_CONCEPTS)


def test_share_of_labels_that_stand():
    rows = neurons(["ball", "box", None, "box"])
    assert ("l", "m", None, "share_standing") not in compared(rows)
    for row, stands in zip(rows, (True, False, None, None), strict=True):
        row["stands"] = stands
    assert compared(rows)["l", "m", None, "share_standing"]["value"] == 0.5

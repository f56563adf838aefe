"""Labels, counts and comparisons by known answers."""

import csv

import numpy as np
import pytest

from consilience.dissection import (
    compare_models,
    compare_with_classes,
    count_concepts,
    dissect_model,
    label_neurons,
    write_descriptions,
)
from consilience.errors import ConsilienceError
from consilience.similarity import SIMILARITIES
from consilience.tables import (
    ACTIVATIONS,
    COMPARISON,
    CONCEPTS,
    EMBEDDINGS,
    NEURONS,
    make_table,
    read_rows,
    write_table,
)

CONCEPTS_ = ["ball", "box", "ring", "star", "moon"]
PICTURES = [f"{index:02d}.png" for index in range(50)]
SETTINGS = {"top_k": 8}


def planted(seed=0, dtype=np.float32):
    """Ten pictures of each concept; neuron i fires on those of concept i."""
    rng = np.random.default_rng(seed)
    shows = np.repeat(np.eye(5), 10, axis=0)
    cosines = 0.2 + 0.1 * shows + 0.01 * rng.standard_normal((50, 5))
    activations = 3 * shows + rng.random((50, 5))
    return activations.astype(dtype), cosines.astype(dtype)


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


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_planted_neurons_get_their_concepts(similarity):
    settings = {
        "soft-wpmi": SETTINGS,
        "wpmi": {"top_k": 8},
        "rank-reorder": {"top_fraction": 1, "p": 3},
    }.get(similarity, {})
    activations, cosines = planted()
    rows = label_neurons(
        "m", "l", activations, cosines, CONCEPTS_, PICTURES, similarity, settings, {"star", "sun"}
    )
    assert [row["concept"] for row in rows] == CONCEPTS_
    assert [row["absent"] for row in rows] == [False, False, False, True, False]
    assert sorted(row["rank"] for row in rows) == [0, 1, 2, 3, 4]
    by_rank = sorted(rows, key=lambda row: row["rank"])
    values = [row["similarity"] for row in by_rank]
    assert values == sorted(values, reverse=True)
    for unit, row in enumerate(rows):
        strongest = np.argsort(-activations[:, unit])[:5]
        assert row["top_pictures"] == [PICTURES[index] for index in strongest]
    make_table(rows, NEURONS)


def test_neurons_that_say_nothing_get_no_label():
    activations, cosines = planted()
    alone = label_neurons("m", "l", activations, cosines, CONCEPTS_, PICTURES, settings=SETTINGS)
    dead = np.zeros((50, 1), dtype=np.float32)
    nearly = np.full((50, 1), 7, dtype=np.float32)
    nearly[3] = np.nextafter(np.float32(7), np.float32(8))
    broken = activations[:, :1].copy()
    broken[0] = np.nan
    worse = activations[:, :1].copy()
    worse[0] = np.inf
    more = np.hstack([dead, nearly, broken, worse, activations])
    rows = label_neurons("m", "l", more, cosines, CONCEPTS_, PICTURES, settings=SETTINGS)
    assert [row["status"] for row in rows[:4]] == ["constant", "constant"] + ["not-finite"] * 2
    for row in rows[:4]:
        assert row["concept"] is row["similarity"] is row["rank"] is row["absent"] is None
        assert row["top_pictures"] == []
    # And they change nothing for the others, not even by way of the prior.
    assert [{**row, "unit": row["unit"] - 4} for row in rows[4:]] == alone
    make_table(rows, NEURONS)


def test_layer_without_a_live_neuron():
    _, cosines = planted()
    rows = label_neurons("m", "l", np.zeros((50, 2)), cosines, CONCEPTS_, PICTURES)
    assert [row["status"] for row in rows] == ["constant"] * 2


def test_undefined_similarity_gives_no_label():
    activations, cosines = planted()
    rows = label_neurons(
        "m", "l", activations, -cosines, CONCEPTS_, PICTURES, "rank-reorder", {"top_fraction": 1}
    )
    assert {row["status"] for row in rows} == {"undefined"}
    assert {row["concept"] for row in rows} == {None}


def test_ties_go_to_the_first_concept():
    activations, cosines = planted()
    cosines = np.hstack([cosines, cosines])
    for words in ([*"abcdeABCDE"], [*"ABCDEabcde"]):
        rows = label_neurons("m", "l", activations, cosines, words, PICTURES, settings=SETTINGS)
        assert [row["concept"] for row in rows] == words[:5]


def test_bad_input_is_refused():
    activations, cosines = planted()
    good = ("m", "l", activations, cosines, CONCEPTS_, PICTURES)
    with pytest.raises(ConsilienceError, match="no similarity 'soft'; it is one of soft-wpmi"):
        label_neurons(*good, similarity="soft")
    with pytest.raises(ConsilienceError, match="'cosine' has no setting 'top_k'"):
        label_neurons(*good, similarity="cosine", settings=SETTINGS)
    with pytest.raises(ConsilienceError, match="100 most activating"):
        label_neurons(*good)
    with pytest.raises(ConsilienceError, match="4 concepts do not fit"):
        label_neurons(*good[:4], CONCEPTS_[1:], PICTURES)
    with pytest.raises(ConsilienceError, match="listed twice"):
        label_neurons(*good[:4], ["ball", *CONCEPTS_[:-1]], PICTURES)
    with pytest.raises(ConsilienceError, match="without concepts"):
        label_neurons("m", "l", activations, cosines[:, :0], [], PICTURES)


@pytest.fixture
def planted_tables():
    """Tables whose pictures come in different orders, as those of shards do."""
    rng = np.random.default_rng(0)
    words = np.linalg.qr(rng.standard_normal((8, 5)))[0].T
    shows = np.repeat(np.arange(5), 10)
    activations, _ = planted()
    order = rng.permutation(50)
    rows = [
        {"picture": PICTURES[i], "layer": layer, "values": activations[i] * scale}
        for i in order
        for layer, scale in (("late", -1), ("early", 1))
    ]
    embeddings = {
        "pictures": [{"key": PICTURES[i], "values": words[shows[i]]} for i in range(50)],
        "concepts": [{"key": w, "values": v} for w, v in zip(CONCEPTS_, words, strict=True)],
    }
    return rows, embeddings["pictures"], embeddings["concepts"]


def dissect(rows, pictures, concepts, layers):
    return dissect_model(
        "m",
        make_table(rows, ACTIVATIONS),
        make_table(pictures, EMBEDDINGS),
        make_table(concepts, EMBEDDINGS),
        layers,
        settings=SETTINGS,
    )


def test_tables_are_brought_together_by_picture(planted_tables):
    rows = dissect(*planted_tables, ["early", "late"])
    assert [row["layer"] for row in rows] == ["early"] * 5 + ["late"] * 5
    assert [row["concept"] for row in rows[:5]] == CONCEPTS_
    assert all(row["concept"] != CONCEPTS_[row["unit"]] for row in rows[5:])
    first = rows[0]["top_pictures"]
    assert {int(name[:2]) // 10 for name in first} == {0}


def test_tables_that_do_not_belong_together_are_refused(planted_tables):
    rows, pictures, concepts = planted_tables
    with pytest.raises(ConsilienceError, match=r"layer 'early': .* '49.png' has only one of them"):
        dissect(rows, pictures[:-1], concepts, ["early"])
    with pytest.raises(ConsilienceError, match="layer 'middle': activations of 0 probe pictures"):
        dissect(rows, pictures, concepts, ["middle"])
    with pytest.raises(ConsilienceError, match="there twice"):
        dissect(rows + rows[:2], pictures, concepts, ["early"])
    longer = [{**row, "values": 2 * row["values"]} for row in concepts]
    with pytest.raises(ConsilienceError, match="concept embeddings are not all of unit length"):
        dissect(rows, pictures, longer, ["early"])
    narrower = [{"key": "a", "values": np.array([1.0])}]
    with pytest.raises(ConsilienceError, match="not of one CLIP"):
        dissect(rows, pictures, narrower, ["early"])


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


def test_descriptions_have_the_form_of_clip_dissect(tmp_path):
    rows = neurons(['a "b", c', None, "ball"], similarity=0.125)
    write_descriptions(rows, tmp_path / "descriptions.csv")
    text = (tmp_path / "descriptions.csv").read_text()
    assert text.splitlines()[0] == "layer,unit,description,similarity"
    with open(tmp_path / "descriptions.csv", newline="") as file:
        read = list(csv.DictReader(file))
    assert [row["description"] for row in read] == ['a "b", c', "", "ball"]
    assert [row["similarity"] for row in read] == ["0.125", "", "0.125"]
    with pytest.raises(ConsilienceError, match="not of m, n"):
        write_descriptions(rows + neurons(["ball"], model="n"), tmp_path / "two.csv")
    assert not (tmp_path / "two.csv").exists()


def test_neurons_survive_the_file(tmp_path):
    activations, cosines = planted()
    activations[:, 2] = 0
    rows = label_neurons("m", "l", activations, cosines, CONCEPTS_, PICTURES, settings=SETTINGS)
    write_table(rows, tmp_path / "neurons.parquet", NEURONS)
    assert read_rows(tmp_path / "neurons.parquet", NEURONS) == rows

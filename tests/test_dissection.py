"""Labels by known answers."""

import numpy as np
import pytest

from consilience.dissection import (
    dissect_model,
    label_neurons,
)
from consilience.errors import ConsilienceError
from consilience.similarity import SIMILARITIES
from consilience.tables import (
    ACTIVATIONS,
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


def test_neurons_survive_the_file(tmp_path):
    activations, cosines = planted()
    activations[:, 2] = 0
    rows = label_neurons("m", "l", activations, cosines, CONCEPTS_, PICTURES, settings=SETTINGS)
    write_table(rows, tmp_path / "neurons.parquet", NEURONS)
    assert read_rows(tmp_path / "neurons.parquet", NEURONS) == rows

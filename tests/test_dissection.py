"""Labels and what they are worth, by known answers and against the definitions in memory."""

import numpy as np
import pytest

from consilience import dissection, probe, similarity
from consilience.dissection import Concepts, choose_temperature, dissect_model
from consilience.errors import ConsilienceError
from consilience.probe import ProbeSet, keys_of
from consilience.similarity import SIMILARITIES
from consilience.tables import (
    ACTIVATIONS,
    EMBEDDINGS,
    NEURONS,
    RESAMPLED,
    TEMPERATURE,
    make_table,
    read_rows,
    write_table,
)

WORDS = ["ball", "box", "ring", "star", "moon"]
PICTURES = [f"{index:02d}.png" for index in range(50)]
SETTINGS = {"top_k": 8}


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def write_probe(folder, names, layers, embeddings, shards=1, held_out=0.0, group_by="layer"):
    """Write the files of a probe set; ``layers`` maps names to activations."""
    files = {"activations": [], "embeddings": []}
    for shard in range(shards):
        mine = range(shard, len(names), shards)
        files["activations"].append(folder / f"activations-{shard}.parquet")
        rows = [
            {"picture": names[n], "layer": layer, "values": values[n]}
            for n in mine
            for layer, values in layers.items()
        ]
        write_table(rows, files["activations"][-1], ACTIVATIONS, group_by=group_by)
        files["embeddings"].append(folder / f"pictures-{shard}.parquet")
        rows = [{"key": names[n], "values": embeddings[n]} for n in mine]
        write_table(rows, files["embeddings"][-1], EMBEDDINGS)
    return ProbeSet(**files, held_out=held_out)


def planted(pictures=50, noise=0.3, seed=0):
    """Activations and embeddings: of five words in turn; neuron i fires on those of word i."""
    rng = np.random.default_rng(seed)
    vectors = unit(np.linalg.qr(rng.standard_normal((8, 5)))[0].T)
    shows = np.arange(pictures) * 5 // pictures
    embeddings = unit(vectors[shows] + noise / 3 * rng.standard_normal((pictures, 8)))
    activations = 3 * np.eye(5)[shows] + rng.random((pictures, 5))
    return activations.astype(np.float32), embeddings, Concepts(WORDS, vectors)


def random_features(pictures=300, neurons=40, concepts=70, seed=0):
    """Half the neurons tied to a concept, the others to nothing."""
    rng = np.random.default_rng(seed)
    vectors = unit(rng.standard_normal((concepts, 16)))
    embeddings = unit(rng.standard_normal((pictures, 16)) + 0.5)
    activations = rng.standard_normal((pictures, neurons))
    tied = rng.integers(concepts, size=neurons // 2)
    activations[:, : neurons // 2] += 8 * embeddings @ vectors[tied].T
    names = [f"{n:04d}" for n in range(pictures)]
    return names, activations.astype(np.float32), embeddings, vectors


def dissect(tmp_path, activations, embeddings, concepts, settings=SETTINGS, **options):
    names = PICTURES if len(activations) == 50 else [str(n) for n in range(len(activations))]
    files = write_probe(tmp_path, names, {"l": activations}, embeddings)
    return dissect_model("m", files, concepts, ["l"], settings=settings, **options)[0]


def test_neurons_are_labelled_with_what_they_fire_on(tmp_path):
    rows = dissect(tmp_path, *planted())
    assert [row["concept"] for row in rows] == WORDS
    assert [row["unit"] for row in rows] == list(range(5))
    assert sorted(row["rank"] for row in rows) == list(range(5))
    for row in rows:
        assert row["candidates"][0] == row["concept"]
        assert sorted(row["candidates"]) == sorted(WORDS)
        assert row["margin"] > 0
        assert {int(name[:2]) // 10 for name in row["top_pictures"]} == {row["unit"]}
        assert row["stable_pictures"]
        assert row["stable_concepts"]
        # Without held-out pictures and an untrained network it is not known.
        assert row["auroc"] is row["beats_untrained"] is row["stands"] is None
    best = max(rows, key=lambda row: row["similarity"])
    assert best["rank"] == 0
    write_table(rows, tmp_path / "neurons.parquet", NEURONS)
    assert read_rows(tmp_path / "neurons.parquet", NEURONS) == rows


SMALL = {
    "soft-wpmi": {"top_k": 20},
    "wpmi": {"top_k": 12},
    "rank-reorder": {"top_fraction": 0.3},
    "cosine": {},
    "cosine-cubed": {"min_norm": 1e-6},
}


@pytest.mark.parametrize("name", SIMILARITIES)
@pytest.mark.parametrize("shards", [1, 4])
def test_shards_and_chunks_give_what_the_definition_gives_in_memory(
    name, shards, tmp_path, monkeypatch
):
    monkeypatch.setattr(probe, "CHUNK", 31)
    monkeypatch.setattr(similarity, "_PICTURES", 64)
    monkeypatch.setattr(similarity, "_BLOCK", 16)
    names, activations, embeddings, vectors = random_features()
    concepts = Concepts([f"w{n}" for n in range(70)], vectors)
    files = write_probe(tmp_path, names, {"l": activations}, embeddings, shards, held_out=0.2)
    rows, _ = dissect_model("m", files, concepts, ["l"], name, SMALL[name])
    kept = files.parts(keys_of(names)) < 2
    assert 0.7 < kept.mean() < 0.9
    wanted = SIMILARITIES[name](activations[kept], embeddings[kept] @ vectors.T, **SMALL[name])
    found = np.array([row["similarity"] for row in rows])
    np.testing.assert_allclose(found, wanted.max(axis=1), rtol=1e-4, atol=1e-4)
    margin = np.diff(np.sort(wanted, axis=1)[:, -2:]).ravel()
    clear = margin > 1e-4
    assert clear.mean() > 0.8
    ranked = np.argsort(-wanted, axis=1, kind="stable")
    for row, order, values in zip(rows, ranked, wanted, strict=True):
        # Up to where two are as good as equal.
        close = np.flatnonzero(np.diff(values[order[:6]]) > -1e-4)
        certain = close[0] if len(close) else 5
        assert row["candidates"][:certain] == [f"w{n}" for n in order[:certain]]
    np.testing.assert_allclose([row["margin"] for row in rows], margin, rtol=1e-2, atol=2e-4)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_how_pictures_are_dealt_to_shards_changes_nothing(name, tmp_path, monkeypatch):
    monkeypatch.setattr(dissection, "SHUFFLES", 19)
    names, activations, embeddings, vectors = random_features()
    # Ties by the dozen: what is kept of them must not hang on the order either.
    activations = np.maximum(activations, np.float32(1.5))
    concepts = Concepts([f"w{n}" for n in range(70)], vectors)
    outcomes = []
    for shards in (1, 3):
        folder = tmp_path / str(shards)
        folder.mkdir()
        files = write_probe(folder, names, {"l": activations}, embeddings, shards, held_out=0.2)
        outcomes.append(dissect_model("m", files, concepts, ["l"], name, SMALL[name], resamples=3))
    (first, again), (second, anew) = outcomes
    for row, other in zip(first, second, strict=True):
        assert row["concept"] == other["concept"]
        assert row["top_pictures"] == other["top_pictures"]
        assert row["similarity"] == pytest.approx(other["similarity"], rel=1e-5)
        assert row["auroc"] == pytest.approx(other["auroc"])
    for row, other in zip(again, anew, strict=True):
        assert list(row["concepts"]) == list(other["concepts"])


def test_a_planted_label_stands_and_that_of_a_random_neuron_does_not(tmp_path):
    names, activations, embeddings, vectors = random_features(1000, 80)
    concepts = Concepts([f"w{n}" for n in range(70)], vectors)
    (tmp_path / "untrained").mkdir()
    rng = np.random.default_rng(9)
    noise = rng.standard_normal((1000, 80)).astype(np.float32)
    untrained = write_probe(tmp_path / "untrained", names, {"l": noise}, embeddings, 1, 0.25)
    for name in SIMILARITIES:
        files = write_probe(tmp_path, names, {"l": activations}, embeddings, 1, held_out=0.25)
        settings = {"top_k": 40} if name.endswith("wpmi") else SMALL[name]
        rows, _ = dissect_model("m", files, concepts, ["l"], name, settings, untrained=untrained)
        make_table(rows, NEURONS)
        stands = np.array([row["stands"] for row in rows])
        assert stands[:40].mean() > (0.4 if name == "rank-reorder" else 0.7), name
        assert stands[40:].mean() < 0.1, name
        for row in rows:
            assert row["stands"] == (not row["doubts"])
            assert ("chance" in row["doubts"]) == (row["q_value"] > 0.05)
            assert ("untrained" in row["doubts"]) == (not row["beats_untrained"])


def test_p_values_of_independent_neurons_are_uniform(tmp_path):
    rng = np.random.default_rng(3)
    _, _, embeddings, vectors = random_features(600, 2)
    noise = rng.standard_normal((600, 400)).astype(np.float32)
    concepts = Concepts([f"w{n}" for n in range(70)], vectors)
    files = write_probe(tmp_path, [str(n) for n in range(600)], {"l": noise}, embeddings)
    rows, _ = dissect_model("m", files, concepts, ["l"], settings={"top_k": 30})
    p = np.array([row["p_value"] for row in rows])
    # Five standard deviations of a binomial share of 400.
    for level in (0.05, 0.2, 0.5, 0.8):
        assert abs((p <= level).mean() - level) < 5 * np.sqrt(level * (1 - level) / 400)
    assert min(row["q_value"] for row in rows) > 0.01


def test_resamples_move_uncertain_labels_only(tmp_path):
    activations, embeddings, concepts = planted(400, noise=0.6)
    rng = np.random.default_rng(1)
    activations = np.hstack([activations, rng.random((400, 5), dtype=np.float32)])
    names = [str(n) for n in range(400)]
    files = write_probe(tmp_path, names, {"l": activations}, embeddings)
    neurons, rows = dissect_model("m", files, concepts, ["l"], settings={"top_k": 20}, resamples=30)
    make_table(rows, RESAMPLED)
    labels = np.array([row["concepts"] for row in rows])
    assert labels.shape == (10, 30)
    assert (labels[:5] == np.arange(5)[:, None]).all()
    assert (labels[5:] != labels[5:, :1]).any()
    assert [WORDS[row[0]] for row in labels[:5]] == [row["concept"] for row in neurons[:5]]


def test_a_resample_ranks_pictures_as_often_as_they_are_drawn():
    top = probe.TopPictures(12)
    rng = np.random.default_rng(0)
    names = [str(n) for n in range(12)]
    keys = keys_of(names)
    top.add(rng.random((12, 3), dtype=np.float32), keys, np.arange(12))
    for resample in range(20):
        ranked = dissection._resample(top, 6, resample)
        for row, pictures, own in zip(ranked, top.pictures, top.keys, strict=True):
            often = probe.draw_weights(own, resample)
            expected = np.repeat(pictures, often)[:6]
            filled = np.concatenate([expected, np.repeat(pictures[-1:], 6 - len(expected))])
            assert list(row) == list(filled)


def test_neurons_that_react_to_nothing_get_no_label_and_change_nothing(tmp_path):
    activations, embeddings, concepts = planted()
    alone = dissect(tmp_path, activations, embeddings, concepts)
    dead = np.zeros((50, 1), dtype=np.float32)
    nearly = np.full((50, 1), 7, dtype=np.float32)
    nearly[3] = np.nextafter(np.float32(7), np.float32(8))
    broken = activations[:, :1].copy()
    broken[0] = np.nan
    worse = activations[:, :1].copy()
    worse[0] = np.inf
    more = np.hstack([dead, nearly, broken, worse, activations])
    rows = dissect(tmp_path, more, embeddings, concepts)
    assert [row["status"] for row in rows[:4]] == ["constant", "constant"] + ["not-finite"] * 2
    for row in rows[:4]:
        assert row["concept"] is row["similarity"] is row["rank"] is row["stands"] is None
        assert row["top_pictures"] == []
    # And they change nothing for the others, not even by way of the prior.
    assert [{**row, "unit": row["unit"] - 4} for row in rows[4:]] == alone
    make_table(rows, NEURONS)


def test_layer_without_a_live_neuron(tmp_path):
    _, embeddings, concepts = planted()
    dead = np.zeros((50, 2), dtype=np.float32)
    files = write_probe(tmp_path, PICTURES, {"l": dead}, embeddings)
    rows, resampled = dissect_model("m", files, concepts, ["l"], settings=SETTINGS, resamples=2)
    assert [row["status"] for row in rows] == ["constant"] * 2
    assert [list(row["concepts"]) for row in resampled] == [[-1, -1]] * 2
    make_table(rows, NEURONS)


def test_undefined_similarity_gives_no_label(tmp_path):
    activations, embeddings, _ = planted()
    files = write_probe(tmp_path, PICTURES, {"l": activations}, embeddings)
    opposite = Concepts(WORDS[:1], -embeddings.mean(axis=0, keepdims=True))
    rows, _ = dissect_model("m", files, opposite, ["l"], "rank-reorder", {"top_fraction": 1})
    assert {row["status"] for row in rows} == {"undefined"}
    make_table(rows, NEURONS)


def test_ties_go_to_the_first_concept(tmp_path):
    activations, embeddings, concepts = planted()
    vectors = np.concatenate([concepts.vectors, concepts.vectors])
    for words in ([*"abcdeABCDE"], [*"ABCDEabcde"]):
        rows = dissect(tmp_path, activations, embeddings, Concepts(words, vectors))
        assert [row["concept"] for row in rows] == words[:5]


def test_one_concept_has_no_runner_up(tmp_path):
    activations, embeddings, concepts = planted()
    names = [str(n) for n in range(50)]
    files = write_probe(tmp_path, names, {"l": activations}, embeddings, held_out=0.3)
    one = Concepts(WORDS[:1], concepts.vectors[:1])
    rows, _ = dissect_model("m", files, one, ["l"], settings=SETTINGS)
    assert all(row["candidates"] == ["ball"] and row["margin"] is None for row in rows)
    make_table(rows, NEURONS)


@pytest.mark.parametrize("group_by", ["layer", None])
def test_layers_are_kept_apart(tmp_path, group_by):
    activations, embeddings, concepts = planted()
    layers = {"late": -activations, "early": activations}
    files = write_probe(tmp_path, PICTURES, layers, embeddings, shards=2, group_by=group_by)
    rows, _ = dissect_model("m", files, concepts, ["early", "late"], settings=SETTINGS)
    assert [row["layer"] for row in rows] == ["early"] * 5 + ["late"] * 5
    assert [row["concept"] for row in rows[:5]] == WORDS
    assert all(row["concept"] != WORDS[row["unit"]] for row in rows[5:])


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    activations, embeddings, concepts = planted()
    files = write_probe(tmp_path, PICTURES, {"l": activations}, embeddings)
    other = tmp_path / "other"
    other.mkdir()
    fewer = write_probe(other, PICTURES[:-1], {"l": activations}, embeddings)
    ask = {"settings": SETTINGS}
    mixed = ProbeSet(fewer.activations, files.embeddings)
    with pytest.raises(ConsilienceError, match="activations of 49 probe pictures, but there are"):
        dissect_model("m", mixed, concepts, ["l"], **ask)
    with pytest.raises(ConsilienceError, match="'middle' has activations of 0 probe pictures"):
        dissect_model("m", files, concepts, ["middle"], **ask)
    renamed = write_probe(other, ["x", *PICTURES[1:]], {"l": activations}, embeddings)
    mixed = ProbeSet(files.activations, renamed.embeddings)
    with pytest.raises(ConsilienceError, match="of other pictures than the embeddings"):
        dissect_model("m", mixed, concepts, ["l"], **ask)
    twice = ProbeSet(files.activations * 2, files.embeddings * 2)
    with pytest.raises(ConsilienceError, match="hold a probe picture twice"):
        dissect_model("m", twice, concepts, ["l"], **ask)
    longer = write_probe(other, PICTURES, {"l": activations}, 2 * embeddings)
    with pytest.raises(ConsilienceError, match="not all of unit length"):
        dissect_model("m", longer, concepts, ["l"], **ask)
    narrow = Concepts(["a"], np.ones((1, 1), dtype=np.float32))
    with pytest.raises(ConsilienceError, match="not of one CLIP"):
        dissect_model("m", files, narrow, ["l"], **ask)


def test_bad_settings_are_refused(tmp_path):
    activations, embeddings, concepts = planted()
    files = write_probe(tmp_path, PICTURES, {"l": activations}, embeddings)
    good = ("m", files, concepts, ["l"])
    with pytest.raises(ConsilienceError, match="no similarity 'soft'; it is one of soft-wpmi"):
        dissect_model(*good, similarity="soft")
    with pytest.raises(ConsilienceError, match="'cosine' has no setting 'top_k'"):
        dissect_model(*good, similarity="cosine", settings=SETTINGS)
    with pytest.raises(ConsilienceError, match="100 most activating"):
        dissect_model(*good)
    rows = [{"key": word, "values": [1.0]} for word in ("a", "a")]
    with pytest.raises(ConsilienceError, match="listed twice"):
        Concepts.from_table(make_table(rows, EMBEDDINGS))
    with pytest.raises(ConsilienceError, match="without concepts"):
        Concepts.from_table(make_table([], EMBEDDINGS))


def test_the_temperature_is_chosen_on_half_of_the_absent_words(tmp_path):
    """With a high one, the strangest pictures decide; a low one listens to all of them."""
    names, activations, embeddings, vectors = random_features(300, 60, 40)
    words = [f"w{n}" for n in range(40)]
    concepts = Concepts(words, vectors, absent=words[:20])
    files = write_probe(tmp_path, names, {"l": activations}, embeddings)
    rows = choose_temperature([("m", "l", files)], concepts, "soft-wpmi", {"top_k": 30})
    make_table(rows, TEMPERATURE)
    assert [row["a"] for row in rows] == list(dissection.TEMPERATURES)
    least = min(row["share_chosen_on"] for row in rows)
    (chosen,) = (row for row in rows if row["chosen"])
    assert chosen["a"] == max(row["a"] for row in rows if row["share_chosen_on"] == least)
    for row in rows:
        found, _ = dissect_model("m", files, concepts, ["l"], settings={"top_k": 30, "a": row["a"]})
        share = np.mean([neuron["absent"] for neuron in found])
        assert share == pytest.approx(row["share_chosen_on"] + row["share_reported"])
    with pytest.raises(ConsilienceError, match="needs concepts that are known to occur in no"):
        choose_temperature([], Concepts(words, vectors), "soft-wpmi", {})
    with pytest.raises(ConsilienceError, match="'cosine' has no temperature"):
        choose_temperature([], concepts, "cosine", {})


def test_a_label_is_stable_where_halves_of_pictures_and_of_concepts_agree(tmp_path):
    names, activations, embeddings, vectors = random_features(400, 60, 70)
    words = [f"w{n}" for n in range(70)]
    concepts = Concepts(words, vectors)
    files = write_probe(tmp_path, names, {"l": activations}, embeddings)
    rows, _ = dissect_model("m", files, concepts, ["l"], settings={"top_k": 20})
    cosines, parts = embeddings @ vectors.T, files.parts(keys_of(names))
    soft_wpmi = SIMILARITIES["soft-wpmi"]
    first, second = (
        soft_wpmi(activations[parts == half], cosines[parts == half], top_k=10).argmax(axis=1)
        for half in (0, 1)
    )
    assert [row["stable_pictures"] for row in rows] == (first == second).tolist()
    assert 0.1 < np.mean(first == second) < 0.9

    kept = []
    for half in concepts.halves():
        best = half[soft_wpmi(activations, cosines[:, half], top_k=20).argmax(axis=1)]
        kept.append([words[place] for place in best])
    stays = [
        row["concept"] in labels
        for row, labels in zip(rows, np.transpose(kept).tolist(), strict=True)
    ]
    assert [row["stable_concepts"] for row in rows] == stays
    assert not all(stays)
    assert sorted(np.concatenate(concepts.halves())) == list(range(70))


@pytest.mark.parametrize(
    ("change", "stands", "doubts"),
    [
        ({}, True, []),
        ({"q_value": 0.06}, False, ["chance"]),
        ({"beats_untrained": False}, False, ["untrained"]),
        ({"auroc_low": 0.49}, False, ["held-out"]),
        ({"runner_up_auroc": 0.9}, False, ["held-out"]),
        ({"candidates": ["a"], "runner_up_auroc": 0.9}, True, []),
        ({"beats_untrained": None}, None, []),
        ({"auroc_low": None}, None, []),
        ({"beats_untrained": None, "q_value": 0.5}, False, ["chance"]),
    ],
)
def test_a_label_stands_if_nothing_speaks_against_it(change, stands, doubts):
    row = {
        "q_value": 0.05,
        "p_value": 0.01,
        "beats_untrained": True,
        "auroc": 0.8,
        "auroc_low": 0.6,
        "runner_up_auroc": 0.7,
        "candidates": ["a", "b"],
    }
    found = dissection._judge(row | change, 0.05)
    assert found == {"stands": stands, "doubts": doubts}

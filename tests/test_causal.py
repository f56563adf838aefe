"""The causal truth of neurons: planted responses whose reasons are known, and labels against it."""

from dataclasses import replace

import numpy as np
import pytest

from consilience import causal, tables, world
from consilience.errors import ConsilienceError

OBJECTS, SCENES, COLOURS = (causal.FACTORS[name] for name in ("object", "scene", "colour"))


def experiment(respond, bases=20, seed=0):
    """Responses of neurons that are functions of (base's number, object, scene, colour)."""
    pictures = causal.sample_bases(seed, bases, [0])
    found = {}
    for factor, values in causal.FACTORS.items():
        found[factor] = np.array(
            [
                [
                    respond(place, *(getattr(swapped, name) for name in causal.FACTORS))
                    for value in values
                    for swapped in [replace(picture, **{factor: value})]
                ]
                for place, picture in enumerate(pictures.values())
            ],
            dtype=np.float64,
        )
    return found


def truth_of(*neurons, **settings):
    return causal.find_truth(experiment(lambda *shown: [of(*shown) for of in neurons]), **settings)


def test_true_concepts_are_found_and_nothing_else():
    rng = np.random.default_rng(0)
    level = rng.normal(0, 0.3, 20)
    found = truth_of(
        lambda b, o, s, c: o == "star",
        lambda b, o, s, c: (o == "star") + level[b],
        lambda b, o, s, c: s in ("grass", "sand"),
        lambda b, o, s, c: (o == "ball") or (c == "red"),
        lambda b, o, s, c: level[b],
        lambda b, o, s, c: -(s == "night"),
        lambda b, o, s, c: 7.0,
        lambda b, o, s, c: (c == "blue") + 0.2 * (o == "box"),
    )
    assert [set(row["concepts"]) for row in found] == [
        {"star"},
        {"star"},
        {"grass", "sand"},
        {"ball", "red"},
        set(),  # differs from picture to picture, but not by a factor
        set(),  # is lowered, not raised
        set(),
        {"blue"},
    ]
    assert [row["status"] for row in found].count("constant") == 1
    assert found[6]["status"] == "constant"
    tables.make_table([row | {"model": "m", "layer": "l"} for row in found], tables.CAUSAL)


def test_shares_are_those_of_the_variance():
    single, one_of_two, noisy = truth_of(
        lambda b, o, s, c: o == "star",
        lambda b, o, s, c: s in ("grass", "sand"),
        lambda b, o, s, c: (c == "red") + (b % 2),
    )
    # A factor's own grid holds each value equally often, the others as the bases have them.
    assert single["shares"] == pytest.approx([1], rel=0.35)
    assert single["object_share"] == pytest.approx(single["shares"][0], rel=0.2)
    assert single["scene_share"] == single["colour_share"] == 0
    assert one_of_two["shares"] == pytest.approx([4 / 9] * 2, rel=0.35)
    # 1/8 of red has the variance 7/64, and the picture's number 1/4.
    assert noisy["colour_share"] == pytest.approx(7 / 64 / (7 / 64 + 1 / 4), rel=0.2)


def test_a_concept_explains_enough_and_half_of_the_first():
    def weak(b, o, s, c):
        return (o == "star") + 0.5 * (o == "moon")

    assert truth_of(weak)[0]["concepts"] == ["star"]  # moon: a quarter of star's variance
    grainy = np.random.default_rng(1).normal(0, 4, 20)

    def faint(b, o, s, c):
        return (o == "star") + grainy[b]

    assert truth_of(faint)[0]["concepts"] == []
    assert truth_of(faint, least=0.001)[0]["concepts"] == ["star"]


def test_noise_has_no_concept():
    rng = np.random.default_rng(2)
    noise = {
        factor: rng.normal(size=(60, len(values), 300)) for factor, values in causal.FACTORS.items()
    }
    found = causal.find_truth(noise)
    assert sum(bool(row["concepts"]) for row in found) <= 3
    # What bases alone would give is taken away: without that, a share of 1/60 of each factor.
    assert np.mean([row["object_share"] for row in found]) < 0.01


def test_what_is_not_finite_has_no_truth():
    found = experiment(lambda b, o, s, c: [o == "star", 1.0])
    found["scene"][3, 2, 0] = np.nan
    one, other = causal.find_truth(found)
    assert (one["status"], one["concepts"]) == ("not-finite", [])
    assert other["status"] == "constant"


def test_one_base_is_no_experiment():
    with pytest.raises(ConsilienceError, match="two base pictures at least"):
        causal.find_truth(experiment(lambda b, o, s, c: [0.0], bases=1))


def test_swaps_change_one_factor_and_nothing_else():
    ((_, picture),) = causal.sample_bases(0, 1, [2]).items()
    swaps = causal.swap_factors(picture)
    assert len(swaps) == len(causal.WORDS)
    for (factor, value), changed in swaps.items():
        assert getattr(changed, factor) == value
        assert replace(changed, **{factor: getattr(picture, factor)}) == picture
    found = list(causal.render_swaps({"a": picture}, 64))
    assert len(found) == len(swaps) - 2  # the picture itself is three of them, and rendered once
    assert sorted(key for _, keys, _ in found for key in keys) == sorted(swaps)


def test_responses_are_those_to_the_pictures():
    bases = causal.sample_bases(0, 2, [0])

    def record(pictures):
        for name, picture in pictures:
            yield {
                "picture": name,
                "layer": "l",
                "values": np.float32([np.asarray(picture).mean()]),
            }

    rows = list(causal.measure_responses(bases, 64, record))
    tables.make_table(rows, tables.RESPONSES)
    stacked = causal.stack_responses(reversed(rows))["l"]
    for place, (_, picture) in enumerate(bases.items()):
        for number, scene in enumerate(SCENES):
            expected = world.render(replace(picture, scene=scene), 64).image.mean()
            assert stacked["scene"][place, number, 0] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ConsilienceError, match=r"no response to causal-0000. with the"):
        causal.stack_responses(rows[:-1])


def test_the_experiment_finds_what_was_planted():
    rows = causal.find_planted_truth(causal.sample_bases(0, 40, [0, 1, 2]), 0)
    for kind, least in (("single", 0.95), ("or", 0.95)):
        mine = [row for row in rows if row["planted"] == kind]
        assert len(mine) == 2 * len(causal.WORDS)
        right = [set(row["concepts"]) == set(row["planted_concepts"]) for row in mine]
        assert np.mean(right) >= least
    randoms = [row for row in rows if row["planted"] == "random"]
    assert np.mean([bool(row["concepts"]) for row in randoms]) <= 0.05


def test_planted_neurons_stand_beside_the_layers_own():
    pictures = [
        {"name": "a", "object": "star", "scene": "sand", "colour": "red"},
        {"name": "b", "object": "ball", "scene": "sky", "colour": "red"},
    ]
    rows = [
        {"picture": name, "layer": layer, "values": [1.5, 2.5]}
        for name in "ab"
        for layer in ("one", "two")
    ]
    found = list(causal.add_planted(rows, pictures, ["two"], 0))
    assert [(row["picture"], row["layer"]) for row in found] == [("a", "two"), ("b", "two")]
    neurons = causal.plan_neurons(0)
    for row, shown in zip(found, pictures, strict=True):
        assert row["values"][:2].tolist() == [1.5, 2.5]
        expected = [bool({*shown.values()} & {*neuron.concepts}) for neuron in neurons]
        assert np.abs(row["values"][2:] - expected).mean() < 2 * causal.NOISE
    tables.make_table(found, tables.ACTIVATIONS)
    with pytest.raises(ConsilienceError, match="'a': what it shows is not known"):
        list(causal.add_planted(rows, pictures[1:], ["two"], 0))


def label(unit, concept, stands=True, **about):
    row = {"model": "m", "layer": "l", "unit": unit, "status": "ok", "concept": concept}
    return row | {"stands": stands} | about


def truth(unit, *concepts, **about):
    row = {"model": "m", "layer": "l", "unit": unit, "status": "ok", "concepts": list(concepts)}
    return row | {"planted": None, "planted_concepts": None} | about


def test_labels_are_counted_against_the_truth():
    known = [
        truth(0, "star"),
        truth(1, "red", "blue"),
        truth(2),
        truth(3, "sand"),
        truth(4, "sky", status="constant"),
    ]
    labels = [
        label(0, "star"),
        label(1, "blue", stands=False),
        label(2, "box", stands=False),
        label(3, "box"),
        label(4, "sky"),
    ]
    rows = causal.judge_labels(labels, known, "soft-wpmi")
    tables.make_table(rows, tables.DISSECTION_TRUTH)
    every, standing = rows
    assert (every["labels"], standing["labels"]) == ("all", "stands")
    assert (every["neurons"], every["with_truth"]) == (4, 3)
    assert (every["precision"], every["recall"]) == (2 / 4, 2 / 3)
    assert every["false_labels"] == 1
    assert (standing["counted"], standing["precision"]) == (2, 1 / 2)
    assert standing["recall"] == pytest.approx(1 / 3)
    assert standing["false_labels"] == 0
    # Labels star, blue, box, box dealt out anew: star and blue are each right for one of four.
    assert every["chance"] == pytest.approx(2 / 16)
    assert every["precision_low"] < 0.5 < every["precision_high"]


def test_planted_neurons_are_held_against_what_was_planted():
    known = [
        truth(0, "star"),
        truth(0, "moon", layer="planted", planted="single", planted_concepts=["ball"]),
        truth(1, layer="planted", planted="random", planted_concepts=[]),
    ]
    labels = [label(0, "star"), label(1, "ball"), label(2, "box", stands=False)]
    rows = {
        (row["group"], row["labels"]): row
        for row in causal.judge_labels(labels, known, "cosine", planted=True)
    }
    assert rows["single", "all"]["recall"] == 1
    assert rows["random", "all"]["false_labels"] == 1
    assert rows["random", "stands"]["false_labels"] == 0
    assert rows["random", "stands"]["precision"] is None
    (own, _) = causal.judge_labels(labels, known, "cosine")
    assert (own["group"], own["neurons"]) == ("neurons", 1)


def test_a_label_without_truth_is_an_error():
    with pytest.raises(ConsilienceError, match="m, layer 'l', unit 1: is labelled"):
        causal.judge_labels([label(0, "star"), label(1, "sky")], [truth(0, "star")], "x", True)

"""Floors and ceilings of agreement."""

from itertools import combinations

import cv2
import numpy as np
import pytest
from scipy.stats import spearmanr
from skimage.color import rgb2gray
from skimage.filters import sobel

from consilience.agreement import FLOORS, METRICS, average_over, compare_explanations
from consilience.controls import (
    Batch,
    find_edges,
    layer_grid,
    make_centre,
    make_rng,
    order_noise,
)
from consilience.errors import ConsilienceError
from consilience.measures import Heatmap, Superpixels, UndefinedError
from consilience.tables import AGREEMENT, make_table

SIDE = 48
# 24 superpixels of unequal areas.
ROWS, COLUMNS = (
    np.repeat(range(len(sides)), sides) for sides in ([5, 9, 6, 11, 6, 11], [7, 13, 20, 8])
)
SEGMENTS = np.add.outer(4 * ROWS, COLUMNS)
CONTROLS = (*FLOORS, "ceiling")
# A comparison of the earth mover's distance takes milliseconds.
QUICK = {"metrics": tuple(name for name in METRICS if name != "emd"), "draws": 3}


def make_cam(seed, grid=(6, 6), bias=0.0):
    """Return a CAM as the library makes it: rectified, upsampled, in [0, 1]."""
    layer = np.random.default_rng(seed).standard_normal(grid, dtype=np.float32) + np.float32(bias)
    rectified = np.maximum(layer, 0)
    return Heatmap(cv2.resize(rectified / rectified.max(), (SIDE, SIDE)), layer)


def make_lime(seed):
    return Superpixels(SEGMENTS, np.random.default_rng(seed).normal(size=24))


def make_view(seed):
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def make_maps(seed):
    return {"grad-cam": make_cam(seed), "lime": make_lime(seed), "score-cam": make_cam(seed + 50)}


def make_batch(count=5, settings=None, seed=3, bases=None):
    explanations = {(f"p{number}", 0): make_maps(number) for number in range(count)}
    bases = bases or {}
    pictures = [{"name": f"p{n}", "base": bases.get(f"p{n}")} for n in range(count)]
    return Batch(explanations, pictures, settings or QUICK, seed)


def find(rows, control, metric="spearman", pair=("grad-cam", "lime")):
    (row,) = [
        row
        for row in rows
        if (row["method_a"], row["method_b"], row["metric"], row["control"])
        == (*pair, metric, control)
    ]
    return row


def test_rows_are_those_of_the_table_each_with_its_controls():
    batch = make_batch()
    rows = batch.compare("p0", 0, make_view(0), [make_lime(7).weights])
    plain = compare_explanations(make_maps(0), QUICK)
    assert rows[:: len(CONTROLS) + 1] == plain
    assert [row["control"] for row in rows] == [None, *CONTROLS] * len(plain)
    about = {"model": "m", "picture": "p0", "target_index": 0, "target_class": "c"}
    make_table([about | row for row in rows], AGREEMENT)
    for row in rows:
        assert (row["value"] is None) == (row["reason"] is not None)


def mean_both_ways(maps, pair, metric, stand_ins):
    """Return a floor from one comparison of explanations a stand-in."""
    means = []
    for replaced in pair:
        values = []
        for other in stand_ins[replaced]:
            (row,) = [
                row
                for row in compare_explanations(maps | {replaced: other}, {"metrics": [metric]})
                if (row["method_a"], row["method_b"]) == pair
            ]
            values.append(row["value"])
        means.append(np.mean(values))
    return np.mean(means)


@pytest.mark.parametrize("metric", ["spearman", "iou", "pearson", "ssim", "soft-iou", "emd"])
def test_random_maps_are_the_maps_own_values_in_the_order_of_noise(metric):
    rows = make_batch(3, {"metrics": [metric], "draws": 3}).compare("p2", 0, make_view(2))
    maps, orders, limes = make_maps(2), [], []
    rng = make_rng(3, "p2", 0, 6, 6)
    for _ in range(3):
        noise = cv2.resize(rng.standard_normal((6, 6), dtype=np.float32), (SIDE, SIDE)).ravel()
        orders.append(np.argsort(noise, kind="stable"))
    rng = make_rng(3, "p2", 0, "lime")
    for _ in range(3):
        limes.append(Superpixels(SEGMENTS, rng.permutation(maps["lime"].weights)))

    def put(values, order):
        moved = np.empty_like(values).ravel()
        moved[order] = np.sort(values, axis=None)
        return moved.reshape(values.shape)

    stand_ins = {
        name: [put(maps[name].values, order) for order in orders]
        for name in ("grad-cam", "score-cam")
    } | {"lime": limes}
    for pair in combinations(sorted(maps), 2):
        expected = mean_both_ways(maps, pair, metric, stand_ins)
        # Noise is told apart to a 65,535th.
        assert find(rows, "random-smooth", metric, pair)["value"] == pytest.approx(
            expected, abs=1e-3
        )


@pytest.mark.parametrize("metric", [name for name in METRICS if METRICS[name].over != "pixels"])
def test_random_maps_over_superpixels(metric):
    rows = make_batch().compare("p2", 0, make_view(2))
    maps = make_maps(2)
    rng, dealer = make_rng(3, "p2", 0, 6, 6), make_rng(3, "p2", 0, "lime")
    orders = [order_noise((SIDE, SIDE), (6, 6), rng) for _ in range(3)]
    cams = []
    for order in orders:
        values, signed = np.empty((2, SIDE * SIDE), np.float32)
        values[order] = np.sort(maps["grad-cam"].values, axis=None)
        signed[order] = np.sort(maps["grad-cam"].signed, axis=None)
        # As large as the picture, so that nothing is upsampled.
        cams.append(Heatmap(values.reshape(SIDE, SIDE), signed.reshape(SIDE, SIDE)))
    limes = [Superpixels(SEGMENTS, dealer.permutation(maps["lime"].weights)) for _ in range(3)]
    found = []
    for cam, lime in zip(cams, limes, strict=True):
        # Another LIME is summed over the superpixels of the first by name.
        for a, b in (({"a": maps["lime"]}, {"b": cam}), ({"a": lime}, {"b": maps["grad-cam"]})):
            found.append(compare_explanations(a | b, {"metrics": [metric]})[0]["value"])
    assert find(rows, "random-smooth", metric)["value"] == pytest.approx(np.mean(found))


def test_the_other_floors_are_the_mean_over_their_stand_ins():
    view, maps, batch = make_view(1), make_maps(1), make_batch(4)
    rows = batch.compare("p1", 0, view)
    edges = sobel(rgb2gray(view))
    coarse = average_over(edges, (6, 6))
    blocks = [
        [edges[y : y + 8, x : x + 8].mean() for x in range(0, 48, 8)] for y in range(0, 48, 8)
    ]
    np.testing.assert_allclose(coarse, blocks)
    upsampled = cv2.resize(np.float32(coarse), (SIDE, SIDE))
    by_superpixel = np.array([edges[index == SEGMENTS].mean() for index in range(24)])
    places = (np.arange(SIDE) + 0.5 - SIDE / 2) / (SIDE / 4)
    gaussian = make_centre(SIDE, SIDE)
    np.testing.assert_allclose(gaussian, np.exp(-(places[:, None] ** 2 + places**2) / 2))
    np.testing.assert_array_equal(gaussian, gaussian[::-1])
    np.testing.assert_array_equal(gaussian, gaussian.T)
    stand_ins = {
        "other-picture": {name: [make_maps(n)[name] for n in (0, 2, 3)] for name in maps},
        "centre": {name: [gaussian] for name in maps},
        "edges": {
            "grad-cam": [upsampled],
            "lime": [by_superpixel[SEGMENTS]],
            "score-cam": [upsampled],
        },
    }
    for control, by_method in stand_ins.items():
        for metric in ("spearman", "iou", "ssim"):
            for pair in combinations(sorted(maps), 2):
                # Plain maps: another picture's superpixels are not this one's.
                plain = {
                    name: [np.asarray(each) if isinstance(each, Heatmap) else each for each in of]
                    for name, of in by_method.items()
                }
                expected = mean_both_ways(maps, pair, metric, plain)
                found = find(rows, control, metric, pair)["value"]
                assert found == pytest.approx(expected, abs=1e-9)


def test_over_superpixels_stand_ins_are_summed_over_this_pictures_own():
    batch = make_batch(2)
    # Other superpixels than those of p0.
    other = Superpixels(SEGMENTS.T.copy(), np.random.default_rng(5).normal(size=24))
    batch.first["p1"] = batch.first["p1"] | {"lime": other}
    rows = batch.compare("p0", 0, make_view(0))
    maps = make_maps(0)
    sums = {
        "cam": np.bincount(SEGMENTS.ravel(), maps["grad-cam"].values.ravel()),
        "other cam": np.bincount(SEGMENTS.ravel(), make_maps(1)["grad-cam"].values.ravel()),
        "other lime": np.bincount(
            SEGMENTS.ravel(), (other.weights / other.areas)[other.segment_map].ravel()
        ),
    }
    expected = [
        spearmanr(sums["cam"], sums["other lime"]).statistic,
        spearmanr(sums["other cam"], maps["lime"].weights).statistic,
    ]
    found = find(rows, "other-picture", "superpixel-spearman")["value"]
    assert found == pytest.approx(np.mean(expected))


def test_a_map_near_the_centre_or_at_edges_has_its_floor_there():
    view = np.zeros((SIDE, SIDE, 3), np.uint8)
    view[:12, 30:] = 255
    coarse = cv2.resize(np.float32(find_edges(view)), (6, 6), interpolation=cv2.INTER_AREA)
    middle = cv2.resize(np.float32(make_centre(SIDE, SIDE)), (6, 6), interpolation=cv2.INTER_AREA)

    def cam(layer):
        return Heatmap(cv2.resize(layer / layer.max(), (SIDE, SIDE)), layer)

    for layer, high, low in ((middle, "centre", "edges"), (coarse, "edges", "centre")):
        maps = {"a": cam(layer), "b": cam(layer * layer)}
        batch = Batch({("p", 0): maps}, [{"name": "p", "base": None}], {"draws": 20})
        rows = batch.compare("p", 0, view)
        for metric, least in (("spearman", 0.9), ("iou", 0.6)):
            found = {c: find(rows, c, metric, ("a", "b"))["value"] for c in (high, low)}
            assert found[high] > least
            assert found[low] < found[high] - 0.3
        # Random maps know neither.
        assert abs(find(rows, "random-smooth", "spearman", ("a", "b"))["value"]) < 0.25


def test_noise_is_as_smooth_as_its_grid():
    rng = np.random.default_rng(0)
    shape = (96, 80)

    def roughness(grid):
        values = np.empty(96 * 80)
        values[order_noise(shape, grid, rng)] = np.linspace(0, 1, 96 * 80)
        return np.abs(np.diff(values.reshape(shape), axis=1)).mean()

    found = [np.mean([roughness(grid) for _ in range(10)]) for grid in ((3, 3), (6, 5), (24, 20))]
    assert found[0] < 0.7 * found[1] < 0.4 * found[2]
    # White noise, by comparison, differs by a third on average.
    assert found[1] < 0.05
    order = order_noise(shape, (6, 5), rng)
    assert sorted(order) == list(range(96 * 80))


def test_noise_of_one_place_has_no_order():
    with pytest.raises(UndefinedError, match="one place"):
        order_noise((8, 8), (1, 1), np.random.default_rng(0))
    maps = {"a": Heatmap(make_cam(0).values, np.float32([[1]])), "b": make_cam(1)}
    batch = Batch({("p", 0): maps}, [{"name": "p", "base": None}])
    rows = batch.compare("p", 0, make_view(0))
    reason = "for a: a layer of one place has no order"
    assert find(rows, "random-smooth", pair=("a", "b"))["reason"] == reason
    # Nor have edges at that resolution.
    assert find(rows, "edges", pair=("a", "b"))["reason"] == reason
    assert find(rows, "centre", pair=("a", "b"))["value"] is not None


def test_the_grid_of_a_map_is_its_layers():
    assert layer_grid(make_cam(0, (5, 7))) == (5, 7)
    # Of several layers nothing is known.
    assert layer_grid(Heatmap(np.zeros((224, 225), np.float32))) == (7, 8)
    assert layer_grid(np.zeros((96, 64))) == (3, 2)


def test_random_maps_depend_on_the_seed_the_picture_and_the_target_alone():
    value = {}
    for name, batch in {
        "five": make_batch(5),
        "three": make_batch(3),
        "seed": make_batch(5, seed=4),
    }.items():
        rows = batch.compare("p1", 0, make_view(1))
        value[name] = [
            row["value"] for row in rows if row["control"] in ("random-smooth", "centre", "edges")
        ]
        again = batch.compare("p1", 0, make_view(1))
        assert rows == again
    assert value["five"] == value["three"]
    assert value["five"] != value["seed"]
    draws = [make_rng(0, *names).random() for names in (("p", 0), ("p", 1), ("q", 0), ("p0", ""))]
    draws += [make_rng(1, "p", 0).random()]
    assert len(set(draws)) == 5


def test_others_are_of_other_bases_and_at_most_so_many():
    bases = {"p0": "x", "p1": "x", "p2": "y", "p3": "y", "p4": None, "p5": "x"}
    batch = make_batch(6, bases=bases)
    own = {id(batch.first[name]["lime"]): name for name in bases}

    def others(picture, batch=batch):
        found = batch.choose_others(picture, "lime", (SIDE, SIDE))
        return [own[id(explanation)] for explanation in found]

    assert sorted(others("p0")) == ["p2", "p3", "p4"]
    assert sorted(others("p4")) != sorted(set(bases) - {"p4"})
    assert len(others("p4")) == 3  # as many as draws
    assert "p3" not in others("p2")
    # Each picture has an order of its own, and so has each seed.
    orders = {}
    for seed in range(6):
        batch.seed, batch._last = seed, (None, [])
        orders[seed] = tuple(others("p0"))
        assert orders[seed] == tuple(others("p0"))
    assert len(set(orders.values())) > 2


def test_others_of_another_size_or_order_are_left_out():
    batch = make_batch(3)
    batch.first["p1"] = {"grad-cam": np.ones((SIDE, 7)) * np.arange(7), "lime": make_lime(9)}
    batch.first["p2"] = batch.first["p2"] | {"grad-cam": Heatmap(np.zeros((SIDE, SIDE)))}
    rows = batch.compare("p0", 0, make_view(0))
    # p1's is too small, p2's orders nothing.
    reason = "for grad-cam: constant map"
    assert find(rows, "other-picture")["reason"] == reason
    batch.first["p2"] = batch.first["p1"]
    rows = batch.compare("p0", 0, make_view(0))
    reason = "for grad-cam: no other picture of this size in the batch"
    assert find(rows, "other-picture")["reason"] == reason
    assert find(rows, "centre")["value"] is not None


def test_one_that_orders_nothing_is_left_out_of_the_mean():
    alone, batch = make_batch(2), make_batch(3)
    batch.first["p2"] = {
        name: Heatmap(np.zeros((SIDE, SIDE), np.float32)) for name in batch.first["p2"]
    }
    expected, found = (
        find(each.compare("p0", 0, make_view(0)), "other-picture") for each in (alone, batch)
    )
    assert found["value"] == expected["value"]


def test_of_several_targets_the_first_stands_in():
    explanations = {("p0", 0): make_maps(0), ("p1", 4): make_maps(1), ("p1", 2): make_maps(2)}
    pictures = [{"name": name, "base": None} for name in ("p0", "p1")]
    rows = Batch(explanations, pictures, QUICK, 3).compare("p0", 0, make_view(0))
    expected = make_batch(2).compare("p0", 0, make_view(0))
    assert find(rows, "other-picture") == find(expected, "other-picture")
    # Two targets of a picture have noise of their own.
    batch = Batch({("p", 0): make_maps(0), ("p", 1): make_maps(0)}, [{"name": "p", "base": None}])
    values = [find(batch.compare("p", n, make_view(0)), "random-smooth")["value"] for n in (0, 1)]
    assert values[0] != values[1]


def reliabilities(metric, repeats, maps=None):
    maps = maps or make_maps(0)
    batch = Batch({("p", 0): maps}, [{"name": "p", "base": None}], {"metrics": [metric]})
    rows = batch.compare("p", 0, make_view(0), repeats)
    pairs = combinations(sorted(maps), 2)
    return {pair: find(rows, "ceiling", metric, pair) for pair in pairs}


@pytest.mark.parametrize("metric", METRICS)
def test_the_ceiling_by_its_definition(metric):
    maps, repeats = (
        make_maps(0),
        [make_lime(0).weights * 1.01 + 0.3 * make_lime(s).weights for s in (8, 9)],
    )
    found = reliabilities(metric, repeats)
    distance = not METRICS[metric].higher_agrees

    def agree(a, b, superpixels):
        (row,) = [
            row
            for row in compare_explanations(
                {"a": a, "b": b, "z": superpixels}, {"metrics": [metric]}
            )
            if row["method_b"] == "b"
        ]
        return 1 - row["value"] if distance else row["value"]

    # Over superpixels the weights themselves are compared: the same superpixels.
    runs = [maps["lime"], *(maps["lime"].reweigh(weights) for weights in repeats)]
    lime = np.mean([agree(a, b, maps["lime"]) for a, b in combinations(runs, 2)])
    assert 0 < lime < 1
    for cam in ("grad-cam", "score-cam"):
        own = 1.0
        if METRICS[metric].over == "pixels":
            values = maps[cam].values
            means = np.array([values[index == SEGMENTS].mean() for index in range(24)])
            own = agree(np.float64(values), means[SEGMENTS], maps["lime"])
            assert 0 < own < 1
        row = found[tuple(sorted((cam, "lime")))]
        expected = np.sqrt(lime * own)
        assert row["value"] == pytest.approx(1 - expected if distance else expected, abs=1e-5)
    # Two CAMs are deterministic.
    assert found["grad-cam", "score-cam"]["value"] == (0 if distance else 1)


def test_a_ceiling_that_is_missing_has_its_reason():
    found = reliabilities("spearman", [])
    assert found["grad-cam", "lime"]["reason"] == "LIME was not repeated"
    assert found["grad-cam", "score-cam"]["value"] == 1
    weights = make_lime(0).weights
    found = reliabilities("spearman", [-weights])
    assert found["grad-cam", "lime"]["reason"] == "lime: its reliability is negative"
    found = reliabilities("spearman", [weights, np.zeros(24)])
    assert found["grad-cam", "lime"]["reason"] == "a repeat of LIME: constant weights"
    # A map that differs within superpixels only.
    lime, noise = make_lime(0), np.random.default_rng(0).random((SIDE, SIDE))
    within = noise - (lime.sum_over(noise.ravel()) / lime.areas)[SEGMENTS]
    found = reliabilities("spearman", [weights], {"a": within, "lime": lime})
    assert found["a", "lime"]["reason"] == "a over LIME's superpixels: constant map"
    # LIME that never varies leaves what the superpixels cannot show.
    found = reliabilities("superpixel-spearman", [weights, weights])
    assert found["grad-cam", "lime"]["value"] == pytest.approx(1)


def test_controls_of_an_undefined_value_are_undefined_for_the_same_reason():
    maps = make_maps(0) | {"grad-cam": Heatmap(np.zeros((SIDE, SIDE), np.float32))}
    batch = Batch({("p", 0): maps}, [{"name": "p", "base": None}], QUICK)
    rows = batch.compare("p", 0, make_view(0), [make_lime(3).weights])
    for control in (None, *CONTROLS):
        assert find(rows, control)["value"] is None
        assert find(rows, control)["reason"] == "grad-cam: constant map"
    assert find(rows, "centre", pair=("lime", "score-cam"))["value"] is not None


def test_stand_ins_without_signs_have_a_reason():
    rows = make_batch(3).compare("p0", 0, make_view(0))
    for control in ("centre", "edges"):
        reason = find(rows, control, "sign-agreement")["reason"]
        assert reason == "for lime: no map that is not rectified"
    for control in ("random-smooth", "other-picture"):
        assert find(rows, control, "sign-agreement")["value"] is not None


def test_a_flat_picture_has_no_edges():
    rows = make_batch(2).compare("p0", 0, np.full((SIDE, SIDE, 3), 9, np.uint8))
    assert find(rows, "edges")["reason"] == "for lime: constant map"


def test_fewer_than_two_explanations_make_no_rows():
    for maps in ({}, {"lime": make_lime(0)}):
        assert (
            Batch({("p", 0): maps}, [{"name": "p", "base": "b"}]).compare("p", 0, make_view(0))
            == []
        )


def test_bad_input():
    with pytest.raises(ConsilienceError, match="'p0' is explained but is not among"):
        Batch({("p0", 0): make_maps(0)}, [{"name": "q", "base": None}])
    with pytest.raises(ConsilienceError, match="draws: 0; a floor"):
        make_batch(1, {"draws": 0})
    with pytest.raises(ConsilienceError, match="'rho' is not known"):
        make_batch(1, {"metrics": ["rho"]})
    with pytest.raises(ConsilienceError, match="do not fit a view"):
        make_batch(1).compare("p0", 0, np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(ConsilienceError, match="do not fit 24 superpixels"):
        make_batch(1).compare("p0", 0, make_view(0), [np.ones(3)])

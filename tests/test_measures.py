"""Explanations as vectors, top regions, summaries."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import bootstrap, rankdata

from consilience.errors import ConsilienceError
from consilience.measures import (
    Superpixels,
    UndefinedError,
    bootstrap_mean,
    collect_explanations,
    keep_first,
    pixel_values,
    rank_values,
    shape_of,
    soft_iou,
    summarise_rows,
    top_region,
)

# Few values, so that ties are common.
tied = arrays(np.float64, st.integers(2, 40), elements=st.integers(-3, 3).map(float))


@given(tied)
def test_ranks_are_those_of_scipy(values):
    np.testing.assert_array_equal(rank_values(values), rankdata(values))


def test_top_region_without_ties_is_the_highest_values():
    np.testing.assert_array_equal(top_region(np.array([3.0, 1, 4, 2]), 2), [1, 0, 1, 0])


def test_top_region_shares_what_is_left_among_the_tied():
    # One place lies above; the other 1.5 are shared by the three that are tied.
    np.testing.assert_array_equal(
        top_region(np.array([5.0, 2, 2, 0, 2]), 2.5), [1, 0.5, 0.5, 0, 0.5]
    )


@given(tied, st.floats(0.01, 1), st.randoms(use_true_random=False))
def test_top_region_has_its_size_and_knows_no_order(values, fraction, random):
    size = fraction * len(values)
    region = top_region(values, size)
    assert region.sum() == pytest.approx(size)
    assert region.min() >= 0
    assert region.max() <= 1 + 1e-12
    order = random.sample(range(len(values)), len(values))
    np.testing.assert_array_equal(top_region(values[order], size), region[order])
    # Equal values belong equally, higher ones at least as much.
    for value in np.unique(values):
        assert np.ptp(region[values == value]) == 0
        assert region[values > value].min(initial=1) >= region[values == value].max()


def test_soft_iou_is_minima_over_maxima():
    assert soft_iou(np.array([1, 0.5, 0]), np.array([0.5, 0.5, 1])) == 1 / 2.5


def test_pixels_share_the_weight_of_their_superpixel():
    lime = Superpixels(np.array([[0, 0, 0], [1, 1, 2]]), [0.6, -0.4, 0.1])
    np.testing.assert_allclose(pixel_values(lime), [0.2, 0.2, 0.2, -0.2, -0.2, 0.1])


@pytest.mark.parametrize(
    ("explanation", "reason"),
    [
        (np.zeros((3, 3), np.float32), "constant map"),
        (np.full((3, 3), 0.7, np.float32), "constant map"),
        (np.array([[0, np.nan]]), "not finite"),
        (np.array([[0, np.inf]]), "not finite"),
        (Superpixels(np.zeros((3, 3), int), [0.4]), "one superpixel"),
        # Not constant per area.
        (Superpixels(np.array([[0, 0, 1]]), [0.4, 0.4]), "constant weights"),
        (Superpixels(np.array([[0, 0, 1]]), [1e-17, -1e-17]), "constant weights"),
        (Superpixels(np.array([[0, 0, 1]]), [0.4, np.nan]), "weights with values that are not"),
    ],
)
def test_a_degenerate_explanation_is_undefined_with_its_reason(explanation, reason):
    with pytest.raises(UndefinedError, match=reason):
        pixel_values(explanation)


@pytest.mark.parametrize(
    ("segments", "weights"),
    [
        ([[0, 1]], [0.1]),
        ([[0, 1]], [0.1, 0.2, 0.3]),
        ([[0, 2]], [0.1, 0.2, 0.3]),
        ([[1, 2]], [0.1, 0.2]),
        ([[-1, 0]], [0.1, 0.2]),
        ([[0.0, 1.0]], [0.1, 0.2]),
        ([0, 1], [0.1, 0.2]),
        (np.zeros((0, 3), int), []),
    ],
)
def test_superpixels_and_weights_must_belong_together(segments, weights):
    with pytest.raises(ConsilienceError):
        Superpixels(np.array(segments), weights)


def test_bootstrap_is_that_of_scipy_and_repeats_itself():
    values = np.random.default_rng(0).normal(size=30)
    interval = bootstrap_mean(values, 20_000, seed=1)
    assert interval == bootstrap_mean(values, 20_000, seed=1)
    assert interval != bootstrap_mean(values, 20_000, seed=2)
    peer = bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=2
    ).confidence_interval
    assert interval == pytest.approx((peer.low, peer.high), abs=0.01)


def test_bootstrap_of_too_few_values():
    assert bootstrap_mean([], 100, seed=0) == (None, None)
    assert bootstrap_mean([0.5], 100, seed=0) == (None, None)
    assert bootstrap_mean([0.5, 0.5], 100, seed=0) == (0.5, 0.5)


PICTURES = [
    {"name": "a", "clutter": 0},
    {"name": "b", "clutter": 0},
    {"name": "c", "clutter": 0},
    {"name": "d", "clutter": 2},
    {"name": "photo", "clutter": None},
]


def row(picture, value, key="x", chance=0.5):
    return {"picture": picture, "key": key, "value": value, "chance": chance}


def test_summary_by_hand():
    rows = [row("a", 0.1), row("b", 0.8, chance=0.1), row("c", None, chance=9), row("d", None)]
    rows += [row("photo", 0.3), row("a", 1.0, key="w")]
    summary = summarise_rows(rows, PICTURES, ["key"], resamples=500, seed=3)
    assert [(group["key"], group["clutter"]) for group in summary] == [
        ("w", 0),
        ("x", 0),
        ("x", 2),
        ("x", None),
    ]
    _, low_clutter, all_missing, photograph = summary
    assert low_clutter["n"] == 2
    assert low_clutter["missing"] == 1
    assert low_clutter["mean"] == low_clutter["median"] == pytest.approx(0.45)
    assert low_clutter["chance"] == pytest.approx(0.3)
    # Of two values, resampled means are one, the middle or the other.
    assert (low_clutter["low"], low_clutter["high"]) == (0.1, 0.8)
    nothing = dict.fromkeys(["mean", "median", "low", "high", "chance"])
    assert all_missing == {"key": "x", "clutter": 2, "n": 0, "missing": 1} | nothing
    assert photograph["mean"] == 0.3
    assert photograph["low"] is None


def test_summary_knows_no_order_of_rows_and_no_other_groups():
    values = np.random.default_rng(0).random(20)
    rows = [row(f"p{index:02}", value) for index, value in enumerate(values)]
    pictures = [{"name": row["picture"], "clutter": 1} for row in rows] + PICTURES
    summary = summarise_rows(rows, pictures, ["key"], 200, 0)
    others = [row("d", 0.2), row("p03", 0.9, key="other")]
    assert summary[0] in summarise_rows(others + rows[::-1], pictures[::-1], ["key"], 200, 0)


def test_summary_of_an_unknown_picture():
    with pytest.raises(ConsilienceError, match="'z' is scored but is not in the study"):
        summarise_rows([row("z", 0.1)], PICTURES, ["key"], 100, 0)


def test_summary_of_nothing():
    assert summarise_rows([], PICTURES, ["key"], 100, 0) == []


def test_explanations_are_collected_by_picture_and_method():
    heatmap = {
        "picture": "a",
        "target_index": 7,
        "method": "grad-cam",
        "layer": "layer4",
        "layer_height": 1,
        "layer_width": 2,
        "layer_map": [-2, 3],
        "height": 1,
        "width": 4,
        "heatmap": [0, 0, 0.5, 1],
    }
    lime = {"picture": "a", "target_index": 7, "height": 1, "width": 4}
    lime |= {"segment_map": [0, 1, 1, 1], "weights": [0.5, -1]}
    second = {"target_index": 2}
    found = collect_explanations(
        [heatmap, heatmap | second | {"heatmap": [1, 1, 0, 0], "layer": "layer3, layer4"}],
        [lime, lime | second | {"segment_map": [0, 0, 0, 1]}],
    )
    assert list(found) == [("a", 7), ("a", 2)]
    assert [list(maps) for maps in found.values()] == [["grad-cam", "lime"]] * 2
    cam = found["a", 7]["grad-cam"]
    np.testing.assert_array_equal(cam, [[0, 0, 0.5, 1]])
    assert np.asarray(cam).dtype == np.float32
    # The layer's map, upsampled as OpenCV does it: the middles of cells are the layer's values.
    np.testing.assert_allclose(cam.signed, [[-2, -0.75, 1.75, 3]])
    np.testing.assert_array_equal(found["a", 7]["lime"].sum_over(np.ones(4)), [1, 3])
    np.testing.assert_array_equal(found["a", 2]["lime"].sum_over(np.ones(4)), [3, 1])
    # Several layers, whose units differ, have no map that is not rectified.
    assert found["a", 2]["grad-cam"].layer_map is None
    assert found["a", 2]["grad-cam"].signed is None
    assert shape_of(found["a", 2]["grad-cam"]) == (1, 4)


def test_the_target_that_comes_first_is_kept_by_picture():
    rows = [
        {"model": model, "picture": picture, "target_index": target, "value": value}
        for model, picture, target, value in [
            ("m", "a", 5, 0),
            ("m", "a", 5, 1),
            ("m", "a", 2, 2),
            ("m", "b", 2, 3),
            ("n", "a", 2, 4),
            ("n", "a", 5, 5),
        ]
    ]
    kept = keep_first(rows, "model", "picture")
    assert [row["value"] for row in kept] == [0, 1, 3, 4]
    assert [row["value"] for row in keep_first(rows, "picture")] == [0, 1, 3, 5]


def test_superpixels_take_other_weights():
    lime = Superpixels(np.array([[0, 0, 1]]), [0.5, -0.5])
    other = lime.reweigh([1, 2])
    np.testing.assert_array_equal(pixel_values(other), [0.5, 0.5, 2])
    np.testing.assert_array_equal(lime.weights, [0.5, -0.5])
    assert other.segment_map is lime.segment_map
    for weights in ([1], [1, 2, 3], [[1, 2]]):
        with pytest.raises(ConsilienceError, match="do not fit 2 superpixels"):
            lime.reweigh(weights)

"""Agreement between the explanations of a picture."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import jaccard_score

from consilience.agreement import (
    METRICS,
    compare_explanations,
    is_independent,
    summarise_agreement,
)
from consilience.errors import ConsilienceError
from consilience.measures import Superpixels
from consilience.tables import AGREEMENT, AGREEMENT_SUMMARY, make_table

ALL = {"metrics": tuple(METRICS)}
# Superpixels of 2, 8, 10 and 16 pixels.
SEGMENTS = np.repeat([0, 1, 2, 3], [2, 8, 10, 16]).reshape(6, 6)


def make_map(seed, shape=(6, 6)):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def make_lime(seed=0, segments=SEGMENTS):
    weights = np.random.default_rng(seed).normal(size=segments.max() + 1)
    return Superpixels(segments, weights)


def agree(a, b, metric, **options):
    """Return value and reason for one pair."""
    rows = compare_explanations({"a": a, "b": b}, {"metrics": [metric]} | options)
    return rows[0]["value"], rows[0]["reason"]


def test_spearman_by_hand():
    # Ranks 1 2 3 4 and 1 3 2 4: rho = 1 - 6 * (0 + 1 + 1 + 0) / (4 * 15).
    value, reason = agree(np.array([[1, 2], [3, 4.0]]), np.array([[0, 0.5], [0.3, 9]]), "spearman")
    assert value == pytest.approx(0.8)
    assert reason is None


def test_iou_by_hand():
    a = np.array([[4, 3, 2, 1, 0.0]])
    b = np.array([[4, 0, 2, 3, 1.0]])
    assert agree(a, b, "iou", top_fraction=0.4)[0] == pytest.approx(1 / 3)
    # One and a half places of five.
    b = np.array([[3, 4, 2, 1, 0.0]])
    assert agree(a, b, "iou", top_fraction=0.3)[0] == pytest.approx(1 / 2)
    # Half-zero maps at a fraction beyond what is not zero: tied places count in part.
    # a: 1 1 .5 .5 0 … of three among [1, 1, 0, 0]: memberships 1 1 .5 .5 and .5 .5 1 1.
    a, b = np.array([[1, 1, 0, 0.0]]), np.array([[0, 0, 1, 1.0]])
    assert agree(a, b, "iou", top_fraction=0.75)[0] == pytest.approx(2 / 4)


def test_superpixel_spearman_by_hand():
    segments = np.array([[0, 0, 1], [2, 2, 3]])
    lime = Superpixels(segments, [0.5, -0.2, 0.1, 0.3])
    # Sums 3, 9, 4, 5: ranks 1 4 2 3 against 4 1 2 3.
    cam = np.array([[1, 2, 9], [4, 0, 5.0]])
    rows = compare_explanations({"cam": cam, "lime": lime}, {"metrics": ["superpixel-spearman"]})
    assert rows[0]["value"] == pytest.approx(1 - 6 * (9 + 9) / (4 * 15))


def test_superpixel_spearman_of_two_cams_sums_both():
    maps = {"a": make_map(1), "b": make_map(2), "lime": make_lime()}
    sums = [[maps[name][index == SEGMENTS].sum() for index in range(4)] for name in "ab"]
    rows = compare_explanations(maps, {"metrics": ["superpixel-spearman"]})
    assert rows[0]["value"] == pytest.approx(spearmanr(*sums).statistic)


def test_rows_are_those_of_the_table_in_sorted_order():
    maps = {"score-cam": make_map(0), "lime": make_lime(), "grad-cam": make_map(1)}
    rows = compare_explanations(maps)
    assert [(row["method_a"], row["method_b"], row["metric"]) for row in rows] == [
        (*pair, metric)
        for pair in [("grad-cam", "lime"), ("grad-cam", "score-cam"), ("lime", "score-cam")]
        for metric in ("spearman", "iou", "superpixel-spearman")
    ]
    make_table([row | {"model": "m", "picture": "p"} for row in rows], AGREEMENT)


def test_fewer_than_two_explanations_make_no_pair():
    assert compare_explanations({"lime": make_lime()}) == []
    assert compare_explanations({}) == []


@given(st.integers(0, 10_000), st.integers(1, 8))
def test_parity_with_scipy_and_sklearn(seed, levels):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, levels + 1, (2, 5, 7)).astype(np.float32)
    if min(np.ptp(a), np.ptp(b)) > 0:
        flat = a.ravel(), b.ravel()
        assert agree(a, b, "spearman")[0] == pytest.approx(spearmanr(*flat).statistic)
        assert agree(a, b, "pearson")[0] == pytest.approx(pearsonr(*flat).statistic, abs=1e-6)
    # Without ties and with a whole number of places the soft IoU is the IoU.
    a, b = rng.permutation(35), rng.permutation(35)
    expected = jaccard_score(a >= 28, b >= 28)
    assert agree(a.reshape(5, 7), b.reshape(5, 7), "iou")[0] == pytest.approx(expected)


# Whole numbers: sums over superpixels are then exact, and ties common.
maps = arrays(np.float32, (6, 6), elements=st.integers(0, 6).map(float))


@settings(max_examples=60)
@given(maps, maps, st.randoms(use_true_random=False), st.sampled_from(sorted(METRICS)))
def test_properties(a, b, random, metric):
    lime = make_lime()

    def value(a, b, lime=lime):
        row = next(
            row
            for row in compare_explanations({"a": a, "b": b, "lime": lime}, ALL)
            if (row["method_a"], row["method_b"], row["metric"]) == ("a", "b", metric)
        )
        assert (row["value"] is None) == (row["reason"] is not None)
        return row["value"]

    found = value(a, b)
    if found is None:
        return
    assert (0 if metric == "iou" else -1) <= found <= 1
    assert value(b, a) == pytest.approx(found)
    assert value(a, a) == pytest.approx(1)
    # The same permutation of the places of all.
    order = random.sample(range(36), 36)
    moved = [array.ravel()[order].reshape(6, 6) for array in (a, b, SEGMENTS)]
    assert value(moved[0], moved[1], Superpixels(moved[2], lime.weights)) == pytest.approx(found)
    if metric in ("spearman", "iou"):
        assert value(np.exp(a) * 3 - 7, b) == pytest.approx(found)
    if metric != "iou":
        assert value(-a, b) == pytest.approx(-found)


def test_chance_of_the_iou_is_what_random_maps_score():
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(50):
        rows += compare_explanations(dict(zip("ab", rng.random((2, 50, 50)), strict=True)))
    values = [row["value"] for row in rows if row["metric"] == "iou"]
    assert np.mean(values) == pytest.approx(rows[1]["chance"], abs=0.005)
    assert rows[1]["chance"] == pytest.approx(1 / 9)


@pytest.mark.parametrize(
    ("maps", "reasons"),
    [
        (
            {"a": np.zeros((6, 6)), "b": make_map(0), "lime": make_lime()},
            {("a", "b"): "a: constant map", ("a", "lime"): "a: constant map", ("b", "lime"): None},
        ),
        (
            {"a": np.zeros((6, 6)), "b": np.ones((6, 6)), "lime": make_lime()},
            {("a", "b"): "a and b: constant map"},
        ),
        (
            {"a": np.full((6, 6), np.nan), "b": np.ones((6, 6))},
            {("a", "b"): "a: map with values that are not finite; b: constant map"},
        ),
        (
            {"a": make_map(0), "lime": Superpixels(SEGMENTS, [0.1, 0.1, 0.1, 0.1])},
            {("a", "lime"): "lime: constant weights"},
        ),
        (
            {"a": make_map(0), "lime": Superpixels(SEGMENTS, [0.1, np.nan, 0.1, 0.1])},
            {("a", "lime"): "lime: weights with values that are not finite"},
        ),
    ],
)
def test_an_undefined_value_has_its_reason(maps, reasons):
    for row in compare_explanations(maps, ALL):
        expected = reasons.get((row["method_a"], row["method_b"]), row["reason"])
        assert row["reason"] == expected
        assert (row["value"] is None) == (expected is not None)


def test_one_superpixel_leaves_the_pixels_of_two_cams():
    lime = Superpixels(np.zeros((6, 6), int), [0.3])
    rows = compare_explanations({"a": make_map(0), "b": make_map(1), "lime": lime})
    found = {(row["method_b"], row["metric"]): row["reason"] for row in rows}
    assert found["b", "spearman"] is None
    assert found["b", "superpixel-spearman"] == "a and b: one superpixel"
    assert found["lime", "spearman"] == "lime: one superpixel"


def test_without_lime_there_are_no_superpixels():
    value, reason = agree(make_map(0), make_map(1), "superpixel-spearman")
    assert value is None
    assert reason == "a and b: no LIME that gives superpixels"


def test_a_map_constant_over_superpixels_is_undefined_there_only():
    cam = (np.arange(36) % 2 / np.bincount(SEGMENTS.ravel())[SEGMENTS.ravel()]).reshape(6, 6)
    rows = compare_explanations({"cam": cam, "lime": make_lime()})
    assert [row["reason"] for row in rows] == [
        None,
        None,
        "cam: constant map over superpixels",
    ]


def test_lime_of_a_tiny_scale_still_orders():
    lime = Superpixels(SEGMENTS, np.array([1, 2, 3, 4]) * 1e-9)
    assert agree(lime, Superpixels(SEGMENTS, [1, 2, 3, 4]), "pearson")[0] == pytest.approx(1)


@pytest.mark.parametrize(
    ("maps", "options", "message"),
    [
        ({"a": make_map(0), "b": make_map(0, (6, 5))}, {}, "one \\(height, width\\)"),
        ({"a": np.zeros(4), "b": np.zeros(4)}, {}, "one \\(height, width\\)"),
        ({}, {"top_fraction": 0}, "top_fraction: 0 is not"),
        ({}, {"top_fraction": 1.0}, "top_fraction: 1.0 is not"),
        ({}, {"metrics": ["rho"]}, "'rho' is not known; .*spearman"),
    ],
)
def test_bad_input(maps, options, message):
    with pytest.raises(ConsilienceError, match=message):
        compare_explanations(maps, options)


def test_only_lime_against_a_cam_is_independent():
    assert is_independent("grad-cam", "lime")
    assert is_independent("lime", "score-cam")
    assert not is_independent("grad-cam", "score-cam")
    assert not is_independent("lime", "lime")


def test_summary_fits_its_table():
    rows = []
    for index, name in enumerate("pqr"):
        maps = {"grad-cam": make_map(index), "score-cam": make_map(index + 9), "lime": make_lime()}
        rows += [row | {"model": "m", "picture": name} for row in compare_explanations(maps)]
    pictures = [{"name": name, "clutter": None} for name in "pqr"]
    summary = summarise_agreement(rows, pictures, resamples=200, seed=1)
    assert len(summary) == 9
    assert [row["independent"] for row in summary[::3]] == [True, False, True]
    for row in summary:
        assert row["n"] == 3
        assert row["low"] <= row["mean"] <= row["high"]
    make_table(summary, AGREEMENT_SUMMARY)

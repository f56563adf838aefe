"""Explanations against the exact mask."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import gaussian_filter
from sklearn.metrics import jaccard_score

from consilience.errors import ConsilienceError
from consilience.localization import METRICS, score_localization, summarise_localization
from consilience.measures import Superpixels
from consilience.tables import LOCALIZATION, LOCALIZATION_SUMMARY, make_table


def scores(explanation, mask):
    return {row["metric"]: row["value"] for row in score_localization(explanation, mask)}


def test_by_hand():
    mask = np.array([[255, 255, 0, 0]], np.uint8)
    found = scores(np.array([[0.6, 0.1, 0.3, 0.0]]), mask)
    assert found["pointing-game"] == 1
    assert found["iou"] == pytest.approx(1 / 3)
    assert found["mass-inside"] == pytest.approx(0.7)


def test_ties_count_in_part():
    mask = np.array([[1, 1, 0, 0, 0]])
    found = scores(np.array([[1, 0, 1, 1, 0.0]]), mask)
    assert found["pointing-game"] == pytest.approx(1 / 3)
    # Each of the three tied places belongs by 2/3: 2/3 inside of 4 - 2/3 in all.
    assert found["iou"] == pytest.approx((2 / 3) / (4 - 2 / 3))


def test_superpixels_are_scored_by_weight_per_area_and_their_positive_part():
    # Weight 0.3 lies more densely than 0.4.
    lime = Superpixels(np.array([[0, 0, 1, 2]]), [0.4, 0.3, -5])
    found = scores(lime, np.array([[0, 1, 1, 0]]))
    assert found["pointing-game"] == 1
    assert found["mass-inside"] == pytest.approx((0.2 + 0.3) / 0.7)
    # The densest place, and half of each of the two tied ones.
    assert found["iou"] == pytest.approx(1.5 / 2.5)


maps = arrays(np.float32, (5, 6), elements=st.integers(0, 6).map(float))
masks = arrays(np.bool_, (5, 6))


@given(maps, masks, st.randoms(use_true_random=False))
def test_properties(values, mask, random):
    found = scores(values, mask)
    degenerate = np.ptp(values) == 0 or not mask.any() or mask.all()
    assert all((value is None) == degenerate for value in found.values())
    if degenerate:
        return
    assert all(0 <= value <= 1 for value in found.values())
    order = random.sample(range(30), 30)
    moved = scores(values.ravel()[order].reshape(5, 6), mask.ravel()[order].reshape(5, 6))
    assert moved == pytest.approx(found)
    monotone = scores(np.exp(values), mask)
    assert monotone["iou"] == pytest.approx(found["iou"])
    assert monotone["pointing-game"] == pytest.approx(found["pointing-game"])
    assert scores(values * 4, mask)["mass-inside"] == pytest.approx(found["mass-inside"])
    assert scores(mask.astype(float), mask) == {"pointing-game": 1, "iou": 1, "mass-inside": 1}


@given(st.integers(0, 10_000), st.integers(1, 29))
def test_iou_without_ties_is_that_of_sklearn(seed, size):
    rng = np.random.default_rng(seed)
    values = rng.permutation(30).reshape(5, 6)
    mask = rng.permutation(30).reshape(5, 6) < size
    expected = jaccard_score(mask.ravel(), values.ravel() >= 30 - size)
    assert scores(values, mask)["iou"] == pytest.approx(expected)


@pytest.mark.parametrize("metric", METRICS)
def test_planted_explanations_are_told_apart(metric):
    """The mask itself, then smooth noise, then the mask's inverse; on average over places."""
    rng = np.random.default_rng(0)
    planted = {"mask": [], "noise": [], "inverse": []}
    for _ in range(30):
        top, left = rng.integers(0, 40, 2)
        mask = np.zeros((60, 60), bool)
        mask[top : top + 20, left : left + 15] = True
        noise = gaussian_filter(rng.random((60, 60)), 6)
        noise = (noise - noise.min()) / np.ptp(noise)
        # Blurred as a CAM is, so that neither is trivially exact.
        blurred = gaussian_filter(mask.astype(float), 3)
        for name, values in [("mask", blurred), ("noise", noise), ("inverse", 1 - blurred)]:
            planted[name].append(scores(values, mask)[metric])
    means = {name: np.mean(values) for name, values in planted.items()}
    assert means["mask"] > means["noise"] + 0.3
    assert means["noise"] > means["inverse"]
    assert means["inverse"] < 0.06


def test_chance_is_what_noise_scores():
    rng = np.random.default_rng(1)
    mask = np.zeros((40, 40), bool)
    mask[5:25, 10:30] = True
    found = {metric: [] for metric in METRICS}
    for _ in range(400):
        rows = score_localization(rng.random((40, 40)), mask)
        for row in rows:
            found[row["metric"]].append(row["value"])
    for row in rows:
        spread = 4 * np.std(found[row["metric"]]) / 20
        assert np.mean(found[row["metric"]]) == pytest.approx(row["chance"], abs=spread)


@pytest.mark.parametrize(
    ("explanation", "mask", "reason"),
    [
        (np.zeros((2, 2)), np.eye(2), "constant map"),
        (np.array([[0, np.nan], [1, 2]]), np.eye(2), "map with values that are not finite"),
        (Superpixels(np.zeros((2, 2), int), [1.0]), np.eye(2), "one superpixel"),
        (np.arange(4.0).reshape(2, 2), np.zeros((2, 2)), "empty mask"),
        (np.arange(4.0).reshape(2, 2), np.ones((2, 2)), "mask covers everything"),
    ],
)
def test_an_undefined_score_has_its_reason(explanation, mask, reason):
    for row in score_localization(explanation, mask):
        assert row["value"] is None
        assert row["reason"] == reason


def test_weights_without_a_positive_one_have_no_mass():
    lime = Superpixels(np.array([[0, 1], [2, 3]]), [-1, -2, -3, -4])
    rows = score_localization(lime, np.array([[1, 0], [0, 0]]))
    assert [row["value"] for row in rows] == [1, 1, None]
    assert rows[2]["reason"] == "no positive value"


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ConsilienceError, match="geometry that the model saw"):
        score_localization(np.zeros((2, 3)), np.zeros((3, 2)))


def test_rows_and_summary_fit_their_tables():
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5, 2:5] = 255
    rows = [
        row | {"model": "m", "picture": name, "method": method}
        for seed, name in enumerate("pqr")
        for method in ("lime", "grad-cam")
        for row in score_localization(np.random.default_rng(seed).random((8, 8)), mask)
    ]
    make_table(rows, LOCALIZATION)
    pictures = [
        {"name": name, "clutter": clutter} for name, clutter in zip("pqr", (1, 0, 1), strict=True)
    ]
    summary = summarise_localization(rows, pictures, resamples=200, seed=0)
    make_table(summary, LOCALIZATION_SUMMARY)
    keys = [(row["method"], row["metric"], row["clutter"], row["n"]) for row in summary]
    assert keys == [
        (method, metric, clutter, n)
        for method in ("grad-cam", "lime")
        for metric in ("iou", "mass-inside", "pointing-game")
        for clutter, n in [(0, 1), (1, 2)]
    ]
    assert all(row["low"] is None for row in summary if row["n"] == 1)

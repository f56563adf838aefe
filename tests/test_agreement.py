"""Agreement between the explanations of a picture."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import gaussian_filter
from scipy.optimize import linprog
from scipy.stats import kendalltau, pearsonr, spearmanr
from skimage.metrics import structural_similarity
from sklearn.metrics import jaccard_score

from consilience.agreement import (
    METRICS,
    SIGNED,
    Comparison,
    Shelf,
    average_over,
    compare_explanations,
    is_independent,
    summarise_agreement,
)
from consilience.errors import ConsilienceError
from consilience.measures import Heatmap, Superpixels, bootstrap_mean
from consilience.tables import AGREEMENT, AGREEMENT_SUMMARY, make_table

ALL = {"metrics": tuple(METRICS)}
# Those that need no map that is not rectified.
UNSIGNED = {"metrics": tuple(name for name in METRICS if METRICS[name].over != SIGNED)}
KRISHNA = tuple(name for name in METRICS if name.endswith("-agreement"))
# Superpixels of 4, 14, 18 and 28 pixels.
SEGMENTS = np.repeat([0, 1, 2, 3], [4, 14, 18, 28]).reshape(8, 8)
ABOUT = {"model": "m", "picture": "p", "target_index": 0, "target_class": "c"}


def make_map(seed, shape=(8, 8)):
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
    make_table([ABOUT | row for row in rows], AGREEMENT)


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
maps = arrays(np.float32, (8, 8), elements=st.integers(-3, 6).map(float))


@pytest.mark.parametrize("metric", METRICS)
@settings(max_examples=25, deadline=None)
@given(maps, maps, st.randoms(use_true_random=False))
def test_properties(metric, a, b, random):
    lime = make_lime()

    def value(a, b, lime=lime):
        # The layer has the picture's size, so that nothing is upsampled.
        maps = {"a": Heatmap(np.maximum(a, 0), a), "b": Heatmap(np.maximum(b, 0), b), "lime": lime}
        row = next(
            row
            for row in compare_explanations(maps, {"metrics": [metric]})
            if (row["method_a"], row["method_b"]) == ("a", "b")
        )
        assert (row["value"] is None) == (row["reason"] is not None)
        return row["value"]

    found = value(a, b)
    if found is None:
        return
    measure = METRICS[metric]
    assert (-1 if metric in MAY_BE_NEGATIVE else 0) <= found <= 1
    assert value(b, a) == pytest.approx(found, abs=1e-4 if metric == "emd" else 1e-9)
    assert value(a, a) == pytest.approx(1 if measure.higher_agrees else 0)
    # The same permutation of the places of all.
    order = random.sample(range(64), 64)
    moved = [array.ravel()[order].reshape(8, 8) for array in (a, b, SEGMENTS)]
    if metric not in ("ssim", "emd"):
        again = value(moved[0], moved[1], Superpixels(moved[2], lime.weights))
        assert again == pytest.approx(found)
    if metric in ("spearman", "iou"):
        assert value(np.float32(np.exp(np.maximum(a, 0)) * 3), b) == pytest.approx(found)
    # Neither measure asks how large values are in all.
    assert value(a * 4, b) == pytest.approx(found, abs=1e-4 if metric == "emd" else 1e-9)


# Measures that may be negative.
MAY_BE_NEGATIVE = ("spearman", "superpixel-spearman", "pearson", "ssim")


def test_only_distances_agree_more_where_they_are_lower():
    assert [name for name in METRICS if not METRICS[name].higher_agrees] == ["emd"]


@given(maps, maps)
def test_correlations_turn_round_with_a_map(a, b):
    for metric in ("spearman", "pearson", "superpixel-spearman"):
        found = [
            compare_explanations({"a": x, "b": b, "lime": make_lime()}, {"metrics": [metric]})[0]
            for x in (a, -a)
        ]
        if found[0]["value"] is not None:
            assert found[1]["value"] == pytest.approx(-found[0]["value"])


def over_superpixels(a, b, metric, k=3):
    """Return value and chance of LIME's weights a and a CAM that is b, unrectified, of a pixel a
    superpixel each."""
    a, b = np.array(a, float), np.float32([b])
    lime = Superpixels(np.arange(len(a))[None], a)
    maps = {"cam": Heatmap(np.maximum(b, 0), b), "lime": lime}
    (row,) = compare_explanations(maps, {"metrics": [metric], "k": k})
    return row["value"], row["chance"]


@pytest.mark.parametrize(
    ("metric", "value", "chance"),
    [
        # The first three are 0 1 2 and 0 1 3.
        ("feature-agreement", 2 / 3, 3 / 6),
        ("rank-agreement", 2 / 3, 1 / 6),
        # Of 0 and 1 the second has two signs; the signs of the threes are + - + and + + +.
        ("sign-agreement", 1 / 3, (2 * 3 + 1 * 0) / (3 * 6)),
        ("signed-rank-agreement", 1 / 3, (2 / 3) / 6),
        # All but the pairs (2, 3) and (2, 4).
        ("pairwise-rank-agreement", 13 / 15, 1 / 2),
    ],
)
def test_krishna_by_hand(metric, value, chance):
    a, b = [5, -4, 3, 2, 1, 0.5], [5, 4, 1, 3, 2, 0]
    assert over_superpixels(a, b, metric) == pytest.approx((value, chance))


@pytest.mark.parametrize(
    ("metric", "value", "chance"),
    [
        # Memberships 1 1 .5 .5 and .5 .5 1 1; of all pairs the lesser: 4 * 1 + 12 * .5.
        ("feature-agreement", 2 / 3, 10 / (3 * 4)),
        # Superpixels 0 and 1 share the first two places of the one, 2 and 3 of the other.
        ("rank-agreement", 0, 2 / 4),
        # Both tie 0 with 1 and 2 with 3; of each a third of the pairs are tied.
        ("pairwise-rank-agreement", 2 / 6, 1 / 9 + 4 / 9 / 2),
    ],
)
def test_krishna_with_ties_by_hand(metric, value, chance):
    assert over_superpixels([1, 1, 0, 0], [0, 0, 1, 1], metric) == pytest.approx((value, chance))


def test_krishna_of_signed_ties_by_hand():
    # All tied: memberships 1/2; places shared by four, signs equal at 0 and 1.
    a, b = [1, -1, 1, -1], [1, -1, -1, 1]
    assert over_superpixels(a, b, "sign-agreement", 2) == pytest.approx((0.5, 0.5))
    assert over_superpixels(a, b, "signed-rank-agreement", 2) == pytest.approx((0.5, 0.5))
    # A zero's sign is no other's.
    assert over_superpixels([2, 0], [2, -1], "sign-agreement", 2)[0] == 0.5


def test_k_is_at_most_the_number_of_superpixels():
    assert over_superpixels([3, 2, 1], [1, 2, 3], "feature-agreement", 9) == (1, 1)
    assert over_superpixels([3, 2, 1], [1, 2, 3], "rank-agreement", 9) == pytest.approx(
        (1 / 3,) * 2
    )


def top_places(values, k):
    return list(np.argsort(-np.abs(values), kind="stable")[:k])


@given(st.integers(0, 10_000), st.integers(2, 12), st.integers(1, 6))
def test_krishna_is_the_papers_definition_where_nothing_is_tied(seed, n, k):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, n)).astype(np.float32)
    k = min(k, n)
    for sign in (1, -1):
        first, second = top_places(a, k), top_places(sign * b, k)
        both = set(first) & set(second)
        alike = [s for s in both if a[s] * b[s] * sign > 0]
        ranked = [s for s in both if first.index(s) == second.index(s)]
        assert over_superpixels(a, sign * b, "sign-agreement", k)[0] == len(alike) / k
        expected = len(set(alike) & set(ranked)) / k
        assert over_superpixels(a, sign * b, "signed-rank-agreement", k)[0] == expected
    # Not signed, CAMs are rectified.
    b = np.abs(b)
    first, second = top_places(a, k), top_places(b, k)
    both = set(first) & set(second)
    ranked = [s for s in both if first.index(s) == second.index(s)]
    assert over_superpixels(a, b, "feature-agreement", k) == pytest.approx((len(both) / k, k / n))
    assert over_superpixels(a, b, "rank-agreement", k) == pytest.approx((len(ranked) / k, 1 / n))
    tau = kendalltau(np.abs(a), b).statistic
    found = over_superpixels(a, b, "pairwise-rank-agreement")
    assert found == pytest.approx(((1 + tau) / 2, 1 / 2))


few = st.lists(st.integers(-2, 2).map(float), min_size=5, max_size=5)


@settings(max_examples=15, deadline=None)
@given(few, few, st.integers(1, 6))
def test_chance_is_the_mean_over_all_permutations(a, b, k):
    for name in KRISHNA:
        measure, given_k = METRICS[name], {"k": k}
        one, other = (measure.prepare(np.array(values), given_k) for values in (a, b))
        values = [
            measure.compare(one, measure.prepare(np.array(dealt), given_k))
            for dealt in permutations(b)
        ]
        assert measure.chance(one, other, given_k) == pytest.approx(np.mean(values))


def test_sign_measures_need_a_map_that_is_not_rectified():
    values, lime = make_map(1), make_lime()
    for cam in (values, Heatmap(values)):
        for metric in ("sign-agreement", "signed-rank-agreement"):
            value, reason = agree(cam, lime, metric)
            assert value is None
            assert reason == "a: no map that is not rectified"
        assert agree(cam, lime, "feature-agreement")[0] is not None


def test_a_map_that_is_nowhere_positive_still_has_signs():
    lime = make_lime()
    cam = Heatmap(np.zeros((8, 8), np.float32), -make_map(1))
    assert agree(cam, lime, "spearman")[1] == "a: constant map"
    assert agree(cam, lime, "sign-agreement", k=4)[0] == (lime.weights < 0).mean()


def test_soft_iou_by_hand():
    # 1 .5 0 0 and 0 1 .5 .25: what is negative counts as nothing.
    a, b = np.array([[2, 1, 0, -3.0]]), np.array([[0, 4, 2, 1.0]])
    assert agree(a, b, "soft-iou")[0] == pytest.approx(0.5 / 2.75)


@pytest.mark.parametrize("metric", ["soft-iou", "emd"])
def test_nothing_positive_is_undefined(metric):
    lime = Superpixels(SEGMENTS, [-1, -2, -3, -4])
    assert agree(make_map(0), lime, metric) == (None, "b: no positive value")


@pytest.mark.parametrize("shape", [(7, 7), (30, 23), (96, 96)])
def test_ssim_is_that_of_scikit_image(shape):
    a, b = make_map(0, shape), gaussian_filter(make_map(1, shape), 3)
    scaled = [(np.float64(x) - x.min()) / np.ptp(np.float64(x)) for x in (a * 3, b - 7)]
    expected = structural_similarity(*scaled, data_range=1)
    assert agree(a * 3, b - 7, "ssim")[0] == pytest.approx(expected, abs=1e-9)


def test_ssim_of_a_picture_below_its_window():
    reason = "a and b: a side is below SSIM's window of 7 pixels"
    assert agree(make_map(0, (6, 9)), make_map(1, (6, 9)), "ssim") == (None, reason)


def at(*places, shape=(16, 16)):
    values = np.zeros(shape)
    for y, x, mass in places:
        values[y, x] = mass
    return values


def test_emd_by_hand():
    corner = at((0, 0, 1))
    assert agree(corner, at((15, 15, 7)), "emd")[0] == pytest.approx(1, abs=1e-6)
    assert agree(corner, at((0, 15, 1)), "emd")[0] == pytest.approx(1 / np.sqrt(2), abs=1e-6)
    # What is there already stays: of three quarters one moves 3 cells, one 4, one 5.
    a, b = at((0, 0, 4)), at((0, 0, 1), (3, 0, 1), (0, 4, 1), (3, 4, 1))
    assert agree(a, b, "emd")[0] == pytest.approx((3 + 4 + 5) / 4 / np.hypot(15, 15), abs=1e-6)
    # Pixels of one cell are one place; what is negative is nothing.
    a, b = at((0, 0, 1), (20, 4, -3), shape=(32, 48)), at((1, 2, 1), (0, 0, 1), shape=(32, 48))
    assert agree(a, b, "emd")[0] == 0


def solve_transport(a, b):
    """Solve the transport of one grid to another as the linear programme that it is."""
    sources, sinks = np.argwhere(a > 0), np.argwhere(b > 0)
    costs = np.hypot(*(sources[:, None] - sinks).transpose(2, 0, 1)) / np.hypot(15, 15)
    n, m = costs.shape
    leaving = np.kron(np.eye(n), np.ones(m))
    arriving = np.tile(np.eye(m), n)
    masses = [a[a > 0] / a.sum(), b[b > 0] / b.sum()]
    return linprog(costs.ravel(), A_eq=np.vstack([leaving, arriving]), b_eq=np.hstack(masses)).fun


@pytest.mark.parametrize("seed", range(6))
def test_emd_is_the_optimal_transport(seed):
    rng = np.random.default_rng(seed)
    # Sparse and smooth ones, with few places and with a quarter of them.
    a, b = rng.random((2, 16, 16))
    if seed % 2:
        a, b = gaussian_filter(a, 2), gaussian_filter(b, 2)
    a, b = (np.maximum(x - np.quantile(x, 0.9 if seed < 4 else 0.75), 0) for x in (a, b))
    assert agree(a, b, "emd")[0] == pytest.approx(solve_transport(a, b), abs=2e-5)


def test_emd_knows_how_far_apart_regions_are():
    found = [agree(at((0, 0, 1)), at((0, x, 1)), "emd")[0] for x in range(1, 16)]
    assert found == sorted(found)
    assert len({agree(at((0, 0, 1)), at((0, x, 1)), "soft-iou")[0] for x in range(1, 16)}) == 1


def test_averages_over_cells_that_cut_pixels():
    found = average_over(np.arange(1.0, 10).reshape(3, 3), (2, 2))
    # Of the first cell pixels 1, 2, 4 and 5 by 1, 1/2, 1/2 and 1/4.
    assert found[0, 0] == pytest.approx((1 + 1 + 2 + 1.25) / 2.25)
    assert found.mean() == pytest.approx(5)
    np.testing.assert_allclose(average_over(np.array([[3.0, 5]]), (2, 2)), [[3, 5], [3, 5]])


def planted(values):
    return Heatmap(np.float32(np.maximum(values, 0)), np.float32(values))


# Over these two superpixels of each block of 8 by 8 carry a part of the mask.
BLOCKS = (np.arange(48)[:, None] // 8 * 6 + np.arange(48) // 8).astype(int)


@pytest.mark.parametrize("metric", METRICS)
def test_the_planted_explanation_wins(metric):
    rng = np.random.default_rng(0)
    mask = np.zeros((48, 48))
    mask[6:25, 21:43] = 1
    # Speaks for the class inside, a little against it outside.
    truth = mask - 0.25
    noise = gaussian_filter(rng.normal(size=(48, 48)), 6)
    maps = {
        "truth": planted(truth),
        "itself": planted(truth),
        # What an explanation may well look like: blurred, and with some noise.
        "near": planted(gaussian_filter(truth, 3) + 0.05 * rng.normal(size=(48, 48))),
        "noise": planted(noise / noise.std() / 2),
        "shuffled": planted(rng.permutation(truth.ravel()).reshape(48, 48)),
        "inverse": planted(-truth),
        "lime": Superpixels(BLOCKS, rng.normal(size=36)),
    }
    rows = compare_explanations(maps, {"metrics": [metric], "k": 5})
    sign = 1 if METRICS[metric].higher_agrees else -1
    found = {}
    for row in rows:
        pair = {row["method_a"], row["method_b"]}
        if "truth" in pair:
            found[(pair - {"truth"}).pop()] = sign * row["value"]
    for other in ("noise", "shuffled", "inverse"):
        assert found["itself"] > found[other]
        assert found["near"] > found[other]


def test_what_was_prepared_is_kept_and_no_more_than_the_shelf_holds():
    maps = [{"a": make_map(seed), "b": make_map(seed + 9), "lime": make_lime()} for seed in (0, 1)]
    expected = [compare_explanations(each, ALL) for each in maps]
    for size in (2**20, 500, 1):
        shelf = Shelf(size)
        assert [Comparison(each, ALL, shelf).rows() for each in maps + maps] == expected * 2
        assert shelf.kept <= max(size, 64)
    shelf, other = Shelf(), Shelf(64)
    first = Comparison(maps[0], None, shelf).prepared
    again = Comparison(maps[0], None, shelf).prepared
    assert again["a", "spearman"] is first["a", "spearman"]
    assert Comparison(maps[0], None, other).prepared["a", "spearman"] is not None


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
            {"a": np.zeros((8, 8)), "b": make_map(0), "lime": make_lime()},
            {("a", "b"): "a: constant map", ("a", "lime"): "a: constant map", ("b", "lime"): None},
        ),
        (
            {"a": np.zeros((8, 8)), "b": np.ones((8, 8)), "lime": make_lime()},
            {("a", "b"): "a and b: constant map"},
        ),
        (
            {"a": np.full((8, 8), np.nan), "b": np.ones((8, 8))},
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
    for row in compare_explanations(maps, UNSIGNED):
        expected = reasons.get((row["method_a"], row["method_b"]), row["reason"])
        assert row["reason"] == expected
        assert (row["value"] is None) == (expected is not None)


def test_one_superpixel_leaves_the_pixels_of_two_cams():
    lime = Superpixels(np.zeros((8, 8), int), [0.3])
    rows = compare_explanations({"a": make_map(0), "b": make_map(1), "lime": lime})
    found = {(row["method_b"], row["metric"]): row["reason"] for row in rows}
    assert found["b", "spearman"] is None
    assert found["b", "superpixel-spearman"] == "a and b: one superpixel"
    assert found["lime", "spearman"] == "lime: one superpixel"


def test_ties_of_weights_stay_ties_over_the_same_superpixels():
    # Shared out to pixels and summed again, equal weights would differ in the last digit.
    lime = Superpixels(SEGMENTS, [0.1, 0.1, 0.1, -0.2])
    again = lime.reweigh(np.array([0.3, 0.3, -0.1, 0.3]))
    assert len(set(lime.sum_over((lime.weights / lime.areas)[SEGMENTS].ravel())[:3])) > 1
    for one, other in ((lime, again), (again, lime)):
        expected = spearmanr(one.weights, other.weights).statistic
        assert agree(one, other, "superpixel-spearman")[0] == pytest.approx(expected)


def test_without_lime_there_are_no_superpixels():
    value, reason = agree(make_map(0), make_map(1), "superpixel-spearman")
    assert value is None
    assert reason == "a and b: no LIME that gives superpixels"


def test_a_map_constant_over_superpixels_is_undefined_there_only():
    cam = (np.arange(64) % 2 / np.bincount(SEGMENTS.ravel())[SEGMENTS.ravel()]).reshape(8, 8)
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
        ({}, {"k": 0}, "agreement.k: 0 superpixels"),
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
        rows += [ABOUT | {"picture": name} | row for row in compare_explanations(maps)]
        # Another target of the picture, which is not summarised.
        second = {"picture": name, "target_index": 1, "value": 7.0}
        rows += [ABOUT | row | second for row in compare_explanations(maps)]
    pictures = [{"name": name, "clutter": None} for name in "pqr"]
    summary = summarise_agreement(rows, pictures, resamples=200, seed=1)
    assert len(summary) == 9
    assert [row["independent"] for row in summary[::3]] == [True, False, True]
    for row in summary:
        assert row["n"] == 3
        assert row["mean"] <= 1
        assert row["low"] <= row["mean"] <= row["high"]
        assert row["floor"] is None
        assert row["reason"] == "no floor was measured"
    make_table(summary, AGREEMENT_SUMMARY)


def controlled(values, metric="spearman", reasons=None, clutter=0):
    """Return rows of one pair from values by control, one a picture, and the pictures."""
    about = ABOUT | {"method_a": "grad-cam", "method_b": "lime", "metric": metric}
    rows = [
        about
        | {
            "picture": f"p{number}",
            "control": control,
            "value": value,
            "chance": 0.0 if control is None else None,
            "reason": (reasons or {}).get(control, "why") if value is None else None,
        }
        for control, numbers in values.items()
        for number, value in enumerate(numbers)
    ]
    pictures = [{"name": f"p{number}", "clutter": clutter} for number in range(9)]
    return rows, pictures


VALUES = {
    None: [0.5, 0.4, 0.9, 0.6],
    "random-smooth": [0.1, -0.1, 0.0, 0.0],
    "other-picture": [None, 0.3, 0.2, 0.1],
    "centre": [0.1, 0.2, 0.3, 0.0],
    "edges": [None, None, None, None],
    "ceiling": [0.9, 0.8, None, 0.7],
}


def test_summary_between_floor_and_ceiling_by_hand():
    (row,) = summarise_agreement(*controlled(VALUES), resamples=300, seed=4)
    assert row["mean"] == pytest.approx(0.6)
    assert row["random_smooth"] == pytest.approx(0)
    assert row["other_picture"] == pytest.approx(0.2)
    assert row["centre"] == pytest.approx(0.15)
    assert row["edges"] is None
    assert row["ceiling"] == pytest.approx(0.8)
    assert row["floor"] == "other-picture"
    # Pictures 1 and 3 have all three: (0.5 - 0.2) / (0.75 - 0.2).
    assert row["relative"] == pytest.approx(0.3 / 0.55)
    # Of two pictures the resamples are the one, the middle, or the other.
    assert row["relative_low"] == pytest.approx((0.4 - 0.3) / (0.8 - 0.3))
    assert row["relative_high"] == pytest.approx((0.6 - 0.1) / (0.7 - 0.1))
    assert row.get("reason") is None
    make_table([row], AGREEMENT_SUMMARY)


def test_the_relative_interval_is_of_the_same_resamples():
    # With a floor of 0 and a ceiling of 1 everywhere it is the interval of the mean.
    values = np.random.default_rng(0).random(9)
    given = {None: values, "centre": [0.0] * 9, "ceiling": [1.0] * 9}
    (row,) = summarise_agreement(*controlled(given), resamples=300, seed=4)
    assert (row["low"], row["high"]) == bootstrap_mean(values, 300, 4)
    assert (row["relative_low"], row["relative_high"]) == pytest.approx((row["low"], row["high"]))


def test_of_distances_the_lowest_floor_is_the_strictest():
    values = {
        None: [0.2, 0.1],
        "random-smooth": [0.5, 0.6],
        "centre": [0.3, 0.4],
        "ceiling": [0.1, 0.0],
    }
    (row,) = summarise_agreement(*controlled(values, "emd"), resamples=200)
    assert row["floor"] == "centre"
    assert row["relative"] == pytest.approx((0.35 - 0.15) / (0.35 - 0.05))
    (row,) = summarise_agreement(*controlled(values, "spearman"), resamples=200)
    assert row["floor"] == "random-smooth"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({None: [None] * 4}, "no picture has a value"),
        (
            dict.fromkeys(["random-smooth", "other-picture", "centre", "edges"], [None] * 4),
            "no floor: why",
        ),
        ({"ceiling": [None] * 4}, "no ceiling: LIME was not repeated"),
        (
            {"ceiling": [0.2] * 4, "other-picture": [0.2] * 4},
            "the ceiling is not above the floor other-picture",
        ),
        (
            {"ceiling": [0.9, None, None, None]},
            "no picture has a value, the floor other-picture and a ceiling",
        ),
    ],
)
def test_a_relative_value_that_is_missing_has_its_reason(changed, reason):
    rows, pictures = controlled(VALUES | changed, reasons={"ceiling": "LIME was not repeated"})
    (row,) = summarise_agreement(rows, pictures, resamples=200)
    assert row["reason"] == reason
    assert [row.get(f"relative{bound}") for bound in ("", "_low", "_high")] == [None] * 3
    make_table([row], AGREEMENT_SUMMARY)


def test_a_relative_value_may_have_no_interval():
    # Picture 1 alone has its ceiling below its floor.
    values = {None: [0.5, 0.4, 0.9], "centre": [0.1, 0.5, 0.1], "ceiling": [0.9, 0.4, 0.9]}
    (row,) = summarise_agreement(*controlled(values), resamples=200)
    assert row["relative"] == pytest.approx((1.8 - 0.7) / (2.2 - 0.7))
    assert row.get("relative_low") is None
    assert row["reason"].startswith("no interval: in ")
    # One picture has a relative value and no interval, as it has a mean and none.
    given = {None: [0.5], "centre": [0.1], "ceiling": [0.9]}
    (row,) = summarise_agreement(*controlled(given), resamples=200)
    assert row["relative"] == pytest.approx(0.5)
    assert row.get("relative_low") is None

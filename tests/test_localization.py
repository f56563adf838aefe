"""Explanations against the exact mask."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import gaussian_filter
from sklearn.metrics import average_precision_score, jaccard_score

from consilience import cam, world
from consilience.classifiers import Classifier
from consilience.errors import ConsilienceError
from consilience.images import Transform, encode_png
from consilience.localization import (
    METRICS,
    OFFSETS,
    find_offset,
    find_truth,
    score_localization,
    score_picture,
    summarise_localization,
)
from consilience.measures import Superpixels
from consilience.tables import LOCALIZATION, LOCALIZATION_SUMMARY, make_table


def scores(explanation, mask):
    rows = score_localization(explanation, mask)
    return {row["metric"]: row["value"] for row in rows if row["metric"] in METRICS}


def test_by_hand():
    mask = np.array([[255, 255, 0, 0]], np.uint8)
    found = scores(np.array([[0.6, 0.1, 0.3, 0.0]]), mask)
    assert found["pointing-game"] == 1
    assert found["iou"] == pytest.approx(1 / 3)
    assert found["mass-inside"] == pytest.approx(0.7)
    # In the order inside, outside, inside: half of the recall at precision 1, half at 2/3.
    assert found["average-precision"] == pytest.approx(1 / 2 + 1 / 3)


def test_ties_count_in_part():
    mask = np.array([[1, 1, 0, 0, 0]])
    found = scores(np.array([[1, 0, 1, 1, 0.0]]), mask)
    assert found["pointing-game"] == pytest.approx(1 / 3)
    # Each of the three tied places belongs by 2/3: 2/3 inside of 4 - 2/3 in all.
    assert found["iou"] == pytest.approx((2 / 3) / (4 - 2 / 3))
    # One of the first three, then two of five.
    assert found["average-precision"] == pytest.approx(1 / 2 * 1 / 3 + 1 / 2 * 2 / 5)


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
    assert monotone["average-precision"] == pytest.approx(found["average-precision"])
    assert scores(values * 4, mask)["mass-inside"] == pytest.approx(found["mass-inside"])
    assert scores(mask.astype(float), mask) == pytest.approx(dict.fromkeys(METRICS, 1))


@given(st.integers(0, 10_000), st.integers(1, 29))
def test_iou_without_ties_is_that_of_sklearn(seed, size):
    rng = np.random.default_rng(seed)
    values = rng.permutation(30).reshape(5, 6)
    mask = rng.permutation(30).reshape(5, 6) < size
    expected = jaccard_score(mask.ravel(), values.ravel() >= 30 - size)
    assert scores(values, mask)["iou"] == pytest.approx(expected)


@given(maps, masks)
def test_average_precision_is_that_of_sklearn_ties_and_all(values, mask):
    found = scores(values, mask)["average-precision"]
    if found is not None:
        expected = average_precision_score(mask.ravel(), values.ravel())
        assert found == pytest.approx(expected, abs=1e-12)


def test_average_precision_of_superpixels_is_that_of_sklearn():
    rng = np.random.default_rng(0)
    segments = np.repeat(np.repeat(np.arange(16).reshape(4, 4), 5, 0), 5, 1)
    weights = rng.normal(size=16)
    mask = gaussian_filter(rng.random((20, 20)), 3) > 0.5
    expected = average_precision_score(mask.ravel(), weights[segments].ravel())
    found = scores(Superpixels(segments, weights), mask)["average-precision"]
    assert found == pytest.approx(expected)


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
        rows = score_localization(rng.random((40, 40)), mask)[: len(METRICS)]
        for row in rows:
            found[row["metric"]].append(row["value"])
    for row in rows:
        expected, spread = row["chance"], 4 * np.std(found[row["metric"]]) / 20
        if row["metric"] == "average-precision":
            # Of a random order without ties exactly (Bestgen 2015), with pixels n and inside m.
            n, m = mask.size, mask.sum()
            harmonic = (1 / np.arange(1, n + 1)).sum()
            expected = ((m - 1) / (n - 1) * (n - harmonic) + harmonic) / n
            assert row["chance"] < expected < row["chance"] + np.log(n) / n
        assert np.mean(found[row["metric"]]) == pytest.approx(expected, abs=spread)
        assert row["area"] == mask.mean()


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
    assert [row["value"] for row in rows] == [1, 1, None, 1, None, None]
    assert {row["reason"] for row in rows if row["value"] is None} == {"no positive value"}


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ConsilienceError, match="geometry that the model saw"):
        score_localization(np.zeros((2, 3)), np.zeros((3, 2)))


# What an explanation is held against


OBJECT = np.zeros((8, 8), bool)
OBJECT[1:4, 1:4] = True
# 1 a stone, 2 a star, 3 a moon, 4 the board, 5 a ball that is nowhere seen.
OTHERS = np.zeros((8, 8), np.uint8)
OTHERS[5, 0], OTHERS[6:8, 0:2], OTHERS[6:8, 5:7], OTHERS[0, :] = 1, 2, 3, 4
CLASSES = ["pebble", "star", "moon", "board", "ball"]


def view(visible=OBJECT, others=OTHERS):
    return {
        "mask_visible": None if visible is None else encode_png(visible.astype(np.uint8) * 255),
        "distractor_map": None if others is None else encode_png(others),
    }


def prediction(target, label, predicted=None, picture="p"):
    return {
        "model": "m",
        "picture": picture,
        "target_index": 3,
        "target_class": target,
        "predicted_class": predicted or target,
        "label_class": label,
    }


STAR, SCENE = OTHERS == 2, ~OBJECT & (OTHERS == 0)


@pytest.mark.parametrize(
    ("asked", "seen", "tells", "kind", "mask"),
    [
        (prediction("heart", "heart"), view(), "object", "object", OBJECT),
        (prediction("star", "heart"), view(), "object", "distractor", STAR),
        # Not the prediction, but what the study asks for.
        (prediction("heart", "heart", "moon"), view(), "object", "object", OBJECT),
        (prediction("star", "heart", "moon"), view(), "object", "distractor", STAR),
        # Photographs: right, and not known whether right.
        (prediction("heart", "heart"), view(others=None), "object", "object", OBJECT),
        (prediction("heart", None), view(others=None), "object", "object", OBJECT),
        (prediction("sand", "sand"), view(), "scene", "scene", SCENE),
    ],
)
def test_a_mask_is_of_what_the_explained_class_names(asked, seen, tells, kind, mask):
    truth = find_truth(asked, seen, CLASSES, tells)
    assert (truth.kind, truth.reason) == (kind, None)
    assert (truth.mask == mask).all()


@pytest.mark.parametrize(
    ("asked", "seen", "tells", "kind", "reason"),
    [
        (
            prediction("leaf", "heart"),
            view(),
            "object",
            "distractor",
            "wrong: what it names is not in the picture",
        ),
        # A distractor behind others, of which nothing is seen.
        (
            prediction("ball", "heart"),
            view(),
            "object",
            "distractor",
            "wrong: what it names is not in the picture",
        ),
        (
            prediction("leaf", "heart", "heart"),
            view(),
            "object",
            "distractor",
            "what is asked is not in the picture",
        ),
        (
            prediction("leaf", "heart"),
            view(others=None),
            "object",
            "distractor",
            "wrong: what it names has no mask",
        ),
        (
            prediction("sand", "sky"),
            view(),
            "scene",
            "scene",
            "wrong: what it names is not in the picture",
        ),
        # A photograph, of which only the object is known.
        (
            prediction("sand", None),
            view(others=None),
            "scene",
            "scene",
            "what else is in the picture is not known",
        ),
    ],
)
def test_without_a_right_place_nothing_is_scored(asked, seen, tells, kind, reason):
    truth = find_truth(asked, seen, CLASSES, tells)
    assert (truth.kind, truth.mask, truth.reason) == (kind, None, reason)
    rows = score_picture(
        {"lime": OBJECT.astype(float)}, asked, seen, CLASSES, tells, {("p", 3, kind): True}
    )
    make_table(rows, LOCALIZATION)
    assert [row["metric"] for row in rows] == [*METRICS, *OFFSETS]
    for row in rows:
        assert (row["truth"], row["reason"]) == (kind, reason)
        assert row["value"] is row["chance"] is row["area"] is row["matters"] is None


def test_a_picture_without_a_mask_has_no_rows():
    unknown = view(None, None)
    assert find_truth(prediction("heart", None), unknown, None) is None
    assert score_picture({"lime": OBJECT}, prediction("heart", None), unknown) == []


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("clutter", [0, 3, 4])
def test_object_distractors_and_scene_share_a_rendered_picture_out(index, clutter):
    picture = world.sample_picture(0, "study", index, clutter)
    rendering, own = world.render(picture), picture.object
    seen = view(rendering.mask_visible, rendering.distractor_map)
    classes = rendering.distractors
    covered = find_truth(prediction("sand", "sand"), seen, classes, "scene").mask.astype(int)
    covered += find_truth(prediction(own, own), seen, classes).mask
    for name in set(classes):
        truth = find_truth(prediction(name, own), seen, classes)
        covered += 0 if truth.mask is None else truth.mask
    assert (covered == 1).all()


def test_each_explanation_is_scored_against_the_truth_and_says_whether_it_matters():
    maps = {"score-cam": STAR.astype(float), "grad-cam": OBJECT.astype(float)}
    matters = {("p", 3, "distractor"): False, ("p", 3, "object"): True}
    wrong = prediction("star", "heart")
    rows = score_picture(maps, wrong, view(), CLASSES, "object", matters)
    make_table(rows, LOCALIZATION)
    assert [row["method"] for row in rows] == ["grad-cam"] * 6 + ["score-cam"] * 6
    assert [row["value"] for row in rows[6:]] == [1] * 4 + [0, 0]
    assert [row["value"] for row in rows[:3]] == [0, 0, 0]
    for row in rows:
        assert row["truth"] == "distractor"
        assert row["area"] == 4 / 64
        assert row["matters"] is False
    rows = score_picture(maps, prediction("heart", "heart"), view(), CLASSES, "object", matters)
    assert {row["matters"] for row in rows} == {True}
    rows = score_picture(maps, prediction("heart", "heart", picture="q"), view(), CLASSES)
    assert {row["matters"] for row in rows} == {None}


# Summaries


def located(picture, value, model="m", truth="object", matters=None, target=0, metric="iou"):
    return {
        "model": model,
        "picture": picture,
        "target_index": target,
        "target_class": "x",
        "method": "lime",
        "truth": truth,
        "metric": metric,
        "value": value,
        "chance": 0.1,
        "area": 0.1,
        "matters": matters,
        "reason": "empty mask" if value is None else None,
    }


def study_picture(name, clutter=0, weight=None):
    return {"name": name, "clutter": clutter, "weight": weight}


def test_rows_and_summary_fit_their_tables():
    mask = np.zeros((8, 8), bool)
    mask[2:5, 2:5] = True
    rows = [
        row
        for seed, name in enumerate("pqr")
        for row in score_picture(
            {
                method: np.random.default_rng([seed, place]).random((8, 8))
                for place, method in enumerate(("lime", "grad-cam"))
            },
            prediction("heart", "heart", picture=name),
            view(mask),
            CLASSES,
        )
    ]
    make_table(rows, LOCALIZATION)
    pictures = [study_picture(name, level) for name, level in zip("pqr", (1, 0, 1), strict=True)]
    summary = summarise_localization(rows, pictures, resamples=200, seed=0)
    make_table(summary, LOCALIZATION_SUMMARY)
    keys = [(row["method"], row["metric"], row["clutter"], row["n"]) for row in summary]
    assert keys == [
        (method, metric, clutter, n)
        for method in ("grad-cam", "lime")
        for metric in sorted([*METRICS, *OFFSETS])
        for clutter, n in [(0, 1), (1, 2)]
    ]
    assert all(row["low"] is None for row in summary if row["n"] == 1)
    # Nobody asked whether the object matters.
    assert not any(row["causal"] for row in summary)


def test_what_matters_is_summarised_by_itself():
    rows = [
        located("a", 0.2, matters=True),
        located("b", 0.8, matters=False),
        located("c", 0.4, matters=None),
        located("d", None, matters=True),
        located("e", 1.0, matters=False, truth="scene"),
    ]
    summary = summarise_localization(rows, [study_picture(name, None) for name in "abcde"])
    make_table(summary, LOCALIZATION_SUMMARY)
    found = [
        (row["truth"], row["causal"], row["n"], row["missing"], row["mean"]) for row in summary
    ]
    assert found == [
        ("object", False, 3, 1, pytest.approx(1.4 / 3)),
        ("object", True, 1, 1, 0.2),
        ("scene", False, 1, 0, 1.0),
    ]


def test_summaries_are_sorted_though_some_clutter_is_not_known():
    pictures = [study_picture(name, level) for name, level in zip("abc", (3, None, 0), strict=True)]
    summary = summarise_localization([located(name, 1.0, matters=True) for name in "abc"], pictures)
    assert [(row["clutter"], row["causal"]) for row in summary] == [
        (0, False),
        (0, True),
        (3, False),
        (3, True),
        (None, False),
        (None, True),
    ]


def test_of_several_targets_the_first_counts():
    rows = [located("a", 0.2, target=5), located("a", 0.9, target=1)]
    (row,) = summarise_localization(rows, [study_picture("a")])
    assert (row["n"], row["mean"]) == (1, 0.2)


def test_pictures_drawn_for_being_wrong_count_only_as_errors_of_that_model():
    pictures = [study_picture("a"), study_picture("b"), study_picture("wrong-1", weight=4.5)]
    rows = [
        located("a", 0.2),
        located("b", 0.3, truth="distractor"),
        located("wrong-1", 0.7, truth="distractor"),
        # Explained for another class than the predicted one; and by a model that may be right.
        located("wrong-1", 0.0, target=0),
        located("wrong-1", 0.0, model="other"),
        located("wrong-1", 0.0, model="other", truth="distractor"),
    ]
    summary = summarise_localization(rows, pictures, wrong_of="m")
    found = [(row["model"], row["truth"], row["n"], row["mean"]) for row in summary]
    assert found == [("m", "distractor", 2, 0.5), ("m", "object", 1, 0.2)]
    summary = summarise_localization(rows, pictures)
    assert [(row["truth"], row["n"]) for row in summary] == [("distractor", 1), ("object", 1)]


# Where a coarse map lies


def bright_net(*convolutions):
    """A network that looks for brightness: every weight is positive."""
    layers = []
    for channels, kernel, stride, padding in convolutions:
        layer = torch.nn.Conv2d(channels, 1, kernel, stride, padding, bias=False)
        torch.nn.init.constant_(layer.weight, 1 / (channels * kernel * kernel))
        layers.append(layer)
    head = torch.nn.Linear(1, 2, bias=False)
    head.weight.data = torch.tensor([[1.0], [-1.0]])
    pool = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), head]
    model = torch.nn.Sequential(*layers, *pool).eval().requires_grad_(False)
    return Classifier("m", model, ("bright", "dark"), Transform()), str(len(layers) - 1)


@pytest.mark.parametrize(
    ("convolutions", "offset"),
    [
        # Cell i looks at pixel 8 i of a picture and is drawn at 8 i + 3.5, as at 16 i + 7.5.
        ([(3, 3, 2, 1)] + 2 * [(1, 3, 2, 1)], 3.5),
        ([(3, 7, 2, 3)] + 3 * [(1, 3, 2, 1)], 7.5),
        # A patch of its own a cell, as in a vision transformer: it looks where it is drawn.
        ([(3, 16, 16, 0)], 0),
    ],
)
def test_a_cam_behind_strided_convolutions_lies_half_a_cell_down_and_right(convolutions, offset):
    classifier, layer = bright_net(*convolutions)
    found = []
    for top in range(40, 56, 4):
        for left in range(40, 56, 4):
            mask = np.zeros((128, 128), bool)
            mask[top : top + 32, left : left + 32] = True
            views = [np.repeat(mask[..., None] * np.uint8(255), 3, axis=2)]
            (row,) = cam.explain_cam(classifier, "grad-cam", layer, views, [0])
            heatmap = row["heatmap"].reshape(row["height"], row["width"])
            found.append(find_offset(heatmap, mask))
    assert np.mean(found, axis=0) == pytest.approx([offset, offset], abs=0.3)


def test_an_offset_is_that_of_the_centres_of_mass():
    mask = np.zeros((6, 8), bool)
    mask[0:2, 0:2] = True
    values = np.full((6, 8), -1.0)
    values[3, 5] = 2.0
    assert find_offset(values, mask) == (4.5, 2.5)
    assert find_offset(mask.astype(float), mask) == (0, 0)
    assert find_offset(Superpixels(mask.astype(int), [-1, 3]), mask) == (0, 0)
    rows = {row["metric"]: row for row in score_localization(values, mask)}
    assert [rows[name]["value"] for name in OFFSETS] == [4.5, 2.5]
    assert all(rows[name]["chance"] is None for name in OFFSETS)

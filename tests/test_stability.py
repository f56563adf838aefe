"""Tests of how far LIME agrees with itself."""

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from torch import nn

from consilience import classifiers, explain_params, images, lime_image, stability, tables

QUICKSHIFT = {"method": "quickshift", "kernel_size": 1, "max_dist": 20}
SETTINGS = {
    "num_samples": 30,
    "batch_size": 8,
    "segmentation": QUICKSHIFT,
    "hide_color": "grey",
    "kernel_width": 0.25,
    "distance_metric": "cosine",
    "segmentation_seed": 4,
    "perturbation_seed": 7,
}


class Spy:
    """A classifier that counts what it is asked."""

    name, class_names = "net", ("a", "b", "c")

    def __init__(self):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3)
        )
        self.asked = 0
        self.classifier = classifiers.Classifier(
            "net", net.eval(), self.class_names, images.Transform()
        )

    def probabilities(self, pictures):
        self.asked += len(pictures)
        return self.classifier.probabilities(pictures)


def repeat(settings, repeats=3, targets=(1,), flat=False):
    """Explain one picture of flat patches (flat: wholly so; None: of noise), and repeat it."""
    classifier = Spy()
    patches = np.random.default_rng(1).integers(0, 256, (4, 3, 3), dtype=np.uint8)
    view = patches.repeat(10, 0).repeat(12, 1) if not flat else np.full((20, 20, 3), 9, np.uint8)
    if flat is None:
        view = np.random.default_rng(1).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    views = [{"picture": "p", "view": images.encode_png(view)}]
    predictions = [
        {"model": "net", "picture": "p", "target_index": index, "target_class": "abc"[index]}
        for index in targets
    ]
    params = explain_params.resolve_params(settings, ["p"])
    limes = list(lime_image.explain_views(classifier, views, predictions, params))
    classifier.asked = 0
    ((rows, runs),) = stability.repeat_lime(classifier, views, limes, params, repeats, 0.2)
    classifier.runs = runs
    return classifier, view, params["p"], limes, rows


def test_values_are_those_of_each_two_runs():
    classifier, view, params, limes, rows = repeat(SETTINGS)
    tables.make_table(rows, tables.LIME_STABILITY)
    seeds = stability.draw_seeds(7, 3)
    shape = limes[0]["height"], limes[0]["width"]
    segment_map = limes[0]["segment_map"].reshape(shape)
    runs = [limes[0]["weights"]]
    for seed in seeds:
        changed = params | {"random_state": seed}
        (row,) = lime_image.explain_lime(classifier, view, [1], changed, segment_map)
        runs.append(row["weights"])
    # The table of the runs holds them, and says with which seed each was made.
    table = tables.make_table(classifier.runs, tables.LIME_REPEATS).to_pylist()
    assert [(row["run"], row["perturbation_seed"]) for row in table] == [
        (1, seeds[0]),
        (2, seeds[1]),
        (3, seeds[2]),
    ]
    for row, weights in zip(table, runs[1:], strict=True):
        np.testing.assert_array_equal(row["weights"], weights)
        assert row["target_class"] == "b"
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    expected = [kendalltau(runs[a], runs[b]).statistic for a, b in pairs]
    assert rows[0]["values"] == pytest.approx(expected)
    assert rows[0]["mean"] == pytest.approx(np.mean(expected))
    assert (rows[0]["lowest"], rows[0]["highest"]) == (min(expected), max(expected))
    assert -1 <= rows[0]["lowest"] < rows[0]["highest"] < 1


def test_each_measure_has_its_row_and_superpixels_vary_only_where_they_should():
    *_, rows = repeat(SETTINGS)
    assert [(row["varied"], row["measure"]) for row in rows] == [
        ("perturbation", "kendall-tau"),
        ("perturbation", "iou"),
        ("segmentation and perturbation", "iou"),
    ]
    assert all(len(row["values"]) == 6 and row["repeats"] == 3 for row in rows)
    assert rows[1]["values"] != rows[2]["values"]
    assert [row["chance"] for row in rows] == pytest.approx([0, 0.2 / 1.8, 0.2 / 1.8])


@pytest.mark.parametrize("method", ["slic", "felzenszwalb"])
def test_segmentations_without_a_seed_have_a_reason_instead(method):
    classifier, *_, rows = repeat(SETTINGS | {"segmentation": {"method": method}})
    assert rows[2]["reason"] == f"{method} has no seed; only quickshift varies"
    assert rows[2]["values"] == []
    assert rows[2].get("mean") is None
    assert rows[0]["mean"] is not None
    assert classifier.asked == 3 * 30  # nothing is asked for what is not measured
    tables.make_table(rows, tables.LIME_STABILITY)


def test_superpixels_without_ties_have_a_reason_instead():
    noise = {"method": "quickshift", "kernel_size": 3, "max_dist": 8, "ratio": 0.2}
    classifier, *_, rows = repeat(SETTINGS | {"segmentation": noise}, flat=None)
    assert rows[2]["reason"] == "other seeds cut the same superpixels"
    assert rows[0]["mean"] is not None
    assert classifier.asked == 3 * 30


def test_targets_share_the_runs():
    classifier, *_, alone = repeat(SETTINGS, targets=(2,))
    asked = classifier.asked
    classifier, *_, rows = repeat(SETTINGS, targets=(0, 2))
    assert classifier.asked == asked == 2 * 3 * 30
    assert [row["target_index"] for row in rows] == [0, 0, 0, 2, 2, 2]
    assert rows[3:] == alone
    runs = [(row["target_index"], row["run"]) for row in classifier.runs]
    assert runs == [(0, 1), (0, 2), (0, 3), (2, 1), (2, 2), (2, 3)]
    assert not np.array_equal(classifier.runs[0]["weights"], classifier.runs[3]["weights"])


def test_runs_that_order_nothing_have_a_reason():
    *_, rows = repeat(
        SETTINGS | {"segmentation": {"method": "felzenszwalb"}, "hide_color": [0, 0, 0]}, flat=True
    )
    assert [row["reason"] for row in rows[:2]] == ["one superpixel"] * 2
    *_, limes, rows = repeat(SETTINGS)
    level = limes[0] | {"weights": np.zeros(limes[0]["segments"])}
    assert stability.measure_tau([limes[0], level]) == "constant weights"
    assert stability.measure_iou([limes[0], level], 0.2) == "constant weights"
    broken = limes[0] | {"weights": np.full(limes[0]["segments"], np.nan)}
    assert stability.measure_tau([broken, limes[0]]) == "weights with values that are not finite"


def test_equal_runs_agree_wholly():
    *_, limes, _ = repeat(SETTINGS)
    assert stability.measure_tau([limes[0]] * 3) == pytest.approx([1, 1, 1])
    assert stability.measure_iou([limes[0]] * 3, 0.2) == [1, 1, 1]


def test_seeds_differ_from_one_another_and_between_neighbours():
    seeds = [*stability.draw_seeds(0, 40), *stability.draw_seeds(1, 40)]
    assert len(set(seeds)) == 80
    assert stability.draw_seeds(0, 2) == seeds[:2]
    assert all(0 <= seed < 2**31 for seed in seeds)  # what quickshift and the table take

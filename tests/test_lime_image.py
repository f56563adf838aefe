"""Tests of LIME, held against the library."""

import os
import resource
from pathlib import Path

import lime.lime_image
import numpy as np
import pytest
import sklearn.linear_model
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lime.wrappers.scikit_image import SegmentationAlgorithm
from torch import nn

from consilience import classifiers, explain_params, images, lime_image, tables
from consilience.errors import ConsilienceError

SETTINGS = {
    "num_samples": 50,
    "batch_size": 8,
    "num_features": 2,
    "segmentation": {"method": "slic", "n_segments": 12, "compactness": 20},
    "hide_color": "mean",
    "kernel_width": 0.25,
    "distance_metric": "cosine",
    "segmentation_seed": 4,
    "perturbation_seed": 7,
}
SEGMENTATIONS = [
    {"method": "slic", "n_segments": 12, "compactness": 20},
    {"method": "quickshift", "kernel_size": 3, "max_dist": 20, "ratio": 0.3},
    {"method": "felzenszwalb", "scale": 50, "min_size": 20},
]


def with_settings(**changes):
    return SETTINGS | changes


def explain(classifier, view, target, lime_settings):
    params = explain_params.study_params(lime_settings)
    (row,) = lime_image.explain_lime(classifier, view, [target], params)
    return row


def wrap(model, classes=3):
    names = tuple(f"class {n}" for n in range(classes))
    return classifiers.Classifier("net", model.eval(), names, images.Transform())


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    return wrap(
        nn.Sequential(
            nn.Conv2d(3, 8, 5), nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(32, 3)
        )
    )


@pytest.fixture(scope="module")
def view():
    """A picture of coloured patches with some noise."""
    rng = np.random.default_rng(1)
    patches = rng.integers(0, 256, (4, 3, 3)).repeat(10, 0).repeat(12, 1)
    return np.uint8(np.clip(patches + rng.integers(-9, 10, patches.shape), 0, 255))


class Library(lime.lime_image.LimeImageExplainer):
    """The library as it is; keeps what `data_labels` returned."""

    def data_labels(self, *args, **kwargs):
        self.kept = super().data_labels(*args, **kwargs)
        return self.kept


def ask_library(classifier_fn, view, target, lime_settings, hide_color=None):
    parameters = dict(lime_settings["segmentation"])
    method = parameters.pop("method")
    if method == "quickshift":
        parameters["rng"] = lime_settings["segmentation_seed"]
    if method == "slic":
        parameters["start_label"] = 0
    explainer = Library(
        kernel_width=lime_settings["kernel_width"],
        random_state=lime_settings["perturbation_seed"],
    )
    explanation = explainer.explain_instance(
        view,
        classifier_fn,
        labels=(target,),
        top_labels=None,
        hide_color=hide_color,
        num_samples=lime_settings["num_samples"],
        batch_size=lime_settings["batch_size"],
        segmentation_fn=SegmentationAlgorithm(method, **parameters),
        distance_metric=lime_settings["distance_metric"],
        random_seed=lime_settings["segmentation_seed"],
    )
    return explainer, explanation


@pytest.mark.parametrize("segmentation", SEGMENTATIONS, ids=lambda s: s["method"])
def test_explanation_is_the_librarys(classifier, view, segmentation):
    chosen = with_settings(segmentation=segmentation)
    row = explain(classifier, view, 1, chosen)
    explainer, expected = ask_library(classifier.probabilities, view, 1, chosen)
    np.testing.assert_array_equal(row["segment_map"], expected.segments.ravel())
    assert row["segments"] == len(np.unique(expected.segments)) > 4
    weights = dict(expected.local_exp[1])
    assert row["weights"].tolist() == [weights[n] for n in range(row["segments"])]
    assert row["intercept"] == expected.intercept[1]
    assert row["r2"] == expected.score
    assert row["local_prediction"] == expected.local_pred[0]
    assert row["model_probability"] == explainer.kept[1][0, 1]
    assert row["status"] == "ok"


@pytest.mark.parametrize(
    ("name", "color"), [("mean", None), ("grey", 128), ([9, 200, 30], (9, 200, 30))]
)
def test_perturbed_pictures_are_the_librarys(classifier, view, name, color):
    chosen = with_settings(hide_color=name, num_samples=21)
    asked = {"ours": [], "library": []}

    class Spy:
        class_names = classifier.class_names

        def probabilities(self, pictures):
            asked["ours"].append(pictures)
            return classifier.probabilities(pictures)

    def spy(pictures):
        asked["library"].append(pictures)
        return classifier.probabilities(pictures)

    explain(Spy(), view, 0, chosen)
    ask_library(spy, view, 0, chosen, color)
    assert [len(batch) for batch in asked["ours"]] == [8, 8, 5]
    for ours, library in zip(asked["ours"], asked["library"], strict=True):
        assert ours.dtype == np.uint8
        np.testing.assert_array_equal(ours, library)
    np.testing.assert_array_equal(asked["ours"][0][0], view)


def test_perturbations_are_the_librarys_and_follow_their_seed(classifier, view):
    segments = np.arange(4).repeat(len(view) // 4)[:, None].repeat(view.shape[1], 1)
    args = view, view * 0, segments, classifier.probabilities, 30
    ours, _ = lime_image.LimeImageExplainer(random_state=5).data_labels(*args)
    library, _ = lime.lime_image.LimeImageExplainer(random_state=5).data_labels(*args)
    other, _ = lime_image.LimeImageExplainer(random_state=6).data_labels(*args)
    np.testing.assert_array_equal(ours, library)
    assert (ours != other).any()


@settings(max_examples=20, deadline=None)
@given(kept=st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=4))
def test_hidden_superpixels_are_filled_and_no_others(kept):
    picture = np.random.default_rng(0).integers(1, 256, (4, 5, 3), dtype=np.uint8)
    segments = np.random.default_rng(1).integers(0, 3, (4, 5))
    hidden = lime_image.hide(picture, np.zeros_like(picture), segments, np.array(kept))
    for row, result in zip(kept, hidden, strict=True):
        np.testing.assert_array_equal(result.any(-1), np.array(row)[segments])
        np.testing.assert_array_equal(result[result.any(-1)], picture[result.any(-1)])


class ShareOfWhite(nn.Module):
    """Logits whose softmax gives class 1 the mean of the left half, minus a fifth of the right."""

    def forward(self, x):
        share = 0.3 + 0.6 * x[..., :8].mean((1, 2, 3)) - 0.2 * x[..., 8:].mean((1, 2, 3))
        return torch.log(torch.stack([1 - share, share], 1))


def test_weights_of_a_linear_model_are_found():
    """Left and right half on black: weights 0.6 and -0.2, up to the ridge's shrinking."""
    white = np.full((16, 16, 3), 255, np.uint8)
    white[:, 8:] = 254  # two superpixels
    chosen = with_settings(
        num_samples=400,
        hide_color=[0, 0, 0],
        segmentation={"method": "felzenszwalb", "scale": 1, "sigma": 0, "min_size": 1},
        kernel_width=5,
    )
    row = explain(wrap(ShareOfWhite(), 2), white, 1, chosen)
    assert row["segments"] == 2
    np.testing.assert_allclose(row["weights"], [0.6, -0.2], atol=0.01)
    np.testing.assert_allclose(row["intercept"], 0.3, atol=0.01)
    np.testing.assert_allclose(row["model_probability"], 0.7, atol=0.002)
    np.testing.assert_allclose(row["local_prediction"], 0.7, atol=0.01)
    assert 0.99 < row["r2"] <= 1


@pytest.mark.parametrize("seed", ["segmentation_seed", "perturbation_seed"])
def test_each_seed_does_its_part(classifier, seed):
    # Flat patches: quickshift breaks ties only at random.
    flat = np.random.default_rng(1).integers(0, 256, (4, 3, 3), dtype=np.uint8)
    flat = flat.repeat(10, 0).repeat(12, 1)
    chosen = with_settings(segmentation={"method": "quickshift", "kernel_size": 1, "max_dist": 20})
    first = explain(classifier, flat, 1, chosen)
    again = explain(classifier, flat, 1, chosen)
    other = explain(classifier, flat, 1, chosen | {seed: 5})
    assert first["weights"].tolist() == again["weights"].tolist()
    same = np.array_equal(first["segment_map"], other["segment_map"])
    assert same == (seed == "perturbation_seed")
    assert first["weights"].tolist() != other["weights"].tolist()


def test_rows_fit_the_table(classifier, view):
    row = explain(classifier, view, 1, SETTINGS)
    named = {"model": "m", "picture": "p", "target_index": 1, "target_class": "c"} | row
    table = tables.make_table([named], tables.LIME)
    assert len(table["segment_map"][0]) == view.shape[0] * view.shape[1]


@pytest.mark.parametrize("segmentation", SEGMENTATIONS, ids=lambda s: s["method"])
def test_superpixels_are_numbered_from_zero_without_gaps(view, segmentation):
    found = lime_image.make_segmentation(segmentation, 0)(view)
    assert np.unique(found).tolist() == list(range(found.max() + 1))


def test_one_superpixel_is_named(classifier):
    blank = np.full((20, 20, 3), 90, np.uint8)
    chosen = with_settings(segmentation={"method": "felzenszwalb"}, hide_color=[0, 0, 0])
    row = explain(classifier, blank, 0, chosen)
    assert row["status"] == "one-superpixel"
    assert row["segments"] == len(row["weights"]) == 1


def test_equal_weights_are_named(view):
    row = explain(wrap(Same()), view, 0, SETTINGS)
    assert row["status"] == "constant"
    assert row["model_probability"] == pytest.approx(1 / 3)


class Same(nn.Module):
    def forward(self, x):
        return torch.zeros(len(x), 3)


@pytest.mark.filterwarnings("ignore:R.2 score is not well-defined")
def test_a_result_that_is_not_finite_is_named(classifier, view, monkeypatch):
    monkeypatch.setattr(sklearn.linear_model.Ridge, "score", lambda *args, **kwargs: float("nan"))
    assert explain(classifier, view, 0, SETTINGS)["status"] == "nan"


@pytest.mark.parametrize(
    ("target", "changes", "message"),
    [
        (3, {}, "target class 3 is out of range: model 'net' has classes 0 to 2"),
        (-1, {}, "target class -1 is out of range"),
        (0, {"num_samples": 1}, "num_samples is 1"),
        (0, {"hide_color": "pink"}, "hide_color 'pink' is not known"),
        (0, {"distance_metric": "cosin"}, "distance_metric 'cosin'"),
        (0, {"distance_metric": "correlation"}, "is not defined between"),
        (0, {"segmentation": {"method": "grid"}}, "unknown segmentation 'grid'"),
        (0, {"segmentation": {"method": "slic", "segments": 3}}, "no parameter 'segments'"),
        (
            0,
            {"segmentation": {"method": "quickshift", "kernel_size": 0}},
            "quickshift with .* fails",
        ),
    ],
)
def test_bad_input_is_said(classifier, view, target, changes, message):
    with pytest.raises(ConsilienceError, match=message):
        explain(classifier, view, target, with_settings(**changes))


def test_no_progress_bars(classifier, view, capfd):
    explain(classifier, view, 0, SETTINGS)
    assert capfd.readouterr() == ("", "")


def quarters():
    segments = np.zeros((20, 20), int)
    segments[:10, 10:], segments[10:, :10], segments[10:, 10:] = 1, 2, 3
    return segments


def test_outline_goes_around_the_strongest_positive_superpixels():
    picture = np.full((20, 20, 3), 60, np.uint8)
    weights = np.array([0.1, -0.9, 0.5, 0.3])
    drawn = lime_image.outline(picture, quarters(), weights, 1)
    yellow = (drawn == [255, 255, 0]).all(-1)
    assert yellow[9, :10].all()
    assert yellow[10:, 10].all()
    assert not yellow[:9].any()
    assert not yellow[:, 11:].any()
    assert not yellow[11:, :9].any()
    assert (drawn[~yellow] == 60).all()
    np.testing.assert_array_equal(
        lime_image.outline(picture, quarters(), -np.abs(weights), 3), picture
    )
    against = {"positive_only": False, "negative_only": True}
    drawn = lime_image.outline(picture, quarters(), weights, 1, **against)
    yellow = (drawn == [255, 255, 0]).all(-1)
    assert yellow[:10, 10].all()
    assert not yellow[11:].any()
    drawn = lime_image.outline(picture, quarters(), weights, 1, hide_rest=True)
    assert (drawn[:9, 11:] == 0).all()
    # Of superpixels below the least weight none is left.
    few = lime_image.outline(picture, quarters(), weights, 3, min_weight=0.4)
    np.testing.assert_array_equal(few, lime_image.outline(picture, quarters(), weights, 1))


def test_targets_share_superpixels_and_perturbations(classifier, view):
    params = explain_params.study_params(SETTINGS)
    asked = []

    class Spy:
        class_names = classifier.class_names

        def probabilities(self, pictures):
            asked.append(len(pictures))
            return classifier.probabilities(pictures)

    together = lime_image.explain_lime(Spy(), view, [2, 0], params)
    assert sum(asked) == SETTINGS["num_samples"]
    for target, row in zip([2, 0], together, strict=True):
        alone = explain(classifier, view, target, SETTINGS)
        assert row.keys() == alone.keys()
        for key in row:
            np.testing.assert_array_equal(row[key], alone[key], err_msg=key)
    assert together[0]["r2"] != together[1]["r2"]


def as_row(view):
    row = {"model": "net", "picture": "p", "height": len(view), "width": view.shape[1]}
    return row | {"view": images.encode_png(view)}


def test_every_prediction_of_a_view_gets_its_row(classifier, view):
    views = [as_row(view), as_row(view) | {"picture": "q"}]
    predictions = [
        {
            "model": "net",
            "picture": picture,
            "target_index": index,
            "target_class": f"class {index}",
        }
        for picture, index in [("q", 1), ("p", 0), ("q", 2)]
    ]
    params = explain_params.study_params(SETTINGS)
    by_picture = {"p": params, "q": params | {"num_samples": 20}}
    rows = list(lime_image.explain_views(classifier, views, predictions, by_picture))
    tables.make_table(rows, tables.LIME)
    found = [(row["picture"], row["target_index"], row["num_samples"]) for row in rows]
    assert found == [("p", 0, 50), ("q", 1, 20), ("q", 2, 20)]
    by_picture["q"] |= {"distance_metric": "cosin"}
    with pytest.raises(ConsilienceError, match="picture 'q': distance_metric 'cosin'"):
        list(lime_image.explain_views(classifier, views, predictions, by_picture))


@pytest.mark.parametrize(("key", "value"), [("labels", (0, 2)), ("top_labels", 1)])
def test_a_target_that_the_parameters_leave_out_is_said(classifier, view, key, value):
    params = explain_params.study_params(SETTINGS) | {key: value}
    order = np.argsort(classifier.probabilities(view[None])[0])
    wanted, other = (2, 1) if key == "labels" else (order[-1], order[0])
    lime_image.explain_lime(classifier, view, [wanted], params)
    with pytest.raises(ConsilienceError, match=f"{key} .* leave out class {other}"):
        lime_image.explain_lime(classifier, view, [other], params)


def test_a_fit_of_few_features_is_the_librarys(classifier, view):
    params = explain_params.study_params(SETTINGS) | {"num_features": 3}
    (row,) = lime_image.explain_lime(classifier, view, [1], params)
    assert row["segments"] == len(row["weights"]) > 3
    assert np.count_nonzero(row["weights"]) == 3
    assert row["status"] == "ok"


@pytest.mark.filterwarnings("error")
def test_fewer_samples_than_superpixels_are_fitted_as_the_library_does(classifier, view):
    chosen = with_settings(num_samples=5)
    row = explain(classifier, view, 1, chosen)
    _, expected = ask_library(classifier.probabilities, view, 1, chosen)
    assert row["segments"] > 5
    weights = dict(expected.local_exp[1])
    assert row["weights"].tolist() == [weights[n] for n in range(row["segments"])]
    assert (row["r2"], row["status"]) == (expected.score, "ok")


def test_probabilities_that_are_not_numbers_are_named(view):
    class Broken:
        class_names = ("a", "b")

        def probabilities(self, pictures):
            return np.tile(np.float32([0.4, np.nan]), (len(pictures), 1))

    rows = lime_image.explain_lime(Broken(), view, [0, 1], explain_params.study_params(SETTINGS))
    assert [row["status"] for row in rows] == ["constant", "nan"]
    assert np.isnan(rows[1]["weights"]).all()
    named = {"model": "m", "picture": "p", "target_index": 1, "target_class": "c"} | rows[1]
    tables.make_table([named], tables.LIME)


def test_memory_is_flat_over_many_explanations():
    tiny = wrap(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)))
    view = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    params = explain_params.study_params(with_settings(num_samples=10))
    params |= {"segmentation_params": {"n_segments": 4}}
    peaks = []
    for count in range(500):
        lime_image.explain_lime(tiny, view, [0], params)
        if count in (99, 499):
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    # Kept perturbed pictures would make it 400 times 120 kB.
    assert peaks[1] - peaks[0] < 10_000  # kB


def test_real_photograph():
    folder = os.environ.get("CONSILIENCE_REAL_DATA")
    if not folder:
        pytest.skip("CONSILIENCE_REAL_DATA names no folder of real photographs and weights")
    spec = {
        "name": "squeezenet",
        "architecture": "squeezenet1_0",
        "preprocessing": "IMAGENET1K_V1",
        "checkpoint": Path(folder) / "weights" / "squeezenet1_0_imagenet.pt",
    }
    classifier = classifiers.load_classifier(spec)
    photo = Path(folder) / "photos" / "n01443537_goldfish.JPEG"
    view = classifier.transform.fit(images.decode_image(photo.read_bytes(), photo.name))
    target = classifier.class_names.index("goldfish")
    chosen = with_settings(
        num_samples=24,
        segmentation={"method": "quickshift", "kernel_size": 4, "max_dist": 200, "ratio": 0.2},
    )
    row = explain(classifier, view, target, chosen)
    _, expected = ask_library(classifier.probabilities, view, target, chosen)
    assert row["status"] == "ok"
    assert row["model_probability"] > 0.5
    assert row["weights"].tolist() == [w for _, w in sorted(expected.local_exp[target])]

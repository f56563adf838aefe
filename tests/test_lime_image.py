"""Tests of LIME, held against the library."""

import inspect
import io
import os
import pickle
from pathlib import Path

import lime.lime_image
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lime.wrappers.scikit_image import SegmentationAlgorithm
from torch import nn

from consilience import classifiers, images, lime_image, tables
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
    row = lime_image.explain_lime(classifier, view, 1, chosen)
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

    lime_image.explain_lime(Spy(), view, 0, chosen)
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
    row = lime_image.explain_lime(wrap(ShareOfWhite(), 2), white, 1, chosen)
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
    first = lime_image.explain_lime(classifier, flat, 1, chosen)
    again = lime_image.explain_lime(classifier, flat, 1, chosen)
    other = lime_image.explain_lime(classifier, flat, 1, chosen | {seed: 5})
    assert first["weights"].tolist() == again["weights"].tolist()
    same = np.array_equal(first["segment_map"], other["segment_map"])
    assert same == (seed == "perturbation_seed")
    assert first["weights"].tolist() != other["weights"].tolist()


def test_rows_fit_the_table(classifier, view):
    row = lime_image.explain_lime(classifier, view, 1, SETTINGS)
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
    row = lime_image.explain_lime(classifier, blank, 0, chosen)
    assert row["status"] == "one-superpixel"
    assert row["segments"] == len(row["weights"]) == 1


def test_equal_weights_are_named(view):
    row = lime_image.explain_lime(wrap(Same()), view, 0, SETTINGS)
    assert row["status"] == "constant"
    assert row["model_probability"] == pytest.approx(1 / 3)


class Same(nn.Module):
    def forward(self, x):
        return torch.zeros(len(x), 3)


@pytest.mark.filterwarnings("ignore:R.2 score is not well-defined")
def test_a_result_that_is_not_finite_is_named(classifier, view, monkeypatch):
    monkeypatch.setattr(
        lime.lime_image.lime_base.Ridge, "score", lambda *args, **kwargs: float("nan")
    )
    assert lime_image.explain_lime(classifier, view, 0, SETTINGS)["status"] == "nan"


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
        lime_image.explain_lime(classifier, view, target, with_settings(**changes))


def test_no_progress_bars(classifier, view, capfd):
    lime_image.explain_lime(classifier, view, 0, SETTINGS)
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


def test_pixel_map_is_weight_per_area():
    segments = np.array([[0, 0, 0, 1], [2, 2, 1, 1]])
    row = {"height": 2, "width": 4, "segment_map": segments.ravel(), "weights": [0.3, -0.6, 0.5]}
    expected = [[0.1, 0.1, 0.1, -0.2], [0.25, 0.25, -0.2, -0.2]]
    np.testing.assert_allclose(lime_image.pixel_map(row), expected)
    np.testing.assert_allclose(lime_image.pixel_map(row).sum(), 0.2)


PREDICTIONS = [{"picture": "b.jpg", "target_index": 4}, {"picture": "a.jpg", "target_index": 2}]


def test_explain_params_hold_what_lime_is_run_with():
    params = lime_image.explain_params(SETTINGS, PREDICTIONS)
    assert list(params) == ["a.jpg", "b.jpg"]
    first = params["a.jpg"]
    library = lime.lime_image.LimeImageExplainer.explain_instance
    assert set(inspect.signature(library).parameters) - {"self", "image", "classifier_fn"} <= set(
        first
    )
    assert {"positive_only", "negative_only", "hide_rest", "min_weight"} <= set(first)
    assert first["labels"] == (2,)
    assert first["segmentation_fn"] == "slic"
    assert first["segmentation_params"] == {"n_segments": 12, "compactness": 20}
    assert first["hide_color"] is None
    assert (first["random_seed"], first["random_state"]) == (4, 7)


def test_explain_params_of_two_models_are_refused():
    with pytest.raises(ConsilienceError, match=r"'b\.jpg' has two predictions"):
        lime_image.explain_params(SETTINGS, PREDICTIONS + PREDICTIONS[:1])


def test_explain_params_come_back_and_bytes_depend_on_values_alone(tmp_path):
    params = lime_image.explain_params(with_settings(hide_color=[1, 2, 3]), PREDICTIONS)
    lime_image.write_explain_params(params, tmp_path / "one.pkl")
    assert lime_image.read_explain_params(tmp_path / "one.pkl") == params
    # Equal, and no two of its objects are one.
    apart = {
        name: {"".join(list(key)): value for key, value in values.items()}
        for name, values in params.items()
    }
    lime_image.write_explain_params(apart, tmp_path / "two.pkl")
    assert (tmp_path / "one.pkl").read_bytes() == (tmp_path / "two.pkl").read_bytes()


def test_only_builtin_types_are_written(tmp_path):
    with pytest.raises(ConsilienceError, match="built-in types only"):
        lime_image.write_explain_params({"a": {"labels": (np.int64(1),)}}, tmp_path / "p.pkl")
    assert not list(tmp_path.iterdir())


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("/nonexistent/never",)


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({"a": {"model_regressor": Harmful()}}),
        pickle.dumps({"a": {"labels": np.int64(1)}}),
        pickle.dumps({"a": {"segmentation_fn": len}}),
        pickle.dumps([1, 2]),
        pickle.dumps({"a": 1}),
        pickle.dumps({1: {}}),
        pickle.dumps({"a": {}})[:-3],
        b"",
        b"no pickle",
    ],
)
def test_only_builtin_types_are_read(tmp_path, content):
    (tmp_path / "p.pkl").write_bytes(content)
    with pytest.raises(ConsilienceError, match=r"p\.pkl"):
        lime_image.read_explain_params(tmp_path / "p.pkl")


def test_missing_params_are_said(tmp_path):
    with pytest.raises(ConsilienceError, match="cannot be read"):
        lime_image.read_explain_params(tmp_path / "p.pkl")


def test_unpickler_looks_nothing_up():
    with pytest.raises(pickle.UnpicklingError, match="mkdir"):
        lime_image._BuiltinUnpickler(io.BytesIO(pickle.dumps(Harmful()))).load()


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
    row = lime_image.explain_lime(classifier, view, target, chosen)
    _, expected = ask_library(classifier.probabilities, view, target, chosen)
    assert row["status"] == "ok"
    assert row["model_probability"] > 0.5
    assert row["weights"].tolist() == [w for _, w in sorted(expected.local_exp[target])]

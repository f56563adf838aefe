"""Tests of explanation parameters: written, read back, and held against a study."""

import inspect
import io
import os
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from consilience import classifiers, explain_params, images, lime_image, pickles, tables
from consilience.errors import ConsilienceError

SETTINGS = {
    "num_samples": 50,
    "batch_size": 8,
    "segmentation": {"method": "slic", "n_segments": 12, "compactness": 20},
    "hide_color": "mean",
    "kernel_width": 0.25,
    "distance_metric": "cosine",
    "segmentation_seed": 4,
    "perturbation_seed": 7,
}


def with_settings(**changes):
    return SETTINGS | changes


def collect(lime_settings, predictions, path=None):
    names = [row["picture"] for row in predictions]
    params = explain_params.resolve_params(lime_settings, names, path)
    return explain_params.collect_params(params, predictions, 2)


PREDICTIONS = [{"picture": "b.jpg", "target_index": 4}, {"picture": "a.jpg", "target_index": 2}]


def test_explain_params_hold_what_lime_is_run_with():
    params = collect(SETTINGS, PREDICTIONS)
    assert list(params) == ["a.jpg", "b.jpg"]
    first = params["a.jpg"]
    library = lime_image.LimeImageExplainer.explain_instance
    assert set(inspect.signature(library).parameters) - {"self", "image", "classifier_fn"} <= set(
        first
    )
    assert {"positive_only", "negative_only", "hide_rest", "min_weight"} <= set(first)
    assert first["labels"] == (2,)
    assert first["segmentation_fn"] == "slic"
    assert first["segmentation_params"] == {"n_segments": 12, "compactness": 20}
    assert first["hide_color"] is None
    assert (first["num_features"], first["outline_num_features"]) == (100_000, 2)
    assert set(first) == set(explain_params.KEYS)
    assert (first["random_seed"], first["random_state"]) == (4, 7)


def test_explain_params_of_two_models_are_refused():
    with pytest.raises(ConsilienceError, match=r"'b\.jpg' has two predictions of one class"):
        collect(SETTINGS, PREDICTIONS + PREDICTIONS[:1])


def test_explain_params_come_back_and_bytes_depend_on_values_alone(tmp_path):
    params = collect(with_settings(hide_color=[1, 2, 3]), PREDICTIONS)
    explain_params.write_params(params, tmp_path / "one.pkl")
    assert explain_params.read_params(tmp_path / "one.pkl") == params
    # Equal, and no two of its objects are one.
    apart = {
        name: {"".join(list(key)): value for key, value in values.items()}
        for name, values in params.items()
    }
    explain_params.write_params(apart, tmp_path / "two.pkl")
    assert (tmp_path / "one.pkl").read_bytes() == (tmp_path / "two.pkl").read_bytes()


def test_only_builtin_types_are_written(tmp_path):
    with pytest.raises(ConsilienceError, match="built-in types only"):
        explain_params.write_params({"a": {"labels": (np.int64(1),)}}, tmp_path / "p.pkl")
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
        explain_params.read_params(tmp_path / "p.pkl")


def test_missing_params_are_said(tmp_path):
    with pytest.raises(ConsilienceError, match="cannot be read"):
        explain_params.read_params(tmp_path / "p.pkl")


def test_unpickler_looks_nothing_up():
    with pytest.raises(pickle.UnpicklingError, match="mkdir"):
        pickles.PlainUnpickler(io.BytesIO(pickle.dumps(Harmful()))).load()


def test_several_targets_of_a_picture_are_its_labels():
    params = collect(SETTINGS, [*PREDICTIONS, {"picture": "a.jpg", "target_index": 0}])
    assert params["a.jpg"]["labels"] == (2, 0)
    assert params["b.jpg"]["labels"] == (4,)


def write(tmp_path, params):
    path = tmp_path / "given.pkl"
    path.write_bytes(pickle.dumps(params))
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"hide_color": "grey", "distance_metric": "euclidean", "kernel_width": 3},
        {"hide_color": [1, 2, 3], "segmentation": {"method": "felzenszwalb", "min_size": 9}},
        {"segmentation": {"method": "quickshift", "kernel_size": 2, "max_dist": 9, "ratio": 0.4}},
    ],
)
def test_round_trip_gives_the_same_table_to_the_byte(tmp_path, changes):
    """Export, then a study of other settings with that file: the same LIME table and export."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten())
    classifier = classifiers.Classifier("net", net.eval(), tuple("abcd"), images.Transform())
    rng = np.random.default_rng(0)
    views, predictions = [], []
    for number, name in enumerate(["b.jpg", "a.jpg"]):
        view = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        views.append({"picture": name, "view": images.encode_png(view)})
        target = {"target_index": number, "target_class": "abcd"[number]}
        predictions.append({"model": "net", "picture": name} | target)
    names = [view["picture"] for view in views]

    def study(lime_settings, given, to):
        params = explain_params.resolve_params(lime_settings, names, given)
        rows = lime_image.explain_views(classifier, views, predictions, params)
        tables.write_table(rows, tmp_path / f"{to}.parquet", tables.LIME)
        collected = explain_params.collect_params(params, predictions, 2)
        explain_params.write_params(collected, tmp_path / f"{to}.pkl")
        return [(tmp_path / f"{to}.{kind}").read_bytes() for kind in ("parquet", "pkl")]

    first = study(with_settings(**changes), None, "first")
    other = with_settings(
        num_samples=12,
        batch_size=3,
        segmentation={"method": "slic", "n_segments": 5},
        hide_color=[9, 9, 9],
        kernel_width=1,
        distance_metric="cityblock",
        segmentation_seed=1,
        perturbation_seed=1,
    )
    assert study(other, None, "other") != first
    assert explain_params.check_params(tmp_path / "first.pkl", names)
    assert study(other, tmp_path / "first.pkl", "again") == first


def test_an_entry_of_the_librarys_keys_alone_is_taken(tmp_path):
    entry = {
        "labels": [2],
        "hide_color": None,
        "top_labels": 5,
        "num_features": 1000,
        "num_samples": 100,
        "batch_size": 10,
        "segmentation_fn": None,
        "distance_metric": "cosine",
        "model_regressor": None,
        "random_seed": None,
        "positive_only": True,
        "negative_only": False,
        "hide_rest": True,
        "min_weight": 0.1,
    }
    path = write(tmp_path, {"a.jpg": entry})
    explain_params.check_params(path, ["a.jpg", "b.jpg"])
    params = explain_params.resolve_params(SETTINGS, ["a.jpg", "b.jpg"], path)
    given = params["a.jpg"]
    assert given["segmentation_fn"] == "quickshift"
    assert given["segmentation_params"] == {"kernel_size": 4, "max_dist": 200, "ratio": 0.2}
    assert (given["random_seed"], given["random_state"]) == (4, 7)  # the study's
    assert (given["num_features"], given["num_samples"], given["batch_size"]) == (1000, 100, 10)
    assert (given["labels"], given["top_labels"]) == ((2,), 5)
    assert given["kernel_width"] == 0.25
    assert params["b.jpg"] == explain_params.study_params(SETTINGS)
    exported = collect(SETTINGS, PREDICTIONS, path)["a.jpg"]
    assert exported["hide_rest"] is True
    assert (exported["min_weight"], exported["outline_num_features"]) == (0.1, 1000)
    assert (exported["labels"], exported["top_labels"]) == ((2,), None)


def test_a_seed_of_zero_and_a_grey_of_zero_are_given(tmp_path):
    path = write(tmp_path, {"a.jpg": {"random_seed": 0, "random_state": 0, "hide_color": 0}})
    (params,) = explain_params.resolve_params(SETTINGS, ["a.jpg"], path).values()
    assert (params["random_seed"], params["random_state"], params["hide_color"]) == (0, 0, 0)


def test_a_segmentation_by_name_has_the_functions_own_defaults(tmp_path):
    path = write(tmp_path, {"a.jpg": {"segmentation_fn": "slic"}})
    (params,) = explain_params.resolve_params(SETTINGS, ["a.jpg"], path).values()
    assert (params["segmentation_fn"], params["segmentation_params"]) == ("slic", {})


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("num_sample", 3, "unknown key 'num_sample'; did you mean 'num_samples'"),
        ("qqq", 3, "unknown key 'qqq'; known are labels"),
        ("labels", (), "labels is \\(\\); it must be class indices"),
        ("labels", (True,), "labels is"),
        ("labels", 3, "labels is 3"),
        ("labels", (-1,), "labels is"),
        ("hide_color", "mean", "hide_color is 'mean'"),
        ("hide_color", (1, 2), "hide_color is"),
        ("hide_color", 256, "hide_color is 256"),
        ("top_labels", 0, "top_labels is 0"),
        ("num_features", 0, "num_features is 0"),
        ("num_samples", 1, "num_samples is 1; it must be a whole number from 2"),
        ("num_samples", 10.0, "num_samples is 10.0"),
        ("num_samples", None, "num_samples is None"),
        ("batch_size", True, "batch_size is True"),
        ("segmentation_fn", "grid", "segmentation_fn is 'grid'"),
        ("segmentation_fn", ["slic"], "segmentation_fn is"),
        ("segmentation_params", {"ratio": 1}, "segmentation_params are of no segmentation"),
        ("segmentation_params", [1], "segmentation_params is"),
        ("distance_metric", "cosin", "distance_metric 'cosin'"),
        ("distance_metric", 3, "distance_metric is 3"),
        ("model_regressor", "Lasso", "model_regressor is 'Lasso'; it must be None or 'ridge'"),
        ("random_seed", 2**31, "random_seed is 2147483648"),
        ("random_state", "7", "random_state is '7'"),
        ("kernel_width", 0, "kernel_width is 0"),
        ("kernel_width", float("nan"), "kernel_width is nan"),
        ("positive_only", 1, "positive_only is 1"),
        ("negative_only", True, "positive_only and negative_only cannot both be True"),
        ("hide_rest", None, "hide_rest is None"),
        ("min_weight", "0", "min_weight is '0'"),
        ("outline_num_features", -1, "outline_num_features is -1"),
    ],
)
def test_a_wrong_entry_is_said_with_file_picture_and_key(tmp_path, key, value, said):
    path = write(tmp_path, {"a.jpg": {"num_features": 5}, "b.jpg": {key: value}})
    expected = f"given\\.pkl: picture 'b\\.jpg': {said}"
    with pytest.raises(ConsilienceError, match=expected):
        explain_params.check_params(path, ["a.jpg", "b.jpg"])
    with pytest.raises(ConsilienceError, match=expected):
        explain_params.resolve_params(SETTINGS, ["b.jpg"], path)


def test_a_parameter_that_the_segmentation_lacks_is_said(tmp_path):
    entry = {"segmentation_fn": "slic", "segmentation_params": {"ratio": 1}}
    with pytest.raises(ConsilienceError, match=r"'a\.jpg': segmentation slic has no parameter"):
        explain_params.check_params(write(tmp_path, {"a.jpg": entry}), ["a.jpg"])


def test_an_entry_of_no_picture_is_said(tmp_path):
    path = write(tmp_path, {"a.jpeg": {}})
    said = r"given\.pkl: the study has no picture 'a\.jpeg'; did you mean 'a\.jpg'"
    with pytest.raises(ConsilienceError, match=said):
        explain_params.check_params(path, ["a.jpg", "b.jpg"])

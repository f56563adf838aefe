"""LIME for pictures (Ribeiro et al., 2016, https://arxiv.org/abs/1602.04938).

``lime.lime_image.LimeImageExplainer`` is the definition and the interface; it is extended here to
build the perturbed pictures without Python loops. The same seeds give the same superpixels and
perturbations as the library, and the fit is the library's own.
"""

from __future__ import annotations

import ast
import inspect
import pickle
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import lime.lime_image
import numpy as np
import skimage.segmentation
from lime.wrappers.scikit_image import SegmentationAlgorithm
from sklearn.metrics import pairwise_distances

from .errors import ConsilienceError
from .measures import Superpixels
from .tables import write_atomically

if TYPE_CHECKING:
    from .classifiers import Classifier

SEGMENTATIONS = {
    name: getattr(skimage.segmentation, name) for name in ("quickshift", "slic", "felzenszwalb")
}
HIDE_COLORS = {"mean": None, "grey": (128, 128, 128)}
# The fit takes every superpixel, however many there are: the library's own default.
ALL_FEATURES = 100_000
# Weights that differ by less are equal: they are shares of a probability.
_EQUAL = 1e-12


class LimeImageExplainer(lime.lime_image.LimeImageExplainer):
    """The library's explainer, building perturbed pictures a batch at a time.

    Attributes
    ----------
    probabilities
        What the classifier said of the perturbed pictures, shape (samples, classes); the first
        is the picture itself.
    """

    def data_labels(self, image, fudged_image, segments, classifier_fn, num_samples, batch_size=10):
        """Perturb the picture and classify: see the library.

        Superpixels must be numbered from 0 without gaps.
        """
        features = len(np.unique(segments))
        data = self.random_state.randint(0, 2, num_samples * features)
        data = data.reshape(num_samples, features)
        data[0] = 1
        batches = np.split(data, range(batch_size, num_samples, batch_size))
        self.probabilities = np.concatenate(
            [classifier_fn(hide(image, fudged_image, segments, rows)) for rows in batches]
        )
        return data, self.probabilities


def hide(
    picture: np.ndarray, filling: np.ndarray, segment_map: np.ndarray, kept: np.ndarray
) -> np.ndarray:
    """Fill superpixels of a picture.

    Parameters
    ----------
    picture, filling
        The picture, and what a hidden pixel shows: shape (height, width, 3).
    segment_map
        Superpixel of every pixel, shape (height, width).
    kept
        Shape (n, superpixels): 1 where a superpixel is kept, 0 where it is hidden.

    Returns
    -------
    numpy.ndarray
        Shape (n, height, width, 3), of the picture's type.
    """
    return np.where(kept.astype(bool)[:, segment_map, None], picture, filling)


def make_segmentation(segmentation: Mapping, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that cuts a picture into superpixels numbered from 0 without gaps.

    Parameters
    ----------
    segmentation
        ``method`` (a key of :data:`SEGMENTATIONS`) and the parameters of that function of
        ``skimage.segmentation``.
    seed
        Seed of the method where it has one: quickshift breaks ties at random. (The library's
        ``random_seed`` no longer reaches quickshift, which calls it ``rng`` now.)

    Raises
    ------
    ConsilienceError
        If there is no such method or parameter, now or, where a value is wrong, when called.
    """
    parameters = dict(segmentation)
    method = parameters.pop("method", None)
    if method not in SEGMENTATIONS:
        raise ConsilienceError(
            f"unknown segmentation {method!r}; it must be one of {', '.join(SEGMENTATIONS)}"
        )
    known = inspect.signature(SEGMENTATIONS[method]).parameters
    if unknown := sorted(set(parameters) - set(known)):
        raise ConsilienceError(
            f"segmentation {method} has no parameter {unknown[0]!r}; it has {', '.join(known)}"
        )
    if method == "quickshift":
        parameters["rng"] = seed
    algorithm = SegmentationAlgorithm(method, **parameters)

    def segment(picture: np.ndarray) -> np.ndarray:
        try:
            found = algorithm(picture)
        except (TypeError, ValueError) as error:
            raise ConsilienceError(
                f"segmentation {method} with {parameters} fails: {error}; change its parameters"
            ) from None
        # The library counts superpixels from 0: numbered from 1, as SLIC does, the last one would
        # never be hidden.
        return np.unique(found, return_inverse=True)[1].reshape(found.shape)

    return segment


def _check_distance(metric: str) -> None:
    """Raise where a distance is unknown, or has no value for what LIME compares."""
    try:
        values = pairwise_distances([[1, 1], [1, 0], [0, 0]], [[1, 1]], metric=metric)
    except ValueError as error:
        raise ConsilienceError(f"distance_metric {metric!r}: {error}") from None
    if not np.isfinite(values).all():
        raise ConsilienceError(
            f"distance_metric {metric!r} is not defined between pictures that are wholly kept or "
            "hidden; take another, such as cosine"
        )


def explain_lime(classifier: Classifier, view: np.ndarray, target: int, settings: Mapping) -> dict:
    """Explain the probability of a class by a picture's superpixels.

    Parameters
    ----------
    classifier
        The model; it is asked for probabilities.
    view
        What the model sees: uint8, shape (height, width, 3).
    target
        Class to explain.
    settings
        ``num_samples`` and ``batch_size``; ``segmentation`` (see :func:`make_segmentation`);
        ``hide_color``: ``mean``, ``grey`` or red, green and blue; ``kernel_width`` and
        ``distance_metric``; ``segmentation_seed`` and ``perturbation_seed``.

    Returns
    -------
    dict
        The columns of the table ``LIME`` from ``height`` on. ``status`` is ``nan`` where a result
        is not finite, ``one-superpixel``, ``constant`` where all weights are equal, else ``ok``.

    Raises
    ------
    ConsilienceError
        If the target is out of range or a setting is wrong.
    """
    classes = len(classifier.class_names)
    if not 0 <= target < classes:
        raise ConsilienceError(
            f"target class {target} is out of range: model {classifier.name!r} has classes "
            f"0 to {classes - 1}"
        )
    if settings["num_samples"] < 2:
        raise ConsilienceError(
            f"num_samples is {settings['num_samples']}; LIME fits a line to at least 2"
        )
    _check_distance(settings["distance_metric"])
    segment = make_segmentation(settings["segmentation"], settings["segmentation_seed"])
    explainer = LimeImageExplainer(
        kernel_width=settings["kernel_width"], random_state=settings["perturbation_seed"]
    )
    explanation = explainer.explain_instance(
        view,
        classifier.probabilities,
        labels=(target,),
        top_labels=None,
        hide_color=_hide_color(settings),
        num_features=ALL_FEATURES,
        num_samples=settings["num_samples"],
        batch_size=settings["batch_size"],
        segmentation_fn=segment,
        distance_metric=settings["distance_metric"],
        random_seed=settings["segmentation_seed"],
    )
    weights = np.zeros(len(explanation.local_exp[target]))
    for superpixel, weight in explanation.local_exp[target]:
        weights[superpixel] = weight
    row = {
        "height": view.shape[0],
        "width": view.shape[1],
        "segment_map": explanation.segments.ravel().astype(np.int32),
        "segments": len(weights),
        "weights": weights,
        "intercept": float(explanation.intercept[target]),
        "r2": float(explanation.score),
        "local_prediction": float(explanation.local_pred[0]),
        "model_probability": float(explainer.probabilities[0, target]),
        "num_samples": settings["num_samples"],
        "segmentation_seed": settings["segmentation_seed"],
        "perturbation_seed": settings["perturbation_seed"],
    }
    numbers = [*weights, row["intercept"], row["r2"], row["local_prediction"]]
    if not np.isfinite(numbers).all():
        status = "nan"
    elif len(weights) == 1:
        status = "one-superpixel"
    else:
        status = "constant" if np.ptp(weights) <= _EQUAL else "ok"
    return {**row, "status": status}


def _hide_color(settings: Mapping) -> tuple[int, int, int] | None:
    color = settings["hide_color"]
    if isinstance(color, str):
        if color not in HIDE_COLORS:
            raise ConsilienceError(f"hide_color {color!r} is not known; give mean, grey or [r,g,b]")
        return HIDE_COLORS[color]
    return tuple(color)


def outline(
    view: np.ndarray, segment_map: np.ndarray, weights: np.ndarray, num_features: int
) -> np.ndarray:
    """Draw yellow boundaries around the superpixels that speak most for the class.

    Parameters
    ----------
    view
        uint8, shape (height, width, 3).
    segment_map
        Superpixel of every pixel, shape (height, width).
    weights
        Weight of every superpixel; only positive ones are outlined.
    num_features
        How many superpixels at most.

    Returns
    -------
    numpy.ndarray
        uint8, shape (height, width, 3).
    """
    explanation = lime.lime_image.ImageExplanation(view, np.asarray(segment_map))
    explanation.local_exp[0] = sorted(enumerate(weights), key=lambda pair: -abs(pair[1]))
    picture, mask = explanation.get_image_and_mask(0, num_features=num_features, **_SHOWN)
    return np.uint8(np.rint(255 * skimage.segmentation.mark_boundaries(picture, mask)))


# How the outlined picture is asked for, beside the number of superpixels.
_SHOWN = {"positive_only": True, "negative_only": False, "hide_rest": False, "min_weight": 0.0}


def pixel_map(row: Mapping) -> np.ndarray:
    """Spread each superpixel's weight evenly over its pixels: weight per pixel of area.

    Parameters
    ----------
    row
        ``height``, ``width``, ``segment_map`` and ``weights`` of the table ``LIME``.

    Returns
    -------
    numpy.ndarray
        float64, shape (height, width); sums to the sum of the weights.
    """
    shape = row["height"], row["width"]
    superpixels = Superpixels(np.reshape(row["segment_map"], shape), row["weights"])
    return (superpixels.weights / superpixels.areas)[superpixels.segment_map]


def explain_params(settings: Mapping, predictions: Iterable[Mapping]) -> dict[str, dict]:
    """Collect the parameters that LIME is run with.

    Parameters
    ----------
    settings
        As for :func:`explain_lime`, and ``num_features``: the superpixels to outline.
    predictions
        Rows of the table ``PREDICTIONS`` of one model.

    Returns
    -------
    dict
        By picture, in the order of their names: the arguments of the library's
        ``explain_instance`` (``segmentation_fn`` by its name), of ``get_image_and_mask`` (its
        ``num_features``, another than the fit's, as ``outline_num_features``), and what is needed
        besides to run it again: ``segmentation_params``, and ``kernel_width`` and
        ``random_state`` of ``LimeImageExplainer``. Built-in types only.

    Raises
    ------
    ConsilienceError
        If a picture occurs twice, as in the predictions of several models.
    """
    segmentation = dict(settings["segmentation"])
    method = segmentation.pop("method")
    color = _hide_color(settings)
    common = {
        "hide_color": color,
        "top_labels": None,
        "num_features": ALL_FEATURES,
        "num_samples": settings["num_samples"],
        "batch_size": settings["batch_size"],
        "segmentation_fn": method,
        "segmentation_params": segmentation,
        "distance_metric": settings["distance_metric"],
        "model_regressor": None,  # the library's ridge regression
        "random_seed": settings["segmentation_seed"],
        "kernel_width": settings["kernel_width"],
        "random_state": settings["perturbation_seed"],
        "outline_num_features": settings["num_features"],
        **_SHOWN,
    }
    params: dict[str, dict] = {}
    for row in sorted(predictions, key=lambda row: row["picture"]):
        if row["picture"] in params:
            raise ConsilienceError(
                f"picture {row['picture']!r} has two predictions; export one model at a time"
            )
        params[row["picture"]] = {"labels": (row["target_index"],), **common}
    return params


def write_explain_params(params: Mapping[str, Mapping], path: str | Path) -> None:
    """Write explanation parameters as a pickle; equal parameters give equal bytes.

    Raises
    ------
    ConsilienceError
        If a value is not of a built-in type.
    """
    try:
        # A pickle says which of its objects are one and the same. Read back from their text, that
        # depends on their values alone.
        params = ast.literal_eval(repr(params))
    except (SyntaxError, ValueError):
        raise ConsilienceError(
            f"{path}: explanation parameters must be of built-in types only"
        ) from None
    data = pickle.dumps(params, protocol=4)
    write_atomically(path, lambda part: Path(part).write_bytes(data))


class _BuiltinUnpickler(pickle.Unpickler):
    """Builds numbers, text, lists, tuples, dictionaries; nothing that a pickle must look up."""

    def find_class(self, module, name):
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")


def read_explain_params(path: str | Path) -> dict[str, dict]:
    """Read explanation parameters, executing nothing that the file may hold.

    Raises
    ------
    ConsilienceError
        If the file is missing, is no pickle, holds anything but built-in types, or is no
        dictionary of dictionaries by name.
    """
    try:
        with open(path, "rb") as file:
            params = _BuiltinUnpickler(file).load()
    except OSError as error:
        raise ConsilienceError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception as error:  # a broken pickle raises all kinds
        raise ConsilienceError(
            f"{path}: not a pickle of built-in types only ({error}); export it again"
        ) from None
    if not isinstance(params, dict) or not all(
        isinstance(name, str)
        and isinstance(values, dict)
        and all(isinstance(key, str) for key in values)
        for name, values in params.items()
    ):
        raise ConsilienceError(f"{path}: must hold a dictionary of parameters for each picture")
    return params

"""LIME for pictures (Ribeiro et al., 2016, https://arxiv.org/abs/1602.04938).

``lime.lime_image.LimeImageExplainer`` is the definition and the interface; it is extended here to
build the perturbed pictures without Python loops and to explain several classes at one cost. The
same seeds give the same superpixels and perturbations as the library, and the fit is the
library's own.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import skimage.segmentation

from .deferred import deferring
from .errors import ConsilienceError
from .images import decode_png
from .progress import Progress, track

with deferring("sklearn"):
    import lime.lime_base
    import lime.lime_image
    from lime.wrappers.scikit_image import SegmentationAlgorithm

if TYPE_CHECKING:
    from .classifiers import Classifier

SEGMENTATIONS = {
    name: getattr(skimage.segmentation, name) for name in ("quickshift", "slic", "felzenszwalb")
}
# How the outlined picture is asked for, beside the number of superpixels.
SHOWN = {"positive_only": True, "negative_only": False, "hide_rest": False, "min_weight": 0.0}
# Weights that differ by less are equal: they are shares of a probability.
_EQUAL = 1e-12


class _LimeBase(lime.lime_base.LimeBase):
    """The library's fit; keeps each label's, of which the explanation has R² of the last only."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.fits = {}

    def explain_instance_with_data(self, data, labels, distances, label, *args, **kwargs):
        if np.isfinite(labels[:, label]).all():
            fit = super().explain_instance_with_data(
                data, labels, distances, label, *args, **kwargs
            )
        else:  # the regression would raise
            nan = float("nan")
            fit = nan, [(n, nan) for n in range(data.shape[1])], nan, np.array([nan])
        self.fits[label] = fit
        return fit


class LimeImageExplainer(lime.lime_image.LimeImageExplainer):
    """The library's explainer, building perturbed pictures a batch at a time.

    Attributes
    ----------
    probabilities
        What the classifier said of the perturbed pictures, shape (samples, classes); the first
        is the picture itself.
    fits
        By label: intercept, weights (pairs of superpixel and weight), R² and local prediction.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.base = _LimeBase(self.base.kernel_fn, self.base.verbose, self.base.random_state)

    @property
    def fits(self) -> dict[int, tuple]:
        return self.base.fits

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
        The picture, and what a hidden pixel shows: uint8, shape (height, width, 3).
    segment_map
        Superpixel of every pixel, shape (height, width).
    kept
        Shape (n, superpixels): 1 where a superpixel is kept, 0 where it is hidden.

    Returns
    -------
    numpy.ndarray
        uint8, shape (n, height, width, 3).
    """
    # Whole bytes as masks, in one buffer: several times as fast as choosing a pixel at a time.
    all_bits = np.negative(kept.astype(np.uint8))
    values = np.take(all_bits, segment_map.ravel().repeat(picture.shape[-1]), axis=1)
    values &= (picture ^ filling).ravel()
    values ^= filling.ravel()
    return values.reshape(len(kept), *picture.shape)


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
        except (OverflowError, TypeError, ValueError) as error:
            raise ConsilienceError(
                f"segmentation {method} with {parameters} fails: {error}; change its parameters"
            ) from None
        # The library counts superpixels from 0: numbered from 1, as SLIC does, the last one would
        # never be hidden.
        return np.unique(found, return_inverse=True)[1].reshape(found.shape)

    return segment


def cut_superpixels(view: np.ndarray, params: Mapping) -> np.ndarray:
    """Return the superpixel of every pixel of a view, shape (height, width), numbered from 0.

    ``params`` are those of :func:`explain_lime`.
    """
    segmentation = {"method": params["segmentation_fn"], **params["segmentation_params"]}
    return make_segmentation(segmentation, params["random_seed"])(view)


def check_distance(metric: str) -> None:
    """Raise where a distance is unknown, or has no value for what LIME compares.

    Raises
    ------
    ConsilienceError
        Says which, and what to take instead.
    """
    from sklearn.metrics import pairwise_distances  # which those who only draw do without

    try:
        values = pairwise_distances([[1, 1], [1, 0], [0, 0]], [[1, 1]], metric=metric)
    except (TypeError, ValueError) as error:
        raise ConsilienceError(f"distance_metric {metric!r}: {error}") from None
    if not np.isfinite(values).all():
        raise ConsilienceError(
            f"distance_metric {metric!r} is not defined between pictures that are wholly kept or "
            "hidden; take another, such as cosine"
        )


def explain_lime(
    classifier: Classifier,
    view: np.ndarray,
    targets: Sequence[int],
    params: Mapping,
    segment_map: np.ndarray | None = None,
) -> list[dict]:
    """Explain the probabilities of classes by a picture's superpixels.

    The classes share superpixels, perturbed pictures and what the model says of these.

    Parameters
    ----------
    classifier
        The model; it is asked for probabilities.
    view
        What the model sees: uint8, shape (height, width, 3).
    targets
        Classes to explain.
    params
        As :func:`consilience.explain_params.resolve_params` gives them.
    segment_map
        Superpixel of every pixel, shape (height, width), numbered from 0 without gaps; by default
        they are cut here.

    Returns
    -------
    list of dict
        A target each, the columns of the table ``LIME`` from ``height`` on. ``status`` is ``nan``
        where a result is not finite, ``one-superpixel``, ``constant`` where all weights are
        equal, else ``ok``.

    Raises
    ------
    ConsilienceError
        If a target is out of range or not among the labels that ``params`` want explained, or a
        parameter is wrong.
    """
    classes = len(classifier.class_names)
    for target in targets:
        if not 0 <= target < classes:
            raise ConsilienceError(
                f"target class {target} is out of range: model {classifier.name!r} has classes "
                f"0 to {classes - 1}"
            )
    if params["num_samples"] < 2:
        raise ConsilienceError(
            f"num_samples is {params['num_samples']}; LIME fits a line to at least 2"
        )
    check_distance(params["distance_metric"])
    if segment_map is None:
        segment_map = cut_superpixels(view, params)
    explainer = LimeImageExplainer(
        kernel_width=params["kernel_width"], random_state=params["random_state"]
    )
    counted = Progress(params["num_samples"], "perturbed pictures")

    def ask(pictures: np.ndarray) -> np.ndarray:
        probabilities = classifier.probabilities(pictures)
        counted.advance(len(pictures))
        return probabilities

    explanation = explainer.explain_instance(
        view,
        ask,
        labels=tuple(dict.fromkeys(targets)),
        top_labels=None,
        hide_color=params["hide_color"],
        num_features=params["num_features"],
        num_samples=params["num_samples"],
        batch_size=params["batch_size"],
        segmentation_fn=lambda _: segment_map,
        distance_metric=params["distance_metric"],
        random_seed=params["random_seed"],
    )
    _check_labels(targets, params, explainer.probabilities[0])
    common = {
        "height": view.shape[0],
        "width": view.shape[1],
        "segment_map": explanation.segments.ravel().astype(np.int32),
        "num_samples": params["num_samples"],
        "segmentation_seed": params["random_seed"],
        "perturbation_seed": params["random_state"],
    }
    superpixels = int(explanation.segments.max()) + 1
    return [
        common
        | {"model_probability": float(explainer.probabilities[0, target])}
        | _describe_fit(explainer.fits[target], superpixels)
        for target in targets
    ]


def _describe_fit(fit: tuple, superpixels: int) -> dict:
    """Bring a label's fit into the table's columns and say what is wrong with it."""
    intercept, pairs, r2, local_prediction = fit
    weights = np.zeros(superpixels)  # a superpixel that was not selected has no weight
    for superpixel, weight in pairs:
        weights[superpixel] = weight
    row = {
        "segments": superpixels,
        "weights": weights,
        "intercept": float(intercept),
        "r2": float(r2),
        "local_prediction": float(local_prediction[0]),
    }
    if not np.isfinite([*weights, row["intercept"], row["r2"], row["local_prediction"]]).all():
        status = "nan"
    elif superpixels == 1:
        status = "one-superpixel"
    else:
        status = "constant" if np.ptp(weights) <= _EQUAL else "ok"
    return row | {"status": status}


def _check_labels(targets: Sequence[int], params: Mapping, probabilities: np.ndarray) -> None:
    """Raise where parameters from a file want other classes explained than the study."""
    if params.get("top_labels"):
        said = f"top_labels {params['top_labels']}"
        labels = np.argsort(probabilities)[-params["top_labels"] :].tolist()
    elif params.get("labels"):
        said, labels = f"labels {params['labels']}", params["labels"]
    else:
        return
    for target in targets:
        if target not in labels:
            raise ConsilienceError(
                f"{said} leave out class {target}, which this study explains; change them, or the "
                "study's target"
            )


def explain_views(
    classifier: Classifier,
    views: Iterable[Mapping],
    predictions: Iterable[Mapping],
    params: Mapping[str, Mapping],
) -> Iterator[dict]:
    """Explain every target of each view.

    Parameters
    ----------
    classifier
        The model.
    views
        Rows of ``VIEWS``.
    predictions
        Rows of ``PREDICTIONS``: any number of targets a picture.
    params
        By picture, as :func:`explain_lime` takes them.

    Yields
    ------
    dict
        Rows of ``LIME``, in the order of the views.

    Raises
    ------
    ConsilienceError
        As :func:`explain_lime` does; names the picture.
    """
    targets = defaultdict(list)
    for row in predictions:
        targets[row["picture"]].append(row)
    for view in track(views, "pictures"):
        name = view["picture"]
        indices = [row["target_index"] for row in targets[name]]
        try:
            found = explain_lime(classifier, decode_png(view["view"]), indices, params[name])
        except ConsilienceError as error:
            raise ConsilienceError(f"picture {name!r}: {error}") from None
        for target, row in zip(targets[name], found, strict=True):
            keys = ("model", "picture", "target_index", "target_class")
            yield {key: target[key] for key in keys} | row


def outline(
    view: np.ndarray,
    segment_map: np.ndarray,
    weights: np.ndarray,
    num_features: int,
    **shown: bool | float,
) -> np.ndarray:
    """Draw yellow boundaries around the superpixels that speak most for the class.

    Parameters
    ----------
    view
        uint8, shape (height, width, 3).
    segment_map
        Superpixel of every pixel, shape (height, width).
    weights
        Weight of every superpixel; only positive ones are outlined, unless ``shown`` says else.
    num_features
        How many superpixels at most.
    shown
        ``positive_only``, ``negative_only``, ``hide_rest`` and ``min_weight`` of the library's
        ``get_image_and_mask``; by default :data:`SHOWN`.

    Returns
    -------
    numpy.ndarray
        uint8, shape (height, width, 3).
    """
    explanation = lime.lime_image.ImageExplanation(view, np.asarray(segment_map))
    explanation.local_exp[0] = sorted(enumerate(weights), key=lambda pair: -abs(pair[1]))
    picture, mask = explanation.get_image_and_mask(
        0, num_features=num_features, **{**SHOWN, **shown}
    )
    return np.uint8(np.rint(255 * skimage.segmentation.mark_boundaries(picture, mask)))

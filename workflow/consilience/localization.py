"""How right an explanation is about where the object is, scored against the exact mask."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from .errors import ConsilienceError
from .measures import (
    Explanation,
    UndefinedError,
    pixel_values,
    shape_of,
    soft_iou,
    summarise_rows,
    top_region,
)


def score_pointing(values: np.ndarray, inside: np.ndarray) -> float:
    """Return the share of the maximum's places that lie inside the mask: the pointing game.

    0 or 1 where the maximum is one place, between where it is tied (LIME's is a whole superpixel).
    Higher is better; a random place scores the mask's share of the area. The original allows for a
    miss by 15 pixels; here a miss is a miss.

    Source: Zhang et al. 2018, "Top-Down Neural Attention by Excitation Backprop".
    """
    return float(inside[values == values.max()].mean())


def score_iou(values: np.ndarray, inside: np.ndarray) -> float:
    """Return the IoU of the mask and the top region of the mask's own area.

    From 0 to 1, higher is better; a random region scores a / (2 - a), a being the mask's share of
    the area. Ties at the threshold belong to the region in part
    (:func:`consilience.measures.top_region`).

    Source: r / (2 - r) of the relevance rank accuracy r of Arras et al. 2022, "CLEVR-XAI".
    """
    return soft_iou(top_region(values, inside.sum()), inside.astype(np.float64))


def score_mass(values: np.ndarray, inside: np.ndarray) -> float:
    """Return the share of the map's positive part that lies inside the mask.

    From 0 to 1, higher is better; a map without regard to the mask scores the mask's share of the
    area on average. It is moved by how a method scales its map: a map that is nowhere near 0 scores
    low wherever its maximum is.

    Source: relevance mass accuracy of Arras et al. 2022, "CLEVR-XAI".
    """
    positive = np.maximum(values, 0)
    if not positive.any():
        raise UndefinedError("no positive value")
    return float(positive[inside].sum() / positive.sum())


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "pointing-game": score_pointing,
    "iou": score_iou,
    "mass-inside": score_mass,
}
"""Every measure by its name in the table ``LOCALIZATION``, of float64 values over pixels, shape
(n,), neither constant nor without a finite value, and whether each lies inside the mask, shape
(n,)."""


def score_localization(explanation: Explanation, mask_visible: np.ndarray) -> list[dict]:
    """Score one explanation against the mask of what is seen of the object.

    Parameters
    ----------
    explanation
        A CAM's map, float, shape (height, width), or LIME's superpixels.
    mask_visible
        Shape (height, width); 0 is outside.

    Returns
    -------
    list of dict
        Rows of the table ``LOCALIZATION`` without ``model``, ``picture`` and ``method``, one a
        metric of :data:`METRICS`. ``chance`` is what a map without regard to the mask scores. An
        undefined ``value`` is None and has its ``reason``.

    Raises
    ------
    ConsilienceError
        If the mask has another shape than the explanation.
    """
    mask = np.asarray(mask_visible)
    if mask.shape != shape_of(explanation) or mask.ndim != 2:
        raise ConsilienceError(
            f"an explanation of shape {shape_of(explanation)} cannot be scored against a mask of "
            f"shape {mask.shape}; both must be in the geometry that the model saw"
        )
    inside = mask.ravel() != 0
    area = float(inside.mean())
    rows = []
    for name, score in METRICS.items():
        value = reason = None
        try:
            if not inside.any():
                raise UndefinedError("empty mask")
            if inside.all():
                raise UndefinedError("mask covers everything")
            value = score(pixel_values(explanation), inside)
        except UndefinedError as error:
            reason = str(error)
        chance = area / (2 - area) if name == "iou" else area
        rows.append({"metric": name, "value": value, "chance": chance, "reason": reason})
    return rows


def summarise_localization(
    rows: Iterable[Mapping],
    pictures: Iterable[Mapping],
    resamples: int = 2000,
    seed: int = 0,
) -> list[dict]:
    """Summarise rows of the table ``LOCALIZATION`` over pictures.

    Parameters
    ----------
    rows
        Of any number of models, methods and pictures.
    pictures
        With ``name`` and ``clutter``, such as rows of the table ``PICTURES``.
    resamples, seed
        Of the percentile bootstrap over pictures.

    Returns
    -------
    list of dict
        Rows of the table ``LOCALIZATION_SUMMARY``, one a model, method, metric and clutter level,
        sorted. Undefined values are counted and left out of all else.
    """
    return summarise_rows(rows, pictures, ("model", "method", "metric"), resamples, seed)

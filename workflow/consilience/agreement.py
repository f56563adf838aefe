"""How far two explanations of one picture agree.

The CAMs of a picture share their activations: they are not three witnesses. LIME against a CAM is
the independent evidence (:func:`is_independent`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations

import numpy as np

from .errors import ConsilienceError
from .measures import (
    Explanation,
    Superpixels,
    UndefinedError,
    pixel_values,
    rank_values,
    require_varying,
    shape_of,
    soft_iou,
    summarise_rows,
    top_region,
)

LIME = "lime"
"""The method whose explanations do not share the CAMs' activations."""

HEADLINE = ("spearman", "iou", "superpixel-spearman")
"""The measures that are taken unless others are asked for."""


class Pearson:
    """Pearson's r. From -1 to 1, higher agrees, chance 0.

    Source: Pearson 1895. Moved by how a method scales its map, which is no part of what it
    claims; the ranks' measures are not.
    """

    over = "pixels"

    def prepare(self, values: np.ndarray, settings: Mapping) -> np.ndarray:
        """Work out, once per explanation, what every comparison needs of it."""
        centred = values - values.mean()
        return centred / np.linalg.norm(centred)

    def compare(self, a: np.ndarray, b: np.ndarray) -> float:
        """Return the value for two prepared explanations; symmetric."""
        return float(np.clip(a @ b, -1, 1))

    def chance(self, settings: Mapping) -> float:
        """Return the value expected of explanations that have nothing to do with one another."""
        return 0.0


class Spearman(Pearson):
    """Spearman's ρ over pixels: Pearson's r of the ranks. From -1 to 1, higher agrees, chance 0.

    Source: Spearman 1904; between saliency maps, Adebayo et al. 2018, "Sanity Checks for Saliency
    Maps". Neighbouring pixels are alike, so two unrelated smooth maps stray from 0 much further
    than the number of pixels suggests: read the value, not a p-value.
    """

    def prepare(self, values: np.ndarray, settings: Mapping) -> np.ndarray:
        return super().prepare(rank_values(values), settings)


class SuperpixelSpearman(Spearman):
    """Spearman's ρ over LIME's superpixels. From -1 to 1, higher agrees, chance 0.

    LIME gives its weights, a CAM the sum of its map in each superpixel: both say how much of the
    decision lies in the superpixel. As both grow with its area, so may their agreement. Two
    superpixels can only give -1 or 1.
    """

    over = "superpixels"


class TopIou:
    """IoU of the two top regions. From 0 to 1, higher agrees.

    The top region is the share ``top_fraction`` of the area with the highest values; places tied
    at its threshold belong to it in part (:func:`consilience.measures.top_region`), and the IoU
    is that of the memberships (:func:`consilience.measures.soft_iou`). Chance is not 0: two
    regions that each cover the share f at random overlap in f / (2 - f), 0.11 for f = 0.2; more
    where both maps have large ties.

    Source: Jaccard 1901; for memberships, Ružička 1958.
    """

    over = "pixels"

    def prepare(self, values: np.ndarray, settings: Mapping) -> np.ndarray:
        return top_region(values, settings["top_fraction"] * len(values))

    def compare(self, a: np.ndarray, b: np.ndarray) -> float:
        return soft_iou(a, b)

    def chance(self, settings: Mapping) -> float:
        return settings["top_fraction"] / (2 - settings["top_fraction"])


METRICS = {
    "spearman": Spearman(),
    "iou": TopIou(),
    "superpixel-spearman": SuperpixelSpearman(),
    "pearson": Pearson(),
}
"""Every measure of agreement by its name in the table ``AGREEMENT``."""


def is_independent(method_a: str, method_b: str) -> bool:
    """Say whether two methods' agreement is independent evidence: exactly one of them is LIME."""
    return (method_a == LIME) != (method_b == LIME)


def _values(explanation: Explanation, over: str, superpixels: Superpixels | None) -> np.ndarray:
    """Return an explanation as a vector over pixels or over LIME's superpixels."""
    pixels = pixel_values(explanation)
    if over == "pixels":
        return pixels
    if superpixels is None:
        raise UndefinedError("no LIME that gives superpixels")
    if len(superpixels.weights) < 2:
        raise UndefinedError("one superpixel")
    if explanation is superpixels:
        return superpixels.weights
    return require_varying(superpixels.sum_over(pixels), "map over superpixels")


def compare_explanations(
    maps: Mapping[str, Explanation], settings: Mapping | None = None
) -> list[dict]:
    """Measure how far each two explanations of one picture agree.

    Parameters
    ----------
    maps
        By method: a CAM's map, float, shape (height, width), or LIME's :class:`Superpixels`. All
        of one shape. Where there are several LIMEs, the first by name gives the superpixels.
    settings
        The study's ``agreement``: ``top_fraction`` (0.2), in (0, 1), and ``metrics``, names of
        :data:`METRICS` (:data:`HEADLINE`).

    Returns
    -------
    list of dict
        Rows of the table ``AGREEMENT`` without ``model`` and ``picture``, by pair (sorted) and
        metric (in the order asked for). An undefined ``value`` is None and has its ``reason``.

    Raises
    ------
    ConsilienceError
        If the explanations have different shapes, or a setting does not exist or fit.
    """
    settings = {"top_fraction": 0.2, "metrics": HEADLINE} | dict(settings or {})
    if not 0 < settings["top_fraction"] < 1:
        raise ConsilienceError(
            f"agreement.top_fraction: {settings['top_fraction']} is not between 0 and 1"
        )
    for metric in settings["metrics"]:
        if metric not in METRICS:
            raise ConsilienceError(
                f"agreement.metrics: {metric!r} is not known; it must be one of "
                f"{', '.join(METRICS)}"
            )
    methods = sorted(maps)
    shapes = {method: shape_of(maps[method]) for method in methods}
    if len(set(shapes.values())) > 1 or any(len(shape) != 2 for shape in shapes.values()):
        raise ConsilienceError(
            f"explanations of one picture must all have one (height, width), not {shapes}; "
            "run the steps that explain it again"
        )
    limes = [maps[method] for method in methods if isinstance(maps[method], Superpixels)]

    # Ranks and regions once per explanation, not once per pair; a text is why there is none.
    prepared: dict[tuple[str, str], np.ndarray | str] = {}
    for method in methods:
        for name in settings["metrics"]:
            metric = METRICS[name]
            try:
                values = _values(maps[method], metric.over, limes[0] if limes else None)
                prepared[method, name] = metric.prepare(values, settings)
            except UndefinedError as reason:
                prepared[method, name] = str(reason)

    rows = []
    for pair in combinations(methods, 2):
        for name in settings["metrics"]:
            metric = METRICS[name]
            a, b = (prepared[method, name] for method in pair)
            # Method by method, each reason once: both may lack the same thing.
            reasons: dict[str, list[str]] = {}
            for method, value in zip(pair, (a, b), strict=True):
                if isinstance(value, str):
                    reasons.setdefault(value, []).append(method)
            said = [f"{' and '.join(who)}: {why}" for why, who in reasons.items()]
            rows.append(
                {
                    "method_a": pair[0],
                    "method_b": pair[1],
                    "metric": name,
                    "value": None if said else metric.compare(a, b),
                    "chance": metric.chance(settings),
                    "reason": "; ".join(said) or None,
                }
            )
    return rows


def summarise_agreement(
    rows: Iterable[Mapping],
    pictures: Iterable[Mapping],
    resamples: int = 2000,
    seed: int = 0,
) -> list[dict]:
    """Summarise rows of the table ``AGREEMENT`` over pictures.

    Parameters
    ----------
    rows
        Of any number of models and pictures.
    pictures
        With ``name`` and ``clutter``, such as rows of the table ``PICTURES``.
    resamples, seed
        Of the percentile bootstrap over pictures.

    Returns
    -------
    list of dict
        Rows of the table ``AGREEMENT_SUMMARY``, one a model, pair, metric and clutter level,
        sorted. Undefined values are counted and left out of all else.
    """
    keys = ("model", "method_a", "method_b", "metric")
    return [
        row | {"independent": is_independent(row["method_a"], row["method_b"])}
        for row in summarise_rows(rows, pictures, keys, resamples, seed)
    ]

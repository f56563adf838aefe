"""What agreement and localisation share: explanations as vectors, top regions, summaries.

An explanation is a map (a CAM's heatmap) or weighted superpixels (LIME), in the geometry of what
the model saw. Whatever is compared is compared as float64 vectors over the same places.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .errors import ConsilienceError

# Differences below this are the last digits of a sum, not an explanation. Maps are scaled to
# [0, 1] and weights are in units of probability.
_EQUAL = 1e-12


class UndefinedError(Exception):
    """A measure has no value here; the message is the reason that goes into the table."""


@dataclass(frozen=True, eq=False)
class Superpixels:
    """LIME's explanation of one picture.

    Attributes
    ----------
    segment_map
        Integers, shape (height, width): the superpixel of every pixel, 0 … segments - 1.
    weights
        Float, shape (segments,): the weight of each superpixel.

    Raises
    ------
    ConsilienceError
        If the superpixels and the weights do not belong together.
    """

    segment_map: np.ndarray
    weights: np.ndarray

    def __post_init__(self):
        object.__setattr__(self, "segment_map", np.asarray(self.segment_map))
        object.__setattr__(self, "weights", np.asarray(self.weights, dtype=np.float64))
        segments, weights = self.segment_map, self.weights
        if segments.ndim != 2 or not np.issubdtype(segments.dtype, np.integer) or not segments.size:
            raise ConsilienceError(
                f"superpixels of shape {segments.shape} and type {segments.dtype} are no "
                "explanation; give integers of shape (height, width)"
            )
        found = np.unique(segments)
        if weights.ndim != 1 or not np.array_equal(found, np.arange(len(weights))):
            raise ConsilienceError(
                f"{weights.size} weights do not fit {found.size} superpixels numbered "
                f"{found[0]} to {found[-1]}; number them from 0 without gaps, one weight each"
            )

    @cached_property
    def areas(self) -> np.ndarray:
        """Pixels of each superpixel, shape (segments,)."""
        return np.bincount(self.segment_map.ravel())

    def sum_over(self, values: np.ndarray) -> np.ndarray:
        """Sum a vector over pixels within each superpixel, shape (segments,)."""
        return np.bincount(self.segment_map.ravel(), weights=values, minlength=len(self.weights))

    def reweigh(self, weights: np.ndarray) -> Superpixels:
        """Return the same superpixels with other weights, shape (segments,), float.

        Raises
        ------
        ConsilienceError
            If there are more or fewer weights than superpixels.
        """
        weights = np.asarray(weights, dtype=np.float64)
        if weights.shape != self.weights.shape:
            raise ConsilienceError(
                f"{weights.size} weights do not fit {self.weights.size} superpixels; give one each"
            )
        other = copy(self)  # with the areas, where they are known
        object.__setattr__(other, "weights", weights)
        return other


@dataclass(frozen=True, eq=False)
class Heatmap:
    """A class activation map of one picture.

    Attributes
    ----------
    values
        Float32, shape (height, width), in [0, 1]: rectified and scaled, as the library gives it.
    layer_map
        Float32, shape (layer height, layer width), not rectified, in units of the method; None
        where several layers were averaged, whose units differ.
    """

    values: np.ndarray
    layer_map: np.ndarray | None = None

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        """Let the rectified map stand for it where an array is expected."""
        return np.array(self.values, dtype=dtype, copy=copy)

    @cached_property
    def signed(self) -> np.ndarray | None:
        """The unrectified map, upsampled as the library upsamples: float32, (height, width)."""
        if self.layer_map is None:
            return None
        import cv2  # here, as other steps do without it

        height, width = self.values.shape
        return cv2.resize(self.layer_map, (width, height))


Explanation = np.ndarray | Heatmap | Superpixels


def make_rng(seed: int, *names: str | int) -> np.random.Generator:
    """Return a random generator that depends on the seed and the names alone."""
    text = "\n".join(map(str, names))
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, dtype="<u4").tolist()])


def collect_explanations(
    heatmaps: Iterable[Mapping], limes: Iterable[Mapping]
) -> dict[tuple[str, int], dict[str, Explanation]]:
    """Collect the explanations of one model by picture, target and method.

    Parameters
    ----------
    heatmaps
        Rows of the table ``HEATMAPS``.
    limes
        Rows of the table ``LIME``; their method is called ``lime``.

    Returns
    -------
    dict
        Keys are pairs of the picture's name and the target's index; a picture's targets come in
        the order of the rows, the likeliest class first.
    """
    found: dict[tuple[str, int], dict[str, Explanation]] = defaultdict(dict)
    for row in heatmaps:
        values = np.float32(row["heatmap"]).reshape(row["height"], row["width"])
        layer_map = None
        if ", " not in row["layer"]:
            size = row["layer_height"], row["layer_width"]
            layer_map = np.float32(row["layer_map"]).reshape(size)
        explanation = Heatmap(values, layer_map)
        found[row["picture"], row["target_index"]][row["method"]] = explanation
    for row in limes:
        segments = np.int32(row["segment_map"]).reshape(row["height"], row["width"])
        found[row["picture"], row["target_index"]]["lime"] = Superpixels(segments, row["weights"])
    return dict(found)


def keep_first(rows: Iterable[Mapping], *keys: str) -> list[Mapping]:
    """Return of the rows with equal ``keys`` those of the target that comes first.

    With ``top-<n>`` a picture is explained for several classes, the likeliest first.
    """
    first: dict[tuple, int] = {}
    kept = []
    for row in rows:
        of = tuple(row[key] for key in keys)
        if first.setdefault(of, row["target_index"]) == row["target_index"]:
            kept.append(row)
    return kept


def leave_out_drawn(rows: Iterable[Mapping], pictures: Iterable[Mapping]) -> list[Mapping]:
    """Leave out rows of pictures that were drawn because a model is wrong about them.

    These have a ``weight`` in the table ``PICTURES`` and stand for no ordinary picture.
    """
    drawn = {picture["name"] for picture in pictures if picture.get("weight") is not None}
    return [row for row in rows if row["picture"] not in drawn]


def shape_of(explanation: Explanation) -> tuple[int, ...]:
    """Return height and width of an explanation."""
    if isinstance(explanation, Superpixels):
        return explanation.segment_map.shape
    return np.shape(explanation.values if isinstance(explanation, Heatmap) else explanation)


def require_varying(values: np.ndarray, what: str = "map") -> np.ndarray:
    """Return ``values`` unless they order nothing.

    Raises
    ------
    UndefinedError
        If a value is not finite, or all are equal.
    """
    if not np.isfinite(values).all():
        raise UndefinedError(f"{what} with values that are not finite")
    if np.ptp(values) <= _EQUAL:
        raise UndefinedError(f"constant {what}")
    return values


def pixel_values(explanation: Explanation) -> np.ndarray:
    """Return an explanation as a vector over pixels: float64, row-major.

    LIME's weight belongs to a whole superpixel: a pixel gets its share, weight / area.

    Raises
    ------
    UndefinedError
        If the map is constant or not finite, or if there is only one superpixel.
    """
    if not isinstance(explanation, Superpixels):
        return require_varying(np.asarray(explanation, dtype=np.float64).ravel())
    if len(explanation.weights) < 2:
        raise UndefinedError("one superpixel")
    # Equal weights say nothing, though unequal areas would make a map of them.
    weights = require_varying(explanation.weights, "weights")
    return (weights / explanation.areas)[explanation.segment_map].ravel()


def rank_values(values: np.ndarray) -> np.ndarray:
    """Return ranks from 1, ties sharing their mean, as ``scipy.stats.rankdata`` does."""
    order = np.argsort(values)
    ordered = values[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    ends = np.r_[starts[1:], len(values)]
    ranks = np.empty(len(values))
    ranks[order] = np.repeat((starts + 1 + ends) / 2, ends - starts)
    return ranks


def top_region(values: np.ndarray, size: float) -> np.ndarray:
    """Return how far each place belongs to the ``size`` places of highest value.

    Places tied at the threshold share what the places above it leave, so that the region has
    exactly the size that was asked for and no tie is broken by the order of the places. (A
    rectified CAM is often zero over most of a picture, and LIME is constant in a superpixel: ties
    are the rule.)

    Parameters
    ----------
    values
        Finite, shape (n,).
    size
        In places, above 0 and at most n; need not be whole.

    Returns
    -------
    numpy.ndarray
        float64 in [0, 1], shape (n,); sums to ``size``.
    """
    last = len(values) - int(np.ceil(size))
    threshold = np.partition(values, last)[last]
    above, tied = values > threshold, values == threshold
    return above + tied * ((size - above.sum()) / tied.sum())


def soft_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Return the sum of minima over the sum of maxima of two memberships in [0, 1].

    The Jaccard index where memberships are 0 or 1 (Ružička's similarity in general).
    """
    shared = np.minimum(a, b).sum()
    return float(shared / (a.sum() + b.sum() - shared))


def bootstrap_mean(
    values: Sequence[float], resamples: int, seed: int, level: float = 0.95
) -> tuple[float, float] | tuple[None, None]:
    """Return the percentile bootstrap interval of the mean (Efron and Tibshirani 1993, ch. 13).

    ``(None, None)`` for fewer than two values, of which nothing about the spread is known.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        return None, None
    means = values[draw_resamples(len(values), resamples, seed)].mean(axis=1)
    return percentile_interval(means, level)


def draw_resamples(size: int, resamples: int, seed: int) -> np.ndarray:
    """Return which of ``size`` things each resample holds: integers, shape (resamples, size)."""
    return np.random.default_rng(seed).integers(size, size=(resamples, size))


def percentile_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Return the bounds between which the middle ``level`` of the values lies."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def summarise_rows(
    rows: Iterable[Mapping],
    pictures: Iterable[Mapping],
    keys: Sequence[str],
    resamples: int,
    seed: int,
) -> list[dict]:
    """Summarise a measure's rows over pictures, by ``keys`` and the pictures' clutter level.

    Parameters
    ----------
    rows
        With ``picture``, ``value`` (None where undefined), ``chance`` and the ``keys``.
    pictures
        With ``name`` and ``clutter`` (None for photographs, which become a group of their own).
    resamples, seed
        Of the bootstrap over pictures. Every group draws from the same seed, so that its interval
        does not depend on which other groups there are.

    Returns
    -------
    list of dict
        Sorted by keys and clutter: ``n`` pictures with a value, ``missing`` without, and of the
        values ``mean``, ``median``, ``low`` and ``high`` (bounds of :func:`bootstrap_mean`) and
        the mean of their ``chance``; None where there is no value to take them from.

    Raises
    ------
    ConsilienceError
        If a row's picture is not among ``pictures``.
    """
    clutter = {picture["name"]: picture["clutter"] for picture in pictures}
    groups = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["picture"]):
        if row["picture"] not in clutter:
            raise ConsilienceError(f"picture {row['picture']!r} is scored but is not in the study")
        groups[*(row[key] for key in keys), clutter[row["picture"]]].append(row)
    summary = []
    # Clutter may be None, which does not sort among numbers.
    for group in sorted(groups, key=lambda group: (*group[:-1], group[-1] is None, group[-1])):
        scored = [row for row in groups[group] if row["value"] is not None]
        values = [row["value"] for row in scored]
        chances = [row["chance"] for row in scored if row["chance"] is not None]
        low, high = bootstrap_mean(values, resamples, seed)
        summary.append(
            dict(zip(keys, group[:-1], strict=True))
            | {
                "clutter": group[-1],
                "n": len(values),
                "missing": len(groups[group]) - len(values),
                "mean": float(np.mean(values)) if values else None,
                "median": float(np.median(values)) if values else None,
                "low": low,
                "high": high,
                "chance": float(np.mean(chances)) if chances else None,
            }
        )
    return summary

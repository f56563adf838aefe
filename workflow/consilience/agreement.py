"""How far two explanations of one picture agree.

The CAMs of a picture share their activations: they are not three witnesses. LIME against a CAM is
the independent evidence (:func:`is_independent`).

What an agreement is to be read against, its floors and its ceiling, is in
:mod:`consilience.controls`.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
from scipy.ndimage import uniform_filter

from .errors import ConsilienceError
from .measures import (
    Explanation,
    Heatmap,
    Superpixels,
    UndefinedError,
    draw_resamples,
    keep_first,
    leave_out_drawn,
    percentile_interval,
    pixel_values,
    rank_values,
    require_varying,
    shape_of,
    soft_iou,
    summarise_rows,
    top_region,
)
from .registry import Registry, protect, require_number, require_parameters

LIME = "lime"
"""The method whose explanations do not share the CAMs' activations."""

HEADLINE = ("spearman", "iou", "superpixel-spearman")
"""The measures that are taken unless others are asked for."""

DEFAULTS = {"metrics": HEADLINE, "top_fraction": 0.2, "k": 5}
"""What is taken for settings that are not given."""

FLOORS = ("random-smooth", "other-picture", "centre", "edges")
"""Controls that unrelated explanations would reach, by their names in the table ``AGREEMENT``."""

CEILING = "ceiling"
"""The control that the explanations' own reliabilities set."""

# A ceiling by so little above the floor is not above it: the last digits of a mean.
_EQUAL = 1e-12

PIXELS, SUPERPIXELS, SIGNED = "pixels", "superpixels", "signed superpixels"


class Measure:
    """What all measures of agreement have in common.

    Attributes
    ----------
    over
        What the two explanations are vectors over: pixels (values of shape (height, width)),
        superpixels, or superpixels with maps that are not rectified (shape (n,)).
    higher_agrees
        Whether a higher value means more agreement; False for distances.
    moves
        Whether :meth:`prepare` takes a map place by place, and a higher value never to a lower
        one: a map with the same values at other places is then prepared by moving what was
        prepared of it.
    """

    over = PIXELS
    higher_agrees = True
    moves = False

    def prepare(self, values: np.ndarray, settings: Mapping) -> Any:
        """Work out, once per explanation, what every comparison needs of it."""
        raise NotImplementedError

    def compare(self, a: Any, b: Any) -> float:
        """Return the value for two prepared explanations; symmetric."""
        raise NotImplementedError

    def chance(self, a: Any, b: Any, settings: Mapping) -> float | None:
        """Return what one of the two would score on average if its values were dealt out anew.

        None where that has no simple form: then the controls alone say what is little.
        """
        return None


class Pearson(Measure):
    """Pearson's r. From -1 to 1, higher agrees, chance 0.

    Source: Pearson 1895. Moved by how a method scales its map, which is no part of what it
    claims; the ranks' measures are not.
    """

    moves = True

    def prepare(self, values: np.ndarray, settings: Mapping) -> np.ndarray:
        values = values.ravel()
        centred = values - values.mean()
        return centred / np.linalg.norm(centred)

    def compare(self, a: np.ndarray, b: np.ndarray) -> float:
        return max(-1.0, min(1.0, float(a @ b)))

    def chance(self, a: np.ndarray, b: np.ndarray, settings: Mapping) -> float:
        return 0.0


class Spearman(Pearson):
    """Spearman's ρ over pixels: Pearson's r of the ranks. From -1 to 1, higher agrees, chance 0.

    Ties share their mean rank. Source: Spearman 1904; between saliency maps, Adebayo et al. 2018,
    "Sanity Checks for Saliency Maps". Neighbouring pixels are alike, so two unrelated smooth maps
    stray from 0 much further than the number of pixels suggests: read the value, not a p-value.
    """

    def prepare(self, values: np.ndarray, settings: Mapping) -> np.ndarray:
        return super().prepare(rank_values(values.ravel()), settings)


class SuperpixelSpearman(Spearman):
    """Spearman's ρ over LIME's superpixels. From -1 to 1, higher agrees, chance 0.

    LIME gives its weights, a CAM the sum of its map in each superpixel: both say how much of the
    decision lies in the superpixel. As both grow with its area, so may their agreement. Two
    superpixels can only give -1 or 1.
    """

    over = SUPERPIXELS


class TopIou(Measure):
    """IoU of the two top regions. From 0 to 1, higher agrees.

    The top region is the share ``top_fraction`` of the area with the highest values; places tied
    at its threshold belong to it in part (:func:`consilience.measures.top_region`), and the IoU
    is that of the memberships (:func:`consilience.measures.soft_iou`). Chance is not 0: two
    regions that each cover the share f at random overlap in f / (2 - f), 0.11 for f = 0.2; more
    where both maps have large ties.

    Source: Jaccard 1901; for memberships, Ružička 1958.
    """

    moves = True

    def prepare(self, values: np.ndarray, settings: Mapping) -> np.ndarray:
        return top_region(values.ravel(), settings["top_fraction"] * values.size)

    def compare(self, a: np.ndarray, b: np.ndarray) -> float:
        return soft_iou(a, b)

    def chance(self, a: np.ndarray, b: np.ndarray, settings: Mapping) -> float:
        return settings["top_fraction"] / (2 - settings["top_fraction"])


class SoftIou(Measure):
    """IoU of the two maps' positive parts as memberships. From 0 to 1, higher agrees.

    Each positive part is scaled to [0, 1] by its maximum; the value is the sum of minima over the
    sum of maxima, so that no threshold is chosen. Undefined where nothing is positive. Moved by
    how a method scales its map; chance depends on the two maps and is not given.

    Source: Ružička 1958.
    """

    moves = True

    def prepare(self, values: np.ndarray, settings: Mapping) -> np.ndarray:
        values = _positive_part(values)
        return values.ravel() / values.max()

    def compare(self, a: np.ndarray, b: np.ndarray) -> float:
        return soft_iou(a, b)


@dataclass(frozen=True)
class _Windows:
    """A map scaled to [0, 1], and mean and variance of each of its windows."""

    values: np.ndarray
    mean: np.ndarray
    variance: np.ndarray


class Ssim(Measure):
    """Structural similarity, mean over windows. From -1 to 1, higher agrees.

    Each map is first scaled to [0, 1] by its own minimum and maximum, so that the range of values
    (L of the paper, ``data_range`` of scikit-image) is 1. Windows are of 7 × 7 pixels, all weighted
    alike, those wholly inside the picture only, and variances divide by 48, as in
    ``skimage.metrics.structural_similarity``, which this equals to the last digits; what depends
    on one map is worked out once. Undefined where a side is below 7 pixels. Chance depends on the
    two maps and is not given: where both are flat, windows are alike whatever the maps claim.

    Source: Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural
    Similarity"; between saliency maps, Adebayo et al. 2018.
    """

    window = 7

    def _mean(self, values: np.ndarray) -> np.ndarray:
        edge = self.window // 2
        return uniform_filter(values, self.window)[edge:-edge, edge:-edge]

    def prepare(self, values: np.ndarray, settings: Mapping) -> _Windows:
        if min(values.shape) < self.window:
            raise UndefinedError(f"a side is below SSIM's window of {self.window} pixels")
        values = (values - values.min()) / np.ptp(values)
        mean = self._mean(values)
        return _Windows(values, mean, self._unbiased(self._mean(values * values) - mean * mean))

    def _unbiased(self, moment: np.ndarray) -> np.ndarray:
        places = self.window**2
        return moment * (places / (places - 1))

    def compare(self, a: _Windows, b: _Windows) -> float:
        product = a.mean * b.mean
        covariance = self._unbiased(self._mean(a.values * b.values) - product)
        luminance = (2 * product + 0.01**2) / (a.mean**2 + b.mean**2 + 0.01**2)
        structure = (2 * covariance + 0.03**2) / (a.variance + b.variance + 0.03**2)
        return float((luminance * structure).mean())


class EarthMovers(Measure):
    """Earth mover's distance between the two maps' positive parts. From 0 to 1, LOWER agrees.

    Each positive part, of unit mass, is averaged onto a grid of 16 × 16 cells over the picture; the
    value is the least mean distance that mass must travel to make one of the other, in units of
    the grid's diagonal (between cells' centres, each side of the picture counting as one). Exact
    optimal transport, in single precision (errors below 1e-4). Unlike the others it knows how far
    apart two regions are that do not overlap. Undefined where nothing is positive; chance depends
    on the two maps and is not given. A comparison takes milliseconds, hundreds of times as long as
    those of the headline.

    Source: Rubner et al. 2000, "The Earth Mover's Distance as a Metric for Image Retrieval".
    """

    higher_agrees = False
    cells = 16

    def prepare(self, values: np.ndarray, settings: Mapping) -> np.ndarray:
        values = average_over(_positive_part(values), (self.cells, self.cells)).ravel()
        return values / values.sum()

    def compare(self, a: np.ndarray, b: np.ndarray) -> float:
        import cv2  # here, as most studies do without this measure

        # Distances obey the triangle inequality, so what two maps share need not move.
        change = a - b
        change[np.abs(change) < 1e-9] = 0
        gains, losses = np.flatnonzero(change > 0), np.flatnonzero(change < 0)
        if not gains.size or not losses.size:
            return 0.0
        moved = change[gains].sum()
        weights = [
            np.float32(np.abs(change[places]) / np.abs(change[places]).sum())[:, None]
            for places in (gains, losses)
        ]
        costs = np.ascontiguousarray(_grid_distances(self.cells)[np.ix_(gains, losses)])
        distance = cv2.EMD(*weights, cv2.DIST_USER, costs)[0]
        return float(min(max(distance * moved, 0), 1))


def _positive_part(values: np.ndarray) -> np.ndarray:
    positive = np.maximum(values, 0)
    if not positive.any():
        raise UndefinedError("no positive value")
    return positive


@lru_cache(maxsize=64)
def _cell_shares(pixels: int, cells: int) -> np.ndarray:
    """Return how much of each cell every pixel of a side covers: shape (cells, pixels)."""
    edges = np.arange(cells + 1) * (pixels / cells)
    places = np.arange(pixels)
    inside = np.minimum(edges[1:, None], places + 1) - np.maximum(edges[:-1, None], places)
    return np.maximum(inside, 0) * (cells / pixels)


def average_over(values: np.ndarray, cells: tuple[int, int]) -> np.ndarray:
    """Average a map, shape (height, width), over a grid of cells, a pixel in part where cut.

    Returns
    -------
    numpy.ndarray
        float64, of shape ``cells``.
    """
    height, width = values.shape
    return _cell_shares(height, cells[0]) @ values @ _cell_shares(width, cells[1]).T


@lru_cache
def _grid_distances(cells: int) -> np.ndarray:
    """Return the distance of each two cells over the diagonal: float32, (cells², cells²)."""
    y, x = np.mgrid[:cells, :cells].reshape(2, -1)
    distances = np.hypot(y[:, None] - y, x[:, None] - x)
    return np.float32(distances / distances.max())


@dataclass(frozen=True)
class _Top:
    """Superpixels ordered by absolute value, from the greatest.

    ``group`` is each superpixel's group of equal absolute values; ``place`` the group that each of
    the first k places falls to, ``sizes`` how many superpixels share that group; ``share`` how far
    each superpixel belongs to the first k.
    """

    group: np.ndarray
    place: np.ndarray
    sizes: np.ndarray
    share: np.ndarray
    sign: np.ndarray

    def levels(self, sign: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the distinct shares, of superpixels of one sign or of all, and their numbers."""
        share = self.share if sign is None else self.share[self.sign == sign]
        return np.unique(share, return_counts=True)


class FeatureAgreement(Measure):
    """Share of the k most important superpixels that two explanations have in common.

    From 0 to 1, higher agrees. The k superpixels of the greatest absolute value count (``k``, at
    most all n), so that a negative weight of LIME counts, which a rectified CAM cannot show.
    Superpixels tied at the k-th place belong in part: together they fill the places that are left,
    and two explanations have of each superpixel the lesser part in common. An explanation agrees
    with itself wholly, then. (The paper leaves ties to the order of the features; a rectified CAM
    is zero in many superpixels.)

    Chance is the expected value when one explanation's values are dealt out anew over the
    superpixels: k / n without ties, exact with them.

    Source: Krishna et al. 2022, "The Disagreement Problem in Explainable Machine Learning".
    """

    over = SUPERPIXELS

    def prepare(self, values: np.ndarray, settings: Mapping) -> _Top:
        k = min(settings["k"], len(values))
        _, group, counts = np.unique(-np.abs(values), return_inverse=True, return_counts=True)
        ends = np.cumsum(counts)
        share = np.clip((k - ends + counts) / counts, 0, 1)[group]
        place = np.searchsorted(ends, np.arange(k), side="right")
        return _Top(group, place, counts[place], share, np.sign(values))

    def compare(self, a: _Top, b: _Top) -> float:
        return float(np.minimum(a.share, b.share).sum() / len(a.place))

    def chance(self, a: _Top, b: _Top, settings: Mapping) -> float:
        return _dealt(a.levels(), b.levels()) / (len(a.place) * len(a.share))


def _dealt(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> float:
    """Return the sum, over all pairs of a superpixel and another, of the lesser share."""
    return float(a[1] @ np.minimum.outer(a[0], b[0]) @ b[1])


class SignAgreement(FeatureAgreement):
    """Share of the k most important superpixels that are common and have the same sign.

    From 0 to 1, higher agrees. As :class:`FeatureAgreement`, with its ``k`` and its ties, but of
    CAMs that are not rectified: a superpixel whose sum is negative speaks against the class, as
    LIME's negative weights do. A zero's sign is that of zeros only. Undefined for a map of which
    only the rectified part is known, as where several layers were averaged.

    Chance is the expected value when one explanation's values, with their signs, are dealt out
    anew over the n superpixels: (p q + (k - p)(k - q)) / (k n) where p and q of the k are positive
    and the others negative; exact with ties and zeros.

    Source: Krishna et al. 2022.
    """

    over = SIGNED

    def compare(self, a: _Top, b: _Top) -> float:
        shared = np.minimum(a.share, b.share)
        return float(shared[a.sign == b.sign].sum() / len(a.place))

    def chance(self, a: _Top, b: _Top, settings: Mapping) -> float:
        same = sum(_dealt(a.levels(sign), b.levels(sign)) for sign in (-1, 0, 1))
        return same / (len(a.place) * len(a.share))


class RankAgreement(FeatureAgreement):
    """Share of the first k places that the same superpixel holds in both explanations.

    From 0 to 1, higher agrees. Places are by absolute value, as for :class:`FeatureAgreement`;
    tied superpixels share their places evenly, and two explanations have of each superpixel at a
    place the lesser part in common: with g superpixels tied at a place in one and h in the other,
    those that are the same, over the greater of g and h.

    Chance is the expected value when one explanation's values are dealt out anew over the n
    superpixels: 1 / n without ties; with them the mean, over places, of the lesser of g and h,
    over n.

    Source: Krishna et al. 2022.
    """

    def compare(self, a: _Top, b: _Top) -> float:
        same = self._tied(a) & self._tied(b)
        return float((same.sum(axis=1) / np.maximum(a.sizes, b.sizes)).mean())

    def chance(self, a: _Top, b: _Top, settings: Mapping) -> float:
        return float(np.minimum(a.sizes, b.sizes).mean() / len(a.share))

    def _tied(self, top: _Top) -> np.ndarray:
        """Return which superpixels share each of the first places: bool, shape (k, n)."""
        return top.group == top.place[:, None]


class SignedRankAgreement(RankAgreement):
    """Share of the first k places that the same superpixel holds in both, with the same sign.

    From 0 to 1, higher agrees. As :class:`RankAgreement`, of CAMs that are not rectified, with
    signs and undefined as for :class:`SignAgreement`.

    Chance is the expected value when one explanation's values, with their signs, are dealt out
    anew over the n superpixels: without ties the share of the k places where both signs are the
    same, over n.

    Source: Krishna et al. 2022.
    """

    over = SIGNED

    def compare(self, a: _Top, b: _Top) -> float:
        same = self._tied(a) & self._tied(b) & (a.sign == b.sign)
        return float((same.sum(axis=1) / np.maximum(a.sizes, b.sizes)).mean())

    def chance(self, a: _Top, b: _Top, settings: Mapping) -> float:
        found = np.zeros(len(a.place))
        for sign in (-1, 0, 1):
            found += (self._tied(a) & (a.sign == sign)).sum(axis=1) * (
                self._tied(b) & (b.sign == sign)
            ).sum(axis=1)
        return float((found / np.maximum(a.sizes, b.sizes)).mean() / len(a.share))


@dataclass(frozen=True)
class _Pairs:
    """Which of each two superpixels is the more important: -1, 0 or 1; and the share of ties."""

    order: np.ndarray
    tied: float


class PairwiseRankAgreement(Measure):
    """Share of pairs of superpixels that both explanations order in the same way.

    From 0 to 1, higher agrees. Of all n (n - 1) / 2 pairs, by absolute value, as the paper orders
    features. A pair that is tied in both is ordered in the same way, one that is tied in one only
    is not.

    Chance is the expected value when one explanation's values are dealt out anew: 1/2 without
    ties; with shares s and t of pairs that are tied, s t + (1 - s)(1 - t) / 2. Without ties the
    value is (1 + τ) / 2, τ being Kendall's, of absolute values.

    Source: Krishna et al. 2022.
    """

    over = SUPERPIXELS

    def prepare(self, values: np.ndarray, settings: Mapping) -> _Pairs:
        values = np.abs(values)
        first, second = np.triu_indices(len(values), 1)
        order = np.sign(values[first] - values[second]).astype(np.int8)
        return _Pairs(order, float((order == 0).mean()))

    def compare(self, a: _Pairs, b: _Pairs) -> float:
        return float((a.order == b.order).mean())

    def chance(self, a: _Pairs, b: _Pairs, settings: Mapping) -> float:
        return a.tied * b.tied + (1 - a.tied) * (1 - b.tied) / 2


class FunctionMeasure(Measure):
    """A function of the user's as a measure (:func:`consilience.registry.agreement`)."""

    def __init__(
        self, name: str, function: Callable, higher: bool, over: str, chance: float | None
    ):
        self.name, self.function, self._chance = name, function, chance
        self.higher_agrees, self.over = higher, over
        self._known_symmetric = False

    def prepare(self, values: np.ndarray, settings: Mapping) -> np.ndarray:
        return protect(values)

    def compare(self, a: np.ndarray, b: np.ndarray) -> float:
        what = f"the measure of agreement {self.name!r}"
        value = require_number(self.function(a, b), what)
        if not self._known_symmetric:  # asked once, of the first two that have a value
            turned = require_number(self.function(b, a), what)
            if abs(turned - value) > 1e-6 * max(1.0, abs(value)):
                raise ConsilienceError(
                    f"{what} is {value:g} for two explanations and {turned:g} for the same two in "
                    "the other order; it must not depend on the order"
                )
            self._known_symmetric = True
        return value

    def chance(self, a: np.ndarray, b: np.ndarray, settings: Mapping) -> float | None:
        return self._chance


def _adapt(
    name: str, thing: type | Callable, higher: bool, over: str, chance: float | None
) -> Measure:
    if isinstance(thing, type):
        if not issubclass(thing, Measure):
            raise ConsilienceError(
                f"{thing.__name__} is not derived from consilience.agreement.Measure"
            )
        if (higher, over, chance) != (True, PIXELS, None):
            raise ConsilienceError("a class says higher_agrees, over and chance by itself")
        return thing()
    require_parameters(thing, ("a", "b"))
    if over not in (PIXELS, SUPERPIXELS, SIGNED):
        raise ConsilienceError(f"over={over!r}; it must be {PIXELS}, {SUPERPIXELS} or {SIGNED}")
    return FunctionMeasure(name, thing, higher, over, chance)


METRICS = Registry(
    "agreement",
    {
        "spearman": Spearman(),
        "iou": TopIou(),
        "superpixel-spearman": SuperpixelSpearman(),
        "pearson": Pearson(),
        "ssim": Ssim(),
        "soft-iou": SoftIou(),
        "emd": EarthMovers(),
        "feature-agreement": FeatureAgreement(),
        "rank-agreement": RankAgreement(),
        "sign-agreement": SignAgreement(),
        "signed-rank-agreement": SignedRankAgreement(),
        "pairwise-rank-agreement": PairwiseRankAgreement(),
    },
    _adapt,
)
"""Every measure of agreement by its name in the table ``AGREEMENT``."""


def is_independent(method_a: str, method_b: str) -> bool:
    """Say whether two methods' agreement is independent evidence: exactly one of them is LIME."""
    return (method_a == LIME) != (method_b == LIME)


class Shelf:
    """Keeps what was prepared of explanations, over pixels, for when they are needed again.

    Parameters
    ----------
    size
        Most pixels that are kept altogether; of a float64 each, 8 bytes.
    """

    def __init__(self, size: int = 2**25):
        self.size, self.kept = size, 0
        self._found: OrderedDict[tuple[int, str], tuple[Explanation, Any, int]] = OrderedDict()

    def prepare(self, name: str, explanation: Explanation, settings: Mapping) -> Any:
        """Return what a measure over pixels needs of an explanation; the settings are all alike.

        Raises
        ------
        UndefinedError
            If the measure has no value for this explanation.
        """
        key = id(explanation), name  # which stays alive as long as it lies here
        if key in self._found:
            self._found.move_to_end(key)
        else:
            pixels = pixel_values(explanation).reshape(shape_of(explanation))
            prepared = METRICS[name].prepare(pixels, settings)
            self._found[key] = explanation, prepared, pixels.size
            self.kept += pixels.size
            while self.kept > self.size and len(self._found) > 1:
                self.kept -= self._found.popitem(last=False)[1][2]
        return self._found[key][1]


class Comparison:
    """The explanations of one picture, made ready to be compared.

    Ranks and regions are worked out once per explanation, not once per pair.

    Parameters
    ----------
    maps, settings
        As for :func:`compare_explanations`.
    shelf
        Where pixels' ranks and regions are kept; those of pictures that share one are not worked
        out again when they stand in for one another.

    Attributes
    ----------
    methods
        Sorted names.
    superpixels
        LIME's, None where there is none.
    prepared
        By method and metric what the metric's ``compare`` takes, or why there is none: a text.

    Raises
    ------
    ConsilienceError
        If the explanations have different shapes, or a setting does not exist or fit.
    """

    def __init__(
        self,
        maps: Mapping[str, Explanation],
        settings: Mapping | None = None,
        shelf: Shelf | None = None,
    ):
        self.maps, self.settings = maps, check_settings(settings)
        self.shelf = shelf or Shelf()
        self.methods = sorted(maps)
        shapes = {method: shape_of(maps[method]) for method in self.methods}
        if len(set(shapes.values())) > 1 or any(len(shape) != 2 for shape in shapes.values()):
            raise ConsilienceError(
                f"explanations of one picture must all have one (height, width), not {shapes}; "
                "run the steps that explain it again"
            )
        limes = [maps[name] for name in self.methods if isinstance(maps[name], Superpixels)]
        self.superpixels = limes[0] if limes else None
        self.prepared: dict[tuple[str, str], Any] = {}
        for method in self.methods:
            for name in self.settings["metrics"]:
                try:
                    self.prepared[method, name] = self.prepare(name, maps[method], keep=True)
                except UndefinedError as reason:
                    self.prepared[method, name] = str(reason)

    def prepare(self, name: str, explanation: Explanation, keep: bool = False) -> Any:
        """Return what a measure needs of an explanation of this picture's size.

        ``keep`` lays it on the shelf, where the measure is over pixels.

        Raises
        ------
        UndefinedError
            If the measure has no value for this explanation.
        """
        metric = METRICS[name]
        if metric.over == PIXELS:
            if keep:
                return self.shelf.prepare(name, explanation, self.settings)
            values = pixel_values(explanation).reshape(shape_of(explanation))
        else:
            values = self._over_superpixels(explanation, metric.over == SIGNED)
        return metric.prepare(values, self.settings)

    def _over_superpixels(self, explanation: Explanation, signed: bool) -> np.ndarray:
        """Return an explanation as a vector over LIME's superpixels, float64."""
        if signed and not isinstance(explanation, Superpixels):
            pixels = explanation.signed if isinstance(explanation, Heatmap) else None
            if pixels is None:
                raise UndefinedError("no map that is not rectified")
            pixels = require_varying(np.asarray(pixels, dtype=np.float64).ravel())
        else:
            pixels = pixel_values(explanation)
        if self.superpixels is None:
            raise UndefinedError("no LIME that gives superpixels")
        if len(self.superpixels.weights) < 2:
            raise UndefinedError("one superpixel")
        if (
            isinstance(explanation, Superpixels)
            and explanation.segment_map is self.superpixels.segment_map
        ):
            return explanation.weights
        return require_varying(self.superpixels.sum_over(pixels), "map over superpixels")

    def compare(self, method_a: str, method_b: str, name: str) -> tuple[float | None, str | None]:
        """Return the value of a pair, or None and the reason."""
        # Method by method, each reason once: both may lack the same thing.
        reasons: dict[str, list[str]] = {}
        for method in (method_a, method_b):
            if isinstance(why := self.prepared[method, name], str):
                reasons.setdefault(why, []).append(method)
        if reasons:
            return None, "; ".join(f"{' and '.join(who)}: {why}" for why, who in reasons.items())
        a, b = self.prepared[method_a, name], self.prepared[method_b, name]
        try:
            return METRICS[name].compare(a, b), None
        except UndefinedError as reason:  # ours say so when they prepare
            return None, str(reason)

    def rows(self) -> list[dict]:
        """Return the rows of :func:`compare_explanations`."""
        rows = []
        for pair in combinations(self.methods, 2):
            for name in self.settings["metrics"]:
                value, reason = self.compare(*pair, name)
                chance = None
                if reason is None:
                    prepared = (self.prepared[method, name] for method in pair)
                    chance = METRICS[name].chance(*prepared, self.settings)
                rows.append(
                    {
                        "method_a": pair[0],
                        "method_b": pair[1],
                        "control": None,
                        "metric": name,
                        "value": value,
                        "chance": chance,
                        "reason": reason,
                    }
                )
        return rows


def check_settings(settings: Mapping | None = None) -> dict:
    """Return settings with defaults for what is not given.

    Raises
    ------
    ConsilienceError
        If a setting does not exist or fit.
    """
    settings = DEFAULTS | dict(settings or {})
    if not 0 < settings["top_fraction"] < 1:
        raise ConsilienceError(
            f"agreement.top_fraction: {settings['top_fraction']} is not between 0 and 1"
        )
    if settings["k"] < 1:
        raise ConsilienceError(f"agreement.k: {settings['k']} superpixels; give at least 1")
    for metric in settings["metrics"]:
        if metric not in METRICS:
            raise ConsilienceError(
                f"agreement.metrics: {metric!r} is not known; it must be one of "
                f"{', '.join(METRICS)}"
            )
    return settings


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
        The study's ``agreement``: ``top_fraction`` (0.2), in (0, 1), ``k`` (5), at least 1, and
        ``metrics``, names of :data:`METRICS` (:data:`HEADLINE`).

    Returns
    -------
    list of dict
        Rows of the table ``AGREEMENT`` from ``method_a`` on, by pair (sorted) and metric (in the
        order asked for). An undefined ``value`` is None and has its ``reason``.

    Raises
    ------
    ConsilienceError
        If the explanations have different shapes, or a setting does not exist or fit.
    """
    return Comparison(maps, settings).rows()


def summarise_agreement(
    rows: Iterable[Mapping],
    pictures: Iterable[Mapping],
    resamples: int = 2000,
    seed: int = 0,
) -> list[dict]:
    """Summarise rows of the table ``AGREEMENT`` over pictures, each picture's first target.

    Pictures of one group, a clutter level, are of different bases: resampling pictures is
    resampling what is independent. Pictures that were drawn because a model is wrong about them are
    left out.

    Parameters
    ----------
    rows
        Of any number of models and pictures, with their controls or without.
    pictures
        With ``name`` and ``clutter``, such as rows of the table ``PICTURES``.
    resamples, seed
        Of the percentile bootstrap over pictures.

    Returns
    -------
    list of dict
        Rows of the table ``AGREEMENT_SUMMARY``, one a model, pair, metric and clutter level,
        sorted. Undefined values are counted and left out of all else. ``floor`` is the strictest
        floor by its mean: the highest, for distances the lowest.
    """
    pictures = list(pictures)
    clutter = {picture["name"]: picture["clutter"] for picture in pictures}
    plain: list[Mapping] = []
    controls: dict[tuple, dict[str | None, dict[str, Mapping]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    keys = ("model", "method_a", "method_b", "metric")
    for row in leave_out_drawn(keep_first(rows, "model", "picture"), pictures):
        if row["control"] is None:
            plain.append(row)
        group = (*(row[key] for key in keys), clutter.get(row["picture"]))
        controls[group][row["control"]][row["picture"]] = row
    summary = []
    for row in summarise_rows(plain, pictures, keys, resamples, seed):
        found = controls[*(row[key] for key in keys), row["clutter"]]
        about = {"independent": is_independent(row["method_a"], row["method_b"])}
        summary.append(row | about | _relate(found, row["metric"], resamples, seed))
    return summary


def _relate(
    found: Mapping[str | None, Mapping[str, Mapping]], metric: str, resamples: int, seed: int
) -> dict:
    """Summarise the controls of a group, and place the agreement between floor and ceiling.

    Parameters
    ----------
    found
        By control (None for the agreement itself) and picture, rows of ``AGREEMENT``.
    """
    values = {
        control: {name: row["value"] for name, row in rows.items() if row["value"] is not None}
        for control, rows in found.items()
    }
    means = {
        control: float(np.mean([of[name] for name in sorted(of)]))
        for control, of in values.items()
        if of
    }
    row = {name.replace("-", "_"): means.get(name) for name in (*FLOORS, CEILING)}
    floors = [name for name in FLOORS if name in means]
    # Of distances the lowest is what is hardest to beat.
    sign = 1 if METRICS[metric].higher_agrees else -1
    floor = max(floors, key=lambda name: sign * means[name], default=None)
    row["floor"] = floor
    if not values.get(None):
        return row | {"reason": "no picture has a value"}
    if floor is None:
        return row | {"reason": _say_missing("floor", found, FLOORS)}
    if CEILING not in means:
        return row | {"reason": _say_missing("ceiling", found, [CEILING])}
    of = [values[None], values[floor], values[CEILING]]
    names = sorted(set.intersection(*map(set, of)))
    if not names:
        return row | {"reason": f"no picture has a value, the floor {floor} and a ceiling"}
    agreed, low, high = sign * np.array([[part[name] for name in names] for part in of])
    if high.mean() - low.mean() <= _EQUAL:
        return row | {"reason": f"the ceiling is not above the floor {floor}"}
    row["relative"] = float((agreed.mean() - low.mean()) / (high.mean() - low.mean()))
    if len(names) < 2:
        return row
    draws = draw_resamples(len(names), resamples, seed)
    agreed, low, high = (part[draws].mean(axis=1) for part in (agreed, low, high))
    if below := int((high - low <= _EQUAL).sum()):
        return row | {
            "reason": f"no interval: in {below} of {resamples} resamples the ceiling is not above "
            f"the floor {floor}"
        }
    bounds = percentile_interval((agreed - low) / (high - low))
    row["relative_low"], row["relative_high"] = bounds
    return row


def _say_missing(what: str, found: Mapping, controls: Sequence[str]) -> str:
    """Say that there is no floor or ceiling, and the reason that is given most often."""
    reasons = Counter(
        row["reason"] for control in controls for row in found.get(control, {}).values()
    )
    if not reasons:
        return f"no {what} was measured"
    return f"no {what}: {max(sorted(reasons), key=reasons.__getitem__)}"

"""What an agreement between two explanations is to be read against: floors and a ceiling.

Two heatmaps agree to some degree whatever they claim: both are smooth, both lie near the centre,
both follow the picture's edges. A floor is the agreement that remains when one of the two gives
way to a stand-in that knows nothing of the decision; the ceiling is the agreement that the
explanations' own unreliability leaves room for. Each is measured with the same measure, on the
same picture, as the agreement itself.

Stand-ins
---------
random-smooth
    Random maps as smooth as the method's own. For a CAM, standard normal noise on its layer's
    grid, upsampled as the map was, gives the order of the pixels, and the map's own values are put
    in that order: the shares of zeros and of ties are the map's own. For LIME, its weights dealt
    out anew over its superpixels. (White noise on pixels would be too low a floor: no method could
    draw it, and it agrees with nothing by more than a hair.)
other-picture
    Maps of the same method and model on other pictures of the batch, of another base: what does
    not depend on the picture, such as the middle of the frame.
centre
    A Gaussian in the middle, its standard deviation a quarter of each side: the baseline of
    saliency research (Tatler 2007, "The central fixation bias"; Judd et al. 2012).
edges
    Sobel's magnitude of the grey picture at the method's own resolution: an edge detector knows no
    class (Adebayo et al. 2018, "Sanity Checks for Saliency Maps").
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

import cv2
import numpy as np
from skimage.color import rgb2gray
from skimage.filters import sobel

from .agreement import (
    CEILING,
    FLOORS,
    METRICS,
    PIXELS,
    Comparison,
    Measure,
    Shelf,
    average_over,
    check_settings,
)
from .errors import ConsilienceError
from .measures import (
    Explanation,
    Heatmap,
    Superpixels,
    UndefinedError,
    make_rng,
    pixel_values,
    shape_of,
)

RANDOM, OTHER, CENTRE, EDGES = FLOORS


def layer_grid(explanation: Explanation) -> tuple[int, int]:
    """Return height and width of the layer that a CAM's map was upsampled from.

    Where several layers were averaged, or nothing is known of the layer, a 32nd of each side,
    rounded up: the last layer of the usual networks, and no finer than any of those averaged. (The
    coarser the noise, the further random maps stray from chance.)
    """
    if isinstance(explanation, Heatmap) and explanation.layer_map is not None:
        return explanation.layer_map.shape
    height, width = shape_of(explanation)
    return -(-height // 32), -(-width // 32)


def order_noise(
    shape: tuple[int, int], grid: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Return the pixels of a random smooth map, from the lowest to the highest.

    Parameters
    ----------
    shape
        Height and width of the map.
    grid
        Height and width of the standard normal noise that is upsampled to it, bilinearly, as
        pytorch-grad-cam upsamples a layer's map.

    Returns
    -------
    numpy.ndarray
        Places in the raveled map, shape (height * width,). Values are told apart to a 65,535th
        of their range; of equal ones the first comes first.

    Raises
    ------
    UndefinedError
        If the grid is a single place.
    """
    _require_places(grid)
    noise = cv2.resize(rng.standard_normal(grid, dtype=np.float32), shape[::-1]).ravel()
    low, high = noise.min(), noise.max()
    # Whole numbers of 16 bits are sorted ten times as fast.
    return np.argsort(np.uint16((noise - low) / (high - low) * 65535), kind="stable")


def _require_places(grid: tuple[int, int]) -> None:
    if grid == (1, 1):
        raise UndefinedError("a layer of one place has no order")


@lru_cache(maxsize=8)
def make_centre(height: int, width: int) -> np.ndarray:
    """Return a centred Gaussian of a quarter of each side: float64, at most 1."""
    # From -1 to 1, the same on either side to the last digit: ties shall be ties.
    y, x = ((2 * np.arange(side) + 1 - side) / side for side in (height, width))
    return np.exp(-2 * (y[:, None] ** 2 + x**2))


def find_edges(view: np.ndarray) -> np.ndarray:
    """Return Sobel's magnitude of a picture made grey, uint8 (height, width, 3): float64."""
    return sobel(rgb2gray(view))


@dataclass(frozen=True, eq=False)
class _Moved(Heatmap):
    """A CAM's own values at other places; of the map that is not rectified likewise."""

    moved: np.ndarray | None = None

    @property
    def signed(self) -> np.ndarray | None:
        return self.moved


class Batch:
    """Explanations of one model's batch of pictures, which stand in for one another.

    Parameters
    ----------
    explanations
        As :func:`consilience.measures.collect_explanations` gives them.
    pictures
        Rows of ``PICTURES``, with ``name`` and ``base`` at least: pictures of one base never stand
        in for one another.
    settings
        As for :func:`consilience.agreement.compare_explanations`, and ``draws`` (10): random maps,
        and at most so many maps of other pictures, that a floor is the mean over.
    seed
        Of the noise and of the choice of other pictures. What is drawn for a picture does not
        depend on the others; which others stand in for it, on those that are there.

    Raises
    ------
    ConsilienceError
        If a setting does not exist or fit, or an explained picture is not among ``pictures``.
    """

    def __init__(
        self,
        explanations: Mapping[tuple[str, int], Mapping[str, Explanation]],
        pictures: Iterable[Mapping],
        settings: Mapping | None = None,
        seed: int = 0,
    ):
        self.explanations, self.seed = explanations, seed
        self.settings = {"draws": 10} | check_settings(settings)
        if self.settings["draws"] < 1:
            raise ConsilienceError(
                f"agreement.draws: {self.settings['draws']}; a floor is the mean of at least 1"
            )
        known = {row["name"]: row["base"] or row["name"] for row in pictures}
        # Of several targets a picture's first stands in for others.
        self.first: dict[str, Mapping[str, Explanation]] = {}
        for (picture, _), maps in explanations.items():
            self.first.setdefault(picture, maps)
            if picture not in known:
                raise ConsilienceError(
                    f"picture {picture!r} is explained but is not among the batch's pictures; run "
                    "the steps that explain it again"
                )
        self.bases = {picture: known[picture] for picture in self.first}
        self.shelf = Shelf()
        self._last: tuple[str | None, list[str]] = (None, [])

    def compare(
        self,
        picture: str,
        target_index: int,
        view: np.ndarray,
        repeats: Sequence[np.ndarray] = (),
    ) -> list[dict]:
        """Compare the explanations of one picture and target, with controls.

        Parameters
        ----------
        picture, target_index
            A key of the explanations.
        view
            What the model saw: uint8, shape (height, width, 3).
        repeats
            Weights of LIME run again with other perturbations on the same superpixels, each of
            shape (segments,); none where it was not repeated.

        Returns
        -------
        list of dict
            Rows of the table ``AGREEMENT`` from ``method_a`` on: each row of
            :func:`consilience.agreement.compare_explanations`, followed by its controls.

            A floor of a pair is the mean of two numbers: the mean agreement of the first with what
            stands in for the second, and that of the second with what stands in for the first.
            Stand-ins that order nothing are left out; where none is left, or where the pair's own
            value is undefined, so is the floor.

            The ceiling is the square root of the product of the two reliabilities (Spearman 1904,
            the correction for attenuation; a rule of thumb for measures that are no correlations).
            A distance d enters as 1 - d, and so does its ceiling leave. LIME's reliability is the
            mean agreement of each two of its runs, itself among them. A CAM is deterministic, its
            reliability 1; but against LIME, over pixels, LIME's superpixels bound what it can
            say, and its reliability is its agreement with its own means over them. Undefined where
            a reliability is negative.

        Raises
        ------
        ConsilienceError
            If the explanations, the view and the repeats do not belong together.
        """
        maps = self.explanations[picture, target_index]
        comparison = Comparison(maps, self.settings, self.shelf)
        if maps and (shape := shape_of(next(iter(maps.values())))) != view.shape[:2]:
            raise ConsilienceError(
                f"picture {picture!r}: explanations of (height, width) {shape} do not fit a view "
                f"of {view.shape[:2]}; run the steps that explain it again"
            )
        stand_ins = _StandIns(self, picture, target_index, comparison, view)
        ceiling = _Ceiling(comparison, repeats)
        rows = []
        for row in comparison.rows():
            rows.append(row)
            pair, name = (row["method_a"], row["method_b"]), row["metric"]
            for control in (*FLOORS, CEILING):
                value, reason = None, row["reason"]
                if reason is None:
                    try:
                        if control == CEILING:
                            value = ceiling.measure(pair, name)
                        else:
                            value = stand_ins.measure(control, pair, name)
                    except UndefinedError as why:
                        reason = str(why)
                found = {"control": control, "value": value, "chance": None, "reason": reason}
                rows.append(row | found)
        return rows

    def choose_others(self, picture: str, method: str, shape: tuple[int, ...]) -> list[Explanation]:
        """Return the method's maps of other pictures of this size, of other bases."""
        others = [
            maps[method]
            for other in self._order(picture)
            if method in (maps := self.first[other]) and shape_of(maps[method]) == shape
        ]
        if not others:
            raise UndefinedError("no other picture of this size in the batch")
        return others[: self.settings["draws"]]

    def _order(self, picture: str) -> list[str]:
        """Return the pictures of other bases, in an order of this picture's own."""
        if self._last[0] == picture:
            return self._last[1]
        others = [name for name in self.first if self.bases[name] != self.bases[picture]]
        digest = hashlib.sha256(f"{self.seed}\n{picture}\n".encode())

        def key(name: str) -> bytes:
            own = digest.copy()
            own.update(name.encode())
            return own.digest()

        self._last = picture, sorted(others, key=key)
        return self._last[1]


class _StandIns:
    """What stands in for each explanation of one picture and target."""

    def __init__(
        self,
        batch: Batch,
        picture: str,
        target_index: int,
        comparison: Comparison,
        view: np.ndarray,
    ):
        self.batch, self.comparison, self.view = batch, comparison, view
        self.picture, self.target_index = picture, target_index
        self.made: dict[tuple, Any] = {}

    def _once(self, make: Callable, *key) -> Any:
        """Return what ``make(*key)`` returns, or raise what it raises, and ask but once."""
        name = (make.__name__, *key)
        if name not in self.made:
            try:
                self.made[name] = make(*key)
            except UndefinedError as reason:
                self.made[name] = reason
        if isinstance(found := self.made[name], UndefinedError):
            raise UndefinedError(str(found))
        return found

    def measure(self, control: str, pair: tuple[str, str], name: str) -> float:
        """Return a floor of one pair and metric."""
        metric, means = METRICS[name], []
        for kept, replaced in (pair, pair[::-1]):
            try:
                others = self._once(self._prepare, control, replaced, name)
            except UndefinedError as reason:
                raise UndefinedError(f"for {replaced}: {reason}") from None
            own = self.comparison.prepared[kept, name]
            means.append(np.mean([metric.compare(own, other) for other in others]))
        return float(np.mean(means))

    def _prepare(self, control: str, method: str, name: str) -> list:
        """Return all that stands in for a method, made ready for a metric; at least one."""
        comparison, metric = self.comparison, METRICS[name]
        if control == RANDOM and metric.over == PIXELS and metric.moves:
            explanation = comparison.maps[method]
            if not isinstance(explanation, Superpixels):
                ranked = np.sort(comparison.prepared[method, name])
                orders = self._once(self._orders, layer_grid(explanation))
                return [_put(ranked, order) for order in orders]
        make = {
            RANDOM: self._random,
            OTHER: self._other,
            CENTRE: self._centre,
            EDGES: self._edges,
        }[control]
        found, reasons = [], []
        for explanation in self._once(make, method):
            try:
                found.append(comparison.prepare(name, explanation, keep=control != RANDOM))
            except UndefinedError as reason:
                reasons.append(str(reason))
        if not found:
            raise UndefinedError(reasons[0])
        return found

    def _shape(self) -> tuple[int, int]:
        return self.view.shape[:2]

    def _orders(self, grid: tuple[int, int]) -> list[np.ndarray]:
        """Draw the orders of pixels; layers of one grid share them, since no two stand-ins meet."""
        rng = make_rng(self.batch.seed, self.picture, self.target_index, *grid)
        draws = range(self.batch.settings["draws"])
        return [order_noise(self._shape(), grid, rng) for _ in draws]

    def _random(self, method: str) -> list[Explanation]:
        explanation = self.comparison.maps[method]
        if isinstance(explanation, Superpixels):
            rng = make_rng(self.batch.seed, self.picture, self.target_index, method)
            draws = range(self.batch.settings["draws"])
            return [explanation.reweigh(rng.permutation(explanation.weights)) for _ in draws]
        orders = self._once(self._orders, layer_grid(explanation))
        ranked = np.sort(np.asarray(explanation), axis=None)
        signed = explanation.signed if isinstance(explanation, Heatmap) else None
        ranked_signed = None if signed is None else np.sort(signed, axis=None)
        return [
            _Moved(
                _put(ranked, order).reshape(self._shape()),
                moved=None if signed is None else _put(ranked_signed, order),
            )
            for order in orders
        ]

    def _other(self, method: str) -> list[Explanation]:
        return self.batch.choose_others(self.picture, method, self._shape())

    def _centre(self, method: str) -> list[Explanation]:
        return [make_centre(*self._shape())]

    def _edges(self, method: str) -> list[Explanation]:
        explanation = self.comparison.maps[method]
        edges = self._once(self._sobel)
        if isinstance(explanation, Superpixels):
            means = explanation.sum_over(edges.ravel()) / explanation.areas
            return [means[explanation.segment_map]]
        return [self._once(self._coarse_edges, layer_grid(explanation))]

    def _coarse_edges(self, grid: tuple[int, int]) -> np.ndarray:
        _require_places(grid)  # upsampled, one value is several to the last digit
        coarse = average_over(self._once(self._sobel), grid)
        return cv2.resize(np.float32(coarse), self._shape()[::-1])

    def _sobel(self) -> np.ndarray:
        return find_edges(self.view)


def _put(ranked: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Put sorted values at places given from the lowest to the highest."""
    values = np.empty_like(ranked)
    values[order] = ranked
    return values


class _Ceiling:
    """The reliabilities of one picture's explanations."""

    def __init__(self, comparison: Comparison, repeats: Sequence[np.ndarray]):
        self.comparison = comparison
        self.runs = {}
        for method, explanation in comparison.maps.items():
            if isinstance(explanation, Superpixels):
                self.runs[method] = [explanation.reweigh(weights) for weights in repeats]
        self.known: dict[tuple, float | UndefinedError] = {}

    def measure(self, pair: tuple[str, str], name: str) -> float:
        """Return the ceiling of one pair and metric."""
        product = 1.0
        for method, other in (pair, pair[::-1]):
            reliability = self._reliability(method, other in self.runs, name)
            if reliability < 0:
                raise UndefinedError(f"{method}: its reliability is negative")
            product *= reliability
        return _turn(float(np.sqrt(product)), METRICS[name])

    def _reliability(self, method: str, against_lime: bool, name: str) -> float:
        """Return how far a method agrees with itself, from 1 for wholly downwards."""
        key = method, against_lime, name
        if key not in self.known:
            try:
                if method in self.runs:
                    self.known[key] = self._of_lime(method, name)
                elif against_lime and METRICS[name].over == PIXELS:
                    self.known[key] = self._of_cam(method, name)
                else:
                    self.known[key] = 1.0
            except UndefinedError as reason:
                self.known[key] = reason
        if isinstance(found := self.known[key], UndefinedError):
            raise UndefinedError(str(found))
        return found

    def _of_lime(self, method: str, name: str) -> float:
        if not self.runs[method]:
            raise UndefinedError("LIME was not repeated")
        try:
            again = [self.comparison.prepare(name, run) for run in self.runs[method]]
        except UndefinedError as reason:
            raise UndefinedError(f"a repeat of LIME: {reason}") from None
        runs, metric = [self.comparison.prepared[method, name], *again], METRICS[name]
        return float(
            np.mean([_turn(metric.compare(*two), metric) for two in combinations(runs, 2)])
        )

    def _of_cam(self, method: str, name: str) -> float:
        superpixels, metric = self.comparison.superpixels, METRICS[name]
        own = self.comparison.maps[method]
        means = superpixels.sum_over(pixel_values(own)) / superpixels.areas
        try:
            projected = self.comparison.prepare(name, means[superpixels.segment_map])
        except UndefinedError as reason:
            raise UndefinedError(f"{method} over LIME's superpixels: {reason}") from None
        return _turn(metric.compare(self.comparison.prepared[method, name], projected), metric)


def _turn(value: float, metric: Measure) -> float:
    """Turn a distance into an agreement and back; an agreement stays as it is."""
    return value if metric.higher_agrees else 1 - value

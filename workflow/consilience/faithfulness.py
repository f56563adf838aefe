"""How faithful explanations are to the model: what becomes of its answer without what they name.

Pixels are taken away, or given back, in the order of an explanation, and the probability of the
class that it explains is watched. Everything is held against random orders at the method's own
resolution: any order of large blocks does better than one of single pixels, whatever it knows.

What replaces a pixel is no part of the explanation and yet moves the score, so that there are
several fills: ``mean``, the picture's mean colour; ``blur``, the picture under a Gaussian;
``linear``, ROAD's imputation from the pixels around; ``black``, for the average drop.

Perturbed pictures are made in the floating-point numbers that the model takes, normalised, and are
not rounded to what an 8-bit picture can hold. The mean colour, the blur and the imputation are the
same there as in colours, since they are weighted means.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.sparse import csc_array
from scipy.sparse.linalg import splu

from .errors import ConsilienceError
from .images import decode_png
from .measures import (
    Explanation,
    Heatmap,
    Superpixels,
    UndefinedError,
    bootstrap_mean,
    collect_explanations,
    keep_first,
    leave_out_drawn,
    pixel_values,
    shape_of,
    summarise_rows,
)
from .progress import track
from .registry import Registry, protect, require_number, require_parameters

if TYPE_CHECKING:
    from .classifiers import Classifier

DEFAULTS = {"steps": 8, "road": (0.2, 0.4, 0.6, 0.8), "orders": 2, "batch_size": 32, "extra": ()}
"""The settings that are taken unless others are given: the study's ``faithfulness``."""


@dataclass(frozen=True)
class Metric:
    """A measure of faithfulness.

    Attributes
    ----------
    higher_is_better
        Whether a higher score is a more faithful explanation.
    fills
        What replaces pixels, in the table's words; a score each.
    function
        Of a measure that a user registered: scores one explanation
        (:func:`consilience.registry.faithfulness`).
    """

    higher_is_better: bool
    fills: tuple[str, ...]
    function: Callable[..., float] | None = None


def _adapt(name: str, function: Callable, higher: bool, fill: str) -> Metric:
    require_parameters(function, ("picture", "values", "ranks", "ask"))
    what = f"the measure of faithfulness {name!r}"

    def score(*arrays: np.ndarray, ask: Callable) -> float:
        return require_number(function(*map(protect, arrays), ask), what)

    return Metric(higher, (fill,), score)


METRICS = Registry(
    "faithfulness",
    {
        "deletion": Metric(False, ("mean", "blur")),
        "insertion": Metric(True, ("mean", "blur")),
        "road": Metric(True, ("linear",)),
        "average-drop": Metric(False, ("black",)),
        "increase": Metric(True, ("black",)),
    },
    _adapt,
)
"""Every measure by its name in the table ``FAITHFULNESS``."""

MEASURES = tuple(
    (name, fill) for name in METRICS if name in METRICS.ours for fill in METRICS[name].fills
)
"""Metrics and fills of the table ``FAITHFULNESS`` that are always taken, in its order."""

VOTES = {
    "mean": (("deletion", "mean"), ("insertion", "mean")),
    "blur": (("deletion", "blur"), ("insertion", "blur")),
    "ROAD": (("road", "linear"),),
}
"""What must agree before a method is called the most faithful: the metrics and fills of each."""

NOISE = 0.01
"""Standard deviation of the noise on imputed pixels, in the units that the model takes: ROAD's."""

# Weights of the neighbours in ROAD's imputation, by rows and columns away: those at a corner count
# half as much as those at a side.
_NEIGHBOURS = {
    (down, across): 1 / 12 if down and across else 1 / 6
    for down in (-1, 0, 1)
    for across in (-1, 0, 1)
    if down or across
}
_OUTSIDE, _KNOWN = -2, -1  # of the picture; else a place among the unknown pixels


class _Normalised:
    """A transform for pictures that are normalised already."""

    @staticmethod
    def normalize(pictures, device):
        return pictures.to(device)


def impute_linear(
    picture: np.ndarray, removed: np.ndarray, noise: np.ndarray | None = None
) -> np.ndarray:
    """Replace pixels by weighted means of their neighbours, as ROAD does.

    Each removed pixel is the mean of its eight neighbours, those at a corner with half the weight
    and those outside the picture with none; neighbours that are removed too are unknowns of the
    same system. It is assembled without loops over pixels, its pixels are eliminated in the order
    of a nested dissection, and one factorisation serves all channels.

    Source: Rong et al. 2022, "A Consistent and Efficient Evaluation Strategy for Attribution
    Methods", and ``NoisyLinearImputer`` of pytorch-grad-cam, whose values these are.

    Parameters
    ----------
    picture
        float32, shape (channels, height, width).
    removed
        Boolean, shape (height, width); not everywhere.
    noise
        Added to what is imputed: float32, shape (channels, height, width).

    Returns
    -------
    numpy.ndarray
        float32, shape (channels, height, width).

    Raises
    ------
    ConsilienceError
        If no pixel is left to impute from.
    """
    height, width = removed.shape
    unknown = np.flatnonzero(removed)
    filled = np.array(picture, dtype=np.float32).reshape(len(picture), -1)
    if not len(unknown):
        return filled.reshape(picture.shape)
    if len(unknown) == removed.size:
        raise ConsilienceError("no pixel is left to impute the others from; remove a smaller share")
    unknown = unknown[np.argsort(_order_elimination(height, width)[unknown])]
    rows, columns = np.divmod(unknown, width)
    # A frame around the picture, so that no neighbour needs asking whether it lies within.
    frame = width + 2
    place = np.full((height + 2, frame), _OUTSIDE, dtype=np.int32)
    place[1:-1, 1:-1] = _KNOWN
    place[rows + 1, columns + 1] = np.arange(len(unknown))
    values = np.pad(picture, ((0, 0), (1, 1), (1, 1))).reshape(len(picture), -1)
    place, at = place.ravel(), (rows + 1) * frame + columns + 1
    known = np.zeros((len(unknown), len(picture)))
    total = np.zeros(len(unknown))
    entries = []
    for (down, across), weight in _NEIGHBOURS.items():
        neighbours = at + down * frame + across
        what = place[neighbours]
        total += weight * (what != _OUTSIDE)
        given = what == _KNOWN
        known[given] += weight * values[:, neighbours[given]].T
        (sought,) = np.nonzero(what >= 0)
        entries.append((np.full(len(sought), -weight), sought, what[sought]))
    entries.append((total, np.arange(len(unknown)), np.arange(len(unknown))))
    data, row, column = map(np.concatenate, zip(*entries, strict=True))
    # Symmetric and diagonally dominant, so that no pivoting is needed.
    factors = splu(
        csc_array((data, (row, column)), shape=(len(unknown), len(unknown))),
        permc_spec="NATURAL",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )
    filled[:, unknown] = factors.solve(known).T.astype(np.float32)
    if noise is not None:
        filled[:, unknown] += noise.reshape(len(noise), -1)[:, unknown]
    return filled.reshape(picture.shape)


@lru_cache(maxsize=8)
def _order_elimination(height: int, width: int) -> np.ndarray:
    """Return the place of every pixel in a nested dissection of the grid, shape (pixels,).

    Halves first, then the line of pixels between them (George 1973): eliminated in this order a
    system of neighbours fills up little, and so does that of any part of the pixels.
    """
    order: list[int] = []

    def dissect(top: int, bottom: int, left: int, right: int) -> None:
        tall, wide = bottom - top, right - left
        if tall * wide <= 16:
            order.extend(r * width + c for r in range(top, bottom) for c in range(left, right))
        elif tall >= wide:
            middle = (top + bottom) // 2
            dissect(top, middle, left, right)
            dissect(middle + 1, bottom, left, right)
            order.extend(middle * width + c for c in range(left, right))
        else:
            middle = (left + right) // 2
            dissect(top, bottom, left, middle)
            dissect(top, bottom, middle + 1, right)
            order.extend(r * width + middle for r in range(top, bottom))

    dissect(0, height, 0, width)
    place = np.empty(height * width, dtype=np.int64)
    place[order] = np.arange(height * width)
    return place


def blur(picture: np.ndarray) -> np.ndarray:
    """Blur a picture with a Gaussian of 5 pixels at a shorter side of 224, in proportion.

    RISE's own kernel has this width too, but is cut off at 11 pixels, so that it is nearly a box,
    and takes what lies outside for the mean colour; here the picture is mirrored at its edges.

    Parameters
    ----------
    picture
        float32, shape (channels, height, width).

    Returns
    -------
    numpy.ndarray
        float32, shape (channels, height, width).
    """
    sigma = 5 / 224 * min(picture.shape[1:])
    return gaussian_filter(picture, (0, sigma, sigma))


def rank_pixels(values: np.ndarray, *ties: np.ndarray) -> np.ndarray:
    """Return each pixel's place from the most relevant, 0, to the least.

    Parameters
    ----------
    values
        Shape (pixels,).
    ties
        Likewise: what decides between pixels of equal value, the higher first; where these are
        equal too, the next.
    """
    order = np.lexsort([-np.asarray(key, dtype=np.float64) for key in (*ties[::-1], values)])
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))
    return ranks


def area_under(curve: Sequence[float]) -> float:
    """Return the area under a curve of equal steps from 0 to 1 (trapezoids)."""
    curve = np.asarray(curve, dtype=np.float64)
    return float((curve.sum() - (curve[0] + curve[-1]) / 2) / (len(curve) - 1))


def count_removed(share: float, pixels: int) -> int:
    """Return how many pixels ROAD removes: those from the percentile ``100 (1 - share)`` up.

    As many as pytorch-grad-cam removes where no two values are equal; ties it removes all.
    """
    # What a percentile's place lacks of a whole number through rounding is none of ours.
    return pixels - math.ceil((pixels - 1) * (1 - share) - 1e-9)


def scale_positive(values: np.ndarray) -> np.ndarray:
    """Return the positive part of a map, scaled so that its maximum is 1: float32.

    Raises
    ------
    UndefinedError
        If no value is positive.
    """
    positive = np.maximum(values, 0)
    if not positive.any():
        raise UndefinedError("no positive value")
    return np.float32(positive / positive.max())


class _Questions:
    """The perturbed pictures that a model is to be asked about, each once.

    Kept as what is removed, and built a batch at a time: a bit a pixel instead of 12 bytes.

    Parameters
    ----------
    picture
        Normalised: float32, shape (channels, height, width).
    black
        What black is there, shape (channels, 1, 1).
    noise
        Of the imputation, float32, shape (channels, height, width).
    """

    def __init__(self, picture: np.ndarray, black: np.ndarray, noise: np.ndarray):
        self.picture, self.black, self.noise = picture, black, noise
        mean = picture.mean(axis=(1, 2), keepdims=True, dtype=np.float64)
        self.fills = {"mean": mean.astype(np.float32), "blur": blur(picture)}
        self.numbers: dict[tuple[str, bytes], int] = {}

    def _ask(self, fill: str, data: bytes) -> int:
        return self.numbers.setdefault((fill, data), len(self.numbers))

    def remove(self, fill: str, removed: np.ndarray) -> int:
        """Ask about the picture without the pixels ``removed``, and return the answer's number."""
        return self._ask(fill, np.packbits(removed).tobytes()) if removed.any() else self.nothing()

    def scale(self, shares: np.ndarray) -> int:
        """Ask about the picture times a map in [0, 1] (float32), and return the answer's number."""
        return self._ask("black", shares.tobytes())

    def nothing(self) -> int:
        """Ask about the picture itself, and return the answer's number."""
        return self._ask("none", b"")

    def _build(self, fill: str, data: bytes) -> np.ndarray:
        shape = self.picture.shape[1:]
        if fill == "none":
            return self.picture
        if fill == "black":
            shares = np.frombuffer(data, dtype=np.float32).reshape(shape)
            return self.black + shares * (self.picture - self.black)
        bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8), count=shape[0] * shape[1])
        removed = bits.astype(bool).reshape(shape)
        if fill == "linear":
            return impute_linear(self.picture, removed, self.noise)
        return np.where(removed, self.fills[fill], self.picture)

    def answer(self, classifier: Classifier, batch_size: int) -> np.ndarray:
        """Ask the model: probabilities, float32, shape (questions, classes)."""
        import torch  # here, as who summarises does without it

        # Its checks and its softmax, of pictures that need no normalising.
        asked = replace(classifier, transform=_Normalised())
        keys = list(self.numbers)
        # Written to again and again.
        batch = np.empty((min(batch_size, len(keys)), *self.picture.shape), dtype=np.float32)
        answers = []
        for start in range(0, len(keys), batch_size):
            part = keys[start : start + batch_size]
            for number, key in enumerate(part):
                batch[number] = self._build(*key)
            answers.append(asked.probabilities(torch.from_numpy(batch[: len(part)])))
        return np.concatenate(answers)


@dataclass(frozen=True)
class _Resolution:
    """What a method can tell apart: random orders are drawn of the same.

    Attributes
    ----------
    key
        Equal for methods that share random orders.
    draw
        Draws values over pixels, shape (pixels,), without regard to the picture.
    """

    key: str
    draw: Callable[[np.random.Generator], np.ndarray]


def _find_resolution(explanation: Explanation, grid: tuple[int, int] | None) -> _Resolution:
    """Say at which resolution a method explains: its superpixels, or its layer's grid."""
    if isinstance(explanation, Superpixels):
        segments = explanation.segment_map
        digest = sha256(np.int64(segments).tobytes()).hexdigest()
        count = len(explanation.weights)
        return _Resolution(
            f"superpixels {digest}", lambda g: g.permutation(count)[segments.ravel()]
        )
    height, width = shape_of(explanation)
    if grid is None and isinstance(explanation, Heatmap) and explanation.layer_map is not None:
        grid = explanation.layer_map.shape
    rows, columns = grid or (height, width)

    def draw(generator: np.random.Generator) -> np.ndarray:
        import cv2  # here, as who summarises does without it

        noise = generator.standard_normal((rows, columns), dtype=np.float32)
        return cv2.resize(noise, (width, height)).ravel()

    return _Resolution(f"map {rows}x{columns}", draw)


def _make_generator(seed: int, *names: str) -> np.random.Generator:
    """Return a generator that depends on the seed and the names alone."""
    digest = sha256("\0".join(names).encode()).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest[:16], dtype="<u4").tolist()])


@dataclass(frozen=True)
class _Plan:
    """The numbers of one order's questions: curves by metric and fill, and ROAD's pairs."""

    curves: dict[tuple[str, str], list[int]]
    least_first: list[int]
    most_first: list[int]

    @classmethod
    def make(cls, questions: _Questions, ranks: np.ndarray, settings: Mapping) -> _Plan:
        ranks = ranks.reshape(questions.picture.shape[1:])
        pixels, steps = ranks.size, settings["steps"]
        # Rounded down from either end, so that an order's insertion is its reverse's deletion.
        counts = [pixels * step // steps for step in range(steps + 1)]
        kept = [pixels - count for count in counts[::-1]]
        curves = {
            (metric, fill): [
                questions.remove(fill, ranks < count if metric == "deletion" else ranks >= keep)
                for count, keep in zip(counts, kept, strict=True)
            ]
            for metric, fill in MEASURES
            if metric in ("deletion", "insertion")
        }
        removed = [count_removed(share, pixels) for share in settings["road"]]
        return cls(
            curves,
            [questions.remove("linear", ranks >= pixels - count) for count in removed],
            [questions.remove("linear", ranks < count) for count in removed],
        )

    def score(self, answers: np.ndarray) -> dict[tuple[str, str], tuple[float, list[float]]]:
        """Return score and curve by metric and fill; ``answers`` are of one class, float64."""
        curves = {key: answers[numbers] for key, numbers in self.curves.items()}
        scores = {key: (area_under(curve), curve.tolist()) for key, curve in curves.items()}
        gaps = answers[self.least_first] - answers[self.most_first]
        return scores | {("road", "linear"): (float(gaps.mean() / 2), [])}


def _score_masked(whole: float, masked: float) -> dict[tuple[str, str], tuple[float, list[float]]]:
    """Score a picture that was multiplied by a map: average drop and increase in confidence."""
    return {
        ("average-drop", "black"): (max(0.0, float(whole - masked) / float(whole)), []),
        ("increase", "black"): (float(masked > whole), []),
    }


@dataclass(frozen=True)
class _Asked:
    """What the model is asked for one explanation.

    Attributes
    ----------
    plan
        Of its order; None where it has none.
    key
        Of its resolution, whose random orders it is held against.
    masked
        Numbers of the questions about the picture times the map, and times each random map.
    reason
        Why there is no plan, or nothing masked.
    """

    plan: _Plan | None = None
    key: str = ""
    masked: Sequence[int] = ()
    reason: str | None = None

    def score(self, answers: np.ndarray, others: Sequence[_Plan]) -> Iterator[dict]:
        """Yield the table's columns from ``value`` on, in the order of :data:`MEASURES`.

        ``answers`` are of the explained class, float64; the first is of the picture itself.
        """
        own = self.plan.score(answers) if self.plan else {}
        random = [plan.score(answers) for plan in others]
        reason = self.reason
        if self.masked and answers[0] > 0:
            own, *random = (
                scores | _score_masked(answers[0], answers[number])
                for scores, number in zip([own, *random], self.masked, strict=True)
            )
        elif self.masked:
            reason = "the target's probability is 0"
        for key in MEASURES:
            if key not in own:
                yield {"curve": [], "random_curve": [], "reason": reason}
                continue
            value, curve = own[key]
            mean = float(np.mean([scores[key][0] for scores in random]))
            yield {
                "value": value,
                "random": mean,
                "difference": _subtract(key[0], value, mean),
                "curve": curve,
                "random_curve": np.mean([scores[key][1] for scores in random], axis=0).tolist(),
            }


def _rises(metric: str) -> bool:
    """Say whether a higher score is a more faithful explanation."""
    return METRICS[metric].higher_is_better


def _subtract(metric: str, value: float, random: float) -> float:
    """Return how much better a score is than a random order's."""
    return value - random if _rises(metric) else random - value


@dataclass(frozen=True)
class _Order:
    """One explanation's values and ranks over pixels, each of shape (height, width)."""

    values: np.ndarray
    ranks: np.ndarray

    @classmethod
    def make(cls, values: np.ndarray, ranks: np.ndarray, shape: tuple[int, int]) -> _Order:
        return cls(values.reshape(shape), ranks.reshape(shape))

    def deal(self, ranks: np.ndarray) -> _Order:
        """Return the same values in another order, given as ranks of shape (pixels,)."""
        falling = np.sort(self.values, axis=None)[::-1]
        return _Order.make(falling[ranks], ranks, self.values.shape)


def _score_extra(
    name: str, picture: np.ndarray, order: _Order, others: Sequence[_Order], ask: Callable
) -> dict:
    """Score an explanation by a user's measure: the table's columns from ``metric`` on."""
    metric = METRICS[name]
    scored = {"metric": name, "fill": metric.fills[0], "curve": [], "random_curve": []}
    scores, what = [], ""
    try:
        for one in (order, *others):
            scores.append(metric.function(picture, one.values, one.ranks, ask=ask))
            what = "a random order: "
    except UndefinedError as reason:
        return scored | {"reason": f"{what}{reason}"}
    value, random = scores[0], float(np.mean(scores[1:]))
    return scored | {
        "value": value,
        "random": random,
        "difference": _subtract(name, value, random),
    }


def _make_ask(classifier: Classifier, target: int, batch_size: int, shape: tuple) -> Callable:
    """Return what a user's measure asks: probabilities of one class, of normalised pictures."""
    import torch  # here, as who summarises does without it

    asked = replace(classifier, transform=_Normalised())

    def ask(pictures: np.ndarray) -> np.ndarray:
        pictures = np.ascontiguousarray(pictures, dtype=np.float32)
        if pictures.ndim != 4 or pictures.shape[1:] != shape:
            raise ConsilienceError(
                f"a measure of faithfulness asks about pictures of shape {pictures.shape}; they "
                f"must be of shape (n, {', '.join(map(str, shape))})"
            )
        parts = np.split(pictures, range(batch_size, len(pictures), batch_size))
        answers = [asked.probabilities(torch.from_numpy(part)) for part in parts if len(part)]
        return np.concatenate([np.empty((0, len(classifier.class_names))), *answers])[:, target]

    return ask


def check_settings(settings: Mapping) -> dict:
    """Return the settings, those that are not given from :data:`DEFAULTS`.

    Raises
    ------
    ConsilienceError
        If a setting does not exist or fit.
    """
    if unknown := sorted(set(settings) - set(DEFAULTS)):
        raise ConsilienceError(
            f"faithfulness: no setting {unknown[0]!r}; there are {', '.join(DEFAULTS)}"
        )
    settings = DEFAULTS | dict(settings)
    for key, least in (("steps", 2), ("orders", 1), ("batch_size", 1)):
        if settings[key] < least:
            raise ConsilienceError(f"faithfulness.{key}: {settings[key]} is below {least}")
    if not settings["road"] or not all(0 < share < 1 for share in settings["road"]):
        raise ConsilienceError(
            f"faithfulness.road: {list(settings['road'])} must be shares between 0 and 1"
        )
    for name in settings["extra"]:
        if name not in METRICS or METRICS[name].function is None:
            raise ConsilienceError(
                f"faithfulness.extra: {name!r} is no measure that a file of `extensions` registers"
            )
    return settings


def measure_picture(
    classifier: Classifier,
    view: np.ndarray,
    explanations: Mapping[int, Mapping[str, Explanation]],
    settings: Mapping | None = None,
    seed: int = 0,
    name: str = "",
    grids: Mapping[str, tuple[int, int]] | None = None,
) -> list[dict]:
    """Measure how faithful the explanations of one picture are.

    The order of an explanation is that of :func:`consilience.measures.pixel_values` (of LIME:
    weight by area). Its ties are broken by a random map at its own resolution (LIME's superpixels
    in random order), and where that ties too, as within a superpixel, by random pixels. A
    rectified map is zero over much of a picture: random pixels throughout would break it into dots,
    which random orders of the method's resolution are not.

    ``deletion`` is the area under the probability of the target while pixels are replaced, the
    most relevant first, in equal steps from none to all; from 0 to 1, lower is better.
    ``insertion`` starts from the picture that is replaced throughout, and gives pixels back, the
    most relevant first; from 0 to 1, higher is better (Petsiuk et al. 2018, "RISE").

    ``road`` is the mean over shares of half of the probability after the least relevant share was
    imputed, less that after the most relevant share was; from -0.5 to 0.5, higher is better, a
    random order scores 0 (Rong et al. 2022). It is pytorch-grad-cam's ``ROADCombined`` with the
    percentiles ``100 (1 - share)``, but for three things: it takes the target's probability, where
    the library takes what its target says (logits, with ``ClassifierOutputTarget``); exactly the
    share is removed, where the library removes all that ties with its percentile; and the noise,
    normal with standard deviation 0.01 of normalised values as in the library, is drawn once a
    picture and serves all its imputations, so that scores differ by their orders alone.

    ``average-drop`` is the share of the target's probability that is lost when the picture is
    multiplied by the explanation, scaled to [0, 1] (of LIME the positive part of weight by area);
    from 0 to 1, lower is better. ``increase`` is 1 where the probability rises by this, else 0;
    higher is better (Chattopadhay et al. 2018, "Grad-CAM++"). Zero is true black, colour 0 before
    it is normalised, where pytorch-grad-cam multiplies the normalised picture. Average drop can be
    gamed: a map that is 1 everywhere has none. So the random map has the explanation's own values.

    What a user registered and ``settings`` name in ``extra`` follows, asked by itself.

    Parameters
    ----------
    classifier
        The model.
    view
        What the model sees: uint8, shape (height, width, 3).
    explanations
        By target class and method.
    settings
        The study's ``faithfulness``; what is not given is taken from :data:`DEFAULTS`.
    seed
        Of random orders, ties and noise, which depend on nothing else but ``name``, the size of
        the view and the method's resolution.
    name
        Of the picture.
    grids
        By method, rows and columns of its layer; by default those of a CAM's ``layer_map``, and of
        an array its own.

    Returns
    -------
    list of dict
        Rows of the table ``FAITHFULNESS`` without ``model``, ``picture`` and ``target_class``, by
        target (as given), method (sorted), metric and fill (as in :data:`MEASURES`; then
        ``extra``). An undefined ``value`` is None and has its ``reason``.

    Raises
    ------
    ConsilienceError
        If an explanation has another shape than the view, a target is out of range, or a setting
        does not exist or fit.
    """
    settings = check_settings(settings or {})
    classes = len(classifier.class_names)
    for target, maps in explanations.items():
        if not 0 <= target < classes:
            raise ConsilienceError(
                f"target class {target} is out of range: model {classifier.name!r} has classes "
                f"0 to {classes - 1}"
            )
        for method, explanation in maps.items():
            if shape_of(explanation) != view.shape[:2]:
                raise ConsilienceError(
                    f"{method}: an explanation of shape {shape_of(explanation)} is not of a view "
                    f"of shape {view.shape[:2]}; run the steps that explain it again"
                )
    # Black beside the picture, normalised as it is.
    pair = classifier.transform.normalize(np.stack([view, np.zeros_like(view)])).numpy()
    noise = _make_generator(seed, name, "noise").normal(0, NOISE, pair[0].shape)
    questions = _Questions(pair[0], pair[1, :, :1, :1], noise.astype(np.float32))
    scatter = _make_generator(seed, name, "pixels").permutation(view.shape[0] * view.shape[1])
    questions.nothing()  # the first answer

    randoms: dict[str, list[tuple[np.ndarray, _Plan]]] = {}
    asked: dict[tuple[int, str], _Asked] = {}
    ordered: dict[tuple[int, str], _Order] = {}
    for target, maps in explanations.items():
        for method in sorted(maps):
            try:
                values = pixel_values(maps[method])
            except UndefinedError as reason:
                asked[target, method] = _Asked(reason=str(reason))
                continue
            own = _find_resolution(maps[method], (grids or {}).get(method))
            if own.key not in randoms:
                generator = _make_generator(seed, name, own.key, "orders")
                orders = range(settings["orders"])
                drawn = [rank_pixels(own.draw(generator), scatter) for _ in orders]
                randoms[own.key] = [(r, _Plan.make(questions, r, settings)) for r in drawn]
            ties = own.draw(_make_generator(seed, name, own.key, "ties"))
            ranks = rank_pixels(values, ties, scatter)
            ordered[target, method] = _Order.make(values, ranks, view.shape[:2])
            plan = _Plan.make(questions, ranks, settings)
            try:
                shares = scale_positive(values)
            except UndefinedError as reason:
                asked[target, method] = _Asked(plan, own.key, reason=str(reason))
                continue
            falling = np.sort(shares)[::-1]
            masks = [shares, *(falling[ranks] for ranks, _ in randoms[own.key])]
            numbers = [questions.scale(mask) for mask in masks]
            asked[target, method] = _Asked(plan, own.key, numbers)
    answers = np.empty((1, classes))
    if randoms:
        answers = questions.answer(classifier, settings["batch_size"]).astype(np.float64)

    rows = []
    for (target, method), what in asked.items():
        others = randoms.get(what.key, [])
        about = {"target_index": target, "method": method}
        plans = [plan for _, plan in others]
        for key, scored in zip(MEASURES, what.score(answers[:, target], plans), strict=True):
            rows.append(about | {"metric": key[0], "fill": key[1]} | scored)
        for name in settings["extra"]:
            if order := ordered.get((target, method)):
                dealt = [order.deal(ranks) for ranks, _ in others]
                ask = _make_ask(classifier, target, settings["batch_size"], pair[0].shape)
                scored = _score_extra(name, pair[0], order, dealt, ask)
            else:
                scored = {"metric": name, "fill": METRICS[name].fills[0], "reason": what.reason}
                scored |= {"curve": [], "random_curve": []}
            rows.append(about | scored)
    return rows


def measure_views(
    classifier: Classifier,
    views: Iterable[Mapping],
    predictions: Iterable[Mapping],
    heatmaps: Sequence[Mapping],
    limes: Iterable[Mapping],
    settings: Mapping | None = None,
    seed: int = 0,
) -> Iterator[dict]:
    """Measure how faithful the explanations of each view are.

    Parameters
    ----------
    classifier
        The model.
    views, predictions
        Rows of ``VIEWS`` and ``PREDICTIONS``.
    heatmaps, limes
        Rows of ``HEATMAPS`` and ``LIME``, the explanations of these. A map of several layers has
        the resolution of the layer that is named first.
    settings, seed
        As :func:`measure_picture` takes them.

    Yields
    ------
    dict
        Rows of ``FAITHFULNESS``, a picture at a time in the order of the views.

    Raises
    ------
    ConsilienceError
        As :func:`measure_picture` does; names the picture.
    """
    explanations = collect_explanations(heatmaps, limes)
    grids: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
    for row in heatmaps:
        grids[row["picture"]][row["method"]] = row["layer_height"], row["layer_width"]
    targets = defaultdict(list)
    for row in predictions:
        targets[row["picture"]].append(row)
    for view in track(views, "pictures"):
        name = view["picture"]
        of_target = {row["target_index"]: row for row in targets[name]}
        found = {target: explanations[name, target] for target in of_target}
        try:
            rows = measure_picture(
                classifier, decode_png(view["view"]), found, settings, seed, name, grids[name]
            )
        except ConsilienceError as error:
            raise ConsilienceError(f"picture {name!r}: {error}") from None
        for row in rows:
            target = of_target[row["target_index"]]
            yield {key: target[key] for key in ("model", "picture", "target_class")} | row


def summarise_faithfulness(
    rows: Iterable[Mapping],
    pictures: Iterable[Mapping],
    resamples: int = 2000,
    seed: int = 0,
) -> list[dict]:
    """Summarise rows of the table ``FAITHFULNESS`` over pictures, each picture's first target.

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
        Rows of the table ``FAITHFULNESS_SUMMARY``, one a model, method, metric, fill and clutter
        level, sorted: mean, median and interval are of the paired differences from random orders.
        Undefined values are counted and left out of all else, and so are pictures that were drawn
        because a model is wrong about them.
    """
    pictures = list(pictures)
    paired = [
        # The score in the place of a chance value, whose mean comes along.
        {**row, "value": row["difference"], "chance": row["value"]}
        for row in leave_out_drawn(keep_first(rows, "model", "picture"), pictures)
    ]
    keys = ("model", "method", "metric", "fill")
    summary = []
    for row in summarise_rows(paired, pictures, keys, resamples, seed):
        value, random = row.pop("chance"), None
        if value is not None:
            random = value - row["mean"] if _rises(row["metric"]) else value + row["mean"]
        summary.append(row | {"value": value, "random": random})
    return summary


def name_winners(
    rows: Iterable[Mapping],
    pictures: Iterable[Mapping],
    resamples: int = 2000,
    seed: int = 0,
) -> list[dict]:
    """Name the most faithful method of each model, where the evidence does not contradict itself.

    Each fill and ROAD (:data:`VOTES`) has a vote. A fill's is for the method with the greatest mean
    difference from random orders, deletion and insertion in equal parts. A method wins if all vote
    for it and, in each, a paired bootstrap over base pictures puts it above the second (95 %
    interval of the mean difference between the two). Pictures of one base count as one, and only
    pictures where every method has a value. Best and second are chosen on the same pictures that
    the interval is of, which favours naming a winner; that three votes must agree speaks against
    it.

    Parameters
    ----------
    rows
        Of the table ``FAITHFULNESS``, of any number of models; each picture's first target counts.
    pictures
        With ``name`` and ``base`` (None where a picture is the only one of its base).
    resamples, seed
        Of the bootstrap.

    Returns
    -------
    list of dict
        A model each, sorted by ``model``: the winning ``method``, or None and the ``reason``; and
        the ``votes``: for each that has one its ``vote``, ``best`` and ``second``, the mean
        ``difference`` between these with its ``low`` and ``high``, the number of ``bases`` and of
        pictures ``left_out``.

    Raises
    ------
    ConsilienceError
        If a row's picture is not among ``pictures``.
    """
    pictures = list(pictures)
    bases = {picture["name"]: picture["base"] or picture["name"] for picture in pictures}
    models: dict[str, list[Mapping]] = defaultdict(list)
    for row in leave_out_drawn(keep_first(rows, "model", "picture"), pictures):
        if row["picture"] not in bases:
            raise ConsilienceError(f"picture {row['picture']!r} is scored but is not in the study")
        models[row["model"]].append(row)
    winners = []
    for model in sorted(models):
        methods = sorted({row["method"] for row in models[model]})
        if len(methods) < 2:
            winner, reason, votes = None, f"{methods[0]} is the only method", []
        else:
            votes = [_vote(vote, models[model], methods, bases, resamples, seed) for vote in VOTES]
            winner, reason = _count_votes(votes)
        winners.append({"model": model, "method": winner, "reason": reason, "votes": votes})
    return winners


def _vote(
    vote: str,
    rows: Sequence[Mapping],
    methods: Sequence[str],
    bases: Mapping[str, str],
    resamples: int,
    seed: int,
) -> dict:
    """Find the best and the second method by the mean difference from random orders."""
    found: dict[str, dict[tuple, float]] = defaultdict(dict)
    for row in rows:
        if (row["metric"], row["fill"]) in VOTES[vote] and row["difference"] is not None:
            found[row["picture"]][row["method"], row["metric"]] = row["difference"]
    asked = [(method, metric) for method in methods for metric, _ in VOTES[vote]]
    by_base = defaultdict(list)
    for picture in sorted(found):
        if all(key in found[picture] for key in asked):
            scores = np.reshape([found[picture][key] for key in asked], (len(methods), -1))
            by_base[bases[picture]].append(scores.mean(axis=1))
    said = {
        "vote": vote,
        "bases": len(by_base),
        "left_out": len({row["picture"] for row in rows}) - sum(map(len, by_base.values())),
    }
    if len(by_base) < 2:
        return said
    scores = np.array([np.mean(by_base[base], axis=0) for base in sorted(by_base)])
    best, second = np.argsort(-scores.mean(axis=0), kind="stable")[:2]
    between = scores[:, best] - scores[:, second]
    low, high = bootstrap_mean(between, resamples, seed)
    return said | {
        "best": methods[best],
        "second": methods[second],
        "difference": float(between.mean()),
        "low": low,
        "high": high,
    }


def _count_votes(votes: Sequence[Mapping]) -> tuple[str | None, str | None]:
    """Return the method that all votes are for, or None and the reason."""
    if missing := [vote["vote"] for vote in votes if "best" not in vote]:
        where = "fewer than two base pictures where every method has a value"
        return None, f"{' and '.join(missing)}: {where}"
    best = {vote["vote"]: vote["best"] for vote in votes}
    said = ", ".join(f"{vote} says {method}" for vote, method in best.items())
    if best["mean"] != best["blur"]:
        return None, f"the fills disagree: {said}"
    if len(set(best.values())) > 1:
        return None, f"the fills and ROAD disagree: {said}"
    if close := [vote for vote in votes if vote["low"] <= 0]:
        near = ", ".join(f"{vote['second']} by {vote['vote']}" for vote in close)
        return None, f"{best['mean']} leads, but is not told from the second: {near}"
    return best["mean"], None

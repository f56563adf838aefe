"""How right an explanation is, scored against the exact mask of what it should be about.

What that is depends on what the model said (:func:`find_truth`). A mask is where a thing is, not
what the model used: whether the thing mattered is measured by taking it away
(:mod:`consilience.effects`), and the rows say so in ``matters``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .errors import ConsilienceError
from .images import decode_png
from .measures import (
    Explanation,
    UndefinedError,
    keep_first,
    pixel_values,
    shape_of,
    soft_iou,
    summarise_rows,
    top_region,
)
from .registry import Registry, protect, require_number, require_parameters


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
    region = top_region(values.ravel(), inside.sum())
    return soft_iou(region, inside.ravel().astype(np.float64))


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


def score_average_precision(values: np.ndarray, inside: np.ndarray) -> float:
    """Return the average precision of the values as a ranking of the mask's pixels.

    From 0 to 1, higher is better: the sum of the precisions at every threshold, each weighted by
    the recall it gains, without interpolation; pixels of one value come in together. It asks of
    the whole order what the IoU asks at one threshold. Chance is the mask's share of the area: a
    constant map scores just that, and a random order of n pixels about ln(n) / n more at most.

    Source: PxAP of Choe et al. 2020, "Evaluating Weakly Supervised Object Localization Methods
    Right", here of each picture by itself; the same as scikit-learn's ``average_precision_score``.
    """
    values, inside = values.ravel(), inside.ravel()
    order = np.argsort(values)[::-1]
    ranked = values[order]
    last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    hits = np.cumsum(inside[order])[last]
    precision = hits / (last + 1)
    return float(precision @ np.diff(hits, prepend=0) / hits[-1])


OFFSETS = ("offset-right", "offset-down")
"""What :func:`find_offset` says, by its names in the table ``LOCALIZATION``: pixels of the view."""


@dataclass(frozen=True)
class Metric:
    """A measure of an explanation against a mask.

    Attributes
    ----------
    score
        Takes float64 values over pixels, shape (height, width), neither constant nor without a
        finite value, and whether each lies inside the mask, of the same shape.
    chance
        Takes the mask's share of the area, and returns what a map without regard to the mask
        scores; None where that is not known.
    """

    score: Callable[[np.ndarray, np.ndarray], float]
    chance: Callable[[float], float] | None


def _share(area: float) -> float:
    return area


def _adapt(name: str, function: Callable, chance: Callable[[float], float] | None) -> Metric:
    """Take in what a user registered (:func:`consilience.registry.localization`)."""
    if name in OFFSETS:
        raise ConsilienceError("this is one of Consilience's own; choose another name")
    require_parameters(function, ("values", "inside"))
    what = f"the measure of localisation {name!r}"

    def score(values: np.ndarray, inside: np.ndarray) -> float:
        return require_number(function(protect(values), protect(inside)), what)

    return Metric(score, chance)


METRICS = Registry(
    "localization",
    {
        "pointing-game": Metric(score_pointing, _share),
        "iou": Metric(score_iou, lambda area: area / (2 - area)),
        "mass-inside": Metric(score_mass, _share),
        "average-precision": Metric(score_average_precision, _share),
    },
    _adapt,
)
"""Every measure by its name in the table ``LOCALIZATION``."""

OURS = tuple(name for name in METRICS if name in METRICS.ours)
"""The measures that are always taken."""


def score_localization(
    explanation: Explanation, mask: np.ndarray, extra: Sequence[str] = ()
) -> list[dict]:
    """Score one explanation against a mask.

    Parameters
    ----------
    explanation
        A CAM's map, float, shape (height, width), or LIME's superpixels.
    mask
        Shape (height, width); 0 is outside.
    extra
        Measures of :data:`METRICS` that a user registered.

    Returns
    -------
    list of dict
        ``metric``, ``value``, ``chance``, ``area`` and ``reason`` of rows of the table
        ``LOCALIZATION``, one a metric of :data:`OURS`, of :data:`OFFSETS` and of ``extra``.
        ``chance`` is what a map without regard to the mask scores; an offset has none. An undefined
        ``value`` is None and has its ``reason``.

    Raises
    ------
    ConsilienceError
        If the mask has another shape than the explanation.
    """
    mask = np.asarray(mask)
    if mask.shape != shape_of(explanation) or mask.ndim != 2:
        raise ConsilienceError(
            f"an explanation of shape {shape_of(explanation)} cannot be scored against a mask of "
            f"shape {mask.shape}; both must be in the geometry that the model saw"
        )
    inside = mask != 0
    area = float(inside.mean())
    found: dict[str, float] = {}
    reasons: dict[str, str] = {}
    names = *OURS, *OFFSETS, *extra
    for name in names:
        try:
            if not inside.any():
                raise UndefinedError("empty mask")
            if inside.all():
                raise UndefinedError("mask covers everything")
            if name in METRICS:
                values = pixel_values(explanation).reshape(mask.shape)
                found[name] = METRICS[name].score(values, inside)
            else:
                found[name] = find_offset(explanation, mask)[OFFSETS.index(name)]
        except UndefinedError as error:
            reasons[name] = str(error)
    chances = {
        name: METRICS[name].chance(area)
        for name in names
        if name in METRICS and METRICS[name].chance
    }
    return [
        {
            "metric": name,
            "value": found.get(name),
            "chance": chances.get(name),
            "area": area,
            "reason": reasons.get(name),
        }
        for name in names
    ]


def find_offset(explanation: Explanation, mask: np.ndarray) -> tuple[float, float]:
    """Return how far the centre of mass of the map's positive part lies from the mask's centroid.

    Pixels, right and down; 0 is best, a sign says the other way. A cell of a layer behind
    convolutions of stride s in all, each centred on its place, looks at pixel s·i; upsampling,
    pytorch-grad-cam's as any that aligns corners of pixels, draws it at s·i + (s - 1) / 2. So a CAM
    lies (s - 1) / 2 too far right and down, 7.5 pixels at stride 16, but for what the edges cut
    off; a vision transformer's does not.
    """
    values = np.maximum(pixel_values(explanation), 0).reshape(np.shape(mask))
    if not values.any():
        raise UndefinedError("no positive value")
    inside = np.asarray(mask) != 0
    down, right = (
        float((values * place).sum() / values.sum() - place[inside].mean())
        for place in np.indices(inside.shape)
    )
    return right, down


@dataclass(frozen=True, eq=False)
class Truth:
    """What an explanation of one picture and target is to be about.

    Attributes
    ----------
    kind
        ``object``, ``distractor`` or ``scene``.
    mask
        bool, shape (height, width), in the geometry that the model saw; None where there is none.
    reason
        Why there is none.
    """

    kind: str
    mask: np.ndarray | None
    reason: str | None = None


def find_truth(
    prediction: Mapping, view: Mapping, distractors: Sequence[str] | None, tells: str = "object"
) -> Truth | None:
    """Say what an explanation is to be about, by the class that it explains.

    The class of the object, or the object where the true class is not known: what is seen of the
    object. The class of a distractor: that distractor. The class of the scene, of a model that
    tells scenes apart: all that neither the object nor a distractor nor the board covers. Any
    other class names nothing in the picture, so that no place is right.

    Parameters
    ----------
    prediction
        A row of the table ``PREDICTIONS``.
    view
        The picture's row of the table ``VIEWS``.
    distractors
        Their classes, by the numbers (from 1) of the view's ``distractor_map``; None where not
        known.
    tells
        What the model tells apart: ``object`` or ``scene``.

    Returns
    -------
    Truth or None
        None where no mask of the picture is known.
    """
    if view["mask_visible"] is None:
        return None
    seen = decode_png(view["mask_visible"]) != 0
    others = None if view["distractor_map"] is None else decode_png(view["distractor_map"])
    target, label = prediction["target_class"], prediction["label_class"]
    wrong = "wrong: what it names" if target == prediction["predicted_class"] else "what is asked"
    if label is None or target == label:
        if tells == "object":
            return Truth("object", seen)
        if others is None or label is None:
            return Truth("scene", None, "what else is in the picture is not known")
        return Truth("scene", ~seen & (others == 0))
    if tells == "scene":
        return Truth("scene", None, f"{wrong} is not in the picture")
    if others is None:
        return Truth("distractor", None, f"{wrong} has no mask")
    numbers = [number for number, name in enumerate(distractors or (), 1) if name == target]
    mask = np.isin(others, numbers)
    if not mask.any():
        return Truth("distractor", None, f"{wrong} is not in the picture")
    return Truth("distractor", mask)


def score_picture(
    maps: Mapping[str, Explanation],
    prediction: Mapping,
    view: Mapping,
    distractors: Sequence[str] | None = None,
    tells: str = "object",
    matters: Mapping[tuple[str, int, str], bool] | None = None,
    extra: Sequence[str] = (),
) -> list[dict]:
    """Score every explanation of one picture and target against what it is to be about.

    Parameters
    ----------
    maps
        The explanations by method.
    prediction, view, distractors, tells
        As :func:`find_truth` takes them.
    matters
        As :func:`consilience.effects.find_matters` gives it; what is not in it was not asked.
    extra
        As :func:`score_localization` takes it.

    Returns
    -------
    list of dict
        Rows of the table ``LOCALIZATION``, by method (sorted) and metric; none where no mask of
        the picture is known.
    """
    truth = find_truth(prediction, view, distractors, tells)
    if truth is None:
        return []
    about = {key: prediction[key] for key in ("model", "picture", "target_index", "target_class")}
    about["truth"] = truth.kind
    key = prediction["picture"], prediction["target_index"], truth.kind
    mattered = None if truth.mask is None else (matters or {}).get(key)
    rows = []
    for method in sorted(maps):
        if truth.mask is None:
            unscored = {"value": None, "chance": None, "area": None, "reason": truth.reason}
            scores = [{"metric": name} | unscored for name in (*OURS, *OFFSETS, *extra)]
        else:
            scores = score_localization(maps[method], truth.mask, extra)
        rows += [about | {"method": method, "matters": mattered} | score for score in scores]
    return rows


def summarise_localization(
    rows: Iterable[Mapping],
    pictures: Iterable[Mapping],
    resamples: int = 2000,
    seed: int = 0,
    wrong_of: str | None = None,
) -> list[dict]:
    """Summarise rows of the table ``LOCALIZATION`` over pictures, of each its first target.

    Pictures that were drawn because a model is wrong about them (they have a ``weight``) do not
    stand for the others: they count only where that model's explanation is held against a
    distractor. There they are a random sample of its wrong pictures of a clutter level, and so are
    the wrong ones among the others: no weights are needed within a level.

    Parameters
    ----------
    rows
        Of any number of models, methods and pictures.
    pictures
        With ``name``, ``clutter`` and ``weight``, such as rows of the table ``PICTURES``.
    resamples, seed
        Of the percentile bootstrap over pictures.
    wrong_of
        The model that pictures with a weight were drawn for.

    Returns
    -------
    list of dict
        Rows of the table ``LOCALIZATION_SUMMARY``, one a model, method, truth, metric, clutter
        level and whether only pictures count where what the mask is of was shown to matter,
        sorted. Undefined values are counted and left out of all else.
    """
    pictures = list(pictures)
    drawn = {picture["name"] for picture in pictures if picture.get("weight") is not None}
    rows = [
        row
        for row in keep_first(rows, "model", "picture")
        if row["picture"] not in drawn or (row["model"], row["truth"]) == (wrong_of, "distractor")
    ]
    keys = ("model", "method", "truth", "metric")
    summary = []
    for causal in (False, True):
        chosen = [row for row in rows if row["matters"] or not causal]
        groups = summarise_rows(chosen, pictures, keys, resamples, seed)
        summary += [group | {"causal": causal} for group in groups]

    def place(row: Mapping) -> tuple:
        # Clutter may be None, which does not sort among numbers.
        level = row["clutter"]
        return *(row[key] for key in keys), level is None, level or 0, row["causal"]

    return sorted(summary, key=place)

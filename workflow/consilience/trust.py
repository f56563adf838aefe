"""When explanations that agree may be trusted: agreement against what the model really uses.

LIME and a CAM are two witnesses. That they agree is worth something only if witnesses that agree
are right, and right is not what a person would point at but what the model uses. Here that is
known: each picture was changed, one part at a time, and the model asked again
(:mod:`consilience.effects`).

- *Agreement* is Spearman's ρ of the two, divided by its ceiling, the root of the product of both
  methods' reliabilities (Spearman 1904, the correction for attenuation): 1 is as much as their own
  noise allows.
- *What matters* of a picture is the object or the scene, whichever was shown to matter to the
  explained class; where neither was, nothing can be right or wrong, and the picture is counted
  apart.
- *What an explanation points at* is the object if its positive part lies more densely on what is
  seen of the object than on the rest, else the scene.
- Two explanations are *counterfactually right* if both point at what matters; and *wrong together*
  if both point at the other.

Conditions are told apart by the picture: whether its scene is its object's partner, whose company a
net may have learned as a shortcut, and its clutter.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from . import world
from .agreement import CEILING, LIME
from .correctness import measure_auroc, resample_bases
from .images import decode_png
from .localization import score_mass
from .measures import Explanation, UndefinedError, keep_first, percentile_interval, pixel_values

METRIC = "spearman"

LEAST_CEILING = 0.2
"""Below it the correction divides by noise, and there is no corrected agreement."""

EDGES = (-1.0, 0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the bins of corrected agreement; what lies beyond ±1 counts as ±1. Fixed beforehand."""

HIGH = 0.5
"""Corrected agreement from which two explanations are said to agree."""

COUNTERFACTUAL, PREDICTION = "counterfactual", "prediction"
"""What can be right: the two explanations about the model, and the model about the picture."""

OBJECT, SCENE, NEITHER = "object", "scene", "neither"

ALL = "all"
"""All conditions together."""

FEWEST = 5
"""Right pictures, and wrong ones, that an AUROC takes."""


def name_condition(picture: Mapping) -> str:
    """Return the condition of a rendered picture, a row of ``PICTURES``.

    ``clean``, ``cluttered`` or ``occluded`` (a board before the object), and ``decorrelated`` where
    the scene is not the object's partner.
    """
    clutter = picture["clutter"]
    level = "clean" if clutter == 0 else "occluded" if clutter == 4 else "cluttered"
    if world.PARTNERS[picture["object"]] == picture["scene"]:
        return level
    return "decorrelated" if level == "clean" else f"decorrelated, {level}"


CONDITIONS = (
    "clean",
    "cluttered",
    "occluded",
    "decorrelated",
    "decorrelated, cluttered",
    "decorrelated, occluded",
)
"""In the order of the tables."""


def point_at(explanation: Explanation, mask: np.ndarray) -> str:
    """Say what an explanation points at: ``object`` or ``scene``.

    Raises
    ------
    UndefinedError
        If the explanation orders nothing or has no positive part.
    """
    inside = mask.ravel()
    return OBJECT if score_mass(pixel_values(explanation), inside) > inside.mean() else SCENE


def judge_pictures(
    explanations: Mapping[tuple[str, int], Mapping[str, Explanation]],
    predictions: Iterable[Mapping],
    views: Iterable[Mapping],
    pictures: Iterable[Mapping],
    agreement: Iterable[Mapping],
    matters: Mapping[tuple[str, int, str], bool],
) -> list[dict]:
    """Judge LIME and each CAM on every picture of one model.

    Parameters
    ----------
    explanations
        As :func:`consilience.measures.collect_explanations` gives them.
    predictions, views, pictures, agreement
        Rows of the tables of these names; of agreement those with ceilings. A picture's first
        target counts.
    matters
        As :func:`consilience.effects.find_matters` gives it.

    Returns
    -------
    list of dict
        Rows of the table ``TRUST``, by picture and CAM. What is not known is None and has its
        reason.
    """
    found: dict[tuple, dict[str | None, Mapping]] = defaultdict(dict)
    for row in agreement:
        pair = {row["method_a"], row["method_b"]}
        if row["metric"] == METRIC and LIME in pair:
            (cam,) = pair - {LIME}
            found[row["picture"], row["target_index"], cam][row["control"]] = row
    seen = {row["picture"]: row for row in views}
    shown = {row["name"]: row for row in pictures}
    rows = []
    for row in keep_first(predictions, "picture"):
        name, target = row["picture"], row["target_index"]
        mask = decode_png(seen[name]["mask_visible"]) != 0
        picture, maps = shown[name], explanations[name, target]
        mattering = [kind for kind in (OBJECT, SCENE) if matters.get((name, target, kind))]
        points, reasons = {}, {}
        for method, explanation in maps.items():
            try:
                points[method] = point_at(explanation, mask)
            except UndefinedError as reason:
                reasons[method] = f"{method}: {reason}"
        for cam in sorted(set(maps) - {LIME}):
            about = {
                "model": row["model"],
                "picture": name,
                "base": picture["base"] or name,
                "condition": name_condition(picture),
                "cam": cam,
                "prediction": row["correct"],
                "matters": mattering[0] if len(mattering) == 1 else NEITHER,
                "lime_points_at": points.get(LIME),
                "cam_points_at": points.get(cam),
            }
            why = reasons.get(LIME) or reasons.get(cam)
            rows.append(about | _judge(about, found[name, target, cam], why))
    return rows


def _judge(about: Mapping, agreement: Mapping[str | None, Mapping], why: str | None) -> dict:
    """Return the corrected agreement, and whether both explanations are right."""
    own, ceiling = agreement.get(None), agreement.get(CEILING)
    value, most = (None if row is None else row["value"] for row in (own, ceiling))
    corrected = None
    if value is not None and most is not None and most >= LEAST_CEILING:
        corrected = float(np.clip(value / most, -1, 1))
    reason = why
    if corrected is None:
        said = [row["reason"] for row in (own, ceiling) if row is not None and row["reason"]]
        reason = said[0] if said else "the ceiling is too low to correct by"
    right = None
    pointed = {about["lime_points_at"], about["cam_points_at"]}
    if about["matters"] != NEITHER and None not in pointed:
        right = pointed == {about["matters"]}
    return {
        "agreement": value,
        "ceiling": most,
        "corrected": corrected,
        "counterfactual": right,
        "reason": reason,
    }


def is_wrong_together(row: Mapping) -> bool:
    """Say whether both explanations of a row of ``TRUST`` point at what does not matter."""
    pointed = {row["lime_points_at"], row["cam_points_at"]}
    return row["matters"] != NEITHER and len(pointed) == 1 and pointed != {row["matters"]}


def calibrate(rows: Iterable[Mapping], resamples: int = 2000, seed: int = 0) -> list[dict]:
    """Draw calibration curves: how often is right, by corrected agreement.

    Parameters
    ----------
    rows
        Of the table ``TRUST``.
    resamples, seed
        Of the bootstrap over base pictures.

    Returns
    -------
    list of dict
        Rows of the table ``CALIBRATION``, by model, CAM, kind of correctness and condition
        (:data:`ALL` first): a row a bin that holds pictures, and one, whose bin is None, of all
        bins with the AUROC of corrected agreement. Intervals are percentile bootstraps over bases.
    """
    groups: dict[tuple, list[Mapping]] = defaultdict(list)
    for row in rows:
        for kind in (COUNTERFACTUAL, PREDICTION):
            if row["corrected"] is None or row[kind] is None:
                continue
            for condition in (ALL, row["condition"]):
                groups[row["model"], row["cam"], kind, condition].append(row)
    order = (ALL, *CONDITIONS)
    found = []
    for key in sorted(groups, key=lambda key: (*key[:3], order.index(key[3]))):
        own = sorted(groups[key], key=lambda row: row["picture"])
        about = dict(zip(("model", "cam", "correct", "condition"), key, strict=True))
        right = np.array([row[key[2]] for row in own], dtype=bool)
        corrected = np.array([row["corrected"] for row in own])
        bases = [row["base"] for row in own]
        weights = resample_bases(bases, resamples, seed)
        found.append(
            about
            | {"bin": None}
            | _share(right, np.ones(len(own), bool), corrected, bases, weights)
            | _auroc(corrected, right, weights)
        )
        places = np.clip(np.searchsorted(EDGES, corrected, side="right") - 1, 0, len(EDGES) - 2)
        for place in np.unique(places).tolist():
            chosen = places == place
            found.append(
                about
                | {"bin": place, "from_agreement": EDGES[place], "to_agreement": EDGES[place + 1]}
                | _share(right, chosen, corrected, bases, weights)
            )
    return found


def _share(right, chosen, corrected, bases: Sequence[str], weights: np.ndarray) -> dict:
    """Return the share that is right among the chosen pictures."""
    size = weights[:, chosen].sum(axis=1)
    shares = weights[:, chosen] @ right[chosen] / np.where(size > 0, size, 1)
    number = len({base for base, is_chosen in zip(bases, chosen, strict=True) if is_chosen})
    low, high = (None, None) if number < 2 else percentile_interval(shares[size > 0])
    return {
        "pictures": int(chosen.sum()),
        "bases": number,
        "agreement": float(corrected[chosen].mean()),
        "right": float(right[chosen].mean()),
        "low": low,
        "high": high,
    }


def _auroc(corrected, right, weights: np.ndarray) -> dict:
    """Return how well corrected agreement tells right from wrong, of enough of both."""
    if min(right.sum(), (~right).sum()) < FEWEST:
        return dict.fromkeys(("auroc", "auroc_low", "auroc_high"))
    drawn = [measure_auroc(corrected, right, again) for again in weights[:200]]
    drawn = [value for value in drawn if np.isfinite(value)]
    low, high = percentile_interval(np.array(drawn))
    value = measure_auroc(corrected, right)
    return {"auroc": value, "auroc_low": low, "auroc_high": high}

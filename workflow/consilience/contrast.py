"""How far an explanation moves when the model has another reason: two nets on the same pictures.

One net was trained to tell objects, the other to tell scenes; both are asked about the same
pictures. An explanation of the first has to lie on the object, of the second on the rest. An
explanation that lies where objects are, whatever the model, does not move.

Source: the model contrast score of Yang and Kim 2019, "Benchmarking Attribution Methods with
Relative Feature Importance" (BAM): the mean attribution on the object of a net that tells objects,
less that of a net that tells scenes. Here on the same scale for all methods, by the measures of
:mod:`consilience.localization` against the object's mask.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .errors import ConsilienceError
from .images import decode_png
from .localization import OURS, score_localization
from .measures import Explanation, bootstrap_mean

PRIMARY = "mass-inside"
"""The measure that the page names: the share of the map that lies on the object."""


@dataclass(frozen=True)
class Asked:
    """What one net said of the pictures, and how that was explained.

    Attributes
    ----------
    name
        The net's.
    explanations
        By picture and target, as :func:`consilience.measures.collect_explanations` gives them.
    predictions
        Rows of ``PREDICTIONS``; a picture's first target counts.
    matters
        Of :func:`consilience.effects.find_matters`.
    tells
        What the net was trained to tell: ``object`` or ``scene``.
    """

    name: str
    explanations: Mapping[tuple[str, int], Mapping[str, Explanation]]
    predictions: Sequence[Mapping]
    matters: Mapping[tuple[str, int, str], bool]
    tells: str

    def first(self) -> dict[str, Mapping]:
        """Return each picture's first prediction."""
        found: dict[str, Mapping] = {}
        for row in self.predictions:
            found.setdefault(row["picture"], row)
        return found


def measure_contrast(
    objects: Asked, scenes: Asked, views: Iterable[Mapping], pictures: Iterable[Mapping]
) -> list[dict]:
    """Measure how far each method's explanations move from the object to the scene.

    Parameters
    ----------
    objects, scenes
        The net that tells objects, and the one that tells scenes.
    views
        Rows of ``VIEWS`` of the former.
    pictures
        Rows of ``PICTURES``; those drawn for being wrong are passed over.

    Returns
    -------
    list of dict
        Rows of the table ``CONTRAST``, a picture, method and metric each: the metric of both nets'
        explanations against the object's mask, and the first less the second. ``right`` says
        whether both nets are right, ``matters`` whether it was shown that the object matters to the
        one and the scene to the other.

    Raises
    ------
    ConsilienceError
        If the two nets see pictures of different sizes.
    """
    masks = {
        row["picture"]: decode_png(row["mask_visible"]) != 0
        for row in views
        if row["mask_visible"] is not None
    }
    one, other = objects.first(), scenes.first()
    rows = []
    for picture in sorted(pictures, key=lambda row: row["name"]):
        name = picture["name"]
        if name not in masks or picture["weight"] is not None:
            continue
        said = one[name], other[name]
        maps = [
            net.explanations.get((name, row["target_index"]), {})
            for net, row in zip((objects, scenes), said, strict=True)
        ]
        mattered = [
            net.matters.get((name, row["target_index"], net.tells))
            for net, row in zip((objects, scenes), said, strict=True)
        ]
        about = {
            "object_model": objects.name,
            "scene_model": scenes.name,
            "picture": name,
            "base": picture["base"] or name,
            "clutter": picture["clutter"],
            "right": all(row["correct"] for row in said),
            "matters": all(mattered),
        }
        for method in sorted(set(maps[0]) & set(maps[1])):
            try:
                scored = [
                    {row["metric"]: row for row in score_localization(found[method], masks[name])}
                    for found in maps
                ]
            except ConsilienceError as error:
                raise ConsilienceError(
                    f"{name}, {method}: {objects.name} and {scenes.name} are contrasted on one "
                    f"geometry, but {error}"
                ) from None
            for metric in OURS:
                pair = [found[metric] for found in scored]
                values = [row["value"] for row in pair]
                reasons = [row["reason"] for row in pair if row["reason"]]
                known = None not in values
                rows.append(
                    about
                    | {
                        "method": method,
                        "metric": metric,
                        "on_object_net": values[0],
                        "on_scene_net": values[1],
                        "move": values[0] - values[1] if known else None,
                        "reason": reasons[0] if reasons else None,
                    }
                )
    return rows


def summarise_contrast(rows: Iterable[Mapping], resamples: int = 2000, seed: int = 0) -> list[dict]:
    """Summarise rows of the table ``CONTRAST`` over base pictures.

    Returns
    -------
    list of dict
        Rows of the table ``CONTRAST_SUMMARY``, by pair of nets, method, metric and whether only
        pictures count where object and scene were shown to matter. Only pictures count that both
        nets are right about, as in BAM. A base's pictures are averaged; the interval is the
        percentile bootstrap over bases.
    """
    groups: dict[tuple, dict[str, list[Mapping]]] = defaultdict(lambda: defaultdict(list))
    keys = ("object_model", "scene_model", "method", "metric")
    for row in rows:
        for causal in (False, True):
            group = groups[*(row[key] for key in keys), causal]
            if row["right"] and row["move"] is not None and (row["matters"] or not causal):
                group[row["base"]].append(row)
    summary = []
    for group, bases in sorted(groups.items()):
        one, other, move = (
            np.array([np.mean([row[key] for row in bases[base]]) for base in sorted(bases)])
            for key in ("on_object_net", "on_scene_net", "move")
        )
        low, high = bootstrap_mean(move, resamples, seed)
        found = len(move) > 0
        summary.append(
            dict(zip((*keys, "causal"), group, strict=True))
            | {
                "bases": len(move),
                "pictures": sum(map(len, bases.values())),
                "on_object_net": float(one.mean()) if found else None,
                "on_scene_net": float(other.mean()) if found else None,
                "move": float(move.mean()) if found else None,
                "low": low,
                "high": high,
                "share": float((move > 0).mean()) if found else None,
            }
        )
    return summary

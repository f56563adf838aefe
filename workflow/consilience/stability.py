"""How far LIME agrees with itself when only its seeds change.

Perturbations are drawn at random, and quickshift breaks ties at random: an explanation that other
seeds would not give again says little (Visani et al., 2022, "Statistical stability indices for
LIME"). The mean agreement of a picture's runs is the reliability of one of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import kendalltau

from .images import decode_png
from .lime_image import cut_superpixels, explain_lime
from .measures import (
    Superpixels,
    UndefinedError,
    pixel_values,
    require_varying,
    soft_iou,
    top_region,
)
from .progress import track

if TYPE_CHECKING:
    from .classifiers import Classifier

PERTURBATION = "perturbation"
SEGMENTATION = "segmentation and perturbation"


def draw_seeds(seed: int, repeats: int) -> list[int]:
    """Return seeds of repeats, whole numbers below 2**31, that depend on the explanation's own.

    Drawn rather than counted up: the next study's seed may be this one's plus one.
    """
    # Quickshift takes no larger ones.
    return [int(value) >> 1 for value in np.random.SeedSequence(seed).generate_state(repeats)]


def repeat_lime(
    classifier: Classifier,
    views: Iterable[Mapping],
    limes: Iterable[Mapping],
    params: Mapping[str, Mapping],
    repeats: int,
    top_fraction: float,
) -> Iterator[tuple[list[dict], list[dict]]]:
    """Explain each picture again with other seeds, and measure how far the runs agree.

    Parameters
    ----------
    classifier
        The model.
    views
        Rows of ``VIEWS``.
    limes
        Rows of ``LIME``, the explanations of these views.
    params
        By picture, as they were explained with.
    repeats
        How many more runs, with other seeds for the perturbations on the same superpixels, and
        again with other seeds for both.
    top_fraction
        Share of the area that counts as an explanation's top region.

    Yields
    ------
    tuple of list of dict
        A picture's rows of ``LIME_STABILITY``, and its rows of ``LIME_REPEATS``: what the runs
        with other perturbations on the same superpixels gave.
    """
    rows = defaultdict(list)
    for row in limes:
        rows[row["picture"]].append(row)
    for view in track(views, "pictures"):
        own, picture = rows[view["picture"]], view["picture"]
        if not own:
            continue
        pixels, chosen = decode_png(view["view"]), params[picture]
        targets = [row["target_index"] for row in own]
        segment_map = np.reshape(own[0]["segment_map"], (own[0]["height"], own[0]["width"]))
        others = draw_seeds(chosen["random_state"], repeats)
        same = [
            explain_lime(classifier, pixels, targets, chosen | {"random_state": seed}, segment_map)
            for seed in others
        ]
        maps, reason = _cut_anew(pixels, segment_map, chosen, repeats)
        fresh = [
            explain_lime(classifier, pixels, targets, chosen | {"random_state": seed}, cut)
            for seed, cut in zip(others, maps, strict=not reason)
        ]
        of_picture = ("model", "picture", "target_index", "target_class")
        measured, repeated = [], []
        for number, row in enumerate(own):
            whose = {key: row[key] for key in of_picture}
            again = [row, *(run[number] for run in same)]
            anew = [row, *(run[number] for run in fresh)]
            found = [
                (PERTURBATION, "kendall-tau", measure_tau(again), 0.0),
                (PERTURBATION, "iou", measure_iou(again, top_fraction), _chance(top_fraction)),
                (
                    SEGMENTATION,
                    "iou",
                    measure_iou(anew, top_fraction) if fresh else reason,
                    _chance(top_fraction),
                ),
            ]
            for varied, measure, values, chance in found:
                about = {"varied": varied, "measure": measure, "repeats": repeats}
                measured.append(whose | about | _summarise(values, chance))
            for run, other in enumerate(again[1:], start=1):
                kept = {key: other[key] for key in ("perturbation_seed", "weights", "r2")}
                repeated.append(whose | {"run": run} | kept)
        yield measured, repeated


def _cut_anew(
    view: np.ndarray, segment_map: np.ndarray, params: Mapping, repeats: int
) -> tuple[list[np.ndarray], str | None]:
    """Return the superpixels that other seeds cut, or none and the reason."""
    method = params["segmentation_fn"]
    if method != "quickshift":
        return [], f"{method} has no seed; only quickshift varies"
    seeds = draw_seeds(params["random_seed"], repeats)
    maps = [cut_superpixels(view, {**params, "random_seed": seed}) for seed in seeds]
    if all(np.array_equal(found, segment_map) for found in maps):
        return [], "other seeds cut the same superpixels"
    return maps, None


def _chance(top_fraction: float) -> float:
    """Return the IoU of two random regions of this share."""
    return top_fraction / (2 - top_fraction)


def _summarise(values: list[float] | str, chance: float) -> dict:
    """Bring values, or the reason why there are none, into the table's columns."""
    if isinstance(values, str):
        return {"values": [], "chance": chance, "reason": values}
    return {
        "values": values,
        "mean": float(np.mean(values)),
        "lowest": min(values),
        "highest": max(values),
        "chance": chance,
    }


def measure_tau(runs: Sequence[Mapping]) -> list[float] | str:
    """Return Kendall's τ-b of the weights of each two runs on the same superpixels.

    From -1 to 1, chance 0. Source: Kendall 1945.

    Parameters
    ----------
    runs
        Rows of ``LIME``.

    Returns
    -------
    list of float, or str
        A value each pair of runs; the reason, where one of them orders nothing.
    """

    def prepare(run):
        return require_varying(np.asarray(run["weights"]), "weights")

    return _compare_pairs(runs, prepare, lambda a, b: float(kendalltau(a, b).statistic))


def measure_iou(runs: Sequence[Mapping], top_fraction: float) -> list[float] | str:
    """Return the IoU of the top regions of each two runs, as agreement between methods has it.

    From 0 to 1; two random regions score ``top_fraction / (2 - top_fraction)``. Source: Jaccard
    1901.

    Parameters
    ----------
    runs
        Rows of ``LIME``.
    top_fraction
        Share of the area that the regions have.

    Returns
    -------
    list of float, or str
        A value each pair of runs; the reason, where one of them orders nothing.
    """

    def prepare(run):
        shape = run["height"], run["width"]
        values = pixel_values(Superpixels(np.reshape(run["segment_map"], shape), run["weights"]))
        return top_region(values, top_fraction * len(values))

    return _compare_pairs(runs, prepare, soft_iou)


def _compare_pairs(runs: Sequence[Mapping], prepare: Callable, compare: Callable):
    try:
        if runs[0]["segments"] < 2:
            raise UndefinedError("one superpixel")
        prepared = [prepare(run) for run in runs]
    except UndefinedError as reason:
        return str(reason)
    return [compare(a, b) for a, b in combinations(prepared, 2)]

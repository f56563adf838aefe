"""Which metrics of explanations rank explanations rightly, where it is known which are right.

Every metric of agreement, faithfulness and localisation scores explanations that were planted
(:mod:`consilience.planted`) of a model whose reasons are known by construction. What it should say
of each two of them was fixed beforehand (:data:`RULES`); a metric that says otherwise is misled by
something else than what the model uses.

- *Agreement* is taken with what LIME would say of the planted model with perturbations without
  end: the question is whether agreeing with a right explanation tells who is right.
- *Faithfulness* is read twice: by its score, as published, and against random orders with the
  explanation's own values, as this study reads it.
- *Localisation* is taken against the mask.

All metrics take part, the library's own and those that files of the user's register.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from . import agreement, faithfulness, localization
from .images import decode_png
from .measures import Explanation, Superpixels, bootstrap_mean
from .planted import (
    CAUSAL,
    CENTRE,
    EDGES,
    EXPLANATIONS,
    FAKE,
    HALF,
    INVERSE,
    NOISE,
    SHUFFLED,
    TARGET,
    explain_exactly,
    find_grids,
    plant_explanations,
    plant_model,
)

if TYPE_CHECKING:
    from .classifiers import Classifier

ABOVE, NOT_ABOVE = "above", "not-above"

RULES = (
    *((CAUSAL, ABOVE, other) for other in EXPLANATIONS if other != CAUSAL),
    (HALF, ABOVE, SHUFFLED),
    *((other, ABOVE, INVERSE) for other in (HALF, SHUFFLED, NOISE, CENTRE, EDGES, FAKE)),
    (FAKE, NOT_ABOVE, SHUFFLED),
    (FAKE, NOT_ABOVE, NOISE),
)
"""What is right: which of two planted explanations must score above the other, or must not.

Between noise, the centre and edges nothing is asked: the centre and an object's outline do say
something of where it is. Not above: by no more than :data:`MARGIN`.
"""

MARGIN = 0.1
"""How far above noise a map that says nothing may score, of what the causal mask scores above it:
scores of noise are scattered around chance, and a constant map lies at it."""

RIGHT, WRONG, OPEN = "right", "wrong", "not told"
"""Verdicts: the interval of the difference lies on the right side of 0, on the wrong one, on
neither."""

REWARDED, TIED = "rewarded", "tied"
"""Faults beside these: see :func:`find_fault`."""

SCORE, AGAINST_RANDOM = "score", "against random"

AGREEMENT, FAITHFULNESS, LOCALIZATION = "agreement", "faithfulness", "localization"


def score_explanations(
    classifier: Classifier,
    view: np.ndarray,
    mask: np.ndarray,
    target: int,
    explanations: Mapping[str, Explanation],
    witness: Superpixels,
    settings: Mapping,
    seed: int,
    name: str,
) -> list[dict]:
    """Score explanations of one picture by every metric there is.

    Parameters
    ----------
    classifier
        The model that is explained.
    view, mask
        What it sees, uint8 (height, width, 3); and the truth, bool (height, width).
    target
        Index of the explained class.
    explanations
        By name.
    witness
        The explanation that agreement is taken with.
    settings
        ``agreement`` and ``faithfulness`` of the study; of the former ``metrics`` are passed over.
        ``localization``: names of registered measures that are asked beside the library's own.
    seed, name
        Of random orders, and of the picture.

    Returns
    -------
    list of dict
        Rows of the table ``AUDIT`` from ``family`` on; a missing value has its reason. Higher is
        better in all of them: of metrics where lower is better the sign is turned.
    """
    rows = []
    of_agreement = {key: settings["agreement"][key] for key in ("top_fraction", "k")}
    comparison = agreement.Comparison(
        {**explanations, agreement.LIME: witness},
        of_agreement | {"metrics": tuple(agreement.METRICS)},
    )
    for metric, measure in agreement.METRICS.items():
        sign = 1 if measure.higher_agrees else -1
        for explanation in explanations:
            value, reason = comparison.compare(agreement.LIME, explanation, metric)
            rows.append(_row(AGREEMENT, metric, None, SCORE, explanation, value, reason, sign))
    for explanation, found in explanations.items():
        for row in localization.score_localization(found, mask, settings["localization"]):
            if row["metric"] in localization.METRICS:  # an offset is no score
                what = (LOCALIZATION, row["metric"], None, SCORE, explanation)
                rows.append(_row(*what, row["value"], row["reason"]))
    for row in faithfulness.measure_picture(
        classifier,
        view,
        {target: explanations},
        settings["faithfulness"],
        seed,
        name,
        find_grids(explanations),
    ):
        sign = 1 if faithfulness.METRICS[row["metric"]].higher_is_better else -1
        reason = row.get("reason")
        for reading, value, turn in (
            (SCORE, row.get("value"), sign),
            (AGAINST_RANDOM, row.get("difference"), 1),
        ):
            what = (FAITHFULNESS, row["metric"], row["fill"], reading, row["method"])
            rows.append(_row(*what, value, reason, turn))
    return rows


def _row(family, metric, fill, reading, explanation, value, reason, sign=1) -> dict:
    return {
        "family": family,
        "metric": metric,
        "fill": fill,
        "reading": reading,
        "explanation": explanation,
        "value": None if value is None else sign * float(value),
        "reason": reason,
    }


def audit_picture(picture: Mapping, settings: Mapping, seed: int, cut) -> list[dict]:
    """Score the planted explanations of the planted model of one picture.

    Parameters
    ----------
    picture
        A row of the table ``PICTURES`` of the rendered world, with its ``mask_visible``.
    settings, seed
        As for :func:`score_explanations`.
    cut
        Cuts a view into superpixels, as :func:`consilience.lime_image.make_segmentation` gives it.

    Returns
    -------
    list of dict
        Rows of the table ``AUDIT``.
    """
    view = decode_png(picture["image"]["bytes"])
    mask = decode_png(picture["mask_visible"]) != 0
    name = picture["name"]
    classifier = plant_model(view, mask)
    explanations = plant_explanations(view, mask, seed, name)
    witness = explain_exactly(classifier, view, cut(view))
    rows = score_explanations(
        classifier, view, mask, TARGET, explanations, witness, settings, seed, name
    )
    about = {"model": classifier.name, "picture": name, "base": picture["base"]}
    return [about | row for row in rows]


def judge_metrics(rows: Iterable[Mapping], resamples: int = 2000, seed: int = 0) -> list[dict]:
    """Hold every metric against :data:`RULES`.

    The unit is the base picture: its differences at several levels of clutter are averaged.

    Parameters
    ----------
    rows
        Of the table ``AUDIT``.
    resamples, seed
        Of the percentile bootstrap over bases.

    Returns
    -------
    list of dict
        Rows of the table ``AUDIT_RULES``, by model, family, metric, fill, reading and rule in the
        order in which they come first.

        A rule ``above`` is right where the interval of the mean difference lies above 0, wrong
        where it lies at or below it, and not told where it holds 0. A rule ``not-above`` is about
        the difference less :data:`MARGIN` of what the causal mask scores above the other: wrong
        where the interval lies above 0, else right. Where a value is missing the picture does not
        count; without two bases nothing is told.
    """
    found: dict[tuple, dict[tuple, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    keys = ("model", "family", "metric", "fill", "reading")
    for row in rows:
        group = found[tuple(row[key] for key in keys)]
        if row["value"] is not None:
            group[row["base"], row["picture"]][row["explanation"]] = row["value"]
    judged = []
    for group, pictures in found.items():
        for one, rule, other in RULES:
            differences = defaultdict(list)
            for (base, _), values in pictures.items():
                if all(name in values for name in (one, other, CAUSAL)):
                    room = MARGIN * max(values[CAUSAL] - values[other], 0)
                    excess = values[one] - values[other]
                    differences[base].append(excess - (room if rule == NOT_ABOVE else 0))
            judged.append(
                dict(zip(keys, group, strict=True))
                | {"explanation": one, "rule": rule, "other": other}
                | _judge(differences, rule, resamples, seed)
            )
    return judged


def _judge(
    differences: Mapping[str, list[float]], rule: str, resamples: int, seed: int
) -> dict[str, object]:
    """Judge one rule by its differences, by base."""
    means = np.array([np.mean(differences[base]) for base in sorted(differences)])
    low, high = bootstrap_mean(means, resamples, seed)
    if low is None:
        verdict = OPEN
    elif rule == NOT_ABOVE:
        verdict = WRONG if low > 0 else RIGHT
    else:
        verdict = RIGHT if low > 0 else WRONG if high <= 0 else OPEN
    return {
        "bases": len(means),
        "difference": float(means.mean()) if len(means) else None,
        "low": low,
        "high": high,
        "share": float((means > 0).mean()) if len(means) else None,
        "verdict": verdict,
    }


def rank_metrics(judged: Iterable[Mapping]) -> list[dict]:
    """Say of each metric how many of its rules are right, and which are not.

    Parameters
    ----------
    judged
        Rows of the table ``AUDIT_RULES``.

    Returns
    -------
    list of dict
        A row a model, family, metric, fill and reading: ``rules``, ``right``, and ``failed``, a
        list of the rows that are not right.
    """
    groups = defaultdict(list)
    for row in judged:
        key = tuple(row[name] for name in ("model", "family", "metric", "fill", "reading"))
        groups[key].append(row)
    return [
        dict(zip(("model", "family", "metric", "fill", "reading"), key, strict=True))
        | {
            "rules": len(rows),
            "right": sum(row["verdict"] == RIGHT for row in rows),
            "failed": [row for row in rows if row["verdict"] != RIGHT],
        }
        for key, rows in groups.items()
    ]


def find_fault(row: Mapping) -> str:
    """Say what kind of fault a row of ``AUDIT_RULES`` that is not right shows.

    ``rewarded``: what must not score above does; ``tied``: both score the same on every base;
    ``not told``: the interval holds 0; ``wrong``: the two are the wrong way round.
    """
    if row["rule"] == NOT_ABOVE:
        return REWARDED
    if row["difference"] is not None and row["low"] == row["high"] == 0:
        return TIED
    return row["verdict"]

"""The original study's claims, each with an estimand, a smallest effect that matters and a verdict.

The effects and rules below were fixed before any data. A claim is *supported* if the whole 95 %
interval lies beyond the smallest effect in the claimed direction, *contradicted* if the whole
interval falls short of it, and else *inconclusive*: an interval that reaches from a negligible
effect to a large one decides nothing, wherever its middle lies.

Claims about methods are judged on rendered pictures, over bases and averaged over the study's
explained models, as :mod:`consilience.questions` does; what they say holds for these models in this
world. A few photographs are shown each for itself and not generalised. Claims about ImageNet and
Places365 are judged by models that were trained on these and by no others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .questions import (
    FEWEST,
    LIME,
    SCORE_CAM,
    CannotAskError,
    Contrast,
    Sources,
    ask_agreement_and_clutter,
    ask_lime_and_clutter,
    ask_score_cam_localises_best,
    bootstrap_bases,
    contrast_pictures,
    index_scores,
    look_up,
    name_levels,
    name_mean,
    simple_and_cluttered,
)
from .tables import HEATMAPS, open_table

SUPPORTED, CONTRADICTED = "supported", "contradicted"
INCONCLUSIVE, NOT_TESTABLE = "inconclusive", "not testable here"
FLOORS = ("random-smooth", "other-picture", "centre", "edges")
"""Controls in the table ``AGREEMENT`` that stand for explanations which know nothing."""
TOP = 50
"""Of the most frequent concepts, that the claimed overlap is of."""
OVERLAP = 0.38
"""The claimed overlap."""


@dataclass(frozen=True)
class Claim:
    """A claim of the original study.

    Attributes
    ----------
    says
        In words.
    estimand
        The number it is judged by, where the study does not say it more closely.
    smallest
        The smallest effect that would matter, in units of the estimand, above 0.
    sign
        1 if the claimed number is above it, -1 if it is below minus it, 0 if the number lies within
        ``smallest`` of ``centre``.
    """

    says: str
    estimand: str
    smallest: float
    sign: int
    centre: float = 0.0

    @property
    def rule(self) -> str:
        """The rule of the verdict, in words."""
        if not self.sign:
            low, high = self.centre - self.smallest, self.centre + self.smallest
            return (
                f"supported if the whole 95 % interval lies between {low:g} and {high:g}, "
                "contradicted if all of it lies outside, else inconclusive"
            )
        bound = self.sign * self.smallest
        beyond, short = ("above", "below") if self.sign > 0 else ("below", "above")
        return (
            f"supported if the whole 95 % interval lies {beyond} {bound:g}, contradicted if all of "
            f"it lies {short} {bound:g}, else inconclusive"
        )

    def judge(self, low: float, high: float) -> str:
        """Return the verdict on an interval."""
        if not self.sign:
            least, most = self.centre - self.smallest, self.centre + self.smallest
            if least < low and high < most:
                return SUPPORTED
            return CONTRADICTED if high < least or low > most else INCONCLUSIVE
        if self.sign < 0:
            low, high = -high, -low
        if low > self.smallest:
            return SUPPORTED
        return CONTRADICTED if high < self.smallest else INCONCLUSIVE


CLAIMS = {
    "agreement-high-on-simple": Claim(
        "LIME and the class activation maps agree well on simple pictures.",
        "agreement of lime and the first CAM at clutter 0, minus the highest floor",
        0.1,
        1,
    ),
    "agreement-lower-in-clutter": Claim(
        "They agree less on complex pictures.",
        "agreement of lime and the first CAM, cluttered minus simple",
        0.1,
        -1,
    ),
    "score-cam-most-accurate": Claim(
        "Score-CAM finds the object most accurately of the class activation maps.",
        "localisation of score-cam minus the mean of the other CAMs",
        0.05,
        1,
    ),
    "score-cam-sharpest": Claim(
        "Score-CAM gives the sharpest of the class activation maps.",
        "sharpness (Gini index of the map) of score-cam minus the mean of the other CAMs",
        0.05,
        1,
    ),
    "lime-degrades-in-clutter": Claim(
        "LIME finds the object less well in cluttered pictures.",
        "localisation of lime, cluttered minus simple",
        0.05,
        -1,
    ),
    "places365-more-concepts": Claim(
        "A network trained on Places365 has more distinct concepts than one trained on ImageNet.",
        "distinct concepts in equally large samples of neurons, Places365 minus ImageNet",
        5,
        1,
    ),
    "places365-imagenet-overlap": Claim(
        "The two networks share 38 % of their 50 most frequent concepts.",
        "share of common concepts among the 50 most frequent of each",
        0.1,
        0,
        OVERLAP,
    ),
}
"""Every claim by its name in the table ``CLAIMS``."""


def measure_gini(values: np.ndarray) -> float | None:
    """Return the Gini index of a map's positive part: how sharp it is.

    0 where all values are equal, 1 - 1/n where one of n places has it all; higher is sharper. It
    does not change with the map's scale, nor when each place is counted several times. What a map
    of no particular sharpness would score is not defined; it is for comparing methods on one
    picture.

    Source: Hurley and Rickard 2009, "Comparing Measures of Sparsity".

    Parameters
    ----------
    values
        Any shape.

    Returns
    -------
    float or None
        None where no value is positive or one is not finite.
    """
    values = np.sort(np.maximum(np.asarray(values, dtype=np.float64).ravel(), 0))
    total = values.sum()
    if not np.isfinite(total) or total == 0:
        return None
    n = len(values)
    return float(1 - 2 * (values / total) @ ((n - np.arange(1, n + 1) + 0.5) / n))


def read_sharpness(paths: Iterable[str]) -> Iterator[dict]:
    """Read tables ``HEATMAPS`` a few maps at a time, and yield the sharpness of each.

    Yields
    ------
    dict
        With ``model``, ``picture``, ``target_index``, ``method`` and ``value``
        (:func:`measure_gini`; None of a degenerate map).
    """
    about = ["model", "picture", "target_index", "method"]
    for path in paths:
        file = open_table(path, HEATMAPS)
        for batch in file.iter_batches(batch_size=32, columns=[*about, "status", "heatmap"]):
            rows = batch.select([*about, "status"]).to_pylist()
            for row, heatmap in zip(rows, batch.column("heatmap"), strict=True):
                fine = row.pop("status") == "ok"
                values = heatmap.values.to_numpy(zero_copy_only=False)
                yield row | {"value": measure_gini(values) if fine else None}


# ------------------------------------------------------------------------------------------------
# Claims about methods


def pool_models(contrasts: Sequence[Contrast]) -> Contrast:
    """Average contrasts of several models over the bases that all of them have."""
    shared = sorted(set.intersection(*(set(contrast.bases) for contrast in contrasts)))
    if not shared:
        raise CannotAskError("no base has a value of every model")
    by_base = [dict(zip(one.bases, one.differences, strict=True)) for one in contrasts]
    differences = np.array([np.mean([found[base] for found in by_base]) for base in shared])
    total = max(len(contrast.bases) + contrast.left_out for contrast in contrasts)
    values = sum(contrast.values for contrast in contrasts)
    return Contrast(tuple(shared), differences, values, total - len(shared))


def _ask_high_on_simple(
    source: Sources, floors: Mapping, model: str, metric: str
) -> tuple[str, Contrast]:
    """Hold the agreement on simple pictures against the highest floor of these pictures."""
    low, _ = simple_and_cluttered(source.pictures)
    simple = [row for row in source.pictures if row["clutter"] in low]
    names = {row["name"] for row in simple}
    pair = sorted((LIME, source.cam))
    scores = look_up(source.agreement, model, *pair, metric, what="agreement")
    found = {
        floor: {name: value for name, value in values.items() if name in names}
        for floor in FLOORS
        if (values := floors.get((model, *pair, metric, floor)))
    }
    means = {floor: np.mean(list(values.values())) for floor, values in found.items() if values}
    if not means:
        raise CannotAskError("no floor of the agreement was measured")
    highest = max(means, key=means.get)
    text = (
        f"agreement ({metric}) of {LIME} and {source.cam} at {name_levels(low)}, minus that with "
        f"the highest floor ({highest})"
    )
    return text, contrast_pictures(scores, [found[highest]], simple)


def _ask_sharpest(source: Sources, sharpness: Mapping, model: str) -> tuple[str, Contrast]:
    others = source.other_cams
    own = look_up(sharpness, model, SCORE_CAM, what="sharpness")
    rest = [look_up(sharpness, model, method, what="sharpness") for method in others]
    text = f"sharpness (Gini index of the map) of {SCORE_CAM} minus {name_mean(others)}"
    return text, contrast_pictures(own, rest, source.pictures)


def _judge_method(
    claim: Claim,
    models: Sequence[str],
    ask: Callable[[str], tuple[str, Contrast]],
    resamples: int,
    seed: int,
) -> dict:
    """Judge a claim by a contrast over bases, averaged over the models that have it."""
    asked, reasons = {}, {}
    for model in models:
        try:
            asked[model] = ask(model)
        except CannotAskError as reason:
            reasons[model] = str(reason)
    try:
        if not asked:
            said = dict.fromkeys(reasons.values())
            raise CannotAskError("; ".join(said) or "the study explains no picture")
        contrast = pool_models([contrast for _, contrast in asked.values()])
    except CannotAskError as reason:
        return _untestable(str(reason))
    texts = dict.fromkeys(text for text, _ in asked.values())
    estimand = " / ".join(texts) + f"; model {', '.join(asked)}"
    low, high, _ = bootstrap_bases(contrast.differences, resamples, seed)
    found = {
        "estimand": estimand,
        "estimate": float(contrast.differences.mean()),
        "low": low,
        "high": high,
        "bases": len(contrast.bases),
    }
    if len(contrast.bases) < FEWEST:
        reason = f"{len(contrast.bases)} of the at least {FEWEST} bases that a verdict needs"
        return found | {"verdict": INCONCLUSIVE, "reason": reason}
    return found | _verdict(claim, low, high)


def _verdict(claim: Claim, low: float, high: float) -> dict:
    verdict = claim.judge(low, high)
    reason = None
    if verdict == INCONCLUSIVE:
        reason = "the interval holds effects that would support the claim and others that would not"
    return {"verdict": verdict, "reason": reason}


def _untestable(reason: str) -> dict:
    return {"verdict": NOT_TESTABLE, "reason": reason}


# ------------------------------------------------------------------------------------------------
# Claims about training data


def find_training(origins: Mapping[str, Sequence]) -> tuple[str | None, str | None]:
    """Return the first model trained on ImageNet and the first trained on Places365, if any.

    Parameters
    ----------
    origins
        By name, models that were not trained by the study, and published descriptions: names of
        weights and paths of files, or mappings to these. A model is of Places365 if its name or one
        of them says ``places365``, else of ImageNet if one says ``imagenet``; case does not matter.
    """
    found: dict[str, str] = {}
    for name, said in origins.items():
        parts = [
            part
            for item in said
            for part in (item.values() if isinstance(item, Mapping) else [item])
        ]
        text = " ".join([name, *map(str, parts)]).casefold()
        data = next((data for data in ("places365", "imagenet") if data in text), None)
        if data:
            found.setdefault(data, name)
    return found.get("imagenet"), found.get("places365")


def _find_layer(rows: Sequence[Mapping], models: set[str], metric: str) -> Mapping:
    """Return the row of the last layer that both have and that is no layer of logits."""
    logits = {
        row["layer"]
        for row in rows
        if row["metric"] == "label_is_class_name" and row["model_a"] in models
    }
    found = [
        row
        for row in rows
        if row["metric"] == metric
        and {row["model_a"], row["model_b"]} == models
        and row["layer"] not in logits
    ]
    if not found:
        raise CannotAskError("the two have no layer of one name below the logits")
    defined = [row for row in found if row["value"] is not None]
    if not defined:
        raise CannotAskError(found[-1]["reason"] or "the comparison is undefined")
    return defined[-1]


def _judge_training(
    claim: Claim,
    comparison: Sequence[Mapping],
    origins: Mapping[str, Sequence],
    top: int,
) -> dict:
    """Judge a claim about ImageNet and Places365 by rows of ``COMPARISON``."""
    compared = {row[side] for row in comparison for side in ("model_a", "model_b")}
    imagenet, places = find_training({name: origins[name] for name in origins if name in compared})
    try:
        if imagenet is None or places is None:
            lacking = [
                data for data, model in (("ImageNet", imagenet), ("Places365", places)) if not model
            ]
            raise CannotAskError(
                f"the study compares no model trained on {' and none on '.join(lacking)}; nets of "
                "a rendered world do not judge this"
            )
        models = {imagenet, places}
        if claim.sign:
            row = _find_layer(comparison, models, "rarefied_difference")
            value, low, high = row["value"], row["low"], row["high"]
            if row["model_a"] == imagenet:
                value, low, high = -value, *(None if x is None else -x for x in (high, low))
            estimand = (
                "distinct concepts in equally large samples of neurons, "
                f"{places} minus {imagenet}, layer {row['layer']}"
            )
        else:
            if top != TOP:
                raise CannotAskError(f"comparison.top is {top}, and the claim is of {TOP}")
            row = _find_layer(comparison, models, "top_overlap")
            value, low, high = row["value"], row["low"], row["high"]
            for other in comparison:
                if other["metric"] != "distinct_concepts" or other["layer"] != row["layer"]:
                    continue
                if other["model_a"] in models and other["value"] < TOP:
                    raise CannotAskError(
                        f"{other['model_a']} has {other['value']:.0f} distinct concepts in layer "
                        f"{row['layer']}, and the claim is of {TOP}"
                    )
            estimand = f"{claim.estimand} of {places} and {imagenet}, layer {row['layer']}"
    except CannotAskError as reason:
        return _untestable(str(reason))
    found = {"estimand": estimand, "estimate": value, "low": low, "high": high}
    if low is None or high is None:
        reason = "no interval: the labels were not resampled"
        return found | {"verdict": INCONCLUSIVE, "reason": reason}
    return found | _verdict(claim, low, high)


# ------------------------------------------------------------------------------------------------


def judge_claims(
    source: Sources,
    predictions: Sequence[Mapping],
    agreement: Iterable[Mapping],
    sharpness: Iterable[Mapping],
    comparison: Sequence[Mapping],
    origins: Mapping[str, Sequence],
    primary: Mapping[str, str],
    top: int = TOP,
    resamples: int = 2000,
    seed: int = 0,
) -> list[dict]:
    """Judge the original study's claims.

    Parameters
    ----------
    source
        Of :func:`consilience.questions.collect_sources`.
    predictions, agreement, comparison
        Rows of the tables of these names; of the agreement the floors are read here. No comparison
        where nothing was dissected.
    sharpness
        Of :func:`read_sharpness`.
    origins
        As for :func:`find_training`.
    primary
        The study's ``primary``.
    top
        The study's ``comparison.top``.
    resamples, seed
        Of the bootstrap over bases.

    Returns
    -------
    list of dict
        Rows of the table ``CLAIMS``, one a claim of :data:`CLAIMS`, in that order.
    """
    models = sorted({row["model"] for row in predictions})
    controls = [row for row in agreement if row["control"] in FLOORS]
    floors = index_scores(controls, predictions, "method_a", "method_b", "metric", "control")
    sharp = index_scores(sharpness, predictions, "method")
    rendered = [row for row in source.pictures if row["clutter"] is not None]
    source = replace(source, pictures=rendered)
    agreed, located = primary["agreement"], primary["localization"]
    asks = {
        "agreement-high-on-simple": lambda m: _ask_high_on_simple(source, floors, m, agreed),
        "agreement-lower-in-clutter": lambda m: ask_agreement_and_clutter(source, m, agreed),
        "score-cam-most-accurate": lambda m: ask_score_cam_localises_best(source, m, located),
        "score-cam-sharpest": lambda m: _ask_sharpest(source, sharp, m),
        "lime-degrades-in-clutter": lambda m: ask_lime_and_clutter(source, m, located),
    }
    rows = []
    for name, claim in CLAIMS.items():
        if name not in asks:
            found = _judge_training(claim, comparison, origins, top)
        elif not rendered:
            found = _untestable(
                "the study has no rendered pictures: photographs are shown each for itself, and "
                "a few that were chosen are not generalised"
            )
        else:
            found = _judge_method(claim, models, asks[name], resamples, seed)
        rows.append(
            {
                "claim": name,
                "says": claim.says,
                "estimand": claim.estimand,
                "smallest_effect": claim.smallest,
                "rule": claim.rule,
            }
            | found
        )
    return rows

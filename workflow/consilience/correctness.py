"""Whether agreement of two explanations tells right from wrong, and what it adds to confidence.

What is compared is LIME and the first CAM method, by the study's primary measures. A picture is
right in two senses, each judged by itself: the predicted class is the true one (``prediction``); or
the explanations are where the object is (``localization``): the mean IoU of the two with the
object's mask is 0.5 or more. The second shares its maps with the agreement, the first does not.

An AUROC is the probability that a right picture scores higher than a wrong one (ties count half):
0.5 is chance, 1 is perfect, below 0.5 the score points the other way. Clutter, and the size of the
object, may drive agreement and correctness alike; so each AUROC is also taken over pairs of
pictures of one clutter level only, and of one third by the object's area only.

Pictures that were drawn because a model is wrong about them enter with their weight, the number of
candidates that each stands for; an ordinary picture weighs 1. An AUROC compares right with wrong
and does not depend on how many of each there are, so drawing by correctness does not bias it. A
drawn picture counts only for a model that pictures were drawn for and that is wrong about it, and
never for localisation, which it was not drawn by.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize
from scipy.special import expit, logit

from .images import decode_png
from .measures import keep_first
from .questions import FEWEST as FEWEST_BASES
from .questions import LIME, CannotAskError, base_of, index_scores, look_up

RIGHT_IOU = 0.5
"""Of the two explanations' mean IoU with the mask, from which on the place is right."""
FEWEST = 5
"""Right pictures, and wrong ones, below which no number is given."""
PREDICTORS = ("top-probability", "agreement", "both", "added")
STRATA = ("all", "within-clutter", "within-area")
_EDGE = 1e-7  # probabilities of float32 reach 0 and 1, whose logit is infinite


# ------------------------------------------------------------------------------------------------
# Statistics


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Right against wrong pictures, one score; the weighted AUROC for any number of each."""

    right: np.ndarray  # places of right pictures, shape (r,)
    wrong: np.ndarray
    wins: np.ndarray  # shape (r, w): 1, 1/2 or 0; 0 where the pair does not count
    counts: np.ndarray  # shape (r, w): whether the pair counts

    def auroc(self, weights: np.ndarray) -> np.ndarray:
        """Return the AUROC for weights of shape (…, pictures); NaN where no pair has weight."""
        one, other = weights[..., self.right], weights[..., self.wrong]
        won = ((one @ self.wins) * other).sum(axis=-1)
        all_pairs = ((one @ self.counts) * other).sum(axis=-1)
        return np.divide(won, all_pairs, out=np.full_like(won, np.nan), where=all_pairs > 0)


def _pair(scores: np.ndarray, right: np.ndarray, strata: np.ndarray) -> _Pairs:
    one, other = np.flatnonzero(right), np.flatnonzero(~right)
    counts = (strata[one][:, None] == strata[other]).astype(np.float64)
    gap = scores[one][:, None] - scores[other]
    return _Pairs(one, other, (np.sign(gap) + 1) / 2 * counts, counts)


def measure_auroc(
    scores: np.ndarray,
    right: np.ndarray,
    weights: np.ndarray | None = None,
    strata: np.ndarray | None = None,
) -> float:
    """Return the area under the ROC curve, over pairs of one stratum where strata are given.

    The Mann-Whitney statistic: the share of pairs of a right and a wrong picture in which the right
    one scores higher, ties by half. Of several strata the pairs are pooled, so that each stratum
    counts by its pairs. From 0 to 1, chance 0.5.

    Source: Hanley and McNeil 1982, "The meaning and use of the area under a receiver operating
    characteristic (ROC) curve"; stratified, van Elteren 1960.

    Parameters
    ----------
    scores
        Finite, shape (pictures,).
    right
        Bool, shape (pictures,).
    weights
        Not negative, shape (pictures,): a pair weighs the product. Equal unless given.
    strata
        Shape (pictures,), any values that can be compared for equality.

    Returns
    -------
    float
        NaN where no stratum holds right and wrong pictures.
    """
    scores, right = np.asarray(scores, dtype=np.float64), np.asarray(right, dtype=bool)
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, dtype=np.float64)
    strata = np.zeros(len(scores)) if strata is None else np.asarray(strata)
    return float(_pair(scores, right, strata).auroc(weights))


def fit_logistic(
    features: np.ndarray, right: np.ndarray, weights: np.ndarray, penalty: float = 1.0
) -> tuple[float, np.ndarray]:
    """Fit a logistic regression with a ridge penalty on the slopes, not on the intercept.

    The least of the weighted negative log-likelihood plus half the ``penalty`` times the sum of
    squared slopes, as scikit-learn's with ``C = 1 / penalty``: without it, separable pictures would
    have no solution.

    Source: le Cessie and van Houwelingen 1992, "Ridge estimators in logistic regression".

    Parameters
    ----------
    features
        Float, shape (pictures, features), of about unit variance.
    right
        Bool, shape (pictures,).
    weights
        Not negative, shape (pictures,).
    penalty
        Above 0.

    Returns
    -------
    tuple
        Intercept and slopes, shape (features,).
    """
    columns = np.column_stack([np.ones(len(features)), features])
    signs = np.where(right, 1.0, -1.0)
    ridge = np.full(columns.shape[1], penalty)
    ridge[0] = 0

    def loss(beta):
        margin = signs * (columns @ beta)
        value = weights @ np.logaddexp(0, -margin) + 0.5 * ridge @ beta**2
        slope = -columns.T @ (weights * signs * expit(-margin)) + ridge * beta
        return float(value), slope

    def curvature(beta):
        chance = expit(columns @ beta)
        return (columns.T * (weights * chance * (1 - chance))) @ columns + np.diag(ridge)

    found = optimize.minimize(
        loss,
        np.zeros(columns.shape[1]),
        jac=True,
        hess=curvature,
        method="trust-exact",
        options={"gtol": 1e-8},
    )
    return float(found.x[0]), found.x[1:]


def cross_validate(
    features: np.ndarray, right: np.ndarray, weights: np.ndarray, bases: Sequence[str]
) -> np.ndarray:
    """Score each picture by a logistic regression on the pictures of all other bases.

    The score is the slopes' part of the log odds. Its intercept is left out: it falls when a right
    picture is held out and rises when a wrong one is, which alone would push an AUROC over all
    held-out scores below 0.5 (Airola et al. 2011, "An experimental comparison of cross-validation
    techniques for estimating the area under the ROC curve").

    Parameters
    ----------
    features
        Float, shape (pictures, features); standardised here, over all pictures.
    right, weights
        Shape (pictures,). Weights are scaled to a mean of 1, which the penalty is held against.
    bases
        The base of each picture.

    Returns
    -------
    numpy.ndarray
        Float64, shape (pictures,).
    """
    spread = features.std(axis=0)
    features = (features - features.mean(axis=0)) / np.where(spread > 1e-12, spread, 1)
    weights, bases = weights / weights.mean(), np.asarray(bases)
    scores = np.zeros(len(features))
    for base in np.unique(bases):
        out = bases == base
        _, slopes = fit_logistic(features[~out], right[~out], weights[~out])
        scores[out] = features[out] @ slopes
    return scores


def resample_bases(bases: Sequence[str], resamples: int, seed: int) -> np.ndarray:
    """Draw bases with replacement: how often each picture is in each resample.

    Returns
    -------
    numpy.ndarray
        Float64, shape (resamples, pictures).
    """
    names, place = np.unique(np.asarray(bases), return_inverse=True)
    draws = np.random.default_rng(seed).integers(len(names), size=(resamples, len(names)))
    flat = draws + len(names) * np.arange(resamples)[:, None]
    counts = np.bincount(flat.ravel(), minlength=resamples * len(names))
    return counts.reshape(resamples, len(names))[:, place].astype(np.float64)


# ------------------------------------------------------------------------------------------------
# The study's pictures


@dataclass(frozen=True, eq=False)
class _Cases:
    """Pictures of one model that are right or wrong, each with everything that could tell."""

    right: np.ndarray
    weights: np.ndarray
    bases: np.ndarray
    scores: Mapping[str, np.ndarray]
    strata: Mapping[str, np.ndarray | str]  # or why there are none


class _TooFewError(Exception):
    """Right and wrong pictures that are too few; arguments are their numbers and the reason."""


def _area(picture: Mapping) -> float | None:
    """Return the object's share of the picture, hidden parts included where they are known."""
    mask = picture["mask_whole"] or picture["mask_visible"]
    return None if mask is None else float((decode_png(mask) != 0).mean())


def _thirds(areas: Sequence[float | None]) -> np.ndarray | str:
    if any(area is None for area in areas):
        return "no mask says how large the objects are"
    return np.searchsorted(np.quantile(areas, [1 / 3, 2 / 3]), areas)


def _collect_cases(
    verdicts: Mapping[str, bool],
    agreement: Mapping[str, float],
    probability: Mapping[str, float],
    pictures: Mapping[str, Mapping],
    areas: Mapping[str, float | None],
) -> _Cases:
    """Join what is known of the pictures that have a verdict and an agreement, sorted by name."""
    names = sorted(set(verdicts) & set(agreement))
    rows = [pictures[name] for name in names]
    right = np.array([verdicts[name] for name in names], dtype=bool)
    weights = np.array([1.0 if row["weight"] is None else row["weight"] for row in rows])
    bases = np.array([base_of(row) for row in rows], dtype=object)
    counts = int(right.sum()), int((~right).sum())
    for word, chosen, count in zip(("right", "wrong"), (right, ~right), counts, strict=True):
        if count < FEWEST:
            raise _TooFewError(*counts, f"{count} {word}; {FEWEST} are needed")
        if len(set(bases[chosen])) < 2:
            raise _TooFewError(*counts, f"all that are {word} are of one base")
    confidence = np.array([probability[name] for name in names])
    agreed = np.array([agreement[name] for name in names])
    odds = logit(np.clip(confidence, _EDGE, 1 - _EDGE))
    both = cross_validate(np.column_stack([odds, agreed]), right, weights, list(bases))
    clutter = [row["clutter"] for row in rows]
    return _Cases(
        right,
        weights,
        bases,
        {"top-probability": confidence, "agreement": agreed, "both": both},
        {
            "all": np.zeros(len(names)),
            "within-clutter": "the clutter of a picture is not known"
            if None in clutter
            else np.array(clutter),
            "within-area": _thirds([areas[name] for name in names]),
        },
    )


def _score_cases(cases: _Cases, resamples: int, seed: int) -> list[dict]:
    """Return rows of ``CORRECTNESS`` without ``model`` and ``correct``."""
    bases = len(set(cases.bases))
    few = None
    if bases < FEWEST_BASES:
        few = f"no interval: of {bases} bases, {FEWEST_BASES} are needed"
    again = cases.weights * resample_bases(list(cases.bases), resamples, seed)
    rows = []
    for stratum in STRATA:
        strata = cases.strata[stratum]
        if isinstance(strata, str):
            rows += _empty_rows(stratum, 0, 0, strata)
            continue
        mixed = _in_mixed(strata, cases.right)
        right, wrong = int((cases.right & mixed).sum()), int((~cases.right & mixed).sum())
        if min(right, wrong) < FEWEST:
            word = f"{right} right" if right < FEWEST else f"{wrong} wrong"
            reason = f"{word} where a stratum holds both; {FEWEST} are needed"
            rows += _empty_rows(stratum, right, wrong, reason)
            continue
        found = {}
        for name, scores in cases.scores.items():
            pairs = _pair(scores, cases.right, strata)
            found[name] = np.append(pairs.auroc(cases.weights), pairs.auroc(again))
        found["added"] = found["both"] - found["top-probability"]
        for predictor in PREDICTORS:
            value, drawn = found[predictor][0], found[predictor][1:]
            drawn = drawn[np.isfinite(drawn)]
            low, high = (None, None) if few else np.quantile(drawn, [0.025, 0.975])
            rows.append(
                {
                    "predictor": predictor,
                    "stratum": stratum,
                    "right": right,
                    "wrong": wrong,
                    "auroc": float(value),
                    "low": None if few else float(low),
                    "high": None if few else float(high),
                    "reason": few,
                }
            )
    return rows


def _in_mixed(strata: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Say which pictures lie in a stratum that holds right and wrong ones."""
    mixed = np.zeros(len(strata), dtype=bool)
    for stratum in np.unique(strata):
        inside = strata == stratum
        mixed |= inside & (right[inside].any() and not right[inside].all())
    return mixed


def _empty_rows(stratum: str, right: int, wrong: int, reason: str) -> list[dict]:
    common = {"stratum": stratum, "right": right, "wrong": wrong, "reason": reason}
    return [{"predictor": predictor} | common for predictor in PREDICTORS]


def predict_correctness(
    predictions: Sequence[Mapping],
    pictures: Iterable[Mapping],
    agreement: Iterable[Mapping],
    localization: Iterable[Mapping] | None,
    cam: str | None,
    primary: Mapping[str, str],
    drawn_for: Collection[str] = (),
    resamples: int = 2000,
    seed: int = 0,
) -> list[dict]:
    """Measure how well confidence, agreement and both tell right pictures from wrong ones.

    Predictors are ``top-probability``, the probability of the predicted class; ``agreement`` of
    LIME and ``cam``; ``both``, a logistic regression on the logit of the one and on the other,
    scored on bases that it was not fitted on (:func:`cross_validate`); and ``added``, the AUROC of
    both minus that of the top probability. All are of the same pictures, those on which the
    agreement is defined.

    Parameters
    ----------
    predictions, pictures, agreement, localization
        Rows of the tables of these names; no localisation where no mask is known.
    cam
        The study's first CAM method; None where it has none.
    primary
        The study's ``primary``: the measures of ``agreement`` and ``localization``.
    drawn_for
        Models whose wrong pictures were drawn.
    resamples, seed
        Of the percentile bootstrap over bases, the regression's scores being fixed.

    Returns
    -------
    list of dict
        Rows of the table ``CORRECTNESS`` by model, kind of correctness, stratum and predictor.
        ``right`` and ``wrong`` count pictures in strata that hold both. With fewer than five of
        either, or all of one base, there is a reason and no number; with fewer than six bases in
        all, a reason and no interval.
    """
    known = {row["name"]: row for row in pictures if row["error"] is None}
    areas = {name: _area(row) for name, row in known.items()}
    first = [row for row in keep_first(predictions, "model", "picture") if row["picture"] in known]
    located = [row for row in localization or () if row["truth"] == "object"]
    agreed = [row for row in agreement if row["control"] is None]
    agreements = index_scores(agreed, first, "method_a", "method_b", "metric")
    ious = index_scores(located, first, "method", "metric")
    rows = []
    for model in sorted({row["model"] for row in first}):
        own = {row["picture"]: row for row in first if row["model"] == model}
        probability = {name: row["predicted_probability"] for name, row in own.items()}
        for kind in ("prediction", "localization"):
            about = {"model": model, "correct": kind}
            try:
                if cam is None:
                    raise CannotAskError("the study has no class activation maps")
                pair = sorted((LIME, cam))
                agreement_of = look_up(
                    agreements, model, *pair, primary["agreement"], what="agreement"
                )
                if kind == "prediction":
                    verdicts = _judge_predictions(own, known, model in drawn_for)
                else:
                    verdicts = _judge_places(ious, model, cam, primary["localization"], known)
                cases = _collect_cases(verdicts, agreement_of, probability, known, areas)
                found = _score_cases(cases, resamples, seed)
            except CannotAskError as reason:
                found = [row for name in STRATA for row in _empty_rows(name, 0, 0, str(reason))]
            except _TooFewError as few:
                right, wrong, reason = few.args
                found = [row for name in STRATA for row in _empty_rows(name, right, wrong, reason)]
            rows += [about | row for row in found]
    return rows


def _judge_predictions(
    own: Mapping[str, Mapping], pictures: Mapping[str, Mapping], drawn: bool
) -> dict[str, bool]:
    """Say of each picture whose class is known whether the prediction is right."""
    verdicts = {
        name: row["correct"]
        for name, row in own.items()
        if row["correct"] is not None
        and (pictures[name]["weight"] is None or (drawn and not row["correct"]))
    }
    if not verdicts:
        raise CannotAskError("no picture's true class is known")
    return verdicts


def _judge_places(
    ious, model: str, cam: str, metric: str, pictures: Mapping[str, Mapping]
) -> dict[str, bool]:
    """Say of each picture with a mask whether the two explanations are where the object is."""
    one, other = (
        look_up(ious, model, method, metric, what="localisation") for method in (LIME, cam)
    )
    return {
        name: (one[name] + other[name]) / 2 >= RIGHT_IOU
        for name in one
        if name in other and pictures[name]["weight"] is None
    }

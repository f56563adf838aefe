"""The study's questions, each with an estimate, its interval and, where fixed beforehand, a test.

The independent unit is the base picture: the same object in the same place rendered at several
levels of clutter. Whatever is compared is compared within a base, so that a base contributes one
difference, and resamples and tests go over bases. A photograph is its own base. Pictures that were
drawn because a model is wrong about them are left out: they stand for no ordinary picture.

Four questions are primary, with one measure each (the study's ``primary``): they were fixed before
any data, and Holm's correction is over those of all models. Everything else is exploratory: an
estimate and an interval, no p-value.

``agreement-and-clutter``
    Does LIME agree less with the first CAM method where there is clutter?
``score-cam-localises-best``
    Does Score-CAM find the object better than the study's other CAM methods do on average?
``lime-and-clutter``
    Does LIME find the object less well where there is clutter?
``faithful-lime-or-cam``
    Is LIME or the first CAM method more faithful to the model?

"Simple" is clutter level 0; "cluttered" are the levels above half of the study's highest, over
which a base's pictures are averaged. Against the object only right predictions are held, so that of
a single level, the hardest, hardly a base would be left.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from .measures import bootstrap_mean, keep_first

LIME = "lime"
SCORE_CAM = "score-cam"
LEVEL = 0.05
"""Of every test, two-sided; intervals have one minus this."""
POWER = 0.8
"""With which an effect of the size ``detectable`` would have been found."""
FEWEST = 6
"""Bases without which neither test nor interval can do what it says.

Of n bases the exact test's least p-value is 2 / 2^n; and as often does even the span of all
differences, beyond which no resample's mean lies, miss the centre of a symmetric distribution.
"""
FLIPS = 20_000
"""Random flips where not all are tried."""
_EXACT = 16
_ROAD_FILL = "linear"


@dataclass(frozen=True, eq=False)
class Contrast:
    """Paired differences, one a base.

    Attributes
    ----------
    bases
        Names, sorted.
    differences
        Float64, shape (bases,).
    values
        Pictures whose values the differences are made from.
    left_out
        Bases that lack a value on one side or on both.
    """

    bases: tuple[str, ...]
    differences: np.ndarray
    values: int
    left_out: int


class CannotAskError(Exception):
    """The study cannot ask this; the message is the reason that goes into the table."""


# ------------------------------------------------------------------------------------------------
# Statistics


def bootstrap_bases(
    differences: np.ndarray, resamples: int, seed: int
) -> tuple[float | None, float | None, str]:
    """Return the 95 % bootstrap interval of the mean over bases, and how it was made.

    BCa (Efron 1987, "Better bootstrap confidence intervals"), or percentile where BCa is not
    defined, as of differences that are all equal. Either is somewhat too narrow where bases are
    few: of normal differences of 8 bases it held the true mean in 89 % of 1,500 simulated studies,
    of 12 in 91 %.

    Parameters
    ----------
    differences
        Float, shape (bases,).
    resamples, seed
        Every call draws from the seed alone, so that no interval depends on which others there are.

    Returns
    -------
    tuple
        Low, high and the text; the bounds are None for fewer than :data:`FEWEST` bases.
    """
    differences = np.asarray(differences, dtype=np.float64)
    if len(differences) < FEWEST:
        return None, None, f"none: of {_count(len(differences), 'base')}, {FEWEST} are needed"
    kind = "BCa"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # degenerate data; answered below
        found = stats.bootstrap(
            (differences,),
            np.mean,
            n_resamples=resamples,
            confidence_level=1 - LEVEL,
            method="BCa",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    low, high = float(found.low), float(found.high)
    if not (np.isfinite(low) and np.isfinite(high)):
        kind = "percentile"
        low, high = bootstrap_mean(differences, resamples, seed, 1 - LEVEL)
    bases = _count(len(differences), "base")
    return low, high, f"95 % {kind} bootstrap over {bases}, {resamples:,} resamples"


def flip_signs(differences: np.ndarray, seed: int = 0) -> tuple[float, str]:
    """Test whether the mean difference is zero by flipping the signs of the differences.

    Under the null hypothesis a base's difference is as likely to have one sign as the other. The
    p-value is the share of flips whose mean is at least as far from zero, two-sided: of all 2^n up
    to 16 bases, beyond that of 20,000 random ones with the observed one among them.

    Source: Fisher 1935, "The design of experiments", section 21; for random flips Phipson and Smyth
    2010, "Permutation P-values should never be zero".

    Parameters
    ----------
    differences
        Finite, shape (bases,), at least one.
    seed
        Of the random flips.

    Returns
    -------
    tuple
        The p-value, in (0, 1], and the test's name.
    """
    differences = np.asarray(differences, dtype=np.float64)
    n = len(differences)
    # Flips that differ in the last digits of a sum are tied.
    least = abs(differences.sum()) - 1e-12 * np.abs(differences).sum()
    if n <= _EXACT:
        signs = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
        name = f"exact sign-flip test, two-sided, all 2^{n} flips"
        if n < FEWEST:
            name += f"; of fewer than {FEWEST} bases it cannot reach {LEVEL}"
        return float(np.mean(np.abs(signs @ differences) >= least)), name
    rng = np.random.default_rng(seed)
    # A row at a time would be slow, all at once large.
    further = 0
    for start in range(0, FLIPS, 1000):
        signs = 1 - 2 * rng.integers(2, size=(min(1000, FLIPS - start), n))
        further += int(np.sum(np.abs(signs @ differences) >= least))
    return (1 + further) / (1 + FLIPS), f"sign-flip test, two-sided, {FLIPS:,} random flips"


def adjust_holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted by Holm's step-down procedure, in the order given.

    The smallest of m is multiplied by m, the next by m - 1, and so on; none becomes smaller than
    one before it, nor greater than 1. It bounds the chance of any false rejection in the family,
    whatever the dependence.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(np.argsort(p_values, kind="stable")):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = float(highest)
    return adjusted


def detect_effect(differences: np.ndarray) -> float | None:
    """Return the smallest mean difference that would have been found with power 0.8 at level 0.05.

    That of the two-sided paired t test, whose power near the sign-flip test's is, with the
    differences' own standard deviation taken for the true one; solved with the noncentral t
    distribution, not the normal approximation. Before Holm's correction, which asks for more.

    Source: Cohen 1988, "Statistical power analysis for the behavioral sciences", section 2.

    Returns
    -------
    float or None
        In units of the differences, positive. None of fewer than :data:`FEWEST` bases, whose exact
        test finds no effect of any size, and of differences that are all equal.
    """
    differences = np.asarray(differences, dtype=np.float64)
    n = len(differences)
    if n < FEWEST or np.ptp(differences) <= 1e-12:
        return None
    critical = stats.t.ppf(1 - LEVEL / 2, n - 1)

    def lacking(shift: float) -> float:
        # The lower tail is the upper one of the mirrored shift, which is computed more exactly.
        tails = stats.nct.sf(critical, n - 1, [shift, -shift])
        return float(tails.sum()) - POWER

    # In standard errors: 3.5 of 6 bases, 2.8 of very many.
    shift = optimize.brentq(lacking, 2, 6)
    return float(shift * differences.std(ddof=1) / np.sqrt(n))


# ------------------------------------------------------------------------------------------------
# Values by picture, and their differences by base


Scores = Mapping[tuple, Mapping[str, float]]


def index_scores(
    rows: Iterable[Mapping] | None, predictions: Iterable[Mapping], *keys: str
) -> Scores:
    """Return the defined values of each picture's first target by model and ``keys``, by picture.

    Parameters
    ----------
    rows
        With ``model``, ``picture``, ``target_index``, ``value`` and the ``keys``.
    predictions
        Rows of ``PREDICTIONS``; of a model and picture the first target comes first.
    keys
        Columns. The pair ``method_a``, ``method_b`` is put in the order of its names.
    """
    first = keep_first(predictions, "model", "picture")
    targets = {(row["model"], row["picture"]): row["target_index"] for row in first}
    found: dict[tuple, dict[str, float]] = defaultdict(dict)
    for row in rows or ():
        if targets.get((row["model"], row["picture"])) != row["target_index"]:
            continue
        names = [row[key] for key in keys]
        if keys[:2] == ("method_a", "method_b"):
            names[:2] = sorted(names[:2])
        values = found[row["model"], *names]
        if row["value"] is not None:
            values[row["picture"]] = row["value"]
    return dict(found)


def ordinary(pictures: Iterable[Mapping]) -> list[Mapping]:
    """Return the pictures that decode and were not drawn for being wrong, sorted by name."""
    kept = [row for row in pictures if row["error"] is None and row["weight"] is None]
    return sorted(kept, key=lambda row: row["name"])


def base_of(picture: Mapping) -> str:
    """Return the base of a picture; a photograph is its own."""
    return picture["base"] if picture["base"] is not None else picture["name"]


def clutter_levels(pictures: Iterable[Mapping]) -> list[int]:
    """Return the levels of clutter among pictures, ascending; none of photographs."""
    return sorted({row["clutter"] for row in pictures} - {None})


def simple_and_cluttered(pictures: Iterable[Mapping]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the levels that count as simple, which is 0, and as cluttered: above half the highest.

    Raises
    ------
    CannotAskError
        If the pictures do not have both.
    """
    levels = clutter_levels(pictures)
    if not levels:
        raise CannotAskError("the pictures have no known clutter")
    if len(levels) == 1:
        raise CannotAskError(f"all pictures have clutter {levels[0]}")
    if levels[0] != 0:
        raise CannotAskError("no picture has clutter 0")
    return (0,), tuple(level for level in levels if 2 * level > levels[-1])


def name_levels(levels: Sequence[int]) -> str:
    """Return the words for levels of clutter, such as ``clutter 3 and 4``."""
    return f"clutter {' and '.join(map(str, levels))}"


def name_contrast(low: Sequence[int], high: Sequence[int]) -> str:
    """Return the words for a difference, such as ``clutter 3 and 4 minus clutter 0``."""
    return f"{name_levels(high)} minus {name_levels(low)}"


def _by_base(pictures: Iterable[Mapping]) -> dict[str, list[Mapping]]:
    bases = defaultdict(list)
    for row in sorted(pictures, key=lambda row: row["name"]):
        bases[base_of(row)].append(row)
    return {base: bases[base] for base in sorted(bases)}


def _make_contrast(found: Mapping[str, tuple[float, int] | None]) -> Contrast:
    """Make a contrast of each base's difference and number of pictures; None is left out."""
    kept = {base: pair for base, pair in found.items() if pair is not None}
    if not kept:
        raise CannotAskError("no base has a value on both sides")
    return Contrast(
        tuple(kept),
        np.array([difference for difference, _ in kept.values()], dtype=np.float64),
        sum(values for _, values in kept.values()),
        len(found) - len(kept),
    )


def contrast_levels(
    scores: Mapping[str, float],
    pictures: Iterable[Mapping],
    low: Collection[int],
    high: Collection[int],
) -> Contrast:
    """Return, by base, the mean value at the levels ``high`` minus that at the levels ``low``.

    The mean is over those of the base's pictures that have a value.
    """
    found = {}
    for base, rows in _by_base(pictures).items():
        if not {row["clutter"] for row in rows} & {*low, *high}:
            continue
        sides = [
            [
                scores[row["name"]]
                for row in rows
                if row["clutter"] in levels and row["name"] in scores
            ]
            for levels in (low, high)
        ]
        values = sum(map(len, sides))
        found[base] = (np.mean(sides[1]) - np.mean(sides[0]), values) if all(sides) else None
    return _make_contrast(found)


def contrast_slopes(scores: Mapping[str, float], pictures: Iterable[Mapping]) -> Contrast:
    """Return, by base, the least-squares slope of the value on the level of clutter.

    Of bases with values at three levels or more: of two it is the difference over again.
    """
    found = {}
    for base, rows in _by_base(pictures).items():
        points = [
            (row["clutter"], scores[row["name"]])
            for row in rows
            if row["clutter"] is not None and row["name"] in scores
        ]
        levels, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
        enough = len(np.unique(levels)) > 2
        slope = np.polyfit(levels, values, 1)[0] if enough else None
        found[base] = (slope, len(points)) if enough else None
    if not any(found.values()):
        raise CannotAskError("no base has values at three levels of clutter")
    return _make_contrast(found)


def contrast_pictures(
    scores: Mapping[str, float],
    others: Sequence[Mapping[str, float]],
    pictures: Iterable[Mapping],
) -> Contrast:
    """Return, by base, the mean over its pictures of the value minus the mean of the others'.

    A picture on which any of them is undefined does not count.
    """
    found = {}
    for base, rows in _by_base(pictures).items():
        names = [row["name"] for row in rows]
        differences = [
            scores[name] - np.mean([other[name] for other in others])
            for name in names
            if name in scores and all(name in other for other in others)
        ]
        found[base] = (np.mean(differences), len(differences)) if differences else None
    return _make_contrast(found)


# ------------------------------------------------------------------------------------------------
# The questions


@dataclass(frozen=True)
class Sources:
    """What the questions are asked of.

    Attributes
    ----------
    pictures
        Rows of ``PICTURES``, :func:`ordinary` ones.
    agreement, localization, faithfulness
        Of :func:`index_scores`: by model, the two methods and the metric; by model, method and
        metric (against the object's mask); by model, method, metric and fill (the difference from
        random orders).
    chance
        As ``localization``, what a map without regard to the mask scores.
    cams
        The study's CAM methods, in its order.
    """

    pictures: Sequence[Mapping]
    agreement: Scores
    localization: Scores
    chance: Scores
    faithfulness: Scores
    cams: Sequence[str]

    @property
    def cam(self) -> str:
        """The first CAM method, which LIME is held against."""
        if not self.cams:
            raise CannotAskError("the study has no class activation maps")
        return self.cams[0]

    @property
    def other_cams(self) -> list[str]:
        """The methods that Score-CAM is held against."""
        if SCORE_CAM not in self.cams:
            raise CannotAskError("Score-CAM is not among the study's methods")
        if len(self.cams) < 2:
            raise CannotAskError("the study has no CAM method beside Score-CAM")
        return [method for method in self.cams if method != SCORE_CAM]


def collect_sources(
    predictions: Sequence[Mapping],
    pictures: Iterable[Mapping],
    agreement: Iterable[Mapping],
    localization: Iterable[Mapping] | None = None,
    faithfulness: Iterable[Mapping] | None = None,
    cams: Sequence[str] = (),
) -> Sources:
    """Collect what the questions are asked of from rows of the tables of these names."""
    agreed = [row for row in agreement if row["control"] is None]
    located = [row for row in localization or () if row["truth"] == "object"]
    chances = [row | {"value": row["chance"]} for row in located]
    faithful = [row | {"value": row["difference"]} for row in faithfulness or ()]
    return Sources(
        ordinary(pictures),
        index_scores(agreed, predictions, "method_a", "method_b", "metric"),
        index_scores(located, predictions, "method", "metric"),
        index_scores(chances, predictions, "method", "metric"),
        index_scores(faithful, predictions, "method", "metric", "fill"),
        tuple(cams),
    )


def look_up(scores: Scores, model: str, *key: str, what: str) -> Mapping[str, float]:
    """Return the values by picture.

    Raises
    ------
    CannotAskError
        If there are none: says what was not measured, or what has no value on any picture.
    """
    if not any(found[0] == model for found in scores):
        raise CannotAskError(f"{what} was not measured")
    about = f"{what} ({', '.join(key)})"
    if (model, *key) not in scores:
        raise CannotAskError(f"{about} was not measured")
    if not scores[model, *key]:
        raise CannotAskError(f"{about} is undefined on every picture")
    return scores[model, *key]


def name_mean(methods: Sequence[str]) -> str:
    """Return the words for the mean of methods."""
    return f"the mean of {' and '.join(methods)}" if len(methods) > 1 else methods[0]


def _agreement(source: Sources, model: str, method: str, other: str, metric: str):
    pair = sorted((method, other))
    return look_up(source.agreement, model, *pair, metric, what="agreement")


def _localization(source: Sources, model: str, method: str, metric: str):
    return look_up(source.localization, model, method, metric, what="localisation")


def _faithfulness(source: Sources, model: str, method: str, metric: str, fill: str):
    return look_up(source.faithfulness, model, method, metric, fill, what="faithfulness")


def ask_agreement_and_clutter(
    source: Sources, model: str, metric: str, method: str | None = None, other: str = LIME
) -> tuple[str, Contrast]:
    """Return the estimand and the contrast of agreement, cluttered minus simple, by base.

    Raises
    ------
    CannotAskError
        If the study does not have what this needs; so do the other questions.
    """
    method = method or source.cam
    low, high = simple_and_cluttered(source.pictures)
    scores = _agreement(source, model, other, method, metric)
    text = f"agreement ({metric}) of {other} and {method}, {name_contrast(low, high)}"
    return text, contrast_levels(scores, source.pictures, low, high)


def ask_score_cam_localises_best(
    source: Sources, model: str, metric: str, others: Sequence[str] | None = None
) -> tuple[str, Contrast]:
    """Return the estimand and the contrast of Score-CAM's localisation and other CAMs', by base."""
    others = others or source.other_cams
    own = _localization(source, model, SCORE_CAM, metric)
    rest = [_localization(source, model, method, metric) for method in others]
    text = (
        f"localisation ({metric}) of {SCORE_CAM} minus {name_mean(others)}, "
        "averaged over a base's pictures"
    )
    return text, contrast_pictures(own, rest, source.pictures)


def ask_lime_and_clutter(source: Sources, model: str, metric: str) -> tuple[str, Contrast]:
    """Return the estimand and the contrast of LIME's localisation, cluttered minus simple."""
    low, high = simple_and_cluttered(source.pictures)
    scores = _localization(source, model, LIME, metric)
    text = f"localisation ({metric}) of {LIME}, {name_contrast(low, high)}"
    return text, contrast_levels(scores, source.pictures, low, high)


def ask_faithful_lime_or_cam(
    source: Sources, model: str, metric: str, fill: str = _ROAD_FILL, method: str | None = None
) -> tuple[str, Contrast]:
    """Return the estimand and the contrast of LIME's faithfulness and a CAM's, by base."""
    method = method or source.cam
    own = _faithfulness(source, model, LIME, metric, fill)
    other = _faithfulness(source, model, method, metric, fill)
    text = (
        f"faithfulness ({metric}, {fill}, less that of random orders) of {LIME} minus {method}, "
        "averaged over a base's pictures"
    )
    return text, contrast_pictures(own, [other], source.pictures)


def _ask_slope(source: Sources, what: str, scores: Mapping[str, float]) -> tuple[str, Contrast]:
    simple_and_cluttered(source.pictures)
    text = f"{what}, least-squares slope a level of clutter"
    return text, contrast_slopes(scores, source.pictures)


def _ask_above_chance(source: Sources, model: str, metric: str) -> tuple[str, Contrast]:
    """What hides the object makes its mask smaller, and chance with it."""
    low, high = simple_and_cluttered(source.pictures)
    scores = _localization(source, model, LIME, metric)
    chance = look_up(source.chance, model, LIME, metric, what="chance")
    above = {name: scores[name] - chance[name] for name in scores if name in chance}
    text = f"localisation ({metric} above chance) of {LIME}, {name_contrast(low, high)}"
    return text, contrast_levels(above, source.pictures, low, high)


def _primaries(source: Sources, model: str, primary: Mapping[str, str]):
    agreement, localization = primary["agreement"], primary["localization"]
    return {
        "agreement-and-clutter": lambda: ask_agreement_and_clutter(source, model, agreement),
        "score-cam-localises-best": lambda: ask_score_cam_localises_best(
            source, model, localization
        ),
        "lime-and-clutter": lambda: ask_lime_and_clutter(source, model, localization),
        "faithful-lime-or-cam": lambda: ask_faithful_lime_or_cam(
            source, model, primary["faithfulness"]
        ),
    }


def _exploratory(source: Sources, model: str, primary: Mapping[str, str]):
    """Yield name and question of everything else that the study's measures can answer."""
    measured = sorted({key[1:] for key in source.agreement if key[0] == model})
    cam = source.cams[0] if source.cams else None
    pair = tuple(sorted((cam or "", LIME)))
    metric, of = primary["agreement"], "agreement-and-clutter"
    for a, b, other in measured:
        if (a, b) == pair and other != metric:
            yield f"{of}:{other}", lambda m=other: ask_agreement_and_clutter(source, model, m)
    for a, b, other in measured:
        if (a, b) != pair and other == metric:
            yield (
                f"{of}:{a}+{b}",
                lambda a=a, b=b: ask_agreement_and_clutter(source, model, metric, b, a),
            )
    if (*pair, metric) in measured:
        yield (
            f"{of}:slope",
            lambda: _ask_slope(
                source,
                f"agreement ({metric}) of {LIME} and {cam}",
                _agreement(source, model, LIME, cam, metric),
            ),
        )

    measured = sorted({key[1:] for key in source.localization if key[0] == model})
    metric, of = primary["localization"], "score-cam-localises-best"
    for method, other in measured:
        if method == SCORE_CAM and other != metric:
            yield f"{of}:{other}", lambda m=other: ask_score_cam_localises_best(source, model, m)
    for method, other in measured:
        if method not in (SCORE_CAM, LIME) and other == metric and SCORE_CAM in source.cams:
            yield (
                f"{of}:{method}",
                lambda m=method: ask_score_cam_localises_best(source, model, metric, [m]),
            )
    of = "lime-and-clutter"
    for method, other in measured:
        if method == LIME and other != metric:
            yield f"{of}:{other}", lambda m=other: ask_lime_and_clutter(source, model, m)
    if (LIME, metric) in measured:
        yield f"{of}:above-chance", lambda: _ask_above_chance(source, model, metric)
        yield (
            f"{of}:slope",
            lambda: _ask_slope(
                source,
                f"localisation ({metric}) of {LIME}",
                _localization(source, model, LIME, metric),
            ),
        )

    measured = sorted({key[1:] for key in source.faithfulness if key[0] == model})
    metric, of = primary["faithfulness"], "faithful-lime-or-cam"
    for method, other, fill in measured:
        if method == LIME and (other, fill) != (metric, _ROAD_FILL):
            yield (
                f"{of}:{other}-{fill}",
                lambda m=other, f=fill: ask_faithful_lime_or_cam(source, model, m, f),
            )
    for method, other, fill in measured:
        if method not in (cam, LIME) and (other, fill) == (metric, _ROAD_FILL):
            yield (
                f"{of}:{method}",
                lambda m=method: ask_faithful_lime_or_cam(source, model, metric, method=m),
            )


_ESTIMANDS = {
    "agreement-and-clutter": "agreement of lime and the first CAM, cluttered minus simple",
    "score-cam-localises-best": "localisation of score-cam minus the mean of the other CAMs",
    "lime-and-clutter": "localisation of lime, cluttered minus simple",
    "faithful-lime-or-cam": "faithfulness of lime minus the first CAM",
}


def _answer(question: str, model: str, ask, resamples: int, seed: int) -> dict:
    """Make a row of ``QUESTIONS``; without test, which only primaries have."""
    row = {"question": question, "role": "exploratory", "model": model}
    try:
        estimand, contrast = ask()
    except CannotAskError as reason:
        estimand = _ESTIMANDS[question.partition(":")[0]]
        if ":" in question:
            estimand += f" ({question.partition(':')[2]})"
        nothing = {"interval": "none", "bases": 0, "values": 0, "reason": str(reason)}
        return row | {"estimand": estimand} | nothing
    low, high, interval = bootstrap_bases(contrast.differences, resamples, seed)
    if contrast.left_out:
        interval += f"; {_count(contrast.left_out, 'base')} left out for a missing value"
    return row | {
        "estimand": estimand,
        "estimate": float(contrast.differences.mean()),
        "low": low,
        "high": high,
        "interval": interval,
        "bases": len(contrast.bases),
        "values": contrast.values,
        "differences": contrast.differences,
    }


def answer_questions(
    source: Sources,
    models: Sequence[str],
    primary: Mapping[str, str],
    resamples: int = 2000,
    seed: int = 0,
) -> list[dict]:
    """Answer the study's questions.

    Parameters
    ----------
    source
        Of :func:`collect_sources`.
    models
        Names of the explained models.
    primary
        The study's ``primary``: the measure of ``agreement``, ``localization`` and
        ``faithfulness``.
    resamples, seed
        Of the bootstrap over bases; the seed is also the random flips'.

    Returns
    -------
    list of dict
        Rows of the table ``QUESTIONS``: the primaries by question and model, then what is
        exploratory, named ``question:what differs``. A question that the study cannot ask has its
        reason and no numbers, and is not in Holm's family.
    """
    models = sorted(set(models))
    asked = [(model, _primaries(source, model, primary)) for model in models]
    primaries = [
        _answer(question, model, questions[question], resamples, seed) | {"role": "primary"}
        for question in _ESTIMANDS
        for model, questions in asked
    ]
    family = [row for row in primaries if "differences" in row]
    for row in family:
        row["p_value"], row["test"] = flip_signs(row["differences"], seed)
        row["detectable"] = detect_effect(row["differences"])
    for row, adjusted in zip(family, adjust_holm([row["p_value"] for row in family]), strict=True):
        row["p_holm"] = adjusted
    others = [
        _answer(question, model, ask, resamples, seed)
        for model in models
        for question, ask in _exploratory(source, model, primary)
    ]
    order = list(_ESTIMANDS)
    others.sort(key=lambda row: order.index(row["question"].partition(":")[0]))
    return [
        {key: value for key, value in row.items() if key != "differences"}
        for row in primaries + others
    ]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"

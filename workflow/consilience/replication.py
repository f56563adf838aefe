"""Claims over training seeds: nets of one family differ in nothing else, and each is one draw.

Pictures and neurons are nested in nets: however many there are, they tell how *this* net behaves.
What is claimed of a method or a similarity is claimed over seeds. So each net gives one number, the
mean of what is nested in it, and the interval is the t interval of these numbers. With three seeds
it is wide; that is what three seeds can say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

SHARE, DIFFERENCE = (0.0, 1.0), (-1.0, 1.0)
"""What a share can be, and a difference of two."""

FEWEST = 3
"""Seeds below which no claim is made over them: what is said is said of the nets at hand."""


@dataclass(frozen=True)
class Estimate:
    """A number over the nets of a family.

    Attributes
    ----------
    value
        Mean over nets; None where no net has a value.
    low, high
        95 % t interval of the mean over nets; None below :data:`FEWEST`.
    seeds
        Nets that have a value.
    """

    value: float | None
    low: float | None
    high: float | None
    seeds: int

    @property
    def over_seeds(self) -> bool:
        """Whether it may be claimed of more than the nets at hand."""
        return self.seeds >= FEWEST


def estimate(values: Iterable[float | None], bounds: tuple[float, float] = SHARE) -> Estimate:
    """Return the mean of one number a net, with its interval; nets without a value are left out.

    ``bounds`` are the least and the greatest that a number can be: a t interval knows nothing of
    them, and is cut.
    """
    known = np.array([value for value in values if value is not None], dtype=np.float64)
    if not len(known):
        return Estimate(None, None, None, 0)
    value = float(known.mean())
    if len(known) < FEWEST:
        return Estimate(value, None, None, len(known))
    from scipy import stats  # here: who takes means alone does without

    half = stats.t.ppf(0.975, len(known) - 1) * known.std(ddof=1) / np.sqrt(len(known))
    low, high = max(value - half, bounds[0]), min(value + half, bounds[1])
    return Estimate(value, float(low), float(high), len(known))


def family_of(models: Iterable[Mapping]) -> dict[str, str]:
    """Return the family of each of a study's models: its own name where it has none."""
    return {model["name"]: model.get("family") or model["name"] for model in models}


def gather(
    rows: Iterable[Mapping],
    families: Mapping[str, str],
    value: str | Callable[[Mapping], float | None],
    *keys: str,
    bounds: tuple[float, float] = SHARE,
) -> dict[tuple[Hashable, ...], Estimate]:
    """Take rows of several nets together.

    Parameters
    ----------
    rows
        With ``model`` and the keys: one row, or several to be averaged, a net and key.
    families
        Of :func:`family_of`.
    value
        The column, or what makes the number of a row; None where it has none.
    keys
        Columns beside the family.
    bounds
        As for :func:`estimate`.

    Returns
    -------
    dict
        By family and keys, in the order in which they come first.
    """
    take = value if callable(value) else lambda row: row[value]
    found: dict[tuple, dict[str, list[float | None]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        family = families.get(row["model"], row["model"])
        found[family, *(row[key] for key in keys)][row["model"]].append(take(row))
    return {key: estimate(map(mean, nets.values()), bounds) for key, nets in found.items()}


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def say_scope(seeds: int) -> str:
    """Say of how many nets a number is."""
    if seeds < FEWEST:
        return "of this one net" if seeds == 1 else f"of these {seeds} nets"
    return f"over {seeds} training seeds"

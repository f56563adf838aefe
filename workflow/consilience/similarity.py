"""How well the activations of a neuron match a concept over the probe pictures.

The functions are those of CLIP-Dissect (Oikarinen and Weng, *CLIP-Dissect: Automatic Description
of Neuron Representations in Deep Vision Networks*, ICLR 2023, section 4 and appendix A), as the
authors' code defines them. All take

- ``activations``: float, shape (pictures, neurons), the pooled activation of each neuron;
- ``cosines``: float, shape (pictures, concepts), the cosine of the CLIP embeddings of each picture
  and concept, the paper's matrix *P*;

and return float64, shape (neurons, concepts): the larger, the better the match. Values compare
within one call only. :data:`SIMILARITIES` lists them by name, with those that users registered.

Where pictures activate a neuron equally, the one that comes first in the matrix counts as the
stronger; the authors' code leaves this open.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Protocol

import numpy as np

from .errors import ConsilienceError
from .progress import Progress
from .registry import Registry, protect, require_parameters

# Concepts and neurons worked on at a time, so that the buffers stay in the cache.
_BLOCK = 128
_ROWS = 2048
# Pictures whose cosines are held at a time, which bounds memory however many there are.
_PICTURES = 8192


def rank_pictures(activations: np.ndarray, top_k: int) -> np.ndarray:
    """Find the pictures that activate each neuron most.

    Parameters
    ----------
    activations
        Shape (pictures, neurons), finite.
    top_k
        How many pictures.

    Returns
    -------
    numpy.ndarray
        int64, shape (neurons, top_k): indices of pictures, the strongest first; equal ones in
        their own order.

    Raises
    ------
    ConsilienceError
        If there are fewer than ``top_k`` pictures.
    """
    pictures, neurons = activations.shape
    if not 1 <= top_k <= pictures:
        raise ConsilienceError(
            f"the {top_k} most activating pictures are asked for, but there are {pictures} probe "
            "pictures; add probe pictures or lower top_k"
        )
    ranked = np.empty((neurons, top_k), dtype=np.int64)
    for neuron, values in enumerate(np.ascontiguousarray(activations.T)):
        least = np.partition(values, pictures - top_k)[pictures - top_k]
        candidates = np.flatnonzero(values >= least)
        order = np.argsort(-values[candidates], kind="stable")[:top_k]
        ranked[neuron] = candidates[order]
    return ranked


def soft_wpmi(
    activations: np.ndarray,
    cosines: np.ndarray,
    *,
    top_k: int = 100,
    a: float = 10.0,
    lam: float = 1.0,
    p_start: float = 0.998,
    p_end: float = 0.97,
    min_prob: float = 1e-7,
) -> np.ndarray:
    """Soft weighted pointwise mutual information, the paper's equation 4 and default.

    With P(c|x) the softmax over concepts of ``a`` times the cosines, and p_r the probability that
    the r-th most activating picture x_r belongs to the neuron's concept,

        log P(B|c) = Σ_r log(1 + p_r (P(c|x_r) - 1) + min_prob),
        similarity = log P(B|c) - lam · log(mean over neurons of P(B|c)).

    Parameters
    ----------
    activations, cosines
        See the module.
    top_k
        Pictures that speak for a neuron.
    a
        Inverse temperature of the softmax.
    lam
        Weight of the prior.
    p_start, p_end
        p_r falls linearly from ``p_start`` for the first picture; ``p_end`` is what the picture
        after the last would have.
    min_prob
        Added to each probability, so that none is zero.

    Raises
    ------
    ConsilienceError
        If shapes do not fit, a value is not finite, or a setting is out of range.
    """
    terms = soft_wpmi_terms(top_k, a, lam, p_start, p_end, min_prob)
    return _mutual_information(activations, cosines, terms)


def wpmi(
    activations: np.ndarray,
    cosines: np.ndarray,
    *,
    top_k: int = 28,
    a: float = 2.0,
    lam: float = 0.6,
    min_prob: float = 1e-7,
) -> np.ndarray:
    """Weighted pointwise mutual information, the paper's equation 3.

    As :func:`soft_wpmi` with log P(B|c) = Σ_r log(P(c|x_r) + min_prob).
    """
    return _mutual_information(activations, cosines, wpmi_terms(top_k, a, lam, min_prob))


def rank_reorder(
    activations: np.ndarray,
    cosines: np.ndarray,
    *,
    p: float = 3.0,
    top_fraction: float = 0.05,
    scale_p: float = 0.5,
) -> np.ndarray:
    """Rank reorder, the paper's equation 5: how well a concept sorts the top activations.

    The activations of the neuron's top pictures are put in the order of the concept's cosines;
    their mean distance to the power ``p`` from the true order, in units of a random order's and
    divided by the mean cosine to the power ``scale_p``, is taken with a minus sign.

    Two things differ from the authors' code. It estimates a random order's distance from five
    shuffles; here it is the expectation over all, which scales all concepts of a neuron alike and
    leaves its label as it is. And where the mean cosine is not positive, its power is undefined:
    the code returns NaN, here the concept gets minus infinity, that is, it labels no neuron.

    Parameters
    ----------
    activations, cosines
        See the module.
    p
        Power of the distance.
    top_fraction
        Share of the pictures that count as a neuron's top pictures.
    scale_p
        Power of the mean cosine.
    """
    _check(activations, cosines)
    top_k = int(len(activations) * top_fraction)
    if top_k < 2:
        raise ConsilienceError(
            f"rank-reorder sorts the top {top_fraction:.0%} of the probe pictures, which of "
            f"{len(activations)} are fewer than two; add probe pictures"
        )
    similarity = np.empty((activations.shape[1], cosines.shape[1]))
    for neuron, pictures in enumerate(rank_pictures(activations, top_k)):
        similarity[neuron] = reorder(
            activations[pictures, neuron], cosines[pictures], p=p, scale_p=scale_p
        )
    return similarity


def reorder(falling: np.ndarray, cosines: np.ndarray, *, p: float, scale_p: float) -> np.ndarray:
    """Rank reorder of one neuron.

    Parameters
    ----------
    falling
        Activations of its top pictures, shape (pictures,), the strongest first.
    cosines
        Of the same pictures, shape (pictures, concepts).

    Returns
    -------
    numpy.ndarray
        Shape (concepts,); minus infinity where it is undefined.
    """
    similarity = np.full(cosines.shape[1], -np.inf)
    falling = falling.astype(np.float64)
    rising = falling[::-1]
    unordered = _mean_distance(falling, p)
    if unordered == 0:
        return similarity  # all equally active: there is no order to find
    near = cosines.astype(np.float64)
    order = np.argsort(near, axis=0, kind="stable")
    distance = np.mean(np.abs(falling[order] - rising[:, None]) ** p, axis=0)
    mean = near.mean(axis=0)
    known = mean > 0
    similarity[known] = -distance[known] / unordered / mean[known] ** scale_p
    return similarity


def _mean_distance(values: np.ndarray, p: float) -> float:
    """Mean over all pairs of the distance to the power ``p``, a block of rows at a time."""
    rows = max(1, 2**22 // len(values))
    total = sum(
        (np.abs(values[start : start + rows, None] - values) ** p).sum()
        for start in range(0, len(values), rows)
    )
    return total / len(values) ** 2


def cosine(activations: np.ndarray, cosines: np.ndarray) -> np.ndarray:
    """Cosine of a neuron's activations and a concept's cosines over pictures, neither centred.

    A column of zeros, for which the authors' code returns NaN, has the cosine 0 with all.
    """
    _check(activations, cosines)
    least = np.finfo(np.float64).tiny
    return _cosine_of_columns(activations, cosines, lambda values: values, least)


def cosine_cubed(
    activations: np.ndarray, cosines: np.ndarray, *, min_norm: float = 1e-3
) -> np.ndarray:
    """Cosine of the centred and cubed activations and cosines over pictures.

    Lengths below ``min_norm`` count as ``min_norm``, as in the authors' code. Cubes are small (a
    deviation of 0.03 becomes 3e-5), so that with few probe pictures this weakens all values.
    """
    _check(activations, cosines)
    return _cosine_of_columns(
        activations, cosines, lambda values: (values - values.mean(axis=0)) ** 3, min_norm
    )


def _adapt(name: str, function: Callable) -> Callable:
    """Hold what a user's similarity returns against what it must be."""
    require_parameters(function, ("activations", "cosines"))
    for setting in inspect.signature(function).parameters.values():
        if setting.kind == setting.KEYWORD_ONLY and setting.default is setting.empty:
            raise ConsilienceError(f"its setting {setting.name!r} has no default; give it one")

    @wraps(function)
    def checked(activations: np.ndarray, cosines: np.ndarray, **settings) -> np.ndarray:
        _check(activations, cosines)
        found = np.asarray(function(protect(activations), protect(cosines), **settings))
        expected = activations.shape[1], cosines.shape[1]
        if found.shape != expected or not np.issubdtype(found.dtype, np.floating):
            raise ConsilienceError(
                f"the similarity {name!r} returned {found.dtype} of shape {found.shape}, not "
                f"numbers of shape {expected}: (neurons, concepts)"
            )
        if np.isnan(found).any():
            raise ConsilienceError(
                f"the similarity {name!r} returned values that are not numbers; return minus "
                "infinity where a concept cannot label a neuron"
            )
        return found.astype(np.float64, copy=False)

    return checked


SIMILARITIES = Registry(
    "similarity",
    {
        "soft-wpmi": soft_wpmi,
        "wpmi": wpmi,
        "rank-reorder": rank_reorder,
        "cosine": cosine,
        "cosine-cubed": cosine_cubed,
    },
    _adapt,
)
"""The similarity functions by the names that a study gives them."""


def _check(activations: np.ndarray, cosines: np.ndarray) -> None:
    """Refuse matrices that do not belong together or hold anything but numbers."""
    if activations.ndim != 2 or cosines.ndim != 2 or len(activations) != len(cosines):
        raise ConsilienceError(
            "activations (pictures × neurons) and cosines (pictures × concepts) are of the same "
            f"pictures, not of shapes {activations.shape} and {cosines.shape}"
        )
    if not activations.size or not cosines.size:
        raise ConsilienceError("there are no probe pictures, no neurons or no concepts to compare")
    for name, values in (("activations", activations), ("cosines", cosines)):
        if not np.isfinite(values).all():
            raise ConsilienceError(f"the {name} hold values that are not finite")


def _blocks(columns: int) -> Iterator[slice]:
    """Cut columns into slices of a size that fits the cache."""
    return (slice(start, start + _BLOCK) for start in range(0, columns, _BLOCK))


def _cosine_of_columns(activations, cosines, prepare, min_norm) -> np.ndarray:
    """Cosine of each two columns after ``prepare``, in float64."""

    def unit(values: np.ndarray) -> np.ndarray:
        values = prepare(values.astype(np.float64))
        return values / np.maximum(np.linalg.norm(values, axis=0), min_norm)

    neurons = unit(activations).T
    similarity = np.empty((activations.shape[1], cosines.shape[1]))
    for block in _blocks(cosines.shape[1]):
        similarity[:, block] = neurons @ unit(cosines[:, block])
    return similarity


@dataclass(frozen=True)
class Terms:
    """What WPMI and soft-WPMI add up: Σ_r log(weights_r P(c|x_r) + floors_r), less the prior.

    Attributes
    ----------
    weights, floors
        float64, shape (top_k,), positive.
    a
        Inverse temperature of the softmax over concepts.
    lam
        Weight of the prior.
    """

    weights: np.ndarray
    floors: np.ndarray
    a: float
    lam: float

    def __post_init__(self):
        if not self.a > 0:
            raise ConsilienceError(f"the inverse temperature a must be positive, not {self.a}")

    @property
    def top_k(self) -> int:
        return len(self.weights)


def soft_wpmi_terms(
    top_k: int = 100,
    a: float = 10.0,
    lam: float = 1.0,
    p_start: float = 0.998,
    p_end: float = 0.97,
    min_prob: float = 1e-7,
) -> Terms:
    """Return what :func:`soft_wpmi` adds up."""
    if not (0 < p_start <= 1 and 0 <= p_end <= 1):
        raise ConsilienceError(
            f"soft-WPMI needs 0 < p_start <= 1 and 0 <= p_end <= 1, not {p_start} and {p_end}"
        )
    weights = p_start - np.arange(top_k) / top_k * (p_start - p_end)
    return Terms(weights, 1 - weights + _floor(min_prob), a, lam)


def wpmi_terms(top_k: int = 28, a: float = 2.0, lam: float = 0.6, min_prob: float = 1e-7) -> Terms:
    """Return what :func:`wpmi` adds up."""
    return Terms(np.ones(top_k), np.full(top_k, _floor(min_prob)), a, lam)


TERMS = {"soft-wpmi": soft_wpmi_terms, "wpmi": wpmi_terms}
"""The similarities that are sums over a neuron's top pictures, and what makes their terms."""


def _floor(min_prob: float) -> float:
    if not 1e-12 <= min_prob < 1:
        raise ConsilienceError(f"min_prob must lie between 1e-12 and 1, not at {min_prob}")
    return min_prob


class Cosines(Protocol):
    """The cosines of pictures and concepts, wherever they come from."""

    concepts: int
    precision: type

    def block(self, pictures: np.ndarray, columns: slice) -> np.ndarray:
        """Return a copy, shape (pictures, columns), contiguous."""
        ...


class CosineMatrix:
    """Cosines that are held in memory, shape (pictures, concepts)."""

    def __init__(self, cosines: np.ndarray):
        self.values = cosines
        self.concepts = cosines.shape[1]
        self.precision = np.float64 if cosines.dtype == np.float64 else np.float32

    def block(self, pictures: np.ndarray, columns: slice) -> np.ndarray:
        # Columns first: a copy of few of them is all that is then gathered from.
        return self.values[:, columns].astype(self.precision)[pictures]


def scan_concepts(
    cosines: Cosines,
    rankings: Mapping[str, np.ndarray],
    terms: Terms,
    prior_of: Mapping[str, str] | None = None,
) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
    """Work out WPMI or soft-WPMI for several rankings at once, a block of concepts at a time.

    Two identities keep this fast and exact in the cosines' own precision. The factor of rank r is
    weights_r (P + floors_r / weights_r), so that one rank costs a gather, a sum and a product, and
    a group of ranks one logarithm. And each factor is divided by its value at P = 1 / concepts,
    which is the same for all neurons and concepts: what is summed stays near zero instead of
    hundreds below it, where float32 ends at 3e-5 and the differences between concepts would be
    lost when the prior is subtracted. That constant returns in float64 at the end (for
    ``lam`` = 1 it cancels), and sums over groups and all that follows are in float64.

    Parameters
    ----------
    cosines
        Of all pictures that the rankings point at.
    rankings
        By name: integers, shape (neurons, top_k), the pictures that speak for each neuron, the
        strongest first.
    terms
        What is added up.
    prior_of
        For a ranking, the name of the one whose neurons make its prior; by default its own. That
        one must come first.

    Yields
    ------
    tuple
        The block of concepts, and by ranking the similarity, float64, shape (neurons, width).
    """
    prior_of = prior_of or {}
    shifts = terms.floors / terms.weights
    centres = shifts + 1 / cosines.concepts
    plan = _Plan(_group_ranks(shifts), shifts, centres)
    constant = np.log(terms.weights * centres).sum()
    posteriors = _Posteriors(cosines, rankings, terms.a)
    parts = {name: posteriors.cut(ranked) for name, ranked in rankings.items()}
    counted = Progress(cosines.concepts, "concepts")
    for block in _blocks(cosines.concepts):
        priors: dict[str, np.ndarray] = {}
        similarities = {}
        for name, ranked in rankings.items():
            width = min(block.stop, cosines.concepts) - block.start
            logs = np.empty((len(ranked), width))
            for rows, pictures, local in parts[name]:
                _add_logs(logs[rows], posteriors.block(pictures, block), local, plan)
            if name not in prior_of:
                largest = logs.max(axis=0)
                priors[name] = largest + np.log(np.exp(logs - largest).mean(axis=0))
            prior = priors[prior_of.get(name, name)]
            similarities[name] = logs - terms.lam * prior + (1 - terms.lam) * constant
        yield slice(block.start, block.start + width), similarities
        counted.advance(width)


@dataclass(frozen=True)
class _Plan:
    """How the ranks are multiplied up: see :func:`scan_concepts`."""

    groups: list[range]
    shifts: np.ndarray
    centres: np.ndarray


class _Posteriors:
    """P(c|x) of the pictures that rankings point at, a block of concepts at a time."""

    def __init__(self, cosines: Cosines, rankings: Mapping[str, np.ndarray], a: float):
        self.cosines, self.a = cosines, cosines.precision(a)
        used = [np.unique(ranked) for ranked in rankings.values()]
        self.used = np.unique(np.concatenate(used))
        self.highest = np.full((len(self.used), 1), -np.inf, dtype=cosines.precision)
        total = np.zeros((len(self.used), 1))
        for start in range(0, len(self.used), _PICTURES):
            few = slice(start, start + _PICTURES)
            # The largest cosine is not known before all are seen: sums are moved along with it.
            for block in _blocks(cosines.concepts):
                values = cosines.block(self.used[few], block)
                highest = np.maximum(self.highest[few], values.max(axis=1, keepdims=True))
                with np.errstate(under="ignore"):
                    total[few] *= np.exp(np.float64(self.a) * (self.highest[few] - highest))
                self.highest[few] = highest
                total[few] += self._exponentials(values, highest).sum(
                    axis=1, dtype=np.float64, keepdims=True
                )
        self.total = total.astype(cosines.precision)
        self.last: tuple = (None, None, None)

    def cut(self, ranked: np.ndarray) -> list[tuple[slice, np.ndarray, np.ndarray]]:
        """Cut neurons into runs that few enough pictures speak for.

        Each is given by its rows, its pictures (positions in ``used``) and the ranking in terms of
        these, shape (top_k, rows).
        """
        ranked = np.searchsorted(self.used, ranked)
        own = np.unique(ranked)
        if len(own) <= _PICTURES:
            most, pictures_of = _ROWS, lambda _rows: own
        else:
            most, pictures_of = max(1, _PICTURES // ranked.shape[1]), np.unique
        runs = []
        for start in range(0, len(ranked), most):
            rows = slice(start, start + most)
            runs.append((rows, pictures_of(ranked[rows])))
        return [
            (rows, pictures, np.ascontiguousarray(np.searchsorted(pictures, ranked[rows]).T))
            for rows, pictures in runs
        ]

    def block(self, pictures: np.ndarray, columns: slice) -> np.ndarray:
        """P(c|x), shape (pictures, columns); not to be written to."""
        if self.last[0] is not pictures or self.last[1] != columns:
            values = self.cosines.block(self.used[pictures], columns)
            values = self._exponentials(values, self.highest[pictures])
            values /= self.total[pictures]
            self.last = (pictures, columns, values)
        return self.last[2]

    def _exponentials(self, values: np.ndarray, highest: np.ndarray) -> np.ndarray:
        """Softmax without its denominator, in place."""
        values -= highest
        values *= self.a
        return np.exp(values, out=values)


def _add_logs(logs: np.ndarray, posteriors: np.ndarray, ranked: np.ndarray, plan: _Plan) -> None:
    """Write Σ_r log((P + shift_r) / centre_r) into ``logs``, shape (neurons, width)."""
    factor, product = np.empty((2, *logs.shape), dtype=posteriors.dtype)
    precision = posteriors.dtype.type
    logs[:] = 0
    for group in plan.groups:
        # mode="clip" lets numpy write straight into `out`; no index is out of range.
        np.take(posteriors, ranked[group.start], axis=0, out=product, mode="clip")
        product += precision(plan.shifts[group.start])
        for rank in group[1:]:
            np.take(posteriors, ranked[rank], axis=0, out=factor, mode="clip")
            factor += precision(plan.shifts[rank])
            product *= factor
        product *= precision(1 / np.prod(plan.centres[group.start : group.stop]))
        logs += np.log(product, out=product)


def _mutual_information(activations, cosines, terms: Terms) -> np.ndarray:
    """WPMI or soft-WPMI of matrices in memory."""
    _check(activations, cosines)
    ranked = rank_pictures(activations, terms.top_k)
    information = np.empty((activations.shape[1], cosines.shape[1]))
    for block, found in scan_concepts(CosineMatrix(cosines), {"neurons": ranked}, terms):
        information[:, block] = found["neurons"]
    return information


def _group_ranks(shifts: np.ndarray) -> list[range]:
    """Cut ranks into groups whose product of (P + shift) keeps within float32 for any P in [0, 1].

    Float32 ends at 1e-38 and 3e38; 1e±30 leaves room for the division by the centres.
    """
    limit = np.log(1e30)
    groups = []
    start, low, high = 0, 0.0, 0.0
    for rank, shift in enumerate(shifts):
        low, high = low + np.log(shift), high + np.log1p(shift)
        if rank > start and (low < -limit or high > limit):
            groups.append(range(start, rank))
            start, low, high = rank, np.log(shift), np.log1p(shift)
    groups.append(range(start, len(shifts)))
    return groups

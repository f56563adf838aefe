"""How well the activations of a neuron match a concept over the probe pictures.

The functions are those of CLIP-Dissect (Oikarinen and Weng, *CLIP-Dissect: Automatic Description
of Neuron Representations in Deep Vision Networks*, ICLR 2023, section 4 and appendix A), as the
authors' code defines them. All take

- ``activations``: float, shape (pictures, neurons), the pooled activation of each neuron;
- ``cosines``: float, shape (pictures, concepts), the cosine of the CLIP embeddings of each picture
  and concept, the paper's matrix *P*;

and return float64, shape (neurons, concepts): the larger, the better the match. Values compare
within one call only. :data:`SIMILARITIES` lists them by name.

Where pictures activate a neuron equally, the one that comes first in the matrix counts as the
stronger; the authors' code leaves this open.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .errors import ConsilienceError

# Concepts worked on at a time, so that the buffers of some 2,000 neurons stay in the cache.
_BLOCK = 128


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
    if not (0 < p_start <= 1 and 0 <= p_end <= 1):
        raise ConsilienceError(
            f"soft-WPMI needs 0 < p_start <= 1 and 0 <= p_end <= 1, not {p_start} and {p_end}"
        )
    weights = p_start - np.arange(top_k) / top_k * (p_start - p_end)
    return _mutual_information(
        activations, cosines, weights, 1 - weights + min_prob, a=a, lam=lam, min_prob=min_prob
    )


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
    weights = np.ones(top_k)
    return _mutual_information(
        activations, cosines, weights, min_prob * weights, a=a, lam=lam, min_prob=min_prob
    )


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
    similarity = np.full((activations.shape[1], cosines.shape[1]), -np.inf)
    for neuron, pictures in enumerate(rank_pictures(activations, top_k)):
        falling = activations[pictures, neuron].astype(np.float64)
        rising = falling[::-1]
        unordered = np.mean(np.abs(falling[:, None] - falling) ** p)
        if unordered == 0:
            continue  # all equally active: there is no order to find
        near = cosines[pictures].astype(np.float64)
        order = np.argsort(near, axis=0, kind="stable")
        distance = np.mean(np.abs(falling[order] - rising[:, None]) ** p, axis=0)
        mean = near.mean(axis=0)
        known = mean > 0
        similarity[neuron, known] = -distance[known] / unordered / mean[known] ** scale_p
    return similarity


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


SIMILARITIES = {
    "soft-wpmi": soft_wpmi,
    "wpmi": wpmi,
    "rank-reorder": rank_reorder,
    "cosine": cosine,
    "cosine-cubed": cosine_cubed,
}
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


def _mutual_information(activations, cosines, weights, floors, *, a, lam, min_prob) -> np.ndarray:
    """Σ_r log(weights_r P(c|x_r) + floors_r), less ``lam`` times the log of its mean over neurons.

    Two identities keep this fast and exact in the cosines' own precision. The factor of rank r is
    weights_r (P + floors_r / weights_r), so that one rank costs a gather, a sum and a product, and
    a group of ranks one logarithm. And each factor is divided by its value at P = 1 / concepts,
    which is the same for all neurons and concepts: what is summed stays near zero instead of
    hundreds below it, where float32 ends at 3e-5 and the differences between concepts would be
    lost when the prior is subtracted. That constant returns in float64 at the end (for
    ``lam`` = 1 it cancels), and sums over groups and all that follows are in float64.
    """
    _check(activations, cosines)
    if not a > 0:
        raise ConsilienceError(f"the inverse temperature a must be positive, not {a}")
    if not 1e-12 <= min_prob < 1:
        raise ConsilienceError(f"min_prob must lie between 1e-12 and 1, not at {min_prob}")
    concepts = cosines.shape[1]
    neurons = activations.shape[1]
    precision = np.float64 if cosines.dtype == np.float64 else np.float32
    ranked = np.ascontiguousarray(rank_pictures(activations, len(weights)).T)
    shifts = floors / weights
    centres = shifts + 1 / concepts
    groups = _group_ranks(shifts)
    constant = np.log(weights * centres).sum()

    cosines = cosines.astype(precision, copy=False)
    highest = cosines.max(axis=1, keepdims=True)
    total = np.zeros((len(cosines), 1))
    for block in _blocks(concepts):
        total += _exponentials(cosines[:, block], highest, a).sum(
            axis=1, dtype=np.float64, keepdims=True
        )
    total = total.astype(precision)

    information = np.empty((neurons, concepts))
    for block in _blocks(concepts):
        probabilities = _exponentials(cosines[:, block], highest, a)
        probabilities /= total
        width = probabilities.shape[1]
        factor, product = np.empty((2, neurons, width), dtype=precision)
        logs = np.zeros((neurons, width))
        for group in groups:
            # mode="clip" lets numpy write straight into `out`; no index is out of range.
            np.take(probabilities, ranked[group.start], axis=0, out=product, mode="clip")
            product += precision(shifts[group.start])
            for rank in group[1:]:
                np.take(probabilities, ranked[rank], axis=0, out=factor, mode="clip")
                factor += precision(shifts[rank])
                product *= factor
            product *= precision(1 / np.prod(centres[group.start : group.stop]))
            logs += np.log(product, out=product)
        largest = logs.max(axis=0)
        prior = largest + np.log(np.exp(logs - largest).mean(axis=0))
        information[:, block] = logs - lam * prior + (1 - lam) * constant
    return information


def _exponentials(cosines: np.ndarray, highest: np.ndarray, a: float) -> np.ndarray:
    """Softmax without its denominator; ``highest`` is each row's maximum over all concepts."""
    values = cosines - highest
    values *= values.dtype.type(a)
    return np.exp(values, out=values)


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

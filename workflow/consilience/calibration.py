"""What a neuron's label is worth: chance, an untrained network, and pictures it was not made from.

Similarities do not compare between layers, models or probe sets, and every neuron gets a best
concept. A label *stands* if

- so great a similarity is unlikely for a neuron that is independent of the pictures (the p-value of
  the maximum over concepts, adjusted by Benjamini and Hochberg over the layer's neurons). That says
  only that the neuron is not independent of the pictures, not that the word is right;
- it is greater than an untrained network's neurons get, concept by concept: see
  :func:`beat_untrained`;
- on held-out pictures the label's cosines find those that activate the neuron most, better than
  chance (the interval of the AUROC lies above one half) and better than the runner-up's. The
  interval of the difference is not asked for: of two near synonyms neither would stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

UNTRAINED_QUANTILE = 0.95

ACTIVE_SHARE = 0.05
"""Share of the held-out pictures that count as activating a neuron, as in rank reorder."""

DRAWS, LEAST_DRAWS = 20, 2000
"""Draws of the null distribution for each neuron of a layer, and at least."""


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation over neurons of the similarity to each concept.

    Neurons that a similarity is not defined for are left out.
    """

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, similarities: np.ndarray) -> Moments:
        """Take them over the rows of a matrix, shape (neurons, concepts)."""
        known = np.isfinite(similarities)
        count = np.maximum(known.sum(axis=0), 1)
        mean = np.where(known, similarities, 0).sum(axis=0) / count
        spread = np.where(known, similarities - mean, 0)
        return cls(mean, np.sqrt((spread**2).sum(axis=0) / count))

    @classmethod
    def join(cls, blocks: Sequence[Moments]) -> Moments:
        """Put those of blocks of concepts side by side."""
        return cls(
            np.concatenate([block.mean for block in blocks]),
            np.concatenate([block.deviation for block in blocks]),
        )

    def standardize(self, values: np.ndarray, concepts: np.ndarray) -> np.ndarray:
        """Return how many deviations above the mean of its concept each value lies.

        Infinite where all neurons of the moments are equally similar to the concept.
        """
        above = values - self.mean[concepts]
        with np.errstate(divide="ignore", invalid="ignore"):
            standard = above / self.deviation[concepts]
            return np.where(self.deviation[concepts] > 0, standard, np.sign(above) * np.inf)


def beat_untrained(
    values: np.ndarray,
    concepts: np.ndarray,
    moments: Moments,
    untrained: np.ndarray,
) -> np.ndarray:
    """Ask whether labels fit better than an untrained network's neurons would make one expect.

    Random weights already tell dark from bright and smooth from rough, so that some concepts come
    for nothing and others do not. So a neuron's similarity to its label is standardised by the
    untrained neurons' similarities to the same concept, and has to be greater than the
    :data:`UNTRAINED_QUANTILE` of what untrained neurons reach with labels of their own.

    Parameters
    ----------
    values, concepts
        Similarity of each neuron to its label, and the label's index; shape (neurons,).
    moments
        Of the untrained neurons' similarities to all concepts, against the same prior.
    untrained
        The untrained neurons' own labels, standardised likewise against their own prior.
    """
    return moments.standardize(values, concepts) > np.quantile(untrained, UNTRAINED_QUANTILE)


def p_values(observed: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Return the share of draws that reach each value, the value itself counted as one.

    Parameters
    ----------
    observed
        Shape (neurons,).
    null
        Shape (draws,), one distribution for all neurons; or (draws, neurons), one for each.

    Returns
    -------
    numpy.ndarray
        Shape (neurons,), in [1 / (draws + 1), 1].
    """
    if null.ndim == 1:
        reached = len(null) - np.searchsorted(np.sort(null), observed, side="left")
    else:
        reached = (null >= observed).sum(axis=0)
    return (reached + 1) / (len(null) + 1)


def adjust(p: np.ndarray) -> np.ndarray:
    """Adjust p-values so that those below q have a false discovery rate of at most q.

    Benjamini and Hochberg (1995), as SciPy computes it.
    """
    from scipy.stats import false_discovery_control  # here, as its import takes half a second

    return false_discovery_control(p) if len(p) else p


def compare_auroc(
    activations: np.ndarray, label: np.ndarray, runner_up: np.ndarray, confidence: float = 0.95
) -> dict[str, np.ndarray]:
    """Ask how well cosines find the pictures that activate each neuron most.

    Parameters
    ----------
    activations
        Of held-out pictures, shape (pictures, neurons). The :data:`ACTIVE_SHARE` most active (at
        least one; as active ones too) are to be told from the others.
    label, runner_up
        Cosines of the same pictures and each neuron's label and runner-up, same shape.
    confidence
        Of the interval.

    Returns
    -------
    dict
        ``auroc``, ``auroc_low``, ``auroc_high`` and ``runner_up_auroc``, each of shape (neurons,):
        area under the receiver operating characteristic, ties counted half, with an interval that
        is normal on the scale of the logit (Pepe, 2003) by the standard error of DeLong, DeLong
        and Clarke-Pearson (1988); a perfect area has an interval of no width. NaN where all
        pictures are equally active, so that there is nothing to tell apart; the interval also
        where there is one picture only on a side.
    """
    pictures, neurons = activations.shape
    names = ("auroc", "auroc_low", "auroc_high", "runner_up_auroc")
    found = {name: np.full(neurons, np.nan) for name in names}
    if pictures < 2:
        return found
    active = max(1, int(ACTIVE_SHARE * pictures))
    least = np.partition(activations, pictures - active, axis=0)[pictures - active]
    width = ndtri((1 + confidence) / 2)
    for neuron in range(neurons):
        positive = activations[:, neuron] >= least[neuron]
        if positive.all():  # ties reach down to the least active: what is above them is to be found
            positive = activations[:, neuron] > least[neuron]
        if not positive.any():
            continue
        area, error = _auroc(label[:, neuron], positive)
        found["auroc"][neuron] = area
        if 0 < area < 1:
            odds, spread = np.log(area / (1 - area)), width * error / (area * (1 - area))
            found["auroc_low"][neuron] = 1 / (1 + np.exp(spread - odds))
            found["auroc_high"][neuron] = 1 / (1 + np.exp(-spread - odds))
        elif not np.isnan(error):
            found["auroc_low"][neuron] = found["auroc_high"][neuron] = area
        found["runner_up_auroc"][neuron] = _auroc(runner_up[:, neuron], positive)[0]
    return found


def _auroc(scores: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """Area under the curve, and DeLong's standard error (NaN where a side has one picture)."""
    from scipy.stats import rankdata  # likewise

    above, below = scores[positive], scores[~positive]
    ranks = rankdata(np.concatenate([above, below]))
    # Share of the other side that each score wins against.
    wins = (ranks[: len(above)] - rankdata(above)) / len(below)
    losses = 1 - (ranks[len(above) :] - rankdata(below)) / len(above)
    if min(len(above), len(below)) < 2:
        return wins.mean(), np.nan
    variance = wins.var(ddof=1) / len(above) + losses.var(ddof=1) / len(below)
    return wins.mean(), np.sqrt(variance)

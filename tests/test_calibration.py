"""p-values and the area under the curve, against SciPy, scikit-learn and counting."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from consilience.calibration import (
    ACTIVE_SHARE,
    Moments,
    _auroc,
    adjust,
    beat_untrained,
    compare_auroc,
    p_values,
)


def test_p_values_count_the_draws_that_reach_a_value():
    null = np.array([1.0, 2.0, 2.0, 3.0])
    np.testing.assert_allclose(
        p_values(np.array([0.5, 2.0, 2.5, 9.0]), null), [1, 4 / 5, 2 / 5, 1 / 5]
    )
    each = np.array([[1.0, 10.0], [3.0, 20.0]])
    np.testing.assert_allclose(p_values(np.array([2.0, 30.0]), each), [2 / 3, 1 / 3])


def test_adjusted_values_are_benjamini_and_hochbergs():
    p = np.array([0.01, 0.04, 0.03, 0.5])
    # By hand: 0.01·4/1, 0.04·4/3 and 0.03·4/2 (both 0.0533 after taking minima), 0.5.
    np.testing.assert_allclose(adjust(p), [0.04, 0.16 / 3, 0.16 / 3, 0.5])
    assert len(adjust(np.empty(0))) == 0


def test_auroc_equals_scikit_learns():
    rng = np.random.default_rng(0)
    activations = rng.random((200, 6))
    label = np.round(activations + rng.random((200, 6)), 1)  # with ties
    other = rng.random((200, 6))
    found = compare_auroc(activations, label, other)
    for neuron in range(6):
        active = np.argsort(-activations[:, neuron])[: int(200 * ACTIVE_SHARE)]
        positive = np.isin(np.arange(200), active)
        assert found["auroc"][neuron] == pytest.approx(roc_auc_score(positive, label[:, neuron]))
        wanted = roc_auc_score(positive, other[:, neuron])
        assert found["runner_up_auroc"][neuron] == pytest.approx(wanted)


def test_the_interval_covers_the_area_as_often_as_it_says():
    """Normal scores one standard deviation apart have an area of Φ(1/√2) = 0.7602."""
    rng = np.random.default_rng(1)
    neurons = 800
    activations = np.repeat(np.arange(200.0)[:, None], neurons, axis=1)
    scores = rng.standard_normal((200, neurons))
    scores[200 - int(200 * ACTIVE_SHARE) :] += 1
    found = compare_auroc(activations, scores, scores)
    covered = (found["auroc_low"] < 0.7602) & (found["auroc_high"] > 0.7602)
    assert 0.91 < covered.mean() < 0.98
    assert abs(found["auroc"].mean() - 0.7602) < 0.01


def test_what_cannot_be_told_apart_is_missing():
    scores = np.arange(20.0)[:, None]
    found = compare_auroc(np.zeros((20, 1)), scores, scores)
    assert np.isnan(found["auroc"]).all()
    # Two are to be found, but all others than one are tied: that one is.
    scores = np.arange(40.0)[:, None]
    rare = np.zeros((40, 1))
    rare[5] = 1
    found = compare_auroc(rare, scores, -scores)
    assert found["auroc"][0] == pytest.approx(5 / 39)
    assert found["runner_up_auroc"][0] == pytest.approx(34 / 39)
    assert np.isnan(found["auroc_low"][0])
    nothing = np.zeros((0, 3))
    assert np.isnan(compare_auroc(nothing, nothing, nothing)["auroc"]).all()


def test_the_error_of_the_area_is_delongs():
    """By the definition: the variances of each picture's share of wins, over their numbers."""
    rng = np.random.default_rng(2)
    scores = np.round(rng.standard_normal(12), 1)
    positive = np.arange(12) < 5
    wins = (scores[positive][:, None] > scores[~positive]) + 0.5 * (
        scores[positive][:, None] == scores[~positive]
    )
    variance = wins.mean(axis=1).var(ddof=1) / 5 + wins.mean(axis=0).var(ddof=1) / 7
    area, error = _auroc(scores, positive)
    assert area == pytest.approx(wins.mean())
    assert error == pytest.approx(np.sqrt(variance))


def test_moments_leave_out_what_is_not_defined():
    found = Moments.of(np.array([[1.0, 5.0, 2.0], [3.0, -np.inf, 2.0]]))
    np.testing.assert_allclose(found.mean, [2, 5, 2])
    np.testing.assert_allclose(found.deviation, [1, 0, 0])
    standard = found.standardize(np.array([4.0, 6.0]), np.array([0, 1]))
    assert standard.tolist() == [2, np.inf]
    joined = Moments.join([found, found])
    np.testing.assert_allclose(joined.mean, [2, 5, 2, 2, 5, 2])


def test_an_untrained_network_is_beaten_word_by_word():
    """A word that untrained neurons fit anyway asks for more than one that they do not."""
    moments = Moments(np.array([10.0, 0.0]), np.array([2.0, 1.0]))
    untrained = np.linspace(-1, 3, 101)  # its 95th percentile is 2.8
    values = np.array([15.5, 15.7, 2.7, 2.9])
    beats = beat_untrained(values, np.array([0, 0, 1, 1]), moments, untrained)
    assert beats.tolist() == [False, True, False, True]

"""p-values and the area under the curve, against SciPy, scikit-learn and counting."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from consilience.calibration import ACTIVE_SHARE, adjust, compare_auroc, p_values


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
    # Most are tied at the least: the one above them is to be found.
    rare = np.zeros((20, 1))
    rare[5] = 1
    found = compare_auroc(rare, scores, -scores)
    assert found["auroc"][0] == pytest.approx(5 / 19)
    assert found["runner_up_auroc"][0] == pytest.approx(14 / 19)
    assert np.isnan(found["auroc_low"][0])
    assert np.isnan(
        compare_auroc(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 3)))["auroc"]
    ).all()

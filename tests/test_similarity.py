"""Similarity functions against plain float64 definitions and cases worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consilience import similarity
from consilience.errors import ConsilienceError
from consilience.similarity import SIMILARITIES, rank_pictures

# Settings under which 60 pictures are enough.
SMALL = {
    "soft-wpmi": {"top_k": 20},
    "wpmi": {},
    "rank-reorder": {"top_fraction": 0.3},
    "cosine": {},
    "cosine-cubed": {},
}


def features(seed=0, pictures=60, neurons=40, concepts=300, dtype=np.float32):
    """Activations and cosines spread like a large CLIP's, half the neurons tied to a concept."""
    rng = np.random.default_rng(seed)
    cosines = 0.2 + 0.03 * rng.standard_normal((pictures, concepts))
    activations = rng.standard_normal((pictures, neurons))
    tied = rng.integers(concepts, size=neurons // 2)
    activations[:, : neurons // 2] += (cosines[:, tied] - 0.2) / 0.03
    return activations.astype(dtype), cosines.astype(dtype)


# Plain definitions in float64, one neuron after another, of what the authors' code computes.


def softmax(cosines, a):
    powers = np.exp(a * cosines.astype(np.float64))
    return powers / powers.sum(axis=1, keepdims=True)


def strongest(activations, neuron, k):
    return np.argsort(-activations[:, neuron].astype(np.float64), kind="stable")[:k]


def less_prior(logs, lam):
    largest = logs.max(axis=0)
    return logs - lam * (largest + np.log(np.exp(logs - largest).mean(axis=0)))


def plain_soft_wpmi(
    activations, cosines, top_k=100, a=10, lam=1, p_start=0.998, p_end=0.97, min_prob=1e-7
):
    given_picture = softmax(cosines, a)
    p = p_start - np.arange(top_k)[:, None] / top_k * (p_start - p_end)
    logs = [
        np.log(1 + p * (given_picture[strongest(activations, n, top_k)] - 1) + min_prob).sum(axis=0)
        for n in range(activations.shape[1])
    ]
    return less_prior(np.array(logs), lam)


def plain_wpmi(activations, cosines, top_k=28, a=2, lam=0.6, min_prob=1e-7):
    given_picture = softmax(cosines, a)
    logs = [
        np.log(given_picture[strongest(activations, n, top_k)] + min_prob).sum(axis=0)
        for n in range(activations.shape[1])
    ]
    return less_prior(np.array(logs), lam)


def plain_rank_reorder(activations, cosines, p=3, top_fraction=0.05, scale_p=0.5):
    top = int(len(activations) * top_fraction)
    rows = []
    for n in range(activations.shape[1]):
        pictures = strongest(activations, n, top)
        target = activations[pictures, n].astype(np.float64)
        rising = np.sort(target)
        # The authors draw five shuffles; this is the mean of a great many.
        baseline = np.mean([np.abs(rising - np.roll(rising, s)) ** p for s in range(top)])
        ranks = cosines[pictures].argsort(axis=0).argsort(axis=0)
        distance = (np.abs(target[:, None] - rising[ranks]) ** p).mean(axis=0)
        mean = cosines[pictures].astype(np.float64).mean(axis=0)
        rows.append(-distance / baseline / mean**scale_p)
    return np.array(rows)


def plain_cosine(activations, cosines):
    a, c = activations.astype(np.float64), cosines.astype(np.float64)
    return (a / np.linalg.norm(a, axis=0)).T @ (c / np.linalg.norm(c, axis=0))


def plain_cosine_cubed(activations, cosines, min_norm=1e-3):
    a, c = (values.astype(np.float64) for values in (activations, cosines))
    a, c = (a - a.mean(axis=0)) ** 3, (c - c.mean(axis=0)) ** 3
    a, c = (v / np.maximum(np.linalg.norm(v, axis=0), min_norm) for v in (a, c))
    return a.T @ c


PLAIN = {
    "soft-wpmi": plain_soft_wpmi,
    "wpmi": plain_wpmi,
    "rank-reorder": plain_rank_reorder,
    "cosine": plain_cosine,
    "cosine-cubed": plain_cosine_cubed,
}


@pytest.mark.parametrize("name", SIMILARITIES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_the_plain_definition(name, dtype):
    activations, cosines = features(dtype=dtype)
    expected = PLAIN[name](activations, cosines, **SMALL[name])
    found = SIMILARITIES[name](activations, cosines, **SMALL[name])
    assert found.dtype == np.float64
    tolerance = 1e-5 if dtype == np.float32 else 1e-10
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=tolerance)
    clear = np.diff(np.sort(expected, axis=1)[:, -2:]).ravel() > 2 * tolerance
    assert clear.mean() > 0.5
    labels, wanted = found.argmax(axis=1), expected.argmax(axis=1)
    np.testing.assert_array_equal(labels[clear], wanted[clear])


@pytest.mark.parametrize("a", [0.5, 10, 100])
@pytest.mark.parametrize("concepts", [1, 2, 20, 5000])
def test_soft_wpmi_keeps_the_precision_of_the_cosines(a, concepts):
    """At CLIP-Dissect's size, with its defaults, differences below 1e-5 must survive the prior."""
    activations, cosines = features(1, pictures=300, neurons=64, concepts=concepts)
    expected = plain_soft_wpmi(activations, cosines, a=a)
    found = SIMILARITIES["soft-wpmi"](activations, cosines, a=a)
    assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize(
    "setting",
    [
        {"lam": 0},
        {"lam": 0.6},
        {"p_start": 1, "p_end": 1},
        {"p_start": 0.5, "p_end": 0},
        {"p_start": 1, "p_end": 1, "a": 100},
        {"top_k": 1},
        {"top_k": 60},
    ],
)
def test_soft_wpmi_settings(setting):
    setting = {"top_k": 20, **setting}
    activations, cosines = features(2)
    found = SIMILARITIES["soft-wpmi"](activations, cosines, **setting)
    np.testing.assert_allclose(
        found, plain_soft_wpmi(activations, cosines, **setting), rtol=1e-6, atol=1e-5
    )


def test_soft_wpmi_by_hand():
    """Two pictures, two neurons, two concepts; every number can be followed on paper."""
    # exp(10 · 0.1 · ln 3) : exp(0) = 3 : 1, so that P(c|x) is 3/4 and 1/4.
    cosines = np.log(3) / 10 * np.array([[1.0, 0.0], [0.0, 1.0]])
    activations = np.array([[1.0, 0.0], [0.0, 1.0]])
    found = SIMILARITIES["soft-wpmi"](
        activations, cosines, top_k=1, p_start=0.8, p_end=0.8, min_prob=1e-12
    )
    # 1 + 0.8 (3/4 - 1) = 0.8 and 1 + 0.8 (1/4 - 1) = 0.4; their mean over neurons is 0.6.
    expected = np.log([[0.8 / 0.6, 0.4 / 0.6], [0.4 / 0.6, 0.8 / 0.6]])
    np.testing.assert_allclose(found, expected, atol=1e-11)


def test_rank_reorder_by_hand():
    """A concept that sorts as the neuron does has distance 0; one that reverses it the most."""
    activations = np.array([[3.0], [2.0], [1.0], [0.0]])
    cosines = np.array([[0.4, 0.1], [0.3, 0.2], [0.2, 0.3], [0.1, 0.4]])
    found = SIMILARITIES["rank-reorder"](activations, cosines, top_fraction=1, p=1)
    # Reversed: distances 3, 1, 1, 3, mean 2. Any order: mean |i - j| over 16 pairs is 20 / 16.
    np.testing.assert_allclose(found, [[0, -2 / (20 / 16) / 0.5]], atol=1e-12)


def test_rank_reorder_leaves_concepts_without_a_positive_mean_out():
    activations = np.array([[3.0], [2.0], [1.0]])
    cosines = np.array([[0.1, -0.1, 0.1], [0.1, -0.1, -0.1], [0.1, -0.2, 0.0]])
    found = SIMILARITIES["rank-reorder"](activations, cosines, top_fraction=1)
    np.testing.assert_array_equal(np.isneginf(found), [[False, True, True]])


def test_cosine_by_hand():
    activations = np.array([[3.0, 0.0], [4.0, 0.0]])
    cosines = np.array([[1.0, 0.0], [0.0, 0.5]])
    found = SIMILARITIES["cosine"](activations, cosines)
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 0]])


def test_cosine_cubed_by_hand():
    activations = np.array([[1.0], [3.0]])  # centred ±1, cubed ±1
    cosines = np.array([[0.2, 0.9, 0.0], [0.6, 0.1, 0.02]])  # ±0.2, ∓0.4, and ±0.01 below min_norm
    found = SIMILARITIES["cosine-cubed"](activations, cosines)
    np.testing.assert_allclose(found, [[1, -1, np.sqrt(2) * 1e-6 / 1e-3]], rtol=1e-9)


@pytest.mark.parametrize("name", SIMILARITIES)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_order_of_pictures_concepts_and_neurons_is_no_matter(name, seed):
    rng = np.random.default_rng(seed)
    activations, cosines = features(seed, neurons=10, concepts=30, dtype=np.float64)
    found = SIMILARITIES[name](activations, cosines, **SMALL[name])
    pictures, concepts, neurons = (rng.permutation(n) for n in (60, 30, 10))
    moved = SIMILARITIES[name](
        activations[pictures][:, neurons], cosines[pictures][:, concepts], **SMALL[name]
    )
    np.testing.assert_allclose(moved, found[neurons][:, concepts], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", SIMILARITIES)
@pytest.mark.parametrize("block", [1, 7, 1000])
def test_size_of_column_blocks_is_no_matter(name, block, monkeypatch):
    activations, cosines = features(3)
    found = SIMILARITIES[name](activations, cosines, **SMALL[name])
    monkeypatch.setattr(similarity, "_BLOCK", block)
    again = SIMILARITIES[name](activations, cosines, **SMALL[name])
    np.testing.assert_allclose(again, found, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_inputs_are_left_as_they_are(name):
    activations, cosines = features(4)
    before = activations.copy(), cosines.copy()
    SIMILARITIES[name](activations, cosines, **SMALL[name])
    np.testing.assert_array_equal(activations, before[0])
    np.testing.assert_array_equal(cosines, before[1])


@given(
    values=st.lists(st.integers(-3, 3), min_size=1, max_size=30),
    top_k=st.integers(1, 30),
)
def test_ranking_is_a_stable_sort(values, top_k):
    top_k = min(top_k, len(values))
    found = rank_pictures(np.array(values, dtype=np.float32)[:, None], top_k)
    wanted = sorted(range(len(values)), key=lambda index: (-values[index], index))[:top_k]
    assert found.tolist() == [wanted]


@pytest.mark.parametrize("name", SIMILARITIES)
def test_bad_input_is_refused(name):
    activations, cosines = features()
    with pytest.raises(ConsilienceError, match="same pictures"):
        SIMILARITIES[name](activations[:-1], cosines)
    with pytest.raises(ConsilienceError, match="no concepts"):
        SIMILARITIES[name](activations, cosines[:, :0])
    cosines[0, 0] = np.nan
    with pytest.raises(ConsilienceError, match="cosines hold values that are not finite"):
        SIMILARITIES[name](activations, cosines)


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        ("soft-wpmi", {}, "the 100 most activating pictures .* 60 probe pictures"),
        ("soft-wpmi", {"top_k": 0}, "top_k"),
        ("soft-wpmi", {"top_k": 9, "p_start": 0}, "p_start"),
        ("soft-wpmi", {"top_k": 9, "a": 0}, "positive"),
        ("soft-wpmi", {"top_k": 9, "min_prob": 0}, "min_prob"),
        ("wpmi", {"top_k": 61}, "61 most"),
        ("rank-reorder", {"top_fraction": 0.02}, "fewer than two"),
    ],
)
def test_bad_settings_are_refused(name, setting, message):
    with pytest.raises(ConsilienceError, match=message):
        SIMILARITIES[name](*features(), **setting)


def test_rankings_are_held_against_the_prior_that_they_are_given():
    activations, cosines = features(2, pictures=80, neurons=30, concepts=150)
    others, _ = features(3, pictures=80, neurons=20)
    ranked = {"own": rank_pictures(activations, 20)}
    ranked |= dict.fromkeys(("foreign", "free"), rank_pictures(others, 20))
    terms = similarity.soft_wpmi_terms(top_k=20)
    found = {name: np.empty((len(rows), 150)) for name, rows in ranked.items()}
    cosines_ = similarity.CosineMatrix(cosines)
    for block, values in similarity.scan_concepts(cosines_, ranked, terms, {"foreign": "own"}):
        for name, part in values.items():
            found[name][:, block] = part
    for name, of in (("own", activations), ("free", others)):
        wanted = plain_soft_wpmi(of, cosines, top_k=20)
        np.testing.assert_allclose(found[name], wanted, atol=1e-5)
    together = plain_soft_wpmi(np.hstack([activations, others]), cosines, top_k=20, lam=0)
    prior = np.log(np.exp(together[:30]).mean(axis=0))
    np.testing.assert_allclose(found["foreign"], together[30:] - prior, atol=1e-5)

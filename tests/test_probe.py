"""What is kept of a probe set that does not fit memory."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consilience import probe
from consilience.errors import ConsilienceError
from consilience.probe import (
    ColumnStore,
    ProbeSet,
    RowStore,
    TopPictures,
    draw_weights,
    keys_of,
    sample,
)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(1, 30), min_size=1, max_size=6),
    st.integers(1, 25),
    st.integers(1, 4),
)
def test_top_pictures_are_the_first_of_all_sorted(seed, sizes, depth, values):
    """Merged chunk by chunk, with ties galore, split in two or not."""
    rng = np.random.default_rng(seed)
    total = sum(sizes)
    activations = rng.integers(values, size=(total, 3)).astype(np.float32)
    keys = rng.permutation(total).astype(np.uint64)
    whole, halves = TopPictures(depth), (TopPictures(depth), TopPictures(depth))
    start = 0
    for turn, size in enumerate(sizes):
        rows = np.arange(start, start + size)
        whole.add(activations[rows], keys[rows], rows)
        halves[turn % 2].add(activations[rows], keys[rows], rows)
        start += size
    wanted = [np.lexsort((keys, -activations[:, n]))[:depth] for n in range(3)]
    np.testing.assert_array_equal(whole.pictures, wanted)
    np.testing.assert_array_equal(halves[0].merge(halves[1]).pictures, wanted)


def test_keys_depend_on_names_alone_and_spread_evenly():
    names = [f"folder/{n}.jpg" for n in range(4000)]
    keys = keys_of(names)
    assert keys[7] == keys_of(["folder/7.jpg"])[0]
    parts = ProbeSet([], [], held_out=0.25).parts(keys)
    shares = np.bincount(parts, minlength=3) / len(parts)
    np.testing.assert_allclose(shares, [0.375, 0.375, 0.25], atol=0.03)
    assert set(ProbeSet([], []).parts(keys)) == {0, 1}


def test_a_sample_keeps_its_pictures_when_others_are_added(monkeypatch):
    monkeypatch.setattr(probe, "_SPLIT", 64)
    keys = keys_of([str(n) for n in range(1000)])
    probes = ProbeSet([], [], held_out=0.3)
    few = sample(keys[:500], probes.labels, 100)
    many = sample(keys, probes.labels, 100)
    assert probes.labels(keys[many]).all()
    assert len(few) == len(many) == 100
    assert (np.diff(few) > 0).all()
    # Those of the first half that are still chosen were chosen before.
    assert set(many[many < 500]) <= set(few)
    # They come from everywhere, and from both halves.
    assert many[0] < 100
    assert many[-1] > 900
    assert 25 < (probes.parts(keys[many]) == 0).sum() < 75
    tested = np.flatnonzero(probes.tests(keys))
    np.testing.assert_array_equal(sample(keys, probes.tests, 1000), tested)
    assert probes.count_labelling(keys) == 1000 - len(tested)


def test_weights_are_poisson_and_independent():
    keys = keys_of([str(n) for n in range(20000)])
    first, second = (draw_weights(keys, resample) for resample in (0, 1))
    for weights in (first, second):
        assert abs(weights.mean() - 1) < 0.04
        assert abs(weights.var() - 1) < 0.06
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.04
    np.testing.assert_array_equal(draw_weights(keys[50:60], 1), second[50:60])
    # The half that a picture falls in says nothing of how often it is drawn.
    half = ProbeSet([], []).parts(keys)
    assert abs(np.corrcoef(half, first)[0, 1]) < 0.04


def test_stores_give_back_what_was_written():
    rng = np.random.default_rng(0)
    rows = rng.random((100, 7), dtype=np.float32)
    with RowStore() as store, ColumnStore() as columns:
        for part in np.split(rows, [10, 11, 60]):
            store.append(part)
            columns.append(part)
        numbers = rng.integers(100, size=30)
        np.testing.assert_array_equal(store.read(numbers), rows[numbers])
        for column in range(7):
            np.testing.assert_array_equal(columns.read(column), rows[:, column])
        with pytest.raises(ConsilienceError, match="7 and 3 elements"):
            store.append(rows[:, :3])

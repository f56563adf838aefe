"""Numbers of several nets taken together."""

import numpy as np
import pytest
from scipy import stats

from consilience.replication import DIFFERENCE, Estimate, estimate, family_of, gather, say_scope


def test_the_interval_is_over_nets():
    found = estimate([0.2, 0.4, 0.6, None], DIFFERENCE)
    expected = stats.ttest_1samp([0.2, 0.4, 0.6], 0).confidence_interval(0.95)
    assert found.value == pytest.approx(0.4)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.seeds == 3
    assert found.over_seeds
    # No share is below nothing.
    assert estimate([0.2, 0.4, 0.6]) == Estimate(found.value, 0, found.high, 3)
    assert estimate([0.8, 1, 1]).high == 1


@pytest.mark.parametrize("values", [[], [None], [0.5], [0.5, 0.7]])
def test_few_nets_make_no_claim(values):
    found = estimate(values)
    assert (found.low, found.high) == (None, None)
    assert not found.over_seeds
    assert found.value == (np.mean([v for v in values if v]) if any(values) else None)


def test_pictures_are_nested_in_nets():
    families = family_of(
        [{"name": "a", "family": "f"}, {"name": "b", "family": "f"}, {"name": "c"}]
    )
    rows = [{"model": "a", "m": "x", "v": 1.0}] * 99 + [{"model": "b", "m": "x", "v": 0.0}]
    rows += [{"model": "c", "m": "x", "v": None}, {"model": "a", "m": "y", "v": 3.0}]
    found = gather(rows, families, "v", "m")
    # A net counts once, however many pictures it has.
    assert found["f", "x"].value == 0.5
    assert found["f", "x"].seeds == 2
    assert found["f", "y"].value == 3
    assert found["c", "x"].value is None
    assert list(found) == [("f", "x"), ("c", "x"), ("f", "y")]


def test_what_is_said_says_of_how_many_nets():
    assert [say_scope(n) for n in (1, 2, 3)] == [
        "of this one net",
        "of these 2 nets",
        "over 3 training seeds",
    ]

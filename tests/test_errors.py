import re

import pytest

from consilience.errors import printable, shown


def bomb(kind, levels):
    """Ten of ten of ten …: small in memory, endless when written out."""
    value = kind([0])
    for _ in range(levels):
        value = kind([value] * 10)
    return value


def deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


def endless():
    value = []
    value.append(value)
    return value


SHOWN = [
    ("abc", "'abc'"),
    ({"a": [1, 2.5, None]}, "{'a': [1, 2.5, None]}"),
    ("x" * 100_000, "'" + "x" * 56 + "..."),
    (list(range(50)), "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16..."),
    (list(range(500)), "a list too large to show"),
    (bomb(list, 30), "a list too large to show"),
    (bomb(tuple, 30), "a tuple too large to show"),
    ({"a": bomb(list, 30)}, "a dict too large to show"),
    (deep(100_000), "a list too large to show"),
    (endless(), "a list too large to show"),
    (10**5000, "an int too large to show"),
    ([-(10**5000)], "a list too large to show"),
    (re.compile("x"), "a Pattern"),
    ([re.compile("x")], "a list"),
]


@pytest.mark.parametrize(("value", "said"), SHOWN, ids=range(len(SHOWN)))
def test_a_value_is_shown_at_a_cost_that_has_a_bound(value, said):
    assert shown(value) == said


def test_a_name_is_on_one_line():
    assert printable('a b\'s "é".png') == 'a b\'s "é".png'
    assert printable("a\nb\u202e\x07.png") == "a\\nb\\u202e\\x07.png"
    # A byte that is not UTF-8, as Python has it.
    assert printable("caf\udce9.png") == "caf\\udce9.png"

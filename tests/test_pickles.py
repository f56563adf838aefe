"""Pickles of strangers: what is plain is built; nothing is executed or copied without end."""

import collections
import datetime
import io
import os
import pickle
import subprocess
import sys

import pytest

from consilience import pickles
from consilience.errors import ConsilienceError

PLAIN = {
    "a": [1, -(2**70), 2.5, True, None, "é", b"\x00\xff", (), (1, "b"), {1: {2: 3}}],
    "b": [{1, 2}, frozenset(["x"]), [[]], {}, {("a", 1): 0, None: 1, 2.5: 2}],
}


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_come_back(protocol, tmp_path):
    values = PLAIN if protocol >= 4 else {"a": PLAIN["a"][:6]}  # sets and bytes were calls before
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(values, protocol=protocol))
    assert pickles.load_plain(tmp_path / "p.pkl") == values


class Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def build(*operations):
    return b"\x80\x04" + b"".join(operations) + b"."


DEEP = b")" + b"\x85" * 100_000


REFUSED = [
    (pickle.dumps(Call(os.system, "true")), rf"refers to {os.name}\.system"),
    (pickle.dumps([Call(eval, "1")]), r"refers to builtins\.eval"),
    (pickle.dumps({"a": collections.OrderedDict()}), r"refers to collections\.OrderedDict"),
    (pickle.dumps(datetime.date(2024, 1, 1)), r"refers to datetime\.date"),
    (b"cos\nsystem\n(S'true'\ntR.", r"refers to os\.system"),
    (b"(S'true'\nios\nsystem\n.", "an operation that no plain values need"),
    (b"(cos\nsystem\nS'true'\no.", r"refers to os\.system"),
    (b"S'x'\n\x82\x01.", "an operation that no plain values need"),
    (build(b"K\x01)R"), "not callable"),
    (build(b"]", b"K\x01", b"R"), "its calls have no arguments"),
    (build(b"K\x01)\x81"), "wants to make an object"),
    (build(b"]}b"), "wants to set the state of a list"),
    # A bytearray of a thousand million bytes that are not there.
    (build(b"\x96\x00\xca\x9a;\x00\x00\x00\x00"), "an operation that no plain values"),
    (build(b"\x97"), "an operation that no plain values need"),
    (build(b"}", DEEP, b"K\x01s"), "wants a tuple as a key"),
    (build(b"}(", DEEP, b"K\x01u"), "wants a tuple as a key"),
    (build(b"(", DEEP, b"K\x01d"), "wants a tuple as a key"),
    (build(b"(", DEEP, b"\x91"), "wants a tuple as a key"),
    (build(b"\x8f(", DEEP, b"\x90"), "wants a tuple as a key"),
    (build(b"}]K\x01s"), "wants a list as a key"),
    (build(b"]K\x00K\x01s"), "takes a list for a dict"),
    (build(b"}K\x00a"), "takes a dict for a list"),
    (build(b"P1\n"), "something outside it"),
    (b"", "it is cut short"),
    (b"no pickle", "it is no pickle, or a broken one"),
    (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f", "it is cut short"),
    (b"I" + b"9" * 5000 + b"\n.", "digits"),
    (b"\x80\x63.", "unsupported pickle protocol: 99"),
]


@pytest.mark.parametrize(("content", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_all_else_is_refused(tmp_path, content, said):
    path = tmp_path / "p.pkl"
    path.write_bytes(content)
    with pytest.raises(ConsilienceError, match=said) as caught:
        pickles.load_plain(path)
    assert str(caught.value).startswith(f"{path}: not a pickle of built-in types only (")
    assert "\n" not in str(caught.value)


def test_every_truncation_is_a_declared_error(tmp_path):
    whole = pickle.dumps(PLAIN)
    for length in range(len(whole)):
        (tmp_path / "p.pkl").write_bytes(whole[:length])
        with pytest.raises(ConsilienceError):
            pickles.load_plain(tmp_path / "p.pkl")


def test_what_is_refused_would_have_crashed(tmp_path):
    """Python's own unpicklers follow the tuples until the stack overflows."""
    path = tmp_path / "p.pkl"
    path.write_bytes(build(b"}", b")", DEEP[1:] * 10, b"K\x01s"))
    command = f"import pickle; pickle.load(open({str(path)!r}, 'rb'))"
    assert subprocess.run([sys.executable, "-c", command]).returncode < 0


def test_copies_without_end_are_refused(monkeypatch):
    class Copies(pickles.PlainUnpickler):
        def find_class(self, module, name):
            return tuple

    monkeypatch.setattr(pickles, "_MOST_COPIED", 1000)
    copy = b"h\x00h\x01\x85R"
    start = b"cx\ny\n\x94](" + b"N" * 100 + b"e\x94"
    few, many = (build(start, copy * count) for count in (9, 11))
    assert Copies(io.BytesIO(few)).load() == (None,) * 100
    with pytest.raises(pickle.UnpicklingError, match="copies without end"):
        Copies(io.BytesIO(many)).load()

"""Pickles of strangers: plain values are built, and nothing in them is executed.

Python's own unpickler and not C's, whose memory a file of a few bytes can make grow without bound
(its memo is an array). What could still harm is refused too: a key of many tuples within tuples,
which hashing follows until the stack overflows, or for ever; containers copied again and again.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import BinaryIO, ClassVar

from .errors import ConsilienceError, printable
from .files import read_file

LARGEST = 2**28
"""Bytes of a pickle of plain values."""
_MOST_COPIED = 100_000_000
_SCALARS = (str, int, float, bool, bytes, type(None))
_SIZED = (str, bytes, list, tuple, dict, set, frozenset)


def reason(error: Exception) -> str:
    """Say an exception in one line."""
    lines = str(error).strip().splitlines()
    text = printable(lines[0]) if lines else type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


def check_key(key: object) -> None:
    """Raise unless a key of a mapping, or an item of a set, is quickly hashed."""
    parts = key if type(key) is tuple else (key,)
    if not all(type(part) in _SCALARS for part in parts):
        raise pickle.UnpicklingError(f"it wants a {type(key).__name__} as a key: refused")


class PlainUnpickler(pickle._Unpickler):
    """Builds numbers, text, bytes, lists, tuples, sets and mappings; looks nothing up.

    A subclass says in :meth:`find_class` what else may be built, and in ``stateful`` which of its
    types may be given a state.
    """

    stateful: tuple[type, ...] = ()
    dispatch: ClassVar = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: BinaryIO, encoding: str = "ASCII"):
        super().__init__(file, encoding=encoding)
        self._copied = 0

    def load(self):
        try:
            return super().load()
        except EOFError:
            raise pickle.UnpicklingError("it is cut short") from None
        except KeyError as error:
            if error.args and isinstance(error.args[0], int):  # an operation that there is not
                raise pickle.UnpicklingError("it is no pickle, or a broken one") from None
            raise

    def find_class(self, module: str, name: str):
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")

    def persistent_load(self, identifier):
        raise pickle.UnpicklingError("it refers to something outside it")

    def _spend(self, arguments) -> None:
        """Count what calls copy; a file of little size could ask for copies without end."""
        if type(arguments) is not tuple:
            raise pickle.UnpicklingError("its calls have no arguments")
        self._copied += sum(len(a) for a in arguments if isinstance(a, _SIZED))
        if self._copied > _MOST_COPIED:
            raise pickle.UnpicklingError("it copies without end: refused")

    def load_reduce(self):
        self._spend(self.stack[-1])
        super().load_reduce()

    def load_newobj(self):
        self._spend(self.stack[-1])
        if not any(self.stack[-2] is kind for kind in self.stateful):
            raise pickle.UnpicklingError("it wants to make an object: refused")
        super().load_newobj()

    def load_build(self):
        if not isinstance(self.stack[-2], self.stateful):
            kind = type(self.stack[-2]).__name__
            raise pickle.UnpicklingError(f"it wants to set the state of a {kind}: refused")
        super().load_build()

    def load_append(self):
        self._expect(self.stack[-2], list)
        super().load_append()

    def load_appends(self):
        self._expect(self.metastack[-1][-1], list)
        super().load_appends()

    def load_setitem(self):
        self._expect(self.stack[-3], dict)
        check_key(self.stack[-2])
        super().load_setitem()

    def load_setitems(self):
        self._expect(self.metastack[-1][-1], dict)
        self._check_keys(self.stack[::2])
        super().load_setitems()

    def load_dict(self):
        self._check_keys(self.stack[::2])
        super().load_dict()

    def load_additems(self):
        self._expect(self.metastack[-1][-1], set)
        self._check_keys(self.stack)
        super().load_additems()

    def load_frozenset(self):
        self._check_keys(self.stack)
        super().load_frozenset()

    def load_refused(self):
        raise pickle.UnpicklingError("it uses an operation that no plain values need: refused")

    @staticmethod
    def _check_keys(keys) -> None:
        for key in keys:
            check_key(key)

    @staticmethod
    def _expect(target, kind: type) -> None:
        if not isinstance(target, kind):
            said = f"it takes a {type(target).__name__} for a {kind.__name__}"
            raise pickle.UnpicklingError(said)

    for _code, _load in (
        (pickle.REDUCE, load_reduce),
        (pickle.NEWOBJ, load_newobj),
        (pickle.BUILD, load_build),
        (pickle.APPEND, load_append),
        (pickle.APPENDS, load_appends),
        (pickle.SETITEM, load_setitem),
        (pickle.SETITEMS, load_setitems),
        (pickle.DICT, load_dict),
        (pickle.ADDITEMS, load_additems),
        (pickle.FROZENSET, load_frozenset),
        # A bytearray is made as long as the file says before a byte of it is read.
        (pickle.BYTEARRAY8, load_refused),
        (pickle.INST, load_refused),
        (pickle.OBJ, load_refused),
        (pickle.NEWOBJ_EX, load_refused),
        (pickle.EXT1, load_refused),
        (pickle.EXT2, load_refused),
        (pickle.EXT4, load_refused),
        (pickle.NEXT_BUFFER, load_refused),
        (pickle.READONLY_BUFFER, load_refused),
    ):
        dispatch[_code[0]] = _load
    del _code, _load


def load_plain(path: str | Path):
    """Return what a pickle of plain values holds.

    Raises
    ------
    ConsilienceError
        If it cannot be read, is no pickle, is cut short, or holds anything else.
    """
    data = read_file(path, LARGEST)
    try:
        return PlainUnpickler(io.BytesIO(data)).load()
    except Exception as error:  # a broken pickle raises all kinds
        raise ConsilienceError(
            f"{printable(path)}: not a pickle of built-in types only ({reason(error)}); export it "
            "again"
        ) from None

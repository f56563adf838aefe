"""Read tensors from files of PyTorch without executing anything that is in them.

Not by ``torch.load(weights_only=True)``: it refuses files that nothing is wrong with (of Python 2,
with strings in Latin-1 or long ones; with a number of NumPy's or the command line's options beside
the weights), and a file of a megabyte can crash it (:mod:`consilience.pickles` says by what). Read
here are zip files and what came before them, and archives of TorchScript, such as OpenAI's CLIPs,
whose code is left alone and whose tensors are taken.
"""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import torch

from .errors import ConsilienceError, printable, shown
from .pickles import PlainUnpickler, check_key, reason

_MAGIC = 0x1950A86A20F9469CFC6C  # torch/serialization.py
_MOST_NAMES = 1_000_000
_CHUNK = 1 << 22
# A tensor may show elements of its storage many times over, up to this number.
_MOST_REPEATED = 1 << 20
_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}


class _Plain(dict):
    """A mapping whose attributes (an OrderedDict's metadata) are left out."""

    def __init__(self, pairs=()):
        pairs = list(pairs)
        for key, _value in pairs:
            check_key(key)
        super().__init__(pairs)

    def __setstate__(self, state):
        pass


class _Ignored:
    """Stands for a value that is no tensor and that nobody needs."""

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass


class _Module:
    """A module of TorchScript: its attributes and none of its code."""

    def __init__(self, *args):
        self.attributes: Mapping = {}

    def __setstate__(self, state):
        if isinstance(state, Mapping):
            self.attributes = state


def _rebuild_tensor(
    storage: torch.Tensor, offset: int, size: tuple, stride: tuple, *_rest
) -> torch.Tensor:
    if not isinstance(storage, torch.Tensor):
        raise pickle.UnpicklingError("a tensor has no storage")
    # Of a storage that is a view of another, the offset counts from where the view begins.
    tensor = torch.as_strided(
        storage, tuple(size), tuple(stride), storage.storage_offset() + offset
    )
    if tensor.numel() > max(storage.numel(), _MOST_REPEATED):  # with a stride of 0
        raise pickle.UnpicklingError("a tensor is much larger than its storage: refused")
    return tensor


def _rebuild_untyped(storage, offset, size, stride, grad, hooks, dtype, *_rest) -> torch.Tensor:
    """Rebuild a tensor of a type that has no storages of its own, such as uint16."""
    return _rebuild_tensor(storage.view(dtype), offset, size, stride)


def _rebuild_subclass(function, _type, arguments, _state):
    """Rebuild a tensor that has attributes, without these."""
    if function not in (_rebuild_tensor, _rebuild_untyped, _first):
        raise pickle.UnpicklingError("a tensor is made in a way of its own: refused")
    return function(*arguments)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1")  # how Python 3 writes bytes for Python 2


def _first(value, *_rest):
    return value


def _make_set(items=()) -> set:
    for item in items:
        check_key(item)
    return set(items)


_KNOWN = {
    "collections.OrderedDict": _Plain,
    "builtins.set": _make_set,
    "_codecs.encode": _encode,
    "torch.Size": tuple,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_untyped,
    "torch._tensor._rebuild_from_type_v2": _rebuild_subclass,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch.Tensor": _Ignored,
    "torch.nn.parameter.Parameter": _Ignored,
    "torch.jit._pickle.build_intlist": _first,
    "torch.jit._pickle.build_doublelist": _first,
    "torch.jit._pickle.build_boollist": _first,
    "torch.jit._pickle.build_tensorlist": _first,
    "torch.jit._pickle.restore_type_tag": _first,
    "torch.device": _Ignored,
    "argparse.Namespace": _Ignored,
    "numpy.dtype": _Ignored,
    "numpy.core.multiarray.scalar": _Ignored,
    "numpy._core.multiarray.scalar": _Ignored,
}


class _Unpickler(PlainUnpickler):
    """Builds tensors and plain containers, and refuses all else by name.

    Parameters
    ----------
    file
        What to read.
    storage
        Returns the flat tensor of a storage: its key, type and number of elements.
    modules
        Whether modules of TorchScript may be there.
    """

    stateful = (_Plain, _Ignored, _Module)

    def __init__(
        self,
        file: BinaryIO,
        storage: Callable[[str, torch.dtype, int], torch.Tensor] | None = None,
        modules: bool = False,
    ):
        super().__init__(file, encoding="latin1")
        self._storage, self._modules = storage, modules

    def find_class(self, module: str, name: str):
        module = "builtins" if module == "__builtin__" else module  # Python 2's name
        full = f"{module}.{name}"
        if full in _KNOWN:
            return _KNOWN[full]
        if name in _DTYPES and module.split(".")[0] == "torch":
            return _DTYPES[name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if self._modules and module.split(".")[0] == "__torch__":
            return _Module
        raise pickle.UnpicklingError(f"it wants to use {full}, which no weights need: refused")

    def persistent_load(self, identifier):
        if self._storage is None or not isinstance(identifier, tuple) or len(identifier) < 5:
            raise pickle.UnpicklingError("it refers to something that is no storage")
        kind, dtype, key, _place, count, *view = identifier
        if type(kind) is not str or kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"it refers to a {shown(kind)}, not to a storage: refused")
        if type(key) not in (str, int) or type(count) is not int or count < 0:
            raise pickle.UnpicklingError("it refers to a storage by what is no name")
        flat = self._storage(str(key), dtype, count)
        if flat.dtype != dtype or len(flat) != count:
            raise pickle.UnpicklingError("a storage has not the length that it says, or two types")
        if view and view[0] is not None:
            _key, offset, length = view[0]
            flat = flat[offset : offset + length]
        return flat


def is_archive(path: str | Path) -> bool:
    """Say whether a file is an archive of TorchScript."""
    try:
        with zipfile.ZipFile(path) as file:
            return any(PurePosixPath(name).name == "constants.pkl" for name in file.namelist())
    except Exception:  # zipfile raises all kinds; whoever reads it says what is wrong
        return False


def load_checkpoint(path: str | Path):
    """Return what a file of ``torch.save`` holds: tensors, numbers, strings, containers.

    Raises
    ------
    ConsilienceError
        If it cannot be read, or holds anything that would have to be executed: names it.
    """
    try:
        with open(path, "rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"
        return _load_zip(path) if zipped else _load_legacy(path)
    except Exception as error:  # zip, pickle and struct all raise their own
        raise _unreadable(path, error) from None


def _unreadable(path: str | Path, error: Exception) -> ConsilienceError:
    return ConsilienceError(f"{printable(path)}: not a readable checkpoint ({reason(error)})")


def read_archive(path: str | Path) -> dict[str, torch.Tensor]:
    """Return the tensors of an archive of TorchScript by their names.

    Parameters and buffers, and tensors that are plain attributes too: the archive does not always
    tell them apart. Constants that its code uses are no part of it.

    Raises
    ------
    ConsilienceError
        If it cannot be read, or holds anything but modules, tensors and plain values.
    """
    try:
        top = _load_zip(path, modules=True)
        if not isinstance(top, _Module):
            raise pickle.UnpicklingError("it holds no module")
        state: dict[str, torch.Tensor] = {}
        seen, waiting = 0, [("", top)]
        while waiting:
            prefix, module = waiting.pop()
            for name, value in module.attributes.items():
                seen += 1
                if seen > _MOST_NAMES:  # modules within themselves
                    raise pickle.UnpicklingError("its modules have no end")
                if isinstance(value, torch.Tensor):
                    state[f"{prefix}{name}"] = value
                elif isinstance(value, _Module):
                    waiting.append((f"{prefix}{name}.", value))
    except Exception as error:
        raise _unreadable(path, error) from None
    return dict(sorted(state.items()))


def _load_zip(path: str | Path, modules: bool = False):
    """Read a zip file of ``torch.save``, or the modules of one of TorchScript."""
    left = os.path.getsize(path)
    with zipfile.ZipFile(path) as file:
        (top,) = {PurePosixPath(name).parts[0] for name in file.namelist()}
        known: dict[str, torch.Tensor] = {}

        def find(name: str) -> zipfile.ZipInfo:
            nonlocal left
            info = file.getinfo(f"{top}/{name}")
            if info.compress_type != zipfile.ZIP_STORED:  # torch never packs
                raise pickle.UnpicklingError("its parts are packed: refused")
            left -= info.file_size
            if left < 0:  # parts of the archive lie over one another
                raise pickle.UnpicklingError("its parts are larger than the file")
            return info

        def storage(key: str, dtype: torch.dtype, count: int) -> torch.Tensor:
            if key not in known:
                info = find(f"data/{key}")
                if info.file_size != count * dtype.itemsize:
                    raise pickle.UnpicklingError("a storage has not the length that it says")
                known[key] = torch.empty(count, dtype=dtype)
                with file.open(info) as content:
                    _fill(known[key], content)
            return known[key]

        if f"{top}/byteorder" in file.namelist() and file.read(find("byteorder")) != b"little":
            raise pickle.UnpicklingError("it is big-endian, which is not supported")
        with file.open(find("data.pkl")) as content:
            return _Unpickler(content, storage, modules).load()


def _fill(flat: torch.Tensor, file: BinaryIO) -> None:
    """Read the elements of a storage."""
    rest = memoryview(flat.view(torch.uint8).numpy()) if len(flat) else b""
    while rest:
        if not (data := file.read(min(len(rest), _CHUNK))):
            raise pickle.UnpicklingError("a storage has not the length that it says")
        rest[: len(data)] = data
        rest = rest[len(data) :]


def _load_legacy(path: str | Path):
    """Read a file as PyTorch wrote them before 1.6: pickles, and the storages after them."""
    left = Path(path).stat().st_size
    known: dict[str, torch.Tensor] = {}

    def storage(key: str, dtype: torch.dtype, count: int) -> torch.Tensor:
        nonlocal left
        if key not in known:
            if count * dtype.itemsize > left:
                raise pickle.UnpicklingError("a storage is larger than the file")
            left -= count * dtype.itemsize
            known[key] = torch.zeros(count, dtype=dtype)
        return known[key]

    with open(path, "rb") as file:
        if _Unpickler(file).load() != _MAGIC:
            raise pickle.UnpicklingError("it is a pickle, but none of PyTorch's")
        _Unpickler(file).load()  # the format's number
        system = _Unpickler(file).load()
        if isinstance(system, Mapping) and not system.get("little_endian", True):
            raise pickle.UnpicklingError("it is big-endian, which is not supported")
        content = _Unpickler(file, storage).load()
        unread = set(known)
        for key in _Unpickler(file).load():
            check_key(key)
            flat = known[str(key)]
            (count,) = struct.unpack("<q", file.read(8))
            if count != len(flat):
                raise pickle.UnpicklingError("a storage has not the length that it says")
            _fill(flat, file)
            unread.discard(str(key))
        if unread:
            raise pickle.UnpicklingError(f"its storage {sorted(unread)[0]} is missing")
    return content

"""Read tensors from files of PyTorch without executing anything that is in them.

``torch.load(weights_only=True)`` does most of it. What it refuses although nothing is wrong with it
is read here: files that Python 2 wrote, with strings in Latin-1 or long ones; checkpoints with a
number of NumPy's or the command line's options beside the weights; archives of TorchScript, such
as OpenAI's CLIPs, whose code is left alone and whose tensors are taken.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO, ClassVar

import torch

from .errors import ConsilienceError

_MAGIC = 0x1950A86A20F9469CFC6C  # torch/serialization.py
_MOST_NAMES = 1_000_000
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
}


class _Plain(dict):
    """A mapping whose attributes (an OrderedDict's metadata) are left out."""

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
    return torch.as_strided(storage, tuple(size), tuple(stride), storage.storage_offset() + offset)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1")  # how Python 3 writes bytes for Python 2


def _first(value, *_rest):
    return value


_KNOWN = {
    "collections.OrderedDict": _Plain,
    "builtins.set": set,
    "_codecs.encode": _encode,
    "torch.Size": tuple,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _first,
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


class _Unpickler(pickle._Unpickler):
    """Builds tensors and plain containers, and refuses all else by name.

    Python's own unpickler and not C's, whose memory a file of a few bytes can make grow without
    bound (its memo is an array).

    Parameters
    ----------
    file
        What to read.
    storage
        Returns the flat tensor of a storage: its key, type and number of elements.
    modules
        Whether modules of TorchScript may be there.
    """

    def __init__(
        self,
        file: BinaryIO,
        storage: Callable[[str, torch.dtype, int], torch.Tensor] | None = None,
        modules: bool = False,
    ):
        super().__init__(file, encoding="latin1")
        self._storage, self._modules = storage, modules

    dispatch: ClassVar = dict(pickle._Unpickler.dispatch)

    def load_build(self):
        if not isinstance(self.stack[-2], _Plain | _Ignored | _Module):
            kind = type(self.stack[-2]).__name__
            raise pickle.UnpicklingError(f"it wants to set the state of a {kind}: refused")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build

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
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"it refers to a {kind!r}, not to a storage: refused")
        flat = self._storage(str(key), dtype, count)
        if view and view[0] is not None:
            _key, offset, length = view[0]
            flat = flat[offset : offset + length]
        return flat


def is_archive(path: str | Path) -> bool:
    """Say whether a file is an archive of TorchScript."""
    try:
        with zipfile.ZipFile(path) as file:
            return any(PurePosixPath(name).name == "constants.pkl" for name in file.namelist())
    except (OSError, ValueError, zipfile.BadZipFile):  # whoever reads it says what is wrong
        return False


def load_checkpoint(path: str | Path):
    """Return what a file of ``torch.save`` holds: tensors, numbers, strings, containers.

    Raises
    ------
    ConsilienceError
        If it cannot be read, or holds anything that would have to be executed: names it.
    """
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, UnicodeDecodeError):
            if zipfile.is_zipfile(path):
                return _load_zip(path)
            return _load_legacy(path)
    except Exception as error:  # zip, pickle and struct all raise their own
        raise ConsilienceError(f"{path}: not a readable checkpoint ({_reason(error)})") from None


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
        raise ConsilienceError(f"{path}: not a readable checkpoint ({_reason(error)})") from None
    return dict(sorted(state.items()))


def _reason(error: Exception) -> str:
    """Say an exception in one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _load_zip(path: str | Path, modules: bool = False):
    """Read a zip file of ``torch.save``, or the modules of one of TorchScript."""
    with zipfile.ZipFile(path) as file:
        (top,) = {PurePosixPath(name).parts[0] for name in file.namelist()}
        if f"{top}/byteorder" in file.namelist() and file.read(f"{top}/byteorder") != b"little":
            raise pickle.UnpicklingError("it is big-endian, which is not supported")
        known: dict[str, torch.Tensor] = {}

        def storage(key: str, dtype: torch.dtype, count: int) -> torch.Tensor:
            if key not in known:
                info = file.getinfo(f"{top}/data/{key}")
                if info.compress_type != zipfile.ZIP_STORED:  # torch never packs
                    raise pickle.UnpicklingError("its storages are packed: refused")
                known[key] = _flat(file.read(info), dtype, count)
            return known[key]

        with file.open(f"{top}/data.pkl") as content:
            return _Unpickler(content, storage, modules).load()


def _flat(data: bytes, dtype: torch.dtype, count: int) -> torch.Tensor:
    if len(data) != count * dtype.itemsize:
        raise pickle.UnpicklingError("a storage has not the length that it says")
    return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)


def _load_legacy(path: str | Path):
    """Read a file as PyTorch wrote them before 1.6: pickles, and the storages after them."""
    left = Path(path).stat().st_size
    known: dict[str, torch.Tensor] = {}

    def storage(key: str, dtype: torch.dtype, count: int) -> torch.Tensor:
        nonlocal left
        if key not in known:
            if not isinstance(count, int) or not 0 <= count * dtype.itemsize <= left:
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
        for key in _Unpickler(file).load():
            flat = known[str(key)]
            (count,) = struct.unpack("<q", file.read(8))
            if count != len(flat):
                raise pickle.UnpicklingError("a storage has not the length that it says")
            if count:
                data = file.read(count * flat.dtype.itemsize)
                flat.copy_(_flat(data, flat.dtype, count))
    return content

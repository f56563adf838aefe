"""Files: what users bring is read whole, and nothing that is not a file; what is written is whole
or not there, written beside its place and then moved into it."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ConsilienceError, printable

LARGEST_PICTURE = 2**30
"""Bytes. The largest picture that is decoded (89 million pixels) has half of that at 16 bits."""
LARGEST_TEXT = 2**26
"""Bytes of a list of words, a table or a configuration: some millions of lines."""

_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a folder"),
)


def find_fault(path: str | Path, largest: int | None = None) -> str | None:
    """Say why a path cannot be read as a file, as far as that is known without opening it.

    None where nothing is against it. What is no file is not opened: reading a named pipe would
    wait for ever, and opening a device may do anything.
    """
    try:
        state = os.stat(path)
    except OSError as error:
        if os.path.islink(path):
            return f"is a link that leads nowhere ({error.strerror})"
        return f"cannot be read ({error.strerror})"
    except ValueError as error:  # a path with a null character
        return f"cannot be read ({error})"
    if not stat.S_ISREG(state.st_mode):
        kind = next((said for check, said in _KINDS if check(state.st_mode)), "something else")
        return f"is {kind}, not a file"
    if largest is not None and state.st_size > largest:
        return f"has {state.st_size / 1e6:,.0f} MB; at most {largest / 1e6:,.0f} MB are read"
    return None


def read_file(path: str | Path, largest: int | None = None) -> bytes:
    """Return the bytes of a file.

    Raises
    ------
    ConsilienceError
        If it is missing, may not be read, is no file, or has more than ``largest`` bytes: begins
        with its path.
    """
    if fault := find_fault(path, largest):
        raise ConsilienceError(f"{printable(path)}: {fault}")
    try:
        # Were it exchanged for a named pipe in between, opening it would still not wait.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConsilienceError(f"{printable(path)}: is not a file any more")
            return file.read()
    except OSError as error:
        raise ConsilienceError(f"{printable(path)}: cannot be read ({error.strerror})") from None


def read_text(path: str | Path) -> str:
    """Return the text of a UTF-8 file, without a byte order mark; line ends stay as they are.

    Raises
    ------
    ConsilienceError
        As :func:`read_file` does, or if it is not UTF-8 or holds null characters, as the own
        formats of spreadsheets and word processors do: names the line.
    """
    data = read_file(path, LARGEST_TEXT)
    try:
        text = data.decode("utf-8-sig")
        end = data.find(b"\0")
    except UnicodeDecodeError as error:
        end = error.start
    if end >= 0:
        line = data[:end].count(b"\n") + 1
        raise ConsilienceError(
            f"{printable(path)}, line {line}: not UTF-8 text (byte {end}); save it as UTF-8"
        )
    return text


def make_folder(path: str | Path) -> None:
    """Make a folder for results, or see that it can be written.

    Raises
    ------
    ConsilienceError
        If it cannot.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        reason = None if os.access(path, os.W_OK | os.X_OK) else "Permission denied"
    except OSError as error:
        reason = error.strerror
    if reason:
        raise ConsilienceError(
            f"{printable(path)}: results cannot be written there ({reason}); make that folder "
            "writable, or run Snakemake with another --directory"
        )


TEMPORARY = ".part-"
"""What the names of files begin with that are not finished."""


def write_atomically(path: str | Path, write: Callable[[str], object]) -> None:
    """Call ``write`` with a temporary path beside ``path``, then put it in place in one move.

    What was written is on the disk before it has its name (fsync): a file that has its name is
    whole, whatever was killed and whenever the power went. The folder is not synchronised: at
    worst a finished file is missing, and made again.

    Raises
    ------
    ConsilienceError
        If it cannot be written: no space, no permission. What lay at ``path`` still does.
    """
    path = Path(path)
    with _saying_why(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(path.suffix, f"{TEMPORARY}{path.name}-", path.parent)
        os.close(handle)
    try:
        with _saying_why(path):
            write(part)
            with open(part, "rb+") as file:
                os.fsync(file.fileno())
            # mkstemp makes files private; results are as readable as anything the user writes.
            os.chmod(part, 0o666 & ~_umask())
            os.replace(part, path)
    finally:
        Path(part).unlink(missing_ok=True)


def write_if_changed(path: Path, text: str) -> None:
    """Write a file, atomically, unless it holds that text already.

    Raises
    ------
    ConsilienceError
        As :func:`write_atomically` does.
    """
    data = text.encode()
    if path.is_file() and path.read_bytes() == data:
        return
    write_atomically(path, lambda part: Path(part).write_bytes(data))


def fill_folder(path: str | Path, fill: Callable[[Path], object]) -> None:
    """Call ``fill`` with a temporary folder beside ``path``, then put it in place of ``path``.

    Raises
    ------
    ConsilienceError
        If it cannot be written: no space, no permission. What lay at ``path`` still does.
    """
    path = Path(path)
    with _saying_why(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY}{path.name}-", dir=path.parent))
    try:
        with _saying_why(path):
            fill(part)
            os.chmod(part, 0o777 & ~_umask())
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def remove_temporary(folder: str | Path) -> list[Path]:
    """Remove what writers that were killed left unfinished below ``folder``; return the paths."""
    found = sorted(Path(folder).rglob(f"{TEMPORARY}*"))
    remove(found)
    return found


def remove(paths: Iterable[str | Path]) -> None:
    """Remove files, and folders with all that is in them; what is not there may be missing."""
    for path in map(Path, paths):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def is_full(error: BaseException, folder: str | Path) -> bool:
    """Say whether a file could not be written into ``folder`` because no space is left."""
    if not isinstance(error, OSError):
        return False
    if error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    # NumPy's writer says how much it wrote, and not why it stopped.
    return shutil.disk_usage(folder).free < 2**16


@contextmanager
def _saying_why(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        folder = next(parent for parent in path.parents if parent.is_dir())
        if is_full(error, folder):
            raise ConsilienceError(
                f"{printable(path)}: cannot be written, no space is left on the disk; make room "
                "and give the same command again, what is finished stays"
            ) from error
        raise ConsilienceError(
            f"{printable(path)}: cannot be written ({error.strerror or error}); make the folder "
            "writable, or run Snakemake with another --directory"
        ) from error


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask

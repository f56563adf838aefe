"""Files that are whole or not there: written beside their place, then moved into it."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ConsilienceError

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
        If no space is left. What lay at ``path`` still does.
    """
    path = Path(path)
    with _saying_full(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(path.suffix, f"{TEMPORARY}{path.name}-", path.parent)
        os.close(handle)
    try:
        with _saying_full(path):
            write(part)
            with open(part, "rb+") as file:
                os.fsync(file.fileno())
            # mkstemp makes files private; results are as readable as anything the user writes.
            os.chmod(part, 0o666 & ~_umask())
            os.replace(part, path)
    finally:
        Path(part).unlink(missing_ok=True)


def write_if_changed(path: Path, text: str) -> None:
    """Write a file, atomically, unless it holds that text already."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    write_atomically(path, lambda part: Path(part).write_text(text, encoding="utf-8"))


def fill_folder(path: str | Path, fill: Callable[[Path], object]) -> None:
    """Call ``fill`` with a temporary folder beside ``path``, then put it in place of ``path``.

    Raises
    ------
    ConsilienceError
        If no space is left. What lay at ``path`` still does.
    """
    path = Path(path)
    with _saying_full(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY}{path.name}-", dir=path.parent))
    try:
        with _saying_full(path):
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
    for path in found:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return found


def is_full(error: BaseException, folder: str | Path) -> bool:
    """Say whether a file could not be written into ``folder`` because no space is left."""
    if not isinstance(error, OSError):
        return False
    if error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    # NumPy's writer says how much it wrote, and not why it stopped.
    return shutil.disk_usage(folder).free < 2**16


@contextmanager
def _saying_full(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        folder = next(parent for parent in path.parents if parent.is_dir())
        if is_full(error, folder):
            raise ConsilienceError(
                f"{path}: cannot be written, no space is left on the disk; make room and give the "
                "same command again, what is finished stays"
            ) from error
        raise


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask

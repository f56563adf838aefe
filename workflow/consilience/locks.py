"""Locks between processes, which the system takes back when their holder ends, however it ends.

A lock is a file that is held open (flock). Nothing of it is left to clear away after a kill; the
empty file may stay. Across machines it holds as far as their file system hands such locks on.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


def try_lock(path: str | Path) -> IO[str] | None:
    """Take a lock, or return None where another process holds it.

    Returns
    -------
    file
        Open for reading and writing; the lock lasts until it is closed or the process ends. A file
        system without locks is taken for a free lock.

    Raises
    ------
    OSError
        If the file cannot be opened.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Neither truncated nor inherited by the programs that this process starts.
    file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError:  # a file system without locks
        pass
    # So that whoever clears away old files leaves it.
    with suppress(OSError):
        os.utime(path)
    return file


@contextmanager
def locked(path: str | Path, wait: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold a lock while the block runs; ``wait`` is called once where another has it before."""
    file = try_lock(path)
    if file is None:
        wait()
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
        fcntl.flock(file, fcntl.LOCK_EX)
    with file:
        yield

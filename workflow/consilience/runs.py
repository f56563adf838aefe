"""One run of a study at a time, and what a run that was killed leaves behind.

A lock that is a file outlives the process that made it when that is killed, and someone has to
remove it. This one is the operating system's (flock): it ends with the process, however that ends.
A run leaves its name in the locked file, and all its steps carry it in their environment, so that
the next run finds those that outlived it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Container
from pathlib import Path
from typing import TextIO

from .errors import ConsilienceError
from .files import remove_temporary

RUN = "CONSILIENCE_RUN"
"""Environment variable with the name of the run that a process belongs to."""

BESIDE = ("benchmarks", "index", "logs")
"""Folders of a study that hold no results."""

# Held open, and with it locked, until the process ends.
_held: dict[Path, TextIO] = {}


def claim_study(lock: str | Path, folder: str | Path, log: Callable[[str], None]) -> None:
    """Take a study for this process until it ends, and clear up after a run that was killed.

    Steps of that run that still run on this machine are killed: what they make would be made again
    in any case. Their unfinished files are removed. The name of the new run is put into the
    environment (:data:`RUN`).

    Parameters
    ----------
    lock
        File to lock. Its time says when the last run began.
    folder
        The study's results.
    log
        Takes a line for the user.

    Raises
    ------
    ConsilienceError
        If another process has the study (says which), or the file cannot be written.
    """
    lock, folder = Path(lock).absolute(), Path(folder)
    if lock in _held:
        return
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = open(lock, "a+", encoding="utf-8")  # noqa: SIM115 (it is to stay open)
        if not _try_to_lock(file, log):
            about = {"process": "?", "host": "?", "began": "?"} | _read(file)
            raise ConsilienceError(
                "{0}: process {process} on {host} runs this study, since {began}; wait for it or "
                "stop it".format(folder, **about)
            )
        if run := _read(file).get("run"):
            _kill_steps(run, log)
        if left := remove_temporary(folder):
            log(f"Removed {len(left)} unfinished files of an interrupted run.")
        os.environ[RUN] = uuid.uuid4().hex
        about = {
            "run": os.environ[RUN],
            "process": os.getpid(),
            "host": socket.gethostname(),
            "began": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        file.truncate(0)
        file.write(json.dumps(about) + "\n")
        file.flush()
    except OSError as error:
        raise ConsilienceError(f"{lock}: cannot be written ({error.strerror})") from None
    _held[lock] = file


def is_running(lock: str | Path) -> bool:
    """Say whether a process has the study; on a file system without locks none ever has."""
    try:
        with open(lock, encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno == errno.EWOULDBLOCK
    return False


def find_unrecorded(
    lock: str | Path, folder: str | Path, is_recorded: Callable[[str], bool]
) -> list[str]:
    """Return what the last run wrote and nobody recorded: results that no change would outdate.

    A step may end after the run that started it was killed. Its result is whole, but what it was
    made with was not written down.

    Parameters
    ----------
    lock
        As :func:`claim_study` takes it. Results older than this file are not looked at, and without
        it none: they come from elsewhere.
    folder
        The study's results.
    is_recorded
        Says whether there is a record of a path.

    Returns
    -------
    list of str
        Files, and folders without any file that is recorded or older, since a result can be one.
        None while the study runs.
    """
    try:
        since = os.stat(lock).st_mtime_ns
    except OSError:
        return []
    if is_running(lock) or not os.path.isdir(folder):
        return []
    return _search(folder, since, is_recorded, BESIDE)[0]


def _search(
    parent: str | Path, since: int, is_recorded: Callable[[str], bool], skip: Container[str] = ()
) -> tuple[list[str], bool]:
    """Search a folder as :func:`find_unrecorded` does; also say whether nothing else is in it."""
    found, bare = [], True
    for entry in sorted(os.scandir(parent), key=lambda entry: entry.name):
        if entry.name.startswith(".") or entry.name in skip:
            continue
        if entry.is_dir():
            new = not is_recorded(entry.path)
            if new:
                inner, new = _search(entry.path, since, is_recorded)
                found += inner
        else:
            new = entry.stat().st_mtime_ns >= since and not is_recorded(entry.path)
        if new:
            found.append(entry.path)
        bare = bare and new
    return found, bare


def _try_to_lock(file: TextIO, log: Callable[[str], None]) -> bool:
    """Lock a file if no other process has it."""
    for _ in range(10):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno != errno.EWOULDBLOCK:
                log(
                    f"{file.name} cannot be locked ({error.strerror}): it is up to you that this "
                    "study runs but once at a time"
                )
                return True
            time.sleep(0.1)  # someone may just have looked whether it is locked
        else:
            return True
    return False


def _read(file: TextIO) -> dict:
    """Read what the last process that had the study wrote; empty where it was killed over that."""
    file.seek(0)
    try:
        content = json.loads(file.read())
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _kill_steps(run: str, log: Callable[[str], None]) -> None:
    """Kill the processes of a run that ended before them, and wait until they are gone."""
    import psutil  # here, as only who starts a run needs it

    me, found = psutil.Process(), []
    spared = {me.pid, *(process.pid for process in me.parents())}
    for process in psutil.process_iter():
        try:
            if process.pid not in spared and process.environ().get(RUN) == run:
                process.kill()
                found.append(process)
        except (psutil.Error, OSError):  # gone meanwhile, or not ours to look at
            continue
    if found:
        log(f"Stopped {len(found)} processes that an interrupted run left behind.")
        psutil.wait_procs(found, timeout=60)

"""GPUs, counted without torch and claimed one step at a time.

Snakemake limits how many steps that ask for a GPU run at a time, but assigns them none. So a step
takes the lock of a device that is free, and sees no other (``CUDA_VISIBLE_DEVICES``). The locks are
a user's own on one machine, whatever study or checkout a step belongs to; a killed step's lock is
free at once.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from .errors import ConsilienceError
from .locks import try_lock

CHOICES = ("auto", "cpu", "cuda", "mps")
"""What a study may say of ``device``."""

_PROC = Path("/proc/driver/nvidia")
_SECONDS_BETWEEN_TRIES = 0.2
_SECONDS_FOR_NVIDIA_SMI = 60


class Gpu(NamedTuple):
    """A device that a step can claim.

    Attributes
    ----------
    name
        What ``CUDA_VISIBLE_DEVICES`` must say for it; ``mps`` for a Mac's.
    identity
        What it is called by every process on the machine, whatever that process sees: of NVIDIA's
        its UUID.
    """

    name: str
    identity: str


def _ask_nvidia_smi() -> list[str]:
    """Return the UUIDs of NVIDIA's GPUs, or of their parts where one is partitioned (MIG)."""
    if not (program := shutil.which("nvidia-smi")):
        return []
    try:
        run = subprocess.run(
            [program, "-L"], capture_output=True, text=True, timeout=_SECONDS_FOR_NVIDIA_SMI
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    gpus: list[list[str]] = []
    for line in run.stdout.splitlines():
        if found := re.search(r"UUID: ((?:GPU|MIG)-[^\s)]+)", line):
            if line.startswith("GPU"):
                gpus.append([found[1]])
            elif gpus:
                gpus[-1].append(found[1])
    return [uuid for own, *parts in gpus for uuid in parts or [own]]


def find_installed(proc: Path = _PROC) -> list[str]:
    """Return what identifies each of the machine's NVIDIA GPUs, in the order of their bus.

    UUIDs; where the driver does not tell them, their places on the bus. The driver's own files are
    read first: ``nvidia-smi`` may take seconds.
    """
    places = sorted(proc.glob("gpus/*/information"))
    found = [re.search(r"GPU UUID:\s*(GPU-[0-9a-f-]+)\s*$", _read(path), re.M) for path in places]
    if places and all(found) and not any(proc.glob("capabilities/gpu*/mig/gi*")):
        return [one[1] for one in found]
    return _ask_nvidia_smi() or [path.parent.name for path in places]


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def find_gpus(
    environment: Mapping[str, str] = os.environ, installed: list[str] | None = None
) -> list[Gpu]:
    """Return the NVIDIA GPUs that this process may use.

    Parameters
    ----------
    environment
        ``CUDA_VISIBLE_DEVICES`` in it restricts them, as a scheduler or a user has set it.
    installed
        By default as :func:`find_installed` gives them.
    """
    installed = find_installed() if installed is None else installed
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if not installed or visible is None:
        return [
            Gpu(one if one.startswith(("GPU-", "MIG-")) else str(number), one)
            for number, one in enumerate(installed)
        ]
    gpus = []
    for name in filter(None, (part.strip() for part in visible.split(","))):
        if name.startswith(("GPU-", "MIG-")):  # may be cut short
            full = [one for one in installed if one.startswith(name)]
            gpus.append(Gpu(name, full[0] if len(full) == 1 else name))
        elif name.isdigit():
            # Where a scheduler confines a job, numbers and nvidia-smi's list are both its own.
            number = int(name)
            gpus.append(Gpu(name, installed[number] if number < len(installed) else f"gpu-{name}"))
        else:  # CUDA ignores what follows too: -1, NoDevFiles
            break
    return gpus


def has_metal() -> bool:
    """Say whether this is a Mac whose processor has a GPU that PyTorch can use."""
    return platform.system() == "Darwin" and platform.machine() == "arm64"


def count_gpus(device: str) -> int:
    """Return how many steps can have a GPU of their own on this machine at a time.

    Parameters
    ----------
    device
        What the study says: one of :data:`CHOICES`.

    Raises
    ------
    ConsilienceError
        If the study wants GPUs of a kind that the machine has none of.
    """
    if device == "cpu":
        return 0
    count = len(find_gpus()) if device in ("auto", "cuda") else 0
    if not count and device in ("auto", "mps"):
        count = int(has_metal())
    if not count and device != "auto":
        raise ConsilienceError(
            f"device: {device}, but this machine shows no such GPU"
            + (
                f" (CUDA_VISIBLE_DEVICES is {os.environ['CUDA_VISIBLE_DEVICES']!r})"
                if device == "cuda" and "CUDA_VISIBLE_DEVICES" in os.environ
                else ""
            )
            + "; set device: auto, or cpu"
        )
    return count


def limit_gpus(device: str, given: int | None, main: bool) -> int:
    """Return how many steps may have a GPU at a time; where none may, none gets one.

    Parameters
    ----------
    device
        What the study says.
    given
        A limit that a profile or the command line sets: on a cluster, how many GPUs steps may have
        in all. Without one this machine's are counted.
    main
        Whether this is Snakemake's main process. Else it is a job on a cluster, which has what the
        scheduler shows it.

    Raises
    ------
    ConsilienceError
        If the study insists on GPUs and steps get none.
    """
    if device == "cpu":
        return 0
    if not main:
        return len(find_gpus()) if "CUDA_VISIBLE_DEVICES" in os.environ else 0
    if given is None:
        return count_gpus(device)
    if not given and device != "auto":
        raise ConsilienceError(
            f"device: {device}, but steps may have no GPUs (resources gpu=0, in the profile or on "
            "the command line); give the number that there are, or set device: auto"
        )
    return given


def _lock_folder() -> Path:
    """Return the folder of this user's locks: the same for all of the user's processes here."""
    # Not TMPDIR, which differs between a user's sessions, and between a scheduler's jobs.
    folder = Path("/tmp") / f"consilience-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise ConsilienceError(
            f"{folder}: is not a folder of yours, and the locks of GPUs belong there; remove it"
        )
    return folder


@contextmanager
def claim(
    gpus: list[Gpu], log: Callable[[str], None], folder: str | Path | None = None
) -> Iterator[Gpu]:
    """Hold one of the GPUs, the first that is free, while the block runs; wait until one is."""
    folder = Path(folder or _lock_folder())
    said = False
    while True:
        for gpu in gpus:
            file = try_lock(folder / f"{re.sub('[^A-Za-z0-9-]', '_', gpu.identity)}.lock")
            if file is not None:
                with file:
                    yield gpu
                return
        if not said:
            log(f"all {len(gpus)} GPUs are in use; waiting")
            said = True
        time.sleep(_SECONDS_BETWEEN_TRIES)


def choose_kind(device: str, granted: int) -> str:
    """Return the kind of device that a step is to compute on: ``cpu``, ``cuda`` or ``mps``.

    Parameters
    ----------
    device
        What the study says.
    granted
        GPUs that the step was given: its resource ``gpu``.

    Raises
    ------
    ConsilienceError
        If the study insists on a GPU and the step was given none.
    """
    if device == "cpu" or not granted:
        if device in ("cuda", "mps"):
            raise ConsilienceError(
                f"device: {device}, but this step was given no GPU on {platform.node()}; let steps "
                "have some (`resources: [gpu=…]` of the profile, docs/cluster.md), or set "
                "device: auto"
            )
        return "cpu"
    if device == "auto":
        return "mps" if has_metal() else "cuda"
    return device

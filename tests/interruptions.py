"""Interrupt runs of Snakemake at random moments, and hold what comes of it against one that ran."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).parent.parent
KINDS = ("ctrl-c", "step", "snakemake", "machine")


def command(folder, *arguments):
    """The command that runs the workflow in a folder, with the profile that runs by default."""
    return [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")),
        *("--workflow-profile", str(REPOSITORY / "profiles/default")),
        *("--directory", str(folder), *map(str, arguments)),
    ]


def run(folder, *arguments):
    """Run to the end; return what was said, and fail with it."""
    done = subprocess.run(
        command(folder, *arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


def hashes(folder):
    """SHA-256 of all results by path, without what holds times."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not {"logs", "benchmarks", "index"} & set(parts):
            found["/".join(parts)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@dataclass
class Record:
    """What was interrupted, and what came of it."""

    interrupted: Counter = field(default_factory=Counter)
    finished: int = 0
    said: list = field(default_factory=list)


def interrupt(kind, process, rng):
    """Interrupt a running Snakemake; wait until it has ended.

    ``ctrl-c``: SIGINT to all of its processes, as a terminal sends it; ``step``: SIGKILL to one
    step, the others go on; ``snakemake``: SIGKILL to Snakemake, its steps go on; ``machine``:
    SIGKILL to all.
    """
    if kind == "step":
        while process.poll() is None:
            steps = psutil.Process(process.pid).children(recursive=True)
            if steps:
                rng.choice(steps).kill()
                break
            time.sleep(0.05)
    elif kind == "snakemake":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGINT if kind == "ctrl-c" else signal.SIGKILL)
    process.wait()


def interrupt_runs(folder, arguments, expected, times, rng, longest):
    """Run a study again and again, interrupted so many times in all, then to its end.

    Parameters
    ----------
    folder
        Where it runs.
    arguments
        Of Snakemake.
    expected
        :func:`hashes` of an undisturbed run's results. Held against the results whenever a run ends
        well; then they are deleted, and all begins anew.
    times
        Interruptions.
    rng
        Generator of the kinds and moments.
    longest
        Seconds after its start by which a run is interrupted.

    Returns
    -------
    Record
    """
    record = Record()
    kinds = [KINDS[n % len(KINDS)] for n in range(times)]
    rng.shuffle(kinds)
    while kinds:
        said = open(folder / "said.log", "w+")  # noqa: SIM115
        process = subprocess.Popen(
            command(folder, *arguments),
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # Ignored where the tests run in the background.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        try:
            process.wait(timeout=rng.uniform(0, longest))
        except subprocess.TimeoutExpired:
            kind = kinds.pop()
            interrupt(kind, process, rng)
            record.interrupted[kind] += 1
        said.seek(0)
        record.said.append(said.read())
        said.close()
        if process.returncode == 0:
            check(folder, expected)
            record.finished += 1
            for name in ("results", ".snakemake"):
                shutil.rmtree(folder / name)
    record.said.append(run(folder, *arguments))
    check(folder, expected)
    record.finished += 1
    return record


def check(folder, expected):
    found = hashes(folder / "results")
    assert {path for path in expected if found.get(path) != expected[path]} == set()
    assert {path for path in found if path not in expected} == set()

"""Interrupt runs of Snakemake at random moments, and hold what comes of it against one that ran."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
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
    """SHA-256 of all results by path, without what holds times or is only kept for others."""
    found = {}
    if not Path(folder).is_dir():
        return found
    for path in sorted(Path(folder).rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not {"logs", "benchmarks", "index", ".shared"} & set(parts):
            found["/".join(parts)] = hashlib.sha256(_read(path)).hexdigest()
    return found


def _read(path):
    """Return a file's bytes, without the page's section on what each step took."""
    if path.name == "report.pdf":  # has that section too, compressed
        return b""
    data = path.read_bytes()
    if path.name != "report.html":
        return data
    before, start, rest = data.partition(b"<h3>What each step took</h3>")
    return before + (rest.partition(b"<h3>How to cite</h3>")[2] if start else b"")


@dataclass
class Record:
    """What was interrupted, and what came of it."""

    interrupted: Counter = field(default_factory=Counter)
    # How often the study came to its end, with the bytes that it is to have.
    finished: int = 0


def interrupt(kind, process, rng):
    """Interrupt a running Snakemake; wait until it has ended, where it ends by that.

    Returns whether it was interrupted: it may end before it starts a step that could be killed.

    ``ctrl-c``: SIGINT to all of its processes, as a terminal sends it; ``step``: SIGKILL to one
    process of a step, the others go on, and Snakemake too; ``snakemake``: SIGKILL to Snakemake, its
    steps go on; ``machine``: SIGKILL to all.
    """
    if kind == "step":
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                if steps := psutil.Process(process.pid).children(recursive=True):
                    rng.choice(steps).kill()
                    return True
            time.sleep(0.05)
        return False
    if kind == "snakemake":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGINT if kind == "ctrl-c" else signal.SIGKILL)
    process.wait()
    return True


def interrupt_runs(folder, arguments, expected, times, rng, longest, say=print):
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
        Seconds from a start, or from a step that was killed, to the next interruption at most.
    say
        Takes a line on each interruption.

    Returns
    -------
    Record
    """
    record = Record()
    kinds = [KINDS[n % len(KINDS)] for n in range(times)]
    rng.shuffle(kinds)
    while kinds:
        with open(folder / "said.log", "w") as said:
            process = subprocess.Popen(
                command(folder, *arguments),
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # Ignored where the tests run in the background.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )
            while kinds and process.poll() is None:
                moment = rng.uniform(0, longest)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=moment)
                if process.poll() is None and interrupt(kinds[-1], process, rng):
                    kind = kinds.pop()
                    record.interrupted[kind] += 1
                    done = sum(path in expected for path in hashes(folder / "results"))
                    say(f"{kind} after {moment:.1f} s: {done} of {len(expected)} results are there")
            process.wait()
        refused = re.search("cannot be locked|runs this study", (folder / "said.log").read_text())
        assert not refused, (folder / "said.log").read_text()[-5000:]
        if process.returncode == 0:
            check(folder, expected)
            record.finished += 1
            say("finished: the same bytes")
            for name in ("results", ".snakemake"):
                shutil.rmtree(folder / name)
    run(folder, *arguments)
    check(folder, expected)
    record.finished += 1
    return record


def check(folder, expected):
    """Hold a study's results against those of a run that nothing disturbed."""
    found = hashes(folder / "results")
    wrong = sorted(path for path in expected if found.get(path) != expected[path])
    assert not wrong, wrong
    more = sorted(found.keys() - expected.keys())
    assert not more, more

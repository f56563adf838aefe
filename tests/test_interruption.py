"""Interrupted at any moment, a study goes on: nothing to unlock or delete, and the same bytes."""

import os
import random
import re
import shutil
import subprocess
import time

import pytest
import yaml

import interruptions
from conftest import REPOSITORY
from consilience import runs

pytestmark = pytest.mark.slow

# Five steps that need no torch.
STUDY = {
    "study": "tiny",
    "world": {"size": 64, "training": {"pictures": 80, "shards": 4}, "held_out": {"pictures": 20}},
}
RESULTS = ["held-out.npz", *(f"training-{shard}.npz" for shard in range(4))]
TARGETS = [f"results/tiny/world/{name}" for name in RESULTS]


def arguments(folder, cores=2):
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    return ["--cores", str(cores), *TARGETS, "--configfile", path]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Hashes of the results of a run that nothing disturbed, and how long it took."""
    folder = tmp_path_factory.mktemp("undisturbed")
    began = time.monotonic()
    interruptions.run(folder, *arguments(folder))
    found = interruptions.hashes(folder / "results")
    assert sorted(found) == [f"tiny/world/{name}" for name in sorted(RESULTS)]
    return found, time.monotonic() - began


def test_interrupted_five_times_it_goes_on(undisturbed, tmp_path):
    expected, seconds = undisturbed
    record = interruptions.interrupt_runs(
        tmp_path, arguments(tmp_path), expected, 5, random.Random(7), seconds
    )
    assert sum(record.interrupted.values()) == 5
    assert set(record.interrupted) == set(interruptions.KINDS)
    # It is known of every result what it was made with, however it came about.
    said = interruptions.run(tmp_path, "-n", *arguments(tmp_path), "--config", "seed=1")
    assert re.search(r"^total +5$", said, re.MULTILINE)


def test_a_second_run_of_a_study_at_the_same_time_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "_held", {})
    monkeypatch.setenv(runs.RUN, "")
    state = tmp_path / ".snakemake/consilience/tiny.run"
    runs.claim_study(state, tmp_path / "results/tiny", print)
    try:
        done = subprocess.run(
            interruptions.command(tmp_path, *arguments(tmp_path)), capture_output=True, text=True
        )
    finally:
        for file in runs._held.values():
            file.close()
    assert done.returncode == 1
    assert f"process {os.getpid()} on" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results/tiny/world").exists()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB; skips where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    done = shutil.which("mount") and subprocess.run(mount, capture_output=True, text=True)
    if not done or done.returncode:
        pytest.skip(f"no file system can be mounted ({done and done.stderr.strip()})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_is_named_and_nothing_finished_is_lost(undisturbed, small_disk):
    expected, _ = undisturbed
    command = interruptions.command(small_disk, *arguments(small_disk, cores=1))
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 1, done.stdout
    assert "cannot be written, no space is left on the disk; make room" in done.stdout
    finished = interruptions.hashes(small_disk / "results")
    assert 0 < len(finished) < len(expected)
    assert finished.items() <= expected.items()
    times = {path: (small_disk / "results" / path).stat().st_mtime_ns for path in finished}
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    interruptions.run(small_disk, *arguments(small_disk, cores=1))
    assert interruptions.hashes(small_disk / "results") == expected
    for path, before in times.items():
        assert (small_disk / "results" / path).stat().st_mtime_ns == before, f"{path} made again"


@pytest.mark.soak
def test_interrupted_a_hundred_times_it_goes_on(tmp_path):
    """The miniature study, which has every kind of step."""
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    given = ["--cores", "2", "--configfile", REPOSITORY / "tests/study.yaml"]
    for folder in (undisturbed, disturbed):
        folder.mkdir()
    interruptions.run(undisturbed, *given)
    expected = interruptions.hashes(undisturbed / "results")
    times = int(os.environ.get("CONSILIENCE_INTERRUPTIONS", 100))
    record = interruptions.interrupt_runs(
        disturbed, given, expected, times, random.Random(100), longest=60
    )
    print(f"{dict(record.interrupted)}, finished {record.finished} times")
    assert sum(record.interrupted.values()) == times
    change = ["-n", *given, "--config", "seed=1"]
    counts = [
        re.search(r"^total +\d+$", interruptions.run(folder, *change), re.MULTILINE)[0]
        for folder in (undisturbed, disturbed)
    ]
    assert counts[0] == counts[1]

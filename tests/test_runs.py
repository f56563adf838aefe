"""One run of a study at a time, and what is found of one that was killed."""

import json
import os
import subprocess
import sys
import time

import psutil
import pytest

from conftest import REPOSITORY
from consilience import runs
from consilience.errors import ConsilienceError

HOLD = """
import sys
from consilience import runs
runs.claim_study(sys.argv[1], sys.argv[2], print)
print("has it", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _let_go(monkeypatch):
    """Hold no study beyond its test."""
    held = {}
    monkeypatch.setattr(runs, "_held", held)
    monkeypatch.setenv(runs.RUN, "of the test")
    yield
    for file in held.values():
        file.close()


@pytest.fixture
def place(tmp_path):
    """Lock and folder of a study."""
    return tmp_path / "state/study", tmp_path / "results"


def hold(place):
    """Start another process that has the study."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "workflow")}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, *map(str, place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )
    assert process.stdout.readline() == b"has it\n"
    return process


def test_a_study_is_run_by_one_process_at_a_time(place):
    with hold(place) as other:
        assert runs.is_running(place[0])
        with pytest.raises(ConsilienceError, match=f"process {other.pid} on .* since 20..-.*wait"):
            runs.claim_study(*place, print)
        other.kill()
        other.wait()
    # Nothing is left to remove by hand.
    assert not runs.is_running(place[0])
    runs.claim_study(*place, print)
    assert runs.is_running(place[0])
    runs.claim_study(*place, print)  # ours already


def test_another_study_is_free(place, tmp_path):
    with hold(place) as other:
        runs.claim_study(tmp_path / "state/another", tmp_path / "another", print)
        other.kill()


def test_steps_of_a_killed_run_are_stopped_and_others_are_not(place):
    lock, folder = place
    with hold(place) as other:
        name = json.loads(lock.read_text())["run"]
        other.kill()
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    step = subprocess.Popen(sleep, env={**os.environ, runs.RUN: name})
    innocent = subprocess.Popen(sleep, env={**os.environ, runs.RUN: "another"})
    said = []
    try:
        runs.claim_study(lock, folder, said.append)
        assert not psutil.pid_exists(step.pid)
        assert innocent.poll() is None
    finally:
        for process in (step, innocent):
            process.kill()
            process.wait()
    assert said == ["Stopped 1 processes that an interrupted run left behind."]
    assert os.environ[runs.RUN] == json.loads(lock.read_text())["run"] != name


def test_what_a_killed_run_had_not_finished_is_removed(place):
    lock, folder = place
    folder.mkdir()
    (folder / ".part-table-x.parquet").write_text("half of it")
    said = []
    runs.claim_study(lock, folder, said.append)
    assert list(folder.iterdir()) == []
    assert said == ["Removed 1 unfinished files of an interrupted run."]


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_a_lock_that_was_not_written_to_the_end_does_no_harm(place, text):
    lock, folder = place
    lock.parent.mkdir()
    lock.write_text(text)
    runs.claim_study(lock, folder, print)
    assert json.loads(lock.read_text())["process"] == os.getpid()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "state").write_text("a file")
    with pytest.raises(ConsilienceError, match="state/study: cannot be written"):
        runs.claim_study(tmp_path / "state/study", tmp_path / "results", print)


@pytest.fixture
def ended(place):
    """A study whose last run has ended, with results of before it and of it."""
    lock, folder = place
    (folder / "cards").mkdir(parents=True)
    (folder / "logs").mkdir()
    (folder / "old").write_text("")
    (folder / "mixed").mkdir()
    (folder / "mixed/old").write_text("")
    time.sleep(0.02)
    runs.claim_study(lock, folder, print)
    time.sleep(0.02)
    for name in ("a", "b", "cards/1.png", "mixed/c", "logs/a.log", ".part-d"):
        (folder / name).write_text("")
    return place


def test_results_without_a_record_are_found(ended):
    folder = ended[1]
    assert runs.find_unrecorded(*ended, lambda path: False) == []  # it still runs
    runs._held.popitem()[1].close()
    found = runs.find_unrecorded(*ended, lambda path: path == str(folder / "a"))
    assert found == [str(folder / name) for name in ("b", "cards/1.png", "cards", "mixed/c")]
    recorded = {str(folder / "a"), str(folder / "b"), str(folder / "cards")}
    assert runs.find_unrecorded(*ended, recorded.__contains__) == [str(folder / "mixed/c")]


def test_without_a_run_nothing_is_looked_for(ended):
    lock, folder = ended
    runs._held.popitem()[1].close()
    lock.unlink()  # results copied from elsewhere
    assert runs.find_unrecorded(lock, folder, lambda path: False) == []
    assert runs.find_unrecorded(lock, folder / "none", lambda path: False) == []

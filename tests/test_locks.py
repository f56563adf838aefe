"""Locks between processes: one holder at a time, and none that outlives its holder."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import REPOSITORY
from consilience import locks

HOLDER = """
import sys, time
from consilience import locks
held = locks.try_lock(sys.argv[1])
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds a lock: its Popen and the lock's path."""
    path = tmp_path / "index" / "running.lock"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "workflow")}
    command = [sys.executable, "-c", HOLDER, path]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process, path
        process.kill()


def test_a_lock_has_one_holder(holder):
    _, path = holder
    assert locks.try_lock(path) is None


def test_a_killed_holder_leaves_nothing_to_clear_away(holder):
    process, path = holder
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert locks.try_lock(path) is not None


def test_who_waits_is_told_and_gets_the_lock(holder):
    process, path = holder
    said = []

    def wait():
        said.append("waiting")
        process.kill()

    with locks.locked(path, wait):
        assert said == ["waiting"]
        assert locks.try_lock(path) is None
    with locks.locked(path, wait):
        assert said == ["waiting"]


def test_programs_that_the_holder_starts_do_not_keep_the_lock(tmp_path):
    path = tmp_path / "lock"
    file = locks.try_lock(path)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as child:
        file.close()
        again = locks.try_lock(path)
        child.kill()
    assert again is not None


def test_nothing_is_lost_in_a_lock_file(tmp_path):
    path = Path(tmp_path, "lock")
    path.write_text("whose it is\n")
    locks.try_lock(path).close()
    assert re.fullmatch("whose it is\n", path.read_text())

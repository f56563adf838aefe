"""Broken input for every reader: nothing but declared errors, and nothing executed or hung."""

import json
import os
import subprocess
import sys
from contextlib import suppress

import pytest

import fuzz
from conftest import REPOSITORY
from consilience.errors import ConsilienceError

INPUTS = 10_000
FEEDER = REPOSITORY / "tests/fuzz.py"


def run(*arguments):
    """Run Python in a process of its own, which a reader may crash."""
    path = os.pathsep.join(str(REPOSITORY / part) for part in ("workflow", "tests"))
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )


def assert_sound(done, inputs):
    """Hold what came out against what may."""
    assert done.returncode == 0, f"{done.stdout[-5000:]}\n{done.stderr[-3000:]}"
    found = json.loads(done.stdout)
    assert list(found["readers"]) == list(fuzz.READERS)
    for name, one in found["readers"].items():
        assert one["faults"] == [], name
        # Both, or what is fed is too broken or too whole to try anything.
        assert one["taken"] > one["inputs"] / 200, name
        assert one["refused"] > one["inputs"] / 4, name
        assert one["taken"] + one["refused"] == one["inputs"], name
    assert abs(sum(one["inputs"] for one in found["readers"].values()) - inputs) < 20
    assert found["peak"] < fuzz.MEMORY


def test_ten_thousand_broken_inputs_give_declared_errors_only():
    assert_sound(run(FEEDER, "--inputs", INPUTS), INPUTS)


@pytest.mark.soak
def test_a_million_broken_inputs_give_declared_errors_only():
    assert_sound(run(FEEDER, "--inputs", 1_000_000, "--seed", 1), 1_000_000)


@pytest.mark.parametrize("name", fuzz.READERS)
def test_each_reader_takes_a_seed_and_inputs_come_again(name, tmp_path):
    reader = fuzz.READERS[name]
    seeds, taken = reader.seeds(), 0
    for number, (suffix, data) in enumerate(seeds):
        path = tmp_path / f"{number}{suffix}"
        path.write_bytes(data)
        with suppress(ConsilienceError):
            reader.read(path)
            taken += 1
    assert taken
    first, second = (
        [fuzz.make_input(name, number, 3, reader.seeds(), reader) for number in range(30)]
        for _ in range(2)
    )
    assert first == second
    assert len({data for _, data in first}) > 15


# Reads of everything but the seed go wrong, each reader in a way of its own.
FAULTS = {
    "{}['x']": "KeyError",
    "raise ConsilienceError": "says nothing",
    "data.decode('ascii')": "UnicodeDecodeError",
    "open('executed', 'w')": "Executed: open",
    "os.system('true')": "Executed: os.system",
    "eval('1')": "Executed: exec",
    "subprocess.run(['true'])": "Executed: subprocess.Popen",
    "socket.create_connection(('127.0.0.1', 9))": "Executed: socket",
    "kept.append(bytearray(4 * 10**8))": "takes more memory than it may",
    "time.sleep(1000)": None,
}
SCRIPT = """
import json, os, pathlib, resource, socket, subprocess, sys, time
import fuzz
from consilience.errors import ConsilienceError

kept = []
sys.addaudithook(fuzz.audit)
fuzz.MEMORY = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + 2 * 10**8
for body in json.loads(sys.argv[1]):
    code = compile(body, "reader", "exec")

    def read(path):
        data = path.read_bytes()
        if data != b"abcdefghij":
            if len(data) < 5:
                raise ConsilienceError("short")
            exec(code)

    fuzz.HANGS = 1 if "sleep" in body else 60
    reader = fuzz.Reader(lambda: [(".txt", b"abcdefghij")], read)
    print(json.dumps(fuzz.feed("x", range(30), 0, pathlib.Path(sys.argv[2]), {"x": reader})))
    sys.stdout.flush()
"""


def test_faulty_readers_are_found_out(tmp_path):
    """The feeder would not be worth much if it found nothing."""
    done = run("-c", SCRIPT, json.dumps(list(FAULTS)), tmp_path)
    assert done.returncode == 1, done.stderr
    assert "Timeout" in done.stderr
    assert (tmp_path / "number").read_text().startswith("x ")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    for (body, said), one in zip(FAULTS.items(), found, strict=False):
        assert one["faults"], body
        assert said in one["faults"][0]["said"], body
        assert one["refused"] or "memory" in said, body
    assert len(found) == len(FAULTS) - 1  # all but the one that hangs
    assert not (tmp_path / "executed").exists()

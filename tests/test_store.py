"""What studies have in common: kept once, taken by whoever needs it, made by one at a time."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from conftest import REPOSITORY
from consilience import steps, store


class Named(list):
    """Snakemake's lists with names, as far as a step's script sees them."""

    def __init__(self, **named):
        super().__init__()
        self.named = named
        for value in named.values():
            self.extend([value] if isinstance(value, str) else value)

    def items(self):
        return self.named.items()

    def get(self, name, default=None):
        return self.named.get(name, default)


def make_step(folder, study="a", device="auto", granted=0, wildcards=None, inputs=None, **params):
    """The job of a step that embeds words, in a study of a folder."""
    (folder / study).mkdir(exist_ok=True)
    inputs = {"words": b"ball\n", "check": study.encode()} if inputs is None else inputs
    for name, content in inputs.items():
        (folder / study / name).write_bytes(content)
    return SimpleNamespace(
        rule="embed",
        config={"store": str(folder / "store"), "device": device},
        resources={"gpu": granted},
        params={"code": "1f", "compute_threads": 1} | params,
        wildcards=wildcards or {},
        input=Named(**{name: str(folder / study / name) for name in inputs}),
        output=Named(a=str(folder / study / "out/a.npz"), b=str(folder / study / "out/b.csv")),
    )


def run(step, log, content=b"made"):
    """What a step's script does; returns whether it made the outputs."""
    made = False
    with steps.logged(log) as say, store.shared(step, say):
        for number, output in enumerate(step.output):
            Path(output).parent.mkdir(exist_ok=True)
            Path(output).write_bytes(content + bytes([number]))
        made = True
    return made


def read(step):
    return [Path(output).read_bytes() for output in step.output]


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


def test_the_second_study_takes_what_the_first_made(tmp_path, log):
    first, second = make_step(tmp_path, "a"), make_step(tmp_path, "b")
    assert run(first, log)
    assert not run(second, log, b"wrong")
    assert read(second) == read(first) == [b"made\0", b"made\1"]
    said = log.read_text()
    assert "there already: taken from" in said
    assert said.splitlines()[-1].partition("] ")[2].startswith("done: ")
    # Its own, with times of its own: what touches or deletes one leaves the other.
    assert not os.path.samefile(first.output[0], second.output[0])
    for output in first.output:
        Path(output).unlink()
    assert not run(first, log, b"wrong")
    assert read(first) == read(second)
    assert not list(tmp_path.glob("*/out/.*"))


def test_what_is_kept_takes_no_room(tmp_path, log):
    step = make_step(tmp_path)
    run(step, log)
    (kept,) = (path for path in tmp_path.glob("store/*/0") if path.parent.name != "locks")
    assert os.path.samefile(kept, step.output[0])


@pytest.mark.parametrize(
    "other",
    [
        {"a": 3},
        {"code": "20"},
        {"seed": 1},
        {"compute_threads": 2},
        {"wildcards": {"shard": "1"}},
        {"granted": 1},
        {"inputs": {"words": b"box\n"}},
        {"inputs": {"classes": b"ball\n"}},
        {"inputs": {"words": b"ball\n", "classes": b""}},
    ],
)
def test_what_differs_is_not_shared(tmp_path, log, monkeypatch, other):
    monkeypatch.setattr(store, "choose_kind", lambda device, granted: "cuda" if granted else "cpu")
    assert run(make_step(tmp_path, "a"), log)
    assert run(make_step(tmp_path, "b", **other), log, b"else")
    assert read(make_step(tmp_path, "b"))[0] == b"else\0"
    # And what does not differ still is.
    assert not run(make_step(tmp_path, "c"), log)
    assert read(make_step(tmp_path, "c"))[0] == b"made\0"


def test_the_check_of_a_study_is_no_difference(tmp_path):
    assert store.describe(make_step(tmp_path, "a")) == store.describe(make_step(tmp_path, "b"))


def test_without_a_store_nothing_is_shared(tmp_path, log):
    for study in "ab":
        step = make_step(tmp_path, study)
        step.config["store"] = None
        assert run(step, log)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("broken", ["content", "missing", "entry", "empty"])
def test_a_broken_entry_is_made_again(tmp_path, log, broken):
    first, second, third = (make_step(tmp_path, study) for study in "abc")
    run(first, log)
    (entry,) = (path for path in tmp_path.glob("store/*") if path.name != "locks")
    if broken == "content":
        # As an editor does that writes into the file itself: it is the first study's too.
        with open(entry / "1", "r+b") as file:
            file.write(b"MA")
    elif broken == "missing":
        (entry / "1").unlink()
    else:
        (entry / "entry.json").write_text("[1" if broken == "entry" else "{}")
    assert run(second, log, b"made")
    assert not list(tmp_path.glob("b/out/.*"))
    assert not run(third, log, b"wrong")
    assert read(third) == read(second) == [b"made\0", b"made\1"]


def test_a_step_that_fails_keeps_nothing(tmp_path, log):
    step = make_step(tmp_path)
    with pytest.raises(TypeError):
        run(step, log, "not bytes")
    assert "TypeError" in log.read_text()
    assert run(make_step(tmp_path, "b"), log)


def test_what_fell_back_to_the_processor_is_not_kept_as_a_gpus(tmp_path, log, monkeypatch):
    monkeypatch.setattr(store, "choose_kind", lambda device, granted: "cuda")
    step = make_step(tmp_path, granted=1)
    with steps.logged(log) as say, store.shared(step, say):
        step.device = "cpu"
    assert run(make_step(tmp_path, "b", granted=1), log)


def test_a_store_that_cannot_be_used_is_done_without(tmp_path, log):
    (tmp_path / "store").write_text("a file")
    assert run(make_step(tmp_path), log)
    assert "warning: nothing is shared, as" in log.read_text()


def test_what_no_study_holds_goes_a_month_after_it_was_last_taken(tmp_path, log):
    held, left, taken = (make_step(tmp_path, study, a=study) for study in "abc")
    for step in (held, left, taken):
        run(step, log)
    kept = store.Store(tmp_path / "store")
    for step in (left, taken):
        for output in step.output:
            Path(output).unlink()
    for key in map(store.describe, (held, left, taken)):
        os.utime(kept.folder / key, (1, 1))
    assert not run(taken, log)
    for output in taken.output:
        Path(output).unlink()
    with kept.locked(store.describe(left)):  # someone is about to take it
        assert kept.prune() == []
    assert kept.prune() == [store.describe(left)]
    assert not run(held, log)
    assert not run(taken, log)
    assert run(left, log)
    assert store.Store(tmp_path / "nowhere").prune() == []


MAKER = """
import sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from test_store import make_step, run
import test_store
step = make_step(Path(sys.argv[3]), sys.argv[4])
write = Path.write_bytes
def slow(path, content):
    if path.parent.name == "out":
        print("makes", flush=True)
        sys.stdin.readline()
    return write(path, content)
Path.write_bytes = slow
print("made" if run(step, step.config["store"] + sys.argv[4] + ".log") else "took", flush=True)
"""


def start(folder, study):
    """Another process that runs the step and stops before each output until a line comes."""
    places = [REPOSITORY / "workflow", REPOSITORY / "tests", folder]
    command = [sys.executable, "-c", MAKER, *map(str, places), study]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **pipes)


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("ends", ["well", "killed"])
def test_two_studies_at_once_make_it_once_and_neither_waits_for_a_dead_one(tmp_path, ends):
    first = start(tmp_path, "a")
    assert first.stdout.readline() == "makes\n"
    second = start(tmp_path, "b")
    log = tmp_path / "storeb.log"
    wait_for(lambda: log.exists() and "another study is making the same" in log.read_text())
    if ends == "killed":
        first.kill()
        assert second.stdout.readline() == "makes\n"
        said, _ = second.communicate("\n\n", timeout=60)
        assert said == "makes\nmade\n"
    else:
        assert first.communicate("\n\n", timeout=60)[0] == "makes\nmade\n"
        assert second.communicate(timeout=60)[0] == "took\n"
    first.wait()
    assert read(make_step(tmp_path, "b")) == [b"made\0", b"made\1"]

"""Two studies at once in one folder: each as if it were alone, and what they share made once."""

import os
import signal
import subprocess
import sys
import time

import pytest

from conftest import REPOSITORY
from test_workflow import hashes, snakemake

pytestmark = [pytest.mark.slow, pytest.mark.soak]

MINIATURE = REPOSITORY / "tests/study.yaml"
SHARED = ("render", "train", "embed", "extract")


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """What differs in the second study: LIME, and nothing that comes before it."""
    path = tmp_path_factory.mktemp("second") / "second.yaml"
    path.write_text("study: second\nlime: {num_samples: 40}\n")
    return path


@pytest.fixture(scope="module")
def alone(tmp_path_factory, second):
    """Both studies, each run by itself in a folder of its own."""
    folders = [tmp_path_factory.mktemp(name) for name in ("alone", "alone-second")]
    snakemake(folders[0], "--cores", "2", studies=[MINIATURE])
    snakemake(folders[1], "--cores", "2", studies=[MINIATURE, second])
    return hashes(folders[0] / "results/miniature"), hashes(folders[1] / "results/second")


def start(folder, *studies):
    """Start Snakemake as a process group of its own."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", REPOSITORY / "Snakefile"]
    command += ["--workflow-profile", REPOSITORY / "profiles/default", "--directory", folder]
    command += ["--cores", "2", "--configfile", *studies]
    log = (folder / f"{studies[-1].stem}.txt").open("w")
    return subprocess.Popen(
        list(map(str, command)),
        cwd=REPOSITORY,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def made_and_taken(folder, study):
    """Names of the steps that may be shared: those that a study made, and those that it took."""
    made, taken = set(), set()
    for path in (folder / "results" / study / "logs").glob("*.log"):
        if path.stem.startswith(SHARED):
            there = "there already: taken from" in path.read_text()
            (taken if there else made).add(path.stem)
    return made, taken


def test_two_studies_at_once_give_what_each_gives_alone(tmp_path, alone, second):
    runs = [start(tmp_path, MINIATURE), start(tmp_path, MINIATURE, second)]
    for run in runs:
        assert run.wait(2400) == 0
    assert hashes(tmp_path / "results/miniature") == alone[0]
    assert hashes(tmp_path / "results/second") == alone[1]
    (made, taken), (other_made, other_taken) = (
        made_and_taken(tmp_path, study) for study in ("miniature", "second")
    )
    assert made == other_taken
    assert taken == other_made
    assert len(made | taken) > 10
    for studies in ([MINIATURE], [MINIATURE, second]):
        assert "Nothing to be done" in snakemake(tmp_path, "--cores", "2", studies=studies)


def test_a_killed_study_blocks_no_other(tmp_path, alone, second):
    first, other = start(tmp_path, MINIATURE), start(tmp_path, MINIATURE, second)
    training = list((tmp_path / "results").glob("*/logs/train_*.log"))
    deadline = time.monotonic() + 600
    while not training and time.monotonic() < deadline:
        time.sleep(0.1)
        training = list((tmp_path / "results").glob("*/logs/train_*.log"))
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert other.wait(2400) == 0
    assert hashes(tmp_path / "results/second") == alone[1]
    snakemake(tmp_path, "--cores", "2", studies=[MINIATURE])
    assert hashes(tmp_path / "results/miniature") == alone[0]

"""GPUs counted and claimed; those that this machine lacks are files and a program of the test."""

import os
import re
import select
import subprocess
import sys

import pytest

from conftest import REPOSITORY
from consilience import devices
from consilience.devices import Gpu, choose_kind, count_gpus, find_gpus, find_installed, limit_gpus
from consilience.errors import ConsilienceError

A, B = (f"GPU-{letter * 8}-0000-1111-2222-{letter * 12}" for letter in "ab")


def put_driver(folder, *uuids):
    """The files of NVIDIA's driver, of GPUs in this order on the bus."""
    for number, uuid in enumerate(uuids):
        place = folder / "gpus" / f"0000:0{number}:00.0"
        place.mkdir(parents=True)
        said = f"Model: \t\t NVIDIA X\nIRQ:   \t\t 1\nGPU UUID: \t {uuid}\nVideo BIOS: \t 1\n"
        (place / "information").write_text(said)
    return folder


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Put a program of that name on the path, which says what it is given."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def say(text):
        program = folder / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n[ \"$*\" = -L ] && cat <<'END'\n{text}END\n")
        program.chmod(0o755)

    return say


def test_no_driver_no_gpus(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_installed(tmp_path / "proc") == []
    # Not even where a variable left over from elsewhere says so.
    assert find_gpus({"CUDA_VISIBLE_DEVICES": "0,1"}, []) == []


def test_the_drivers_files_tell_the_gpus(tmp_path, nvidia_smi):
    nvidia_smi("GPU 0: wrong (UUID: GPU-00000000-0000-0000-0000-000000000000)\n")
    assert find_installed(put_driver(tmp_path / "proc", B, A)) == [B, A]


def test_nvidia_smi_is_asked_where_they_do_not(tmp_path, nvidia_smi):
    proc = put_driver(tmp_path / "proc", "GPU-????????-????-????-????-????????????", B)
    nvidia_smi(f"GPU 0: NVIDIA X (UUID: {A})\nGPU 1: NVIDIA Y (UUID: {B})\n")
    assert find_installed(proc) == [A, B]
    assert find_installed(tmp_path / "nowhere") == [A, B]
    nvidia_smi("No devices were found\n")
    assert find_installed(proc) == ["0000:00:00.0", "0000:01:00.0"]
    assert find_gpus({}, ["0000:00:00.0", "0000:01:00.0"]) == [
        Gpu("0", "0000:00:00.0"),
        Gpu("1", "0000:01:00.0"),
    ]


def test_the_parts_of_a_partitioned_gpu_count_one_each(tmp_path, nvidia_smi):
    proc = put_driver(tmp_path / "proc", A, B)
    (proc / "capabilities/gpu0/mig/gi1").mkdir(parents=True)
    nvidia_smi(
        f"GPU 0: NVIDIA X (UUID: {A})\n  MIG 1g.10gb     Device  0: (UUID: MIG-one)\n"
        f"  MIG 1g.10gb     Device  1: (UUID: MIG-two)\nGPU 1: NVIDIA X (UUID: {B})\n"
    )
    assert find_installed(proc) == ["MIG-one", "MIG-two", B]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [Gpu(A, A), Gpu(B, B)]),
        ("0,1", [Gpu("0", A), Gpu("1", B)]),
        ("1", [Gpu("1", B)]),
        (B[:12], [Gpu(B[:12], B)]),
        (f"{B}, 0", [Gpu(B, B), Gpu("0", A)]),
        ("7", [Gpu("7", "gpu-7")]),
        ("MIG-x", [Gpu("MIG-x", "MIG-x")]),
        ("", []),
        ("-1", []),
        ("0,-1,1", [Gpu("0", A)]),
        ("NoDevFiles", []),
    ],
)
def test_what_a_scheduler_shows_is_what_there_is(visible, expected):
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert find_gpus(environment, [A, B]) == expected


def put_machine(monkeypatch, gpus, metal=False):
    monkeypatch.setattr(devices, "find_gpus", lambda: gpus)
    monkeypatch.setattr(devices, "has_metal", lambda: metal)


def test_gpus_are_counted_as_the_study_wants_them(monkeypatch):
    put_machine(monkeypatch, [Gpu(A, A), Gpu(B, B)])
    assert [count_gpus(device) for device in ("auto", "cuda", "cpu")] == [2, 2, 0]
    put_machine(monkeypatch, [], metal=True)
    assert [count_gpus(device) for device in ("auto", "mps", "cpu")] == [1, 1, 0]
    put_machine(monkeypatch, [])
    assert [count_gpus(device) for device in ("auto", "cpu")] == [0, 0]


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_study_that_insists_is_told_that_there_are_none(monkeypatch, device):
    put_machine(monkeypatch, [])
    with pytest.raises(ConsilienceError, match=f"device: {device}, but this machine shows no"):
        count_gpus(device)
    with pytest.raises(ConsilienceError, match=f"device: {device}, but this step was given no GPU"):
        choose_kind(device, 0)


def test_a_profile_may_say_how_many_gpus_steps_have(monkeypatch):
    put_machine(monkeypatch, [Gpu(A, A)])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert limit_gpus("auto", None, True) == 1
    assert limit_gpus("auto", 8, True) == 8  # of a cluster, whatever this machine has
    assert limit_gpus("auto", 0, True) == limit_gpus("cpu", 8, True) == 0
    with pytest.raises(ConsilienceError, match="device: cuda, but steps may have no GPUs"):
        limit_gpus("cuda", 0, True)
    # A job on a cluster's node takes no GPU that the scheduler did not give it.
    assert limit_gpus("auto", None, False) == 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert limit_gpus("auto", None, False) == 1


def test_a_step_computes_where_it_was_granted(monkeypatch):
    monkeypatch.setattr(devices, "has_metal", lambda: False)
    assert choose_kind("auto", 0) == choose_kind("cpu", 1) == choose_kind("cpu", 0) == "cpu"
    assert choose_kind("auto", 1) == choose_kind("cuda", 1) == "cuda"
    assert choose_kind("mps", 1) == "mps"
    monkeypatch.setattr(devices, "has_metal", lambda: True)
    assert choose_kind("auto", 1) == "mps"


def test_steps_that_compute_on_a_device_ask_for_one_gpu_and_no_others():
    asked, scripts = set(), set()
    for path in sorted((REPOSITORY / "rules").glob("*.smk")):
        for block in re.split(r"\n(?=(?:use )?rule \w)", path.read_text()):
            if script := re.search(r"script:\n *\"\.\./workflow/scripts/(\w+\.py)\"", block):
                scripts.add(script[1])
                asked |= {script[1]} if re.search(r"\n +gpu=1,\n", block) else set()
    computing = {
        path.name
        for path in (REPOSITORY / "workflow/scripts").glob("*.py")
        if "computing(snakemake, log) as device" in path.read_text()
    }
    assert computing <= scripts
    assert asked == computing
    assert len(asked) > 10


def test_steps_that_read_in_threads_get_them_where_there_are_gpus():
    given, reading = set(), set()
    for path in sorted((REPOSITORY / "rules").glob("*.smk")):
        for block in re.split(r"\n(?=(?:use )?rule \w)", path.read_text()):
            if "\n    threads: READERS\n" in block:
                given |= {re.search(r"workflow/scripts/(\w+\.py)\"", block)[1]}
    for path in (REPOSITORY / "workflow/scripts").glob("*.py"):
        if "reading_threads(snakemake)" in path.read_text():
            reading.add(path.name)
    assert given == reading == {"embed_probe.py", "extract_activations.py"}


def test_counting_needs_no_torch():
    command = "import sys; from consilience import devices; devices.count_gpus('auto'); "
    command += "sys.exit('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "workflow")}
    subprocess.run([sys.executable, "-c", command], env=environment, check=True)


STEP = """
import sys
from consilience import devices
gpus = [devices.Gpu(one, one) for one in sys.argv[2:]]
with devices.claim(gpus, lambda line: print(line, flush=True), sys.argv[1]) as gpu:
    print("has", gpu.identity, flush=True)
    sys.stdin.read()
"""


def start_step(folder):
    """A process that claims a GPU, says which, and holds it until its input ends."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "workflow")}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", STEP, folder, A, B], env=environment, **pipes)


def test_each_step_has_a_gpu_of_its_own_and_a_killed_one_frees_it(tmp_path):
    steps = [start_step(tmp_path), start_step(tmp_path)]
    try:
        assert {step.stdout.readline() for step in steps} == {f"has {A}\n", f"has {B}\n"}
        steps += [start_step(tmp_path), start_step(tmp_path)]
        for step in steps[2:]:
            assert step.stdout.readline() == "all 2 GPUs are in use; waiting\n"
        steps[0].kill()
        ready, _, _ = select.select([step.stdout for step in steps[2:]], [], [], 30)
        (freed,) = ready  # one of the two that wait has it, and one only
        assert freed.readline() in (f"has {A}\n", f"has {B}\n")
        steps[1].stdin.close()
        (other,) = [step.stdout for step in steps[2:] if step.stdout is not freed]
        assert other.readline().startswith("has GPU-")
    finally:
        for step in steps:
            step.kill()
            step.communicate() if not step.stdin.closed else step.wait()


def test_the_locks_are_the_users_own(monkeypatch, tmp_path):
    folder = devices._lock_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert devices._lock_folder() == folder
    monkeypatch.setattr(os, "getuid", lambda: 4242424)
    with pytest.raises(ConsilienceError, match="is not a folder of yours"):
        devices._lock_folder()
    folder.with_name("consilience-4242424").rmdir()

"""PyTorch made ready for a step; the GPU that this machine lacks is played by a list."""

import os
from types import SimpleNamespace

import pytest
import torch

from consilience import computing, devices
from consilience.devices import Gpu
from consilience.errors import ConsilienceError

A = "GPU-aaaaaaaa-0000-1111-2222-aaaaaaaaaaaa"


def make_step(device="auto", granted=0, wanted=1, threads=1):
    return SimpleNamespace(
        config={"device": device},
        resources={"gpu": granted},
        params=SimpleNamespace(compute_threads=wanted),
        threads=threads,
    )


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """Put back what making PyTorch ready changes; no GPU but those of the test."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(devices, "has_metal", lambda: False)
    for name in ("CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    yield
    torch.set_num_threads(threads)


def test_threads_are_the_studys(monkeypatch):
    said = []
    with computing.computing(make_step(wanted=2, threads=2), said.append) as device:
        assert device == "cpu"
        assert torch.get_num_threads() == 2
    assert said == []


def test_a_step_takes_no_more_threads_than_it_was_given():
    said = []
    with computing.computing(make_step(wanted=8, threads=1), said.append):
        assert torch.get_num_threads() == 1
    (line,) = said
    assert "compute_threads is 8, but the step was given 1" in line


@pytest.mark.parametrize("gpus", [[], [Gpu("0", A)]])
def test_a_gpu_that_pytorch_cannot_use_is_said_and_done_without(monkeypatch, tmp_path, gpus):
    if torch.cuda.is_available():
        pytest.skip("PyTorch can use a GPU here")
    monkeypatch.setattr(computing, "find_gpus", lambda: gpus)
    said = []
    with computing.use_device("auto", 1, said.append, tmp_path) as device:
        assert device == "cpu"
    assert said[0].startswith("warning: given a GPU, but ")
    with (
        pytest.raises(ConsilienceError, match="device: cuda, but "),
        computing.use_device("cuda", 1, said.append, tmp_path),
    ):
        pass


@pytest.fixture
def usable(monkeypatch):
    """Let PyTorch seem to be able to use GPU A."""
    monkeypatch.setattr(computing, "find_gpus", lambda: [Gpu(A[:8], A)])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Testing X")
    ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *shape, device: ones(*shape))


def test_a_step_sees_its_own_gpu_alone_and_float32_means_float32(usable, tmp_path):
    said, convolutions = [], torch.backends.cudnn.conv.fp32_precision
    with computing.use_device("auto", 1, said.append, tmp_path) as device:
        assert device == "cuda"
        assert os.environ["CUDA_VISIBLE_DEVICES"] == A[:8]
        assert torch.backends.cudnn.conv.fp32_precision == "ieee"
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cuda.mem_efficient_sdp_enabled()
        assert devices.try_lock(tmp_path / f"{A}.lock") is None
    assert devices.try_lock(tmp_path / f"{A}.lock") is not None
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cuda.mem_efficient_sdp_enabled()
    assert torch.backends.cudnn.conv.fp32_precision == convolutions
    assert said == [f"computing on Testing X, {A}"]


@pytest.mark.parametrize(("device", "expected"), [("cpu", 1), ("cuda", 8), ("mps", 8)])
def test_pictures_are_read_in_threads_for_a_device_that_would_wait(device, expected):
    step = SimpleNamespace(device=device, threads=8)
    assert computing.reading_threads(step) == expected


def test_too_little_memory_is_said_as_it_is(usable, tmp_path):
    with (
        pytest.raises(ConsilienceError, match="the memory of Testing X does not suffice"),
        computing.use_device("auto", 1, lambda line: None, tmp_path),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")

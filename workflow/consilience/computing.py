"""PyTorch made ready for a step: its device and its threads."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from .devices import Gpu, choose_kind, claim, find_gpus
from .errors import ConsilienceError


@contextmanager
def computing(step, log: Callable[[str], None]) -> Iterator[str]:
    """Yield the device that a step computes on, for ``Tensor.to``, with PyTorch made ready for it.

    Parameters
    ----------
    step
        What Snakemake tells a script of its job: the object ``snakemake``. The device is noted on
        it, as ``device``.
    log
        Takes a line.

    Raises
    ------
    ConsilienceError
        As :func:`use_device` does.
    """
    set_threads(step, log)
    granted = step.resources.get("gpu", 0)
    with use_device(step.config.get("device", "auto"), granted, log) as step.device:
        yield step.device


def set_threads(step, log: Callable[[str], None]) -> None:
    """Let PyTorch compute with the step's threads.

    How many is the study's to say (``compute_threads``), since last digits can depend on it; where
    the machine grants the step fewer, it computes with these, and says so.

    Parameters
    ----------
    step, log
        As for :func:`computing`.
    """
    wanted, threads = step.params.compute_threads, step.threads
    if threads < wanted:
        log(
            f"warning: compute_threads is {wanted}, but the step was given {threads}: last digits "
            "may differ from those of a machine with more cores"
        )
    torch.set_num_threads(min(wanted, threads))


def reading_threads(step) -> int:
    """Return in how many threads a step reads pictures: on a processor PyTorch has them all."""
    return 1 if step.device == "cpu" else step.threads


@contextmanager
def use_device(
    device: str, granted: int, log: Callable[[str], None], folder: str | Path | None = None
) -> Iterator[str]:
    """Claim a device, make PyTorch ready for it, and yield its name: ``cpu``, ``cuda`` or ``mps``.

    Nothing in this process may have asked CUDA for anything before. On a GPU float32 means float32
    (no TF32), and operations are the deterministic ones where PyTorch has such: the same step gives
    the same bytes on the same GPU, and a processor's up to rounding.

    Parameters
    ----------
    device, granted
        As :func:`consilience.devices.choose_kind` takes them.
    log
        Takes a line.
    folder
        Of the locks; by default the user's own.

    Raises
    ------
    ConsilienceError
        As :func:`consilience.devices.choose_kind` does; if PyTorch cannot use the GPU and the study
        insists on it; if the GPU's memory does not suffice.
    """
    kind = choose_kind(device, granted)
    if kind == "cpu":
        yield "cpu"
        return
    gpus = [Gpu("mps", "mps")] if kind == "mps" else find_gpus()
    if not gpus:
        yield _do_without(device, f"{platform.node()} shows none", log)
        return
    with claim(gpus, log, folder) as gpu:
        if why := _try_device(kind, gpu):
            yield _do_without(device, f"PyTorch cannot use {gpu.identity} ({why})", log)
            return
        name = torch.cuda.get_device_name() if kind == "cuda" else "this Mac's GPU"
        log(f"computing on {name}, {gpu.identity}")
        try:
            with exact():
                yield kind
        except torch.OutOfMemoryError as error:
            raise ConsilienceError(
                f"the memory of {name} does not suffice ({str(error).splitlines()[0]}); lower the "
                "batch_size that the step uses (cam, lime, faithfulness), or set device: cpu"
            ) from None


@contextmanager
def exact() -> Iterator[None]:
    """Let float32 be float32 (no TF32) and operations the deterministic ones where there are such.

    What PyTorch was set to is put back at the end.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel  # here: most steps use no GPU

    # The first alone leaves TF32 on in cuDNN's convolutions (PyTorch 2.11).
    precisions = torch.backends, torch.backends.cuda.matmul, torch.backends.cudnn.conv
    memory = torch.utils.deterministic
    before = [backend.fp32_precision for backend in precisions]
    benchmark, filled = torch.backends.cudnn.benchmark, memory.fill_uninitialized_memory
    mode = torch.get_deterministic_debug_mode()
    try:
        for backend in precisions:
            backend.fp32_precision = "ieee"
        torch.backends.cudnn.benchmark = False
        torch.set_deterministic_debug_mode("warn")
        memory.fill_uninitialized_memory = False  # we read none
        with sdpa_kernel(SDPBackend.MATH):  # gradients of the fused kernels for attention vary
            yield
    finally:
        for backend, precision in zip(precisions, before, strict=True):
            backend.fp32_precision = precision
        torch.backends.cudnn.benchmark = benchmark
        torch.set_deterministic_debug_mode(mode)
        memory.fill_uninitialized_memory = filled


def _try_device(kind: str, gpu: Gpu) -> str | None:
    """Let this process see that device alone and compute on it; return why it cannot."""
    if kind == "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu.name
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS varies
    try:
        if kind == "cuda" and (count := torch.cuda.device_count()) != 1:
            return f"it sees {count} devices instead of one"
        (torch.ones(1, device=kind) + 1).cpu()
    except (RuntimeError, AssertionError) as error:  # no driver, or one that is too old
        return str(error).splitlines()[0]
    return None


def _do_without(device: str, why: str, log: Callable[[str], None]) -> str:
    """Return the processor's name, or refuse it where the study insists on a GPU."""
    if device != "auto":
        raise ConsilienceError(f"device: {device}, but {why}; set device: auto, or cpu")
    log(f"warning: given a GPU, but {why}; computing on the processor (device: cpu avoids this)")
    return "cpu"

"""CAMs, LIME and activations on a GPU, by the libraries and by ours, by turns in one process.

The library runs as PyTorch is when nobody sets anything (TF32 in convolutions, whatever algorithm
is fastest), and again as the workflow sets it: float32 that is float32, and deterministic
algorithms. Ours runs in float32 and in bfloat16, with these settings. Seconds are of the wall
clock, the device's queue emptied; memory is the most that PyTorch held on the device.

Weights are random with batch normalisations calibrated, pictures are smooth noise, or photographs
where CONSILIENCE_REAL_DATA names the folder of real data.
"""

import argparse
import contextlib
import copy
import dataclasses
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable

import activations
import cam
import lime_image
import numpy as np
import torch
from side_by_side import make_classifier, make_views, run_forward

from consilience import computing
from consilience.cam import explain_cam
from consilience.classifiers import Classifier
from consilience.explain_params import study_params
from consilience.images import Transform
from consilience.inference import prepare
from consilience.lime_image import explain_lime


def measure(name: str, work: Callable[[], object]) -> tuple[float, float, object]:
    """Return seconds, the most memory held in MiB, and what was found."""
    settings = contextlib.nullcontext() if name == "library" else computing.exact()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    with settings, open(os.devnull, "w") as bars, contextlib.redirect_stderr(bars):
        began = time.perf_counter()
        found = work()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    return seconds, torch.cuda.max_memory_allocated() / 2**20, found


def compare(title: str, works: dict[str, Callable[[], object]], rounds: int) -> dict:
    """Print medians of each, as many times ours, and return what each found last."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    found = {}
    for name, work in works.items():
        measure(name, work)  # algorithms are chosen, kernels are loaded
    for _ in range(rounds):
        for name, work in works.items():
            *figures, found[name] = measure(name, work)
            times[name].append(figures)
    seconds = {name: statistics.median(s for s, _ in column) for name, column in times.items()}
    print(title)
    for name, column in times.items():
        ratio = seconds[name] / seconds["ours"]
        memory = max(size for _, size in column)
        print(f"  {name}: {seconds[name]:.3f} s ({ratio:.2f}x), {memory:.0f} MiB")
    return found


def say_difference(found: dict, choose: Callable) -> None:
    """Print how far ours are from the library's under our settings, and the library from itself."""
    known = choose(found["library, our settings"])
    for name in found:
        if name not in ("forward", "library, our settings"):
            print(f"  {name}: largest difference {np.abs(choose(found[name]) - known).max():.0e}")


def on_gpu(classifier: Classifier, precision: str | None, keep=()) -> Classifier:
    """Copy a classifier to the GPU, prepared as the workflow does or as it is."""
    copied = copy.deepcopy(classifier)
    if precision is None:
        copied.model.to("cuda")
    else:
        prepare(copied.model.requires_grad_(False), keep, precision, "cuda")
    return copied


def compare_cams(architecture: str, arguments: argparse.Namespace) -> None:
    """Print what each method takes."""
    layer, batch = cam.LAYERS[architecture], arguments.batch
    base = make_classifier(architecture, arguments.side)
    view = make_views(1, arguments.side)[0]
    target = int(base.probabilities(view[None])[0].argmax())
    plain = on_gpu(base, None)
    ours, fast = (on_gpu(base, kind, [layer]) for kind in ("float32", "bfloat16"))
    passes = cam.count_passes(plain, layer, view)
    inputs = torch.rand(batch, 3, arguments.side, arguments.side, device="cuda")
    for method in cam.LIBRARY:

        def ask_library(method=method):
            return cam.ask_library(plain, method, layer, view, target, batch).ravel()

        def ask(who, method=method):
            return explain_cam(who, method, layer, [view], [target], batch)[0]["heatmap"]

        works = {
            "library": ask_library,
            "library, our settings": ask_library,
            "ours": lambda ask=ask: ask(ours),
            "ours in bfloat16": lambda ask=ask: ask(fast),
        }
        if method == "score-cam":
            works["forward"] = lambda: run_forward(ours, inputs, passes, batch)
        found = compare(f"{architecture} {layer}, {method}, batch {batch}", works, arguments.rounds)
        say_difference(found, np.float64)


def compare_limes(architecture: str, arguments: argparse.Namespace) -> None:
    """Print what LIME takes."""
    batch, samples = arguments.batch, arguments.samples
    base = make_classifier(architecture, arguments.side)
    view = make_views(1, arguments.side)[0]
    target = int(base.probabilities(view[None])[0].argmax())
    plain, ours, fast = (on_gpu(base, kind) for kind in (None, "float32", "bfloat16"))
    params = study_params(lime_image.SETTINGS | {"num_samples": samples, "batch_size": batch})
    inputs = ours.prepare_input(view[None].repeat(batch, 0))

    def ask_library():
        classifier_fn = lime_image.make_classifier_fn(plain)
        return lime_image.ask_library(classifier_fn, view, target, samples, batch)

    works = {
        "library": ask_library,
        "library, our settings": ask_library,
        "ours": lambda: explain_lime(ours, view, [target], params)[0],
        "ours in bfloat16": lambda: explain_lime(fast, view, [target], params)[0],
        "forward": lambda: run_forward(ours, inputs, samples, batch),
    }
    title = f"{architecture}, LIME with {samples} samples, batch {batch}"
    found = compare(title, works, arguments.rounds)
    say_difference(found, lambda one: np.float64(one["weights"]))


def compare_recording(architecture: str, arguments: argparse.Namespace) -> None:
    """Print what recording activations takes."""
    side = arguments.side
    base = make_classifier(architecture, side)
    base = dataclasses.replace(base, transform=Transform(side * 8 // 7, (side, side)))
    plain, ours = on_gpu(base, None), on_gpu(base, "float32", activations.LAYERS)
    batch = arguments.batch
    rows = activations.make_rows(arguments.pictures, activations.encode_jpeg)
    inputs = ours.prepare_input(make_views(1, side).repeat(batch, 0))
    with tempfile.TemporaryDirectory() as folder:
        works = {
            "library": lambda: activations.dissect_plainly(plain, rows, batch, f"{folder}/plain"),
            "ours": lambda: activations.extract(ours, rows, batch, f"{folder}/o.parquet", 8),
            "ours, one thread": lambda: activations.extract(
                ours, rows, batch, f"{folder}/o.parquet"
            ),
            "decoding alone, one thread": lambda: activations.decode(ours, rows),
            "forward": lambda: run_forward(ours, inputs, arguments.pictures, batch),
        }
        title = f"{architecture}, recording {arguments.pictures} JPEGs, batch {batch}"
        compare(title, works, arguments.rounds)


def main() -> None:
    """Compare on each network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=[*cam.LAYERS], default=["resnet50"])
    parser.add_argument("--rounds", type=int, default=5, help="times each is measured")
    parser.add_argument("--side", type=int, default=224, help="of the pictures, pixels")
    parser.add_argument("--batch", type=int, default=64, help="pictures a forward pass")
    parser.add_argument("--samples", type=int, default=1000, help="LIME's perturbed pictures")
    parser.add_argument("--pictures", type=int, default=512, help="whose activations are recorded")
    arguments = parser.parse_args()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as use_device sets it
    if not torch.cuda.is_available():
        raise SystemExit(f"PyTorch {torch.__version__} can use no GPU of NVIDIA's here")
    print(
        f"{torch.cuda.get_device_name()}, Python {platform.python_version()}, torch "
        f"{torch.__version__}; side {arguments.side}; medians of {arguments.rounds} rounds"
    )
    for architecture in arguments.networks:
        compare_cams(architecture, arguments)
        compare_limes(architecture, arguments)
        if architecture == "resnet50":
            compare_recording(architecture, arguments)


if __name__ == "__main__":
    main()

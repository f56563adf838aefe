"""Class activation maps by pytorch-grad-cam and by ours, in separate processes, by turns.

Three processes for each network: the library in the default environment, the library with the
allocator's variables that `rules/common.smk` sets, and ours with these too. Beside Score-CAM runs
the bare forward loop: as many passes of ours as Score-CAM takes, and nothing else.

Weights of ResNets are random with batch normalisations calibrated; SqueezeNet is there where
CONSILIENCE_REAL_DATA names the folder of real data, and then pictures are photographs, else noise.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytorch_grad_cam
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from consilience.cam import explain_cam, is_constant
from consilience.classifiers import Classifier, build_architecture, read_state_dict
from consilience.convolution import accelerate
from consilience.images import Transform, decode_image

LAYERS = {"resnet18": "layer4", "resnet50": "layer4", "squeezenet1_0": "features.12"}
LIBRARY = {
    "grad-cam": pytorch_grad_cam.GradCAM,
    "score-cam": pytorch_grad_cam.ScoreCAM,
    "ablation-cam": pytorch_grad_cam.AblationCAM,
}
# As in rules/common.smk.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "8589934592",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}
ENVIRONMENTS = {"library": {}, "library, our allocator": ALLOCATOR, "ours": ALLOCATOR}


def make_views(count: int, side: int) -> np.ndarray:
    """Return photographs where there are any, else smooth noise: uint8, (n, side, side, 3)."""
    folder = os.environ.get("CONSILIENCE_REAL_DATA")
    if folder:
        fit = Transform(resize=side, crop=(side, side)).fit
        files = sorted(Path(folder, "photos").glob("*.JPEG"))[:count]
        return np.stack([fit(decode_image(file.read_bytes(), file.name)) for file in files])
    noise = torch.rand(count, 3, side // 16, side // 16, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(noise, (side, side), mode="bicubic").clamp(0, 1)
    return (255 * smooth).byte().permute(0, 2, 3, 1).numpy()


def make_classifier(architecture: str, side: int) -> Classifier:
    """Build the network: SqueezeNet with its real weights, others random and calibrated."""
    torch.manual_seed(0)
    model = build_architecture(architecture, 1000)
    transform = Transform(crop=(side, side))
    if architecture == "squeezenet1_0":
        weights = Path(os.environ["CONSILIENCE_REAL_DATA"], "weights/squeezenet1_0_imagenet.pt")
        model.load_state_dict(read_state_dict(weights))
    else:
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.train()
                module.momentum = 1.0
        with torch.no_grad():
            model(transform.normalize(make_views(16, side)))
    return Classifier(architecture, model.eval(), tuple(map(str, range(1000))), transform)


def set_precision(model: torch.nn.Module, precision: str) -> None:
    """Let a model compute in the given precision."""
    if precision == "bfloat16":
        model.forward = torch.autocast("cpu", dtype=torch.bfloat16)(model.forward)


def ask_library(classifier: Classifier, method: str, layer: str, view, target: int, batch: int):
    """Explain as the library's README says."""
    explainer = LIBRARY[method](classifier.model, [classifier.layer(layer)])
    explainer.batch_size = batch
    heatmap = explainer(
        classifier.transform.normalize(view[None]), [ClassifierOutputTarget(target)]
    )[0]
    explainer.activations_and_grads.release()
    return heatmap


def run_forward(classifier: Classifier, inputs: torch.Tensor, passes: int, batch: int) -> None:
    """Make so many forward passes, and nothing else."""
    with torch.no_grad():
        for part in torch.arange(passes).split(batch):
            classifier.model(inputs[: len(part)])


def count_passes(classifier: Classifier, layer: str, view: np.ndarray) -> int:
    """Return how many pictures Score-CAM asks about, with its check and the picture itself."""
    maps = []
    handle = classifier.layer(layer).register_forward_hook(lambda *args: maps.append(args[2][0]))
    with torch.no_grad():
        classifier.model(classifier.transform.normalize(view[None]))
    handle.remove()
    empty = is_constant(maps[0])
    return 2 + int(empty.any()) + int((~empty).sum())


def work(who: str, architecture: str, arguments: argparse.Namespace) -> None:
    """Answer each method read from the standard input with seconds and the file of the map."""
    torch.set_num_threads(1)
    classifier = make_classifier(architecture, arguments.side)
    view = make_views(1, arguments.side)[0]
    target = int(classifier.probabilities(view[None])[0].argmax())
    layer, batch = LAYERS[architecture], arguments.batch
    inputs = torch.rand(batch, 3, arguments.side, arguments.side)
    if who == "ours":
        classifier.model.requires_grad_(False)
        accelerate(classifier.model, None if arguments.precision == "float32" else False)
        set_precision(classifier.model, arguments.precision)
    passes = count_passes(classifier, layer, view)
    print("{}", flush=True)
    for method in map(str.strip, sys.stdin):
        began = time.process_time()
        if method == "forward":
            run_forward(classifier, inputs, passes, batch)
            heatmap = np.zeros(1)
        elif who == "ours":
            (row,) = explain_cam(classifier, method, layer, [view], [target], batch)
            heatmap = row["heatmap"]
        else:
            heatmap = ask_library(classifier, method, layer, view, target, batch).ravel()
        seconds = time.process_time() - began
        file = Path(arguments.folder, f"{who}.npy")
        np.save(file, heatmap)
        print(json.dumps({"seconds": seconds, "passes": passes, "map": str(file)}), flush=True)


class Worker:
    """A process that explains on demand."""

    def __init__(self, who: str, architecture: str, folder: str):
        environment = {key: v for key, v in os.environ.items() if key not in ALLOCATOR}
        self.log = Path(folder, f"{who}.log")
        command = [sys.executable, __file__, *sys.argv[1:], "--folder", folder]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [*command, "--worker", who, architecture],
                env=environment | ENVIRONMENTS[who] | {"OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,  # the library's progress bars
                text=True,
            )
        self.read()

    def read(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(self.log.read_text())
        return json.loads(line)

    def ask(self, method: str) -> dict:
        self.process.stdin.write(method + "\n")
        self.process.stdin.flush()
        return self.read()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def compare(architecture: str, arguments: argparse.Namespace) -> None:
    """Print seconds of each process, ratios of medians, and the largest difference of a map."""
    with tempfile.TemporaryDirectory() as folder:
        workers = {who: Worker(who, architecture, folder) for who in ENVIRONMENTS}
        for worker in workers.values():
            worker.ask("grad-cam")  # the first pass of a process costs more
        for method in LIBRARY:
            times: dict[str, list[float]] = {}
            differences = []
            for _ in range(arguments.rounds):
                maps = {}
                for who, worker in workers.items():
                    answer = worker.ask(method)
                    times.setdefault(who, []).append(answer["seconds"])
                    maps[who] = np.load(answer["map"])
                differences.append(np.abs(maps["ours"] - maps["library"]).max())
                if method == "score-cam":
                    bare = workers["ours"].ask("forward")
                    times.setdefault("bare", []).append(bare["seconds"])
            seconds = {who: statistics.median(values) for who, values in times.items()}
            ours = seconds["ours"]
            said = ", ".join(
                f"{who} {seconds[who]:.3f} s ({seconds[who] / ours:.2f}x)" for who in ENVIRONMENTS
            )
            print(f"{architecture} {LAYERS[architecture]}, {method}: {said}")
            print(f"  largest difference of the heatmaps {max(differences):.0e}")
            if "bare" in seconds:
                print(
                    f"  bare forward loop of {bare['passes']} passes {seconds['bare']:.3f} s: ours "
                    f"has {100 * seconds['bare'] / ours:.0f} % of its speed"
                )
        for worker in workers.values():
            worker.close()


def main() -> None:
    """Compare on each network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="ResNet50 too")
    parser.add_argument("--rounds", type=int, default=5, help="times each is measured")
    parser.add_argument("--side", type=int, default=224, help="of the pictures, pixels")
    parser.add_argument("--batch", type=int, default=32, help="pictures a forward pass")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(*arguments.worker, arguments)
        return
    real = "CONSILIENCE_REAL_DATA" in os.environ
    print(
        f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}; "
        f"one thread; side {arguments.side}, batch {arguments.batch}; ours in "
        f"{arguments.precision}, the library in float32; {'photograph' if real else 'noise'}; "
        f"medians of {arguments.rounds} rounds of processor time"
    )
    networks = ["resnet18", "resnet50"] if arguments.full else ["resnet18"]
    for architecture in networks + ["squeezenet1_0"] * real:
        compare(architecture, arguments)


if __name__ == "__main__":
    main()

"""What benchmarks share that run a library and ours in separate processes, by turns."""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from consilience.classifiers import Classifier, build_architecture, read_state_dict
from consilience.images import Transform, decode_image

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


def run_forward(classifier: Classifier, inputs: torch.Tensor, passes: int, batch: int) -> None:
    """Make so many forward passes, and nothing else."""
    with torch.no_grad():
        for part in torch.arange(passes).split(batch):
            classifier.model(inputs[: len(part)])


class Worker:
    """A process of this script that answers on demand, a line of JSON each time."""

    def __init__(self, who: str, architecture: str, folder: str):
        environment = {key: v for key, v in os.environ.items() if key not in ALLOCATOR}
        self.log = Path(folder, f"{who}.log")
        command = [sys.executable, *sys.argv, "--folder", folder]
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

    def ask(self, question: str) -> dict:
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        return self.read()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def make_parser(description: str) -> argparse.ArgumentParser:
    """Return the arguments that all such benchmarks take."""
    parser = argparse.ArgumentParser(description=description)
    known = ["resnet18", "resnet50", "squeezenet1_0"]
    usual = ["resnet18"] + ["squeezenet1_0"] * ("CONSILIENCE_REAL_DATA" in os.environ)
    parser.add_argument("--networks", nargs="+", choices=known, default=usual)
    parser.add_argument("--rounds", type=int, default=5, help="times each is measured")
    parser.add_argument("--side", type=int, default=224, help="of the pictures, pixels")
    parser.add_argument("--batch", type=int, default=32, help="pictures a forward pass")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser


def run(arguments: argparse.Namespace, work, compare) -> None:
    """Be a worker if told so; else say the conditions and compare on each network."""
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
    for architecture in arguments.networks:
        compare(architecture, arguments)


def say_times(seconds: dict[str, float]) -> str:
    """Say each process's seconds and how many times ours that is."""
    return ", ".join(
        f"{who} {seconds[who]:.3f} s ({seconds[who] / seconds['ours']:.2f}x)"
        for who in ENVIRONMENTS
    )


def say_bare(passes: int, bare: float, ours: float) -> str:
    """Say what the bare forward loop takes, and our share of its speed."""
    return (
        f"bare forward loop of {passes} passes {bare:.3f} s: ours has {100 * bare / ours:.0f} % "
        "of its speed"
    )

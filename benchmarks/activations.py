"""Recording activations of ResNet18: against decoding and bare forward passes, and CLIP-Dissect."""

import copy
import io
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from consilience import tables
from consilience.activations import extract_activations
from consilience.classifiers import Classifier, build_architecture
from consilience.images import Transform, encode_png, hash_bytes, read_picture, read_pictures
from consilience.inference import prepare

LAYERS = ("layer1", "layer2", "layer3", "layer4", "fc")
ROUNDS = 5


def make_rows(count: int, encode: Callable[[Image.Image], bytes]) -> list[dict]:
    """Make pictures of 500 × 375 pixels, as rows of the table ``PICTURES``."""
    rng = np.random.default_rng(0)
    rows = []
    for index in range(count):
        # Smooth with some grain: noise alone would take JPEG longer than any photograph.
        coarse = Image.fromarray(rng.integers(256, size=(12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), dtype=np.int16)
        pixels = (smooth + rng.integers(-8, 9, smooth.shape)).clip(0, 255).astype(np.uint8)
        data = encode(Image.fromarray(pixels))
        image = {"bytes": data, "path": None}
        row = {"name": f"{index}", "sha256": hash_bytes(data), "image": image, "error": None}
        rows.append(row)
    return rows


def encode_jpeg(picture: Image.Image) -> bytes:
    """Encode as photographs mostly are."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def decode(classifier: Classifier, rows: list[dict]) -> np.ndarray:
    """Decode pictures and bring them into the model's geometry."""
    return np.stack([classifier.transform.fit(read_picture(row)) for row in rows])


def forward(classifier: Classifier, inputs: torch.Tensor, size: int) -> None:
    """Run bare forward passes, and nothing else."""
    with torch.inference_mode():
        for batch in inputs.split(size):
            classifier.model(batch)


def extract(
    classifier: Classifier, rows: list[dict], size: int, path: str, threads: int = 1
) -> None:
    """Record activations as the workflow's step does, the table included."""
    pictures = read_pictures(rows, classifier.transform.fit, threads)
    recorded = extract_activations(classifier, pictures, LAYERS, size)
    tables.write_table(recorded, path, tables.ACTIVATIONS)


def dissect_plainly(classifier: Classifier, rows: list[dict], size: int, path: str) -> None:
    """Record activations in CLIP-Dissect's manner: hooks that pool, one pass for all layers.

    The model as built: batch norms unfolded, in PyTorch's own layout.
    """
    recorded = {layer: [] for layer in LAYERS}

    def record(layer):
        def hook(module, args, output):
            output = output.detach()
            recorded[layer].append(output.mean(dim=[2, 3]) if output.ndim == 4 else output)

        return hook

    modules = dict(classifier.model.named_modules())
    handles = [modules[layer].register_forward_hook(record(layer)) for layer in LAYERS]
    with torch.no_grad():
        for start in range(0, len(rows), size):
            fitted = decode(classifier, rows[start : start + size])
            classifier.model(classifier.prepare_input(fitted))
    for handle in handles:
        handle.remove()
    for layer, parts in recorded.items():
        torch.save(torch.cat(parts), f"{path}.{layer}.pt")


def measure(work: Callable[[], object]) -> float:
    """Return seconds of processor time."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main(count: int, size: int, folder: str) -> None:
    """Print pictures per second of each, interleaved, and the ratios of the medians."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}")
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        print("without the allocator settings that the workflow's rules have (rules/common.smk)")
    transform = Transform(256, (224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    classes = tuple(map(str, range(1000)))
    model = build_architecture("resnet18", 1000).requires_grad_(False)
    plain = Classifier("plain", copy.deepcopy(model), classes, transform)
    prepare(model, LAYERS)
    ours = Classifier("ours", model, classes, transform)
    for kind, encode in (("JPEG", encode_jpeg), ("PNG", lambda p: encode_png(np.asarray(p)))):
        rows = make_rows(count, encode)
        inputs = transform.normalize(decode(ours, rows))
        works = {
            "decoding": lambda rows=rows: decode(ours, rows),
            "forward": lambda inputs=inputs: forward(ours, inputs, size),
            "extraction": lambda rows=rows: extract(ours, rows, size, f"{folder}/ours.parquet"),
            "plain loop": lambda rows=rows: dissect_plainly(plain, rows, size, f"{folder}/plain"),
        }
        for work in works.values():
            work()
        times = {name: [] for name in works}
        for _ in range(ROUNDS):
            for name, work in works.items():
                times[name].append(measure(work))
        seconds = {name: statistics.median(column) for name, column in times.items()}
        speeds = ", ".join(f"{name} {count / value:.1f}" for name, value in seconds.items())
        bound = seconds["decoding"] + seconds["forward"]
        print(
            f"resnet18 at 224, {len(LAYERS)} layers, batch {size}, {count} pictures ({kind}), "
            f"pictures/s: {speeds}; extraction {bound / seconds['extraction']:.2f} of decoding and "
            f"forward, {seconds['plain loop'] / seconds['extraction']:.2f} of the plain loop"
        )


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as temporary:
        main(*(numbers + [256, 32][len(numbers) :]), temporary)

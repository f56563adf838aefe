"""Class activation maps by pytorch-grad-cam and by ours, in separate processes, by turns.

Three processes for each network: the library in the default environment, the library with the
allocator's variables that `rules/common.smk` sets, and ours with these too, the model prepared as
the workflow does. Beside Score-CAM runs the bare forward loop: as many passes of ours as Score-CAM
takes, and nothing else.

Weights of ResNets are random with batch normalisations calibrated; SqueezeNet is there where
CONSILIENCE_REAL_DATA names the folder of real data, and then pictures are photographs, else noise.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytorch_grad_cam
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from side_by_side import (
    ENVIRONMENTS,
    Worker,
    make_classifier,
    make_parser,
    make_views,
    run,
    run_forward,
    say_bare,
    say_times,
)

from consilience.cam import explain_cam, is_constant
from consilience.classifiers import Classifier
from consilience.inference import prepare

LAYERS = {"resnet18": "layer4", "resnet50": "layer4", "squeezenet1_0": "features.12"}
LIBRARY = {
    "grad-cam": pytorch_grad_cam.GradCAM,
    "score-cam": pytorch_grad_cam.ScoreCAM,
    "ablation-cam": pytorch_grad_cam.AblationCAM,
}


def ask_library(classifier: Classifier, method: str, layer: str, view, target: int, batch: int):
    """Explain as the library's README says."""
    explainer = LIBRARY[method](classifier.model, [classifier.layer(layer)])
    explainer.batch_size = batch
    heatmap = explainer(
        classifier.transform.normalize(view[None]), [ClassifierOutputTarget(target)]
    )[0]
    explainer.activations_and_grads.release()
    return heatmap


def count_passes(classifier: Classifier, layer: str, view: np.ndarray) -> int:
    """Return how many pictures Score-CAM asks about, with its check and the picture itself."""
    maps = []
    handle = classifier.layer(layer).register_forward_hook(lambda *args: maps.append(args[2][0]))
    with torch.no_grad():
        classifier.model(classifier.prepare_input(view[None]))
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
        prepare(classifier.model.requires_grad_(False), [layer], arguments.precision)
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


def compare(architecture: str, arguments: argparse.Namespace) -> None:
    """Print seconds of each process, ratios of medians, and the largest difference of a map."""
    with tempfile.TemporaryDirectory() as folder:
        workers = {who: Worker(who, architecture, folder) for who in ENVIRONMENTS}
        for worker in workers.values():
            worker.ask("grad-cam")  # the first pass of a process costs more
        for method in arguments.methods:
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
            print(f"{architecture} {LAYERS[architecture]}, {method}: {say_times(seconds)}")
            print(f"  largest difference of the heatmaps {max(differences):.0e}")
            if "bare" in seconds:
                print(f"  {say_bare(bare['passes'], seconds['bare'], seconds['ours'])}")
        for worker in workers.values():
            worker.close()


def main() -> None:
    """Compare on each network."""
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=[*LIBRARY], default=[*LIBRARY])
    run(parser.parse_args(), work, compare)


if __name__ == "__main__":
    main()

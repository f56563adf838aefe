"""LIME by the lime library and by ours, in separate processes, by turns.

Three processes for each network: the library in the default environment, the library with the
allocator's variables that `rules/common.smk` sets, and ours with these too. The library asks a
plain torchvision model through a Python function; ours asks the model as the workflow prepares
it. Both get the same seeds, batch size and settings, those of `config.yaml`. The bare forward loop
is as many passes of our model as LIME takes, and nothing else.

Weights of ResNets are random with batch normalisations calibrated; SqueezeNet is there where
CONSILIENCE_REAL_DATA names the folder of real data, and then pictures are photographs, else noise.
"""

import argparse
import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

# Not lime.py: Python would take that for the library in every benchmark of this folder.
import lime.lime_image
import numpy as np
import torch
from lime.wrappers.scikit_image import SegmentationAlgorithm
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
from torchvision import transforms

from consilience.classifiers import Classifier
from consilience.explain_params import study_params
from consilience.inference import prepare
from consilience.lime_image import explain_lime

# As in config.yaml.
SEGMENTATION = {"method": "slic", "n_segments": 40, "compactness": 30, "sigma": 1}
SETTINGS = {
    "segmentation": SEGMENTATION,
    "hide_color": "mean",
    "kernel_width": 0.25,
    "distance_metric": "cosine",
    "segmentation_seed": 0,
    "perturbation_seed": 0,
}


def make_classifier_fn(classifier: Classifier) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that users of the library write around a torchvision model."""
    transform = transforms.Compose(
        [
            transforms.ToTensor(),
            transforms.Normalize(classifier.transform.mean, classifier.transform.std),
        ]
    )

    device = next(classifier.model.parameters()).device

    def predict(pictures: np.ndarray) -> np.ndarray:
        batch = torch.stack([transform(picture) for picture in pictures]).to(device)
        with torch.no_grad():
            return classifier.model(batch).softmax(1).cpu().numpy()

    return predict


def ask_library(classifier_fn, view: np.ndarray, target: int, samples: int, batch: int) -> dict:
    """Explain with the library as it is."""
    parameters = {key: value for key, value in SEGMENTATION.items() if key != "method"}
    # It counts superpixels from 0, SLIC by default from 1.
    segmentation = SegmentationAlgorithm(SEGMENTATION["method"], start_label=0, **parameters)
    explainer = lime.lime_image.LimeImageExplainer(
        kernel_width=SETTINGS["kernel_width"], random_state=SETTINGS["perturbation_seed"]
    )
    explanation = explainer.explain_instance(
        view,
        classifier_fn,
        labels=(target,),
        top_labels=None,
        num_samples=samples,
        batch_size=batch,
        segmentation_fn=segmentation,
        distance_metric=SETTINGS["distance_metric"],
        random_seed=SETTINGS["segmentation_seed"],
    )
    weights = dict(explanation.local_exp[target])
    return {
        "weights": np.array([weights[n] for n in sorted(weights)]),
        "segment_map": explanation.segments.ravel(),
        "r2": explanation.score,
    }


@dataclass(frozen=True)
class Recorder(Classifier):
    """A classifier that keeps what it said."""

    said: list[np.ndarray] = field(default_factory=list)

    def probabilities(self, pictures: np.ndarray) -> np.ndarray:
        self.said.append(super().probabilities(pictures))
        return self.said[-1]


def ask_ours(classifier: Classifier, view: np.ndarray, target: int, samples: int, batch: int):
    """Explain as the workflow does; beside the explanation stand the probabilities."""
    recorder = Recorder(**vars(classifier))
    params = study_params(SETTINGS | {"num_samples": samples, "batch_size": batch})
    (row,) = explain_lime(recorder, view, [target], params)
    kept = {key: row[key] for key in ("weights", "segment_map", "r2")}
    return kept | {"said": np.concatenate(recorder.said)}


def work(who: str, architecture: str, arguments: argparse.Namespace) -> None:
    """Answer each question of the standard input with seconds and the file of what was found."""
    torch.set_num_threads(1)
    classifier = make_classifier(architecture, arguments.side)
    view = make_views(1, arguments.side)[0]
    target = int(classifier.probabilities(view[None])[0].argmax())
    samples, batch = arguments.samples, arguments.batch
    inputs = classifier.transform.normalize(view[None].repeat(batch, 0))
    if who == "ours":
        classifier.model.requires_grad_(False)
        prepare(classifier.model, (), arguments.precision)
        ask, asked = ask_ours, classifier
    else:
        ask, asked = ask_library, make_classifier_fn(classifier)
    ask(asked, view, target, 2, batch)  # the first time costs more
    run_forward(classifier, inputs, batch, batch)
    print("{}", flush=True)
    for question in map(str.strip, sys.stdin):
        found = {}
        began = time.process_time()
        if question == "forward":
            run_forward(classifier, inputs, samples, batch)
        else:
            found = ask(asked, view, target, samples, batch)
        seconds = time.process_time() - began
        file = Path(arguments.folder, f"{who}.npz")
        np.savez(file, target=target, **found)
        print(json.dumps({"seconds": seconds, "found": str(file)}), flush=True)


def replay(ours, arguments: argparse.Namespace) -> dict:
    """Ask the library about a model that says what ours said."""
    batches = iter(
        np.split(ours["said"], range(arguments.batch, arguments.samples, arguments.batch))
    )
    view, target = make_views(1, arguments.side)[0], int(ours["target"])
    with contextlib.redirect_stderr(io.StringIO()):  # the progress bar
        return ask_library(
            lambda pictures: next(batches), view, target, arguments.samples, arguments.batch
        )


def compare(architecture: str, arguments: argparse.Namespace) -> None:
    """Print seconds of each process, ratios of medians, and how the explanations differ."""
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        workers = {who: Worker(who, architecture, folder) for who in ENVIRONMENTS}
        for _ in range(arguments.rounds):
            found = {}
            for who, worker in workers.items():
                answer = worker.ask("explain")
                times.setdefault(who, []).append(answer["seconds"])
                found[who] = dict(np.load(answer["found"]))
            bare = workers["ours"].ask("forward")
            times.setdefault("bare", []).append(bare["seconds"])
        for worker in workers.values():
            worker.close()
    # Every round asks the same: the explanations of the last stand for all.
    ours, library = found["ours"], found["library"]
    if not np.array_equal(ours["segment_map"], library["segment_map"]):
        raise SystemExit(f"{architecture}: the superpixels differ, though the seeds are the same")
    same = replay(ours, arguments)
    seconds = {who: statistics.median(values) for who, values in times.items()}
    print(f"{architecture}, {arguments.samples} samples: {say_times(seconds)}")
    print(f"  {say_bare(arguments.samples, seconds['bare'], seconds['ours'])}")
    print(
        f"  the same {len(ours['weights'])} superpixels; R² ours {ours['r2']:.4f}, library "
        f"{library['r2']:.4f}, library given our probabilities {same['r2']:.4f}"
    )
    print(
        "  largest difference of the weights given the same probabilities "
        f"{np.abs(ours['weights'] - same['weights']).max():.0e}, each asking its own model "
        f"{np.abs(ours['weights'] - library['weights']).max():.0e}; largest weight "
        f"{np.abs(library['weights']).max():.0e}"
    )


def main() -> None:
    """Compare on each network."""
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=150, help="perturbed pictures")
    run(parser.parse_args(), work, compare)


if __name__ == "__main__":
    main()

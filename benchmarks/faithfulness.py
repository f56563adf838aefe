"""Faithfulness by a plain loop with pytorch-grad-cam's ROAD and by ours, side by side.

Three processes for each network: the loop in the default environment, the loop with the
allocator's variables that `rules/common.smk` sets, and ours with these too. All score three maps
and two random ones of one picture: deletion and insertion with two fills, in eight steps, and ROAD
at four shares. Ours takes average drop and increase besides.

- `plain`: RISE's loop, a picture a pass, and `ROADCombined`, a map a call;
- `batched`: the same in batches, ROAD's five maps in one call;
- `imputation`: of the three maps' removed pixels alone, without a model.

Deletion and insertion as `CausalMetric` of https://github.com/eclique/RISE, with our fills. The
loop asks a plain torchvision model, ours the model as the workflow prepares it. The noise of ROAD
is off in both, so that the scores can be compared. The bare forward loop is as many passes of our
model as ours takes, and nothing else.

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

import cv2
import numpy as np
import torch
from pytorch_grad_cam.metrics import road
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
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

from consilience import faithfulness
from consilience.classifiers import Classifier
from consilience.inference import prepare

# As the configuration's schema has them.
STEPS, SHARES, ORDERS = 8, (0.2, 0.4, 0.6, 0.8), 2
MAPS, GRID = 3, (7, 7)


class Noiseless(road.NoisyLinearImputer):
    """The library's imputer without noise, so that scores can be compared."""

    def __init__(self):
        super().__init__(noise=0)


def make_maps(count: int, side: int) -> list[np.ndarray]:
    """Draw smooth maps without ties whose values, and one less these, are exact in float32."""
    generator, maps = np.random.default_rng(0), []
    for _ in range(count):
        smooth = cv2.resize(generator.standard_normal(GRID, dtype=np.float32), (side, side))
        ranks = faithfulness.rank_pixels(-smooth.ravel(), generator.permutation(side**2))
        maps.append(np.float32(ranks.reshape(side, side) / 2**20))
    return maps


def ask(model: torch.nn.Module, pictures: list[torch.Tensor], target: int, batch: int) -> list:
    """Return the target's probability, so many pictures a pass."""
    with torch.no_grad():
        parts = [
            model(torch.stack(pictures[start : start + batch])).softmax(1)[:, target]
            for start in range(0, len(pictures), batch)
        ]
    return torch.cat(parts).tolist()


def run_rise(model, start, finish, values, target: int, batch: int) -> float:
    """Turn one picture into another in the order of a map: the area under the probability."""
    order = np.flip(np.argsort(values.ravel()))
    step = len(order) // STEPS
    changing, pictures = start.clone(), []
    for number in range(STEPS + 1):
        pictures.append(changing.clone())
        pixels = order[step * number : step * (number + 1)].copy()
        changing.view(3, -1)[:, pixels] = finish.view(3, -1)[:, pixels]
    scores = np.array(ask(model, pictures, target, batch))
    return (scores.sum() - scores[0] / 2 - scores[-1] / 2) / STEPS


def run_loop(classifier: Classifier, view, maps, target: int, batch: int) -> np.ndarray:
    """Score each map by the loops, shape (maps, 5), in the order of ours."""
    model, inputs = classifier.model, classifier.transform.normalize(view[None])
    picture = inputs[0]
    fills = [
        picture.mean((1, 2), keepdim=True).expand_as(picture).clone(),
        torch.from_numpy(faithfulness.blur(picture.numpy())),
    ]
    rows = []
    for values in maps:
        pairs = [(picture, fill) for fill in fills] + [(fill, picture) for fill in fills]
        rows.append([run_rise(model, *pair, values, target, batch) for pair in pairs])
    metric = road.ROADCombined([100 * (1 - share) for share in SHARES])
    at_once = len(maps) if batch > 1 else 1
    found: list[float] = []
    for start in range(0, len(maps), at_once):
        part = np.stack(maps[start : start + at_once])
        targets = [ClassifierOutputSoftmaxTarget(target)] * len(part)
        found += metric(inputs.repeat(len(part), 1, 1, 1), part, targets, model).tolist()
    return np.column_stack([rows, found])


def run_ours(classifier: Classifier, view, maps, target: int, batch: int) -> np.ndarray:
    """Score the maps by ours, shape (maps, 5)."""
    named = {str(number): values for number, values in enumerate(maps)}
    settings = {"steps": STEPS, "road": SHARES, "orders": ORDERS, "batch_size": batch}
    rows = faithfulness.measure_picture(
        classifier, view, {target: named}, settings, grids=dict.fromkeys(named, GRID)
    )
    values = [row["value"] for row in rows if row["fill"] != "black"]
    return np.reshape(values, (len(maps), -1))


def impute(who: str, picture: torch.Tensor, maps: list[np.ndarray]) -> np.ndarray:
    """Impute the most relevant pixels of each map at each share."""
    found = []
    for values in maps:
        for share in SHARES:
            removed = values >= np.percentile(values, 100 * (1 - share))
            if who == "ours":
                found.append(faithfulness.impute_linear(picture.numpy(), removed))
            else:
                kept = torch.from_numpy(np.float32(~removed))
                found.append(Noiseless()(picture, kept).numpy())
    return np.stack(found)


def work(who: str, architecture: str, arguments: argparse.Namespace) -> None:
    """Answer each task read from the standard input with seconds and the file of the scores."""
    torch.set_num_threads(1)
    road.NoisyLinearImputer = Noiseless
    faithfulness.NOISE = 0
    classifier = make_classifier(architecture, arguments.side)
    view = make_views(1, arguments.side)[0]
    target = int(classifier.probabilities(view[None])[0].argmax())
    maps = make_maps(MAPS + ORDERS, arguments.side)
    inputs = torch.rand(arguments.batch, 3, arguments.side, arguments.side)
    picture = classifier.transform.normalize(view[None])[0]
    passes = 0

    def count(model, given):
        nonlocal passes
        passes += len(given[0])

    if who == "ours":
        prepare(classifier.model.requires_grad_(False), (), arguments.precision)
        handle = classifier.model.register_forward_pre_hook(count)
        run_ours(classifier, view, maps[:MAPS], target, arguments.batch)
        handle.remove()
    print("{}", flush=True)
    for task in map(str.strip, sys.stdin):
        began = time.process_time()
        if task == "forward":
            run_forward(classifier, inputs, passes, arguments.batch)
            scores = np.zeros(1)
        elif task == "imputation":
            scores = impute(who, picture, maps[:MAPS])
        elif who == "ours":
            scores = run_ours(classifier, view, maps[:MAPS], target, arguments.batch)
        else:
            batch = 1 if task == "plain" else arguments.batch
            scores = run_loop(classifier, view, maps, target, batch)[:MAPS]
        seconds = time.process_time() - began
        file = Path(arguments.folder, f"{who}.npy")
        np.save(file, scores)
        print(json.dumps({"seconds": seconds, "passes": passes, "scores": str(file)}), flush=True)


def compare(architecture: str, arguments: argparse.Namespace) -> None:
    """Print seconds of each process, ratios of medians, and the largest difference of a score."""
    with tempfile.TemporaryDirectory() as folder:
        workers = {who: Worker(who, architecture, folder) for who in ENVIRONMENTS}
        for worker in workers.values():
            worker.ask("imputation")  # the first task of a process costs more
        for task in ("plain", "batched", "imputation"):
            times: dict[str, list[float]] = {}
            differences, bare = [], {}
            for _ in range(arguments.rounds):
                scores = {}
                for who, worker in workers.items():
                    answer = worker.ask(task)
                    times.setdefault(who, []).append(answer["seconds"])
                    scores[who] = np.load(answer["scores"])
                differences.append(np.abs(scores["ours"] - scores["library"]).max())
                if task == "batched":
                    bare = workers["ours"].ask("forward")
                    times.setdefault("bare", []).append(bare["seconds"])
            seconds = {who: statistics.median(values) for who, values in times.items()}
            print(f"{architecture}, {task}: {say_times(seconds)}")
            what = "imputed values" if task == "imputation" else "scores"
            print(f"  largest difference of the {what} {max(differences):.0e}")
            if bare:
                print(f"  {say_bare(bare['passes'], seconds['bare'], seconds['ours'])}")
        for worker in workers.values():
            worker.close()


def main() -> None:
    """Compare on each network."""
    run(make_parser(__doc__.splitlines()[0]).parse_args(), work, compare)


if __name__ == "__main__":
    main()

"""Train the default study's classifiers on its rendered world, and measure them on held-out ones.

A torchvision network from scratch, in as few operations as possible: processors are slow. What
``clip_training`` needs too is public.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save as encode_safetensors
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from . import files
from .classifiers import Classifier, build_architecture, nearest
from .errors import ConsilienceError
from .vision import torchvision
from .world import TRANSFORM

CLASSIFIER_SETTINGS = {
    "learning_rate": 0.004,
    "weight_decay": 0.05,
    "label_smoothing": 0.05,
}

_SECONDS_BETWEEN_LINES = 3.0
_WARM_UP = 0.05  # share of the work in which the learning rate rises
_BETAS = (0.9, 0.98)  # short memory: a training has a few hundred steps
_FIRST_BRANCH_SCALE = 0.25
resnet = torchvision.models.resnet
RESIDUAL_BLOCKS = (resnet.BasicBlock, resnet.Bottleneck)


class Stage(NamedTuple):
    """A stage of training: side of the squares, pictures a step, steps, blocks, cost of a pass."""

    crop: int
    batch: int
    steps: int
    skip: tuple[torch.nn.Module, ...]
    cost: float


def fill_settings(given: Mapping, defaults: Mapping, where: str, also: Sequence[str]) -> dict:
    """Fill in defaults, and refuse keys that mean nothing and numbers that cannot be."""
    if unknown := sorted(set(given) - set(defaults) - set(also)):
        raise ConsilienceError(
            f"{where}: unknown key {unknown[0]!r}; known are {', '.join([*defaults, *also])}"
        )
    settings = {**defaults, **given}
    for key in defaults:
        value = settings[key]
        lowest = 0 if key in ("weight_decay", "label_smoothing") else 1e-12
        if not isinstance(value, int | float) or not lowest <= value < math.inf:
            raise ConsilienceError(f"{where}.{key}: {value!r} must be a number above 0")
    return settings


def _stages(
    settings: Mapping, side: int, model: torch.nn.Module, scaled: int | None = None
) -> list[Stage]:
    """Make the stages of training, and find what each costs.

    ``scaled`` is the side that the model sees, where that is not the square's own.
    """
    stages = []
    for index, given in enumerate(settings.get("stages") or ()):
        where = f"train.stages[{index}]"
        if unknown := sorted(set(given) - {"crop", "pictures", "batch", "skip"}):
            raise ConsilienceError(
                f"{where}: unknown key {unknown[0]!r}; known are crop, pictures, batch, skip"
            )
        crop = given.get("crop") or side
        batch = given.get("batch", 16)
        pictures = given.get("pictures", 0)
        if not 32 <= crop <= side:
            raise ConsilienceError(
                f"{where}.crop: {crop} must be from 32 to the pictures' {side} pixels"
            )
        if batch < 2 or pictures < 1:
            raise ConsilienceError(f"{where}: needs at least 1 picture and a batch of at least 2")
        blocks = _find_blocks(model, given.get("skip") or (), where)
        with _skipping(blocks), torch.inference_mode(), FlopCounterMode(display=False) as flops:
            model.eval()(torch.zeros(1, 3, scaled or crop, scaled or crop))
        steps = max(1, round(pictures / batch))
        stages.append(Stage(crop, batch, steps, blocks, flops.get_total_flops()))
    if not stages:
        raise ConsilienceError("train.stages: is empty; give at least one stage")
    return stages


def _find_blocks(model: torch.nn.Module, names: Sequence[str], where: str) -> tuple:
    """Return the residual blocks that are named, or lie in the modules that are named."""
    modules = dict(model.named_modules())
    blocks = []
    for name in names:
        found = [
            module
            for module in modules.get(name, torch.nn.Identity()).modules()
            if isinstance(module, RESIDUAL_BLOCKS)
        ]
        if not found:
            raise ConsilienceError(
                f"{where}.skip: the network has no residual blocks {name!r}; "
                + nearest(name, [key for key in modules if key])
            )
        blocks += found
    return tuple(blocks)


@contextmanager
def _skipping(blocks: Sequence[torch.nn.Module]) -> Iterator[None]:
    """Leave out the residual branches of blocks: only their shortcuts are computed."""

    def only_shortcut(block, values):
        if block.downsample is not None:
            values = block.downsample(values)
        return functional.relu(values)

    try:
        for block in blocks:
            block.forward = partial(only_shortcut, block)
        yield
    finally:
        for block in blocks:
            vars(block).pop("forward", None)


def check_pictures(data: Mapping[str, np.ndarray], targets: Mapping[str, int]) -> None:
    """Refuse data whose arrays do not fit one another or the number of classes."""
    images = data["images"]
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or not len(images):
        raise ConsilienceError(
            f"pictures must be uint8 of shape (n, height, width, 3) with n > 0, not "
            f"{images.dtype} of shape {images.shape}"
        )
    for target, classes in targets.items():
        labels = data[target]
        if labels.shape != (len(images),):
            raise ConsilienceError(f"{len(images)} pictures have {labels.shape} {target} labels")
        if labels.min() < 0 or labels.max() >= classes:
            raise ConsilienceError(
                f"{target} labels run from {labels.min()} to {labels.max()}, which does not fit "
                f"{classes} classes"
            )


def shuffle(count: int, total: int, rng: np.random.Generator) -> np.ndarray:
    """Return ``total`` indices: every picture once, in random order, then all again."""
    return np.concatenate([rng.permutation(count) for _ in range(-(-total // count))])[:total]


def one_cycle(fraction: float, warm_up: float = _WARM_UP) -> float:
    """Learning rate, of its peak, after a ``fraction`` of the work: up, then down to zero."""
    if fraction < warm_up:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * fraction / warm_up)) / 2
    return (1 + math.cos(math.pi * (fraction - warm_up) / (1 - warm_up))) / 2


def _quieten_residual_branches(model: torch.nn.Module) -> None:
    """Let every residual block of a ResNet begin near its shortcut, as if it were not there.

    Not at zero: a branch that is switched on late would hardly leave it.
    """
    for block in model.modules():
        if isinstance(block, resnet.BasicBlock):
            torch.nn.init.constant_(block.bn2.weight, _FIRST_BRANCH_SCALE)
        elif isinstance(block, resnet.Bottleneck):
            torch.nn.init.constant_(block.bn3.weight, _FIRST_BRANCH_SCALE)


def cut_squares(
    images: np.ndarray, boxes: np.ndarray | None, crop: int, rng: np.random.Generator
) -> np.ndarray:
    """Cut a random square out of each picture, and mirror half of them.

    Parameters
    ----------
    images
        uint8, shape (n, side, side, 3).
    boxes
        Left, top, right, bottom (pixels) of what the square must hold, shape (n, 4), where it is
        small enough, and lie within where it is larger; ``None``: the square falls anywhere.
    crop
        Side of the square, pixels.
    """
    side = images.shape[1]
    if crop < side:
        if boxes is None:
            start = rng.integers(0, side - crop + 1, size=(len(images), 2))
        else:
            ends = np.stack([boxes[:, :2], boxes[:, 2:] - crop])
            low = np.clip(np.ceil(ends.min(axis=0)), 0, side - crop).astype(np.int64)
            high = np.clip(np.floor(ends.max(axis=0)), 0, side - crop).astype(np.int64)
            start = rng.integers(low, np.maximum(low, high) + 1)
        images = np.stack(
            [
                image[top : top + crop, left : left + crop]
                for image, (left, top) in zip(images, start, strict=True)
            ]
        )
    mirrored = rng.random(len(images)) < 0.5
    return np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def make_optimizer(model: torch.nn.Module, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW that decays weights of convolutions and linear layers, not norms, biases, scalars."""
    parameters = list(model.parameters())
    fused = parameters[0].device.type in ("cpu", "cuda", "mps")
    groups = [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, weight_decay=weight_decay, betas=_BETAS, fused=fused)


class Progress:
    """Write a line every few seconds: how far, how well, how fast, how much longer."""

    def __init__(self, log: Callable[[str], None], stages: Sequence[Stage]):
        self.log = log
        self.pictures = sum(stage.batch * stage.steps for stage in stages)
        self.work = sum(stage.batch * stage.steps * stage.cost for stage in stages)
        self.done, self.worked = 0, 0.0
        self.started = self.said = time.monotonic()
        self.loss, self.right, self.since = 0.0, 0.0, 0

    @property
    def fraction(self) -> float:
        """Share of the work that is done."""
        return self.worked / self.work

    def advance(self, stage: Stage, loss: float, right: float) -> None:
        """Count a batch of a stage, its mean loss and accuracy."""
        pictures = stage.batch
        if not math.isfinite(loss):
            raise ConsilienceError(
                f"training diverged after {self.done} of {self.pictures} pictures (the loss is "
                f"{loss}); lower learning_rate"
            )
        self.done += pictures
        self.worked += pictures * stage.cost
        self.loss += loss * pictures
        self.right += right * pictures
        self.since += pictures
        now = time.monotonic()
        if now - self.said < _SECONDS_BETWEEN_LINES and self.done < self.pictures:
            return
        left = (now - self.started) * (self.work / self.worked - 1)
        self.log(
            f"{self.done} of {self.pictures} pictures: loss {self.loss / self.since:.3f}, "
            f"{self.right / self.since:.1%} right, "
            f"{self.since / max(now - self.said, 1e-9):.0f} pictures/s, {left:.0f} s left"
        )
        self.said, self.loss, self.right, self.since = now, 0.0, 0.0, 0


def train_classifier(
    data: Mapping[str, np.ndarray],
    target: str,
    classes: int,
    settings: Mapping,
    seed: int,
    log: Callable[[str], None],
    architecture: str = "resnet18",
    keep_resolution: Sequence[str] = ("layer4",),
    device: torch.device | str = "cpu",
) -> torch.nn.Module:
    """Train a torchvision classifier from scratch.

    Cross-entropy with label smoothing, AdamW (no decay on norms and biases), one cycle of the
    learning rate over all stages (Smith and Topin, 2018). The cost of a pass grows with its area
    and with the blocks that run, so stages go from small squares, cut at the pictures' own scale,
    to whole pictures, and from few blocks to all (as in stochastic depth, Huang et al., 2016, but
    in order). The last stage should be whole, because it is there that batch norm and global
    pooling meet what they will be asked about.

    Parameters
    ----------
    data
        ``images``: uint8, shape (n, side, side, 3); ``target``: int, shape (n,); and, where
        ``target`` is ``object``, ``box``: float, shape (n, 4), its left, top, right, bottom in
        pixels, which the small squares are cut around.
    target
        The array of ``data`` that is to be told: ``object`` or ``scene``.
    classes
        Number of classes.
    settings
        ``stages``, a list of ``{crop: side of the square in pixels or None for all, pictures:
        passes, batch: pictures a step, skip: names of residual blocks, or of modules that hold
        them, of which only the shortcuts run}``, and, with the defaults of ``CLASSIFIER_SETTINGS``,
        ``learning_rate`` (peak), ``weight_decay``, ``label_smoothing``. ``pictures`` is rounded
        to whole batches.
    seed
        Of the first weights, the order of the pictures and the squares.
    log
        Called with a line of text every few seconds.
    architecture, keep_resolution
        As for :func:`consilience.classifiers.build_architecture`.
    device
        Where it is trained. The first weights, the order and the squares are the same everywhere;
        what training makes of them is not: rounding grows from step to step.

    Returns
    -------
    torch.nn.Module
        In evaluation mode, on the processor. Its preprocessing is ``world.TRANSFORM``. The same
        arguments give the same bits on one machine with one thread count.

    Raises
    ------
    ConsilienceError
        If settings or data do not fit, or the loss ceases to be finite.
    """
    settings = fill_settings(settings, CLASSIFIER_SETTINGS, "train", ("stages", "target", "seed"))
    check_pictures(data, {target: classes})
    boxes = data["box"] if target == "object" else None
    labels = torch.from_numpy(np.asarray(data[target], np.int64)).to(device)
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_architecture(architecture, classes, keep_resolution)
    _quieten_residual_branches(model)
    stages = _stages(settings, min(data["images"].shape[1:3]), model)
    model.to(device).train()
    optimizer = make_optimizer(model, settings["weight_decay"])
    progress = Progress(log, stages)
    order = shuffle(len(labels), progress.pictures, rng)
    for stage in stages:
        with _skipping(stage.skip):
            for _ in range(stage.steps):
                chosen = order[progress.done : progress.done + stage.batch]
                around = None if boxes is None else boxes[chosen]
                squares = cut_squares(data["images"][chosen], around, stage.crop, rng)
                logits = model(TRANSFORM.normalize(squares, device))
                truth = labels[chosen]
                loss = functional.cross_entropy(
                    logits, truth, label_smoothing=settings["label_smoothing"]
                )
                take_step(optimizer, loss, settings["learning_rate"] * one_cycle(progress.fraction))
                right = (logits.argmax(dim=1) == truth).float().mean().item()
                progress.advance(stage, loss.item(), right)
    return model.to("cpu").eval()


def take_step(optimizer: torch.optim.Optimizer, loss: torch.Tensor, learning_rate: float) -> None:
    """Take one step down the gradient of ``loss``."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def save_weights(model: torch.nn.Module, path: str | Path) -> None:
    """Write a classifier's state dict as safetensors; the same weights give the same bytes."""
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    data = encode_safetensors(state)
    files.write_atomically(path, lambda part: Path(part).write_bytes(data))


def count_right(
    model: str, target: str, right: np.ndarray, clutter: np.ndarray, trained_on: Sequence[int]
) -> list[dict]:
    """Make rows of ``tables.ACCURACY``: the levels of training together, then each level."""
    groups = [(None, np.isin(clutter, list(trained_on)))]
    groups += [(int(level), clutter == level) for level in np.unique(clutter)]
    rows = []
    for level, chosen in groups:
        if not chosen.any():
            raise ConsilienceError(
                f"no held-out picture has a clutter level of training ({list(trained_on)})"
            )
        pictures, correct = int(chosen.sum()), int(right[chosen].sum())
        rows.append(
            {
                "model": model,
                "target": target,
                "clutter": level,
                "pictures": pictures,
                "correct": correct,
                "accuracy": correct / pictures,
            }
        )
    return rows


def evaluate_classifier(
    classifier: Classifier,
    data: Mapping[str, np.ndarray],
    target: str,
    trained_on: Sequence[int],
    batch: int = 32,
) -> list[dict]:
    """Count how many held-out pictures a classifier gets right.

    Parameters
    ----------
    classifier
        Its class names must be in the order of ``data``'s labels.
    data
        ``images``: uint8, shape (n, side, side, 3); ``target`` and ``clutter``: int, shape (n,).
    target
        The array of ``data`` that the classifier tells.
    trained_on
        Clutter levels that occur in training.
    batch
        Pictures a forward pass.

    Returns
    -------
    list of dict
        Rows of ``tables.ACCURACY``: one over the levels of training, then one a level.

    Raises
    ------
    ConsilienceError
        If data and classes do not fit, or no picture has a level of training.
    """
    check_pictures(data, {target: len(classifier.class_names)})
    fit = classifier.transform.fit
    predicted = []
    for start in range(0, len(data["images"]), batch):
        views = [fit(Image.fromarray(image)) for image in data["images"][start : start + batch]]
        predicted.append(classifier.probabilities(np.stack(views)).argmax(axis=1))
    right = np.concatenate(predicted) == data[target]
    return count_right(classifier.name, target, right, data["clutter"], trained_on)

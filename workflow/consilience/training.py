"""Train the default study's models on its rendered world, and measure them on held-out pictures.

Two kinds: a torchvision classifier of one property of the pictures, and a small CLIP of pictures
and captions in the architecture of the ``clip`` package.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save as encode_safetensors
from torch.nn import functional
from torchvision.models import resnet

from . import tables
from .classifiers import Classifier, build_architecture
from .clip_encoder import ClipEncoder, import_clip, tokenize
from .errors import ConsilienceError
from .images import Transform

TRANSFORM = Transform(mean=(0.5,) * 3, std=(0.5,) * 3)
"""Preprocessing of the trained classifiers: the picture as it is, on the scale [-1, 1]."""

CLASSIFIER_SETTINGS = {
    "learning_rate": 0.0015,
    "weight_decay": 0.05,
    "label_smoothing": 0.05,
}
CLIP_SETTINGS = {"epochs": 5, "batch": 128, "learning_rate": 0.002, "weight_decay": 0.05}

# Words are learned alone and in phrases; the first is the one that concepts are asked with.
TEMPLATES = ("{}", "{}", "a {}", "a picture of {}", "a photo of a {}")

_SECONDS_BETWEEN_LINES = 3.0
_WARM_UP = 0.3  # share of the pictures on which the learning rate rises


def _settings(given: Mapping, defaults: Mapping, where: str, also: Sequence[str]) -> dict:
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


def _stages(settings: Mapping, side: int) -> list[tuple[int, int, int]]:
    """Return (crop, batch, steps) of each stage."""
    stages = []
    for index, stage in enumerate(settings.get("stages") or ()):
        where = f"train.stages[{index}]"
        crop = stage.get("crop") or side
        batch = stage.get("batch", 32)
        pictures = stage.get("pictures", 0)
        if not 1 <= crop <= side:
            raise ConsilienceError(
                f"{where}.crop: {crop} does not fit in pictures of {side} pixels; lower it"
            )
        if batch < 2 or pictures < 1:
            raise ConsilienceError(f"{where}: needs at least 1 picture and a batch of at least 2")
        stages.append((crop, batch, max(1, round(pictures / batch))))
    if not stages:
        raise ConsilienceError("train.stages: is empty; give at least one stage")
    return stages


def _check_pictures(data: Mapping[str, np.ndarray], targets: Mapping[str, int]) -> None:
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


def _shuffled(count: int, total: int, rng: np.random.Generator) -> np.ndarray:
    """Return ``total`` indices: every picture once, in random order, then all again."""
    return np.concatenate([rng.permutation(count) for _ in range(-(-total // count))])[:total]


def _one_cycle(fraction: float) -> float:
    """Learning rate, of its peak, after a ``fraction`` of the pictures: up, then down to zero."""
    if fraction < _WARM_UP:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * fraction / _WARM_UP)) / 2
    return (1 + math.cos(math.pi * (fraction - _WARM_UP) / (1 - _WARM_UP))) / 2


def _zero_residual_branches(model: torch.nn.Module) -> None:
    """Let every residual block of a ResNet begin as the identity."""
    for block in model.modules():
        if isinstance(block, resnet.BasicBlock):
            torch.nn.init.zeros_(block.bn2.weight)
        elif isinstance(block, resnet.Bottleneck):
            torch.nn.init.zeros_(block.bn3.weight)


def _cut(
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


def _groups(model: torch.nn.Module, weight_decay: float) -> list[dict]:
    """Decay weights of convolutions and linear layers only, not norms, biases or scalars."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


class _Progress:
    """Write a line every few seconds: how far, how well, how fast, how much longer."""

    def __init__(self, log: Callable[[str], None], pictures: int, work: float):
        self.log, self.pictures, self.work = log, pictures, work
        self.done, self.worked = 0, 0.0
        self.started = self.said = time.monotonic()
        self.loss, self.right, self.since = 0.0, 0.0, 0

    def advance(self, pictures: int, work: float, loss: float, right: float) -> None:
        """Count a batch: its size, its share of the work, its mean loss and accuracy."""
        if not math.isfinite(loss):
            raise ConsilienceError(
                f"training diverged after {self.done} of {self.pictures} pictures (the loss is "
                f"{loss}); lower learning_rate"
            )
        self.done += pictures
        self.worked += work
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
) -> torch.nn.Module:
    """Train a torchvision classifier from scratch.

    Cross-entropy with label smoothing, AdamW (no decay on norms and biases), one cycle of the
    learning rate over all stages (Smith and Topin, 2018), residual branches that start at zero
    (Goyal et al., 2017). The cost of a pass grows with its area, so stages go from small squares,
    cut at the pictures' own scale, to whole pictures; the last should be whole, because it is
    there that batch norm and global pooling meet what they will be asked about.

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
        passes, batch: pictures a step}``, and, with the defaults of ``CLASSIFIER_SETTINGS``,
        ``learning_rate`` (peak), ``weight_decay``, ``label_smoothing``. ``pictures`` is rounded
        to whole batches.
    seed
        Of the first weights, the order of the pictures and the squares.
    log
        Called with a line of text every few seconds.
    architecture, keep_resolution
        As for :func:`consilience.classifiers.build_architecture`.

    Returns
    -------
    torch.nn.Module
        In evaluation mode. Its preprocessing is ``TRANSFORM``. The same arguments give the same
        bits on one machine with one thread count.

    Raises
    ------
    ConsilienceError
        If settings or data do not fit, or the loss ceases to be finite.
    """
    settings = _settings(settings, CLASSIFIER_SETTINGS, "train", ("stages", "target", "seed"))
    _check_pictures(data, {target: classes})
    stages = _stages(settings, min(data["images"].shape[1:3]))
    boxes = data["box"] if target == "object" else None
    labels = torch.from_numpy(np.asarray(data[target], np.int64))
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_architecture(architecture, classes, keep_resolution)
    _zero_residual_branches(model)
    model.train()
    optimizer = torch.optim.AdamW(
        _groups(model, settings["weight_decay"]), settings["learning_rate"], fused=True
    )
    pictures = sum(batch * steps for _, batch, steps in stages)
    work = sum(crop**2 * batch * steps for crop, batch, steps in stages)
    progress = _Progress(log, pictures, work)
    order = _shuffled(len(labels), pictures, rng)
    for crop, batch, steps in stages:
        for _ in range(steps):
            chosen = order[progress.done : progress.done + batch]
            squares = _cut(
                data["images"][chosen], None if boxes is None else boxes[chosen], crop, rng
            )
            truth = labels[chosen]
            logits = model(TRANSFORM.normalize(squares))
            loss = functional.cross_entropy(
                logits, truth, label_smoothing=settings["label_smoothing"]
            )
            _step(optimizer, loss, settings["learning_rate"] * _one_cycle(progress.done / pictures))
            right = (logits.argmax(dim=1) == truth).float().mean().item()
            progress.advance(batch, crop**2 * batch, loss.item(), right)
    return model.eval()


def _step(optimizer: torch.optim.Optimizer, loss: torch.Tensor, learning_rate: float) -> None:
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
    tables.write_atomically(path, lambda part: Path(part).write_bytes(data))


def build_small_clip(seed: int) -> torch.nn.Module:
    """Build a ``clip.model.CLIP`` of 64 × 64 pixels with random weights.

    The package works out the number of heads as width // 64, and takes a ModifiedResNet in
    multiples of 32 pixels. Its blocks' last norms start at zero, which learns slowly in so small
    a network; here they start at 0.3.
    """
    import_clip()
    from clip.model import CLIP

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIP(
            embed_dim=128,
            image_resolution=64,
            vision_layers=(1, 1, 1, 1),
            vision_width=16,
            vision_patch_size=None,
            context_length=77,
            vocab_size=49408,
            transformer_width=64,
            transformer_heads=1,
            transformer_layers=2,
        )
    for name, parameter in model.named_parameters():
        if name.endswith("bn3.weight"):
            torch.nn.init.constant_(parameter, 0.3)
    return model


def _matching_loss(logits: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Contrast each row's true columns with its false ones.

    ``-log(exp(t) / (exp(t) + sum over false f of exp(f)))``, averaged over the true columns t of
    a row, then over the rows that have one. A picture has many true texts (its words, its
    captions and those of its like), which must not be set against one another (the multi-positive
    loss of Khosla et al., 2020, without the other positives in the denominator).
    """
    wrong = logits.masked_fill(true, -math.inf).logsumexp(dim=1, keepdim=True)
    each = functional.softplus(wrong - logits) * true
    count = true.sum(dim=1)
    return (each.sum(dim=1) / count.clamp(min=1))[count > 0].mean()


def train_clip(
    data: Mapping[str, np.ndarray],
    words: Mapping[str, Sequence[str]],
    absent: Sequence[str],
    captions: Sequence[Sequence[str]],
    settings: Mapping,
    seed: int,
    log: Callable[[str], None],
) -> torch.nn.Module:
    """Train a small CLIP (:func:`build_small_clip`) on pictures, their words and their captions.

    A step's texts are every word of the world in a random template, the words that never occur
    (always false: a CLIP trained on the web has seen them on other pictures), and one caption a
    picture. The loss goes both ways, from pictures to texts and from texts to pictures.

    Parameters
    ----------
    data
        ``images``: uint8, shape (n, side, side, 3), and for each key of ``words`` the index of
        the picture's word, int, shape (n,).
    words
        The words of each property (object, scene, colour), each true of some of the pictures.
    absent
        Words that are true of none.
    captions
        For each picture, texts that are true of it, and of those that share all its properties.
    settings
        ``epochs``, ``batch`` and ``learning_rate``, with the defaults of ``CLIP_SETTINGS``.
    seed
        Of the first weights, the order of the pictures and the choice of texts.
    log
        Called with a line of text every few seconds.

    Returns
    -------
    clip.model.CLIP
        In evaluation mode, float32. The same arguments give the same bits on one machine with one
        thread count.

    Raises
    ------
    ConsilienceError
        If settings or data do not fit, or the loss ceases to be finite.
    """
    settings = _settings(settings, CLIP_SETTINGS, "clip.train", ("seed",))
    _check_pictures(data, {target: len(known) for target, known in words.items()})
    count, batch = len(data["images"]), int(settings["batch"])
    if len(captions) != count or not all(captions):
        raise ConsilienceError(f"{count} pictures need at least one caption each")
    if batch < 2 or settings["epochs"] < 1:
        raise ConsilienceError("clip.train: needs at least 1 epoch and a batch of at least 2")
    rng = np.random.default_rng(seed)
    model = build_small_clip(seed)
    images = _prepare_for_clip(data["images"], model.visual.input_resolution)

    bank = [word for known in words.values() for word in known] + list(absent)
    # Shape (templates, words, tokens) and (captions, tokens): tokens are worked out once.
    texts = [template.format(word) for template in TEMPLATES for word in bank]
    every = sorted({caption for some in captions for caption in some})
    tokens = tokenize(texts + every, model.context_length)
    of_words = tokens[: len(texts)].view(len(TEMPLATES), len(bank), -1)
    of_captions = tokens[len(texts) :]
    place = {caption: index for index, caption in enumerate(every)}
    places = [[place[caption] for caption in some] for some in captions]
    true_words = torch.cat(
        [
            functional.one_hot(torch.from_numpy(np.asarray(data[target], np.int64)), len(known))
            for target, known in words.items()
        ]
        + [torch.zeros(count, len(absent), dtype=torch.int64)],
        dim=1,
    ).bool()
    kinds = torch.from_numpy(
        np.unique(np.stack([data[target] for target in words], 1), axis=0, return_inverse=True)[
            1
        ].reshape(-1)
    )

    model.train()
    optimizer = torch.optim.AdamW(
        _groups(model, settings["weight_decay"]), settings["learning_rate"], fused=True
    )
    steps = max(1, round(settings["epochs"] * count / batch))
    pictures = steps * batch
    progress = _Progress(log, pictures, pictures)
    order = _shuffled(count, pictures, rng)
    for _ in range(steps):
        chosen = order[progress.done : progress.done + batch]
        template = rng.integers(len(TEMPLATES), size=len(bank))
        caption = [places[index][rng.integers(len(places[index]))] for index in chosen]
        caption, first = np.unique(caption, return_index=True)
        some = torch.cat(
            [of_words[template, torch.arange(len(bank))], of_captions[torch.from_numpy(caption)]]
        )
        some = some[:, : int(some.argmax(dim=1).max()) + 1]
        chosen = torch.from_numpy(chosen)
        true = torch.cat(
            [true_words[chosen], kinds[chosen][:, None] == kinds[chosen[first]][None]], dim=1
        )
        seen = functional.normalize(model.encode_image(_mirrored(images[chosen], rng)), dim=1)
        said = functional.normalize(model.encode_text(some), dim=1)
        logits = model.logit_scale.clamp(max=math.log(100)).exp() * seen @ said.T
        loss = (_matching_loss(logits, true) + _matching_loss(logits.T, true.T)) / 2
        _step(optimizer, loss, settings["learning_rate"] * _one_cycle(progress.done / pictures))
        right = true.gather(1, logits.argmax(dim=1, keepdim=True)).float().mean().item()
        progress.advance(batch, batch, loss.item(), right)
    return model.eval()


def _prepare_for_clip(images: np.ndarray, side: int) -> torch.Tensor:
    """Preprocess as ``clip.load``'s own function does: float32, shape (n, 3, side, side)."""
    from clip.clip import _transform

    preprocess = _transform(side)
    return torch.stack([preprocess(Image.fromarray(image)) for image in images])


def _mirrored(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Mirror half of the pictures, shape (n, 3, height, width)."""
    mirrored = torch.from_numpy(rng.random(len(images)) < 0.5)
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


def save_clip(model: torch.nn.Module, path: str | Path) -> None:
    """Write a CLIP's state dict as ``clip.load`` takes it; the same weights give the same bytes."""
    buffer = io.BytesIO()  # a file's own name would go into the archive
    torch.save(model.state_dict(), buffer)
    tables.write_atomically(path, lambda part: Path(part).write_bytes(buffer.getvalue()))


def _accuracy_rows(
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
    _check_pictures(data, {target: len(classifier.class_names)})
    fit = classifier.transform.fit
    predicted = []
    for start in range(0, len(data["images"]), batch):
        views = [fit(Image.fromarray(image)) for image in data["images"][start : start + batch]]
        predicted.append(classifier.probabilities(np.stack(views)).argmax(axis=1))
    right = np.concatenate(predicted) == data[target]
    return _accuracy_rows(classifier.name, target, right, data["clutter"], trained_on)


def evaluate_clip(
    encoder: ClipEncoder,
    data: Mapping[str, np.ndarray],
    words: Mapping[str, Sequence[str]],
    trained_on: Sequence[int],
    templates: Sequence[str] = ("{}",),
) -> list[dict]:
    """Count how many held-out pictures a CLIP gets right without being told: zero-shot.

    Parameters
    ----------
    encoder
        Its nearest word of a property is its answer.
    data
        ``images``: uint8, shape (n, side, side, 3); ``clutter`` and each key of ``words``: int,
        shape (n,).
    words
        The words of each property (object, scene, colour), in the order of ``data``'s labels.
    trained_on
        Clutter levels that occur in training.
    templates
        Texts in which ``{}`` stands for the word.

    Returns
    -------
    list of dict
        Rows of ``tables.ACCURACY`` with the model name ``clip``: for each property one over the
        levels of training, then one a level.

    Raises
    ------
    ConsilienceError
        If data and words do not fit, or no picture has a level of training.
    """
    _check_pictures(data, {target: len(known) for target, known in words.items()})
    pictures = encoder.embed_pictures(data["images"])
    rows = []
    for target, known in words.items():
        answer = (pictures @ encoder.embed_texts(known, templates).T).argmax(axis=1)
        rows += _accuracy_rows("clip", target, answer == data[target], data["clutter"], trained_on)
    return rows

"""Train a small CLIP on rendered pictures, in the clip package's own architecture.

Contrastive training alone learns slowly what covers few pixels. So the image tower is taught first,
to tell the pictures' properties on small squares that the object fills; then pictures and texts are
brought together, words being contrasted with all texts and with the other words of their property.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from . import tables, training
from .clip_encoder import ClipEncoder, import_clip, tokenize
from .errors import ConsilienceError

SETTINGS = {
    "lessons": 6000,
    "epochs": 4,
    "batch": 16,
    "learning_rate": 0.002,
    "weight_decay": 0.02,
}

# Words are learned alone and in phrases; the first is the one that concepts are asked with.
TEMPLATES = ("{}", "{}", "a {}", "a picture of {}", "a photo of a {}")

# Side of the lessons' squares, in pixels: an object fills the small one; the others, drawn at
# random in the last part of the lessons, lead over to whole pictures.
_SQUARE = 48
_WIDER = (64, 80, 96)
_SHARE_OF_SMALL = 0.8
_LESSON_BATCH = 16
_LESSON_RATE = 0.004
_WARM_UP = 0.3  # share of the pictures on which the learning rate rises


def build_small_clip(seed: int) -> torch.nn.Module:
    """Build a ``clip.model.CLIP`` of 96 × 96 pixels with random weights.

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
            image_resolution=96,
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
    model.visual.to(memory_format=torch.channels_last)
    return model


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
        ``images``: uint8, shape (n, side, side, 3); ``box``: float, shape (n, 4), the object's
        left, top, right, bottom in pixels; and for each key of ``words`` the index of the
        picture's word, int, shape (n,).
    words
        The words of each property (object, scene, colour), each true of some of the pictures.
    absent
        Words that are true of none.
    captions
        For each picture, texts that are true of it, and of those that share all its properties.
    settings
        ``lessons`` (passes in which the image tower is taught), ``epochs`` (may be a fraction),
        ``batch``, ``learning_rate`` (peak) and ``weight_decay``, with the defaults of
        ``SETTINGS``.
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
    settings = training.fill_settings(settings, SETTINGS, "clip.train", ("seed",))
    training.check_pictures(data, {target: len(known) for target, known in words.items()})
    count, batch = len(data["images"]), int(settings["batch"])
    if len(captions) != count or not all(captions):
        raise ConsilienceError(f"{count} pictures need at least one caption each")
    if batch < 2:
        raise ConsilienceError(f"clip.train.batch: {batch} must be at least 2")
    rng = np.random.default_rng(seed)
    model = build_small_clip(seed).train()
    labels = {name: torch.from_numpy(np.asarray(data[name], np.int64)) for name in words}
    _teach_tower(model.visual, data, labels, words, int(settings["lessons"]), seed, rng, log)

    images = _preprocess(data["images"], model.visual.input_resolution)
    bank = [word for known in words.values() for word in known] + list(absent)
    every = sorted({caption for some in captions for caption in some})
    # Tokens are worked out once: shape (templates, words, tokens), and (captions, tokens).
    texts = [template.format(word) for template in TEMPLATES for word in bank]
    tokens = tokenize(texts + every, model.context_length)
    of_words = tokens[: len(texts)].view(len(TEMPLATES), len(bank), -1)
    of_captions = tokens[len(texts) :]
    place = {caption: index for index, caption in enumerate(every)}
    places = [[place[caption] for caption in some] for some in captions]
    known_true = [functional.one_hot(labels[name], len(words[name])) for name in words]
    never_true = torch.zeros(count, len(absent), dtype=torch.int64)
    true_words = torch.cat([*known_true, never_true], dim=1).bool()
    # Pictures that share all properties share their captions.
    properties = np.stack([data[name] for name in words], axis=1)
    kinds = torch.from_numpy(np.unique(properties, axis=0, return_inverse=True)[1].reshape(-1))

    optimizer = training.make_optimizer(model, settings["weight_decay"])
    steps = max(1, round(settings["epochs"] * count / batch))
    stage = training.Stage(model.visual.input_resolution, batch, steps, (), 1.0)
    progress = training.Progress(log, [stage])
    order = training.shuffle(count, steps * batch, rng)
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
        seen = functional.normalize(model.encode_image(_mirror(images[chosen], rng)), dim=1)
        said = functional.normalize(model.encode_text(some), dim=1)
        logits = model.logit_scale.clamp(max=math.log(100)).exp() * seen @ said.T
        loss = (_matching_loss(logits, true) + _matching_loss(logits.T, true.T)) / 2
        right, column = [], 0
        for name, known in words.items():
            among = logits[:, column : column + len(known)]
            loss = loss + functional.cross_entropy(among, labels[name][chosen])
            right.append((among.argmax(dim=1) == labels[name][chosen]).float().mean().item())
            column += len(known)
        rate = settings["learning_rate"] * training.one_cycle(progress.fraction, _WARM_UP)
        training.take_step(optimizer, loss, rate)
        progress.advance(stage, loss.item(), float(np.mean(right)))
    return model.eval()


def _teach_tower(
    visual: torch.nn.Module,
    data: Mapping[str, np.ndarray],
    labels: Mapping[str, torch.Tensor],
    words: Mapping[str, Sequence[str]],
    lessons: int,
    seed: int,
    rng: np.random.Generator,
    log: Callable[[str], None],
) -> None:
    """Teach the convolutions of a ModifiedResNet to tell the properties of squares."""
    sizes = [len(known) for known in words.values()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = torch.nn.Linear(visual.attnpool.c_proj.in_features, sum(sizes))
    both = torch.nn.ModuleList([visual, heads])
    optimizer = training.make_optimizer(both, SETTINGS["weight_decay"])
    steps = max(1, lessons // _LESSON_BATCH)
    stage = training.Stage(_SQUARE, _LESSON_BATCH, steps, (), 1.0)
    progress = training.Progress(log, [stage])
    order = training.shuffle(len(data["images"]), progress.pictures, rng)
    whole = min(data["images"].shape[1:3])
    for step in range(steps):
        side = _SQUARE if step < _SHARE_OF_SMALL * steps else int(rng.choice(_WIDER))
        chosen = order[progress.done : progress.done + _LESSON_BATCH]
        squares = training.cut_squares(
            data["images"][chosen], data["box"][chosen], min(side, whole), rng
        )
        inputs = training.TRANSFORM.normalize(squares).to(memory_format=torch.channels_last)
        answers = heads(_convolve(visual, inputs).mean(dim=(2, 3))).split(sizes, dim=1)
        loss, right = 0.0, []
        for name, answer in zip(words, answers, strict=True):
            loss = loss + functional.cross_entropy(answer, labels[name][chosen])
            right.append((answer.argmax(dim=1) == labels[name][chosen]).float().mean().item())
        rate = _LESSON_RATE * training.one_cycle(progress.fraction, _WARM_UP)
        training.take_step(optimizer, loss, rate)
        progress.advance(stage, loss.item(), float(np.mean(right)))


def _convolve(visual: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Run a ModifiedResNet up to its attention pool, which takes one size of map only."""
    stem = (
        (visual.conv1, visual.bn1),
        (visual.conv2, visual.bn2),
        (visual.conv3, visual.bn3),
    )
    for convolution, norm in stem:
        inputs = functional.relu(norm(convolution(inputs)))
    inputs = visual.avgpool(inputs)
    for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        inputs = stage(inputs)
    return inputs


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


def _preprocess(images: np.ndarray, side: int) -> torch.Tensor:
    """Preprocess as ``clip.load``'s own function does: float32, shape (n, 3, side, side)."""
    from clip.clip import _transform

    preprocess = _transform(side)
    return torch.stack([preprocess(Image.fromarray(image)) for image in images])


def _mirror(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Mirror half of the pictures, shape (n, 3, height, width)."""
    mirrored = torch.from_numpy(rng.random(len(images)) < 0.5)
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    return images.contiguous(memory_format=torch.channels_last)


def save_clip(model: torch.nn.Module, path: str | Path) -> None:
    """Write a CLIP's state dict as ``clip.load`` takes it; the same weights give the same bytes."""
    buffer = io.BytesIO()  # a file's own name would go into the archive
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    torch.save(state, buffer)
    tables.write_atomically(path, lambda part: Path(part).write_bytes(buffer.getvalue()))


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
    training.check_pictures(data, {target: len(known) for target, known in words.items()})
    pictures = encoder.embed_pictures(data["images"])
    rows = []
    for target, known in words.items():
        answer = (pictures @ encoder.embed_texts(known, templates).T).argmax(axis=1)
        right = answer == data[target]
        rows += training.count_right("clip", target, right, data["clutter"], trained_on)
    return rows

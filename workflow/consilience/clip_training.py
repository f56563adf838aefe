"""Train a small CLIP on rendered pictures, in the clip package's own architecture.

Contrastive training alone learns slowly what covers few pixels. So the image tower's convolutions
are taught first, by lessons: they tell the pictures' properties, on small squares that the object
fills, then on whole pictures. Then they are locked, and what pools them and the text tower are
brought together by contrast (locked-image tuning, Zhai et al., 2022), on maps computed once.
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

from . import files, training
from .clip_encoder import ClipEncoder, import_clip, tokenize
from .errors import ConsilienceError
from .images import Transform

SETTINGS = {
    "lessons": 12000,
    "epochs": 2,
    "batch": 64,
    "learning_rate": 0.002,
    "weight_decay": 0.02,
}

# Lessons: sides of the squares, in pixels (an object fills the first; None is the whole picture),
# and their shares.
_SQUARES = ((48, 0.55), (64, 0.17), (None, 0.28))
_LESSON_BATCH = 16
_LESSON_RATE = 0.004


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
    device: torch.device | str = "cpu",
) -> torch.nn.Module:
    """Train a small CLIP (:func:`build_small_clip`) on pictures, their words and their captions.

    A step's texts are every word of the world, the words that never occur (always false: a CLIP
    trained on the web knows such words too, from other pictures), and one caption a picture. The
    loss goes both ways, from pictures to texts and from texts to pictures; and words are also
    contrasted with the other words of their property alone, which keeps those apart that no
    picture tells apart yet.

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
        For each picture, all texts that are true of it: what its captions lack, but another
        picture's have, is taken to be false of it.
    settings
        ``lessons`` (passes in which the convolutions are taught), ``epochs`` (may be a fraction),
        ``batch``, ``learning_rate`` (peak) and ``weight_decay``, with the defaults of
        ``SETTINGS``.
    seed
        Of the first weights, the order of the pictures and the choice of texts.
    log
        Called with a line of text every few seconds.
    device
        Where it is trained; as for :func:`consilience.training.train_classifier`.

    Returns
    -------
    clip.model.CLIP
        In evaluation mode, float32, on the processor. The same arguments give the same bits on one
        machine with one thread count.

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
    model = build_small_clip(seed).to(device)
    transform = _transform(model.visual.input_resolution)
    labels = {name: torch.from_numpy(np.asarray(data[name], np.int64)).to(device) for name in words}
    _teach(model.visual, transform, data, labels, words, int(settings["lessons"]), seed, rng, log)
    maps = _compute_maps(model.visual, transform, data["images"])

    bank = [word for known in words.values() for word in known] + list(absent)
    texts = sorted({*bank, *(caption for some in captions for caption in some)})
    tokens = tokenize(texts, model.context_length).to(device)
    place = {text: index for index, text in enumerate(texts)}
    always = np.array([place[word] for word in bank])
    own = [np.array([place[caption] for caption in some]) for some in captions]
    true = torch.zeros(count, len(texts), dtype=torch.bool)
    for index, some in enumerate(own):
        true[index, some] = True
    for name, known in words.items():
        places = np.array([place[word] for word in known])
        true[np.arange(count), places[np.asarray(data[name])]] = True
    true = true.to(device)

    steps = max(1, round(settings["epochs"] * count / batch))
    stage = training.Stage(model.visual.input_resolution, batch, steps, (), 1.0)
    progress = training.Progress(log, [stage])
    order = training.shuffle(count, steps * batch, rng)
    model.train()
    model.visual.eval()
    for name, parameter in model.visual.named_parameters():
        parameter.requires_grad_(name.startswith("attnpool"))
    optimizer = training.make_optimizer(model, settings["weight_decay"])
    for _ in range(steps):
        chosen = order[progress.done : progress.done + batch]
        told = [own[index][rng.integers(len(own[index]))] for index in chosen]
        asked = np.unique([*always, *told])
        seen = functional.normalize(model.visual.attnpool(maps[chosen]), dim=1)
        said = functional.normalize(model.encode_text(tokens[asked]), dim=1)
        logits = model.logit_scale.clamp(max=math.log(100)).exp() * seen @ said.T
        matches = true[chosen][:, asked]
        loss = (_matching_loss(logits, matches) + _matching_loss(logits.T, matches.T)) / 2
        of_words = logits[:, np.searchsorted(asked, always)]
        more, right = _tell_apart(of_words, labels, words, chosen)
        rate = settings["learning_rate"] * training.one_cycle(progress.fraction)
        training.take_step(optimizer, loss + more, rate)
        progress.advance(stage, loss.item(), right)
    return model.requires_grad_(True).to("cpu").eval()


def _transform(side: int) -> Transform:
    """Return the preprocessing that ``clip.load`` gives a model, on square pictures."""
    return Transform(
        resize=side,
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
        interpolation="bicubic",
    )


def _tell_apart(
    answers: torch.Tensor,
    labels: Mapping[str, torch.Tensor],
    words: Mapping[str, Sequence[str]],
    chosen: np.ndarray,
) -> tuple[torch.Tensor, float]:
    """Return the loss of telling each property's words apart, and how many are told rightly."""
    loss, right, column = 0.0, [], 0
    for name, known in words.items():
        among, truth = answers[:, column : column + len(known)], labels[name][chosen]
        loss = loss + functional.cross_entropy(among, truth)
        right.append((among.argmax(dim=1) == truth).float().mean().item())
        column += len(known)
    return loss, float(np.mean(right))


def _teach(
    visual: torch.nn.Module,
    transform: Transform,
    data: Mapping[str, np.ndarray],
    labels: Mapping[str, torch.Tensor],
    words: Mapping[str, Sequence[str]],
    lessons: int,
    seed: int,
    rng: np.random.Generator,
    log: Callable[[str], None],
) -> None:
    """Teach the convolutions of a ModifiedResNet to tell the pictures' properties."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = torch.nn.Linear(visual.attnpool.c_proj.in_features, sum(map(len, words.values())))
    device = next(visual.parameters()).device
    head.to(device)
    optimizer = training.make_optimizer(
        torch.nn.ModuleList([visual, head]), SETTINGS["weight_decay"]
    )
    whole = min(data["images"].shape[1:3])
    stages = []
    for side, share in _SQUARES:
        side = min(side or whole, whole)
        steps = max(1, round(lessons * share / _LESSON_BATCH))
        stages.append(training.Stage(side, _LESSON_BATCH, steps, (), float(side**2)))
    progress = training.Progress(log, stages)
    order = training.shuffle(len(data["images"]), progress.pictures, rng)
    visual.train()
    for stage in stages:
        for _ in range(stage.steps):
            chosen = order[progress.done : progress.done + stage.batch]
            squares = training.cut_squares(
                data["images"][chosen], data["box"][chosen], stage.crop, rng
            )
            inputs = transform.normalize(squares, device)
            answers = head(_convolve(visual, inputs).mean(dim=(2, 3)))
            loss, right = _tell_apart(answers, labels, words, chosen)
            rate = _LESSON_RATE * training.one_cycle(progress.fraction)
            training.take_step(optimizer, loss, rate)
            progress.advance(stage, loss.item(), right)


def _compute_maps(
    visual: torch.nn.Module, transform: Transform, images: np.ndarray, batch: int = 64
) -> torch.Tensor:
    """Return what a ModifiedResNet's attention pool takes, float32, for whole pictures."""
    visual.eval()
    device = next(visual.parameters()).device
    parts = []
    for start in range(0, len(images), batch):
        some = [transform.fit(Image.fromarray(image)) for image in images[start : start + batch]]
        with torch.no_grad():
            parts.append(_convolve(visual, transform.normalize(np.stack(some), device)))
    return torch.cat(parts)


def _convolve(visual: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Run a ModifiedResNet up to its attention pool, which takes one size of map only."""
    # Channels last: a third faster, where pooling and norms take as long as convolutions.
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    for number in (1, 2, 3):
        convolution, norm = getattr(visual, f"conv{number}"), getattr(visual, f"bn{number}")
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


def save_clip(model: torch.nn.Module, path: str | Path) -> None:
    """Write a CLIP's state dict as ``clip.load`` takes it; the same weights give the same bytes."""
    buffer = io.BytesIO()  # a file's own name would go into the archive
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    torch.save(state, buffer)
    files.write_atomically(path, lambda part: Path(part).write_bytes(buffer.getvalue()))


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

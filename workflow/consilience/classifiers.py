"""Image classifiers: architecture, weights, class names, preprocessing and layers."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision
from safetensors.torch import load_file

from .convolution import accelerate
from .errors import ConsilienceError
from .images import Transform

Weights = torchvision.models.WeightsEnum


@dataclass(frozen=True)
class Classifier:
    """A classifier ready to be asked: in evaluation mode, float32, on the CPU.

    Attributes
    ----------
    name
        The name the study gives it.
    model
        Maps float32 (n, 3, height, width) to logits (n, classes).
    class_names
        One a class, in the order of the logits.
    transform
        The preprocessing that belongs to its weights.
    """

    name: str
    model: torch.nn.Module
    class_names: tuple[str, ...]
    transform: Transform

    def layer(self, name: str) -> torch.nn.Module:
        """Return the layer called ``name`` in ``model.named_modules()``.

        Raises
        ------
        ConsilienceError
            If there is none: says which layers have the nearest names.
        """
        layers = dict(self.model.named_modules())
        layers.pop("", None)
        if name not in layers:
            raise ConsilienceError(
                f"model {self.name!r} has no layer {name!r}; {nearest(name, layers)}"
            )
        return layers[name]

    def probabilities(self, pictures: np.ndarray) -> np.ndarray:
        """Return class probabilities of fitted pictures.

        Parameters
        ----------
        pictures
            uint8, shape (n, height, width, 3), as :meth:`Transform.fit` gives them.

        Returns
        -------
        numpy.ndarray
            float32, shape (n, classes); rows sum to one.

        Raises
        ------
        ConsilienceError
            If the model answers with a value that is not finite.
        """
        with torch.inference_mode():
            logits = self.model(self.transform.normalize(pictures))
        if not torch.isfinite(logits).all():
            raise ConsilienceError(
                f"model {self.name!r} answers with values that are not finite; check its weights"
            )
        return torch.softmax(logits.float(), dim=1).numpy()


def nearest(word: str, words: Sequence[str] | Mapping) -> str:
    """Say which of ``words`` come nearest to ``word``, for an error message."""
    close = difflib.get_close_matches(word, list(words), n=3, cutoff=0.4)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else "none is like it"


def build_architecture(
    architecture: str,
    classes: int,
    keep_resolution: Sequence[str] = (),
    weights: Weights | None = None,
) -> torch.nn.Module:
    """Build a torchvision classifier with random weights.

    Parameters
    ----------
    architecture
        A name of ``torchvision.models.list_models(module=torchvision.models)``.
    classes
        Number of logits.
    keep_resolution
        Stages (such as ``layer4`` of a ResNet) whose first block gets stride 1 instead of 2, so
        that their output has twice the positions along each side.
    weights
        torchvision weights that the model is made for: the few architectures that differ with
        them are built as those want them. They are not loaded.

    Raises
    ------
    ConsilienceError
        If there is no such architecture or stage.
    """
    known = torchvision.models.list_models(module=torchvision.models)
    if architecture not in known:
        raise ConsilienceError(
            f"torchvision has no classifier {architecture!r}; {nearest(architecture, known)}"
        )
    # GoogLeNet and Inception warn about their initialisation and return a tuple in training.
    ported = architecture in ("googlenet", "inception_v3")
    extra: dict[str, object] = {"init_weights": False} if ported else {}
    if ported and weights is not None:
        # These weights were trained on inputs scaled otherwise than their preprocessing does it.
        extra["transform_input"] = True
    if architecture.startswith("vit_") and weights is not None:
        extra["image_size"] = weights.meta["min_size"][0]
    model = torchvision.models.get_model(
        architecture, weights=None, num_classes=classes, **extra
    ).eval()
    stages = dict(model.named_children())
    for stage in keep_resolution:
        if stage not in stages:
            raise ConsilienceError(
                f"keep_resolution: {architecture} has no stage {stage!r}; {nearest(stage, stages)}"
            )
        for module in stages[stage].modules():
            if isinstance(module, torch.nn.Conv2d):
                module.stride = (1, 1)
    return model


def find_weights(architecture: str, name: str) -> Weights:
    """Return torchvision's weights ``name`` (such as IMAGENET1K_V1) of an architecture.

    Nothing is downloaded: the entry carries the class names and the preprocessing.

    Raises
    ------
    ConsilienceError
        If the architecture or the weights do not exist: names those that do.
    """
    try:
        entries = torchvision.models.get_model_weights(architecture)
    except ValueError:
        known = torchvision.models.list_models(module=torchvision.models)
        raise ConsilienceError(
            f"torchvision has no classifier {architecture!r}; {nearest(architecture, known)}"
        ) from None
    if name not in entries.__members__:
        raise ConsilienceError(
            f"{architecture} has no weights {name!r}; it has {', '.join(entries.__members__)}"
        )
    return entries[name]


def transform_of(weights: Weights) -> Transform:
    """Return the preprocessing that belongs to torchvision weights."""
    preset = weights.transforms()
    return Transform(
        resize=preset.resize_size[0],
        crop=(preset.crop_size[0], preset.crop_size[0]),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
    )


def read_class_names(path: str | Path) -> tuple[str, ...]:
    """Read class names, one a line in the order of the logits; empty lines at the end are cut."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConsilienceError(f"{path}: class names cannot be read ({error})") from None
    return tuple(line.strip() for line in text.rstrip().splitlines())


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a state dict from a checkpoint without executing anything that is in it.

    Takes safetensors and PyTorch files (``weights_only=True``), a state dict nested under
    ``state_dict`` or ``model``, and keys prefixed with ``module.``.

    Raises
    ------
    ConsilienceError
        If the file is missing, broken, holds anything but tensors, or holds values that are not
        finite.
    """
    path = Path(path)
    if not path.is_file():
        raise ConsilienceError(f"{path}: no such checkpoint")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle, safetensors and struct all raise their own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConsilienceError(f"{path}: not a readable checkpoint ({reason})") from None
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(
        isinstance(value, torch.Tensor) for value in state.values()
    ):
        raise ConsilienceError(f"{path}: holds no state dict (a mapping of names to tensors)")
    state = {key.removeprefix("module."): value for key, value in state.items()}
    for key, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ConsilienceError(f"{path}: {key!r} holds values that are not finite")
    return state


def describe_classifier(spec: Mapping) -> tuple[tuple[str, ...], Transform]:
    """Return class names and preprocessing of a study's model without building it.

    Parameters
    ----------
    spec
        An entry of the study's ``models``. Class names come from ``classes`` (a file, or a list),
        else from the torchvision weights that ``weights`` or ``preprocessing`` names; likewise
        the preprocessing from ``transform``, else from those weights.
    """
    named = spec.get("weights") or spec.get("preprocessing")
    entry = find_weights(spec["architecture"], named) if named else None
    classes = spec.get("classes")
    if classes is None and entry is not None:
        class_names = tuple(entry.meta["categories"])
    elif isinstance(classes, str):
        class_names = read_class_names(classes)
    elif classes is not None:
        class_names = tuple(classes)
    else:
        raise ConsilienceError(
            f"model {spec['name']!r}: class names are not known; give classes, or preprocessing"
        )
    if spec.get("transform"):
        transform = Transform.from_dict(spec["transform"])
    elif entry is not None:
        transform = transform_of(entry)
    else:
        raise ConsilienceError(
            f"model {spec['name']!r}: its preprocessing is not known; give transform, or "
            "preprocessing (the name of torchvision weights that were trained alike)"
        )
    return class_names, transform


def load_classifier(spec: Mapping, checkpoint: str | Path | None = None) -> Classifier:
    """Load a model of the study.

    Parameters
    ----------
    spec
        An entry of the study's ``models``: ``name``, ``architecture``, ``keep_resolution``, what
        :func:`describe_classifier` reads, and ``weights`` or ``checkpoint``.
    checkpoint
        Where its weights lie; by default ``spec["checkpoint"]``, else torchvision's ``weights``
        are fetched into PyTorch's hub folder.

    Raises
    ------
    ConsilienceError
        If the checkpoint does not fit the architecture or the class names: names the keys.
    """
    class_names, transform = describe_classifier(spec)
    named = spec.get("weights") or spec.get("preprocessing")
    model = build_architecture(
        spec["architecture"],
        len(class_names),
        spec.get("keep_resolution", ()),
        find_weights(spec["architecture"], named) if named else None,
    )
    checkpoint = checkpoint or spec.get("checkpoint")
    if checkpoint is None:
        entry = find_weights(spec["architecture"], spec["weights"])
        try:
            state = entry.get_state_dict(progress=False, check_hash=True)
        except (OSError, RuntimeError) as error:  # no network; another hash than the file's name
            raise ConsilienceError(
                f"model {spec['name']!r}: weights {spec['weights']} cannot be fetched from "
                f"{entry.url} ({error}); fetch that file elsewhere and give it as checkpoint"
            ) from None
        checkpoint = entry.url
    else:
        state = read_state_dict(checkpoint)
    own = model.state_dict()
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    # The auxiliary heads of GoogLeNet and Inception play no part in evaluation.
    missing = [key for key in missing if not key.startswith(("aux1.", "aux2.", "AuxLogits."))]
    unknown = [key for key in state if key not in own]
    shapes = [
        f"{key} is {tuple(state[key].shape)}, not {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    said = [f"lacks {key!r} and {len(missing) - 1} more" for key in missing[:1]]
    said += [f"has unknown {key!r} and {len(unknown) - 1} more" for key in unknown[:1]]
    said += shapes[:1]
    if said:
        raise ConsilienceError(
            f"{checkpoint}: does not fit {spec['architecture']} with {len(class_names)} classes: "
            + "; ".join(said)
        )
    model.load_state_dict(state, strict=False)
    accelerate(model)
    return Classifier(spec["name"], model.eval().requires_grad_(False), class_names, transform)

"""Image classifiers: architecture, weights, class names, preprocessing and layers."""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from .checkpoints import is_archive, load_checkpoint, read_archive
from .errors import ConsilienceError, printable
from .images import Transform
from .inference import PRECISIONS, prepare
from .vision import torchvision
from .words import read_class_names

Weights = torchvision.models.WeightsEnum


@dataclass(frozen=True)
class Classifier:
    """A classifier ready to be asked: in evaluation mode, on one device.

    Attributes
    ----------
    name
        The name the study gives it.
    model
        Maps float32 (n, 3, height, width) to float32 logits (n, classes).
    class_names
        One a class, in the order of the logits.
    transform
        The preprocessing that belongs to its weights.
    """

    name: str
    model: torch.nn.Module
    class_names: tuple[str, ...]
    transform: Transform

    @property
    def device(self) -> torch.device:
        """Where the model lies, and its inputs must."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    def prepare_input(self, pictures: np.ndarray) -> torch.Tensor:
        """Return fitted pictures (:meth:`probabilities`) as the model takes them, on its device."""
        return self.transform.normalize(pictures, self.device)

    def layer(self, name: str) -> torch.nn.Module:
        """Return the layer called ``name`` in ``model.named_modules()``.

        Raises
        ------
        ConsilienceError
            If there is none: says which layers have the nearest names. If it was joined with a
            neighbour (a convolution with its batch norm, its activation or an addition), so that
            its output is no longer its own.
        """
        layers = dict(self.model.named_modules())
        layers.pop("", None)
        if name not in layers:
            raise ConsilienceError(
                f"model {self.name!r} has no layer {name!r}; {nearest(name, layers)}"
            )
        if getattr(layers[name], "joined", False):
            raise ConsilienceError(
                f"model {self.name!r}: layer {name!r} was joined with its neighbours as it was not "
                "to be watched; name it in `keep` of load_classifier"
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
            If the model does not take pictures of this size, answers with anything but one logit
            a class and picture, or with a value that is not finite.
        """
        try:
            with torch.inference_mode():
                logits = self.model(self.prepare_input(pictures))
        except (RuntimeError, ValueError, AssertionError) as error:  # layers raise all of these
            height, width = pictures.shape[1:3]
            raise ConsilienceError(
                f"model {self.name!r} fails on pictures of {height} × {width} pixels "
                f"({_reason(error)}); give a transform with the resize and crop that it takes"
            ) from error
        expected = (len(pictures), len(self.class_names))
        if not isinstance(logits, torch.Tensor) or logits.shape != expected:
            what = type(logits).__name__
            if isinstance(logits, torch.Tensor):
                what = f"logits of shape {tuple(logits.shape)}"
            raise ConsilienceError(
                f"model {self.name!r} answers {len(pictures)} pictures with {what}, not with "
                f"logits of shape {expected}; give it as many class names as it has classes"
            )
        if not torch.isfinite(logits).all():
            raise ConsilienceError(
                f"model {self.name!r} answers with values that are not finite; check its weights"
            )
        return torch.softmax(logits.float(), dim=1).cpu().numpy()


def nearest(word: str, words: Sequence[str] | Mapping) -> str:
    """Say which of ``words`` come nearest to ``word``, for an error message."""
    close = difflib.get_close_matches(word, list(words), n=3, cutoff=0.4)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else "none is like it"


@contextmanager
def _importing_from_here() -> Iterator[None]:
    """Let Python find modules in the working directory, before all others."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)


def call_function(name: str, arguments: Mapping) -> torch.nn.Module:
    """Build a model with a function of the user's.

    Parameters
    ----------
    name
        ``module:function``, such as ``mypackage.models:make_net``; the module is looked for in the
        working directory first, then where Python looks.
    arguments
        Keyword arguments of the function.

    Returns
    -------
    torch.nn.Module
        What it returns, in evaluation mode.

    Raises
    ------
    ConsilienceError
        If there is no such module or function, either fails, or it returns no module: says why.
    """
    place, _, attribute = name.partition(":")
    what = f"architecture {name!r}"
    with _importing_from_here():
        try:
            module = importlib.import_module(place)
        except Exception as error:  # whatever the user's code raises
            raise ConsilienceError(
                f"{what}: module {place!r} cannot be imported from {Path.cwd()} ({_reason(error)})"
            ) from error
        function = getattr(module, attribute, None)
        if not callable(function):
            public = [key for key, value in vars(module).items() if callable(value)]
            raise ConsilienceError(
                f"{what}: module {place!r} has no function {attribute!r}; "
                f"{nearest(attribute, public)}"
            )
        try:
            model = function(**arguments)
        except Exception as error:
            given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
            raise ConsilienceError(
                f"{what}: {attribute}({given}) fails ({_reason(error)}); `arguments` of the model "
                "must be what the function takes"
            ) from error
    if not isinstance(model, torch.nn.Module):
        raise ConsilienceError(
            f"{what}: {attribute} returns a {type(model).__name__}, not a torch.nn.Module"
        )
    return model.eval()


def _reason(error: Exception) -> str:
    """Say an exception in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def is_function(architecture: str) -> bool:
    """Say whether an architecture is a function of the user's, ``module:function``."""
    return ":" in architecture


def build_architecture(
    architecture: str,
    classes: int,
    keep_resolution: Sequence[str] = (),
    weights: Weights | None = None,
    arguments: Mapping | None = None,
) -> torch.nn.Module:
    """Build a classifier: torchvision's with random weights, or a function's of the user.

    Parameters
    ----------
    architecture
        A name of ``torchvision.models.list_models(module=torchvision.models)``, or
        ``module:function`` as :func:`call_function` takes it.
    classes
        Number of logits; a function of the user's is not told.
    keep_resolution
        Stages (such as ``layer4`` of a ResNet) whose first block gets stride 1 instead of 2, so
        that their output has twice the positions along each side.
    weights
        torchvision weights that the model is made for: the few architectures that differ with
        them are built as those want them. They are not loaded.
    arguments
        Of a function of the user's.

    Raises
    ------
    ConsilienceError
        If there is no such architecture or stage.
    """
    if is_function(architecture):
        model = call_function(architecture, arguments or {})
    else:
        model = _build_torchvision(architecture, classes, weights)
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


def _build_torchvision(architecture: str, classes: int, weights: Weights | None) -> torch.nn.Module:
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
    return torchvision.models.get_model(
        architecture, weights=None, num_classes=classes, **extra
    ).eval()


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


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a state dict from a checkpoint without executing anything that is in it.

    Takes safetensors, PyTorch files however old, and archives of TorchScript
    (:mod:`consilience.checkpoints`); a state dict nested under ``state_dict`` or ``model``, and
    keys prefixed with ``module.``.

    Raises
    ------
    ConsilienceError
        If the file is missing, broken, holds anything but tensors, or holds values that are not
        finite.
    """
    path, place = Path(path), printable(path)
    if not path.is_file():
        raise ConsilienceError(f"{place}: no such checkpoint")
    if path.suffix.lower() == ".safetensors":
        try:
            state = load_file(path)
        except Exception as error:  # struct, json and safetensors all raise their own
            raise ConsilienceError(
                f"{place}: not a readable checkpoint ({_reason(error)})"
            ) from None
    elif is_archive(path):
        state = read_archive(path)
    else:
        state = load_checkpoint(path)
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(
        isinstance(value, torch.Tensor) for value in state.values()
    ):
        raise ConsilienceError(f"{place}: holds no state dict (a mapping of names to tensors)")
    named = {str(key).removeprefix("module."): value for key, value in state.items()}
    if len(named) < len(state):
        raise ConsilienceError(f"{place}: holds tensors of one name, with and without 'module.'")
    for key, value in named.items():
        if not _is_finite(value):
            raise ConsilienceError(f"{place}: {key!r} holds values that are not finite")
    return named


def _is_finite(value: torch.Tensor) -> bool:
    """Say whether all values are finite, as float32 too, in which models compute."""
    if value.is_complex():
        value = torch.view_as_real(value)
    return not value.is_floating_point() or bool(torch.isfinite(value.float()).all())


def _named_weights(spec: Mapping) -> Weights | None:
    """Return the torchvision weights that a model of the study names, if any."""
    named = spec.get("weights") or spec.get("preprocessing")
    return find_weights(spec["architecture"], named) if named else None


def find_class_names(spec: Mapping) -> tuple[str, ...]:
    """Return the class names of a study's model without building it.

    Parameters
    ----------
    spec
        An entry of the study's ``models``. Class names come from ``classes`` (a file, or a list),
        else from the torchvision weights that ``weights`` or ``preprocessing`` names.

    Raises
    ------
    ConsilienceError
        If neither says them, or they cannot be read.
    """
    classes = spec.get("classes")
    if isinstance(classes, str):
        return read_class_names(classes)
    if classes is not None:
        return tuple(classes)
    if (entry := _named_weights(spec)) is not None:
        return tuple(entry.meta["categories"])
    raise ConsilienceError(
        f"model {spec['name']!r}: class names are not known; give classes, or preprocessing"
    )


def collect_class_names(specs: Sequence[Mapping]) -> tuple[str, ...]:
    """Return the class names of several models as words: each once, sorted.

    Underscores become spaces; names that are blank (classes that a list leaves out) fall away.
    """
    names = {
        " ".join(n.replace("_", " ").split()) for spec in specs for n in find_class_names(spec)
    }
    return tuple(sorted(names - {""}))


def describe_classifier(spec: Mapping) -> tuple[tuple[str, ...], Transform]:
    """Return class names and preprocessing of a study's model without building it.

    Parameters
    ----------
    spec
        As :func:`find_class_names` takes it. The preprocessing comes from ``transform``, else
        from the torchvision weights that ``weights`` or ``preprocessing`` names.

    Raises
    ------
    ConsilienceError
        If either is not known.
    """
    entry = _named_weights(spec)
    class_names = find_class_names(spec)
    if spec.get("transform"):
        return class_names, Transform.from_dict(spec["transform"])
    if entry is not None:
        return class_names, transform_of(entry)
    raise ConsilienceError(
        f"model {spec['name']!r}: its preprocessing is not known; give transform, or "
        "preprocessing (the name of torchvision weights that were trained alike)"
    )


def load_classifier(
    spec: Mapping,
    checkpoint: str | Path | None = None,
    keep: Sequence[str] | None = None,
    ready: bool = True,
    device: torch.device | str = "cpu",
) -> Classifier:
    """Load a model of the study.

    Parameters
    ----------
    spec
        An entry of the study's ``models``: ``name``, ``architecture``, ``arguments``,
        ``keep_resolution``, ``precision``, what :func:`describe_classifier` reads, and ``weights``
        or ``checkpoint``; a function of the user's may bring its weights itself. ``untrained``, a
        seed, instead of these: random weights as the architecture draws them, or for a function
        of the user's as PyTorch draws them layer by layer.
    checkpoint
        Where its weights lie; by default ``spec["checkpoint"]``, else torchvision's ``weights``
        are fetched into PyTorch's hub folder.
    keep
        Names of the layers that will be watched, so that other convolutions can take batch norms
        and activations in (:func:`consilience.inference.prepare`). By default any layer may be.
    ready
        False leaves the model as it was built and loaded, for who changes its weights and makes
        it ready to be asked then.
    device
        Where it computes.

    Raises
    ------
    ConsilienceError
        If the checkpoint does not fit the architecture or the class names: names the keys.
    """
    class_names, transform = describe_classifier(spec)
    precision = spec.get("precision", "float32")
    if precision not in PRECISIONS:
        raise ConsilienceError(
            f"model {spec['name']!r}: precision {precision!r} must be {' or '.join(PRECISIONS)}"
        )
    untrained = spec.get("untrained")
    if untrained is not None:
        torch.manual_seed(untrained)
    model = build_architecture(
        spec["architecture"],
        len(class_names),
        spec.get("keep_resolution", ()),
        _named_weights(spec),
        spec.get("arguments"),
    )
    checkpoint = checkpoint or spec.get("checkpoint")
    if untrained is not None:
        if is_function(spec["architecture"]):
            _forget(model, untrained)
    elif checkpoint is not None:
        state = _renamed(read_state_dict(checkpoint), spec["architecture"])
        _load_weights(model, state, checkpoint, spec, len(class_names))
    elif not is_function(spec["architecture"]):
        _load_weights(model, *_fetch_weights(spec), spec, len(class_names))
    model.eval().requires_grad_(False)
    if ready:
        prepare(model, keep, precision, device)
    return Classifier(spec["name"], model.to(device), class_names, transform)


def _forget(model: torch.nn.Module, seed: int) -> None:
    """Draw all weights anew, layer by layer."""
    torch.manual_seed(seed)
    for module in model.modules():
        if callable(getattr(module, "reset_parameters", None)):
            module.reset_parameters()


def _fetch_weights(spec: Mapping) -> tuple[Mapping[str, torch.Tensor], str]:
    """Fetch torchvision's weights, or find them fetched: the state dict, and where it is from."""
    entry = find_weights(spec["architecture"], spec["weights"])
    place = Path(torch.hub.get_dir(), "checkpoints", entry.url.split("/")[-1])
    if place.is_file():  # where the rule `assets` has put it, or torchvision itself
        return _renamed(read_state_dict(place), spec["architecture"]), str(place)
    try:
        state = entry.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:  # no network; another hash than the file's name
        raise ConsilienceError(
            f"model {spec['name']!r}: weights {spec['weights']} cannot be fetched from "
            f"{entry.url} ({error}); fetch that file elsewhere and give it as checkpoint"
        ) from None
    return _renamed(state, spec["architecture"]), entry.url


def _renamed(state: Mapping[str, torch.Tensor], architecture: str) -> Mapping[str, torch.Tensor]:
    """Give the weights of DenseNets the names that torchvision gives them, without inner dots."""
    if not architecture.startswith("densenet"):
        return state
    pattern = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
    return {pattern.sub(r"\1\2", key): value for key, value in state.items()}


def _kind(value: torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _load_weights(
    model: torch.nn.Module,
    state: Mapping[str, torch.Tensor],
    source: str | Path,
    spec: Mapping,
    classes: int,
) -> None:
    """Give a model its weights, or say how these do not fit it."""
    own = model.state_dict()
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    # The auxiliary heads of GoogLeNet and Inception play no part in evaluation.
    missing = [key for key in missing if not key.startswith(("aux1.", "aux2.", "AuxLogits."))]
    unknown = [key for key in state if key not in own]
    kinds = [
        f"{key} holds {_kind(state[key])}, not numbers with a fraction"
        for key in own
        if key in state and own[key].is_floating_point() and not state[key].is_floating_point()
    ]
    shapes = [
        f"{key} is {tuple(state[key].shape)}, not {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    said = [f"lacks {key!r} and {len(missing) - 1} more" for key in missing[:1]]
    said += [f"has unknown {key!r} and {len(unknown) - 1} more" for key in unknown[:1]]
    said += shapes[:1] + kinds[:1]
    if said:
        raise ConsilienceError(
            f"{source}: does not fit {spec['architecture']} with {classes} classes: "
            + "; ".join(said)
        )
    model.load_state_dict(state, strict=False)

"""Class activation maps: pytorch-grad-cam's methods, with the same answers in less time.

The library is the definition and the interface. Its classes are extended here where that saves
work without changing the answer:

- gradients are computed for what follows the layer, not for the whole network, and for many
  pictures in one pass;
- Ablation-CAM reruns what follows the layer only;
- Score-CAM builds its masks batch by batch, asks the model once for all channels whose mask is
  empty, and where the model's first convolution is large makes its outputs from those for the
  masks' cells;
- Score-CAM and Ablation-CAM ask once about a picture that is explained for several classes in
  succession.

What the library does and a user may not expect is kept, and said in the log where it happens:

- of several layers the heatmap is the mean of each layer's map, scaled to [0, 1] first, and scaled
  to [0, 1] again;
- Ablation-CAM divides by the score of the target, so that a negative score turns the signs of all
  weights round, and a score of zero gives no map (status ``nan``);
- where a layer's smallest activation is not zero, it does not set an ablated channel to zero but
  to that minimum less 1e7 (less 2e7, 3e7, … for the next ones of a batch, so that the map depends
  on the batch size);
- where the layer's output is overwritten in place by what follows, as by ``ReLU(inplace=True)``,
  the maps are of the overwritten values.

Left out of the library's methods are those that are no map of a layer (FullGrad), are random
(RandomCAM), or wrap another method (FinerCAM, RefineCAM, SESS), and ShapleyCAM, which
differentiates the whole network twice.
"""

from __future__ import annotations

from . import vision  # noqa: F401 (before what imports torchvision too)

# isort: split

import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from .activations import in_proportion
from .classifiers import Classifier, nearest
from .deferred import deferring
from .errors import ConsilienceError
from .progress import Progress, track
from .registry import Registry, require_parameters
from .stem import Stem, find_stem, is_worthwhile

with deferring("matplotlib", "sklearn"):
    import pytorch_grad_cam
    from pytorch_grad_cam.activations_and_gradients import ActivationsAndGradients
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

log = logging.getLogger(__name__)

Recorded = list[tuple[torch.nn.Module, torch.Tensor]]


class _Extended:
    """What each method adds to the library's class: put before it in the list of bases.

    Parameters
    ----------
    model
        The network.
    places
        How messages call each target layer; in the order in which a pass calls them, as the
        library takes activations and gradients to be.
    batch_size
        Pictures a forward pass.
    """

    takes_batches = True

    def __init__(
        self, model: torch.nn.Module, places: dict[torch.nn.Module, str], batch_size: int = 32
    ):
        super().__init__(model, list(places), reshape_transform=self._as_maps)
        self.places, self.batch_size = places, batch_size
        # What a reader of the maps should know, and how often it is true.
        self.remarks: Counter[str] = Counter()
        self._seen: dict[torch.nn.Module, torch.Tensor] = {}
        # Before the library's own hooks, which then see what this one returns.
        self._handles = [
            layer.register_forward_hook(self._see, prepend=True) for layer in self.target_layers
        ]

    def _see(self, module, inputs, output):
        """Let the graph for the gradients begin at the first layer: parameters need none."""
        if self.uses_gradients and not output.requires_grad:
            # Cloned, since an operation in place is forbidden on the leaf itself.
            output = output.detach().requires_grad_().clone()
        self._seen[module] = output
        return output

    def _as_maps(self, output: torch.Tensor) -> torch.Tensor:
        return as_maps(output, self.size)

    def forward(self, input_tensor, targets, eigen_smooth=False) -> np.ndarray:
        self.size = tuple(input_tensor.shape[-2:])
        try:
            return super().forward(input_tensor, targets, eigen_smooth)
        except RuntimeError:
            if self.uses_gradients and not self.outputs.requires_grad:
                raise self._no_gradient() from None
            raise

    def _no_gradient(self) -> ConsilienceError:
        return ConsilienceError(
            f"{' or '.join(self.places.values())}: the target's logit does not depend on its "
            "output; give a layer that the logits are computed from"
        )

    def compute_cam_per_layer(self, *args) -> list[np.ndarray]:
        kept = self.activations_and_grads
        if self.uses_gradients and len(kept.gradients) != len(self.target_layers):
            raise self._no_gradient()
        # NumPy knows no bfloat16.
        kept.activations = [maps.float() for maps in kept.activations]
        kept.gradients = [maps.float() for maps in kept.gradients]
        self.layer_maps: list[np.ndarray] = []
        return super().compute_cam_per_layer(*args)

    def get_cam_image(self, *args, **kwargs) -> np.ndarray:
        """Return the maps at the layer's resolution, and keep them: the library rectifies them."""
        self.layer_maps.append(super().get_cam_image(*args, **kwargs))
        return self.layer_maps[-1]

    def release(self) -> None:
        """Remove all hooks, and let go of the model."""
        for handle in self._handles:
            handle.remove()
        self._seen.clear()
        self.activations_and_grads.release()
        # Their graph calls the library's hook for gradients, which leads back to here: a cycle that
        # Python cannot see, and the model with it would stay in memory for good.
        self.outputs = None


class _Watcher(ActivationsAndGradients):
    """The library's hooks, which can look away: they copy the layer's output off the device."""

    is_watching = True

    def save_activation(self, module, inputs, output):
        if self.is_watching:
            super().save_activation(module, inputs, output)

    @contextmanager
    def looking_away(self) -> Iterator[None]:
        self.is_watching = False
        try:
            yield
        finally:
            self.is_watching = True


class _Perturbing(_Extended):
    """What Score-CAM and Ablation-CAM share: a pass for each channel, whatever the target."""

    takes_batches = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.activations_and_grads.release()
        self.activations_and_grads = _Watcher(
            self.model, self.target_layers, self.reshape_transform
        )
        # Of the last picture: itself, and the logits of its perturbed versions by layer.
        self._last: tuple[torch.Tensor, dict[torch.nn.Module, torch.Tensor]] | None = None

    def compute_cam_per_layer(self, input_tensor, *args) -> list[np.ndarray]:
        # What the layers gave for the picture itself, before perturbed ones pass through.
        self.given = dict(self._seen)
        if self._last is None or not torch.equal(self._last[0], input_tensor):
            self._last = (input_tensor, {})
        return super().compute_cam_per_layer(input_tensor, *args)

    def _score(self, layer, target, ask: Callable[[], torch.Tensor]) -> np.ndarray:
        """Score each perturbed version of the picture: float32, shape (channels,)."""
        known = self._last[1]
        if layer not in known:
            known[layer] = ask().float().cpu()
        return torch.stack([target(logits) for logits in known[layer]]).numpy()

    def _run(self, batch: torch.Tensor) -> torch.Tensor:
        with self.activations_and_grads.looking_away():
            return self.model(batch)

    def release(self) -> None:
        self._last = self.given = None
        super().release()


class ScoreCAM(_Perturbing, pytorch_grad_cam.ScoreCAM):
    """Score-CAM (Wang et al., 2020, https://arxiv.org/abs/1910.01279), masks built on the fly.

    A mask is a sum of its cells' bilinear bumps, and so is what a linear first convolution makes of
    the picture under it (:mod:`consilience.stem`). That the model's answers are those for the
    masked pictures is proved on two channels of the first picture.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # Whether masked pictures need not be built; None while not known.
        self.is_linear: bool | None = None

    @torch.no_grad()
    def get_cam_weights(self, input_tensor, target_layer, targets, activations, grads):
        """Softmax over the channels of the score of the picture masked with each channel.

        As in the library the mask is the channel, upsampled and scaled to [0, 1] by
        ``(x - min) / (max - min + 1e-8)``. Where the upsampled channel is constant the mask is
        zero everywhere: one empty picture stands for all such channels.
        """
        ((picture,), (target,)) = input_tensor, targets
        maps = torch.from_numpy(activations[0]).to(self.device)
        scores = self._score(target_layer, target, lambda: self._ask(picture, maps))
        return torch.softmax(torch.from_numpy(scores), dim=-1).numpy()[None]

    def _ask(self, picture: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        """Return the logits of the picture under each mask, shape (channels, classes)."""
        upsample = torch.nn.UpsamplingBilinear2d(size=picture.shape[-2:])
        # A constant other than zero may not stay constant to the last digit when upsampled, and
        # the library then scales the rounding up to a mask: ask the upsampled channel.
        empty = is_constant(maps)
        if empty.any():
            empty[empty.clone()] = is_constant(upsample(maps[empty][None])[0])
        logits = None
        if empty.any():
            blank = self._run(torch.zeros_like(picture)[None])
            logits = blank.repeat(len(maps), 1)
        # Written to again and again: taking memory costs more than masking.
        masked = picture.new_empty(self.batch_size, *picture.shape)
        stem = self._make_stem(picture, maps[~empty])
        asked = (~empty).nonzero().flatten()
        # Nothing, split, is one part that is empty.
        parts = asked.split(self.batch_size) if len(asked) else ()
        for channels in track(parts, "passes"):
            masks, shares = _scale(upsample(maps[channels][None])[0], maps[channels])
            if stem is not None:
                outputs = self._run_mixtures(stem, picture, shares)
            else:
                outputs = self._run(torch.mul(picture, masks[:, None], out=masked[: len(channels)]))
            if logits is None:
                logits = outputs.new_empty(len(maps), outputs.shape[1])
            logits[channels] = outputs
        return logits

    def _make_stem(self, picture: torch.Tensor, maps: torch.Tensor) -> Stem | None:
        """Return the first convolution's outputs for the masks' cells, where that saves work.

        ``maps`` are the channels that make masks, of which two are tried.
        """
        rows, columns = maps.shape[1:]
        # Cells of two or three rows of a mask reach a row of the output.
        reached = 3 * columns
        if (
            self.is_linear is False
            or not len(maps)
            or not any(is_worthwhile(module, picture, reached) for module in self.model.modules())
        ):
            return None
        with self.activations_and_grads.looking_away():
            convolution = find_stem(self.model, picture[None])
        if not is_worthwhile(convolution, picture, reached):
            return None
        cells = torch.eye(rows * columns).view(rows, columns, rows, columns)
        upsample = torch.nn.UpsamplingBilinear2d(size=picture.shape[1:])
        # What are channels of one picture here are the cells of one row.
        stem = Stem(convolution, (picture * upsample(row[None])[0, :, None] for row in cells))
        if self.is_linear is None:
            masks, shares = _scale(upsample(maps[None, :2])[0], maps[:2])
            expected = self._run(picture * masks[:, None])
            self.is_linear = agrees(self._run_mixtures(stem, picture, shares), expected)
            if not self.is_linear:
                log.info(
                    "%s: the model looks at its input beside its first convolution; masks are "
                    "built",
                    " and ".join(self.places.values()),
                )
        return stem if self.is_linear else None

    def _run_mixtures(self, stem: Stem, picture: torch.Tensor, shares: torch.Tensor):
        with stem.answering(shares):
            return self._run(picture.expand(len(shares), -1, -1, -1))


def _scale(masks: torch.Tensor, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale upsampled channels to [0, 1], in place, and alike the channels, in a row of cells."""
    low, high = masks.amin((1, 2), True), masks.amax((1, 2), True)
    scale = high - low + 1e-8
    return masks.sub_(low).div_(scale), maps.sub(low).div_(scale).flatten(1)


class AblationCAM(_Perturbing, pytorch_grad_cam.AblationCAM):
    """Ablation-CAM (Desai and Ramaswamy, 2020), rerunning only what follows the layer.

    https://openaccess.thecvf.com/content_WACV_2020/html/Desai_Ablation-CAM_Visual_Explanations_for_Deep_Convolutional_Network_via_Gradient-free_Localization_WACV_2020_paper.html

    The modules that are called before the layer answer with what they answered to the unperturbed
    picture. That this gives what the whole network gives is proved on one channel of the first
    picture; where it does not, the whole network runs, as in the library.

    Of a transformer's tokens all are ablated, the class token too, as the library's
    ``AblationLayerVit`` does.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # By layer, whether what follows can be run alone; not there where not known yet.
        self.splits: dict[torch.nn.Module, bool] = {}

    @torch.no_grad()
    def get_cam_weights(self, input_tensor, target_layer, targets, activations, grads):
        """Relative drop of the score when each channel is ablated: (y - y_k) / y."""
        (target,) = targets
        output = self.given[target_layer][0]
        score = np.float32(target(self.outputs[0]).item())
        self.remarks["the logit divided by is negative: weights have the opposite sign"] += (
            score < 0
        )
        self.remarks["ablated channels are set to the minimum less 1e7, not to zero"] += (
            output.min().item() != 0
        )
        scores = self._score(
            target_layer, target, lambda: self._ask(input_tensor, target_layer, output)
        )
        return ((score - scores) / score)[None]

    def _ask(self, picture, layer, output) -> torch.Tensor:
        """Return the logits with each channel ablated, shape (channels, classes)."""
        axis = -1 if has_channels_last(output[None].shape, self.size) else 0
        before = self._find_before(picture, layer, output, axis)
        parts = torch.arange(output.shape[axis]).split(self.batch_size)
        return torch.cat(
            [
                self._rerun(picture, layer, ablate(output, part, axis), before)
                for part in track(parts, "passes")
            ]
        )

    def _find_before(self, picture, layer, output, axis) -> Recorded:
        """Record what is called before the layer; nothing where the model cannot be split."""
        if not self.splits.get(layer, True):
            return []
        with self.activations_and_grads.looking_away():
            before = record_before(self.model, layer, picture)
        if layer not in self.splits:
            # Twice: what is recorded must serve a batch of several.
            strength = output.float().abs().movedim(axis, 0).flatten(1).sum(1)
            ablated = ablate(output, strength.argmax().repeat(2), axis)
            whole = self._rerun(picture, layer, ablated, [])
            try:
                split = self._rerun(picture, layer, ablated, before)
                self.splits[layer] = agrees(split, whole)
            except RuntimeError:  # such as an operation in place on a recorded output
                self.splits[layer] = False
            if not self.splits[layer]:
                log.info("%s: what follows cannot be run alone; the whole runs", self.places[layer])
        return before if self.splits[layer] else []

    def _rerun(self, picture, layer, ablated, before: Recorded) -> torch.Tensor:
        with answering([*before, (layer, ablated)], len(ablated)):
            return self._run(picture.expand(len(ablated), -1, -1, -1))


def agrees(logits: torch.Tensor, expected: torch.Tensor) -> bool:
    """Say whether logits that were come by in another way are those of the network."""
    # Digits of the network's own precision may differ, as with the batch size.
    scale = max(1.0, torch.finfo(expected.dtype).eps / torch.finfo(torch.float32).eps)
    tolerance = 1e-5 * scale * expected.abs().max().item()
    return torch.allclose(logits, expected, rtol=1e-4 * scale, atol=tolerance, equal_nan=True)


def is_constant(maps: torch.Tensor) -> torch.Tensor:
    """Say of each channel (channels, height, width) whether it has one value; not if it has NaN."""
    return maps.amin((1, 2)) == maps.amax((1, 2))


def ablate(output: torch.Tensor, channels: torch.Tensor, axis: int = 0) -> torch.Tensor:
    """Copy a layer's output for one picture once a channel, with that channel ablated.

    Parameters
    ----------
    output
        Without the dimension of pictures: (channels, height, width), or channels last.
    channels
        Indices of the channels to ablate, shape (n,).
    axis
        Where the channels are: 0 or -1.

    Returns
    -------
    torch.Tensor
        Shape (n, *output.shape). As the library's ``AblationLayer`` and ``AblationLayerVit`` have
        it, the value is zero where the smallest activation is zero, else the smallest value of
        the batch so far less 1e7.
    """
    batch = output.repeat(len(channels), *[1] * output.ndim)
    # On the processor: each value depends on the one before.
    lowest, values = output.min().cpu(), []
    for _ in channels:
        if lowest != 0:
            lowest = lowest - 1e7
        values.append(lowest)
    ablated = torch.stack(values).to(output.device).view(-1, *[1] * (output.ndim - 1))
    rows = torch.arange(len(channels), device=output.device)
    batch.movedim(axis + 1 if axis >= 0 else axis, 1)[rows, channels.to(output.device)] = ablated
    return batch


def as_maps(output: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bring a layer's output into the form of a convolution's: the library's reshape transform.

    Parameters
    ----------
    output
        A map (n, channels, height, width); one with its channels last, as Swin transformers have
        it; or tokens (n, tokens, units) of a vision transformer, row by row, with or without a
        class token before them, which is left out.
    size
        Height and width of the picture, whose proportions tell these forms apart.

    Returns
    -------
    torch.Tensor
        A view, shape (n, channels, height, width).

    Raises
    ------
    ConsilienceError
        If it is none of these.
    """
    if output.ndim == 3:
        for extra in (1, 0):
            if grid := _find_grid(output.shape[1] - extra, size):
                return output[:, extra:].transpose(1, 2).unflatten(2, grid)
    if output.ndim != 4:
        raise ConsilienceError(
            f"gives {tuple(output.shape)}, not (n, channels, height, width), nor tokens (n, "
            "tokens, units) in the proportions of the picture; give a convolutional layer or a "
            "transformer's block"
        )
    return output.permute(0, 3, 1, 2) if has_channels_last(output.shape, size) else output


def has_channels_last(shape: torch.Size, size: tuple[int, int]) -> bool:
    """Say whether channels are the last dimension of a layer's output, not the second.

    For a map the sides decide: they have the proportions of the picture.
    """
    return len(shape) == 3 or (
        in_proportion(shape[1:3], size) and not in_proportion(shape[2:], size)
    )


def _find_grid(tokens: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """Return rows and columns of so many tokens, if they can have the picture's proportions."""
    height, width = size
    rows = round(math.sqrt(max(tokens, 0) * height / width))
    if rows and tokens % rows == 0 and rows * width == tokens // rows * height:
        return rows, tokens // rows
    return None


def record_before(model: torch.nn.Module, layer: torch.nn.Module, inputs: torch.Tensor) -> Recorded:
    """Run a model and record the output of each call that ends before ``layer`` is called.

    A module stands for the modules that it calls. Outputs are copies, in the order of the calls.
    """
    recorded: Recorded = []
    starts: list[int] = []
    reached = False

    def enter(module, args):
        nonlocal reached
        reached = reached or module is layer
        starts.append(len(recorded))

    def leave(module, args, output):
        start = starts.pop()
        if not reached and isinstance(output, torch.Tensor):
            recorded[start:] = [(module, output.clone())]

    handles = []
    try:
        for module in model.modules():
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave))
        model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return recorded


@contextmanager
def answering(recorded: Recorded, size: int) -> Iterator[None]:
    """Let modules answer with recorded outputs, expanded to a batch of ``size``, in one pass.

    A module that is called more often than was recorded computes its later answers.
    """
    answers: dict[torch.nn.Module, deque] = {}
    for module, output in recorded:
        answers.setdefault(module, deque()).append(output.expand(size, *output.shape[1:]))

    def answer(pending, compute):
        return lambda *args, **kwargs: pending.popleft() if pending else compute(*args, **kwargs)

    had = {module: vars(module).get("forward") for module in answers}
    try:
        for module, pending in answers.items():
            module.forward = answer(pending, module.forward)
        yield
    finally:
        for module, forward in had.items():
            vars(module).pop("forward", None)
            if forward is not None:
                module.forward = forward


def _extend(library_class: type) -> type:
    # A class that takes a picture at a time says so itself, and has the last word.
    takes_batches = getattr(library_class, "takes_batches", _Extended.takes_batches)
    bases = (_Extended, library_class)
    return type(library_class.__name__, bases, {"takes_batches": takes_batches})


def _adapt(name: str, thing: type | Callable) -> type:
    """Extend what a user registered (:func:`consilience.registry.cam`)."""
    if not isinstance(thing, type):
        return _extend(_make_class(name, thing))
    if not issubclass(thing, pytorch_grad_cam.base_cam.BaseCAM):
        raise ConsilienceError(f"{thing.__name__} is not derived from pytorch-grad-cam's BaseCAM")
    return thing if issubclass(thing, _Extended) else _extend(thing)


def _make_class(name: str, function: Callable) -> type:
    """Make a class of pytorch-grad-cam's kind of a function that gives maps."""
    count = require_parameters(function, ("activations", "gradients"), ("activations",))

    class FunctionCAM(pytorch_grad_cam.base_cam.BaseCAM):
        def __init__(self, model, target_layers, reshape_transform=None):
            super().__init__(model, target_layers, reshape_transform, uses_gradients=count == 2)

        def get_cam_image(self, inputs, layer, targets, activations, gradients, *_):
            maps = np.asarray(function(*(activations, gradients)[:count]))
            expected = len(activations), *activations.shape[2:]
            if maps.shape != expected or not np.issubdtype(maps.dtype, np.floating):
                raise ConsilienceError(
                    f"the CAM method {name!r} returned {maps.dtype} of shape {maps.shape}, not "
                    f"numbers of shape {expected}: (pictures, height, width) of the activations"
                )
            return maps

    return FunctionCAM


METHODS = Registry(
    "cam",
    {
        "grad-cam": _extend(pytorch_grad_cam.GradCAM),
        "score-cam": ScoreCAM,
        "ablation-cam": AblationCAM,
        "grad-cam++": _extend(pytorch_grad_cam.GradCAMPlusPlus),
        "grad-cam-elementwise": _extend(pytorch_grad_cam.GradCAMElementWise),
        "hirescam": _extend(pytorch_grad_cam.HiResCAM),
        "xgrad-cam": _extend(pytorch_grad_cam.XGradCAM),
        "layer-cam": _extend(pytorch_grad_cam.LayerCAM),
        "eigen-grad-cam": _extend(pytorch_grad_cam.EigenGradCAM),
        "seg-eigen-cam": _extend(pytorch_grad_cam.SegEigenCAM),
        # These know no target: they look at the activations alone.
        "eigen-cam": _extend(pytorch_grad_cam.EigenCAM),
        "kpca-cam": _extend(pytorch_grad_cam.KPCA_CAM),
        "fem": _extend(pytorch_grad_cam.FEM),
    },
    _adapt,
)
"""The library's class behind each method's name, extended; and what users registered."""


def explain_cam(
    classifier: Classifier,
    method: str,
    layers: str | Sequence[str],
    views: Sequence[np.ndarray],
    targets: Sequence[int],
    batch_size: int = 32,
    progress: Callable[[int, str], None] = lambda done, status: None,
) -> list[dict]:
    """Explain pictures by class activation maps.

    Parameters
    ----------
    classifier
        The model.
    method
        A key of :data:`METHODS`.
    layers
        Name of the layer, or of several; :func:`as_maps` says what its output may be. Of several,
        the heatmap is the mean of their maps as the library has it.
    views
        What the model sees: uint8, each of shape (height, width, 3). Successive ones of equal
        size share passes where the method makes one pass a picture.
    targets
        Class to explain, one a view; methods take its logit. A picture that is explained for
        several classes is given once a class, in succession.
    batch_size
        Pictures a forward pass.
    progress
        Called after each view with the number of views done and the status.

    Returns
    -------
    list of dict
        One a view, with the columns of the table ``HEATMAPS`` from ``method`` on, but for the
        target's. ``heatmap`` is what the library gives for that picture alone, up to the last
        digits; ``layer_map`` is of the layer that is named first.

    Raises
    ------
    ConsilienceError
        If there is no such method or layer, a target is out of range, the layer's output is no
        map, or the logits do not depend on it.
    """
    if method not in METHODS:
        raise ConsilienceError(f"unknown CAM method {method!r}; {nearest(method, METHODS)}")
    layers = [layers] if isinstance(layers, str) else list(layers)
    if not layers or len(set(layers)) < len(layers):
        raise ConsilienceError(
            f"model {classifier.name!r}: name at least one layer, and each once, not {layers}"
        )
    places = {
        classifier.layer(layer): f"layer {layer!r} of model {classifier.name!r}" for layer in layers
    }
    first = classifier.layer(layers[0])
    classes = len(classifier.class_names)
    for target in targets:
        if not 0 <= target < classes:
            raise ConsilienceError(
                f"target class {target} is out of range: model {classifier.name!r} has classes "
                f"0 to {classes - 1}"
            )
    if len(targets) != len(views):
        raise ConsilienceError(f"{len(targets)} targets for {len(views)} pictures; give one each")
    if not len(views):
        return []
    places = _check_layers(classifier, places, views[0])
    dtype = next(classifier.model.parameters()).dtype
    cam = METHODS[method](classifier.model, places, batch_size)
    rows: list[dict] = []
    counted = Progress(len(views), "maps")
    try:
        with torch.set_grad_enabled(cam.uses_gradients), np.errstate(all="ignore"):
            for part in _parts(views, batch_size if cam.takes_batches else 1):
                inputs = classifier.prepare_input(np.stack(views[part])).to(dtype)
                heatmaps = cam(inputs, [ClassifierOutputTarget(int(t)) for t in targets[part]])
                index = list(places).index(first)
                for heatmap, *layer_maps in zip(heatmaps, *cam.layer_maps, strict=True):
                    status = _describe_maps(layer_maps)
                    cam.remarks[f"the status of the map is {status}"] += status != "ok"
                    rows.append(
                        {"method": method, "layer": ", ".join(layers), "status": status}
                        | _flatten("layer_", "layer_map", layer_maps[index])
                        | _flatten("", "heatmap", heatmap)
                    )
                    progress(len(rows), status)
                    counted.advance()
    finally:
        # The library's `with` block would do this too, and swallow IndexError.
        cam.release()
    where = " and ".join(places.values())
    for remark, count in cam.remarks.items():
        if count:
            log.warning("%s, %s: %s (%d times in %d maps)", where, method, remark, count, len(rows))
    return rows


def _parts(views: Sequence[np.ndarray], size: int) -> Iterator[slice]:
    """Cut views into successive parts of at most ``size``, equal in shape within each."""
    start = 0
    for index in range(1, len(views) + 1):
        if (
            index == len(views)
            or index - start == size
            or np.shape(views[index]) != np.shape(views[start])
        ):
            yield slice(start, index)
            start = index


def _check_layers(
    classifier: Classifier, places: dict[torch.nn.Module, str], view: np.ndarray
) -> dict[torch.nn.Module, str]:
    """Find out in one pass whether each layer's output is one map, and is left alone.

    Returns ``places`` in the order in which the layers are called.
    """
    outputs: dict[torch.nn.Module, list] = {}

    def keep(module, args, output):
        outputs.setdefault(module, []).append((output, getattr(output, "_version", None)))

    handles = [layer.register_forward_hook(keep) for layer in places]
    try:
        with torch.no_grad():
            dtype = next(classifier.model.parameters()).dtype
            classifier.model(classifier.prepare_input(view[None]).to(dtype))
    finally:
        for handle in handles:
            handle.remove()
    for layer, place in places.items():
        calls = outputs.get(layer, [])
        if len(calls) != 1:
            raise ConsilienceError(
                f"{place} is called {len(calls)} times a pass, so that its map is not defined; "
                "give a layer that is called once, such as the block around it"
            )
        output, version = calls[0]
        if not isinstance(output, torch.Tensor):
            raise ConsilienceError(
                f"{place} gives a {type(output).__name__}, not a tensor; give a layer inside or "
                "after it"
            )
        try:
            as_maps(output, view.shape[:2])
        except ConsilienceError as error:
            raise ConsilienceError(f"{place} {error}") from None
        if output._version != version:
            log.warning(
                "%s: its output is overwritten in place by what follows; as in pytorch-grad-cam, "
                "maps are of the overwritten values",
                place,
            )
    return {layer: places[layer] for layer in outputs}


def _flatten(prefix: str, name: str, values: np.ndarray) -> dict:
    height, width = values.shape
    return {
        f"{prefix}height": height,
        f"{prefix}width": width,
        name: np.float32(values).ravel(),
    }


def _describe_maps(layer_maps: Sequence[np.ndarray]) -> str:
    """Say of the layers' maps whether their mean can be drawn; a zero map only adds nothing."""
    found = {describe_map(np.float32(values)) for values in layer_maps}
    return next((status for status in ("nan", "constant", "ok") if status in found), "zero")


def describe_map(layer_map: np.ndarray) -> str:
    """Say whether a map at the layer's resolution can be drawn.

    Returns
    -------
    str
        ``nan`` where a value is not finite; ``zero`` where none is positive, so that nothing is
        left after rectification; ``constant`` where the rectified map has one value, up to
        float32's rounding; else ``ok``.
    """
    if not np.isfinite(layer_map).all():
        return "nan"
    rectified = np.maximum(layer_map, 0)
    if rectified.max() == 0:
        return "zero"
    # The library stretches whatever differs to [0, 1], be it the last digits.
    return "constant" if np.ptp(rectified) <= 1e-6 * rectified.max() else "ok"

"""Class activation maps: pytorch-grad-cam's methods, with the same answers in less time.

The library is the definition and the interface. Its classes are extended here where that saves
work without changing the answer:

- gradients are computed for what follows the layer, not for the whole network;
- Ablation-CAM reruns what follows the layer only;
- Score-CAM builds its masks batch by batch, and asks the model once for all channels whose mask
  is empty.

What the library does and a user may not expect is kept, and said in the log where it happens:

- Ablation-CAM divides by the score of the target, so that a negative score turns the signs of all
  weights round, and a score of zero gives no map (status ``nan``);
- where a layer's smallest activation is not zero, it does not set an ablated channel to zero but
  to that minimum less 1e7 (less 2e7, 3e7, … for the next ones of a batch, so that the map depends
  on the batch size);
- where the layer's output is overwritten in place by what follows, as by ``ReLU(inplace=True)``,
  the maps are of the overwritten values.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytorch_grad_cam
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from .classifiers import Classifier, nearest
from .errors import ConsilienceError

log = logging.getLogger(__name__)

Recorded = list[tuple[torch.nn.Module, torch.Tensor]]


class _Extended:
    """What each method adds to the library's class: put before it in the list of bases."""

    def __init__(self, model: torch.nn.Module, target_layers: Sequence[torch.nn.Module]):
        # Registered before the library's own hooks, which then see what this one returns.
        self._handle = target_layers[0].register_forward_hook(self._start_graph)
        super().__init__(model, target_layers)
        # What a reader of the maps should know, and of how many pictures it is true.
        self.remarks: Counter[str] = Counter()

    def _start_graph(self, module, inputs, output):
        """Let the graph for the gradients begin at the layer: parameters need none."""
        # Cloned, since an operation in place is forbidden on the leaf itself.
        return output.detach().requires_grad_().clone() if self.uses_gradients else output

    def get_cam_image(self, *args, **kwargs) -> np.ndarray:
        """Return the map at the layer's resolution, and keep it: the library only rectifies it."""
        self.layer_maps = super().get_cam_image(*args, **kwargs)
        return self.layer_maps

    def release(self) -> None:
        """Remove all hooks."""
        self._handle.remove()
        self.activations_and_grads.release()


class ScoreCAM(_Extended, pytorch_grad_cam.ScoreCAM):
    """Score-CAM (Wang et al., 2020, https://arxiv.org/abs/1910.01279), masks built on the fly."""

    batch_size = 16

    @torch.no_grad()
    def get_cam_weights(self, input_tensor, target_layer, targets, activations, grads):
        """Softmax over the channels of the score of the picture masked with each channel.

        As in the library the mask is the channel, upsampled and scaled to [0, 1] by
        ``(x - min) / (max - min + 1e-8)``. Where the upsampled channel is constant the mask is
        zero everywhere: one empty picture stands for all such channels.
        """
        upsample = torch.nn.UpsamplingBilinear2d(size=input_tensor.shape[-2:])
        weights = []
        for picture, target, maps in zip(input_tensor, targets, activations, strict=True):
            maps = torch.from_numpy(maps).to(self.device)
            # A constant other than zero may not stay constant to the last digit when upsampled,
            # and the library then scales the rounding up to a mask: ask the upsampled channel.
            varies = torch.cat([self._varies(upsample(m[None])) for m in maps.split(32)])
            scores = torch.empty(len(maps))
            if not varies.all():
                scores[~varies] = target(self._ask(torch.zeros_like(picture)[None])[0]).item()
            for channels in varies.nonzero().flatten().split(self.batch_size):
                masks = upsample(maps[channels][None])[0]
                low, high = masks.amin((1, 2), True), masks.amax((1, 2), True)
                masks = (masks - low) / (high - low + 1e-8)
                outputs = self._ask(picture * masks[:, None])
                scores[channels] = torch.stack([target(output) for output in outputs]).cpu()
            weights.append(torch.softmax(scores, dim=-1).numpy())
        return np.stack(weights)

    @staticmethod
    def _varies(upsampled: torch.Tensor) -> torch.Tensor:
        # Not "high > low": a channel with a NaN is no constant one.
        return ~(upsampled.amin((0, 2, 3)) == upsampled.amax((0, 2, 3)))

    def _ask(self, batch: torch.Tensor) -> torch.Tensor:
        outputs = self.model(batch)
        # The library's hooks would keep the layer's output of every masked picture.
        self.activations_and_grads.clear()
        return outputs


class AblationCAM(_Extended, pytorch_grad_cam.AblationCAM):
    """Ablation-CAM (Desai and Ramaswamy, 2020), rerunning only what follows the layer.

    https://openaccess.thecvf.com/content_WACV_2020/html/Desai_Ablation-CAM_Visual_Explanations_for_Deep_Convolutional_Network_via_Gradient-free_Localization_WACV_2020_paper.html

    The modules that are called before the layer answer with what they answered to the unperturbed
    picture. That this gives what the whole network gives is proved on one channel of the first
    picture; where it does not, the whole network runs, as in the library.
    """

    place = "the layer"
    splits: bool | None = None  # not known yet

    @torch.no_grad()
    def get_cam_weights(self, input_tensor, target_layer, targets, activations, grads):
        """Relative drop of the score when each channel is ablated: (y - y_k) / y."""
        weights = []
        for n, target in enumerate(targets):
            picture = input_tensor[n : n + 1]
            maps = torch.from_numpy(activations[n]).to(self.device)
            score = np.float32(target(self.outputs[n]).item())
            self.remarks["the logit divided by is negative: weights have the opposite sign"] += (
                score < 0
            )
            self.remarks["ablated channels are set to the minimum less 1e7, not to zero"] += (
                maps.min().item() != 0
            )
            before = self._find_before(picture, target_layer, maps)
            scores = []
            for channels in torch.arange(len(maps)).split(self.batch_size):
                ablated = ablate(maps, channels)
                outputs = self._ask(picture, target_layer, ablated, before)
                scores += [target(output).item() for output in outputs]
            weights.append((score - np.float32(scores)) / score)
        return np.stack(weights)

    def _find_before(self, picture, layer, maps) -> Recorded:
        """Record what is called before the layer; nothing where the model cannot be split."""
        if self.splits is False:
            return []
        before = record_before(self.model, layer, picture)
        self.activations_and_grads.clear()
        if self.splits is None:
            # Twice: what is recorded must serve a batch of several.
            channel = maps.abs().sum((1, 2)).argmax().repeat(2)
            whole = self._ask(picture, layer, ablate(maps, channel), [])
            try:
                split = self._ask(picture, layer, ablate(maps, channel), before)
                self.splits = torch.allclose(
                    split, whole, rtol=1e-4, atol=1e-5 * whole.abs().max().item(), equal_nan=True
                )
            except RuntimeError:  # such as an operation in place on a recorded output
                self.splits = False
            if not self.splits:
                log.info("%s: what follows cannot be run alone; the whole runs", self.place)
        return before if self.splits else []

    def _ask(self, picture, layer, ablated, before: Recorded) -> torch.Tensor:
        with answering([*before, (layer, ablated)], len(ablated)):
            outputs = self.model(picture.expand(len(ablated), -1, -1, -1))
        self.activations_and_grads.clear()
        return outputs


def ablate(maps: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
    """Copy a layer's output once a channel, with that channel ablated.

    Parameters
    ----------
    maps
        Shape (channels, height, width).
    channels
        Indices of the channels to ablate, shape (n,).

    Returns
    -------
    torch.Tensor
        Shape (n, channels, height, width). As the library's ``AblationLayer`` has it, the value
        is zero where the smallest activation is zero, else the smallest value of the batch so
        far less 1e7.
    """
    batch = maps.repeat(len(channels), 1, 1, 1)
    lowest = maps.min()
    for row, channel in zip(batch, channels, strict=True):
        if lowest != 0:
            lowest = lowest - 1e7
        row[channel] = lowest
    return batch


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
    return type(library_class.__name__, (_Extended, library_class), {})


METHODS = {
    "grad-cam": _extend(pytorch_grad_cam.GradCAM),
    "score-cam": ScoreCAM,
    "ablation-cam": AblationCAM,
    "grad-cam++": _extend(pytorch_grad_cam.GradCAMPlusPlus),
    "hirescam": _extend(pytorch_grad_cam.HiResCAM),
    "xgrad-cam": _extend(pytorch_grad_cam.XGradCAM),
    "layer-cam": _extend(pytorch_grad_cam.LayerCAM),
    # Knows no target: the first principal component of the activations.
    "eigen-cam": _extend(pytorch_grad_cam.EigenCAM),
}
"""The library's class behind each method's name, extended."""


def explain_cam(
    classifier: Classifier,
    method: str,
    layer: str,
    views: np.ndarray,
    targets: Sequence[int],
    batch_size: int = 32,
) -> list[dict]:
    """Explain pictures by class activation maps.

    Parameters
    ----------
    classifier
        The model.
    method
        A key of :data:`METHODS`.
    layer
        Name of the layer; its output has shape (n, channels, height, width).
    views
        What the model sees: uint8, shape (n, height, width, 3).
    targets
        Class to explain, one a picture; methods take its logit.
    batch_size
        Pictures a forward pass of Score-CAM and Ablation-CAM.

    Returns
    -------
    list of dict
        One a picture, with the columns of the table ``HEATMAPS`` from ``layer_height`` on.
        ``heatmap`` is what the library gives for that picture alone.

    Raises
    ------
    ConsilienceError
        If there is no such method or layer, a target is out of range, or the layer's output is
        no map.
    """
    if method not in METHODS:
        raise ConsilienceError(f"unknown CAM method {method!r}; {nearest(method, METHODS)}")
    module = classifier.layer(layer)
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
    place = f"layer {layer!r} of model {classifier.name!r}"
    _check_layer(classifier, module, place, views[:1])
    cam = METHODS[method](classifier.model, [module])
    cam.place, cam.batch_size = place, batch_size
    rows = []
    try:
        with torch.set_grad_enabled(cam.uses_gradients), np.errstate(all="ignore"):
            for view, target in zip(views, targets, strict=True):
                # One at a time: last digits do not depend on which pictures share a batch.
                inputs = classifier.transform.normalize(view[None])
                heatmap = cam(inputs, [ClassifierOutputTarget(int(target))])[0]
                rows.append(_make_row(np.float32(cam.layer_maps[0]), heatmap))
    finally:
        # The library's `with` block would do this too, and swallow IndexError.
        cam.release()
    for remark, count in cam.remarks.items():
        if count:
            log.warning("%s, %s: %s (%d of %d pictures)", place, method, remark, count, len(views))
    return rows


def _check_layer(
    classifier: Classifier, layer: torch.nn.Module, place: str, views: np.ndarray
) -> None:
    """Find out in one pass whether the layer's output is one map, and is left alone."""
    outputs = []
    handle = layer.register_forward_hook(
        lambda module, args, output: outputs.append((output, getattr(output, "_version", None)))
    )
    try:
        with torch.no_grad():
            classifier.model(classifier.transform.normalize(views))
    finally:
        handle.remove()
    if len(outputs) != 1:
        raise ConsilienceError(
            f"{place} is called {len(outputs)} times a pass, so that its map is not defined; "
            "give a layer that is called once, such as the block around it"
        )
    output, version = outputs[0]
    if not isinstance(output, torch.Tensor) or output.ndim != 4:
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ConsilienceError(
            f"{place} gives {shape}, not (n, channels, height, width); give a convolutional layer"
        )
    if output._version != version:
        log.warning(
            "%s: its output is overwritten in place by what follows; as in pytorch-grad-cam, "
            "maps are of the overwritten values",
            place,
        )


def _make_row(layer_map: np.ndarray, heatmap: np.ndarray) -> dict:
    return {
        "layer_height": layer_map.shape[0],
        "layer_width": layer_map.shape[1],
        "layer_map": layer_map.ravel(),
        "height": heatmap.shape[0],
        "width": heatmap.shape[1],
        "heatmap": heatmap.ravel(),
        "status": describe_map(layer_map),
    }


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

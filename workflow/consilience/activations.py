"""Record what the neurons of a classifier answer to pictures.

A neuron is one unit of a layer: a channel of a convolutional map, a dimension of a transformer's
tokens, or an element of a vector.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import numpy as np
import torch
from PIL import Image

from .classifiers import Classifier
from .errors import ConsilienceError

POOLS = ("mean", "max")
TOKENS = ("class", "mean")


def extract_activations(
    classifier: Classifier,
    pictures: Iterable[tuple[str, Image.Image | np.ndarray]],
    layers: Sequence[str],
    batch_size: int,
    pool: str = "mean",
    tokens: str = "class",
) -> Iterator[dict]:
    """Record the activations of layers over pictures, all layers in one pass.

    Parameters
    ----------
    classifier
        The model, with the transform that belongs to it.
    pictures
        Names and decoded pictures, or, as uint8 arrays, pictures that the transform has fitted;
        each is taken once, ``batch_size`` are held at a time.
    layers
        Names of layers, as ``model.named_modules()`` has them.
    batch_size
        Pictures a forward pass.
    pool
        How a map is pooled over its positions: ``mean`` or ``max``.
    tokens
        How a sequence of tokens (n, tokens, units) becomes one vector: ``class`` takes the first
        token, a vision transformer's class token, as CLIP-Dissect does; ``mean`` averages all.
        Vectors (n, units) are taken as they are.

    Yields
    ------
    dict
        Rows of the table ``ACTIVATIONS``: picture by picture, for each the layers in the order
        given. ``values`` is a float32 array with one value a unit.

    Raises
    ------
    ConsilienceError
        If the model has no such layer, a layer is named twice or runs more or less than once a
        pass, or its output is no tensor of one of these shapes.
    """
    if pool not in POOLS or tokens not in TOKENS:
        raise ConsilienceError(
            f"activations are pooled by {' or '.join(POOLS)} over maps and by "
            f"{' or '.join(TOKENS)} over tokens, not by {pool!r} and {tokens!r}"
        )
    if len(set(layers)) < len(layers):
        raise ConsilienceError(f"model {classifier.name!r}: a layer is named twice in {layers}")
    modules = {layer: classifier.layer(layer) for layer in layers}
    waiting = iter(pictures)
    while batch := list(islice(waiting, batch_size)):
        names = [name for name, _ in batch]
        fitted = [
            picture if isinstance(picture, np.ndarray) else classifier.transform.fit(picture)
            for _, picture in batch
        ]
        if len({pixels.shape for pixels in fitted}) > 1:
            raise ConsilienceError(
                f"model {classifier.name!r}: pictures {names[0]!r} to {names[-1]!r} have different "
                "sizes after its transform; give the transform a crop"
            )
        inputs = classifier.prepare_input(np.stack(fitted))
        recorded = _run(classifier, inputs, modules, pool, tokens)
        for index, name in enumerate(names):
            for layer in layers:
                yield {"picture": name, "layer": layer, "values": recorded[layer][index]}


def _run(
    classifier: Classifier,
    inputs: torch.Tensor,
    modules: dict[str, torch.nn.Module],
    pool: str,
    tokens: str,
) -> dict[str, np.ndarray]:
    """Run one batch: float32, shape (n, units), of each layer."""
    recorded: dict[str, np.ndarray] = {}

    def record(layer: str, output) -> None:
        where = f"model {classifier.name!r}, layer {layer!r}"
        if layer in recorded:
            raise ConsilienceError(
                f"{where}: runs more than once a pass, so that it is not clear which output is "
                "meant; name the layer before or after it"
            )
        recorded[layer] = _pool(output, inputs, where, pool, tokens)

    with _hooks(modules, record), torch.inference_mode():
        classifier.model(inputs)
    for layer in modules:
        if layer not in recorded:
            raise ConsilienceError(
                f"model {classifier.name!r}, layer {layer!r}: does not run when the model does; "
                "name another layer"
            )
    return recorded


@contextmanager
def _hooks(modules: dict[str, torch.nn.Module], record) -> Iterator[None]:
    """Call ``record(layer, output)`` after each layer's forward, until the block is left."""
    handles = []
    try:
        for layer, module in modules.items():
            handles.append(
                module.register_forward_hook(
                    lambda _module, _inputs, output, layer=layer: record(layer, output)
                )
            )
        yield
    finally:
        for handle in handles:
            handle.remove()


def _pool(output, inputs: torch.Tensor, where: str, pool: str, tokens: str) -> np.ndarray:
    """Bring a layer's output to float32, shape (n, units), in memory of its own."""
    if not isinstance(output, torch.Tensor):
        raise ConsilienceError(
            f"{where}: gives a {type(output).__name__}, not a tensor; name a layer inside or after "
            "it"
        )
    positions = _positions(output.shape, inputs.shape)
    if positions is None:
        raise ConsilienceError(
            f"{where}: its output has the shape {tuple(output.shape)} for {len(inputs)} pictures; "
            "it must be a map (n, units, height, width), tokens (n, tokens, units) or a vector "
            "(n, units)"
        )
    output = output.float()
    if len(positions) == 2:
        output = output.mean(dim=positions) if pool == "mean" else output.amax(dim=positions)
    elif len(positions) == 1:
        output = output.mean(dim=positions) if tokens == "mean" else output[:, 0]
    # What follows a layer may overwrite its output in place.
    return output.clone().cpu().numpy()


def _positions(shape: torch.Size, inputs: torch.Size) -> tuple[int, ...] | None:
    """Return the dimensions of an output to pool over; ``None`` if it is of no known shape.

    Swin transformers and parts of ConvNeXt keep the units in the last dimension of a map. Which
    form a map has shows in its sides: they have the proportions of the picture.
    """
    if shape[:1] != inputs[:1]:
        return None
    if len(shape) == 2:
        return ()
    if len(shape) == 3:
        return (1,)
    if len(shape) != 4:
        return None
    for rows, columns in ((2, 3), (1, 2)):
        if in_proportion((shape[rows], shape[columns]), inputs[2:]):
            return (rows, columns)
    return None


def in_proportion(sides: Sequence[int], size: Sequence[int]) -> bool:
    """Say whether a map's height and width have the proportions of the picture's.

    For a square picture exactly; else within one position, as strides round.
    """
    height, width = size
    slack = 0 if height == width else max(height, width)
    return abs(sides[0] * width - sides[1] * height) <= slack

"""The first convolution of mixtures of pictures, as the same mixture of its outputs.

Methods that mask a picture ask a network about hundreds of mixtures of a few dozen parts: the
picture under each cell of a coarse mask. The network's first convolution is linear, so that its
output for a mixture is that mixture of its outputs for the parts, and these are zero but near
their own part. A large first convolution is the slowest of a network for what it does: 7×7 of three
channels runs at half the speed of the others (``benchmarks/results/2026-11-explanations.md``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from .convolution import ACTIVATIONS, FusedConv2d

MEMORY = 512 * 2**20
"""Bytes that the parts' outputs may take; above that the network's own way is kept."""


class Stem:
    """A first convolution's answers to mixtures of parts.

    Parameters
    ----------
    convolution
        On the processor, float32.
    parts
        Groups of pictures, each float32 (parts, channels, height, width); parts of a group should
        lie in the same rows.
    """

    def __init__(self, convolution: nn.Conv2d, parts: Iterable[torch.Tensor]):
        self.convolution = convolution
        groups: list[tuple[int, int, int, torch.Tensor]] = []
        count = 0
        for pictures in parts:
            top, outputs = _convolve_rows(convolution, pictures)
            groups.append((count, top, top + outputs.shape[1], outputs))
            count += len(pictures)
            size = convolution_size(convolution, pictures.shape[2:])
        self.size = *size, convolution.out_channels
        self.bands = list(self._cut(groups))

    def _cut(self, groups) -> Iterator[tuple[torch.Tensor, int, int, torch.Tensor]]:
        """Yield bands of rows that the same groups reach: their parts, the rows, and outputs.

        The last part of each is the bias, which every mixture has once.
        """
        rows = self.size[0]
        cuts = sorted({0, rows, *(row for _, top, end, _ in groups for row in (top, end))})
        total = sum(len(outputs) for *_, outputs in groups)
        bias = self.convolution.bias
        for top, end in pairwise(cuts):
            reached = [group for group in groups if group[1] <= top and end <= group[2]]
            parts = [torch.arange(start, start + len(some)) for start, *_, some in reached]
            outputs = [some[:, top - first : end - first] for _, first, _, some in reached]
            last = torch.zeros(1, end - top, *self.size[1:])
            if bias is not None:
                last += bias
            yield (
                torch.cat([*parts, torch.tensor([total])]),
                top,
                end,
                torch.cat([some.flatten(1) for some in (*outputs, last)]),
            )

    def convolve(self, shares: torch.Tensor) -> torch.Tensor:
        """Return the outputs for mixtures.

        Parameters
        ----------
        shares
            Of each part in each mixture: float32, shape (n, parts).

        Returns
        -------
        torch.Tensor
            float32, shape (n, out, height, width), channels last.
        """
        n, (_, width, channels) = len(shares), self.size
        shares = torch.cat([shares, shares.new_ones(n, 1)], 1)
        outputs = shares.new_empty(n, math.prod(self.size))
        row = width * channels
        for parts, top, end, of_parts in self.bands:
            torch.mm(shares[:, parts], of_parts, out=outputs[:, top * row : end * row])
        return outputs.view(n, *self.size).permute(0, 3, 1, 2)

    @contextmanager
    def answering(self, shares: torch.Tensor) -> Iterator[None]:
        """Let the convolution answer for these mixtures, whatever it is asked, in one pass."""

        def answer(_input, other=None, activation=None):
            outputs = self.convolve(shares)
            if other is not None:
                outputs += other
            return ACTIVATIONS[activation].apply(outputs) if activation else outputs

        vars(self.convolution)["forward"] = answer
        try:
            yield
        finally:
            del vars(self.convolution)["forward"]


def find_stem(model: nn.Module, picture: torch.Tensor) -> nn.Conv2d | None:
    """Return the convolution that alone looks at the model's input, as far as calls tell.

    Parameters
    ----------
    model
        On the processor.
    picture
        Shape (1, channels, height, width).

    Returns
    -------
    nn.Conv2d or None
        None where there is none, or none that :class:`Stem` can stand for. Whether the model's own
        code looks at the input too, only its answers can tell.
    """
    lookers: list[nn.Module] = []

    def look(module, args):
        if any(one is picture for one in args) and next(module.children(), None) is None:
            lookers.append(module)

    handles = [module.register_forward_pre_hook(look) for module in model.modules()]
    try:
        with torch.no_grad():
            model(picture)
    finally:
        for handle in handles:
            handle.remove()
    return lookers[0] if len(lookers) == 1 and _is_plain(lookers[0]) else None


def _is_plain(module: nn.Module | None) -> bool:
    return (
        type(module) in (nn.Conv2d, FusedConv2d)
        and "forward" not in vars(module)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and module.weight.device.type == "cpu"
        # In bfloat16 the answers differ by too much to tell whether they are the network's.
        and module.weight.dtype == torch.float32
    )


def is_worthwhile(module: nn.Module | None, picture: torch.Tensor, reached: int) -> bool:
    """Say whether a module can be the stem, and answers faster by :class:`Stem`.

    Parameters
    ----------
    module
        Of the model.
    picture
        Shape (channels, height, width).
    reached
        How many parts reach a row of the output: a multiplication each.
    """
    if not _is_plain(module) or module.in_channels != len(picture):
        return False
    height, width = convolution_size(module, picture.shape[1:])
    memory = 4 * reached * height * width * module.out_channels
    return 2 * reached <= module.weight[0].numel() and memory <= MEMORY


def convolution_size(convolution: nn.Conv2d, size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of a convolution's output for pictures of this size."""
    return tuple(
        (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for side, padding, dilation, kernel, stride in zip(
            size,
            convolution.padding,
            convolution.dilation,
            convolution.kernel_size,
            convolution.stride,
            strict=True,
        )
    )


def _convolve_rows(convolution: nn.Conv2d, pictures: torch.Tensor) -> tuple[int, torch.Tensor]:
    """Convolve, without the bias, the rows that are not zero.

    Returns
    -------
    int, torch.Tensor
        The first row of the output that they reach, and those that they reach: float32, shape
        (n, rows, width, out).
    """
    rows = pictures.abs().amax((0, 1, 3)).nonzero().flatten()
    height, _ = convolution_size(convolution, pictures.shape[2:])
    if not len(rows):
        width = convolution_size(convolution, pictures.shape[2:])[1]
        return 0, torch.zeros(len(pictures), 0, width, convolution.out_channels)
    (padding, across), (stride, _) = convolution.padding, convolution.stride
    reach = convolution.dilation[0] * (convolution.kernel_size[0] - 1)
    first = max(0, -((reach - padding - int(rows[0])) // stride))
    last = min(height - 1, (int(rows[-1]) + padding) // stride)
    padded = functional.pad(pictures, (across, across, padding, padding))
    outputs = functional.conv2d(
        padded[:, :, first * stride : last * stride + reach + 1],
        convolution.weight,
        stride=convolution.stride,
        dilation=convolution.dilation,
        groups=convolution.groups,
    )
    return first, outputs.permute(0, 2, 3, 1)

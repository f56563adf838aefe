"""Faster convolutions for processors: what follows them done in place, and Winograd's filtering.

A network that is asked about thousands of perturbed pictures spends its time in convolutions.

What follows one, an activation or a residual's addition, costs a pass over memory of its own;
oneDNN does both while the convolution's outputs are still in the processor's registers.

Direct 3×3 convolution does 9 multiplications an output and channel. Winograd's minimal filtering
(Winograd, 1980; Lavin and Gray, 2016, https://arxiv.org/abs/1509.09308) F(4×4, 3×3) does 36 on 16
outputs, F(3×3, 3×3) 25 on 9, as 36 or 25 matrix products, which is what BLAS does best. In float32
its error against float64 is about six times that of direct convolution (the tests hold it); logits
differ in the sixth digit. Only where matrix products gain less than direct convolution from AVX-512
(AMD's since family 26) is it no faster, and is direct convolution kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

POINTS = {
    3: (0.0, 1.0, -1.0, 2.0),
    4: (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5)),
}
"""Points that tiles are evaluated at besides infinity, by the outputs along a tile's side.

For four outputs the error is half of that at 0, ±1, ±2, which Lavin and Gray take; of ten choices
none was clearly better (``benchmarks/results/2026-11-convolution.md``)."""

# Transforms cost in proportion to the channels, products to their square: below this the direct
# convolution was faster or equal (measured for 64, 128, 192, 256, 384 and 512 channels).
LEAST_CHANNELS = 128

# Elements of a block of transformed tiles: 4 MB stay near the processor,
_BLOCK = 2**20
# unless so few tiles fit that reading the kernels costs more than multiplying.
_LEAST_TILES = 128


@dataclass(frozen=True)
class Activation:
    """What can be done to a convolution's outputs.

    Attributes
    ----------
    module
        What stands for it in networks.
    scalars
        The numbers that oneDNN takes for it.
    apply
        The same in place on a tensor.
    """

    module: type[nn.Module]
    scalars: tuple[float, ...]
    apply: Callable[[torch.Tensor], torch.Tensor]


ACTIVATIONS = {
    "relu": Activation(nn.ReLU, (), torch.relu_),
    "hardtanh": Activation(nn.ReLU6, (0.0, 6.0), lambda x: x.clamp_(0, 6)),
    "hardswish": Activation(nn.Hardswish, (), lambda x: functional.hardswish(x, inplace=True)),
    "swish": Activation(nn.SiLU, (), lambda x: functional.silu(x, inplace=True)),
}
"""By the names that oneDNN has for them."""


class FusedConv2d(nn.Conv2d):
    """A convolution that can do what follows it where no gradient is asked, by oneDNN.

    Made from a ``torch.nn.Conv2d`` by changing its class; parameters stay.
    """

    def forward(
        self,
        input: torch.Tensor,
        other: torch.Tensor | None = None,
        activation: str | None = None,
    ) -> torch.Tensor:
        """Convolve, add ``other`` to the outputs, and apply an activation to the sums.

        Parameters
        ----------
        input
            Shape (n, in, height, width).
        other
            Of the outputs' shape; None adds nothing.
        activation
            A key of :data:`ACTIVATIONS`; None applies none. Of a sum, oneDNN knows ``relu`` only.
        """
        if other is None and activation is None:
            return super().forward(input)
        # What is recorded of a network in bfloat16 may be float32, and autocast knows nothing of
        # this operation.
        input = input.to(self.weight.dtype)
        where = self.padding, self.stride, self.dilation, self.groups
        scalars = list(ACTIVATIONS[activation].scalars) if activation else []
        operation = torch.ops.mkldnn._convolution_pointwise
        if other is None:
            return operation(input, self.weight, self.bias, *where, activation, scalars, "")
        other = other.to(self.weight.dtype)
        return operation.binary(
            input, other, self.weight, self.bias, *where, "add", 1.0, activation, scalars, ""
        )


class WinogradConv2d(FusedConv2d):
    """A 3×3 convolution of stride 1 and padding 1 by Winograd's filtering.

    Where a gradient is asked it convolves directly. The kernels, transformed when they are first
    needed, must not change after that.
    """

    def forward(
        self,
        input: torch.Tensor,
        other: torch.Tensor | None = None,
        activation: str | None = None,
    ) -> torch.Tensor:
        """Do as :class:`FusedConv2d` does, in float32."""
        if torch.is_grad_enabled() and input.requires_grad:
            return super().forward(input, other, activation)
        n, _, height, width = input.shape
        side = choose_outputs(height, width)
        down, across = -(-height // side), -(-width // side)
        tiles, channels = down * across, max(self.in_channels, self.out_channels)
        size = max(_BLOCK // ((side + 2) ** 2 * channels), _LEAST_TILES)
        size = min(n, -(-size // tiles))
        pictures = input.permute(0, 2, 3, 1)
        outputs = input.new_empty(n, height, width, self.out_channels)
        padded = input.new_zeros(size, down * side + 2, across * side + 2, self.in_channels)
        for start in range(0, n, size):
            part = pictures[start : start + size]
            block = padded[: len(part)]
            block[:, 1 : height + 1, 1 : width + 1] = part
            output = outputs[start : start + size]
            self._convolve(block, output, side)
            if other is not None:
                output.add_(other[start : start + size].permute(0, 2, 3, 1))
            if activation is not None:
                ACTIVATIONS[activation].apply(output)
        return outputs.permute(0, 3, 1, 2)

    def _convolve(self, padded: torch.Tensor, output: torch.Tensor, side: int) -> None:
        """Convolve a block, padded to whole tiles: (n, height, width, in) to (…, out)."""
        to_tile, _, to_output = _matrices(side)
        pixels = (side + 2) ** 2
        tiles = padded.unfold(1, side + 2, side).unfold(2, side + 2, side).permute(4, 5, 0, 1, 2, 3)
        n, down, across = tiles.shape[2:5]
        tiles = torch.mm(to_tile, tiles.reshape(pixels, -1)).view(pixels, -1, self.in_channels)
        products = torch.bmm(tiles, self._transform_kernels(side)).view(pixels, -1)
        found = torch.mm(to_output, products).view(side, side, n, down, across, -1)
        found = found.permute(2, 3, 0, 4, 1, 5)
        height, width, channels = output.shape[1:]
        bias = found.new_zeros(()) if self.bias is None else self.bias
        if (height, width) == (down * side, across * side):
            torch.add(found, bias, out=output.view(found.shape))
        else:
            found = found.reshape(n, down * side, across * side, channels)
            torch.add(found[:, :height, :width], bias, out=output)

    def _transform_kernels(self, side: int) -> torch.Tensor:
        """Return the kernels for tiles of so many outputs: (pixels, in, out)."""
        kept = vars(self).setdefault("kernels", {})
        if side not in kept:
            flat = self.weight.detach().permute(2, 3, 1, 0).reshape(9, -1)
            kernels = torch.mm(_matrices(side)[1], flat.double()).float()
            kept[side] = kernels.view(-1, self.in_channels, self.out_channels)
        return kept[side]


def choose_outputs(height: int, width: int) -> int:
    """Return the outputs along a tile's side that take the fewest multiplications."""
    return min(POINTS, key=lambda side: -(-height // side) * -(-width // side) * (side + 2) ** 2)


@cache
def _matrices(side: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the transforms of tiles, kernels and outputs, for tiles laid out as rows of pixels.

    Toom and Cook: evaluate at the points and at infinity, multiply, and transpose the
    interpolation. Shapes (pixels, pixels), (pixels, 9) and (side², pixels) with pixels =
    (side + 2)²; that of the kernels float64, the others float32.
    """
    points = np.array(POINTS[side])

    def powers(count: int) -> np.ndarray:
        at_infinity = np.eye(count)[-1:]
        return np.concatenate([points[:, None] ** np.arange(count), at_infinity])

    tile = np.linalg.inv(powers(side + 2)).T
    kernel, output = powers(3), powers(side).T
    tile, kernel, output = (torch.from_numpy(np.kron(one, one)) for one in (tile, kernel, output))
    return tile.float(), kernel, output.float()


def keeps_direct(cpuinfo: str | None = None) -> bool:
    """Say whether direct convolution is as fast on this processor as Winograd's.

    Measured (``benchmarks/convolution.py``, pictures of 96 pixels), all with F(3×3, 3×3) and from
    256 channels on: AMD's with AVX-512 in full
    (family 26, Zen 5) 0.97 to 1.00 times as fast by Winograd's, those of family 25 (Zen 4), which
    take two steps for each of its operations, 1.26 to 1.29, and Intel's 1.56 to 1.64.

    Parameters
    ----------
    cpuinfo
        Text of ``/proc/cpuinfo``; by default it is read.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    if cpuinfo is None:
        path = Path("/proc/cpuinfo")
        cpuinfo = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    found = dict(re.findall(r"^(vendor_id|cpu family)\s*:\s*(\S+)", cpuinfo, re.MULTILINE))
    return found.get("vendor_id") == "AuthenticAMD" and int(found.get("cpu family", 0)) >= 26


def accelerate(model: nn.Module, winograd: bool | None = None) -> int:
    """Let a float32 model on the processor convolve faster, in place, and say how many layers do.

    ``winograd`` says whether to; by default, unless :func:`keeps_direct`.

    Weights are laid out channels last, which is how the convolutions compute. Layers keep their
    names, parameters and hooks. Only convolutions that gain are changed: 3×3, stride 1, padding 1,
    not grouped or dilated, with many channels. Which those are depends on their shapes and the
    processor alone, so that the same model gives the same bytes on every run on one machine.
    """
    model.to(memory_format=torch.channels_last)
    if winograd is None:
        winograd = not keeps_direct()
    if not winograd:
        return 0
    changed = 0
    for module in model.modules():
        if (
            type(module) in (nn.Conv2d, FusedConv2d)
            and module.kernel_size == (3, 3)
            and module.stride == module.padding == module.dilation == (1, 1)
            and module.groups == 1
            and module.padding_mode == "zeros"
            and min(module.in_channels, module.out_channels) >= LEAST_CHANNELS
            and module.weight.dtype == torch.float32
            and module.weight.device.type == "cpu"
        ):
            module.__class__ = WinogradConv2d
            changed += 1
    return changed

"""Faster convolutions for processors: Winograd's minimal filtering.

A network that is asked about thousands of perturbed pictures spends its time in 3×3 convolutions.
Direct convolution does 9 multiplications an output and channel; F(3×3, 3×3) does 25 on 9 outputs
(Winograd, 1980; Lavin and Gray, 2016, https://arxiv.org/abs/1509.09308), as 25 matrix products,
which is what BLAS does best. In float32 its error against float64 is up to some fifteen times that
of direct convolution (1e-5 where outputs are of size one; the tests hold it); logits differ in the
sixth digit. Only where matrix products gain less than direct convolution from AVX-512 (AMD's since
family 26) is it no faster, and is direct convolution kept.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy as np
import torch

OUTPUTS = 3
"""Outputs along each side of a tile. 3 divides the 6, 12 and 24 positions of small pictures."""

TILE = OUTPUTS + 2

# Transforms cost in proportion to the channels, products to their square: below this the direct
# convolution was faster or equal (measured for 64, 128, 256 and 512 channels).
LEAST_CHANNELS = 256

# Elements of a block of transformed tiles; a block of 16 MB stays near the processor.
_BLOCK = 4 * 2**20


@cache
def _matrices() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the transforms of tiles, kernels and outputs, for tiles laid out as rows of pixels.

    Toom and Cook: evaluate at the points 0, 1, -1, 2 and infinity, multiply, and transpose the
    interpolation. float64, shapes (25, 25), (25, 9) and (9, 25).
    """
    points = np.array([0.0, 1.0, -1.0, 2.0])

    def powers(count: int) -> np.ndarray:
        at_infinity = np.eye(count)[-1:]
        return np.concatenate([points[:, None] ** np.arange(count), at_infinity])

    tile = np.linalg.inv(powers(TILE)).T
    kernel, output = powers(3), powers(OUTPUTS).T
    return tuple(torch.from_numpy(np.kron(one, one)) for one in (tile, kernel, output))


class WinogradConv2d(torch.nn.Conv2d):
    """A 3×3 convolution of stride 1 and padding 1 by F(3×3, 3×3), where no gradient is asked.

    Made from a ``torch.nn.Conv2d`` by :func:`accelerate`, which keeps its parameters.
    """

    def prepare(self) -> None:
        """Transform the kernels once; they must not change after this."""
        tile, kernel, output = _matrices()
        flat = self.weight.detach().double().flatten(2)  # (out, in, 9)
        kernels = torch.einsum("pk,oik->pio", kernel, flat).float().contiguous()
        self.register_buffer("kernels", kernels, persistent=False)
        self.register_buffer("to_tile", tile.float(), persistent=False)
        self.register_buffer("to_output", output.float(), persistent=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Convolve float32 (n, in, height, width), as ``torch.nn.Conv2d`` does."""
        if torch.is_grad_enabled() and input.requires_grad:
            return super().forward(input)
        down, across = (-(-side // OUTPUTS) for side in input.shape[2:])
        pixels = TILE**2 * down * across * max(self.in_channels, self.out_channels)
        parts = [self._convolve(part, down, across) for part in input.split(_BLOCK // pixels + 1)]
        return torch.cat(parts).permute(0, 3, 1, 2)

    def _convolve(self, input: torch.Tensor, down: int, across: int) -> torch.Tensor:
        """Convolve a block by tiles; the result has shape (n, height, width, out)."""
        n, channels, height, width = input.shape
        padded = input.new_zeros(n, down * OUTPUTS + 2, across * OUTPUTS + 2, channels)
        padded[:, 1 : height + 1, 1 : width + 1] = input.permute(0, 2, 3, 1)
        tiles = padded.unfold(1, TILE, OUTPUTS).unfold(2, TILE, OUTPUTS)
        tiles = tiles.permute(4, 5, 0, 1, 2, 3).reshape(TILE**2, -1)
        tiles = (self.to_tile @ tiles).view(TILE**2, -1, channels)
        products = torch.bmm(tiles, self.kernels).view(TILE**2, -1)
        output = (self.to_output @ products).view(OUTPUTS, OUTPUTS, n, down, across, -1)
        output = output.permute(2, 3, 0, 4, 1, 5).reshape(
            n, down * OUTPUTS, across * OUTPUTS, self.out_channels
        )
        output = output[:, :height, :width]
        return output if self.bias is None else output + self.bias


def keeps_direct(cpuinfo: str | None = None) -> bool:
    """Say whether direct convolution is as fast on this processor as Winograd's.

    Measured (``benchmarks/convolution.py``, pictures of 96 pixels): AMD's with AVX-512 in full
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


def accelerate(model: torch.nn.Module, winograd: bool | None = None) -> int:
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
            type(module) is torch.nn.Conv2d
            and module.kernel_size == (3, 3)
            and module.stride == module.padding == module.dilation == (1, 1)
            and module.groups == 1
            and module.padding_mode == "zeros"
            and min(module.in_channels, module.out_channels) >= LEAST_CHANNELS
            and module.weight.dtype == torch.float32
            and module.weight.device.type == "cpu"
        ):
            module.__class__ = WinogradConv2d
            module.prepare()
            changed += 1
    return changed

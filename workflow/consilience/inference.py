"""Make a model ready to be asked: fewer operations for the same answers, or a lower precision.

Nothing here is for training: parameters are replaced.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .convolution import FusedConv2d, accelerate
from .fusion import can_fuse, fuse_activations
from .tracing import follow

PRECISIONS = ("float32", "bfloat16")

TOLERANCE = 1e-5
"""Largest difference that folding may make to what a batch norm gives, of its largest value."""


def prepare(
    model: nn.Module,
    keep: Sequence[str] | None = None,
    precision: str = "float32",
    device: torch.device | str = "cpu",
) -> None:
    """Make a model in evaluation mode ready to be asked, in place, and move it to its device.

    Parameters
    ----------
    model
        Maps float32 (n, 3, height, width) to logits, and goes on doing so.
    keep
        Names of the layers that will be watched: what they give stays what it was, in float32.
        ``None``: any may be, so that nothing is joined to convolutions and, in bfloat16, each
        module's output is turned back into float32.
    precision
        ``float32`` or ``bfloat16``.
    device
        Where it will be asked.
    """
    # On the processor, so that the weights are the same whatever the device; float64, which folding
    # takes, is not known everywhere.
    model.to("cpu")
    on_processor = torch.device(device).type == "cpu"
    if keep is not None:
        fold_batch_norms(model, keep)
        if on_processor and can_fuse(getattr(torch, precision)):
            fuse_activations(model, keep)
    if precision == "bfloat16":
        use_bfloat16(model, keep)
    if on_processor:
        accelerate(model)
    else:
        model.to(device)


def fold_batch_norms(model: nn.Module, keep: Sequence[str] = ()) -> int:
    """Fold batch norms into the convolutions that they follow, in place, and say how many.

    In evaluation a batch norm is one factor and one term a channel, which the weights of the
    convolution can take (Markuš, 2018, https://nenadmarkus.com/p/fusing-batchnorm-and-conv/). An
    identity takes its place, so that all names stay and every output but the convolution's own
    is the same up to float32's rounding.

    A pair is left as it is where the convolution's output goes anywhere else, where the two do not
    lie in the same module, where either runs more than once, has another name too or is named in
    ``keep``, where the difference on random numbers is above :data:`TOLERANCE`, or where the
    model's forward depends on values, so that ``torch.fx`` cannot follow it.
    """
    graph = follow(model)
    if graph is None:
        return 0
    modules = dict(model.named_modules(remove_duplicate=False))
    names = Counter(modules.values())
    runs = Counter(node.target for node in graph.nodes if node.op == "call_module")
    # Modules whose parameters are read without calling them.
    read = {node.target.rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    folded = 0
    for node in graph.nodes:
        if node.op != "call_module" or type(modules[node.target]) is not nn.BatchNorm2d:
            continue
        before = node.args[0] if node.args else None
        if getattr(before, "op", None) != "call_module" or len(before.users) > 1:
            continue
        convolution, norm = modules[before.target], modules[node.target]
        if type(convolution) is not nn.Conv2d or norm.running_var is None:
            continue
        pair = {before.target, node.target}
        shared = any(runs[name] > 1 or names[modules[name]] > 1 for name in pair)
        # Of two modules, the one that ends with the convolution would have its output changed.
        parents = {name.rpartition(".")[0] for name in pair}
        if shared or len(parents) > 1 or pair & {*keep, *read} or not _fold(convolution, norm):
            continue
        setattr(model.get_submodule(parents.pop()), node.target.rpartition(".")[2], nn.Identity())
        folded += 1
    return folded


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> bool:
    """Fold one pair if that is exact; the weights are computed in float64."""
    bias = None if convolution.bias is None else convolution.bias.double()
    scale, shift = (None if p is None else p.double() for p in (norm.weight, norm.bias))
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    weight, bias = fuse_conv_bn_weights(
        convolution.weight.double(), bias, mean, variance, norm.eps, scale, shift
    )
    kind = convolution.weight.dtype
    weight, bias = (nn.Parameter(p.to(kind), requires_grad=False) for p in (weight, bias))
    sides = zip(convolution.dilation, convolution.kernel_size, strict=True)
    size = [dilation * (kernel - 1) + 4 for dilation, kernel in sides]
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(1, convolution.in_channels, *size, generator=generator).to(kind)
    before = convolution.weight, convolution.bias
    with torch.no_grad():
        expected = norm(convolution(inputs))
        convolution.weight, convolution.bias = weight, bias
        difference = (convolution(inputs) - expected).abs().max()
    if not difference <= TOLERANCE * expected.abs().max():
        convolution.weight, convolution.bias = before
        return False
    convolution.joined = True
    return True


def use_bfloat16(model: nn.Module, keep: Sequence[str] | None = None) -> None:
    """Let a model multiply in bfloat16, in place; inputs and logits stay float32.

    Weights of convolutions and linear layers are stored in bfloat16, and ``torch.autocast``
    brings what they are given to it. Norms keep their parameters in float32.

    Parameters
    ----------
    model
        In evaluation mode.
    keep
        Names of modules whose outputs are turned back into float32 for whoever watches them;
        ``None`` means all.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    watched = {module for name, module in modules.items() if keep is None or name in keep}
    for module in model.modules():
        if type(module) in (nn.Conv2d, FusedConv2d, nn.Linear):
            module.to(torch.bfloat16)
        if module in watched and module is not model:
            module.register_forward_hook(_to_float32)
    model.forward = partial(_run_in_bfloat16, model.forward)


def _to_float32(module, args, output):
    return output.float() if isinstance(output, torch.Tensor) else output


def _run_in_bfloat16(forward, inputs, *args, **kwargs):
    with torch.autocast(inputs.device.type, torch.bfloat16):
        return _to_float32(None, None, forward(inputs, *args, **kwargs))

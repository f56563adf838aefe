"""Let convolutions do what follows them in a network: activations and residuals' additions.

The network's own code says what follows what. Each module that holds convolutions is followed by
``torch.fx``, its submodules being black boxes, and gets a second way forward, in which a
convolution is told what to do with its outputs (:class:`consilience.convolution.FusedConv2d`).
Modules keep their names, parameters and outputs, but for those that are joined.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import fx, nn
from torch.nn import functional

from .convolution import ACTIVATIONS, FusedConv2d
from .tracing import follow

AFTER_ADDITION = ("relu",)
"""Activations that oneDNN applies to the sum with something else."""

TOLERANCE = 1e-5
"""Largest difference that joining may make to what the model gives, of its largest value."""

SIDES = (64, 224, 299)
"""Of the pictures that this is tried on, in pixels: the first that the model takes."""

_CALLS = {
    ("call_function", functional.relu): nn.ReLU,
    ("call_function", torch.relu): nn.ReLU,
    ("call_function", torch.relu_): nn.ReLU,
    ("call_function", functional.relu6): nn.ReLU6,
    ("call_function", functional.hardswish): nn.Hardswish,
    ("call_function", functional.silu): nn.SiLU,
    ("call_method", "relu"): nn.ReLU,
    ("call_method", "relu_"): nn.ReLU,
}
"""Activations that are no modules."""
_ADDITIONS = (
    ("call_function", operator.add),
    ("call_function", operator.iadd),
    ("call_function", torch.add),
    ("call_method", "add"),
    ("call_method", "add_"),
)


class _Forward:
    """A module's way forward: the joined one where no gradient is asked, else its own."""

    def __init__(self, module: nn.Module, code: fx.GraphModule):
        self.module, self.code = module, code

    def __call__(self, *args, **kwargs):
        if torch.is_grad_enabled():
            return type(self.module).forward(self.module, *args, **kwargs)
        return self.code.forward(*args, **kwargs)


def fuse_activations(model: nn.Module, keep: Sequence[str] = ()) -> int:
    """Join activations and additions to the convolutions they follow, in place; say how many.

    An activation is one of :data:`consilience.convolution.ACTIVATIONS`. What a joined convolution,
    addition or activation gives can no longer be watched where no gradient is asked: ``joined``
    says so on each such module. All other outputs are the same up to float32's rounding.

    Left as they are: modules named in ``keep``, convolutions whose output goes anywhere else,
    modules whose code depends on values so that ``torch.fx`` cannot follow it, and the whole model
    where what it gives for random numbers differs by more than :data:`TOLERANCE`.

    Parameters
    ----------
    model
        On the processor, in evaluation mode, float32, its forward its class's own.
    keep
        Names of modules that will be watched.
    """
    watched = {
        module
        for name, module in model.named_modules(remove_duplicate=False)
        if name in keep or module._forward_hooks or module._forward_pre_hooks
    }
    found = {
        module: joined
        for module in model.modules()
        if any(_can_do_more(child) for child in module.children())
        and (joined := _join(module, watched))
    }
    tried = _try(model) if found else None
    if tried is None:
        return 0
    inputs, expected = tried
    convolutions = set().union(*(joined.convolutions for joined in found.values()))
    for module, joined in found.items():
        vars(module)["forward"] = _Forward(module, joined.code)
    for convolution in convolutions:
        convolution.__class__ = FusedConv2d
    try:
        with torch.no_grad():
            difference = (model(inputs) - expected).abs().max()
    except (RuntimeError, TypeError):
        difference = torch.tensor(torch.inf)
    if not difference <= TOLERANCE * expected.abs().max():
        for module in found:
            del vars(module)["forward"]
        for convolution in convolutions:
            convolution.__class__ = nn.Conv2d
        return 0
    for joined in found.values():
        for part in joined.parts:
            part.joined = True
    return len(convolutions)


def can_fuse(dtype: torch.dtype = torch.float32) -> bool:
    """Say whether this processor and this build of PyTorch can do it in this precision."""
    return (
        torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and (dtype != torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


class _Joined:
    """A module's code, its convolutions doing what follows them.

    Attributes
    ----------
    code
        Its submodules are the module's own.
    convolutions
        Those that do more than they did.
    parts
        These, and the modules that they do the work of.
    """

    def __init__(self) -> None:
        self.code: fx.GraphModule | None = None
        self.convolutions: set[nn.Module] = set()
        self.parts: set[nn.Module] = set()


def _join(module: nn.Module, watched: set[nn.Module]) -> _Joined | None:
    """Join what follows a module's own convolutions; None where nothing can be."""
    if "forward" in vars(module):
        return None
    graph = follow(module, children=True)
    if graph is None:
        return None
    joined = _Joined()
    for node in list(graph.nodes):
        convolution = _called(node, module)
        if not _can_do_more(convolution) or convolution in watched or len(node.args) != 1:
            continue
        chain = [node]
        while type(identity := _called(_only_user(chain[-1]), module)) is nn.Identity:
            if identity in watched:
                break
            chain.append(_only_user(chain[-1]))
        other = _find_summand(chain[-1])
        if other is not None:
            chain.append(_only_user(chain[-1]))
        activation = _find_activation(_only_user(chain[-1]), module)
        if other is not None and activation not in AFTER_ADDITION:
            activation = None
        if activation is not None and _called(_only_user(chain[-1]), module) not in watched:
            chain.append(_only_user(chain[-1]))
        else:
            activation = None
        if other is None and activation is None:
            continue
        with graph.inserting_before(chain[-1]):
            more = {"other": other, "activation": activation}
            call = graph.call_module(node.target, node.args, more)
        chain[-1].replace_all_uses_with(call)
        joined.convolutions.add(convolution)
        for one in reversed(chain):
            joined.parts.update(filter(None, [_called(one, module)]))
            graph.erase_node(one)
    if not joined.convolutions:
        return None
    joined.code = fx.GraphModule(module, graph)
    return joined


def _can_do_more(module: nn.Module | None) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


def _called(node: fx.Node | None, module: nn.Module) -> nn.Module | None:
    """Return the submodule that a node calls, if it calls one."""
    if node is None or node.op != "call_module":
        return None
    return module.get_submodule(node.target)


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _find_summand(node: fx.Node) -> fx.Node | None:
    """Return what is added to what a node gives, if that is all that is done with it."""
    user = _only_user(node)
    if (
        user is None
        or (user.op, user.target) not in _ADDITIONS
        or user.kwargs
        or len(user.args) != 2
        or not all(isinstance(argument, fx.Node) for argument in user.args)
    ):
        return None
    first, second = user.args
    in_place = user.target in (operator.iadd, "add_")
    # What is added to in place may be used later, as the sum.
    if first is second or (in_place and first is not node):
        return None
    return second if first is node else first


def _find_activation(node: fx.Node | None, module: nn.Module) -> str | None:
    """Return the name of the activation that a node applies, if it does."""
    if node is None:
        return None
    kind = type(_called(node, module)) if node.op == "call_module" else None
    kind = _CALLS.get((node.op, node.target), kind)
    return next((name for name, one in ACTIVATIONS.items() if one.module is kind), None)


def _try(model: nn.Module) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return random pictures and what a model gives for them; None if it takes none."""
    generator = torch.Generator().manual_seed(0)
    for side in SIDES:
        inputs = torch.randn(2, 3, side, side, generator=generator)
        with suppress(Exception), torch.no_grad():  # whatever the model raises
            outputs = model(inputs)
            if isinstance(outputs, torch.Tensor):
                return inputs, outputs
    return None

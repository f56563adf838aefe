"""Following a model's code by ``torch.fx``."""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
from torch import fx


def _in_place(function: Callable) -> Callable:
    def record(self: fx.Proxy, other: object) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return record


class _Proxy(fx.Proxy):
    """Stands for a tensor. To torch.fx itself ``a += b`` is ``a = a + b``, which leaves a be."""

    __iadd__ = _in_place(operator.iadd)
    __isub__ = _in_place(operator.isub)
    __imul__ = _in_place(operator.imul)
    __itruediv__ = _in_place(operator.itruediv)


class _Tracer(fx.Tracer):
    """Follows a model through its modules, or one module's own code only."""

    def __init__(self, children: bool):
        super().__init__()
        self.children = children

    def is_leaf_module(self, module: torch.nn.Module, name: str) -> bool:
        return self.children or super().is_leaf_module(module, name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)


def follow(module: torch.nn.Module, children: bool = False) -> fx.Graph | None:
    """Return the graph of what a module's code does; None where it depends on values.

    Parameters
    ----------
    module
        In the mode, training or evaluation, that it is followed in.
    children
        Take every submodule that is called for a black box, not PyTorch's own only.
    """
    try:
        return _Tracer(children).trace(module)
    except Exception:  # whatever the module's own code raises when it meets a proxy
        return None

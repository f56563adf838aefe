"""Following a model's code by ``torch.fx``."""

from __future__ import annotations

import torch
from torch import fx


class _Children(fx.Tracer):
    """Follows one module's own code; what it calls are black boxes."""

    def is_leaf_module(self, module: torch.nn.Module, name: str) -> bool:
        return True


def follow(module: torch.nn.Module, children: bool = False) -> fx.Graph | None:
    """Return the graph of what a module's code does; None where it depends on values.

    Parameters
    ----------
    module
        In the mode, training or evaluation, that it is followed in.
    children
        Take every submodule that is called for a black box, not PyTorch's own only.
    """
    tracer = _Children() if children else fx.Tracer()
    try:
        return tracer.trace(module)
    except Exception:  # whatever the module's own code raises when it meets a proxy
        return None

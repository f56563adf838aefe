"""A stand-in for a GPU: tensors that say they lie on another device, and are as strict about it.

A GPU's tensors cannot become NumPy arrays and do not mix with the processor's. So do these, which
compute on the processor underneath: what forgets to move a model, an input or an answer fails here
as it would there. ``lazy`` is a device type that PyTorch knows and that nothing here uses; the
engine of automatic differentiation asks nothing of it.
"""

from collections import Counter
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("lazy", 0)

# What PyTorch lets cross between devices, or take its indices from the processor.
_CROSSING = ("_to_copy", "to", "copy_", "index", "index_put", "index_put_", "_index_put_impl_")


class Placed(torch.Tensor):
    """A tensor on the stand-in; ``held`` is the one that it really is."""

    @staticmethod
    def __new__(cls, held):
        with torch.inference_mode(False):  # PyTorch looks for versions of these that are views
            placed = torch.Tensor._make_wrapper_subclass(
                cls,
                held.shape,
                strides=held.stride(),
                storage_offset=held.storage_offset(),
                dtype=held.dtype,
                device=DEVICE,
                requires_grad=held.requires_grad,
            )
        placed.held = held
        return placed

    def __repr__(self):
        return f"Placed({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise AssertionError("used outside of stand_in()")


class _Mode(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.ran = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, given = function.overloadpacket.__name__, (args, kwargs or {})
        tensors = [leaf for leaf in tree_leaves(given) if isinstance(leaf, torch.Tensor)]
        there = any(isinstance(tensor, Placed) for tensor in tensors)
        if there and name not in _CROSSING:
            for tensor in tensors:
                if not isinstance(tensor, Placed) and tensor.ndim:  # numbers are let through
                    raise RuntimeError(
                        f"{name}: expected all tensors to be on the same device, but found "
                        f"{DEVICE} and {tensor.device}"
                    )
        for wanted in (leaf for leaf in tree_leaves(given) if isinstance(leaf, torch.device)):
            there = wanted.type == DEVICE.type
        self.ran[name, there] += 1
        below = tree_map_only(Placed, lambda placed: placed.held, given)
        below = tree_map_only(torch.device, lambda wanted: torch.device("cpu"), below)
        found = function(*below[0], **below[1])
        if name.endswith("_") and not name.endswith("__"):  # in place
            return args[0]
        return tree_map_only(torch.Tensor, Placed, found) if there else found


@contextmanager
def stand_in():
    """Let tensors be moved to :data:`DEVICE` in this block.

    Yields how often each operation ran: by its name, and whether on the stand-in.
    """
    with _Mode() as mode:
        yield mode.ran

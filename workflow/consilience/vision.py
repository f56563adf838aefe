"""torchvision, imported without the compiler that it never needs here.

One of its operations for detection imports ``torch._dynamo`` to ask a single question, which takes
as long as importing PyTorch itself (seconds, in every step). While torchvision is imported, a
stand-in answers that nothing can be compiled; afterwards ``torch._dynamo`` is what it always was.
Import this module before any other that imports torchvision.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch


@contextmanager
def _standing_in() -> Iterator[None]:
    """Put a stand-in for ``torch._dynamo`` where imports look first, unless it is there itself."""
    names = ("torch._dynamo", "torch._dynamo.utils")
    if any(name in sys.modules for name in (*names, "torchvision")):
        yield
        return
    package, utils = map(ModuleType, names)
    package.__path__ = []  # no other module of it can be found
    utils.is_compile_supported = lambda device: False
    sys.modules.update(zip(names, (package, utils), strict=True))
    try:
        yield
    finally:
        for name in names:
            sys.modules.pop(name, None)
        vars(torch).pop("_dynamo", None)  # where an import has left the stand-in


with _standing_in():
    import torchvision

__all__ = ["torchvision"]

"""torchvision comes without the compiler, and everything that needs it still does."""

import os
import subprocess
import sys

import pytest

from conftest import REPOSITORY

CHECK = """
import sys
from consilience import {module}
assert "torchvision" in sys.modules
assert not any(name.startswith("torch._dynamo") for name in sys.modules)
import torch
from torch._dynamo.utils import is_compile_supported
assert is_compile_supported.__module__ == "torch._dynamo.utils"
assert torch._dynamo.__file__
from torchvision import ops
boxes = torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]])
assert ops.roi_align(torch.ones(1, 1, 4, 4), boxes, 2).tolist() == [[[[1.0, 1.0], [1.0, 1.0]]]]
print("fine")
"""


@pytest.mark.parametrize("module", ["classifiers", "cam"])
def test_torchvision_is_imported_without_the_compiler_which_is_there_all_the_same(module):
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "workflow")}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHECK.format(module=module)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.stdout == "fine\n", run.stderr

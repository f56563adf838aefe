"""Every act computes where it is told to: on a stand-in that is as strict as a GPU."""

import numpy as np
import pytest
import torch

from acts import ACTS, FOLDS, TOLERANCES
from stand_in import DEVICE, stand_in


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# What the processor does all the same: check what the folding of batch norms changes, once a net
# that is made ready, and measure what was trained.
NETS_MADE_READY = {"check_sanity": 3, "embed": 0}
MEASURED_HERE = ("train_classifier", "train_clip")
# PyTorch casts by itself on devices that it knows.
ON_REAL_DEVICES_ONLY = ("predict_in_bfloat16",)


@pytest.mark.parametrize("name", [name for name in ACTS if name not in ON_REAL_DEVICES_ONLY])
def test_an_act_computes_on_its_device_and_agrees_with_the_processor(name):
    expected = ACTS[name]("cpu")
    with stand_in() as ran:
        found = ACTS[name](DEVICE)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCES[name])
    there, here = (ran["convolution", where] + ran["conv2d", where] for where in (True, False))
    assert there
    if name not in MEASURED_HERE:
        assert here == FOLDS * NETS_MADE_READY.get(name, 1)


def test_the_stand_in_is_as_strict_as_a_gpu():
    with stand_in() as ran:
        placed, other = torch.ones(2).to(DEVICE), torch.ones(2)
        assert placed.device == (placed * 2).device == DEVICE
        for mix in (lambda: placed + other, lambda: placed.mul_(other), lambda: other @ placed):
            with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
                mix()
        with pytest.raises(RuntimeError):
            placed.numpy()
        with pytest.raises(RuntimeError):
            (placed * 2).numpy()
        np.testing.assert_array_equal((placed * 2 + 1).cpu().numpy(), [3, 3])
        assert ran["mul", True] == 3
        assert ran["mul", False] == 0

"""On a real GPU every act agrees with the processor, within the tolerances that are stated."""

import numpy as np
import pytest
import torch

from acts import ACTS, PIXELS, TOLERANCES
from consilience import classifiers, computing, devices, world


def _missing():
    if torch.cuda.is_available():
        return None
    gpus = len(devices.find_gpus())
    return f"PyTorch {torch.__version__} can use none of this machine's {gpus} NVIDIA GPUs"


pytestmark = pytest.mark.skipif(_missing() is not None, reason=_missing() or "")


@pytest.fixture(scope="module", autouse=True)
def gpu(tmp_path_factory):
    """A GPU, made ready as steps do; what that changes is put back."""
    said = []
    with pytest.MonkeyPatch.context() as patch:
        # CUDA may have been asked already here, and goes on seeing all devices.
        patch.setenv("CUDA_VISIBLE_DEVICES", "0")
        patch.setattr(computing, "find_gpus", lambda: devices.find_gpus()[:1])
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        with computing.use_device("cuda", 1, said.append, tmp_path_factory.mktemp("locks")) as name:
            yield name
    assert said[0].startswith("computing on ")


@pytest.mark.parametrize("name", ACTS)
def test_an_act_agrees_with_the_processor(gpu, name):
    found = ACTS[name](gpu)
    np.testing.assert_allclose(found, ACTS[name]("cpu"), rtol=0, atol=TOLERANCES[name])


@pytest.mark.parametrize("name", ACTS)
def test_an_act_gives_the_same_bytes_again(gpu, name):
    assert ACTS[name](gpu).tobytes() == ACTS[name](gpu).tobytes()


@pytest.mark.parametrize("architecture", ["resnet50", "squeezenet1_0", "vit_b_16"])
def test_networks_in_use_agree_with_the_processor(gpu, architecture):
    side = 224
    spec = {
        "name": architecture,
        "architecture": architecture,
        "classes": world.OBJECTS,
        "transform": {"resize": side, "crop": [side, side]},
        "untrained": 1,
    }
    pictures = np.stack([np.kron(pixels[:28, :28], np.ones((8, 8, 1))) for pixels in PIXELS])
    here, there = (
        classifiers.load_classifier(spec, keep=(), device=device).probabilities(np.uint8(pictures))
        for device in ("cpu", gpu)
    )
    np.testing.assert_allclose(there, here, rtol=1e-3, atol=1e-5)

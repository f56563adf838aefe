import copy

import pytest
import torch

from consilience.classifiers import build_architecture
from consilience.convolution import (
    LEAST_CHANNELS,
    WinogradConv2d,
    accelerate,
    keeps_direct,
)


def convolution(channels=LEAST_CHANNELS, out=LEAST_CHANNELS, bias=True, seed=0):
    torch.manual_seed(seed)
    return torch.nn.Conv2d(channels, out, 3, padding=1, bias=bias)


@pytest.mark.parametrize("size", [(6, 6), (7, 5), (1, 1), (3, 13)])
@pytest.mark.parametrize("bias", [True, False])
def test_it_convolves_exactly_up_to_float32s_rounding(size, bias):
    direct = convolution(out=LEAST_CHANNELS + 16, bias=bias)
    fast = torch.nn.Sequential(copy.deepcopy(direct))
    assert accelerate(fast, winograd=True) == 1
    inputs = torch.randn(5, LEAST_CHANNELS, *size)
    exact = copy.deepcopy(direct).double()(inputs.double())
    with torch.inference_mode():
        error, least = ((layer(inputs) - exact).square().mean().sqrt() for layer in (fast, direct))
    # Five to seven times was seen, ten for one position; it differs with a BLAS's order of sums.
    assert error < 12 * least


def test_blocks_do_not_matter(monkeypatch):
    layer = torch.nn.Sequential(convolution())
    accelerate(layer, winograd=True)
    inputs = torch.randn(7, LEAST_CHANNELS, 6, 6)
    with torch.inference_mode():
        whole = layer(inputs)
        monkeypatch.setattr("consilience.convolution._BLOCK", 1)
        torch.testing.assert_close(layer(inputs), whole, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_the_direct_way():
    direct = convolution()
    fast = torch.nn.Sequential(copy.deepcopy(direct))
    accelerate(fast, winograd=True)
    first, second = (torch.ones(1, LEAST_CHANNELS, 4, 4, requires_grad=True) for _ in range(2))
    direct(first).square().sum().backward()
    fast(second).square().sum().backward()
    torch.testing.assert_close(first.grad, second.grad)


@pytest.mark.parametrize(
    "layer",
    [
        torch.nn.Conv2d(LEAST_CHANNELS, LEAST_CHANNELS, 3, padding=1, stride=2),
        torch.nn.Conv2d(LEAST_CHANNELS, LEAST_CHANNELS, 3),
        torch.nn.Conv2d(LEAST_CHANNELS, LEAST_CHANNELS, 1),
        torch.nn.Conv2d(LEAST_CHANNELS, LEAST_CHANNELS, 3, padding=1, groups=2),
        torch.nn.Conv2d(LEAST_CHANNELS, LEAST_CHANNELS, 3, padding=2, dilation=2),
        torch.nn.Conv2d(LEAST_CHANNELS, LEAST_CHANNELS, 3, padding=1, padding_mode="reflect"),
        torch.nn.Conv2d(LEAST_CHANNELS // 2, LEAST_CHANNELS, 3, padding=1),
        torch.nn.Conv2d(LEAST_CHANNELS, LEAST_CHANNELS, 3, padding=1).double(),
    ],
    ids=["stride", "padding", "kernel", "groups", "dilation", "reflect", "channels", "double"],
)
def test_other_convolutions_stay_as_they_are(layer):
    assert accelerate(torch.nn.Sequential(layer), winograd=True) == 0
    assert type(layer) is torch.nn.Conv2d


def test_a_network_answers_alike_and_keeps_its_names_and_weights():
    torch.manual_seed(0)
    model = build_architecture("resnet18", 10, ["layer4"])
    fast = copy.deepcopy(model)
    assert accelerate(fast, winograd=True) == 10
    assert isinstance(fast.layer4[1].conv2, WinogradConv2d)
    assert list(fast.state_dict()) == list(model.state_dict())
    assert [name for name, _ in fast.named_modules()] == [name for name, _ in model.named_modules()]
    inputs = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        torch.testing.assert_close(fast(inputs), model(inputs), rtol=1e-4, atol=1e-5)


ZEN_4 = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\n"
ZEN_5 = ZEN_4.replace("25", "26")
INTEL = "vendor_id\t: GenuineIntel\ncpu family\t: 6\n"


@pytest.mark.parametrize(
    ("capability", "cpuinfo", "direct"),
    [
        ("AVX512", ZEN_4, False),
        ("AVX512", ZEN_5, True),
        ("AVX512", INTEL, False),
        ("AVX512", "", False),
        ("AVX2", ZEN_5, False),
        ("DEFAULT", "", False),
    ],
)
def test_direct_convolution_stays_where_it_is_as_fast(capability, cpuinfo, direct, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert keeps_direct(cpuinfo) == direct
    monkeypatch.setattr("consilience.convolution.keeps_direct", lambda: direct)
    assert accelerate(build_architecture("resnet18", 10, ["layer4"])) == (0 if direct else 10)

"""Convolutions that do what follows them, against the network as it was built."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from consilience import fusion
from consilience.convolution import ACTIVATIONS, FusedConv2d, accelerate
from consilience.fusion import AFTER_ADDITION, can_fuse, fuse_activations
from consilience.inference import fold_batch_norms
from test_inference import assert_alike, build, record

pytestmark = pytest.mark.skipif(
    not can_fuse(), reason="this build of PyTorch has no oneDNN operation that joins"
)


def inputs(side=64, count=2):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("architecture", "joined", "layers"),
    [
        # All but the three of the shortcuts, which nothing follows.
        ("resnet18", 17, ["layer1.0", "layer2.0.downsample", "layer4", "avgpool"]),
        ("squeezenet1_0", 26, ["features.3", "features.12", "classifier.3"]),
        ("mobilenet_v2", 35, ["features.0", "features.5.conv.1", "features.18"]),
        ("mobilenet_v3_small", 32, ["features.0", "features.4.block.0", "classifier.0"]),
        ("efficientnet_b0", 49, ["features.0", "features.3.1.block.2", "features.8"]),
        ("densenet121", 59, ["features.denseblock1", "features.norm5"]),
        ("vgg11", 8, ["features.2", "features.20", "avgpool"]),
    ],
)
def test_every_output_but_of_what_is_joined_is_the_same(architecture, joined, layers):
    model = build(architecture)
    expected = record(model, inputs(), layers)
    names = [name for name, _ in model.named_modules()]
    fold_batch_norms(model)
    assert fuse_activations(model, layers) == joined
    assert sum(type(module) is FusedConv2d for module in model.modules()) == joined
    assert [name for name, _ in model.named_modules()] == names
    assert_alike(record(model, inputs(), layers), expected)
    accelerate(model, winograd=True)
    assert_alike(record(model, inputs(), layers), expected, 1e-4)


def test_gradients_take_the_networks_own_way():
    model = build("resnet18")
    other = copy.deepcopy(model)
    fold_batch_norms(model)
    fuse_activations(model)
    accelerate(model, winograd=True)
    found = []
    for one in (model, other):
        given = inputs().requires_grad_()
        one(given)[:, 1].sum().backward()
        found.append(given.grad)
    assert (found[0] - found[1]).abs().max() < 1e-4 * found[1].abs().max()


def test_what_is_watched_stays_and_what_is_joined_says_so():
    model = build("resnet18")
    watched = ["layer1.0.conv1", "layer2.0.relu", "layer4.1.conv2"]
    fold_batch_norms(model, watched)
    expected = record(model, inputs(), watched)
    # Without the watched ones and the other two whose activation is the watched one.
    assert fuse_activations(model, watched) == 17 - 3
    assert_alike(record(model, inputs(), watched), expected)
    assert not any(hasattr(model.get_submodule(name), "joined") for name in watched)
    parts = ["conv1", "bn1", "relu", "layer1.0.conv2", "layer1.0.bn2", "layer1.0.relu"]
    assert all(model.get_submodule(name).joined for name in parts)
    # A convolution that still adds has no output of its own, be its activation watched.
    assert model.layer2[0].conv2.joined


@torch.inference_mode()
def test_a_watched_output_is_overwritten_by_what_follows_as_before():
    """Maps are of the overwritten values, as in pytorch-grad-cam."""
    found = []
    for join in (False, True):
        model = build("resnet18")
        fold_batch_norms(model, ["layer4.1.bn2"])
        if join:
            assert fuse_activations(model, ["layer4.1.bn2"]) == 16
            assert "forward" in vars(model.layer4[1])
        outputs = []
        model.layer4[1].bn2.register_forward_hook(lambda *args, to=outputs: to.append(args[2]))
        model(inputs())
        found += outputs
    assert found[0].min() == 0  # by the activation, which follows the addition
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)


def test_a_copy_computes_with_its_own_weights():
    model = build("resnet18")
    fuse_activations(model)
    other = copy.deepcopy(model)
    with torch.inference_mode():
        before = model(inputs())
        assert torch.equal(other(inputs()), before)
        other.layer3[0].conv1.weight.zero_()
        assert torch.equal(model(inputs()), before)
        assert not torch.allclose(other(inputs()), before)


class Small(nn.Module):
    """Two convolutions, used as ``forward`` says."""

    def __init__(self, forward, **options):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, **{"padding": 1} | options)
        self.other = nn.Conv2d(3, 8, 1)
        self.relu, self.identity = nn.ReLU(inplace=True), nn.Identity()
        self.run = forward

    def forward(self, x):
        return self.run(self, x)


def used_later(self, x):
    """The sum is used again after the activation, which overwrites it."""
    y = self.conv(x)
    y += self.other(x)
    return self.relu(y) + y


def added_to(self, x):
    """What is added to has another name, and so becomes the sum too."""
    y = z = self.other(x)
    y += self.conv(x)
    return z * y


def followed_differently(self, x):
    """The sum's activation is none that can be applied to a sum."""
    return functional.silu(self.conv(x) + self.other(x))


@pytest.mark.parametrize(
    ("forward", "joined"),
    [
        (lambda self, x: self.relu(self.conv(x)), 1),
        (lambda self, x: self.relu(self.identity(self.conv(x))), 1),
        (lambda self, x: functional.relu(self.conv(x)), 1),
        (lambda self, x: functional.relu(self.conv(x), inplace=True), 1),
        (lambda self, x: torch.relu_(self.conv(x)), 1),
        (lambda self, x: self.conv(x).relu(), 1),
        (lambda self, x: functional.silu(self.conv(x)) + functional.relu6(self.other(x)), 2),
        (lambda self, x: functional.hardswish(self.conv(x)), 1),
        (lambda self, x: self.conv(x) + self.other(x), 1),
        (lambda self, x: self.conv(x).add_(self.other(x)).relu_(), 1),
        (lambda self, x: self.relu(torch.add(self.other(x), self.conv(x))), 1),
        (lambda self, x: self.relu(self.conv(x) + self.conv(2 * x)), 1),
        (used_later, 1),
        (added_to, 0),
        (followed_differently, 1),
        (lambda self, x: torch.add(self.conv(x), self.other(x), alpha=2), 0),
        (lambda self, x: self.conv(x) + self.conv.weight.sum(), 0),
        (lambda self, x: self.conv(x) + 1, 0),
        (lambda self, x: self.relu(y := self.conv(x)) + y, 0),
        (lambda self, x: (y := self.conv(x)) + y, 0),
        (lambda self, x: self.conv(x).sigmoid(), 0),
        (lambda self, x: self.relu(self.conv(x)) if x.sum() > 0 else self.relu(x), 0),
        (lambda self, x: self.conv(x) + self.other(x[:1]).mean((2, 3), keepdim=True), None),
    ],
)
def test_what_follows_is_found_in_the_networks_own_code(forward, joined):
    model = Small(forward).eval().requires_grad_(False)
    given = inputs(16, 3)
    with torch.inference_mode():
        expected = model(given)
        found = fuse_activations(model)
        assert joined is None or found == joined
        torch.testing.assert_close(model(given), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("forward", "joined"), [(used_later, 1), (added_to, 0)])
def test_the_code_alone_tells_what_is_overwritten(forward, joined, monkeypatch):
    monkeypatch.setattr(fusion, "TOLERANCE", torch.inf)
    model = Small(forward).eval().requires_grad_(False)
    with torch.inference_mode():
        expected = model(inputs())
        assert fuse_activations(model) == joined
        torch.testing.assert_close(model(inputs()), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("keep", "joined"), [((), 1), (["conv"], 0), (["identity"], 0), (["relu"], 0), (["other"], 1)]
)
def test_nothing_that_is_watched_is_joined(keep, joined):
    model = Small(lambda self, x: self.relu(self.identity(self.conv(x)))).eval()
    assert fuse_activations(model, keep) == joined


@pytest.mark.parametrize(
    "options", [{"padding_mode": "reflect"}, {"padding": "same"}], ids=lambda one: next(iter(one))
)
def test_other_paddings_stay(options):
    model = Small(lambda self, x: self.relu(self.conv(x)), **options).eval()
    assert fuse_activations(model) == 0


def test_a_hook_that_is_there_already_goes_on_seeing_what_it_saw():
    model = Small(lambda self, x: self.relu(self.conv(x))).eval()
    seen = []
    model.conv.register_forward_hook(lambda module, args, output: seen.append(output.min()))
    assert fuse_activations(model) == 0
    with torch.inference_mode():
        model(inputs())
    assert seen[0] < 0


def test_a_model_whose_answer_would_change_stays_as_it_was(monkeypatch):
    model = Small(lambda self, x: self.relu(self.conv(x))).eval().requires_grad_(False)
    with torch.inference_mode():
        expected = model(inputs())
        monkeypatch.setattr(FusedConv2d, "forward", lambda self, x, **more: 2 * x[:, :1])
        assert fuse_activations(model) == 0
        assert type(model.conv) is nn.Conv2d
        assert torch.equal(model(inputs()), expected)


@pytest.mark.parametrize(
    ("activation", "add"),
    [(activation, False) for activation in (None, *ACTIVATIONS)]
    + [(activation, True) for activation in (None, *AFTER_ADDITION)],
)
@pytest.mark.parametrize("channels", [8, 128])
@torch.inference_mode()
def test_a_convolution_does_what_follows_it(activation, add, channels):
    torch.manual_seed(0)
    plain = nn.Conv2d(channels, channels, 3, padding=1)
    fused = copy.deepcopy(plain)
    fused.__class__ = FusedConv2d
    assert accelerate(nn.Sequential(fused), winograd=True) == (channels == 128)
    given, other = torch.randn(2, channels, 7, 9), 3 * torch.randn(2, channels, 7, 9)
    expected = plain(given) + other if add else plain(given)
    if activation:
        expected = ACTIVATIONS[activation].module()(expected)
    found = fused(given, other if add else None, activation)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)

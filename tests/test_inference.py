"""Folded batch norms and bfloat16 against the model as it was built."""

import copy

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from consilience.activations import extract_activations
from consilience.cam import explain_cam
from consilience.classifiers import load_classifier
from consilience.convolution import WinogradConv2d, accelerate
from consilience.errors import ConsilienceError
from consilience.explain_params import resolve_params
from consilience.inference import fold_batch_norms, prepare, use_bfloat16
from consilience.lime_image import explain_lime


def randomise(model, seed=0):
    """Give batch norms statistics that are not those of a new model, which change nothing."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
                nn.init.normal_(module.bias, 0, 0.1, generator=generator)
    return model.eval().requires_grad_(False)


def build(architecture, classes=5):
    torch.manual_seed(0)
    return randomise(torchvision.models.get_model(architecture, num_classes=classes))


def record(model, inputs, names):
    """Return the outputs of layers, copied before anything overwrites them."""
    found = {}
    modules = dict(model.named_modules())
    handles = [
        modules[name].register_forward_hook(
            lambda module, args, output, name=name: found.update({name: output.clone()})
        )
        for name in names
    ]
    with torch.inference_mode():
        found[""] = model(inputs)
    for handle in handles:
        handle.remove()
    return found


def assert_alike(found, expected, tolerance=1e-5):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        difference = (found[name].float() - value).abs().max()
        assert difference <= tolerance * value.abs().max(), name


@pytest.mark.parametrize(
    ("architecture", "folded", "layers"),
    [
        ("resnet18", 20, ["bn1", "layer1", "layer2.0.downsample", "layer4.1.bn2", "avgpool"]),
        ("mobilenet_v3_small", 34, ["features.0", "features.4.block.0", "classifier.0"]),
        ("shufflenet_v2_x0_5", 56, ["conv1", "stage2.0.branch2", "conv5"]),
        # Most of its norms come before a convolution, not after.
        ("densenet121", 59, ["features.denseblock1", "features.norm5"]),
    ],
)
def test_every_output_but_the_convolutions_own_is_the_same(architecture, folded, layers):
    model = build(architecture)
    inputs = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = record(model, inputs, layers)
    names = [name for name, _ in model.named_modules()]
    assert fold_batch_norms(model) == folded
    assert [name for name, _ in model.named_modules()] == names
    assert_alike(record(model, inputs, layers), expected)


def test_a_layer_that_is_watched_stays_what_it_was():
    model = build("resnet18")
    inputs = torch.randn(1, 3, 64, 64)
    layers = ["conv1", "layer4.1.conv2", "layer2.0.downsample.0", "layer3.0.bn1"]
    expected = record(model, inputs, layers)
    other = copy.deepcopy(model)
    assert fold_batch_norms(model, layers) == 16
    assert_alike(record(model, inputs, layers), expected)
    fold_batch_norms(other)
    assert not torch.allclose(record(other, inputs, ["conv1"])["conv1"], expected["conv1"])


class Pair(nn.Module):
    """A convolution and its batch norm, used as ``forward`` says."""

    def __init__(self, forward, **options):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, **options)
        self.run = forward

    def forward(self, x):
        return self.run(self, x)


def plainly(self, x):
    return self.bn(self.conv(x)).mean((2, 3))


def with_alias(model):
    model.alias = model.bn
    return model


def within(model):
    model.conv = nn.Sequential(model.conv)
    return model


def transposed(pair):
    channels = pair.conv.in_channels, pair.conv.out_channels
    pair.conv = nn.ConvTranspose2d(*channels, 3, padding=1)
    return pair


def nearly_constant(model):
    """The convolution's outputs are large and hardly vary: their difference is rounding."""
    model.bn.running_var.fill_(1e-12)
    model.bn.eps = 0.0
    model.bn.running_mean.fill_(1e3)
    model.conv.bias.fill_(1e3)
    return model


@pytest.mark.parametrize(
    "model",
    [
        Pair(lambda self, x: self.bn(y := self.conv(x)).mean((2, 3)) + y.mean((2, 3))),
        Pair(lambda self, x: (self.bn(self.conv(x)) + self.bn(self.conv(2 * x))).mean((2, 3))),
        Pair(lambda self, x: self.bn(self.conv(x).relu()).mean((2, 3))),
        Pair(lambda self, x: plainly(self, x) + self.conv.weight.sum()),
        Pair(lambda self, x: plainly(self, x) if x.sum() > 0 else plainly(self, 2 * x)),
        Pair(plainly, track_running_stats=False),
        with_alias(Pair(plainly)),
        within(Pair(plainly)),
        nearly_constant(Pair(plainly).requires_grad_(False)),
        transposed(Pair(plainly)),
    ],
    ids=[
        "used-twice",
        "runs-twice",
        "between",
        "read",
        "control",
        "untracked",
        "alias",
        "block",
        "inexact",
        "transposed",
    ],
)
def test_what_cannot_be_folded_exactly_stays(model):
    if model.bn.eps:
        randomise(model)
    model.eval()
    inputs = torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        expected = model(inputs)
        assert fold_batch_norms(model) == 0
        assert torch.equal(model(inputs), expected)
    assert isinstance(model.bn, nn.BatchNorm2d)


@pytest.mark.parametrize("options", [{}, {"affine": False}])
def test_the_plain_pair_is_folded(options):
    model = randomise(Pair(plainly, **options))
    inputs = torch.randn(2, 3, 8, 8)
    expected = record(model, inputs, ["bn"])
    assert fold_batch_norms(model) == 1
    assert_alike(record(model, inputs, ["bn"]), expected)


def test_folded_convolutions_take_winograds_path():
    model = build("resnet18")
    inputs = torch.randn(1, 3, 64, 64)
    expected = record(model, inputs, ["layer4"])
    fold_batch_norms(model)
    assert accelerate(model, winograd=True) == 9
    assert isinstance(model.layer4[1].conv2, WinogradConv2d)
    assert model.layer4[1].conv2.bias is not None
    assert_alike(record(model, inputs, ["layer4"]), expected, 1e-4)


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v3_small", "vit", "convnext_tiny"])
@pytest.mark.parametrize("keep", [None, ()])
def test_bfloat16_answers_in_float32(architecture, keep):
    if architecture == "vit":
        torch.manual_seed(0)
        model = torchvision.models.VisionTransformer(
            image_size=64, patch_size=16, num_layers=2, num_heads=2, hidden_dim=12, mlp_dim=24,
            num_classes=5,
        ).eval().requires_grad_(False)  # fmt: skip
        nn.init.normal_(model.heads.head.weight)  # zero as built
    else:
        model = build(architecture)
    inputs = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = model(inputs)
        prepare(model, keep, "bfloat16")
        found = model(inputs)
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().max() < 0.1 * expected.std()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.LayerNorm)]
    assert all(norm.weight.dtype == torch.float32 for norm in norms)


def test_in_bfloat16_only_what_is_watched_is_float32():
    model = build("resnet18")
    use_bfloat16(model, ["layer2"])
    inputs = torch.randn(1, 3, 64, 64)
    found = record(model, inputs, ["layer1", "layer2", "layer3"])
    kinds = [found[name].dtype for name in ("layer1", "layer2", "layer3", "")]
    assert kinds == [torch.bfloat16, torch.float32, torch.bfloat16, torch.float32]


# What a classifier is asked, in both precisions


CLASSES = ["ant", "bee", "cat", "dog", "eel"]


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "net.pt"
    model = build("resnet18")
    with torch.no_grad():
        model.fc.bias.add_(3)  # logits above zero: Ablation-CAM divides by one
    torch.save(model.state_dict(), path)

    def load(precision, keep):
        spec = {
            "name": "net",
            "architecture": "resnet18",
            "classes": CLASSES,
            "transform": {"mean": [0.5] * 3, "std": [0.25] * 3},
            "precision": precision,
        }
        return load_classifier(spec, path, keep)

    return load


@pytest.fixture(scope="module")
def views():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    return coarse.repeat(12, axis=1).repeat(12, axis=2)


def test_a_loaded_classifier_keeps_what_it_is_told_to(load, views):
    plain = load("float32", None)
    folded = load("float32", ["layer4.1.conv2"])
    np.testing.assert_allclose(folded.probabilities(views), plain.probabilities(views), atol=1e-5)
    assert isinstance(plain.layer("bn1"), nn.BatchNorm2d)
    assert isinstance(folded.layer("layer2.0.downsample.1"), nn.Identity)
    assert torch.equal(folded.layer("layer4.1.conv2").weight, plain.layer("layer4.1.conv2").weight)
    with pytest.raises(ConsilienceError, match=r"'net': layer 'conv1' was joined.*`keep`"):
        folded.layer("conv1")


def test_an_unknown_precision_is_named(load):
    with pytest.raises(ConsilienceError, match="'net': precision 'float16' must be float32 or bf"):
        load("float16", None)


@pytest.mark.parametrize("keep", [None, ["layer3"]])
@pytest.mark.parametrize("method", ["grad-cam", "score-cam", "ablation-cam"])
def test_maps_in_bfloat16_are_those_in_float32(load, views, method, keep):
    rows = {
        precision: explain_cam(load(precision, keep), method, "layer3", views, [1, 2])
        for precision in ("float32", "bfloat16")
    }
    for exact, rough in zip(rows["float32"], rows["bfloat16"], strict=True):
        assert rough["status"] == exact["status"] == "ok"
        correlation = np.corrcoef(exact["layer_map"], rough["layer_map"])[0, 1]
        # Ablation-CAM's weights are small differences of logits, of which bfloat16 has two digits:
        # of twelve such pictures the least was 0.91, whichever way the network ran.
        assert correlation > (0.95 if method == "ablation-cam" else 0.98), correlation


def test_probabilities_and_lime_in_bfloat16_are_those_in_float32(load, views):
    exact, rough = load("float32", ()), load("bfloat16", ())
    assert rough.probabilities(views).dtype == np.float32
    np.testing.assert_allclose(rough.probabilities(views), exact.probabilities(views), atol=0.02)
    settings = {
        "num_samples": 60,
        "batch_size": 16,
        "segmentation": {"method": "slic", "n_segments": 9, "compactness": 30, "sigma": 1},
        "hide_color": "mean",
        "kernel_width": 0.25,
        "distance_metric": "cosine",
        "num_features": 3,
        "segmentation_seed": 0,
        "perturbation_seed": 0,
    }
    params = resolve_params(settings, ["p"])["p"]
    (one,), (two,) = (explain_lime(c, views[0], [1], params) for c in (exact, rough))
    assert one["status"] == two["status"] == "ok"
    assert np.corrcoef(one["weights"], two["weights"])[0, 1] > 0.95


@pytest.mark.parametrize("keep", [None, ["conv1", "layer2", "fc"]])
def test_activations_in_bfloat16_are_those_in_float32(load, views, keep):
    from PIL import Image

    layers = ["conv1", "layer2", "fc"]
    pictures = [(str(index), Image.fromarray(view)) for index, view in enumerate(views)]
    exact = list(extract_activations(load("float32", None), pictures, layers, 2))
    rough = list(extract_activations(load("bfloat16", keep), pictures, layers, 2))
    for one, two in zip(exact, rough, strict=True):
        assert two["values"].dtype == np.float32
        limit = 0.03 * np.abs(one["values"]).max()
        np.testing.assert_allclose(two["values"], one["values"], atol=limit)

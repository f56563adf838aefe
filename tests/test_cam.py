"""Tests of class activation maps, held against pytorch-grad-cam."""

import copy
import gc
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import pytorch_grad_cam
import torch
import torchvision
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from pytorch_grad_cam.utils.reshape_transforms import vit_reshape_transform
from torch import nn

from consilience import cam, classifiers, configuration, images, report, tables
from consilience.activations import in_proportion
from consilience.errors import ConsilienceError

LIBRARY = {
    "grad-cam": pytorch_grad_cam.GradCAM,
    "score-cam": pytorch_grad_cam.ScoreCAM,
    "ablation-cam": pytorch_grad_cam.AblationCAM,
    "grad-cam++": pytorch_grad_cam.GradCAMPlusPlus,
    "hirescam": pytorch_grad_cam.HiResCAM,
    "xgrad-cam": pytorch_grad_cam.XGradCAM,
    "layer-cam": pytorch_grad_cam.LayerCAM,
    "grad-cam-elementwise": pytorch_grad_cam.GradCAMElementWise,
    "eigen-grad-cam": pytorch_grad_cam.EigenGradCAM,
    "seg-eigen-cam": pytorch_grad_cam.SegEigenCAM,
    "eigen-cam": pytorch_grad_cam.EigenCAM,
    "kpca-cam": pytorch_grad_cam.KPCA_CAM,
    "fem": pytorch_grad_cam.FEM,
}
CLASSES = 5


class Block(nn.Module):
    """A residual block that adds in place and calls its ReLU twice, as torchvision's do."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        out = self.relu(self.conv1(x))
        out = self.conv2(out)
        out += x
        return self.relu(out)


class Net(nn.Module):
    """Stem, two residual blocks, pooling, linear layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 7, 3, stride=2), nn.ReLU(inplace=True), nn.MaxPool2d(2)
        )
        self.block1 = Block(7)
        self.block2 = Block(7)
        self.fc = nn.Linear(7, CLASSES)

    def forward(self, x):
        return self.fc(self.block2(self.block1(self.stem(x))).mean((2, 3)))


def wrap(model, classes=CLASSES):
    transform = images.Transform(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    names = tuple(f"class {n}" for n in range(classes))
    return classifiers.Classifier("net", model.eval().requires_grad_(False), names, transform)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def net():
    torch.manual_seed(3)
    return wrap(Net())


@pytest.fixture(scope="module")
def views():
    return np.random.default_rng(0).integers(0, 256, (2, 40, 32, 3), dtype=np.uint8)


def ask_library(classifier, method, layers, view, target, batch_size=32, reshape=None):
    """Run the library as its README says, on one picture."""
    model = copy.deepcopy(classifier.model).requires_grad_(True)
    modules = dict(model.named_modules())
    layers = [modules[layer] for layer in ([layers] if isinstance(layers, str) else layers)]
    extra = {}
    if method == "ablation-cam" and reshape:
        extra["ablation_layer"] = pytorch_grad_cam.ablation_layer.AblationLayerVit()
    explainer = LIBRARY[method](model, layers, reshape_transform=reshape, **extra)
    explainer.batch_size = batch_size
    inputs = classifier.transform.normalize(view[None])
    heatmap = explainer(inputs, [ClassifierOutputTarget(target)])[0]
    explainer.activations_and_grads.release()
    return heatmap


def image_of(row, name="heatmap"):
    prefix = "" if name == "heatmap" else "layer_"
    return row[name].reshape(row[f"{prefix}height"], row[f"{prefix}width"])


def hooks_of(model):
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
        + ("forward" in vars(m))
        for m in model.modules()
    )  # fmt: skip


@pytest.mark.parametrize("method", cam.METHODS)
@pytest.mark.parametrize("layer", ["block2", "block1"])
def test_maps_are_the_librarys(net, views, method, layer):
    # The target that the model believes in, so that no logit divided by is near zero.
    targets = classifiers_choice(net, views)
    rows = cam.explain_cam(net, method, layer, views, targets, batch_size=3)
    for row, view, target in zip(rows, views, targets, strict=True):
        expected = ask_library(net, method, layer, view, target, batch_size=3)
        assert row["status"] == "ok"
        np.testing.assert_allclose(image_of(row), expected, atol=1e-5)
        assert expected.max() > 0.9


def classifiers_choice(classifier, views):
    return [int(n) for n in classifier.probabilities(views).argmax(1)]


@pytest.mark.parametrize(
    ("architecture", "layer", "method"),
    [
        ("resnet18", "layer1", "grad-cam"),
        ("resnet18", "layer1", "score-cam"),
        ("resnet18", "layer1.0", "ablation-cam"),
        ("squeezenet1_1", "features.3", "grad-cam"),
        ("squeezenet1_1", "features.3", "score-cam"),
        ("squeezenet1_1", "features.3", "ablation-cam"),
    ],
)
def test_torchvision_maps_are_the_librarys(architecture, layer, method):
    torch.manual_seed(1)
    classifier = wrap(classifiers.build_architecture(architecture, CLASSES))
    view = np.random.default_rng(1).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    targets = classifiers_choice(classifier, view)
    row = cam.explain_cam(classifier, method, layer, view, targets)[0]
    expected = ask_library(classifier, method, layer, view[0], targets[0])
    np.testing.assert_allclose(image_of(row), expected, atol=1e-5)


def calibrate(model, side):
    """Let batch normalisations take their statistics from noise, so that layers tell pictures."""
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
            module.momentum = 1.0
    with torch.no_grad():
        model(torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(0)))
    return model.eval()


@pytest.mark.parametrize(
    ("architecture", "layer", "side"),
    [
        ("resnet50", "layer1.0.conv2", 32),
        ("mobilenet_v3_small", "features.3.block.1", 64),
        ("densenet121", "features.denseblock1.denselayer2", 32),
        ("efficientnet_b0", "features.2", 64),
        ("squeezenet1_0", "features.5", 64),
        ("vgg11", "features.1", 32),
        ("googlenet", "inception3a.branch3", 64),
        ("inception_v3", "Conv2d_2b_3x3", 75),
        ("convnext_tiny", "features.1.0", 32),
        ("regnet_y_400mf", "trunk_output.block1", 32),
        ("shufflenet_v2_x0_5", "stage2", 32),
    ],
)
def test_families_of_torchvision(architecture, layer, side, caplog):
    """Each kind of method gives the library's map, and Ablation-CAM need not run the whole."""
    torch.manual_seed(1)
    classifier = wrap(calibrate(classifiers.build_architecture(architecture, CLASSES), side))
    view = np.random.default_rng(1).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    target = classifiers_choice(classifier, view)
    for method in ("grad-cam", "score-cam", "ablation-cam"):
        with caplog.at_level(logging.INFO):
            row = cam.explain_cam(classifier, method, layer, view, target)[0]
        expected = ask_library(classifier, method, layer, view[0], target[0])
        np.testing.assert_allclose(image_of(row), expected, atol=1e-4)
        assert row["status"] == "ok"
    assert "the whole runs" not in caplog.text


def make_transformer(kind):
    """A small network of torchvision's own classes."""
    torch.manual_seed(2)
    if kind == "vit":
        model = torchvision.models.VisionTransformer(
            image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32,
            num_classes=CLASSES,
        )  # fmt: skip
    else:
        model = torchvision.models.SwinTransformer(
            patch_size=[4, 4], embed_dim=12, depths=[2, 2], num_heads=[2, 2], window_size=[2, 2],
            num_classes=CLASSES,
        )  # fmt: skip
    for parameter in model.parameters():  # some begin at zero
        parameter.data += 0.1 * torch.randn_like(parameter)
    return wrap(model)


@pytest.mark.parametrize("method", cam.METHODS)
@pytest.mark.parametrize(
    ("kind", "layer", "reshape"),
    [
        ("vit", "encoder.layers.encoder_layer_1.ln_1", lambda t: vit_reshape_transform(t, 4, 4)),
        ("swin", "features.3", lambda t: t.permute(0, 3, 1, 2)),
    ],
)
def test_transformers_through_the_reshape_transform(kind, layer, reshape, method, caplog):
    classifier = make_transformer(kind)
    views = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    targets = classifiers_choice(classifier, views)
    with caplog.at_level(logging.INFO):
        rows = cam.explain_cam(classifier, method, layer, views, targets)
    assert "the whole runs" not in caplog.text
    for row, view, target in zip(rows, views, targets, strict=True):
        assert (row["layer_height"], row["layer_width"]) == (4, 4)
        expected = ask_library(classifier, method, layer, view, target, reshape=reshape)
        np.testing.assert_allclose(image_of(row), expected, atol=1e-4)
        assert expected.max() > 0.9


@settings(max_examples=50, deadline=None)
@given(
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    form=st.sampled_from(["map", "channels last", "tokens", "class token"]),
    units=st.integers(1, 20),
)
def test_the_form_of_an_output_is_found(grid, form, units):
    size = (16 * grid[0], 16 * grid[1])
    maps = torch.arange(2.0 * units * grid[0] * grid[1]).reshape(2, units, *grid)
    output = maps
    if form == "channels last":
        # Where the proportions allow both, a map is a convolution's.
        assume(not in_proportion((grid[1], units), size))
        output = maps.permute(0, 2, 3, 1)
    elif "token" in form:
        output = maps.flatten(2).transpose(1, 2)
    if form == "class token":
        output = torch.cat([torch.full((2, 1, units), -1.0), output], dim=1)
    torch.testing.assert_close(cam.as_maps(output, size), maps)


def test_logits_that_do_not_depend_on_the_layer_are_said(net, views):
    class Aside(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.aside = Net(), nn.Conv2d(3, 2, 1)

        def forward(self, x):
            self.aside(x)
            return self.net(x)

    for layers in ("aside", ["aside", "net.block2"]):
        with pytest.raises(ConsilienceError, match=r"layer 'aside' .* does not depend on its"):
            cam.explain_cam(wrap(Aside()), "grad-cam", layers, views, [0, 1])


@pytest.mark.parametrize("method", cam.METHODS)
def test_a_model_of_lower_precision(net, views, method):
    half = copy.deepcopy(net)
    half.model.bfloat16()
    targets = classifiers_choice(net, views)
    for row in cam.explain_cam(half, method, "block1", views, targets):
        assert row["heatmap"].dtype == row["layer_map"].dtype == np.float32
        assert row["status"] == "ok"


@pytest.mark.parametrize("method", ["grad-cam", "score-cam", "ablation-cam"])
def test_memory_stays_flat(views, method):
    """What a method keeps of a picture would add up over hundreds."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 3, 8, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    classifier = wrap(nn.Sequential(*layers, nn.Linear(3, CLASSES)))
    held = []

    def count(done=500, status="ok"):
        if done in (100, 500):
            gc.collect()
            held.append(sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()))

    view = views[0, :16, :16]
    many = [view + np.uint8(n % 7) for n in range(500)]
    cam.explain_cam(classifier, method, "1", many, [0] * 500, batch_size=4, progress=count)
    count()
    assert held[2] < held[1] <= held[0]


@pytest.mark.parametrize("method", cam.METHODS)
def test_rows_fit_the_table(net, views, method):
    rows = cam.explain_cam(net, method, "block2", views, [0, 1])
    named = [
        {"model": "m", "picture": "p", "target_index": 0, "target_class": "c"} | row for row in rows
    ]
    table = tables.make_table(named, tables.HEATMAPS)
    assert len(table["heatmap"][0]) == 40 * 32
    assert 0 <= min(rows[0]["heatmap"]) <= max(rows[0]["heatmap"]) <= 1


def test_grad_cam_of_a_linear_head_by_hand():
    """With pooling and a linear layer behind it, Grad-CAM's channel weights are w / positions."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    classifier = wrap(model, 2)
    view = np.random.default_rng(0).integers(0, 256, (1, 5, 6, 3), dtype=np.uint8)
    row = cam.explain_cam(classifier, "grad-cam", "0", view, [1])[0]
    maps = model[0](classifier.transform.normalize(view))[0]
    expected = (model[3].weight[1, :, None, None] / 30 * maps).sum(0)
    np.testing.assert_allclose(image_of(row, "layer_map"), expected, atol=1e-6)
    assert expected.min() < 0  # not rectified


@pytest.mark.parametrize("method", cam.METHODS)
def test_a_picture_gets_what_it_gets_alone(net, views, method):
    """Whatever shares its pass, and of whatever size the others are."""
    mixed = [*views, views[0, :30], *views[::-1]]
    targets = [2, 3, 1, 0, 2]
    together = cam.explain_cam(net, method, "block1", mixed, targets)
    for row, view, target in zip(together, mixed, targets, strict=True):
        (alone,) = cam.explain_cam(net, method, "block1", [view], [target])
        assert row["status"] == alone["status"]
        scale = np.abs(alone["layer_map"]).max()
        np.testing.assert_allclose(row["layer_map"] / scale, alone["layer_map"] / scale, atol=1e-5)
        np.testing.assert_allclose(image_of(row), image_of(alone), atol=1e-5)


def count_pictures(module):
    """Count the pictures that pass through a module."""
    seen = []
    module.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    return seen


def test_pictures_share_a_pass(net, views):
    seen = count_pictures(net.model)
    mixed = [*views, *views, views[0, :30], *views]
    cam.explain_cam(net, "grad-cam", "block2", mixed, [0] * 7, batch_size=3)
    assert seen == [1, 3, 1, 1, 2]  # the check comes first


@pytest.mark.parametrize("method", ["score-cam", "ablation-cam"])
def test_targets_of_one_picture_share_its_passes(net, views, method):
    seen = count_pictures(net.model.block2)
    alone = [cam.explain_cam(net, method, "block2", views[:1], [n])[0] for n in (0, 1)]
    once = sum(seen) / 2
    seen.clear()
    pair = cam.explain_cam(net, method, "block2", [views[0], views[0], views[1]], [0, 1, 0])
    # The second target adds the library's own pass of the picture itself.
    assert sum(seen) < 2 * once + 2
    for row, expected in zip(pair[:2], alone, strict=True):
        np.testing.assert_array_equal(row["heatmap"], expected["heatmap"])
    (other,) = cam.explain_cam(net, method, "block2", views[1:], [0])
    np.testing.assert_array_equal(pair[2]["heatmap"], other["heatmap"])


def test_progress_is_told_after_each_view(net, views):
    told = []
    cam.explain_cam(
        net, "grad-cam", "block2", views, [0, 1], progress=lambda *args: told.append(args)
    )
    assert told == [(1, "ok"), (2, "ok")]


@pytest.mark.parametrize("method", cam.METHODS)
@pytest.mark.parametrize("layers", [["block1", "block2"], ["block2", "stem", "block1"]])
def test_several_layers_are_averaged_as_the_library_does(net, views, method, layers):
    targets = classifiers_choice(net, views)
    rows = cam.explain_cam(net, method, layers, views, targets)
    for row, view, target in zip(rows, views, targets, strict=True):
        # The library wants them in the order of their calls.
        expected = ask_library(
            net, method, sorted(layers, key="stem block1 block2".find), view, target
        )
        np.testing.assert_allclose(image_of(row), expected, atol=2e-5)
        (single,) = cam.explain_cam(net, method, layers[0], [view], [target])
        assert row["layer"] == ", ".join(layers)
        assert (row["layer_height"], row["layer_width"]) == (9, 7)
        scale = np.abs(single["layer_map"]).max()
        np.testing.assert_allclose(row["layer_map"] / scale, single["layer_map"] / scale, atol=1e-5)


def test_a_zero_map_among_several_layers_is_no_zero_heatmap():
    one, zero = np.float32([[0, 1]]), np.zeros((2, 2), np.float32)
    assert cam._describe_maps([one, zero]) == "ok"
    assert cam._describe_maps([zero, -one]) == "zero"
    assert cam._describe_maps([zero, zero + 3, one]) == "constant"
    assert cam._describe_maps([one, one * np.nan, zero + 3]) == "nan"


@pytest.mark.parametrize("constant", [0.0, 0.3])
def test_score_cam_asks_once_for_all_channels_of_empty_mask(net, views, constant):
    with torch.no_grad():
        net.model.block1.conv2.weight[:3] = 0
        net.model.block1.conv2.bias[:3] = -9
    net.model.stem[2] = nn.Sequential(net.model.stem[2], Fixed(constant))
    expected = ask_library(net, "score-cam", "stem", views[0], 1)
    seen = count_pictures(net.model)
    row = cam.explain_cam(net, "score-cam", "stem", views[:1], [1])[0]
    np.testing.assert_allclose(image_of(row), expected, atol=1e-5)
    if constant == 0:
        # The check, the picture itself, the empty one, and the four channels that vary.
        assert seen == [1, 1, 1, 4]


def test_score_cam_of_a_map_of_one_cell(views):
    """No channel varies: every mask is empty, and all weigh the same."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 5, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    classifier = wrap(nn.Sequential(*model, nn.Linear(6, CLASSES)))
    target = classifiers_choice(classifier, views[:1])
    (row,) = cam.explain_cam(classifier, "score-cam", "2", views[:1], target)
    expected = ask_library(classifier, "score-cam", "2", views[0], target[0])
    np.testing.assert_allclose(image_of(row), expected, atol=1e-5)
    assert row["status"] == "constant"


class Fixed(nn.Module):
    """Sets the first three channels to a constant."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        x = x.clone()
        x[:, :3] = self.value
        return x


@settings(max_examples=30, deadline=None)
@given(
    maps=hnp.arrays(np.float32, (4, 2, 3), elements=st.floats(-3, 3, width=32) | st.just(0.0)),
    shift=st.sampled_from([0.0, 5.0]),
    rectified=st.booleans(),
)
def test_ablation_is_the_librarys(maps, shift, rectified):
    maps = torch.from_numpy(np.maximum(maps, 0) if rectified else maps + np.float32(shift))
    layer = pytorch_grad_cam.AblationLayer()
    layer.indices = np.array([1, 3, 0])
    layer.set_next_batch(0, maps[None], 3)
    torch.testing.assert_close(
        cam.ablate(maps, torch.tensor([1, 3, 0])), layer(None), rtol=0, atol=0
    )
    layer = pytorch_grad_cam.ablation_layer.AblationLayerVit()
    layer.indices = np.array([1, 3, 0])
    tokens = maps.flatten(1).T.contiguous()
    layer.set_next_batch(0, tokens[None], 3)
    torch.testing.assert_close(
        cam.ablate(tokens, torch.tensor([1, 3, 0]), -1), layer(None), rtol=0, atol=0
    )


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_ablation_where_activations_can_be_negative(views, batch_size, caplog):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 5, stride=4),
        nn.Tanh(),
        nn.AvgPool2d(7),
        nn.Flatten(),
        nn.Linear(6, CLASSES),
    )
    classifier = wrap(model)
    target = classifiers_choice(classifier, views[:1])
    row = cam.explain_cam(classifier, "ablation-cam", "0", views[:1], target, batch_size)[0]
    assert image_of(row, "layer_map").std() > 0
    assert "minimum less 1e7, not to zero (1 times in 1 maps)" in caplog.text
    expected = ask_library(classifier, "ablation-cam", "0", views[0], target[0], batch_size)
    np.testing.assert_allclose(image_of(row), expected, atol=1e-5)


@pytest.mark.parametrize("method", ["score-cam", "ablation-cam"])
def test_perturbed_passes_leave_nothing_with_the_librarys_hooks(net, views, method, monkeypatch):
    """Its hooks copy the layer's output off the device, which costs more than the passes."""
    copied = []
    monkeypatch.setattr(
        pytorch_grad_cam.activations_and_gradients.ActivationsAndGradients,
        "save_activation",
        lambda self, module, inputs, output: (
            copied.append(len(output)) or self.activations.append(output.detach())
        ),
    )
    passes = count_pictures(net.model.block1)
    cam.explain_cam(net, method, "block1", views[:2], [0, 0], 4)
    assert copied == [1, 1]
    assert sum(passes) > 4


def test_ablation_cam_within_a_residual_block(net, views):
    target = classifiers_choice(net, views[:1])
    row = cam.explain_cam(net, "ablation-cam", "block2.conv2", views[:1], target)[0]
    expected = ask_library(net, "ablation-cam", "block2.conv2", views[0], target[0])
    np.testing.assert_allclose(image_of(row), expected, atol=1e-5)


def test_ablation_cam_reruns_only_what_follows(net, views):
    stem, block = count_pictures(net.model.stem[0]), count_pictures(net.model.block2)
    cam.explain_cam(net, "ablation-cam", "block1", views, [0, 0])
    # One for the check, two a picture, and two more for the proof.
    assert sum(stem) == 1 + 2 * 2 + 2
    assert sum(block) == 1 + 2 * 2 + 2 * 2 + 2 * 7


class Tangled(nn.Module):
    """Adds in place to what comes before the layer."""

    def __init__(self):
        super().__init__()
        self.early = nn.Conv2d(3, 4, 3)
        self.layer = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())
        self.fc = nn.Linear(4, CLASSES)

    def forward(self, x):
        x = self.early(x)
        y = self.layer(x)
        x += y
        return self.fc(x.relu().mean((2, 3)))


def test_ablation_cam_falls_back_to_the_whole_network(views, caplog):
    torch.manual_seed(0)
    classifier = wrap(Tangled())
    target = classifiers_choice(classifier, views[:1])
    with caplog.at_level(logging.INFO):
        row = cam.explain_cam(classifier, "ablation-cam", "layer", views[:1], target)[0]
    assert "the whole runs" in caplog.text
    assert "layer 'layer' of model 'net'" in caplog.text
    expected = ask_library(classifier, "ablation-cam", "layer", views[0], target[0])
    np.testing.assert_allclose(image_of(row), expected, atol=1e-5)


def test_a_split_that_answers_otherwise_is_not_used(net, views, monkeypatch, caplog):
    """The proof compares with the whole network: what was recorded wrongly is found out."""
    record = cam.record_before
    monkeypatch.setattr(
        cam,
        "record_before",
        lambda *args: [(module, output + 1) for module, output in record(*args)],
    )
    target = classifiers_choice(net, views[:1])
    # The input of the block is recorded, and goes into what follows.
    with caplog.at_level(logging.INFO):
        row = cam.explain_cam(net, "ablation-cam", "block2.conv1", views[:1], target)[0]
    assert "the whole runs" in caplog.text
    expected = ask_library(net, "ablation-cam", "block2.conv1", views[0], target[0])
    np.testing.assert_allclose(image_of(row), expected, atol=1e-5)


def test_a_module_is_recorded_for_those_that_it_calls(net, views):
    inputs = net.transform.normalize(views[:1])
    recorded = cam.record_before(net.model, net.model.block2.conv2, inputs)
    block = net.model.block2
    assert [module for module, _ in recorded] == [
        net.model.stem,
        net.model.block1,
        block.conv1,
        block.relu,
    ]
    torch.testing.assert_close(recorded[0][1], net.model.stem(inputs))
    assert hooks_of(net.model) == 0


def set_bias(classifier, view, target, logit):
    """Shift the bias so that a target's logit has the given value."""
    with torch.no_grad():
        now = classifier.model(classifier.transform.normalize(view[None]))[0, target]
        classifier.model.fc.bias[target] += logit - now


def test_negative_logit_turns_ablation_cam_round_and_says_so(net, views, caplog):
    set_bias(net, views[0], 1, 4.0)
    positive = cam.explain_cam(net, "ablation-cam", "block2", views[:1], [1])[0]
    assert not caplog.text
    set_bias(net, views[0], 1, -4.0)
    negative = cam.explain_cam(net, "ablation-cam", "block2", views[:1], [1])[0]
    assert "opposite sign (1 times in 1 maps)" in caplog.text
    np.testing.assert_allclose(negative["layer_map"], -positive["layer_map"], atol=1e-5)
    expected = ask_library(net, "ablation-cam", "block2", views[0], 1)
    np.testing.assert_allclose(image_of(negative), expected, atol=1e-5)


def test_zero_logit_leaves_ablation_cam_without_a_map(views):
    torch.manual_seed(0)
    model = nn.Sequential(Net(), nn.ReLU())
    with torch.no_grad():
        model[0].fc.bias[2] = -100
    row = cam.explain_cam(wrap(model), "ablation-cam", "0.block2", views[:1], [2])[0]
    assert row["status"] == "nan"


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ([[1, 2], [3, 0]], "ok"),
        ([[-1, -2], [-3, 0]], "zero"),
        ([[0, 0], [0, 0]], "zero"),
        ([[2, 2], [2, 2]], "constant"),
        ([[2, 2], [2, np.nextafter(np.float32(2), np.float32(3))]], "constant"),
        ([[2e-9, 1e-9], [0, 0]], "ok"),
        ([[1, np.nan], [0, 0]], "nan"),
        ([[1, np.inf], [0, 0]], "nan"),
    ],
)
def test_degenerate_maps_are_named(values, status):
    assert cam.describe_map(np.float32(values)) == status


def test_overwritten_activations_are_said_and_as_in_the_library(net, views, caplog):
    row = cam.explain_cam(net, "grad-cam", "stem.0", views[:1], [1])[0]
    assert "overwritten in place" in caplog.text
    expected = ask_library(net, "grad-cam", "stem.0", views[0], 1)
    np.testing.assert_allclose(image_of(row), expected, atol=1e-5)


@pytest.mark.parametrize("method", cam.METHODS)
def test_nothing_is_left_behind(net, views, method, capfd):
    before = copy.deepcopy(net.model.state_dict())
    cam.explain_cam(net, method, "block2", views[:1], [0])
    assert hooks_of(net.model) == 0
    assert all(p.grad is None and not p.requires_grad for p in net.model.parameters())
    for key, value in net.model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("method", cam.METHODS)
def test_hooks_are_removed_and_errors_pass_after_a_failure(net, views, method, monkeypatch):
    passes = iter(range(100))

    def fail(x):
        if next(passes) == 1:  # the first is the check
            raise IndexError("boom")
        return x

    net.model.fc = nn.Sequential(Call(fail), net.model.fc)
    with pytest.raises(IndexError, match="boom"):
        cam.explain_cam(net, method, "block2", views[:1], [0])
    assert hooks_of(net.model) == 0


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "gradcam"}, "unknown CAM method 'gradcam'; did you mean 'grad-cam'"),
        ({"layers": "block3"}, "no layer 'block3'; did you mean 'block"),
        ({"targets": [0, 5]}, "target class 5 is out of range: model 'net' has classes 0 to 4"),
        ({"targets": [0, -1]}, "target class -1 is out of range"),
        ({"targets": [0]}, "1 targets for 2 pictures"),
        ({"layers": "block2.relu"}, "is called 2 times a pass"),
        ({"layers": []}, "name at least one layer"),
        ({"layers": ["stem", "stem"]}, "each once"),
        ({"layers": "fc"}, r"gives \(1, 5\), not \(n, channels, height, width\)"),
    ],
)
def test_bad_input_is_said(net, views, change, message):
    arguments = {"method": "grad-cam", "layers": "block2", "views": views, "targets": [0, 1]}
    with pytest.raises(ConsilienceError, match=message):
        cam.explain_cam(net, **(arguments | change))
    assert hooks_of(net.model) == 0


def test_every_method_can_be_asked_for_and_has_a_name():
    schema = yaml.safe_load(configuration.SCHEMA.read_text())
    offered = schema["properties"]["cam"]["properties"]["methods"]["items"]["enum"]
    assert set(offered) == set(cam.METHODS)
    assert set(cam.METHODS) < set(report.METHODS)


def test_no_pictures_no_rows(net, views):
    assert cam.explain_cam(net, "grad-cam", "block2", views[:0], []) == []


@pytest.fixture(scope="module")
def squeezenet():
    folder = os.environ.get("CONSILIENCE_REAL_DATA")
    if not folder:
        pytest.skip("CONSILIENCE_REAL_DATA names no folder of real photographs and weights")
    spec = {
        "name": "squeezenet",
        "architecture": "squeezenet1_0",
        "preprocessing": "IMAGENET1K_V1",
        "checkpoint": Path(folder) / "weights" / "squeezenet1_0_imagenet.pt",
        # Small, so that the library's hundreds of passes do not take long.
        "transform": {
            "resize": 72,
            "crop": 64,
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
        },
    }
    photo = Path(folder) / "photos" / "n01443537_goldfish.JPEG"
    classifier = classifiers.load_classifier(spec)
    view = classifier.transform.fit(images.decode_image(photo.read_bytes(), photo.name))
    return classifier, view[None]


@pytest.mark.parametrize("method", ["grad-cam", "score-cam", "ablation-cam"])
def test_real_photograph(squeezenet, method):
    classifier, view = squeezenet
    target = classifier.class_names.index("goldfish")
    row = cam.explain_cam(classifier, method, "features.12", view, [target])[0]
    expected = ask_library(classifier, method, "features.12", view[0], target)
    assert row["status"] == "ok"
    np.testing.assert_allclose(image_of(row), expected, atol=1e-5)

"""Activations against plain forward passes, and what goes wrong with layers."""

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from consilience.activations import extract_activations
from consilience.classifiers import Classifier, build_architecture, load_classifier
from consilience.errors import ConsilienceError
from consilience.images import Transform, decode_image
from consilience.tables import ACTIVATIONS, make_table, stack_lists

TRANSFORM = Transform(resize=64, crop=(64, 64), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def classifier(model, transform=TRANSFORM):
    return Classifier("net", model.eval().requires_grad_(False), ("a", "b", "c"), transform)


def pictures(count=5, size=(80, 70)):
    rng = np.random.default_rng(0)
    for index in range(count):
        pixels = rng.integers(256, size=(*size, 3), dtype=np.uint8)
        yield f"{index}.png", Image.fromarray(pixels)


def inputs(transform=TRANSFORM, **kwargs):
    fitted = [transform.fit(picture) for _, picture in pictures(**kwargs)]
    return transform.normalize(np.stack(fitted))


def values(rows, layer):
    return np.stack([row["values"] for row in rows if row["layer"] == layer])


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return classifier(torchvision.models.resnet18(num_classes=3))


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_resnet_equals_a_plain_forward(resnet, pool):
    rows = list(extract_activations(resnet, pictures(), ["layer3", "layer4", "fc"], 2, pool))
    assert [row["picture"] for row in rows] == [f"{i}.png" for i in range(5) for _ in range(3)]
    assert [row["layer"] for row in rows[:3]] == ["layer3", "layer4", "fc"]
    model = resnet.model
    with torch.no_grad():
        x = model.maxpool(model.relu(model.bn1(model.conv1(inputs()))))
        third = model.layer3(model.layer2(model.layer1(x)))
        fourth = model.layer4(third)
        for layer, maps in (("layer3", third), ("layer4", fourth)):
            pooled = maps.mean(dim=(2, 3)) if pool == "mean" else maps.amax(dim=(2, 3))
            np.testing.assert_allclose(values(rows, layer), pooled, rtol=1e-4, atol=1e-5)
        logits = model(inputs())
    np.testing.assert_allclose(values(rows, "fc"), logits, rtol=1e-4, atol=1e-5)
    assert hooks(model) == 0


def test_rows_make_a_table(resnet):
    rows = list(extract_activations(resnet, pictures(), ["layer1", "fc"], 3))
    table = make_table(rows, ACTIVATIONS)
    own = table.filter(table["layer"].to_numpy(zero_copy_only=False) == "layer1")
    np.testing.assert_array_equal(stack_lists(own["values"]), values(rows, "layer1"))


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(
        image_size=64, patch_size=16, num_layers=2, num_heads=2, hidden_dim=12, mlp_dim=24,
        num_classes=3,
    )  # fmt: skip
    torch.nn.init.normal_(model.heads.head.weight)  # zero as built
    return classifier(model)


def test_vit_takes_the_class_token_or_the_mean(vit):
    layers = ["encoder.layers.encoder_layer_1", "encoder.ln", "heads"]
    by_class = list(extract_activations(vit, pictures(), layers, 2))
    by_mean = list(extract_activations(vit, pictures(), layers, 2, tokens="mean"))
    model = vit.model
    with torch.no_grad():
        x = model._process_input(inputs())
        x = torch.cat([model.class_token.expand(len(x), -1, -1), x], dim=1)
        encoder = model.encoder
        blocks = encoder.layers(x + encoder.pos_embedding)
        for layer, tokens in ((layers[0], blocks), (layers[1], encoder.ln(blocks))):
            np.testing.assert_allclose(values(by_class, layer), tokens[:, 0], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(
                values(by_mean, layer), tokens.mean(dim=1), rtol=1e-4, atol=1e-5
            )
        np.testing.assert_allclose(values(by_class, "heads"), model(inputs()), rtol=1e-4, atol=1e-5)


def test_layer_that_gives_a_tuple_is_named(vit):
    layer = "encoder.layers.encoder_layer_0.self_attention"
    with pytest.raises(ConsilienceError, match=f"layer '{layer}': gives a tuple"):
        list(extract_activations(vit, pictures(), [layer], 2))
    assert hooks(vit.model) == 0


def test_mobilenet_before_an_activation_in_place():
    """The Hardswish after classifier.0 overwrites its output; what is recorded must not change."""
    torch.manual_seed(0)
    model = torchvision.models.mobilenet_v3_small(num_classes=3)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()(inputs())  # or all that comes out is 1e-8
    net = classifier(model)
    rows = list(extract_activations(net, pictures(), ["features.12", "classifier.0"], 5))
    with torch.no_grad():
        pooled = model.features(inputs()).mean(dim=(2, 3))
        linear = model.classifier[0](pooled)
    assert (torch.nn.functional.hardswish(linear) - linear).abs().max() > 0.01
    np.testing.assert_allclose(values(rows, "features.12"), pooled, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(values(rows, "classifier.0"), linear, rtol=1e-4, atol=1e-5)


class Toy(torch.nn.Module):
    """Layers of every kind, good and bad, for pictures of any size."""

    def __init__(self):
        super().__init__()
        self.twice = torch.nn.ReLU()
        self.never = torch.nn.Linear(3, 3)
        self.last = torch.nn.Linear(3, 6)
        self.flat = torch.nn.Flatten(0, 1)
        self.conv = torch.nn.Conv2d(3, 6, 3, stride=3)
        self.boom = None

    def forward(self, x):
        if self.boom:
            raise self.boom
        x = self.twice(self.twice(x))
        self.flat(x)
        self.last(x.permute(0, 2, 3, 1))
        return self.conv(x).mean(dim=(2, 3))


@pytest.mark.parametrize("size", [(64, 64), (60, 44)])
def test_units_in_the_last_dimension_are_found(size):
    """Swin transformers keep maps as (n, height, width, units)."""
    net = classifier(Toy(), Transform())
    rows = list(extract_activations(net, pictures(size=size), ["last", "conv"], 2))
    x = torch.relu(inputs(Transform(), size=size))
    with torch.no_grad():
        last = net.model.last(x.mean(dim=(2, 3)))
        conv = net.model.conv(x).mean(dim=(2, 3))
    np.testing.assert_allclose(values(rows, "last"), last, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(values(rows, "conv"), conv, rtol=1e-4, atol=1e-5)


def test_swin_stage_has_its_units():
    net = classifier(
        torchvision.models.SwinTransformer(
            patch_size=[4, 4], embed_dim=12, depths=[1, 1], num_heads=[2, 2], window_size=[4, 4],
            num_classes=3,
        )
    )  # fmt: skip
    rows = list(extract_activations(net, pictures(2), ["features.1", "features.3"], 2))
    assert [values(rows, layer).shape[1] for layer in ("features.1", "features.3")] == [12, 24]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["convv"], "no layer 'convv'; did you mean 'conv'"),
        (["conv", "conv"], "named twice"),
        (["twice"], "layer 'twice': runs more than once"),
        (["never"], "layer 'never': does not run"),
        (["conv", "flat"], r"layer 'flat': its output has the shape \(15, 64, 64\) for 5 pictures"),
    ],
)
def test_layers_that_cannot_be_recorded(layers, message):
    net = classifier(Toy())
    with pytest.raises(ConsilienceError, match=message):
        list(extract_activations(net, pictures(), layers, 5))
    assert hooks(net.model) == 0


def test_hooks_go_when_the_model_fails():
    net = classifier(Toy())
    net.model.boom = RuntimeError("boom")
    with pytest.raises(RuntimeError, match="boom"):
        list(extract_activations(net, pictures(), ["conv"], 5))
    assert hooks(net.model) == 0


def test_no_hook_stays_between_batches():
    net = classifier(Toy())
    rows = extract_activations(net, pictures(), ["conv"], 2)
    next(rows)
    assert hooks(net.model) == 0


def test_pictures_of_different_sizes_are_refused():
    net = classifier(Toy(), Transform())
    mixed = [*pictures(1), *pictures(1, size=(30, 30))]
    with pytest.raises(ConsilienceError, match="different sizes"):
        list(extract_activations(net, mixed, ["conv"], 2))


def test_unknown_pooling_is_refused(resnet):
    with pytest.raises(ConsilienceError, match="mean or max"):
        list(extract_activations(resnet, pictures(), ["fc"], 2, "sum"))


def test_no_pictures_no_rows(resnet):
    assert list(extract_activations(resnet, [], ["fc"], 2)) == []


@pytest.mark.parametrize(
    ("architecture", "side", "units"),
    [
        ("convnext_tiny", 64, {"features.1": 96, "features.7.0.block.3": 3072, "classifier.2": 3}),
        ("swin_t", 64, {"features.3": 192, "norm": 768, "head": 3}),
        ("squeezenet1_1", 64, {"features.12": 512, "classifier": 3}),
        # One token for each of 14 × 14 patches, and the class token.
        ("vit_b_16", 224, {"encoder.layers.encoder_layer_11": 768, "encoder.ln": 768, "heads": 3}),
    ],
)
def test_torchvisions_families_give_one_value_a_unit(architecture, side, units):
    torch.manual_seed(0)
    transform = Transform(resize=side, crop=(side, side))
    net = classifier(build_architecture(architecture, 3), transform)
    rows = list(extract_activations(net, pictures(1), list(units), 1))
    assert {row["layer"]: len(row["values"]) for row in rows} == units
    with torch.no_grad():
        logits = net.model(inputs(transform, count=1))
    last = values(rows, list(units)[-1])
    np.testing.assert_allclose(last, logits, rtol=1e-3, atol=1e-5)


NETS = """
import torch

class Net(torch.nn.Module):
    def __init__(self, units):
        super().__init__()
        self.stem = torch.nn.Sequential(torch.nn.Conv2d(3, units, 3), torch.nn.BatchNorm2d(units))
        self.head = torch.nn.Linear(units, 3)

    def forward(self, x):
        return self.head(torch.relu(self.stem(x)).mean((2, 3)))

def make_net(units):
    torch.manual_seed(0)
    net = Net(units)
    torch.nn.init.uniform_(net.stem[1].running_var, 0.5, 2)
    return net
"""


def test_a_folded_net_of_the_users_records_the_same(tmp_path, monkeypatch):
    (tmp_path / "activenets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    spec = {
        "name": "net",
        "architecture": "activenets:make_net",
        "arguments": {"units": 6},
        "classes": ["a", "b", "c"],
        "transform": TRANSFORM.to_dict(),
    }
    layers = ["stem", "stem.1", "head"]
    plain = load_classifier(spec)
    expected = list(extract_activations(plain, pictures(), [*layers, "stem.0"], 5))
    for keep in (layers, ["stem"]):
        folded = load_classifier(spec, keep=keep)
        assert isinstance(folded.layer("stem.1"), torch.nn.Identity) == (keep == ["stem"])
        found = list(extract_activations(folded, pictures(), layers, 5))
        for layer in layers:
            np.testing.assert_allclose(
                values(found, layer), values(expected, layer), rtol=1e-4, atol=1e-5
            )
    kept = load_classifier(spec, keep=["stem.0"])
    found = list(extract_activations(kept, pictures(), ["stem.0"], 5))
    np.testing.assert_array_equal(values(found, "stem.0"), values(expected, "stem.0"))


def test_the_real_squeezenets_last_map_knows_photographs(real_data):
    """Its logits are the means of its last convolution's maps after ReLU."""
    net = load_classifier(
        {"name": "squeezenet", "architecture": "squeezenet1_0", "preprocessing": "IMAGENET1K_V1"},
        real_data / "weights/squeezenet1_0_imagenet.pt",
        keep=["classifier.1", "classifier.2"],
    )
    names = ["n01443537_goldfish", "n02007558_flamingo", "n07747607_orange"]
    photographs = [
        (name, decode_image((real_data / f"photos/{name}.JPEG").read_bytes(), name))
        for name in names
    ]
    rows = list(extract_activations(net, photographs, ["classifier.1", "classifier.2"], 3))
    found = values(rows, "classifier.2").argmax(axis=1)
    assert [net.class_names[unit] for unit in found] == ["goldfish", "flamingo", "orange"]
    # What the ReLU in place has not touched yet.
    assert values(rows, "classifier.1").min() < 0

"""Architectures, weights, class names, layers."""

import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from consilience import classifiers
from consilience.classifiers import build_architecture, load_classifier, read_state_dict
from consilience.errors import ConsilienceError
from consilience.images import Transform, decode_image

SMALL = "shufflenet_v2_x0_5"
CLASSES = ["ant", "bee", "cat"]
SPEC = {
    "name": "net",
    "architecture": SMALL,
    "classes": CLASSES,
    "transform": {"resize": 40, "crop": 32},
}


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return build_architecture(SMALL, len(CLASSES)).state_dict()


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)


def refused(message, spec=SPEC, **options):
    with pytest.raises(ConsilienceError, match=message) as error:
        load_classifier(spec, **options)
    assert "\n" not in str(error.value)


def test_a_classifier_answers_as_the_network_it_was_saved_from(state, pictures, tmp_path):
    torch.save(state, tmp_path / "net.pt")
    classifier = load_classifier(SPEC | {"checkpoint": str(tmp_path / "net.pt")})
    assert classifier.class_names == tuple(CLASSES)
    assert classifier.transform == Transform(40, (32, 32))
    assert not classifier.model.training
    assert not any(parameter.requires_grad for parameter in classifier.model.parameters())
    peer = torchvision.models.get_model(SMALL, num_classes=3)
    peer.load_state_dict(state)
    with torch.inference_mode():
        inputs = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255
        expected = peer.eval()(inputs).softmax(1).numpy()
    found = classifier.probabilities(pictures)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def save_nested(state, path, key):
    torch.save({key: state, "epoch": 3, "best": 0.5}, path)


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("plain.pt", torch.save),
        ("old.pth", lambda s, path: torch.save(s, path, _use_new_zipfile_serialization=False)),
        ("prefixed.pt", lambda s, path: torch.save({f"module.{k}": v for k, v in s.items()}, path)),
        ("nested.tar", lambda s, path: save_nested(s, path, "state_dict")),
        ("model.pt", lambda s, path: save_nested(s, path, "model")),
        (
            "both.pt",
            lambda s, path: save_nested({f"module.{k}": v for k, v in s.items()}, path, "model"),
        ),
        ("net.safetensors", save_file),
        (
            "untracked.pt",
            lambda s, path: torch.save(
                {k: v for k, v in s.items() if "num_batches" not in k}, path
            ),
        ),
        ("half.pt", lambda s, path: torch.save({k: v.double() for k, v in s.items()}, path)),
    ],
)
def test_every_form_of_a_checkpoint_gives_the_same_weights(name, save, state, tmp_path):
    save(state, tmp_path / name)
    loaded = load_classifier(SPEC, tmp_path / name).model.state_dict()
    for key, value in state.items():
        if "num_batches" not in key:
            assert loaded[key].dtype == value.dtype
            assert torch.equal(loaded[key], value), key


class Exploit:
    """What a malicious pickle looks like: building it runs a command."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_checkpoint_is_refused_and_not_executed(zipped, state, tmp_path):
    proof = tmp_path / "executed"
    path = tmp_path / "net.pt"
    torch.save(state | {"x": Exploit(proof)}, path, _use_new_zipfile_serialization=zipped)
    refused(r"net\.pt: not a readable checkpoint", checkpoint=path)
    assert not proof.exists()
    path.write_bytes(pickle.dumps(Exploit(proof), protocol=2))
    refused(r"net\.pt: not a readable checkpoint", checkpoint=path)
    assert not proof.exists()
    pickle.loads(path.read_bytes())
    assert proof.exists(), "the exploit does not work, and the test shows nothing"


def test_a_broken_or_missing_checkpoint_is_named(state, tmp_path):
    path = tmp_path / "net.pt"
    refused(r"net\.pt: no such checkpoint", checkpoint=path)
    refused(r": no such checkpoint", checkpoint=tmp_path)
    torch.save(state, path)
    for data in (b"", b"no weights", path.read_bytes()[:5000]):
        path.write_bytes(data)
        refused(r"net\.pt: not a readable checkpoint \(.+\)", checkpoint=path)
        (tmp_path / "net.safetensors").write_bytes(data)
        refused(r"not a readable checkpoint", checkpoint=tmp_path / "net.safetensors")


@pytest.mark.parametrize("content", [[1, 2], {"lr": 0.1}, torch.zeros(3), {"state_dict": {"a": 1}}])
def test_a_checkpoint_without_a_state_dict_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "net.pt")
    refused(r"net\.pt: holds no state dict", checkpoint=tmp_path / "net.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value, state, tmp_path):
    broken = {key: tensor.clone() for key, tensor in state.items()}
    broken["fc.bias"][1] = value
    torch.save(broken, tmp_path / "net.pt")
    refused(r"net\.pt: 'fc\.bias' holds values that are not finite", checkpoint=tmp_path / "net.pt")


def test_answers_that_are_not_finite_are_refused(state, pictures, tmp_path):
    """Every weight is finite, and yet they overflow on the way."""
    large = {k: v * 1e30 if v.is_floating_point() else v for k, v in state.items()}
    torch.save(large, tmp_path / "net.pt")
    classifier = load_classifier(SPEC, tmp_path / "net.pt")
    with pytest.raises(ConsilienceError, match="'net' answers with values that are not finite"):
        classifier.probabilities(pictures)


def test_a_checkpoint_of_another_network_names_keys_and_shapes(state, tmp_path):
    path = tmp_path / "net.pt"
    torch.save(state, path)
    refused(
        r"net\.pt: does not fit shufflenet_v2_x0_5 with 2 classes: "
        r"fc\.weight is \(3, 1024\), not \(2, 1024\)",
        SPEC | {"classes": ["ant", "bee"]},
        checkpoint=path,
    )
    torch.save({k: v for k, v in state.items() if not k.startswith("fc")}, path)
    refused(r"lacks 'fc\.weight' and 1 more", checkpoint=path)
    torch.save(state | {"head.weight": torch.zeros(1)}, path)
    refused(r"has unknown 'head\.weight' and 0 more", checkpoint=path)
    refused("does not fit resnet18", SPEC | {"architecture": "resnet18"}, checkpoint=path)


def test_unknown_names_get_the_nearest(state, tmp_path):
    refused("no classifier 'resnet19'; did you mean 'resnet1", SPEC | {"architecture": "resnet19"})
    named = {"name": "net", "architecture": "squeezenet1_0"}
    refused(
        "squeezenet1_0 has no weights 'IMAGENET1K_V7'; it has IMAGENET1K_V1",
        named | {"preprocessing": "IMAGENET1K_V7"},
    )
    refused(
        "no classifier 'squeezenet'; did you mean 'squeezenet1_",
        {"name": "net", "architecture": "squeezenet", "weights": "IMAGENET1K_V1"},
    )
    refused(
        "no stage 'stage5'; did you mean .*'stage4'",
        SPEC | {"keep_resolution": ["stage5"]},
        checkpoint=tmp_path,
    )
    torch.save(state, tmp_path / "net.pt")
    classifier = load_classifier(SPEC, tmp_path / "net.pt")
    assert classifier.layer("conv5.0") is classifier.model.conv5[0]
    for name, hint in [("conv6", "'conv5'"), ("", "none is like it"), ("zzz", "none is like it")]:
        with pytest.raises(ConsilienceError, match=f"'net' has no layer '{name}'; .*{hint}"):
            classifier.layer(name)


def test_class_names_and_preprocessing_come_from_torchvisions_weights():
    names, transform = classifiers.describe_classifier(
        {"name": "n", "architecture": "resnet50", "preprocessing": "IMAGENET1K_V2"}
    )
    assert len(names) == 1000
    assert names[1] == "goldfish"
    assert transform == Transform(
        232, (224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear"
    )


def test_every_weight_of_torchvision_gives_a_preprocessing():
    for name in torchvision.models.list_models(module=torchvision.models):
        for entry in torchvision.models.get_model_weights(name):
            transform = classifiers.transform_of(entry)
            preset = entry.transforms()
            assert [*transform.crop] == preset.crop_size * 2
            assert [transform.resize] == preset.resize_size


def test_what_the_study_says_itself_comes_first(tmp_path):
    (tmp_path / "classes.txt").write_bytes("\ufeffant\r\nbee \r\n\r\nkäfer\r\n\r\n\r\n".encode())
    names, transform = classifiers.describe_classifier(
        {
            "name": "n",
            "architecture": "resnet50",
            "preprocessing": "IMAGENET1K_V2",
            "classes": str(tmp_path / "classes.txt"),
            "transform": {"resize": 8},
        }
    )
    assert names == ("ant", "bee", "", "käfer")
    assert transform == Transform(8)


def test_what_is_not_known_is_asked_for(tmp_path):
    spec = {"name": "n", "architecture": "resnet18"}
    refused("'n': class names are not known; give classes", spec)
    refused("'n': its preprocessing is not known; give transform", spec | {"classes": CLASSES})
    refused("cannot be read", spec | {"classes": str(tmp_path / "none.txt")})
    (tmp_path / "latin.txt").write_bytes("käfer".encode("latin-1"))
    refused(r"latin\.txt, line 1: not UTF-8 text", spec | {"classes": str(tmp_path / "latin.txt")})


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
def test_a_stage_that_keeps_its_resolution_has_twice_the_positions(architecture):
    sizes = []
    for stages in ([], ["layer4"], ["layer3", "layer4"]):
        model = build_architecture(architecture, 3, stages)
        model.layer4.register_forward_hook(lambda *args: sizes.append(args[2].shape[-2:]))
        with torch.inference_mode():
            assert model(torch.zeros(1, 3, 96, 96)).shape == (1, 3)
    assert sizes == [(3, 3), (6, 6), (12, 12)]


@pytest.mark.parametrize(
    ("architecture", "weights"),
    [("googlenet", "IMAGENET1K_V1"), ("inception_v3", "IMAGENET1K_V1")],
)
def test_ported_weights_get_the_inputs_that_they_were_trained_on(architecture, weights):
    """torchvision's builder scales the inputs anew with these weights, and only with them."""
    entry = classifiers.find_weights(architecture, weights)
    with torch.device("meta"):
        assert build_architecture(architecture, 1000, weights=entry).transform_input
        assert not build_architecture(architecture, 5).transform_input


def test_a_vision_transformer_is_built_for_the_size_of_its_weights():
    entry = classifiers.find_weights("vit_b_16", "IMAGENET1K_SWAG_E2E_V1")
    with torch.device("meta"):
        model = build_architecture("vit_b_16", 1000, weights=entry)
    assert model.image_size == classifiers.transform_of(entry).crop[0] == 384


def test_weights_that_cannot_be_fetched_say_where_to_put_them(monkeypatch):
    def fail(self, **options):
        raise OSError("no network")

    monkeypatch.setattr(torchvision.models.SqueezeNet1_0_Weights, "get_state_dict", fail)
    refused(
        r"'net': weights IMAGENET1K_V1 cannot be fetched from https.*no network.*as checkpoint",
        {"name": "net", "architecture": "squeezenet1_0", "weights": "IMAGENET1K_V1"},
    )


def test_a_fetched_weight_is_checked_and_loaded(monkeypatch):
    torch.manual_seed(1)
    state = build_architecture("squeezenet1_0", 1000).state_dict()

    def fetch(self, progress, check_hash, weights_only):
        assert check_hash
        assert weights_only
        return state

    monkeypatch.setattr(torchvision.models.SqueezeNet1_0_Weights, "get_state_dict", fetch)
    classifier = load_classifier(
        {"name": "net", "architecture": "squeezenet1_0", "weights": "IMAGENET1K_V1"}
    )
    assert torch.equal(classifier.model.classifier[1].weight, state["classifier.1.weight"])
    assert classifier.class_names[950] == "orange"


def test_a_weight_that_lies_in_torchvisions_folder_is_not_fetched(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torchvision.models.SqueezeNet1_0_Weights, "get_state_dict", None)
    place = tmp_path / "hub/checkpoints/squeezenet1_0-b66bff10.pth"
    place.parent.mkdir(parents=True)
    state = build_architecture("squeezenet1_0", 1000).state_dict()
    torch.save(state, place, _use_new_zipfile_serialization=False)
    spec = {"name": "net", "architecture": "squeezenet1_0", "weights": "IMAGENET1K_V1"}
    found = load_classifier(spec).model.state_dict()
    assert all(torch.equal(found[key], state[key]) for key in state)
    place.write_bytes(b"half a file")
    refused(r"squeezenet1_0-b66bff10\.pth: not a readable checkpoint", spec)


def test_densenets_weights_have_names_of_their_own(monkeypatch, tmp_path):
    """torchvision renames them as it loads; both forms of a checkpoint are taken."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = tmp_path / "hub/checkpoints/densenet121-a639ec97.pth"
    place.parent.mkdir(parents=True)
    state = build_architecture("densenet121", 1000).state_dict()
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): value
        for key, value in state.items()
        if "num_batches" not in key
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, place)
    spec = {"name": "net", "architecture": "densenet121", "weights": "IMAGENET1K_V1"}
    peer = torchvision.models.densenet121(weights="IMAGENET1K_V1", progress=False)
    given = {"name": "net", "architecture": "densenet121", "preprocessing": "IMAGENET1K_V1"}
    torch.save(state, tmp_path / "new.pt")
    inputs = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = peer.eval()(inputs)
        for loaded in (load_classifier(spec), load_classifier(given, tmp_path / "new.pt")):
            torch.testing.assert_close(loaded.model(inputs), expected, rtol=1e-3, atol=1e-4)


def test_every_weight_of_torchvision_has_an_address_that_pins_it():
    """Eight digits at least, so that whatever a study names is verified."""
    from consilience import assets

    for name in torchvision.models.list_models(module=torchvision.models):
        for entry in torchvision.models.get_model_weights(name):
            (asset,) = assets.derive_assets({"torchvision": [(name, entry.name)], "clip": []})
            assert len(asset.sha256) >= 8, entry.url
            assert asset.megabytes > 1
            assets.check_address(asset.address)


def test_the_real_squeezenet_knows_three_photographs(real_data):
    classifier = load_classifier(
        {"name": "squeezenet", "architecture": "squeezenet1_0", "preprocessing": "IMAGENET1K_V1"},
        real_data / "weights/squeezenet1_0_imagenet.pt",
    )
    names = ["n01443537_goldfish", "n02007558_flamingo", "n07747607_orange"]
    views = []
    for name in names:
        data = Path(real_data, f"photos/{name}.JPEG").read_bytes()
        views.append(classifier.transform.fit(decode_image(data, name)))
    probabilities = classifier.probabilities(np.stack(views))
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    found = [classifier.class_names[index] for index in probabilities.argmax(1)]
    assert found == ["goldfish", "flamingo", "orange"]


def test_names_that_become_one_are_refused(tmp_path):
    torch.save({"module.a": torch.zeros(1), "a": torch.ones(1)}, tmp_path / "net.pt")
    with pytest.raises(ConsilienceError, match=r"tensors of one name, with and without 'module.'"):
        read_state_dict(tmp_path / "net.pt")


def test_pictures_that_a_model_cannot_take_are_said(tmp_path):
    """Too small for its layers, where no transform makes them fit."""
    model = build_architecture("squeezenet1_1", 2)
    classifier = classifiers.Classifier("net", model, ("cat", "dog"), Transform())
    said = r"model 'net' fails on pictures of 1 × 5 pixels \(.*\); give a transform with the resize"
    with pytest.raises(ConsilienceError, match=said):
        classifier.probabilities(np.zeros((1, 1, 5, 3), np.uint8))


def test_reading_keeps_names_and_values(state, tmp_path):
    torch.save(state, tmp_path / "net.pt")
    loaded = read_state_dict(tmp_path / "net.pt")
    assert list(loaded) == list(state)
    assert all(torch.equal(loaded[key], state[key]) for key in state)


OWN = """
import torch
from .layers import Head

def make_net(classes=3):
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), Head(4, classes))

def make_nothing():
    return "no net"

value = 3
"""
LAYERS = """
import torch

class Head(torch.nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.fc = torch.nn.Linear(channels, classes)

    def forward(self, x):
        return self.fc(x.mean((2, 3)))
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A package of the user's in the working directory, and a model that it makes."""
    (tmp_path / "ownnets").mkdir()
    for name, text in {"__init__": "", "models": OWN, "layers": LAYERS, "broken": "1 +"}.items():
        (tmp_path / f"ownnets/{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    yield SPEC | {"architecture": "ownnets.models:make_net"}
    for name in [name for name in sys.modules if name.split(".")[0] == "ownnets"]:
        del sys.modules[name]


def test_a_function_of_the_users_makes_the_model(own, pictures, tmp_path):
    path = list(sys.path)
    torch.manual_seed(0)
    classifier = load_classifier(own)  # brings its weights itself
    assert sys.path == path
    assert classifier.probabilities(pictures).shape == (2, 3)
    assert classifier.layer("2.fc").out_features == 3
    assert not classifier.model.training
    # Again with weights of a checkpoint.
    torch.save(classifier.model.state_dict(), tmp_path / "net.pt")
    again = load_classifier(own, tmp_path / "net.pt")
    assert np.array_equal(again.probabilities(pictures), classifier.probabilities(pictures))
    refused(
        r"does not fit ownnets.models:make_net with 3 classes: 2.fc.weight is \(3, 4\), not \(5",
        own | {"arguments": {"classes": 5}},
        checkpoint=tmp_path / "net.pt",
    )


@pytest.mark.parametrize(
    ("architecture", "arguments", "said"),
    [
        (
            "ownnets.nowhere:make_net",
            {},
            r"'ownnets.nowhere' cannot be imported from .*No module",
        ),
        ("ownnets.broken:make_net", {}, r"'ownnets.broken' cannot be imported .*SyntaxError"),
        ("ownnets.models:make_nett", {}, "has no function 'make_nett'; did you mean 'make_net'"),
        ("ownnets.models:value", {}, "has no function 'value'"),
        ("ownnets.models:make_net", {"width": 2}, r"make_net\(width=2\) fails .*argument 'width'"),
        ("ownnets.models:make_nothing", {}, "make_nothing returns a str, not a torch.nn.Module"),
    ],
)
def test_what_is_wrong_with_a_function_is_said(own, architecture, arguments, said):
    spec = own | {"architecture": architecture, "arguments": arguments}
    refused(f"architecture '{architecture}': .*{said}", spec)


def test_as_many_class_names_as_logits_are_asked_for(own, pictures):
    classifier = load_classifier(own | {"arguments": {"classes": 4}})
    with pytest.raises(ConsilienceError, match=r"'net' answers 2 pictures with .*\(2, 4\), not"):
        classifier.probabilities(pictures)


def test_class_names_of_several_models_are_words(tmp_path):
    (tmp_path / "classes.txt").write_text("tiger_shark\n\nbee\n")
    specs = [
        {"name": "a", "architecture": SMALL, "classes": ["bee", "tiger  shark", "ant"]},
        {"name": "b", "architecture": SMALL, "classes": str(tmp_path / "classes.txt")},
    ]
    assert classifiers.collect_class_names(specs) == ("ant", "bee", "tiger shark")
    imagenet = {"name": "c", "architecture": "squeezenet1_0", "preprocessing": "IMAGENET1K_V1"}
    assert "goldfish" in classifiers.collect_class_names([imagenet])


def test_an_untrained_network_is_drawn_from_its_seed(pictures, tmp_path):
    torch.save(build_architecture(SPEC["architecture"], 3).state_dict(), tmp_path / "net.pt")
    trained = load_classifier(SPEC, tmp_path / "net.pt").probabilities(pictures)
    one, same, other = (
        load_classifier(SPEC | {"untrained": seed}).probabilities(pictures) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-4
    assert np.abs(one - trained).max() > 1e-4


def test_a_function_that_brings_its_weights_forgets_them_too(tmp_path, monkeypatch):
    (tmp_path / "fixednet.py").write_text(
        "import torch\n"
        "def make():\n"
        "    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 3))\n"
        "    torch.nn.init.constant_(net[1].weight, 0.5)\n"
        "    return net\n"
    )
    monkeypatch.chdir(tmp_path)
    spec = SPEC | {"architecture": "fixednet:make"}
    brought, one, same, other = (
        load_classifier(spec | seed).model[1].weight
        for seed in ({}, {"untrained": 1}, {"untrained": 1}, {"untrained": 2})
    )
    assert (brought == 0.5).all()
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert (one != 0.5).any()

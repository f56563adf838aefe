"""Tests of explanations under random weights, and of another class."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
import torchvision
from scipy.stats import spearmanr
from torch import nn

from consilience import (
    cam,
    classifiers,
    explain_params,
    images,
    lime_image,
    randomisation,
    sanity,
    tables,
)
from consilience.errors import ConsilienceError
from consilience.measures import UndefinedError

CLASSES = ("ant", "bee", "cat", "dog")
SETTINGS = {
    "num_samples": 30,
    "batch_size": 16,
    "segmentation": {"method": "slic", "n_segments": 12, "compactness": 30, "sigma": 0},
    "hide_color": "grey",
    "kernel_width": 0.25,
    "distance_metric": "cosine",
    "segmentation_seed": 4,
    "perturbation_seed": 7,
}


class Net(nn.Module):
    """Two convolutions with batch norms, one without, pooling, a linear layer."""

    def __init__(self, classes=len(CLASSES)):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.block = nn.Sequential(
            nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12), nn.ReLU()
        )
        self.last = nn.Conv2d(12, 12, 3, padding=1)
        self.fc = nn.Linear(12, classes)

    def forward(self, x):
        x = self.block(torch.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.relu(self.last(x)).mean((2, 3)))


def wrap(model, names=CLASSES):
    transform = images.Transform(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    return classifiers.Classifier("net", model.eval().requires_grad_(False), names, transform)


def make_view(seed):
    """Smooth patches, so that neighbouring pixels are alike as in a photograph."""
    noise = np.random.default_rng(seed).uniform(0, 255, (6, 5, 3))
    return np.uint8(noise.repeat(4, 0).repeat(4, 1))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def net():
    """A net whose batch norms know what they are given, as after training."""
    torch.manual_seed(1)
    model = Net()
    views = np.stack([make_view(seed) for seed in range(20)])
    classifier = wrap(model)
    randomisation.settle_norms(model, ["bn1", "block.1"], classifier.transform.normalize(views))
    return classifier


def ask(classifier, methods, names=("p", "q"), **options):
    """Check the pictures of these names, each seeded by its name."""
    views = {name: make_view(sum(name.encode())) for name in names}
    predictions = []
    for name, view in views.items():
        index = int(classifier.probabilities(view[None])[0].argmax())
        found = {"target_index": index, "target_class": classifier.class_names[index]}
        predictions.append({"model": "net", "picture": name} | found)
    params = explain_params.resolve_params(SETTINGS, names)
    options = {"originals": {}, "layers": ["last"], "params": params} | options
    rows = list(
        sanity.check_explanations(classifier, views, predictions, methods=methods, **options)
    )
    tables.make_table(rows, tables.SANITY)
    return rows


def select(rows, **wanted):
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


# Stages


def describe(name, classes=10, names=None):
    with torch.device("meta"):
        model = classifiers.build_architecture(name, classes)
    classifier = wrap(model, tuple(f"class {n}" for n in range(classes)))
    return classifier, randomisation.find_stages(classifier, names)


@pytest.mark.parametrize(
    ("architecture", "classes", "expected"),
    [
        # A norm belongs to the convolution before it.
        ("resnet18", 10, ["fc", "layer4", "layer3", "layer2", "layer1", "conv1"]),
        ("squeezenet1_0", 1000, ["classifier", "features"]),
        # Fewer classes leave more than nine tenths to the features, which then give way.
        (
            "squeezenet1_0",
            10,
            ["classifier", *(f"features.{n}" for n in (12, 10, 9, 8, 7, 5, 4, 3, 0))],
        ),
        # A module within a module that holds nearly all.
        (
            "vit_b_16",
            1000,
            [
                "heads",
                *(f"encoder.layers.encoder_layer_{n}" for n in reversed(range(12))),
                "conv_proj",
            ],
        ),
    ],
)
def test_stages_are_the_models_own_children_from_the_last(architecture, classes, expected):
    classifier, stages = describe(architecture, classes)
    assert list(stages) == expected
    named = [name for modules in stages.values() for name in modules]
    # Each once, and nothing of the training is left out.
    own = {n for n, m in classifier.model.named_modules() if [*m.parameters(recurse=False)]}
    assert len(named) == len(set(named))
    assert set(named) == own


def test_norms_and_loose_parameters_have_a_stage():
    assert describe("resnet18")[1]["conv1"] == ("conv1", "bn1")
    stages = describe("vit_b_16")[1]
    assert stages["conv_proj"] == ("", "encoder", "conv_proj")
    assert stages["encoder.layers.encoder_layer_11"][-1] == "encoder.ln"


def test_a_norm_without_parameters_is_a_norm_all_the_same():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 4, 1))
    stages = randomisation.find_stages(wrap(model))
    assert stages == {"2": ("2",), "0": ("0", "1")}


def test_shared_modules_have_one_turn():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(3, 3)
            self.again = self.first
            self.last = nn.Linear(3, 3)

    assert list(randomisation.find_stages(wrap(Twice()))) == ["last", "first"]


def test_a_model_without_children_is_one_stage():
    assert randomisation.find_stages(wrap(nn.Linear(3, 4))) == {"Linear": ("",)}


def test_stages_that_are_named_are_taken_as_they_are():
    stages = describe("resnet18", names=["layer4.1", "fc"])[1]
    assert list(stages) == ["layer4.1", "fc"]
    assert stages["layer4.1"] == tuple(
        f"layer4.1.{name}" for name in ("conv1", "bn1", "conv2", "bn2")
    )


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ["fc", "layr4"],
            r"sanity.stages: model 'net' has no layer 'layr4'; did you mean 'layer4'",
        ),
        (["fc", "relu"], r"sanity.stages: 'relu' of model 'net' has no weights to randomise"),
        (["layer4", "layer4.1"], r"'layer4.1' of model 'net' is random already when its turn"),
    ],
)
def test_a_wrong_stage_is_named(names, said):
    with pytest.raises(ConsilienceError, match=said):
        describe("resnet18", names=names)


def test_a_model_without_weights_has_no_cascade():
    with pytest.raises(ConsilienceError, match="no weights to randomise"):
        randomisation.find_stages(wrap(nn.Sequential(nn.ReLU())))


# Weights


def test_weights_change_from_the_stage_on_and_nowhere_else(net):
    model = copy.deepcopy(net.model)
    stages = randomisation.find_stages(net)
    assert list(stages) == ["fc", "last", "block", "conv1"]
    done = set()
    for modules in stages.values():
        before = copy.deepcopy(model.state_dict())
        randomisation.randomise(model, modules, 0, "p")
        done |= set(modules)
        for key, value in model.state_dict().items():
            module = key.rpartition(".")[0]
            if module not in modules:
                assert torch.equal(value, before[key]), key
            elif key.endswith("weight") and value.ndim > 1:
                # Not a single one is what it was.
                assert not torch.isclose(value, before[key]).any(), key
    assert done == {"conv1", "bn1", "block.0", "block.1", "last", "fc"}


def test_weights_are_drawn_as_he_et_al_draw_them():
    model = nn.Sequential(nn.Conv2d(64, 128, 3), nn.Linear(500, 400))
    randomisation.randomise(model, ["0", "1"], 3)
    for layer, fan_in in zip(model, (64 * 9, 500), strict=True):
        weights = layer.weight.flatten()
        assert weights.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.02)
        assert weights.mean().item() == pytest.approx(0, abs=0.002)
        assert not layer.bias.any()


def test_a_signal_reaches_the_logits_of_a_deep_net_without_norms():
    """With PyTorch's own draws it did not: every picture had the same logits."""
    layers = [nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()) for _ in range(25)]
    model = nn.Sequential(*layers)
    names = [f"{n}.0" for n in range(25)]
    randomisation.randomise(model, names, 0)
    with torch.no_grad():
        outputs = model(torch.rand(2, 16, 8, 8))
    assert 1e-2 < outputs.std() < 1e2
    assert (outputs[0] - outputs[1]).std() > 1e-3


def test_a_modules_weights_depend_on_seed_and_name_alone(net):
    one, other = copy.deepcopy(net.model), copy.deepcopy(net.model)
    state = torch.get_rng_state()
    randomisation.randomise(one, ["last"], 0, "p", 0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    randomisation.randomise(other, ["fc", "last"], 0, "p", 0)
    assert torch.equal(one.last.weight, other.last.weight)
    for seed in ((1, "p", 0), (0, "q", 0), (0, "p", 1)):
        randomisation.randomise(other, ["last"], *seed)
        assert not torch.isclose(one.last.weight, other.last.weight).any()


def test_parts_of_a_seed_do_not_run_together():
    seeds = {randomisation.derive_seed(*parts) for parts in ((1, "1a"), (11, "a"), ("1", "1", "a"))}
    assert len(seeds) == 3
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_what_no_module_draws_is_permuted():
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=4)
    nn.init.normal_(model.class_token)
    before = copy.deepcopy(model.state_dict())
    stages = randomisation.find_stages(wrap(model))
    assert list(stages)[-1] == "conv_proj"
    randomisation.randomise(model, [name for names in stages.values() for name in names], 0)
    after = model.state_dict()
    attention = "encoder.layers.encoder_layer_0.self_attention.in_proj_weight"
    for key in ("class_token", "encoder.pos_embedding", attention):
        assert not torch.equal(after[key], before[key]), key
        assert torch.equal(after[key].flatten().sort()[0], before[key].flatten().sort()[0]), key
    # Zero as torchvision builds it, and drawn here: a head of zeros has no explanation.
    assert not before["heads.head.weight"].any()
    assert after["heads.head.weight"].std() > 0.1


def test_norms_take_their_statistics_from_pictures_and_stay_in_evaluation(net):
    model = copy.deepcopy(net.model)
    randomisation.randomise(model, ["conv1", "bn1"], 0)
    assert not model.bn1.running_mean.any()
    pictures = torch.rand(3, 3, 8, 8)
    untouched = copy.deepcopy(model.block[1].state_dict())
    randomisation.settle_norms(model, ["conv1", "bn1"], pictures)
    with torch.no_grad():
        given = model.conv1(pictures)
        normed = model.bn1(given)
    np.testing.assert_allclose(model.bn1.running_mean, given.mean((0, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(normed.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(normed.std((0, 2, 3)), 1, atol=1e-3)
    assert all(
        torch.equal(value, untouched[key]) for key, value in model.block[1].state_dict().items()
    )
    assert not any(module.training for module in model.modules())
    assert model.bn1.momentum == nn.BatchNorm2d(1).momentum

"""Tests of explanations under random weights, and of another class."""

import copy
import dataclasses
import gc
import weakref

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

    def __init__(self, classes=4):
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


def test_a_model_that_is_not_made_ready_keeps_its_norms(tmp_path):
    model = classifiers.build_architecture("resnet18", 3)
    torch.save(model.state_dict(), tmp_path / "net.pt")
    spec = {
        **{"name": "net", "architecture": "resnet18", "classes": ["a", "b", "c"]},
        **{"transform": {"crop": 32}, "checkpoint": str(tmp_path / "net.pt")},
    }
    found = classifiers.load_classifier(spec, keep=(), ready=False).model
    assert isinstance(found.bn1, nn.BatchNorm2d)
    assert all(
        torch.equal(a, b) for a, b in zip(found.parameters(), model.parameters(), strict=True)
    )
    assert not found.training
    ready = classifiers.load_classifier(spec, keep=()).model
    assert isinstance(ready.bn1, nn.Identity)


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


# Explanations


class Edges(cam.METHODS["eigen-cam"]):
    """An edge detector that passes for an explanation: it looks at the picture alone."""

    def get_cam_image(self, input_tensor, *args):
        grey = input_tensor.mean(1, keepdim=True)
        edges = (grey - nn.functional.avg_pool2d(grey, 5, 1, 2)).abs()
        maps = nn.functional.interpolate(edges, (12, 10), mode="area")[:, 0].numpy()
        self.layer_maps.append(maps)
        return maps


ALL = ["eigen-cam", "grad-cam", "ablation-cam", "lime"]


@pytest.fixture(scope="module")
def rows(net):
    names = [f"picture {n}" for n in range(10)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(cam.METHODS, "edges", Edges)
        return ask(net, [*ALL, "edges"], names)


def test_every_picture_and_method_has_its_rows(rows):
    assert len(rows) == 10 * 5 * (5 + 1)
    own = select(rows, picture="picture 3", method="lime")
    assert [(row["test"], row["step"], row["stage"]) for row in own[:5]] == [
        ("cascade", step, stage)
        for step, stage in enumerate(["none", "fc", "last", "block", "conv1"])
    ]
    assert own[5]["test"] == "class"
    assert own[5]["stage"] in set(CLASSES) - {own[5]["target_class"]}
    for row in rows:
        assert (row["value"] is None) == (row["reason"] is not None)
        assert row["value"] is None or -1 <= row["value"] <= 1 + 1e-12


def test_nothing_random_gives_the_explanation_itself(rows):
    values = [row["value"] for row in select(rows, test="cascade", step=0)]
    assert len(values) == 50
    assert values == pytest.approx([1.0] * 50)


def test_what_lies_above_the_layer_does_not_concern_eigen_cam(rows):
    eigen = select(rows, method="eigen-cam", step=1)
    assert [row["value"] for row in eigen] == pytest.approx([1.0] * 10)
    grad = [row["value"] for row in select(rows, method="grad-cam", step=1)]
    assert min(value for value in grad if value is not None) < 0.9
    # From the layer on it does.
    below = select(rows, method="eigen-cam", step=2)
    assert all(row["value"] < 0.999 for row in below)


def test_methods_that_know_no_class_or_no_weights_fail(rows):
    summary = sanity.summarise_sanity(rows)
    tables.make_table(summary, tables.SANITY_SUMMARY)

    def verdict(method, test, step=0):
        (row,) = select(summary, method=method, test=test, step=step)
        return row.get("passed")

    assert verdict("eigen-cam", "class") is False
    assert verdict("edges", "class") is False
    assert verdict("edges", "cascade", 4) is False
    assert verdict("grad-cam", "cascade", 4) is True
    assert verdict("grad-cam", "class") is True
    assert verdict("lime", "class") is True
    # The control follows the weights though not the class.
    (edges,) = select(summary, method="edges", test="cascade", step=4)
    assert edges["mean"] == pytest.approx(1)
    # Of the cascade the last stage only is judged.
    assert verdict("edges", "cascade", 3) is None
    assert not select(summary, method="edges", test="cascade", step=3)[0].get("reason")


def test_the_class_is_the_runner_up_of_the_trained_model(net, rows):
    for name in ("picture 0", "picture 5"):
        (row,) = select(rows, picture=name, method="grad-cam", test="class")
        scores = net.probabilities(make_view(sum(name.encode()))[None])[0]
        assert row["target_index"] == scores.argmax()
        assert row["stage"] == CLASSES[scores.argsort()[-2]]


def test_the_target_may_be_any_class_and_the_other_is_never_it(net):
    probabilities = np.float32([0.2, 0.5, 0.1, 0.2])
    assert sanity._runner_up(probabilities, 1) == 0  # the first of equal ones
    assert sanity._runner_up(probabilities, 0) == 1
    assert sanity._runner_up(np.float32([1.0]), 0) is None


def test_a_value_is_spearmans_of_the_maps_as_shown(net):
    """Worked out anew, with scipy, for one stage."""
    (row,) = select(ask(net, ["grad-cam"], ["p"]), step=2)
    view = make_view(ord("p"))
    target = row["target_index"]
    trained = dataclasses.replace(net, model=copy.deepcopy(net.model))
    (own,) = cam.explain_cam(trained, "grad-cam", "last", [view], [target])
    found = []
    inputs = net.transform.normalize(view[None])
    turned = torch.cat([inputs, inputs.flip(3), inputs.flip(2), inputs.flip(2, 3)])
    model = copy.deepcopy(net.model)
    for stage in ("fc", "last"):
        for attempt in range(sanity.ATTEMPTS):
            randomisation.randomise(model, [stage], 0, "p", attempt)
            with torch.no_grad():
                if model(turned)[0, target] > 0:
                    break
    (found,) = cam.explain_cam(
        dataclasses.replace(net, model=model), "grad-cam", "last", [view], [target]
    )
    expected = spearmanr(own["heatmap"], found["heatmap"]).statistic
    assert row["value"] == pytest.approx(expected, abs=1e-4)


def test_the_model_is_left_as_it_was(net):
    before = copy.deepcopy(net.model.state_dict())
    ask(net, ALL, ["p"])
    after = net.model.state_dict()
    assert all(torch.equal(value, before[key]) for key, value in after.items())
    for module in net.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert "forward" not in vars(module)
        assert not module.training


def test_the_same_bytes_twice_whatever_the_other_pictures_and_methods(net, tmp_path):
    one = ask(net, ALL, ["p", "q"])
    torch.manual_seed(123)
    again = ask(net, ALL, ["p", "q"])
    for name, rows in (("one", one), ("again", again)):
        tables.write_table(rows, tmp_path / name, tables.SANITY)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "again").read_bytes()
    assert ask(net, ALL, ["q"]) == select(one, picture="q")
    assert ask(net, ["lime"], ["q", "r"])[:6] == select(one, picture="q", method="lime")
    other = ask(net, ["grad-cam"], ["q"], seed=1)
    assert other != select(one, picture="q", method="grad-cam")


def test_explanations_of_the_study_are_the_originals(net):
    view = make_view(ord("p"))
    target = int(net.probabilities(view[None])[0].argmax())
    params = explain_params.resolve_params(SETTINGS, ["p"])["p"]
    height, width = view.shape[:2]
    halves = np.zeros((height, width), np.int32)
    halves[:, width // 2 :] = 1
    (lime,) = lime_image.explain_lime(net, view, [target], params, halves)
    flat = {
        **{"layer_height": 12, "layer_width": 10, "height": height, "width": width},
        **{"heatmap": np.arange(height * width, dtype=np.float32), "status": "ok"},
    }
    originals = {("p", "lime"): lime, ("p", "grad-cam"): flat}
    rows = ask(net, ["grad-cam", "lime"], ["p"], originals=originals)
    # Not the superpixels that LIME would cut: two of them correlate by -1 or 1.
    assert [abs(row["value"]) for row in select(rows, method="lime")] == pytest.approx([1.0] * 6)
    (again,) = select(rows, method="grad-cam", test="cascade", step=0)
    assert abs(again["value"]) < 0.9


def test_parameters_that_want_other_classes_explained_do_not_stop_the_test(net):
    params = explain_params.resolve_params(SETTINGS, ["p"])
    view = make_view(ord("p"))
    target = int(net.probabilities(view[None])[0].argmax())
    params["p"] |= {"labels": (target,), "top_labels": 1}
    assert ask(net, ["lime"], ["p"], params=params) == ask(net, ["lime"], ["p"])


def test_a_model_of_one_class_has_no_other():
    torch.manual_seed(0)
    rows = ask(wrap(Net(1), ("ant",)), ["grad-cam"], ["p"])
    (row,) = select(rows, test="class")
    assert (row["value"], row["reason"]) == (None, "the model has no other class")


class Deaf(Net):
    """Its logits hang on the picture only while its weights are the trained ones."""

    def forward(self, x):
        logits = super().forward(x)
        return logits if self.fc.weight[0, 0] == 77 else logits * 0


def test_a_map_without_values_is_missing_with_its_reason():
    torch.manual_seed(0)
    model = Deaf()
    model.fc.weight.data[0, 0] = 77
    rows = ask(wrap(model), ["grad-cam", "lime"], ["p", "q", "r", "s"])
    cams = select(rows, method="grad-cam", test="cascade")
    assert cams[0]["value"] == pytest.approx(1)
    assert {row["reason"] for row in cams if row["step"]} == {"explained again: zero map"}
    limes = select(rows, method="lime", test="cascade")
    assert {row["reason"] for row in limes if row["step"]} == {"explained again: constant weights"}
    summary = sanity.summarise_sanity(rows)
    (last,) = select(summary, method="lime", test="cascade", step=4)
    assert (last["n"], last["missing"], last["passed"]) == (0, 4, None)
    assert last["mean"] is None
    assert last["reason"] == "pictures with a value: 0, needed: 4"


class Broken(Net):
    """Its logits are not finite once the weights are not the trained ones."""

    def forward(self, x):
        logits = super().forward(x)
        return logits if self.fc.weight[0, 0] == 77 else logits / 0


def test_logits_that_are_not_finite_are_missing_with_their_reason():
    model = Broken()
    model.fc.weight.data[0, 0] = 77
    rows = ask(wrap(model), ["grad-cam", "lime"], ["p"])
    again = [row for row in select(rows, test="cascade") if row["step"]]
    assert len(again) == 8
    assert {row["reason"] for row in again} == {"logits not finite"}


def test_random_logits_speak_for_the_target_and_are_spread_as_the_trained_ones(net, monkeypatch):
    seen = []

    class Spy(cam.METHODS["grad-cam"]):
        def forward(self, inputs, targets, *args):
            maps = super().forward(inputs, targets, *args)
            seen.append((self.outputs.detach()[0].numpy(), targets[0].category))
            return maps

    monkeypatch.setitem(cam.METHODS, "grad-cam", Spy)
    names = [f"picture {n}" for n in range(6)]
    ask(net, ["grad-cam"], names)
    # The explanation itself, that and another class again, and four stages.
    assert len(seen) == 6 * (1 + 1 + 4)
    for start in range(0, len(seen), 6):
        trained, target = seen[start]
        for logits, asked in seen[start + 2 : start + 6]:
            assert asked == target
            assert logits[target] > 0
            assert logits.std() == pytest.approx(trained.std(), rel=1e-4)


def test_norms_above_a_stage_follow_what_they_are_given_now(net):
    random = dataclasses.replace(net, model=copy.deepcopy(net.model))
    view, above = make_view(0), ["block.0", "block.1"]
    sanity._randomise(random, above, above, view, 0, (0, "p"))
    means = random.model.block[1].running_mean.clone()
    above += ["conv1", "bn1"]
    sanity._randomise(random, ["conv1", "bn1"], above, view, 0, (0, "p"))
    picture = net.transform.normalize(view[None])
    turned = torch.cat([picture, picture.flip(3), picture.flip(2), picture.flip(2, 3)])
    with torch.no_grad():
        model = random.model
        given = model.block[0](torch.relu(model.bn1(model.conv1(turned))))
    found = model.block[1].running_mean
    np.testing.assert_allclose(found, given.mean((0, 2, 3)), atol=5e-3)
    assert not torch.allclose(found, means, atol=1e-2)


# Floors


def heat(values, layer=(4, 4), size=(32, 32)):
    return {
        **{"layer_height": layer[0], "layer_width": layer[1]},
        **{"height": size[0], "width": size[1], "status": "ok"},
        **{"heatmap": np.float32(values).ravel()},
    }


def test_the_floor_of_a_cam_is_that_of_noise_as_coarse_as_it():
    """Of a map of k independent values, |ρ| is about the mean of |normal| / sqrt(k - 1)."""
    rng = np.random.default_rng(0)
    fine = heat(rng.uniform(size=(32, 32)), layer=(32, 32))
    expected = (2 / np.pi) ** 0.5 / (32 * 32 - 1) ** 0.5
    assert sanity.measure_floor(fine, 0, draws=400) == pytest.approx(expected, rel=0.15)
    blocks = rng.uniform(size=(4, 4)).repeat(8, 0).repeat(8, 1)
    coarse = sanity.measure_floor(heat(blocks), 0, draws=400)
    assert 0.1 < coarse < 0.4
    assert coarse > 4 * expected


def test_random_maps_have_the_maps_values_ties_and_all():
    values = np.zeros((32, 32), np.float32)
    values[:8, :8] = np.random.default_rng(0).uniform(size=(8, 8))
    drawn = sanity._draw_smooth(heat(values), values, np.random.default_rng(1))
    assert (np.sort(drawn) == np.sort(values.ravel())).all()
    # Smooth: what is not zero lies together.
    shown = (drawn > 0).reshape(32, 32)
    edges = (shown[1:] != shown[:-1]).sum() + (shown[:, 1:] != shown[:, :-1]).sum()
    assert 0 < edges < 80  # of 64 pixels at random: about 240


def test_the_floor_of_lime_permutes_its_weights():
    """Two superpixels of equal area: the permuted weights agree by -1 or 1."""
    row = {
        **{"height": 2, "width": 4, "segment_map": [0, 0, 1, 1] * 2, "status": "ok"},
        **{"weights": [0.1, -0.3]},
    }
    assert sanity.measure_floor(row, 0) == pytest.approx(1)
    many = {**row, "segment_map": [0, 1, 2, 3, 4, 5, 6, 7], "weights": np.arange(8.0) ** 2}
    # Mean |ρ| of all 8! orders, by enumeration of a sample.
    rng = np.random.default_rng(5)
    draws = [abs(spearmanr(np.arange(8), rng.permutation(8)).statistic) for _ in range(3000)]
    assert sanity.measure_floor(many, 0, draws=3000) == pytest.approx(np.mean(draws), abs=0.02)


def test_a_floor_is_seeded_and_a_degenerate_map_has_none():
    row = heat(np.random.default_rng(0).uniform(size=(32, 32)))
    assert sanity.measure_floor(row, 3) == sanity.measure_floor(row, 3)
    assert sanity.measure_floor(row, 3) != sanity.measure_floor(row, 4)
    for status in ("zero", "constant", "nan"):
        with pytest.raises(UndefinedError, match=f"{status} map"):
            sanity.measure_floor(row | {"status": status}, 0)


# Pictures


def rows_of(*rows):
    return [dict(zip(("name", "clutter", "base"), row, strict=True)) for row in rows]


def test_pictures_without_clutter_are_chosen_one_of_a_base():
    rows = rows_of(
        *(
            (f"{base}-{level}-{view}", level, f"base {base}")
            for base in range(6)
            for level in (0, 1)
            for view in "ab"
        )
    )
    chosen = sanity.choose_pictures(rows, 4)
    assert len(chosen) == 4
    assert all("-0-" in name for name in chosen)
    assert len({name[0] for name in chosen}) == 4
    assert sanity.choose_pictures(rows[::-1], 4) == chosen
    # The first of more are the same.
    everything = sanity.choose_pictures(rows, 100)
    assert everything[:4] == chosen
    assert len(everything) == 6
    assert [name[0] for name in everything] != sorted(name[0] for name in everything)


def test_photographs_are_chosen_among_all_and_levels_from_the_lowest():
    photographs = rows_of(*((f"{n}.jpg", None, None) for n in range(9)))
    assert len(sanity.choose_pictures(photographs, 5)) == 5
    assert len(set(sanity.choose_pictures(photographs, 50))) == 9
    cluttered = rows_of(("a", 3, "x"), ("b", 2, "x"), ("c", 2, None), ("d", 2, None))
    assert set(sanity.choose_pictures([*cluttered, *photographs], 50)) == {"b", "c", "d"}
    assert sanity.choose_pictures([], 3) == []
    # An iterator will do.
    assert len(sanity.choose_pictures(iter(photographs), 5)) == 5


# Verdicts


def scored(values, floor=0.1, test="cascade", step=2, stage="conv1"):
    return [
        {
            **{"model": "net", "method": "m", "picture": f"{n:02d}", "test": test},
            **{"step": step, "stage": stage, "value": value, "floor": floor},
            **{"reason": None if value is not None else "zero map"},
        }
        for n, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("values", "passed"),
    [
        ([0.1, -0.1, 0.2, 0.0, 0.1], True),
        ([0.9, 0.8, 0.9, 0.7, 0.8], False),
        # Turned round is not forgotten, and no less so where the signs cancel.
        ([-0.9, -0.8, -0.9, -0.7, -0.8], False),
        ([0.9, -0.8, 0.9, -0.7, 0.8], False),
        ([0.1, 0.5, 0.2, 0.6, 0.1], None),
        # 0.29 is 0.19 above the floor of 0.1, and 0.31 is 0.21.
        ([0.29] * 5, True),
        ([0.31] * 5, False),
        ([0.1, 0.1, 0.1], None),
        ([0.1, 0.1, 0.1, None, None], None),
    ],
)
def test_the_cascade_is_judged_by_what_exceeds_random_maps(values, passed):
    (row,) = sanity.summarise_sanity(scored(values))
    assert row["passed"] is passed
    assert (row.get("reason") is None) == (passed is not None)
    known = [value for value in values if value is not None]
    assert (row["n"], row["missing"]) == (len(known), len(values) - len(known))
    assert row["mean"] == pytest.approx(np.mean(known))
    assert row["excess"] == pytest.approx(np.mean(np.abs(known)) - 0.1)
    assert row["excess_low"] <= row["excess"] <= row["excess_high"]
    assert row["low"] <= row["mean"] <= row["high"]


@pytest.mark.parametrize(
    ("values", "passed"),
    [
        ([1.0, 1.0, 1.0, 1.0], False),
        ([0.5, 0.9, 0.94, 0.2], True),
        ([0.8, 0.99, 1.0, 1.0], None),
        ([-1.0, -1.0, -1.0, -1.0], True),  # another map, if a related one
        ([1.0, 1.0, 1.0], None),
    ],
)
def test_another_class_is_judged_by_the_mean_itself(values, passed):
    rows = scored(values, test="class", step=0, stage="dog")
    rows[0]["stage"] = "cat"  # every picture has its own
    (row,) = sanity.summarise_sanity(rows)
    assert row["passed"] is passed
    assert row["stage"] == "runner-up"
    assert "excess" not in row


def test_the_last_stage_of_each_model_is_judged_alone():
    rows = [*scored([0.9] * 5, step=1, stage="fc"), *scored([0.9] * 5)]
    rows += [row | {"model": "short"} for row in scored([0.9] * 5, step=1, stage="fc")]
    found = {
        (row["model"], row["stage"]): row.get("passed") for row in sanity.summarise_sanity(rows)
    }
    assert found == {("net", "fc"): None, ("net", "conv1"): False, ("short", "fc"): False}
    shuffled = [rows[at] for at in np.random.default_rng(0).permutation(len(rows))]
    assert sanity.summarise_sanity(shuffled) == sanity.summarise_sanity(rows)


def test_without_a_cascade_nothing_is_judged():
    (row,) = sanity.summarise_sanity(scored([1.0] * 5, step=0, stage="none"))
    assert "passed" not in row


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_residual_net_in_either_precision(precision):
    torch.manual_seed(0)
    classifier = wrap(classifiers.build_architecture("resnet18", 4, ["layer4"]))
    options = {"layers": ["layer4"], "stages": ["fc", "layer4", "conv1"], "precision": precision}
    rows = ask(classifier, ["eigen-cam", "lime"], ["p"], **options)
    assert len(rows) == 2 * (4 + 1)
    for method in ("eigen-cam", "lime"):
        (again,) = select(rows, method=method, test="cascade", step=0)
        assert again["value"] == pytest.approx(1)
    # Eigen-CAM at the layer sees nothing of what follows it.
    assert select(rows, method="eigen-cam", stage="fc")[0]["value"] == pytest.approx(1)
    assert select(rows, method="eigen-cam", stage="layer4")[0]["value"] < 0.99
    assert select(rows, method="lime", stage="fc")[0]["value"] < 0.99


def test_models_do_not_pile_up(net, monkeypatch):
    made, alive, make = [], [], sanity._make_ready

    def record(*args):
        ready = make(*args)
        made.append(weakref.ref(ready.model))
        alive.append(sum(model() is not None for model in made))
        return ready

    monkeypatch.setattr(sanity, "_make_ready", record)
    gc.disable()  # Python looks for cycles when it likes
    try:
        ask(net, ["grad-cam", "lime"], names="pqr")
    finally:
        gc.enable()
    assert len(made) > 9
    assert max(alive) == 2  # the trained one, and the one that is asked

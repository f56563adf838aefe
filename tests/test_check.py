import json
from hashlib import sha256

import pytest
import torch

from consilience import check
from consilience.classifiers import build_architecture
from consilience.errors import ConsilienceError

SPEC = {
    "name": "net",
    "architecture": "resnet18",
    "classes": ["cat", "dog"],
    "transform": {"mean": [0.5] * 3, "std": [0.5] * 3},
}


def test_a_sound_model_is_described_without_weights():
    assert check.check_model(SPEC, ["layer4", "fc"], "predicted") == {
        "class_names": ["cat", "dog"],
        "output_layer": "fc",
        "parameters": 11177538,
    }


@pytest.mark.parametrize(
    ("architecture", "layer"), [("squeezenet1_0", "classifier.1"), ("vit_b_16", "heads.head")]
)
def test_the_output_layer_is_found(architecture, layer):
    found = check.check_model(SPEC | {"architecture": architecture}, [], "predicted")
    assert found["output_layer"] == layer


@pytest.mark.parametrize(
    ("change", "layers", "target", "said"),
    [
        ({}, ["layer5"], "predicted", r"no layer 'layer5'; did you mean 'layer"),
        ({}, [], 2, "classes 0 to 1, not 2"),
        ({}, [], "dgo", "did you mean 'dog'"),
        ({"architecture": "resnet81"}, [], "predicted", "did you mean"),
        ({"keep_resolution": ["layer9"]}, [], "predicted", "no stage 'layer9'"),
        ({"transform": None}, [], "predicted", "preprocessing is not known"),
        ({"classes": None}, [], "predicted", "class names are not known"),
        ({"preprocessing": "IMAGENET1K_V9"}, [], "predicted", "it has IMAGENET1K_V1"),
    ],
)
def test_what_only_the_model_can_tell(change, layers, target, said):
    with pytest.raises(ConsilienceError, match=said):
        check.check_model(SPEC | change, layers, target)


def test_stages_are_those_of_the_models_that_are_explained():
    assert check.check_model(SPEC, [], "predicted", ["fc", "layer4"])["output_layer"] == "fc"
    specs = [SPEC | {"name": "a"}, SPEC | {"name": "b", "architecture": "squeezenet1_0"}]
    layers, stages = {"a": [], "b": []}, ["fc", "layer4"]
    found = check.check_models(specs, layers, "predicted", ["a"], print, stages)
    assert set(found) == {"a", "b"}
    said = "sanity.stages: model 'b' has no layer 'fc'"
    with pytest.raises(ConsilienceError, match=said):
        check.check_models(specs, layers, "predicted", ["a", "b"], print, stages)


def test_a_checkpoint_that_does_not_fit_is_found(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(build_architecture("resnet18", 3).state_dict(), path)
    with pytest.raises(ConsilienceError, match=r"does not fit resnet18 with 2 classes.*fc.weight"):
        check.check_model(SPEC | {"checkpoint": str(path)}, [], "predicted")


def test_all_that_is_wrong_is_said_at_once():
    specs = [SPEC | {"name": "a"}, SPEC | {"name": "b"}, SPEC | {"name": "c"}]
    layers = {"a": ["nowhere"], "b": ["fc"], "c": ["nowhere"]}
    with pytest.raises(ConsilienceError) as caught:
        check.check_models(specs, layers, "predicted", ["a"], lambda line: None)
    assert [line.split("'")[1] for line in str(caught.value).splitlines()] == ["a", "c"]


NETS = """
import torch

def make_net(classes=2):
    pool = torch.nn.AdaptiveAvgPool2d(1)
    return torch.nn.Sequential(pool, torch.nn.Flatten(), torch.nn.Linear(3, classes))
"""


def test_a_function_of_the_users_is_asked_once(tmp_path, monkeypatch):
    (tmp_path / "checknets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    spec = SPEC | {"architecture": "checknets:make_net", "transform": {"resize": 8, "crop": 8}}
    found = check.check_model(spec, ["2"], "dog")
    assert (found["output_layer"], found["parameters"]) == ("2", 8)
    with pytest.raises(ConsilienceError, match=r"logits of shape \(1, 5\), not .*\(1, 2\)"):
        check.check_model(spec | {"arguments": {"classes": 5}}, [], "predicted")


def test_a_regnet_computes_its_widths_and_is_described_all_the_same():
    spec = SPEC | {"architecture": "regnet_y_400mf"}
    assert check.check_model(spec, ["trunk_output"], "predicted")["output_layer"] == "fc"


def test_a_question_in_a_file_is_answered_or_refused(tmp_path, capsys):
    question, target = tmp_path / "question.json", tmp_path / "answer.json"
    asked = {"models": [SPEC], "layers": {"net": ["fc"]}, "target": 1, "explained": ["net"]}
    question.write_text(json.dumps(asked))
    assert check.main([str(question), str(target)]) == 0
    said = json.loads(target.read_text())
    assert said["asked"] == sha256(question.read_bytes()).hexdigest()
    assert said["models"]["net"]["output_layer"] == "fc"
    before = target.read_bytes()
    question.write_text(json.dumps(asked | {"stages": ["layer4", "lay3r"]}))
    assert check.main([str(question), str(target)]) == 1
    assert "sanity.stages: model 'net' has no layer 'lay3r'; did you" in capsys.readouterr().err
    question.write_text(json.dumps(asked | {"stages": None}))
    assert check.main([str(question), str(tmp_path / "other.json")]) == 0
    question.write_text(json.dumps(asked | {"layers": {"net": ["fd"]}}))
    assert check.main([str(question), str(target)]) == 1
    assert "no layer 'fd'" in capsys.readouterr().err
    assert target.read_bytes() == before

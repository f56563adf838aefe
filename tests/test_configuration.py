import copy
import inspect
import re

import pytest
import yaml

from conftest import REPOSITORY
from consilience.configuration import SCHEMA, main, read_yaml, resolve_study
from consilience.errors import ConsilienceError
from consilience.similarity import SIMILARITIES


@pytest.fixture
def default(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    return read_yaml("config.yaml")


def changed(config, key, value):
    """Return the configuration with one key set, given as ``models.0.name``."""
    config = copy.deepcopy(config)
    inner = config
    *parents, last = key.split(".")
    for part in parents:
        inner = inner[int(part)] if part.isdigit() else inner[part]
    inner[last] = value
    return config


def test_the_default_study_is_sound(default):
    study = resolve_study(default, ["config.yaml"])
    assert study["models"][1]["explain"] is False
    # Filled in from the schema, two levels down in a list.
    assert study["models"][0]["train"]["learning_rate"] > 0


def test_defaults_do_not_touch_what_was_given(default):
    before = copy.deepcopy(default)
    resolve_study(default)
    assert default == before


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("lime.num_sample", 3, r"unknown key 'lime.num_sample'; did you mean 'num_samples'"),
        ("sed", 3, r"unknown key 'sed'; did you mean 'seed'"),
        ("lime.num_samples", "many", r"^lime.num_samples: 'many' is not of type integer"),
        ("lime.num_samples", True, r"^lime.num_samples: True is not of type integer"),
        ("acts.cam", "yes", r"^acts.cam: 'yes' is not of type boolean"),
        ("cam.methods", ["gradcam"], r"^cam.methods\[0\]: 'gradcam'.*'grad-cam'"),
        ("study", "../other", r"^study: '../other' does not match"),
        ("seed", -1, r"^seed: -1 is less than the minimum"),
        ("models", [], r"^models: is empty"),
        ("pictures", [], r"^pictures: is empty"),
        ("models.0.weights", "X", r"^models\[0\]: give exactly one of .* has train and weights"),
        ("models.0.precision", "float16", r"^models\[0\].precision: 'float16'.*'bfloat16'"),
        ("models.0.pool", "sum", r"^models\[0\].pool: 'sum' is not known.*mean, max"),
        ("models.0.tokens", "first", r"^models\[0\].tokens: 'first'.*class, mean"),
        (
            "models.0.architecture",
            "my nets",
            r"models\[0\].architecture: 'my nets' does not match",
        ),
        ("models.0.architecture", "nets:", r"^models\[0\].architecture: 'nets:' does not match"),
        ("models.0.architecture", "nets:make", r"object-net\).train: is for classifiers of torchv"),
        ("models.0.arguments", {"a": 1}, r"object-net\).arguments: are for a function of your own"),
        ("models.0.cam_layer", None, r"cam_layer: is missing"),
        ("models.1.name", "object-net", r"'object-net' is given twice"),
        ("pictures", [{}], r"^pictures\[0\]: give exactly one of world, wrong, folder"),
        ("pictures", [{"folder": "nowhere"}], r"there is no folder 'nowhere'"),
        ("world", None, r"pictures\[0\].world: this study has no world"),
        ("pictures", [{"wrong": {}}], r"pictures\[0\].wrong.model is missing; add it"),
        (
            "pictures",
            [{"world": {}, "wrong": {"model": "object-net"}}],
            r"^pictures\[0\]: give exactly one of .* has world and wrong",
        ),
        (
            "pictures",
            [{"wrong": {"model": "object-nte"}}],
            r"^pictures\[0\].wrong.model: there is no model 'object-nte'; did you mean 'object-n",
        ),
        (
            "pictures",
            [{"wrong": {"model": "xyz"}}],
            r"there is no model 'xyz'; it must be one of object-net, scene-net$",
        ),
        (
            "pictures",
            [{"wrong": {"model": "object-net"}}, {"wrong": {"model": "scene-net"}}],
            r"^pictures: wrong pictures are given twice; join the two into one",
        ),
        ("pictures", [{"world": {}}, {"world": {}}], r"^pictures: the world is given twice"),
        (
            "pictures",
            [{"folder": "docs", "masks": "nowhere"}],
            r"^pictures\[0\].masks: there is no folder 'nowhere'; put the masks there",
        ),
        (
            "pictures",
            [{"folder": "docs", "masks": "docs/../docs"}],
            r"^pictures\[0\].masks: is the pictures' own folder; give the masks another",
        ),
        (
            "pictures",
            [{"world": {}, "masks": "docs"}],
            r"^pictures\[0\]: give exactly one of",
        ),
        ("clip.path", "x.pt", r"^clip: give exactly one of train, path and name"),
        ("clip", None, r"acts.dissect: needs a clip"),
        ("clip", {"path": "nowhere.pt"}, r"clip.path: there is no file 'nowhere.pt'"),
        ("concepts", "words.txt", r"concepts: there is no file 'words.txt'"),
        ("probe", [], r"probe: is empty"),
        ("sanity", {"methods": ["limes"]}, r"^sanity.methods\[0\]: 'limes'.*did you mean 'lime'"),
        (
            "sanity",
            {"methods": ["lime", "x"]},
            r"^sanity.methods\[1\]: 'x'.*known are grad-.*lime",
        ),
        ("sanity", {"stages": []}, r"^sanity.stages: \[\]"),
        (
            "comparison",
            {"categories": "no.csv"},
            r"comparison.categories: there is no file 'no.csv",
        ),
        (
            "published",
            [{"name": "object-net", "format": "clip-dissect", "path": "config.yaml"}],
            r"'object-net' is given twice",
        ),
        (
            "published",
            [{"name": "x", "format": "clip-dissect", "path": "a", "paths": {"l": "b"}}],
            r"^published\[0\]: give exactly one of path, paths",
        ),
        (
            "published",
            [{"name": "x", "format": "netdissect", "path": "config.yaml"}],
            r"^published\[0\] \(x\): netdissect is one file a layer; give paths",
        ),
        (
            "published",
            [{"name": "x", "format": "netdissect", "paths": {"fc": "gone.csv"}}],
            r"^published\[0\] \(x\).paths.fc: there is no file 'gone.csv'",
        ),
    ],
)
def test_each_mistake_is_named_with_key_and_value(default, key, value, said):
    with pytest.raises(ConsilienceError, match=re.compile(said, re.MULTILINE)) as caught:
        resolve_study(changed(default, key, value))
    assert all(len(line) < 400 for line in str(caught.value).splitlines())


def test_pictures_a_model_is_wrong_about_need_a_world_and_a_model_trained_on_it(default):
    wrong = changed(default, "pictures", [{"wrong": {"model": "object-net"}}])
    (source,) = resolve_study(wrong)["pictures"]
    assert source["wrong"] == {
        "model": "object-net",
        "pictures": 30,
        "candidates": 2000,
        "clutter": [0, 1, 2, 3, 4],
    }
    with pytest.raises(ConsilienceError, match=r"pictures\[0\].wrong: this study has no world"):
        resolve_study(changed(wrong, "world", None))
    given = {"name": "given", "architecture": "resnet18", "weights": "X", "cam_layer": "layer4"}
    said = r"wrong.model: 'given' is not trained on the world; it must be one of scene-net"
    wrong["pictures"][0]["wrong"]["model"] = "given"
    wrong["models"][0] = given
    with pytest.raises(ConsilienceError, match=said):
        resolve_study(wrong)


def test_a_folder_of_masks_is_sound(default, tmp_path):
    (tmp_path / "masks").mkdir()
    pictures = [{"folder": str(tmp_path), "masks": str(tmp_path / "masks")}]
    (source,) = resolve_study(changed(default, "pictures", pictures))["pictures"]
    assert source["masks"] == str(tmp_path / "masks")


def test_a_model_that_only_lime_explains_needs_no_layer(default):
    study = changed(default, "models.0.cam_layer", None)
    with pytest.raises(ConsilienceError, match=r"cam_layer: is missing"):
        resolve_study(study)
    study["acts"] |= {"cam": False}
    assert "grad-cam" in resolve_study(study)["sanity"]["methods"]  # and is not checked


def test_weights_come_from_one_place_or_from_a_function(default):
    model = {"name": "net", "classes": ["a"], "transform": {"crop": 8}, "cam_layer": "conv"}
    study = changed(default, "models", [model | {"architecture": "nets:make"}])
    study["acts"] = study["acts"] | {"dissect": False}
    (found,) = resolve_study(study)["models"]
    assert (found["arguments"], found["precision"], found["pool"]) == ({}, "float32", "mean")
    study["models"] = [model | {"architecture": "resnet18"}]
    said = "give exactly one of train, weights, checkpoint; it has none"
    with pytest.raises(ConsilienceError, match=said):
        resolve_study(study)
    study["models"] = [model | {"architecture": "nets:make", "weights": "IMAGENET1K_V1"}]
    with pytest.raises(ConsilienceError, match=r"weights: is for classifiers of torchvision"):
        resolve_study(study)


def test_all_mistakes_are_said_at_once(default):
    config = changed(changed(default, "seed", "x"), "acts.cam", 1)
    with pytest.raises(ConsilienceError) as caught:
        resolve_study(config)
    assert len(str(caught.value).splitlines()) == 2


def test_a_key_given_twice_is_an_error(tmp_path, default):
    path = tmp_path / "study.yaml"
    path.write_text("seed: 1\nlime:\n  num_samples: 10\n  num_samples: 20\n")
    with pytest.raises(ConsilienceError, match=r"study.yaml, line 4: key 'num_samples' is given"):
        resolve_study(default, [path])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: [1", "study.yaml, line"),
        (b"- 1\n", "must be a mapping"),
        (b"a: \xff\n", "not UTF-8"),
        (b"a:\n\t- 1\n", "study.yaml, line 2"),
    ],
)
def test_broken_yaml_is_said_with_its_place(tmp_path, content, said):
    path = tmp_path / "study.yaml"
    path.write_bytes(content)
    with pytest.raises(ConsilienceError, match=said):
        read_yaml(path)


def test_the_command_says_what_is_wrong_with_a_study(tmp_path, default, capsys):
    assert main([]) == 0
    assert "study 'default': nothing wrong with it" in capsys.readouterr().out
    path = tmp_path / "study.yaml"
    for text, said in (
        ("lime:\n\tseed: 1\n", f"{path}, line 2: found character"),
        ("study: mine\nsed: 1\n", "unknown key 'sed'; did you mean 'seed'?"),
        (f"comparison: {{categories: {path}}}\n", f"{path}, line 1: there is no column 'word'"),
    ):
        path.write_text(text)
        assert main([str(path)]) == 1
        assert said in capsys.readouterr().err


def test_an_anchor_is_merged_wherever_it_is_written_first(tmp_path):
    """What is merged into a mapping does not count as given twice, in whatever order it is made."""
    path = tmp_path / "study.yaml"
    path.write_text(
        "x: {y: &a {<<: &b {k: 0, l: 0}, k: 1}}\nz: {<<: *a, k: 2}\nb: {<<: [*b, *a]}\n"
    )
    read = read_yaml(path)
    assert read["x"]["y"] == {"k": 1, "l": 0}
    assert read["z"] == {"k": 2, "l": 0}
    path.write_text("x: {y: &a {<<: &b {k: 0}, k: 1, k: 2}}\nz: {<<: *a}\n")
    with pytest.raises(ConsilienceError, match=r"line 1: key 'k' is given twice"):
        read_yaml(path)


def test_the_photographs_study_inherits_nothing_of_the_world(default, tmp_path):
    """Merged as Snakemake merges: mappings key by key, lists whole."""
    from snakemake.utils import update_config

    update_config(default, read_yaml("studies/photographs.yaml"))
    default["pictures"] = [{"folder": str(tmp_path)}]
    study = resolve_study(default)
    assert study["world"] is None
    assert study["clip"] is None
    assert [model["name"] for model in study["models"]] == ["resnet50"]
    # "world" may be said only as a key that is null.
    assert "'world'" not in str({key: value for key, value in study.items() if key != "world"})


def test_a_study_of_published_descriptions_needs_no_model(default, tmp_path):
    from snakemake.utils import update_config

    update_config(default, read_yaml("studies/published.yaml"))
    for entry in default["published"]:
        path = tmp_path / f"{entry['name']}.csv"
        path.touch()
        if "path" in entry:
            entry["path"] = str(path)
        else:
            entry["paths"] = dict.fromkeys(entry["paths"], str(path))
    study = resolve_study(default)
    assert study["models"] == study["pictures"] == study["probe"] == []
    assert study["world"] is study["clip"] is study["concepts"] is None


def walk(schema, path=""):
    for key, sub in schema.get("properties", {}).items():
        yield f"{path}{key}", sub, key in schema.get("required", ())
        yield from walk(sub, f"{path}{key}.")
        if isinstance(sub.get("items"), dict):
            yield from walk(sub["items"], f"{path}{key}[].")


def test_every_key_of_the_schema_has_a_description_and_a_default():
    # Keys without which an alternative would not be that alternative have none.
    chosen = re.compile(r"world|wrong|folder|train|weights|checkpoint|path|paths|name|labels")
    for key, sub, required in walk(yaml.safe_load(SCHEMA.read_text())):
        assert sub.get("description"), f"{key} has no description"
        if not required and not chosen.fullmatch(key.split(".")[-1]):
            assert "default" in sub, f"{key} has no default"


def test_defaults_of_the_similarities_are_clip_dissects():
    """The schema states what the functions have as defaults, so that a study shows it."""
    schema = yaml.safe_load(SCHEMA.read_text())["properties"]["dissection"]
    for name, function in SIMILARITIES.items():
        stated = schema["properties"].get(name, {}).get("properties", {})
        own = {
            parameter.name: parameter.default
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind == parameter.KEYWORD_ONLY
        }
        assert {key: value["default"] for key, value in stated.items()} == own

"""The benchmark's studies: that they are sound, and that the smallest of them runs."""

import copy
import csv

import pytest
import yaml
from snakemake.utils import update_config

from conftest import REPOSITORY
from consilience import leaderboard, tables
from consilience.configuration import read_yaml, resolve_study
from consilience.errors import ConsilienceError
from test_workflow import results, snakemake

STUDIES = sorted(path.name for path in (REPOSITORY / "studies").glob("benchmark-*.yaml"))


def merged(name, monkeypatch):
    """A study merged over the default as Snakemake merges it."""
    monkeypatch.chdir(REPOSITORY)
    study = read_yaml("config.yaml")
    update_config(study, read_yaml(f"studies/{name}"))
    return study


@pytest.mark.parametrize("name", STUDIES)
def test_the_studies_are_sound(name, monkeypatch):
    study = resolve_study(merged(name, monkeypatch))
    assert study["study"] == name.removesuffix(".yaml")
    assert study["acts"]["report"]
    assert any(study["benchmark"].values())


def test_methods_are_judged_over_three_seeds_and_a_shortcut(monkeypatch):
    study = resolve_study(merged("benchmark-methods.yaml", monkeypatch))
    seeds = {}
    for model in study["models"]:
        seeds.setdefault(model["family"], []).append(model["train"]["seed"])
    assert {family: len(set(found)) for family, found in seeds.items()} == {
        "clean": 3,
        "shortcut": 3,
        "scene": 3,
    }
    shortcuts = {model["family"]: model["train"]["shortcut"] for model in study["models"]}
    assert shortcuts == {"clean": None, "shortcut": 0.95, "scene": None}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"benchmark": {"contrast": [{"object": "clean-9", "scene": "scene-1"}]}},
            r"^benchmark.contrast\[0\].object: 'clean-9' is not trained to tell objects; there is",
        ),
        (
            {"benchmark": {"contrast": [{"object": "clean-1", "scene": "clean-2"}]}},
            r"contrast\[0\].scene: 'clean-2' is not trained to tell scenes; there is scene-1, sce",
        ),
        ({"lime": {"repeats": 0}}, r"^benchmark.trust: needs acts.cam, acts.lime and lime.repeats"),
        ({"acts": {"agree": False}}, r"benchmark.contrast: acts.agree is false"),
        ({"pictures": [{"folder": "docs"}]}, r"benchmark.trust: needs pictures of the world, and"),
        (
            {"benchmark": {"neurons": {}}},
            r"^benchmark.neurons: acts.dissect is false; set it, or benchmark.neurons: null",
        ),
        ({"benchmark": {"audits": {}}}, r"unknown key 'benchmark.audits'; did you mean 'audit'"),
    ],
)
def test_what_the_benchmark_lacks_is_said(change, said, monkeypatch):
    study = merged("benchmark-methods.yaml", monkeypatch)
    update_config(study, change)
    with pytest.raises(ConsilienceError, match=said):
        resolve_study(study)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dissection": {"held_out": 0}}, r"asks which labels stand; set dissection.untrained"),
        ({"concepts": "config.yaml"}, r"needs concepts: world, and probe pictures of the world"),
        (
            {"benchmark": {"neurons": {"similarities": ["cosin"]}}},
            r"neurons.similarities\[0\]: 'cosin' is not known; known are soft-wpmi",
        ),
        (
            {"benchmark": {"neurons": {"beside": ["layer9"]}}},
            r"neurons.beside\[0\]: no model has 'layer9' among its dissect_layers; there are fc",
        ),
    ],
)
def test_what_dissection_lacks_for_the_benchmark_is_said(change, said, monkeypatch):
    study = merged("benchmark-neurons.yaml", monkeypatch)
    update_config(study, change)
    with pytest.raises(ConsilienceError, match=said):
        resolve_study(study)


def test_a_benchmark_without_a_world_is_refused(monkeypatch):
    study = merged("benchmark-audit.yaml", monkeypatch)
    study["world"] = None
    with pytest.raises(ConsilienceError, match=r"^benchmark: this study has no world"):
        resolve_study(study)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("seed", 1), r"'clean-2' and 'clean-1' have one train.seed; change one"),
        (("learning_rate", 0.1), r"'clean-2' and 'clean-1' differ in train.learning_rate; nets of"),
        (("shortcut", 0.5), r"models\[1\] \(clean-2\).family: .* differ in train.shortcut"),
    ],
)
def test_nets_of_one_family_differ_in_their_seed_only(change, said, monkeypatch):
    study = copy.deepcopy(merged("benchmark-methods.yaml", monkeypatch))
    study["models"][1]["train"][change[0]] = change[1]
    with pytest.raises(ConsilienceError, match=said):
        resolve_study(study)


MEASURE = '''"""A measure of a user's."""

from consilience import registry


@registry.localization("mean-inside")
def measure(values, inside):
    """Mean value inside the mask, over the greatest."""
    return values[inside].mean() / values.max()
'''


def run(folder, study):
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    snakemake(folder, "--cores", "2", studies=[path])


@pytest.mark.slow
def test_the_audit_runs_and_is_ranked(tmp_path):
    study = read_yaml(REPOSITORY / "studies/benchmark-audit.yaml") | {"study": "small"}
    study |= {"benchmark": {"audit": {"bases": 2}}, "faithfulness": {"steps": 2, "road": [0.5]}}
    (tmp_path / "mine.py").write_text(MEASURE)
    run(tmp_path, study | {"extensions": ["mine.py"]})
    rules = results(tmp_path, "audit_rules", tables.AUDIT_RULES, study="small")
    board = results(tmp_path, "leaderboard", tables.LEADERBOARD, study="small")
    keys = ("family", "metric", "fill", "reading")
    assert len(board) == len({tuple(row[key] for key in keys) for row in rules}) == 31
    # The user's own stands beside ours, and is found out: of Fake-CAM it says what it says of the
    # causal mask, since both are 1 wherever the object is.
    (mine,) = [row for row in board if row["entrant"] == "mean-inside, score"]
    assert mine["value"] < 1
    broken = [row for row in rules if row["metric"] == "mean-inside" and row["verdict"] != "right"]
    assert ("causal-mask", "fake-cam") in {(row["explanation"], row["other"]) for row in broken}
    with open(tmp_path / "results/small/tables/leaderboard.csv", newline="") as file:
        assert [row["entrant"] for row in csv.DictReader(file)] == [r["entrant"] for r in board]
    page = (tmp_path / "results/small/report.html").read_text()
    assert "Which metrics rank explanations rightly" in page


def make_whole(bases):
    """The miniature study with all that the benchmark has."""
    study = read_yaml(REPOSITORY / "tests/study.yaml")
    net, scenes = study["models"]
    stages = net["train"]["stages"]
    pictures = {"bases": bases, "clutter": [0, 4], "scenes": ["partner", "other"]}
    return study | {
        "pictures": [{"world": pictures}],
        "dissection": study["dissection"] | {"wpmi": {"a": "absent-words"}},
        "batches": 1,
        "cam": {"methods": ["grad-cam", "eigen-cam"]},
        "models": [
            net | {"name": "one", "family": "f", "train": {"target": "object", "stages": stages}},
            net
            | {"name": "two", "family": "f"}
            | {"train": {"target": "object", "stages": stages, "seed": 5}},
            net
            | {"name": "short", "dissect_layers": []}
            | {"train": {"target": "object", "stages": stages, "shortcut": 0.95}},
            scenes | {"explain": True, "cam_layer": "layer1"},
        ],
        "benchmark": {
            "audit": {"bases": 2},
            "neurons": {"bases": 3, "beside": ["layer4"]},
            "contrast": [{"object": "one", "scene": "scene-net"}],
            "trust": True,
        },
    }


@pytest.mark.slow
@pytest.mark.soak
def test_the_whole_benchmark_runs_in_miniature(tmp_path):
    run(tmp_path, make_whole(4) | {"acts": {"faithfulness": False, "sanity": False}})
    judged = results(tmp_path, "dissection_truth", tables.DISSECTION_TRUTH)
    assert {row["group"] for row in judged} == {"neurons", "single", "or", "random"}
    assert {row["similarity"] for row in judged} == {
        *("soft-wpmi", "wpmi", "rank-reorder", "cosine", "cosine-cubed")
    }
    causal = results(tmp_path, "causal", tables.CAUSAL)
    assert sum(row["layer"] == "layer4" for row in causal) == 3 * 512
    contrast = results(tmp_path, "contrast", tables.CONTRAST)
    assert len(contrast) == 16 * 3 * 4  # pictures, methods, metrics
    trust = results(tmp_path, "trust", tables.TRUST)
    assert len(trust) == 4 * 16 * 2  # nets, pictures, CAMs
    board = results(tmp_path, "leaderboard", tables.LEADERBOARD)
    assert {row["board"] for row in board} >= {leaderboard.SIMILARITIES, leaderboard.METRICS}
    assert max(row["seeds"] for row in board) == 2
    page = (tmp_path / "results/miniature/report.html").read_text()
    for text in ("When agreement may be trusted", "The same pictures, two nets", "Leaderboard"):
        assert text in page
    said = snakemake(tmp_path, "--cores", "2", studies=[tmp_path / "study.yaml"])
    assert "Nothing to be done" in said

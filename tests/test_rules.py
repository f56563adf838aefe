"""Every rule, as Snakemake itself understands it."""

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.utils import canonicalize_name

from conftest import REPOSITORY
from consilience import provenance

# By import name, the packages that bring it.
PACKAGES = {
    module: {canonicalize_name(package) for package in packages}
    for module, packages in metadata.packages_distributions().items()
}

# In a process of its own, since Snakemake parses a workflow into its process for good.
LIST_RULES = """
import json, re, sys
from pathlib import Path
from snakemake.api import SnakemakeApi
from snakemake.settings.types import ConfigSettings, ResourceSettings

snakefile, *studies = map(Path, sys.argv[1:])
with SnakemakeApi() as api:
    parsed = api.workflow(
        resource_settings=ResourceSettings(cores=1),
        config_settings=ConfigSettings(configfiles=studies),
        snakefile=snakefile,
        workdir=Path.cwd(),
    )
    rules = [
        {
            "name": rule.name,
            "script": rule.script and str(rule.script),
            "runs": not rule.norun,
            "log": [re.sub(r",[^{}]+}", "}", path) for path in map(str, rule.log)],
            "benchmark": rule.benchmark and re.sub(r",[^{}]+}", "}", str(rule.benchmark)),
            "conda": rule.conda_env and str(rule.conda_env),
            "message": rule.message,
        }
        for rule in parsed._workflow.rules
    ]
print(json.dumps(rules))
"""


def list_rules(folder, *studies):
    """The rules of a study, by name."""
    run = subprocess.run(
        [sys.executable, "-c", LIST_RULES, REPOSITORY / "Snakefile", *studies],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    return {rule["name"]: rule for rule in json.loads(run.stdout)}


@pytest.fixture(scope="module")
def rules(tmp_path_factory):
    """All rules: those of the default study with a model whose weights are fetched."""
    folder = tmp_path_factory.mktemp("rules")
    models = yaml.safe_load((REPOSITORY / "config.yaml").read_text())["models"]
    layer = {"dissect_layers": [], "cam_layer": "layer4"}
    models.append({"name": "more", "architecture": "resnet18", "weights": "IMAGENET1K_V1", **layer})
    (folder / "study.yaml").write_text(yaml.safe_dump({"models": models}))
    return list_rules(folder, folder / "study.yaml")


@pytest.fixture(scope="module")
def steps(rules):
    """The rules that run something, and do not only name what is wanted."""
    return {name: rule for name, rule in rules.items() if rule["runs"]}


def test_all_rules_are_seen(rules, steps):
    text = "".join(path.read_text() for path in (REPOSITORY / "rules").glob("*.smk"))
    named = set(re.findall(r"^ *(?:use rule \w+ as|rule) (\w+)", text, re.MULTILINE))
    assert len(named) > 30
    assert named <= set(rules)
    assert sum(name.startswith("fetch_") for name in rules) == 1
    assert set(rules) - set(steps) == {"all", "assets"}


def test_every_step_has_a_log_and_a_benchmark_named_after_it(steps):
    for name, rule in steps.items():
        (log,) = map(Path, rule["log"])
        benchmark = Path(rule["benchmark"])
        assert (log.parent.name, log.suffix) == ("logs", ".log"), name
        assert (benchmark.parent.name, benchmark.suffix) == ("benchmarks", ".tsv"), name
        assert log.stem == benchmark.stem, name
        # How much longer a run takes is told from the benchmarks, by the rule's name.
        if not name.startswith("fetch_"):
            assert re.fullmatch(rf"{name}(-{{\w+}})*", log.stem), name


def test_every_step_says_what_it_does(steps):
    for name, rule in steps.items():
        assert rule["message"], name
        assert rule["script"], name


def test_every_step_has_an_environment_but_what_fetches(steps):
    for name, rule in steps.items():
        if name.startswith("fetch_"):  # with an environment it would fetch again at every change
            assert rule["conda"] is None
        else:
            assert re.fullmatch(r"\.\./envs/\w+\.yaml", rule["conda"]), name


def packages_of(environment):
    """What a conda environment pins, by the packages' own names."""
    content = yaml.safe_load((REPOSITORY / "rules" / environment).read_text())
    (pins,) = (entry["pip"] for entry in content["dependencies"] if isinstance(entry, dict))
    return {pin.split("==")[0] for pin in pins}


def test_environments_have_what_the_steps_with_torch_import(steps):
    for name, rule in steps.items():
        if rule["conda"] and not rule["conda"].endswith("base.yaml"):
            script = REPOSITORY / "workflow/scripts" / Path(rule["script"]).name
            for module in provenance.dependencies(script)[1]:
                assert PACKAGES[module] & packages_of(rule["conda"]), f"{name} imports {module}"


IMPORT_ONLY = """
import importlib, sys

class Fence:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in fenced:
            raise ImportError(f"{name} is not in this environment")

fenced, modules = (argument.split(",") for argument in sys.argv[1:])
sys.meta_path.insert(0, Fence())
for module in modules:
    importlib.import_module(f"consilience.{module}")
"""


def test_the_environment_without_torch_has_what_its_steps_import(steps):
    # Modules may import torch within functions that these steps do not call; what the steps do
    # call is tried by `make soak`.
    mine = {rule["script"] for rule in steps.values() if str(rule["conda"]).endswith("base.yaml")}
    modules = set()
    for script in mine:
        text = (REPOSITORY / "workflow/scripts" / Path(script).name).read_text()
        modules |= set(
            re.search(r"^from consilience import (.+)$", text, re.MULTILINE)[1].split(", ")
        )
    assert len(mine) > 10
    pinned = packages_of("../envs/base.yaml")
    fenced = [module for module, packages in PACKAGES.items() if not packages & pinned]
    assert "torch" in fenced
    assert "numpy" not in fenced
    subprocess.run(
        [sys.executable, "-c", IMPORT_ONLY, ",".join(fenced), ",".join(sorted(modules))],
        cwd=REPOSITORY / "workflow",
        check=True,
    )


def test_the_catalogue_is_told_what_the_workflow_can(rules):
    told = yaml.safe_load((REPOSITORY / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    deployment = told["software-stack-deployment"]
    assert told["mandatory-flags"]["flags"] == []
    assert deployment["conda"] == any(rule["conda"] for rule in rules.values())
    assert deployment["report"] == (REPOSITORY / "workflow/report/captions").is_dir()
    assert not deployment["apptainer"]  # no rule names an image
    readme = (REPOSITORY / "README.md").read_text().lower()
    assert "snakemake" in readme
    assert "workflow" in readme

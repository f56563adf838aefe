"""The miniature study with `--sdm conda`, on a machine that has no conda.

A stand-in takes conda's place: an environment that it makes has links to those installed packages
that the environment's file pins, and no others. What conda and pip would do to get them is not
tried; that each step finds what it needs, and finds the library, is.
"""

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from conftest import REPOSITORY
from pin import collect_needs

pytestmark = pytest.mark.soak

CONDA = f"""#!{sys.executable}
import json, pathlib, sys
sys.path[:0] = {[str(REPOSITORY / name) for name in ("tests", "envs")]!r}
import test_conda

said = sys.argv[1:]
if said == ["--version"]:
    print("conda 25.1.0")
elif said == ["info", "--json"]:
    prefix = pathlib.Path(__file__).parent.parent
    print(json.dumps({{"conda_prefix": str(prefix), "platform": "linux-64"}}))
elif said[:2] == ["config", "--get"]:
    print(json.dumps({{"get": {{"channel_priority": "strict"}}}}))
elif said[:2] == ["env", "create"]:
    test_conda.make_environment(said[said.index("--file") + 1], said[said.index("--prefix") + 1])
elif said[:1] != ["clean"]:
    sys.exit(f"the stand-in for conda cannot {{said}}")
"""

ACTIVATE = 'export CONDA_PREFIX="$1" PATH="$1/bin:$PATH"\n'

# In an environment: Snakemake appends its own to the path, which would make up for a package that
# is missing, so what is there for other reasons than Snakemake's is fenced off. And each step says
# at its end which rule it was of and where it found the library.
SITE = """
import atexit, json, os, sys
from importlib.machinery import PathFinder

class Fenced(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] not in {fenced!r}:
            return super().find_spec(name, path, target)

def tell():
    step = getattr(sys.modules["__main__"], "snakemake", None)
    if step is not None:
        with open(os.path.join(sys.prefix, f"told-{{os.getpid()}}.json"), "w") as file:
            json.dump([step.rule, sys.modules["consilience"].__file__], file)

sys.meta_path[sys.meta_path.index(PathFinder)] = Fenced
atexit.register(tell)
"""


def make_environment(file, prefix):
    """Make what stands for a conda environment: links to what the file pins."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", prefix], check=True)
    (site,) = Path(prefix).glob("lib/python*/site-packages")
    (pins,) = (
        entry["pip"]
        for entry in yaml.safe_load(Path(file).read_text())["dependencies"]
        if isinstance(entry, dict)
    )
    pinned = {"snakemake", *collect_needs(["snakemake"])}
    for pin in map(Requirement, pins):
        if pin.marker is None or pin.marker.evaluate():
            pinned.add(canonicalize_name(pin.name))
            package = metadata.distribution(pin.name)
            assert pin.specifier.contains(package.version), f"{pin} is not what is installed"
            for top in {path.parts[0] for path in package.files} - {"..", "__pycache__"}:
                if not (site / top).exists():
                    (site / top).symlink_to(Path(package.locate_file(top)))
    fenced = {
        module
        for module, packages in metadata.packages_distributions().items()
        if not {canonicalize_name(package) for package in packages} & pinned
    }
    (site / "sitecustomize.py").write_text(SITE.format(fenced=fenced))


def test_every_step_finds_what_it_needs_in_its_own_environment(tmp_path):
    base, study = tmp_path / "conda", tmp_path / "study"
    (base / "bin").mkdir(parents=True)
    study.mkdir()
    (base / "bin/conda").write_text(CONDA)
    (base / "bin/conda").chmod(0o755)
    (base / "bin/activate").write_text(ACTIVATE)
    from test_benchmark import make_whole  # here: the stand-in has no library to import

    config = tmp_path / "study.yaml"
    config.write_text(yaml.safe_dump(make_whole(1)))
    run = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "--snakefile", REPOSITORY / "Snakefile"),
            *("--workflow-profile", REPOSITORY / "profiles/default", "--sdm", "conda"),
            *("--cores", "2", "--configfile", config),
        ],
        cwd=study,
        env={**os.environ, "PATH": f"{base / 'bin'}{os.pathsep}{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=3600,
    )
    assert run.returncode == 0, run.stdout[-5000:]
    told = [json.loads(path.read_text()) for path in study.glob(".snakemake/conda/*/told-*.json")]
    text = "".join(path.read_text() for path in (REPOSITORY / "rules").glob("*.smk"))
    named = set(re.findall(r"^ *(?:use rule \w+ as|rule) (\w+)", text, re.MULTILINE))
    # Not in this study: nothing is drawn for being wrong, LIME is given no parameters, and no file
    # is fetched.
    absent = {"select_wrong", "check_explain_params", "assets"}
    assert {rule for rule, _ in told} == named - absent
    library = str(REPOSITORY / "workflow/consilience/__init__.py")
    assert {found for _, found in told} == {library}

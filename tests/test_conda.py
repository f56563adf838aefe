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

from conftest import REPOSITORY

pytestmark = pytest.mark.soak

CONDA = f"""#!{sys.executable}
import json, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_conda

said = sys.argv[1:]
if said == ["--version"]:
    print("conda 25.1.0")
elif said == ["info", "--json"]:
    print(json.dumps({{"conda_prefix": {{prefix!r}}, "platform": "linux-64"}}))
elif said[:2] == ["config", "--get"]:
    print(json.dumps({{"get": {{"channel_priority": "strict"}}}}))
elif said[:2] == ["env", "create"]:
    test_conda.make_environment(said[said.index("--file") + 1], said[said.index("--prefix") + 1])
else:
    sys.exit(f"the stand-in for conda cannot {{said}}")
"""

ACTIVATE = 'export CONDA_PREFIX="$1" PATH="$1/bin:$PATH"\n'

# In an environment, says at the end of a step which modules came from elsewhere: Snakemake appends
# its own environment to the path, and would make up for a package that is missing.
WITNESS = """
import atexit, json, os, sys

def tell():
    other = {name for name, module in sys.modules.items()
             if "site-packages" in (getattr(module, "__file__", None) or "")
             and not module.__file__.startswith(sys.prefix)}
    ours = getattr(sys.modules.get("consilience"), "__file__", None)
    step = getattr(sys.modules["__main__"], "snakemake", None)
    if step is not None:
        with open(os.path.join(sys.prefix, f"told-{os.getpid()}.json"), "w") as file:
            json.dump({"rule": step.rule, "library": ours,
                       "elsewhere": sorted({name.partition(".")[0] for name in other})}, file)

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
    for pin in map(Requirement, pins):
        if pin.marker is None or pin.marker.evaluate():
            package = metadata.distribution(pin.name)
            assert pin.specifier.contains(package.version), f"{pin} is not what is installed"
            for top in {path.parts[0] for path in package.files} - {"..", "__pycache__"}:
                if not (site / top).exists():
                    (site / top).symlink_to(Path(package.locate_file(top)))
    (site / "sitecustomize.py").write_text(WITNESS)


def snakemakes_own():
    """What Snakemake itself loads into every script, from its own environment."""
    code = (
        "import sys, snakemake.logging, snakemake.iocontainers\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(said.stdout.split())


def test_every_step_finds_what_it_needs_in_its_own_environment(tmp_path):
    base, study = tmp_path / "conda", tmp_path / "study"
    (base / "bin").mkdir(parents=True)
    study.mkdir()
    (base / "bin/conda").write_text(CONDA.format(prefix=str(base)))
    (base / "bin/conda").chmod(0o755)
    (base / "bin/activate").write_text(ACTIVATE)
    run = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "--snakefile", REPOSITORY / "Snakefile"),
            *("--workflow-profile", REPOSITORY / "profiles/default", "--sdm", "conda"),
            *("--cores", "2", "--configfile", REPOSITORY / "tests/study.yaml"),
        ],
        cwd=study,
        env={**os.environ, "PATH": f"{base / 'bin'}{os.pathsep}{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1200,
    )
    assert run.returncode == 0, run.stdout[-5000:]
    told = [json.loads(path.read_text()) for path in study.glob(".snakemake/conda/*/told-*.json")]
    text = "".join(path.read_text() for path in (REPOSITORY / "rules").glob("*.smk"))
    named = set(re.findall(r"^(?:use rule \w+ as|rule) (\w+)", text, re.MULTILINE))
    # Not in this study: nothing is drawn for being wrong, and LIME is given no parameters.
    assert {step["rule"] for step in told} == named - {"select_wrong", "check_explain_params"}
    own = snakemakes_own()
    for step in told:
        assert step["library"] == str(REPOSITORY / "workflow/consilience/__init__.py"), step
        assert not set(step["elsewhere"]) - own, step

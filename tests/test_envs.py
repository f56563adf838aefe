"""The environments' files. Creating a conda environment is not tested: it needs conda."""

import re
import sys

import pytest
import yaml

from conftest import REPOSITORY
from pin import collect_needs, complete

ENVS = sorted((REPOSITORY / "envs").glob("*.yaml"))
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)(?: *; *([^\\]+))?", re.MULTILINE)


def pins_of(path):
    content = yaml.safe_load(path.read_text())
    (pins,) = (entry["pip"] for entry in content["dependencies"] if isinstance(entry, dict))
    return pins


def locked():
    """Versions in the lock by package; several where they depend on the Python version."""
    versions = {}
    for name, version, _ in PIN.findall((REPOSITORY / "envs/requirements.lock").read_text()):
        versions.setdefault(name, set()).add(version)
    return versions


@pytest.mark.parametrize("path", ENVS, ids=lambda path: path.stem)
def test_conda_environments_equal_the_lock(path):
    for pin in pins_of(path):
        name, version = pin.partition(" ;")[0].split("==")
        assert version in locked()[name], f"{path.name}: {pin} is not what the lock has"


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the environments have Python 3.11")
@pytest.mark.skipif(sys.platform != "linux", reason="what packages need depends on the system")
@pytest.mark.parametrize("path", ENVS, ids=lambda path: path.stem)
def test_conda_environments_pin_all_that_their_packages_need(path):
    text = path.read_text()
    assert complete(text) == text, "run .venv/bin/python envs/pin.py"


def test_what_packages_need_is_found_at_any_depth():
    needs = collect_needs(["lime"])
    assert {"scikit-learn", "threadpoolctl", "matplotlib", "cycler"} <= needs
    assert "lime" not in needs
    assert "pytest" not in needs  # what only extras need


@pytest.mark.parametrize("name", ["build.lock", "requirements.lock"])
def test_locks_pin_hashes_and_name_no_address(name):
    text = (REPOSITORY / "envs" / name).read_text()
    assert "://" not in text
    for block in re.split(r"\n(?=[A-Za-z])", text.strip()):
        assert "==" in block, block
        assert "--hash=sha256:" in block, block

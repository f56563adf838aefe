import re

import pytest
import yaml

from conftest import REPOSITORY

ENVS = sorted((REPOSITORY / "envs").glob("*.yaml"))
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)(?: *; *([^\\]+))?", re.MULTILINE)


def locked():
    """Versions in the lock by package; several where they depend on the Python version."""
    versions = {}
    for name, version, _ in PIN.findall((REPOSITORY / "envs/requirements.lock").read_text()):
        versions.setdefault(name, set()).add(version)
    return versions


@pytest.mark.parametrize("path", ENVS, ids=lambda path: path.stem)
def test_conda_environments_equal_the_lock(path):
    content = yaml.safe_load(path.read_text())
    (pins,) = (entry["pip"] for entry in content["dependencies"] if isinstance(entry, dict))
    for pin in pins:
        name, version = pin.split("==")
        assert version in locked()[name], f"{path.name}: {pin} is not what the lock has"


@pytest.mark.parametrize("name", ["build.lock", "requirements.lock"])
def test_locks_pin_hashes_and_name_no_address(name):
    text = (REPOSITORY / "envs" / name).read_text()
    assert "://" not in text
    for block in re.split(r"\n(?=[A-Za-z])", text.strip()):
        assert "==" in block, block
        assert "--hash=sha256:" in block, block


def test_every_rule_names_an_environment_that_exists():
    for rules in (REPOSITORY / "rules").glob("*.smk"):
        for found in re.findall(r'conda:\s+"\.\./envs/([a-z]+)\.yaml"', rules.read_text()):
            assert (REPOSITORY / "envs" / f"{found}.yaml") in ENVS

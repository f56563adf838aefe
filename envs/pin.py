"""Complete the conda environments: every package that theirs need, as the lock has it.

    .venv/bin/python envs/pin.py

after `make lock` and a fresh `make run` or `make test`. In each envs/*.yaml the packages above the
mark are chosen by hand; their versions, and all that stands below it, are written here. What a
package needs is read from what is installed.
"""

import re
from importlib import metadata
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).parent
MARK = "# What these need in turn; this, and all versions, by envs/pin.py."
_LOCKED = re.compile(r"^([a-z0-9.-]+)==(\S+)(?: ; (.+?))? *\\?$", re.MULTILINE)
_CHOSEN = re.compile(r"^( +)- ([A-Za-z0-9.-]+)==.*$", re.MULTILINE)


def read_lock() -> dict[str, str]:
    """Return the pin of each package that this machine and Python get, with its conditions."""
    pins = {}
    for name, version, marker in _LOCKED.findall((FOLDER / "requirements.lock").read_text()):
        if marker and not Marker(marker).evaluate():
            continue
        # Of versions for different Pythons an environment has one.
        of_python = re.fullmatch(r"python_full_version [<>=]+ '[0-9.]+'", marker)
        pins[name] = f"{name}=={version}" + (f" ; {marker}" if marker and not of_python else "")
    return pins


def collect_needs(names: list[str]) -> set[str]:
    """Return the packages that those named need, directly or not, without themselves."""
    found, waiting = set(), [(canonicalize_name(name), "") for name in names]
    while waiting:
        package, extra = waiting.pop()
        if (package, extra) in found:
            continue
        found.add((package, extra))
        for text in metadata.requires(package) or ():
            need = Requirement(text)
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(need.name), more) for more in ("", *need.extras)]
    return {package for package, _ in found} - {canonicalize_name(name) for name in names}


def complete(text: str) -> str:
    """Return an environment's file with the versions of the lock and with all that it needs."""
    pins = read_lock()
    chosen, _, _ = text.partition(MARK)
    chosen = _CHOSEN.sub(lambda found: f"{found[1]}- {pins[found[2]]}", chosen).rstrip()
    entries = _CHOSEN.findall(chosen)
    indent, needs = entries[0][0], sorted(collect_needs([name for _, name in entries]))
    lines = [f"{indent}{MARK}", *(f"{indent}- {pins[name]}" for name in needs)]
    return "\n".join([chosen, *(lines if needs else [])]) + "\n"


if __name__ == "__main__":
    for path in sorted(FOLDER.glob("*.yaml")):
        path.write_text(complete(path.read_text()))

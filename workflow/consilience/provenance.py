"""Say exactly what code a step depends on, so that it reruns when that changes and only then."""

from __future__ import annotations

import ast
import csv
import hashlib
import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path

from . import __version__
from .errors import ConsilienceError
from .files import write_if_changed

LIBRARY = Path(__file__).parent

# Import names that differ from the names of the packages that bring them.
_PACKAGES = {
    "PIL": "pillow",
    "clip": "clip-anytorch",
    "cv2": "opencv-python-headless",
    "pytorch_grad_cam": "grad-cam",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}

# Imports that compute with packages which our code need not name.
_COMPUTES_WITH = {
    "clip": ("torch", "torchvision", "ftfy", "regex"),
    "lime": ("numpy", "scipy", "skimage", "sklearn"),
    "pytorch_grad_cam": ("cv2", "numpy", "scipy", "sklearn", "torch"),
    "torchvision": ("PIL", "torch"),
}


# What files hold, by the SHA-256 of their text: a digest of their code without comments and
# docstrings, the modules of ours and the packages that they import.
_known: dict[str, tuple[str, list[str], list[str]]] = {}
_asked: set[str] = set()


def read_known(path: str | Path) -> None:
    """Read what an earlier process found in files of code, to be spared parsing them again.

    A file that cannot be read, or that another version of this module wrote, is as none.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if content["by"] == hash_file(__file__):
            _known.update(content["known"])
    except (OSError, ValueError, KeyError, TypeError):
        return


def write_known(path: str | Path) -> None:
    """Write what is to be read by :func:`read_known`, of files that are still there."""
    known = {key: _known[key] for key in sorted(_asked & set(_known))}
    text = json.dumps({"by": hash_file(__file__), "known": known}) + "\n"
    with suppress(OSError, ConsilienceError):
        write_if_changed(Path(path), text)


@cache
def _parse(path: Path) -> tuple[str, list[str], list[str]]:
    """Return a digest of a module's code, the modules of ours and the packages it imports."""
    data = path.read_bytes()
    key = hashlib.sha256(data).hexdigest()
    _asked.add(key)
    if key not in _known:
        tree = ast.parse(data)
        modules, packages = _find_imports(tree)
        text = hashlib.sha256(_dump(tree).encode()).hexdigest()
        _known[key] = text, sorted(modules), sorted(packages)
    return _known[key]


def _find_imports(tree: ast.Module) -> tuple[set[str], set[str]]:
    """Return the names that a module imports from our library, and packages."""
    modules, packages = set(), set()
    for node in _find_statements(tree, checked=False):
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level == 0 and base.split(".")[0] != LIBRARY.name:
                packages.add(base.split(".")[0])
                continue
            inner = base.removeprefix(LIBRARY.name).strip(".")
            if inner:
                modules.add(inner.split(".")[0])
            else:  # `from . import a` or `from consilience import a`
                modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            packages.update(alias.name.split(".")[0] for alias in node.names)
    for name in tuple(packages):
        packages.update(_COMPUTES_WITH.get(name, ()))
    return modules, packages


def _find_statements(tree: ast.Module, checked: bool) -> list[ast.AST]:
    """Return a module and its statements at every depth, a small part of all its nodes.

    What only a type checker reads is among them if ``checked``.
    """
    found, waiting = [], [tree]
    while waiting:
        node = waiting.pop()
        found.append(node)
        test = getattr(node, "test", None)
        if not checked and isinstance(test, ast.Name) and test.id == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        for part in ("body", "orelse", "finalbody", "handlers", "cases"):
            waiting += getattr(node, part, ())
    return found


def _dump(tree: ast.Module) -> str:
    """Write a module's code out without comments, docstrings and layout; the tree is changed."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in _find_statements(tree, checked=True):
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False):
            node.body = node.body[1:]
    return repr(_plain(tree))


def _plain(node):
    """Return a node as tuples and lists, as ``ast.dump`` does, but the same by every Python: each
    new one has fields that older code leaves empty."""
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, ast.AST):
        return node
    kind = type(node)
    plain = [kind.__name__]
    for name in kind._fields:
        value = getattr(node, name, None)
        if kind is ast.Constant or (value is not None and value != []):
            plain.append((name, _plain(value)))
    return tuple(plain)


@cache
def package_version(name: str) -> str | None:
    """Return the installed version of the package that brings the import ``name``.

    None for the standard library and what is not installed.
    """
    try:
        return metadata.version(_PACKAGES.get(name, name))
    except metadata.PackageNotFoundError:
        return None


def dependencies(script: str | Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return what a script runs: digests of code by file name, and versions by package.

    The library modules that it imports, directly or not, wherever the import stands in the file.
    """
    code, seen, packages = {}, {Path(script)}, set()
    waiting = [Path(script)]
    while waiting:
        path = waiting.pop()
        text, modules, imported = _parse(path)
        code[path.name if path.parent == LIBRARY else f"scripts/{path.name}"] = text
        packages.update(imported)
        new = {LIBRARY / f"{module}.py" for module in modules} - seen
        seen |= new
        waiting += (path for path in new if path.is_file())
    versions = {name: version for name in packages if (version := package_version(name))}
    return dict(sorted(code.items())), dict(sorted(versions.items()))


def digest(script: str | Path, files: Sequence[str | Path] = ()) -> str:
    """Return a digest of all that :func:`dependencies` finds.

    Comments, docstrings and layout do not count, nor where the checkout lies.

    Parameters
    ----------
    script
        The script.
    files
        What else of the workflow's own the script reads: counts by name and content.
    """
    code, versions = dependencies(script)
    read = sorted((Path(path).name, hash_file(path)) for path in files)
    return hashlib.sha256(repr((code, versions, read)).encode()).hexdigest()[:16]


def digest_module(name: str, folder: str | Path = ".") -> str:
    """Return a digest of a module of the user's and of all that it imports from ``folder``.

    As :func:`digest` does for ours: comments do not count, versions of packages do, and so do
    modules of ours that it imports. Nothing is imported. Files that the code reads are not seen.

    Parameters
    ----------
    name
        Such as ``mypackage.models``.
    folder
        Where the user's modules lie. A module that is not there counts by its package's version.
    """
    folder = Path(folder)
    code, waiting, seen, packages = {}, [name], set(), set()
    while waiting:
        dotted = waiting.pop()
        if dotted in seen:
            continue
        seen.add(dotted)
        parts = dotted.split(".")
        if parts[0] == LIBRARY.name:  # ours, which a method of the user's may build on
            for ours in (LIBRARY / f"{part}.py" for part in parts[1:2]):
                if ours.is_file():
                    texts, versions = dependencies(ours)
                    code |= {f"{LIBRARY.name}/{name}": text for name, text in texts.items()}
                    packages |= set(versions)
            continue
        place = folder.joinpath(*parts)
        places = (place.with_suffix(".py"), place / "__init__.py")
        path = next((path for path in places if path.is_file()), None)
        if len(parts) > 1:  # importing a module runs the packages that it lies in
            waiting.append(".".join(parts[:-1]))
        if path is None:
            # The last part may be a name in its package, which is on the list already.
            if not folder.joinpath(parts[0]).is_dir():
                packages.add(parts[0])
            continue
        key = path.relative_to(folder).as_posix()
        data = path.read_bytes()
        try:
            tree = ast.parse(data)
        except (SyntaxError, ValueError):  # the check will say so
            code[key] = repr(data)
            continue
        package = parts if path.name == "__init__.py" else parts[:-1]
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) + 1 - node.level] if node.level else []
                base = base + (node.module.split(".") if node.module else [])
                waiting += [".".join([*base, alias.name]) for alias in node.names]
        code[key] = _dump(tree)
    versions = {package: package_version(package) for package in packages}
    found = sorted(code.items()), sorted(versions.items())
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16]


# What a reader of a report needs to run the study again.
_REPORTED = (
    "numpy",
    "scipy",
    "PIL",
    "pyarrow",
    "torch",
    "torchvision",
    "clip",
    "pytorch_grad_cam",
    "lime",
    "skimage",
    "sklearn",
    "matplotlib",
    "typst",
    "snakemake",
)


def reported_versions() -> dict[str, str]:
    """Return the versions that the results rest on, by package, with ours and Python's."""
    versions = {"consilience": __version__, "python": platform.python_version()}
    for name in _REPORTED:
        if version := package_version(name):
            versions[_PACKAGES.get(name, name)] = version
    return versions


def read_times(folder: str | Path, listed: str | Path | None = None) -> list[dict]:
    """Add up what Snakemake's benchmark files say of each kind of step.

    Parameters
    ----------
    folder
        Of the files ``<rule>-<wildcards>.tsv``. One that cannot be read is passed over: what a step
        took changes no result. So are the page's own, which are not done when they are asked.
    listed
        A text file with the paths of those that count, a line each; others are of steps that the
        study had under other settings. All count where there is no such file.

    Returns
    -------
    list of dict
        By kind of step, what took longest first: ``step``, ``jobs``, ``seconds`` and
        ``cpu_seconds`` of all of them together, ``memory_mb`` of the largest. None for what is not
        known.
    """
    found: dict[str, list[dict]] = {}
    paths = sorted(Path(folder).glob("*.tsv"))
    if listed and Path(listed).is_file():
        own = {Path(line).name for line in Path(listed).read_text("utf-8").splitlines()}
        paths = [path for path in paths if path.name in own]
    for path in paths:
        try:
            with open(path, newline="", encoding="utf-8") as file:
                row = next(csv.DictReader(file, delimiter="\t"))
            values = {key: _number(row.get(key)) for key in ("s", "cpu_time", "max_rss")}
        except (OSError, UnicodeDecodeError, csv.Error, StopIteration):
            continue
        step = path.stem.partition("-")[0]
        if values["s"] is not None and step not in ("write_report", "print_report"):
            found.setdefault(step.replace("_", " "), []).append(values)
    rows = [
        {
            "step": step,
            "jobs": len(values),
            "seconds": sum(one["s"] for one in values),
            "cpu_seconds": _total(one["cpu_time"] for one in values),
            "memory_mb": max((one["max_rss"] or 0 for one in values), default=0) or None,
        }
        for step, values in found.items()
    ]
    return sorted(rows, key=lambda row: (-row["seconds"], row["step"]))


def _number(text: str | None) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):  # of jobs too short to be measured it says NA or -
        return None
    return value if math.isfinite(value) else None


def _total(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def hash_pictures(rows: Iterable[Mapping]) -> str:
    """Return a SHA-256 of rows of the table ``PICTURES``: of every picture's name and own SHA-256,
    in the order of their names, as ``sha256sum`` writes them."""
    lines = sorted(f"{row['sha256']}  {row['name']}\n" for row in rows)
    lines.sort(key=lambda line: line[66:])
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def hash_file(path: str | Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits, without holding it in memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

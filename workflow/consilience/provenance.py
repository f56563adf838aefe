"""Say exactly what code a step depends on, so that it reruns when that changes and only then."""

from __future__ import annotations

import ast
import hashlib
import platform
from functools import cache
from importlib import metadata
from pathlib import Path

from . import __version__

LIBRARY = Path(__file__).parent

# Import names that differ from the names of the packages that bring them.
_PACKAGES = {
    "PIL": "pillow",
    "clip": "clip-anytorch",
    "pytorch_grad_cam": "grad-cam",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


@cache
def _parse(path: Path) -> tuple[str, frozenset[str], frozenset[str]]:
    """Return a module's code without comments and docstrings, its own imports, and packages."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules, packages = set(), set()
    for node in ast.walk(tree):
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
    own = frozenset(name for name in modules if (LIBRARY / f"{name}.py").is_file())
    return _dump(tree), own, frozenset(packages)


def _dump(tree: ast.Module) -> str:
    """Write a module's code out without comments, docstrings and layout; the tree is changed."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(tree):
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False):
            node.body = node.body[1:]
    return ast.dump(tree)


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
    """Return what a script runs: code by file name, and versions by package.

    The library modules that it imports, directly or not, wherever the import stands in the file.
    """
    script = Path(script)
    code, waiting, packages = {}, [script], set()
    while waiting:
        path = waiting.pop()
        text, modules, imported = _parse(path)
        code[path.name] = text
        packages |= imported
        for module in modules:
            if f"{module}.py" not in code:
                waiting.append(LIBRARY / f"{module}.py")
    versions = {name: version for name in packages if (version := package_version(name))}
    return dict(sorted(code.items())), dict(sorted(versions.items()))


def digest(script: str | Path) -> str:
    """Return a digest of all that :func:`dependencies` finds.

    Comments, docstrings and layout do not count, nor where the checkout lies.
    """
    code, versions = dependencies(script)
    return hashlib.sha256(repr((code, versions)).encode()).hexdigest()[:16]


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
    "snakemake",
)


def reported_versions() -> dict[str, str]:
    """Return the versions that the results rest on, by package, with ours and Python's."""
    versions = {"consilience": __version__, "python": platform.python_version()}
    for name in _REPORTED:
        if version := package_version(name):
            versions[_PACKAGES.get(name, name)] = version
    return versions


def hash_file(path: str | Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits, without holding it in memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Files of the user's that register methods and measures: what they register, without running them.

The main process must know the names before it plans any job, and must not import what the files
import (PyTorch takes seconds). So names are read from the files' syntax, and a file is run by the
steps that use what it registers, and by the check (:func:`consilience.registry.load`).
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import ConsilienceError
from .provenance import digest_module
from .registry import KINDS, NAME, module_of

_REGISTRY = "consilience.registry"


@dataclass(frozen=True)
class Entry:
    """What a file registers.

    Attributes
    ----------
    kind
        A key of :data:`consilience.registry.KINDS`.
    name
        As the study names it.
    path
        The file, as the study gives it.
    line
        Where it is registered.
    settings
        Keyword-only parameters of the function: a similarity's settings.
    about
        The first paragraph of its docstring, in one line; empty where there is none.
    """

    kind: str
    name: str
    path: str
    line: int
    settings: tuple[str, ...] = ()
    about: str = ""


def find_entries(paths: Sequence[str], folder: str | Path = ".") -> list[Entry]:
    """Find what files register, without running them.

    Only what decorates a function or class at the top of a file counts, with the name written out.

    Parameters
    ----------
    paths
        As the study's ``extensions`` gives them, relative to ``folder``.
    folder
        The directory that Snakemake runs in.

    Raises
    ------
    ConsilienceError
        If a file is missing, lies elsewhere, cannot be imported under its name, is not Python or
        registers nothing, or a name is taken or not well formed: names the file and the line.
    """
    entries: list[Entry] = []
    for index, path in enumerate(paths):
        where = f"extensions[{index}]"
        _check_path(where, path, Path(folder))
        try:
            tree = ast.parse(Path(folder, path).read_bytes(), filename=path)
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None)
            place = f"{path}, line {line}" if line else path
            said = getattr(error, "msg", None) or error
            raise ConsilienceError(f"{where}: {place}: not Python ({said})") from None
        found = list(_read_entries(tree, path))
        if not found:
            raise ConsilienceError(
                f"{where}: {path} registers nothing; decorate a function in it with "
                f"`@registry.cam('its-name')` or another of {', '.join(KINDS)}"
            )
        for entry in found:
            same = (one for one in entries if (one.kind, one.name) == (entry.kind, entry.name))
            if other := next(same, None):
                raise ConsilienceError(
                    f"{entry.path}, line {entry.line}: the {KINDS[entry.kind]} {entry.name!r} is "
                    f"registered in {other.path}, line {other.line}, too; rename one"
                )
            entries.append(entry)
    return entries


def _check_path(where: str, path: str, folder: Path) -> None:
    """Refuse what cannot be imported from the folder as a module of its own name."""
    parts = Path(path).with_suffix("").parts
    if Path(path).is_absolute() or ".." in parts:
        raise ConsilienceError(
            f"{where}: {path!r} must be a path below the directory that Snakemake runs in, such as "
            "my_methods.py; put the file there"
        )
    if not path.endswith(".py") or not all(part.isidentifier() for part in parts):
        raise ConsilienceError(
            f"{where}: {path!r} cannot be imported; it must be a file like my_methods.py or "
            "my_package/methods.py, of letters, digits and underscores"
        )
    if not (folder / path).is_file():
        raise ConsilienceError(
            f"{where}: there is no file {path!r}; put it there or change the path"
        )


def _read_entries(tree: ast.Module, path: str) -> Iterable[Entry]:
    aliases = _find_aliases(tree)
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        for decorator in node.decorator_list:
            call = decorator.func if isinstance(decorator, ast.Call) else decorator
            name = _dotted(call, aliases)
            if not name.startswith(f"{_REGISTRY}."):
                continue
            kind = name.removeprefix(f"{_REGISTRY}.")
            where = f"{path}, line {decorator.lineno}"
            if kind not in KINDS:
                close = difflib.get_close_matches(kind, KINDS, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(KINDS)}"
                raise ConsilienceError(f"{where}: nothing is registered by {kind!r}; {hint}")
            given = decorator.args[:1] if isinstance(decorator, ast.Call) else []
            text = given[0].value if given and isinstance(given[0], ast.Constant) else None
            if not isinstance(text, str):
                raise ConsilienceError(
                    f"{where}: write the name out, as in @registry.{kind}('its-name'): it is read "
                    "without running the file"
                )
            if not NAME.fullmatch(text) or text == "lime":
                raise ConsilienceError(
                    f"{where}: {text!r} cannot be a name; take small letters, digits, dots and "
                    "plus signs, with single hyphens between them, and not lime"
                )
            settings = ()
            if isinstance(node, ast.FunctionDef):
                settings = tuple(argument.arg for argument in node.args.kwonlyargs)
            about = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
            yield Entry(kind, text, path, decorator.lineno, settings, about)


def _find_aliases(tree: ast.Module) -> dict[str, str]:
    """Return what the names that a file imports stand for, in full."""
    aliases = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    aliases[alias.asname] = alias.name
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return aliases


def _dotted(node: ast.expr, aliases: Mapping[str, str]) -> str:
    """Write ``registry.cam`` in full; nothing where it is no such name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([aliases.get(node.id, node.id), *parts])


def select(
    entries: Iterable[Entry], wanted: Iterable[tuple[str, str]], folder: str | Path = "."
) -> list[dict]:
    """Say which files must be loaded for what a step uses, and what they depend on.

    Parameters
    ----------
    entries
        As :func:`find_entries` gives them.
    wanted
        Kinds and names; those of the library's own are passed over.
    folder
        The directory that Snakemake runs in.

    Returns
    -------
    list of dict
        A file each, in the order of the entries, for :func:`consilience.registry.load`: ``path``;
        ``registers``, the wanted kinds and names; and ``code``, a digest of the file and all that
        it imports, so that a step whose parameter this is reruns when that changes.
    """
    wanted, files = set(wanted), {}
    for entry in entries:
        if (entry.kind, entry.name) in wanted:
            files.setdefault(entry.path, []).append([entry.kind, entry.name])
    return [
        {
            "path": path,
            "registers": registers,
            "code": digest_module(module_of(path), folder),
        }
        for path, registers in files.items()
    ]

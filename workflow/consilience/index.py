"""List the pictures of a folder and deal them into batches, before any job runs.

Membership and content are written to one small file a batch, and only when they change, so that
a workflow that goes by modification times redoes exactly the batches that must be redone.
"""

from __future__ import annotations

import csv
import fnmatch
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .errors import ConsilienceError
from .files import write_if_changed
from .images import batch_of, hash_bytes


def read_labels(path: str | Path) -> dict[str, str]:
    """Read a CSV file with the columns ``name`` and ``label``.

    Raises
    ------
    ConsilienceError
        If the file cannot be read, lacks a column, or labels a picture twice.
    """
    labels: dict[str, str] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if missing := {"name", "label"} - set(reader.fieldnames or ()):
                raise ConsilienceError(f"{path}: has no column {' or '.join(sorted(missing))}")
            for row in reader:
                if row["name"] in labels:
                    raise ConsilienceError(f"{path}: {row['name']!r} is labelled twice")
                labels[row["name"]] = row["label"]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConsilienceError(f"{path}: labels cannot be read ({error})") from None
    return labels


def list_pictures(folder: str | Path, include: Sequence[str]) -> list[str]:
    """Return the pictures below ``folder``, sorted, as paths relative to it.

    A file counts if its relative path or its name matches one of the patterns ``include``
    (case is ignored). Hidden files and folders are left out; links to folders are not followed.
    """
    found = []
    patterns = [pattern.lower() for pattern in include]
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(parent, name).relative_to(folder).as_posix()
            if not name.startswith(".") and any(
                fnmatch.fnmatchcase(text.lower(), pattern)
                for pattern in patterns
                for text in (path, name)
            ):
                found.append(path)
    return sorted(found)


def _below(names: Iterable[str], folder: Path, inner: Path) -> set[str]:
    """Return those of the names, paths relative to ``folder``, that lie below ``inner``."""
    folder, inner = folder.resolve(), inner.resolve()
    return {name for name in names if inner in (folder / name).parents}


def _stem(name: str) -> str:
    """Return a relative path without its suffix."""
    return Path(name).with_suffix("").as_posix()


def find_masks(folder: str | Path, names: Iterable[str]) -> dict[str, Path]:
    """Return the mask of each picture that has one, by the picture's name.

    Parameters
    ----------
    folder
        Of masks: PNG files with the pictures' relative paths but for the suffix.
    names
        Relative paths of the pictures.

    Raises
    ------
    ConsilienceError
        If the folder holds no mask, or one that belongs to no picture: names the first.
    """
    masks = {_stem(name): name for name in list_pictures(folder, ["*.png"])}
    if not masks:
        raise ConsilienceError(
            f"{folder}: holds no mask; put PNG files there, or set masks to null"
        )
    found = {name: Path(folder, masks[_stem(name)]) for name in names if _stem(name) in masks}
    if stray := sorted(set(masks) - {_stem(name) for name in found}):
        raise ConsilienceError(
            f"{Path(folder, masks[stray[0]])}: is the mask of no picture; name it like its picture "
            "but for the suffix, or remove it"
        )
    return found


def _hash_file(path: Path, known: Mapping[str, Sequence]) -> tuple[int, int, str]:
    """Return size, modification time (ns) and SHA-256; the last from ``known`` if those match."""
    try:
        status = path.stat()
        before = known.get(str(path))
        if before and before[:2] == [status.st_size, status.st_mtime_ns]:
            return status.st_size, status.st_mtime_ns, before[2]
        return status.st_size, status.st_mtime_ns, hash_bytes(path.read_bytes())
    except OSError as error:
        raise ConsilienceError(f"{path}: cannot be read ({error.strerror})") from None


def read_json(path: Path) -> dict:
    """Read what is only kept to save work: an object of JSON, empty if there is none to be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_index(sources: Iterable[Mapping], batches: int, target: str | Path) -> list[Path]:
    """Index folders of pictures into ``target``/0.json … , one file a batch.

    Parameters
    ----------
    sources
        Entries of a study's ``pictures`` or ``probe``; those without ``folder`` are passed over.
    batches
        Number of batches; a picture's depends on its relative path alone.
    target
        Folder of the lists. Beside them ``seen.json`` keeps size, time and hash of each file, so
        that a file is read again only when its size or time has changed.

    Returns
    -------
    list of pathlib.Path
        The lists, by batch. Each holds entries of name, path, sha256, label and, where the picture
        has one, mask (its path and sha256), sorted by name. A folder of masks within the folder of
        pictures holds no pictures.

    Raises
    ------
    ConsilienceError
        If a folder holds no picture that matches, two folders hold one name, or a label or mask
        has no picture.
    """
    target = Path(target)
    seen_file = target / "seen.json"
    known = read_json(seen_file)
    seen: dict[str, list] = {}
    entries: dict[str, dict] = {}

    def hash_of(path: Path) -> str:
        seen[str(path)] = list(_hash_file(path, known))
        return seen[str(path)][2]

    for source in sources:
        if "folder" not in source:
            continue
        folder, include = Path(source["folder"]), source["include"]
        names = list_pictures(folder, include)
        masks: dict[str, Path] = {}
        if source.get("masks"):
            inner = _below(names, folder, Path(source["masks"]))
            names = [name for name in names if name not in inner]
        if not names:
            raise ConsilienceError(f"{folder}: holds no picture that matches {', '.join(include)}")
        if source.get("masks"):
            masks = find_masks(source["masks"], names)
        labels = read_labels(source["labels"]) if source.get("labels") else {}
        if stray := sorted(set(labels) - set(names)):
            raise ConsilienceError(f"{source['labels']}: {stray[0]!r} is not in {folder}")
        for name in names:
            if name in entries:
                raise ConsilienceError(f"{folder}: {name!r} is also in another folder; rename one")
            entries[name] = {
                "name": name,
                "path": str(folder / name),
                "sha256": hash_of(folder / name),
                "label": labels.get(name),
            }
            if name in masks:
                mask = masks[name]
                entries[name]["mask"] = {"path": str(mask), "sha256": hash_of(mask)}
    lists = []
    for batch in range(batches):
        chosen = [entries[name] for name in sorted(entries) if batch_of(name, batches) == batch]
        lists.append(target / f"{batch}.json")
        write_if_changed(lists[-1], json.dumps(chosen, indent=1, ensure_ascii=True) + "\n")
    write_if_changed(seen_file, json.dumps(seen, sort_keys=True))
    return lists


def group_layers(layers: Sequence[str], known: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Deal a model's layers into groups, each of which takes one pass over the pictures.

    Layers that come to a study later form a group of their own, so that what is there already
    stays as it is. At first there is one group.

    Parameters
    ----------
    layers
        The layers that the study names now.
    known
        The groups so far: names of layers by the group's number.

    Returns
    -------
    dict of str to list of str
        The known groups, also those of which the study names no layer any more, and a new one
        where there are layers in none.
    """
    groups = {number: list(group) for number, group in known.items()}
    dealt = {layer for group in groups.values() for layer in group}
    if new := [layer for layer in layers if layer not in dealt]:
        groups[str(len(groups))] = new
    return groups


def read_index(path: str | Path) -> list[dict]:
    """Read one list that :func:`write_index` wrote."""
    return json.loads(Path(path).read_text(encoding="utf-8"))

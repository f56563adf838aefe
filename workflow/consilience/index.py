"""List the pictures of a folder and deal them into batches, before any job runs.

Membership and content are written to one small file a batch, and only when they change, so that
a workflow that goes by modification times redoes exactly the batches that must be redone.
"""

from __future__ import annotations

import difflib
import fnmatch
import json
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .csv_files import read_sheet
from .errors import ConsilienceError, printable, shown
from .files import LARGEST_PICTURE, find_fault, read_file, write_if_changed
from .images import batch_of, describe_files, hash_bytes, refuse_unusable
from .progress import track


def read_labels(path: str | Path) -> dict[str, str]:
    """Read a CSV file with the columns ``name`` and ``label``; space around a label is cut off.

    Raises
    ------
    ConsilienceError
        If the file cannot be read, lacks a column or all rows, a line lacks a value, or labels a
        picture twice: names the file and the line.
    """
    labels: dict[str, str] = {}
    for where, row in read_sheet(path, ("name", "label")):
        name, label = row["name"], row["label"].strip()
        if not name or not label:
            raise ConsilienceError(f"{where}: the {'label' if name else 'name'} is empty")
        if name in labels:
            raise ConsilienceError(f"{where}: {shown(name)} is labelled twice; keep one")
        labels[name] = label
    return labels


def list_pictures(folder: str | Path, include: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """List the pictures below ``folder``, as paths relative to it.

    A file counts if its relative path or its name matches one of the patterns ``include``
    (case is ignored). Hidden files and folders are left out; links to folders are not followed.
    Nothing is opened.

    Returns
    -------
    names
        Of the pictures, sorted.
    faults
        By name why what matches is no file that can be read (a named pipe, a link that leads
        nowhere, a name that is not UTF-8), or why a folder was not looked into.

    Raises
    ------
    ConsilienceError
        If the folder itself cannot be listed.
    """
    names, faults = [], {}
    patterns = [pattern.lower() for pattern in include]
    waiting = [""]
    while waiting:  # not os.walk: it passes over folders that cannot be listed
        inner = waiting.pop()
        try:
            with os.scandir(os.path.join(folder, inner)) as found:
                entries = [entry for entry in found if not entry.name.startswith(".")]
        except OSError as error:
            if not inner:
                raise ConsilienceError(
                    f"{printable(folder)}: cannot be listed ({error.strerror})"
                ) from None
            faults[_utf8(inner)] = f"cannot be listed ({error.strerror})"
            continue
        for entry in entries:
            path = f"{inner}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                waiting.append(f"{path}/")
            elif entry.is_symlink() and os.path.isdir(entry.path):
                faults[f"{_utf8(path)}/"] = (
                    "is a link to a folder, which is not followed; name the folder itself in "
                    "the study"
                )
            elif any(
                fnmatch.fnmatchcase(text.lower(), pattern)
                for pattern in patterns
                for text in (path, entry.name)
            ):
                fault = find_fault(entry.path, LARGEST_PICTURE)
                if path != _utf8(path):
                    fault = "has a name that is not UTF-8; rename it"
                if fault:
                    faults[_utf8(path)] = fault
                else:
                    names.append(path)
    return sorted(names), faults


def _utf8(path: str) -> str:
    """Return a path with the bytes escaped that are not UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _label(path: str | Path, names: Sequence[str]) -> dict[str, str]:
    """Read the labels of pictures, and hold their names against those that are there.

    A name may be spelled with letters and accents apart, as macOS does it, or in one.
    """
    labels, known = read_labels(path), set(names)
    composed = {unicodedata.normalize("NFC", name): name for name in names}
    found: dict[str, str] = {}
    for given, label in labels.items():
        name = given if given in known else composed.get(unicodedata.normalize("NFC", given))
        if name is None:
            close = difflib.get_close_matches(given[:300], names, n=1, cutoff=0.8)
            hint = f"did you mean {close[0]!r}?" if close else "name it as its path below it"
            raise ConsilienceError(
                f"{printable(path)}: {shown(given)} is not in the folder of pictures; {hint}"
            )
        if name in found:
            raise ConsilienceError(f"{printable(path)}: {shown(given)} is labelled twice; keep one")
        found[name] = label
    return found


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
        If the folder holds no mask, one that cannot be read or belongs to no picture, or one that
        two pictures share: names the first.
    """
    listed, faults = list_pictures(folder, ["*.png"])
    for name, fault in sorted(faults.items()):
        raise ConsilienceError(f"{printable(Path(folder, name))}: {fault}")
    if not listed:
        raise ConsilienceError(
            f"{printable(folder)}: holds no mask; put PNG files there, or set masks to null"
        )
    masks = _by_stem(listed, folder, "are masks of one picture; keep one")
    pictures = _by_stem(
        [name for name in names if _stem(name) in masks], folder, "share a mask; rename one"
    )
    if stray := sorted(set(masks) - set(pictures)):
        raise ConsilienceError(
            f"{printable(Path(folder, masks[stray[0]]))}: is the mask of no picture; name it like "
            "its picture but for the suffix, or remove it"
        )
    return {name: Path(folder, masks[stem]) for stem, name in pictures.items()}


def _by_stem(names: Iterable[str], folder: str | Path, said: str) -> dict[str, str]:
    """Return names by what they are without their suffixes, or say which two are one then."""
    found: dict[str, str] = {}
    for name in names:
        if (other := found.setdefault(_stem(name), name)) != name:
            raise ConsilienceError(f"{printable(folder)}: {other!r} and {name!r} {said}")
    return found


def _hash_file(path: Path, known: Mapping[str, Sequence]) -> tuple[int, int, str]:
    """Return size, modification time (ns) and SHA-256; the last from ``known`` if those match."""
    try:
        status = path.stat()
    except OSError as error:
        raise ConsilienceError(f"{printable(path)}: cannot be read ({error.strerror})") from None
    before = known.get(str(path))
    # What may not be read now is not taken for what it was, or it would fail in the middle.
    if before and before[:2] == [status.st_size, status.st_mtime_ns] and os.access(path, os.R_OK):
        return status.st_size, status.st_mtime_ns, before[2]
    return status.st_size, status.st_mtime_ns, hash_bytes(read_file(path, LARGEST_PICTURE))


def read_json(path: Path) -> dict:
    """Read what is only kept to save work: an object of JSON, empty if there is none to be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_index(
    sources: Iterable[Mapping], batches: int, target: str | Path, on_bad: str = "skip"
) -> list[Path]:
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
    on_bad
        ``skip`` lists what cannot be read with the reason; ``stop`` raises. Whether a file that
        can be read is a picture is not looked at here.

    Returns
    -------
    list of pathlib.Path
        The lists, by batch. Each holds entries of name, path, sha256, label and, where the picture
        has one, mask (its path and sha256), sorted by name; of what cannot be read ``error`` says
        why, and sha256 is None. A folder of masks within the folder of pictures holds no pictures.

    Raises
    ------
    ConsilienceError
        If a folder holds no picture that matches and can be read, two folders hold one name, or a
        label or mask has no picture.
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
        names, faults = list_pictures(folder, include)
        if source.get("masks"):
            inner = _below([*names, *faults], folder, Path(source["masks"]))
            names = [name for name in names if name not in inner]
            faults = {name: fault for name, fault in faults.items() if name not in inner}
        masks = find_masks(source["masks"], [*names, *faults]) if source.get("masks") else {}
        labels = _label(source["labels"], [*names, *faults]) if source.get("labels") else {}
        own = {}
        for name in track([*names, *faults], f"pictures of {printable(folder)}"):
            own[name] = {
                "name": name,
                "path": str(folder / name),
                "sha256": None,
                "label": labels.get(name),
            }
            try:
                if name in faults:
                    raise ConsilienceError(f"{printable(name)}: {faults[name]}")
                own[name]["sha256"] = hash_of(folder / name)
            except ConsilienceError as error:
                own[name] |= {"path": _utf8(own[name]["path"]), "error": str(error)}
            if name in masks:
                mask = masks[name]
                own[name]["mask"] = {"path": str(mask), "sha256": hash_of(mask)}
        if both := sorted(set(own) & set(entries)):
            raise ConsilienceError(
                f"{printable(folder)}: {both[0]!r} is also in another folder; rename one"
            )
        entries |= own
        bad = [entry["error"] for entry in own.values() if "error" in entry]
        if not own:
            raise ConsilienceError(
                f"{printable(folder)}: holds no picture that matches {', '.join(include)}"
            )
        if len(bad) == len(own):
            raise ConsilienceError(
                f"{printable(folder)}: holds no picture that can be read; the first: {bad[0]}"
            )
        if bad and on_bad == "stop":
            refuse_unusable(list(own.values()))
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


def check_usable(rows: Sequence[Mapping], others: Iterable[str | Path]) -> None:
    """Stop a study none of whose pictures can be used.

    Parameters
    ----------
    rows
        Rows of ``PICTURES`` of one batch.
    others
        The lists of the other batches. They are looked at only if no picture of this one can be
        used, and no further than to the first that can.

    Raises
    ------
    ConsilienceError
        If there are pictures and none of them can be used: says why the first cannot.
    """
    if not rows or any(not row.get("error") for row in rows):
        return
    count = len(rows)
    for path in others:
        for entry in read_index(path):
            (row,) = describe_files([entry])
            if not row.get("error"):
                return
            count += 1
    raise ConsilienceError(
        f"none of the {count} pictures can be used; the first: {rows[0]['error']}"
    )

"""List the pictures of a folder and deal them into batches, before any job runs.

Membership and content are written to one small file a batch, and only when they change, so that
a workflow that goes by modification times redoes exactly the batches that must be redone.
"""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import json
import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from .csv_files import read_rows
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
    for where, row in read_rows(path, ("name", "label")):
        name, label = row["name"], row["label"].strip()
        if not name or not label:
            raise ConsilienceError(f"{where}: the {'label' if name else 'name'} is empty")
        if name in labels:
            raise ConsilienceError(f"{where}: {shown(name)} is labelled twice; keep one")
        labels[name] = label
    return labels


class _State(NamedTuple):
    """What tells whether a file must be looked at again."""

    size: int
    time: int  # of its last change, ns
    access: tuple[int, int, int]  # mode, owner and group


class _Picture(NamedTuple):
    """A picture of a folder, or what would be one."""

    folder: str
    label: str | None
    state: _State | None  # None where it is known to be no file that can be read
    fault: str | None
    mask: tuple[str, _State] | None


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
    states, faults = _find_pictures(folder, include)
    return sorted(states), faults


def _find_pictures(
    folder: str | Path, include: Sequence[str]
) -> tuple[dict[str, _State], dict[str, str]]:
    """List pictures as :func:`list_pictures` does, with their states. There may be millions."""
    states: dict[str, _State] = {}
    faults: dict[str, str] = {}
    match = re.compile("|".join(fnmatch.translate(pattern.lower()) for pattern in include)).match
    accesses: dict[tuple, tuple] = {}
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
            elif match(path.lower()) or (inner and match(entry.name.lower())):
                if not path.isascii() and path != _utf8(path):
                    faults[_utf8(path)] = "has a name that is not UTF-8; rename it"
                    continue
                try:
                    found = entry.stat()
                except OSError:
                    found = None
                if found and stat.S_ISREG(found.st_mode) and found.st_size <= LARGEST_PICTURE:
                    access = found.st_mode, found.st_uid, found.st_gid
                    access = accesses.setdefault(access, access)  # one for millions of files
                    states[path] = _State(found.st_size, found.st_mtime_ns, access)
                elif fault := find_fault(entry.path, LARGEST_PICTURE):
                    faults[path] = fault
    return states, faults


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

    What was listed before is not listed again: ``seen.json`` there holds, for each batch, a
    fingerprint of its files' names, sizes, times and the like. Only batches that differ in it are
    listed anew, and of these only files are read whose size or time has changed (``*.seen``).

    Parameters
    ----------
    sources
        Entries of a study's ``pictures`` or ``probe``; those without ``folder`` are passed over.
    batches
        Number of batches; a picture's depends on its relative path alone.
    target
        Folder of the lists.
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
    pictures: dict[str, _Picture] = {}
    folders = [source for source in sources if "folder" in source]
    for source in folders:
        own = _look_into(source)
        if both := sorted(set(own) & set(pictures)):
            raise ConsilienceError(
                f"{printable(source['folder'])}: {both[0]!r} is also in another folder; rename one"
            )
        pictures |= own
    dealt: list[list[str]] = [[] for _ in range(batches)]
    for name in pictures:
        dealt[batch_of(name, batches)].append(name)
    before = read_json(target / "seen.json").get("batches")
    before = before if isinstance(before, list) else []
    now, changed = [], {}
    for batch, names in enumerate(dealt):
        names.sort()
        now.append({"files": _fingerprint(names, pictures), "list": _state_of_list(target, batch)})
        known = before[batch] if batch < len(before) else None
        bad = known.get("bad") if isinstance(known, dict) else None
        if isinstance(bad, list) and now[-1] | {"bad": bad} == known:
            now[-1] = known
        else:
            changed[batch] = names
    # Where their number has changed, files are in other batches than they were read for.
    seen_before = [target / f"{batch}.seen" for batch in changed]
    known = _read_known(seen_before if len(before) == batches else sorted(target.glob("*.seen")))
    lists, seen = _describe(changed, pictures, known)
    for batch, entries in lists.items():
        now[batch]["bad"] = [entry for entry in entries if "error" in entry]
    _refuse_bad(folders, pictures, [entry for each in now for entry in each["bad"]], on_bad)
    for batch, entries in lists.items():
        text = json.dumps(entries, indent=1, ensure_ascii=True) + "\n"
        write_if_changed(target / f"{batch}.json", text)
        write_if_changed(target / f"{batch}.seen", json.dumps(seen[batch], sort_keys=True))
        now[batch]["list"] = _state_of_list(target, batch)
    # Last, so that what is not written is done again.
    write_if_changed(target / "seen.json", json.dumps({"batches": now}, indent=1))
    return [target / f"{batch}.json" for batch in range(batches)]


def _look_into(source: Mapping) -> dict[str, _Picture]:
    """Return the pictures of a source of a study, by name, with their labels and masks."""
    folder, include = Path(source["folder"]), source["include"]
    states, faults = _find_pictures(folder, include)
    if source.get("masks"):
        inner = _below([*states, *faults], folder, Path(source["masks"]))
        states = {name: state for name, state in states.items() if name not in inner}
        faults = {name: fault for name, fault in faults.items() if name not in inner}
    names = sorted(states) + list(faults) if source.get("masks") or source.get("labels") else []
    masks = find_masks(source["masks"], names) if source.get("masks") else {}
    labels = _label(source["labels"], names) if source.get("labels") else {}
    if not states and not faults:
        raise ConsilienceError(
            f"{printable(folder)}: holds no picture that matches {', '.join(include)}"
        )

    def describe(name: str, state: _State | None, fault: str | None) -> _Picture:
        mask = (str(masks[name]), _state_of(masks[name])) if name in masks else None
        return _Picture(str(folder), labels.get(name), state, fault, mask)

    found = {name: describe(name, None, fault) for name, fault in faults.items()}
    for name, state in states.items():
        found[name] = describe(name, state, None)
    return found


def _state_of(path: str | Path) -> _State:
    try:
        found = os.stat(path)
    except OSError as error:
        raise ConsilienceError(f"{printable(path)}: cannot be read ({error.strerror})") from None
    access = found.st_mode, found.st_uid, found.st_gid
    return _State(found.st_size, found.st_mtime_ns, access)


def _fingerprint(names: Iterable[str], pictures: Mapping[str, _Picture]) -> str:
    """Return a digest of all that a batch's list is made from, but for the files' content."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(repr((name, tuple(pictures[name]))).encode())
    return digest.hexdigest()[:32]


def _state_of_list(target: Path, batch: int) -> list[int] | None:
    """Return size and time (ns) of a list, so that one which something else wrote is noticed."""
    try:
        found = os.stat(target / f"{batch}.json")
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def _read_known(paths: Iterable[Path]) -> dict[str, list]:
    """Return size, time (ns) and SHA-256 of files, by path, as they were when last read."""
    known = {}
    for path in paths:
        known |= read_json(path)
    return known


def _describe(
    batches: Mapping[int, Sequence[str]],
    pictures: Mapping[str, _Picture],
    known: Mapping[str, Sequence],
) -> tuple[dict[int, list[dict]], dict[int, dict[str, list]]]:
    """Return the entries of batches, and what was seen of their files."""
    lists, seen = {}, {}

    def hash_of(path: str, state: _State, batch: int) -> str:
        size, time, _ = state
        before = known.get(path)
        # What may not be read now is not taken for what it was, or it would fail in the middle.
        if before and before[:2] == [size, time] and os.access(path, os.R_OK):
            sha256 = before[2]
        else:
            sha256 = hash_bytes(read_file(path, LARGEST_PICTURE))
        seen[batch][path] = [size, time, sha256]
        return sha256

    count = sum(map(len, batches.values()))
    work = ((batch, name) for batch, names in batches.items() for name in names)
    for batch in batches:
        lists[batch], seen[batch] = [], {}
    for batch, name in track(work, "pictures", count):
        picture = pictures[name]
        path = str(Path(picture.folder, name))
        entry = {"name": name, "path": path, "sha256": None, "label": picture.label}
        try:
            if picture.fault:
                raise ConsilienceError(f"{printable(name)}: {picture.fault}")
            entry["sha256"] = hash_of(path, picture.state, batch)
        except ConsilienceError as error:
            entry |= {"path": _utf8(path), "error": str(error)}
        if picture.mask:
            mask, state = picture.mask
            entry["mask"] = {"path": mask, "sha256": hash_of(mask, state, batch)}
        lists[batch].append(entry)
    return lists, seen


def _refuse_bad(
    sources: Iterable[Mapping],
    pictures: Mapping[str, _Picture],
    bad: Sequence[Mapping],
    on_bad: str,
) -> None:
    """Stop where none of a folder's pictures can be read, or where any bad one is to stop it."""
    if not bad:
        return
    for source in sources:
        folder = str(Path(source["folder"]))
        own = [entry for entry in bad if pictures[entry["name"]].folder == folder]
        if own and len(own) == sum(picture.folder == folder for picture in pictures.values()):
            raise ConsilienceError(
                f"{printable(folder)}: holds no picture that can be read; the first: "
                f"{own[0]['error']}"
            )
        if own and on_bad == "stop":
            refuse_unusable(own)


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

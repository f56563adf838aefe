"""Files that are whole or not there, also where the disk is full."""

import os
import stat
import subprocess
from pathlib import Path

import numpy as np
import pytest

from consilience import files, tables
from consilience.errors import ConsilienceError


def contents(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def fail_halfway(part):
    with open(part, "w") as file:
        file.write("half of it")
    raise KeyboardInterrupt


def test_an_atomic_write_leaves_nothing_behind_when_it_fails(tmp_path):
    path = tmp_path / "table"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(path, fail_halfway)
    assert contents(tmp_path) == {"table": "before"}


def test_an_atomic_write_replaces_the_file_and_heeds_the_umask(tmp_path):
    path = tmp_path / "new" / "table"
    old = os.umask(0o027)
    try:
        for text in ("one", "two"):
            files.write_atomically(path, lambda part, text=text: Path(part).write_text(text))
    finally:
        os.umask(old)
    assert contents(tmp_path) == {"new/table": "two"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_folder_is_replaced_whole_or_left(tmp_path):
    folder = tmp_path / "cards"
    files.fill_folder(folder, lambda part: (part / "1.png").write_text("one"))
    with pytest.raises(KeyboardInterrupt):
        files.fill_folder(folder, lambda part: fail_halfway(part / "2.png"))
    assert contents(tmp_path) == {"cards/1.png": "one"}
    old = os.umask(0o027)
    try:
        files.fill_folder(folder, lambda part: (part / "2.png").write_text("two"))
    finally:
        os.umask(old)
    assert contents(tmp_path) == {"cards/2.png": "two"}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    for name in (".part-a.npz-x.npz", "deep/.part-cards-y/1.png", "deep/part-b", "deep/.lock"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    assert len(files.remove_temporary(tmp_path)) == 2
    assert sorted(contents(tmp_path)) == ["deep/.lock", "deep/part-b"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB with 200 kB left; skips where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no file system can be mounted ({error})")
    if done.returncode:
        pytest.skip(f"no file system can be mounted ({done.stderr.strip()})")
    try:
        (folder / "other").write_bytes(bytes(800_000))
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def write_bytes(path):
    files.write_atomically(path, lambda part: Path(part).write_bytes(bytes(400_000)))


def write_arrays(path):
    tables.write_arrays({"a": np.zeros(400_000, np.uint8)}, path)


def write_table(path):
    values = np.random.default_rng(0).random(100_000, np.float32)
    tables.write_table([{"key": "a", "values": values}], path, tables.EMBEDDINGS)


def write_folder(path):
    files.fill_folder(path, lambda part: write_bytes(part / "1.png"))


@pytest.mark.parametrize("write", [write_bytes, write_arrays, write_table, write_folder])
def test_a_full_disk_is_named_and_loses_nothing(small_disk, write):
    path = small_disk / "result"
    if write is write_folder:
        path.mkdir()
        path = path / "before"
    path.write_text("before")
    before = contents(small_disk)
    with pytest.raises(ConsilienceError, match=r": cannot be written, no space is left"):
        write(small_disk / "result")
    assert contents(small_disk) == before
    files.write_atomically(small_disk / "small", lambda part: Path(part).write_text("fits"))

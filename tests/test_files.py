"""Files: read strictly, and whole or not there, also where the disk is full."""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import REPOSITORY
from consilience import files, tables
from consilience.errors import ConsilienceError


def test_a_file_is_read_whole(tmp_path):
    path = tmp_path / "a b's.txt"
    path.write_bytes(b"\x00\xff")
    assert files.read_file(path) == b"\x00\xff"
    (tmp_path / "link").symlink_to(path)
    assert files.read_file(tmp_path / "link") == b"\x00\xff"


def make(folder, kind):
    path = folder / "x.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        # The path of a socket must be short.
        with socket.socket(socket.AF_UNIX) as server:
            here = os.open(folder, os.O_RDONLY)
            server.bind(f"/proc/self/fd/{here}/x.png")
            os.close(here)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(folder / "y.png")
        (folder / "y.png").symlink_to(path)
    elif kind == "nowhere":
        path.symlink_to(folder / "gone")
    return path


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("pipe", "is a named pipe, not a file"),
        ("socket", "is a socket, not a file"),
        ("device", "is a device, not a file"),
        ("folder", "is a folder, not a file"),
        ("loop", r"is a link that leads nowhere \(Too many levels"),
        ("nowhere", r"is a link that leads nowhere \(No such file"),
        ("nothing", r"cannot be read \(No such file"),
    ],
)
def test_what_is_no_file_is_not_opened(tmp_path, kind, said):
    path = make(tmp_path, kind)
    with pytest.raises(ConsilienceError, match=rf"x\.png: {said}"):
        files.read_file(path)


def test_what_is_exchanged_for_a_pipe_does_not_wait(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "x.png")
    monkeypatch.setattr(files, "find_fault", lambda path, largest=None: None)
    with pytest.raises(ConsilienceError, match=r"x\.png: is not a file any more"):
        files.read_file(tmp_path / "x.png")


def test_what_is_too_large_is_not_read(tmp_path):
    with open(tmp_path / "x", "wb") as file:
        file.truncate(10**11)  # takes no room
    with pytest.raises(ConsilienceError, match=r"x: has 100,000 MB; at most 1,074 MB are read"):
        files.read_file(tmp_path / "x", files.LARGEST_PICTURE)


def test_a_path_with_a_null_character_is_an_error(tmp_path):
    with pytest.raises(ConsilienceError, match=r"cannot be read \(embedded null byte\)"):
        files.read_file(f"{tmp_path}/a\0b")


def test_text_names_the_line_that_is_none(tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes(b"\xef\xbb\xbfa\r\nb")
    assert files.read_text(path) == "a\r\nb"
    path.write_bytes(b"a\ncaf\xe9\n")
    with pytest.raises(ConsilienceError, match=r"t\.txt, line 2: not UTF-8 text \(byte 5\)"):
        files.read_text(path)
    path.write_bytes("a\nb".encode("utf-16"))
    with pytest.raises(ConsilienceError, match=r"t\.txt, line 1: not UTF-8 text"):
        files.read_text(path)


def test_a_folder_is_made_or_named(tmp_path):
    files.make_folder(tmp_path / "a/b")
    assert stat.S_ISDIR((tmp_path / "a/b").stat().st_mode)
    files.make_folder(tmp_path / "a/b")
    (tmp_path / "file").touch()
    with pytest.raises(ConsilienceError, match=r"file/b: results cannot be written there \(Not"):
        files.make_folder(tmp_path / "file/b")


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


def test_a_writer_that_is_killed_leaves_what_was_there(tmp_path):
    path = tmp_path / "table"
    path.write_text("before")
    write = "lambda part: (open(part, 'w').write('half'), os.kill(os.getpid(), 9))"
    code = (
        f"import os; from consilience import files; files.write_atomically({str(path)!r}, {write})"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "workflow")}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == -9
    assert path.read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 2
    files.remove_temporary(tmp_path)
    assert contents(tmp_path) == {"table": "before"}

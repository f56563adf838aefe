import os
import socket
import stat

import pytest

from consilience import files
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

"""Files of others: which a study needs, and fetching them from a server that behaves badly."""

import email.utils
import hashlib
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torchvision
import yaml

from conftest import REPOSITORY
from consilience import assets, clip_encoder, configuration
from consilience.assets import Asset, Source, fetch_asset
from consilience.errors import ConsilienceError
from test_workflow import snakemake

DATA = bytes(range(256)) * 3000  # 768 kB
OTHER = DATA[::-1]
SHA = hashlib.sha256(DATA).hexdigest()
TAG = '"one"'
OWN = Source()


class Answer:
    """What the server does with one request.

    Parameters
    ----------
    data
        The whole file.
    status
        Anything but 200 is sent without a body.
    cut
        Bytes of the body after which the connection is cut.
    claimed
        The Content-Length, if not the true one; None sends none.
    ranges
        Whether it sends parts.
    """

    def __init__(
        self,
        data=DATA,
        status=200,
        cut=None,
        claimed=True,
        ranges=True,
        tag=TAG,
        headers=(),
        start=None,
        wait=None,
    ):
        self.data, self.status, self.cut, self.claimed = data, status, cut, claimed
        self.ranges, self.tag, self.headers, self.start = ranges, tag, headers, start
        self.wait = wait

    def give(self, handler):
        if self.wait:
            self.wait.wait(10)
        body, status, headers = self.data, self.status, list(self.headers)
        if status != 200:
            body = b""
        elif self.ranges and handler.headers["Range"] and handler.headers["If-Range"] == self.tag:
            begin = int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            begin = begin if self.start is None else self.start
            status, body = 206, self.data[begin:]
            headers.append(
                ("Content-Range", f"bytes {begin}-{len(self.data) - 1}/{len(self.data)}")
            )
        handler.send_response(status)
        if self.tag:
            headers.append(("ETag", self.tag))
        if self.claimed is not None:
            length = len(body) if self.claimed is True else self.claimed
            headers.append(("Content-Length", str(length)))
        for name, value in headers:
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body[: self.cut])
        handler.close_connection = True


@contextmanager
def serve(*answers):
    """A server that gives its answers one after another, and the last one from then on."""
    seen, left = [], list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append((self.path, dict(self.headers)))
            answer = left.pop(0) if len(left) > 1 else left[0]
            answer.give(self)

        def log_message(self, *args):
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request, address):  # of those who hang up
            pass

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/files/data.bin", seen
    finally:
        for answer in answers:
            if answer.wait:
                answer.wait.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def fetch(tmp_path):
    """Fetch an asset from an address: what was logged."""

    def run(address, source=OWN, timeout=5, tries=3, **pins):
        lines = []
        pins = {"sha256": SHA, "size": len(DATA), "what": "a file"} | pins
        asset = Asset(path=str(tmp_path / "in/data.bin"), address=address, **pins)
        fetch_asset(asset, lines.append, source, timeout=timeout, tries=tries, wait=0.001)
        return lines

    run.path = tmp_path / "in/data.bin"
    run.part = tmp_path / "in/.data.bin.part"
    return run


def refused(fetch, said, *arguments, **options):
    with pytest.raises(ConsilienceError, match=said) as error:
        fetch(*arguments, **options)
    assert "\n" not in str(error.value)
    assert not fetch.path.exists()
    return str(error.value)


def test_a_file_arrives_whole_and_is_not_asked_for_again(fetch):
    with serve(Answer()) as (address, seen):
        lines = fetch(address)
        assert fetch(address) == ["data.bin: is there"]
    assert fetch.path.read_bytes() == DATA
    assert len(seen) == 1
    assert "Range" not in seen[0][1]
    assert seen[0][1]["Accept-Encoding"] == "identity"
    assert lines[0] == f"data.bin: 768.0 kB from {address}"
    assert "data.bin: 768.0 kB of 768.0 kB" in lines
    assert sorted(path.name for path in fetch.path.parent.iterdir()) == [
        ".data.bin.json",
        "data.bin",
    ]


def test_a_cut_connection_goes_on_where_it_was(fetch):
    with serve(Answer(cut=300_000), Answer(cut=100_000), Answer()) as (address, seen):
        lines = fetch(address)
    assert fetch.path.read_bytes() == DATA
    assert [headers.get("Range") for _, headers in seen] == [None, "bytes=300000-", "bytes=400000-"]
    assert {headers.get("If-Range") for _, headers in seen} == {None, TAG}
    assert any("the connection ended after 300.0 kB of 768.0 kB" in line for line in lines)
    assert any("goes on after 400.0 kB" in line for line in lines)


def test_a_later_run_goes_on_too(fetch):
    with serve(Answer(cut=500_000), Answer(status=404)) as (address, _):
        refused(fetch, "404 Not Found: it has no such file", address)
        assert fetch.part.stat().st_size == 500_000
    with serve(Answer()) as (other, seen):  # elsewhere it starts anew
        fetch(other)
    assert "Range" not in seen[0][1]
    assert fetch.path.read_bytes() == DATA
    assert not fetch.part.exists()


def test_what_is_known_of_a_part_survives_the_process(fetch):
    with serve(Answer(cut=500_000), Answer(status=404), Answer()) as (address, seen):
        refused(fetch, "404", address)
        fetch(address)
    assert seen[2][1]["Range"] == "bytes=500000-"
    assert fetch.path.read_bytes() == DATA


@pytest.mark.parametrize("tag", [None, 'W/"weak"'])
def test_without_a_strong_validator_it_starts_anew(fetch, tag):
    with serve(Answer(cut=1000, tag=tag), Answer(tag=tag)) as (address, seen):
        fetch(address)
    assert "Range" not in seen[1][1]
    assert fetch.path.read_bytes() == DATA


@pytest.mark.parametrize(
    "second",
    [
        Answer(ranges=False),  # the whole file
        Answer(tag='"two"'),  # another file
        Answer(start=7),  # the part of another place
    ],
)
def test_a_server_that_does_not_go_on_is_asked_for_the_whole(fetch, second):
    with serve(Answer(cut=1000), second, Answer()) as (address, _):
        fetch(address)
    assert fetch.path.read_bytes() == DATA


def test_a_file_that_changed_halfway_is_not_joined_with_the_first(fetch):
    with serve(Answer(OTHER, cut=1000, tag='"old"'), Answer()) as (address, seen):
        fetch(address, sha256="", megabytes=0.768, size=None)
    assert seen[1][1]["If-Range"] == '"old"'
    assert fetch.path.read_bytes() == DATA


def test_a_part_longer_than_the_file_is_thrown_away(fetch):
    with serve(Answer(cut=1000), Answer(status=404), Answer(status=416), Answer()) as (address, _):
        refused(fetch, "404", address)
        fetch(address)
    assert fetch.path.read_bytes() == DATA


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_passing_error_is_tried_again(fetch, status):
    with serve(Answer(status=status), Answer(status=status), Answer()) as (address, seen):
        lines = fetch(address)
    assert len(seen) == 3
    assert fetch.path.read_bytes() == DATA
    assert any(f"{status} " in line and "again in" in line for line in lines)
    with serve(Answer(status=status)) as (address, seen):
        fetch.path.unlink()
        refused(fetch, rf"{status} .*\(3 tries\)", address)
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, "400 Bad Request"),
        (401, "401 Unauthorized: it wants a password"),
        (403, "403 Forbidden: it does not give it out"),
        (404, "404 Not Found: it has no such file"),
        (410, "410 Gone: the file is gone"),
        (204, "204 is no answer"),
        (599, "599 unknown status"),
    ],
)
def test_a_lasting_error_is_said_at_once(fetch, status, said):
    with serve(Answer(status=status)) as (address, seen):
        found = refused(fetch, said, address)
    assert len(seen) == 1
    assert found.startswith(f"data.bin (a file, 768.0 kB) cannot be had from {address}: ")
    assert found.endswith(
        f"put the file at {fetch.path} by hand, or into a folder that you name as assets_dir"
    )
    assert not fetch.part.exists()


def test_a_server_that_asks_for_time_gets_it(fetch, monkeypatch):
    slept = []
    monkeypatch.setattr(assets.time, "sleep", slept.append)
    date = email.utils.formatdate(time.time() + 300, usegmt=True)
    with serve(
        Answer(status=429, headers=[("Retry-After", "120")]),
        Answer(status=503, headers=[("Retry-After", date)]),
        Answer(status=503, headers=[("Retry-After", "soon")]),
        Answer(),
    ) as (address, _):
        fetch(address, tries=5)
    assert slept[0] == 120
    assert 250 < slept[1] <= 300
    assert slept[2] < 1
    fetch.path.unlink()
    with serve(Answer(status=503, headers=[("Retry-After", "90000")])) as (address, seen):
        refused(fetch, "503 Service Unavailable; it asks to come back in 90000 s", address)
    assert len(seen) == 1


def test_pauses_grow_and_vary(fetch, monkeypatch):
    slept = []
    monkeypatch.setattr(assets.time, "sleep", slept.append)
    with serve(Answer(status=500)) as (address, _):
        refused(fetch, "500", address, tries=9)
    assert len(slept) == 8
    for index, pause in enumerate(slept):
        assert 0.5 <= pause / (0.001 * 2**index) <= 1.5
    assert len({pause / 2**index for index, pause in enumerate(slept)}) == 8


def test_tries_count_only_where_they_bring_nothing(fetch):
    """A line that breaks often is slow, not hopeless."""
    cuts = [Answer(cut=100_000) for _ in range(7)]
    with serve(*cuts, Answer()) as (address, seen):
        fetch(address, tries=2)
    assert len(seen) == 8
    assert fetch.path.read_bytes() == DATA
    fetch.path.unlink()
    with serve(Answer(cut=100_000, ranges=False, tag=None)) as (address, seen):
        refused(fetch, r"ended after 100.0 kB of 768.0 kB \(3 tries\)", address)
    assert len(seen) < 10


def test_wrong_bytes_are_fetched_once_more_and_then_refused(fetch):
    with serve(Answer(OTHER), Answer()) as (address, seen):
        lines = fetch(address)
    assert len(seen) == 2
    assert "Range" not in seen[1][1]
    assert any("its SHA-256 is" in line for line in lines)
    assert fetch.path.read_bytes() == DATA
    fetch.path.unlink()
    with serve(Answer(OTHER)) as (address, seen):
        refused(fetch, f"another file: its SHA-256 is .* not the pinned SHA-256 {SHA}", address)
    assert len(seen) == 2
    assert not fetch.part.exists()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(DATA + b"more"), "it has 768004 bytes instead of 768000"),
        (Answer(DATA[:-1]), "it has 767999 bytes instead of 768000"),
        (Answer(claimed=len(DATA) + 9), "it has 768009 bytes instead of 768000"),
        (Answer(claimed=1000), "it has 1000 bytes instead of 768000"),
        (Answer(claimed=None, cut=1000), "has 1000 bytes instead of 768000"),
        (Answer(DATA + b"more", claimed=None), "it sends more than the 768.0 kB"),
        (Answer(b""), "it has 0 bytes"),
        (Answer(headers=[("Content-Encoding", "gzip")]), "it sends the file packed"),
    ],
)
def test_wrong_lengths_are_refused(fetch, answer, said):
    with serve(answer) as (address, _):
        refused(fetch, said, address)


def test_a_length_that_nothing_pins_must_still_be_kept(fetch):
    with serve(Answer(claimed=len(DATA) + 9, tag=None)) as (address, _):
        refused(
            fetch, "ended after 768.0 kB of 768.0 kB", address, size=None, sha256="", megabytes=None
        )
    with serve(Answer(claimed=None)) as (address, _):
        fetch(address, size=None)
    assert fetch.path.read_bytes() == DATA


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_on_the_same_host_is_followed(fetch, status):
    with serve(Answer(status=status, headers=[("Location", "/moved")]), Answer()) as (
        address,
        seen,
    ):
        fetch(address)
    assert [path for path, _ in seen] == ["/files/data.bin", "/moved"]
    assert fetch.path.read_bytes() == DATA


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_elsewhere_is_not(fetch, status):
    with serve(Answer()) as (other, elsewhere):
        for place in (other, other.replace("127.0.0.1", "localhost"), "ftp://127.0.0.1/x"):
            answer = Answer(status=status, headers=[("Location", place)])
            with serve(answer) as (address, seen):
                refused(fetch, r"it redirects to \w+://.*, which is not followed", address)
            assert len(seen) == 1
    assert elsewhere == []


@pytest.mark.parametrize(
    ("old", "new", "followed"),
    [
        ("https://a.org/x", "https://a.org/y", True),
        ("http://a.org/x", "https://a.org/x", True),
        ("https://a.org/x", "http://a.org/x", False),
        ("https://a.org/x", "https://b.org/x", False),
        ("https://a.org/x", "https://a.org:8443/x", False),
        ("http://a.org/x", "https://b.org/x", False),
        ("https://a.org/x", "https://a.org.b.org/x", False),
        ("https://a.org/x", "https://a.org@b.org/x", False),
    ],
)
def test_which_redirects_are_followed(old, new, followed):
    class File:
        def read(self):
            return b""

        close = read

    handler = assets._Redirects()
    request = assets.urllib.request.Request(old)
    if followed:
        found = handler.redirect_request(request, File(), 302, "Found", {}, new)
        assert found.full_url == new
    else:
        with pytest.raises(ConsilienceError, match="which is not followed"):
            handler.redirect_request(request, File(), 302, "Found", {}, new)


def test_redirects_in_a_circle_end(fetch):
    with serve(Answer(status=302, headers=[("Location", "/files/data.bin")])) as (address, seen):
        refused(fetch, "302 Found", address)
    assert len(seen) < 30


def test_a_silent_server_is_given_up(fetch):
    wait = threading.Event()
    with serve(Answer(wait=wait)) as (address, seen):
        refused(
            fetch, r"silent for 0.05 s \(2 tries\)|no connection", address, timeout=0.05, tries=2
        )
    assert len(seen) == 2


def test_no_network_says_where_to_put_the_file(fetch):
    with serve(Answer()) as (address, _):
        pass
    found = refused(fetch, r"Connection refused \(3 tries\)", address)
    assert address in found
    assert f"put the file at {fetch.path} by hand" in found
    refused(fetch, r"\(2 tries\)", "https://consilience.invalid/data.bin", tries=2)


def test_a_proxy_is_used_but_not_for_this_machine(fetch, monkeypatch):
    with serve(Answer()) as (proxy, asked), serve(Answer()) as (address, seen):
        monkeypatch.setenv("http_proxy", proxy.rsplit("/", 2)[0])
        fetch(address)
        assert (len(asked), len(seen)) == (0, 1)
        fetch.path.unlink()
        lines = fetch("http://assets.invalid/data.bin", plain_http=True)
        assert [path for path, _ in asked] == ["http://assets.invalid/data.bin"]
    assert any("comes over http, which anyone on the way can change" in line for line in lines)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://example.org/x", "over http anyone on the way can change"),
        ("http://127.0.0.1.example.org/x", "over http"),
        ("ftp://example.org/x", "is no address"),
        ("file:///etc/passwd", "is no address"),
        ("/etc/passwd", "is no address"),
        ("https://me:secret@example.org/x", "holds a name or password"),
        ("https://example.org:x/", "is no address"),
        ("https://example.org/a b", "is no address"),
    ],
)
def test_only_https_is_fetched_from(fetch, address, said):
    refused(fetch, said, address)


def test_a_full_disk_is_said(fetch, monkeypatch):
    usage = assets.shutil.disk_usage(".")
    monkeypatch.setattr(assets.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with serve(Answer()) as (address, seen):
        refused(fetch, r"no room for it in .*/in: 1.0 kB are free", address)
    assert len(seen) == 1


def test_a_folder_that_cannot_be_written_is_said(fetch):
    fetch.path.parent.parent.joinpath("in").write_text("a file where the folder should be")
    with serve(Answer()) as (address, seen), pytest.raises(ConsilienceError, match="cannot be had"):
        fetch(address)
    assert seen == []


def test_a_progress_bar_is_drawn_where_someone_watches(monkeypatch, capsys):
    assert assets._bar("x") is None
    monkeypatch.setattr(assets.sys.stderr, "isatty", lambda: True, raising=False)
    draw = assets._bar("x")
    draw(1_500_000, 3_000_000)
    draw(3_000_000, 3_000_000)
    draw(5_000, None)
    said = capsys.readouterr().err
    assert said.startswith(f"\rx: 1.5 MB [{'#' * 15}{' ' * 15}] of 3.0 MB\r")
    assert f"\rx: 3.0 MB [{'#' * 30}] of 3.0 MB\n" in said


# Hashes


def test_the_first_digits_of_a_hash_do(fetch):
    with serve(Answer(OTHER), Answer(OTHER), Answer()) as (address, _):
        refused(fetch, f"not the pinned SHA-256 beginning with {SHA[:8]}", address, sha256=SHA[:8])
        fetch(address, sha256=SHA[:8])
    assert fetch.path.read_bytes() == DATA


def test_without_a_hash_the_first_file_counts(fetch):
    pins = {"sha256": "", "size": None, "megabytes": 0.75}
    with serve(Answer()) as (address, seen):
        fetch(address, **pins)
        record = json.loads((fetch.path.parent / ".data.bin.json").read_text())
        assert record["sha256"] == SHA
        fetch.path.unlink()
        fetch(address, **pins)
        fetch.path.unlink()
    with serve(Answer(OTHER)) as (address, seen):
        refused(fetch, f"not {SHA}, that of the file first seen here", address, **pins)
    assert len(seen) == 2
    fetch.path.write_bytes(OTHER)  # and by hand no more than from the network
    with pytest.raises(ConsilienceError, match="that of the file first seen here"):
        assets.is_there(Asset(str(fetch.path), address, **pins))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(headers=[("Content-Type", "text/html; charset=utf-8")]), "it sends a page"),
        (Answer(DATA * 2), "it sends more than|has 1.5 MB instead of about 0.75 MB"),
        (Answer(DATA[:90_000]), "has 90.0 kB instead of about 0.75 MB"),
    ],
)
def test_the_first_file_is_not_just_any(fetch, answer, said):
    """The page of a hotel's network must not be what is held against from then on."""
    with serve(answer) as (address, _):
        refused(fetch, said, address, sha256="", size=None, megabytes=0.75)
    assert not (fetch.path.parent / ".data.bin.json").exists()


def test_a_file_put_there_by_hand_is_checked_once(tmp_path, monkeypatch):
    asset = Asset(str(tmp_path / "data.bin"), "https://example.org/data.bin", SHA)
    assert not assets.is_there(asset)
    Path(asset.path).write_bytes(DATA)
    assert assets.is_there(asset)
    hashed = []
    monkeypatch.setattr(assets, "hash_file", lambda path: hashed.append(path) or "0" * 64)
    assert assets.is_there(asset)
    assert hashed == []
    Path(asset.path).write_bytes(OTHER)
    with pytest.raises(ConsilienceError, match=r"data\.bin: its SHA-256 is 0000.*delete it to"):
        assets.is_there(asset)
    assert len(hashed) == 1


def test_what_lies_in_the_way_is_named(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").write_bytes(OTHER)
    wrong = [Asset(str(tmp_path / name), "https://example.org/x", SHA) for name in "abc"]
    with pytest.raises(ConsilienceError) as error:
        assets.find_missing(wrong)
    first, second = str(error.value).split("\n")
    assert "is no file" in first
    assert "its SHA-256 is" in second
    assert assets.find_missing(wrong[2:]) == wrong[2:]


def test_two_that_fetch_the_same_file_do_not_meet(fetch):
    wait = threading.Event()
    with serve(Answer(wait=wait), Answer()) as (address, seen):
        threads = [threading.Thread(target=fetch, args=(address,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        wait.set()
        for thread in threads:
            thread.join()
    assert len(seen) == 1
    assert fetch.path.read_bytes() == DATA


# Elsewhere


def test_a_folder_stands_in_for_the_network(fetch, tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir()
    address = "https://consilience.invalid/data.bin"
    found = refused(fetch, "there is no such file", address, Source(str(folder)))
    assert str(folder / "data.bin") in found
    (folder / "data.bin").write_bytes(OTHER)
    refused(fetch, "not the pinned SHA-256", address, Source(str(folder)))
    (folder / "data.bin").write_bytes(DATA)
    fetch(address, Source(str(folder)))
    assert fetch.path.read_bytes() == DATA


def test_a_mirror_has_the_files_by_name(fetch):
    with serve(Answer()) as (address, seen):
        mirror = address.replace("/files/data.bin", "/mirror/")
        fetch("https://consilience.invalid/other/data.bin", Source(mirror=mirror))
    assert [path for path, _ in seen] == ["/mirror/data.bin"]
    fetch.path.unlink()
    refused(
        fetch,
        "over http anyone",
        "https://consilience.invalid/data.bin",
        Source(mirror="http://example.org"),
        plain_http=True,  # of its own address, not of a mirror's
    )


# What a study needs


def study(path="studies/imagenet-vs-places.yaml"):
    return configuration.read_study([REPOSITORY / path])


def test_the_original_study_needs_sixteen_files():
    pinned = assets.find_pinned(study(), assets.read_pins())
    assert len(pinned) == 13
    assert sum(asset.path.startswith("data/assets/photographs/n") for asset in pinned) == 10
    assert assets.find_named(study()) == {
        "torchvision": [("resnet18", "IMAGENET1K_V1"), ("resnet50", "IMAGENET1K_V2")],
        "clip": ["ViT-B/16"],
    }
    for asset in pinned:
        assert asset.what, asset.path
        assert asset.owner, asset.path
        assert asset.licence, asset.path
        assert len(asset.sha256) == 64 or asset.name == "resnet18_places365.pth.tar"
        assert asset.address.endswith(asset.name)


def test_the_default_study_needs_none(tmp_path):
    for path in ("config.yaml", "tests/study.yaml", "studies/published.yaml"):
        assert assets.resolve_assets(study(path), tmp_path / "index.json") == ([], [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"models": None},
        {"models": [3, {"weights": 4}]},
        {"clip": "x", "pictures": 3, "a": [[1]]},
    ],
)
def test_a_study_that_is_not_sound_needs_nothing(content, tmp_path):
    """What is wrong with it is for others to say."""
    assert assets.resolve_assets(content, tmp_path / "index.json") == ([], [])


def test_paths_are_compared_as_paths():
    (pin, *_) = pins = assets.read_pins()
    assert assets.find_pinned({"models": [{"checkpoint": f"./{pin.path}"}]}, pins) == [pin]
    assert assets.find_pinned({"models": [{"checkpoint": f"{pin.path}x"}]}, pins) == []
    assert assets.find_pinned({"probe": [{"folder": "data/assets"}]}, pins) == pins
    assert assets.find_pinned({"title": "data/assets"}, pins) == []


def test_addresses_of_weights_are_the_libraries_own(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HOME", str(tmp_path))
    found = {asset.name: asset for asset in assets.derive_assets(assets.find_named(study()))}
    assert len(found) == 3
    one = found["resnet50-11ad3fa6.pth"]
    assert one.address == torchvision.models.ResNet50_Weights.IMAGENET1K_V2.url
    assert one.path == f"{tmp_path}/torch/hub/checkpoints/resnet50-11ad3fa6.pth"
    assert one.sha256.startswith("11ad3fa6")
    assert len(one.sha256) == 64
    assert one.said_size == "about 102.5 MB"
    clip = found["ViT-B-16.pt"]
    assert clip.address == clip_encoder.import_clip().clip._MODELS["ViT-B/16"]
    assert clip.path == f"{tmp_path}/.cache/clip/ViT-B-16.pt"
    assert clip.sha256 == "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"
    named = {"torchvision": [("resnet18", "V9"), ("resnet19", "V1")], "clip": ["ViT"]}
    assert assets.derive_assets(named) == []  # the check says so
    (other,) = assets.derive_assets({"torchvision": [("alexnet", "IMAGENET1K_V1")], "clip": []})
    assert other.sha256 == "7be5be79"


def test_the_answer_is_kept_and_read(tmp_path, monkeypatch):
    index = tmp_path / "index/assets.json"
    assert assets.resolve_assets(study(), index, main=False)[1] == []
    assert not index.exists()
    pinned, named = assets.resolve_assets(study(), index)
    assert [len(pinned), len(named)] == [13, 3]
    time_of = index.stat().st_mtime_ns
    monkeypatch.setattr(assets, "_ask", None)  # would fail
    assert assets.resolve_assets(study(), index) == (pinned, named)
    assert assets.resolve_assets(study(), index, main=False) == (pinned, named)
    assert index.stat().st_mtime_ns == time_of
    for asset in pinned + named:
        assert assets.read_indexed(index, asset.path) == asset
    with pytest.raises(ConsilienceError, match="has no asset 'x'"):
        assets.read_indexed(index, "x")


def test_what_else_is_wrong_is_said_before_anything_is_fetched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pinned = assets.find_pinned(study(), assets.read_pins())
    with pytest.raises(ConsilienceError) as error:
        configuration.resolve_study(assets.stand_in(study(), pinned))
    assert str(error.value).startswith("probe[0].folder: there is no folder 'data/probe'")
    assert "\n" not in str(error.value)
    (tmp_path / "data/probe").mkdir(parents=True)
    configuration.resolve_study(assets.stand_in(study(), pinned))
    with pytest.raises(ConsilienceError, match="resnet18_places365"):
        configuration.resolve_study(study())


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"path": "a"}, "does not fit"),
        ({"path": "a", "address": "https://a.org/a", "hash": "0"}, "does not fit .*hash"),
        ({"path": "a", "address": "https://a.org/a", "sha256": "xyz"}, "8 to 64 digits"),
        ({"path": "a", "address": "http://a.org/a"}, "over http"),
    ],
)
def test_a_pin_that_is_wrong_is_named(entry, said, tmp_path):
    path = tmp_path / "assets.yaml"
    path.write_text(yaml.safe_dump({"assets": [entry]}))
    with pytest.raises(ConsilienceError, match=said):
        assets.read_pins(path)
    path.write_text(yaml.safe_dump({"assets": [{"path": "a", "address": "https://a.org/a"}] * 2}))
    with pytest.raises(ConsilienceError, match="'a' is given twice"):
        assets.read_pins(path)


def test_pins_hold_for_the_data_that_is_at_hand(real_data):
    """The hashes were not made up."""
    for asset in assets.read_pins():
        for folder in ("concepts", "photos"):
            path = real_data / folder / asset.name
            if path.is_file():
                assert hashlib.sha256(path.read_bytes()).hexdigest() == asset.sha256, asset.name
                assert path.stat().st_size == asset.size


# The workflow


@pytest.mark.slow
def test_a_study_whose_files_cannot_be_had_does_not_start(tmp_path, monkeypatch):
    """And says of each which it is, where it comes from, and where to put it."""
    (tmp_path / "data/probe").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    path = REPOSITORY / "studies/imagenet-vs-places.yaml"
    with serve(Answer(status=404)) as (address, seen):
        mirror = f"assets_mirror={address.rsplit('/', 1)[0]}"
        arguments = ["--cores", "2", "--config", mirror]
        said = snakemake(tmp_path, *arguments, studies=[path], check=False)
    assert "16 files of others are missing" in said
    _, listed = said.split("16 files of others are missing")
    for asset in assets.find_pinned(study(), assets.read_pins()):
        assert f"{asset.path} ({asset.what}, {asset.said_size}) from {asset.address}" in listed
    assert f"{tmp_path}/.cache/torch/hub/checkpoints/resnet50-11ad3fa6.pth (weights" in listed
    assert f"{tmp_path}/.cache/clip/ViT-B-16.pt (CLIP ViT-B/16, about 351 MB) from http" in listed
    assert len(seen) == 16
    assert "rule check" not in said
    assert not (tmp_path / "results/imagenet-vs-places/check.json").exists()


@pytest.mark.slow
def test_files_are_fetched_first_and_then_the_study_runs(tmp_path, real_data):
    """Once, and not again while they are there; a file that is lost comes back."""
    own = {
        "study": "own",
        "world": None,
        "clip": None,
        "concepts": None,
        "probe": [],
        "acts": {"dissect": False, "cam": False},
        "batches": 1,
        "dissection": {"soft-wpmi": {"a": 10}},
        "pictures": [{"folder": "data/assets/photographs"}],
        "lime": {"num_samples": 20},
        "models": [
            {
                "name": "squeezenet",
                "architecture": "squeezenet1_0",
                "checkpoint": str(real_data / "weights/squeezenet1_0_imagenet.pt"),
                "preprocessing": "IMAGENET1K_V1",
            }
        ],
        "assets_dir": str(real_data / "photos"),
    }
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(own))
    said = snakemake(tmp_path, "--cores", "2", studies=[path])
    assert "this run fetches them, and no more" in said
    assert "11 of 11 steps" in said
    photographs = tmp_path / "data/assets/photographs"
    assert len(list(photographs.glob("*.JPEG"))) == 10
    assert not (tmp_path / "results/own/check.json").exists()

    said = snakemake(tmp_path, "-n", studies=[path])
    assert "fetch_" not in said
    assert "explain_lime" in said
    # Another study takes the same files.
    said = snakemake(tmp_path, "-n", "--config", "study=other", studies=[path])
    assert "fetch_" not in said
    assert "explain_lime" in said
    snakemake(tmp_path, "--cores", "2", "results/own/pictures/0.parquet", studies=[path])
    (photographs / "n02007558_flamingo.JPEG").unlink()
    said = snakemake(tmp_path, "--cores", "1", studies=[path])
    assert "2 of 2 steps" in said
    assert "fetch_n02007558_flamingo_JPEG" in said

    (photographs / "n02007558_flamingo.JPEG").write_bytes(OTHER)
    said = snakemake(tmp_path, "-n", studies=[path], check=False)
    assert "n02007558_flamingo.JPEG: has 768000 bytes instead of 270662; delete it" in said


# The command


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run the command on a study of two pinned files."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = assets.main([*map(str, arguments)])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    pins = tmp_path / "workflow/assets.yaml"
    pins.parent.mkdir()
    (tmp_path / "config.yaml").write_text("concepts: in/data.bin\nclip: null\nmodels: []\n")

    def pin(address, path="in/data.bin"):
        entries = [
            {"path": path, "address": address, "sha256": SHA, "size": len(DATA), "what": "words"},
            {"path": "not/asked.bin", "address": address},
        ]
        pins.write_text(yaml.safe_dump({"assets": entries}))

    monkeypatch.setattr(configuration, "DEFAULT", tmp_path / "config.yaml")
    monkeypatch.setattr(assets, "PINS", pins)
    monkeypatch.setattr(assets.read_pins, "__defaults__", (pins,))
    run.pin = pin
    return run


def test_the_command_lists_and_fetches(command, tmp_path):
    with serve(Answer()) as (address, _):
        command.pin(address)
        code, out, _ = command("list")
        assert code == 0
        assert f"in/data.bin: missing, 768.0 kB; words, from {address}" in out
        code, out, _ = command("fetch")
        assert code == 0
        assert out.endswith("all files of others are there\n")
    assert (tmp_path / "in/data.bin").read_bytes() == DATA
    assert "in/data.bin: there" in command("list")[1]
    assert not (tmp_path / "not").exists()


def test_the_command_names_all_that_is_missing(command, tmp_path):
    with serve(Answer(status=404)) as (address, _):
        command.pin(address)
        code, _, err = command("fetch", "--tries", "1")
    assert code == 1
    assert f"in/data.bin (words, 768.0 kB) from {address}" in err
    assert "name that as assets_dir" in err
    (tmp_path / "shared").mkdir()
    code, _, err = command("fetch", "--assets-dir", "shared")
    assert code == 1
    assert "looked for in assets_dir: shared" in err
    (tmp_path / "shared/data.bin").write_bytes(DATA)
    (tmp_path / "over.yaml").write_text("assets_dir: shared\n")
    assert command("fetch", "over.yaml")[0] == 0
    assert command("fetch", "none.yaml")[0] == 1


def test_the_page_on_assets_says_what_is_fetched(capsys, monkeypatch, tmp_path):
    """Its command too, whose output it is."""
    page = (REPOSITORY / "docs/assets.md").read_text()
    monkeypatch.chdir(tmp_path)
    assert assets.main(["list", str(REPOSITORY / "studies/imagenet-vs-places.yaml")]) == 0
    said = capsys.readouterr().out
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) == 7
    for row in rows:
        name = row[0].strip("| `")
        if name != "n*.JPEG":
            assert f"/{name}: missing, " in said
            shown = said.split(f"/{name}: missing, ")[1].split(";")[0].removeprefix("about ")
            number, unit = shown.split()
            assert row[2] == f"{float(number):.0f} kB" if unit == "kB" else row[2] == shown
        known = name != "resnet18_places365.pth.tar"
        assert row[-1] == ("whole |" if known else "none |")
    assert said.count("missing, ") == 6 + 10
    assert said.count("SHA-256 not known") == 1

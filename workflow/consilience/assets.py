"""Files of others that a study needs: which, from where, and whether they are what they should be.

``workflow/assets.yaml`` pins those that a study names by path; torchvision and ``clip`` say
themselves where their weights come from and what the files hash to. As a command,

    python -m consilience.assets list studies/imagenet-vs-places.yaml
    python -m consilience.assets fetch studies/imagenet-vs-places.yaml

say what a study needs, and bring it; the workflow's rule ``assets`` does the same.
"""

from __future__ import annotations

import argparse
import copy
import email.utils
import errno
import fcntl
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, urlsplit

from .errors import ConsilienceError
from .files import make_folder
from .provenance import hash_file, package_version

PINS = Path(__file__).parent.parent / "assets.yaml"
"""The file of pinned addresses."""

TIMEOUT = 30.0
"""Seconds that a server may be silent."""
TRIES = 6
"""Tries that bring nothing new before it is given up."""
WAIT = 1.0
"""Seconds before the second try; they double with each, up to :data:`LONGEST_WAIT`."""
LONGEST_WAIT = 60.0
LONGEST_RETRY_AFTER = 600.0
"""Seconds that a server may ask for (Retry-After) before it is given up instead."""

_CHUNK = 1 << 18
_LOCAL = ("localhost", "127.0.0.1", "::1")
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
_ADVICE = {
    401: "it wants a password",
    403: "it does not give it out",
    404: "it has no such file",
    407: "the proxy wants a password",
    410: "the file is gone",
    429: "too many requests",
}


@dataclass(frozen=True)
class Asset:
    """A file of others.

    Attributes
    ----------
    path
        Where it lies once it is there.
    address
        Where it comes from.
    sha256
        Its SHA-256 as 64 hexadecimal digits, the first ones of it, or nothing where none is known:
        then the first file seen is recorded, and held against from then on.
    size
        Bytes, where they are known exactly.
    megabytes
        About how large it is, 10⁶ bytes; a file without any hash must come within a tenth of it.
    what, owner, licence
        What a person wants to know before fetching it.
    plain_http
        Whether http will do, where a server offers nothing else.
    """

    path: str
    address: str
    sha256: str = ""
    size: int | None = None
    megabytes: float | None = None
    what: str = ""
    owner: str = ""
    licence: str = ""
    plain_http: bool = False

    @property
    def name(self) -> str:
        """The name of the file, in a mirror and in a folder of assets too."""
        return Path(self.path).name

    @property
    def said_size(self) -> str:
        """The size as messages say it."""
        if self.size is not None:
            return _bytes(self.size)
        return f"about {self.megabytes:g} MB" if self.megabytes else "of unknown size"


@dataclass(frozen=True)
class Source:
    """Where assets are taken from instead of their own addresses.

    Attributes
    ----------
    folder
        A folder that holds them under their file names; nothing is fetched then.
    mirror
        An address that they lie under by their file names.
    """

    folder: str | None = None
    mirror: str | None = None

    def address(self, asset: Asset) -> str:
        """Return where an asset comes from."""
        if self.mirror:
            return f"{self.mirror.rstrip('/')}/{quote(asset.name)}"
        return asset.address


def _bytes(number: int) -> str:
    return f"{number / 1e6:.1f} MB" if number >= 1e6 else f"{number / 1e3:.1f} kB"


# What a study needs


def read_pins(path: str | Path = PINS) -> list[Asset]:
    """Read the file of pinned addresses.

    Raises
    ------
    ConsilienceError
        If it cannot be read, an entry lacks its path or address or has a key that is not known, a
        hash is none, or a path is given twice.
    """
    from .configuration import read_yaml

    assets: dict[str, Asset] = {}
    for index, entry in enumerate(read_yaml(path).get("assets") or []):
        try:
            asset = Asset(**{key: value for key, value in entry.items() if value is not None})
        except TypeError as error:
            raise ConsilienceError(f"{path}: assets[{index}] does not fit ({error})") from None
        if not re.fullmatch(r"([0-9a-f]{8,64})?", asset.sha256):
            raise ConsilienceError(f"{path}: {asset.name}: sha256 must be 8 to 64 digits, or null")
        if asset.path in assets:
            raise ConsilienceError(f"{path}: {asset.path!r} is given twice; keep one")
        check_address(asset.address, asset.plain_http)
        assets[asset.path] = asset
    return list(assets.values())


def read_known(path: str | Path = PINS) -> dict[str, dict]:
    """Read what is pinned of weights that have names: by file name, ``sha256`` and ``megabytes``.

    Raises
    ------
    ConsilienceError
        If the file cannot be read.
    """
    from .configuration import read_yaml

    return read_yaml(path).get("weights") or {}


def _strings(value, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string in a configuration, with the key that it stands under."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _strings(item, str(name))
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, key)
    elif isinstance(value, str):
        yield key, value


def find_pinned(study: Mapping, pins: Sequence[Asset]) -> list[Asset]:
    """Return the pinned assets that a study names: by path, or all in a ``folder`` of its."""
    named = [(key, os.path.normpath(value)) for key, value in _strings(study) if value]
    paths = {value for _, value in named}
    folders = {Path(value) for key, value in named if key == "folder"}
    return [
        asset for asset in pins if asset.path in paths or folders & set(Path(asset.path).parents)
    ]


def find_named(study: Mapping) -> dict[str, list]:
    """Return the weights that a study names by name: ``torchvision`` and ``clip``.

    Whether there are such is not looked at, nor whether the study is sound.
    """
    models = study.get("models")
    models = [m for m in models if isinstance(m, Mapping)] if isinstance(models, list) else []
    pairs = [(model.get("architecture"), model.get("weights")) for model in models]
    clip = study.get("clip")
    name = clip.get("name") if isinstance(clip, Mapping) else None
    return {
        "torchvision": sorted(
            {p for p in pairs if all(isinstance(part, str) for part in p) and ":" not in p[0]}
        ),
        "clip": [name] if isinstance(name, str) else [],
    }


def derive_assets(named: Mapping[str, Sequence]) -> list[Asset]:
    """Ask torchvision and ``clip`` for the files of weights; names they do not know are left out.

    Parameters
    ----------
    named
        As :func:`find_named` returns it.

    Returns
    -------
    list of Asset
        Where they lie is where these libraries look for them.
    """
    known = read_known()
    found = []
    if named["torchvision"]:
        import torch.hub

        from .vision import torchvision

        for architecture, weights in named["torchvision"]:
            try:
                entry = torchvision.models.get_model_weights(architecture)[weights]
            except (KeyError, ValueError):
                continue  # the check says so, and which there are
            name = entry.url.split("/")[-1]
            prefix = re.search(r"-([0-9a-f]{8,64})\.", name)
            sha256 = prefix[1] if prefix else ""
            whole = known.get(name, {}).get("sha256") or ""
            if whole.startswith(sha256):
                sha256 = whole or sha256
            found.append(
                Asset(
                    path=str(Path(torch.hub.get_dir()) / "checkpoints" / name),
                    address=entry.url,
                    sha256=sha256,
                    megabytes=round(entry.meta["_file_size"] * 2**20 / 1e6, 1),
                    what=f"weights {weights} of {architecture}",
                    owner="torchvision",
                    licence=(
                        "BSD-3-Clause as torchvision's code; what it was trained on may have "
                        "terms of its own"
                    ),
                )
            )
    if named["clip"]:
        from .clip_encoder import import_clip

        addresses = import_clip().clip._MODELS
        for model in named["clip"]:
            if model in addresses:
                *_, sha256, name = addresses[model].split("/")
                found.append(
                    Asset(
                        path=str(Path("~/.cache/clip").expanduser() / name),
                        address=addresses[model],
                        sha256=sha256,
                        megabytes=known.get(name, {}).get("megabytes"),
                        what=f"CLIP {model}",
                        owner="OpenAI",
                        licence="MIT",
                    )
                )
    return list({asset.path: asset for asset in found}.values())


def resolve_assets(
    study: Mapping, index: str | Path, main: bool = True
) -> tuple[list[Asset], list[Asset]]:
    """Return what a study needs, without importing PyTorch into this process.

    Parameters
    ----------
    study
        The configuration, which need not be sound.
    index
        File that keeps the answer, for the steps and so that asking takes no time again.
    main
        Whether to ask where the answer is not there, and to write it; otherwise it is only read.

    Returns
    -------
    pinned, named
        The assets that the study names by path, and those it names by name. The latter are empty
        where this Python has no torchvision: then the steps fetch their weights themselves.
    """
    pinned, wanted = find_pinned(study, read_pins()), find_named(study)
    if not pinned and not any(wanted.values()):
        return [], []
    index = Path(index)
    known, named = _read_json(index), []
    if any(wanted.values()):
        places = ("HOME", "TORCH_HOME", "XDG_CACHE_HOME")
        asked = {
            "named": json.loads(json.dumps(wanted)),
            "versions": {name: package_version(name) for name in ("torchvision", "clip")},
            "places": {name: os.environ.get(name) for name in places},
            "pins": hash_file(PINS),
        }
        if known.get("asked") == asked:
            named = [Asset(**entry) for entry in known["named"]]
        elif main and None not in asked["versions"].values():
            named = _ask(wanted)
        else:
            asked = None
    else:
        asked = None
    content = {
        "asked": asked,
        "named": [asdict(asset) for asset in named],
        "pinned": [asdict(asset) for asset in pinned],
    }
    if main and content != known:
        make_folder(index.parent)
        _write_json(index, content)
    return pinned, named


def _ask(wanted: Mapping) -> list[Asset]:
    """Call :func:`derive_assets` in a process of its own."""
    command = [sys.executable, "-m", f"{__package__}.assets", "derive", json.dumps(wanted)]
    library = str(Path(__file__).parent.parent)
    run = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": library}, capture_output=True, text=True
    )
    if run.returncode:
        raise ConsilienceError(f"torchvision's weights cannot be looked up: {run.stderr.strip()}")
    return [Asset(**entry) for entry in json.loads(run.stdout.splitlines()[-1])]


def read_indexed(index: str | Path, path: str) -> Asset:
    """Return the asset that belongs at a path, from the file that :func:`resolve_assets` wrote."""
    content = _read_json(Path(index))
    for entry in content.get("pinned", []) + content.get("named", []):
        if entry["path"] == path:
            return Asset(**entry)
    raise ConsilienceError(f"{index}: has no asset {path!r}; run the study from its start")


def stand_in(study: Mapping, missing: Sequence[Asset]) -> dict:
    """Return a copy of a study in which files and folders that are there stand for missing assets.

    So that what else is wrong with it can be said before anything is fetched.
    """
    paths = {asset.path for asset in missing}
    parents = {parent for path in paths for parent in Path(path).parents}

    def replace(value, key=""):
        if isinstance(value, Mapping):
            return {name: replace(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [replace(item, key) for item in value]
        if isinstance(value, str) and os.path.normpath(value) in paths:
            return str(PINS)
        if isinstance(value, str) and key == "folder" and Path(value) in parents:
            return str(PINS.parent)
        return value

    return replace(copy.deepcopy(dict(study)))


# Whether a file is what it should be


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f".{path.name}{suffix}")


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_json(path: Path, content: dict) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    os.replace(part, path)


def is_there(asset: Asset) -> bool:
    """Say whether an asset is in place, and is what it should be.

    Its SHA-256 is worked out once and recorded beside it (``.<name>.json``); while size and time
    of the file stay, it is not worked out again.

    Raises
    ------
    ConsilienceError
        If another file lies in its place.
    """
    path = Path(asset.path)
    try:
        state = path.stat()
    except OSError:
        return False
    if not path.is_file():
        raise ConsilienceError(f"{path}: is no file; {asset.name} belongs there: move it away")
    record = _read_json(_beside(path, ".json"))
    now = [state.st_size, state.st_mtime_ns]
    seen = record.get("sha256")
    known = isinstance(seen, str) and record.get("state") == now
    found = seen if known else hash_file(path)
    if said := _mismatch(asset, found, state.st_size, seen):
        raise ConsilienceError(
            f"{path}: {said}; delete it to have it fetched from {asset.address} anew"
        )
    if not known:
        # Where it cannot be written, the hash is worked out each time.
        with suppress(OSError):
            _write_json(
                _beside(path, ".json"),
                {"address": asset.address, "sha256": found, "state": now},
            )
    return True


def _mismatch(asset: Asset, found: str, size: int, seen: object = None) -> str:
    """Say how a file is not the asset; nothing if it is."""
    if asset.size is not None and size != asset.size:
        return f"has {size} bytes instead of {asset.size}"
    if asset.sha256:
        if found.startswith(asset.sha256):
            return ""
        kind = "SHA-256" if len(asset.sha256) == 64 else "SHA-256 beginning with"
        return f"its SHA-256 is {found} and not the pinned {kind} {asset.sha256}"
    if isinstance(seen, str) and seen != found:
        return (
            f"its SHA-256 is {found} and not {seen}, that of the file first seen here "
            f"(.{asset.name}.json; delete that too if you trust the new one)"
        )
    if asset.megabytes and abs(size / 1e6 - asset.megabytes) > 0.1 * asset.megabytes:
        return f"has {_bytes(size)} instead of {asset.said_size}"
    return ""


def find_missing(assets: Sequence[Asset]) -> list[Asset]:
    """Return the assets that are not there.

    Raises
    ------
    ConsilienceError
        If other files lie in their place, a line each.
    """
    missing, said = [], []
    for asset in assets:
        try:
            if not is_there(asset):
                missing.append(asset)
        except ConsilienceError as error:
            said.append(str(error))
    if said:
        raise ConsilienceError("\n".join(said))
    return missing


def describe_missing(assets: Sequence[Asset], source: Source = Source()) -> str:
    """Say of each missing asset what it is, where it comes from and where to put it."""
    lines = [
        f"  {asset.path} ({asset.what or asset.name}, {asset.said_size}) from {asset.address}"
        for asset in assets
    ]
    if source.folder:
        lines.append(f"They are looked for in assets_dir: {source.folder}")
    return "\n".join(
        [
            f"{len(assets)} files of others are missing. Put each where it is named here, or all "
            "of them into one folder and name that as assets_dir:",
            *lines,
        ]
    )


# Fetching


class _Retry(Exception):
    """Worth another try."""

    def __init__(self, why: str, after: float | None = None):
        super().__init__(why)
        self.after = after


def check_address(address: str, plain_http: bool = False) -> None:
    """Accept https, and http to this machine itself.

    Parameters
    ----------
    address
        What to look at.
    plain_http
        Accept http to others too.

    Raises
    ------
    ConsilienceError
        If it is another address, or none, or holds a password.
    """
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ConsilienceError(f"{address!r} is no address ({error})") from None
    if parts.scheme not in ("https", "http") or not host or any(map(str.isspace, address)):
        raise ConsilienceError(f"{address!r} is no address; give one like https://example.org/x")
    if "@" in parts.netloc:
        raise ConsilienceError(f"the address at {host} holds a name or password; leave it out")
    if parts.scheme == "http" and host not in _LOCAL and not plain_http:
        raise ConsilienceError(
            f"{address}: over http anyone on the way can change the file; use https"
        )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects on the same host only, and never from https to http."""

    def redirect_request(self, request, file, code, message, headers, address):
        old, new = urlsplit(request.full_url), urlsplit(address)
        upgrade = (old.scheme, new.scheme) == ("http", "https") and new.port in (None, 443)
        same = (old.scheme, old.hostname, old.port) == (new.scheme, new.hostname, new.port)
        if not same and not (upgrade and old.hostname == new.hostname):
            file.close()
            raise ConsilienceError(
                f"it redirects to {new.scheme}://{new.netloc}, which is not followed"
            )
        return super().redirect_request(request, file, code, message, headers, address)


def _open(address: str, headers: Mapping[str, str], timeout: float) -> HTTPResponse:
    """Open an address; what may pass is a :class:`_Retry`, what will not a ConsilienceError."""
    request = urllib.request.Request(
        address, headers={"User-Agent": "consilience", "Accept-Encoding": "identity", **headers}
    )
    handlers: list = [_Redirects()]
    if request.host.rsplit(":", 1)[0].strip("[]") in _LOCAL:  # not by way of a proxy
        handlers.append(urllib.request.ProxyHandler({}))
    try:
        return urllib.request.build_opener(*handlers).open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        code, after = error.code, error.headers.get("Retry-After")
        error.close()
    phrase = HTTPStatus(code).phrase if code in HTTPStatus._value2member_map_ else "unknown status"
    why = f"{code} {phrase}" + (f": {_ADVICE[code]}" if code in _ADVICE else "")
    if code == 416:
        raise _Retry(why)
    if code not in _TRANSIENT:
        raise ConsilienceError(why)
    seconds = _seconds(after)
    if seconds is not None and seconds > LONGEST_RETRY_AFTER:
        raise ConsilienceError(f"{why}; it asks to come back in {seconds:.0f} s")
    raise _Retry(why, seconds)


def _seconds(after: str | None) -> float | None:
    """Read a Retry-After header: seconds, or a date."""
    if after is None:
        return None
    if after.strip().isdigit():
        return float(after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(after).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


@contextmanager
def _locked(path: Path, log: Callable[[str], None]) -> Iterator[BinaryIO]:
    """Open a file for appending, alone: another process that fetches it is waited for."""
    while True:
        file = open(path, "ab")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log(f"{path.name}: another process is at it; waiting")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            pass
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        file.close()  # the other one moved it into place
    with file:
        yield file


def fetch_asset(
    asset: Asset,
    log: Callable[[str], None],
    source: Source = Source(),
    timeout: float = TIMEOUT,
    tries: int = TRIES,
    wait: float = WAIT,
    progress: Callable[[int, int | None], None] | None = None,
) -> None:
    """Put an asset in place, unless it is there.

    What has arrived lies in ``.<name>.part`` beside it: a later try, or run, goes on from there
    where the server can do that and still has the same file, and starts anew elsewhere. The file
    comes into place in one move, and only when it is whole and what it should be.

    Parameters
    ----------
    asset
        Which.
    log
        Takes a line of progress.
    source
        A folder or a mirror to take it from instead.
    timeout
        Seconds that the server may be silent.
    tries
        Tries that bring nothing new before it is given up.
    wait
        Seconds before the second try; they double with each and vary by half, and a server that
        asks for longer (Retry-After) gets it.
    progress
        Takes the bytes that are there and those of the whole file, if known, after each piece.

    Raises
    ------
    ConsilienceError
        If it cannot be had: says why, from where, how large it is and where to put it by hand. If
        another file lies in its place.
    """
    if is_there(asset):
        log(f"{asset.name}: is there")
        return
    target = Path(asset.path)
    address = source.address(asset)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(_beside(target, ".part"), log) as part:
            if is_there(asset):
                part.truncate(0)
                Path(part.name).unlink()
                return
            if source.folder:
                address = str(Path(source.folder) / asset.name)
                _copy(asset, Path(address), part)
            else:
                check_address(address, asset.plain_http and not source.mirror)
                if address.startswith("http:") and urlsplit(address).hostname not in _LOCAL:
                    log(f"{asset.name}: comes over http, which anyone on the way can change")
                _download(asset, address, part, log, timeout, tries, wait, progress)
            _place(asset, part)
    except ConsilienceError as error:
        why = str(error)
    except OSError as error:
        why = error.strerror or type(error).__name__
        if error.errno == errno.ENOSPC:
            why = f"no room left in {target.parent}"
    else:
        log(f"{asset.name}: in place, {_bytes(target.stat().st_size)}")
        return
    _tidy(target)
    raise ConsilienceError(
        f"{asset.name} ({asset.what or 'an asset'}, {asset.said_size}) cannot be had from "
        f"{address}: {why}; put the file at {target} by hand, or into a folder that you name as "
        "assets_dir"
    ) from None


def _tidy(target: Path) -> None:
    """Leave nothing behind where nothing arrived."""
    part = _beside(target, ".part")
    with suppress(OSError):
        if not part.stat().st_size:
            part.unlink()
            _beside(target, ".part.json").unlink(missing_ok=True)


def _copy(asset: Asset, path: Path, part: BinaryIO) -> None:
    """Take an asset from a folder."""
    if not path.is_file():
        raise ConsilienceError("there is no such file")
    part.truncate(0)
    with open(path, "rb") as file:
        shutil.copyfileobj(file, part, _CHUNK)
    part.flush()
    if said := _check_part(asset, part):
        part.truncate(0)
        raise ConsilienceError(said)


def _check_part(asset: Asset, part: BinaryIO) -> str:
    """Say how what has arrived is not the asset."""
    seen = _read_json(_beside(Path(asset.path), ".json")).get("sha256")
    size = os.fstat(part.fileno()).st_size
    return _mismatch(asset, hash_file(part.name), size, seen)


def _place(asset: Asset, part: BinaryIO) -> None:
    """Move what has arrived into place, and record what it is."""
    os.fsync(part.fileno())
    os.replace(part.name, asset.path)
    _beside(Path(asset.path), ".part.json").unlink(missing_ok=True)
    is_there(asset)


def _download(
    asset: Asset,
    address: str,
    part: BinaryIO,
    log: Callable[[str], None],
    timeout: float,
    tries: int,
    wait: float,
    progress: Callable[[int, int | None], None] | None,
) -> None:
    """Fill ``part``, try by try."""
    failed, most, wrong = 0, os.fstat(part.fileno()).st_size, 0
    log(f"{asset.name}: {asset.said_size} from {address}")
    while True:
        after = None
        try:
            _try(asset, address, part, log, timeout, progress)
            if not (said := _check_part(asset, part)):
                return
            part.truncate(0)
            wrong += 1
            if wrong > 1:  # once may be an accident on the way
                raise ConsilienceError(f"what arrives is another file: {said}")
            why = said
        except _Retry as error:
            why, after = str(error), error.after
        except TimeoutError:
            why = f"silent for {timeout:g} s"
        except urllib.error.URLError as error:
            why = getattr(error.reason, "strerror", None) or str(error.reason) or "no connection"
            if isinstance(error.reason, TimeoutError):
                why = f"no connection within {timeout:g} s"
        except HTTPException as error:
            why = f"the connection broke ({type(error).__name__})"
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
                raise
            why = f"the connection broke ({error.strerror or type(error).__name__})"
        part.flush()
        size = os.fstat(part.fileno()).st_size
        failed = 1 if size > most else failed + 1
        most = max(size, most)
        if failed >= tries:
            raise ConsilienceError(f"{why} ({failed} tries)")
        pause = min(wait * 2 ** (failed - 1), LONGEST_WAIT) * random.uniform(0.5, 1.5)
        pause = max(pause, after or 0.0)
        log(f"{asset.name}: {why}; again in {pause:.1f} s")
        time.sleep(pause)


def _try(
    asset: Asset,
    address: str,
    part: BinaryIO,
    log: Callable[[str], None],
    timeout: float,
    progress: Callable[[int, int | None], None] | None,
) -> None:
    """Fetch what ``part`` lacks, once."""
    note = _beside(Path(asset.path), ".part.json")
    had, known = os.fstat(part.fileno()).st_size, _read_json(note)
    validator = known.get("validator")
    headers = {}
    if had and known.get("address") == address and isinstance(validator, str):
        # The server sends the rest if it still has the same file, and all of it otherwise.
        headers = {"Range": f"bytes={had}-", "If-Range": validator}
    try:
        answer = _open(address, headers, timeout)
    except _Retry as error:
        if str(error).startswith("416"):  # there is more than the server has
            part.truncate(0)
        raise
    with answer:
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise ConsilienceError("it sends the file packed although it was asked not to")
        if not asset.sha256 and answer.headers.get_content_type() == "text/html":
            raise ConsilienceError("it sends a page instead of the file")
        now = _validator(answer)
        total = _length(answer)
        if answer.status == 206:
            place = re.fullmatch(
                r"bytes (\d+)-(\d+)/(\d+|\*)", answer.headers.get("Content-Range", "")
            )
            if not headers or not place or int(place[1]) != had or (now and now != validator):
                part.truncate(0)
                raise _Retry("it goes on with another file, or elsewhere")
            total = int(place[2]) + 1 if place[3] == "*" else int(place[3])
            log(f"{asset.name}: goes on after {_bytes(had)}")
        elif answer.status == 200:
            part.truncate(0)
            had = 0
            _write_json(note, {"address": address, "validator": now})
        else:
            raise ConsilienceError(f"{answer.status} is no answer to such a question")
        if asset.size is not None and total is not None and total != asset.size:
            part.truncate(0)
            raise _Retry(f"it has {total} bytes instead of {asset.size}")
        free = shutil.disk_usage(Path(asset.path).parent).free
        if total is not None and total - had > free:
            raise ConsilienceError(
                f"no room for it in {Path(asset.path).parent}: {_bytes(free)} are free"
            )
        _receive(asset, answer, part, had, total, log, progress)


def _validator(answer: HTTPResponse) -> str | None:
    """Return what says that a file is still the same one; a weak ETag does not say so."""
    tag = answer.headers.get("ETag")
    if tag and not tag.startswith("W/"):
        return tag
    return answer.headers.get("Last-Modified")


def _length(answer: HTTPResponse) -> int | None:
    """Return the length that an answer claims."""
    said = answer.headers.get("Content-Length")
    return int(said) if said and said.isdigit() else None


def _receive(
    asset: Asset,
    answer: HTTPResponse,
    part: BinaryIO,
    had: int,
    total: int | None,
    log: Callable[[str], None],
    progress: Callable[[int, int | None], None] | None,
) -> None:
    """Append an answer's bytes to ``part``; a line is logged every tenth of the file."""
    said = had * 10 // total if total else 0
    limit = 2e6 * (asset.megabytes or 1e6) if asset.size is None else asset.size
    while chunk := answer.read1(_CHUNK):
        part.write(chunk)
        had += len(chunk)
        if had > limit:
            part.truncate(0)
            raise ConsilienceError(f"it sends more than the {asset.said_size} that were expected")
        if progress:
            progress(had, total)
        if total and had * 10 // total > said:
            said = had * 10 // total
            log(f"{asset.name}: {_bytes(had)} of {_bytes(total)}")
    part.flush()
    if total is not None and had < total:
        raise _Retry(f"the connection ended after {_bytes(had)} of {_bytes(total)}")


# The command


def _bar(name: str) -> Callable[[int, int | None], None] | None:
    """Return what draws a progress bar, where someone watches."""
    if not sys.stderr.isatty():
        return None
    last = 0.0

    def draw(had: int, total: int | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < 0.1 and had != total:
            return
        last = now
        share = f"[{'#' * (30 * had // total):30}] of {_bytes(total)}" if total else ""
        sys.stderr.write(f"\r{name}: {_bytes(had)} {share}" + ("\n" if had == total else ""))

    return draw


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m consilience.assets",
        description="List or fetch the files of others that a study needs.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (
        ("list", "say what a study needs, from where, and what is there"),
        ("fetch", "fetch what is not there"),
    ):
        command = commands.add_parser(name, help=what)
        command.add_argument("study", nargs="*", help="files, such as studies/photographs.yaml")
        command.add_argument("--assets-dir", help="folder to take the files from instead")
        command.add_argument("--mirror", help="address to fetch the files from instead")
        command.add_argument("--timeout", type=float, default=TIMEOUT, help="seconds (%(default)g)")
        command.add_argument("--tries", type=int, default=TRIES, help="(%(default)s)")
    command = commands.add_parser("derive", help="ask torchvision and clip; for the workflow")
    command.add_argument("named", type=json.loads)
    options = parser.parse_args(arguments)
    if options.command == "derive":
        print(json.dumps([asdict(asset) for asset in derive_assets(options.named)]))
        return 0
    from .configuration import read_study

    try:
        study = read_study(options.study)
        assets = find_pinned(study, read_pins()) + derive_assets(find_named(study))
        folder = options.assets_dir or (None if options.mirror else study.get("assets_dir"))
        source = Source(folder, options.mirror or study.get("assets_mirror"))
        missing = find_missing(assets)
    except ConsilienceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.command == "list":
        for asset in assets:
            state = "missing" if asset in missing else "there"
            print(f"{asset.path}: {state}, {asset.said_size}; {asset.what}, from {asset.address}")
            print(f"  {asset.owner}; {asset.licence}; SHA-256 {asset.sha256 or 'not known'}")
        return 0
    return _fetch_all(missing, source, options.timeout, options.tries)


def _fetch_all(missing: Sequence[Asset], source: Source, timeout: float, tries: int) -> int:
    """Fetch assets one by one; go on after those that fail, and then say which are missing."""
    failed = []
    for asset in missing:
        try:
            fetch_asset(
                asset, print, source, timeout=timeout, tries=tries, progress=_bar(asset.name)
            )
        except ConsilienceError as error:
            print(f"error: {error}", file=sys.stderr)
            failed.append(asset)
    if failed:
        print(describe_missing(failed, source), file=sys.stderr)
        return 1
    print("all files of others are there")
    return 0


if __name__ == "__main__":
    sys.exit(main())

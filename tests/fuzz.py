"""Feed broken input to the readers of what users bring: only declared errors may come out.

    PYTHONPATH=workflow python tests/fuzz.py --inputs 10000

Inputs are valid ones with bytes changed, cut, doubled or exchanged, the same ones for the same
seed. An input is a fault if anything but a ConsilienceError comes out, if anything is executed,
written or connected to, if it takes longer than a minute or ever more memory. The input lies in
the folder that is named then; ``--only 17`` reads the input of that number alone.
"""

from __future__ import annotations

import argparse
import copy
import faulthandler
import io
import json
import os
import pickle
import random
import re
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image, PngImagePlugin
from safetensors.torch import save

from consilience import (
    classifiers,
    configuration,
    descriptions,
    explain_params,
    images,
    index,
    tables,
    words,
)
from consilience.errors import ConsilienceError

HANGS = 60
"""Seconds that no input may take."""
MEMORY = 4 * 10**9
"""Bytes that no input may make the process take, all of it: PyTorch alone takes 0.3 of them."""
FORBIDDEN = (
    "ctypes",
    "ftplib",
    "glob.glob",
    "http",
    "os.",
    "pty",
    "shutil",
    "smtplib",
    "socket",
    "subprocess",
    "urllib",
    "webbrowser",
)
"""Audit events, or what they begin with, that no reader has any business to raise."""
HARMLESS = ("os.listdir", "os.scandir", "os.putenv", "os.unsetenv")


class Executed(BaseException):
    """What a reader did that it must not; no reader can catch it."""


_watching = False


def watch(on: bool) -> None:
    """Say whether a reader is at work."""
    global _watching
    _watching = on


def audit(event: str, arguments: tuple) -> None:
    """Raise where something is executed, written or connected to while a reader is at work."""
    if not _watching:
        return
    if event == "open":
        _path, mode, flags = arguments
        written = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        if written or (isinstance(mode, str) and set(mode) & set("wxa+")):
            raise Executed(f"{event} {arguments}")
    elif event == "exec":
        if arguments[0].co_filename.startswith("<string"):
            raise Executed(f"{event} of {arguments[0].co_names}")
    elif event.startswith(FORBIDDEN) and event not in HARMLESS:
        raise Executed(f"{event} {arguments}")


def change(data: bytes, others: list[bytes], tokens: list[bytes], rng: random.Random) -> bytes:
    """Change bytes here and there."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 2, 4, 8, 16])):
        spot = rng.randrange(len(data) + 1)
        end = min(len(data), spot + (1 << rng.randrange(8)))
        kind = rng.randrange(10)
        if kind == 0 and data:
            data[min(spot, len(data) - 1)] ^= 1 << rng.randrange(8)
        elif kind == 1 and data:
            data[min(spot, len(data) - 1)] = rng.randrange(256)
        elif kind == 2:
            del data[spot:end]
        elif kind == 3:
            data[spot:spot] = data[spot:end] * rng.choice([1, 1, 2, 20])
        elif kind == 4:
            data[spot:end] = rng.randbytes(end - spot)
        elif kind == 5:  # numbers on the edge
            number = rng.choice([0, 1, -1, 127, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**62])
            form = rng.choice(["<b", "<h", ">h", "<i", ">i", "<q", ">q"])
            size = struct.calcsize(form)
            data[spot : spot + size] = struct.pack(form.upper(), number % (1 << 8 * size))
        elif kind == 6 and rng.random() < 0.3:
            del data[spot:]
        elif kind == 7:
            other = rng.choice(others)
            start = rng.randrange(len(other) + 1)
            data[spot:end] = other[start : start + (1 << rng.randrange(10))]
        elif kind == 8:
            data[spot:spot] = rng.choice(tokens)
        elif kind == 9:
            where = rng.randrange(len(data) + 1)
            data[where:where] = data[spot:end]
    return bytes(data)


def mend_png(data: bytes) -> bytes:
    """Write the checksums of a PNG's chunks anew, so that what was changed is looked at."""
    data, spot = bytearray(data), 8
    while spot + 12 <= len(data):
        (length,) = struct.unpack(">I", data[spot : spot + 4])
        end = spot + 8 + length
        if end + 4 > len(data):
            break
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[spot + 4 : end]))
        spot = end + 4
    return bytes(data)


def change_picture(data, others, tokens, rng) -> bytes:
    data = change(data, others, tokens, rng)
    return mend_png(data) if data.startswith(b"\x89PNG") and rng.random() < 0.7 else data


def change_zip(data, others, tokens, rng) -> bytes:
    """Change a file within a zip file, or the zip file itself."""
    if not data.startswith(b"PK") or rng.random() < 0.3:
        return change(data, others, tokens, rng)
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        names = [name for name in old.namelist() if not name.startswith("code/")]
        pickled = [name for name in names if name.endswith(".pkl")]
        chosen = rng.choice(pickled if pickled and rng.random() < 0.8 else names)
        for name in names:
            part = old.read(name)
            if name == chosen:
                part = change(part, [old.read(n) for n in names], tokens, rng)
            new.writestr(zipfile.ZipInfo(name), part)
    return buffer.getvalue()


@dataclass(frozen=True)
class Reader:
    """What is fed, and to whom.

    Attributes
    ----------
    seeds
        Makes valid inputs, by the suffix of their files.
    read
        Reads a file.
    tokens
        What is inserted now and then.
    change
        Makes another input of one.
    share
        Of the inputs, relative to other readers.
    """

    seeds: Callable[[], list[tuple[str, bytes]]]
    read: Callable[[Path], object]
    tokens: list[bytes] = field(default_factory=lambda: [b"\0", b"\xff", b"\n", b" "])
    change: Callable = change
    share: float = 1


@cache
def picture_seeds():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    colour = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    palette = colour.quantize(8)
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "b" * 50, zip=True)
    lab = colour.convert("LAB")
    del lab.info["icc_profile"]  # says when it was made
    wide = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    made = []
    for picture, kind, options in (
        (colour, "JPEG", {"exif": exif}),
        (colour.convert("CMYK"), "JPEG", {"progressive": True}),
        (colour, "PNG", {"exif": exif, "pnginfo": text}),
        (wide, "PNG", {}),
        (palette, "PNG", {"transparency": 1}),
        (colour.convert("1"), "PNG", {}),
        (palette, "GIF", {"save_all": True, "append_images": [palette] * 2}),
        (colour, "WEBP", {"exif": exif}),
        (colour.convert("RGBA"), "WEBP", {"lossless": True}),
        (colour, "BMP", {}),
        (palette, "BMP", {}),
        (colour, "TIFF", {"compression": "tiff_lzw"}),
        (wide, "TIFF", {"compression": "tiff_adobe_deflate"}),
        (lab, "TIFF", {}),
        (colour.convert("CMYK"), "TIFF", {"compression": "jpeg"}),
        (colour.convert("F"), "TIFF", {}),
        (colour, "PPM", {}),
        (colour, "JPEG2000", {}),
        (colour, "AVIF", {}),
        (colour, "DIB", {}),
    ):
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        made.append((".png", buffer.getvalue()))
    return [*made, (".png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) print\n")]


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


HARM = [Call(os.system, "touch executed"), Call(eval, "open('executed', 'w')"), Call(os.getcwd)]
OPCODES = [bytes([code]) for code in pickle._Unpickler.dispatch]
OPCODES += [b"cos\nsystem\n", b"c__builtin__\neval\n", b"(S'touch executed'\ntR", b"\x85R"]


@cache  # a module gets another name each time that it is traced
def make_archive() -> bytes:
    buffer, net = io.BytesIO(), torch.nn.Linear(2, 2)
    for parameter in net.parameters():
        torch.nn.init.ones_(parameter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(net, torch.zeros(1, 2)), buffer)
    return buffer.getvalue()


@cache
def checkpoint_seeds():
    state = {
        "module.conv.weight": torch.arange(24.0).view(2, 3, 2, 2),
        "module.fc.bias": torch.ones(5, dtype=torch.float16),
        "count": torch.tensor(3),
    }
    made = []
    contents = [
        {"state_dict": state, "epoch": 3, "lr": [0.1, {"a": None}], "best": np.float64(2)},
        {"state_dict": state | {"p": torch.nn.Parameter(torch.ones(2))}},
        *({"state_dict": state, "harm": harm} for harm in HARM),
    ]
    for content in contents:
        for zipped in (True, False):
            if not zipped:
                # Of one storage: several are written in the order of their addresses.
                part = state["module.conv.weight"][:, :2]
                content = content | {"state_dict": {"a": part, "b": part[0]}}
            buffer = io.BytesIO()
            torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
            # An old file knows its storages by their addresses, which differ from run to run.
            data = re.sub(rb"X.\0\0\0[0-9]{9,}", b"X\1\0\0\0" + b"7", buffer.getvalue())
            made.append((".pt", data if not zipped else buffer.getvalue()))
    made.append((".safetensors", save({k: v.contiguous() for k, v in state.items()})))
    return [*made, (".pt", make_archive()), (".pt", pickle.dumps(HARM[0]))]


def param_seeds():
    entry = {
        "labels": (3, 4),
        "hide_color": (1, 2, 3),
        "num_samples": 100,
        "segmentation_fn": "slic",
        "segmentation_params": {"n_segments": 40, "sigma": 1.5},
        "distance_metric": "cosine",
        "random_seed": 2**31 - 1,
        "min_weight": 0.5,
        "hide_rest": True,
    }
    contents = [{"a.jpg": entry, "b.jpg": {}}, {"a.jpg": {"hide_color": None}}, *HARM]
    return [
        (".pkl", pickle.dumps(content, protocol)) for content in contents for protocol in (0, 2, 4)
    ]


def table_seeds():
    row = dict.fromkeys(tables.NEURONS.names)
    row |= {
        "model": "m",
        "layer": "l",
        "unit": 3,
        "status": "ok",
        "candidates": ["é", "b"],
        "doubts": [],
        "top_pictures": ["x"] * 5,
        "similarity": 0.5,
    }
    made = []
    for rows in ([row], [row | {"unit": unit} for unit in range(50)], []):
        with tempfile.TemporaryDirectory() as folder:
            tables.write_table(rows, f"{folder}/t.parquet", tables.NEURONS)
            made.append((".parquet", Path(folder, "t.parquet").read_bytes()))
    return made


def array_seeds():
    buffers = [io.BytesIO(), io.BytesIO()]
    np.savez(buffers[0], a=np.arange(12.0).reshape(3, 4), names=np.array(["x", "é", "z"]))
    np.savez_compressed(buffers[1], a=np.zeros((2, 2), np.uint8))
    return [(".npz", buffer.getvalue()) for buffer in buffers]


STUDY = """\
# A study.
study: mine
seed: 3
world: null
clip: null
probe: []
acts: {dissect: false, lime: true}
pictures:
  - folder: tests
    include: ["*.png", '*.jpg']
models:
  - &net
    name: net
    architecture: squeezenet1_0
    weights: IMAGENET1K_V1
    cam_layer: [features.12, features.11]
  - {<<: *net, name: other}
lime: {num_samples: 1_000, hide_color: [1, 2, 3], kernel_width: 2.5e-1}
title: >-
  Why
  this?
target: top-3
"""


def text_seeds(*texts: str):
    forms = [text.encode() for text in texts]
    forms += [b"\xef\xbb\xbf" + texts[0].replace("\n", "\r\n").encode(), texts[0].encode("utf-16")]
    return lambda: [(".txt", form) for form in forms]


DEFAULT = configuration.read_yaml(configuration.DEFAULT)


def read_study(path: Path) -> None:
    study = configuration._merge(DEFAULT, configuration.read_yaml(path))
    configuration.check_files(configuration.resolve_study(study))


ODD = [None, True, False, 0, -1, 3, 2.0, 10**30, float("nan"), float("inf"), "", " ", "a\n", "é\0"]
ODD += ["*", "../..", "/dev/zero", "tests", "world", [], [[]], {}, {"a": 1}, {1: 2}, [None], ["x"]]
ODD += ["x" * 10_000, [1] * 50, {"folder": "tests"}, "nets:make", "top-3", "config.yaml"]


def change_study(data, _others, _tokens, rng) -> bytes:
    """Put odd values into a study, wherever they do not belong."""
    study = json.loads(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        place: object = study
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = rng.choice(keys)
            inner = place[key]
            if isinstance(inner, dict | list) and inner and rng.random() < 0.75:
                place = inner
                continue
            kind = rng.randrange(6)
            if kind == 0:
                del place[key]
            elif kind == 1 and isinstance(place, dict):
                text = str(key)  # one of the odd values has a number for a key
                name = rng.choice(["x", text + "s", text[:-1], text.upper()])
                place[name] = copy.deepcopy(inner)
            elif kind == 2 and isinstance(place, list):
                place.append(copy.deepcopy(inner))
            else:
                place[key] = copy.deepcopy(rng.choice(ODD))
            break
    return yaml.safe_dump(study, allow_unicode=False).encode()


def study_seeds():
    own = configuration._merge(DEFAULT, yaml.safe_load(STUDY))
    return [(".yaml", json.dumps(study).encode()) for study in (DEFAULT, own)]


YAML_TOKENS = [b"\t", b"&a ", b"*a", b"<<: ", b"- ", b": ", b"? ", b"|\n", b"{", b"[", b"!!python/"]
YAML_TOKENS += [b"!!int ", b"!!set ", b"'", b'"', b"---\n", b"%YAML 9\n", b".nan", b"2024-13-45"]
CSV_TOKENS = [b",", b'"', b'""', b"\n", b"\r", b"\r\n", b";", b"nan", b"1e999", b"-1", b"\0"]
LABELS = 'name,label,more\na.jpg,goldfish,1\n"b ""x"".jpg",tench,\n'
PUBLISHED = "layer,unit,description,similarity\nlayer4,0,ball,0.5\nlayer4,1,,\nfc,0,a box,-1e-3\n"
CATEGORIES = "word,category\nball,man-made\nwater,natural\n"
CLASSES = "/a/airfield 0\n/b/beach/sand 1\n"


def read_published(path: Path) -> None:
    """Read a file in either form; it is refused where both refuse it."""
    refused = []
    for form, paths in (("clip-dissect", path), ("netdissect", {"layer4": path})):
        try:
            descriptions.read_published("m", form, paths)
        except ConsilienceError as error:
            refused.append(error)
    if len(refused) == 2:
        raise refused[0]


READERS = {
    "pictures": Reader(
        picture_seeds,
        lambda path: images.decode_image(path.read_bytes(), path.name),
        [b"IHDR", b"Exif\0\0", b"\xff\xd9", b"\xff\xd8", b"II*\0", b"RIFF", b"acTL"],
        change_picture,
        4,
    ),
    "masks": Reader(
        picture_seeds,
        lambda path: images.decode_mask(path.read_bytes(), path.name),
        change=change_picture,
    ),
    "checkpoints": Reader(checkpoint_seeds, classifiers.read_state_dict, OPCODES, change_zip, 3),
    "explain_params": Reader(
        param_seeds,
        lambda path: explain_params.check_params(path, ["a.jpg", "b.jpg"]),
        OPCODES,
        share=4,
    ),
    "tables": Reader(table_seeds, lambda path: tables.read_rows(path, tables.NEURONS), share=2),
    "arrays": Reader(array_seeds, tables.read_arrays, [b"'descr': '|O'", b"(9" * 9], change_zip),
    "concepts": Reader(
        text_seeds("ball\na red box\ncafé\n\n犬\nball\n"),
        words.read_concepts,
        ["\u200b".encode(), b"\r", b"\x85", "\u2028".encode(), b"\xef\xbb\xbf", b"\0"],
        share=2,
    ),
    "class names": Reader(text_seeds("crane\ncafé\n\ncrane\n", CLASSES), words.read_class_names),
    "labels": Reader(text_seeds(LABELS), index.read_labels, CSV_TOKENS, share=2),
    "descriptions": Reader(
        text_seeds(PUBLISHED, "unit,label,score\n1,ball-c,0.25\n2,sky_blue-s,\n"),
        read_published,
        CSV_TOKENS,
        share=2,
    ),
    "categories": Reader(text_seeds(CATEGORIES), descriptions.read_categories, CSV_TOKENS),
    "configuration": Reader(text_seeds(STUDY), read_study, YAML_TOKENS, share=0.7),
    "studies": Reader(study_seeds, read_study, change=change_study, share=0.5),
}


def make_input(name: str, number: int, seed: int, seeds: list, reader: Reader) -> tuple[str, bytes]:
    """Return an input by its number: its suffix and what is in the file."""
    rng = random.Random(f"{name} {seed} {number}")
    suffix, data = rng.choice(seeds)
    others = [other for _, other in seeds]
    return suffix, reader.change(data, others, reader.tokens, rng)


def feed(
    name: str, numbers: range, seed: int, folder: Path, readers: Mapping[str, Reader] = READERS
) -> dict:
    """Feed a reader inputs; return what came out.

    Returns
    -------
    dict
        ``inputs``, ``taken``, ``refused``, the CPU ``seconds`` that it took, and ``faults``: of
        each its number, the exception's last lines, and where the input lies.
    """
    reader = readers[name]
    seeds = reader.seeds()
    for suffix, data in seeds:  # what is imported late is imported now
        path = folder / f"seed{suffix}"
        path.write_bytes(data)
        with suppress(ConsilienceError):
            reader.read(path)
    found = {"inputs": 0, "taken": 0, "refused": 0, "faults": []}
    began = time.process_time()
    for number in numbers:
        suffix, data = make_input(name, number, seed, seeds, reader)
        path = folder / f"{name.replace(' ', '_')}{suffix}"
        path.write_bytes(data)
        (folder / "number").write_text(f"{name} {number}")
        faulthandler.dump_traceback_later(HANGS, exit=True)
        found["inputs"] += 1
        try:
            watch(True)
            reader.read(path)
            found["taken"] += 1
        except ConsilienceError as error:
            found["refused"] += 1
            fault = None if str(error) else "an error that says nothing"
        except (Exception, Executed):
            fault = traceback.format_exc()
        else:
            fault = None
        finally:
            watch(False)
            faulthandler.cancel_dump_traceback_later()
        if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > MEMORY:
            fault = fault or "takes more memory than it may"
        if fault:
            kept = folder / f"fault-{name.replace(' ', '_')}-{number}{suffix}"
            path.rename(kept)
            found["faults"].append({"number": number, "said": fault[-1500:], "input": str(kept)})
            if len(found["faults"]) >= 20 or "memory" in fault:
                break
    return found | {"seconds": round(time.process_time() - began, 1)}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; print what came out as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=10_000, help="in all (%(default)s)")
    parser.add_argument("--reader", action="append", choices=READERS, help="all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of one input")
    options = parser.parse_args(arguments)
    names = options.reader or list(READERS)
    shares = {name: READERS[name].share for name in names}
    os.chdir(Path(__file__).parent.parent)
    Image.init()
    sys.addaudithook(audit)
    place = "/dev/shm" if os.path.isdir("/dev/shm") else None
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=place))
    print(f"inputs lie in {folder}", file=sys.stderr)
    found = {}
    for name in names:
        count = round(options.inputs * shares[name] / sum(shares.values()))
        numbers = range(count) if options.only is None else range(options.only, options.only + 1)
        found[name] = feed(name, numbers, options.seed, folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"readers": found, "peak": peak}, indent=1))
    if any(entry["faults"] for entry in found.values()):
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())

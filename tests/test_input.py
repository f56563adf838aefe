"""Every kind of bad or odd input in docs/input.md, and what becomes of it.

A row of a table there is a case here, and the other way round; what becomes of it (taken, skipped,
stops) is what the page says.
"""

import copy
import errno
import html
import io
import os
import pickle
import re
import socket
import struct
import subprocess
import tempfile
import zipfile
import zlib
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

import test_dissection
from conftest import REPOSITORY
from consilience import (
    check,
    classifiers,
    clip_encoder,
    clip_training,
    configuration,
    dissection,
    explain_params,
    files,
    images,
    index,
    predictions,
    tables,
    words,
)
from consilience.errors import ConsilienceError
from test_pickles import Call, build
from test_workflow import snakemake

PAGE = REPOSITORY / "docs/input.md"
PATTERNS = configuration.read_yaml(configuration.SCHEMA)["properties"]["pictures"]["items"][
    "properties"
]["include"]["default"]


def rows_of_the_page():
    """Names of the kinds, and what becomes of each."""
    row = r"^\| `([a-z0-9-]+)` \|.*\| (taken|skipped|stops|passed over)[^|]*\|$"
    rows = re.findall(row, PAGE.read_text(), re.MULTILINE)
    assert len(dict(rows)) == len(rows)
    return dict(rows)


CASES = {}


def case(function, **kinds):
    """Register kinds, each with the arguments that ``function`` takes after the folder."""
    for name, arguments in kinds.items():
        CASES[name.replace("_", "-")] = (function, arguments)


def refused(call, said):
    """Return ``stops`` if the call raises a declared error that says this."""
    with pytest.raises(ConsilienceError, match=said) as caught:
        call()
    assert "Traceback" not in str(caught.value)
    return "stops"


# Pictures


def encode(picture, form="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def noise(*shape, kind=np.uint8):
    return np.random.default_rng(0).integers(0, np.iinfo(kind).max, shape, dtype=kind)


GOOD = encode(Image.fromarray(noise(9, 12, 3)))
RED = Image.new("RGB", (6, 4), (200, 30, 40))


def png_of_size(width, height):
    """The start of a PNG of any size."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    body = b"IDAT" + zlib.compress(b"\0" * 1000)
    chunks = [
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (head, body)
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(Image.fromarray(noise(4, 6, 3)), exif=exif)


def clear_palette():
    picture = Image.new("P", (6, 4))
    picture.putpalette([255, 0, 0])
    return encode(picture, transparency=0)


def animation(form):
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "lime", "blue")]
    return encode(frames[0], form, save_all=True, append_images=frames[1:])


def take_folder(folder, tmp_path, **more):
    """Index a folder and decode what it holds: rows of PICTURES by name."""
    source = {"folder": str(folder), "include": PATTERNS, "labels": None, **more}
    (only,) = index.write_index([source], 1, tmp_path / "index")
    rows = images.describe_files(index.read_index(only))
    tables.make_table(rows, tables.PICTURES)  # also what no UTF-8 can say
    stops = [row for row in rows if row.get("error")]
    if stops:
        # The same folder in a study that is to stop.
        def stop():
            index.write_index([source], 1, tmp_path / "stopping", "stop")
            images.refuse_unusable(rows)

        with pytest.raises(ConsilienceError) as caught:
            stop()
        assert all(row["error"] in str(caught.value) for row in stops)
    return {row["name"]: row for row in rows}


def picture(tmp_path, make, said=None, name="x.png", good=True):
    """Take a folder with a good picture and another; say what became of the other."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    if good:
        (folder / "good.png").write_bytes(GOOD)
    if callable(make):
        make(folder)
    else:
        (folder / name).write_bytes(make)
    rows = take_folder(folder, tmp_path)
    if good:
        assert not rows.pop("good.png").get("error")
    for row in rows.values():
        if row.get("error"):
            assert "\n" not in row["error"]
            assert re.search(said, row["error"]), row["error"]
            assert "0x" not in row["error"]  # an address would differ from run to run
        else:
            seen = images.Transform(24, (20, 20)).fit(images.read_picture(row))
            if said is not None:
                assert said(row, images.read_picture(row), seen)
    assert rows
    (outcome,) = {"skipped" if row.get("error") else "taken" for row in rows.values()}
    return outcome


def shows(colour):
    """Whether the picture is of one colour, within what JPEG does to it."""
    return lambda row, picture, seen: np.abs(np.asarray(picture).astype(int) - colour).max() < 12


def is_size(width, height):
    return lambda row, picture, seen: (row["width"], row["height"]) == (width, height)


def sparse(folder):
    with open(folder / "x.png", "wb") as file:
        file.truncate(files.LARGEST_PICTURE + 1)


def nonfinite():
    values = np.ones((4, 4), np.float32)
    values[0, 0] = np.nan
    return encode(Image.fromarray(values), "TIFF")


DECODES = "does not decode as a picture"
case(
    picture,
    picture_truncated=(
        encode(Image.fromarray(noise(99, 99, 3)), "JPEG")[:2000],
        f"x.png: {DECODES}",
    ),
    picture_empty=(b"", rf"{DECODES} \(the file is empty"),
    picture_text=(b"This is no picture.", rf"{DECODES} \(no kind of picture that is known"),
    picture_svg=(b"<svg xmlns='http://www.w3.org/2000/svg'/>", rf"{DECODES} \(no kind of picture"),
    picture_eps=(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", rf"{DECODES} \(no kind of"),
    picture_suffix=(encode(RED, "JPEG", quality=100), shows((200, 30, 40)), "x.png"),
    picture_cmyk=(encode(Image.new("CMYK", (6, 4), (0, 255, 255, 0)), "JPEG"), shows((254, 0, 0))),
    picture_16_bit=(encode(Image.fromarray(np.full((4, 6), 25700, np.uint16))), shows(100)),
    picture_32_bit=(
        encode(Image.fromarray(np.full((4, 6), 70000, np.int32)), "TIFF"),
        r"values reach from 70000 to 70000, not from 0 to 65535",
    ),
    picture_not_finite=(nonfinite(), "values that are not finite"),
    picture_grey=(encode(Image.new("L", (6, 4), 77)), shows(77)),
    picture_bilevel=(encode(Image.new("1", (6, 4), 1)), shows(255)),
    picture_palette_alpha=(clear_palette(), shows(255)),
    picture_lab=(encode(RED.convert("LAB"), "TIFF"), shows((200, 30, 40))),
    picture_animated=(animation("GIF"), shows((255, 0, 0))),
    picture_animated_webp=(animation("WEBP"), shows((255, 0, 0))),
    picture_exif_rotated=(rotated(), is_size(4, 6)),
    picture_1x1=(encode(Image.new("RGB", (1, 1), (9, 8, 7))), is_size(1, 1)),
    picture_1x5000=(encode(Image.new("RGB", (1, 5000))), is_size(1, 5000)),
    picture_5000x1=(encode(Image.new("RGB", (5000, 1))), is_size(5000, 1)),
    picture_200_megapixels=(png_of_size(20_000, 10_000), "over 89478485 pixels; scale"),
    picture_2_gigapixels=(png_of_size(2**31 - 1, 1), "over 89478485 pixels; scale|does not decode"),
    picture_over_1_gb=(sparse, "has 1,074 MB; at most 1,074 MB are read"),
)


# Names


def named(*names):
    def make(folder):
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(GOOD)

    return make


def called(*names):
    """Whether the rows are of these names."""
    return lambda row, picture, seen: row["name"] in names


NAMES = {
    "name-unicode": "Übergröße 犬 🐕.png",
    "name-spaces": "  a  picture .png",
    "name-quotes": 'it\'s "a" `picture` $(touch x).png',
    "name-newline": "two\nlines\r.png",
    "name-leading-dash": "--help.png",
    "name-braces": "{batch}%s{{.png",
    "name-markup": "<script>alert(1)<&>.png",
    "name-backwards": "a\u202egnp.png",
    "name-long": "x" * 251 + ".png",
}
for kind, name in NAMES.items():
    case(picture, **{kind: (named(name), called(name))})


def not_utf8(folder):
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(GOOD)


def two_folders(tmp_path):
    for folder in ("a", "b"):
        named("x.png")(tmp_path / folder)
    sources = [
        {"folder": str(tmp_path / folder), "include": PATTERNS, "labels": None} for folder in "ab"
    ]
    said = r"b: 'x.png' is also in another folder; rename one"
    return refused(lambda: index.write_index(sources, 1, tmp_path / "index"), said)


def passed_over(tmp_path):
    named("photographs/good.png", "photographs/.hidden.png", "photographs/.cache/x.png")(tmp_path)
    (tmp_path / "photographs/notes.txt").touch()
    assert list(take_folder(tmp_path / "photographs", tmp_path)) == ["good.png"]
    return "passed over"


case(
    picture,
    name_not_utf8=(not_utf8, r"caf\\xe9\.png: has a name that is not UTF-8; rename it"),
    name_case=(named("X.png", "x.png", "x.PNG"), called("X.png", "x.png", "x.PNG")),
    name_nested=(named("x/x.png", "x/y/x.png"), called("x/x.png", "x/y/x.png")),
)
case(two_folders, name_twice=())
case(passed_over, name_hidden=())


# Files that are none, links and folders


@contextmanager
def as_nobody():
    """Give a folder, and go on without the rights of root, to whom everything may be read."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o777)
        user, group = os.geteuid(), os.getegid()
        try:
            if user == 0:
                os.setegid(65534)
                os.seteuid(65534)
            if not os.access(place, os.W_OK, effective_ids=True):
                pytest.skip(f"{place} cannot be reached by another user than root")
            yield Path(place)
        except PermissionError as error:
            if user or os.geteuid():
                raise
            pytest.skip(f"runs as root, who may read everything, and cannot be another ({error})")
        finally:
            os.seteuid(user)
            os.setegid(group)


def unreadable(_tmp_path, inner, said):
    with as_nobody() as place:
        named("photographs/good.png", f"photographs/{inner}")(place)
        target = place / "photographs" / Path(inner).parts[0]
        target.chmod(0)
        try:
            rows = take_folder(place / "photographs", place)
        finally:
            target.chmod(0o755)
    assert not rows.pop("good.png").get("error")
    (row,) = rows.values()
    assert re.search(said, row["error"])
    return "skipped"


def pipe(folder):
    os.mkfifo(folder / "x.png")


def bind_socket(folder):
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(folder, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{here}/x.png")  # the path of a socket must be short
        os.close(here)


def link(target):
    return lambda folder: (folder / "x.png").symlink_to(target)


def loop(folder):
    (folder / "x.png").symlink_to("y.png")
    (folder / "y.png").symlink_to("x.png")


def good_link(folder):
    (folder.parent / "elsewhere").write_bytes(GOOD)
    (folder / "x.png").symlink_to(folder.parent / "elsewhere")


def deep_folder(tmp_path):
    """Deeper than Python's own walk through folders goes."""
    here = os.getcwd()
    try:
        os.chdir(tmp_path)
        for _ in range(1200):
            os.mkdir("x")
            os.chdir("x")
        Path("x.png").write_bytes(GOOD)
        os.chdir(here)
        (row,) = take_folder(tmp_path / "x", tmp_path).values()
    finally:
        os.chdir(here)
        subprocess.run(["rm", "-r", tmp_path / "x"], check=True)  # nor does its own removal
    assert row["name"] == "x/" * 1199 + "x.png"
    return "skipped" if row.get("error") else "taken"


def stops_at_folder(tmp_path, make, said):
    make(tmp_path / "photographs")
    return refused(lambda: take_folder(tmp_path / "photographs", tmp_path), said)


def only_pipe(folder):
    folder.mkdir()
    pipe(folder)


case(
    picture,
    file_pipe=(pipe, "x.png: is a named pipe, not a file"),
    file_socket=(bind_socket, "x.png: is a socket, not a file"),
    file_device=(link("/dev/zero"), "x.png: is a device, not a file"),
    link_file=(good_link,),
    link_loop=(loop, r"(x|y)\.png: is a link that leads nowhere \(Too many levels"),
    link_nowhere=(link("gone"), r"x.png: is a link that leads nowhere \(No such file"),
    link_folder=(link("."), "x.png/: is a link to a folder, which is not followed"),
    folder_named_png=(named("x.png/y.png"), called("x.png/y.png")),
)
case(deep_folder, folder_deep=())
case(
    unreadable,
    file_unreadable=("x.png", r"x\.png: cannot be read \(Permission denied"),
    folder_unreadable=("inner/x.png", r"inner/: cannot be listed \(Permission denied"),
)
case(
    stops_at_folder,
    folder_missing=(lambda folder: None, r"photographs: cannot be listed \(No such file"),
    folder_empty=(Path.mkdir, r"photographs: holds no picture that matches \*\.jpg"),
    folder_all_bad=(
        only_pipe,
        r"photographs: holds no picture that can be read; the first: x\.png",
    ),
)


def stops_study(tmp_path):
    """What is skipped otherwise stops a study that says so, and all of it is named."""
    folder = tmp_path / "photographs"
    named("good.png")(folder)
    (folder / "text.png").write_bytes(b"no picture")
    (folder / "empty.png").touch()
    rows = list(take_folder(folder, tmp_path).values())
    said = r"empty\.png: .*\n.*text\.png: .*\n.*set on_bad_picture: skip"
    return refused(lambda: images.refuse_unusable(rows), said)


case(stops_study, bad_picture_stops=())


# Checkpoints


NET = {
    "name": "net",
    "architecture": "squeezenet1_1",
    "classes": ["cat", "dog", "fish"],
    "transform": {"crop": 64},
}


@cache
def weights():
    torch.manual_seed(0)
    return classifiers.build_architecture("squeezenet1_1", 3).state_dict()


def saved(state, zipped=True):
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def changed(key="classifier.1.bias", **more):
    return lambda: saved({**weights(), key: weights()[key], **more})


def checkpoint(tmp_path, make, said=None, name="net.pt", **spec):
    """Load a model from a file as the check does."""
    path = tmp_path / name
    proof = tmp_path / "executed"
    data = make(path) if make.__code__.co_argcount else make()
    if data is not None:
        path.write_bytes(data)
    spec = {**NET, "checkpoint": str(path), **spec}

    def load():
        check.check_models([spec], {"net": []}, "predicted", ["net"], print)

    if said:
        outcome = refused(load, said)
        assert not proof.exists()
        return outcome
    load()
    loaded = classifiers.load_classifier(spec)
    assert torch.equal(loaded.model.classifier[1].bias, weights()["classifier.1.bias"].float())
    return "taken"


NESTED_KEY = build(b"})", b"\x85" * 100_000, b"K\x01s")


def replaced(pickled):
    """A zip file of PyTorch with another pickle."""
    buffer = io.BytesIO()
    plain = io.BytesIO(saved({"a": torch.zeros(2)}))
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith("data.pkl") else old.read(name))
    return buffer.getvalue()


def stretched():
    """A storage of one number shown as 10¹⁴."""
    return saved({"a": torch.zeros(1).expand(10**7, 10**7)})


def lying_over_one_another():
    """Two names in a zip file for the same bytes, as often as one likes."""
    buffer = io.BytesIO()
    state = {"a": torch.zeros(1000), "b": torch.ones(1000)}
    torch.save(state, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(out := io.BytesIO(), "w") as new:
        for name in old.namelist():
            if not name.endswith("data/1"):
                new.writestr(name, old.read(name))
        twin = copy.copy(new.getinfo("archive/data/0"))
        twin.filename = twin.orig_filename = "archive/data/1"
        new.filelist.append(twin)
        new.NameToInfo[twin.filename] = twin
        new._didModify = True
    return out.getvalue()


def harm(path, zipped):
    call = Call(os.mkdir, str(path.parent / "executed"))
    return saved({"state_dict": weights(), "harm": call}, zipped)


def half(path):
    return saved({k: v.half() if v.is_floating_point() else v for k, v in weights().items()})


READABLE = "net.pt: not a readable checkpoint"
case(
    checkpoint,
    checkpoint_good=(lambda: saved(weights()),),
    checkpoint_old=(lambda: saved(weights(), zipped=False),),
    checkpoint_nested=(lambda: saved({"epoch": 3, "state_dict": weights(), "lr": 0.1}),),
    checkpoint_parallel=(lambda: saved({f"module.{k}": v for k, v in weights().items()}),),
    checkpoint_double=(
        lambda: saved(
            {k: v.double() if v.is_floating_point() else v for k, v in weights().items()}
        ),
    ),
    checkpoint_missing=(lambda: None, "net.pt: no such checkpoint"),
    checkpoint_folder=(lambda path: path.mkdir(), "net.pt: no such checkpoint"),
    checkpoint_empty=(lambda: b"", READABLE),
    checkpoint_truncated=(lambda: saved(weights())[:100_000], READABLE),
    checkpoint_truncated_old=(
        lambda: saved(weights(), zipped=False)[:-1000],
        rf"{READABLE} \(a storage has not the length",
    ),
    checkpoint_flipped=(
        lambda: (lambda d: d[: len(d) // 2] + bytes([d[len(d) // 2] ^ 1]) + d[len(d) // 2 + 1 :])(
            saved(weights())
        ),
        rf"{READABLE} \(Bad CRC-32",
    ),
    checkpoint_web_page=(lambda: b"<!DOCTYPE html><title>404</title>", READABLE),
    checkpoint_architecture=(
        lambda: saved(classifiers.build_architecture("squeezenet1_0", 3).state_dict()),
        r"does not fit squeezenet1_1 with 3 classes: .*features\.",
    ),
    checkpoint_missing_keys=(
        lambda: saved({k: v for k, v in weights().items() if not k.startswith("features.3")}),
        r"lacks 'features\.3\..* and \d+ more",
    ),
    checkpoint_extra_keys=(
        changed(extra=torch.zeros(2)),
        r"has unknown 'extra' and 0 more",
    ),
    checkpoint_classes=(
        lambda: saved(classifiers.build_architecture("squeezenet1_1", 4).state_dict()),
        r"with 3 classes: classifier\.1\.weight is \(4, 512, 1, 1\), not \(3, 512, 1, 1\)",
    ),
    checkpoint_nan=(
        changed(**{"classifier.1.bias": torch.tensor([0, float("nan"), 0])}),
        r"'classifier\.1\.bias' holds values that are not finite",
    ),
    checkpoint_overflow=(
        changed(**{"classifier.1.bias": torch.tensor([0, 1e300, 0], dtype=torch.float64)}),
        r"'classifier\.1\.bias' holds values that are not finite",
    ),
    checkpoint_quantised=(
        changed(**{"classifier.1.bias": torch.tensor([1, 2, 3], dtype=torch.int8)}),
        r"classifier\.1\.bias holds int8, not numbers with a fraction",
    ),
    checkpoint_complex=(
        changed(**{"classifier.1.bias": torch.tensor([1, 2, 3j])}),
        r"torch\.ComplexFloatStorage, which no weights need: refused",
    ),
    checkpoint_no_tensors=(lambda: saved({"lr": 0.1}), "holds no state dict"),
    checkpoint_whole_model=(
        lambda: saved(torch.nn.Linear(2, 2)),
        r"wants to use torch\.nn\.modules\.linear\.Linear",
    ),
    checkpoint_malicious=(
        lambda path: harm(path, True),
        rf"wants to use {os.name}\.mkdir, which no weights need: refused",
    ),
    checkpoint_malicious_old=(
        lambda path: harm(path, False),
        rf"wants to use {os.name}\.mkdir, which no weights need: refused",
    ),
    checkpoint_crashing=(lambda: replaced(NESTED_KEY), "a tuple as a key"),
    checkpoint_stretched=(stretched, "a tensor is much larger than its storage: refused"),
    checkpoint_overlapping=(
        lying_over_one_another,
        "its parts are larger than the file",
    ),
)


def half_precision(tmp_path, kind):
    """Weights are loaded as float32, with the digits that they have."""
    state = {k: v.to(kind) if v.is_floating_point() else v for k, v in weights().items()}
    torch.save(state, tmp_path / "net.pt")
    loaded = classifiers.load_classifier({**NET, "checkpoint": str(tmp_path / "net.pt")})
    bias, expected = loaded.model.classifier[1].bias, state["classifier.1.bias"]
    assert bias.dtype == torch.float32
    assert torch.equal(bias, expected.float())
    return "taken"


def safetensors(tmp_path, cut, said=None):
    save_file({k: v.contiguous() for k, v in weights().items()}, tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    data = whole[:cut] if cut else whole
    return checkpoint(tmp_path, lambda: data, said, name="net.safetensors")


def clip(tmp_path, content, said):
    torch.save(content, tmp_path / "clip.pt")
    return refused(lambda: clip_encoder.load_clip(tmp_path / "clip.pt"), said)


case(half_precision, checkpoint_half=(torch.float16,), checkpoint_bfloat16=(torch.bfloat16,))
case(
    safetensors,
    checkpoint_safetensors=(0,),
    checkpoint_safetensors_cut=(100_000, r"net\.safetensors: not a readable checkpoint"),
)
case(
    clip,
    clip_other_network=({"a": torch.zeros(2)}, r"clip\.pt': not a CLIP that clip\.load takes"),
    clip_quantised=({"a": torch.zeros(2, dtype=torch.int8)}, "a holds int8, not numbers with a"),
)


# Lists of words


def concepts(tmp_path, content, expected=None, said=None):
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    if said:
        study = mine(tmp_path, acts={"dissect": True}, concepts=str(path), clip={"name": "RN50"})
        study["models"][0]["dissect_layers"] = ["features.12"]
        study["dissection"] = {}
        study["probe"] = study["pictures"]
        found = configuration.resolve_study(study)
        return refused(lambda: configuration.check_files(found), rf"words\.txt(: |, ){said}")
    assert words.read_concepts(path).words == expected
    return "taken"


def one_word(tmp_path):
    """Every neuron gets it, and no label beats chance."""
    activations, embeddings, five = test_dissection.planted()
    only = dissection.Concepts(five.words[:1], five.vectors[:1])
    layers = {"l": activations}
    probe = test_dissection.write_probe(
        tmp_path, test_dissection.PICTURES, layers, embeddings, held_out=0.25
    )
    rows, _ = dissection.dissect_model("m", probe, only, ["l"], settings={"top_k": 8})
    assert {row["concept"] for row in rows} == {"ball"}
    for row in rows:
        assert row["margin"] is row["runner_up_auroc"] is None
        assert row["stands"] is False
        assert "chance" in row["doubts"]
    tables.make_table(rows, tables.NEURONS)
    return "taken"


def huge_list(tmp_path):
    with open(tmp_path / "words.txt", "wb") as file:
        file.truncate(files.LARGEST_TEXT + 1)
    said = r"words\.txt: has 67 MB; at most 67 MB are read"
    return refused(lambda: words.read_concepts(tmp_path / "words.txt"), said)


def long_word(tmp_path):
    """How many tokens a word is, only CLIP can tell."""
    encoder = clip_encoder.ClipEncoder(clip_training.build_small_clip(0), None)
    said = r"text 'Donaud.*longer than the 77 tokens that CLIP takes; shorten it"
    return refused(lambda: encoder.embed_texts(["ball", "Donaudampfschiff" * 20]), said)


case(
    concepts,
    concepts_bom_crlf=(b"\xef\xbb\xbfball\r\na red box\r\n", ("ball", "a red box")),
    concepts_mac=(b"ball\rbox\r", ("ball", "box")),
    concepts_repeated=(b"ball\n\nbox\n ball\n", ("ball", "box")),
    concepts_invisible=("gold\u200bfish\n\ufeff\n".encode(), ("goldfish",)),
    concepts_empty=(b"", None, "no concept in it; write one a line"),
    concepts_blank=(b"\n \n\t\n", None, "no concept in it; write one a line"),
    concepts_binary=(GOOD, None, r"line 1: not UTF-8 text \(byte 0\)"),
    concepts_utf16=("ball\n".encode("utf-16"), None, r"line 1: not UTF-8 text \(byte 0\)"),
    concepts_latin1=(b"ball\ncaf\xe9\n", None, r"line 2: not UTF-8 text \(byte 8\); save it as"),
    concepts_long=(
        b"ball\n" + b"very " * 75 + b"long\n",
        None,
        "line 2: 'very .* 76 words",
    ),
    concepts_control=(b"ball\nb\x1box\n", None, r"line 2: 'b\\x1box' holds control characters"),
)
case(one_word, concepts_one=())
case(huge_list, concepts_huge=())
case(long_word, concepts_tokens=())


def class_names(tmp_path, content, said=None):
    path = tmp_path / "classes.txt"
    path.write_bytes(content)
    return checkpoint(tmp_path, lambda: saved(weights()), said, classes=str(path))


def one_name_twice(tmp_path):
    """Such as torchvision's two cranes: a name alone does not say which."""

    class Bright(torch.nn.Module):
        def forward(self, batch):
            return batch.mean(dim=(2, 3))

    names = ("crane", "dog", "crane")
    classifier = classifiers.Classifier("net", Bright(), names, images.Transform(crop=(8, 8)))
    blue = np.zeros((8, 8, 3), np.uint8) + np.uint8([0, 0, 200])
    views = [{"picture": "a", "height": 8, "width": 8, "view": images.encode_png(blue)}]
    (row,) = predictions.predict(classifier, views, {"a": "crane"})
    assert (row["predicted_index"], row["label_index"], row["correct"]) == (2, 2, True)
    for target in ("crane", "labelled"):
        with pytest.raises(ConsilienceError, match=r"2 classes named 'crane'; give one .* 0, 2"):
            list(predictions.predict(classifier, views, {"a": "crane"}, target))
    return "taken"


case(
    class_names,
    classes_bom_crlf=(b"\xef\xbb\xbfcat\r\ndog\r\nfish\r\n\r\n",),
    classes_too_few=(
        b"cat\ndog\n",
        r"does not fit squeezenet1_1 with 2 classes: .*\(3, 512, 1, 1\)",
    ),
    classes_too_many=(b"a\nb\nc\nd\n", r"does not fit squeezenet1_1 with 4 classes"),
    classes_empty=(b"\n\n", r"classes\.txt: no class in it; write one a line"),
    classes_binary=(GOOD, r"classes\.txt, line 1: not UTF-8 text"),
    classes_disordered=(b"/a/cat 0\n/d/dog 2\n/f/fish 1\n", "line 2: numbered 2 instead of 1"),
)
case(one_name_twice, classes_repeated=())


# Labels, masks and other tables


def labels(tmp_path, content, said=None):
    folder = tmp_path / "photographs"
    named("x.png", "y.png")(folder)
    (tmp_path / "labels.csv").write_bytes(content)

    def take():
        return take_folder(folder, tmp_path, labels=str(tmp_path / "labels.csv"))

    if said:
        return refused(take, said)
    assert [row["object"] for row in take().values()] == ["cat", None]
    return "taken"


LABELS = rb"labels\.csv"
case(
    labels,
    labels_bom_crlf=(b"\xef\xbb\xbfname,label\r\nx.png, cat \r\n",),
    labels_more_columns=(b"label,who,name\ncat,me,x.png\n",),
    labels_no_column=(b"x.png,cat\n", r"labels\.csv, line 1: there is no column 'name' or 'label'"),
    labels_semicolons=(b"name;label\nx.png;cat\n", r"labels\.csv, line 1: there is no column"),
    labels_ragged=(b"name,label\nx.png,cat,dog\n", r"labels\.csv, line 2: 3 values for 2 columns"),
    labels_quotes=(b'name,label\n"x.png,cat\n', r"labels\.csv, line 3?2?: unexpected end of data"),
    labels_blank=(b"name,label\nx.png,\n", r"labels\.csv, line 2: the label is empty"),
    labels_twice=(b"name,label\nx.png,a\nx.png,b\n", r"labels\.csv, line 3: 'x\.png' is labelled"),
    labels_unknown=(b"name,label\nz.png,cat\n", r"labels\.csv: 'z\.png' is not in the folder"),
    labels_empty=(b"name,label\n", r"labels\.csv: has no rows below its header"),
    labels_spreadsheet=(b"PK\x03\x04\x14\x00\x06\x00", r"labels\.csv, line 1: not UTF-8 text"),
)


def mask(tmp_path, make, said=None, name="x.png", size=(12, 9)):
    folder, masks = tmp_path / "photographs", tmp_path / "masks"
    named("x.png")(folder)
    masks.mkdir()
    if callable(make):
        make(masks)
    else:
        (masks / name).write_bytes(make)
    if said:
        return refused(lambda: take_folder(folder, tmp_path, masks=str(masks)), said)
    (row,) = take_folder(folder, tmp_path, masks=str(masks)).values()
    inside = images.decode_png(row["mask_visible"])
    assert inside.shape == (9, 12)
    assert (inside > 0).sum() == 6
    return "taken"


def masked(mode, **options):
    grey = np.zeros((9, 12), np.uint8)
    grey[2:4, 3:6] = 255
    return encode(Image.fromarray(grey).convert(mode), **options)


def two_pictures(tmp_path):
    named("photographs/x.png", "photographs/x.jpg", "masks/x.png")(tmp_path)
    said = "'x.jpg' and 'x.png' share a mask; rename one"
    masks = str(tmp_path / "masks")
    return refused(lambda: take_folder(tmp_path / "photographs", tmp_path, masks=masks), said)


case(
    mask,
    mask_bilevel=(masked("1"),),
    mask_colour=(masked("RGB"),),
    mask_palette=(masked("P"),),
    mask_16_bit=(
        encode(
            Image.fromarray((np.asarray(Image.open(io.BytesIO(masked("L")))) > 0) * np.uint16(1))
        ),
    ),
    mask_size=(encode(Image.new("L", (5, 5))), r"masks/x\.png: this mask has 5 × 5 pixels and its"),
    mask_broken=(b"no picture", r"masks/x\.png: does not decode .*; save the mask as a PNG anew"),
    mask_stray=(masked("L"), r"masks/z\.png: is the mask of no picture", "z.png"),
    mask_pipe=(pipe, r"masks/x\.png: is a named pipe, not a file"),
    mask_none=(lambda folder: None, "masks: holds no mask; put PNG files there"),
    mask_twice=(named("x.png", "x.PNG"), r"are masks of one picture; keep one"),
)
case(two_pictures, mask_shared=())


def published(tmp_path, content, said, format="clip-dissect", **more):
    """As the workflow finds it, before any job."""
    path = tmp_path / "published.csv"
    path.write_bytes(content)
    study = mine(tmp_path, models=[], pictures=[], acts=dict.fromkeys(["cam", "lime"], False))
    study["published"] = [{"name": "p", "format": format, "path": str(path)}]
    found = configuration.resolve_study(study)
    return refused(lambda: configuration.check_files(found), said)


HEADER = b"layer,unit,description,similarity\n"
case(
    published,
    published_columns=(b"unit,label\n0,a\n", r"published\.csv, line 1: there is no column 'layer'"),
    published_unit=(
        HEADER + b"l,x,a,1\n",
        r"published\.csv, line 2: unit 'x' is not a whole number",
    ),
    published_number=(HEADER + b"l,0,a,inf\n", r"line 2: similarity 'inf' is not a finite number"),
    published_twice=(HEADER + b"l,0,a,1\nl,0,a,1\n", r"line 3: layer 'l', unit 0 is there twice"),
    published_header_twice=(b"layer,unit,unit,description,similarity\n", "'unit' is there twice"),
    published_null=(HEADER + b"l,0,a\0,1\n", r"published\.csv, line 2: not UTF-8 text"),
)


# Parameters of LIME


def params(tmp_path, content, said=None):
    path, proof = tmp_path / "p.pkl", tmp_path / "executed"
    path.write_bytes(content(proof) if callable(content) else content)
    outcome = refused(lambda: explain_params.check_params(path, ["x.png"]), said)
    assert not proof.exists()
    if "built-in" in said:  # before any job already
        study = mine(tmp_path, acts={"lime": True}, lime={"params": str(path)})
        found = configuration.resolve_study(study)
        assert refused(lambda: configuration.check_files(found), said) == outcome
    return outcome


def entry(**values):
    return pickle.dumps({"x.png": values})


PLAIN = r"p\.pkl: not a pickle of built-in types only \("
case(
    params,
    params_malicious=(
        lambda proof: pickle.dumps(Call(os.mkdir, str(proof))),
        PLAIN + f"it .* {os.name}",
    ),
    params_crashing=(NESTED_KEY, PLAIN + "it wants a tuple as a key"),
    params_greedy=(
        build(b"\x96" + struct.pack("<Q", 10**11)),
        PLAIN + "it uses an operation that no plain values need",
    ),
    params_truncated=(entry(num_samples=30)[:-5], PLAIN + "it is cut short"),
    params_types=(pickle.dumps({"x.png": {"labels": np.int64(1)}}), PLAIN + "it refers to numpy"),
    params_list=(pickle.dumps([1, 2]), "must hold a dictionary of parameters for each picture"),
    params_picture=(pickle.dumps({"z.png": {}}), "the study has no picture 'z.png'; did you mean"),
    params_key=(entry(num_sample=3), "unknown key 'num_sample'; did you mean 'num_samples'"),
    params_value=(entry(num_samples="many"), "num_samples is 'many'; it must be a whole number"),
    params_huge=(entry(num_samples=10**400), "num_samples is an int too large to show; it must"),
    params_nan=(entry(kernel_width=float("nan")), "kernel_width is nan; it must be a number above"),
)


# Study files


def mine(tmp_path, **more):
    """A sound study of photographs, merged over the default."""
    named("photographs/x.png")(tmp_path)
    own = {
        "study": "mine",
        "world": None,
        "clip": None,
        "probe": [],
        "acts": {"dissect": False},
        "pictures": [{"folder": str(tmp_path / "photographs")}],
        "models": [
            {
                "name": "net",
                "architecture": "squeezenet1_1",
                "weights": "IMAGENET1K_V1",
                "cam_layer": "features.12",
            }
        ],
    }
    default = configuration.read_yaml(configuration.DEFAULT)
    return configuration._merge(configuration._merge(default, own), more)


def braces(tmp_path):
    (tmp_path / "{words}.txt").write_text("ball\n")
    more = {"comparison": {"categories": str(tmp_path / "{words}.txt")}}
    said = r"comparison\.categories: '.* has braces, which Snakemake fills in; rename it"
    return refused(lambda: configuration.resolve_study(mine(tmp_path, **more)), said)


case(braces, study_braces=())


def study(tmp_path, text, said=None):
    """Read a study as the workflow does: the file by itself, then merged over the default."""
    path = tmp_path / "study.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())

    def take():
        read = configuration.read_yaml(path)
        merged = configuration._merge(mine(tmp_path), read)
        return configuration.resolve_study(merged, [path])

    if said:
        return refused(take, said)
    assert take()["seed"] == 5
    return "taken"


BOMB = "a0: &a0 [x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
case(
    study,
    study_anchors=("lime: &l {num_samples: 30}\ncam: {<<: {batch_size: 4}}\nseed: 5\n",),
    study_merged_anchors=(
        "seed: 5\n"
        "lime: {slic: &s {<<: &b {sigma: 2}, sigma: 1}, felzenszwalb: {<<: *b, scale: 3}}\n",
    ),
    study_json=('{"seed": 5,\n\t"title": "é"}',),
    study_bom=(b"\xef\xbb\xbfseed: 5\r\ntitle: \xc3\xa9\r\n",),
    study_tabs=(
        "lime:\n\tnum_samples: 30\n",
        r"study\.yaml, line 2: found character .* with spaces",
    ),
    study_duplicate=(
        "seed: 1\nseed: 2\n",
        r"study\.yaml, line 2: key 'seed' is given twice; keep one",
    ),
    study_duplicate_json=('{"seed": 1, "seed": 2}', r"study\.yaml: key 'seed' is given twice"),
    study_list=("- seed: 1\n", r"study\.yaml: must be a mapping of keys to values"),
    study_empty=("", r"study\.yaml: must be a mapping of keys to values"),
    study_latin1=(b"title: caf\xe9\n", r"study\.yaml, line 1: not UTF-8 text \(byte 10\)"),
    study_unknown_key=("lime: {num_sample: 3}\n", r"unknown key 'lime\.num_sample'; did you mean"),
    study_type=("lime: {num_samples: many}\n", r"lime\.num_samples: 'many' is not of type integer"),
    study_yes=("acts: {cam: 'yes'}\n", r"acts\.cam: 'yes' is not of type boolean"),
    study_mapping=("models: {name: net}\n", r"models: \{'name': 'net'\} is not of type array"),
    study_fraction=("batches: 2.0\n", r"batches: 2\.0 is not of type integer"),
    study_nan=("lime: {kernel_width: .nan}\n", r"lime\.kernel_width: nan is not a finite number"),
    study_huge_number=(f"seed: {10**30}\n", r"seed: 1000.* is out of all bounds"),
    study_number_key=("lime: {3: x}\n", r"lime: the key 3 is no text; put it in quotes"),
    study_date=("title: 2024-13-45\n", r"study\.yaml: not YAML \(month must be in 1\.\.12\)"),
    study_tag=(
        "title: !!python/object/apply:os.system [x]\n",
        r"line 1: could not determine a const",
    ),
    study_bomb=(BOMB, r"study\.yaml, line \d+: holds too much"),
    study_endless=("lime: &a {slic: *a}\n", r"study\.yaml, line 1: holds too much"),
    study_deep=("a: " + "[" * 5000, r"study\.yaml: is nested too deeply"),
    study_two=("seed: 1\n---\nseed: 2\n", r"study\.yaml, line 2: but found another document"),
    study_name=("study: ../elsewhere\n", r"study: '\.\./elsewhere' does not match"),
    study_name_line=('study: "mine\\n"\n', r"study: 'mine\\n' does not match"),
    study_file=(
        "lime: {params: gone.pkl}\n",
        r"lime\.params: there is no file 'gone\.pkl'; put it",
    ),
)


# Places


def read_only(_tmp_path, dark):
    """Results cannot be written: said before any job, and by each step."""
    with as_nobody() as place:
        (place / "results").mkdir()
        (place / "results").chmod(0o555)
        said = r"results/mine.*: (results )?cannot be written.*Permission denied"
        for call in (
            lambda: files.make_folder(place / "results/mine"),
            lambda: index.write_if_changed(place / "results/mine/index/0.json", "[]"),
            lambda: tables.write_table([], place / "results/mine/t.parquet", tables.PICTURES),
        ):
            outcome = refused(call, said)
        (place / "results").chmod(0o755)
    return outcome


def in_the_way(tmp_path):
    (tmp_path / "results").touch()
    said = r"results/mine: results cannot be written there \(Not a directory\); make that folder"
    return refused(lambda: files.make_folder(tmp_path / "results/mine"), said)


def full_disk(tmp_path):
    said = r"t\.parquet: cannot be written, no space is left on the disk; make room"

    def write(part):
        raise OSError(errno.ENOSPC, "No space left on device", part)

    outcome = refused(lambda: tables.write_atomically(tmp_path / "t.parquet", write), said)
    assert not list(tmp_path.iterdir())
    return outcome


case(read_only, place_read_only=(None,))
case(in_the_way, place_file=())
case(full_disk, place_full=())


# In the workflow

# Kinds that only a run of the workflow can show.
IN_THE_WORKFLOW = {
    "place-spaces": "taken",
    "place-braces": "stops",
    "bad-picture-named": "skipped",
    "picture-none-left": "stops",
}


def test_the_page_and_the_cases_name_the_same_kinds():
    assert sorted(rows_of_the_page()) == sorted([*CASES, *IN_THE_WORKFLOW])
    assert {kind: rows_of_the_page()[kind] for kind in IN_THE_WORKFLOW} == IN_THE_WORKFLOW


@pytest.mark.parametrize("kind", CASES)
def test_each_kind_of_input_has_the_outcome_that_the_page_says(kind, tmp_path):
    function, arguments = CASES[kind]
    assert function(tmp_path, *arguments) == rows_of_the_page()[kind]


def place(folder, **more):
    """Put a study and its model into a folder: the study's file."""
    folder.mkdir(exist_ok=True)
    (folder / "net.pt").write_bytes(saved(weights()))
    own = {
        "study": "mine",
        "world": None,
        "clip": None,
        "probe": [],
        "acts": dict.fromkeys(["dissect", "lime", "agree", "faithfulness", "sanity"], False),
        "pictures": [{"folder": "my photographs"}],
        "batches": 1,
        "models": [
            NET
            | {"checkpoint": "net.pt", "cam_layer": "features.3"}
            | {"transform": {"resize": 64, "crop": 64}}
        ],
        "cam": {"methods": ["grad-cam"]},
    }
    path = folder / "my study.yaml"
    path.write_text(yaml.safe_dump(configuration._merge(own, more)))
    return path


@pytest.mark.slow
def test_pictures_of_all_kinds_run_through_the_workflow(tmp_path):
    """Good ones are explained, bad ones named, in a place whose path has what shells trip over."""
    folder = tmp_path / "it's a {place} & $HOME"
    path = place(folder)
    repository = tmp_path / "the workflow's place & $HOME"
    repository.symlink_to(REPOSITORY)
    photographs = folder / "my photographs"
    photographs.mkdir()
    outcomes = rows_of_the_page()
    expected = {"taken": set(), "skipped": set()}
    for kind, (function, arguments) in CASES.items():
        if function is picture and isinstance(arguments[0], bytes):
            (photographs / f"{kind}.png").write_bytes(arguments[0])
            expected[outcomes[kind]].add(f"{kind}.png")
    named(*NAMES.values())(photographs)
    expected["taken"] |= set(NAMES.values())
    not_utf8(photographs)
    pipe(photographs)
    (photographs / "loop.png").symlink_to("loop.png")
    (photographs / "folder").symlink_to(".")
    expected["skipped"] |= {"caf\\xe9.png", "x.png", "loop.png", "folder/"}
    snakemake(folder, "--cores", "2", studies=[path], repository=repository)
    results = folder / "results/mine"
    rows = tables.read_rows(results / "tables/predictions.parquet", tables.PREDICTIONS)
    assert {row["picture"] for row in rows} == expected["taken"]
    maps = tables.read_rows(results / "explain/net/cam-grad-cam-0.parquet", tables.HEATMAPS)
    assert {row["picture"] for row in maps} == expected["taken"]
    page = (results / "report.html").read_bytes().decode()
    skipped = page.partition("Pictures that could not be used")[2].partition("</table>")[0]
    shown = set(re.findall(r'<th scope="row">(.*?)</th>', skipped, re.DOTALL))
    assert {html.unescape(name) for name in shown} == expected["skipped"]
    gallery = page.partition('<section id="gallery"')[2].partition("</section>")[0]
    cards = set(re.findall(r'<article class="card" .*? aria-label="(.*?)">', gallery, re.DOTALL))
    assert {html.unescape(name) for name in cards} == expected["taken"]
    assert "<script>alert" not in page
    said = snakemake(folder, "--cores", "2", studies=[path], repository=repository)
    assert "Nothing to be done" in said
    # The same in a study that is to stop: at once where a file is none, else when it is decoded.
    stop = ["--config", "on_bad_picture=stop"]
    said = snakemake(folder, "--cores", "1", *stop, studies=[path], check=False)
    assert "This study cannot run" in said
    assert "x.png: is a named pipe, not a file" in said
    assert "loop.png: is a link that leads nowhere" in said
    for name in ("x.png", "loop.png", "folder"):
        (photographs / name).unlink()
    (photographs / os.fsdecode(b"caf\xe9.png")).unlink()
    said = snakemake(folder, "--cores", "1", *stop, studies=[path], check=False)
    assert "picture-text.png: does not decode" in said
    assert "picture-empty.png: does not decode" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_study_none_of_whose_pictures_is_one_stops(tmp_path):
    path = place(tmp_path, batches=2)
    assert {images.batch_of(name, 2) for name in ("a.png", "c.png")} == {0, 1}
    (tmp_path / "my photographs").mkdir()
    for name in ("a.png", "c.png"):
        (tmp_path / "my photographs" / name).write_bytes(b"no picture")
    said = snakemake(tmp_path, "--cores", "1", studies=[path], check=False)
    assert "none of the 2 pictures can be used; the first: a.png: does not decode" in said
    assert not (tmp_path / "results/mine/report.html").exists()


@pytest.mark.slow
def test_braces_in_the_workflows_own_path_stop_it(tmp_path):
    (tmp_path / "my photographs").mkdir()
    (tmp_path / "my photographs/x.png").write_bytes(GOOD)
    repository = tmp_path / "{workflow}"
    repository.symlink_to(REPOSITORY)
    said = snakemake(
        tmp_path, "--cores", "1", studies=[place(tmp_path)], check=False, repository=repository
    )
    assert "{workflow}: the workflow lies at a path with braces" in said
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "more", "said"),
    [
        (
            {"words.txt": b"", "p.pkl": pickle.dumps(Call(os.getcwd))},
            {"acts": {"dissect": True, "lime": True}, "lime": {"params": "p.pkl"}},
            [r"words\.txt: no concept in it", rf"p\.pkl: not a pickle .* refers to {os.name}"],
        ),
        ({"labels.csv": b"name,label\nx.png\n"}, {}, [r"labels\.csv, line 2: 1 values for 2"]),
        ({"my study.yaml": b"lime:\n\tseed: 3\n"}, {}, ["whitespace and tab indentation"]),
        (
            {"results": b""},
            {},
            [r"results/mine: results cannot be written there \(Not a directory"],
        ),
    ],
    ids=["lists", "labels", "tabs", "results"],
)
def test_bad_files_stop_before_any_job(tmp_path, files, more, said):
    (tmp_path / "my photographs").mkdir()
    (tmp_path / "my photographs/x.png").write_bytes(GOOD)
    pictures = {"folder": "my photographs"}
    if "labels.csv" in files:
        pictures["labels"] = "labels.csv"
    more = {"pictures": [pictures], **more}
    if "words.txt" in files:
        net = NET | {"checkpoint": "net.pt", "cam_layer": "features.3"}
        more |= {
            "concepts": "words.txt",
            "dissection": {"soft-wpmi": {"a": 2}},
            "clip": {"train": None, "path": "net.pt"},
            "probe": [pictures],
            "models": [net | {"dissect_layers": ["features.3"]}],
        }
    path = place(tmp_path, **more)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    output = snakemake(tmp_path, "--cores", "1", studies=[path], check=False)
    for pattern in said:
        assert re.search(pattern, output), output
    assert "Traceback" not in output
    assert "rule check" not in output
    assert not (tmp_path / "results/mine/logs").exists()

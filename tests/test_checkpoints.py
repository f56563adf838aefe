"""Checkpoints of other days and other hands: read whole, and nothing in them executed."""

import io
import os
import pickle
import struct
import types
import warnings
import zipfile
from argparse import Namespace
from collections import OrderedDict
from typing import ClassVar

import numpy as np
import pytest
import torch

from consilience import checkpoints, classifiers, clip_encoder, clip_training
from consilience.errors import ConsilienceError


class _Python2(pickle._Pickler):
    """Writes strings as Python 2 does: as bytes."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_str(self, text):
        data = text.encode("latin-1")
        if len(data) < 256:
            self.write(pickle.SHORT_BINSTRING + bytes([len(data)]) + data)
        else:
            self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(text)

    dispatch[str] = save_str


def python2():
    """A module that ``torch.save`` pickles with as Python 2 would."""
    module = types.ModuleType("python2")
    module.Pickler = _Python2
    module.dump = lambda content, file, protocol: _Python2(file, protocol).dump(content)
    return module


def save_old(content, path):
    torch.save(
        content,
        path,
        pickle_module=python2(),
        pickle_protocol=2,
        _use_new_zipfile_serialization=False,
    )


@pytest.fixture(scope="module")
def places():
    """A ResNet18 of Places365, and what its file holds beside it."""
    torch.manual_seed(0)
    state = classifiers.build_architecture("resnet18", 365).state_dict()
    # PyTorch of those days did not count batches.
    state = {key: value for key, value in state.items() if "num_batches" not in key}
    return {
        "epoch": 90,
        "arch": "resnet18",
        "state_dict": OrderedDict((f"module.{key}", value) for key, value in state.items()),
        "best_prec1": 54.65,
    }


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"author": "Ágata", "note": "x" * 300},
        {"best_prec1": np.float64(54.65)},
        {"args": Namespace(lr=0.1, data="/somewhere"), "optimizer": {"state": {}, "lr": [0.1]}},
    ],
    ids=["plain", "latin-1", "numpy", "options"],
)
def test_a_checkpoint_of_places365_is_read(places, extra, tmp_path):
    path = tmp_path / "resnet18_places365.pth.tar"
    save_old(places | extra, path)
    classes = tmp_path / "categories.txt"
    classes.write_text("".join(f"/p/place_{i}/inside {i}\n" for i in range(365)))
    model = classifiers.load_classifier(
        {
            "name": "places",
            "architecture": "resnet18",
            "checkpoint": str(path),
            "classes": str(classes),
            "transform": {"resize": 256, "crop": 224},
        }
    )
    assert model.class_names[3] == "place_3/inside"
    expected = places["state_dict"]["module.fc.weight"]
    assert torch.equal(model.model.fc.weight, expected)
    assert model.probabilities(np.zeros((1, 224, 224, 3), np.uint8)).shape == (1, 365)


def test_the_restricted_reader_reads_what_pytorch_reads(places, tmp_path):
    """On files that both take, so that the one can stand in for the other."""
    # Views that share a storage, whole and in part; an empty one; kinds of numbers.
    base = torch.arange(24.0)
    content = {
        "whole": base.view(4, 6),
        "turned": base.view(4, 6).t(),
        "part": base[5:9],
        "empty": torch.empty(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        **{str(kind): torch.ones(3, dtype=kind) for kind in checkpoints._DTYPES.values()},
    }
    for index, zipped in enumerate((True, False)):
        path = tmp_path / f"{index}.pt"
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        read = checkpoints._load_zip if zipped else checkpoints._load_legacy
        found, expected = read(path), torch.load(path, weights_only=True)
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert found[key].dtype == value.dtype, key
            assert found[key].shape == value.shape, key
            assert torch.equal(found[key], value), key
    path = tmp_path / "old.pt"
    save_old(places, path)
    found = checkpoints._load_legacy(path)
    assert all(torch.equal(found["state_dict"][k], v) for k, v in places["state_dict"].items())


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("form", ["zip", "old", "python2", "bare"])
@pytest.mark.parametrize(
    ("function", "named"),
    [
        (os.system, rf"{os.name}\.system"),
        (eval, r"builtins\.eval"),
        (torch.load, r"torch\.serialization\.load"),
        (getattr, r"builtins\.getattr"),
        (os.makedirs, r"os\.makedirs"),
    ],
)
def test_what_would_be_executed_is_refused_by_name(form, function, named, tmp_path):
    proof = tmp_path / "executed"
    argument = f"open({str(proof)!r}, 'w')" if function is eval else str(proof)
    content = {"state_dict": {"w": torch.zeros(2)}, "x": Call(function, argument)}
    path = tmp_path / "net.pt"
    if form == "bare":
        path.write_bytes(pickle.dumps(content["x"], protocol=2))
    elif form == "python2":
        save_old(content, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(ConsilienceError, match=rf"net\.pt: .*it wants to use {named}") as error:
        classifiers.read_state_dict(path)
    assert "\n" not in str(error.value)
    assert not proof.exists()


def test_a_module_in_a_checkpoint_is_refused(tmp_path):
    """Whole models are pickled as their classes, which live in code."""
    torch.save(torch.nn.Linear(2, 2), tmp_path / "net.pt")
    with pytest.raises(ConsilienceError, match=r"it wants to use torch\.nn\.modules\.linear"):
        classifiers.read_state_dict(tmp_path / "net.pt")


def test_storages_that_lie_about_their_length_are_refused(tmp_path):
    path = tmp_path / "net.pt"
    # Of one length: storages are written in the order of their addresses in memory.
    save_old({"é": torch.zeros(3), "b": torch.ones(3)}, path)
    whole = path.read_bytes()
    assert torch.equal(checkpoints.load_checkpoint(path)["b"], torch.ones(3))
    # The count of the last storage, in front of its three numbers.
    for count in (2, 4, -1, 2**60):
        path.write_bytes(whole[:-20] + struct.pack("<q", count) + whole[-12:])
        with pytest.raises(ConsilienceError, match="not the length that it says"):
            checkpoints.load_checkpoint(path)
    # The count where the tensor refers to its storage: K\x03 is the number 3.
    spot = whole.index(b"cpuq") + 5
    assert whole[spot : spot + 2] == b"K\x03"
    path.write_bytes(whole[:spot] + b"J\xff\xff\xff\x7f" + whole[spot + 2 :])
    with pytest.raises(ConsilienceError, match="larger than the file"):
        checkpoints.load_checkpoint(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_every_truncation_is_a_declared_error(zipped, tmp_path):
    path = tmp_path / "net.pt"
    if zipped:
        torch.save({"a": torch.zeros(5), "n": np.float64(1)}, path)
    else:
        save_old({"é": torch.zeros(5), "b": torch.ones(3)}, path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7 if not zipped else 41):
        path.write_bytes(whole[:length])
        with pytest.raises(ConsilienceError, match=r"net\.pt: not a readable checkpoint"):
            checkpoints.load_checkpoint(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_flipped_bytes_never_raise_anything_else(zipped, tmp_path):
    path = tmp_path / "net.pt"
    if zipped:
        torch.save({"a": torch.zeros(5), "n": np.float64(1)}, path)
    else:
        save_old({"é": torch.zeros(5), "b": torch.ones(3)}, path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(500):
        broken = bytearray(whole)
        for spot in rng.integers(0, len(whole), 2):
            broken[spot] = rng.integers(256)
        path.write_bytes(broken)
        try:
            checkpoints.load_checkpoint(path)
        except ConsilienceError:
            refused += 1
    assert refused > 50


def around_a_storage(before, middle, after, view=b"N"):
    """Put an old file together by hand, around one storage of two numbers."""
    head = io.BytesIO()
    for content in (checkpoints._MAGIC, 1001, {"little_endian": True}):
        pickle.dump(content, head, protocol=2)
    storage = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x02" + view + b"tQ"
    tail = pickle.dumps(["0"], protocol=2) + struct.pack("<qff", 2, 1.0, 2.0)
    return head.getvalue() + b"\x80\x02" + before + storage + middle + after + tail


def test_a_storage_can_be_a_view_of_another(tmp_path):
    """As PyTorch wrote it before tensors had offsets of their own."""
    before, middle = b"ctorch._utils\n_rebuild_tensor\n(", b"K\x00(K\x01t(K\x01ttR"
    path = tmp_path / "net.pt"
    path.write_bytes(around_a_storage(before, middle, b".", view=b"(U\x01vK\x01K\x01t"))
    assert torch.load(path, weights_only=True).tolist() == [2]
    assert checkpoints._load_legacy(path).tolist() == [2]


def test_only_containers_take_a_state(tmp_path):
    """Setting the state of a tensor would reach into its storage; so would strides beyond it."""
    before, middle = b"ctorch._utils\n_rebuild_tensor\n(", b"K\x00(K\x02t(K\x01ttR"
    path = tmp_path / "net.pt"
    path.write_bytes(around_a_storage(before, middle, b"."))
    assert checkpoints._load_legacy(path).tolist() == [1, 2]
    path.write_bytes(around_a_storage(before, middle, b"(K\x01K\x02tb."))
    with pytest.raises(pickle.UnpicklingError, match="wants to set the state of a Tensor"):
        checkpoints._load_legacy(path)
    path.write_bytes(around_a_storage(before, b"K\x00(K\x09t(K\x01ttR", b"."))
    with pytest.raises(ConsilienceError, match="not a readable checkpoint"):
        checkpoints.load_checkpoint(path)


def test_tensors_with_attributes_and_of_newer_types_are_read(tmp_path):
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.note = "x"
    tensor = torch.arange(3.0)
    tensor.note = [1]
    content = {
        "parameter": parameter,
        "tensor": tensor,
        "uint16": torch.arange(4).to(torch.uint16)[1:],
        "float8": torch.ones(4).to(torch.float8_e4m3fn),
    }
    torch.save(content, tmp_path / "net.pt")
    found = checkpoints.load_checkpoint(tmp_path / "net.pt")
    for key, value in content.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key].float(), value.float())


def with_pickle(path, content, pickled):
    """Save in a zip file, with a part of the pickle exchanged."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, pickled(data) if name.endswith("data.pkl") else data)


NESTED = b")" + b"\x85" * 200_000


@pytest.mark.parametrize(
    ("exchange", "said"),
    [
        # The storage of another type, and one of another length.
        ((b"X\x01\0\0\x001", b"X\x01\0\0\x000"), "a storage has not the length .*, or two types"),
        ((b"K\x06t", b"K\x05t"), "a storage has not the length that it says"),
        ((b"K\x06t", b"K\xfft"), "a storage has not the length that it says"),
        ((b"X\x07\0\0\0storage", b"X\x07\0\0\0garbage"), "refers to a 'garbage', not to a storage"),
        # Keys whose hash is not found in any time, by each way that leads there.
        ((b"X\x01\0\0\0a", NESTED), "wants a tuple as a key"),
        (
            (b"}q\x00", b"ccollections\nOrderedDict\n](" + NESTED + b"K\x01\x86e\x85Rq\x00"),
            "as a key",
        ),
        ((b"}q\x00", b"c__builtin__\nset\n](" + NESTED + b"e\x85R0}q\x00"), "as a key"),
        # Calls of what only looks like a function that is known.
        (
            (b"}q\x00", b"ctorch._tensor\n_rebuild_from_type_v2\n(c__builtin__\nset\nN)NtR0}q\x00"),
            "way of",
        ),
        ((b"}q\x00", b"c_codecs\nencode\n)\x810}q\x00"), "wants to make an object"),
    ],
    ids=range(9),
)
def test_pickles_made_to_harm_are_refused(exchange, said, tmp_path):
    path = tmp_path / "net.pt"
    content = {"a": torch.ones(6), "b": torch.ones(6, dtype=torch.int32)}
    with_pickle(path, content, lambda data: data)
    assert list(checkpoints.load_checkpoint(path)) == ["a", "b"]
    with_pickle(path, content, lambda data: data.replace(*exchange, 1))
    with pytest.raises(ConsilienceError, match=rf"net\.pt: not a readable checkpoint \(.*{said}"):
        checkpoints.load_checkpoint(path)


def test_a_tensor_is_not_much_larger_than_its_storage(tmp_path):
    path = tmp_path / "net.pt"
    few, many = (torch.ones(1).expand(count) for count in (2**20, 2**20 + 1))
    torch.save({"a": few}, path)
    assert checkpoints.load_checkpoint(path)["a"].shape == few.shape
    torch.save({"a": many}, path)
    with pytest.raises(ConsilienceError, match="much larger than its storage"):
        checkpoints.load_checkpoint(path)


def test_an_old_file_names_the_storages_that_it_lacks(tmp_path):
    path = tmp_path / "net.pt"
    middle = b"K\x00(K\x02t(K\x01ttR"
    whole = around_a_storage(b"ctorch._utils\n_rebuild_tensor\n(", middle, b".")
    tail = pickle.dumps(["0"], protocol=2) + struct.pack("<qff", 2, 1.0, 2.0)
    head = whole.removesuffix(tail)
    assert len(head) < len(whole)
    for keys, said in (([], "its storage 0 is missing"), ([[["0"]]], "wants a list as a key")):
        path.write_bytes(head + pickle.dumps(keys, protocol=2))
        with pytest.raises(ConsilienceError, match=said):
            checkpoints.load_checkpoint(path)


# CLIP


def trace(model, path):
    """Save a CLIP as OpenAI does: an archive of TorchScript, float16, with a buffer more."""
    side = model.visual.input_resolution
    model.register_buffer("input_resolution", torch.tensor(side))
    pictures, tokens = torch.zeros(1, 3, side, side), torch.zeros(1, 77, dtype=torch.int32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model.eval(), (pictures, tokens), check_trace=False)
        for parameter in traced.parameters():
            parameter.data = parameter.data.half()
        traced.save(str(path))


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "small.pt"
    trace(clip_training.build_small_clip(0), path)
    return path


def test_an_archive_of_torchscript_gives_the_weights_that_clip_load_takes(archive):
    import clip

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected, _ = clip.load(str(archive), device="cpu")
    found = clip_encoder.load_clip(archive).model
    for key, value in expected.state_dict().items():
        assert found.state_dict()[key].dtype == torch.float32 or "num_batches" in key
        assert torch.equal(found.state_dict()[key], value), key


@pytest.mark.filterwarnings("ignore:.torch.jit.load")
def test_the_code_of_an_archive_is_not_looked_at(archive, tmp_path):
    path = tmp_path / "broken.pt"
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            broken = b"def forward(self): this is no code" if "/code/" in name else old.read(name)
            new.writestr(name, broken)
    with pytest.raises(RuntimeError):
        torch.jit.load(str(path))
    assert checkpoints.is_archive(path)
    assert clip_encoder.load_clip(path).embed_texts(["ball"]).shape == (1, 128)


def rewrite(archive, path, content):
    """Put another pickle into an archive."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, content if name.endswith("/data.pkl") else old.read(name))


def test_a_malicious_archive_is_refused_by_name(archive, tmp_path):
    path, proof = tmp_path / "evil.pt", tmp_path / "executed"
    rewrite(archive, path, pickle.dumps(Call(os.mkdir, str(proof)), protocol=2))
    with pytest.raises(ConsilienceError, match=rf"it wants to use {os.name}\.mkdir"):
        clip_encoder.load_clip(path)
    assert not proof.exists()


def test_an_archive_without_end_is_refused(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "_MOST_NAMES", 1000)
    # A module that is its own attribute.
    endless = b"\x80\x02c__torch__.m\nM\n)\x81q\x00}q\x01X\x01\x00\x00\x00aq\x02h\x00sb."
    rewrite(archive, tmp_path / "endless.pt", endless)
    with pytest.raises(ConsilienceError, match="have no end"):
        checkpoints.read_archive(tmp_path / "endless.pt")
    rewrite(archive, tmp_path / "none.pt", pickle.dumps({"a": 1}, protocol=2))
    with pytest.raises(ConsilienceError, match="holds no module"):
        checkpoints.read_archive(tmp_path / "none.pt")


def test_packed_storages_are_refused(tmp_path):
    buffer = io.BytesIO()
    torch.save({"n": np.float64(1), "a": torch.zeros(100_000)}, buffer)
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(ConsilienceError, match="not a readable checkpoint"):
        checkpoints.load_checkpoint(path)


def test_another_model_than_a_clip_is_refused(tmp_path):
    torch.save({"a": torch.zeros(2)}, tmp_path / "net.pt")
    with pytest.raises(ConsilienceError, match=r"net\.pt': not a CLIP that clip\.load takes"):
        clip_encoder.load_clip(tmp_path / "net.pt")


def test_half_precision_is_loaded_as_single_on_the_processor(tmp_path):
    model = clip_training.build_small_clip(0)
    half = {
        key: value.half() if value.is_floating_point() else value
        for key, value in model.state_dict().items()
    }
    torch.save(half, tmp_path / "half.pt")
    torch.save(model.state_dict(), tmp_path / "single.pt")
    encoders = [clip_encoder.load_clip(tmp_path / f"{name}.pt") for name in ("half", "single")]
    assert {p.dtype for e in encoders for p in e.model.parameters()} == {torch.float32}
    vectors = [encoder.embed_texts(["ball", "a red box"]) for encoder in encoders]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-3)

    net = classifiers.build_architecture("shufflenet_v2_x0_5", 3)
    half = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    torch.save(half, tmp_path / "net.pt")
    spec = {
        "name": "n",
        "architecture": "shufflenet_v2_x0_5",
        "classes": ["a", "b", "c"],
        "transform": {"resize": 40, "crop": 32},
    }
    found = classifiers.load_classifier(spec, tmp_path / "net.pt")
    assert {parameter.dtype for parameter in found.model.parameters()} == {torch.float32}
    probabilities = found.probabilities(np.full((1, 32, 32, 3), 99, np.uint8))
    assert probabilities.dtype == np.float32


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.load")
def test_a_state_dict_of_the_shape_of_vit_b_16_is_loaded(tmp_path):
    import clip
    from clip.model import CLIP

    torch.manual_seed(0)
    model = CLIP(512, 224, 12, 768, 16, 77, 49408, 512, 8, 12).half()
    torch.save(model.state_dict(), tmp_path / "vit.pt")
    expected = {key: value.float() for key, value in model.state_dict().items()}
    del model
    encoder = clip_encoder.load_clip(tmp_path / "vit.pt")
    assert encoder.model.visual.input_resolution == 224
    assert all(torch.equal(v, expected[key]) for key, v in encoder.model.state_dict().items())
    pictures = np.random.default_rng(0).integers(0, 256, (2, 300, 200, 3)).astype(np.uint8)
    assert encoder.embed_pictures(pictures).shape == (2, 512)
    del expected
    peer, _ = clip.load(str(tmp_path / "vit.pt"), device="cpu")
    with torch.inference_mode():
        vectors = peer.encode_text(clip.tokenize(["a dog"]))
    np.testing.assert_allclose(
        encoder.embed_texts(["a dog"]), vectors / vectors.norm(dim=1, keepdim=True), atol=1e-6
    )

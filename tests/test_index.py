import json
import os
import unicodedata

import numpy as np
import pytest
import torch
import yaml

from consilience import index, tables, world
from consilience.errors import ConsilienceError
from consilience.images import describe_files, encode_png

PATTERNS = ["*.jpg", "*.png"]


def source(folder, **more):
    return {"folder": str(folder), "include": PATTERNS, "labels": None} | more


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    for name in ("a.jpg", "b.PNG", "inner/c.jpg", "inner/d.jpg", "notes.txt", ".hidden.jpg"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def states(lists):
    return [(path.read_bytes(), path.stat().st_mtime_ns) for path in lists]


def test_pictures_are_found_below_the_folder(photographs):
    expected = ["a.jpg", "b.PNG", "inner/c.jpg", "inner/d.jpg"]
    assert index.list_pictures(photographs, PATTERNS) == (expected, {})
    assert index.list_pictures(photographs, ["inner/*"]) == (["inner/c.jpg", "inner/d.jpg"], {})
    assert index.list_pictures(photographs, ["c.*"]) == (["inner/c.jpg"], {})


def test_every_picture_is_in_one_batch(photographs, tmp_path):
    lists = index.write_index([source(photographs)], 3, tmp_path / "index")
    entries = [entry for path in lists for entry in index.read_index(path)]
    assert sorted(entry["name"] for entry in entries) == [
        "a.jpg",
        "b.PNG",
        "inner/c.jpg",
        "inner/d.jpg",
    ]
    assert entries[0]["sha256"] == index.hash_bytes(entries[0]["name"].encode())


def test_only_the_batch_of_a_change_is_written_anew(photographs, tmp_path):
    target = tmp_path / "index"
    before = states(index.write_index([source(photographs)], 8, target))
    assert states(index.write_index([source(photographs)], 8, target)) == before
    (photographs / "a.jpg").write_bytes(b"another picture")
    after = states(index.write_index([source(photographs)], 8, target))
    different = [batch for batch in range(8) if before[batch] != after[batch]]
    assert different == [index.batch_of("a.jpg", 8)]
    (photographs / "new.jpg").write_bytes(b"new")
    last = states(index.write_index([source(photographs)], 8, target))
    different = [batch for batch in range(8) if last[batch] != after[batch]]
    assert different == [index.batch_of("new.jpg", 8)]


def test_a_file_touched_but_unchanged_changes_nothing(photographs, tmp_path):
    target = tmp_path / "index"
    before = states(index.write_index([source(photographs)], 2, target))
    os.utime(photographs / "a.jpg", (1, 1))
    assert states(index.write_index([source(photographs)], 2, target)) == before


def test_files_are_read_again_only_when_size_or_time_changed(photographs, tmp_path, monkeypatch):
    target = tmp_path / "index"
    index.write_index([source(photographs)], 2, target)
    read = []
    monkeypatch.setattr(index, "hash_bytes", lambda data: read.append(data) or "0" * 64)
    index.write_index([source(photographs)], 2, target)
    assert read == []
    os.utime(photographs / "a.jpg", (1, 1))
    index.write_index([source(photographs)], 2, target)
    assert read == [b"a.jpg"]


def test_only_batches_that_differ_are_looked_at_again(photographs, tmp_path, monkeypatch):
    target, looked_at = tmp_path / "index", []
    describe = index._describe

    def watch(batches, *arguments):
        looked_at.append(sorted(batches))
        return describe(batches, *arguments)

    monkeypatch.setattr(index, "_describe", watch)
    for _ in range(2):
        before = states(index.write_index([source(photographs)], 8, target))
    (photographs / "new.jpg").write_bytes(b"new")
    (photographs / "a.jpg").chmod(0o600)
    index.write_index([source(photographs)], 8, target)
    mine = sorted({index.batch_of(name, 8) for name in ("new.jpg", "a.jpg")})
    assert looked_at == [[*range(8)], [], mine]
    # A list that something else wrote is written anew, and one that is missing.
    (target / "3.json").write_text("[]")
    (target / "4.json").unlink()
    (photographs / "new.jpg").unlink()
    after = states(index.write_index([source(photographs)], 8, target))
    assert looked_at[-1] == sorted({3, 4, index.batch_of("new.jpg", 8)})
    assert [text for text, _ in after] == [text for text, _ in before]


def test_another_number_of_batches_reads_no_file_again(photographs, tmp_path, monkeypatch):
    target = tmp_path / "index"
    index.write_index([source(photographs)], 8, target)
    monkeypatch.setattr(index, "hash_bytes", lambda data: pytest.fail("read again"))
    for batches in (3, 8):
        lists = index.write_index([source(photographs)], batches, target)
        assert sum(len(index.read_index(path)) for path in lists) == 4


def test_a_broken_cache_is_made_again(photographs, tmp_path):
    target = tmp_path / "index"
    before = states(index.write_index([source(photographs)], 2, target))
    (target / "seen.json").write_text("{broken")
    (target / "0.seen").write_text("[1]")
    assert states(index.write_index([source(photographs)], 2, target)) == before
    assert json.loads((target / "seen.json").read_text())


def test_labels_reach_their_pictures(photographs, tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("name,label\na.jpg,goldfish\n", encoding="utf-8-sig")
    (only,) = index.write_index([source(photographs, labels=str(labels))], 1, tmp_path / "index")
    found = {entry["name"]: entry["label"] for entry in index.read_index(only)}
    assert found["a.jpg"] == "goldfish"
    assert found["b.PNG"] is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,class\na.jpg,x\n", "there is no column 'label'"),
        ("name,label\nz.jpg,x\n", "'z.jpg' is not in"),
        ("name,label\na.jpg,x\na.jpg,y\n", "'a.jpg' is labelled twice"),
        ("", "there is no column 'name' or 'label'"),
        ("name,label\n", "has no rows"),
        ("name,label\na.jpg\n", "line 2: 1 values for 2 columns"),
        ("name,label\n,x\n", "line 2: the name is empty"),
        ("name,label\na.jpg, \n", "line 2: the label is empty"),
        ("name,label\nA.JPG,x\n", "'A.JPG' is not in .*; name it as its path"),
        ("name,label\nc.jpg,x\n", "'c.jpg' is not in .*; did you mean 'a.jpg'"),
    ],
)
def test_wrong_labels_are_named(photographs, tmp_path, text, said):
    labels = tmp_path / "labels.csv"
    labels.write_text(text)
    with pytest.raises(ConsilienceError, match=said):
        index.write_index([source(photographs, labels=str(labels))], 1, tmp_path / "index")


def test_an_empty_folder_and_a_name_in_two_folders_are_errors(photographs, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConsilienceError, match="holds no picture that matches"):
        index.write_index([source(tmp_path / "empty")], 1, tmp_path / "index")
    with pytest.raises(ConsilienceError, match=r"'a.jpg' is also in another folder"):
        index.write_index([source(photographs), source(photographs)], 1, tmp_path / "index")


def test_a_batch_without_a_picture_of_use_looks_at_the_others(photographs, tmp_path):
    lists = index.write_index([source(photographs)], 3, tmp_path / "index")
    rows = [describe_files(index.read_index(path)) for path in lists]
    assert all(row["error"] for own in rows for row in own)  # none of them is a picture
    mine = next(batch for batch in range(3) if rows[batch])
    others = [path for batch, path in enumerate(lists) if batch != mine]
    with pytest.raises(
        ConsilienceError, match=r"none of the 4 pictures .* the first: .*\.(jpg|PNG)"
    ):
        index.check_usable(rows[mine], others)
    index.check_usable([], others)
    index.check_usable([{"name": "x", "error": None}], others)
    # One good picture, in another batch, is enough.
    name = next(name for name in map("{}.png".format, range(99)) if index.batch_of(name, 3) != mine)
    (photographs / name).write_bytes(encode_png(np.zeros((2, 2), np.uint8)))
    index.write_index([source(photographs)], 3, tmp_path / "index")
    index.check_usable(rows[mine], others)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_label_may_spell_a_name_in_either_form(form, photographs, tmp_path):
    """macOS takes letters and accents apart in names of files; editors do not."""
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    (photographs / unicodedata.normalize(form, "é.jpg")).write_bytes(b"e")
    labels = tmp_path / "labels.csv"
    labels.write_text(f"name,label\n{unicodedata.normalize(other, 'é.jpg')},goldfish\n")
    sources = [source(photographs, labels=str(labels))]
    (only,) = index.write_index(sources, 1, tmp_path / "index")
    found = {entry["name"]: entry["label"] for entry in index.read_index(only)}
    assert found[unicodedata.normalize(form, "é.jpg")] == "goldfish"


@pytest.fixture
def masks(tmp_path):
    folder = tmp_path / "masks"
    for name in ("a.png", "inner/c.PNG"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"mask of " + name.encode())
    return folder


def test_masks_reach_their_pictures_with_path_and_hash(photographs, masks, tmp_path):
    before = index.write_index([source(photographs, masks=None)], 8, tmp_path / "index")
    before = states(before)
    lists = index.write_index([source(photographs, masks=str(masks))], 8, tmp_path / "index")
    entries = {entry["name"]: entry for path in lists for entry in index.read_index(path)}
    assert entries["a.jpg"]["mask"] == {
        "path": str(masks / "a.png"),
        "sha256": index.hash_bytes(b"mask of a.png"),
    }
    assert entries["inner/c.jpg"]["mask"]["path"] == str(masks / "inner/c.PNG")
    assert "mask" not in entries["b.PNG"]
    # Batches without a mask are what they were.
    different = [batch for batch in range(8) if before[batch] != states(lists)[batch]]
    assert set(different) == {index.batch_of(name, 8) for name in ("a.jpg", "inner/c.jpg")}


def test_a_changed_mask_changes_its_batch_only(photographs, masks, tmp_path):
    sources = [source(photographs, masks=str(masks))]
    before = states(index.write_index(sources, 8, tmp_path / "index"))
    assert states(index.write_index(sources, 8, tmp_path / "index")) == before
    (masks / "a.png").write_bytes(b"another mask")
    after = states(index.write_index(sources, 8, tmp_path / "index"))
    different = [batch for batch in range(8) if before[batch] != after[batch]]
    assert different == [index.batch_of("a.jpg", 8)]


def test_masks_within_the_folder_of_pictures_are_no_pictures(photographs, tmp_path):
    (photographs / "masks/inner").mkdir(parents=True)
    (photographs / "masks/inner/d.png").write_bytes(b"mask")
    masks = str(photographs / "masks")
    (only,) = index.write_index([source(photographs, masks=masks)], 1, tmp_path / "index")
    entries = {entry["name"]: entry for entry in index.read_index(only)}
    assert sorted(entries) == ["a.jpg", "b.PNG", "inner/c.jpg", "inner/d.jpg"]
    assert [name for name in entries if "mask" in entries[name]] == ["inner/d.jpg"]


def test_a_mask_of_no_picture_is_named(photographs, masks, tmp_path):
    for name in ("z.png", "c.png"):
        (masks / name).write_bytes(b"mask")
    with pytest.raises(ConsilienceError, match=r"masks/c.png: is the mask of no picture"):
        index.write_index([source(photographs, masks=str(masks))], 1, tmp_path / "index")


def test_a_folder_without_masks_is_an_error(photographs, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(ConsilienceError, match=r"none: holds no mask"):
        index.write_index(
            [source(photographs, masks=str(tmp_path / "none"))], 1, tmp_path / "index"
        )


@pytest.mark.slow
def test_masks_of_a_folder_run_through_the_workflow(tmp_path):
    """Three pictures: one labelled and with a mask, one with a mask, one with neither."""
    from consilience.classifiers import build_architecture
    from consilience.training import save_weights
    from test_workflow import snakemake

    torch.manual_seed(0)
    save_weights(build_architecture("resnet18", 10), tmp_path / "net.safetensors")
    rows = world.describe_rows(world.study_pictures(0, 3, [0]), 64)
    names = ["a.png", "inner/b.png", "c.png"]
    assert {index.batch_of(name, 2) for name in names} == {0, 1}
    for name, row in zip(names, rows, strict=True):
        for folder, data in (("photos", row["image"]["bytes"]), ("masks", row["mask_visible"])):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_bytes(data)
    (tmp_path / "masks/c.png").unlink()
    (tmp_path / "labels.csv").write_text(f"name,label\na.png,{rows[0]['object']}\n")
    study = {
        "study": "own",
        "world": None,
        "clip": None,
        "probe": [],
        "acts": {"dissect": False, "lime": False},
        "pictures": [{"folder": "photos", "masks": "masks", "labels": "labels.csv"}],
        "models": [
            {
                "name": "net",
                "architecture": "resnet18",
                "checkpoint": "net.safetensors",
                "classes": list(world.OBJECTS),
                "transform": world.TRANSFORM.to_dict(),
                "cam_layer": "layer2",
            }
        ],
        "cam": {"methods": ["grad-cam"]},
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    results = tmp_path / "results/own"
    wanted = "results/own/tables/localization.parquet"
    asked = [wanted, wanted.replace("localization", "localization_summary")]
    snakemake(tmp_path, "--cores", "2", *asked, studies=[path])
    located = tables.read_rows(tmp_path / wanted, tables.LOCALIZATION)
    predictions = tables.read_rows(
        sorted(results.glob("explain/net/predictions-*.parquet")), tables.PREDICTIONS
    )
    correct = {row["picture"]: row["correct"] for row in predictions}
    assert correct["inner/b.png"] is correct["c.png"] is None
    assert {row["picture"] for row in located} == {"a.png", "inner/b.png"}
    assert {row["matters"] for row in located} == {None}
    for row in located:
        right = correct[row["picture"]] in (None, True)
        assert row["truth"] == ("object" if right else "distractor")
        assert right or row["reason"] == "wrong: what it names has no mask"
    assert not (results / "agree/net/effects.parquet").exists()
    # Another mask: what its batch rests on and no more.
    (tmp_path / "masks/a.png").write_bytes(encode_png(np.full((64, 64), 255, np.uint8)))
    said = snakemake(tmp_path, "-n", *asked, studies=[path])
    stats = said.partition("Job stats:")[2].partition("total")[0].splitlines()[3:]
    assert {row.split()[0]: int(row.split()[1]) for row in stats if row.strip()} == {
        "gather_pictures": 1,
        "predict": 1,
        "explain_cam": 1,
        "score_localization": 1,
        "summarise_localization": 1,
    }
    # One that does not fit stops at the step that reads it, and says so.
    (tmp_path / "masks/a.png").write_bytes(encode_png(np.zeros((4, 4), np.uint8)))
    said = snakemake(tmp_path, "--cores", "2", *asked, studies=[path], check=False)
    assert "masks/a.png: this mask has 4 × 4 pixels and its picture 'a.png' 64 × 64" in said
    (tmp_path / "masks/stray.png").write_bytes(b"")
    said = snakemake(tmp_path, "-n", *asked, studies=[path], check=False)
    assert "masks/stray.png: is the mask of no picture" in said
    assert "Traceback" not in said


def test_layers_that_come_later_are_a_group_of_their_own():
    first = index.group_layers(["layer4", "fc"], {})
    assert first == {"0": ["layer4", "fc"]}
    assert index.group_layers(["fc", "layer4"], first) == first
    second = index.group_layers(["layer3", "layer4", "fc", "layer2"], first)
    assert second == first | {"1": ["layer3", "layer2"]}
    # What goes stays known, so that it can come again.
    assert index.group_layers(["fc"], second) == second
    assert index.group_layers([], {}) == {}


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00"])
def test_what_is_kept_to_save_work_may_be_broken(tmp_path, text):
    (tmp_path / "kept.json").write_text(text)
    assert index.read_json(tmp_path / "kept.json") == {}
    assert index.read_json(tmp_path / "none.json") == {}

"""Descriptions read and written."""

import csv

import pytest

from consilience.comparison import compare_models
from consilience.descriptions import (
    read_categories,
    read_published,
    write_descriptions,
)
from consilience.errors import ConsilienceError
from consilience.tables import NEURONS, make_table
from test_comparison import neurons


def test_descriptions_have_the_form_of_clip_dissect(tmp_path):
    rows = neurons(['a "b", c', None, "ball"], similarity=0.125)
    write_descriptions(rows, tmp_path / "descriptions.csv")
    text = (tmp_path / "descriptions.csv").read_text()
    assert text.splitlines()[0] == "layer,unit,description,similarity"
    with open(tmp_path / "descriptions.csv", newline="") as file:
        read = list(csv.DictReader(file))
    assert [row["description"] for row in read] == ['a "b", c', "", "ball"]
    assert [row["similarity"] for row in read] == ["0.125", "", "0.125"]
    with pytest.raises(ConsilienceError, match="not of m, n"):
        write_descriptions(rows + neurons(["ball"], model="n"), tmp_path / "two.csv")
    assert not (tmp_path / "two.csv").exists()


def test_descriptions_come_back_as_they_were_written(tmp_path):
    rows = neurons(['a "b", c', None, "ball", "two\nlines"])
    for row, similarity in zip(rows, (0.1, None, 1 / 3, -2), strict=True):
        row["similarity"] = similarity
    write_descriptions(rows, tmp_path / "descriptions.csv")
    found = read_published("m", "clip-dissect", tmp_path / "descriptions.csv")
    make_table(found, NEURONS)
    for key in ("model", "layer", "unit", "concept", "similarity"):
        assert [row[key] for row in found] == [row[key] for row in rows]
    assert [row["status"] for row in found] == ["ok", "undescribed", "ok", "ok"]
    assert [row["rank"] for row in found] == [1, None, 0, 2]


def test_netdissect_counts_from_one_and_marks_its_labels(tmp_path):
    path = tmp_path / "layer4.csv"
    path.write_text(
        "unit,category,label,score,more\n"
        "1,scene,airport_terminal-s,0.25,x\n"
        "2,color,green-c,0.5,x\n"
        "3,part,plastic-opaque,,x\n"
        "4,texture,,0.1,x\n"
    )
    found = read_published("m", "netdissect", {"layer4": path, "fc": path})
    make_table(found, NEURONS)
    assert [row["layer"] for row in found] == ["layer4"] * 4 + ["fc"] * 4
    assert [row["unit"] for row in found] == [0, 1, 2, 3] * 2
    assert [row["concept"] for row in found[:4]] == [
        "airport terminal",
        "green",
        "plastic-opaque",
        None,
    ]
    assert [row["similarity"] for row in found[:4]] == [0.25, 0.5, None, None]
    assert [row["rank"] for row in found] == [1, 0, None, None] * 2


HEADER = b"layer,unit,description,similarity\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "line 1: there is no column 'layer' or 'unit'"),
        (b"layer,unit,similarity\nl,0,1\n", "line 1: there is no column 'description'"),
        (HEADER, "has no rows"),
        (HEADER + b"l,0,a,1\nl,x,a,1\n", "line 3: unit 'x' is not a whole number from 0 on"),
        (HEADER + b"l,1.0,a,1\n", "line 2: unit '1.0'"),
        (HEADER + b"l,-1,a,1\n", "line 2: unit '-1'"),
        (HEADER + b"l,0,a,1\nl,0,b,1\n", "line 3: layer 'l', unit 0 is there twice"),
        (HEADER + b"l,0,a,nan\n", "line 2: similarity 'nan' is not a finite number"),
        (HEADER + b"l,0,a,much\n", "line 2: similarity 'much'"),
        (HEADER + b"l,0,a,b,1\n", "line 2: 5 values for 4 columns"),
        (HEADER + b"l,0,a\n", "line 2: 3 values for 4 columns"),
        (HEADER + b",0,a,1\n", "line 2: the layer is empty"),
        (HEADER + b"l,0,a,1\nl,1,caf\xe9,1\n", "line 3: not UTF-8"),
        (HEADER + b'l,0,"a,1\n', "line 2: unexpected end of data"),
    ],
)
def test_broken_descriptions_are_said_with_file_and_line(tmp_path, content, said):
    path = tmp_path / "published.csv"
    path.write_bytes(content)
    with pytest.raises(ConsilienceError, match=said) as caught:
        read_published("m", "clip-dissect", path)
    assert str(caught.value).startswith(str(path))


def test_broken_netdissect_files_are_said_with_file_and_line(tmp_path):
    path = tmp_path / "layer4.csv"
    for rows, said in (
        ("0,ball,1\n", "line 2: unit '0' is not a whole number from 1 on"),
        ("1,ball,1\n1,box,1\n", "line 3: unit 1 is there twice"),
    ):
        path.write_text("unit,label,score\n" + rows)
        with pytest.raises(ConsilienceError, match=said):
            read_published("m", "netdissect", {"layer4": path})
    with pytest.raises(ConsilienceError, match=r"gone\.csv: cannot be read"):
        read_published("m", "netdissect", {"layer4": tmp_path / "gone.csv"})
    with pytest.raises(ConsilienceError, match="no format 'milan'"):
        read_published("m", "milan", path)


def test_categories_are_read(tmp_path):
    path = tmp_path / "categories.csv"
    path.write_bytes(b"\xef\xbb\xbfword,category\nred ball, made\n\ntree,natural\n")
    assert read_categories(path) == {"red ball": "made", "tree": "natural"}
    for rows, said in (
        (b"tree,natural\ntree,made\n", "line 3: 'tree' has a category already"),
        (b"tree,\n", "line 2: the category is empty"),
        (b",made\n", "line 2: the word is empty"),
    ):
        path.write_bytes(b"word,category\n" + rows)
        with pytest.raises(ConsilienceError, match=said):
            read_categories(path)


def test_published_files_are_read_and_compared(real_data):
    folder = real_data / "published"
    layers = ("layer1", "layer4", "fc")
    netdissect = {
        layer: folder / f"NetDissect_results/resnet50_imagenet_{layer}.csv" for layer in layers
    }
    clip = folder / "CLIP_Dissect_results/resnet50_imagenet_broden.csv"
    rows = read_published("clip-dissect", "clip-dissect", clip)
    assert len(rows) == 64 + 256 + 512 + 1024 + 2048
    rows += read_published("netdissect", "netdissect", netdissect)
    make_table(rows, NEURONS)
    labels = {row["concept"] for row in rows if row["model"] == "netdissect"}
    assert not any(label.endswith(("-s", "-c")) or "_" in label for label in labels)
    found = {
        (row["layer"], row["model_a"], row["model_b"], row["metric"]): row
        for row in compare_models(rows)
    }
    assert found["layer4", "netdissect", None, "neurons"]["value"] == 2048
    assert 0 < found["layer4", "clip-dissect", "netdissect", "jaccard"]["value"] < 1
    reason = found["fc", "clip-dissect", "netdissect", "jaccard"]["reason"]
    assert reason == "clip-dissect has no such layer"

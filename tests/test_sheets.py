import csv
import html.parser
import json
import math

import pytest

from consilience import sheets, tables
from consilience.errors import ConsilienceError
from test_comparison import neurons

HOSTILE = '</td><script>alert(1)</script>"&amp;'


def write(folder, name, rows):
    tables.write_table(rows, folder / f"{name}.parquet", getattr(tables, name.upper()))
    sheets.write_sheets([folder / f"{name}.csv", folder / f"{name}.html"])


def accuracy(count, **changed):
    row = {"target": "object", "clutter": None, "pictures": 3, "correct": 1, "accuracy": 1 / 3}
    return [row | {"model": f"net {n}"} | changed for n in range(count)]


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class Cells(html.parser.HTMLParser):
    """The cells of a page, and every element that it has."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.elements, self.inside = [], set(), False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.add(tag)
        if tag == "tr":
            self.rows.append([])
        self.inside = tag in ("td", "th")
        if self.inside:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


def test_the_csv_says_what_the_table_says(tmp_path):
    rows = neurons(["a, b", None, 'say "x"\nü'], similarity=0.1, absent=False)
    rows[0]["top_pictures"] = ["b c.png", 'd";.png']
    rows[1]["p_value"] = 1 / 3
    write(tmp_path, "neurons", rows)
    found = read_csv(tmp_path / "neurons.csv")
    assert list(found[0]) == tables.NEURONS.names
    assert json.loads(found[0]["top_pictures"]) == rows[0]["top_pictures"]
    assert (found[0]["concept"], found[0]["absent"]) == ("a, b", "false")
    assert (found[1]["concept"], found[1]["similarity"], found[1]["rank"]) == ("", "", "")
    assert found[2]["concept"] == 'say "x"\nü'
    assert float(found[1]["p_value"]) == 1 / 3


def test_numbers_come_back_from_the_csv_to_the_last_bit(tmp_path):
    values = [0.1, 1 / 3, 1e22, 5e-324, -1e-5, math.pi * 1e300, 0.0]
    rows = [row | {"accuracy": value} for row, value in zip(accuracy(7), values, strict=True)]
    write(tmp_path, "accuracy", rows)
    assert [float(row["accuracy"]) for row in read_csv(tmp_path / "accuracy.csv")] == values


def test_an_empty_table_has_its_columns(tmp_path):
    write(tmp_path, "accuracy", [])
    assert (tmp_path / "accuracy.csv").read_text().count("\n") == 1
    page = Cells((tmp_path / "accuracy.html").read_text())
    assert page.rows == [tables.ACCURACY.names]
    assert "0 rows" in (tmp_path / "accuracy.html").read_text()


def test_the_page_shows_the_rows(tmp_path):
    write(tmp_path, "accuracy", accuracy(2, clutter=4))
    page = Cells((tmp_path / "accuracy.html").read_text())
    assert page.rows[0] == tables.ACCURACY.names
    assert page.rows[1:] == [[f"net {n}", "object", "4", "3", "1", "0.3333"] for n in (0, 1)]


def test_lists_and_what_is_missing_can_be_read_on_the_page(tmp_path):
    rows = neurons(["ball", None])
    rows[0] |= {"candidates": ["ball", "box"], "stands": True}
    write(tmp_path, "neurons", rows)
    head, first, second = Cells((tmp_path / "neurons.html").read_text()).rows
    assert dict(zip(head, first, strict=True))["candidates"] == "ball, box"
    assert dict(zip(head, first, strict=True))["stands"] == "yes"
    assert dict(zip(head, second, strict=True))["concept"] == "–"


def test_a_long_table_is_whole_as_csv_and_its_page_says_that_it_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(sheets, "PAGE_ROWS", 3)
    write(tmp_path, "accuracy", accuracy(5))
    text = (tmp_path / "accuracy.html").read_text()
    assert [row[0] for row in Cells(text).rows[1:]] == ["net 0", "net 1", "net 2"]
    assert "The first 3 of 5 rows; accuracy.csv has them all" in text
    assert len(read_csv(tmp_path / "accuracy.csv")) == 5


def test_nothing_of_a_name_is_markup_on_the_page(tmp_path):
    write(tmp_path, "accuracy", accuracy(1, model=HOSTILE))
    text = (tmp_path / "accuracy.html").read_text()
    page = Cells(text)
    assert page.rows[1][0] == HOSTILE
    assert "script" not in page.elements
    assert "default-src 'none'" in text


def test_the_same_table_gives_the_same_bytes(tmp_path):
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        write(tmp_path / place, "accuracy", accuracy(3))
    for name in ("accuracy.csv", "accuracy.html"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("name", ["accuracy.csv", "accuracy.html"])
def test_a_table_of_another_schema_is_named(tmp_path, name):
    tables.write_table(neurons(["ball"]), tmp_path / "accuracy.parquet", tables.NEURONS)
    with pytest.raises(ConsilienceError, match=r"accuracy\.parquet: no column 'target'"):
        sheets.write_sheets([tmp_path / name])
    assert not (tmp_path / name).exists()

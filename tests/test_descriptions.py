"""Descriptions read and written."""

import csv

import pytest

from consilience.descriptions import write_descriptions
from consilience.errors import ConsilienceError
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

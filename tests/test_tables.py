"""Schemas and I/O of the tables between steps."""

import os

import numpy as np
import pyarrow as pa
import pytest

from consilience import tables
from consilience.errors import ConsilienceError

ROWS = [
    {"key": "a", "values": [1.0, 2.5]},
    {"key": "b", "values": np.array([0.5, -1], np.float32)},
]


def write_rows(path, rows=ROWS):
    tables.write_table(rows, path, tables.EMBEDDINGS)
    return path


def test_rows_come_back_as_they_went(tmp_path):
    path = write_rows(tmp_path / "new folder" / "t.parquet")
    assert tables.read_rows(path, tables.EMBEDDINGS) == [
        {"key": "a", "values": [1.0, 2.5]},
        {"key": "b", "values": [0.5, -1.0]},
    ]
    # Read back as the schema says, nullability included.
    assert tables.read_table(path, tables.EMBEDDINGS).schema == tables.EMBEDDINGS


def test_every_schema_takes_no_rows(tmp_path):
    schemas = [value for value in vars(tables).values() if isinstance(value, pa.Schema)]
    assert len(schemas) >= 15
    for schema in schemas:
        tables.write_table([], tmp_path / "t.parquet", schema)
        assert tables.read_rows(tmp_path / "t.parquet", schema) == []


def test_several_files_are_joined_in_the_order_given(tmp_path):
    first = write_rows(tmp_path / "1.parquet", ROWS[:1])
    second = write_rows(tmp_path / "2.parquet", ROWS[1:])
    found = tables.read_rows([second, first], tables.EMBEDDINGS)
    assert [row["key"] for row in found] == ["b", "a"]
    assert tables.read_rows([], tables.EMBEDDINGS) == []


def test_same_rows_make_the_same_bytes(tmp_path):
    first = write_rows(tmp_path / "1.parquet").read_bytes()
    os.utime(tmp_path / "1.parquet", (0, 0))
    assert write_rows(tmp_path / "2.parquet").read_bytes() == first
    # Also from a table in other chunks and with its columns in another order.
    table = tables.make_table(ROWS, tables.EMBEDDINGS)
    chunked = pa.concat_tables([table.slice(0, 1), table.slice(1)]).select(["values", "key"])
    tables.write_table(chunked, tmp_path / "3.parquet", tables.EMBEDDINGS)
    assert (tmp_path / "3.parquet").read_bytes() == first


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"key": "a", "values": [1.0], "extra": 1}], "unknown columns \\['extra'\\]"),
        ([{"key": 7, "values": [1.0]}], "do not fit their schema"),
        ([{"key": "a", "values": ["x"]}], "do not fit their schema"),
        ([{"values": [1.0]}], "'key' must not be empty"),
        ([{"key": None, "values": [1.0]}], "'key' must not be empty"),
    ],
)
def test_rows_that_do_not_fit_are_refused(rows, message, tmp_path):
    with pytest.raises(ConsilienceError, match=message):
        write_rows(tmp_path / "t.parquet", rows)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("pictures", 1.5, "'pictures' takes whole numbers, not 1.5"),
        ("pictures", np.float64(1.5), "'pictures' takes whole numbers, not 1.5"),
        ("pictures", 2**40, "do not fit"),
    ],
)
def test_no_number_is_cut_to_fit(column, value, message):
    row = {"model": "m", "target": "t", "pictures": 1, "correct": 1, "accuracy": 1.0}
    tables.make_table([row], tables.ACCURACY)
    with pytest.raises(ConsilienceError, match=message):
        tables.make_table([row | {column: value}], tables.ACCURACY)


def test_a_table_of_another_schema_names_file_and_difference(tmp_path):
    path = tmp_path / "old.parquet"
    other = pa.schema([("key", pa.string()), ("values", pa.list_(pa.float64())), ("x", pa.int8())])
    tables.write_table([], path, other)
    with pytest.raises(ConsilienceError) as error:
        tables.read_table(path, tables.ACTIVATIONS)
    assert str(error.value) == (
        f"{path}: no column 'picture'; no column 'layer'; unknown column 'key'; "
        "unknown column 'x'; column 'values' is list<element: double>, "
        "not list<item: float>; delete it and run again"
    )
    table = tables.make_table(ROWS, tables.EMBEDDINGS)
    with pytest.raises(ConsilienceError, match=f"{path}.*no column 'layer'"):
        tables.write_table(table, path, tables.ACTIVATIONS)


def test_a_table_with_nulls_where_none_may_be_is_not_written(tmp_path):
    loose = pa.schema([(field.name, field.type) for field in tables.EMBEDDINGS])
    table = pa.Table.from_pylist([{"key": None, "values": [1.0]}], schema=loose)
    with pytest.raises(ConsilienceError, match=r"t\.parquet.*'key' with null"):
        tables.write_table(table, tmp_path / "t.parquet", tables.EMBEDDINGS)


def test_missing_and_broken_files_are_named(tmp_path):
    path = tmp_path / "t.parquet"
    with pytest.raises(ConsilienceError, match=r"t\.parquet: no such table"):
        tables.read_table(path, tables.EMBEDDINGS)
    with pytest.raises(ConsilienceError, match="not a Parquet file"):
        tables.read_table(tmp_path, tables.EMBEDDINGS)
    good = write_rows(path).read_bytes()
    # The end, the footer and the data of a file break in different ways inside Arrow.
    for broken in (b"", b"no table", good[:-30], good[:4] + bytes(60) + good[64:]):
        path.write_bytes(broken)
        with pytest.raises(ConsilienceError, match=r"t\.parquet: not a Parquet file \(.+\)"):
            tables.read_table(path, tables.EMBEDDINGS)


def test_lists_of_one_length_are_stacked():
    table = tables.make_table(ROWS, tables.EMBEDDINGS)
    column = pa.chunked_array([table["values"].chunk(0).slice(1), *table["values"].chunks])
    np.testing.assert_array_equal(tables.stack_lists(column), [[0.5, -1], [1, 2.5], [0.5, -1]])
    assert tables.stack_lists(table["values"]).dtype == np.float32
    assert tables.stack_lists(table["values"].slice(0, 0)).shape[0] == 0


def test_lists_of_different_lengths_are_not_stacked():
    column = pa.chunked_array([[[1.0], [1.0, 2.0]]])
    with pytest.raises(ConsilienceError, match="different lengths"):
        tables.stack_lists(column)


def test_arrays_come_back_joined_and_make_the_same_bytes(tmp_path):
    arrays = {"a": np.arange(6).reshape(2, 3), "names": np.array(["x", "y"])}
    for name in ("1.npz", "2.npz"):
        tables.write_arrays(arrays, tmp_path / name)
    assert (tmp_path / "1.npz").read_bytes() == (tmp_path / "2.npz").read_bytes()
    found = tables.read_arrays([tmp_path / "1.npz", tmp_path / "2.npz"])
    np.testing.assert_array_equal(found["a"], np.tile(arrays["a"], (2, 1)))
    assert found["names"].tolist() == ["x", "y"] * 2


def test_arrays_that_are_missing_or_broken_are_named(tmp_path):
    path = tmp_path / "1.npz"
    with pytest.raises(ConsilienceError, match=r"1\.npz: no such file"):
        tables.read_arrays(path)
    tables.write_arrays({"a": np.arange(2)}, path)
    tables.write_arrays({"b": np.arange(2)}, tmp_path / "2.npz")
    with pytest.raises(ConsilienceError, match=r"2\.npz: holds other arrays"):
        tables.read_arrays([path, tmp_path / "2.npz"])
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ConsilienceError, match=r"1\.npz: not a readable"):
        tables.read_arrays(path)


def test_grouped_rows_lie_together_in_their_own_order(tmp_path):
    rows = [
        {"picture": picture, "layer": layer, "values": [float(n)]}
        for n, (picture, layer) in enumerate([("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")])
    ]
    path = tmp_path / "grouped.parquet"
    tables.write_table(rows, path, tables.ACTIVATIONS, group_by="layer")
    assert tables.read_rows(path, tables.ACTIVATIONS) == [rows[0], rows[2], rows[1], rows[3]]
    metadata = tables.open_table(path, tables.ACTIVATIONS).metadata
    found = [metadata.row_group(n).column(1).statistics for n in range(metadata.num_row_groups)]
    assert [(group.min, group.max) for group in found] == [("x", "x"), ("y", "y")]


def test_rows_are_read_in_parts_and_without_columns(tmp_path):
    rows = [{"key": str(i), "values": [float(i)]} for i in range(40)]
    path, other = tmp_path / "a.parquet", tmp_path / "b.parquet"
    tables.write_table(rows, path, tables.EMBEDDINGS)
    tables.write_table(rows[:3], other, tables.EMBEDDINGS)
    assert list(tables.iterate_rows([path, other], tables.EMBEDDINGS, part=7)) == rows + rows[:3]
    keys = [{"key": row["key"]} for row in rows]
    assert tables.read_rows(path, tables.EMBEDDINGS, without=["values", "no such"]) == keys
    assert tables.read_rows([], tables.EMBEDDINGS, without=["values"]) == []
    with pytest.raises(ConsilienceError, match="no such table"):
        list(tables.iterate_rows(tmp_path / "c.parquet", tables.EMBEDDINGS))

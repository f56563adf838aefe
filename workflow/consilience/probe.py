"""The probe set, shard by shard: what is kept of activations and embeddings that do not fit memory.

Activations and embeddings lie in one Parquet file a shard, pictures in the same order in both.
They are read a chunk at a time; what is kept grows with the neurons, not with the pictures.

Every picture has a key, a hash of its name. It decides what happens to the picture by chance (the
half it falls in, whether it is held out, which of two equally active pictures counts as the
stronger), so that nothing of this depends on the other pictures, their order or their shards.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .errors import ConsilienceError
from .progress import Progress
from .tables import ACTIVATIONS, EMBEDDINGS, open_table, stack_lists

CHUNK = 2048
"""Pictures read at a time."""

_SPAN = 2.0**64
# Keys worked on at a time: beside the keys nothing is held that grows with the pictures.
_SPLIT = 2**16


def keys_of(names: Sequence[str]) -> np.ndarray:
    """Return the key of each picture: uint64, evenly spread."""
    digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
    return np.frombuffer(digests, dtype="<u8")


@dataclass(frozen=True)
class ProbeSet:
    """The files of a probe set.

    Attributes
    ----------
    activations, embeddings
        Tables ``ACTIVATIONS`` and ``EMBEDDINGS``, one of each a shard.
    held_out
        Share of the pictures that labels are tested on and not made from.
    """

    activations: Sequence[str | Path]
    embeddings: Sequence[str | Path]
    held_out: float = 0.0

    def keys(self) -> np.ndarray:
        """Return the keys of all pictures, in the order of shards and rows.

        Raises
        ------
        ConsilienceError
            If a picture is there twice.
        """
        found = [keys_of(names) for names in _read_column(self.embeddings, EMBEDDINGS, "key")]
        keys = np.concatenate(found) if found else np.empty(0, dtype=np.uint64)
        ordered = np.sort(keys)
        if (ordered[1:] == ordered[:-1]).any():
            raise ConsilienceError(
                f"{self.embeddings[0]} and the other shards hold a probe picture twice; delete "
                "them and run again"
            )
        return keys

    def parts(self, keys: np.ndarray) -> np.ndarray:
        """Say where pictures fall: 0 and 1 the halves that labels are made from, 2 held out."""
        place = keys / _SPAN
        halves = (place >= self.held_out + (1 - self.held_out) / 2).astype(np.int8)
        return np.where(place < self.held_out, np.int8(2), halves)

    def labels(self, keys: np.ndarray) -> np.ndarray:
        """Say which pictures labels are made from."""
        return self.parts(keys) < 2

    def tests(self, keys: np.ndarray) -> np.ndarray:
        """Say which pictures labels are tested on."""
        return self.parts(keys) == 2

    def count_labelling(self, keys: np.ndarray) -> int:
        """Count the pictures that labels are made from."""
        starts = range(0, len(keys), _SPLIT)
        return int(sum(self.labels(keys[start : start + _SPLIT]).sum() for start in starts))

    def read_activations(self, layer: str, keys: np.ndarray) -> Iterator[np.ndarray]:
        """Read a layer's activations in the order of ``keys``, shape (pictures, neurons).

        Raises
        ------
        ConsilienceError
            If they are not of the pictures that the embeddings are of.
        """
        done, counted = 0, Progress(len(keys), f"pictures of layer {layer}")
        for path in self.activations:
            for names, values in _read_vectors(path, ACTIVATIONS, "picture", layer):
                found = keys_of(names)
                if not np.array_equal(found, keys[done : done + len(found)]):
                    raise ConsilienceError(
                        f"{path}: layer {layer!r} has activations of other pictures than the "
                        f"embeddings, from {names[0]!r} on; delete both and run again"
                    )
                done += len(found)
                yield values
                counted.advance(len(found))
        if done != len(keys):
            raise ConsilienceError(
                f"layer {layer!r} has activations of {done} probe pictures, but there are "
                f"embeddings of {len(keys)}; name a layer that was recorded, or run again"
            )

    def read_both(self, layer: str, keys: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Read a layer's activations beside the embeddings of the same pictures."""
        vectors = (vectors for _, vectors in self.read_embeddings())
        activations = self.read_activations(layer, keys)
        return zip(_rebatch(activations), _rebatch(vectors), strict=True)

    def read_embeddings(self) -> Iterator[tuple[list[str], np.ndarray]]:
        """Read names and embeddings in the order of :meth:`keys`.

        Raises
        ------
        ConsilienceError
            If an embedding is not of unit length.
        """
        for path in self.embeddings:
            for names, vectors in _read_vectors(path, EMBEDDINGS, "key"):
                check_unit_length(vectors, str(path))
                yield names, vectors


def _rebatch(parts: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Cut rows into chunks of one size, whatever the files' own are."""
    waiting: list[np.ndarray] = []
    for part in parts:
        waiting.append(part)
        while sum(map(len, waiting)) >= CHUNK:
            rows = np.concatenate(waiting)
            yield rows[:CHUNK]
            waiting = [rows[CHUNK:]]
    if sum(map(len, waiting)):
        yield np.concatenate(waiting)


def sample(keys: np.ndarray, wanted: Callable[[np.ndarray], np.ndarray], most: int) -> np.ndarray:
    """Choose at most ``most`` pictures, by their keys alone.

    Parameters
    ----------
    keys
        Of all pictures.
    wanted
        Says of an array of keys which may be chosen.
    most
        How many at most.

    Returns
    -------
    numpy.ndarray
        int64, their numbers, rising.
    """
    kept = np.empty(0, dtype=np.int64)
    for start in range(0, len(keys), _SPLIT):
        numbers = start + np.flatnonzero(wanted(keys[start : start + _SPLIT]))
        kept = np.concatenate([kept, numbers])
        # Mixed again: the key itself has already decided where the picture falls.
        kept = np.sort(kept[np.argsort(_mix(keys[kept]), kind="stable")[:most]])
    return kept


def draw_weights(keys: np.ndarray, resample: int) -> np.ndarray:
    """Draw how often each picture occurs in a resample: Poisson of mean 1, from its key alone.

    Resampling pictures with independent Poisson weights is the bootstrap's limit for many pictures
    and, unlike it, needs no knowledge of how many there are (Hanley and MacGibbon, 2006).
    """
    place = _mix(keys + np.uint64((resample + 1) * _STEP % 2**64)) / _SPAN
    return np.searchsorted(_POISSON, place, side="right")


# Distribution function of the Poisson distribution of mean 1.
_POISSON = np.cumsum([np.exp(-1) / math.factorial(count) for count in range(16)])
# Golden-ratio step and finalizer of SplitMix64 (Steele, Lea and Flood, 2014).
_STEP = 0x9E3779B97F4A7C15


def _mix(keys: np.ndarray) -> np.ndarray:
    """Scramble 64-bit keys."""
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


def check_unit_length(vectors: np.ndarray, place: str) -> None:
    """Raise where an embedding is not of unit length."""
    lengths = np.linalg.norm(vectors, axis=1)
    if vectors.size and not np.allclose(lengths, 1, atol=1e-3):
        raise ConsilienceError(f"{place}: the embeddings are not all of unit length")


def _read_column(paths, schema: pa.Schema, column: str) -> Iterator[list[str]]:
    for path in paths:
        for batch in open_table(path, schema).iter_batches(CHUNK, columns=[column]):
            yield batch.column(column).to_pylist()


def _read_vectors(path, schema: pa.Schema, name: str, layer: str | None = None):
    """Read names and vectors a chunk at a time, of one layer where a layer is given."""
    file = open_table(path, schema)
    column = file.schema_arrow.get_field_index("layer") if layer else None
    groups = []
    for group in range(file.num_row_groups):
        said = file.metadata.row_group(group).column(column).statistics if layer else None
        if said is None or not said.has_min_max or said.min <= layer <= said.max:
            groups.append(group)
    for batch in file.iter_batches(CHUNK, row_groups=groups):
        table = pa.Table.from_batches([batch])
        if layer:
            table = table.filter(pc.equal(table["layer"], layer))
        if len(table):
            yield table[name].to_pylist(), stack_lists(table["values"])


@dataclass
class TopPictures:
    """The pictures that activate each neuron most, merged chunk by chunk.

    Equally active pictures count in the order of their keys.

    Attributes
    ----------
    depth
        How many are kept a neuron.
    """

    depth: int
    values: np.ndarray = field(init=False, default=None)
    keys: np.ndarray = field(init=False, default=None)
    pictures: np.ndarray = field(init=False, default=None)

    def add(self, activations: np.ndarray, keys: np.ndarray, pictures: np.ndarray) -> None:
        """Take in more pictures.

        Parameters
        ----------
        activations
            float32, shape (n, neurons), finite.
        keys, pictures
            Key and number of each picture, shape (n,).
        """
        neurons = activations.shape[1]
        if self.values is None:
            self.values = np.empty((neurons, 0), dtype=activations.dtype)
            self.keys = np.empty((neurons, 0), dtype=np.uint64)
            self.pictures = np.empty((neurons, 0), dtype=np.int64)
        # Only what may enter is sorted: above the last one kept, or as active with a lower key.
        columns = np.ascontiguousarray(activations.T)
        enters = np.ones(columns.shape, dtype=bool)
        if self.values.shape[1] == self.depth:
            least, key = self.values[:, -1:], self.keys[:, -1:]
            enters = (columns > least) | ((columns == least) & (keys < key))
        elif columns.shape[1] > self.depth:
            rank = columns.shape[1] - self.depth
            enters = columns >= np.partition(columns, rank, axis=1)[:, rank : rank + 1]
        neuron, column = enters.nonzero()
        kept = self.values.shape[1]
        rows = np.concatenate([np.repeat(np.arange(neurons), kept), neuron])
        values = np.concatenate([self.values.ravel(), columns[neuron, column]])
        ties = np.concatenate([self.keys.ravel(), keys[column]])
        named = np.concatenate([self.pictures.ravel(), pictures[column]])
        order = np.lexsort((ties, -values, rows))
        starts = np.searchsorted(rows[order], np.arange(neurons))
        kept = min(self.depth, kept + columns.shape[1])
        chosen = order[starts[:, None] + np.arange(kept)]
        self.values, self.keys, self.pictures = values[chosen], ties[chosen], named[chosen]

    def merge(self, other: TopPictures) -> TopPictures:
        """Return the top pictures of both together."""
        parts = [top for top in (self, other) if top.values is not None]
        merged = TopPictures(self.depth)
        if parts:
            values, keys, pictures = (
                np.concatenate([getattr(top, name) for top in parts], axis=1)
                for name in ("values", "keys", "pictures")
            )
            order = np.lexsort((keys, -values))[:, : self.depth]
            for name, array in (("values", values), ("keys", keys), ("pictures", pictures)):
                setattr(merged, name, np.take_along_axis(array, order, axis=1))
        return merged


class _Store:
    """Float32 values in a temporary file; the file has no name and is gone after the ``with``."""

    def __init__(self):
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed on leaving)

    def __enter__(self):
        return self

    def __exit__(self, *_exception) -> None:
        self._file.close()

    def _write(self, values: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(values, dtype=np.float32).tobytes())

    def _read(self, start: int, count: int) -> np.ndarray:
        """Read ``count`` values from value ``start`` on."""
        return np.frombuffer(os.pread(self._file.fileno(), 4 * count, 4 * start), np.float32)


class RowStore(_Store):
    """Rows of vectors, read back by number."""

    def __init__(self):
        super().__init__()
        self.width: int | None = None

    def append(self, vectors: np.ndarray) -> None:
        """Write rows after those that are there."""
        if self.width is None:
            self.width = vectors.shape[1]
        elif self.width != vectors.shape[1]:
            raise ConsilienceError(
                f"vectors of {self.width} and {vectors.shape[1]} elements are not of one model"
            )
        self._write(vectors)

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Read rows by number, shape (len(numbers), width)."""
        self._file.flush()
        found = np.empty((len(numbers), self.width), dtype=np.float32)
        for row, number in zip(found, numbers.tolist(), strict=True):
            row[:] = self._read(number * self.width, self.width)
        return found


class ColumnStore(_Store):
    """Columns of values that come in rows."""

    def __init__(self):
        super().__init__()
        self._chunks: list[tuple[int, int]] = []  # the value that each starts at, and its rows

    def append(self, rows: np.ndarray) -> None:
        """Write rows after those that are there."""
        self._chunks.append((self._file.tell() // 4, len(rows)))
        self._write(rows.T)

    def read(self, column: int) -> np.ndarray:
        """Read one column whole."""
        self._file.flush()
        return np.concatenate(
            [self._read(start + rows * column, rows) for start, rows in self._chunks]
        )


class StoredCosines:
    """Cosines of stored picture embeddings and concepts; see :class:`~.similarity.Cosines`.

    Parameters
    ----------
    store
        Embeddings of pictures, unit length.
    numbers
        Numbers of the pictures that are stored, rising; pictures are asked for by these.
    concepts
        Embeddings, float32, shape (concepts, dimensions), unit length.
    """

    precision = np.float32

    def __init__(self, store: RowStore, numbers: np.ndarray, concepts: np.ndarray):
        self.store, self.numbers, self.vectors = store, numbers, concepts
        self.concepts = len(concepts)
        self._last: tuple = (None, None)

    def block(self, pictures: np.ndarray, columns: slice) -> np.ndarray:
        if self._last[0] is None or not np.array_equal(self._last[0], pictures):
            rows = np.searchsorted(self.numbers, pictures)
            self._last = (pictures.copy(), self.store.read(rows))
        return self._last[1] @ self.vectors[columns].T

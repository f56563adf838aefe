"""Label the neurons of classifiers with concepts, and say what the labels are worth.

The method is CLIP-Dissect (see :mod:`.similarity`): the label of a neuron is the concept whose
similarity to it is greatest, the first in the list of concepts where several are. What the label
is worth is said by :mod:`.calibration`.

Part of the probe pictures is held out: labels are made from the others and tested on these.

A neuron whose activations are constant over the probe pictures, or not finite, gets no label but a
status that says so, and has no part in the prior that soft-WPMI and WPMI take over a layer's
neurons. (The authors' code labels it by whichever pictures come first.)
"""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pyarrow as pa

from . import calibration
from .errors import ConsilienceError
from .probe import (
    ColumnStore,
    ProbeSet,
    RowStore,
    StoredCosines,
    TopPictures,
    check_unit_length,
    draw_weights,
    keys_of,
    sample,
)
from .progress import track
from .similarity import SIMILARITIES, TERMS, Terms, reorder, scan_concepts
from .tables import NEURONS, stack_lists

TOP_PICTURES = 5
CANDIDATES = 5

# A neuron whose activations differ by less than this share of their size does not react to the
# pictures: float32 rounding alone makes such differences.
CONSTANT = 1e-6

# Pictures at most that labels are tested on; that chance is drawn from; and that similarities
# which are not sums over top pictures are calibrated on.
HELD_OUT = 2048
POOL = 4096
SAMPLE = 4096

# Shuffles of the pictures where each neuron needs a distribution of its own.
SHUFFLES = 199


@dataclass(frozen=True)
class Concepts:
    """The words that neurons can get.

    Attributes
    ----------
    words
        In the order that decides ties.
    vectors
        CLIP embeddings, float32, shape (concepts, dimensions), unit length.
    absent
        Words that are known to occur in no picture; ``None`` where that is not known.
    """

    words: Sequence[str]
    vectors: np.ndarray
    absent: Collection[str] | None = None

    @classmethod
    def from_table(cls, table: pa.Table, absent: Collection[str] | None = None) -> Concepts:
        """Take a table ``EMBEDDINGS``.

        Raises
        ------
        ConsilienceError
            If there is no concept, one is listed twice, or an embedding is not of unit length.
        """
        words = table["key"].to_pylist()
        if not words:
            raise ConsilienceError("neurons cannot be labelled without concepts")
        if len(set(words)) < len(words):
            raise ConsilienceError("a concept is listed twice; keep one")
        vectors = np.ascontiguousarray(stack_lists(table["values"]))
        check_unit_length(vectors, "concepts")
        return cls(words, vectors, absent)

    def halves(self) -> list[np.ndarray]:
        """Cut the list in two, by the words alone; indices rise."""
        order = np.argsort(keys_of(self.words), kind="stable")
        return [np.sort(order[start::2]) for start in (0, 1)]


def complete_settings(similarity: str, settings: Mapping) -> dict:
    """Return the arguments of a similarity function, what is left out with its default.

    Raises
    ------
    ConsilienceError
        If there is no such similarity or it has no such setting.
    """
    function = SIMILARITIES.get(similarity)
    if function is None:
        raise ConsilienceError(
            f"there is no similarity {similarity!r}; it is one of {', '.join(SIMILARITIES)}"
        )
    defaults = {
        parameter.name: parameter.default
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind == parameter.KEYWORD_ONLY
    }
    if unknown := sorted(set(settings) - set(defaults)):
        raise ConsilienceError(f"similarity {similarity!r} has no setting {unknown[0]!r}")
    return defaults | dict(settings)


def dissect_model(
    model: str,
    probe: ProbeSet,
    concepts: Concepts,
    layers: Sequence[str],
    similarity: str = "soft-wpmi",
    settings: Mapping | None = None,
    *,
    untrained: ProbeSet | None = None,
    resamples: int = 0,
    significance: float = 0.05,
    seed: int = 0,
) -> tuple[list[dict], list[dict]]:
    """Label the neurons of all dissected layers of a model.

    Parameters
    ----------
    model
        Its name.
    probe
        Activations and embeddings of the probe pictures.
    concepts
        The words.
    layers
        The layers to label, in this order.
    similarity, settings
        A name of :data:`~.similarity.SIMILARITIES` and arguments of that function; what is left
        out has CLIP-Dissect's value.
    untrained
        The same probe set seen by an untrained network of the same architecture; without it
        ``beats_untrained`` and ``stands`` are not known.
    resamples
        How often neurons are labelled anew on resampled pictures.
    significance
        False discovery rate below which a label is not due to chance.
    seed
        Of the draws that stand for chance.

    Returns
    -------
    tuple
        Rows of the tables ``NEURONS`` and ``RESAMPLED``, by layer and unit.

    Raises
    ------
    ConsilienceError
        If files do not belong together, there are too few probe pictures, or there is no such
        similarity or setting.
    """
    settings = complete_settings(similarity, settings or {})
    keys = probe.keys()
    neurons, resampled = [], []
    for layer in layers:
        rng = np.random.default_rng([seed, zlib.crc32(layer.encode())])
        study = _Layer.collect(probe, keys, layer, similarity, settings, resamples)
        found = study.find_labels(concepts, untrained, resamples, rng)
        neurons += _describe(model, study, found, concepts, untrained is not None, significance)
        labels = np.full((len(study.status), resamples), -1, dtype=np.int32)
        labels[study.alive] = found.resampled
        resampled += [
            {"model": model, "layer": layer, "unit": unit, "concepts": row}
            for unit, row in enumerate(labels)
        ]
    return neurons, resampled


class _Best:
    """The most similar concepts of each neuron, the first of equal ones first."""

    def __init__(self, neurons: int, count: int):
        self.values = np.full((neurons, count), -np.inf)
        self.concepts = np.full((neurons, count), -1)

    def add(self, block: slice, values: np.ndarray) -> None:
        rows = np.flatnonzero((values > self.values[:, -1:]).any(axis=1))
        merged = np.concatenate([self.values[rows], values[rows]], axis=1)
        columns = np.broadcast_to(np.arange(block.start, block.stop), (len(rows), values.shape[1]))
        columns = np.concatenate([self.concepts[rows], columns], axis=1)
        order = np.argsort(-merged, axis=1, kind="stable")[:, : self.values.shape[1]]
        self.values[rows] = np.take_along_axis(merged, order, axis=1)
        self.concepts[rows] = np.take_along_axis(columns, order, axis=1)


@dataclass
class _Labels:
    """What is found of the neurons that react: arrays of one row a neuron."""

    best: _Best
    names: dict[int, str]
    resampled: np.ndarray
    p: np.ndarray
    beats_untrained: np.ndarray | None = None
    auroc: dict[str, np.ndarray] = field(default_factory=dict)
    stable_pictures: np.ndarray | None = None
    stable_concepts: np.ndarray | None = None


@dataclass
class _Layer:
    """One layer over the probe pictures, as much of it as fits memory."""

    probe: ProbeSet
    keys: np.ndarray
    layer: str
    similarity: str
    settings: dict
    status: np.ndarray
    halves: list[TopPictures]
    # Numbers of pictures, and the activations of the neurons that react on them.
    held_out: np.ndarray
    held_out_activations: np.ndarray
    sampled: np.ndarray
    sampled_activations: np.ndarray

    @property
    def alive(self) -> np.ndarray:
        return np.flatnonzero(self.status == "ok")

    @classmethod
    def collect(cls, probe, keys, layer, similarity, settings, resamples=0) -> _Layer:
        """Read the layer's activations once."""
        labelling = probe.count_labelling(keys)
        top_k = _terms(similarity, settings).top_k if similarity in TERMS else TOP_PICTURES
        if similarity in TERMS and top_k > labelling:
            raise ConsilienceError(
                f"the {top_k} most activating pictures are asked for, but there are "
                f"{labelling} probe pictures to label neurons with (of {len(keys)}, the "
                "others are held out); add probe pictures or lower top_k"
            )
        if not labelling:
            raise ConsilienceError("neurons cannot be labelled without probe pictures")
        held_out = sample(keys, probe.tests, HELD_OUT)
        # Sums over top pictures are calibrated exactly, the other similarities on a sample.
        sampled = sample(keys, probe.labels, 0 if similarity in TERMS else SAMPLE)
        # Resamples reach below the top pictures; Poisson weights leave six deviations of room.
        depth = top_k + int(np.ceil(6 * np.sqrt(top_k))) if resamples else top_k
        depth = max(depth, TOP_PICTURES)
        halves = [TopPictures(depth), TopPictures(depth)]
        kept: tuple[list, list] = ([], [])
        low = high = finite = None
        done = 0
        for values in probe.read_activations(layer, keys):
            start, done = done, done + len(values)
            numbers, parts = np.arange(start, done), probe.parts(keys[start:done])
            good = np.isfinite(values)
            if not good.all():
                values = np.where(good, values, 0)
            least, most = values.min(axis=0), values.max(axis=0)
            if low is None:
                low, high, finite = least, most, good.all(axis=0)
            if len(low) != values.shape[1]:
                raise ConsilienceError(
                    f"layer {layer!r} has {len(low)} and {values.shape[1]} neurons in different "
                    "shards; delete its activations and run again"
                )
            low, high = np.minimum(low, least), np.maximum(high, most)
            finite &= good.all(axis=0)
            for half, top in enumerate(halves):
                mine = parts == half
                if mine.any():
                    top.add(values[mine], keys[start:done][mine], numbers[mine])
            for chosen, rows in zip((held_out, sampled), kept, strict=True):
                rows.append(values[_between(chosen, start, done) - start])
        reacts = high - low > CONSTANT * np.maximum(np.abs(low), np.abs(high))
        status = np.where(~finite, "not-finite", np.where(reacts, "ok", "constant"))
        alive = status == "ok"
        held, sampled_rows = (np.concatenate(rows)[:, alive] for rows in kept)
        return cls(
            probe,
            keys,
            layer,
            similarity,
            settings,
            status.astype(object),
            halves,
            held_out,
            held,
            sampled,
            sampled_rows,
        )

    def top(self, half: int | None = None) -> TopPictures:
        """Return the top pictures of the neurons that react, of a half or of both."""
        whole = self.halves[0].merge(self.halves[1]) if half is None else self.halves[half]
        own = TopPictures(whole.depth)
        if whole.values is not None:
            own.values, own.keys, own.pictures = (
                array[self.alive] for array in (whole.values, whole.keys, whole.pictures)
            )
        return own

    def find_labels(self, concepts, untrained, resamples, rng) -> _Labels:
        """Label the neurons, and ask what the labels are worth."""
        shown = self.top().pictures[:, :TOP_PICTURES]
        if not len(self.alive):
            nothing = np.empty((0, resamples), dtype=np.int32)
            return _Labels(_Best(0, CANDIDATES), {}, nothing, np.empty(0))
        find = self._sum_over_pictures if self.similarity in TERMS else self._compare_vectors
        with ExitStack() as stack:
            found = find(concepts, untrained, resamples, rng, shown, stack)
        return found

    def _store(self, numbers: Iterable[np.ndarray], concepts, shown, stack):
        """Read the embeddings once; keep those of the given pictures, and the names to show."""
        numbers = np.unique(np.concatenate([np.ravel(some) for some in numbers]))
        store, names, done = stack.enter_context(RowStore()), {}, 0
        shown = np.unique(shown)
        for chunk, vectors in self.probe.read_embeddings():
            if vectors.shape[1] != concepts.vectors.shape[1]:
                raise ConsilienceError("the picture and concept embeddings are not of one CLIP")
            start, done = done, done + len(chunk)
            store.append(vectors[_between(numbers, start, done) - start])
            names |= {n: chunk[n - start] for n in _between(shown, start, done).tolist()}
        return StoredCosines(store, numbers, concepts.vectors), names

    def _test_on_held_out(self, cosines: StoredCosines, best: _Best) -> dict[str, np.ndarray]:
        """See :func:`~.calibration.compare_auroc`."""
        rows = np.searchsorted(cosines.numbers, self.held_out)
        pictures = cosines.store.read(rows)
        second = best.concepts[:, min(1, best.concepts.shape[1] - 1)]
        first, second = (
            pictures @ cosines.vectors[np.maximum(found, 0)].T
            for found in (best.concepts[:, 0], second)
        )
        return calibration.compare_auroc(self.held_out_activations, first, second)

    def _sum_over_pictures(self, concepts, untrained, resamples, rng, shown, stack) -> _Labels:
        """WPMI and soft-WPMI: only top pictures count, of whatever neurons and draws."""
        terms = _terms(self.similarity, self.settings)
        top, halves = self.top(), [self.top(0), self.top(1)]
        pool = sample(self.keys, self.probe.labels, max(POOL, terms.top_k))
        rankings = {"label": top.pictures[:, : terms.top_k]}
        draws = max(calibration.DRAWS * len(self.alive), calibration.LEAST_DRAWS)
        rankings["chance"] = _draw(pool, draws, terms.top_k, rng)
        if untrained is not None:
            other = _Layer.collect(untrained, self.keys, self.layer, self.similarity, self.settings)
            if len(other.alive):
                # Against the prior of the neurons that are judged, and against its own.
                rankings["untrained"] = other.top().pictures[:, : terms.top_k]
                rankings["untrained, its own"] = rankings["untrained"]
        for resample in range(resamples):
            rankings[f"resample {resample}"] = _resample(top, terms.top_k, resample)
        cosines, names = self._store(
            [*rankings.values(), self.held_out, *(half.pictures for half in halves)],
            concepts,
            shown,
            stack,
        )
        best = {
            name: _Best(len(ranked), CANDIDATES if name == "label" else 1)
            for name, ranked in rankings.items()
        }
        prior_of = {name: "label" for name in ("chance", "untrained") if name in rankings}
        moments: dict[str, list] = {name: [] for name in rankings if name.startswith("untrained")}
        for block, values in scan_concepts(cosines, rankings, terms, prior_of):
            for name, found in values.items():
                best[name].add(block, found)
                if name in moments:
                    moments[name].append(calibration.Moments.of(found))
        label = best["label"].concepts[:, 0]
        beats = None
        if moments:
            same, own = (calibration.Moments.join(blocks) for blocks in moments.values())
            reached = best["untrained, its own"]
            reached = own.standardize(reached.values[:, 0], reached.concepts[:, 0])
            beats = calibration.beat_untrained(best["label"].values[:, 0], label, same, reached)
        columns = [best[f"resample {n}"].concepts for n in range(resamples)]
        return _Labels(
            best=best["label"],
            names=names,
            resampled=np.concatenate(columns, axis=1)
            if columns
            else np.empty((len(label), 0), dtype=np.int32),
            p=calibration.p_values(best["label"].values[:, 0], best["chance"].values[:, 0]),
            beats_untrained=beats,
            auroc=self._test_on_held_out(cosines, best["label"]),
            stable_pictures=self._compare_halves(cosines, halves),
            stable_concepts=self._leave_concepts_out(cosines, concepts, rankings, terms, label),
        )

    def _compare_halves(self, cosines, halves: list[TopPictures]) -> np.ndarray | None:
        """Whether both halves of the pictures, and half as many top pictures, give one label."""
        top_k = max(1, _terms(self.similarity, self.settings).top_k // 2)
        if any(half.values is None or half.values.shape[1] < top_k for half in halves):
            return None
        terms = _terms(self.similarity, {**self.settings, "top_k": top_k})
        rankings = {str(n): half.pictures[:, :top_k] for n, half in enumerate(halves)}
        best = {name: _Best(len(ranked), 1) for name, ranked in rankings.items()}
        for block, values in scan_concepts(cosines, rankings, terms):
            for name, found in values.items():
                best[name].add(block, found)
        first, second = (found.concepts[:, 0] for found in best.values())
        return (first == second) & (first >= 0)

    def _leave_concepts_out(self, cosines, concepts, rankings, terms, label) -> np.ndarray:
        """Whether the label stays when the half of the concepts that it is not in is left out."""
        stays = np.zeros(len(label), dtype=bool)
        for half in concepts.halves():
            if not len(half):
                continue
            fewer = StoredCosines(cosines.store, cosines.numbers, concepts.vectors[half])
            best = _Best(len(label), 1)
            for block, values in scan_concepts(fewer, {"label": rankings["label"]}, terms):
                best.add(block, values["label"])
            stays |= np.where(best.concepts[:, 0] >= 0, half[best.concepts[:, 0]], -1) == label
        return stays

    def _compare_vectors(self, concepts, untrained, resamples, rng, shown, stack) -> _Labels:
        """The other similarities: all pictures count; what is found is calibrated on a sample."""
        best = _Best(len(self.alive), CANDIDATES)
        scan = _SCANS.get(self.similarity, _scan_whole)
        for rows, block, values in scan(self, concepts, stack):
            part = _Best(0, CANDIDATES)
            part.values, part.concepts = best.values[rows], best.concepts[rows]
            part.add(block, values)
            best.values[rows], best.concepts[rows] = part.values, part.concepts
        cosines, names = self._store([self.sampled, self.held_out], concepts, shown, stack)
        # In the order of their keys, which decides where functions go by the order of rows.
        order = np.argsort(self.keys[self.sampled], kind="stable")
        sampled, activations = self.sampled[order], self.sampled_activations[order]
        near = cosines.store.read(np.searchsorted(cosines.numbers, sampled)) @ concepts.vectors.T
        compare = partial(SIMILARITIES[self.similarity], **self.settings)
        null = np.array(
            [
                compare(activations, near[rng.permutation(len(near))]).max(axis=1)
                for _ in range(SHUFFLES)
            ]
        )
        halves = [self.probe.parts(self.keys[sampled]) == half for half in (0, 1)]
        try:
            labels = [compare(activations[half], near[half]).argmax(axis=1) for half in halves]
        except ConsilienceError:  # too few pictures in a half
            labels = None
        resampled = np.empty((len(self.alive), resamples), dtype=np.int32)
        for resample in range(resamples):
            often = draw_weights(self.keys[sampled], resample)
            again = np.repeat(np.arange(len(near)), often)
            resampled[:, resample] = compare(activations[again], near[again]).argmax(axis=1)
        own = compare(activations, near)
        beats = None
        if untrained is not None:
            other = _Layer.collect(untrained, self.keys, self.layer, self.similarity, self.settings)
            if len(other.alive):
                random = compare(other.sampled_activations[order], near)
                labels_of = random.argmax(axis=1)
                moments = calibration.Moments.of(random)
                reached = moments.standardize(random.max(axis=1), labels_of)
                beats = calibration.beat_untrained(
                    own.max(axis=1), own.argmax(axis=1), moments, reached
                )
        return _Labels(
            best=best,
            names=names,
            resampled=resampled,
            p=calibration.p_values(own.max(axis=1), null),
            beats_untrained=beats,
            auroc=self._test_on_held_out(cosines, best),
            stable_pictures=None if labels is None else labels[0] == labels[1],
            stable_concepts=self._leave_others_out(compare, activations, near, own, concepts),
        )

    def _leave_others_out(self, compare, activations, near, own, concepts) -> np.ndarray:
        """Whether the label stays when the half of the concepts that it is not in is left out."""
        stays = np.full(len(self.alive), self.similarity in _SCANS)
        if not stays.all():  # with ours, what a concept scores does not depend on the others
            for half in concepts.halves():
                if len(half):
                    labels = compare(activations, near[:, half]).argmax(axis=1)
                    stays |= half[labels] == own.argmax(axis=1)
        return stays

    def labelling_pictures(self, activations: np.ndarray, start: int) -> np.ndarray:
        """Say which of the rows from picture ``start`` on labels are made from."""
        return self.probe.labels(self.keys[start : start + len(activations)])


def _scan_cosine(study: _Layer, concepts: Concepts, stack, power: int = 1, min_norm=None):
    """Cosines of columns from running sums; cubed and centred ones take a pass for the means."""
    alive, centres = study.alive, (0.0, 0.0)
    floor = np.finfo(np.float64).tiny if min_norm is None else min_norm

    def read():
        done = 0
        for activations, vectors in study.probe.read_both(study.layer, study.keys):
            mine = study.labelling_pictures(activations, done)
            done += len(activations)
            near = vectors[mine] @ concepts.vectors.T
            yield activations[mine][:, alive].astype(np.float64), near.astype(np.float64)

    if power > 1:
        count, sums = 0, [0.0, 0.0]
        for pair in read():
            count += len(pair[0])
            sums = [total + values.sum(axis=0) for total, values in zip(sums, pair, strict=True)]
        centres = tuple(total / count for total in sums)
    products, squares = 0.0, [0.0, 0.0]
    for pair in read():
        a, c = ((values - m) ** power for values, m in zip(pair, centres, strict=True))
        products = products + a.T @ c
        squares = [
            total + (values**2).sum(axis=0) for total, values in zip(squares, (a, c), strict=True)
        ]
    norms = [np.maximum(np.sqrt(total), floor) for total in squares]
    products /= norms[0][:, None]
    products /= norms[1]
    yield slice(None), slice(0, len(concepts.words)), products


def _scan_cosine_cubed(study: _Layer, concepts: Concepts, stack):
    return _scan_cosine(study, concepts, stack, 3, study.settings["min_norm"])


def _scan_rank_reorder(study: _Layer, concepts: Concepts, stack):
    """One neuron after another; its top pictures grow with the probe set and lie on disk."""
    settings = dict(study.settings)
    labelling = np.flatnonzero(study.probe.labels(study.keys))
    top_k = int(len(labelling) * settings.pop("top_fraction"))
    if top_k < 2:
        raise ConsilienceError(
            f"rank-reorder sorts the top pictures of {len(labelling)} probe pictures, which are "
            f"{top_k}; add probe pictures or raise top_fraction"
        )
    columns, store = (stack.enter_context(kind()) for kind in (ColumnStore, RowStore))
    done = 0
    for activations, vectors in study.probe.read_both(study.layer, study.keys):
        mine = study.labelling_pictures(activations, done)
        done += len(activations)
        columns.append(activations[mine])
        store.append(vectors[mine])
    keys = study.keys[labelling]
    for row, unit in enumerate(track(study.alive, "neurons")):
        values = columns.read(unit)
        least = np.partition(values, len(values) - top_k)[len(values) - top_k]
        chosen = np.flatnonzero(values >= least)
        chosen = chosen[np.lexsort((keys[chosen], -values[chosen]))[:top_k]]
        vectors = store.read(chosen)
        for start in range(0, len(concepts.words), 128):
            block = slice(start, min(start + 128, len(concepts.words)))
            near = vectors @ concepts.vectors[block].T
            yield slice(row, row + 1), block, reorder(values[chosen], near, **settings)[None]


def _scan_whole(study: _Layer, concepts: Concepts, stack):
    """All pictures and concepts at once: nothing is known of a similarity of the user's."""
    activations, vectors, done = [], [], 0
    for part, embedded in study.probe.read_both(study.layer, study.keys):
        mine = study.labelling_pictures(part, done)
        done += len(part)
        activations.append(part[mine][:, study.alive])
        vectors.append(embedded[mine])
    # In the order of their keys, as everywhere where a function may go by the order of rows.
    labelling = study.keys[study.probe.labels(study.keys)]
    order = np.argsort(labelling, kind="stable")
    near = np.concatenate(vectors)[order] @ concepts.vectors.T
    found = SIMILARITIES[study.similarity](
        np.concatenate(activations)[order], near, **study.settings
    )
    yield slice(None), slice(0, len(concepts.words)), found


_SCANS = {
    "cosine": _scan_cosine,
    "cosine-cubed": _scan_cosine_cubed,
    "rank-reorder": _scan_rank_reorder,
}


def _terms(similarity: str, settings: Mapping) -> Terms:
    return TERMS[similarity](**settings)


def _between(numbers: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Those of rising numbers that lie in [start, stop)."""
    return numbers[np.searchsorted(numbers, start) : np.searchsorted(numbers, stop)]


def _draw(pool: np.ndarray, draws: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw ``count`` different pictures of the pool, many times; shape (draws, count)."""
    drawn = np.empty((draws, count), dtype=np.int64)
    for start in range(0, draws, 1024):
        places = rng.random((min(1024, draws - start), len(pool)), dtype=np.float32)
        drawn[start : start + 1024] = places.argsort(axis=1)[:, :count]
    return pool[drawn]


def _resample(top: TopPictures, count: int, resample: int) -> np.ndarray:
    """Top pictures of each neuron in a resample of all pictures, shape (neurons, count).

    A picture that is drawn twice has two ranks. Should all that is kept of a neuron be too little,
    its weakest picture fills the rest.
    """
    filled = np.cumsum(draw_weights(top.keys, resample), axis=1)
    # Rank r is held by the first picture up to which more than r have been drawn.
    places = np.stack([np.searchsorted(row, np.arange(count), side="right") for row in filled])
    places = np.minimum(places, filled.shape[1] - 1)
    return np.take_along_axis(top.pictures, places, axis=1)


def _describe(model, study: _Layer, found: _Labels, concepts, asked, significance) -> list[dict]:
    """Make rows of the table ``NEURONS``."""
    rows = [
        {
            **dict.fromkeys(NEURONS.names),
            "model": model,
            "layer": study.layer,
            "unit": unit,
            "status": status,
            "candidates": [],
            "doubts": [],
            "top_pictures": [],
        }
        for unit, status in enumerate(study.status)
    ]
    best, words = found.best, concepts.words
    top = study.top().pictures
    q = calibration.adjust(found.p)
    beats = found.beats_untrained
    if beats is None and asked:  # an untrained network none of whose neurons reacts
        beats = np.ones(len(found.p), dtype=bool)
    for index, unit in enumerate(study.alive):
        row = rows[unit]
        values = best.values[index]
        if best.concepts[index, 0] < 0 or not np.isfinite(values[0]):
            row["status"] = "undefined"
            continue
        ranked = [words[place] for place in best.concepts[index] if place >= 0]
        area = {
            name: None if np.isnan(column[index]) else float(column[index])
            for name, column in found.auroc.items()
        }
        if len(ranked) < 2:  # of a list of one word there is none
            area["runner_up_auroc"] = None
        row |= {
            "concept": ranked[0],
            "similarity": float(values[0]),
            "absent": None if concepts.absent is None else ranked[0] in concepts.absent,
            "candidates": ranked,
            "margin": float(values[0] - values[1]) if np.isfinite(values[1]) else None,
            "p_value": float(found.p[index]),
            "q_value": float(q[index]),
            "beats_untrained": None if beats is None else bool(beats[index]),
            **area,
            "stable_pictures": None
            if found.stable_pictures is None
            else bool(found.stable_pictures[index]),
            "stable_concepts": bool(found.stable_concepts[index]),
            "top_pictures": [found.names[n] for n in top[index, :TOP_PICTURES].tolist()],
        }
        row |= _judge(row, significance)
    labelled = [row for row in rows if row["status"] == "ok"]
    for rank, row in enumerate(sorted(labelled, key=lambda row: -row["similarity"])):
        row["rank"] = rank
    return rows


def _judge(row: Mapping, significance: float) -> dict:
    """Say whether a label stands: see :mod:`.calibration`."""
    low, area, other = row["auroc_low"], row["auroc"], row["runner_up_auroc"]
    answers = {
        "chance": row["q_value"] <= significance,
        "untrained": row["beats_untrained"],
        "held-out": None
        if low is None
        else bool(low > 0.5 and (len(row["candidates"]) < 2 or area > other)),
    }
    doubts = [name for name, passed in answers.items() if passed is False]
    known = None not in answers.values()
    return {"stands": (not doubts) if doubts or known else None, "doubts": doubts}


def chosen_temperature(rows: Iterable[Mapping]) -> float:
    """Return the value that was chosen, from rows of the table ``TEMPERATURE``."""
    return next(row["a"] for row in rows if row["chosen"])


TEMPERATURES = (20.0, 10.0, 5.0, 2.0, 1.0, 0.5, 0.2, 0.1)
"""Candidates for the inverse temperature, the paper's own among them.

Cosines lie within ±1, so that at 0.1 the softmax is linear in them up to a few per cent.
"""


def choose_temperature(
    probes: Iterable[tuple[str, str, ProbeSet]],
    concepts: Concepts,
    similarity: str,
    settings: Mapping,
) -> list[dict]:
    """Choose the temperature that gives the fewest neurons a word that never occurs.

    Half of the absent words, drawn by the words alone, decide; what is then reported is the share
    of neurons that get one of the other half.

    Parameters
    ----------
    probes
        Models and their layers, each with the probe set as it saw it.
    concepts
        With the absent words.
    similarity, settings
        A name of :data:`~.similarity.TERMS` and its settings but ``a``.

    Returns
    -------
    list of dict
        Rows of the table ``TEMPERATURE``. The share is taken over all neurons of all models; of
        equal candidates the greatest, nearest to the paper's way, is chosen.

    Raises
    ------
    ConsilienceError
        If no words are known to be absent, or the similarity has no temperature.
    """
    if similarity not in TERMS:
        raise ConsilienceError(f"similarity {similarity!r} has no temperature a to choose")
    settings = complete_settings(similarity, settings)
    absent = [word for word in concepts.words if word in (concepts.absent or ())]
    if len(absent) < 2:
        raise ConsilienceError(
            "a: absent-words needs concepts that are known to occur in no picture, as those of "
            "the rendered world; give a number"
        )
    order = [absent[place] for place in np.argsort(keys_of(absent), kind="stable")]
    deciding, reported = set(order[::2]), set(order[1::2])
    rows = []
    for model, layer, probe in probes:
        study = _Layer.collect(probe, probe.keys(), layer, similarity, settings)
        if not len(study.alive):
            continue
        ranked = study.top().pictures[:, : _terms(similarity, settings).top_k]
        with ExitStack() as stack:
            cosines, _ = study._store([ranked], concepts, ranked[:0], stack)
            for a in TEMPERATURES:
                best = _Best(len(ranked), 1)
                terms = _terms(similarity, {**settings, "a": a})
                for block, values in scan_concepts(cosines, {"label": ranked}, terms):
                    best.add(block, values["label"])
                labels = [concepts.words[place] for place in best.concepts[:, 0]]
                rows.append(
                    {
                        "model": model,
                        "layer": layer,
                        "a": a,
                        "labelled_neurons": len(labels),
                        "share_chosen_on": np.mean([word in deciding for word in labels]),
                        "share_reported": np.mean([word in reported for word in labels]),
                    }
                )

    def absent_neurons(a: float) -> float:
        mine = (row for row in rows if row["a"] == a)
        return sum(round(row["share_chosen_on"] * row["labelled_neurons"]) for row in mine)

    chosen = min(TEMPERATURES, key=lambda a: (absent_neurons(a), -a))
    return [{**row, "chosen": row["a"] == chosen} for row in rows]

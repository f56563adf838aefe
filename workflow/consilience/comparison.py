"""Compare what classifiers learned: the concepts that label their neurons, layer by layer.

Intervals come from labels that were found anew on resamples of the probe pictures (rows of the
table ``RESAMPLED``): each metric is computed on every resample as on the labels themselves, and
``low`` and ``high`` are the 2.5th and 97.5th percentiles. Resample b holds the same pictures for
every model, so that two models are compared on equal pictures. Neurons are not resampled: a
bootstrap sample repeats neurons, and so would count too few concepts.

A percentile interval of a number of distinct concepts can lie to one side of the estimate, since a
resample repeats pictures and leaves others out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .errors import ConsilienceError
from .tables import stack_lists

INTERVAL = (2.5, 97.5)
"""Percentiles between which a metric lies on 95 % of the resamples."""


def order_neurons(neurons: pa.Table, layers: Iterable[tuple[str, Sequence[str]]]) -> pa.Table:
    """Bring rows of the table ``NEURONS`` into the study's order.

    Parameters
    ----------
    neurons
        Of any models and layers; those of one layer in their own order.
    layers
        Models in order, each with its layers in order. Neurons of others are left out.
    """
    parts = [
        neurons.filter((pc.field("model") == model) & (pc.field("layer") == layer))
        for model, names in layers
        for layer in names
    ]
    return pa.concat_tables(parts) if parts else neurons.slice(0, 0)


def count_concepts(neurons: Iterable[Mapping]) -> list[dict]:
    """Count the neurons that each concept labels.

    Parameters
    ----------
    neurons
        Rows of the table ``NEURONS``, of any models and layers.

    Returns
    -------
    list of dict
        Rows of the table ``CONCEPTS``: models and layers in their own order, then the most frequent
        concept first, equally frequent ones by word. Shares are of all neurons of the layer,
        labelled or not.
    """
    counted = []
    for (model, layer), rows in _by_layer(neurons).items():
        labelled = [row for row in rows if row["concept"] is not None]
        absent = {row["concept"]: row["absent"] for row in labelled}
        counts = Counter(row["concept"] for row in labelled)
        counted += [
            {
                "model": model,
                "layer": layer,
                "concept": concept,
                "neurons": count,
                "share": count / len(rows),
                "absent": absent[concept],
            }
            for concept, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        ]
    return counted


def rarefy(counts: np.ndarray, size: np.ndarray | int) -> np.ndarray:
    r"""Return the expected number of distinct concepts in a random sample of neurons.

    Of :math:`N` neurons of which :math:`N_i` have concept i, a sample of n without replacement
    holds :math:`\sum_i 1 - \binom{N - N_i}{n} / \binom{N}{n}` concepts on average [1]_.

    Parameters
    ----------
    counts
        Whole numbers, shape (…, concepts): neurons that each concept labels.
    size
        Whole numbers, shape (…) or a scalar: n, at least 0.

    Returns
    -------
    numpy.ndarray
        Float64, shape (…); NaN where n is greater than the number of neurons.

    References
    ----------
    .. [1] S. H. Hurlbert, "The nonconcept of species diversity: a critique and alternative
       parameters", Ecology 52 (1971), equation 14.
    """
    counts = np.asarray(counts)
    totals = counts.sum(axis=-1, keepdims=True)
    size = np.broadcast_to(np.asarray(size)[..., None], totals.shape)
    factorials = np.array([math.lgamma(k + 1) for k in range(int(totals.max(initial=0)) + 1)])

    def choose(whole: np.ndarray, part: np.ndarray) -> np.ndarray:
        """Logarithm of the binomial coefficient; of none where ``part`` is the greater."""
        possible = part <= whole
        whole, part = np.where(possible, whole, 0), np.where(possible, part, 0)
        logarithm = factorials[whole] - factorials[part] - factorials[whole - part]
        return np.where(possible, logarithm, -np.inf)

    missed = choose(totals - counts, size) - np.where(size <= totals, choose(totals, size), 0)
    expected = -np.expm1(missed).sum(axis=-1)
    return np.where(size[..., 0] <= totals[..., 0], expected, np.nan)


def compare_models(
    neurons: Iterable[Mapping],
    top: int = 50,
    resampled: Iterable[Mapping] | None = None,
    concepts: Sequence[str] = (),
    categories: Mapping[str, str] | None = None,
    absent: Collection[str] | None = None,
    kinds: Mapping[str, str] | None = None,
) -> list[dict]:
    """Compare what models learned, layer by layer; layers of one and the same name are compared.

    Of each model:

    ``neurons``, ``labelled_neurons``, ``distinct_concepts``
        Their numbers.
    ``rarefied_concepts``, ``rarefied_to``
        Distinct concepts that a random sample of so many labelled neurons holds on average
        (:func:`rarefy`), the sample being as large as the smallest number of labelled neurons that
        any model has in this layer. Unlike ``distinct_concepts``, it can be compared between
        models of different width.
    ``share_absent``
        Share of its labelled neurons whose concept occurs in no picture.
    ``share_standing``
        Share of its labelled neurons whose label stands; only where the neurons say (``stands``).
    ``share_category``, ``share_uncategorised``
        Share of its labelled neurons whose concept is of each category, or of none; only where
        categories are given.
    ``share_kind``
        The same of each kind; only where kinds are given.

    Of each two models, from the concepts that label at least one neuron:

    ``shared_concepts``
        How many label neurons of both.
    ``jaccard``
        The same, as a share of those that label neurons of either. Near one for any two models
        where neurons are many and concepts few.
    ``top_overlap``
        Share of common concepts among the N most frequent of each, N being ``top`` or, if less, the
        number of concepts of the model with fewer; at equal frequency, words decide.
    ``distribution_overlap``
        Sum over concepts of the lesser of the two shares of labelled neurons: one minus the total
        variation distance.
    ``rarefied_difference``
        ``rarefied_concepts`` of ``model_a`` less that of ``model_b``.
    ``category_difference``
        ``share_category`` of ``model_a`` less that of ``model_b``, of each category.
    ``share_in_other``
        Share of ``model_a``'s labelled neurons whose concept labels a neuron of ``model_b`` too;
        given both ways.

    Parameters
    ----------
    neurons
        Rows of the table ``NEURONS``.
    top
        How many of the most frequent concepts count.
    resampled
        Rows of the table ``RESAMPLED``, of all neurons of a layer or of none; ``None`` gives no
        intervals. A layer without them (of published descriptions) has no interval, nor has what
        it is compared with.
    concepts
        The words that ``resampled`` counts through.
    categories
        Category by word; case, and underscores for spaces, make no difference.
    absent
        The concepts that occur in no picture; without them ``share_absent`` has no interval.
    kinds
        Kind by word, where whoever made the pictures says it: a division of the words beside that
        by ``categories``, written as these are.

    Returns
    -------
    list of dict
        Rows of the table ``COMPARISON``. A value that is undefined is missing, with its reason.

    Raises
    ------
    ConsilienceError
        If neurons and ``resampled`` do not belong together.
    """
    layers = _by_layer(neurons)
    resamples = _by_layer(resampled or ())
    _check_resamples(layers, resamples, len(concepts))
    models = list(dict.fromkeys(model for model, _ in layers))
    divisions = {
        metric: {_normal(word): one for word, one in given.items()}
        for metric, given in (("share_category", categories), ("share_kind", kinds))
        if given is not None
    }
    rows = []
    for layer in dict.fromkeys(layer for _, layer in layers):
        found = {model: layers[model, layer] for model in models if (model, layer) in layers}
        sides = _count_layer(
            found, {model: resamples.get((model, layer)) for model in found}, concepts
        )
        for side in sides.values():
            rows += _describe(layer, side, absent, divisions)
        for a, b in combinations(models, 2):
            named = divisions.get("share_category", {})
            rows += _compare(layer, a, b, sides.get(a), sides.get(b), top, named)
    return rows


def compare_with_classes(
    neurons: Iterable[Mapping],
    model: str,
    layer: str,
    class_names: Sequence[str],
    concepts: Sequence[str],
    concept_vectors: np.ndarray | None = None,
    class_vectors: Mapping[str, np.ndarray] | None = None,
    resampled: Iterable[Mapping] | None = None,
) -> list[dict]:
    """Hold the labels of an output layer against the names of its classes.

    This is CLIP-Dissect's own validation [1]_: the neuron of a class should get the class's name.

    ``label_is_class_name``
        Share of neurons whose label is their class's name, among those whose class is one of the
        concepts.
    ``class_name_among_candidates``
        The same of the (five) most similar concepts.
    ``class_name_cosine``
        Mean over labelled neurons of CLIP's cosine between label and class name. It gives credit
        to a label of nearly the same meaning, but is circular where the same CLIP chose the
        labels: what it confuses, it also finds similar.
    ``classes_among_concepts``
        Share of classes whose name is one of the concepts.

    Parameters
    ----------
    neurons
        Rows of the table ``NEURONS``; those of other models and layers are left out. Top five need
        their ``candidates``: concepts, the most similar first.
    model, layer
        The layer whose unit i is the logit of class i.
    class_names
        In the order of the logits. Case, and underscores for spaces, make no difference.
    concepts
        All concepts that neurons could get.
    concept_vectors
        Float, shape (concepts, width): their embeddings, of unit length.
    class_vectors
        Embedding by class name, shape (width,), of unit length and of the same CLIP
        (:func:`vectors_by_name`).
    resampled
        Rows of the table ``RESAMPLED``; those of other models and layers are left out.

    Returns
    -------
    list of dict
        Rows of the table ``COMPARISON``, a value that is undefined missing with its reason.

    Raises
    ------
    ConsilienceError
        If the layer has not one neuron a class, or neurons and ``resampled`` do not belong
        together.

    References
    ----------
    .. [1] T. Oikarinen and T.-W. Weng, "CLIP-Dissect: automatic description of neuron
       representations in deep vision networks", ICLR 2023, section 4.2.
    """
    key = (model, layer)
    own = {row["unit"]: row for row in neurons if (row["model"], row["layer"]) == key}
    if sorted(own) != list(range(len(class_names))):
        raise ConsilienceError(
            f"model {model!r}, layer {layer!r}: {len(own)} neurons, but {len(class_names)} "
            "classes; only the layer of the logits can be held against class names"
        )
    own = [own[unit] for unit in sorted(own)]
    again = _by_layer(resampled or ()).get(key)
    if again:
        _check_resamples({key: own}, {key: again}, len(concepts))
    index = {concept: place for place, concept in enumerate(concepts)}
    codes = _label_codes(own, again, index, np.arange(len(concepts)))

    names = [_normal(name) for name in class_names]
    words = np.array([*map(_normal, concepts), ""], dtype=object)  # "" is what code -1 finds
    known = np.array([name in set(words[:-1]) for name in names], dtype=bool)
    right = (words[codes] == np.array(names, dtype=object))[:, known]
    nameless = "no class name is among the concepts"
    rows = [_row(layer, model, None, "label_is_class_name", _mean(right), nameless)]

    candidates = [row.get("candidates") for row in own]
    if any(candidates):
        hits = [
            name in map(_normal, found or ())
            for name, found, counts in zip(names, candidates, known, strict=True)
            if counts
        ]
        among, reason = _mean(np.array([hits], dtype=bool)), nameless
    else:
        among, reason = [np.nan], "the neurons have no candidates beside their label"
    rows.append(_row(layer, model, None, "class_name_among_candidates", among, reason))

    cosine, reason = _class_cosine(codes, names, concept_vectors, class_vectors)
    rows.append(_row(layer, model, None, "class_name_cosine", cosine, reason))
    share = _mean(known[None])
    rows.append(_row(layer, model, None, "classes_among_concepts", share, "no classes"))
    return rows


def compare_outputs(
    neurons: Sequence[Mapping],
    models: Mapping[str, Mapping],
    concepts: pa.Table,
    class_names: pa.Table | None = None,
    resampled: Sequence[Mapping] | None = None,
) -> list[dict]:
    """Hold the labels of every dissected output layer against its class names.

    Parameters
    ----------
    neurons, resampled
        As for :func:`compare_with_classes`, of any models and layers.
    models
        By name what :func:`consilience.check.check_model` found. Others, such as published ones,
        are left out.
    concepts, class_names
        Tables ``EMBEDDINGS`` of one CLIP.

    Returns
    -------
    list of dict
        Rows of the table ``COMPARISON``.
    """
    vectors = None if class_names is None else vectors_by_name(class_names)
    return [
        row
        for model, layer in sorted({(row["model"], row["layer"]) for row in neurons})
        if model in models and layer == models[model]["output_layer"]
        for row in compare_with_classes(
            neurons,
            model,
            layer,
            models[model]["class_names"],
            concepts["key"].to_pylist(),
            stack_lists(concepts["values"]),
            vectors,
            resampled,
        )
    ]


def vectors_by_name(embeddings: pa.Table) -> dict[str, np.ndarray]:
    """Return the vectors of a table ``EMBEDDINGS`` by key, each of shape (width,)."""
    return dict(zip(embeddings["key"].to_pylist(), stack_lists(embeddings["values"]), strict=True))


@dataclass(frozen=True)
class _Side:
    """What labels one layer of one model; first as it is, then on each resample.

    ``words`` are sorted and those of all models of the layer; ``counts`` has the shape
    (1 + resamples, words); ``sample`` is the size that diversity is rarefied to, shape (1,) or
    (1 + resamples,).
    """

    model: str
    rows: Sequence[Mapping]
    words: Sequence[str]
    counts: np.ndarray
    sample: np.ndarray

    @property
    def totals(self) -> np.ndarray:
        return self.counts.sum(axis=1)

    @property
    def rarefied(self) -> np.ndarray:
        return np.where(
            self.totals > 0, rarefy(self.counts, self.sample[: len(self.totals)]), np.nan
        )

    def share(self, chosen: Iterable[bool]) -> np.ndarray:
        """Share of labelled neurons whose word is chosen."""
        part = self.counts[:, np.fromiter(chosen, dtype=bool, count=len(self.words))].sum(axis=1)
        return _ratio(part, self.totals)


def _normal(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _by_layer(rows: Iterable[Mapping]) -> dict[tuple[str, str], list[Mapping]]:
    """Rows of each (model, layer), in the order in which these first occur."""
    layers: dict[tuple[str, str], list[Mapping]] = {}
    for row in rows:
        layers.setdefault((row["model"], row["layer"]), []).append(row)
    return layers


def _check_resamples(layers: Mapping, resamples: Mapping, concepts: int) -> None:
    lengths = {len(row["concepts"]) for rows in resamples.values() for row in rows}
    if len(lengths) > 1:
        raise ConsilienceError(
            f"labels of {' and '.join(map(str, sorted(lengths)))} resamples cannot be paired; "
            "delete them and label the neurons again"
        )
    for (model, layer), rows in resamples.items():
        where = f"model {model!r}, layer {layer!r}"
        units = sorted(row["unit"] for row in rows)
        if units != sorted(row["unit"] for row in layers.get((model, layer), ())):
            raise ConsilienceError(f"{where}: the resampled labels are of other neurons")
        least = min((min(row["concepts"], default=-1) for row in rows), default=-1)
        most = max((max(row["concepts"], default=-1) for row in rows), default=-1)
        if least < -1 or most >= concepts:
            raise ConsilienceError(
                f"{where}: the resampled labels are not of these {concepts} concepts"
            )


def _label_codes(
    rows: Sequence[Mapping],
    resampled: Sequence[Mapping] | None,
    index: Mapping[str, int],
    code_of: np.ndarray,
) -> np.ndarray:
    """Codes of the labels, then of each resample; -1 for none. Shape (1 + resamples, neurons)."""
    labels = np.array([[index.get(row["concept"], -1) for row in rows]], dtype=np.int64)
    if not resampled:
        return labels
    again = {row["unit"]: row["concepts"] for row in resampled}
    again = np.array([again[row["unit"]] for row in rows], dtype=np.int64).T
    return np.concatenate([labels, np.append(code_of, -1)[again]])


def _count_layer(
    found: Mapping[str, Sequence[Mapping]],
    resampled: Mapping[str, Sequence[Mapping] | None],
    concepts: Sequence[str],
) -> dict[str, _Side]:
    """Count the words of one layer by model."""
    labels = {row["concept"] for rows in found.values() for row in rows} - {None}
    vocabulary = sorted(labels | set(concepts))
    index = {word: code for code, word in enumerate(vocabulary)}
    code_of = np.array([index[concept] for concept in concepts], dtype=np.int64)
    codes = {
        model: _label_codes(rows, resampled[model], index, code_of) for model, rows in found.items()
    }
    used = np.unique(np.concatenate([some.ravel() for some in codes.values()]))
    used = used[used >= 0]
    counts = {model: _count(some, used) for model, some in codes.items()}
    totals = [some.sum(axis=1) for some in counts.values()]
    totals = [np.where(total > 0, total, np.iinfo(np.int64).max) for total in totals]
    length = max(map(len, totals))
    sample = np.min(
        [total if len(total) == length else np.full(length, total[0]) for total in totals], axis=0
    )
    words = [vocabulary[code] for code in used]
    return {model: _Side(model, found[model], words, counts[model], sample) for model in found}


def _count(codes: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Count each code that is used in each row; shape (rows, used)."""
    row, _ = np.nonzero(codes >= 0)
    column = np.searchsorted(used, codes[codes >= 0])
    flat = np.bincount(row * len(used) + column, minlength=len(codes) * len(used))
    return flat.reshape(len(codes), len(used))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide; NaN where the whole is nothing."""
    part, whole = np.broadcast_arrays(np.asarray(part, dtype=float), whole)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean along the second axis; NaN of nothing."""
    return _ratio(values.sum(axis=1), values.shape[1])


def _row(layer, a, b, metric, values, reason, category=None) -> dict:
    """Make a row of ``COMPARISON`` from the estimate and, behind it, what the resamples say."""
    values = np.asarray(values, dtype=float)
    value, again = values[0], values[1:]
    again = again[np.isfinite(again)]
    given = bool(np.isfinite(value))
    low, high = np.percentile(again, INTERVAL) if given and len(again) > 1 else (None, None)
    return {
        "layer": layer,
        "model_a": a,
        "model_b": b,
        "metric": metric,
        "category": category,
        "value": float(value) if given else None,
        "low": None if low is None else float(low),
        "high": None if high is None else float(high),
        "reason": None if given else reason,
    }


def _describe(
    layer: str,
    side: _Side,
    absent: Collection[str] | None,
    divisions: Mapping[str, Mapping[str, str]],
) -> Iterator[dict]:
    labelled = [row for row in side.rows if row["concept"] is not None]
    unlabelled = "no labelled neuron"
    known = [row["absent"] for row in labelled if row["absent"] is not None]
    share_absent = _mean(np.array([known], dtype=bool))
    if known and absent is not None:
        share_absent = np.append(share_absent, side.share(w in absent for w in side.words)[1:])
    unknown = "not known which concepts are absent" if labelled else unlabelled
    metrics = {
        "neurons": [len(side.rows)],
        "labelled_neurons": side.totals,
        "distinct_concepts": (side.counts > 0).sum(axis=1),
        "rarefied_concepts": side.rarefied,
        "rarefied_to": np.where(side.totals[:1] > 0, side.sample[:1], np.nan),
        "share_absent": share_absent,
    }
    for metric, values in metrics.items():
        reason = unknown if metric == "share_absent" else unlabelled
        yield _row(layer, side.model, None, metric, values, reason)
    stands = [row["stands"] for row in labelled if row.get("stands") is not None]
    if stands:
        standing = _mean(np.array([stands], dtype=bool))
        yield _row(layer, side.model, None, "share_standing", standing, None)
    for metric, named in divisions.items():
        for category in dict.fromkeys(named.values()):
            values = side.share(_chosen(side, named, category))
            yield _row(layer, side.model, None, metric, values, unlabelled, category)
        if metric == "share_category":
            values = side.share(_chosen(side, named, None))
            yield _row(layer, side.model, None, "share_uncategorised", values, unlabelled)


def _chosen(side: _Side, named: Mapping[str, str], category: str | None) -> Iterator[bool]:
    """Tell of each of the side's words whether it is of a category; None is of those without."""
    return (named.get(_normal(word)) == category for word in side.words)


def _compare(
    layer: str,
    a: str,
    b: str,
    one: _Side | None,
    other: _Side | None,
    top: int,
    categories: Mapping[str, str],
) -> Iterator[dict]:
    names = dict.fromkeys(categories.values())
    reason = None
    for model, side in ((a, one), (b, other)):
        if side is None:
            reason = reason or f"{model} has no such layer"
        elif not side.totals[0]:
            reason = reason or f"{model} has no labelled neuron in this layer"
    symmetric = (
        "shared_concepts",
        "jaccard",
        "top_overlap",
        "distribution_overlap",
        "rarefied_difference",
    )
    if reason:
        for metric in (*symmetric, "share_in_other"):
            yield _row(layer, a, b, metric, [np.nan], reason)
        yield _row(layer, b, a, "share_in_other", [np.nan], reason)
        for name in names:
            yield _row(layer, a, b, "category_difference", [np.nan], reason, name)
        return
    length = min(len(one.counts), len(other.counts))
    counts = [side.counts[:length] for side in (one, other)]
    shares = [_ratio(some, some.sum(axis=1, keepdims=True)) for some in counts]
    has = [some > 0 for some in counts]
    both, either = has[0] & has[1], has[0] | has[1]
    size = np.minimum(has[0].sum(axis=1), has[1].sum(axis=1)).clip(max=top)
    common = (_among_top(counts[0], size) & _among_top(counts[1], size)).sum(axis=1)
    values = (
        both.sum(axis=1),
        _ratio(both.sum(axis=1), either.sum(axis=1)),
        _ratio(common, size),
        np.minimum(*shares).sum(axis=1),
        one.rarefied[:length] - other.rarefied[:length],
    )
    labelled = has[0].any(axis=1) & has[1].any(axis=1)  # on a resample one may have no label
    for metric, value in zip(symmetric, values, strict=True):
        yield _row(layer, a, b, metric, np.where(labelled, value, np.nan), None)
    for (x, y), share in zip(((a, b), (b, a)), shares, strict=True):
        value = np.where(labelled, np.where(both, share, 0).sum(axis=1), np.nan)
        yield _row(layer, x, y, "share_in_other", value, None)
    for name in names:
        x, y = (side.share(_chosen(side, categories, name))[:length] for side in (one, other))
        yield _row(layer, a, b, "category_difference", x - y, None, name)


def _among_top(counts: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Tell which words are among the ``size`` most frequent of each row, ties by word."""
    order = np.argsort(-counts, axis=1, kind="stable")
    places = np.empty_like(order)
    np.put_along_axis(places, order, np.arange(counts.shape[1])[None], axis=1)
    return places < size[:, None]


def _class_cosine(
    codes: np.ndarray,
    names: Sequence[str],
    concept_vectors: np.ndarray | None,
    class_vectors: Mapping[str, np.ndarray] | None,
) -> tuple[np.ndarray | list, str | None]:
    """Mean cosine of label and class name in each row of codes, or why there is none."""
    missing = [np.nan]
    if concept_vectors is None or class_vectors is None:
        return missing, "the class names are not embedded"
    vectors = {_normal(name): vector for name, vector in class_vectors.items()}
    if lacking := sorted(set(names) - set(vectors)):
        return missing, f"class {lacking[0]!r} is not embedded"
    used = np.unique(codes[codes >= 0])
    if not len(used):
        return missing, "no labelled neuron"
    cosines = np.stack([vectors[name] for name in names]) @ concept_vectors[used].T
    place = np.searchsorted(used, codes).clip(max=len(used) - 1)
    found = np.where(codes >= 0, cosines[np.arange(len(names)), place], 0)
    return _ratio(found.sum(axis=1), (codes >= 0).sum(axis=1)), "no labelled neuron"

"""Compare what classifiers learned: the concepts that label their neurons, layer by layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import combinations

from .errors import ConsilienceError


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
    return [
        {
            "model": model,
            "layer": layer,
            "concept": concept,
            "neurons": count,
            "share": count / len(rows),
            "absent": next(row["absent"] for row in rows if row["concept"] == concept),
        }
        for (model, layer), rows in _by_layer(neurons).items()
        for concept, count in _most_frequent(rows)
    ]


def compare_models(neurons: Iterable[Mapping], top: int = 50) -> list[dict]:
    """Compare what models learned, layer by layer; layers of one name are compared.

    Of each model: ``neurons``; ``labelled_neurons``; ``distinct_concepts``; and ``share_absent``,
    the share of its labelled neurons whose concept occurs in no picture.

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
    ``share_in_other``
        Share of ``model_a``'s labelled neurons whose concept labels a neuron of ``model_b`` too;
        given both ways.

    Parameters
    ----------
    neurons
        Rows of the table ``NEURONS``.
    top
        How many of the most frequent concepts count.

    Returns
    -------
    list of dict
        Rows of the table ``COMPARISON``. A value that is undefined is missing, with its reason.
    """
    layers = _by_layer(neurons)
    models = list(dict.fromkeys(model for model, _ in layers))
    rows = []
    for layer in dict.fromkeys(layer for _, layer in layers):
        for model in models:
            if (model, layer) in layers:
                rows += _describe_layer(layer, model, layers[model, layer])
        for a, b in combinations(models, 2):
            rows += _compare_layers(
                layer, a, b, layers.get((a, layer), []), layers.get((b, layer), []), top
            )
    return rows


def compare_with_classes(
    neurons: Iterable[Mapping],
    model: str,
    layer: str,
    class_names: Sequence[str],
    concepts: Collection[str],
) -> list[dict]:
    """Hold the labels of an output layer against the names of its classes.

    This is CLIP-Dissect's own validation: the neuron of a class should get the class's name.

    Parameters
    ----------
    neurons
        Rows of the table ``NEURONS``; those of other models and layers are left out.
    model, layer
        The layer whose unit i is the logit of class i.
    class_names
        In the order of the logits. Case, and underscores for spaces, make no difference.
    concepts
        All concepts that neurons could get.

    Returns
    -------
    list of dict
        Two rows of the table ``COMPARISON``: ``label_is_class_name``, the share of neurons that
        are labelled right among those whose class is one of the concepts, missing with a reason
        where none is; and ``classes_among_concepts``, the share of classes that are.

    Raises
    ------
    ConsilienceError
        If the layer has not one neuron a class.
    """
    labels = {
        row["unit"]: row["concept"]
        for row in neurons
        if (row["model"], row["layer"]) == (model, layer)
    }
    if sorted(labels) != list(range(len(class_names))):
        raise ConsilienceError(
            f"model {model!r}, layer {layer!r}: {len(labels)} neurons, but {len(class_names)} "
            "classes; only the layer of the logits can be held against class names"
        )
    words = {_normal(concept) for concept in concepts}
    right = [
        labels[unit] is not None and _normal(labels[unit]) == _normal(name)
        for unit, name in enumerate(class_names)
        if _normal(name) in words
    ]
    return [
        _compared(
            layer,
            model,
            None,
            "label_is_class_name",
            _share(sum(right), len(right)),
            "no class name is among the concepts",
        ),
        _compared(
            layer,
            model,
            None,
            "classes_among_concepts",
            _share(len(right), len(class_names)),
            "no classes",
        ),
    ]


def _labelled(rows: Iterable[Mapping]) -> list:
    return [row for row in rows if row["concept"] is not None]


def _by_layer(neurons: Iterable[Mapping]) -> dict[tuple[str, str], list[Mapping]]:
    """Rows of each (model, layer), in the order in which these first occur."""
    layers: dict[tuple[str, str], list[Mapping]] = {}
    for row in neurons:
        layers.setdefault((row["model"], row["layer"]), []).append(row)
    return layers


def _most_frequent(rows: Iterable[Mapping]) -> list[tuple[str, int]]:
    """Concepts and the neurons they label, the most frequent first, equal ones by word."""
    counts = Counter(row["concept"] for row in _labelled(rows))
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None


def _compared(layer, a, b, metric, value, reason) -> dict:
    """Make a row of ``COMPARISON``; the reason is kept where the value is missing."""
    return {
        "layer": layer,
        "model_a": a,
        "model_b": b,
        "metric": metric,
        "value": None if value is None else float(value),
        "reason": reason if value is None else None,
    }


def _describe_layer(layer: str, model: str, rows: list[Mapping]) -> Iterator[dict]:
    labelled = _labelled(rows)
    absent = [row["absent"] for row in labelled if row["absent"] is not None]
    unknown = "not known which concepts are absent" if labelled else "no labelled neuron"
    for metric, value in {
        "neurons": len(rows),
        "labelled_neurons": len(labelled),
        "distinct_concepts": len({row["concept"] for row in labelled}),
        "share_absent": _share(sum(absent), len(absent)),
    }.items():
        yield _compared(layer, model, None, metric, value, unknown)


def _compare_layers(
    layer: str, a: str, b: str, rows_a: list[Mapping], rows_b: list[Mapping], top: int
) -> Iterator[dict]:
    frequent_a, frequent_b = _most_frequent(rows_a), _most_frequent(rows_b)
    counts_a, counts_b = dict(frequent_a), dict(frequent_b)
    shared = sorted(counts_a.keys() & counts_b.keys())
    shares_a = {concept: counts_a[concept] / sum(counts_a.values()) for concept in shared}
    shares_b = {concept: counts_b[concept] / sum(counts_b.values()) for concept in shared}
    length = min(top, len(counts_a), len(counts_b))
    top_a, top_b = ({concept for concept, _ in f[:length]} for f in (frequent_a, frequent_b))
    values = {
        "shared_concepts": len(shared),
        "jaccard": _share(len(shared), len(counts_a.keys() | counts_b.keys())),
        "top_overlap": _share(len(top_a & top_b), length),
        "distribution_overlap": sum(
            min(shares_a[concept], shares_b[concept]) for concept in shared
        ),
        "share_in_other": sum(shares_a.values()),
    }
    back = sum(shares_b.values())
    reason = None
    for model, rows, counts in ((b, rows_b, counts_b), (a, rows_a, counts_a)):
        if not counts:
            reason = f"{model} has no {'labelled neuron in this layer' if rows else 'such layer'}"
            values, back = dict.fromkeys(values), None
    for metric, value in values.items():
        yield _compared(layer, a, b, metric, value, reason)
    yield _compared(layer, b, a, "share_in_other", back, reason)


def _normal(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())

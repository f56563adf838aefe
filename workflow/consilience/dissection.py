"""Label the neurons of classifiers with concepts, and compare what the classifiers learned.

The method is CLIP-Dissect (see :mod:`.similarity`): the label of a neuron is the concept whose
similarity to it is greatest, the first in the list of concepts where several are.

A neuron whose activations are constant over the probe pictures, or not finite, gets no label but a
status that says so, and has no part in the prior that soft-WPMI and WPMI take over a layer's
neurons. (The authors' code labels it by whichever pictures come first.)
"""

from __future__ import annotations

import csv
import inspect
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .errors import ConsilienceError
from .similarity import SIMILARITIES, rank_pictures
from .tables import stack_lists, write_atomically

TOP_PICTURES = 5

# A neuron whose activations differ by less than this share of their size does not react to the
# pictures: float32 rounding alone makes such differences.
CONSTANT = 1e-6


def dissect_model(
    model: str,
    activations: pa.Table,
    pictures: pa.Table,
    concepts: pa.Table,
    layers: Sequence[str],
    similarity: str = "soft-wpmi",
    settings: Mapping | None = None,
    absent: Collection[str] | None = None,
) -> list[dict]:
    """Label the neurons of all dissected layers of a model.

    Parameters
    ----------
    model
        Its name.
    activations
        Table ``ACTIVATIONS`` of all probe pictures, in any order.
    pictures
        Table ``EMBEDDINGS`` of the same pictures. They are taken in the order of their names.
    concepts
        Table ``EMBEDDINGS`` of the concepts, in the order that decides ties.
    layers
        The layers to label, in this order.
    similarity, settings, absent
        See :func:`label_neurons`.

    Returns
    -------
    list of dict
        Rows of the table ``NEURONS``.

    Raises
    ------
    ConsilienceError
        If the two tables are not of the same pictures, an embedding is not of unit length, or as
        :func:`label_neurons` does.
    """
    pictures = pictures.sort_by("key")
    names = pictures["key"].to_pylist()
    embeddings = [stack_lists(table["values"]) for table in (pictures, concepts)]
    for kind, vectors in zip(("picture", "concept"), embeddings, strict=True):
        if vectors.size and not np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3):
            raise ConsilienceError(f"the {kind} embeddings are not all of unit length")
    if embeddings[0].shape[1] != embeddings[1].shape[1]:
        raise ConsilienceError("the picture and concept embeddings are not of one CLIP")
    cosines = embeddings[0] @ embeddings[1].T
    rows = []
    for layer in layers:
        own = activations.filter(pc.equal(activations["layer"], layer)).sort_by("picture")
        found = own["picture"].to_pylist()
        if found != names or len(set(names)) < len(names):
            odd = sorted(set(found) ^ set(names))
            raise ConsilienceError(
                f"model {model!r}, layer {layer!r}: activations of {len(found)} probe pictures, "
                f"embeddings of {len(names)}; "
                + (f"{odd[0]!r} has only one of them" if odd else "a picture is there twice")
            )
        rows += label_neurons(
            model,
            layer,
            stack_lists(own["values"]),
            cosines,
            concepts["key"].to_pylist(),
            names,
            similarity,
            settings,
            absent,
        )
    return rows


def label_neurons(
    model: str,
    layer: str,
    activations: np.ndarray,
    cosines: np.ndarray,
    concepts: Sequence[str],
    picture_names: Sequence[str],
    similarity: str = "soft-wpmi",
    settings: Mapping | None = None,
    absent: Collection[str] | None = None,
) -> list[dict]:
    """Label the neurons of one layer with the concept that is most similar to each.

    Parameters
    ----------
    model, layer
        Their names.
    activations
        Float, shape (pictures, neurons).
    cosines
        Float, shape (pictures, concepts): CLIP's cosine of each picture and concept.
    concepts
        One a column of ``cosines``; where several are equally similar, the first is the label.
    picture_names
        One a row.
    similarity
        A name of :data:`~.similarity.SIMILARITIES`.
    settings
        Arguments of that function; what is left out has CLIP-Dissect's value.
    absent
        Concepts that are known to occur in no picture; ``None`` where that is not known.

    Returns
    -------
    list of dict
        Rows of the table ``NEURONS``, one a neuron in order.

    Raises
    ------
    ConsilienceError
        If names, activations and cosines do not belong together, there is no such similarity or
        setting, or as the similarity function does.
    """
    function = SIMILARITIES.get(similarity)
    if function is None:
        raise ConsilienceError(
            f"there is no similarity {similarity!r}; it is one of {', '.join(SIMILARITIES)}"
        )
    settings = dict(settings or {})
    known = {
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind == parameter.KEYWORD_ONLY
    }
    if unknown := sorted(set(settings) - known):
        raise ConsilienceError(f"similarity {similarity!r} has no setting {unknown[0]!r}")
    if activations.shape[:1] != (len(picture_names),) or cosines.shape != (
        len(picture_names),
        len(concepts),
    ):
        raise ConsilienceError(
            f"model {model!r}, layer {layer!r}: {len(picture_names)} pictures and {len(concepts)} "
            f"concepts do not fit activations {activations.shape} and cosines {cosines.shape}"
        )
    if len(set(concepts)) < len(concepts):
        raise ConsilienceError("a concept is listed twice; keep one")
    if not len(concepts) or not len(picture_names):
        raise ConsilienceError("neurons cannot be labelled without concepts and probe pictures")

    finite = np.isfinite(activations).all(axis=0)
    with np.errstate(invalid="ignore"):
        reacts = np.ptp(activations, axis=0) > CONSTANT * np.abs(activations).max(axis=0)
    status = np.where(~finite, "not-finite", np.where(reacts, "ok", "constant")).astype(object)
    rows = [
        {
            "model": model,
            "layer": layer,
            "unit": unit,
            "status": why,
            "concept": None,
            "similarity": None,
            "rank": None,
            "absent": None,
            "top_pictures": [],
        }
        for unit, why in enumerate(status)
    ]
    alive = np.flatnonzero(status == "ok")
    if not len(alive):
        return rows

    similarities = function(activations[:, alive], cosines, **settings)
    best = similarities.argmax(axis=1)
    values = similarities[np.arange(len(alive)), best]
    top = rank_pictures(activations[:, alive], min(TOP_PICTURES, len(picture_names)))
    for unit, concept, value, shown in zip(alive, best, values, top, strict=True):
        if not np.isfinite(value):
            rows[unit]["status"] = "undefined"
            continue
        rows[unit].update(
            concept=concepts[concept],
            similarity=float(value),
            absent=None if absent is None else concepts[concept] in absent,
            top_pictures=[picture_names[index] for index in shown],
        )
    for rank, row in enumerate(sorted(_labelled(rows), key=lambda row: -row["similarity"])):
        row["rank"] = rank
    return rows


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


def write_descriptions(neurons: Iterable[Mapping], path: str | Path) -> None:
    """Write the labels of one model as CLIP-Dissect's ``descriptions.csv``.

    Columns ``layer,unit,description,similarity``; a neuron without a label has the last two empty.

    Raises
    ------
    ConsilienceError
        If the neurons are of several models, which the format cannot tell apart.
    """
    neurons = list(neurons)
    if len(models := {row["model"] for row in neurons}) > 1:
        raise ConsilienceError(
            f"{path}: descriptions are of one model, not of {', '.join(sorted(models))}"
        )

    def write(part: str) -> None:
        with open(part, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["layer", "unit", "description", "similarity"])
            writer.writerows(
                [row["layer"], row["unit"], row["concept"], row["similarity"]] for row in neurons
            )

    write_atomically(path, write)


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

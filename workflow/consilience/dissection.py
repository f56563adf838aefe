"""Label the neurons of classifiers with concepts.

The method is CLIP-Dissect (see :mod:`.similarity`): the label of a neuron is the concept whose
similarity to it is greatest, the first in the list of concepts where several are.

A neuron whose activations are constant over the probe pictures, or not finite, gets no label but a
status that says so, and has no part in the prior that soft-WPMI and WPMI take over a layer's
neurons. (The authors' code labels it by whichever pictures come first.)
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .errors import ConsilienceError
from .similarity import SIMILARITIES, rank_pictures
from .tables import stack_lists

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


def _labelled(rows: Iterable[Mapping]) -> list:
    return [row for row in rows if row["concept"] is not None]

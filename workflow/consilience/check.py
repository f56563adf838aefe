"""Find what only the models themselves can tell to be wrong, before anything expensive runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from .classifiers import Classifier, build_architecture, describe_classifier, load_classifier
from .errors import ConsilienceError
from .predictions import TARGETS, find_class


def check_model(spec: Mapping, layers: list[str], target: str | int | None) -> dict:
    """Check one model of a study; its weights only where they are there already.

    Parameters
    ----------
    spec
        What :func:`consilience.classifiers.load_classifier` takes.
    layers
        The layers that the study names.
    target
        The class to explain, or None for a model that is not explained.

    Returns
    -------
    dict
        What was found: the number of classes and of parameters.

    Raises
    ------
    ConsilienceError
        If there is no such architecture, layer or class, or a checkpoint does not fit.
    """
    if spec.get("checkpoint"):
        classifier = load_classifier(spec)
    else:
        class_names, transform = describe_classifier(spec)
        with torch.device("meta"):  # shapes and names only: no memory, no time
            model = build_architecture(
                spec["architecture"], len(class_names), spec.get("keep_resolution", ())
            )
        classifier = Classifier(spec["name"], model, class_names, transform)
    for layer in layers:
        classifier.layer(layer)
    if target is not None and target not in TARGETS:
        find_class(classifier, target)
    parameters = sum(parameter.numel() for parameter in classifier.model.parameters())
    return {"classes": len(classifier.class_names), "parameters": parameters}


def check_models(
    specs: list[Mapping],
    layers: Mapping[str, list[str]],
    target: str | int,
    explained: list[str],
    log: Callable[[str], None],
) -> dict[str, dict]:
    """Check every model of a study; report all that is wrong at once, one line each."""
    found, said = {}, []
    for spec in specs:
        name = spec["name"]
        try:
            found[name] = check_model(spec, layers[name], target if name in explained else None)
            log(f"model {name}: {found[name]}")
        except ConsilienceError as error:
            said.append(str(error))
    if said:
        raise ConsilienceError("\n".join(said))
    return found

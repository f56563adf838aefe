"""Find what only the models themselves can tell to be wrong, before anything expensive runs.

As a command, ``python -m consilience.check question.json answer.json`` does what :func:`answer`
does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from .classifiers import (
    Classifier,
    build_architecture,
    describe_classifier,
    is_function,
    load_classifier,
)
from .errors import ConsilienceError
from .files import write_atomically
from .predictions import check_target
from .randomisation import find_stages
from .registry import check as check_extensions


def check_model(
    spec: Mapping,
    layers: list[str],
    target: str | int | None,
    stages: Sequence[str] | None = None,
) -> dict:
    """Check one model of a study; its weights only where they are there already.

    Parameters
    ----------
    spec
        What :func:`consilience.classifiers.load_classifier` takes.
    layers
        The layers that the study names.
    target
        The class to explain, or None for a model that is not explained.
    stages
        Modules whose weights the study randomises one after another; None where it names none.

    Returns
    -------
    dict
        What was found: ``class_names``, ``output_layer`` (the name of the layer whose unit i is
        the logit of class i; None where that is not plain) and the number of ``parameters``.

    Raises
    ------
    ConsilienceError
        If there is no such architecture, layer or class, a checkpoint does not fit, a function of
        the user's gives a model that does not answer with one logit a class, or a stage has no
        weights of its own.
    """
    if is_function(spec["architecture"]):
        classifier = load_classifier(spec)
        if (crop := classifier.transform.crop) is not None:
            classifier.probabilities(np.zeros((1, *crop, 3), np.uint8))
    elif spec.get("checkpoint"):
        classifier = load_classifier(spec)
    else:
        class_names, transform = describe_classifier(spec)
        build = partial(
            build_architecture,
            spec["architecture"],
            len(class_names),
            spec.get("keep_resolution", ()),
        )
        try:
            with torch.device("meta"):  # shapes and names only: no memory, no time
                model = build()
        except NotImplementedError:  # RegNets compute their widths with tensors
            model = build()
        classifier = Classifier(spec["name"], model, class_names, transform)
    for layer in layers:
        classifier.layer(layer)
    if target is not None:
        check_target(classifier, target)
    if stages is not None:
        find_stages(classifier, stages)
    return {
        "class_names": list(classifier.class_names),
        "output_layer": find_output_layer(classifier),
        "parameters": sum(parameter.numel() for parameter in classifier.model.parameters()),
    }


def find_output_layer(classifier: Classifier) -> str | None:
    """Return the name of the last layer with weights if it has one unit a class."""
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    layers = [
        (n, layer) for n, layer in classifier.model.named_modules() if isinstance(layer, kinds)
    ]
    if not layers:
        return None
    name, last = layers[-1]
    return name if last.weight.shape[0] == len(classifier.class_names) else None


def check_models(
    specs: list[Mapping],
    layers: Mapping[str, list[str]],
    target: str | int,
    explained: list[str],
    log: Callable[[str], None],
    stages: Sequence[str] | None = None,
) -> dict[str, dict]:
    """Check every model of a study; report all that is wrong at once, one line each.

    ``stages`` are those of the models that are explained.
    """
    found, said = {}, []
    for spec in specs:
        name = spec["name"]
        try:
            asked = (target, stages) if name in explained else (None,)
            found[name] = check_model(spec, layers[name], *asked)
            log(f"model {name}: {found[name]['parameters']} parameters")
        except ConsilienceError as error:
            said.append(str(error))
    if said:
        raise ConsilienceError("\n".join(said))
    return found


def answer(question: str | Path, target: str | Path, log: Callable[[str], None]) -> None:
    """Check a study as a file of JSON asks, and write what was found.

    Parameters
    ----------
    question
        File with ``models``, ``layers``, ``target`` and ``explained``, the arguments of
        :func:`check_models`, ``stages`` where there are any, and ``extensions``, files of the
        user's as :func:`consilience.extensions.select` gives them; what else it holds is not
        looked at.
    target
        File to write: ``asked``, the SHA-256 of the question, and ``models``, what was found.
    log
        Takes a line of progress.

    Raises
    ------
    ConsilienceError
        As :func:`check_models` and :func:`consilience.registry.check` do.
    """
    text = Path(question).read_bytes()
    asked = json.loads(text)
    check_extensions(asked.get("extensions", ()))
    asked_of = (asked[key] for key in ("models", "layers", "target", "explained"))
    found = check_models(*asked_of, log, asked.get("stages"))
    said = {"asked": sha256(text).hexdigest(), "models": found}
    text = json.dumps(said, indent=1, sort_keys=True) + "\n"
    write_atomically(target, lambda part: Path(part).write_text(text))


def main(arguments: list[str]) -> int:
    """Answer a question; say what is wrong and return 1 where something is."""
    try:
        answer(*arguments, log=lambda _line: None)
    except ConsilienceError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

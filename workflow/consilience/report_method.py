"""The report's last section: how it was done, with what, from what, and how to cite it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import yaml

from . import __version__
from .registry import KINDS
from .report_base import (
    Content,
    Measure,
    count_things,
    dissected_names,
    join_words,
    method_label,
    order_methods,
)

OTHER_MEASURES = (
    Measure(
        "Similarity of a neuron and its word",
        "",
        "Soft weighted pointwise mutual information (CLIP-Dissect). Comparable within one layer of "
        "one model only. Every neuron gets a best word, whether or not it means anything.",
    ),
    Measure(
        "Words in equal samples",
        "at least 1",
        "How many distinct words a random sample of labelled neurons holds on average, the sample "
        "being as large as the smallest number that any of the models has in the layer "
        "(Hurlbert’s rarefaction). Unlike the number of distinct words it does not grow with a "
        "layer’s width.",
    ),
    Measure(
        "CLIP’s cosine of words and classes’ names",
        "−1 to 1",
        "Gives credit to a word of nearly the same meaning. Circular: the CLIP that measures is "
        "the one that chose the words, and what it confuses it also finds similar.",
    ),
    Measure(
        "R² of LIME",
        "at most 1",
        "How well LIME’s local linear model fits what the classifier said of the perturbed "
        "pictures. Near 0, its weights explain little.",
    ),
)


@dataclass(frozen=True)
class Work:
    """What a study rests on, to be cited with it."""

    what: str
    reference: str


WORKS = {
    "clip-dissect": Work(
        "CLIP-Dissect",
        "Oikarinen, T. and Weng, T.-W. (2023). CLIP-Dissect: automatic description of neuron "
        "representations in deep vision networks. ICLR.",
    ),
    "grad-cam": Work(
        "Grad-CAM",
        "Selvaraju, R. R. et al. (2017). Grad-CAM: visual explanations from deep networks via "
        "gradient-based localization. ICCV.",
    ),
    "score-cam": Work(
        "Score-CAM",
        "Wang, H. et al. (2020). Score-CAM: score-weighted visual explanations for convolutional "
        "neural networks. CVPR Workshops.",
    ),
    "ablation-cam": Work(
        "Ablation-CAM",
        "Desai, S. and Ramaswamy, H. G. (2020). Ablation-CAM: visual explanations for deep "
        "convolutional network via gradient-free localization. WACV.",
    ),
    "cam": Work(
        "The library of the class activation maps",
        "Gildenblat, J. and contributors (2021). PyTorch library for CAM methods (grad-cam).",
    ),
    "lime": Work(
        "LIME",
        "Ribeiro, M. T., Singh, S. and Guestrin, C. (2016). “Why should I trust you?” Explaining "
        "the predictions of any classifier. KDD.",
    ),
    "deletion": Work(
        "Deletion and insertion",
        "Petsiuk, V., Das, A. and Saenko, K. (2018). RISE: randomized input sampling for "
        "explanation of black-box models. BMVC.",
    ),
    "road": Work(
        "ROAD",
        "Rong, Y. et al. (2022). A consistent and efficient evaluation strategy for attribution "
        "methods. ICML.",
    ),
    "sanity": Work(
        "Sanity checks",
        "Adebayo, J. et al. (2018). Sanity checks for saliency maps. NeurIPS.",
    ),
    "snakemake": Work(
        "The workflow",
        "Mölder, F. et al. (2021). Sustainable data analysis with Snakemake. F1000Research 10, 33.",
    ),
}
"""What to cite, by what a study uses."""


def tell_method(content: Content) -> dict:
    """Parameters, seeds, versions, hashes, times, how to cite, and how to read each measure."""
    measures = []
    compared = {row["metric"] for row in content.comparison if row["value"] is not None}
    for measure, is_there in zip(
        OTHER_MEASURES,
        (
            dissected_names(content),
            "rarefied_concepts" in compared,
            "class_name_cosine" in compared,
            content.lime,
        ),
        strict=True,
    ):
        if is_there:
            measures.append(measure)
    for entry in content.registered:
        what = f"{KINDS[entry['kind']]} of {entry['path']}"
        measures.append(Measure(entry["name"], what, entry["about"]))
    seeds = [("study", content.study.get("seed"))]
    for model in content.study["models"]:
        if model.get("train"):
            seeds.append((f"training of {model['name']}", model["train"].get("seed")))
    if content.lime:
        lime = content.lime[0]
        seeds.append(("LIME, segmentation", lime["segmentation_seed"]))
        seeds.append(("LIME, perturbation", lime["perturbation_seed"]))
    return {
        "done": _say_what_was_done(content),
        "measures": measures,
        "seeds": [(what, seed) for what, seed in seeds if seed is not None],
        "versions": sorted(content.versions.items()),
        "hashes": list(content.hashes.items()),
        "times": content.times,
        "total": sum(row["seconds"] for row in content.times),
        "yaml": yaml.safe_dump(_plain(content.study), sort_keys=False, allow_unicode=True),
        "synthetic": bool(content.study.get("world")),
        "version": __version__,
        "fingerprint": take_fingerprint(content.hashes),
        "works": _find_works(content),
        "printed": content.printed,
    }


def take_fingerprint(hashes: Mapping[str, str]) -> str | None:
    """Return a short digest of the tables' hashes, by which a study's results can be told from
    any others; None where there is no table."""
    tables = sorted((name, value) for name, value in hashes.items() if name.startswith("table "))
    return hashlib.sha256(repr(tables).encode()).hexdigest()[:16] if tables else None


def _find_works(content: Content) -> list[Work]:
    methods = {row["method"] for row in content.heatmaps}
    metrics = {row["metric"] for row in content.faithfulness_summary}
    used = {
        "clip-dissect": bool(dissected_names(content)),
        **{method: method in methods for method in ("grad-cam", "score-cam", "ablation-cam")},
        "cam": bool(methods),
        "lime": bool(content.lime),
        "deletion": bool({"deletion", "insertion"} & metrics),
        "road": "road" in metrics,
        "sanity": bool(content.sanity_summary),
        "snakemake": True,
    }
    return [work for name, work in WORKS.items() if used[name]]


def _say_what_was_done(content: Content) -> list[tuple[str, str]]:
    """The parameters that a reader asks for first; all of them stand in the configuration."""
    study, done = content.study, []
    for model in study["models"]:
        said = [str(model.get("architecture", "an architecture of the user’s"))]
        if train := model.get("train"):
            said.append(f"trained here to name the {train.get('target', 'object')}")
        elif model.get("weights"):
            said.append(f"weights {model['weights']}")
        elif model.get("checkpoint"):
            said.append(f"weights of {model['checkpoint']}")
        if content.heatmaps and model.get("explain", True) and model.get("cam_layer"):
            layers = model["cam_layer"]
            said.append(f"maps of {join_words(layers if isinstance(layers, list) else [layers])}")
        if content.neurons and model.get("dissect_layers"):
            said.append(f"neurons of {join_words(model['dissect_layers'])}")
        done.append((f"Model {model['name']}", "; ".join(said)))
    if dissected_names(content):
        similarity = study["dissection"].get("similarity", "soft-wpmi")
        given = study["dissection"].get(similarity) or {}
        chosen = {row["a"] for row in content.temperature if row["chosen"]}
        if chosen:
            given = {**given, "a": f"{join_words(f'{a:g}' for a in sorted(chosen))} (chosen)"}
        said = [similarity, *(f"{key} {value}" for key, value in given.items())]
        if content.probe:
            said.append(f"on {count_things(len(content.probe), 'probe picture')}")
        done.append(("Dissection", ", ".join(said)))
    if content.heatmaps:
        methods = order_methods(content, {row["method"] for row in content.heatmaps})
        done.append(("Class activation maps", join_words(map(method_label, methods))))
    if content.lime:
        lime = study.get("lime", {})
        method = lime.get("segmentation")
        said = [f"{content.lime[0]['num_samples']} perturbed pictures each"]
        if method:
            values = (f"{key} {value}" for key, value in (lime.get(method) or {}).items())
            said.append(f"superpixels by {method} ({', '.join(values)})")
        for key, what in (("kernel_width", "kernel width"), ("distance_metric", "distance")):
            if lime.get(key) is not None:
                said.append(f"{what} {lime[key]}")
        done.append(("LIME", ", ".join(said)))
    if content.predictions:
        target = study.get("target", "predicted")
        done.append(("Class that is explained", str(target)))
    return done


def _plain(value):
    """Return built-in types only, which is what YAML writes."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value

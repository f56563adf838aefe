"""Write the report: one self-contained page a study, made from its tables alone.

The page makes no request: pictures are data URIs, the style sheet and one script are inline and
allowed by their hashes, everything else is forbidden by a content security policy. Only where
the gallery's pictures are too many to stand in it are they files beside it. Every string is escaped
by the templates; the script writes text only, and the page is complete without it.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections import defaultdict
from pathlib import Path
from urllib.parse import quote

import jinja2
import markupsafe

from .files import write_atomically
from .measures import keep_first
from .report_base import (
    FEWEST,
    METHODS,
    Content,
    count_things,
    describe_measure,
    dissected_names,
    find_levels,
    format_duration,
    format_fixed,
    format_p,
    format_percent,
    format_span,
    join_words,
    method_label,
    names_scene,
    order_methods,
    order_models,
    other_method,
    pick_levels,
    published_names,
    slug,
    unique,
)
from .report_evidence import (
    AGREEMENT_MEASURES,
    FAITHFULNESS_MEASURES,
    LOCALIZATION_MEASURES,
    pick_headline,
    say_relative,
    say_sanity,
    tell_agreement,
    tell_faithfulness,
    tell_sanity,
    tell_truth,
    unique_rows,
    where,
)
from .report_explanations import Keep, embed_picture, tell_gallery
from .report_method import tell_method
from .report_models import order_layers, summarise_layers, tell_neurons, tell_world
from .report_verdicts import (
    count_verdicts,
    question_label,
    tell_claims,
    tell_correctness,
    tell_questions,
)

TEMPLATES = Path(__file__).parent.parent / "report"
"""Folder of the page's templates and style sheet; a step that writes a report depends on it."""


NAMES_SHOWN = 12
"""Pictures named at most for one reason why values are missing."""

ACTS = {
    "dissect": "the dissection of neurons",
    "cam": "class activation maps",
    "lime": "LIME",
    "agree": "the comparison of explanations",
    "faithfulness": "faithfulness to the model",
    "sanity": "the sanity checks",
}


def write_report(content: Content, path: str | Path, beside: str | Path | None = None) -> None:
    """Write a study's report to ``path``, atomically.

    Parameters
    ----------
    content
        The study and its tables.
    path
        Of the page.
    beside
        A folder beside the page that the gallery's pictures are written into, to be loaded as they
        come into sight; None for a page that holds them itself.

    Raises
    ------
    ConsilienceError
        As :func:`render_report` does.
    """
    folder = None if beside is None else Path(beside)

    def keep(name: str, data: bytes) -> str:
        write_atomically(folder / name, lambda part: Path(part).write_bytes(data))
        return f"{quote(folder.name)}/{name}"

    if folder is None:
        page = render_report(content)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        page = render_report(content, keep, folder.name)
    write_atomically(path, lambda part: Path(part).write_bytes(page.encode("utf-8")))


def render_report(content: Content, keep: Keep = embed_picture, beside: str | None = None) -> str:
    """Return a study's report as HTML.

    Parameters
    ----------
    content
        The study and its tables.
    keep
        Takes the name and the bytes of each of the gallery's pictures and returns its address; by
        default the page holds them itself.
    beside
        Name of the folder beside the page that these addresses lead into, if any.

    Of a picture that is explained for several classes the gallery shows all targets; all else is
    of the first.

    Raises
    ------
    ConsilienceError
        If tables do not belong together: an explanation of a picture without a view.
    """
    every = content
    content = dataclasses.replace(
        content,
        **{
            name: keep_first(getattr(content, name), "model", "picture")
            for name in (
                "predictions",
                "heatmaps",
                "lime",
                "lime_stability",
                "agreement",
                "localization",
                "effects",
                "faithfulness",
                "sanity",
            )
        },
    )
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        fixed=format_fixed,
        percent=format_percent,
        p=format_p,
        slug=slug,
        question=question_label,
        duration=format_duration,
    )
    svg = markupsafe.Markup  # only for what `figures` made and escaped, style sheet and script
    study = content.study
    return environment.get_template("report.html.j2").render(
        style=svg(style),
        style_digest=_digest(style),
        script=svg(script),
        script_digest=_digest(script),
        svg=svg,
        study=study,
        asked=_ask(content),
        off=[ACTS[act] for act in ACTS if study["acts"].get(act) is False],
        answer=_answer(content),
        world=tell_world(content),
        dissect=tell_neurons(content),
        gallery=tell_gallery(every, keep),
        beside=beside,
        several=len(every.predictions) > len(content.predictions),
        agreement=tell_agreement(content),
        faithfulness=tell_faithfulness(content),
        sanity=tell_sanity(content),
        truth=tell_truth(content),
        questions=tell_questions(content),
        correctness=tell_correctness(content),
        claims=tell_claims(content),
        benchmark=_tell_benchmark(content),
        skipped=_skipped(every),
        method=tell_method(content),
    )


def _digest(text: str) -> str:
    """Return a text's SHA-256 as a content security policy writes it."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _ask(content: Content) -> str:
    """Say what was asked."""
    questions = []
    if content.neurons:
        names = join_words(order_models(content, content.neurons))
        method = " (CLIP-Dissect)" if dissected_names(content) else ""
        questions.append(f"What does each neuron of {names} stand for{method}?")
    explained = order_models(content, content.predictions)
    name, possessive = (join_words(explained), "its" if len(explained) == 1 else "their")
    about = count_things(len({row["picture"] for row in content.predictions}), "picture")
    if content.heatmaps:
        found = order_methods(content, (row["method"] for row in content.heatmaps))
        questions.append(
            f"Where did {name} look in {about} ({join_words(map(method_label, found))})?"
        )
    if content.lime:
        whose = possessive if content.heatmaps else f"{name}’s"
        where = "" if content.heatmaps else f" of {about}"
        questions.append(f"Which regions{where} carried {whose} decisions (LIME)?")
    if content.agreement:
        truth = ", and how right are they where the truth is known" if content.localization else ""
        questions.append(f"How far do the answers agree{truth}?")
    if content.faithfulness_summary or content.sanity_summary:
        parts = []
        if content.faithfulness_summary:
            parts.append("Do the explanations show what moves the model")
        if content.sanity_summary:
            start = ", and do they" if parts else "Do the explanations"
            parts.append(f"{start} change with its weights and the class")
        questions.append(f"{''.join(parts)}?")
    return " ".join(questions)


def _answer(content: Content) -> dict:
    """The numbers that come first, each straight from a table."""
    names = [model["name"] for model in content.study["models"]] + published_names(content)
    models = [
        name
        for name in names
        if any(row["model"] == name for row in (*content.accuracy, *content.neurons))
    ]
    summary = summarise_layers(content)
    ends, clutter = _from_simple_to_cluttered(content)
    return {
        "models": models,
        "learned": _what_was_learned(content, models, summary),
        "zero_shot": [
            row for row in content.accuracy if row["model"] not in names and row["clutter"] is None
        ],
        "ends": ends,
        "clutter": clutter,
        "sentences": _say(content, ends, clutter, summary),
        "relative": _relative(content),
        "sanity": [
            (model, say_sanity([r for r in content.sanity_summary if r["model"] == model]))
            for model in order_models(content, content.sanity_summary)
        ],
        "verdicts": count_verdicts(content.claims),
        "claims": [
            {**row, "sign": sign}
            for verdict, sign, _ in count_verdicts(content.claims)
            for row in content.claims
            if row["verdict"] == verdict
        ],
    }


def _what_was_learned(content: Content, models: list[str], summary: list[dict]) -> list[dict]:
    """Accuracy, and the words of the last two layers: a row a measure, a cell a model."""
    rows = []
    accuracy = {r["model"]: r["accuracy"] for r in content.accuracy if r["clutter"] is None}
    if accuracy.keys() & set(models):
        rows.append(_learned("Held-out accuracy", None, [accuracy.get(name) for name in models]))
    found = {(row["model"], row["layer"]): row for row in summary}
    for key, label in (("distinct", "Distinct words"), ("absent", "Labelled with absent words")):
        for layer in order_layers(content)[-2:]:
            cells = [found.get((name, layer), {}).get(key) for name in models]
            if any(cell is not None for cell in cells):
                rows.append(_learned(label, layer, cells, None if key == "absent" else 0))
    named = {
        (row["model_a"], row["layer"]): row["value"]
        for row in content.comparison
        if row["metric"] == "label_is_class_name"
    }
    for layer in unique(layer for _, layer in named):
        cells = [named.get((name, layer)) for name in models]
        rows.append(_learned("Neurons named after their class", layer, cells))
    return rows


def _from_simple_to_cluttered(content: Content) -> tuple[list, list[dict]]:
    """The lowest and the highest clutter level, and groups of rows with a cell each."""
    names = [model["name"] for model in content.study["models"]]
    accuracy = [r for r in content.accuracy if r["model"] in names and r["clutter"] is not None]
    independent = [
        row
        for row in content.agreement_summary
        if row["independent"] and row["metric"] == "spearman"
    ]
    # A net that names the scene is not wrong where it looks past the object.
    truth = [
        row
        for row in content.localization_summary
        if (row["metric"], row["truth"], row["causal"]) == ("iou", "object", False)
        and not names_scene(content, row["model"])
        # Only right predictions are held against the object: in clutter they may be one or two.
        and row["n"] >= FEWEST
    ]
    levels = find_levels(independent or truth or accuracy)
    ends = unique([levels[0], levels[-1]]) if levels else []
    groups = []

    def add(key, label, percent, rows):
        if any(cell is not None for _, cells in rows for cell in cells):
            groups.append({"key": key, "label": label, "percent": percent, "rows": rows})

    def labelled(model, models, method):
        return method_label(method) if len(models) == 1 else f"{model}, {method_label(method)}"

    add(
        "accuracy",
        "Right predictions, held out",
        True,
        [
            (name, pick_levels(accuracy, ends, "accuracy", model=name))
            for name in order_models(content, accuracy)
        ],
    )
    models = order_models(content, independent)
    add(
        "agreement",
        "LIME against each CAM, median Spearman’s ρ",
        False,
        [
            (
                labelled(name, models, other),
                pick_levels(
                    [r for r in independent if other_method(r) == other], ends, "median", model=name
                ),
            )
            for name in models
            for other in order_methods(content, map(other_method, independent))
        ],
    )
    models = order_models(content, truth)
    add(
        "truth",
        f"Against the object’s mask, mean IoU of {FEWEST} right predictions or more",
        False,
        [
            (
                labelled(name, models, method),
                pick_levels(truth, ends, "mean", model=name, method=method),
            )
            for name in models
            for method in order_methods(content, (row["method"] for row in truth))
        ],
    )
    return ends, groups


def _learned(label: str, layer: str | None, cells: list, digits: int | None = None) -> dict:
    """Make a row of what the models learned; a share where no digits are given."""
    share = digits is None
    return {"label": label, "layer": layer, "cells": cells, "percent": share, "digits": digits}


def _say(content: Content, ends: list, groups: list[dict], summary: list[dict]) -> list[str]:
    """Say the short answer in sentences."""
    said = []
    rows = {group["key"]: group["rows"] for group in groups}

    def ranges(key: str) -> str:
        texts = []
        for index in range(len(ends)):
            values = [cells[index] for _, cells in rows[key] if cells[index] is not None]
            if values:
                where = ("on the simplest pictures", "on the most cluttered")[index]
                texts.append(format_span(values) + (f" {where}" if len(ends) > 1 else ""))
        return " and ".join(texts)

    if "agreement" in rows:
        said.append(
            f"LIME agrees with the CAMs at a median rank correlation of {ranges('agreement')}; "
            "unrelated maps score 0, equal ones 1."
        )
    if "truth" in rows:
        chance = [
            row["chance"]
            for row in content.localization_summary
            if (row["metric"], row["truth"], row["causal"]) == ("iou", "object", False)
            and row["chance"] is not None
            and row["n"] >= FEWEST
            and row["clutter"] in ends
        ]
        floor = f"; chance is {format_span(chance)}" if chance else ""
        said.append(
            "The regions that the explanations point at meet the object with a mean IoU of "
            f"{ranges('truth')}{floor}."
        )
    if summary:
        last = summary[-1]["layer"]
        parts = [
            f"{count_things(row['distinct'], 'word')} for {count_things(row['neurons'], 'neuron')} "
            f"of {row['model']}"
            for row in summary
            if row["layer"] == last
        ]
        said.append(f"In the last layer dissected ({last}), there are {join_words(parts)}.")
    return said


def _relative(content: Content) -> list[dict]:
    """LIME's agreement with the first CAM between its floor and ceiling, at both ends."""
    found = []
    models = order_models(content, content.agreement_summary)
    for model in models:
        rows = pick_headline(content, model)
        levels = [row["clutter"] for row in rows]
        for row in unique_rows(rows[:1] + rows[-1:]):
            found.append(
                {
                    **row,
                    "model": model if len(models) > 1 else None,
                    "cam": method_label(other_method(row)),
                    "where": where(row["clutter"], levels),
                    "said": say_relative(row),
                }
            )
    return found


def _shorten(names: list[str], every: int) -> str:
    """List the first of some names, and how many more there are; of all pictures say that."""
    if len(names) == every > NAMES_SHOWN:
        return f"all {every}"
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _tell_benchmark(content: Content) -> dict | None:
    shown = ("audit_rules", "dissection_truth", "contrast_summary", "trust", "leaderboard")
    if not any(getattr(content, part) for part in shown):
        return None
    from .report_benchmark import tell_benchmark  # here, as it imports PyTorch

    return tell_benchmark(content)


def _skipped(content: Content) -> dict:
    """Everything that could not be used, by name."""
    degenerate = [
        (
            row["model"],
            row["picture"],
            row["target_class"],
            method_label(row["method"]),
            row["status"],
        )
        for row in content.heatmaps
        if row["status"] != "ok"
    ] + [
        (row["model"], row["picture"], row["target_class"], METHODS["lime"], row["status"])
        for row in content.lime
        if row["status"] != "ok"
    ]
    unlabelled = defaultdict(list)
    for row in content.neurons:
        if row["concept"] is None:
            unlabelled[row["model"], row["layer"], row["status"]].append(str(row["unit"]))
    missing: dict[tuple, list[str]] = defaultdict(list)
    scored = (
        ("agreement", content.agreement, AGREEMENT_MEASURES),
        ("faithfulness", content.faithfulness, FAITHFULNESS_MEASURES),
        ("truth", content.localization, LOCALIZATION_MEASURES),
        ("comparison", content.comparison, {}),
    )
    for what, rows, measures in scored:
        for row in rows:
            if row["value"] is None:
                label = describe_measure(row["metric"], measures, content.study).label
                of = f"{what}, {row['control']}" if row.get("control") else what
                key = (of, label, row["reason"] or "no reason given")
                missing[key].append(row.get("picture", ""))
    for row in content.sanity:
        if row["value"] is None:
            key = ("sanity", row["test"], row["reason"] or "no reason given")
            missing[key].append(row["picture"])
    for what, rows, name, key in (
        ("questions", content.questions, "question", "estimate"),
        ("correctness", content.correctness, "predictor", "auroc"),
        ("claims", content.claims, "claim", "estimate"),
    ):
        for row in rows:
            if row[key] is None:
                missing[what, row[name], row["reason"] or "no reason given"].append("")
    every = len({row["picture"] for row in content.predictions})
    values = sum(len(rows) for _, rows, _ in scored) + len(content.sanity)
    return {
        "undecoded": [(r["name"], r["error"]) for r in content.pictures if r["error"] is not None],
        "undecoded_probe": [
            (r["name"], r["error"]) for r in content.probe if r["error"] is not None
        ],
        "degenerate": sorted(degenerate),
        "unlabelled": [(*key, ", ".join(units)) for key, units in sorted(unlabelled.items())],
        "missing": [
            (*key, len(names), _shorten(unique(filter(None, names)), every))
            for key, names in sorted(missing.items())
        ],
        "checked": [
            text
            for number, text in (
                (len(content.pictures), count_things(len(content.pictures), "picture")),
                (len(content.heatmaps), count_things(len(content.heatmaps), "heatmap")),
                (len(content.lime), count_things(len(content.lime), "LIME explanation")),
                (values, count_things(values, "value")),
            )
            if number
        ],
    }

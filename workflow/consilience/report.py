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
from .report_answer import tell_answer
from .report_base import (
    METHODS,
    Content,
    count_things,
    describe_measure,
    dissected_names,
    format_duration,
    format_fixed,
    format_p,
    format_percent,
    group_nets,
    join_words,
    method_label,
    order_methods,
    order_models,
    slug,
    unique,
)
from .report_evidence import (
    AGREEMENT_MEASURES,
    FAITHFULNESS_MEASURES,
    LOCALIZATION_MEASURES,
    tell_agreement,
    tell_faithfulness,
    tell_sanity,
    tell_truth,
)
from .report_explanations import Keep, embed_picture, tell_gallery
from .report_method import tell_method
from .report_models import tell_neurons, tell_world
from .report_verdicts import (
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
    benchmark = _tell_benchmark(content)
    return environment.get_template("report.html.j2").render(
        style=svg(style),
        style_digest=_digest(style),
        script=svg(script),
        script_digest=_digest(script),
        svg=svg,
        study=study,
        asked=_ask(content),
        off=[ACTS[act] for act in ACTS if study["acts"].get(act) is False],
        answer=tell_answer(content, benchmark),
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
        benchmark=benchmark,
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
        names = join_words(group_nets(content, order_models(content, content.neurons)))
        method = " (CLIP-Dissect)" if dissected_names(content) else ""
        questions.append(f"What does each neuron of {names} stand for{method}?")
    explained = order_models(content, content.predictions)
    name = join_words(group_nets(content, explained))
    possessive = "its" if len(explained) == 1 else "their"
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

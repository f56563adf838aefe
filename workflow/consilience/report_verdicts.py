"""The report's sections on what follows: questions, correctness, the original study's claims."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from .report_base import (
    Content,
    Rows,
    count_things,
    format_fixed,
    format_mean,
    format_p,
    join_words,
    order_models,
    unique,
)

LEVEL = 0.05
"""Below which a p-value that is adjusted by Holm is called a finding."""

VERDICTS = ("supported", "contradicted", "inconclusive", "not testable here")

PREDICTORS = {
    "top-probability": "The model’s top probability",
    "agreement": "Agreement of the explanations",
    "both": "Both together",
    "added": "What agreement adds to the probability",
}

STRATA = {
    "all": "all pictures",
    "within-clutter": "within a clutter level",
    "within-area": "among objects of one size",
}

CORRECT = {
    "prediction": "The prediction is right",
    "localization": "The explanation finds the object (IoU of 0.5 or more)",
}


def tell_questions(content: Content) -> dict | None:
    """Primary questions with their tests, exploratory ones without."""
    if not content.questions:
        return None
    primary = [row for row in content.questions if row["role"] == "primary"]
    others = [row for row in content.questions if row["role"] != "primary"]
    models = order_models(content, content.questions)
    return {
        "finding": _say_questions(primary),
        "primary": primary,
        "exploratory": sorted(others, key=lambda row: models.index(row["model"])),
    }


def question_label(row: Mapping) -> str:
    """Write a question's name as words."""
    return row["question"].replace("-", " ").replace(":", ": ")


def _say_questions(rows: Rows) -> str:
    """Say which primary questions have an answer."""
    if not rows:
        return "No question was fixed beforehand: nothing here is tested."
    asked = [row for row in rows if row["p_holm"] is not None]
    found = [row for row in asked if row["p_holm"] < LEVEL]
    text = f"Of {count_things(len(rows), 'primary question')} "
    verb = "has" if len(found) < 2 else "have"
    text += (
        f"(one a question and model), {len(found) or 'none'} {verb} an effect that stands after "
    )
    text += f"Holm’s correction (p below {LEVEL})"
    if found:
        said = []
        for row in found:
            estimate = format_mean({**row, "mean": row["estimate"]})
            p = _equals(row["p_holm"])
            said.append(f"{question_label(row)}, {row['model']} ({estimate}, p {p})")
        text += f": {join_words(said)}"
    rest = [row for row in asked if row not in found and row["detectable"] is not None]
    if rest:
        sizes = [
            f"{format_fixed(row['detectable'])} ({question_label(row)}, {row['model']})"
            for row in rest
        ]
        text += f". Of the others, an effect would likely be missed below {join_words(sizes)}"
    if unasked := len(rows) - len(asked):
        text += f". {unasked} could not be tested"
    return f"{text}."


def _equals(p: float) -> str:
    text = format_p(p)
    return text if text.startswith("<") else f"= {text}"


def tell_correctness(content: Content) -> list[dict]:
    """By model and kind of correctness, how well each predictor tells right from wrong."""
    found = []
    for model in order_models(content, content.correctness):
        own = [row for row in content.correctness if row["model"] == model]
        for kind in unique([*(k for k in CORRECT if _has(own, k)), *(r["correct"] for r in own)]):
            rows = [row for row in own if row["correct"] == kind]
            found.append(
                {
                    "model": model,
                    "kind": CORRECT.get(kind, kind),
                    "finding": _say_correctness(rows),
                    "rows": [
                        {
                            **row,
                            "label": _predictor(row["predictor"]),
                            "pairs": STRATA.get(row["stratum"], row["stratum"]),
                        }
                        for row in sorted(rows, key=lambda row: _find_place(row["stratum"], STRATA))
                    ],
                }
            )
    return found


def _has(rows: Rows, kind: str) -> bool:
    return any(row["correct"] == kind for row in rows)


def _find_place(name: str, known: Mapping) -> int:
    return list(known).index(name) if name in known else len(known)


def _predictor(name: str) -> str:
    return PREDICTORS.get(name, name)


def _say_correctness(rows: Rows) -> str:
    """Say how well agreement and probability tell right from wrong, over all pictures."""
    rows = [row for row in rows if row["stratum"] == "all"]
    known = [row for row in rows if row["auroc"] is not None]
    if not known:
        reasons = unique(row["reason"] for row in rows if row["reason"])
        return f"There is no AUROC: {join_words(reasons) or 'no reason given'}."
    said, added = [], ""
    for row in known:
        label, value = _predictor(row["predictor"]), format_mean({**row, "mean": row["auroc"]})
        if row["predictor"] == "added":
            added = f"; agreement adds {value} to the AUROC of the probability"
        else:
            said.append(f"{label[0].lower()}{label[1:]} {value}")
    right, wrong = known[0]["right"], known[0]["wrong"]
    return f"AUROC over {right} right and {wrong} wrong (0.5 is chance): {join_words(said)}{added}."


def tell_claims(content: Content) -> dict | None:
    """The original study's claims, each with its verdict."""
    if not content.claims:
        return None
    return {
        "finding": say_verdicts(content.claims),
        "rows": [{**row, "sign": slug_verdict(row["verdict"])} for row in content.claims],
    }


def count_verdicts(rows: Rows) -> list[tuple[str, str, int]]:
    """Count claims by verdict: (verdict, its sign's name, how many)."""
    counts = Counter(row["verdict"] for row in rows)
    order = [*(v for v in VERDICTS if counts[v]), *sorted(set(counts) - set(VERDICTS))]
    return [(verdict, slug_verdict(verdict), counts[verdict]) for verdict in order]


def say_verdicts(rows: Rows) -> str:
    """Say how many claims of the original study have which verdict."""
    said = [f"{number} {verdict}" for verdict, _, number in count_verdicts(rows)]
    return f"Of {count_things(len(rows), 'claim')} of the original study, {join_words(said)}."


def slug_verdict(verdict: str) -> str:
    """Return the class of a verdict's badge."""
    return {"supported": "yes", "contradicted": "no", "inconclusive": "open"}.get(verdict, "off")

import base64
import csv
import hashlib
import io
import json
import re
from collections import defaultdict
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations

import numpy as np
import pytest

from consilience import (
    comparison,
    report,
    report_answer,
    report_base,
    report_evidence,
    report_method,
    report_models,
    report_verdicts,
    tables,
    thumbnails,
    world,
)
from consilience.errors import ConsilienceError
from consilience.images import decode_png
from consilience.localization import OFFSETS

NASTY = "<img src=x onerror=alert(1)>\"'&.png"
METHODS = ("grad-cam", "score-cam", "ablation-cam")
OBJECTS = ("ball", "box", "star")

STUDY = {
    "study": "fixture",
    "title": "Why does the classifier decide as it does?",
    "seed": 7,
    "acts": dict.fromkeys(
        ("dissect", "cam", "lime", "agree", "faithfulness", "sanity", "report"), True
    ),
    "world": {"size": 96, "training": {"pictures": 100, "clutter": [0, 1, 2]}},
    "models": [
        {
            "name": "object-net",
            "train": {"target": "object", "seed": 1},
            "dissect_layers": ["l4", "fc"],
        },
        {
            "name": "scene-net",
            "train": {"target": "scene", "seed": 2},
            "dissect_layers": ["l4", "fc"],
        },
    ],
    "cam": {"methods": list(METHODS)},
    "lime": {"num_features": 3},
    "agreement": {"bootstrap": 200, "top_fraction": 0.2},
    "dissection": {"significance": 0.05},
}


def draw_nothing(view, segment_map, weights):
    return view


def blob(mask, rng, spread):
    """A smooth map near the mask's middle, the further off the greater ``spread``."""
    rows, columns = np.nonzero(mask)
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    centre = np.array([rows.mean(), columns.mean()]) + rng.normal(0, spread, 2)
    heat = np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / 400)
    return ((heat - heat.min()) / np.ptp(heat)).astype(np.float32)


def checked(rows, schema):
    return tables.make_table(rows, schema).to_pylist()


def summarise(rows, pictures, *keys, value="value"):
    """What a summary's row has in common with every other: by keys and clutter level."""
    clutter = {row["name"]: row["clutter"] for row in pictures}
    groups = defaultdict(list)
    for row in rows:
        groups[(*(row[key] for key in keys), clutter[row["picture"]])].append(row)
    found = []
    for group, own in sorted(groups.items(), key=lambda item: str(item[0])):
        values = [row[value] for row in own if row[value] is not None]
        mean = float(np.mean(values)) if values else None
        found.append(
            dict(zip((*keys, "clutter"), group, strict=True))
            | {
                "n": len(values),
                "missing": len(own) - len(values),
                "mean": mean,
                "median": float(np.median(values)) if values else None,
                "low": min(values) if len(values) > 1 else None,
                "high": max(values) if len(values) > 1 else None,
            }
        )
    return found


AGREEMENT_METRICS = ("spearman", "iou", "superpixel-spearman", "emd")
FLOORS = ("random_smooth", "other_picture", "centre", "edges")


def make_agreement(explained, pictures, seed=0):
    """Rows of every two methods, floors and ceilings, and their summary; one map is constant."""
    rng = np.random.default_rng([seed, 1])
    rows = []
    for key, pair, metric in (
        (key, pair, metric)
        for key in explained
        for pair in combinations(sorted((*METHODS, "lime")), 2)
        for metric in AGREEMENT_METRICS
    ):
        lost = "ablation-cam" in pair and key["picture"] == pictures[-1]["name"]
        row = key | {"method_a": pair[0], "method_b": pair[1], "metric": metric}
        value = {"reason": "ablation-cam: constant map"} if lost else {"value": rng.uniform(0, 0.9)}
        rows.append(row | value | {"chance": 0.11 if metric == "iou" else 0.0})
        for control in ("random-smooth", "other-picture", "centre", "edges", "ceiling"):
            score = rng.uniform(0.9, 1) if control == "ceiling" else rng.uniform(-0.1, 0.3)
            rows.append(row | {"control": control, "value": score})
    own = [row for row in rows if "control" not in row]
    own = [{"value": None, **row} for row in own]
    summary = []
    for row in summarise(own, pictures, "model", "method_a", "method_b", "metric"):
        floors = {name: float(rng.uniform(-0.1, 0.3)) for name in FLOORS}
        highest = max(floors, key=floors.get)
        row |= floors | {
            "independent": "lime" in (row["method_a"], row["method_b"]),
            "floor": highest.replace("_", "-"),
            "ceiling": float(rng.uniform(0.9, 1)),
            "chance": 0.11 if row["metric"] == "iou" else 0.0,
        }
        if row["n"]:
            row["relative"] = (row["mean"] - floors[highest]) / (row["ceiling"] - floors[highest])
            row |= {"relative_low": row["relative"] - 0.2, "relative_high": row["relative"] + 0.2}
        else:
            row["reason"] = "no value"
        summary.append(row)
    return checked(rows, tables.AGREEMENT), checked(summary, tables.AGREEMENT_SUMMARY)


def make_localization(explained, pictures, seed=0):
    """Rows against the object and, where a prediction names one, a distractor; with summary."""
    rng = np.random.default_rng([seed, 2])
    metrics = ("pointing-game", "iou", "mass-inside", "average-precision")
    rows = [
        key
        | {"method": method, "truth": truth, "metric": metric, "chance": 0.1, "area": 0.1}
        | {"value": float(rng.random()), "matters": number % 3 > 0}
        for number, key in enumerate(explained)
        for method in (*METHODS, "lime")
        for truth in ("object", "distractor")[: 1 + number % 2]
        for metric in metrics
    ]
    rows += [
        row | {"metric": metric, "chance": None, "value": float(rng.uniform(-20, 20))}
        for row in rows
        if row["metric"] == "iou"
        for metric in OFFSETS
    ]
    lost = next(row for row in rows if row["method"] == "lime" and row["metric"] == "mass-inside")
    lost |= {"value": None, "reason": "no positive value"}
    summary = []
    for causal in (False, True):
        own = [row for row in rows if row["matters"] or not causal]
        for row in summarise(own, pictures, "model", "method", "truth", "metric"):
            chance = None if row["metric"] in OFFSETS else 0.1
            summary.append(row | {"causal": causal, "chance": chance})
    return checked(rows, tables.LOCALIZATION), checked(summary, tables.LOCALIZATION_SUMMARY)


def make_effects(explained, pictures, seed=0):
    rng = np.random.default_rng([seed, 3])
    rows = [
        key
        | {"change": change, "logit": 5.0, "changed_logit": float(5 - rng.uniform(0, 4))}
        | {"probability": 0.97, "changed_probability": float(rng.random())}
        | {"changed_class": OBJECTS[int(rng.integers(3))]}
        for key in explained
        for change in ("without-object", "other-scene")
    ]
    return checked(rows, tables.EFFECTS)


FILLED = (
    ("deletion", "mean"),
    ("deletion", "blur"),
    ("insertion", "mean"),
    ("insertion", "blur"),
    ("road", "linear"),
    ("average-drop", "black"),
    ("increase", "black"),
)


def make_faithfulness(explained, pictures, seed=0):
    rng = np.random.default_rng([seed, 4])
    rows = []
    for key in explained:
        for method in (*METHODS, "lime"):
            for metric, fill in FILLED:
                row = key | {"method": method, "metric": metric, "fill": fill}
                value, random = rng.random(2).tolist()
                row |= {"value": value, "random": random, "difference": value - random}
                row |= {"curve": [], "random_curve": []}
                if metric in ("deletion", "insertion"):
                    row |= {
                        name: sorted(rng.random(9).tolist(), reverse=metric == "deletion")
                        for name in ("curve", "random_curve")
                    }
                rows.append(row)
    rows[0] |= dict.fromkeys(("value", "random", "difference")) | {
        "curve": [],
        "random_curve": [],
        "reason": "constant map",
    }
    keys = ("model", "method", "metric", "fill")
    summary = summarise(rows, pictures, *keys, value="difference")
    summary = [row | {"value": 0.4, "random": 0.3} for row in summary]
    return checked(rows, tables.FAITHFULNESS), checked(summary, tables.FAITHFULNESS_SUMMARY)


STAGES = ("fc", "layer4", "layer3", "conv1")


def make_sanity(explained, seed=0):
    rng = np.random.default_rng([seed, 5])
    methods = (*METHODS, "lime", "eigen-cam")
    rows = [
        key
        | {"method": method, "test": test, "step": step, "stage": stage, "floor": 0.2}
        | {"value": float(rng.uniform(-0.2, 1))}
        for key in explained
        for method in methods
        for test, step, stage in (
            ("class", 0, "box"),
            *(("cascade", number, stage) for number, stage in enumerate(STAGES, 1)),
        )
    ]
    rows[0] |= {"value": None, "reason": "constant map"}
    summary = []
    for model in dict.fromkeys(key["model"] for key in explained):
        for method in methods:
            for test, step, stage in (
                ("class", 0, "runner-up"),
                *(("cascade", number, stage) for number, stage in enumerate(STAGES, 1)),
            ):
                mean = float(rng.uniform(-0.2, 0.9))
                row = {"model": model, "method": method, "test": test, "step": step}
                row |= {"stage": stage, "n": 5, "missing": 0, "mean": mean, "floor": 0.2}
                row |= {"low": mean - 0.1, "high": mean + 0.1}
                if test == "class":
                    row["passed"] = method != "eigen-cam"
                elif stage == STAGES[-1]:
                    row["passed"] = None if method == "lime" else method != "score-cam"
                    row["reason"] = "the limit 0.1 lies within" if method == "lime" else None
                summary.append(row)
    return checked(rows, tables.SANITY), checked(summary, tables.SANITY_SUMMARY)


def make_verdicts(models):
    """Questions, correctness and claims."""
    questions = [
        {
            "question": question,
            "role": role,
            "model": model,
            "estimand": f"what {question} is about",
            "estimate": estimate,
            "low": estimate - 0.123,
            "high": estimate + 0.123,
            "interval": "95 % BCa bootstrap over 8 bases",
            "bases": 8,
            "values": 16,
        }
        | (
            {"test": "sign flips", "p_value": 2 / 3 * p, "p_holm": p, "detectable": 0.217}
            if role == "primary"
            else {}
        )
        for model in models
        for question, role, estimate, p in (
            ("agreement-and-clutter", "primary", -0.321, 0.0316),
            ("lime-and-clutter", "primary", -0.054, 0.412),
            ("agreement-and-clutter:pearson", "exploratory", -0.2345, None),
        )
    ]
    questions.append(
        questions[0]
        | {"question": "faithful-lime-or-cam", "interval": "none", "reason": "no faithfulness"}
        | dict.fromkeys(("estimate", "low", "high", "test", "p_value", "p_holm", "detectable"))
    )
    correctness = [
        {"model": model, "correct": correct, "predictor": predictor, "stratum": stratum}
        | {"right": 30, "wrong": 10}
        | (
            {"reason": "the clutter of a picture is not known"}
            if stratum == "within-clutter"
            else {"auroc": auroc, "low": auroc - 0.15, "high": auroc + 0.15}
        )
        for model in models
        for correct in ("prediction", "localization")
        for stratum in ("all", "within-clutter", "within-area")
        for predictor, auroc in (
            ("top-probability", 0.81),
            ("agreement", 0.67),
            ("both", 0.84),
            ("added", 0.03),
        )
    ]
    claims = [
        {
            "claim": f"claim-{index}",
            "says": f"Claim number {index} of the study.",
            "estimand": f"estimand {index}",
            "smallest_effect": 0.15,
            "rule": f"rule {index}",
            "estimate": None if verdict == "not testable here" else 0.31 + index / 100,
            "low": None if verdict == "not testable here" else 0.2,
            "high": None if verdict == "not testable here" else 0.4,
            "bases": None if verdict == "not testable here" else 8,
            "verdict": verdict,
            "reason": f"reason {index}"
            if verdict in ("inconclusive", "not testable here")
            else None,
        }
        for index, verdict in enumerate((*report_verdicts.VERDICTS, "supported"))
    ]
    return (
        checked(questions, tables.QUESTIONS),
        checked(correctness, tables.CORRECTNESS),
        checked(claims, tables.CLAIMS),
    )


def make_content(bases=2, levels=(0, 2, 4), seed=0, explained=("object-net",), neurons=24):
    """Small made-up tables of a whole study on rendered pictures."""
    rng = np.random.default_rng(seed)
    pictures = world.describe_rows(world.study_pictures(seed, bases, levels), 96)
    probe = world.describe_rows(world.probe_pictures(seed, 12, (0, 1)), 96)
    classes = [row["object"] or "ball" for row in pictures]

    accuracy = []
    for level in (None, 0, 1, 2, 3, 4):
        for model in ("object-net", "scene-net"):
            right = int(200 - 9 * (level or 0) ** 2 - rng.integers(4))
            target = model.removesuffix("-net")
            accuracy.append((model, target, level, 200, right))
    for target, right in (("object", 194), ("scene", 199), ("colour", 200)):
        accuracy.append(("clip", target, None, 200, right))
    names = ("model", "target", "clutter", "pictures", "correct")
    accuracy = [dict(zip(names, row, strict=True)) for row in accuracy]
    for row in accuracy:
        row["accuracy"] = row["correct"] / row["pictures"]

    words = ("ball", "box", "brick", "water", "red", "zebra")
    labelled = []
    for model in ("object-net", "scene-net"):
        for layer, count in (("l4", neurons), ("fc", 6)):
            for unit in range(count):
                word = words[int(rng.integers(len(words))) if layer == "l4" else unit]
                labelled.append(
                    {
                        "model": model,
                        "layer": layer,
                        "unit": unit,
                        "status": "ok",
                        "concept": word,
                        "similarity": 1 - unit / 50,
                        "rank": unit,
                        "absent": word == "zebra",
                        "candidates": [word],
                        "doubts": [],
                        "top_pictures": [probe[int(i)]["name"] for i in rng.permutation(12)[:5]],
                    }
                )
    labelled[3] |= {"status": "constant", "candidates": [], "top_pictures": []}
    labelled[3] |= dict.fromkeys(("concept", "similarity", "rank", "absent"))

    predictions, views, heatmaps, lime, shown = [], [], [], [], []
    for model in explained:
        for row, name in zip(pictures, classes, strict=True):
            right = rng.random() > row["clutter"] / 8
            predicted = name if right else OBJECTS[int(rng.integers(3))]
            index = world.OBJECTS.index(predicted)
            key = {"model": model, "picture": row["name"]}
            chosen = {"target_index": index, "target_class": predicted}
            shown.append(key | chosen)
            predictions.append(
                key
                | chosen
                | {
                    "target": "predicted",
                    "target_probability": 0.97,
                    "predicted_index": index,
                    "predicted_class": predicted,
                    "predicted_probability": 0.97,
                    "label_index": world.OBJECTS.index(name),
                    "label_class": name,
                    "correct": predicted == name,
                }
            )
            view = {"height": 96, "width": 96, "view": row["image"]["bytes"]}
            masks = {kind: row[kind] for kind in ("mask_visible", "mask_whole")}
            views.append(key | view | masks | {"box": [0.0, 0.0, 96.0, 96.0]})
            mask = decode_png(row["mask_visible"])
            near = mask if mask.any() else np.ones((96, 96))
            for method in METHODS:
                heat = blob(near, rng, 4 + 5 * row["clutter"])
                if row is pictures[-1] and method == "ablation-cam":
                    heat[:] = 0
                heatmaps.append(
                    key
                    | chosen
                    | {
                        "method": method,
                        "layer": "layer4",
                        "layer_height": 1,
                        "layer_width": 1,
                        "layer_map": [0.5],
                        "height": 96,
                        "width": 96,
                        "heatmap": heat.ravel().tolist(),
                        "status": "ok" if heat.any() else "zero",
                    }
                )
            segments = (np.arange(96) // 16)[:, None] * 6 + np.arange(96) // 16
            inside = np.bincount(segments.ravel(), weights=near.ravel() != 0, minlength=36)
            weights = inside / 256 / 4 + rng.normal(0, 0.02 + 0.02 * row["clutter"], 36)
            lime.append(
                key
                | chosen
                | {
                    "height": 96,
                    "width": 96,
                    "segment_map": segments.ravel().tolist(),
                    "segments": 36,
                    "weights": weights.tolist(),
                    "intercept": 0.1,
                    "r2": float(rng.uniform(0.4, 0.9)),
                    "local_prediction": 0.9,
                    "model_probability": 0.97,
                    "num_samples": 100,
                    "segmentation_seed": 7,
                    "perturbation_seed": 7,
                    "status": "ok",
                }
            )

    agreed, agreed_summary = make_agreement(shown, pictures, seed)
    located, located_summary = make_localization(shown, pictures, seed)
    faithful, faithful_summary = make_faithfulness(shown, pictures, seed)
    sane, sane_summary = make_sanity(shown, seed)
    questions, correctness, claims = make_verdicts(explained)
    return report.Content(
        study=STUDY,
        pictures=checked(pictures, tables.PICTURES),
        accuracy=checked(accuracy, tables.ACCURACY),
        probe=checked(probe, tables.PICTURES),
        neurons=checked(labelled, tables.NEURONS),
        concepts=checked(comparison.count_concepts(labelled), tables.CONCEPTS),
        comparison=checked(comparison.compare_models(labelled), tables.COMPARISON),
        predictions=checked(predictions, tables.PREDICTIONS),
        heatmaps=checked(heatmaps, tables.HEATMAPS),
        lime=checked(lime, tables.LIME),
        thumbnails=checked(
            thumbnails.draw_thumbnails(views, heatmaps, lime, draw_nothing), tables.THUMBNAILS
        ),
        agreement=agreed,
        agreement_summary=agreed_summary,
        localization=located,
        localization_summary=located_summary,
        effects=make_effects(shown, pictures, seed),
        faithfulness=faithful,
        faithfulness_summary=faithful_summary,
        sanity=sane,
        sanity_summary=sane_summary,
        questions=questions,
        correctness=correctness,
        claims=claims,
        versions={"torch": "2.15.0", "numpy": "2.4.6"},
        hashes={"weights of object-net": "0" * 64},
    )


class Page(HTMLParser):
    """What a page is made of: elements with their attributes, and the text of each section."""

    VOID = frozenset(("meta", "link", "img", "br", "input"))

    def __init__(self, html):
        super().__init__()
        self.elements, self.open, self.text, self.numbers = [], [], {}, {}
        self.feed(html)
        self.close()

    def section(self):
        return next((a["id"] for tag, a in self.open if tag == "section" and "id" in a), "")

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        if tag == "data":
            self.numbers.setdefault(self.section(), []).append(float(attributes["value"]))
        if tag not in self.VOID:
            self.open.append((tag, attributes))

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1][0] == tag, f"</{tag}> closes <{self.open[-1][0]}>"
        self.open.pop()

    def handle_data(self, data):
        name = self.section()
        self.text[name] = self.text.get(name, "") + data

    def ids(self):
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]


@pytest.fixture(scope="module")
def content():
    return make_content()


@pytest.fixture(scope="module")
def html(content):
    return report.render_report(content)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_page_is_well_formed(page):
    assert page.open == []
    assert len(page.ids()) == len(set(page.ids()))
    targets = [a["href"] for tag, a in page.elements if tag == "a"]
    assert targets
    assert all(target[0] == "#" and target[1:] in page.ids() for target in targets)


def test_page_tells_the_whole_story(page):
    found = [a["id"] for tag, a in page.elements if tag == "section" and "id" in a]
    order = ["answer", "world", "neurons", "gallery", "agreement", "faithfulness", "sanity"]
    order += ["truth", "questions", "correctness", "claims", "skipped", "method"]
    assert [name for name in found if name in order] == order


def test_page_makes_no_request_and_runs_its_own_script_alone(html, page):
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "object", "embed", "base", "form")
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name != "style"  # the content security policy forbids it
            if name in ("src", "srcset", "poster", "data") or (name == "href" and tag != "a"):
                assert value.startswith(("data:", "#"))
    style = html[html.index("<style>") + 7 : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert html.count("<style") == 1
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = next(
        a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none';")
    assert f"style-src 'sha256-{digest}'" in policy
    assert [a for tag, a in page.elements if tag == "script"] == [{}]
    script = html[html.index("<script>") + 8 : html.index("</script>")]
    assert script == (report.TEMPLATES / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    for way in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval", "Function("):
        assert way not in script
    for way in ("fetch(", "XMLHttpRequest", "WebSocket", "sendBeacon", "import("):
        assert way not in script
    assert "unsafe" not in policy


def test_headline_numbers_are_the_tables(content, page):
    shown = page.numbers["answer"]
    expected = [
        row["accuracy"]
        for row in content.accuracy
        if row["clutter"] is None or (row["model"] != "clip" and row["clutter"] in (0, 4))
    ]
    expected += [
        row["median"]
        for row in content.agreement_summary
        if row["independent"] and row["metric"] == "spearman" and row["clutter"] in (0, 4)
    ]
    expected += [
        row["mean"]
        for row in content.localization_summary
        if (row["metric"], row["truth"], row["causal"]) == ("iou", "object", False)
        and row["clutter"] in (0, 4)
    ]
    first = [
        row
        for row in content.agreement_summary
        if (row["method_a"], row["method_b"], row["metric"]) == ("grad-cam", "lime", "spearman")
        and row["clutter"] in (0, 4)
    ]
    expected += [row[key] for row in first for key in ("mean", "relative")]
    expected += [
        row["value"]
        for row in content.comparison
        if row["metric"] in ("distinct_concepts", "share_absent")
    ]
    assert sorted(shown) == sorted(value for value in expected if value is not None)


def test_every_summary_value_is_shown(content, page):
    floors = ("random_smooth", "other_picture", "centre", "edges", "ceiling", "relative")
    # Offsets are shown over all levels together.
    levelled = [row for row in content.localization_summary if row["metric"] not in OFFSETS]
    for section, rows, keys in (
        ("agreement", content.agreement_summary, ("mean", "median", "chance", *floors)),
        ("faithfulness", content.faithfulness_summary, ("mean", "median", "value", "random")),
        ("sanity", content.sanity_summary, ("mean", "floor")),
        ("truth", levelled, ("mean", "median", "chance")),
        ("questions", content.questions, ("estimate", "p_value", "p_holm", "detectable")),
        ("correctness", content.correctness, ("auroc",)),
        ("claims", content.claims, ("estimate", "smallest_effect")),
    ):
        shown = set(page.numbers[section])
        assert rows
        for row in rows:
            for key in keys:
                assert row[key] is None or row[key] in shown, (section, key, row)


def test_every_table_names_itself_its_columns_and_its_rows(html):
    tables_found = re.findall(r"<table.*?</table>", html, flags=re.S)
    assert len(tables_found) > 40
    for table in tables_found:
        assert re.search(r"<t[hr][^>]* scope=|<th scope=", table), table[:200]
        for row in re.findall(r"<tr[^>]*>.*?</tr>", table, flags=re.S):
            cells = re.findall(r"<(t[hd])\b", row)
            assert cells
        if 'class="n"' in table and "<caption" not in table:
            # A bare list of values beside its heading.
            assert 'class="wide"' in table
    boxes = re.findall(r'<div class="scroll"[^>]*>\s*<table', html)
    assert len(boxes) == len(tables_found)  # each can scroll by itself on a small screen


def test_every_figure_says_what_it_shows(html):
    labels = re.findall(r'<svg [^>]*role="img" aria-label="([^"]*)"', html)
    assert len(labels) > 40
    assert all(label.strip() for label in labels)
    charts = [label for label in labels if "Means:" in label]
    assert len(charts) > 40
    assert all(re.search(r"\d\.\d\d|no value", label) for label in charts)


DIVIDED = ("share_category", "share_kind", "category_difference")


def test_comparison_is_shown_with_its_intervals(content):
    """Diversity, overlap and categories; each with the interval that the table has."""
    rng = np.random.default_rng(0)
    words = ("ball", "box", "brick", "water", "red", "zebra")
    resampled = [
        {key: row[key] for key in ("model", "layer", "unit")}
        | {"concepts": rng.integers(-1, len(words), 30).tolist()}
        for row in content.neurons
    ]
    standing = [row | {"stands": row["unit"] % 2 == 0} for row in content.neurons]
    kinds = world.categories() | {"zebra": "absent"}
    natural = {"ball": "man-made", "water": "natural", "zebra": "natural", "red": "neither"}
    compared = comparison.compare_models(standing, 50, resampled, words, natural, {"zebra"}, kinds)
    compared = tables.make_table(compared, tables.COMPARISON).to_pylist()
    html = report.render_report(replace(content, comparison=compared))
    page = Page(html)
    for row in compared:
        metric, ends = row["metric"], (row["low"], row["high"])
        if metric == "rarefied_concepts":
            interval = [report.format_fixed(end, 1) for end in ends]
        elif metric in ("jaccard", "rarefied_difference"):
            interval = [report.format_fixed(end) for end in ends]
        elif metric in (*report_models.COMPARISON_MEASURES, *DIVIDED, "share_absent"):
            interval = [report.format_percent(end) for end in ends]
            interval[0] = interval[0].removesuffix("\N{NO-BREAK SPACE}%")
        elif metric == "share_standing":
            interval = None
        else:
            continue
        assert row["value"] in page.numbers["neurons"], row
        assert interval is None or f"<small>{' to '.join(interval)}</small>" in html, row
    assert "over resamples of the probe pictures" in page.text["neurons"]
    assert '<th scope="col" class="n">colour</th>' in html
    assert "uncategorised" in page.text["neurons"]  # the box and the brick
    assert "Man-made against natural" in page.text["neurons"]
    assert "Neurons by kind of their word" in page.text["neurons"]
    (row,) = only(compared, metric="category_difference", layer="fc", category="natural")
    low, high = (report.format_fixed(100 * row[end], 1) for end in ("low", "high"))
    points = f"{report.format_fixed(100 * row['value'], 1)} points, 95 % interval {low} to {high}"
    assert points in page.text["neurons"]
    sides = only(compared, metric="share_category", layer="fc", category="natural")
    shares = [report.format_percent(row["value"]) for row in sides]
    assert (
        f"{shares[0]} of object-net’s have a natural word and {shares[1]} of scene-net’s ({points})"
        in page.text["neurons"]
    )


def test_published_descriptions_are_taken_as_given(content):
    named = {"name": "elsewhere", "format": "clip-dissect", "path": "x.csv"}
    given = [
        row | {"model": "elsewhere", "absent": None, "rank": None, "similarity": None}
        for row in content.neurons
        if row["model"] == "scene-net"
    ]
    given = [row | {"concept": f"word {row['unit']:03}", "top_pictures": []} for row in given]
    given += [given[0] | {"unit": 100 + i, "concept": f"word {100 + i}"} for i in range(80)]

    def page(rows, models):
        study = STUDY | {"published": [named], "models": models, "world": None}
        alone = report.Content(
            study=study,
            neurons=rows,
            concepts=comparison.count_concepts(rows),
            comparison=comparison.compare_models(rows),
        )
        return Page(report.render_report(alone)).text

    alone = page(given, [])
    assert "elsewhere are published descriptions" in alone["neurons"]
    assert "CLIP-Dissect gives" not in alone["neurons"]
    assert "Soft weighted" not in alone["method"]
    assert "elsewhere" in alone["answer"]
    beside = page([*content.neurons, *given], STUDY["models"])
    assert "CLIP-Dissect gives" in beside["neurons"]
    assert "and 44 more" in beside["neurons"]  # of 104 words that no other has


def test_every_picture_has_an_anchor_and_alternative_texts(content, page):
    for row in content.pictures:
        assert report.slug(row["name"]) in page.ids()
    for tag, attributes in page.elements:
        if tag == "img":
            assert attributes["alt"].strip()


def test_names_are_escaped(content):
    def rename(rows):
        old = content.pictures[0]["name"]
        keys = ("name", "picture")
        return [{k: NASTY if k in keys and v == old else v for k, v in row.items()} for row in rows]

    nasty = replace(
        content,
        study=STUDY | {"title": NASTY},
        pictures=rename(content.pictures),
        neurons=[row | {"concept": NASTY} for row in content.neurons if row["concept"]],
        concepts=[row | {"concept": NASTY} for row in content.concepts[:1]],
        predictions=[
            row | {"predicted_class": NASTY, "target_class": NASTY, "correct": False}
            for row in rename(content.predictions)
        ],
        thumbnails=rename(content.thumbnails),
        heatmaps=rename(content.heatmaps),
        lime=rename(content.lime),
        agreement=rename(content.agreement),
        localization=rename(content.localization),
        faithfulness=rename(content.faithfulness),
        hashes={NASTY: NASTY},
    )
    html = report.render_report(nasty)
    page = Page(html)
    assert "<img src=x" not in html
    assert not any("onerror" in attributes for _, attributes in page.elements)
    for section in ("", "neurons", "gallery", "method"):
        assert NASTY in page.text[section]
    assert f"picture-{report.slug(NASTY)}" in page.ids()


def test_cards_say_what_they_are_filtered_by(content, page):
    """Names are JSON in an attribute: whatever they hold, they come out as they went in."""
    cards = [json.loads(a["data-card"]) for _, a in page.elements if "data-card" in a]
    assert len(cards) == len(content.predictions)
    clutter = {row["name"]: row["clutter"] for row in content.pictures}
    for card in cards:
        (row,) = only(content.predictions, model=card["model"], picture=card["name"])
        keys = ("predicted_class", "target_class", "label_class")
        assert card["classes"] == sorted({row[key] for key in keys})
        assert card["correct"] == ("right" if row["correct"] else "wrong")
        assert card["clutter"] == clutter[card["name"]]
        assert card["probability"] == row["predicted_probability"]
        where = {"method_a": "grad-cam", "method_b": "lime", "metric": "spearman", "control": None}
        (agreed,) = only(content.agreement, picture=card["name"], **where)
        assert card["agreement"] == agreed["value"]
        assert card["methods"] == sorted((*METHODS, "lime"))
    renamed = [row | {"label_class": NASTY, "correct": None} for row in content.predictions]
    nasty = Page(report.render_report(replace(content, predictions=renamed)))
    cards = [json.loads(a["data-card"]) for _, a in nasty.elements if "data-card" in a]
    assert all(NASTY in card["classes"] and card["correct"] == "unknown" for card in cards)
    # What all have in common is no filter.
    names = [a.get("name") for tag, a in nasty.elements if tag == "select"]
    assert "correct" not in names
    assert "model" not in names
    assert "clutter" in names


def read_chart(text):
    """Rows of a chart's CSV, in which a bare ^ stands for the cell above."""
    rows, above = [], []
    for row in csv.reader(io.StringIO(text, newline=""), strict=True):
        above = [up if cell == "^" else cell for cell, up in zip(row, above or row, strict=True)]
        rows.append(above)
    return [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]


def test_every_chart_carries_its_numbers(content, page):
    charts = [a for tag, a in page.elements if tag == "svg" and "Means:" in a.get("aria-label", "")]
    assert len(charts) > 40
    assert all("data-csv" in attributes for attributes in charts)
    shown = defaultdict(set)
    for attributes in (a for tag, a in page.elements if tag == "svg" and "data-csv" in a):
        rows = read_chart(attributes["data-csv"])
        assert rows
        for row in rows:
            shown[row.get("kind", "curve")].add(float(row.get("value") or row["y"]))
    for row in content.agreement_summary:
        for key in ("mean", "low", "high", "ceiling"):
            assert row[key] is None or row[key] in shown[key]
    singles = only(content.agreement, control=None, metric="spearman")
    assert {row["value"] for row in singles} - {None} <= shown["picture"]
    assert shown["curve"]


def test_acts_that_are_off_leave_nothing_behind(content):
    off = {"dissect": False, "cam": True, "lime": False, "agree": False, "report": True}
    bare = report.Content(
        study=STUDY | {"acts": off, "world": None},
        pictures=[row | {"clutter": None, "base": None} for row in content.pictures],
        predictions=content.predictions,
        thumbnails=[row for row in content.thumbnails if row["shows"] != "mask"],
        heatmaps=content.heatmaps,
    )
    html = report.render_report(bare)  # without LIME nothing needs to be outlined
    page = Page(html)
    assert not {"world", "neurons", "agreement", "truth"} & set(page.ids())
    assert "LIME" not in page.text["gallery"]
    assert "Known mask" not in html
    said = page.text["answer"]
    assert "Switched off" in said
    assert "the dissection of neurons, LIME, the comparison of explanations" in said


def test_what_users_registered_is_described(content):
    entry = {"kind": "agreement", "name": "mine", "path": "my_file.py", "about": "How it reads."}
    html = part(content, registered=[entry, entry | {"name": NASTY, "about": NASTY}])
    said = Page(html).text["method"]
    assert "mine measure of agreement of my_file.py" in " ".join(said.split())
    assert "How it reads." in said
    assert NASTY in said
    assert "<img src=x" not in html


def test_page_of_nothing_is_a_page():
    page = Page(report.render_report(report.Content(study=STUDY)))
    assert page.open == []
    assert {"answer", "skipped", "method"} <= set(page.ids())


def without_clutter(rows):
    """The rows of the lowest level as if they were of photographs."""
    return [row | {"clutter": None} for row in rows if row["clutter"] == 0]


def test_photographs_without_clutter(content):
    pictures = [row | {"clutter": None, "base": None} for row in content.pictures]
    photographs = replace(
        content,
        study=STUDY | {"world": None},
        pictures=pictures,
        accuracy=(),
        agreement_summary=without_clutter(content.agreement_summary),
        localization=(),
        localization_summary=(),
        effects=(),
        faithfulness_summary=without_clutter(content.faithfulness_summary),
    )
    page = Page(report.render_report(photographs))
    assert {"agreement", "gallery"} <= set(page.ids())
    assert not {"world", "truth"} & set(page.ids())
    assert "clutter" not in page.text["answer"]


def test_what_is_degenerate_or_missing_is_named(content, page):
    said = page.text["skipped"]
    broken = [row for row in content.heatmaps if row["status"] != "ok"]
    assert len(broken) == 1
    assert broken[0]["picture"] in said
    reason = next(row["reason"] for row in content.agreement if row["reason"])
    assert reason in said
    assert "constant" in said  # the neuron without a word
    assert "map is zero" in page.text["gallery"]


def test_picture_that_did_not_decode_is_named(content):
    lost = content.pictures[0] | {"name": "lost.jpg", "error": "cut short", "width": None}
    pictures = [*content.pictures, lost]
    page = Page(report.render_report(report.Content(study=STUDY, pictures=pictures)))
    assert "lost.jpg" in page.text["skipped"]
    assert "cut short" in page.text["skipped"]


def test_two_explained_models_have_anchors_of_their_own():
    both = make_content(bases=1, levels=(0,), explained=("object-net", "scene-net"))
    page = Page(report.render_report(both))
    name = report.slug(both.pictures[0]["name"])
    assert {name, f"{name}-scene-net"} <= set(page.ids())
    assert "everything but the object" in page.text["truth"]


def test_nets_of_one_family_are_taken_together():
    both = make_content(bases=1, levels=(0, 4), explained=("object-net", "scene-net"))
    row = both.comparison[0]
    named = [
        row | {"metric": "label_is_class_name", "layer": "fc", "model_a": name, "value": value}
        for name, value in (("object-net", 0.4), ("scene-net", 0.7))
    ]
    both = replace(both, comparison=[*both.comparison, *named])
    one = [model | {"family": "pair"} for model in STUDY["models"]]
    together = replace(both, study=STUDY | {"models": one})
    answer, parts = report_answer.tell_answer(together), report_answer.tell_answer(both)
    assert answer["models"] == ["pair (2 nets)"]
    assert answer["several"]
    assert not parts["several"]
    assert len(answer["learned"]) == len(parts["learned"]) > 4
    for row, own in zip(answer["learned"], parts["learned"], strict=True):
        assert len(own["cells"]) == 2
        assert row["cells"] == [pytest.approx(np.mean(own["cells"]))]
    assert {row["label"] for row in parts["learned"] if len({*row["cells"]}) == 2} == {
        "Held-out accuracy",
        "Distinct words",
        "Labelled with absent words",
        "Neurons named after their class",
    }
    halves = [row["mean"] for row in parts["relative"]]
    assert [row["mean"] for row in answer["relative"]] == [
        pytest.approx(np.mean([halves[level], halves[level + 2]])) for level in (0, 1)
    ]
    assert halves[0] != halves[2]
    (said,) = [text for text in answer["sentences"] if "last layer" in text]
    assert re.search(r"there are on average \d+\.\d words for \d+ neurons of pair", said)
    none = [row | {"relative": None} for row in both.agreement_summary]
    page = Page(part(together, "predictions", study=together.study, agreement_summary=none))
    assert "no value between floor and ceiling in any of 2 nets" in page.text["answer"]
    page = part(together, "neurons", "predictions", study=together.study)
    assert "What does each neuron of pair (2 nets) stand for" in page
    assert "are means." in page


def test_explanation_without_view_is_refused(content):
    fewer = [row for row in content.thumbnails if row["shows"] != "picture"]
    with pytest.raises(ConsilienceError, match="has no view"):
        report.render_report(replace(content, thumbnails=fewer))
    fewer = [row for row in content.thumbnails if row["shows"] != "lime"]
    with pytest.raises(ConsilienceError, match="nothing is drawn of lime"):
        report.render_report(replace(content, thumbnails=fewer))


def test_same_content_same_bytes(content, html, tmp_path):
    report.write_report(content, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == html


@pytest.mark.parametrize(
    ("value", "text"), [(0.125, "0.12"), (-0.5, "−0.50"), (-0.001, "0.00"), (None, "–")]
)
def test_format_fixed(value, text):
    assert report.format_fixed(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "100.0"),
        (0.99999, "> 99.9"),
        (0.984, "98.4"),
        (1e-6, "< 0.1"),
        (0, "0.0"),
        (-0.12, "−12.0"),
    ],
)
def test_format_percent(value, text):
    assert report.format_percent(value) == f"{text}\N{NO-BREAK SPACE}%"


def test_slugs_are_identifiers_and_never_shared():
    names = ["a b", "a-b", "a/b", "ä", "", NASTY]
    slugs = [report.slug(name) for name in names]
    assert len(set(slugs)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]*", text) for text in slugs)


def test_picture_is_small(html):
    # Six pictures of six thumbnails, twelve probes, samples and charts.
    assert len(html) < 1_500_000


# --- the fourth act ----------------------------------------------------------------------------


def part(content, *names, **changes):
    """A page of a few tables only, which is quick to draw."""
    bare = report.Content(study=STUDY, pictures=content.pictures)
    kept = {name: getattr(content, name) for name in names}
    return report.render_report(replace(bare, **kept | changes))


def only(rows, **where):
    return [row for row in rows if where.items() <= row.items()]


def test_lime_against_cams_stands_apart_from_cams_among_themselves(content, html):
    section = html[
        html.index('<section id="agreement">') : html.index('<section id="faithfulness">')
    ]
    apart = section.index("not three witnesses")
    for pair in combinations(("LIME", "Grad-CAM", "Score-CAM", "Ablation-CAM"), 2):
        found = [m.start() for m in re.finditer(re.escape(" – ".join(pair)), section)]
        assert found
        assert all((place < apart) == (pair[0] == "LIME") for place in found)


def test_agreement_is_said_between_floor_and_ceiling(content, page):
    pair = {"method_a": "grad-cam", "method_b": "lime", "metric": "spearman"}
    for level in (0, 4):
        (row,) = only(content.agreement_summary, **pair, clutter=level)
        floor = row["floor"].replace("-", "_")
        assert row[floor] == max(row[name] for name in FLOORS)
        said = (
            f"{report.format_percent(row['relative'], 0)} of the way from the highest floor "
            f"({floor.replace('_', ' ')}, {report.format_fixed(row[floor])}) to the ceiling "
            f"({report.format_fixed(row['ceiling'])})"
        )
        assert said in page.text["agreement"]
        assert row["relative"] in page.numbers["answer"]


def test_agreement_without_room_has_its_reason(content):
    rows = [
        row
        | {"reason": "the ceiling is not above the floor"}
        | dict.fromkeys(("relative", "relative_low", "relative_high"))
        for row in content.agreement_summary
    ]
    page = Page(part(content, agreement_summary=rows))
    assert "no value between floor and ceiling (the ceiling is" in page.text["agreement"]
    assert "no value between floor and ceiling (the ceiling is" in page.text["answer"]


def test_agreement_of_nothing_measured(content):
    empty = ("mean", "median", "low", "high", "chance", "ceiling", "floor", *FLOORS)
    empty += ("relative", "relative_low", "relative_high")
    rows = [
        row | dict.fromkeys(empty) | {"n": 0, "missing": 2, "reason": "no value"}
        for row in content.agreement_summary
    ]
    page = Page(part(content, agreement_summary=rows))
    assert page.open == []
    assert "no value on the simplest pictures" in page.text["agreement"]


def test_the_top_regions_floor_is_not_zero(page):
    assert (
        "Its floor is not 0: two random regions of this size already overlap by 0.11"
        in (page.text["agreement"])
    )


def test_other_measures_are_folded(html):
    section = html[
        html.index('<section id="agreement">') : html.index('<section id="faithfulness">')
    ]
    headings = [place.start() for place in re.finditer("Earth mover’s distance</h4>", section)]
    assert len(headings) == 2
    for place in headings:
        opened = section.rindex('<details class="more">', 0, place)
        between = section[opened:place]
        assert between.count("<details") > between.count("</details>")
    place = section.index("Spearman’s ρ</h4>")
    assert section[:place].count("<details") == section[:place].count("</details>")


def test_floors_and_controls_are_no_pictures_of_their_own(content, html):
    """Each pair's chart has a point for each picture with a value, and none for a control."""
    section = html[
        html.index('<section id="agreement">') : html.index('<section id="faithfulness">')
    ]
    chart = re.search(r'<svg [^>]*aria-label="LIME – Grad-CAM\. Spearman.*?</svg>', section, re.S)[
        0
    ]
    pair = {"method_a": "grad-cam", "method_b": "lime", "metric": "spearman", "control": None}
    rows = only(content.agreement, **pair)
    assert rows
    said = re.findall(r"<title>(.*?)</title>", chart)
    assert sorted(said) == sorted(f"{row['picture']}: {row['value']:.2f}" for row in rows)


def test_the_figure_has_the_highest_floor_and_the_ceiling(content):
    pair = {"method_a": "grad-cam", "method_b": "lime", "metric": "spearman"}
    rows = only(content.agreement_summary, **pair)
    html = part(content, agreement_summary=rows)
    (label,) = re.findall(r'aria-label="(LIME – Grad-CAM[^"]*)"', html)
    for row in rows:
        floor = row["floor"].replace("-", "_")
        assert (
            f"{row['clutter']}: {report_base.format_mean(row)}, floor "
            f"{report.format_fixed(row[floor])} ({floor.replace('_', ' ')}), ceiling "
            f"{report.format_fixed(row['ceiling'])}"
        ) in label


def ways(**means):
    """Rows of FAITHFULNESS_SUMMARY: by method, the mean of each of DECIDING's ways."""
    return [
        {"method": method.replace("_", "-"), "metric": metric, "fill": fill, "n": 4, "mean": mean}
        for method, values in means.items()
        for (metric, fill), mean in zip(report_evidence.DECIDING, values, strict=True)
        if mean is not None
    ]


def test_a_winner_is_named_only_where_the_fills_agree():
    say = report_evidence.say_winner
    said = say(ways(lime=(0.2,) * 5, grad_cam=(0.1,) * 5))
    assert said.startswith("LIME has the greatest mean difference from a random order by deletion ")
    assert "ROAD (linear imputation)" in said
    for place in range(5):
        other = [0.1] * 5
        other[place] = 0.3
        said = say(ways(lime=(0.2,) * 5, grad_cam=other))
        assert said.startswith("The fills disagree")
        assert "Grad-CAM by" in said
    tied = say(ways(lime=(0.2,) * 5, grad_cam=(0.1, 0.1, 0.1, 0.1, 0.2)))
    assert tied.startswith("The fills disagree")
    assert "no better than a random order" in say(ways(lime=(-0.1,) * 5, grad_cam=(-0.2,) * 5))
    short = say(ways(lime=(0.2, 0.2, 0.2, 0.2, None), grad_cam=(0.1,) * 5))
    assert "ROAD (linear imputation) could not be compared" in short
    assert "no two methods" in say(ways(lime=(0.2,) * 5))
    assert "no two methods" in say([])


def test_the_winner_is_of_all_pictures_not_of_all_levels():
    """Level 0 has one picture, level 1 has nine: the mean over pictures decides."""
    rows = [
        row | {"n": n, "mean": mean}
        for row in ways(lime=(0.0,) * 5, grad_cam=(0.0,) * 5)
        for n, mean in ((1, 1.0), (9, 0.1))
        if row["method"] == "lime"
    ] + [
        row | {"n": n, "mean": mean}
        for row in ways(grad_cam=(0.0,) * 5)
        for n, mean in ((1, 0.0), (9, 0.3))
    ]
    pooled = report_evidence.pool_differences(rows)
    assert pooled["road", "linear", "lime"] == pytest.approx(0.19)
    assert pooled["road", "linear", "grad-cam"] == pytest.approx(0.27)
    assert report_evidence.say_winner(rows).startswith("Grad-CAM")


def test_faithfulness_says_what_its_rows_say(content, page):
    said = report_evidence.say_winner(content.faithfulness_summary)
    assert said in page.text["faithfulness"]
    pooled = report_evidence.pool_differences(content.faithfulness_summary)
    assert len(pooled) == len(FILLED) * 4
    assert set(pooled.values()) <= set(page.numbers["faithfulness"])
    assert "1 value (constant map)" in page.text["faithfulness"]


def test_curves_are_means_beside_the_random_orders(content):
    html = part(content, "faithfulness", "faithfulness_summary")
    labels = re.findall(r'aria-label="([^"]*mean probability of the target[^"]*)"', html)
    assert len(labels) == 4 * 4  # methods, deletion and insertion with two fills each
    for metric, fill in FILLED[:4]:
        for method in (*METHODS, "lime"):
            rows = only(content.faithfulness, method=method, metric=metric, fill=fill)
            rows = [row for row in rows if row["curve"]]
            own, random = (
                np.mean([row[key] for row in rows], axis=0)[4] for key in ("curve", "random_curve")
            )
            filled = {"mean": "mean colour", "blur": "blurred picture"}[fill]
            assert (
                f"{report.method_label(method)}. {metric.title()}, {filled}: mean probability of "
                f"the target over {len(rows)} pictures, at 50\N{NO-BREAK SPACE}% of the pixels "
                f"{own:.2f}, in a random order {random:.2f}."
            ) in labels
    # The first row has no curve and counts in none.
    lost = content.faithfulness[0]
    (label,) = [
        text
        for text in labels
        if text.startswith(f"{report.method_label(lost['method'])}. Deletion, mean colour")
    ]
    assert "over 5 pictures" in label


def test_sanity_names_who_fails(content, page):
    said = page.text["sanity"]
    assert "Score-CAM fails the test of randomised weights" in said
    assert "LIME could not be judged by randomised weights" in said
    assert "Eigen-CAM fails the test of another class" in said
    assert "it never asks for the class, and is the control" in said
    assert "the limit 0.1 lies within" in said
    assert "Eigen-CAM fails the test of another class" in page.text["answer"]
    for stage in STAGES:
        assert stage in said


def judged(test, **passed):
    return [
        {"method": name.replace("_", "-"), "test": test, "passed": value}
        for name, value in passed.items()
    ]


def test_what_sanity_says():
    say = report_evidence.say_sanity
    assert say([]) == ""
    assert say(judged("cascade", lime=True, grad_cam=True)) == (
        "No method fails the test of randomised weights."
    )
    both = say(judged("cascade", lime=False, grad_cam=False))
    assert both.startswith("Grad-CAM and LIME fail the test of randomised weights")
    some = say(judged("class", lime=None, grad_cam=True))
    assert some == (
        "No method that could be judged fails the test of another class; "
        "LIME could not be judged by another class."
    )
    assert say(judged("class", lime=None)) == "LIME could not be judged by another class."
    assert "cannot be relied on" in say(judged("class", eigen_cam=True))
    assert "cannot be relied on" not in say(judged("class", eigen_cam=False))
    # Of the cascade only the last stage has a verdict.
    rows = judged("cascade", lime=None) + judged("cascade", lime=False)
    assert say(rows).startswith("LIME fails")
    assert say(rows[::-1]).startswith("LIME fails")


def test_truth_shows_its_kinds_and_where_the_object_matters(content, html, page):
    said = page.text["truth"]
    assert "Against the object" in said
    assert "Against the distractor that a wrong prediction names" in said
    assert "Against the scene" not in said
    assert "Average precision" in said
    assert html.count("it matters</span></th>") >= 4 * 4
    causal = only(content.localization_summary, causal=True, truth="object", metric="iou")
    assert any(row["n"] for row in causal)
    everyone = part(
        content,
        "localization",
        localization_summary=[r for r in content.localization_summary if not r["causal"]],
    )
    assert "it matters</span></th>" not in everyone


def test_the_gallery_scores_against_the_mask_that_it_shows(content):
    tables_of = ("predictions", "thumbnails", "heatmaps", "lime", "localization")
    shown = Page(part(content, *tables_of)).numbers["gallery"]
    for row in only(content.localization, metric="iou"):
        assert (row["value"] in shown) == (row["truth"] == "object")


def test_truth_says_where_the_maps_lie(content, page):
    shown = page.numbers["truth"]
    for method in (*METHODS, "lime"):
        for metric in OFFSETS:
            where = {"method": method, "metric": metric, "truth": "object", "causal": False}
            own = only(content.localization_summary, **where)
            mean = np.average([row["mean"] for row in own], weights=[row["n"] for row in own])
            assert any(np.isclose(mean, value) for value in shown), (method, metric)


def test_truth_says_who_finds_the_object(content, page):
    for level in (0, 4):
        rows = only(
            content.localization_summary, metric="iou", truth="object", causal=False, clutter=level
        )
        best = max(rows, key=lambda row: row["mean"])
        said = f"{report.method_label(best['method'])} with {report_base.format_mean(best)} on the"
        assert said in page.text["truth"]


def test_of_one_picture_no_sentence_is_made(content):
    alone = [
        row | {"n": 1, "low": None, "high": None} if row["clutter"] == 4 and row["n"] else row
        for row in content.localization_summary
    ]
    few = Page(report.render_report(replace(content, localization_summary=alone)))
    assert (
        "is only 1 picture on the most cluttered pictures (level 4) to score" in few.text["truth"]
    )
    best = max(
        only(alone, metric="iou", truth="object", causal=False, clutter=4),
        key=lambda row: row["mean"],
    )
    assert f"with {report_base.format_mean(best)} on the most" not in few.text["truth"]
    assert report.format_fixed(best["mean"]) in few.text["truth"]


def test_a_truth_that_no_explanation_meets_has_its_reasons(content):
    lost = {"value": None, "reason": "what it names is not in the picture"}
    rows = [row | lost for row in only(content.localization, truth="distractor")]
    empty = dict.fromkeys(("mean", "median", "low", "high", "chance")) | {"n": 0, "missing": 1}
    summary = [row | empty for row in only(content.localization_summary, truth="distractor")]
    html = part(content, localization=rows, localization_summary=summary)
    section = html[html.index('<section id="truth">') : html.index('<section id="skipped">')]
    assert "No explanation could be scored" in section
    assert f"{len(rows)} values (what it names is not in the picture)" in section
    assert "<svg" not in section
    assert "<table" not in section


def test_pictures_drawn_for_being_wrong_are_dots_only_where_they_count(content):
    """The summary knows which count; a drawn picture's dot beside it would not be of the mean."""
    name = content.pictures[0]["name"]
    drawn = [row | {"weight": 2.0 if row["name"] == name else None} for row in content.pictures]
    where = {"truth": "object", "metric": "iou"}
    rows = only(content.localization, **where)
    summary = only(content.localization_summary, **where, causal=False)
    with_it = part(content, pictures=drawn, localization=rows, localization_summary=summary)
    assert with_it.count(f"<title>{name}: ") == 4
    fewer = [row | {"n": row["n"] - (row["clutter"] == 0)} for row in summary]
    without = part(content, pictures=drawn, localization=rows, localization_summary=fewer)
    assert without.count(f"<title>{name}: ") == 0
    assert without.count("<title>") == with_it.count("<title>") - 4
    # Of an effect it counts only where a wrong prediction is what the change is about.
    effects = only(content.effects, picture=name)
    assert "logit" not in part(content, pictures=drawn, effects=effects)
    named = [row | {"change": "without-distractor"} for row in effects]
    assert "Distractor taken away" in part(content, pictures=drawn, effects=named)


def test_effects_are_means_of_the_rows(content, page):
    for change in ("without-object", "other-scene"):
        for level in (0, 2, 4):
            own = [
                row["changed_logit"] - row["logit"]
                for row in only(content.effects, change=change)
                if row["picture"].endswith(f"clutter-{level}")
            ]
            assert len(own) == 2
            assert any(np.isclose(np.mean(own), x, atol=1e-12) for x in page.numbers["truth"])
    total = np.mean(
        [r["changed_logit"] - r["logit"] for r in only(content.effects, change="other-scene")]
    )
    said = f"{report.format_fixed(total)} with another scene (6 pictures)"
    assert said in page.text["truth"]


def test_effects_without_masks_stand_alone(content):
    page = Page(part(content, "effects"))
    assert "logit" in page.text["truth"]
    assert "Against the object" not in page.text["truth"]


def test_questions_say_what_was_tested(content, page):
    said = page.text["questions"]
    assert (
        "Of 3 primary questions (one a question and model), 1 has an effect that stands after "
        "Holm’s correction (p below 0.05): agreement and clutter, object-net "
        "(−0.32 (−0.44 to −0.20), p = 0.032)"
    ) in said
    assert "an effect would likely be missed below 0.22 (lime and clutter, object-net)" in said
    assert "1 could not be tested" in said
    assert "no faithfulness" in said
    assert "agreement and clutter: pearson" in said
    assert "Only the primary questions are tested" in page.text["method"]


def test_no_finding_is_said_as_none(content):
    rows = [row | {"p_holm": 1.0} for row in content.questions if row["p_holm"] is not None]
    html = part(content, questions=rows)
    assert "Of 2 primary questions (one a question and model), none has an effect" in html
    lost = [row | {"p_holm": None, "reason": "no base"} for row in rows]
    assert "none has an effect that stands after Holm’s correction (p below 0.05). 2 could not" in (
        part(content, questions=lost)
    )


def test_exploratory_questions_have_no_p_value(content):
    html = part(content, "questions")
    folded = html[html.index("Exploratory questions: estimates") :]
    folded = folded[: folded.index("</details>")]
    assert "(Holm)" not in folded
    assert "−0.23" in folded
    bare = part(content, questions=only(content.questions, role="exploratory"))
    assert "No question was fixed beforehand" in bare


def test_a_small_p_value_is_not_zero():
    assert report_base.format_p(1e-5) == "< 0.001"
    assert report_base.format_p(0.001) == "0.001"
    assert report_base.format_p(1.0) == "1.000"
    assert report_base.format_p(None) == "–"


def test_correctness_is_said_of_all_pictures(content, page):
    said = page.text["correctness"]
    assert (
        "AUROC over 30 right and 10 wrong (0.5 is chance): the model’s top probability "
        "0.81 (0.66 to 0.96), agreement of the explanations 0.67 (0.52 to 0.82) and both together "
        "0.84 (0.69 to 0.99); agreement adds 0.03 (−0.12 to 0.18)"
    ) in said
    assert "the clutter of a picture is not known" in said
    lost = [row | {"auroc": None, "reason": "3 wrong"} for row in content.correctness]
    assert "There is no AUROC: 3 wrong." in part(content, correctness=lost)


def test_claims_have_verdicts_in_words_and_above(content, html, page):
    for section in ("answer", "claims"):
        for row in content.claims:
            assert row["says"] in page.text[section]
            assert row["verdict"] in page.text[section]
    for row in content.claims:
        for key in ("estimand", "rule", "reason"):
            assert row[key] is None or row[key] in page.text["claims"]
    assert (
        "Of 5 claims of the original study, 2 supported, 1 contradicted, 1 inconclusive and "
        "1 not testable here."
    ) in page.text["claims"]
    # A badge's sign belongs to its verdict.
    for sign, verdict in re.findall(r'<span class="verdict (\w+)">([^<]*)</span>', html):
        known = dict(zip(report_verdicts.VERDICTS, ("yes", "no", "open", "off"), strict=True))
        known |= {"passes": "yes", "fails": "no", "not told": "open"}
        assert known[verdict] == sign


NEW = {
    "agreement": ("agreement_summary",),
    "faithfulness": ("faithfulness_summary",),
    "sanity": ("sanity_summary",),
    "truth": ("localization_summary",),
    "questions": ("questions",),
    "correctness": ("correctness",),
    "claims": ("claims",),
}


@pytest.mark.parametrize("section", NEW)
def test_each_section_stands_alone_and_leaves_no_other(content, section):
    page = Page(part(content, *NEW[section]))
    assert page.open == []
    found = {a["id"] for tag, a in page.elements if tag == "section" and "id" in a}
    assert found & set(NEW) == {section}
    links = {a["href"] for tag, a in page.elements if tag == "a"}
    assert links & {f"#{name}" for name in NEW} == {f"#{section}"}


def test_undefined_values_of_every_table_are_counted(content, page):
    said = page.text["skipped"]
    for row in (content.faithfulness[0], content.sanity[0], content.questions[-1]):
        assert row["reason"] in said
    lost = content.agreement[0] | {"value": None, "control": "ceiling", "reason": "no repeats"}
    text = Page(part(content, agreement=[lost, lost])).text["skipped"]
    assert re.search(r"agreement, ceiling\s*no repeats\s*2", text)


def targets_of(content):
    """The content with a second target a picture, whose values give it away."""
    second = {"target_index": 99, "target_class": "second class"}

    def double(rows, **changes):
        return [one for row in rows for one in (row, row | second | changes)]

    return replace(
        content,
        predictions=[row | {"target": "top-2"} for row in double(content.predictions)],
        heatmaps=double(content.heatmaps),
        lime=double(content.lime),
        thumbnails=[
            *content.thumbnails,
            *(
                row | {"target_index": 99}
                for row in content.thumbnails
                if row["target_index"] is not None
            ),
        ],
        agreement=double(content.agreement, value=-0.987),
        localization=double(content.localization, value=1.987),
        effects=double(content.effects, changed_logit=98765.0),
        faithfulness=double(content.faithfulness, curve=[0.987] * 9, value=0.987),
        sanity=double(content.sanity, value=None, reason="lost"),
    )


def test_every_target_of_a_picture_has_a_row_and_summaries_take_the_first(content, html):
    page_of_two = report.render_report(targets_of(content))
    page = Page(page_of_two)
    assert page.open == []
    count = len(content.predictions)
    assert page_of_two.count('<p class="target">for <b>second class</b>') == count
    assert page_of_two.count('<p class="target">') == 2 * count
    assert page_of_two.count('alt="The picture as object-net sees it') == count
    assert page_of_two.count("heatmap for second class") == 3 * count - 1  # one map is zero
    # The second target's own values stand beside it, and nowhere in what sums up.
    assert page.numbers["gallery"].count(-0.987) == 3 * count
    assert page.numbers["gallery"].count(1.987) == 4 * count
    assert "the 2 likeliest classes" in page.text["gallery"]
    assert "has a row for each" in page.text["gallery"]
    for section in ("agreement", "faithfulness", "sanity", "truth"):
        assert "Only the first class of each picture counts here" in page.text[section]
    single = re.split("<section id=", html)
    for one, two in zip(single, re.split("<section id=", page_of_two), strict=True):
        if one.startswith(tuple(f'"{name}"' for name in ("answer", *NEW))):
            said = " Only the first class of each picture counts here."
            assert two.replace(said, "") == one
    assert f"{2 * len(content.heatmaps)} heatmap" not in page.text["skipped"]
    assert page.text["skipped"].count("second class") == 1  # the map that is zero


def test_one_target_is_said_once(html):
    assert '<p class="target">' not in html
    assert "Only the first class" not in html


def test_text_of_the_new_tables_is_escaped(content):
    html = part(
        content,
        "agreement_summary",
        sanity_summary=[row | {"stage": NASTY, "reason": NASTY} for row in content.sanity_summary],
        sanity=[row | {"reason": NASTY, "value": None} for row in content.sanity],
        faithfulness_summary=[
            row | {"method": NASTY, "fill": NASTY} for row in content.faithfulness_summary[:3]
        ],
        faithfulness=[row | {"method": NASTY, "fill": NASTY} for row in content.faithfulness],
        localization_summary=[
            row | {"method": NASTY, "truth": NASTY} for row in content.localization_summary[:3]
        ],
        effects=[row | {"change": NASTY} for row in content.effects],
        questions=[
            row | {"question": NASTY, "estimand": NASTY, "test": NASTY, "interval": NASTY}
            for row in content.questions
        ],
        correctness=[
            row | {"correct": NASTY, "predictor": NASTY, "stratum": NASTY, "reason": NASTY}
            for row in content.correctness
        ],
        claims=[
            row | dict.fromkeys(("says", "estimand", "rule", "verdict", "reason"), NASTY)
            for row in content.claims
        ],
    )
    page = Page(html)
    assert page.open == []
    assert "<img src=x" not in html
    assert not any("onerror" in attributes for _, attributes in page.elements)
    for section in ("sanity", "faithfulness", "truth", "questions", "correctness", "claims"):
        assert NASTY in page.text[section]


def test_pictures_drawn_for_being_hard_are_no_sample_of_the_world(content):
    drawn = [row | {"weight": 3.0} for row in content.pictures]
    assert "Sample pictures" in part(content, "accuracy")
    assert "Sample pictures" not in part(content, "accuracy", pictures=drawn)


def test_method_says_what_was_done_and_what_it_took(content):
    times = [
        {"step": "explain lime", "jobs": 2, "seconds": 4000.5, "cpu_seconds": None}
        | {"memory_mb": 812.3},
        {"step": "predict", "jobs": 2, "seconds": 3.25, "cpu_seconds": 2.5, "memory_mb": 500.0},
    ]
    html = part(
        content,
        *("heatmaps", "lime", "predictions", "faithfulness_summary", "sanity_summary"),
        times=times,
        hashes={"table a.parquet": "1" * 64, "weights of m": "2" * 64},
    )
    page = Page(html)
    said = page.text["method"]
    assert {4000.5, 3.25, 2.5, 812.3, 500.0} <= set(page.numbers["method"])
    assert "1\N{NO-BREAK SPACE}h 7\N{NO-BREAK SPACE}min of wall time" in said
    assert "trained here to name the object" in said
    assert "100 perturbed pictures each" in said
    for name in ("Selvaraju", "Ribeiro", "Petsiuk", "Rong", "Adebayo", "Mölder"):
        assert name in said
    assert "Oikarinen" not in said  # no neuron was dissected
    assert "Oikarinen" in Page(part(content, "neurons")).text["method"]
    mark = report_method.take_fingerprint({"table a.parquet": "1" * 64})
    assert f"tables {mark}" in said
    assert report_method.take_fingerprint({"table a.parquet": "3" * 64}) != mark
    assert report_method.take_fingerprint({"weights of m": "2" * 64}) is None
    assert "pip install typst" in said
    printed = Page(part(content, printed=True)).text["method"]
    assert "report.pdf beside this page" in printed
    assert "pip install" not in printed


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (59.4, "59 s"), (90, "2 min"), (3570, "1 h 0 min"), (7260, "2 h 1 min")],
)
def test_durations(seconds, said):
    assert report_base.format_duration(seconds) == said.replace(
        " ", "\N{NO-BREAK SPACE}", 1
    ).replace(" min", "\N{NO-BREAK SPACE}min")


def test_what_was_skipped_names_its_pictures(content):
    names = [row["picture"] for row in content.predictions]
    lost = [
        row | {"value": None, "reason": "lost here" if row["picture"] == names[0] else "all of it"}
        for row in content.agreement
        if (row["metric"], row["control"]) == ("spearman", None)
    ]
    (row,) = re.findall(
        r"<tr><th scope=\"row\">Spearman’s ρ</th><td>agreement</td><td>lost here</td>.*?</tr>",
        part(content, agreement=lost, predictions=content.predictions),
    )
    assert f"<td>{names[0]}</td>" in row
    assert report._shorten([str(i) for i in range(20)], 20) == "all 20"
    assert report._shorten([str(i) for i in range(20)], 30).endswith("11 and 8 more")
    off = content.study | {"acts": content.study["acts"] | {"sanity": False}}
    said = Page(part(content, study=off)).text["skipped"]
    assert "Switched off in this study: the sanity checks." in said

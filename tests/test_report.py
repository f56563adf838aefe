import base64
import hashlib
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
    report_models,
    report_verdicts,
    tables,
    world,
)
from consilience.errors import ConsilienceError
from consilience.images import decode_png

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
    "agreement": {"top_fraction": 0.2},
    "dissection": {"significance": 0.05},
}


def draw_nothing(view, segment_map, weights, num_features):
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
    lost = next(row for row in rows if row["method"] == "lime" and row["metric"] == "mass-inside")
    lost |= {"value": None, "reason": "no positive value"}
    summary = []
    for causal in (False, True):
        own = [row for row in rows if row["matters"] or not causal]
        for row in summarise(own, pictures, "model", "method", "truth", "metric"):
            summary.append(row | {"causal": causal, "chance": 0.1})
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
        views=checked(views, tables.VIEWS),
        heatmaps=checked(heatmaps, tables.HEATMAPS),
        lime=checked(lime, tables.LIME),
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

    VOID = frozenset(("meta", "link", "img", "br"))

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
    return report.render_report(content, draw_nothing)


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


def test_page_makes_no_request_and_runs_nothing(html, page):
    for tag, attributes in page.elements:
        assert tag not in ("script", "iframe", "object", "embed", "base", "form")
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
    for section, rows in (
        ("agreement", content.agreement_summary),
        ("truth", content.localization_summary),
    ):
        shown = set(page.numbers[section])
        for row in rows:
            for key in ("mean", "median", "chance"):
                assert row[key] is None or row[key] in shown


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
    compared = comparison.compare_models(standing, 50, resampled, words, kinds, {"zebra"})
    compared = tables.make_table(compared, tables.COMPARISON).to_pylist()
    html = report.render_report(replace(content, comparison=compared), draw_nothing)
    page = Page(html)
    for row in compared:
        metric, ends = row["metric"], (row["low"], row["high"])
        if metric == "rarefied_concepts":
            interval = [report.format_fixed(end, 1) for end in ends]
        elif metric in ("jaccard", "rarefied_difference"):
            interval = [report.format_fixed(end) for end in ends]
        elif metric in (*report_models.COMPARISON_MEASURES, "share_category", "share_absent"):
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
    assert "uncategorised" not in page.text["neurons"]


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
        views=rename(content.views),
        heatmaps=rename(content.heatmaps),
        lime=rename(content.lime),
        agreement=rename(content.agreement),
        localization=rename(content.localization),
        hashes={NASTY: NASTY},
    )
    html = report.render_report(nasty, draw_nothing)
    page = Page(html)
    assert "<img src=x" not in html
    assert not any("onerror" in attributes for _, attributes in page.elements)
    for section in ("", "neurons", "gallery", "method"):
        assert NASTY in page.text[section]
    assert f"picture-{report.slug(NASTY)}" in page.ids()


def test_acts_that_are_off_leave_nothing_behind(content):
    off = {"dissect": False, "cam": True, "lime": False, "agree": False, "report": True}
    bare = report.Content(
        study=STUDY | {"acts": off, "world": None},
        pictures=[row | {"clutter": None, "base": None} for row in content.pictures],
        predictions=content.predictions,
        views=[row | {"mask_visible": None, "mask_whole": None} for row in content.views],
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
    page = Page(report.render_report(photographs, draw_nothing))
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
    page = Page(report.render_report(both, draw_nothing))
    name = report.slug(both.pictures[0]["name"])
    assert {name, f"{name}-scene-net"} <= set(page.ids())
    assert "everything but the object" in page.text["truth"]


def test_explanation_without_view_is_refused(content):
    with pytest.raises(ConsilienceError, match="has no view"):
        report.render_report(replace(content, views=content.views[1:]), draw_nothing)


def test_same_content_same_bytes(content, html, tmp_path):
    report.write_report(content, tmp_path / "report.html", draw_nothing)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == html


def test_outline_gets_what_lime_found(content):
    seen = []

    def outline(view, segment_map, weights, num_features):
        seen.append((view.shape, segment_map.shape, len(weights), num_features))
        return view

    few = replace(content, agreement_summary=(), localization_summary=(), neurons=())
    report.render_report(few, outline)
    assert seen == [((96, 96, 3), (96, 96), 36, 3)] * len(content.lime)


@pytest.mark.parametrize(
    ("value", "text"), [(0.125, "0.12"), (-0.5, "−0.50"), (-0.001, "0.00"), (None, "–")]
)
def test_format_fixed(value, text):
    assert report.format_fixed(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "100.0"), (0.99999, "> 99.9"), (0.984, "98.4"), (1e-6, "< 0.1"), (0, "0.0")],
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

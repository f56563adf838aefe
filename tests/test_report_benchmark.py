"""The leaderboard, and the page's section on the benchmark."""

import csv
import dataclasses
import re

import numpy as np
import pytest

from consilience import audit, leaderboard, report, tables, trust
from consilience.planted import EXPLANATIONS
from consilience.report_answer import tell_answer
from consilience.report_base import Content
from consilience.report_benchmark import tell_benchmark


def checked(rows, schema):
    return tables.make_table(rows, schema).to_pylist()


def make_audit():
    """One metric that is right, one that a map without content games."""
    good = dict(zip(EXPLANATIONS, (0.9, 0.5, 0.3, 0.3, 0.4, 0.4, 0.3, 0.1), strict=True))
    rows = [
        {"model": "planted", "picture": f"p{base}", "base": f"p{base}", "family": "faithfulness"}
        | {"metric": metric, "fill": "black", "reading": "score", "explanation": name}
        | {"value": value + 0.001 * base}
        for metric, scores in (("road", good), ("average-drop", good | {"fake-cam": 0.9}))
        for base in range(4)
        for name, value in scores.items()
    ]
    return checked(rows, tables.AUDIT), checked(audit.judge_metrics(rows), tables.AUDIT_RULES)


def make_judged(models, precision=0.6):
    rng = np.random.default_rng(0)
    rows = []
    for model in models:
        for similarity in ("soft-wpmi", "cosine"):
            for group in ("neurons", "single", "or", "random"):
                for labels in ("all", "stands"):
                    value = precision + (0.2 if similarity == "cosine" else 0) + rng.uniform(0, 0.1)
                    rows.append(
                        {"model": model, "layer": "layer4", "group": group, "labels": labels}
                        | {"similarity": similarity, "neurons": 50, "with_truth": 30}
                        | {"counted": 40, "right": 20, "chance": 0.05, "recall": value}
                        | {"precision": value, "false_labels": 0.03}
                    )
    return checked(rows, tables.DISSECTION_TRUTH)


def make_truth(models):
    rows = [
        {"model": model, "layer": "layer4", "unit": unit, "status": "ok", "shares": [0.5]}
        | {"concepts": ["star"] if unit else []}
        for model in models
        for unit in range(4)
    ]
    rows += [
        {"model": model, "layer": "planted", "unit": 0, "status": "ok", "concepts": ["star"]}
        | {"shares": [0.6], "planted": "single", "planted_concepts": ["star"]}
        for model in models
    ]
    return checked(rows, tables.CAUSAL)


def make_contrast(models):
    rows = [
        {"object_model": model, "scene_model": "scene", "method": method, "metric": "mass-inside"}
        | {"causal": causal, "bases": 9, "pictures": 9, "share": 1.0}
        | {"on_object_net": 0.4 + move, "on_scene_net": 0.4, "move": move + 0.01 * number}
        | {"low": move - 0.1, "high": move + 0.1}
        for number, model in enumerate(models)
        for method, move in (("lime", 0.3), ("eigen-cam", 0.0))
        for causal in (False, True)
    ]
    return checked(rows, tables.CONTRAST_SUMMARY)


def make_trust(models, wrong=12):
    """Of 40 pictures a net, on 20 both explanations agree, on so many of these wrongly."""
    rows = []
    for model in models:
        for number in range(40):
            agrees = number < 20
            right = not agrees or number >= wrong
            rows.append(
                {"model": model, "picture": f"p{number}", "base": f"p{number}"}
                | {"condition": "clean" if number % 2 else "decorrelated", "cam": "grad-cam"}
                | {"prediction": number % 3 > 0, "matters": "object" if right else "scene"}
                | {"lime_points_at": "object", "cam_points_at": "object"}
                | {"agreement": 0.6 if agrees else 0.1, "ceiling": 0.8}
                | {"corrected": 0.75 if agrees else 0.125, "counterfactual": right}
            )
    return checked(rows, tables.TRUST), checked(trust.calibrate(rows, 100), tables.CALIBRATION)


def make_content(models=("net-1", "net-2", "net-3"), family="nets", **more):
    study = {
        "study": "s",
        "title": "t",
        "acts": {},
        "seed": 0,
        "agreement": {"bootstrap": 100},
        "models": [{"name": name, "family": family} for name in models],
        "cam": {"methods": ["grad-cam", "eigen-cam"]},
    }
    return Content(study=study, **more)


def test_a_metric_that_is_gamed_is_named():
    scores, rules = make_audit()
    content = make_content(audit=scores, audit_rules=rules)
    (one,) = tell_benchmark(content)["audit"]
    assert "1 rank all planted explanations rightly" in one["finding"]
    assert "Fake-CAM) is rewarded by Average drop, black (score)" in one["finding"]
    (group,) = one["groups"]
    bad, good = sorted(group["rows"], key=lambda row: row["right"])
    assert good["failed"] == ""
    assert "Causal mask scores just as Fake-CAM" in bad["failed"]
    assert "Fake-CAM is rewarded: it scores well above Shuffled and Smooth noise" in bad["failed"]
    assert good["means"][0] == pytest.approx(0.9015)


@pytest.mark.parametrize(
    ("models", "scope"),
    [(("net-1",), "of this one net"), (("net-1", "net-2", "net-3"), "over 3 training seeds")],
)
def test_what_is_claimed_says_of_how_many_nets(models, scope):
    judged, truth = make_judged(models), make_truth(models)
    trusted, curves = make_trust(models)
    content = make_content(
        models,
        dissection_truth=judged,
        causal=truth,
        contrast_summary=make_contrast(models),
        trust=trusted,
        calibration=curves,
    )
    told = tell_benchmark(content)
    for part in ("neurons", "contrast", "trust"):
        (one,) = told[part]
        said = one["findings"][0] if part == "trust" else one["finding"]
        assert scope in said
    low = told["neurons"][0]["rows"][0]["cells"][0].low
    assert (low is None) == (len(models) < 3)


def test_the_best_similarity_and_the_control_are_named():
    models = ("net-1", "net-2", "net-3")
    judged = make_judged(models, precision=0.95)
    told = tell_benchmark(make_content(models, dissection_truth=judged, causal=make_truth(models)))
    (one,) = told["neurons"]
    assert "in layer4" in one["finding"].lower()
    assert "cosine" in one["finding"]
    assert "soft-wpmi and cosine pass the whole control" in one["control_finding"]
    assert "in 1 of 1 planted neurons" in one["control_finding"]
    assert one["truth"][0]["one"] == 0.75
    judged = make_judged(models, precision=0.5)
    told = tell_benchmark(make_content(models, dissection_truth=judged, causal=make_truth(models)))
    assert "none passes the whole control" in told["neurons"][0]["control_finding"]


def test_methods_that_do_not_move_are_named():
    models = ("net-1", "net-2", "net-3")
    (one,) = tell_benchmark(make_content(models, contrast_summary=make_contrast(models)))[
        "contrast"
    ]
    assert one["finding"].startswith("LIME moves from the object to the scene")
    assert "Eigen-CAM is not shown to move" in one["finding"]
    (still,) = [row for row in one["rows"] if row["label"] == "Eigen-CAM" and not row["causal"]]
    assert still["values"][2].low < 0 < still["values"][2].value


def test_who_agree_and_are_wrong_is_said_in_words():
    trusted, curves = make_trust(("net-1",))
    (one,) = tell_benchmark(make_content(("net-1",), trust=trusted, calibration=curves))["trust"]
    (said,) = one["findings"]
    assert "LIME and Grad-CAM agree on 20 of 40 pictures" in said
    assert "both are right in 40" in said
    assert (
        "they agree and are wrong: 12 times both point at the object, and the scene decides" in said
    )
    trusted, curves = make_trust(("net-1",), wrong=1)
    (one,) = tell_benchmark(make_content(("net-1",), trust=trusted, calibration=curves))["trust"]
    assert "wrong: once both point at the object" in one["findings"][0]
    trusted, curves = make_trust(("net-1",), wrong=0)
    (one,) = tell_benchmark(make_content(("net-1",), trust=trusted, calibration=curves))["trust"]
    assert "never wrong together" in one["findings"][0]
    assert {row["condition"] for row in one["matters"]} == {"clean", "decorrelated"}
    counts = {row["condition"]: row["pictures"] for row in one["kinds"][0]["rows"]}
    assert counts == {"all": 40, "clean": 20, "decorrelated": 20}


def test_agreement_that_tells_nothing_is_told_from_agreement_that_does():
    def say(wrong, models):
        trusted, curves = make_trust(models, wrong)
        content = make_content(models, trust=trusted, calibration=curves)
        return tell_benchmark(content)["trust"][0]["findings"][0]

    # Right are 8 of the 20 that agree and all 20 others, wrong are 12 that agree. Of 28 × 12 pairs
    # 8 × 12 are ties, which count half, and in none is the right one ahead: 48 / 336.
    assert "with a probability of 0.14, where 0.5 is chance; of other nets" in say(12, ("net-1",))
    three = say(12, ("net-1", "net-2", "net-3"))
    assert "0.14, where 0.5 is chance; over training seeds, 0.14 to 0.14." in three
    assert "probability" not in say(0, ("net-1",))  # where all are right there is nothing to tell


def test_too_few_who_agree_say_nothing():
    trusted, curves = make_trust(("net-1",))
    content = make_content(("net-1",), trust=trusted[15:], calibration=curves)
    assert "too few to say" in tell_benchmark(content)["trust"][0]["findings"][0]


def make_board(models=("net-1", "net-2", "net-3")):
    _, rules = make_audit()
    trusted, _ = make_trust(models)
    families = [{"name": name, "family": "nets"} for name in models]
    faithful = [
        {"model": name, "metric": "road", "method": "lime", "difference": 0.1 * number - 0.1}
        for number, name in enumerate(models)
    ]
    rows = leaderboard.build_leaderboard(
        families, rules, make_judged(models), make_contrast(models), trusted, (), faithful
    )
    return checked(rows, tables.LEADERBOARD)


def test_the_leaderboard_ranks_entrants_over_seeds():
    rows = make_board()
    moves = [row for row in rows if row["measure"] == leaderboard.MOVE]
    assert [row["entrant"] for row in moves] == ["lime", "eigen-cam"]
    assert moves[0]["value"] == pytest.approx(0.31)
    assert moves[0]["low"] < 0.31 < moves[0]["high"]
    assert moves[0]["seeds"] == 3
    # A difference can be below nothing.
    assert moves[1]["low"] < 0 < moves[1]["value"]
    (faithful,) = [row for row in rows if row["measure"] == leaderboard.FAITHFUL]
    assert faithful["low"] == pytest.approx(-faithful["high"])
    points = {r["entrant"]: r["value"] for r in rows if r["measure"] == leaderboard.POINTS}
    assert points == {"lime": pytest.approx(28 / 40), "grad-cam": pytest.approx(28 / 40)}
    # A t interval reaches beyond what a share can be, and is cut.
    differences = leaderboard.MOVE, leaderboard.FAITHFUL
    shares = [r for r in rows if r["low"] is not None and r["measure"] not in differences]
    assert all(0 <= row["low"] <= row["value"] <= row["high"] <= 1 for row in shares)
    judged = make_judged(("net-1", "net-2", "net-3"), precision=0.9)
    families = [{"name": row["model"], "family": "nets"} for row in judged]
    assert 1.0 in {row["high"] for row in leaderboard.build_leaderboard(families, (), judged)}
    metrics = {r["entrant"]: r["value"] for r in rows if r["board"] == "metrics"}
    assert metrics["road (black), score"] == 1 > metrics["average-drop (black), score"]
    assert {row["world"] for row in rows} == {1}
    named = {row["measured_on"] for row in rows if row["board"] == "similarities"}
    assert named == {"nets, layer4"}


def test_the_leaderboard_is_a_csv_file(tmp_path):
    rows = make_board()
    leaderboard.write_csv(rows, tmp_path / "board.csv")
    with open(tmp_path / "board.csv", encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == tables.LEADERBOARD.names
    assert [row["entrant"] for row in found] == [row["entrant"] for row in rows]
    assert float(found[0]["value"]) == rows[0]["value"]
    assert found[-1]["low"] == ""


def make_whole(models=("net-1", "net-2", "net-3")):
    """All that the benchmark has."""
    scores, rules = make_audit()
    trusted, curves = make_trust(models)
    return make_content(
        models,
        audit=scores,
        audit_rules=rules,
        dissection_truth=make_judged(models),
        causal=make_truth(models),
        contrast_summary=make_contrast(models),
        trust=trusted,
        calibration=curves,
        leaderboard=make_board(models),
    )


def test_the_short_answer_has_the_findings_and_means_over_nets():
    models = {"net-1": 0.5, "net-2": 0.6, "net-3": 0.7, "other": 0.25}
    rows = [
        {"model": name, "clutter": clutter, "accuracy": value, "pictures": 10, "target": "object"}
        for name, value in models.items()
        for clutter in (None, 0, 4)
    ]
    trusted, _ = make_trust(tuple(models)[:3], wrong=0)
    other = [row | {"cam": "eigen-cam"} for row in trusted]
    whole = make_whole()
    content = dataclasses.replace(whole, accuracy=rows, trust=[*other, *whole.trust])
    content.study["models"].append({"name": "other", "family": None})
    told = tell_benchmark(content)
    answer = tell_answer(content, told)
    assert answer["models"] == ["nets (3 nets)", "other"]
    assert answer["learned"][0]["cells"] == [pytest.approx(0.6), 0.25]
    assert answer["clutter"][0]["rows"][0] == ("nets (3 nets)", [pytest.approx(0.6)] * 2)
    said = [finding for _, finding in answer["benchmark"]]
    assert said == [
        told["audit"][0]["finding"],
        told["neurons"][0]["finding"],
        told["contrast"][0]["finding"],
        told["trust"][0]["findings"][0],
    ]
    assert said[-1].startswith("LIME and Grad-CAM")  # the study's first
    page = report.render_report(content)
    assert "are means." in page
    assert re.search(r"<small>\d+\.\d\s%\sto\s\d+\.\d\s%</small>", page)  # of a precision
    assert tell_answer(content)["benchmark"] == []


def test_the_page_shows_the_benchmark():
    content = make_whole()
    page = report.render_report(content)
    assert '<section id="benchmark">' in page
    for text in ("World version 1", "Leaderboard", "agree and are wrong", "Fake-CAM", "<svg"):
        assert text in page
    assert page == report.render_report(content)
    assert '<section id="benchmark">' not in report.render_report(make_content())

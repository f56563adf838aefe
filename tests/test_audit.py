"""Which metrics rank planted explanations rightly: by hand, and on the real metrics."""

import numpy as np
import pytest

from consilience import audit, registry, tables, world
from consilience.planted import EXPLANATIONS

SETTINGS = {
    "agreement": {"top_fraction": 0.2, "k": 5},
    "faithfulness": {"steps": 4, "road": [0.5], "orders": 1, "batch_size": 32},
    "localization": [],
}


def cut(view):
    rows, columns = np.indices(view.shape[:2]) // 8
    return rows * (view.shape[1] // 8) + columns


def run_audit(bases=6, seed=0, settings=SETTINGS):
    rows = []
    for picture in world.describe_rows(world.study_pictures(seed, bases, [1]), 64):
        rows += audit.audit_picture(picture, settings, seed, cut)
    return rows


@pytest.fixture(scope="module")
def audited():
    return run_audit()


def ranked(rows):
    found = audit.rank_metrics(audit.judge_metrics(rows, resamples=500))
    return {(row["family"], row["metric"], row["fill"], row["reading"]): row for row in found}


def faults(metric):
    return {(row["explanation"], row["other"]): audit.find_fault(row) for row in metric["failed"]}


GOOD = {
    "causal-mask": 0.9,
    "half-mask": 0.5,
    "shuffled": 0.3,
    "smooth-noise": 0.3,
    "centre": 0.4,
    "edges": 0.4,
    "fake-cam": 0.3,
    "inverse": 0.1,
}


def by_hand(values, bases=4, levels=1, **about):
    """Rows of one metric that gives each explanation the same score, but for a little."""
    return [
        {"model": "m", "family": "f", "metric": "x", "fill": None, "reading": "score"}
        | {"base": f"b{base}", "picture": f"b{base}-{level}", "explanation": name}
        | {"value": None if value is None else value + 0.01 * base, "reason": None}
        | about
        for base in range(bases)
        for level in range(levels)
        for name, value in values.items()
    ]


def test_a_metric_that_says_what_it_should_breaks_no_rule():
    ((_, found),) = ranked(by_hand(GOOD)).items()
    assert found["right"] == found["rules"] == len(audit.RULES)
    assert found["failed"] == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"fake-cam": 0.9}, {("causal-mask", "fake-cam"): "tied"}),
        ({"centre": 0.95}, {("causal-mask", "centre"): "wrong"}),
        ({"inverse": 0.35}, {("shuffled", "inverse"): "wrong"}),
        # Up to a tenth of what the mask is above noise, a map that says nothing may be above it.
        ({"fake-cam": 0.35}, {}),
        ({"fake-cam": 0.37}, {("fake-cam", "shuffled"): "rewarded"}),
    ],
)
def test_what_a_metric_gets_wrong_is_named(change, expected):
    ((_, found),) = ranked(by_hand(GOOD | change)).items()
    told = faults(found)
    for pair, fault in expected.items():
        assert told[pair] == fault
    assert bool(told) == bool(expected)


def test_levels_of_a_base_count_once():
    rows = by_hand(GOOD, bases=3, levels=4)
    judged = audit.judge_metrics(rows)
    assert {row["bases"] for row in judged} == {3}
    assert all(row["verdict"] == "right" for row in judged)


def test_what_differs_from_base_to_base_is_not_told():
    rows = by_hand(GOOD, bases=6)
    for row in rows:
        if row["explanation"] == "half-mask":
            row["value"] = 0.9 + 0.01 * int(row["base"][1]) + (-1) ** int(row["base"][1]) * 0.2
    ((_, found),) = ranked(rows).items()
    assert faults(found)["causal-mask", "half-mask"] == "not told"


def test_one_base_tells_nothing():
    judged = audit.judge_metrics(by_hand(GOOD, bases=1))
    assert {row["verdict"] for row in judged} == {"not told"}
    assert {row["low"] for row in judged} == {None}
    tables.make_table(judged, tables.AUDIT_RULES)


def test_a_value_that_is_missing_does_not_count():
    rows = by_hand(GOOD | {"edges": None})
    judged = audit.judge_metrics(rows)
    counted = {row["bases"] for row in judged if "edges" in (row["explanation"], row["other"])}
    assert counted == {0}
    assert {row["bases"] for row in judged} == {0, 4}


def test_every_metric_scores_every_explanation(audited):
    tables.make_table(audited, tables.AUDIT)
    assert all((row["value"] is None) == (row["reason"] is not None) for row in audited)
    found = ranked(audited)
    families = {key[0] for key in found}
    assert families == {"agreement", "faithfulness", "localization"}
    for _, metric, _, reading in found:
        rows = [row for row in audited if (row["metric"], row["reading"]) == (metric, reading)]
        names = {row["explanation"] for row in rows}
        assert names == set(EXPLANATIONS)


def test_metrics_of_which_it_is_known_are_judged_so(audited):
    found = ranked(audited)
    for key in (
        ("localization", "iou", None, "score"),
        ("localization", "mass-inside", None, "score"),
        ("faithfulness", "deletion", "mean", "score"),
        ("faithfulness", "insertion", "mean", "against random"),
    ):
        assert found[key]["failed"] == [], key
    drop = faults(found["faithfulness", "average-drop", "black", "score"])
    assert drop["causal-mask", "fake-cam"] == "tied"
    assert drop["fake-cam", "smooth-noise"] == "rewarded"
    # Against random maps with its own values the trick is worth nothing.
    drop = faults(found["faithfulness", "average-drop", "black", "against random"])
    assert ("causal-mask", "fake-cam") not in drop
    assert ("fake-cam", "smooth-noise") not in drop


def test_the_audit_is_the_same_each_time(audited):
    assert run_audit(bases=1) == [row for row in audited if row["base"] == "picture-000"]


@pytest.fixture
def registered():
    """A measure of each kind that a user's file registers; all of them backwards."""

    @registry.localization("backwards")
    def locate(values, inside):
        return -values[inside].mean()

    @registry.agreement("disagree", higher_agrees=False)
    def compare(a, b):
        return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])

    @registry.faithfulness("backwards", fill="grey")
    def remove(picture, values, ranks, ask):
        (whole, without) = ask(np.stack([picture, np.where(ranks < ranks.size // 4, 0, picture)]))
        return without - whole

    yield SETTINGS | {
        "localization": ["backwards"],
        "faithfulness": SETTINGS["faithfulness"] | {"extra": ["backwards"]},
    }
    for kind, name in (
        ("localization", "backwards"),
        ("agreement", "disagree"),
        ("faithfulness", "backwards"),
    ):
        registry.forget(kind, name)


def test_metrics_that_a_user_registers_take_part(registered):
    rows = run_audit(bases=3, settings=registered)
    found = ranked(rows)
    for key in (
        ("localization", "backwards", None, "score"),
        ("agreement", "disagree", None, "score"),
        ("faithfulness", "backwards", "grey", "score"),
        ("faithfulness", "backwards", "grey", "against random"),
    ):
        assert faults(found[key])["causal-mask", "inverse"] == "wrong", key

"""Verdicts on the original study's claims."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from consilience.claims import (
    CLAIMS,
    CONTRADICTED,
    INCONCLUSIVE,
    NOT_TESTABLE,
    SUPPORTED,
    find_training,
    judge_claims,
    measure_gini,
    pool_models,
    read_sharpness,
)
from consilience.questions import Contrast, collect_sources
from consilience.tables import CLAIMS as SCHEMA
from consilience.tables import COMPARISON, HEATMAPS, make_table, write_table
from test_questions import (
    CAMS,
    PRIMARY,
    make_agreement,
    make_localization,
    make_pictures,
    make_predictions,
    noise,
)


def judge(
    pictures, agreement=(), located=(), sharpness=(), comparison=(), origins=None, top=50, **others
):
    """Rows by claim."""
    predictions = others.pop("predictions", None) or make_predictions(pictures)
    source = collect_sources(predictions, pictures, agreement, located, cams=CAMS)
    rows = judge_claims(
        source,
        predictions,
        agreement,
        sharpness,
        list(comparison),
        origins or {},
        PRIMARY,
        top,
        resamples=500,
        seed=2,
    )
    make_table(rows, SCHEMA)
    assert [row["claim"] for row in rows] == list(CLAIMS)
    for row in rows:
        assert bool(row.get("reason")) == (row["verdict"] in (INCONCLUSIVE, NOT_TESTABLE))
    return {row["claim"]: row for row in rows}


# ------------------------------------------------------------------------------------------------
# Rules


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.5, -0.2, SUPPORTED),
        (-0.5, -0.05, INCONCLUSIVE),
        (-0.05, 0.3, CONTRADICTED),
        (0.2, 0.3, CONTRADICTED),
        (-0.1, -0.1, INCONCLUSIVE),  # on the bound itself
    ],
)
def test_the_rule_of_a_fall(low, high, verdict):
    claim = replace(CLAIMS["agreement-lower-in-clutter"], smallest=0.1)
    assert claim.judge(low, high) == verdict
    assert replace(claim, sign=1).judge(-high, -low) == verdict
    assert claim.rule.startswith("supported if the whole 95 % interval lies below -0.1, ")
    assert "contradicted if all of it lies above -0.1" in claim.rule


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.3, 0.45, SUPPORTED),
        (0.2, 0.45, INCONCLUSIVE),
        (0.3, 0.55, INCONCLUSIVE),
        (0.1, 0.9, INCONCLUSIVE),
        (0.1, 0.27, CONTRADICTED),
        (0.49, 0.7, CONTRADICTED),
    ],
)
def test_the_rule_of_an_overlap(low, high, verdict):
    claim = CLAIMS["places365-imagenet-overlap"]
    assert claim.judge(low, high) == verdict
    assert "between 0.28 and 0.48" in claim.rule


def test_bounds_of_the_rules_are_in_their_words():
    for claim in CLAIMS.values():
        bound = claim.centre - claim.smallest if not claim.sign else claim.sign * claim.smallest
        assert f" {bound:g}" in claim.rule


# ------------------------------------------------------------------------------------------------
# Sharpness


def test_gini_by_hand():
    assert measure_gini(np.ones((3, 4))) == pytest.approx(0)
    assert measure_gini(np.eye(1, 10)) == pytest.approx(0.9)
    # Mean absolute difference over twice the mean: (0 + 3 + 3 + 0) / 4 / 4.
    assert measure_gini(np.array([1.0, 4.0, 1.0, 4.0])) == pytest.approx(0.3)
    assert measure_gini(np.array([-5.0, 1.0])) == pytest.approx(0.5)  # what is negative is nothing
    assert measure_gini(np.zeros(4)) is None
    assert measure_gini(np.array([-1.0, -2.0])) is None
    assert measure_gini(np.array([1.0, np.nan])) is None


@settings(deadline=None)
@given(arrays(np.float64, st.integers(2, 20), elements=st.floats(0.1, 9)), st.floats(0.1, 10))
def test_gini_is_half_the_relative_mean_difference_and_knows_no_scale(values, scale):
    gaps = np.abs(values[:, None] - values).mean()
    assert measure_gini(values) == pytest.approx(gaps / (2 * values.mean()), abs=1e-12)
    assert measure_gini(values[::-1] * scale) == pytest.approx(measure_gini(values), abs=1e-12)
    assert measure_gini(np.repeat(values, 3)) == pytest.approx(measure_gini(values), abs=1e-12)
    assert 0 <= measure_gini(values) + 1e-12 < 1


def heatmap(picture, method, values, status="ok"):
    about = {"model": "net", "picture": picture, "method": method, "layer": "layer4"}
    size = {"height": 2, "width": 2, "layer_height": 1, "layer_width": 1, "layer_map": [0.0]}
    target = {"target_index": 3, "target_class": "star"}
    return about | size | target | {"heatmap": values, "status": status}


def test_sharpness_is_read_from_files(tmp_path):
    first = [heatmap("a", "grad-cam", [1.0, 4.0, 1.0, 4.0])] * 40
    second = [
        heatmap("b", "score-cam", [0.0, 0.0, 0.0, 1.0]),
        heatmap("c", "score-cam", [0.0, 0.0, 0.0, 1.0], "nan"),
    ]
    paths = [tmp_path / "0.parquet", tmp_path / "1.parquet"]
    for path, rows in zip(paths, (first, second), strict=True):
        write_table(rows, path, HEATMAPS)
    rows = list(read_sharpness(paths))
    assert len(rows) == 42
    about = {"model": "net", "target_index": 3}
    assert rows[0] == about | {"picture": "a", "method": "grad-cam", "value": pytest.approx(0.3)}
    assert [row["value"] for row in rows[40:]] == [0.75, None]


# ------------------------------------------------------------------------------------------------
# Claims about methods


@pytest.mark.parametrize(
    ("fall", "scale", "verdict"),
    [
        (0.3, 0.02, SUPPORTED),
        (0.0, 0.02, CONTRADICTED),
        (-0.2, 0.02, CONTRADICTED),
        (0.1, 0.2, INCONCLUSIVE),
    ],
)
def test_planted_falls_with_clutter(fall, scale, verdict):
    pictures = make_pictures()
    agreement = make_agreement(
        pictures, lambda row: 0.5 - fall * row["clutter"] / 3.5 + noise(row, scale)
    )
    row = judge(pictures, agreement)["agreement-lower-in-clutter"]
    assert row["verdict"] == verdict
    assert row["estimate"] == pytest.approx(-fall, abs=max(0.05, scale))
    assert row["low"] < row["estimate"] < row["high"]
    assert row["bases"] == 8
    assert row["smallest_effect"] == 0.1
    assert row["estimand"].endswith("clutter 3 and 4 minus clutter 0; model net")


@pytest.mark.parametrize(("fall", "verdict"), [(0.2, SUPPORTED), (0.02, CONTRADICTED)])
def test_planted_falls_of_lime_with_clutter(fall, verdict):
    pictures = make_pictures(levels=(0, 4))
    located = make_localization(
        pictures, lambda row: 0.5 - fall * row["clutter"] / 4 + noise(row, 0.01)
    )
    assert judge(pictures, located=located)["lime-degrades-in-clutter"]["verdict"] == verdict


@pytest.mark.parametrize(("lead", "verdict"), [(0.2, SUPPORTED), (-0.1, CONTRADICTED)])
def test_planted_leads_of_score_cam(lead, verdict):
    pictures = make_pictures()
    located, sharpness = [], []
    for method in CAMS:
        ahead = 0.4 + lead * (method == "score-cam")
        located += make_localization(pictures, lambda row, v=ahead: v + noise(row), method)
        sharpness += [
            {"model": "net", "picture": row["name"], "target_index": 3, "method": method}
            | {"value": ahead + noise(row)}
            for row in pictures
        ]
    rows = judge(pictures, located=located, sharpness=sharpness)
    for claim in ("score-cam-most-accurate", "score-cam-sharpest"):
        assert rows[claim]["verdict"] == verdict
        assert rows[claim]["estimate"] == pytest.approx(lead)
    assert rows["agreement-lower-in-clutter"]["verdict"] == NOT_TESTABLE


@pytest.mark.parametrize(("simple", "verdict"), [(0.6, SUPPORTED), (0.3, CONTRADICTED)])
def test_high_is_above_the_highest_floor(simple, verdict):
    pictures = make_pictures(levels=(0, 1, 4))
    agreement = make_agreement(pictures, lambda row: simple if row["clutter"] == 0 else -0.9)
    for control, value in (("centre", 0.28), ("edges", 0.1), ("ceiling", 0.95)):
        # At other levels the order of the floors is another.
        agreement += make_agreement(
            pictures,
            lambda row, v=value: (v if row["clutter"] == 0 else 0.5 - v) + noise(row),
            control=control,
        )
    row = judge(pictures, agreement)["agreement-high-on-simple"]
    assert row["verdict"] == verdict
    assert row["estimate"] == pytest.approx(simple - 0.28, abs=0.03)
    assert "highest floor (centre)" in row["estimand"]
    assert row["bases"] == 8


def test_without_floors_nobody_knows_what_is_high():
    pictures = make_pictures()
    row = judge(pictures, make_agreement(pictures, lambda row: 0.9))["agreement-high-on-simple"]
    assert row["verdict"] == NOT_TESTABLE
    assert row["reason"] == "no floor of the agreement was measured"


def test_few_bases_decide_nothing():
    pictures = make_pictures(5)
    agreement = make_agreement(pictures, lambda row: 0.9 - 0.2 * row["clutter"] + noise(row))
    row = judge(pictures, agreement)["agreement-lower-in-clutter"]
    assert row["estimate"] < -0.5
    assert row["low"] is row["high"] is None
    assert row["verdict"] == INCONCLUSIVE
    assert row["reason"] == "5 of the at least 6 bases that a verdict needs"


def test_photographs_are_not_generalised():
    pictures = make_pictures(10, ())
    agreement = make_agreement(pictures, lambda row: 0.9)
    located = make_localization(pictures, lambda row: 0.9)
    rows = judge(pictures, agreement, located)
    assert {row["verdict"] for row in rows.values()} == {NOT_TESTABLE}
    for claim in list(CLAIMS)[:5]:
        assert "photographs" in rows[claim]["reason"]


def test_photographs_beside_rendered_pictures_do_not_count():
    rendered = make_pictures()
    photographs = make_pictures(10, ())

    def located(pictures, lead):
        return [
            row
            for method in CAMS
            for row in make_localization(
                pictures, lambda row, m=method: lead * (m == "score-cam"), method
            )
        ]

    both = rendered + photographs
    rows = judge(both, located=located(rendered, 0.2) + located(photographs, -5))
    row = rows["score-cam-most-accurate"]
    assert (row["estimate"], row["bases"]) == (pytest.approx(0.2), 8)


def test_models_are_averaged_over_their_bases_and_named():
    pictures = make_pictures()
    predictions, agreement = [], []
    for model, fall in (("one", 0.4), ("other", 0.2)):
        predictions += make_predictions(pictures, model)
        agreement += make_agreement(
            pictures,
            lambda row, f=fall: None if row["base"] == "03" and f == 0.2 else -f * row["clutter"],
            model=model,
        )
    # A third was never asked for LIME.
    predictions += make_predictions(pictures, "third")
    row = judge(pictures, agreement, predictions=predictions)["agreement-lower-in-clutter"]
    assert row["estimate"] == pytest.approx(-0.3 * 3.5)
    assert row["bases"] == 7
    assert row["estimand"].endswith("; model one, other")


def test_pooling_by_hand():
    one = Contrast(("a", "b", "c"), np.array([1.0, 2.0, 3.0]), 6, 1)
    other = Contrast(("b", "c"), np.array([4.0, 5.0]), 4, 2)
    found = pool_models([one, other])
    assert found.bases == ("b", "c")
    assert found.differences.tolist() == [3, 4]
    assert (found.values, found.left_out) == (10, 2)


# ------------------------------------------------------------------------------------------------
# Claims about training data

ORIGINS = {"inet": ["IMAGENET1K_V1"], "scenes": ["data/resnet18_places365.pth"]}


def compare(metric, value, low=None, high=None, a="scenes", b="inet", layer="layer4", **more):
    row = {"layer": layer, "model_a": a, "model_b": b, "metric": metric, "value": value}
    row |= {"low": low, "high": high} | more
    return make_table([row], COMPARISON).to_pylist()[0]


def judge_training(*comparison, origins=ORIGINS, top=50):
    rows = judge(make_pictures(), comparison=comparison, origins=origins, top=top)
    return rows["places365-more-concepts"], rows["places365-imagenet-overlap"]


def test_training_data_is_known_from_names_and_files():
    assert find_training(ORIGINS) == ("inet", "scenes")
    assert find_training({"Places365-net": [], "net": []}) == (None, "Places365-net")
    # Published descriptions: what they are of stands in the path.
    published = {"dissected": [{"layer4": "x/resnet50_ImageNet_layer4.csv"}], "other": ["a.csv"]}
    assert find_training(published) == ("dissected", None)
    # Pretrained on ImageNet, trained on Places365; and the first of several.
    assert find_training({"a": ["imagenet-to-places365.pt"], "b": ["IMAGENET1K_V2"]}) == ("b", "a")
    assert find_training({"x": ["IMAGENET1K_V1"], "y": ["IMAGENET1K_V2"]}) == ("x", None)


def test_nets_of_the_rendered_world_do_not_judge_imagenet():
    rows = judge_training(
        compare("rarefied_difference", 30.0, 20.0, 40.0, "scene-net", "object-net"),
        compare("top_overlap", 0.38, 0.37, 0.39, "scene-net", "object-net"),
        origins={},
    )
    for row in rows:
        assert row["verdict"] == NOT_TESTABLE
        assert "no model trained on ImageNet and none on Places365" in row["reason"]
        assert "estimate" not in row
    # Known, but not compared.
    one = compare("distinct_concepts", 60.0, a="inet", b=None)
    row = judge_training(one)[0]
    assert "no model trained on Places365;" in row["reason"]
    assert "none on Places365;" in judge_training()[0]["reason"]


def test_more_concepts_whichever_model_comes_first():
    for rows in (
        compare("rarefied_difference", 20.0, 10.0, 30.0),
        compare("rarefied_difference", -20.0, -30.0, -10.0, "inet", "scenes"),
    ):
        row, _ = judge_training(rows)
        assert row["verdict"] == SUPPORTED
        assert (row["estimate"], row["low"], row["high"]) == (20, 10, 30)
        assert row["estimand"].endswith("scenes minus inet, layer layer4")
    row, _ = judge_training(compare("rarefied_difference", -3.0, -6.0, 2.0))
    assert row["verdict"] == CONTRADICTED
    row, _ = judge_training(compare("rarefied_difference", 6.0, -6.0, 12.0))
    assert row["verdict"] == INCONCLUSIVE


def test_the_last_layer_below_the_logits_is_judged():
    row, _ = judge_training(
        compare("rarefied_difference", 1.0, 0.0, 2.0, layer="layer3"),
        compare("rarefied_difference", 20.0, 10.0, 30.0),
        compare("rarefied_difference", 99.0, 98.0, 100.0, a="scenes", b="another"),
        compare("rarefied_difference", -9.0, -10.0, -8.0, layer="fc"),
        compare("label_is_class_name", 0.4, a="inet", b=None, layer="fc"),
        compare("rarefied_difference", None, layer="layer5", reason="inet has no such layer"),
    )
    assert row["estimate"] == 20
    row, _ = judge_training(
        compare("rarefied_difference", None, layer="layer5", reason="inet has no such layer")
    )
    assert (row["verdict"], row["reason"]) == (NOT_TESTABLE, "inet has no such layer")
    row, _ = judge_training(
        compare("rarefied_difference", 20.0, 10.0, 30.0, b="another"),
        compare("distinct_concepts", 60.0, a="inet", b=None, layer="layer3"),
    )
    assert row["reason"] == "the two have no layer of one name below the logits"


def test_the_overlap_is_of_fifty_concepts():
    overlap = compare("top_overlap", 0.36, 0.3, 0.42)
    plenty = [compare("distinct_concepts", 60.0, a=name, b=None) for name in ("scenes", "inet")]
    _, row = judge_training(overlap, *plenty)
    assert (row["verdict"], row["estimate"]) == (SUPPORTED, 0.36)
    _, row = judge_training(compare("top_overlap", 0.7, 0.6, 0.8), *plenty)
    assert row["verdict"] == CONTRADICTED
    _, row = judge_training(overlap, *plenty, top=20)
    assert row["reason"] == "comparison.top is 20, and the claim is of 50"
    _, row = judge_training(
        overlap, plenty[0], compare("distinct_concepts", 31.0, a="inet", b=None)
    )
    assert row["verdict"] == NOT_TESTABLE
    assert row["reason"].startswith("inet has 31 distinct concepts in layer layer4")
    other_layer = compare("distinct_concepts", 31.0, a="inet", b=None, layer="layer3")
    _, row = judge_training(overlap, *plenty, other_layer)
    assert row["verdict"] == SUPPORTED


def test_without_resamples_there_is_no_verdict():
    row, _ = judge_training(compare("rarefied_difference", 20.0))
    assert (row["verdict"], row["estimate"]) == (INCONCLUSIVE, 20)
    assert "not resampled" in row["reason"]

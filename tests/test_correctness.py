"""Whether agreement tells right pictures from wrong ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from consilience.correctness import (
    PREDICTORS,
    STRATA,
    cross_validate,
    fit_logistic,
    measure_auroc,
    predict_correctness,
    resample_bases,
)
from consilience.images import encode_png
from consilience.tables import CORRECTNESS, make_table
from test_questions import (
    PRIMARY,
    make_agreement,
    make_localization,
    make_pictures,
    make_predictions,
)

# Few values, so that ties are common.
labelled = st.lists(st.tuples(st.integers(-3, 3), st.booleans(), st.integers(1, 5)), min_size=2)


@settings(deadline=None)
@given(labelled)
def test_auroc_is_that_of_sklearn(cases):
    scores, right, weights = map(np.array, zip(*cases, strict=True))
    found = measure_auroc(scores, right, weights)
    if right.all() or not right.any():
        assert np.isnan(found)
    else:
        assert found == pytest.approx(roc_auc_score(right, scores, sample_weight=weights))
        # Right and wrong swapped.
        assert measure_auroc(scores, ~right, weights) == pytest.approx(1 - found)
        # A picture of weight 2 is two pictures.
        twice = np.repeat(np.arange(len(scores)), weights)
        assert measure_auroc(scores[twice], right[twice]) == pytest.approx(found)


def test_stratified_auroc_by_hand():
    scores = np.array([0.9, 0.1, 0.5, 0.3, 0.3, 0.2, 0.8])
    right = np.array([1, 0, 0, 1, 0, 1, 1], bool)
    strata = np.array(["a", "a", "a", "b", "b", "b", "c"])
    # a: 0.9 beats 0.1 and 0.5; b: 0.3 ties with 0.3, 0.2 loses to it; c has no pair.
    assert measure_auroc(scores, right, strata=strata) == (2 + 0.5) / 4
    # The wrong picture of b stands for three: its two pairs weigh three each.
    weights = np.array([1, 1, 1, 1, 3, 1, 1])
    assert measure_auroc(scores, right, weights, strata) == (2 + 3 * 0.5) / (2 + 6)
    assert np.isnan(measure_auroc(scores, right, strata=np.arange(7)))


@settings(deadline=None)
@given(labelled, st.randoms(use_true_random=False))
def test_auroc_knows_neither_order_nor_scale(cases, draw):
    again = draw.sample(cases, len(cases))
    one, other = (map(np.array, zip(*some, strict=True)) for some in (cases, again))
    scores, right, weights = one
    found = measure_auroc(scores, right, weights)
    scores, right, weights = other
    np.testing.assert_allclose(measure_auroc(np.exp(scores), right, weights / 7), found)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("penalty", [1.0, 0.2])
def test_logistic_regression_is_that_of_sklearn(seed, penalty):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(40, 2))
    right = features[:, 0] + rng.normal(size=40) > 0.5
    weights = rng.uniform(0.2, 3, 40)
    intercept, slopes = fit_logistic(features, right, weights, penalty)
    other = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=1000)
    other.fit(features, right, sample_weight=weights)
    np.testing.assert_allclose(slopes, other.coef_[0], atol=1e-5)
    assert intercept == pytest.approx(other.intercept_[0], abs=1e-5)


def test_logistic_regression_of_separable_pictures_is_finite():
    features = np.array([[-1.0], [-0.9], [1.0], [1.1]])
    _, slopes = fit_logistic(features, np.array([0, 0, 1, 1], bool), np.ones(4))
    assert 0 < slopes[0] < 5


def test_a_base_is_scored_by_the_others_alone():
    rng = np.random.default_rng(0)
    features, bases = rng.normal(size=(30, 2)), [f"base-{place // 3}" for place in range(30)]
    right = features[:, 0] > 0
    scores = cross_validate(features, right, np.ones(30), bases)
    lied = right.copy()
    lied[:3] = ~lied[:3]
    again = cross_validate(features, lied, np.ones(30), bases)
    np.testing.assert_array_equal(again[:3], scores[:3])
    assert not np.allclose(again[3:], scores[3:])
    # A feature that says nothing is no fault, nor is the scale of the weights or of a feature.
    constant = np.column_stack([features * 1000, np.ones(30)])
    np.testing.assert_allclose(
        cross_validate(constant, right, np.full(30, 5.0), bases), scores, atol=1e-5
    )


def test_held_out_scores_of_noise_are_not_pushed_below_chance():
    # With its intercept, leaving one out gives an AUROC far below 0.5.
    rng = np.random.default_rng(1)
    found = []
    for _ in range(60):
        features, right = rng.normal(size=(24, 1)), np.arange(24) % 2 == 0
        scores = cross_validate(features, right, np.ones(24), list(map(str, range(24))))
        found.append(measure_auroc(scores, right))
    assert np.mean(found) > 0.33


def test_resamples_draw_whole_bases():
    counts = resample_bases(["b", "a", "b", "c"], 400, 3)
    assert counts.shape == (400, 4)
    np.testing.assert_array_equal(counts[:, 0], counts[:, 2])
    np.testing.assert_array_equal(counts[:, [0, 1, 3]].sum(axis=1), 3)
    assert counts.mean() == pytest.approx(1, abs=0.1)


# ------------------------------------------------------------------------------------------------
# Studies


def look(
    pictures, agreement, correct, probability=None, located=(), drawn_for=(), seed=0, cam="grad-cam"
):
    """Rows by kind, predictor and stratum."""
    predictions = make_predictions(pictures, correct=correct, probability=probability)
    rows = predict_correctness(
        predictions,
        pictures,
        make_agreement(pictures, lambda row: agreement.get(row["name"])) if agreement else [],
        located,
        cam,
        PRIMARY,
        drawn_for,
        resamples=300,
        seed=0,
    )
    make_table(rows, CORRECTNESS)
    assert len(rows) == 2 * len(PREDICTORS) * len(STRATA)
    return {(row["correct"], row["predictor"], row["stratum"]): row for row in rows}


def mask_of(share):
    mask = np.zeros((10, 10), np.uint8)
    mask.ravel()[: round(100 * share)] = 255
    return encode_png(mask)


def draw_study(seed, bases=39):
    """Pictures with masks, and a generator."""
    rng = np.random.default_rng(seed)
    pictures = make_pictures(bases)
    area = {row["base"]: (0.1, 0.2, 0.3)[int(row["base"]) % 3] for row in pictures}
    return [row | {"mask_whole": mask_of(area[row["base"]])} for row in pictures], rng


def test_clutter_that_drives_both_makes_no_prediction_within_a_level():
    pictures, rng = draw_study(0)
    agreement = {row["name"]: -row["clutter"] + rng.normal() / 2 for row in pictures}
    correct = {row["name"]: bool(rng.random() > row["clutter"] / 4) for row in pictures}
    found = look(pictures, agreement, correct)
    overall = found["prediction", "agreement", "all"]
    within = found["prediction", "agreement", "within-clutter"]
    assert overall["low"] > 0.75
    assert within["auroc"] == pytest.approx(0.5, abs=0.1)
    assert within["low"] < 0.5 < within["high"]
    # Levels 0 and 4 hold right or wrong pictures only, and do not count.
    assert within["right"] < overall["right"]
    assert within["wrong"] < overall["wrong"]


def test_the_objects_size_that_drives_both_makes_no_prediction_within_an_area():
    pictures, rng = draw_study(1)
    size = {row["name"]: {10: 0, 20: 1, 30: 2}[area_of(row)] for row in pictures}
    agreement = {name: size[name] + rng.normal() / 4 for name in size}
    correct = {name: bool(rng.random() < (0.1, 0.5, 0.9)[size[name]]) for name in size}
    found = look(pictures, agreement, correct)
    assert found["prediction", "agreement", "all"]["low"] > 0.7
    assert found["prediction", "agreement", "within-area"]["auroc"] == pytest.approx(0.5, abs=0.12)
    assert found["prediction", "agreement", "within-clutter"]["low"] > 0.7


def area_of(row):
    from consilience.images import decode_png

    return int((decode_png(row["mask_whole"]) > 0).sum())


@pytest.mark.parametrize("informative", [True, False])
def test_agreement_adds_what_it_knows(informative):
    pictures, rng = draw_study(2)
    truth = {row["name"]: rng.normal(size=2) for row in pictures}
    correct = {
        name: bool(a + informative * b + rng.normal() / 2 > 0) for name, (a, b) in truth.items()
    }
    probability = {name: 1 / (1 + np.exp(-a)) for name, (a, _) in truth.items()}
    agreement = {name: b for name, (_, b) in truth.items()}
    found = look(pictures, agreement, correct, probability)
    added = found["prediction", "added", "all"]
    assert added["auroc"] == pytest.approx(
        found["prediction", "both", "all"]["auroc"]
        - found["prediction", "top-probability", "all"]["auroc"]
    )
    if informative:
        assert added["low"] > 0.05
    else:
        assert added["low"] < 0.02
        assert abs(added["auroc"]) < 0.03
        assert found["prediction", "top-probability", "all"]["low"] > 0.85


def test_a_certain_prediction_is_no_infinity():
    pictures, rng = draw_study(3, 10)
    correct = {row["name"]: bool(rng.random() > 0.5) for row in pictures}
    probability = {name: float(right) for name, right in correct.items()}
    agreement = {name: rng.normal() for name in correct}
    found = look(pictures, agreement, correct, probability)
    assert found["prediction", "both", "all"]["auroc"] > 0.9


def test_localization_is_right_from_a_mean_iou_of_a_half_on():
    pictures, _ = draw_study(4, 10)
    names = [row["name"] for row in pictures]
    lime = {name: 0.2 + 0.01 * place for place, name in enumerate(names)}
    located = make_localization(pictures, lambda row: lime[row["name"]])
    # The mean is 0.5 from lime's 0.4 on: place 20.
    located += make_localization(pictures, lambda row: 0.6, "grad-cam")
    agreement = {name: float(lime[name] > 0.395) for name in names}
    found = look(pictures, agreement, {}, located=located)
    row = found["localization", "agreement", "all"]
    assert (row["right"], row["wrong"], row["auroc"]) == (30, 20, 1)
    reason = found["prediction", "agreement", "all"]["reason"]
    assert reason == "no picture's true class is known"


def test_too_few_right_or_wrong_have_no_number():
    pictures, _ = draw_study(5, 10)
    agreement = {row["name"]: 0.1 for row in pictures}
    names = sorted(agreement)

    def said(wrong):
        return look(pictures, agreement, {name: name not in wrong for name in names})[
            "prediction", "agreement", "all"
        ]

    row = said(names[::10][:4])
    assert (row["right"], row["wrong"], row["reason"]) == (46, 4, "4 wrong; 5 are needed")
    assert "auroc" not in row
    assert said(names[:5])["reason"] == "all that are wrong are of one base"
    assert said(names[::10])["auroc"] == 0.5
    # All at clutter 0: ten pictures of that level, five and five.
    row = look(pictures, agreement, {name: name not in names[::10] for name in names})[
        "prediction", "agreement", "within-clutter"
    ]
    assert (row["right"], row["wrong"]) == (5, 5)


def test_few_bases_have_no_interval():
    for bases, reason in ((5, "no interval: of 5 bases, 6 are needed"), (6, None)):
        pictures, rng = draw_study(11, bases)
        correct = {row["name"]: bool(place % 2) for place, row in enumerate(pictures)}
        agreement = {name: rng.normal() for name in correct}
        row = look(pictures, agreement, correct)["prediction", "agreement", "all"]
        assert 0 < row["auroc"] < 1
        assert row["reason"] == reason
        assert (row["low"] is None) == (row["high"] is None) == (bases == 5)


def test_what_is_not_known_is_said():
    pictures, rng = draw_study(6, 10)
    correct = {row["name"]: bool(rng.random() > 0.5) for row in pictures}
    agreement = {name: rng.normal() for name in correct}
    plain = [row | {"mask_whole": None, "clutter": None} for row in pictures]
    found = look(plain, agreement, correct)
    assert found["prediction", "both", "all"]["auroc"] > 0
    assert "clutter" in found["prediction", "both", "within-clutter"]["reason"]
    assert "mask" in found["prediction", "both", "within-area"]["reason"]
    assert found["localization", "both", "all"]["reason"] == "localisation was not measured"
    found = look(pictures, agreement, correct, cam=None)
    reason = "the study has no class activation maps"
    assert found["prediction", "top-probability", "all"]["reason"] == reason
    found = look(pictures, {}, correct)
    assert found["prediction", "agreement", "all"]["reason"] == "agreement was not measured"


def test_pictures_without_agreement_count_for_no_predictor():
    pictures, rng = draw_study(7, 10)
    correct = {row["name"]: bool(rng.random() > 0.5) for row in pictures}
    agreement = {name: rng.normal() if place % 5 else None for place, name in enumerate(correct)}
    found = look(pictures, agreement, correct)
    row = found["prediction", "top-probability", "all"]
    assert row["right"] + row["wrong"] == 40


def with_drawn(weight, correct_of_drawn=False):
    pictures, rng = draw_study(8, 10)
    correct = {row["name"]: bool(place % 4) for place, row in enumerate(pictures)}
    agreement = {name: rng.normal() + 0.5 * right for name, right in correct.items()}
    drawn = [
        {**pictures[0], "name": f"wrong-{place}", "base": f"wrong-{place}", "weight": weight}
        for place in range(6)
    ]
    agreement |= {row["name"]: -5.0 for row in drawn}
    correct |= {row["name"]: correct_of_drawn for row in drawn}
    return pictures, drawn, agreement, correct


def test_drawn_pictures_weigh_what_they_stand_for():
    pictures, drawn, agreement, correct = with_drawn(10.0)
    plain = look(pictures, agreement, correct)["prediction", "agreement", "all"]
    heavy = look(pictures + drawn, agreement, correct, drawn_for=["net"])
    row = heavy["prediction", "agreement", "all"]
    # 6 × 10 wrong pictures that lose every pair, beside those that were there.
    wrong = plain["wrong"]
    assert row["auroc"] == pytest.approx((plain["auroc"] * wrong + 60) / (wrong + 60))
    assert (row["right"], row["wrong"]) == (plain["right"], wrong + 6)
    # Their weight is in the resamples too: hardly one is without them.
    pictures, drawn, agreement, correct = with_drawn(1e6)
    heavy = look(pictures + drawn, agreement, correct, drawn_for=["net"])
    assert heavy["prediction", "agreement", "all"]["low"] > 0.999
    assert plain["low"] < 0.9


def test_drawn_pictures_do_not_count_for_others_nor_where_the_model_is_right():
    pictures, drawn, agreement, correct = with_drawn(10.0)
    plain = look(pictures, agreement, correct)
    everyone = pictures + drawn
    assert look(everyone, agreement, correct, drawn_for=["another"]) == plain
    pictures, drawn, agreement, correct = with_drawn(10.0, correct_of_drawn=True)
    assert look(pictures + drawn, agreement, correct, drawn_for=["net"]) == plain


def test_drawn_pictures_do_not_count_for_localization():
    pictures, drawn, agreement, correct = with_drawn(10.0)
    everyone = pictures + drawn
    located = [
        row
        for method in ("lime", "grad-cam")
        for row in make_localization(
            everyone, lambda row: 0.7 if row["clutter"] < 2 else 0.2, method
        )
    ]
    found = look(everyone, agreement, correct, located=located, drawn_for=["net"])
    row = found["localization", "agreement", "all"]
    assert (row["right"], row["wrong"]) == (20, 30)


@settings(max_examples=5, deadline=None)
@given(st.randoms(use_true_random=False))
def test_rows_may_come_in_any_order(draw):
    pictures, rng = draw_study(9, 8)
    correct = {row["name"]: bool(rng.random() > 0.4) for row in pictures}
    agreement = {name: rng.normal() for name in correct}
    probability = {name: rng.uniform(0.3, 1) for name in correct}
    first = look(pictures, agreement, correct, probability)
    again = look(draw.sample(pictures, len(pictures)), agreement, correct, probability)
    assert again == first


@settings(max_examples=10, deadline=None)
@given(arrays(np.float64, 6, elements=st.floats(-1, 1)))
def test_intervals_hold_their_estimate_or_nearly(shift):
    pictures, rng = draw_study(10, 8)
    correct = {row["name"]: bool(rng.random() > 0.5) for row in pictures}
    agreement = {
        name: rng.normal() + shift[place % 6] * right
        for place, (name, right) in enumerate(correct.items())
    }
    for row in look(pictures, agreement, correct).values():
        if row.get("auroc") is not None:
            assert row["low"] - 0.05 <= row["auroc"] <= row["high"] + 0.05

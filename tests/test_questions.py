"""The study's questions and the statistics that answer them."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from consilience.questions import (
    FEWEST,
    FLIPS,
    CannotAskError,
    adjust_holm,
    answer_questions,
    bootstrap_bases,
    collect_sources,
    contrast_levels,
    contrast_pictures,
    contrast_slopes,
    detect_effect,
    flip_signs,
    simple_and_cluttered,
)
from consilience.tables import (
    AGREEMENT,
    FAITHFULNESS,
    LOCALIZATION,
    PICTURES,
    PREDICTIONS,
    QUESTIONS,
    make_table,
)

PRIMARY = {"agreement": "spearman", "localization": "iou", "faithfulness": "road"}
CAMS = ("grad-cam", "score-cam", "ablation-cam")


def make_pictures(bases=8, levels=(0, 1, 2, 3, 4), **columns):
    """Rows of PICTURES: every base at every level; no levels, photographs."""
    if not levels:
        rows = [{"name": f"photo-{base}"} for base in range(bases)]
    else:
        rows = [
            {"name": f"{base:02d}-{level}", "base": f"{base:02d}", "clutter": level}
            for base in range(bases)
            for level in levels
        ]
    return make_table(
        [{"sha256": "0", "image": {"bytes": b"", "path": None}} | row | columns for row in rows],
        PICTURES,
    ).to_pylist()


def make_predictions(pictures, model="net", target=3, correct=None, probability=None):
    """Rows of PREDICTIONS of one target each."""
    rows = [
        {
            "model": model,
            "picture": row["name"],
            "target": "predicted",
            "target_index": target,
            "target_class": "star",
            "target_probability": 0.5,
            "predicted_index": target,
            "predicted_class": "star",
            "predicted_probability": (probability or {}).get(row["name"], 0.5),
            "correct": (correct or {}).get(row["name"]),
        }
        for row in pictures
    ]
    return make_table(rows, PREDICTIONS).to_pylist()


def make_scores(schema, pictures, value, model="net", target=3, **columns):
    """Rows of a long table; ``value`` is asked for each picture, and may be None."""
    rows = []
    for row in pictures:
        found = value(row)
        rows.append(
            {
                "model": model,
                "picture": row["name"],
                "target_index": target,
                "target_class": "star",
                "value": found,
                "reason": "undefined" if found is None else None,
                **columns,
            }
        )
    return make_table(rows, schema).to_pylist()


def make_agreement(pictures, value, a="grad-cam", b="lime", metric="spearman", **columns):
    pair = {"method_a": a, "method_b": b, "metric": metric}
    return make_scores(AGREEMENT, pictures, value, **pair, **columns)


def make_localization(pictures, value, method="lime", metric="iou", truth="object", **columns):
    about = {"method": method, "metric": metric, "truth": truth}
    return make_scores(LOCALIZATION, pictures, value, **about, **columns)


def make_faithfulness(pictures, value, method="lime", metric="road", fill="linear", **columns):
    rows = make_scores(
        FAITHFULNESS,
        pictures,
        value,
        **{"method": method, "metric": metric, "fill": fill, "curve": [], "random_curve": []},
        **columns,
    )
    # What counts is the difference from random orders, not the score.
    return [row | {"difference": row["value"], "value": 99.0} for row in rows]


def noise(row, scale=0.02):
    """A number that depends on the picture alone."""
    return scale * np.random.default_rng([5, *row["name"].encode()]).normal()


def answer(pictures, agreement=(), localization=(), faithfulness=(), cams=CAMS, **others):
    predictions = make_predictions(pictures)
    source = collect_sources(predictions, pictures, agreement, localization, faithfulness, cams)
    rows = answer_questions(source, ["net"], PRIMARY, **{"resamples": 500, "seed": 1} | others)
    make_table(rows, QUESTIONS)
    return {row["question"]: row for row in rows}


# ------------------------------------------------------------------------------------------------
# Statistics

differences = arrays(
    np.float64, st.integers(1, 8), elements=st.integers(-4, 4).map(lambda value: value / 4)
)


@settings(deadline=None)
@given(differences)
def test_sign_flips_are_all_tried(values):
    sums = [
        abs(sum(sign * value for sign, value in zip(signs, values, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(values))
    ]
    # Quarters are exact in binary.
    share = np.mean([found >= abs(values.sum()) for found in sums])
    assert flip_signs(values)[0] == share


@pytest.mark.parametrize("n", [3, 8, 12])
def test_sign_flips_are_those_of_scipy(n):
    values = np.random.default_rng(n).normal(0.4, 1, n)
    found = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=True
    )
    p_value, name = flip_signs(values)
    assert p_value == pytest.approx(found.pvalue, abs=1e-12)
    assert name.startswith(f"exact sign-flip test, two-sided, all 2^{n} flips")


def test_sign_flips_that_tie_but_for_the_last_digit_count():
    # 0.1 + 0.2 - 0.3 is not quite 0, and its mirror image neither.
    assert flip_signs([0.1, 0.2, -0.3])[0] == 1
    # All of one sign: the flip and its mirror image alone.
    assert flip_signs([0.1, 0.2, 0.3, 0.7, 0.1])[0] == 2 / 32


def test_few_bases_cannot_reach_the_level_and_the_test_says_so():
    p_value, name = flip_signs(np.ones(FEWEST - 1))
    assert p_value > 0.05
    assert "cannot reach 0.05" in name
    p_value, name = flip_signs(np.ones(FEWEST))
    assert p_value < 0.05
    assert "cannot" not in name


def test_many_bases_are_flipped_at_random_and_the_p_value_is_never_zero():
    p_value, name = flip_signs(np.ones(40))
    assert p_value == 1 / (1 + FLIPS)
    assert "20,000 random flips" in name
    values = np.random.default_rng(0).normal(0.3, 1, 17)
    exact = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=2**17, vectorized=True
    ).pvalue
    assert flip_signs(values, 3)[0] == pytest.approx(exact, abs=0.01)
    assert flip_signs(values, 3) == flip_signs(values, 3)


def test_sign_flips_keep_their_level():
    rng = np.random.default_rng(0)
    rejected = [flip_signs(rng.normal(size=8))[0] <= 0.05 for _ in range(1000)]
    # Of 2^8 flips, 12 of 256 make the level: 0.047; three standard errors are 0.02.
    assert np.mean(rejected) == pytest.approx(12 / 256, abs=0.02)


def test_holm_by_hand():
    # 4 × 0.01; 3 × 0.02; 2 × 0.04 = 0.08; the last, 0.05, may not fall below it.
    assert adjust_holm([0.04, 0.01, 0.05, 0.02]) == pytest.approx([0.08, 0.04, 0.08, 0.06])
    assert adjust_holm([0.6, 0.5]) == [1, 1]
    assert adjust_holm([]) == []


@settings(deadline=None)
@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_holm_knows_no_order_and_lies_between_none_and_bonferroni(p_values, draw):
    adjusted = adjust_holm(p_values)
    for p_value, found in zip(p_values, adjusted, strict=True):
        assert p_value <= found <= min(1, p_value * len(p_values)) + 1e-12
    order = draw.sample(range(len(p_values)), len(p_values))
    assert adjust_holm([p_values[place] for place in order]) == [adjusted[at] for at in order]


def test_interval_is_that_of_scipy():
    values = np.random.default_rng(2).exponential(size=9)
    found = stats.bootstrap(
        (values,), np.mean, n_resamples=700, method="BCa", rng=np.random.default_rng(4)
    ).confidence_interval
    low, high, name = bootstrap_bases(values, 700, 4)
    assert (low, high) == pytest.approx(found)
    assert name == "95 % BCa bootstrap over 9 bases, 700 resamples"


def test_interval_of_equal_differences_is_the_percentile_one_and_says_so():
    low, high, name = bootstrap_bases([0.25] * 7, 1000, 0)
    assert (low, high) == (0.25, 0.25)
    assert name == "95 % percentile bootstrap over 7 bases, 1,000 resamples"


def test_few_bases_have_no_interval():
    assert bootstrap_bases([0.3], 100, 0) == (None, None, "none: of 1 base, 6 are needed")
    values = np.arange(1.0, 1 + FEWEST)
    assert bootstrap_bases(values[1:], 100, 0)[:2] == (None, None)
    assert bootstrap_bases(values, 100, 0)[0] > 1


@pytest.mark.parametrize(("n", "spread"), [(8, 0.2), (20, 3.0)])
def test_an_effect_of_the_detectable_size_is_found_four_times_in_five(n, spread):
    rng = np.random.default_rng(n)
    sample = rng.normal(size=n)
    sample = (sample - sample.mean()) / sample.std(ddof=1) * spread
    effect = detect_effect(sample + 7)  # the mean does not matter
    draws = rng.normal(effect, spread, (20_000, n))
    found = stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.015)


def test_the_detectable_effect_is_near_that_of_the_test_itself():
    rng = np.random.default_rng(1)
    sample = rng.normal(size=12)
    effect = detect_effect(sample) / sample.std(ddof=1)
    found = [flip_signs(rng.normal(effect, 1, 12))[0] <= 0.05 for _ in range(600)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.07)


def test_no_effect_is_detectable_where_the_test_has_no_power_or_nothing_varies():
    assert detect_effect(np.arange(FEWEST - 1.0)) is None
    assert detect_effect(np.full(10, 0.3)) is None


@settings(deadline=None)
@given(st.floats(0.1, 10))
def test_the_detectable_effect_is_in_units_of_the_differences(scale):
    values = np.array([0.3, -0.1, 0.4, 0.2, 0.9, -0.5, 0.1])
    assert detect_effect(values * scale) == pytest.approx(scale * detect_effect(values))
    assert detect_effect(-values) == detect_effect(values)


# ------------------------------------------------------------------------------------------------
# Differences by base


def test_levels_are_compared_within_a_base():
    pictures = make_pictures(3, (0, 2, 4))
    scores = {"00-0": 0.9, "00-2": 7.0, "00-4": 0.4, "01-0": 0.5, "02-0": 0.1, "02-4": 0.6}
    found = contrast_levels(scores, pictures, [0], [4])
    # Base 01 lacks its cluttered side; level 2 has no part in it.
    assert found.bases == ("00", "02")
    assert found.differences == pytest.approx([-0.5, 0.5])
    assert (found.values, found.left_out) == (4, 1)
    found = contrast_levels(scores, pictures, [0], [2, 4])
    assert found.differences == pytest.approx([3.7 - 0.9, 0.5])
    assert (found.values, found.left_out) == (5, 1)


def test_pictures_are_averaged_over_a_base():
    pictures = make_pictures(2, (0, 1))
    own = {"00-0": 0.5, "00-1": 0.7, "01-0": 0.2, "01-1": 0.9}
    others = [{"00-0": 0.1, "00-1": 0.1, "01-0": 0.0}, {"00-0": 0.3, "00-1": 0.5, "01-0": 0.2}]
    found = contrast_pictures(own, others, pictures)
    # 00: (0.5 - 0.2 + 0.7 - 0.3) / 2; of 01 one picture lacks a value.
    assert found.differences == pytest.approx([0.35, 0.1])
    assert (found.values, found.left_out) == (3, 0)


def test_slopes_need_three_levels():
    pictures = make_pictures(2, (0, 1, 3))
    scores = {"00-0": 1.0, "00-1": 0.8, "00-3": 0.4, "01-0": 1.0, "01-3": 0.0}
    found = contrast_slopes(scores, pictures)
    assert found.bases == ("00",)
    assert found.differences == pytest.approx([-0.2])
    assert (found.values, found.left_out) == (3, 1)
    with pytest.raises(CannotAskError, match="three levels"):
        contrast_slopes({"01-0": 1.0, "01-3": 0.0}, pictures)


def test_cluttered_are_the_levels_above_half_of_the_highest():
    assert simple_and_cluttered(make_pictures(1, (0, 1, 2, 3, 4))) == ((0,), (3, 4))
    assert simple_and_cluttered(make_pictures(1, (0, 1))) == ((0,), (1,))


@pytest.mark.parametrize(
    ("levels", "reason"),
    [
        ((), "no known clutter"),
        ((4,), "all pictures have clutter 4"),
        ((1, 4), "no picture has clutter 0"),
    ],
)
def test_simple_and_cluttered_must_be_there(levels, reason):
    with pytest.raises(CannotAskError, match=reason):
        simple_and_cluttered(make_pictures(2, levels))


# ------------------------------------------------------------------------------------------------
# Questions


def test_planted_effects_are_found():
    pictures = make_pictures()
    agreement = make_agreement(pictures, lambda row: 0.8 - 0.1 * row["clutter"] + noise(row))
    located = [
        row
        for method, value in (("grad-cam", 0.3), ("ablation-cam", 0.4), ("score-cam", 0.5))
        for row in make_localization(pictures, lambda row, v=value: v + noise(row), method)
    ]
    located += make_localization(pictures, lambda row: 0.6 - 0.05 * row["clutter"], chance=0.1)
    faithful = make_faithfulness(pictures, lambda row: 0.2 + noise(row))
    faithful += make_faithfulness(pictures, lambda row: 0.5, "grad-cam")
    rows = answer(pictures, agreement, located, faithful)

    row = rows["agreement-and-clutter"]
    said = "agreement (spearman) of lime and grad-cam, clutter 3 and 4 minus clutter 0"
    assert row["estimand"] == said
    assert row["estimate"] == pytest.approx(-0.35, abs=0.03)
    assert row["low"] < row["estimate"] < row["high"] < -0.3
    assert (row["bases"], row["values"]) == (8, 24)
    assert row["p_value"] == 2 / 2**8
    # Four primaries, all with the smallest p-value there is.
    assert row["p_holm"] == 8 / 2**8
    assert row["role"] == "primary"
    assert 0 < row["detectable"] < 0.1
    assert "reason" not in row

    row = rows["score-cam-localises-best"]
    assert row["estimate"] == pytest.approx(0.15, abs=1e-9)  # the noise is the picture's
    assert "score-cam minus the mean of grad-cam and ablation-cam" in row["estimand"]
    assert (row["bases"], row["values"]) == (8, 40)
    assert rows["lime-and-clutter"]["estimate"] == pytest.approx(-0.175)
    assert rows["lime-and-clutter"]["detectable"] is None  # nothing varies
    assert rows["lime-and-clutter"]["interval"].startswith("95 % percentile")
    assert rows["faithful-lime-or-cam"]["estimate"] == pytest.approx(-0.3, abs=0.02)


def test_exploratory_questions_have_no_p_value():
    pictures = make_pictures()
    agreement = make_agreement(pictures, lambda row: 0.8 - 0.1 * row["clutter"])
    agreement += make_agreement(pictures, lambda row: 0.5, metric="iou")
    agreement += make_agreement(pictures, lambda row: 0.1 * row["clutter"], "lime", "score-cam")
    located = make_localization(pictures, lambda row: 0.6 - 0.1 * row["clutter"], chance=0.1)
    for row in located:
        row["chance"] = 0.5 - 0.1 * int(row["picture"][-1])
    located += make_localization(pictures, lambda row: 0.3, metric="mass-inside")
    for method, value in (("grad-cam", 0.3), ("ablation-cam", 0.4), ("score-cam", 0.5)):
        located += make_localization(pictures, lambda row, v=value: v, method)
        located += make_localization(pictures, lambda row, v=value: 2 * v, method, "mass-inside")
    faithful = []
    for method, value in (("grad-cam", 0.3), ("score-cam", 0.4), ("lime", 0.5)):
        faithful += make_faithfulness(pictures, lambda row, v=value: v, method)
        faithful += make_faithfulness(
            pictures, lambda row, v=value: 2 * v, method, "deletion", "mean"
        )
    rows = answer(pictures, agreement, located, faithful)
    found = {name: row["estimate"] for name, row in rows.items() if ":" in name}
    assert found == pytest.approx(
        {
            "agreement-and-clutter:iou": 0,
            "agreement-and-clutter:lime+score-cam": 0.35,
            "agreement-and-clutter:slope": -0.1,
            "score-cam-localises-best:mass-inside": 0.3,
            "score-cam-localises-best:ablation-cam": 0.1,
            "score-cam-localises-best:grad-cam": 0.2,
            "lime-and-clutter:mass-inside": 0,
            "lime-and-clutter:above-chance": 0,
            "lime-and-clutter:slope": -0.1,
            "faithful-lime-or-cam:deletion-mean": 0.4,
            "faithful-lime-or-cam:score-cam": 0.1,
        }
    )
    for name, row in rows.items():
        if ":" in name:
            assert row["role"] == "exploratory"
            assert not {"p_value", "p_holm", "detectable", "test"} & set(row)
            assert row["low"] is not None
            assert row["interval"].startswith("95 %")
    assert list(rows)[:4] == [name for name, row in rows.items() if row["role"] == "primary"]


def test_what_cannot_be_asked_has_its_reason_and_leaves_the_family():
    pictures = make_pictures()
    agreement = make_agreement(pictures, lambda row: 0.8 - 0.1 * row["clutter"] + noise(row))
    located = make_localization(pictures, lambda row: None)
    rows = answer(pictures, agreement, located, cams=("grad-cam",))
    assert rows["agreement-and-clutter"]["p_holm"] == rows["agreement-and-clutter"]["p_value"]
    reasons = {name: row["reason"] for name, row in rows.items() if "reason" in row}
    undefined = "localisation (lime, iou) is undefined on every picture"
    assert reasons == {
        "score-cam-localises-best": "Score-CAM is not among the study's methods",
        "lime-and-clutter": undefined,
        "lime-and-clutter:above-chance": undefined,
        "lime-and-clutter:slope": undefined,
        "faithful-lime-or-cam": "faithfulness was not measured",
    }
    for name in reasons:
        assert not {"estimate", "low", "high", "p_value", "detectable"} & set(rows[name])
        assert (rows[name]["bases"], rows[name]["values"]) == (0, 0)


def test_a_study_without_maps_or_without_lime_asks_nothing_of_them():
    pictures = make_pictures()
    rows = answer(pictures, cams=())
    assert rows["agreement-and-clutter"]["reason"] == "the study has no class activation maps"
    agreement = make_agreement(pictures, lambda row: 0.5, "ablation-cam", "grad-cam")
    rows = answer(pictures, agreement)
    reason = "agreement (grad-cam, lime, spearman) was not measured"
    assert rows["agreement-and-clutter"]["reason"] == reason
    rows = answer(pictures, cams=("score-cam",))
    assert rows["score-cam-localises-best"]["reason"].endswith("no CAM method beside Score-CAM")


def test_photographs_are_their_own_bases():
    pictures = make_pictures(7, ())
    faithful = make_faithfulness(pictures, lambda row: 0.3 + noise(row))
    faithful += make_faithfulness(pictures, lambda row: 0.1, "grad-cam")
    rows = answer(pictures, make_agreement(pictures, lambda row: 0.5), (), faithful)
    assert rows["faithful-lime-or-cam"]["bases"] == 7
    assert rows["agreement-and-clutter"]["reason"] == "the pictures have no known clutter"


def test_a_base_that_lacks_a_side_is_counted_and_left_out():
    pictures = make_pictures(8, (0, 2, 4))
    value = {f"{base:02d}-4": 0.1 for base in range(7)}
    agreement = make_agreement(
        pictures, lambda row: value.get(row["name"], None if row["clutter"] == 4 else 0.5)
    )
    row = answer(pictures, agreement)["agreement-and-clutter"]
    assert (row["bases"], row["values"]) == (7, 14)
    assert row["interval"].endswith(
        "over 7 bases, 500 resamples; 1 base left out for a missing value"
    )


def test_drawn_pictures_controls_other_truths_and_later_targets_do_not_count():
    pictures = make_pictures()
    drawn = make_pictures(3, (0, 4), weight=2.0)
    drawn = [row | {"name": f"d{row['name']}", "base": f"d{row['base']}"} for row in drawn]
    broken = make_pictures(1, (0, 4), error="does not decode")
    broken = [row | {"name": f"b{row['name']}", "base": f"b{row['base']}"} for row in broken]
    everyone = pictures + drawn + broken

    def value(row):
        return 0.5 - 0.1 * row["clutter"] + noise(row)

    plain = answer(pictures, make_agreement(pictures, value), make_localization(pictures, value))

    # Whether they come before or after what does count.
    def large(row):
        return 9.0 * row["clutter"]

    others = make_agreement(everyone, large, control="centre")
    others += make_agreement(everyone, large, target=4)
    others += make_agreement(drawn + broken, large)
    elsewhere = make_localization(pictures, large, truth="scene")
    elsewhere += make_localization(pictures, large, target=4)
    agreement, located = make_agreement(pictures, value), make_localization(pictures, value)
    assert answer(everyone, others + agreement, elsewhere + located) == plain
    assert answer(everyone, agreement + others, located + elsewhere) == plain


@settings(max_examples=10, deadline=None)
@given(st.randoms(use_true_random=False))
def test_rows_may_come_in_any_order(draw):
    pictures = make_pictures(7, (0, 2, 4))
    agreement = make_agreement(pictures, lambda row: 0.5 - 0.1 * row["clutter"] + noise(row))
    located = make_localization(pictures, lambda row: 0.5 + noise(row), chance=0.1)
    first = answer(pictures, agreement, located)
    for rows in (agreement, located):
        draw.shuffle(rows)
    swapped = [
        row | {"method_a": row["method_b"], "method_b": row["method_a"]} for row in agreement
    ]
    again = draw.sample(pictures, len(pictures))
    assert answer(again, swapped, located) == first


def test_models_share_one_family_and_keep_their_numbers():
    pictures = make_pictures()
    predictions, agreement = [], []
    for model, slope in (("b", -0.1), ("a", 0.0)):
        predictions += make_predictions(pictures, model)
        agreement += make_agreement(
            pictures, lambda row, s=slope: 0.5 + s * row["clutter"] + noise(row), model=model
        )
    source = collect_sources(predictions, pictures, agreement, cams=CAMS)
    rows = answer_questions(source, ["b", "a", "b"], PRIMARY, 300)
    primaries = [row for row in rows if row["role"] == "primary"]
    assert [row["model"] for row in primaries] == ["a", "b"] * 4
    a, b = primaries[:2]
    assert b["p_holm"] == 2 * b["p_value"] == 4 / 2**8
    assert a["p_holm"] == max(a["p_value"], b["p_holm"])
    assert a["p_value"] > 0.05
    alone = answer_questions(source, ["b"], PRIMARY, 300)[0]
    assert (alone["low"], alone["high"]) == (b["low"], b["high"])


def test_shuffled_levels_show_nothing():
    # Across studies without an effect, Holm over the family rejects about one in twenty.
    rng = random.Random(0)
    rejected = 0
    for study in range(60):
        pictures = make_pictures(8, (0, 4))
        value = {row["name"]: rng.gauss(0, 1) for row in pictures}
        agreement = make_agreement(pictures, lambda row, v=value: v[row["name"]])
        located = make_localization(pictures, lambda row: rng.gauss(0, 1))
        rows = answer(pictures, agreement, located, resamples=100, seed=study)
        rejected += any(row.get("p_holm", 1) <= 0.05 for row in rows.values())
    assert rejected <= 9  # of 60; binomial(60, 0.05) exceeds it with probability below 0.002

"""Agreement against what the model uses: planted witnesses who agree, rightly and wrongly."""

from dataclasses import replace

import numpy as np
import pytest

from consilience import tables, trust, world
from consilience.images import decode_png
from consilience.measures import Superpixels

SIZE = 64
PICTURES = world.describe_rows(world.study_pictures(0, 2, [0, 3, 4], ["partner", "other"]), SIZE)
MASKS = {row["name"]: decode_png(row["mask_visible"]) != 0 for row in PICTURES}
VIEWS = [{"picture": row["name"], "mask_visible": row["mask_visible"]} for row in PICTURES]


def at_object(mask):
    return mask + 0.1


def at_scene(mask):
    return 1.1 - mask


def judge(lime, cam, matters="object", agreement=0.6, ceiling=0.8, right=True):
    explanations = {
        (name, 1): {"lime": lime(mask), "grad-cam": cam(mask)} for name, mask in MASKS.items()
    }
    predictions = [
        {"model": "m", "picture": name, "target_index": 1, "correct": right} for name in MASKS
    ]
    pair = {"method_a": "grad-cam", "method_b": "lime", "metric": "spearman", "target_index": 1}
    rows = [
        pair
        | {"picture": name, "control": control, "value": value}
        | {"reason": None if value is not None else "constant map"}
        for name in MASKS
        for control, value in ((None, agreement), ("ceiling", ceiling), ("edges", -5.0))
    ]
    known = {(name, 1, kind): kind == matters for name in MASKS for kind in ("object", "scene")}
    found = trust.judge_pictures(explanations, predictions, VIEWS, PICTURES, rows, known)
    tables.make_table(found, tables.TRUST)
    assert len(found) == len(MASKS)
    return found


def only(rows, *keys):
    ((*values,),) = {tuple(row[key] for key in keys) for row in rows}
    return values


@pytest.mark.parametrize(
    ("lime", "cam", "matters", "right", "wrong_together"),
    [
        (at_object, at_object, "object", True, False),
        (at_scene, at_scene, "scene", True, False),
        (at_object, at_object, "scene", False, True),
        (at_scene, at_scene, "object", False, True),
        (at_object, at_scene, "object", False, False),
        (at_object, at_object, "nothing", None, False),
    ],
)
def test_both_must_point_at_what_matters(lime, cam, matters, right, wrong_together):
    rows = judge(lime, cam, matters)
    assert only(rows, "counterfactual") == [right]
    assert {trust.is_wrong_together(row) for row in rows} == {wrong_together}


def test_superpixels_point_too():
    def lime(mask):
        return Superpixels(mask.astype(int), [0.2, 0.1])  # less weight, but on less area

    rows = judge(lime, at_object)
    assert only(rows, "lime_points_at") == ["object"]


def test_agreement_is_corrected_by_its_ceiling():
    assert only(judge(at_object, at_object), "corrected") == [pytest.approx(0.75)]
    assert only(judge(at_object, at_object, agreement=0.9), "corrected") == [1]
    rows = judge(at_object, at_object, ceiling=0.1)
    assert only(rows, "corrected", "reason") == [None, "the ceiling is too low to correct by"]
    rows = judge(at_object, at_object, agreement=None)
    assert only(rows, "corrected", "reason") == [None, "constant map"]


def test_a_map_that_orders_nothing_points_nowhere():
    rows = judge(at_object, lambda mask: np.ones(mask.shape))
    assert only(rows, "cam_points_at", "counterfactual") == [None, None]
    assert only(rows, "reason") == ["grad-cam: constant map"]


def test_conditions_are_told_apart_by_the_picture():
    found = {row["name"]: trust.name_condition(row) for row in PICTURES}
    assert found["picture-000-clutter-0-partner-scene"] == "clean"
    assert found["picture-001-clutter-3-partner-scene"] == "cluttered"
    assert found["picture-001-clutter-4-partner-scene"] == "occluded"
    assert found["picture-000-clutter-0-other-scene"] == "decorrelated"
    assert found["picture-000-clutter-4-other-scene"] == "decorrelated, occluded"
    assert set(found.values()) == set(trust.CONDITIONS)


def pairs(corrected, right, condition="clean"):
    return [
        {"model": "m", "cam": "grad-cam", "picture": f"p{n:03d}", "base": f"b{n}"}
        | {"condition": condition, "corrected": value, "counterfactual": is_right}
        | {"prediction": None}
        for n, (value, is_right) in enumerate(zip(corrected, right, strict=True))
    ]


def test_curves_say_how_often_is_right():
    rows = pairs([-2 / 3] * 4 + [0.6] * 5 + [0.9] * 8, [False] * 4 + [True, False] * 2 + [True] * 9)
    found = trust.calibrate(rows, resamples=200)
    tables.make_table(found, tables.CALIBRATION)
    assert {row["condition"] for row in found} == {"all", "clean"}
    assert {row["correct"] for row in found} == {"counterfactual"}
    clean = {row["bin"]: row for row in found if row["condition"] == "clean"}
    assert {place: row["right"] for place, row in clean.items()} == {
        None: 11 / 17,
        0: 0,
        3: 3 / 5,
        4: 1,
    }
    assert (clean[3]["from_agreement"], clean[3]["to_agreement"]) == (0.5, 0.75)
    assert clean[3]["low"] < 3 / 5 < clean[3]["high"]
    # 6 wrong ones: four below all that are right; two tied with 3 right ones, below the other 8.
    assert clean[None]["auroc"] == pytest.approx((4 * 11 + 2 * (8 + 3 / 2)) / 66)
    assert clean[0].get("auroc") is None


def test_witnesses_who_agree_and_are_wrong_have_a_falling_curve():
    rng = np.random.default_rng(0)
    corrected = rng.uniform(0, 1, 200)
    rows = pairs(corrected, corrected + rng.normal(0, 0.2, 200) < 0.5)
    clean = {row["bin"]: row for row in trust.calibrate(rows, 200) if row["condition"] == "all"}
    shares = [clean[place]["right"] for place in (1, 2, 3, 4)]
    assert shares == sorted(shares, reverse=True)
    assert clean[None]["auroc_high"] < 0.2


def test_the_edge_belongs_to_the_bin_above():
    found = trust.calibrate(pairs([0.5, 1.0, -1.0, 0.0], [True] * 4), 100)
    assert [row["bin"] for row in found if row["condition"] == "all"] == [None, 0, 1, 3, 4]


# The world's side of it


def test_scenes_are_set_to_objects():
    for index in range(20):
        picture = world.sample_picture(3, "study", index, 2)
        partner = world.relate_scene(picture, "partner")
        other = world.relate_scene(picture, "other")
        assert partner.scene == world.PARTNERS[picture.object] != other.scene
        assert (
            replace(partner, scene=picture.scene) == replace(other, scene=picture.scene) == picture
        )


def test_a_shortcut_holds_as_often_as_asked():
    arrays = world.render_training_set(0, "training", 0, 300, 16, [0], shortcut=0.95)
    same = np.mean(arrays["object"] == arrays["scene"])  # partners have one index
    assert 0.92 <= same <= 0.98
    plain = world.render_training_set(0, "training", 0, 300, 16, [0])
    assert np.mean(plain["object"] == plain["scene"]) < 0.2
    assert (arrays["object"] == plain["object"]).all()
    assert np.bincount(arrays["scene"]).min() > 20


def test_pictures_with_scenes_set_are_made_again_by_name():
    source = {"bases": 2, "clutter": [0, 4], "scenes": ["partner", "other"]}
    pictures = world.study_pictures(0, **source)
    assert len(pictures) == 8
    names = list(pictures)[::-1]
    assert world.recreate_pictures(names, 0, [{"world": source}]) == {n: pictures[n] for n in names}
    bases = {row["base"] for row in PICTURES}
    assert bases == {"picture-000", "picture-001"}

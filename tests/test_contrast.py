"""How far explanations move with the model: planted maps whose move is known."""

import numpy as np
import pytest

from consilience import tables, world
from consilience.contrast import Asked, measure_contrast, summarise_contrast
from consilience.errors import ConsilienceError
from consilience.images import decode_png
from consilience.measures import Superpixels

SIZE = 64
PICTURES = world.describe_rows(world.study_pictures(0, 3, [0, 3]), SIZE)
for _row in PICTURES:
    _row["weight"] = None
VIEWS = [{"picture": row["name"], "mask_visible": row["mask_visible"]} for row in PICTURES]
MASKS = {row["name"]: decode_png(row["mask_visible"]) != 0 for row in PICTURES}


def asked(name, tells, maps, right=lambda name: True, matters=lambda name: True):
    predictions = [
        {"picture": row["name"], "target_index": 1, "correct": right(row["name"])}
        for row in PICTURES
    ]
    explanations = {
        (picture, 1): {method: make(mask) for method, make in maps.items()}
        for picture, mask in MASKS.items()
    }
    mattered = {(picture, 1, tells): matters(picture) for picture in MASKS}
    return Asked(name, explanations, predictions, mattered, tells)


def segmented(mask):
    return Superpixels(mask.astype(int), [0.1, 0.9])


def truthful(mask):
    return mask.astype(float)


def elsewhere(mask):
    return (~mask).astype(float)


def measure(one=None, other=None, **about):
    one = one or {"moves": truthful, "stays": truthful, "lime": segmented}
    other = other or {"moves": elsewhere, "stays": truthful, "lime": segmented}
    nets = asked("objects", "object", one), asked("scenes", "scene", other, **about)
    return measure_contrast(*nets, VIEWS, PICTURES)


def test_a_map_that_follows_the_model_moves_and_one_that_does_not_stays():
    rows = measure()
    tables.make_table(rows, tables.CONTRAST)
    moves = {(row["method"], row["metric"]): row["move"] for row in rows}
    assert moves["moves", "mass-inside"] == moves["moves", "pointing-game"] == 1
    assert moves["moves", "iou"] > 0.9
    assert {moves["stays", metric] for _, metric in moves} == {0}
    assert moves["lime", "mass-inside"] == 0
    assert len(rows) == len(PICTURES) * 3 * 4


def test_the_summary_is_over_bases_that_both_nets_are_right_about():
    wrong, idle = PICTURES[0]["name"], PICTURES[2]["name"]
    rows = measure(right=lambda name: name != wrong, matters=lambda name: name != idle)
    summary = summarise_contrast(rows, resamples=200)
    tables.make_table(summary, tables.CONTRAST_SUMMARY)
    found = {
        row["causal"]: row
        for row in summary
        if (row["method"], row["metric"]) == ("moves", "mass-inside")
    }
    assert (found[False]["bases"], found[False]["pictures"]) == (3, 5)
    assert (found[True]["bases"], found[True]["pictures"]) == (3, 4)
    assert found[False]["move"] == found[False]["low"] == found[False]["share"] == 1
    assert (found[False]["on_object_net"], found[False]["on_scene_net"]) == (1, 0)


def test_without_a_right_picture_there_is_no_move():
    rows = measure(right=lambda name: False)
    assert {row["move"] for row in summarise_contrast(rows)} == {None}


def test_a_map_that_says_nothing_has_its_reason():
    def empty(mask):
        return np.zeros(mask.shape)

    rows = measure({"moves": truthful}, {"moves": empty})
    assert {row["move"] for row in rows} == {None}
    assert {row["reason"] for row in rows} == {"constant map"}


def test_nets_that_see_other_sizes_are_refused():
    def small(mask):
        return mask[::2, ::2].astype(float)

    with pytest.raises(ConsilienceError, match="objects and scenes are contrasted on one geometry"):
        measure({"moves": truthful}, {"moves": small})


def test_pictures_drawn_for_being_wrong_are_passed_over():
    drawn = [PICTURES[0] | {"weight": 2.0}, *PICTURES[1:]]
    nets = asked("o", "object", {"m": truthful}), asked("s", "scene", {"m": truthful})
    rows = measure_contrast(*nets, VIEWS, drawn)
    assert PICTURES[0]["name"] not in {row["picture"] for row in rows}

"""The world: balanced, separable factor by factor, with masks that are what is seen."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consilience import tables, world
from consilience.errors import ConsilienceError
from consilience.images import decode_png, hash_bytes
from consilience.world import Picture

PICTURES = st.builds(
    world.sample_picture,
    seed=st.integers(0, 2**32),
    stream=st.sampled_from(["training", "probe", "study"]),
    index=st.integers(0, 10_000),
    clutter=st.sampled_from(world.CLUTTER_LEVELS),
)


def sample(index: int = 0, clutter: int = 0, **changes) -> Picture:
    return replace(world.sample_picture(7, "study", index, clutter), **changes)


def widen(mask: np.ndarray) -> np.ndarray:
    """Add what lies within two pixels: anti-aliasing touches it, at thin tips the second too."""
    padded = np.pad(mask, 2)
    size = len(mask)
    return np.any([padded[i : i + size, j : j + size] for i in range(5) for j in range(5)], axis=0)


def changed(one: world.Rendering, other: world.Rendering) -> np.ndarray:
    return (one.image != other.image).any(axis=2)


# Sampling


def test_same_seed_same_picture_and_streams_share_none():
    def draw(seed, stream):
        return [world.sample_picture(seed, stream, index, 1) for index in range(30)]

    assert draw(1, "training") == draw(1, "training")
    seeds = [
        picture.background_seed
        for seed, stream in ((1, "training"), (1, "held-out"), (1, "probe"), (2, "training"))
        for picture in draw(seed, stream)
    ]
    assert len(set(seeds)) == len(seeds)


def test_classes_are_balanced_and_independent():
    pictures = [world.sample_picture(0, "training", index, 0) for index in range(4000)]
    for attribute, values in (("object", 10), ("scene", 10), ("colour", 8)):
        counts = Counter(getattr(picture, attribute) for picture in pictures)
        assert set(counts.values()) == {4000 // values}
    for one, other, cells in (
        ("object", "scene", 100),
        ("object", "colour", 80),
        ("scene", "colour", 80),
    ):
        counts = Counter((getattr(p, one), getattr(p, other)) for p in pictures)
        expected = 4000 / cells
        chi_squared = sum((counts[key] - expected) ** 2 / expected for key in counts)
        assert len(counts) == cells
        assert chi_squared < 1.5 * cells


def test_clutter_level_is_drawn_from_nothing():
    assert sample(3, 4) == replace(sample(3, 0), clutter=4)


@given(PICTURES)
@settings(max_examples=200, deadline=None)
def test_object_lies_within_the_picture(picture):
    radius = picture.diameter / 2
    assert radius < min(picture.x, picture.y)
    assert max(picture.x, picture.y) < 1 - radius
    assert abs(picture.angle) <= 0.35
    assert picture.object not in picture.distractor_classes
    assert picture.colour not in picture.distractor_colours


@pytest.mark.parametrize("name", world.OBJECTS)
def test_shape_lies_within_its_circle(name):
    axis = np.linspace(-1.4, 1.4, 281, dtype=np.float32)
    u, v = np.meshgrid(axis, axis)
    distance, motif = world._SHAPES[name](u, v)
    assert np.hypot(u, v)[distance < 0].max() <= 1.0
    share = motif[distance < -world._OUTLINE].mean()
    assert 0.1 < share < 0.7


# One factor at a time


@pytest.mark.parametrize("clutter", world.CLUTTER_LEVELS)
def test_another_scene_changes_nothing_else(clutter):
    picture = sample(1, clutter, scene="brick")
    one, other = world.render(picture), world.render(replace(picture, scene="water"))
    assert (one.mask_visible == other.mask_visible).all()
    assert (one.mask_whole == other.mask_whole).all()
    assert (one.distractor_map == other.distractor_map).all()
    # Away from all edges (the frame may hide one), where the scene shines through.
    things = one.distractor_map + 100 * one.mask_visible
    edges = (np.diff(things, axis=0, append=0) != 0) | (np.diff(things, axis=1, append=0) != 0)
    inner = (things > 0) & ~widen(edges)
    inner = inner & np.pad(np.ones((92, 92), bool), 2)
    assert inner.any()
    assert not changed(one, other)[inner].any()


@pytest.mark.parametrize("clutter", world.CLUTTER_LEVELS)
def test_taking_the_object_away_changes_nothing_else(clutter):
    picture = sample(2, clutter)
    whole, without = world.render(picture), world.render(replace(picture, object=None))
    assert not without.mask_whole.any()
    assert not without.mask_visible.any()
    assert (without.box == 0).all()
    assert without.distractors == whole.distractors
    # The object was seen where something changed, and something changed wherever it was seen.
    difference = changed(whole, without)
    assert (difference <= widen(whole.mask_visible)).all()
    assert (difference | ~whole.mask_visible).all()
    elsewhere = ~whole.mask_whole
    assert (whole.distractor_map[elsewhere] == without.distractor_map[elsewhere]).all()


@pytest.mark.parametrize("change", [{"colour": "green"}, {"fill": "domed"}])
def test_colour_and_fill_change_the_object_alone(change):
    picture = sample(4, 3, colour="red", fill="plain", distractor_colours=("blue",) * 7)
    one, other = world.render(picture), world.render(replace(picture, **change))
    difference = changed(one, other)
    assert difference.any()
    assert (difference <= widen(one.mask_visible)).all()
    assert (one.mask_visible == other.mask_visible).all()


@pytest.mark.parametrize("index", range(6))
def test_clutter_changes_neither_object_nor_scene_and_nests(index):
    renderings = [world.render(sample(index, level)) for level in world.CLUTTER_LEVELS]
    for lower, upper in pairwise(renderings):
        assert upper.distractors[: len(lower.distractors)] == lower.distractors
        assert len(upper.distractors) > len(lower.distractors)
        assert (upper.mask_whole == lower.mask_whole).all()
        assert (upper.box == lower.box).all()
        new = upper.distractor_map > len(lower.distractors)
        # What lies behind the object shines through its anti-aliased edge.
        edge = widen(upper.mask_whole) & widen(~upper.mask_whole)
        assert (changed(lower, upper) <= widen(new) | edge).all()
        assert (upper.distractor_map[~new] == lower.distractor_map[~new]).all()


@pytest.mark.parametrize("base", range(8))
def test_a_study_picture_has_one_object_and_scene_at_every_level(base):
    """Clutter is all that a base picture's levels differ in: pixels as well as masks."""
    names = [f"picture-{base:03d}-clutter-{level}" for level in world.CLUTTER_LEVELS]
    pictures = world.study_pictures(11, base + 1, world.CLUTTER_LEVELS)
    first, *others = [world.render(pictures[name]) for name in names]
    for other in others:
        assert (other.mask_whole == first.mask_whole).all()
        # The scene wherever no distractor is, the object wherever it is seen; at its edge what
        # lies behind it shines through.
        near = widen(other.distractor_map > 0)
        edge = widen(first.mask_whole) & widen(~first.mask_whole)
        assert (~near & ~edge).any()
        assert not changed(first, other)[~near & ~edge].any()
        inner = other.mask_visible & ~edge & ~widen(other.distractor_map == len(other.distractors))
        assert inner.any()
        assert not changed(first, other)[inner].any()


@pytest.mark.parametrize("clutter", [3, 4])
@pytest.mark.parametrize("index", range(4))
def test_leaving_a_distractor_out_changes_nothing_else(index, clutter):
    picture = sample(index, clutter)
    whole = world.render(picture)
    for number, name in enumerate(whole.distractors, start=1):
        if whole.distractors.count(name) > 1:
            continue
        without = world.render(picture, without=[name])
        seen, covered = whole.distractor_map == number, widen(whole.distractor_map == number)
        assert not (without.distractor_map == number).any()
        assert without.distractors == whole.distractors
        assert (without.mask_whole == whole.mask_whole).all()
        difference = changed(whole, without)
        assert difference.any() or not seen.any()
        # What it hid comes to light, and where another lay over its edge that edge shone through.
        edges = np.zeros_like(seen)
        for other in (*range(1, len(whole.distractors) + 1), None):
            area = whole.mask_visible if other is None else whole.distractor_map == other
            edges |= widen(area) & widen(~area)
        assert (difference <= covered | edges).all()
        others = ~seen & (whole.distractor_map > 0)
        assert (without.distractor_map[others] == whole.distractor_map[others]).all()
        if name != "board":
            assert (without.mask_visible == whole.mask_visible).all()


def test_leaving_out_what_is_not_there_changes_nothing():
    picture = sample(3, 4)
    whole = world.render(picture)
    for without in ([], ["dog"], [picture.object]):
        assert not changed(whole, world.render(picture, without=without)).any()


def test_swapped_object_is_never_among_its_distractors():
    picture = sample(0, 4)
    for name in world.OBJECTS:
        assert name not in world.render(replace(picture, object=name)).distractors


# What is known of a picture is what is seen


def test_levels_hold_what_they_say():
    for index in range(20):
        distractors = {
            level: world.render(sample(index, level)).distractors for level in world.CLUTTER_LEVELS
        }
        assert distractors[0] == ()
        assert len(distractors[1]) == 2
        assert len(distractors[2]) == 4
        assert set(distractors[2]) <= set(world.NEUTRAL)
        assert set(distractors[3][4:]) <= set(world.OBJECTS)
        assert set(distractors[4][4:-1]) <= set(world.OBJECTS)
        assert distractors[4][-1] == "board"


@pytest.mark.parametrize("name", world.OBJECTS)
def test_only_the_board_hides_the_object_and_about_a_third(name):
    for index in range(12):
        picture = world.sample_picture(3, "study", index, 4)
        # The board is laid for the class drawn: look for one of this class.
        while picture.object != name:
            index += 12
            picture = world.sample_picture(3, "study", index, 4)
        rendering = world.render(picture)
        hidden = 1 - rendering.mask_visible.sum() / rendering.mask_whole.sum()
        assert 0.2 <= hidden <= 0.45
        below = world.render(replace(picture, clutter=3))
        assert (below.mask_visible == below.mask_whole).all()


@given(PICTURES, st.sampled_from([32, 96, 131]))
@settings(max_examples=40, deadline=None)
def test_masks_and_maps_are_consistent(picture, size):
    rendering = world.render(picture, size)
    assert rendering.image.shape == (size, size, 3)
    assert rendering.image.dtype == np.uint8
    assert rendering.mask_whole.any()
    assert (rendering.mask_visible <= rendering.mask_whole).all()
    assert not (rendering.mask_visible & (rendering.distractor_map > 0)).any()
    assert rendering.distractor_map.max() <= len(rendering.distractors)
    left, top, right, bottom = rendering.box.astype(int)
    inside = rendering.mask_whole[top:bottom, left:right]
    assert inside.sum() == rendering.mask_whole.sum()
    assert inside[0].any()
    assert inside[-1].any()
    assert inside[:, 0].any()
    assert inside[:, -1].any()


def test_mask_of_a_ball_is_its_disc():
    picture = sample(object="ball", x=0.45, y=0.55, diameter=0.5, angle=0.2)
    mask = world.render(picture, 96).mask_whole
    radius = 0.96 * 0.25 * 96
    rows, columns = np.mgrid[:96, :96] + 0.5
    distance = np.hypot(columns - 0.45 * 96, rows - 0.55 * 96)
    assert mask[distance < radius - 0.75].all()
    assert not mask[distance > radius + 0.75].any()
    assert mask.sum() == pytest.approx(math.pi * radius**2, rel=0.01)


def test_mask_of_an_upright_box_is_its_square():
    # Half a side is 0.705 radii: here 20 pixels.
    picture = sample(object="box", x=0.5, y=0.5, diameter=0.4 / 0.705, angle=0.0)
    rendering = world.render(picture, 100)
    expected = np.zeros((100, 100), bool)
    expected[30:70, 30:70] = True
    assert (rendering.mask_whole == expected).all()
    assert rendering.box.tolist() == [30, 30, 70, 70]


def test_colour_of_the_object_is_the_one_it_has():
    for colour in world.COLOURS:
        picture = sample(object="heart", colour=colour, fill="plain")
        rendering = world.render(picture)
        pixels = rendering.image[rendering.mask_visible].astype(int)
        # The brightest part of the object, beside outline and motif, is the plain colour.
        brightest = pixels[np.argsort(pixels.sum(1))[len(pixels) * 3 // 4]]
        nearest = min(
            world.COLOURS, key=lambda name: np.abs(brightest - world._PALETTE[name]).sum()
        )
        assert nearest == colour


@pytest.mark.parametrize("size", [48, 192])
def test_picture_is_the_same_at_another_size(size):
    small, usual = world.render(sample(5, 4), size), world.render(sample(5, 4), 96)
    assert small.distractors == usual.distractors
    assert small.mask_visible.mean() == pytest.approx(usual.mask_visible.mean(), rel=0.05)
    assert small.image.mean() == pytest.approx(usual.image.mean(), rel=0.05)


@pytest.mark.parametrize(
    ("index", "clutter", "means"),
    [
        (0, 0, [81, 86, 63, 82, 108, 45, 81, 112, 41, 80, 111, 40]),
        (1, 2, [129, 81, 58, 122, 75, 56, 122, 82, 46, 111, 74, 41]),
        (2, 4, [45, 110, 125, 56, 93, 103, 76, 85, 81, 56, 102, 108]),
    ],
)
def test_version_1_looks_as_it_did(index, clutter, means):
    # RGB means of the picture's quarters. If they change, so must `VERSION`.
    assert world.VERSION == 1
    quarters = world.render(sample(index, clutter)).image.reshape(2, 48, 2, 48, 3)
    assert np.abs(quarters.mean((1, 3)).ravel() - means).max() <= 1


# Words


def test_captions_say_the_truth():
    picture = sample(object="arrow", colour="orange", scene="grass")
    assert world.caption(picture) == "an orange arrow on grass"
    assert world.caption(replace(picture, colour="red", scene="night")) == "a red arrow at night"
    assert world.caption(picture, 1) == "a photo of an arrow"
    assert world.caption(picture, len(world.CAPTIONS)) == world.caption(picture, 0)
    others = set(world.concepts()) - {"arrow", "orange", "grass"}
    for variant in range(len(world.CAPTIONS)):
        words = set(world.caption(picture, variant).split())
        assert words & {"arrow", "orange", "grass"}
        assert not words & others


def test_caption_without_object_names_none():
    picture = sample(object=None, scene="sky")
    captions = {world.caption(picture, variant) for variant in range(5)}
    assert captions == {"sky", "a photo of sky", "nothing in the sky"}


def test_concepts_are_distinct_and_absent_ones_absent():
    words = world.concepts()
    assert len(set(words)) == len(words) == 28 + len(world.ABSENT_CONCEPTS)
    assert set(world.ABSENT_CONCEPTS).isdisjoint(world.OBJECTS + world.SCENES + world.COLOURS)
    assert set(world.ABSENT_CONCEPTS).isdisjoint(" ".join(world.CAPTIONS).split())


# Sets


def test_training_set_is_what_is_rendered():
    arrays = world.render_training_set(7, "training", 3, 9, 48, (0, 2))
    assert arrays["images"].shape == (6, 48, 48, 3)
    assert arrays["clutter"].tolist() == [2, 0, 2, 0, 2, 0]
    for place in range(6):
        picture = world.sample_picture(7, "training", place + 3, arrays["clutter"][place])
        rendering = world.render(picture, 48)
        assert (arrays["images"][place] == rendering.image).all()
        assert (arrays["box"][place] == rendering.box).all()
        assert world.OBJECTS[arrays["object"][place]] == picture.object
        assert world.SCENES[arrays["scene"][place]] == picture.scene
        assert world.COLOURS[arrays["colour"][place]] == picture.colour


def test_study_pictures_share_their_base():
    pictures = world.study_pictures(7, 2, (0, 4))
    assert list(pictures) == [
        "picture-000-clutter-0",
        "picture-000-clutter-4",
        "picture-001-clutter-0",
        "picture-001-clutter-4",
    ]
    first, second = list(pictures.values())[:2]
    assert replace(first, clutter=4) == second


def test_probe_pictures_cycle_levels():
    pictures = world.probe_pictures(7, 3, (1, 3))
    assert [(name, picture.clutter) for name, picture in pictures.items()] == [
        ("probe-00000", 1),
        ("probe-00001", 3),
        ("probe-00002", 1),
    ]


def test_candidates_are_named_by_their_place_and_share_no_picture_with_other_streams():
    some = world.candidate_pictures(7, [3, 12, 1234], (0, 4))
    assert list(some) == ["wrong-0000003", "wrong-0000012", "wrong-0001234"]
    assert [picture.clutter for picture in some.values()] == [4, 0, 0]
    assert world.candidate_pictures(7, range(20), (0, 4))["wrong-0000012"] == some["wrong-0000012"]
    for stream in ("study", "training", "held-out", "probe"):
        assert world.sample_picture(7, stream, 12, 0) != some["wrong-0000012"]


def test_pictures_are_recreated_from_their_names():
    sources = [
        {"folder": "photographs"},
        {"world": {"bases": 2, "clutter": [0, 4]}},
        {"wrong": {"clutter": [1, 3]}},
    ]
    wrong = world.candidate_pictures(7, [5, 8], [1, 3])
    study = world.study_pictures(7, 2, [0, 4])
    names = [*reversed(wrong), *study]
    found = world.recreate_pictures(names, 7, sources)
    assert list(found) == names
    assert found == wrong | study
    for name in ("picture-002-clutter-0", "wrong-five", "photo.png"):
        with pytest.raises(ConsilienceError, match=f"{name}: is no rendered picture of this study"):
            world.recreate_pictures([name], 7, sources)
    with pytest.raises(ConsilienceError, match="is no rendered picture"):
        world.recreate_pictures(["wrong-0000005"], 7, sources[:2])


def test_rows_fit_their_table_and_hold_the_rendering():
    pictures = world.study_pictures(7, 1, (0, 4)) | world.probe_pictures(7, 1, (1,))
    rows = world.describe_rows(pictures, 64)
    table = tables.make_table(rows, tables.PICTURES)
    assert table.column("base").to_pylist() == ["picture-000", "picture-000", "probe-00000"]
    for row, picture in zip(rows, pictures.values(), strict=True):
        rendering = world.render(picture, 64)
        assert row["sha256"] == hash_bytes(row["image"]["bytes"])
        assert (decode_png(row["image"]["bytes"]) == rendering.image).all()
        assert (decode_png(row["mask_visible"]) == rendering.mask_visible * 255).all()
        assert (decode_png(row["mask_whole"]) == rendering.mask_whole * 255).all()
        assert (decode_png(row["distractor_map"]) == rendering.distractor_map).all()
        assert row["distractors"] == list(rendering.distractors)
        assert row["caption"] == world.caption(picture)
    assert rows == world.describe_rows(pictures, 64)


def test_row_of_a_picture_without_object_has_no_colour():
    (row,) = world.describe_rows({"empty": sample(object=None)}, 32)
    assert row["object"] is None
    assert row["colour"] is None
    tables.make_table([row], tables.PICTURES)


# Bad input


@pytest.mark.parametrize(
    "change", [{"object": "dog"}, {"scene": "sea"}, {"colour": "grey"}, {"clutter": 5}]
)
def test_unknown_value_is_named(change):
    (value,) = change.values()
    with pytest.raises(ConsilienceError, match=str(value)):
        sample(**change)


@pytest.mark.parametrize(
    "call",
    [
        lambda: world.sample_picture(0, "study", -1, 0),
        lambda: world.sample_picture(-1, "study", 0, 0),
        lambda: world.render(sample(), 8),
        lambda: world.render_training_set(0, "training", 5, 3, 96, (0,)),
        lambda: world.render_training_set(0, "training", 0, 3, 96, ()),
        lambda: world.probe_pictures(0, 3, ()),
    ],
)
def test_bad_numbers_are_refused(call):
    with pytest.raises(ConsilienceError):
        call()


def test_captions_of_a_training_set_are_of_its_pictures():
    data = world.render_training_set(0, "training", 3, 9, 64, (0, 1))
    captions = world.caption_training_set(0, "training", 3, 9)
    for row, texts in enumerate(captions):
        name = world.OBJECTS[data["object"][row]]
        colour = world.COLOURS[data["colour"][row]]
        assert texts[0].startswith(f"a {colour} {name} ".replace("a orange", "an orange"))
        assert len(texts) == len(world.CAPTIONS)

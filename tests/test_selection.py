"""Wrong pictures: a planted model that is wrong where it is said to be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilience import world
from consilience.images import Transform, decode_png, hash_bytes
from consilience.selection import ask_candidates, draw_names, select_wrong
from consilience.tables import ACCURACY, PICTURES, make_table

SEED, SIZE, LEVELS = 3, 32, (0, 2, 4)
COUNT = 31
WRONG = {0, 3, 7, 8, 9, 20, 21, 29, 30}
CANDIDATES = world.candidate_pictures(SEED, range(COUNT), LEVELS)


class Planted:
    """Right about every candidate but those in places ``WRONG``."""

    name = "net"
    transform = Transform()

    def __init__(self, tells="object", wrong=WRONG):
        self.class_names = world.OBJECTS if tells == "object" else world.SCENES
        self.asked, self.answers = [], {}
        for place, picture in enumerate(CANDIDATES.values()):
            index = self.class_names.index(getattr(picture, tells))
            image = world.render(picture, SIZE).image
            self.answers[hash_bytes(image.tobytes())] = (index + (place in wrong)) % 10

    def probabilities(self, views):
        self.asked.append(len(views))
        return np.eye(10)[[self.answers[hash_bytes(view.tobytes())] for view in views]]


@pytest.mark.parametrize("tells", ["object", "scene"])
@pytest.mark.parametrize("block", [7, 31, 32])
def test_right_and_wrong_are_told_whatever_the_blocks(tells, block):
    planted = Planted(tells)
    right = ask_candidates(planted, tells, SEED, SIZE, COUNT, LEVELS, block)
    assert list(right) == list(CANDIDATES)
    assert {place for place, name in enumerate(right) if not right[name]} == WRONG
    assert max(planted.asked) <= block
    assert sum(planted.asked) == COUNT


def test_each_drawn_picture_stands_for_as_many_wrong_ones():
    rows, accuracy = select_wrong(Planted(), "object", SEED, SIZE, 4, COUNT, LEVELS)
    make_table(rows, PICTURES)
    make_table(accuracy, ACCURACY)
    wrong = {f"wrong-{place:07d}" for place in WRONG}
    names = [row["name"] for row in rows]
    assert len(set(names)) == 4
    assert names == sorted(names)
    assert set(names) <= wrong
    assert {row["weight"] for row in rows} == {9 / 4}
    for row in rows:
        picture = CANDIDATES[row["name"]]
        assert (decode_png(row["image"]["bytes"]) == world.render(picture, SIZE).image).all()
        assert (row["base"], row["clutter"]) == (row["name"], picture.clutter)
        assert (row["object"], row["scene"]) == (picture.object, picture.scene)
        assert row["mask_visible"]
    # Places 0, 3, 9, 21, 30; 7; 8, 20, 29.
    assert accuracy == [
        {
            "model": "net",
            "target": "object",
            "clutter": level,
            "pictures": count,
            "correct": count - wrong,
            "accuracy": (count - wrong) / count,
        }
        for level, count, wrong in ((0, 11, 5), (2, 10, 1), (4, 10, 3))
    ]


def test_fewer_wrong_pictures_than_asked_for_are_all_taken():
    rows, _ = select_wrong(Planted(), "object", SEED, SIZE, 40, COUNT, LEVELS)
    assert [row["name"] for row in rows] == [f"wrong-{place:07d}" for place in sorted(WRONG)]
    assert {row["weight"] for row in rows} == {1.0}


def test_a_model_that_is_never_wrong_has_no_pictures():
    planted = Planted(wrong=())
    rows, accuracy = select_wrong(planted, "object", SEED, SIZE, 4, COUNT, LEVELS)
    assert rows == []
    assert {row["accuracy"] for row in accuracy} == {1.0}


def test_a_level_given_twice_has_twice_the_candidates():
    levels = (0, 2, 2)
    candidates = world.candidate_pictures(SEED, range(6), levels)
    planted = Planted()
    for picture in candidates.values():
        image = world.render(picture, SIZE).image
        planted.answers[hash_bytes(image.tobytes())] = world.OBJECTS.index(picture.object)
    _, accuracy = select_wrong(planted, "object", SEED, SIZE, 4, 6, levels)
    assert [(row["clutter"], row["pictures"]) for row in accuracy] == [(0, 2), (2, 4)]


@given(st.sets(st.text(min_size=1), max_size=20), st.integers(1, 25), st.integers(0, 5))
def test_a_draw_is_a_sorted_subset_that_more_names_disturb_little(names, count, seed):
    names = sorted(names)
    drawn = draw_names(names, count, seed)
    assert drawn == sorted(set(drawn))
    assert len(drawn) == min(count, len(names))
    assert set(drawn) <= set(names)
    assert draw_names(names[::-1], count, seed) == drawn
    # One more candidate displaces at most one of those drawn.
    more = draw_names([*names, "one more, which is longer than any"], count, seed)
    assert len(set(drawn) - set(more)) <= 1


def test_every_name_is_drawn_as_often():
    names = [f"wrong-{place:07d}" for place in range(12)]
    counts = dict.fromkeys(names, 0)
    for seed in range(2000):
        for name in draw_names(names, 3, seed):
            counts[name] += 1
    # 2000 draws of probability 1/4: a standard deviation of 19.
    assert all(abs(count - 500) < 80 for count in counts.values())

"""What the parts of a picture do to the logit: planted models whose reasons are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from consilience import effects, world
from consilience.classifiers import Classifier
from consilience.effects import find_matters, measure_effects
from consilience.errors import ConsilienceError
from consilience.images import Transform
from consilience.tables import EFFECTS, PICTURES, make_table

SIZE = 64
SEED = 5


class Lookup(torch.nn.Module):
    """Logits by picture, as a table; a picture that is not in it is an error."""

    def __init__(self, answers):
        super().__init__()
        self.answers = {image.tobytes(): logits for image, logits in answers}

    def forward(self, batch):
        images = (batch * 255).round().byte().permute(0, 2, 3, 1).numpy()
        return torch.tensor([self.answers[image.tobytes()] for image in images])


class Part(torch.nn.Module):
    """The target's logit falls with every change of what a mask covers; the other's is 0."""

    def __init__(self, image, mask):
        super().__init__()
        self.image = torch.from_numpy(image / np.float32(255)).permute(2, 0, 1)
        self.mask = torch.from_numpy(mask)

    def forward(self, batch):
        apart = (batch - self.image).abs().mean(dim=1)[:, self.mask].mean(dim=1)
        return torch.stack([2 - 20 * apart, torch.zeros(len(batch))], dim=1)


def ask(model, classes=("target", "other")):
    return Classifier("m", model, classes, Transform())


def prediction(picture, target="target", index=0):
    return {"picture": picture, "target_index": index, "target_class": target}


def measure(classifier, predictions, pictures, rows=None):
    rows = world.describe_rows(pictures, SIZE) if rows is None else rows
    return list(measure_effects(classifier, predictions, rows, pictures, SEED, SIZE))


def study(clutter=3, bases=1):
    return world.study_pictures(0, bases, [clutter])


def test_rows_say_what_the_model_says_of_each_changed_picture():
    ((name, picture),) = study().items()
    whole = world.render(picture, SIZE)
    first, second = whole.distractors[4:6]
    without = [world.render(picture, SIZE, [distractor]).image for distractor in (first, second)]
    scene = effects.change_scene(picture, "picture-000", SEED)
    model = Lookup(
        [
            (whole.image, (4.0, 3.0, 0.0)),
            (world.render(replace(picture, object=None), SIZE).image, (1.0, 2.0, 2.5)),
            (world.render(scene, SIZE).image, (5.0, 3.0, 0.0)),
            (without[0], (-1.0, 3.0, 0.0)),
            (without[1], (4.0, -3.0, 0.5)),
        ]
    )
    asked = [prediction(name, first, 0), prediction(name, second, 1), prediction(name, "x", 2)]
    rows = measure(ask(model, (first, second, "x")), asked, {name: picture})
    make_table(rows, EFFECTS)
    found = [
        (row["target_index"], row["change"], row["logit"], row["changed_logit"]) for row in rows
    ]
    assert found == [
        (0, "without-object", 4, 1),
        (0, "other-scene", 4, 5),
        (0, "without-distractor", 4, -1),
        (1, "without-object", 3, 2),
        (1, "other-scene", 3, 3),
        (1, "without-distractor", 3, -3),
        (2, "without-object", 0, 2.5),
        (2, "other-scene", 0, 0),
    ]
    assert [row["changed_class"] for row in rows[:3]] == ["x", first, second]
    assert rows[0]["probability"] == pytest.approx(np.exp(4) / np.exp([4, 3, 0]).sum())
    assert rows[0]["changed_probability"] == pytest.approx(np.exp(1) / np.exp([1, 2, 2.5]).sum())


@pytest.mark.parametrize("base", range(6))
@pytest.mark.parametrize("kind", ["object", "scene", "distractor"])
def test_a_planted_reason_is_found_and_no_other(kind, base):
    picture = list(study(bases=6).values())[base]
    whole = world.render(picture, SIZE)
    # The object-like distractor of which most is seen.
    sizes = [(whole.distractor_map == number).sum() for number in (5, 6, 7)]
    number = 5 + int(np.argmax(sizes))
    masks = {
        "object": whole.mask_visible,
        "scene": ~whole.mask_visible & (whole.distractor_map == 0),
        "distractor": whole.distractor_map == number,
    }
    target = whole.distractors[number - 1]
    classifier = ask(Part(whole.image, masks[kind]), (target, "other"))
    rows = measure(classifier, [prediction("p", target)], {"p": picture})
    assert find_matters(rows) == {("p", 0, name): name == kind for name in masks}


def test_the_other_scene_is_another_and_the_same_at_every_level():
    pictures = world.study_pictures(0, 40, [0, 4])
    scenes = set()
    for name, picture in pictures.items():
        base = name.partition("-clutter-")[0]
        changed = effects.change_scene(picture, base, SEED)
        assert changed.scene != picture.scene
        assert changed.background_seed != picture.background_seed
        unchanged = {"scene": picture.scene, "background_seed": picture.background_seed}
        assert replace(changed, **unchanged) == picture
        # The levels of a base differ in their clutter only, before and after.
        assert changed == replace(
            effects.change_scene(pictures[f"{base}-clutter-0"], base, SEED),
            clutter=picture.clutter,
        )
        assert changed != effects.change_scene(picture, base, SEED + 1)
        scenes.add(changed.scene)
    assert scenes == set(world.SCENES)


def test_a_picture_does_not_depend_on_the_others():
    pictures = study(4, bases=3)
    name = "picture-001-clutter-4"
    image = world.render(pictures[name], SIZE).image
    classifier = ask(Part(image, np.ones((SIZE, SIZE), bool)))
    every = measure(classifier, [prediction(name) for name in pictures], pictures)
    alone = measure(classifier, [prediction(name)], {name: pictures[name]})
    assert [row for row in every if row["picture"] == name] == alone
    assert len(every) == 6


def test_pictures_that_are_not_rendered_have_no_rows():
    pictures = study()
    (name,) = pictures
    classifier = ask(Part(world.render(pictures[name], SIZE).image, np.ones((SIZE, SIZE), bool)))
    rows = world.describe_rows(pictures, SIZE)
    rows.append(dict.fromkeys(PICTURES.names) | {"name": "photo.jpg"})
    asked = [prediction("photo.jpg"), prediction(name)]
    assert {row["picture"] for row in measure(classifier, asked, pictures, rows)} == {name}


def test_a_picture_that_is_rendered_otherwise_is_an_error():
    pictures = study()
    (name,) = pictures
    rows = world.describe_rows({name: replace(pictures[name], colour="white")}, SIZE)
    classifier = ask(Part(world.render(pictures[name], SIZE).image, np.ones((SIZE, SIZE), bool)))
    with pytest.raises(ConsilienceError, match=f"{name}: rendered again it is not the picture"):
        measure(classifier, [prediction(name)], pictures, rows)


def test_a_model_without_a_finite_answer_is_an_error():
    pictures = study()
    (name,) = pictures
    mask = np.zeros((SIZE, SIZE), bool)  # the mean of nothing
    classifier = ask(Part(world.render(pictures[name], SIZE).image, mask))
    with pytest.raises(ConsilienceError, match="'m' answers with values that are not finite"):
        measure(classifier, [prediction(name)], pictures)


# The rule


def effect(change, before, after, changed_class="other", picture="p", index=0):
    return {
        "picture": picture,
        "target_index": index,
        "target_class": "target",
        "change": change,
        "logit": before,
        "changed_logit": after,
        "changed_class": changed_class,
    }


@pytest.mark.parametrize(
    ("without_object", "other_scene", "expected"),
    [
        # Falls by 3, the scene moves it by 1 down, or up.
        ((1.0, "other"), (3.0, "target"), (True, False)),
        ((1.0, "other"), (5.0, "target"), (True, False)),
        # As much as the scene, down or up: not more.
        ((1.0, "other"), (1.0, "other"), (False, False)),
        ((1.0, "other"), (7.0, "target"), (False, False)),
        # Still predicted.
        ((1.0, "target"), (3.0, "target"), (False, False)),
        # Rises.
        ((9.0, "other"), (4.0, "target"), (False, False)),
        ((3.0, "target"), (0.0, "other"), (False, True)),
        ((3.0, "target"), (0.0, "target"), (False, False)),
        ((4.0, "target"), (4.0, "target"), (False, False)),
    ],
)
def test_the_rule_by_hand(without_object, other_scene, expected):
    rows = [
        effect("without-object", 4.0, *without_object),
        effect("other-scene", 4.0, *other_scene),
    ]
    assert find_matters(rows) == {
        ("p", 0, "object"): expected[0],
        ("p", 0, "scene"): expected[1],
    }


def test_a_distractor_is_held_against_the_scene():
    rows = [
        effect("without-object", 4.0, -9.0),
        effect("other-scene", 4.0, 3.0),
        effect("without-distractor", 4.0, 2.0),
    ]
    assert find_matters(rows)["p", 0, "distractor"] is True
    rows[2]["changed_class"] = "target"
    assert find_matters(rows)["p", 0, "distractor"] is False


def test_what_was_not_changed_is_not_said_to_matter():
    assert find_matters([effect("without-object", 4.0, -9.0)]) == {}
    assert find_matters([]) == {}
    rows = [
        effect(change, 4.0, after, picture=picture, index=index)
        for picture, index, drops in (("p", 0, (9, 1)), ("p", 1, (1, 9)), ("q", 0, (9, 1)))
        for change, after in zip(("without-object", "other-scene"), drops, strict=True)
    ]
    assert {key[:2] for key in find_matters(rows)} == {("p", 0), ("p", 1), ("q", 0)}


logits = st.floats(-20, 20)


@given(logits, logits, logits, logits, st.sampled_from(["target", "other"]))
def test_never_both_object_and_scene_and_no_unit_matters(before, after, scene, shift, said):
    def find(scale=1.0, offset=0.0):
        return find_matters(
            [
                effect("without-object", before * scale + offset, after * scale + offset, said),
                effect("other-scene", before * scale + offset, scene * scale + offset),
            ]
        )

    found = find()
    assert not (found["p", 0, "object"] and found["p", 0, "scene"])
    # A power of two, so that no difference is rounded into another.
    assert find(scale=4.0) == found

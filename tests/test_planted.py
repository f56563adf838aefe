"""A planted model knows its object and nothing else; planted explanations are what they say."""

import numpy as np
import pytest
import torch

from consilience import planted, world
from consilience.errors import ConsilienceError
from consilience.lime_image import hide

SIZE = 64
RENDERED = world.render(next(iter(world.study_pictures(3, 1, [2]).values())), SIZE)
VIEW, MASK = RENDERED.image, RENDERED.mask_visible


def evidence(*views, classifier=None):
    classifier = classifier or planted.plant_model(VIEW, MASK)
    pictures = classifier.transform.normalize(np.stack(views))
    return classifier.model.evidence(pictures).numpy()


def test_the_model_sees_the_object_and_nothing_else():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, VIEW.shape, dtype=np.uint8)
    elsewhere = np.where(MASK[:, :, None], VIEW, noise)
    plain = np.where(MASK[:, :, None], np.uint8(90), VIEW)
    found = evidence(VIEW, elsewhere, plain)
    assert found == pytest.approx([1, 1, 0], abs=1e-5)
    assert 0.95 < planted.plant_model(VIEW, MASK).probabilities(VIEW[None])[0, 1] < 1


def test_evidence_is_linear():
    part = MASK & (np.arange(SIZE) < np.flatnonzero(MASK.any(axis=0)).mean())
    rest = MASK & ~part
    without = [np.where(gone[:, :, None], np.uint8(0), VIEW) for gone in (part, rest, MASK)]
    one, other, both = 1 - evidence(*without)
    assert one + other == pytest.approx(both, abs=1e-5)
    assert min(one, other) > 0.1


def test_the_exact_explanation_is_what_goes_with_each_superpixel():
    rows, columns = np.indices(MASK.shape) // 16
    segments = rows * 4 + columns
    classifier = planted.plant_model(VIEW, MASK)
    found = planted.explain_exactly(classifier, VIEW, segments)
    mean = VIEW.mean(axis=(0, 1))
    fill = np.broadcast_to(mean.round().astype(np.uint8), VIEW.shape)
    hidden = hide(VIEW, fill, segments, 1 - np.eye(16, dtype=int))
    expected = 1 - evidence(*hidden, classifier=classifier)
    # The fill is rounded to whole colours here.
    assert found.weights == pytest.approx(expected, abs=5e-3)
    assert np.abs(found.weights).max() > 0.05
    empty = [number for number in range(16) if not MASK[segments == number].any()]
    assert empty
    assert not found.weights[empty].any()


def test_explanations_are_what_they_say():
    found = planted.plant_explanations(VIEW, MASK, 0, "a")
    assert tuple(found) == planted.EXPLANATIONS
    values = {name: explanation.values for name, explanation in found.items()}
    area = MASK.sum()
    assert (values["causal-mask"] == MASK).all()
    assert (values["inverse"] == ~MASK).all()
    assert values["half-mask"].sum() == area
    assert values["half-mask"][MASK].sum() == area - area // 2
    assert values["shuffled"].sum() == area
    assert values["shuffled"][MASK].mean() == pytest.approx(MASK.mean(), abs=0.1)
    assert (values["fake-cam"] == 0).sum() == 1
    for explanation in found.values():
        assert 0 <= explanation.values.min() < explanation.values.max() <= 1
        assert (explanation.signed == explanation.values).all()


def test_what_is_random_depends_on_seed_and_name_alone():
    def random_maps(seed, name):
        found = planted.plant_explanations(VIEW, MASK, seed, name)
        return np.stack([found[key].values for key in ("half-mask", "shuffled", "smooth-noise")])

    assert (random_maps(0, "a") == random_maps(0, "a")).all()
    assert (random_maps(0, "a") != random_maps(1, "a")).any(axis=(1, 2)).all()
    assert (random_maps(0, "a") != random_maps(0, "b")).any(axis=(1, 2)).all()


@pytest.mark.parametrize("mask", [np.zeros_like(MASK), np.ones_like(MASK), MASK[1:]])
def test_a_mask_that_is_no_part_of_the_view_is_refused(mask):
    with pytest.raises(ConsilienceError, match=r"^a: explanations are planted around a mask"):
        planted.plant_explanations(VIEW, mask, 0, "a")


def test_an_object_that_nobody_sees_is_refused():
    with pytest.raises(ConsilienceError, match="the mask holds 0 pixels"):
        planted.plant_model(VIEW, np.zeros_like(MASK))
    with pytest.raises(ConsilienceError, match="not of one colour"):
        planted.plant_model(np.full_like(VIEW, 7), MASK)


def test_rounding_is_not_evidence():
    classifier = planted.plant_model(VIEW, MASK)
    picture = classifier.transform.normalize(VIEW[None])
    stirred = picture * (1 + torch.tensor(3e-8))
    assert (classifier.model(picture) == classifier.model(stirred)).all()

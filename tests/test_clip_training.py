import numpy as np
import pytest
import torch

from consilience import clip_encoder, clip_training, world
from consilience.errors import ConsilienceError

WORDS = {"object": world.OBJECTS, "scene": world.SCENES, "colour": world.COLOURS}
SETTINGS = {"lessons": 32, "epochs": 1, "batch": 8}


@pytest.fixture(scope="module")
def data():
    return world.render_training_set(0, "training", 0, 24, 96, (0, 1))


@pytest.fixture(scope="module")
def captions():
    return world.caption_training_set(0, "training", 0, 24)


def train(data, captions, settings=SETTINGS, seed=0):
    return clip_training.train_clip(
        data, WORDS, world.ABSENT_CONCEPTS, captions, settings, seed, lambda line: None
    )


def test_clip_load_takes_what_was_saved_and_the_seed_decides_the_bytes(data, captions, tmp_path):
    for name in ("a.pt", "b.pt"):
        clip_training.save_clip(train(data, captions), tmp_path / name)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    encoder = clip_encoder.load_clip(tmp_path / "a.pt")
    rows = clip_training.evaluate_clip(encoder, data, WORDS, (0, 1))
    assert {(row["model"], row["target"]) for row in rows} == {("clip", target) for target in WORDS}
    assert {row["pictures"] for row in rows if row["clutter"] is None} == {24}


def test_the_loss_contrasts_true_texts_with_false_ones_only():
    true = torch.tensor([[True, True, False]])
    # Two true texts of different logits are not set against one another.
    good = clip_training._matching_loss(torch.tensor([[9.0, 5.0, -9.0]]), true)
    assert good < 1e-5
    known = clip_training._matching_loss(torch.zeros(1, 3), true)
    assert known.item() == pytest.approx(np.log(2))
    # A row with no true column counts for nothing.
    rows = torch.tensor([[True, False], [False, False]])
    only = clip_training._matching_loss(torch.zeros(2, 2), rows)
    assert only.item() == pytest.approx(np.log(2))


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"epoch": 1}, "unknown key 'epoch'"), ({"batch": 1}, "batch: 1 must be at least 2")],
)
def test_wrong_settings_are_named(data, captions, settings, said):
    with pytest.raises(ConsilienceError, match=said):
        train(data, captions, settings)


def test_every_picture_needs_a_caption(data, captions):
    with pytest.raises(ConsilienceError, match="at least one caption each"):
        train(data, [*captions[:-1], ()])

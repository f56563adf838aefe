import numpy as np
import pytest
import torch

from consilience import training, world
from consilience.classifiers import Classifier, build_architecture, load_classifier
from consilience.errors import ConsilienceError
from consilience.images import Transform

STAGES = [{"crop": 32, "pictures": 96, "batch": 16, "skip": ["layer4"]}, {"pictures": 32}]


def pictures(count=24, side=40, classes=2, seed=0):
    """Pictures that are dark or bright, which is their class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=count)
    images = rng.integers(0, 60, (count, side, side, 3)) + 150 * labels[:, None, None, None]
    boxes = np.tile(np.float32([4, 4, 30, 30]), (count, 1))
    clutter = np.arange(count) % 3
    return {"images": images.astype(np.uint8), "object": labels, "box": boxes, "clutter": clutter}


def train(settings=None, seed=1, log=lambda line: None):
    settings = {"stages": STAGES} | (settings or {})
    return training.train_classifier(pictures(), "object", 2, settings, seed, log)


def test_it_learns_what_is_easy():
    model = train()
    net = Classifier("net", model, ("dark", "bright"), world.TRANSFORM)
    rows = training.evaluate_classifier(net, pictures(seed=5), "object", (0, 1))
    assert [row["clutter"] for row in rows] == [None, 0, 1, 2]
    assert rows[0]["pictures"] == 16
    assert rows[0]["accuracy"] == 1.0


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        training.save_weights(train(seed=seed), tmp_path / name)
    first, again, other = ((tmp_path / name).read_bytes() for name in "abc")
    assert first == again
    assert first != other


def test_saved_weights_load_as_a_classifier(tmp_path):
    model = train()
    training.save_weights(model, tmp_path / "weights.safetensors")
    spec = {
        "name": "net",
        "architecture": "resnet18",
        "keep_resolution": ["layer4"],
        "classes": ["dark", "bright"],
        "transform": world.TRANSFORM.to_dict(),
    }
    loaded = load_classifier(spec, tmp_path / "weights.safetensors")
    inputs = torch.randn(1, 3, 40, 40)
    torch.testing.assert_close(loaded.model(inputs), model(inputs), rtol=1e-4, atol=1e-4)


def test_skipped_blocks_do_not_learn_and_run_again_afterwards():
    before = {}

    def remember(line):
        before.setdefault("lines", []).append(line)

    torch.manual_seed(0)
    model = train({"stages": [{"pictures": 16, "skip": ["layer4"]}]}, log=remember)
    assert "forward" not in vars(model.layer4[0])
    other = train({"stages": [{"pictures": 16, "skip": ["layer4.1"]}]})
    # A skipped branch sees no gradient: its norm keeps its first scale.
    assert torch.equal(model.layer4[1].bn2.weight, other.layer4[1].bn2.weight)
    assert not torch.equal(model.layer4[0].bn2.weight, other.layer4[0].bn2.weight)
    assert before["lines"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"stages": []}, "train.stages: is empty"),
        ({"stages": [{"crop": 80, "pictures": 4}]}, r"stages\[0\].crop: 80 must be from 32 to"),
        ({"stages": [{"pictures": 0}]}, r"stages\[0\]: needs at least 1 picture"),
        ({"stages": [{"pictures": 4, "skip": ["layer9"]}]}, "no residual blocks 'layer9'"),
        ({"stages": [{"pictures": 4, "crops": 3}]}, "unknown key 'crops'"),
        ({"learning_rat": 1}, "unknown key 'learning_rat'"),
        ({"learning_rate": -1}, "learning_rate: -1 must be"),
    ],
)
def test_wrong_settings_are_named(settings, said):
    with pytest.raises(ConsilienceError, match=said):
        train(settings)


def test_a_training_that_diverges_says_so():
    with pytest.raises(ConsilienceError, match=r"diverged.*lower learning_rate"):
        train({"learning_rate": 1e30})


def test_squares_hold_what_they_must():
    rng = np.random.default_rng(0)
    images = np.zeros((200, 40, 40, 3), np.uint8)
    images[:, 10:20, 25:35] = 255
    boxes = np.tile(np.float32([25, 10, 35, 20]), (200, 1))
    squares = training.cut_squares(images, boxes, 16, rng)
    assert squares.shape == (200, 16, 16, 3)
    assert (squares[..., 0] == 255).sum(axis=(1, 2)).tolist() == [100] * 200


def test_accuracy_is_counted_by_level():
    class Always(torch.nn.Module):
        def forward(self, batch):
            return torch.tensor([[0.0, 1.0]]).expand(len(batch), -1)

    net = Classifier("net", Always(), ("a", "b"), Transform())
    data = pictures()
    data["object"] = np.array([1, 0, 1] * 8)
    rows = training.evaluate_classifier(net, data, "object", (0, 1))
    found = {row["clutter"]: (row["correct"], row["pictures"]) for row in rows}
    assert found == {None: (8, 16), 0: (8, 8), 1: (0, 8), 2: (8, 8)}


def test_pictures_and_labels_must_fit():
    data = pictures()
    data["object"] = data["object"] + 5
    with pytest.raises(ConsilienceError, match="does not fit 2 classes"):
        training.train_classifier(data, "object", 2, {"stages": STAGES}, 0, print)


def test_the_architectures_of_the_study_have_blocks_to_skip():
    model = build_architecture("resnet18", 10, ["layer4"])
    kinds = {type(block) for block in model.modules()} & set(training.RESIDUAL_BLOCKS)
    assert kinds

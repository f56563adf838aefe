import numpy as np
import pytest
import torch

from consilience import predictions, tables
from consilience.classifiers import Classifier
from consilience.errors import ConsilienceError
from consilience.images import Transform, decode_png, encode_png


class Brightest(torch.nn.Module):
    """Logits are the mean of each colour channel: the class is the picture's main colour."""

    def forward(self, batch):
        return 10 * batch.mean(dim=(2, 3))


@pytest.fixture
def classifier():
    return Classifier("colours", Brightest(), ("red", "green", "blue"), Transform(crop=(8, 8)))


def picture(name, colour, size=(8, 8), **more):
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[..., colour] = 200
    data = encode_png(pixels)
    row = dict.fromkeys(tables.PICTURES.names)
    return row | {"name": name, "sha256": "", "image": {"bytes": data, "path": None}} | more


def test_rows_fit_their_tables_and_say_what_the_model_says(classifier):
    pictures = [picture("a", 0), picture("b", 2), picture("bad", 1, error="cut short")]
    views = list(predictions.view_pictures(classifier, pictures))
    rows = list(predictions.predict(classifier, views, {"a": "red", "b": "green"}, "predicted"))
    tables.make_table(views, tables.VIEWS)
    tables.make_table(rows, tables.PREDICTIONS)
    assert [row["picture"] for row in rows] == ["a", "b"]
    assert [row["predicted_class"] for row in rows] == ["red", "blue"]
    assert [row["correct"] for row in rows] == [True, False]
    expected = np.exp(10 * 200 / 255) / (np.exp(10 * 200 / 255) + 2)
    assert rows[0]["predicted_probability"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("target", "index"), [("predicted", 2), ("labelled", 1), ("red", 0), (1, 1), (0, 0)]
)
def test_the_class_to_explain_is_the_one_asked_for(classifier, target, index):
    views = list(predictions.view_pictures(classifier, [picture("b", 2)]))
    (row,) = predictions.predict(classifier, views, {"b": "green"}, target)
    assert row["target_index"] == index
    assert row["target_class"] == classifier.class_names[index]
    assert row["target"] == (target if target in predictions.TARGETS else "given")


def test_the_likeliest_classes_are_explained_each_in_a_row(classifier):
    pixels = picture("b", 2)
    both = np.zeros((8, 8, 3), np.uint8)
    both[..., 1], both[..., 0] = 200, 90
    pixels["image"] = {"bytes": encode_png(both), "path": None}
    views = list(predictions.view_pictures(classifier, [pixels, picture("c", 2)]))
    rows = list(predictions.predict(classifier, views, {}, "top-2"))
    tables.make_table(rows, tables.PREDICTIONS)
    assert [(row["picture"], row["target_class"]) for row in rows] == [
        ("b", "green"),
        ("b", "red"),
        ("c", "blue"),
        ("c", "red"),  # as unlikely as green
    ]
    assert {row["target"] for row in rows} == {"top-2"}
    assert rows[0]["target_probability"] > rows[1]["target_probability"]
    assert all(row["predicted_class"] == "green" for row in rows[:2])


@pytest.mark.parametrize("target", ["top-0", "top-4"])
def test_more_classes_than_the_model_has_cannot_be_explained(classifier, target):
    with pytest.raises(ConsilienceError, match=f"{target}, but model 'colours' has 3 classes"):
        predictions.check_target(classifier, target)


@pytest.mark.parametrize(
    ("target", "said"),
    [(3, "classes 0 to 2, not 3"), (-1, "not -1"), ("gren", "did you mean 'green'")],
)
def test_a_class_that_does_not_exist_is_named(classifier, target, said):
    with pytest.raises(ConsilienceError, match=said):
        predictions.find_class(classifier, target)


@pytest.mark.parametrize("label", [None, "violet"])
def test_labelled_needs_a_label_that_the_model_has(classifier, label):
    views = list(predictions.view_pictures(classifier, [picture("b", 2)]))
    with pytest.raises(ConsilienceError, match="'b'"):
        list(predictions.predict(classifier, views, {"b": label}, "labelled"))


def test_views_of_different_sizes_are_asked_one_by_one():
    anysize = Classifier("colours", Brightest(), ("red", "green", "blue"), Transform())
    pictures = [picture("a", 0), picture("b", 1, (6, 9))]
    views = list(predictions.view_pictures(anysize, pictures))
    rows = list(predictions.predict(anysize, views, {}, "predicted"))
    assert [(view["height"], view["width"]) for view in views] == [(8, 8), (6, 9)]
    assert [row["predicted_class"] for row in rows] == ["red", "green"]


def test_the_mask_is_cropped_as_the_picture_is(classifier):
    mask = np.zeros((12, 12), np.uint8)
    mask[2:4, 2:4] = 255
    row = picture("a", 0, (12, 12), mask_visible=encode_png(mask))
    (view,) = predictions.view_pictures(classifier, [row])
    assert decode_png(view["mask_visible"])[:2, :2].all()
    assert decode_png(view["mask_visible"]).sum() == 4 * 255
    assert view["box"] == [2, 2, 10, 10]


def test_a_mask_of_another_size_is_an_error(classifier):
    row = picture("a", 0, mask_visible=encode_png(np.zeros((4, 4), np.uint8)))
    with pytest.raises(ConsilienceError, match="mask"):
        list(predictions.view_pictures(classifier, [row]))

"""How faithful explanations are to the model."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_grad_cam.metrics import road
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
from torch import nn

from consilience import cam, classifiers, faithfulness, images, tables
from consilience.errors import ConsilienceError
from consilience.faithfulness import (
    MEASURES,
    METRICS,
    area_under,
    blur,
    count_removed,
    impute_linear,
    measure_picture,
    measure_views,
    name_winners,
    rank_pixels,
    summarise_faithfulness,
)
from consilience.measures import Heatmap, Superpixels

MOVING = [measure for measure in MEASURES if measure[1] != "black"]


class Linear(nn.Module):
    """Logits are weighted sums of pixels, the channels' mean: shape (classes, height, width)."""

    def __init__(self, weights):
        super().__init__()
        self.weights = torch.as_tensor(np.array(weights), dtype=torch.float32)
        self.asked = []

    def forward(self, pictures):
        self.asked.append(pictures.clone())
        return torch.einsum("nhw,chw->nc", pictures.mean(1), self.weights)


def make_linear(weights, transform=None):
    model = Linear(weights).eval()
    names = tuple("abcdef"[: len(weights)])
    return classifiers.Classifier("net", model, names, transform or images.Transform())


def make_net(side=None, seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 3),
    )
    with torch.no_grad():
        net[-1].weight.mul_(8)
    transform = images.Transform(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
    return classifiers.Classifier("net", net.eval(), ("a", "b", "c"), transform)


def make_view(side=32, seed=0):
    rough = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return cv2.resize(rough, (side, side))


def make_cam(side=32, grid=4, seed=0):
    """A rectified map as the library scales it, zero over much of the picture."""
    layer_map = np.random.default_rng(seed).normal(size=(grid, grid)).astype(np.float32)
    values = np.maximum(layer_map, 0)
    return Heatmap(cv2.resize(values / values.max(), (side, side)), layer_map)


def make_lime(side=32, cells=4, seed=0):
    cell = np.arange(side) * cells // side
    weights = np.random.default_rng(seed).normal(size=cells**2)
    return Superpixels(cell[:, None] * cells + cell, weights)


def by_measure(rows, method=None):
    return {
        (row["metric"], row["fill"]): row
        for row in rows
        if method is None or row["method"] == method
    }


def sigmoid(value):
    return 1 / (1 + np.exp(-value))


# A white pixel that the class hangs on, another white one and two black ones that do not matter.
CORNERS = np.array([[255, 0], [0, 255]], np.uint8)[..., None].repeat(3, 2)
ONE_PIXEL = [[[4.0, 0], [0, 0]], np.zeros((2, 2))]


def test_known_answers_of_four_pixels():
    # The mean colour is 0.5, so that without the pixel the logit is 2 instead of 4.
    classifier = make_linear(ONE_PIXEL)
    first = np.array([[4.0, 3], [2, 1]])
    chosen = {"steps": 4, "road": [0.5], "orders": 3}
    rows = by_measure(measure_picture(classifier, CORNERS, {0: {"cam": first}}, chosen))
    with_it, without = sigmoid(4), sigmoid(2)
    deletion, insertion = rows["deletion", "mean"], rows["insertion", "mean"]
    np.testing.assert_allclose(deletion["curve"], [with_it] + [without] * 4, rtol=1e-6)
    np.testing.assert_allclose(insertion["curve"], [without] + [with_it] * 4, rtol=1e-6)
    gain = with_it - without
    assert deletion["value"] == pytest.approx(without + gain / 8, rel=1e-6)
    assert insertion["value"] == pytest.approx(without + gain * 7 / 8, rel=1e-6)
    # A random order has the pixel in one of four places.
    taken = [without + gain * (2 * place + 1) / 8 for place in range(4)]
    means = {round(float(np.mean([a, b, c])), 5) for a in taken for b in taken for c in taken}
    assert round(deletion["random"], 5) in means
    assert deletion["difference"] == deletion["random"] - deletion["value"]
    assert insertion["difference"] == insertion["value"] - insertion["random"]
    # The pixel and its right neighbour removed: of x and y, x = (y/6 + 0/6 + 1/12) / (5/12) and
    # y = (x/6 + 1/6 + 0/12) / (5/12), so x = 0.42857. The lower row removed, x stays.
    imputed = sigmoid(4 * 3 / 7)
    assert rows["road", "linear"]["value"] == pytest.approx((with_it - imputed) / 2, abs=0.01)
    tables.make_table(
        [{"model": "m", "picture": "p", "target_class": "a"} | row for row in rows.values()],
        tables.FAITHFULNESS,
    )


def test_average_drop_and_increase_by_hand():
    # Normalised, so that black is not zero; the weights undo it.
    transform = images.Transform(mean=(0.5,) * 3, std=(0.25,) * 3)
    weights = np.array(ONE_PIXEL) / 4  # the logit is 4 x - 2
    classifier = make_linear(weights, transform)
    chosen = {"steps": 2, "orders": 1}
    maps = {"right": [[1.0, 0], [0, 0]], "wrong": [[0.0, 0], [0, 1]], "half": [[0.5, 0], [0, 1]]}
    explanations = {0: {name: np.array(values) for name, values in maps.items()}}
    rows = measure_picture(classifier, CORNERS, explanations, chosen)
    drops = {name: by_measure(rows, name)["average-drop", "black"]["value"] for name in maps}
    whole = sigmoid(2)
    assert drops["right"] == 0
    assert by_measure(rows, "right")["increase", "black"]["value"] == 0  # the same is no increase
    assert drops["wrong"] == pytest.approx((whole - sigmoid(-2)) / whole, rel=1e-6)
    assert drops["half"] == pytest.approx((whole - sigmoid(0)) / whole, rel=1e-6)
    assert by_measure(rows, "wrong")["increase", "black"]["value"] == 0

    # The other class gains where the pixel is blackened; nothing is lost.
    rows = measure_picture(classifier, CORNERS, {1: {"wrong": np.array(maps["wrong"])}}, chosen)
    assert by_measure(rows)["increase", "black"]["value"] == 1
    assert by_measure(rows)["average-drop", "black"]["value"] == 0


def test_random_maps_are_highest_where_their_order_begins():
    classifier = make_linear(ONE_PIXEL)
    first = np.array([[4.0, 3], [2, 1]])
    for seed in range(6):
        chosen = {"steps": 4, "orders": 1}
        rows = by_measure(measure_picture(classifier, CORNERS, {0: {"cam": first}}, chosen, seed))
        # The place of the one pixel in the order.
        place = np.argmax(np.diff(rows["deletion", "mean"]["random_curve"]) < -0.01)
        masked = sigmoid(4 * (1 - place / 4))
        assert rows["average-drop", "black"]["random"] == pytest.approx(
            (sigmoid(4) - masked) / sigmoid(4), rel=1e-5, abs=1e-7
        )


def test_random_maps_have_the_explanations_own_values():
    # All white, and all pixels alike: the probability depends on the map's mass alone.
    side = 12
    classifier = make_linear([np.full((side, side), 1 / side**2), np.zeros((side, side))])
    white = np.full((side, side, 3), 255, np.uint8)
    explanations = {0: {"cam": make_cam(side), "lime": make_lime(side)}}
    for method in ("cam", "lime"):
        rows = by_measure(measure_picture(classifier, white, explanations), method)
        drop = rows["average-drop", "black"]
        assert drop["value"] > 0.01
        assert drop["random"] == pytest.approx(drop["value"], rel=1e-4)


def planted(side=32):
    """A model that adds up a texture, a picture that has it, and what each pixel adds."""
    where = np.random.default_rng(3).normal(size=(4, 4)).astype(np.float32)
    strength = np.maximum(cv2.resize(where, (side, side)), 0)
    texture = np.where(np.indices((side, side)).sum(0) % 2, 1.0, -1.0)
    grey = np.uint8(128 + 100 * texture)
    weights = strength * texture * 10 / strength.sum()
    added = weights * (grey - grey.mean()) / 255
    return make_linear([weights, np.zeros_like(weights)]), grey[..., None].repeat(3, 2), added


def test_the_true_weights_are_better_than_random_and_the_inverse_worse():
    classifier, view, added = planted()
    cells = make_lime(cells=8).segment_map
    superpixels = Superpixels(cells, np.bincount(cells.ravel(), added.ravel()))
    inverse = Superpixels(cells, -superpixels.weights)
    chosen = {"orders": 4}
    grids = {"true": (8, 8), "inverse": (8, 8)}
    explanations = {0: {"true": added, "inverse": -added, "lime": superpixels, "emil": inverse}}
    rows = measure_picture(classifier, view, explanations, chosen, grids=grids)
    scored = {name: by_measure(rows, name) for name in explanations[0]}
    for measure in MOVING:
        for right, wrong in (("true", "inverse"), ("lime", "emil")):
            assert scored[right][measure]["difference"] > 0.02, measure
            assert scored[wrong][measure]["difference"] < -0.02, measure
        # Superpixels say less than pixels, and no order beats the true one. (Their random orders
        # differ.)
        sign = 1 if METRICS[measure[0]].higher_is_better else -1
        assert sign * scored["true"][measure]["value"] > sign * scored["lime"][measure]["value"]


@pytest.mark.parametrize("steps", [4, 7])
def test_insertion_is_the_deletion_of_the_reverse(steps):
    values = np.random.default_rng(0).permutation(1023).reshape(33, 31) / 1023
    explanations = {1: {"one": values, "reverse": 1 - values}}
    view = cv2.resize(make_view(), (31, 33))
    rows = measure_picture(make_net(), view, explanations, {"steps": steps})
    one, reverse = by_measure(rows, "one"), by_measure(rows, "reverse")
    for fill in ("mean", "blur"):
        assert one["insertion", fill]["curve"] == reverse["deletion", fill]["curve"][::-1]
        assert one["deletion", fill]["curve"] == reverse["insertion", fill]["curve"][::-1]
        assert len(one["deletion", fill]["curve"]) == steps + 1
    assert one["road", "linear"]["value"] == -reverse["road", "linear"]["value"]


def test_both_fills_and_the_picture_itself_are_the_ends():
    classifier, view = make_net(), make_view()
    rows = by_measure(measure_picture(classifier, view, {2: {"cam": make_cam()}}))
    whole = classifier.probabilities(view[None])[0, 2]
    pixels = classifier.transform.normalize(view[None])[0].numpy()
    fills = {
        "mean": np.broadcast_to(pixels.mean((1, 2), keepdims=True), pixels.shape),
        "blur": blur(pixels),
    }
    for fill, filled in fills.items():
        with torch.inference_mode():
            logits = classifier.model(torch.tensor(np.array(filled))[None])
        empty = torch.softmax(logits, 1)[0, 2].item()
        for metric, ends in (("deletion", (whole, empty)), ("insertion", (empty, whole))):
            for curve in ("curve", "random_curve"):
                found = rows[metric, fill][curve]
                assert (found[0], found[-1]) == pytest.approx(ends, abs=1e-6)
            assert rows[metric, fill]["value"] == area_under(rows[metric, fill]["curve"])
    assert not np.allclose(fills["mean"], fills["blur"], atol=0.1)


class Noiseless(road.NoisyLinearImputer):
    def __init__(self):
        super().__init__(noise=0)


@pytest.mark.parametrize("side", [8, 21, 32])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.97])
@pytest.mark.parametrize("kind", ["dots", "blob", "frame"])
def test_imputation_is_the_librarys(side, share, kind):
    generator = np.random.default_rng(side)
    height, width = side, side + 3
    picture = generator.normal(size=(3, height, width)).astype(np.float32)
    values = generator.normal(size=(height, width))
    if kind == "blob":
        values = cv2.resize(generator.normal(size=(3, 3)), (width, height))
    elif kind == "frame":
        rows, columns = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        values = np.maximum(abs(rows), abs(columns)) + values / 1e6
    removed = values >= np.quantile(values, 1 - share)
    kept = torch.tensor(~removed, dtype=torch.float32)
    expected = Noiseless()(torch.tensor(picture), kept).numpy()
    found = impute_linear(picture, removed)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)
    np.testing.assert_array_equal(found[:, ~removed], picture[:, ~removed])
    # The noise is on what is imputed alone.
    noise = generator.normal(size=picture.shape).astype(np.float32)
    np.testing.assert_array_equal(
        impute_linear(picture, removed, noise), np.where(removed, found + noise, picture)
    )


def test_imputation_needs_something_to_impute_from():
    picture = np.ones((3, 4, 5), np.float32)
    np.testing.assert_array_equal(impute_linear(picture, np.zeros((4, 5), bool)), picture)
    with pytest.raises(ConsilienceError, match="no pixel is left"):
        impute_linear(picture, np.ones((4, 5), bool))


@given(st.integers(2, 300), st.integers(1, 63))
def test_as_many_pixels_are_removed_as_lie_above_the_percentile(pixels, share):
    values = np.random.default_rng(0).permutation(pixels)
    above = values >= np.percentile(values, 100 * (1 - share / 64))
    assert count_removed(share / 64, pixels) == above.sum()


@pytest.mark.parametrize("architecture", ["tiny", "resnet18"])
def test_road_is_the_librarys(architecture, monkeypatch):
    monkeypatch.setattr(road, "NoisyLinearImputer", Noiseless)
    monkeypatch.setattr(faithfulness, "NOISE", 0)
    classifier = make_net()
    if architecture == "resnet18":
        torch.manual_seed(1)
        model = classifiers.build_architecture("resnet18", 3).eval()
        classifier = classifiers.Classifier("net", model, ("a", "b", "c"), classifier.transform)
    shares = [0.1, 0.4, 0.7]
    # Exact in float32, and so is 1 less them: the library orders the least relevant by that.
    values = np.random.default_rng(0).permutation(1024).reshape(32, 32) / np.float32(1024)
    smooth = rank_pixels(make_cam(seed=4).signed.ravel(), values.ravel())
    smooth = np.float32(smooth.reshape(32, 32) / 1024)
    view = make_view()
    inputs = classifier.transform.normalize(view[None])
    for cam_map in (values, smooth):
        for target in (0, 2):
            metric = road.ROADCombined([100 * (1 - share) for share in shares])
            expected = metric(
                inputs, cam_map[None], [ClassifierOutputSoftmaxTarget(target)], classifier.model
            )
            chosen = {"road": shares, "orders": 1, "steps": 2}
            rows = measure_picture(classifier, view, {target: {"cam": cam_map}}, chosen)
            found = by_measure(rows)["road", "linear"]["value"]
            assert found == pytest.approx(expected[0], abs=2e-6)
            assert abs(expected[0]) > 1e-5


def test_road_noise_is_the_librarys_drawn_once_a_picture():
    classifier = make_linear(np.zeros((2, 64, 64)), images.Transform(std=(0.25,) * 3))
    view = np.full((64, 64, 3), 51, np.uint8)  # flat: imputed is what was there
    asked = {"steps": 2, "road": [0.5], "orders": 1}
    values = np.arange(64 * 64).reshape(64, 64)
    measure_picture(classifier, view, {0: {"cam": values}}, asked, name="p")
    plain = classifier.transform.normalize(view[None])
    noises = (torch.cat(classifier.model.asked) - plain).numpy()
    noises = [noise for noise in noises if 1e-3 < noise.std() < 0.1]
    assert len(noises) == 4  # least and most first, of the explanation and of one random order
    drawn = np.concatenate([noise[np.abs(noise) > 1e-5] for noise in noises])
    assert drawn.std() == pytest.approx(0.01, rel=0.05)
    assert drawn.mean() == pytest.approx(0, abs=1e-3)
    # The two halves of one drawing.
    together = noises[0] + noises[1]
    np.testing.assert_allclose(together, noises[2] + noises[3], atol=1e-6)
    classifier.model.asked.clear()
    measure_picture(classifier, view, {0: {"cam": values}}, asked, name="q")
    again = (torch.cat(classifier.model.asked) - plain).numpy()
    again = [noise for noise in again if 1e-3 < noise.std() < 0.1]
    assert abs(np.corrcoef((again[0] + again[1]).ravel(), together.ravel())[0, 1]) < 0.1


@pytest.mark.parametrize("side", [96, 224])
def test_blur_is_five_pixels_at_224(side):
    dot = np.zeros((2, side, side + 20), np.float32)
    dot[0, side // 2, side // 2] = 1
    spread = blur(dot)
    assert spread.dtype == np.float32
    assert not spread[1].any()  # channels stay apart
    for axis in (0, 1):
        profile = spread[0].sum(1 - axis)
        places = np.arange(len(profile))
        assert profile.sum() == pytest.approx(1, rel=1e-5)
        mean = (profile * places).sum()
        width = np.sqrt((profile * (places - mean) ** 2).sum())
        assert width == pytest.approx(5 / 224 * side, rel=0.02)
    np.testing.assert_allclose(blur(np.ones((3, side, side), np.float32)), 1, rtol=1e-5)


few = st.lists(st.tuples(st.integers(-2, 2), st.integers(0, 3)), min_size=1, max_size=30)


@given(few)
def test_ranks_follow_values_then_ties_then_places(pairs):
    values, ties = map(np.array, zip(*pairs, strict=True))
    ranks = rank_pixels(values, ties)
    assert sorted(ranks) == list(range(len(pairs)))
    ordered = [pairs[place] for place in np.argsort(ranks)]
    assert ordered == sorted(pairs, reverse=True)


@pytest.fixture
def ranks_made(monkeypatch):
    """What rank_pixels returned, in order."""
    made = []

    def spy(*args):
        made.append(rank_pixels(*args))
        return made[-1]

    monkeypatch.setattr(faithfulness, "rank_pixels", spy)
    return made


def test_ties_of_a_cam_are_not_broken_into_dots(ranks_made):
    side = 32
    values = np.zeros((side, side), np.float32)
    values[: side // 2] = np.linspace(1, 0.5, side // 2)[:, None]
    layer_map = np.float32(np.arange(16)).reshape(4, 4)
    heatmap = Heatmap(values, layer_map)
    measure_picture(make_net(), make_view(), {0: {"cam": heatmap}})
    *orders, own = (ranks.reshape(side, side) for ranks in ranks_made)
    assert len(orders) == 2
    assert own[: side // 2].max() < side * side // 2  # what is not tied comes first
    apart = np.abs(np.diff(own[side // 2 :], axis=1)).mean()
    assert apart < 40  # in dots neighbours would lie a third of the 512 places apart
    # The tie-break is not one of the random orders.
    for order in orders:
        tied = rank_pixels(-order[side // 2 :].ravel())
        assert abs(np.corrcoef(tied, own[side // 2 :].ravel())[0, 1]) < 0.9


def test_superpixels_go_one_after_another_and_ties_in_random_order(ranks_made):
    segments = make_lime().segment_map
    weights = np.zeros(16)
    weights[5] = 1
    for seed in range(2):
        lime = Superpixels(segments, weights)
        measure_picture(make_net(), make_view(), {0: {"lime": lime}}, seed=seed)
    orders = []
    for ranks in ranks_made:
        groups = [np.sort(ranks[segments.ravel() == number]) for number in range(16)]
        assert all(group[-1] - group[0] == len(group) - 1 for group in groups)
        # Within a superpixel in random order, not row by row.
        assert np.any(np.diff(ranks[segments.ravel() == 0]) < 0)
        orders.append([group[0] // 64 for group in groups])
    assert len({tuple(order) for order in orders}) == 6  # two random and its own, twice
    assert orders[2][5] == orders[5][5] == 0


def test_a_larger_superpixel_of_equal_weight_counts_less(ranks_made):
    segments = np.zeros((4, 8), int)
    segments[:, :2], segments[:, 2:4] = 1, 2
    lime = Superpixels(segments, [6.0, 5.0, 0.0])
    measure_picture(make_linear(np.zeros((2, 4, 8))), make_view(8)[:4], {0: {"lime": lime}})
    own = ranks_made[-1].reshape(4, 8)
    assert own[:, :2].max() < own[:, 4:].min()  # 5 over 8 pixels before 6 over 16


def count_passes(classifier):
    counted = []
    classifier.model.register_forward_pre_hook(lambda model, args: counted.append(len(args[0])))
    return counted


def test_passes_are_shared_and_within_the_budget():
    classifier, view = make_net(), make_view()
    asked = count_passes(classifier)
    cams = {name: make_cam(seed=number) for number, name in enumerate("abcd")}
    three = {name: cams[name] for name in "abc"} | {"lime": make_lime()}
    measure_picture(classifier, view, {0: three})
    # Itself, two fills; 36 an order (4 × 7 and 2 × 4), of four methods and of random orders for
    # two resolutions; the masked picture of each method and of two random maps.
    assert sum(asked) == 1 + 2 + 36 * (4 + 2 * 2) + 4 * 3 == 303
    assert max(asked) == 32
    assert len(asked) == 10
    asked.clear()
    measure_picture(classifier, view, {0: three | {"d": cams["d"]}})
    assert sum(asked) == 303 + 36 + 3  # no more random orders
    asked.clear()
    measure_picture(classifier, view, {0: three, 1: {"a": cams["d"], "b": cams["b"]}})
    assert sum(asked) == 303 + 36 + 3  # another target of the same map asks for nothing new
    asked.clear()
    measure_picture(classifier, view, {0: three | {"d": make_cam(grid=8)}})
    assert sum(asked) == 303 + 36 * 3 + 3  # another resolution has orders of its own


def close(rows, others):
    assert [row["method"] for row in rows] == [row["method"] for row in others]
    for row, other in zip(rows, others, strict=True):
        for key in ("value", "random", "difference"):
            assert row.get(key) == pytest.approx(other.get(key), abs=2e-6)
        np.testing.assert_allclose(row["curve"], other["curve"], atol=2e-6)
        np.testing.assert_allclose(row["random_curve"], other["random_curve"], atol=2e-6)


def test_answers_do_not_depend_on_batches_or_on_what_else_is_asked():
    classifier, view = make_net(), make_view()
    maps = {"cam": make_cam(), "lime": make_lime(), "other": make_cam(seed=8)}
    rows = measure_picture(classifier, view, {0: maps}, name="p", seed=4)
    assert rows == measure_picture(classifier, view, {0: maps}, name="p", seed=4)
    for size in (1, 7, 500):
        close(rows, measure_picture(classifier, view, {0: maps}, {"batch_size": size}, 4, "p"))
    for method in maps:
        alone = measure_picture(classifier, view, {0: {method: maps[method]}}, name="p", seed=4)
        close([row for row in rows if row["method"] == method], alone)
    both = measure_picture(classifier, view, {2: maps, 0: maps}, name="p", seed=4)
    assert [row["target_index"] for row in both] == [2] * 21 + [0] * 21
    close(both[21:], rows)
    # Another name, another seed: other random orders, the same curves of the explanation.
    for changed in ({"name": "q", "seed": 4}, {"name": "p", "seed": 5}):
        others = measure_picture(classifier, view, {0: maps}, **changed)
        for method in maps:
            mine, theirs = by_measure(rows, method), by_measure(others, method)
            assert mine["deletion", "mean"]["random"] != theirs["deletion", "mean"]["random"]
    # More orders begin with the same.
    one, two, three = (
        by_measure(measure_picture(classifier, view, {0: maps}, {"orders": orders}, 4, "p"), "cam")[
            "deletion", "mean"
        ]["random"]
        for orders in (1, 2, 3)
    )
    assert by_measure(rows, "cam")["deletion", "mean"]["random"] == pytest.approx(two, abs=2e-6)
    assert len({one, two, three}) == 3


def test_nothing_is_left_on_the_model():
    classifier, view = make_net(), make_view()
    before = view.copy()
    state = {key: value.clone() for key, value in classifier.model.state_dict().items()}
    assert torch.is_grad_enabled()
    measure_picture(classifier, view, {0: {"cam": make_cam(), "lime": make_lime()}})
    assert torch.is_grad_enabled()
    np.testing.assert_array_equal(view, before)
    for key, value in classifier.model.state_dict().items():
        assert torch.equal(value, state[key])
    for module in classifier.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._backward_hooks


FLAT = np.zeros((32, 32), int)


@pytest.mark.parametrize(
    ("explanation", "reason"),
    [
        (Heatmap(np.zeros((32, 32), np.float32), -np.ones((4, 4), np.float32)), "constant map"),
        (np.full((32, 32), np.nan), "map with values that are not finite"),
        (Superpixels(FLAT, [1.0]), "one superpixel"),
        (Superpixels(make_lime().segment_map, np.ones(16)), "constant weights"),
        (Superpixels(make_lime().segment_map, [np.nan] * 16), "weights with values that are not"),
    ],
)
def test_an_explanation_that_orders_nothing_has_a_reason_and_asks_nothing(explanation, reason):
    classifier, view = make_net(), make_view()
    asked = count_passes(classifier)
    rows = measure_picture(classifier, view, {0: {"bad": explanation}})
    assert not asked
    assert [(row["metric"], row["fill"]) for row in rows] == list(MEASURES)
    for row in rows:
        assert row["reason"].startswith(reason)
        assert not {"value", "random", "difference"} & set(row)
        assert row["curve"] == row["random_curve"] == []
    mixed = measure_picture(classifier, view, {0: {"bad": explanation, "cam": make_cam()}})
    assert [row.get("reason") for row in mixed] == [row["reason"] for row in rows] + [None] * 7
    assert sum(asked) == 3 + 36 * 3 + 3


def test_weights_without_a_positive_one_have_an_order_but_mask_nothing():
    lime = Superpixels(make_lime().segment_map, -1.0 - np.arange(16))
    rows = by_measure(measure_picture(make_net(), make_view(), {0: {"lime": lime}}))
    for key, row in rows.items():
        if key in MOVING:
            assert row["value"] is not None
            assert "reason" not in row
        else:
            assert row["reason"] == "no positive value"


def test_the_negative_part_of_weights_masks_as_much_as_zero():
    segments = make_lime().segment_map
    weights = np.where(np.arange(16) < 8, 1.0, 0.0)
    below = np.where(np.arange(16) < 8, 1.0, -3.0)
    maps = {"zero": Superpixels(segments, weights), "below": Superpixels(segments, below)}
    rows = measure_picture(make_net(), make_view(), {0: maps})
    drops = [by_measure(rows, name) for name in maps]
    key = "average-drop", "black"
    assert drops[0][key]["value"] == pytest.approx(drops[1][key]["value"], abs=1e-6)


def test_a_target_of_no_probability_has_no_average_drop():
    classifier = make_linear([np.full((4, 4), -1e6), np.zeros((4, 4))])
    view = np.full((4, 4, 3), 200, np.uint8)
    rows = by_measure(measure_picture(classifier, view, {0: {"cam": np.eye(4)}}))
    assert rows["average-drop", "black"]["reason"] == "the target's probability is 0"
    assert rows["increase", "black"]["reason"] == "the target's probability is 0"
    assert rows["deletion", "mean"]["value"] == 0


@pytest.mark.parametrize(
    ("explanations", "chosen", "match"),
    [
        ({0: {"cam": np.eye(31)}}, {}, r"cam: an explanation of shape \(31, 31\)"),
        ({3: {"cam": np.eye(32)}}, {}, "classes 0 to 2"),
        ({-1: {"cam": np.eye(32)}}, {}, "classes 0 to 2"),
        ({0: {"cam": np.eye(32)}}, {"step": 3}, "no setting 'step'"),
        ({0: {"cam": np.eye(32)}}, {"steps": 1}, "faithfulness.steps: 1 is below 2"),
        ({0: {"cam": np.eye(32)}}, {"orders": 0}, "faithfulness.orders: 0 is below 1"),
        ({0: {"cam": np.eye(32)}}, {"road": [0.2, 1.0]}, "faithfulness.road"),
        ({0: {"cam": np.eye(32)}}, {"road": []}, "faithfulness.road"),
    ],
)
def test_what_does_not_fit_is_said(explanations, chosen, match):
    with pytest.raises(ConsilienceError, match=match):
        measure_picture(make_net(), make_view(), explanations, chosen)


def as_rows(names, seeds, layer="layer"):
    """Rows of the tables that measure_views reads, of a CAM and LIME each."""
    views, predictions, heatmaps, limes = [], [], [], []
    for name, seed in zip(names, seeds, strict=True):
        views.append({"picture": name, "view": images.encode_png(make_view(seed=seed))})
        for target in (1, 0):
            of = {"picture": name, "target_index": target, "target_class": "ab"[target]}
            of |= {"model": "net", "height": 32, "width": 32}
            predictions.append({key: of[key] for key in of if key not in ("height", "width")})
            found, lime = make_cam(seed=seed + target), make_lime(seed=seed + target)
            heatmaps.append(
                of
                | {"method": "cam", "layer": layer, "layer_height": 4, "layer_width": 4}
                | {"heatmap": found.values.ravel(), "layer_map": found.layer_map.ravel()}
            )
            limes.append(of | {"segment_map": lime.segment_map.ravel(), "weights": lime.weights})
    return views, predictions, heatmaps, limes


def test_views_are_measured_one_by_one():
    classifier = make_net()
    chosen = {"steps": 3, "road": [0.5], "orders": 1, "batch_size": 8}
    rows = list(measure_views(classifier, *as_rows("pq", (0, 3)), chosen, 7))
    tables.make_table(rows, tables.FAITHFULNESS)
    keys = [(row["picture"], row["target_index"], row["method"]) for row in rows[:: len(MEASURES)]]
    assert keys == [(p, t, m) for p in "pq" for t in (1, 0) for m in ("cam", "lime")]
    assert all(row["target_class"] == "ab"[row["target_index"]] for row in rows)
    # To the last digit, whichever other pictures there are.
    assert rows[28:] == list(measure_views(classifier, *as_rows("q", (3,)), chosen, 7))
    maps = {t: {"cam": make_cam(seed=3 + t), "lime": make_lime(seed=3 + t)} for t in (1, 0)}
    expected = measure_picture(classifier, make_view(seed=3), maps, chosen, 7, "q")
    assert [{key: row[key] for key in expected[0]} for row in rows[28:]] == expected


def test_a_map_of_several_layers_has_the_resolution_of_the_first():
    classifier = make_net()
    one = list(measure_views(classifier, *as_rows("p", (0,))))
    assert one == list(measure_views(classifier, *as_rows("p", (0,), layer="layer, other")))


def test_an_error_names_its_picture():
    views, predictions, heatmaps, limes = as_rows("p", (0,))
    views[0]["view"] = images.encode_png(make_view(40))
    with pytest.raises(ConsilienceError, match=r"picture 'p': cam: an explanation of shape"):
        list(measure_views(make_net(), views, predictions, heatmaps, limes))


def scored(picture, method, metric, fill, value, random, model="m", target=0):
    row = {"model": model, "picture": picture, "target_index": target, "method": method}
    row |= {"metric": metric, "fill": fill, "value": value, "random": random, "difference": None}
    if value is not None:
        row["difference"] = random - value if metric == "deletion" else value - random
    return row


def test_summary_by_hand():
    rows = [
        scored("a", "cam", "deletion", "mean", 0.25, 0.5),
        scored("a", "cam", "deletion", "mean", 0.9, 0.1, target=1),  # not its first target
        scored("b", "cam", "deletion", "mean", 0.5, 0.25),
        scored("c", "cam", "deletion", "mean", None, None),
        scored("a", "cam", "road", "linear", 0.25, -0.125),
        scored("d", "cam", "deletion", "mean", None, None),
    ]
    pictures = [{"name": name, "clutter": 0 if name != "d" else None} for name in "abcd"]
    summary = summarise_faithfulness(rows, pictures, 100, 0)
    tables.make_table(summary, tables.FAITHFULNESS_SUMMARY)
    by_hand = {"model": "m", "method": "cam", "metric": "deletion", "fill": "mean", "clutter": 0}
    by_hand |= {"n": 2, "missing": 1, "mean": 0.0, "median": 0.0, "value": 0.375, "random": 0.375}
    assert {key: summary[0][key] for key in by_hand} == by_hand
    assert (summary[0]["low"], summary[0]["high"]) == (-0.25, 0.25)
    assert summary[1]["clutter"] is None
    assert summary[1]["n"] == 0
    assert summary[1]["missing"] == 1
    assert summary[1]["value"] is summary[1]["random"] is None
    assert (summary[2]["mean"], summary[2]["value"], summary[2]["random"]) == (0.375, 0.25, -0.125)
    assert len(summary) == 3


def vote_rows(gains, bases=6, levels=2):
    """Rows where method and measure have a given gain over random, and bases differ a little."""
    rows = []
    for base in range(bases):
        for level in range(levels):
            for method, of_measure in gains.items():
                for metric, fill in MOVING:
                    gain = of_measure.get(fill, of_measure["all"]) + base / 100 + level / 1000
                    value = 0.5 - gain if metric == "deletion" else 0.5 + gain
                    rows.append(scored(f"{base}-{level}", method, metric, fill, value, 0.5))
    pictures = [
        {"name": f"{base}-{level}", "base": str(base)}
        for base in range(bases)
        for level in range(levels)
    ]
    return rows, pictures


def test_a_winner_is_named_where_all_agree():
    gains = {"x": {"all": 0.1}, "y": {"all": 0.3}, "z": {"all": 0.2}}
    ((winner),) = name_winners(*vote_rows(gains), resamples=200)
    assert (winner["model"], winner["method"], winner["reason"]) == ("m", "y", None)
    for vote, name in zip(winner["votes"], ("mean", "blur", "ROAD"), strict=True):
        assert (vote["vote"], vote["best"], vote["second"]) == (name, "y", "z")
        assert vote["difference"] == pytest.approx(0.1)
        assert (vote["bases"], vote["left_out"]) == (6, 0)


@pytest.mark.parametrize(
    ("gains", "reason"),
    [
        (
            {"x": {"all": 0.1, "blur": 0.4}, "y": {"all": 0.3}},
            "the fills disagree: mean says y, blur says x, ROAD says y",
        ),
        (
            {"x": {"all": 0.1, "linear": 0.4}, "y": {"all": 0.3}},
            "the fills and ROAD disagree: mean says y, blur says y, ROAD says x",
        ),
        ({"y": {"all": 0.3}}, "y is the only method"),
    ],
)
def test_no_winner_is_named_where_the_votes_disagree(gains, reason):
    ((winner),) = name_winners(*vote_rows(gains), resamples=200)
    assert (winner["method"], winner["reason"]) == (None, reason)


def test_no_winner_is_named_where_the_second_is_close():
    rows, pictures = vote_rows({"x": {"all": 0.29}, "y": {"all": 0.3}})
    for row in rows:
        # On one base the order is the other way round, by ROAD only.
        if row["picture"][0] == "3" and row["method"] == "x" and row["metric"] == "road":
            row["difference"] += 0.05
    ((winner),) = name_winners(rows, pictures, resamples=500)
    assert winner["method"] is None
    assert winner["reason"] == "y leads, but is not told from the second: x by ROAD"
    road_vote = winner["votes"][2]
    assert road_vote["low"] <= 0 < road_vote["difference"] == pytest.approx(0.01 - 0.05 / 6)


def test_deletion_and_insertion_have_equal_parts_in_a_vote():
    rows, pictures = vote_rows({"x": {"all": 0.2}, "y": {"all": 0.3}})
    for row in rows:
        # x better by deletion by 0.2 - 0.1, y better by insertion by 0.1.
        if row["method"] == "x" and row["metric"] == "deletion":
            row["difference"] += 0.15
    ((winner),) = name_winners(rows, pictures, resamples=100)
    assert winner["method"] == "y"
    assert winner["votes"][0]["difference"] == pytest.approx(0.1 - 0.15 / 2)


def test_pictures_of_one_base_count_as_one():
    rows, pictures = vote_rows({"x": {"all": 0.2}, "y": {"all": 0.3}}, bases=1, levels=5)
    ((winner),) = name_winners(rows, pictures)
    assert winner["method"] is None
    assert winner["reason"].startswith("mean and blur and ROAD: fewer than two base pictures")
    assert [vote["bases"] for vote in winner["votes"]] == [1, 1, 1]
    # Photographs have no base: each counts.
    pictures = [picture | {"base": None} for picture in pictures]
    ((winner),) = name_winners(rows, pictures, resamples=100)
    assert winner["method"] == "y"
    assert winner["votes"][0]["bases"] == 5

    # Five pictures of one base weigh no more than one of another.
    rows, pictures = vote_rows({"x": {"all": 0.2}, "y": {"all": 0.3}}, bases=2, levels=5)
    rows = [row for row in rows if row["picture"] in ("0-0",) or row["picture"][0] == "1"]
    for row in rows:
        if row["picture"] == "0-0" and row["method"] == "y":
            row["difference"] -= 0.08
    ((winner),) = name_winners(rows, pictures, resamples=100)
    assert winner["votes"][2]["difference"] == pytest.approx((0.02 + 0.1) / 2)


def test_pictures_without_a_value_of_every_method_are_left_out_of_the_vote():
    rows, pictures = vote_rows({"x": {"all": 0.2}, "y": {"all": 0.3}})
    for row in rows:
        if row["picture"] == "2-1" and row["method"] == "x" and row["metric"] == "road":
            row["difference"] = row["value"] = None
    ((winner),) = name_winners(rows, pictures, resamples=100)
    assert winner["method"] == "y"
    assert [vote["left_out"] for vote in winner["votes"]] == [0, 0, 1]
    assert [vote["bases"] for vote in winner["votes"]] == [6, 6, 6]
    with pytest.raises(ConsilienceError, match="not in the study"):
        name_winners(rows, pictures[1:])


def test_winners_are_named_by_model_on_first_targets():
    rows, pictures = vote_rows({"x": {"all": 0.2}, "y": {"all": 0.3}})
    others, _ = vote_rows({"x": {"all": 0.5}, "y": {"all": 0.3}})
    second = [row | {"target_index": 1} for row in others]
    models = rows + second + [row | {"model": "a"} for row in others]
    found = name_winners(models, pictures, resamples=100)
    assert [(row["model"], row["method"]) for row in found] == [("a", "x"), ("m", "y")]


def test_curves_have_areas_by_trapezoids():
    assert area_under([1, 0]) == 0.5
    assert area_under([1, 1, 0]) == 0.75
    assert area_under([0, 0, 1, 0]) == pytest.approx(1 / 3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 9), st.sampled_from([0.1, 0.5, 0.9]))
def test_scores_lie_in_their_ranges(seed, steps, share):
    generator = np.random.default_rng(seed)
    view = generator.integers(0, 256, (9, 7, 3), dtype=np.uint8)
    chosen = {"steps": steps, "road": [share], "orders": 1}
    classifier = make_linear(generator.normal(0, 3, (3, 9, 7)))
    explanations = {
        1: {
            "cam": generator.integers(0, 3, (9, 7)).astype(float) + np.eye(9, 7),
            "lime": Superpixels(np.arange(63).reshape(9, 7) // 8, generator.normal(size=8)),
        }
    }
    for row in measure_picture(classifier, view, explanations, chosen, seed):
        if row.get("value") is None:
            assert row["reason"]
            continue
        low = -0.5 if row["metric"] == "road" else 0
        high = 0.5 if row["metric"] == "road" else 1
        for key in ("value", "random"):
            assert low <= row[key] <= high + 1e-6


def test_grad_cam_of_a_trained_network_beats_random_orders(real_data):
    state = classifiers.read_state_dict(real_data / "weights/squeezenet1_0_imagenet.pt")
    model = classifiers.build_architecture("squeezenet1_0", 1000)
    model.load_state_dict(state)
    transform = images.Transform(
        resize=128, crop=(128, 128), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    names = tuple(map(str, range(1000)))
    classifier = classifiers.Classifier("squeezenet", model.eval(), names, transform)
    differences = {measure: [] for measure in MOVING}
    chosen = {"steps": 4, "road": [0.3, 0.6]}
    for file in sorted((real_data / "photos").glob("*.JPEG"))[:4]:
        view = transform.fit(images.decode_image(file.read_bytes(), file.name))
        target = int(classifier.probabilities(view[None])[0].argmax())
        (row,) = cam.explain_cam(classifier, "grad-cam", "features.12", [view], [target])
        layer_map = row["layer_map"].reshape(row["layer_height"], row["layer_width"])
        found = Heatmap(row["heatmap"].reshape(128, 128), layer_map)
        rows = measure_picture(classifier, view, {target: {"cam": found}}, chosen, 0, file.name)
        for measure in MOVING:
            differences[measure].append(by_measure(rows)[measure]["difference"])
    for measure, values in differences.items():
        assert np.mean(values) > 0.01, measure

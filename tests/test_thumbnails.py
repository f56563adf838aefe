"""What the gallery shows, drawn from small made-up explanations."""

import io

import numpy as np
import pytest
from PIL import Image

from consilience import explain_params, figures, lime_image, tables, thumbnails
from consilience.errors import ConsilienceError
from consilience.images import encode_png

KEY = {"model": "m", "picture": "p"}
TARGET = {"target_index": 3, "target_class": "ball"}


def view(side=24, mask=None, **more):
    rng = np.random.default_rng(side)
    pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    masks = {"mask_visible": None if mask is None else encode_png(mask)}
    return KEY | {"height": side, "width": side, "view": encode_png(pixels)} | masks | more


def heatmap(values, **more):
    height, width = values.shape
    return (
        KEY
        | TARGET
        | {"method": "grad-cam", "layer": "l4", "height": height, "width": width}
        | {"heatmap": values.ravel().tolist(), "status": "ok" if values.any() else "zero"}
        | more
    )


def lime(segments, weights, **more):
    height, width = segments.shape
    return (
        KEY
        | TARGET
        | {"height": height, "width": width, "segment_map": segments.ravel().tolist()}
        | {"weights": weights, "status": "ok"}
        | more
    )


def draw(*args, **kwargs):
    rows = list(thumbnails.draw_thumbnails(*args, **kwargs))
    return tables.make_table(rows, tables.THUMBNAILS).to_pylist()


def pixels_of(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"), dtype=float)


def test_a_heatmap_is_drawn_over_the_picture_and_alone():
    values = np.zeros((24, 24), dtype=np.float32)
    values[18:, :6] = 1
    picture, drawn = draw([view()], [heatmap(values)], [])
    assert (picture["shows"], picture["target_index"]) == ("picture", None)
    assert (drawn["shows"], drawn["target_index"], drawn["layer"]) == ("grad-cam", 3, "l4")
    assert drawn["place"] == "lower left"
    assert (drawn["height"], drawn["width"]) == (24, 24)
    colours = pixels_of(drawn["heat"])
    ends = [
        np.array(Image.new("RGB", (1, 1), colour))[0, 0]
        for _, colour in (figures.sample_colormap()[0], figures.sample_colormap()[-1])
    ]
    assert np.abs(colours[2, 20] - ends[0]).max() < 20
    assert np.abs(colours[21, 2] - ends[1]).max() < 40
    over = pixels_of(drawn["image"])
    assert np.abs(over - colours).mean() > 20  # the picture shines through


def test_a_large_heatmap_is_drawn_small():
    values = np.linspace(0, 1, 400 * 200, dtype=np.float32).reshape(400, 200)
    large = view(400)
    *_, drawn = draw([large], [heatmap(values)], [])
    assert pixels_of(drawn["heat"]).shape == (96, 48, 3)
    assert max(drawn["height"], drawn["width"]) == 192


def test_what_is_degenerate_is_not_drawn():
    segments = np.zeros((24, 24), dtype=int)
    flat = heatmap(np.zeros((24, 24), dtype=np.float32))
    rows = draw([view()], [flat], [lime(segments, [0.0], status="one-superpixel")])
    for row in rows[1:]:
        assert row["image"] is row["heat"] is row["place"] is row["width"] is None


def test_a_mask_says_where_it_lies_and_how_large_it_is():
    mask = np.zeros((24, 24), dtype=np.uint8)
    mask[:6, 18:] = 255
    _, drawn = draw([view(mask=mask)], [], [])
    assert (drawn["shows"], drawn["place"]) == ("mask", "upper right")
    assert drawn["area"] == pytest.approx(36 / 576)
    _, empty = draw([view(mask=mask * 0)], [], [])
    assert empty["place"] == "nowhere: nothing of it is seen"


def test_superpixels_are_drawn_as_the_parameters_say(tmp_path):
    segments = np.repeat(np.arange(4), 6)[None].repeat(24, axis=0)
    weights = [0.4, -0.3, 0.2, 0.1]
    path = tmp_path / "given.pkl"
    explain_params.write_params({"p": {"outline_num_features": 1, "hide_rest": True}}, path)
    seen = []

    def outline(view, segment_map, found, **shown):
        seen.append((segment_map.shape, found.tolist(), shown))
        return lime_image.outline(view, segment_map, found, **shown)

    for given, features, hides in ((None, 3, False), (path, 1, True)):
        outlines = explain_params.resolve_outlines(["p"], 3, given)
        _, drawn = draw([view()], [], [lime(segments, weights)], outline, outlines)
        assert drawn["place"].endswith("left")
        shape, found, shown = seen.pop()
        assert (shape, found) == ((24, 24), weights)
        assert shown == lime_image.SHOWN | {"num_features": features, "hide_rest": hides}
        # Where the rest is hidden, the superpixels that are not outlined are black.
        dark = pixels_of(drawn["image"])[:, 19:].mean() < 20
        assert dark == hides


def test_outlines_are_those_of_the_exported_parameters(tmp_path):
    path = tmp_path / "given.pkl"
    entry = {"num_features": 7, "min_weight": 0.1}
    explain_params.write_params({"p": entry}, path)
    settings = {"num_samples": 10, "batch_size": 2, "segmentation": {"method": "slic"}}
    settings |= {"hide_color": "mean", "kernel_width": 0.25, "distance_metric": "cosine"}
    settings |= {"segmentation_seed": 0, "perturbation_seed": 0}
    resolved = explain_params.resolve_params(settings, ["p", "q"], path)
    predictions = [{"picture": name, "target_index": 0} for name in ("p", "q")]
    exported = explain_params.collect_params(resolved, predictions, 4)
    for name, found in explain_params.resolve_outlines(["p", "q"], 4, path).items():
        assert found.pop("num_features") == exported[name]["outline_num_features"]
        assert found.items() <= exported[name].items()


def test_an_explanation_without_view_is_refused():
    values = np.ones((24, 24), dtype=np.float32)
    with pytest.raises(
        ConsilienceError, match="'other' is explained for model 'm' but has no view"
    ):
        draw([view()], [heatmap(values, picture="other")], [])

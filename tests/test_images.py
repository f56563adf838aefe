"""Decoding, and the geometry that a model sees."""

import io
import warnings
from collections import Counter
from threading import Event

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from consilience import images
from consilience.errors import ConsilienceError
from consilience.images import Transform, decode_image

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def make_picture(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encode(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels_of(data):
    picture = decode_image(data, "p")
    assert picture.mode == "RGB"
    return np.asarray(picture)


def assert_parity(picture, resize, crop, interpolation):
    """Hold Transform against torchvision's preset, to the last bit of the model's input."""
    preset = ImageClassification(
        crop_size=crop, resize_size=resize, interpolation=InterpolationMode(interpolation)
    )
    transform = Transform(resize, (crop, crop), interpolation=interpolation, **IMAGENET)
    fitted = transform.fit(picture)
    assert fitted.shape == (crop, crop, 3)
    assert fitted.dtype == np.uint8
    assert torch.equal(transform.normalize(fitted[None])[0], preset(picture))


sides = st.integers(1, 90)


@settings(max_examples=150, deadline=None)
@given(
    sides,
    sides,
    st.integers(1, 70),
    st.integers(1, 80),
    st.sampled_from(["bilinear"] * 3 + ["bicubic", "nearest"]),
)
@example(31, 31, 31, 31, "bilinear")
@example(31, 32, 31, 30, "bilinear")
@example(10, 11, 10, 13, "bilinear")
@example(90, 1, 3, 2, "bilinear")
@example(1, 1, 8, 9, "bicubic")
def test_fit_is_torchvisions_preset(width, height, resize, crop, interpolation):
    assert_parity(make_picture(width, height), resize, crop, interpolation)


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (499, 333), (224, 224), (256, 1000)])
@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (232, 224), (235, 227), (342, 299)])
def test_fit_is_torchvisions_preset_at_the_usual_sizes(size, resize, crop):
    assert_parity(make_picture(*size), resize, crop, "bilinear")


def test_fit_is_torchvisions_preset_on_photographs(real_data):
    paths = sorted((real_data / "photos").glob("*.JPEG"))[::9]
    assert paths
    for path in paths:
        picture = Image.open(path).convert("RGB")
        np.testing.assert_array_equal(decode_image(path.read_bytes(), path.name), picture)
        assert_parity(picture, 256, 224, "bilinear")


def test_without_steps_a_picture_stays_as_it_is():
    picture = make_picture(7, 5)
    np.testing.assert_array_equal(Transform().fit(picture), np.asarray(picture))
    scaled = Transform().normalize(np.asarray(picture)[None])
    assert scaled.shape == (1, 3, 5, 7)
    assert scaled.dtype == torch.float32
    assert scaled.is_contiguous()
    np.testing.assert_allclose(scaled[0].permute(1, 2, 0), np.asarray(picture) / 255, rtol=1e-6)


def test_fit_takes_grey_pictures():
    grey = Image.fromarray(np.full((5, 6), 90, np.uint8))
    assert (Transform(resize=4).fit(grey) == 90).all()


@pytest.mark.parametrize("size", [(1, 200_000), (200_000, 1)])
def test_of_an_extreme_picture_only_what_is_kept_is_made(size):
    """Resized whole it would have 13 thousand million pixels."""
    assert Transform(resize=256, crop=(224, 224)).fit(make_picture(*size)).shape == (224, 224, 3)
    with pytest.raises(ConsilienceError, match="less extreme shape, or give the transform a crop"):
        Transform(resize=256).fit(make_picture(*size))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(3, 200), (200, 3), (41, 67)])
@pytest.mark.parametrize(("resize", "crop"), [(16, (12, 10)), (9, (12, 10)), (60, (20, 21))])
def test_an_extreme_picture_is_fitted_like_any_other(
    size, resize, crop, interpolation, monkeypatch
):
    # Pillow resizes along one side and then the other, whichever first costs less, and clips in
    # between what goes beyond 0 and 255: so nothing does.
    picture = make_picture(*size).point(lambda value: 64 + value // 2)
    transform = Transform(resize, crop, interpolation=interpolation)
    expected, mask = transform.fit(picture), transform.fit_mask(picture)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    # Weights of neighbours that are rounded elsewhere: a grey value.
    found = transform.fit(picture)
    assert np.abs(found.astype(int) - expected).max() <= (0 if interpolation == "nearest" else 1)
    np.testing.assert_array_equal(transform.fit_mask(picture), mask)


@given(st.integers(2, 90), st.integers(2, 90), st.integers(2, 60), st.integers(1, 70))
@settings(max_examples=60, deadline=None)
def test_a_mask_is_fitted_like_its_picture_and_keeps_its_values(width, height, resize, crop):
    """Nearest neighbour takes whole pixels of the picture, so that the two can be compared."""
    indices = np.random.default_rng(0).integers(0, 4, (height, width), dtype=np.uint8)
    transform = Transform(resize, (crop, crop), interpolation="nearest")
    fitted = transform.fit_mask(Image.fromarray(indices))
    assert fitted.dtype == np.uint8
    np.testing.assert_array_equal(fitted, transform.fit(Image.fromarray(indices))[..., 0])
    smooth = Transform(resize, (crop, crop), interpolation="bilinear")
    np.testing.assert_array_equal(fitted, smooth.fit_mask(Image.fromarray(indices)))


def test_box_by_hand():
    # 500 × 375 becomes 341 × 256; the crop begins at round(58.5) = 58 and 16.
    box = Transform(256, (224, 224)).box((500, 375))
    across, down = 500 / 341, 375 / 256
    assert box == pytest.approx((58 * across, 16 * down, 282 * across, 240 * down))
    assert Transform().box((500, 375)) == (0, 0, 500, 375)
    # A crop larger than the picture reaches beyond it.
    assert Transform(None, (6, 5)).box((3, 4)) == (-1, -1, 4, 5)


@given(st.integers(20, 90), st.integers(20, 90), st.integers(15, 60), st.integers(8, 15))
@settings(max_examples=60, deadline=None)
def test_box_says_where_in_the_picture_each_fitted_pixel_lies(width, height, resize, crop):
    """A picture whose colours are its coordinates tells where its pixels came from."""
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    ramp = np.stack([across, down, down], -1).astype(np.uint8)
    transform = Transform(resize, (crop, crop))
    fitted = transform.fit(Image.fromarray(ramp)).astype(float)
    left, top, right, bottom = transform.box((width, height))
    # A pixel's centre lies half a pixel in; one grey value is lost to rounding, and at the border
    # of the picture there is nothing to interpolate with.
    centres = (np.arange(crop) + 0.5) / crop
    border = max(1.0, min(width, height) / resize)
    assert np.abs(fitted[0, :, 0] - (left + centres * (right - left) - 0.5)).max() <= 1 + border / 2
    assert np.abs(fitted[:, 0, 1] - (top + centres * (bottom - top) - 0.5)).max() <= 1 + border / 2


def test_a_transform_goes_through_built_in_types():
    transform = Transform(256, (224, 224), interpolation="bicubic", **IMAGENET)
    assert Transform.from_dict(transform.to_dict()) == transform
    study = {
        "resize": 256,
        "crop": 224,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    assert Transform.from_dict(study) == Transform(256, (224, 224), **IMAGENET)
    assert Transform.from_dict({"crop": None}) == Transform()


def test_batches_depend_on_the_name_alone():
    # Pinned: another hash would move every picture of every study to another batch.
    assert images.batch_of("n01443537_goldfish.JPEG", 8) == 6
    assert images.batch_of("über/straße.png", 1000) == 938
    assert images.batch_of("anything", 1) == 0


def test_batches_are_balanced():
    counts = Counter(images.batch_of(f"photo-{index}.jpg", 8) for index in range(8000))
    assert sorted(counts) == list(range(8))
    assert max(abs(count - 1000) for count in counts.values()) < 5 * 30  # five deviations


def test_a_hash_is_sha256():
    assert images.hash_bytes(b"abc").startswith("ba7816bf8f01cfea414140de5dae2223")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_upright(orientation):
    upright = np.zeros((2, 3, 3), np.uint8)
    upright[0, 0] = 255
    # How the camera stored it, for each value of the EXIF tag.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    np.testing.assert_array_equal(pixels_of(data), upright)


def test_cmyk_grey_and_bilevel():
    cmyk = Image.new("CMYK", (4, 4), (255, 0, 0, 0))
    red, green, blue = pixels_of(encode(cmyk, "JPEG", quality=100))[0, 0].astype(int)
    assert red < 10
    assert min(green, blue) > 245
    assert (pixels_of(encode(Image.new("L", (2, 2), 77), "PNG")) == 77).all()
    assert (pixels_of(encode(Image.new("1", (2, 2), 1), "PNG")) == 255).all()


def test_what_is_transparent_is_white():
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putdata([0, 1])
    data = encode(palette, "PNG", transparency=0)
    np.testing.assert_array_equal(pixels_of(data)[0], [[255, 255, 255], [0, 0, 255]])
    half = Image.new("LA", (1, 1), (0, 128))
    assert pixels_of(encode(half, "PNG")).ravel().tolist() == [127] * 3
    colour_key = Image.new("RGB", (1, 1), (1, 2, 3))
    assert (pixels_of(encode(colour_key, "PNG", transparency=(1, 2, 3))) == 255).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(kind):
    wide = Image.fromarray(np.array([[0, 257, 32768, 65535]], np.uint16))
    np.testing.assert_array_equal(pixels_of(encode(wide, kind))[0, :, 0], [0, 1, 127, 255])


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (3, 2), colour) for colour in ("red", "lime")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(pixels_of(data)[0, 0], [255, 0, 0])


def test_one_pixel():
    data = encode(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG")
    assert (Transform(8, (6, 6)).fit(decode_image(data, "p")) == [1, 2, 3]).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
def test_a_picture_cut_short_is_named(kind):
    data = encode(make_picture(64, 64), kind)
    for keep in (12, len(data) // 2, len(data) - 200):
        with pytest.raises(ConsilienceError, match=r"p\.x: does not decode as a picture \(.+\)"):
            decode_image(data[:keep], "p.x")


@pytest.mark.parametrize("data", [b"", b"not a picture", b"<svg/>", bytes(1000)])
def test_what_is_no_picture_is_named(data):
    with pytest.raises(ConsilienceError, match=r"notes\.txt: does not decode as a picture"):
        decode_image(data, "notes.txt")


@pytest.mark.parametrize("pixels", [1.5, 3])
def test_a_decompression_bomb_is_refused(pixels, monkeypatch):
    """Above PIL's limit it warns, above twice the limit it raises; both are refused."""
    data = encode(Image.new("1", (1000, int(pixels * 100))), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    with pytest.raises(ConsilienceError, match=r"bomb\.png: over 100000 pixels"):
        decode_image(data, "bomb.png")


def test_decoding_leaves_warnings_as_they_were():
    filters = list(warnings.filters)
    decode_image(encode(make_picture(2, 2), "PNG"), "p")
    assert warnings.filters == filters


def make_rows(count):
    """Pictures whose width is their place, every fifth without."""
    for place in range(1, count + 1):
        data = encode(make_picture(place, 1), "PNG")
        error = "gone" if place % 5 == 0 else None
        yield {"name": str(place), "error": error, "image": {"bytes": data, "path": None}}


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_pictures_are_read_ahead_in_their_order(threads):
    taken, count, second = [], 3 * images.AHEAD, Event()

    def prepare(picture):
        """Be done with the second before the first, where there is more than one thread."""
        if picture.width == 2:
            second.set()
        elif picture.width == 1 and threads > 1:
            assert second.wait(30)
        return picture.width

    rows = (taken.append(row) or row for row in make_rows(count))
    read = images.read_pictures(rows, prepare, threads)
    assert next(read) == ("1", 1)
    good = [row for row in taken if row["error"] is None]
    assert len(good) == (1 if threads == 1 else images.AHEAD + 1)
    assert [*read] == [(str(n), n) for n in range(2, count + 1) if n % 5]


@pytest.mark.parametrize("threads", [1, 4])
def test_a_picture_that_does_not_decode_is_named_in_its_turn(threads):
    rows = list(make_rows(9))
    rows[5]["image"]["bytes"] = b"no picture"
    read = images.read_pictures(rows, lambda picture: picture.size, threads)
    assert [name for name, _ in (next(read) for _ in range(4))] == ["1", "2", "3", "4"]
    with pytest.raises(ConsilienceError, match=r"^6: does not decode"):
        next(read)


def test_threads_that_decode_leave_warnings_as_they_were(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    rows = [
        {"name": "p", "error": None, "image": {"bytes": encode(make_picture(15, side), "PNG")}}
        for side in (1, 2, 3, 4, 5, 6)
    ] * 50
    filters = list(warnings.filters)
    assert len([*images.read_pictures(rows, lambda picture: picture.size, 8)]) == 300
    assert warnings.filters == filters
    bombs = [{**row, "image": {"bytes": encode(make_picture(15, 9), "PNG")}} for row in rows]
    read = images.read_pictures([*rows, *bombs], lambda picture: picture.size, 8)
    with pytest.raises(ConsilienceError, match="over 100 pixels"):
        assert len([next(read) for _ in range(301)]) == 300
    read.close()
    assert warnings.filters == filters


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 3), (1, 1)])
def test_png_there_and_back(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    data = images.encode_png(pixels)
    np.testing.assert_array_equal(images.decode_png(data), pixels)
    assert images.encode_png(pixels) == data


def test_a_row_is_read_from_its_bytes_or_its_path(tmp_path):
    data = encode(make_picture(4, 3), "PNG")
    path = tmp_path / "p.png"
    path.write_bytes(data)
    row = {"name": "p.png", "sha256": images.hash_bytes(data)}
    for image in ({"bytes": data, "path": None}, {"bytes": None, "path": str(path)}):
        np.testing.assert_array_equal(
            images.read_picture(row | {"image": image}), make_picture(4, 3)
        )


def test_a_file_that_is_gone_or_changed_is_named(tmp_path):
    path = tmp_path / "p.png"
    row = {"name": "p.png", "sha256": "0" * 64, "image": {"bytes": None, "path": str(path)}}
    with pytest.raises(ConsilienceError, match=r"p\.png: cannot be read \(No such file"):
        images.read_picture(row)
    path.write_bytes(encode(make_picture(4, 3), "PNG"))
    with pytest.raises(ConsilienceError, match=r"p\.png: changed while the study ran"):
        images.read_picture(row)


def test_files_are_described_the_broken_ones_with_their_reason(tmp_path):
    good, bad = tmp_path / "a.png", tmp_path / "b.png"
    good.write_bytes(encode(make_picture(4, 3), "PNG"))
    bad.write_bytes(b"nothing")
    entries = [
        {
            "name": path.name,
            "path": str(path),
            "sha256": images.hash_bytes(path.read_bytes()),
            "label": "cat",
        }
        for path in (good, bad)
    ]
    rows = images.describe_files(entries)
    assert (rows[0]["width"], rows[0]["height"], rows[0].get("error")) == (4, 3, None)
    assert rows[1].get("width") is None
    assert "b.png: does not decode" in rows[1]["error"]


def mask_picture():
    pixels = np.zeros((3, 4), np.uint8)
    pixels[1:, 2:] = 255
    return Image.fromarray(pixels), pixels > 0


def test_masks_of_any_mode_are_the_same_mask():
    grey, inside = mask_picture()
    palette = Image.fromarray(inside.astype(np.uint8), "P")
    palette.putpalette([0, 0, 0, 0, 0, 9])
    clear = np.full((3, 4, 4), 255, np.uint8)
    clear[..., 3] = inside
    wide = Image.fromarray(inside.astype(np.uint16))  # 1 of 65535
    for picture in (grey, grey.convert("1"), grey.convert("RGB"), grey.convert("LA"), palette):
        found = images.decode_mask(encode(picture, "PNG"), "m")
        assert found.dtype == bool
        assert (found == inside).all()
    for picture in (Image.fromarray(clear), wide):
        assert (images.decode_mask(encode(picture, "PNG"), "m") == inside).all()


def entry_with_mask(folder, picture, mask):
    """What the index says of a picture and its mask, both given as bytes."""
    (folder / "p.png").write_bytes(picture)
    (folder / "m.png").write_bytes(mask)
    return {
        "name": "p.png",
        "path": str(folder / "p.png"),
        "sha256": images.hash_bytes(picture),
        "label": None,
        "mask": {"path": str(folder / "m.png"), "sha256": images.hash_bytes(mask)},
    }


def test_a_mask_comes_into_the_row_as_the_worlds_do(tmp_path):
    grey, inside = mask_picture()
    grey = grey.point(lambda value: min(value, 7))  # not black is inside
    entry = entry_with_mask(tmp_path, encode(make_picture(4, 3), "PNG"), encode(grey, "PNG"))
    (row,) = images.describe_files([entry])
    assert (images.decode_png(row["mask_visible"]) == inside * np.uint8(255)).all()
    (row,) = images.describe_files([{**entry, "mask": None}])
    assert "mask_visible" not in row


def test_a_mask_of_another_size_or_that_does_not_decode_is_named(tmp_path):
    grey, _ = mask_picture()
    entry = entry_with_mask(tmp_path, encode(make_picture(5, 3), "PNG"), encode(grey, "PNG"))
    said = r"m.png: this mask has 4 × 3 pixels and its picture 'p.png' 5 × 3; give both one size"
    with pytest.raises(ConsilienceError, match=said):
        images.describe_files([entry])
    entry = entry_with_mask(tmp_path, encode(make_picture(4, 3), "PNG"), b"no picture")
    with pytest.raises(ConsilienceError, match=r"m.png: does not decode .* save the mask"):
        images.describe_files([entry])
    (tmp_path / "m.png").write_bytes(b"another")
    with pytest.raises(ConsilienceError, match=r"m.png: changed while the study ran"):
        images.describe_files([entry])
    (tmp_path / "m.png").unlink()
    with pytest.raises(ConsilienceError, match=r"m.png: cannot be read"):
        images.describe_files([entry])


def test_a_picture_that_does_not_decode_has_no_mask(tmp_path):
    grey, _ = mask_picture()
    entry = entry_with_mask(tmp_path, b"no picture", encode(grey, "PNG"))
    (row,) = images.describe_files([entry])
    assert row["error"]
    assert "mask_visible" not in row

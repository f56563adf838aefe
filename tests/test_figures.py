import io
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from consilience import figures
from consilience.figures import Group, Series

SVG = "{http://www.w3.org/2000/svg}"
NASTY = "<img src=x onerror=alert(1)>$x$ & ]]>"


def grey(height, width, value=128):
    return np.full((height, width, 3), value, dtype=np.uint8)


def levels_chart(name="chart", title="Agreement", label="a"):
    groups = [
        Group("0", [("p", 0.1), ("q", 0.5)], 0.3, 0.1, 0.5),
        Group("1", [("p", None), (label, 0.4)], 0.4),
        Group("2"),
    ]
    return figures.plot_levels(
        [Series(label, groups, 1)], name, title, "clutter", (-1, 1), [0.1, None, 0.2], beyond=2
    )


def groups_chart(name="chart"):
    series = [Series("b", [Group(NASTY, [("p", 0.2)], 0.2, 0.1, 0.3)], 2)]
    return figures.plot_groups(series, name, "Pairs", (0, 1), chance=0.11)


@given(st.integers(1, 400), st.integers(1, 400))
def test_enlarge_keeps_pixels_or_fits(height, width):
    view = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    large = figures.enlarge(view, 192)
    longest = max(height, width)
    if longest <= 192:
        factor = large.shape[0] // height
        assert np.array_equal(large[::factor, ::factor], view)
        assert 96 < max(large.shape[:2]) <= 192
    elif longest <= 240:
        assert large is view
    else:
        assert max(large.shape[:2]) == 192


def test_overlay_shows_where_the_map_is_high():
    heat = np.zeros((6, 6), dtype=np.float32)
    heat[1, 4] = 1
    drawn = figures.overlay(grey(96, 96), heat)
    assert drawn.shape == (96, 96, 3)
    assert drawn.dtype == np.uint8
    brightest = np.unravel_index(drawn.sum(axis=2).argmax(), (96, 96))
    assert brightest[0] // 16 == 1
    assert brightest[1] // 16 == 4


def test_overlay_has_the_colour_bars_colours():
    for place, colour in figures.sample_colormap():
        drawn = figures.overlay(grey(4, 4, 0), np.full((2, 2), place), opacity=1)
        assert "#" + bytes(drawn[0, 0]).hex() == colour


def test_overlay_takes_colour_from_the_map_alone():
    view = grey(8, 8)
    view[..., 0] = 255  # a red picture
    alike = np.asarray(Image.fromarray(view).convert("L").convert("RGB"))
    heat = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    assert np.array_equal(figures.overlay(view, heat), figures.overlay(alike, heat))


def test_outline_mask_leaves_the_inside_and_draws_around_it():
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[3:5, 3:5] = 255
    drawn = figures.outline_mask(grey(16, 16, 200), mask)
    assert (drawn[6:10, 6:10] == 200).all()
    assert (drawn[5, 6:10] == 255).all()
    assert (drawn[4, 6:10] == 0).all()
    assert (drawn[0] == 70).all()


def test_outline_of_an_empty_mask_is_a_dark_picture():
    assert (figures.outline_mask(grey(8, 8, 200), np.zeros((8, 8))) == 70).all()


def test_webp_is_a_picture_and_always_the_same():
    view = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    data = figures.encode_webp(view)
    assert Image.open(io.BytesIO(data)).size == (30, 20)
    assert data == figures.encode_webp(view)


@pytest.mark.parametrize("chart", [levels_chart, groups_chart])
def test_charts_are_deterministic_and_pass_a_strict_policy(chart):
    svg = chart()
    assert svg == chart()
    root = ET.fromstring(svg)
    assert root.get("role") == "img"
    assert root.get("aria-label")
    for element in root.iter():
        assert element.tag.startswith(SVG)
        assert element.tag != f"{SVG}style"
        assert "style" not in element.attrib
        for key, value in element.attrib.items():
            assert "http" not in value
            if key == "href":
                assert value.startswith("#")


@pytest.mark.parametrize("chart", [levels_chart, groups_chart])
def test_references_stay_within_the_chart(chart):
    one, other = (ET.fromstring(chart(name)) for name in ("one", "other"))

    def ids(root):
        return [element.get("id") for element in root.iter() if element.get("id")]

    assert len(ids(one)) == len(set(ids(one)))
    assert not set(ids(one)) & set(ids(other))
    for element in one.iter():
        if link := element.get("href"):
            assert link[1:] in ids(one)
        if clip := element.get("clip-path"):
            assert clip.removeprefix("url(#").removesuffix(")") in ids(one)


def test_text_takes_the_pages_colour():
    texts = list(ET.fromstring(levels_chart()).iter(f"{SVG}text"))
    assert texts
    assert {text.get("fill") for text in texts} == {"currentColor"}


def test_every_point_says_what_it_is():
    said = [element.text for element in ET.fromstring(levels_chart()).iter(f"{SVG}title")]
    assert said == ["p: 0.10", "q: 0.50", "a: 0.40"]  # the missing value is not drawn


def test_names_are_text():
    root = ET.fromstring(levels_chart(title=NASTY, label=NASTY))
    assert root.get("aria-label") == NASTY
    assert f"{NASTY}: 0.40" in [element.text for element in root.iter(f"{SVG}title")]
    assert NASTY in [element.text for element in root.iter(f"{SVG}text")]
    assert NASTY in [e.text for e in ET.fromstring(groups_chart()).iter(f"{SVG}text")]


def test_a_chart_leaves_matplotlibs_settings_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    levels_chart()
    assert dict(matplotlib.rcParams) == before


def test_charts_of_nothing():
    assert ET.fromstring(figures.plot_levels([Series("a", [Group("0")])], "c", "t", "x", (0, 1)))
    assert ET.fromstring(figures.plot_groups([Series("a", [Group("0")])], "c", "t", (0, 1)))

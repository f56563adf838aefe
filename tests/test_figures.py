import io
import re
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


def room_chart(floor=0.2, ceiling=0.8, horizontal=False, name=NASTY, has_room=True):
    groups = [
        Group("0", [("p", 0.5)], 0.5, 0.4, 0.6, floor, ceiling, name, has_room),
        Group("1", [("p", 0.5)], 0.5, None, None, floor, ceiling, name, has_room),
    ]
    if horizontal:
        return figures.plot_groups([Series("a", groups)], "c", "t", (0, 1))
    return figures.plot_levels([Series("a", groups)], "c", "t", "clutter", (0, 1))


def curves_chart(name="chart"):
    curves = [
        figures.Curve("random", [0, 0.5, 1], [1, 0.5, 0], dashed=True),
        figures.Curve(NASTY, [0, 0.5, 1], [1, 0.25, 0], 2),
    ]
    return figures.plot_curves(curves, name, "Deletion", "pixels", (0, 1), description=NASTY)


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


@pytest.mark.parametrize("chart", [levels_chart, groups_chart, curves_chart])
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


@pytest.mark.parametrize("chart", [levels_chart, groups_chart, curves_chart])
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
    root = ET.fromstring(levels_chart())
    texts = list(root.iter(f"{SVG}text"))
    assert texts
    assert root.get("fill") == "currentColor"
    assert {text.get("fill") for text in texts} == {None}
    assert not [group for group in root.iter(f"{SVG}g") if not group.attrib]


def test_data_is_written_with_what_repeats_left_out():
    groups = (Group("0", [('a,"b"', 0.125), ("lost", None), ("^", 0.5)], mean=0.25),)
    svg = figures.plot_groups([Series("^", groups), Series("x\ny", groups)], "c", "t", (0, 1), 0.1)
    found = re.search(r'data-csv="([^"]*)"', svg)[1].replace("&quot;", '"')
    assert found == (
        "series,at,kind,name,value\n"
        '"^",0,picture,"a,""b""",0.125\n'
        '^,^,^,"^",0.5\n'
        "^,^,mean,,0.25\n"
        '"x\ny",^,picture,"a,""b""",0.125\n'
        '^,^,^,"^",0.5\n'
        "^,^,mean,,0.25\n"
        ",,chance,,0.1\n"
    )


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


def drawn(svg, **where):
    """Elements whose attributes have these values."""
    return [
        element
        for element in ET.fromstring(svg).iter()
        if all(element.get(key.replace("_", "-")) == value for key, value in where.items())
    ]


@pytest.mark.parametrize("horizontal", [False, True])
def test_the_room_between_floor_and_ceiling_is_shaded(horizontal):
    known = room_chart(horizontal=horizontal)
    shaded = {"opacity": "0.06", "fill": "currentColor"}
    assert len(drawn(known, **shaded)) == 2
    for floor, ceiling in ((None, 0.8), (0.2, None), (None, None)):
        assert not drawn(room_chart(floor, ceiling, horizontal), **shaded)
    assert not drawn(room_chart(0.8, 0.2, horizontal, has_room=False), **shaded)
    assert len(drawn(room_chart(0.8, 0.2, horizontal), **shaded)) == 2  # of a distance


def test_the_room_reaches_from_the_floor_to_the_ceiling():
    """Both lie where the axis has them: a tenth of the axis is a tenth of its height."""

    def extent(floor, ceiling):
        path = drawn(room_chart(floor, ceiling), opacity="0.06")[0].get("d")
        ys = [float(text) for text in re.findall(r"[-.\d]+", path)[1::2]]
        return max(ys) - min(ys)

    whole = extent(0, 1)
    assert extent(0.2, 0.8) == pytest.approx(0.6 * whole, abs=0.02)
    assert extent(0.2, 0.3) == pytest.approx(0.1 * whole, abs=0.02)


def test_a_floor_is_named_once_where_neighbours_share_it():
    svg = room_chart(name="edges")
    assert [e.text for e in ET.fromstring(svg).iter(f"{SVG}text")].count("edges") == 1
    rows = room_chart(name="edges", horizontal=True)
    assert [e.text for e in ET.fromstring(rows).iter(f"{SVG}text")].count("edges") == 2


def test_a_chart_says_its_description_after_its_title():
    root = ET.fromstring(curves_chart())
    assert root.get("aria-label") == f"Deletion. {NASTY}"
    assert root.get("role") == "img"
    plain = figures.plot_levels([Series("a", [Group("0")])], "c", "t", "x", (0, 1))
    assert ET.fromstring(plain).get("aria-label") == "t"


def test_the_random_orders_curve_is_dashed_and_in_the_pages_colour():
    lines = [e for e in drawn(curves_chart()) if e.get("stroke-width") in ("1.1", "1.6")]
    assert [bool(e.get("stroke-dasharray")) for e in lines] == [True, False]
    assert [e.get("stroke") for e in lines] == ["currentColor", figures.COLOURS[2]]
    dashed, own = (
        [float(x) for x in e.get("d").replace("M", "L").split("L")[2].split()] for e in lines
    )
    assert dashed[0] == own[0]
    assert dashed[1] < own[1]  # at half of the pixels the own curve is lower, so further down


def test_long_labels_of_levels_slant():
    def slanted(labels):
        groups = [Group(label, mean=0.5) for label in labels]
        svg = figures.plot_levels([Series("a", groups)], "c", "t", "x", (0, 1))
        return [
            e.text for e in ET.fromstring(svg).iter(f"{SVG}text") if "rotate(-40" in str(e.attrib)
        ]

    assert slanted("01234") == []
    names = [f"features.{number}" for number in range(8)]
    assert slanted(names) == names


def test_series_can_stand_without_lines():
    def lines(connected):
        groups = [Group("0", mean=0.25), Group("1", mean=0.75)]
        svg = figures.plot_levels([Series("a", groups)], "c", "t", "x", (0, 1), connected=connected)
        return len(drawn(svg, stroke_width="1.2"))

    assert lines(True) == 1
    assert lines(False) == 0


@given(st.integers(1, 400), st.integers(1, 400))
def test_shrink_leaves_small_pictures_and_fits_large_ones(height, width):
    view = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    small = figures.shrink(view, 192)
    if max(height, width) <= 240:
        assert small is view
    else:
        assert max(small.shape[:2]) == 192


def test_numbers_are_as_exact_as_a_screen():
    """Hundredths of a point, and nothing else of a number is lost."""
    assert figures._shorten("M 142.560000 0.004 L -3.999 100  L 10.50 1000 z") == (
        "M 142.56 0 L -4 100 L 10.5 1000 z"
    )
    assert (
        figures._shorten("translate(12.345 6.7) rotate(-40)") == "translate(12.35 6.7) rotate(-40)"
    )


def test_very_many_points_are_one_shape_with_all_their_data():
    def draw(count):
        points = [(f"picture {i}", i / count) for i in range(count)]
        series = [Series("one", [Group("all", points, mean=0.5, low=0.4, high=0.6)])]
        return ET.fromstring(figures.plot_levels(series, "many", "Many", "", (0, 1)))

    few, many = draw(figures.MANY_POINTS), draw(figures.MANY_POINTS + 1)
    marks = [len(list(one.iter(f"{SVG}title"))) for one in (few, many)]
    assert marks == [figures.MANY_POINTS, 0]
    (path,) = [e for e in many.iter() if e.get("stroke-linecap") == "round"]
    spots = re.findall(r"M([\d.]+) ([\d.]+)h0", path.get("d"))
    assert len(spots) == figures.MANY_POINTS + 1
    uses = [e for e in few.iter(f"{SVG}use") if len(e)]
    ends = [(float(uses[i].get("x")), float(uses[i].get("y"))) for i in (0, -1)]
    for spot, end in zip((spots[0], spots[-1]), ends, strict=True):
        assert [float(x) for x in spot] == pytest.approx(end, abs=0.5)
    assert many.get("data-csv").count(",picture ") == figures.MANY_POINTS + 1

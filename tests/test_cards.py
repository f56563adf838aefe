"""Cards of neurons: what is drawn, and where."""

import numpy as np
import pytest
from PIL import Image

from consilience import cards, world
from consilience.images import encode_png
from test_comparison import neuron


@pytest.fixture(scope="module")
def probe():
    return world.describe_rows(world.probe_pictures(0, 12, (0,)), 96)


def plain(name, colour, size=(96, 60)):
    pixels = np.full((*size, 3), colour, dtype=np.uint8)
    return {"name": name, "error": None, "image": {"bytes": encode_png(pixels), "path": None}}


def drawn(rows, pictures):
    return [np.asarray(page) for page in cards.draw_cards(rows, cards.Thumbnails(pictures))]


def corners(page, colour):
    """Left upper corners of the thumbnails of one colour, as row and column."""
    found = (page == colour).all(axis=2)
    whole = np.lib.stride_tricks.sliding_window_view(found, (cards.SIDE, cards.SIDE))
    return [tuple(map(int, corner)) for corner in np.argwhere(whole.all(axis=(2, 3)))]


def test_cards_come_by_rank_with_pictures_in_order():
    red, blue = (200, 0, 0), (0, 0, 200)
    rows = [neuron(0, None), neuron(1, "ball"), neuron(2, "box")]
    rows[1] |= {"rank": 1, "top_pictures": ["red", "blue"]}
    rows[2] |= {"rank": 0, "top_pictures": ["blue"]}
    (page,) = drawn(rows, [plain("red", red), plain("blue", blue)])
    (first,) = corners(page, red)
    best, second = sorted(corners(page, blue), key=lambda corner: corner[1])
    assert best[1] < first[1] < second[1]  # the card of rank 0, then the other's two pictures
    assert second[1] - first[1] == cards.SIDE + 3
    assert (page[first[0] : first[0] + cards.SIDE, first[1] : first[1] + cards.SIDE] == red).all()


def test_a_picture_that_is_not_there_leaves_its_place_empty():
    row = neuron(0, "ball") | {"top_pictures": ["gone", "broken"]}
    broken = plain("broken", 0) | {"error": "not a picture"}
    (page,) = drawn([row], [broken])
    assert len(corners(page, (238, 238, 238))) == 2


def test_many_neurons_take_pages():
    rows = [neuron(unit, "ball") for unit in range(cards.CARDS + 1)]
    first, second = drawn(rows, [])
    assert first.shape[0] > second.shape[0]
    assert (second < 128).any()


def test_files_are_named_after_layers_and_do_not_change(tmp_path, probe):
    names = [row["name"] for row in probe]
    rows = [
        neuron(unit, word, layer=layer) | {"top_pictures": names[unit : unit + 5]}
        for layer in ("layer4", "odd/name")
        for unit, word in enumerate(["ball", "x" * 500, "näher\nbetrachtet", None])
    ]
    first = cards.write_cards(rows, probe, tmp_path / "a")
    again = cards.write_cards(rows, probe, tmp_path / "b")
    assert [path.name for path in first] == ["layer4-1.png", "odd%2Fname-1.png"]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in again]
    assert Image.open(first[0]).mode == "RGB"


def test_what_a_card_says():
    row = neuron(7, "ball", similarity=0.12345) | {"margin": 0.5, "p_value": 0.001}
    title, about, doubt = cards._say(row)
    assert (title, doubt) == ("7  ball", False)
    assert about == "similarity 0.123 · margin 0.500 · p 0.001"
    assert cards._say(row | {"stands": False})[1:] == (f"does not stand · {about}", True)
    assert cards._say(row | {"absent": True})[1:] == (f"absent · {about}", True)
    assert cards._say(neuron(3, None)) == ("3  no label", "constant", True)

"""The embedded study's world: seeded pictures whose every factor and mask is known.

A :class:`Picture` is a description; :func:`render` draws it. Every factor stands in the
description by itself (value or seed), so that ``dataclasses.replace`` swaps one of them, and
nothing else in the picture changes: the same object at the same place on another scene, the same
scene without an object, the same picture with more clutter.

Lengths are shares of the picture's side, angles are radians, x points right and y down.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from .errors import ConsilienceError
from .images import Transform, encode_png, hash_bytes
from .progress import track

VERSION = 1
"""Version of the world. Whatever changes a rendered picture makes a new one."""

TRANSFORM = Transform(mean=(0.5,) * 3, std=(0.5,) * 3)
"""Preprocessing of the classifiers trained on it: the picture as it is, on the scale [-1, 1]."""

OBJECTS = ("ball", "box", "triangle", "star", "cross", "ring", "heart", "moon", "arrow", "leaf")
SCENES = ("brick", "water", "grass", "sand", "sky", "wood", "tile", "gravel", "night", "marble")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
FILLS = ("plain", "shaded", "domed")
NEUTRAL = ("blob", "stick", "dot", "pebble")
"""Kinds of distractor that resemble no object."""

ABSENT_CONCEPTS = (
    *("dog", "cat", "horse", "bird", "fish", "car", "train", "bicycle", "boat", "house"),
    *("bridge", "chair", "lamp", "bottle", "book", "guitar", "face", "hand", "shoe", "bread"),
)
"""Words for things that never occur in the world: labels that must be wrong."""

CLUTTER_LEVELS = (0, 1, 2, 3, 4)
"""0: the object alone. 1, 2: two, four neutral distractors. 3: also three smaller objects of
other classes and colours. 4: also two larger ones, and a board in front of the object. Each level
keeps what the levels below it have."""

_NEUTRAL_COUNT = {0: 0, 1: 2, 2: 4, 3: 4, 4: 4}
_OBJECT_LIKE_COUNT = {0: 0, 1: 0, 2: 0, 3: 3, 4: 5}

_PALETTE = {
    "red": (228, 36, 40),
    "orange": (248, 128, 20),
    "yellow": (250, 220, 40),
    "green": (36, 184, 76),
    "blue": (44, 104, 240),
    "purple": (160, 72, 214),
    "pink": (250, 130, 180),
    "white": (246, 246, 242),
}
_MUTED = ((92, 84, 78), (140, 124, 104), (116, 128, 132), (78, 90, 84), (168, 158, 146))

CAPTIONS = (
    "a {colour} {object} {on scene}",
    "a photo of a {object}",
    "{scene}",
    "something {colour}",
    "a {object}",
    "a photo of {scene}",
    "a {colour} {object}",
    "a {object} {on scene}",
    "{object}",
    "{colour}",
    "a photo of something {colour}",
    "a photo of a {colour} {object} {on scene}",
    "something {colour} {on scene}",
)
"""Phrasings of :func:`caption`, by variant."""

SCENE_CAPTIONS = ("{scene}", "a photo of {scene}", "nothing {on scene}")
"""Phrasings where there is no object."""

_ON = {"brick": "in front of brick", "sky": "in the sky", "night": "at night"}


@dataclass(frozen=True)
class Picture:
    """What a picture shows: all of its factors, each by itself.

    Attributes
    ----------
    object
        One of ``OBJECTS``, or None: no object, all else unchanged.
    scene, colour, fill
        One of ``SCENES``, ``COLOURS``, ``FILLS``.
    x, y, diameter, angle
        Centre of the object, its size (it lies within a circle of this diameter) and rotation.
    clutter
        One of ``CLUTTER_LEVELS``.
    background_seed, distractor_seed
        What the scene's texture, and the distractors' places and looks, are drawn from.
    distractor_classes, distractor_colours
        Classes and colours of object-like distractors in the order of their use, none of them
        the object's. The last stands in for one that the object has come to share by ``replace``.
    board_direction, board_offset
        Where the board of clutter level 4 lies: it covers what is farther than ``board_offset``
        (in radii of the object) from the object's centre in ``board_direction``.

    Raises
    ------
    ConsilienceError
        If a class or level is unknown.
    """

    object: str | None
    scene: str
    colour: str
    fill: str
    x: float
    y: float
    diameter: float
    angle: float
    clutter: int
    background_seed: int
    distractor_seed: int
    distractor_classes: tuple[str, ...]
    distractor_colours: tuple[str, ...]
    board_direction: float
    board_offset: float

    def __post_init__(self) -> None:
        for field, known in (
            ("object", (*OBJECTS, None)),
            ("scene", SCENES),
            ("colour", COLOURS),
            ("fill", FILLS),
            ("clutter", CLUTTER_LEVELS),
        ):
            if (value := getattr(self, field)) not in known:
                choice = ", ".join(map(str, known))
                raise ConsilienceError(
                    f"the world's picture has no {field} {value!r}; choose from {choice}"
                )


@dataclass(frozen=True)
class Rendering:
    """A rendered picture and what is known of it.

    Attributes
    ----------
    image
        uint8, shape (size, size, 3), RGB.
    mask_visible, mask_whole
        bool, shape (size, size): where the object covers at least half of the pixel and is seen;
        where it would be seen if nothing lay in front of it.
    distractor_map
        uint8, shape (size, size): the index (from 1) of the distractor seen there, else 0.
    distractors
        Class of distractor 1, 2, …: one of ``OBJECTS`` or ``NEUTRAL``, or ``board``.
    box
        float32, shape (4,): left, top, right, bottom of ``mask_whole`` in pixels; zeros where
        there is no object.
    """

    image: np.ndarray
    mask_visible: np.ndarray
    mask_whole: np.ndarray
    distractor_map: np.ndarray
    distractors: tuple[str, ...]
    box: np.ndarray


def concepts() -> tuple[str, ...]:
    """Return all concept words: objects, scenes, colours, and those that never occur."""
    return OBJECTS + SCENES + COLOURS + ABSENT_CONCEPTS


def categories() -> dict[str, str]:
    """Return the category of each concept word: object, scene, colour, or absent."""
    kinds = {"object": OBJECTS, "scene": SCENES, "colour": COLOURS, "absent": ABSENT_CONCEPTS}
    return {word: kind for kind, words in kinds.items() for word in words}


# ------------------------------------------------------------------------------------------------
# Sampling


def sample_picture(seed: int, stream: str, index: int, clutter: int) -> Picture:
    """Draw picture ``index`` of a stream.

    Streams (``training``, ``held-out``, ``probe``, ``study``, …) share no pictures. Ten pictures
    in a row, from an index that ten divides, have each object and each scene once; eight have
    each colour once; the three are drawn independently. The clutter level changes nothing else.
    """
    for what, value in (("seed", seed), ("picture index", index)):
        if value < 0:
            raise ConsilienceError(f"the world's {what} is {value}; it must be 0 or more")
    root = (seed, int.from_bytes(hashlib.sha256(stream.encode()).digest()[:8], "big"))
    name, scene, colour = (
        _from_cycle(root, factor, values, index)
        for factor, values in enumerate((OBJECTS, SCENES, COLOURS))
    )
    rng = np.random.default_rng((*root, 3, index))
    diameter = rng.uniform(0.42, 0.56)
    margin = diameter / 2 + 0.02
    x, y = rng.uniform(margin, 1 - margin, 2).tolist()
    angle = rng.uniform(-0.35, 0.35)
    direction = rng.uniform(-math.pi, math.pi)
    covered = rng.uniform(0.22, 0.4)
    return Picture(
        object=name,
        scene=scene,
        colour=colour,
        fill=FILLS[rng.integers(len(FILLS))],
        x=x,
        y=y,
        diameter=diameter,
        angle=angle,
        clutter=clutter,
        background_seed=int(rng.integers(2**32)),
        distractor_seed=int(rng.integers(2**32)),
        distractor_classes=_shuffle_others(rng, OBJECTS, name),
        distractor_colours=_shuffle_others(rng, COLOURS, colour),
        board_direction=direction,
        board_offset=_board_offset(name, direction - angle, covered),
    )


def _from_cycle(root: tuple[int, int], factor: int, values: Sequence[str], index: int) -> str:
    """Draw from ``values`` without replacement, all of them before any comes again."""
    cycle, place = divmod(index, len(values))
    return values[_permutation((*root, factor, cycle), len(values))[place]]


@lru_cache(maxsize=8)
def _permutation(seed: tuple[int, ...], length: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(length)


def _shuffle_others(rng: np.random.Generator, values: Sequence[str], own: str) -> tuple[str, ...]:
    return tuple(values[i] for i in rng.permutation(len(values)) if values[i] != own)


def _board_offset(name: str, direction: float, share: float) -> float:
    """Offset beyond which ``share`` of the object's area lies, in its own coordinates."""
    u, v = _inside_points(name)
    along = u * math.cos(direction) + v * math.sin(direction)
    place = int((1 - share) * along.size)
    return float(np.partition(along, place)[place])


@lru_cache(maxsize=len(OBJECTS))
def _inside_points(name: str) -> tuple[np.ndarray, np.ndarray]:
    axis = np.linspace(-1, 1, 48, dtype=np.float32)
    u, v = np.meshgrid(axis, axis)
    inside = _SHAPES[name](u, v)[0] < 0
    return u[inside], v[inside]


PARTNERS = dict(zip(OBJECTS, SCENES, strict=True))
"""The scene that each object comes with where scenes are a shortcut to objects."""

RELATIONS = ("partner", "other")
"""How a scene is set to the object: to its partner, or to any other."""


def relate_scene(picture: Picture, relation: str) -> Picture:
    """Return the picture in front of its object's partner, or of another scene; all else unchanged.

    A picture that is as asked for stays as it is. Which other scene takes the partner's place
    follows from the picture's own seeds.

    Raises
    ------
    ConsilienceError
        If there is no such relation.
    """
    if relation not in RELATIONS:
        raise ConsilienceError(
            f"the world's scenes are not set to {relation!r}; choose from {', '.join(RELATIONS)}"
        )
    partner = PARTNERS[picture.object]
    if relation == "partner":
        return replace(picture, scene=partner)
    if picture.scene != partner:
        return picture
    others = [scene for scene in SCENES if scene != partner]
    return replace(picture, scene=others[picture.background_seed % len(others)])


# ------------------------------------------------------------------------------------------------
# Objects: functions of object coordinates (u right, v down, the object within the unit circle)
# that return a distance to the outline, negative inside, and where the inner motif is (bool).
# The motif is dark; nets learn it in far fewer pictures than an outline alone.


def _modulo(values, period):
    return values - np.floor(values * (1 / period)) * period  # np.mod is 30 times slower


def _length(u, v):
    return np.sqrt(u * u + v * v)  # several times faster than np.hypot


def _ball(u, v):
    across, down = np.abs(u), np.abs(v)
    arcs = np.abs(_length(across - 1.25, v) - 0.85)
    return _length(u, v) - 0.96, np.minimum(np.minimum(across, down), arcs) < 0.07


def _box(u, v):
    edge = np.maximum(np.abs(u), np.abs(v))
    frame = np.abs(edge - 0.45) < 0.06
    braces = (np.abs(np.abs(u) - np.abs(v)) < 0.1) & (edge < 0.45)
    return edge - 0.705, frame | braces


def _triangle(u, v):
    distance = np.maximum(v - 0.5, 0.866 * np.abs(u) - 0.5 * v - 0.5)
    return distance, _modulo(v + 0.12, 0.4) < 0.18


def _star(u, v):
    across, u2, v2 = np.abs(u), u * u, v * v
    # Along the nearest of the five tips' directions, and off it.
    along = np.maximum(-v, 0.9511 * across - 0.3090 * v)
    along = np.maximum(along, 0.5878 * across + 0.8090 * v)
    off = np.sqrt(np.maximum(u2 + v2 - along * along, 0))
    # The straight edge from the tip (1, 0) to the notch (0.421, 0.306): radius 0.52, 36° on.
    distance = 0.4666 * (along - 1) + 0.8844 * off
    # One side of each ray: where the sine of five times the angle is positive.
    facets = u * (5 * v2 * v2 - 10 * v2 * u2 + u2 * u2) > 0
    return distance, facets


def _cross(u, v):
    across, down = np.abs(u), np.abs(v)
    long, short = np.maximum(across, down), np.minimum(across, down)
    rivets = np.minimum(np.abs(long - 0.62), long) ** 2 + short * short < 0.19**2
    return np.maximum(short - 0.36, long - 0.92), rivets


def _ring(u, v):
    segments = u * v * (u * u - v * v) > 0  # the sine of four times the angle
    return np.abs(_length(u, v) - 0.67) - 0.29, segments


def _heart(u, v):
    u, v = np.abs(u) * 1.06, v * 1.06 - 0.08

    def distance(u, v):
        lobe = _length(u - 0.39, v + 0.39) - 0.552
        return np.minimum(lobe, (u + np.abs(v) - 0.78) * 0.7071)

    return distance(u, v), distance(u * 2.1, v * 2.1) < 0


def _moon(u, v):
    u, v = u * 1.06 - 0.14, v * 1.06
    distance = np.maximum(_length(u, v) - 0.94, 0.58 - _length(u - 0.52, v))
    craters = (u + 0.46) ** 2 + (v + 0.04) ** 2 < 0.22**2
    for across, down, radius in ((-0.2, -0.56, 0.17), (-0.16, 0.56, 0.19)):
        craters |= (u - across) ** 2 + (v - down) ** 2 < radius**2
    return distance, craters


def _arrow(u, v):
    down = np.abs(v)
    head = np.maximum(0.6572 * (u - 0.98) + 0.7537 * down, -0.04 - u)
    shaft = np.maximum(np.maximum(down - 0.34, -0.92 - u), u)
    return np.minimum(head, shaft), _modulo(u + down + 0.1, 0.5) < 0.2


def _leaf(u, v):
    across, up = np.abs(u), 0.02 - v
    blade = _length(across + 0.24, up) - 0.9
    stem = np.maximum(across - 0.1, np.maximum(up, -0.96 - up))
    veins = (across < 0.07) | (_modulo(up - 0.8 * across, 0.36) < 0.13)
    return np.minimum(blade, stem), veins


# Neutral distractors and the board, likewise.


def _blob(u, v):
    squared = u * u + v * v + np.float32(1e-6)
    radius = np.sqrt(squared)
    # 0.74 + 0.18 cos 2α + 0.06 sin 3α: a peanut
    third = v * (3 * u * u - v * v) / (squared * radius)
    edge = 0.74 + 0.18 * (u * u - v * v) / squared + 0.06 * third
    return radius - edge, None


def _stick(u, v):
    return _length(np.maximum(np.abs(u) - 0.8, 0), v) - 0.2, None


def _dot(u, v):
    return _length(u, v) - 0.6, None


def _pebble(u, v):
    return (_length(u, v * 1.4) - 0.95) * 0.8, None


def _board(u, v):
    across, along = np.abs(u), np.abs(v)
    grain = np.abs(across - 0.36) < 0.035
    return np.maximum(across, along) - 1, grain | (across > 0.9) | (along > 0.95)


_SHAPES: dict[str, Callable] = {
    "ball": _ball,
    "box": _box,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
    "heart": _heart,
    "moon": _moon,
    "arrow": _arrow,
    "leaf": _leaf,
    "blob": _blob,
    "stick": _stick,
    "dot": _dot,
    "pebble": _pebble,
    "board": _board,
}

# ------------------------------------------------------------------------------------------------
# Scenes: functions of a generator and the pixel grid that return float32 RGB, (3, size, size):
# planes, because NumPy is ten times slower where the last axis is short.


@lru_cache(maxsize=4)
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of the pixels' centres, shapes (1, size) and (size, 1)."""
    axis = ((np.arange(size) + 0.5) / size).astype(np.float32)
    return axis[None, :], axis[:, None]


def _noise(rng: np.random.Generator, down: int, across: int, size: int) -> np.ndarray:
    """Smooth noise, about -1 … 1, from so many random values a side."""
    values = rng.uniform(-1, 1, (down, across)).astype(np.float32)
    # In this order, as ``down`` is the smaller: products too small for BLAS to start threads.
    return _interpolation(down, size) @ (values @ _interpolation(across, size).T)


@lru_cache(maxsize=64)
def _interpolation(values: int, size: int) -> np.ndarray:
    """Weights, shape (size, values), of a cubic (Catmull-Rom) interpolation along one axis."""
    places = (np.arange(size) + 0.5) / size * (values - 1)
    gaps = np.abs(places[:, None] - np.arange(values))
    near = (1.5 * gaps - 2.5) * gaps**2 + 1
    far = ((-0.5 * gaps + 2.5) * gaps - 4) * gaps + 2
    weights = np.where(gaps < 1, near, np.where(gaps < 2, far, 0))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _planes(colour: Sequence[float]) -> np.ndarray:
    return np.asarray(colour, np.float32)[:, None, None]


def _cover(below: np.ndarray, colour: Sequence[float], share: np.ndarray) -> np.ndarray:
    """Lay a colour over a picture: not at all where ``share`` is 0, opaque where it is 1."""
    return below + (_planes(colour) - below) * share


def _blend(low: Sequence[float], high: Sequence[float], share: np.ndarray) -> np.ndarray:
    """Mix two colours: ``low`` where ``share`` is 0, ``high`` where it is 1."""
    low, high = _planes(low), _planes(high)
    return low + (high - low) * share


def _step(values: np.ndarray, width: float) -> np.ndarray:
    """Rise from 0 to 1 over ``width`` around zero: an edge without jaggedness."""
    return np.clip(values / width + 0.5, 0, 1)


def _brick(rng, x, y, size):
    rows = int(rng.integers(7, 10))
    down = y * rows + rng.uniform()
    row = np.floor(down).astype(int)
    across = x * rows / 2 + 0.5 * (row % 2) + rng.uniform()
    column = np.floor(across).astype(int)
    gap = np.minimum(0.5 - np.abs(down - row - 0.5), 2 * (0.5 - np.abs(across - column - 0.5)))
    tone = rng.uniform(0, 1, (12, 7)).astype(np.float32)[row, column]
    bricks = _blend((128, 70, 56), (178, 104, 84), 0.7 * tone + 0.3 * _noise(rng, 24, 40, size))
    mortar = 1 - _step(gap - 0.09, 1.5 * rows / size)
    return _cover(bricks, (208, 200, 188), mortar)


def _water(rng, x, y, size):
    warp = _noise(rng, 5, 4, size) + 0.5 * _noise(rng, 9, 7, size)
    waves = np.sin(2 * math.pi * (y * rng.uniform(6, 8) + 0.55 * warp))
    return _blend((14, 84, 122), (150, 220, 226), np.clip(0.35 + 0.3 * waves, 0, 1) ** 1.5)


def _grass(rng, x, y, size):
    blades = _noise(rng, 9, 64, size) + 0.8 * _noise(rng, 14, 40, size)
    patches = _noise(rng, 4, 4, size)
    return _blend((34, 66, 20), (136, 168, 66), np.clip(0.5 + 0.38 * blades + 0.12 * patches, 0, 1))


def _sand(rng, x, y, size):
    warp = _noise(rng, 4, 3, size)
    ripples = np.sin(
        2 * math.pi * (y * rng.uniform(4, 5) + rng.uniform(-1.5, 1.5) * x + warp * 0.5)
    )
    place = np.arange(size) * 96 // size
    grain = rng.standard_normal((96, 96), np.float32)[place][:, place]
    return _blend((196, 160, 108), (240, 214, 164), 0.5 + 0.24 * ripples + 0.13 * grain)


def _sky(rng, x, y, size):
    clouds = (
        _noise(rng, 5, 3, size) + 0.5 * _noise(rng, 9, 6, size) + 0.2 * _noise(rng, 14, 20, size)
    )
    sky = _blend((70, 138, 214), (176, 214, 242), np.broadcast_to(y, (size, size)))
    white = np.clip(clouds * 1.6 + rng.uniform(-0.3, 0.1), 0, 1)
    return _cover(sky, (248, 250, 252), white)


def _wood(rng, x, y, size):
    planks = int(rng.integers(4, 6))
    across = x * planks + rng.uniform()
    plank = np.floor(across).astype(int)
    tone = rng.uniform(0, 1, 8).astype(np.float32)[plank]
    shift = rng.uniform(0, 9, 8).astype(np.float32)[plank]
    grain = np.sin(6 * math.pi * (across + shift) + 2.6 * _noise(rng, 4, 12, size) + 3 * y)
    fibre = _noise(rng, 6, 72, size)
    seam = _step(0.5 - np.abs(across - plank - 0.5) - 0.05, 2 * planks / size)
    board = _blend((92, 56, 28), (168, 116, 66), 0.3 + 0.35 * tone + 0.16 * grain + 0.14 * fibre)
    return board * (0.3 + 0.7 * seam)


def _tile(rng, x, y, size):
    tiles = int(rng.integers(5, 8))
    across, down = x * tiles + rng.uniform(), y * tiles + rng.uniform()
    column, row = np.floor(across), np.floor(down)
    gap = 0.5 - np.maximum(np.abs(across - column - 0.5), np.abs(down - row - 0.5))
    checker = np.mod(column + row, 2)
    glaze = (across - column) * 0.12 - (down - row) * 0.12
    tiles_ = _blend((96, 142, 150), (226, 226, 210), checker + glaze * (1 - 2 * checker))
    return _cover(tiles_, (66, 70, 74), 1 - _step(gap - 0.05, 0.1))


def _gravel(rng, x, y, size):
    cells = int(rng.integers(9, 12))
    # Each cell's site, a little off its middle, and the brightness of its stone.
    sites = rng.uniform(0.15, 0.85, (3, cells + 2, cells + 2)).astype(np.float32)
    across, down = x[0] * cells, y[:, 0] * cells
    column, row = across.astype(int), down.astype(int)
    inner_x, inner_y = across - column.astype(np.float32), (down - row.astype(np.float32))[:, None]
    # Distances to the nearest and the second nearest site: stones and the gaps between them.
    first = np.full((size, size), 9, np.float32)
    second, tone = first.copy(), np.zeros((size, size), np.float32)
    for i in (0, 1, 2):
        for j in (0, 1, 2):
            site_x, site_y, site_tone = sites[:, row + i][:, :, column + j]
            distance = (site_x + (j - 1 - inner_x)) ** 2 + (site_y + (i - 1 - inner_y)) ** 2
            np.copyto(tone, site_tone, where=distance < first)
            second = np.minimum(second, np.maximum(first, distance))
            first = np.minimum(first, distance)
    gap = np.sqrt(second) - np.sqrt(first)
    stone = _blend((112, 108, 104), (196, 190, 184), 0.8 * tone + 0.2 - 0.25 * first)
    return stone * (0.25 + 0.75 * np.clip(gap * 4, 0, 1))


def _night(rng, x, y, size):
    haze = 0.16 * _noise(rng, 4, 4, size)
    sky = _blend((8, 10, 30), (44, 44, 92), np.clip(y + haze, 0, 1))
    stars = np.zeros((size, size), np.float32)
    for across, down, light in rng.uniform(0, 1, (60, 3)):
        stars[int(down * size), int(across * size)] = 0.35 + 0.65 * light
    return sky + stars * 200


def _marble(rng, x, y, size):
    warp = _noise(rng, 4, 4, size) + 0.35 * _noise(rng, 8, 8, size)
    turn = rng.uniform(0.2, 0.6) * math.pi
    across = math.cos(turn) * x + math.sin(turn) * y
    veins = 1 - np.abs(np.sin(math.pi * (2.2 * across + 0.4 * warp)))
    fine = 1 - np.abs(np.sin(math.pi * (4.1 * across - 0.8 * warp)))
    cloud = 0.5 + 0.5 * _noise(rng, 3, 3, size)
    stone = _blend((204, 206, 214), (240, 236, 230), cloud)
    veins, fine = veins * veins * veins, fine * fine * fine
    return stone * (1 - 0.5 * veins * veins - 0.22 * fine * fine)


_SCENES: dict[str, Callable] = {
    "brick": _brick,
    "water": _water,
    "grass": _grass,
    "sand": _sand,
    "sky": _sky,
    "wood": _wood,
    "tile": _tile,
    "gravel": _gravel,
    "night": _night,
    "marble": _marble,
}

# ------------------------------------------------------------------------------------------------
# Rendering

_SUPERSAMPLING = 3
_OUTLINE = 0.12  # width, in radii
_OUTLINE_TONE = 0.12
_MOTIF_TONE = 0.32


@dataclass(frozen=True)
class _Item:
    """One thing to draw: a shape of the given radii (along its own u and v) at a place."""

    shape: str
    colour: tuple[int, int, int]
    fill: str
    x: float
    y: float
    radius: float
    angle: float
    radius_v: float | None = None


def render(picture: Picture, size: int = 96, without: Collection[str] = ()) -> Rendering:
    """Draw a picture of ``size`` × ``size`` pixels, anti-aliased, with its masks.

    Distractors of the classes in ``without`` are left out and nothing else changes: the others
    keep their places, and their numbers in ``distractor_map`` and ``distractors``.
    """
    if size < 16:
        raise ConsilienceError(f"the world's pictures have {size} pixels a side; 16 is the least")
    rng = np.random.default_rng(picture.background_seed)
    light = rng.uniform(0.9, 1.08)
    canvas = _SCENES[picture.scene](rng, *_grid(size), size)
    canvas = np.clip(canvas * np.float32(light), 0, 255)
    whole = np.zeros((size, size), bool)
    distractor_map = np.zeros((size, size), np.uint8)
    items, board = _distractors(picture)
    for number, item in enumerate(items, start=1):
        if item.shape not in without:
            area, covered = _draw(canvas, item)
            distractor_map[area][covered] = number
    if picture.object is not None:
        area, covered = _draw(
            canvas,
            _Item(
                picture.object,
                _PALETTE[picture.colour],
                picture.fill,
                picture.x,
                picture.y,
                picture.diameter / 2,
                picture.angle,
            ),
        )
        whole[area] = covered
        distractor_map[area][covered] = 0
    visible = whole.copy()
    if board is not None:
        if board.shape not in without:
            area, covered = _draw(canvas, board)
            visible[area][covered] = False
            distractor_map[area][covered] = len(items) + 1
        items = [*items, board]
    image = np.empty((size, size, 3), np.uint8)
    for channel, plane in enumerate(canvas + 0.5):
        image[:, :, channel] = plane
    box = np.zeros(4, np.float32)
    if whole.any():
        columns, rows = np.flatnonzero(whole.any(0)), np.flatnonzero(whole.any(1))
        box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return Rendering(
        image=image,
        mask_visible=visible,
        mask_whole=whole,
        distractor_map=distractor_map,
        distractors=tuple(item.shape for item in items),
        box=box,
    )


def _draw(canvas: np.ndarray, item: _Item) -> tuple[tuple[slice, slice], np.ndarray]:
    """Draw an item; return the area of the canvas it lies in, and which pixels it covers."""
    size, fine = canvas.shape[-1], _SUPERSAMPLING
    radius_v = item.radius if item.radius_v is None else item.radius_v
    cosine, sine = math.cos(item.angle), math.sin(item.angle)
    if item.radius_v is None:
        reach = item.radius, item.radius
    else:
        reach = (
            abs(cosine) * item.radius + abs(sine) * radius_v,
            abs(sine) * item.radius + abs(cosine) * radius_v,
        )
    left = max(0, math.floor((item.x - reach[0]) * size))
    right = min(size, math.ceil((item.x + reach[0]) * size))
    top = max(0, math.floor((item.y - reach[1]) * size))
    bottom = min(size, math.ceil((item.y + reach[1]) * size))
    area = slice(top, bottom), slice(left, right)
    if right <= left or bottom <= top:
        return area, np.zeros((max(0, bottom - top), max(0, right - left)), bool)
    across = np.arange(left * fine, right * fine, dtype=np.float32) + np.float32(0.5)
    down = np.arange(top * fine, bottom * fine, dtype=np.float32) + np.float32(0.5)
    across = (across / np.float32(fine * size) - np.float32(item.x))[None, :]
    down = (down / np.float32(fine * size) - np.float32(item.y))[:, None]
    u = across * np.float32(cosine / item.radius) + down * np.float32(sine / item.radius)
    v = down * np.float32(cosine / radius_v) - across * np.float32(sine / radius_v)
    distance, motif = _SHAPES[item.shape](u, v)
    tone = _shade(item.fill, u, v)
    if motif is not None:
        tone = tone * (1 - np.float32(1 - _MOTIF_TONE) * motif)
    inside = distance < 0
    core = inside if item.shape == "board" else distance < -_OUTLINE
    coverage = _average(inside.astype(np.float32), fine)
    # Premultiplied: the outline's tone wherever inside, and in the core what it has beyond that.
    tone = _average((tone - _OUTLINE_TONE) * core, fine) + _OUTLINE_TONE * coverage
    patch = canvas[:, *area]
    patch *= 1 - coverage
    patch += tone * _planes(item.colour)
    np.minimum(patch, 255, out=patch)
    return area, coverage >= 0.5


def _shade(fill: str, u: np.ndarray, v: np.ndarray) -> np.ndarray | np.float32:
    """Brightness of the surface, about 1."""
    if fill == "shaded":
        return 0.92 - 0.22 * v
    if fill == "domed":
        return 1.12 - 0.36 * ((u + 0.2) ** 2 + (v + 0.25) ** 2)
    return np.float32(1)


def _average(values: np.ndarray, fine: int) -> np.ndarray:
    """Average blocks of ``fine`` × ``fine`` samples."""
    rows = sum(values[i::fine] for i in range(fine))
    return sum(rows[:, i::fine] for i in range(fine)) * np.float32(1 / fine**2)


def _distractors(picture: Picture) -> tuple[list[_Item], _Item | None]:
    """Return the distractors behind the object, and the board in front of it, if any.

    One row of numbers is drawn for every possible distractor, used or not, so that a level's
    distractors are the first of the next level's.
    """
    neutral, object_like = _NEUTRAL_COUNT[picture.clutter], _OBJECT_LIKE_COUNT[picture.clutter]
    if picture.clutter == 0:
        return [], None
    most = max(_NEUTRAL_COUNT.values())
    numbers = np.random.default_rng(picture.distractor_seed).uniform(0, 1, (16, 16))
    taken = [(picture.x, picture.y, picture.diameter / 2)]
    items = []
    for place in [*range(neutral), *range(most, most + object_like)]:
        row = numbers[place]
        if place < most:
            shape = NEUTRAL[int(row[0] * len(NEUTRAL))]
            colour = _MUTED[int(row[1] * len(_MUTED))]
            radius = 0.05 + 0.035 * row[2]
            turn = (row[3] - 0.5) * 2 * math.pi
        else:
            shape = _other(picture.distractor_classes, place - most, picture.object)
            colour = _PALETTE[_other(picture.distractor_colours, place - most, picture.colour)]
            radius = (0.14 if place - most < 3 else 0.17) + 0.03 * row[2]
            turn = (row[3] - 0.5) * 0.7
        # Of a few places, the one farthest from the object and the other distractors.
        places = [(0.06 + 0.88 * row[i], 0.06 + 0.88 * row[i + 1]) for i in (5, 7, 9, 11, 13)]
        x, y = max(
            places,
            key=lambda at: min(math.hypot(at[0] - t[0], at[1] - t[1]) - t[2] for t in taken),
        )
        fill = FILLS[int(row[4] * len(FILLS))]
        items.append(_Item(shape, colour, fill, x, y, radius, turn))
        taken.append((x, y, radius))
    if picture.clutter < 4:
        return items, None
    radius, row = picture.diameter / 2, numbers[-1]
    middle = (1.15 + picture.board_offset) / 2
    board = _Item(
        shape="board",
        colour=_MUTED[int(row[0] * len(_MUTED))],
        fill="shaded",
        x=picture.x + radius * middle * math.cos(picture.board_direction),
        y=picture.y + radius * middle * math.sin(picture.board_direction),
        radius=radius * (1.15 - picture.board_offset) / 2,
        angle=picture.board_direction,
        radius_v=radius * 1.1,
    )
    return items, board


def _other(values: Sequence[str], place: int, own: str | None) -> str:
    """Return the value at a place, or the last where that is the object's own."""
    return values[-1] if values[place] == own else values[place]


# ------------------------------------------------------------------------------------------------
# Sets of pictures

_CANDIDATE = "wrong-"  # what the name of a candidate for a wrong picture begins with


def caption(picture: Picture, variant: int = 0) -> str:
    """Describe a picture by its true attributes, in one of the phrasings of ``CAPTIONS``.

    Variants beyond the last start again from the first. A picture without an object is described
    by ``SCENE_CAPTIONS``.
    """
    phrasings = SCENE_CAPTIONS if picture.object is None else CAPTIONS
    words = {
        "object": picture.object,
        "colour": picture.colour,
        "scene": picture.scene,
        "on scene": _ON.get(picture.scene, f"on {picture.scene}"),
    }
    text = phrasings[variant % len(phrasings)].format_map(words)
    for word in ("arrow", "orange"):
        text = text.replace(f"a {word}", f"an {word}")
    return text


def _level(clutter: Sequence[int], index: int) -> int:
    """Return the level of picture ``index`` where levels take turns."""
    if not clutter:
        choice = ", ".join(map(str, CLUTTER_LEVELS))
        raise ConsilienceError(f"the world's list of clutter levels is empty; choose from {choice}")
    return clutter[index % len(clutter)]


def render_training_set(
    seed: int,
    stream: str,
    start: int,
    stop: int,
    size: int,
    clutter: Sequence[int],
    shortcut: float | None = None,
) -> dict[str, np.ndarray]:
    """Render pictures ``start`` … ``stop - 1`` of a stream, the levels of ``clutter`` in turn.

    With ``shortcut``, that share of them has the scene that is the object's partner, all others
    another one; else scenes and objects are independent.

    Returns
    -------
    dict
        ``images`` uint8 (n, size, size, 3); ``object``, ``scene``, ``colour`` int64 (n,), indices
        into ``OBJECTS``, ``SCENES``, ``COLOURS``; ``clutter`` int64 (n,); ``box`` float32 (n, 4):
        left, top, right, bottom of the object in pixels.
    """
    count = stop - start
    if count < 0:
        raise ConsilienceError(f"the world has no pictures from {start} to {stop}; swap the two")
    arrays = {
        "images": np.empty((count, size, size, 3), np.uint8),
        "object": np.empty(count, np.int64),
        "scene": np.empty(count, np.int64),
        "colour": np.empty(count, np.int64),
        "clutter": np.empty(count, np.int64),
        "box": np.empty((count, 4), np.float32),
    }
    for place, index in enumerate(track(range(start, stop), "pictures")):
        picture = sample_picture(seed, stream, index, _level(clutter, index))
        if shortcut is not None:
            # The picture's own draw: the share holds on average, and no other picture has a say.
            drawn = np.random.default_rng([picture.distractor_seed, 1]).random() < shortcut
            picture = relate_scene(picture, RELATIONS[0] if drawn else RELATIONS[1])
        rendering = render(picture, size)
        arrays["images"][place] = rendering.image
        arrays["object"][place] = OBJECTS.index(picture.object)
        arrays["scene"][place] = SCENES.index(picture.scene)
        arrays["colour"][place] = COLOURS.index(picture.colour)
        arrays["clutter"][place] = picture.clutter
        arrays["box"][place] = rendering.box
    return arrays


def caption_training_set(seed: int, stream: str, start: int, stop: int) -> list[tuple[str, ...]]:
    """Return every caption of pictures ``start`` … ``stop - 1`` of a stream.

    In the order of ``CAPTIONS``; clutter is not spoken of.
    """
    captions = []
    for index in range(start, stop):
        picture = sample_picture(seed, stream, index, 0)
        captions.append(tuple(caption(picture, variant) for variant in range(len(CAPTIONS))))
    return captions


def study_pictures(
    seed: int, bases: int, clutter: Sequence[int], scenes: Sequence[str] | None = None
) -> dict[str, Picture]:
    """Return the study's pictures by name: each base picture at each clutter level.

    With ``scenes``, of :data:`RELATIONS`, also with each relation of the scene to the object.
    """
    pictures = {}
    for base in range(bases):
        first = sample_picture(seed, "study", base, 0)
        for level in clutter:
            name, picture = f"picture-{base:03d}-clutter-{level}", replace(first, clutter=level)
            if scenes is None:
                pictures[name] = picture
            for relation in scenes or ():
                pictures[f"{name}-{relation}-scene"] = relate_scene(picture, relation)
    return pictures


def probe_pictures(seed: int, count: int, clutter: Sequence[int]) -> dict[str, Picture]:
    """Return the probe set by name, the levels of ``clutter`` in turn."""
    return {
        f"probe-{index:05d}": sample_picture(seed, "probe", index, _level(clutter, index))
        for index in range(count)
    }


def candidate_pictures(
    seed: int, places: Iterable[int], clutter: Sequence[int]
) -> dict[str, Picture]:
    """Return candidates for a model's wrong pictures by name, the levels of ``clutter`` in turn.

    Name and picture follow from the place in the stream alone, whichever are asked for or drawn.
    """
    return {
        f"{_CANDIDATE}{index:07d}": sample_picture(
            seed, "candidates", index, _level(clutter, index)
        )
        for index in places
    }


def recreate_pictures(
    names: Iterable[str], seed: int, sources: Iterable[Mapping]
) -> dict[str, Picture]:
    """Return what rendered pictures of a study show, by name and in the order of the names.

    Parameters
    ----------
    names
        Of pictures that :func:`study_pictures` or :func:`candidate_pictures` named.
    seed
        The study's.
    sources
        Entries of the study's ``pictures``: of ``world`` its ``bases``, ``clutter`` and
        ``scenes``, of ``wrong`` its ``clutter``; folders are passed over.

    Raises
    ------
    ConsilienceError
        If no source has a picture of that name.
    """
    known: dict[str, Picture] = {}
    levels = None
    for source in sources:
        if "world" in source:
            known |= study_pictures(seed, **source["world"])
        if "wrong" in source:
            levels = source["wrong"]["clutter"]
    found = {}
    for name in names:
        place = name.removeprefix(_CANDIDATE)
        if levels and name not in known and name != place and place.isdecimal():
            known |= candidate_pictures(seed, [int(place)], levels)
        if name not in known:
            raise ConsilienceError(
                f"{name}: is no rendered picture of this study; delete its results and run again"
            )
        found[name] = known[name]
    return found


def describe_rows(pictures: Mapping[str, Picture], size: int) -> list[dict]:
    """Render pictures and return them as rows of the table ``PICTURES``, in the given order."""
    rows = []
    for name, picture in track(pictures.items(), "pictures"):
        rendering = render(picture, size)
        data = encode_png(rendering.image)
        rows.append(
            {
                "name": name,
                "sha256": hash_bytes(data),
                "image": {"bytes": data, "path": None},
                "width": size,
                "height": size,
                "error": None,
                "object": picture.object,
                "scene": picture.scene,
                "colour": None if picture.object is None else picture.colour,
                "caption": caption(picture),
                "clutter": picture.clutter,
                "base": name.partition("-clutter-")[0],
                "mask_visible": encode_png(rendering.mask_visible.astype(np.uint8) * 255),
                "mask_whole": encode_png(rendering.mask_whole.astype(np.uint8) * 255),
                "distractor_map": encode_png(rendering.distractor_map),
                "distractors": list(rendering.distractors),
            }
        )
    return rows

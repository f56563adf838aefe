"""Draw what the gallery shows of each picture: itself, its explanations and its mask, small."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from . import figures
from .errors import ConsilienceError
from .images import decode_png

Outline = Callable[..., np.ndarray]
"""Draws LIME's outlines: from view, segment map, weights and what is drawn, the picture."""

HEAT_SIDE = 96
"""Pixels of the longer side of a heatmap's colours alone: a map is smooth."""


def draw_thumbnails(
    views: Iterable[Mapping],
    heatmaps: Iterable[Mapping],
    lime: Iterable[Mapping],
    outline: Outline | None = None,
    outlines: Mapping[str, Mapping] | None = None,
) -> Iterator[dict]:
    """Draw the pictures of one model or several, the explanations one after another.

    Parameters
    ----------
    views
        Rows of the table ``VIEWS``, of every picture that is explained.
    heatmaps, lime
        Rows of the tables ``HEATMAPS`` and ``LIME``; gone through once.
    outline
        Draws LIME's outlines, as :func:`consilience.lime_image.outline` does; may be left out
        where there is no LIME.
    outlines
        By picture the keyword arguments of ``outline``, as
        :func:`consilience.explain_params.resolve_outlines` gives them.

    Yields
    ------
    dict
        Rows of the table ``THUMBNAILS``: views and masks, then heatmaps, then LIME.

    Raises
    ------
    ConsilienceError
        If an explanation is of a picture without a view.
    """
    large, kept = {}, {}
    for row in views:
        key = row["model"], row["picture"]
        kept[key] = row["view"]
        large[key] = figures.shrink(decode_png(row["view"]))
        yield _row(row, "picture", large[key])
        if row["mask_visible"] is not None:
            mask = decode_png(row["mask_visible"])
            drawn = figures.outline_mask(large[key], mask)
            place = _place_of_mask(mask)
            yield _row(row, "mask", drawn, place=place, area=float((mask != 0).mean()))
    for row in heatmaps:
        small = _find(large, row)
        heat = np.asarray(row["heatmap"], dtype=np.float32).reshape(row["height"], row["width"])
        good = row["status"] == "ok"
        yield _row(
            row,
            row["method"],
            figures.overlay(small, heat) if good else None,
            layer=row["layer"],
            heat=figures.encode_webp(figures.colour(heat, HEAT_SIDE)) if good else None,
            place=name_place(heat) if good else None,
        )
    for row in lime:
        small = _find(large, row)
        segments = np.asarray(row["segment_map"]).reshape(row["height"], row["width"])
        weights = np.asarray(row["weights"], dtype=np.float64)
        drawn = None
        if row["status"] == "ok":
            view = decode_png(kept[row["model"], row["picture"]])
            drawn = figures.shrink(
                outline(view, segments, weights, **(outlines or {}).get(row["picture"], {}))
            )
        place = None if drawn is None else name_place(weights[segments])
        yield _row(row, "lime", drawn, place=place)


def _row(
    row: Mapping,
    shows: str,
    pixels: np.ndarray | None,
    layer: str | None = None,
    heat: bytes | None = None,
    place: str | None = None,
    area: float | None = None,
) -> dict:
    return {
        "model": row["model"],
        "picture": row["picture"],
        "target_index": row.get("target_index"),
        "shows": shows,
        "layer": layer,
        "image": None if pixels is None else figures.encode_webp(pixels),
        "height": None if pixels is None else pixels.shape[0],
        "width": None if pixels is None else pixels.shape[1],
        "heat": heat,
        "place": place,
        "area": area,
    }


def _find(large: Mapping, row: Mapping) -> np.ndarray:
    try:
        return large[row["model"], row["picture"]]
    except KeyError:
        raise ConsilienceError(
            f"picture {row['picture']!r} is explained for model {row['model']!r} but has no view; "
            "delete its explanations and run again"
        ) from None


def name_place(values: np.ndarray) -> str:
    """Say where in a picture the maximum of values, shape (height, width), lies."""
    row, column = np.unravel_index(int(np.argmax(values)), values.shape)
    down = ("upper", "middle", "lower")[3 * row // values.shape[0]]
    across = ("left", "centre", "right")[3 * column // values.shape[1]]
    return "centre" if (down, across) == ("middle", "centre") else f"{down} {across}"


def _place_of_mask(mask: np.ndarray) -> str:
    """Say where in a picture the middle of a mask lies."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return "nowhere: nothing of it is seen"
    spot = np.zeros(mask.shape)
    spot[int(rows.mean()), int(columns.mean())] = 1
    return name_place(spot)

"""The report's gallery: every picture with its explanations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import partial

import numpy as np

from . import figures
from .errors import ConsilienceError
from .images import decode_png
from .measures import keep_first
from .report_base import (
    METHODS,
    Content,
    Outline,
    describe_measure,
    method_label,
    order_methods,
    order_models,
    other_method,
    picture_uri,
    slug,
)
from .report_evidence import AGREEMENT_MEASURES

DRAWN = ("positive_only", "negative_only", "hide_rest", "min_weight")
"""What explain_params say of the drawing of LIME's superpixels, beside how many are outlined."""

_CORRECT = {True: "right", False: "wrong", None: "unknown"}

SMALL = 128
"""Pixels of a picture's longer side up to which the page enlarges it without smoothing."""


def tell_gallery(content: Content, outline: Outline | None) -> dict | None:
    """One card a model and picture, by clutter level, with a row of explanations a target."""
    if not content.views or not (content.heatmaps or content.lime):
        return None
    known = {row["name"]: row for row in content.pictures}
    views = {(row["model"], row["picture"]): row for row in content.views}
    # By (model, picture) the targets, and by these and the class what explains it.
    predictions = defaultdict(list)
    for row in content.predictions:
        predictions[row["model"], row["picture"]].append(row)
    maps, limes = defaultdict(list), {}
    methods = order_methods(content, {row["method"] for row in content.heatmaps})
    for row in sorted(content.heatmaps, key=lambda row: methods.index(row["method"])):
        maps[_key(row)].append(row)
    for row in content.lime:
        limes[_key(row)] = row
    explained = {key[:2] for key in (*maps, *limes)}
    targets = {_key(row) for row in content.predictions}
    for key in (*maps, *limes):
        if key[:2] not in views or key not in targets:
            raise ConsilienceError(
                f"picture {key[1]!r} is explained for model {key[0]!r} but has no view or no "
                "prediction; delete its explanations and run again"
            )
    # The two values that a card shows beside its pictures, by method.
    correlations, overlaps = defaultdict(dict), defaultdict(dict)
    for row in content.agreement:
        pair = (row["method_a"], row["method_b"])
        if row["control"] is None and row["metric"] == "spearman" and "lime" in pair:
            correlations[_key(row)][other_method(row)] = row["value"]
    for row in content.localization:
        if row["metric"] == "iou" and row["truth"] == "object":
            overlaps[_key(row)][row["method"]] = row["value"]

    layered = len({row["layer"] for row in content.heatmaps}) > 1
    cam = next((method for method in methods if method != "lime"), None)
    features = content.study.get("lime", {}).get("num_features", 5)
    anchors: set[str] = set()
    models = []
    for model in order_models(content, content.predictions):
        groups = defaultdict(list)
        for name in sorted(name for owner, name in explained if owner == model):
            picture = known.get(name, {})
            about = picture.get("caption") or name
            row = views[model, name]
            view = decode_png(row["view"])
            large = figures.shrink(view)  # the page enlarges small ones: a quarter of the bytes
            seen = [
                {
                    "method": None,
                    "label": "Picture",
                    "uri": picture_uri(large),
                    "alt": f"The picture as {model} sees it: {about}",
                    "notes": [],
                }
            ]
            mask = row["mask_visible"]
            known_mask = [] if mask is None else [_mask_thumb(decode_png(mask), large)]
            rows = []
            params = content.explain_params.get(model, {}).get(name, {})
            shown = {one: params[one] for one in DRAWN if one in params}
            most = params.get("outline_num_features", features)
            draw = partial(outline, num_features=most, **shown) if outline else None
            for prediction in predictions[model, name]:
                key = _key(prediction)
                target = prediction["target_class"]
                thumbs = [
                    _cam_thumb(one, large, target, layered, correlations[key], overlaps[key])
                    for one in maps.get(key, ())
                ]
                if key in limes:
                    thumbs.append(_lime_thumb(limes[key], view, target, draw, overlaps[key]))
                if thumbs:
                    rows.append({**prediction, "thumbs": thumbs})
            # The picture itself and its mask belong to all targets, and stand beside the first.
            rows[0]["thumbs"] = [*seen, *rows[0]["thumbs"], *known_mask]
            anchor = slug(name)
            anchor = anchor if anchor.startswith("picture-") else f"picture-{anchor}"
            if anchor in anchors:  # the same picture, explained for another model
                anchor += f"-{slug(model)}"
            anchors.add(anchor)
            first = predictions[model, name][0]
            about_card = {
                "name": name,
                "model": model,
                "classes": sorted({one for row in rows for one in _classes(row)}),
                "methods": sorted(
                    {thumb["method"] for row in rows for thumb in row["thumbs"] if thumb["method"]}
                ),
                "correct": _CORRECT[first["correct"]],
                "clutter": picture.get("clutter"),
                "probability": first["predicted_probability"],
                "agreement": correlations[_key(first)].get(cam),
            }
            groups[picture.get("clutter")].append(
                {
                    **first,
                    "id": anchor,
                    "rows": rows,
                    "small": max(view.shape[:2]) <= SMALL,
                    "superpixels": limes[_key(first)]["segments"] if _key(first) in limes else None,
                    "chosen": _chosen(first, len(rows)),
                    "about": about_card,
                }
            )
        if groups:
            levels = sorted(groups, key=lambda level: (level is None, level or 0))
            models.append(
                {
                    "model": model,
                    "groups": [{"clutter": level, "cards": groups[level]} for level in levels],
                }
            )
    return {
        "models": models,
        "choices": _choices(models, methods, cam),
        "colour_bar": figures.sample_colormap() if content.heatmaps else None,
        "has_lime": bool(content.lime),
        "stability": _stability(content),
        "has_mask": any(row["mask_visible"] is not None for row in content.views),
        "features": features,
    }


def _choices(models: list[dict], methods: list[str], cam: str | None) -> dict:
    """What the gallery can be filtered and sorted by: only what tells its pictures apart."""
    cards = [card["about"] for one in models for group in one["groups"] for card in group["cards"]]

    def values(key: str) -> list:
        found = {card[key] for card in cards} - {None}
        return sorted(found) if len(found) > 1 else []

    shown = {method for card in cards for method in card["methods"]}
    ordered = [method for method in (*methods, "lime") if method in shown]
    classes = {name for card in cards for name in card["classes"]}
    return {
        "pictures": len(cards),
        "models": [one["model"] for one in models] if len(models) > 1 else [],
        "classes": sorted(classes) if len(classes) > 1 else [],
        "methods": [(one, method_label(one)) for one in ordered] if len(ordered) > 1 else [],
        "correct": values("correct"),
        "clutter": values("clutter"),
        "agreement": method_label(cam)
        if any(card["agreement"] is not None for card in cards)
        else None,
    }


def _classes(prediction: Mapping) -> set[str]:
    """Return the classes that a prediction is about: predicted, explained and labelled."""
    keys = ("predicted_class", "target_class", "label_class")
    return {prediction[key] for key in keys} - {None}


def _key(row: Mapping) -> tuple[str, str, int]:
    """Return whose explanation a row is: model, picture and target."""
    return row["model"], row["picture"], row["target_index"]


def _stability(content: Content) -> list[dict]:
    """How far LIME agrees with itself, over the pictures, a row a model and measure."""
    groups = defaultdict(list)
    for row in keep_first(content.lime_stability, "model", "picture"):
        groups[row["model"], row["varied"], row["measure"]].append(row)
    found = []
    for (model, varied, measure), rows in sorted(groups.items()):
        means = [row["mean"] for row in rows if row["mean"] is not None]
        found.append(
            {
                "model": model,
                "varied": varied,
                "measure": {"kendall-tau": "Kendall’s τ of the weights"}.get(
                    measure, describe_measure(measure, AGREEMENT_MEASURES, content.study).label
                ),
                "n": len(means),
                "mean": float(np.mean(means)) if means else None,
                "lowest": min(means, default=None),
                "highest": max(means, default=None),
                "chance": rows[0]["chance"],
                "reasons": sorted({row["reason"] for row in rows if row["reason"]}),
            }
        )
    return found


def _cam_thumb(row, large, target, layered, correlations, overlaps) -> dict:
    heat = np.asarray(row["heatmap"], dtype=np.float32).reshape(row["height"], row["width"])
    label = method_label(row["method"])
    good = row["status"] == "ok"
    notes = []
    if row["method"] in correlations:
        notes.append(("ρ with LIME", correlations[row["method"]], False))
    if row["method"] in overlaps:
        notes.append(("IoU, mask", overlaps[row["method"]], False))
    return {
        "method": row["method"],
        "label": f"{label}, {row['layer']}" if layered else label,
        "uri": picture_uri(figures.overlay(large, heat)) if good else None,
        "missing": f"map is {row['status']}",
        "alt": f"{label} heatmap for {target}, highest at the {_place(heat)}",
        "notes": notes,
    }


def _lime_thumb(row, view, target, draw, overlaps) -> dict:
    segments = np.asarray(row["segment_map"]).reshape(row["height"], row["width"])
    weights = np.asarray(row["weights"], dtype=np.float64)
    good = row["status"] == "ok"
    notes = [("R²", row["r2"], False)]
    if "lime" in overlaps:
        notes.append(("IoU, mask", overlaps["lime"], False))
    return {
        "method": "lime",
        "label": METHODS["lime"],
        "uri": picture_uri(figures.shrink(draw(view, segments, weights))) if good else None,
        "missing": f"explanation is {row['status']}",
        "alt": f"LIME: superpixels that speak for {target} outlined in yellow, the strongest at "
        f"the {_place(weights[segments])}",
        "notes": notes,
    }


def _mask_thumb(mask, large) -> dict:
    return {
        "method": None,
        "label": "Known mask",
        "uri": picture_uri(figures.outline_mask(large, mask)),
        "alt": f"Mask of the object, around the {_place_of_mask(mask)}",
        "notes": [("area", float((mask != 0).mean()), True)],
    }


def _place_of_mask(mask: np.ndarray) -> str:
    """Say where in a picture the middle of a mask lies."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return "nowhere: nothing of it is seen"
    spot = np.zeros(mask.shape)
    spot[int(rows.mean()), int(columns.mean())] = 1
    return _place(spot)


def _chosen(prediction: Mapping, targets: int) -> str:
    """Say how the explained class was chosen."""
    kind = prediction["target"]
    known = {"predicted": "the predicted class", "labelled": "the labelled class"}
    if kind.startswith("top-"):
        return f"the {targets} likeliest classes" if targets > 1 else "the likeliest class"
    return known.get(kind, "the class that the study gives")


def _place(values: np.ndarray) -> str:
    """Say where in a picture the maximum lies."""
    row, column = np.unravel_index(int(np.argmax(values)), values.shape)
    down = ("upper", "middle", "lower")[3 * row // values.shape[0]]
    across = ("left", "centre", "right")[3 * column // values.shape[1]]
    return "centre" if (down, across) == ("middle", "centre") else f"{down} {across}"

"""The report's gallery: every picture with its explanations."""

from __future__ import annotations

import base64
import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping

import numpy as np

from . import figures
from .errors import ConsilienceError
from .measures import keep_first
from .report_base import (
    METHODS,
    Content,
    describe_measure,
    method_label,
    order_methods,
    order_models,
    other_method,
    slug,
)
from .report_evidence import AGREEMENT_MEASURES

Keep = Callable[[str, bytes], str]
"""Takes the name and bytes of a picture of the gallery, and returns its address on the page."""

_CORRECT = {True: "right", False: "wrong", None: "unknown"}

SMALL = 128
"""Pixels of a picture's longer side up to which the page enlarges it without smoothing."""


def embed_picture(name: str, data: bytes) -> str:
    """Return a WebP picture as a data URI: it stands in the page itself."""
    return f"data:image/webp;base64,{base64.b64encode(data).decode()}"


def name_file(model: str, picture: str, number: int, what: str = "") -> str:
    """Return a file name of letters, digits, dots, hyphens and underscores for a picture of the
    gallery, whatever the names; two never share one, and none is long or begins with a dot."""
    digest = hashlib.sha256(f"{model}\0{picture}".encode()).hexdigest()[:12]
    start = slug(picture)[:60].lstrip(".") or "picture"
    return f"{start}-{digest}-{number}{what}.webp"


def tell_gallery(content: Content, keep: Keep = embed_picture) -> dict | None:
    """One card a model and picture, by clutter level, with a row of explanations a target.

    ``keep`` is called with every picture that is shown.
    """
    if not content.thumbnails or not (content.heatmaps or content.lime):
        return None
    known = {row["name"]: row for row in content.pictures}
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
    thumbnails = {
        (row["model"], row["picture"], row["target_index"], row["shows"], row["layer"]): row
        for row in content.thumbnails
    }
    explained = {key[:2] for key in (*maps, *limes)}
    targets = {_key(row) for row in content.predictions}
    for key in (*maps, *limes):
        if (*key[:2], None, "picture", None) not in thumbnails or key not in targets:
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
    anchors: set[str] = set()
    models = []
    for model in order_models(content, content.predictions):
        groups = defaultdict(list)
        for name in sorted(name for owner, name in explained if owner == model):
            picture = known.get(name, {})
            card = _Card(model, name, thumbnails, keep)
            seen = card.show(
                None,
                "picture",
                label="Picture",
                alt=f"The picture as {model} sees it: {picture.get('caption') or name}",
            )
            mask = thumbnails.get((model, name, None, "mask", None))
            rows = []
            for prediction in predictions[model, name]:
                key = _key(prediction)
                target = prediction["target_class"]
                thumbs = [
                    _cam_thumb(card, one, target, layered, correlations[key], overlaps[key])
                    for one in maps.get(key, ())
                ]
                if key in limes:
                    thumbs.append(_lime_thumb(card, limes[key], target, overlaps[key]))
                if thumbs:
                    rows.append({**prediction, "thumbs": thumbs})
            # The picture itself and its mask belong to all targets, and stand beside the first.
            rows[0]["thumbs"] = [seen, *rows[0]["thumbs"]]
            if mask is not None:
                alt = f"Mask of the object, around the {mask['place']}"
                area = ("area", mask["area"], True)
                shown = card.show(None, "mask", label="Known mask", alt=alt, notes=[area])
                rows[0]["thumbs"].append(shown)
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
        "has_mask": any(row["shows"] == "mask" for row in content.thumbnails),
        "features": content.study.get("lime", {}).get("num_features", 5),
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


class _Card:
    """What is drawn of one picture: looked up, kept, and numbered in the order of the card."""

    def __init__(self, model: str, name: str, thumbnails: Mapping, keep: Keep) -> None:
        self.model, self.name, self.thumbnails, self.keep = model, name, thumbnails, keep
        self.number = 0

    def show(
        self,
        target: int | None,
        shows: str,
        layer: str | None = None,
        *,
        label: str,
        alt: str = "",
        missing: str = "",
        notes: list | tuple = (),
    ) -> dict:
        """Return what the page shows; ``alt`` that ends in a space is followed by the place."""
        row = self.thumbnails.get((self.model, self.name, target, shows, layer))
        if row is None:
            raise ConsilienceError(
                f"picture {self.name!r}, model {self.model!r}: nothing is drawn of {shows}; delete "
                "the thumbnails and run again"
            )
        uri = heat = None
        if row["image"] is not None:
            uri = self.keep(name_file(self.model, self.name, self.number), row["image"])
        if row["heat"] is not None:
            heat = self.keep(name_file(self.model, self.name, self.number, "-heat"), row["heat"])
        self.number += 1
        return {
            "method": None if shows in ("picture", "mask") else shows,
            "label": label,
            "uri": uri,
            "heat": heat,
            "height": row["height"],
            "width": row["width"],
            "small": max(row["height"] or 0, row["width"] or 0) <= SMALL,
            "missing": missing,
            "alt": alt + (row["place"] or "") if alt.endswith(" ") else alt,
            "notes": list(notes),
        }


def _cam_thumb(card, row, target, layered, correlations, overlaps) -> dict:
    label = method_label(row["method"])
    notes = []
    if row["method"] in correlations:
        notes.append(("ρ with LIME", correlations[row["method"]], False))
    if row["method"] in overlaps:
        notes.append(("IoU, mask", overlaps[row["method"]], False))
    return card.show(
        row["target_index"],
        row["method"],
        row["layer"],
        label=f"{label}, {row['layer']}" if layered else label,
        alt=f"{label} heatmap for {target}, highest at the ",
        missing=f"map is {row['status']}",
        notes=notes,
    )


def _lime_thumb(card, row, target, overlaps) -> dict:
    notes = [("R²", row["r2"], False)]
    if "lime" in overlaps:
        notes.append(("IoU, mask", overlaps["lime"], False))
    return card.show(
        row["target_index"],
        "lime",
        label=METHODS["lime"],
        alt=f"LIME: superpixels that speak for {target} outlined in yellow, the strongest at the ",
        missing=f"explanation is {row['status']}",
        notes=notes,
    )


def _chosen(prediction: Mapping, targets: int) -> str:
    """Say how the explained class was chosen."""
    kind = prediction["target"]
    known = {"predicted": "the predicted class", "labelled": "the labelled class"}
    if kind.startswith("top-"):
        return f"the {targets} likeliest classes" if targets > 1 else "the likeliest class"
    return known.get(kind, "the class that the study gives")

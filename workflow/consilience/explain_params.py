"""``explain_params.pkl``: the parameters that LIME is run with, by picture; written and read back.

An entry holds the arguments of the library's ``explain_instance`` and ``get_image_and_mask`` by
their own names. Functions are given by name. Beside them stand ``segmentation_params``,
``kernel_width`` and ``random_state`` of ``LimeImageExplainer``, and ``outline_num_features``: the
``num_features`` of ``get_image_and_mask`` where it is another than the fit's.
"""

from __future__ import annotations

import ast
import difflib
import math
import pickle
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from .errors import ConsilienceError, printable, shown
from .files import write_atomically
from .lime_image import SEGMENTATIONS, SHOWN, check_distance, make_segmentation
from .pickles import load_plain

HIDE_COLORS = {"mean": None, "grey": (128, 128, 128)}
# The fit takes every superpixel, however many there are: the library's own default.
ALL_FEATURES = 100_000
# As the study's schema has it.
MOST_SAMPLES = 1_000_000
# What the library cuts superpixels with where segmentation_fn is None.
LIBRARY_SEGMENTATION = {
    "segmentation_fn": "quickshift",
    "segmentation_params": {"kernel_size": 4, "max_dist": 200, "ratio": 0.2},
}


def _whole(least: int, most: int = 2**31 - 1) -> Callable:
    # True and False are integers to Python.
    return lambda value: type(value) is int and least <= value <= most


def _number(value) -> bool:
    # Compared first: a whole number can be too large to be asked whether it is finite.
    return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)


def _list_of(check: Callable) -> Callable:
    return lambda value: isinstance(value, tuple | list) and bool(value) and all(map(check, value))


def _color(value) -> bool:
    def check(part):
        return type(part) is int and 0 <= part <= 255

    return value is None or check(value) or (_list_of(check)(value) and len(value) == 3)


def _or_none(check: Callable) -> Callable:
    return lambda value: value is None or check(value)


_SEED = (
    _or_none(_whole(0)),
    "a whole number from 0 to 2**31 - 1, or None for the study's",
)
_FLAG = (lambda value: type(value) is bool, "True or False")
_WHOLE = (_whole(1), "a whole number from 1")

KEYS: dict[str, tuple[Callable, str]] = {
    "labels": (_list_of(_whole(0)), "class indices, such as (3,)"),
    "hide_color": (_color, "None for the mean colour, a grey 0 to 255, or (red, green, blue)"),
    "top_labels": (_or_none(_whole(1)), "a whole number from 1, or None"),
    "num_features": _WHOLE,
    "num_samples": (_whole(2, MOST_SAMPLES), f"a whole number from 2 to {MOST_SAMPLES}"),
    "batch_size": _WHOLE,
    "segmentation_fn": (
        lambda value: value is None or (isinstance(value, str) and value in SEGMENTATIONS),
        f"{', '.join(SEGMENTATIONS)}, or None for the library's",
    ),
    "segmentation_params": (
        lambda value: (
            isinstance(value, dict)
            and all(
                isinstance(key, str) and (isinstance(part, str | bool | None) or _number(part))
                for key, part in value.items()
            )
        ),
        "a dictionary of the segmentation's parameters, numbers or names",
    ),
    "distance_metric": (lambda value: isinstance(value, str), "a name, such as 'cosine'"),
    "model_regressor": (
        lambda value: value is None or value == "ridge",
        "None or 'ridge', the library's ridge regression",
    ),
    "random_seed": _SEED,
    "kernel_width": (lambda value: _number(value) and value > 0, "a number above 0"),
    "random_state": _SEED,
    "positive_only": _FLAG,
    "negative_only": _FLAG,
    "hide_rest": _FLAG,
    "min_weight": (_number, "a number"),
    "outline_num_features": _WHOLE,
}
"""Every key of an entry: a check of its value, and what the value must be."""


def study_params(settings: Mapping) -> dict:
    """Bring a study's LIME settings into the form of an entry.

    Parameters
    ----------
    settings
        ``num_samples`` and ``batch_size``; ``segmentation`` (see
        :func:`consilience.lime_image.make_segmentation`); ``hide_color``: ``mean``, ``grey`` or
        red, green and blue; ``kernel_width`` and ``distance_metric``; ``segmentation_seed`` and
        ``perturbation_seed``.

    Raises
    ------
    ConsilienceError
        If the colour is not known.
    """
    segmentation = dict(settings["segmentation"])
    method = segmentation.pop("method")
    color = settings["hide_color"]
    if isinstance(color, str) and color not in HIDE_COLORS:
        raise ConsilienceError(f"hide_color {color!r} is not known; give mean, grey or [r,g,b]")
    return {
        "hide_color": HIDE_COLORS[color] if isinstance(color, str) else tuple(color),
        "top_labels": None,
        "num_features": ALL_FEATURES,
        "num_samples": settings["num_samples"],
        "batch_size": settings["batch_size"],
        "segmentation_fn": method,
        "segmentation_params": segmentation,
        "distance_metric": settings["distance_metric"],
        "model_regressor": None,  # the library's ridge regression
        "random_seed": settings["segmentation_seed"],
        "kernel_width": settings["kernel_width"],
        "random_state": settings["perturbation_seed"],
    }


def check_entry(entry: Mapping, where: str) -> None:
    """Hold one picture's parameters against what they may be.

    Raises
    ------
    ConsilienceError
        If a key is not known, a value is wrong, or values do not fit one another: begins with
        ``where`` and names the key.
    """
    for key, value in entry.items():
        if key not in KEYS:
            close = difflib.get_close_matches(key, KEYS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(KEYS)}"
            raise ConsilienceError(f"{where}: unknown key {shown(key)}; {hint}")
        check, said = KEYS[key]
        if not check(value):
            raise ConsilienceError(f"{where}: {key} is {shown(value)}; it must be {said}")
    if entry.get("segmentation_params") and entry.get("segmentation_fn") is None:
        raise ConsilienceError(
            f"{where}: segmentation_params are of no segmentation; name it in segmentation_fn"
        )
    if entry.get("positive_only", True) and entry.get("negative_only"):
        raise ConsilienceError(f"{where}: positive_only and negative_only cannot both be True")
    try:
        if entry.get("segmentation_fn"):
            method = {"method": entry["segmentation_fn"]}
            make_segmentation(method | entry.get("segmentation_params", {}), 0)
        if "distance_metric" in entry:
            check_distance(entry["distance_metric"])
    except ConsilienceError as error:
        raise ConsilienceError(f"{where}: {error}") from None


def check_params(path: str | Path, pictures: Iterable[str]) -> dict[str, dict]:
    """Read explanation parameters for a study and hold every entry against it.

    Parameters
    ----------
    path
        The pickle.
    pictures
        Names of all pictures of the study. Not each needs an entry.

    Raises
    ------
    ConsilienceError
        As :func:`read_params` and :func:`check_entry` do, and if an entry is of no picture of the
        study: names file, picture and key.
    """
    params, known = read_params(path), set(pictures)
    for name, entry in params.items():
        if name not in known:
            names = sorted(known)
            close = difflib.get_close_matches(name[:300], names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"the first is {names[:1]}"
            raise ConsilienceError(
                f"{printable(path)}: the study has no picture {shown(name)}; {hint}"
            )
        check_entry(entry, f"{printable(path)}: picture {shown(name)}")
    return params


def _complete(entry: Mapping, common: Mapping) -> dict:
    """Fill an entry of a file up with the study's own parameters."""
    params = dict(common) | {key: value for key, value in entry.items() if key not in _SEEDS}
    params |= {key: entry[key] for key in _SEEDS if entry.get(key) is not None}
    if "segmentation_fn" in entry:
        if entry["segmentation_fn"] is None:
            params |= LIBRARY_SEGMENTATION
        else:  # by its name alone, with the function's own defaults
            params["segmentation_params"] = dict(entry.get("segmentation_params", {}))
    for key in ("labels", "hide_color"):
        if isinstance(params.get(key), list):
            params[key] = tuple(params[key])
    if "num_features" in entry and "outline_num_features" not in entry:
        params["outline_num_features"] = entry["num_features"]
    return params | {"model_regressor": None}


_SEEDS = ("random_seed", "random_state")


def resolve_params(
    settings: Mapping, pictures: Iterable[str], path: str | Path | None = None
) -> dict[str, dict]:
    """Return the parameters that each picture is explained with.

    Parameters
    ----------
    settings
        As for :func:`study_params`.
    pictures
        Names of pictures.
    path
        A file of parameters, or None. What it does not say is as the study's settings have it: a
        picture without an entry, a key that is missing, a seed that is None.

    Returns
    -------
    dict
        By picture, complete for :func:`consilience.lime_image.explain_lime`.

    Raises
    ------
    ConsilienceError
        As :func:`read_params` and :func:`check_entry` do.
    """
    common, resolved = study_params(settings), {}
    given = {} if path is None else read_params(path)
    for name in pictures:
        entry = given.get(name, {})
        check_entry(entry, f"{path}: picture {shown(name)}")
        resolved[name] = _complete(entry, common)
    return resolved


def collect_params(
    params: Mapping[str, Mapping], predictions: Iterable[Mapping], num_features: int
) -> dict[str, dict]:
    """Collect what LIME was run with, to write it.

    Parameters
    ----------
    params
        By picture, as :func:`resolve_params` gives them.
    predictions
        Rows of the table ``PREDICTIONS`` of one model; their targets become ``labels``.
    num_features
        The superpixels that the study outlines.

    Returns
    -------
    dict
        By picture, in the order of their names. Built-in types only.

    Raises
    ------
    ConsilienceError
        If a target of a picture occurs twice, as in the predictions of several models.
    """
    labels: dict[str, list[int]] = {}
    for row in sorted(predictions, key=lambda row: row["picture"]):
        of_picture = labels.setdefault(row["picture"], [])
        if row["target_index"] in of_picture:
            raise ConsilienceError(
                f"picture {row['picture']!r} has two predictions of one class; export one model "
                "at a time"
            )
        of_picture.append(row["target_index"])
    outline = {"outline_num_features": num_features, **SHOWN}
    return {
        name: {**outline, **params[name], "labels": tuple(targets), "top_labels": None}
        for name, targets in labels.items()
    }


def resolve_outlines(
    pictures: Iterable[str], num_features: int, path: str | Path | None = None
) -> dict[str, dict]:
    """Return how each picture's superpixels are drawn: what
    :func:`consilience.lime_image.outline` takes by name.

    Parameters are those of :func:`resolve_params` and :func:`collect_params`, whose entries say
    the same.

    Raises
    ------
    ConsilienceError
        As :func:`read_params` does.
    """
    given = {} if path is None else read_params(path)
    resolved = {}
    for name in pictures:
        entry = {"outline_num_features": num_features, **SHOWN}
        entry |= _complete(given.get(name, {}), {})
        resolved[name] = {key: entry[key] for key in SHOWN}
        resolved[name]["num_features"] = entry["outline_num_features"]
    return resolved


def write_params(params: Mapping[str, Mapping], path: str | Path) -> None:
    """Write explanation parameters as a pickle; equal parameters give equal bytes.

    Raises
    ------
    ConsilienceError
        If a value is not of a built-in type.
    """
    try:
        # A pickle says which of its objects are one and the same. Read back from their text, that
        # depends on their values alone.
        params = ast.literal_eval(repr(params))
    except (SyntaxError, ValueError):
        raise ConsilienceError(
            f"{path}: explanation parameters must be of built-in types only"
        ) from None
    data = pickle.dumps(params, protocol=4)
    write_atomically(path, lambda part: Path(part).write_bytes(data))


def read_params(path: str | Path) -> dict[str, dict]:
    """Read explanation parameters, executing nothing that the file may hold.

    Raises
    ------
    ConsilienceError
        If the file is missing, is no pickle, holds anything but built-in types, or is no
        dictionary of dictionaries by name.
    """
    params = load_plain(path)
    if not isinstance(params, dict) or not all(
        isinstance(name, str)
        and isinstance(values, dict)
        and all(isinstance(key, str) for key in values)
        for name, values in params.items()
    ):
        raise ConsilienceError(
            f"{printable(path)}: must hold a dictionary of parameters for each picture"
        )
    return params

"""Sanity checks of explanations (Adebayo et al. 2018, https://arxiv.org/abs/1810.03292).

An explanation of what a model learned must change when the weights do, and an explanation of a
class when the class does. Both are asked of every method: weights are randomised from the top
down, and another class is explained. Eigen-CAM, which ignores the class, is asked too: a check
that it passes would be none.

Explanations are compared as they are shown, rectified, by Spearman's rank correlation over pixels
(:class:`consilience.agreement.Spearman`): from -1 to 1, and here *lower is better*.
"""

from __future__ import annotations

import copy
import gc
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from .agreement import LIME, METRICS
from .images import batch_of
from .measures import Superpixels, UndefinedError, bootstrap_mean, pixel_values
from .progress import Progress

# Whoever summarises does without torch: what needs it is imported in the functions that ask models.
if TYPE_CHECKING:
    from .classifiers import Classifier

CONTROL = "eigen-cam"
"""The method that knows no class, and must fail where the class is changed."""

CASCADE, CLASS = "cascade", "class"
"""The two tests."""

UNTOUCHED = "none"
"""Stage at which nothing is random: how exactly an explanation is made again."""

DRAWS = 20
"""Random maps that a floor is the mean of."""

MARGIN = 0.2
"""How much further than random maps an explanation may stay from 0 and still follow the weights."""

SAME = 0.95
"""Mean correlation above which the explanations of two classes are one."""

ATTEMPTS = 12
"""Draws of a stage's weights, of which the first is taken that speaks for the target."""

LEAST = 4
"""Pictures below which there is no verdict: the interval of fewer is too short by far."""

_SPEARMAN = METRICS["spearman"]


def choose_pictures(pictures: Iterable[Mapping], count: int) -> list[str]:
    """Choose the pictures that are explained again: the first by a hash of their names.

    Parameters
    ----------
    pictures
        With ``name``, ``clutter`` and ``base``, such as rows of ``PICTURES``; those that are
        explained. Where clutter is known of any, only those of the lowest level (0, where it
        occurs) are chosen from, one of a base.
    count
        How many; fewer where there are fewer.

    Returns
    -------
    list of str
        Names, in the order of the hash.
    """
    pictures = list(pictures)
    if levels := [row["clutter"] for row in pictures if row["clutter"] is not None]:
        pictures = [row for row in pictures if row["clutter"] == min(levels)]
    # The batch among so many that no two share one: a hash of the name.
    rows = sorted(pictures, key=lambda row: (batch_of(row["name"], 2**63), row["name"]))
    first: dict[str, str] = {}
    for row in rows:
        first.setdefault(f"base {row['base']}" if row["base"] else row["name"], row["name"])
    return list(first.values())[:count]


def rank_map(row: Mapping) -> np.ndarray:
    """Return the ranks of an explanation's pixels, ready to be correlated.

    Parameters
    ----------
    row
        Of ``HEATMAPS`` or ``LIME``; the target is not looked at.

    Raises
    ------
    UndefinedError
        If the explanation is degenerate: of a constant map the library draws the last digits.
    """
    if row["status"] != "ok":
        raise UndefinedError(f"{row['status']} {'weights' if 'segment_map' in row else 'map'}")
    return _SPEARMAN.prepare(pixel_values(_read(row)), {})


def _read(row: Mapping) -> np.ndarray | Superpixels:
    shape = row["height"], row["width"]
    if "segment_map" in row:
        return Superpixels(np.int32(row["segment_map"]).reshape(shape), row["weights"])
    return np.float32(row["heatmap"]).reshape(shape)


def measure_floor(row: Mapping, seed: int, draws: int = DRAWS) -> float:
    """Return how far from 0 random maps of an explanation's own kind correlate with it.

    The mean size of Spearman's ρ. From 0 to 1; 0 only for maps without neighbours that are alike.
    A random map has the explanation's values, ties and all: of a CAM in the order of noise at
    the layer's resolution, upsampled as the library upsamples; of LIME its weights permuted over
    its superpixels.

    Parameters
    ----------
    row
        Of ``HEATMAPS`` or ``LIME``, with the status ``ok``.
    seed
        Of the noise.
    draws
        Random maps.
    """
    rng = np.random.default_rng(seed)
    own, explanation = rank_map(row), _read(row)
    found = []
    for _ in range(draws):
        if isinstance(explanation, Superpixels):
            shuffled = rng.permutation(explanation.weights)
            values = pixel_values(Superpixels(explanation.segment_map, shuffled))
        else:
            values = _draw_smooth(row, explanation, rng)
        found.append(abs(_SPEARMAN.compare(own, _SPEARMAN.prepare(values, {}))))
    return float(np.mean(found))


def _draw_smooth(row: Mapping, heatmap: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Put a heatmap's values in the order of smooth noise: float64, shape (pixels,)."""
    from .controls import order_noise  # imports cv2, which a summary does without

    values = np.empty(heatmap.size)
    grid = row["layer_height"], row["layer_width"]
    values[order_noise(heatmap.shape, grid, rng)] = np.sort(heatmap, axis=None)
    return values


def check_explanations(
    classifier: Classifier,
    views: Mapping[str, np.ndarray],
    predictions: Iterable[Mapping],
    originals: Mapping[tuple[str, str], Mapping],
    methods: Sequence[str],
    layers: Sequence[str],
    params: Mapping[str, Mapping],
    stages: Sequence[str] | None = None,
    seed: int = 0,
    batch_size: int = 32,
    precision: str = "float32",
) -> Iterator[dict]:
    """Explain pictures with randomised weights, and another class of them, and compare.

    The weights are drawn anew for every picture, so that pictures are independent of one another
    and an interval over them holds the chance of the weights too; and, as half of all draws speak
    against the target and leave nothing to show, until the target's logit is positive. Random
    batch norms take their statistics from the picture, and logits are spread over the classes as
    the trained model's are. The target stays the trained model's. The other class is the trained
    model's likeliest beside the target.

    Parameters
    ----------
    classifier
        The trained model, not yet made ready; it is left as it is.
    views
        By picture, what the model sees: uint8, shape (height, width, 3).
    predictions
        Rows of ``PREDICTIONS``, one a picture that is to be explained.
    originals
        By picture and method, rows of ``HEATMAPS`` and ``LIME``: the explanations themselves. One
        that is missing is made.
    methods
        Keys of :data:`consilience.cam.METHODS`, or ``lime``.
    layers
        Of the CAMs.
    params
        By picture, what LIME is run with (:func:`consilience.explain_params.resolve_params`);
        superpixels stay those of the explanation itself.
    stages
        As :func:`consilience.randomisation.find_stages` takes them.
    seed
        Of the weights and the floors.
    batch_size
        Pictures a forward pass of the CAMs.
    precision
        As :func:`consilience.inference.prepare` takes it.

    Yields
    ------
    dict
        Rows of ``SANITY``, by picture in the order given, method, test and step. ``value`` is
        Spearman's ρ over pixels, from -1 to 1; lower is better, but for step 0 of the cascade,
        where nothing is random and which must be 1. An undefined one is None with its ``reason``.

    Raises
    ------
    ConsilienceError
        As :func:`consilience.randomisation.find_stages` and the explanations do.
    """
    from .randomisation import derive_seed, find_stages

    cascade = find_stages(classifier, stages)
    trained = _make_ready(classifier, layers, precision)
    counted = Progress(len(predictions) * len(methods) * (len(cascade) + 1), "explanations")
    for prediction in predictions:
        picture, target = prediction["picture"], prediction["target_index"]
        view, about = views[picture], {key: prediction[key] for key in _OF_PICTURE}
        explain = _Explain(view, layers, batch_size, params.get(picture), originals, picture)
        other = _runner_up(trained.probabilities(view[None])[0], target)
        spread = _ask(trained.model, trained.prepare_input(view[None])).std()
        own = {}
        for method in methods:
            own[method] = explain.own(trained, method, target)
        rows = []
        for method in methods:
            again = explain(trained, method, [target] if other is None else [target, other])
            counted.advance()
            rows.append((method, CASCADE, 0, UNTOUCHED, again[0]))
            if other is None:
                rows.append((method, CLASS, 0, UNTOUCHED, "the model has no other class"))
            else:
                rows.append((method, CLASS, 0, classifier.class_names[other], again[1]))
        random, above = replace(classifier, model=copy.deepcopy(classifier.model)), []
        for step, (stage, modules) in enumerate(cascade.items(), start=1):
            above += modules
            logits = _randomise(random, modules, above, view, target, (seed, picture))
            sound = bool(np.isfinite(logits).all())
            asked = _make_ready(random, layers, precision)
            if sound and spread > 0 and logits.std() > 0:
                # As far apart as the trained model's: were they further, all probabilities would
                # be 0 or 1, and LIME would have nothing to fit.
                _scale_logits(asked.model, float(spread / logits.std()))
            for method in methods:
                found = explain(asked, method, [target])[0] if sound else "logits not finite"
                counted.advance()
                rows.append((method, CASCADE, step, stage, found))
            # Cycles of references (torch.fx's graph, the library's CAM) hold the model until Python
            # looks for such: gigabytes by then, as it counts objects and not bytes.
            del asked
            gc.collect()
        floors = {
            method: _try(measure_floor, own[method], derive_seed(seed, picture, method))
            for method in methods
        }
        for method, test, step, stage, found in sorted(rows, key=lambda row: row[:3]):
            value, reason = _compare(own[method], found, test)
            floor = floors[method] if isinstance(floors[method], float) else None
            yield about | {
                "method": method,
                "test": test,
                "step": step,
                "stage": stage,
                "value": value,
                "floor": floor,
                "reason": reason,
            }


_OF_PICTURE = ("model", "picture", "target_index", "target_class")


class _Explain:
    """Explains one picture by any method, always alike.

    Attributes
    ----------
    segment_map
        LIME's superpixels, shape (height, width); None until they are known.
    """

    def __init__(self, view, layers, batch_size, params, originals, picture):
        self.view, self.layers, self.batch_size = view, list(layers), batch_size
        self.originals, self.picture = originals, picture
        self.segment_map = None
        # Not the classes that a file wants explained: others are asked for here.
        self.params = {**(params or {}), "labels": None, "top_labels": None}

    def own(self, classifier: Classifier, method: str, target: int) -> Mapping:
        """Return the explanation itself, a row: that of the study where there is one."""
        row = self.originals.get((self.picture, method))
        if row is None:
            (row,) = self(classifier, method, [target])
        if method == LIME:
            self.segment_map = np.int32(row["segment_map"]).reshape(row["height"], row["width"])
        return row

    def __call__(self, classifier: Classifier, method: str, targets: Sequence[int]) -> list[dict]:
        """Return rows without what says of what they are, one a target."""
        if method == LIME:
            from .lime_image import explain_lime

            return explain_lime(classifier, self.view, targets, self.params, self.segment_map)
        from .cam import explain_cam

        views = [self.view] * len(targets)
        return explain_cam(classifier, method, self.layers, views, targets, self.batch_size)


def _make_ready(classifier: Classifier, layers: Sequence[str], precision: str) -> Classifier:
    """Return a copy that is ready to be asked, as the steps that explain load it."""
    from .inference import prepare

    model = copy.deepcopy(classifier.model)
    prepare(model, layers, precision, classifier.device)
    return replace(classifier, model=model)


def _runner_up(probabilities: np.ndarray, target: int) -> int | None:
    """Return the likeliest class beside the target, the first of equal ones."""
    order = (-probabilities).argsort(kind="stable")
    return next((int(index) for index in order if index != target), None)


def _randomise(
    classifier: Classifier,
    modules: Sequence[str],
    above: Sequence[str],
    view: np.ndarray,
    target: int,
    seed: tuple,
) -> np.ndarray:
    """Draw a stage's weights until they speak for the target; return the logits, (classes,).

    Half of all draws make the logit negative. Then a rectified map shows nothing, and the logit
    itself may be none (SqueezeNet rectifies it). The draw that turns the signs round is as likely.

    ``above`` names all modules that are random, ``modules`` among them.
    """
    import torch

    from .randomisation import randomise, settle_norms

    model, picture = classifier.model, classifier.prepare_input(view[None])
    # Turned over too, since a norm after the pooling has nothing to norm in one picture.
    turned = torch.cat([picture, picture.flip(3), picture.flip(2), picture.flip(2, 3)])
    for attempt in range(ATTEMPTS):
        randomise(model, modules, *seed, attempt)
        settle_norms(model, above, turned)
        logits = _ask(model, picture)
        if logits[target] > 0:
            break
    return logits


def _ask(model, picture) -> np.ndarray:
    """Return the logits of one picture, float32, shape (classes,)."""
    import torch

    with torch.inference_mode():
        return model(picture)[0].float().cpu().numpy()


def _scale_logits(model, factor: float) -> None:
    model.register_forward_hook(lambda module, inputs, logits: logits * factor)


def _try(function: Callable, *arguments):
    """Return what a function returns, or as a text why that is not defined."""
    try:
        return function(*arguments)
    except UndefinedError as reason:
        return str(reason)


def _compare(own: Mapping, found: Mapping | str, test: str) -> tuple[float | None, str | None]:
    """Correlate an explanation with the one itself: the value, or None and the reason."""
    if isinstance(found, str):
        return None, found
    a, b = _try(rank_map, own), _try(rank_map, found)
    if isinstance(a, str):
        return None, f"the explanation itself: {a}"
    if isinstance(b, str):
        return None, f"{'explained again' if test == CASCADE else 'of the other class'}: {b}"
    return _SPEARMAN.compare(a, b), None


def summarise_sanity(rows: Iterable[Mapping], resamples: int = 2000, seed: int = 0) -> list[dict]:
    """Summarise over pictures, and judge.

    The cascade's last stage is judged by how much the size of ρ exceeds that of random maps, which
    is between -1 and 1, lower is better, and 0 for a method that keeps nothing: |value| - floor, a
    picture at a time. (The size, since a map that turns round is no less the picture's own; an
    edge detector under random signs is right half the time.) ``passed`` is True where the whole
    interval of the mean lies below :data:`MARGIN`, False where it lies above it.

    The other class is judged by the mean of ρ itself: True where the whole interval lies below
    :data:`SAME`, False where it lies above it.

    Where the limit lies within the interval, or fewer than :data:`LEAST` pictures have a value,
    there is no verdict but a reason. A verdict is of one model and of these pictures, and passing
    says that an explanation follows what was changed, not that it is right.

    Parameters
    ----------
    rows
        Of ``SANITY``.
    resamples, seed
        Of the percentile bootstrap over pictures (:func:`consilience.measures.bootstrap_mean`).

    Returns
    -------
    list of dict
        Rows of ``SANITY_SUMMARY``, by model, method, test and step.
    """
    groups = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["picture"]):
        # Every picture has another class of its own.
        stage = row["stage"] if row["test"] == CASCADE else "runner-up"
        groups[row["model"], row["method"], row["test"], row["step"], stage].append(row)
    last: dict[tuple, int] = {}
    for *of, step, _ in groups:
        last[*of] = max(step, last.get((*of,), 0))
    summary = []
    for model, method, test, step, stage in sorted(groups):
        group = groups[model, method, test, step, stage]
        scored = [row for row in group if row["value"] is not None]
        values = [row["value"] for row in scored]
        low, high = bootstrap_mean(values, resamples, seed)
        found = {
            "model": model,
            "method": method,
            "test": test,
            "step": step,
            "stage": stage,
            "n": len(values),
            "missing": len(group) - len(values),
            "mean": _mean(values),
            "low": low,
            "high": high,
            "floor": _mean([row["floor"] for row in scored]),
        }
        limit = SAME
        if test == CASCADE:
            limit, excess = MARGIN, [abs(row["value"]) - row["floor"] for row in scored]
            low, high = bootstrap_mean(excess, resamples, seed)
            found |= {"excess": _mean(excess), "excess_low": low, "excess_high": high}
        if test == CLASS or step == last[model, method, test] > 0:
            found |= _judge(len(values), low, high, limit)
        summary.append(found)
    return summary


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _judge(count: int, low: float | None, high: float | None, limit: float) -> dict:
    """Say whether an interval lies below a limit (passed) or above it, or why neither."""
    if count < LEAST:
        return {"passed": None, "reason": f"pictures with a value: {count}, needed: {LEAST}"}
    if high < limit:
        return {"passed": True}
    if low > limit:
        return {"passed": False}
    return {"passed": None, "reason": f"the limit {limit} lies within {low:.2f} to {high:.2f}"}

"""What a neuron responds to, found by changing one factor of a rendered picture at a time.

CLIP-Dissect names a neuron by the pictures that activate it. In the rendered world it can be asked
what activates it: each scene is rendered again with every object, every scene and every colour in
turn, all else unchanged. That is a randomised experiment with every base picture as its own
control, and needs no CLIP.

A concept is a *true* one of a neuron if that value of its factor raises the response, not by
chance, and explains enough of the response's variance (:func:`find_truth`). A neuron can have
several, or none. That one value *lowers* it makes no concept: dissection is about what activates.

The control are planted neurons, whose truth is known by construction (:func:`plan_neurons`): the
experiment must find it, and so must dissection, which meets them beside the real ones.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from . import world
from .calibration import adjust
from .errors import ConsilienceError
from .measures import make_rng

FACTORS: dict[str, tuple[str, ...]] = {
    "object": world.OBJECTS,
    "scene": world.SCENES,
    "colour": world.COLOURS,
}
"""What is changed, and the values that each factor takes."""

WORDS = tuple(word for values in FACTORS.values() for word in values)

STREAM = "causal"
"""Stream of the world's pictures that the experiment is made on: nothing else sees them."""

LEAST = 0.05
"""Share of a response's variance that a value explains at least to be a true concept."""

OF_GREATEST = 0.5
"""Share of what the neuron's first concept explains, that another explains at least."""

SIGNIFICANCE = 0.05

CONSTANT = 1e-12
"""Variance, in units of the squared mean, below which a response does not vary."""

SINGLE, PAIR, RANDOM = "single", "or", "random"

PLANTED = "planted"
"""What stands for the layer of planted neurons in the table ``CAUSAL``."""

COPIES = 2
"""Planted neurons that each word has; and so many pairs begin with it."""

RANDOMS = 60

NOISE = 0.25
"""Standard deviation of the noise on a planted neuron, which is 1 on its concept and 0 else."""


# ------------------------------------------------------------------------------------------------
# The experiment


def sample_bases(seed: int, count: int, clutter: Sequence[int]) -> dict[str, world.Picture]:
    """Return the pictures that the experiment changes by name, levels of clutter in turn."""
    return {
        f"{STREAM}-{index:05d}": world.sample_picture(
            seed, STREAM, index, clutter[index % len(clutter)]
        )
        for index in range(count)
    }


def swap_factors(picture: world.Picture) -> dict[tuple[str, str], world.Picture]:
    """Return the picture with each value of each factor, by factor and value.

    One value of each is the picture's own: that one is the picture itself.
    """
    return {
        (factor, value): replace(picture, **{factor: value})
        for factor, values in FACTORS.items()
        for value in values
    }


def render_swaps(
    bases: Mapping[str, world.Picture], size: int
) -> Iterator[tuple[str, list[tuple[str, str]], np.ndarray]]:
    """Render every picture of the experiment once.

    Yields
    ------
    tuple
        The base's name, the factors and values that the picture stands for, and the picture:
        uint8, shape (size, size, 3).
    """
    for name, picture in bases.items():
        stands_for = defaultdict(list)
        for key, changed in swap_factors(picture).items():
            stands_for[changed].append(key)
        for changed, keys in stands_for.items():
            yield name, keys, world.render(changed, size).image


def measure_responses(
    bases: Mapping[str, world.Picture],
    size: int,
    record: Callable[[Iterable[tuple[str, object]]], Iterable[Mapping]],
) -> Iterator[dict]:
    """Ask a model about every picture of the experiment.

    Parameters
    ----------
    bases
        Of :func:`sample_bases`.
    size
        Side of the rendered pictures, pixels.
    record
        Takes names and pictures (PIL) and gives rows of the table ``ACTIVATIONS``, picture by
        picture: :func:`consilience.activations.extract_activations` with all else given.

    Yields
    ------
    dict
        Rows of the table ``RESPONSES``.
    """
    from PIL import Image

    waiting: dict[str, list[tuple[str, str, str]]] = {}

    def show() -> Iterator[tuple[str, object]]:
        for number, (base, keys, image) in enumerate(render_swaps(bases, size)):
            waiting[str(number)] = [(base, *key) for key in keys]
            yield str(number), Image.fromarray(image)

    for row in record(show()):
        for base, factor, value in waiting[row["picture"]]:
            about = {"base": base, "factor": factor, "value": value}
            yield about | {"layer": row["layer"], "values": row["values"]}


def stack_responses(rows: Iterable[Mapping]) -> dict[str, dict[str, np.ndarray]]:
    """Stack rows of the table ``RESPONSES``.

    Returns
    -------
    dict
        By layer and factor: float64, shape (bases, values, neurons); bases sorted, values in the
        order of :data:`FACTORS`.

    Raises
    ------
    ConsilienceError
        If a picture of the experiment is missing.
    """
    found: dict[tuple[str, str], dict[tuple[str, str], np.ndarray]] = defaultdict(dict)
    for row in rows:
        found[row["layer"], row["factor"]][row["base"], row["value"]] = row["values"]
    stacked: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for (layer, factor), responses in found.items():
        bases = sorted({base for base, _ in responses})
        keys = [(base, value) for base in bases for value in FACTORS[factor]]
        if missing := [key for key in keys if key not in responses]:
            raise ConsilienceError(
                f"layer {layer!r}: no response to {missing[0][0]} with the {factor} "
                f"{missing[0][1]!r}; delete the responses and run again"
            )
        values = np.stack([np.asarray(responses[key], dtype=np.float64) for key in keys])
        stacked[layer][factor] = values.reshape(len(bases), len(FACTORS[factor]), -1)
    return dict(stacked)


@dataclass(frozen=True, eq=False)
class Effects:
    """What the values of one factor do to neurons.

    Attributes
    ----------
    variance
        Of the responses over the experiment's pictures, shape (neurons,).
    explained
        Variance that the factor explains, shape (neurons,).
    of_value
        Variance that each value explains, alone against all others of its factor, where it raises
        the response; 0 where it does not. Shape (values, neurons).
    p
        Of the test that it does not raise it, one-sided, shape (values, neurons).
    """

    variance: np.ndarray
    explained: np.ndarray
    of_value: np.ndarray
    p: np.ndarray

    @classmethod
    def of(cls, responses: np.ndarray) -> Effects:
        """Take them from responses, shape (bases, values, neurons); two bases at least.

        The analysis of variance of values crossed with bases. What the values explain is unbiased:
        the part that differences between bases alone would give is taken away, and what is then
        below 0 is 0. The test is the t test of each base's own difference between the value and
        the mean of all.
        """
        bases, values, _ = responses.shape
        if bases < 2:
            raise ConsilienceError("the causal truth of neurons takes two base pictures at least")
        own = responses - responses.mean(axis=1, keepdims=True)  # each base its own control
        effect = own.mean(axis=0)
        noise = ((own - effect) ** 2).sum(axis=(0, 1)) / ((bases - 1) * (values - 1))
        variance = responses.var(axis=(0, 1))
        explained = (effect**2).mean(axis=0) - noise * (values - 1) / (values * bases)
        # Value v against the others: a share 1 / V of pictures, at a distance of V / (V - 1) times
        # its effect, which makes effect² / (V - 1).
        of_value = effect**2 - noise * (values - 1) / (values * bases)
        of_value = np.where(effect > 0, np.maximum(of_value, 0), 0) / (values - 1)
        error = own.std(axis=0, ddof=1) / np.sqrt(bases)
        certain = np.where(effect > 0, np.inf, 0.0)  # the same on every base
        t = np.divide(effect, error, out=certain, where=error > 0)
        return cls(variance, np.maximum(explained, 0), of_value, stats.t.sf(t, bases - 1))


def find_truth(
    responses: Mapping[str, np.ndarray],
    least: float = LEAST,
    significance: float = SIGNIFICANCE,
) -> list[dict]:
    """Find the true concepts of neurons.

    A value is a true concept if

    - it raises the response (q-value by Benjamini and Hochberg over all neurons and values);
    - it explains at least ``least`` of the response's variance, alone against the other values of
      its factor. A neuron that is 1 on k of 10 objects, and on nothing else, gets 1 / k for k = 1,
      .44 for two, .11 for five;
    - and at least half of what the neuron's first concept explains.

    Parameters
    ----------
    responses
        By factor, float64, shape (bases, values, neurons), as :func:`stack_responses` gives them.
    least, significance
        See above.

    Returns
    -------
    list of dict
        Rows of the table ``CAUSAL`` without ``model``, ``layer``, ``planted`` and
        ``planted_concepts``, a neuron each in their order; concepts by what they explain, the
        greatest first. A neuron whose responses do not vary, or are not finite, has its status and
        no concept.
    """
    effects = {
        factor: Effects.of(np.where(np.isfinite(found), found, 0))
        for factor, found in responses.items()
    }
    finite = np.all([np.isfinite(found).all(axis=(0, 1)) for found in responses.values()], axis=0)
    size = np.max([np.abs(found).max(axis=(0, 1)) for found in responses.values()], axis=0)
    # Each factor's grid is a sample of the same pictures.
    variance = np.mean([found.variance for found in effects.values()], axis=0)
    varies = finite & (variance > CONSTANT * np.where(finite, size, 1) ** 2)
    scale = np.where(varies, variance, 1)
    shares = np.concatenate([effects[factor].of_value for factor in FACTORS]) / scale
    p = np.concatenate([effects[factor].p for factor in FACTORS])
    q = np.ones_like(p)
    if varies.any():
        q[:, varies] = adjust(p[:, varies].ravel()).reshape(-1, varies.sum())
    chosen = (q <= significance) & (shares >= least) & varies
    chosen &= shares >= OF_GREATEST * np.where(chosen, shares, 0).max(axis=0)
    rows = []
    for unit in range(len(variance)):
        order = [n for n in np.argsort(-shares[:, unit], kind="stable") if chosen[n, unit]]
        factor_shares = {
            f"{factor}_share": float(effects[factor].explained[unit] / scale[unit])
            if varies[unit]
            else None
            for factor in FACTORS
        }
        rows.append(
            {
                "unit": unit,
                "status": "ok" if varies[unit] else "constant" if finite[unit] else "not-finite",
                "concepts": [WORDS[n] for n in order],
                "shares": [float(shares[n, unit]) for n in order],
                **factor_shares,
            }
        )
    return rows


# ------------------------------------------------------------------------------------------------
# Planted neurons


@dataclass(frozen=True)
class PlantedNeuron:
    """A neuron whose truth is known.

    Attributes
    ----------
    kind
        ``single`` responds to one word, ``or`` to either of two, ``random`` to nothing.
    concepts
        The words.
    """

    kind: str
    concepts: tuple[str, ...]


def plan_neurons(seed: int) -> list[PlantedNeuron]:
    """Return the planted neurons: singles of every word, pairs that begin with every word, randoms.

    The second word of a pair is drawn from all others, so that some pairs lie within a factor and
    some across.
    """
    rng = make_rng(seed, PLANTED, "plan")
    singles = [PlantedNeuron(SINGLE, (word,)) for word in WORDS for _ in range(COPIES)]
    pairs = []
    for word in WORDS:
        others = [other for other in WORDS if other != word]
        for place in rng.choice(len(others), COPIES, replace=False):
            pairs.append(PlantedNeuron(PAIR, (word, others[place])))
    return [*singles, *pairs, *[PlantedNeuron(RANDOM, ())] * RANDOMS]


def respond(
    neurons: Sequence[PlantedNeuron], shown: Iterable[str | None], seed: int, *name: str
) -> np.ndarray:
    """Return the responses of planted neurons to a picture.

    Parameters
    ----------
    neurons
        Of :func:`plan_neurons`.
    shown
        Object, scene and colour of the picture.
    seed, name
        What the noise depends on.

    Returns
    -------
    numpy.ndarray
        float32, shape (neurons,).
    """
    shown = set(shown)
    signal = np.array([bool(shown & set(neuron.concepts)) for neuron in neurons], dtype=np.float64)
    noise = make_rng(seed, PLANTED, *name).standard_normal(len(neurons))
    return np.float32(signal + NOISE * noise)


def add_planted(
    activations: Iterable[Mapping],
    pictures: Iterable[Mapping],
    layers: Sequence[str],
    seed: int,
) -> Iterator[dict]:
    """Put planted neurons beside those of recorded layers.

    Parameters
    ----------
    activations
        Rows of the table ``ACTIVATIONS``.
    pictures
        Rows of ``PICTURES`` of the rendered world.
    layers
        Layers that get them; the others are passed over.
    seed
        Of the plan and the noise, which is drawn for each layer anew.

    Yields
    ------
    dict
        Rows of ``ACTIVATIONS`` whose units from the layer's own on are the planted neurons.

    Raises
    ------
    ConsilienceError
        If it is not known what a picture shows.
    """
    neurons = plan_neurons(seed)
    shown = {row["name"]: [row[factor] for factor in FACTORS] for row in pictures}
    for row in activations:
        if row["layer"] not in layers:
            continue
        name = row["picture"]
        if name not in shown or shown[name][1] is None:
            raise ConsilienceError(
                f"probe picture {name!r}: what it shows is not known; neurons can be planted in "
                "pictures of the rendered world only"
            )
        own = respond(neurons, shown[name], seed, name, row["layer"])
        yield row | {"values": np.concatenate([np.float32(row["values"]), own])}


def respond_to_swaps(
    neurons: Sequence[PlantedNeuron], bases: Mapping[str, world.Picture], seed: int
) -> dict[str, np.ndarray]:
    """Return what planted neurons answer to the experiment, as :func:`find_truth` takes it."""
    found = {}
    for factor, values in FACTORS.items():
        answers = [
            respond(
                neurons, [getattr(changed, name) for name in FACTORS], seed, base, factor, value
            )
            for base in sorted(bases)
            for value in values
            for changed in [replace(bases[base], **{factor: value})]
        ]
        found[factor] = np.float64(answers).reshape(len(bases), len(values), -1)
    return found


def find_planted_truth(
    bases: Mapping[str, world.Picture], seed: int, least: float = LEAST
) -> list[dict]:
    """Find the true concepts of the planted neurons by the same experiment.

    Returns
    -------
    list of dict
        Rows of the table ``CAUSAL`` without ``model``.
    """
    neurons = plan_neurons(seed)
    rows = find_truth(respond_to_swaps(neurons, bases, seed), least)
    return [
        row
        | {
            "layer": PLANTED,
            "planted": neuron.kind,
            "planted_concepts": list(neuron.concepts),
        }
        for neuron, row in zip(neurons, rows, strict=True)
    ]


# ------------------------------------------------------------------------------------------------
# Dissection against the truth


NEURONS, LABELLED, STANDING = "neurons", "all", "stands"


def judge_labels(
    labels: Iterable[Mapping], truth: Iterable[Mapping], similarity: str, planted: bool = False
) -> list[dict]:
    """Hold labels of neurons against the causal truth.

    Of the labels that count (all of them, or those that stand), *precision* is the share that are
    among their neuron's true concepts; *recall* is the share, of the neurons that have a true
    concept, that get one of theirs; and *false labels* is the share, of the neurons that have none,
    that get a label all the same.

    Parameters
    ----------
    labels
        Rows of the table ``NEURONS`` of one similarity. Units beyond a layer's own are planted.
    truth
        Rows of the table ``CAUSAL`` of the same models. Planted neurons are held against what was
        planted, the others against what the experiment found.
    similarity
        Its name.
    planted
        Whether planted neurons are judged, or the layers' own.

    Returns
    -------
    list of dict
        Rows of the table ``DISSECTION_TRUTH``, by model, layer, group (the layer's own neurons, or
        a kind of planted ones) and labels that count. Neurons that do not vary on the probe
        pictures or in the experiment are left out.

    Raises
    ------
    ConsilienceError
        If a neuron has a label and no truth.
    """
    known = {(row["model"], row["layer"], row["unit"]): row for row in truth}
    width = Counter((model, layer) for model, layer, _ in known)
    groups: dict[tuple, list[tuple[Mapping, list[str]]]] = defaultdict(list)
    for row in labels:
        place = row["model"], row["layer"]
        unit, layer = row["unit"], row["layer"]
        if (unit >= width[place]) != planted:
            continue
        if planted:
            unit, layer = unit - width[place], PLANTED
        found = known.get((row["model"], layer, unit))
        if found is None:
            raise ConsilienceError(
                f"{row['model']}, layer {row['layer']!r}, unit {row['unit']}: is labelled, but its "
                "causal truth was not looked for; delete the benchmark's results and run again"
            )
        if row["status"] == "ok" and found["status"] == "ok":
            concepts = found["concepts"] if found["planted"] is None else found["planted_concepts"]
            groups[*place, found["planted"] or NEURONS].append((row, concepts))
    judged = []
    for (model, layer, group), pairs in groups.items():
        for selection in (LABELLED, STANDING):
            about = {"model": model, "layer": layer, "group": group, "similarity": similarity}
            judged.append(about | {"labels": selection} | _count(pairs, selection == STANDING))
    return judged


def _count(pairs: Sequence[tuple[Mapping, list[str]]], standing: bool) -> dict:
    """Count the labels of a group of neurons."""
    counted = [(row, truth) for row, truth in pairs if row["stands"] or not standing]
    right = sum(row["concept"] in truth for row, truth in counted)
    having = sum(bool(truth) for _, truth in pairs)
    false = sum(not truth for _, truth in counted)
    said = Counter(row["concept"] for row, _ in counted)
    # What labels dealt out anew among the same neurons would get.
    dealt = sum(said[word] for _, truth in counted for word in truth)
    found = {
        "neurons": len(pairs),
        "with_truth": having,
        "counted": len(counted),
        "right": right,
        "chance": dealt / len(counted) ** 2 if counted else None,
    }
    for name, part, whole in (
        ("precision", right, len(counted)),
        ("recall", right, having),
        ("false_labels", false, len(pairs) - having),
    ):
        share, low, high = share_of(part, whole)
        found |= {name: share, f"{name}_low": low, f"{name}_high": high}
    return found


def share_of(part: int, whole: int) -> tuple[float, float, float] | tuple[None, None, None]:
    """Return a share with its 95 % interval (Wilson 1927), or nothing of nothing."""
    if not whole:
        return None, None, None
    interval = stats.binomtest(part, whole).proportion_ci(0.95, "wilson")
    return part / whole, float(interval.low), float(interval.high)

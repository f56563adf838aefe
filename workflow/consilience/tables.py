"""Schemas and I/O of every table that passes between steps.

A table is a Parquet file with one of the schemas below. Files are written whole or not at all
(a temporary file in the same folder, then a rename) and carry no time, so that the same rows give
the same bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .errors import ConsilienceError, printable
from .files import write_atomically

_text = pa.string()
_index = pa.int32()
_real = pa.float64()
_single = pa.float32()


def _schema(**columns: pa.DataType | tuple[pa.DataType, bool]) -> pa.Schema:
    """Build a schema; a type is required unless given as ``(type, True)``, which allows nulls."""
    fields = []
    for name, spec in columns.items():
        kind, nullable = spec if isinstance(spec, tuple) else (spec, False)
        fields.append(pa.field(name, kind, nullable=nullable))
    return pa.schema(fields)


def _optional(kind: pa.DataType) -> tuple[pa.DataType, bool]:
    return (kind, True)


PICTURES = _schema(
    # Unique in the study: the path below its folder, or the world's own name for the picture.
    name=_text,
    # SHA-256 of the encoded picture; null when its file could not be read.
    sha256=_optional(_text),
    # As in Hugging Face's `Image` feature: the encoded file itself, or where it lies.
    image=pa.struct([pa.field("bytes", pa.binary()), pa.field("path", _text)]),
    # Pixels; null when the picture did not decode.
    width=_optional(_index),
    height=_optional(_index),
    # Why the picture cannot be used; null for a good one.
    error=_optional(_text),
    # What is known of it. The world knows everything, a folder of photographs nothing.
    object=_optional(_text),
    scene=_optional(_text),
    colour=_optional(_text),
    caption=_optional(_text),
    # Clutter level, and the name shared by one base picture rendered at several levels.
    clutter=_optional(_index),
    base=_optional(_text),
    # PNG, mode L, the picture's size: 255 where the object is seen; where it would be seen if
    # nothing lay in front of it; and the index (from 1) of the distractor seen there, else 0.
    mask_visible=_optional(pa.binary()),
    mask_whole=_optional(pa.binary()),
    distractor_map=_optional(pa.binary()),
    # Class of distractor 1, 2, …
    distractors=_optional(pa.list_(_text)),
    # How many of the candidates it was drawn from it stands for; null where none was drawn.
    weight=_optional(_real),
)
"""One row a picture: a study's pictures, or the probe set."""

ACCURACY = _schema(
    model=_text,
    # What is told apart: object, scene or colour.
    target=_text,
    # Clutter level of the held-out pictures; null: all levels that occur in training.
    clutter=_optional(_index),
    pictures=_index,
    correct=_index,
    accuracy=_real,
)
"""Held-out accuracy of a trained classifier, or zero-shot accuracy of the trained CLIP."""

ACTIVATIONS = _schema(picture=_text, layer=_text, values=pa.list_(_single))
"""One row a picture and layer: the layer's spatially pooled output, float32, one value a unit."""

EMBEDDINGS = _schema(key=_text, values=pa.list_(_single))
"""One row a picture name or concept: its CLIP embedding, float32, unit length."""

NEURONS = _schema(
    model=_text,
    layer=_text,
    unit=_index,
    # ok, or why the neuron has no label: constant, not-finite (its activations over the probe
    # pictures), undefined (its similarity to every concept).
    status=_text,
    # This and what follows is null, and the pictures are none, where the neuron has no label.
    concept=_optional(_text),
    # Value of the similarity function; comparable within one layer of one model only.
    similarity=_optional(_real),
    # The five most similar concepts, the label first, the runner-up second; and how much more
    # similar the label is than the runner-up (null where there is one concept only).
    candidates=pa.list_(_text),
    margin=_optional(_real),
    # Place of the neuron among its layer's by similarity, 0 the most similar.
    rank=_optional(_index),
    # Whether the word is one that never occurs in the world; null where that is not known.
    absent=_optional(pa.bool_()),
    # Probability of so great a similarity to any concept were the neuron independent of the
    # pictures, and the same adjusted over the layer (Benjamini and Hochberg).
    p_value=_optional(_real),
    q_value=_optional(_real),
    # Whether the label fits better than an untrained network's neurons would make one expect.
    beats_untrained=_optional(pa.bool_()),
    # How well the label's cosines tell the held-out pictures that activate the neuron most from
    # the others, with a 95 % interval; and the same of the runner-up.
    auroc=_optional(_real),
    auroc_low=_optional(_real),
    auroc_high=_optional(_real),
    runner_up_auroc=_optional(_real),
    # Whether the label is the same from either half of the pictures, and when half of the other
    # concepts are left out.
    stable_pictures=_optional(pa.bool_()),
    stable_concepts=_optional(pa.bool_()),
    # Whether the label stands, and else what speaks against it: chance, untrained, held-out. Null
    # where not all three could be asked.
    stands=_optional(pa.bool_()),
    doubts=pa.list_(_text),
    # Names of the pictures that activate the neuron most, the strongest first.
    top_pictures=pa.list_(_text),
)
"""One row a neuron: the concept that labels it."""

RESAMPLED = _schema(
    model=_text,
    layer=_text,
    unit=_index,
    # For each resample of the probe pictures the place of the neuron's label in the list of
    # concepts, -1 where it has none.
    concepts=pa.list_(_index),
)
"""One row a neuron: its labels under resampling of the probe pictures."""

TEMPERATURE = _schema(
    model=_text,
    layer=_text,
    # Inverse temperature of the softmax over concepts.
    a=_real,
    # Neurons labelled; and of these the share labelled with an absent word of the half that a is
    # chosen on, and of the half that is left for reporting.
    labelled_neurons=_index,
    share_chosen_on=_real,
    share_reported=_real,
    # Whether this is the value that the study uses.
    chosen=pa.bool_(),
)
"""One row a model, layer and candidate for the temperature."""

CONCEPTS = _schema(
    model=_text,
    layer=_text,
    concept=_text,
    neurons=_index,
    # Of the layer's neurons, in [0, 1].
    share=_real,
    absent=_optional(pa.bool_()),
)
"""One row a concept that labels at least one neuron of a layer, the most frequent first."""

COMPARISON = _schema(
    layer=_text,
    # One model for a property of its own; two for what they share.
    model_a=_text,
    model_b=_optional(_text),
    metric=_text,
    # Of concepts, where the metric is share_category, category_difference or (of the world's own
    # kinds) share_kind; null for every other metric.
    category=_optional(_text),
    value=_optional(_real),
    # 95 % percentile interval over resamples of the probe pictures; null where there are none.
    low=_optional(_real),
    high=_optional(_real),
    # Why the value is missing.
    reason=_optional(_text),
)
"""Long form. What the models learned, a layer at a time."""

PREDICTIONS = _schema(
    model=_text,
    picture=_text,
    # How the class that is explained was chosen: predicted, labelled, given, or top-<n>.
    target=_text,
    target_index=_index,
    target_class=_text,
    target_probability=_real,
    predicted_index=_index,
    predicted_class=_text,
    predicted_probability=_real,
    label_index=_optional(_index),
    label_class=_optional(_text),
    correct=_optional(pa.bool_()),
)
"""One row a model, picture and target: what the model says, and which class is explained.

Of the target ``top-<n>`` a picture has n rows in succession, the likeliest class first.
"""

VIEWS = _schema(
    model=_text,
    picture=_text,
    height=_index,
    width=_index,
    # PNG: the picture as the model sees it (resized and cropped), RGB.
    view=pa.binary(),
    # PNG, mode L, in the same geometry, 255 inside; null where no mask is known.
    mask_visible=_optional(pa.binary()),
    mask_whole=_optional(pa.binary()),
    # PNG, mode L, likewise: the index (from 1) of the distractor seen there, else 0.
    distractor_map=_optional(pa.binary()),
    # Left, top, right, bottom of the view in pixels of the original picture.
    box=pa.list_(_real),
)
"""One row a model and picture: the geometry that heatmaps, superpixels and masks share."""

HEATMAPS = _schema(
    model=_text,
    picture=_text,
    method=_text,
    layer=_text,
    target_index=_index,
    target_class=_text,
    # Row-major, at the layer's own resolution; not rectified, in units of the method.
    layer_height=_index,
    layer_width=_index,
    layer_map=pa.list_(_single),
    # Row-major, in the geometry of what the model saw, in [0, 1]: the library's own output.
    height=_index,
    width=_index,
    heatmap=pa.list_(_single),
    # ok, or what is degenerate: zero, constant, nan.
    status=_text,
)
"""One row a model, picture, target and CAM method, in the order of ``PREDICTIONS``."""

LIME = _schema(
    model=_text,
    picture=_text,
    target_index=_index,
    target_class=_text,
    # Row-major superpixel of every pixel of what the model saw, 0 … segments - 1.
    height=_index,
    width=_index,
    segment_map=pa.list_(_index),
    segments=_index,
    # Weight of each superpixel in the local linear model, per unit of probability.
    weights=pa.list_(_real),
    intercept=_real,
    # Weighted R² of the local fit, at most 1.
    r2=_real,
    # What the local linear model says of the unperturbed picture, and what the model says.
    local_prediction=_real,
    model_probability=_real,
    num_samples=_index,
    segmentation_seed=_index,
    perturbation_seed=_index,
    # ok, or what is degenerate: one-superpixel, constant (all weights equal), nan.
    status=_text,
)
"""One row a model, picture and target."""

THUMBNAILS = _schema(
    model=_text,
    picture=_text,
    # The class that is explained; null for what belongs to all: the picture and its mask.
    target_index=_optional(_index),
    # picture, mask, lime or a CAM method.
    shows=_text,
    # Of a CAM.
    layer=_optional(_text),
    # WebP and its size in pixels; null where the explanation is degenerate.
    image=_optional(pa.binary()),
    height=_optional(_index),
    width=_optional(_index),
    # WebP of a heatmap's colours alone, to be laid over the picture.
    heat=_optional(pa.binary()),
    # Where in the picture it is highest, or the mask's middle lies, in words.
    place=_optional(_text),
    # Of the mask, as a share of the picture.
    area=_optional(_real),
)
"""What the report's gallery shows: one row a picture of it."""

LIME_STABILITY = _schema(
    model=_text,
    picture=_text,
    target_index=_index,
    target_class=_text,
    # Whose seeds the repeats changed: perturbation, or segmentation and perturbation.
    varied=_text,
    # kendall-tau (of the weights) or iou (of the top regions); 1 is full agreement.
    measure=_text,
    # Runs beside the explanation itself.
    repeats=_index,
    # One value each two runs, none where they have no value.
    values=pa.list_(_real),
    # Of the values: the mean is the reliability of one run.
    mean=_optional(_real),
    lowest=_optional(_real),
    highest=_optional(_real),
    # What unrelated explanations score.
    chance=_real,
    # Why the values are missing.
    reason=_optional(_text),
)
"""Long form. How far LIME agrees with itself, a row a model, picture, target and measure."""

LIME_REPEATS = _schema(
    model=_text,
    picture=_text,
    target_index=_index,
    target_class=_text,
    # 1, 2, …; the explanation itself is in the table ``LIME``.
    run=_index,
    perturbation_seed=_index,
    # On the superpixels of the explanation itself.
    weights=pa.list_(_real),
    r2=_real,
)
"""One row a model, picture, target and repeat of LIME with other seeds of the perturbations."""

AGREEMENT = _schema(
    model=_text,
    picture=_text,
    target_index=_index,
    target_class=_text,
    method_a=_text,
    method_b=_text,
    # Null: the two explanations themselves. Else what the row is to be read against: a floor, the
    # mean agreement of each of the two with what stands in for the other (random-smooth,
    # other-picture, centre, edges); or the ceiling that the methods' own reliabilities set.
    control=_optional(_text),
    metric=_text,
    value=_optional(_real),
    # What unrelated explanations score by the measure's definition alone.
    chance=_optional(_real),
    reason=_optional(_text),
)
"""Long form. Each two explanations of one picture and target; a missing value has its reason."""

AGREEMENT_SUMMARY = _schema(
    model=_text,
    method_a=_text,
    method_b=_text,
    # Whether exactly one method is LIME: two CAMs share their activations.
    independent=pa.bool_(),
    metric=_text,
    # Of the pictures; null for photographs, whose clutter is not known.
    clutter=_optional(_index),
    # Pictures with a value, and pictures whose value is undefined.
    n=_index,
    missing=_index,
    # Of the n values; null where n is 0.
    mean=_optional(_real),
    median=_optional(_real),
    # 95 % percentile bootstrap interval of the mean, over pictures; null where n is below 2.
    low=_optional(_real),
    high=_optional(_real),
    # Mean of the chance values of the n pictures.
    chance=_optional(_real),
    # Mean of each floor over the pictures where it is defined, and the highest of them by name.
    random_smooth=_optional(_real),
    other_picture=_optional(_real),
    centre=_optional(_real),
    edges=_optional(_real),
    floor=_optional(_text),
    # Mean of the ceiling.
    ceiling=_optional(_real),
    # (mean - highest floor) / (ceiling - highest floor), of the pictures where all are defined,
    # with the interval of the same resamples; null where the ceiling is not above the floor.
    relative=_optional(_real),
    relative_low=_optional(_real),
    relative_high=_optional(_real),
    # Why there is no relative value.
    reason=_optional(_text),
)
"""One row a model, pair of methods, metric and clutter level, of each picture's first target."""

LOCALIZATION = _schema(
    model=_text,
    picture=_text,
    target_index=_index,
    target_class=_text,
    method=_text,
    # What the mask is of: object; distractor, which a wrong prediction names; or scene, all that
    # neither the object nor a distractor covers.
    truth=_text,
    metric=_text,
    value=_optional(_real),
    # What a map without regard to the mask scores.
    chance=_optional(_real),
    # The mask's share of the area.
    area=_optional(_real),
    # Whether what the mask is of was shown to matter to the target's logit; null where not asked.
    matters=_optional(pa.bool_()),
    reason=_optional(_text),
)
"""Long form. Each explanation against the exact mask; a missing value has its reason."""

LOCALIZATION_SUMMARY = _schema(
    model=_text,
    method=_text,
    truth=_text,
    metric=_text,
    # Of the pictures; null for photographs, whose clutter is not known.
    clutter=_optional(_index),
    # Whether only pictures count whose object was shown to matter.
    causal=pa.bool_(),
    # Pictures with a value, and pictures whose value is undefined.
    n=_index,
    missing=_index,
    # Of the n values; null where n is 0.
    mean=_optional(_real),
    median=_optional(_real),
    # 95 % percentile bootstrap interval of the mean, over pictures; null where n is below 2.
    low=_optional(_real),
    high=_optional(_real),
    # Mean of the chance values of the n pictures.
    chance=_optional(_real),
)
"""One row a model, method, truth, metric and clutter level, of each picture's first target."""

EFFECTS = _schema(
    model=_text,
    picture=_text,
    target_index=_index,
    target_class=_text,
    # What was changed in the picture: without-object, other-scene, without-distractor.
    change=_text,
    # The target's logit and probability before and after.
    logit=_real,
    changed_logit=_real,
    probability=_real,
    changed_probability=_real,
    # Class that is predicted after the change.
    changed_class=_text,
)
"""One row a model, picture, target and change: what the picture's parts do to the logit."""

FAITHFULNESS = _schema(
    model=_text,
    picture=_text,
    target_index=_index,
    target_class=_text,
    method=_text,
    # deletion, insertion, road, average-drop, increase.
    metric=_text,
    # What replaces a pixel: mean, blur; linear (ROAD's imputation); black (average drop).
    fill=_text,
    # The score, and the mean score of random orders at the method's own resolution.
    value=_optional(_real),
    random=_optional(_real),
    # How much better than random, the sign such that higher is more faithful.
    difference=_optional(_real),
    # The target's probability after each step, from none to all; none where there is one number.
    curve=pa.list_(_single),
    random_curve=pa.list_(_single),
    reason=_optional(_text),
)
"""Long form. How much each explanation's order of pixels moves the model, beside a random order."""

FAITHFULNESS_SUMMARY = _schema(
    model=_text,
    method=_text,
    metric=_text,
    fill=_text,
    clutter=_optional(_index),
    n=_index,
    missing=_index,
    # Of the n paired differences from a random order; null where n is 0.
    mean=_optional(_real),
    median=_optional(_real),
    low=_optional(_real),
    high=_optional(_real),
    # Means of the score itself and of the random order's.
    value=_optional(_real),
    random=_optional(_real),
)
"""One row a model, method, metric, fill and clutter level, of each picture's first target."""

SANITY = _schema(
    model=_text,
    picture=_text,
    target_index=_index,
    target_class=_text,
    method=_text,
    # cascade: weights randomised from the top down to a stage; class: another class explained.
    test=_text,
    # Place in the cascade (from 0: nothing randomised), and the lowest module that is random; for
    # the test of the class 0 and the other class's name.
    step=_index,
    stage=_text,
    # Spearman's rank correlation over pixels with the explanation itself.
    value=_optional(_real),
    # Mean size of the same for random maps smooth at the method's own resolution.
    floor=_optional(_real),
    reason=_optional(_text),
)
"""Long form. Explanations under randomised weights (Adebayo et al. 2018), and of another class."""

SANITY_SUMMARY = _schema(
    model=_text,
    method=_text,
    test=_text,
    step=_index,
    stage=_text,
    n=_index,
    missing=_index,
    mean=_optional(_real),
    low=_optional(_real),
    high=_optional(_real),
    floor=_optional(_real),
    # Of the cascade, how much further from 0 than random maps: mean of |value| - floor, with its
    # interval. The cascade is judged by it, since a map that turns round is still the picture's.
    excess=_optional(_real),
    excess_low=_optional(_real),
    excess_high=_optional(_real),
    # Whether the explanation follows what was changed: of the cascade's last stage, whether it is
    # as unlike as random maps are; of the class, whether it differs at all. Null elsewhere, and
    # where too few values are there to tell.
    passed=_optional(pa.bool_()),
    reason=_optional(_text),
)
"""One row a model, method, test and stage, over pictures."""

QUESTIONS = _schema(
    question=_text,
    # primary: fixed beforehand, in the family that Holm's correction is over; or exploratory.
    role=_text,
    model=_text,
    # What is estimated, in words; its estimate and interval, and how the interval was made.
    estimand=_text,
    estimate=_optional(_real),
    low=_optional(_real),
    high=_optional(_real),
    interval=_text,
    # Independent units (base pictures) and values.
    bases=_index,
    values=_index,
    # Of primaries only: the test's name, its p-value, and that adjusted by Holm.
    test=_optional(_text),
    p_value=_optional(_real),
    p_holm=_optional(_real),
    # The smallest effect that would have been found with power 0.8 at level 0.05.
    detectable=_optional(_real),
    reason=_optional(_text),
)
"""One row a question and model: the statistics of the study."""

CORRECTNESS = _schema(
    model=_text,
    # prediction (the class is right) or localization (IoU with the mask of 0.5 or more).
    correct=_text,
    # What predicts it: top-probability, agreement, or both together; or added, whose auroc is that
    # of both minus that of top-probability.
    predictor=_text,
    # all; within-clutter, within-area: pairs of one stratum only.
    stratum=_text,
    # Pictures of strata that hold both.
    right=_index,
    wrong=_index,
    auroc=_optional(_real),
    low=_optional(_real),
    high=_optional(_real),
    reason=_optional(_text),
)
"""One row a model, kind of correctness, predictor and stratum."""

CLAIMS = _schema(
    claim=_text,
    # What the claim says; the number it is judged by; the smallest effect that would matter; the
    # rule, in words.
    says=_text,
    estimand=_text,
    smallest_effect=_optional(_real),
    rule=_text,
    estimate=_optional(_real),
    low=_optional(_real),
    high=_optional(_real),
    bases=_optional(_index),
    # supported, contradicted, inconclusive, not testable here.
    verdict=_text,
    reason=_optional(_text),
)
"""One row a claim of the original study."""


AUDIT = _schema(
    # The model that the planted explanations are of: planted, whose reasons are known.
    model=_text,
    picture=_text,
    base=_text,
    # agreement, faithfulness or localization; the metric and, of faithfulness, the fill.
    family=_text,
    metric=_text,
    fill=_optional(_text),
    # score: as published; against random: the paired difference from random orders.
    reading=_text,
    # Which planted explanation.
    explanation=_text,
    # Higher is better: of metrics where lower is better with the sign turned.
    value=_optional(_real),
    reason=_optional(_text),
)
"""Long form. What every metric says of every planted explanation."""

AUDIT_RULES = _schema(
    model=_text,
    family=_text,
    metric=_text,
    fill=_optional(_text),
    reading=_text,
    # explanation must score above, or must not score above (not-above), the other.
    explanation=_text,
    rule=_text,
    other=_text,
    # Bases with both values, the mean difference, its 95 % interval over bases, and the share of
    # bases where it is above 0.
    bases=_index,
    difference=_optional(_real),
    low=_optional(_real),
    high=_optional(_real),
    share=_optional(_real),
    # right, wrong, not told.
    verdict=_text,
)
"""One row a metric and rule: whether the metric ranks two planted explanations rightly."""


RESPONSES = _schema(
    # The base picture; the factor that was changed and the value it was given.
    base=_text,
    factor=_text,
    value=_text,
    layer=_text,
    # Pooled activations, one value a unit.
    values=pa.list_(_single),
)
"""One row a base picture, factor, value and layer: what neurons answer to changed pictures."""

CAUSAL = _schema(
    model=_text,
    # Or planted, for neurons that were planted.
    layer=_text,
    unit=_index,
    # ok, or constant or not-finite over the changed pictures.
    status=_text,
    # The true concepts, the one that explains most first, and the share of the response's variance
    # that each explains alone.
    concepts=pa.list_(_text),
    shares=pa.list_(_real),
    # Shares of the variance that the values of each factor explain together.
    object_share=_optional(_real),
    scene_share=_optional(_real),
    colour_share=_optional(_real),
    # Of a planted neuron its kind (single, or, random) and what was planted.
    planted=_optional(_text),
    planted_concepts=_optional(pa.list_(_text)),
)
"""One row a neuron: its true concepts, found by changing one factor of pictures at a time."""

DISSECTION_TRUTH = _schema(
    model=_text,
    layer=_text,
    # neurons (the layer's own), or a kind of planted ones: single, or, random.
    group=_text,
    similarity=_text,
    # Which labels count: all, or those that are said to stand (stands).
    labels=_text,
    # Neurons that vary; of these those with a true concept; labels that count; and of these the
    # right ones.
    neurons=_index,
    with_truth=_index,
    counted=_index,
    right=_index,
    # Share of the counted that are right, with its interval over neurons (Wilson); and what labels
    # dealt out anew would get.
    precision=_optional(_real),
    precision_low=_optional(_real),
    precision_high=_optional(_real),
    chance=_optional(_real),
    # Share of the neurons with a true concept that get one of theirs.
    recall=_optional(_real),
    recall_low=_optional(_real),
    recall_high=_optional(_real),
    # Share of the neurons without a true concept whose label counts.
    false_labels=_optional(_real),
    false_labels_low=_optional(_real),
    false_labels_high=_optional(_real),
)
"""One row a model, layer, group of neurons, similarity and kind of labels: dissection judged."""


CONTRAST = _schema(
    # The net that tells objects and the net that tells scenes, on the same picture.
    object_model=_text,
    scene_model=_text,
    picture=_text,
    base=_text,
    clutter=_optional(_index),
    # Whether both nets are right; and whether it was shown that the object matters to the one and
    # the scene to the other.
    right=pa.bool_(),
    matters=pa.bool_(),
    method=_text,
    # Of localisation, against the object's mask.
    metric=_text,
    # Of the explanation of either net, and the first less the second.
    on_object_net=_optional(_real),
    on_scene_net=_optional(_real),
    move=_optional(_real),
    reason=_optional(_text),
)
"""Long form. How far each explanation moves from the object to the scene with the model."""

CONTRAST_SUMMARY = _schema(
    object_model=_text,
    scene_model=_text,
    method=_text,
    metric=_text,
    # Whether only pictures count where object and scene were shown to matter.
    causal=pa.bool_(),
    # Bases and pictures that both nets are right about.
    bases=_index,
    pictures=_index,
    on_object_net=_optional(_real),
    on_scene_net=_optional(_real),
    # Mean over bases, with its 95 % interval; and the share of bases where it is above 0.
    move=_optional(_real),
    low=_optional(_real),
    high=_optional(_real),
    share=_optional(_real),
)
"""One row a pair of nets, method, metric and whether what counts is causal."""


TRUST = _schema(
    model=_text,
    picture=_text,
    base=_text,
    # clean, cluttered, occluded; decorrelated where the scene is not the object's partner.
    condition=_text,
    # The CAM that LIME is held against.
    cam=_text,
    # Whether the model is right about the picture.
    prediction=_optional(pa.bool_()),
    # What was shown to matter to the explained class: object, scene, neither.
    matters=_text,
    # What each explanation points at: object, scene; null where it orders nothing.
    lime_points_at=_optional(_text),
    cam_points_at=_optional(_text),
    # Spearman's correlation of the two, its ceiling, and the one over the other.
    agreement=_optional(_real),
    ceiling=_optional(_real),
    corrected=_optional(_real),
    # Whether both point at what matters; null where neither does, or one points at nothing.
    counterfactual=_optional(pa.bool_()),
    # Why there is no corrected agreement, or nothing that is pointed at.
    reason=_optional(_text),
)
"""One row a model, picture and CAM: whether LIME and the CAM agree, and whether they are right."""

CALIBRATION = _schema(
    model=_text,
    cam=_text,
    # What is right: counterfactual (both explanations about the model), prediction (the model).
    correct=_text,
    # A condition, or all.
    condition=_text,
    # Bin of corrected agreement and its edges; null: all bins.
    bin=_optional(_index),
    from_agreement=_optional(_real),
    to_agreement=_optional(_real),
    pictures=_index,
    bases=_index,
    # Mean corrected agreement, and the share that is right with its 95 % interval over bases.
    agreement=_real,
    right=_real,
    low=_optional(_real),
    high=_optional(_real),
    # Of all bins: how well corrected agreement tells right from wrong.
    auroc=_optional(_real),
    auroc_low=_optional(_real),
    auroc_high=_optional(_real),
)
"""Calibration curves: how often explanations, or predictions, are right, by agreement."""


LEADERBOARD = _schema(
    # Version of the world: numbers of two versions do not compare.
    world=_index,
    # methods, similarities or metrics; the method, similarity or metric.
    board=_text,
    entrant=_text,
    # What is measured, higher being better, and on what: a family of nets, with the layer; or the
    # family of metrics and the model that explanations were planted of.
    measure=_text,
    measured_on=_text,
    value=_real,
    # 95 % t interval over training seeds; null below three.
    low=_optional(_real),
    high=_optional(_real),
    # Nets that the value is the mean of; 0 where no net was trained.
    seeds=_index,
)
"""One row an entrant, measure and what it is measured on, the best first."""


def _differences(found: pa.Schema, expected: pa.Schema) -> list[str]:
    """Say in words how ``found`` departs from ``expected``; empty when it does not."""
    said = [f"no column {name!r}" for name in expected.names if name not in found.names]
    said += [f"unknown column {name!r}" for name in found.names if name not in expected.names]
    for field in expected:
        if field.name in found.names and found.field(field.name).type != field.type:
            kind = found.field(field.name).type
            said.append(f"column {field.name!r} is {kind}, not {field.type}")
    return said


def make_table(rows: Iterable[Mapping], schema: pa.Schema) -> pa.Table:
    """Make a table of ``schema`` from dictionaries.

    Raises
    ------
    ConsilienceError
        If a key is unknown, a value has the wrong type, or a required value is missing.
    """
    rows = [dict(row) for row in rows]
    for row in rows:
        if unknown := set(row) - set(schema.names):
            raise ConsilienceError(f"table row has unknown columns {sorted(unknown)}")
        for field in schema:
            # Arrow would cut the fraction off without a word.
            if pa.types.is_integer(field.type) and isinstance(row.get(field.name), float):
                raise ConsilienceError(
                    f"table column {field.name!r} takes whole numbers, not {row[field.name]}"
                )
    try:
        table = pa.Table.from_pylist(rows, schema=schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ConsilienceError(f"table rows do not fit their schema: {error}") from None
    for field in schema:
        if not field.nullable and table.column(field.name).null_count:
            raise ConsilienceError(f"table column {field.name!r} must not be empty")
    return table


def write_table(
    table: pa.Table | Iterable[Mapping],
    path: str | Path,
    schema: pa.Schema,
    group_by: str | None = None,
) -> None:
    """Write a table of ``schema`` (or dictionaries that make one) to ``path``, atomically.

    With ``group_by``, a column of text, rows of one value lie together in the file, in their own
    order, so that a reader of that value reads nothing else.
    """
    if not isinstance(table, pa.Table):
        table = make_table(table, schema)
    if said := _differences(table.schema, schema):
        raise ConsilienceError(f"{path}: the table to write has {'; '.join(said)}")
    try:
        table = table.select(schema.names).cast(schema)
    except ValueError as error:  # a null where none may be
        raise ConsilienceError(f"{path}: the table to write does not fit ({error})") from None

    def write(part: str) -> None:
        groups = [table]
        if group_by:
            values = dict.fromkeys(table[group_by].to_pylist())
            groups = [table.filter(pc.equal(table[group_by], value)) for value in values]
        with pq.ParquetWriter(part, schema, compression="zstd") as writer:
            for group in groups:
                writer.write_table(group)

    write_atomically(path, write)


def open_table(path: str | Path, schema: pa.Schema) -> pq.ParquetFile:
    """Open a Parquet file for reading in parts, and hold it against ``schema``.

    Raises
    ------
    ConsilienceError
        If the file is missing or no Parquet file, or its schema is another: names the file and the
        difference.
    """
    if not Path(path).exists():
        raise ConsilienceError(f"{printable(path)}: no such table; run the step that makes it")
    try:
        file = pq.ParquetFile(path)
    except Exception as error:  # what Arrow raises depends on what is broken
        raise _not_parquet(path, error) from None
    if said := _differences(file.schema_arrow, schema):
        raise ConsilienceError(f"{path}: {'; '.join(said)}; delete it and run again")
    return file


def _not_parquet(path: str | Path, error: Exception) -> ConsilienceError:
    lines = str(error).strip().splitlines()
    reason = printable(lines[0])[:200] if lines else type(error).__name__
    return ConsilienceError(f"{printable(path)}: not a Parquet file ({reason}); delete it")


def read_table(
    paths: str | Path | Sequence[str | Path],
    schema: pa.Schema,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Read one Parquet file, or several one after another, and hold them against ``schema``.

    With ``columns`` no others are read.

    Raises
    ------
    ConsilienceError
        As :func:`open_table` does.
    """
    paths = [paths] if isinstance(paths, str | Path) else paths
    names = schema.names if columns is None else list(columns)
    wanted = pa.schema([schema.field(name) for name in names])
    parts = []
    for path in paths:
        file = open_table(path, schema)
        try:
            part = file.read(names).select(names).cast(wanted)
            part.validate(full=True)  # text that is not UTF-8, lists that end before they begin
        except Exception as error:
            raise _not_parquet(path, error) from None
        parts.append(part)
    return pa.concat_tables(parts) if parts else wanted.empty_table()


def read_rows(
    paths: str | Path | Sequence[str | Path], schema: pa.Schema, without: Collection[str] = ()
) -> list[dict]:
    """Read tables as :func:`read_table` does, as a list of dictionaries.

    Columns named in ``without`` are left out: lists of numbers take many times their size.
    """
    kept = [name for name in schema.names if name not in without]
    return read_table(paths, schema, kept).to_pylist()


def iterate_rows(
    paths: str | Path | Sequence[str | Path], schema: pa.Schema, part: int = 16
) -> Iterator[dict]:
    """Read tables as :func:`read_table` does, a dictionary at a time, ``part`` rows in memory."""
    for path in [paths] if isinstance(paths, str | Path) else paths:
        file = open_table(path, schema)
        try:
            for batch in file.iter_batches(part, columns=schema.names):
                yield from batch.to_pylist()
        except (OSError, ValueError) as error:
            raise _not_parquet(path, error) from None


def stack_lists(column: pa.ChunkedArray) -> np.ndarray:
    """Turn a list column whose lists all have one length into an array, shape (rows, length)."""
    lengths = {len(item) for item in column} if len(column) else {0}
    if len(lengths) > 1:
        raise ConsilienceError(f"lists of different lengths ({sorted(lengths)}) cannot be stacked")
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), lengths.pop())


def write_arrays(arrays: Mapping[str, np.ndarray], path: str | Path) -> None:
    """Write named arrays as an uncompressed ``.npz`` (which carries no time), atomically."""

    def write(part: str) -> None:
        with open(part, "wb") as file:  # savez gives a path another name where it ends otherwise
            np.savez(file, allow_pickle=False, **arrays)

    write_atomically(path, write)


def read_arrays(paths: str | Path | Sequence[str | Path]) -> dict[str, np.ndarray]:
    """Read ``.npz`` files that hold arrays of the same names, joined along the first axis.

    Raises
    ------
    ConsilienceError
        If a file is missing or broken, or the names differ between files.
    """
    parts = []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        place = printable(path)
        if not Path(path).exists():
            raise ConsilienceError(f"{place}: no such file; run the step that makes it")
        try:
            with np.load(path, allow_pickle=False) as file:
                parts.append({name: file[name] for name in file.files})
        except Exception as error:  # zip, zlib, the headers' parser and NumPy raise all kinds
            said = printable(str(error) or type(error).__name__)[:200]
            raise ConsilienceError(f"{place}: not a readable .npz ({said}); delete it") from None
        if set(parts[-1]) != set(parts[0]):
            raise ConsilienceError(f"{place}: holds other arrays than the first file; delete both")
    try:
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    except ValueError as error:  # a number instead of an array; other lengths
        raise ConsilienceError(f"{place}: its arrays do not fit ({error}); delete it") from None

"""What each act computes with PyTorch, made small, on a device of choice."""

from collections import OrderedDict
from functools import cache

import numpy as np
import torch
from torch import nn

from consilience import (
    activations,
    cam,
    classifiers,
    clip_encoder,
    clip_training,
    effects,
    explain_params,
    faithfulness,
    lime_image,
    predictions,
    sanity,
    selection,
    stability,
    training,
    world,
)
from consilience.images import decode_png, read_picture

SIZE = 48
LAYER = "block"
PICTURES = world.study_pictures(0, 1, (0, 2))
ROWS = world.describe_rows(PICTURES, SIZE)
LIME = {
    "num_samples": 24,
    "batch_size": 8,
    "segmentation": {"method": "slic", "n_segments": 12, "compactness": 30, "sigma": 0},
    "hide_color": "grey",
    "kernel_width": 0.25,
    "distance_metric": "cosine",
    "segmentation_seed": 4,
    "perturbation_seed": 7,
}
WORDS = {"object": world.OBJECTS, "scene": world.SCENES, "colour": world.COLOURS}
DATA = world.render_training_set(0, "training", 0, 16, SIZE, (0, 1))
STAGES = [{"crop": 32, "pictures": 16, "batch": 8}, {"pictures": 8, "batch": 8}]


def make_net():
    """Two convolutions with batch norms and one without, pooling, a linear layer."""
    return nn.Sequential(
        OrderedDict(
            stem=nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()),
            block=nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()),
            last=nn.Conv2d(16, 16, 3, padding=1),
            pool=nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            fc=nn.Linear(16, 10),
        )
    )


FOLDS = 2 * 2
"""Convolutions run on the processor to check what folding the batch norms of one net changes."""


def load(device, keep=(), precision="float32", ready=True):
    spec = {
        "name": "net",
        "architecture": "acts:make_net",
        "classes": world.OBJECTS,
        "transform": world.TRANSFORM.to_dict(),
        "untrained": 3,
        "precision": precision,
    }
    return classifiers.load_classifier(spec, keep=keep, device=device, ready=ready)


def ask(device):
    """Views and predictions, on the processor or another device."""
    classifier = load(device)
    views = list(predictions.view_pictures(classifier, ROWS))
    return views, list(predictions.predict(classifier, views, {}, "predicted"))


VIEWS, PREDICTIONS = ask("cpu")
PIXELS = [decode_png(view["view"]) for view in VIEWS]
TARGETS = [row["target_index"] for row in PREDICTIONS]
NAMES = [view["picture"] for view in VIEWS]
PARAMS = explain_params.resolve_params(LIME, NAMES)


@cache
def known_limes():
    return list(lime_image.explain_views(load("cpu"), VIEWS, PREDICTIONS, PARAMS))


@cache
def known_heatmaps():
    rows = cam.explain_cam(load("cpu", [LAYER]), "grad-cam", LAYER, PIXELS, TARGETS)
    return [
        {"model": "net", "picture": name, "target_index": target} | row
        for name, target, row in zip(NAMES, TARGETS, rows, strict=True)
    ]


def values(rows, *columns):
    """Columns of rows as one vector, what is undefined as NaN."""
    found = [np.ravel(np.float64(row.get(column))) for row in rows for column in columns]
    return np.concatenate(found)


def predict(device):
    classifier = load(device)
    return classifier.probabilities(np.stack(PIXELS))


def predict_in_bfloat16(device):
    return load(device, precision="bfloat16").probabilities(np.stack(PIXELS))


def record(device):
    classifier = load(device, [LAYER, "fc"])
    named = [(row["name"], read_picture(row)) for row in ROWS]
    return values(activations.extract_activations(classifier, named, [LAYER, "fc"], 2), "values")


def explain_by_cam(method, device):
    rows = cam.explain_cam(load(device, [LAYER]), method, LAYER, PIXELS, TARGETS, 16)
    return values(rows, "heatmap")


def explain_by_lime(device):
    rows = lime_image.explain_views(load(device), VIEWS, PREDICTIONS, PARAMS)
    return values(rows, "weights", "intercept")


def repeat_lime(device):
    found = stability.repeat_lime(load(device), VIEWS, known_limes(), PARAMS, 1, 0.2)
    return values([row for _, repeats in found for row in repeats], "weights")


def measure_faithfulness(device):
    settings = {"steps": 3, "road": [0.5], "orders": 1}
    maps = known_heatmaps()
    rows = faithfulness.measure_views(load(device), VIEWS, PREDICTIONS, maps, [], settings)
    return values(rows, "value", "random")


def measure_effects(device):
    rows = effects.measure_effects(load(device), PREDICTIONS, ROWS, PICTURES, 0, SIZE)
    return values(rows, "probability", "changed_probability")


def select_wrong(device):
    rows, accuracy = selection.select_wrong(load(device), "object", 0, SIZE, 3, 12, (0, 2))
    return np.concatenate([values(rows, "weight"), values(accuracy, "accuracy")])


def check_sanity(device):
    rows = sanity.check_explanations(
        load(device, ready=False),
        {NAMES[0]: PIXELS[0]},
        PREDICTIONS[:1],
        {},
        ["grad-cam", "lime"],
        [LAYER],
        PARAMS,
        stages=["fc", "last"],
    )
    return values(rows, "value", "floor")


def embed(device):
    model = clip_training.build_small_clip(0)
    encoder = clip_encoder.ClipEncoder(model, _preprocess, device)
    pictures = encoder.embed_pictures([DATA["images"][0], DATA["images"][1]])
    return np.concatenate([pictures, encoder.embed_texts(["ball", "a red box"])])


def _preprocess(picture):
    pixels = np.asarray(picture.resize((96, 96)))
    return torch.from_numpy(np.float32(pixels / 255)).permute(2, 0, 1)


def train_classifier(device):
    settings, classes = {"stages": STAGES}, len(world.OBJECTS)
    model = training.train_classifier(
        DATA, "object", classes, settings, 1, lambda line: None, "mnasnet0_5", (), device
    )
    with torch.inference_mode():
        logits = model(world.TRANSFORM.normalize(DATA["images"][:4]))
    return torch.softmax(logits, dim=1).numpy()


def train_clip(device):
    data = world.render_training_set(0, "training", 0, 8, 96, (0, 1))
    captions = world.caption_training_set(0, "training", 0, 8)
    settings = {"lessons": 32, "epochs": 1, "batch": 8}
    model = clip_training.train_clip(
        data, WORDS, world.ABSENT_CONCEPTS, captions, settings, 0, lambda line: None, device
    )
    encoder = clip_encoder.ClipEncoder(model, _preprocess)
    return encoder.embed_pictures(list(data["images"][:2])) @ encoder.embed_texts(["ball"]).T


ACTS = {
    act.__name__: act
    for act in (
        predict,
        predict_in_bfloat16,
        record,
        explain_by_lime,
        repeat_lime,
        measure_faithfulness,
        measure_effects,
        select_wrong,
        check_sanity,
        embed,
        train_classifier,
        train_clip,
    )
}
ACTS |= {
    method: (lambda device, method=method: explain_by_cam(method, device)) for method in cam.METHODS
}

TOLERANCES = dict.fromkeys(ACTS, 0.0001) | {
    "predict_in_bfloat16": 2e-2,
    # Ranks of nearly equal pixels change places.
    "check_sanity": 2e-2,
    # Rounding grows from step to step.
    "train_classifier": 2e-2,
    "train_clip": 2e-2,
    # Singular vectors and kernels of small maps; divided by a logit.
    "eigen-grad-cam": 1e-3,
    "seg-eigen-cam": 1e-3,
    "kpca-cam": 1e-3,
    "ablation-cam": 1e-3,
}
"""Largest absolute difference from the processor's; all values are of size one."""

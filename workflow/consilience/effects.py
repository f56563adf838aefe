"""What the parts of a rendered picture do to the model: take one away, and ask again.

A mask says where a thing is, not whether the model used it. In the rendered world every part of a
picture can be changed by itself, so that what it does to the logit is measured on the picture that
is explained (an intervention, not a correlation over pictures).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from . import world
from .errors import ConsilienceError
from .images import encode_png, hash_bytes
from .progress import track

if TYPE_CHECKING:
    from .classifiers import Classifier

WITHOUT_OBJECT = "without-object"
OTHER_SCENE = "other-scene"
WITHOUT_DISTRACTOR = "without-distractor"

_TELLING = {
    "object": (WITHOUT_OBJECT, OTHER_SCENE),
    "scene": (OTHER_SCENE, WITHOUT_OBJECT),
    "distractor": (WITHOUT_DISTRACTOR, OTHER_SCENE),
}
"""Of each kind of truth: the change that takes it away, and the one that it is held against."""


def change_scene(picture: world.Picture, base: str, seed: int) -> world.Picture:
    """Return the picture in front of another scene, all else unchanged.

    The scene and its texture are drawn from ``seed`` and ``base``, the name shared by a picture's
    clutter levels, so that all levels get the same and no other picture has a say in it.
    """
    digest = hashlib.sha256(base.encode()).digest()
    rng = np.random.default_rng([seed, *np.frombuffer(digest, "<u4").tolist()])
    others = [scene for scene in world.SCENES if scene != picture.scene]
    scene = others[rng.integers(len(others))]
    return replace(picture, scene=scene, background_seed=int(rng.integers(2**32)))


def _ask(classifier: Classifier, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and probabilities of pictures: float64, shape (n, classes) each."""
    import torch  # here, as whoever only reads effects does without it

    views = np.stack([classifier.transform.fit(Image.fromarray(image)) for image in images])
    with torch.inference_mode():
        logits = classifier.model(classifier.prepare_input(views)).cpu().double().numpy()
    if not np.isfinite(logits).all():
        raise ConsilienceError(
            f"model {classifier.name!r} answers with values that are not finite; check its weights"
        )
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return logits, powers / powers.sum(axis=1, keepdims=True)


def measure_effects(
    classifier: Classifier,
    predictions: Iterable[Mapping],
    rows: Iterable[Mapping],
    pictures: Mapping[str, world.Picture],
    seed: int,
    size: int,
) -> Iterator[dict]:
    """Change rendered pictures, one part at a time, and ask the model again.

    The object is taken away; the scene becomes another one (:func:`change_scene`); and where the
    target is the class of a distractor, that distractor is taken away. Each picture is asked about
    by itself, so that no other has a say in its numbers.

    Parameters
    ----------
    classifier
        The model.
    predictions
        Rows of the table ``PREDICTIONS``; those of pictures that are not in ``pictures`` are
        passed over.
    rows
        The pictures' rows of the table ``PICTURES``.
    pictures
        What the rendered ones show, by name (:func:`consilience.world.recreate_pictures`).
    seed
        Of the other scenes.
    size
        Side that the pictures were rendered with, pixels.

    Yields
    ------
    dict
        Rows of the table ``EFFECTS``, in the order of the predictions.

    Raises
    ------
    ConsilienceError
        If a picture rendered again is not the one that was explained.
    """
    known = {row["name"]: row for row in rows}
    targets = defaultdict(list)
    for prediction in predictions:
        if prediction["picture"] in pictures:
            targets[prediction["picture"]].append(prediction)
    for name, asked in track(targets.items(), "pictures"):
        picture, row = pictures[name], known[name]
        whole = world.render(picture, size)
        if hash_bytes(encode_png(whole.image)) != row["sha256"]:
            raise ConsilienceError(
                f"{name}: rendered again it is not the picture that was explained; "
                "delete the study's results and run again"
            )
        scene = change_scene(picture, row["base"], seed)
        images = {
            "as it is": whole.image,
            WITHOUT_OBJECT: world.render(replace(picture, object=None), size).image,
            OTHER_SCENE: world.render(scene, size).image,
        }
        classes = dict.fromkeys(prediction["target_class"] for prediction in asked)
        for target in classes:
            if target in whole.distractors:
                images[WITHOUT_DISTRACTOR, target] = world.render(picture, size, (target,)).image
        logits, probabilities = _ask(classifier, list(images.values()))
        for prediction in asked:
            index, target = prediction["target_index"], prediction["target_class"]
            for place, change in enumerate(images):
                if place == 0 or (isinstance(change, tuple) and change[1] != target):
                    continue
                yield {
                    "model": classifier.name,
                    "picture": name,
                    "target_index": index,
                    "target_class": target,
                    "change": change[0] if isinstance(change, tuple) else change,
                    "logit": float(logits[0, index]),
                    "changed_logit": float(logits[place, index]),
                    "probability": float(probabilities[0, index]),
                    "changed_probability": float(probabilities[place, index]),
                    "changed_class": classifier.class_names[int(logits[place].argmax())],
                }


def find_matters(effects: Iterable[Mapping]) -> dict[tuple[str, int, str], bool]:
    """Say of each picture, target and kind of truth whether it was shown to matter.

    The object matters if taking it away lowers the target's logit by more than another scene moves
    it, up or down, and the target is not predicted without it. A distractor likewise. The scene
    matters if another scene lowers the logit by more than taking the object away moves it, and the
    target is not predicted in front of the other scene. So at most one of object and scene does.

    Parameters
    ----------
    effects
        Rows of the table ``EFFECTS`` of one model.

    Returns
    -------
    dict
        By picture, target's index and ``object``, ``scene`` or ``distractor``; a kind is there if
        both of its changes were made.
    """
    changes: dict[tuple[str, int], dict[str, Mapping]] = defaultdict(dict)
    for row in effects:
        changes[row["picture"], row["target_index"]][row["change"]] = row
    matters = {}
    for key, made in changes.items():
        for kind, (own, against) in _TELLING.items():
            if own in made and against in made:
                drop, moved = (
                    made[change]["logit"] - made[change]["changed_logit"]
                    for change in (own, against)
                )
                gone = made[own]["changed_class"] != made[own]["target_class"]
                matters[*key, kind] = bool(drop > abs(moved) and gone)
    return matters

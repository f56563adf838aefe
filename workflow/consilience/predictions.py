"""What a model says of each picture, and which class is explained."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from .classifiers import Classifier, nearest
from .errors import ConsilienceError
from .images import decode_png, encode_png, read_picture
from .progress import Progress, track

TARGETS = ("predicted", "labelled")


def count_top(classifier: Classifier, target: str | int) -> int | None:
    """Return how many likeliest classes ``top-<n>`` asks for; None where the target is another.

    Raises
    ------
    ConsilienceError
        If the model has fewer classes, or ``n`` is zero.
    """
    if not (asked := re.fullmatch(r"top-([0-9]{1,9})", str(target))):
        return None
    count, classes = int(asked[1]), len(classifier.class_names)
    if not 1 <= count <= classes:
        raise ConsilienceError(
            f"target: {target}, but model {classifier.name!r} has {classes} classes; "
            f"give top-1 to top-{classes}"
        )
    return count


def check_target(classifier: Classifier, target: str | int) -> None:
    """Raise a :class:`ConsilienceError` unless the model can be asked for the target."""
    if target not in TARGETS and count_top(classifier, target) is None:
        find_class(classifier, target)


def find_class(classifier: Classifier, target: str | int) -> int:
    """Return the index of the class that a study gives by name or by index.

    Raises
    ------
    ConsilienceError
        If the index is out of range, no class has the name, or several have it.
    """
    names = classifier.class_names
    if isinstance(target, int):
        if not 0 <= target < len(names):
            raise ConsilienceError(
                f"target: model {classifier.name!r} has classes 0 to {len(names) - 1}, not {target}"
            )
        return target
    if target not in names:
        raise ConsilienceError(
            f"target: model {classifier.name!r} has no class {target!r}; {nearest(target, names)}"
        )
    if len(same := [index for index, name in enumerate(names) if name == target]) > 1:
        raise ConsilienceError(
            f"target: model {classifier.name!r} has {len(same)} classes named {target!r}; give one "
            f"of their indices, {', '.join(map(str, same))}"
        )
    return same[0]


def view_pictures(classifier: Classifier, pictures: Sequence[Mapping]) -> Iterator[dict]:
    """Bring pictures into the geometry that the model sees.

    Parameters
    ----------
    classifier
        Its transform is the geometry.
    pictures
        Rows of ``PICTURES``; those with an error are passed over.

    Yields
    ------
    dict
        Rows of ``VIEWS``.

    Raises
    ------
    ConsilienceError
        If a file changed since it was listed, a mask does not fit its picture, or a picture is
        too long for the transform: names the picture.
    """
    for row in track(pictures, "pictures"):
        if row["error"] is not None:
            continue
        picture = read_picture(row)
        try:
            view = classifier.transform.fit(picture)
        except ConsilienceError as error:
            raise ConsilienceError(f"{row['name']}: {error}") from None
        masks = {}
        for name in ("mask_visible", "mask_whole", "distractor_map"):
            if row[name] is not None:
                mask = decode_mask(row[name], picture.size, row["name"])
                masks[name] = encode_png(classifier.transform.fit_mask(mask))
        yield {
            "model": classifier.name,
            "picture": row["name"],
            "height": view.shape[0],
            "width": view.shape[1],
            "view": encode_png(view),
            "box": list(classifier.transform.box(picture.size)),
            **masks,
        }


def decode_mask(data: bytes, size: tuple[int, int], name: str):
    """Decode a mask as a PIL picture and hold its size (width, height) against the picture's."""
    from PIL import Image

    mask = Image.fromarray(decode_png(data))
    if mask.size != size:
        raise ConsilienceError(
            f"{name}: its mask has {mask.size} pixels and the picture {size}; they must be equal"
        )
    return mask


def stack_views(views: Sequence[Mapping]) -> np.ndarray:
    """Decode rows of ``VIEWS`` that share one size: uint8, shape (n, height, width, 3)."""
    return np.stack([decode_png(row["view"]) for row in views])


def predict(
    classifier: Classifier,
    views: Sequence[Mapping],
    labels: Mapping[str, str | None],
    target: str | int = "predicted",
    batch_size: int = 32,
) -> Iterator[dict]:
    """Ask the model about each view, and choose the class or classes to explain.

    Parameters
    ----------
    classifier
        The model.
    views
        Rows of ``VIEWS``.
    labels
        True class name by picture, None where it is not known; a name that is no class of the
        model counts as not known.
    target
        ``predicted``, ``labelled``, ``top-<n>`` for the n likeliest classes, a class name or a
        class index.
    batch_size
        Pictures a forward pass.

    Yields
    ------
    dict
        Rows of ``PREDICTIONS``, one a view and target; of ``top-<n>`` the likeliest comes first.

    Raises
    ------
    ConsilienceError
        If the target is no class, or ``labelled`` and a picture's class is not known.
    """
    names = classifier.class_names
    count = count_top(classifier, target)
    chosen = None if target in TARGETS or count else find_class(classifier, target)
    # A model may take pictures of any size, and then its views differ in size.
    sizes = {(row["height"], row["width"]) for row in views}
    step = batch_size if len(sizes) == 1 else 1
    counted = Progress(len(views), "pictures")
    for start in range(0, len(views), step):
        part = views[start : start + step]
        for view, scores in zip(part, classifier.probabilities(stack_views(part)), strict=True):
            label = labels.get(view["picture"])
            predicted = int(scores.argmax())
            label_index = names.index(label) if label in names else None
            if label == names[predicted]:  # of several classes that have the name
                label_index = predicted
            if target == "labelled" and label_index is not None:
                find_class(classifier, label)
            if target == "labelled" and label_index is None:
                raise ConsilienceError(
                    f"target: labelled, but the class of {view['picture']!r} is "
                    f"{'not given' if label is None else f'{label!r}, which the model lacks'}; "
                    "label it, or choose another target"
                )
            if target == "predicted":
                indices = [predicted]
            elif count:
                # Stable, so that the first is the predicted class whatever the ties.
                indices = (-scores).argsort(kind="stable")[:count].tolist()
            else:
                indices = [label_index if target == "labelled" else chosen]
            for index in indices:
                yield {
                    "model": classifier.name,
                    "picture": view["picture"],
                    "target": target if target in TARGETS or count else "given",
                    "target_index": index,
                    "target_class": names[index],
                    "target_probability": float(scores[index]),
                    "predicted_index": predicted,
                    "predicted_class": names[predicted],
                    "predicted_probability": float(scores[predicted]),
                    "label_index": label_index,
                    "label_class": None if label_index is None else names[label_index],
                    "correct": None if label_index is None else label_index == predicted,
                }
        counted.advance(len(part))

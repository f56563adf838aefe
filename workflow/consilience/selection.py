"""Draw pictures that a model is wrong about, and say how many of its errors each stands for.

A study's own pictures are few and a good model is seldom wrong about them. Candidates are rendered
in a stream of their own, asked about in blocks and forgotten; only those drawn are kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from . import world
from .progress import Progress

if TYPE_CHECKING:
    from .classifiers import Classifier


def ask_candidates(
    classifier: Classifier,
    tells: str,
    seed: int,
    size: int,
    candidates: int,
    clutter: Sequence[int],
    block: int = 32,
) -> dict[str, bool]:
    """Say of each candidate whether the model is right about it.

    Parameters
    ----------
    classifier
        The model.
    tells
        What it tells apart: ``object`` or ``scene``.
    seed, size
        The study's, and the side of its rendered pictures, pixels.
    candidates
        How many pictures to ask about.
    clutter
        Levels that they take in turn.
    block
        Pictures rendered and asked about at a time.

    Returns
    -------
    dict
        By name, in the order of the stream.
    """
    right, counted = {}, Progress(candidates, "candidates")
    for start in range(0, candidates, block):
        places = range(start, min(start + block, candidates))
        pictures = world.candidate_pictures(seed, places, clutter)
        images = [world.render(picture, size).image for picture in pictures.values()]
        views = [classifier.transform.fit(Image.fromarray(image)) for image in images]
        predicted = classifier.probabilities(np.stack(views)).argmax(axis=1)
        for (name, picture), index in zip(pictures.items(), predicted, strict=True):
            right[name] = classifier.class_names[index] == getattr(picture, tells)
        counted.advance(len(places))
    return right


def draw_names(names: Sequence[str], count: int, seed: int) -> list[str]:
    """Draw ``count`` of the names at random without replacement, or all where there are fewer.

    Those with the smallest hashes of seed and name are drawn: a simple random sample, in which
    more candidates displace few of those drawn before. Sorted.
    """

    def key(name: str) -> bytes:
        return hashlib.sha256(f"{seed}/{name}".encode()).digest()

    return sorted(sorted(names, key=key)[:count])


def select_wrong(
    classifier: Classifier,
    tells: str,
    seed: int,
    size: int,
    pictures: int,
    candidates: int,
    clutter: Sequence[int],
) -> tuple[list[dict], list[dict]]:
    """Draw pictures that a model is wrong about from rendered candidates.

    One simple random sample of all wrong candidates, not one a clutter level: every one drawn
    stands for as many, and a level has as many as the model's errors there are frequent.

    Parameters
    ----------
    pictures
        How many to draw; fewer where the model is wrong about fewer.
    classifier, tells, seed, size, candidates, clutter
        As for :func:`ask_candidates`.

    Returns
    -------
    list of dict
        Rows of the table ``PICTURES``, sorted by name; ``weight`` is the number of wrong
        candidates over that of pictures drawn.
    list of dict
        Rows of the table ``ACCURACY``: how many of the candidates the model is right about, a row
        a clutter level.
    """
    right = ask_candidates(classifier, tells, seed, size, candidates, clutter)
    wrong = [name for name, is_right in right.items() if not is_right]
    drawn = draw_names(wrong, pictures, seed)
    sources = [{"wrong": {"clutter": clutter}}]
    rows = world.describe_rows(world.recreate_pictures(drawn, seed, sources), size)
    for row in rows:
        row["weight"] = len(wrong) / len(drawn)
    levels = np.array([clutter[place % len(clutter)] for place in range(candidates)])
    answers = np.array(list(right.values()))
    accuracy = []
    for level in sorted(set(levels.tolist())):
        chosen = answers[levels == level]
        accuracy.append(
            {
                "model": classifier.name,
                "target": tells,
                "clutter": level,
                "pictures": len(chosen),
                "correct": int(chosen.sum()),
                "accuracy": float(chosen.mean()),
            }
        )
    return rows, accuracy

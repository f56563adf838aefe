"""What is planted so that the truth is known by construction: a model, and explanations of it.

A metric of explanations can only be judged where it is known which explanation is right. A trained
net's reasons are not. The planted model has none but the object: its score is linear in the pixels
that the mask holds, and does not know that there are others. So the mask is the causal truth, and
explanations that are more or less of it are more or less right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from .classifiers import Classifier
from .controls import find_edges, make_centre, order_noise
from .errors import ConsilienceError
from .measures import Heatmap, Superpixels, make_rng
from .world import TRANSFORM

TARGET = 1
"""Index of the class that the planted model tells from none."""

CLASSES = ("none", "object")

SHARPNESS = 8.0
"""The planted model's logit is so many times how much of the object is there, less a half."""

GRID = (6, 6)
"""Rows and columns that smooth noise is drawn on: those of the default study's last layer."""

_LEAST = 1e-6  # what is less of the evidence is rounding, and the model does not see it

CAUSAL, HALF, INVERSE, SHUFFLED = "causal-mask", "half-mask", "inverse", "shuffled"
NOISE, CENTRE, EDGES, FAKE = "smooth-noise", "centre", "edges", "fake-cam"

EXPLANATIONS = (CAUSAL, HALF, SHUFFLED, NOISE, CENTRE, EDGES, FAKE, INVERSE)
"""Every planted explanation of :func:`plant_explanations`, by its name in the table ``AUDIT``."""


@dataclass(frozen=True, eq=False)
class PlantedModel:
    """Tells whether the object of one picture is there, by its pixels and no others.

    The evidence is the product of what is asked about with the object's own pixels, centred, over
    the mask, in units of the picture's own: 1 for the picture itself, 0 for any constant colour
    in the object's place, and linear in between. The logit of :data:`TARGET` is
    :data:`SHARPNESS` (evidence - 1/2), that of the other class 0.

    Attributes
    ----------
    template
        float64, shape (3, height, width): the normalised picture, its mean over the mask taken
        away, over its sum of squares; zero outside the mask.
    """

    template: torch.Tensor

    def parameters(self) -> Iterator[torch.Tensor]:
        """As a module's: they say where it computes."""
        yield self.template

    @classmethod
    def of(cls, view: np.ndarray, mask: np.ndarray) -> PlantedModel:
        """Make the model of one picture.

        Parameters
        ----------
        view
            uint8, shape (height, width, 3).
        mask
            bool, shape (height, width): what the model sees.

        Raises
        ------
        ConsilienceError
            If nothing within the mask varies, so that the model could see nothing.
        """
        inside = torch.from_numpy(np.asarray(mask, dtype=bool))
        picture = TRANSFORM.normalize(view[None])[0].double()
        template = torch.zeros_like(picture)
        if inside.any():
            seen = picture[:, inside]
            template[:, inside] = seen - seen.mean(dim=1, keepdim=True)
        size = float((template**2).sum())
        if not size > 0:
            raise ConsilienceError(
                "a planted model needs an object that is seen and is not of one colour; the mask "
                f"holds {int(inside.sum())} pixels"
            )
        return cls(template / size)

    def evidence(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return how much of the object each normalised picture shows: float64, shape (n,)."""
        found = torch.einsum("nchw,chw->n", pictures.double(), self.template)
        return torch.round(found / _LEAST) * _LEAST

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return logits, float64, shape (n, 2)."""
        logit = SHARPNESS * (self.evidence(pictures) - 0.5)
        return torch.stack([torch.zeros_like(logit), logit], dim=1)


def plant_model(view: np.ndarray, mask: np.ndarray) -> Classifier:
    """Return :class:`PlantedModel` of one picture as a classifier."""
    return Classifier("planted", PlantedModel.of(view, mask), CLASSES, TRANSFORM)


def explain_exactly(classifier: Classifier, view: np.ndarray, segments: np.ndarray) -> Superpixels:
    """Explain a planted model as LIME would with perturbations without end.

    The weight of a superpixel is how much evidence goes with it when it is filled with the
    picture's mean colour. Evidence is linear, so that the order of hiding does not matter.

    Parameters
    ----------
    classifier
        Of :func:`plant_model`.
    view
        uint8, shape (height, width, 3).
    segments
        Integers, shape (height, width), from 0 without gaps.
    """
    picture = TRANSFORM.normalize(view[None])[0].double()
    change = picture - picture.mean(dim=(1, 2), keepdim=True)
    by_pixel = (change * classifier.model.template).sum(dim=0).numpy()
    weights = np.bincount(segments.ravel(), weights=by_pixel.ravel())
    return Superpixels(segments, weights)


def plant_explanations(
    view: np.ndarray, mask: np.ndarray, seed: int, name: str
) -> dict[str, Heatmap]:
    """Make explanations of one picture of which it is known how right they are.

    ``causal-mask``
        1 within the mask, 0 outside.
    ``half-mask``
        Half of the mask's pixels, and as many outside it, at random.
    ``shuffled``
        The mask's pixels dealt out anew over the picture.
    ``smooth-noise``
        A random map as smooth as a CAM's, in [0, 1].
    ``centre``
        A Gaussian in the middle.
    ``edges``
        Sobel's magnitude of the picture.
    ``fake-cam``
        1 everywhere but in one corner pixel, which is 0: it says nothing, and has no average drop
        (Poppi et al. 2021, "Revisiting the Evaluation of Class Activation Mapping for
        Explainability").
    ``inverse``
        0 within the mask, 1 outside.

    Parameters
    ----------
    view
        uint8, shape (height, width, 3).
    mask
        bool, shape (height, width); neither empty nor everywhere.
    seed, name
        What is random depends on these alone.

    Returns
    -------
    dict
        By the names of :data:`EXPLANATIONS`, float32 in [0, 1]; none has a negative part, so that
        the unrectified map is the same.

    Raises
    ------
    ConsilienceError
        If the mask has another shape than the view, is empty or everywhere.
    """
    mask = np.asarray(mask, dtype=bool)
    if mask.shape != view.shape[:2] or not mask.any() or mask.all():
        raise ConsilienceError(
            f"{name}: explanations are planted around a mask that is part of the view, not one of "
            f"shape {mask.shape} and {int(mask.sum())} pixels in a view of {view.shape[:2]}"
        )
    rng = make_rng(seed, name, "planted")
    inside, outside = np.flatnonzero(mask), np.flatnonzero(~mask)
    half = mask.copy()
    moved = min(len(inside) // 2, len(outside))
    half.flat[rng.permutation(inside)[:moved]] = False
    half.flat[rng.permutation(outside)[:moved]] = True
    noise = np.empty(mask.size)
    noise[order_noise(mask.shape, GRID, rng)] = np.linspace(0, 1, mask.size)
    fake = np.ones(mask.shape)
    fake[0, 0] = 0
    edges = find_edges(view)
    found = {
        CAUSAL: mask,
        HALF: half,
        SHUFFLED: rng.permutation(mask.ravel()).reshape(mask.shape),
        NOISE: noise.reshape(mask.shape),
        CENTRE: make_centre(*mask.shape),
        EDGES: edges / max(edges.max(), 1e-12),
        FAKE: fake,
        INVERSE: ~mask,
    }
    maps = {name: np.float32(found[name]) for name in EXPLANATIONS}
    return {name: Heatmap(values, values) for name, values in maps.items()}


def find_grids(explanations: Mapping[str, Heatmap]) -> dict[str, tuple[int, int]]:
    """Return one resolution for all, so that all are held against the same random orders."""
    return dict.fromkeys(explanations, GRID)

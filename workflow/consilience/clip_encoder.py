"""Pictures and words in one space: CLIP (Radford et al., 2021).

Whatever has :meth:`ClipEncoder.embed_pictures` and :meth:`ClipEncoder.embed_texts` can take its
place.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from PIL import Image

from .classifiers import nearest, read_state_dict
from .errors import ConsilienceError
from .images import Transform
from .progress import Progress

_CACHE = Path("~/.cache/clip")  # as clip.load has it


def import_clip() -> ModuleType:
    """Import the module ``clip`` without the one warning that its import is known for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "pkg_resources is deprecated", UserWarning)
        import clip
    return clip


def tokenize(texts: Sequence[str], context_length: int = 77) -> torch.Tensor:
    """Turn texts into CLIP's tokens.

    Parameters
    ----------
    texts
        At least one.
    context_length
        Tokens that the model takes, the first and the last included.

    Returns
    -------
    torch.Tensor
        int64, shape (n, longest): cut after the longest text. The text transformer looks only
        backwards, so what follows a text's end token does not change its embedding.

    Raises
    ------
    ConsilienceError
        If a text is too long.
    """
    clip = import_clip()
    try:
        tokens = clip.tokenize(list(texts), context_length=context_length)
    except RuntimeError:
        for text in texts:  # find the one, to name it
            try:
                clip.tokenize(text, context_length=context_length)
            except RuntimeError:
                shown = text if len(text) <= 60 else text[:57] + "..."
                raise ConsilienceError(
                    f"text {shown!r}: longer than the {context_length} tokens that CLIP takes; "
                    "shorten it"
                ) from None
        raise
    return tokens[:, : int(tokens.argmax(dim=1).max()) + 1]


def _unit(vectors: torch.Tensor, what: str) -> np.ndarray:
    """Scale rows to length one, or refuse those that have no direction."""
    vectors = vectors.float()
    length = vectors.norm(dim=1, keepdim=True)
    bad = ~(torch.isfinite(length) & (length > 0)).flatten()
    if bad.any():
        raise ConsilienceError(
            f"CLIP gives {what} {int(bad.nonzero()[0])} an embedding of length "
            f"{float(length[bad][0])}; check its weights"
        )
    return (vectors / length).cpu().numpy()


class ClipEncoder:
    """A model of the ``clip`` package, in evaluation mode, float32.

    Parameters
    ----------
    model
        A ``clip.model.CLIP``.
    preprocess
        Maps a PIL picture to float32 (3, side, side), as ``clip.load`` gives it.
    device
        Where it computes.
    """

    def __init__(self, model: torch.nn.Module, preprocess, device: torch.device | str = "cpu"):
        self.model = model.eval().float().requires_grad_(False).to(device)
        self.preprocess, self.device = preprocess, device

    def embed_pictures(
        self, pictures: Iterable[Image.Image | np.ndarray], batch: int = 64
    ) -> np.ndarray:
        """Embed pictures with the model's own preprocessing.

        Parameters
        ----------
        pictures
            PIL pictures, or uint8 arrays of shape (height, width, 3), of any sizes. Each is let go
            of once it is preprocessed.
        batch
            Pictures a forward pass.

        Returns
        -------
        numpy.ndarray
            float32, shape (n, d), rows of length one.

        Raises
        ------
        ConsilienceError
            If an embedding is not finite or zero.
        """
        return self.embed_inputs(map(self.preprocess_picture, pictures), batch)

    def embed_inputs(self, inputs: Iterable[torch.Tensor], batch: int = 64) -> np.ndarray:
        """Embed pictures as :meth:`preprocess_picture` gives them: see :meth:`embed_pictures`."""
        parts, waiting = [], iter(inputs)
        while some := list(islice(waiting, batch)):
            with torch.inference_mode():
                parts.append(self.model.encode_image(torch.stack(some).to(self.device)))
        return _unit(torch.cat(parts) if parts else self._nothing(), "picture")

    def preprocess_picture(self, picture: Image.Image | np.ndarray) -> torch.Tensor:
        """Return a picture as :attr:`model` takes it, float32, shape (3, side, side)."""
        if not isinstance(picture, Image.Image):
            picture = Image.fromarray(picture)
        picture = picture.convert("RGB")
        side = self.model.visual.input_resolution
        if side**2 * max(picture.size) / min(picture.size) > Image.MAX_IMAGE_PIXELS:
            # The preprocessing would resize it whole before it crops.
            fitted = Transform(side, (side, side), interpolation="bicubic").fit(picture)
            picture = Image.fromarray(fitted)
        return self.preprocess(picture)

    def embed_texts(
        self, words: Sequence[str], templates: Sequence[str] = ("{}",), batch: int = 256
    ) -> np.ndarray:
        """Embed words, each in every template, averaged over the templates.

        Parameters
        ----------
        words
            Words or phrases.
        templates
            Texts in which ``{}`` stands for the word.
        batch
            Words a forward pass.

        Returns
        -------
        numpy.ndarray
            float32, shape (n, d), rows of length one: the mean of the templates' unit vectors,
            scaled to length one again.

        Raises
        ------
        ConsilienceError
            If a text is too long, a template has no ``{}``, or an embedding has no direction.
        """
        if not templates or not all("{}" in template for template in templates):
            raise ConsilienceError(f"templates {list(templates)!r}: each must hold {{}} once")
        parts, counted = [], Progress(len(words), "words")
        for start in range(0, len(words), batch):
            some = words[start : start + batch]
            mean = 0.0
            for template in templates:
                texts = [template.replace("{}", word) for word in some]
                with torch.inference_mode():
                    tokens = tokenize(texts, self.model.context_length).to(self.device)
                    vectors = self.model.encode_text(tokens).float()
                mean = mean + torch.from_numpy(_unit(vectors, "text"))
            parts.append(mean)
            counted.advance(len(some))
        return _unit(torch.cat(parts) if parts else self._nothing(), "text")

    def _nothing(self) -> torch.Tensor:
        return torch.empty(0, self.model.text_projection.shape[1])


def load_clip(path_or_name: str | Path, device: torch.device | str = "cpu") -> ClipEncoder:
    """Load a CLIP as ``clip.load`` does, which passes weights through float16.

    Nothing in the file is executed: of an archive of TorchScript, as OpenAI gives its models out,
    only the tensors are taken.

    Parameters
    ----------
    path_or_name
        A state dict (or one of OpenAI's archives) on disk, or the name of one of OpenAI's models,
        such as ``ViT-B/16``, which is fetched into ``~/.cache/clip`` when it is not there.
    device
        Where it computes.

    Raises
    ------
    ConsilienceError
        If there is no such file or name, it cannot be fetched, or it is no CLIP.
    """
    clip = import_clip()
    name = str(path_or_name)
    names = clip.available_models()
    if name not in names and not Path(name).is_file():
        raise ConsilienceError(
            f"clip {name!r}: neither a file nor one of OpenAI's models ({', '.join(names)}); "
            f"{nearest(name, names)}"
        )
    path = Path(name)
    if name in names:
        try:
            path = Path(clip.clip._download(clip.clip._MODELS[name], _CACHE.expanduser()))
        except (OSError, RuntimeError) as error:  # urllib's errors; another SHA-256
            raise ConsilienceError(
                f"clip {name!r}: cannot be read or fetched ({error}); fetch its file elsewhere and "
                "give its path"
            ) from None
    try:
        state = read_state_dict(path)
    except ConsilienceError as error:
        said = str(error).removeprefix(f"{path}: ")
        raise ConsilienceError(f"clip {name!r}: not a CLIP, or a broken one: {said}") from None
    # Of an archive the mask too, which is no weight: the model makes it anew.
    state = {key: value for key, value in state.items() if not key.endswith("attn_mask")}
    for key, value in state.items():
        if value.ndim and not value.is_floating_point():
            raise ConsilienceError(
                f"clip {name!r}: {key} holds {str(value.dtype).removeprefix('torch.')}, not "
                "numbers with a fraction; give weights that are not quantised"
            )
    try:
        model = clip.model.build_model(state)
        preprocess = clip.clip._transform(model.visual.input_resolution)
    except Exception as error:  # missing keys and shapes all raise their own
        lines = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
        raise ConsilienceError(
            f"clip {name!r}: not a CLIP that clip.load takes ({' '.join(lines[:2])[:200]}); give a "
            "state dict of clip.model.CLIP"
        ) from None
    return ClipEncoder(model, preprocess, device)

"""Decode pictures, and bring them into the geometry that a model sees.

Everything that is laid over a picture (heatmap, superpixels, known mask) lives in the geometry of
:meth:`Transform.fit`; :meth:`Transform.box` says where that lies in the original picture.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import ConsilienceError, printable
from .files import LARGEST_PICTURE, read_file
from .progress import track

if TYPE_CHECKING:
    import torch

Prepared = TypeVar("Prepared")

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM")
"""Kinds of pictures that are read, by what is in them and not by their suffix. PIL knows more, some
of which (EPS) it hands to other programs."""

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Transform:
    """How a picture becomes a model's input; it belongs to the model's weights.

    The same steps as torchvision's ``ImageClassification`` preset, on PIL pictures: the shorter
    side is resized to ``resize``, the centre of ``crop`` pixels (height, width) is kept, values
    are scaled to [0, 1] and normalised with ``mean`` and ``std`` (one a channel, RGB). ``None``
    leaves a step out.
    """

    resize: int | None = None
    crop: tuple[int, int] | None = None
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    interpolation: str = "bilinear"

    @classmethod
    def from_dict(cls, values: Mapping) -> Transform:
        """Make a transform from a study's ``transform`` section (or :meth:`to_dict`)."""
        values = dict(values)
        crop = values.get("crop")
        if isinstance(crop, int):
            values["crop"] = (crop, crop)
        for key in ("crop", "mean", "std"):
            if isinstance(values.get(key), Sequence):
                values[key] = tuple(values[key])
        return cls(**values)

    def to_dict(self) -> dict:
        """Return the fields as built-in types."""
        return asdict(self)

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height after resizing the shorter side; the longer is cut off, not rounded."""
        if self.resize is None:
            return size
        width, height = size
        if width <= height:
            return self.resize, max(1, int(self.resize * height / width))
        return max(1, int(self.resize * width / height)), self.resize

    def _crop_box(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of the crop in the resized picture; outside it is padding."""
        if self.crop is None:
            return 0, 0, *size
        height, width = self.crop
        # torchvision pads by halves before it crops, and rounds halves to even when it crops.
        left, top = ((have - want) / 2 for have, want in zip(size, (width, height), strict=True))
        left = round(left) if left >= 0 else -((width - size[0]) // 2)
        top = round(top) if top >= 0 else -((height - size[1]) // 2)
        return left, top, left + width, top + height

    def fit(self, picture: Image.Image) -> np.ndarray:
        """Resize and crop a picture to what the model sees: uint8, shape (height, width, 3)."""
        return np.asarray(self._fit(picture.convert("RGB"), INTERPOLATIONS[self.interpolation]))

    def fit_mask(self, mask: Image.Image) -> np.ndarray:
        """Resize and crop a mask (any mode, 0 is outside) likewise: uint8, shape (height, width).

        Values are kept (nearest neighbour), so that a map of indices stays one.
        """
        return np.asarray(self._fit(mask.convert("L"), Image.Resampling.NEAREST))

    def _fit(self, picture: Image.Image, resampling: Image.Resampling) -> Image.Image:
        size = self._resized(picture.size)
        box = self._crop_box(size)
        if size[0] * size[1] > Image.MAX_IMAGE_PIXELS:
            # A picture one pixel wide and as long as a street passes for small before it grows.
            return self._fit_extreme(picture, resampling, size, box)
        if size != picture.size:
            picture = picture.resize(size, resampling)
        return picture if box == (0, 0, *size) else picture.crop(box)

    def _fit_extreme(
        self,
        picture: Image.Image,
        resampling: Image.Resampling,
        size: tuple[int, int],
        box: tuple[int, int, int, int],
    ) -> Image.Image:
        """Resize of a picture only what is kept of it."""
        if self.crop is None:
            raise ConsilienceError(
                f"a picture of {picture.size[0]} × {picture.size[1]} pixels would be resized to "
                f"{size[0]} × {size[1]}; cut it to a less extreme shape, or give the transform a "
                "crop"
            )
        left, top, right, bottom = box
        kept = max(left, 0), max(top, 0), min(right, size[0]), min(bottom, size[1])
        across, down = picture.size[0] / size[0], picture.size[1] / size[1]
        source = (
            kept[0] * across,
            kept[1] * down,
            min(kept[2] * across, picture.size[0]),
            min(kept[3] * down, picture.size[1]),
        )
        part = picture.resize((kept[2] - kept[0], kept[3] - kept[1]), resampling, box=source)
        whole = Image.new(picture.mode, (right - left, bottom - top))
        whole.paste(part, (kept[0] - left, kept[1] - top))
        return whole

    def box(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of what the model sees, in pixels of a picture of ``size``."""
        resized = self._resized(size)
        across, down = size[0] / resized[0], size[1] / resized[1]
        left, top, right, bottom = self._crop_box(resized)
        return left * across, top * down, right * across, bottom * down

    def normalize(self, pictures: np.ndarray, device: torch.device | str = "cpu") -> torch.Tensor:
        """Turn fitted pictures into a model's input.

        Parameters
        ----------
        pictures
            uint8, shape (n, height, width, 3).
        device
            Where the input is to lie.

        Returns
        -------
        torch.Tensor
            float32, shape (n, 3, height, width), contiguous.
        """
        import torch  # here, so that steps which only fit pictures do not pay for it

        # Moved as bytes: a quarter of what floats would be.
        pixels = torch.from_numpy(np.array(pictures)).to(device)
        scaled = pixels.permute(0, 3, 1, 2).float().div_(255)
        mean, std = (torch.tensor(v).view(1, 3, 1, 1).to(device) for v in (self.mean, self.std))
        return scaled.sub_(mean).div_(std).contiguous()


def hash_bytes(data: bytes) -> str:
    """Return the SHA-256 of ``data`` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def batch_of(name: str, batches: int) -> int:
    """Return the batch (0 … batches - 1) that a picture belongs to by its name alone.

    Membership does not depend on the other pictures, so that adding one recomputes one batch.
    """
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % batches


class _Quiet:
    """A block that several threads may be in, without warnings but that of decompression bombs.

    Filters of warnings are the process's: who enters first sets them, who leaves last puts them
    back.
    """

    def __init__(self):
        self.lock, self.inside = Lock(), 0

    def __enter__(self) -> None:
        with self.lock:
            if not self.inside:
                self.before = warnings.catch_warnings()
                self.before.__enter__()
                warnings.simplefilter("ignore")  # of what PIL makes of a picture, and why
                warnings.simplefilter("error", Image.DecompressionBombWarning)
            self.inside += 1

    def __exit__(self, *raised) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                self.before.__exit__(*raised)


_quiet = _Quiet()


def _decode(data: bytes, name: str, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Decode an encoded picture, or its first frame, upright, in the mode that ``convert`` gives.

    PIL's plug-ins raise all kinds on broken files, when they decode and when they convert.
    """
    name = printable(name)
    try:
        with _quiet:
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
            picture.load()
            return convert(ImageOps.exif_transpose(picture))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        limit = Image.MAX_IMAGE_PIXELS
        raise ConsilienceError(f"{name}: over {limit} pixels; scale the picture down") from None
    except UnidentifiedImageError:
        reason = "no kind of picture that is known" if data else "the file is empty"
    except Exception as error:
        reason = printable(str(error) or type(error).__name__)[:200]
    raise ConsilienceError(f"{name}: does not decode as a picture ({reason})")


def decode_image(data: bytes, name: str) -> Image.Image:
    """Decode an encoded picture to RGB, upright, the first frame, transparency on white.

    Raises
    ------
    ConsilienceError
        If it is no picture of the :data:`FORMATS`, is cut short, has more pixels than PIL takes
        for safe, or values that are no brightness.
    """
    return _decode(data, name, _to_rgb)


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        # PIL clips wide integers to 255 instead of scaling them.
        values = np.asarray(picture)
        low, high = values.min(), values.max()
        if picture.mode == "F":
            if not np.isfinite([low, high]).all():
                raise ValueError("it holds values that are not finite")
            values = values / max(1.0, float(high)) * 255
        elif low < 0 or high > 65535:
            raise ValueError(f"its values reach from {low} to {high}, not from 0 to 65535")
        else:
            values = values.astype(np.uint32) * 255 // 65535
        picture = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def decode_mask(data: bytes, name: str) -> np.ndarray:
    """Decode an encoded mask of any mode: bool, shape (height, width), upright.

    Outside is what is black or transparent; inside is everything else.

    Raises
    ------
    ConsilienceError
        As :func:`decode_image` does.
    """
    # Wide integers are clipped, so that what is not 0 stays so.
    pixels = np.asarray(_decode(data, name, lambda picture: picture.convert("RGBA")))
    return pixels[..., :3].any(axis=2) & (pixels[..., 3] > 0)


def encode_png(pixels: np.ndarray) -> bytes:
    """Encode uint8 pixels, shape (h, w) or (h, w, 3), as PNG without any metadata."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def decode_png(data: bytes) -> np.ndarray:
    """Decode a PNG that :func:`encode_png` wrote: uint8, shape (h, w) or (h, w, 3)."""
    return np.asarray(Image.open(io.BytesIO(data)))


def read_picture(row: Mapping) -> Image.Image:
    """Decode the picture of a row of the table ``PICTURES``.

    Raises
    ------
    ConsilienceError
        If the file is missing, does not decode, or is not the one that was indexed.
    """
    image = row["image"]
    if image["bytes"] is not None:
        return decode_image(image["bytes"], row["name"])
    return decode_image(_read_indexed(image["path"], row["sha256"]), row["name"])


AHEAD = 64
"""Pictures that :func:`read_pictures` reads before they are asked for."""


def read_pictures(
    rows: Iterable[Mapping], prepare: Callable[[Image.Image], Prepared], threads: int = 1
) -> Iterator[tuple[str, Prepared]]:
    """Decode pictures and prepare each for a model.

    Parameters
    ----------
    rows
        Of the table ``PICTURES``; those with an error are left out.
    prepare
        Takes the decoded picture; runs in several threads at a time.
    threads
        With more than one, pictures are read ahead: for a device that would wait for them.

    Yields
    ------
    tuple
        Name, and what ``prepare`` made of the picture, in the order of the rows.

    Raises
    ------
    ConsilienceError
        As :func:`read_picture` does, where the picture's turn comes.
    """
    good = (row for row in rows if row["error"] is None)

    def read(row: Mapping) -> tuple[str, Prepared]:
        return row["name"], prepare(read_picture(row))

    if threads < 2:
        yield from map(read, good)
        return
    from concurrent.futures import ThreadPoolExecutor  # here: few steps read ahead

    pool = ThreadPoolExecutor(threads)
    try:
        waiting = deque(pool.submit(read, row) for row in islice(good, AHEAD))
        while waiting:
            done = waiting.popleft().result()
            waiting.extend(pool.submit(read, row) for row in islice(good, 1))
            yield done
    finally:
        pool.shutdown(cancel_futures=True)


def _read_indexed(path: str, sha256: str) -> bytes:
    """Read a file that was indexed with this hash."""
    data = read_file(path, LARGEST_PICTURE)
    if hash_bytes(data) != sha256:
        raise ConsilienceError(f"{printable(path)}: changed while the study ran; run again")
    return data


def _read_mask(mask: Mapping, size: tuple[int, int], name: str) -> bytes:
    """Read the file of a mask and encode it as the table ``PICTURES`` has it."""
    path = mask["path"]
    data = _read_indexed(path, mask["sha256"])
    try:
        inside = decode_mask(data, path)
    except ConsilienceError as error:
        raise ConsilienceError(f"{error}; save the mask as a PNG anew, or remove it") from None
    found = inside.shape[1], inside.shape[0]
    if found != size:
        raise ConsilienceError(
            f"{printable(path)}: this mask has {found[0]} × {found[1]} pixels and its picture "
            f"{name!r} {size[0]} × {size[1]}; give both one size, or remove the mask"
        )
    return encode_png(inside.astype(np.uint8) * 255)


def describe_files(entries: Sequence[Mapping]) -> list[dict]:
    """Describe picture files as rows of the table ``PICTURES``.

    Parameters
    ----------
    entries
        Mappings of name, path, sha256, label and, where the picture has a mask, mask (path and
        sha256), as :func:`consilience.index.read_index` gives them; ``error`` where it is known
        already that the file cannot be used. One that cannot, or does not decode, gets a row that
        says why, and neither size nor mask.

    Raises
    ------
    ConsilienceError
        If a mask cannot be read or has another size than its picture: names the mask's file.
    """
    rows = []
    for entry in track(entries, "pictures"):
        row = {
            "name": entry["name"],
            "sha256": entry["sha256"],
            "image": {"bytes": None, "path": entry["path"]},
            "object": entry["label"],
        }
        try:
            if entry.get("error"):
                raise ConsilienceError(entry["error"])
            row["width"], row["height"] = size = read_picture(row).size
        except ConsilienceError as error:
            row["error"] = str(error)
        else:
            if entry.get("mask"):
                row["mask_visible"] = _read_mask(entry["mask"], size, entry["name"])
        rows.append(row)
    return rows


def refuse_unusable(rows: Sequence[Mapping]) -> None:
    """Stop a study that is to stop at a picture which cannot be used (``on_bad_picture: stop``).

    Raises
    ------
    ConsilienceError
        If a row of ``PICTURES`` has an error: names each, one a line.
    """
    if said := [row["error"] for row in rows if row.get("error")]:
        said.append("mend or remove them, or set on_bad_picture: skip to go on without them")
        raise ConsilienceError("\n".join(said))

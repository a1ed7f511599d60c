"""Images: read, fit to a size, write; their 8-bit values as what models see, and back.

Images are uint8 ``[H, W, 3]``, red, green and blue. Everything that a model sees, in training or afterwards, went
through ``read``.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from wavevq.audio import put
from wavevq.errors import WavevqError

Pixels = NDArray[np.uint8]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
VALUES = 256  # of a colour
HALF = (VALUES - 1) / 2
# By Pillow: SyntaxError of a damaged PNG, RuntimeError of a damaged AVIF and of a kind of DDS that it does not know.
DAMAGED = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, struct.error, Image.DecompressionBombError)


# --- files --------------------------------------------------------------------------------------------------


def read(source: str | Path | BinaryIO, size: int | None = None) -> Pixels:
    """The image in a file or a stream, of any format that Pillow reads; what is transparent is white.

    size: resized so that its shorter side is ``size``, and cut to the square in its middle; one that is such a square
    stays as it is. Raises WavevqError where there is no such file, no image in it, or one of more than 8 bits a colour.
    """
    name = str(source) if isinstance(source, str | Path) else str(getattr(source, "name", "stream"))
    try:
        data = Path(source).read_bytes() if isinstance(source, str | Path) else source.read()
    except OSError as error:
        raise WavevqError(f"{name}: cannot be read ({(error.strerror or str(error)).lower()})") from None
    try:
        with Image.open(io.BytesIO(data)) as file:
            if size is not None:
                file.draft("RGB", (2 * size, 2 * size))  # a JPEG is decoded no larger than is needed
            return np.array(_fitted(_coloured(ImageOps.exif_transpose(file)), size))
    except DAMAGED as error:
        reason = "of no known format" if isinstance(error, UnidentifiedImageError) else str(error)
        raise WavevqError(f"{name}: not an image that can be read, such as png or jpg ({reason})") from None


def _coloured(image: Image.Image) -> Image.Image:
    if image.mode[0] in "IF":  # Pillow would clip them
        raise ValueError(f"{image.mode}, more than 8 bits a colour")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.new("RGBA", layer.size, "white")
        image.alpha_composite(layer)
    return image.convert("RGB")


def _fitted(image: Image.Image, size: int | None) -> Image.Image:
    if size is None or image.size == (size, size):
        return image
    return ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)


def png(image: Pixels) -> bytes:
    """An image ``[H, W, 3]`` as a PNG file."""
    data = io.BytesIO()
    Image.fromarray(image).save(data, "png")
    return data.getvalue()


def gif(frames: Pixels, milliseconds: int = 250) -> bytes:
    """Frames ``[T, H, W, 3]`` as an animation that begins again, each shown so long; of 256 colours a frame at most."""
    data = io.BytesIO()
    first, *others = (Image.fromarray(frame) for frame in frames)
    first.save(data, "gif", save_all=True, append_images=others, duration=milliseconds, loop=0)
    return data.getvalue()


def write(target: Path | BinaryIO, image: Pixels) -> None:
    """An image ``[H, W, 3]`` as PNG. Raises WavevqError for a place that cannot be written to."""
    put(target, png(image))


def sheet(images: Pixels, columns: int, gap: int = 2) -> Pixels:
    """Images ``[N, H, W, 3]`` as one, in rows of ``columns``, with ``gap`` white pixels between and around them."""
    count, height, width, _ = images.shape
    rows = -(-count // columns)
    paper = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), VALUES - 1, np.uint8)
    for place, image in enumerate(images):
        row, column = divmod(place, columns)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        paper[top : top + height, left : left + width] = image
    return paper


# --- values -------------------------------------------------------------------------------------------------


def to_signal(images: Pixels) -> Tensor:
    """What models see, float32 ``[B, 3, H, W]`` in [-1, 1], of images ``[B, H, W, 3]``: v is v / 127.5 - 1.

    Of clips ``[B, T, H, W, 3]``: ``[B, 3, T, H, W]``.
    """
    # Stored with the colours last, which is how convolutions like it best.
    return torch.tensor(images).movedim(-1, 1).to(torch.float32).div_(HALF).sub_(1)


def values(x: Tensor) -> Tensor:
    """The 8-bit values, int64 in [0, 255] of any shape, nearest to x in [-1, 1]."""
    return ((x + 1) * HALF).round().clamp(0, VALUES - 1).long()


def to_images(x: Tensor) -> Pixels:
    """Images ``[B, H, W, 3]`` of x ``[B, 3, H, W]``, or clips, as ``to_signal``: the nearest 8-bit values."""
    return cast(Pixels, values(x).movedim(1, -1).to(torch.uint8).cpu().numpy())

"""Codes as files and streams: .npy, int32, little-endian, in [0, K).

``[F]``, one for each hop of samples, or of an image ``[h, w, G]``, G for each square of hop x hop pixels.
"""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from wavevq.audio import put
from wavevq.errors import WavevqError

MOST = 2**40  # codes of a file or a stream: a century of speech


def write_codes(target: Path | BinaryIO, codes: NDArray[np.integer[Any]]) -> None:
    """Codes ``[F]``, or ``[h, w, G]`` of an image, as .npy, int32.

    Raises WavevqError for a place that cannot be written to.
    """
    data = io.BytesIO()
    np.save(data, codes.astype("<i4"), allow_pickle=False)
    put(target, data.getvalue())


def read_codes(
    source: str | Path | BinaryIO, name: str | None = None, axes: Collection[int] = (1,)
) -> NDArray[np.integer[Any]]:
    """The codes in a .npy file or stream: integers ``[F]``, F >= 1; nothing in it is executed.

    axes: how many there may be; 3 are ``[h, w, G]``. Raises WavevqError, with ``name`` or else the path, for anything
    else.
    """
    name = name or str(source)
    try:
        data = io.BytesIO(Path(source).read_bytes() if isinstance(source, str | Path) else source.read())
    except OSError as error:
        raise WavevqError(f"{name}: cannot be read ({(error.strerror or str(error)).lower()})") from None
    shape, order, dtype = _header(data, name, axes)
    count = math.prod(shape)
    whole = data.read(count * dtype.itemsize)
    codes: NDArray[np.integer[Any]] = np.frombuffer(whole[: len(whole) // dtype.itemsize * dtype.itemsize], dtype)
    if len(codes) < count:
        raise cut(name, len(codes), count)
    return codes.reshape(shape, order=order)


def axes_of(path: str | Path) -> int:
    """Of the codes in a .npy file: 1, or of an image 3. Raises WavevqError where it holds none."""
    with Path(path).open("rb") as source:
        return len(_header(source, str(path), (1, 3))[0])


def arriving_codes(
    source: BinaryIO, frames: int, dtype: np.dtype[Any], name: str
) -> Iterator[NDArray[np.integer[Any]]]:
    """The codes after a .npy header, one at a time, each as soon as it is there.

    frames and dtype as ``read_header`` returns them. Raises WavevqError where the codes end early.
    """
    for frame in range(frames):
        try:
            data = source.read(dtype.itemsize)
        except OSError as error:
            raise WavevqError(f"{name}: cannot be read ({(error.strerror or str(error)).lower()})") from None
        if len(data) < dtype.itemsize:
            raise cut(name, frame, frames)
        yield np.frombuffer(data, dtype)


def read_header(source: BinaryIO, name: str) -> tuple[int, np.dtype[Any]]:
    """How many codes a .npy stream holds and their type; it stands at the first of them then.

    Raises WavevqError, with ``name``, for a stream that holds no codes.
    """
    shape, _, dtype = _header(source, name, (1,))
    return shape[0], dtype


def _header(
    source: BinaryIO, name: str, axes: Collection[int]
) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype[Any]]:
    """Shape, order in memory and type of what a .npy stream holds; errors as ``read_header``."""
    versions: dict[tuple[int, int], Any] = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    try:
        try:
            version = npy.read_magic(source)
        except ValueError:
            raise WavevqError(f"{name}: not a .npy file of codes") from None
        if version not in versions:
            raise ValueError(f"version {version}")
        shape, by_columns, dtype = versions[version](source)
    except OSError as error:
        raise WavevqError(f"{name}: cannot be read ({(error.strerror or str(error)).lower()})") from None
    except WavevqError:
        raise
    except Exception as error:  # of a damaged header, which is read as Python's literals are: nearly any
        raise WavevqError(f"{name}: not a .npy file of codes ({' '.join(str(error).split())})") from None
    refuse_noncodes(dtype, shape, name, *axes)
    return shape, "F" if by_columns else "C", dtype


def cut(name: str, there: int, frames: int) -> WavevqError:
    return WavevqError(f"{name}: ends after {there} of {frames} codes")


def refuse_noncodes(dtype: np.dtype[Any], shape: tuple[int, ...], name: str, *axes: int) -> None:
    """Raises WavevqError, with ``name``, for the type, the shape or the size of what can be no codebook's codes.

    axes: how many there may be, by default 1; 3 of an image.
    """
    if dtype.kind not in "iu":  # numpy counts durations among the integers
        raise WavevqError(f"{name}: holds {dtype}; codes are integers")
    if len(shape) not in (axes or (1,)) or min(shape) < 1:
        said = "one sequence of at least one" if axes in ((), (1,)) else "a grid of height, width and codes a position"
        raise WavevqError(f"{name}: has the shape {list(shape)}; codes are {said}")
    if math.prod(shape) > MOST:
        raise WavevqError(f"{name}: claims the shape {list(shape)}; a file has at most {MOST} codes")

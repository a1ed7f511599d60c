"""Codes as files and streams: .npy, int32 ``[F]``, little-endian, in [0, K), one for each hop of samples."""

from __future__ import annotations

import io
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from wavevq.audio import put
from wavevq.errors import WavevqError


def write_codes(target: Path | BinaryIO, codes: NDArray[np.integer[Any]]) -> None:
    """Codes ``[F]`` as .npy, int32. Raises WavevqError for a place that cannot be written to."""
    data = io.BytesIO()
    np.save(data, codes.astype("<i4"), allow_pickle=False)
    put(target, data.getvalue())


def read_codes(source: str | Path | BinaryIO, name: str | None = None) -> NDArray[np.integer[Any]]:
    """The codes in a .npy file or stream: integers ``[F]``, F >= 1; nothing in it is executed.

    Raises WavevqError, with ``name`` or else the path, for anything else.
    """
    name = name or str(source)
    try:
        data = io.BytesIO(Path(source).read_bytes() if isinstance(source, str | Path) else source.read())
    except OSError as error:
        raise WavevqError(f"{name}: cannot be read ({(error.strerror or str(error)).lower()})") from None
    frames, dtype = read_header(data, name)
    whole = data.read(frames * dtype.itemsize)
    codes: NDArray[np.integer[Any]] = np.frombuffer(whole[: len(whole) // dtype.itemsize * dtype.itemsize], dtype)
    if len(codes) < frames:
        raise cut(name, len(codes), frames)
    return codes


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
    versions: dict[tuple[int, int], Any] = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    try:
        try:
            version = npy.read_magic(source)
        except ValueError:
            raise WavevqError(f"{name}: not a .npy file of codes") from None
        if version not in versions:
            raise ValueError(f"version {version}")
        shape, _, dtype = versions[version](source)
    except OSError as error:
        raise WavevqError(f"{name}: cannot be read ({(error.strerror or str(error)).lower()})") from None
    except (ValueError, EOFError, SyntaxError, tokenize.TokenError) as error:  # of a damaged header
        raise WavevqError(f"{name}: not a .npy file of codes ({' '.join(str(error).split())})") from None
    refuse_noncodes(dtype, shape, name)
    return shape[0], dtype


def cut(name: str, there: int, frames: int) -> WavevqError:
    return WavevqError(f"{name}: ends after {there} of {frames} codes")


def refuse_noncodes(dtype: np.dtype[Any], shape: tuple[int, ...], name: str) -> None:
    """Raises WavevqError, with ``name``, for the type or the shape of what can be no codebook's codes."""
    if not np.issubdtype(dtype, np.integer):
        raise WavevqError(f"{name}: holds {dtype}; codes are integers")
    if len(shape) != 1 or shape[0] < 1:
        raise WavevqError(f"{name}: has the shape {list(shape)}; codes are one sequence of at least one")

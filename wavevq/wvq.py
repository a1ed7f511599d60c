"""The .wvq format: codes arithmetic-coded under the prior, and what their audio is to be.

Everything little-endian:

    offset  bytes  what
    0       4      magic, "WVQ" and 0x1a
    4       1      version, 1: of this layout, and of the integers of ``wavevq.fixed``
    5       1      n, bytes of the speaker's name
    6       8      hash of the model, VQ-VAE and prior
    14      4      rate, Hz
    18      4      length, samples at that rate
    22      4      number of codes
    26      4      m, bytes of the payload, a multiple of 4
    30      n      speaker, UTF-8: the voice, and where the prior knows speakers the label that codes are coded under
    30+n    m      payload: 32-bit words of constriction's range coder, 24 bits of precision
    30+n+m  4      CRC-32 of all before and then the codes as 32-bit integers
    34+n+m  4      CRC-32 of all before

The last finds damage before any work. The one before it finds codes that are not those that were coded, whatever the
reason: then there is no audio. Where a clip ends is told by the number of codes, which a header has to hold anyway;
so the prior's end class, which would cost bits at every code, is left out of the distributions.
"""

from __future__ import annotations

import math
import struct
import zlib
from array import array
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from constriction import stream
from numpy.typing import NDArray

from wavevq.errors import WavevqError
from wavevq.fixed import CHUNK, NOTHING, TOTAL, FixedPrior

Codes = NDArray[np.int64]

MAGIC, VERSION = b"WVQ\x1a", 1
HEAD = struct.Struct("<4sBB8sIIII")
SUM = struct.Struct("<I")
OVERHEAD = HEAD.size + 2 * SUM.size  # bytes besides the speaker's name and the payload
AT_ONCE = 1 << 20  # bytes read at once: a header may claim more than there is
SLACK = 64  # bits by which a payload may be shorter than what its codes cost


@dataclass(frozen=True)
class Header:
    """What stands before the payload. model: 8 bytes; rate: Hz; samples and codes: how many."""

    model: bytes
    rate: int
    samples: int
    codes: int
    speaker: str


@dataclass(frozen=True)
class Packed:
    """A file that is whole: seal is the checksum of its ``front`` (header, speaker and payload) and of the codes."""

    header: Header
    front: bytes
    payload: bytes
    seal: int


def pack(header: Header, codes: Codes, prior: FixedPrior, label: int) -> bytes:
    """A file of codes ``[F]``, F = header.codes >= 1, in [0, K), coded under a label.

    Raises WavevqError for what the header's fields cannot hold.
    """
    try:
        speaker = header.speaker.encode()
    except UnicodeEncodeError:
        raise WavevqError(f"{header.speaker}: a .wvq file's speaker must be text, which this name is not") from None
    payload = encode(codes, prior, label)
    for what, value, most in (
        ("bytes of the speaker's name", len(speaker), 2**8 - 1),
        ("samples", header.samples, 2**32 - 1),
        ("bytes of payload", len(payload), 2**32 - 1),
    ):
        if value > most:
            raise WavevqError(f"{value} {what}: a .wvq file holds at most {most}")
    head = HEAD.pack(
        MAGIC, VERSION, len(speaker), header.model, header.rate, header.samples, header.codes, len(payload)
    )
    front = head + speaker + payload
    return _checked(front + SUM.pack(_seal(front, codes)))


def _checked(data: bytes) -> bytes:
    return data + SUM.pack(zlib.crc32(data))


def _seal(front: bytes, codes: Codes) -> int:
    return zlib.crc32(codes.astype("<i4").tobytes(), zlib.crc32(front))


def read(source: Path | BinaryIO, name: str) -> Packed:
    """A file, its checksum tested. Raises WavevqError, with ``name``, for one that is foreign, cut or damaged."""
    try:
        with source.open("rb") if isinstance(source, Path) else nullcontext(source) as opened:
            return _read(opened, name)
    except OSError as error:
        raise WavevqError(f"{name}: cannot be read ({(error.strerror or str(error)).lower()})") from None


def _read(source: BinaryIO, name: str) -> Packed:
    head = _take(source, HEAD.size)
    if not head or head[: len(MAGIC)] != MAGIC[: len(head)]:
        raise WavevqError(f"{name}: not a .wvq file")
    if len(head) > len(MAGIC) and head[len(MAGIC)] != VERSION:
        raise WavevqError(f"{name}: of version {head[len(MAGIC)]} of the .wvq format; this wavevq reads {VERSION}")
    if len(head) < HEAD.size:
        raise WavevqError(f"{name}: is cut, ends after {len(head)} of at least {OVERHEAD} bytes")
    _, _, named, model, rate, samples, codes, size = HEAD.unpack(head)
    length = named + size + 2 * SUM.size
    rest = _take(source, length + 1)
    if len(rest) < length:
        raise WavevqError(f"{name}: is cut, ends after {HEAD.size + len(rest)} of {HEAD.size + length} bytes")
    if len(rest) > length:
        raise WavevqError(f"{name}: goes on after the {HEAD.size + length} bytes that its header tells of")
    data = head + rest
    if _checked(data[: -SUM.size]) != data:
        raise WavevqError(f"{name}: is damaged, its checksum is another")
    front = data[: -2 * SUM.size]
    try:
        speaker = front[HEAD.size : HEAD.size + named].decode()
    except UnicodeDecodeError:
        raise WavevqError(f"{name}: is damaged, its speaker's name is not UTF-8") from None
    if not codes or size % 4:
        raise WavevqError(f"{name}: is damaged, holds {codes} codes in {size} bytes")
    (seal,) = SUM.unpack_from(data, len(front))
    return Packed(Header(model, rate, samples, codes, speaker), front, front[HEAD.size + named :], seal)


def _take(source: BinaryIO, size: int) -> bytes:
    """The next ``size`` bytes, or fewer where a stream ends."""
    parts: list[bytes] = []
    while size and (part := source.read(min(size, AT_ONCE))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


# --- the arithmetic code ------------------------------------------------------------------------------------


def _models(frequencies: NDArray[np.int64]) -> NDArray[np.float64]:
    """The probabilities ``[..., K]`` of which constriction makes exactly these frequencies.

    It gives each of K symbols 1 of 2^24 and shares out the other 2^24 - K in proportion: to integers that sum to
    those, by a factor of 1, with sums that floating point holds exactly.
    """
    return (frequencies - 1).astype(np.float64)


def encode(codes: Codes, prior: FixedPrior, label: int) -> bytes:
    """The payload of codes ``[F]`` in [0, K)."""
    state, coder, family = prior.start(label), stream.queue.RangeEncoder(), stream.model.Categorical(perfect=False)
    before = np.append(NOTHING, codes[:-1])
    for start in range(0, len(codes), CHUNK):
        found = prior.frequencies(state, before[start : start + CHUNK])
        coder.encode(codes[start : start + CHUNK].astype(np.int32), family, _models(found))
    words: NDArray[np.uint32] = coder.get_compressed()
    return words.astype("<u4").tobytes()


def decode(
    packed: Packed, prior: FixedPrior, label: int, name: str, advance: Callable[[int], object] = lambda codes: None
) -> Codes:
    """The codes ``[F]`` of a file. advance: called with 1 after each code.

    Raises WavevqError, with ``name``, where they are not those that were coded.
    """
    wrong = WavevqError(
        f"{name}: its codes do not match their checksum, so nothing is decoded: "
        "it was altered, or this machine calculates otherwise"
    )
    state = prior.start(label)
    coder = stream.queue.RangeDecoder(np.frombuffer(packed.payload, "<u4").astype(np.uint32))
    codes, last, left = array("i"), NOTHING, 8.0 * len(packed.payload) + SLACK
    for _ in range(packed.header.codes):
        found = prior.frequencies(state, np.array([last]))[0]
        last = _next(coder, found, wrong)
        left -= TOTAL - math.log2(found[last])
        if left < 0:  # whatever the header says, there is no more to come
            raise wrong
        codes.append(last)
        advance(1)
    found = np.array(codes, np.int64)
    if _seal(packed.front, found) != packed.seal:
        raise wrong
    return found


def _next(coder: Any, frequencies: NDArray[np.int64], wrong: WavevqError) -> int:
    try:
        return int(coder.decode(stream.model.Categorical(_models(frequencies), lazy=True)))
    except AssertionError:  # constriction's, of words that no encoder has made
        raise wrong from None

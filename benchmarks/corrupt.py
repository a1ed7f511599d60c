"""Damaged .wvq files: each must be refused with one line, and none may crash, hang or take memory.

python benchmarks/corrupt.py --run RUN: 10,000 files in one process (--quick: 1,000), made of clips that the run's
prior has drawn. Bits are flipped, ends cut off, bytes appended, headers and payloads swapped, fields set to extremes;
half of the files get a new checksum over it all, so that what lies behind it is tried too.

Figures: refused, accepted, crashed, slowest_s (of one file), total_s, grown_mib (peak memory over the start's).
"""

from __future__ import annotations

import io
import resource
import sys
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from common import options, report

from wavevq import wvq
from wavevq.compress import Packer
from wavevq.errors import WavevqError
from wavevq.jobs import Job
from wavevq.run import Run, load_run

CLIPS, FRAMES = 12, 60
FIELDS = {"name": (5, 1), "rate": (14, 4), "samples": (18, 4), "codes": (22, 4), "payload": (26, 4)}  # offset, bytes
KINDS = ("flipped", "cut", "appended", "header swapped", "payload swapped", "field", "several fields", "noise")


def cases(files: Sequence[bytes], count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """``count`` damaged files of every kind in turn, none of them equal to one of ``files``."""
    rng = np.random.default_rng(seed)
    made = 0
    while made < count:
        kind, sealed = KINDS[made % len(KINDS)], made // len(KINDS) % 2 == 1
        one, other = (files[i] for i in rng.choice(len(files), 2, replace=False))
        data = damaged(kind, one, other, rng)
        if sealed:
            data = data[: -wvq.SUM.size] + wvq.SUM.pack(zlib.crc32(data[: -wvq.SUM.size]))
        if data not in files:
            made += 1
            yield f"{kind}, sealed" if sealed else kind, data


def damaged(kind: str, one: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(one)
    if kind == "flipped":
        for bit in rng.integers(0, 8 * len(data), rng.integers(1, 9)).tolist():
            data[bit // 8] ^= 1 << bit % 8
    elif kind == "cut":
        del data[int(rng.integers(len(data))) :]
    elif kind == "appended":
        data += rng.bytes(int(rng.integers(1, 65)))
    elif kind == "header swapped":
        data = bytearray(other[: front(other)] + one[front(one) :])
    elif kind == "payload swapped":
        size = len(other) - front(other) - 2 * wvq.SUM.size
        data[front(one) : -2 * wvq.SUM.size] = other[front(other) :][:size]
        data[26:30] = size.to_bytes(4, "little")  # a header that fits its payload
    elif kind == "noise":
        keep = int(rng.integers(0, wvq.HEAD.size))
        data[keep:] = rng.bytes(int(rng.integers(0, 200)))
    else:
        for name in rng.choice(list(FIELDS), 1 if kind == "field" else 3, replace=False).tolist():
            at, size = FIELDS[name]
            value = int(rng.choice([0, 1, 2, 2**7, 2**16, 2**24, 2**31, 2**32 - 1]))
            data[at : at + size] = (value % 2 ** (8 * size)).to_bytes(size, "little")
    return bytes(data)


def front(data: bytes) -> int:
    """Where the payload begins."""
    return wvq.HEAD.size + data[5]


def whole(run: Run, packer: Packer) -> list[bytes]:
    """Undamaged files of several speakers and lengths."""
    speakers = [run.speakers[i % len(run.speakers)] for i in range(CLIPS)]
    clips = run.sample_codes(speakers, FRAMES)
    hop = run.recipe.hop
    cut = [codes[: 5 * i + 1] for i, codes in enumerate(clips)]
    return [
        packer.pack(codes, speaker, len(codes) * hop - hop // 2)
        for codes, speaker in zip(cut, speakers, strict=True)
        if len(codes)
    ]


def opened(packer: Packer, data: bytes) -> wvq.Codes:
    """The codes of a file, as decompress gets them."""
    job = Job(io.BytesIO(data), io.BytesIO())
    packed = packer.read(job)
    return wvq.decode(packed, packer.prior, packer.run.speaker(packed.header.speaker), job.name)


def main() -> None:
    given = options(__doc__ or "", threads=1, takes_run=True)
    run = load_run(given.run, "cpu")
    packer = Packer(run)
    files = whole(run, packer)
    for data in files:
        opened(packer, data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found: Counter[str] = Counter()
    said: Counter[str] = Counter()
    slowest, started = 0.0, time.perf_counter()
    for kind, data in cases(files, 1_000 if given.quick else 10_000, seed=0):
        begun = time.perf_counter()
        try:
            opened(packer, data)
            outcome = "accepted"
        except WavevqError as error:
            outcome = "refused" if len(str(error).splitlines()) == 1 else "crashed"
            said["".join(c for c in str(error).partition(": ")[2] if not c.isdigit())[:40]] += 1
        except Exception:  # whatever it is: a crash is what is looked for, and one ends no count
            traceback.print_exc()
            outcome = "crashed"
        slowest = max(slowest, time.perf_counter() - begun)
        found[outcome] += 1
        found[f"{outcome}: {kind}"] += 1
    for name, number in sorted(found.items()) + said.most_common():
        print(f"{number:6d}  {name}")
    report(
        {
            "refused": found["refused"],
            "accepted": found["accepted"],
            "crashed": found["crashed"],
            "slowest_s": slowest,
            "total_s": time.perf_counter() - started,
            "grown_mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
        },
        given,
    )
    sys.exit(bool(found["accepted"] or found["crashed"]))


if __name__ == "__main__":
    main()

"""What compressing costs against the prior's own bits, on the held-out codes of a run's corpus, end to end.

python benchmarks/coding.py --run RUN [--set data.root=PATH], on all of them; --quick: on every tenth clip.

Figures, in bits a code: uniform_bits (log2 K); float_bits (the float prior's, the end of each clip shared out over its
codes), float_codes_bits (the same without ends: of codes given that there is one), fixed_bits (those of the integers),
payload_bits (of what is written for codes). Then payload_excess_percent and payload_excess_bytes (over float_bits; a
file), fixed_excess_percent (fixed_bits over float_codes_bits), overhead_bytes (a file's, besides the payload),
payload_bit_s and file_bit_s (a second of audio), encode_codes_s and decode_codes_s (codes a second of coding alone),
decode_realtime (of the same). Each decoded file's codes are compared.
"""

from __future__ import annotations

import io
import math
import time

import numpy as np
import torch
from common import options, report
from rich.console import Console

from wavevq import wvq
from wavevq.compress import Packer
from wavevq.evaluation import subject_of, with_overrides
from wavevq.fixed import CHUNK, NOTHING, TOTAL
from wavevq.jobs import Job
from wavevq.run import load_run


def main() -> None:
    given = options(__doc__ or "", threads=1, takes_run=True, takes_sets=True)
    run = load_run(given.run, "cpu")
    prior, _ = run.trained_prior()
    packer = Packer(run)
    found = subject_of(run, with_overrides(run, given.sets), Console(markup=False))
    every = list(zip(found.codes, found.sequences.labels, strict=True))[:: 10 if given.quick else 1]
    packer.prior.frequencies(packer.prior.start(0), np.array([NOTHING]))  # compiles
    bits = dict.fromkeys(("float", "float_codes", "fixed", "payload", "file"), 0.0)
    seconds = {"encode": 0.0, "decode": 0.0}
    for codes, label in every:
        whole = torch.from_numpy(np.append(codes, prior.codes) if prior.ends else codes)[None]
        with torch.no_grad():
            logits = prior.logits(whole, torch.tensor([label]))[0].double()
        bits["float"] -= float(logits.log_softmax(1).gather(1, whole[0, :, None]).sum()) / math.log(2)
        given_one = logits[: len(codes), : prior.codes].log_softmax(1)
        bits["float_codes"] -= float(given_one.gather(1, whole[0, : len(codes), None]).sum()) / math.log(2)
        state, before = packer.prior.start(label), np.append(NOTHING, codes[:-1])
        for start in range(0, len(codes), CHUNK):
            part = slice(start, start + CHUNK)
            frequencies = packer.prior.frequencies(state, before[part])
            chosen = frequencies[np.arange(len(frequencies)), codes[part]]
            bits["fixed"] += float((TOTAL - np.log2(chosen)).sum())
        started = time.perf_counter()
        data = packer.pack(codes, run.speakers[label], len(codes) * run.recipe.hop)
        encoded = time.perf_counter()
        packed = packer.read(Job(io.BytesIO(data), io.BytesIO()))
        decoded = wvq.decode(packed, packer.prior, label, "file")
        seconds["decode"] += time.perf_counter() - encoded
        seconds["encode"] += encoded - started
        assert np.array_equal(decoded, codes)
        bits["payload"] += 8 * len(packed.payload)
        bits["file"] += 8 * len(data)
    count, files = sum(len(codes) for codes, _ in every), len(every)
    rate = run.rate / run.recipe.hop
    print(f"{run.folder}: {files} files, {count} codes, {count / files:.1f} a file")
    report(
        {
            "files": files,
            "codes": count,
            "uniform_bits": math.log2(prior.codes),
            **{f"{name}_bits": bits[name] / count for name in ("float", "float_codes", "fixed", "payload")},
            "payload_excess_percent": 100 * (bits["payload"] / bits["float"] - 1),
            "payload_excess_bytes": (bits["payload"] - bits["float"]) / 8 / files,
            "fixed_excess_percent": 100 * (bits["fixed"] / bits["float_codes"] - 1),
            "overhead_bytes": (bits["file"] - bits["payload"]) / 8 / files,
            "payload_bit_s": bits["payload"] / count * rate,
            "file_bit_s": bits["file"] / count * rate,
            "encode_codes_s": count / seconds["encode"],
            "decode_codes_s": count / seconds["decode"],
            "decode_realtime": count / seconds["decode"] / rate,
        },
        given,
    )


if __name__ == "__main__":
    main()

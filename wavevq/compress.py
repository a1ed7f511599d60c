"""Audio to .wvq files and back: the codes of a recording, arithmetic-coded under the run's prior."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
from rich.console import Console

from wavevq import wvq
from wavevq.audio import opened, put
from wavevq.errors import WavevqError
from wavevq.files import Clip, Sampling, sample_clips
from wavevq.fixed import NOTHING, FixedPrior
from wavevq.jobs import Job
from wavevq.progress import Told, seconds_bar, with_bar
from wavevq.run import Run


def compress(run: Run, jobs: Sequence[Job], speaker: str | None, console: Console) -> None:
    """Audio to .wvq files. speaker: who speaks, and in whose voice it will be decoded.

    Inputs that cannot be used are told at the end, in a WavevqError; the others are done. Raises one at once for a
    run without a prior or of several speakers where none is named.
    """
    if speaker is None and len(run.speakers) > 1:
        raise WavevqError(f"--speaker: missing; {run.folder} knows {', '.join(run.speakers)}")
    speaker = run.speakers[0] if speaker is None else speaker
    run.speaker(speaker)
    packer = Packer(run)
    told = Told("compressed", "encoding and coding", console)
    total = coded = 0
    for job, advance in with_bar(jobs, "compressing", console):
        with told.errors():
            with told.timing(), opened(job.source) as recording:
                codes = run.encode(recording, advance)
                # The same cut as in converting. Rounding may make one sample more of a recording than its codes cover.
                samples = max(1, min(run.duration(recording), len(codes) * run.recipe.hop))
                data = packer.pack(codes, speaker, samples)
            put(job.target, data)
            told.add(samples / run.rate)
            total, coded = total + len(data), coded + len(codes)
    if told.files:
        console.print(
            f"{total} bytes, {8 * total / told.seconds:.0f} bits/s, {8 * total / coded:.2f} bits a code, all in all",
            soft_wrap=True,
            highlight=False,
        )
    told.end()


def decompress(run: Run, jobs: Sequence[Job], sampling: Sampling, console: Console) -> None:
    """.wvq files to audio: what ``Run.decode`` makes of the codes and the speaker, cut to the recording's length.

    Nothing is written before a file's codes have matched their checksum. Errors as in ``compress``.
    """
    packer = Packer(run)
    told = Told("decompressed", "decoding and sampling", console)
    packed = []
    for job in jobs:
        with told.errors():
            packed.append((job, packer.read(job)))
    if packed:  # what decodes is compiled, or loaded, before the clock runs
        packer.prior.frequencies(packer.prior.start(0), np.array([NOTHING]))
    clips = []
    total = sum(one.header.codes for _, one in packed) * run.recipe.hop / run.rate
    with seconds_bar(total, console, "decoding") as advance:
        for job, one in packed:
            with told.errors(), told.timing():
                label = run.speaker(one.header.speaker)
                codes = wvq.decode(
                    one, packer.prior, label, job.name, lambda codes: advance(codes * run.recipe.hop / run.rate)
                )
                clips.append(Clip(job, one.header.speaker, codes, one.header.samples))
    sample_clips(run, clips, sampling, told, console)
    told.end()


class Packer:
    """A run's model as .wvq files need it. Raises WavevqError for a run without a prior."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.prior = FixedPrior(run.trained_prior()[0])
        self.model = fingerprint(run)

    def pack(self, codes: wvq.Codes, speaker: str, samples: int) -> bytes:
        """The file of codes ``[F]`` whose audio is to be ``samples`` long."""
        header = wvq.Header(self.model, self.run.rate, samples, len(codes), speaker)
        return wvq.pack(header, codes, self.prior, self.run.speaker(speaker))

    def read(self, job: Job) -> wvq.Packed:
        """A file of this very model. Raises WavevqError for any other."""
        packed = wvq.read(job.source, job.name)
        header, hop = packed.header, self.run.recipe.hop
        if header.model != self.model:
            raise WavevqError(
                f"{job.name}: was compressed with the model {header.model.hex()}, "
                f"{self.run.folder} holds {self.model.hex()}; name the right run with --run"
            )
        if header.rate != self.run.rate:
            raise WavevqError(f"{job.name}: is damaged, its rate is {header.rate} Hz, its model's {self.run.rate} Hz")
        if header.speaker not in self.run.speakers:
            raise WavevqError(f"{job.name}: is damaged, its model knows no speaker {header.speaker!r}")
        if not max(1, (header.codes - 1) * hop) <= header.samples <= header.codes * hop:
            raise WavevqError(f"{job.name}: is damaged, {header.codes} codes cannot be {header.samples} samples")
        return packed


def fingerprint(run: Run) -> bytes:
    """8 bytes of a hash over all that codes and audio depend on: weights, architecture, rate and speakers."""
    prior, _ = run.trained_prior()
    assert run.recipe.prior is not None
    about = [
        run.recipe.model.model_dump(mode="json"),
        run.recipe.prior.network.model_dump(mode="json"),
        run.rate,
        run.speakers,
    ]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for module in (run.model, prior):
        for name, value in module.state_dict().items():
            digest.update(name.encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.digest()[:8]

"""Speech from nothing: codes from the prior, audio from the codes, written with a page to listen to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from wavevq.audio import Recording, Signal, make_folder
from wavevq.codes_file import write_codes
from wavevq.errors import WavevqError
from wavevq.evaluate.report import Report, Take
from wavevq.files import Sampling, write_audio
from wavevq.jobs import CODES, PAGE, refuse_full
from wavevq.progress import Told, codes_bar, seconds_bar
from wavevq.run import Run, drawn_labels

AT_ONCE = 32  # clips drawn together
LONGEST = 3600  # seconds of a clip


@dataclass(frozen=True)
class Sampled:
    """A new clip: its codes ``[F]``, the first ``primed`` of them the prime's, its audio, and whose voice it is."""

    name: str
    speaker: str
    codes: NDArray[np.int64]
    audio: Signal
    primed: int


def sample(
    run: Run,
    folder: Path,
    count: int,
    seconds: float,
    console: Console,
    *,
    speaker: str | None = None,
    prime: Recording | None = None,
    guidance: float = 1.0,
    **how: Any,
) -> list[Sampled]:
    """Draw ``count`` clips of at most ``seconds`` and write them below ``folder``: wav, codes and a page.

    speaker: whose voice; None draws each clip's by the seed, and says whose. prime: a recording that every clip begins
    with and goes on from, ``seconds`` at most. guidance: W of ``sampling.guidance``; what then draws the codes is said.
    how: the keywords of ``Run.decode``. Raises WavevqError, before any work, for a folder that holds something or
    cannot be made and for what cannot be had.
    """
    refuse_full(folder)
    shortest = run.recipe.hop / run.rate
    if not shortest <= seconds <= LONGEST:
        raise WavevqError(f"seconds {seconds:g}: must be from {shortest:g}, a code, to {LONGEST}")
    frames = round(seconds / shortest)
    sampling = Sampling(**how)
    if speaker is not None:
        run.speaker(speaker)
    run.trained_prior()
    given = None if prime is None else run.encode(prime)
    if guidance != 1:
        console.print(f"codes: {run.guided(guidance)}", soft_wrap=True, highlight=False)
    told = Told("sampled", "sampling", console)
    speakers = [speaker] * count if speaker is not None else drawn_speakers(run, count, sampling.seed)
    if speaker is None:
        console.print(f"speakers, drawn by the seed: {', '.join(speakers)}", soft_wrap=True, highlight=False)
    if given is not None:
        begun = f"every clip begins with the prime, {len(given) * shortest:.2f} s"
        console.print(f"{begun}, and may go on for {seconds:g} s", soft_wrap=True, highlight=False)
    groups = [range(start, min(count, start + AT_ONCE)) for start in range(0, count, AT_ONCE)]
    make_folder(folder / PAGE)  # what cannot be written is told before the work
    run.warm_up()
    codes: list[NDArray[np.int64]] = []
    with told.timing(), codes_bar(count * frames, console) as advance:
        for some in groups:
            codes += run.sample_codes(
                [speakers[i] for i in some],
                frames,
                prime=given,
                guidance=guidance,
                streams=some,
                advance=advance,
                **sampling.how,
            )
    if given is not None:
        ended = sum(not len(one) for one in codes)
        if ended:
            console.print(f"{ended} of {count} end where the prime does", soft_wrap=True, highlight=False)
        codes = [np.concatenate([given, one]) for one in codes]
    clips: list[Sampled] = []
    with seconds_bar(sum(map(len, codes)) * shortest, console) as advance:
        for some in groups:
            with told.timing():
                said = [i for i in some if len(codes[i])]  # one that ended at once has nothing to be decoded
                audio = run.decode_batch(
                    [codes[i] for i in said],
                    [speakers[i] for i in said],
                    streams=said,
                    advance=lambda samples: advance(samples / run.rate),
                    **sampling.how,
                )
            signals = dict(zip(said, audio, strict=True))
            for i in some:
                primed = 0 if given is None else len(given)
                silence = np.zeros(0, np.float32)
                clip = Sampled(f"{i + 1:03d}", speakers[i], codes[i], signals.get(i, silence), primed)
                write_audio(folder / f"{clip.name}.wav", clip.audio, run.rate)
                write_codes(folder / f"{clip.name}{CODES}", clip.codes)
                told.add(len(clip.audio) / run.rate)
                clips.append(clip)
    page(run, clips, folder / PAGE)
    told.end()
    console.print(f"written: {folder / PAGE}", soft_wrap=True, highlight=False)
    return clips


def drawn_speakers(run: Run, count: int, seed: int) -> list[str]:
    """A speaker for each clip, by the seed."""
    return drawn_labels(run.trained_speakers, count, seed)


def page(run: Run, clips: Sequence[Sampled], path: Path) -> Path:
    """A page to listen to."""
    report = Report(f"Sampled from {run.folder.name}")
    report.text("New codes from the prior, and what the decoder makes of them: nobody has said this.")
    if clips[0].primed:
        seconds = clips[0].primed * run.recipe.hop / run.rate
        report.text(f"But for the beginning of each, {seconds:.2f} s, whose codes are those of the recording given.")
    rows: list[tuple[Any, ...]] = [
        (clip.name, clip.speaker, len(clip.codes) - clip.primed, f"{len(clip.audio) / run.rate:.2f} s")
        for clip in clips
    ]
    report.table(("clip", "speaker", "new codes", "length"), rows)
    heard = [clip for clip in clips if len(clip.audio)]
    report.listen("Clips", [Take(f"{clip.name}, {clip.speaker}", "sampled", clip.audio, run.rate) for clip in heard])
    return report.write(path)

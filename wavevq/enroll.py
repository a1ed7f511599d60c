"""A speaker that the model has never heard: an embedding fitted to some audio, everything else frozen.

The codes of the clips are those of the trained encoder, and the embedding is what makes the decoder find the clips
likeliest, given them. It is what a speaker adds to the gates of every layer (the global conditioning of Van den Oord et
al. 2016, section 2.5), which the table of the known speakers gives by its rows: fitting another row would reach no
further than the directions of those few. It starts where a known speaker, or the mean of all, already does best.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from wavevq import __version__, voices
from wavevq.audio import Recording, normalise
from wavevq.data.batches import order
from wavevq.decoders import WaveNetDecoder, of_speech
from wavevq.errors import WavevqError
from wavevq.nn.encoders import valid
from wavevq.noise import ORDER, derived
from wavevq.progress import beginning, moving
from wavevq.run import Run
from wavevq.run_folder import CHECKPOINTS
from wavevq.train.state import checkpoints, fingerprint
from wavevq.voices import Voice

STOPPING, TOLD = 0.1, 0.1  # shares of the audio: when to stop is seen on the one, the figures are of the other
CHECK_EVERY, PATIENCE = 20, 4  # steps; so many checks without a gain end it
RANKING_SECONDS = 100.0  # of audio, all known speakers together, that the start is chosen by


@dataclass(frozen=True, eq=False)
class Piece:
    """At most a training crop of a clip. x: float32 ``[T]``, z: its codes' vectors ``[F, D]``, length: valid samples.

    clip: whose it is.
    """

    x: Tensor
    z: Tensor
    length: int
    clip: int


@dataclass(frozen=True, eq=False)
class Fit:
    """What a fit has come to. steps: that the embedding has seen. start: where it began.

    before, after: bits a sample of audio that neither fitted nor stopped it, for the best known speaker's label and for
    the new embedding. nearest: that speaker.
    """

    embedding: Tensor
    steps: int
    start: str
    nearest: str
    before: float
    after: float


def enroll(
    run: Run,
    name: str,
    recordings: Sequence[Recording],
    console: Console,
    *,
    steps: int,
    rate: float,
    seed: int,
    replace: bool = False,
) -> Voice:
    """Fit a speaker to recordings and keep the embedding beside the run, for ``load_run`` to find.

    run: loaded without its enrolled speakers; nothing in it changes. steps: at most so many, over which Adam's rate
    falls from ``rate`` to 0. Raises WavevqError for a name that cannot be or is taken, and for too little audio.
    """
    path = voices.place(run.folder, name, run.speakers, replace)
    pieces = cut(run, recordings)
    seconds = sum(piece.length for piece in pieces) / run.rate
    console.print(f"{name}: {len(recordings)} clips, {seconds:.1f} s", highlight=False)
    found = fit(run, pieces, console, steps, rate, seed)
    console.print(
        f"held-out bits/sample: {found.before:.4f} as {found.nearest}, the best known speaker; {found.after:.4f} as "
        f"{name}, after {found.steps} steps from {found.start}",
        soft_wrap=True,
        highlight=False,
    )
    if found.after >= found.before:
        console.print(
            f"WARNING: {name} is no better heard than {found.nearest}: more audio, or more steps, may help",
            style="bold red",
            soft_wrap=True,
        )
    about = {
        "wavevq": __version__,
        "date": datetime.now().isoformat(timespec="seconds"),
        "clips": [one.name for one in recordings],
        "seconds": round(seconds, 3),
        "steps": found.steps,
        "rate": rate,
        "seed": seed,
        "start": found.start,
        "nearest": found.nearest,
        "bits_per_sample_before": found.before,
        "bits_per_sample_after": found.after,
    }
    voice = Voice(name, found.embedding, fingerprint(checkpoints(run.folder / CHECKPOINTS)[-1]), about)
    voices.save(path, voice)
    console.print(f"written: {path}", soft_wrap=True, highlight=False)
    return voice


@torch.no_grad()
def cut(run: Run, recordings: Sequence[Recording]) -> list[Piece]:
    """Clips as the model hears them in training, encoded whole, in pieces of its crop. Raises for too little audio."""
    crop, hop = run.recipe.train.crop, run.model.hop
    pieces = []
    for number, recording in enumerate(recordings):
        heard = normalise(recording, run.rate, run.recipe.speech.trim_db)
        samples = heard.samples[heard.kept]
        x = torch.from_numpy(np.pad(samples, (0, -len(samples) % hop))).to(run.device)
        z = run.model.encode(x[None, None], torch.tensor([len(samples)], device=run.device)).z[0]
        pieces += [
            Piece(x[t : t + crop], z[t // hop : (t + crop) // hop], min(crop, len(samples) - t), number)
            for t in range(0, len(samples), crop)
        ]
    if len(pieces) < 3:
        least = 3 * crop / run.rate
        raise WavevqError(f"{len(recordings)} clips: hold too little to fit, stop and measure on; give {least:.1f} s")
    return pieces


def shares(pieces: Sequence[Piece], seed: int) -> tuple[list[Piece], list[Piece], list[Piece]]:
    """To fit on, to stop by, to measure on. Clips stay whole where there are several, but for those at the borders."""
    clips = order(derived(seed, ORDER), 0, 1 + max(piece.clip for piece in pieces)).tolist()
    ordered = [piece for clip in clips for piece in pieces if piece.clip == clip]
    told = max(1, round(TOLD * len(ordered)))
    stopping = max(1, round(STOPPING * len(ordered)))
    fitted = len(ordered) - stopping - told
    return ordered[:fitted], ordered[fitted : fitted + stopping], ordered[fitted + stopping :]


def fit(run: Run, pieces: Sequence[Piece], console: Console, steps: int, rate: float, seed: int) -> Fit:
    """The embedding of the likeliest voice, a function of the pieces and the seed."""
    heard = of_speech(run.model.decoder)
    known = torch.stack([heard.voice(label) for label in range(len(run.speakers))])
    fitted, stopping, told = shares(pieces, seed)
    size = run.recipe.train.batch
    decoder = one_speaker(heard)
    beginning(f"comparing {len(known)} known speakers, then fitting: {steps} steps at most", console)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    said = TextColumn("{task.fields[says]}")
    with Progress(*columns, said, console=console, disable=not moving(console)) as progress:
        some = ranked_on(fitted, len(known) + 1, run)
        task = progress.add_task("comparing known speakers", total=len(known) + 1, says="")
        scores = []
        for row in (*known, known.mean(0)):
            scores.append(bits(speaking(decoder, row), some, size, run.model.hop))
            progress.advance(task)
        nearest = int(np.argmin(scores[:-1]))
        start = int(np.argmin(scores))
        candidates = (*run.speakers, "the mean of all")
        before = bits(speaking(decoder, known[nearest]), told, size, run.model.hop)

        speaking(decoder, known.mean(0) if start == len(known) else known[start])
        voice = decoder.get_buffer("added")
        with mixed(run):
            best, kept, seen = bits(decoder, stopping, size, run.model.hop), voice.detach().clone(), 0
        optimizer = torch.optim.Adam([voice], lr=rate)
        task = progress.add_task("fitting", total=steps, says=f"{best:.3f} bits/sample")
        for step in range(1, steps + 1):
            optimizer.param_groups[0]["lr"] = rate * (1 - (step - 1) / steps)
            with mixed(run):
                loss = nats(decoder, batch_of(fitted, step - 1, size, seed), run.model.hop)
            torch.autograd.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            progress.advance(task)
            if step % CHECK_EVERY == 0 or step == steps:
                with mixed(run):
                    now = bits(decoder, stopping, size, run.model.hop)
                progress.update(task, says=f"{now:.3f} bits/sample")
                if now < best:
                    best, kept, seen = now, voice.detach().clone(), step
                elif step - seen >= PATIENCE * CHECK_EVERY:
                    break
    after = bits(speaking(decoder, kept[0]), told, size, run.model.hop)
    return Fit(kept[0], seen, candidates[start], run.speakers[nearest], before, after)


def one_speaker(decoder: WaveNetDecoder) -> WaveNetDecoder:
    """A copy that knows one speaker, whose embedding is all in it that learns."""
    alone = copy.deepcopy(decoder).requires_grad_(False)
    alone.speaker = nn.Embedding(1, decoder.speaker.embedding_dim, _weight=torch.zeros_like(decoder.speaker.weight[:1]))
    alone.speaker.requires_grad_(False)
    alone.added = torch.zeros_like(decoder.voice(0))[None].requires_grad_()
    return alone


@torch.no_grad()
def speaking(decoder: WaveNetDecoder, embedding: Tensor) -> WaveNetDecoder:
    """The decoder of ``one_speaker``, that speaker being ``embedding`` ``[L, 2W]``."""
    decoder.get_buffer("added").copy_(embedding[None])
    return decoder


def mixed(run: Run) -> torch.autocast:
    """The precision of the training: gradients need no more, and come twice as fast."""
    return torch.autocast(run.device.type, torch.bfloat16, enabled=run.recipe.train.precision == "bf16-mixed")


def ranked_on(pieces: Sequence[Piece], candidates: int, run: Run) -> list[Piece]:
    """As many of the pieces, spread over them, as RANKING_SECONDS allow for each candidate."""
    seconds = sum(piece.length for piece in pieces) * candidates / run.rate
    count = max(1, min(len(pieces), int(len(pieces) * RANKING_SECONDS / seconds)))
    return [pieces[(2 * i + 1) * len(pieces) // (2 * count)] for i in range(count)]


def batch_of(pieces: Sequence[Piece], step: int, size: int, seed: int) -> list[Piece]:
    """The pieces of a step: each epoch takes all of them in an order of its own."""
    numbers = [divmod(number, len(pieces)) for number in range(step * size, (step + 1) * size)]
    return [pieces[int(order(derived(seed, ORDER), 1 + epoch, len(pieces))[place])] for epoch, place in numbers]


def nats(decoder: WaveNetDecoder, pieces: Sequence[Piece], hop: int) -> Tensor:
    """Negative log-likelihood ``[]`` of the pieces as the decoder's one speaker, nats a sample."""
    frames = max(len(piece.z) for piece in pieces)
    x = torch.stack([nn.functional.pad(piece.x, (0, frames * hop - len(piece.x))) for piece in pieces])
    z = torch.stack([nn.functional.pad(piece.z, (0, 0, 0, frames - len(piece.z))) for piece in pieces])
    lengths = torch.tensor([piece.length for piece in pieces], device=x.device)
    label = torch.zeros_like(lengths)
    return decoder.nll(x[:, None], z, label, valid(lengths, x.shape[1])).sum() / lengths.sum()


@torch.no_grad()
def bits(decoder: WaveNetDecoder, pieces: Sequence[Piece], size: int, hop: int) -> float:
    """Bits a sample of all the pieces, ``size`` of them at a time."""
    total = 0.0
    for start in range(0, len(pieces), size):
        some = pieces[start : start + size]
        total += nats(decoder, some, hop).item() * sum(piece.length for piece in some)
    return total / sum(piece.length for piece in pieces) / math.log(2)

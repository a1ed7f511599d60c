"""What ``train.backtranslation`` asks for: the training clips as a trained run says them in other voices.

Each version of them is a store in the cache, made once for the run's weights (wavevq/data/retold.py says what for).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from rich.console import Console

from wavevq.audio import Signal
from wavevq.data.cache import prepared
from wavevq.data.retold import tellers
from wavevq.data.store import Store, StoredClip, open_store, write_store
from wavevq.distributed import first
from wavevq.errors import WavevqError
from wavevq.evaluate.judges import levelled
from wavevq.evaluate.likelihood import encoded
from wavevq.noise import SAID, derived
from wavevq.progress import beginning, seconds_bar
from wavevq.recipe import Backtranslation
from wavevq.run import Run, load_run
from wavevq.run_folder import newest_checkpoint
from wavevq.train.state import AVERAGE, fingerprint


def retold(plan: Backtranslation, corpus: Store, seed: int, console: Console) -> list[Store]:
    """``plan.versions`` stores of the training clips of ``corpus``, in their order; their speakers are the tellers.

    Encoded by all ranks, sampled by rank 0 alone. Raises WavevqError for a run that cannot say these clips.
    """
    run = load_run(plan.run, enrolled=False)
    refuse_another(run, plan, corpus)
    weights = newest_checkpoint(run.folder)
    codes = encoded(run.model, weights / AVERAGE, corpus, "train", partial(beginning, console=console))
    clips = corpus.split("train")

    def made(version: int) -> Store:
        voices = tellers(codes.labels, len(corpus.speakers), version, seed)
        told = [
            StoredClip(one.name, corpus.speakers[voice], "train", 0, one.length, one.phones)
            for one, voice in zip(clips, voices, strict=True)
        ]

        def said() -> Iterator[tuple[int, Signal]]:
            seconds = sum(len(one) for one in codes.sequences) * run.model.hop / run.rate
            label = f"saying {len(told)} clips in other voices, version {version + 1} of {plan.versions}"
            console.print(label, highlight=False)
            with seconds_bar(seconds, console, "sampling") as advance:
                for place, audio in run.decode_many(
                    [one[:-1] for one in codes.sequences],
                    [one.speaker for one in told],
                    seed=derived(seed, SAID),
                    streams=[version * len(told) + place for place in range(len(told))],
                    advance=lambda samples: advance(samples / run.rate),
                ):
                    yield place, levelled(audio[: told[place].length])

        what = f"{fingerprint(weights)} {corpus.folder.name} {seed} {version} {run.sampler}"
        key = hashlib.sha256(f"{what} {run.recipe.evaluation.temperature}".encode()).hexdigest()[:32]

        def make(folder: Path) -> None:
            write_store(folder, corpus.rate, told, said())

        return prepared(f"retold-{key}", open_store, make)

    return first(lambda: [made(version) for version in range(plan.versions)])


def refuse_another(run: Run, plan: Backtranslation, corpus: Store) -> None:
    """Raises WavevqError unless the run can say the clips of the corpus in each other's voices."""
    run.codebook()
    others = len(corpus.speakers) - 1
    mistakes = []
    if run.rate != corpus.rate:
        mistakes.append(f"run {plan.run}: is of {run.rate} Hz, the corpus of {corpus.rate}")
    if run.speakers != corpus.speakers:
        mistakes.append(f"run {plan.run}: knows {', '.join(run.speakers)}; the corpus has {', '.join(corpus.speakers)}")
    if plan.versions > others:
        mistakes.append(f"versions {plan.versions}: a clip has {others} other voices; at most as many are allowed")
    if mistakes:
        raise WavevqError(*(f"train.backtranslation.{one}" for one in mistakes))

"""Constructed speech whose speaker and word are known, and models that say it: metrics of these have known answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from wavevq.audio import Signal, level
from wavevq.data import corpora
from wavevq.data.codes import Codes
from wavevq.data.corpora import Split
from wavevq.data.store import Store, prepare
from wavevq.evaluate.subject import Subject
from wavevq.nn.distributions import MuLawCategorical
from wavevq.recipe import Evaluation

RATE, HOP, SECONDS = 8000, 100, 0.4
SPEAKERS = {"ann": 0.4, "bob": 1.0, "cid": 2.2}  # how fast the harmonics fall
PHONES = {"up": "pt", "down": "tp", "low": "pp"}  # of a word's halves: p is low and t is high
WORDS = {"up": (150, 290), "down": (290, 150), "low": (150, 150)}  # Hz, from the beginning to the end


def say(speaker: str, word: str, take: int = 0, seconds: float = SECONDS) -> Signal:
    """A glide of harmonics in a little noise, levelled: float32 ``[T]``. Takes differ in noise and in pitch."""
    draw = np.random.default_rng([take, *speaker.encode(), *word.encode()])
    first, last = (pitch * draw.uniform(0.97, 1.03) for pitch in WORDS[word])
    phase = 2 * np.pi * np.cumsum(np.linspace(first, last, round(seconds * RATE))) / RATE
    voice = sum(np.sin(k * phase) / k ** SPEAKERS[speaker] for k in range(1, 11))
    return level((voice + draw.normal(0, 0.05, len(phase))).astype(np.float32))


def spoken_corpus(
    folder: Path, takes: int = 8, held_out: int = 3, phones: Callable[[int], bool] = lambda take: False
) -> Store:
    """Digits 0, 1 and 2, which are WORDS in their order, said by SPEAKERS; the last takes are held out.

    phones: whether those of a take are known.
    """
    lists: dict[str, list[str]] = {"train": [], "val": []}
    for speaker in SPEAKERS:
        for digit, word in enumerate(WORDS):
            for take in range(takes):
                name = f"recordings/{digit}_{speaker}_{take}.wav"
                lists["val" if take >= takes - held_out else "train"].append(name)
                (folder / "recordings").mkdir(parents=True, exist_ok=True)
                soundfile.write(folder / name, say(speaker, word, take), RATE)
                if phones(take):
                    half, (one, other) = SECONDS / 2, PHONES[word]
                    text = f"0\t{half}\t{one}\n{half}\t{SECONDS}\t{other}\n"
                    (folder / name).with_suffix(".phones.tsv").write_text(text)
    for split, names in lists.items():
        (folder / f"{split}.txt").write_text("\n".join(names) + "\n")
    return prepare(corpora.fsdd(folder, 0.5, 0), RATE, None)


def turned(store: Store) -> Store:
    """The same corpus whose held-out clips go by the next speaker's name: who has learned from training is wrong."""
    after = dict(zip(SPEAKERS, [*list(SPEAKERS)[1:], *SPEAKERS], strict=False))
    clips = (replace(one, speaker=after[one.speaker]) if one.split == "val" else one for one in store.clips)
    return replace(store, clips=tuple(clips))


def subject_of(
    store: Store, *, hears: bool = True, speaks: bool = True, judged: int = 9, prior: Any = "a prior"
) -> Subject:
    """A perfect model of ``spoken_corpus``: a clip's codes are its digit, and it says that in the voice asked for.

    Without ``hears`` it says digit 0 whatever the codes, without ``speaks`` it keeps the voice of the clip's speaker
    (of new codes: ann's).
    """

    def encoded(split: Split) -> Codes:
        digits = [int(corpora.digit(clip.name)) for clip in store.split(split)]
        labels = [store.speakers.index(clip.speaker) for clip in store.split(split)]
        return Codes([np.array([digit] * round(SECONDS * RATE / HOP) + [9]) for digit in digits], labels)

    def draw(
        codes: Sequence[NDArray[np.int64]], voices: Sequence[str], streams: Sequence[int], what: str
    ) -> list[Signal]:
        said = []
        for one, voice, stream in zip(codes, voices, streams, strict=True):
            own = "ann" if "prior" in what or "order" in what else store.split("val")[stream].speaker
            word = list(WORDS)[int(one[0])] if hears else "up"
            said.append(say(voice if speaks else own, word, 100 + stream, len(one) * HOP / RATE))
        return said

    def compose(voices: Sequence[str], frames: int) -> list[NDArray[np.int64]]:
        return [np.full(min(frames, 32), i % 3) for i in range(len(voices))]

    model: Any = SimpleNamespace(hop=HOP, decoder=SimpleNamespace(distribution=MuLawCategorical(256)))
    return Subject(
        model=model,
        prior=prior,
        store=store,
        plan=Evaluation(judged=judged),
        seed=0,
        encoded=encoded,
        draw=draw,
        compose=compose,
        word_of=corpora.digit,
        say=lambda words: None,
    )


def figures(found: Any) -> dict[str, float | None]:
    """The figures of ``Findings`` by name."""
    return {figure.name: figure.value for figure in found.figures}

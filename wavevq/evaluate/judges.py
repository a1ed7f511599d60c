"""The judges of a subject: probes that have learned from its real training clips, and clips as they hear them.

Everything is judged at one level and after mu-law, as all that a model hears and makes: neither gives a clip away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import overload

import torch

from wavevq.audio import SILENCE_RMS, Signal, level
from wavevq.data.alignments import Phone
from wavevq.data.store import Store, StoredClip
from wavevq.evaluate.phones import is_unknown
from wavevq.evaluate.probes import FRAME_SECONDS, PhoneProbe, SpeakerProbe, WordProbe
from wavevq.nn.distributions import Classes

MOST = 4000  # training clips that a judge learns from, spread evenly over the split and so over its speakers


class Beginnings(Sequence[Signal]):
    """The first ``samples`` of clips, float32 ``[T]`` after mu-law and levelled, each read when it is asked for."""

    def __init__(self, store: Store, clips: Sequence[StoredClip], samples: int, mu: Classes) -> None:
        self.store, self.clips, self.samples, self.mu = store, clips, samples, mu

    def __len__(self) -> int:
        return len(self.clips)

    @overload
    def __getitem__(self, at: int) -> Signal: ...
    @overload
    def __getitem__(self, at: slice) -> Beginnings: ...
    def __getitem__(self, at: int | slice) -> Signal | Beginnings:
        if isinstance(at, slice):
            return Beginnings(self.store, self.clips[at], self.samples, self.mu)
        heard = torch.from_numpy(self.store.audio(self.clips[at], 0, self.samples))
        return levelled(self.mu.decode(self.mu.encode(heard)).numpy())


class Judges:
    """Made when they are asked for, each once. clips: the training clips. samples: of each that they hear, at most.

    word_of: the word that a clip of this name holds, None for a corpus of no closed vocabulary.
    """

    def __init__(
        self,
        store: Store,
        clips: Sequence[StoredClip],
        samples: int,
        mu: Classes,
        word_of: Callable[[str], str] | None,
        seed: int,
    ) -> None:
        self.store, self.clips, self.samples, self.mu, self.word_of, self.seed = (
            store,
            clips,
            samples,
            mu,
            word_of,
            seed,
        )
        count = min(MOST, len(clips))
        self.learned = [clips[(2 * i + 1) * len(clips) // (2 * count)] for i in range(count)]
        self.real = self.beginnings(self.learned)

    def beginnings(self, clips: Sequence[StoredClip]) -> Beginnings:
        """Real clips as the judges hear them."""
        return Beginnings(self.store, clips, self.samples, self.mu)

    def of(self, speaker: str, most: int) -> Beginnings:
        """At most so many of the training clips of a speaker."""
        return self.beginnings([clip for clip in self.clips if clip.speaker == speaker][:most])

    @cached_property
    def speaker(self) -> SpeakerProbe | None:
        """Who speaks; None where there is one speaker alone."""
        if len(self.store.speakers) < 2:
            return None
        return SpeakerProbe.fit(self.real, [clip.speaker for clip in self.learned], self.store.rate)

    @cached_property
    def word(self) -> WordProbe | None:
        """Which word of the closed vocabulary; None where the corpus has none, or one word alone."""
        words = [self.word_of(clip.name) for clip in self.learned] if self.word_of is not None else []
        return WordProbe.fit(self.real, words, self.store.rate) if len(set(words)) > 1 else None

    @cached_property
    def phone(self) -> PhoneProbe | None:
        """Which phone at each moment, from the clips whose phones are known; None where these are not two phones."""
        known = [clip for clip in self.learned if clip.phones]
        phones = [spoken(clip, self.samples / self.store.rate) for clip in known]
        if len({symbol for some in phones for start, end, symbol in some if end - start >= FRAME_SECONDS}) < 2:
            return None
        return PhoneProbe.fit(self.beginnings(known), phones, self.store.rate, self.seed)


def levelled(clip: Signal) -> Signal:
    """A clip at the level of all others; silence as it is."""
    return level(clip) if len(clip) and clip.std() > SILENCE_RMS else clip


def spoken(clip: StoredClip, seconds: float) -> tuple[Phone, ...]:
    """The phones in the first ``seconds`` of a clip that has them; what an aligner did not know is none."""
    assert clip.phones is not None
    return tuple(
        (start, min(end, seconds), symbol)
        for start, end, symbol in clip.phones
        if start < seconds and not is_unknown(symbol)
    )

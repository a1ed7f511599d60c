"""What a metric is given: a trained model, its corpus, and the work that metrics share, done once, when asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from wavevq.audio import Signal
from wavevq.data.codes import Codes
from wavevq.data.corpora import Split
from wavevq.data.store import Store, StoredClip
from wavevq.evaluate.judges import Judges, levelled
from wavevq.evaluate.likelihood import derangement, fitted
from wavevq.evaluate.metric import Listen, NotMeasured
from wavevq.evaluate.report import Take
from wavevq.prior import Prior
from wavevq.progress import Say
from wavevq.recipe import Evaluation
from wavevq.vqvae import VqVae

Version = Literal["original", "mu-law", "reconstruction", "conversion", "shuffled codes"]
SAMPLED: tuple[Version, ...] = ("reconstruction", "conversion", "shuffled codes")
LISTENED = 3  # utterances on the page

# (codes [F] of each clip, whose voice each has, the stream each draws from, what it is for) -> audio [F x hop] of each.
Draw = Callable[[Sequence[NDArray[np.int64]], Sequence[str], Sequence[int], str], list[Signal]]
# (whose voice each clip has, codes at most) -> new codes [n] of each, the i-th clip's from stream i.
Compose = Callable[[Sequence[str], int], list[NDArray[np.int64]]]


@dataclass(frozen=True, eq=False)
class Utterance:
    """The beginning of a clip that is sampled, in whole codes but for a clip's own end.

    place: of the clip in its split. target: whose voice it is converted to, None where there is one voice alone.
    samples: float32 ``[T]`` in [-1, 1], levelled, as the model hears them. codes, donor: int64 ``[F]``, its own and
    those of another clip of the same speaker (F = ceil(T / hop)); None where the speaker has no other.
    """

    clip: StoredClip
    place: int
    target: str | None
    samples: Signal
    codes: NDArray[np.int64]
    donor: NDArray[np.int64] | None


@dataclass(frozen=True, eq=False)
class Subject:
    """model: in evaluation mode, averaged weights. prior: of codes, or None.

    encoded: the codes of a split, from the cache or made; ``codes`` is the shorter way. draw: samples audio from codes.
    compose: samples codes from the prior; raises WavevqError where there is none. word_of: the word in a clip of this
    name, None where the corpus has no closed vocabulary. seed: of everything that is
    drawn. plan: the options, ``plan.split`` says which clips are measured. say: tells the user what takes time now.
    """

    model: VqVae
    prior: Prior | None
    store: Store
    plan: Evaluation
    seed: int
    encoded: Callable[[Split], Codes]
    draw: Draw
    compose: Compose
    word_of: Callable[[str], str] | None
    say: Say

    @property
    def rate(self) -> int:
        """Hz."""
        return self.store.rate

    @property
    def hop(self) -> int:
        """Samples a code."""
        return self.model.hop

    @property
    def speakers(self) -> tuple[str, ...]:
        """A speaker's label is the place in here."""
        return self.store.speakers

    @property
    def size(self) -> int:
        """K."""
        return self.model.size

    @cached_property
    def clips(self) -> list[StoredClip]:
        """The clips that are measured: all of the split."""
        return self.store.split(self.plan.split)

    @property
    def seconds(self) -> float:
        """Of ``clips``."""
        return round(sum(clip.length for clip in self.clips) / self.rate, 3)

    @property
    def learned(self) -> list[StoredClip]:
        """The training clips, for what must be fitted on others than it is measured on.

        Raises NotMeasured where they are those that are measured.
        """
        if self.plan.split == "train":
            raise NotMeasured("not measured: evaluation.split is train, and what is fitted there needs other clips")
        return self.store.split("train")

    @cached_property
    def sequences(self) -> Codes:
        """Codes of ``clips``, in their order, each with the end class K after it, and their labels."""
        return self.encoded(self.plan.split)

    @cached_property
    def training_sequences(self) -> Codes:
        """The same of the training split, for what must be fitted."""
        return self.encoded("train")

    @cached_property
    def codes(self) -> list[NDArray[np.int64]]:
        """Codes int64 ``[F]`` of ``clips``, in their order."""
        return [one[:-1] for one in self.sequences.sequences]

    @cached_property
    def training_codes(self) -> list[NDArray[np.int64]]:
        """Codes int64 ``[F]`` of ``store.split("train")``, in their order."""
        return [one[:-1] for one in self.training_sequences.sequences]

    @property
    def most(self) -> int:
        """Codes of a clip that is sampled, at most."""
        return max(1, round(self.plan.judged_seconds * self.rate / self.hop))

    @property
    def judged(self) -> int:
        """How many clips have been sampled anew: 0 before a metric has listened."""
        return len(self.utterances) if self._heard.keys() & set(SAMPLED) else 0

    # --- sampled audio --------------------------------------------------------------------------------------

    @cached_property
    def utterances(self) -> list[Utterance]:
        """``plan.judged`` clips spread evenly over the split and its speakers, at most ``plan.judged_seconds`` of each.

        The targets of a speaker's clips go round the other voices.
        """
        count = min(self.plan.judged, len(self.clips))
        places = [(2 * i + 1) * len(self.clips) // (2 * count) for i in range(count)]
        codes = [self.codes[place][: self.most] for place in places]
        donors = derangement([clip.speaker for clip in self.clips], self.seed)
        heard = dict.fromkeys(self.speakers, 0)
        made = []
        for i, place in enumerate(places):
            clip = self.clips[place]
            voice = self.speakers.index(clip.speaker)
            others = self.speakers[voice + 1 :] + self.speakers[:voice]
            target = others[heard[clip.speaker] % len(others)] if others else None
            heard[clip.speaker] += 1
            other = self.codes[donors[place]] if place in donors else self._training_codes_of(clip.speaker)
            donor = None if other is None else fitted(torch.from_numpy(other), len(codes[i])).numpy()
            samples = self.store.audio(clip, 0, self.most * self.hop)
            made.append(Utterance(clip, place, target, samples, codes[i], donor))
        return made

    def _training_codes_of(self, speaker: str) -> NDArray[np.int64] | None:
        """Of a speaker's first training clip, for one who has a single clip in the split that is measured."""
        if self.plan.split == "train":
            return None
        every = zip(self.store.split("train"), self.training_codes, strict=True)
        return next((codes for clip, codes in every if clip.speaker == speaker), None)

    def heard(self, version: Version) -> list[Signal]:
        """That version of every one of ``utterances``: float32 ``[T]`` in [-1, 1], each as long as its samples.

        original: as the model hears it. mu-law: after mu-law and back, the ceiling of whatever the model can make.
        Sampled, never teacher-forced: reconstruction, conversion (to ``target``), and shuffled codes (the ``donor``'s,
        own voice: what is left without the content). Drawn once. Raises NotMeasured where a version cannot be had.
        """
        if version not in self._heard:
            self._heard[version] = self._version(version)
        return self._heard[version]

    def possible(self, versions: Sequence[Version]) -> list[Version]:
        """Those of ``versions`` that ``heard`` can give."""
        lacking: set[Version] = set()
        if any(one.target is None for one in self.utterances):
            lacking.add("conversion")
        if any(one.donor is None for one in self.utterances):
            lacking.add("shuffled codes")
        return [version for version in versions if version not in lacking]

    def takes(self, place: int, versions: Sequence[Version] = ("original", *SAMPLED)) -> tuple[Take, ...]:
        """Those versions of ``utterances[place]`` side by side."""
        one = self.utterances[place]
        return tuple(
            Take(
                f"{version} to {one.target}" if version == "conversion" else version,
                "sampled" if version in SAMPLED else "original",
                self.heard(version)[place],
                self.rate,
            )
            for version in versions
        )

    def to_listen(self, versions: Sequence[Version]) -> tuple[Listen, ...]:
        """LISTENED of the utterances, spread evenly, each in those versions."""
        shown = np.linspace(0, len(self.utterances) - 1, min(LISTENED, len(self.utterances))).round().astype(int)
        return tuple(Listen(self.utterances[i].clip.name, self.takes(i, versions)) for i in shown.tolist())

    @cached_property
    def judges(self) -> Judges:
        """Probes that know real training clips only, each fitted when a metric first asks for it.

        Raises NotMeasured as ``learned``.
        """
        mu = self.model.decoder.distribution
        return Judges(self.store, self.learned, self.most * self.hop, mu, self.word_of, self.seed)

    def judged_as(self, version: Version) -> list[Signal]:
        """The same as ``heard``, at one level, for the judges."""
        return [levelled(clip) for clip in self.heard("mu-law" if version == "original" else version)]

    @cached_property
    def _heard(self) -> dict[Version, list[Signal]]:
        return {}

    def _version(self, version: Version) -> list[Signal]:
        if version == "original":
            return [one.samples for one in self.utterances]
        if version == "mu-law":
            mu = self.model.decoder.distribution
            return [mu.decode(mu.encode(torch.from_numpy(one.samples))).numpy() for one in self.utterances]
        codes, voices = [], []
        for one in self.utterances:
            voice = one.target if version == "conversion" else one.clip.speaker
            if voice is None:
                raise NotMeasured("not measured: the model has one speaker, and nobody to convert to")
            if version == "shuffled codes" and one.donor is None:
                raise NotMeasured(f"not measured: {voice} has no second clip")
            codes.append(one.donor if version == "shuffled codes" and one.donor is not None else one.codes)
            voices.append(voice)
        drawn = self.draw(codes, voices, [one.place for one in self.utterances], version)
        return [audio[: len(one.samples)] for audio, one in zip(drawn, self.utterances, strict=True)]

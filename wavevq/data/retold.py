"""Training clips said again in other voices by a trained model, for the encoder of another to hear.

What a model makes of a clip in another's voice keeps its time, sample by sample. So the two are a pair that no corpus
of its own holds: the same words at the same moments by two speakers. The encoder hears the one, and the decoder still
has to say the other, in its speaker's voice: then the voice that codes may bring along tells nothing of the voice that
is asked for, and what a word's codes are must be sayable by all.

Sources: Sennrich et al. 2016, "Improving neural machine translation models with monolingual data" (back-translation: a
model's own output beside real targets); Nachmani and Wolf 2019, "Unsupervised singing voice conversion" (of voices, in
a WaveNet autoencoder).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from wavevq.contracts import Batch
from wavevq.data.batches import Crops
from wavevq.noise import RETOLD, TELLERS, derived, uniform

if TYPE_CHECKING:
    from wavevq.data.store import Store


def tellers(labels: Sequence[int], speakers: int, version: int, seed: int) -> list[int]:
    """Who says each clip in a version, a label in [0, speakers) other than its own of ``labels``.

    Of 0 to speakers - 2, each version of a clip has another voice; a clip's first is drawn by its place.
    """
    first = (uniform(derived(seed, TELLERS), range(len(labels)), 1)[:, 0] * (speakers - 1)).long().tolist()
    return [(own + 1 + (at + version) % (speakers - 1)) % speakers for own, at in zip(labels, first, strict=True)]


class RetoldCrops(Crops):
    """``Crops`` of which the encoder hears a ``share``, drawn by the example's global number, in another voice.

    versions: stores of the training clips of ``store``, in their order and of their lengths, each by another speaker.
    """

    def __init__(self, store: Store, versions: Sequence[Store], share: float, crop: int, batch: int, seed: int) -> None:
        super().__init__(store, crop, batch, seed)
        self.versions, self.share, self._draw_seed = versions, share, derived(seed, RETOLD)
        self._labels = {speaker: label for label, speaker in enumerate(store.speakers)}

    def at(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """As ``Crops.at``, with heard and voice."""
        batch = super().at(step, rank, world)
        places = self.places(step, rank, world)
        heard, voice = batch.x.clone(), batch.label.clone()
        draws = uniform(self._draw_seed, [one.number for one in places], 2).tolist()
        for row, (place, (chance, which)) in enumerate(zip(places, draws, strict=True)):
            if chance >= self.share:
                continue
            version = self.versions[int(which * len(self.versions))]
            told = version.clips[place.clip]
            samples = version.audio(told, place.start, place.start + self.crop)
            heard[row, 0, : len(samples)] = torch.from_numpy(samples)
            voice[row] = self._labels[told.speaker]
        return replace(batch, heard=heard, voice=voice)

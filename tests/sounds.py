"""Constructed speech whose speaker and word are known: what metrics are given in tests instead of recordings."""

from __future__ import annotations

import numpy as np

from wavevq.audio import Signal, level

RATE = 8000
SPEAKERS = {"ann": 0.4, "bob": 1.0, "cid": 2.2}  # how fast the harmonics fall
WORDS = {"up": (150, 290), "down": (290, 150), "low": (150, 150)}  # Hz, from the beginning to the end


def say(speaker: str, word: str, take: int = 0, seconds: float = 0.4) -> Signal:
    """A glide of harmonics in a little noise, levelled: float32 ``[T]``. Takes differ in noise and in pitch."""
    draw = np.random.default_rng([take, *speaker.encode(), *word.encode()])
    first, last = (pitch * draw.uniform(0.97, 1.03) for pitch in WORDS[word])
    phase = 2 * np.pi * np.cumsum(np.linspace(first, last, round(seconds * RATE))) / RATE
    voice = sum(np.sin(k * phase) / k ** SPEAKERS[speaker] for k in range(1, 11))
    return level((voice + draw.normal(0, 0.05, len(phase))).astype(np.float32), slice(None))

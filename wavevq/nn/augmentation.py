"""What the encoder hears of a clip in training: the clip through another microphone, with another background.

Who is recorded in one room has its noise and its colour, which tell who speaks as surely as the voice does. Codes that
hold them bring them along into a conversion, where they belong to neither speaker nor words. So each example is heard
through a filter and with noise of its own, and the decoder has still to say the clip as it was: it then takes floor and
colour from the speaker's label, and the codes have room for what is said.

Sources: Vincent et al. 2008, "Extracting and composing robust features with denoising autoencoders"; Choi et al. 2021,
"Neural analysis and synthesis" (section 3.1: a random equaliser before the encoders of a voice converter).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from wavevq.nn.encoders import valid
from wavevq.noise import BACKGROUND, ROOM, derived, normal, uniform

STEEPEST = 0.95  # of the noise's filter: from a rumble to a hiss


@dataclass(frozen=True)
class Augmentation:
    """low, high: dB, 0 being an RMS of 1; that of the noise that is added is drawn uniformly between them.

    tilt, in [0, 1): the filter is x[t] + a x[t - 1] with a drawn uniformly from -tilt to tilt; the clip is brought back
    to its own RMS.
    """

    low: float
    high: float
    tilt: float

    def __call__(self, x: Tensor, lengths: Tensor, index: Tensor, seed: int) -> Tensor:
        """x float ``[B, 1, T]`` as it is heard, zeros past ``lengths``, int64 ``[B]``; it may leave [-1, 1].

        index: int64 ``[B]``, the examples' global numbers: what each draws is a function of its own and ``seed``.
        """
        streams = index.tolist()
        colour, hiss, loud = uniform(derived(seed, ROOM), streams, 3).to(x)[..., None, None].unbind(1)
        white = normal(derived(seed, BACKGROUND), streams, x.shape[-1]).to(x)[:, None]
        inside = valid(lengths, x.shape[-1])[:, None]
        heard = tilted(x, self.tilt * (2 * colour - 1)) * inside
        noise = tilted(white, STEEPEST * (2 * hiss - 1)) * inside
        wanted = 10 ** ((self.low + (self.high - self.low) * loud) / 20)
        return heard * (rms(x * inside, lengths) / rms(heard, lengths)) + noise * (wanted / rms(noise, lengths))


def tilted(x: Tensor, a: Tensor) -> Tensor:
    """x[t] + a x[t - 1] of ``[B, 1, T]``, nothing before the first; a ``[B, 1, 1]``: above 0 darker, else brighter."""
    return x + a * F.pad(x[..., :-1], (1, 0))


def rms(x: Tensor, lengths: Tensor) -> Tensor:
    """``[B, 1, 1]`` of ``[B, 1, T]`` that is zero past ``lengths``; of silence not quite 0."""
    return (x.square().sum(-1, keepdim=True) / lengths[:, None, None]).sqrt().clamp(min=torch.finfo(x.dtype).tiny)

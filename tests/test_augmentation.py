"""What the encoder hears in training in place of a clip."""

from __future__ import annotations

import pytest
import torch
from test_vqvae import batch, model
from torch import Tensor

from wavevq.errors import WavevqError
from wavevq.nn.augmentation import STEEPEST, Augmentation, rms, tilted
from wavevq.nn.encoders import valid
from wavevq.recipe import parse_recipe
from wavevq.vqvae import VqVae

LONG = 8000


def clips(count: int, lengths: Tensor) -> Tensor:
    """Hums ``[B, 1, T]`` at RMS 0.08, zeros past their lengths."""
    time = torch.arange(int(lengths.max())) / 8000
    hums = torch.sin(2 * torch.pi * 200 * time) + 0.3 * torch.sin(2 * torch.pi * 1500 * time)
    x = hums.expand(count, 1, -1) * valid(lengths, len(time))[:, None]
    return 0.08 * x / rms(x, lengths)


def test_the_noise_has_the_level_that_it_is_to_have_and_the_clip_keeps_its_own() -> None:
    lengths = torch.tensor([LONG, LONG // 3, LONG])
    x, index = clips(3, lengths), torch.arange(3)
    for decibels in (-60.0, -34.0):
        noise = Augmentation(decibels, decibels, 0.0)(x, lengths, index, 0) - x
        # Exact but for rounding: the noise is brought to its RMS.
        torch.testing.assert_close(20 * rms(noise, lengths).log10(), torch.full((3, 1, 1), decibels), rtol=0, atol=1e-3)
        assert not (noise * ~valid(lengths, LONG)[:, None]).any()
    quiet = Augmentation(-120.0, -120.0, 0.9)(x, lengths, index, 0)
    # Noise 98 dB below the clip is 1.3e-5 of its amplitude, its square's sum with it less than three times that.
    torch.testing.assert_close(rms(quiet, lengths), rms(x, lengths), rtol=4e-5, atol=0)
    assert (quiet - x).abs().max() > 0.01  # the two partials are at other levels


def test_levels_and_filters_fill_their_ranges() -> None:
    lengths = torch.full((300,), 1000)
    x = clips(300, lengths)
    noise = Augmentation(-70.0, -30.0, 0.0)(x, lengths, torch.arange(300), 1) - x
    levels = 20 * rms(noise, lengths).flatten().log10()
    # Of 300 uniform numbers the mean deviates by 0.7 dB, the ends by 0.13 dB on average; five and fifteen of these.
    assert levels.mean().item() == pytest.approx(-50, abs=3.5)
    assert levels.min() < -68 < -32 < levels.max()
    # What follows itself in noise through x[t] + a x[t - 1] is a / (1 + a^2), from -0.5 to 0.5 at the steepest.
    follows = (noise[..., 1:] * noise[..., :-1]).sum(-1) / noise.square().sum(-1)
    most = STEEPEST / (1 + STEEPEST**2)
    assert -most - 0.1 < follows.min() < -0.4 < 0.4 < follows.max() < most + 0.1  # 1,000 samples: deviates by 0.03


def test_a_filter_is_the_sum_that_it_says() -> None:
    x = torch.randn(2, 1, 9, generator=torch.Generator().manual_seed(0))
    found = tilted(x, torch.tensor([0.5, -0.25])[:, None, None])
    for row, a in enumerate((0.5, -0.25)):
        expected = [x[row, 0, t] + (a * x[row, 0, t - 1] if t else 0) for t in range(9)]
        torch.testing.assert_close(found[row, 0], torch.stack(expected))


def test_it_belongs_to_the_example_and_not_to_its_batch() -> None:
    lengths = torch.tensor([500, 300, 400])
    x, heard = clips(3, lengths), Augmentation(-60.0, -30.0, 0.5)
    index = torch.tensor([4, 11, 2])
    whole = heard(x, lengths, index, 7)
    for row in range(3):
        one = slice(row, row + 1)
        assert torch.equal(heard(x[one], lengths[one], index[one], 7), whole[one])
    assert not torch.equal(heard(x, lengths, index + 1, 7), whole)
    assert not torch.equal(heard(x, lengths, index, 8), whole)


def test_silence_gets_noise_and_stays_finite() -> None:
    lengths = torch.tensor([64])
    found = Augmentation(-50.0, -50.0, 0.5)(torch.zeros(1, 1, 64), lengths, torch.tensor([0]), 0)
    assert 20 * rms(found, lengths).log10().item() == pytest.approx(-50, abs=1e-3)  # rounding, as above


def augmented(kind: str) -> VqVae:
    made = model(kind)
    made.augmentation = Augmentation(-40.0, -20.0, 0.5)
    return made


@pytest.mark.parametrize("kind", ["vq", "ema", "none", "vae"])
def test_the_encoder_hears_it_and_the_decoder_says_the_clip(kind: str) -> None:
    given = batch()
    found = augmented(kind).training_loss(given)
    heard, vae = Augmentation(-40.0, -20.0, 0.5)(given.x, given.lengths, given.index, 0), model(kind)
    expected = vae.loss_of(given, vae.encode(heard, given.lengths, given.index))
    assert torch.equal(found.loss, expected.loss)
    assert not torch.equal(found.loss, model(kind).training_loss(given).loss)


def test_it_is_of_training_alone() -> None:
    given = batch()
    found, plain = (vae.eval().encode(given.x, given.lengths) for vae in (augmented("vq"), model("vq")))
    assert torch.equal(found.z, plain.z)


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"noise": [-30, -60]}, "must go from the softer to the louder"),
        ({"noise": [-60, 3]}, "model.augmentation.noise.1"),
        ({"tilt": 1.0}, "model.augmentation.tilt"),
        ({"hiss": 1}, "model.augmentation.hiss"),
    ],
)
def test_values_out_of_range_are_refused(section: dict[str, object], says: str) -> None:
    tree = {
        "data": {"kind": "folder"},
        "model": {
            "encoder": {"kind": "waveform"},
            "bottleneck": {"kind": "ema"},
            "decoder": {"kind": "wavenet"},
            "augmentation": section,
        },
        "train": {"steps": 5},
    }
    with pytest.raises(WavevqError, match=says.replace(".", r"\.")):
        parse_recipe(tree, "tiny")

"""Encoders: one latent a hop, in its place, and nothing from outside the clip."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wavevq.nn.encoders import SpectralEncoder, StridedEncoder, UnitVectors, frames_of, valid

D, RATE = 5, 8000


def randomised(module: nn.Module) -> nn.Module:
    """Biases too, whose initial zeros would hide what they leak into the padding."""
    generator = torch.Generator().manual_seed(1)
    for p in module.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=p.dtype) * p[0].numel() ** -0.5
    return module.eval()


def waveform(strides: tuple[int, ...] = (2, 3), window: int = 6, blocks: int = 2, channels: int = 8) -> StridedEncoder:
    if any((window - stride) % 2 for stride in strides):
        window += 1
    return StridedEncoder(1, strides, window, channels, blocks, D)


def spectral(kind: str, strides: tuple[int, ...] = (), **options: Any) -> SpectralEncoder:
    bands = options.get("bands", 20)
    return SpectralEncoder(
        kind, RATE, 32, options.get("window", 128), bands, StridedEncoder(bands, strides, 4, 8, 2, D)
    )


KINDS = {
    "waveform": lambda: waveform((2, 4), 4),
    "waveform, no blocks": lambda: waveform((2, 2), 4, blocks=0),
    "waveform, wide window": lambda: waveform((2, 2, 2), 10),
    "logmel": lambda: spectral("logmel"),
    "logmel, strided": lambda: spectral("logmel", (2, 2)),
    "logmel, window as hop": lambda: spectral("logmel", window=32, bands=3),
    "mfcc": lambda: spectral("mfcc", window=512),
    "mfcc, odd window": lambda: spectral("mfcc", window=401),
    "each vector by itself": lambda: StridedEncoder(1, (2, 4), 4, 8, 2, D, norm=UnitVectors(D)),
    "as many bands as channels": lambda: spectral("logmel", bands=8),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def signal(batch: int, size: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(batch, 1, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("strides", "window"),
    [
        ((2,), 2),
        ((2,), 4),
        ((2, 2, 2, 2, 2, 2), 4),
        ((3,), 3),
        ((3, 5), 7),
        ((4, 2), 8),
        ((1, 2), 4),
        ((1,), 1),
        ((16,), 16),
    ],
)
def test_one_latent_a_hop(strides: tuple[int, ...], window: int) -> None:
    if any((window - stride) % 2 for stride in strides):
        strides = tuple(stride for stride in strides if (window - stride) % 2 == 0)
    encoder = StridedEncoder(1, strides, window, 4, 1, D)
    hop = math.prod(strides)
    assert encoder.hop == hop
    for frames in (1, 2, 7):
        assert encoder(signal(2, frames * hop), torch.tensor([frames * hop] * 2)).shape == (2, frames, D)


@kinds
def test_one_latent_a_hop_of_every_kind(kind: str) -> None:
    encoder = KINDS[kind]()
    for frames in (1, 5):
        assert encoder(signal(1, frames * encoder.hop), torch.tensor([frames * encoder.hop])).shape == (1, frames, D)


@kinds
def test_padding_changes_nothing(kind: str) -> None:
    """A clip alone and in a batch, its padding full of noise; frames past the end are zero."""
    encoder = randomised(KINDS[kind]())
    hop = encoder.hop
    # Log-mel is float32 by nature; where it can be, everything is float64.
    dtype = torch.float64 if isinstance(encoder, StridedEncoder) else torch.float32
    encoder.to(dtype)
    # Products of other sizes round otherwise: a hundred terms of float64, or of float32.
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    lengths = torch.tensor([9 * hop, 4 * hop, 4 * hop + 1, 5 * hop - 1, 1, hop])
    x = signal(6, 9 * hop).to(dtype)
    noise = 10 * signal(6, 9 * hop, seed=1).to(dtype)
    inside = valid(lengths, 9 * hop)[:, None]
    clean, filthy = (
        encoder(torch.where(inside, x, filler), lengths) for filler in (torch.zeros(1, dtype=dtype), noise)
    )
    assert torch.equal(clean, filthy)
    for row, length in enumerate(lengths.tolist()):
        frames = -(-length // hop)
        assert frames == frames_of(lengths, hop)[row]
        alone = encoder(torch.where(inside, x, 0)[row : row + 1, :, : frames * hop], torch.tensor([length]))
        torch.testing.assert_close(filthy[row, :frames], alone[0], rtol=tolerance, atol=tolerance)
        assert not filthy[row, frames:].any()
        assert filthy[row, :frames].abs().amax(-1).min() > 0


@kinds
@pytest.mark.parametrize("training", [False, True])
def test_no_clip_hears_another(kind: str, training: bool) -> None:
    encoder = randomised(KINDS[kind]())
    size = 6 * encoder.hop
    x, lengths = signal(3, size), torch.tensor([size, size, size - 1])
    encoder.train()(x, lengths)  # the first step sets the latents' statistics, from all
    encoder.train(training)
    before = encoder(x, lengths)
    if training:  # statistics follow the batch, for later steps: this one's must be those of the step above
        encoder = randomised(KINDS[kind]())
        encoder.train()(x, lengths)
    changed = x.clone()
    changed[1] = 3 * signal(1, size, seed=5)
    after = encoder(changed, lengths)
    assert torch.equal(after[0], before[0])
    assert torch.equal(after[2], before[2])
    assert not torch.equal(after[1], before[1])


@kinds
def test_gradient_reaches_every_parameter(kind: str) -> None:
    encoder = KINDS[kind]().train()
    size = 8 * encoder.hop
    z = encoder(signal(2, size), torch.tensor([size, size - encoder.hop]))
    (z * signal(2, z[0].numel(), seed=3).view(z.shape)).sum().backward()
    for name, p in encoder.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
        # A constant added before the standardisation is taken out by it in the first step only; no bias is useless.
        assert p.grad.abs().max() > 0, name


def test_the_statistics_of_latents_are_those_of_valid_frames() -> None:
    """Mean 0 and variance 1 after the first step; evaluation changes none; padding counts for nothing."""
    torch.manual_seed(0)
    encoder = waveform((2, 2), 4).train()
    before = {name: value.clone() for name, value in encoder.named_buffers()}
    encoder.eval()(signal(2, 64), torch.tensor([64, 64]))
    assert all(torch.equal(value, before[name]) for name, value in encoder.named_buffers())
    lengths = torch.tensor([400, 64])
    z = encoder.train()(signal(2, 400), lengths)[valid(frames_of(lengths, 4), 100)]
    assert z.shape == (116, D)
    # float32 sums of a hundred terms; SMALL in the root
    torch.testing.assert_close(z.mean(0), torch.zeros(D), rtol=0, atol=1e-5)
    torch.testing.assert_close(z.var(0, correction=0), torch.ones(D), rtol=0, atol=1e-2)


# --- spectra ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [32, 64, 101, 128])
def test_a_click_shows_in_its_frame(window: int) -> None:
    encoder = spectral("logmel", window=window, bands=3)
    for at in (0, 5, 16, 31):  # within the frame's hop of 32
        for frame in (0, 7, 15):
            x = torch.zeros(1, 1, 512)
            x[0, 0, 32 * frame + at] = 1
            energy = encoder.features(x)[0].sum(0)
            touched = (energy > energy.min() + 1e-3).nonzero().flatten()
            if at == 16:  # in the middle of the hop, where the window is 1
                assert energy.argmax() == frame
            reach = -(-(window - 32) // 64)  # half of what the window has beyond the hop, in frames
            assert all(abs(int(other) - frame) <= reach for other in touched)


def test_a_tone_shows_in_its_band() -> None:
    encoder = spectral("logmel", window=256)
    time = torch.arange(2048) / RATE
    peaks = []
    for hertz in (300, 700, 1500, 3000):
        features = encoder.features(0.5 * torch.sin(2 * math.pi * hertz * time)[None, None])[0, :, 8:-8].mean(1)
        peaks.append(int(features.argmax()))
        middle = int(encoder.filters[round(hertz * 256 / RATE)].argmax())  # the band that weighs this bin most
        assert abs(peaks[-1] - middle) <= 1
    assert peaks == sorted(set(peaks))


def test_mfcc_are_the_cosine_transform_of_log_mel() -> None:
    mel, cepstrum = spectral("logmel", bands=40, window=512), spectral("mfcc", bands=13, window=512)
    x = signal(2, 640)
    found, log_mel = cepstrum.features(x).double(), mel.features(x).double()
    places = (torch.arange(40).double() + 0.5) / 40
    for k in range(13):
        weight = math.sqrt((1 if k == 0 else 2) / 40) * torch.cos(math.pi * k * places)
        expected = (log_mel * weight[:, None]).sum(1)
        torch.testing.assert_close(found[:, k], expected, rtol=1e-5, atol=1e-5)  # 40 float32 terms


@pytest.mark.parametrize(("groups", "axes"), [(1, (3, 7)), (1, (2, 3, 4)), (5, (2, 3, 4))])
def test_a_vector_is_normalised_by_itself(groups: int, axes: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    z = 3 + 40 * torch.randn(*axes, groups * D, generator=generator)
    mask = torch.randn(axes, generator=generator) > 0
    found = UnitVectors(D, groups)(z, mask).unflatten(-1, (groups, D))
    assert not found[~mask].any()
    mean, variance = found[mask].mean(-1), found[mask].var(-1, correction=0)
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        variance, torch.ones_like(variance), rtol=1e-4, atol=0
    )  # but for the 1e-5 under the root
    changed = z.clone()
    changed[0] += 1
    torch.testing.assert_close(UnitVectors(D, groups)(changed, mask)[1:], found.flatten(-2)[1:], rtol=0, atol=0)


def test_normalised_in_float32_under_autocast() -> None:
    z = torch.randn(2, 7, D, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert UnitVectors(D)(z, torch.ones(2, 7, dtype=torch.bool)).dtype == torch.float32

"""The VQ-VAE's loss against the equations written out, what padding and jitter may do, and where gradients go."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from wavevq.audio import mu_law_encode
from wavevq.build import build_model
from wavevq.contracts import Batch
from wavevq.nn.adversary import Adversary
from wavevq.nn.encoders import frames_of, valid
from wavevq.nn.quantizers import VectorQuantizer
from wavevq.nn.wavenet import plain_stack
from wavevq.noise import GAIN, derived, uniform
from wavevq.recipe import parse_recipe
from wavevq.sampling.reference import Reference
from wavevq.vqvae import VqVae, jittered

HOP, K, D, BETA, SPEAKERS = 4, 6, 3, 0.3, 3


def model(
    kind: str = "vq",
    jitter: float = 0.0,
    past_gain: float = 0.0,
    adversary: float = 0.0,
    **decoder: Any,
) -> VqVae:
    """A float64 model in training mode, its weights random, also those that begin at zero."""
    codebook = {"codes": K, "beta": BETA, "revive_after": 0}
    tree = {
        "data": {"kind": "folder"},
        "model": {
            "encoder": {"kind": "waveform", "strides": [2, 2], "channels": 4, "residual_blocks": 1},
            "bottleneck": {"kind": kind, "dim": D, **(codebook if kind in ("vq", "ema") else {})},
            "decoder": {
                "kind": "wavenet",
                "layers": 3,
                "cycle": 2,
                "context_layers": 1,
                "classes": 16,
                **dict.fromkeys(("residual", "gate", "skip", "head", "context", "speaker_dim"), 4),
                **decoder,
            },
            "jitter": jitter,
            "past_gain": past_gain,
            "adversary": adversary,
        },
        "train": {"steps": 5, "crop": 32},
    }
    made = build_model(parse_recipe(tree, "tiny"), SPEAKERS).double()
    generator = torch.Generator().manual_seed(2)
    for p in made.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=p.dtype) * 0.5
    if isinstance(made.bottleneck, VectorQuantizer):
        made.bottleneck.codebook.data.mul_(2)
        made.bottleneck.initialised.fill_(True)
    made.encoder.standardise.initialised.fill_(True)
    return made.train()


def batch(size: int = 32, lengths: tuple[int, ...] = (32, 17, 4), filler: float = 0.0, seed: int = 0) -> Batch:
    """Clips in float64, each with its padding full of ``filler`` x noise."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.4 * torch.randn(len(lengths), 1, size, generator=generator, dtype=torch.float64)
    noise = torch.rand(len(lengths), 1, size, generator=generator, dtype=torch.float64) * 2 - 1
    sizes = torch.tensor(lengths)
    x = torch.where(valid(sizes, size)[:, None], x.clamp(-1, 1), filler * noise)
    return Batch(x, torch.arange(len(lengths)) % SPEAKERS, sizes, 7 * torch.arange(len(lengths)))


def gradients(module: VqVae) -> dict[str, Tensor]:
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


kinds = pytest.mark.parametrize("kind", ["vq", "ema"])


# --- the loss -----------------------------------------------------------------------------------------------


@kinds
def test_the_loss_equals_the_equation(kind: str) -> None:
    """- log p(x | z_q, speaker) in nats a valid sample + the bottleneck's loss, one clip and sample at a time."""
    vae, given = model(kind), batch()
    codebook = vae.bottleneck.codebook.detach().clone()
    nats, squares, samples, frames = 0.0, 0.0, 0, 0
    net = vae.decoder.wavenet
    with torch.no_grad():
        for x, label, length in zip(given.x, given.label, given.lengths.tolist(), strict=True):
            used = -(-length // HOP)
            signal = x[None, :, : used * HOP] * valid(torch.tensor([length]), used * HOP)
            z_e = copy.deepcopy(vae.encoder).eval()(signal, torch.tensor([length]))
            z_q = codebook[torch.cdist(z_e, codebook[None]).argmin(-1)]
            squares += (z_e - z_q).square().sum().item()
            frames += used
            h = F.conv1d(z_q.transpose(1, 2), vae.decoder.widen.weight, vae.decoder.widen.bias)
            for block in vae.decoder.context:
                inner = F.relu(F.conv1d(F.relu(h), block.wide.weight, block.wide.bias, padding=1))
                h = h + F.conv1d(inner, block.narrow.weight, block.narrow.bias)
            speaker = vae.decoder.speaker.weight[label].expand(1, used, -1)
            cond = net.conditioning(torch.cat([h.transpose(1, 2), speaker], -1))
            classes = mu_law_encode(signal[:, 0], 16)
            inputs = torch.cat([torch.zeros(1, 1, 4).double(), net.embedding[classes[:, :-1]]], 1)
            skips = plain_stack(
                inputs.transpose(0, 1), cond.transpose(0, 1), net.taps, net.residual, net.skip, net.dilations
            )
            probability = F.softmax(net.output(F.relu(net.hidden(F.relu(skips)))), -1)[:, 0]
            for t in range(length):
                nats -= math.log(probability[t, classes[0, t]])
            samples += length
    weight = BETA if kind == "ema" else 1 + BETA
    found = vae.training_loss(given)
    # float64; sums of a few hundred terms
    assert found.loss.item() == pytest.approx(nats / samples + weight * squares / (frames * D), rel=1e-10)
    assert found.metrics["bits_per_sample"].item() == pytest.approx(nats / samples / math.log(2), rel=1e-10)
    assert found.metrics["bottleneck_loss"].item() == pytest.approx(weight * squares / (frames * D), rel=1e-10)
    assert not any(value.requires_grad for value in found.metrics.values())


def test_logits_in_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The logits of a long clip are computed a part at a time."""
    whole = model()
    whole.training_loss(batch()).loss.backward()
    monkeypatch.setattr("wavevq.decoders.LOGITS_AT_ONCE", {"cpu": 3 * 16 * 5})  # 5 samples: 32 are 7 parts
    parts = model()
    parts.training_loss(batch()).loss.backward()
    for name, gradient in gradients(whole).items():
        # float64; the same sums in another order
        torch.testing.assert_close(gradients(parts)[name], gradient, rtol=1e-10, atol=1e-12)


@kinds
@pytest.mark.parametrize("jitter", [0.0, 0.4])
def test_padding_changes_nothing(kind: str, jitter: float) -> None:
    """Whatever stands in the padding, and however much of it there is."""
    results = []
    for size, filler in ((32, 0.0), (32, 1.0), (64, 1.0)):
        vae = model(kind, jitter)
        # The same first samples, since noise is drawn row by row.
        short = batch(32, filler=0.0)
        x = F.pad(short.x, (0, size - 32))
        noise = filler * (2 * torch.rand(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9)) - 1)
        x = torch.where(valid(short.lengths, size)[:, None], x, noise)
        loss = vae.training_loss(Batch(x, short.label, short.lengths, short.index)).loss
        loss.backward()
        results.append((loss.detach(), gradients(vae), vae.state_dict()))
    for loss, found, state in results[1:]:
        # float64; a longer batch may be summed in other blocks
        torch.testing.assert_close(loss, results[0][0], rtol=1e-10, atol=0)
        assert found.keys() == results[0][1].keys()
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, results[0][1][name], rtol=1e-9, atol=1e-12, msg=name)
        for name, value in state.items():  # the codebook's and the encoder's statistics
            torch.testing.assert_close(value, results[0][2][name], rtol=1e-10, atol=1e-12, msg=name)


def test_every_sample_counts_the_same() -> None:
    """Two clips' loss is the mean over their samples, not over clips."""
    both, one, other = (model().training_loss(batch(32, lengths)) for lengths in ((32, 8), (32,), (8,)))
    assert both.metrics["bits_per_sample"] != one.metrics["bits_per_sample"]
    parts = batch(32, (32, 8))
    alone = []
    for row, length in enumerate((32, 8)):
        x, label, lengths, index = (getattr(parts, n)[row : row + 1] for n in ("x", "label", "lengths", "index"))
        alone.append(length * model().training_loss(Batch(x, label, lengths, index)).metrics["bits_per_sample"])
    assert both.metrics["bits_per_sample"].item() == pytest.approx(sum(alone).item() / 40, rel=1e-10)
    assert other.loss > 0


# --- jitter -------------------------------------------------------------------------------------------------


def sources(frames: tuple[int, ...], chance: float, index: list[int] | None = None, size: int = 50) -> Tensor:
    """Which frame each frame's latent comes from, int64 ``[B, F]``."""
    z = torch.arange(size).double().expand(len(frames), size)[..., None]
    noise = uniform(3, range(len(frames)) if index is None else index, size)
    return jittered(z, torch.tensor(frames), noise, chance)[..., 0].long()


def test_jitter_takes_half_of_its_neighbours_from_each_side() -> None:
    rows, chance = 2000, 0.12
    shift = sources((50,) * rows, chance) - torch.arange(50)
    assert set(shift.unique().tolist()) == {-1, 0, 1}
    inner = shift[:, 1:-1]
    for side in (-1, 1):
        # 96,000 draws: the share's standard deviation is 0.00077; five of them
        assert (inner == side).double().mean().item() == pytest.approx(chance / 2, abs=0.004)
    assert (inner[:, 0] == -1).any(), "the second frame may be the first's"
    # Neighbouring frames decide each for itself: both move with the chance's square (deviation 0.0004).
    both = ((inner[:, :-1] != 0) & (inner[:, 1:] != 0)).double().mean().item()
    assert both == pytest.approx(chance**2, abs=0.002)


def test_jitter_stays_within_the_valid_frames() -> None:
    frames = (50, 20, 1, 2, 0)
    moved = False
    for chance in (0.3, 0.999):
        found = sources(frames, chance)
        for row, count in enumerate(frames):
            inside = found[row, :count]
            assert ((inside >= 0) & (inside < max(1, count))).all(), "padding became a latent"
            assert torch.equal(found[row, count:], torch.arange(count, 50)), "padding moved"
            moved |= bool((inside != torch.arange(count)).any())
    assert moved
    assert torch.equal(sources(frames, 0.0), torch.arange(50).expand(5, 50))


def test_jitter_belongs_to_the_example_and_not_to_its_batch() -> None:
    together = sources((50, 40, 30), 0.5, [11, 4, 9])
    assert torch.equal(sources((30, 50), 0.5, [9, 11]), together[[2, 0]])
    assert torch.equal(sources((40,), 0.5, [4], size=41)[0], together[1, :41]), "the width of the batch decides"
    assert not torch.equal(sources((50,), 0.5, [12])[0], together[0])


def test_jitter_is_of_training_and_of_the_latents_only() -> None:
    given = batch()
    losses = [model(jitter=jitter).training_loss(given).loss for jitter in (0.5, 0.5, 0.0)]
    assert losses[0] == losses[1] != losses[2]
    jittery, calm = model(jitter=0.5), model()
    found, expected = (vae.eval().encode(given.x, given.lengths) for vae in (jittery, calm))
    assert torch.equal(found.codes, expected.codes)
    assert torch.equal(found.z, expected.z)
    # The bottleneck's loss and statistics are of the latents before jitter.
    for kind in ("vq", "ema"):
        one, other = model(kind, 0.9), model(kind)
        metrics = [vae.training_loss(given).metrics["bottleneck_loss"] for vae in (one, other)]
        assert torch.equal(*metrics)
        for name, value in one.bottleneck.state_dict().items():
            assert torch.equal(value, other.bottleneck.state_dict()[name])


# --- the past's level ---------------------------------------------------------------------------------------


def test_the_past_is_heard_louder_or_quieter_and_the_samples_stay_as_they_are() -> None:
    """The loss written out: logits of the amplified past, classes of the signal itself."""
    given, limit = batch(lengths=(32, 17, 4, 32, 32, 30, 32, 32, 9, 32, 32, 32)), 12.0
    vae = model(past_gain=limit)
    found = vae.training_loss(given)
    draws = uniform(derived(0, GAIN), given.index.tolist(), 1)
    gain = 10 ** ((2 * draws - 1) * limit / 20)
    assert 10 ** (-limit / 20) < gain.min() < 1 < gain.max() < 10 ** (limit / 20)
    z = model().encode(given.x, given.lengths).z
    mask = valid(given.lengths, 32)
    heard, meant = (vae.decoder.distribution.encode(x[:, 0]) for x in (given.x * gain[..., None], given.x))
    assert (heard != meant).any(dim=1).all()
    frames = mask[:, ::HOP]
    skips = vae.decoder.wavenet.skips(heard, vae.decoder.conditioning(z, given.label, frames))
    chances = vae.decoder.wavenet.head(skips).log_softmax(-1).gather(-1, meant[..., None])[..., 0]
    bits = -(chances * mask).sum() / mask.sum() / math.log(2)
    assert found.metrics["bits_per_sample"].item() == pytest.approx(bits.item(), rel=1e-9)
    plain = model().training_loss(given).metrics["bits_per_sample"]
    assert abs(found.metrics["bits_per_sample"] - plain) > 1e-3
    assert torch.equal(found.loss, model(past_gain=limit).training_loss(given).loss)
    # A past that is as it was changes nothing.
    nll = vae.decoder.nll
    assert torch.equal(nll(given.x, z, given.label, mask, given.x), nll(given.x, z, given.label, mask))


def test_the_pasts_level_belongs_to_the_example_and_not_to_its_batch() -> None:
    both = batch()
    row = Batch(*(getattr(both, name)[1:2] for name in ("x", "label", "lengths", "index")))
    moved = Batch(row.x, row.label, row.lengths, row.index + 1)
    alone, elsewhere, whole = (
        model(past_gain=12.0).training_loss(one).metrics["bits_per_sample"] for one in (row, moved, both)
    )
    assert alone != elsewhere
    rest = Batch(*(getattr(both, name)[::2] for name in ("x", "label", "lengths", "index")))
    others = model(past_gain=12.0).training_loss(rest).metrics["bits_per_sample"]
    counts = [int(one.lengths.sum()) for one in (row, rest)]
    assert whole.item() == pytest.approx((alone * counts[0] + others * counts[1]).item() / sum(counts), rel=1e-9)


# --- the adversary ------------------------------------------------------------------------------------------


def unsure(vae: VqVae, given: Batch, z: Tensor) -> Tensor:
    """-log p(speaker) in nats, summed over the valid latents, one clip at a time and without its padding."""
    assert vae.adversary is not None
    clips = zip(z, given.label, frames_of(given.lengths, HOP).tolist(), strict=True)
    alone = [(row[None, :n], label[None], torch.ones(1, n, dtype=torch.bool)) for row, label, n in clips]
    return torch.stack([vae.adversary(*one) for one in alone]).sum()


@pytest.mark.parametrize("kind", ["vq", "ema", "none", "vae"])
def test_the_adversarys_nats_a_frame_are_added_to_the_loss(kind: str) -> None:
    given, vae = batch(filler=1.0), model(kind, adversary=0.3, jitter=0.5)
    found = vae.training_loss(given)
    frames = int(frames_of(given.lengths, HOP).sum())
    nats = unsure(vae, given, model(kind).encode(given.x, given.lengths, given.index).z) / frames
    # The other weights are the same: those of the adversary are drawn last.
    plain = model(kind, jitter=0.5).training_loss(given)
    assert found.loss.item() == pytest.approx((plain.loss + nats).item(), rel=1e-9)
    assert found.metrics["speaker_bits"].item() == pytest.approx(nats.item() / math.log(2), rel=1e-9)
    assert found.metrics["bits_per_sample"] == plain.metrics["bits_per_sample"]


@pytest.mark.parametrize("kind", ["vq", "ema", "none"])
@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_the_encoder_gets_the_adversarys_gradient_reversed_and_the_adversary_its_own(kind: str, weight: float) -> None:
    given = batch()

    def found(vae: VqVae, loss: Tensor) -> dict[str, Tensor]:
        loss.backward()
        return gradients(vae)

    vae = model(kind, adversary=weight)
    whole = found(vae, vae.training_loss(given).loss)
    vae = model(kind)
    plain = found(vae, vae.training_loss(given).loss)
    vae = model(kind, adversary=weight)
    assert vae.adversary is not None
    vae.adversary.weight = -1.0  # as if it were to help the adversary
    frames = frames_of(given.lengths, HOP).sum()
    helpful = found(vae, unsure(vae, given, vae.encode(given.x, given.lengths).z) / frames)
    assert {name.split(".")[0] for name in helpful if helpful[name].any()} == {"encoder", "adversary"}
    for name, gradient in helpful.items():
        if name.startswith("adversary."):
            torch.testing.assert_close(whole[name], gradient, rtol=1e-9, atol=1e-12)
        elif name.startswith("encoder."):
            torch.testing.assert_close(whole[name], plain[name] - weight * gradient, rtol=1e-9, atol=1e-12)
    for name in plain.keys() - helpful.keys():  # decoder and codebook hear nothing of it
        assert torch.equal(whole[name], plain[name]), name


def test_an_encoder_unlearns_what_its_adversary_can_tell() -> None:
    """Latents of two numbers, one the speaker's, one the clip's own, which a decoder wants both.

    Against an adversary the speaker's goes, and the other stays.
    """
    label, mask = torch.arange(32) % 2, torch.ones(32, 4, dtype=torch.bool)

    def kept(weight: float) -> list[float]:
        """How much of either is left, after training."""
        generator = torch.Generator().manual_seed(0)
        torch.manual_seed(0)  # the adversary's weights
        gain, adversary = torch.nn.Parameter(torch.ones(2)), Adversary(2, 2, weight)
        groups = [{"params": [gain], "lr": 0.01}, {"params": adversary.parameters(), "lr": 0.003}]
        optimizer = torch.optim.Adam(groups)
        for _ in range(150):
            own, noise = torch.randn(2, 32, 4, 2, generator=generator)
            own[..., 0] = (2.0 * label - 1)[:, None]
            z = gain * own
            nats = adversary(z + noise, label, mask) / mask.sum()  # without noise it is soon sure, and has no gradient
            optimizer.zero_grad()
            (0.1 * (z - own).square().mean() + nats).backward()
            optimizer.step()
        return gain.tolist()

    assert kept(0.0) == [1.0, 1.0]
    speaker, others = kept(1.0)
    assert speaker < 0.3
    assert others > 0.8


# --- gradients ----------------------------------------------------------------------------------------------


@kinds
def test_every_parameter_gets_gradient(kind: str) -> None:
    vae = model(kind, jitter=0.1, adversary=0.1)
    given = batch(64, (64, 64, 61))
    vae.training_loss(given).loss.backward()
    for name, p in vae.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
        assert p.grad.abs().max() > 0, name


@kinds
def test_each_term_reaches_its_own_side(kind: str) -> None:
    """The likelihood: the decoder, the encoder straight through. The bottleneck: the encoder, the paper's codebook."""

    def reached(term: str) -> set[str]:
        vae, given = model(kind), batch()
        latents = vae.encode(given.x, given.lengths)
        if term == "likelihood":
            loss = vae.decoder.nll(given.x, latents.z, given.label, valid(given.lengths, 32)).sum()
        else:
            loss = latents.loss
        loss.backward()
        return {name.split(".")[0] for name, gradient in gradients(vae).items() if gradient.any()}

    assert reached("likelihood") == {"encoder", "decoder"}
    assert reached("bottleneck") == ({"encoder", "bottleneck"} if kind == "vq" else {"encoder"})


def test_the_encoder_gets_the_decoders_gradient_unchanged() -> None:
    """Straight through: d loss / d z_e is d loss / d z_q, at the quantized value."""
    vae, given = model(), batch()
    z_e = vae.encoder(given.x, given.lengths)
    mask = valid(frames_of(given.lengths, HOP), 8)
    samples = valid(given.lengths, 32)
    z = vae.bottleneck(z_e, mask).z
    (straight,) = torch.autograd.grad(vae.decoder.nll(given.x, z, given.label, samples).sum(), z_e)
    z_q = z.detach().requires_grad_()
    (at_code,) = torch.autograd.grad(vae.decoder.nll(given.x, z_q, given.label, samples).sum(), z_q)
    torch.testing.assert_close(straight, at_code * mask[..., None], rtol=1e-12, atol=0)
    assert straight.any()


# --- decoding -----------------------------------------------------------------------------------------------


def sampled(vae: VqVae, codes: Tensor, label: Tensor, frames: Tensor, noise: Tensor) -> Tensor:
    """Samples ``[B, 1, T]`` of codes that come all at once."""

    def at(start: int, count: int) -> Tensor:
        return noise[:, start : start + count]

    return torch.cat(list(vae.decode([(codes, frames)], label, at, Reference())), -1)


def test_sampling_is_a_function_of_its_noise() -> None:
    vae = model().eval().float()
    codes = torch.tensor([[0, 1, 2, 3], [3, 5, 0, 0]])
    label, frames = torch.tensor([0, 2]), torch.tensor([[True] * 4, [True, True, False, False]])
    noise = uniform(1, [0, 1], 16)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    found = sampled(vae, codes, label, frames, noise)
    assert (found.shape, found.dtype) == ((2, 1, 16), torch.float32)
    assert found.abs().max() <= 1
    torch.manual_seed(123)  # the global generator has no say
    assert torch.equal(sampled(vae, codes, label, frames, noise), found)
    assert not torch.equal(sampled(vae, codes, label, frames, uniform(2, [0, 1], 16)), found)
    assert not torch.equal(sampled(vae, codes, label.flip(0), frames, noise), found)
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    # A shorter clip's codes past its end are padding: others in their place change nothing, nor do its neighbours.
    other = sampled(vae, torch.tensor([[5, 5, 5, 5], [3, 5, 4, 1]]), label, frames, noise)
    assert torch.equal(other[1, :, :8], found[1, :, :8])
    alone = sampled(vae, codes[1:, :2], label[1:], frames[1:, :2], noise[1:, :8])
    assert torch.equal(alone[0], found[1, :, :8])


def test_samples_follow_the_likelihood() -> None:
    """Samples of a model cost it its own entropy on average; those of another speaker's cost more."""
    vae = model().eval()
    codes, label = (
        torch.randint(K, (1, 4), generator=torch.Generator().manual_seed(4)).expand(200, 4),
        torch.zeros(200).long(),
    )
    frames = torch.ones(200, 4, dtype=torch.bool)
    drawn = sampled(vae, codes, label, frames, uniform(5, range(200), 16)).double()
    z, mask = vae.bottleneck.lookup(codes), torch.ones(200, 16, dtype=torch.bool)
    with torch.no_grad():
        own, wrong = (vae.decoder.nll(drawn, z, label + i, mask).mean() for i in (0, 1))
        classes = mu_law_encode(drawn[:, 0], 16)
        logits = vae.decoder.wavenet(classes, vae.decoder.conditioning(z, label, frames)).log_softmax(-1)
        entropies = -(logits.exp() * logits).sum((-1, -2))
    spread = (vae.decoder.nll(drawn, z, label, mask).detach() - entropies).std().item() / math.sqrt(200)
    assert own.item() == pytest.approx(entropies.mean().item(), abs=4 * spread)  # four standard errors
    assert wrong > own

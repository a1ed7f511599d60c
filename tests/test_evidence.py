"""log p(x) of short signals over every sequence of codes, and the figures of the metric ``likelihood``."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from wavevq.audio import mu_law_decode
from wavevq.build import build_model
from wavevq.contracts import Batch
from wavevq.evaluate.evidence import (
    Enumerated,
    _gaps,
    distortions,
    enumerate_signal,
    enumerated,
    longest,
    prior_bits,
    sequences,
)
from wavevq.nn.wavenet import WaveNet
from wavevq.prior import Prior
from wavevq.recipe import parse_recipe
from wavevq.vqvae import VqVae

K, HOP, SPEAKERS = 3, 4, 2


def model(codes: int = K, classes: int = 8, strides: tuple[int, ...] = (2, 2), width: int = 6) -> VqVae:
    """A small model, random but for its training."""
    widths = dict.fromkeys(("residual", "gate", "skip", "head", "context", "speaker_dim"), width)
    tree = {
        "encoder": {"kind": "waveform", "strides": strides, "channels": 8},
        "bottleneck": {"kind": "ema", "codes": codes, "dim": 4},
        "decoder": {"kind": "wavenet", "layers": 3, "cycle": 3, "context_layers": 1, "classes": classes, **widths},
    }
    recipe = parse_recipe({"data": {"kind": "folder"}, "model": tree, "train": {"steps": 5}}, "tiny")
    return build_model(recipe, SPEAKERS)


def random_model(**how: int | tuple[int, ...]) -> VqVae:
    made = model(**how)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    for weight in (made.decoder.wavenet.output.weight, made.bottleneck.codebook):
        weight.data.normal_(generator=generator)
    return made.eval()


def learned(ends: bool, codes: int = K) -> Prior:
    torch.manual_seed(1)
    sizes = {"layers": 2, "cycle": 2, "kernel": 2, "residual": 6, "gate": 6, "skip": 6, "head": 6}
    network = WaveNet(classes=codes + ends, cond_dim=4, **sizes)
    torch.nn.init.normal_(network.output.weight)
    return Prior(network, codes=codes, labels=SPEAKERS, dim=4, drop=0.0, seed=0).eval()


def bits(*shares: float) -> Tensor:
    return -torch.tensor(shares, dtype=torch.float64).log2()


# --- by hand ------------------------------------------------------------------------------------------------


def test_two_codes_by_hand() -> None:
    """p(z) = 3/4, 1/4 and p(x|z) = 1/8, 1/2: the terms are 3/32 and 4/32, the sum 7/32. The encoder says code 0."""
    found = enumerated(bits(3 / 4, 1 / 4), bits(1 / 8, 1 / 2), own=0)
    assert found.own == pytest.approx(5 - math.log2(3), abs=1e-12)  # 3/32
    assert found.best == pytest.approx(3, abs=1e-12)  # 1/8
    assert found.summed == pytest.approx(5 - math.log2(7), abs=1e-12)  # 7/32
    assert found.gap == pytest.approx(math.log2(7 / 3), abs=1e-12)
    assert not found.found


def test_two_codes_by_hand_with_the_uniform_prior() -> None:
    """p(x) = (1/8 + 1/2) / 2 = 5/16; the encoder's code 1 has 1/4 of it, the other 1/16."""
    found = enumerated(prior_bits(None, 2, 0, torch.tensor([[0], [1]])), bits(1 / 8, 1 / 2), own=1)
    assert (found.own, found.best, found.found) == (2, 2, True)
    assert found.summed == pytest.approx(4 - math.log2(5), abs=1e-12)
    assert 2**-found.gap == pytest.approx(4 / 5, abs=1e-12)


def test_a_certain_decoder_has_no_gap_and_a_deaf_one_all_of_it() -> None:
    certain = enumerated(prior_bits(None, 4, 0, sequences(4, 2)), bits(*[1.0] + [1e-30] * 15), own=0)
    assert certain.gap == pytest.approx(0, abs=1e-12)
    assert certain.summed == pytest.approx(4, abs=1e-12)
    deaf = enumerated(prior_bits(None, 4, 0, sequences(4, 2)), torch.full((16,), 100.0), own=9)
    assert deaf.gap == pytest.approx(2 * math.log2(4), abs=1e-12)
    assert deaf.summed == pytest.approx(100, abs=1e-12)  # what is not listened to costs nothing


def test_the_sum_is_never_more_than_the_best_term_nor_that_more_than_the_encoders() -> None:
    generator = torch.Generator().manual_seed(2)
    for own in range(20):
        shares = torch.rand(20, generator=generator).double()
        found = enumerated(-(shares / shares.sum()).log2(), 900 * torch.rand(20, generator=generator).double(), own)
        assert found.summed <= found.best <= found.own
        assert found.found == (found.best == found.own)


def test_the_figures_of_several_signals_by_hand() -> None:
    """Gaps of 1 and 3 bits in signals of 10 samples: posteriors of 1/2 and 1/8, whose mean is told."""
    signals = [Enumerated(own=2.0, best=1.5, summed=1.0, found=False), Enumerated(5.0, 5.0, 2.0, True)]
    found = [figure.value for figure in _gaps(signals, "uniform", 10)]
    assert found == pytest.approx([0.35, 0.325, 0.15, 2, 3, 0.2, 5 / 16, 0.5])


# --- every sequence -----------------------------------------------------------------------------------------


def test_every_sequence_stands_at_its_number() -> None:
    assert sequences(3, 2).tolist() == [list(one) for one in itertools.product(range(3), repeat=2)]
    assert sequences(5, 1).tolist() == [[0], [1], [2], [3], [4]]


@pytest.mark.parametrize(
    ("size", "budget", "frames"),
    [(128, 20_000, 2), (512, 20_000, 1), (2, 8, 3), (2, 7, 2), (512, 512, 1), (512, 511, 0), (141, 20_000, 2)],
)
def test_the_longest_that_can_be_enumerated(size: int, budget: int, frames: int) -> None:
    assert longest(size, budget) == frames


def test_the_uniform_prior_and_one_without_an_end_sum_to_one() -> None:
    every = sequences(K, 3)
    uniform = prior_bits(None, K, 0, every)
    assert uniform.tolist() == pytest.approx([3 * math.log2(K)] * 27)
    for label in range(SPEAKERS):
        shares = 2 ** -prior_bits(learned(ends=False), K, label, every)
        assert float(shares.sum()) == pytest.approx(1, abs=1e-5)  # float32 logits
        assert float(shares.max() / shares.min()) > 2
    # What is missing is the chance that the clip ends within these codes.
    assert float((2 ** -prior_bits(learned(ends=True), K, 0, every)).sum()) < 0.999
    assert not torch.equal(*(prior_bits(learned(ends=False), K, label, every) for label in (0, 1)))


@pytest.mark.parametrize("prior", [None, learned(ends=False, codes=2)], ids=["uniform", "learned"])
def test_all_signals_together_have_the_probability_one(prior: Prior | None) -> None:
    """Of the whole chain: 2 classes, 2 codes of 2 samples, so 16 signals and 4 sequences."""
    vae = random_model(codes=2, classes=2, strides=(2,))
    every = sequences(2, 2)
    total = 0.0
    for classes in itertools.product(range(2), repeat=4):
        x = mu_law_decode(torch.tensor(classes), 2)
        found = enumerated(prior_bits(prior, 2, 1, every), distortions(vae, x, 1, every), own=0)
        total += 2**-found.summed
    assert total == pytest.approx(1, abs=1e-5)  # float32 logits


def test_enumeration_equals_a_loop_over_the_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wavevq.evaluate.evidence.SAMPLES_AT_ONCE", 40)  # several passes, the last one shorter
    vae, prior = random_model(), learned(ends=True)
    x = 0.5 * torch.sin(torch.arange(3 * HOP))
    with torch.no_grad():
        own = vae.encode(x[None, None], torch.tensor([len(x)])).codes[0].tolist()
        terms = {}
        for z in itertools.product(range(K), repeat=3):
            codes, ones = torch.tensor([z]), torch.ones(1, 3, dtype=torch.bool)
            seen = torch.ones(1, len(x), dtype=torch.bool)
            distortion = vae.decoder.nll(x[None, None], vae.bottleneck.lookup(codes), torch.tensor([1]), seen).item()
            terms[z] = (math.exp(-distortion), math.exp(-prior.nll(codes, torch.tensor([1]), ones).item()))
    uniform, mine = enumerate_signal(vae, [None, prior], x, 1)
    # Float32 sums of a dozen terms, in other batches.
    assert uniform.summed == pytest.approx(-math.log2(sum(p for p, _ in terms.values()) / K**3), abs=1e-4)
    assert mine.summed == pytest.approx(-math.log2(sum(p * q for p, q in terms.values())), abs=1e-4)
    assert uniform.own == pytest.approx(-math.log2(terms[tuple(own)][0] / K**3), abs=1e-4)
    assert mine.best == pytest.approx(-math.log2(max(p * q for p, q in terms.values())), abs=1e-4)


# --- a model that has learned -------------------------------------------------------------------------------

LEVELS = 4  # a code each


def steps(rows: int, frames: int, seed: int) -> Tensor:
    """Whole short clips ``[rows, frames x HOP]``: each hop holds one of LEVELS values, whichever came before."""
    places = torch.randint(LEVELS, (rows, frames), generator=torch.Generator().manual_seed(seed))
    return torch.linspace(-0.8, 0.8, LEVELS)[places].repeat_interleave(HOP, 1)


@pytest.fixture(scope="module")
def trained() -> VqVae:
    """A model to which the codes are all that tells one clip from another."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        vae = model(codes=LEVELS, classes=16, width=16)
        optimizer = torch.optim.Adam(vae.parameters(), 0.01)
        for step in range(300):
            x = steps(32, 3, step)[:, None]
            rows = len(x)
            whole = torch.full((rows,), x.shape[-1])
            loss = vae.training_loss(Batch(x, torch.arange(rows) % SPEAKERS, whole, torch.arange(rows))).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return vae.eval()


def test_once_trained_the_encoders_term_is_the_sum(trained: VqVae) -> None:
    """The paper's claim (section 3.2) where it must hold: to 0.05 bit of clips that cost 6 bits or more."""
    for i, x in enumerate(steps(12, 3, 1000)):
        [found] = enumerate_signal(trained, [None], x, i % SPEAKERS)
        assert found.found
        assert found.summed <= found.best == found.own
        assert 0 <= found.gap < 0.05
        assert found.summed > 3 * math.log2(LEVELS) - 0.05  # there are 64 such clips, all alike


def test_before_training_the_encoders_term_is_nothing_like_it() -> None:
    for x in steps(4, 3, 1000):
        [found] = enumerate_signal(model(codes=LEVELS).eval(), [None], x, 0)
        assert found.gap == pytest.approx(3 * math.log2(LEVELS), abs=1e-3)  # all codes are alike to it

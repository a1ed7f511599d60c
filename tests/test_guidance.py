"""Classifier-free guidance: held by replay against both teacher-forced forwards, combined."""

from __future__ import annotations

import pytest
import torch
from replay import faithful, mismatches
from torch import Tensor, nn

from wavevq.nn.transformer import Transformer
from wavevq.nn.wavenet import WaveNet
from wavevq.noise import uniform
from wavevq.prior import Prior
from wavevq.sampling.guidance import Guided
from wavevq.sampling.reference import OneByOne, Reference, rounded
from wavevq.sampling.transformer import Cached

K, LABELS, DIM = 12, 3, 5
NETWORKS = ("wavenet", "transformer")


def prior(kind: str) -> Prior:
    """One whose label matters."""
    torch.manual_seed(4)
    sizes = dict.fromkeys(("residual", "gate", "skip", "head"), 16)
    network: WaveNet | Transformer = (
        Transformer(classes=K + 1, layers=2, width=16, heads=2, cond_dim=DIM)
        if kind == "transformer"
        else WaveNet(classes=K + 1, layers=4, cycle=3, kernel=2, cond_dim=DIM, **sizes)
    )
    nn.init.normal_(network.output.weight)
    return Prior(network, codes=K, labels=LABELS, dim=DIM, drop=0.1, seed=0).eval()


def plain(made: Prior) -> OneByOne:
    return Reference("float32") if isinstance(made.network, WaveNet) else Cached()


@torch.no_grad()
def guided(made: Prior, weight: float, slow: OneByOne | None = None) -> Guided:
    return Guided(slow or plain(made), made.conditioning(torch.tensor([made.nobody]))[:, 0], weight)


class Both(nn.Module):
    """The definition: logits = nobody + weight (label - nobody), of two parallel forwards; cond: labels ``[B]``."""

    def __init__(self, made: Prior, weight: float) -> None:
        super().__init__()
        self.made, self.weight = made, weight

    def forward(self, classes: Tensor, label: Tensor) -> Tensor:
        label = label.long()
        nobody = self.made.logits(classes, torch.full_like(label, self.made.nobody))
        return nobody + self.weight * (self.made.logits(classes, label) - nobody)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize(
    ("weight", "temperature", "top_p", "given"),
    [(3.0, 1.0, 1.0, 0), (1.5, 0.8, 0.9, 0), (2.0, 1.2, 0.95, 7), (0.0, 1.0, 1.0, 0)],
    ids=["plainly", "temperature and top-p", "after a prefix", "without the label"],
)
def test_replay_the_samples_are_the_picks_of_both_forwards(
    kind: str, weight: float, temperature: float, top_p: float, given: int
) -> None:
    made = prior(kind)
    label, noise = torch.tensor([0, 2, 1]), uniform(3, range(3), 120)
    prefix = torch.randint(K, (3, given)) if given else None
    with torch.no_grad():
        cond = made.conditioning(label)
    drawn, _ = guided(made, weight)(made.network, cond, noise, temperature, top_p, prefix)
    classes = drawn if prefix is None else torch.cat([prefix, drawn], 1)
    how = (label, classes, noise, temperature, top_p)
    assert faithful(*mismatches(Both(made, weight), *how))
    wrong, _ = mismatches(Both(made, weight + 0.5), *how)
    assert wrong.any()  # the replay would notice another weight


def test_replay_of_bfloat16_weights() -> None:
    made = prior("wavenet")
    label, noise = torch.tensor([0, 2]), uniform(5, range(2), 200)
    with torch.no_grad():
        cond = made.conditioning(label)
    sampler = guided(made, 2.5, Reference("bfloat16"))
    assert str(sampler) == "reference (bfloat16 weights), guidance 2.5"
    drawn, _ = sampler(made.network, cond, noise)
    assert isinstance(made.network, WaveNet)
    made.network = rounded(made.network)
    assert faithful(*mismatches(Both(made, 2.5), label, drawn, noise))


@pytest.mark.parametrize("kind", NETWORKS)
def test_weight_1_changes_no_bit_and_a_clip_does_not_depend_on_others_or_pieces(kind: str) -> None:
    made = prior(kind)
    label, noise = torch.tensor([0, 2, 1]), uniform(7, range(3), 80)
    how = {"temperature": 0.9, "top_p": 0.97}
    own = made.sample(label, noise, plain(made), **how)
    same = made.sample(label, noise, guided(made, 1.0), **how)
    assert all(torch.equal(a, b) for a, b in zip(own, same, strict=True))
    together = made.sample(label, noise, guided(made, 3.0), **how)
    assert not all(torch.equal(a, b) for a, b in zip(own, together, strict=True))
    for row in range(3):
        [alone] = made.sample(label[row : row + 1], noise[row : row + 1], guided(made, 3.0), **how)
        assert torch.equal(alone, together[row])


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_label_shows_more(kind: str) -> None:
    """The label's log-likelihood against nobody's, of what is drawn, rises with the weight."""
    made = prior(kind)
    label, noise = torch.arange(18) % LABELS, uniform(1, range(18), 20)
    with torch.no_grad():
        cond = made.conditioning(label)
    mask = torch.ones(18, 20, dtype=torch.bool)
    shown = []
    for weight in (0.0, 1.0, 3.0):
        drawn, _ = guided(made, weight)(made.network, cond, noise)
        with torch.no_grad():
            without = made.nll(drawn, torch.full_like(label, made.nobody), mask)
            shown.append((without - made.nll(drawn, label, mask)).mean())
    assert shown[0] < shown[1] < shown[2]

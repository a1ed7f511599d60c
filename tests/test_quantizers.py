"""The quantizers against a float64 transcription of the equations, and the properties training rests on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist

from wavevq.nn.quantizers import EmaQuantizer, GradientQuantizer, VectorQuantizer, kmeans, nearest, race

K, D, BETA, DECAY = 6, 3, 0.25, 0.9


def make(kind: str, revive_after: int = 0, codes: int = K, dim: int = D, ready: bool = True) -> VectorQuantizer:
    """A quantizer in training mode; ``ready`` ones keep their initial table as if data had set it."""
    quantizer: VectorQuantizer = (
        GradientQuantizer(codes, dim, BETA, revive_after)
        if kind == "vq"
        else EmaQuantizer(codes, dim, BETA, revive_after, DECAY)
    )
    quantizer.initialised.fill_(ready)
    return quantizer


def batch(*axes: int, seed: int = 0, dim: int = D) -> Tensor:
    return torch.randn(*axes, dim, generator=torch.Generator().manual_seed(seed))


def everywhere(z_e: Tensor) -> Tensor:
    return torch.ones(z_e.shape[:-1], dtype=torch.bool)


def state(quantizer: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in quantizer.state_dict().items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Bit by bit."""
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


kinds = pytest.mark.parametrize("kind", ["vq", "ema"])


# --- the equations ------------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("axes", [(), (5,), (2, 7), (2, 3, 4), (2, 2, 2, 3), (0, 4), (3, 0)])
@pytest.mark.parametrize("masked", [False, True])
def test_values_equal_the_equations(kind: str, axes: tuple[int, ...], masked: bool) -> None:
    quantizer = make(kind)
    before = quantizer.codebook.detach().double().numpy().copy()
    z_e = batch(*axes)
    mask = batch(*axes, seed=1)[..., 0] > 0 if masked else everywhere(z_e)
    latents = quantizer(z_e, mask)

    z, codes, error, valid = np.zeros((*axes, D)), np.zeros(axes, int), 0.0, 0
    counts, sums = np.zeros(K), np.zeros((K, D))
    vectors = z_e.double().numpy()
    for place in np.ndindex(*axes):
        if not mask[place]:
            continue
        distances = [sum((vectors[place][d] - before[k][d]) ** 2 for d in range(D)) for k in range(K)]
        k = int(np.argmin(distances))
        codes[place], z[place] = k, before[k]
        error += distances[k]
        counts[k] += 1
        sums[k] += vectors[place]
        valid += 1
    weight = BETA if kind == "ema" else 1 + BETA

    assert latents.codes is not None
    assert latents.codes.dtype == torch.int64
    assert latents.codes.shape == axes
    assert np.array_equal(latents.codes.numpy(), codes)
    assert np.array_equal(latents.z.detach().double().numpy(), z)  # exact: straight-through must not round
    assert latents.rate is None
    # 1e-6 relative: a few hundred float32 terms
    assert latents.loss.item() == pytest.approx(weight * error / max(valid * D, 1), rel=1e-6)
    if isinstance(quantizer, EmaQuantizer):
        n, m = DECAY * np.ones(K) + (1 - DECAY) * counts, DECAY * before + (1 - DECAY) * sums
        if not valid:  # no step
            n, m = np.ones(K), before
        # 1e-6: one float32 rounding of each of three terms of size about 1
        np.testing.assert_allclose(quantizer.ema_count.numpy(), n, atol=1e-6)
        np.testing.assert_allclose(quantizer.ema_sum.numpy(), m, atol=1e-6)
        seen = np.where(counts[:, None] > 0, m / n[:, None], before)
        np.testing.assert_allclose(quantizer.codebook.numpy(), seen, atol=1e-6)


def test_an_unused_code_stays_even_when_its_count_has_vanished() -> None:
    quantizer = make("ema")
    assert isinstance(quantizer, EmaQuantizer)
    quantizer.codebook[0] = 100.0
    quantizer.ema_count[0] = 0.0
    quantizer.ema_sum[0] = 0.0
    z_e = batch(2, 5)
    quantizer(z_e, everywhere(z_e))
    assert (quantizer.codebook[0] == 100).all()
    assert quantizer.codebook.isfinite().all()


@kinds
@pytest.mark.parametrize("axes", [(2, 5), (0, 5)])
def test_a_batch_without_valid_positions_is_no_step(kind: str, axes: tuple[int, ...]) -> None:
    for ready in (True, False):
        quantizer = make(kind, revive_after=1, ready=ready)
        before = state(quantizer)
        z_e = batch(*axes).requires_grad_()
        latents = quantizer(z_e, torch.zeros(axes, dtype=torch.bool))
        (latents.loss + latents.z.sum()).backward()
        assert latents.loss.item() == 0
        assert z_e.grad is not None
        assert not z_e.grad.any()
        assert_same(before, state(quantizer))


# --- gradients ----------------------------------------------------------------------------------------------


@kinds
def test_each_term_reaches_its_own_side(kind: str) -> None:
    quantizer = make(kind)
    e = quantizer.codebook.detach().clone()
    z_e, mask = batch(2, 5).requires_grad_(), torch.arange(5) < torch.tensor([[5], [3]])
    latents = quantizer(z_e, mask)
    upstream = batch(2, 5, seed=2)
    # the likelihood: to the encoder as if there were no quantizer, nothing to padding or the codebook
    (straight,) = torch.autograd.grad((latents.z * upstream).sum(), z_e, retain_graph=True)
    assert torch.equal(straight, upstream * mask[..., None])
    if kind == "vq":
        nothing = torch.autograd.grad(latents.z.sum(), quantizer.codebook, retain_graph=True, allow_unused=True)
        assert nothing == (None,)
    # commitment: 2 beta (z_e - e) / (N D) to the encoder
    valid = mask.sum() * D
    expected = 2 * BETA * (z_e.detach() - e[latents.codes]) * mask[..., None] / valid
    (committed,) = torch.autograd.grad(latents.loss, z_e, retain_graph=True)
    torch.testing.assert_close(committed, expected, rtol=1e-5, atol=1e-7)  # a few float32 roundings
    # codebook loss: 2 (e - z_e) / (N D) to the used code, none from the commitment (no factor beta)
    if kind == "vq":
        assert latents.codes is not None
        (moved,) = torch.autograd.grad(latents.loss, quantizer.codebook)
        expected = torch.zeros_like(e)
        for place in mask.nonzero().tolist():
            k = int(latents.codes[tuple(place)])
            expected[k] += 2 * (e[k] - z_e.detach()[tuple(place)]) / valid
        torch.testing.assert_close(moved, expected, rtol=1e-5, atol=1e-7)
    else:
        assert not list(quantizer.parameters())


# --- masks, evaluation, precision ---------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("poison", [1e30, float("nan"), float("inf")])
def test_padding_influences_nothing(kind: str, poison: float) -> None:
    mask = torch.arange(9) < torch.tensor([[9], [4]])
    results = []
    for filler in (0.0, poison):
        quantizer = make(kind, revive_after=1, ready=False)  # initialisation and revival see the batch too
        gradients = []
        for step in range(3):
            z_e = torch.where(mask[..., None], batch(2, 9, seed=step), filler).requires_grad_()
            latents = quantizer(z_e, mask)
            (latents.loss + latents.z.square().sum()).backward()
            assert z_e.grad is not None
            gradients.append(z_e.grad)
            assert latents.codes is not None
            assert not latents.codes[~mask].any()
            assert not latents.z[~mask].any()
        results.append((torch.stack(gradients), latents.loss.detach(), latents.codes, state(quantizer)))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert torch.equal(results[0][2], results[1][2])
    assert_same(results[0][3], results[1][3])


@kinds
@pytest.mark.parametrize("ready", [True, False])
def test_evaluation_changes_no_buffer(kind: str, ready: bool) -> None:
    quantizer = make(kind, revive_after=1, ready=ready).eval()
    before = state(quantizer)
    z_e = batch(2, 7)
    latents = quantizer(z_e, everywhere(z_e))
    assert_same(before, state(quantizer))
    assert latents.loss > 0
    assert latents.codes is not None
    assert torch.equal(quantizer.encode(z_e), latents.codes)
    assert torch.equal(quantizer.lookup(latents.codes), latents.z)
    quantizer.train()(z_e, everywhere(z_e))
    assert not torch.equal(before["updates"], quantizer.updates)  # the same call in training does


@kinds
@pytest.mark.parametrize(("value", "ready"), [(torch.nan, False), (torch.inf, False), (torch.nan, True), (1e25, True)])
def test_a_vector_that_is_not_finite_reaches_no_statistic(kind: str, value: float, ready: bool) -> None:
    """Nor one whose square is not. The loss tells the training."""
    quantizer = make(kind, ready=ready).train()
    good = batch(2, 30)
    bad = good.clone()
    bad[1, 7, 0] = value
    before = {name: one.clone() for name, one in quantizer.state_dict().items()}
    assert not quantizer(bad, everywhere(bad)).loss.isfinite()
    assert all(torch.equal(one, before[name]) for name, one in quantizer.state_dict().items())
    assert quantizer(good, everywhere(good)).loss.isfinite()
    assert quantizer.updates == before["updates"] + 1
    assert all(one.isfinite().all() for one in quantizer.state_dict().values())


@kinds
def test_statistics_stay_float32_under_bf16(kind: str) -> None:
    plain, mixed = make(kind), make(kind)
    z_e = batch(2, 50).bfloat16()
    expected = plain(z_e.float(), everywhere(z_e))
    with torch.autocast("cpu", torch.bfloat16):
        latents = mixed(z_e, everywhere(z_e))
        assert torch.equal(mixed.encode(z_e), plain.encode(z_e.float()))
    assert latents.z.dtype == torch.bfloat16
    assert latents.loss.dtype == torch.float32
    assert torch.equal(latents.loss, expected.loss)
    assert torch.equal(latents.codes, expected.codes)
    assert_same(state(plain), state(mixed))
    assert all(value.dtype in (torch.float32, torch.int64, torch.bool) for value in mixed.state_dict().values())


# --- the search ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "k", "d", "offset"), [(0, 5, 3, 0), (1, 1, 1, 0), (3000, 700, 16, 0), (500, 64, 8, 1000)]
)
def test_search_equals_brute_force(n: int, k: int, d: int, offset: float) -> None:
    vectors, codebook = batch(n, dim=d) + offset, batch(k, seed=1, dim=d) + offset
    found = nearest(vectors, codebook)
    assert found.shape == (n,)
    distances = (vectors.double()[:, None] - codebook.double()).square().sum(-1)
    excess = distances.gather(1, found[:, None])[:, 0] - distances.amin(1)
    # nearest but for ties within float32 rounding of a distance of about d (1e-4 where inputs of 1000 hold 6e-5)
    assert (excess <= (1e-3 if offset else 1e-5)).all()
    assert n == 0 or (found == distances.argmin(1)).double().mean() >= 0.99


def test_blocks_of_the_search_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, codebook = batch(1000, dim=8), batch(50, seed=1, dim=8)
    whole = nearest(vectors, codebook)
    monkeypatch.setattr("wavevq.nn.quantizers.SCORES_ON_CPU", 50 * 37)  # 37 rows: the last block is short
    assert torch.equal(nearest(vectors, codebook), whole)


def test_ties_go_to_the_lowest_code() -> None:
    codebook = torch.tensor([[3.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-3.0, 0.0]])
    assert nearest(torch.tensor([[0.0, 0.0], [1.0, 1.0], [9.0, 0.0]]), codebook).tolist() == [1, 1, 0]


# --- initialisation and revival -----------------------------------------------------------------------------


@kinds
def test_codebook_starts_from_the_data(kind: str) -> None:
    clusters = 50 + 10 * batch(K, seed=3)  # far from the initial table
    z_e = (clusters[torch.arange(200) % K] + 0.01 * batch(200, seed=4)).view(4, 50, D)
    quantizer = make(kind, ready=False)
    latents = quantizer(z_e, everywhere(z_e))
    assert quantizer.initialised
    assert latents.codes is not None
    assert len(latents.codes.unique()) == K  # each cluster its code
    assert latents.loss < 1e-3  # within the clusters' own width, 1e-2 squared
    settled = quantizer.codebook.detach().clone()
    quantizer(z_e + 1, everywhere(z_e))
    assert (quantizer.codebook.detach() - settled).abs().max() < 0.5  # once only: no second initialisation


@kinds
@pytest.mark.parametrize("repeated", [1, 30])
def test_initialisation_with_fewer_vectors_than_codes(kind: str, repeated: int) -> None:
    z_e = batch(1, 4).repeat(1, repeated, 1)
    quantizer = make(kind, ready=False)
    latents = quantizer(z_e, everywhere(z_e))
    assert latents.loss < 1e-3  # every vector is a code, or lies within the noise
    distances = torch.cdist(quantizer.codebook.detach(), quantizer.codebook.detach()) + torch.eye(K)
    assert (distances > 0).all()  # the repeats are told apart


def test_kmeans_serves_rare_vectors_too() -> None:
    """A thousand vectors near one point and 30 scattered ones: a random sample would miss nearly all of them."""
    crowd, scattered = 0.01 * batch(1000), 10 * batch(30, seed=1)
    centres = kmeans(torch.cat([crowd, scattered]), 32, seed=0)
    assert len(nearest(scattered, centres).unique()) >= 25


def test_race_draws_in_proportion() -> None:
    weights = torch.tensor([0.0, 1.0, 2.0, 5.0])
    first = torch.stack([race(weights, 1, 0, stream) for stream in range(2000)]).flatten()
    shares = torch.bincount(first, minlength=4) / 2000
    torch.testing.assert_close(shares, weights / 8, rtol=0, atol=0.045)  # four standard errors
    assert sorted(race(weights, 9, 0, 0).tolist()) == [1, 2, 3]


def collapse(kind: str, revive_after: int) -> tuple[VectorQuantizer, Tensor]:
    """A quantizer whose first code serves everything, and the batch: four far clusters."""
    quantizer = make(kind, revive_after)
    with torch.no_grad():
        quantizer.codebook[1:] += 1000
    if isinstance(quantizer, EmaQuantizer):
        quantizer.ema_sum.copy_(quantizer.codebook)
    centres = torch.tensor([[5.0, 0, 0], [0, 5, 0], [0, 0, 5], [-5, 0, 0]])
    return quantizer, (centres[:, None] + 0.1 * batch(4, 20)).view(4, 20, D)


@kinds
def test_revived_codes_survive_the_next_updates(kind: str) -> None:
    quantizer, z_e = collapse(kind, revive_after=3)
    optimizer = torch.optim.Adam(list(quantizer.parameters()), lr=1e-3) if kind == "vq" else None
    used = []
    for step in range(12):
        latents = quantizer(z_e.clone().requires_grad_(), everywhere(z_e))
        assert latents.codes is not None
        used.append(set(latents.codes.unique().tolist()))
        if step == 2:
            assert not quantizer.idle.any()  # a revived code has its full time again
        latents.loss.backward()
        if optimizer:
            optimizer.step()
            optimizer.zero_grad()
    assert used[:3] == [{0}, {0}, {0}]  # the others dead for three steps,
    assert len(used[3]) >= 4  # then alive,
    assert used[3] <= used[4] <= used[5]  # and so after two more updates, before codes still idle move again
    assert latents.loss < 0.1  # each cluster, 0.1 wide and 5 from the origin, has its own
    assert quantizer.idle[quantizer.encode(z_e).unique()].eq(0).all()
    assert quantizer.updates == 12


@pytest.mark.parametrize("forgotten", [[], ["ema_sum"], ["ema_count"], ["ema_sum", "ema_count"]])
def test_resetting_the_embedding_alone_would_be_undone(forgotten: list[str]) -> None:
    """The bug this design avoids, made by hand: buffers left as they were take the code back, or let it fly."""
    quantizer, z_e = collapse("ema", revive_after=3)
    for _ in range(2):
        quantizer(z_e, everywhere(z_e))
    old = state(quantizer)
    quantizer(z_e, everywhere(z_e))  # revives
    revived = (quantizer.codebook - old["codebook"]).abs().amax(1) > 100
    assert revived.sum() == K - 1
    for name in forgotten:
        # What a further step of decay would have left; the count as it is where a code died long ago.
        value = old[name] * DECAY**100 if name == "ema_count" else old[name]
        getattr(quantizer, name)[revived] = value[revived]
    placed = quantizer.codebook.clone()
    latents = quantizer(z_e, everywhere(z_e))
    assert latents.codes is not None
    served = torch.zeros(K, dtype=torch.bool).index_fill_(0, latents.codes.unique(), True) & revived
    moved = (quantizer.codebook - placed)[served].abs().max()
    assert (moved < 1) == (not forgotten)  # clusters are 0.1 wide, their centres 5 from the origin


@kinds
def test_no_revival_when_it_is_off_or_all_is_served(kind: str) -> None:
    quantizer, z_e = collapse(kind, revive_after=0)
    for _ in range(5):
        latents = quantizer(z_e, everywhere(z_e))
    assert latents.codes is not None
    assert not latents.codes.any()
    assert quantizer.idle.tolist() == [0, 5, 5, 5, 5, 5]
    # every vector lies on its code: nothing to gain, so nothing moves
    quantizer, _ = collapse(kind, revive_after=1)
    before = quantizer.codebook.detach().clone()
    z_e = before[:1].expand(2, 4, D)
    quantizer(z_e, everywhere(z_e))
    torch.testing.assert_close(quantizer.codebook.detach(), before, rtol=1e-6, atol=0)  # one rounding of m / N


# --- resuming and ranks -------------------------------------------------------------------------------------


def train(quantizer: VectorQuantizer, batches: list[tuple[Tensor, Tensor]]) -> None:
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=0.1) if list(quantizer.parameters()) else None
    for z_e, mask in batches:
        latents = quantizer(z_e.clone().requires_grad_(), mask)
        latents.loss.backward()
        if optimizer:
            optimizer.step()
            optimizer.zero_grad()


def some_batches(steps: int) -> list[tuple[Tensor, Tensor]]:
    """Four clips of 6 frames, the padding different in each."""
    lengths = torch.tensor([[6], [2], [4], [5]])
    return [(3 * batch(4, 6, seed=10 + i), torch.arange(6) < lengths) for i in range(steps)]


@kinds
def test_state_dict_continues_identically(kind: str) -> None:
    batches = some_batches(12)
    straight = make(kind, 2, codes=16, ready=False)
    train(straight, batches)
    first = make(kind, 2, codes=16, ready=False)
    train(first, batches[:5])
    resumed = make(kind, 2, codes=16, ready=False)
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    train(resumed, batches[5:])
    assert_same(state(straight), state(resumed))
    assert straight.updates == 12


@kinds
def test_nothing_depends_on_the_global_generator(kind: str) -> None:
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        quantizer = make(kind, 2, codes=16, ready=False)
        train(quantizer, some_batches(6))
        results.append(state(quantizer))
    assert_same(*results)


class Coder(nn.Module):
    """A linear encoder before a quantizer, for DDP."""

    def __init__(self, quantizer: VectorQuantizer) -> None:
        super().__init__()
        self.linear = nn.Linear(D, D)
        with torch.no_grad():
            self.linear.weight.copy_(torch.eye(D))
            self.linear.bias.zero_()
        self.quantizer = quantizer

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        loss: Tensor = self.quantizer(self.linear(x), mask).loss
        return loss


def fit(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for x, mask in batches:
        model(x, mask).backward()
        optimizer.step()
        optimizer.zero_grad()


def one_rank(rank: int, folder: str, kind: str) -> None:
    """Trains on rows rank::2 under DDP and leaves the state in ``folder``."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    coder = Coder(make(kind, 2, codes=12, ready=False))
    wrap: Callable[..., Any] = nn.parallel.DistributedDataParallel
    fit(wrap(coder, broadcast_buffers=False), [(x[rank::2], mask[rank::2]) for x, mask in some_batches(8)])
    coder.eval()
    if rank == 0:  # evaluation calls no collective: a rank may do it alone
        coder(*some_batches(1)[0])
    torch.save(coder.state_dict(), f"{folder}/{rank}.pt")
    dist.barrier()  # gloo aborts a process whose peer has gone while it is still taking its group down
    dist.destroy_process_group()


@kinds
def test_two_processes_equal_one(kind: str, tmp_path: Path) -> None:
    torch.multiprocessing.spawn(one_rank, (str(tmp_path), kind), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert_same(*ranks)
    alone = Coder(make(kind, 2, codes=12, ready=False))
    revived = False
    for i, one_step in enumerate(some_batches(8)):
        before = alone.quantizer.idle.clone()
        fit(alone, [one_step])
        revived |= i > 0 and bool(((before == 1) & (alone.quantizer.idle == 0)).any())
    assert revived
    for name, value in alone.state_dict().items():
        # 1e-5: sums of at most 24 vectors in another order, over 8 steps; integers are equal
        torch.testing.assert_close(ranks[0][name], value, rtol=1e-5, atol=1e-5, msg=name)

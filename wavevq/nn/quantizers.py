"""Vector quantizers: the paper's, trained by gradient (equation 3), and the moving average one (appendix A.1).

Source: Van den Oord, Vinyals and Kavukcuoglu 2017, "Neural discrete representation learning".

Squared errors are means over the valid positions *and* over D, as in Sonnet's vqvae.py, so that beta means the same
for every width. Everything runs in the codebook's own precision (float32), autocast or not.

In training the statistics are those of the joined batch of all ranks, so every rank holds the same codebook. In
evaluation nothing is written and no collective is called: ranks may evaluate different numbers of batches.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavevq.contracts import Latents
from wavevq.distributed import interleaved, rank, total, world_size
from wavevq.nn.bottlenecks import Bottleneck
from wavevq.noise import uniform

LLOYD_ITERATIONS = 10  # of the initial k-means; ours, more moves the codes by little
SCORES_ON_CPU = 2**21  # scores in a block of the search: 8 MiB stay in the cache between product and argmin
SCORES_ON_GPU = 2**26
ROWS_OF_ERRORS = 2**12
INITIAL_TABLE, INITIAL_KMEANS, INITIAL_REPEATS, REVIVAL = range(4)  # streams of noise; the n-th update's: REVIVAL + n


class VectorQuantizer(Bottleneck):
    """Each vector becomes the nearest of K codes: what both quantizers share.

    codes: K. dim: D. beta: weight of the commitment loss. revive_after: consecutive training steps without use after
    which a code is moved onto a live vector, 0 for never. seed: of the initial codebook and of the vectors that
    revived codes take; a step is a function of the seed, the state and the batch.

    Buffers: initialised, bool ``[]``, false until the first training batch has set the codebook; updates, int64
    ``[]``, training steps seen; idle, int64 ``[K]``, steps since a code's last use. A batch without a valid position
    is no step and changes none of them; nor does one with a vector, on any rank, that is not finite: its loss says so.
    """

    codes: int
    codebook: Tensor  # float32 [K, D]
    initialised: Tensor
    updates: Tensor
    idle: Tensor

    def __init__(self, codes: int, dim: int, beta: float, revive_after: int, seed: int = 0) -> None:
        super().__init__()
        self.codes = codes
        self.dim = dim
        self.beta = beta
        self.revive_after = revive_after
        self.seed = seed
        self.register_buffer("initialised", torch.tensor(False))
        self.register_buffer("updates", torch.tensor(0))
        self.register_buffer("idle", torch.zeros(codes, dtype=torch.int64))

    def forward(self, z_e: Tensor, mask: Tensor, index: Tensor | None = None) -> Latents:
        with torch.autocast(z_e.device.type, enabled=False):
            valid = mask[..., None]
            vectors = torch.where(valid, z_e.to(self.codebook.dtype), 0)
            if self.training and not self.initialised:
                self._initialise(vectors.detach(), mask)
            codes = self.encode(vectors).masked_fill(~mask, 0)
            quantized = self.lookup(codes).masked_fill_(~valid, 0)
            counts = torch.bincount(codes[mask], minlength=self.codes)
            error = self._error(vectors, quantized)
            sound = error.detach().isfinite()
            if self.training:
                counted = total(torch.cat([counts, (~sound)[None]]))
                counts, sound = counted[:-1], counted[-1] == 0
            # DDP averages gradients over the ranks, so a sum divided by this is the joined batch's mean.
            ranks = world_size() if self.training else 1
            loss = error / (counts.sum().clamp(min=1) * self.dim / ranks)
            # Straight through, and exact: z + (q - z) would round.
            z = (vectors - vectors.detach()).add_(quantized.detach())
            # Last, for the codes and the loss of a step are those of the codebook before it.
            if self.training and (counts.any() & sound):
                self._update(vectors.detach(), quantized.detach(), codes, counts)
            return Latents(z=z.to(z_e.dtype), codes=codes, rate=None, loss=loss)

    @torch.no_grad()
    def encode(self, z_e: Tensor) -> Tensor:
        """Codes, int64 ``[B, *grid]`` in [0, K), of float ``[B, *grid, D]``."""
        rows = z_e.reshape(-1, self.dim).to(self.codebook.dtype)
        return nearest(rows, self.codebook).view(z_e.shape[:-1])

    def lookup(self, codes: Tensor) -> Tensor:
        """The vectors, float32 ``[B, *grid, D]``, of int64 ``[B, *grid]`` in [0, K)."""
        return F.embedding(codes, self.codebook)

    @abstractmethod
    def _error(self, vectors: Tensor, quantized: Tensor) -> Tensor:
        """The weighted squared errors ``[]`` summed over everything; padding is 0 in both and adds none."""

    @abstractmethod
    def _place(self, rows: Tensor, vectors: Tensor, share: Tensor) -> None:
        """Puts the codes ``rows`` ``[n]`` onto ``vectors`` ``[n, D]``, as if each had always had ``share`` vectors."""

    @abstractmethod
    def _follow(self, vectors: Tensor, codes: Tensor, counts: Tensor) -> None:
        """Moves the codebook after the vectors assigned to it; counts: int64 ``[K]``, of all ranks."""

    @torch.no_grad()
    def _initialise(self, vectors: Tensor, mask: Tensor) -> None:
        """k-means on the joined batch of all ranks."""
        rows = interleaved(vectors).reshape(-1, self.dim)[interleaved(mask).reshape(-1)]
        if not len(rows) or not rows.isfinite().all():
            return
        centres = kmeans(rows, self.codes, self.seed)
        # Every rank has computed the same but for the order of a GPU's atomic sums: take rank 0's.
        centres = total(centres if rank() == 0 else torch.zeros_like(centres))
        everyone = torch.arange(self.codes, device=rows.device)
        self._place(everyone, centres, self._share(torch.tensor(len(rows), device=rows.device)))
        self.initialised.fill_(True)

    @torch.no_grad()
    def _update(self, vectors: Tensor, quantized: Tensor, codes: Tensor, counts: Tensor) -> None:
        self.updates.add_(1)
        self._follow(vectors, codes, counts)
        self.idle.add_(1).masked_fill_(counts > 0, 0)
        if self.revive_after and (dead := self.idle >= self.revive_after).any():
            self._revive(dead.nonzero().flatten(), vectors, quantized, counts)

    def _revive(self, dead: Tensor, vectors: Tensor, quantized: Tensor, counts: Tensor) -> None:
        """Moves dead codes onto distinct vectors, each drawn with a chance in proportion to its squared error.

        As in k-means++: this spreads the codes, and never picks padding or a vector that already lies on a code, whose
        error is 0. Where vectors run out, the other codes wait for the next step.
        """
        errors = interleaved((vectors - quantized).square().sum(-1)).reshape(-1)
        picks = race(errors, len(dead), self.seed, REVIVAL + int(self.updates))
        rows = dead[: len(picks)]
        self._place(rows, interleaved(vectors).reshape(-1, self.dim)[picks], self._share(counts.sum()))
        self.idle[rows] = 0

    def _share(self, valid: Tensor) -> Tensor:
        """A code's fair share ``[]`` of ``valid`` vectors: what an average code's moving count would be.

        Of the same size as its neighbours' counts, so a placed code is neither frozen by its past nor without one.
        """
        return valid.to(self.codebook.dtype) / self.codes

    def _initial_table(self) -> Tensor:
        """Codes that are told apart before any data has been seen; ``[K, D]`` in [-0.5, 0.5)."""
        noise = uniform(self.seed, [INITIAL_TABLE], self.codes * self.dim)
        return (noise - 0.5).to(torch.get_default_dtype()).view(self.codes, self.dim)


class GradientQuantizer(VectorQuantizer):
    """The paper's quantizer: ||sg[z_e] - e||^2 + beta ||z_e - sg[e]||^2 (equation 3). The codebook is a parameter.

    A revived code is written into the parameter after the loss. It was unused, so its gradient is 0 and the step that
    follows moves it only by the optimizer's momentum, which ``revive_after`` steps of zero gradient have worn off.
    """

    def __init__(self, codes: int, dim: int, beta: float, revive_after: int, seed: int = 0) -> None:
        super().__init__(codes, dim, beta, revive_after, seed)
        self.codebook = nn.Parameter(self._initial_table())

    def _error(self, vectors: Tensor, quantized: Tensor) -> Tensor:
        codebook_error = F.mse_loss(quantized, vectors.detach(), reduction="sum")
        commitment = F.mse_loss(vectors, quantized.detach(), reduction="sum")
        return codebook_error + self.beta * commitment

    def _place(self, rows: Tensor, vectors: Tensor, share: Tensor) -> None:
        self.codebook[rows] = vectors

    def _follow(self, vectors: Tensor, codes: Tensor, counts: Tensor) -> None:
        """The optimizer moves it."""


class EmaQuantizer(VectorQuantizer):
    """The codebook follows moving averages of the vectors assigned to it (appendix A.1), with beta ||z_e - sg[e]||^2.

    N_i <- decay N_i + (1 - decay) n_i, m_i <- decay m_i + (1 - decay) sum_j z_ij, e_i <- m_i / N_i.

    Buffers: ema_count, float32 ``[K]``, N; ema_sum, float32 ``[K, D]``, m; codebook, e. All three are set together when
    a code is placed: with an old N and m the next update would take it back to where it died. No Laplace smoothing:
    without new vectors m_i / N_i does not change, so such rows are left as they are, and N_i is never 0 elsewhere.
    """

    ema_count: Tensor
    ema_sum: Tensor

    def __init__(self, codes: int, dim: int, beta: float, revive_after: int, decay: float, seed: int = 0) -> None:
        super().__init__(codes, dim, beta, revive_after, seed)
        self.decay = decay
        self.register_buffer("codebook", self._initial_table())
        self.register_buffer("ema_count", torch.ones(codes))
        self.register_buffer("ema_sum", self.codebook.clone())

    def _error(self, vectors: Tensor, quantized: Tensor) -> Tensor:
        return self.beta * F.mse_loss(vectors, quantized, reduction="sum")

    def _place(self, rows: Tensor, vectors: Tensor, share: Tensor) -> None:
        self.codebook[rows] = vectors
        self.ema_count[rows] = share
        self.ema_sum[rows] = vectors * share

    def _follow(self, vectors: Tensor, codes: Tensor, counts: Tensor) -> None:
        sums = total(_sums(vectors.reshape(-1, self.dim), codes.reshape(-1), self.codes))  # padding adds 0 to code 0
        self.ema_count.mul_(self.decay).add_(counts, alpha=1 - self.decay)
        self.ema_sum.mul_(self.decay).add_(sums, alpha=1 - self.decay)
        used = (counts > 0)[:, None]
        self.codebook.copy_(torch.where(used, self.ema_sum / self.ema_count[:, None], self.codebook))


@torch.no_grad()
def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """The code nearest to each vector, the lowest of equally near ones: int64 ``[N]`` in [0, K).

    vectors: float ``[N, D]``; codebook: ``[K, D]``, same dtype. ||z - e||^2 / 2 is ||e||^2 / 2 - z e and a constant
    of z: one product for a block of vectors at a time, so no N x K table is ever held.
    """
    # About the codebook's centre, where the two terms do not cancel digits however far from 0 the vectors lie.
    centre = codebook.mean(0)
    codebook = codebook - centre
    half_norms = codebook.square().sum(1) / 2
    table = codebook.t().contiguous()
    codes = torch.empty(len(vectors), dtype=torch.int64, device=vectors.device)
    block = max(16, (SCORES_ON_CPU if vectors.device.type == "cpu" else SCORES_ON_GPU) // len(codebook))
    scores = codebook.new_empty(min(block, len(vectors)), len(codebook))
    for start in range(0, len(vectors), block):
        rows = vectors[start : start + block] - centre
        torch.addmm(half_norms, rows, table, alpha=-1, out=scores[: len(rows)])
        torch.argmin(scores[: len(rows)], dim=1, out=codes[start : start + block])
    return codes


def kmeans(rows: Tensor, codes: int, seed: int) -> Tensor:
    """Centres ``[K, D]`` of rows ``[M, D]``, M >= 1: seeded as by k-means++, then Lloyd's iterations.

    Where fewer than K rows differ, every row is a centre, and the others are rows with a little noise.
    """
    chosen = _seeds(rows, codes, seed)
    if len(chosen) < codes:
        centres = rows[chosen[torch.arange(codes, device=rows.device) % len(chosen)]]
        repeats = centres[len(chosen) :]
        noise = uniform(seed, [INITIAL_REPEATS], repeats.numel()).to(rows).view_as(repeats) - 0.5
        repeats += 0.01 * rows.square().mean().sqrt() * noise  # about one percent
        return centres
    centres = rows[chosen]
    for _ in range(LLOYD_ITERATIONS):
        assigned = nearest(rows, centres)
        counts = torch.bincount(assigned, minlength=codes)[:, None]
        centres = torch.where(counts > 0, _sums(rows, assigned, codes) / counts, centres)
    return centres


def _seeds(rows: Tensor, codes: int, seed: int) -> Tensor:
    """At most ``codes`` distinct rows, int64 ``[n]``, each drawn in proportion to its squared error so far.

    k-means++ (Arthur and Vassilvitskii 2007) draws one after another; here an eighth of what there is at a time, as
    good in practice and dozens of rounds instead of thousands.
    """
    chosen = torch.empty(0, dtype=torch.int64, device=rows.device)
    errors = torch.ones_like(rows[:, 0])
    start = 0
    while len(chosen) < codes:
        wanted = min(max(1, len(chosen) // 8), codes - len(chosen))
        picks = race(errors, wanted, seed, INITIAL_KMEANS, start)
        if not len(picks):
            break
        fresh = rows[picks]
        distances = _errors(rows, fresh, nearest(rows, fresh))
        errors = torch.minimum(errors, distances) if len(chosen) else distances
        errors[picks] = 0  # exactly, whatever the rounding: no row twice
        chosen = torch.cat([chosen, picks])
        start += len(rows)
    return chosen


def race(weights: Tensor, count: int, seed: int, stream: int, start: int = 0) -> Tensor:
    """At most ``count`` distinct indices int64 ``[n]`` into weights ``[M]``, drawn in proportion to them.

    Weights of 0 are never drawn, so fewer come back where fewer are left. Drawing without replacement is a race of
    exponential clocks (Efraimidis and Spirakis 2006); ``start`` is the first position used of the noise's stream.
    """
    noise = uniform(seed, [stream], len(weights), start)[0].to(weights.device)
    times = torch.where(weights > 0, -torch.log1p(-noise) / weights, torch.inf)
    runners = min(count, int((weights > 0).sum()))
    return times.topk(runners, largest=False).indices


def _sums(rows: Tensor, codes: Tensor, size: int) -> Tensor:
    """The sum ``[K, D]`` of the rows ``[N, D]`` of each code ``[N]``."""
    return rows.new_zeros(size, rows.shape[1]).index_add_(0, codes, rows)


def _errors(rows: Tensor, codebook: Tensor, codes: Tensor) -> Tensor:
    """The squared error ``[N]`` of each row ``[N, D]``; in blocks, for rows may be the largest tensor there is."""
    blocks = zip(torch.split(rows, ROWS_OF_ERRORS), torch.split(codes, ROWS_OF_ERRORS), strict=True)
    return torch.cat([(block - codebook[of_block]).square().sum(1) for block, of_block in blocks])

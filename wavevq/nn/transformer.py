"""A causal transformer with a categorical output: what one would pick today where the paper's time took a WaveNet.

Pre-norm blocks (Xiong et al. 2020), rotary positions (Su et al. 2021), torch's scaled dot-product attention.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavevq.nn.embedding import embedded

BASE = 10_000.0  # of the rotary wavelengths


@dataclass
class Cache:
    """Keys and values ``[B, heads, t, width / heads]`` of every layer, of the t positions so far."""

    keys: list[Tensor]
    values: list[Tensor]


class Transformer(nn.Module):
    """p(x_t | x_<t, c) over ``classes`` values; c is a vector a sequence."""

    def __init__(self, *, classes: int, layers: int, width: int, heads: int, cond_dim: int) -> None:
        super().__init__()
        self.classes, self.heads = classes, heads
        self.embedding = nn.Embedding(classes + 1, width)  # the last is what stands before the first
        self.condition = nn.Linear(cond_dim, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, classes)
        nn.init.zeros_(self.output.weight)  # begin at the uniform distribution
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Teacher-forced logits ``[B, T, Q]``: position t sees ``x[:, :t]`` only.

        x: int64 ``[B, T]`` in [0, Q), or rows as ``embedded`` takes; c: ``[B, cond_dim]``.
        """
        if x.is_floating_point():
            before = F.pad(x[:, :-1], (0, 1, 1, 0))
            before[:, 0, self.classes] = 1
        else:
            before = F.pad(x[:, :-1], (1, 0), value=self.classes)
        return self.logits(before, c, self.start(0))

    def start(self, batch: int) -> Cache:
        """The cache before the first position; of no streams for a pass that keeps none."""
        width = self.embedding.embedding_dim // self.heads
        empty = [self.output.weight.new_zeros(batch, self.heads, 0, width) for _ in self.blocks]
        return Cache(list(empty), list(empty))

    def logits(self, before: Tensor, c: Tensor, cache: Cache) -> Tensor:
        """Logits ``[B, T, Q]`` of the positions whose inputs are ``before``, ``[B, T]`` or rows, after the cache's.

        The cache grows by them where it is of B streams.
        """
        h = embedded(before, self.embedding.weight) + self.condition(c)[:, None]
        for layer, block in enumerate(self.blocks):
            h = block(h, cache, layer)
        logits: Tensor = self.output(self.norm(h))
        return logits


class Block(nn.Module):
    """Attention and a network of two layers, each added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, h: Tensor, cache: Cache, layer: int) -> Tensor:
        """h: ``[B, T, width]``, of the T positions after those in the cache."""
        batch, steps, width = h.shape
        split = self.queries_keys_values(self.first(h)).view(batch, steps, 3, self.heads, -1)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        kept = len(cache.keys[layer]) == batch
        past = cache.keys[layer].shape[2] if kept else 0
        q, k = rotated(q, past), rotated(k, past)
        if kept:
            k = cache.keys[layer] = torch.cat([cache.keys[layer], k], 2)
            v = cache.values[layer] = torch.cat([cache.values[layer], v], 2)
        seen = torch.ones(steps, past + steps, dtype=torch.bool, device=h.device).tril(past)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        h = h + self.out(mixed.transpose(1, 2).reshape(batch, steps, width))
        out: Tensor = h + self.narrow(F.gelu(self.wide(self.second(h))))
        return out


def rotated(x: Tensor, first: int) -> Tensor:
    """x ``[..., T, D]``, positions ``first`` on, each pair of channels turned by position times its frequency."""
    half = x.shape[-1] // 2
    frequency = BASE ** (-torch.arange(half, device=x.device, dtype=torch.float64) / half)
    angle = torch.arange(first, first + x.shape[-2], device=x.device, dtype=torch.float64)[:, None] * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)

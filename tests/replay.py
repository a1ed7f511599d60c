"""The replay test that holds every sampler against the definition of right."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavevq.sampling.reference import pick


@torch.no_grad()
def mismatches(
    net: nn.Module, cond: Tensor, classes: Tensor, noise: Tensor, temperature: float = 1.0, top_p: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Feed what a sampler drew through the float64 teacher-forced forward, and pick again with the same noise.

    net: makes logits of classes and cond, with the weights that the sampler calculated with, ``reference.rounded``
    where it stores bfloat16. classes: int64 ``[B, P + T]``, prefix included; noise: ``[B, T]``, of the last T of them.
    Returns where the drawn class is not the one picked again (bool ``[B, T]``), and |cdf - u| (float64 ``[B, T]``): how
    far u lies outside the drawn class's interval of the cumulated probability, or top_p from the edge of the nucleus,
    where that is nearer.
    """
    logits = copy.deepcopy(net).double()(classes, cond.double())[:, classes.shape[1] - noise.shape[1] :].cpu()
    drawn, noise = classes[:, classes.shape[1] - noise.shape[1] :].cpu(), noise.cpu().double()
    again = pick(logits, noise, temperature, top_p)
    probability = F.softmax(logits / temperature, dim=-1)
    edge = torch.full_like(noise, torch.inf)
    if top_p < 1:
        ordered, order = probability.sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered
        probability = probability.scatter(-1, order, ordered.where(before < top_p, 0.0))
        edge = (before - top_p).abs().amin(-1)
    above = probability.cumsum(-1)
    below = above - probability
    target = noise * above[..., -1]
    low, high = (bound.gather(-1, drawn[..., None])[..., 0] for bound in (below, above))
    distance = torch.maximum(low - target, target - high).clamp(min=0.0)
    return again != drawn, torch.minimum(distance, edge)


def faithful(wrong: Tensor, distance: Tensor) -> bool:
    """Whether the results of ``mismatches`` are those of rounding alone.

    A logit off by 1e-4 moves the cumulated probability by less than 1e-4; with 256 boundaries or fewer, u falls that
    near to one for far fewer than 0.5 % of the samples where float32 sums are off by 1e-6.
    """
    return bool((distance[wrong] <= 1e-4).all()) and float(wrong.double().mean()) <= 0.005

"""A whole training step of recipes/vctk.yaml's model against the usual way of writing its decoder.

Both have the same encoder, quantizer, conditioning network, head, loss and optimizer, and the same number of layers
and channels. The usual way (as in r9y9/wavenet_vocoder): channels-first convolutions with padding, a conditioning
convolution at sample rate in every layer, separate output and skip convolutions.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from common import medians, options, report
from torch import Tensor, nn
from torch.nn import functional as F

from wavevq.build import build_model
from wavevq.contracts import Batch
from wavevq.decoders import of_speech
from wavevq.nn.wavenet import WaveNet
from wavevq.recipe import load_recipe
from wavevq.vqvae import VqVae

RECIPE = Path(__file__).parent.parent / "recipes" / "vctk.yaml"
BATCH, CROP, SPEAKERS = 4, 8192, 109


class Layer(nn.Module):
    """One residual block of convolutions ``[B, C, T]``."""

    def __init__(self, residual: int, gate: int, skip: int, kernel: int, dilation: int, cond_dim: int) -> None:
        super().__init__()
        self.past = (kernel - 1) * dilation
        self.dilated = nn.Conv1d(residual, 2 * gate, kernel, dilation=dilation, padding=self.past)
        self.condition = nn.Conv1d(cond_dim, 2 * gate, 1, bias=False)
        self.out = nn.Conv1d(gate, residual, 1)
        self.skip = nn.Conv1d(gate, skip, 1)

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        gates = self.dilated(x)[:, :, : x.shape[-1]] + self.condition(c)
        filtered, gate = gates.chunk(2, dim=1)
        hidden = torch.tanh(filtered) * torch.sigmoid(gate)
        return x + self.out(hidden), self.skip(hidden)


class LayerwiseWaveNet(nn.Module):
    """``wavevq.nn.wavenet.WaveNet`` written the usual way: the same shapes in and out."""

    def __init__(self, like: WaveNet) -> None:
        super().__init__()
        self.classes = like.classes
        _, kernel, residual, gates = like.taps.shape
        skip, cond_dim = like.skip.shape[2], like.condition.in_features
        self.embedding = nn.Embedding(like.classes, residual)
        self.layers = nn.ModuleList(Layer(residual, gates // 2, skip, kernel, d, cond_dim) for d in like.dilations)
        self.hidden = nn.Conv1d(skip, like.hidden.out_features, 1)
        self.output = nn.Conv1d(like.hidden.out_features, like.classes, 1)

    def conditioning(self, c: Tensor) -> Tensor:
        return c

    def skips(self, x: Tensor, c: Tensor) -> Tensor:
        h = F.pad(self.embedding(x[:, :-1]), (0, 0, 1, 0)).transpose(1, 2)
        upsampled = c.transpose(1, 2).repeat_interleave(x.shape[1] // c.shape[1], dim=2)
        total: Tensor | float = 0.0
        for layer in self.layers:
            h, skip = layer(h, upsampled)
            total = total + skip
        assert isinstance(total, Tensor)
        return total.transpose(1, 2)

    def head(self, skips: Tensor) -> Tensor:
        return self.output(F.relu(self.hidden(F.relu(skips.transpose(1, 2))))).transpose(1, 2)  # type: ignore[no-any-return]


def layerwise(model: VqVae) -> VqVae:
    """The model with its decoder's WaveNet written the usual way."""
    decoder = of_speech(model.decoder)
    decoder.wavenet = LayerwiseWaveNet(decoder.wavenet)  # type: ignore[assignment]
    return model


def stepper(model: VqVae, batch: Batch, bf16: bool) -> Callable[[], None]:
    """One training step: forward, backward, optimizer."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    model.train()

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model.training_loss(batch).loss
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    given = options(__doc__ or "")
    recipe = load_recipe(RECIPE)
    torch.manual_seed(0)
    x = (0.1 * torch.randn(BATCH, 1, CROP)).clamp(-1, 1)
    batch = Batch(x, torch.randint(SPEAKERS, (BATCH,)), torch.full((BATCH,), CROP), torch.arange(BATCH))
    rivals = {
        "layerwise": stepper(layerwise(build_model(recipe, SPEAKERS)), batch, bf16=False),
        "layerwise bf16": stepper(layerwise(build_model(recipe, SPEAKERS)), batch, bf16=True),
        "ours": stepper(build_model(recipe, SPEAKERS), batch, bf16=False),
        "ours bf16": stepper(build_model(recipe, SPEAKERS), batch, bf16=True),
    }
    seconds = medians(rivals, repeats=3 if given.quick else 9)
    audio = BATCH * CROP / recipe.speech.rate
    for name, median in seconds.items():
        print(f"{name}: {median:.3f} s a step, {audio / median:.2f} audio seconds a second")
    report(
        {
            "train_step_fp32_vs_layerwise": seconds["layerwise"] / seconds["ours"],
            # The rival's faster precision counts: bfloat16 convolutions may lose to its own float32.
            "train_step_bf16_vs_layerwise": min(seconds["layerwise"], seconds["layerwise bf16"]) / seconds["ours bf16"],
            "train_step_audio_seconds_per_second": audio / min(seconds["ours"], seconds["ours bf16"]),
        },
        given,
    )


if __name__ == "__main__":
    main()

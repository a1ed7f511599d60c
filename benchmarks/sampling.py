"""Samples a second: the CPU sampler against the usual incremental loop and an eager one, in turn, on one thread.

The usual loop is r9y9/wavenet_vocoder's ``incremental_forward`` (pip install --no-deps wavenet_vocoder==0.1.1 docopt);
where it is absent, a loop of ours over the same kind of layers, and the output says which. It is conditioned on the
context and on the speaker by a convolution of its own for each in every layer, as its users do. The eager loop is
``sampling.reference.step``, all streams at once. Ours includes the conditioning, and noise.

SMALL: 30 layers, residual 64, gate 128, skip 64, head 256; the paper's: residual 256, gate 512, skip 256.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import medians, options, report
from torch import Tensor, nn
from torch.nn import functional as F

from wavevq.build import build_model
from wavevq.contracts import Sampler
from wavevq.nn.wavenet import WaveNet
from wavevq.noise import uniform
from wavevq.recipe import load_recipe
from wavevq.run import Run
from wavevq.sampling import choose, reference
from wavevq.sampling.gpu import usable

HOP, RATE, CODES_A_SECOND = 64, 16000, 250
CONTEXT, SPEAKER, SPEAKERS = 128, 64, 109  # widths as in recipes/vctk.yaml, which joins them
COND = CONTEXT + SPEAKER


@dataclass(frozen=True)
class Size:
    residual: int
    gate: int  # half of what the usual loop calls gate channels
    skip: int
    layers: int = 30
    classes: int = 256


SMALL, PAPER = Size(64, 64, 64), Size(256, 256, 256)
PRIOR = Size(256, 256, 256, layers=20, classes=512)


def network(size: Size) -> WaveNet:
    net = WaveNet(
        classes=size.classes,
        layers=size.layers,
        cycle=10,
        kernel=2,
        residual=size.residual,
        gate=size.gate,
        skip=size.skip,
        head=256,
        cond_dim=COND,
    )
    nn.init.normal_(net.output.weight, std=0.1)  # zero to begin with: every class as likely as another
    return net.eval()


@torch.no_grad()
def ours(net: WaveNet, sampler: Sampler, batch: int, frames: int, hop: int = HOP) -> Callable[[], object]:
    """A call that draws frames x hop samples of every stream."""
    c = torch.randn(batch, frames, COND)
    return lambda: sampler(net, net.conditioning(c).detach(), uniform(0, range(batch), frames * hop))


@torch.no_grad()
def eager(net: WaveNet, batch: int, count: int) -> Callable[[], object]:
    """The reference's step in a loop, all streams in one batch."""
    cond = net.conditioning(torch.randn(batch, 1, COND)).detach()[:, 0]
    noise = uniform(0, range(batch), count)

    @torch.no_grad()
    def draw() -> None:
        streams = reference.start(net, batch)
        for t in range(count):
            drawn = reference.pick(reference.step(net, cond, streams), noise[:, t])
            streams.present = net.embedding[drawn]
            streams.position += 1

    return draw


# --- the usual loop -----------------------------------------------------------------------------------------


def usual(size: Size, batch: int, count: int) -> tuple[str, Callable[[], object]]:
    """Its name, and a call that draws ``count`` samples of every stream."""
    c, g = torch.randn(batch, CONTEXT, count), torch.randint(SPEAKERS, (batch, 1))
    start = F.one_hot(torch.full((batch,), 128), size.classes)[:, :, None].float()
    if importlib.util.find_spec("wavenet_vocoder") is None:
        loop = Incremental(size)
        return "a per-layer incremental loop of ours", lambda: loop.draw(start[:, :, 0], c, g)
    wavenet_vocoder = importlib.import_module("wavenet_vocoder")

    net = wavenet_vocoder.WaveNet(
        out_channels=size.classes,
        layers=size.layers,
        stacks=size.layers // 10,
        residual_channels=size.residual,
        gate_channels=2 * size.gate,
        skip_out_channels=size.skip,
        kernel_size=2,
        cin_channels=CONTEXT,
        gin_channels=SPEAKER,
        n_speakers=SPEAKERS,
        weight_normalization=False,
    ).eval()
    if batch > 1:  # it draws for one stream only; for several a last layer of ours does
        net.last_conv_layers.append(Draw())
    own = batch == 1
    return "wavenet_vocoder 0.1.1", torch.no_grad()(
        lambda: net.incremental_forward(test_inputs=start, c=c, g=g, T=count, softmax=own, quantize=own)
    )


class Draw(nn.Module):
    """Logits ``[..., Q]`` to a drawn class, one-hot."""

    def forward(self, logits: Tensor) -> Tensor:
        drawn = torch.multinomial(logits.flatten(0, -2).softmax(-1), 1).view(logits.shape[:-1])
        return F.one_hot(drawn, logits.shape[-1]).float()


class Incremental(nn.Module):
    """The usual way: each layer's convolution over a buffer of past inputs that is shifted every step."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        linear = nn.Linear
        self.size = size
        self.first = linear(size.classes, size.residual)
        self.dilations = [1 << layer % 10 for layer in range(size.layers)]
        self.dilated = nn.ModuleList(linear(2 * size.residual, 2 * size.gate) for _ in self.dilations)
        self.speaker = nn.Embedding(SPEAKERS, SPEAKER)
        self.local = nn.ModuleList(linear(CONTEXT, 2 * size.gate, bias=False) for _ in self.dilations)
        self.general = nn.ModuleList(linear(SPEAKER, 2 * size.gate, bias=False) for _ in self.dilations)
        self.out = nn.ModuleList(linear(size.gate, size.residual) for _ in self.dilations)
        self.skip = nn.ModuleList(linear(size.gate, size.skip) for _ in self.dilations)
        self.last = nn.ModuleList([linear(size.skip, size.skip), linear(size.skip, size.classes), Draw()])

    @torch.no_grad()
    def draw(self, x: Tensor, c: Tensor, g: Tensor) -> None:
        speaker = self.speaker(g[:, 0])
        buffers = [x.new_zeros(len(x), d + 1, self.size.residual) for d in self.dilations]
        for t in range(c.shape[2]):
            h = self.first(x)
            total = x.new_zeros(len(x), self.size.skip)
            for buffer, dilated, local, general, out, skip in zip(
                buffers, self.dilated, self.local, self.general, self.out, self.skip, strict=True
            ):
                buffer[:, :-1] = buffer[:, 1:].clone()
                buffer[:, -1] = h
                a, b = (dilated(buffer[:, [0, -1]].flatten(1)) + local(c[:, :, t]) + general(speaker)).chunk(2, 1)
                gated = torch.tanh(a) * torch.sigmoid(b)
                total = total + skip(gated)
                h = (h + out(gated)) * 0.5**0.5
            hidden, logits, pick = self.last
            x = pick(logits(F.relu(hidden(F.relu(total)))))


# --- figures ------------------------------------------------------------------------------------------------


def compare(name: str, size: Size, batch: int, counts: tuple[int, int, int], repeats: int) -> dict[str, float]:
    """Ratios of samples a second; counts: frames of ours, samples of the usual and of the eager loop."""
    net = network(size)
    peer, loop = usual(size, batch, counts[1])
    rivals = {
        "ours": ours(net, choose("cpu"), batch, counts[0]),
        "ours float32": ours(net, choose("cpu", "float32"), batch, counts[0]),
        "usual": loop,
        "eager": eager(net, batch, counts[2]),
    }
    drawn = {"ours": counts[0] * HOP, "ours float32": counts[0] * HOP, "usual": counts[1], "eager": counts[2]}
    rate = {key: batch * drawn[key] / seconds for key, seconds in medians(rivals, repeats).items()}
    print(
        f"{name}, {batch} stream{'s' if batch > 1 else ''}, {threads(torch.get_num_threads())}, samples/s together: "
        f"ours {rate['ours']:,.0f} "
        f"(float32 weights {rate['ours float32']:,.0f}), {peer} {rate['usual']:,.0f}, eager {rate['eager']:,.0f}"
    )
    return {
        f"{name}_b{batch}_vs_layerwise": rate["ours"] / rate["usual"],
        f"{name}_b{batch}_vs_reference": rate["ours"] / rate["eager"],
        f"{name}_b{batch}_realtime_16k": rate["ours"] / RATE,
    }


def threads(count: int) -> str:
    return "one thread" if count == 1 else f"{count} threads"


def seconds_of_first_call() -> tuple[float, float]:
    """A new process's first call, the sampler's import included: with nothing compiled, and from the cache on disk."""
    code = (
        "import time, torch\n"
        "from wavevq.nn.wavenet import WaveNet\n"
        "sizes = dict(classes=256, layers=30, cycle=10, kernel=2, residual=64, gate=64, skip=64, head=256)\n"
        "net = WaveNet(**sizes, cond_dim=4)\n"
        "cond, noise = net.conditioning(torch.zeros(1, 1, 4)).detach(), torch.full((1, 64), 0.5)\n"
        "started = time.perf_counter()\n"
        "from wavevq.sampling import choose\n"
        "choose('cpu')(net, cond, noise)\n"
        "print(time.perf_counter() - started)\n"
    )
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache}

        def first() -> float:
            command = [sys.executable, "-c", code]
            return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)

        return first(), first()


def seconds_to_first_chunk(repeats: int) -> float:
    """From the first code of a stream to its first tenth of a second of audio, with recipes/vctk.yaml's model.

    Prints how many codes it waits for; the time is that of the work, all codes being there.
    """
    recipe = load_recipe(Path(__file__).parent.parent / "recipes" / "vctk.yaml")
    model = build_model(recipe, 1).eval()
    run = Run(Path("untrained"), recipe, ("one",), model, 0, choose("cpu"))
    asked = []

    def codes() -> Iterator[int]:
        for code in range(200):
            asked.append(code)
            yield code

    def first() -> None:
        asked.clear()
        next(run.decode_stream(codes(), "one", chunk_seconds=0.1))

    seconds = medians({"first": first}, repeats)["first"]
    print(f"first tenth of a second of a stream: {1000 * seconds:.0f} ms, after {len(asked)} codes")
    return seconds


def main() -> None:
    given = options(__doc__ or "", threads=1)
    torch.manual_seed(0)
    repeats = 3 if given.quick else 9
    figures = {
        **compare("small", SMALL, 1, (150, 100, 300), repeats),
        **compare("small", SMALL, 16, (20, 30, 60), repeats),
        **compare("paper", PAPER, 1, (12, 30, 60), repeats),
    }
    for unwanted in ("small_b16_realtime_16k", "paper_b1_realtime_16k"):
        print(f"{unwanted} {figures.pop(unwanted):.3g}")
    prior = ours(network(PRIOR), choose("cpu"), 1, 500, hop=1)
    figures["prior_realtime_250"] = 500 / medians({"prior": prior}, repeats)["prior"] / CODES_A_SECOND
    torch.set_num_threads(2)
    both = ours(network(SMALL), choose("cpu"), 32, 20)
    figures["small_b32_2threads_realtime_16k"] = 32 * 20 * HOP / medians({"both": both}, repeats)["both"] / RATE
    torch.set_num_threads(given.threads)
    figures["first_call_cold_s"], figures["first_call_cached_s"] = seconds_of_first_call()
    figures["first_chunk_ms"] = 1000 * seconds_to_first_chunk(repeats)
    figures |= gpu_figures(repeats)
    report(figures, given)


def gpu_figures(repeats: int) -> dict[str, float]:
    """Times real time at 16 kHz of 1 to 4096 streams together, where there is a GPU."""
    if (reason := usable(torch.device("cuda"))) is not None:
        print(f"the GPU sampler's figures were not measured: {reason}")
        return {}
    net: Any = network(SMALL).cuda()
    sampler = choose("gpu", device="cuda")
    figures = {}
    for batch in (1, 16, 256, 4096):
        cond, noise = (
            net.conditioning(torch.randn(batch, 20, COND, device="cuda")).detach(),
            uniform(0, range(batch), 20 * HOP).cuda(),
        )

        def draw(cond: Tensor = cond, noise: Tensor = noise) -> None:
            sampler(net, cond, noise)
            torch.cuda.synchronize()

        seconds = medians({"gpu": draw}, repeats)["gpu"]
        figures[f"gpu_small_b{batch}_realtime_16k"] = batch * 20 * HOP / seconds / RATE
    return figures


if __name__ == "__main__":
    main()

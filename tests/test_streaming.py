"""Audio while codes arrive: to the last bit that of the whole file, alone or in a batch, and as early as can be."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from wavevq.build import build_model
from wavevq.contracts import Sampler
from wavevq.decoders import FRAMES_A_BLOCK, WaveNetDecoder
from wavevq.errors import WavevqError
from wavevq.nn.encoders import valid
from wavevq.noise import uniform
from wavevq.recipe import parse_recipe
from wavevq.run import Run
from wavevq.sampling import choose
from wavevq.sampling.reference import Reference

HOP, K, RATE, HALO = 4, 12, 8000, 2
KNOWN = ("ann", "bob")
BLOCK = FRAMES_A_BLOCK * HOP  # samples


def made(sampler: Sampler) -> Run:
    """A run of random weights, whose codes reach far into the audio."""
    widths = dict.fromkeys(("residual", "gate", "skip", "head", "context", "speaker_dim"), 6)
    model = {
        "encoder": {"kind": "waveform", "strides": [2, 2], "channels": 6},
        "bottleneck": {"kind": "vq", "codes": K, "dim": 3},
        "decoder": {"kind": "wavenet", "layers": 3, "cycle": 3, "context_layers": HALO, **widths},
    }
    data = {"kind": "folder", "rate": RATE}
    recipe = parse_recipe({"data": data, "model": model, "train": {"steps": 5, "crop": 80}}, "tiny")
    module = build_model(recipe, len(KNOWN)).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.7
    return Run(Path("tiny"), recipe, KNOWN, module, 5, sampler)


@pytest.fixture(scope="module", params=["reference", "auto"])
def run(request: pytest.FixtureRequest) -> Run:
    return made(choose(request.param))


def some_codes(frames: int, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, K, frames)


def joined(chunks: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate(list(chunks))


# --- the same to the last bit -------------------------------------------------------------------------------

ARRIVALS: dict[str, Callable[[NDArray[np.int64]], Iterable[Any]]] = {
    "one at a time": lambda codes: codes.tolist(),
    "numpy's integers": iter,
    "all at once": lambda codes: [codes.astype(np.uint8)],
    "sevens": lambda codes: [codes[i : i + 7] for i in range(0, len(codes), 7)],
    "anyhow": lambda codes: [codes[:0], *codes[:1], codes[1:1], codes[1:30], *codes[30:31], codes[31:]],
}


@pytest.mark.parametrize("arrival", ARRIVALS)
@pytest.mark.parametrize("frames", [1, FRAMES_A_BLOCK, FRAMES_A_BLOCK + HALO, 2 * FRAMES_A_BLOCK + 1, 50])
def test_a_stream_is_the_whole(run: Run, frames: int, arrival: str) -> None:
    codes = some_codes(frames)
    how: dict[str, Any] = {"seed": 3, "temperature": 0.9, "top_p": 0.95}
    whole = run.decode(codes, "bob", **how)
    assert len(whole) == frames * HOP
    for samples in (1, 25, BLOCK, 100_000):
        chunks = list(run.decode_stream(ARRIVALS[arrival](codes), "bob", samples / RATE, **how))
        assert [len(chunk) for chunk in chunks[:-1]] == [samples] * (len(chunks) - 1)
        assert 0 < len(chunks[-1]) <= samples
        assert chunks[0].dtype == np.float32
        assert np.array_equal(joined(chunks), whole)


@pytest.mark.parametrize("clips_a_block", [1, 4])
def test_a_batch_is_its_clips_alone(run: Run, clips_a_block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wavevq.decoders.CLIPS_A_BLOCK", {"cpu": clips_a_block})
    clips = [some_codes(frames, frames) for frames in (20, 1, 37, 16, 5, 33)]
    speakers = ["ann", "bob"] * 3
    drawn: list[int] = []
    together = run.decode_batch(clips, speakers, seed=9, advance=drawn.append)
    assert sum(drawn) == HOP * sum(map(len, clips))
    for codes, speaker, audio in zip(clips, speakers, together, strict=True):
        assert np.array_equal(audio, run.decode(codes, speaker, seed=9))


def test_noise_is_that_of_its_position(run: Run) -> None:
    """No block begins the noise anew: at this temperature all classes are equally likely, and a draw its noise."""
    audio = run.decode(np.zeros(50, np.int64), "ann", seed=7, temperature=1e9)
    expected = run.model.decoder.distribution.decode((uniform(7, [0], 50 * HOP)[0] * 256).long())
    # Where the noise is within rounding of an edge between two classes, either may be drawn.
    assert (audio == expected.numpy()).mean() > 0.95


# --- conditioning -------------------------------------------------------------------------------------------


class Listener:
    """A sampler that keeps the conditioning and draws nothing."""

    def __init__(self) -> None:
        self.heard: list[Tensor] = []

    def __call__(self, weights: Any, cond: Tensor, noise: Tensor, *how: Any, state: Any = None) -> tuple[Tensor, Any]:
        self.heard.append(cond)
        return torch.zeros_like(noise, dtype=torch.int64), state


def by_blocks(decoder: WaveNetDecoder, z: Tensor, label: Tensor, frames: Tensor) -> Tensor:
    listener = Listener()
    decoder.sample(z, label, torch.zeros(len(z), z.shape[1] * HOP), listener, frames=frames)
    assert all(cond.shape[1] == FRAMES_A_BLOCK for cond in listener.heard[:-1])
    return torch.cat(listener.heard, 1)


@pytest.mark.parametrize("frames", [1, 2, FRAMES_A_BLOCK, FRAMES_A_BLOCK + 1, 3 * FRAMES_A_BLOCK + HALO])
def test_conditioning_by_blocks_is_that_of_the_whole(frames: int) -> None:
    decoder = made(Reference()).model.decoder.double()
    z = torch.randn(3, frames, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    label = torch.tensor([0, 1, 1])
    mask = valid(torch.tensor([frames, -(-frames // 2), 1]), frames)
    with torch.no_grad():
        whole = decoder.conditioning(z, label, mask)
    found = by_blocks(decoder, z, label, mask)
    # float64; the same sums in another order
    torch.testing.assert_close(found, whole, rtol=1e-12, atol=1e-12)
    # What stands after a clip's end reaches nothing in it.
    other = by_blocks(decoder, torch.where(mask[..., None], z, 1e3), label, mask)
    assert torch.equal(other, found)


def test_a_code_reaches_its_halo_and_no_further_back(run: Run) -> None:
    heard = False
    for place in (0, 15, 16, 21, 39):
        codes = some_codes(40)
        other = codes.copy()
        other[place] = (other[place] + 1) % K
        z, changed = (run.model.bottleneck.lookup(torch.from_numpy(one))[None] for one in (codes, other))
        everything = torch.ones(1, 40, dtype=torch.bool)
        conds = [by_blocks(run.model.decoder, one, torch.tensor([0]), everything)[0] for one in (z, changed)]
        differ = (conds[0] != conds[1]).flatten(1).any(1).nonzero()[:, 0].tolist()
        assert differ == list(range(max(0, place - HALO), min(40, place + HALO + 1)))
        one, two = (run.decode(some, "ann") for some in (codes, other))
        before = max(0, place - HALO) * HOP
        assert np.array_equal(one[:before], two[:before])
        heard |= not np.array_equal(one[before:], two[before:])
    assert heard


# --- as they arrive -----------------------------------------------------------------------------------------


def counted(codes: Iterable[int]) -> tuple[Iterator[int], list[int]]:
    taken: list[int] = []

    def each() -> Iterator[int]:
        for code in codes:
            taken.append(code)
            yield code

    return each(), taken


@pytest.mark.parametrize("samples", [3, BLOCK, BLOCK + 1, 150])
def test_no_code_is_asked_for_before_it_is_needed(run: Run, samples: int) -> None:
    codes, taken = counted(itertools.repeat(1))  # without end
    audio = run.decode_stream(codes, "ann", samples / RATE)
    assert not taken
    for chunk in range(1, 5):
        assert len(next(audio)) == samples
        assert len(taken) == -(-chunk * samples // BLOCK) * FRAMES_A_BLOCK + HALO


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (K, f"codes: codes from {K} to {K}; the codebook of tiny has 0 to {K - 1}"),
        (-1, "codes: codes from -1 to -1"),
        (np.array([0, 2**40]), f"codes from 0 to {2**40}"),
        (0.5, "codes: holds float64; codes are integers"),
        (True, "holds bool"),
        (np.zeros((2, 2), int), r"has the shape \[2, 2\]"),
    ],
)
def test_a_wrong_code_is_told_when_it_arrives(run: Run, wrong: Any, says: str) -> None:
    codes = some_codes(2 * FRAMES_A_BLOCK + HALO + 1)
    given, taken = counted([*codes.tolist(), wrong, 0, 0])
    audio = run.decode_stream(given, "ann", BLOCK / RATE)
    whole = run.decode(codes, "ann")
    assert np.array_equal(next(audio), whole[:BLOCK])
    assert np.array_equal(next(audio), whole[BLOCK : 2 * BLOCK])
    with pytest.raises(WavevqError, match=says):
        next(audio)
    assert len(taken) == len(codes) + 1


@pytest.mark.parametrize("nothing", [[], [np.zeros(0, np.int64)]])
def test_no_codes(run: Run, nothing: list[Any]) -> None:
    with pytest.raises(WavevqError, match=r"codes: has the shape \[0\]; codes are one sequence of at least one"):
        next(run.decode_stream(nothing, "ann"))


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"speaker": "dan"}, "dan: not a speaker of tiny; it knows ann, bob"),
        ({"seed": -1}, "seed -1: must be"),
        ({"temperature": 0.0}, "temperature 0.0: must be"),
        ({"top_p": 2.0}, "top_p 2.0: must be"),
        *(({"chunk_seconds": wrong}, f"chunk_seconds {wrong}: must be") for wrong in (0.0, float("nan"), float("inf"))),
    ],
)
def test_what_cannot_be_is_told_before_a_code_is_asked_for(run: Run, how: dict[str, Any], says: str) -> None:
    with pytest.raises(WavevqError, match=says):
        run.decode_stream(iter([0]), **({"speaker": "ann"} | how))

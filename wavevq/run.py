"""A trained run: the model in a run folder, which encodes, decodes, converts and draws.

run = load_run("runs/digits-20261121-090000")
codes = run.encode(read("in.wav"))
audio = run.convert(read("in.wav"), speaker="lucas")
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from wavevq import voices
from wavevq.audio import Heard, Signal, Sound, cut
from wavevq.build import build_prior, trained_model, with_average
from wavevq.codes_file import refuse_noncodes
from wavevq.contracts import Sampler
from wavevq.decoders import of_speech
from wavevq.errors import WavevqError
from wavevq.joint import JointVqVae
from wavevq.nn.encoders import valid
from wavevq.nn.wavenet import WaveNet
from wavevq.noise import CODES, VOICES, derived, uniform
from wavevq.prior import Prior
from wavevq.recipe import Recipe
from wavevq.run_folder import CHECKPOINTS, PRIOR, find_run, newest_checkpoint, read_recipe, read_speakers, refuse_stale
from wavevq.sampling import Backend, Precision, choose
from wavevq.sampling.guidance import Guided
from wavevq.sampling.reference import OneByOne, Reference
from wavevq.sampling.transformer import Cached
from wavevq.train.state import checkpoints, fingerprint, read_state
from wavevq.vqvae import VqVae

CODES_AT_ONCE = 4096  # whose vectors are looked up together, of clips of any length


@dataclass(frozen=True)
class Run:
    """A trained model and what belongs to it.

    speakers: in the order of their labels, those that it was trained on, then the ``enrolled``. step: training steps
    that its weights have seen. sampler: what draws the samples. prior: of codes, with what draws from it, or None where
    none has been trained. guiding: what draws codes with guidance, or None where the sampler that was asked for cannot.
    """

    folder: Path
    recipe: Recipe
    speakers: tuple[str, ...]
    model: VqVae
    step: int
    sampler: Sampler
    prior: tuple[Prior, Sampler] | None = None
    guiding: OneByOne | None = None
    enrolled: tuple[str, ...] = ()

    @property
    def rate(self) -> int:
        """Hz, of what ``decode`` returns."""
        return self.recipe.speech.rate

    def codebook(self) -> int:
        """K, its codes being 0 to K - 1. Raises WavevqError for a model without codes."""
        return codebook(self.folder, self.recipe, self.model)

    @property
    def labels(self) -> tuple[str, ...]:
        """The speakers: what a run of whatever signal has."""
        return self.speakers

    @property
    def trained_speakers(self) -> tuple[str, ...]:
        """Those that the model was trained on."""
        return self.speakers[: len(self.speakers) - len(self.enrolled)]

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def speaker(self, name: str) -> int:
        """The label of a speaker. Raises WavevqError for one that the model does not know."""
        if name not in self.speakers:
            raise WavevqError(f"{name}: not a speaker of {self.folder}; it knows {', '.join(self.speakers)}")
        return self.speakers.index(name)

    @torch.no_grad()
    def encode(self, recording: Sound, advance: Callable[[float], object] = lambda share: None) -> NDArray[np.int64]:
        """Codes int64 ``[F]``, one for each hop of samples, the last for what is left.

        The recording may be longer than memory (``audio.opened``). advance: called with the share of it that has been
        encoded since. Raises WavevqError for a model without codes.
        """
        self.codebook()
        heard = Heard(recording, self.rate, self.recipe.speech.trim_db)
        parts = []
        for codes in self.model.encode_parts(torch.from_numpy(block).to(self.device) for block in heard.blocks()):
            parts.append(codes[0].cpu().numpy())
            advance(len(parts[-1]) * self.model.hop / heard.length)
        return np.concatenate(parts)

    def decode_batch(
        self,
        codes: Sequence[NDArray[np.integer[Any]]],
        speakers: Sequence[str],
        *,
        seed: int = 0,
        temperature: float | None = None,
        top_p: float = 1.0,
        streams: Sequence[int] | None = None,
        advance: Callable[[int], object] = lambda samples: None,
    ) -> list[Signal]:
        """Audio float32 ``[F x hop]`` of several clips' codes at once.

        Every clip draws from stream 0 of ``seed``, or its own of ``streams``, as it does alone: a batch changes none,
        to the last bit. temperature: below 1 is less random; None, here as elsewhere, is the recipe's. advance: called
        after each block of frames with how many samples it has brought, all clips together.
        """
        parts: list[list[Signal]] = [[] for _ in codes]
        for block in self.decode_blocks(
            codes, speakers, seed=seed, temperature=temperature, top_p=top_p, streams=streams
        ):
            for signal, drawn in zip(parts, block, strict=True):
                signal.append(drawn)
            advance(sum(map(len, block)))
        return [np.concatenate(signal) for signal in parts]

    def decode_blocks(
        self,
        codes: Sequence[NDArray[np.integer[Any]]],
        speakers: Sequence[str],
        *,
        seed: int = 0,
        temperature: float | None = None,
        top_p: float = 1.0,
        streams: Sequence[int] | None = None,
    ) -> Iterator[list[Signal]]:
        """``decode_batch`` as it is made: of every clip the audio of the next few frames, none where it has ended."""
        check_sampling(seed, temperature, top_p)
        clips = [torch.from_numpy(self.check_codes(one)) for one in codes]
        lengths = torch.tensor([len(clip) for clip in clips])

        def pieces() -> Iterator[tuple[Tensor, Tensor]]:
            for start in range(0, max(map(len, clips), default=0), CODES_AT_ONCE):
                some = pad_sequence([clip[start : start + CODES_AT_ONCE] for clip in clips], batch_first=True)
                yield some, valid(lengths - start, some.shape[1])

        start = 0
        for block in self._blocks(pieces(), speakers, seed, temperature, top_p, streams):
            left = (lengths * self.model.hop - start).clamp(min=0).tolist()
            yield [drawn[:count] for drawn, count in zip(block, left, strict=True)]
            start += block.shape[1]

    @torch.no_grad()
    def sample_codes(
        self,
        speakers: Sequence[str | None],
        frames: int,
        *,
        seed: int = 0,
        temperature: float | None = None,
        top_p: float = 1.0,
        prime: NDArray[np.integer[Any]] | None = None,
        guidance: float = 1.0,
        streams: Sequence[int] | None = None,
        advance: Callable[[int], object] = lambda codes: None,
    ) -> list[NDArray[np.int64]]:
        """New codes int64 ``[n]`` from the prior, n <= ``frames``.

        The i-th clip draws from stream i of ``seed``, or its own of ``streams``, as it does alone.

        speakers: of each clip, None for nobody's in particular. prime: codes ``[P]`` that every clip goes on from, not
        returned. guidance: W of ``sampling.guidance``, 1 for none. advance: as ``Prior.sample``'s. Raises WavevqError
        where the run has no prior, or one that cannot do what is asked.
        """
        check_sampling(seed, temperature, top_p)
        prior, sampler = self.trained_prior()
        labels = [prior.nobody if name is None else self.speaker(name) for name in speakers]
        known = [min(label, prior.nobody) for label in labels]  # the codes of an enrolled speaker are nobody's
        if prior.nobody in known and prior.labels and not prior.drop:
            heard = ", ".join(self.trained_speakers)
            raise WavevqError(f"{self.folder}: its prior was never trained without a speaker; name one of {heard}")
        if guidance != 1:
            sampler = self.guided(guidance)
            if prior.nobody in known:
                heard = ", ".join(self.trained_speakers)
                raise WavevqError(f"guidance {guidance:g}: wants a speaker for every clip, to guide it to, of {heard}")
        label = torch.tensor(known, device=self.device)
        noise = uniform(derived(seed, CODES), streams or range(len(speakers)), frames).to(self.device)
        prefix = None
        if prime is not None:
            prefix = torch.from_numpy(self.check_codes(prime)).to(self.device).expand(len(speakers), -1)
        drawn = prior.sample(label, noise, sampler, drawn_at(temperature, self.recipe), top_p, prefix, advance)
        return [one.cpu().numpy() for one in drawn]

    def trained_prior(self) -> tuple[Prior, Sampler]:
        """The prior and what draws from it. Raises WavevqError where none has been trained."""
        if self.prior is None:
            raise no_prior(self.folder, self.recipe)
        return self.prior

    @torch.no_grad()
    def guided(self, weight: float) -> Guided:
        """What draws codes with guidance ``weight``, W of ``sampling.guidance``. Raises WavevqError where none can."""
        prior, sampler = self.trained_prior()
        if not (weight >= 0 and math.isfinite(weight)):
            raise WavevqError(f"guidance {weight}: must be 0 or above, and finite; 1 is none")
        if not prior.labels:
            raise WavevqError(f"guidance {weight:g}: the prior of {self.folder} knows no speakers to be guided to")
        if not prior.drop:
            raise WavevqError(f"guidance {weight:g}: the prior of {self.folder} was never trained without a speaker")
        if self.guiding is None:
            raise WavevqError(f"guidance {weight:g}: sampler {sampler} cannot; give auto or reference")
        return Guided(self.guiding, prior.conditioning(torch.tensor([prior.nobody], device=self.device))[:, 0], weight)

    def warm_up(self) -> None:
        """Have what draws compiled, or loaded, before a clock runs: a frame is drawn and thrown away."""
        if not isinstance(self.sampler, Reference):
            self.decode(np.zeros(1, np.int64), self.speakers[0])

    def decode_stream(
        self,
        codes: Iterable[int | NDArray[np.integer[Any]]],
        speaker: str,
        chunk_seconds: float = 0.25,
        *,
        seed: int = 0,
        temperature: float | None = None,
        top_p: float = 1.0,
        name: str = "codes",
    ) -> Iterator[Signal]:
        """Audio float32 of ``chunk_seconds`` a piece, the last one shorter, while the codes arrive.

        codes: one at a time or in arrays ``[n]``, asked for no earlier than needed. The pieces together are what
        ``decode`` makes of the codes together. Raises WavevqError as ``decode``, with ``name``, for a code when it
        arrives.
        """
        check_sampling(seed, temperature, top_p)
        self.speaker(speaker)
        if not (chunk_seconds > 0 and math.isfinite(chunk_seconds)):
            raise WavevqError(f"chunk_seconds {chunk_seconds}: must be above 0 and finite")
        rows = (torch.from_numpy(some)[None] for some in self._arriving(codes, name))
        pieces = ((row, torch.ones_like(row, dtype=torch.bool)) for row in rows)
        blocks = self._blocks(pieces, [speaker], seed, temperature, top_p)
        return cut((block[0] for block in blocks), max(1, round(chunk_seconds * self.rate)))

    def _arriving(self, codes: Iterable[int | NDArray[np.integer[Any]]], name: str) -> Iterator[NDArray[np.int64]]:
        """Arriving codes as arrays ``[n]``, n >= 1."""
        none = True
        for item in codes:
            some = np.asarray(item)
            some = some[None] if some.ndim == 0 else some
            if some.shape != (0,):
                none = False
                checked = self.check_codes(some, name)
                yield from (checked[i : i + CODES_AT_ONCE] for i in range(0, len(checked), CODES_AT_ONCE))
        if none:
            self.check_codes(np.empty(0, np.int64), name)

    def _blocks(
        self,
        codes: Iterable[tuple[Tensor, Tensor]],
        speakers: Sequence[str],
        seed: int,
        temperature: float | None,
        top_p: float,
        streams: Sequence[int] | None = None,
    ) -> Iterator[NDArray[np.float32]]:
        """Audio ``[B, n]`` of codes int64 ``[B, F]`` and bool ``[B, F]``, the valid, a block of frames at a time."""
        label = torch.tensor([self.speaker(name) for name in speakers], device=self.device)

        def noise(start: int, count: int) -> Tensor:
            if streams is None:
                return uniform(seed, [0], count, start).expand(len(label), -1)
            return uniform(seed, streams, count, start)

        there = ((some.to(self.device), mask.to(self.device)) for some, mask in codes)
        warmth = drawn_at(temperature, self.recipe)
        for block in self.model.decode(there, label, noise, self.sampler, warmth, top_p):
            yield block[:, 0].cpu().numpy()

    def decode(
        self,
        codes: NDArray[np.integer[Any]],
        speaker: str,
        *,
        seed: int = 0,
        temperature: float | None = None,
        top_p: float = 1.0,
    ) -> Signal:
        """Audio float32 ``[F x hop]`` in [-1, 1] at ``rate``, sampled from codes ``[F]``.

        Equal seeds give equal audio. Raises WavevqError for codes of another codebook and for unknown speakers.
        """
        return self.decode_batch([codes], [speaker], seed=seed, temperature=temperature, top_p=top_p)[0]

    def convert(
        self, recording: Sound, speaker: str, *, seed: int = 0, temperature: float | None = None, top_p: float = 1.0
    ) -> Signal:
        """A recording said again by another speaker: float32 in [-1, 1] at ``rate``, of the recording's duration."""
        label = self.speaker(speaker)  # before the work, not after
        codes = self.encode(recording)
        said = self.decode(codes, self.speakers[label], seed=seed, temperature=temperature, top_p=top_p)
        return said[: self.duration(recording)]

    def duration(self, recording: Sound) -> int:
        """Samples at ``rate`` that the recording lasts."""
        return round(recording.length * self.rate / recording.rate)

    def check_codes(self, codes: NDArray[Any], name: str = "codes") -> NDArray[np.int64]:
        """Codes as int64 ``[F]``. Raises WavevqError, with ``name``, where they are not this model's."""
        size = self.codebook()
        refuse_noncodes(codes.dtype, codes.shape, name)
        low, high = int(codes.min()), int(codes.max())
        if low < 0 or high >= size:
            raise WavevqError(f"{name}: codes from {low} to {high}; the codebook of {self.folder} has 0 to {size - 1}")
        return codes.astype(np.int64)


def load_run(
    name: str | Path | None = None,
    device: str | torch.device | None = None,
    sampler: Backend = "auto",
    precision: Precision = "bfloat16",
    enrolled: bool = True,
) -> Run:
    """The run in a folder, or of that name under ``runs/``; None as ``find_run``. Averaged weights, on ``device``.

    device: by default a GPU where there is one, unless the sampler asked for is ``cpu``. sampler and precision: as in
    ``sampling.choose``. enrolled: with the speakers that were enrolled after training. Raises WavevqError for a folder
    that is no run or is damaged, one of those speakers' files included, and a sampler that cannot run.
    """
    device = device or default_device(sampler)
    chosen = choose(sampler, precision, device)
    folder = find_run(name, "speech")
    recipe = read_recipe(folder)
    if recipe.data.signal != "speech":
        raise WavevqError(f"{folder}: is a run of {recipe.data.signal}; what is asked for needs one of speech")
    speakers = read_speakers(folder)
    model, step = load_model(folder, recipe, len(speakers))
    new: list[voices.Voice] = []
    if enrolled:
        decoder = of_speech(model.decoder)
        made = fingerprint(newest_checkpoint(folder))
        new = voices.fitting(folder, speakers, made, decoder.voice(0).shape)
        decoder.add_speakers([voice.embedding for voice in new])
    learned = model.prior if isinstance(model, JointVqVae) else load_prior(folder, recipe, len(speakers))
    prior = None
    if learned is not None:
        prior = learned.eval().to(device), chosen if isinstance(learned.network, WaveNet) else Cached()
    draws = prior[1] if prior else None
    guiding = draws if isinstance(draws, OneByOne) else Reference(precision) if sampler == "auto" else None
    names = tuple(voice.name for voice in new)
    return Run(folder, recipe, (*speakers, *names), model.eval().to(device), step, chosen, prior, guiding, names)


def default_device(sampler: Backend) -> str:
    """A GPU where there is one, unless the sampler asked for is ``cpu``."""
    return "cuda" if torch.cuda.is_available() and sampler != "cpu" else "cpu"


def codebook(folder: Path, recipe: Recipe, model: VqVae) -> int:
    """K of a run. Raises WavevqError where its model has no codes."""
    if model.bottleneck.codes is None:
        kind = recipe.model.bottleneck.kind
        raise WavevqError(f"{folder}: its bottleneck is {kind!r} and has no codes; take a run with vq or ema")
    return model.size


def load_model(folder: Path, recipe: Recipe, labels: int) -> tuple[VqVae, int]:
    """The model of a run with its averaged weights, and how many steps they have seen; labels: how many."""
    step: int = read_state(newest_checkpoint(folder))["step"]
    return trained_model(folder, recipe, labels), step


def load_prior(folder: Path, recipe: Recipe, labels: int) -> Prior | None:
    """The prior of a run with its averaged weights, None where there is none. Raises WavevqError for a stale one."""
    found = checkpoints(folder / PRIOR / CHECKPOINTS)
    if recipe.prior is None or not found:
        return None
    refuse_stale(folder / PRIOR, folder)
    plan = recipe.prior
    return with_average(lambda: build_prior(recipe, plan, labels), found[-1], folder)


def no_prior(folder: Path, recipe: Recipe) -> WavevqError:
    lacking = "its recipe needs a prior section, and training"
    if recipe.prior is not None:
        lacking = f"wavevq train RECIPE --stage prior --run {folder} trains it"
    return WavevqError(f"{folder}: has no trained prior; {lacking}")


def check_sampling(seed: int, temperature: float | None, top_p: float) -> None:
    """Raises WavevqError for values that nothing can be sampled with; a temperature of None is the recipe's."""
    if not 0 <= seed < 2**64:
        raise WavevqError(f"seed {seed}: must be from 0 to {2**64 - 1}")
    if temperature is not None and not (temperature > 0 and math.isfinite(temperature)):
        raise WavevqError(f"temperature {temperature}: must be above 0 and finite")
    if not 0 < top_p <= 1:
        raise WavevqError(f"top_p {top_p}: must be above 0 and at most 1")


def drawn_at(temperature: float | None, recipe: Recipe) -> float:
    """The temperature that is meant: the recipe's, where none is given."""
    return recipe.evaluation.temperature if temperature is None else temperature


def drawn_labels(known: Sequence[str], count: int, seed: int) -> list[str]:
    """A speaker for each clip, or a class for each image, by the seed."""
    draws = uniform(derived(seed, VOICES), range(count), 1)[:, 0]
    return [known[int(u * len(known))] for u in draws.tolist()]

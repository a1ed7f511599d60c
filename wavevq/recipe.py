"""The whole grammar of a recipe: one YAML file, one experiment. Imports no torch.

Every section is frozen and rejects unknown keys. Derived values (hop, number of speakers, vocabulary) are
computed where they are needed and never typed into a recipe.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from wavevq.errors import WavevqError


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):  # a ValueError, for that is what pydantic collects
        raise ValueError(f"{str(value).lower()} is not allowed: must be a number")  # noqa: TRY004
    return value


Number = BeforeValidator(_no_truth)  # pydantic would take true for 1
Count = Annotated[int, Number, Field(gt=0)]
Whole = Annotated[int, Number, Field(ge=0)]
Share = Annotated[float, Number, Field(ge=0, lt=1)]
Positive = Annotated[float, Number, Field(gt=0, allow_inf_nan=False)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


# --- data ---------------------------------------------------------------------------------------------------


class Speech(Section):
    """What every speech corpus has. rate in Hz; trim_db in dB below the loudest frame, null keeps silence."""

    rate: Annotated[int, Number, Field(ge=1000, le=192_000)] = 16_000
    trim_db: Positive | None = None
    held_out: Annotated[float, Number, Field(gt=0, lt=1)] = 0.05  # share of utterances, where the corpus has no val.txt
    without: tuple[str, ...] = ()  # speakers kept out of training: their clips are val_unseen


class OnDisk(Speech):
    root: str = "data"  # the corpus, or a folder that holds it
    alignments: str | None = None  # a folder of TextGrid or CTM files with its phones; null: those beside the audio


class Vctk(OnDisk):
    kind: Literal["vctk"]
    microphone: Literal["mic1", "mic2"] = "mic1"


class LibriSpeech(OnDisk):
    kind: Literal["librispeech"]


class Folder(OnDisk):
    kind: Literal["folder"]


class Fsdd(OnDisk):
    kind: Literal["fsdd"]


class Synthetic(Speech):
    """Speech made by espeak-ng, with exact phoneme boundaries."""

    kind: Literal["synthetic"]
    voices: Annotated[int, Number, Field(ge=2, le=10)] = 6
    sentences: Annotated[int, Number, Field(ge=4, le=2000)] = 100  # a voice


Data = Annotated[Vctk | LibriSpeech | Folder | Fsdd | Synthetic, Field(discriminator="kind")]


# --- model --------------------------------------------------------------------------------------------------


class WaveformEncoder(Section):
    """Strided 1-D convolutions on the raw waveform (Van den Oord et al. 2017, section 4.3)."""

    kind: Literal["waveform"]
    strides: Annotated[tuple[Annotated[int, Number, Field(ge=1, le=16)], ...], Field(min_length=1)] = (2, 2, 2, 2, 2, 2)
    window: Count = 4  # taps of each strided convolution, at least its stride
    channels: Count = 128
    residual_blocks: Whole = 0  # after the last stride

    @property
    def hop(self) -> int:
        return math.prod(self.strides)

    @model_validator(mode="after")
    def _window_covers_stride(self) -> WaveformEncoder:
        if any(self.window < stride or (self.window - stride) % 2 for stride in self.strides):
            raise ValueError(
                f"window {self.window} must exceed every stride in {list(self.strides)} by an even number or 0"
            )
        return self


class SpectralEncoder(Section):
    """Log-mel or MFCC frames instead of the waveform (Chorowski et al. 2019, section III)."""

    kind: Literal["logmel", "mfcc"]
    frame_hop: Count = 128  # samples between frames
    frame_window: Count = 512  # samples of a frame's window
    bands: Count = 80  # mel bands, or for mfcc the number of coefficients kept
    strides: tuple[Annotated[int, Number, Field(ge=1, le=16)], ...] = ()  # of the convolutions after the frames
    window: Count = 4
    channels: Count = 128
    residual_blocks: Whole = 2

    @property
    def hop(self) -> int:
        return self.frame_hop * math.prod(self.strides)

    @model_validator(mode="after")
    def _windows_cover_strides(self) -> SpectralEncoder:
        if self.frame_window < self.frame_hop:
            raise ValueError(f"frame_window {self.frame_window} must be at least frame_hop {self.frame_hop}")
        if any(self.window < stride or (self.window - stride) % 2 for stride in self.strides):
            raise ValueError(
                f"window {self.window} must exceed every stride in {list(self.strides)} by an even number or 0"
            )
        return self


Encoder = Annotated[WaveformEncoder | SpectralEncoder, Field(discriminator="kind")]


class Codebook(Section):
    """What both quantizers have."""

    codes: Annotated[int, Number, Field(ge=2, le=2**20)] = 512  # K
    dim: Count = 64  # D
    beta: Annotated[float, Number, Field(ge=0, allow_inf_nan=False)] = 0.25  # weight of commitment (equation 3)
    revive_after: Whole = 100  # training steps without use before a code is moved onto a live vector; 0: never


class GradientVq(Codebook):
    """The paper's quantizer: the codebook learns by its own loss (equation 3)."""

    kind: Literal["vq"]


class EmaVq(Codebook):
    """The codebook follows moving averages of the vectors assigned to it (appendix A.1)."""

    kind: Literal["ema"]
    decay: Annotated[float, Number, Field(ge=0, lt=1)] = 0.99


class Continuous(Section):
    """What the bottlenecks without a codebook have: there to be compared with."""

    dim: Count = 64  # D

    @property
    def codes(self) -> None:
        """There are none: no codes to write, no prior."""


class Vae(Continuous):
    """Gaussian latents, their KL divergence to N(0, 1) in the loss."""

    kind: Literal["vae"]
    weight: Annotated[float, Number, Field(ge=0, allow_inf_nan=False)] = 1.0  # of the divergence; 1: evidence bound
    anneal: Whole = 0  # steps over which the weight rises linearly from 0
    free_bits: Annotated[float, Number, Field(ge=0, allow_inf_nan=False)] = 0.0  # a dimension and code position


class NoBottleneck(Continuous):
    """A plain autoencoder."""

    kind: Literal["none"]


Bottleneck = Annotated[GradientVq | EmaVq | Vae | NoBottleneck, Field(discriminator="kind")]


class WaveNetDecoder(Section):
    """WaveNet over mu-law classes, conditioned on codes and speaker."""

    kind: Literal["wavenet"]
    layers: Count = 30
    cycle: Annotated[int, Number, Field(gt=0, le=20)] = 10  # dilations 1, 2, ... 2^(cycle-1), over again
    kernel: Annotated[int, Number, Field(ge=2, le=8)] = 2
    residual: Count = 64
    gate: Count = 64  # width after the gate; filter and gate together are twice as wide
    skip: Count = 64
    head: Count = 256  # hidden width between skip sum and classes
    classes: Annotated[int, Number, Field(ge=2, le=65_536)] = 256
    context: Count = 128  # width of the conditioning network at latent rate
    context_layers: Whole = 2
    speaker_dim: Count = 64


class Model(Section):
    encoder: Encoder
    bottleneck: Bottleneck
    decoder: WaveNetDecoder
    jitter: Share = 0.0  # chance that a latent is replaced by a neighbour's (Chorowski et al. 2019, section III-C)


# --- training and evaluation --------------------------------------------------------------------------------


class Schedule(Section):
    """What every training has."""

    steps: Count
    batch: Count = 8  # examples of one step over all ranks together
    crop: Count  # positions of an example
    learning_rate: Positive = 4e-4
    warmup: Whole = 200  # steps of linear rise
    cooldown: Annotated[float, Number, Field(ge=0, le=1)] = 0.5  # last share of the steps: the rate falls to zero
    clip: Positive = 1.0  # largest norm of the gradient
    average: Share = 0.999  # decay of the averaged weights
    log_every: Count = 50
    validate_every: Count = 1000
    save_every: Count = 1000
    keep: Count = 2  # newest checkpoints kept


class Train(Schedule):
    """Of the VQ-VAE; precision and determinism are those of the whole run."""

    crop: Count = 8192  # samples
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    deterministic: bool = False  # bit-identical on CUDA too, at some speed


class WaveNetPrior(Section):
    """The WaveNet of the decoder over codes: the fast sampler serves it."""

    kind: Literal["wavenet"]
    layers: Count = 20
    cycle: Annotated[int, Number, Field(gt=0, le=20)] = 5
    kernel: Annotated[int, Number, Field(ge=2, le=8)] = 2
    residual: Count = 128
    gate: Count = 128
    skip: Count = 128
    head: Count = 256


class TransformerPrior(Section):
    """A causal transformer with rotary positions."""

    kind: Literal["transformer"]
    layers: Count = 6
    width: Count = 256
    heads: Count = 4

    @model_validator(mode="after")
    def _heads_are_even(self) -> TransformerPrior:
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} must be a multiple of twice the heads, {2 * self.heads}")
        return self


class Joint(Section):
    """The prior's likelihood of the current codes as a part of the VQ-VAE's loss (wavevq/joint.py)."""

    weight: Annotated[float, Number, Field(ge=0, allow_inf_nan=False)] = 1.0  # of the rate against the distortion
    tau: Positive = 1.0  # of the softmax(-d^2 / tau) that its gradient takes; latents have variance 1


def _shorthand(value: Any) -> Any:
    return ({} if value else None) if isinstance(value, bool) else value


class Prior(Schedule):
    """p(codes | speaker), trained on the codes of the finished VQ-VAE, an end class after each clip.

    Or together with it (``joint``, true for its defaults): the schedule is then that of ``train``, and none is given
    here.
    """

    steps: Count = 0  # required, but in joint training
    joint: Annotated[Joint | None, BeforeValidator(_shorthand)] = None
    network: Annotated[WaveNetPrior | TransformerPrior, Field(discriminator="kind")]
    crop: Annotated[int, Number, Field(ge=2)] = 512  # codes; the first of a crop within its clip is only read
    speaker_dim: Whole = 64  # width of the speaker's embedding; 0: unconditional
    drop_speaker: Share = 0.1  # chance that an example is shown without its speaker, for sampling without one

    @model_validator(mode="after")
    def _has_steps(self) -> Prior:
        if not self.steps and not self.joint:
            raise ValueError("steps is missing; only joint training goes by those of train")
        return self


class Evaluation(Section):
    clips: Count | None = None  # validation clips in the passes during training; the last pass takes all
    speakers: Count | None = None  # other speakers tried a clip for the wrong-speaker gap; null: all
    batch: Count = 8
    sampled: Whole = 2  # clips sampled to listen to at each validation; 0: none
    sampled_seconds: Positive = 2.0  # of each
    # Of wavevq evaluate:
    split: Literal["val", "train"] = "val"  # whose clips are measured
    judged: Count = 120  # clips that are sampled anew for the metrics that listen
    judged_seconds: Positive = 3.0  # of each
    # Of torchaudio, that listens where the vocabulary is open; its weights are fetched once
    recogniser: Literal["WAV2VEC2_ASR_BASE_960H", "WAV2VEC2_ASR_LARGE_960H", "HUBERT_ASR_LARGE"] | None = None
    enumerated: Count = 20_000  # sequences of codes at most that p(x) of a short signal is summed over
    enumerated_clips: Count = 2  # such signals of each speaker


class Recipe(Section):
    """One experiment."""

    seed: Annotated[int, Number, Field(ge=0, lt=2**63)] = 0
    data: Data
    model: Model
    train: Train
    prior: Prior | None = None
    evaluation: Evaluation = Evaluation()

    @property
    def hop(self) -> int:
        """Samples a code."""
        return self.model.encoder.hop

    @model_validator(mode="after")
    def _sections_fit(self) -> Recipe:
        mistakes = [_cut_frame(self.train.crop, self.hop)]
        if self.prior is not None and self.model.bottleneck.codes is None:
            mistakes.append(f"prior: a bottleneck of kind {self.model.bottleneck.kind!r} has no codes to learn")
        if any(mistakes):
            raise ValueError("; ".join(filter(None, mistakes)))
        return self

    @model_validator(mode="after")
    def _joint_training_has_one_schedule(self) -> Recipe:
        if self.prior is None or self.prior.joint is None:
            return self
        schedule = {key: getattr(self.train, key) for key in Schedule.model_fields} | {
            "crop": self.train.crop // self.hop
        }
        if schedule["crop"] < 2:
            raise ValueError(f"train.crop {self.train.crop} is one code; joint training wants two or more")
        other = [
            key for key in schedule if key in self.prior.model_fields_set and getattr(self.prior, key) != schedule[key]
        ]
        if other:
            raise ValueError(f"prior.{', prior.'.join(other)}: joint training goes by the train section; leave it out")
        return self.model_copy(update={"prior": self.prior.model_copy(update=schedule)})


def _cut_frame(crop: int, hop: int) -> str | None:
    return f"train.crop {crop} must be a multiple of the hop, {hop}" if crop % hop else None


# --- reading ------------------------------------------------------------------------------------------------


def load_recipe(path: str | Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """The recipe in a YAML file, with ``key.key=value`` overrides. All mistakes are told at once.

    Raises WavevqError for a missing file, a file that is not YAML, unknown keys and values out of range.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise WavevqError(f"{path}: there is no such recipe{_recipes_near(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise WavevqError(f"{path}: cannot be read as a recipe ({str(reason).lower()})") from None
    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        raise WavevqError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(tree, dict):
        raise WavevqError(f"{path}: a recipe is a mapping with the keys {', '.join(Recipe.model_fields)}")
    return overridden(tree, overrides, str(path))


def overridden(tree: dict[str, Any], overrides: tuple[str, ...], source: str) -> Recipe:
    """A recipe from plain data, which ``key.key=value`` overrides change. Raises WavevqError as ``parse_recipe``."""
    mistakes = [mistake for override in overrides if (mistake := _apply(tree, override))]
    try:
        recipe = parse_recipe(tree, source)
    except WavevqError as error:
        mistakes.append(str(error))
    if mistakes:
        raise WavevqError("\n".join(mistakes))
    return recipe


def parse_recipe(tree: Any, source: str) -> Recipe:
    """A recipe from plain data. Raises WavevqError, one line for each mistake, each beginning with ``source``."""
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        mistakes = [_mistake(tree, one) for one in error.errors()]
        # pydantic looks at a whole section only when all of its parts are right.
        if all(one["loc"] for one in error.errors()) and (more := _mistaken_crop(tree)):
            mistakes.append(f"recipe: {more}")
        raise WavevqError("\n".join(f"{source}: {mistake}" for mistake in mistakes)) from None


def _mistaken_crop(tree: Any) -> str | None:
    """What is wrong with the crop of a recipe that has other mistakes, as far as those let one tell."""
    try:
        hop = TypeAdapter[Encoder](Encoder).validate_python(tree["model"]["encoder"]).hop
        crop = tree["train"].get("crop", Train.model_fields["crop"].default)
    except (ValidationError, LookupError, TypeError, AttributeError):
        return None  # they stand in the way, and are told
    return _cut_frame(crop, hop) if type(crop) is int else None


def _apply(tree: dict[str, Any], override: str) -> str | None:
    """Puts ``key.key=value`` into the tree; returns what is wrong with it, if anything."""
    path, equals, text = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        return f"--set {override}: must look like train.steps=200"
    section: Any = tree
    for key in keys[:-1]:
        if section.get(key) is None:  # absent, or with nothing in it
            section[key] = {}
        section = section[key]
        if not isinstance(section, dict):
            return f"--set {override}: {key} is a value, not a section"
    try:
        section[keys[-1]] = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return f"--set {override}: {text} is not a YAML value"
    return None


def _mistake(tree: Any, error: Any) -> str:
    # pydantic puts the name of a union's chosen member into the location; it is no key of the file.
    keys: list[str] = []
    node = tree
    for part in error["loc"]:
        if isinstance(node, dict) and part not in node and part == node.get("kind"):
            continue
        keys.append(str(part))
        node = node[part] if isinstance(node, dict | list) and _holds(node, part) else None
    where = ".".join(keys) or "recipe"
    if error["type"] == "missing":
        return f"{where}: missing"
    if error["type"] in ("union_tag_invalid", "union_tag_not_found"):
        kinds = ", ".join(_kinds(_section(error["loc"])))
        given = error["ctx"].get("tag")
        return f"{where}.kind: {f'{given!r} is not allowed' if given else 'missing'}; allowed are {kinds}"
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key; allowed are {', '.join(_section(error['loc'][:-1]).model_fields)}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{where}: {message}"
    return f"{where}: {error['input']!r} is not allowed: {message}"


def _holds(node: dict[Any, Any] | list[Any], part: Any) -> bool:
    return part in node if isinstance(node, dict) else isinstance(part, int) and part < len(node)


def _section(location: tuple[Any, ...]) -> Any:
    """The section, or the union of sections, that a pydantic error location leads to."""
    here: Any = Recipe
    for part in location:
        members = _members(here)
        one = len(members) == 1
        here = members[0].model_fields[part].annotation if one else next(m for m in members if part in _kinds(m))
    return here if len(_members(here)) > 1 else _members(here)[0]


def _members(section: Any) -> list[Any]:
    """Of a union of sections, without the None of an optional one; of a section itself."""
    return [one for one in getattr(section, "__args__", (section,)) if one is not type(None)]


def _kinds(section: Any) -> tuple[str, ...]:
    """The values of ``kind`` that lead to a section or to one of a union."""
    return tuple(kind for one in _members(section) for kind in one.model_fields["kind"].annotation.__args__)


def _recipes_near(path: Path) -> str:
    """The recipes that may have been meant."""
    for folder in (path.parent, Path("recipes")):
        if found := sorted(str(one) for one in folder.glob("*.yaml")):
            return f"; there are {', '.join(found)}"
    return ""

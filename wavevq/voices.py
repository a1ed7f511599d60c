"""Speakers that a run has been given after its training: an embedding each, in ``speakers/NAME.safetensors`` beside it.

An embedding belongs to the averaged weights that it was fitted to, whose fingerprint stands in its file, with where it
comes from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from wavevq.audio import make_folder, replacing
from wavevq.errors import WavevqError
from wavevq.plain import from_json, is_name
from wavevq.recipe.trained import refuse_shipped

FOLDER, SUFFIX = "speakers", ".safetensors"
FORMAT = 2
LONGEST_NAME = 64  # bytes


@dataclass(frozen=True, eq=False)
class Voice:
    """An enrolled speaker. embedding: float32 ``[L, 2W]``, ``WaveNetDecoder.voice``. weights: those it was fitted to.

    about: where it comes from, as JSON holds it: clips, seconds, steps, bits a sample before and after.
    """

    name: str
    embedding: Tensor
    weights: str
    about: Mapping[str, Any]


def place(folder: Path, name: str, trained: Collection[str], replace: bool) -> Path:
    """The file of a new speaker. Raises WavevqError for a name that cannot be or is taken, and for a shipped run."""
    refuse_shipped(folder)
    if not _can_be(name):
        raise WavevqError(
            f"{name}: cannot be a speaker's name; allowed are letters, digits, _, - and ., the first a "
            f"letter or digit, {LONGEST_NAME} bytes in all"
        )
    if name in trained:
        raise WavevqError(f"{name}: is a speaker that {folder} was trained on; take another name")
    path = folder / FOLDER / f"{name}{SUFFIX}"
    if path.exists() and not replace:
        raise WavevqError(f"{name}: is enrolled already, in {path}; --replace replaces it")
    return path


def _can_be(name: str) -> bool:
    return bool(re.fullmatch(r"[^\W_][\w.-]*", name)) and len(name.encode()) <= LONGEST_NAME


def save(path: Path, voice: Voice) -> None:
    """Whole or not at all."""
    make_folder(path)
    told = {"format": str(FORMAT), "weights": voice.weights, "about": json.dumps(dict(voice.about))}
    with replacing(path) as partial:
        partial.write_bytes(serialise({"embedding": voice.embedding.detach().cpu().contiguous()}, told))


def load(path: Path) -> Voice:
    """Raises WavevqError, with the path, for a file that cannot be read or is none of these."""
    try:
        with safe_open(path, "pt") as file:
            told = file.metadata() or {}
            if told.get("format") != str(FORMAT):
                raise WavevqError(f"{path}: not a speaker's embedding of format {FORMAT}; delete it or enroll again")
            voice = Voice(path.stem, file.get_tensor("embedding"), told["weights"], from_json(told["about"]))
    except (OSError, SafetensorError, KeyError, ValueError, AttributeError) as error:  # the last: a type of tomorrow's
        raise WavevqError(f"{path}: not a speaker's embedding ({error}); delete it or enroll again") from None
    if not _is_whole(voice):
        raise WavevqError(f"{path}: not a speaker's embedding, or what it tells is damaged; delete it or enroll again")
    return voice


def _is_whole(voice: Voice) -> bool:
    """Whether everything in it can be what ``save`` wrote."""
    about = voice.about if isinstance(voice.about, dict) else {}
    numbers = (about.get(key) for key in ("seconds", "bits_per_sample_before", "bits_per_sample_after"))
    told = all(isinstance(number, int | float) for number in numbers) and is_name(str(about.get("nearest", "")))
    return told and _can_be(voice.name) and bool(voice.embedding.isfinite().all())


def enrolled(folder: Path) -> list[Voice]:
    """The speakers enrolled in a run, by name. Raises WavevqError for a file that is damaged."""
    return [load(path) for path in sorted((folder / FOLDER).glob(f"*{SUFFIX}")) if not path.name.startswith(".")]


def fitting(folder: Path, trained: Sequence[str], weights: str, shape: torch.Size) -> list[Voice]:
    """``enrolled``, of which each must fit a model of ``trained`` speakers, these weights and embeddings of ``shape``.

    Raises WavevqError for the first that does not.
    """
    voices = enrolled(folder)
    for voice in voices:
        path = folder / FOLDER / f"{voice.name}{SUFFIX}"
        if voice.weights != weights:
            raise WavevqError(f"{path}: was fitted to other weights than the run has now; delete it or enroll again")
        if voice.name in trained:
            raise WavevqError(f"{path}: {voice.name} is a speaker that the run was trained on; delete it")
        if voice.embedding.shape != shape or voice.embedding.dtype != torch.float32:
            there = f"{voice.embedding.dtype} {list(voice.embedding.shape)}"
            raise WavevqError(f"{path}: its embedding is {there}, the model's are torch.float32 {list(shape)}")
    return voices

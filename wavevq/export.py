"""A run without what only its training needs: what ``wavevq export`` writes, and what is shipped in ``wavevq/models/``.

It is a run folder like any other, with averaged weights alone, so every command takes it but for ``train --resume``. An
adversary's few weights stay: so the weights of a float32 export are the same file as the run's, and what was recorded
of the run by that file's digest, evaluation and enrolled voices, holds for the export, too.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from wavevq import recipe as r
from wavevq.audio import unwritable
from wavevq.build import trained_model
from wavevq.errors import WavevqError
from wavevq.recipe import Recipe
from wavevq.run import load_prior
from wavevq.run_folder import (
    CHECKPOINTS,
    PRIOR,
    SPEAKERS,
    SUMMARY,
    find_run,
    newest_checkpoint,
    read_recipe,
    read_speakers,
    record_weights,
    write_recipe,
)
from wavevq.sampling import Precision
from wavevq.train.log import METRICS
from wavevq.train.state import read_state, save_average

D = TypeVar("D", bound=r.Section)

LICENCE = "LICENSE"
BY, SHARE_ALIKE = "Attribution 4.0 International", "Attribution-ShareAlike 4.0 International"


@dataclass(frozen=True)
class Source:
    """Whom a corpus is to be attributed to, and its Creative Commons licence."""

    name: str
    by: str
    licence: str


# Of the corpora whose licence is known; those of a user's own folder are the user's to know.
SOURCES = {
    "fsdd": Source(
        "Free Spoken Digit Dataset", "Zohar Jackson (Jakobovski) and the dataset's contributors", SHARE_ALIKE
    ),
    "librispeech": Source("LibriSpeech ASR corpus", "(c) 2014 Vassil Panayotov", BY),
    "vctk": Source(
        "CSTR VCTK Corpus",
        "J. Yamagishi, C. Veaux and K. MacDonald, University of Edinburgh, Centre for Speech Technology Research",
        BY,
    ),
}
SHORT = {BY: ("CC BY 4.0", "by"), SHARE_ALIKE: ("CC BY-SA 4.0", "by-sa")}


def export(name: str | Path, target: Path, precision: Precision) -> Path:
    """Write what encoding, decoding and sampling need of a run into a new folder, which is there whole or not at all.

    name: as ``find_run``'s. precision: of the stored weights. Raises WavevqError for a run that is not trained, is
    damaged or needs another one, and for a folder that is there already or cannot be made.
    """
    folder = find_run(name)
    recipe = read_recipe(folder)
    if isinstance(recipe.data, r.Coded):
        raise WavevqError(f"{folder}: needs {recipe.data.run}, whose codes it has learned, wherever it is; copy both")
    if target.exists():
        raise WavevqError(f"{target}: exists already; name another folder")
    labels = len(read_speakers(folder))
    model, prior = trained_model(folder, recipe, labels), load_prior(folder, recipe, labels)
    begun = target.with_name(f".{target.name}.partial")
    shutil.rmtree(begun, ignore_errors=True)  # of an export that was killed
    with unwritable(target):
        begun.mkdir(parents=True)
        write_recipe(begun, placeless(recipe))
        (begun / SPEAKERS).write_bytes((folder / SPEAKERS).read_bytes())
        if (text := licence(recipe)) is not None:
            (begun / LICENCE).write_text(text, encoding="utf-8")
        _copy_stage(folder, begun, model.state_dict(), precision)
        if prior is not None:
            record_weights(begun / PRIOR, begun)  # before: as they are stored here
            _copy_stage(folder / PRIOR, begun / PRIOR, prior.state_dict(), precision)
        begun.rename(target)
    return target


def _copy_stage(source: Path, target: Path, weights: Mapping[str, Tensor], precision: Precision) -> None:
    """The weights, the log and the summary of the VQ-VAE's training, or the prior's."""
    kept = weights if precision == "float32" else {name: _halved(value) for name, value in weights.items()}
    save_average(target / CHECKPOINTS, read_state(newest_checkpoint(source))["step"], kept)
    for name in (METRICS, SUMMARY):
        if (source / name).is_file():
            (target / name).write_bytes((source / name).read_bytes())


def _halved(value: Tensor) -> Tensor:
    """In bfloat16: of the digits after 3,000 steps 0.6 % of codes change, bits/sample by 0.0002, bits/code by 0.002."""
    return value.to(torch.bfloat16) if value.dtype == torch.float32 else value


def placeless(recipe: Recipe) -> Recipe:
    """The recipe without this machine's places: the corpus lies where it does by default, a run has its name."""
    start = recipe.train.start
    if start is not None and not _is_below(start):
        start = Path(start).name
    return recipe.model_copy(
        update={"data": _placeless(recipe.data), "train": recipe.train.model_copy(update={"start": start})}
    )


def _placeless(data: D, within: bool = False) -> D:
    """within: one of several corpora, where a folder below the root of all is the recipe's and no machine's."""
    fields = type(data).model_fields.items()
    places: dict[str, Any] = {key: field.default for key, field in fields if key in ("root", "alignments")}
    if within and _is_below(str(getattr(data, "root", "/"))):
        del places["root"]
    if isinstance(data, r.Joined):
        places["of"] = tuple(_placeless(part, within=True) for part in data.of)
    return data.model_copy(update=places)


def _is_below(path: str) -> bool:
    return not Path(path).is_absolute() and ".." not in Path(path).parts


def sources(recipe: Recipe) -> list[Source] | None:
    """The corpora that a recipe trains on; None where one is of no known licence."""
    kinds = [part.kind for part in recipe.data.of] if isinstance(recipe.data, r.Joined) else [recipe.data.kind]
    return [SOURCES[kind] for kind in kinds] if set(kinds) <= SOURCES.keys() else None


def licence(recipe: Recipe) -> str | None:
    """The text beside weights that were trained on these corpora; None where one is of no known licence."""
    known = sources(recipe)
    if known is None:
        return None
    whole = SHARE_ALIKE if any(one.licence == SHARE_ALIKE for one in known) else BY
    short, page = SHORT[whole]
    lines = [f"- {one.name}, {one.by}; {SHORT[one.licence][0]}" for one in known]
    return f"""Creative Commons {whole} ({short})
https://creativecommons.org/licenses/{page}/4.0/legalcode

This licence is of the weights in this folder and of what lies beside them, by the wavevq authors.
They were trained on recordings of

{chr(10).join(lines)}

which were resampled, levelled and cut to train on. None of these recordings is in here.
"""

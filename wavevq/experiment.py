"""One experiment from recipe to finished run folder: prepare, build, train, validate."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock, Timeout
from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy
from rich.console import Console

from wavevq.audio import replacing
from wavevq.build import build_corpus, build_model, build_prior, shape_model, trained_model
from wavevq.data.corpus import Corpus
from wavevq.distributed import PATIENCE, alone, as_group
from wavevq.errors import WavevqError
from wavevq.evaluate.joint import JointValidator
from wavevq.evaluate.likelihood import encoded
from wavevq.evaluate.rate import PriorValidator
from wavevq.evaluate.validation import Validator
from wavevq.joint import JointVqVae
from wavevq.progress import beginning
from wavevq.recipe import Prior, Recipe
from wavevq.recipe.data import is_place
from wavevq.recipe.trained import folder_named, refuse_shipped
from wavevq.run_folder import (
    BEGUN_WITH,
    CHECKPOINTS,
    PRIOR,
    RUNS,
    SUMMARY,
    create,
    newest_checkpoint,
    read_recipe,
    read_speakers,
    record_weights,
    refuse_stale,
    trained_on,
    write_recipe,
)
from wavevq.train.log import read_metrics
from wavevq.train.loop import fit
from wavevq.train.state import AVERAGE, checkpoints
from wavevq.vqvae import VqVae

# What may change between the beginning of a run and its resumption: nothing that an earlier step has read.
# Of the corpora their places, too (PLACES).
MAY_CHANGE: set[tuple[str, ...]] = {
    ("data", "run"),  # it is known by its weights
    ("train", "log_every"),
    ("train", "validate_every"),
    ("train", "save_every"),
    ("train", "keep"),
    ("evaluation",),
    *(("prior", key) for key in ("log_every", "validate_every", "save_every", "keep")),
}
Stage = Literal["vqvae", "prior"]
SHAPING: dict[str, Any] = {  # what weights are of
    "data": {"rate"},
    "model": {"encoder": True, "decoder": True, "bottleneck": {"kind", "codes", "dim"}},
}
APART = "adversary.", "prior."  # parts that one of two models may have alone


def train(
    recipe: Recipe,
    folder: Path,
    resume: bool,
    console: Console,
    stage: Stage | None = None,
    corpus: Corpus | None = None,
) -> Path:
    """Train what a recipe says in a run folder, to its end: the VQ-VAE, then the prior, or one ``stage`` alone.

    Or both at once, where the recipe says so (``prior.joint``).
    The prior alone wants a folder whose VQ-VAE is trained. corpus: the recipe's, where it was prepared elsewhere.
    Returns the folder. Raises WavevqError for a folder that is in use, exists (without ``resume``) or holds another
    recipe, for what ``fit`` refuses, and where another process of this training has ended.
    """
    if stage == "prior" and recipe.prior is None:
        raise WavevqError("prior: missing; --stage prior trains what this section of the recipe says")
    if stage and joint(recipe):
        raise WavevqError(f"--stage {stage}: prior.joint trains VQ-VAE and prior together; leave it out")
    fabric = launch(recipe, console)
    with as_group(), ExitStack() as held:
        folder = fabric.broadcast(folder)  # the default's name holds a time, which differs between processes
        _stages(fabric, recipe, folder, resume, stage, console, held, corpus)
    return folder


def _stages(
    fabric: Fabric,
    recipe: Recipe,
    folder: Path,
    resume: bool,
    stage: Stage | None,
    console: Console,
    held: ExitStack,
    corpus: Corpus | None,
) -> None:
    refuse(recipe, folder, resume, stage)
    for section, plan in (("train", recipe.train), ("prior", recipe.prior)):
        if plan is not None and plan.batch % fabric.world_size:
            raise WavevqError(
                f"{section}.batch {plan.batch} must be a multiple of the number of processes, {fabric.world_size}"
            )
    start = None if resume or stage == "prior" else fitting_start(recipe)
    corpus = corpus or build_corpus(recipe)
    if not corpus.split("val"):
        raise WavevqError(
            f"data: no {corpus.items[:-1]} of a {corpus.whose} that is trained on is held out, so there is nothing to "
            f"validate on; name one in val.txt, or without lists give a {corpus.whose} a second one"
        )
    if recipe.model.adversary and len(corpus.labels) == 1:
        raise WavevqError(f"model.adversary {recipe.model.adversary:g}: the corpus has one speaker; must be 0")
    if start is not None and (known := read_speakers(start)) != corpus.labels:
        raise WavevqError(f"train.start {start}: knows {', '.join(known)}; the corpus has {', '.join(corpus.labels)}")
    if resume and read_speakers(folder) != corpus.labels:
        raise WavevqError(
            f"{folder}: was trained with other names of a {corpus.whose} than the corpus in {recipe.data.kind} has now"
        )
    console.print(corpus.describe(), soft_wrap=True, highlight=False)

    def begin() -> None:
        held.enter_context(locked(folder))
        refuse(recipe, folder, resume, stage)  # again: another training may have been quicker
        if resume or stage == "prior":
            write_recipe(folder, recipe)
        else:
            create(folder, recipe, corpus.labels, corpus.about)

    alone(begin)
    console.print(f"run folder: {folder}", soft_wrap=True, highlight=False)
    if stage != "prior":
        _train(fabric, recipe, folder, resume, corpus, console)
    if recipe.prior is not None and stage != "vqvae" and not joint(recipe):
        _train_prior(fabric, recipe, recipe.prior, folder, corpus, console)


def _train(fabric: Fabric, recipe: Recipe, folder: Path, resume: bool, corpus: Corpus, console: Console) -> None:
    batches = corpus.crops(recipe.train.crop, recipe.train.batch, recipe.seed)
    console.print(f"training: {recipe.train.steps} steps, an epoch has {batches.steps_per_epoch}", highlight=False)
    refuse_too_large(recipe, len(corpus.labels))
    module = build_model(recipe, len(corpus.labels))
    if recipe.train.start is not None and not checkpoints(folder / CHECKPOINTS):
        first = begun_with(folder, recipe.train.start)
        begin_with(module, first)
        console.print(f"begins with the weights of {first}", soft_wrap=True, highlight=False)
    turned = module.encoder if recipe.train.optimizer == "muon" else None
    known = corpus, recipe.evaluation, recipe.train.steps, recipe.seed, partial(beginning, console=console)
    if isinstance(module, JointVqVae):
        validator = JointValidator(module, *known)
        fit(fabric, module, batches, recipe.train, folder, validator, console, resume, module.prior, turned)
    else:
        fit(fabric, module, batches, recipe.train, folder, Validator(module, *known), console, resume, turned=turned)
    alone(lambda: write_summary(folder))


def fitting_start(recipe: Recipe) -> Path | None:
    """The run whose weights a recipe begins with, if it does; its speakers are not looked at.

    Raises WavevqError for one that is not there, not trained, or of another model than the recipe's.
    """
    start = recipe.train.start
    if start is None:
        return None
    try:
        folder = folder_named(start)
    except WavevqError as error:
        raise WavevqError(f"train.start {error}; train it first, or name another with train.start=RUN") from None
    if not (folder / SUMMARY).exists():
        raise WavevqError(f"train.start {start}: has no finished VQ-VAE; train that first")
    theirs, ours = (one.model_dump(mode="json", include=SHAPING) for one in (read_recipe(folder), recipe))
    lines = [
        f"train.start {start}: was trained with {'.'.join(path)} = {old!r}, the recipe has {new!r}"
        for path, old, new in _differences(theirs, ours)
    ]
    if lines:
        raise WavevqError(*lines)
    return folder


def begun_with(folder: Path, start: str) -> Path:
    """The run whose weights a training begins with. Raises WavevqError where it has other weights by now."""
    first = folder_named(start)
    refuse_stale(folder, first, "begin again in another folder", BEGUN_WITH)
    return first


def begin_with(module: VqVae, first: Path) -> None:
    """Give a model the averaged weights of a run that is a ``fitting_start``.

    An adversary, or a joint prior, is taken where both have the same.
    """
    weights = trained_model(first, read_recipe(first), len(read_speakers(first))).state_dict()
    own = module.state_dict()
    taken = {name: value for name, value in weights.items() if name in own and value.shape == own[name].shape}
    for part in APART:
        if any(name.startswith(part) and name not in taken for name in own):
            taken = {name: value for name, value in taken.items() if not name.startswith(part)}
    assert all(name.startswith(APART) for name in own.keys() - taken.keys()), "it has been found to fit"
    module.load_state_dict(own | taken)


def refuse_too_large(recipe: Recipe, labels: int) -> None:
    """Raises WavevqError for a model whose weights alone are more than this machine's memory."""
    needed = sum(one.numel() * one.element_size() for one in shape_model(recipe, labels, "recipe").parameters())
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise WavevqError(f"recipe: its model's weights are {needed / 2**30:.0f} GiB, of {there / 2**30:.0f} there are")


def _train_prior(fabric: Fabric, recipe: Recipe, plan: Prior, folder: Path, corpus: Corpus, console: Console) -> None:
    place = folder / PRIOR
    begun = bool(checkpoints(place / CHECKPOINTS))
    model = trained_model(folder, recipe, len(corpus.labels))
    weights = newest_checkpoint(folder) / AVERAGE
    if begun:
        refuse_stale(place, folder)
    fabric.to_device(model.eval())
    say = partial(beginning, console=console)
    training, held_out = (encoded(model, weights, corpus, split, say) for split in ("train", "val"))
    batches = corpus.code_crops(training, plan.crop, plan.batch, recipe.hop, recipe.seed)
    console.print(f"training the prior: {plan.steps} steps, an epoch has {batches.steps_per_epoch}", highlight=False)
    prior = build_prior(recipe, plan, len(corpus.labels))
    validator = PriorValidator(prior, training, held_out, recipe.evaluation, recipe.seed, corpus, say)
    if not begun:
        alone(lambda: record_weights(place, folder))
    fit(fabric, prior, batches, plan, place, validator, console, begun)
    alone(lambda: write_summary(place))


def joint(recipe: Recipe) -> bool:
    """Whether VQ-VAE and prior train together."""
    return recipe.prior is not None and recipe.prior.joint is not None


def refuse(recipe: Recipe, folder: Path, resume: bool, stage: Stage | None) -> None:
    """Raises WavevqError for a folder that this training must not write to."""
    refuse_shipped(folder)
    if stage == "prior":
        if not (folder / SUMMARY).exists():
            raise WavevqError(f"{folder}: has no finished VQ-VAE; train that first, or name the run with --run")
        if not resume and checkpoints(folder / PRIOR / CHECKPOINTS):
            raise WavevqError(f"{folder}: has a prior already; go on with --resume")
        refuse_another(read_recipe(folder), recipe, folder)
        trained_on(folder, recipe)
    elif resume:
        refuse_another(read_recipe(folder), recipe, folder)
        trained_on(folder, recipe)
    elif folder.exists():
        raise WavevqError(f"{folder}: exists already; go on with --resume, or name another folder with --run")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One training at a time. The lock lies beside the folder, which need not exist yet."""
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise WavevqError(f"{folder}: another training is writing to this run folder") from None
    except OSError as error:
        raise WavevqError(f"{folder}: cannot be made ({(error.strerror or str(error)).lower()})") from None
    try:
        yield
    finally:
        lock.release()


def launch(recipe: Recipe, console: Console) -> Fabric:
    """Devices and processes: what torchrun started, else one process on a GPU where there is one."""
    if recipe.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    started = int(os.environ.get("WORLD_SIZE", "1"))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fabric = Fabric(
        accelerator="cuda" if torch.cuda.is_available() else "cpu",
        devices=here,
        num_nodes=started // here,
        # The quantizer's statistics are all-reduced, so the buffers agree already.
        strategy=DDPStrategy(broadcast_buffers=False, timeout=PATIENCE) if started > 1 else "auto",
        precision=recipe.train.precision,
    )
    fabric.launch()
    if not fabric.is_global_zero:
        console.quiet = True
    return fabric


def new_folder(recipe_path: str) -> Path:
    """``runs/<recipe>-<time>``."""
    return RUNS / f"{Path(recipe_path).stem}-{datetime.now().strftime('%Y%m%d-%H%M%S')}"


def newest_folder(recipe_path: str) -> Path:
    """The newest run of a recipe. Raises WavevqError where there is none."""
    found = sorted(RUNS.glob(f"{Path(recipe_path).stem}-*/recipe.yaml"), key=lambda path: path.stat().st_mtime_ns)
    if not found:
        raise WavevqError(f"{RUNS}/{Path(recipe_path).stem}-*: no run to resume; leave --resume out to begin one")
    return found[-1].parent


def refuse_another(before: Recipe, now: Recipe, folder: Path) -> None:
    """Raises WavevqError where the recipe differs in what earlier steps have read."""
    begun = bool(checkpoints(folder / PRIOR / CHECKPOINTS)) or joint(before) or joint(now)
    differing = _differences(before.model_dump(mode="json"), now.model_dump(mode="json"))
    lines = [
        f"{folder}: was begun with {'.'.join(path)} = {old!r}, the recipe now has {new!r}"
        for path, old, new in differing
        if path not in MAY_CHANGE
        and path[:1] not in MAY_CHANGE
        and not is_place(".".join(path))
        and (begun or path[0] != "prior")
    ]
    if lines:
        raise WavevqError(*lines)


def write_summary(folder: Path) -> None:
    """The last validation's figures: their file marks the run as finished."""
    last = read_metrics(folder, "validation")[-1]
    summary: dict[str, Any] = {"finished": datetime.now().isoformat(timespec="seconds"), **last}
    with replacing(folder / SUMMARY) as partial:
        partial.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


def _differences(a: Mapping[str, Any], b: Mapping[str, Any], at: tuple[str, ...] = ()) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for key in sorted({*a, *b}):
        old, new = _numbered(a.get(key)), _numbered(b.get(key))
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, (*at, key))
        elif old != new:
            found.append(((*at, key), old, new))
    return found


def _numbered(value: Any) -> Any:
    """A list of sections as a section of them, each under its number; any other value itself."""
    sections = isinstance(value, list) and any(isinstance(one, dict) for one in value)
    return {str(number): one for number, one in enumerate(value)} if sections else value

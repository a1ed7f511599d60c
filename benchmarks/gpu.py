"""One GPU, used well: a corpus prepared here, trained on where there is neither the corpus nor a network.

python benchmarks/gpu.py prepare recipes/voices.yaml FOLDER --set data.root=PATH
python benchmarks/gpu.py train FOLDER [--set train.steps=200000]

`prepare` writes the decoded and levelled corpus, 2 bytes a sample, and the recipe into FOLDER: all that `train` needs
beside wavevq and torch 2.11. `train` goes on where it stopped, in bf16, on a GPU where there is one, into FOLDER/run,
and leaves what is to be brought back in FOLDER/model (the run without what only training needs, a few MB) and
FOLDER/gpu.json: the training's audio seconds a second, and of single steps the floating-point operations of matrix
products and the bytes that operations read and write, counted, over the time they take, beside what the machine reaches
in a large matrix product and in a copy. A byte that a cache holds is counted as one of memory, so the share of the
bandwidth may be above what reaches memory. Nothing here has been run on a GPU yet.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from cells import processor, seconds_of_steps
from rich.console import Console
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from wavevq import experiment
from wavevq.build import build_model, build_store
from wavevq.data.store import Store, open_store
from wavevq.errors import WavevqError
from wavevq.export import export, placeless
from wavevq.recipe import Recipe, load_recipe
from wavevq.run_folder import RECIPE, write_recipe
from wavevq.train.loop import optimizer_of, parts

STORE, RUN, MODEL, FIGURES = "store", "run", "model", "gpu.json"
WARMUP, TIMED = 5, 20  # steps
SQUARE, COPIED = {"cuda": 8192, "cpu": 256}, {"cuda": 2**30, "cpu": 2**24}  # of the product; bytes of the copy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stages = parser.add_subparsers(dest="stage", required=True)
    for stage, names in (("prepare", ("recipe", "folder")), ("train", ("folder",))):
        one = stages.add_parser(stage)
        for name in names:
            one.add_argument(name, type=Path, metavar=name.upper())
        one.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    try:
        if given.stage == "prepare":
            prepare(load_recipe(given.recipe, tuple(given.set)), given.folder)
        else:
            train(given.folder, tuple(given.set), Console(markup=False))
    except WavevqError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


def prepare(recipe: Recipe, folder: Path) -> None:
    """The corpus and the recipe, of speech, into a new folder."""
    if folder.exists():
        raise WavevqError(f"{folder}: exists already; name another folder")
    store = build_store(recipe)
    shutil.copytree(store.folder, folder / STORE)
    write_recipe(folder, placeless(recipe))
    print(f"written: {folder}\n{store.describe()}")


def train(folder: Path, sets: tuple[str, ...], console: Console) -> dict[str, Any]:
    """Measure steps, train to the end, leave FIGURES and MODEL."""
    recipe = load_recipe(folder / RECIPE, ("train.precision=bf16-mixed", *sets))
    store = open_store(folder / STORE)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = {**step_figures(recipe, store, device), **machine_figures(device)}
    found["share_of_matrix_rate"] = found["step_flops"] / found["step_seconds"] / found["matrix_flops_per_second"]
    found["share_of_bandwidth"] = found["step_bytes"] / found["step_seconds"] / found["copy_bytes_per_second"]
    place = folder / RUN
    experiment.train(recipe, place, place.exists(), console, corpus=store)
    shutil.rmtree(folder / MODEL, ignore_errors=True)
    export(str(place), folder / MODEL, "bfloat16")
    took = seconds_of_steps(place, recipe.model_copy(update={"prior": None}))  # of the VQ-VAE's alone, as its signal is
    signal = recipe.train.steps * recipe.train.batch * recipe.train.crop / store.rate
    record = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else processor(),
        "torch": torch.__version__,
        "precision": recipe.train.precision,
        "date": datetime.now().date().isoformat(),
        "steps": recipe.train.steps,
        "seconds_of_steps": took,
        "audio_seconds_per_second": signal / took,
        **found,
    }
    (folder / FIGURES).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for name, value in record.items():
        print(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
    return record


# --- what a step takes --------------------------------------------------------------------------------------


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that operations read and write, those of gradients too; views are free."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        returns = func._schema.returns
        if not (returns and all(one.alias_info and not one.alias_info.is_write for one in returns)):
            touched = [*tree_leaves((args, kwargs or {})), *tree_leaves(out)]
            self.bytes += sum(one.numel() * one.element_size() for one in touched if isinstance(one, Tensor))
        return out


def added_in_place(total: Sequence[int], a: Sequence[int], b: Sequence[int], **how: Any) -> int:
    """Floating-point operations of a product that is added to a tensor, by their shapes, as torch's own formulas."""
    return 2 * a[0] * a[1] * b[1]


def counted(step: Callable[[], object]) -> tuple[int, int]:
    """Floating-point operations of the matrix products of a step, and the bytes that its operations touch."""
    flops = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: added_in_place})
    traffic = Traffic()
    with flops, traffic:
        step()
    return flops.get_total_flops(), traffic.bytes


def step_figures(recipe: Recipe, store: Store, device: torch.device) -> dict[str, float]:
    """A training step of the VQ-VAE on the store's first batch, which is on the device already."""
    model = build_model(recipe, len(store.speakers)).to(device).train()
    batch = store.crops(recipe.train.crop, recipe.train.batch, recipe.seed).at(0).to(device)
    turned = model.encoder if recipe.train.optimizer == "muon" else None
    optimizer = optimizer_of(parts(model, None), turned, recipe.train.learning_rate)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = model.training_loss(batch).loss
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()

    seconds = timed(step, device)
    flops, touched = counted(step)
    return {"step_seconds": seconds, "step_flops": float(flops), "step_bytes": float(touched)}


def machine_figures(device: torch.device) -> dict[str, float]:
    """What this machine reaches: in a product of large bf16 matrices, and copying, bytes read and written."""
    size, count = SQUARE[device.type], COPIED[device.type]
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    source, target = (torch.zeros(count, dtype=torch.uint8, device=device) for _ in range(2))
    return {
        "matrix_flops_per_second": 2 * size**3 / timed(lambda: a @ b, device),
        "copy_bytes_per_second": 2 * count / timed(lambda: target.copy_(source), device),
    }


def timed(call: Callable[[], object], device: torch.device) -> float:
    """Median seconds of a call, all of its work on the device done."""
    seconds = []
    for turn in range(WARMUP + TIMED):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if turn >= WARMUP:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()

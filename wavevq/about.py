"""What ``wavevq info`` tells of a run, a file of codes and a .wvq file."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from rich.table import Table

from wavevq import recipe as r
from wavevq import voices, wvq
from wavevq.build import shape_model
from wavevq.codes_file import read_codes
from wavevq.progress import listing
from wavevq.run_folder import CHECKPOINTS, SUMMARY, find_run, prior_folder, read_recipe, read_speakers
from wavevq.train.log import read_metrics
from wavevq.train.state import checkpoints, read_state


def of_run(folder: Path) -> Table:
    """A run, trained or not. Raises WavevqError for one that is damaged."""
    recipe, speakers = read_recipe(folder), read_speakers(folder)
    model = recipe.model
    table = listing(str(folder))
    table.add_row("data", f"{recipe.data.kind}, {_signal(recipe)}")
    table.add_row("encoder", f"{model.encoder.kind}, {model.encoder.channels} channels")
    size = f"K = {model.bottleneck.codes}, " if model.bottleneck.codes else ""
    table.add_row("codebook" if size else "bottleneck", f"{model.bottleneck.kind}, {size}D = {model.bottleneck.dim}")
    table.add_row("decoder", f"{model.decoder.kind}, {model.decoder.size}")
    _add_rate_rows(table, recipe)
    weights = shape_model(recipe, len(speakers), str(folder)).parameters()
    table.add_row("parameters", f"{sum(one.numel() for one in weights):,}")
    named = {"speech": "speakers", "video": "shapes"}.get(recipe.data.signal, "classes")
    table.add_row(named, f"{len(speakers)}: {', '.join(speakers)}")
    for voice in voices.enrolled(folder):
        before, after = (voice.about[f"bits_per_sample_{when}"] for when in ("before", "after"))
        told = f"{voice.name}, {voice.about['seconds']:.1f} s: {before:.3f} bits/sample as {voice.about['nearest']}"
        table.add_row("enrolled", f"{told}, {after:.3f} as itself")
    whole = {"speech": None, "video": "clips"}.get(recipe.data.signal, "images")
    _add_training_rows(table, "", folder, recipe.train, whole or f"x {recipe.train.crop} samples")
    if taught := ", ".join(_taught(recipe)):
        table.add_row("taught", taught)
    if recipe.prior is not None:
        table.add_row("prior", _described(recipe.prior))
        if not recipe.prior.joint:
            crop = whole or f"x {recipe.prior.crop} codes"
            _add_training_rows(table, "prior's ", prior_folder(folder, recipe), recipe.prior, crop)
    return table


def _taught(recipe: r.Recipe) -> Iterator[str]:
    """What was done in training that a trained model does not show."""
    model = recipe.model
    if recipe.train.start is not None:
        yield f"begun with the weights of {recipe.train.start}"
    if model.augmentation is not None:
        low, high = model.augmentation.noise
        yield f"heard with noise of {low:g} to {high:g} dB and tilts to {model.augmentation.tilt:g}"
    for name, value in (("jitter", model.jitter), ("adversary", model.adversary)):
        if value:
            yield f"{name} {value:g}"
    if model.past_gain:
        yield f"past gain {model.past_gain:g} dB"


def _described(prior: r.Prior) -> str:
    """Its network, what it is told, and how it is trained."""
    match prior.network:
        case r.WaveNetPrior(kind=kind, layers=layers, residual=width):
            network = f"{kind}, {layers} layers, {width} channels"
        case r.TransformerPrior(kind=kind, layers=layers, width=width, heads=heads):
            network = f"{kind}, {layers} layers, {width} channels, {heads} heads"
        case r.PixelCnnPrior(kind=kind, layers=layers, residual=width):
            network = f"{kind}, {layers} layers, {width} channels"
        case r.VideoPrior(kind=kind, layers=layers, residual=width, past_layers=past):
            network = f"{kind}, {layers} layers, {width} channels, {2**past} earlier frames"
    whose = {"speech": "speaker", "video": "shape"}.get(prior.network.signals[0], "class")
    told = f"given the {whose}" if prior.speaker_dim else "unconditional"
    if isinstance(prior.network, r.VideoPrior):
        told = f"given the actions and the {whose}" if prior.speaker_dim else "given the actions"
    if prior.speaker_dim and prior.drop_speaker:
        told += " or none"
    joint = f"; trained jointly, weight {prior.joint.weight:g}, tau {prior.joint.tau:g}" if prior.joint else ""
    return f"{network}, {told}{joint}"


def _add_training_rows(table: Table, whose: str, folder: Path, plan: r.Schedule, items: str) -> None:
    """How far a training has come and its last validation.

    folder: its checkpoints and metrics are in it. items: what a batch is of.
    """
    saved = checkpoints(folder / CHECKPOINTS)
    step = read_state(saved[-1])["step"] if saved else 0
    done = f"step {step} of {plan.steps}, {'finished' if (folder / SUMMARY).is_file() else 'not finished'}"
    table.add_row(f"{whose}training", f"{done}; batch {plan.batch} {items}")
    for line in read_metrics(folder, "validation")[-1:]:
        table.add_row(f"{whose}validation", f"after step {line['step']}")
        for key, value in line.items():
            if key not in ("step", "kind", "seconds"):
                table.add_row(f"  {key.replace('_', ' ')}", f"{value:,}" if isinstance(value, int) else f"{value:.4g}")


def of_codes(source: str | BinaryIO, name: str, run: str | None) -> Table:
    """A .npy file or stream of codes. Raises WavevqError where it holds none.

    run: that gives their rates and duration, by default ``$WAVEVQ_RUN``; the newest one need not have made them.
    """
    codes = read_codes(source, name, axes=(1, 3))
    table = listing(name)
    table.add_row("shape", str(list(codes.shape)))
    table.add_row("type", str(codes.dtype))
    table.add_row("codes", f"{codes.min()} to {codes.max()}")
    table.add_row("distinct codes", str(len(np.unique(codes))))
    if run is None and not os.environ.get("WAVEVQ_RUN"):
        table.add_row("run", "not named: --run gives the duration and the rates, as of that run")
        return table
    folder = find_run(run)
    recipe = read_recipe(folder)
    table.add_row("run", str(folder))
    size = recipe.model.bottleneck.codes or 0
    fits = (codes.ndim == 1) == (recipe.data.signal == "speech")
    if not fits or codes.min() < 0 or codes.max() >= size:
        of = "" if fits else f", of {'speech' if recipe.data.signal == 'speech' else 'images'}"
        own = f"0 to {size - 1}" if size else "no codes"
        table.add_row("", f"its codebook has {own}{of}: these are not its codes")
    else:
        if isinstance(recipe.data, r.Speech):
            table.add_row("duration", f"{len(codes) * recipe.hop / recipe.data.rate:.3f} s")
        _add_rate_rows(table, recipe)
    return table


def of_packed(path: Path) -> Table:
    """The header of a .wvq file, for which no model is needed. Raises WavevqError for one that is not whole."""
    packed = wvq.read(path, str(path))
    header = packed.header
    bits, whole = 8 * len(packed.payload), 8 * (len(packed.front) + 2 * wvq.SUM.size)
    table = listing(str(path))
    table.add_row("format", f".wvq, version {wvq.VERSION}")
    table.add_row("model", header.model.hex())
    table.add_row("speaker", header.speaker)
    table.add_row("rate", f"{header.rate} Hz")
    table.add_row("duration", f"{header.samples / header.rate:.3f} s, {header.samples} samples" if header.rate else "-")
    table.add_row("codes", f"{header.codes}, {bits / header.codes:.2f} bits each")
    table.add_row("payload", f"{bits // 8} of {whole // 8} bytes")
    return table


def _add_rate_rows(table: Table, recipe: r.Recipe) -> None:
    bits = math.log2(recipe.model.bottleneck.codes or 1)
    if isinstance(recipe.data, r.Speech):
        rate = recipe.data.rate / recipe.hop
        table.add_row("hop", f"{recipe.hop} samples")
        table.add_row("code rate", f"{rate:.4g} codes/s")
        if bits:
            table.add_row("bit rate", f"{rate * bits:.4g} bits/s")
        return
    grid, item = recipe.grid, "a clip" if recipe.data.signal == "video" else "an image"
    side, frames = recipe.space[0] // grid[-3], math.prod(grid[:-3])
    table.add_row("hop", f"{side} {'positions of its codes' if recipe.data.signal == 'codes' else 'pixels'}")
    table.add_row("codes", f"{' x '.join(map(str, grid))} {item}")
    if bits:
        each = math.prod(grid) * bits
        table.add_row("bits", f"{each:.4g} {item}, {each / (3 * frames * recipe.size**2):.4g} bits/dim")


def _signal(recipe: r.Recipe) -> str:
    """Of what kind the corpus's signals are."""
    if isinstance(recipe.data, r.Speech):
        return f"{recipe.data.rate} Hz"
    if isinstance(recipe.data, r.Coded):
        height, width, groups = recipe.data.first.grid
        return f"{height} x {width} x {groups} of {recipe.data.first.model.bottleneck.codes}, by {recipe.data.run}"
    frames = f"{recipe.data.frames} frames of " if isinstance(recipe.data, r.Shapes) else ""
    return f"{frames}{recipe.data.size} x {recipe.data.size} pixels"

"""``wavevq convert`` of ten seconds of 16 kHz audio from the shell, start-up included, with recipes/vctk.yaml's model.

The model is as large as a trained one and untrained: the time does not depend on what it has learnt. The compiled
sampler is in its cache on disk (a first, uncounted call sees to it).

Figures: convert_10s_s, the command from start to end; import_s, of it the imports that a conversion needs.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import medians, options, report

from wavevq.audio import write
from wavevq.build import build_model
from wavevq.recipe import load_recipe
from wavevq.run_folder import CHECKPOINTS, create
from wavevq.train.state import Average, TrainState

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes" / "vctk.yaml"
SECONDS = 10
SPEAKERS = [f"p{number}" for number in range(225, 335)]
IMPORTS = "import wavevq.files, wavevq.run, wavevq.sampling.cpu"


def run_folder(folder: Path) -> Path:
    """A run of the recipe before its first step."""
    recipe = load_recipe(RECIPE)
    create(folder, recipe, SPEAKERS)
    module = build_model(recipe, len(SPEAKERS))
    state = TrainState(module, torch.optim.Adam(module.parameters()), Average(module, recipe.train.average))
    state.save(folder / CHECKPOINTS, keep=1)
    return folder


def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, check=True)


def main() -> None:
    given = options(__doc__ or "")
    rate = load_recipe(RECIPE).speech.rate
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run = run_folder(folder / "run")
        noise = np.random.default_rng(0).standard_normal(SECONDS * rate).astype(np.float32)
        write(folder / "in.wav", 0.1 * np.convolve(noise, np.ones(20) / 20, "same"), rate)
        words: list[str | Path] = [
            ROOT / "cli.py",
            "convert",
            "--run",
            run,
            "--speaker",
            SPEAKERS[0],
            folder / "in.wav",
        ]
        seconds = medians(
            {"convert": lambda: command(*words), "imports": lambda: command("-c", IMPORTS)},
            repeats=1 if given.quick else 5,
        )
        print(command(*words).stderr.strip())
    report({"convert_10s_s": seconds["convert"], "import_s": seconds["imports"]}, given)


if __name__ == "__main__":
    main()

"""What only a GPU can show: training, resuming, encoding and sampling there. Run where there is one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import trainings
from rich.console import Console

from wavevq import experiment
from wavevq.audio import Recording
from wavevq.recipe import load_recipe
from wavevq.run import load_run
from wavevq.run_folder import CHECKPOINTS
from wavevq.train.state import checkpoints

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and there is none"),
]


def test_trains_resumes_encodes_and_samples_on_a_gpu(
    tmp_path: Path, make_audio: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings.workplace(tmp_path, make_audio)
    monkeypatch.chdir(tmp_path)
    sets = ("train.precision=bf16-mixed", "evaluation.sampled=2", "train.deterministic=true")
    recipe = load_recipe("tiny.yaml", sets)
    console = Console(stderr=True)
    experiment.train(recipe, Path("run"), False, console)
    whole = load_run("run", "cuda")
    # As if it had been killed before its last checkpoint.
    shutil.rmtree(checkpoints(Path("run") / CHECKPOINTS)[-1])
    experiment.train(recipe, Path("run"), True, console)
    resumed = load_run("run", "cuda")
    for name, value in resumed.model.state_dict().items():
        assert value.device.type == "cuda"
        assert torch.equal(value, whole.model.state_dict()[name])
    recording = Recording(np.sin(np.arange(2000) / 5).astype(np.float32), trainings.RATE)
    on_cpu = load_run("run", "cpu").encode(recording)
    # Rounding may turn a near tie.
    assert (resumed.encode(recording) != on_cpu).mean() <= 0.01
    assert resumed.convert(recording, "bob").shape == (2000,)
    # Neither the batch nor the pieces change a clip, to the last bit.
    codes = [np.arange(n) % 40 for n in (70, 33, 100)]
    together = resumed.decode_batch(codes, ["ann", "bob", "ann"], seed=3)
    for audio, one, speaker in zip(together, codes, ["ann", "bob", "ann"], strict=True):
        assert np.array_equal(audio, resumed.decode(one, speaker, seed=3))
        assert np.array_equal(audio, np.concatenate(list(resumed.decode_stream(one, speaker, 0.01, seed=3))))

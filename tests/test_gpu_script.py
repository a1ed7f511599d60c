"""benchmarks/gpu.py on a CPU: the corpus goes along, counts are right, and what is brought back is a run."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import trainings
import yaml

from wavevq.run import load_run
from wavevq.run_folder import read_recipe

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return __import__("gpu")


def command(gpu: Any, monkeypatch: pytest.MonkeyPatch, *words: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", *map(str, words)])
    gpu.main()


def test_a_corpus_is_trained_on_where_it_is_not(
    gpu: Any,
    tmp_path: Path,
    make_audio: Any,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = trainings.workplace(tmp_path / "here", make_audio)
    tree = yaml.safe_load((place / "tiny.yaml").read_text())
    tree["train"]["steps"] = 4
    (place / "tiny.yaml").write_text(yaml.safe_dump({**tree, "prior": {**trainings.PRIOR, "steps": 2}}))
    away = tmp_path / "away"
    command(gpu, monkeypatch, "prepare", place / "tiny.yaml", away, "--set", f"data.root={place / 'corpus'}")
    assert str(tmp_path) not in (away / "recipe.yaml").read_text()
    with pytest.raises(SystemExit):  # nothing is written over
        command(gpu, monkeypatch, "prepare", place / "tiny.yaml", away, "--set", f"data.root={place / 'corpus'}")
    assert capsys.readouterr().err.splitlines()[-1] == f"{away}: exists already; name another folder"
    shutil.rmtree(place)
    shutil.rmtree(cache)
    monkeypatch.setattr(gpu, "TIMED", 1)
    monkeypatch.setattr(gpu, "WARMUP", 1)
    command(gpu, monkeypatch, "train", away)
    cells = __import__("cells")
    found = json.loads((away / "gpu.json").read_text())
    assert found["precision"] == "bf16-mixed"
    recipe = read_recipe(away / "run")
    ours = cells.seconds_of_steps(away / "run", recipe.model_copy(update={"prior": None}))
    assert found["seconds_of_steps"] == ours < cells.seconds_of_steps(away / "run", recipe)  # the prior's are not in it
    for name in ("audio_seconds_per_second", "step_flops", "share_of_matrix_rate", "share_of_bandwidth"):
        assert found[name] > 0
    run = load_run(away / "model")
    assert (run.step, run.speakers) == (4, ("ann", "bob"))
    assert run.prior is not None
    assert sum(path.stat().st_size for path in (away / "model").rglob("*") if path.is_file()) < 100_000


def test_operations_and_bytes_are_counted(gpu: Any) -> None:
    a, b, total = torch.ones(8, 16), torch.ones(16, 4), torch.zeros(8, 4)
    product = 2 * 8 * 16 * 4
    matrices = 4 * (8 * 16 + 16 * 4 + 8 * 4)
    assert gpu.counted(lambda: a @ b) == (product, matrices)
    # In place it is read and written: as an argument and as the result
    assert gpu.counted(lambda: total.addmm_(a, b)) == (product, matrices + 4 * 8 * 4)
    assert gpu.counted(lambda: a.view(16, 8).t()) == (0, 0)
    assert gpu.counted(lambda: a.add(a)) == (0, 3 * 4 * 8 * 16)
    weight = torch.ones(16, 4, requires_grad=True)
    flops, _ = gpu.counted(lambda: (a @ weight).sum().backward())
    assert flops == 2 * product  # the product, and its gradient for the weight alone

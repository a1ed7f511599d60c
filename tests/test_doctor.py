"""``wavevq doctor``: what it tells, nothing of the user in it, and that a sampler that draws wrongly is found."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from wavevq import doctor
from wavevq.cli import main, options
from wavevq.sampling import Precision, gpu


@pytest.fixture(autouse=True)
def _triton_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its interpreter, a process that imports everything anew, has a test of its own."""
    monkeypatch.setattr(doctor, "_interpreted", lambda: None)


def told(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["doctor", *words])
    assert result.exit_code == code, result.output
    return result


def test_what_is_told(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WAVEVQ_CACHE", str(home / "kept"))
    monkeypatch.setenv("LOGNAME", "josephine")
    monkeypatch.setenv("NUMBA_SOMETHING", "/data/josephine/kernels")
    (home / "kept").mkdir(parents=True)
    (home / "kept" / "corpus.bin").write_bytes(bytes(3 * 2**20))
    report: dict[str, Any] = json.loads(told("--json").stdout)
    sections = report["sections"]
    assert list(sections) == ["versions", "machine", "compiled kernels", "folders"]
    assert sections["versions"]["torch"] == torch.__version__.split("+")[0]
    assert all(sections["versions"].values())
    assert sections["machine"]["threads of torch"] == str(torch.get_num_threads())
    assert sections["machine"]["NUMBA_SOMETHING"] == "/data/USER/kernels"
    assert sections["folders"]["prepared data"] == "~/kept, 3 MiB in 1 files"
    assert "GiB free at ~/kept" in sections["folders"]["room, prepared data"]
    assert {one["name"]: one["passed"] for one in report["checks"]} == dict.fromkeys(
        ("reference", "cpu", "gpu", "pixelcnn reference", "pixelcnn cpu"), True
    )
    table = told().stdout
    assert str(home) not in table
    assert "josephine" not in table
    for words in ("torch +2", "reference +passed", "pixelcnn cpu +passed", "numba +[0-9]+ functions compiled"):
        assert re.search(words, table), words


class Wrong:
    """A sampler that draws class 0."""

    def __call__(self, net: Any, cond: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, None]:
        return torch.zeros_like(noise, dtype=torch.int64), None


def test_a_sampler_that_draws_wrongly_fails_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(backend: str, precision: Precision, device: str) -> Any:
        return Wrong()

    monkeypatch.setattr(doctor, "choose", choose)
    checks = {one["name"]: one for one in json.loads(told("--json", code=1).stdout)["checks"]}
    assert (checks["cpu"]["passed"], checks["reference"]["passed"]) == (False, True)
    assert "of 32 samples are not those of the definition" in checks["cpu"]["said"]
    assert re.search("cpu +FAILED", told(code=1).stdout)


def test_a_sampler_that_cannot_run_fails_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(*_: Any) -> Any:
        raise RuntimeError("no locator\navailable")

    monkeypatch.setattr(doctor, "choose", choose)
    checks = {one.name: one for one in doctor.examined().checks}
    assert (checks["cpu"].passed, checks["cpu"].said) == (False, "RuntimeError: no locator available")
    assert checks["reference"].passed


def test_a_line_to_install_a_package_is_shown_as_it_is_typed() -> None:
    said = "not installed: pip install 'wavevq[eval]'"
    console = options.console(stderr=False)
    with console.capture() as shown:
        console.print(doctor._table("packages", {"resemblyzer": said}))
    assert said in shown.get()


def test_without_triton_there_is_no_gpu_to_be_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    for place in (doctor.importlib.util, gpu):
        monkeypatch.setattr(place, "find_spec", lambda name: None)
    assert doctor._checked_gpu() == doctor.Check("gpu", None, 0.0, "triton is not installed")

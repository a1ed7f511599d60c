"""What ``wavevq doctor`` tells, to be pasted into a report of a mistake.

What is installed, what it runs on, where things are kept, and whether each sampler draws what it should.
"""

from __future__ import annotations

import getpass
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import soundfile
import soxr
import torch
from llvmlite.binding import get_host_cpu_name
from rich.console import Console
from rich.table import Table
from rich.text import Text

from wavevq import __version__
from wavevq.contracts import GridSampler, Sampler
from wavevq.data.cache import cache_folder
from wavevq.nn.pixelcnn import PixelCNN
from wavevq.nn.wavenet import WaveNet
from wavevq.noise import uniform
from wavevq.progress import listing
from wavevq.sampling import Precision, choose, choose_grid
from wavevq.sampling.gpu import usable
from wavevq.sampling.pixelcnn_reference import GridReference
from wavevq.sampling.reference import Reference, pick, rounded

# The packages of pyproject.toml, and with their extra those that may be missing.
PACKAGES = (
    *("torch", "torchaudio", "numpy", "scipy", "numba", "llvmlite", "librosa", "soundfile", "soxr", "lightning"),
    *("pydantic", "safetensors", "constriction"),
)
EXTRAS = {"espeakng-loader": "synthetic", "pystoi": "eval", "resemblyzer": "eval"}
SETTINGS = ("WAVEVQ_", "OMP_", "MKL_", "NUMBA_", "TRITON_", "CUDA_", "TORCH_", "PYTORCH_")  # variables that change much
STREAMS, FRAMES, HOP = 2, 4, 4  # of a self-test
PRECISION: Precision = "bfloat16"  # as the commands' default
PATIENCE = 300  # seconds for Triton's interpreter, with its imports
INTERPRETED = "import sys, wavevq.doctor as d; sys.exit(d.of_waves('gpu', 'cpu', 1, 2))"


@dataclass(frozen=True)
class Check:
    """A self-test. passed: None where there is nothing to be tested. said: what went wrong, or what it ran on."""

    name: str
    passed: bool | None
    seconds: float
    said: str


@dataclass(frozen=True)
class Report:
    """sections: of each title what is told, by name. checks: of every sampler."""

    sections: dict[str, dict[str, str]]
    checks: tuple[Check, ...]


def doctor(console: Console, as_json: bool) -> bool:
    """Prints a ``Report``, for people or as JSON, and returns whether no check failed."""
    report = examined()
    if as_json:
        console.print_json(json.dumps(asdict(report)))
    else:
        for title, told in report.sections.items():
            console.print(_table(title, told))
        verdict = {True: "passed", False: "FAILED", None: "not tested"}
        told = {one.name: f"{verdict[one.passed]}, {one.seconds:.1f} s; {one.said}" for one in report.checks}
        console.print(_table("samplers", told))
    return all(one.passed is not False for one in report.checks)


def _table(title: str, told: dict[str, str]) -> Table:
    table = listing(title)
    for name, said in told.items():
        table.add_row(name, Text(said))  # [eval] is no markup
    return table


def examined() -> Report:
    kept = _kernels()  # before the checks, which compile what is not there yet
    checks = (
        checked("reference", "cpu", lambda: of_waves("reference")),
        checked("cpu", "cpu", lambda: of_waves("cpu")),
        _checked_gpu(),
        checked("pixelcnn reference", "cpu", lambda: of_grids("reference")),
        checked("pixelcnn cpu", "cpu", lambda: of_grids("cpu")),
    )
    sections = {"versions": _versions(), "machine": _machine(), "compiled kernels": kept, "folders": _folders()}
    return Report(sections, checks)


# --- self-tests ---------------------------------------------------------------------------------------------


def checked(name: str, where: str, test: Callable[[], str | None]) -> Check:
    """A check whose ``test`` says what is wrong, or nothing; so does whatever it raises."""
    start = time.monotonic()
    try:
        wrong = test()
    except Exception as error:  # whatever ails an installation is what is asked for
        wrong = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return Check(name, wrong is None, time.monotonic() - start, hidden(wrong or where))


def of_waves(backend: Any, device: str = "cpu", streams: int = STREAMS, frames: int = FRAMES) -> str | None:
    """What a sampler of sequences does wrong: it must draw what the network's forward picks of the same noise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = WaveNet(classes=13, layers=4, cycle=3, kernel=2, residual=8, gate=8, skip=8, head=8, cond_dim=3)
        torch.nn.init.normal_(net.output.weight)
        cond = net.conditioning(torch.randn(streams, frames, 3)).detach()
    noise = uniform(0, range(streams), frames * HOP)
    sampler: Sampler = Reference(PRECISION) if backend == "reference" else choose(backend, PRECISION, device)
    drawn, _ = sampler(net.to(device), cond.to(device), noise.to(device))
    with torch.no_grad():
        return _wrong(drawn.cpu(), pick(rounded(net.cpu())(drawn.cpu(), cond), noise, 1.0, 1.0))


def of_grids(backend: Any) -> str | None:
    """What a sampler of grids does wrong: it must draw what the naive one does."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = PixelCNN(classes=9, layers=3, kernel=3, residual=6, gate=6, head=8, cond_dim=2, groups=2)
        torch.nn.init.normal_(net.output)
        cond = torch.randn(1, 1, 1, 2)
    noise = uniform(0, [0], 4 * 4 * 2).view(1, 4, 4, 2)
    with torch.no_grad():
        sampler: GridSampler = GridReference(PRECISION) if backend == "reference" else choose_grid(backend, PRECISION)
        return _wrong(sampler(net, cond, noise), GridReference(PRECISION)(net, cond, noise))


def _wrong(drawn: torch.Tensor, expected: torch.Tensor) -> str | None:
    """Of two sequences drawn with the same noise; at so few samples, rounding may not show."""
    off = int((drawn != expected).sum())
    return f"{off} of {drawn.numel()} samples are not those of the definition" if off else None


def _checked_gpu() -> Check:
    """On a GPU where one will do, else in Triton's interpreter, a process of its own: Triton decides at its import."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if (reason := usable(device)) is None and device.type == "cuda":
        return checked("gpu", torch.cuda.get_device_name(device), lambda: of_waves("gpu", "cuda"))
    if importlib.util.find_spec("triton") is None:
        return Check("gpu", None, 0.0, str(reason))
    return checked("gpu", f"Triton's interpreter, for {reason}", _interpreted)


def _interpreted() -> str | None:
    roots = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    there = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(filter(None, roots))}
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], env=there, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    return done.stderr.strip().splitlines()[-1] if done.returncode else None


# --- what is told -------------------------------------------------------------------------------------------


def _versions() -> dict[str, str]:
    told = {"wavevq": __version__, "python": platform.python_version(), "system": platform.platform()}
    told |= {name: _version(name) for name in PACKAGES}
    told |= {"libsndfile": soundfile.__libsndfile_version__, "libsoxr": soxr.__libsoxr_version__}
    told |= {"triton": _version("triton"), "cuda of torch": str(torch.version.cuda)}
    return told | {name: _version(name, extra) for name, extra in EXTRAS.items()}


def _version(package: str, extra: str | None = None) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed" + (f": pip install 'wavevq[{extra}]'" if extra else "")


def _machine() -> dict[str, str]:
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    told = {
        "processor": f"{platform.machine()}, {get_host_cpu_name()}",
        "cores": f"{os.cpu_count()}, of which this process may use {mine}",
        "threads of torch": str(torch.get_num_threads()),
    }
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        room = f"{about.total_memory / 2**30:.0f} GiB, compute capability {about.major}.{about.minor}"
        told[f"cuda:{number}"] = f"{about.name}, {room}"
    if not torch.cuda.device_count():
        told["cuda"] = "no device"
    set_here = {name: value for name, value in os.environ.items() if name.startswith(SETTINGS)}
    return told | {name: hidden(value) for name, value in sorted(set_here.items())}


def _kernels() -> dict[str, str]:
    """Whether compiled code was there before the self-tests, and where it is kept."""
    told = {}
    try:
        from wavevq.sampling import kernel

        place = Path(kernel.draw.stats.cache_path)
        made = len(list(place.glob("kernel.*.nbi")))
        told["numba"] = f"{made} functions compiled, in {hidden(place)}" if made else f"none yet; in {hidden(place)}"
    except (ImportError, RuntimeError) as error:  # numba raises the latter where it can write nowhere
        told["numba"] = hidden(f"cannot be kept: {error}; NUMBA_CACHE_DIR may name a folder")
    triton = Path(os.environ.get("TRITON_CACHE_DIR") or Path.home() / ".triton" / "cache")
    return told | {"triton": _held(triton)}


def _folders() -> dict[str, str]:
    """Where data is kept and how much there is, and what room is left there."""
    there = {
        "prepared data": cache_folder(),
        "torch's downloads": Path(torch.hub.get_dir()),
        "runs": Path("runs").absolute(),
    }
    told = {name: _held(place) for name, place in there.items()}
    for name, place in {"prepared data": cache_folder(), "here": Path.cwd(), "temporary": _temporary()}.items():
        while not place.exists():
            place = place.parent
        writable = "" if os.access(place, os.W_OK) else "; cannot be written to"
        told[f"room, {name}"] = f"{_size(shutil.disk_usage(place).free)} free at {hidden(place)}{writable}"
    return told


def _temporary() -> Path:
    try:
        return Path(tempfile.gettempdir())
    except OSError:  # nowhere can be written to; the table says so of what it falls back to
        return Path(os.environ.get("TMPDIR") or "/tmp")


def _held(place: Path) -> str:
    """A folder and what lies in it."""
    if not place.is_dir():
        return f"{hidden(place)}, not there yet"
    sizes = [(Path(parent) / name).lstat().st_size for parent, _, names in os.walk(place) for name in names]
    return f"{hidden(place)}, {_size(sum(sizes))} in {len(sizes)} files"


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"


def hidden(said: str | Path) -> str:
    """``said`` with the home folder as ~ and without the user's name: it may be pasted anywhere."""
    text = str(said).replace(str(Path.home()), "~")
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a user without a name
        return text
    return "/".join("USER" if part == user else part for part in text.split("/"))

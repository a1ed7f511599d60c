"""Trainings that are killed or run out of disk, and resumed until they end in the very bits of an undisturbed one.

python benchmarks/faults.py --kills 50: tiny trainings of every stage, of one process and of two ranks (gloo, in the
environment that torchrun gives its own). All their processes get SIGKILL at seeded random moments: while they start,
in a step, in a validation, and while a checkpoint is written, which every step does. python benchmarks/faults.py
--disk-full: the run folder's disk, a tmpfs (Linux, as root), is filled up to a random rest. The training must end in
one line that names the file; when there is room again, it is resumed.

An undisturbed run's last checkpoint must be met byte for byte, and its log line for line but for the clock; after
each fault the newest checkpoint must be there and whole. Both tables go into results/faults.json. Exit code 1 if
anything is lost.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml
from PIL import Image

from wavevq.errors import WavevqError
from wavevq.train.state import checkpoints, verify

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import trainings  # noqa: E402  the processes of the tests

RESULTS = ROOT / "results" / "faults.json"
STAGES = "vqvae", "joint", "prior", "images"
CELLS = [(stage, ranks) for stage in STAGES for ranks in (1, 2)]
STEPS = 10
SCHEDULE = {"steps": STEPS, "batch": 4, "learning_rate": 0.01, "warmup": 3, "average": 0.8}
# A checkpoint every step, so that many a kill falls into its writing; lines that span several; a few validations.
SCHEDULE |= {"save_every": 1, "log_every": 3, "validate_every": 4, "keep": 2}
WIDTHS = {"channels": 6, "residual": 4, "residual_blocks": 1}
PATIENCE = 600  # seconds: longer, and a training hangs
DISK = 32 * 2**20
ENDED = re.compile(r"wavevq: (\S+): cannot be written \(no space left on device\)")
LOST = "stopped, for another has ended (what it said last tells why)"


@dataclass
class Row:
    """What happened to a cell's trainings. saved: faults before which there was a checkpoint."""

    stage: str
    processes: int
    faults: int = 0
    while_saving: int = 0
    saved: int = 0
    identical: int = 0
    lost: int = 0


def workplace(folder: Path) -> Path:
    """A folder with a corpus of speech, one of images, a recipe for each stage, and ``base``, a finished VQ-VAE."""
    trainings.workplace(folder, hum)
    draw = np.random.default_rng(0)
    for number, name in enumerate(("cat", "dog")):
        (folder / "pets" / name).mkdir(parents=True)
        for i in range(6):
            image = draw.integers(0, 100, (8, 8, 3), np.uint8)
            image[..., number] += 150
            Image.fromarray(image).save(folder / "pets" / name / f"{i}.png")
    speech: dict[str, Any] = trainings.RECIPE | {"train": trainings.RECIPE["train"] | SCHEDULE}
    network = trainings.PRIOR["network"]
    images = {
        "data": {"kind": "images", "root": "pets", "size": 8, "held_out": 0.3},
        "model": {
            "encoder": {"kind": "image", "groups": 2, **WIDTHS},
            "bottleneck": {"kind": "vq", "codes": 12, "dim": 3, "revive_after": 2},
            "decoder": {"kind": "image", **WIDTHS},
        },
        "train": SCHEDULE,
        "evaluation": {"sampled": 0},
    }
    recipes = {
        "vqvae": speech,
        "joint": {**speech, "prior": {"network": network, "joint": {"weight": 0.1}}},
        "prior": {**speech, "prior": {**SCHEDULE, "crop": 32, "network": network}},
        "images": images,
    }
    for name, tree in recipes.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(tree))
    assert ended(folder, ["train", "prior.yaml", "--stage", "vqvae", "--run", "base"], 1) == [0], trainings.said(folder)
    return folder


def hum(path: Path, seconds: float, pitch: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    clock = np.arange(round(seconds * trainings.RATE)) / trainings.RATE
    noise = np.random.default_rng(sum(path.name.encode())).normal(0, 0.01, len(clock))
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * pitch * clock) + noise, trainings.RATE)
    return path


# --- one training -------------------------------------------------------------------------------------------


def words(stage: str, run: Path) -> list[str]:
    """The command that begins a run, or goes on with it."""
    only = ["--stage", "prior"] if stage == "prior" else []
    begun = checkpoints(part(stage, run) / "checkpoints") if stage == "prior" else run.exists()
    return ["train", f"{stage}.yaml", *only, "--run", str(run), *(["--resume"] if begun else [])]


def part(stage: str, run: Path) -> Path:
    """Where the stage's checkpoints and log are."""
    return run / "prior" if stage == "prior" else run


def new(place: Path, stage: str, run: Path) -> Path:
    if stage == "prior":
        shutil.copytree(place / "base", run)
    return run


def begun(place: Path, command: Sequence[str], ranks: int) -> list[Any]:
    processes: list[Any] = trainings.launched(place, *command, moments=(None,) * ranks)
    return processes


def ended(place: Path, command: Sequence[str], ranks: int) -> list[int]:
    codes: list[int] = trainings.finish(begun(place, command, ranks), PATIENCE)
    return codes


def same(one: Path, other: Path) -> bool:
    """Whether the last checkpoints are equal byte for byte, and the logs but for what the clock says."""
    last = [checkpoints(run / "checkpoints")[-1] for run in (one, other)]
    held = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in last]
    return last[0].name == last[1].name and held[0] == held[1] and trainings.metrics(one) == trainings.metrics(other)


def whole(run: Path) -> bool:
    """Whether the newest checkpoint, where there is one, is as it was written."""
    try:
        for newest in checkpoints(run / "checkpoints")[-1:]:
            verify(newest)
    except WavevqError as error:
        print(error, file=sys.stderr)
        return False
    return True


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing disturbed. starting, step: seconds to the first checkpoint and from one to the next."""

    run: Path
    starting: float
    step: float


def undisturbed(place: Path, stage: str, ranks: int) -> Undisturbed:
    run = new(place, stage, place / f"{stage}-{ranks}")
    saved = part(stage, run) / "checkpoints"
    started = time.monotonic()
    processes = begun(place, words(stage, run), ranks)
    wait(processes, lambda: bool(checkpoints(saved)))
    first = time.monotonic()
    assert trainings.finish(processes, PATIENCE) == [0] * ranks, trainings.said(place)
    return Undisturbed(run, first - started, (time.monotonic() - first) / STEPS)


def wait(processes: Sequence[Any], ready: Callable[[], bool]) -> None:
    """Until something is there, or a process is not."""
    deadline = time.monotonic() + PATIENCE
    while not ready() and all(process.is_alive() for process in processes):
        assert time.monotonic() < deadline, "a training hangs"
        time.sleep(0.003)


def newest(saved: Path) -> int:
    """Steps of the newest checkpoint, 0 for none."""
    return max((int(path.name.removeprefix("step-")) for path in checkpoints(saved)), default=0)


def random_moment(processes: Sequence[Any], saved: Path, straight: Undisturbed, draw: np.random.Generator) -> None:
    """Waits until one: in the start, or within a step after one of the next checkpoints."""
    here, more = newest(saved), int(draw.integers(0, 4))
    wait(processes, lambda: newest(saved) >= here + more)
    time.sleep(draw.random() * (straight.step if more else straight.starting))


# --- kills --------------------------------------------------------------------------------------------------


def kills(place: Path, row: Row, wanted: int, straight: Undisturbed, draw: np.random.Generator) -> None:
    """One run after another, each killed over and over, until it ends or there have been ``wanted`` kills."""
    while row.faults < wanted:
        run = new(place, row.stage, place / "killed")
        saved = part(row.stage, run) / "checkpoints"
        faults = 0
        while True:
            processes = begun(place, words(row.stage, run), row.processes)
            if row.faults + faults < wanted:
                random_moment(processes, saved, straight, draw)
            else:
                wait(processes, lambda: False)
            running = all(process.is_alive() for process in processes)
            if not running:
                break
            for process in processes:
                process.kill()
            trainings.finish(processes, PATIENCE)
            faults += 1
            row.while_saving += any(saved.glob(".partial-*"))
            row.saved += newest(saved) > 0
            row.lost += not whole(saved.parent)
        codes = trainings.finish(processes, PATIENCE)
        settle(place, row, faults, codes, run, straight)


def settle(place: Path, row: Row, faults: int, codes: list[int], run: Path, straight: Undisturbed) -> None:
    """Counts the faults of a run that has been resumed for the last time."""
    good = codes == [0] * row.processes and same(part(row.stage, run), part(row.stage, straight.run))
    if not good:
        print(f"{row.stage}, {row.processes}: {codes}\n{trainings.said(place)}", file=sys.stderr)
    row.faults += faults
    row.identical += faults * good
    row.lost += faults * (not good)
    shutil.rmtree(run)


# --- a full disk --------------------------------------------------------------------------------------------


def fills(place: Path, row: Row, wanted: int, straight: Undisturbed, draw: np.random.Generator) -> None:
    """``wanted`` runs, the disk of each filled up once, at a random moment to a random rest."""
    with disk(place / "disk") as room:
        while row.faults < wanted:
            run = new(place, row.stage, room / "run")
            saved = part(row.stage, run) / "checkpoints"
            processes = begun(place, words(row.stage, run), row.processes)
            random_moment(processes, saved, straight, draw)
            size = sum(path.stat().st_blocks for path in checkpoints(straight_saved(row, straight))[-1].iterdir()) * 512
            fill(room / "filler", int(draw.random() * size))
            codes = trainings.finish(processes, PATIENCE)
            if codes == [0] * row.processes:  # it was done before
                shutil.rmtree(run, ignore_errors=True)
                (room / "filler").unlink()
                continue
            told = [trainings.said(place, rank) for rank in range(row.processes)]
            row.while_saving += "checkpoints" in told[0].splitlines()[-1]
            row.saved += newest(saved) > 0
            in_a_line = bool(ENDED.fullmatch(told[0].splitlines()[-1])) and all(LOST in one for one in told[1:])
            if not in_a_line or any("Traceback" in one for one in told) or not whole(saved.parent):
                print(f"{row.stage}, {row.processes}: {codes}\n" + "\n--\n".join(told), file=sys.stderr)
                row.lost += 1
            (room / "filler").unlink()
            settle(place, row, 1, ended(place, words(row.stage, run), row.processes), run, straight)


def straight_saved(row: Row, straight: Undisturbed) -> Path:
    return part(row.stage, straight.run) / "checkpoints"


@contextmanager
def disk(folder: Path) -> Iterator[Path]:
    """A file system of its own that can be filled."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


def fill(path: Path, rest: int) -> None:
    """Takes all the room of a file system but ``rest`` bytes."""
    with path.open("wb") as file:
        while (room := free(path.parent) - rest) > 0:
            try:
                os.posix_fallocate(file.fileno(), 0, room)
            except OSError as error:
                if error.errno != errno.ENOSPC:  # the training was quicker, and has taken some
                    raise
            else:
                break


def free(folder: Path) -> int:
    there = os.statvfs(folder)
    return there.f_bavail * there.f_frsize


# --- the tables ---------------------------------------------------------------------------------------------


def table(rows: Sequence[Row], fault: str) -> None:
    print(f"{'stage':8} {'processes':>9} {fault:>6} {'while saving':>12} {'resumed':>7} {'identical':>9} {'lost':>4}")
    for row in rows:
        print(
            f"{row.stage:8} {row.processes:9} {row.faults:6} {row.while_saving:12} {row.saved:7} {row.identical:9} "
            f"{row.lost:4}"
        )
    faults, identical, lost = (sum(getattr(row, name) for row in rows) for name in ("faults", "identical", "lost"))
    print(f"{faults} {fault}: {identical} resumes bit-identical, {lost} lost")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, metavar="N", help="N kills, shared out over stages and processes")
    parser.add_argument("--disk-full", action="store_true", help="fill the disk instead, --kills times (default 16)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    given = parser.parse_args()
    fault, work, count = ("fills", fills, given.kills or 16) if given.disk_full else ("kills", kills, given.kills or 50)
    if given.disk_full and os.geteuid():
        parser.error("--disk-full mounts a tmpfs, which only root may")
    rows = []
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        os.environ["WAVEVQ_CACHE"] = str(Path(name, "cache"))
        place = workplace(Path(name))
        for number, (stage, processes) in enumerate(CELLS):
            row = Row(stage, processes)
            straight = undisturbed(place, stage, processes)
            share = count // len(CELLS) + (number < count % len(CELLS))
            work(place, row, share, straight, np.random.default_rng([given.seed, number]))
            print(f"{stage}, {processes}: {row.faults} {fault}, {row.identical} identical", file=sys.stderr, flush=True)
            rows.append(row)
    table(rows, fault)
    known = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    known[fault] = {"seed": given.seed, "rows": [asdict(row) for row in rows]}
    RESULTS.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", "utf-8")
    sys.exit(any(row.lost for row in rows))


if __name__ == "__main__":
    main()

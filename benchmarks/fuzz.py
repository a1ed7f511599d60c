"""Damaged and hostile files for every reader: each case must end in a result, or be refused in one line.

python benchmarks/fuzz.py [--cases 20000] [--reader NAME] [--commands 60] [--json results/fuzz.json]

Valid files of every kind (tests/valid.py) are damaged: bits flipped, ends cut off, spliced with another's, fields set
to extremes, numbers and words of texts exchanged, values of YAML, JSON and safetensors headers replaced, checksums made
right again. Each case is opened in this process by the functions that the commands call, under a limit of time and of
memory, resident and claimed: a header that claims 4 GiB must allocate nothing like it. Case N of a reader depends on N
alone: ``--first N --cases 1`` repeats one. ``--commands`` more cases go through the command line, each in a process of
its own.

Figures, by reader: cases, results, refused (in one line), crashed (anything else: another exception, several lines, a
warning, a limit passed), slowest s of CPU, peak MiB (over the start of the case). Exit code 1 where one crashed.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import importlib
import io
import itertools
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import yaml
from rich.console import Console

from wavevq import about, compress, pixels, scoreboard, voices, wvq
from wavevq.audio import normalise, read
from wavevq.build import build_corpus
from wavevq.codes_file import arriving_codes, read_codes, read_header
from wavevq.data import corpora, image_store, images, store
from wavevq.data.alignments import read_phones
from wavevq.data.codes import load_codes
from wavevq.data.shapes import Shapes
from wavevq.errors import WavevqError
from wavevq.image_run import load_image_run
from wavevq.jobs import Job
from wavevq.recipe import load_recipe
from wavevq.run import load_run
from wavevq.run_folder import SPEAKERS
from wavevq.train.loop import Meter
from wavevq.video_run import load_video_run

ROOT = Path(__file__).parents[1]
SECONDS, MIB = 10, 512  # of a case; memory over its start, resident or claimed
SHARES = {  # of the cases, by how long one takes
    **{"audio": 40, "codes": 40, "packed": 25, "recipes": 10, "run": 2, "transformer run": 2},
    **{"image run": 1, "coded run": 1, "video run": 1, "speakers": 4, "enrolled": 15, "pictures": 35, "resumed": 8},
    **{"alignments": 25, "corpus": 2, "classes": 1, "strips": 2, "official": 10, "stored": 8, "stored images": 4},
    **{"encoded": 7, "evaluations": 3},
}
Opened = Callable[[Path, Path], object]  # of a folder and the damaged file in it


class TooLong(BaseException):
    """The limit of time has passed: no handler of errors may take it for one of theirs."""


@dataclass
class Found:
    """Of one reader. crashes: each kind once, with the number of a case."""

    cases: int = 0
    results: int = 0
    refused: int = 0
    crashed: int = 0
    slowest_s: float = 0.0
    peak_mib: float = 0.0
    crashes: dict[str, str] = field(default_factory=dict)


# --- damage -------------------------------------------------------------------------------------------------

SIZES = (0, 1, 2, 127, 128, 255, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63, 2**64 - 1)
WORDS = (
    *(b"0", b"-1", b"1", b"4294967296", b"99999999999999999999", b"1e999", b"-1e999", b"nan", b"1.5", b"null", b"true"),
    *(b"[]", b"{}", b"''", b'"', b"\n", b"\x1b[31m", b"../../x", b"/etc/passwd", b"\xff\xfe", b"\x00", b"[/b]", b"0x"),
    *(b"&a [*a]", b"*a", b"!!python/object/apply:os.system [id]", b"0x" + b"f" * 5000, b"[" * 2000, b"9" * 5000),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 2**31, 2**63, 2**64, 1e308, -0.5, float("nan"), float("inf"), "", "x", "nan"),
    *("a\nb", "\x1b[31m", "[/b]", "../x", "/etc/passwd", "é" * 300, [], {}, [[]], [1, 2], ["x"], {"x": 1}, [0] * 500),
    *({"kind": "vq"}, {"kind": None}, {"kind": ["x"]}),
)


def damaged(name: str, data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """One file's bytes after one to three kinds of damage."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        kinds = [flipped, cut, appended, spliced, sized, zeroed]
        if Path(name).suffix in TREES:
            kinds += 4 * [replanted]
        if b"\x00" not in data[:400]:
            kinds += 4 * [reworded]
        elif name.endswith((".npy", ".safetensors", ".wvq")):
            kinds += [reworded]
        data = rng.choice(kinds)(name, data, others, rng)
    return data


def flipped(name: str, data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    made = bytearray(data)
    for _ in range(rng.choice((1, 2, 8, 64)) if made else 0):
        made[near(len(made), rng)] ^= 1 << rng.randrange(8)
    return bytes(made)


def cut(name: str, data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def appended(name: str, data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    return data + rng.choice((rng.randbytes(rng.randrange(1, 100)), data, rng.choice(others)))


def spliced(name: str, data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    other = rng.choice(others)
    return data[: near(len(data) + 1, rng)] + other[near(len(other) + 1, rng) :]


def sized(name: str, data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    size, at = rng.choice((1, 2, 4, 8)), near(len(data) + 1, rng)
    value: bytes = (rng.choice(SIZES) % 2 ** (8 * size)).to_bytes(size, "little")
    return data[:at] + rng.choice((value, value[::-1])) + data[at + size :]


def zeroed(name: str, data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    at, count = near(len(data) + 1, rng), rng.choice((1, 4, 100, 1000))
    return data[:at] + rng.choice((b"\x00", b"\xff", b" ")) * min(count, len(data) - at) + data[at + count :]


def reworded(name: str, data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    words = list(re.finditer(rb"[-+\w.]+|[^\w\s]", data[:20_000]))
    if not words:
        return data + rng.choice(WORDS)
    one = rng.choice(words)
    put = rng.choice((*WORDS, rng.choice(words)[0], b""))
    return data[: one.start()] + put + data[rng.choice((one.start(), one.end())) :]


def replanted(name: str, data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """A value in a tree replaced, dropped or given another name; as it was where it cannot be read or written."""
    to, back = TREES[Path(name).suffix]
    try:
        tree = to(data)
        places = list(inside(tree))
        if not places:
            return data
        node, key = rng.choice(places)
        what = rng.randrange(10)
        if what == 0:
            del node[key]
        elif what == 1 and isinstance(node, dict):
            node[rng.choice(("x", "a\nb", "", "kind", "step", "\x1b", "prior"))] = rng.choice(VALUES)
        elif what == 2:
            node[key] = rng.choice([node[key] for node, key in places])
        else:
            node[key] = rng.choice(VALUES)
        return back(data, tree)
    except (ValueError, yaml.YAMLError, RecursionError, KeyError):
        return data


def inside(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a tree: what holds it, and its key there."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield tree, key
        yield from inside(tree[key])


def near(size: int, rng: random.Random) -> int:
    """A place below ``size``, half of the time at the beginning, where headers are."""
    return min(size - 1, rng.randrange(64)) if rng.random() < 0.5 else rng.randrange(size)


def _lines(data: bytes) -> Any:
    return [json.loads(line) for line in data.splitlines()]


def _head(data: bytes) -> Any:
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


def _headed(data: bytes, tree: Any) -> bytes:
    head = json.dumps(tree).encode()
    return len(head).to_bytes(8, "little") + head + data[8 + int.from_bytes(data[:8], "little") :]


TREES: Mapping[str, tuple[Callable[[bytes], Any], Callable[[bytes, Any], bytes]]] = {
    ".yaml": (yaml.safe_load, lambda data, tree: yaml.safe_dump(tree, sort_keys=False).encode()),
    ".json": (json.loads, lambda data, tree: json.dumps(tree).encode()),
    ".jsonl": (_lines, lambda data, tree: "".join(json.dumps(line) + "\n" for line in tree).encode()),
    ".safetensors": (_head, _headed),
}


def resealed(path: Path, data: bytes) -> None:
    """Makes the checksum of a file of a checkpoint right, where there is one."""
    sums = path.with_name("SHA256SUMS")
    if sums.is_file() and path != sums:
        lines = [line for line in sums.read_text().splitlines() if not line.endswith(f"  {path.name}")]
        sums.write_text("\n".join([*lines, f"{sha256(data).hexdigest()}  {path.name}"]) + "\n")


# --- readers ------------------------------------------------------------------------------------------------


def readers(valid: Path) -> dict[str, Opened]:
    """What opens the files in each folder of ``valid``, as the commands do."""
    hum = read(valid / "audio" / "plain.wav")
    run = load_run(valid / "packed" / "run", "cpu", "reference")
    packer = compress.Packer(run)
    quiet = Console(file=io.StringIO(), markup=False)

    def codes(folder: Path, path: Path) -> None:
        read_codes(path, axes=(1, 3))
        with path.open("rb") as file:
            frames, dtype = read_header(file, str(path))
            for _ in itertools.islice(arriving_codes(file, frames, dtype, str(path)), 1000):
                pass

    def packed(folder: Path, path: Path) -> None:
        about.of_packed(path)
        one = packer.read(Job(path, path))
        wvq.decode(one, packer.prior, run.speaker(one.header.speaker), str(path))

    def a_run(folder: Path, path: Path) -> None:
        quiet.print(about.of_run(folder))
        loaded = load_run(folder, "cpu", "reference")
        said = loaded.check_codes(loaded.encode(hum))
        loaded.decode(said[:2], loaded.speakers[-1])
        if loaded.prior:
            loaded.sample_codes(loaded.trained_speakers[:1], 2)

    def speakers(folder: Path, path: Path) -> None:
        """As a part of their run."""
        with tempfile.TemporaryDirectory(dir=folder) as place:
            shutil.copytree(folder / "run", place, dirs_exist_ok=True)
            shutil.copy(folder / SPEAKERS, place)
            shutil.copytree(folder / voices.FOLDER, Path(place, voices.FOLDER))
            a_run(Path(place), path)

    def an_image_run(folder: Path, path: Path) -> None:
        quiet.print(about.of_run(folder))
        loaded = load_image_run(folder, "cpu", "reference")
        loaded.decode(loaded.encode(pixels.read(valid / "pictures" / "a.png", loaded.size)))

    def a_video_run(folder: Path, path: Path) -> None:
        quiet.print(about.of_run(folder))
        loaded = load_video_run(folder, "cpu", "reference")
        corpus = build_corpus(loaded.recipe)
        assert isinstance(corpus, Shapes)
        film = corpus.film(corpus.split("val")[0])
        begun = loaded.encode(film.frames[: loaded.recipe.evaluation.given])
        loaded.decode(loaded.go_on(begun[None], film.actions[None])[0])

    def resumed(folder: Path, path: Path) -> None:
        """As the loop goes on: the checkpoint taken in, and a step from it, logged."""
        state = importlib.import_module("trainings").tiny_state(run.recipe)
        state.load(folder / "step-00000001")
        state.optimizer.step()
        Meter(state, "audio_seconds", 1.0).read()

    def pictures(folder: Path, path: Path) -> None:
        pixels.read(path)
        pixels.read(path, 16)

    def evaluations(folder: Path, path: Path) -> None:
        every, _ = scoreboard.read_all([path])
        quiet.print(scoreboard.table(scoreboard.board(every)))

    def cifar(folder: Path, path: Path) -> None:
        image_store.prepare(images.cifar10(folder, 0.3), 32)

    return {
        "audio": lambda folder, path: normalise(read(path), 8000, 40.0),
        "codes": codes,
        "packed": packed,
        "recipes": lambda folder, path: load_recipe(path),
        "run": a_run,
        "transformer run": a_run,
        "image run": an_image_run,
        "coded run": an_image_run,
        "video run": a_video_run,
        "resumed": resumed,
        "enrolled": lambda folder, path: voices.load(path),
        "speakers": speakers,
        "pictures": pictures,
        "alignments": lambda folder, path: read_phones(path, Path("clip.wav")),
        "corpus": lambda folder, path: store.prepare(corpora.folder(folder, 0.3, 0), 8000, 40.0),
        "classes": lambda folder, path: image_store.prepare(images.folder(folder, 8, 0.3, 0), 8),
        "strips": cifar,
        "official": cifar,
        "stored": lambda folder, path: store.open_store(folder),
        "stored images": lambda folder, path: image_store.open_store(folder),
        "encoded": lambda folder, path: load_codes(path, 2, 40),
        "evaluations": evaluations,
    }


# --- cases --------------------------------------------------------------------------------------------------


def case(reader: str, number: int, folder: Path, seed: int = 0) -> tuple[Path, bytes, bool]:
    """The file of a folder of valid ones that is damaged, with what, and whether its checksum is made right."""
    rng = random.Random(f"{seed}/{reader}/{number}")
    files = whole(folder / reader)
    path = rng.choice(list(files))
    others = [data for one, data in files.items() if one.suffix == path.suffix]
    return path, damaged(path.name, files[path], others, rng), rng.random() < 0.7


@lru_cache
def whole(folder: Path) -> dict[Path, bytes]:
    """The files that are damaged, by their paths in ``folder``: not those of a run that only lies beside them."""
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path: (folder / path).read_bytes() for path in paths if "run" not in path.parts}


@contextlib.contextmanager
def placed(reader: str, number: int, valid: Path, scratch: Path) -> Iterator[tuple[Path, Path]]:
    """A copy of the reader's folder, and in it the damaged file of a case, which is whole again afterwards."""
    folder = scratch / reader
    if not folder.exists():
        shutil.copytree(valid / reader, folder)
    name, data, seal = case(reader, number, valid)
    path = folder / name
    path.write_bytes(data)
    sums = path.with_name("SHA256SUMS")
    kept = sums.read_bytes() if sums.is_file() else None
    if seal:
        resealed(path, data)
    try:
        yield folder, path
    finally:
        if kept is not None:
            sums.write_bytes(kept)
        path.write_bytes(whole(valid / reader)[name])


def tried(opened: Opened, folder: Path, path: Path, found: Found, number: int) -> None:
    """One case, into ``found``."""
    crash = ""
    before = Memory.now()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    started = time.process_time()
    try:
        with warnings.catch_warnings(record=True) as warned, contextlib.redirect_stderr(io.StringIO()):
            try:
                opened(folder, path)
                found.results += 1
            except WavevqError as error:
                crash = "" if all(str(folder) in line for line in error.args) else f"lines: {str(error)[:300]!r}"
                found.refused += not crash
        if warned:
            crash = f"warned: {warned[0].message}"
    except TooLong:
        crash = f"more than {SECONDS} s"
    except Exception as error:  # whatever it is: a crash is what is looked for, and one ends no count
        last = traceback.extract_tb(error.__traceback__)[-1]
        crash = f"{type(error).__name__}: {str(error)[:150]} ({Path(last.filename).name}:{last.lineno})"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    seconds, grown = time.process_time() - started, Memory.now().over(before)
    if not crash and grown > MIB:
        crash = f"{grown:.0f} MiB"
    found.cases += 1
    found.slowest_s, found.peak_mib = max(found.slowest_s, seconds), max(found.peak_mib, grown)
    if crash:
        found.crashed += 1
        found.crashes.setdefault(re.sub(r"\d+", "N", crash), f"case {number}, {path.name}: {crash}")


@dataclass(frozen=True)
class Memory:
    """Of this process, KiB: resident and claimed, now and at most so far."""

    resident: int
    claimed: int
    most_resident: int
    most_claimed: int

    @classmethod
    def now(cls) -> Memory:
        said = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return cls(*(int(said[name].split()[0]) for name in ("VmRSS", "VmSize", "VmHWM", "VmPeak")))

    def over(self, before: Memory) -> float:
        """MiB at most since ``before``, over what there was then; 0 where that is less than at some time before it."""
        resident = self.most_resident - before.resident if self.most_resident > before.most_resident else 0
        claimed = self.most_claimed - before.claimed if self.most_claimed > before.most_claimed else 0
        return max(resident, claimed) / 1024


def too_long(number: int, frame: FrameType | None) -> None:
    raise TooLong


# --- the command line ---------------------------------------------------------------------------------------

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "audio": ("encode", "{path}", "{out}.npy", "--run", "{run}"),
    "codes": ("decode", "{path}", "{out}.wav", "--run", "{run}", "--speaker", "ann", "--sampler", "reference"),
    "packed": ("info", "{path}"),
    "recipes": ("train", "{path}", "--set", "data.root={out}", "--run", "{out}"),
    "run": ("info", "{folder}"),
    "image run": ("encode", "{valid}/pictures/a.png", "{out}.npy", "--run", "{folder}"),
    "pictures": ("encode", "{path}", "{out}.npy", "--run", "{valid}/image run"),
    "evaluations": ("scoreboard", "{path}"),
}


def commanded(reader: str, number: int, valid: Path, scratch: Path) -> tuple[int, str]:
    """Exit code and standard error of a command with a case."""
    with placed(reader, number, valid, scratch) as (folder, path):
        places = {"path": path, "folder": folder, "valid": valid, "run": valid / "run", "out": scratch / "out"}
        words = [word.format(**places) for word in COMMANDS[reader]]
        done = subprocess.run(
            [sys.executable, ROOT / "cli.py", *words], capture_output=True, text=True, errors="replace", timeout=600
        )
        return done.returncode, done.stderr


def through_commands(count: int, valid: Path, scratch: Path) -> dict[str, Any]:
    """Cases through the command line: how many ended with which exit code, and those that did not as they should."""
    codes: Counter[str] = Counter()
    wrong: list[str] = []
    for number in range(count):
        reader = list(COMMANDS)[number % len(COMMANDS)]
        code, said = commanded(reader, number, valid, scratch)
        codes[str(code)] += 1
        lines = [line for line in said.splitlines() if line.startswith("wavevq: ")]
        others = [line for line in said.splitlines() if not line.startswith(("wavevq: ", "sampler: ", "Using "))]
        one = len(lines) == 1 or (lines and reader == "recipes")  # of which each mistake has its own
        if code not in (0, 2) or (code == 2 and (others or not one)):
            wrong.append(f"{reader}, case {number}: exit code {code}, {said[-300:]!r}")
    return {"cases": count, "exit_codes": dict(codes), "wrong": wrong}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000, help="of all readers together (default 20000)")
    parser.add_argument("--reader", choices=SHARES, help="this one alone")
    parser.add_argument("--first", type=int, default=0, help="number of the first case of each reader")
    parser.add_argument("--commands", type=int, default=0, help="so many more through the command line")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    given = parser.parse_args()
    torch.set_num_threads(1)
    signal.signal(signal.SIGPROF, too_long)
    faulthandler.enable()
    sys.path.insert(0, str(ROOT / "tests"))
    make = importlib.import_module("valid").make
    with tempfile.TemporaryDirectory() as place:
        os.environ["WAVEVQ_CACHE"] = str(Path(place, "cache"))
        valid, scratch = make(Path(place, "valid")), Path(place, "scratch")
        every: dict[str, Found] = {}
        opened = readers(valid)
        chosen = {given.reader: 1} if given.reader else SHARES
        for reader, share in chosen.items():
            found = every[reader] = Found()
            begun = time.perf_counter()
            for number in range(given.first, given.first + -(-given.cases * share // sum(chosen.values()))):
                with placed(reader, number, valid, scratch) as (folder, path):
                    tried(opened[reader], folder, path, found, number)
                shutil.rmtree(Path(place, "cache"), ignore_errors=True)
            print(f"{reader}: {told(found)}; {time.perf_counter() - begun:.0f} s in all", flush=True)
            for crash in found.crashes.values():
                print(f"    {crash}", flush=True)
            keep(every, {}, given.json)
        commands = through_commands(given.commands, valid, scratch)
    for line in commands["wrong"]:
        print(f"    {line}")
    keep(every, commands, given.json)
    sys.exit(bool(commands["wrong"] or any(found.crashed for found in every.values())))


def keep(every: Mapping[str, Found], commands: Mapping[str, Any], path: Path | None) -> None:
    """Writes the figures so far."""
    figures = {
        "command": shlex.join(["python", "benchmarks/fuzz.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cases": sum(found.cases for found in every.values()),
        "readers": {reader: asdict(found) for reader, found in every.items()},
        "commands": commands,
    }
    if path:
        path.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def told(found: Found) -> str:
    figures = {key: value for key, value in asdict(found).items() if key != "crashes"}
    return ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in figures.items()
    )


if __name__ == "__main__":
    main()

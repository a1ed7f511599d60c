"""The embedded speech corpus: made on the fly by espeak-ng, cached, with exact phoneme boundaries.

The corpus is a folder with one folder a speaker, as ``folder`` corpora are::

    f1/f1_0001.flac         22,050 Hz, 16 bits, mono
    f1/f1_0001.phones.tsv   start_seconds, end_seconds, symbol: IPA without stress marks, every pause is "_"
    sentences.tsv           number and text of each sentence; all voices say all of them
    train.txt  val.txt      by sentence: what is held out is held out for every voice
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from wavevq.data.espeak import PAUSE
from wavevq.data.sentences import make_sentences
from wavevq.errors import WavevqError

FORMAT = 1  # of the folder; raised when the same key would hold something else
LANGUAGE = "gmw/en-US"
HELD_OUT = 0.08  # share of the sentences
AT_ONCE = 2  # processes

# Variants that differ in pitch and timbre, without echo and without clipping at RMS 0.08; any first few are mixed.
VOICES = ("f1", "m3", "linda", "Michael", "steph", "Reed", "grandma", "boris", "anika", "quincy")


@dataclass(frozen=True)
class _Engine:
    library: Path
    data: Path


def synthesize(voices: int, sentences: int, seed: int, cache: Path) -> Path:
    """The folder in ``cache`` with ``sentences`` sentences by ``voices`` voices (at most 10), made if it is missing.

    The same arguments give the same bytes. Two processes may ask at once. Raises WavevqError without espeak-ng.
    """
    if not 1 <= voices <= len(VOICES):
        raise WavevqError(f"data.voices: {voices} is not allowed: 1 to {len(VOICES)} voices")
    if sentences < 2:
        raise WavevqError(f"data.sentences: {sentences} is not allowed: at least 2, one of them held out")
    engine = _find_engine("data.kind synthetic needs")
    names = VOICES[:voices]
    _verify(names, engine)
    texts = make_sentences(sentences, seed)
    corpus = cache / f"synthetic-{voices}x{sentences}-seed{seed}-{_key(engine, names, texts, seed)}"
    if corpus.is_dir():
        return corpus
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{corpus.name}.lock"):
        if not corpus.is_dir():
            for stale in cache.glob(f".{corpus.name}.*"):  # of a process that was killed: the lock is ours
                shutil.rmtree(stale, ignore_errors=True)
            unfinished = Path(tempfile.mkdtemp(prefix=f".{corpus.name}.", dir=cache))
            try:
                _make(unfinished, engine, names, texts, seed)
                unfinished.chmod(0o755)  # mkdtemp's folders are for their owner alone
                unfinished.replace(corpus)
            except BaseException:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise
    return corpus


def pronounced(texts: Sequence[str]) -> list[tuple[str, ...]]:
    """The phones of each text as espeak-ng says it in American English: IPA without stress marks and pauses.

    Raises WavevqError without espeak-ng.
    """
    engine = _find_engine("phones of a text need")
    lines: list[str] = []
    job = {"library": str(engine.library), "data": str(engine.data), "voice": LANGUAGE, "seed": 0, "folder": None}
    _run([{**job, "sentences": [*texts]}], lines.append)
    return [tuple(symbol for symbol in line.split() if symbol != PAUSE) for line in lines]


def _find_engine(what: str) -> _Engine:
    if importlib.util.find_spec("espeakng_loader") is None:
        raise WavevqError(f'{what} espeak-ng: pip install "wavevq[synthetic]"')
    import espeakng_loader

    return _Engine(Path(espeakng_loader.get_library_path()), Path(espeakng_loader.get_data_path()))


def _verify(names: tuple[str, ...], engine: _Engine) -> None:
    # espeak-ng takes an unknown variant without a word and speaks as plain en-us.
    variants = {path.name for path in (engine.data / "voices" / "!v").iterdir()}
    unknown = [name for name in names if name not in variants]
    if unknown:
        raise WavevqError(f"espeak-ng in {engine.data}: has no voice {', '.join(unknown)}")


def _key(engine: _Engine, names: tuple[str, ...], texts: list[str], seed: int) -> str:
    digest = hashlib.sha256(json.dumps([FORMAT, names, texts, seed, HELD_OUT]).encode())
    parts = ["phondata", "phonindex", "phontab", "intonations", "en_dict", "lang/" + LANGUAGE]
    parts += [f"voices/!v/{name}" for name in names]
    for path in [engine.library, Path(__file__).with_name("espeak.py"), *(engine.data / part for part in parts)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _make(folder: Path, engine: _Engine, names: tuple[str, ...], texts: list[str], seed: int) -> None:
    numbers = [f"{number:04d}" for number in range(1, len(texts) + 1)]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("making speech", total=len(names) * len(texts))
        jobs = []
        for position, name in enumerate(names):
            speaker = _speaker(name)
            (folder / speaker).mkdir()
            jobs.append(
                {
                    "library": str(engine.library),
                    "data": str(engine.data),
                    "voice": f"{LANGUAGE}+{name}",
                    "seed": (seed + position * len(texts)) % 2**31,
                    "folder": str(folder / speaker),
                    "names": [f"{speaker}_{number}" for number in numbers],
                    "sentences": texts,
                }
            )
        _run(jobs, lambda line: progress.advance(bar))
    held_out = max(1, round(len(texts) * HELD_OUT))
    _write(folder / "train.txt", [_utterance(name, number) for name in names for number in numbers[:-held_out]])
    _write(folder / "val.txt", [_utterance(name, number) for name in names for number in numbers[-held_out:]])
    _write(folder / "sentences.tsv", [f"{number}\t{text}" for number, text in zip(numbers, texts, strict=True)])


def _run(jobs: list[dict[str, object]], heard: Callable[[str], object]) -> None:
    """Each job in a process of its own, AT_ONCE at a time; none is left behind when one fails or Ctrl-C comes.

    heard: told each line that a job writes, one a sentence.
    """
    running: list[subprocess.Popen[str]] = []
    stopped = threading.Event()

    def speak(job: dict[str, object]) -> None:
        if stopped.is_set():
            return
        script = Path(__file__).with_name("espeak.py")
        # -P: the script's own folder must not come before the standard library on the path.
        with subprocess.Popen(
            [sys.executable, "-P", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        ) as process:
            running.append(process)
            if stopped.is_set():
                process.kill()
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            with contextlib.suppress(BrokenPipeError):  # it died early: its exit code tells
                process.stdin.write(json.dumps(job))
                process.stdin.close()
            for line in process.stdout:
                heard(line)
            complaint = process.stderr.read().strip().splitlines()
        if process.returncode:
            reason = complaint[-1] if complaint else f"exit code {process.returncode}"
            raise WavevqError(f"espeak-ng, voice {job['voice']}: {reason}")

    with ThreadPoolExecutor(AT_ONCE) as pool:  # threads only wait: the library is called in the processes
        try:
            for done in [pool.submit(speak, job) for job in jobs]:
                done.result()
        except BaseException:
            stopped.set()
            for process in running:
                process.kill()
            raise


def _speaker(name: str) -> str:
    return name.lower()


def _utterance(name: str, number: str) -> str:
    return f"{_speaker(name)}/{_speaker(name)}_{number}.flac"


def _write(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")

"""What many tests share: a cache of their own, the real data where it is, small audio files, a run, a browser."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import trainings
import valid
import yaml
from browser import Browser, installed, started
from click.testing import CliRunner, Result
from rich.console import Console

from wavevq import experiment
from wavevq.cli import main
from wavevq.recipe import load_recipe

MakeAudio = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def _no_test_touches_the_users_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WAVEVQ_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a test finds does not depend on which models the package holds; tests/test_shipped.py looks at those."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wavevq.recipe.trained.SHIPPED", tmp_path_factory.mktemp("models"))
        yield


class Online(BaseException):
    """Not an Exception, so that nothing takes it for a failed fetch."""


@pytest.fixture(scope="session", autouse=True)
def _nothing_calls_home() -> Iterator[None]:
    """No test's process reaches beyond this machine; what ``wavevq download`` fetches, its tests serve themselves."""
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def local(address: Any) -> bool:
        return not isinstance(address, tuple) or str(address[0]) in ("localhost", "127.0.0.1", "::1")

    def connected(self: socket.socket, address: Any) -> None:
        if not local(address):
            raise Online(f"a connection to {address}")
        connect(self, address)

    def looked_up(host: Any, *more: Any, **named: Any) -> Any:
        if host is not None and not local((host,)):
            raise Online(f"a look-up of {host}")
        return look_up(host, *more, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connected)
        patch.setattr(socket, "getaddrinfo", looked_up)
        yield


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of this test alone (the others share one for the session)."""
    monkeypatch.setenv("WAVEVQ_CACHE", str(tmp_path / "own-cache"))
    return tmp_path / "own-cache"


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder with the real recordings and images, named by WAVEVQ_TEST_DATA."""
    place = os.environ.get("WAVEVQ_TEST_DATA")
    if not place:
        pytest.skip("WAVEVQ_TEST_DATA does not name a folder with test data")
    if not Path(place).is_dir():
        pytest.skip(f"the test data folder {place} is missing (WAVEVQ_TEST_DATA)")
    return Path(place)


@pytest.fixture(scope="session")
def make_audio() -> MakeAudio:
    """``make_audio(path, seconds=0.5, rate=8000, pitch=200.0, gain=0.3, offset=0.0)`` writes a hum and returns path.

    The hum has three harmonics and a little noise, seeded by the file's name; further keywords go to soundfile.
    """

    def make(
        path: Path,
        seconds: float = 0.5,
        rate: int = 8000,
        pitch: float = 200.0,
        gain: float = 0.3,
        offset: float = 0.0,
        **format: str,
    ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        time = np.arange(round(seconds * rate)) / rate
        hum = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in (1, 2, 3)) / 2
        noise = np.random.default_rng(sum(path.name.encode())).normal(0, 0.01, len(time))
        soundfile.write(path, np.clip(gain * (hum + noise) + offset, -1, 1), rate, **format)
        return path

    return make


@pytest.fixture
def small_corpus(tmp_path: Path, make_audio: MakeAudio) -> Path:
    """A folder of two speakers, ann (low) and bob (high), with five clips each of 0.2 to 0.6 s at 8 kHz."""
    root = tmp_path / "small-corpus"
    for speaker, pitch in (("ann", 120.0), ("bob", 300.0)):
        for i in range(5):
            make_audio(root / speaker / f"{speaker}_{i}.wav", seconds=0.2 + 0.1 * i, pitch=pitch)
    return root


# --- a run of every part ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, make_audio: MakeAudio) -> Path:
    """A folder with a corpus of two speakers, with phones, a recipe, and a run of it with its prior."""
    place = trainings.workplace(tmp_path_factory.mktemp("finished"), make_audio)
    for path in (place / "corpus").glob("*/*.wav"):
        path.with_suffix(".phones.tsv").write_text("0\t0.02\taɪ\n0.02\t0.04\tm\n0.04\t9\t_\n", "utf-8")
    tree = yaml.safe_load((place / "tiny.yaml").read_text())
    tree["data"] |= {"root": str(place / "corpus"), "held_out": 0.4}
    (place / "tiny.yaml").write_text(yaml.safe_dump({**tree, "prior": trainings.PRIOR}))
    experiment.train(load_recipe(place / "tiny.yaml"), place / "run", False, Console(quiet=True))
    return place


@pytest.fixture(scope="session")
def evaluated(finished: Path) -> Result:
    """What ``wavevq evaluate`` says of every metric of that run; its files lie in the run's folder."""
    words = ["--run", str(finished / "run"), "--set", f"data.root={finished / 'corpus'}"]
    result = CliRunner().invoke(main, ["evaluate", *words, "--set", "evaluation.judged=3"])
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid file of every kind, as ``valid.make`` has them: to be copied, not changed."""
    return valid.make(tmp_path_factory.mktemp("files") / "valid")


# --- a browser ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless Chromium, where one is installed."""
    if not (chromium := installed()):
        pytest.skip("chromium is not installed: apt-get install chromium")
    with started(chromium, tmp_path_factory.mktemp("chromium")) as browser:
        yield browser

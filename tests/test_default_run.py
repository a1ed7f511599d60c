"""Which run a command takes where none is named, and that what is said of it and of its refusal tells so."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import valid
from click.testing import CliRunner, Result

from wavevq.cli import images, main
from wavevq.errors import WavevqError
from wavevq.pixels import write
from wavevq.run_folder import PRIOR, SUMMARY, Found, found_run

SLOW = "--sampler", "reference"  # which compiles nothing


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of three kinds, whose priors are not marked as finished."""
    folder = tmp_path_factory.mktemp("made")
    for name, maker in (("speech", valid.run), ("pictures", valid.image_run), ("film", valid.video_run)):
        (folder / name).mkdir()
        maker(folder / name)
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with finished runs of speech, images and video, the last the newest, and some files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WAVEVQ_RUN", raising=False)
    for at, name in enumerate(("speech", "pictures", "film")):
        copied(made / name, name, at)
    soundfile.write("in.wav", valid.hum(), valid.RATE)
    write(Path("in.png"), valid.noise(1)[0])
    return tmp_path


def copied(source: Path, name: str, at: int, prior: bool = True) -> None:
    """Under runs/, its VQ-VAE finished at a time, its prior a second later or not at all."""
    run = Path("runs", name)
    shutil.copytree(source, run)
    os.utime(run / SUMMARY, (2 * at, 2 * at))
    if prior:
        shutil.copy(run / SUMMARY, run / PRIOR)
        os.utime(run / PRIOR / SUMMARY, (2 * at + 1, 2 * at + 1))


def call(*words: str) -> Result:
    return CliRunner().invoke(main, [*words])


def taken(*words: str) -> str:
    """What a command that succeeds says of its run."""
    done = call(*words)
    assert done.exit_code == 0, done.output
    [said] = [line for line in done.output.splitlines() if line.startswith("run: ")]
    return said.removeprefix("run: ")


def test_a_command_takes_the_newest_finished_run_of_what_it_works_on(here: Path) -> None:
    speech = "runs/speech (the newest finished one of speech; --run names another)"
    pictures = "runs/pictures (the newest finished one of images; --run names another)"
    for words in (
        ("encode", "in.wav", "codes.npy"),
        ("decode", "codes.npy", "out.wav", "--speaker", "ann", *SLOW),
        ("convert", "in.wav", "--speaker", "bob", *SLOW),
        ("compress", "in.wav", "out.wvq", "--speaker", "ann"),
        ("decompress", "out.wvq", "back.wav", *SLOW),
    ):
        assert taken(*words) == speech
    for words in (
        ("encode", "in.png", "grid.npy"),
        ("decode", "grid.npy", "out.png", *SLOW),
    ):
        assert taken(*words) == pictures
    # What decompress makes is what decode makes of the same codes, cut to the recording's length.
    decoded, back = soundfile.read("out.wav", dtype="int16")[0], soundfile.read("back.wav", dtype="int16")[0]
    np.testing.assert_array_equal(back, decoded[: len(back)])
    assert len(back) == soundfile.info("in.wav").frames
    for command in ("info", "export"):
        words = (command, "small") if command == "export" else (command,)
        assert taken(*words) == "runs/film (the newest finished one; --run names another)"


def test_the_files_tell_whether_images_are_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("line.npy", np.zeros(3, int))
    np.save("grid.npy", np.zeros((2, 2, 1), int))
    Path("damaged.npy").write_text("no codes")
    for name in (
        "photos/ship/a.PNG",
        "voices/ann/a.wav",
        "voices/ann/b.png",
        "album/a.png",
        "album/b.flac",
        "grids/a.npy",
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    shutil.copy("grid.npy", "grids/a.npy")
    for paths in (["a.jpg", "line.npy"], ["grid.npy", "x"], ["-", "out.png"], ["photos"], ["grids", "to"]):
        assert images.signals(paths) == ("images", "codes")
    for paths in (
        ["a.wav", "grid.npy"],
        ["line.npy", "x"],
        ["-", "-"],
        ["-", "grid.npy"],
        ["voices"],
        ["album"],
        ["none"],
    ):
        assert images.signals(paths) == ("speech",)
    assert images.signals(["damaged.npy"]) == ("speech",)


def test_a_run_is_finished_when_its_prior_is(made: Path, here: Path) -> None:
    whole = Found(Path("runs/speech"), "the newest finished one of speech; --run names another")
    copied(made / "speech", "killed", 7, prior=False)
    assert found_run(None, "speech") == whole
    shutil.rmtree("runs/killed/prior")  # nothing to be seen of it: wavevq train --stage vqvae
    assert found_run(None, "speech") == whole
    # One whose prior was trained last is the newest, whenever its VQ-VAE was.
    os.utime("runs/pictures/prior/summary.json", (100, 100))
    assert found_run(None).folder == Path("runs/pictures")
    shutil.rmtree("runs/speech")
    copied(made / "speech", "older", 6, prior=False)
    found = found_run(None, "speech")
    assert found.folder == Path("runs/killed")
    assert found.why == "the newest of speech with a finished VQ-VAE, but no finished prior; --run names another"
    with pytest.raises(WavevqError, match=r"^no finished run of codes under runs/: train one"):
        found_run(None, "codes")


def test_a_refusal_says_that_nobody_named_the_run(made: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree("runs/speech/prior")
    why = (
        "(runs/speech was taken by default: the newest of speech with a finished VQ-VAE, but no finished prior; "
        "--run names another)"
    )
    compress = "compress", "in.wav", "out.wvq", "--speaker", "ann"
    lines = call(*compress).stderr.splitlines()
    assert lines[0].startswith("run: runs/speech (the newest of speech with")
    told = "wavevq: runs/speech: has no trained prior; wavevq train RECIPE --stage prior --run runs/speech trains it"
    assert lines[1:] == [f"{told} {why}"]
    assert call(*compress, "--run", "speech").stderr.splitlines() == [told]
    # What is wrong with something else does not.
    last = call("encode", "none.wav", "codes.npy").stderr.splitlines()[-1]
    assert last == "wavevq: none.wav: cannot be read (no such file or directory)"
    monkeypatch.setenv("WAVEVQ_RUN", "speech")
    assert call(*compress).stderr.endswith(" (runs/speech was taken by default: $WAVEVQ_RUN)\n")
    monkeypatch.setenv("WAVEVQ_RUN", "none")
    assert call(*compress).stderr.endswith("no run of this name under runs/ (named by $WAVEVQ_RUN)\n")
    monkeypatch.delenv("WAVEVQ_RUN")
    Path("runs/film/recipe.yaml").write_text("data: [1")
    assert call(*compress).stderr.splitlines()[0] == lines[0].replace(
        "prior;", "prior, but for runs/film, which cannot be read;"
    )
    shutil.rmtree("runs/speech")
    assert call(*compress).stderr.startswith(
        "wavevq: no finished run of speech under runs/, but for runs/film, which cannot be read: train one"
    )


def test_codes_have_no_rates_but_those_of_a_run_that_is_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save("codes.npy", np.arange(30))
    said = call("info", "codes.npy").output
    assert "--run" in said
    assert "codes/s" not in said
    assert "runs/" not in said
    said = call("info", "codes.npy", "--run", "speech").output
    assert "runs/speech" in said
    assert "1000 codes/s" in said
    monkeypatch.setenv("WAVEVQ_RUN", "speech")
    assert "1000 codes/s" in call("info", "codes.npy").output

"""The shipped recipes on recordings of people, as they stand but for their length and the size of a step."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from wavevq.audio import read
from wavevq.cli import main
from wavevq.codes_file import read_codes
from wavevq.pixels import read as read_image
from wavevq.pixels import write
from wavevq.recipe import load_recipe
from wavevq.run import load_run

RECIPES = Path(__file__).parent.parent / "recipes"
SHORT = ("train.steps=2", "train.batch=2", "train.crop=4096", "evaluation.speakers=1", "evaluation.sampled=0")


@pytest.mark.parametrize(
    ("recipe", "folder", "rate", "hop", "speakers"),
    [
        ("digits", "fsdd", 8000, 64, 6),
        ("vctk", "vctk48_sample", 16_000, 64, 4),
        ("librispeech", "librispeech_sample", 16_000, 128, 49),
    ],
)
def test_shipped_recipes_train_on_real_speech_and_convert_it(
    recipe: str, folder: str, rate: int, hop: int, speakers: int, test_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    sets = [word for one in (f"data.root={test_data / folder}", *SHORT) for word in ("--set", one)]
    # The first layers are enough to be trained; thirty would only take longer.
    sets += ["--set", "model.decoder.layers=4", "--set", "evaluation.clips=2"]
    has_prior = load_recipe(RECIPES / f"{recipe}.yaml").prior is not None
    if has_prior:
        sets += ["--set", "prior.steps=2", "--set", "prior.batch=2", "--set", "prior.network.layers=2"]
    trained = CliRunner().invoke(main, ["train", str(RECIPES / f"{recipe}.yaml"), *sets, "--run", str(run)])
    assert trained.exit_code == 0, trained.output
    found = json.loads((run / "summary.json").read_text())
    # Two steps from the uniform distribution (8 bits), on the way to the marginal entropy
    assert found["marginal_bits"] < found["bits_per_sample"] < 8.5
    loaded = load_run(run)
    assert (loaded.rate, loaded.model.hop, len(loaded.speakers)) == (rate, hop, speakers)

    clip = min((test_data / folder).rglob("*.flac"), key=lambda path: path.stat().st_size)
    codes, out = tmp_path / "codes.npy", tmp_path / "out.wav"
    assert CliRunner().invoke(main, ["encode", str(clip), str(codes), "--run", str(run)]).exit_code == 0
    recording = read(clip)
    seconds = len(recording.samples) / recording.rate
    assert len(read_codes(codes)) == -(-round(seconds * rate) // hop)
    short = tmp_path / "short.npy"
    np.save(short, read_codes(codes)[:10])
    decoded = CliRunner().invoke(
        main, ["decode", str(short), str(out), "--speaker", loaded.speakers[-1], "--run", str(run)]
    )
    assert decoded.exit_code == 0, decoded.output
    assert len(read(out).samples) == 10 * hop

    if has_prior:
        new = CliRunner().invoke(
            main, ["sample", str(tmp_path / "new"), "--count", "2", "--seconds", "0.1", "--run", str(run)]
        )
        assert new.exit_code == 0, new.output
        assert len(list((tmp_path / "new").glob("*.wav"))) == 2


def test_the_shipped_recipe_of_images_trains_on_real_ones(test_data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    widths = ("model.encoder.channels=32", "model.decoder.channels=32")  # wide ones would only take longer
    short = ("train.steps=3", "train.batch=4", "prior.steps=2", "prior.batch=2", "prior.network.layers=2", *widths)
    few = test_data / "cifar10/cifar-10-batches-py"  # the official files in miniature
    sets = [f"data.root={few}", *short, "evaluation.speakers=1", "evaluation.sampled=2"]
    words = [word for one in sets for word in ("--set", one)]
    trained = CliRunner().invoke(main, ["train", str(RECIPES / "cifar10.yaml"), *words, "--run", str(run)])
    assert trained.exit_code == 0, trained.output
    assert "950 train, 50 val, 200 test images, 32 x 32 pixels, 10 classes" in trained.output
    found = json.loads((run / "summary.json").read_text())
    assert 7 < found["marginal_bits"] < 8
    assert found["marginal_bits"] / 2 < found["bits_per_dim"] < 12
    commands = (
        ["decode", str(tmp_path / "codes.npy"), str(tmp_path / "out.png")],
        ["sample", str(tmp_path / "new"), "--label", "ship", "--count", "2", "--sampler", "reference"],
    )
    write(tmp_path / "in.png", read_image(test_data / "cifar10/train_00.png")[:32])
    for words in (["encode", str(tmp_path / "in.png"), str(tmp_path / "codes.npy")], *commands):
        done = CliRunner().invoke(main, [*words, "--run", str(run)])
        assert done.exit_code == 0, done.output
    assert read_codes(tmp_path / "codes.npy", axes=(3,)).shape == (8, 8, 10)
    second = tmp_path / "second"
    sets = [f"data.run={run}", *short[:-2], "evaluation.sampled=2", "evaluation.clips=4"]
    words = [word for one in sets for word in ("--set", one)]
    trained = CliRunner().invoke(main, ["train", str(RECIPES / "cifar10_second.yaml"), *words, "--run", str(second)])
    assert trained.exit_code == 0, trained.output
    assert f"its codes: 8 x 8 x 10 of 512, by {run}" in trained.output
    for words in (
        ["encode", str(tmp_path / "in.png"), str(tmp_path / "two.npy")],
        ["decode", str(tmp_path / "two.npy"), str(tmp_path / "two.png")],
    ):
        done = CliRunner().invoke(main, [*words, "--run", str(second)])
        assert done.exit_code == 0, done.output
    assert read_codes(tmp_path / "two.npy", axes=(3,)).shape == (2, 2, 1)
    assert read_image(tmp_path / "two.png").shape == (32, 32, 3)
    assert read_image(tmp_path / "out.png").shape == (32, 32, 3)
    assert read_image(tmp_path / "new/sheet.png").shape == (36, 70, 3)

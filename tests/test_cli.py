"""The commands as a user types them: what they write, what they refuse, and that a refusal leaves nothing behind."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from click.testing import CliRunner, Result

import wavevq
from wavevq.cli import main
from wavevq.sampling import BACKENDS, PRECISIONS

RATE, HOP, K = 8000, 8, 16
ROOT = Path(__file__).parents[1]
TINY = {
    "data": {"kind": "folder", "root": "corpus", "rate": RATE, "held_out": 0.2},
    "model": {
        "encoder": {"kind": "waveform", "strides": [2, 2, 2], "channels": 8},
        "bottleneck": {"kind": "ema", "codes": K, "dim": 4},
        "decoder": {
            "kind": "wavenet",
            "layers": 3,
            "cycle": 3,
            "context_layers": 1,
            **dict.fromkeys(("residual", "gate", "skip", "context", "speaker_dim"), 8),
        },
    },
    "train": {"steps": 4, "batch": 4, "crop": 256, "warmup": 0, "log_every": 2, "validate_every": 2, "save_every": 2},
    "evaluation": {"sampled": 1, "sampled_seconds": 0.02},
}


# --- how the commands are called ----------------------------------------------------------------------------


def command(*words: Any) -> list[str]:
    """The installed command."""
    return [str(Path(sys.executable).with_name("wavevq")), *map(str, words)]


def call(*words: Any, input: bytes | None = None) -> Result:
    """The command in this process, which saves the seconds that importing torch takes."""
    return CliRunner().invoke(main, [str(word) for word in words], input=input)


def good(*words: Any, input: bytes | None = None) -> Result:
    result = call(*words, input=input)
    assert result.exit_code == 0, result.output
    return result


def refused(*words: Any, input: bytes | None = None) -> list[str]:
    """The lines of a refusal, which has exit code 2, shows no traceback and leaves every file as it was."""
    before = listing()
    result = call(*words, input=input)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout_bytes == b"" or words[0] == "train"  # which says what the corpus is first
    assert listing() == before
    # Bars and the name of the run may stand before the refusal.
    lines = [line for line in result.stderr.splitlines() if line.startswith("wavevq: ")]
    assert result.stderr.splitlines()[-len(lines) :] == lines
    return [line.removeprefix("wavevq: ") for line in lines]


def listing() -> dict[str, tuple[int, int]]:
    """Everything below the working directory, hidden files too."""
    return {
        str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) if path.is_file() else (0, 0)
        for path in Path().rglob("*")
    }


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, make_audio: Callable[..., Path]) -> Path:
    """A folder with a corpus, a recipe, and a run that `wavevq train` made of them."""
    home = tmp_path_factory.mktemp("home")
    for speaker, pitch in (("ann", 120.0), ("bob", 300.0)):
        for i in range(5):
            make_audio(home / "corpus" / speaker / f"{speaker}_{i}.wav", seconds=0.06 + 0.02 * i, pitch=pitch)
    (home / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    done = subprocess.run(command("train", "tiny.yaml"), cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    return home


@pytest.fixture
def here(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of the test's own with the trained run in it, and an input of 0.1 s, in.wav."""
    monkeypatch.delenv("WAVEVQ_RUN", raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(home / "runs", "runs")
    shutil.copytree(home / "corpus", "corpus")
    shutil.copy(home / "tiny.yaml", "tiny.yaml")
    shutil.copy("corpus/ann/ann_2.wav", "in.wav")
    return tmp_path


@pytest.fixture
def name(here: Path) -> str:
    """The run's name under runs/."""
    [run] = Path("runs").glob("tiny-*")
    return run.name


def codes_file(path: str, codes: Any) -> str:
    np.save(path, codes)
    return path


# --- the main job -------------------------------------------------------------------------------------------


def test_a_run_folder_holds_what_the_run_was(home: Path) -> None:
    [run] = (home / "runs").glob("tiny-*")
    assert re.fullmatch(r"tiny-\d{8}-\d{6}", run.name)
    resolved = yaml.safe_load((run / "recipe.yaml").read_text())
    assert resolved["train"]["steps"] == 4
    assert resolved["train"]["learning_rate"] == 4e-4  # every default is written out
    assert json.loads((run / "speakers.json").read_text()) == {
        "speakers": ["ann", "bob"],
        "about": {"ann": "", "bob": ""},
    }
    kinds = [json.loads(line)["kind"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert kinds.count("train") == kinds.count("validation") == 2
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-00000002", "step-00000004"]
    assert json.loads((run / "summary.json").read_text())["step"] == 4


def test_three_lines_as_they_stand(here: Path) -> None:
    """encode, decode and convert, installed, and the same from a checkout."""
    lines = "encode in.wav codes.npy", "decode codes.npy out.wav --speaker bob", "convert --speaker bob in.wav"
    env = os.environ | {"PYTHONPATH": ""}
    for line in lines:
        subprocess.run(command(*line.split()), check=True, env=env)
    codes = np.load("codes.npy", allow_pickle=False)
    assert (codes.dtype, codes.shape) == (np.int32, (100,))
    assert soundfile.info("out.wav").frames == 100 * HOP
    converted = Path("in_bob.wav")
    first = converted.read_bytes()
    converted.unlink()
    launcher = [sys.executable, str(ROOT / "cli.py"), *lines[2].split()]
    done = subprocess.run(launcher, check=True, env=env, capture_output=True, text=True)
    assert converted.read_bytes() == first
    assert done.stdout == ""
    assert re.search(r"^run: runs/tiny-\S+ \(the newest finished one", done.stderr)
    assert re.search(
        r"converted 1 file, 0.10 s of audio, in [\d.]+ s; sampling: [\d.]+ s, [\d.e+-]+ times real", done.stderr
    )
    assert done.stderr.splitlines()[-1] == "written: in_bob.wav"
    assert re.search(r"^sampler: cpu \(bfloat16 weights, \d threads?\)$", done.stderr, re.MULTILINE)


@pytest.mark.parametrize(
    ("file", "rate", "channels"),
    [
        ("in.wav", 8000, 1),
        ("in.wav", 11_025, 2),
        ("in.flac", 48_000, 1),
        ("in.flac", 44_100, 2),
        ("in.mp3", 22_050, 2),
        ("in.ogg", 16_000, 1),
        ("in.aiff", 5512, 3),
    ],
)
def test_conversion_keeps_the_duration(here: Path, name: str, file: str, rate: int, channels: int) -> None:
    time = np.arange(round(0.0803 * rate)) / rate
    soundfile.write(file, np.stack([np.sin(1000 * time + i) / 2 for i in range(channels)], axis=1), rate)
    good("convert", "--run", name, "--speaker", "ann", file, "out.flac")
    said = soundfile.info("out.flac")
    given = soundfile.read(file)[0]
    assert (said.samplerate, said.channels) == (RATE, 1)
    assert abs(said.frames / RATE - len(given) / rate) <= HOP / RATE


def test_the_seed_and_how_to_sample(here: Path, name: str) -> None:
    def said(*how: Any) -> bytes:
        good("convert", "--run", name, "--speaker", "ann", "in.wav", "out.wav", *how)
        return Path("out.wav").read_bytes()

    assert said() == said("--seed", 0)
    assert said("--seed", 1) != said("--seed", 2)
    # So little of either leaves the likeliest class, although four steps have hardly set it apart from the others.
    assert said("--seed", 1, "--temperature", 1e-12) == said("--seed", 2, "--temperature", 1e-12)
    assert said("--seed", 1, "--top-p", 1e-12) == said("--seed", 2, "--top-p", 1e-12)


def test_the_recipe_says_how_warm_where_nobody_does(here: Path, name: str, finished: Path) -> None:
    """Every command that draws from a run: at its recipe's temperature, unless told another."""
    shutil.copytree(finished / "run", "colder")
    recipe = Path("colder/recipe.yaml")
    tree = yaml.safe_load(recipe.read_text())
    tree["evaluation"]["temperature"] = 1e-12
    recipe.write_text(yaml.safe_dump(tree))
    good("encode", "--run", "colder", "in.wav", "codes.npy")
    good("compress", "--run", "colder", "in.wav", "in.wvq", "--speaker", "ann")

    def said(command: str, run: str, *how: Any) -> bytes:
        took = {"convert": "in.wav", "decode": "codes.npy", "decompress": "in.wvq"}[command]
        speaker = () if command == "decompress" else ("--speaker", "ann")
        good(command, "--run", run, *speaker, took, "out.wav", *how)
        return Path("out.wav").read_bytes()

    for command in ("convert", "decode", "decompress"):
        assert (
            said(command, "colder")
            == said(command, "colder", "--temperature", 1e-12)
            == said(command, "colder", "--seed", 1)
        )
        assert said(command, "colder", "--temperature", 1) != said(command, "colder")
    assert said("convert", name) == said("convert", name, "--temperature", 1)
    for folder, how in (("a", ()), ("b", ("--temperature", 1e-12)), ("c", ("--temperature", 1))):
        good("sample", folder, "--run", "colder", "--count", 2, "--seconds", 0.05, "--speaker", "ann", *how)
    drawn = [sorted(path.read_bytes() for path in Path(folder).glob("*.npy")) for folder in "abc"]
    assert drawn[0] == drawn[1] != drawn[2]


def test_one_speaker_leaves_an_adversary_nothing_to_tell(here: Path) -> None:
    """Told before there is a run folder, which would be in the way of the next try."""
    words = "train", "tiny.yaml", "--run", "alone", "--set", "data.without=[bob]"
    [line] = refused(*words, "--set", "model.adversary=0.1")
    assert line == "model.adversary 0.1: the corpus has one speaker; must be 0"


def test_standard_input_and_output(here: Path, name: str) -> None:
    good("encode", "--run", name, "in.wav", "codes.npy")
    audio = Path("in.wav").read_bytes()
    piped = good("encode", "--run", name, "-", "-", input=audio)
    assert piped.stdout_bytes == Path("codes.npy").read_bytes()
    good("decode", "--run", name, "codes.npy", "out.wav", "--speaker", "ann")
    raw = good("decode", "--run", name, "-", "-", "--speaker", "ann", input=piped.stdout_bytes).stdout_bytes
    assert np.array_equal(np.frombuffer(raw, "<i2"), soundfile.read("out.wav", dtype="int16")[0])
    good("convert", "--run", name, "-", "converted.wav", "--speaker", "ann", input=audio)
    assert soundfile.info("converted.wav").frames == soundfile.info("in.wav").frames


def test_a_real_pipe(here: Path, name: str) -> None:
    encode, decode = command("encode", "--run", name, "-", "-"), command("decode", "--speaker", "ann", "-", "-")
    with Path("in.wav").open("rb") as file:
        first = subprocess.run(encode, stdin=file, capture_output=True, check=True)
    env = os.environ | {"WAVEVQ_RUN": name}
    second = subprocess.run(decode, input=first.stdout, capture_output=True, check=True, env=env)
    assert len(second.stdout) == 2 * soundfile.info("in.wav").frames
    assert b"($WAVEVQ_RUN)" in second.stderr


def test_audio_comes_while_codes_arrive(here: Path, name: str) -> None:
    codes = np.arange(600, dtype="<i4") % K
    good("decode", "--run", name, codes_file("codes.npy", codes), "out.wav", "--speaker", "ann")
    data = Path("codes.npy").read_bytes()
    header = len(data) - codes.nbytes
    words = command("decode", "--run", name, "--speaker", "ann", "-", "-")
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        # A quarter of a second is 250 frames: 16 blocks of 16, and one frame that the last one's conditioning sees.
        process.stdin.write(data[: header + 257 * 4])
        process.stdin.flush()
        early = process.stdout.read(RATE // 4 * 2)  # would wait for ever
        process.stdin.write(data[header + 257 * 4 :])
        process.stdin.close()
        late = process.stdout.read()
    assert process.returncode == 0
    assert np.array_equal(np.frombuffer(early + late, "<i2"), soundfile.read("out.wav", dtype="int16")[0])


def test_a_reader_that_has_heard_enough(here: Path, name: str) -> None:
    codes_file("codes.npy", np.zeros(100_000, np.int32))  # 100 s
    words = command("decode", "--run", name, "--speaker", "ann", "codes.npy", "-")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        os.read(process.stdout.fileno(), 1000)
        process.stdout.close()
        said = process.stderr.read().splitlines()
    assert process.returncode == 1  # click's, of a broken pipe
    assert [line.split(":")[0] for line in said] == ["sampler"]


def test_codes_that_end_early(here: Path, name: str) -> None:
    codes_file("codes.npy", np.arange(600, dtype="<i4") % K)
    data = Path("codes.npy").read_bytes()
    decode = "decode", "--run", name, "--speaker", "ann", "-"
    whole = good(*decode, "-", input=data).stdout_bytes
    result = call(*decode, "-", input=data[:-1201])
    assert result.exit_code == 2
    assert result.stdout_bytes == whole[: len(result.stdout_bytes)]
    assert len(result.stdout_bytes) == RATE // 4 * 2
    told = "ends after 299 of 600 codes"
    assert re.search(f"^wavevq: .*: {told}; 0.25 s of audio have been written$", result.stderr, re.MULTILINE)
    for target, cut in (("-", data[:500]), ("out.wav", data[:-1201])):
        assert "ends after" in refused(*decode, target, input=cut)[0]
    assert "not a .npy file of codes" in refused(*decode, "-", input=data[:50])[0]
    assert "codes from 99 to 99" in refused(*decode, "-", input=data[:128] + bytes([99, 0, 0, 0]) + data[132:])[0]


def test_conversion_to_standard_output(here: Path, name: str) -> None:
    convert = "convert", "--run", name, "--speaker", "bob", "--seed", 5
    good(*convert, "in.wav", "out.wav")
    raw = good(*convert, "in.wav", "-").stdout_bytes
    assert np.array_equal(np.frombuffer(raw, "<i2"), soundfile.read("out.wav", dtype="int16")[0])


def test_the_sampler_and_its_precision(here: Path, name: str) -> None:
    convert = "convert", "--run", name, "--speaker", "bob", "in.wav", "out.wav"
    for sampler, precision in (("reference", "float32"), ("reference", "bfloat16"), ("cpu", "bfloat16")):
        told = good(*convert, "--sampler", sampler, "--precision", precision).stderr
        assert re.search(rf"^sampler: {sampler} \({precision} weights", told, re.MULTILINE)
    for option, known in (("--sampler", BACKENDS), ("--precision", PRECISIONS)):
        result = call(*convert, option, "fast")
        assert result.exit_code == 2
        assert f"'fast' is not one of {', '.join(map(repr, known))}" in result.stderr


def test_an_output_is_overwritten_whole(here: Path, name: str) -> None:
    Path("out.wav").write_text("old")
    good("convert", "--run", name, "--speaker", "ann", "in.wav", "out.wav")
    assert soundfile.info("out.wav").frames == soundfile.info("in.wav").frames
    assert not [path for path in listing() if Path(path).name.startswith(".") and ".lock" not in path]


# --- several files ------------------------------------------------------------------------------------------


def test_a_folder_there_and_back(here: Path, name: str) -> None:
    Path("corpus/ann/notes.txt").write_text("no audio")
    Path("corpus/.hidden.wav").write_text("no audio")
    encoded = good("encode", "--run", name, "corpus", "--out", "codes")
    inputs = sorted(path.relative_to("corpus").with_suffix("") for path in Path("corpus").rglob("*_*.wav"))
    assert sorted(path.relative_to("codes").with_suffix("") for path in Path("codes").rglob("*.npy")) == inputs
    assert re.search(r"encoded 10 files, 1.00 s of audio, in [\d.]+ s; encoding: ", encoded.stderr)
    assert encoded.stdout == ""
    decoded = good("decode", "--run", name, "codes", "--out", "codes", "--speaker", "bob")
    assert re.search(r"decoded 10 files, 1.00 s of audio", decoded.stderr)
    converted = good("convert", "--run", name, "corpus", "--out", "said", "--speaker", "bob")
    assert re.search(r"converted 10 files, 1.00 s of audio", converted.stderr)
    for path in inputs:
        source = Path("corpus", path).with_suffix(".wav")
        good("convert", "--run", name, "--speaker", "bob", source, "alone.wav")
        assert Path("said", path).with_suffix(".wav").read_bytes() == Path("alone.wav").read_bytes()
        assert soundfile.info(Path("codes", path).with_suffix(".wav")).frames % HOP == 0


def test_several_inputs(here: Path, name: str) -> None:
    good("convert", "--run", name, "--speaker", "bob", "in.wav", "corpus/ann", "--out", "said")
    assert sorted(os.listdir("said")) == [*(f"ann_{i}.wav" for i in range(5)), "in.wav"]  # noqa: PTH208
    # What lies in --out already is no input of a second call.
    good("convert", "--run", name, "--speaker", "bob", "corpus", "--out", "corpus/said")
    again = good("convert", "--run", name, "--speaker", "bob", "corpus", "--out", "corpus/said")
    assert "converted 10 files" in again.stderr


def test_one_bad_file_among_others(here: Path, name: str) -> None:
    Path("corpus/ann/broken.wav").write_text("no audio")
    result = call("convert", "--run", name, "--speaker", "bob", "corpus", "absent.wav", "--out", "said")
    assert result.exit_code == 2
    told = [line for line in result.stderr.splitlines() if line.startswith("wavevq: ")]
    assert len(told) == 2
    assert told[0].startswith("wavevq: corpus/ann/broken.wav: not an audio file")
    assert told[1].startswith("wavevq: absent.wav: cannot be read")
    assert len(list(Path("said").rglob("*.wav"))) == 10


def test_names_that_clash(here: Path, name: str) -> None:
    shutil.copy("corpus/ann/ann_1.wav", "corpus/ann/ann_1.aif")
    convert = "convert", "--run", name, "--speaker", "bob"
    [line] = refused(*convert, "corpus", "--out", "said")
    assert line == "said/ann/ann_1.wav: would be the output of both corpus/ann/ann_1.aif and corpus/ann/ann_1.wav"
    [line] = refused(*convert, "in.wav", "./in.wav", "--out", "said")
    assert line == "said/in.wav: would be the output of both in.wav and in.wav"
    assert refused(*convert, "in.wav", "--out", ".") == ["in.wav: is an input as well; name another output"]


# --- what is refused ----------------------------------------------------------------------------------------


def test_inputs_that_are_no_audio(here: Path, name: str) -> None:
    Path("text.wav").write_text("no audio")
    Path("empty.wav").write_bytes(b"")
    soundfile.write("no-samples.wav", np.zeros(0), RATE)
    soundfile.write("silence.wav", np.zeros(800), RATE)
    soundfile.write("nan.wav", np.array([0.1, np.nan, 0.2]), RATE, subtype="FLOAT")
    for file, says in {
        "absent.wav": "cannot be read (no such file or directory)",
        "text.wav": "not an audio file that can be read, such as wav, flac, ogg or mp3",
        "empty.wav": "not an audio file that can be read",
        "no-samples.wav": "holds no samples",
        "silence.wav": "holds only silence",
        "nan.wav": "holds samples that are NaN or infinite",
    }.items():
        for words in (("encode", file, "codes.npy"), ("convert", "--speaker", "ann", file)):
            [line] = refused(*words, "--run", name)
            assert line.startswith(f"{file}: {says}")
    [line] = refused("encode", "--run", name, "-", "-", input=b"no audio")
    assert "not an audio file" in line


def test_inputs_that_are_no_codes(here: Path, name: str) -> None:
    np.savez("archive.npy.npz", codes=np.arange(3))
    np.save("pickle.npy", np.array([{"a": 1}], object), allow_pickle=True)
    Path("text.npy").write_text("no codes")
    for file, says in {
        "absent.npy": "cannot be read (no such file or directory)",
        "text.npy": "not a .npy file of codes",
        "archive.npy.npz": "not a .npy file of codes",
        "pickle.npy": "holds object; codes are integers",
        "in.wav": "not a .npy file of codes",
        codes_file("high.npy", [0, K]): f"codes from 0 to {K}; the codebook of runs/{name} has 0 to {K - 1}",
        codes_file("low.npy", [-1, 0]): "codes from -1 to 0",
        codes_file("float.npy", [0.0]): "holds float64; codes are integers",
        codes_file("pairs.npy", [[1, 2]]): "has the shape [1, 2]; codes are one sequence of at least one",
        codes_file("none.npy", np.zeros(0, int)): "has the shape [0]",
    }.items():
        [line] = refused("decode", "--run", name, file, "out.wav", "--speaker", "ann")
        assert line.startswith(f"{file}: {says}")
    [line] = refused("info", "text.npy")
    assert line.startswith("text.npy: not a .npy file of codes")


def test_outputs_that_cannot_be(here: Path, name: str) -> None:
    Path("link.wav").symlink_to("in.wav")
    convert = "convert", "--run", name, "--speaker", "ann"
    encode = "encode", "--run", name
    assert refused(*convert, "in.wav", "in.wav") == ["in.wav: is an input as well; name another output"]
    assert refused(*convert, "in.wav", "link.wav") == ["link.wav: is an input as well; name another output"]
    assert refused(*convert, "in.wav", "none/out.wav") == ["none/out.wav: there is no folder none"]
    assert refused(*encode, "in.wav", "none/out.npy") == ["none/out.npy: there is no folder none"]
    assert refused(*encode, "in.wav", "--out", "none/out") == ["none/out: there is no folder none"]
    assert refused(*encode, "in.wav", "--out", "tiny.yaml") == ["tiny.yaml: is a file; --out names a folder"]
    assert refused(*encode, "in.wav", "in.wav2") == ["in.wav2: the suffix of codes must be .npy"]
    [line] = refused(*convert, "in.wav", "out.txt")
    assert line.startswith("out.txt: the suffix must be one of .wav, .flac")
    Path("folder.wav").mkdir()
    [line] = refused(*convert, "in.wav", "folder.wav")
    assert line == "folder.wav: is a folder; name a file in it, or give --out folder.wav"


def test_inputs_and_outputs_that_do_not_add_up(here: Path, name: str) -> None:
    convert = "convert", "--run", name, "--speaker", "ann"
    [line] = refused(*convert, "in.wav", "a.wav", "b.wav")
    assert line == "3 paths: give IN and OUT, or several inputs with --out DIR"
    [line] = refused(*convert, "corpus")
    assert line == "corpus: is a folder; say with --out DIR where its files' outputs go"
    [line] = refused("encode", "--run", name, "in.wav")
    assert line == "in.wav: say where its output goes: IN OUT, OUT being a file or -"
    [line] = refused(*convert, "-", input=b"")
    assert line.startswith("-: say where its output goes")
    [line] = refused(*convert, "-", "--out", ".", input=b"")
    assert line.startswith("-: standard input has no name")
    [line] = refused("decode", "--run", name, "corpus", "--out", ".", "--speaker", "ann")
    assert line == "corpus: no file below it ends in one of .npy"


def test_an_unknown_speaker(here: Path, name: str) -> None:
    codes_file("codes.npy", [1, 2])
    for words in (("convert", "in.wav"), ("decode", "codes.npy", "out.wav")):
        assert refused(*words, "--run", name, "--speaker", "carl") == [
            f"carl: not a speaker of runs/{name}; it knows ann, bob"
        ]


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--temperature", "0", "temperature 0.0: must be above 0 and finite"),
        ("--temperature", "nan", "temperature nan: must be above 0 and finite"),
        ("--top-p", "1.5", "top_p 1.5: must be above 0 and at most 1"),
        ("--seed", "-1", "seed -1: must be from 0 to"),
    ],
)
def test_sampling_that_cannot_be(here: Path, name: str, option: str, value: str, says: str) -> None:
    [line] = refused("convert", "--run", name, "--speaker", "ann", "in.wav", option, value)
    assert line.startswith(says)


def test_runs_that_are_broken(here: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = "encode", "in.wav", "codes.npy"
    [line] = refused(*encode, "--run", "none")
    assert line == "none: not a run folder, and there is no run of this name under runs/"
    [line] = refused(*encode, "--run", "corpus")
    assert line.startswith("corpus: not a run folder")
    monkeypatch.setenv("WAVEVQ_RUN", "none")
    assert refused(*encode)[0].startswith("none: not a run folder")
    monkeypatch.delenv("WAVEVQ_RUN")

    [weights] = Path("runs", name).glob("checkpoints/step-00000004/average.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    for words in (encode, ("convert", "--speaker", "ann", "in.wav")):
        [line] = refused(*words)  # found without --run, too
        assert line.startswith(f"{weights}: is not what was written")
    weights.write_bytes(whole)

    for file, content, says in (
        ("recipe.yaml", "data: [1", "cannot be read"),
        ("recipe.yaml", "- 1", "recipe: "),
        ("speakers.json", "{", "not a list of speakers"),
        ("checkpoints/step-00000004/state.json", "{", "not a checkpoint's state"),
    ):
        path = Path("runs", name, file)
        before = path.read_text()
        path.write_text(content)
        for words in ((*encode, "--run", name), ("info", name)):
            assert refused(*words)[0].startswith(f"{path}: {says}")
        path.write_text(before)
    Path("runs", name, "metrics.jsonl").write_text("{}x\n")
    assert refused("info", name) == [f"runs/{name}/metrics.jsonl: holds a line that is not JSON"]
    shutil.rmtree(Path("runs", name, "checkpoints"))
    assert refused(*encode, "--run", name) == [f"runs/{name}: holds no checkpoint yet; train it first"]
    shutil.rmtree("runs")
    [line] = refused(*encode)
    assert line == "no finished run of speech under runs/: train one (wavevq train RECIPE) or name one with --run"


@pytest.mark.parametrize(
    ("words", "says", "of"),
    [
        (["nope"], "No such command 'nope'.", ""),
        (["--nope"], "No such option", ""),
        (["convert", "in.wav"], "Missing option '--speaker'.", " convert"),
        (["decode", "codes.npy", "out.wav"], "Missing option '--speaker'.", " decode"),
        (["encode"], "Missing argument 'IN [OUT]'.", " encode"),
        (["sample", "--count", "0"], "Invalid value for '--count': 0", " sample"),
        (["train", "tiny.yaml", "--stage", "a\nb"], "Invalid value for '--stage'", " train"),
    ],
)
def test_a_command_line_that_cannot_be_is_told_in_one_line(here: Path, words: list[str], says: str, of: str) -> None:
    [line] = refused(*words)
    assert line.startswith(says)
    assert re.search(rf" \(\S+{of} --help tells more\)$", line)
    assert len(call(*words).output.splitlines()) == 1
    assert "Usage: " in call().output  # without a word the help is shown


# --- train --------------------------------------------------------------------------------------------------


def test_recipes_that_are_refused(here: Path) -> None:
    assert refused("train", "tny.yaml") == ["tny.yaml: there is no such recipe; there are tiny.yaml"]
    lines = refused("train", "tiny.yaml", "--set", "train.stps=2", "--set", "seed=x", "--set", "garbage")
    assert len(lines) == 3
    assert lines[0] == "--set garbage: must look like train.steps=200"
    assert {line.split(": ")[1] for line in lines[1:]} == {"train.stps", "seed"}
    assert refused("train", "tiny.yaml", "--set", "data.root=none") == ["data.root: there is no folder none"]
    result = call("train", "tiny.yaml", "--stage", "decoder")
    assert result.exit_code == 2
    assert "'decoder' is not one of 'vqvae', 'prior'" in result.stderr
    assert "prior: missing" in refused("train", "tiny.yaml", "--stage", "prior")[0]


def test_vctk_that_is_not_there_names_its_download(here: Path) -> None:
    [line] = refused("train", ROOT / "recipes/vctk.yaml")
    assert line == (
        "data.root: there is no folder data; name the corpus's with --set data.root=PATH, or fetch it: "
        "wavevq download vctk data"
    )


def test_run_folders_that_are_refused(here: Path, name: str) -> None:
    assert refused("train", "tiny.yaml", "--run", f"runs/{name}") == [
        f"runs/{name}: exists already; go on with --resume, or name another folder with --run"
    ]
    [line] = refused("train", "tiny.yaml", "--run", f"runs/{name}", "--resume", "--set", "seed=1")
    assert line == f"runs/{name}: was begun with seed = 0, the recipe now has 1"
    # Without --run the newest run of the recipe is meant.
    lines = refused("train", "tiny.yaml", "--resume", "--set", "train.steps=9", "--set", "model.jitter=0.1")
    assert [line.split(" = ")[0] for line in lines] == [
        f"runs/{name}: was begun with model.jitter",
        f"runs/{name}: was begun with train.steps",
    ]
    assert refused("train", "tiny.yaml", "--run", "none/x", "--resume") == [
        "none/x/recipe.yaml: cannot be read (no such file or directory)"
    ]
    shutil.copy("tiny.yaml", "other.yaml")
    assert refused("train", "other.yaml", "--resume") == [
        "runs/other-*: no run to resume; leave --resume out to begin one"
    ]
    assert refused("train", "tiny.yaml", "--run", "/") == ["--run /: names no folder that a run could be written to"]
    [line] = refused("train", "tiny.yaml", "--run", "in.wav/run")
    assert line.startswith("in.wav/run: cannot be made (")


def test_joined_corpora_may_move(here: Path) -> None:
    """A run is resumed and measured where each of its parts, and the phones of one, lie elsewhere by then."""
    tree = yaml.safe_load(Path("tiny.yaml").read_text())
    parts = [{"kind": "folder", "root": f"parts/{name}"} for name in ("ann", "bob")]
    tree["data"] = {"kind": "joined", "rate": 8000, "held_out": 0.4, "of": parts}
    Path("both.yaml").write_text(yaml.safe_dump({**tree, "prior": None}))
    for name in ("ann", "bob"):
        shutil.copytree(f"corpus/{name}", f"parts/{name}/{name}")
    words = "train", "both.yaml", "--run", "both", "--set", "train.steps=2"
    good(*words)
    Path("parts/ann").rename("moved")
    Path("aligned").mkdir()
    for path in Path("moved/ann").glob("*.wav"):
        Path("aligned", f"{path.stem}.ctm").write_text(f"{path.stem} A 0.00 0.02 AA\n{path.stem} A 0.02 0.02 M\n")
    places = "--set", "data.of.0.root=moved", "--set", "data.of.0.alignments=aligned"
    shutil.copytree("both", "again")
    assert refused(*words, "--resume") == ["data.root: there is no folder parts/ann"]
    good(*words, "--resume", *places)
    [line] = refused(*words, "--resume", *places, "--set", "data.of.0.kind=fsdd")
    assert line == "both: was begun with data.of.0.kind = 'folder', the recipe now has 'fsdd'"
    good("evaluate", "--run", "again", "--only", "codebook", *places)
    told = json.loads(Path("again/evaluation/evaluation.json").read_text())["command"]
    assert told.endswith("--set data.of.0.root=PATH --set data.of.0.alignments=PATH")


def test_overrides_and_the_folder_named(here: Path) -> None:
    sets = "--set", "train.steps=1", "--set", "data.held_out=0.3", "--set", "evaluation.sampled=0"
    words = "train", "tiny.yaml", "--stage", "vqvae", "--run", "new/one", *sets
    result = good(*words)
    assert "run folder: new/one" in result.stdout
    assert "validating: 3 clips\nvalidation at step 1" in result.stdout
    resolved = yaml.safe_load(Path("new/one/recipe.yaml").read_text())
    assert (resolved["train"]["steps"], resolved["data"]["held_out"]) == (1, 0.3)
    good("encode", "--run", "new/one", "in.wav", "codes.npy")
    # The length of the training decides the learning rate of every step, so it may not change; the pace may.
    good(*words, "--set", "train.log_every=1", "--resume")
    assert yaml.safe_load(Path("new/one/recipe.yaml").read_text())["train"]["log_every"] == 1


def test_ctrl_c_saves_and_tells_how_to_go_on(here: Path) -> None:
    plan = "train", "tiny.yaml", "--run", "runs/a b", "--set", "train.steps=100000"
    words = command(*plan)
    # Output to a file: a pipe that nobody reads would block the training.
    with Path("said").open("w") as said, Path("errors").open("w") as errors:
        process = subprocess.Popen(words, stdout=said, stderr=errors)
        try:
            metrics = Path("runs/a b/metrics.jsonl")
            deadline = time.monotonic() + 120
            while not (metrics.exists() and metrics.read_text()):
                assert process.poll() is None, Path("errors").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            other = call(*plan, "--resume")
            assert other.exit_code == 2
            assert other.stderr == "wavevq: runs/a b: another training is writing to this run folder\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
        finally:
            process.kill()
            process.wait()
    told = Path("errors").read_text().splitlines()[-1]
    again = shlex.split(told.removeprefix("wavevq: stopped and saved; to go on: "))
    assert again == ["wavevq", "train", "tiny.yaml", "--set", "train.steps=100000", "--run", "runs/a b", "--resume"]
    assert list(Path("runs/a b/checkpoints").glob("step-*"))
    assert "Traceback" not in Path("errors").read_text()


# --- the other commands -------------------------------------------------------------------------------------


def test_info_on_a_run(here: Path, name: str) -> None:
    text = good("info", name).stdout
    assert good("info").stdout == text
    for row in (
        r"codebook +ema, K = 16, D = 4",
        r"hop +8 samples",
        r"code rate +1000 codes/s",
        r"bit rate +4000 bits/s",  # log2(16) = 4
        r"speakers +2: ann, bob",
        r"training +step 4 of 4, finished",
        r"validation +after step 4",
        r"bits per sample +\d",
        r"parameters +[\d,]+",
    ):
        assert re.search(row, text)
    Path("runs", name, "summary.json").unlink()
    assert "step 4 of 4, not finished" in good("info", name).stdout


def test_info_on_codes(here: Path, name: str) -> None:
    codes_file("codes.npy", np.array([3, 5, 5, 3, 9] * 100, np.int32))
    text = good("info", "codes.npy", "--run", name).stdout
    for row in (r"shape +\[500\]", r"type +int32", r"codes +3 to 9", r"distinct codes +3", r"duration +0.500 s"):
        assert re.search(row, text)
    piped = good("info", "-", "--run", name, input=Path("codes.npy").read_bytes()).stdout
    assert piped.splitlines()[1:] == text.splitlines()[1:]
    codes_file("others.npy", [K])
    assert "these are not its codes" in good("info", "others.npy", "--run", name).stdout
    assert refused("info", "codes.npy", "--run", "none")[0].startswith("none: not a run folder")
    assert "not named: --run gives the duration" in good("info", "codes.npy").stdout


def test_help_is_quick_and_complete() -> None:
    code = "import sys, wavevq.cli as c; c.main(['--help'], standalone_mode=False); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for word in ("train", "encode", "decode", "convert", "info", "download", "demo"):
        assert re.search(rf"^  {word} ", done.stdout, re.MULTILINE)
        assert call(word, "--help").exit_code == 0
    assert good("--version").stdout.split()[-1] == wavevq.__version__


def test_download(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused("download", "timit", "data") == [
        "timit: unknown corpus; those that can be downloaded are vctk, librispeech, cifar10"
    ]
    asked: list[Any] = []
    monkeypatch.setattr("wavevq.data.download.download", lambda *words: asked.append(words) or Path(words[1], "x"))
    good("download", "vctk", "data")
    good("download", "librispeech", "data", "--subset", "dev-clean")
    assert asked == [("vctk", "data", "train-clean-100"), ("librispeech", "data", "dev-clean")]


def test_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    module = types.ModuleType("wavevq.demo")
    module.main = lambda folder, console: asked.append(folder)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wavevq.demo", module)
    good("demo")
    good("demo", "--out", "elsewhere")
    assert asked == [Path("demo"), Path("elsewhere")]


def test_training_is_not_shown_as_finished_before_it_is(here: Path, name: str) -> None:
    """A run that is still training is not the one that the commands take."""
    shutil.copytree(f"runs/{name}", "runs/later")
    Path("runs/later/summary.json").unlink()
    result = good("encode", "in.wav", "-")
    assert f"run: runs/{name} (" in result.stderr
    assert np.load(io.BytesIO(result.stdout_bytes)).dtype == np.int32

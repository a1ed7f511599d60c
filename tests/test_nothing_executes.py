"""Files from elsewhere are data: nothing in them is run, and nothing in them leads out of the folder they lie in."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import shutil
import stat
import struct
from collections.abc import Callable, Iterator
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trainings
import valid
import yaml
from click.testing import CliRunner
from PIL import Image

from wavevq import pixels, voices
from wavevq.cli import main
from wavevq.data import images
from wavevq.errors import WavevqError
from wavevq.folders import walk
from wavevq.plain import from_yaml
from wavevq.run_folder import find_run, read_speakers

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SOURCE = Path(__file__).parents[1] / "wavevq"


class Harmful:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def payloads(marker: Path) -> Iterator[bytes]:
    """Files that make a folder where they are unpickled, whatever reads them so."""
    for protocol in (0, 2, 5):
        yield pickle.dumps(Harmful(marker), protocol)
    # As Python 2 wrote it, with nothing but what CIFAR-10's files are made of: what is named alone tells it from them.
    path = os.fsencode(marker)
    yield b"\x80\x02cos\nmkdir\n(T" + struct.pack("<I", len(path)) + path + b"tR."
    array, checkpoint = io.BytesIO(), io.BytesIO()
    np.save(array, np.array([Harmful(marker)], object), allow_pickle=True)
    torch.save({"weights": Harmful(marker)}, checkpoint)
    yield array.getvalue()
    yield checkpoint.getvalue()
    yield f"!!python/object/apply:os.mkdir [{marker}]".encode()


@pytest.fixture
def place(files: Path, tmp_path: Path, cache: Path) -> Path:
    shutil.copytree(files, tmp_path / "valid")
    return tmp_path / "valid"


def refused(*words: object) -> str:
    """The one line with which a command ends, exit code 2."""
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("wavevq: ")]
    assert len(lines) == 1, result.output
    assert "Traceback" not in result.output
    return lines[0]


def test_the_payloads_are_armed(tmp_path: Path) -> None:
    every = list(payloads(tmp_path / "marker"))
    loads: list[Callable[[bytes], Any]] = [pickle.loads] * 4
    loads.append(lambda data: np.load(io.BytesIO(data), allow_pickle=True))
    loads.append(lambda data: torch.load(io.BytesIO(data), weights_only=False))
    loads.append(lambda data: yaml.unsafe_load(data))
    for load, data in zip(loads, every, strict=True):
        load(data)
        (tmp_path / "marker").rmdir()


def test_a_malicious_pickle_is_run_nowhere(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of every file that some reader opens."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    readers = __import__("fuzz").readers(place)
    assert readers.keys() == valid.MAKERS.keys()
    marker = tmp_path / "marker"
    every = list(payloads(marker))
    count = 0
    for name, opened in readers.items():
        for path in sorted((place / name).rglob("*")):
            if path.is_dir():
                continue
            kept = path.read_bytes()
            for data in every[count % len(every) :: len(every)] if name in ("run", "image run") else every:
                path.write_bytes(data)
                try:
                    opened(place / name, path)
                except WavevqError as error:
                    lines = str(error).count("\n")
                else:
                    lines = 0
                assert not lines or name == "recipes", path
                assert not marker.exists(), path
                count += 1
            path.write_bytes(kept)
    assert count > 300


@pytest.mark.parametrize(
    ("damaged", "words"),
    [
        ("codes/clip.npy", ("decode", "codes/clip.npy", "out.wav", "--run", "run", "--speaker", "ann")),
        ("codes/clip.npy", ("info", "codes/clip.npy")),
        ("audio/plain.wav", ("encode", "audio/plain.wav", "out.npy", "--run", "run")),
        ("packed/7.wvq", ("decompress", "packed/7.wvq", "out.wav", "--run", "packed/run")),
        ("packed/7.wvq", ("info", "packed/7.wvq")),
        ("pictures/a.png", ("encode", "pictures/a.png", "out.npy", "--run", "image run")),
        ("recipes/digits.yaml", ("train", "recipes/digits.yaml")),
        ("run/recipe.yaml", ("info", "run")),
        ("run/speakers.json", ("info", "run")),
        ("run/metrics.jsonl", ("info", "run")),
        ("run/speakers/eve.safetensors", ("info", "run")),
        ("run/checkpoints/step-00000001/state.json", ("info", "run")),
        ("run/checkpoints/step-00000001/average.safetensors", ("encode", "audio/plain.wav", "o.npy", "--run", "run")),
        ("run/prior/checkpoints/step-00000001/average.safetensors", ("sample", "made", "--run", "run")),
        ("run/prior/trained-on", ("sample", "made", "--run", "run")),
        ("evaluations/evaluation.json", ("scoreboard", "evaluations/evaluation.json")),
        ("official/data_batch_2", ("train", "recipes/cifar10.yaml", "--set", "data.root=official", "--run", "new")),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_command_refuses_a_malicious_pickle(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: str, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(place)
    every = list(payloads(tmp_path / "marker"))
    Path(damaged).write_bytes(every[len(" ".join(words)) % len(every)] + b"\n")  # now one, now another
    assert damaged.partition("/")[0] in refused(*words)
    assert not (tmp_path / "marker").exists()


def test_one_module_unpickles_and_one_reads_yaml() -> None:
    """And none evaluates text, or lets numpy or torch unpickle."""
    found: dict[str, set[str]] = {}
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = []
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [one.name for one in node.names] + [getattr(node, "module", None) or ""]
            elif isinstance(node, ast.Call):
                names = [ast.unparse(node.func)]
            for name in names:
                found.setdefault(name, set()).add(path.relative_to(SOURCE).as_posix())
    for name in ("eval", "exec", "compile", "__import__", "np.load", "torch.load", "pickle.load", "pickle.loads"):
        assert name not in found, found[name]
    for name in ("marshal", "shelve", "dill", "joblib", "cloudpickle", "runpy", "yaml.unsafe_load", "yaml.full_load"):
        assert name not in found, found[name]
    assert found["pickle"] == {"data/images.py", "evaluate/recognise.py"}  # which wants the name of an error alone
    assert found["UnpicklingError"] == {"evaluate/recognise.py"}
    assert found["yaml.load"] == {"plain.py"}  # with a safe loader, which the test of payloads tries


# --- YAML ---------------------------------------------------------------------------------------------------


def laughs(first: str, each: str) -> str:
    """Each line of which has nine times the one before: a billion, if they were all built."""
    return first + "".join(each.format(b, ", ".join([f"*{a}"] * 9)) for a, b in pairwise("abcdefghij"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: !!python/object/apply:os.system [id]", "tag .* is not read"),
        ("a: !!python/name:os.system", "tag .* is not read"),
        ("a: !!timestamp x", "tag .* is not read"),  # PyYAML: AttributeError
        ("a: !!bool x", "tag .* is not read"),  # PyYAML: KeyError
        ("train: {steps: 1}\ntrain: {steps: 2}", "'train' stands there twice"),
        ("a: &a [*a]", "it holds itself"),
        (laughs("a: &a [1, 2]\n", "{0}: &{0} [{1}]\n"), "20000 values"),
        (laughs("a: &a {x: 1}\n", "{0}: &{0} {{<<: [{1}]}}\n"), "20000 values"),
        ("[" * 3000, "more than 50 values within each other"),
        ("a: 0x" + "f" * 5000, "a number of 20000 bits"),
        ("x" * 2**18, "characters, of at most"),
    ],
    ids=range(11),
)  # fmt: skip
def test_yaml_is_values_and_no_more(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        from_yaml(text)
    assert "\n" not in str(caught.value)


def test_an_alias_may_repeat_a_section() -> None:
    assert from_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: *a") == {"a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": {"x": 1}}


# --- a run folder is its own world --------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["checkpoints", "speakers.json", "metrics.jsonl", "speakers/eve.safetensors"])
def test_a_link_out_of_a_run_folder_is_refused(place: Path, tmp_path: Path, part: str) -> None:
    path, outside = place / "run" / part, tmp_path / "outside"
    shutil.move(path, outside)
    path.symlink_to(outside)
    with pytest.raises(WavevqError, match=f"{part}: is a link that leads out of the run folder"):
        find_run(place / "run")
    said = refused("encode", place / "audio" / "plain.wav", tmp_path / "o.npy", "--run", place / "run")
    assert str(path) in said
    path.unlink()
    shutil.move(outside, place / "run" / "kept")
    path.symlink_to(place / "run" / "kept")  # within it, it may
    assert find_run(place / "run") == place / "run"


def test_a_run_folder_may_be_a_link_and_holds_no_pipe(place: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(place / "run")
    assert find_run(tmp_path / "linked") == tmp_path / "linked"
    (place / "run" / "metrics.jsonl").unlink()
    os.mkfifo(place / "run" / "metrics.jsonl")  # to read it would never end
    assert "metrics.jsonl: is neither a file nor a folder" in refused("info", place / "run")


@pytest.mark.parametrize(
    "name", ["../../evil", "/etc/passwd", "..", "", "a\nb", "\x1b]0;owned\x07", "\u2028", "\ud800"]
)
def test_a_speaker_that_is_a_path_or_steers_a_terminal_is_refused(place: Path, tmp_path: Path, name: str) -> None:
    known = json.loads((place / "run" / "speakers.json").read_text())
    (place / "run" / "speakers.json").write_text(json.dumps({**known, "speakers": ["ann", name]}))
    with pytest.raises(WavevqError, match=r"speakers\.json: .* cannot be a speaker's name") as caught:
        read_speakers(place / "run")
    assert "\n" not in str(caught.value)
    before = sorted(tmp_path.rglob("*"))
    audio = place / "audio" / "plain.wav"
    assert "\x1b" not in refused("convert", "--run", place / "run", "--speaker", name.replace("\ud800", "?"), audio)
    assert sorted(tmp_path.rglob("*")) == before


def test_names_are_shown_as_they_are(place: Path) -> None:
    """Rich would take them for its own markup, and fail over one that ends what has not begun."""
    known = json.loads((place / "run" / "speakers.json").read_text())
    (place / "run" / "speakers.json").write_text(json.dumps({**known, "speakers": ["[bold", "[red]x", "[@click=x]"]}))
    result = CliRunner().invoke(main, ["info", str(place / "run")])
    assert result.exit_code == 0, result.output
    assert "3: [bold, [red]x, [@click=x]" in result.output


@pytest.mark.parametrize("name", ["../eve", "/tmp/eve", ".hidden", "a/b", "a\nb", "", "x" * 65])
def test_an_enrolled_speaker_cannot_be_a_path(place: Path, name: str) -> None:
    with pytest.raises(WavevqError, match="cannot be a speaker's name"):
        voices.place(place / "run", name, ("ann",), False)
    said = refused("enroll", "--run", place / "run", "--", name, place / "audio" / "plain.wav")
    assert "cannot be a speaker's name" in said


@pytest.mark.parametrize("about", ["[]", "{}", '{"seconds": "x"}', "[" * 3000, "nul"])
def test_what_an_enrolled_speakers_file_tells_is_checked(place: Path, about: str) -> None:
    from safetensors.torch import save_file

    path = place / "run" / "speakers" / "eve.safetensors"
    save_file({"embedding": torch.zeros(5)}, path, {"format": str(voices.FORMAT), "weights": "", "about": about})
    assert "eve.safetensors: not a speaker's embedding" in refused("info", place / "run")


def test_a_recipe_that_does_not_fit_its_weights_builds_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Widths of terabytes, which a run folder from elsewhere may claim."""
    path = place / "run" / "recipe.yaml"
    tree = yaml.safe_load(path.read_text())
    for section, key, value, reason in (
        ("decoder", "residual", 2**20, "the recipe's model has"),
        ("decoder", "skip", 2**31, "the recipe's model has|too large"),
        ("bottleneck", "dim", 2**40, "the recipe's model has|too large"),
        ("decoder", "layers", 10**9, "less than or equal to 1000"),
        ("encoder", "strides", [2] * 10**4, "at most 16"),
    ):
        there = json.loads(json.dumps(tree))
        there["model"][section][key] = value
        path.write_text(yaml.safe_dump(there))
        said = refused("encode", place / "audio" / "plain.wav", place / "o.npy", "--run", place / "run")
        assert any(one in said for one in reason.split("|")), said


@pytest.mark.parametrize(
    ("run", "key", "value", "reason"),
    [
        ("image run", "data.size", 2**40, "less than or equal to 1024"),
        ("image run", "data.margin", 2**40, "less than or equal to 1024"),
        ("video run", "data.clips", 10**10, "less than or equal to 100000"),
        ("video run", "data.frames", 10**9, "less than or equal to 256"),
        ("video run", "data.size", 2**20, "less than or equal to 256"),
        ("run", "model.encoder.strides", [4] * 16, "a code stands for 4294967296 samples; at most 65536"),
    ],
)
def test_sizes_that_are_of_no_weight_are_bounded(place: Path, run: str, key: str, value: Any, reason: str) -> None:
    """What ``sample`` would make, and ``encode`` pad to; as a run folder from elsewhere may say."""
    path = place / run / "recipe.yaml"
    tree = yaml.safe_load(path.read_text())
    tree["prior"].pop("crop")
    tree["train"]["crop"] = 2**32
    if run != "run":
        tree["train"].pop("crop")  # it follows from other sizes
    *sections, last = key.split(".")
    reduce(dict.__getitem__, sections, tree)[last] = value
    path.write_text(yaml.safe_dump(tree))
    assert reason in refused("info", place / run)


def test_runs_that_are_made_of_each_others_codes_are_refused(place: Path) -> None:
    for one, other in (("run", "run"), ("run", "image run"), ("image run", "run")):
        second = (valid.RECIPES / "cifar10_second.yaml").read_text("utf-8")
        tree = {**yaml.safe_load(second), "data": {"kind": "codes", "run": str(place / other)}}
        (place / one / "recipe.yaml").write_text(yaml.safe_dump(tree))
        if (one, other) != ("run", "image run"):  # which alone is as it should be
            assert "is made of its own codes" in refused("info", place / one)


def test_a_recipe_whose_weights_no_machine_holds_is_refused(place: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "huge.yaml"
    for width, reason in ((2**18, "its model's weights are"), (2**31, "its model is too large")):
        tree = json.loads(json.dumps(trainings.RECIPE))
        tree["data"]["root"] = str(place / "corpus")
        tree["model"]["decoder"] |= {"residual": width, "gate": width}
        recipe.write_text(yaml.safe_dump(tree))
        assert reason in refused("train", recipe, "--run", tmp_path / f"run{width}")


# --- images and folders -------------------------------------------------------------------------------------


def test_postscript_is_handed_to_no_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would call Ghostscript for it, whatever the file's suffix."""
    ghost = tmp_path / "bin" / "gs"
    ghost.parent.mkdir()
    ghost.write_text(f"#!/bin/sh\ntouch '{tmp_path / 'marker'}'\n")
    ghost.chmod(ghost.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{ghost.parent}:{os.environ['PATH']}")
    path = tmp_path / "a.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n")
    with Image.open(path) as file, pytest.raises(OSError, match=r"image|ghostscript|gs"):
        file.load()  # no image comes of it, but
    assert (tmp_path / "marker").exists()
    (tmp_path / "marker").unlink()
    with pytest.raises(WavevqError, match=r"a\.png: not an image .*of no known format"):
        pixels.read(path, 8)
    assert not (tmp_path / "marker").exists()


def test_folders_that_hold_each_other_are_gone_through_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").touch()
    for one, other in (("a", "b"), ("b", "a")):
        for link in ("1", "2", "3"):
            (tmp_path / one / link).symlink_to(tmp_path / other)
            (tmp_path / one / f"top{link}").symlink_to(tmp_path)
    found = [(parent.resolve(), files) for parent, files in walk(tmp_path)]
    assert sorted(found) == [(tmp_path, []), (tmp_path / "a", ["x"]), (tmp_path / "b", ["x"])]


def test_a_table_of_images_with_odd_cells_is_refused_in_one_line(place: Path) -> None:
    for cell in ("x" * 200_000, '"7\n"', '"\x00"', "1e9", "9" * 5000):
        table = f"index,label,filename\n0,1,a\n{cell},1,b\n"
        (place / "strips" / "train.csv").write_text(table)
        with pytest.raises(WavevqError, match=r"train\.csv: not a table") as caught:
            images.cifar10(place / "strips", 0.3)
        assert "\n" not in str(caught.value)

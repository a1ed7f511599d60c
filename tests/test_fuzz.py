"""Damaged and random files: each reader ends in a result or in one line, quickly and in little memory.

``benchmarks/fuzz.py`` tries many thousands; here are some of each reader, and whatever was once found.
"""

from __future__ import annotations

import io
import shutil
import signal
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import trainings
import valid
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from wavevq import pixels, voices
from wavevq.audio import read
from wavevq.cli import main
from wavevq.codes_file import arriving_codes, read_codes, read_header, write_codes
from wavevq.data import corpora, image_store, images
from wavevq.data.alignments import read_phones
from wavevq.data.codes import load_codes
from wavevq.data.store import prepare
from wavevq.errors import WavevqError
from wavevq.plain import from_json, from_yaml
from wavevq.recipe import Recipe, parse_recipe
from wavevq.train.state import read_tensors

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
# Of each reader, by how long one takes: some 400 in all.
CASES = {
    **{"audio": 40, "codes": 80, "packed": 20, "recipes": 15, "run": 8, "transformer run": 6},
    **{"image run": 4, "coded run": 4, "video run": 6, "speakers": 12, "enrolled": 50, "pictures": 40, "resumed": 30},
    **{"alignments": 60, "corpus": 5, "classes": 3, "strips": 5, "official": 20, "stored": 20, "stored images": 10},
    **{"encoded": 20, "evaluations": 10},
}
quickly = settings(
    max_examples=80, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def fuzz() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        made = __import__("fuzz")
        before = signal.signal(signal.SIGPROF, made.too_long)
        yield made
        signal.signal(signal.SIGPROF, before)


@pytest.fixture(scope="module")
def readers(fuzz: Any, files: Path) -> dict[str, Any]:
    made: dict[str, Any] = fuzz.readers(files)
    return made


# --- damaged files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", CASES)
def test_a_valid_file_is_read(readers: dict[str, Any], files: Path, reader: str, cache: Path) -> None:
    # Codes of images come in no stream, images have no 16 bits, and beside packed files lies the run that packed them.
    others = {"grid.npy", "columns.npy", "deep.png"} | {path.name for path in (files / reader / "run").rglob("*")}
    for path in (path for path in (files / reader).rglob("*") if path.is_file() and path.name not in others):
        readers[reader](files / reader, path)


@pytest.mark.parametrize("reader", CASES)
def test_a_damaged_file_is_read_or_refused_in_one_line(
    fuzz: Any, readers: dict[str, Any], files: Path, reader: str, tmp_path: Path, cache: Path
) -> None:
    found = fuzz.Found()
    for number in range(CASES[reader]):
        with fuzz.placed(reader, number, files, tmp_path) as (folder, path):
            fuzz.tried(readers[reader], folder, path, found, number)
    assert (found.cases, found.crashes) == (CASES[reader], {})
    assert found.results + found.refused == CASES[reader]


def test_the_harness_sees_what_goes_wrong(fuzz: Any, tmp_path: Path) -> None:
    def lines(folder: Path, path: Path) -> None:
        raise WavevqError(f"{path}: one", "two")

    def claims(folder: Path, path: Path) -> None:
        np.empty(2**30, np.uint8)

    def hangs(folder: Path, path: Path) -> None:
        while True:
            try:
                sum(range(10**6))
            except Exception:  # as code does that swallows whatever interrupts it
                continue

    for opened, said in (
        (lambda folder, path: 1 / 0, "ZeroDivisionError"),
        (lines, "lines: "),
        (lambda folder, path: warnings.warn("odd", stacklevel=1), "odd"),
        (claims, " MiB"),
        (hangs, "more than 0.5 s"),
    ):
        found = fuzz.Found()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fuzz, "SECONDS", 0.5)
            fuzz.tried(opened, tmp_path, tmp_path / "x", found, 3)
        assert (found.cases, found.crashed, found.refused) == (1, 1, 0)
        assert said in next(iter(found.crashes.values()))


# --- properties ---------------------------------------------------------------------------------------------


def one_line(error: Exception, each: str = "") -> None:
    """Or, where ``each`` is given, several that begin with it."""
    assert all(line.startswith(each) for line in str(error).split("\n"))
    assert each or "\n" not in str(error)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


@quickly
@given(st.text() | st.text(alphabet="ab:-[]{}&*!|>'\"#%@`?, \n\t<=0"))
def test_any_text_is_yaml_or_refused(text: str) -> None:
    for reader in (from_yaml, from_json):
        try:
            reader(text)
        except ValueError as error:
            one_line(error)


@quickly
@given(st.data())
def test_any_tree_in_a_recipes_place_is_a_recipe_or_refused(data: st.DataObject) -> None:
    tree = parse_recipe(valid.PICTURES, "valid").model_dump(mode="json")
    node: Any = tree
    for _ in range(data.draw(st.integers(0, 3))):
        key = data.draw(st.sampled_from(sorted(node)))
        if not isinstance(node[key], dict) or not node[key]:
            break
        node = node[key]
    node[data.draw(st.sampled_from(sorted(node)) | st.text(max_size=5))] = data.draw(values)
    try:
        assert isinstance(parse_recipe(tree, "it.yaml"), Recipe)
    except WavevqError as error:
        one_line(error, "it.yaml: ")


@quickly
@given(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=30), st.integers(0, 200))
def test_codes_come_back_whole_or_are_told_to_be_cut(codes: list[int], cut: int) -> None:
    file = io.BytesIO()
    write_codes(file, np.array(codes))
    data = file.getvalue()
    assert read_codes(io.BytesIO(data), "it").tolist() == codes
    if cut < len(data):
        with pytest.raises(WavevqError, match=r"it: (not a \.npy file|ends after)"):
            read_codes(io.BytesIO(data[:cut]), "it")


@quickly
@given(
    st.binary(max_size=300), st.sampled_from([b"", b"RIFF\xff\xff\xff\xffWAVEfmt ", b"fLaC", b"OggS", b"FORM", b"ID3"])
)
def test_any_bytes_are_audio_or_refused(data: bytes, magic: bytes) -> None:
    try:
        found = read(io.BytesIO(magic + data))
    except WavevqError as error:
        one_line(error)
    else:
        assert len(found.samples) >= 1
        assert np.isfinite(found.samples).all()


@quickly
@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\xff\xd8\xff", b"GIF89a", b"II*\0", b"P6 9 9 255 "]),
)
def test_any_bytes_are_an_image_or_refused(data: bytes, magic: bytes) -> None:
    try:
        assert pixels.read(io.BytesIO(magic + data), 8).shape == (8, 8, 3)
    except WavevqError as error:
        one_line(error)


# --- what was found -----------------------------------------------------------------------------------------


def npy(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    padded = header.encode() + b" " * (-len(header) % 16) + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(padded)) + padded + data


@pytest.mark.parametrize(
    "data",
    [
        npy("{'descr': '<i4', 'fortran_order': False, 'shape': (4294967296,)}"),  # claims 16 GiB
        npy("{'descr': '<i4', 'fortran_order': False, 'shape': (9223372036854775808,)}"),  # OverflowError
        npy("{'descr': '<i4', 'fortran_order': False, 'shape': (%s,)}" % ("9" * 4000)),  # OverflowError, of a stream
        npy("{'descr': '<m8[s]', 'fortran_order': False, 'shape': (1,)}", bytes(8)),  # durations, taken for integers
        npy("{1: 2, 'descr': '<i4', 'shape': (1,)}"),  # TypeError
        npy("{[]: 2}"),  # TypeError
        npy("(" * 3000),  # MemoryError
        npy("-" * 9000 + "1"),  # RecursionError
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff{",  # a header of 4 GiB
    ],
    ids=range(9),
)  # fmt: skip
def test_codes_that_once_crashed(data: bytes) -> None:
    with pytest.raises(WavevqError, match=r"^it: ") as caught:
        read_codes(io.BytesIO(data), "it")
    assert "\n" not in str(caught.value)
    with pytest.raises(WavevqError, match=r"^it: "):
        for _ in arriving_codes(source := io.BytesIO(data), *read_header(source, "it"), "it"):
            pass


def wav(rate: int, samples: np.ndarray[Any, np.dtype[Any]], claimed: int | None = None) -> bytes:
    """Of float32 samples; claimed: bytes of them that the header tells of."""
    body = samples.astype("<f4").tobytes()
    size = len(body) if claimed is None else claimed
    form = struct.pack("<IHHIIHH", 16, 3, 1, rate, min(4 * rate, 2**32 - 1), 4, 32)
    head = b"RIFF" + struct.pack("<I", min(36 + size, 2**32 - 1)) + b"WAVEfmt " + form
    return head + b"data" + struct.pack("<I", size) + body


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (wav(8000, np.array([0.1, np.nan])), "NaN or infinite"),
        (wav(8000, np.array([0.1, 3e38])), "beyond 1e.09 times full scale"),  # overflowed in resampling
        (wav(1, np.ones(9)), "a rate of 1 Hz"),  # some bytes were hours at the model's rate
        (wav(2**32 - 1, np.ones(9)), "a rate of 4294967295 Hz|cannot be read|not an audio file"),
        (wav(8000, np.ones(0)), "holds no samples"),
        (b"", "not an audio file"),
    ],
    ids=["nan", "loud", "slow", "fast", "none", "empty"],
)
def test_audio_that_once_crashed(data: bytes, reason: str) -> None:
    with pytest.raises(WavevqError, match=reason):
        read(io.BytesIO(data))


def test_a_header_that_claims_gigabytes_takes_none(fuzz: Any, tmp_path: Path) -> None:
    """Of audio, images, codes and weights; what is there is read, or it is refused."""
    flac = io.BytesIO()
    soundfile.write(flac, valid.hum(), 8000, format="FLAC")
    claims = bytearray(flac.getvalue())
    claims[21:26] = bytes([claims[21] | 0x0F, 255, 255, 255, 255])  # 2**36 - 1 samples
    image = io.BytesIO()
    Image.fromarray(valid.noise(1, 8)[0]).save(image, "png")

    def png(side: int) -> bytes:
        header = b"IHDR" + struct.pack(">II", side, side) + image.getvalue()[24:29]
        return image.getvalue()[:12] + header + struct.pack(">I", zlib.crc32(header)) + image.getvalue()[33:]

    head = b'{"embedding": {"dtype": "F32", "shape": [1073741824], "data_offsets": [0, 4294967296]}}'
    weights = len(head).to_bytes(8, "little") + head + bytes(20)
    for name, data, opened in (
        ("a.safetensors", weights, lambda folder, path: voices.load(path)),
        ("b.safetensors", (2**32).to_bytes(8, "little") + head, lambda folder, path: load_codes(path, 1, 40)),
        ("c.safetensors", weights, lambda folder, path: read_tensors(path, torch.nn.Linear(1, 1))),
        ("a.wav", wav(8000, valid.hum(), 2**32 - 8), lambda folder, path: read(path)),
        ("a.flac", bytes(claims), lambda folder, path: read(path)),
        ("a.png", png(13_000), lambda folder, path: pixels.read(path)),
        ("b.png", png(7_000), lambda folder, path: pixels.read(path)),  # which Pillow would make, and not warn of
        (
            "a.npy",
            npy("{'descr': '<i8', 'fortran_order': False, 'shape': (536870912,)}"),
            lambda folder, path: read_codes(path),
        ),
    ):
        (tmp_path / name).write_bytes(data)
        found = fuzz.Found()
        fuzz.tried(opened, tmp_path, tmp_path / name, found, 0)
        assert (found.crashes, found.results + found.refused) == ({}, 1), name
        assert found.peak_mib < 50


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("clip.TextGrid", '"ooTextFile" "TextGrid" 0 1 <exists> 1e999 ', "not a TextGrid"),  # OverflowError
        (
            "clip.TextGrid",
            '"ooTextFile" "TextGrid" 0 1 <exists> 1 "IntervalTier" "phones" 0 1 1e999 ',
            "not a TextGrid",
        ),
        ("clip.TextGrid", '"ooTextFile" "TextGrid" 0 1 <exists> 1 "IntervalTier" "phones" 0 1 0 ', ""),  # no phone
        ("clip.phones.tsv", "", ""),
        ("clip.phones.tsv", "nan\t1\ta\n", "allowed is 0 <= start <= end"),
    ],
)
def test_alignments_that_once_crashed(tmp_path: Path, name: str, text: str, reason: str) -> None:
    (tmp_path / name).write_text(text)
    if reason:
        with pytest.raises(WavevqError, match=reason):
            read_phones(tmp_path / name, Path("clip.wav"))
    else:
        assert read_phones(tmp_path / name, Path("clip.wav")) == []


def test_a_header_of_safetensors_is_told_in_one_line(tmp_path: Path) -> None:
    """It is told as it stands there, where it names a type that is none."""
    head = b'{"embedding": {"dtype": "a\\nb\\u001b", "shape": [5], "data_offsets": [0, 20]}}'
    path = tmp_path / "eve.safetensors"
    path.write_bytes(len(head).to_bytes(8, "little") + head + bytes(20))
    for opened in (
        voices.load,
        lambda path: load_codes(path, 1, 40),
        lambda path: read_tensors(path, torch.nn.Linear(1, 1)),
    ):
        with pytest.raises(WavevqError, match=r"eve\.safetensors: .*a.nb") as caught:
            opened(path)
        one_line(caught.value)
        assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("optimizer", "0.exp_avg", torch.zeros(1)),  # the step after it failed, or went beyond the memory
        ("optimizer", "0.step", torch.zeros(2)),
        ("optimizer", "0.exp_avg_sq", torch.tensor(torch.nan)),
        ("optimizer", "0.exp_avg_sq", None),  # KeyError
        ("optimizer", "0.exp_avg_sq", torch.tensor(-1e-9)),  # whose root is NaN
        ("optimizer", "0.step", torch.tensor(-1.0)),  # a division by zero
        ("optimizer", "999.step", torch.zeros(())),
        ("optimizer", "x", torch.zeros(())),  # ValueError
        ("optimizer", "0.step", torch.zeros((), dtype=torch.float8_e4m3fn)),  # NotImplementedError
        ("meter", "nll", torch.zeros((), dtype=torch.float8_e4m3fn)),
        ("meter", "nll", torch.zeros(2)),  # RuntimeError, at the next line of the log
        ("meter", "\x1b[31m", torch.zeros(())),
    ],
)  # fmt: skip
def test_a_checkpoint_that_a_step_cannot_go_on_from_is_refused(
    files: Path, tmp_path: Path, name: str, key: str, value: torch.Tensor | None
) -> None:
    place = tmp_path / "step-00000001"
    shutil.copytree(files / "resumed" / place.name, place)
    state = trainings.tiny_state(parse_recipe(trainings.RECIPE, "valid"))
    state.load(place)
    path = place / f"{name}.safetensors"
    tensors = load_file(path)
    if value is None:
        del tensors[key]
    else:
        tensors[key] = value.expand(tensors[key].shape).contiguous() if key == "0.exp_avg_sq" else value
    save_file(tensors, path)
    trainings.seal(place)
    with pytest.raises(WavevqError, match=rf"{name}\.safetensors: ") as caught:
        state.load(place)
    assert "\x1b" not in str(caught.value)


# --- corpora with broken members ----------------------------------------------------------------------------


def test_a_corpus_with_broken_recordings_is_prepared_without_them(tmp_path: Path, cache: Path) -> None:
    """One in a hundred of each kind; and where all are broken, one line says so."""
    top = tmp_path / "corpus"
    valid.corpus(top.mkdir() or top)
    whole = (top / "ann" / "0.wav").read_bytes()
    for i in range(3, 100):
        (top / "ann" / f"{i}.wav").write_bytes(whole)
    bad = {
        "cut.wav": whole[:30],
        "text.wav": b"This is no audio.\n",
        "empty.wav": b"",
        "nan.wav": wav(8000, np.array([0.1, np.nan])),
        "rate.wav": wav(7, np.ones(100)),
        "silent.wav": wav(8000, np.zeros(100)),
        "loud.wav": wav(8000, np.array([1e38, -1e38])),
    }
    for name, data in bad.items():
        (top / "bob" / name).write_bytes(data)
    store = prepare(corpora.folder(top, 0.3, 0), 8000, 40.0)
    assert len(store.clips) == 103
    assert {one.name for one in store.broken} == {f"bob/{name}" for name in bad}
    told = store.describe().splitlines()
    assert "7 broken" in told[0]
    assert len([line for line in told if line.startswith("  left out: ")]) == 6  # five by name, and how many more
    for path in top.rglob("*.wav"):
        path.write_bytes(bad["text.wav"])
    words = ["train", str(valid.RECIPES / "digits.yaml"), "--set", f"data={{kind: folder, root: {top}}}"]
    result = CliRunner().invoke(main, [*words, "--run", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert [line for line in result.stderr.splitlines() if line.startswith("wavevq: ")] == [
        line for line in result.stderr.splitlines() if "none of 110 recordings can be trained on; the first" in line
    ]
    assert not (tmp_path / "run").exists()


def test_names_that_no_file_can_have_are_missing_or_refused_in_a_line(files: Path, tmp_path: Path, cache: Path) -> None:
    """pathlib raises for them: in a corpus's list, beside a recording of the longest name, and on the command line."""
    top = tmp_path / "corpus"
    valid.corpus(top.mkdir() or top)
    (top / "ann" / "0.wav").rename(top / "ann" / f"{'y' * 251}.wav")  # of its alignment, no file can have the name
    named = "y" * 251, "0", "x" * 5000, "x/" * 3000 + "1"
    (top / "train.txt").write_text("".join(f"ann/{one}.wav\n" for one in named).replace("ann/0", "bob/0"))
    listing = corpora.folder(top, 0.3, 0)
    assert ([len(listing.clips), listing.missing], listing.clips[0].phones) == ([4, 2], None)
    for words in (["info", "x" * 5000], ["encode", "x" * 5000, "o.npy", "--run", str(files / "run")]):
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 2
        (line,) = result.output.splitlines()
        assert line.startswith("wavevq: x")


def test_a_corpus_with_broken_images_is_prepared_without_them(tmp_path: Path, cache: Path) -> None:
    top = tmp_path / "pets"
    valid.classes(top.mkdir() or top)
    whole = (top / "cat" / "0.png").read_bytes()
    bad = {
        "cut.png": whole[:60],
        "text.png": b"no image",
        "empty.png": b"",
        "flipped.png": whole[:50] + b"\xff" + whole[51:],
    }
    for name, data in bad.items():
        (top / "dog" / name).write_bytes(data)
    store = image_store.prepare(images.folder(top, 8, 0.3, 0), 8)
    assert (len(store.pictures), {one.name for one in store.broken}) == (6, {f"dog/{name}" for name in bad})
    assert "4 broken" in store.describe()

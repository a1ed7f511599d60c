"""A speaker enrolled in a finished run: what it brings, that nothing else changes, and what is refused."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from rich.console import Console
from safetensors.torch import load_file, save_file

from wavevq import enroll as enrolling
from wavevq import voices
from wavevq.audio import read
from wavevq.cli import main
from wavevq.decoders import WaveNetDecoder
from wavevq.enroll import Piece, batch_of, bits, cut, fit, one_speaker, shares, speaking
from wavevq.generate import drawn_speakers
from wavevq.run import Run, load_run
from wavevq.train.state import AVERAGE

STEPS = 80


def call(*words: Any) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def good(*words: Any) -> str:
    result = call(*words)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*words: Any) -> str:
    result = call(*words)
    assert result.exit_code == 2, result.output
    return result.stderr.splitlines()[-1].removeprefix("wavevq: ")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, make_audio: Callable[..., Path]) -> Path:
    """A run trained on two hums, and clips of a third, eve, that lies between them."""
    place = tmp_path_factory.mktemp("enrolled")
    for folder, speaker, pitch in (("corpus", "ann", 120.0), ("corpus", "bob", 300.0), ("new", "eve", 190.0)):
        for i in range(6):
            make_audio(place / folder / speaker / f"{speaker}_{i}.wav", seconds=0.3, pitch=pitch)
    widths = dict.fromkeys(("residual", "gate", "skip", "head", "context", "speaker_dim"), 8)
    tree = {
        "data": {"kind": "folder", "root": str(place / "corpus"), "rate": 8000, "held_out": 0.3},
        "model": {
            "encoder": {"kind": "waveform", "strides": [4, 4], "channels": 8},
            "bottleneck": {"kind": "ema", "codes": 4, "dim": 4},
            "decoder": {"kind": "wavenet", "layers": 5, "cycle": 5, "context_layers": 1, "classes": 32, **widths},
        },
        "train": {"steps": STEPS, "batch": 4, "crop": 512, "learning_rate": 0.01, "average": 0.9, "warmup": 10},
        "evaluation": {"sampled": 0},
        "prior": {"steps": 2, "batch": 2, "crop": 16, "network": {"kind": "transformer", "layers": 1, "width": 16}},
    }
    (place / "tiny.yaml").write_text(yaml.safe_dump(tree))
    good("train", place / "tiny.yaml", "--run", place / "plain")
    shutil.copytree(place / "plain", place / "run")
    said = good("enroll", "eve", place / "new", "--run", place / "run", "--steps", 60)
    (place / "said").write_text(said)
    return place


@pytest.fixture(scope="module")
def run(place: Path) -> Run:
    return load_run(place / "run", "cpu")


def about(place: Path, name: str = "eve") -> dict[str, Any]:
    return dict(voices.load(place / "run" / "speakers" / f"{name}.safetensors").about)


# --- what it brings -----------------------------------------------------------------------------------------


def test_the_new_voice_is_heard_better_than_any_known_one(place: Path, run: Run) -> None:
    """On audio that neither fitted nor stopped it; and by the whole path that a run's users take."""
    told = about(place)
    assert told["bits_per_sample_after"] < told["bits_per_sample_before"] - 0.1  # of about 0.34 that it gains here
    assert (told["seconds"], len(told["clips"]), told["nearest"] in ("ann", "bob")) == (1.8, 6, True)
    said = (place / "said").read_text()
    assert "comparing 2 known speakers, then fitting: 60 steps at most\n" in said
    assert f"{told['bits_per_sample_before']:.4f} as {told['nearest']}, the best known speaker" in said
    assert f"{told['bits_per_sample_after']:.4f} as eve" in said
    pieces = cut(run, [read(path) for path in sorted((place / "new").rglob("*.wav"))])
    decoder = one_speaker(run.model.decoder)
    table = [run.model.decoder.voice(label) for label in range(3)]
    found = [bits(speaking(decoder, row), pieces, 4, run.model.hop) for row in table]
    each = dict(zip(run.speakers, found, strict=True))
    assert each["eve"] < min(each["ann"], each["bob"]) - 0.1
    assert told["nearest"] == min(("ann", "bob"), key=each.__getitem__)
    [*_, measured] = shares(pieces, 0)
    for name, when in ((told["nearest"], "before"), ("eve", "after")):
        voice = speaking(decoder, table[run.speakers.index(name)])
        assert bits(voice, measured, 4, run.model.hop) == pytest.approx(told[f"bits_per_sample_{when}"], rel=1e-5)


def test_the_commands_know_the_speaker(place: Path, run: Run, tmp_path: Path) -> None:
    assert (run.speakers, run.enrolled, run.trained_speakers) == (("ann", "bob", "eve"), ("eve",), ("ann", "bob"))
    source, made = place / "corpus" / "ann" / "ann_0.wav", tmp_path / "out.wav"
    good("convert", "--speaker", "eve", source, made, "--run", place / "run")
    assert len(read(made).samples) == 2400
    audio = run.convert(read(source), "eve")
    assert not np.array_equal(audio, run.convert(read(source), "ann"))
    codes = tmp_path / "codes.npy"
    good("encode", source, codes, "--run", place / "run")
    good("decode", codes, tmp_path / "decoded.wav", "--speaker", "eve", "--run", place / "run")
    shown = good("info", place / "run")
    assert "eve, 1.8 s" in shown
    assert "2: ann, bob" in shown


def test_nothing_else_of_the_run_changes(place: Path, run: Run) -> None:
    plain = load_run(place / "plain", "cpu")
    files = {path.relative_to(place / "run") for path in (place / "run").rglob("*") if path.is_file()}
    assert files - {Path("speakers/eve.safetensors")} == {
        path.relative_to(place / "plain") for path in (place / "plain").rglob("*") if path.is_file()
    }
    for one in files - {Path("speakers/eve.safetensors")}:
        assert (place / "run" / one).read_bytes() == (place / "plain" / one).read_bytes(), one
    before = plain.model.state_dict()
    for name, value in run.model.state_dict().items():
        if name == "decoder.added":
            assert not value[:2].any()
        else:
            rows = 2 if name == "decoder.speaker.weight" else None
            assert torch.equal(value[:rows] if rows else value, before[name]), name
    assert run.model.state_dict()["decoder.speaker.weight"].shape[0] == 3
    source = read(place / "corpus" / "ann" / "ann_0.wav")
    assert np.array_equal(run.convert(source, "bob"), plain.convert(source, "bob"))
    # What is drawn by the seed is drawn from the speakers of the training, as before.
    assert drawn_speakers(run, 20, 0) == drawn_speakers(plain, 20, 0)
    assert load_run(place / "run", "cpu", enrolled=False).speakers == ("ann", "bob")


def test_new_speech_in_the_new_voice_takes_nobodys_codes(run: Run) -> None:
    drawn, nobodys = (run.sample_codes([name], 12, seed=3)[0] for name in ("eve", None))
    assert np.array_equal(drawn, nobodys)


def test_the_run_in_memory_is_left_as_it_was(place: Path, tmp_path: Path) -> None:
    from wavevq.enroll import enroll

    shutil.copytree(place / "plain", tmp_path / "run")
    trained = load_run(tmp_path / "run", "cpu", enrolled=False)
    before = {name: value.clone() for name, value in trained.model.state_dict().items()}
    clips = [read(path) for path in sorted((place / "new").rglob("*.wav"))]
    results = [
        enroll(trained, name, clips, Console(quiet=True), steps=5, rate=0.03, seed=seed).embedding
        for name, seed in (("one", 1), ("same", 1), ("other", 2))
    ]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert all(torch.equal(value, before[name]) for name, value in trained.model.state_dict().items())
    assert all(p.requires_grad for p in trained.model.parameters())


# --- the fit ------------------------------------------------------------------------------------------------


def alone(run: Run, label: int) -> Run:
    """The run as if it knew that speaker only."""
    model = copy.deepcopy(run.model)
    model.decoder.speaker = torch.nn.Embedding(1, 8, _weight=run.model.decoder.speaker.weight.detach()[[label]])
    return replace(run, model=model, speakers=run.speakers[label : label + 1], enrolled=())


def test_a_known_speaker_is_found_again(place: Path) -> None:
    """Of a run that forgot bob, by bob's clips: soon most of the way to the voice that the training gave him."""
    run = load_run(place / "plain", "cpu")
    pieces = cut(run, [read(path) for path in sorted((place / "corpus" / "bob").glob("*.wav"))])
    found = fit(alone(run, 0), pieces, Console(quiet=True), 80, 0.03, 0)
    decoder = one_speaker(run.model.decoder)
    own = bits(speaking(decoder, run.model.decoder.voice(1)), shares(pieces, 0)[2], 4, run.model.hop)
    assert (found.nearest, found.start) == ("ann", "ann")
    assert found.before > own + 0.2
    assert found.after < own + (found.before - own) / 4


def test_the_best_is_kept_and_told_not_the_last(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the clips that stop it are heard ever worse after six steps, those that it is fitted on better."""
    monkeypatch.setattr(enrolling, "CHECK_EVERY", 1)
    monkeypatch.setattr(enrolling, "PATIENCE", 100)
    run = load_run(place / "plain", "cpu")
    pieces = cut(run, [read(path) for path in sorted((place / "new").rglob("*.wav"))])
    _, stopping, told = shares(pieces, 0)
    seen: list[float] = []

    def watched(decoder: WaveNetDecoder, some: Sequence[Piece], size: int, hop: int) -> float:
        found = bits(decoder, some, size, hop)
        if some == stopping:
            found += max(0, len(seen) - 6)
            seen.append(found)
        return found

    monkeypatch.setattr(enrolling, "bits", watched)
    found = fit(run, pieces, Console(quiet=True), 12, 0.03, 0)
    assert len(seen) == 13  # the start, and each step
    assert found.steps == int(np.argmin(seen)) == 6
    decoder = speaking(one_speaker(run.model.decoder), found.embedding)
    # Float32 sums of the same batches: the same numbers.
    assert found.after == bits(decoder, told, 4, run.model.hop)
    assert min(seen) == bits(decoder, stopping, 4, run.model.hop)


def test_a_voice_that_is_added_speaks_as_the_row_that_it_was_taken_from(place: Path) -> None:
    decoder = load_run(place / "plain", "cpu").model.decoder
    voices_before = [decoder.voice(label) for label in (0, 1)]
    decoder.add_speakers([voices_before[1]])
    decoder.add_speakers([voices_before[0]])
    z, frames = torch.randn(4, 3, 4, generator=torch.Generator().manual_seed(0)), torch.ones(4, 3, dtype=torch.bool)
    with torch.no_grad():
        gates = decoder.conditioning(z[:1].expand(4, -1, -1), torch.arange(4), frames)
    # Float32 sums of 16 terms in another order.
    torch.testing.assert_close(gates[2:], gates[[1, 0]], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(gates[0], gates[1], atol=1e-2)
    for label, same in ((0, 0), (1, 1), (2, 1), (3, 0)):
        torch.testing.assert_close(decoder.voice(label), voices_before[same])


# --- the shares ---------------------------------------------------------------------------------------------


def test_every_piece_is_in_one_share_and_clips_are_whole_but_at_borders() -> None:
    lengths = (7, 3, 12, 9, 9)
    pieces = [Piece(torch.zeros(4), torch.zeros(1, 2), 4, clip) for clip, n in enumerate(lengths) for _ in range(n)]
    for seed in range(5):
        parts = shares(pieces, seed)
        assert sorted(map(id, chain(*parts))) == sorted(map(id, pieces))
        assert [len(part) for part in parts] == [32, 4, 4]
        owners = [{piece.clip for piece in part} for part in parts]
        assert len(owners[0] & owners[1]) + len(owners[1] & owners[2]) <= 2
    assert [len(part) for part in shares(pieces[:3], 0)] == [1, 1, 1]
    assert shares(pieces, 0)[2] != shares(pieces, 1)[2]


def test_every_epoch_takes_every_piece_once() -> None:
    pieces = [Piece(torch.zeros(4), torch.zeros(1, 2), 4, clip) for clip in range(6)]
    taken = [piece.clip for step in range(3) for piece in batch_of(pieces, step, 4, seed=0)]
    assert sorted(taken[:6]) == sorted(taken[6:]) == list(range(6))
    assert taken[:6] != taken[6:]


def test_pieces_are_the_clips_as_training_hears_them(place: Path, run: Run) -> None:
    [first, *rest] = pieces = cut(run, [read(place / "new" / "eve" / f"eve_{i}.wav") for i in range(3)])
    assert [piece.length for piece in pieces] == [512, 512, 512, 512, 352] * 3
    assert {len(piece.x) // len(piece.z) for piece in pieces} == {run.model.hop}
    codes = run.encode(read(place / "new" / "eve" / "eve_0.wav"))
    with torch.no_grad():
        assert torch.equal(run.model.bottleneck.lookup(torch.from_numpy(codes))[:32], first.z)
    assert [piece.clip for piece in rest[3:6]] == [0, 1, 1]


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../eve", "a/b", "..", ".eve", "-", "", "a b", "x" * 65, "é" * 33, "\n", "a\\b", "_"])
def test_names_that_cannot_be(place: Path, name: str) -> None:
    line = refused("enroll", "--run", place / "run", "--", name, place / "new")
    assert "cannot be a speaker's name; allowed are" in line
    assert sorted(path.name for path in (place / "run" / "speakers").iterdir()) == ["eve.safetensors"]


def test_names_that_are_taken(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "run", tmp_path / "run")
    enroll = ("enroll", "--run", tmp_path / "run", "--steps", 1)
    trained = f"bob: is a speaker that {tmp_path / 'run'} was trained on; take another name"
    assert refused(*enroll, "bob", place / "new") == trained
    assert refused(*enroll, "--replace", "bob", place / "new") == trained
    file = tmp_path / "run" / "speakers" / "eve.safetensors"
    before = file.read_bytes()
    assert refused(*enroll, "eve", place / "new") == f"eve: is enrolled already, in {file}; --replace replaces it"
    assert file.read_bytes() == before
    good(*enroll, "cléo.2", place / "new")
    assert load_run(tmp_path / "run", "cpu").speakers == ("ann", "bob", "cléo.2", "eve")
    good(*enroll, "--replace", "eve", place / "new")
    assert file.read_bytes() != before


def test_too_little_audio(place: Path, tmp_path: Path, make_audio: Callable[..., Path]) -> None:
    short = make_audio(tmp_path / "short.wav", seconds=0.1)
    line = refused("enroll", "zoe", short, short, "--run", place / "run")  # given twice, it is there once
    assert line == "1 clips: hold too little to fit, stop and measure on; give 0.2 s"
    (tmp_path / "empty").mkdir()
    assert "no file below it ends in one of" in refused("enroll", "zoe", tmp_path / "empty", "--run", place / "run")
    assert "cannot be read" in refused("enroll", "zoe", tmp_path / "none.wav", "--run", place / "run")


def damage(path: Path, how: str) -> None:
    voice = voices.load(path)
    told = {"format": "2", "weights": voice.weights, "about": json.dumps(dict(voice.about))}
    if how == "cut":
        path.write_bytes(path.read_bytes()[:40])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "foreign":
        save_file({"embedding": voice.embedding}, path)
    elif how == "wide":
        save_file({"embedding": torch.zeros(9)}, path, told)
    elif how == "nameless":
        save_file({"other": torch.zeros(8)}, path, told)
    elif how == "stale":
        save_file({"embedding": voice.embedding}, path, {**told, "weights": "0" * 64})


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("cut", "not a speaker's embedding ("),
        ("empty", "not a speaker's embedding ("),
        ("foreign", "not a speaker's embedding of format 2"),
        ("wide", "its embedding is torch.float32 [9], the model's are torch.float32 [5, 16]"),
        ("nameless", "not a speaker's embedding ("),
        ("stale", "was fitted to other weights than the run has now; delete it or enroll again"),
    ],
)
def test_a_file_that_does_not_fit_is_named(place: Path, tmp_path: Path, how: str, says: str) -> None:
    shutil.copytree(place / "run", tmp_path / "run")
    file = tmp_path / "run" / "speakers" / "eve.safetensors"
    damage(file, how)
    source = place / "corpus" / "ann" / "ann_0.wav"
    line = refused("convert", "--speaker", "eve", source, tmp_path / "out.wav", "--run", tmp_path / "run")
    assert line.startswith(f"{file}: {says}")
    if how == "cut":  # and may be replaced
        good("enroll", "eve", place / "new", "--replace", "--steps", 1, "--run", tmp_path / "run")
        assert load_run(tmp_path / "run", "cpu").enrolled == ("eve",)


def test_a_file_with_a_known_speakers_name(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "run", tmp_path / "run")
    folder = tmp_path / "run" / "speakers"
    (folder / "eve.safetensors").rename(folder / "ann.safetensors")
    line = refused("convert", "--speaker", "ann", "x.wav", "--run", tmp_path / "run")
    assert line == f"{folder / 'ann.safetensors'}: ann is a speaker that the run was trained on; delete it"


def test_a_file_holds_numbers_and_words_only(place: Path) -> None:
    """safetensors and JSON, no pickle; the weights it belongs to are named."""
    path = place / "run" / "speakers" / "eve.safetensors"
    assert list(load_file(path)) == ["embedding"]
    newest = max((place / "run" / "checkpoints").glob("step-*"))
    assert voices.load(path).weights == hashlib.sha256((newest / AVERAGE).read_bytes()).hexdigest()

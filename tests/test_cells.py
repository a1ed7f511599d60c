"""The studies of benchmarks/: a cell is trained once, kept, and skipped while its recipe stays the same."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sounds
import yaml
from rich.console import Console

from wavevq import evaluation, experiment, pixels
from wavevq.errors import WavevqError
from wavevq.recipe import Cifar10, Folder, load_recipe
from wavevq.run import load_run

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return __import__("cells")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_corpus: Path) -> Path:
    """Where the command is given, with a recipe that takes a second."""
    widths = dict.fromkeys(("residual", "gate", "skip", "head", "context", "speaker_dim"), 4)
    tree = {
        "data": {"kind": "folder", "root": str(small_corpus), "rate": 8000, "held_out": 0.3},
        "model": {
            "encoder": {"kind": "waveform", "strides": [4, 4], "channels": 4},
            "bottleneck": {"kind": "ema", "codes": 8, "dim": 2},
            "decoder": {"kind": "wavenet", "layers": 2, "cycle": 2, "context_layers": 1, **widths},
        },
        "train": {"steps": 2, "batch": 2, "crop": 64},
        "evaluation": {"sampled": 0},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tree))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(cells: Any, place: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> dict[str, Any]:
    """What a study of three cells in two tables leaves, given as a command."""
    one, other = (cells.Cell(f"{n} steps", (f"train.steps={n}",), str(place / "tiny.yaml")) for n in (2, 3))
    plan = cells.Study("tried", {"first": [one], "both": [one, other]}, {"bits": "bits_per_sample", "none": "nothing"})
    monkeypatch.setattr(sys, "argv", ["tried.py", "--json", "found.json", "--threads", "1", *words])
    records: dict[str, Any] = cells.study(plan, "a study")
    return records


def test_a_cell_is_trained_once(
    cells: Any, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = []
    train = cells.finish

    def watched(recipe: Any, folder: Path, console: Any) -> Any:
        trained.append(folder.name)
        return train(recipe, folder, console)

    monkeypatch.setattr(cells, "finish", watched)
    first = command(cells, place, monkeypatch, "first")
    assert trained == ["2-steps"]
    both = command(cells, place, monkeypatch)
    assert trained == ["2-steps", "3-steps"]
    assert json.loads((place / "found.json").read_text()) == both
    assert both["2 steps"] == first["2 steps"]
    assert (both["3 steps"]["steps"], both["3 steps"]["command"]) == (
        3,
        "python benchmarks/tried.py --threads 1",
    )
    assert 0 < both["3 steps"]["figures"]["bits_per_sample"] < 20
    row = f"| 3 steps | {both['3 steps']['figures']['bits_per_sample']:.4g} | – |"
    assert row in capsys.readouterr().out.splitlines()
    # Another recipe is another cell, and nothing is trained by --list.
    text = (place / "tiny.yaml").read_text()
    (place / "tiny.yaml").write_text(text.replace("codes: 8", "codes: 4"))
    assert command(cells, place, monkeypatch, "--list") == {}
    # A default that is written out is no other.
    (place / "tiny.yaml").write_text(text + "seed: 0\n")
    assert command(cells, place, monkeypatch, "--list") == both


@pytest.mark.parametrize(
    ("words", "said"),
    [(["third"], "third: no such table; there are first, both"), (["--set", "seed=1"], "")],
)
def test_mistakes(
    cells: Any,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
) -> None:
    kept = ["--json", str(BENCHMARKS.parent / "results" / "tried.json")] if "--set" in words else []
    with pytest.raises(SystemExit) as ended:
        command(cells, place, monkeypatch, *words, *kept)
    assert ended.value.code == 2
    assert (said or "makes other cells than those of the results") in capsys.readouterr().err


def test_the_ablations_are_sound(cells: Any) -> None:
    """Every cell's recipe can be read, names are unique, and a table's cells differ."""
    plan = __import__("ablations")
    by_name: dict[str, str] = {}
    for table in plan.TABLES.values():
        digests = [cells.digest(cell.resolved()) for cell in table]
        assert len(set(digests)) == len(table)
        for cell, found in zip(table, digests, strict=True):
            assert by_name.setdefault(cell.name, found) == found


def test_the_collapse_lab_is_sound(cells: Any) -> None:
    """Every cell's recipe can be read and is another; figures have the same names with codes and without."""
    plan = __import__("collapse")
    every = [cell for table in plan.TABLES.values() for cell in table]
    assert len({cells.digest(cell.resolved()) for cell in every}) == len({cell.name for cell in every}) == len(every)
    for cell in every:
        resolved = cell.resolved()
        assert f"{resolved.model.decoder.layers} layers" in cell.name
        assert (resolved.model.bottleneck.codes is None) == ("VQ" not in cell.name)


@pytest.mark.parametrize(
    ("found", "rate", "gap", "given"),
    [
        ({"shuffled_codes_gap": 0.4, "perplexity": 32.0}, 5 / 16, 0.4, 3.0),
        ({"shuffled_latents_gap": 0.1, "rate_bits_per_sample": 0.5}, 0.5, 0.1, 2.5),
        ({"shuffled_latents_gap": 0.2}, None, 0.2, 3.0),
    ],
    ids=["vq", "vae", "autoencoder"],
)
def test_the_collapse_labs_figures(
    cells: Any, monkeypatch: pytest.MonkeyPatch, found: dict[str, float], rate: float | None, gap: float, given: float
) -> None:
    plan = __import__("collapse")
    validated = {"bits_per_sample": 3.0, "marginal_bits": 6.0, "wrong_speaker_gap": 0.3, **found}
    monkeypatch.setattr(plan, "validated", lambda run, store: validated)
    figures = plan.measure(SimpleNamespace(recipe=SimpleNamespace(hop=16)), None)
    assert (figures["shuffled_gap"], figures["bits_given_latents"]) == (gap, given)
    assert figures.get("rate_bits_per_sample") == rate
    assert figures.get("rate_bits_per_position") == (None if rate is None else 16 * rate)
    drawn = plan.picture({f"{name} 2 layers": {"figures": figures} for name in plan.BOTTLENECKS})
    every = len(plan.BOTTLENECKS)
    assert [len(axes.lines) for axes in drawn.axes] == [every, 0 if rate is None else every]


@pytest.mark.parametrize("name", ["ablations", "cifar", "collapse", "enroll", "joint", "phonemes", "search"])
def test_the_readme_holds_what_stands_in_the_results(cells: Any, name: str) -> None:
    plan = __import__(name).PLAN
    records = cells.records_in(BENCHMARKS.parent / "results" / f"{name}.json")
    assert records
    made = plan.block(records)
    page = (BENCHMARKS.parent / "README.md").read_text(encoding="utf-8")
    assert made in page, f"run: python benchmarks/{name}.py --list --markdown README.md"
    # Another result is another table.
    for record in records.values():
        record["figures"] = {key: 0.7 * value + 0.1 for key, value in record["figures"].items()}
    assert plan.block(records) not in page


def test_a_summary_takes_the_place_of_what_its_marks_enclose(
    cells: Any, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = place / "page.md"
    page.write_text("above <!-- benchmarks/tried.py -->old<!-- /benchmarks/tried.py --> below")
    made = command(cells, place, monkeypatch, "first", "--markdown", str(page))
    bits = f"{made['2 steps']['figures']['bits_per_sample']:.4g}"
    rows = f"| cell | bits | none |\n| --- | --- | --- |\n| 2 steps | {bits} | – |"
    first = f"above <!-- benchmarks/tried.py -->\n\n{rows}\n\n<!-- /benchmarks/tried.py --> below"
    assert page.read_text() == first
    # All that stands in the results, whichever tables are asked for, and however often.
    command(cells, place, monkeypatch, "both", "--markdown", str(page))
    command(cells, place, monkeypatch, "first", "--list", "--markdown", str(page))
    assert page.read_text().count("steps |") == 2
    page.write_text("no marks")
    with pytest.raises(SystemExit) as ended:
        command(cells, place, monkeypatch, "--list", "--markdown", str(page))
    assert ended.value.code == 2
    assert "has no lines <!-- benchmarks/tried.py --> and " in capsys.readouterr().err


def test_a_plot_lies_beside_the_run_folders(cells: Any, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = __import__("collapse")
    records = {"VAE 2 layers": {"figures": {"shuffled_gap": 0.5}}}
    monkeypatch.setattr(cells, "finished", lambda cell, given: records.get(cell.name))
    monkeypatch.setattr(sys, "argv", ["collapse.py", "--list", "--json", "found.json", "--out", "elsewhere/runs"])
    cells.study(plan.PLAN, "")
    assert [path.name for path in (place / "elsewhere" / "runs").iterdir()] == ["collapse.png"]


def test_seconds_of_steps_are_those_between_lines(cells: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """100 steps of 8 crops of a second, then 50: 800 s at 4 a second and 400 at 8."""
    speeds = [{"step": 100, "audio_seconds_per_second": 4.0}, {"step": 150, "audio_seconds_per_second": 8.0}]
    monkeypatch.setattr(cells, "read_metrics", lambda folder, kind: speeds)
    plan = SimpleNamespace(batch=8, crop=8000)
    recipe = SimpleNamespace(train=plan, data=Folder(kind="folder", rate=8000), prior=None)
    assert cells.seconds_of_steps(Path(), recipe) == 250


def test_seconds_of_steps_of_images(cells: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """100 steps of 8 images, then 50, at 4 and 8 a second; the prior's the same."""
    speeds = [{"step": 100, "images_per_second": 4.0}, {"step": 150, "images_per_second": 8.0}]
    monkeypatch.setattr(cells, "read_metrics", lambda folder, kind: speeds)
    plan, prior = SimpleNamespace(batch=8, crop=32), SimpleNamespace(batch=8, crop=8, joint=None)
    recipe = SimpleNamespace(train=plan, data=Cifar10(kind="cifar10"), prior=None, hop=4, space=(32, 32))
    assert cells.seconds_of_steps(Path(), recipe) == 250
    recipe.prior = prior
    assert cells.seconds_of_steps(Path(), recipe) == 500


def test_every_checkpoint_is_judged(cells: Any, place: Path) -> None:
    """The newest as the whole run is."""
    curve = __import__("curve").curve
    sounds.spoken_corpus(place / "spoken")
    tree = yaml.safe_load((place / "tiny.yaml").read_text())
    tree["data"] = {"kind": "fsdd", "root": str(place / "spoken"), "rate": sounds.RATE}
    tree["train"] |= {"steps": 4, "save_every": 2}
    tree["evaluation"]["judged"] = 9
    (place / "spoken.yaml").write_text(yaml.safe_dump(tree))
    run, quiet = place / "run", Console(quiet=True)
    experiment.train(load_recipe(place / "spoken.yaml"), run, False, quiet)
    rows = curve(run, ())["rows"]
    assert [row["step"] for row in rows] == [2, 4]
    judged = evaluation.evaluate(load_run(run), ["content", "speaker"], place / "judged", (), quiet)
    figures = {one.name: one.value for section in judged.sections for one in section.figures}
    assert rows[-1]["words_conversion"] == figures["words, conversion"]
    assert rows[-1]["target_conversion"] == figures["target, conversion"]
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(WavevqError, match="holds no checkpoint yet"):
        curve(run, ())


def test_a_minute_of_the_new_speaker_and_the_others(cells: Any) -> None:
    plan = __import__("enroll")
    clips = [SimpleNamespace(length=100 * (1 + i % 7), name=str(i)) for i in range(60)]
    run = SimpleNamespace(rate=50, recipe=SimpleNamespace(seed=0))
    given, unheard = plan.minute(run, SimpleNamespace(split={"val_unseen": clips}.__getitem__))
    assert sorted(one.name for one in given + unheard) == sorted(one.name for one in clips)
    seconds = [one.length / 50 for one in given]
    assert sum(seconds) - seconds[-1] < 60 <= sum(seconds)
    assert [one.name for one in plan.spread(clips * 2)] == [clips[(2 * i + 1) % 60].name for i in range(60)]


def test_clusters_learn_their_phones_from_training_clips(cells: Any, tmp_path: Path) -> None:
    import sounds

    plan = __import__("phonemes")
    store = sounds.spoken_corpus(tmp_path, phones=lambda take: True)
    other = {"p": "t", "t": "p"}
    swapped = (
        replace(one, phones=tuple((a, b, other[c]) for a, b, c in one.phones or ())) if one.split == "val" else one
        for one in store.clips
    )
    found = []
    for corpus in (store, replace(store, clips=tuple(swapped))):
        subject = sounds.subject_of(corpus)
        model = SimpleNamespace(**vars(subject.model), bottleneck=SimpleNamespace(codes=8), size=8)
        found.append(plan.clustered(replace(subject, model=model)))
    assert found[0] > 0.75  # most frames are told by their pitch
    assert found[0] + found[1] == pytest.approx(1)  # what was right is wrong


def test_a_corpus_elsewhere_is_the_same_cell(
    cells: Any, place: Path, monkeypatch: pytest.MonkeyPatch, small_corpus: Path
) -> None:
    text = (place / "tiny.yaml").read_text()
    (place / "tiny.yaml").write_text(text.replace(str(small_corpus), "nowhere"))
    made = command(cells, place, monkeypatch, "first", "--root", str(small_corpus))
    assert made["2 steps"]["command"].endswith("first --root PATH --threads 1")
    assert str(small_corpus) not in (place / "found.json").read_text()
    assert command(cells, place, monkeypatch, "--list", "first") == made


def test_each_speaker_is_left_out_once(cells: Any) -> None:
    plan = __import__("enroll")
    for speaker in plan.SPEAKERS:
        assert plan.cell(speaker).resolved().data.without == (speaker,)


def test_the_search_is_sound(cells: Any) -> None:
    """Every cell's recipe can be read and is another; a crop takes as much audio as the recipe's."""
    plan = __import__("search")
    every = {cell.name: cell.resolved() for table in plan.TABLES.values() for cell in table}
    assert len({cells.digest(recipe) for recipe in every.values()}) == len(every) >= 8
    assert all(plan.BASE in table or name in ("adversary", "longer", "second") for name, table in plan.TABLES.items())
    assert plan.WIDER in plan.TABLES["adversary"]
    audio = {recipe.train.batch * recipe.train.crop for recipe in every.values()}
    assert len(audio) == 1
    assert {recipe.hop for recipe in every.values()} == {32, 64, 128}
    # What has been trained is what the cells say by now, and what its record says.
    for name, record in cells.records_in(BENCHMARKS.parent / "results" / "search.json").items():
        told = load_recipe(BENCHMARKS.parent / record["recipe"], record["set"])
        assert record["recipe_sha256"] == cells.digest(every[name]) == cells.digest(told), name


def test_the_search_judges_as_the_evaluation_does_and_its_base_at_every_temperature(
    cells: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that says the right word in the right voice when it is not cold, and the wrong word when it is."""
    import sounds

    plan = __import__("search")
    store = sounds.spoken_corpus(tmp_path)

    def subject(run: Any, recipe: Any, console: Any) -> Any:
        loud = sounds.subject_of(store, hears=recipe.evaluation.temperature != 0.8)
        quiet = 0.2 if recipe.evaluation.temperature == 0.9 else 1.0

        def draw(codes: Any, voices: Any, streams: Any, what: str) -> Any:
            said = loud.draw(codes, voices, streams, what)
            return [one * quiet if what == "conversion" else one for one in said]

        return replace(loud, draw=draw)

    monkeypatch.setattr(plan, "subject_of", subject)
    monkeypatch.setattr(plan, "validated", lambda run, corpus: {"bits_per_sample": 3.0})
    run = SimpleNamespace(folder=Path("past-gain-12-dB"), recipe=plan.BASE.resolved())
    found = plan.measure(run, store)
    assert {name: found[name] for name in plan.SHARES} == dict.fromkeys(plan.SHARES, 1)
    assert found["words_conversion at 0.9"] == 1
    assert found["words_conversion at 0.8"] < 0.5
    assert [found[f"{plan.QUIET}{at}"] for at in ("", " at 0.8", " at 0.9")] == [0, 0, 1]
    assert found["target_conversion at 0.8"] == 1
    run.folder = Path("jitter-0.06")
    assert plan.measure(run, store).keys() == {"bits_per_sample", *plan.JUDGED}
    record = {"steps": 3000, "seconds_of_steps": 600.0, "figures": found}
    table = plan.summary({"jitter 0.06": {**record, "figures": {"bits_per_sample": 4.0}}, "past gain 12 dB": record})
    assert {len(row) for row in table} == {9}
    assert [row[0] for row in table[1:]] == [
        "past gain 12 dB",
        "its run, temperature 0.8",
        "its run, temperature 0.9",
        "jitter 0.06",
    ]
    assert table[1][1:] == ["3000", "10", "3.000", "–", "100", "100", "100", "0"]
    assert table[3][-4:] == ["100", "100", "100", "100"]


# --- images -------------------------------------------------------------------------------------------------


def test_the_cifar_study_from_training_to_its_figures(
    cells: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cells on images of 8 x 8 pixels: bounds that hold together, and the paper's figure where it has one."""
    plan = __import__("cifar")
    random = np.random.default_rng(0)
    for kind, light in (("dark", 60), ("light", 190)):
        (tmp_path / "corpus" / kind).mkdir(parents=True)
        for i in range(6):
            image = np.clip(light + random.normal(0, 20, (8, 8, 3)), 0, 255).astype(np.uint8)
            pixels.write(tmp_path / "corpus" / kind / f"{i}.png", image)
    tree = yaml.safe_load((BENCHMARKS.parent / plan.RECIPE).read_text())
    narrow = {"channels": 4, "residual": 4, "residual_blocks": 1}
    for part in ("encoder", "decoder"):
        tree["model"][part] |= narrow
    tree["model"]["encoder"]["groups"] = 2
    tree["data"] = {"kind": "images", "root": str(tmp_path / "corpus"), "size": 8, "held_out": 0.3}
    tree["prior"] |= {"steps": 2, "batch": 2, "network": {"kind": "pixelcnn", "layers": 2, "residual": 4, "gate": 4}}
    tree["evaluation"] = {"batch": 4, "sampled": 0}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tree))
    monkeypatch.chdir(tmp_path)
    tiny = [replace(cell, recipe=str(tmp_path / "tiny.yaml")) for cell in plan.TABLES["cifar"]]
    pixel = {"kind": "pixelcnn", "layers": 2, "residual": 4, "gate": 4, "head": 4, "context": 4}
    tree["model"]["decoder"], tree["model"]["encoder"]["groups"] = pixel, 1
    (tmp_path / "pixelcnn.yaml").write_text(yaml.safe_dump(tree))
    tiny += [replace(cell, recipe=str(tmp_path / "pixelcnn.yaml")) for cell in plan.TABLES["pixelcnn"]]
    words = ["cifar.py", "--json", "found.json", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", [*words, "--set", "train.steps=3", "--set", "train.batch=2"])
    records = cells.study(cells.Study("cifar", {"cifar": tiny}, plan.COLUMNS, plan.figures), "")
    assert records.keys() > plan.PAPER.keys()
    for name, record in records.items():
        found = record["figures"]
        assert record["data"] == "images, 8 pixels"
        assert found["images"] == 4
        both = found["distortion_bits_per_dim"] + found["rate_bits_per_dim"]
        if name == "VIMCO":  # of 50 samples: tighter than the mean of one
            assert 0 < found["bits_per_dim"] < both + 0.05
        else:
            assert found["bits_per_dim"] == pytest.approx(both)
    codes = records["VQ-VAE"]["figures"]
    # 2 x 2 positions of two codes of nine bits, for 8 x 8 x 3 values
    assert codes["rate_bits_per_dim"] == pytest.approx(2 * 2 * 2 * 9 / (8 * 8 * 3))
    learned = codes["learned_rate_bits_per_dim"] + codes["distortion_bits_per_dim"]
    assert codes["learned_bits_per_dim"] == pytest.approx(learned)
    rows = plan.summary({**records, "VIMCO, longer": records["VIMCO"]})
    names = [name for model in plan.PAPER for name in (f"{model}, the paper's", model)]
    assert [row[0] for row in rows] == [
        "model",
        *names,
        "VIMCO, longer",
        *(one.name for one in plan.TABLES["pixelcnn"]),
    ]
    assert {len(row) for row in rows} == {len(plan.COLUMNS) + 3}
    assert rows[1][:3] == ["VQ-VAE, the paper's", "250,000", "4.67"]
    assert rows[2][:4] == ["VQ-VAE", "3", f"{codes['bits_per_dim']:.4g}", f"{codes['learned_bits_per_dim']:.4g}"]
    timed = {**records["VAE"], "seconds_of_steps": 330.0}
    assert plan.summary({"VAE": timed})[3][-1] == "6"  # 5.5 minutes
    assert rows[6][3] == "–"  # VIMCO's codes have no prior of their own

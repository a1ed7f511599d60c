"""``wavevq evaluate``: the command on a tiny run, what it writes, and what it refuses."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
import trainings
from click.testing import CliRunner, Result
from rich.console import Console

from wavevq import evaluation
from wavevq.cli import main
from wavevq.errors import WavevqError
from wavevq.evaluate.metric import Figure, Findings, Listen, Metric, NotMeasured, optional
from wavevq.evaluate.metrics import METRICS
from wavevq.evaluate.record import read_record, write_record
from wavevq.evaluate.subject import SAMPLED, Subject
from wavevq.nn.encoders import valid
from wavevq.paper import CLAIMS, RUN
from wavevq.run import Run, load_run
from wavevq.vqvae import VqVae

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def run(finished: Path) -> Run:
    return load_run(finished / "run", "cpu")


@pytest.fixture(scope="module")
def subject(run: Run) -> Subject:
    return evaluation.subject_of(run, run.recipe, QUIET)


def call(finished: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["evaluate", "--run", str(finished / "run"), *words])


def only(monkeypatch: pytest.MonkeyPatch, **metrics: Metric) -> None:
    """There are no metrics but the codebook and these."""
    for name in METRICS.keys() - {"codebook"}:
        monkeypatch.delitem(METRICS, name)
    for name, metric in metrics.items():
        monkeypatch.setitem(METRICS, name, metric)


# --- the command --------------------------------------------------------------------------------------------


def test_every_metric_is_measured_and_written(finished: Path, run: Run, evaluated: Result) -> None:
    record = read_record(finished / "run" / evaluation.FOLDER / evaluation.RECORD)
    assert [section.metric for section in record.sections] == list(METRICS)
    assert (record.run, record.data, record.split, record.clips) == ("run", "folder", "val", 4)
    assert (record.model.step, record.prior and record.prior.step) == (trainings.STEPS, trainings.PRIOR["steps"])
    assert record.codes == run.recipe.model.bottleneck.codes
    assert str(finished) not in record.command
    assert "data.root=PATH" in record.command
    for section in record.sections:
        assert section.title in evaluated.output
        assert len({figure.name for figure in section.figures}) == len(section.figures)
    # The scoreboard's figures are there, but for those of words, which this corpus has not.
    wanted = {place for claim in CLAIMS for source in claim.sources if not source.study for place in source.places}
    known = {(section.metric, figure.name) for section in record.sections for figure in section.figures}
    assert {name.split(",")[0] for group, name in wanted - known if group != RUN} == {"words", "surely a word"}


@pytest.mark.usefixtures("evaluated")
def test_the_page_stands_alone(finished: Path) -> None:
    page = (finished / "run" / evaluation.FOLDER / evaluation.PAGE).read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources
    assert all(source.startswith("data:") for source in sources)
    assert not re.search(r"https?://|<script|<link|url\(", page)


def test_only_the_metrics_that_are_named(finished: Path) -> None:
    assert call(finished, "--only", "codebook", "--output", str(finished / "one")).exit_code == 0
    record = read_record(finished / "one" / evaluation.RECORD)
    assert [section.metric for section in record.sections] == ["codebook"]
    assert record.judged == 0
    used = record.figure("codebook", "used")
    assert used is not None
    assert used.value is not None
    assert 1 <= used.value <= record.codes
    assert record.figure("codebook", "nothing") is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "codebok"], "--only codebok: there is no such metric; there are codebook, likelihood"),
        (["--set", "train.steps=3"], "--set train.steps=3: may not change here"),
        (["--set", "evaluation.clips=3"], "--set evaluation.clips=3: may not change here"),
        (["--set", "evaluation.judged=0"], "evaluation.judged: 0 is not allowed"),
        (["--set", "data.root=/nowhere"], "/nowhere"),
        (["--output", __file__], f"{__file__}: cannot be made (file exists)"),
    ],
)
def test_mistakes_are_one_line(finished: Path, words: list[str], said: str) -> None:
    result = call(finished, *words)
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()[-1:]
    assert said in line
    assert "Traceback" not in result.output


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_work(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    only(monkeypatch, never=Metric("Never", lambda subject: pytest.fail("was measured")))
    result = call(finished, "--output", str(tmp_path))
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (2, f"wavevq: {tmp_path}: cannot be written to")


def test_another_corpus_is_refused(finished: Path, tmp_path: Path, make_audio: Callable[..., Path]) -> None:
    for i in range(4):
        make_audio(tmp_path / "corpus" / "zoe" / f"zoe_{i}.wav", seconds=0.1)
    result = call(finished, "--set", f"data.root={tmp_path / 'corpus'}")
    assert result.exit_code == 2
    assert "knows the speakers ann, bob; the corpus has zoe" in result.stderr


def test_a_run_without_codes_is_refused(run: Run) -> None:
    without = SimpleNamespace(bottleneck=SimpleNamespace(codes=None))
    with pytest.raises(WavevqError, match="has no codes"):
        evaluation.subject_of(replace(run, model=cast(VqVae, without)), run.recipe, QUIET)


# --- metrics that cannot be had -----------------------------------------------------------------------------


def needy(subject: Subject) -> Findings:
    optional("no_such_package")
    raise AssertionError("the package is there")


def test_a_missing_package_is_a_row_or_refused(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, needy=Metric("Needy one", needy, ("no_such_package",)))
    out = finished / "needy"
    result = call(finished, "--output", str(out))
    assert result.exit_code == 0
    assert "not measured: pip install wavevq[eval] (no_such_package is missing)" in result.output
    section = read_record(out / evaluation.RECORD).sections[-1]
    assert (section.metric, section.title, section.figures) == ("needy", "Needy one", ())
    assert "Needy one" in result.output
    assert section.note.startswith("not measured: pip install wavevq[eval]")
    assert "not measured: pip install wavevq[eval]" in " ".join((out / evaluation.PAGE).read_text().split())
    result = call(finished, "--only", "codebook", "--only", "needy")
    assert result.exit_code == 2
    assert result.stderr.splitlines() == ["wavevq: --only needy: pip install wavevq[eval] (no_such_package is missing)"]


def test_what_this_corpus_cannot_tell_is_a_row_or_refused(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mute(subject: Subject) -> Findings:
        raise NotMeasured("not measured: the corpus has no phones")

    only(monkeypatch, mute=Metric("Mute", mute))
    out = finished / "mute"
    assert call(finished, "--output", str(out)).exit_code == 0
    assert read_record(out / evaluation.RECORD).sections[-1].note == "not measured: the corpus has no phones"
    result = call(finished, "--only", "mute")
    assert result.exit_code == 2
    assert "--only mute: not measured: the corpus has no phones" in result.stderr


def test_what_a_package_itself_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "brittle.py").write_text("import no_such_package")
    (tmp_path / "broken.py").write_text("from json import nothing_of_the_kind")
    with pytest.raises(NotMeasured, match=r"pip install wavevq\[eval\] \(no_such_package is missing\)"):
        optional("brittle")
    with pytest.raises(NotMeasured, match=r"\(broken: cannot import name 'nothing_of_the_kind'"):
        optional("broken")


def test_phones_of_no_class_are_a_row(finished: Path, tmp_path: Path, make_audio: Callable[..., Path]) -> None:
    """Of another language, say: the other metrics are not lost."""
    for speaker, pitch in (("ann", 120.0), ("bob", 300.0)):
        for i in range(5):
            path = make_audio(tmp_path / "corpus" / speaker / f"{speaker}_{i}.wav", seconds=0.1, pitch=pitch)
            path.with_suffix(".phones.tsv").write_text("0\t0.05\tx1\n0.05\t0.1\tɮ\n", "utf-8")
    words = ["--set", f"data.root={tmp_path / 'corpus'}", "--set", "evaluation.judged=2", "--output", str(tmp_path)]
    assert call(finished, *words).exit_code == 0
    sections = {one.metric: one for one in read_record(tmp_path / evaluation.RECORD).sections}
    for name in ("phonemes", "abx"):
        assert "the phone 'x1' is in none of the 41 classes" in sections[name].note
    assert sections["codebook"].figures
    result = call(finished, *words, "--only", "phonemes")
    assert result.exit_code == 2
    assert "--only phonemes: not measured: ann/ann_" in result.stderr


def test_a_figure_is_a_finite_number() -> None:
    with pytest.raises(ValueError, match="gap is nan"):
        Figure("gap", float("nan"), "bits")
    assert Figure("gap", None, "bits", "one speaker").value is None


# --- what metrics share -------------------------------------------------------------------------------------


def test_sampled_versions_are_drawn_once_and_as_the_run_draws_them(run: Run) -> None:
    plan = run.recipe.evaluation.model_copy(update={"judged": 3, "judged_seconds": 0.06, "temperature": 1e-12})
    subject = evaluation.subject_of(run, run.recipe.model_copy(update={"evaluation": plan}), QUIET)
    assert subject.judged == 0
    said = subject.utterances
    assert len(said) == 3
    for version in SAMPLED:
        heard = subject.heard(version)
        assert subject.heard(version) is heard
        for one, audio in zip(said, heard, strict=True):
            voice = one.target if version == "conversion" else one.clip.speaker
            codes = one.donor if version == "shuffled codes" else one.codes
            assert voice is not None
            assert codes is not None
            alone = run.decode_batch([codes], [voice], seed=run.recipe.seed, temperature=1e-12, streams=[one.place])[0]
            np.testing.assert_array_equal(audio, alone[: len(one.samples)])
    assert subject.judged == 3
    cold, warm = (run.sample_codes(["bob"] * 9, 30, seed=run.recipe.seed, temperature=one) for one in (1e-12, 1.0))
    drawn = [one.tolist() for one in subject.compose(["bob"] * 9, 30)]  # the prior's codes, too
    assert drawn == [one.tolist() for one in cold] != [one.tolist() for one in warm]
    assert [take.kind for take in subject.takes(0)] == ["original", "sampled", "sampled", "sampled"]


def test_utterances_are_beginnings_of_clips_with_a_donor_and_a_target(subject: Subject) -> None:
    for one in subject.utterances:
        assert one.target in set(subject.speakers) - {one.clip.speaker}
        assert len(one.codes) == -(-len(one.samples) // subject.hop)
        assert one.donor is not None
        assert len(one.donor) == len(one.codes)
        np.testing.assert_array_equal(one.codes, subject.codes[one.place][: len(one.codes)])
        np.testing.assert_array_equal(one.samples, subject.store.audio(subject.clips[one.place])[: len(one.samples)])


def test_a_metric_may_show_what_it_heard(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def listening(subject: Subject) -> Findings:
        loudest = max(float(np.abs(audio).max()) for audio in subject.heard("reconstruction"))
        return Findings((Figure("peak", loudest, ""),), "How loud.", (Listen("First", subject.takes(0)),))

    monkeypatch.setitem(METRICS, "loud", Metric("Loud", listening))
    out = finished / "loud"
    assert call(finished, "--only", "loud", "--output", str(out), "--set", "evaluation.judged=2").exit_code == 0
    assert read_record(out / evaluation.RECORD).judged == 2
    assert (out / evaluation.PAGE).read_text().count("<audio") == 4


# --- the file -----------------------------------------------------------------------------------------------


def test_the_record_comes_back_as_it_was(finished: Path, tmp_path: Path) -> None:
    assert call(finished, "--only", "codebook", "--output", str(tmp_path)).exit_code == 0
    record = read_record(tmp_path / evaluation.RECORD)
    assert read_record(write_record(record, tmp_path / "again" / "e.json")) == record


@pytest.mark.parametrize(
    ("change", "said"),
    [({"format": 2}, "format"), ({"codes": "many"}, "codes"), ({"sections": [{}]}, "sections.0.metric")],
)
def test_what_is_no_record_is_refused(finished: Path, tmp_path: Path, change: dict[str, object], said: str) -> None:
    assert call(finished, "--only", "codebook", "--output", str(tmp_path)).exit_code == 0
    path = tmp_path / evaluation.RECORD
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(WavevqError, match=f"not an evaluation of format 1.*{said}"):
        read_record(path)
    path.write_text("{")
    with pytest.raises(WavevqError, match="not an evaluation"):
        read_record(path)
    with pytest.raises(WavevqError, match="cannot be read"):
        read_record(tmp_path / "nothing")


def test_equal_runs_give_equal_figures(subject: Subject, run: Run) -> None:
    again = evaluation.subject_of(run, run.recipe, QUIET)
    for name in METRICS.keys() - {"transcripts", "speaker_encoder"}:  # these need what is not installed with wavevq
        assert METRICS[name].measure(subject).figures == METRICS[name].measure(again).figures


# --- the likelihood's figures -------------------------------------------------------------------------------


def figures(subject: Subject) -> dict[str, Figure]:
    return {figure.name: figure for figure in METRICS["likelihood"].measure(subject).figures}


def test_rate_and_distortion_add_up(subject: Subject) -> None:
    found = {name: figure.value for name, figure in figures(subject).items()}
    samples = sum(clip.length for clip in subject.clips)
    codes = sum(map(len, subject.codes))
    assert subject.prior is not None
    whole = subject.sequences.batch(range(len(subject.clips)))
    with torch.no_grad():
        nats = subject.prior.nll(whole.x, whole.label, valid(whole.lengths, whole.x.shape[1])).sum().item()
    assert found["a code, uniform prior"] == math.log2(40)
    assert found["a code, learned prior"] == pytest.approx(nats / math.log(2) / codes, rel=1e-5)
    for prior in ("uniform", "learned"):
        rate, a_code = found[f"rate, {prior} prior"], found[f"a code, {prior} prior"]
        assert rate == pytest.approx((a_code or 0) * codes / samples)
        assert found[f"total, {prior} prior"] == pytest.approx((found["distortion"] or 0) + (rate or 0))
        assert found[f"bit rate, {prior} prior"] == pytest.approx((rate or 0) * subject.rate)
        own, best, whole_sum = (
            found[f"{name}, {prior} prior"] or 0 for name in ("encoder's term", "best term", "sum over all codes")
        )
        assert whole_sum <= best <= own
        assert found[f"gap, {prior} prior, a sample"] == pytest.approx(own - whole_sum)
    assert found["enumerated sequences"] == 40**2
    assert found["enumerated signals"] == len(subject.speakers)


def test_without_a_prior_its_figures_say_so(subject: Subject) -> None:
    before, found = figures(subject), figures(replace(subject, prior=None))
    assert {figure.note for figure in found.values() if figure.value is None} == {"the run has no prior"}
    for name in ("total, uniform prior", "a code, by frequency"):  # which need none
        assert found[name] == before[name]
    assert "gap, learned prior, mean" not in found


def test_more_sequences_than_may_be_tried_make_the_signals_shorter(subject: Subject) -> None:
    plan = subject.plan.model_copy(update={"enumerated": 40, "enumerated_clips": 1})
    found = figures(replace(subject, plan=plan))
    assert (found["enumerated sequences"].value, found["enumerated signals"].value) == (40, 2)


def test_fewer_sequences_than_one_code_has_are_not_summed(subject: Subject) -> None:
    found = figures(replace(subject, plan=subject.plan.model_copy(update={"enumerated": 39})))
    told = found["enumerated sequences"]
    assert (told.value, told.note) == (None, "evaluation.enumerated allows 39, and one code has 40")
    assert not [name for name in found if "gap, uniform" in name or "sum over" in name]

"""The learned prior: its likelihood, what it may see, how it is trained, and that sampling follows it."""

from __future__ import annotations

import copy
import io
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import trainings
import yaml
from click.testing import CliRunner, Result
from replay import faithful, mismatches
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor

from wavevq import experiment, generate
from wavevq.cli import main
from wavevq.contracts import Batch, Sampler
from wavevq.data.codes import CodeCrops, Codes, load_codes, save_codes
from wavevq.errors import WavevqError
from wavevq.evaluate.rate import measure
from wavevq.nn.transformer import Transformer
from wavevq.nn.wavenet import WaveNet
from wavevq.noise import CODES, derived, uniform
from wavevq.prior import CODES_A_CALL, Prior
from wavevq.recipe import load_recipe
from wavevq.run import load_run
from wavevq.run_folder import PRIOR, TRAINED_ON
from wavevq.sampling import choose
from wavevq.sampling.cpu import Cpu
from wavevq.sampling.reference import pick, rounded
from wavevq.sampling.transformer import Cached
from wavevq.train.state import AVERAGE

K, LABELS, DIM = 6, 3, 5
NETWORKS = ("wavenet", "transformer")


def network(kind: str, classes: int = K + 1) -> WaveNet | Transformer:
    torch.manual_seed(4)
    if kind == "transformer":
        return Transformer(classes=classes, layers=2, width=16, heads=2, cond_dim=DIM)
    return WaveNet(
        classes=classes, layers=4, cycle=3, kernel=2, residual=16, gate=16, skip=16, head=16, cond_dim=DIM
    )  # fmt: skip


def prior(kind: str, drop: float = 0.0, random: bool = True) -> Prior:
    made = Prior(network(kind), codes=K, labels=LABELS, dim=DIM, drop=drop, seed=0)
    if random:
        torch.nn.init.normal_(made.network.output.weight)
    return made.eval()


def sampler(made: Prior) -> Sampler:
    return choose("cpu", "float32") if isinstance(made.network, WaveNet) else Cached()


def batch(codes: Tensor, within: int = 0) -> Batch:
    rows = len(codes)
    return Batch(
        codes,
        torch.arange(rows) % LABELS,
        torch.full((rows,), codes.shape[1]),
        torch.arange(rows),
        torch.full((rows,), within),
    )


# --- likelihood ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NETWORKS)
def test_before_training_every_class_is_as_likely(kind: str) -> None:
    codes = torch.randint(K, (2, 9))
    nats = prior(kind, random=False).nll(codes, torch.tensor([0, 2]), torch.ones(2, 9, dtype=torch.bool))
    torch.testing.assert_close(nats, torch.full((2,), 9 * math.log(K + 1)))


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_code_is_predicted_from_earlier_ones_and_the_label_alone(kind: str) -> None:
    made = prior(kind).double()
    codes = torch.randint(K, (1, 12))
    label = torch.tensor([1])
    right = made.logits(codes, label)
    for place in range(12):
        changed = codes.clone()
        changed[0, place] = (codes[0, place] + 1) % K
        differs = (made.logits(changed, label) - right).abs().amax(-1)[0] > 1e-12
        assert not differs[: place + 1].any()
        if place < 11:
            assert differs[place + 1]
    assert ((made.logits(codes, label + 1) - right).abs().amax(-1) > 1e-12).all()


@pytest.mark.parametrize("kind", NETWORKS)
def test_what_is_masked_counts_for_nothing(kind: str) -> None:
    made = prior(kind)
    codes, label = torch.randint(K, (2, 10)), torch.tensor([0, 1])
    mask = torch.arange(10) < torch.tensor([[10], [4]])
    whole = made.nll(codes, label, mask)
    alone = made.nll(codes[1:, :4], label[1:], mask[1:, :4])
    # the same sums in products of other heights
    torch.testing.assert_close(whole[1:], alone, rtol=1e-5, atol=1e-5)
    grid = made.nll(codes.view(2, 2, 5), label, mask.view(2, 2, 5))  # any grid, in raster order
    torch.testing.assert_close(grid, whole)


def test_a_two_code_example_by_hand() -> None:
    """With the network's last bias alone, p(code) = softmax(bias), whatever came before."""
    made = prior("wavenet", random=False)
    made.network.output.bias.data[:] = torch.log(torch.tensor([0.5, 0.2, 0.1, 0.1, 0.04, 0.03, 0.03]))
    nats = made.nll(torch.tensor([[0, 1]]), torch.tensor([0]), torch.ones(1, 2, dtype=torch.bool))
    assert nats.item() == pytest.approx(-math.log(0.5) - math.log(0.2), rel=1e-5)


# --- training -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_row_from_within_a_clip_does_not_teach_its_first_code(kind: str) -> None:
    made = prior(kind)
    codes = torch.randint(K, (2, 8))
    within = made.training_loss(batch(codes, within=1)).loss
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[:, 0] = False
    expected = made.nll(codes, torch.tensor([0, 1]), mask).sum() / 14
    torch.testing.assert_close(within, expected)


@pytest.mark.parametrize("kind", NETWORKS)
def test_an_unconditional_prior_takes_any_label_for_nobodys(kind: str) -> None:
    made = Prior(network(kind), codes=K, labels=0, dim=DIM, drop=0.0, seed=0)
    torch.nn.init.normal_(made.network.output.weight)
    codes = torch.randint(K, (3, 8))
    one = batch(codes)
    assert one.label.tolist() == [0, 1, 2]
    nobody = replace(one, label=torch.zeros(3, dtype=torch.int64))
    assert torch.equal(made.training_loss(one).loss, made.training_loss(nobody).loss)
    held_out = Codes([np.append(row, K) for row in codes.numpy()], [0, 1, 2])
    found = measure(made.eval(), held_out, torch.ones(K, dtype=torch.int64), batch=2, others=None, seed=0)
    assert (found.wrong_label_gap, found.unlabelled) == (None, None)
    alike = made.sample(torch.tensor([0, 7]), uniform(0, [0], 30).expand(2, -1), sampler(made))
    assert torch.equal(alike[0], alike[1])


def test_labels_are_dropped_by_the_example_and_not_by_the_batch() -> None:
    made = prior("wavenet", drop=0.5)
    one = batch(torch.randint(K, (40, 6)))
    whole = made.training_loss(one).loss.item()
    parts = [made.training_loss(Batch(*(t[i : i + 1] for t in (one.x, one.label, one.lengths, one.index, one.cond)))).loss.item() for i in range(40)]  # fmt: skip  # noqa: E501
    assert whole == pytest.approx(np.mean(parts), rel=1e-5)
    shown = prior("wavenet", drop=0.0).training_loss(one).loss.item()
    assert whole != pytest.approx(shown, rel=1e-4)


@pytest.mark.parametrize("kind", NETWORKS)
def test_it_learns_what_can_be_learned_and_samples_it(kind: str) -> None:
    """Each label counts upwards from its own number, eight codes long: nothing is left to chance but the label."""
    codes = torch.stack([torch.tensor([(label + i) % K for i in range(8)] + [K]) for label in range(LABELS)])
    made = prior(kind, random=False).train()
    optimizer = torch.optim.Adam(made.parameters(), lr=0.01)
    for _ in range(150):
        made.training_loss(batch(codes)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    made.eval()
    with torch.no_grad():
        assert made.training_loss(batch(codes)).metrics["bits_per_code"] < 0.05
    drawn = made.sample(torch.arange(LABELS), uniform(0, range(LABELS), 60), sampler(made))
    assert [one.tolist() for one in drawn] == [row[:-1] for row in codes.tolist()]
    rest = made.sample(torch.arange(LABELS), uniform(0, range(LABELS), 60), sampler(made), prefix=codes[:, :3])
    assert [one.tolist() for one in rest] == [row[3:-1] for row in codes.tolist()]
    held_out = Codes([row.numpy() for row in codes], list(range(LABELS)))
    found = measure(made, held_out, torch.ones(K, dtype=torch.int64), batch=2, others=None, seed=0)
    assert found.bits < 0.1
    assert found.wrong_label_gap is not None and found.wrong_label_gap > 0.5  # noqa: PT018
    assert found.unigram == pytest.approx(math.log2(K))
    assert (found.sequences, found.codes) == (3, 24)


# --- sampling -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NETWORKS)
def test_replay_the_samples_are_the_picks_of_the_parallel_forward(kind: str) -> None:
    made = prior(kind).double()
    label, noise = torch.tensor([0, 2]), uniform(3, range(2), 50)
    c = made.label(label)[:, None].detach()
    if isinstance(made.network, WaveNet):
        drawn, _ = choose("reference", "float32")(made.network, made.network.conditioning(c).detach(), noise, 0.9, 0.95)
    else:
        drawn, _ = Cached()(made.network, c, noise, 0.9, 0.95)
    logits = made.logits(drawn, label).detach()
    again = [pick(one, u, 0.9, 0.95) for one, u in zip(logits.unbind(1), noise.T, strict=True)]
    assert torch.equal(drawn, torch.stack(again, 1))


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_clip_does_not_depend_on_the_others(kind: str) -> None:
    made = prior(kind)
    label, noise = torch.tensor([0, 2, 1]), uniform(3, range(3), 70)
    together = made.sample(label, noise, sampler(made))
    for row in range(3):
        [alone] = made.sample(label[row : row + 1], noise[row : row + 1], sampler(made))
        assert torch.equal(alone, together[row])
        assert (alone < K).all()


# --- codes --------------------------------------------------------------------------------------------------


def corpus() -> Codes:
    rng = np.random.default_rng(0)
    rows = [np.append(rng.integers(K, size=n), K) for n in (1, 7, 20, 45)]
    return Codes(rows, [0, 1, 2, 0])


def test_crops_are_a_function_of_the_step_and_cover_the_corpus() -> None:
    crops = CodeCrops(corpus(), crop=16, batch=4, rate=125, seed=3)
    assert crops.steps_per_epoch == 2  # 1 + 1 + 2 + 3 windows
    again = CodeCrops(corpus(), crop=16, batch=4, rate=125, seed=3)
    starts = set()
    for step in (0, 1, 5, 30):
        one = crops.at(step)
        assert torch.equal(one.x, again.at(step).x)
        for rank in range(2):
            assert torch.equal(crops.at(step, rank, 2).x, one.x[rank::2])
        for row, length, within, label in zip(one.x, one.lengths, one.cond, one.label, strict=True):
            sequences = [s for s, known in zip(corpus().sequences, corpus().labels, strict=True) if known == label]
            places = [
                start for s in sequences for start in range(len(s)) if np.array_equal(s[start:][:16], row[:length])
            ]
            assert places
            assert not row[length:].any()
            starts.add(int(within))
    assert starts == {0, 1}
    with pytest.raises(WavevqError, match=r"prior.batch 4 .* 3"):
        crops.at(0, 0, 3)


def test_codes_come_back_from_the_cache(tmp_path: Path) -> None:
    rows = [np.array([3, 1]), np.zeros(0, np.int64), np.array([5])]
    save_codes(tmp_path / "codes", rows)
    for kept, row in zip(load_codes(tmp_path / "codes", 3, 6), rows, strict=True):
        np.testing.assert_array_equal(kept, row)
    with pytest.raises(WavevqError, match="codes: not the codes of 2 examples"):
        load_codes(tmp_path / "codes", 2, 6)
    with pytest.raises(WavevqError, match="codes: codes from 1 to 5 are none of a codebook of 5"):
        load_codes(tmp_path / "codes", 3, 5)
    save_codes(tmp_path / "none", [])
    assert load_codes(tmp_path / "none", 0, 6) == []
    (tmp_path / "broken").write_bytes(b"codes")
    with pytest.raises(WavevqError, match="broken: not the codes of a corpus"):
        load_codes(tmp_path / "broken", 3, 6)


# --- the stage and the command ------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=NETWORKS)
def here(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, make_audio: Callable[..., Path]) -> Path:  # fmt: skip  # noqa: E501
    """A workplace with a run of both stages."""
    folder = trainings.workplace(tmp_path_factory.mktemp("prior"), make_audio)
    tree = yaml.safe_load((folder / "tiny.yaml").read_text())
    sizes = {"layers": 2, "cycle": 2, "residual": 4, "gate": 4, "skip": 4, "head": 4}
    if request.param == "transformer":
        sizes = {"layers": 1, "width": 8, "heads": 2}
    schedule = {"steps": 6, "batch": 3, "crop": 20, "validate_every": 3, "save_every": 2, "log_every": 2}
    tree["prior"] = {"network": {"kind": request.param, **sizes}, "speaker_dim": 4, **schedule}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tree))
    return folder


@pytest.fixture
def run(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(here)
    if not (here / "run").exists():
        with Path("said").open("w") as said, monkeypatch.context() as patch:
            patch.setenv("WAVEVQ_CACHE", "empty")
            experiment.train(load_recipe("tiny.yaml"), Path("run"), False, Console(file=said, width=200))
    return Path("run")


def test_a_recipe_trains_both_stages(run: Path) -> None:
    assert load_run(run).prior is not None
    figures = yaml.safe_load((run / PRIOR / "summary.json").read_text())
    assert figures["step"] == 6
    assert figures["bits_per_code"] < figures["uniform_bits"] + 1
    said = Path("said").read_text()
    for words in (
        "validating: 2 clips\nvalidation at step 14",
        "encoding 8 clips of the split train for the prior\nencoding 2 clips of the split val for the prior\n",
        "validating: the codes of 2 clips\nvalidation at step 6",
    ):
        assert words in said


def test_info_tells_of_the_prior(run: Path, tmp_path: Path) -> None:
    shown = CliRunner(env={"COLUMNS": "120"}).invoke(main, ["info", str(run)]).stdout
    wavenet = "wavenet, 2 layers, 4 channels" in shown
    assert wavenet or "transformer, 1 layers, 8 channels, 2 heads" in shown
    figures = yaml.safe_load((run / PRIOR / "summary.json").read_text())
    for row in (
        r"prior +\w+, .*, given the speaker or none *\n",
        r"prior's training +step 6 of 6, finished; batch 3 x 20 codes",
        r"prior's validation +after step 6",
        rf"bits per code +{figures['bits_per_code']:.4g}",
    ):
        assert re.search(row, shown)
    shutil.copytree(run, tmp_path / "begun")
    shutil.rmtree(tmp_path / "begun" / PRIOR)
    shown = CliRunner(env={"COLUMNS": "120"}).invoke(main, ["info", str(tmp_path / "begun")]).stdout
    assert "step 0 of 6, not finished; batch 3 x 20 codes" in shown
    assert "bits per code" not in shown


def test_stages_one_by_one_are_the_same_and_a_killed_one_goes_on(run: Path, tmp_path: Path) -> None:
    recipe = load_recipe("tiny.yaml")
    other = tmp_path / "other"
    experiment.train(recipe, other, False, Console(quiet=True), "vqvae")
    assert load_run(other).prior is None
    short = load_recipe("tiny.yaml", ("prior.steps=6", "prior.cooldown=0.5"))
    experiment.train(short, other, False, Console(quiet=True), "prior")
    with pytest.raises(WavevqError, match="has a prior already"):
        experiment.train(recipe, other, False, Console(quiet=True), "prior")
    # As if it had been killed before its last checkpoint.
    last = sorted((other / PRIOR / "checkpoints").iterdir())[-1]
    (last / "state.json").unlink()
    for path in last.iterdir():
        path.unlink()
    last.rmdir()
    experiment.train(recipe, other, True, Console(quiet=True))
    one, two = load_run(run).prior, load_run(other).prior
    assert one is not None
    assert two is not None
    for name, value in one[0].state_dict().items():
        assert torch.equal(value, two[0].state_dict()[name])


def test_a_batch_that_the_processes_cannot_share_is_told_before_the_vq_vae_trains(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    two = SimpleNamespace(world_size=2, broadcast=lambda folder: folder)
    monkeypatch.setattr(experiment, "launch", lambda recipe, console: two)
    with pytest.raises(WavevqError, match=r"^prior\.batch 3 must be a multiple of the number of processes, 2$"):
        experiment.train(load_recipe("tiny.yaml"), Path("shared"), False, Console(quiet=True))
    assert not Path("shared").exists()


def test_a_loaded_wavenet_prior_draws_by_the_fast_sampler(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, drawn = load_run(run, "cpu"), []
    assert loaded.prior is not None
    made, own = loaded.prior
    if isinstance(made.network, Transformer):
        assert isinstance(own, Cached)
        return
    kept = Cpu.__call__

    def recorded(self: Cpu, *arguments: Any, **keywords: Any) -> Any:
        found = kept(self, *arguments, **keywords)
        drawn.append(found[0])
        return found

    monkeypatch.setattr(Cpu, "__call__", recorded)
    asked = load_run(run, sampler="cpu").prior
    assert asked is not None
    assert own == asked[1] == Cpu("bfloat16")
    frames = 2 * CODES_A_CALL
    codes = loaded.sample_codes(["bob", "ann", None], frames, seed=6, temperature=1.1)
    every = torch.cat(drawn, 1)
    assert all(row[: len(one)].tolist() == one.tolist() for row, one in zip(every, codes, strict=True))
    noise = uniform(derived(6, CODES), range(3), frames)[:, : every.shape[1]]
    label = torch.tensor([loaded.speaker("bob"), loaded.speaker("ann"), made.nobody])
    with torch.no_grad():
        cond = made.conditioning(label)
    # No top-p: classes that training never saw are equally likely, and rounding alone would order them.
    assert faithful(*mismatches(rounded(made.network), cond, every, noise, 1.1))


def test_guidance_from_the_command_line(run: Path, tmp_path: Path) -> None:
    words = ["sample", "--run", str(run), "--count", "2", "--seconds", "0.05", "--seed", "4"]
    wavenet = isinstance(load_run(run).prior[0].network, WaveNet)  # type: ignore[index]

    def sampled(place: str, *more: str) -> Result:
        return CliRunner().invoke(main, [*words, *more, str(tmp_path / place)])

    result = sampled("guided", "--guidance", "2.5")
    assert result.exit_code == 0, result.stderr
    assert "sampler: cpu (bfloat16 weights" in result.stderr  # the decoder's
    slow = "reference (bfloat16 weights)" if wavenet else "transformer with a key-value cache (float32 weights)"
    assert f"codes: {slow}, guidance 2.5" in result.stderr
    assert sampled("asked", "--guidance", "2.5", "--sampler", "reference").exit_code == 0
    result = sampled("fast", "--guidance", "2.5", "--sampler", "cpu")
    assert result.exit_code == (2 if wavenet else 0)  # a transformer's codes are drawn by no WaveNet sampler
    if wavenet:
        assert re.search(r"^wavevq: guidance 2.5: sampler cpu .* cannot; give auto or reference$", result.stderr, re.M)
        assert not (tmp_path / "fast").exists()
    for name in ("001.npy", "002.npy"):
        assert (tmp_path / "guided" / name).read_bytes() == (tmp_path / "asked" / name).read_bytes()
    for wrong in ("-1", "nan", "inf"):
        result = sampled("wrong", "--guidance", wrong)
        assert result.exit_code == 2
        assert f"guidance {float(wrong)}: must be 0 or above" in result.stderr


def test_guidance_that_a_prior_cannot_have(run: Path) -> None:
    loaded = load_run(run)
    assert loaded.prior is not None
    made, own = loaded.prior
    with pytest.raises(WavevqError, match="guidance 2: wants a speaker for every clip"):
        loaded.sample_codes(["ann", None], 5, guidance=2)
    undropped = copy.copy(made)
    undropped.drop = 0.0
    with pytest.raises(WavevqError, match=r"guidance 2: the prior of run was never trained without a speaker"):
        replace(loaded, prior=(undropped, own)).sample_codes(["ann"], 5, guidance=2)
    unlabelled = copy.copy(made)
    unlabelled.labels = 0
    with pytest.raises(WavevqError, match=r"guidance 2: the prior of run knows no speakers"):
        replace(loaded, prior=(unlabelled, own)).sample_codes(["ann"], 5, guidance=2)
    with pytest.raises(WavevqError, match="has no trained prior"):
        replace(loaded, prior=None).sample_codes(["ann"], 5, guidance=2)


def test_progress_of_codes_and_audio_is_shown_on_a_terminal(run: Path, tmp_path: Path) -> None:
    for terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=100, _environ={"TERM": "xterm"})
        generate.sample(load_run(run), tmp_path / str(terminal), 2, 0.05, console, speaker="ann")
        said = console.file.getvalue()  # type: ignore[attr-defined]
        assert bool(re.search(r"drawing codes .*100/100", said)) == terminal
        assert bool(re.search(r"sampling .*s", said.split("sampled 2 files")[0])) == terminal
        if not terminal:
            assert [line.split()[0] for line in said.splitlines()] == ["sampled", "written:"]


def test_a_prior_of_other_weights_is_refused(run: Path, tmp_path: Path) -> None:
    """As where the VQ-VAE's last checkpoint was lost and its training went on from the one before."""
    other = tmp_path / "other"
    shutil.copytree(run, other)
    assert load_run(other).prior is not None
    weights = sorted((other / "checkpoints").iterdir())[-1] / AVERAGE
    tensors = load_file(weights)
    next(value for name, value in tensors.items() if name.startswith("encoder.")).add_(0.01)
    save_file(tensors, weights)
    trainings.seal(weights.parent)
    recipe = load_recipe("tiny.yaml")
    for words in (
        r"other/prior: was trained on the codes of other weights than .*other has now; delete it, and train another",
        r"other/prior: does not tell whose codes it has learned \(trained-on: no such file or directory\); delete it",
    ):
        with pytest.raises(WavevqError, match=words):
            load_run(other)
        with pytest.raises(WavevqError, match=words):
            experiment.train(recipe, other, True, Console(quiet=True))
        (other / PRIOR / TRAINED_ON).unlink(missing_ok=True)
    shutil.rmtree(other / PRIOR)
    experiment.train(load_recipe("tiny.yaml"), other, False, Console(quiet=True), "prior")
    one, two = load_run(run).prior, load_run(other).prior
    assert one is not None
    assert two is not None
    assert any(not torch.equal(value, two[0].state_dict()[name]) for name, value in one[0].state_dict().items())


def test_clips_do_not_depend_on_how_many_are_drawn_together(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_run(run)
    whole = generate.sample(loaded, tmp_path / "whole", 5, 0.04, Console(quiet=True), seed=3)
    monkeypatch.setattr(generate, "AT_ONCE", 2)
    parts = generate.sample(loaded, tmp_path / "parts", 5, 0.04, Console(quiet=True), seed=3)
    for one, other in zip(whole, parts, strict=True):
        assert (one.name, one.speaker) == (other.name, other.speaker)
        np.testing.assert_array_equal(one.codes, other.codes)
        np.testing.assert_array_equal(one.audio, other.audio)


def test_samples_from_the_command_line(run: Path, tmp_path: Path) -> None:
    words = ["sample", "--run", str(run), "--count", "3", "--seconds", "0.05", "--seed", "4"]
    for place in ("a", "b"):
        result = CliRunner().invoke(main, [*words, str(tmp_path / place)])
        assert result.exit_code == 0, result.stderr
        drawn = generate.drawn_speakers(load_run(run), 3, 4)
        assert f"speakers, drawn by the seed: {', '.join(drawn)}\n" in result.stderr
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["001.npy", "001.wav", "002.npy", "002.wav", "003.npy", "003.wav", "index.html"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    result = CliRunner().invoke(main, [*words, str(tmp_path / "a")])
    assert result.exit_code == 2
    assert "is there already" in result.stderr
    for wrong, said in (
        (["--speaker", "zoe"], "zoe: not a speaker"),
        (["--seconds", "nan"], "seconds nan: must be from 0.001, a code, to 3600"),
        (["--seconds", "inf"], "seconds inf: must be"),
        (["--seconds", "1e-4"], "seconds 0.0001: must be"),
        (["--seed", "-1"], "seed -1: must be from 0"),
    ):
        result = CliRunner().invoke(main, [*words, *wrong, str(tmp_path / "c")])
        assert result.exit_code == 2
        assert said in result.stderr.splitlines()[-1]
    (tmp_path / "file").touch()
    result = CliRunner().invoke(main, [*words, str(tmp_path / "file" / "c")])
    assert result.exit_code == 2
    assert re.search(r"file/c: cannot be made \(not a directory\)$", result.stderr)
    primed = [*words, "--speaker", "ann", "--prime", "corpus/ann/ann_4.wav", str(tmp_path / "d")]
    result = CliRunner().invoke(main, primed)
    assert result.exit_code == 0
    assert "every clip begins with the prime" in result.stderr
    assert "whose codes are those of the recording given" in (tmp_path / "d" / "index.html").read_text()
    own = load_run(run)
    from wavevq.audio import read

    begun = own.encode(read("corpus/ann/ann_4.wav"))
    for name in ("001.npy", "002.npy", "003.npy"):
        np.testing.assert_array_equal(np.load(tmp_path / "d" / name)[: len(begun)], begun)

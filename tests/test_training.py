"""The training loop, on a toy that shows what the loop does to whatever it trains."""

from __future__ import annotations

import contextlib
import io
import json
import resource
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from rich.console import Console
from torch import Tensor, nn
from trainings import RECIPE, command, said, workplace

from wavevq.build import build_model, shape_model
from wavevq.contracts import Batch, StepLoss
from wavevq.errors import WavevqError
from wavevq.experiment import locked
from wavevq.recipe import Train, parse_recipe
from wavevq.train.log import Log, Validation, _lines, _short, read_metrics
from wavevq.train.loop import Interrupted, _asked_to_stop, fit, load_newest, rate_factor, refuse_apart
from wavevq.train.state import AVERAGE, METER, MODEL, OPTIMIZER, STATE, SUMS, Average, TrainState, checkpoints

LIMIT = resource.getrlimit(resource.RLIMIT_FSIZE)


@pytest.mark.parametrize("kind", ["waveform", "logmel", "mfcc"])
def test_a_model_of_every_encoder_has_a_size_before_its_weights_are_there(kind: str) -> None:
    """What begins every training of a recipe: shapes alone, which must be those of the model."""
    tree = {**RECIPE, "model": {**RECIPE["model"], "encoder": {"kind": kind}}}
    recipe = parse_recipe(tree, "tiny")
    shapes = {name: value.shape for name, value in shape_model(recipe, 2, "tiny").state_dict().items()}
    assert shapes == {name: value.shape for name, value in build_model(recipe, 2).state_dict().items()}


# --- a toy --------------------------------------------------------------------------------------------------


class Toy(nn.Module):
    """A regression with a buffer that counts its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)
        self.other = nn.Linear(1, 1)
        with torch.no_grad():
            for i, p in enumerate(self.parameters()):
                p.fill_(0.1 * (i + 1))
        self.register_buffer("seen", torch.tensor(0))
        self.autocast: list[bool] = []

    seen: Tensor

    def training_loss(self, batch: Batch) -> StepLoss:
        assert self.training
        self.seen.add_(1)
        self.autocast.append(torch.is_autocast_enabled("cpu"))
        off = self.other(self.linear(batch.x[:, 0])) - 1
        loss = off.float().square().mean()
        return StepLoss(loss, {"error": loss.detach()})


@dataclass
class Numbers:
    """Batches of noise; ``bad`` is the step whose batch holds a NaN, or a number whose square is infinite.

    stop: the step at which a Ctrl-C comes; full: that from which no file grows further.
    """

    bad: int | None = None
    value: float = torch.nan
    stop: int | None = None
    full: int | None = None
    unit: str = "audio_seconds"
    amount: float = 1.0
    asked: list[int] = field(default_factory=list)

    def at(self, step: int, rank: int, world: int) -> Batch:
        self.asked.append(step)
        if step == self.stop:
            signal.raise_signal(signal.SIGINT)
        if step == self.full:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, LIMIT[1]))
        x = torch.randn(4, 1, 3, generator=torch.Generator().manual_seed(step))
        if step == self.bad:
            x[2] = self.value
        whole = torch.full((4,), 3)
        return Batch(x, torch.zeros(4, dtype=torch.int64), whole, 4 * step + torch.arange(4))

    def names(self, step: int, rank: int, world: int) -> list[str]:
        return [f"clip-{4 * step + row}" for row in range(4)]


def plan(**changes: Any) -> Train:
    every = {"log_every": 2, "validate_every": 3, "save_every": 2, "keep": 2, "average": 0.8, "learning_rate": 0.05}
    return Train.model_validate({"steps": 10, "warmup": 0, "cooldown": 0, **every, **changes})


def train(folder: Path, toy: Toy | None = None, batches: Numbers | None = None, **changes: Any) -> tuple[Toy, str]:
    """A toy trained in ``folder``, and what was printed. resume and validate may be among the changes."""
    resume, validate = (
        changes.pop("resume", False),
        changes.pop("validate", lambda step: Validation({"half": step / 2})),
    )
    toy, batches, paper = toy or Toy(), batches or Numbers(), io.StringIO()
    settings = plan(**changes)
    fabric = Fabric(accelerator="cpu", devices=1, precision=settings.precision)
    folder.mkdir(exist_ok=True)
    try:
        fit(fabric, toy, batches, settings, folder, validate, Console(file=paper, width=200), resume)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, LIMIT)
    return toy, paper.getvalue()


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def lines(folder: Path) -> list[dict[str, Any]]:
    """The log but for what the clock says."""
    return [{**line, "seconds": 0, "audio_seconds_per_second": 0} for line in _lines(folder / "metrics.jsonl")]


def fresh() -> TrainState:
    toy = Toy()
    return TrainState(toy, torch.optim.Adam(toy.parameters(), fused=True), Average(toy, 0.8))


def restored(folder: Path) -> TrainState:
    """A state that has taken in the newest checkpoint."""
    state = fresh()
    load_newest(state, folder / "checkpoints", Console(quiet=True))
    return state


# --- the loop -----------------------------------------------------------------------------------------------


def test_a_training_equals_the_plain_loop(tmp_path: Path) -> None:
    settings = plan(warmup=4, cooldown=0.5, clip=0.3)
    toy = Toy()
    optimizer = torch.optim.Adam(toy.parameters())
    errors = []
    for step in range(10):
        loss = toy.training_loss(Numbers().at(step, 0, 1)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(toy.parameters(), 0.3)
        optimizer.param_groups[0]["lr"] = 0.05 * rate_factor(settings, step)
        optimizer.step()
        errors.append(loss.item())
    batches = Numbers()
    trained, _ = train(tmp_path / "run", batches=batches, warmup=4, cooldown=0.5, clip=0.3)
    assert batches.asked == list(range(10))
    for name, value in toy.state_dict().items():
        # The fused Adam rounds otherwise than the plain one: 1e-6 of a step of 0.05.
        torch.testing.assert_close(trained.state_dict()[name], value, rtol=1e-5, atol=1e-6)
    lines = read_metrics(tmp_path / "run", "train")
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10]
    means = [(errors[i] + errors[i + 1]) / 2 for i in range(0, 10, 2)]  # of the steps since the line before
    assert [line["error"] for line in lines] == pytest.approx(means, rel=1e-4)


@pytest.mark.parametrize(("precision", "cast"), [("32-true", False), ("bf16-mixed", True)])
def test_the_precision_reaches_the_step(tmp_path: Path, precision: str, cast: bool) -> None:
    toy, _ = train(tmp_path / "run", precision=precision)
    assert toy.autocast == [cast] * 10
    assert all(p.dtype == torch.float32 for p in toy.parameters())


def test_validation_sees_the_averaged_weights_and_leaves_no_trace(tmp_path: Path) -> None:
    toy, seen = Toy(), {}

    def validate(step: int) -> Validation:
        assert not toy.training
        seen[step] = weights(toy)
        toy.linear.weight.data.zero_()  # whatever it does
        return Validation({"half": step / 2}, warnings=("the codebook has collapsed",) if step == 6 else ())

    _, printed = train(tmp_path / "run", toy, validate=validate, keep=10, save_every=3)
    assert toy.training
    assert sorted(seen) == [3, 6, 9, 10]
    assert [(line["step"], line["half"]) for line in read_metrics(tmp_path / "run", "validation")] == [
        (step, step / 2) for step in (3, 6, 9, 10)
    ]
    assert printed.count("WARNING: the codebook has collapsed\n") == 1
    assert_same(weights(toy), weights(train(tmp_path / "undisturbed")[0]))
    for step, found in seen.items():
        state = TrainState(Toy(), torch.optim.Adam(Toy().parameters(), fused=True), Average(Toy(), 0.8))
        state.load(tmp_path / "run" / "checkpoints" / f"step-{step:08d}")
        assert_same(found, state.average.tensors)
        assert any(not torch.equal(value, found[name]) for name, value in state.module.state_dict().items())


@pytest.mark.parametrize(
    ("bad", "value", "says"),
    [
        (1, torch.nan, "step 1: NaN or infinite values in clip-6; the last good checkpoint is none yet"),
        (5, torch.inf, "step 5: NaN or infinite values in clip-22; the last good checkpoint is .*/step-00000004"),
        (5, 1e30, "step 5: the loss is inf and .*, of clip-20, clip-21, clip-22, clip-23; the last .*/step-00000004"),
    ],
)
def test_what_is_not_finite_stops_before_the_weights(tmp_path: Path, bad: int, value: float, says: str) -> None:
    toy = Toy()
    with pytest.raises(WavevqError, match=f"^{says}"):
        train(tmp_path / "run", toy, Numbers(bad, value), average=0)
    alone, _ = train(tmp_path / "short", steps=bad)
    if value == 1e30:
        alone.seen.add_(1)  # the buffer has seen the bad step; what is saved has not
    assert_same(weights(toy), weights(alone))
    if bad == 1:
        assert not checkpoints(tmp_path / "run" / "checkpoints")
        return
    state = restored(tmp_path / "run")
    assert (state.step, state.module.seen) == (4, 4)
    # With the bad batch out of the way it goes on as if nothing had been.
    resumed, _ = train(tmp_path / "run", resume=True)
    assert_same(weights(resumed), weights(train(tmp_path / "straight")[0]))


def test_a_second_signal_ends_at_once_but_not_the_echo_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun passes a Ctrl-C on, milliseconds after its processes had it from the terminal."""
    before = signal.getsignal(signal.SIGINT)
    now = [100.0]
    monkeypatch.setattr("wavevq.train.loop.time.monotonic", lambda: now[0])
    with _asked_to_stop() as stop:
        assert not stop
        signal.raise_signal(signal.SIGINT)
        now[0] += 0.05
        signal.raise_signal(signal.SIGTERM)
        assert stop
        now[0] += 2
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


# --- schedules and averages ---------------------------------------------------------------------------------


def test_the_rate_rises_stays_and_falls_to_zero() -> None:
    factors = [rate_factor(plan(steps=100, warmup=10, cooldown=0.4), step) for step in range(100)]
    assert factors[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert factors[9:61] == [1.0] * 52
    assert factors[60:] == pytest.approx([1 - i / 40 for i in range(40)])
    assert rate_factor(plan(steps=100, warmup=10, cooldown=0.4), 100) == 0
    assert [rate_factor(plan(), step) for step in (0, 9)] == [1, 1]
    # A rise and a fall that meet: neither is passed over.
    both = [rate_factor(plan(steps=10, warmup=10, cooldown=1.0), step) for step in range(10)]
    assert both == pytest.approx([min((i + 1) / 10, (10 - i) / 10) for i in range(10)])


def test_the_average_equals_its_formula() -> None:
    toy = Toy()
    average = Average(toy, 0.6)
    expected = toy.linear.weight.detach().double().clone()
    for step in range(1, 12):
        toy.linear.weight.data = torch.full((1, 3), float(step))
        toy.seen.add_(3)
        average.update(toy, step)
        decay = min(0.6, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    torch.testing.assert_close(average.tensors["linear.weight"].double(), expected, rtol=1e-6, atol=0)  # float32
    assert average.tensors["seen"] == toy.seen == 33  # counts are copied, not averaged


def test_the_average_is_lent_even_to_a_failure() -> None:
    for training in (True, False):
        toy = Toy().train(training)
        average = Average(toy, 0.9)
        toy.linear.weight.data.add_(1)
        own, lent = weights(toy), {name: value.clone() for name, value in average.tensors.items()}
        with contextlib.suppress(ZeroDivisionError), average.applied(toy):
            assert not toy.training
            assert_same(weights(toy), lent)
            toy.linear.weight.data.mul_(5)
            raise ZeroDivisionError
        assert_same(weights(toy), own)
        assert_same(average.tensors, lent)
        assert toy.training == training


# --- checkpoints and logs -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(folder, log_every=3)  # lines and checkpoints out of step
    return folder


@pytest.mark.parametrize("name", [MODEL, AVERAGE, OPTIMIZER, METER, STATE, SUMS])
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "gone"])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_used(
    finished_run: Path, tmp_path: Path, name: str, damage: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    newest = checkpoints(run / "checkpoints")[-1]
    data = bytearray((newest / name).read_bytes())
    data[len(data) // 2] ^= 4
    (newest / name).unlink()
    if damage != "gone":
        (newest / name).write_bytes({"cut": data[: len(data) // 2], "flipped": data, "empty": b""}[damage])
    state, paper = fresh(), io.StringIO()
    load_newest(state, run / "checkpoints", Console(file=paper, width=200))
    assert state.step == 8
    [line] = paper.getvalue().splitlines()
    assert line.startswith("skipping a damaged checkpoint: ")
    # Of a sum that is damaged it cannot be known whose: what it belongs to is named.
    assert f"{newest / name}: " in line or (name == SUMS and str(newest) in line)
    if (damage, name) == ("flipped", OPTIMIZER):
        train(run, log_every=3, resume=True)
        again = checkpoints(run / "checkpoints")[-1]
        for path in checkpoints(finished_run / "checkpoints")[-1].iterdir():
            assert (again / path.name).read_bytes() == path.read_bytes()
        assert lines(run) == lines(finished_run)


def test_an_empty_checkpoint_and_one_of_the_format_before(tmp_path: Path) -> None:
    """Which had no checksums; what it lacks, the sums of metrics since the last line, begins anew."""
    train(tmp_path / "run")
    before, newest = checkpoints(tmp_path / "run" / "checkpoints")
    shutil.rmtree(newest)
    newest.mkdir()
    for name in (METER, SUMS):
        (before / name).unlink()
    state = json.loads((before / STATE).read_text())
    del state["metered"]
    (before / STATE).write_text(json.dumps({**state, "format": 1}))
    resumed, printed = train(tmp_path / "run", resume=True)
    assert f"skipping a damaged checkpoint: {newest / STATE}: " in printed
    assert_same(weights(resumed), weights(train(tmp_path / "straight")[0]))


def test_a_stopped_training_logs_what_one_that_never_stopped_does(tmp_path: Path) -> None:
    straight, _ = train(tmp_path / "straight", log_every=5, validate_every=4)
    for stop in (3, 6):
        with pytest.raises(Interrupted):
            train(tmp_path / "run", batches=Numbers(stop=stop), log_every=5, validate_every=4, resume=True)
    resumed, _ = train(tmp_path / "run", log_every=5, validate_every=4, resume=True)
    assert_same(weights(resumed), weights(straight))
    assert lines(tmp_path / "run") == lines(tmp_path / "straight")


def test_a_disk_that_is_full_ends_it_in_one_line(tmp_path: Path) -> None:
    """A limit on the size of files: a write fails halfway, as on a full disk, and nobody need mount one."""
    straight, _ = train(tmp_path / "straight", log_every=5)
    with pytest.raises(WavevqError, match=r"run/checkpoints/.partial-00000006/\S+: cannot be written \(file too large"):
        train(tmp_path / "run", batches=Numbers(full=5), log_every=5)
    left = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert left == ["step-00000002", "step-00000004"]
    assert restored(tmp_path / "run").step == 4
    resumed, _ = train(tmp_path / "run", log_every=5, resume=True)
    assert_same(weights(resumed), weights(straight))
    assert lines(tmp_path / "run") == lines(tmp_path / "straight")
    with pytest.raises(WavevqError, match=r"log/metrics.jsonl: cannot be written \(file too large"):
        train(tmp_path / "log", batches=Numbers(full=3), save_every=100)


@pytest.mark.parametrize("keep", [1, 3, 100])
def test_the_newest_checkpoints_are_kept(tmp_path: Path, keep: int) -> None:
    train(tmp_path / "run", save_every=3, keep=keep)
    steps = [int(path.name.removeprefix("step-")) for path in checkpoints(tmp_path / "run" / "checkpoints")]
    assert steps == [3, 6, 9, 10][-keep:]


def test_half_written_checkpoints_are_not_seen(tmp_path: Path) -> None:
    train(tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    shutil.copytree(checkpoints(folder)[-1], folder / ".partial-00000099")
    assert restored(tmp_path / "run").step == 10
    assert [path.name for path in checkpoints(folder)] == ["step-00000008", "step-00000010"]


def test_a_checkpoint_restores_every_tensor(tmp_path: Path) -> None:
    trained, _ = train(tmp_path / "run")
    state = restored(tmp_path / "run")
    assert_same(weights(state.module), weights(trained))
    moments = state.optimizer.state_dict()["state"]
    assert len(moments) == 4
    assert all(slot["step"] == 10 and slot["exp_avg_sq"].abs().sum() > 0 for slot in moments.values())


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    train(tmp_path / "run")
    other = nn.Linear(3, 2)
    state = TrainState(other, torch.optim.Adam(other.parameters()), Average(other, 0.9))
    with pytest.raises(WavevqError, match="no checkpoint to resume from"):
        load_newest(state, tmp_path / "run" / "checkpoints", Console(quiet=True))


def test_lines_of_steps_that_are_done_again_are_dropped(tmp_path: Path) -> None:
    written = [{"step": step, "kind": "train", "error": 1.0} for step in (2, 4, 6)]
    text = "".join(json.dumps(line) + "\n" for line in written) + '{"step": 8, "ki'  # killed while it wrote
    (tmp_path / "metrics.jsonl").write_text(text)
    log = Log(tmp_path, Console(quiet=True), 10, 4)
    log.training(6, {"error": 2.0})
    assert not log.validated(6)
    log.validation(6, Validation({"bits": 3.0}))
    assert log.validated(6)
    log.close(failed=False)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["kind"]) for line in lines] == [
        (2, "train"),
        (4, "train"),
        (6, "train"),
        (6, "validation"),
    ]
    assert lines[2]["error"] == 2.0


@pytest.mark.parametrize(
    ("value", "said"), [(-0.0001, "0.000"), (-0.0, "0"), (-0.5, "-0.500"), (1234.5, "1234"), (3.0, "3")]
)
def test_a_figure_of_a_line_is_short(value: float, said: str) -> None:
    assert _short(value) == said


# --- what is refused ----------------------------------------------------------------------------------------


def test_one_training_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path / "run"):
        with pytest.raises(WavevqError, match="another training is writing"), locked(tmp_path / "run"):
            pass
        with locked(tmp_path / "other"):
            pass
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "run"):
        raise ZeroDivisionError
    with locked(tmp_path / "run"):
        pass


def test_processes_that_see_different_checkpoints_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on two machines whose run folders are not one."""
    refuse_apart(4, Path("run/checkpoints"))
    monkeypatch.setattr("wavevq.train.loop.gathered", lambda step: [step, 0])
    with pytest.raises(WavevqError, match="run/checkpoints: processes go on from different steps, 4, 0; all of them"):
        refuse_apart(4, Path("run/checkpoints"))


def test_a_corpus_without_a_validation_clip_is_refused(tmp_path: Path, make_audio: Callable[..., Path]) -> None:
    """Each speaker has one recording: the one that is held out is of a speaker that is not trained on."""
    place = workplace(tmp_path, make_audio)
    for path in place.glob("corpus/*/*_[1-4].wav"):
        path.unlink()
    assert command(place, "train", "tiny.yaml", "--run", "run") == [2]
    assert said(place).splitlines()[-1].startswith("wavevq: data: no clip of a speaker that is trained on is held out")
    assert "val.txt" in said(place)
    assert not (place / "run").exists()

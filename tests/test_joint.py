"""VQ-VAE and prior trained together: which way the prior's gradient goes, and that the run is one like any other."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import trainings
import yaml
from click.testing import CliRunner
from rich.console import Console
from test_distributed import train_in_float64
from torch import Tensor
from torch.nn import functional as F

from wavevq import experiment
from wavevq.build import build_model, build_store
from wavevq.cli import main
from wavevq.contracts import Batch
from wavevq.data.batches import Crops
from wavevq.errors import WavevqError
from wavevq.joint import JointVqVae, soft_codes
from wavevq.noise import DROP, derived, uniform
from wavevq.recipe import Recipe, load_recipe, parse_recipe
from wavevq.run import load_run
from wavevq.train.loop import parts
from wavevq.vqvae import VqVae

K, HOP = 40, 8  # of trainings.RECIPE
NETWORKS = {
    "wavenet": {"layers": 2, "cycle": 2, "residual": 4, "gate": 4, "skip": 4, "head": 4},
    "transformer": {"layers": 1, "width": 8, "heads": 2},
}


def tree(network: str = "wavenet", kind: str = "ema", **joint: float) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(trainings.RECIPE))
    made["model"]["bottleneck"]["kind"] = kind
    made["model"]["adversary"] = 0.1 if kind == "vq" else 0.0
    made["model"]["augmentation"] = {"noise": [-40, -30]} if kind == "vq" else None
    made["prior"] = {"network": {"kind": network, **NETWORKS[network]}, "speaker_dim": 4, "joint": joint or True}
    return made


def model(network: str = "wavenet", kind: str = "ema", **joint: float) -> JointVqVae:
    """In float64, its codebook set, its prior of random weights, so that nothing is symmetric."""
    made = build_model(parse_recipe(tree(network, kind, **joint), "tiny"), 2).double()
    assert isinstance(made, JointVqVae)
    torch.manual_seed(1)
    torch.nn.init.normal_(made.prior.network.output.weight)
    torch.nn.init.normal_(made.decoder.wavenet.output.weight)
    made.training_loss(batch())  # the first batch places the codebook
    return made


def batch(length: int = 64) -> Batch:
    """A crop within a clip; one that begins it; one that ends it, of part of a crop; one with a frame's rest behind."""
    x = torch.randn(4, 1, length, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.1
    lengths = torch.tensor([length, length, length - 13, length])
    around = torch.tensor([[30, 900], [0, 900], [0, 0], [5, HOP - 1]])
    return Batch(x, torch.tensor([0, 1, 0, 1]), lengths, torch.arange(4), around)


def gradients(made: JointVqVae, of: Callable[[JointVqVae], Tensor]) -> dict[str, Tensor]:
    """By name, zeros where there is none."""
    names, values = zip(*made.named_parameters(), strict=True)
    found = torch.autograd.grad(of(made), values, allow_unused=True)
    return {n: torch.zeros_like(v) if g is None else g for n, v, g in zip(names, values, found, strict=True)}


def whole_loss(made: JointVqVae) -> Tensor:
    return made.training_loss(batch()).loss


def rate(made: JointVqVae, given: Batch | None = None) -> Tensor:
    """The prior's part of the loss, with the weight that the model has."""
    one = given or batch()
    z_e = made.encoder(one.x, one.lengths)
    codes = made.quantize(z_e, one.lengths).codes
    assert codes is not None
    return made.prior.training_loss(made.sequences(one, z_e, codes)).loss


# --- the way of the gradient --------------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kind", ["ema", "vq"])
def test_nothing_of_it_reaches_codebook_or_decoder(network: str, kind: str) -> None:
    found = gradients(model(network, kind, weight=1.0), rate)
    others = {name: value for name, value in found.items() if not name.startswith(("encoder.", "prior."))}
    assert ("bottleneck.codebook" in others) == (kind == "vq")
    assert all(not value.any() for value in others.values())
    assert all(value.any() for name, value in found.items() if name.startswith("encoder.project"))


@pytest.mark.parametrize("network", NETWORKS)
def test_the_priors_parameters_get_the_gradient_of_their_own_training(network: str) -> None:
    """Of nats a code, at whatever weight: as if it were shown the codes alone."""
    found = [gradients(model(network, weight=weight), whole_loss) for weight in (0.0, 0.1, 1.0)]
    made = model(network, weight=1.0)
    one = batch()
    with torch.no_grad():
        z_e = made.encoder(one.x, one.lengths)
        given = made.sequences(one, z_e, made.quantize(z_e, one.lengths).codes)
    assert torch.equal(given.x, given.x.round())  # forward, the rows are one-hot to the last bit
    alone = gradients(made, lambda own: own.prior.training_loss(replace(given, x=given.x.argmax(-1))).loss)
    for name, value in alone.items():
        if name.startswith("prior."):
            assert value.any() or name.startswith("prior.network.embedding"), name
            for other in found:  # the embedding by a product or by a lookup: sums in another order
                torch.testing.assert_close(other[name], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_weight_scales_what_reaches_the_encoder_in_nats_a_sample(network: str) -> None:
    none, some, whole = (gradients(model(network, weight=weight), whole_loss) for weight in (0.0, 0.1, 1.0))
    made = model(network, weight=1.0)
    # Of each row: frames, without the first within a clip, with the end.
    codes, samples = (8 - 1) + 8 + (7 + 1) + (8 - 1 + 1), 64 + 64 + 51 + 64
    pure = gradients(made, lambda own: unweighted(own) * codes / samples)
    for name in none:
        if name.startswith("encoder."):
            torch.testing.assert_close(whole[name] - none[name], pure[name], rtol=1e-6, atol=1e-12)
            torch.testing.assert_close(some[name] - none[name], 0.1 * pure[name], rtol=1e-6, atol=1e-12)


def unweighted(made: JointVqVae) -> Tensor:
    """The rate in nats a code, written plainly: rows that are one-hot forward and softmax(-d^2 / tau) backward."""
    one = batch()
    z_e = made.encoder(one.x, one.lengths)
    codes = made.quantize(z_e, one.lengths).codes
    assert codes is not None
    rows = torch.zeros(4, 9, K + 1, dtype=torch.float64)
    mask = torch.zeros(4, 9, dtype=torch.bool)
    label = one.label.clone()
    dropped = uniform(derived(made.prior.seed, DROP), range(4), 1)[:, 0] < made.prior.drop
    label[dropped] = made.prior.nobody
    for row, (frames, within, ends) in enumerate(
        [(8, True, False), (8, False, False), (7, False, True), (8, True, True)]
    ):
        for place in range(frames):
            d = (z_e[row, place] - made.bottleneck.codebook.detach()).norm(dim=-1)
            soft = torch.exp(-(d**2) / made.tau) / torch.exp(-(d**2) / made.tau).sum()
            rows[row, place, :K] = F.one_hot(codes[row, place], K) + soft - soft.detach()
            mask[row, place] = not (within and place == 0)
        if ends:
            rows[row, frames, K] = 1
            mask[row, frames] = True
    logits = made.prior.logits(rows, label)
    return -((rows * torch.log_softmax(logits, -1)).sum(-1) * mask).sum() / mask.sum()


@pytest.mark.parametrize("network", NETWORKS)
def test_rows_are_differentiated_as_targets_and_as_inputs(network: str) -> None:
    """Against differences: the likelihood of rows near one-hot ones, and that of one-hot rows is that of classes."""
    made = model(network).prior
    codes, label, mask = torch.tensor([[3, 0, K, 7, 7]]), torch.tensor([1]), torch.tensor([[True] * 4 + [False]])
    rows = F.one_hot(codes, K + 1).double()
    torch.testing.assert_close(made.nll(rows, label, mask), made.nll(codes, label, mask), rtol=1e-12, atol=0)
    assert torch.autograd.gradcheck(lambda given: made.nll(given, label, mask), rows.requires_grad_())
    [found] = torch.autograd.grad(made.nll(rows, label, mask), rows)
    as_target = -torch.log_softmax(made.logits(rows, label), -1)[0, :4].detach()
    assert not torch.allclose(found[0, 0], as_target[0])  # a later code reads it
    torch.testing.assert_close(found[0, 3], as_target[3])  # the one after it is masked
    assert not found[0, 4].any()


def test_soft_codes_by_hand() -> None:
    z_e = torch.tensor([[[1.0, 0.0]]], requires_grad=True)
    codebook = torch.tensor([[1.0, 1.0], [3.0, 0.0]], requires_grad=True)  # d^2: 1 and 4
    soft = soft_codes(z_e, codebook, 3.0)
    expected = 1 / (1 + math.exp(-1))
    torch.testing.assert_close(soft, torch.tensor([[[expected, 1 - expected]]]))
    soft[0, 0, 0].backward()
    # d p / d z = p (1 - p) (2 (e_0 - z) - 2 (e_1 - z)) / tau
    slope = expected * (1 - expected) * 2 / 3
    torch.testing.assert_close(z_e.grad, torch.tensor([[[slope * (1.0 - 3.0), slope * 1.0]]]))
    assert codebook.grad is None


def test_the_rate_draws_the_encoder_to_likelier_codes() -> None:
    """Descending it alone makes the codes more probable, and fewer: why a weight alone would be a collapse."""
    made = model(weight=1.0)
    made.eval()  # the codebook stands still
    made.prior.requires_grad_(False)
    optimizer = torch.optim.Adam(made.encoder.parameters(), lr=0.01)
    nats = []
    for _ in range(80):
        loss = rate(made)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        nats.append(loss.item())
    assert nats[-1] < 0.85 * nats[0]


# --- what the prior is shown --------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_firsts_of_crops_within_clips_are_read_only_and_ends_are_told(weight: float) -> None:
    made = model(weight=weight)
    one = batch()
    z_e = made.encoder(one.x, one.lengths)
    codes = made.quantize(z_e, one.lengths).codes
    assert codes is not None
    found = made.sequences(one, z_e, codes)
    said = found.x if weight == 0 else found.x.argmax(-1)
    assert torch.equal(said[:2, :8], codes[:2])
    assert said[2, 7] == said[3, 8] == K
    assert found.lengths.tolist() == [8, 8, 8, 9]
    assert made.prior.taught(found).sum(1).tolist() == [7, 8, 8, 8]
    assert found.cond is not None
    assert found.cond.tolist() == [1, 0, 0, 1]


def test_padding_and_what_lies_in_it_count_for_nothing() -> None:
    made = model(weight=1.0)
    made.eval()
    one = batch()
    x = one.x.clone()
    x[2, :, 51:] = 100.0
    assert torch.equal(rate(made), rate(made, replace(one, x=x)))
    right, poisoned = (gradients(made, lambda own, given=given: rate(own, given)) for given in (one, replace(one, x=x)))
    assert all(torch.equal(right[name], poisoned[name]) for name in right)


# --- the training -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=NETWORKS)
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, make_audio: Callable[..., Path]
) -> Path:
    """A folder with a corpus, ``tiny.yaml``, which trains both, and ``straight``, its run."""
    folder = trainings.workplace(tmp_path_factory.mktemp("joint"), make_audio)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tree(request.param)))
    assert trainings.command(folder, "train", "tiny.yaml", "--run", "straight") == [0], trainings.said(folder)
    return folder


def trained(place: Path, name: str, recipe: Recipe) -> dict[str, Tensor]:
    """Everything in the last checkpoint's weights and averaged weights."""
    before = Path.cwd()
    os.chdir(place)
    try:
        experiment.train(recipe, Path(name), False, Console(quiet=True))
    finally:
        os.chdir(before)
    found = trainings.tensors(place / name / "checkpoints" / f"step-{trainings.STEPS:08d}")
    return {key: value for key, value in found.items() if not key.startswith("optimizer")}


def test_at_weight_0_the_vq_vae_is_trained_as_without_a_prior(place: Path) -> None:
    torch.set_num_threads(1)
    clip = {"clip": 0.01}  # far below the gradients' norms: clipped together, each would change the other
    alone = tree()
    del alone["prior"]
    alone["train"] |= clip
    plain = trained(place, "plain", parse_recipe(alone, "plain"))
    [network] = [kind for kind in NETWORKS if kind in (place / "tiny.yaml").read_text().split("prior:")[1]]
    for weight, same in ((0.0, True), (1.0, False)):
        both = tree(network, weight=weight)
        both["train"] |= clip
        found = trained(place, f"weight-{weight}", parse_recipe(both, "joint"))
        assert {key for key in found if "/prior." not in key} == plain.keys()
        assert all(torch.equal(found[key], value) for key, value in plain.items()) == same


def test_the_gradients_norm_is_clipped_for_each_by_itself() -> None:
    made = model()
    rest, own = parts(made, made.prior)
    assert [id(p) for p in own] == [id(p) for p in made.prior.parameters()]
    assert [id(p) for p in rest + own] == [id(p) for p in made.parameters()]
    assert parts(made, None) == [[*made.parameters()]]


def test_killed_and_resumed_it_ends_in_the_same_bits(place: Path) -> None:
    words = "train", "tiny.yaml", "--run", "killed"
    assert trainings.command(place, *words, moments=[trainings.before_step(7)]) == [-signal.SIGKILL]
    assert trainings.command(place, *words, "--resume") == [0], trainings.said(place)
    trainings.assert_equal_runs(place / "killed", place / "straight")


def test_two_processes_equal_one_on_the_joined_batch(place: Path) -> None:
    for ranks in (1, 2):
        ended = trainings.finish(trainings.start(train_in_float64, str(place), f"of-{ranks}", ranks=ranks))
        assert ended == [0] * ranks
    one, other = (torch.load(place / f"of-{n}-0.pt", weights_only=True) for n in (1, 2))
    assert any(name.startswith("prior.") for name in one)
    for name, value in one.items():
        # As in test_distributed: sums in another order, through Adam's division.
        torch.testing.assert_close(other[name], value, rtol=0, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


def test_its_validation_says_what_both_stages_say(place: Path) -> None:
    found = json.loads((place / "straight" / "summary.json").read_text())
    wanted = {"bits_per_sample", "perplexity", "codes_used", "shuffled_codes_gap", "wrong_speaker_gap"}
    wanted |= {
        "bits_per_code",
        "unigram_bits",
        "uniform_bits",
        "prior_wrong_speaker_gap",
        "bits_per_code_without_speaker",
    }
    assert wanted <= found.keys()
    assert found["uniform_bits"] == pytest.approx(math.log2(K))
    assert found["codes"] == K


# --- the run ------------------------------------------------------------------------------------------------


def test_its_run_is_one_like_any_other(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    run = load_run("straight")
    assert run.prior is not None
    assert isinstance(run.model, VqVae)
    for words in (
        ["sample", "--run", "straight", "--count", "2", "--seconds", "0.05", "drawn"],
        ["info", "straight"],
        ["evaluate", "--run", "straight", "--only", "likelihood"],
        ["convert", "--run", "straight", "--speaker", "bob", "corpus/ann/ann_4.wav", "said.wav"],
    ):
        result = CliRunner(env={"COLUMNS": "160"}).invoke(main, words)
        assert result.exit_code == 0, result.stderr
        if words[0] == "info":
            assert "trained jointly, weight 1, tau 1" in result.stdout
            assert "bits per code" in result.stdout
    assert (place / "drawn" / "002.wav").is_file()


def test_crops_say_what_of_their_clips_lies_around_them(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    recipe = load_recipe("tiny.yaml")
    store = build_store(recipe)
    crops = Crops(store, recipe.train.crop, recipe.train.batch, 0)
    lengths = {len(store.audio(clip)) for clip in store.split("train")}
    for step in range(4):
        one = crops.at(step)
        assert one.cond is not None
        assert set((one.cond.sum(1) + one.lengths).tolist()) <= lengths


def test_stages_and_recipes_that_make_no_sense_are_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    for stage in ("vqvae", "prior"):
        result = CliRunner().invoke(main, ["train", "tiny.yaml", "--run", "straight", "--stage", stage])
        assert result.exit_code == 2
        said = f"wavevq: --stage {stage}: prior.joint trains VQ-VAE and prior together; leave it out\n"
        assert result.stderr == said
    two_stage = load_recipe("tiny.yaml", ("prior.joint=false", "prior.steps=3"))
    for stage in ("prior", None):
        with pytest.raises(WavevqError, match=r"was begun with prior\.joint = "):
            experiment.train(two_stage, Path("straight"), True, Console(quiet=True), stage)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("prior.joint=false", "prior: steps is missing; only joint training goes by those of train"),
        ("prior.joint=3", "prior.joint: 3 is not allowed: Input should be a valid dictionary"),
        ("prior.joint={weigth: 1}", "prior.joint.weigth: unknown key; allowed are weight, tau"),
        ("prior.joint={weight: -1}", "prior.joint.weight: -1 is not allowed"),
        ("prior.joint={tau: 0}", "prior.joint.tau: 0 is not allowed"),
        (
            "prior.steps=3",
            "recipe: prior.steps: joint training goes by train; the recipe must leave this out",
        ),
        (
            "prior.crop=3",
            "recipe: prior.crop: joint training goes by train; the recipe must leave this out",
        ),
        ("train.crop=8", "recipe: train.crop 8 is one code; joint training wants two or more"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, override: str, line: str) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree()))
    with pytest.raises(WavevqError) as caught:
        load_recipe(path, (override,))
    [told] = str(caught.value).splitlines()
    assert told.removeprefix(f"{path}: ").startswith(line)


def test_the_schedule_is_that_of_train_and_written_out_it_is_the_same_recipe() -> None:
    recipe = parse_recipe(tree(), "tiny")
    assert recipe.prior is not None
    assert recipe.prior.joint is not None
    assert (recipe.prior.joint.weight, recipe.prior.steps, recipe.prior.crop) == (1.0, trainings.STEPS, 512 // HOP)
    assert parse_recipe(yaml.safe_load(yaml.safe_dump(recipe.model_dump(mode="json"))), "again") == recipe

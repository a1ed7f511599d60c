"""Video: the corpus of moving shapes, frames through the networks of images, and the prior that is causal in time."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from replay import faithful, mismatches
from torch import Tensor, nn

from wavevq import pixels
from wavevq.build import build_corpus, build_model, build_prior
from wavevq.contracts import Batch
from wavevq.data import shapes
from wavevq.data.codes import CodeCrops, Codes
from wavevq.data.shapes import ACTIONS, KINDS, TOWARDS, Shapes
from wavevq.decoders import FrameDecoder
from wavevq.errors import WavevqError
from wavevq.evaluate import rate
from wavevq.nn.video import FrameEncoder, Past, VideoPixelNetwork
from wavevq.noise import uniform
from wavevq.prior import Prior
from wavevq.recipe import Recipe, parse_recipe
from wavevq.sampling import choose_grid
from wavevq.sampling.pixelcnn_reference import rounded

T, SIZE, SIDE, K, G, D = 5, 16, 4, 9, 2, 3
GRID = (T, SIZE // SIDE, SIZE // SIDE, G)
WIDTHS = {"channels": 6, "residual": 4, "residual_blocks": 1}
TREE: dict[str, Any] = {
    "data": {"kind": "shapes", "size": SIZE, "frames": T, "clips": 12, "held_out": 0.5},
    "model": {
        "encoder": {"kind": "frames", "groups": G, **WIDTHS},
        "bottleneck": {"kind": "ema", "codes": K, "dim": D},
        "decoder": {"kind": "frames", **WIDTHS},
    },
    "train": {"steps": 1},
    "prior": {
        "steps": 1,
        "network": {"kind": "video", "layers": 4, "residual": 12, "gate": 8, "head": 16, "past": 12, "past_layers": 3},
        "speaker_dim": 3,
    },
    "evaluation": {"given": 2},
}
SHAPES = Shapes(size=32, frames=16, clips=40, held_out=8, seed=3)


def recipe(**changes: dict[str, Any]) -> Recipe:
    return Recipe.model_validate({key: value | changes.get(key, {}) for key, value in TREE.items()})


# --- the corpus ---------------------------------------------------------------------------------------------


def test_a_clip_is_a_function_of_seed_and_number() -> None:
    clips = SHAPES.split("train")
    for one in (SHAPES, Shapes(32, 16, 100, 8, 3)):  # in a corpus of another size as well
        np.testing.assert_array_equal(one.film(clips[7]).frames, SHAPES.film(clips[7]).frames)
    other = Shapes(32, 16, 40, 8, 4)
    assert (other.film(clips[7]).frames != SHAPES.film(clips[7]).frames).any()
    assert other.folder != SHAPES.folder  # its name is a part of the key of cached codes
    films = [SHAPES.film(one).frames.tobytes() for name in ("train", "val", "test") for one in SHAPES.split(name)]
    assert len({*films}) == len(films) == 40 + 8 + 8
    assert SHAPES.split("val_unseen") == []


@pytest.mark.parametrize("number", range(4))
def test_a_shape_goes_where_its_actions_say(number: int) -> None:
    film = SHAPES.film(SHAPES.split("train")[number])
    inside = (film.frames != shapes.GROUND).any(-1)
    assert len(np.unique(film.frames.reshape(-1, 3), axis=0)) == 2
    where = np.array([[rows.mean() for rows in np.nonzero(one)] for one in inside])
    step, walls = np.diff(where, axis=0), 0
    for frame, action in enumerate(film.actions[1:].tolist()):
        towards = np.sign(step[frame]).astype(int)
        told = TOWARDS[action] if action else (np.sign(step[frame - 1]) if frame else towards)
        assert (abs(step[frame]) > 0).sum() <= 1  # along one axis
        if tuple(towards) != tuple(told):
            edge = np.abs(told) @ where[frame + 1]
            assert min(edge, 31 - edge) < 9  # but at a wall it turns back
            walls += 1
    assert walls < 5


def test_at_a_wall_it_turns_back() -> None:
    right = np.array([0, 2, 0, 0, 0, 0])
    there = shapes.path(np.array([0.5, 0.9, 0.0]), right, radius=5, size=32)
    assert there[:, 1].tolist() == [23, 25, 23, 21, 19, 17]  # the edge of a shape at 25 is two pixels from the wall
    assert (there[:, 0] == there[0, 0]).all()


def test_actions_have_the_shares_they_should() -> None:
    actions = shapes.acted(uniform(0, [0], 20_000)[0].numpy())
    share = np.bincount(actions, minlength=len(ACTIONS)) / len(actions)
    # Five standard deviations of a share of 20,000.
    np.testing.assert_allclose(share, [shapes.GOES_ON] + [(1 - shapes.GOES_ON) / 4] * 4, atol=0.017)
    assert actions[0] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_every_shape_is_another_and_inside(kind: str) -> None:
    made = {one: shapes.drawn(one, np.array([[8, 20]]), 5, 32)[0] for one in KINDS}
    own = made.pop(kind)
    assert all((own != other).any() for other in made.values())
    rows, columns = np.nonzero(own)
    assert (rows.min(), rows.max()) >= (3, 12)
    assert max(abs(rows - 8).max(), abs(columns - 20).max()) <= 5


def test_batches_hold_clips_actions_and_labels() -> None:
    batch = SHAPES.examples("val", [0, 5])
    assert batch.x.shape == (2, 3, 16, 32, 32)
    assert batch.cond is not None
    films = [SHAPES.film(SHAPES.split("val")[i]) for i in (0, 5)]
    np.testing.assert_array_equal(pixels.to_images(batch.x), np.stack([one.frames for one in films]))
    np.testing.assert_array_equal(batch.cond.numpy(), np.stack([one.actions for one in films]))
    np.testing.assert_array_equal(SHAPES.given("val")[5], films[1].actions)
    assert [KINDS[i] for i in batch.label] == [SHAPES.split("val")[i].label for i in (0, 5)]
    crops = SHAPES.crops(16, 4, seed=1)
    assert (crops.unit, crops.amount, crops.steps_per_epoch) == ("clips", 4, 10)
    ranks = [crops.at(3, rank, 2).x for rank in range(2)]
    np.testing.assert_array_equal(torch.stack(ranks, 1).flatten(0, 1), crops.at(3, 0, 1).x)


def test_batches_of_codes_hold_their_clips_actions() -> None:
    codes = [np.full((16, 2, 2, 1), number) for number in range(40)]
    known = Codes(codes, [0] * 40, SHAPES.given("train"))
    made: CodeCrops = SHAPES.code_crops(known, 16, 4, 1, seed=0)
    for batch in (made.at(0), known.batch([7, 3])):
        assert batch.cond is not None
        for number, actions in zip(batch.x[:, 0, 0, 0, 0].tolist(), batch.cond, strict=True):
            np.testing.assert_array_equal(actions, SHAPES.given("train")[number])


# --- the recipe ---------------------------------------------------------------------------------------------


def test_clips_are_taken_whole() -> None:
    made = recipe()
    assert made.prior is not None
    assert (made.hop, made.train.crop, made.prior.crop, made.grid) == (1, T, T, GRID)
    assert parse_recipe(made.model_dump(mode="json"), "again") == made


@pytest.mark.parametrize(
    ("section", "change", "says"),
    [
        ("train", {"crop": 4}, "train.crop 4: clips of video are taken whole; leave it out"),
        ("data", {"size": 18}, "data.size 18 must be a multiple of the hop, 4"),
        ("evaluation", {"given": T}, f"evaluation.given {T}: must leave some of data.frames, {T}"),
        (
            "prior",
            {"network": {"kind": "pixelcnn"}},
            "prior.network: kind 'pixelcnn' is for images or codes; for video",
        ),
        ("prior", {"joint": True}, "prior.joint: is for speech"),
        ("data", {"kind": "cifar10"}, "data.frames: unknown key"),
        ("model", {"jitter": 0.1}, "jitter 0.1 is for speech"),
        ("model", {"decoder": {"kind": "image"}}, "an encoder of kind 'frames' reads video, a decoder of kind 'image'"),
    ],
)
def test_what_does_not_fit_is_refused(section: str, change: dict[str, Any], says: str) -> None:
    tree = {key: value | change if key == section else value for key, value in TREE.items()}
    with pytest.raises(WavevqError) as error:
        parse_recipe(tree, "it")
    assert says in str(error.value)


# --- frames through the networks of images ------------------------------------------------------------------


def test_a_frame_is_encoded_and_decoded_as_an_image_alone() -> None:
    torch.manual_seed(0)
    model = build_model(recipe(), len(KINDS)).eval()
    encoder, decoder = model.encoder, model.decoder
    assert isinstance(encoder, FrameEncoder)
    assert isinstance(decoder, FrameDecoder)
    batch = build_corpus(recipe()).examples("train", [0, 1])
    with torch.no_grad():
        latents = model.encode(batch.x, batch.lengths)
        assert latents.codes is not None
        assert latents.codes.shape == (2, *GRID)
        mask = torch.ones(2, T, SIZE, SIZE, dtype=torch.bool)
        nats = decoder.nll(batch.x, latents.z, batch.label, mask)
        noise = uniform(0, range(2), batch.x[0].numel()).view(batch.x.shape)
        drawn, mean = (f(latents.z, batch.label, noise, None) for f in (decoder.sample, decoder.reconstruct))
        alone = 0.0
        for frame in range(T):
            x = batch.x[:, :, frame]
            z = encoder.image(x, torch.tensor([SIZE, SIZE]))
            # float32, in products of other heights
            torch.testing.assert_close(
                latents.z[:, frame], model.bottleneck(z, mask[:, 0, :4, :4, None].expand(-1, -1, -1, G)).z
            )
            alone += decoder.frame.nll(x, latents.z[:, frame], batch.label, mask[:, frame])
            one = latents.z[:, frame], batch.label, noise[:, :, frame], None
            torch.testing.assert_close(mean[:, :, frame], decoder.frame.reconstruct(*one))
            torch.testing.assert_close(drawn[:, :, frame], decoder.frame.sample(*one))
        torch.testing.assert_close(nats, alone)


def test_padding_frames_have_no_latents() -> None:
    model = build_model(recipe(), len(KINDS)).eval()
    batch = build_corpus(recipe()).examples("train", [0, 1])
    z = model.encoder(batch.x, torch.tensor([T, 2]))
    whole = model.encoder(batch.x, batch.lengths)
    assert not z[1, 2:].any()
    torch.testing.assert_close(z[1, :2], whole[1, :2])


# --- the prior: what a code sees ----------------------------------------------------------------------------


def prior(**network: int) -> Prior:
    """In float64, of random weights: it begins at the uniform distribution, which would hide everything before it."""
    torch.manual_seed(1)
    tree = copy.deepcopy(TREE["prior"])
    tree["network"] |= network
    made_of = recipe(prior=tree)
    assert made_of.prior is not None
    made = build_prior(made_of, made_of.prior, len(KINDS)).double().eval()
    assert isinstance(made.network, VideoPixelNetwork)
    nn.init.normal_(made.network.frame.output, std=0.3)
    nn.init.normal_(made.network.frame.output_bias)
    return made


def reached(net: VideoPixelNetwork, x: Tensor, actions: Tensor, place: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Bool ``[t, h, w, G]`` and ``[t]``: the codes and actions that the gradient of the logits at ``place`` reaches.

    Every code, and every action, is a class of its own, so that its row of the tables has its gradient alone.
    """
    net.zero_grad()
    c = torch.ones(1, 3, dtype=torch.float64)
    net(x, actions, c)[(0, *place)].square().sum().backward()
    seen = torch.zeros(x.shape[1:], dtype=torch.bool)
    earlier = [table.weight for table in net.past.embedding]
    for tables in (earlier, net.frame.embedding, net.frame.within):
        for g, table in enumerate(tables):
            if table.grad is not None:
                seen[..., g] |= (table.grad[x[0, ..., g]] != 0).any(-1)
    acted = net.past.action.weight.grad
    assert acted is not None
    return seen, (acted[actions[0]] != 0).any(-1)


def network(grid: tuple[int, ...], past_layers: int) -> tuple[VideoPixelNetwork, Tensor, Tensor]:
    """Where every code and every action is a class of its own."""
    torch.manual_seed(2)
    every = math.prod(grid)
    frame = prior().network.frame
    made = copy.deepcopy(frame)
    past = Past(codes=every, groups=grid[3], actions=grid[0], width=24, layers=past_layers).double()
    wide = type(made)(
        classes=every, groups=grid[3], layers=6, kernel=3, residual=16, gate=6, head=24, cond_dim=24 + 3
    ).double()
    nn.init.normal_(wide.output, std=0.5)
    nn.init.normal_(wide.hidden_bias)
    return VideoPixelNetwork(past, wide), torch.arange(every).view(1, *grid), torch.arange(grid[0])[None]


@pytest.mark.parametrize(("grid", "past_layers"), [((5, 3, 3, 1), 3), ((4, 2, 4, 2), 2), ((3, 3, 1, 3), 2)])
def test_a_code_sees_every_earlier_one_and_none_other(grid: tuple[int, ...], past_layers: int) -> None:
    net, x, actions = network(grid, past_layers)
    earlier = torch.zeros(math.prod(grid), dtype=torch.bool)
    frame = math.prod(grid[1:])
    for number, place in enumerate(torch.cartesian_prod(*map(torch.arange, grid)).tolist()):
        codes, acted = reached(net, x, actions, tuple(place))
        assert torch.equal(codes, earlier.view(grid)), place
        # Its own frame's action and those before it.
        assert acted.tolist() == [t <= number // frame for t in range(grid[0])]
        earlier[number] = True


def test_how_far_back_it_sees() -> None:
    layers = 2
    net, x, actions = network((7, 11, 11, 1), layers)
    net.past(x, actions)[0, 6, 5, 0].square().sum().backward()
    (table,) = net.past.embedding
    codes = (table.weight.grad != 0).any(-1).view(x.shape[1:])[..., 0]
    assert codes[:, 5, 0].tolist() == [2 <= t < 6 for t in range(7)]  # 2^layers frames
    assert codes[5, 5].tolist() == [column <= 2 * layers for column in range(11)]
    assert codes[5, :, 0].tolist() == [abs(row - 5) <= 2 * layers for row in range(11)]
    acted = (net.past.action.weight.grad != 0).any(-1)
    assert acted.tolist() == [t >= 3 for t in range(7)]


def test_changing_a_code_changes_later_logits_only() -> None:
    made = prior()
    x, actions, label = torch.randint(K, (1, *GRID)), torch.randint(len(ACTIONS), (1, T)), torch.tensor([1])
    right = made.logits(x, label, actions)
    assert right.shape == (1, *GRID, K)
    for place in range(0, x.numel(), 3):
        changed = x.clone()
        changed.view(-1)[place] = (x.view(-1)[place] + 1) % K
        differs = (made.logits(changed, label, actions) != right).any(-1).flatten()
        assert not differs[: place + 1].any()
        assert differs[place + 1 : place + 2].all()
    for frame in range(T):
        changed = actions.clone()
        changed[0, frame] = (actions[0, frame] + 1) % len(ACTIONS)
        differs = (made.logits(x, label, changed) != right).any(-1)[0].flatten(1).any(1)
        assert differs.tolist() == [t >= frame for t in range(T)]
    assert (made.logits(x, label + 1, actions) != right).any(-1).all()


# --- the prior: likelihood and sampling ---------------------------------------------------------------------


def codes_of(count: int) -> Codes:
    generator = np.random.default_rng(0)
    actions = [generator.integers(0, len(ACTIONS), T) for _ in range(count)]
    return Codes([generator.integers(0, K, GRID) for _ in range(count)], [i % 4 for i in range(count)], actions)


def test_the_likelihood_is_the_product_of_the_softmaxes() -> None:
    made = prior()
    batch = codes_of(3).batch([0, 1, 2])
    mask = torch.ones(3, *GRID, dtype=torch.bool)
    mask[:, :2] = False
    assert batch.cond is not None
    own = made.logits(batch.x, batch.label, batch.cond).log_softmax(-1).gather(-1, batch.x[..., None])[..., 0]
    torch.testing.assert_close(made.nll(batch.x, batch.label, mask, batch.cond), -(own * mask).flatten(1).sum(1))
    made.drop = 0.0
    loss = made.training_loss(batch).loss  # the actions are no mark of where a row begins: all frames are learned
    torch.testing.assert_close(loss, -own.mean())
    with pytest.raises(AssertionError, match="depend on actions"):
        made.nll(batch.x, batch.label, mask)


def test_rates_tell_what_the_actions_are_worth() -> None:
    made, held_out = prior().float(), codes_of(4)
    found = rate.measure(made, held_out, rate.counts(held_out, K), batch=4, others=None, seed=0)
    batch = held_out.batch(range(4))
    mask = torch.ones(4, *GRID, dtype=torch.bool)
    assert batch.cond is not None
    own, other = (
        made.nll(batch.x, batch.label, mask, given).sum().item() / found.codes / math.log(2)
        for given in (batch.cond, batch.cond.roll(1, 0))
    )
    assert found.bits == pytest.approx(own, rel=1e-5)  # float32 sums of other heights
    assert found.wrong_actions_gap == pytest.approx(other - own, rel=1e-3, abs=1e-6)
    assert any("ignores the actions" in line for line in rate.warnings(found)) == (other <= own)


class Taught(nn.Module):
    """The prior as ``mismatches`` takes a network: the actions are its conditioning."""

    def __init__(self, made: Prior, label: Tensor) -> None:
        super().__init__()
        self.prior, self.label = made, label

    def forward(self, codes: Tensor, actions: Tensor) -> Tensor:
        return self.prior.logits(codes, self.label, actions.long())


@pytest.mark.parametrize("given", [0, 2])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_frame_by_frame_it_draws_what_the_parallel_forward_says(backend: Any, given: int) -> None:
    made = prior().float()
    count, further = 3, T - given
    batch = codes_of(count).batch(range(count))
    assert batch.cond is not None
    noise = uniform(7, range(count), further * math.prod(GRID[1:])).view(count, further, *GRID[1:])
    sampler = choose_grid(backend, "bfloat16")
    how = 0.9, 0.95
    drawn = made.sample_frames(batch.label, batch.cond, batch.x[:, :given], noise, sampler, *how)
    assert drawn.shape == (count, *GRID)
    assert torch.equal(drawn[:, :given], batch.x[:, :given])
    taught = copy.deepcopy(made)
    assert isinstance(taught.network, VideoPixelNetwork)
    taught.network.frame = rounded(taught.network.frame)
    assert faithful(*mismatches(Taught(taught, batch.label), batch.cond, drawn, noise, *how))
    alone = made.sample_frames(
        batch.label[1:2], batch.cond[1:2], batch.x[1:2, :given], noise[1:2], sampler, *how
    )  # fmt: skip
    assert torch.equal(alone, drawn[1:2])


def test_every_parameter_is_trained() -> None:
    made = prior().float()
    batch = codes_of(8).batch(range(8))
    made.training_loss(Batch(batch.x, batch.label, batch.lengths, batch.index, batch.cond)).loss.backward()
    assert [name for name, p in made.named_parameters() if p.grad is None or not p.grad.any()] == []

"""The figures of a validation, on stores and models whose answers are known."""

from __future__ import annotations

import copy
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from wavevq.audio import mu_law_decode
from wavevq.build import build_model
from wavevq.data.batches import whole_clips
from wavevq.data.store import Store, StoredClip
from wavevq.evaluate.codebook import Usage, entropy_bits, usage
from wavevq.evaluate.likelihood import Likelihoods, derangement, encode_all, fitted, measure
from wavevq.evaluate.validation import Validator, warnings
from wavevq.recipe import Evaluation, parse_recipe
from wavevq.vqvae import VqVae

HOP, K, Q = 4, 6, 8
SPEAKERS = ("ann", "bob", "eve")
# Of each speaker: ann and bob have several clips to exchange codes, eve has one, and takes those of a training clip.
VAL = {"ann": (40, 17, 9), "bob": (33, 4), "eve": (21,)}


def store(values: np.ndarray | None = None) -> Store:
    """Clips of random samples, or of ``values`` over and over."""
    clips, start = [], 0
    for split, lengths in (("train", dict.fromkeys(SPEAKERS, (30, 50))), ("val", VAL), ("val_unseen", {"zoe": (20,)})):
        for speaker, sizes in lengths.items():
            for i, size in enumerate(sizes):
                clips.append(StoredClip(f"{split}/{speaker}_{i}", speaker, split, start, size, None))
                start += size
    noise = np.random.default_rng(0).normal(0, 4000, start).astype(np.int16)
    samples = noise if values is None else np.resize(values, start)
    return Store(Path("nowhere"), 8000, SPEAKERS, tuple(clips), 0, (), {}, samples)


def model(kind: str = "ema") -> VqVae:
    """A model in evaluation mode, its weights random, also those that begin at zero."""
    bottleneck: dict[str, Any] = {"kind": kind, "dim": 3, **({"codes": K} if kind == "ema" else {})}
    widths = dict.fromkeys(("residual", "gate", "skip", "head", "context", "speaker_dim"), 4)
    tree = {
        "data": {"kind": "folder"},
        "model": {
            "encoder": {"kind": "waveform", "strides": [2, 2], "channels": 4},
            "bottleneck": bottleneck,
            "decoder": {"kind": "wavenet", "layers": 3, "cycle": 2, "context_layers": 1, "classes": Q, **widths},
        },
        "train": {"steps": 5, "crop": 32},
    }
    made = build_model(parse_recipe(tree, "tiny"), len(SPEAKERS))
    generator = torch.Generator().manual_seed(2)
    for p in made.parameters():
        p.data = torch.randn(p.shape, generator=generator)
    return made.eval()


def found(
    vae: VqVae, held: Store, split: str = "val", batch: int = 4, seed: int = 1, **more: int | None
) -> Likelihoods:
    return measure(vae, held, split, batch=batch, limit=more.get("limit"), others=more.get("others"), seed=seed)


def nll(vae: VqVae, held: Store, clip: StoredClip, codes: Tensor, label: int) -> float:
    """Bits of one clip, alone."""
    x = torch.zeros(1, 1, -(-clip.length // HOP) * HOP)
    x[0, 0, : clip.length] = torch.from_numpy(held.audio(clip))
    mask = (torch.arange(x.shape[-1]) < clip.length)[None]
    with torch.no_grad():
        z = vae.bottleneck.lookup(codes[None])
        return vae.decoder.nll(x, z, torch.tensor([label]), mask).item() / math.log(2)


# --- the pass -----------------------------------------------------------------------------------------------


def test_every_figure_equals_its_definition_clip_by_clip() -> None:
    vae, held = model(), store()
    result = found(vae, held, seed=5)
    clips = held.split("val")
    codes = {}
    for split in ("train", "val"):
        for i, code in encode_all(vae, whole_clips(held, split, 1, HOP)).items():
            codes[held.split(split)[i].name] = code
    samples = sum(clip.length for clip in clips)
    labels = [SPEAKERS.index(clip.speaker) for clip in clips]
    own = [nll(vae, held, clip, codes[clip.name], label) for clip, label in zip(clips, labels, strict=True)]
    wrong = [
        np.mean([nll(vae, held, clip, codes[clip.name], other) for other in range(3) if other != label])
        for clip, label in zip(clips, labels, strict=True)
    ]
    donors = derangement([clip.speaker for clip in clips], 5)
    assert len(donors) == 5
    shuffled = []
    for i, (clip, label) in enumerate(zip(clips, labels, strict=True)):
        donor = clips[donors[i]].name if i in donors else "train/eve_0"
        assert donor != clip.name
        shuffled.append(nll(vae, held, clip, fitted(codes[donor], len(codes[clip.name])), label))
    # Float32 sums of at most 40 samples in batches of other shapes: 1e-6 of each; the gaps are differences of them.
    assert result.bits == pytest.approx(sum(own) / samples, rel=1e-5)
    assert result.shuffled_gap == pytest.approx((sum(shuffled) - sum(own)) / samples, abs=1e-4)
    assert result.wrong_speaker_gap == pytest.approx((sum(wrong) - sum(own)) / samples, abs=1e-4)
    assert (abs(result.shuffled_gap) > 0.01, abs(result.wrong_speaker_gap) > 0.01) == (True, True)
    expected = torch.bincount(torch.cat([codes[clip.name] for clip in clips]), minlength=K)
    assert torch.equal(result.usage.counts, expected)
    assert (result.clips, result.samples) == (len(clips), samples)


@pytest.mark.parametrize("kind", ["vae", "none"])
def test_without_codes_the_latents_are_exchanged_and_the_rate_counts(kind: str) -> None:
    vae, held = model(kind), store()
    result = found(vae, held, seed=5)
    clips, encoded = held.split("val"), {}
    rate = 0.0
    for split in ("train", "val"):
        for one in whole_clips(held, split, 1, HOP):
            latents = vae.encode(one.x, one.lengths, one.index)  # a VAE's drawn, the clip's place naming its noise
            encoded[held.split(split)[int(one.index)].name] = latents.z[0].detach()
            if split == "val" and latents.rate is not None:
                rate += latents.rate.item() / math.log(2)
    samples = sum(clip.length for clip in clips)
    labels = [SPEAKERS.index(clip.speaker) for clip in clips]
    own = [nll(vae, held, clip, encoded[clip.name], label) for clip, label in zip(clips, labels, strict=True)]
    donors = derangement([clip.speaker for clip in clips], 5)
    shuffled = []
    for i, (clip, label) in enumerate(zip(clips, labels, strict=True)):
        donor = clips[donors[i]].name if i in donors else "train/eve_0"
        shuffled.append(nll(vae, held, clip, fitted(encoded[donor], len(encoded[clip.name])), label))
    # As above: float32 sums in batches of other shapes.
    assert result.bits == pytest.approx((sum(own) + rate) / samples, rel=1e-5)
    assert result.shuffled_gap == pytest.approx((sum(shuffled) - sum(own)) / samples, abs=1e-4)
    assert abs(result.shuffled_gap or 0) > 0.01
    assert result.rate == (pytest.approx(rate / samples, rel=1e-5) if kind == "vae" else None)
    assert result.usage is None
    assert found(vae, held, seed=5, batch=1).bits == pytest.approx(result.bits, rel=1e-5)
    deaf = model(kind)
    deaf.decoder.widen.weight.data.zero_()
    assert any("ignores its latents" in line for line in warnings(found(deaf, held)))


def only(held: Store, split: str, count: int) -> Store:
    """Of that split the first ``count`` clips of each speaker, of the others all."""
    seen: Counter[str] = Counter()
    clips = []
    for clip in held.clips:
        seen[clip.speaker] += clip.split == split
        if clip.split != split or seen[clip.speaker] <= count:
            clips.append(clip)
    return replace(held, clips=tuple(clips))


def test_speakers_of_one_clip_each_take_the_codes_of_their_first_training_clip() -> None:
    vae, held = model(), only(store(), "val", 1)
    clips = held.split("val")
    assert [clip.speaker for clip in clips] == list(SPEAKERS)
    codes = encode_all(vae, whole_clips(held, "val", 1, HOP))
    training = encode_all(vae, whole_clips(held, "train", 1, HOP))
    donors = {clip.speaker: training[i] for i, clip in enumerate(held.split("train")) if clip.name.endswith("_0")}
    more = 0.0
    for i, clip in enumerate(clips):
        other = fitted(donors[clip.speaker], len(codes[i]))
        more += nll(vae, held, clip, other, i) - nll(vae, held, clip, codes[i], i)
    # As above: float32 sums in batches of other shapes.
    assert found(vae, held).shuffled_gap == pytest.approx(more / sum(clip.length for clip in clips), abs=1e-4)


def test_where_nobody_has_a_second_clip_there_is_no_shuffled_gap() -> None:
    """Of the training split no other clips are taken: they would be those that are measured."""
    vae, held = model(), store()
    result = found(vae, only(held, "train", 1), "train")
    assert result.shuffled_gap is None
    assert result.clips == len(SPEAKERS)
    # One speaker with two is enough, and it is of that one's clips alone.
    mixed = replace(held, clips=tuple(c for c in held.clips if c.speaker == "bob" or c.name.endswith("_0")))
    pair = replace(held, clips=tuple(c for c in held.clips if c.speaker == "bob"))
    assert found(vae, mixed, "train").shuffled_gap == pytest.approx(found(vae, pair, "train").shuffled_gap, abs=1e-4)


def test_the_marginal_entropy_of_a_known_histogram() -> None:
    """Half of the samples of one class, a quarter of two others: 1.5 bits."""
    values = mu_law_decode(torch.tensor([1, 1, 4, 6]), Q).numpy()
    result = found(model(), store((values * 32_767).round().astype(np.int16)))
    # The clips' lengths do not divide into whole periods, which leaves a sample or two a clip.
    assert result.marginal == pytest.approx(1.5, abs=0.05)
    constant = found(model(), store(np.array([700], np.int16)))
    assert constant.marginal == 0


def test_a_model_that_knows_nothing_has_the_uniform_bits() -> None:
    vae = model()
    vae.decoder.wavenet.output.weight.data.zero_()
    vae.decoder.wavenet.output.bias.data.zero_()
    result = found(vae, store())
    assert result.bits == pytest.approx(math.log2(Q), rel=1e-6)
    assert result.shuffled_gap == pytest.approx(0, abs=1e-6)


def test_a_decoder_that_ignores_its_codes_has_no_shuffled_gap() -> None:
    deaf = model()
    deaf.decoder.widen.weight.data.zero_()
    result = found(deaf, store())
    assert result.shuffled_gap == 0
    assert abs(result.wrong_speaker_gap or 0) > 0.01
    assert any("ignores its codes" in line for line in warnings(result))


def test_a_decoder_that_ignores_the_speaker_has_no_wrong_speaker_gap() -> None:
    deaf = model()
    deaf.decoder.speaker.weight.data[:] = deaf.decoder.speaker.weight.data[:1].clone()
    result = found(deaf, store())
    assert result.wrong_speaker_gap == pytest.approx(0, abs=1e-9)  # a mean of two equal sums
    assert abs(result.shuffled_gap or 0) > 0.01
    assert any("ignores the speaker" in line for line in warnings(result)) == ((result.wrong_speaker_gap or 0) <= 0)


def test_batches_change_nothing_and_nothing_changes_the_model() -> None:
    vae, held = model(), store()
    before = copy.deepcopy(vae.state_dict())
    results = [found(vae, held, batch=batch) for batch in (1, 2, 6, 100)]
    for name, value in vae.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not vae.training
    for other in results[1:]:
        # Float32 products of other shapes round otherwise, by about 1e-7 of each.
        for name in ("bits", "shuffled_gap", "wrong_speaker_gap"):
            assert getattr(other, name) == pytest.approx(getattr(results[0], name), abs=1e-5), name
        assert torch.equal(other.usage.counts, results[0].usage.counts)
        assert other.marginal == results[0].marginal


def test_fewer_clips_and_fewer_speakers() -> None:
    vae, held = model(), store()
    some = found(vae, held, limit=2)
    assert some.clips == 2
    assert some.samples < found(vae, held).samples
    one_other = found(vae, held, others=1)
    assert one_other.bits == found(vae, held).bits
    assert one_other.wrong_speaker_gap != found(vae, held).wrong_speaker_gap
    assert found(vae, held, others=2).wrong_speaker_gap == found(vae, held).wrong_speaker_gap
    assert found(vae, held, others=1).wrong_speaker_gap == one_other.wrong_speaker_gap


def test_alone_a_speaker_has_no_other() -> None:
    clips = tuple(clip for clip in store().clips if clip.speaker == "eve")
    lonely = Store(Path("nowhere"), 8000, ("eve",), clips, 0, (), {}, store().samples)
    assert found(model(), lonely).wrong_speaker_gap is None
    assert found(model(), lonely).shuffled_gap is not None
    untrained = Store(
        Path("nowhere"), 8000, ("eve",), tuple(c for c in clips if c.split == "val"), 0, (), {}, store().samples
    )
    assert found(model(), untrained).shuffled_gap is None


def test_speakers_that_were_not_trained_have_no_likelihood() -> None:
    with pytest.raises(ValueError, match="not in training"):
        found(model(), store(), "val_unseen")
    assert all((batch.label >= 0).all() for batch in whole_clips(store(), "val", 2, HOP))


# --- exchanging codes ---------------------------------------------------------------------------------------


def test_a_derangement_leaves_nobody_and_no_group() -> None:
    rng = np.random.default_rng(0)
    for seed in range(50):
        groups = [f"speaker {i}" for i in rng.integers(0, 8, 30)] + ["alone"]
        taken = derangement(groups, seed)
        several = {i for i, group in enumerate(groups) if groups.count(group) > 1}
        assert taken.keys() == several == set(taken.values())
        assert all(groups[a] == groups[b] and a != b for a, b in taken.items())
        assert taken == derangement(groups, seed)
    pairs = ["a"] * 20
    assert derangement(pairs, 0) != derangement(pairs, 1)
    assert derangement(["a", "b"], 0) == derangement([], 0) == {}
    # A group's exchange is its own: other groups' clips change nothing of it.
    assert derangement([*pairs, "b", "b"], 0) == {**derangement(pairs, 0), 20: 21, 21: 20}


def test_codes_are_cut_or_repeated() -> None:
    codes = torch.tensor([3, 1, 2])
    assert fitted(codes, 2).tolist() == [3, 1]
    assert fitted(codes, 3).tolist() == [3, 1, 2]
    assert fitted(codes, 8).tolist() == [3, 1, 2, 3, 1, 2, 3, 1]


# --- usage and warnings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "used", "perplexity"),
    [([5, 5, 5, 5], 4, 4), ([9, 0, 0, 0], 1, 1), ([0, 0, 0, 0], 0, 0), ([2, 1, 1, 0], 3, 2**1.5), ([1], 1, 1)],
)
def test_usage_of_known_counts(counts: list[int], used: int, perplexity: float) -> None:
    known = Usage(torch.tensor(counts))
    assert known.used == used
    assert known.perplexity == pytest.approx(perplexity, rel=1e-12)
    assert known.share == pytest.approx(perplexity / len(counts), rel=1e-12)


def test_usage_counts_over_clips() -> None:
    assert usage([torch.tensor([0, 2, 2]), torch.tensor([[2, 1]])], 4).counts.tolist() == [1, 1, 3, 0]
    assert usage([], 4).counts.tolist() == [0] * 4
    assert entropy_bits(torch.ones(8)) == 3


def likelihoods(counts: list[int], shuffled: float | None = 0.5, wrong: float | None = 0.5) -> Likelihoods:
    return Likelihoods(3.0, 6.0, shuffled, wrong, Usage(torch.tensor(counts)), 3, 100)


def test_what_is_said_aloud() -> None:
    even = [1] * 100
    assert warnings(likelihoods(even)) == []
    assert warnings(likelihoods(even, None, None)) == []
    assert warnings(likelihoods([1] * 6 + [0] * 94)) == []
    assert warnings(likelihoods([1] * 4 + [0] * 96)) == ["the codebook has collapsed: 4 of 100 codes, perplexity 4.0"]
    # One code of four is a large share, and still says nothing of any clip.
    assert warnings(likelihoods([9, 0, 0, 0])) == ["the codebook has collapsed: 1 of 4 codes, perplexity 1.0"]
    [codes] = warnings(likelihoods(even, -0.001))
    assert codes == "the decoder ignores its codes: another clip's serve as well (-0.001 bits/sample)"
    [speaker] = warnings(likelihoods(even, 0.5, 0.0))
    assert speaker == "the decoder ignores the speaker: any other serves as well (+0.000 bits/sample)"


def test_a_validator_takes_some_clips_during_training_and_all_at_its_end() -> None:
    vae, held = model(), store()
    before = copy.deepcopy(vae.state_dict())
    said: list[str] = []
    plan = Evaluation(clips=2, sampled=2, sampled_seconds=0.001)
    validate = Validator(vae, held, plan, steps=10, seed=0, say=said.append)
    during, last = validate(5), validate(10)
    assert said == ["validating: 2 clips", "validating: 6 clips"]
    assert (during.scalars["clips"], last.scalars["clips"]) == (2, 6)
    whole = found(vae, held, batch=8, seed=0)
    expected = {
        "bits_per_sample": whole.bits,
        "marginal_bits": whole.marginal,
        "shuffled_codes_gap": whole.shuffled_gap,
        "wrong_speaker_gap": whole.wrong_speaker_gap,
        "codes_used": whole.usage.used,
        "codes": K,
        "perplexity": whole.usage.perplexity,
        "perplexity_share": whole.usage.share,
        "clips": 6,
    }
    assert last.scalars == expected
    assert last.warnings == tuple(warnings(whole))
    # What was sampled is called so, and stands beside its original.
    assert sorted(name.split(" ", 1)[1] for name in last.clips) == ["original"] * 2 + ["reconstruction, sampled"] * 2
    sizes = {clip.name: min(8, clip.length) for clip in held.split("val")}
    assert all(len(clip.samples) == sizes[name.split(" ", 1)[0]] for name, clip in last.clips.items())
    assert {clip.rate for clip in last.clips.values()} == {8000}
    assert validate(10).clips.keys() == last.clips.keys()
    assert all(np.array_equal(validate(10).clips[name].samples, clip.samples) for name, clip in last.clips.items())
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())

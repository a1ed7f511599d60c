"""A model of another's codes, trained, measured and used as any other: images through both (paper, section 4.2)."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from commands import good, refused
from test_image_run import TREE as FIRST
from test_image_run import G, K, pets

from wavevq import pixels
from wavevq.build import build_corpus
from wavevq.codes_file import read_codes
from wavevq.data.coded import CodedCorpus
from wavevq.errors import WavevqError
from wavevq.evaluate.likelihood import measure
from wavevq.evaluate.pictures import code_map
from wavevq.evaluate.record import read_record
from wavevq.evaluate.validation import Validator
from wavevq.image_run import ImageRun, load_any, load_image_run
from wavevq.noise import BELOW, derived, uniform
from wavevq.recipe import Coded, Evaluation, Recipe, parse_recipe
from wavevq.sampling import choose_grid
from wavevq.sampling.pixelcnn_reference import naive

SIZE = 8
K2, G2 = 5, 3  # the paper's three codes an image, at one position
WORDS = ("--sampler", "reference")
SECOND: dict[str, Any] = {
    "data": {"kind": "codes", "run": "first"},
    "model": {
        "encoder": {
            "kind": "codes",
            "strides": [2],
            "embedding": 5,
            "groups": G2,
            "channels": 6,
            "residual": 4,
            "residual_blocks": 1,
        },
        "bottleneck": {"kind": "ema", "codes": K2, "dim": 3},
        "decoder": {
            "kind": "pixelcnn",
            "layers": 2,
            "kernel": 3,
            **dict.fromkeys(("residual", "gate", "head", "context"), 6),
        },
    },
    "train": {"steps": 6, "batch": 4, "save_every": 3, "log_every": 2, "warmup": 0, "learning_rate": 0.01},
    "prior": FIRST["prior"],
    "evaluation": {"batch": 3, "sampled": 4},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the corpus ``pets``, its run ``first``, ``second.yaml`` and the run ``second``; the current one."""
    folder = tmp_path_factory.mktemp("levels")
    pets(folder / "pets")
    (folder / "first.yaml").write_text(yaml.safe_dump(FIRST))
    (folder / "second.yaml").write_text(yaml.safe_dump(SECOND))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        good("train", "first.yaml", "--run", "first")
        good("train", "second.yaml", "--run", "second")
        yield folder


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


@pytest.fixture(scope="module")
def run(place: Path) -> ImageRun:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        return load_image_run("second", device="cpu", sampler="reference")


@pytest.fixture(scope="module")
def corpus(run: ImageRun, place: Path) -> CodedCorpus:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        found = build_corpus(run.recipe)
    assert isinstance(found, CodedCorpus)
    return found


def first_of(run: ImageRun) -> ImageRun:
    assert run.below is not None
    return run.below


# --- the recipe and the corpus ------------------------------------------------------------------------------


def test_sizes_are_those_of_the_first_run(run: ImageRun) -> None:
    recipe = run.recipe
    assert (recipe.size, recipe.space, recipe.grid, recipe.train.crop) == (SIZE, (2, 2), (1, 1, G2), 2)
    assert recipe.prior is not None
    assert recipe.prior.crop == 1
    decoder = run.model.decoder
    assert (decoder.network.classes, decoder.network.groups, decoder.unit) == (K, G, "code")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data": {"kind": "codes", "run": "none"}}, "data: run none: not a run folder, and there is no run of this"),
        ({"data": {"kind": "codes", "run": "speech"}}, "data: run speech: is of speech; must be of images"),
        ({"data": {"kind": "codes", "run": "plain"}}, "data: run plain: its bottleneck is 'none' and has no codes"),
        (
            {"model": SECOND["model"] | {"encoder": {"kind": "codes", "strides": [4]}}},
            "data.run's codes, 2 x 2, must be a multiple of the hop, 4",
        ),
        ({"train": SECOND["train"] | {"crop": 8}}, "train.crop 8: codes are taken whole; leave it out"),
        (
            {"model": SECOND["model"] | {"decoder": {"kind": "image"}}},
            "reads codes, a decoder of kind 'image' makes im",
        ),
        ({"data": FIRST["data"]}, "model.encoder: kind 'codes' reads codes, and data of kind 'images' are images"),
    ],
)
def test_what_does_not_fit_the_first_run_is_told(here: Path, changes: dict[str, Any], says: str) -> None:
    speech = {
        "data": {"kind": "folder"},
        "model": {"encoder": {"kind": "waveform"}, "bottleneck": {"kind": "ema"}, "decoder": {"kind": "wavenet"}},
        "train": {"steps": 1},
    }
    plain = FIRST | {"model": FIRST["model"] | {"bottleneck": {"kind": "none"}}, "prior": None}
    for name, tree in (("speech", speech), ("plain", plain)):
        Path(name).mkdir(exist_ok=True)
        Path(name, "recipe.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(WavevqError, match=says):
        parse_recipe(json.loads(json.dumps(SECOND)) | changes, "r.yaml")


def test_a_first_run_that_is_not_trained_is_told(here: Path) -> None:
    Path("begun").mkdir(exist_ok=True)
    shutil.copy("first/recipe.yaml", "begun")
    said = refused("train", "second.yaml", "--set", "data.run=begun", "--run", "no")
    assert said == "begun: has no finished VQ-VAE whose codes could be learned; train that first (data.run)"
    assert not Path("no").exists()


def test_the_corpus_is_the_codes_of_each_image_in_its_place(run: ImageRun, corpus: CodedCorpus) -> None:
    first, base = first_of(run), corpus.base
    assert (corpus.labels, corpus.items, corpus.whose) == (("cat", "dog"), "images", "class")
    for split in ("train", "val"):
        assert [one.name for one in corpus.split(split)] == [one.name for one in base.split(split)]
        there = corpus.examples(split, [3, 0])
        assert (there.x.dtype, there.x.shape) == (torch.int64, (2, G, 2, 2))
        for row, place in enumerate((3, 0)):
            (image,) = pixels.to_images(base.examples(split, [place]).x)
            np.testing.assert_array_equal(there.x[row].movedim(0, -1), first.encode(image))
        assert there.label.tolist() == base.examples(split, [3, 0]).label.tolist()
    every = [one.tobytes() for one in corpus.codes("train").sequences]
    crops = corpus.crops(2, 7, seed=0)
    seen = [row for step in range(crops.steps_per_epoch) for row in crops.at(step, 0, 1).x.movedim(1, -1)]
    assert crops.steps_per_epoch == 2
    assert sorted(row.numpy().tobytes() for row in seen) == sorted(every)  # 14 images, two batches of seven
    assert corpus.describe().splitlines()[1] == f"its codes: 2 x 2 x {G} of {K}, by first"


# --- training -----------------------------------------------------------------------------------------------


def test_both_stages_are_trained_and_validated(here: Path) -> None:
    found = json.loads(Path("second/summary.json").read_text())
    assert found["images"] == 6
    assert 0 < found["bits_per_code"] < 2 * math.log2(K)
    assert 0 < found["marginal_bits"] <= math.log2(K)
    assert not {"bits_per_dim", "bits_per_sample"} & found.keys()
    prior = json.loads(Path("second/prior/summary.json").read_text())
    assert prior["codes"] == 6 * G2
    lines = [json.loads(line) for line in Path("second/metrics.jsonl").read_text().splitlines()]
    assert all(line["images_per_second"] > 0 for line in lines if line["kind"] == "train")


def test_a_run_goes_on_where_it_stopped(here: Path) -> None:
    shutil.copytree("second", "parts")
    for later in ("checkpoints/step-00000006", "prior"):
        shutil.rmtree(Path("parts", later))
    Path("parts/summary.json").unlink()
    good("train", "second.yaml", "--run", "parts", "--resume")
    for place in (".", "prior"):
        newest = max(Path("second", place, "checkpoints").glob("step-*"))
        for path in newest.glob("*.safetensors"):
            again = Path("parts") / path.relative_to("second")
            assert again.read_bytes() == path.read_bytes()


def test_bits_a_code_are_those_of_every_code(run: ImageRun, corpus: CodedCorpus) -> None:
    found = measure(run.model, corpus, "val", batch=4, limit=None, others=None, seed=0)
    bits = 0.0
    for place in range(6):
        one = corpus.examples("val", [place])
        with torch.no_grad():
            latents = run.model.encode(one.x, one.lengths)
            there = one.x.movedim(1, -1)
            logits = run.model.decoder.network(there, run.model.decoder.conditioning(latents.z, one.label))
            bits -= logits.double().log_softmax(-1).gather(-1, there[..., None]).sum().item() / math.log(2)
    assert found.samples == 6 * 2 * 2 * G
    assert found.bits == pytest.approx(bits / found.samples, rel=1e-5)  # float32, in another order
    every = torch.from_numpy(np.stack(corpus.codes("val").sequences)).flatten()
    share = every.bincount(minlength=K) / len(every)
    assert found.marginal == pytest.approx(-(share[share > 0] * share[share > 0].log2()).sum().item(), rel=1e-5)


def test_codes_stand_as_colours_above_those_drawn_from_them(run: ImageRun, corpus: CodedCorpus) -> None:
    plan = Evaluation(batch=3, sampled=4)
    paper = Validator(run.model, corpus, plan, steps=9, seed=0)(9).images["reconstructions"]
    chosen = [int(i) for batch in corpus.whole("val", 3, limit=4) for i in batch.index]
    for column, place in enumerate(chosen):
        left = 2 + column * (SIZE + 2)
        own = code_map(corpus.codes("val").sequences[place], K, 4)
        np.testing.assert_array_equal(paper[2 : 2 + SIZE, left : left + SIZE], own)


# --- images through both ------------------------------------------------------------------------------------


def test_images_are_encoded_and_decoded_through_both(here: Path, run: ImageRun) -> None:
    good("encode", "pets/cat/9.png", "two.npy", "--run", "second")
    good("encode", "pets/cat/9.png", "one.npy", "--run", "first")
    codes, lower = read_codes("two.npy", axes=(3,)), read_codes("one.npy", axes=(3,))
    assert (codes.shape, lower.shape) == ((1, 1, G2), (2, 2, G))
    x = torch.from_numpy(lower.astype(np.int64)).movedim(-1, 0)[None]
    with torch.no_grad():
        latents = run.model.encode(x, torch.tensor([2]))
    assert latents.codes is not None
    np.testing.assert_array_equal(latents.codes[0], codes)

    for seed in (0, 3):
        good("decode", "two.npy", f"{seed}.png", "--run", "second", "--seed", str(seed), *WORDS)
        good("decode", "two.npy", "again.png", "--run", "second", "--seed", str(seed), *WORDS)
        assert Path(f"{seed}.png").read_bytes() == Path("again.png").read_bytes()
        # By hand: the codes of the first are drawn value by value, and its own decoder makes the picture.
        noise = uniform(seed, [0], lower.size).view(1, G, 2, 2).permute(0, 2, 3, 1)
        drawn = torch.zeros(1, 2, 2, G, dtype=torch.int64)
        whole = load_image_run("second", "cpu", "reference", "float32")
        decoder, found = whole.model.decoder, torch.from_numpy(codes.astype(np.int64))[None]
        with torch.no_grad():
            cond = decoder.conditioning(run.model.bottleneck.lookup(found), torch.zeros(1, dtype=torch.int64))
            for _ in naive(decoder.network, cond, noise, drawn):
                pass
        made = first_of(run).decode(drawn[0].numpy(), seed=derived(seed, BELOW))
        exact = whole.decode(codes, seed=seed)
        np.testing.assert_array_equal(exact, made)
    assert isinstance(load_any("second", "cpu"), ImageRun)


def test_the_fast_sampler_draws_what_the_definition_does(run: ImageRun) -> None:
    decoder = run.model.decoder
    z = run.model.bottleneck.lookup(torch.arange(8 * G2).view(8, 1, 1, G2) % K2)
    noise = uniform(1, range(8), G * 4).view(8, G, 2, 2)
    label = torch.zeros(8, dtype=torch.int64)
    slow, fast = (decoder.sample(z, label, noise, choose_grid(name, "float32")) for name in ("reference", "cpu"))
    assert slow.shape == (8, G, 2, 2)
    assert slow.unique().numel() > 1
    assert torch.equal(slow, fast)  # no noise of this seed falls within rounding of a boundary


def test_sample_draws_through_all_levels(here: Path, run: ImageRun) -> None:
    good("sample", "new", "--label", "dog", "--count", "2", "--run", "second", *WORDS)
    for i, stream in ((1, 0), (2, 1)):
        codes = read_codes(f"new/00{i}.npy", axes=(3,))
        assert codes.shape == (1, 1, G2)
        np.testing.assert_array_equal(pixels.read(f"new/00{i}.png"), run.decode(codes, "dog", stream=stream))
    np.testing.assert_array_equal(run.sample_codes(["dog"])[0], read_codes("new/001.npy", axes=(3,)))


def test_info_and_evaluate(here: Path, run: ImageRun, corpus: CodedCorpus) -> None:
    said = " ".join(good("info", "second").split())
    for part in (
        f"data codes, 2 x 2 x {G} of {K}, by first",
        "hop 2 positions of its codes",
        f"codes 1 x 1 x {G2} an image",
        f"bits {G2 * math.log2(K2):.4g} an image, {G2 * math.log2(K2) / 192:.4g} bits/dim",
        "classes 2: cat, dog",
    ):
        assert part in said
    good("evaluate", "--run", "second", "--output", "measured", "--set", "evaluation.judged=4")
    record = read_record(Path("measured/evaluation.json"))
    value = {(section.metric, figure.name): figure.value for section in record.sections for figure in section.figures}
    lower = measure(first_of(run).model, corpus.base, "val", batch=3, limit=None, others=0, seed=0).bits
    upper = measure(run.model, corpus, "val", batch=3, limit=None, others=0, seed=0).bits
    dims = 3 * SIZE**2
    one, two = lower + 4 * G * math.log2(K) / dims, lower + (4 * G * upper + G2 * math.log2(K2)) / dims
    assert value["bits_per_code", "distortion"] == pytest.approx(upper)
    assert value["bits_per_dim", "total through 1 level, uniform prior"] == pytest.approx(one)
    assert value["bits_per_dim", "total through 2 levels, uniform prior"] == pytest.approx(two)
    rate = json.loads(Path("second/prior/summary.json").read_text())["bits_per_code"]
    learned = two + G2 * (rate - math.log2(K2)) / dims
    assert value["bits_per_dim", "total through 2 levels, learned prior"] == pytest.approx(learned, rel=1e-5)
    good("evaluate", "--run", "first", "--only", "bits_per_dim", "--output", "alone")
    alone = read_record(Path("alone/evaluation.json"))
    figures = {figure.name: figure.value for section in alone.sections for figure in section.figures}
    assert value["bits_per_dim", "total through 1 level, uniform prior"] == pytest.approx(
        figures["total, uniform prior"]
    )
    assert value["bits_per_dim", "total through 1 level, learned prior"] == pytest.approx(
        figures["total, learned prior"]
    )
    assert Path("measured/evaluation.html").read_text().count('class="pixels"') == 3


def test_a_level_more_is_no_different(here: Path, run: ImageRun) -> None:
    tree = json.loads(json.dumps(SECOND)) | {"data": {"kind": "codes", "run": "second"}, "prior": None}
    tree["model"]["encoder"] |= {"strides": [1], "window": 3, "groups": 1}
    tree["train"]["steps"] = 2
    Path("third.yaml").write_text(yaml.safe_dump(tree))
    good("train", "third.yaml", "--run", "third")
    top = load_image_run("third", "cpu", "reference")
    image = pixels.read("pets/dog/0.png", SIZE)
    codes = top.encode(image)
    assert codes.shape == (1, 1, 1)
    with torch.no_grad():
        latents = top.model.encode(torch.from_numpy(run.encode(image)).movedim(-1, 0)[None], torch.tensor([1]))
    assert latents.codes is not None
    np.testing.assert_array_equal(latents.codes[0], codes)
    assert top.decode(codes, seed=4).shape == (SIZE, SIZE, 3)
    good("evaluate", "--run", "third", "--only", "bits_per_dim", "--output", "deep")
    record = read_record(Path("deep/evaluation.json"))
    names = [figure.name for section in record.sections for figure in section.figures]
    assert [name for name in names if name.endswith("uniform prior")] == [
        f"total through {levels}, uniform prior" for levels in ("1 level", "2 levels", "3 levels")
    ]


# --- the first run is the one that it was -------------------------------------------------------------------


def test_a_first_run_that_has_changed_or_is_gone_is_told(here: Path) -> None:
    for name, copied in (("first", "base"), ("first", "kept"), ("second", "after")):
        shutil.copytree(name, copied)
    again = ("train", "second.yaml", "--run", "after", "--resume", "--set")
    good(*again, "data.run=base")  # it is known by its weights, not by its name
    newest = max(Path("base/checkpoints").glob("step-*"))
    shutil.copy(newest / "model.safetensors", newest / "average.safetensors")
    says = (
        "after: was trained on the codes of other weights than base has now; "
        "name the run that it was (data.run), or train this one anew"
    )
    np.save("some.npy", np.zeros((1, 1, G2), int))
    for words in (("decode", "some.npy", "out.png", "--run", "after"), ("evaluate", "--run", "after")):
        assert refused(*words) == says
    assert refused(*again, "data.run=base") == says
    assert refused(*again, "data.run=base", "--stage", "prior") == says
    good(*again, "data.run=kept")
    good("decode", "some.npy", "out.png", "--run", "after", *WORDS)
    shutil.rmtree("kept")
    said = refused("decode", "some.npy", "out.png", "--run", "after")
    assert said.startswith("after/recipe.yaml: data: run kept: not a run folder")


def test_the_first_runs_corpus_may_have_moved(here: Path) -> None:
    shutil.move("pets", "animals")
    try:
        recipe = Recipe.model_validate(SECOND | {"data": SECOND["data"] | {"root": "animals"}})
        assert isinstance(recipe.data, Coded)
        assert len(build_corpus(recipe).split("val")) == 6
    finally:
        shutil.move("animals", "pets")

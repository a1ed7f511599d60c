"""Images through the whole of it: a recipe, one training of both stages, what is measured, and the commands."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from commands import good, refused
from PIL import Image
from rich.console import Console

from wavevq import evaluation, image_files, pixels
from wavevq.build import build_corpus, build_model, build_prior
from wavevq.cli import main
from wavevq.codes_file import read_codes
from wavevq.data.codes import CodeCrops, Codes, load_codes, save_codes
from wavevq.data.corpora import Split
from wavevq.data.image_store import ImageStore
from wavevq.errors import WavevqError
from wavevq.evaluate import pictures, rate
from wavevq.evaluate.codebook import entropy_bits
from wavevq.evaluate.likelihood import derangement, encode_all, measure
from wavevq.evaluate.record import read_record
from wavevq.evaluate.validation import Validator
from wavevq.files import Sampling
from wavevq.image_run import ImageRun, load_any, load_image_run
from wavevq.jobs import Job
from wavevq.noise import CODES, derived, uniform
from wavevq.recipe import Evaluation, Recipe, parse_recipe
from wavevq.run import drawn_labels, load_run
from wavevq.sampling import choose_grid

RECIPES = Path(__file__).parents[1] / "recipes"
SIZE, HOP, K, G = 8, 4, 12, 2
WIDTHS = {"channels": 6, "residual": 4, "residual_blocks": 1}
TREE: dict[str, Any] = {
    "data": {"kind": "images", "root": "pets", "size": SIZE, "held_out": 0.3},
    "model": {
        "encoder": {"kind": "image", "groups": G, **WIDTHS},
        "bottleneck": {"kind": "ema", "codes": K, "dim": 3},
        "decoder": {"kind": "image", **WIDTHS},
    },
    "train": {"steps": 6, "batch": 4, "validate_every": 4, "log_every": 2, "warmup": 0, "learning_rate": 0.01},
    "prior": {
        "steps": 4,
        "batch": 4,
        "network": {"kind": "pixelcnn", "layers": 2, "residual": 4, "gate": 4, "head": 4},
        "speaker_dim": 3,
    },
    "evaluation": {"batch": 3, "sampled": 4},
}


def pets(root: Path) -> Path:
    """Ten images of two classes, each with a colour of its own, of many sizes."""
    generator = np.random.default_rng(0)
    for number, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for i in range(10):
            image = generator.integers(0, 100, (SIZE + i, SIZE + 2 * i, 3), dtype=np.uint8)
            image[..., number] += 150
            Image.fromarray(image).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the corpus ``pets``, ``tiny.yaml``, and the run ``run`` that it makes; the current one."""
    folder = tmp_path_factory.mktemp("images")
    pets(folder / "pets")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TREE))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        good("train", "tiny.yaml", "--run", "run")
        yield folder


@pytest.fixture(scope="module")
def run(place: Path) -> ImageRun:
    return load_image_run(place / "run", device="cpu", sampler="reference")


@pytest.fixture(scope="module")
def corpus(run: ImageRun) -> ImageStore:
    found = build_corpus(run.recipe)
    assert isinstance(found, ImageStore)
    return found


def recipe(**changes: Any) -> Recipe:
    return Recipe.model_validate(json.loads(json.dumps(TREE)) | changes)


# --- the recipe ---------------------------------------------------------------------------------------------


def test_images_are_taken_whole() -> None:
    made = recipe()
    assert made.prior is not None
    assert (made.train.crop, made.prior.crop, made.grid) == (SIZE, SIZE // HOP, (2, 2, G))
    assert parse_recipe(made.model_dump(mode="json"), "again") == made


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train": TREE["train"] | {"crop": 16}}, "train.crop 16: images are taken whole; leave it out"),
        ({"prior": TREE["prior"] | {"crop": 8}}, "prior.crop 8: images are taken whole"),
        ({"data": TREE["data"] | {"size": 10}}, "data.size 10 must be a multiple of the hop, 4"),
        ({"data": TREE["data"] | {"size": 2}}, "data.size 2 must be a multiple of the hop, 4"),
        ({"data": {"kind": "cifar10", "size": 32}}, "size: unknown key|size: Extra"),
        ({"data": {"kind": "fsdd"}}, "model.encoder: kind 'image' reads images, and data of kind 'fsdd' are speech"),
    ],
)
def test_what_does_not_fit_images_is_told(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(WavevqError, match=says):
        parse_recipe(json.loads(json.dumps(TREE)) | changes, "r.yaml")


# --- training and what is measured --------------------------------------------------------------------------


def test_both_stages_are_trained_and_validated(place: Path) -> None:
    found = json.loads((place / "run/summary.json").read_text())
    assert found["images"] == 6
    assert 0 < found["marginal_bits"] < 8
    assert 0 < found["bits_per_dim"] < 12
    assert not {"clips", "bits_per_sample", "wrong_speaker_gap"} & found.keys()
    prior = json.loads((place / "run/prior/summary.json").read_text())
    assert prior["codes"] == 6 * 2 * 2 * G
    assert "wrong_class_gap" in prior
    lines = [json.loads(line) for line in (place / "run/metrics.jsonl").read_text().splitlines()]
    assert all(line["images_per_second"] > 0 for line in lines if line["kind"] == "train")
    assert json.loads((place / "run/speakers.json").read_text())["speakers"] == ["cat", "dog"]
    assert list((place / "run/tensorboard").iterdir())


def test_the_recipe_of_imagenet_trains_on_any_folder_of_images(place: Path) -> None:
    """As it stands, but for its widths, which want a GPU: files of many kinds, modes and sizes, and what is none."""
    generator = np.random.default_rng(0)
    kinds = [("RGB", "jpg"), ("CMYK", "jpg"), ("L", "png"), ("P", "gif"), ("RGBA", "webp"), ("1", "bmp"), ("LA", "png")]
    for name, apart in product(("one", "two words"), ("train", "val")):
        (place / "any" / apart / name).mkdir(parents=True)
        for i, (mode, suffix) in enumerate(kinds):
            coarse = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
            size = tuple(int(side) for side in generator.integers(5, 300, 2))
            coarse.resize(size).convert(mode).save(place / "any" / apart / name / f"{i}.{suffix}")
    (place / "any/train/one/empty.png").touch()
    (place / "any/train/one/notes.txt").write_text("no image")
    narrow = {f"model.{part}.{width}=4" for part in ("encoder", "decoder") for width in ("channels", "residual")}
    narrow |= {f"prior.network.{width}=4" for width in ("residual", "gate", "head")}
    few = {f"{part}.{key}" for part in ("train", "prior") for key in ("steps=20", "batch=4")}
    sets = [word for one in sorted(narrow | few | {"data.root=any"}) for word in ("--set", one)]
    said = good("train", str(RECIPES / "imagenet.yaml"), *sets, "--run", "any-run")
    assert "corpus: 13 train, 1 val, 14 test images, 128 x 128 pixels, 2 classes; 0 files missing, 1 broken" in said
    assert 0 < json.loads(Path("any-run/summary.json").read_text())["bits_per_dim"] < 12
    assert json.loads(Path("any-run/prior/summary.json").read_text())["codes"] == 32 * 32


def test_classes_of_one_image_each_leave_nothing_to_validate_on(place: Path) -> None:
    for name in ("ant", "bee"):
        (place / "few" / name).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(place / "few" / name / "1.png")
    done = CliRunner().invoke(main, ["train", "tiny.yaml", "--set", "data.root=few", "--run", "few-run"])
    assert done.exit_code == 2
    told = "wavevq: data: no image of a class that is trained on is held out, so there is nothing to validate on; "
    assert done.output.splitlines()[-1].startswith(told)  # after the bar of what is prepared


def test_a_run_goes_on_where_it_stopped(place: Path) -> None:
    sets = ["--set", "train.save_every=3", "--run"]
    good("train", "tiny.yaml", "--stage", "vqvae", *sets, "whole")
    good("train", "tiny.yaml", "--stage", "vqvae", *sets, "parts")
    for late in ("checkpoints/step-00000006", "summary.json"):
        one = place / "parts" / late
        for path in [*one.iterdir()] if one.is_dir() else [one]:
            path.unlink()
    (place / "parts/checkpoints/step-00000006").rmdir()
    good("train", "tiny.yaml", "--stage", "vqvae", *sets, "parts", "--resume")
    files = [place / name / "checkpoints/step-00000006/model.safetensors" for name in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_bits_a_dim_are_those_of_every_value(run: ImageRun, corpus: ImageStore) -> None:
    model = run.model
    found = measure(model, corpus, "val", batch=4, limit=None, others=None, seed=0)
    pictures = corpus.split("val")
    codes = encode_all(model, corpus.whole("val", 1))
    donors = derangement([one.label for one in pictures], 0)
    own, other = 0.0, 0.0
    for place in range(len(pictures)):
        one = corpus.examples("val", [place])
        values = pixels.values(one.x)
        for source in (place, donors[place]):
            with torch.no_grad():
                parameters = model.decoder.network(model.bottleneck.lookup(codes[source][None]))
                bits = model.decoder.distribution.nll(parameters, values).double().sum().item() / np.log(2)
            own, other = (own + bits, other) if source == place else (own, other + bits)
    count = len(pictures) * 3 * SIZE * SIZE
    assert (found.samples, found.clips) == (count, 6)
    # float32 sums of 192 terms, in another order
    assert found.bits == pytest.approx(own / count, rel=1e-5)
    assert found.shuffled_gap == pytest.approx((other - own) / count, abs=1e-5)
    assert found.wrong_speaker_gap is None  # the decoder does not look at classes
    every = np.stack([corpus.pixels[one.row] for one in pictures])
    assert found.marginal == pytest.approx(entropy_bits(torch.bincount(torch.from_numpy(every.ravel().astype(int)))))


def test_reconstructions_stand_under_their_images(run: ImageRun, corpus: ImageStore) -> None:
    plan = Evaluation(batch=3, sampled=4)
    validate = Validator(run.model, corpus, plan, steps=9, seed=0)
    found = validate(9)
    paper = found.images["reconstructions"]
    assert paper.shape == (2 + 3 * (SIZE + 2), 2 + 4 * (SIZE + 2), 3)
    chosen = [int(i) for batch in corpus.whole("val", 3, limit=4) for i in batch.index]
    for column, place in enumerate(chosen):
        left = 2 + column * (SIZE + 2)
        original = corpus.pixels[corpus.split("val")[place].row]
        np.testing.assert_array_equal(paper[2 : 2 + SIZE, left : left + SIZE], original)
        made = run.decode(run.encode(original))
        shown = paper[4 + SIZE : 4 + 2 * SIZE, left : left + SIZE].astype(int)
        assert np.abs(shown - made).max() <= 1  # convolutions of more images at once round differently
        z = run.model.bottleneck.lookup(torch.from_numpy(run.encode(original))[None])
        noise = uniform(0, [place], original.size).view(1, 3, SIZE, SIZE)
        drawn = pixels.to_images(run.model.decoder.sample(z, torch.zeros(1).long(), noise, None))[0]
        np.testing.assert_array_equal(paper[6 + 2 * SIZE : 6 + 3 * SIZE, left : left + SIZE], drawn)
    assert not found.clips
    again = validate(9)
    np.testing.assert_array_equal(again.images["reconstructions"], paper)


# --- grids of codes -----------------------------------------------------------------------------------------


def grids(count: int = 7, height: int = 3) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
    return [np.random.default_rng(i).integers(0, K, (height, 2, G)) for i in range(count)]


def test_grids_are_kept_whole(tmp_path: Path) -> None:
    save_codes(tmp_path / "codes", grids())
    for one, other in zip(load_codes(tmp_path / "codes", 7, K), grids(), strict=True):
        np.testing.assert_array_equal(one, other)
    crops = CodeCrops(Codes(grids(), [0, 1] * 3 + [0]), 3, 7, 3, seed=0, unit="images")
    assert (crops.steps_per_epoch, crops.amount) == (1, 7)
    for epoch in range(3):
        batch = crops.at(epoch)
        assert batch.x.shape == (7, 3, 2, G)
        assert batch.lengths.tolist() == [3] * 7
        assert batch.cond is not None
        assert not batch.cond.any()  # none begins in its middle
        assert {row.tobytes() for row in batch.x.numpy()} == {row.tobytes() for row in grids()}


def test_rates_are_those_of_every_code_and_no_end(run: ImageRun) -> None:
    assert run.recipe.prior is not None
    prior = build_prior(run.recipe, run.recipe.prior, 2).eval()  # it begins at the uniform distribution
    codes = Codes(grids(), [0, 1] * 3 + [0])
    counts = rate.counts(codes, K)
    assert counts.sum() == 7 * 3 * 2 * G
    found = rate.measure(prior, codes, counts, batch=3, others=None, seed=0)
    assert found.codes == 7 * 3 * 2 * G
    assert found.bits == pytest.approx(np.log2(K), abs=1e-5)  # float32
    share = (counts + 1) / (counts + 1).sum()
    expected = -(counts * share.log2()).sum().item() / found.codes
    assert found.unigram == pytest.approx(expected, rel=1e-6)


# --- the commands -------------------------------------------------------------------------------------------


def test_encode_and_decode(place: Path, run: ImageRun, corpus: ImageStore) -> None:
    source = place / "pets/cat/9.png"
    said = good("encode", str(source), "codes.npy", "--run", "run")
    assert "encoded 1 file in " in said
    codes = read_codes("codes.npy", axes=(3,))
    assert (codes.shape, codes.dtype) == ((2, 2, G), np.int32)
    np.testing.assert_array_equal(codes, run.encode(pixels.read(source, SIZE)))
    one = next(one for one in corpus.pictures if one.name == "cat/9.png")
    np.testing.assert_array_equal(pixels.read(source, SIZE), corpus.pixels[one.row])  # as in training
    good("decode", "codes.npy", "out.png", "--run", "run")
    np.testing.assert_array_equal(pixels.read("out.png"), run.decode(codes))
    assert run.decode(np.zeros((3, 5, G), int)).shape == (3 * HOP, 5 * HOP, 3)  # any grid


def test_whole_folders_of_images(place: Path) -> None:
    good("encode", "pets", "--out", "coded", "--run", "run")
    assert sorted(path.relative_to("coded") for path in Path("coded").rglob("*.npy")) == sorted(
        Path(name, f"{i}.npy") for name in ("cat", "dog") for i in range(10)
    )
    (place / "mixed").mkdir()
    np.save(place / "mixed/fine.npy", np.zeros((2, 2, G), int))
    np.save(place / "mixed/flat.npy", np.zeros(4, int))
    done = CliRunner().invoke(main, ["decode", "mixed", "--out", "back", "--run", "run"])
    assert done.exit_code == 2
    assert "mixed/flat.npy: has the shape [4]; codes are a grid of height, width and codes a position" in done.output
    assert [path.name for path in Path("back").iterdir()] == ["fine.png"]


def test_images_of_any_height_and_width_are_encoded(run: ImageRun) -> None:
    tall = np.random.default_rng(0).integers(0, 256, (5 * HOP, 2 * HOP, 3), dtype=np.uint8)
    assert run.encode(tall).shape == (5, 2, G)
    for odd in (tall[:-1], tall[:, 1:], tall[:0]):
        with pytest.raises(WavevqError, match=rf"an image of \d x \d+ pixels: both must be multiples of {HOP}"):
            run.encode(odd)


def pixelcnn_run(run: ImageRun) -> ImageRun:
    """The run with a decoder that draws and looks at classes, and with a prior, both of random weights."""
    decoder = {"kind": "pixelcnn", "label_dim": 3, "context": 4, "context_layers": 0, "layers": 2, "kernel": 3}
    tree = recipe(model=TREE["model"] | {"decoder": decoder | dict.fromkeys(("residual", "gate", "head"), 8)})
    model, prior = build_model(tree, 2).eval(), build_prior(tree, tree.prior, 2).eval()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for network in (model.decoder.network, prior.network):
            torch.nn.init.normal_(network.output, std=0.5)
        torch.nn.init.normal_(prior.label.weight, std=3)
    sampler = choose_grid("cpu", "float32")
    return replace(run, recipe=tree, model=model, sampler=sampler, prior=(prior, sampler))


def test_a_decoder_that_draws_is_given_all_that_is_asked(run: ImageRun) -> None:
    drawing = pixelcnn_run(run)
    codes = np.random.default_rng(0).integers(0, K, (1, 3, G))
    image = drawing.decode(codes, "cat", seed=4, stream=2)
    assert image.shape == (HOP, 3 * HOP, 3)
    decoder = drawing.model.decoder
    z = drawing.model.bottleneck.lookup(torch.from_numpy(codes)[None])
    noise = uniform(4, [2], image.size).view(1, 3, HOP, 3 * HOP)
    expected = decoder.sample(z, torch.tensor([0]), noise, drawing.sampler, 1.0, 1.0)
    np.testing.assert_array_equal(image, pixels.to_images(expected)[0])
    cold = decoder.sample(z, torch.tensor([1]), noise, drawing.sampler, 0.5, 0.8)
    found = drawing.decode(codes, "dog", seed=4, stream=2, temperature=0.5, top_p=0.8)
    np.testing.assert_array_equal(found, pixels.to_images(cold)[0])
    others = (
        drawing.decode(codes, "dog", seed=4, stream=2),
        drawing.decode(codes, "cat", seed=5, stream=2),
        drawing.decode(codes, "cat", seed=4, stream=3),
        drawing.decode(codes, "cat", seed=4, stream=2, temperature=0.5),
        drawing.decode(codes, "cat", seed=4, stream=2, top_p=0.5),
    )
    assert not any(np.array_equal(image, other) for other in others)
    with pytest.raises(WavevqError, match=r"its decoder needs a class of .*; it knows cat, dog"):
        drawing.decode(codes)
    with pytest.raises(WavevqError, match="temperature 0: must be above 0"):
        drawing.decode(codes, "cat", temperature=0)


def test_codes_are_drawn_for_the_classes_and_the_way_that_are_asked(run: ImageRun) -> None:
    drawing = pixelcnn_run(run)
    assert drawing.prior is not None
    prior, sampler = drawing.prior
    names, streams = ["dog", None, "cat", "dog", None], [4, 0, 2, 1, 7]
    found = drawing.sample_codes(names, seed=3, temperature=0.7, top_p=0.9, streams=streams)
    noise = uniform(derived(3, CODES), streams, 2 * 2 * G).view(5, 2, 2, G)
    label = torch.tensor([1, prior.nobody, 0, 1, prior.nobody])
    np.testing.assert_array_equal(found, prior.sample_grid(label, noise, sampler, 0.7, 0.9).numpy())
    warm, whole = (
        drawing.sample_codes(names, seed=3, streams=streams, **how) for how in ({"top_p": 0.9}, {"temperature": 0.7})
    )
    assert not np.array_equal(found, warm)
    assert not np.array_equal(found, whole)
    cats = drawing.sample_codes(["cat"] * 5, seed=3, temperature=0.7, top_p=0.9, streams=streams)
    differs = (found != cats).any((1, 2, 3))
    assert differs[[0, 3]].any()  # the dogs
    assert differs[[1, 4]].any()  # nobody's
    assert not differs[2]


def test_samples_are_what_they_are_in_whatever_groups(
    place: Path, run: ImageRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the files are what the run makes of their names, classes and numbers."""
    drawing, how = pixelcnn_run(run), Sampling(seed=2, temperature=0.8, top_p=0.95)
    whole = image_files.sample(drawing, place / "drawn-whole", 5, Console(quiet=True), sampling=how)
    monkeypatch.setattr(image_files, "AT_ONCE", 2)
    parts = image_files.sample(drawing, place / "drawn-parts", 5, Console(quiet=True), sampling=how)
    np.testing.assert_array_equal(whole, parts)
    names = drawn_labels(drawing.labels, 5, 2)
    assert set(names) == {"cat", "dog"}
    codes = drawing.sample_codes(names, **how.how)
    for i, name in enumerate(names):
        np.testing.assert_array_equal(read_codes(place / f"drawn-parts/00{i + 1}.npy", axes=(3,)), codes[i])
        np.testing.assert_array_equal(parts[i], drawing.decode(codes[i], name, stream=i, **how.how))
        np.testing.assert_array_equal(pixels.read(place / f"drawn-parts/00{i + 1}.png"), parts[i])
    job = Job(place / "drawn-parts/003.npy", place / "again.png")
    image_files.decode(drawing, [job], names[2], how, Console(quiet=True))
    np.testing.assert_array_equal(pixels.read(job.target), drawing.decode(codes[2], names[2], **how.how))  # of stream 0


def test_images_are_drawn_at_the_recipes_temperature_where_none_is_given(run: ImageRun) -> None:
    drawing = pixelcnn_run(run)
    evaluation = drawing.recipe.evaluation.model_copy(update={"temperature": 0.3})
    colder = replace(drawing, recipe=drawing.recipe.model_copy(update={"evaluation": evaluation}))
    codes = colder.sample_codes(["cat", "dog"])
    np.testing.assert_array_equal(codes, drawing.sample_codes(["cat", "dog"], temperature=0.3))
    assert (codes != drawing.sample_codes(["cat", "dog"])).any()
    np.testing.assert_array_equal(colder.decode(codes[0], "cat"), drawing.decode(codes[0], "cat", temperature=0.3))
    assert (colder.decode(codes[0], "cat") != drawing.decode(codes[0], "cat")).any()


def test_codes_of_another_model_are_told(run: ImageRun) -> None:
    for codes, says in (
        (np.full((2, 2, G), K), f"codes from {K} to {K}; the codebook of .* has 0 to {K - 1}"),
        (np.zeros((2, 2, 1), int), f"has 1 codes a position; .* has {G}"),
        (np.zeros((2, 2, G)), "holds float64"),
    ):
        with pytest.raises(WavevqError, match=says):
            run.decode(codes)
    np.save("turned.npy", np.asfortranarray(np.arange(8).reshape(2, 2, 2)))
    np.testing.assert_array_equal(read_codes("turned.npy", axes=(3,)), np.arange(8).reshape(2, 2, 2))


def test_samples_are_written_with_a_sheet_and_a_page(place: Path, run: ImageRun) -> None:
    words = ("--run", "run", "--sampler", "reference")
    good("sample", "new", "--label", "dog", "--count", "3", *words)
    assert sorted(path.name for path in Path("new").iterdir()) == sorted(
        [*(f"00{i}{suffix}" for i in (1, 2, 3) for suffix in (".npy", ".png")), "index.html", "sheet.png"]
    )
    images = np.stack([pixels.read(f"new/00{i}.png") for i in (1, 2, 3)])
    np.testing.assert_array_equal(pixels.read("new/sheet.png"), pixels.sheet(images, 3))
    for i, image in enumerate(images, 1):
        np.testing.assert_array_equal(run.decode(read_codes(f"new/00{i}.npy", axes=(3,))), image)
    page = Path("new/index.html").read_text()
    assert page.count("<td>dog</td>") == 3
    assert page.count("data:image/png;base64,") == 1
    good("sample", "two", "--label", "dog", "--count", "2", *words)
    for i in (1, 2):  # an image is what it is alone
        assert Path(f"two/00{i}.npy").read_bytes() == Path(f"new/00{i}.npy").read_bytes()
    good("sample", "other", "--label", "dog", "--count", "3", "--seed", "1", *words)
    assert any(Path(f"other/00{i}.npy").read_bytes() != Path(f"new/00{i}.npy").read_bytes() for i in (1, 2, 3))
    good("sample", "of-any", "--count", "2", *words)
    both = run.sample_codes(["dog", "cat"], seed=5)
    np.testing.assert_array_equal(run.sample_codes(["cat"], seed=5, streams=[1])[0], both[1])


def test_mistakes_are_told_before_the_work(place: Path, run: ImageRun) -> None:
    here = ("--run", "run")
    assert refused("sample", "new2", "--label", "eel", *here) == "eel: not a class of run; it knows cat, dog"
    assert refused("sample", "pets", *here).startswith("pets: is there already")
    assert refused("sample", "new2", "--seconds", "1", *here).startswith("--seconds: is for runs of speech")
    unlabelled = recipe(prior=TREE["prior"] | {"speaker_dim": 0})
    assert unlabelled.prior is not None
    blind = replace(run, prior=(build_prior(unlabelled, unlabelled.prior, 2), choose_grid("reference")))
    with pytest.raises(WavevqError, match="run: knows no classes that an image could be asked of"):
        image_files.sample(blind, Path("new2"), 1, Console(quiet=True), label="cat", sampling=Sampling())
    with pytest.raises(WavevqError, match="run: has no trained prior; wavevq train RECIPE --stage prior --run "):
        image_files.sample(replace(run, prior=None), Path("new2"), 1, Console(quiet=True), sampling=Sampling())
    assert not Path("new2").exists()
    np.save("right.npy", np.zeros((2, 2, G), int))
    told = "cat: the decoder of run goes by the codes alone; ask for no class"
    assert refused("decode", "right.npy", "out.png", "--label", "cat", *here) == told
    assert refused("decode", "codes.npy", "out.wav", *here) == "out.wav: the suffix of an image must be .png"
    speech = "run: is a run of images; what is asked for needs one of speech"
    assert refused("convert", "a.wav", "b.wav", "--speaker", "cat", *here) == speech
    assert refused("compress", "a.wav", "b.wvq", *here) == speech
    with pytest.raises(WavevqError, match="needs one of speech"):
        load_run("run")
    assert isinstance(load_any("run", "cpu"), ImageRun)
    (place / "broken.png").write_text("no image")
    assert refused("encode", "broken.png", "c.npy", *here).startswith("broken.png: not an image that can be read")


def test_each_process_encodes_its_share(
    place: Path, run: ImageRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = sorted((place / "pets").glob("*/*.png"))[:5]
    jobs = [Job(path, tmp_path / f"{number}.npy") for number, path in enumerate(found)]
    monkeypatch.setattr(image_files, "world_size", lambda: 2)
    written: list[list[str]] = []
    for number in (0, 1):
        monkeypatch.setattr(image_files, "rank", lambda number=number: number)
        image_files.encode(run, jobs, Console(quiet=True))
        written.append(sorted(path.stem for path in tmp_path.glob("*.npy")))
    assert written == [["0", "2", "4"], ["0", "1", "2", "3", "4"]]


def test_evaluate(place: Path, run: ImageRun, corpus: ImageStore) -> None:
    sets = ("--set", "evaluation.judged=4", "--set", "evaluation.temperature=0.9")
    good("evaluate", *sets, "--run", "run", "--output", "measured")
    record = read_record(Path("measured/evaluation.json"))
    assert record.temperature == 0.9
    assert (record.clips, record.speakers, record.codes, record.hop, record.judged) == (6, 2, K, HOP, 4)
    value = {(section.metric, figure.name): figure.value for section in record.sections for figure in section.figures}
    found = measure(run.model, corpus, "val", batch=3, limit=None, others=None, seed=0)
    codes = 2 * 2 * G / (3 * SIZE * SIZE)
    assert value["bits_per_dim", "distortion"] == pytest.approx(found.bits)
    assert value["bits_per_dim", "rate, uniform prior"] == pytest.approx(codes * np.log2(K))
    assert value["bits_per_dim", "total, uniform prior"] == pytest.approx(found.bits + codes * np.log2(K))
    learned = json.loads((place / "run/prior/summary.json").read_text())["bits_per_code"]
    assert value["bits_per_dim", "rate, learned prior"] == pytest.approx(codes * learned, rel=1e-4)
    whole = found.bits + codes * learned
    assert value["bits_per_dim", "total, learned prior"] == pytest.approx(whole, rel=1e-4)
    assert value["image_codebook", "codes"] == 6 * 2 * 2 * G
    assert value["image_samples", "nearest training image, least"] > 0
    page = Path("measured/evaluation.html").read_text()
    assert page.count('class="pixels"') == 3
    only = refused("evaluate", "--only", "abx", "--run", "run")
    assert only.startswith("--only abx: there is no such metric; there are bits_per_dim, image_codebook, image_")
    said = refused("evaluate", "--set", "evaluation.split=test", "--run", "run")
    assert said == "data: the corpus holds no image of the split test, so there is nothing to measure on"


def test_images_are_drawn_at_the_temperature_that_is_asked(place: Path, run: ImageRun, corpus: ImageStore) -> None:
    drawing, names = pixelcnn_run(run), ["dog", "cat"]
    recipe = drawing.recipe.model_copy(update={"evaluation": Evaluation(temperature=0.5)})
    subject = evaluation.image_subject(drawing, recipe, corpus, Console(quiet=True))
    codes = subject.compose(names)
    np.testing.assert_array_equal(codes, drawing.sample_codes(names, seed=recipe.seed, temperature=0.5))
    assert not np.array_equal(codes, drawing.sample_codes(names, seed=recipe.seed))
    cold, warm = (drawing.decode(codes[0], "dog", seed=recipe.seed, temperature=one) for one in (0.5, 1.0))
    np.testing.assert_array_equal(subject.show(codes[:1], names[:1], "")[0], cold)
    assert not np.array_equal(cold, warm)


def subject(run: ImageRun, corpus: ImageStore, **changes: Any) -> pictures.ImageSubject:
    """What metrics are given, whose decoder shows the mean of an image's codes."""

    def encoded(split: Split) -> Codes:
        found = encode_all(run.model, corpus.whole(split, 4))
        return Codes([found[i].numpy() for i in range(len(found))], [0] * len(found))

    def show(codes: Sequence[Any], labels: Sequence[str | None], what: str) -> pixels.Pixels:
        return np.stack([np.full((SIZE, SIZE, 3), one.mean(), np.uint8) for one in codes])

    known = {"model": run.model, "prior": None, "corpus": corpus, "plan": Evaluation(judged=4, batch=3), "seed": 0}
    more = {"encoded": encoded, "show": show, "compose": lambda names: np.zeros((len(names), 2, 2, G), int)}
    return pictures.ImageSubject(**(known | more | {"say": lambda words: None} | changes))


def test_codes_that_are_drawn_are_not_paid_for_twice(run: ImageRun, corpus: ImageStore) -> None:
    """Of VIMCO the rate under the uniform prior is the divergence: distortion and rate are its bound of one sample."""
    tree = recipe(model=TREE["model"] | {"bottleneck": {"kind": "vimco", "codes": K, "dim": 3, "samples": 2}})
    assert tree.prior is not None
    model, prior = build_model(tree, 2).eval(), build_prior(tree, tree.prior, 2).eval()
    value = {one.name: one.value for one in pictures.bits(subject(run, corpus, model=model, prior=prior)).figures}
    nats = sum(model.bound(batch, 1).sum().item() for batch in corpus.whole("val", 3))
    dims = 6 * 3 * SIZE * SIZE
    # float32 sums of 192 terms, in another order
    assert value["total, uniform prior"] == pytest.approx(nats / dims / np.log(2), rel=1e-5)
    assert value["distortion"] + value["rate, uniform prior"] == pytest.approx(value["total, uniform prior"])
    # A prior that has learned nothing is the uniform one.
    assert value["total, learned prior"] == pytest.approx(value["total, uniform prior"], rel=1e-5)
    assert value["rate, learned prior"] == pytest.approx(value["rate, uniform prior"], abs=1e-5)
    assert value["rate, uniform prior"] < 4 * G * np.log2(K) / (3 * SIZE * SIZE)


def test_what_the_codes_tell_is_measured_with_anothers(run: ImageRun, corpus: ImageStore) -> None:
    given = subject(run, corpus)
    value = {one.name: one.value for one in pictures.reconstruction(given).figures}
    names = [given.clips[i].label for i in given.places]
    donors = derangement(names, 0)
    assert len(donors) > 1
    own, others = (
        given.show([given.codes.sequences[given.places[i]] for i in some], names, "")
        for some in (range(len(names)), [donors[i] for i in donors])
    )
    assert value["PSNR"] == pictures.psnr(given.originals, own)
    assert value["PSNR, shuffled codes"] == pictures.psnr(given.originals[list(donors)], others)


def test_what_was_drawn_is_compared_with_what_was_trained_on(run: ImageRun, corpus: ImageStore) -> None:
    training = corpus.split("train")
    copies = np.stack([corpus.pixels[training[i].row] for i in range(4)])
    given = subject(run, corpus, prior=run.prior[0], show=lambda codes, names, what: copies)
    value = {one.name: one.value for one in pictures.samples(given).figures}
    assert value["nearest training image, median"] == value["nearest training image, least"] == 0
    _, distances = pictures.nearest(given.originals, corpus)
    assert value["the same of the split's images"] == np.median(distances) > 0
    assert value["the same of the split's images, least"] == distances.min() > 0


def test_signal_to_noise() -> None:
    image = np.full((1, 4, 4, 3), 100, np.uint8)
    assert pictures.psnr(image, image + 5) == pytest.approx(20 * np.log10(255 / 5))
    half = image.copy()
    half[:, :2] += 10
    assert pictures.psnr(image, half) == pytest.approx(20 * np.log10(255 / 50**0.5))


def test_a_training_image_is_nearest_to_itself(corpus: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "COMPARED", 3 * 3 * SIZE * SIZE)  # values of three images
    training = corpus.split("train")
    taken = np.stack([corpus.pixels[training[i].row] for i in (3, 0, 7)])
    places, distances = pictures.nearest(taken, corpus)
    assert places.tolist() == [3, 0, 7]
    assert distances.tolist() == [0, 0, 0]
    moved = taken.copy()
    moved[:, 0, 0, 0] ^= 1
    places, distances = pictures.nearest(moved, corpus)
    assert places.tolist() == [3, 0, 7]
    np.testing.assert_allclose(distances, (1 / moved[0].size) ** 0.5, rtol=1e-6)


def test_a_map_has_a_colour_for_each_code() -> None:
    codes = np.arange(12).reshape(3, 4, 1)
    shown = pictures.code_map(codes, 12, 2)
    assert shown.shape == (6, 8, 3)
    assert len({tuple(colour) for colour in shown.reshape(-1, 3)}) == 12
    assert (shown[:2, :2] == shown[0, 0]).all()
    np.testing.assert_array_equal(shown[2, 6], pictures.code_map(np.full((1, 1, 2), 7), 12, 1)[0, 0])


def test_info_tells_of_images(place: Path) -> None:
    said = " ".join(good("info", "run").split())
    for part in (
        "data images, 8 x 8 pixels",
        "codes 2 x 2 x 2 an image",
        "classes 2: cat, dog",
        "pixelcnn, 2 layers, 4 channels, given the class or none",
        "step 6 of 6, finished; batch 4 images",
    ):
        assert part in said
    np.save("some.npy", np.zeros((2, 2, G), int))
    assert "shape [2, 2, 2]" in " ".join(good("info", "some.npy", "--run", "run").split())
    np.save("flat.npy", np.zeros(4, int))
    assert "these are not its codes" in " ".join(good("info", "flat.npy", "--run", "run").split())


def test_an_initial_model_is_a_function_of_its_seed() -> None:
    one, other, third = (build_model(recipe(seed=seed), 2).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(not torch.equal(one[name], third[name]) for name in one)

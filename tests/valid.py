"""A valid file of every kind that something reads, in a folder for each reader: what is then damaged."""

from __future__ import annotations

import json
import shutil
import struct
import wave
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import trainings
import yaml
from PIL import Image

from wavevq import voices
from wavevq.build import build_model, build_prior
from wavevq.codes_file import write_codes
from wavevq.compress import Packer
from wavevq.data import corpora, image_store, images, store
from wavevq.data.codes import save_codes
from wavevq.data.shapes import KINDS
from wavevq.decoders import of_speech
from wavevq.evaluate.metric import Figure
from wavevq.evaluate.record import Record, Section, Weights, write_record
from wavevq.recipe import Recipe, parse_recipe
from wavevq.run import load_run
from wavevq.run_folder import CHECKPOINTS, PRIOR, SPEAKERS, create, newest_checkpoint, record_weights
from wavevq.train.state import Average, TrainState, fingerprint

RATE, K = 8000, 40
RECIPES = Path(__file__).parents[1] / "recipes"
WIDTHS = {"channels": 4, "residual": 4, "residual_blocks": 1}
PICTURES: dict[str, Any] = {
    "data": {"kind": "images", "root": "pets", "size": 8},
    "model": {
        "encoder": {"kind": "image", "groups": 2, **WIDTHS},
        "bottleneck": {"kind": "vq", "codes": 12, "dim": 3},
        "decoder": {"kind": "image", **WIDTHS},
    },
    "train": {"steps": 1},
    "prior": {"steps": 1, "network": {"kind": "pixelcnn", "layers": 2, "residual": 4, "gate": 4, "head": 4}},
}
CODED: dict[str, Any] = {
    "model": {
        "encoder": {"kind": "codes", "strides": [2], "embedding": 4, **WIDTHS},
        "bottleneck": {"kind": "vq", "codes": 5, "dim": 3},
        "decoder": {"kind": "pixelcnn", "layers": 2, "context": 4, **dict.fromkeys(("residual", "gate", "head"), 4)},
    },
    "train": {"steps": 1},
    "prior": PICTURES["prior"],
}
VIDEO: dict[str, Any] = {
    "data": {"kind": "shapes", "size": 16, "frames": 3, "clips": 4, "held_out": 0.5},
    "model": {
        "encoder": {"kind": "frames", **WIDTHS},
        "bottleneck": {"kind": "vq", "codes": 7, "dim": 3},
        "decoder": {"kind": "frames", **WIDTHS},
    },
    "train": {"steps": 1},
    "prior": {
        "steps": 1,
        "network": {"kind": "video", "layers": 2, "past": 4, "past_layers": 1, "residual": 4, "gate": 4, "head": 4},
    },
    "evaluation": {"given": 1},
}
TEXTGRID = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 0.3
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 0.3
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = 0.3
            text = "say ""ah"" so"
    item [2]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 0.3
        intervals: size = 2
        intervals [1]:
            xmin = 0
            xmax = 0.1
            text = "AA1"
        intervals [2]:
            xmin = 0.1
            xmax = 0.3
            text = "sil"
"""


def make(folder: Path) -> Path:
    """The folder, of which each subfolder is for the reader of its name."""
    for name, maker in MAKERS.items():
        (folder / name).mkdir(parents=True)
        maker(folder / name)
    return folder


def hum(seconds: float = 0.1, rate: int = RATE, pitch: float = 200) -> np.ndarray[Any, np.dtype[np.float64]]:
    time = np.arange(round(seconds * rate)) / rate
    made: np.ndarray[Any, np.dtype[np.float64]] = 0.3 * np.sin(2 * np.pi * pitch * time) + 0.1 * np.cos(900 * time)
    return made


def noise(count: int, side: int = 32, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


# --- audio --------------------------------------------------------------------------------------------------


def audio(folder: Path) -> None:
    stereo = np.stack([hum(rate=16_000), hum(rate=16_000, pitch=300)], axis=1)
    soundfile.write(folder / "plain.wav", hum(), RATE)
    for subtype in ("FLOAT", "DOUBLE", "PCM_24", "ULAW", "IMA_ADPCM"):
        soundfile.write(folder / f"{subtype}.wav", stereo, 16_000, subtype=subtype)
    for name in ("a.flac", "a.ogg", "a.mp3", "a.aiff", "a.opus"):
        coding = {"format": "OGG", "subtype": "OPUS"} if name == "a.opus" else {}
        soundfile.write(folder / name, stereo, 16_000, **coding)
    with wave.open(str(folder / "wide.wav"), "wb") as file:
        file.setnchannels(6)
        file.setsampwidth(1)
        file.setframerate(11_025)
        file.writeframes(bytes(range(240)) * 6)


def corpus(folder: Path) -> None:
    for number, speaker in enumerate(("ann", "bob")):
        (folder / speaker).mkdir()
        for i in range(3):
            soundfile.write(folder / speaker / f"{i}.wav", hum(0.05, pitch=150 + 90 * number + i), RATE)
        (folder / speaker / "0.phones.tsv").write_text("0\t0.02\taɪ\n0.02\t0.05\t_\n", "utf-8")
    (folder / "ann" / "1.TextGrid").write_text(TEXTGRID)
    (folder / "val.txt").write_text("ann/2.wav\nbob/2.wav\n")
    (folder / "speaker-info.txt").write_text("ID AGE GENDER\np225 23 F English\n")


def alignments(folder: Path) -> None:
    (folder / "long.TextGrid").write_text(TEXTGRID)
    (folder / "wide.TextGrid").write_text(TEXTGRID, "utf-16")
    short = '"ooTextFile"\n"TextGrid"\n0 1 <exists> 1 "IntervalTier" "phones" 0 1 2 0 0.5 "a" 0.5 1 "b" ! end\n'
    (folder / "short.TextGrid").write_text(short)
    (folder / "all.ctm").write_text(";; one\nclip A 0.00 0.10 AA_B 0.9\nclip A 0.10 0.05 N_E\nother A 0 1 x\n")
    (folder / "clip.phones.tsv").write_text("start\tend\tsymbol\n0\t0.1\taɪ\n0.1\t0.2\tm\n", "utf-8")


# --- codes and runs -----------------------------------------------------------------------------------------


def codes(folder: Path) -> None:
    write_codes(folder / "clip.npy", np.arange(30) % K)
    write_codes(folder / "grid.npy", np.arange(24).reshape(3, 4, 2))
    for name, kind in (("long", np.int64), ("bytes", np.uint8), ("big", ">i4")):
        np.save(folder / f"{name}.npy", np.arange(20).astype(kind), allow_pickle=False)
    np.save(folder / "columns.npy", np.asfortranarray(np.arange(24).reshape(2, 6, 2)), allow_pickle=False)


def run(folder: Path) -> None:
    """Of speech, with random weights, a prior and an enrolled speaker."""
    recipe = parse_recipe({**trainings.RECIPE, "prior": trainings.PRIOR}, "valid")
    _written(folder, recipe, ("ann", "bob"))
    told = {"seconds": 1.5, "nearest": "ann", "bits_per_sample_before": 5.0, "bits_per_sample_after": 4.5}
    embedding = of_speech(build_model(recipe, 2).decoder).voice(0).detach()
    voice = voices.Voice("eve", embedding, fingerprint(newest_checkpoint(folder)), told)
    voices.save(folder / voices.FOLDER / f"eve{voices.SUFFIX}", voice)


def transformer_run(folder: Path) -> None:
    network = {"kind": "transformer", "layers": 2, "width": 8, "heads": 2}
    _written(
        folder,
        parse_recipe({**trainings.RECIPE, "prior": {**trainings.PRIOR, "network": network}}, "valid"),
        ("ann", "bob"),
    )


def speakers(folder: Path) -> None:
    """What a run tells of its speakers, beside the rest of it."""
    (folder / "run").mkdir()
    run(folder / "run")
    for name in (SPEAKERS, voices.FOLDER):
        shutil.move(folder / "run" / name, folder)


def coded_run(folder: Path) -> None:
    """Of the codes of the image run."""
    data = {"kind": "codes", "run": str(folder.parent / "image run")}
    _written(folder, parse_recipe({**CODED, "data": data}, "valid"), ("cat", "dog"))


def image_run(folder: Path) -> None:
    _written(folder, parse_recipe(PICTURES, "valid"), ("cat", "dog"))


def resumed(folder: Path) -> None:
    """A checkpoint of one step, that another goes on from."""
    state = trainings.tiny_state(parse_recipe(trainings.RECIPE, "valid"))
    state.optimizer.step()
    state.step, state.metered, state.meter = 1, 1, {"nll": torch.tensor(3.5)}
    state.save(folder, 1)


def video_run(folder: Path) -> None:
    _written(folder, parse_recipe(VIDEO, "valid"), KINDS)


def _written(folder: Path, recipe: Recipe, labels: tuple[str, ...]) -> None:
    folder.rmdir()
    create(folder, recipe, labels)
    assert recipe.prior is not None
    modules = {CHECKPOINTS: build_model(recipe, len(labels))}
    modules[f"{PRIOR}/{CHECKPOINTS}"] = build_prior(recipe, recipe.prior, len(labels))
    for place, module in modules.items():
        optimizer = torch.optim.Adam(module.parameters())
        TrainState(module, optimizer, Average(module, 0.9), 1).save(folder / place, 1)
    record_weights(folder / PRIOR, folder)
    line = {"step": 1, "kind": "validation", "seconds": 0.5, "bits_per_sample": 5.25, "codes_used": 31}
    (folder / "metrics.jsonl").write_text(json.dumps({**line, "kind": "train"}) + "\n" + json.dumps(line) + "\n")
    (folder / "summary.json").write_text(json.dumps(line))


def packed(folder: Path) -> None:
    """With the run that made them."""
    (folder / "run").mkdir()
    run(folder / "run")
    shutil.rmtree(folder / "run" / voices.FOLDER)
    loaded = load_run(folder / "run", "cpu", "reference")
    packer = Packer(loaded)
    hop = loaded.recipe.hop
    for count, speaker in ((1, "ann"), (7, "bob"), (60, "ann")):
        some = np.random.default_rng(count).integers(0, K, count)
        (folder / f"{count}.wvq").write_bytes(packer.pack(some, speaker, count * hop - 1))


def enrolled(folder: Path) -> None:
    (folder / "run").mkdir()
    run(folder / "run")
    shutil.copy(folder / "run" / voices.FOLDER / f"eve{voices.SUFFIX}", folder)
    shutil.rmtree(folder / "run")


def recipes(folder: Path) -> None:
    for path in RECIPES.glob("*.yaml"):
        if "kind: codes" not in path.read_text("utf-8"):  # of a run that is not there
            shutil.copy(path, folder)
    anchored = yaml.safe_dump(trainings.RECIPE) + "seed: &a 3\n"
    (folder / "anchored.yaml").write_text(anchored + f"prior: {json.dumps(trainings.PRIOR)}\n")


def evaluations(folder: Path) -> None:
    one = Section("likelihood", "Likelihood", (Figure("held-out NLL", 4.5, "bits/sample", "of all"),), 1.5)
    write_record(
        Record(
            *(1, "0.1.0", "wavevq evaluate", "2026-11-21T10:00:00+00:00", "run", Weights(3, "ab"), None, "fsdd"),
            *(6, 128, 8000, 64, "val", 30, 12.5, 10, 0, (one,), 3.25),
        ),
        folder / "evaluation.json",
    )
    for path in sorted((RECIPES.parent / "results").glob("[aj]*.json")):
        tree = json.loads(path.read_text("utf-8"))
        (folder / path.name).write_text(json.dumps(dict(list(tree.items())[:3])), "utf-8")


# --- images -------------------------------------------------------------------------------------------------


def pictures(folder: Path) -> None:
    image = Image.fromarray(noise(1, 24)[0])
    for name in ("a.png", "a.jpg", "a.webp", "a.bmp", "a.gif", "a.ppm"):
        image.save(folder / name)
    image.save(folder / "a.tif", compression="tiff_lzw")
    image.save(folder / "jpeg.tif", compression="jpeg")
    image.convert("RGBA").save(folder / "clear.png")
    image.convert("P").save(folder / "palette.png", transparency=3)
    image.convert("L").save(folder / "grey.png")
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)).save(folder / "deep.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    image.save(folder / "turned.jpg", exif=turned)
    image.save(folder / "moving.gif", save_all=True, append_images=[image.rotate(90)])


def classes(folder: Path) -> None:
    for number, name in enumerate(("cat", "dog")):
        (folder / name).mkdir()
        for i, image in enumerate(noise(3, 12, number)):
            Image.fromarray(image).save(folder / name / f"{i}.png")


def strips(folder: Path, count: int = 6) -> None:
    every = noise(2 * count, seed=1)
    for split, some in (("train", every[:count]), ("test", every[count:])):
        Image.fromarray(some.reshape(-1, 32, 3)).save(folder / f"{split}_00.png")
        lines = ["index,label,filename", *(f"{i},{i % 3},x_{i}.png" for i in range(count))]
        (folder / f"{split}.csv").write_text("\r\n".join(lines) + "\r\n")


def python2_pickle(batch: dict[bytes, Any]) -> bytes:
    """As Python 2 wrote CIFAR-10's official files: strings are bytes, and arrays are built by numpy of then."""

    def text(value: bytes) -> bytes:
        return b"T" + struct.pack("<I", len(value)) + value

    def item(value: Any) -> bytes:
        if isinstance(value, bytes):
            return text(value)
        if isinstance(value, int):
            return b"J" + struct.pack("<i", value)
        if isinstance(value, list):
            return b"](" + b"".join(map(item, value)) + b"e"
        shape = b"(" + b"".join(map(item, value.shape)) + b"t"
        kind = b"cnumpy\ndtype\n(" + text(b"u1") + item(0) + item(1) + b"tR"
        empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + item(0) + b"t" + text(b"b") + b"tR"
        return empty + b"(" + item(1) + shape + kind + b"\x89" + text(value.tobytes()) + b"tb"

    return b"\x80\x02}(" + b"".join(text(key) + item(value) for key, value in batch.items()) + b"u."


def official(folder: Path, count: int = 4) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """CIFAR-10's python version, ``count`` images a file; returns all, the five training files' first."""
    every = noise(6 * count)
    for number, name in enumerate(images.BATCHES):
        some = every[number * count : (number + 1) * count]
        batch = {
            b"batch_label": name.encode(),
            b"labels": [(number + i) % 3 for i in range(count)],
            b"data": some.transpose(0, 3, 1, 2).reshape(count, 3072),
            b"filenames": [f"a_{i}.png".encode() for i in range(count)],
        }
        (folder / name).write_bytes(python2_pickle(batch))
    (folder / "batches.meta").write_bytes(python2_pickle({b"num_vis": 3072}))
    return every


# --- the cache ----------------------------------------------------------------------------------------------


def stored(folder: Path) -> None:
    (folder / "from").mkdir()
    corpus(folder / "from")
    made = store.prepare(corpora.folder(folder / "from", 0.3, 0), RATE, None)
    _moved(made.folder, folder)


def stored_images(folder: Path) -> None:
    (folder / "from").mkdir()
    classes(folder / "from")
    _moved(image_store.prepare(images.folder(folder / "from", 8, 0.3, 0), 8).folder, folder)


def _moved(made: Path, folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.move(made, folder)


def encoded(folder: Path) -> None:
    save_codes(folder / "codes.safetensors", [np.arange(9), np.arange(4)])


MAKERS = {
    one.__name__.replace("_", " "): one
    for one in (
        *(audio, codes, packed, recipes, run, transformer_run, image_run, coded_run, video_run, resumed),
        *(enrolled, speakers, pictures, alignments),
        *(corpus, classes, strips, official, stored, stored_images, encoded, evaluations),
    )
}

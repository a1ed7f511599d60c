"""Image corpora, the store they are prepared into, and the batches drawn from it."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import resource
import struct
import tarfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import valid
from PIL import Image
from valid import noise, python2_pickle

from wavevq import pixels
from wavevq.data import images
from wavevq.data.download import download
from wavevq.data.image_store import ImageStore, open_store, prepare
from wavevq.errors import WavevqError

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def official(root: Path, count: int = 4) -> Bytes:
    """A folder in the official layout; returns all images."""
    (root / "cifar-10-batches-py").mkdir(parents=True)
    return valid.official(root / "cifar-10-batches-py", count)


def strips(root: Path, count: int = 6) -> Bytes:
    root.mkdir(parents=True, exist_ok=True)
    valid.strips(root, count)
    return noise(2 * count, seed=1)


def by_class(root: Path, count: int = 5, side: int = 12, **classes: int) -> Path:
    """Folders of PNG files, one a class."""
    for number, (name, more) in enumerate((classes or {"cat": 0, "dog": 0}).items()):
        (root / name).mkdir(parents=True)
        for i, image in enumerate(noise(count + more, side, number)):
            Image.fromarray(image).save(root / name / f"{i}.png")
    return root


# --- corpora ------------------------------------------------------------------------------------------------


def test_official_files_are_read_with_their_pixels_and_labels(tmp_path: Path, cache: Path) -> None:
    every = official(tmp_path)
    for root in (tmp_path, tmp_path / "cifar-10-batches-py"):
        store = prepare(images.cifar10(root, 0.1), 32)
        np.testing.assert_array_equal(store.pixels, every)
        assert Counter(one.split for one in store.pictures) == {"train": 18, "val": 2, "test": 4}
        assert [one.label for one in store.split("val")] == ["airplane", "automobile"]  # the end of data_batch_5
        assert store.labels == images.CIFAR10[:3]
    assert tuple(sorted(images.CIFAR10)) == images.CIFAR10  # so that a label is the dataset's number


def test_strips_are_read_with_their_tables(tmp_path: Path, cache: Path) -> None:
    every = strips(tmp_path)
    official(tmp_path)  # may stand beside them
    store = prepare(images.cifar10(tmp_path, 0.3), 32)
    np.testing.assert_array_equal(store.pixels, every)
    assert [one.split for one in store.pictures] == ["train"] * 4 + ["val"] * 2 + ["test"] * 6
    assert store.split("test")[2].name == "test/2/x_2.png"
    assert store.describe() == "corpus: 4 train, 2 val, 6 test images, 32 x 32 pixels, 3 classes"


def test_a_table_goes_through_its_strips_in_order(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "STRIP", 4)
    every = strips(tmp_path, 10)
    for number in range(3):
        some = every[4 * number : min(10, 4 * number + 4)]
        Image.fromarray(some.reshape(-1, 32, 3)).save(tmp_path / f"train_{number:02}.png")
    (tmp_path / "test_00.png").unlink()
    store = prepare(images.cifar10(tmp_path, 0.1), 32)
    np.testing.assert_array_equal(store.pixels, every[:10])
    assert [one.name for one in store.pictures] == [f"train/{i}/x_{i}.png" for i in range(10)]
    assert "3 files missing, 0 broken" in store.describe()  # of test.csv
    Image.fromarray(every[4:7].reshape(-1, 32, 3)).save(tmp_path / "train_01.png")
    Image.fromarray(every[8:10].reshape(-1, 16, 3)).save(tmp_path / "train_02.png")
    store = prepare(images.cifar10(tmp_path, 0.1), 32)
    np.testing.assert_array_equal(store.pixels, every[:4])
    assert [one.reason.partition(": ")[2] for one in store.broken] == [
        "holds 3 images, not 4",
        "16 x 128 pixels; a strip is 32 wide and n x 32 high",
    ]


@pytest.mark.parametrize(("share", "held_out"), [(1e-6, 1), (0.25, 5), (0.999, 19)])
def test_there_is_always_an_image_to_train_on_and_one_to_validate_on(
    tmp_path: Path, share: float, held_out: int
) -> None:
    official(tmp_path)
    listing = images.cifar10(tmp_path, share)
    splits = [one.split for _, pictures in listing.files for one in pictures]
    assert splits == ["train"] * (20 - held_out) + ["val"] * held_out + ["test"] * 4


def test_a_missing_batch_is_told(tmp_path: Path, cache: Path) -> None:
    every = official(tmp_path)
    (tmp_path / "cifar-10-batches-py/data_batch_2").unlink()
    store = prepare(images.cifar10(tmp_path, 0.1), 32)
    np.testing.assert_array_equal(store.pixels, np.delete(every, range(4, 8), 0))
    assert "1 files missing, 0 broken" in store.describe()


def test_a_pickle_that_names_anything_but_arrays_is_refused_and_not_run(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "harm"),)

    official(tmp_path)
    path = tmp_path / "cifar-10-batches-py/data_batch_2"
    harm = str(tmp_path / "harm").encode()
    for harmful, reason in (
        (b"\x80\x02cos\nmkdir\nT" + struct.pack("<I", len(harm)) + harm + b"\x85R.", r"names os\.mkdir, and arrays"),
        (pickle.dumps({"data": Harmful()}, protocol=2), "BINUNICODE stands in none of its files"),
        (pickle.dumps({"data": Harmful()}, protocol=4), "FRAME stands in none of its files"),
    ):
        pickle.loads(harmful)  # it does what it is feared for
        (tmp_path / "harm").rmdir()
        path.write_bytes(harmful)
        with pytest.raises(WavevqError, match=f"data_batch_2: .*{reason}"):
            images.cifar10(tmp_path, 0.1)
        assert not (tmp_path / "harm").exists()


def test_an_official_file_takes_no_more_than_its_own_size(tmp_path: Path) -> None:
    """Shapes, memos and lengths that claim gigabytes, values that take for ever to compare, attributes to be set."""
    official(tmp_path)
    path = tmp_path / "cifar-10-batches-py/data_batch_3"
    array = b"cnumpy.core.multiarray\n_reconstruct\n"
    for hostile in (
        array + b"(cnumpy\nndarray\n(J\xff\xff\xff\x7ftU\x01btR.",  # an array of 2 GiB
        b"]r\xff\xff\xff\xff.",  # a memo of 2**32 places
        b"T\xff\xff\xff\x7fx.",  # a text of 2 GiB
        b"\x96" + b"\xff" * 7 + b"\x7fx.",
        b"}(" + b"(K\x01" + b"t2\x86" * 60 + b"K\x01u.",  # a key of 2**60 ones
        array + b"}U\x08__init__K\x01sb.",
        b"cnumpy\ndtype\n(U\x01OK\x00K\x01tR.",  # an array of addresses
    ):
        path.write_bytes(hostile)
        begun = time.perf_counter()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(WavevqError, match="data_batch_3: not a file of CIFAR-10"):
            images.cifar10(tmp_path, 0.1)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB
        assert time.perf_counter() - begun < 5


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        (b"", "exhausted before seeing STOP"),
        (b"no pickle", "not a file of CIFAR-10"),
        ({b"labels": [1]}, "no data, labels and filenames"),
        ({b"data": np.zeros((2, 5), np.uint8), b"labels": [1, 2], b"filenames": [b"", b""]}, "3072 bytes a row"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10], b"filenames": [b""]}, "0 to 9"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [[1]], b"filenames": [b""]}, "0 to 9"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [1, 2], b"filenames": [b""]}, "for each row"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [[1]], b"filenames": [b""]}, "0 to 9 for each row"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [1], b"filenames": []}, "one for each row"),
    ],
)
def test_a_damaged_official_file_is_told(tmp_path: Path, batch: Any, reason: str) -> None:
    official(tmp_path)
    path = tmp_path / "cifar-10-batches-py/data_batch_1"
    path.write_bytes(batch if isinstance(batch, bytes) else python2_pickle(batch))
    with pytest.raises(WavevqError, match=reason) as caught:
        images.cifar10(tmp_path, 0.1)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_corpus_of_images_is_told(tmp_path: Path) -> None:
    for root in (tmp_path / "none", tmp_path):
        with pytest.raises(WavevqError, match=r"data\.root: .*; name the corpus.*fetch it: wavevq download cifar10"):
            images.cifar10(root, 0.1)
        with pytest.raises(WavevqError, match=r"data\.root: "):
            images.folder(root, 8, 0.1, 0)
    strips(tmp_path)
    (tmp_path / "train.csv").write_text("index,label,filename\n0,1,a\n2,1,b\n")
    with pytest.raises(WavevqError, match=r"train.csv: .*line 3: index 2"):
        images.cifar10(tmp_path, 0.1)
    (tmp_path / "train.csv").write_text("index,label,filename\n0,1,a\n1,10,b\n")
    with pytest.raises(WavevqError, match=r"train.csv: .*line 3: index 1, label 10"):
        images.cifar10(tmp_path, 0.1)


def test_a_folder_of_images_has_its_classes_and_a_held_out_share(tmp_path: Path, cache: Path) -> None:
    root = by_class(tmp_path / "pets", 10)
    listing = images.folder(root, 12, 0.2, 3)
    assert Counter(one.split for _, (one,) in listing.files) == {"train": 16, "val": 4}
    assert listing.files == images.folder(root, 12, 0.2, 3).files != images.folder(root, 12, 0.2, 4).files
    store = prepare(listing, 12)
    assert store.labels == ("cat", "dog")
    for one in store.pictures:
        np.testing.assert_array_equal(store.pixels[one.row], np.asarray(Image.open(root / one.name)))
        assert one.name.startswith(one.label)


def test_folders_of_splits_are_taken_for_what_they_are(tmp_path: Path, cache: Path) -> None:
    by_class(tmp_path / "train", 6)
    by_class(tmp_path / "val", 1, cat=0, eel=0)
    store = prepare(images.folder(tmp_path, 12, 0.2, 0), 12)
    assert store.labels == ("cat", "dog")
    assert [(one.name, one.split) for one in store.pictures if one.name.startswith("val/")] == [
        ("val/cat/0.png", "test"),
        ("val/eel/0.png", "val_unseen"),
    ]
    assert store.examples("val_unseen", [0]).label.tolist() == [-1]


def test_a_class_may_be_called_train(tmp_path: Path, cache: Path) -> None:
    by_class(tmp_path / "vehicles", 3, train=0, car=0)
    assert prepare(images.folder(tmp_path / "vehicles", 12, 0.2, 0), 12).labels == ("car", "train")
    by_class(tmp_path / "plain", 3, train=0, val=0)  # images of no classes
    store = prepare(images.folder(tmp_path / "plain", 12, 0.2, 0), 12)
    assert store.labels == ("train",)
    assert len(store.split("val_unseen")) == 3


def test_a_class_of_which_no_training_image_is_left_was_not_seen(tmp_path: Path, cache: Path) -> None:
    root = by_class(tmp_path / "pets", 5, cat=0, dog=0)
    listing = images.folder(root, 12, 0.4, 0)
    for path, (one,) in listing.files:
        if (one.label, one.split) == ("dog", "train"):
            path.write_text("no image")
    store = prepare(images.folder(root, 12, 0.4, 0), 12)
    assert store.labels == ("cat",)
    assert {one.label for one in store.split("val")} == {"cat"}
    assert {one.label for one in store.split("val_unseen")} == {"dog"}


# --- the store ----------------------------------------------------------------------------------------------


def test_a_prepared_store_is_opened_until_something_changes(tmp_path: Path, cache: Path) -> None:
    root = by_class(tmp_path / "pets")
    first = prepare(images.folder(root, 8, 0.2, 0), 8)
    listing = images.folder(root, 8, 0.2, 0)
    again = prepare(images.Images(listing.root, listing.files, 8, lambda path: pytest.fail("read again")), 8)
    assert (again.folder, again.pictures, again.labels) == (first.folder, first.pictures, first.labels)
    assert open_store(first.folder).pictures == first.pictures
    assert prepare(images.folder(root, 9, 0.2, 0), 9).folder != first.folder
    assert prepare(images.folder(root, 8, 0.2, 1), 8).folder != first.folder
    Image.fromarray(noise(1)[0]).save(root / "cat/9.png")
    assert prepare(images.folder(root, 8, 0.2, 0), 8).folder != first.folder


def test_a_damaged_store_is_made_again(tmp_path: Path, cache: Path) -> None:
    root = by_class(tmp_path / "pets")
    made = prepare(images.folder(root, 8, 0.2, 0), 8)
    whole = made.pixels.tobytes()
    (made.folder / "images.u8").write_bytes(whole[:-1])
    with pytest.raises(WavevqError, match="not a store"):
        open_store(made.folder)
    assert prepare(images.folder(root, 8, 0.2, 0), 8).pixels.tobytes() == whole


def test_broken_images_are_left_out_and_told(tmp_path: Path, cache: Path) -> None:
    root = by_class(tmp_path / "pets", cat=0, dog=0)
    whole = (root / "cat/1.png").read_bytes()
    (root / "cat/1.png").write_bytes(whole[: len(whole) // 2])
    (root / "cat/2.png").write_text("no image")
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(root / "cat/3.png")
    (root / "eel").mkdir()
    (root / "eel/1.png").touch()
    store = prepare(images.folder(root, 12, 0.1, 0), 12)
    assert {one.name for one in store.broken} == {"cat/1.png", "cat/2.png", "cat/3.png", "eel/1.png"}
    assert store.labels == ("cat", "dog")
    assert len(store.pictures) == len(store.pixels) == 7
    assert "4 broken" in store.describe()
    assert "left out: cat/2.png" in store.describe()
    for path in root.rglob("*.png"):
        path.write_text("no image")
    with pytest.raises(WavevqError, match=r"none of 11 files of images can be trained on; .*no known format"):
        prepare(images.folder(root, 12, 0.1, 0), 12)


# --- batches ------------------------------------------------------------------------------------------------


@pytest.fixture
def counting(tmp_path: Path) -> ImageStore:
    """12 training images of 7 x 7, whose values say which one, and where in it."""
    every = np.zeros((15, 7, 7, 3), np.uint8)
    every[..., 0] = np.arange(15)[:, None, None]
    every[..., 1] = np.arange(7)[:, None]
    every[..., 2] = np.arange(7)
    pictures = tuple(images.Picture(str(i), "ab"[i % 2], "train" if i < 12 else "val", i) for i in range(15))
    return ImageStore(tmp_path, ("a", "b"), pictures, 0, (), every, 5, True)


def test_a_step_is_a_pure_function_of_its_number(counting: ImageStore) -> None:
    crops, others = counting.crops(5, 8, 3), counting.crops(5, 8, 3)
    forwards = [crops.at(step) for step in range(12)]
    for step in reversed(range(12)):
        again = others.at(step)
        for name in ("x", "label", "lengths", "index"):
            assert torch.equal(getattr(again, name), getattr(forwards[step], name))
        for rank in range(4):
            part = crops.at(step, rank, 4)
            for name in ("x", "label", "lengths", "index"):
                assert torch.equal(getattr(part, name), getattr(again, name)[rank::4])
    assert not torch.equal(counting.crops(5, 8, 4).at(0).x, forwards[0].x)
    assert (crops.unit, crops.amount) == ("images", 8)


def test_training_images_are_squares_anywhere_mirrored_or_not(counting: ImageStore) -> None:
    crops = counting.crops(5, 4, 0)
    assert crops.steps_per_epoch == 3
    seen = Counter()
    for epoch in range(100):
        batches = [crops.at(3 * epoch + step) for step in range(3)]
        x = pixels.to_images(torch.cat([batch.x for batch in batches])).astype(int)
        assert sorted(x[:, 0, 0, 0]) == list(range(12))  # each once
        for image, label in zip(x, torch.cat([batch.label for batch in batches]).tolist(), strict=True):
            assert (image[..., 0] == image[0, 0, 0]).all()
            assert label == image[0, 0, 0] % 2
            top, left = image[0, 0, 1], min(image[0, 0, 2], image[0, -1, 2])
            mirrored = image[0, 0, 2] > image[0, -1, 2]
            np.testing.assert_array_equal(image[..., 1], (top + np.arange(5))[:, None] + np.zeros((1, 5)))
            columns = left + np.arange(5)
            np.testing.assert_array_equal(image[0, :, 2], columns[::-1] if mirrored else columns)
            seen[top, left, mirrored] += 1
    # 18 views of 1,200: 67 each, standard deviation 8; six of them
    assert len(seen) == 18
    assert min(seen.values()) > 67 - 48
    assert max(seen.values()) < 67 + 48
    mirrored = sum(count for (_, _, side), count in seen.items() if side)
    assert abs(mirrored - 600) < 6 * 17  # half of 1,200, standard deviation 17


def test_validation_images_are_the_middle_of_each_once(counting: ImageStore) -> None:
    batches = counting.whole("val", 2)
    assert [batch.index.tolist() for batch in batches] == [[0, 1], [2]]
    x = pixels.to_images(torch.cat([batch.x for batch in batches]))
    np.testing.assert_array_equal(x, counting.pixels[12:, 1:6, 1:6])
    assert torch.cat([batch.label for batch in batches]).tolist() == [0, 1, 0]
    assert torch.cat([batch.lengths for batch in batches]).tolist() == [5, 5, 5]
    assert [int(i) for batch in counting.whole("train", 2, limit=3) for i in batch.index] == [2, 6, 10]


# --- pixels -------------------------------------------------------------------------------------------------


def test_every_value_comes_back_from_what_models_see() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, 3)
    x = pixels.to_signal(every)
    assert x.shape == (1, 3, 16, 16)
    assert (float(x.min()), float(x.max()), x.dtype) == (-1.0, 1.0, torch.float32)
    assert x.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(pixels.to_images(x), every)
    np.testing.assert_array_equal(pixels.to_images(x + 0.49 / 127.5), every)
    assert pixels.values(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_images_of_any_kind_are_read_as_colours(tmp_path: Path) -> None:
    image = noise(1, 10)[0]
    ways = {
        "RGB": image,
        "grey": image.mean(2).astype(np.uint8),
        "RGBA": np.dstack([image, np.full((10, 10), 255, np.uint8)]),
    }
    for name, values in ways.items():
        Image.fromarray(values).save(tmp_path / f"{name}.png")
        expected = image if name != "grey" else values[..., None].repeat(3, 2)
        np.testing.assert_array_equal(pixels.read(tmp_path / f"{name}.png"), expected)
    Image.fromarray(np.dstack([image, np.zeros((10, 10), np.uint8)])).save(tmp_path / "clear.png")
    assert (pixels.read(tmp_path / "clear.png") == 255).all()
    grey = Image.fromarray(image).convert("P")
    grey.save(tmp_path / "palette.gif", transparency=0)
    assert pixels.read(tmp_path / "palette.gif").shape == (10, 10, 3)


def test_a_turned_photograph_is_turned_back(tmp_path: Path) -> None:
    image = noise(1, 8)[0][:5]
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees to the right
    Image.fromarray(image).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(pixels.read(tmp_path / "turned.png"), np.rot90(image, -1))


def test_the_middle_square_is_what_is_kept(tmp_path: Path) -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    np.testing.assert_array_equal(pixels.read(tmp_path / "wide.png", 20), np.full((20, 20, 3), 200))
    small = pixels.read(tmp_path / "wide.png", 10)
    assert small.shape == (10, 10, 3)
    np.testing.assert_allclose(small[:, 3:-3], 200.0, atol=2)  # nearer to the edge the filter sees what is cut off
    square = noise(1, 16)[0]
    Image.fromarray(square).save(tmp_path / "square.png")
    np.testing.assert_array_equal(pixels.read(tmp_path / "square.png", 16), square)


def test_a_smaller_image_is_the_mean_of_the_larger(tmp_path: Path) -> None:
    board = (np.indices((40, 40)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    Image.fromarray(board).save(tmp_path / "board.png")
    found = pixels.read(tmp_path / "board.png", 10)
    np.testing.assert_allclose(found, 127.5, atol=10)  # the filter's ripple


def test_a_photograph_is_decoded_no_smaller_than_it_is_needed(tmp_path: Path) -> None:
    """Blocks of 8 x 8 pixels, of which a JPEG that is decoded at an eighth of its size keeps one pixel each."""
    blocks = noise(1, 8)[0].repeat(8, 0).repeat(8, 1)
    Image.fromarray(blocks).save(tmp_path / "blocks.jpg", quality=100, subsampling=0)
    found = pixels.read(tmp_path / "blocks.jpg", 32)
    inner = found.reshape(8, 4, 8, 4, 3)[:, 1:3, :, 1:3]  # nearer to the edges the filter mixes two blocks
    assert np.abs(inner.mean((1, 3)) - blocks[::8, ::8]).max() < 16
    assert np.ptp(inner, (1, 3)).max() < 24


@pytest.mark.parametrize(("at", "value"), [(80, 0), (84, 255), (12, 255)])
def test_what_pillow_cannot_decode_is_told(tmp_path: Path, at: int, value: int) -> None:
    image = io.BytesIO()
    Image.fromarray(noise(1, 8)[0]).save(image, "dds")
    data = bytearray(image.getvalue())
    data[at] = value
    (tmp_path / "other.dds").write_bytes(data[: len(data) - (at == 84) * 90])
    with pytest.raises(WavevqError, match=r"other.dds: not an image that can be read"):
        pixels.read(tmp_path / "other.dds")


def test_written_images_are_read_again(tmp_path: Path) -> None:
    image = noise(1, 9)[0]
    pixels.write(tmp_path / "new/one.png", image)
    np.testing.assert_array_equal(pixels.read(tmp_path / "new/one.png"), image)
    np.testing.assert_array_equal(pixels.read(io.BytesIO(pixels.png(image))), image)
    with pytest.raises(WavevqError, match=r"gone.png: cannot be read \(no such file"):
        pixels.read(tmp_path / "gone.png")


def test_a_sheet_shows_every_image_in_its_place() -> None:
    some = noise(5, 4)
    paper = pixels.sheet(some, 3, gap=1)
    assert paper.shape == (11, 16, 3)
    for place, image in enumerate(some):
        top, left = 1 + place // 3 * 5, 1 + place % 3 * 5
        np.testing.assert_array_equal(paper[top : top + 4, left : left + 4], image)
    assert (paper[0] == 255).all()
    assert (paper[6:, 11:] == 255).all()


# --- the download -------------------------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    official(tmp_path / "source")
    path = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(tmp_path / "source/cifar-10-batches-py", "cifar-10-batches-py")
    sums = {
        one.name: hashlib.md5(one.read_bytes()).hexdigest()
        for one in (tmp_path / "source/cifar-10-batches-py").iterdir()
    }
    assert sums.keys() == download.__globals__["CIFAR10_MD5"].keys()
    monkeypatch.setattr("wavevq.data.download.CIFAR10_MD5", sums)
    monkeypatch.setattr("wavevq.data.download.CIFAR10_URL", path.as_uri())
    return path


def test_cifar10_is_downloaded_checked_and_unpacked(tmp_path: Path, archive: Path, cache: Path) -> None:
    place = download("cifar10", tmp_path / "data")
    assert place == tmp_path / "data/cifar-10-batches-py"
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["cifar-10-batches-py"]
    assert len(prepare(images.cifar10(tmp_path / "data", 0.1), 32).pictures) == 24
    archive.unlink()
    assert download("cifar10", tmp_path / "data") == place  # there already


def test_a_wrong_checksum_leaves_nothing(tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(download.__globals__["CIFAR10_MD5"], "data_batch_3", "0" * 32)
    with pytest.raises(WavevqError, match=r"cifar10: the download .* failed .*md5 hash of data_batch_3"):
        download("cifar10", tmp_path / "data")
    assert not list((tmp_path / "data").iterdir())


# --- real images --------------------------------------------------------------------------------------------


def test_both_forms_of_the_real_images_agree(test_data: Path, cache: Path) -> None:
    root = test_data / "cifar10"
    if not root.is_dir():
        pytest.skip(f"{root} is missing")
    strip = prepare(images.cifar10(root, 0.05), 32)
    assert Counter(one.split for one in strip.pictures) == {"train": 19_000, "val": 1000, "test": 5000}
    assert strip.labels == images.CIFAR10
    few = prepare(images.cifar10(root / "cifar-10-batches-py", 0.05), 32)
    assert len(few.pictures) == 1200
    for number in range(6):  # the first 200 of each official file begin a strip
        one, other = 200 * number, (1000 * number if number < 5 else 20_000)
        np.testing.assert_array_equal(few.pixels[one : one + 200], strip.pixels[other : other + 200])
        for mine, theirs in zip(few.pictures[one : one + 200], strip.pictures[other : other + 200], strict=True):
            assert (mine.label, mine.name.split("/")[-1]) == (theirs.label, theirs.name.split("/")[-1])

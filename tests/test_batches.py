from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from wavevq.data import corpora
from wavevq.data.batches import PADDING, Crops, whole_clips
from wavevq.data.store import Store, StoredClip, prepare
from wavevq.errors import WavevqError
from wavevq.noise import JITTER, OFFSETS, ORDER, derived

LENGTHS = (10, 64, 65, 100, 1000)


@pytest.fixture
def counting() -> Store:
    """A store without files whose samples count upwards, so that a sample tells where it comes from."""
    clips, start = [], 0
    for split, times in (("train", 2), ("val", 1), ("val_unseen", 1)):
        for i, length in enumerate(LENGTHS * times):
            speaker = "zoe" if split == "val_unseen" else ("ann", "bob", "eve")[i % 3]
            clips.append(StoredClip(f"{split}/{i}", speaker, split, start, length, None))
            start += length
    samples = np.arange(start, dtype=np.int16)
    return Store(Path("nowhere"), 8000, ("ann", "bob", "eve"), tuple(clips), 0, (), {}, samples)


def counts(x: Tensor) -> np.ndarray:
    return np.rint(x.numpy() * 32_767).astype(int)


def test_a_step_is_a_pure_function_of_its_number(counting: Store) -> None:
    crops, others = Crops(counting, 64, 6, seed=3), Crops(counting, 64, 6, seed=3)
    forwards = [crops.at(step) for step in range(40)]
    for step in reversed(range(40)):
        again = others.at(step)
        for name in ("x", "label", "lengths", "index"):
            assert torch.equal(getattr(again, name), getattr(forwards[step], name))
    different = Crops(counting, 64, 6, seed=4).at(0)
    assert not torch.equal(different.x, forwards[0].x)
    assert torch.equal(forwards[7].index, torch.arange(42, 48))


def test_crops_are_what_the_store_holds(counting: Store) -> None:
    crops = Crops(counting, 64, 4, seed=0)
    for step in range(30):
        batch = crops.at(step)
        assert batch.x.shape == (4, 1, 64)
        assert (batch.x.dtype, batch.label.dtype, batch.lengths.dtype, batch.index.dtype) == (
            torch.float32,
            torch.int64,
            torch.int64,
            torch.int64,
        )
        for row, label, length in zip(counts(batch.x), batch.label.tolist(), batch.lengths.tolist(), strict=True):
            first = row[0, 0]
            clip = next(c for c in reversed(counting.clips) if c.start <= first)
            assert clip.split == "train"
            assert counting.speakers[label] == clip.speaker
            assert length == min(64, clip.length)
            assert first + length <= clip.start + clip.length
            if clip.length <= 64:
                assert first == clip.start
            np.testing.assert_array_equal(row[0, :length], np.arange(first, first + length))
            assert not row[0, length:].any()


def test_an_epoch_takes_each_window_once_in_an_order_of_its_own(counting: Store) -> None:
    crops = Crops(counting, 64, 5, seed=1)
    windows = {clip: max(1, -(-clip.length // 64)) for clip in counting.split("train")}
    total = sum(windows.values())
    assert crops.steps_per_epoch == -(-total // 5)
    orders = []
    for epoch in range(3):
        order = [crops.clips[crops._clip(number)] for number in range(epoch * total, (epoch + 1) * total)]
        assert Counter(order) == windows
        orders.append(order)
    assert orders[0] != orders[1] != orders[2]


def test_windows_of_a_clip_lie_anywhere_in_it(counting: Store) -> None:
    crops = Crops(counting, 64, 1, seed=2)
    starts = []
    longest = counting.split("train")[4]
    for step in range(2000):
        first = int(counts(crops.at(step).x)[0, 0, 0])
        if longest.start <= first < longest.start + longest.length:
            starts.append(first - longest.start)
    assert len(starts) > 500
    assert min(starts) < 20
    assert 916 < max(starts) <= 936
    # Uniform on 0..936: the mean of 500 lies within four standard errors, 4 * 270 / sqrt(500).
    assert np.mean(starts) == pytest.approx(468, abs=48)


@pytest.mark.parametrize("world", [2, 3, 6])
def test_ranks_share_the_rows_of_a_batch(counting: Store, world: int) -> None:
    crops = Crops(counting, 64, 6, seed=0)
    whole = crops.at(5)
    for rank in range(world):
        part = crops.at(5, rank, world)
        for name in ("x", "label", "lengths", "index"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[rank::world])


def test_ranks_that_do_not_divide_the_batch_are_refused(counting: Store) -> None:
    with pytest.raises(WavevqError, match=r"train.batch 6 .* 4"):
        Crops(counting, 64, 6, seed=0).at(0, 0, 4)


def test_order_offsets_and_models_draw_from_different_seeds() -> None:
    seeds = {seed for base in range(100) for seed in (base, *(derived(base, p) for p in (ORDER, OFFSETS, JITTER)))}
    assert len(seeds) == 400


@pytest.mark.parametrize("hop", [1, 64])
def test_whole_clips_come_once_each_and_whole(counting: Store, hop: int) -> None:
    batches = whole_clips(counting, "val", 2, hop)
    # By length, so that little is padded, and no batch where much would be.
    assert [batch.lengths.tolist() for batch in batches] == [[10], [64, 65], [100], [1000]]
    clips = counting.split("val")
    seen = []
    for batch in batches:
        assert batch.x.shape[2] % hop == 0
        assert 0 <= batch.x.shape[2] - batch.lengths.max() < hop
        for row, label, length, index in zip(counts(batch.x), batch.label, batch.lengths, batch.index, strict=True):
            clip = clips[int(index)]
            assert counting.speakers[int(label)] == clip.speaker
            assert length == clip.length
            np.testing.assert_array_equal(row[0, :length], np.arange(clip.start, clip.start + clip.length))
            assert not row[0, length:].any()
            seen.append(clip.length)
    assert seen == sorted(LENGTHS)


def test_a_limit_spreads_over_the_split(counting: Store) -> None:
    chosen = [int(i) for batch in whole_clips(counting, "train", 4, limit=5) for i in batch.index]
    assert sorted(chosen) == [1, 3, 5, 7, 9]
    for limit in (1, 3, 10, 99):
        batches = whole_clips(counting, "train", 4, limit=limit)
        indices = [int(i) for batch in batches for i in batch.index]
        assert len(set(indices)) == len(indices) == min(limit, 10)


def test_unseen_speakers_have_no_label_and_empty_splits_no_batch(counting: Store) -> None:
    assert {label for batch in whole_clips(counting, "val_unseen", 5) for label in batch.label.tolist()} == {-1}
    nobody = Store(Path("nowhere"), 8000, (), (), 0, (), {}, np.zeros(0, np.int16))
    assert list(whole_clips(nobody, "val", 2)) == []
    assert list(whole_clips(nobody, "val", 2, limit=3)) == []


def test_batches_of_a_prepared_corpus(small_corpus: Path) -> None:
    store = prepare(corpora.folder(small_corpus, 0.1, 0), 8000, None)
    batch = Crops(store, 2048, 4, seed=0).at(0)
    assert batch.x.shape == (4, 1, 2048)
    assert 0.01 < batch.x.abs().max() <= 1
    batches = [b.lengths for b in whole_clips(store, "train", 4)]
    assert sum(map(len, batches)) == len(store.split("train"))
    assert max(map(len, batches)) == 4
    for lengths in batches:
        assert lengths.sum() >= (1 - PADDING) * len(lengths) * lengths.max()

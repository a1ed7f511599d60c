"""ABX errors with known answers."""

from __future__ import annotations

import math

import librosa
import numpy as np
import pytest

from wavevq.data.alignments import Phone
from wavevq.evaluate import abx
from wavevq.evaluate.abx import Item, chosen, items, measure, warped
from wavevq.evaluate.metric import NotMeasured
from wavevq.evaluate.phones import CLASSES

HOP = 0.1


def unit(angle: float) -> list[float]:
    return [math.cos(angle * math.pi), math.sin(angle * math.pi)]


def speech(clips: int, speakers: int = 2, seed: int = 0) -> tuple[list[list[Phone]], list[str], list[str]]:
    """Clips of six phones of two frames each, no phone twice in a row, by each of the speakers in turn."""
    draw = np.random.default_rng(seed)
    said: list[list[Phone]] = []
    for _ in range(clips):
        symbols = draw.integers(1, 4, 6).cumsum() % 4
        said.append([(0.2 * i, 0.2 * (i + 1), "PTKS"[symbol]) for i, symbol in enumerate(symbols)])
    return said, [f"s{i % speakers}" for i in range(clips)], [f"clip {i}" for i in range(clips)]


def features(said: list[list[Phone]], kind: str, seed: int = 0) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    frames = []
    for clip in said:
        if kind == "phone":
            frames.append(np.repeat([np.eye(4)["PTKS".index(symbol)] for _, _, symbol in clip], 2, axis=0))
        elif kind == "constant":
            frames.append(np.ones((12, 4)))
        else:
            frames.append(draw.normal(size=(12, 4)))
    return [one.astype(np.float32) for one in frames]


@pytest.mark.parametrize("triphones", [False, True])
@pytest.mark.parametrize(("kind", "error"), [("phone", 0.0), ("constant", 0.5)])
def test_separable_phones_have_no_error_and_identical_ones_half(kind: str, error: float, triphones: bool) -> None:
    said, speakers, names = speech(60)
    found = measure(chosen(items(said, speakers, names, triphones), 0), features(said, kind), HOP)
    assert (found.within, found.across) == (error, error)


def test_noise_is_at_chance() -> None:
    said, speakers, names = speech(60)
    errors = []
    for seed in range(8):
        found = measure(chosen(items(said, speakers, names, False), seed), features(said, "noise", seed), HOP)
        assert found.within is not None
        errors.append(found.within)
    # The draws' own spread: four standard errors of their mean.
    assert abs(np.mean(errors) - 0.5) < 4 * np.std(errors, ddof=1) / math.sqrt(8)


def test_by_hand_within_a_speaker() -> None:
    """Angles, in half turns, of one frame each: phone P at 0 and 0.2, phone T at 0.15.

    X at 0: A is 0.2 away and B 0.15, an error. X at 0.2: A 0.2, B 0.05, an error. T has no second item.
    """
    every = [Item(i, 0, HOP, phone, (), "ann") for i, phone in enumerate((0, 0, 1))]
    frames = [np.array([unit(angle)], np.float32) for angle in (0, 0.2, 0.15)]
    assert measure(every, frames, HOP) == abx.Abx(1.0, None)
    frames[2] = np.array([unit(0.45)], np.float32)  # 0.45 and 0.25 away: none
    assert measure(every, frames, HOP) == abx.Abx(0.0, None)
    frames[2] = np.array([unit(0.3)], np.float32)  # 0.3 and 0.1 away: one of two
    assert measure(every, frames, HOP) == abx.Abx(0.5, None)


def test_by_hand_across_speakers() -> None:
    """ann has P at 0 and T at 0.4; bob's P, at 0.3, is nearer to ann's T, and he has no T: only X of bob counts."""
    every = [Item(0, 0, HOP, 0, (), "ann"), Item(1, 0, HOP, 1, (), "ann"), Item(2, 0, HOP, 0, (), "bob")]
    frames = [np.array([unit(angle)], np.float32) for angle in (0, 0.4, 0.3)]
    assert measure(every, frames, HOP) == abx.Abx(None, 1.0)
    frames[2] = np.array([unit(0.1)], np.float32)
    assert measure(every, frames, HOP) == abx.Abx(None, 0.0)


def test_contexts_do_not_mix() -> None:
    """Phones that are told apart in each of two contexts, and whose frames would mislead across them."""
    every = [
        Item(0, 0, HOP, 0, (1, 1), "ann"),
        Item(1, 0, HOP, 0, (1, 1), "ann"),
        Item(2, 0, HOP, 1, (1, 1), "ann"),
        Item(3, 0, HOP, 1, (2, 2), "ann"),
        Item(4, 0, HOP, 1, (2, 2), "ann"),
        Item(5, 0, HOP, 0, (2, 2), "ann"),
    ]
    frames = [np.array([unit(angle)], np.float32) for angle in (0, 0, 0.5, 0, 0, 0.5)]
    assert measure(every, frames, HOP).within == 0.0


def test_errors_are_averaged_over_contexts_then_speakers_then_pairs() -> None:
    """Two phones with each other: ann 0 in one context and 1 in another, bob 0 in one. Two others: ann 1."""
    every: list[Item] = []
    frames: list[np.ndarray] = []
    right, wrong = (0, 0, 0.5), (0, 0.2, 0.15)  # twice the phone, once the other; the second is all wrong, as above
    cells = [("ann", 1, 0, right), ("ann", 2, 0, wrong), ("bob", 1, 0, right), ("ann", 3, 2, wrong)]
    for speaker, context, phone, angles in cells:
        for place, angle in enumerate(angles):
            every.append(Item(len(every), 0, HOP, phone if place < 2 else 1, (context, context), speaker))
            frames.append(np.array([unit(angle)], np.float32))
    assert measure(every, frames, HOP).within == pytest.approx((((0 + 1) / 2 + 0) / 2 + 1) / 2)


def test_codes_are_equal_or_not() -> None:
    said, speakers, names = speech(60)
    codes = [features([clip], "phone")[0].argmax(axis=1)[:, None].astype(np.float32) for clip in said]
    taken = chosen(items(said, speakers, names, False), 0)
    found = measure(taken, codes, HOP, identity=True)
    assert (found.within, found.across) == (0.0, 0.0)
    halved = [one // 2 for one in codes]  # pairs of phones share a code: of the three others one is at chance
    assert measure(taken, halved, HOP, identity=True).within == pytest.approx(0.5 / 3)


@pytest.mark.parametrize("seed", range(5))
def test_the_warping_is_librosas(seed: int) -> None:
    draw = np.random.default_rng(seed)
    x, y = (draw.normal(size=(n, 3)).astype(np.float32) for n in draw.integers(1, 9, 2))
    x, y = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (x, y))
    frames = np.arccos(np.clip(x.astype(float) @ y.T.astype(float), -1, 1)) / np.pi
    total, path = librosa.sequence.dtw(C=frames)
    # Single precision in, and no two paths of random distances are equally good.
    assert warped(x, y, False) == pytest.approx(total[-1, -1] / len(path), abs=1e-6)


def test_silence_and_edges_are_no_items() -> None:
    said: list[list[Phone]] = [[(0, 1, "sil"), (1, 2, "P"), (2, 3, "T"), (3, 4, "K"), (4, 5, "spn"), (5, 6, "S")]]
    assert [CLASSES[one.phone] for one in items(said, ["ann"], ["a"], False)] == ["P", "T", "K", "S"]
    [only] = items(said, ["ann"], ["a"], True)
    assert (CLASSES[only.phone], [CLASSES[c] for c in only.context], only.start, only.end) == ("T", ["P", "K"], 1, 4)
    with pytest.raises(NotMeasured, match=r"^not measured: b: the phone 'QQ'"):
        items([[(0, 1, "QQ")]], ["ann"], ["b"], False)


def test_a_short_phone_takes_the_frame_around_it() -> None:
    """Between two centres: HOP is 0.1, so centres lie at 0.05 and 0.15."""
    frames = np.arange(6, dtype=np.float32).reshape(3, 2)
    assert abx._span(frames, Item(0, 0.11, 0.14, 0, (), "a"), HOP).tolist() == [[2, 3]]
    assert abx._span(frames, Item(0, 0.05, 0.15, 0, (), "a"), HOP).tolist() == [[0, 1]]
    assert abx._span(frames, Item(0, 0.04, 0.26, 0, (), "a"), HOP).tolist() == frames.tolist()
    assert abx._span(frames, Item(0, 0.4, 0.5, 0, (), "a"), HOP).tolist() == [[4, 5]]


def test_items_are_drawn_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    said, speakers, names = speech(200)
    every = items(said, speakers, names, False)
    taken = chosen(every, 0)
    assert len(taken) == 2 * 4 * abx.REPEATS
    assert taken == chosen(every, 0) != chosen(every, 1)
    monkeypatch.setattr(abx, "MOST_ITEMS", 20)
    assert {one.speaker for one in chosen(every, 0)} == {"s0"}  # all of a voice or nothing
    assert chosen([one for one in every if one.phone == every[0].phone], 0) == []

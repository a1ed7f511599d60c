"""How a codebook is used: codes that are the speaker, that know nothing of it, and figures counted by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from wavevq.data.codes import Codes
from wavevq.evaluate import codebook
from wavevq.evaluate.codebook import by_speaker, chance_run, mutual_bits, run_lengths
from wavevq.evaluate.metric import Findings
from wavevq.evaluate.subject import Subject

VOICES = ("ann", "bob", "cat", "dan")


@dataclass(frozen=True, eq=False)
class Coded(Subject):
    """A subject that is its codes."""

    K: int = 0

    @property
    def size(self) -> int:
        return self.K

    @property
    def speakers(self) -> tuple[str, ...]:
        return VOICES


def metric(codes: list[np.ndarray], labels: list[int], size: int) -> Findings:
    given: dict[str, Any] = {
        "plan": SimpleNamespace(split="val"),
        "seed": 0,
        "encoded": lambda split: Codes([np.append(one, size) for one in codes], labels),
    }
    return codebook.metric(Coded(**{one.name: given.get(one.name) for one in fields(Subject)}, K=size))


def figures(codes: list[np.ndarray], labels: list[int], size: int) -> dict[str, float]:
    return {one.name: one.value or 0.0 for one in metric(codes, labels, size).figures}


# --- codes and speakers -------------------------------------------------------------------------------------


def test_a_code_that_equals_the_speaker_tells_all_of_it() -> None:
    labels = [i % 4 for i in range(40)]
    found = figures([np.full(30, label) for label in labels], labels, 16)
    assert found["mutual information of code and speaker"] == pytest.approx(2)  # log2 of four voices
    assert found["entropy of the speaker"] == found["entropy"] == pytest.approx(2)
    assert (found["used"], found["dead"], found["codes"]) == (4, 12, 1200)
    assert (found["perplexity"], found["perplexity / K"]) == (pytest.approx(4), pytest.approx(1 / 4))
    # Clips of one code each, under other names: what of 40 clips looks like knowledge is far less.
    assert found["the same, speakers shuffled among clips"] < 0.5


def test_a_code_that_tells_one_voice_from_the_others_tells_a_part() -> None:
    labels = [i % 4 for i in range(40)]
    found = figures([np.full(30, int(label == 0)) for label in labels], labels, 2)
    # The entropy of one voice in four; given the voice the code is certain.
    expected = 0.25 * math.log2(4) + 0.75 * math.log2(4 / 3)
    assert found["mutual information of code and speaker"] == pytest.approx(expected)


def test_a_code_that_knows_nothing_of_the_speaker_tells_nothing() -> None:
    labels = [i % 4 for i in range(40)]
    found = figures([np.arange(32) % 8 for _ in labels], labels, 8)
    assert found["mutual information of code and speaker"] == pytest.approx(0, abs=1e-12)
    draw = np.random.default_rng(0)
    found = figures([draw.integers(8, size=50) for _ in labels], labels, 8)
    own, shuffled = (
        found[name] for name in ("mutual information of code and speaker", "the same, speakers shuffled among clips")
    )
    # Counting alone: (K - 1) (S - 1) / (2 n ln 2) bits on average (Miller 1955), within half of that.
    counted = 7 * 3 / (2 * 2000 * math.log(2))
    assert own == pytest.approx(counted, rel=0.5)
    assert shuffled == pytest.approx(counted, rel=0.5)


def test_mutual_information_by_hand() -> None:
    """p = [[1/2, 0], [1/4, 1/4]]: H(rows) = 1, H(columns) = H(1/4), H(both) = 1.5 bits."""
    assert mutual_bits(np.array([[2, 0], [1, 1]])) == pytest.approx(1 + (2 - 0.75 * math.log2(3)) - 1.5)
    assert mutual_bits(np.array([[3, 3], [1, 1]])) == pytest.approx(0, abs=1e-12)


def test_each_speakers_use() -> None:
    found = metric([np.array([0, 0, 1]), np.array([2]), np.array([1, 0])], [0, 2, 0], 4)
    table = found.parts[0]
    assert isinstance(table, codebook.Table)
    # ann: 3 of code 0 and 2 of code 1.
    perplexity = 2 ** -(0.6 * math.log2(0.6) + 0.4 * math.log2(0.4))
    assert table.rows == (
        ("ann", 5, 2, f"{perplexity:.1f}", f"{perplexity / 4:.3f}"),
        ("cat", 1, 1, "1.0", "0.250"),
    )


def test_counts_of_each_speaker() -> None:
    codes = [np.array([0, 0, 2]), np.array([1]), np.array([2])]
    assert by_speaker(codes, [1, 0, 1], 3, 4).tolist() == [[0, 1, 0, 0], [2, 0, 2, 0], [0, 0, 0, 0]]


# --- runs ---------------------------------------------------------------------------------------------------


def test_runs_end_with_their_clip() -> None:
    assert run_lengths([np.array([5, 5, 1, 1, 1, 5]), np.array([5]), np.array([], np.int64)]).tolist() == [2, 3, 1, 1]
    found = figures([np.array([0, 0, 1]), np.array([1, 1, 1, 1])], [0, 1], 2)
    assert (found["mean run"], found["longest run"]) == (pytest.approx(7 / 3), 4)


def test_runs_by_chance() -> None:
    assert chance_run(torch.tensor([30, 0]), 3) == 10  # one code: as long as the clips
    assert chance_run(torch.ones(100, dtype=torch.int64), 100) == 1  # clips of one code
    # Two codes in one long clip: each run goes on with probability 1/2.
    assert chance_run(torch.tensor([10**6, 10**6]), 1) == pytest.approx(2, rel=1e-5)
    draw = np.random.default_rng(0)
    codes = [draw.choice(3, 40, p=[0.7, 0.2, 0.1]) for _ in range(500)]
    found = figures(codes, [0] * 500, 3)
    assert found["mean run"] == pytest.approx(found["mean run by chance"], rel=0.03)  # of some 9,500 runs

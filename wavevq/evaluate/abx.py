"""ABX discriminability of phones, as in the ZeroSpeech challenges (Schatz et al. 2013).

X and A are of one phone and B is of another: how often is X nearer to B? 0.5 is chance, 0 is perfect. Within speakers
all three are of one; across speakers X is of another than A and B. Nearness is the mean angle between frames (in half
turns) along the best path of dynamic time warping. Ties count half. Errors are averaged over contexts, then over
speakers, then over pairs of phones. Ours, for fastabx, the well-kept library, wants Python 3.12 (0.9.0).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from wavevq.audio import Signal
from wavevq.data.alignments import Phone
from wavevq.data.store import StoredClip
from wavevq.evaluate.metric import Figure, Findings, NotMeasured
from wavevq.evaluate.phones import CLASSES, NOWHERE, SILENCE, class_of
from wavevq.evaluate.subject import Subject
from wavevq.nn.encoders import SpectralEncoder, StridedEncoder

REPEATS = 4  # items of one phone, context and speaker, drawn from all
MOST_ITEMS = 1200  # of one measurement
MFCC_SECONDS, MFCC_WINDOW, MFCC_COUNT = 0.010, 0.025, 13
Frames = NDArray[np.float32]  # [F, D] of a clip


@dataclass(frozen=True)
class Item:
    """A phone of a clip and the span, in seconds, that stands for it. context: its neighbours' classes, or nothing."""

    clip: int
    start: float
    end: float
    phone: int
    context: tuple[int, ...]
    speaker: str


@dataclass(frozen=True)
class Abx:
    """Errors, 0 to 1, or None where no A, B and X are to be had."""

    within: float | None
    across: float | None


def items(
    phones: Sequence[Sequence[Phone]], speakers: Sequence[str], names: Sequence[str], triphones: bool
) -> list[Item]:
    """Every phone of the clips but silence; with ``triphones`` only those between two others, and those in the span."""
    found = []
    for clip, (said, speaker, name) in enumerate(zip(phones, speakers, names, strict=True)):
        classes = [class_of(symbol, name) for _, _, symbol in said]
        mute = (CLASSES.index(SILENCE), NOWHERE)
        for i, (start, end, _) in enumerate(said):
            if not triphones and classes[i] not in mute:
                found.append(Item(clip, start, end, classes[i], (), speaker))
            elif triphones and 0 < i < len(said) - 1 and not any(one in mute for one in classes[i - 1 : i + 2]):
                context = (classes[i - 1], classes[i + 1])
                found.append(Item(clip, said[i - 1][0], said[i + 1][1], classes[i], context, speaker))
    return found


def chosen(every: Sequence[Item], seed: int) -> list[Item]:
    """At most REPEATS of a phone, context and speaker and MOST_ITEMS in all, none of a context with one phone alone."""
    draw = np.random.default_rng(seed)
    groups: dict[tuple[Any, ...], list[Item]] = defaultdict(list)
    for place in draw.permutation(len(every)).tolist():
        one = every[place]
        if len(groups[one.context, one.phone, one.speaker]) < REPEATS:
            groups[one.context, one.phone, one.speaker].append(one)
    phones: dict[tuple[int, ...], set[int]] = defaultdict(set)
    speakers: dict[tuple[int, ...], set[str]] = defaultdict(set)
    for context, phone, speaker in groups:
        phones[context].add(phone)
        speakers[context].add(speaker)
    # A context's voices come one by one, so that what is cut off is whole voices of a context.
    taken: list[Item] = []
    for context in sorted(phones):
        for voice in sorted(speakers[context]) if len(phones[context]) > 1 else ():
            some = [one for phone in sorted(phones[context]) for one in groups.get((context, phone, voice), [])]
            if len(taken) + len(some) <= MOST_ITEMS:
                taken += some
    return taken


def measure(taken: Sequence[Item], frames: Sequence[Frames], hop_seconds: float, identity: bool = False) -> Abx:
    """The errors of frames ``[F, D]`` of each clip, ``hop_seconds`` apart, the first centred at half of that.

    identity: the frames are codes ``[F, 1]``, as far apart as orthogonal vectors where they are not equal.
    """
    spans = [_span(frames[one.clip], one, hop_seconds) for one in taken]
    if not identity:
        spans = [span / np.maximum(np.linalg.norm(span, axis=1, keepdims=True), 1e-12) for span in spans]
    groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for i, one in enumerate(taken):
        groups[one.context, one.phone, one.speaker].append(i)
    apart: NDArray[np.float32] = np.full((len(taken), len(taken)), np.nan, np.float32)
    by_context: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, one in enumerate(taken):
        by_context[one.context].append(i)
    for same in by_context.values():
        for place, i in enumerate(same):
            for j in same[place + 1 :]:
                apart[i, j] = apart[j, i] = warped(spans[i], spans[j], identity)
    return Abx(_error(groups, apart, across=False), _error(groups, apart, across=True))


def _span(frames: Frames, item: Item, hop_seconds: float) -> Frames:
    """The frames whose centres lie in the item, or else the one that is nearest to its middle."""
    first = math.ceil(item.start / hop_seconds - 0.5)
    stop = math.ceil(item.end / hop_seconds - 0.5)
    if stop <= first or first >= len(frames):
        first = min(len(frames) - 1, int((item.start + item.end) / 2 / hop_seconds))
        stop = first + 1
    return np.ascontiguousarray(frames[max(0, first) : stop], dtype=np.float32)


def _error(groups: dict[tuple[Any, ...], list[int]], apart: NDArray[np.float32], across: bool) -> float | None:
    """Mean over pairs of phones of the mean over speakers of the mean over contexts."""
    voices: dict[tuple[Any, ...], list[str]] = defaultdict(list)  # of a context and phone
    others: dict[tuple[Any, ...], list[int]] = defaultdict(list)  # phones of a context and speaker
    for context, phone, speaker in groups:
        voices[context, phone].append(speaker)
        others[context, speaker].append(phone)
    cells: dict[tuple[int, int], dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    for (context, phone, speaker), a in groups.items():
        for heard in voices[context, phone]:
            if (heard != speaker) != across:
                continue
            x = groups[context, phone, heard]
            to_a = apart[np.ix_(x, a)]
            for other in others[context, speaker]:
                if other == phone or (not across and len(a) < 2):
                    continue
                to_b = apart[np.ix_(x, groups[context, other, speaker])]
                gap = to_a[:, :, None] - to_b[:, None, :]
                gap = gap[~np.isnan(gap)]  # X is no A of its own
                cells[phone, other][speaker, heard].append(float(np.mean((gap > 0) + 0.5 * (gap == 0))))
    if not cells:
        return None
    return float(np.mean([np.mean([np.mean(some) for some in one.values()]) for one in cells.values()]))


@njit(cache=True)
def warped(x: Frames, y: Frames, identity: bool) -> float:
    """Mean distance along the best path between ``[N, D]`` and ``[M, D]``, rows of norm 1 (or codes ``[N, 1]``).

    The path steps by one frame in either or in both; of equally good steps the one in both is taken.
    """
    n, m = len(x), len(y)
    cost = np.empty((n, m))
    steps = np.empty((n, m))
    for i in range(n):
        for j in range(m):
            if identity:
                here = 0.0 if x[i, 0] == y[j, 0] else 0.5
            else:
                product = 0.0
                for k in range(x.shape[1]):
                    product += x[i, k] * y[j, k]
                here = math.acos(min(1.0, max(-1.0, product))) / math.pi
            if i == 0 and j == 0:
                cost[0, 0], steps[0, 0] = here, 1.0
                continue
            best, length = np.inf, 0.0
            if i and j:
                best, length = cost[i - 1, j - 1], steps[i - 1, j - 1]
            if j and cost[i, j - 1] < best:
                best, length = cost[i, j - 1], steps[i, j - 1]
            if i and cost[i - 1, j] < best:
                best, length = cost[i - 1, j], steps[i - 1, j]
            cost[i, j], steps[i, j] = best + here, length + 1.0
    return float(cost[n - 1, m - 1] / steps[n - 1, m - 1])


# --- of a model ---------------------------------------------------------------------------------------------


def metric(subject: Subject) -> Findings:
    """The metric ``abx`` of ``wavevq evaluate``."""
    known = [i for i, clip in enumerate(subject.clips) if clip.phones]
    clips = [subject.clips[i] for i in known]
    spoken = [clip.phones or () for clip in clips], [clip.speaker for clip in clips], [clip.name for clip in clips]
    hop_seconds = subject.hop / subject.rate
    codes = [subject.codes[i] for i in known]
    figures, sizes = [], []
    kinds = {"phones": False, "triphones": True}
    selected = {kind: chosen(items(*spoken, triphones), subject.seed) for kind, triphones in kinds.items()}
    if not any(selected.values()):
        raise NotMeasured("not measured: needs phone boundaries of two phones or more (data.alignments)")
    subject.say(f"ABX of {' and '.join(f'{len(taken)} {kind}' for kind, taken in selected.items())}")
    features = {
        "codes": ([one[:, None].astype(np.float32) for one in codes], hop_seconds),
        "z_q": ([_looked_up(subject, one) for one in codes], hop_seconds),
        "z_e": ([_encoded(subject, clip) for clip in clips], hop_seconds),
        "MFCC": ([mfcc(subject.store.audio(clip), subject.rate, MFCC_SECONDS) for clip in clips], MFCC_SECONDS),
    }
    for kind, taken in selected.items():
        sizes.append(f"{len(taken)} {kind}")
        for name, (frames, seconds) in features.items():
            found = measure(taken, frames, seconds, identity=name == "codes")
            for where, error in (("within", found.within), ("across", found.across)):
                note = "" if error is not None else "no A, B and X in this split"
                figures.append(Figure(f"{name}, {kind}, {where} speakers", error, "error", note))
    return Findings(
        tuple(figures),
        "How often X, of the same phone as A, is nearer to B, of another: chance is 0.5. Measured on "
        f"{' and '.join(sizes)} (a phone and its two neighbours, the same ones for A, B and X). Codes are equal or "
        "not; z_q are their vectors, z_e the encoder's before quantization; MFCC: "
        f"{MFCC_COUNT} of {1000 * MFCC_WINDOW:g} ms every {1000 * MFCC_SECONDS:g} ms, less the clip's mean.",
    )


@torch.no_grad()
def _looked_up(subject: Subject, codes: NDArray[np.int64]) -> Frames:
    device = next(subject.model.parameters()).device
    found: Frames = subject.model.bottleneck.lookup(torch.from_numpy(codes).to(device)[None])[0].float().cpu().numpy()
    return found


@torch.no_grad()
def _encoded(subject: Subject, clip: StoredClip) -> Frames:
    device = next(subject.model.parameters()).device
    samples = subject.store.audio(clip)
    x = torch.from_numpy(np.pad(samples, (0, -len(samples) % subject.hop)))[None, None].to(device)
    found: Frames = subject.model.encoder(x, torch.tensor([len(samples)], device=device))[0].float().cpu().numpy()
    return found


def mfcc(samples: Signal, rate: int, hop_seconds: float) -> Frames:
    """MFCC_COUNT coefficients ``[F, D]``, the first frame centred at half a hop, less the mean of the clip."""
    hop = round(hop_seconds * rate)
    x = torch.from_numpy(np.pad(samples, (0, -len(samples) % hop)))[None, None]
    nothing = StridedEncoder(MFCC_COUNT, (), 1, MFCC_COUNT, 0, 1)  # for the encoder's features are all that is asked
    window = max(hop, round(MFCC_WINDOW * rate))
    found = SpectralEncoder("mfcc", rate, hop, window, MFCC_COUNT, nothing).features(x)[0].T.numpy()
    centred: Frames = found - found.mean(axis=0)
    return centred

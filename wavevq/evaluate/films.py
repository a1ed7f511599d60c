"""The metrics of runs of video: what the prior says of frames to come, and whether what it draws follows the actions.

Van den Oord et al. 2017, section 4.4: some frames of a clip are given, the others are drawn as codes alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from wavevq import pixels
from wavevq.data.codes import Codes
from wavevq.data.shapes import Shapes
from wavevq.evaluate import rate
from wavevq.evaluate.likelihood import derangement
from wavevq.evaluate.metric import Figure, Findings, NotMeasured, Sheet, Table
from wavevq.evaluate.pictures import GridSubject
from wavevq.pixels import Pixels
from wavevq.prior import Prior

LOOKED_AT = 4  # clips on the page
VISIBLE = 64  # of 765: how far a pixel differs from the ground, all colours added up, that is counted as the shape's

# (codes [N, n, h, w, G], actions [N, t], labels, what it is for) -> codes [N, t, h, w, G].
GoOn = Callable[[NDArray[np.int64], NDArray[np.int64], Sequence[int], str], NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class VideoSubject(GridSubject):
    """show: the frames that codes ``[N, t, h, w, G]`` tell of. go_on: codes of clips that begin as told."""

    corpus: Shapes
    show: Callable[[NDArray[np.int64]], Pixels]
    go_on: GoOn

    @cached_property
    def actions(self) -> NDArray[np.int64]:
        """``[N, T]`` of all clips."""
        return np.stack(self.corpus.given(self.plan.split))

    @cached_property
    def other_actions(self) -> NDArray[np.int64]:
        """The same with those of another clip after the frames that are given. Raises NotMeasured for one clip."""
        taken = derangement([""] * len(self.clips), self.seed)
        if not taken:
            raise NotMeasured("not measured: there is one clip, and no other's actions to compare with")
        found = self.actions.copy()
        given = self.plan.given
        found[:, given:] = self.actions[[taken[i] for i in range(len(found))], given:]
        return found

    def learned(self) -> Prior:
        """The prior. Raises NotMeasured where there is none."""
        if self.prior is None:
            raise NotMeasured("not measured: the run has no trained prior")
        return self.prior


# --- the metrics --------------------------------------------------------------------------------------------


def future(subject: VideoSubject) -> Findings:
    """The metric ``video_future``."""
    prior, given = subject.learned(), subject.plan.given
    own = bits(prior, subject.codes, subject.actions, given, subject.plan.batch)
    other = bits(prior, subject.codes, subject.other_actions, given, subject.plan.batch)
    training, held_out = subject.encoded("train"), np.stack(subject.codes.sequences)
    counts = (subject.counts + 1).double()
    alone = (counts / counts.sum()).numpy()[held_out[:, given:]]
    trained = same_as_before(np.stack(training.sequences), given)
    kept = same_as_before(held_out, given)
    copied = trained.mean() * kept + (1 - trained.mean()) * alone
    figures = (
        Figure("given the actions", own, "bits/code"),
        Figure("given another clip's actions", other, "bits/code"),
        Figure("wrong-actions gap", other - own, "bits/code", "what the actions tell"),
        Figure("as in the frame before", float(-np.log2(copied).mean()), "bits/code", "or else by frequency"),
        Figure(
            "codes by frequency",
            rate.by_frequency(held_out[:, given:].ravel(), subject.counts),
            "bits/code",
            "each code by itself",
        ),
        Figure("uniform", math.log2(subject.size), "bits/code", "log2 K"),
        Figure("codes that stay", float(kept.mean()), "share", "as in the frame before"),
    )
    return Findings(
        figures,
        f"Of frames {given + 1} to {held_out.shape[1]}, given the frames and actions before them: of all clips of the "
        "split, teacher-forced.",
    )


def motion(subject: VideoSubject) -> Findings:
    """The metric ``video_motion``."""
    subject.learned()
    given, places = subject.plan.given, subject.places
    labels = [subject.codes.labels[i] for i in places]
    known = np.stack([subject.codes.sequences[i] for i in places])
    actions, others = subject.actions[places], subject.other_actions[places]
    every = subject.corpus.split(subject.plan.split)
    clips = [every[i] for i in places]
    truth = np.stack([subject.corpus.film(one).frames for one in clips])
    turned = np.stack([subject.corpus.film(one, told).frames for one, told in zip(clips, others, strict=True)])
    drawn = subject.show(subject.go_on(known[:, :given], actions, labels, "given their actions"))
    astray = subject.show(subject.go_on(known[:, :given], others, labels, "given others' actions"))
    still = np.repeat(truth[:, given - 1 : given], truth.shape[1] - given, 1)
    errors = {
        "given the actions": apart(drawn[:, given:], truth[:, given:]),
        "given another clip's actions": apart(astray[:, given:], truth[:, given:]),
        "these, where they lead": apart(astray[:, given:], turned[:, given:]),
        "last given frame repeated": apart(still, truth[:, given:]),
        "from the true codes": apart(subject.show(known)[:, given:], truth[:, given:]),
    }
    notes = {
        "given another clip's actions": "against the same truth",
        "these, where they lead": "against the clip that those actions make",
        "from the true codes": "what encoding and decoding cost",
    }
    lost = float(np.isnan(centroids(drawn[:, given:])).any(-1).mean())
    rows = [
        (given + 1 + t, *(f"{error[:, t].mean():.2f}" for error in errors.values()))
        for t in range(truth.shape[1] - given)
    ]
    versions = truth, drawn, turned, astray
    first = np.concatenate([one[i] for i in range(min(LOOKED_AT, len(truth))) for one in versions])
    return Findings(
        (
            *(Figure(name, float(one.mean()), "pixels", notes.get(name, "")) for name, one in errors.items()),
            Figure("frames without a shape", lost, "share", "of those drawn given the actions"),
        ),
        f"How far the shape's centroid is from where it should be, mean over frames {given + 1} to {truth.shape[1]} of "
        f"{len(truth)} clips whose first {given} frames are given. A shape that is not there counts as in the middle.",
        (
            Table("Position error, pixels, frame by frame", ("frame", *errors), tuple(rows)),
            Sheet(
                pixels.sheet(first, truth.shape[1]),
                "Four rows a clip: the truth; drawn given its actions; where another clip's actions lead; drawn given "
                f"those. The first {given} frames of the drawn are given, as codes.",
            ),
        ),
    )


# --- figures ------------------------------------------------------------------------------------------------


@torch.no_grad()
def bits(prior: Prior, codes: Codes, actions: NDArray[np.int64], given: int, batch: int) -> float:
    """Bits a code of the frames after the first ``given``, under actions ``[N, T]``."""
    device = next(prior.parameters()).device
    nats = count = 0.0
    for first in range(0, len(codes.sequences), batch):
        members = range(first, min(len(codes.sequences), first + batch))
        one = codes.batch(members).to(device)
        mask = torch.zeros(one.x.shape, dtype=torch.bool, device=device)
        mask[:, given:] = True
        told = torch.from_numpy(actions[members.start : members.stop]).to(device)
        nats += prior.nll(one.x, one.label, mask, told).double().sum().item()
        count += int(mask.sum())
    return nats / count / math.log(2)


def same_as_before(codes: NDArray[np.int64], given: int) -> NDArray[np.bool_]:
    """Bool ``[N, T - given, h, w, G]``: which codes of ``[N, T, h, w, G]`` are those of the frame before."""
    same: NDArray[np.bool_] = codes[:, given:] == codes[:, given - 1 : -1]
    return same


def centroids(frames: Pixels) -> NDArray[np.float64]:
    """Row and column ``[..., 2]`` of the middle of what stands out from the ground of frames ``[..., H, W, 3]``.

    The ground is a frame's median; not a number where nothing stands out.
    """
    values = frames.astype(np.float64)
    far = abs(values - np.median(values, (-3, -2), keepdims=True)).sum(-1)
    weight = np.where(far < VISIBLE, 0.0, far)
    whole = weight.sum((-2, -1))
    whole = np.where(whole > 0, whole, np.nan)
    rows = (weight.sum(-1) * np.arange(frames.shape[-3])).sum(-1) / whole
    columns = (weight.sum(-2) * np.arange(frames.shape[-2])).sum(-1) / whole
    return np.stack([rows, columns], -1)


def apart(frames: Pixels, truth: Pixels) -> NDArray[np.float64]:
    """Pixels ``[N, T]`` between the centroids of frames ``[N, T, H, W, 3]``; a shape that is lost is in the middle."""
    middle = (np.array(frames.shape[-3:-1]) - 1) / 2
    one, other = (np.where(np.isnan(where), middle, where) for where in (centroids(frames), centroids(truth)))
    distance: NDArray[np.float64] = np.sqrt(np.square(one - other).sum(-1))
    return distance

"""What codes know of phonemes (Van den Oord et al. 2017, section 4.3).

Each code is mapped to the phone that it most often coincides with in training clips; the figure is the share of
held-out frames in which that is right. A frame is one code, its phone the one at the centre of the code's hop. The
paper reaches 49.3 % with 128 codes at 25 Hz and 41 classes; its "random" 7.2 % is the share of the most frequent class.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavevq.data.alignments import Phone
from wavevq.data.store import StoredClip
from wavevq.evaluate.metric import Figure, Findings, NotMeasured
from wavevq.evaluate.phones import CLASSES, NOWHERE, SILENCE, frame_classes
from wavevq.evaluate.subject import Subject

Codes = Sequence[NDArray[np.integer[Any]]]  # of each clip, [F]

CONTEXT_SECONDS = 0.05  # to either side of a frame, within which its neighbours' codes help to tell its phone
MOST_FRAMES = 40_000  # that the classifier in context is fitted on
STEPS = 100  # of its optimizer; held-out accuracy moves by less than a per cent after


@dataclass(frozen=True)
class Spoken:
    """Codes of some clips and what is said in them.

    codes: of each clip ``[F]``. phones: of each clip. names: of each clip, for errors.
    """

    codes: Codes
    phones: Sequence[Sequence[Phone]]
    names: Sequence[str]

    def classes(self, hop_seconds: float) -> list[NDArray[np.int64]]:
        """Of each clip the class ``[F]`` of every frame, NOWHERE outside of all phones."""
        told = zip(self.codes, self.phones, self.names, strict=True)
        return [frame_classes(phones, len(codes), hop_seconds, name) for codes, phones, name in told]


@dataclass(frozen=True)
class PhonemeScores:
    """Shares of held-out frames, 0 to 1, unless something else is said.

    accuracy: each code mapped to its most likely phone. speech: the same of frames that are not silence, by a map of
    such frames. in_context: by a linear classifier of the codes within CONTEXT_SECONDS. random: accuracy by a map of
    codes drawn at random, independently of the sound. majority, silence: shares of the class that is the most frequent
    in training, and of silence. majority_speech: as majority, of frames that are not silence. frames: how many.
    """

    accuracy: float
    speech: float
    in_context: float
    random: float
    majority: float
    majority_speech: float
    silence: float
    frames: int


def measure(training: Spoken, held_out: Spoken, size: int, hop_seconds: float, seed: int) -> PhonemeScores:
    """Scores of codes in [0, ``size``) of ``hop_seconds`` each.

    Raises NotMeasured for a symbol of no class, and where either split has no speech with phones.
    """
    radius = max(1, round(CONTEXT_SECONDS / hop_seconds))
    windows, classes = _frames(training, size, hop_seconds, radius)
    held_windows, held_classes = _frames(held_out, size, hop_seconds, radius)
    silence = CLASSES.index(SILENCE)
    spoken, held_spoken = classes != silence, held_classes != silence
    if not spoken.any() or not held_spoken.any():
        raise NotMeasured("not measured: no frame of speech has a phone in the training clips or in the held-out ones")
    codes, held_codes = windows[:, radius], held_windows[:, radius]
    draw = np.random.default_rng(seed)
    drawn, held_drawn = (draw.integers(size, size=len(some)) for some in (codes, held_codes))
    nothing, held_nothing = np.zeros_like(codes), np.zeros_like(held_codes)
    return PhonemeScores(
        accuracy=mapped(codes, classes, held_codes, held_classes, size),
        speech=mapped(codes[spoken], classes[spoken], held_codes[held_spoken], held_classes[held_spoken], size),
        in_context=_in_context(windows, classes, held_windows, held_classes, seed),
        random=mapped(drawn, classes, held_drawn, held_classes, size),
        majority=mapped(nothing, classes, held_nothing, held_classes, 1),
        majority_speech=mapped(
            nothing[spoken], classes[spoken], held_nothing[held_spoken], held_classes[held_spoken], 1
        ),
        silence=float(np.mean(~held_spoken)),
        frames=len(held_codes),
    )


def mapped(
    codes: NDArray[np.int64],
    classes: NDArray[np.int64],
    held_codes: NDArray[np.int64],
    held_classes: NDArray[np.int64],
    size: int,
) -> float:
    """The share of held-out frames whose class is the most frequent one of their code among the training frames.

    codes in [0, size) and classes, ``[N]`` each. A code that training never saw counts as the most frequent class;
    of classes that are equally frequent the first counts.
    """
    table = np.bincount(codes * len(CLASSES) + classes, minlength=size * len(CLASSES)).reshape(size, len(CLASSES))
    likely = np.where(table.any(axis=1), table.argmax(axis=1), table.sum(axis=0).argmax())
    return float(np.mean(likely[held_codes] == held_classes))


def _frames(spoken: Spoken, size: int, hop_seconds: float, radius: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of every frame with a phone the codes around it ``[N, 2 radius + 1]`` (``size``: outside the clip) and class."""
    windows, classes = [np.empty((0, 2 * radius + 1), np.int64)], [np.empty(0, np.int64)]
    for codes, said in zip(spoken.codes, spoken.classes(hop_seconds), strict=True):
        padded = np.pad(np.asarray(codes, dtype=np.int64), radius, constant_values=size)
        around = np.lib.stride_tricks.sliding_window_view(padded, 2 * radius + 1)
        windows.append(around[said != NOWHERE])
        classes.append(said[said != NOWHERE])
    return np.concatenate(windows), np.concatenate(classes)


def _in_context(
    windows: NDArray[np.int64],
    classes: NDArray[np.int64],
    held_windows: NDArray[np.int64],
    held_classes: NDArray[np.int64],
    seed: int,
) -> float:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    if len(np.unique(classes)) == 1:
        return float(np.mean(held_classes == classes[0]))
    if len(classes) > MOST_FRAMES:
        kept = np.sort(np.random.default_rng(seed).choice(len(classes), MOST_FRAMES, replace=False))
        windows, classes = windows[kept], classes[kept]
    classifier = make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression(max_iter=STEPS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(windows, classes)
    return float(np.mean(classifier.predict(held_windows) == held_classes))


def metric(subject: Subject) -> Findings:
    """The metric ``phonemes`` of ``wavevq evaluate``."""
    clips = subject.learned
    held_out, training = spoken(subject.clips, subject.codes), spoken(clips, subject.training_codes)
    if not held_out.names or not training.names:
        raise NotMeasured(
            "not measured: needs phone boundaries: the embedded corpus has them; a TextGrid or CTM file beside each "
            "recording gives them, or in the folder that data.alignments names"
        )
    rate = subject.rate / subject.hop
    found = measure(training, held_out, subject.size, 1 / rate, subject.seed)
    figures = (
        Figure("accuracy", found.accuracy, "share of frames", f"{subject.size} codes at {rate:g} a second"),
        Figure("accuracy in context", found.in_context, "share of frames", "with the codes around it"),
        Figure("random codes", found.random, "share of frames", "drawn independently of the sound"),
        Figure("most frequent class", found.majority, "share of frames", "what no code at all would reach"),
        Figure("silence", found.silence, "share of frames"),
        Figure("accuracy without silence", found.speech, "share of frames of speech"),
        Figure("most frequent class without silence", found.majority_speech, "share of frames of speech"),
        Figure("frames", found.frames, "codes", f"held out, in {len(held_out.names)} clips"),
    )
    return Findings(
        figures,
        f"Each code stands for the phone, of {len(CLASSES)} classes, that most often lasts at the centre of its "
        f"{1000 / rate:g} ms in {len(training.names)} training clips. In context, a linear classifier sees all codes "
        f"within {1000 * CONTEXT_SECONDS:g} ms. The paper has 49.3 % with 128 codes at 25 a second, and 7.2 % by the "
        "most frequent class alone.",
    )


def spoken(clips: Sequence[StoredClip], codes: Codes) -> Spoken:
    """Those of the clips whose phones are known."""
    known = [(one, clip.phones, clip.name) for one, clip in zip(codes, clips, strict=True) if clip.phones is not None]
    return Spoken([one for one, _, _ in known], [phones for _, phones, _ in known], [name for _, _, name in known])

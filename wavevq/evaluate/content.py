"""What is left of the words: recognised from sampled clips by judges that learned from real speech only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from wavevq.data.synthetic import pronounced
from wavevq.errors import WavevqError
from wavevq.evaluate import recognise
from wavevq.evaluate.judges import spoken
from wavevq.evaluate.metric import Figure, Findings, NotMeasured
from wavevq.evaluate.recognise import Recogniser, error_rate

if TYPE_CHECKING:
    from wavevq.evaluate.subject import Subject, Version

VERSIONS: tuple[Version, ...] = ("original", "reconstruction", "conversion", "shuffled codes")
NOTES = {"original": "ceiling: after mu-law", "shuffled codes": "floor: codes of another clip of the speaker"}
TEXT = (
    "The judges learned from real training clips of every voice that a clip may be converted to. The original, after "
    "mu-law and back, is the ceiling; shuffled codes, those of another clip of the speaker, are the floor: what stays "
    "of the content there is chance. Reconstruction keeps the speaker, conversion changes it."
)
TRANSCRIPTS = (
    "Errors are edits from its own transcript of the original, as a share of it: 0 is heard as the original "
    "is, whatever was said. The row of the original is after mu-law; chance is another clip's transcript."
)


def metric(subject: Subject) -> Findings:
    """The metric ``content`` of ``wavevq evaluate``: words and phones, where the corpus knows them."""
    figures = [*word_figures(subject), *phone_figures(subject)]
    if not figures:
        raise NotMeasured("not measured: the clips are no words of a closed vocabulary, and their phones are not known")
    return Findings(tuple(figures), TEXT)


def transcript_metric(subject: Subject) -> Findings:
    """The metric ``transcripts`` of ``wavevq evaluate``: what a recogniser of the user's choice hears."""
    if subject.plan.recogniser is None:
        raise NotMeasured("not measured: no recogniser is chosen; --set evaluation.recogniser=WAV2VEC2_ASR_BASE_960H")
    figures = transcript_figures(subject, recognise.load(subject.plan.recogniser))
    return Findings(tuple(figures), f"Heard by {subject.plan.recogniser}. {TRANSCRIPTS}")


def word_figures(subject: Subject) -> list[Figure]:
    """The share of clips whose word is recognised; none without a closed vocabulary."""
    judge = subject.judges.word
    if judge is None or subject.word_of is None:
        return []
    said = [subject.word_of(one.clip.name) for one in subject.utterances]
    found = [
        Figure(
            f"words, {version}", judge.score(version, subject.judged_as(version), said).value, "share", note(version)
        )
        for version in subject.possible(VERSIONS)
    ]
    return [*found, Figure("words, chance", judge.chance, "share", "share of the most frequent word")]


def phone_figures(subject: Subject) -> list[Figure]:
    """The share of 10 ms frames whose phone is recognised, in the clips whose phones are known; none without any."""
    judge = subject.judges.phone
    known = [i for i, one in enumerate(subject.utterances) if one.clip.phones]
    if judge is None or not known:
        return []
    said = [spoken(one.clip, len(one.samples) / subject.rate) for one in (subject.utterances[i] for i in known)]
    found = []
    for version in subject.possible(VERSIONS):
        clips = subject.judged_as(version)
        share = judge.accuracy([clips[i] for i in known], said)
        found.append(Figure(f"phones, {version}", share, "share of frames", note(version)))
    return [*found, Figure("phones, chance", judge.chance, "share of frames", "share of the most frequent phone")]


def transcript_figures(subject: Subject, recogniser: Recogniser) -> list[Figure]:
    """Word, phone and character error rates against what the recogniser hears in the original.

    Phones are those of the transcripts, as espeak-ng says them: a wrong word may sound nearly right.
    """

    def transcripts(version: Version) -> list[str]:
        subject.say(f"recognising {len(subject.utterances)} clips: {version}")
        # As it is, not after mu-law: the original's row is the cost of mu-law alone.
        clips = subject.heard(version) if version == "original" else subject.judged_as(version)
        return [recogniser.transcribe(clip, subject.rate) for clip in clips]

    said = transcripts("original")
    heard: dict[str, Sequence[str]] = {"original": transcripts("mu-law")}
    heard |= {version: transcripts(version) for version in subject.possible(VERSIONS) if version != "original"}
    if len(said) > 1:
        heard["chance"] = said[1:] + said[:1]
    kinds: dict[str, Callable[[str], Sequence[str]]] = {"word error rate": str.split, "character error rate": list}
    lacking = []
    try:
        texts = sorted({*said, *(text for some in heard.values() for text in some)})
        kinds["phone error rate"] = dict(zip(texts, pronounced(texts), strict=True)).__getitem__
    except WavevqError as error:
        lacking = [Figure("phone error rate", None, "share", str(error))]
    figures = []
    for name, units in kinds.items():
        for version, words in heard.items():
            rate = error_rate(said, words, units)
            why = "the recogniser hears no words in the originals" if rate is None else note(version)
            figures.append(Figure(f"{name}, {version}", rate, "share", why))
    return figures + lacking


def note(version: str) -> str:
    return "another clip's words" if version == "chance" else NOTES.get(version, "")

"""A speaker left out of training and enrolled after it: python benchmarks/enroll.py theo --root PATH (of FSDD).

recipes/digits.yaml without one speaker; then ``wavevq enroll`` on a minute of theirs. Held-out clips of the others are
converted to the best known speaker's voice (before) and to the new one (after), and a probe that has learned from real
clips only says how many it takes for the new speaker's; for the ceiling, of real clips of theirs that nothing has seen.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from cells import Cell, Figures, Study, by_cell, shown, study

from wavevq.audio import Recording, Signal, level
from wavevq.build import build_listing
from wavevq.cli import main as wavevq
from wavevq.data.batches import order
from wavevq.data.store import Store, StoredClip
from wavevq.evaluate.probes import SpeakerProbe
from wavevq.noise import ORDER, derived
from wavevq.run import Run, load_run
from wavevq.voices import enrolled

SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
MINUTE, CLIPS = 60.0, 60  # seconds to enroll on; clips converted, and real ones judged for the ceiling
COLUMNS = {
    "bits/sample before": "bits_per_sample_before",
    "bits/sample after": "bits_per_sample_after",
    "judged the new speaker before": "target_before",
    "judged the new speaker after": "target_after",
    "judged the source after": "source_after",
    "real clips": "target_real",
    "chance": "chance",
}


def cell(speaker: str) -> Cell:
    return Cell(speaker, (f"data.without=[{speaker}]", "prior=null"), "recipes/digits.yaml")


def measure(run: Run, store: Store) -> Figures:
    """Enroll, convert, judge."""
    [name] = {clip.speaker for clip in store.split("val_unseen")}
    given, unheard = minute(run, store)
    paths = {clip.name: str(clip.path) for clip in build_listing(run.recipe.speech, run.recipe.seed).clips}
    words = ["enroll", name, *(paths[clip.name] for clip in given), "--run", str(run.folder), "--replace"]
    wavevq(words, standalone_mode=False)
    [about] = [voice.about for voice in enrolled(run.folder) if voice.name == name]
    run = load_run(run.folder)

    learned = [*store.split("train"), *given]
    probe = SpeakerProbe.fit([heard(run, store, one) for one in learned], [one.speaker for one in learned], run.rate)
    sources = spread(store.split("val"))
    codes = [run.encode(Recording(store.audio(one), run.rate, one.name)) for one in sources]

    def judged(speaker: str, expected: Sequence[str]) -> float:
        drawn = run.decode_batch(codes, [speaker] * len(codes), seed=run.recipe.seed)
        cut = [audio[: one.length] for audio, one in zip(drawn, sources, strict=True)]
        return probe.score(speaker, [level(audio) for audio in cut], expected).value

    real = spread(unheard)
    return {
        "bits_per_sample_before": about["bits_per_sample_before"],
        "bits_per_sample_after": about["bits_per_sample_after"],
        "seconds_enrolled": about["seconds"],
        "target_before": judged(about["nearest"], [name] * len(sources)),
        "target_after": judged(name, [name] * len(sources)),
        "source_after": judged(name, [one.speaker for one in sources]),
        "target_real": probe.score("real", [heard(run, store, one) for one in real], [name] * len(real)).value,
        "chance": 1 / (len(store.speakers) + 1),
        "clips": len(sources),
    }


def minute(run: Run, store: Store) -> tuple[list[StoredClip], list[StoredClip]]:
    """The new speaker's clips in a seeded order: the first, MINUTE together, to enroll on, and the others."""
    clips = store.split("val_unseen")
    given: list[StoredClip] = []
    unheard: list[StoredClip] = []
    for place in order(derived(run.recipe.seed, ORDER), 0, len(clips)).tolist():
        enough = sum(clip.length for clip in given) >= MINUTE * run.rate
        (unheard if enough else given).append(clips[place])
    return given, unheard


def spread(clips: Sequence[StoredClip]) -> list[StoredClip]:
    """CLIPS of them, evenly."""
    count = min(CLIPS, len(clips))
    return [clips[(2 * i + 1) * len(clips) // (2 * count)] for i in range(count)]


def heard(run: Run, store: Store, clip: StoredClip) -> Signal:
    """A real clip as a model's are: after mu-law and back, levelled."""
    distribution = run.model.decoder.distribution
    samples = distribution.decode(distribution.encode(torch.from_numpy(store.audio(clip)))).numpy()
    return level(samples, clip.name)


README = {
    "bits/sample before": shown("bits_per_sample_before", ".3f"),
    "after": shown("bits_per_sample_after", ".3f"),
    "judged the new speaker before, %": shown("target_before", ".0f", 100),
    "after, %": shown("target_after", ".0f", 100),
    "judged the source after, %": shown("source_after", ".0f", 100),
    "real clips, %": shown("target_real", ".0f", 100),
}
PLAN = Study("enroll", {speaker: [cell(speaker)] for speaker in SPEAKERS}, COLUMNS, measure, by_cell(README))

if __name__ == "__main__":
    study(PLAN, __doc__ or "")

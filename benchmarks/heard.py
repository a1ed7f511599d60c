"""What the judges of `wavevq evaluate` hear in a folder of audio, which a run has made:

wavevq sample DIR --run RUN --speaker NAME --count 20
python benchmarks/heard.py DIR --run RUN --speaker NAME [--set data.root=PATH] [--json FILE]

The judges know real training clips of the run's corpus only. A row a file: whose voice it is heard as, and of a corpus
of words which word, and whether as surely as 95 % of the real held-out clips. Below it the shares of files: heard as
NAME, surely a word. A file too short or too quiet to be judged is neither; of a longer one the beginning is heard.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from wavevq.audio import Signal, read, resample
from wavevq.errors import WavevqError
from wavevq.evaluate.judges import levelled
from wavevq.evaluate.samples import audible, least_margin
from wavevq.evaluate.subject import Subject
from wavevq.evaluation import subject_of, with_overrides
from wavevq.jobs import recordings
from wavevq.run import load_run


@dataclass(frozen=True)
class Verdict:
    """On a file: of so many seconds, as whose voice and which word it is heard, and how surely.

    Empty where there is nothing to be heard, None where there is no judge: of one speaker, of a corpus without words.
    """

    file: str
    seconds: float
    voice: str | None
    word: str | None
    sure: bool | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR", help="a folder of audio")
    parser.add_argument("--run", required=True, metavar="RUN", help="the run whose corpus the judges know")
    parser.add_argument("--speaker", required=True, metavar="NAME", help="in whose voice the files are meant to be")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="such as data.root=PATH")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the shares to FILE")
    given = parser.parse_args()
    try:
        run = load_run(given.run, "cpu", enrolled=False)  # the judges know voices of the corpus only
        run.speaker(given.speaker)
        subject = subject_of(run, with_overrides(run, given.set), Console(markup=False, stderr=True))
        paths = recordings([given.folder])
        longest = subject.most * subject.hop
        clips = [levelled(resample(one.samples, one.rate, run.rate)[:longest]) for one in map(read, paths)]
        verdicts = judged(subject, [path.name for path in paths], clips)
    except WavevqError as error:
        print(*error.args, sep="\n", file=sys.stderr)
        raise SystemExit(2) from None
    shares = {
        f"heard as {given.speaker}": share(
            [None if one.voice is None else one.voice == given.speaker for one in verdicts]
        ),
        "surely a word": share([one.sure for one in verdicts]),
    }
    console = Console(markup=False)
    console.print(table(verdicts))
    for name, found in shares.items():
        console.print(f"{name} {'not measured' if found is None else format(found, '.4g')}")
    if given.json:
        words = shlex.join(["python", "benchmarks/heard.py", "DIR", "--run", given.run, "--speaker", given.speaker])
        record = {"command": words, "date": datetime.now().date().isoformat(), "files": len(verdicts), **shares}
        given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def judged(subject: Subject, names: Sequence[str], clips: Sequence[Signal]) -> list[Verdict]:
    """Verdicts on clips float32 ``[T]``, at the subject's rate and all of one level."""
    speaker, word = subject.judges.speaker, subject.judges.word
    least = least_margin(word, subject.judges.beginnings(subject.clips)) if word else 0.0
    verdicts = []
    for name, clip in zip(names, clips, strict=True):
        there = [clip] if audible(clip, subject.rate) else []
        voice = None if speaker is None else "".join(speaker.judge(there))
        said = None if word is None else "".join(word.judge(there))
        sure = None if word is None else bool(there) and bool(word.margins(there)[0] >= least)
        verdicts.append(Verdict(name, len(clip) / subject.rate, voice, said, sure))
    return verdicts


def share(answers: Sequence[bool | None]) -> float | None:
    """Of those that are true; None where they have not been judged."""
    known = [one for one in answers if one is not None]
    return float(np.mean(known)) if known else None


def table(verdicts: Sequence[Verdict]) -> Table:
    made = Table("file", "seconds", "voice", "word")
    for one in verdicts:
        word = f"{one.word}{'' if one.sure else ', unsure'}" if one.word else "–"
        made.add_row(one.file, f"{one.seconds:.2f}", one.voice or "–", word)
    return made


if __name__ == "__main__":
    main()

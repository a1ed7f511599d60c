"""Phone boundaries from files: our own table, Praat's TextGrid (long or short text), and CTM (NIST; Kaldi).

Times count from the beginning of the recording as it lies on disk; the store moves them by what it trims.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from wavevq.data.corpora import ALIGNED, Listing, utterance
from wavevq.errors import WavevqError
from wavevq.folders import walk

Phone = tuple[float, float, str]  # start and end in seconds, symbol

CTM, TEXTGRIDS = ".ctm", (".TextGrid", ".textgrid")
OVERLAP = 0.02  # seconds by which a phone may pass the next one's start: CTM rounds start and duration to 0.01 each
TIERS = re.compile(r"(.* - )?(phones?|phonemes?|segments?|mau)", re.IGNORECASE)  # with the speaker's name before it


def aligned(listing: Listing, folder: str | Path) -> Listing:
    """A corpus whose clips have the alignments that lie in ``folder``, however deep, and no others.

    A file belongs to the recordings of its name (VCTK's without the microphone too); where recordings share a name, the
    folders decide: ``ann/1.TextGrid`` is of ``ann/1.wav``. A CTM of another name may hold many recordings.
    Raises WavevqError where no clip has one.
    """
    top = Path(folder)
    if not top.is_dir():
        raise WavevqError(f"data.alignments: there is no folder {folder}")
    named: dict[str, list[Path]] = {}
    spoken: dict[str, Path] = {}  # of every utterance of a CTM
    for parent, files in walk(top):
        for name in files:
            path = parent / name
            suffix = next((suffix for suffix in ALIGNED if name.endswith(suffix)), None)
            if suffix == CTM:
                spoken |= dict.fromkeys(_ctm(path, _stamp(path)), path)
            elif suffix:
                named.setdefault(name.removesuffix(suffix), []).append(path)

    def found(name: str) -> Path | None:
        stem = Path(name).stem
        for own in dict.fromkeys((stem, utterance(stem))):
            candidates = named.get(own, [])
            if len(candidates) == 1:
                return candidates[0]
            for path in candidates:
                if path.relative_to(top).parent.parts[-1:] == Path(name).parent.parts[-1:]:
                    return path
            if own in spoken:
                return spoken[own]
        return None

    clips = tuple(dataclasses.replace(clip, phones=found(clip.name)) for clip in listing.clips)
    if not any(clip.phones for clip in clips):
        raise WavevqError(
            f"data.alignments: {folder} holds no alignment of any recording, such as "
            f"{Path(listing.clips[0].name).stem}.TextGrid or a .ctm that names it"
        )
    return dataclasses.replace(listing, clips=clips)


def read_phones(path: Path, audio: Path) -> list[Phone]:
    """The phones of the recording ``audio``, in order and without overlap, from the alignment in ``path``.

    Raises WavevqError, one line with the file, for anything that is none.
    """
    if path.suffix == CTM:
        every = _ctm(path, _stamp(path))
        named = [name for name in (audio.stem, utterance(audio.stem)) if name in every]
        if not named:
            raise WavevqError(f"{path}: names no utterance {audio.stem}; its first is {next(iter(every), 'none')}")
        phones = every[named[0]]
    elif path.suffix in TEXTGRIDS:
        phones = _textgrid(path)
    else:
        phones = list(_table(path))
    return _in_order(phones, path)


def _in_order(phones: Sequence[Phone], path: Path) -> list[Phone]:
    for start, end, symbol in phones:
        if not (0 <= start <= end < math.inf):
            raise WavevqError(f"{path}: the phone {symbol!r} from {start:g} to {end:g} s; allowed is 0 <= start <= end")
    ordered = sorted(phones)
    for one, two in pairwise(ordered):
        if one[1] > two[0] + OVERLAP:
            raise WavevqError(f"{path}: the phones {one[2]!r} and {two[2]!r} overlap at {two[0]:g} s")
    nexts = [*(start for start, _, _ in ordered[1:]), math.inf]  # one too many where there is no phone
    return [(start, min(end, later), symbol) for (start, end, symbol), later in zip(ordered, nexts, strict=False)]


def _table(path: Path) -> Iterator[Phone]:
    """Start in seconds, end in seconds, symbol, tabs between; a first line that names them may stand."""
    for number, line in enumerate(_text(path).splitlines(), 1):
        if number == 1 and line.startswith("start"):
            continue
        try:
            start, end, symbol = line.split("\t")
            yield float(start), float(end), symbol
        except ValueError:
            raise WavevqError(
                f"{path}: line {number} is not a start, an end in seconds and a symbol with tabs between"
            ) from None


def _stamp(path: Path) -> int:
    return path.stat().st_mtime_ns


@lru_cache(maxsize=64)  # one file may hold a whole corpus
def _ctm(path: Path, stamp: int) -> dict[str, list[Phone]]:
    """Of each utterance its phones: a line has utterance, channel, start, duration, symbol, perhaps a confidence."""
    found: dict[str, list[Phone]] = {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        fields = line.split()
        if not fields or fields[0].startswith(";;"):
            continue
        try:
            name, _, start, seconds, symbol = fields[:5]
            begin, end = float(start), float(start) + float(seconds)
        except ValueError:
            raise WavevqError(
                f"{path}: line {number} is not utterance, channel, start, duration in seconds and symbol"
            ) from None
        # Kaldi marks where in its word a phone stands.
        found.setdefault(name, []).append((begin, end, re.sub(r"_[BIES]$", "", symbol)))
    return found


def _textgrid(path: Path) -> list[Phone]:
    """The intervals of the tier of phones.

    As Praat reads: strings in double quotes, numbers and flags in angle brackets that stand free, and nothing else; so
    long and short text are one.
    """
    tokens = re.finditer(r'"((?:[^"]|"")*)"|(?<!\S)([-+]?[\d.]+(?:[eE][-+]?\d+)?)(?!\S)|(<\w+>)|![^\n]*', _text(path))
    values = (found for found in tokens if not found[0].startswith("!"))

    def string() -> str:
        if (text := next(values)[1]) is None:
            raise ValueError("a number stands where a text should")
        return text.replace('""', '"').strip()

    def number() -> float:
        return float(next(values)[2])  # TypeError of None

    try:
        if not string().startswith("ooTextFile") or string() != "TextGrid":
            raise ValueError("it does not begin as one")
        number(), number()
        if next(values)[3] != "<exists>":
            raise ValueError("it has no tiers")
        tiers: dict[str, list[Phone]] = {}
        for _ in range(int(number())):
            kind, name = string(), string()
            number(), number()
            count = int(number())
            if kind == "IntervalTier":
                tiers[name] = [(number(), number(), string()) for _ in range(count)]
            else:
                for _ in range(count):
                    number(), string()
    except (ValueError, TypeError, OverflowError, StopIteration) as error:  # OverflowError: as many tiers as 1e999
        reason = str(error) if type(error) is ValueError else "it is cut short or damaged"
        raise WavevqError(f"{path}: not a TextGrid in Praat's text format ({reason})") from None
    chosen = [name for name in tiers if TIERS.fullmatch(name)] or list(tiers)
    if len(chosen) != 1:
        there = ", ".join(map(repr, tiers)) or "none"
        raise WavevqError(f"{path}: must have one tier of intervals named phones; its tiers of intervals are {there}")
    return tiers[chosen[0]]


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")  # Praat writes both
    except OSError as error:
        raise WavevqError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()})") from None
    except UnicodeDecodeError:
        raise WavevqError(f"{path}: is not text in UTF-8 or UTF-16") from None

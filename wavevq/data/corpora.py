"""Which recordings a corpus holds, who speaks them, and which are for training.

Every corpus takes ``train.txt``, ``val.txt`` and ``val_unseen.txt`` (one path a line, relative to the folder the
lists stand in) where they exist beside it, and else holds out a seeded share of its recordings.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Literal

from wavevq.errors import WavevqError
from wavevq.folders import is_file, walk
from wavevq.plain import is_name

Split = Literal["train", "val", "val_unseen", "test"]  # the last: a corpus's own, of images
SPLITS: tuple[Split, ...] = ("train", "val", "val_unseen")
SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif"})
ALIGNED = (".phones.tsv", ".TextGrid", ".textgrid", ".ctm")  # files of phones; data/alignments.py reads them


@dataclass(frozen=True)
class Clip:
    """One recording. name: unique in its listing. phones: its alignment, if any.

    The name is its path relative to the listing's root; of ``joined`` ones what its corpus is called stands before it.
    """

    name: str
    speaker: str
    split: Split
    path: Path
    phones: Path | None = None


@dataclass(frozen=True)
class Listing:
    """A corpus: its recordings sorted by name, and how many that it should hold are not there.

    val holds speakers of the training split only, val_unseen other speakers only. about: what the corpus tells of
    a speaker, for those it tells of.
    """

    root: Path
    clips: tuple[Clip, ...]
    missing: int = 0
    about: Mapping[str, str] = field(default_factory=dict)


# --- the kinds of corpora -----------------------------------------------------------------------------------


FOLDER = "<speaker>/*.wav, .flac, .ogg or .mp3"


def vctk(root: str | Path, microphone: str, held_out: float, seed: int) -> Listing:
    """VCTK 0.92 (``wav48_silence_trimmed/``, one of two microphones) or an older release (``wav48/``).

    An utterance without the microphone asked for is missing, and tolerated: p280 and p315 are so in the original.
    """
    top = existing(root, "vctk")
    for base in (top, top / "VCTK-Corpus-0.92", top / "VCTK-Corpus"):
        if recorded := _audio_below(base / "wav48_silence_trimmed"):
            found = [path for path in recorded if path.stem.endswith(f"_{microphone}")]
            break
        if recorded := _audio_below(base / "wav48"):
            found = recorded
            break
    else:
        raise no_corpus(root, "wav48_silence_trimmed/<speaker>/*.flac or wav48/<speaker>/*.wav", "vctk")
    if not found:
        raise WavevqError(f"data.microphone: {base} holds no recording of {microphone}, only of the other one")
    written = {path.stem for path in (base / "txt").glob("*/*.txt")}
    missing = ({utterance(path.stem) for path in recorded} | written) - {utterance(path.stem) for path in found}
    # Lists made for one microphone serve the other.
    rename = partial(re.sub, r"_mic\d(?=\.\w+$)", f"_{microphone}")
    return _listing(top, base, found, len(missing), _parent, held_out, seed, rename)


def librispeech(root: str | Path, held_out: float, seed: int) -> Listing:
    """LibriSpeech: ``<subset>/<speaker>/<chapter>/*.flac``, all subsets that are there.

    Beside a train subset, dev and test are what they were made for: speakers that are not trained on.
    """
    top = existing(root, "librispeech")
    for base in (top / "LibriSpeech", top):
        found = [path for path in base.glob("*/*/*/*") if _is_audio(path) and re.fullmatch(r"\d+-\d+-\d+", path.stem)]
        if found:
            subsets = {path: path.relative_to(base).parts[0] for path in found}
            trains = any(subset.startswith("train") for subset in subsets.values())
            unseen = {path for path, subset in subsets.items() if trains and not subset.startswith("train")}
            return _listing(top, base, found, 0, lambda path: path.parent.parent.name, held_out, seed, unseen=unseen)
    raise no_corpus(root, "LibriSpeech/<subset>/<speaker>/<chapter>/*.flac", "librispeech")


def folder(
    root: str | Path, held_out: float, seed: int, suffixes: Collection[str] = SUFFIXES, layout: str = FOLDER
) -> Listing:
    """Any folder of audio with one folder a speaker, however deep the files lie in it; or of other files.

    The speakers' folders stand in the deepest folder that holds all recordings. layout: for messages.
    """
    top = existing(root)
    found, place = below(root, suffixes, layout)
    return _listing(top, top, found, 0, lambda path: path.relative_to(place).parts[0], held_out, seed)


def below(root: str | Path, suffixes: Collection[str], layout: str) -> tuple[list[Path], Path]:
    """The files below ``root``, and the folder in which the speakers' folders stand. Arguments as for ``folder``."""
    found = _files_below(existing(root), suffixes)
    if not found:
        raise no_corpus(root, layout)
    common = Path(os.path.commonpath([path.parent for path in found]))
    beside = {path.parent == common for path in found}
    if len(beside) == 2:
        raise no_corpus(root, f"{layout}, and nothing beside those folders")
    return found, common.parent if beside == {True} else common  # all in one folder: one speaker


def fsdd(root: str | Path, held_out: float, seed: int) -> Listing:
    """The Free Spoken Digit Dataset: ``recordings/7_jackson_32.wav``, or laid out like VCTK's older releases."""
    top = existing(root)
    for base in (top, top / "free-spoken-digit-dataset"):
        found = [path for path in _audio_below(base / "recordings") if re.fullmatch(r"\d_.+_\d+", path.stem)]
        if found:
            return _listing(top, base, found, 0, lambda path: path.stem[2:].rpartition("_")[0], held_out, seed)
        found = _audio_below(base / "wav48")
        if found:
            return _listing(top, base, found, 0, _parent, held_out, seed)
    raise no_corpus(root, "recordings/<digit>_<speaker>_<index> and no wav48/<speaker>/*, as audio files")


def digit(name: str) -> str:
    """The digit that is said in a clip of ``fsdd``, "0" to "9"."""
    path = PurePosixPath(name)
    pattern = r"(\d)_.+_\d+" if path.parent.name == "recordings" else r".*_(\d)\d+"
    if not (found := re.fullmatch(pattern, path.stem)):
        raise WavevqError(f"{name}: its name does not tell the digit, as 7_jackson_32 and jackson_732 do")
    return found[1]


def without(listing: Listing, speakers: Collection[str]) -> Listing:
    """The listing with all clips of some speakers in val_unseen. Raises WavevqError for one that it does not know."""
    trained = {clip.speaker for clip in listing.clips if clip.split == "train"}
    if unknown := sorted(set(speakers) - trained):
        raise WavevqError(f"data.without: {unknown[0]} is not trained on; there are {', '.join(sorted(trained))}")
    if trained and trained <= set(speakers):
        raise WavevqError(f"data.without: leaves nobody to train on; there are {', '.join(sorted(trained))}")
    clips = (replace(clip, split="val_unseen") if clip.speaker in speakers else clip for clip in listing.clips)
    return replace(listing, clips=tuple(clips))


def joined(parts: Mapping[str, Listing]) -> Listing:
    """Corpora as one; parts: each by the name that those of its clips then begin with.

    Each keeps its own splits. Raises WavevqError where two have a speaker of one name: they need not be one person, and
    one of them could be held out of what the other trains on.
    """
    known: dict[str, str] = {}  # the part that has a speaker
    clips: list[Clip] = []
    about: dict[str, str] = {}
    for part, listing in parts.items():
        speakers = {clip.speaker for clip in listing.clips}
        if both := sorted(speakers & known.keys()):
            raise WavevqError(
                f"data.of: {both[0]} is a speaker of {known[both[0]]} and of {part}; joined corpora must share none"
            )
        known |= dict.fromkeys(speakers, part)
        clips += (replace(clip, name=f"{part}/{clip.name}") for clip in listing.clips)
        about |= {speaker: listing.about[speaker] for speaker in sorted(speakers & listing.about.keys())}
    top = Path(os.path.commonpath([listing.root for listing in parts.values()]))
    clips.sort(key=lambda clip: clip.name)
    return Listing(top, tuple(clips), sum(listing.missing for listing in parts.values()), about)


def speaker_info(base: Path) -> dict[str, str]:
    """What ``speaker-info.txt`` (VCTK) or ``SPEAKERS.TXT`` (LibriSpeech) in ``base`` tells of each speaker.

    VCTK: age, gender, accent, region; older releases leave out the p of the names. LibriSpeech: gender.
    """
    about = {}
    for line in _lines(base / "speaker-info.txt"):
        name, *fields = line.split()
        if fields and (match := re.fullmatch(r"([a-z]*)\d+", name)):
            about[name if match[1] else f"p{name}"] = " ".join(fields)
    for line in _lines(base / "SPEAKERS.TXT"):
        columns = [column.strip() for column in line.split("|")]
        if len(columns) > 1 and columns[0].isdigit():
            about[columns[0]] = columns[1]
    return about


def utterance(stem: str) -> str:
    """The name of what is said in a recording: VCTK has one for each microphone."""
    return re.sub(r"_mic\d$", "", stem)


def transcript(path: Path) -> str | None:
    """What is said in a recording of a corpus laid out like VCTK, where it has ``txt/<speaker>/<utterance>.txt``."""
    found = path.parents[2] / "txt" / path.parent.name / f"{utterance(path.stem)}.txt"
    return " ".join(found.read_text("utf-8", errors="replace").split()) if is_file(found) else None


# --- what they share ----------------------------------------------------------------------------------------


def by_speaker(split: Split, speaker: str, trained: Iterable[str]) -> Split:
    """The split that a clip belongs to: held out, its speaker decides between val and val_unseen."""
    if speaker not in trained:
        return "val_unseen"
    return "val" if split == "val_unseen" else split


def _listing(
    top: Path,
    base: Path,
    found: list[Path],
    missing: int,
    speaker_of: Callable[[Path], str],
    held_out: float,
    seed: int,
    rename: Callable[[str], str] = str,
    unseen: Collection[Path] = (),
) -> Listing:
    place, lists = _lists(top, base)
    listed: dict[Path, Split] = {}
    for split, lines in lists.items():
        for line in lines:
            path = place / rename(line)
            if ".." in Path(line).parts or not path.is_relative_to(place):
                raise WavevqError(f"{place / split}.txt: {line} must be a path below that folder")
            if listed.setdefault(path, split) != split:
                raise WavevqError(f"{place / split}.txt: {line} stands in {listed[path]}.txt too")
    if "train" in lists:  # what no list names is left out
        splits = {path: split for path, split in listed.items() if is_file(path)}
        missing = len(listed) - len(splits)
    else:
        splits = {path: listed.get(path, "val_unseen" if path in unseen else "train") for path in found}
        missing += sum(path not in splits for path in listed)
    names = {path: path.relative_to(place).as_posix() for path in sorted(splits, key=Path.as_posix)}
    speakers = {path: speaker_of(path) for path in names}
    if unnamed := next((name for name in speakers.values() if not is_name(name)), None):
        raise WavevqError(
            f"data.root: {place} has {unnamed!r}, which cannot be a speaker's name: what controls a terminal"
        )
    if "val" not in lists:
        for path in _held_out([path for path in names if splits[path] == "train"], names, speakers, held_out, seed):
            splits[path] = "val"
    trained = {speakers[path] for path in names if splits[path] == "train"}
    if not trained or len(names) < 2:
        raise WavevqError(
            f"data.root: {place} must hold a recording to train on and one to validate on; "
            f"found {len(names)}, missing {missing}"
        )
    clips = tuple(
        Clip(name, speakers[path], by_speaker(splits[path], speakers[path], trained), path, _phones(path))
        for path, name in names.items()
    )
    return Listing(place, clips, missing, speaker_info(base))


def _lists(top: Path, base: Path) -> tuple[Path, dict[Split, list[str]]]:
    """The folder in which lists stand, to which all names are relative, and their lines."""
    for place in dict.fromkeys((top, base, base.parent)):
        lists: dict[Split, list[str]] = {
            split: _lines(place / f"{split}.txt") for split in SPLITS if (place / f"{split}.txt").is_file()
        }
        # A top that is the corpus itself has its lists one folder up; but other lists may stand there as well.
        ours = place in (top, base) or any(line.startswith(f"{base.name}/") for line in chain(*lists.values()))
        if lists and ours:
            return place, lists
    return top, {}


def _held_out(
    paths: list[Path], names: Mapping[Path, str], speakers: Mapping[Path, str], share: float, seed: int
) -> list[Path]:
    """At least one of ``paths``, drawn by ``seed`` and their names; each speaker keeps one where that is possible."""
    shuffled = sorted(
        paths, key=lambda path: hashlib.sha256(f"{seed}/{names[path]}".encode(errors="surrogateescape")).digest()
    )
    wanted = max(0, min(max(1, round(share * len(paths))), len(paths) - 1))
    left = Counter(speakers[path] for path in paths)
    chosen: list[Path] = []
    for path in shuffled:
        if len(chosen) < wanted and left[speakers[path]] > 1:
            left[speakers[path]] -= 1
            chosen.append(path)
    return chosen or shuffled[:wanted]


def existing(root: str | Path, download: str | None = None) -> Path:
    """``root``, absolute: "." has no name, and lists one folder up go by it."""
    if not Path(root).is_dir():
        raise WavevqError(f"data.root: there is no folder {root}{_hint(download, root)}")
    return Path(root).absolute()


def no_corpus(root: str | Path, layout: str, download: str | None = None) -> WavevqError:
    return WavevqError(f"data.root: {root} holds no {layout}{_hint(download, root)}")


def _hint(download: str | None, root: str | Path) -> str:
    if not download:
        return ""
    return f"; name the corpus's with --set data.root=PATH, or fetch it: wavevq download {download} {root}"


def _audio_below(folder: Path) -> list[Path]:
    return _files_below(folder, SUFFIXES)


def _files_below(folder: Path, suffixes: Collection[str]) -> list[Path]:
    found: list[Path] = []
    for parent, files in walk(folder):
        found += [path for name in files if _is_file(path := parent / name, suffixes)]
    return found


def _is_audio(path: Path) -> bool:
    return _is_file(path, SUFFIXES)


def _is_file(path: Path, suffixes: Collection[str]) -> bool:
    return path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()


def _parent(path: Path) -> str:
    return path.parent.name


def _phones(path: Path) -> Path | None:
    """The alignment that lies beside a recording and has its name, if any."""
    return next((found for suffix in ALIGNED if is_file(found := path.with_name(path.stem + suffix))), None)


def _lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty; none if there is no such file."""
    if not path.is_file():
        return []
    return [
        stripped for line in path.read_text("utf-8-sig", errors="replace").splitlines() if (stripped := line.strip())
    ]

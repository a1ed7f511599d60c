from __future__ import annotations

import hashlib
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from wavevq.build import build_listing
from wavevq.data import corpora
from wavevq.data.corpora import Listing
from wavevq.data.download import download
from wavevq.errors import WavevqError
from wavevq.recipe import Data, load_recipe

MakeAudio = Callable[..., Path]
RECIPES = Path(__file__).parent.parent / "recipes"


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def splits(listing: Listing) -> Counter[str]:
    return Counter(clip.split for clip in listing.clips)


def names(listing: Listing, split: str) -> list[str]:
    return [clip.name for clip in listing.clips if clip.split == split]


# --- layouts ------------------------------------------------------------------------------------------------

SPEAKERS = ("anna", "p225", "s5")
VCTK_FILES = [f"wav48_silence_trimmed/{s}/{s}_{i:03}_mic{m}.flac" for s in SPEAKERS for i in range(4) for m in (1, 2)]


@pytest.mark.parametrize(
    ("kind", "files", "speakers"),
    [
        ("vctk", VCTK_FILES, {"anna", "p225", "s5"}),
        ("vctk", [f"VCTK-Corpus-0.92/{name}" for name in VCTK_FILES], {"anna", "p225", "s5"}),
        ("vctk", [f"VCTK-Corpus/wav48/{s}/{s}_{i:03}.wav" for s in SPEAKERS for i in range(4)], set(SPEAKERS)),
        ("vctk", [f"wav48/{s}/{s}_{i:03}.flac" for s in SPEAKERS for i in range(4)], set(SPEAKERS)),
        ("librispeech", [f"LibriSpeech/dev-clean/84/{c}/84-{c}-{i:04}.flac" for c in (1, 2) for i in range(6)], {"84"}),
        ("librispeech", [f"dev-clean/{s}/1/{s}-1-{i:04}.flac" for s in (8, 9) for i in range(6)], {"8", "9"}),
        (
            "folder",
            [f"{s}/{i}.{x}" for s in SPEAKERS for i, x in enumerate(("wav", "flac", "OGG", "mp3"))],
            set(SPEAKERS),
        ),
        ("fsdd", [f"recordings/{d}_jo_hn_{i}.wav" for d in range(3) for i in range(4)], {"jo_hn"}),
        (
            "fsdd",
            [f"free-spoken-digit-dataset/recordings/{d}_theo_{i}.wav" for d in range(3) for i in range(4)],
            {"theo"},
        ),
        ("fsdd", [f"wav48/{s}/{s}_{d}0{i}.flac" for s in SPEAKERS for d in (0, 1) for i in (0, 1)], set(SPEAKERS)),
    ],
)
def test_every_layout_is_found_with_its_speakers(
    tmp_path: Path, kind: str, files: list[str], speakers: set[str]
) -> None:
    touch(tmp_path, *files, "._junk.wav", ".trash/old/1.wav", "notes.txt")
    microphone = ("mic1",) if kind == "vctk" else ()
    listing = getattr(corpora, kind)(tmp_path, *microphone, 0.1, 0)
    assert {clip.speaker for clip in listing.clips} == speakers
    assert len(listing.clips) == 12
    assert listing.missing == 0
    assert splits(listing) == {"train": 11, "val": 1}
    assert all(clip.path == tmp_path / clip.name for clip in listing.clips)


def test_a_speaker_whose_folder_is_a_link_is_heard(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "1.wav", "2.wav")
    touch(tmp_path / "corpus/ann", "1.wav", "2.wav")
    (tmp_path / "corpus/bob").symlink_to(tmp_path / "elsewhere")
    assert {clip.speaker for clip in corpora.folder(tmp_path / "corpus", 0.1, 0).clips} == {"ann", "bob"}


def test_recordings_without_the_microphone_are_counted_and_tolerated(tmp_path: Path) -> None:
    touch(tmp_path, *(name for name in VCTK_FILES if "anna" not in name or "mic1" in name))
    touch(tmp_path, "txt/p225/p225_003.txt", "txt/p225/p225_777.txt")
    assert corpora.vctk(tmp_path, "mic1", 0.1, 0).missing == 1  # p225_777
    second = corpora.vctk(tmp_path, "mic2", 0.1, 0)
    assert second.missing == 5
    assert {clip.speaker for clip in second.clips} == {"p225", "s5"}


def test_a_missing_microphone_is_told(tmp_path: Path) -> None:
    touch(tmp_path, *(name for name in VCTK_FILES if "mic1" in name))
    with pytest.raises(WavevqError, match=r"data.microphone: .* no recording of mic2"):
        corpora.vctk(tmp_path, "mic2", 0.1, 0)


def test_a_missing_corpus_names_the_command_that_fetches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for attempt in range(2):  # no folder, then an empty one
        with pytest.raises(WavevqError, match=r"wavevq download vctk data$"):
            corpora.vctk("data", "mic1", 0.1, 0)
        with pytest.raises(WavevqError, match=r"wavevq download librispeech data$"):
            corpora.librispeech("data", 0.1, 0)
        for other in (corpora.folder, corpora.fsdd):
            with pytest.raises(WavevqError, match=r"data\.root: .*data") as caught:
                other("data", 0.1, 0)
            assert "\n" not in str(caught.value)
        if not attempt:
            touch(tmp_path, "data/readme.txt")


def test_vctk_is_not_taken_for_librispeech(tmp_path: Path) -> None:
    touch(tmp_path, *(f"VCTK-Corpus-0.92/{name}" for name in VCTK_FILES))
    with pytest.raises(WavevqError, match="LibriSpeech"):
        corpora.librispeech(tmp_path, 0.1, 0)


def test_phones_beside_a_recording_are_found(tmp_path: Path) -> None:
    touch(tmp_path, "ann/1.wav", "ann/2.wav", "ann/2.phones.tsv")
    first, second = corpora.folder(tmp_path, 0.1, 0).clips
    assert first.phones is None
    assert second.phones == tmp_path / "ann/2.phones.tsv"


# --- splits -------------------------------------------------------------------------------------------------


def test_held_out_clips_depend_on_seed_and_names_alone(tmp_path: Path) -> None:
    files = [f"{speaker}/{i}.wav" for speaker in "abcd" for i in range(25)]
    one, other = touch(tmp_path / "one", *files), touch(tmp_path / "other", *reversed(files))
    first = corpora.folder(one, 0.05, 7)
    assert splits(first) == {"train": 95, "val": 5}
    assert names(corpora.folder(other, 0.05, 7), "val") == names(first, "val")
    assert names(corpora.folder(one, 0.05, 8), "val") != names(first, "val")
    assert [clip.name for clip in first.clips] == sorted(files)


def test_a_speakers_only_clip_stays_in_training_where_that_is_possible(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{i}/1.wav" for i in range(10)), "many/1.wav", "many/2.wav", "many/3.wav")
    for seed in range(10):
        listing = corpora.folder(tmp_path, 0.1, seed)
        assert splits(listing) == {"train": 12, "val": 1}
        assert names(listing, "val")[0].startswith("many/")


def test_speakers_with_one_clip_each_leave_unseen_speakers(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{i}/1.wav" for i in range(10)))
    assert splits(corpora.folder(tmp_path, 0.1, 0)) == {"train": 9, "val_unseen": 1}


def test_one_recording_is_no_corpus(tmp_path: Path) -> None:
    touch(tmp_path, "ann/1.wav")
    with pytest.raises(WavevqError, match="a recording to train on and one to validate on; found 1, missing 0"):
        corpora.folder(tmp_path, 0.1, 0)


def test_lists_decide_and_missing_files_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{s}/{i}.wav" for s in ("ann", "bob", "eve") for i in range(4)))
    (tmp_path / "train.txt").write_text("ann/0.wav\nann/1.wav\n\nann/9.wav\nbob/0.wav\n")
    (tmp_path / "val.txt").write_text("ann/2.wav\neve/0.wav\n")
    listing = corpora.folder(tmp_path, 0.5, 0)
    assert listing.missing == 1
    assert names(listing, "train") == ["ann/0.wav", "ann/1.wav", "bob/0.wav"]
    assert names(listing, "val") == ["ann/2.wav"]
    assert names(listing, "val_unseen") == ["eve/0.wav"]  # eve is not in train, so unseen in truth


def test_a_single_list_leaves_the_rest_to_the_others(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{s}/{i}.wav" for s in ("ann", "bob") for i in range(10)))
    (tmp_path / "val.txt").write_text("ann/2.wav\nann/99.wav\n")
    only_val = corpora.folder(tmp_path, 0.5, 0)
    assert splits(only_val) == {"train": 19, "val": 1}
    assert only_val.missing == 1
    (tmp_path / "val.txt").rename(tmp_path / "train.txt")
    (tmp_path / "train.txt").write_text("".join(f"ann/{i}.wav\n" for i in range(10)))
    assert splits(corpora.folder(tmp_path, 0.2, 0)) == {"train": 8, "val": 2}


def test_lists_hold_whether_the_root_is_the_corpus_or_holds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [f"LibriSpeech/test-other/{s}/1/{s}-1-{i:04}.flac" for s in (3, 4) for i in range(5)]
    touch(tmp_path, *files)
    (tmp_path / "train.txt").write_text("\n".join(files[1:]))
    (tmp_path / "val.txt").write_text(files[0])
    holds, is_it = corpora.librispeech(tmp_path, 0.5, 0), corpora.librispeech(tmp_path / "LibriSpeech", 0.5, 0)
    assert holds.clips == is_it.clips
    monkeypatch.chdir(tmp_path / "LibriSpeech")
    assert [clip.name for clip in corpora.librispeech("..", 0.5, 0).clips] == files
    assert corpora.librispeech(".", 0.5, 0).clips == holds.clips
    # Lists up there that speak of something else are not ours.
    (tmp_path / "train.txt").write_text("else/1.wav")
    (tmp_path / "val.txt").write_text("else/2.wav")
    assert splits(corpora.librispeech(tmp_path / "LibriSpeech", 0.2, 0)) == {"train": 8, "val": 2}


def test_lists_for_one_microphone_serve_the_other(tmp_path: Path) -> None:
    touch(tmp_path, *VCTK_FILES)
    first = [name for name in VCTK_FILES if "mic1" in name]
    (tmp_path / "train.txt").write_text("\n".join(first[1:]))
    (tmp_path / "val.txt").write_text(first[0])
    listing = corpora.vctk(tmp_path, "mic2", 0.1, 0)
    assert names(listing, "val") == [first[0].replace("mic1", "mic2")]
    assert all("mic2" in clip.name for clip in listing.clips)


@pytest.mark.parametrize(
    ("train", "val", "word"),
    [
        ("ann/0.wav\nann/1.wav", "ann/1.wav", r"val.txt: ann/1.wav stands in train.txt too"),
        ("ann/0.wav", "../up.wav", "must be a path below"),
        ("ann/0.wav", "/up.wav", "must be a path below"),
        ("ann/8.wav", "ann/9.wav", "found 0, missing 2"),
        ("", "ann/0.wav\nann/1.wav", "to train on"),
    ],
)
def test_mistaken_lists_are_told_in_one_line(tmp_path: Path, train: str, val: str, word: str) -> None:
    touch(tmp_path, "ann/0.wav", "ann/1.wav")
    (tmp_path / "train.txt").write_text(train)
    (tmp_path / "val.txt").write_text(val)
    with pytest.raises(WavevqError, match=word) as caught:
        corpora.folder(tmp_path, 0.1, 0)
    assert "\n" not in str(caught.value)


# --- speakers -----------------------------------------------------------------------------------------------


def test_speaker_lists_of_all_releases_are_read(tmp_path: Path) -> None:
    (tmp_path / "speaker-info.txt").write_text(
        "ID  AGE  GENDER  ACCENTS  REGION COMMENTS \n"
        "p225  23  F    English    Southern  England\n"
        "227  38  M    English    Cumbria\n"
        "p280  25  F    French    France   (mic2 files unavailable)\n"
        "s5  20  F   British\n\n"
    )
    (tmp_path / "SPEAKERS.TXT").write_text("; a comment | of it\n;ID |SEX\n39   | F | train-clean-100  | 25.05 | S C\n")
    assert corpora.speaker_info(tmp_path) == {
        "p225": "23 F English Southern England",
        "p227": "38 M English Cumbria",
        "p280": "25 F French France (mic2 files unavailable)",
        "s5": "20 F British",
        "39": "F",
    }
    assert corpora.speaker_info(tmp_path / "absent") == {}


def test_what_is_said_in_a_recording_of_vctk(tmp_path: Path) -> None:
    touch(tmp_path, "wav48_silence_trimmed/p1/p1_003_mic2.flac", "wav48/ann/ann_1.wav", "txt/p1/p1_003.txt")
    (tmp_path / "txt/p1/p1_003.txt").write_text("Six spoons\nof fresh snow peas. \n")
    assert (
        corpora.transcript(tmp_path / "wav48_silence_trimmed/p1/p1_003_mic2.flac") == "Six spoons of fresh snow peas."
    )
    assert corpora.transcript(tmp_path / "wav48/ann/ann_1.wav") is None


# --- joined -------------------------------------------------------------------------------------------------


def test_joined_corpora_keep_their_splits_and_each_holds_out_a_share(tmp_path: Path) -> None:
    touch(tmp_path / "one/LibriSpeech", *(f"train-a/{s}/1/{s}-1-{i:04}.flac" for s in (3, 4) for i in range(10)))
    touch(tmp_path / "two", *(f"wav48/{s}/{s}_{i:03}.wav" for s in ("p1", "p2") for i in range(10)))
    (tmp_path / "two/speaker-info.txt").write_text("ID AGE GENDER\np1 23 F\n3 40 M\n")  # 3: VCTK's p3, not here
    (tmp_path / "two/val.txt").write_text("wav48/p1/p1_004.wav\n")
    parts = {
        "librispeech": corpora.librispeech(tmp_path / "one", 0.1, 7),
        "vctk": corpora.vctk(tmp_path / "two", "mic1", 0.1, 7),
    }
    both = corpora.joined(parts)
    assert [clip.name for clip in both.clips] == sorted(
        f"{part}/{clip.name}" for part, listing in parts.items() for clip in listing.clips
    )
    assert names(both, "val") == [
        *(f"librispeech/{name}" for name in names(parts["librispeech"], "val")),
        ("vctk/wav48/p1/p1_004.wav"),
    ]
    assert splits(both) == splits(parts["librispeech"]) + splits(parts["vctk"])
    assert both.root == tmp_path
    assert both.about == {"p1": "23 F"}
    tree = {
        "kind": "joined",
        "root": str(tmp_path),
        "held_out": 0.1,
        "of": [{"kind": "librispeech", "root": "one"}, {"kind": "vctk", "root": "two"}],
    }
    data = TypeAdapter(Data).validate_python(tree)
    assert build_listing(data, 7) == both
    assert TypeAdapter(Data).validate_python(data.model_dump(mode="json")) == data  # what a run folder keeps
    left_out = build_listing(TypeAdapter(Data).validate_python(tree | {"without": ["p2"]}), 7)
    assert {clip.split for clip in left_out.clips if clip.speaker == "p2"} == {"val_unseen"}


def test_joined_corpora_share_no_speaker(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{part}/{s}/{i}.wav" for part in "ab" for s in (f"only-{part}", "ann") for i in range(4)))
    one, other = (corpora.folder(tmp_path / part, 0.1, 0) for part in "ab")
    with pytest.raises(WavevqError, match=r"^data\.of: ann is a speaker of folder and of folder-2; .* share none$"):
        corpora.joined({"folder": one, "folder-2": other})
    parts = [{"kind": "folder", "root": str(tmp_path / part)} for part in "ab"]
    with pytest.raises(WavevqError, match=r"ann is a speaker of folder and of folder-2"):
        build_listing(TypeAdapter(Data).validate_python({"kind": "joined", "of": parts}), 0)


# --- real corpora -------------------------------------------------------------------------------------------


def test_real_corpora_have_the_splits_they_state(test_data: Path) -> None:
    fsdd = corpora.fsdd(test_data / "fsdd", 0.05, 0)
    assert splits(fsdd) == {"train": 2400, "val": 300}
    assert {clip.speaker for clip in fsdd.clips} == {"george", "jackson", "lucas", "nicolas", "theo", "yweweler"}
    assert corpora.folder(test_data / "fsdd", 0.05, 0).clips == fsdd.clips  # the folder of a file is its speaker
    for name in ("vctk_sample", "vctk48_sample"):
        vctk = corpora.vctk(test_data / name, "mic1", 0.05, 0)
        assert splits(vctk) == {"train": 32, "val": 4}
        assert vctk.missing == 0
        assert vctk.about["p227"] == "38 M English Cumbria"
        assert corpora.vctk(test_data / name / "VCTK-Corpus-0.92", "mic1", 0.05, 0).clips == vctk.clips
    librispeech = corpora.librispeech(test_data / "librispeech_sample", 0.05, 0)
    assert splits(librispeech) == {"train": 112, "val": 9, "val_unseen": 8}
    assert len({clip.speaker for clip in librispeech.clips if clip.split == "train"}) == 49
    voices = load_recipe(RECIPES / "voices.yaml", (f"data.root={test_data}",))
    both = build_listing(voices.speech, voices.seed)
    assert splits(both) == {"train": 144, "val": 13, "val_unseen": 8}
    assert len({clip.speaker for clip in both.clips if clip.split == "train"}) == 53


# --- downloads ----------------------------------------------------------------------------------------------

# tarfile wants a filter named from Python 3.12 on, and torchaudio names none.
pytestmark = pytest.mark.filterwarnings("ignore:.*filter extracted tar archives:DeprecationWarning")


@pytest.fixture
def vctk_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny VCTK 0.92 as a zip, which torchaudio is made to take for the real one."""
    from torchaudio.datasets import vctk

    archive = tmp_path / "source/VCTK-Corpus-0.92.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as file:
        for name in ("wav48_silence_trimmed/p225/p225_001_mic1.flac", "txt/p225/p225_001.txt", "speaker-info.txt"):
            file.writestr(name, name)
    monkeypatch.setattr(vctk, "URL", archive.as_uri())
    monkeypatch.setattr(vctk, "_CHECKSUMS", {archive.as_uri(): hashlib.sha256(archive.read_bytes()).hexdigest()})
    return archive


def test_vctk_is_downloaded_checked_and_unpacked(tmp_path: Path, vctk_archive: Path) -> None:
    place = download("vctk", tmp_path / "data")
    assert place == tmp_path / "data/VCTK-Corpus-0.92"
    assert (place / "wav48_silence_trimmed/p225/p225_001_mic1.flac").is_file()
    assert entries(tmp_path / "data") == ["VCTK-Corpus-0.92"]
    vctk_archive.unlink()
    assert download("vctk", tmp_path / "data") == place  # there already


def test_a_wrong_checksum_leaves_nothing(tmp_path: Path, vctk_archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchaudio.datasets import vctk

    monkeypatch.setattr(vctk, "_CHECKSUMS", {vctk_archive.as_uri(): "0" * 64})
    with pytest.raises(WavevqError, match=r"vctk: the download into .* failed .*hash") as caught:
        download("vctk", tmp_path / "data")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists() or not list((tmp_path / "data").iterdir())


def test_an_interrupted_unpacking_is_done_again(
    tmp_path: Path, vctk_archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(archive: Path, folder: Path) -> None:
        with zipfile.ZipFile(archive) as file:
            file.extract("speaker-info.txt", folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("torchaudio.datasets.vctk._extract_zip", killed)
        with pytest.raises(KeyboardInterrupt):
            download("vctk", tmp_path / "data")
    assert not (tmp_path / "data/VCTK-Corpus-0.92").exists()
    vctk_archive.unlink()  # the archive was whole, and is not fetched again
    assert (download("vctk", tmp_path / "data") / "txt/p225/p225_001.txt").is_file()
    assert entries(tmp_path / "data") == ["VCTK-Corpus-0.92"]


def test_subsets_of_librispeech_come_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchaudio.datasets import librispeech

    source = touch(tmp_path / "source", "LibriSpeech/README.TXT", "LibriSpeech/SPEAKERS.TXT")
    checksums = {}
    for subset in ("train-clean-100", "dev-clean"):
        touch(source, f"LibriSpeech/{subset}/1/2/1-2-0000.flac")
        with tarfile.open(source / f"{subset}.tar.gz", "w:gz") as file:
            for name in ("README.TXT", "SPEAKERS.TXT", subset):
                file.add(source / "LibriSpeech" / name, f"LibriSpeech/{name}")
        digest = hashlib.sha256((source / f"{subset}.tar.gz").read_bytes()).hexdigest()
        checksums[f"http://www.openslr.org/resources/12/{subset}.tar.gz"] = digest
    fetch = librispeech.download_url_to_file

    def fetch_here(url: str, target: str, hash_prefix: str) -> None:
        fetch((source / Path(url).name).as_uri(), target, hash_prefix=hash_prefix)

    monkeypatch.setattr(librispeech, "_CHECKSUMS", checksums)
    monkeypatch.setattr(librispeech, "download_url_to_file", fetch_here)
    data = tmp_path / "data"
    assert download("librispeech", data) == data / "LibriSpeech/train-clean-100"
    assert download("librispeech", data, "dev-clean") == data / "LibriSpeech/dev-clean"
    assert entries(data / "LibriSpeech") == ["README.TXT", "SPEAKERS.TXT", "dev-clean", "train-clean-100"]
    assert entries(data) == ["LibriSpeech"]


def test_unknown_corpora_and_subsets_are_told(tmp_path: Path) -> None:
    with pytest.raises(WavevqError, match=r"ljspeech: .* vctk, librispeech"):
        download("ljspeech", tmp_path)
    with pytest.raises(WavevqError, match=r"dev-dirty: .*dev-clean"):
        download("librispeech", tmp_path, "dev-dirty")
    assert not list(tmp_path.iterdir())


def test_a_folder_s_speaker_is_its_first_folder(tmp_path: Path, make_audio: Callable[..., Path]) -> None:
    for speaker in ("ann", "bob"):
        for i in range(2):
            make_audio(tmp_path / speaker / "chapter" / f"{i}.wav", seconds=0.1)
    assert {clip.speaker for clip in corpora.folder(tmp_path, 0.3, 0).clips} == {"ann", "bob"}
    make_audio(tmp_path / "stray.wav", seconds=0.1)
    with pytest.raises(WavevqError, match="nothing beside"):
        corpora.folder(tmp_path, 0.3, 0)


def test_librispeech_does_not_train_on_its_test_subsets(tmp_path: Path, make_audio: Callable[..., Path]) -> None:
    for subset, speaker in (("train-clean-100", "19"), ("dev-clean", "84"), ("test-other", "367")):
        for i in range(3):
            make_audio(tmp_path / "LibriSpeech" / subset / speaker / "1" / f"{speaker}-1-000{i}.flac", seconds=0.1)
    clips = corpora.librispeech(tmp_path, 0.2, 0).clips
    assert {clip.speaker: clip.split for clip in clips if clip.speaker != "19"} == {
        "84": "val_unseen",
        "367": "val_unseen",
    }
    assert {clip.split for clip in clips if clip.speaker == "19"} == {"train", "val"}


@pytest.mark.parametrize(
    ("name", "said"),
    [("recordings/7_jackson_32.wav", "7"), ("recordings/0_x_9_1.wav", "0"), ("wav48/jackson/jackson_732.flac", "7")],
)
def test_the_digit_of_a_recording(name: str, said: str) -> None:
    assert corpora.digit(name) == said


def test_a_name_that_tells_no_digit_is_refused() -> None:
    with pytest.raises(WavevqError, match="does not tell the digit"):
        corpora.digit("wav48/jackson/jackson.flac")


def test_speakers_left_out_of_training(small_corpus: Path) -> None:
    listing = corpora.folder(small_corpus, 0.3, 0)
    assert corpora.without(listing, ()) == listing
    left = corpora.without(listing, ["bob"])
    assert {clip.split for clip in left.clips if clip.speaker == "bob"} == {"val_unseen"}
    assert [c for c in left.clips if c.speaker == "ann"] == [c for c in listing.clips if c.speaker == "ann"]
    assert (left.root, left.missing, left.about) == (listing.root, listing.missing, listing.about)
    with pytest.raises(WavevqError, match=r"^data.without: zoe is not trained on; there are ann, bob$"):
        corpora.without(listing, ["bob", "zoe"])
    with pytest.raises(WavevqError, match="leaves nobody to train on"):
        corpora.without(listing, ["bob", "ann"])


def test_a_recipe_leaves_speakers_out(small_corpus: Path) -> None:
    tree = {"kind": "folder", "root": str(small_corpus), "held_out": 0.3, "without": ["ann"]}
    clips = build_listing(TypeAdapter(Data).validate_python(tree), 0).clips
    assert {clip.speaker for clip in clips if clip.split != "val_unseen"} == {"bob"}

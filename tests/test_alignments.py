"""Alignments in each format say the same, belong to the right recordings, and move with what the store trims."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wavevq.build import build_store
from wavevq.data import corpora
from wavevq.data.alignments import Phone, aligned, read_phones
from wavevq.data.corpora import Listing
from wavevq.errors import WavevqError
from wavevq.evaluate.phones import CLASSES, frame_classes
from wavevq.recipe import parse_recipe

MakeAudio = Callable[..., Path]
PHONES: list[Phone] = [(0.0, 0.1, ""), (0.1, 0.25, "HH"), (0.25, 0.4, "AH0"), (0.4, 0.5, "sil")]

LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 0.5
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 0.5
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = 0.5
            text = "he said ""42"" ! xmin = 7"
    item [2]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 0.5
        intervals: size = 4
        intervals [1]:
            xmin = 0
            xmax = 0.1
            text = ""
        intervals [2]:
            xmin = 0.1
            xmax = 0.25
            text = "HH"
        intervals [3]:
            xmin = 0.25
            xmax = 0.4
            text = "AH0"
        intervals [4]:
            xmin = 0.4
            xmax = 5e-1
            text = "sil"
"""
SHORT = """File type = "ooTextFile"
Object class = "TextGrid"

0
0.5
<exists>
3
"IntervalTier"
"ann - words"
0
0.5
1
0
0.5
"hello"
"TextTier"
"clicks"
0
0.5
1
0.3
"here"
"IntervalTier"
"ann - phones"
0
0.5
4
0
0.1
""
0.1
0.25
"HH"
0.25
0.4
"AH0"
0.4
0.5
"sil"
"""
CTM = """;; a comment
other 1 0.00 0.30 K_B
ann_0 1 0.00 0.10 sil
ann_0 1 0.10 0.15 HH_B 0.99
ann_0 1 0.25 0.15 AH0_E
ann_0 1 0.40 0.10 sil
"""
TABLE = "start_seconds\tend_seconds\tsymbol\n" + "".join(f"{start}\t{end}\t{symbol}\n" for start, end, symbol in PHONES)
FORMATS = {"ann_0.TextGrid": LONG, "ann_0.textgrid": SHORT, "ann_0.ctm": CTM, "ann_0.phones.tsv": TABLE}
AUDIO = Path("ann_0.wav")


def as_heard(phones: list[Phone]) -> list[tuple[float, float, int]]:
    """Phones by class, since CTM has no empty symbol."""
    classes = frame_classes(phones, 50, 0.01, "a").tolist()
    return [(round(start, 6), round(end, 6), classes[round(start * 100)]) for start, end, _ in phones]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_all_formats_say_the_same(tmp_path: Path, name: str, encoding: str) -> None:
    path = tmp_path / name
    path.write_text(FORMATS[name], encoding)
    assert as_heard(read_phones(path, AUDIO)) == as_heard(PHONES)


def test_windows_line_ends_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ann_0.TextGrid"
    path.write_text(LONG, newline="\r\n")
    assert read_phones(path, AUDIO) == PHONES


def test_a_textgrid_of_one_tier_needs_no_name(tmp_path: Path) -> None:
    path = tmp_path / "ann_0.TextGrid"
    head, words, phones = LONG.partition("    item [1]:")[0], "", LONG.partition("    item [2]:")[2]
    path.write_text(head.replace("size = 2", "size = 1") + words + phones.replace('"phones"', '"whatever"'))
    assert read_phones(path, AUDIO) == PHONES


def test_boundaries_that_rounding_has_crossed_are_put_right(tmp_path: Path) -> None:
    path = tmp_path / "ann_0.ctm"
    path.write_text("ann_0 1 0.10 0.16 B\nann_0 1 0.00 0.11 A\n")  # out of order, too
    assert read_phones(path, AUDIO) == [(0.0, 0.10, "A"), (0.10, 0.26, "B")]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.TextGrid", LONG[: len(LONG) // 2], "cut short"),
        ("a.TextGrid", SHORT.rpartition('"sil"')[0], "cut short"),
        ("a.TextGrid", "hello", "cut short"),
        ("a.TextGrid", LONG.replace("xmax = 0.25", 'xmax = "x"'), "cut short or damaged"),
        ("a.TextGrid", LONG.replace('"TextGrid"', '"Sound 2"'), "does not begin as one"),
        ("a.TextGrid", LONG.replace("<exists>", "<absent>"), "has no tiers"),
        ("a.TextGrid", LONG.replace('"phones"', '"things"'), "tier of intervals named phones; .* 'words', 'things'"),
        ("a.TextGrid", LONG.replace('"words"', '"Phone"'), "tier of intervals named phones; .* 'Phone', 'phones'"),
        ("a.TextGrid", LONG.replace("xmin = 0.1\n", "xmin = -0.1\n"), r"'HH' from -0.1 to 0.25 s"),
        ("a.TextGrid", LONG.replace("xmin = 0.1\n", "xmin = 0.01\n"), r"'' and 'HH' overlap at 0.01 s"),
        ("a.ctm", CTM.replace("0.15 HH_B", "long HH_B"), "line 4 is not utterance, channel"),
        ("a.ctm", "ann_0 1 0.1\n", "line 1 is not utterance"),
        ("a.ctm", CTM.replace("ann_0", "ann_1"), "names no utterance ann_0; its first is other"),
        ("a.ctm", CTM.replace("0.15 HH_B", "nan HH_B"), "'HH' from 0.1 to nan s"),
        ("a.phones.tsv", "0\t0.1\n", "line 1 is not a start"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(WavevqError, match=rf"^{tmp_path / name}: .*{words}") as error:
        read_phones(tmp_path / name, AUDIO)
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.ctm").write_bytes(b"\xc3\x28")
    with pytest.raises(WavevqError, match="is not text in UTF-8 or UTF-16"):
        read_phones(tmp_path / "a.ctm", AUDIO)


# --- which file belongs to which recording ------------------------------------------------------------------


def listed(corpus: Path) -> Listing:
    return corpora.folder(corpus, 0.1, 0)


def paths(listing: Listing, base: Path) -> dict[str, str]:
    return {clip.name: clip.phones.relative_to(base).as_posix() for clip in listing.clips if clip.phones}


def test_alignments_beside_the_audio_are_found(small_corpus: Path) -> None:
    names = ["ann_0.TextGrid", "ann_1.textgrid", "ann_2.ctm", "ann_3.phones.tsv"]
    for name in names:
        (small_corpus / "ann" / name).write_text("")
    found = paths(listed(small_corpus), small_corpus)
    assert found == {f"ann/{name[:5]}.wav": f"ann/{name}" for name in names}


def test_alignments_of_a_folder_take_the_place_of_those_beside(small_corpus: Path, tmp_path: Path) -> None:
    (small_corpus / "ann/ann_4.TextGrid").write_text(LONG)
    folder = tmp_path / "aligned"
    (folder / "deep/er").mkdir(parents=True)
    (folder / "deep/er/ann_1.TextGrid").write_text(LONG)
    (folder / "all.ctm").write_text("bob_2 1 0 0.1 K\nbob_3 1 0 0.1 K\n")
    found = paths(aligned(listed(small_corpus), folder), folder)
    assert found == {"ann/ann_1.wav": "deep/er/ann_1.TextGrid", "bob/bob_2.wav": "all.ctm", "bob/bob_3.wav": "all.ctm"}


def test_recordings_that_share_a_name_are_told_apart_by_their_folder(tmp_path: Path, make_audio: MakeAudio) -> None:
    for speaker in ("ann", "bob"):
        make_audio(tmp_path / f"corpus/{speaker}/1_mic2.wav")
        (tmp_path / "aligned" / speaker).mkdir(parents=True)
        (tmp_path / "aligned" / speaker / "1.TextGrid").write_text(LONG)
    found = paths(aligned(listed(tmp_path / "corpus"), tmp_path / "aligned"), tmp_path / "aligned")
    assert found == {f"{speaker}/1_mic2.wav": f"{speaker}/1.TextGrid" for speaker in ("ann", "bob")}


def test_a_folder_without_alignments_is_named(small_corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(WavevqError, match=r"data\.alignments: there is no folder .*none"):
        aligned(listed(small_corpus), tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WavevqError, match=r"data\.alignments: .*empty holds no alignment .* ann_0\.TextGrid"):
        aligned(listed(small_corpus), tmp_path / "empty")


# --- through the store --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".TextGrid", ".ctm", ".phones.tsv"])
def test_boundaries_move_exactly_with_what_the_store_trims(
    tmp_path: Path, make_audio: MakeAudio, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """Half a second of hum, 1.3 s into the file, at another rate than the store's."""
    monkeypatch.setenv("WAVEVQ_CACHE", str(tmp_path / "cache"))
    (tmp_path / "aligned").mkdir()
    hum = soundfile.read(make_audio(tmp_path / "hum.wav", seconds=0.5, rate=16_000))[0]
    moved = [(start + 1.3, end + 1.3, symbol) for start, end, symbol in PHONES]
    for i in range(2):
        (tmp_path / "corpus/ann").mkdir(parents=True, exist_ok=True)
        whole = np.concatenate([np.zeros(20_800), hum, np.zeros(8000)])
        soundfile.write(tmp_path / f"corpus/ann/{i}.wav", whole, 16_000)
        (tmp_path / f"aligned/{i}{suffix}").write_text(written(moved, suffix, str(i)))
    tree = {
        "data": {
            "kind": "folder",
            "root": str(tmp_path / "corpus"),
            "alignments": str(tmp_path / "aligned"),
            "rate": 8000,
            "trim_db": 30.0,
        },
        "model": {"encoder": {"kind": "waveform"}, "bottleneck": {"kind": "ema"}, "decoder": {"kind": "wavenet"}},
        "train": {"steps": 1},
    }
    for clip in build_store(parse_recipe(tree, "a")).clips:
        assert clip.phones is not None
        # The store keeps a little before the first loud sample. 1.3 s less that is where all boundaries have moved.
        lead = clip.phones[1][0] - 0.1
        assert 0 <= lead < 0.05
        assert clip.phones[0][0] == pytest.approx(max(0.0, lead))
        for (start, end, _), (old, older, _) in zip(clip.phones[1:], PHONES[1:], strict=True):
            assert (start - lead, min(end, clip.length / 8000) - lead) == pytest.approx((old, older), abs=1e-6)
        classes = [CLASSES[c] for c in frame_classes(clip.phones, 1 + int(clip.length / 8000 / 0.05), 0.05, "a")]
        assert [c for i, c in enumerate(classes) if i == 0 or classes[i - 1] != c] == ["SIL", "HH", "AX", "SIL"]


def written(phones: list[Phone], suffix: str, name: str) -> str:
    if suffix == ".ctm":
        return "".join(f"{name} 1 {start} {end - start} {symbol or 'sil'}\n" for start, end, symbol in phones)
    if suffix == ".phones.tsv":
        return "".join(f"{start}\t{end}\t{symbol}\n" for start, end, symbol in phones)
    rows = "".join(f'{start}\n{end}\n"{symbol}"\n' for start, end, symbol in phones)
    return f'"ooTextFile"\n"TextGrid"\n0\n2.3\n<exists>\n1\n"IntervalTier"\n"phones"\n0\n2.3\n{len(phones)}\n{rows}'

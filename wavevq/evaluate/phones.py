"""41 classes of English phones, and which of them is heard at a moment.

The classes are the 39 phonemes of the CMU dictionary in ARPAbet, AX for the schwa, and SIL for silence: as many as the
paper has (section 4.3). Symbols of two notations are known: espeak-ng's IPA without stress marks, of its English
voices, and ARPAbet with or without stress digits, as the Montreal Forced Aligner writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavevq.data.alignments import Phone
from wavevq.evaluate.metric import NotMeasured

SILENCE = "SIL"

# Each class and the IPA symbols that belong to it. A vowel that espeak-ng joins with a following r or schwa is one
# symbol with one span: it counts as its vowel. The allophones ɾ and ʔ are those of t, which most of them spell.
IPA: dict[str, tuple[str, ...]] = {
    "AA": ("ɑː", "ɑ", "ɑːɹ", "ɒ", "aː", "ɑ̃"),
    "AE": ("æ", "a"),
    "AH": ("ʌ",),
    "AO": ("ɔː", "ɔ", "ɔːɹ", "oːɹ", "oː", "ɔ̃"),
    "AW": ("aʊ", "aʊɚ", "aʊə"),
    "AX": ("ə", "ɐ", "əl", "əm", "ən"),
    "AY": ("aɪ", "aɪɚ", "aɪə"),
    "B": ("b",),
    "CH": ("tʃ",),
    "D": ("d",),
    "DH": ("ð",),
    "EH": ("ɛ", "ɛɹ", "eə", "ɛː", "e"),
    "ER": ("ɚ", "ɜː", "ɜ", "ɝ"),
    "EY": ("eɪ",),
    "F": ("f",),
    "G": ("ɡ", "g"),
    "HH": ("h",),
    "IH": ("ɪ", "ᵻ", "ɪɹ", "ɪə"),
    "IY": ("iː", "i", "iə"),
    "JH": ("dʒ",),
    "K": ("k", "x"),
    "L": ("l", "ɫ", "l̩", "ɬ"),
    "M": ("m", "m̩"),
    "N": ("n", "n̩"),
    "NG": ("ŋ",),
    "OW": ("oʊ", "əʊ", "o"),
    "OY": ("ɔɪ",),
    "P": ("p",),
    "R": ("ɹ", "r"),
    "S": ("s",),
    "SH": ("ʃ",),
    "T": ("t", "ɾ", "ʔ"),
    "TH": ("θ",),
    "UH": ("ʊ", "ʊɹ", "ʊə"),
    "UW": ("uː", "u"),
    "V": ("v",),
    "W": ("w", "ʍ"),
    "Y": ("j",),
    "Z": ("z",),
    "ZH": ("ʒ",),
    SILENCE: ("_",),
}
CLASSES = tuple(IPA)  # a class's number is its place here
# In ARPAbet an unstressed AH is the schwa. Aligners write pauses in several ways, or leave their label empty.
ARPABET = {"AH0": "AX", **dict.fromkeys(("", "SIL", "SP", "PAU", "<EPS>"), SILENCE)}
UNKNOWN_SPEECH = "SPN"  # the aligner's mark of a word that its dictionary lacks: speech of no known class
NOWHERE = -1  # the class of a moment that is in no phone, or in unknown speech

_NUMBERS = {symbol: CLASSES.index(name) for name, symbols in IPA.items() for symbol in symbols}


def class_of(symbol: str, where: str) -> int:
    """The number of a symbol's class in CLASSES, or NOWHERE for unknown speech.

    Raises NotMeasured, with ``where`` it stands, for a symbol of neither notation.
    """
    if symbol in _NUMBERS:
        return _NUMBERS[symbol]
    if is_unknown(symbol):
        return NOWHERE
    spelled = symbol.upper()
    name = ARPABET.get(spelled, spelled.rstrip("012"))
    if name not in CLASSES:
        raise NotMeasured(
            f"not measured: {where}: the phone {symbol!r} is in none of the {len(CLASSES)} classes: allowed are "
            "ARPAbet, with or without stress digits, and espeak-ng's IPA of English"
        )
    return CLASSES.index(name)


def is_unknown(symbol: str) -> bool:
    """Whether that is speech of no known class."""
    return symbol.upper() == UNKNOWN_SPEECH


def phone_at(phones: Sequence[Phone], seconds: NDArray[np.floating]) -> NDArray[np.int64]:
    """Which phone ``[N]`` of a clip lasts at each moment ``[N]`` (start <= moment < end), NOWHERE for none.

    phones: in order and not overlapping.
    """
    if not phones:
        return np.full(len(seconds), NOWHERE)
    place = np.searchsorted([start for start, _, _ in phones], seconds, side="right") - 1
    ends = np.array([end for _, end, _ in phones])
    return np.where((place >= 0) & (seconds < ends[place]), place, NOWHERE)


def frame_classes(phones: Sequence[Phone], frames: int, hop_seconds: float, where: str) -> NDArray[np.int64]:
    """The class ``[frames]`` of the phone at the centre of each hop, NOWHERE where there is none.

    Raises NotMeasured as ``class_of``.
    """
    numbers: NDArray[Any] = np.array([class_of(symbol, where) for _, _, symbol in phones] + [NOWHERE])
    place = phone_at(phones, (np.arange(frames) + 0.5) * hop_seconds)
    return numbers[place].astype(np.int64)  # the last one is NOWHERE's

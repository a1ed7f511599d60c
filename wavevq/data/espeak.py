"""Drives libespeak-ng by ctypes: one voice, one list of sentences, one process.

A script without imports from the package: ``synthetic.py`` starts it anew for every voice, because the library keeps
state between calls that nothing clears, and because two threads that call it crash the process.
Standard input holds the job as JSON (see ``main``); every sentence written is one line on standard output.
Source of the constants and structures: espeak-ng 1.52, ``speak_lib.h``.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

PAUSE = "_"  # the symbol of every pause; espeak-ng's own event has an empty name
STRESS = str.maketrans("", "", "ˈˌ")

SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT
PHONEME_EVENTS, IPA_NAMES, DO_NOT_EXIT = 0x0001, 0x0002, 0x8000  # options of espeak_Initialize
END_OF_EVENTS, PHONEME = 0, 7  # espeak_EVENT_TYPE
BY_CHARACTER, UTF8 = 1, 1
VOLUME = 2  # espeak_PARAMETER
HEADROOM = 60  # of the usual 100: at 100 most voices reach full scale now and then, at 60 none passes 27,000


class _Id(ctypes.Union):
    # A name of 8 bytes has no NUL after it, so it is read as bytes and never as a C string.
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_void_p), ("string", ctypes.c_uint8 * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    )


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Espeak:
    """One voice. Raises RuntimeError where the library refuses."""

    def __init__(self, library: str, data: str, voice: str) -> None:
        self._lib = ctypes.CDLL(library)
        self.rate: int = self._lib.espeak_Initialize(
            SYNCHRONOUS, 0, data.encode(), PHONEME_EVENTS | IPA_NAMES | DO_NOT_EXIT
        )
        if self.rate <= 0:
            raise RuntimeError(f"espeak-ng cannot read its data in {data}")
        self._callback = _CALLBACK(self._take)  # the library keeps the pointer, so the object has to live as long
        self._lib.espeak_SetSynthCallback(self._callback)
        if self._lib.espeak_SetVoiceByName(voice.encode()):
            raise RuntimeError(f"espeak-ng has no voice {voice}")
        self._lib.espeak_SetParameter(VOLUME, HEADROOM, 0)

    def say(self, text: str, seed: int) -> tuple[np.ndarray[Any, np.dtype[np.int16]], list[tuple[int, int, str]]]:
        """int16 samples ``[T]`` of ``text`` and its phones (first sample, sample after the last, symbol)."""
        self._audio: list[np.ndarray[Any, np.dtype[np.int16]]] = []
        self._events: list[tuple[int, str]] = []
        self._lib.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        encoded = text.encode()
        if self._lib.espeak_Synth(encoded, ctypes.c_size_t(len(encoded) + 1), 0, BY_CHARACTER, 0, UTF8, None, None):
            raise RuntimeError(f"espeak-ng cannot say {text!r}")
        samples = np.concatenate([np.zeros(0, np.int16), *self._audio])
        return samples, _phones(self._events, len(samples))

    def _take(self, samples: Any, count: int, events: Any) -> int:
        if samples and count:
            self._audio.append(np.ctypeslib.as_array(samples, (count,)).copy())
        position = 0
        while (event := events[position]).type != END_OF_EVENTS:
            if event.type == PHONEME:
                name = bytes(event.id.string).split(b"\0")[0].decode()
                self._events.append((event.sample, name.translate(STRESS)))
            position += 1
        return 0


def _phones(events: list[tuple[int, str]], length: int) -> list[tuple[int, int, str]]:
    """Phones that cover [0, length) without a gap: each lasts until the next begins; pauses in a row are one."""
    phones: list[tuple[int, int, str]] = []
    starts = [(0, ""), *events]
    for (start, name), (end, _) in zip(starts, [*events, (length, "")], strict=True):
        symbol = name or PAUSE
        if end <= start:
            continue
        if phones and symbol == PAUSE == phones[-1][2]:
            phones[-1] = (phones[-1][0], end, PAUSE)
        else:
            phones.append((start, end, symbol))
    return phones


def main() -> None:
    """The job: {library, data, voice, seed, folder, names, sentences}; writes NAME.flac and NAME.phones.tsv.

    Without a folder nothing is written, and a sentence's line on standard output holds its phones.
    """
    job = json.load(sys.stdin)
    espeak = Espeak(job["library"], job["data"], job["voice"])
    if job["folder"] is None:
        for position, text in enumerate(job["sentences"]):
            _, phones = espeak.say(text, job["seed"] + position)
            print(*(symbol for _, _, symbol in phones), flush=True)
        return
    folder = Path(job["folder"])
    for position, (name, text) in enumerate(zip(job["names"], job["sentences"], strict=True)):
        samples, phones = espeak.say(text, job["seed"] + position)
        soundfile.write(folder / f"{name}.flac", samples, espeak.rate, subtype="PCM_16")
        rows = [f"{start / espeak.rate:.6f}\t{end / espeak.rate:.6f}\t{symbol}\n" for start, end, symbol in phones]
        (folder / f"{name}.phones.tsv").write_text(
            "start_seconds\tend_seconds\tsymbol\n" + "".join(rows), encoding="utf-8", newline="\n"
        )
        print(name, flush=True)


if __name__ == "__main__":
    try:
        main()
    except Exception as error:  # one line for the parent, which tells the user
        sys.exit(f"{error}")

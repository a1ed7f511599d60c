"""Fetch a corpus through torchaudio, which knows its address and checksum."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from pathlib import Path

from wavevq.errors import WavevqError

CORPORA = ("vctk", "librispeech")
LIBRISPEECH_SUBSET = "train-clean-100"


def download(name: str, folder: str | Path, subset: str = LIBRISPEECH_SUBSET) -> Path:
    """Fetch ``name`` (one of CORPORA; of LibriSpeech, one ``subset``) into ``folder``; returns where it stands.

    What is there already is not fetched again. Everything happens in a folder beside it until the corpus is whole;
    interrupted while unpacking, a later call goes on from the archive. Raises WavevqError for an unknown name or
    subset, a failed download and a wrong checksum, which leaves nothing.
    """
    folder = Path(folder)
    if name not in CORPORA:
        raise WavevqError(f"{name}: unknown corpus; those that can be downloaded are {', '.join(CORPORA)}")
    from torchaudio.datasets import librispeech, vctk

    if name == "librispeech" and subset not in librispeech._DATA_SUBSETS:
        raise WavevqError(f"{subset}: unknown subset of LibriSpeech; there are {', '.join(librispeech._DATA_SUBSETS)}")
    inside = Path("VCTK-Corpus-0.92") if name == "vctk" else Path("LibriSpeech") / subset
    if (folder / inside).is_dir():
        return folder / inside
    staging = folder / f".{inside.name}.part"
    try:
        staging.mkdir(parents=True, exist_ok=True)
        # torchaudio takes a folder that exists for the whole corpus, so half of one must go.
        shutil.rmtree(staging / inside.parts[0], ignore_errors=True)
        if name == "vctk":
            vctk.VCTK_092(str(staging), download=True, url=vctk.URL)
        else:
            librispeech.LIBRISPEECH(staging, url=subset, download=True)
        _move_into(staging, folder, inside)
        shutil.rmtree(staging)
    except (OSError, RuntimeError, zipfile.BadZipFile, tarfile.TarError) as error:
        # RuntimeError is torch.hub's word for a wrong checksum. An archive that has its name passed it.
        if not any(staging.glob("*.zip")) and not any(staging.glob("*.tar.gz")):
            shutil.rmtree(staging, ignore_errors=True)
        raise WavevqError(f"{name}: the download into {folder} failed ({' '.join(str(error).split())})") from None
    return folder / inside


def _move_into(staging: Path, folder: Path, inside: Path) -> None:
    """Move what was unpacked from ``staging`` to ``folder``, ``inside`` last: its being there says that all is."""
    (folder / inside).parent.mkdir(parents=True, exist_ok=True)
    if len(inside.parts) > 1:  # LibriSpeech's own lists of speakers and chapters
        for path in (staging / inside).parent.iterdir():
            if path.is_file():
                path.replace(folder / inside.parent / path.name)
    (staging / inside).replace(folder / inside)

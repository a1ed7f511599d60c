"""Fetch a corpus: speech through torchaudio, which knows its addresses and checksums."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path

from wavevq.data.images import CIFAR10_FOLDER
from wavevq.errors import WavevqError

CORPORA = ("vctk", "librispeech", "cifar10")
LIBRISPEECH_SUBSET = "train-clean-100"
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
CIFAR10_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
}


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
    places = {"vctk": Path("VCTK-Corpus-0.92"), "librispeech": Path("LibriSpeech") / subset}
    inside = places.get(name, Path(CIFAR10_FOLDER))
    if (folder / inside).is_dir():
        return folder / inside
    staging = folder / f".{inside.name}.part"
    try:
        staging.mkdir(parents=True, exist_ok=True)
        # torchaudio takes a folder that exists for the whole corpus, so half of one must go.
        shutil.rmtree(staging / inside.parts[0], ignore_errors=True)
        if name == "vctk":
            vctk.VCTK_092(str(staging), download=True, url=vctk.URL)
        elif name == "librispeech":
            librispeech.LIBRISPEECH(staging, url=subset, download=True)
        else:
            _cifar10(staging)
        _move_into(staging, folder, inside)
        shutil.rmtree(staging)
    except (OSError, RuntimeError, EOFError, zlib.error, zipfile.BadZipFile, tarfile.TarError) as error:
        # RuntimeError is torch.hub's word for a wrong checksum. An archive that has its name passed it.
        if not any(staging.glob("*.zip")) and not any(staging.glob("*.tar.gz")):
            shutil.rmtree(staging, ignore_errors=True)
        raise WavevqError(f"{name}: the download into {folder} failed ({' '.join(str(error).split())})") from None
    return folder / inside


def _cifar10(staging: Path) -> None:
    """The python version, each of its files checked."""
    from torch.hub import download_url_to_file

    archive = staging / "cifar-10-python.tar.gz"
    if not archive.is_file():
        download_url_to_file(CIFAR10_URL, str(archive))
    with tarfile.open(archive) as tar:
        tar.extractall(staging, filter="data")
    for name, expected in CIFAR10_MD5.items():
        found = hashlib.md5((staging / CIFAR10_FOLDER / name).read_bytes(), usedforsecurity=False).hexdigest()
        if found != expected:
            archive.unlink()
            raise RuntimeError(f"the md5 hash of {name} is {found}, not {expected}")


def _move_into(staging: Path, folder: Path, inside: Path) -> None:
    """Move what was unpacked from ``staging`` to ``folder``, ``inside`` last: its being there says that all is."""
    (folder / inside).parent.mkdir(parents=True, exist_ok=True)
    if len(inside.parts) > 1:  # LibriSpeech's own lists of speakers and chapters
        for path in (staging / inside).parent.iterdir():
            if path.is_file():
                path.replace(folder / inside.parent / path.name)
    (staging / inside).replace(folder / inside)

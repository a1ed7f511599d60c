"""Folders gone through, and whether there is a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def walk(folder: str | Path) -> Iterator[tuple[Path, list[str]]]:
    """Every folder below ``folder`` and itself, links followed, with its files; hidden folders are passed by.

    In the order of their names, and each once, by whatever links it is reached: a link may lead to where it stands.
    """
    seen = {_identity(Path(folder))} if Path(folder).is_dir() else set()
    for parent, folders, files in os.walk(folder, followlinks=True):  # pathlib's passes by folders that are links
        kept = []
        for name in sorted(folders):
            one = _identity(Path(parent, name))
            if not name.startswith(".") and one not in seen:
                seen.add(one)
                kept.append(name)
        folders[:] = kept
        yield Path(parent), sorted(files)


def is_file(path: Path) -> bool:
    """Also of a name that no file can have, such as one that is too long, for which pathlib's raises."""
    return os.path.isfile(path)  # noqa: PTH113


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino

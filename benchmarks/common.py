"""What every benchmark needs: two options, timings of rivals in turn, and a line for a missing peer.

A benchmark is run as ``python benchmarks/NAME.py [--quick] [--json FILE]`` and imports this as ``common``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Options:
    """quick: fewer repeats, about a minute in all. json: where the figures go, or None. threads: of torch.

    run: the trained run that a benchmark measures, None for the newest finished one. sets: overrides of its recipe.
    """

    quick: bool
    json: Path | None
    threads: int
    run: str | None = None
    sets: tuple[str, ...] = ()


def options(description: str, threads: int = 2, takes_run: bool = False, takes_sets: bool = False) -> Options:
    """The command line's options; sets torch's number of threads."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats, about a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write {figure: value} to FILE")
    parser.add_argument("--threads", type=int, default=threads, metavar="N", help=f"torch threads (default {threads})")
    if takes_run:
        parser.add_argument("--run", metavar="RUN", help="a trained run, by default the newest finished one")
    if takes_sets:
        said = "override a value of the run's recipe, such as data.root=PATH"
        parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE", help=said)
    given = vars(parser.parse_args())
    torch.set_num_threads(given["threads"])
    return Options(**{**given, "sets": tuple(given.get("sets", ()))})


def peer(module: str, package: str) -> Any:
    """The peer's module; where it is missing, one line on stderr and exit code 2."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        print(f"{package} cannot be imported ({error}): pip install 'wavevq[bench]'", file=sys.stderr)
        raise SystemExit(2) from None


def medians(rivals: Mapping[str, Callable[[], object]], repeats: int, warmup: int = 1) -> dict[str, float]:
    """Median seconds of each rival, called in turn so that a machine's slow minute hits all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for turn in range(warmup + repeats):
        for name, call in rivals.items():
            start = time.perf_counter()
            call()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def report(figures: Mapping[str, float], given: Options) -> None:
    """Prints the figures, and writes them where ``--json`` says."""
    for name, value in figures.items():
        print(f"{name} {value:.4g}")
    if given.json:
        given.json.write_text(json.dumps(dict(figures), indent=2) + "\n", encoding="utf-8")

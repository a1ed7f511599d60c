"""The commands. Everything heavy is imported inside them, so that ``--help`` is quick."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from wavevq import __version__
from wavevq.cli import measures, speech, training
from wavevq.cli.options import INTERRUPTED, MISTAKE, refusal
from wavevq.errors import WavevqError, escaped


@contextmanager
def _one_line(ctx: click.Context) -> Iterator[None]:
    """A command line that click refuses ends with exit code 2 and one line that names its help."""
    try:
        yield
    except click.UsageError as error:
        of = (error.ctx or ctx).command_path
        click.echo(f"wavevq: {escaped(' '.join(error.format_message().split()))} ({of} --help tells more)", err=True)
        _exit(ctx, MISTAKE)


class Commands(click.Group):
    """A user's mistake is told in its lines, without a traceback; one that click finds, in one line."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args:
            return super().parse_args(ctx, args)  # shows the help
        with _one_line(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        if not os.environ.get("TERM"):
            os.environ["TERM"] = "dumb"  # what draws would take it for a terminal that knows escape codes
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # a file's name may be bytes that are no text
        try:
            with _one_line(ctx):
                return super().invoke(ctx)
        except WavevqError as error:
            for line in error.args:
                click.echo(f"wavevq: {refusal(line, ctx)}", err=True)
            _exit(ctx, MISTAKE)
        except OSError as error:  # of a file: it may not be read, its name is too long, its disk is gone
            if error.filename is None:
                raise
            click.echo(f"wavevq: {escaped(str(error.filename))}: {(error.strerror or str(error)).lower()}", err=True)
            _exit(ctx, MISTAKE)
        except KeyboardInterrupt:
            _exit(ctx, INTERRUPTED)


def _exit(ctx: click.Context, code: int) -> NoReturn:
    if os.environ.get("WORLD_SIZE", "1") != "1":  # torchrun's, of several processes
        from wavevq.distributed import leave

        leave(code)
    ctx.exit(code)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="wavevq")
def main() -> None:
    """Speech as discrete codes: train a VQ-VAE, encode, decode, convert voices."""


for command in (
    training.train,
    training.enroll,
    training.export,
    training.demo,
    training.download,
    speech.encode,
    speech.decode,
    speech.convert,
    speech.compress,
    speech.decompress,
    speech.sample,
    measures.evaluate,
    measures.scoreboard,
    measures.info,
    measures.doctor,
):
    main.add_command(command)

"""The commands. Everything heavy is imported inside them, so that ``--help`` is quick."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, NoReturn

import click

from wavevq import __version__
from wavevq.cli import measures, speech, training
from wavevq.cli.options import INTERRUPTED, MISTAKE
from wavevq.errors import WavevqError, escaped


class Commands(click.Group):
    """A user's mistake is told in its lines, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        if not os.environ.get("TERM"):
            os.environ["TERM"] = "dumb"  # what draws would take it for a terminal that knows escape codes
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # a file's name may be bytes that are no text
        try:
            return super().invoke(ctx)
        except WavevqError as error:
            for line in error.args:
                click.echo(f"wavevq: {line}", err=True)
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

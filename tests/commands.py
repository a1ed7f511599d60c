"""Commands given in this process: what they say, and the one line of those that are refused."""

from __future__ import annotations

from click.testing import CliRunner

from wavevq.cli import main


def good(*words: str) -> str:
    done = CliRunner().invoke(main, [*words])
    assert done.exit_code == 0, done.output
    return done.output


def refused(*words: str) -> str:
    done = CliRunner().invoke(main, [*words])
    assert done.exit_code == 2, done.output
    (line,) = done.output.splitlines()
    return line.removeprefix("wavevq: ")

"""The one exception for a user's mistakes, and text of others in a message."""

import unicodedata

UNTOLD = {"Cc", "Cs", "Zl", "Zp"}  # controls, half characters, ends of lines and paragraphs


class WavevqError(Exception):
    """A user's mistake, told in one line; several, of a recipe or of many files, in ``lines`` of their own.

    It names the value, the file or key, and what is allowed. The command line prints it and ends with exit code 2.
    A name in it may be anything, an end of line included: ``args`` are the lines, ``escaped``, and ``str`` joins them.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*map(escaped, lines))

    def __str__(self) -> str:
        return "\n".join(self.args)


def escaped(text: str) -> str:
    """``text`` as one line that a terminal only shows: what steers it is written as Python writes it, ``\\x1b``."""
    return "".join(repr(c)[1:-1] if unicodedata.category(c) in UNTOLD else c for c in text)

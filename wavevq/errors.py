"""The one exception for a user's mistakes."""


class WavevqError(Exception):
    """A user's mistake, told in one line (a recipe: one line for each mistake).

    It names the value, the file or key, and what is allowed. The command line prints it and ends with exit code 2.
    """

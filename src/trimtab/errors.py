"""The one error that users are meant to see: what is wrong, where, and what to do."""


class TrimtabError(Exception):
    """A dead end that the user can mend. The command prints it without a traceback."""

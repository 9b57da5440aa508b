"""The one error that users are meant to see: what is wrong, where, and what to do."""

MOST = 400
"""Characters of a library's message that are shown."""
NO_MEMORY = ("allocate memory", "not enough memory", "out of memory", "bad_alloc")
"""What torch says on a CPU, and CUDA's libraries."""


class TrimtabError(Exception):
    """A dead end that the user can mend. The command prints it without a traceback."""


def reason_of(error: BaseException) -> str:
    """A library's message as one line: its first, and what follows where that line says nothing by itself."""
    if is_out_of_memory(error):
        return f"there is not enough memory for it ({first_line(error)})"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    reason = lines.pop(0)
    if reason.endswith((":", ",", "(")):
        reason = " ".join([reason, *lines])
    if isinstance(error, (KeyError, IndexError, AttributeError, TypeError, AssertionError)):
        reason = f"{type(error).__name__}: {reason}"  # a fault inside the library, whose message was for its author
    return reason if len(reason) <= MOST else f"{reason[:MOST]} …"


def first_line(error: BaseException) -> str:
    """The first line of an error's message that is not empty, or its type's name."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def is_out_of_memory(error: BaseException) -> bool:
    """On a CPU: Python's own, torch's allocator's, or that of a file that is mapped."""
    if isinstance(error, MemoryError):
        return True
    said = str(error).lower()
    return isinstance(error, (RuntimeError, OSError)) and any(words in said for words in NO_MEMORY)

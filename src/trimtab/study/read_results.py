"""results.json of a folder, or a line that says why it cannot be read."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from trimtab.errors import TrimtabError, first_line
from trimtab.evaluation.results import Results


def read_results(folder: Path) -> Results:
    """TrimtabError where the folder has none, or those of another version."""
    file = folder / "results.json"
    if not file.is_file():
        raise TrimtabError(f"{folder}: no results.json in it. Run the study first, or name a study's folder.")
    try:
        return Results.read(file)
    except ValueError as error:
        said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else first_line(error)
        raise TrimtabError(
            f"{file}: not results that this version can read: {said}. The study's own command writes them anew."
        ) from None

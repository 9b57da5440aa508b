"""What a recipe may set of the sandbox."""

from __future__ import annotations

from pydantic import Field

from trimtab.data.settings import IN_MEMORY, TOKENS, Seed, Settings


class SandboxSettings(Settings):
    """The embedded world in place of data files: rows that are made, the same for the same seed."""

    train_rows: int = Field(3000, gt=0, le=IN_MEMORY)
    """Pairs to train on."""
    validation_rows: int = Field(300, gt=0, le=IN_MEMORY)
    """Pairs that choose which weights are kept."""
    test_rows: int = Field(400, gt=0, le=IN_MEMORY)
    """Prompts that the methods are compared on."""
    max_length: int = Field(384, gt=1, le=TOKENS)
    """Tokens of a prompt with one completion."""
    scores: bool = False
    """Whether pairs have the annotator's gold scores, from −10 to 10.2."""
    seed: Seed = 0
    """Of the rows; training has seeds of its own."""

"""Arithmetic with exact answers: prompts for methods that a reward drives, as hard as you say.

    python -m trimtab.sandbox.arithmetic FOLDER [ROWS [DIGITS [SEED]]]      train.jsonl validation.jsonl test.jsonl

A row has a prompt, a completion to imitate, and the columns answer, operation and difficulty. All are functions of
the arguments. Splits share no two operands: where a and b stand together in one, they do not in another, either way
round and whatever is done with them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from trimtab.errors import TrimtabError
from trimtab.files import make_folder, write_text
from trimtab.json_types import JsonObject

SPLITS = ("train", "validation", "test")
SHARES = (0.8, 0.1, 0.1)
"""Of all pairs of operands."""
TRIES = 1000
"""Draws of a row after which too few operands are left."""


def split_of(a: int, b: int) -> str:
    """The only split that may ask for anything of these two operands."""
    low, high = sorted((a, b))
    digest = hashlib.blake2b(f"{low} {high}".encode(), digest_size=8).digest()
    place = int.from_bytes(digest) / 2**64
    return SPLITS[(place >= SHARES[0]) + (place >= SHARES[0] + SHARES[1])]


def carries(a: int, b: int, operation: str) -> int:
    """How many digits are carried when a + b, or borrowed when a − b, is worked out by hand. a ≥ b."""
    count = carry = 0
    while a or b:
        x, y = a % 10, b % 10
        carry = int(x + y + carry > 9) if operation == "+" else int(x - y - carry < 0)
        count += carry
        a, b = a // 10, b // 10
    return count


def difficulty(a: int, b: int, operation: str) -> int:
    """Steps by hand: digits of the longer operand and what is carried; of a product, digits times digits."""
    digits = len(str(a)), len(str(b))
    return digits[0] * digits[1] if operation == "*" else max(digits) + carries(a, b, operation)


def arithmetic_rows(split: str, rows: int, digits: int = 3, seed: int = 0) -> Iterator[JsonObject]:
    """Sums, differences (never below 0) and products, as many of each, of operands of 1 to so many digits; none
    twice. TrimtabError where so few digits make no further row."""
    rng = random.Random(f"{split} {seed}")
    seen: set[tuple[int, int, str]] = set()
    for number in range(rows):
        operation = "+-*"[number % 3]
        for _ in range(TRIES):
            b, a = sorted(rng.randrange(10 ** rng.randint(1, digits)) for _ in range(2))
            if split_of(a, b) == split and (a, b, operation) not in seen:
                break
        else:
            raise TrimtabError(f"arithmetic: {digits} digits make no more than {number} {split} rows: take more.")
        seen.add((a, b, operation))
        answer = {"+": a + b, "-": a - b, "*": a * b}[operation]
        yield {
            "prompt": f"What is {a} {operation} {b}?",
            "completion": str(answer),
            "answer": answer,
            "operation": operation,
            "difficulty": difficulty(a, b, operation),
        }


def write_arithmetic(folder: Path, rows: int = 2000, digits: int = 3, seed: int = 0) -> None:
    """Writes the three splits: `rows` to train on, a tenth of them to validate and to test on."""
    make_folder(folder)
    for split in SPLITS:
        count = rows if split == "train" else max(1, rows // 10)
        lines = (json.dumps(row) + "\n" for row in arithmetic_rows(split, count, digits, seed))
        write_text(folder / f"{split}.jsonl", "".join(lines))


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m trimtab.sandbox.arithmetic FOLDER [ROWS [DIGITS [SEED]]]`."""
    parser = argparse.ArgumentParser(
        prog="python -m trimtab.sandbox.arithmetic", description=write_arithmetic.__doc__
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("rows", type=int, nargs="?", default=2000)
    parser.add_argument("digits", type=int, nargs="?", default=3)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    asked = parser.parse_args(arguments)
    write_arithmetic(asked.folder, asked.rows, asked.digits, asked.seed)


if __name__ == "__main__":
    main()

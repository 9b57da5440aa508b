"""Each kind of instruction on answers by hand; what is refused, and what is mended of the package."""

from __future__ import annotations

import random
import sys
from typing import Any

import pytest
from if_verifiable.common import evaluate_instructions
from if_verifiable.ifeval.instructions_registry import INSTRUCTION_DICT

from instructions.examples import EXAMPLES
from trimtab.data.fields import BadRowError
from trimtab.data.records import Record
from trimtab.errors import TrimtabError
from trimtab.instructions.checks import Verdict, check_rows, instruction_of, instructions_of, verdicts
from trimtab.instructions.mended import checkers, conflicts, language_of


def holds(kind: str, answer: str, **arguments: Any) -> bool:
    return instruction_of(kind, arguments).holds(answer)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_each_kind_holds_in_one_answer_and_not_in_another(kind: str) -> None:
    arguments, good, bad = EXAMPLES[kind]
    assert holds(kind, good, **arguments)
    assert not holds(kind, bad, **arguments)
    assert not holds(kind, " \n", **arguments), "nothing holds in an empty answer"


def test_all_kinds_of_the_package_have_an_example() -> None:
    assert set(EXAMPLES) == set(checkers()) == set(INSTRUCTION_DICT)
    assert len(EXAMPLES) == 25


def test_loose_reads_an_answer_in_eight_ways() -> None:
    """Without the first line, the last, both, and each of these and the whole without asterisks."""
    quoted = instruction_of("startend:quotation", {})
    found = {
        answer: quoted.verdict(answer)[1:]
        for answer in (
            '"all"', '*"all"*', 'Sure:\n"all"', '"all"\nBye.', 'Sure:\n"all"\nBye.', 'Sure:\n*"all"*',
            '*"all"*\nBye.', 'Sure:\n*"all"*\nBye.', 'Sure: "all"',
        )
    }  # fmt: skip
    strict, loose = zip(*found.values(), strict=True)
    assert strict == (True, *[False] * 8)
    assert loose == (*[True] * 8, False)
    title = instruction_of("detectable_format:title", {})
    assert title.verdict("Sure.\n*") == Verdict("detectable_format:title", False, False)


COMMA, NTH = "punctuation:no_comma", "length_constraints:nth_paragraph_first_word"
LETTER, WORDS = "keywords:letter_frequency", "length_constraints:number_words"


@pytest.mark.parametrize(
    ("kinds", "arguments", "said"),
    [
        (["punctuation:no_coma"], None, "no instruction 'punctuation:no_coma'. Did you mean punctuation:no_comma?"),
        (["count:words"], [{}], "no instruction 'count:words'. Known: change_case:"),
        (COMMA, None, "must be a list of names"),
        ([COMMA], [], "must be a list with an object for each of 1"),
        ([COMMA], [3], "expected an object, found 3"),
        ([COMMA], [{"n": 3}], "takes no n."),
        ([WORDS], [{"num_words": 9}], "lacks relation."),
        ([WORDS], [{"num_words": 9, "relation": "exactly"}], "but exactly is given"),
        ([WORDS], [{"num_words": True, "relation": "at least"}], "num_words must be a whole number, found true"),
        ([WORDS], [{"num_words": -1, "relation": "at least"}], "num_words must be a whole number, found -1"),
        (["keywords:existence"], [{"keywords": "cat"}], "must be a list of words"),
        (["detectable_content:number_placeholders"], [{"num_placeholders": "3"}], "a whole number"),
        (["startend:end_checker"], [{"end_phrase": " "}], "must be text, found"),
        (["language:response_language"], [{"language": "xx"}], "ever found to be in 'xx'"),
        ([LETTER], [{"letter": "ab", "let_frequency": 1, "let_relation": "at least"}], "one letter, found 'ab'"),
        ([NTH], [{"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "a"}], "nth_paragraph can't be 3"),
        ([NTH], [{"num_paragraphs": 2, "nth_paragraph": 1, "first_word": "I'm"}], 'first word is ever "I\'m"'),
    ],
)
def test_what_cannot_be_checked_is_refused_with_its_row(kinds: object, arguments: object, said: str) -> None:
    row = {"instruction_id_list": kinds, "kwargs": arguments}
    with pytest.raises(BadRowError) as error:
        instructions_of(row)
    assert said in str(error.value)
    rows = [Record("p", (), columns={"instruction_id_list": [COMMA]}), Record("q", (), columns=row, origin="f:2")]
    with pytest.raises(TrimtabError, match="f:2: column"):
        check_rows(rows)


def test_rows_without_instructions_are_counted() -> None:
    plain = Record("p", (), origin="f:1")
    asked = Record("q", (), columns={"instruction_id_list": [COMMA], "kwargs": None})
    assert check_rows([plain, asked, plain]) == 2
    with pytest.raises(TrimtabError, match="f:1: no row has instructions"):
        check_rows([plain, plain])


def test_the_hubs_layout_and_json_are_the_same_instructions() -> None:
    """google/IFEval has every argument with a null; tables have lists as text, and whole numbers as floats."""
    short = {"instruction_id_list": [WORDS], "kwargs": [{"num_words": 3, "relation": "less than"}]}
    given = {"num_words": 3.0, "relation": "less than", "letter": None}
    hub = {"instruction_id_list": f'["{WORDS}"]', "kwargs": [given]}
    for row in (short, hub):
        assert [verdict.strict for verdict in verdicts(instructions_of(row), "Two words")] == [True]
        assert instructions_of(row)[0].text == "Answer with less than 3 words."


def test_words_are_looked_for_as_they_are_written() -> None:
    """The package reads them as regular expressions: "C++" finds "cat" there, and "a.b" finds "acb"."""
    assert not holds("keywords:existence", "A cat.", keywords=["C++"])
    assert holds("keywords:existence", "I write C++.", keywords=["C++"])
    assert not holds("keywords:existence", "acb", keywords=["a.b"])
    assert holds("keywords:frequency", "C++ (C++)", keyword="C++", frequency=2, relation="at least")
    assert not holds("keywords:forbidden_words", "I write C++.", forbidden_words=["C++"])
    assert holds("keywords:forbidden_words", "I write C++14.", forbidden_words=["C++"])
    assert holds("detectable_content:postscript", "Bye\nPS (last): x", postscript_marker="PS (last):")
    assert holds("detectable_format:multiple_sections", "(A) 1 x (A) 2 y", section_spliter="(A)", num_sections=2)
    assert holds("startend:end_checker", 'He said "yes"', end_phrase='He said "yes"')


def test_a_letter_that_is_none_is_counted_itself() -> None:
    """The package counts a letter that it draws at random instead. Nothing is drawn here."""
    before = random.getstate()
    hashes = instruction_of(LETTER, {"letter": "#", "let_frequency": 3, "let_relation": "at least"})
    assert hashes.text == "In your response, the letter # should appear at least 3 times."
    assert (hashes.holds("# ## x"), hashes.holds("aaa bbb # #")) == (True, False)
    assert random.getstate() == before


def test_an_answer_whose_language_cannot_be_told_is_in_none() -> None:
    for answer in ("12345", "!!!", "🙂🙂"):
        assert language_of(answer) is None
        assert not holds("language:response_language", answer, language="hi")
    assert not holds("change_case:english_capital", "1 + 1")
    # langdetect takes three letters for "THE", which it reads as "T".
    assert holds("change_case:english_capital", "THE")


def test_languages_do_not_change_from_call_to_call() -> None:
    text = "ok no me he"
    assert len({language_of(text) for _ in range(30)}) == 1


def test_brackets_within_brackets_are_no_json() -> None:
    deep = "[" * 10 * sys.getrecursionlimit()
    assert not holds("detectable_format:json_format", deep)


def test_conflicts_go_both_ways() -> None:
    table = conflicts()
    assert set(table) == set(EXAMPLES)
    assert all(kind in table[other] for kind, others in table.items() for other in others)
    assert "punctuation:no_comma" not in table["detectable_format:title"]


def test_other_answers_have_the_packages_own_verdicts() -> None:
    """Every kind's arguments on every example's answers, beside the package's own loop."""
    answers = sorted({answer for _, good, bad in EXAMPLES.values() for answer in (good, bad)})
    compared = 0
    for kind, (arguments, _, _) in EXAMPLES.items():
        if kind in ("language:response_language", "change_case:english_capital", "change_case:english_lowercase"):
            continue
        for answer in answers:
            (theirs,), _ = evaluate_instructions(answer.strip(), [kind], [arguments], "", INSTRUCTION_DICT)
            ours = instruction_of(kind, arguments).verdict(answer.strip())
            assert ours == (kind, theirs.strict_pass, theirs.loose_pass), (kind, answer)
            compared += 1
    assert compared == 22 * len(answers)

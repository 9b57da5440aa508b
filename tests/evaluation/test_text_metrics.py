"""BLEU and behaviours on texts whose numbers can be counted by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU

from trimtab.evaluation.behaviours import BEHAVIOURS, behaviours, loops, prompt_echo, repeated_ngrams
from trimtab.evaluation.bleu import corpus_bleu
from trimtab.evaluation.phrases import HEDGING, META_COMMENTARY, Phrase, found_by


def test_bleu_by_hand() -> None:
    """ "a b c d e" against "a b c d f": precisions 4/5, 3/4, 2/3, 1/2, no brevity penalty.
    BLEU-1 80; BLEU-2 100·sqrt(3/5) = 77.46; BLEU-4 100·(1/5)^(1/4) = 66.87."""
    found = corpus_bleu(["a b c d e"], ["a b c d f"])
    assert found.bleu_1 == pytest.approx(80)
    assert found.bleu_2 == pytest.approx(100 * math.sqrt(0.6))
    assert found.bleu_4 == pytest.approx(100 * 0.2**0.25)
    assert found.signature.startswith("max_ngram_order:1,2,4|nrefs:1|case:mixed|eff:no|tok:13a")


def test_bleu_brevity() -> None:
    """Two of four words: BLEU-1 = 100 · exp(1 - 4/2)."""
    assert corpus_bleu(["a b"], ["a b c d"]).bleu_1 == pytest.approx(100 * math.exp(-1))
    with pytest.raises(ValueError, match="2 completions for 1"):
        corpus_bleu(["a", "b"], ["a"])


WORDS = st.lists(st.sampled_from(["a", "b", "c", "the", "of", "cat", ".", ",", "run"]), max_size=8).map(" ".join)


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5))
def test_every_order_is_sacrebleus_own(pairs: list[tuple[str, str]]) -> None:
    """Counted once, and as if each order had been asked for alone."""
    completions, references = map(list, zip(*pairs, strict=True))
    found = corpus_bleu(completions, references)
    alone = [
        BLEU(max_ngram_order=n, effective_order=False).corpus_score(completions, [references]) for n in (1, 2, 4)
    ]
    assert [found.bleu_1, found.bleu_2, found.bleu_4] == [one.score for one in alone]


LOOPING = [
    "Yes it is.\nConfidence: 95%\nConfidence: 95%\nConfidence: 95%",
    "Hello! Confidence: 95% Confidence: 95% Confidence: 95%",
    "I see. I see. I see.",
    "one two three one two three one two three",
    "no " * 8,
    "The result is 1." + "0" * 50,
]
NOT_LOOPING = [
    "",
    "very very very very good",
    "Buy it. Buy it. Then sell it.",
    "one two three one two three one two four",
    "}\n}\n}\nend\nend\nend",
    "| --- | --- | --- |\n| 1 | 1 | 1 |",
    "1 2 3 4 5 6 7 8 9",
    "-" * 60,
]


@pytest.mark.parametrize("text", LOOPING)
def test_loops(text: str) -> None:
    assert loops(text)


@pytest.mark.parametrize("text", NOT_LOOPING)
def test_not_loops(text: str) -> None:
    assert not loops(text)


def test_repeated_ngrams_by_hand() -> None:
    """ "a b c d a b c d": 4-grams abcd bcda cdab dabc abcd: 1 of 5 is a repeat."""
    assert repeated_ngrams("a b c d a b c d") == pytest.approx(0.2)
    assert repeated_ngrams("a b c") is None


def test_prompt_echo() -> None:
    prompt = "Which of the two cities is better for a young family?"
    assert prompt_echo(prompt, "You ask which of the two cities is better for you.")
    assert not prompt_echo(prompt, "Which of the two cities do you like?")
    assert prompt_echo("What is a city?", "What is a city? A city is large.")
    assert prompt_echo("Hello there", "Hello there") is None


@pytest.mark.parametrize(
    ("name", "yes", "no"),
    [
        ("markers", "Fine.\n**Confidence:** 85%", "I have confidence: in you, 3 friends"),
        ("markers", "Score: 8/10", "The score was 8 to 10"),
        ("meta_commentary", "As an AI language model, I cannot.", "An AI startup in Lisbon"),
        ("meta_commentary", "I’m here to assist with your question.", "I am here in Lisbon"),
        ("meta_commentary", "I was trained on web pages", "The dog was trained"),
        ("hedging", "It depends on your goals.", "Dependable trains."),
        ("hedging", "It is hard to say whether he knew.", "This might hurt a little; perhaps sit down."),
        ("hedging", "I’m not sure.", "Einstein said “I'm not sure about the universe”."),
        ("list_structure", "- one\n- two", "- one\nand two"),
        ("list_structure", "1. one\n2) two", "1.5 litres\n2.5 litres"),
        ("empty", " \n", "."),
    ],
)
def test_rules(name: str, yes: str, no: str) -> None:
    assert behaviours(["p"], [yes])[name] == 1
    assert behaviours(["p"], [no])[name] == 0


@pytest.mark.parametrize("phrase", [*META_COMMENTARY, *HEDGING], ids=lambda phrase: phrase.name)
def test_each_phrase_finds_its_example(phrase: Phrase) -> None:
    """By its own rule alone."""
    assert found_by((phrase,)).search(phrase.example)


def test_shares() -> None:
    found = behaviours(["p"] * 4, ["Maybe.", "Yes.", "Yes.", ""])
    assert list(found) == list(BEHAVIOURS)
    assert found["hedging"] == 0.25
    assert found["empty"] == 0.25
    assert found["repeated_ngrams"] is None
    assert found["prompt_echo"] is None
    assert behaviours([], [])["loops"] is None

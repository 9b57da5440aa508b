"""Pairs under a score or a length: which are made, what the template asks for, what a group of four holds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import AutoTokenizer

from conftest import CHATML, byte_tokenizer
from data.wordpiece import wordpiece_tokenizer
from trimtab.data.chat import ChatFormat, Dropped, TruncationSettings
from trimtab.data.conditions import LengthInstruction, ScoreCondition
from trimtab.data.groups import CompletionGroup
from trimtab.data.pairs import PairFormat, TurnFormat
from trimtab.data.records import Message, Record
from trimtab.data.split_groups import encode_records
from trimtab.errors import TrimtabError

PAIR = Record("Which cat?", ("the good cat sat", "a dog"), (9.0, 2.5), "f:1")
CONVERSATION = (
    Message("system", "Be kind."), Message("user", "Hi"), Message("assistant", "Ho"), Message("user", "He"),
)  # fmt: skip
REFUSING = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LEAVING_OUT = CHATML.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")
OWN_SYSTEM = (
    "  {% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are Cat.<|im_end|>\n{% endif %}\n" + CHATML
)
CUTTING = (
    "{%- if messages[0]['role'] == 'system' -%}{%- set head = messages[0]['content'] -%}"
    "{%- set messages = messages[1:] -%}{%- else -%}{%- set head = 'none' -%}{%- endif -%}\n\n<< {{ head }} >>"
    + CHATML
)


def condition(**given: Any) -> ScoreCondition:
    return ScoreCondition(text="Score {score} of {low} to {high}.", **given)


# ---- scores


def test_a_pair_becomes_two() -> None:
    """Asked for 9 the chosen one is nearest, asked for 2.5 the rejected one is."""
    made = condition().pairs(PAIR)
    assert isinstance(made, list)
    assert [(r.condition, r.completions, r.scores) for r in made] == [
        (9, ("the good cat sat", "a dog"), (9.0, 2.5)),
        (2.5, ("a dog", "the good cat sat"), (2.5, 9.0)),
    ]
    # Where the label and the scores disagree, what is asked for decides all the same.
    other = condition().pairs(Record("q", ("a", "b"), (2.0, 7.04)))
    assert isinstance(other, list)
    assert [(r.condition, r.completions) for r in other] == [(2, ("a", "b")), (7, ("b", "a"))]


def test_pairs_that_no_score_tells_apart() -> None:
    """8.04 and 7.96 are both shown as 8; a row without scores is none; 0.5 is not on the scale from 1 to 10."""
    assert condition().pairs(Record("q", ("a", "b"), (8.04, 7.96), "f:2")) == Dropped("equal scores", "f:2")
    assert len(condition(digits=2).pairs(Record("q", ("a", "b"), (8.04, 7.96)))) == 2  # type: ignore[arg-type]
    assert condition().pairs(Record("q", ("a", "b"), None, "f:3")) == Dropped("no scores", "f:3")
    with pytest.raises(TrimtabError, match=r"f:4: the score 0\.5 is not on the scale from 1 to 10\. Set condition"):
        condition().pairs(Record("q", ("a", "b"), (3.0, 0.5), "f:4"))


def served(tokenizer: Any, messages: list[dict[str, Any]], **values: Any) -> str:
    """What a server renders, through transformers alone."""
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **values)
    return text


def turns(*pairs: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in pairs]


def test_the_template_asks_for_the_best_score() -> None:
    """In a system turn of its own, before one that is there, and at the head of the user's where there is none."""
    tokenizer = condition().tokenizer(byte_tokenizer())
    start = "<|im_start|>system\nScore 10 of 1 to 10."
    assert served(tokenizer, turns(("user", "Hi"))) == (
        f"{start}<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert served(tokenizer, turns(("system", "Be kind."), ("user", "Hi"))) == (
        f"{start}\n\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert "Score 7 of" in served(tokenizer, turns(("user", "Hi")), target_score=7)
    refusing = condition().tokenizer(byte_tokenizer(REFUSING))
    assert served(refusing, turns(("user", "Hi"), ("assistant", "Ho"), ("user", "He"))) == (
        "<|im_start|>user\nScore 10 of 1 to 10.\n\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n"
        "<|im_start|>user\nHe<|im_end|>\n<|im_start|>assistant\n"
    )
    silent = condition().tokenizer(byte_tokenizer(LEAVING_OUT))
    assert served(silent, turns(("system", "Be kind."), ("user", "Hi"))) == (
        "<|im_start|>user\nScore 10 of 1 to 10.\n\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("template", [CHATML, OWN_SYSTEM, CUTTING], ids=["chatml", "own system", "cutting"])
def test_the_rest_of_a_template_is_as_it_was(template: str) -> None:
    """With the condition written by hand as a system turn the old template renders the same, to the letter."""
    plain = byte_tokenizer(template)
    tokenizer = condition().tokenizer(plain)
    asked = ("system", "Score 10 of 1 to 10.")
    for said in (turns(("user", "Hi")), turns(("user", "Hi"), ("assistant", "Ho"), ("user", "He"))):
        assert served(tokenizer, said) == served(plain, [*turns(asked), *said])
    kind = turns((asked[0], f"{asked[1]}\n\nBe kind."), ("user", "Hi"))
    assert served(tokenizer, turns(("system", "Be kind."), ("user", "Hi"))) == served(plain, kind)
    assert plain.chat_template == template, "the tokenizer that was given is left alone"


def test_any_text_survives_the_template() -> None:
    """Quotes, braces, a tag's end, a backslash, an emoji and a line's end come out as they went in."""
    text = 'Say "{score}" %} }} {{ \\n \' 🐱\n{low}–{high}'
    tokenizer = ScoreCondition(text=text, low=0, high=1.5).tokenizer(byte_tokenizer())
    shown = text.replace("{score}", "1.5").replace("{low}", "0").replace("{high}", "1.5")
    assert served(tokenizer, turns(("user", "Hi"))).startswith(f"<|im_start|>system\n{shown}<|im_end|>\n")


def test_content_in_parts_gets_another_part() -> None:
    """As multimodal servers have it; the template here prints the list as it stands."""
    tokenizer = condition().tokenizer(byte_tokenizer())
    parts = [
        {"role": "system", "content": [{"type": "text", "text": "Be kind."}]},
        {"role": "user", "content": "Hi"},
    ]
    assert "{'type': 'text', 'text': 'Score 10 of 1 to 10.\\n\\n'}, {'type': 'text', 'text': 'Be kind.'}" in served(
        tokenizer, parts
    )


def test_what_is_trained_on_is_what_is_served(tmp_path: Path) -> None:
    """The prompt of a pair asked for 9 is what the saved tokenizer makes of the same turns with target_score=9, and
    without it asks for the best; the tokens of the completion are those of the plain prompt."""
    for name, template in (("chatml", CHATML), ("refusing", REFUSING)):
        chat = ChatFormat(condition().tokenizer(byte_tokenizer(template)))
        chat.tokenizer.save_pretrained(tmp_path / name)
        saved = AutoTokenizer.from_pretrained(tmp_path / name)
        [first, second], counts = encode_records([PAIR], chat, "pair", condition().pairs)
        plain = ChatFormat(byte_tokenizer(template)).encode(PAIR)
        assert isinstance(plain, CompletionGroup)
        for group, score in ((first, 9), (second, 2.5)):
            said = turns(("user", "Which cat?"))
            assert saved.decode(group.prompt) == served(saved, said, target_score=score)
            assert list(group.prompt) == saved.apply_chat_template(
                said, add_generation_prompt=True, return_dict=False, target_score=score
            )
            assert f"Score {score} of" in saved.decode(group.prompt)
        assert (first.completions, second.completions) == (plain.completions, plain.completions[::-1])
        assert chat.prompt_ids("Which cat?") == saved.apply_chat_template(
            said, add_generation_prompt=True, return_dict=False, target_score=10
        )
        assert (counts.rows, counts.used) == (1, 1)


def test_turns_that_go_for_want_of_room_leave_the_condition() -> None:
    """The template writes it after the oldest turns went, also where it stands in the first user's turn."""
    record = Record(CONVERSATION[1:], ("the good cat sat", "a dog"), (9.0, 2.0))
    for template in (CHATML, REFUSING):
        tokenizer = condition().tokenizer(byte_tokenizer(template))
        whole, _ = encode_records([record], ChatFormat(tokenizer), "pair", condition().pairs)
        room = TruncationSettings(max_length=len(whole[0].prompt) - 1 + 6, min_completion_length=6)
        cut, _ = encode_records([record], ChatFormat(tokenizer, room), "pair", condition().pairs)
        for group, score in zip(cut, ("9", "2"), strict=True):
            text = tokenizer.decode(group.prompt)
            assert f"Score {score} of" in text
            assert "Ho" not in text
            assert "He" in text


def test_a_row_is_used_whole_or_not() -> None:
    """Asked for 10 the prompt is one token longer than asked for 2, and fits no more: neither pair is kept."""
    record = Record("Hi", ("a", "b"), (10.0, 2.0), "f:1")
    chat = ChatFormat(condition().tokenizer(byte_tokenizer()))
    groups, _ = encode_records([record], chat, "pair", condition().pairs)
    longer, shorter = (len(group.prompt) + 2 for group in groups)
    assert longer == shorter + 1
    for room, kept in ((longer, 2), (shorter, 0)):
        chat.truncation = TruncationSettings(max_length=room, min_completion_length=2)
        groups, counts = encode_records([record], chat, "pair", condition().pairs)
        assert len(groups) == kept
        assert (counts.used, counts.dropped) == ((1, {}) if kept else (0, {"prompt too long": 1}))


def test_conditions_that_cannot_be_asked() -> None:
    with pytest.raises(ValidationError, match=r"must name \{score\} once"):
        ScoreCondition(text="Score it.")
    with pytest.raises(ValidationError, match="low must be below high"):
        ScoreCondition(low=3, high=3)
    with pytest.raises(TrimtabError, match="no chat template to write the score into"):
        condition().tokenizer(byte_tokenizer(None))
    with pytest.raises(TrimtabError, match="asks for a score already"):
        condition().tokenizer(condition().tokenizer(byte_tokenizer()))


# ---- lengths

INSTRUCTION = LengthInstruction(at_most="At most {words}: {prompt}", at_least="At least {words}: {prompt}")


@settings(deadline=None, max_examples=300)
@given(words=st.integers(1, 400), kept=st.booleans(), seed=st.integers(0, 10**6), spread=st.floats(1.01, 5))
def test_bounds_are_kept_or_failed(words: int, kept: bool, seed: int, spread: float) -> None:
    most, bound = LengthInstruction(spread=spread).bound(words, kept, str(seed))
    assert (words <= bound if most else words >= bound) == kept
    assert max(1, words / spread - 1) <= bound <= words * spread + 1


def test_neither_side_nor_size_tells_whether_it_is_kept() -> None:
    """Over 4,000 draws: both sides half of the time, kept or not, and bounds above the length half of the time."""
    for kept in (True, False):
        found = [INSTRUCTION.bound(100, kept, str(i)) for i in range(4000)]
        assert sum(most for most, _ in found) / 4000 == pytest.approx(0.5, abs=0.03)
        assert sum(bound > 100 for _, bound in found) / 4000 == pytest.approx(0.5, abs=0.03)
        assert (min(b for _, b in found), max(b for _, b in found)) == (50, 200)


def test_a_row_is_four_branches() -> None:
    """x and y_w, x¹ that y_w's four words fail, x² that y_l's two keep to, x and y_l. The last user turn asks."""
    [row] = INSTRUCTION.pairs(PAIR)  # type: ignore[misc]
    good, dog = PAIR.completions
    assert row.completions == (good, good, dog, dog)
    assert row.scores == (9.0, 9.0, 2.5, 2.5)
    assert row.prompts is not None
    assert (row.prompts[0], row.prompts[3]) == (PAIR.prompt, PAIR.prompt)
    for asked, words, kept in ((row.prompts[1], 4, False), (row.prompts[2], 2, True)):
        side, bound, rest = str(asked).partition(":")[0].split()[1], str(asked).split()[2][:-1], str(asked)[-10:]
        assert rest == PAIR.prompt
        assert (words <= int(bound) if side == "most" else words >= int(bound)) == kept
    [many] = INSTRUCTION.pairs(Record(CONVERSATION, ("a b c", "d"), None))  # type: ignore[misc]
    assert many.prompts is not None
    for asked in many.prompts[1:3]:
        assert asked[:3] == CONVERSATION[:3]
        assert asked[3].role == "user"
        assert asked[3].content.endswith(": He")  # type: ignore[union-attr]
    again, other = INSTRUCTION.pairs(PAIR), LengthInstruction(seed=1).pairs(PAIR)
    assert again == [row]
    assert other != [row]


@pytest.mark.parametrize("at_the_end", [False, True])
@pytest.mark.parametrize("form", [ChatFormat, TurnFormat], ids=["policy", "reward model"])
def test_a_group_holds_every_branch_as_it_would_be_alone(form: Callable[..., Any], at_the_end: bool) -> None:
    """Each branch's tokens are those of its own prompt and completion, encoded apart; what prompts have in common
    is in the group once, which with the instruction at the end is nearly all of them."""
    instruction = INSTRUCTION
    if at_the_end:
        instruction = LengthInstruction(at_most="{prompt} At most {words}.", at_least="{prompt} At least {words}.")
    chat = form(byte_tokenizer())
    groups, counts = encode_records([PAIR], chat, "pair", instruction.pairs)
    [group], [row] = groups, instruction.pairs(PAIR)  # type: ignore[misc]
    assert counts.used == 1
    assert len(group.completions) == len(group.prompt_suffixes) == 4
    for prompt, completion, ids, found in zip(
        row.prompts or (), row.completions, group.prompts, group.completions, strict=True
    ):
        alone = chat.encode(Record(prompt, (completion,)))
        assert (ids + found) == alone.prompt + alone.completions[0]
    assert group.completions[0] == group.completions[1]
    assert group.completions[2] == group.completions[3]
    shared = chat.tokenizer.decode(group.prompt)
    assert shared == ("<|im_start|>user\nWhich cat?" if at_the_end else "<|im_start|>user\n")
    plain = form(byte_tokenizer()).encode(PAIR)
    assert [ids + c for ids, c in zip(group.prompts, group.completions, strict=True)][::3] == [
        plain.prompt + c for c in plain.completions
    ]


def test_an_encoders_rows_hold_every_branch() -> None:
    tokenizer = wordpiece_tokenizer()
    form = PairFormat(tokenizer)
    record = Record("the cat", ("sat on the mat", "sat"))
    instruction = LengthInstruction(at_most="on {words} the {prompt}", at_least="the {words} on {prompt}")
    [group], [row] = encode_records([record], form, "pair", instruction.pairs)[0], instruction.pairs(record)  # type: ignore[misc]
    for prompt, completion, ids, found in zip(
        row.prompts or (), row.completions, group.prompts, group.completions, strict=True
    ):
        assert [*ids, *found] == tokenizer(prompt, completion)["input_ids"]
    widest = max(map(len, group.prompts))
    for length, reason in (
        (group.longest - 1, "cut completion under a length instruction"), (widest + 1, "prompt too long"),
    ):  # fmt: skip
        short = PairFormat(tokenizer, TruncationSettings(max_length=length, min_completion_length=1))
        assert encode_records([record], short, "pair", instruction.pairs)[1].dropped == {reason: 1}


def test_a_cut_completion_has_no_length() -> None:
    """Four words cut to two tokens: whether they keep to a bound can't be said, and the row is dropped."""
    instruction = LengthInstruction(at_most="{words} {prompt}", at_least="{words} {prompt}")
    room = TruncationSettings(max_length=60, min_completion_length=2)
    long = Record("q", ("the cat sat there " * 12, "a dog"), None, "f:9")
    chat = ChatFormat(byte_tokenizer(), room)
    assert encode_records([long], chat, "pair")[1].truncated == 1
    _, counts = encode_records([long], chat, "pair", instruction.pairs)
    assert counts.dropped == {"cut completion under a length instruction": 1}


def test_oldest_turns_go_from_every_prompt_alike() -> None:
    record = Record(CONVERSATION, ("the good cat sat", "a dog"))
    whole, _ = encode_records([record], ChatFormat(byte_tokenizer()), "pair", INSTRUCTION.pairs)
    room = TruncationSettings(max_length=whole[0].longest - 1, min_completion_length=64)
    chat = ChatFormat(byte_tokenizer(), copy.copy(room))
    [group], _ = encode_records([record], chat, "pair", INSTRUCTION.pairs)
    for prompt in group.prompts:
        text = chat.tokenizer.decode(prompt)
        assert "Ho" not in text
        assert "Be kind." in text
        assert text.endswith("He<|im_end|>\n<|im_start|>assistant\n")


def test_instructions_that_ask_for_nothing() -> None:
    for wrong in ({"at_most": "{prompt}"}, {"at_least": "{words} words"}):
        with pytest.raises(ValidationError, match=r"must name \{words\} and \{prompt\} once each"):
            LengthInstruction(**wrong)  # type: ignore[arg-type]

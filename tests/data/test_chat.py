"""Which tokens a model reads and which it learns: the end of turn always among them, the prompt never cut."""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from trimtab.data.chat import ChatFormat, Dropped, TruncationSettings, load_tokenizer
from trimtab.data.groups import CompletionGroup
from trimtab.data.message import strip_last_pair
from trimtab.data.records import Message, Record, read_records
from trimtab.data.special_tokens import agree_on_special_tokens
from trimtab.errors import TrimtabError

IM_END, ENDOFTEXT, NEWLINE = 151645, 151643, 198
Make = Callable[..., Any]


def group_of(chat: ChatFormat, record: Record) -> CompletionGroup:
    group = chat.encode(record)
    assert isinstance(group, CompletionGroup)
    return group


@pytest.fixture(scope="session", params=["instruct", "base"])
def qwen(request: pytest.FixtureRequest, qwen_tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Qwen2.5's tokenizer. The base model's has eos <|endoftext|>, which is its pad token too."""
    if request.param == "instruct":
        return load_tokenizer(str(qwen_tokenizer_dir))
    folder = tmp_path_factory.mktemp("qwen") / "base"
    shutil.copytree(qwen_tokenizer_dir, folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token": "<|endoftext|>"}))
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == ENDOFTEXT
    return tokenizer


# ---- templates


def test_end_of_turn_is_supervised_and_the_newline_behind_it_is_not(qwen: Any) -> None:
    """ "Hello world" is 9707, 1879. ChatML goes on with <|im_end|> and a newline: the first is learned."""
    chat = ChatFormat(qwen)
    assert chat.end_of_turn == IM_END
    assert chat.stop_tokens[0] == IM_END
    assert set(chat.stop_tokens) == {IM_END, qwen.eos_token_id}
    group = group_of(chat, Record("Hi", ("Hello world", "Hello")))
    assert group.completions == ((9707, 1879, IM_END), (9707, IM_END))
    assert qwen.decode(group.prompt).endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_real_rows_against_the_template(qwen: Any, shared_data: Path) -> None:
    """Every completion of 200 real pairs: the prompt as transformers renders it, then what the template adds.

    The whole conversation, tokenized by transformers at once, is prompt + completion + newline. Only
    where the answer's first token merges with the prompt's last newline may the tokens differ, and
    then the text is still the same.
    """
    chat = ChatFormat(qwen, TruncationSettings(max_length=10**6))
    rows = read_records(str(shared_data / "data" / "ultrafeedback" / "eval.jsonl"))
    merged = 0
    for row in rows:
        turns = [{"role": "user", "content": row.prompt}]
        prompt = qwen.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        for text in row.completions:
            group = group_of(chat, Record(row.prompt, (text,)))
            [completion] = group.completions
            assert list(group.prompt) == prompt
            assert group.truncated == (False,)
            assert completion[-1] == IM_END
            assert completion.count(IM_END) == 1
            answered = [*turns, {"role": "assistant", "content": text}]
            whole = qwen.apply_chat_template(answered, return_dict=False)
            if whole[: len(prompt)] == prompt:
                assert [*prompt, *completion, NEWLINE] == whole
            else:
                merged += 1
                shown = qwen.apply_chat_template(answered, tokenize=False)
                assert qwen.decode([*prompt, *completion, NEWLINE]) == unicodedata.normalize("NFC", shown)
    assert merged < len(rows) / 10


def test_answer_that_merges_with_the_prompt(qwen: Any) -> None:
    """ "\\n" after the prompt's newline would be one token, "\\n\\n": the prompt's tokens stay what they are."""
    chat = ChatFormat(qwen)
    plain, merging = (group_of(chat, Record("Hi", (text,))) for text in ("Hello", "\nHello"))
    assert merging.prompt == plain.prompt
    assert merging.completions == ((NEWLINE, 9707, IM_END),)


LLAMA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
)


def test_one_bos_when_template_and_tokenizer_both_write_it(make_tokenizer: Make) -> None:
    """The tokenizer puts <s> before every text, and so does the template: a row has exactly one."""
    tokenizer = make_tokenizer(LLAMA_TEMPLATE, ("<s>", "</s>"), writes_bos="<s>", bos_token="<s>", eos_token="</s>")
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id == 0
    chat = ChatFormat(tokenizer)
    conversation = (Message("user", "Hi"), Message("assistant", "Ho"), Message("user", "He"))
    for prompt in ("Hi", conversation):
        group = group_of(chat, Record(prompt, ("yes", "no")))
        assert group.prompt[0] == 0
        assert group.prompt.count(0) == 1
        assert all(0 not in c and c[-1] == 1 for c in group.completions)
    assert tokenizer.decode(group.prompt) == "<s>[INST] Hi [/INST] Ho </s>[INST] He [/INST]"
    # The blank before </s> goes to the template; the answer is learned as it stands, then the end.
    assert tokenizer.decode(group.completions[0]) == " yes</s>"


def test_one_bos_without_a_template(make_tokenizer: Make) -> None:
    tokenizer = make_tokenizer(None, ("<s>", "</s>"), writes_bos="<s>", bos_token="<s>", eos_token="</s>")
    for prompt in ("the cat", ""):
        group = group_of(ChatFormat(tokenizer), Record(prompt, (" sat", "the dog")))
        assert tokenizer.decode(group.prompt) == "<s>" + prompt
        assert [tokenizer.decode(c) for c in group.completions] == [" sat</s>", "the dog</s>"]


def test_tokenizer_that_closes_every_text(make_tokenizer: Make) -> None:
    """T5-style tokenizers end a text with eos: a prompt must not be closed, nor a completion closed twice."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer(None, ("</s>",), eos_token="</s>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 0)])
    assert tokenizer("the cat")["input_ids"][-1] == 0
    group = group_of(ChatFormat(tokenizer), Record("the cat", (" sat",)))
    assert tokenizer.decode(group.prompt) == "the cat"
    assert tokenizer.decode(group.completions[0]) == " sat</s>"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}",
            "does not show",
        ),
        ("{{ raise_exception('no such turn') }}", r"refuses a conversation \(user → assistant\): no such turn"),
        ("{{ messages[0]['content'] | unheard_of }}", "cannot be read: line 1: No filter named 'unheard_of'"),
        ("{% for m in messages %}\n{{ m.content }", "cannot be read: line 2: unexpected '}'"),
        ("{{ messages[5].content }}", "refuses a conversation"),
        ("{# says nothing #}", "does not show"),
    ],
)
def test_templates_that_cannot_be_trained_on(template: str, message: str, make_tokenizer: Make) -> None:
    with pytest.raises(TrimtabError, match=message):
        ChatFormat(make_tokenizer(template))


def test_template_that_refuses_one_row(make_tokenizer: Make) -> None:
    """Many templates want user and assistant to alternate; the error names the turns."""
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    chat = ChatFormat(make_tokenizer(refusal + make_tokenizer().chat_template))
    with pytest.raises(TrimtabError, match=r"refuses a conversation \(system → user\): no system turn"):
        chat.encode(Record((Message("system", "s"), Message("user", "u")), ("a",)))


# ---- no template


@cache
def stories_chat(folder: Path) -> ChatFormat:
    return ChatFormat(load_tokenizer(str(folder / "models" / "stories260k")), TruncationSettings(max_length=10**6))


@pytest.fixture
def stories(shared_data: Path) -> ChatFormat:
    """A Llama-style sentencepiece tokenizer with neither template nor automatic BOS; it puts a space
    before every text, and has a token for each byte."""
    return stories_chat(shared_data)


def test_joined_as_they_are(stories: ChatFormat) -> None:
    """ "Once upon a" is ▁Once ▁upon ▁a, and " time there" is ▁time ▁there; eos is 2."""
    group = group_of(stories, Record("Once upon a", (" time there",)))
    assert group.prompt == (403, 407, 261)
    assert group.completions == ((378, 383, 2),)


def test_word_that_is_cut_between_prompt_and_completion(stories: ChatFormat) -> None:
    """ "a time" as a whole is other tokens than "a ti" + "me": no space may come between them."""
    group = group_of(stories, Record("Once upon a ti", ("me there", " me")))
    assert [stories.tokenizer.decode([*group.prompt, *c[:-1]]) for c in group.completions] == [
        "Once upon a time there",
        "Once upon a ti me",
    ]


TEXT = st.text(st.sampled_from("ab ét\n.,'1→猫"), max_size=12)


@given(prompt=TEXT, completion=TEXT.filter(str.strip))
@settings(max_examples=200, deadline=None)
def test_any_text_is_joined_as_it_is(prompt: str, completion: str, shared_data: Path) -> None:
    """Decoded, prompt and completion are the two strings; the prompt's tokens do not depend on the completion."""
    chat = stories_chat(shared_data)
    group = group_of(chat, Record(prompt, (completion,)))
    assert list(group.prompt) == chat.prompt_ids(prompt)
    assert group.completions[0][-1] == chat.end_of_turn
    if prompt:
        assert chat.tokenizer.decode([*group.prompt, *group.completions[0][:-1]]) == prompt + completion
    else:
        assert chat.tokenizer.decode(group.completions[0][:-1]) == completion


def test_conversation_without_a_template(stories: ChatFormat) -> None:
    with pytest.raises(TrimtabError, match=r"rows.jsonl:3: .*no chat template.*--tokenizer"):
        stories.encode(Record((Message("user", "Hi"),), ("Ho",), None, "rows.jsonl:3"))


# ---- truncation. ChatML over bytes: the text of a prompt can be read off its tokens.

WORDY = TruncationSettings(max_length=10**6)


def shown(*turns: tuple[str, str]) -> str:
    body = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)
    return body + "<|im_start|>assistant\n"


def test_completion_is_cut_at_its_end(make_tokenizer: Make) -> None:
    """With room for all but one token of the longer completion, that token, the end of turn, goes."""
    tokenizer = make_tokenizer()
    record = Record("Hi", ("abcdefgh", "xyz"), (2.0, 1.0))
    whole = group_of(ChatFormat(tokenizer), record)
    assert [len(c) for c in whole.completions] == [9, 4]
    n = len(whole.prompt)

    exact = group_of(ChatFormat(tokenizer, TruncationSettings(max_length=n + 9)), record)
    assert exact == whole
    assert exact.truncated == (False, False)

    short = TruncationSettings(max_length=n + 8, min_completion_length=1)
    cut = group_of(ChatFormat(tokenizer, short), record)
    assert cut.prompt == whole.prompt
    assert cut.completions == (whole.completions[0][:8], whole.completions[1])
    assert cut.truncated == (True, False)
    assert ChatFormat(tokenizer).end_of_turn not in cut.completions[0]
    assert cut.scores == (2.0, 1.0)


def test_oldest_turns_go_first_and_the_system_turn_stays(make_tokenizer: Make) -> None:
    tokenizer = make_tokenizer()
    prompt = (
        Message("system", "short"),
        Message("user", "first"),
        Message("assistant", "one"),
        Message("user", "second"),
        Message("assistant", "two"),
        Message("user", "third"),
    )
    record = Record(prompt, ("yes",))
    lengths = [
        len(group_of(ChatFormat(tokenizer, WORDY), Record(p, ("yes",))).prompt)
        for p in (prompt, prompt[:1] + prompt[3:], prompt[:1] + prompt[5:])
    ]

    def prompt_shown(max_length: int) -> Any:
        group = ChatFormat(tokenizer, TruncationSettings(max_length=max_length)).encode(record)
        return group if isinstance(group, Dropped) else tokenizer.decode(group.prompt)

    system, last = ("system", "short"), ("user", "third")
    middle = (("user", "second"), ("assistant", "two"))
    first = (("user", "first"), ("assistant", "one"))
    # The completion takes 4 tokens: y, e, s and the end of turn.
    assert prompt_shown(lengths[0] + 4) == shown(system, *first, *middle, last)
    assert prompt_shown(lengths[0] + 3) == shown(system, *middle, last)
    assert prompt_shown(lengths[1] + 4) == shown(system, *middle, last)
    assert prompt_shown(lengths[1] + 3) == shown(system, last)
    assert prompt_shown(lengths[2] + 4) == shown(system, last)
    assert prompt_shown(lengths[2] + 3) == Dropped("prompt too long", "")


def test_what_is_dropped(make_tokenizer: Make) -> None:
    tokenizer = make_tokenizer()
    chat = ChatFormat(tokenizer)
    n = len(chat.prompt_ids("Hi"))
    tight = ChatFormat(tokenizer, TruncationSettings(max_length=n + 3, min_completion_length=3))
    assert chat.encode(Record("Hi", ("a", " \n"), origin="f:1")) == Dropped("empty completion", "f:1")
    assert chat.encode(Record("Hi", ("a", "a"), origin="f:2")) == Dropped("identical completions", "f:2")
    assert tight.encode(Record("Hi", ("abcx", "abcy"), origin="f:3")) == Dropped(
        "identical after truncation", "f:3"
    )
    assert tight.encode(Record("Hi!", ("abcd",), origin="f:4")) == Dropped("prompt too long", "f:4")
    assert chat.encode(Record(" ", ("a",), origin="f:5")) == Dropped("empty prompt", "f:5")
    silent = (Message("user", "Hi"), Message("assistant", ""), Message("user", "Hi?"))
    assert chat.encode(Record(silent, ("a",), origin="f:6")) == Dropped("empty turn", "f:6")
    twice = (Message("user", "Hi"), Message("user", "Hi?"))
    assert chat.encode(Record(twice, ("a",), origin="f:7")) == Dropped("turns out of order", "f:7")
    # One completion, or three of which two are equal, still teach something.
    assert isinstance(chat.encode(Record("Hi", ("a",))), CompletionGroup)
    assert isinstance(chat.encode(Record("Hi", ("a", "a", "b"))), CompletionGroup)


@pytest.fixture(scope="session")
def small(make_tokenizer: Make) -> Any:
    return make_tokenizer()


WORDS = st.text(st.sampled_from("abc é\n"), min_size=1, max_size=30).filter(str.strip)
"""Blank turns are dropped before: test_what_is_dropped."""
TURNS = st.builds(
    lambda system, pairs, last: tuple(
        Message(role, text)
        for role, text in (
            *([("system", system)] if system else []),
            *((r, t) for u, a in pairs for r, t in (("user", u), ("assistant", a))),
            ("user", last),
        )
    ),
    st.none() | WORDS,
    st.lists(st.tuples(WORDS, WORDS), max_size=3),
    WORDS,
)


@given(
    prompt=TURNS,
    completions=st.lists(WORDS, min_size=1, max_size=3),
    max_length=st.integers(2, 160),
    least=st.integers(1, 40),
)
@settings(max_examples=200, deadline=None)
def test_truncation_of_any_conversation(
    prompt: tuple[Message, ...], completions: list[str], max_length: int, least: int, small: Any
) -> None:
    """A prompt is never cut, only shortened by whole exchanges, and by no more than needed; a completion is
    never empty, and is a prefix of what it would be without a limit."""
    record = Record(prompt, tuple(completions))
    free = ChatFormat(small, WORDY)
    system = prompt[:1] if prompt[0].role == "system" else ()
    starts = [i for i, m in enumerate(prompt) if m.role == "user"]
    # By definition: the candidates, longest first, and the first of them that leaves room enough.
    candidates = [prompt] + [system + prompt[i:] for i in starts[1:]]
    needs = min(least, max(len(free.completion_ids(prompt, c, free.prompt_ids(prompt))) for c in completions))
    fits = next((c for c in candidates if max_length - len(free.prompt_ids(c)) >= needs), None)

    found = ChatFormat(small, TruncationSettings(max_length=max_length, min_completion_length=least)).encode(record)
    if isinstance(found, Dropped):
        assert fits is None or found.reason.startswith("identical")
        return
    assert fits is not None
    assert list(found.prompt) == free.prompt_ids(fits)
    for text, completion, truncated in zip(completions, found.completions, found.truncated, strict=True):
        full = free.completion_ids(fits, text, list(found.prompt))
        assert completion == tuple(full[: max_length - len(found.prompt)])
        assert completion
        assert truncated == (completion[-1] != free.end_of_turn)
        assert len(found.prompt) + len(completion) <= max_length


def test_shortening_starts_at_a_user_turn() -> None:
    """Tool and assistant turns in between go with the exchange that they belong to."""
    a, b = Message("user", "a"), Message("user", "b")
    tool, answer = Message("tool", "t"), Message("assistant", "x")
    assert strip_last_pair((a, answer, tool, answer, b)) == (b,)
    assert strip_last_pair((a, answer)) is None
    assert strip_last_pair((Message("system", "s"),)) is None


# ---- loading and saving


def test_folder_without_tokenizer_files(tmp_path: Path) -> None:
    """transformers makes an empty tokenizer of a folder that has a config only: nothing would be learned."""
    Qwen2Config().save_pretrained(tmp_path)
    with pytest.raises(TrimtabError, match=r"no tokenizer files.*--tokenizer"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{broken")
    with pytest.raises(TrimtabError, match=r"cannot be read.*--tokenizer"):
        load_tokenizer(str(tmp_path))


def test_saved_model_stops_where_its_template_ends_a_turn(make_tokenizer: Make, tmp_path: Path) -> None:
    """A base model: tokenizer, config and generation config all say <|endoftext|> (1), its template ends turns
    with <|im_end|> (0). The model's head is zero, so that greedy decoding gives token 0 for ever: it must stop
    at once when saved and loaded again, and did not before."""
    tokenizer = make_tokenizer(eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
    torch.nn.init.zeros_(model.lm_head.weight)

    def generated(model: Any) -> list[int]:
        prompt = torch.tensor([[5, 6]])
        out = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=5)
        return list(out[0, 2:])

    assert generated(model) == [0] * 5
    chat = ChatFormat(tokenizer)
    for _ in range(2):  # every checkpoint is saved like that
        agree_on_special_tokens(chat, model)
        tokenizer.save_pretrained(tmp_path)
        model.save_pretrained(tmp_path)
    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)
    assert tokenizer.eos_token_id == model.config.eos_token_id == 0
    # Generation stops at the base model's own end too.
    assert model.generation_config.eos_token_id == [0, 1]
    assert tokenizer.pad_token_id == model.config.pad_token_id == model.generation_config.pad_token_id == 1
    assert generated(model) == [0]


def test_tokenizer_without_pad_gets_its_eos(make_tokenizer: Make, tiny_model_dir: Make) -> None:
    """pad == eos: completions keep their end, since what is supervised is decided by position."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir())
    chat = ChatFormat(make_tokenizer(eos_token="<|im_end|>"))
    agree_on_special_tokens(chat, model)
    assert chat.tokenizer.pad_token_id == chat.tokenizer.eos_token_id == model.config.pad_token_id == 0
    assert group_of(chat, Record("Hi", ("yes",))).completions[0][-1] == 0

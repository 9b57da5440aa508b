"""Chat templates that do not do as they should: no generation prompt, one that opens the answer, one that refuses a
row, one without an end."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from conftest import CHATML
from trimtab.audit.findings import examine
from trimtab.data import templates
from trimtab.data.chat import ChatFormat, TruncationSettings
from trimtab.data.encoding import remark_lines
from trimtab.data.groups import CompletionGroup
from trimtab.data.pairs import TurnFormat
from trimtab.data.records import Message, Record
from trimtab.data.split_groups import encode_records
from trimtab.data.splits import DataSettings
from trimtab.errors import TrimtabError

Make = Callable[..., Any]
TURNS = CHATML.split("{% if add")[0]
THINKS = TURNS + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
STRIPS = (  # as DeepSeek-R1's: reasoning is left out of every answer
    "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>{{ m.content }}{% else %}<|endoftext|>"
    "{{ m.content.split('</think>')[-1] }}<|im_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|endoftext|><think>\n{% endif %}"
)
MISTRAL = (  # the system's text is in the last user's turn, if that comes last
    "{% if messages[0].role == 'system' %}{% set said = messages[0].content %}{% set rest = messages[1:] %}"
    "{% else %}{% set rest = messages %}{% endif %}<|im_start|>"
    "{% for m in rest %}{% if m.role == 'user' %}{% if loop.last and said is defined %}[INST] {{ said }}\n\n"
    "{{ m.content }}[/INST]{% else %}[INST] {{ m.content }}[/INST]{% endif %}{% else %} {{ m.content }}<|im_end|>"
    "{% endif %}{% endfor %}"
)
PROMPT = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def shown(chat: ChatFormat, record: Record) -> list[str]:
    """The texts of a prompt and its completions."""
    group = chat.encode(record)
    assert isinstance(group, CompletionGroup)
    return [chat.tokenizer.decode(ids) for ids in (group.prompt, *group.completions)]


# ---- no generation prompt


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "{# #}", "x"])
def test_header_is_the_prompts(end: str, make_tokenizer: Make) -> None:
    """A template that knows no add_generation_prompt: the assistant's header goes to the prompt, in what is saved
    too; what it renders without one does not change."""
    tokenizer = make_tokenizer(TURNS + end)
    chat = ChatFormat(tokenizer)
    tail = end.strip("{# }\n")  # jinja leaves out a line break behind a block
    first = f"<|im_start|>user\nHi<|im_end|>\n{tail}"
    if not tail:
        assert shown(chat, Record("Hi", ("a", "b"))) == [PROMPT, "a<|im_end|>", "b<|im_end|>"]
    turns = [{"role": "user", "content": "Hi"}]
    render = chat.tokenizer.apply_chat_template
    assert render(turns, tokenize=False) == tokenizer.apply_chat_template(turns, tokenize=False) == first
    if not tail:
        assert render(turns, tokenize=False, add_generation_prompt=True) == PROMPT
        assert ChatFormat(chat.tokenizer).tokenizer is chat.tokenizer
    assert tokenizer.chat_template == TURNS + end  # the caller's own stays


def test_header_of_named_templates(make_tokenizer: Make) -> None:
    tokenizer = make_tokenizer({"default": TURNS, "tool_use": CHATML})
    chat = ChatFormat(tokenizer)
    assert shown(chat, Record("Hi", ("a",)))[0] == PROMPT
    assert chat.tokenizer.chat_template["tool_use"] == CHATML
    with pytest.raises(TrimtabError, match=r"several chat templates \(a, b\), and none that is called default"):
        ChatFormat(make_tokenizer({"a": TURNS, "b": CHATML}))


def test_blank_before_an_answer_is_no_header(make_tokenizer: Make) -> None:
    """Llama 2's: the model writes the blank itself."""
    template = "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"  # noqa: E501
    tokenizer = make_tokenizer(template)
    chat = ChatFormat(tokenizer)
    assert chat.tokenizer is tokenizer
    assert shown(chat, Record("Hi", ("a",))) == ["[INST] Hi [/INST]", " a<|im_end|>"]


def test_headers_that_differ(make_tokenizer: Make) -> None:
    template = TURNS.replace("<|im_start|>", "<|im_start|>{{ loop.index }}")
    with pytest.raises(TrimtabError, match="not the same header before every answer"):
        ChatFormat(make_tokenizer(template))


# ---- a generation prompt that opens the answer


def test_opened_answer(make_tokenizer: Make) -> None:
    """Without an answer, the prompt is what is asked with. An answer that begins with the opening goes on from it,
    with or without its line break; one without has the template's own prompt, and is counted."""
    chat = ChatFormat(make_tokenizer(THINKS))
    opened = PROMPT + "<think>\n"
    assert chat.tokenizer.decode(chat.prompt_ids("Hi")) == opened
    assert shown(chat, Record("Hi", ()))[0] == opened
    assert not chat.remarks
    assert shown(chat, Record("Hi", ("<think>\nr</think>a",))) == [opened, "r</think>a<|im_end|>"]
    assert shown(chat, Record("Hi", ("<think>r</think>a",))) == [opened, "r</think>a<|im_end|>"]
    assert shown(chat, Record("Hi", ("a", "b"))) == [PROMPT, "a<|im_end|>", "b<|im_end|>"]
    mixed = Record("Hi", ("<think>\nr</think>a", "b"))
    assert shown(chat, mixed) == [PROMPT, "<think>\nr</think>a<|im_end|>", "b<|im_end|>"]
    _, counts = encode_records([mixed], chat, "pair")
    assert counts.remarks == {"answers without the template's opening '<think>'": 1}
    assert remark_lines(counts.remarks, "text") == {
        "answers without the template's opening '<think>'": "1 rows with answers without the template's opening "
        "'<think>': they are trained on without it, and generation begins with it."
    }
    reward = TurnFormat(make_tokenizer(THINKS))
    before, (after,) = reward.tokens("Hi", ["a"])
    assert reward.tokenizer.decode(before + after) == PROMPT + "a<|im_end|>\n"


def test_opening_that_is_a_special_token(make_tokenizer: Make) -> None:
    tokenizer = make_tokenizer(THINKS)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    chat = ChatFormat(tokenizer)
    group = chat.encode(Record("Hi", ("<think>\nr</think>a",)))
    assert isinstance(group, CompletionGroup)
    think, close = tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    assert think in group.prompt
    assert close in group.completions[0]
    assert not chat.remarks & {"control tokens in answers"}


def test_reasoning_that_the_template_leaves_out(make_tokenizer: Make) -> None:
    """What was written after the opening is learned as written; without an opening the loss is counted."""
    chat = ChatFormat(make_tokenizer(STRIPS))
    start = "<|im_start|>Hi<|endoftext|>"
    assert shown(chat, Record("Hi", ("<think>\nr</think>a",))) == [start + "<think>\n", "r</think>a<|im_end|>"]
    unopened = ChatFormat(make_tokenizer(STRIPS.replace("<think>\n", "")))
    assert shown(unopened, Record("Hi", ("r</think>a",))) == [start, "a<|im_end|>"]
    assert unopened.remarks == {"answers that the template does not show as they are written"}
    assert shown(unopened, Record("Hi", ("a ",))) == [start, "a <|im_end|>"]
    assert not unopened.remarks


def test_prompt_that_an_answer_changes(make_tokenizer: Make) -> None:
    """The prompt is the one that is asked with, system text and all; the answer has its blank."""
    chat = ChatFormat(make_tokenizer(MISTRAL))
    turns = (
        Message("system", "Be kind."),
        Message("user", "Hi"),
        Message("assistant", "Ho"),
        Message("user", "He "),
    )
    start = "<|im_start|>[INST] Hi[/INST] Ho<|im_end|>[INST] Be kind.\n\nHe [/INST]"
    assert shown(chat, Record(turns, ("a", "b"))) == [start, " a<|im_end|>", " b<|im_end|>"]
    assert shown(chat, Record("Hi", ("a",))) == ["<|im_start|>[INST] Hi[/INST]", " a<|im_end|>"]


def test_other_templates(make_tokenizer: Make) -> None:
    """The end of turn outside of the generation block; an answer that is rendered otherwise when it is the last; a
    default system prompt; a trimmed text; no end of turn at all; an end that begins with a line break token."""
    generation = (
        "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n"
        "{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>\n"
        "{% else %}<|im_start|>user\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    assert shown(ChatFormat(make_tokenizer(generation)), Record("Hi", ("a",))) == [PROMPT, "a<|im_end|>"]
    last = CHATML.replace(
        "{{ m['content'] }}", "{{ '<think></think>' if loop.last and m.role == 'assistant' }}{{ m['content'] }}"
    )
    assert shown(ChatFormat(make_tokenizer(last)), Record("Hi", ("a",))) == [PROMPT, "<think></think>a<|im_end|>"]
    default = "{% if messages[0].role != 'system' %}S{% endif %}" + CHATML
    assert shown(ChatFormat(make_tokenizer(default)), Record("Hi", ("a",))) == ["S" + PROMPT, "a<|im_end|>"]
    trims = CHATML.replace("m['content']", "m['content'] | trim")
    assert shown(ChatFormat(make_tokenizer(trims)), Record(" Hi ", (" a\n",))) == [PROMPT, "a<|im_end|>"]
    endless = "{% for m in messages %}{{ '\\n' + m.role }}: {{ m.content }}{% endfor %}{% if add_generation_prompt %}{{ '\\nassistant:' }}{% endif %}"  # noqa: E501
    assert shown(ChatFormat(make_tokenizer(endless)), Record("Hi", ("a",))) == [
        "\nuser: Hi\nassistant:",
        " a<|im_end|>",
    ]
    spaced = make_tokenizer(CHATML.replace("<|im_end|>", "\n<|im_end|>"))
    spaced.add_tokens(["\n"])
    assert ChatFormat(spaced).end_of_turn == 0
    dated = make_tokenizer("{{ strftime_now('%Y')[:2] }}" + CHATML)
    assert shown(ChatFormat(dated), Record("Hi", ("a",)))[0] == "20" + PROMPT
    with pytest.raises(TrimtabError, match="does not show the assistant's text"):
        ChatFormat(make_tokenizer(CHATML.replace("m['content']", "m['content'] | upper")))


# ---- rows that a template refuses

REFUSES = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role\n not supported') }}{% endif %}" + CHATML
)
SYSTEM = Record((Message("system", "s"), Message("user", "u")), ("a", "b"), origin="f:1")


def test_refused_rows_are_dropped_by_reason(make_tokenizer: Make) -> None:
    reason = "the chat template refuses a conversation (system → user): System role not supported"
    settings = DataSettings(train="f", bad_rows="drop")
    for form in (ChatFormat(make_tokenizer(REFUSES), settings), TurnFormat(make_tokenizer(REFUSES), settings)):
        groups, counts = encode_records([SYSTEM, Record("q", ("a", "b"))], form, "pair")
        assert len(groups) == 1
        assert counts.dropped == {reason: 1}
        assert counts.dropped_rows == [f"f:1: {reason}"]
    stops = ChatFormat(make_tokenizer(REFUSES), DataSettings(train="f"))
    with pytest.raises(TrimtabError) as caught:
        encode_records([SYSTEM], stops, "pair")
    assert str(caught.value) == f"f:1: {reason}. data.bad_rows=drop leaves such rows out."


def test_audit_counts_them(make_tokenizer: Make, write_jsonl: Make, tmp_path: Any) -> None:
    tokenizer = make_tokenizer(REFUSES)
    tokenizer.add_tokens(["<think>"])
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    system = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    answers = {"chosen": "<think>a", "rejected": "b<|im_end|>c"}
    rows = write_jsonl(
        [{"prompt": "q", **answers}, {"prompt": system, **answers}, {"prompt": "<|im_end|>", **answers}]
    )
    found = examine(DataSettings(train=str(rows)), str(tmp_path / "tokenizer")).splits["train"]
    assert {reason: one.count for reason, one in found.dropped.items()} == {
        "the chat template refuses a conversation (system → user): System role not supported": 1
    }
    assert {name: (one.count, one.examples) for name, one in found.remarks.items()} == {
        "control tokens in answers": (2, ["rows.jsonl:1", "rows.jsonl:3"]),
        "control tokens in prompts": (1, ["rows.jsonl:3"]),
        "other added tokens in answers": (2, ["rows.jsonl:1", "rows.jsonl:3"]),
    }


# ---- limits


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "an endless loop"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}", "an endless loop"),
        ("{% macro f(n) %}{% for i in range(99999) %}{{ f(n) }}{% endfor %}{% endmacro %}{{ f(1) }}", "recursion"),
        ("{{ 'x' * 30000000 }}", "writes 30,000,"),
        ("{{ 'x' * 10**14 }}", "MemoryError"),
    ],
)
@pytest.mark.parametrize("aside", [False, True])
def test_limits(template: str, message: str, aside: bool, make_tokenizer: Make, monkeypatch: Any) -> None:
    """In any thread; and nothing is interrupted afterwards."""
    monkeypatch.setattr(templates, "SECONDS", 0.3)
    monkeypatch.setattr(templates, "POLL", 0.05)
    found: list[Any] = []

    def make() -> None:
        try:
            ChatFormat(make_tokenizer(template + CHATML))
        except TrimtabError as error:
            found.append(error)

    started = time.monotonic()
    if aside:
        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
    else:
        make()
    assert message in str(found[0])
    assert "\n" not in str(found[0])
    assert time.monotonic() - started < 20
    deadline = time.monotonic() + 0.2
    while time.monotonic() < deadline:
        sum(range(100))


def test_a_profiler_may_watch() -> None:
    """Python's own, in a process of its own: a template is rendered, and what follows runs."""
    code = (
        "import cProfile; from trimtab.data.templates import limited; p = cProfile.Profile(); p.enable(); "
        "print(limited(lambda: sum(i for i in range(9))))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip() == "36"


def test_long_conversations_are_no_runaways(make_tokenizer: Make, monkeypatch: Any) -> None:
    monkeypatch.setattr(templates, "CHARACTERS", 100)
    chat = ChatFormat(make_tokenizer(), TruncationSettings(max_length=10**6))
    assert isinstance(chat.encode(Record("a b" * 7_000, ("c",))), CompletionGroup)


def test_dropped_is_not_for_templates_without_an_end(make_tokenizer: Make, monkeypatch: Any) -> None:
    """Every row would take its ten seconds."""
    monkeypatch.setattr(templates, "POLL", 0.05)
    endless = "{% for i in range(99999 if messages[0].content == 'go' else 1) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"  # noqa: E501
    chat = ChatFormat(make_tokenizer(endless + CHATML), DataSettings(train="f", bad_rows="drop"))
    monkeypatch.setattr(templates, "SECONDS", 0.2)
    limited, waits = templates.limited, []

    def counted(work: Callable[[], str]) -> str:
        try:
            return limited(work)
        except TrimtabError:
            waits.append(work)
            raise

    monkeypatch.setattr(templates, "limited", counted)
    with pytest.raises(TrimtabError, match="f:3: the chat template takes more than"):
        encode_records([Record("go", ("a",), origin="f:3")], chat, "first")
    assert len(waits) == 1, "nor is a row of it waited for twice"

"""A Modelfile, by which Ollama takes a GGUF file.

Ollama does not run a file's Jinja chat template: it looks for one like it among those that it knows, and without
one passes the prompt on bare. So the template is written in Go's language, from what the Jinja one renders; where
that is more than texts between the turns, the Modelfile says that it has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trimtab.data.tokenizer import special_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SYSTEM, FIRST, ANSWER, SECOND = "\ue001", "\ue002", "\ue003", "\ue004"
"""Stand for what is said: characters that no template has."""
TURNS = [("system", SYSTEM), ("user", FIRST), ("assistant", ANSWER), ("user", SECOND)]
NONE = "# TEMPLATE: the file's chat template cannot be written as one of Ollama's. Ollama looks for one like it."


def modelfile(file: str, tokenizer: PreTrainedTokenizerBase, stops: Sequence[int]) -> str:
    """The text of a Modelfile. file: the GGUF file's name, beside it. stops: the tokens that end an answer."""
    template = go_template(tokenizer)
    lines = [f"FROM ./{file}", NONE if template is None else f'TEMPLATE """{template}"""']
    lines += [f'PARAMETER stop "{text}"' for text in special_texts(tokenizer, stops) if '"' not in text]
    return "\n".join(lines) + "\n"


def go_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The chat template in Go's language; None where it does more than put texts between what is said."""
    if not tokenizer.chat_template:
        return None
    try:
        parts = _between(_rendered(tokenizer, TURNS), [SYSTEM, FIRST, ANSWER, SECOND])
        alone = _between(_rendered(tokenizer, TURNS[1:]), [FIRST, ANSWER, SECOND])
        short = _between(_rendered(tokenizer, TURNS[1:2]), [FIRST])
    except Exception:  # a template may raise whatever it likes, for want of system turns as well
        return None
    if parts is None or alone is None or short is None:
        return None
    before_system, before_first, before_answer, before_second, end = parts
    if alone[1:] != [before_answer, before_second, end] or short != [alone[0], end] or before_answer != end:
        return None
    start = alone[0]
    begun = tokenizer.bos_token
    if begun and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]:  # llama.cpp puts it there
        before_system, start = before_system.removeprefix(begun), start.removeprefix(begun)
    if any("{{" in text or '"""' in text for text in (*parts, start)):
        return None
    return (
        f"{{{{ if .System }}}}{before_system}{{{{ .System }}}}{before_first}{{{{ else }}}}{start}{{{{ end }}}}"
        f'{{{{ range .Messages }}}}{{{{ if eq .Role "user" }}}}{{{{ .Content }}}}{before_answer}'
        f'{{{{ else if eq .Role "assistant" }}}}{{{{ .Content }}}}{before_second}{{{{ end }}}}{{{{ end }}}}'
    )


def _rendered(tokenizer: PreTrainedTokenizerBase, turns: Sequence[tuple[str, str]]) -> str:
    messages = [{"role": role, "content": content} for role, content in turns]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _between(text: str, marks: Sequence[str]) -> list[str] | None:
    """The texts around the marks; None where one is not there once, or in another order."""
    parts = []
    for mark in marks:
        before, found, text = text.partition(mark)
        if not found or mark in text:
            return None
        parts.append(before)
    return [*parts, text]

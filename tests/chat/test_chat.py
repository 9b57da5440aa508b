"""A conversation: pieces of text that are whole, a history, commands; through a pipe, and at a terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from trimtab import cli, notices
from trimtab.chat.session import Session
from trimtab.chat.settings import ChatSettings
from trimtab.chat.speaker import Answer, Pieces, Speaker
from trimtab.errors import TrimtabError
from trimtab.evaluation.generate import generate
from trimtab.evaluation.settings import Decoding
from trimtab.study.sources import resolve_model

PROMPT = "I have a small garden. Should I get a cat or a pump?"


@pytest.fixture(autouse=True)
def _as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_quiet", [False])


# ---- pieces


def pieces_of(tokenizer: Any, ids: list[int], before: tuple[int, ...] = ()) -> list[str]:
    written: list[str] = []
    pieces = Pieces(tokenizer, [0], written.append, before)
    pieces.put(torch.tensor([[5, 6, 7]]))
    for token in ids:
        pieces.put(torch.tensor([token]))
    pieces.end()
    assert "".join(written) == pieces.text
    return written


def test_characters_of_several_tokens_come_whole(make_tokenizer: Callable[..., Any]) -> None:
    """By bytes: each of "é" and the emoji is several tokens. Spaces and new lines come with what follows them."""
    tokenizer = make_tokenizer()
    text = "é 🙂\n  the cat,\n\n人 x "
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) > len(text) - 6
    written = pieces_of(tokenizer, [*ids, 0])
    assert "".join(written) == text
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(written)
    assert written[:3] == ["é", " 🙂", "\n  the"]
    assert pieces_of(tokenizer, [*ids[:1], 0]) == ["\N{REPLACEMENT CHARACTER}"], "what never becomes whole is shown"


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """▁ for spaces, bytes for what has no token, and no space in front of a text: as Llama 2's."""
    words = ["<unk>", *(f"<0x{i:02X}>" for i in range(256)), "▁The", "▁cat", "▁▁▁", "s", "▁sat", "\n"]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    strip = decoders.Strip(" ", 1, 0)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def test_spaces_of_sentencepiece_stay() -> None:
    """Also behind a new line, where transformers' TextStreamer begins anew and loses one; and a completion keeps
    the space that it begins with."""
    tokenizer = sentencepiece_like()

    def ids(*words: str) -> list[int]:
        return [tokenizer.convert_tokens_to_ids(word) for word in words]

    written = pieces_of(tokenizer, ids("▁The", "▁cat", "s", "\n", "▁▁▁", "▁sat", "<0xE4>", "<0xBA>", "<0xBA>"))
    assert written == ["The", " cat", "s", "\n    sat", "人"]
    assert pieces_of(tokenizer, ids("▁sat"), tuple(ids("▁The", "▁cat"))) == [" sat"]


# ---- answers


@pytest.fixture(scope="module")
def speakers() -> list[Speaker]:
    settings = ChatSettings(max_new_tokens=40)
    return [Speaker(name, resolve_model(name), settings) for name in ("sandbox:instruct", "sandbox:base")]


@pytest.fixture
def fresh(speakers: list[Speaker]) -> list[Speaker]:
    for speaker in speakers:
        speaker.settings = ChatSettings(max_new_tokens=40)
        speaker.history.reset()
        speaker.history.system = None
        speaker.restart(0)
    return speakers


def test_a_greedy_answer_is_what_an_evaluation_gets(fresh: list[Speaker]) -> None:
    speaker, written = fresh[0], list[str]()
    answer = speaker.answer(PROMPT, written.append)
    greedy = Decoding(strategy="greedy", max_new_tokens=40)
    [expected] = generate(speaker.policy, speaker.chat, [PROMPT], greedy, speaker.stops)
    assert answer.text == "".join(written) == expected.text
    assert len(written) > 5, "it came in pieces"
    assert answer.ending == ("stop" if expected.terminated else "cap")
    assert [turn.role for turn in speaker.history.turns] == ["user", "assistant"]


def test_a_seed_repeats_and_the_history_is_heard(fresh: list[Speaker]) -> None:
    speaker = fresh[0]
    speaker.settings = ChatSettings(max_new_tokens=12, temperature=1.5, top_p=1.0)
    before = torch.get_rng_state()
    first = [speaker.answer(PROMPT, lambda _: None).text for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert first[0] != first[1], "another turn, other numbers"
    speaker.history.reset()
    speaker.restart(0)
    assert [speaker.answer(PROMPT, lambda _: None).text for _ in range(2)] == first
    asked = speaker.chat.prompt_ids(speaker.history.asked_with("And now?"))
    assert speaker.chat.tokenizer.decode(asked).count(PROMPT) == 2
    speaker.history.system = "Be brief."
    assert speaker.history.asked_with("x")[0].content == "Be brief."


def test_what_leaves_no_room_is_said_and_the_turn_is_not_kept(fresh: list[Speaker]) -> None:
    speaker = fresh[0]
    room, length = speaker.room, len(speaker.chat.prompt_ids(speaker.history.asked_with(PROMPT)))
    try:
        speaker.room = length + 3
        answer = speaker.answer(PROMPT, lambda _: None)
        assert (answer.ending, answer.tokens) == ("room", 3)
        with pytest.raises(TrimtabError, match=rf"no room in its {length + 3} positions. /undo or /reset"):
            speaker.answer(PROMPT, lambda _: None)
        assert len(speaker.history.turns) == 2
    finally:
        speaker.room = room


def test_a_model_decodes_as_it_is_meant_to_be_and_without_a_template_completes(
    tiny_model_dir: Callable[..., Path], make_tokenizer: Callable[..., Any]
) -> None:
    tokenizer = make_tokenizer(None)
    folder = tiny_model_dir(vocab_size=len(tokenizer), initializer_range=0.5, eos_token_id=None, pad_token_id=None)
    for file in folder.glob("*token*"):
        file.unlink()
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(folder)
    own = {"do_sample": True, "temperature": 0.9, "top_k": 7, "repetition_penalty": 1.3}
    (folder / "generation_config.json").write_text(json.dumps(own))
    speaker = Speaker("mine", str(folder), ChatSettings(max_new_tokens=9))
    assert speaker.in_words == (
        "sampling at temperature 0.9, top-k 7, seed 0, repetition_penalty 1.3 (the model's own); at most 9 tokens"
    )
    assert not speaker.converses
    seen: list[Any] = []
    original = speaker.model.generate
    speaker.model.generate = lambda **given: seen.append(given) or original(**given)
    answer = speaker.answer("the cat", lambda _: None)
    config = seen[0]["generation_config"]
    assert (config.temperature, config.top_k, config.repetition_penalty, config.top_p) == (0.9, 7, 1.3, 1.0)
    assert seen[0]["input_ids"].tolist() == [tokenizer("the cat")["input_ids"]]
    assert answer.tokens == 9
    assert speaker.history.turns == []


# ---- commands


class Parrot:
    """Says what it is told; `loud` to shout."""

    def __init__(self, name: str, loud: bool = False) -> None:
        from trimtab.chat.history import History

        self.name, self.loud, self.converses, self.room = name, loud, True, 99
        self.history, self.settings, self.seed = History(), ChatSettings(max_new_tokens=5), 0

    def restart(self, seed: int) -> None:
        self.seed = seed

    def answer(self, text: str, write: Callable[[str], None]) -> Answer:
        if text == "fail":
            raise TrimtabError("no room")
        write(text.upper() if self.loud else text)
        self.history.add(text, text)
        return Answer(text, 1, "cap" if text == "long" else "stop")


def session(lines: str, *parrots: Parrot) -> str:
    out = io.StringIO()
    Session(parrots, io.StringIO(lines), out, asks=False).run()  # type: ignore[arg-type]
    return out.getvalue()


def test_commands(capsys: pytest.CaptureFixture[str]) -> None:
    one = Parrot("one")
    said = session("/system Be kind.\nfirst\nsecond\n/undo\n\n/seed 7\n/seed x\n/what\n/help\nlong\nfail\n", one)
    assert said == "first\nsecond\nlong\n\n"
    assert one.history.system == "Be kind."
    assert [turn.content for turn in one.history.turns] == ["first", "first", "long", "long"]
    assert one.seed == 7
    told = capsys.readouterr().err
    for line in ("undone: second\n", "/seed x: expected a whole number", "/what: no such command", "/reset "):
        assert line in told
    assert "(cut at 5 tokens (--max-new-tokens))\n" in told
    assert told.endswith("error: no room\n")
    session("/reset\n/undo\n/system\n", one)
    assert (one.history.turns, one.history.system) == ([], None)
    assert "there is no turn to undo" in capsys.readouterr().err


def test_two_models_each_with_its_own_history() -> None:
    quiet, loud = Parrot("quiet"), Parrot("loud", loud=True)
    assert session("hi\n/exit\nnever\n", quiet, loud) == "[quiet] hi\n[loud] HI\n"
    assert [len(parrot.history.turns) for parrot in (quiet, loud)] == [2, 2]


def test_lines_that_go_on_slashes_and_what_would_move_the_cursor() -> None:
    assert session("one\\\ntwo\r\n//exit\na\x1b[2Jb\x07\n", Parrot("one")) == "one\ntwo\n/exit\na[2Jb\n"


# ---- as a process


def as_command(*words: str) -> NoReturn:
    """In a process of its own that was just forked, with its streams in place: what `trimtab` does."""
    code = 1
    try:
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
        torch.set_num_threads(1)  # threads do not outlive a fork
        sys.argv = ["trimtab", *words]
        cli.main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def test_in_a_terminal_ctrl_c_stops_an_answer_and_ctrl_d_leaves(tiny_model_dir: Callable[..., Path]) -> None:
    """A model that never stops, at a prompt on a pseudo-terminal."""
    folder = tiny_model_dir(initializer_range=0.2, eos_token_id=None)
    child, terminal = pty.fork()
    if child == 0:
        as_command("chat", str(folder), "--max-new-tokens", "3000")
    shown, at = b"", 0

    def until(expected: bytes, again: bytes = b"") -> None:
        """Reads on until this is shown, behind what was waited for before. again: what is pressed once more where
        nothing comes of it: Python's input() does not see a signal of its first moments until the next key."""
        nonlocal shown, at
        ends = time.monotonic() + 200
        while expected not in shown[at:]:
            if select.select([terminal], [], [], 2)[0]:
                shown += os.read(terminal, 4096)
            else:
                assert time.monotonic() < ends, shown
                os.write(terminal, again)
        at = shown.index(expected, at) + len(expected)

    try:
        until(b"> ")
        os.write(terminal, b"Hello\n")
        until(b"Hello\r\n")
        while len(shown) < at + 40:  # it streams: far from 3,000 tokens
            shown += os.read(terminal, 4096)
        os.write(terminal, b"\x03")
        until(b"(stopped)")
        until(b"> ")
        os.write(terminal, b"\x03")
        until(b"Ctrl-D or /exit leaves.", again=b"\x03")
        until(b"> ")
        os.write(terminal, b"\x04")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        child = 0
    finally:
        os.close(terminal)
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert b"Traceback" not in shown


def test_through_a_pipe(fresh: list[Speaker], tmp_path: Path) -> None:
    """Answers alone on standard output; what is said of them on standard error."""
    reader, writer = os.pipe()
    os.write(writer, f"{PROMPT}\n/exit\n".encode())
    os.close(writer)
    child = os.fork()
    if child == 0:
        for stream, file in ((1, "out"), (2, "err")):
            os.dup2(os.open(tmp_path / file, os.O_WRONLY | os.O_CREAT), stream)
        os.dup2(reader, 0)
        as_command("chat", "sandbox:instruct", "--max-new-tokens", "40")
    os.close(reader)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (tmp_path / "out").read_text() == fresh[0].answer(PROMPT, lambda _: None).text + "\n"
    said = (tmp_path / "err").read_text()
    assert "sandbox:instruct: greedy (the model names no sampling); at most 40 tokens.\n" in said

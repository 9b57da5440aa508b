"""A model that answers in a conversation, token by token.

transformers' generate draws: it knows everything that a model's generation_config.json may ask for, and one answer
at a time need not be fast. It runs in the main thread, so that Ctrl-C ends it.
"""

from __future__ import annotations

import copy
import datetime
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from trimtab.chat.history import History
from trimtab.chat.settings import ChatSettings
from trimtab.data.chat import ChatFormat, load_tokenizer
from trimtab.data.day import control_tokens_of_model, day_of_model, values_of_model
from trimtab.data.message import Turns
from trimtab.data.rows import TruncationSettings
from trimtab.devices import autocast, best_device
from trimtab.errors import TrimtabError
from trimtab.evaluation.generate import stop_tokens
from trimtab.evaluation.own_decoding import OwnDecoding, decoding_asked, own_decoding
from trimtab.evaluation.settings import Decoding
from trimtab.models.families import without_router_logits
from trimtab.models.inputs import feeding
from trimtab.models.loading import load_policy
from trimtab.models.settings import resolve_precision, trusting
from trimtab.models.vocabulary import check_ids, check_tokenizer
from trimtab.rollout.vllm import seed_of
from trimtab.stopping import Stopped

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer makes of the first bytes of a character."""
SEEN = 8
"""Tokens before a completion that it is read with: whether it begins with a space depends on them."""


class Pieces(BaseStreamer):  # type: ignore[misc]
    """The text of new tokens, piece by piece; together the pieces are the text of all.

    All new tokens are decoded each time: a character may take several tokens, and a tokenizer may leave out the
    first space of what it decodes. What may still change is held back: the bytes of a character that is not whole,
    and spaces at the end. stops: tokens that are no text. before: tokens in front, which are no part of the text.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stops: Sequence[int],
        write: Callable[[str], None],
        before: Sequence[int] = (),
    ) -> None:
        self.tokenizer, self.stops, self.write = tokenizer, frozenset(stops), write
        self.before, self.tokens, self.stopped = list(before), list[int](), False
        self.start = len(self._decoded())
        self.text = ""
        self.is_prompt = True

    def _decoded(self) -> str:
        return str(self.tokenizer.decode(self.before + self.tokens, skip_special_tokens=True))

    def put(self, value: Tensor) -> None:
        """Takes a token; of the first call the prompt, which is no part of the answer."""
        if self.is_prompt:
            self.is_prompt = False
            return
        for token in value.flatten().tolist():
            if token in self.stops:
                self.stopped = True
            else:
                self.tokens.append(token)
        text = self._decoded()[self.start :]
        whole = text.rstrip(UNFINISHED).rstrip()
        self._write(whole if text != whole else text)

    def end(self) -> None:
        """Writes what was held back."""
        self._write(self._decoded()[self.start :])

    def _write(self, text: str) -> None:
        if text.startswith(self.text) and len(text) > len(self.text):
            self.write(text[len(self.text) :])
            self.text = text


@dataclass(frozen=True)
class Answer:
    """text: without what ended it. ending: its stop token, the cap on tokens, the model's positions or Ctrl-C."""

    text: str
    tokens: int
    ending: Literal["stop", "cap", "room", "interrupted"]


class Speaker:
    """One model, and what was said with it. name: as it was asked for. place: its folder or hub name."""

    def __init__(self, name: str, place: str, settings: ChatSettings, tokenizer: str | None = None) -> None:
        self.name, self.settings = name, settings
        values, control = values_of_model(place), control_tokens_of_model(place)
        reading = TruncationSettings(chat_template_kwargs=values, control_tokens=control)
        self.chat = ChatFormat(load_tokenizer(tokenizer or place, settings), reading)
        if self.chat.asks_for_today:
            self.chat = self.chat.with_day(day_of_model(place) or datetime.date.today())
        self.policy = load_policy(place, trusting(settings))
        self.device = best_device()
        self.policy.to(self.device).eval()
        self.model = self.policy.model
        check_tokenizer(self.chat.tokenizer, self.model, f"model {place}")
        self.precision = resolve_precision("auto", self.device) if self.device.type == "cuda" else "float32"
        self.stops = stop_tokens(self.model, self.chat)
        self.room: int | None = getattr(self.model.config, "max_position_embeddings", None)
        self.own = own_decoding(place)
        self.history = History()
        self.seed, self.answers = settings.seed, 0

    @property
    def converses(self) -> bool:
        """Whether it has a chat template; without one it completes texts."""
        return self.chat.has_template

    def _decoding(self) -> tuple[Decoding, str]:
        # Everything else of the model's own is followed here, by transformers' generate.
        value, whose = decoding_asked(self.settings.decoding, OwnDecoding(self.own.sampling))
        return Decoding.model_validate(value), whose

    @property
    def in_words(self) -> str:
        """How it decodes, in a line."""
        decoding, whose = self._decoding()
        seed = self.seed if decoding.strategy == "sample" else None
        words = decoding.model_copy(update={"seed": self.seed}).in_words if seed is not None else decoding.in_words
        others = "".join(f", {name} {value}" for name, value in self.own.others.items())
        return f"{words}{others} ({whose}); at most {self.settings.max_new_tokens} tokens"

    def restart(self, seed: int) -> None:
        """Another seed for all answers from now on."""
        self.seed, self.answers = seed, 0

    def answer(self, text: str, write: Callable[[str], None]) -> Answer:
        """Answers a turn, or completes a text where there is no template, and keeps both. write: takes each piece
        as soon as it is there. What was said before Ctrl-C is an answer too.

        TrimtabError where the conversation has no room left in the model's positions, or its template refuses it;
        then the turn is as if it had not been said.
        """
        prompt: str | Turns = self.history.asked_with(text) if self.converses else text
        ids = self.chat.prompt_ids(prompt)
        check_ids([ids], self.model, f"model {self.name}")
        room = self.settings.max_new_tokens if self.room is None else self.room - len(ids)
        if room < 1:
            what = "/undo or /reset makes room." if self.history.turns else "Say less."
            raise TrimtabError(
                f"{self.name}: the conversation has {len(ids)} tokens, which leaves no room in its {self.room} "
                f"positions. {what}"
            )
        pieces = Pieces(self.chat.tokenizer, self.stops, write, () if self.converses else ids[-SEEN:])
        interrupted = self._stream(ids, min(room, self.settings.max_new_tokens), pieces)
        self.answers += 1
        if self.converses and (pieces.text or not interrupted):
            self.history.add(text, pieces.text)
        cut = "room" if room < self.settings.max_new_tokens else "cap"
        ending = "interrupted" if interrupted else "stop" if pieces.stopped else cut
        return Answer(pieces.text, len(pieces.tokens), ending)  # type: ignore[arg-type]

    @torch.no_grad()
    def _stream(self, ids: list[int], most: int, pieces: Pieces) -> bool:
        """Whether Ctrl-C ended it."""
        decoding, _ = self._decoding()
        config = copy.deepcopy(self.model.generation_config)
        ends = {"eos_token_id": self.stops, "pad_token_id": self.stops[0]}
        config.update(max_new_tokens=most, max_length=None, **{"num_beams": 1, **ends, **decoding.arguments()})
        ids_1T = torch.tensor([ids], device=self.device)
        cuda = [self.device] if self.device.type == "cuda" else []
        with (
            torch.random.fork_rng(devices=cuda),
            autocast(self.device, self.precision),
            feeding(self.model, len(ids), None),
        ):
            torch.manual_seed(seed_of(self.seed, self.answers))
            try:
                self.model.generate(
                    input_ids=ids_1T,
                    attention_mask=torch.ones_like(ids_1T),
                    generation_config=config,
                    streamer=pieces,
                    **without_router_logits(self.model.config),
                )
            except KeyboardInterrupt as stop:
                if isinstance(stop, Stopped) and stop.signum != signal.SIGINT:
                    raise
                pieces.end()
                return True
        return False

"""How a model is meant to be sampled: what its generation_config.json says, as transformers' generate reads it.

Only `trimtab generate` and `trimtab chat` ask: a comparison decodes all its models alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from trimtab.data.adapters import bases_of
from trimtab.errors import TrimtabError
from trimtab.evaluation.settings import Decoding
from trimtab.files import read_json
from trimtab.json_types import JsonObject, JsonValue
from trimtab.notices import warn

FILE = "generation_config.json"
TOP_K = 50
"""What transformers' generate draws from where a model that samples names no top_k."""
NEUTRAL: Mapping[str, JsonValue] = {
    "repetition_penalty": 1.0, "min_p": 0.0, "typical_p": 1.0, "no_repeat_ngram_size": 0, "num_beams": 1,
    "min_new_tokens": 0, "min_length": 0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "penalty_alpha": 0.0,
    "encoder_repetition_penalty": 1.0, "suppress_tokens": [], "begin_suppress_tokens": [], "bad_words_ids": [],
    "sequence_bias": {}, "forced_bos_token_id": None, "forced_eos_token_id": None, "guidance_scale": 1.0,
    "exponential_decay_length_penalty": None, "dola_layers": None, "top_h": None,
}  # fmt: skip
"""What else changes what transformers' generate gives, with the values by which it does not."""


@dataclass(frozen=True)
class OwnDecoding:
    """sampling: temperature, top_p and top_k of a model that is to be sampled; None: it is to be decoded greedily.
    others: what else it asks for, and the house's sampler does not do."""

    sampling: JsonObject | None = None
    others: JsonObject = field(default_factory=dict)


def own_decoding(source: str) -> OwnDecoding:
    """What a folder's or hub model's generation_config.json says; an adapter's base's, where it has none. One that
    cannot be read is as none, with a warning."""
    for place in [source, *bases_of(source)]:
        try:
            stored = _stored(place)
        except TrimtabError as error:
            warn(f"{str(error).rstrip('.')}; decoding is greedy")
            return OwnDecoding()
        if stored:
            return read_own(stored)
    return OwnDecoding()


def read_own(stored: Mapping[str, JsonValue]) -> OwnDecoding:
    """The same of what such a file holds."""
    others = {name: value for name, value in stored.items() if name in NEUTRAL}
    others = {name: value for name, value in others.items() if value is not None and value != NEUTRAL[name]}
    if not stored.get("do_sample") or stored.get("temperature") == 0:
        return OwnDecoding(None, others)
    asked = {name: stored.get(name) for name in ("temperature", "top_p", "top_k")}
    defaults: JsonObject = {"temperature": 1.0, "top_p": 1.0, "top_k": TOP_K}
    sampling: JsonObject = {name: defaults[name] if value is None else value for name, value in asked.items()}
    try:
        Decoding.model_validate(sampling)
    except ValidationError as error:
        wrong = error.errors()[0]
        warn(f"{FILE}: {wrong['loc'][0]}: {wrong['msg']}; decoding is greedy")
        return OwnDecoding(None, others)
    return OwnDecoding(sampling, others)


def _stored(source: str) -> JsonObject:
    folder = Path(source)
    if folder.is_dir():
        return read_json(folder / FILE, "") if (folder / FILE).is_file() else {}
    from transformers import GenerationConfig  # a hub's model: it is in transformers' cache, or is fetched

    try:
        return dict(GenerationConfig.from_pretrained(source).to_dict())
    except (OSError, ValueError):
        return {}


def decoding_asked(named: Mapping[str, JsonValue], own: OwnDecoding) -> tuple[JsonObject, str]:
    """The settings of Decoding for what a command names, completed by the model's own; and in words whose they are.

    Who names a temperature, a top_p or a top_k wants samples.
    """
    samples = bool({"temperature", "top_p", "top_k"} & named.keys())
    strategy = named.get("strategy") or ("sample" if samples or own.sampling is not None else "greedy")
    base: JsonObject = dict(own.sampling or {}) if strategy == "sample" else {}
    value = {**base, "strategy": strategy, **named}
    whose = "as set" if "strategy" in named or (samples and own.sampling is None) else "the model's own"
    if own.sampling is None and strategy == "greedy" and "strategy" not in named:
        whose = "the model names no sampling"
    elif samples and own.sampling is not None and whose == "the model's own":
        whose = "as set, else the model's own"
    left = ", ".join(f"{name}={value}" for name, value in own.others.items())
    return value, f"{whose}; not followed: {left}" if left and whose != "as set" else whose

"""Model folders as their source has them: names that transformers 4 reads beside those that transformers 5 writes.

transformers 5 writes `rope_parameters` and `dtype` alone. transformers 4, and what is built on it, does not know
the first: it takes rope theta for 10,000 and the scaling for none, without a word. Here a saved config keeps every
name that its source came with, and gets the older names of what it holds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import GenerationConfig

from trimtab.data.adapters import bases_of
from trimtab.data.tokenizer import json_of
from trimtab.json_types import JsonObject

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


CONFIG, GENERATION = "config.json", "generation_config.json"
NOT_KEPT = {"_name_or_path", "auto_map", "quantization_config", "transformers_version", "torch_dtype", "dtype"}
"""Names of a source's config that are not true of what was saved, or that saving decides."""
BEGIN_AND_END = ("bos_token_id", "eos_token_id", "pad_token_id")


def save_folder(model: PreTrainedModel, folder: Path, source: str) -> None:
    """Writes a transformers model: weights, config and generation config. source: where it was loaded from."""
    source = [source, *bases_of(source)][-1]
    generation = getattr(model, "generation_config", None)
    try:
        if generation is not None:  # transformers refuses to write some that it reads
            model.generation_config = GenerationConfig()
        model.save_pretrained(folder, safe_serialization=True)
    finally:
        if generation is not None:
            model.generation_config = generation
    said = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    _write(folder / CONFIG, readable_by_all(said, json_of(source, CONFIG), model.config))
    if generation is not None and (folder / GENERATION).is_file():
        _write(folder / GENERATION, _generation(generation, json_of(source, GENERATION)))


def _write(file: Path, value: JsonObject) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _generation(generation: GenerationConfig, came: JsonObject) -> JsonObject:
    """generation_config.json: the source's own, with the tokens that begin, end and pad."""
    ours = json.loads(generation.to_json_string(use_diff=True))
    return (came or ours) | {name: ours[name] for name in BEGIN_AND_END if name in ours}


def readable_by_all(said: JsonObject, came: JsonObject, config: PretrainedConfig | None = None) -> JsonObject:
    """A saved config with all names of the source's, and with the names that transformers 4 has for what it says.

    config: the one in memory: a name of the source's whose value is another there is not kept.
    """
    held = vars(config) if config is not None else {}
    kept = {
        name: value
        for name, value in came.items()
        if name not in said and name not in NOT_KEPT and held.get(name, value) == value
    }
    whole = older_names(said) | kept | said
    if "dtype" in said:
        whole["torch_dtype"] = said["dtype"]
    inner = whole.get("text_config")
    if isinstance(inner, dict):
        before = came.get("text_config")
        whole["text_config"] = readable_by_all(inner, before if isinstance(before, dict) else {})
    return whole


def older_names(said: JsonObject) -> JsonObject:
    """What `rope_parameters` is called in transformers 4."""
    rope = said.get("rope_parameters")
    if not isinstance(rope, dict):
        return {}
    flat, local = rope, None
    if isinstance(rope.get("full_attention"), dict):  # one for each kind of layer
        flat, local = rope["full_attention"], rope.get("sliding_attention")
    theta, part = flat.get("rope_theta"), flat.get("partial_rotary_factor")
    names: JsonObject = {}
    if said.get("model_type") == "gpt_neox":
        names = {"rotary_emb_base": theta, "rotary_pct": part}
    elif said.get("model_type", "").startswith("modernbert"):
        names = {"global_rope_theta": theta, "local_rope_theta": (local or {}).get("rope_theta")}
    else:
        names = {"rope_theta": theta, "partial_rotary_factor": part}
        if local is not None:
            names["rope_local_base_freq"] = local.get("rope_theta")
    if flat.get("rope_type", "default") != "default":
        own = {"rope_theta", "partial_rotary_factor"}
        if said.get("model_type") == "phi3":  # takes these three fields only
            own = set(flat) - {"type", "short_factor", "long_factor"}
            flat = {"type": flat["rope_type"], **flat}
        names["rope_scaling"] = {name: value for name, value in flat.items() if name not in own}
    return {name: value for name, value in names.items() if value is not None}

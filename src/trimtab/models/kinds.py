"""What kind of model a folder or hub name is, and whether it serves: decided by its config's architectures, an
adapter's by its task type too. Asked before weights are read, by every command, and by `plan`, which reads none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trimtab.data.adapters import CONFIG, adapter_config, bases_of, is_adapter, model_weights
from trimtab.data.trust import TrustSettings, refuse_pickles, refuse_remote_code
from trimtab.errors import TrimtabError, reason_of
from trimtab.models.gguf.place import model_place
from trimtab.models.hub import reach_hub
from trimtab.models.settings import Role
from trimtab.models.weights import check_files

if TYPE_CHECKING:
    from transformers import PretrainedConfig


KindName = Literal[
    "causal", "classifier", "encoder", "backbone", "encoder-decoder", "multimodal", "other task", "unknown"
]
WORDS: dict[KindName, str] = {
    "causal": "a causal language model",
    "classifier": "a sequence classifier",
    "encoder": "an encoder",
    "backbone": "a backbone without a head, such as embeddings are made with",
    "encoder-decoder": "an encoder-decoder",
    "multimodal": "a model of images or sound beside text",
    "other task": "a model for another task",
    "unknown": "a model of an unknown kind",
}
SERVES: dict[Role, set[KindName]] = {
    "policy": {"causal", "unknown"},
    "start of a reward model": {
        "causal", "classifier", "encoder", "backbone", "multimodal", "unknown",
    },
    "reward model": {"classifier"},
}  # fmt: skip
ADVICE: dict[tuple[Role, KindName], str] = {
    ("policy", "classifier"): (
        "A reward model goes to --reward or --judge; here name the language model that it judges, such as "
        "sft's best/."
    ),
    ("policy", "multimodal"): (
        "Save its language model alone (transformers: …ForCausalLM.from_pretrained(folder), then "
        "save_pretrained) and name that."
    ),
    ("reward model", "causal"): (
        "Its scoring head would be random: name a trained reward model. (Nemotron's -HF ones are language models: "
        "reward kind nemotron_local; one that is asked yes or no: reward kind yes_no.)"
    ),
}
TASKS: dict[str, KindName] = {
    "CAUSAL_LM": "causal",
    "SEQ_CLS": "classifier",
    "SEQ_2_SEQ_LM": "encoder-decoder",
    "FEATURE_EXTRACTION": "backbone",
}
PROMPTS = {"PREFIX_TUNING", "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "ADAPTION_PROMPT", "CPT"}
"""Adapters that put something before the text: no weights can hold them."""
OTHER_FORMATS = {"*.onnx": "ONNX", "*.h5": "TensorFlow", "*.msgpack": "Flax"}
READ = ("model.safetensors", "pytorch_model.bin")
"""What transformers calls weights, or the file that says which files they are in."""
ONE_WAY = {"reformer", "xlm"}
"""Model types with a masked language model that are decoders all the same."""


@dataclass(frozen=True)
class Kind:
    """What a model's folder or hub name holds.

    name: what it is as a whole. architecture: of the model, or of the adapter's base. task: an adapter's. config:
    the model's, transformers'. base: where that is; the source itself, but for an adapter.
    """

    name: KindName
    architecture: str
    task: str | None
    config: PretrainedConfig
    base: str

    @property
    def description(self) -> str:
        """For messages: "a causal language model (LlamaForCausalLM)"."""
        what = WORDS[self.name]
        if self.base and self.task is not None:
            return f"an adapter of {what} ({self.task or 'no task type'} on {self.architecture})"
        return f"{what} ({self.architecture})"


def read_config(source: str, trust: TrustSettings | None = None) -> PretrainedConfig:
    """The config of a folder or a hub name; of an adapter's folder its base's. Weights are not looked for."""
    trust = trust or TrustSettings()
    source = model_place(source)
    place = ([source, *bases_of(source)])[-1]
    refuse_remote_code(place, trust)
    file = Path(place) / "config.json"
    try:
        if not Path(place).exists():
            reach_hub(place)
        if file.is_file() and not isinstance(json.loads(file.read_text(encoding="utf-8")), dict):
            raise ValueError("config.json holds no settings")
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(place, trust_remote_code=trust.trust_remote_code)
    except Exception as error:  # the libraries raise whatever they like
        reason = reason_of(error)
        if not Path(place).exists():
            reason = f"there is no such folder here, and from the hub: {reason}"
            raise TrimtabError(f"model {_named(source, place)}: {reason}") from error
        which = "config.json" if file.exists() else "config"
        raise TrimtabError(f"model {_named(source, place)}: its {which} cannot be read: {reason}") from error


def _named(source: str, place: str) -> str:
    return source if place == source else f"{place}, the base of adapter {source} (base_model_name_or_path)"


def kind_of(source: str, trust: TrustSettings | None = None) -> Kind:
    """What a folder or hub name holds, by its config alone. TrimtabError where that cannot be read."""
    source = model_place(source)
    config = read_config(source, trust)
    names = list(getattr(config, "architectures", None) or ())
    architecture = ", ".join(names) or str(getattr(config, "model_type", "no architecture"))
    own = _kind_of_config(config, names)
    if not is_adapter(source):
        return Kind(own, architecture, None, config, source)
    task = adapter_config(source).task
    name = own if task is None else TASKS.get(task, "other task")
    if name == "causal" and own not in SERVES["policy"]:
        raise TrimtabError(
            f"adapter {source}: of task {task or 'unknown'}, but its base {bases_of(source)[-1]} is {WORDS[own]} "
            f"({architecture}). Put the model that it was trained on into base_model_name_or_path of its {CONFIG}."
        )
    return Kind(name, architecture, task or "", config, bases_of(source)[-1])


def _kind_of_config(config: PretrainedConfig, names: Iterable[str]) -> KindName:
    """The first architecture decides; without any, what transformers would make of the model type."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    name = next(iter(names), "")
    if getattr(config, "is_encoder_decoder", False):
        return "encoder-decoder"
    if name.endswith("ForSequenceClassification"):
        return "classifier"
    if any(getattr(config, f"{part}_config", None) is not None for part in ("vision", "audio", "image", "speech")):
        return "multimodal"
    model_type = getattr(config, "model_type", "")
    # Without is_decoder these see what comes after a token, and transformers says so in a warning only.
    both_ways = model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and model_type not in ONE_WAY
    if both_ways and not getattr(config, "is_decoder", False):
        return "other task" if "For" in name and not name.endswith(("MaskedLM", "CausalLM")) else "encoder"
    if "CausalLM" in name or "LMHead" in name:
        return "causal"
    if "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):
        return "causal"
    if name.endswith("Model"):
        return "backbone"
    if "For" in name:
        return "other task"
    return "causal" if not name and model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else "unknown"


def check_model_source(source: str, trust: TrustSettings | None = None, role: Role | None = None) -> None:
    """Says early what is wrong with a model's folder, and whether it serves for a role; None: any. Of a hub name
    only the config is looked at, and that only for a role.

    trust: what the folder may do; None: neither unpickle nor run code.
    """
    trust, source = trust or TrustSettings(), model_place(source)
    places = [(place, _named(source, place)) for place in [source, *bases_of(source)]]
    for place, named in places:
        _check_folder(place, trust, named)
    if role is not None:
        check_role(kind_of(source, trust), source, role)
    for place, named in places:
        if Path(place).is_dir():
            _check_weights(place, named)


HEADS = "reward_heads"
"""In the config of a reward model with several heads, which are its labels: how many."""


def check_role(kind: Kind, source: str, role: Role) -> None:
    """TrimtabError where a model of this kind is nothing for the role."""
    labels = getattr(kind.config, "num_labels", 1)
    if kind.name not in SERVES[role]:
        advice = ADVICE.get((role, kind.name), f"Name {'a trained one' if role == 'reward model' else 'another'}.")
        no = {"policy": "no language model to train or to sample from"}.get(role, f"no {role}")
        raise TrimtabError(f"model {source}: {no} but {kind.description}. {advice}")
    if kind.name == "classifier" and kind.task is None and labels != getattr(kind.config, HEADS, 1):
        raise TrimtabError(
            f"model {source}: a classifier with {labels} labels; a reward model has one (num_labels=1)."
        )
    if method := getattr(kind.config, "quantization_config", None):
        named = method.get("quant_method") if isinstance(method, dict) else getattr(method, "quant_method", None)
        raise TrimtabError(
            f"model {source}: its weights are quantised ({getattr(named, 'value', named)}), and trimtab reads and "
            "trains float ones. Name the model that it was made from; lora.quantize=nf4 holds that in four bits."
        )


def _check_folder(source: str, trust: TrustSettings, named: str) -> None:
    folder = Path(source)
    if not folder.is_dir():
        if folder.is_file():
            raise TrimtabError(f"model {named}: a file. Name the folder that it is in.")
        if folder.is_symlink() or source.startswith((".", "/")) or source.count("/") > 1:
            raise TrimtabError(f"model {named}: no such folder. Give a Hugging Face folder or a hub name.")
        return
    if is_adapter(source):
        refuse_pickles(source, trust)
        _check_adapter(source)
        return
    if not (folder / "config.json").is_file():
        raise TrimtabError(
            f"model {named}: no config.json in it, so it is no Hugging Face model folder.{_hint(folder)}"
        )
    refuse_remote_code(source, trust)
    refuse_pickles(source, trust)
    if (folder / CONFIG).is_file() and model_weights(folder):
        raise TrimtabError(
            f"model {named}: holds a model ({model_weights(folder)[0].name}) and {CONFIG} beside it, so that it is "
            f"not clear which is meant. Move the adapter's files into a folder of their own, or remove {CONFIG}."
        )


def _check_weights(source: str, named: str) -> None:
    folder, adapted = Path(source), is_adapter(source)
    if adapted and not [*folder.glob("adapter_model*.safetensors"), *folder.glob("adapter_model*.bin")]:
        raise TrimtabError(f"adapter {source}: it has {CONFIG} but no weights (adapter_model.safetensors).")
    if not adapted and not model_weights(folder):
        raise TrimtabError(
            f"model {named}: it has a config but no weights (model.safetensors).{_hint(folder)} "
            "Copy the weights there, or name the folder that has them."
        )
    if not adapted:
        _check_names(folder, named)
    check_files(folder, source if adapted else named, "adapter" if adapted else "model")


def _check_names(folder: Path, named: str) -> None:
    """TrimtabError where transformers would not look at the weights that are there, or do without what is
    beside them."""
    places = [folder / f"{kind}{end}" for kind in READ for end in ("", ".index.json")]
    if not any(place.is_file() or place.is_symlink() for place in places):
        name = model_weights(folder)[0].name
        if shard := re.fullmatch(r"(.+)-\d{5}-of-\d{5}\.(safetensors|bin)", name):
            raise TrimtabError(
                f"model {named}: its weights are in parts ({name}, …), and {shard[1]}.{shard[2]}.index.json, which "
                "says what is in which, is not there. Copy it too."
            )
        usual = READ[name.endswith(".bin")]
        raise TrimtabError(
            f"model {named}: its weights are called {name}, which transformers does not look for. If they are what "
            f"config.json describes, call them {usual}."
        )
    file = folder / "generation_config.json"
    try:
        if not isinstance(json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}, dict):
            raise ValueError("it holds no settings")
    except (OSError, ValueError, RecursionError) as error:
        # transformers would do without, and a token that ends answers may be in it alone.
        raise TrimtabError(f"model {named}: its {file.name} cannot be read: {error}. Mend or remove it.") from None


def _check_adapter(source: str) -> None:
    import peft

    config = adapter_config(source)
    if config.kind in PROMPTS:
        raise TrimtabError(
            f"adapter {source}: of kind {config.kind}, which puts learned vectors before the text and changes no "
            "weights: it can be neither merged nor trained here. Name one that changes weights, such as LoRA."
        )
    if config.kind not in peft.PeftType.__members__:
        raise TrimtabError(
            f"adapter {source}: of kind {config.kind or 'unknown'} (peft_type in its {CONFIG}), which peft "
            f"{peft.__version__} does not know. Install the peft that wrote it, or name the merged model."
        )
    if config.value.get("alora_invocation_tokens"):
        raise TrimtabError(
            f"adapter {source}: an activated LoRA, which works behind certain tokens only: no weights can hold it. "
            "Name an adapter that works everywhere."
        )


def _hint(folder: Path) -> str:
    """Where the model may be, or what the folder is instead."""
    if (folder / "best" / "config.json").is_file():
        return f" Its model is {folder / 'best'}."
    if (folder / "model_index.json").is_file():
        return " It is a pipeline of diffusers."
    for pattern, name in OTHER_FORMATS.items():
        matches = sorted(folder.glob(pattern)) or sorted(folder.glob(f"*/{pattern}"))
        if matches:
            return f" It holds {name} ({matches[0].name}), which trimtab does not read: it needs safetensors."
    inside = sorted(path.parent.name for path in folder.glob("*/config.json"))
    if inside:
        return f" There is one in {folder / inside[0]}."
    return " It is empty." if not any(folder.iterdir()) else ""


def positions_of(source: str, trust: TrustSettings) -> int | None:
    """How many tokens a model takes, by its config; None where that says nothing of it."""
    check_model_source(source, trust)
    return getattr(read_config(source, trust), "max_position_embeddings", None)

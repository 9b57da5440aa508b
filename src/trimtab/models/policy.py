"""The policy: a causal language model whose forward pass takes a packed batch of completion groups.

`Policy.forward(batch)` returns the log-probability of every completion token, ragged, in float32.
The Qwen2, Qwen3, Llama, Mistral and Gemma families run the tree itself; any other causal model runs
padded rows behind the same interface, exact too, but each prompt is computed once per completion.

Dimension suffixes: _M completion tokens, _C completions, _L row length, _D hidden, _V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from trimtab.data.adapters import base_of, home, is_adapter
from trimtab.data.groups import PackedBatch
from trimtab.data.trust import TrustSettings
from trimtab.errors import TrimtabError, reason_of
from trimtab.models import attention
from trimtab.models.folder import save_folder
from trimtab.models.kinds import check_model_source
from trimtab.models.length_encoding import KEY, LengthEncoding, encoding_of, packed_counts, row_counts
from trimtab.models.logprobs import Divergence, Head, TokenStatistics, Wanted, kl_to_reference, token_logps
from trimtab.models.lora import ADAPTER, LoraSettings, add_lora, load_adapter, merged, plain_state, say_untied
from trimtab.models.quantized import FourBit, hold_still, load_arguments, note, noted
from trimtab.models.weights import HOW, check_finite, refuse_unfit, say_unused
from trimtab.notices import warn

TREE_FAMILIES = {"qwen2", "qwen3", "llama", "mistral", "gemma", "gemma2", "gemma3_text"}
# Rotary scalings whose angles depend on the longest position in the batch: rows of a packed batch
# would change each other.
LENGTH_DEPENDENT_ROPE = {"dynamic", "longrope"}

Precision = Literal["auto", "float32", "bf16"]
PolicyOutput = TokenStatistics
"""logps, on request entropy, stop_logps and kl, and a value head's values: see models/logprobs.py."""
VALUE_HEAD = "value_head"
"""The name that its weights have in a checkpoint; no exported model has them."""


class ModelSettings(TrustSettings):
    """How the policy is held in memory. Master weights are always float32."""

    precision: Precision = "auto"
    """What products are computed in: bf16 by autocast, or float32. auto: bf16 on CUDA and on CPUs with AMX tiles,
    else float32: with AVX-512's bf16 instructions alone, oneDNN's bf16 products measured 0.5 to 0.6 times as
    fast as its float32 ones, and a training step 0.73 to 0.99 times."""
    gradient_checkpointing: bool = False
    """Whether activations are computed again in the backward pass: less memory, more time, the same result."""
    lora: LoraSettings | None = None
    """Low-rank adapters instead of all weights; None: all weights are trained."""


def trusting(trust: TrustSettings | None) -> ModelSettings:
    """Default settings, but for what the folder may do."""
    return ModelSettings(**trust.model_dump(include=set(TrustSettings.model_fields))) if trust else ModelSettings()


class Policy(nn.Module):
    """A causal model, and how to read log-probabilities of completion groups off it.

    adapter: peft's handle on the adapter that is in the model, if there is one. length_encoding: the one that the
    model's config has. target_length: what it then counts down from for every completion; None: from each one's own
    length.
    """

    def __init__(self, model: Any, source: str = "", adapter: Any = None) -> None:
        super().__init__()
        self.model = model
        self._adapter = [adapter]  # in a list, since it holds the model: no second name for each weight
        self.source = source
        self.value_head: nn.Linear | None = None
        config = model.config
        self.length_encoding = encoding_of(config)
        self.target_length: int | None = None
        self.uses_tree = _serves_tree(config)
        self.softcap: float | None = getattr(config, "final_logit_softcapping", None)
        if adapter is None:
            _disable_dropout(model)  # an adapter's own dropout stays
        if self.uses_tree:
            model.set_attn_implementation(attention.NAME)
        else:
            warn(
                f"{config.model_type}: no tree attention for this family; using padded rows, which compute "
                "each prompt once per completion and hold all logits of a row"
            )

    def count_down(self, encoding: LengthEncoding) -> None:
        """Gives the model a length encoding, which its config keeps."""
        self.length_encoding = encoding
        setattr(self.model.config, KEY, encoding.model_dump())

    def held_to_target(self) -> Policy:
        """This policy; if it counts down, from now on every completion from the target in its config."""
        if self.length_encoding is not None:
            self.target_length = self.length_encoding.target_length
        return self

    @property
    def default_target(self) -> int:
        """What samples count down from where nobody asks for another length; 0: from nothing."""
        own = 0 if self.length_encoding is None else self.length_encoding.target_length
        return self.target_length or own

    @property
    def countdown_key(self) -> str:
        """What log-probabilities depend on beside weights, tokens and precision; empty without a countdown."""
        encoding = self.length_encoding
        return "" if encoding is None else f"|{encoding.model_dump_json()}|{self.target_length}"

    def fed(self, ids: Tensor, counts: Tensor | None) -> dict[str, Tensor]:
        """The model's arguments for token ids: as they are, or, if it counts down, embedded with their counts."""
        if self.length_encoding is None or counts is None:
            return {"input_ids": ids}
        return {"inputs_embeds": self.length_encoding.added_to(self.model.get_input_embeddings()(ids), counts)}

    @property
    def vocabulary(self) -> int:
        return int(self.model.get_output_embeddings().weight.shape[0])

    @property
    def device(self) -> torch.device:
        return torch.device(next(self.model.parameters()).device)

    def add_value_head(self) -> None:
        """A linear head that reads a state's value off the hidden state that predicts its token. It starts at 0,
        and so do all values; it is trained and kept in checkpoints with the policy, and saved with no model."""
        size = int(self.model.get_output_embeddings().weight.shape[1])
        self.value_head = nn.Linear(size, 1, device=self.device, dtype=torch.float32)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    def head(self, hidden_SD: Tensor) -> Tensor:
        """Hidden states [S, D] -> logits [S, V], with everything the family does to its logits."""
        logits: Tensor = self.model.get_output_embeddings()(hidden_SD)
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits

    def forward(
        self,
        batch: PackedBatch,
        entropy: bool = False,
        stops: Sequence[int] | None = None,
        temperature: Tensor | None = None,
        reference: Policy | None = None,
        divergence: Divergence = kl_to_reference,
    ) -> PolicyOutput:
        """Log-probabilities of the batch's completion tokens, and what else is asked for.

        stops: token ids whose total log-probability is wanted at each step. temperature: [M], of each
        token's distribution. reference: a frozen policy of the same vocabulary, for the exact divergence from it.
        """
        head, hidden_MD, state_MD = self._hidden(batch)
        wanted = Wanted(entropy, None, temperature, None)
        if stops is not None:
            wanted = wanted._replace(stops=torch.tensor(list(stops), device=batch.target.device))
        if reference is not None:
            with torch.no_grad():
                wanted = wanted._replace(reference=reference._hidden(batch)[:2], divergence=divergence)
        out = token_logps(head, hidden_MD, batch.target, self.vocabulary, wanted)
        return out if state_MD is None else out._replace(values=self._values(state_MD))

    def _values(self, state_MD: Tensor) -> Tensor:
        assert self.value_head is not None
        # Out of autocast: bf16 would leave a value 8 bits, and advantages are differences of values.
        with torch.autocast(state_MD.device.type, enabled=False):
            values: Tensor = self.value_head(state_MD.float())[:, 0]
        return values

    def _hidden(self, batch: PackedBatch) -> tuple[Head, Tensor, Tensor | None]:
        """What predicts each completion token, [M, D], the head that makes logits of it, and what a value head
        reads, where there is one: the hidden states, [M, D]."""
        if not self.uses_tree:
            logits_MV, state_MD = self._rows(batch)
            return (lambda logits: logits), logits_MV, state_MD
        counts_N = packed_counts(batch, self.target_length) if self.length_encoding is not None else None
        fed = self.fed(batch.input_ids, counts_N)
        hidden_ND = attention.packed_hidden(self.model.model, batch, fed.get("inputs_embeds"))
        hidden_MD = hidden_ND.index_select(0, batch.source)
        return self.head, hidden_MD, hidden_MD if self.value_head is not None else None

    def next_logits(self, batch: PackedBatch) -> Tensor:
        """Float32 logits of what each completion's last token was predicted from: [C, V]. That token is never fed:
        with one appended (models/reward_model.py, for_scoring) they are of what comes after the completion."""
        head, hidden_MD, _ = self._hidden(batch)
        last_C = batch.lengths.cumsum(0) - 1
        return head(hidden_MD.index_select(0, last_C)).float()

    def _rows(self, batch: PackedBatch) -> tuple[Tensor, Tensor | None]:
        """One padded row per completion, through the model's own forward pass and head: [M, V]. With a value head
        also what the model's head read: [M, D]."""
        prompts = [prompt for group in batch.groups for prompt in group.prompts]
        completions = [completion for group in batch.groups for completion in group.completions]
        rows = [p + c[:-1] for p, c in zip(prompts, completions, strict=True)]
        starts = [len(prompt) - 1 for prompt in prompts]
        longest = max(map(len, rows))
        ids_CL = torch.zeros(len(rows), longest, dtype=torch.long)
        mask_CL = torch.zeros(len(rows), longest, dtype=torch.long)
        for i, row in enumerate(rows):
            ids_CL[i, : len(row)] = torch.tensor(row)
            mask_CL[i, : len(row)] = 1
        device = batch.input_ids.device
        counts_CL = row_counts(batch, self.target_length, longest) if self.length_encoding is not None else None
        fed = self.fed(ids_CL.to(device), counts_CL)
        inputs = {**fed, "attention_mask": mask_CL.to(device), "use_cache": False}

        def joined(rows_CLX: Tensor) -> Tensor:
            return torch.cat([rows_CLX[i, s : len(r)] for i, (r, s) in enumerate(zip(rows, starts, strict=True))])

        if self.value_head is None:
            return joined(self.model(**inputs).logits), None
        read: list[Tensor] = []
        # Asking for hidden states would keep every layer's, and not every family gives the last one normed.
        hook = self.model.get_output_embeddings().register_forward_pre_hook(lambda _, given: read.append(given[0]))
        try:
            logits_CLV = self.model(**inputs).logits
        finally:
            hook.remove()
        return joined(logits_CLV), joined(read[-1])

    @property
    def adapter(self) -> Any:
        return self._adapter[0]

    def starting_state(self) -> dict[str, Tensor]:
        """The weights that it has before training, under the model's own names: a new adapter adds nothing yet."""
        new = self.adapter is not None and not is_adapter(self.source)
        return plain_state(self.model) if new else self.model.state_dict()

    def save(self, folder: Path) -> None:
        """Writes weights and configs as plain transformers files, loadable without trimtab: with LoRA the
        merged model, and the adapter in a folder beside its files."""
        # The name of our attention function means nothing to a reader of the folder: it is not saved.
        if self.adapter is None:
            save_folder(self.model, folder, self.source)
            return
        save_folder(merged(self.adapter), folder, self.source)
        self.adapter.save_pretrained(folder / ADAPTER)
        note(folder / ADAPTER, self.model)
        if self.length_encoding is not None:  # an adapter has no config of a model
            written = self.length_encoding.model_dump_json(indent=2)
            (folder / ADAPTER / f"{KEY}.json").write_text(written + "\n", encoding="utf-8")


def _serves_tree(config: Any) -> bool:
    if config.model_type not in TREE_FAMILIES:
        return False
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    parameters = rope.values() if any(isinstance(v, dict) for v in rope.values()) else [rope]
    kinds = {p.get("rope_type", p.get("type", "default")) for p in parameters if isinstance(p, dict)}
    if getattr(config, "use_bidirectional_attention", False):
        return False
    return not kinds & LENGTH_DEPENDENT_ROPE


def _disable_dropout(model: Any) -> None:
    """Off, as in TRL's DPO: the policy's and the reference's log-probabilities must be comparable."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0


def load_policy(source: str, settings: ModelSettings | None = None, seed: int | None = None) -> Policy:
    """Loads a causal model in float32 from a folder or a hub name.

    seed: given where it is to be trained: then a new adapter is drawn from it, and an adapter's folder is
    loaded to be trained further. Without it that adapter is merged with its base.
    """
    settings, source = settings or ModelSettings(), home(source)
    check_model_source(source, settings, "policy")
    adapted = is_adapter(source)
    if adapted and settings.lora is not None:
        raise TrimtabError(f"model {source}: an adapter, which keeps its own shape: leave 'lora' out.")
    model, adapter = _load(source, settings, trained=seed is not None)
    if adapter is None and settings.lora is not None:
        adapter = add_lora(model, settings.lora, seed or 0, source)
    policy = Policy(model, source, adapter)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return policy


def _load(source: str, settings: ModelSettings, trained: bool) -> tuple[Any, Any]:
    """The model, and peft's handle on the adapter in it where that is to be trained further. What an adapter stands
    on may be an adapter, which is merged."""
    held = _held(source, settings, trained)
    if not is_adapter(source):
        model = _load_causal(source, settings, held)
        _disable_dropout(model)
        return model, None
    base = base_of(source)
    if is_adapter(base):
        if held is not None:
            raise TrimtabError(
                f"model {source}: an adapter over four bits whose base is an adapter too, which trimtab cannot "
                f"hold in four bits. Merge {base} first."
            )
        model, _ = _load(base, settings.model_copy(update={"lora": None}), trained=False)
    else:
        model = _load_causal(base, settings, held)
        _disable_dropout(model)
    kept = Path(source) / f"{KEY}.json"
    if kept.is_file():
        setattr(model.config, KEY, json.loads(kept.read_text(encoding="utf-8")))
    adapter = load_adapter(model, source)
    return (model, adapter) if trained else (merged(adapter), None)


def _held(source: str, settings: ModelSettings, trained: bool) -> FourBit | None:
    """How frozen weights are to be held; None: in float32. trained: whether an adapter goes on training, with the
    products that the settings say, or is read as it was."""
    if is_adapter(source):
        before = noted(source)
        if before is None or not trained:
            return before
        kind = before.quantize
    elif settings.lora is None or settings.lora.quantize is None:
        return None
    else:
        kind = settings.lora.quantize
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return FourBit(kind, resolve_precision(settings.precision, device))


def _load_causal(source: str, settings: ModelSettings, held: FourBit | None) -> Any:
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, **HOW, **settings.loading, **load_arguments(held)
        )
    except TrimtabError:
        raise
    except Exception as error:  # the libraries raise whatever they like
        raise TrimtabError(
            f"model {source}: cannot be loaded as a causal language model: {reason_of(error)}"
        ) from error
    refuse_unfit(source, model, info)
    if getattr(model, "_hf_peft_config_loaded", False):
        raise TrimtabError(f"model {source}: an adapter on the hub. Download it into a folder, and name that.")
    check_finite(source, "model", model.state_dict().items())
    say_unused(source, tuple(sorted(info.get("unexpected_keys", []))))
    hold_still(model)
    return say_untied(model)


def resolve_precision(precision: Precision, device: torch.device) -> Literal["float32", "bf16"]:
    """What `auto` means here; the answer is recorded, and kept on resume."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "float32"
    has_tiles = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    return "bf16" if has_tiles else "float32"

"""The policy: a causal language model whose forward pass takes a packed batch of completion groups.

`Policy.forward(batch)` returns the log-probability of every completion token, ragged, in float32.
Families that the tree serves exactly (families.py) run it; any other causal model runs padded rows
(padded_rows.py) behind the same interface. loading.py reads one from a folder.

Dimension suffixes: _M completion tokens, _C completions, _L row length, _D hidden, _V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from trimtab.data.adapters import is_adapter
from trimtab.data.groups import PackedBatch
from trimtab.models import attention
from trimtab.models.families import serves_tree
from trimtab.models.folder import save_folder
from trimtab.models.inputs import Inputs
from trimtab.models.logprobs import (
    Divergence,
    Head,
    StatisticsRequest,
    TokenStatistics,
    kl_to_reference,
    token_logps,
)
from trimtab.models.lora import ADAPTER, AdapterHandle, merged, plain_state
from trimtab.models.padded_rows import rows_of
from trimtab.models.quantized import note
from trimtab.notices import warn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


PolicyOutput = TokenStatistics
"""logps, on request entropy, stop_logps and kl, and a value head's values: see models/logprobs.py."""
VALUE_HEAD = "value_head"
"""The name that its weights have in a checkpoint; no exported model has them."""


class Policy(nn.Module):
    """A causal model, and how to read log-probabilities of completion groups off it.

    adapter: peft's handle on the adapter that is in the model, if there is one. inputs: what it is fed for tokens.
    """

    def __init__(self, model: PreTrainedModel, source: str = "", adapter: AdapterHandle | None = None) -> None:
        super().__init__()
        self.model = model
        self._adapter = [adapter]  # in a list, since it holds the model: no second name for each weight
        self.source = source
        self.value_head: nn.Linear | None = None
        config = model.config
        self.inputs = Inputs(model)
        self.uses_tree = serves_tree(config)
        self.softcap: float | None = getattr(config, "final_logit_softcapping", None)
        if adapter is None:
            disable_dropout(model)  # an adapter's own dropout stays
        if self.uses_tree:
            model.set_attn_implementation(attention.NAME)
        else:
            warn(
                f"{config.model_type}: no tree attention for this family; using padded rows, which compute "
                "each prompt once per completion and hold all logits of a row"
            )

    @property
    def vocabulary(self) -> int:
        """Entries of the head: how many tokens have logits."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
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

    def _head_matrix(self) -> Tensor | None:
        """[V, D], where the head is the product with it in float32 and nothing else: no bias, adapter or cap."""
        head = self.model.get_output_embeddings()
        plain = type(head) is nn.Linear and head.bias is None and not head._forward_hooks
        if not (self.uses_tree and plain and self.softcap is None) or head._forward_pre_hooks:
            return None
        weight: Tensor = head.weight
        return None if weight.dtype != torch.float32 or torch.is_autocast_enabled(weight.device.type) else weight

    def forward(
        self,
        batch: PackedBatch,
        entropy: bool = False,
        stops: Sequence[int] | None = None,
        temperature: Tensor | None = None,
        reference: Policy | None = None,
        divergence: Divergence = kl_to_reference,
        at_one: bool = False,
    ) -> PolicyOutput:
        """Log-probabilities of the batch's completion tokens, and what else is asked for.

        stops: token ids whose total log-probability is wanted at each step. temperature: [M], of each
        token's distribution; at_one: those at temperature 1 as well, by the same pass through the layers.
        reference: a frozen policy of the same vocabulary, for the exact divergence from it.
        """
        head, hidden_MD, state_MD = self._hidden(batch)
        request = StatisticsRequest(entropy, None, temperature, None)
        if stops is not None:
            request = request._replace(stops=torch.tensor(list(stops), device=batch.target.device))
        if reference is not None:
            with torch.no_grad():
                request = request._replace(reference=reference._hidden(batch)[:2], divergence=divergence)
        out = token_logps(head, hidden_MD, batch.target, self.vocabulary, request, self._head_matrix())
        if at_one:
            plain = token_logps(head, hidden_MD, batch.target, self.vocabulary, None, self._head_matrix())
            out = out._replace(logps_at_one=plain.logps)
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
            logits_MV, state_MD = rows_of(self.model, batch, self.inputs, states=self.value_head is not None)
            return (lambda logits: logits), logits_MV, state_MD
        hidden_ND = attention.packed_hidden(self.model.model, batch, self.inputs.packed(batch))
        hidden_MD = hidden_ND.index_select(0, batch.source)
        return self.head, hidden_MD, hidden_MD if self.value_head is not None else None

    def next_logits(self, batch: PackedBatch) -> Tensor:
        """Float32 logits of what each completion's last token was predicted from: [C, V]. That token is never fed:
        with one appended (models/reward_model.py, for_scoring) they are of what comes after the completion."""
        head, hidden_MD, _ = self._hidden(batch)
        last_C = batch.lengths.cumsum(0) - 1
        return head(hidden_MD.index_select(0, last_C)).float()

    @property
    def adapter(self) -> AdapterHandle | None:
        """peft's handle on the adapter that is trained; None where all weights are."""
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
        self.adapter.save_pretrained(str(folder / ADAPTER))
        note(folder / ADAPTER, self.model)
        self.inputs.save_beside(folder / ADAPTER)


def disable_dropout(model: PreTrainedModel) -> None:
    """Turns dropout off, as TRL's DPO does: log-probabilities of policy and reference must be comparable."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0

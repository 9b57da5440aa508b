"""Nemotron-HF reward models, run here: language models whose score is a logit.

Source: the cards of nvidia/Llama-3.1-Nemotron-70B-Reward-HF and its successors, which render the conversation
without a generation prompt, generate one token, and take scores[0][0][0]: the logit of token 0 at the last
token. Read as a sequence classifier such a folder gets a random head, without a word.

We take the model's own logit: where the folder's generation config samples, generate's scores are divided by
its temperature.

Dimension suffixes: _B rows of a pass, _L row length.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from trimtab.data.adapters import is_adapter
from trimtab.data.chat import load_tokenizer
from trimtab.data.groups import CompletionGroup
from trimtab.data.hashing import hash_source, hash_weights
from trimtab.data.pairs import TurnFormat
from trimtab.data.trust import TrustSettings
from trimtab.devices import best_device
from trimtab.errors import TrimtabError, reason_of
from trimtab.models.gguf.place import model_place
from trimtab.models.kinds import check_model_source
from trimtab.models.settings import Precision, resolve_precision
from trimtab.models.weights import HOW, check_finite, refuse_unfit
from trimtab.rewards.local import LocalReward

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VERSION = 1
"""Of how rows are rendered and read: part of the signature."""
SCORE_TOKEN = 0


class NemotronLocalReward(LocalReward):
    """Scores with a folder or hub model that transformers loads as a causal language model.

    TrimtabError for a folder of another kind, or one without a chat template. precision: of weights and
    products, as the cards load them; several GPUs share a model that one can't hold. token_budget: tokens of
    a pass, padding included.
    """

    def __init__(
        self,
        source: str,
        name: str | None = None,
        *,
        tokenizer: str | None = None,
        token_budget: int = 8192,
        precision: Precision = "float32",
        trust: TrustSettings | None = None,
    ) -> None:
        source, tokenizer = model_place(source), model_place(tokenizer) if tokenizer else None
        self.name = name or Path(source).name
        self.token_budget = token_budget
        device = best_device()
        self.precision = resolve_precision(precision, device)
        tokens = load_tokenizer(tokenizer or source, trust)
        if not tokens.chat_template:
            raise TrimtabError(
                f"reward model {source}: no chat template, and Nemotron's score is of a rendered conversation. "
                "Name the model's own tokenizer with the reward's 'tokenizer'."
            )
        self.form = TurnFormat(tokens)
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        self.model = _load(source, dtype, device, trust or TrustSettings())
        # A hub name says nothing of its revision, so the weights speak for it.
        local = Path(source).expanduser().is_dir()
        weights = hash_source(source) if local else f"{source}:{hash_weights(self.model.state_dict())}"
        reads = "" if tokenizer is None else f"|{hash_source(tokenizer)}"
        self.signature = f"nemotron_local|{VERSION}|{weights}{reads}|{self.precision}"

    @property
    def limit(self) -> int | None:
        """Tokens of the longest row, by the config's number of positions."""
        positions: int | None = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return positions

    def _score(self, groups: list[CompletionGroup]) -> list[float]:
        rows = [[*group.prompt, *group.completions[0]] for group in groups]
        longest = max(map(len, rows))
        device = self.model.get_input_embeddings().weight.device
        # Padded on the left: every row ends in the last column, where its score is read.
        ids_BL = torch.tensor([[0] * (longest - len(row)) + row for row in rows], device=device)
        mask_BL = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
        positions_BL = (mask_BL.cumsum(1) - 1).clamp(min=0)
        with torch.no_grad():
            out = self.model(
                input_ids=ids_BL,
                attention_mask=mask_BL,
                position_ids=positions_BL,
                use_cache=False,
                logits_to_keep=1,
            )
        scores: list[float] = out.logits[:, -1, SCORE_TOKEN].float().tolist()
        return scores


def _load(source: str, dtype: torch.dtype, device: torch.device, trust: TrustSettings) -> PreTrainedModel:
    check_model_source(source, trust)
    if is_adapter(source):
        raise TrimtabError(f"reward model {source}: an adapter, which this kind of reward does not read. Merge it.")
    try:
        kinds = AutoConfig.from_pretrained(source, trust_remote_code=trust.trust_remote_code).architectures or ()
        if not any(kind.endswith("ForCausalLM") for kind in kinds):
            kind = ", ".join(kinds) or "a folder that names no architecture"
            raise TrimtabError(
                f"reward model {source}: no causal language model but {kind}. "
                "A sequence classifier is a reward of kind classifier."
            )
        where = {"device_map": "auto"} if device.type == "cuda" else {}
        model, info = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **HOW, **where, **trust.loading)
    except TrimtabError:
        raise
    except Exception as error:  # the libraries raise whatever they like
        raise TrimtabError(
            f"reward model {source}: cannot be loaded as a language model: {reason_of(error)}"
        ) from error
    refuse_unfit(source, model, info)
    check_finite(source, "reward model", model.state_dict().items())
    return model.eval()

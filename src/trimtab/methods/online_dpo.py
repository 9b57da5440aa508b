"""Iterated preference training: its settings, and a round's stage. What a round does before it is in rounds.py.

Sample, score, pair, train, and again from the model that came of it: iterated DPO (as in Xu et al. 2023, arXiv
2312.16682), SPPO (Wu et al. 2024, arXiv 2405.00675) with loss sppo_estimated, and self-labelled DPO (Garg et al.
2025, arXiv 2502.16182) with a reward of kind yes_no.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.data.rows import TruncationSettings
from trimtab.methods.dpo import DPO
from trimtab.methods.dpo_settings import DPOSettings
from trimtab.methods.sampled_rows import SampledFormat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAME = "online_dpo"


class OnlineDPO(DPO):
    """One round's stage: DPO on pairs that were sampled, token by token as they were drawn."""

    version = 1
    reads = frozenset({"sampled", "rewards", "win_rates"})

    @classmethod
    def text_format(
        cls, tokenizer: PreTrainedTokenizerBase, data: TruncationSettings, settings: DPOSettings
    ) -> SampledFormat:
        """Pairs are trained on as the tokens that were drawn."""
        return SampledFormat(tokenizer, data)


def round_folders(stages: Path) -> list[Path]:
    """The stages of all rounds that have begun, first to last."""
    numbered = [(path, path.name.removeprefix(f"{NAME}-")) for path in stages.glob(f"{NAME}-*") if path.is_dir()]
    return [path for path, number in sorted(numbered, key=lambda folder: folder[1].zfill(9)) if number.isdigit()]

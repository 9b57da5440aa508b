"""Every real family, small: it learns to answer and to end, takes a DPO step, and is read elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import byte_tokenizer
from models.families import single_logps
from models.real_families import REAL, write_family
from trimtab.data.chat import ChatFormat, load_tokenizer
from trimtab.data.encoding import RefusedRowError
from trimtab.data.groups import CompletionGroup, pack
from trimtab.data.records import Message, Record
from trimtab.data.splits import DataSettings
from trimtab.evaluation.generate import generate, stop_tokens
from trimtab.evaluation.settings import Decoding
from trimtab.methods.dpo import DPO
from trimtab.methods.dpo_settings import DPOSettings
from trimtab.methods.sft import SFT
from trimtab.methods.sft_settings import SFTSettings
from trimtab.models.loading import load_policy
from trimtab.notices import collected
from trimtab.training.stage import run_stage

ANSWERS = {"Where is the cat?": "On it.", "And the dog?": "There."}
STAGE: dict[str, Any] = {"batch_size": 2, "precision": "float32", "warmup_steps": 3, "evaluation_interval": 1000}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> DataSettings:
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    pairs = [{"prompt": asked, "chosen": said, "rejected": "No."} for asked, said in ANSWERS.items()]
    file.write_text("".join(json.dumps(row) + "\n" for row in pairs))
    return DataSettings(train=str(file), max_length=256)


@pytest.mark.parametrize("name", REAL)
def test_a_family_from_its_folder_to_an_answer_elsewhere(name: str, rows: DataSettings, tmp_path: Path) -> None:
    start = write_family(name, tmp_path / "start")
    taught, best = tmp_path / "sft" / "best", tmp_path / "dpo" / "best"
    learns = SFTSettings(**STAGE, learning_rate=1e-2, max_steps=40)
    run_stage("sft", SFT, learns, rows, str(start), taught.parent)
    run_stage("dpo", DPO, DPOSettings(**STAGE, learning_rate=1e-5, max_steps=1), rows, str(taught), best.parent)

    policy, chat = load_policy(str(best)).eval(), ChatFormat(load_tokenizer(str(best)))
    theirs, tokenizer = AutoModelForCausalLM.from_pretrained(best).eval(), AutoTokenizer.from_pretrained(best)
    groups = [chat.encode(Record(asked, (said, "No."))) for asked, said in ANSWERS.items()]
    groups = [group for group in groups if isinstance(group, CompletionGroup)]
    with torch.no_grad():
        assert torch.allclose(policy(pack(groups)).logps, single_logps(theirs, groups), atol=5e-5), (
            "packed = single"
        )

    family = REAL[name]
    end = family.ends_turn or family.names["eos_token"]
    assert chat.tokenizer.convert_ids_to_tokens(chat.end_of_turn) == end
    decoding = Decoding(strategy="greedy", max_new_tokens=40)
    said = generate(policy, chat, list(ANSWERS), decoding, stop_tokens(policy.model, chat))
    assert [one.text.split("</think>")[-1].strip() for one in said] == list(ANSWERS.values())
    assert all(one.terminated for one in said)

    for group, answer in zip(groups, said, strict=True):
        # As its card says: the folder alone, with what its own generation config has beside.
        ids = torch.tensor([group.prompt])
        found = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, repetition_penalty=1.0, max_new_tokens=40
        )
        new = found[0, ids.shape[1] :].tolist()
        assert new == list(group.completions[0]), "the same answer, and it ends"
        assert len(new) == answer.tokens
        assert tokenizer.convert_ids_to_tokens(new[-1]) == end
    kept = json.loads((best / "generation_config.json").read_text())
    assert family.generation.items() <= kept.items(), "what its makers say of sampling goes with it"


@pytest.mark.parametrize(
    ("name", "roles", "words"),
    [
        ("Gemma 2", ("system", "user"), "System role not supported"),
        ("Mistral", ("system", "user"), "Conversation roles must alternate"),
    ],
)
def test_what_a_familys_template_refuses(name: str, roles: tuple[str, ...], words: str, tmp_path: Path) -> None:
    family = REAL[name]
    chat = ChatFormat(byte_tokenizer(family.template, family.special, family.writes_bos, **family.names))
    turns = tuple(Message(role, "Hi") for role in roles)
    with pytest.raises(RefusedRowError, match=rf"{words}.* data\.bad_rows=drop leaves such rows out"):
        chat.encode(Record(turns, ("Yes.", "No."), "rows.jsonl:1"))


def test_training_a_mixture_of_experts_says_what_it_lacks(tmp_path: Path) -> None:
    """Their config asks for the router's logits, as after training with a balancing loss: ours has none."""
    folder = str(write_family("Qwen3 MoE", tmp_path / "start"))
    with collected() as told:
        load_policy(folder, seed=0)
    assert any("no loss that keeps them equally busy" in line for line in told.lines)
    with collected() as told:
        load_policy(folder)
    assert not any("equally busy" in line for line in told.lines), "evaluated, not trained"

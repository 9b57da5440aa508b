"""Folders that would run their author's code are refused, and nothing of theirs runs, unless asked for by name."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from rewards.toy import reward_settings
from trimtab.data.chat import load_tokenizer
from trimtab.data.trust import TrustSettings
from trimtab.errors import TrimtabError
from trimtab.evaluation.settings import EvaluationSettings
from trimtab.methods.sft_settings import SFTSettings
from trimtab.models.kinds import check_model_source
from trimtab.models.loading import load_policy
from trimtab.models.reward_model import load_reward_model
from trimtab.models.settings import ModelSettings, trusting

Make = Callable[..., Path]
PICKLES, CODE = ModelSettings(allow_pickle=True), ModelSettings(trust_remote_code=True)


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.place,)


def pickled(folder: Path) -> dict[str, torch.Tensor]:
    """The folder's weights as pytorch_model.bin, in place of the safetensors."""
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return weights


def test_pickled_weights_are_read_on_request_only(tiny_model_dir: Make) -> None:
    folder = tiny_model_dir()
    weights = pickled(folder)
    message = r"its weights are pickled \(pytorch_model.bin\).*safetensors.*allow_pickle=true"
    for load in (load_policy, load_reward_model, check_model_source):
        with pytest.raises(TrimtabError, match=message) as found:
            load(str(folder))
        assert "\n" not in str(found.value)
    model = load_policy(str(folder), PICKLES).model.model
    assert torch.equal(model.norm.weight, weights["model.norm.weight"])
    assert load_reward_model(str(folder), PICKLES).model.model.norm.weight is not None


def test_a_refused_pickle_is_not_opened(tiny_model_dir: Make, tmp_path: Path) -> None:
    """Not when it is all there is, and not when it lies beside safetensors."""
    folder = tiny_model_dir()
    bomb = pickle.dumps(Bomb(tmp_path / "ran"))
    (folder / "pytorch_model.bin").write_bytes(bomb)
    load_policy(str(folder))
    for name in ("pytorch_model.bin", "weights.pt", "weights.pkl"):
        only = tiny_model_dir(f"only {name}")
        (only / "model.safetensors").unlink()
        (only / name).write_bytes(bomb)
        with pytest.raises(TrimtabError, match="reading a pickle can run code"):
            load_policy(str(only))
    assert not (tmp_path / "ran").exists()


def with_code(folder: Path, file: str, mapped: dict[str, Any], ran: Path) -> None:
    """Names code.py in the folder's config; importing it leaves a file behind."""
    config = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(config | {"auto_map": mapped}))
    (folder / "code.py").write_text(
        "from pathlib import Path\n"
        "from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM\n"
        f"Path({str(ran)!r}).touch()\n"
        "class MyConfig(Qwen2Config):\n    pass\nclass MyTokenizer(PreTrainedTokenizerFast):\n    pass\n"
        "class MyModel(Qwen2ForCausalLM):\n    config_class = MyConfig\n"
    )


def test_code_of_a_model_runs_on_request_only(
    tiny_model_dir: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder, ran = tiny_model_dir(), tmp_path / "ran"
    with_code(folder, "config.json", {"AutoConfig": "code.MyConfig", "AutoModelForCausalLM": "code.MyModel"}, ran)
    for load in (load_policy, load_reward_model, check_model_source):
        with pytest.raises(TrimtabError, match=r"config.json asks for Python code .*trust_remote_code=true"):
            load(str(folder))
    assert not ran.exists()
    check_model_source(str(folder), CODE)
    load_policy(str(folder), CODE)
    assert ran.exists()


def test_code_of_a_tokenizer_runs_on_request_only(
    tiny_model_dir: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder, ran = tiny_model_dir(), tmp_path / "ran"
    with_code(folder, "tokenizer_config.json", {"AutoTokenizer": [None, "code.MyTokenizer"]}, ran)
    with pytest.raises(TrimtabError, match=r"^tokenizer .*tokenizer_config.json asks for Python code"):
        load_tokenizer(str(folder))
    assert not ran.exists()
    assert type(load_tokenizer(str(folder), CODE)).__name__ == "MyTokenizer"
    assert ran.exists()


def test_hub_names_are_loaded_under_the_same_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers is told so in every call: it would ask a person on the terminal, and fall back to pickles."""
    asked: list[dict[str, Any]] = []

    def from_pretrained(source: str, **named: Any) -> Any:
        asked.append(named)
        if "use_safetensors" in named or "Tokenizer" in source:
            raise OSError("no hub here")

    for name in ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"):
        monkeypatch.setattr(getattr(transformers, name), "from_pretrained", from_pretrained)
    monkeypatch.setattr("trimtab.models.hub.socket.getaddrinfo", lambda *_: [])
    for settings, safe, code in ((ModelSettings(), True, False), (PICKLES, None, False), (CODE, True, True)):
        asked.clear()
        with pytest.raises(TrimtabError, match="no hub here"):
            load_policy("someone/model", settings)
        with pytest.raises(TrimtabError, match="no hub here"):
            load_tokenizer("someone/Tokenizer", settings)
        assert [one["trust_remote_code"] for one in asked] == [code] * 3
        assert asked[1]["use_safetensors"] is safe


def test_every_setting_that_names_a_model_can_trust_it() -> None:
    """Training, evaluation and a classifier as reward; a reward that is no model has nothing to trust."""
    given = {"allow_pickle": True, "trust_remote_code": True}
    for settings in (
        SFTSettings(learning_rate=1.0, **given),
        EvaluationSettings(**given),
        reward_settings(kind="classifier", model="m", **given),
    ):
        assert trusting(settings).model_dump(include=set(TrustSettings.model_fields)) == given
    with pytest.raises(ValueError, match="takes no allow_pickle"):
        reward_settings(kind="gold", allow_pickle=True)

"""The command's dead ends: exit code not 0, one message that says what, where and what to do, no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml

from trimtab import __version__, cli
from trimtab.data.hashing import hash_source
from trimtab.dead_ends import in_words
from trimtab.errors import TrimtabError

PAIRS = [{"prompt": f"Name {i}", "chosen": f"It is {i}.", "rejected": "No."} for i in range(6)]
FAST = ["--set", "max_steps=1", "--set", "batch_size=2", "--set", "warmup_steps=0"]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """run("sft", "--model", …) -> exit code, stdout, stderr; in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def command(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["trimtab", *map(str, words)])
        capsys.readouterr()  # what came before
        with pytest.raises(SystemExit) as left:
            cli.main()
        printed = capsys.readouterr()
        code = left.value.code
        return (code if isinstance(code, int) else int(code is not None)), printed.out, printed.err

    with mock.patch.dict(os.environ):  # the command sets what quietens the libraries
        os.environ.pop("TRIMTAB_DEBUG", None)
        yield command


@pytest.fixture
def dead_end(run: Callable[..., tuple[int, str, str]]) -> Callable[..., str]:
    """Runs a command that must fail, and gives its one message."""

    def command(*words: object) -> str:
        code, out, err = run(*words)
        assert code == 1
        assert "Traceback" not in err + out
        assert err.count("error: ") == 1
        before, _, message = err.partition("error: ")
        # What is said before it is a warning, as of the tiny model's tokenizer, or a library's bar.
        assert all(line.startswith("warning: ") or "it/s" in line for line in before.splitlines() if line.strip())
        return message.strip()

    return command


@pytest.fixture
def train(
    tiny_model_dir: Callable[..., Path], dead_end: Callable[..., str], write_jsonl: Callable[..., Path]
) -> Any:
    """train("sft", rows, *words): one step on these rows, of a model that the sharper tests never get to load."""
    model = tiny_model_dir()

    def command(method: str, rows: list[Any], *words: str) -> str:
        return dead_end(
            method, "--model", model, "--data", write_jsonl(rows, "mine.jsonl"), "--out", "out", *FAST, *words
        )

    return command


# ---- data


@pytest.mark.parametrize(
    ("method", "rows", "expected"),
    [
        (
            "dpo",
            [PAIRS[0], {"prompt": "p", "chosen": "c"}],
            ["mine.jsonl:2", "'rejected' is missing", "A row needs"],
        ),
        ("sft", [PAIRS[0], '{"prompt": '], ["mine.jsonl:2", "not valid JSON", "Mend or remove the line"]),
        ("sft", [], ["mine.jsonl", "the file is empty"]),
        (
            "dpo",
            [PAIRS[0] | {"chosen": 5}],
            ["mine.jsonl:1", "'chosen' must be text or a list of messages, found int"],
        ),
        ("dpo", [{"prompt": "p", "completion": "c"}], ["mine.jsonl:1", "needs 'chosen' and 'rejected'"]),
    ],
    ids=["missing column", "broken JSON", "empty file", "wrong type", "no pair"],
)
def test_bad_data(method: str, rows: list[Any], expected: list[str], train: Any) -> None:
    found = train(method, rows)
    for part in expected:
        assert part in found


def test_no_such_data(tiny_model_dir: Callable[..., Path], dead_end: Callable[..., str]) -> None:
    found = dead_end("sft", "--model", tiny_model_dir(), "--data", "absent.jsonl", "--out", "out")
    assert found == (
        "data absent.jsonl: no such file. Give a .jsonl, .json or .parquet file, votes (.sqlite), a folder of "
        "files, or the name of a hub data set."
    )


def test_nothing_left_after_truncation(train: Any) -> None:
    found = train("dpo", PAIRS, "--set", "data.max_length=3")
    assert "nothing is left of the 6 training rows (6 × prompt too long)" in found
    assert "Raise max_length" in found
    assert "mine.jsonl:1: prompt too long" in found


def test_conversation_without_a_chat_template(
    shared_data: Path, dead_end: Callable[..., str], write_jsonl: Callable[..., Path]
) -> None:
    rows = [{"prompt": [{"role": "user", "content": "Hi"}], "completion": [{"role": "assistant", "content": "Ho"}]}]
    model = shared_data / "models" / "stories260k"
    found = dead_end("sft", "--model", model, "--data", write_jsonl(rows), "--out", "out")
    assert found.startswith("rows.jsonl:1: ")
    assert "no chat template" in found
    assert "--tokenizer" in found


# ---- models


def test_model_folders(
    tiny_model_dir: Callable[..., Path],
    dead_end: Callable[..., str],
    write_jsonl: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """Without weights, without a config, without a tokenizer, and absent."""
    data = write_jsonl(PAIRS)

    def found(model: Path) -> str:
        return dead_end("sft", "--model", model, "--data", data, "--out", "out")

    weightless = tiny_model_dir("weightless")
    (weightless / "model.safetensors").unlink()
    assert "no weights (model.safetensors). Copy the weights there" in found(weightless)
    (weightless / "config.json").unlink()
    assert "no config.json in it" in found(weightless)
    assert "no such folder. Give a Hugging Face folder or a hub name" in found(tmp_path / "absent")
    stage = tiny_model_dir("stage/best").parent
    assert found(stage).endswith(f"so it is no Hugging Face model folder. Its model is {stage}/best.")
    wordless = tiny_model_dir("wordless")
    for file in wordless.glob("*token*"):
        file.unlink()
    assert "no tokenizer files" in found(wordless)
    assert "the sandbox has sandbox:base and sandbox:instruct" in found(Path("sandbox:best"))


def test_a_reward_model_is_no_policy_in_any_command(
    tiny_model_dir: Callable[..., Path],
    dead_end: Callable[..., str],
    write_jsonl: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """Also where its embeddings are tied, so that no tensor is missing. A policy is no reward, and no judge."""
    data, policy, reward = write_jsonl(PAIRS), tiny_model_dir(), tiny_model_dir("reward")
    config = json.loads((reward / "config.json").read_text())
    (reward / "config.json").write_text(
        json.dumps(config | {"architectures": ["Qwen2ForSequenceClassification"], "id2label": {"0": "0"}})
    )
    for command in ("sft", "dpo", "grpo", "ppo", "online-dpo", "evaluate", "generate"):
        scored = ["--reward", f"{tmp_path}/r.py:f"] if command in ("grpo", "ppo", "online-dpo") else []
        (tmp_path / "r.py").write_text("def f(completions):\n    return [0.0] * len(completions)\n")
        said = dead_end(command, "--model", reward, "--data", data, "--out", f"out-{command}", *scored)
        assert f"model {reward}: no language model to train or to sample from but a sequence classifier" in said
    judged = ["--data", data, "--out", "out", "--judge", f"{tmp_path}/r.py:f"]
    assert "but a sequence classifier" in dead_end("evaluate", "--model", policy, "--opponent", reward, *judged)
    said = dead_end("grpo", "--model", policy, "--data", data, "--out", "out", "--reward", policy)
    assert "no reward model but a causal language model" in said
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump({"name": "a", "model": str(reward), "data": {"train": str(data), "test_rows": 1}})
    )
    for command in (["study", recipe], ["plan", recipe]):
        assert "but a sequence classifier" in dead_end(*command)


def test_the_home_folder_in_every_path(
    tiny_model_dir: Callable[..., Path],
    run: Callable[..., tuple[int, str, str]],
    write_jsonl: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """As no shell reads it: --model=~/x, and in a recipe."""
    monkeypatch.setenv("HOME", str(tmp_path))
    tiny_model_dir("model")
    write_jsonl(PAIRS)
    common = ["--model=~/model", "--tokenizer=~/model", "--data=~/rows.jsonl", "--validation=~/rows.jsonl"]
    code, out, _ = run("sft", *common, "--out=~/out", *FAST)
    assert code == 0
    assert out.strip().endswith(f"Model: {tmp_path}/out/best")
    code, _, _ = run(
        "evaluate", "--model=~/out/best", "--data=~/rows.jsonl", "--out=~/judged", "--opponent=~/model",
        "--judge=yes_no:~/model", "--set", "decoding.max_new_tokens=2",
    )  # fmt: skip
    assert code == 0
    assert (tmp_path / "judged" / "report.html").is_file()
    assert not (tmp_path / "~").exists()


# ---- settings


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("learning_rat=1", "--set (dpo): unknown setting 'learning_rat'. Did you mean 'learning_rate'?"),
        ("loss=dppo", "--set (dpo): loss: unknown loss 'dppo'; known: dpo"),
        ("data.max_lenght=9", "--set (data): unknown setting 'max_lenght'. Did you mean 'max_length'?"),
        (
            "validation_rows=9",
            "--set (dpo): unknown setting 'validation_rows'. Did you mean 'data.validation_rows'?",
        ),
        ("dpo.beta=1", "--set (dpo): unknown setting 'dpo'. A command for one stage takes its settings without"),
        ("lr=1", "--set (dpo): unknown setting 'lr'. Known: "),
        ("beta", "--set 'beta': expected key=value, such as sft.learning_rate=1e-4."),
    ],
)
def test_settings(setting: str, expected: str, dead_end: Callable[..., str]) -> None:
    found = dead_end("dpo", "--model", "m", "--data", "d.jsonl", "--out", "out", "--set", setting)
    assert found.startswith(expected)


def test_recipes(dead_end: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("name: r\nmodel: m\nsandbx: {}\n")
    found = dead_end("study", "absent.yaml")
    assert found.startswith("recipe absent.yaml: no such file. These come with trimtab, by their names alone: ")
    assert "Did you mean 'quickstart'?" in dead_end("study", "quickstrat")
    assert "Did you mean r.yaml?" in dead_end("plan", "r")
    assert "r.yaml: unknown setting 'sandbx'. Did you mean 'sandbox'?" in dead_end("study", "r.yaml")


def test_judge_and_opponent_go_together(dead_end: Callable[..., str]) -> None:
    words = ("evaluate", "--model", "m", "--data", "d.jsonl", "--out", "out")
    assert "--judge and --opponent go together" in dead_end(*words, "--judge", "gold")
    found = dead_end(*words, "--judge", "golden", "--opponent", "m")
    assert found.startswith("reward 'golden': no such folder, nor a name of a reward. Known: exact_answer, gold,")


# ---- folders that are taken


def test_a_stage_is_finished_once_and_its_folder_is_kept(
    run: Callable[..., tuple[int, str, str]],
    dead_end: Callable[..., str],
    tiny_model_dir: Callable[..., Path],
    write_jsonl: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """Done; done already; other settings refused, naming what differs; a stranger's folder refused."""
    words = ("sft", "--model", tiny_model_dir(), "--data", write_jsonl(PAIRS), *FAST)
    code, out, _ = run(*words, "--out", "out")
    assert (code, out) == (0, "Model: out/best\n")
    done = (tmp_path / "out" / "done.json").read_bytes()

    assert run(*words, "--out", "out")[0] == 0
    assert (tmp_path / "out" / "done.json").read_bytes() == done

    assert dead_end(*words, "--out", "out", "--set", "learning_rate=0.5") == (
        "out: holds another run (its settings.learning_rate differ). "
        "Choose another output folder, or remove this one."
    )
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("mine")
    assert "not a folder of trimtab's" in dead_end(*words, "--out", "other")
    assert (tmp_path / "other" / "letter.txt").read_text() == "mine"


def test_the_same_command_works_once_the_data_are_mended(
    run: Callable[..., tuple[int, str, str]],
    dead_end: Callable[..., str],
    tiny_model_dir: Callable[..., Path],
    write_jsonl: Callable[..., Path],
) -> None:
    """The message says to mend the line: what failed before its first step must not keep the folder."""
    words = ("sft", "--model", tiny_model_dir(), "--data", write_jsonl([*PAIRS, "{"]), "--out", "out", *FAST)
    assert "Mend or remove the line" in dead_end(*words)
    write_jsonl(PAIRS)
    assert run(*words) == (0, "Model: out/best\n", mock.ANY)


def test_a_study_that_never_began_keeps_no_folder(dead_end: Callable[..., str], tmp_path: Path) -> None:
    """A misspelt file is spelt otherwise in the next try."""
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"name": "r", "model": "m", "data": {"train": "a.jsonl"}}))
    assert dead_end("study", "r.yaml").startswith("data a.jsonl: no such file")
    assert dead_end("study", "r.yaml", "--set", "data.train=b.jsonl").startswith("data b.jsonl: no such file")


def test_a_study_refuses_the_folder_of_another(dead_end: Callable[..., str], tmp_path: Path) -> None:
    from trimtab.recipe import load_recipe
    from trimtab.study.folder import open_study_folder

    recipe = tmp_path / "r.yaml"
    recipe.write_text(yaml.safe_dump({"name": "r", "model": "m", "data": {"train": "rows.jsonl"}}))
    (tmp_path / "rows.jsonl").write_text("{}")
    open_study_folder(load_recipe(recipe), tmp_path / "taken")
    (tmp_path / "taken" / "seed-0" / "stages" / "sft").mkdir(parents=True)
    (tmp_path / "taken" / "seed-0" / "stages" / "sft" / "done.json").write_text("{}")
    found = dead_end("study", recipe, "--out", "taken", "--set", "dpo.beta=0.5")
    assert found == (
        "taken: holds another study (its dpo.beta differ). Choose another --out, or remove this folder."
    )
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("mine")
    assert "not a study of trimtab's" in dead_end("study", recipe, "--out", "other")
    assert "no results.json in it" in dead_end("report", "other")


def test_a_study_that_never_began_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    """A user's recipe.yaml and data beside it are nobody's study; only the sandbox's rows are remade."""
    from trimtab.recipe import load_recipe
    from trimtab.study.folder import open_study_folder

    mine = tmp_path / "mine"
    (mine / "data").mkdir(parents=True)
    recipe = mine / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"name": "r", "model": "m", "data": {"train": "data/train.jsonl"}}))
    rows = mine / "data" / "train.jsonl"
    rows.write_text("my rows")
    with pytest.raises(TrimtabError, match="not a study of trimtab's"):
        open_study_folder(load_recipe(recipe), mine)
    for beta in ("0.1", "0.2"):  # the second finds the first, which never began
        open_study_folder(load_recipe(recipe, [f"dpo.beta={beta}"]), tmp_path / "study")
        (tmp_path / "study" / "data").mkdir(exist_ok=True)
        (tmp_path / "study" / "data" / "train.jsonl").write_text("my rows")
    assert rows.read_text() == "my rows"
    assert (tmp_path / "study" / "data" / "train.jsonl").read_text() == "my rows"


def test_out_of_memory_is_one_message(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")

    monkeypatch.setattr("trimtab.study.asked.report_asked", full)
    code, _, err = run("report", "folder")
    assert code == 1
    assert err.startswith("error: out of memory on the device. Lower token_budget")
    assert "2 GiB" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("thrown", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: …")])
def test_too_little_memory_without_a_device(
    thrown: Exception, run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab.study.asked.report_asked", mock.Mock(side_effect=thrown))
    code, _, err = run("report", "folder")
    assert code == 1
    assert err.startswith("error: out of memory. Lower token_budget")
    assert err.count("\n") == 1


def test_seeds_are_whole_numbers(dead_end: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"name": "r", "model": "m", "data": {"train": "a.jsonl"}}))
    for bad in ("0,x", "", "-1", "0,,1"):
        assert dead_end("study", "r.yaml", "--seeds", bad).startswith(f"--seeds {bad!r}: expected whole numbers")


def test_rewards_by_their_short_names() -> None:
    from trimtab.rewards.settings import reward_named

    assert reward_named("gold").kind == "gold"
    assert reward_named("my.py:f").path == "my.py:f"
    assert reward_named("org/model").model == "org/model"


# ---- how it ends


def test_stopping_says_how_to_go_on(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("trimtab.study.asked.report_asked", interrupted)
    assert run("report", "folder") == (
        130,
        "",
        "stopped; the same command goes on from the last checkpoint\n",
    )


def test_usage(run: Callable[..., tuple[int, str, str]]) -> None:
    """A word that is no command, or a missing option, is 2; the version is 0."""
    assert run("trian")[0] == 2
    code, _, err = run("sft", "--data", "d.jsonl", "--out", "out")
    assert code == 2
    assert "--model" in err
    assert run("version") == (0, f"{__version__}\n", "")


@pytest.mark.parametrize("debug", [False, True])
def test_as_a_process_of_its_own(debug: bool, write_jsonl: Callable[..., Path], tmp_path: Path) -> None:
    """One line without --debug, the traceback with it."""
    (tmp_path / "m").mkdir()
    command = [sys.executable, "-m", "trimtab.cli", *(["--debug"] if debug else [])]
    words = ["sft", "--model", "./m", "--data", str(write_jsonl(PAIRS)), "--out", "out"]
    env = {name: value for name, value in os.environ.items() if name != "TRIMTAB_DEBUG"}
    done = subprocess.run([*command, *words], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    message = "model ./m: no config.json in it, so it is no Hugging Face model folder. It is empty."
    assert done.returncode != 0
    assert done.stdout == ""
    if debug:
        assert "Traceback (most recent call last)" in done.stderr
        assert done.stderr.rstrip().endswith(f"TrimtabError: {message}")
    else:
        assert done.stderr == f"error: {message}\n"


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In this process: the error itself comes through."""
    monkeypatch.setattr(sys, "argv", ["trimtab", "--debug", "report", str(tmp_path)])
    with mock.patch.dict(os.environ), pytest.raises(TrimtabError, match=r"no results\.json"):
        cli.main()


def test_data_is_described_beside_the_model(
    run: Callable[..., tuple[int, str, str]],
    tiny_model_dir: Callable[..., Path],
    write_jsonl: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """data.json of a DPO run with one identical pair: 5 of 6 rows are used, and the sixth is named."""
    rows = [*PAIRS[:5], PAIRS[5] | {"rejected": PAIRS[5]["chosen"]}]
    words = ("dpo", "--model", tiny_model_dir(), "--data", write_jsonl(rows), "--out", "out", *FAST)
    assert run(*words)[0] == 0
    counts = json.loads((tmp_path / "out" / "data.json").read_text())["train"]
    assert (counts["rows"], counts["used"]) == (6, 5)
    assert counts["dropped"] == {"identical completions": 1}
    assert counts["dropped_rows"] == ["rows.jsonl:6: identical completions"]


def test_audit(
    run: Callable[..., tuple[int, str, str]],
    dead_end: Callable[..., str],
    write_jsonl: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tables on stdout, files where asked for; settings are those of training."""
    monkeypatch.setenv("COLUMNS", "300")
    data = write_jsonl([*PAIRS, {"question": "[bold]", "chosen": 3, "rejected": "b"}])
    code, out, _ = run("audit", data, "--out", "found", "--set", "data.validation_rows=2")
    assert code == 0
    assert out.endswith("Audit: found/audit.md\n")
    for part in ("train ┃ validation", "'chosen' must be text", "Layout: pairs (6)", "rows.jsonl:7"):
        assert part in out
    assert json.loads(Path("found/audit.json").read_text())["splits"]["train"]["rows"] == 4
    assert run("audit", data)[:2] == (0, mock.ANY)
    assert "no such file" in dead_end("audit", "absent.jsonl")
    assert "unknown setting 'beta'" in dead_end("audit", data, "--set", "beta=1")


def test_a_model_that_is_neither_here_nor_on_the_hub(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, write_jsonl: Callable[..., Path]
) -> None:
    """A misspelt folder is taken for a hub name; the message says both, and that it is the model's."""
    from transformers import AutoConfig

    def absent(*_: object, **__: object) -> None:
        raise OSError("no such repository\nmore")

    monkeypatch.setattr(AutoConfig, "from_pretrained", absent)
    monkeypatch.setattr("trimtab.models.hub.socket.getaddrinfo", mock.Mock())
    code, _, err = run("sft", "--model", "modle", "--data", write_jsonl(PAIRS), "--out", "out")
    assert code == 1
    assert "model modle: there is no such folder here, and from the hub: no such repository" in err


# ---- what every command takes


def test_version_help_and_completion(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a user of any command expects; completion's script and words come without loading any library."""
    assert run("--version") == (0, f"{__version__}\n", "")
    for words in (("-h",), ("sft", "-h"), ("study", "--help")):
        code, out, err = run(*words)
        assert (code, err) == (0, "")
        assert out.lstrip().startswith("Usage: trimtab")
    with monkeypatch.context() as asking:
        asking.setenv("_TRIMTAB_COMPLETE", "source_bash")
        assert "_trimtab_completion" in run()[1]
    for line, place, word in (("trimtab st", 1, "study"), ("trimtab dpo --va", 2, "--validation")):
        monkeypatch.setenv("_TRIMTAB_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(place))
        assert run()[1].split() == [word]


def test_what_a_command_says_is_one_line_each(run: Callable[..., tuple[int, str, str]]) -> None:
    """In a file there is nothing to wrap to; not even a mistake on the command line stands in a frame."""
    long = "nosuch-" * 30
    assert run("report", long) == (
        1,
        "",
        f"error: {long}: no results.json in it. Run the study first, or name a study's folder.\n",
    )
    code, _, err = run("sft", f"--{long}")
    assert code == 2
    assert f"Error: No such option: --{long}\n" in err


def test_quiet_wherever_it_stands(
    run: Callable[..., tuple[int, str, str]],
    tiny_model_dir: Callable[..., Path],
    write_jsonl: Callable[..., Path],
) -> None:
    """Before the command or behind it: the result alone; after `--` a word is an argument like any other."""
    words = ("sft", "--model", tiny_model_dir(), "--data", write_jsonl(PAIRS), *FAST)
    assert "sft: 1/1" in run(*words, "--out", "loud")[2]
    for place, quiet in enumerate((["--quiet", *words], [*words, "-q"])):
        code, out, err = run(*quiet, "--out", f"quiet{place}")
        assert code == 0
        assert f"Model: quiet{place}/best\n" in out
        # The bars are of libraries that were imported before the command could quieten them.
        said = [line for line in err.splitlines() if "it/s" not in line and line.strip()]
        assert [line for line in said if not line.startswith("warning: ")] == []
    assert "--quiet: no results.json" in run("report", "--", "--quiet")[2]


@pytest.mark.parametrize("given", ["", "  "])
def test_a_reward_without_a_name(given: str, dead_end: Callable[..., str]) -> None:
    for words in (
        ("grpo", "--model", "m", "--data", "d.jsonl", "--out", "o", "--reward", given),
        ("evaluate", "--model", "m", "--data", "d.jsonl", "--out", "o", "--opponent", "x", "--judge", given),
    ):
        found = dead_end(*words)
        assert found.startswith("a reward or judge without a name. Known: exact_answer, gold, ")
    found = dead_end("grpo", "--model", "m", "--data", "d.jsonl", "--out", "o", "--reward", "yes_no:")
    assert found == "reward yes_no:: name the model behind the colon, as in yes_no:FOLDER."


def test_gold_on_data_of_ones_own(
    tiny_model_dir: Callable[..., Path], dead_end: Callable[..., str], write_jsonl: Callable[..., Path]
) -> None:
    model, rows = tiny_model_dir(), write_jsonl(PAIRS, "mine.jsonl")
    common = ("--model", model, "--data", rows, "--out", "o")
    for words in (
        ("grpo", *common, "--reward", "gold"),
        ("online-dpo", *common, "--reward", "gold"),
        ("evaluate", *common, "--opponent", model, "--judge", "gold"),
    ):
        found = dead_end(*words)
        assert f"{words[-2]} gold: it knows the sandbox's prompts only" in found
    assert not Path("o").exists()


def test_a_judges_column_is_missed_before_anything_is_generated(
    tiny_model_dir: Callable[..., Path],
    dead_end: Callable[..., str],
    tmp_path: Path,
    write_jsonl: Callable[..., Path],
) -> None:
    model, data = tiny_model_dir(), write_jsonl(PAIRS, "d.jsonl")
    (tmp_path / "r.py").write_text("def f(completions, answer): return [1.0] * len(completions)\n")
    words = ("evaluate", "--model", model, "--data", data, "--out", "out", "--opponent", model, "--judge", "r.py:f")
    assert "reward function f: needs answer, which is not there" in dead_end(*words)
    assert not (tmp_path / "out" / "evaluation").exists()


@pytest.mark.parametrize("content", ["[1]", '{"name": "x"', "{}"])
def test_results_that_cannot_be_read_are_one_line(
    content: str, dead_end: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "results.json").write_text(content)
    found = dead_end("report", tmp_path)
    assert "results.json: not results that this version can read: " in found
    assert "\n" not in found


def test_a_file_that_may_not_be_read_is_not_called_one_to_write(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text("{}")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert in_words(PermissionError(13, "Permission denied", str(path))) == (
        f"{path}: cannot be read: there is no permission to read it (Permission denied)."
    )
    monkeypatch.setattr(Path, "open", mock.Mock(side_effect=PermissionError(13, "Permission denied", str(path))))
    with pytest.raises(TrimtabError, match=r"d\.jsonl: cannot be read \(Permission denied\)"):
        hash_source(str(path))

"""What to run: a YAML file and dotted overrides. Unknown keys are errors that name the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from trimtab.catalogue import CATALOGUE, SFT, compared_methods
from trimtab.data.settings import ROWS, Seed, Settings
from trimtab.data.splits import DataSettings
from trimtab.data.trust import TrustSettings
from trimtab.data.yaml_text import read_yaml
from trimtab.errors import TrimtabError
from trimtab.evaluation.measure import EvaluationSettings
from trimtab.methods.table import METHODS
from trimtab.rewards.settings import RewardSettings
from trimtab.sandbox.settings import SandboxSettings
from trimtab.training.schedule import TrainingSettings

SHIPPED = Path(__file__).parent / "recipes"
USUAL = ["base", "sft", "dpo"]
Parsed = TypeVar("Parsed", bound=BaseModel)


def _known_method(name: str) -> str:
    if name not in compared_methods():
        *others, last = map(repr, compared_methods())
        raise ValueError(f"Input should be {', '.join(others)} or {last}")
    return name


class _BesideStages(Settings):
    """What a recipe says before its stages."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The study's name, and its folder's: runs/NAME."""
    seed: Seed = 0
    """For stages that set none of their own."""
    model: str
    """A Hugging Face folder or hub name, or sandbox:base."""
    tokenizer: str | None = None
    """Where the tokenizer is, when the model's folder has none or not the right one."""
    opponent: str | None = None
    """The model that win rates are against."""
    judge: RewardSettings | None = None
    """Who scores completions for win rates: gold (the sandbox's own), or any other reward, by its short name
    or with its settings. None: no win rates."""
    limit: int | None = Field(None, gt=0, le=ROWS)
    """A quick try: at most so many rows of each split, the first, whatever the data; None: all."""
    methods: list[Annotated[str, AfterValidator(_known_method)]] = USUAL
    """What is trained and compared. base is the model as it is; every other method but sft_length starts
    from sft."""
    data: DataSettings | None = None
    """Your own rows; this or sandbox."""
    sandbox: SandboxSettings | None = None
    """Rows of trimtab's sandbox; this or data."""


def _stage_fields() -> dict[str, Any]:
    """A setting for each method of the table, with that method's settings."""
    fields: dict[str, Any] = {}
    for name, binding in METHODS.items():
        kind, usual = binding.settings, binding.settings.model_validate({})
        title = CATALOGUE[name].title[0].upper() + CATALOGUE[name].title[1:]
        if binding.inherits is None:
            fields[name] = kind, Field(usual, description=f"{title}.")
        else:
            fields[name] = (
                kind | None,
                Field(None, description=f"{title}; None: the settings of {binding.inherits}."),
            )
    return fields


if TYPE_CHECKING:
    _WithStages = _BesideStages
else:
    _WithStages = create_model("_WithStages", __base__=_BesideStages, **_stage_fields())


class Recipe(_WithStages):
    """A study: models, data, and settings by the name of each method in methods/table.py."""

    reward_model: str | None = None
    """What the reward model starts from that a study trains for rewards of kind 'trained'; None: the SFT model."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """How every method is evaluated."""

    @field_validator("judge", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        try:
            return reward_named(value).model_dump(exclude_unset=True) if isinstance(value, str) else value
        except TrimtabError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.data is None) == (self.sandbox is None):
            raise ValueError("give either 'data' (your own) or 'sandbox' (the embedded world)")
        if self.judge is not None:
            check_judge(self.judge, in_sandbox=self.sandbox is not None)
        if (self.judge is None) != (self.opponent is None):
            raise ValueError("'judge' and 'opponent' go together: a win rate needs both")
        if not self.methods or len(set(self.methods)) != len(self.methods):
            raise ValueError("'methods' must name at least one method, and none twice")
        for name, method in self.rewarded.items():
            if not method.rewards:
                raise ValueError(f"method '{name}' needs a reward: {name}.rewards, such as [{{kind: trained}}]")
            if self.sandbox is None and any(r.kind == "gold" for r in method.rewards):
                raise ValueError("a reward of kind 'gold' knows the sandbox's world only")
            if not CATALOGUE[name].in_rounds and any(r.asks_policy for r in method.rewards):
                raise ValueError(
                    f"{name}'s reward of kind 'yes_no' needs a model: only online_dpo asks the policy itself"
                )
        _check_length_encoding(self)
        for stage in map(self._own, METHODS):
            if stage is not None and "seed" not in stage.model_fields_set:
                stage.seed = self.seed
        return self

    def _own(self, method: str) -> TrainingSettings | None:
        """What the recipe sets of a method; None where it has nothing of its own."""
        settings: TrainingSettings | None = getattr(self, method)
        return settings

    def settings_of(self, method: str) -> Any:
        """What a method's stage runs with."""
        binding = METHODS[method]
        settings = self._own(method)
        if settings is None and binding.inherits is not None:
            settings = self._own(binding.inherits)
        return binding.complete(settings)

    def rewards_of(self, method: str) -> tuple[RewardSettings, ...]:
        """The rewards that drive a method; none for one that trains on data alone."""
        return tuple(getattr(self._own(method), "rewards", ()))

    @property
    def rewarded(self) -> dict[str, Any]:
        """The methods of this study that a reward drives, with their settings, in the catalogue's order."""
        return {
            name: self.settings_of(name)
            for name, entry in CATALOGUE.items()
            if entry.driven_by == "reward" and name in self.methods
        }

    @property
    def trains_reward(self) -> bool:
        return any(r.kind == "trained" for settings in self.rewarded.values() for r in settings.rewards)


def _check_length_encoding(recipe: Recipe) -> None:
    """ValueError where a method, or the engine of one, cannot count down."""
    for name in recipe.methods:
        if (
            name in METHODS
            and (of := recipe.settings_of(name))
            and _counts_down(of)
            and of.length_penalty is not None
        ):
            raise ValueError(
                f"method '{name}' is SFT with the length penalty, which excludes length_encoding: give {name} "
                "settings of its own without it"
            )
    following = [name for name in recipe.methods if CATALOGUE[name].starts_from == SFT]
    if not _counts_down(recipe.settings_of(SFT)) or not {SFT, *following} & set(recipe.methods):
        return
    for name in following:
        if not METHODS[name].method.counts_down:
            raise ValueError(f"method '{name}' cannot go on from SFT with a length_encoding: leave one of them out")
    engines = {recipe.evaluation.decoding.engine, *(one.sampling.engine for one in recipe.rewarded.values())}
    if "vllm" in engines:
        raise ValueError("sft.length_encoding needs engine transformers: vLLM has no input for it")


def _counts_down(settings: TrainingSettings) -> bool:
    return getattr(settings, "length_encoding", None) is not None


def seeds_named(text: str) -> list[int]:
    """`--seeds 0,1,2`."""
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0 or max(seeds) >= 2**64:
        raise TrimtabError(
            f"--seeds {text!r}: expected whole numbers from 0 to 2⁶⁴ − 1 with commas between, such as 0,1,2."
        )
    return seeds


def stage_settings(
    method: str, data: str, validation: str | None, overrides: Sequence[str], rewards: Sequence[str] = ()
) -> tuple[TrainingSettings, DataSettings]:
    """The settings of one stage run by itself: `beta=0.2` is the method's, `data.max_length=512` the data's.

    rewards: of a method that has some, by their short names (see `reward_named`).
    """
    value = apply_overrides({}, overrides)
    rows = data_settings(data, validation, value.pop("data", {}))
    if rewards:
        value["rewards"] = [reward_named(reward).model_dump(exclude_unset=True) for reward in rewards]
    return parse(METHODS[method].settings, value, f"--set ({method})"), rows


def check_judge(judge: RewardSettings, in_sandbox: bool) -> None:
    """ValueError for a reward that can't judge a study."""
    if judge.kind == "gold" and not in_sandbox:
        raise ValueError("judge 'gold' knows the sandbox's world only; leave it out for your own data")
    if judge.kind == "trained":
        raise ValueError("the judge can't be the reward model that the study trains: it is what is optimised")
    if judge.asks_policy:
        raise ValueError("a judge of kind 'yes_no' needs a model: no policy can judge itself")
    if judge.weight != 1:
        raise ValueError("a judge has no weight: win rates compare its scores with each other")


REWARDS_KNOWN = (
    "gold, nemotron, nemotron_local:FOLDER, vllm:MODEL@URL, yes_no:FOLDER, file.py:function, and a classifier's "
    "folder or hub name (A/B)"
)


def reward_named(name: str) -> RewardSettings:
    """A reward by its short name: gold, nemotron, nemotron_local:FOLDER, vllm:MODEL@URL, yes_no:FOLDER, yes_no
    (the policy itself), file.py:function, or a classifier's folder or hub name."""
    name = name.strip()
    kind, _, rest = name.partition(":")
    if not name:
        raise TrimtabError(f"a reward or judge without a name. Known: {REWARDS_KNOWN}.")
    if kind in ("nemotron_local", "yes_no") and name != kind and not rest:
        raise TrimtabError(f"reward {name}: name the model behind the colon, as in {kind}:FOLDER.")
    if name in ("gold", "nemotron", "yes_no"):
        return RewardSettings(kind=cast(Any, name))
    if kind in ("nemotron_local", "yes_no"):
        return parse(RewardSettings, {"kind": kind, "model": rest}, f"reward {name}")
    if kind == "vllm":
        model, _, url = rest.rpartition("@")
        if not model or not url:
            raise TrimtabError("reward vllm:…: write it as vllm:MODEL@http://HOST:PORT.")
        return parse(RewardSettings, {"kind": kind, "model": model, "base_url": url}, "reward vllm:…")
    if ":" in name and not Path(name).expanduser().is_dir():
        return RewardSettings(kind="function", path=name)
    if "/" not in name and not Path(name).expanduser().is_dir():
        raise TrimtabError(f"reward {name!r}: no such folder, nor a name of a reward. Known: {REWARDS_KNOWN}.")
    return RewardSettings(kind="classifier", model=name)


def data_settings(data: str, validation: str | None, value: dict[str, Any]) -> DataSettings:
    if not isinstance(value, dict):
        raise TrimtabError(f"--set data={value}: data has settings inside, such as data.max_length=512.")
    given = {"train": data} | ({"validation": validation} if validation else {})
    for name, source in given.items():
        option = "--data" if name == "train" else f"--{name}"
        if value.get(name, source) != source:
            raise TrimtabError(f"--set data.{name}={value[name]}: {option} says {source}. Give one of the two.")
    return parse(DataSettings, given | value, "--set (data)")


def audit_settings(
    data: str, validation: str | None, overrides: Sequence[str], has_tokenizer: bool = True
) -> tuple[DataSettings, TrustSettings]:
    """The settings of `trimtab audit`: `data.max_length=512` as in training; trust_remote_code the tokenizer's."""
    value = apply_overrides({}, overrides)
    given = value.pop("data", {})
    rows = data_settings(data, validation, given)
    counted = [name for name in ("max_length", "min_completion_length") if name in given]
    if counted and not has_tokenizer:
        raise TrimtabError(f"--set data.{counted[0]}: it counts tokens, so name whose with --model or --tokenizer.")
    return rows, parse(TrustSettings, value, "--set (audit)")


def recipe_file(path: Path) -> Path:
    """A file, or a recipe that comes with the package, by its name alone: quickstart."""
    if path.is_file():
        return path
    known = {file.stem: file for file in sorted(SHIPPED.glob("*.yaml"))}
    name = str(path).removesuffix(".yaml")
    if name in known:
        return known[name]
    beside = path.with_name(f"{path.name}.yaml") if path.name else path
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {beside}?" if beside.is_file() else f" Did you mean {near[0]!r}?" if near else ""
    raise TrimtabError(
        f"recipe {path}: no such file.{hint} These come with trimtab, by their names alone: {', '.join(known)}; "
        "`trimtab init` writes one for your model and data."
    )


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    path = recipe_file(path.expanduser())
    try:
        value = read_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TrimtabError(f"recipe {path}: not valid YAML: {error}") from None
    if not isinstance(value, dict):
        raise TrimtabError(f"recipe {path}: expected settings with names, found {type(value).__name__}.")
    return parse(Recipe, apply_overrides(value, overrides), str(path))


def apply_overrides(value: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`sft.learning_rate=1e-4`: the value is read as YAML."""
    for override in overrides:
        key, found, text = override.partition("=")
        if not found or not key:
            raise TrimtabError(f"--set {override!r}: expected key=value, such as sft.learning_rate=1e-4.")
        *path, last = key.split(".")
        place = value
        for part in path:
            if place.get(part) is None:
                place[part] = {}
            place = place[part]
            if not isinstance(place, dict):
                raise TrimtabError(f"--set {override!r}: {part!r} is a value, and has no settings inside.")
        try:
            place[last] = read_yaml(text)
        except ValueError as error:
            raise TrimtabError(f"--set {override!r}: the value is not valid YAML: {error}") from None
    return value


def parse(model: type[Parsed], value: dict[str, Any], where: str) -> Parsed:
    """Validates, and turns what is wrong into one message a person can act on."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise TrimtabError("\n".join(_explain(model, one, where) for one in _said_once(error.errors()))) from None


def _said_once(errors: Sequence[Any]) -> list[Any]:
    """Of a setting that may be of several types pydantic names every type, each with an error: what is kept is the
    one that went furthest, and the types are no part of a name."""
    kept: dict[tuple[Any, ...], Any] = {}
    for one in errors:
        types = [i for i, part in enumerate(one["loc"]) if _names_a_type(part)]
        place = one["loc"][: types[0]] if types else one["loc"]
        if place not in kept or len(one["loc"]) > len(kept[place]["loc"]):
            kept[place] = one
    return [one | {"loc": tuple(part for part in one["loc"] if not _names_a_type(part))} for one in kept.values()]


def shortened(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"


def _names_a_type(part: Any) -> bool:
    return isinstance(part, str) and (part in ("str", "int", "float", "bool") or "[" in part)


def _explain(model: type[BaseModel], item: Any, where: str) -> str:
    *path, last = item["loc"] or ("",)
    name = ".".join(map(str, item["loc"]))
    if item["type"] == "extra_forbidden":
        known = list(_fields(model, path))
        # Stricter where the name is short: 'lr' is no misspelt 'lora'.
        near = difflib.get_close_matches(str(last), known, n=1, cutoff=0.6 if len(str(last)) > 3 else 0.8)
        hint = f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(sorted(known))}."
        if not path and last in DataSettings.model_fields:
            hint = f" Did you mean 'data.{last}'?"
        elif not path and last in METHODS and not issubclass(model, Recipe):
            hint = (
                " A command for one stage takes its settings without the stage's name, such as learning_rate=1e-5."
            )
        return f"{where}: unknown setting {name!r}.{hint}"
    message = item["msg"].removeprefix("Value error, ")
    given = item.get("input")
    # An address may hold a password.
    plain = isinstance(given, (str, float, bool, type(None))) and "://" not in str(given)
    plain = plain or (isinstance(given, int) and abs(given) < 10**40)
    shown = f" (given: {shortened(repr(given))})" if plain else ""
    return f"{where}: {name}: {message}{shown}" if name else f"{where}: {message}"


def _fields(model: type[BaseModel], path: Sequence[Any]) -> dict[str, Any]:
    """The settings that are known at a place."""
    for part in path:
        field = model.model_fields.get(str(part))
        annotation = field.annotation if field else None
        options = [annotation, *getattr(annotation, "__args__", ())]
        inner = [t for t in options if isinstance(t, type) and issubclass(t, BaseModel)]
        if not inner:
            return {}
        model = inner[0]
    return dict(model.model_fields)

"""Which standard tasks a study's models are asked, and how: `tasks` in a recipe."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from trimtab.data.settings import IN_MEMORY, ROWS, TOKENS, Settings

TaskName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]
"""As lm-eval has them: a task, a group or a tag."""


def _each_once(names: list[str]) -> list[str]:
    if repeated := [name for i, name in enumerate(names) if name in names[:i]]:
        raise ValueError(f"{repeated[0]!r} is there twice")
    return names


class TaskSettings(Settings):
    """Standard tasks, by lm-eval's own engine. Its names alone will do: tasks: [ifeval, gsm8k]."""

    names: Annotated[list[TaskName], AfterValidator(_each_once)] = Field(min_length=1)
    """Tasks, groups or tags of lm-eval, or of include_path."""
    include_path: str | None = None
    """A folder with task files of your own (YAML), and their data."""
    limit: int | None = Field(None, gt=0, le=ROWS)
    """Documents of each task at most, the first; None: all."""
    num_fewshot: int | None = Field(None, ge=0, le=1000)
    """Examples before each question; None: as each task has it. A task that is set to 0 keeps 0."""
    metrics: dict[str, str] = Field({})
    """The headline metric by task, such as {arc_challenge: acc_norm}; others: the task's first."""
    chat_template: bool | None = None
    """Whether questions are put as a user's turn; None: where the model that the study starts from has a
    template."""
    max_new_tokens: int | None = Field(None, gt=0, le=TOKENS)
    """Tokens of an answer at most; None: as each task has it."""
    batch_size: int = Field(8, gt=0, le=IN_MEMORY)
    """Requests that are computed together: memory and speed."""
    run_code: bool = False
    """Whether code that the model wrote may run on this machine: tasks such as humaneval need it."""


def _by_names(value: object) -> object:
    return {"names": value} if isinstance(value, list | tuple) else value


Tasks = Annotated[TaskSettings, BeforeValidator(_by_names, json_schema_input_type=list[TaskName] | TaskSettings)]
"""In a recipe: settings, or a list of names."""

#!/bin/bash
# A scorer of inspect-ai may give several grades at once, a dict or a list. Its built-in metrics then count every
# sample as 0, and so they count a grade in words; the evaluation is a success. On a terminal a warning says of each
# that it is no number; the log that is kept has the 0 alone. Exits 0 while it does so.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q inspect-ai==0.3.285
cd "$folder"; venv/bin/python - <<'PY'
from importlib.metadata import version

from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.scorer import Score, mean, scorer
from inspect_ai.solver import solver


@solver
def untouched():
    async def solve(state, generate):
        return state

    return solve


def graded(value, metrics):
    @scorer(metrics=metrics)
    def grades():
        async def score(state, target):
            return Score(value=value)

        return score

    samples = [Sample(input=str(number), target="x") for number in range(4)]
    task = Task(dataset=samples, solver=untouched(), scorer=grades())
    [log] = eval(task, model="mockllm/model", log_dir="logs", display="none")
    return log.status, [{name: metric.value for name, metric in of.metrics.items()} for of in log.results.scores]


parts = {"helpful": 0.8, "honest": 0.6}
found = {
    "dict, [mean()]": graded(parts, [mean()]),
    "list, [mean()]": graded([0.8, 0.6], [mean()]),
    "'87%', [mean()]": graded("87%", [mean()]),
    "'0.8', [mean()]": graded("0.8", [mean()]),
    "dict, {'*': [mean()]}": graded(parts, {"*": [mean()]}),
}
print("inspect-ai", version("inspect-ai"))
for asked, (status, values) in found.items():
    print(f"{asked:24} {status}: {values}")
zero, whole = ("success", [{"mean": 0.0}]), ("success", [{"mean": 0.8}])
assert [found[name] for name in list(found)[:4]] == [zero, zero, zero, whole]
assert found["dict, {'*': [mean()]}"] == ("success", [{"mean": 0.8}, {"mean": 0.6}])
PY

"""The files of docs/scale are read by the tools that they are for (make test-clouds)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.clouds
SMALL = ("--nodes=1", "--gpus-per-node=0", "--cpus-per-task=1")
FOLDER = Path(__file__).parents[2] / "docs" / "scale"


def test_kubernetes_knows_every_field() -> None:
    """By the schemas of version 1.33, the first whose Jobs may end with one of their pods; nothing unknown."""
    import kubernetes_validate

    documents = list(yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text()))
    assert [document["kind"] for document in documents] == ["Service", "Job"]
    for document in documents:
        kubernetes_validate.validate(document, "1.33", strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(documents[1] | {"spec": {"templates": {}}}, "1.33", strict=True)


def test_skypilot_reads_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own files go to a home of their own. What the task calls on a machine is there in its package."""
    monkeypatch.setenv("HOME", str(tmp_path))
    import sky
    import sky_templates

    task = sky.Task.from_yaml(str(FOLDER / "sky.yaml"))
    assert (task.num_nodes, task.name) == (2, "trimtab")
    assert all(one.use_spot for one in task.resources)
    assert {name for one in task.resources for name in one.accelerators} == {"L4", "A10G"}
    assert 'trimtab study "$RECIPE" --out "$OUT" --ray "$head:6379"' in task.run
    script = Path(sky_templates.__file__).parent / "ray" / "start_cluster"
    assert f"~/sky_templates/ray/{script.name} || exit 1" in task.run
    assert "RAY_HEAD_PORT=${RAY_HEAD_PORT:-6379}" in script.read_text()


@pytest.mark.skipif(shutil.which("sbatch") is None, reason="no Slurm here")
def test_slurm_would_take_the_job() -> None:
    """Where a controller answers: by its own check, which starts nothing."""
    found = subprocess.run(
        ["sbatch", "--test-only", *SMALL, FOLDER / "slurm.sh", "r", "o"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert "to start at" in found.stderr

#!/usr/bin/env bash
# accelerate 1.15.0: Accelerator(fsdp_plugin=FullyShardedDataParallelPlugin(fsdp_version=2)) in two gloo processes.
# Seen: no error and no warning; distributed_type is MULTI_CPU, the model is wrapped by DistributedDataParallel, and
# no parameter is a DTensor, while torch's own fully_shard on the same CPU mesh shards every one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0
"$folder/env/bin/pip" install --quiet accelerate==1.15.0 numpy
cat > "$folder/seen.py" <<'PY'
import warnings

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="size_based_wrap", min_num_params=1)
    accelerator = Accelerator(cpu=True, fsdp_plugin=plugin)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))
    optimizer = torch.optim.AdamW(model.parameters())
    model, optimizer = accelerator.prepare(model, optimizer)
sharded = [isinstance(weight, DTensor) for weight in model.parameters()]
own = torch.nn.Linear(8, 8)
fully_shard(own, mesh=init_device_mesh("cpu", (2,)))
if accelerator.is_main_process:
    about = [str(w.message) for w in caught if "fsdp" in str(w.message).lower() or "shard" in str(w.message).lower()]
    print(
        str(accelerator.distributed_type), type(model).__name__, any(sharded), len(about),
        all(isinstance(weight, DTensor) for weight in own.parameters()),
    )
accelerator.end_training()
PY
seen=$("$folder/env/bin/python" -m torch.distributed.run --standalone --nproc_per_node 2 "$folder/seen.py" 2>"$folder/err" | tail -n 1) ||
  { cat "$folder/err"; exit 1; }
echo "$seen"
test "$seen" = "DistributedType.MULTI_CPU DistributedDataParallel False 0 True"

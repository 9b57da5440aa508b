"""What vLLM loads of trimtab in each of its processes (entry point vllm.general_plugins): a name, nothing heavy."""

from __future__ import annotations

GLOO = "trimtab.rollout.vllm_gloo"


def register() -> None:
    """Makes the transport `gloo` known to vLLM, once."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory, WeightTransferTrainerFactory

    factories = [(WeightTransferEngineFactory, "GlooReceiver"), (WeightTransferTrainerFactory, "GlooSender")]
    for factory, name in factories:
        if "gloo" not in factory._registry:
            factory.register_engine("gloo", GLOO, name)

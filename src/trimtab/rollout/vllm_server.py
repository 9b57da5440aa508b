"""Sampling by vLLM servers, on GPUs or machines of their own.

Before every draw the policy's weights go to each server by vLLM's own weight-transfer interface; then the servers
share the samples out. A version goes with the weights, and is asked for again behind the draw: a server that was
started anew, or took another trainer's weights meanwhile, would draw from another model without a word.

A server is started with
  VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --weight-transfer-config '{"backend": "nccl"}' \
    --logprobs-mode processed_logprobs
Source: vllm/entrypoints/rl/online/api_router.py of vLLM 0.32.
"""

from __future__ import annotations

import asyncio
import importlib
import socket
import uuid
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import broadcast_object_list
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential
from torch import Tensor

from trimtab.errors import TrimtabError, first_line
from trimtab.json_types import JsonObject
from trimtab.late import httpx
from trimtab.models.inputs import refuse_inputs_in_vllm
from trimtab.models.policy import Policy
from trimtab.rollout.sampler import VLLMServerSettings
from trimtab.rollout.vllm import Completion, VLLMSampler

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TRANSFER = "vllm.distributed.weight_transfer"
HOW = (
    'Start it with VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --weight-transfer-config \'{"backend": "nccl"}\' '
    "--logprobs-mode processed_logprobs"
)
NEUTRAL: JsonObject = {"min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
"""Of a request: a server's own defaults would change what is drawn."""


class Server:
    """One vLLM server: what it serves, and the way for weights to it.

    TrimtabError where it does not answer, or was started otherwise than this needs.
    """

    def __init__(self, address: str, settings: VLLMServerSettings) -> None:
        self.address, self.settings = address.rstrip("/"), settings
        self.version: str | None = None
        served = self._asked("GET", "v1/models")["data"][0]
        self.model, self.room = str(served["id"]), int(served["max_model_len"])
        info = self._asked("GET", "server_info?config_format=json")["vllm_config"]
        mode = info["model_config"].get("logprobs_mode")
        if mode != "processed_logprobs":
            raise self._wrong(f"its log-probabilities are {mode}, before temperature. {HOW}")
        self.transfer: Any = None

    def _wrong(self, what: str) -> TrimtabError:
        return TrimtabError(f"engine vllm-server: {self.address}: {what.rstrip('.')}.")

    def _asked(self, verb: str, path: str, body: JsonObject | None = None) -> JsonObject:
        try:
            answer = httpx.request(verb, f"{self.address}/{path}", json=body, timeout=self.settings.timeout)
        except httpx.HTTPError as error:
            raise self._wrong(f"no answer ({type(error).__name__}: {first_line(error)})") from None
        if answer.status_code == 404:
            raise self._wrong(f"it knows no /{path.partition('?')[0]}. {HOW}")
        if answer.status_code != 200:
            raise self._wrong(f"/{path.partition('?')[0]} answers {answer.status_code}: {answer.text[:200]}")
        read: JsonObject = answer.json()
        return read

    # ---- what vLLM's trainer end calls (VLLMWeightSyncClient)

    def init_weight_transfer_engine(self, init_info: JsonObject) -> None:
        """Has the server's workers join the trainer's group."""
        self._asked("POST", "init_weight_transfer_engine", {"init_info": init_info})

    def start_weight_update(self) -> None:
        """Says that weights will come."""
        self._asked("POST", "start_weight_update")

    def update_weights(self, update_info: JsonObject) -> None:
        """Has the workers receive; returns when they have."""
        self._asked("POST", "update_weights", {"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Says that all came, and what they are to be called."""
        self._asked("POST", "finish_weight_update", {"weight_version": weight_version or self.version})

    # ---- weights

    def push(self, source: Any, version: str) -> None:
        """Sends the source's weights, and drops what the server keeps of the old ones'."""
        if self.transfer is None:
            self.transfer = self._joined(source)
        self.transfer.source, self.version = source, version
        try:
            self.transfer.send_weights()
        except TrimtabError:
            raise
        except Exception as error:  # vLLM raises whatever it likes
            raise self._wrong(f"the weights did not arrive: {first_line(error)}") from error
        if not self._asked("POST", "reset_prefix_cache").get("success"):
            raise self._wrong("it keeps prefixes of the old weights: does something else ask it?")

    def _joined(self, source: Any) -> Any:
        """The trainer's end of the transfer, with the server's workers at the other."""
        workers = int(self._asked("GET", "get_world_size")["world_size"])
        here = _own_address(self.address)
        try:
            factory = importlib.import_module(f"{TRANSFER}.factory").WeightTransferTrainerFactory
            if self.settings.transfer == "gloo":
                importlib.import_module("trimtab.rollout.vllm_plugin").register()
                made = importlib.import_module("trimtab.rollout.vllm_gloo").GlooTrainerInit
                info = made(here, 1 + workers, rank=0)
            else:
                made = importlib.import_module(f"{TRANSFER}.nccl_engine").NCCLTrainerInitInfo
                info = made(here, _free_port(here), 1 + workers, rank=0)
            return factory.trainer_init(info, client=self, source=source)
        except TrimtabError:
            raise
        except ImportError as error:
            raise self._wrong(f"weights go there by vLLM, which must be installed here too ({error})") from error
        except Exception as error:  # vLLM raises whatever it likes
            raise self._wrong(f"no way for weights to it: {first_line(error)}") from error

    def check_version(self, version: str) -> None:
        """TrimtabError where the server has other weights than those of this version."""
        held = self._asked("GET", "weight_info").get("weight_version")
        if held != version:
            raise self._wrong(
                f"its weights are no longer ours ({held}): was it started anew, or has it two trainers?"
            )


_live: dict[tuple[str, str], Server] = {}


def server_at(address: str, settings: VLLMServerSettings) -> Server:
    """The server at an address, which is joined once in a process: with a second way to it the first is lost."""
    key = (address.rstrip("/"), settings.transfer)
    if key not in _live:
        _live[key] = Server(address, settings)
    _live[key].settings = settings
    return _live[key]


class _Weights:
    """A model's weights as vLLM's trainer end asks for them (WeightSource), tied ones once."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.named = [(name, weight.detach()) for name, weight in model.named_parameters()]

    def metadata(self) -> list[Any]:
        meta = importlib.import_module(f"{TRANSFER}.base").ParamMeta
        return [meta(name, weight.dtype, tuple(weight.shape)) for name, weight in self.named]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return iter(self.named)


class Servers:
    """Several servers of one model as the engine of a VLLMSampler. Of several trainer processes the first sends the
    weights, and all draw."""

    def __init__(self, settings: VLLMServerSettings) -> None:
        self.settings = settings
        self.servers = [server_at(address, settings) for address in settings.addresses]
        self.room = min(server.room for server in self.servers)
        self.version = ""

    def push(self, model: PreTrainedModel) -> None:
        """Makes the model's weights those of all servers."""
        shared = torch.distributed.is_initialized()
        if not shared or torch.distributed.get_rank() == 0:
            version, source = f"trimtab-{uuid.uuid4().hex}", _Weights(model)
            for server in self.servers:
                server.push(source, version)
            self.version = version
        if shared:
            (self.version,) = broadcast_object_list([self.version])

    def draw(
        self,
        prompts: Sequence[Sequence[int]],
        temperatures: Sequence[float],
        seeds: Sequence[int],
        *,
        max_new_tokens: int,
        stops: Sequence[int],
        top_p: float = 1.0,
        top_k: int = 0,
    ) -> list[Completion]:
        """See vllm.Engine.draw: a completion for each prompt, temperature and seed."""
        bodies: list[JsonObject] = [
            {
                "prompt": list(prompt), "temperature": temperature, "seed": seed, "max_tokens": max_new_tokens,
                "top_p": top_p, "top_k": top_k, "stop_token_ids": list(stops), "ignore_eos": True, "logprobs": 0,
                "return_token_ids": True, "skip_special_tokens": False, "add_special_tokens": False, **NEUTRAL,
            }
            for prompt, temperature, seed in zip(prompts, temperatures, seeds, strict=True)
        ]  # fmt: skip
        drawn = asyncio.run(self._drawn(bodies))
        for server in self.servers:
            server.check_version(self.version)
        return drawn

    async def _drawn(self, bodies: Sequence[JsonObject]) -> list[Completion]:
        at_once = asyncio.Semaphore(self.settings.concurrency * len(self.servers))
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(limits=limits, timeout=self.settings.timeout) as client:

            async def one(place: int, body: JsonObject) -> Completion:
                async with at_once:
                    return await _complete(client, self.servers[place % len(self.servers)], body)

            try:
                async with asyncio.TaskGroup() as group:
                    asked = [group.create_task(one(place, body)) for place, body in enumerate(bodies)]
            except BaseExceptionGroup as errors:
                raise _first(errors) from None
        return [task.result() for task in asked]


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first of the errors that ended a group of tasks."""
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


async def _complete(client: httpx.AsyncClient, server: Server, body: JsonObject) -> Completion:
    """One completion. A broken connection is tried again: the seed draws the same."""
    tries = AsyncRetrying(
        retry=retry_if_exception_type(httpx.TransportError),
        stop=stop_after_attempt(4), wait=wait_random_exponential(max=10), reraise=True,
    )  # fmt: skip
    try:
        async for attempt in tries:
            with attempt:
                answer = await client.post(f"{server.address}/v1/completions", json={"model": server.model, **body})
    except httpx.HTTPError as error:
        raise server._wrong(f"no answer ({type(error).__name__}: {first_line(error)})") from None
    if answer.status_code != 200:
        raise server._wrong(f"a sample's request is answered {answer.status_code}: {answer.text[:200]}")
    (choice,) = answer.json()["choices"]
    return Completion(
        list(choice["token_ids"]), list(choice["logprobs"]["token_logprobs"]), choice["finish_reason"] == "stop"
    )


def _own_address(server: str) -> str:
    """This machine's address, as that server sees it."""
    url = httpx.URL(server)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((url.host, url.port or 80))  # sends nothing
        return str(probe.getsockname()[0])


def _free_port(address: str) -> int:
    with socket.socket() as free:
        free.bind((address, 0))
        return int(free.getsockname()[1])


class VLLMServerSampler(VLLMSampler):
    """Samples from a policy through vLLM servers; see VLLMSampler."""

    def __init__(self, policy: Policy, settings: VLLMServerSettings, token_budget: int) -> None:
        refuse_inputs_in_vllm(policy.model.config)
        self.policy, self.servers, self.token_budget = policy, Servers(settings), token_budget

    @property
    def engine(self) -> Servers:
        """The servers; what they serve was decided when they were started."""
        return self.servers

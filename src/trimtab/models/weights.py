"""What is wrong with files of weights, in words: cut or missing ones before they are read, NaN once they are."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from safetensors import safe_open

from trimtab.errors import TrimtabError, first_line
from trimtab.late import torch
from trimtab.notices import warn

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

INDEX = "model.safetensors.index.json"
HOW = {"output_loading_info": True, "ignore_mismatched_sizes": True}
"""Arguments of from_pretrained with which it says what did not fit, for refuse_unfit; its own error points to a
table that it has logged."""
TINY = 2**25
"""Bytes of weights, below which two processes of one thread do more than one of two."""


def is_tiny(source: str) -> bool:
    """Whether the folder's model is too small for several threads to share its products."""
    sizes = [file.stat().st_size for file in Path(source).glob("*.safetensors")]
    return 0 < sum(sizes) < TINY


def check_files(folder: Path, named: str, what: str = "model") -> None:
    """TrimtabError where a file that the index names is not there, one cannot be read, or one holds whole numbers
    in place of weights and no config says how they are quantised. Only headers are read."""
    quantised = _is_quantised(folder)
    _check_pickles(folder, named)
    for file in sorted({*folder.glob("*.safetensors"), *_indexed(folder, named)}):
        if file.is_symlink() and not file.exists():
            raise TrimtabError(f"{what} {named}: {file.name} is a link to {file.readlink()}, where nothing is.")
        if not file.is_file():
            raise TrimtabError(
                f"{what} {named}: lacks {file.name}, which {INDEX} names. Copy the rest of it there."
            )
        try:
            with safe_open(file, "np") as held:  # headers need no PyTorch
                kinds = {name: held.get_slice(name).get_dtype() for name in held.keys()}  # noqa: SIM118
        except Exception as error:  # the library raises whatever it likes
            size = file.stat().st_size
            if not os.access(file, os.R_OK):
                raise TrimtabError(f"{what} {named}: {file.name}: there is no permission to read it.") from None
            raise TrimtabError(
                f"{what} {named}: {file.name} ({size} bytes) cannot be read: {first_line(error)}. It is damaged, "
                "or was copied in part: copy it again."
            ) from None
        # BF16 is a float; I8, U8 and BOOL are not.
        whole = [n for n, kind in kinds.items() if n.endswith(".weight") and kind[0] in "IUB" and kind != "BF16"]
        if whole and not quantised:
            raise TrimtabError(
                f"{what} {named}: {file.name}: tensor {whole[0]} holds whole numbers ({kinds[whole[0]]}): "
                "quantised weights, without what they stand for. Name the model that they were made from."
            )


def _check_pickles(folder: Path, named: str) -> None:
    """TrimtabError for files of torch.save, archives by now, that were cut: torch does not say which."""
    for file in [] if any(folder.glob("*.safetensors")) else sorted(folder.glob("pytorch_model*.bin")):
        with file.open("rb") as held:
            packed = held.read(2) == b"PK"
        if file.stat().st_size == 0 or (packed and not zipfile.is_zipfile(file)):
            raise TrimtabError(
                f"model {named}: {file.name} ({file.stat().st_size} bytes) is damaged, or was copied in part: copy "
                "it again."
            )


def _is_quantised(folder: Path) -> bool:
    try:
        return "quantization_config" in json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError):
        return False  # transformers says what is wrong with it


def _indexed(folder: Path, named: str) -> set[Path]:
    file = folder / INDEX
    if not file.is_file() or (folder / "model.safetensors").is_file():
        return set()  # transformers does not look at the index either
    try:
        names = json.loads(file.read_text(encoding="utf-8"))["weight_map"].values()
        return {folder / str(name) for name in names}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise TrimtabError(f"model {named}: {INDEX} is no index of weights. Copy it again.") from None


def check_finite(source: str, what: str, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """TrimtabError that names file and tensor where weights are NaN or infinite."""
    for name, tensor in tensors:
        if not tensor.is_floating_point() or tensor.is_meta or bool(torch.isfinite(tensor).all()):
            continue
        bad = int((~torch.isfinite(tensor)).sum())
        raise TrimtabError(
            f"{what} {source}: {_file_of(Path(source).expanduser(), name)}: tensor {name} has {bad} of "
            f"{tensor.numel()} numbers that are NaN or infinite. Its training went wrong, or the file is damaged: "
            "name an earlier model."
        )


def _file_of(folder: Path, name: str) -> str:
    """The file that holds a tensor, which may have another prefix there."""
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    for file in files:
        with safe_open(file, "pt") as held:
            names = set(held.keys())
        if name in names or any(name.endswith(f".{stored}") or stored.endswith(f".{name}") for stored in names):
            return str(file.name)
    return str(files[0].name) if files else "its weights"


class LoadingInfo(TypedDict, total=False):
    """What from_pretrained says of what it loaded, with output_loading_info. Keys are names of tensors."""

    missing_keys: Collection[str]
    unexpected_keys: Collection[str]
    mismatched_keys: Collection[tuple[object, ...]]
    """Each with its shape in the file and its shape by the config."""


def refuse_unfit(
    source: str, model: PreTrainedModel, info: LoadingInfo, allowed: Callable[[str], bool] = lambda name: False
) -> None:
    """TrimtabError where, by transformers' word on what it loaded, weights would be random, are of another shape,
    or are of layers that the config does not have. allowed: those that may be random."""
    if mismatched := sorted(info.get("mismatched_keys", []), key=str):
        name, stored, expected = (*mismatched[0], "?", "?")[:3]
        raise TrimtabError(
            f"model {source}: tensor {name} is {_shape(stored)} in the weights and {_shape(expected)} by "
            f"config.json ({len(mismatched)} such tensors): they do not belong together. Copy both from one place."
        )
    missing = sorted(name for name in info.get("missing_keys", []) if not allowed(name))
    unused = sorted(info.get("unexpected_keys", []))
    if missing:
        beside = f" It holds {len(unused)} others ({unused[0]}, …)." if unused else ""
        head = " If its head is its embeddings, config.json has to say tie_word_embeddings: true."
        tied = head if missing == ["lm_head.weight"] else ""
        raise TrimtabError(
            f"model {source}: the weights lack {len(missing)} tensors ({missing[0]}, …), which would be random."
            f"{beside} The folder is incomplete, or holds another kind of model.{tied}"
        )
    if beyond := [name for name in unused if _beyond(model, name)]:
        raise TrimtabError(
            f"model {source}: the weights have layers that its config.json does not ({beyond[0]}, …): part of the "
            "model would be left out. Copy both from one place."
        )


def say_unused(source: str, names: tuple[str, ...]) -> None:
    """One line for weights that the model has no place for, such as another program's value head."""
    if names:
        more = f" and {len(names) - 1} others" if len(names) > 1 else ""
        line = f"model {source}: its weights have {names[0]}{more}, which no part of it uses"
        warn(line, about=f"unused weights of {source}")


def _shape(size: object) -> str:
    return "×".join(map(str, size)) if isinstance(size, (tuple, list, torch.Size)) else str(size)


def _beyond(model: PreTrainedModel, name: str) -> bool:
    """Whether a tensor is of a layer behind the last of the model's."""
    match = re.match(r"(.*?)\.(\d+)\.", name)
    if match is None:
        return False
    before, number = match.groups()
    for place in (before, before.removeprefix(f"{model.base_model_prefix}.")):
        try:
            layers = model.get_submodule(place)
        except AttributeError:
            continue
        return isinstance(layers, torch.nn.ModuleList) and int(number) >= len(layers)
    return False

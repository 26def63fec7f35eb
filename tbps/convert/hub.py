"""The Hugging Face hub: a model by its name there, and an exported folder pushed to it."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from tbps.runs.exported import read_exported

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PREFIX = "hf:"
"""How a name of the hub begins, so that no misspelt folder is looked up there."""
FILES = (
    *("README.md", "config.json", "model.safetensors", "preprocessing.json", "results.json"),
    *("vocab.txt", "tokenizer.json", "merges.txt", "image_encoder.onnx", "image_encoder.onnx.data"),
    *("caption_encoder.onnx", "caption_encoder.onnx.data", "search.py"),
)
"""What an exported folder may hold: nothing else is pushed or fetched."""
_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", flags=re.ASCII)


def find_model(source: str | Path) -> Path:
    """The folder of a model: the path itself, or of `hf:NAMESPACE/NAME` (`@REVISION`) what was fetched or lies in the cache.

    ValueError: the hub has no such model, or cannot be reached and the cache does not have it.
    """
    text = str(source)
    if not text.startswith(PREFIX):
        return Path(source).expanduser()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name, _, revision = text.removeprefix(PREFIX).partition("@")
    _check_name(name)
    _quieten()
    try:
        folder = Path(snapshot_download(name, revision=revision or None, allow_patterns=list(FILES)))
    except LocalEntryNotFoundError as error:
        raise ValueError(
            f"{text} is not in the cache, and the hub cannot be reached; check the network, or name a folder"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise ValueError(
            f"{text} cannot be fetched ({_first_line(error)}); check the name, and `hf auth login` where it is private"
        ) from error
    if read_exported(folder) is None:
        raise ValueError(
            f"{text} is no model of tbps (its config.json has no export); expected what tbps export --push wrote"
        )
    return folder


def lasting_name(source: str) -> str:
    """A model's name as another folder and another day understand it: an absolute path, or the hub's name as it is."""
    return source if source.startswith(PREFIX) else str(Path(source).expanduser().absolute())


def check_login() -> str:
    """Who is logged in. ValueError: nobody."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        return str(_api().whoami()["name"])
    except LocalTokenNotFoundError as error:
        raise ValueError(
            "nobody is logged in to the Hugging Face hub, expected an account that may write there; run `hf auth login`, or"
            " set HF_TOKEN"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise ValueError(
            f"the Hugging Face hub does not say who is logged in ({_first_line(error)}); check the network and the token"
        ) from error


def push(folder: Path, name: str, *, public: bool = False) -> str:
    """Upload an exported folder as a model of the hub, private unless told; returns its address.

    ValueError: no exported folder, nobody is logged in, or the hub refuses.
    """
    from huggingface_hub.errors import HfHubHTTPError

    _check_name(name)
    exported = read_exported(folder)
    if exported is None:
        raise ValueError(f"{folder} is no exported model, expected what tbps export wrote; export the run first")
    exported.check()
    check_login()
    try:
        api = _api()
        api.create_repo(name, private=not public, exist_ok=True)
        told = f"Export of {exported.run.recipe}/{exported.run.name}, {exported.checkpoint}"
        api.upload_folder(repo_id=name, folder_path=folder, allow_patterns=list(FILES), commit_message=told)
    except (HfHubHTTPError, OSError) as error:
        raise ValueError(
            f"{name} cannot be pushed ({_first_line(error)}); check that you may write there, and push again: tbps export"
            f" {folder} --push {name}"
        ) from error
    return f"{api.endpoint}/{name}"


def _api() -> HfApi:
    """The hub's calls."""
    from huggingface_hub import HfApi

    _quieten()
    return HfApi()


def _quieten() -> None:
    """No line in the log for each request."""
    for name in ("httpx", "httpx2"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is no name of the Hugging Face hub, expected NAMESPACE/NAME of letters, digits, . _ and -"
        )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")

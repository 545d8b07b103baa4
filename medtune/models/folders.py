"""Finding a model's files on this machine or the hub, and saying what is wrong with them before they load."""

import json
import logging
import re
import shutil
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from medtune.runtime.errors import ConfigError

logger = logging.getLogger(__name__)

SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
ADAPTER_FILE = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

LFS_POINTER = "version https://git-lfs"
ZIP_START = b"PK"  # of torch's files since 2020; whether older ones are whole shows when they are read
PARTIAL_FILES = (".cache/huggingface/download/**/*.incomplete", "*.incomplete", "*.aria2", "*.part")

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
SMALL_FILES = ("*.json", "tokenizer.model", "*.txt")
SECONDS_TO_REACH_HUB = 5


def find_folder(key: str, name: str, revision: str | None = None, weights: bool = True) -> Path:
    """The folder that ``name`` stands for; a hub id is fetched into the hub's cache.

    Args:
        key: The setting that holds ``name``, for messages.
        name: Folder, or ``owner/model`` on the hub.
        revision: Of the hub id.
        weights: Fetch the weights too, safetensors where there are any.

    Raises:
        ConfigError: No such folder, and nothing by that name can be fetched.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ConfigError(f"{key}={name} is a file; give the folder that holds it")
    if not HUB_ID.fullmatch(name):
        raise ConfigError(f"{key}={name}: there is no such folder")
    fetched = _fetch(key, name, revision, SMALL_FILES)
    if weights:
        fetched = _fetch(key, name, revision, (*SMALL_FILES, "*.safetensors"))
        if not weight_files(fetched):
            fetched = _fetch(key, name, revision, (*SMALL_FILES, "pytorch_model*.bin"))
    return fetched


@cache
def _fetch(key: str, name: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    """Fetches the files that match, or finds them in the hub's cache where the hub cannot be reached."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    asked = f"{key}={name}" + (f" with model.revision={revision}" if revision else "")
    command = f"hf download {name}{f' --revision {revision}' if revision else ''} --local-dir FOLDER"
    try:
        offline = not _hub_answers(name, revision)
        folder = snapshot_download(
            name, revision=revision, allow_patterns=list(patterns), local_files_only=offline
        )
    except GatedRepoError as error:
        raise ConfigError(
            f"{asked} is gated: accept its licence on the hub, log in with 'hf auth login' and try again"
        ) from error
    except RevisionNotFoundError as error:
        raise ConfigError(
            f"{asked}: the hub has the model, but no such revision; set model.revision=main"
        ) from error
    except RepositoryNotFoundError as error:
        raise ConfigError(f"{asked}: no such folder here, and no such model on the hub") from error
    except OSError as error:
        raise ConfigError(
            f"{asked}: there is no such folder here, it is not in the hub's cache, and the hub cannot be "
            f"reached. Fetch it on a machine with a network ('{command}'), copy FOLDER here and set "
            f"{key}=FOLDER"
        ) from error
    return Path(folder)


def _hub_answers(name: str, revision: str | None) -> bool:
    """Whether the hub can be asked for ``name``; its refusals are raised.

    One question with a limit: a download retries for minutes against a network that swallows packets.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.errors import HTTPError as ClientError  # type: ignore[attr-defined]

    try:
        HfApi().model_info(name, revision=revision, timeout=SECONDS_TO_REACH_HUB)
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise
    except (HfHubHTTPError, ClientError, OSError) as error:
        logger.info("the hub cannot be reached (%s); looking in its cache", type(error).__name__)
        return False
    return True


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers would read, safetensors first; shards as indexed, present or not."""
    for single, index in zip(SINGLE_FILES, INDEX_FILES, strict=True):
        if (folder / single).is_file():
            return [folder / single]
        if (folder / index).is_file():
            shards: Any = read_settings(folder / index).get("weight_map")
            return [folder / shard for shard in sorted(set(shards.values()))] if is_map(shards) else []
    return []


def is_map(weight_map: Any) -> bool:
    """Whether it says of tensors which file holds them."""
    return isinstance(weight_map, dict) and all(isinstance(shard, str) for shard in weight_map.values())


def read_settings(path: Path) -> dict[str, Any]:
    """A JSON file of a model folder; empty when it is not there.

    Raises:
        ConfigError: It holds no JSON object, as after a download that broke off.
    """
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8-sig")
        if text.startswith(LFS_POINTER):
            raise ConfigError(f"{path} is a git-lfs pointer; run 'git lfs pull' in the folder")
        values = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{path} is damaged: not JSON ({error}); fetch it again") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} is damaged: no JSON object; fetch it again")
    return values


def check_model_folder(key: str, folder: Path) -> None:
    """Raises ConfigError unless ``folder`` holds a configuration and whole weights."""
    problems = list(folder_problems(folder))
    if problems:
        raise ConfigError([f"{key}={folder}: {problem}" for problem in problems])


def folder_problems(folder: Path) -> Iterator[str]:
    """What keeps ``folder`` from being loaded as a model, judged by names and sizes alone."""
    if not (folder / "config.json").is_file():
        yield "this is no model folder: it has no config.json"
        return
    files = weight_files(folder)
    for index in (folder / name for name in INDEX_FILES):
        if index.is_file() and not (
            "metadata" in read_settings(index) and is_map(read_settings(index).get("weight_map"))
        ):
            yield f"{index.name} is damaged: it has no metadata or no weight_map; fetch it again"
            return
    if not files:
        yield f"it has a config.json but no weights; looked for {', '.join(SINGLE_FILES + INDEX_FILES)}"
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        yield (
            f"the download is incomplete: {len(absent)} of {len(files)} shards are missing "
            f"({', '.join(absent[:3])}{', ...' if len(absent) > 3 else ''})"
        )
    damaged = [(file, problem) for file in files if file.is_file() and (problem := file_problem(file))]
    for file, problem in damaged:
        yield f"{file.name} {problem}"
    broken_off = [path for pattern in PARTIAL_FILES for path in folder.glob(pattern)]
    if broken_off and (absent or damaged or not files):
        yield (
            f"{len(broken_off)} files of a download that broke off lie in it ({broken_off[0].name}); run the "
            "same download again, it goes on where it stopped"
        )


def file_problem(file: Path) -> str | None:
    """What is wrong with one weight file: a git-lfs pointer, or a safetensors file of the wrong size."""
    with file.open("rb") as stream:
        start = stream.read(8)
        if start == LFS_POINTER[:8].encode():
            return "is a git-lfs pointer, not weights; run 'git lfs pull' in the folder"
        if file.suffix != ".safetensors":
            cut = start.startswith(ZIP_START) and not zipfile.is_zipfile(file)
            return "is empty" if not start else "is cut off; fetch it again" if cut else None
        header_size = int.from_bytes(start, "little")
        if len(start) < 8 or header_size > file.stat().st_size:
            return "is cut off or no safetensors file; fetch it again"
        try:
            header: dict[str, Any] = json.loads(stream.read(header_size))
            header.pop("__metadata__", None)
            ends = [int(tensor["data_offsets"][1]) for tensor in header.values()]
        except (AttributeError, LookupError, TypeError, ValueError):
            return "is damaged: its header is not JSON, or not about tensors; fetch it again"
    size = 8 + header_size + max(ends, default=0)
    found = file.stat().st_size
    return None if size == found else f"has {found} bytes where its header promises {size}; fetch it again"


def settle_remote_code(folder: Path, source: str | None) -> None:
    """Makes what ``auto_map`` says true in a folder that was written here.

    It names Python files for loaders that run a model's own code; nothing here runs any. Files that lie in
    the source are copied; of a hub id they are named there, as transformers does; else the key goes, since
    such a loader would look for them in vain.

    Args:
        folder: Just written, with a config.json.
        source: Where the model came from, a folder or hub id.
    """
    origin = Path(source).expanduser() if source else None
    codes = sorted(origin.glob("*.py")) if origin is not None and origin.is_dir() else []
    needed = False
    for name in ("config.json", "tokenizer_config.json"):
        settings = read_settings(folder / name)
        if "auto_map" not in settings:
            continue
        needed = True
        if codes:
            continue
        if source and (origin is None or not origin.is_dir()):
            settings["auto_map"] = _on_hub(settings["auto_map"], source)
        else:
            del settings["auto_map"]
        text = json.dumps(settings, indent=2, ensure_ascii=False)
        (folder / name).write_text(text + "\n", encoding="utf-8")
    for code in codes if needed else []:
        shutil.copyfile(code, folder / code.name)


def _on_hub(value: Any, source: str) -> Any:
    """The classes of an ``auto_map``, each marked as one of the hub id ``source``."""
    if isinstance(value, dict):
        return {key: _on_hub(member, source) for key, member in value.items()}
    if isinstance(value, list):
        return [_on_hub(member, source) for member in value]
    return f"{source}--{value}" if isinstance(value, str) and "--" not in value else value


def has_tokenizer(folder: Path) -> bool:
    """Whether ``folder`` holds any vocabulary that transformers reads."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def find_weights(weights: str) -> Path:
    """The model or adapter folder that the setting ``weights`` means: itself, or ``model`` in a run folder.

    Raises:
        ConfigError: Neither is there.
    """
    folder = Path(weights).expanduser()
    if not folder.is_dir():
        what = f"is a file; the folder is {folder.parent}" if folder.exists() else "there is no such folder"
        raise ConfigError(f"weights={weights}: {what}")
    for candidate in (folder, folder / "model"):
        if is_adapter(candidate) or (candidate / "config.json").is_file():
            return candidate
    raise ConfigError(
        f"weights={weights} is no model or adapter folder: looked for config.json and {ADAPTER_FILE} in it "
        "and in its folder 'model'"
    )


def is_adapter(folder: Path) -> bool:
    """Whether ``folder`` holds a peft adapter."""
    return (folder / ADAPTER_FILE).is_file()


def check_adapter_weights(key: str, folder: Path) -> None:
    """Raises ConfigError for an adapter folder without weights, or with a damaged file of them."""
    file = folder / ADAPTER_WEIGHTS
    if file.is_file():
        problem = file_problem(file)
    else:
        problem = None if file.with_suffix(".bin").is_file() else "is missing; fetch it again"
    if problem is not None:
        raise ConfigError(f"{key}={folder} cannot be used: {file.name} {problem}")

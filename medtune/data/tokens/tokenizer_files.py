"""Which tokenizer tokens were made with, told by its files: most runs never load it for their data."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

from medtune.config.schema import ModelConfig
from medtune.runtime.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PATTERNS = (
    "tokenizer*.json",
    "*.model",
    "*.tiktoken",
    "vocab*",
    "merges*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
)


@dataclass(frozen=True)
class TokenizerSource:
    """A tokenizer that is loaded only when something has to be tokenised.

    Attributes:
        fingerprint: Of everything that its ids depend on.
        load: Gives the tokenizer, always the same object.
    """

    fingerprint: str
    load: "Callable[[], PreTrainedTokenizerBase]"

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase") -> "TokenizerSource":
        """One that is loaded already."""
        return cls(fingerprint_of(tokenizer), lambda: tokenizer)


def tokenizer_source(model: ModelConfig) -> TokenizerSource:
    """The tokenizer of ``model``.

    Raises:
        ConfigError: It cannot be found; what is wrong with its files is found when it is loaded.
    """

    @cache
    def load() -> "PreTrainedTokenizerBase":
        from medtune.models.tokenizers import load_tokenizer  # with torch and transformers

        return load_tokenizer(model)

    return TokenizerSource(fingerprint_of_files(tokenizer_folder(model)), load)


def tokenizer_folder(model: ModelConfig) -> Path:
    """The folder of a model's tokenizer; that of a hub id is fetched, which takes the hub's library."""
    key, name = ("model.tokenizer", model.tokenizer) if model.tokenizer else ("model.path", model.path)
    if name is None:
        raise ConfigError("neither model.tokenizer nor model.path is set; give a folder or hub id")
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    from medtune.models.folders import find_folder

    return find_folder(key, name, None if model.tokenizer else model.revision, weights=False)


def fingerprint_of_files(folder: Path) -> str:
    """XXH3-128 of the names and bytes of a tokenizer's files, and of what config.json says of its class."""
    digest = xxhash.xxh3_128()
    for path in tokenizer_files(folder):
        content = path.read_bytes()
        digest.update(f"{path.name}:{len(content)}\n".encode())
        digest.update(content)
    digest.update(class_settings(folder).encode())
    return digest.hexdigest()


def tokenizer_files(folder: Path) -> Iterator[Path]:
    """The files that a tokenizer may be read from, by name."""
    found = {path for pattern in PATTERNS for path in folder.glob(pattern)}
    yield from sorted(path for path in found if path.is_file())


def class_settings(folder: Path) -> str:
    """What config.json says of the model's type and the tokenizer's class, by which the latter is chosen."""
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""  # a damaged one is told when the tokenizer is loaded
    if not isinstance(settings, dict):
        return ""
    return f"{settings.get('model_type')} {settings.get('tokenizer_class')}"


def fingerprint_of(tokenizer: "PreTrainedTokenizerBase") -> str:
    """SHA-256 of what a tokenizer is: its whole backend, or its vocabulary where it has none to show."""
    if tokenizer.is_fast:
        definition = tokenizer.backend_tokenizer.to_str().encode()
    elif hasattr(tokenizer, "sp_model"):
        definition = tokenizer.sp_model.serialized_model_proto()
    else:
        definition = json.dumps(tokenizer.get_vocab(), sort_keys=True).encode()
    special = json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str).encode()
    template = str(tokenizer.chat_template).encode()
    name = type(tokenizer).__name__.encode()
    return hashlib.sha256(b"\0".join([definition, name, special, template])).hexdigest()

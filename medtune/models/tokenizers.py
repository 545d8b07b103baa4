"""The tokenizer of a model: found, read by the right class, with an EOS and a padding token."""

import logging
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from medtune.config.schema import ModelConfig
from medtune.models.baichuan_tokenizer import BaichuanTokenizer
from medtune.models.folders import TOKENIZER_FILES, find_folder, has_tokenizer, read_settings
from medtune.runtime.errors import ConfigError

PLAIN_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")

logger = logging.getLogger(__name__)


def load_tokenizer(model: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of ``model``, with an EOS and a padding token.

    Raises:
        ConfigError: It cannot be found or read, or has no EOS token.
    """
    key, name = ("model.tokenizer", model.tokenizer) if model.tokenizer else ("model.path", model.path)
    if name is None:
        raise ConfigError("neither model.tokenizer nor model.path is set; give a folder or hub id")
    folder = find_folder(key, name, None if model.tokenizer else model.revision, weights=False)
    if not has_tokenizer(folder):
        raise ConfigError(f"{key}={name} holds no tokenizer: looked for {', '.join(TOKENIZER_FILES)}")
    tokenizer = _read_tokenizer(key, folder)
    _settle_eos(tokenizer, key, folder)
    _settle_padding(tokenizer)
    return tokenizer


def _read_tokenizer(key: str, folder: Path) -> PreTrainedTokenizerBase:
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        read_settings(folder / name)  # its message names the file
    try:
        # False, not left out: transformers would ask on the terminal, and run the folder's code after a "y".
        tokenizer: PreTrainedTokenizerBase = _tokenizer_class(folder).from_pretrained(
            folder, trust_remote_code=False
        )
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        if "trust_remote_code" in str(error):
            raise ConfigError(
                f"{key}={folder}: its tokenizer is Python code that comes with the model (auto_map in "
                "tokenizer_config.json), which is never run; give one that transformers knows with "
                "model.tokenizer=FOLDER"
            ) from error
        raise ConfigError(
            f"{key}={folder}: its tokenizer cannot be read ({error}); fetch it again"
        ) from error
    return tokenizer


def _tokenizer_class(folder: Path) -> Any:
    """Baichuan's class for its sentencepiece files, the plain one where named, else transformers' choice.

    For some families transformers takes the family's class whatever is named; another's vocabulary then loses
    most of a text (qwen2 in version 5.23).
    """
    if (folder / "tokenizer.json").is_file():
        named = read_settings(folder / "tokenizer_config.json").get("tokenizer_class")
        return PreTrainedTokenizerFast if named in PLAIN_CLASSES else AutoTokenizer
    if (folder / "tokenizer.model").is_file():
        settings = read_settings(folder / "tokenizer_config.json") | read_settings(folder / "config.json")
        if settings.get("tokenizer_class") == "BaichuanTokenizer" or settings.get("model_type") == "baichuan":
            return BaichuanTokenizer
    return AutoTokenizer


def _settle_eos(tokenizer: PreTrainedTokenizerBase, key: str, folder: Path) -> None:
    """Takes the EOS that the model's own settings name where the tokenizer's name none.

    Raises:
        ConfigError: Neither does.
    """
    if tokenizer.eos_token_id is not None:
        return
    for name in ("generation_config.json", "config.json"):
        eos = read_settings(folder / name).get("eos_token_id")
        first = eos[0] if isinstance(eos, list) and eos else eos
        if isinstance(first, int) and 0 <= first < len(tokenizer):
            tokenizer.eos_token = tokenizer.convert_ids_to_tokens(first)
            logger.info(
                "the tokenizer names no EOS token; %s says it is %s (id %d)",
                *(name, tokenizer.eos_token, first),
            )
            return
    raise ConfigError(
        f"{key}={folder}: the tokenizer has no EOS token, so no answer could end; "
        "name one as eos_token in its tokenizer_config.json"
    )


def _settle_padding(tokenizer: PreTrainedTokenizerBase) -> None:
    """Gives the tokenizer a padding token; any will do, since padding is told by its place, not its id."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
        logger.info("the tokenizer has no padding token; rows are filled with %s", tokenizer.pad_token)
    elif tokenizer.pad_token_id == tokenizer.eos_token_id:
        logger.info("padding and EOS share the token %s; EOS is learned all the same", tokenizer.pad_token)

"""``python -m medtune.data.sample.tokenizer``: trains the tokenizer shipped with the sample.

Byte-pair encoding over characters. A character the training records do not have is spelled in bytes, so any
text goes in and comes out unchanged and ``<unk>`` never occurs. Words are bounded by Chinese punctuation
only: a frequent phrase becomes one token, which is what lets a small model see many records a second.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

DEFAULT_VOCABULARY_SIZE = 2048
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<pad>")
# What medtune's template puts around a record; part of the training text, so that it costs few tokens.
WRAPPER = (
    "Write a response that appropriately completes the Input.\n\nInput:\n",
    "\n\nResponse:\n",
)
# A run of ASCII (the wrapper is one), a run of characters that are neither ASCII nor punctuation, or one
# Chinese punctuation mark.
_PIECE = Regex(r"[\x00-\x7f]+|[，。：；？！“”、（）《》]|[^\x00-\x7f，。：；？！“”、（）《》]+")


def train_tokenizer(texts: Iterator[str], vocabulary_size: int = DEFAULT_VOCABULARY_SIZE) -> Tokenizer:
    """A tokenizer of exactly ``vocabulary_size`` tokens, or fewer where the texts support no more.

    Raises:
        ValueError: The size has no room for the special tokens and the 256 bytes.
    """
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    num_learned = vocabulary_size - len(byte_tokens)
    if num_learned <= len(SPECIAL_TOKENS):
        raise ValueError(
            f"--vocabulary-size {vocabulary_size} has no room beside {len(byte_tokens)} bytes and "
            f"{len(SPECIAL_TOKENS)} special tokens; give 1000 or more"
        )
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = _split_pieces()
    trainer = trainers.BpeTrainer(
        vocab_size=num_learned, special_tokens=list(SPECIAL_TOKENS), show_progress=False, min_frequency=2
    )
    learned.train_from_iterator(texts, trainer)
    # The bytes join the model's vocabulary, not the added tokens: the text "<0x41>" stays six characters.
    state = json.loads(learned.to_str())["model"]
    tokens = sorted(state["vocab"], key=state["vocab"].__getitem__)
    tokens[len(SPECIAL_TOKENS) : len(SPECIAL_TOKENS)] = byte_tokens
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=[tuple(merge) for merge in state["merges"]],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    tokenizer.pre_tokenizer = _split_pieces()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes ``tokenizer.json`` and the configuration ``AutoTokenizer`` reads it with."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
    }
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def read_training_texts(folder: Path) -> Iterator[str]:
    """Prompt and target of every training record, as the model will meet them.

    Raises:
        FileNotFoundError: ``folder`` has neither train.json nor train.json.gz.
    """
    plain, packed = folder / "train.json", folder / "train.json.gz"
    if not (plain.exists() or packed.exists()):
        raise FileNotFoundError(
            f"--data {folder} has neither train.json nor train.json.gz; "
            f"write them with python -m medtune.data.sample --records 30000 --out {folder}"
        )
    with plain.open("rb") if plain.exists() else gzip.open(packed) as lines:
        for line in lines:
            record = json.loads(line)
            yield record["input"].join(WRAPPER)
            yield record["target"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains a tokenizer on the training records of a sample, and on nothing else."""
    parser = argparse.ArgumentParser(prog="python -m medtune.data.sample.tokenizer", description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with train.json(.gz)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write into")
    parser.add_argument(
        "--vocabulary-size",
        type=int,
        default=DEFAULT_VOCABULARY_SIZE,
        metavar="V",
        help=f"tokens, special tokens and bytes included (default: {DEFAULT_VOCABULARY_SIZE})",
    )
    options = parser.parse_args(arguments)
    tokenizer = train_tokenizer(read_training_texts(options.data), options.vocabulary_size)
    save_tokenizer(tokenizer, options.out)
    print(f"{options.out}: {tokenizer.get_vocab_size()} tokens")


def _split_pieces() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(_PIECE, behavior="isolated")


if __name__ == "__main__":
    main()

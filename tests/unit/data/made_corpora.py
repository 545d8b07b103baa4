"""Sources of a few records in any format, and the settings of a run that reads them.

The tests' tokenizer gives every character one id, so that lengths can be counted by hand.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtune.config.schema import Config, DataConfig, FilterConfig, TemplateConfig
from medtune.data.corpus import Corpus, build_corpus
from medtune.data.parts import Part
from medtune.data.tokens.prepare import TokenizerSource

TEMPLATE = TemplateConfig(name="made", system=["{system}\n"], prompt=["{prompt}\n"])
FORMATS = ("promptcblue", "pair", "alpaca", "messages", "text")


@dataclass(frozen=True)
class Talk:
    """What a record says, whatever its format: prompts with responses, or a text.

    A response of None is withheld.
    """

    turns: tuple[tuple[str, str | None], ...] = ()
    system: str = ""
    text: str = ""

    @property
    def prompt(self) -> str:
        return self.text or "\n".join(prompt for prompt, _ in self.turns)

    @property
    def content(self) -> str:
        return self.text or "\n".join(f"{prompt}\n{response or ''}" for prompt, response in self.turns)

    @property
    def tokens(self) -> list[bool]:
        """Of each token in ``TEMPLATE``, whether it belongs to a response; of a text every one does."""
        if self.text:
            return [True] * (len(self.text) + 1)
        tokens = [False] * (len(self.system) + 1 if self.system else 0)
        for prompt, response in self.turns:
            tokens += [False] * (len(prompt) + 1) + [True] * (len(response or "") + 1)
        return tokens


def number_of(prompt: str) -> int:
    """The first 8 of the 16 bytes that tell prompts apart, as a number; of one that is normalised already."""
    return int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=16).digest()[:8], "little")


def ask(prompt: str, response: str | None = "ok") -> Talk:
    return Talk(((prompt, response),))


def record_of(talk: Talk, format: str) -> dict[str, Any]:
    """The record in which a format says it; one that has no place for a system prompt leaves it out."""
    if format == "text":
        return {"text": talk.text}
    if format == "messages":
        turns = [{"role": "system", "content": talk.system}] if talk.system else []
        for prompt, response in talk.turns:
            turns += [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        return {"messages": turns}
    *earlier, (prompt, response) = talk.turns
    if format == "alpaca":
        history = [list(pair) for pair in earlier]
        own = {"instruction": prompt, "input": "", "output": response or ""}
        return {**own, "history": history, "system": talk.system}
    if format == "pair":
        return {"instruct": prompt, "query": "", "answer": response or ""}
    return {"input": prompt, "target": response or ""}


def write_talks(path: Path, talks: Sequence[Talk | str], format: str) -> None:
    """A file of a record per line; a string is a line as it stands, such as a broken one."""
    lines = [
        talk if isinstance(talk, str) else json.dumps(record_of(talk, format), ensure_ascii=False)
        for talk in talks
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def made_source(
    folder: Path,
    name: str,
    format: str = "promptcblue",
    splits: Mapping[str, Sequence[Talk | str]] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Writes a source's files; returns its settings as plain values."""
    for split, talks in (splits or {}).items():
        write_talks(folder / name / f"{split}.jsonl", talks, format)
    files = {split: f"{split}.jsonl" for split in splits or {}}
    return {"name": name, "dir": str(folder / name), "format": format, "splits": files, **settings}


def config_of(
    folder: Path, *sources: dict[str, Any], objective: str = "sft", seed: int = 0, **data: Any
) -> Config:
    """The settings of a run over one source, or a mix of several; the cache is in ``folder``."""
    trainer = data.pop("trainer", {})
    given = {"cache_dir": str(folder / "cache"), "sequence_length": 64, "prepare_workers": 1, **data}
    if len(sources) > 1 or "mix_by" in given:
        made = DataConfig(
            name="mix", mix=[source["name"] for source in sources],
            sources={source["name"]: dict(source) for source in sources}, **given,
        )  # fmt: skip
    else:
        own = dict(sources[0])
        made = DataConfig(**{**own, "filter": FilterConfig(**own.get("filter", {})), **given})
    config = Config(objective=objective, seed=seed, data=made, template=TEMPLATE)
    for key, value in trainer.items():
        setattr(config.trainer, key, value)
    return config


def corpus_of(config: Config, tokenizer: Any) -> Corpus:
    """What the run learns from."""
    return build_corpus(config, TokenizerSource.of(tokenizer))


def fate_of_lines(part: Part) -> dict[str, int]:
    """The fate of each document by its ``file:line``, the file without its folder."""
    names = [part.store.where(index).rpartition("/")[2] for index in range(len(part.store))]
    return dict(zip(names, part.fates.tolist(), strict=True))

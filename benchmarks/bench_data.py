"""The data path: text to ids, records to packed rows, rows to tensors, and packing alone.

Everything is made here and kept in ``outputs/bench``: records with the lengths of PromptCBLUE, a byte-level
vocabulary in Qwen's layout and a sentencepiece model, both trained on the sample.
"""

import gzip
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.report import FOLDER, Figure, measure_python, report, run_child
from medtune.runtime.hardware import PROJECT

if TYPE_CHECKING:
    from medtune.config.schema import Config
    from medtune.data.tokens.tokenizer_files import TokenizerSource

NUM_RECORDS = 120_000
GROWTH = {"12k": 12_000, "120k": NUM_RECORDS, "480k": 4 * NUM_RECORDS}
TEXTS = 40_000
MODULE = "benchmarks.bench_data"
UTILISATION = {1024: 99.7, 2048: 99.85, 4096: 99.9}
RECORDS = FOLDER / "records"
SAMPLE = PROJECT / "data" / "sample"
TOKENIZERS = {"built_in": SAMPLE / "tokenizer", "byte_level": FOLDER / "byte_level"}
SENTENCEPIECE = FOLDER / "sentencepiece"
QWEN = (  # where Qwen-2's tokenizer cuts words
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def main() -> None:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # compiling our modules is nothing a user waits for twice
    make_inputs()
    figures = [*tokenising(), *preparing(), *packing(), *near_duplicates()]
    report("data", figures)


def tokenising() -> Iterator[Figure]:
    """Encoders against the libraries they compete with, in one process, one thread."""
    byte_level = run_child(MODULE, "tokenise", str(TOKENIZERS["byte_level"]))
    built_in = run_child(MODULE, "tokenise", str(TOKENIZERS["built_in"]))
    sentencepiece = run_child(MODULE, "sentencepiece")
    yield Figure("byte-level vocabulary, against tokenizers", byte_level["ratio"], "x", 3.0, "higher")
    yield Figure("  texts with other ids", byte_level["different"], "texts", 0.0)
    yield Figure("  speed", byte_level["tokens_per_cpu_s"] / 1e6, "Mtok/CPU-s")
    yield Figure("built-in vocabulary, against tokenizers", built_in["ratio"], "x")
    yield Figure("  texts with other ids", built_in["different"], "texts", 0.0)
    yield Figure("sentencepiece, against itself alone", sentencepiece["ratio"], "x", 0.8, "higher")
    yield Figure("  texts with other ids", sentencepiece["different"], "texts", 0.0)


def preparing() -> Iterator[Figure]:
    """From records to packed rows to batches."""
    for name, tokenizer in TOKENIZERS.items():
        with tempfile.TemporaryDirectory() as cache:
            cold = run_child(MODULE, "prepare", str(tokenizer), cache, "train.json", "1")
            yield Figure(f"{NUM_RECORDS:,} records, cold to packed, {name}", cold["cpu_s"], "CPU-s", 18.0)
            yield Figure("  tokens", cold["tokens"] / 1e6, "million")
            yield Figure("  peak memory", cold["peak_mb"], "MB", 500.0)
            yield Figure("  of it imports", cold["imports_mb"], "MB")
            if name == "built_in":
                yield from warm_figures(tokenizer, cache)
    yield from workers_figures()
    yield from growth_figures()


def warm_figures(tokenizer: Path, cache: str) -> Iterator[Figure]:
    """What follows once the tokens are there."""
    warm = run_child(MODULE, "warm", str(tokenizer), cache)
    yield Figure("cache to first batch, beyond importing torch", warm["cpu_s"], "CPU-s", 0.3)
    yield Figure("  of it imports", warm["imports_s"], "CPU-s")
    loader = run_child(MODULE, "load", str(tokenizer), cache)
    yield Figure("rows to tensors", loader["tokens_per_cpu_s"] / 1e6, "Mtok/CPU-s", 5.0, "higher")
    utilisation = run_child(MODULE, "utilisation", str(tokenizer), cache)
    for length, budget in UTILISATION.items():
        yield Figure(f"bfd utilisation at {length}", utilisation[str(length)], "%", budget, "higher")
    yield Figure("  of batches of 8, padded", utilisation["padded"], "%")
    share = utilisation["2048"] / utilisation["padded"]
    yield Figure("useful tokens per token computed, against them", share, "x", 3.0, "higher")


def workers_figures() -> Iterator[Figure]:
    """The same records over the processes that data.prepare_workers=null starts."""
    with tempfile.TemporaryDirectory() as cache:
        cold = run_child(MODULE, "prepare", str(TOKENIZERS["built_in"]), cache, "train.json", "0")
    yield Figure("cold over several processes", cold["cpu_s"], "CPU-s")
    yield Figure("  wall clock", cold["wall_s"], "s")


def growth_figures() -> Iterator[Figure]:
    """Memory that tokenising takes on top of the imports."""
    grown = {}
    for name in GROWTH:
        with tempfile.TemporaryDirectory() as cache:
            one = run_child(MODULE, "tokens", str(TOKENIZERS["built_in"]), cache, f"train_{name}.json")
            grown[name] = one["peak_mb"] - one["imports_mb"]
            yield Figure(f"memory to tokenise {name} records, beyond imports", grown[name], "MB")
    yield Figure("  480k against 120k", grown["480k"] / max(grown["120k"], 1.0), "x", 1.25)


def packing() -> Iterator[Figure]:
    """Packing alone."""
    seconds = run_child(MODULE, "pack")
    yield Figure("bfd of 100 k lengths", seconds["100000"], "CPU-s")
    yield Figure("bfd of 1 M lengths", seconds["1000000"], "CPU-s", 0.1)
    yield Figure("bfd of 10 M lengths", seconds["10000000"], "CPU-s", 1.5)


def near_duplicates() -> Sequence[Figure]:
    """The figures of benchmarks/near_duplicates.py."""
    from benchmarks.near_duplicates import figures

    found: Sequence[Figure] = figures()
    return found


def make_inputs() -> None:
    """Makes what is not there yet."""
    generate_records(RECORDS)
    for name, count in GROWTH.items():
        path = RECORDS / f"train_{name}.json"
        if not path.is_file():
            repeat_lines(RECORDS / "train.json", path, count)
    for name, make in (("byte_level", train_byte_level), ("sentencepiece", train_sentencepiece)):
        if not (FOLDER / name).is_dir():
            make(FOLDER / name)


def generate_records(folder: Path) -> None:
    """Writes the training records unless they are there."""
    if (folder / "README.md").is_file() and f"--records {NUM_RECORDS} " in (folder / "README.md").read_text():
        return
    arguments = ["--records", str(NUM_RECORDS), "--lengths", "promptcblue", "--out", str(folder)]
    folder.mkdir(parents=True, exist_ok=True)
    usage = measure_python("-m", "medtune.data.sample", *arguments)
    if usage.returncode:
        raise RuntimeError(usage.output)


def repeat_lines(source: Path, target: Path, count: int) -> None:
    """Writes ``count`` lines of ``source``, beginning again at its end."""
    with target.open("wb") as sink:
        while count:
            with source.open("rb") as lines:
                for line in lines:
                    sink.write(line)
                    count -= 1
                    if not count:
                        break


def sample_texts() -> Iterator[str]:
    """The sample's training texts."""
    yield from (SAMPLE / "corpus_train.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    with gzip.open(SAMPLE / "train.json.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            yield record["input"] + record["target"]


def train_byte_level(folder: Path) -> None:
    """A vocabulary of 20 000 merges with the normaliser, pattern and added tokens of Qwen-3."""
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        trainers,
    )

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(QWEN), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=20_256, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(sample_texts(), trainer)
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in ("<think>", "</think>")])
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def train_sentencepiece(folder: Path) -> None:
    """A model of the kind that Baichuan and Llama-2 have: byte-pair encoding, unknown characters in bytes."""
    import sentencepiece

    folder.mkdir(parents=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(text.replace("\n", " ")[:4000] for text in sample_texts()),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=4000,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )


def bench_texts() -> list[str]:
    """Prompts and responses as they are encoded."""
    texts: list[str] = []
    with (RECORDS / "train.json").open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            texts += (record["input"], record["target"])
            if len(texts) >= TEXTS:
                break
    return texts


def in_batches(encode: Callable[[list[str]], list[list[int]]], texts: list[str]) -> list[list[int]]:
    """The ids of all texts, a thousand at a time."""
    return [ids for at in range(0, len(texts), 1000) for ids in encode(texts[at : at + 1000])]


def best_of(count: int, work: Callable[[], Any]) -> tuple[float, Any]:
    """(least CPU-seconds, the result)."""
    best, result = float("inf"), None
    for _ in range(count):
        started = time.process_time()
        result = work()
        best = min(best, time.process_time() - started)
    return best, result


def compare(encode: Any, own: Any) -> dict[str, float]:
    """How much faster ``encode`` is than ``own``, and how many texts get other ids."""
    texts = bench_texts()
    slow = fast = float("inf")
    for _ in range(3):  # by turns, since the machine's other work comes and goes
        seconds, due = best_of(1, lambda: in_batches(own, texts))
        slow = min(slow, seconds)
        seconds, found = best_of(1, lambda: in_batches(encode, texts))
        fast = min(fast, seconds)
    return {
        "ratio": slow / fast,
        "different": float(sum(list(a) != list(b) for a, b in zip(found, due, strict=True))),
        "tokens_per_cpu_s": sum(map(len, found)) / fast,
    }


def tokenise(tokenizer: str) -> dict[str, float]:
    """The encoder of a tokenizer against tokenizers' encode_batch_fast."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    from medtune.data.tokens.vocabulary import vocabulary_of

    file = str(Path(tokenizer) / "tokenizer.json")
    backend = Tokenizer.from_file(file)
    backend.encode_special_tokens = True
    encode = vocabulary_of(PreTrainedTokenizerFast(tokenizer_file=file)).encode
    return compare(
        encode,
        lambda texts: [ids.ids for ids in backend.encode_batch_fast(texts, add_special_tokens=False)],
    )


def sentencepiece() -> dict[str, float]:
    """The encoder of a sentencepiece model against the library alone."""
    from sentencepiece import SentencePieceProcessor

    from medtune.data.tokens.encoders import sentencepiece_encoder

    model = (SENTENCEPIECE / "tokenizer.model").read_bytes()
    processor = SentencePieceProcessor(model_proto=model)
    return compare(sentencepiece_encoder(model), lambda texts: processor.encode(texts, out_type=int))


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cpu_seconds() -> float:
    """Of this process and those it has started and waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def configuration(tokenizer: str, cache: str, file: str = "train.json", workers: int | None = 1) -> "Config":
    """Rows of 2048 tokens from the records."""
    from medtune.config.schema import Config, DataConfig, ModelConfig, TemplateConfig

    data = DataConfig(
        dir=str(RECORDS),
        splits={"train": file},
        overlong="truncate",
        sequence_length=2048,
        cache_dir=cache,
        prepare_workers=workers,
    )
    template = TemplateConfig(start=[{"token": "bos"}])
    return Config(data=data, model=ModelConfig(tokenizer=tokenizer), template=template)


def loaded(config: "Config") -> "TokenizerSource":
    """The tokenizer with everything it imports, which is not what is measured."""
    from medtune.data.tokens.tokenizer_files import tokenizer_source

    source = tokenizer_source(config.model)
    source.load()
    return source


def prepare(tokenizer: str, cache: str, file: str, workers: str) -> dict[str, float]:
    """From a cold cache to the packed index; ``workers`` 0: as many as are the default."""
    from medtune.data.corpus import build_corpus

    config = configuration(tokenizer, cache, file, int(workers) or None)
    source = loaded(config)
    imports_mb, started, wall = peak_mb(), cpu_seconds(), time.perf_counter()
    split = build_corpus(config, source).splits["train"]
    return {
        "tokens": float(split.rows_of(0).lengths.sum()),
        "cpu_s": cpu_seconds() - started,
        "wall_s": time.perf_counter() - wall,
        "imports_mb": imports_mb,
        "peak_mb": peak_mb(),
    }


def tokens(tokenizer: str, cache: str, file: str) -> dict[str, float]:
    """Tokenising alone, into the store."""
    from medtune.config.sources import sources_of
    from medtune.data.tokens.prepare import prepare_split

    config = configuration(tokenizer, cache, file)
    source = loaded(config)
    imports_mb = peak_mb()
    (records,) = sources_of(config.data).values()
    prepare_split(records, "train", config.template, source, Path(cache), 1)
    return {"imports_mb": imports_mb, "peak_mb": peak_mb()}


def warm(tokenizer: str, cache: str) -> dict[str, float]:
    """From a filled cache to the first batch; the tokenizer is not loaded, nor what it needs imported."""
    import torch.utils.data  # noqa: F401 - paid for before the clock starts

    started = time.process_time()
    imported: list[float] = []
    next(batches(tokenizer, cache, imported))
    assert "transformers" not in sys.modules
    return {"cpu_s": time.process_time() - started, "imports_s": imported[0] - started}


def batches(tokenizer: str, cache: str, imported: list[float] | None = None) -> Iterator[dict[str, Any]]:
    """Batches of one row in the order of training."""
    from medtune.data.corpus import build_corpus
    from medtune.data.rows.collate import Collator
    from medtune.data.rows.order import StepPlan, StepSampler
    from medtune.data.tokens.tokenizer_files import tokenizer_source

    config = configuration(tokenizer, cache)
    if imported is not None:
        imported.append(time.process_time())
    corpus = build_corpus(config, tokenizer_source(config.model))
    split = corpus.splits["train"]
    plan = StepPlan(split, config.data.global_batch_size, micro_batch_size=1, world_size=1)
    collate = Collator(split, corpus.pad_id)
    return map(collate, StepSampler(plan, 0, config.seed))


def load(tokenizer: str, cache: str) -> dict[str, float]:
    """Tokens of batches that one core makes in a second."""
    rows = batches(tokenizer, cache)
    next(rows)
    started, count = time.process_time(), 0
    for _ in range(2000):
        count += next(rows)["input_ids"].numel()
    return {"tokens_per_cpu_s": count / (time.process_time() - started)}


def utilisation(tokenizer: str, cache: str) -> dict[str, float]:
    """Percent of the rows' room that tokens fill, documents cut to the row's length."""
    import numpy as np

    from medtune.data.corpus import build_corpus
    from medtune.data.rows.packing import pack
    from medtune.data.tokens.tokenizer_files import tokenizer_source

    config = configuration(tokenizer, cache)
    lengths = build_corpus(config, tokenizer_source(config.model)).splits["train"].parts[0].store.lengths
    documents, start = np.arange(len(lengths)), np.zeros(len(lengths), dtype=np.int64)
    rows = {
        length: pack(documents, start, np.minimum(lengths, length), length, "bfd", seed=0)
        for length in UTILISATION
    }
    shuffled = np.random.default_rng(0).permutation(np.minimum(lengths, 2048))
    batches = shuffled[: len(shuffled) // 8 * 8].reshape(-1, 8)
    padded = 100 * batches.sum() / (8 * batches.max(axis=1).sum())
    return {
        "padded": float(padded),
        **{str(length): 100 * packed.utilisation(length) for length, packed in rows.items()},
    }


def pack_lengths() -> dict[str, float]:
    """CPU-seconds of best-fit decreasing over log-normal lengths (median 150), best of three."""
    import numpy as np

    from medtune.data.rows.packing import best_fit_decreasing

    figures = {}
    for count in (100_000, 1_000_000, 10_000_000):
        drawn = np.random.default_rng(0).lognormal(5.0, 0.8, count)
        lengths = np.clip(drawn, 1, 2048).astype(np.int64)
        figures[str(count)], _ = best_of(3, lambda lengths=lengths: best_fit_decreasing(lengths, 2048))
    return figures


CHILDREN: dict[str, Callable[..., dict[str, float]]] = {
    "tokenise": tokenise,
    "sentencepiece": sentencepiece,
    "prepare": prepare,
    "tokens": tokens,
    "warm": warm,
    "load": load,
    "utilisation": utilisation,
    "pack": pack_lengths,
}

if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(CHILDREN[sys.argv[1]](*sys.argv[2:])))
    else:
        main()

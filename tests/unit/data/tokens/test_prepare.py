"""The cache in front of the token store: hits, misses and their reasons, several processes, damage."""

import fcntl
import json
import logging
import multiprocessing
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from medtune.config.schema import ColumnsConfig, FilterConfig, ModelConfig, SourceConfig, TemplateConfig
from medtune.data.examples import Example, Turn
from medtune.data.reading.splits import file_names, raw_records, reader_of
from medtune.data.tokens.content import content_of, fingerprint, prompt_of
from medtune.data.tokens.encode import ChunkEncoder, Record, chunks_of, fingerprints
from medtune.data.tokens.pool import BYTES_FOR_WORKERS, encode_chunks, workers_for
from medtune.data.tokens.prepare import TokenizerSource, prepare_split, tokenizer_source
from medtune.data.tokens.store import DROPPED, META, TOKENS
from medtune.data.tokens.templates import Template
from medtune.data.tokens.tokenizer_files import fingerprint_of_files
from medtune.data.tokens.vocabulary import vocabulary_of
from medtune.runtime.errors import ConfigError
from medtune.runtime.hardware import cpu_cores

TEMPLATE = TemplateConfig(prompt=["q: {prompt}\n"])
RECORDS = [
    {"instruct": f"患者{'头痛' * (i % 5)}{i}?", "query": "", "answer": f"发热{i}。", "sample_id": f"s{i}"}
    for i in range(12)
]


def lines_of(records):
    return "".join(
        (record if isinstance(record, str) else json.dumps(record, ensure_ascii=False)) + "\n"
        for record in records
    )


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "train.jsonl").write_text(lines_of(RECORDS), encoding="utf-8")
    return SourceConfig(name="toy", dir=str(folder), splits={"train": "train.jsonl"})


@pytest.fixture
def tokenizer(tiny_tokenizer):
    return TokenizerSource.of(tiny_tokenizer)


@pytest.fixture
def prepare(tmp_path, tokenizer):
    def run(source, template=TEMPLATE, workers=1, tokenizer=tokenizer):
        return prepare_split(source, "train", template, tokenizer, tmp_path / "cache", workers)

    return run


def never():
    raise AssertionError("the tokenizer was loaded")


def test_a_store_holds_what_the_template_makes_of_each_record(source, prepare, tiny_tokenizer):
    store = prepare(source)
    examples = [
        Example((Turn("prompt", record["instruct"], False), Turn("response", record["answer"], True)), "", 0)
        for record in RECORDS
    ]
    due = Template.from_tokenizer(TEMPLATE, tiny_tokenizer).encode(examples)
    assert [store.input_ids(i).tolist() for i in range(len(store))] == [row.input_ids for row in due]
    assert [[tuple(span) for span in store.spans(i).tolist()] for i in range(len(store))] == [
        row.spans for row in due
    ]
    path = str(Path(source.dir) / "train.jsonl")
    assert [store.where(i) for i in range(3)] == [f"{path}:1", f"{path}:2", f"{path}:3"]
    hashes = [fingerprint(content_of(example.turns)) for example in examples]
    assert store.content.tobytes() == b"".join(hashes)
    prompts = [fingerprint(prompt_of(example.turns))[:8] for example in examples]
    assert store.prompts.tobytes() == b"".join(prompts)
    assert len(set(store.samples.tolist())) == len(RECORDS)
    assert store.responses.tolist() == [1] * len(RECORDS)
    assert {
        key: store.meta[key] for key in ("records", "examples", "dropped", "pad_id", "ends_with_eos")
    } == {
        "records": 12,
        "examples": 12,
        "dropped": {},
        "pad_id": 0,
        "ends_with_eos": 12,
    }


turns = st.lists(
    st.tuples(st.sampled_from(["system", "prompt", "response", "text"]), st.text(max_size=8)), max_size=4
).map(lambda pairs: tuple(Turn(role, text, learned=False) for role, text in pairs))


@given(st.lists(turns, max_size=4))
def test_fingerprints_are_those_of_data_content(conversations):
    content, prompts = fingerprints([Example(turns, "f", 1) for turns in conversations])
    assert content.tobytes() == b"".join(fingerprint(content_of(turns)) for turns in conversations)
    assert prompts.tobytes() == b"".join(fingerprint(prompt_of(turns))[:8] for turns in conversations)


LATER = {
    "weight": 3.0,
    "max_passes": 2.0,
    "overlong": "truncate",
    "max_tokens": 5,
    "validation_size": 0.1,
    "objective": "pretrain",
    "name": "other",
    "origin": "somewhere",
    "eval_splits": ["train"],
    "verify": False,
}


@pytest.mark.parametrize("key", LATER)
def test_what_is_decided_later_tokenises_nothing(source, prepare, tokenizer, key, caplog):
    folder = prepare(source).folder
    caplog.set_level(logging.INFO)
    again = prepare(replace(source, **{key: LATER[key]}), tokenizer=replace(tokenizer, load=never))
    assert again.folder == folder
    assert "read from the cache" in caplog.text


def test_a_renamed_folder_is_a_hit_and_messages_name_the_new_one(source, prepare, tokenizer):
    folder = prepare(source).folder
    moved = Path(source.dir).rename(Path(source.dir).with_name("moved"))
    store = prepare(replace(source, dir=str(moved)), tokenizer=replace(tokenizer, load=never))
    assert store.folder == folder
    assert store.where(0) == f"{moved / 'train.jsonl'}:1"


COLUMNS = ColumnsConfig(instruction="answer", response="instruct")
CHANGES = {
    "columns": {"columns": COLUMNS, "format": "pair"},
    "roles": {"roles": {"patient": "user"}},
    "learn": {"learn": "last"},
    "learn_thinking": {"learn_thinking": False},
    "filter": {"filter": FilterConfig(min_chars=9)},
    "on_error": {"on_error": "skip"},
    "max_examples": {"max_examples": 5},
}


@pytest.mark.parametrize("key", CHANGES)
def test_what_changes_the_tokens_is_a_miss_that_says_why(source, prepare, key, caplog):
    folder = prepare(source).folder
    caplog.set_level(logging.INFO)
    assert prepare(replace(source, **CHANGES[key])).folder != folder
    assert f"tokenising train of toy: changed since it was last prepared: {key}\n" in caplog.text


def test_files_template_and_tokenizer_are_told_apart(source, prepare, tokenizer, caplog):
    caplog.set_level(logging.INFO)
    folders = [prepare(source).folder]
    folders.append(prepare(source, template=replace(TEMPLATE, prompt=["{prompt}\n"])).folder)
    folders.append(prepare(source, tokenizer=replace(tokenizer, fingerprint="x")).folder)
    path = Path(source.dir) / "train.jsonl"
    path.write_text(path.read_text() + lines_of(RECORDS[:1]))
    folders.append(prepare(source).folder)
    path.rename(path.with_name("other.jsonl"))
    folders.append(prepare(replace(source, splits={"train": "other.jsonl"})).folder)
    assert len(set(folders)) == 5
    reasons = [line.split(": ", 2)[2] for line in caplog.messages if line.startswith("data: tokenising")]
    changed = "changed since it was last prepared: "
    assert reasons == [
        "not prepared before",
        f"{changed}template",
        f"{changed}tokenizer",
        f"{changed}content",
        "not prepared before",
    ]


def test_a_detected_format_and_the_same_one_said_share_a_store(source, prepare, tokenizer):
    folder = prepare(source).folder
    assert prepare(replace(source, format="pair"), tokenizer=replace(tokenizer, load=never)).folder == folder


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: cut(folder / TOKENS), "tokens.arrow is not as it was written"),
        (lambda folder: (folder / META).unlink(), "meta.json is missing"),
        (lambda folder: (folder / META).write_text("{"), "meta.json cannot be read"),
        (lambda folder: (folder / TOKENS).unlink(), "a file is missing"),
        (lambda folder: [file.unlink() for file in folder.iterdir()], "meta.json is missing"),
    ],
    ids=["tokens_cut", "meta_missing", "meta_broken", "tokens_missing", "empty_folder"],
)
def test_a_damaged_store_is_made_again_and_said(source, prepare, damage, told, caplog):
    folder = prepare(source).folder
    whole = {file.name: file.read_bytes() for file in folder.iterdir()}
    damage(folder)
    caplog.set_level(logging.INFO)
    prepare(source)
    assert f"tokenising train of toy: the cache is damaged: {told}" in caplog.text
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == whole


BAD = ["not json", {"instruct": "q", "query": "", "answer": 5}, {"other": 1}]


def test_an_unreadable_record_stops_and_leaves_nothing(source, prepare, tmp_path):
    (Path(source.dir) / "train.jsonl").write_text(lines_of([*RECORDS, BAD[0]]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"train\.jsonl:13: not JSON"):
        prepare(source)
    assert [entry.name for entry in (tmp_path / "cache").iterdir() if entry.suffix != ".lock"] == []


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_left_out_is_counted_listed_and_adds_up(source, prepare, workers):
    path = Path(source.dir) / "train.jsonl"
    path.write_text(lines_of([RECORDS[0], *BAD, *RECORDS[1:]]), encoding="utf-8")
    filtered = replace(source, on_error="skip", filter=FilterConfig(exclude="头痛头痛头痛"))
    store = prepare(filtered, workers=workers)
    assert store.meta["dropped"] == {"error": 3, "exclude": 4}
    assert store.meta["records"] == 15 == store.meta["examples"] + 7
    listed = [json.loads(line) for line in (store.folder / DROPPED).read_text().splitlines()]
    assert [entry["line"] for entry in listed] == [2, 3, 4, 7, 8, 12, 13]
    assert [entry["cause"] for entry in listed] == ["error"] * 3 + ["exclude"] * 4
    assert listed[0]["file"] == str(path)
    assert listed[0]["reason"].startswith("not JSON")
    assert listed[3]["reason"] == "data.filter.exclude=头痛头痛头痛"
    assert store.lines.tolist() == [1, 5, 6, 9, 10, 11, 14, 15]


def test_what_the_template_cannot_render_is_an_error_of_the_record(source, prepare):
    system = {"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "q"},
                           {"role": "assistant", "content": "a"}]}  # fmt: skip
    plain = {"messages": system["messages"][1:]}
    (Path(source.dir) / "train.jsonl").write_text(lines_of([plain, system, plain]))
    with pytest.raises(ValueError, match=r"train\.jsonl:2: a system prompt, but template=plain has no place"):
        prepare(source)
    store = prepare(replace(source, on_error="skip"))
    assert store.lines.tolist() == [1, 3]
    (entry,) = map(json.loads, (store.folder / DROPPED).read_text().splitlines())
    assert (entry["line"], entry["cause"]) == (2, "error")
    assert entry["reason"].startswith("a system prompt, but template=plain")


def test_what_cannot_be_tokenised_is_an_error_of_the_record(source, prepare, byte_level):
    endless = {**RECORDS[1], "answer": " " * 1_000_001 + "x"}
    (Path(source.dir) / "train.jsonl").write_text(lines_of([RECORDS[0], endless]))
    with pytest.raises(ValueError, match=r"train\.jsonl:2: 1,000,000 white space characters in a row"):
        prepare(source, tokenizer=byte_level)
    assert prepare(replace(source, on_error="skip"), tokenizer=byte_level).meta["dropped"] == {"error": 1}


@pytest.fixture
def byte_level():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return TokenizerSource.of(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>"))


def test_max_examples_counts_what_is_read(source, prepare):
    path = Path(source.dir) / "train.jsonl"
    path.write_text(lines_of([RECORDS[0], BAD[0], *RECORDS[1:]]), encoding="utf-8")
    store = prepare(replace(source, on_error="skip", max_examples=4))
    assert (store.meta["records"], store.meta["examples"]) == (4, 3)


def test_the_store_is_the_same_for_any_number_of_processes(source, prepare, monkeypatch):
    many = [{**record, "answer": f"{record['answer']}{n}"} for n in range(60) for record in RECORDS]
    names = ["a.jsonl", "b.jsonl"]
    for name in names:
        (Path(source.dir) / name).write_text(lines_of([*many, BAD[0]]), encoding="utf-8")
    monkeypatch.setattr("medtune.data.tokens.encode.RECORDS_PER_CHUNK", 100)
    several = replace(source, splits={"train": "[ab].jsonl"}, on_error="skip")
    found = []
    for workers in (1, 2, 3):
        store = prepare(several, workers=workers)
        found.append({file.name: file.read_bytes() for file in store.folder.iterdir()})
        shutil.rmtree(store.folder)
    assert found[0] == found[1] == found[2]
    assert [Path(name).name for name in store.files] == names
    assert store.file_numbers.tolist() == [0] * 720 + [1] * 720
    assert store.where(720).endswith("b.jsonl:1")


def test_an_error_in_a_worker_comes_through_as_it_is(source, prepare):
    (Path(source.dir) / "train.jsonl").write_text(lines_of([*RECORDS, BAD[2]]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"train\.jsonl:13: ") as in_process:
        prepare(source)
    with pytest.raises(ValueError, match=r"train\.jsonl:13: ") as in_worker:
        prepare(source, workers=2)
    assert str(in_worker.value) == str(in_process.value)


class Deadly(ChunkEncoder):
    """Ends its process as the system does when memory runs out."""

    def __call__(self, records):
        import os

        os.kill(os.getpid(), 9)


def test_a_killed_worker_is_told(source, tiny_tokenizer):
    template = Template(TEMPLATE, vocabulary_of(tiny_tokenizer))
    reader = reader_of(source, "train", needs_response=True)
    encode = Deadly(reader, template, source, file_names(source, "train"))
    chunks = chunks_of(raw_records(source, "train"))
    with pytest.raises(ValueError, match="a process that tokenises was killed.*data.prepare_workers=1"):
        list(encode_chunks(encode, chunks, workers=2))


def test_a_worker_imports_nothing_heavy(source, byte_level, tmp_path):
    template = Template(TEMPLATE, vocabulary_of(byte_level.load()))
    reader = reader_of(source, "train", needs_response=True)
    encode = ChunkEncoder(reader, template, source, file_names(source, "train"))
    (chunk,) = chunks_of(raw_records(source, "train"))
    (tmp_path / "work").write_bytes(pickle.dumps((encode, chunk)))
    code = (
        "import pickle, sys; import medtune.data.tokens.pool;"
        "encode, chunk = pickle.load(open(sys.argv[1], 'rb'));"
        "print(len(encode(chunk)), {'torch', 'transformers', 'tokenizers', 'pyarrow'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, tmp_path / "work"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "12 set()\n"


@pytest.mark.parametrize(
    ("size", "asked", "due"),
    [
        (10, None, 1),
        (BYTES_FOR_WORKERS, None, min(cpu_cores(), 8)),
        (10, 3, 3),
        (BYTES_FOR_WORKERS, 1, 1),
        (10, 0, 1),
    ],
)
def test_large_files_are_shared_out(size, asked, due):
    assert workers_for(size, asked) == due


def test_chunks_are_cut_by_number_and_size_alone():
    small, large = {"text": "x" * 10}, b"x" * 300_000
    raws = [small] * 2050 + [large] * 5
    chunks = list(chunks_of((0, line, raw) for line, raw in enumerate(raws)))
    assert [len(chunk) for chunk in chunks] == [2048, 2 + 2, 2, 1]
    assert [record for chunk in chunks for record in chunk] == [
        Record(0, i, raw) for i, raw in enumerate(raws)
    ]


def hold_lock(path, ready, done):
    with Path(path).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ready.set()
        done.wait(30)


def held(path):
    """(a process that holds the lock of ``path``, the event that ends it)."""
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=hold_lock, args=(str(path), ready, done))
    process.start()
    assert ready.wait(30)
    return process, done


def test_parts_of_killed_preparations_are_removed_but_not_those_of_living_ones(source, prepare, tmp_path):
    cache = tmp_path / "cache"
    folder = prepare(source).folder
    shutil.rmtree(folder)
    for key in (folder.name, "dead", "alive"):
        (cache / f".{key}.77.tmp").mkdir()
        (cache / f".{key}.77.tmp" / TOKENS).write_text("half")
    (cache / ".dead.78.old").mkdir()
    process, done = held(cache / "alive.lock")
    try:
        prepare(source)
        assert sorted(entry.name for entry in cache.iterdir() if entry.suffix != ".lock") == [
            ".alive.77.tmp",
            folder.name,
        ]
    finally:
        done.set()
        process.join()
    shutil.rmtree(folder)
    prepare(source)
    assert [entry.name for entry in cache.iterdir() if entry.suffix != ".lock"] == [folder.name]


def test_a_hit_writes_nothing_and_waits_for_nobody(source, prepare, tmp_path):
    """A cache may be shared, and read-only."""
    folder = prepare(source).folder
    process, done = held(folder.with_name(f"{folder.name}.lock"))
    try:
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}
        prepare(source)
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")} == before
    finally:
        done.set()
        process.join()


def test_the_second_process_waits_and_says_so_once(source, prepare, tmp_path, caplog):
    folder = prepare(source).folder
    shutil.rmtree(folder)
    caplog.set_level(logging.INFO)
    process, done = held(tmp_path / "cache" / f"{folder.name}.lock")
    handler = Setter(done)
    logging.getLogger("medtune.data.tokens.prepare").addHandler(handler)
    try:
        prepare(source)
    finally:
        logging.getLogger("medtune.data.tokens.prepare").removeHandler(handler)
        done.set()
        process.join()
    waiting = [line for line in caplog.messages if "waiting" in line]
    assert waiting == ["data: another process is preparing train of toy; waiting for it"]


class Setter(logging.Handler):
    """Has the holder let go once the wait was announced."""

    def __init__(self, done):
        super().__init__()
        self.done = done

    def emit(self, record):
        if "waiting" in record.getMessage():
            self.done.set()


def test_a_cache_that_cannot_be_written_names_the_setting(source, tokenizer, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ConfigError, match=r"the token cache .*file.* cannot be written: .*data.cache_dir=DIR"
    ):
        prepare_split(source, "train", TEMPLATE, tokenizer, tmp_path / "file" / "cache", 1)


FILES = {
    "tokenizer.json": "{}",
    "tokenizer_config.json": "{}",
    "tokenizer.model": "m",
    "vocab.json": "{}",
    "merges.txt": "a b",
    "special_tokens_map.json": "{}",
    "added_tokens.json": "{}",
    "chat_template.jinja": "x",
}


@pytest.mark.parametrize("name", FILES)
def test_every_file_of_a_tokenizer_counts(tmp_path, name):
    for file, text in FILES.items():
        (tmp_path / file).write_text(text)
    before = fingerprint_of_files(tmp_path)
    (tmp_path / name).write_text(FILES[name] + " ")
    changed = fingerprint_of_files(tmp_path)
    (tmp_path / name).unlink()
    assert len({before, changed, fingerprint_of_files(tmp_path)}) == 3


def test_of_the_model_only_its_type_counts(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden_size": 1}')
    before = fingerprint_of_files(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden_size": 2}')
    (tmp_path / "model.safetensors").write_text("weights")
    assert fingerprint_of_files(tmp_path) == before
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    assert fingerprint_of_files(tmp_path) != before


def test_a_tokenizer_is_loaded_once_and_only_when_asked(tmp_path, tiny_tokenizer):
    tiny_tokenizer.save_pretrained(tmp_path / "t")
    source = tokenizer_source(ModelConfig(tokenizer=str(tmp_path / "t")))
    assert source.fingerprint == tokenizer_source(ModelConfig(path=str(tmp_path / "t"))).fingerprint
    assert source.load() is source.load()
    assert source.load().get_vocab() == tiny_tokenizer.get_vocab()
    with pytest.raises(ConfigError, match=r"neither model\.tokenizer nor model\.path is set"):
        tokenizer_source(ModelConfig())

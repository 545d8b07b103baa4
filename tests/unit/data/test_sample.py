import ast
import gzip
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

import pytest
from tokenizers import Tokenizer

from medtune.data.sample import __main__ as command
from medtune.data.sample import wording
from medtune.data.sample.lexicon import split_lexicon
from medtune.data.sample.splits import (
    EVALUATION_SPLITS,
    generate_documents,
    generate_records,
    generate_train_records,
)
from medtune.data.sample.tasks import TASKS, Lengths
from medtune.data.sample.tokenizer import WRAPPER, main, read_training_texts, train_tokenizer
from medtune.evaluation.promptcblue import score_predictions

SHIPPED = Path(__file__).parents[3] / "data" / "sample"
FIELDS = ["input", "target", "answer_choices", "task_type", "task_dataset", "sample_id"]


def read_lines(path: Path) -> Iterator[str]:
    with (
        gzip.open(path, "rt", encoding="utf-8")
        if path.suffix == ".gz"
        else path.open(encoding="utf-8") as file
    ):
        yield from file


@pytest.fixture(scope="module")
def shipped() -> dict[str, list[dict[str, object]]]:
    names = ["train.json.gz", *(f"{split.name}.json" for split in EVALUATION_SPLITS)]
    return {name.split(".")[0]: [json.loads(line) for line in read_lines(SHIPPED / name)] for name in names}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(SHIPPED / "tokenizer" / "tokenizer.json"))


def run(folder: Path, *arguments: str) -> dict[str, bytes]:
    command.main(["--out", str(folder), *arguments])
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    first = run(tmp_path / "first", "--records", "60", "--gzip", "--seed", "5")
    again = run(tmp_path / "again", "--records", "60", "--gzip", "--seed", "5")
    other = run(tmp_path / "other", "--records", "60", "--gzip", "--seed", "6")
    assert first == again
    assert all(first[name] != other[name] for name in first)


def test_more_records_only_add_to_the_end():
    few = list(generate_train_records(60, 0, Lengths.SHORT))
    assert list(islice(generate_train_records(600, 0, Lengths.SHORT), 60)) == few


@pytest.mark.parametrize("text", ["-1", "many"])
def test_a_wrong_number_of_records_is_refused(text, capsys):
    with pytest.raises(SystemExit):
        command.main(["--records", text, "--out", "unused"])
    assert "--records" in capsys.readouterr().err


def test_the_generator_needs_the_standard_library_only():
    package = Path(command.__file__).parent
    modules = [path for path in package.glob("*.py") if path.name != "tokenizer.py"]
    names = {
        name.split(".")[0]
        for path in modules
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
    }
    assert names - sys.stdlib_module_names == {"medtune"}


# --- the shipped files


def test_the_shipped_files_are_what_their_card_says():
    rows = re.findall(
        r"^\| (\S+) \| (\d+) \| (\d+) \| `(\w{64})` \|$", (SHIPPED / "README.md").read_text("utf-8"), re.M
    )
    assert len(rows) == 7
    for name, num_records, num_bytes, digest in rows:
        content = (SHIPPED / name).read_bytes()
        content = gzip.decompress(content) if name.endswith(".gz") else content
        measured = (content.count(b"\n"), len(content), hashlib.sha256(content).hexdigest())
        assert measured == (int(num_records), int(num_bytes), digest), name


def test_the_shipped_records_are_what_the_generator_makes(shipped):
    assert shipped["train"][:600] == list(generate_train_records(600, 0, Lengths.SHORT))
    for split in EVALUATION_SPLITS:
        assert shipped[split.name] == [record for _, record in generate_records(split, 0, Lengths.SHORT)]
    documents = [line.rstrip("\n") for line in read_lines(SHIPPED / "corpus_train.txt")]
    assert documents[:50] == list(generate_documents("corpus_train", 50, 0))


def test_every_record_has_the_six_fields_and_every_task_its_share(shipped):
    for name, records in shipped.items():
        assert all(list(record) == FIELDS for record in records)
        prefix = name.split("_")[0]
        assert [record["sample_id"] for record in records] == [f"{prefix}-{i}" for i in range(len(records))]
        counts = Counter((record["task_dataset"], record["task_type"]) for record in records)
        assert counts == {(task.task_dataset, task.task_type): len(records) // len(TASKS) for task in TASKS}


def test_the_answers_score_full_marks_with_the_official_rules(shipped):
    for name in ("dev", "test", "test_new_words", "test_long"):
        scores = score_predictions(shipped[name], [str(record["target"]) for record in shipped[name]])
        for task, result in scores.tasks.items():
            assert result.score == pytest.approx(100.0, abs=1e-6), (name, task)
            assert not result.parse_failures


# --- what may not meet


PROMPTS = {
    "ner": wording.ENTITY_PROMPTS,
    "cls": wording.INTENT_PROMPTS,
    "matching": wording.RELATION_PROMPTS,
    "normalization": wording.NAME_PROMPTS,
    "attr_cls": wording.STATUS_PROMPTS,
    "response_generation": wording.REPLY_PROMPTS,
}
# A tab stands for the choices: no record has one.
PATTERNS = {
    task_type: [
        re.compile(re.sub(r"\\{\w+\\}", "(.+)", re.escape(prompt.replace("{choices}", "\t"))), re.S)
        for prompt in prompts
    ]
    for task_type, prompts in PROMPTS.items()
}
OPENER = re.compile("|".join(sorted(filter(None, wording.OPENERS), key=len, reverse=True)))


def find_core(record: dict[str, object]) -> str:
    """The query, pair, term, sentence or dialogue, found again by taking the prompt off the input."""
    text = str(record["input"]).removesuffix("\n答：")
    if record["answer_choices"]:
        text = text.replace("，".join(record["answer_choices"]), "\t")
    for pattern in PATTERNS[str(record["task_type"])]:
        if match := pattern.fullmatch(text):
            parts = match.groups()
            if record["task_type"] == "cls" and (opener := OPENER.match(parts[0])):
                parts = (parts[0][opener.end() :],)
            return "\t".join(sorted(parts))
    raise AssertionError(f"no prompt fits {text!r}")


def test_no_core_of_an_evaluation_split_is_in_another_or_in_train(shipped):
    cores = {
        name: [(record["task_dataset"], find_core(record)) for record in records]
        for name, records in shipped.items()
    }
    assert len(set(cores["train"])) > 0.8 * len(cores["train"])
    evaluation = [core for name, found in cores.items() if name != "train" for core in found]
    assert len(set(evaluation)) == len(evaluation)
    assert set(evaluation).isdisjoint(cores["train"])


class EveryHash(frozenset[int]):
    def __contains__(self, item: object) -> bool:
        return True


def test_a_core_of_train_in_another_split_is_refused():
    with pytest.raises(RuntimeError, match="CMeEE-V2 core of train is in another split: '"):
        list(generate_train_records(1, 0, Lengths.SHORT, EveryHash()))


def test_new_words_are_in_no_other_file():
    known, new = split_lexicon()
    files = ["train.json.gz", "dev.json", "test.json", "test_long.json"]
    files += ["corpus_train.txt", "corpus_validation.txt"]
    texts = {name: "".join(read_lines(SHIPPED / name)) for name in files}
    assert len(new.all_words()) > 100
    for name, text in texts.items():
        assert [word for word in new.all_words() if word in text] == [], name
    assert 0.1 < len(new.all_words()) / len(known.all_words() + new.all_words()) < 0.16


def test_the_new_words_split_has_no_known_word_for_an_answer(shipped):
    known, new = split_lexicon()
    names = {
        choice
        for r in shipped["test_new_words"]
        if r["task_type"] == "normalization"
        for choice in r["answer_choices"]
    }
    assert names <= set(new.diseases)
    assert names.isdisjoint(known.diseases)


def test_no_word_is_in_two_lists():
    known, new = split_lexicon()
    counts = Counter(known.all_words() + new.all_words())
    assert [word for word, count in counts.items() if count > 1] == []


# --- answers


def test_a_longer_look_at_the_target_grammars(shipped):
    for record in shipped["train"][:3000]:
        target, choices = str(record["target"]), record["answer_choices"]
        lines = target.split("\n")
        if record["task_type"] == "ner":
            if target != "上述句子没有指定类型实体":
                assert lines[0] == "上述句子中的实体包含："
                assert [line.split("实体：")[0] for line in lines[1:]] == choices
                mentions = [
                    word for line in lines[1:] for word in line.split("实体：")[1].split("，") if word
                ]
                assert mentions
                assert all(word in str(record["input"]) for word in mentions)
        elif record["task_type"] == "attr_cls":
            assert lines[0] == "当前对话中的症状及其阴阳性判断为："
            assert all(line.split("：")[1] in choices and line.count("：") == 1 for line in lines[1:])
        elif record["task_type"] == "normalization":
            assert target == "没有对应的标准化实体" or set(target.split("，")) <= set(choices)
        elif record["task_type"] == "response_generation":
            assert choices is None
            assert len(lines) == 1
        else:
            assert target in choices


@pytest.mark.parametrize(
    ("first", "second", "label"),
    [
        pytest.param("儿童", "", "后者是前者的语义父集", id="wider"),
        pytest.param("", "儿童", "后者是前者的语义子集", id="narrower"),
    ],
)
def test_a_qualifier_on_one_side_decides_the_relation(shipped, first, second, label):
    pairs = [
        (
            *re.fullmatch(
                "前者：(.+)\n后者：(.+)\n两句.*", str(r["input"]).removesuffix("\n答："), re.S
            ).groups(),
            r,
        )
        for r in shipped["train"]
        if r["task_type"] == "matching" and str(r["input"]).startswith("前者：")
    ]
    found = [
        record["target"]
        for a, b, record in pairs
        if [("儿童" in a), ("儿童" in b)] == [bool(first), bool(second)]
    ]
    assert len(found) > 20
    assert set(found) == {label}


def test_no_answer_is_common_enough_to_be_worth_guessing(shipped):
    shares = {}
    for task in TASKS:
        targets = [r["target"] for r in shipped["train"] if r["task_dataset"] == task.task_dataset]
        shares[task.task_dataset] = max(Counter(targets).values()) / len(targets)
    assert shares["KUAKE-QQR"] < 0.27
    assert shares["KUAKE-QIC"] < 0.12
    assert max(share for name, share in shares.items() if not name.startswith("KUAKE")) < 0.11


# --- lengths


def quantiles(lengths: list[int]) -> list[int]:
    lengths = sorted(lengths)
    return [lengths[int(share * len(lengths))] for share in (0.5, 0.95, 0.99)]


def test_promptcblue_lengths_are_the_benchmarks():
    lengths = [len(str(r["input"])) for r in generate_train_records(6000, 0, Lengths.PROMPTCBLUE)]
    assert quantiles(lengths) == pytest.approx([135, 1050, 1850], rel=0.1)


def test_short_inputs_are_short(shipped):
    median, _, longest = quantiles([len(str(record["input"])) for record in shipped["train"]])
    assert 60 <= median <= 85
    assert longest < 130


# --- tokenizer

HOSTILE = [
    "",
    "plain English, with  two spaces and a trailing one ",
    "\t\r\n\x00\x7f",
    "😀👩‍⚕️ ﬁ é é ﷽",
    "龘𠮷〇㊣\u3000全角　",
    "<0x41> <0xE4> ▁ Ġ",
    "患者：头痛；发热。" + WRAPPER[0] + "答：" + WRAPPER[1],
    "上述句子中的实体包含：\n疾病实体：心梗，脑梗",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_comes_back_unchanged(tokenizer, text):
    ids = tokenizer.encode(text).ids
    assert tokenizer.token_to_id("<unk>") not in ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_random_characters_come_back_unchanged(tokenizer):
    rng = Random(0)
    for _ in range(300):
        text = "".join(
            chr(c) for c in (rng.randrange(0x110000) for _ in range(20)) if not 0xD800 <= c < 0xE000
        )
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_the_wrapper_costs_two_tokens(tokenizer):
    assert (
        len(tokenizer.encode("患者：头痛。".join(WRAPPER)).ids) - len(tokenizer.encode("患者：头痛。").ids)
        == 2
    )


def test_auto_tokenizer_reads_the_shipped_folder(tokenizer):
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(SHIPPED / "tokenizer")
    specials = (loaded.unk_token_id, loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id)
    assert specials == (0, 1, 2, 3)
    text = "患者：头痛。".join(WRAPPER)
    assert loaded(text)["input_ids"] == tokenizer.encode(text).ids
    assert loaded.decode(loaded("a b , c .")["input_ids"]) == "a b , c ."


@pytest.mark.slow
def test_the_shipped_tokenizer_is_what_the_shipped_records_give(tmp_path):
    main(["--data", str(SHIPPED), "--out", str(tmp_path)])
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (SHIPPED / "tokenizer" / name).read_bytes()


def test_the_tokenizer_asks_for_room_and_for_data(tmp_path):
    with pytest.raises(ValueError, match="--vocabulary-size 200 has no room"):
        train_tokenizer(iter(["头痛"]), 200)
    with pytest.raises(FileNotFoundError, match="neither train.json nor train.json.gz"):
        next(read_training_texts(tmp_path))

"""``data=mix`` as a user runs it: sources of four formats, prepared, mixed anew, learned, refused."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = REPOSITORY.parent / "shared" / "data"
PER_SOURCE = 2500
NAMES = ("questions", "entities", "leaflets", "talks")
WORDS = [
    "头痛",
    "发热",
    "咳嗽",
    "高血压",
    "糖尿病",
    "患者",
    "血糖",
    "服药",
    "三天",
    "复查",
    "the",
    "dose",
    "mg",
]


def medtune(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "medtune", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def write_lines(path, records):
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    path.write_text("".join(lines), encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The four sources' files; some records are too long, and a dialogue is there twice."""
    folder, rng = tmp_path_factory.mktemp("mix"), np.random.default_rng(0)

    def say(most):
        return "".join(rng.choice(WORDS, rng.integers(2, most)))

    count = range(PER_SOURCE)
    write_lines(
        folder / "questions.json",
        ({"input": f"{n}: {say(12)}？", "target": say(6), "sample_id": f"s{n}"} for n in count),
    )
    write_lines(folder / "questions-dev.json", ({"input": say(9), "target": say(3)} for _ in range(20)))
    write_lines(
        folder / "entities.txt",
        ({"instruct": "抽取", "query": f"{n} {say(9)}", "answer": say(4)} for n in count),
    )
    write_lines(
        folder / "leaflets.jsonl",
        ({"text": f"{n} {say(40) + say(3) * (400 if n % 500 == 9 else 0)}"} for n in count),
    )

    def talk(number):
        turns = [{"role": "system", "content": "你是医生"}] if number % 2 else []
        for turn in range(1 + number % 3):
            turns.append({"role": "user", "content": f"{number} {turn} {say(6)}"})
            turns.append({"role": "assistant", "content": say(6)})
        return {"messages": turns}

    talks = [talk(number) for number in count]
    write_lines(folder / "talks.jsonl", [*talks, talks[0]])
    return folder


@pytest.fixture(scope="module")
def mixed(folder):
    """The overrides that describe the mix."""
    files = {
        "questions": ("questions.json", "promptcblue"),
        "entities": ("entities.txt", "pair"),
        "leaflets": ("leaflets.jsonl", "text"),
        "talks": ("talks.jsonl", "messages"),
    }
    overrides = ["data=mix", f"data.mix=[{','.join(NAMES)}]", f"data.cache_dir={folder}/cache"]
    for name, (file, format) in files.items():
        prefix = f"data.sources.{name}"
        overrides += [f"{prefix}.dir={folder}", f"{prefix}.splits.train={file}", f"{prefix}.format={format}"]
    return [
        *overrides, "data.sources.questions.splits.validation=questions-dev.json",
        "data.sources.leaflets.validation_size=40", "data.sources.leaflets.overlong=split",
        "data.overlong=drop", "data.dedup=exact",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def prepared(folder, mixed):
    """The first run: everything is tokenised."""
    return medtune("task=prepare", *mixed, f"run_dir={folder}/first")


def report_of(run):
    return json.loads((run / "data_report.json").read_text(encoding="utf-8"))


def assert_closes(ledger):
    """The sums, from the file alone."""
    for source in ledger["sources"].values():
        for sums in (source["documents"], source["tokens"]):
            assert sums["read"] == sum(sums["dropped"].values()) + sums.get("cut", 0) + sums["kept"]
    rows, mixes = ledger["rows"], [source["mix"] for source in ledger["sources"].values()]
    assert rows["tokens"] + rows["padding"] == rows["room"] == rows["count"] * rows["sequence_length"]
    assert rows["tokens"] == sum(mix["tokens"] for mix in mixes)
    assert rows["learned_tokens"] == sum(mix["learned_tokens"] for mix in mixes)


def test_four_formats_become_one_closing_ledger(folder, prepared):
    assert prepared.returncode == 0, prepared.stderr
    run = folder / "first"
    report = report_of(run)
    train, validation = report["splits"]["train"], report["splits"]["validation"]
    assert_closes(train)
    assert_closes(validation)
    assert tuple(train["sources"]) == NAMES
    read = {name: source["documents"]["read"] for name, source in train["sources"].items()}
    assert read == {"questions": 2500, "entities": 2500, "leaflets": 2500, "talks": 2501}
    assert [source["learned"] for source in train["sources"].values()] == [
        "responses", "responses", "every token", "responses",
    ]  # fmt: skip
    assert train["sources"]["talks"]["documents"]["dropped"] == {"duplicate": 1}
    assert train["sources"]["leaflets"]["documents"]["dropped"] == {"validation": 40}
    assert train["sources"]["leaflets"]["overlong"] > 0
    assert {name: source["documents"]["kept"] for name, source in validation["sources"].items()} == {
        "questions": 20, "leaflets": 40,
    }  # fmt: skip
    assert report["duplicates"]["sources"]["talks"]["duplicate"] == 1
    for name in NAMES:
        assert re.search(rf"train +{name} +2,50[01] ", prepared.stderr), prepared.stderr
    assert "talks dropped: duplicate 1" in prepared.stderr
    assert prepared.stderr.count("tokenising train of ") == 4
    assert (run / "plots" / "data.png").read_bytes().startswith(b"\x89PNG")
    markdown = (run / "data_report.md").read_text(encoding="utf-8")
    assert all(f"| train | {name} | " in markdown for name in NAMES)
    pairs = [json.loads(line) for line in (run / "duplicates.jsonl").read_text().splitlines()]
    assert pairs == [{
        "kept": f"{folder}/talks.jsonl:1", "dropped": f"{folder}/talks.jsonl:2501", "kind": "exact",
        "similarity": 1.0,
    }]  # fmt: skip


def test_another_mix_of_the_same_sources_tokenises_nothing(folder, mixed, prepared):
    """And has the shares that its weights ask for."""
    assert prepared.returncode == 0, prepared.stderr
    weights = dict(zip(NAMES, (4, 1, 3, 2), strict=True))
    run = folder / "second"
    done = medtune(
        "task=prepare", *mixed, *(f"data.sources.{name}.weight={weight}" for name, weight in weights.items()),
        "data.sequence_length=320", "data.pack_groups=source", "seed=9", "data.global_batch_size=16",
        f"run_dir={run}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    log = (run / "logs" / "rank-0.log").read_text(encoding="utf-8")
    assert "tokenising" not in log + done.stderr
    assert log.count("read from the cache") == 5
    train = report_of(run)["splits"]["train"]
    assert_closes(train)
    total = train["rows"]["tokens"]
    for name, weight in weights.items():
        mix = train["sources"][name]["mix"]
        assert mix["tokens"] / total == pytest.approx(weight / 10, abs=0.005)
        assert mix["wanted"] == weight / 10
        assert 0 < mix["passes"] <= 1.001
    assert max(source["mix"]["passes"] for source in train["sources"].values()) == pytest.approx(1, abs=1e-3)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not there")
def test_the_losses_of_a_mix_are_told_by_source(tmp_path):
    """Real records: PromptCBLUE's toy examples, MSRA, leaflets of drugs, and doctors' dialogues."""
    files = {
        "promptcblue": ("promptcblue_toy", "train.json"),
        "msra_ner": ("msra", "train.txt"),
        "leaflets": ("caregpt", "drug_leaflets.jsonl"),
        "messages": ("caregpt", "messages.jsonl"),
    }
    overrides = [f"data.sources.{name}.dir={SHARED / place[0]}" for name, place in files.items()]
    overrides += [f"data.sources.{name}.splits.train={files[name][1]}" for name in ("leaflets", "messages")]
    done = medtune(
        "data=mix", f"data.mix=[{','.join(files)}]", *overrides, *SMALL, "data.overlong=drop",
        "data.sources.messages.validation_size=0.3", "trainer.val_max_rows=64",
        f"data.cache_dir={tmp_path}/cache", f"run_dir={tmp_path}/run",
        "data.sequence_length=1024", "data.global_batch_size=8", "data.micro_batch_size=2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    check_training(tmp_path / "run", set(files), {"promptcblue", "msra_ner", "messages"})
    contamination = report_of(tmp_path / "run")["duplicates"]["contamination"]
    assert {entry["split"] for entry in contamination} == {
        "promptcblue/validation", "msra_ner/validation", "messages/validation", "promptcblue/test",
    }  # fmt: skip


SMALL = (
    "trainer.accelerator=cpu", "trainer.max_steps=3", "trainer.log_every_n_steps=1", "eval.after_fit=false",
    "model.hidden_size=32", "model.intermediate_size=32", "model.num_hidden_layers=1",
    "model.num_attention_heads=2", "trainer.val_max_rows=8",
)  # fmt: skip


def check_training(run, train, validation):
    """Three steps, every step's loss lies among its sources', and each source has its own."""
    assert_closes(report_of(run)["splits"]["train"])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line for line in lines if "train/loss" in line]
    assert [line["step"] for line in losses] == [1, 2, 3]
    for line in losses:
        own = [value for key, value in line.items() if key.startswith("train/loss/") and value is not None]
        assert min(own) - 1e-5 <= line["train/loss"] <= max(own) + 1e-5
    for split, names in (("train", train), ("val", validation)):
        keys = {key for line in lines for key, value in line.items() if value is not None}
        assert {key.split("/")[2] for key in keys if key.startswith(f"{split}/loss/")} == names


def test_three_steps_of_a_mix(folder, mixed, prepared):
    assert prepared.returncode == 0, prepared.stderr
    run = folder / "third"
    done = medtune(
        *mixed, *SMALL, "data.mix_stop=steps", *(f"data.sources.{name}.weight=1" for name in NAMES),
        f"run_dir={run}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "tokenising" not in (run / "logs" / "rank-0.log").read_text(encoding="utf-8")
    check_training(run, set(NAMES), {"questions", "leaflets"})
    train = report_of(run)["splits"]["train"]
    assert train["rows"]["count"] >= 3 * 8
    assert train["rows"]["count"] <= 3 * 8 * 1.05 + 1


REFUSED = {
    "negative_weight": (["data.sources.talks.weight=-1"], r"data\.sources\.talks\.weight=-1"),
    "some_have_no_weight": (["data.sources.talks.weight=2"], r"(?s)weight.*data\.sources\.questions\.weight"),
    "unknown_source": (["data.mix=[questions,promtcblue]"], "promtcblue.*did you mean promptcblue"),
    "keys_of_no_source": (["data.sources.talk.weight=1"], r"data\.sources\.talk: .*did you mean talks"),
    "unknown_key": (["data.sources.talks.wieght=1"], r"data\.sources\.talks\.wieght.*did you mean .*weight"),
}  # fmt: skip


@pytest.mark.parametrize(("more", "message"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_mix_is_refused_on_one_screen(folder, mixed, more, message):
    done = medtune("task=prepare", *mixed, *more, f"run_dir={folder}/refused")
    assert done.returncode == 2, done.stderr
    assert re.search(message, done.stderr), done.stderr
    assert len(done.stderr.splitlines()) < 15
    assert "Traceback" not in done.stderr
    assert not (folder / "refused").exists()

"""What a user gets wrong: one screen that names the place and the fix, and nothing lost.

In this process a command goes through the launcher's own steps to the task; what the task raises is what
the screen shows. Three commands run whole, for what only a process of its own can show.
"""

import codecs
import gzip
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medtune.launch.command import make_plan, read_options, request_of
from medtune.launch.run import settle_request
from medtune.launch.run_folder import make_run_folder, release, write_run_folder
from medtune.runtime.errors import ConfigError
from medtune.runtime.record import RunFolder
from medtune.worker import record_failure

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = (
    "trainer.accelerator=cpu",
    "trainer.progress=none",
    "model.hidden_size=64",
    "model.intermediate_size=64",
    "model.num_hidden_layers=1",
    "model.num_attention_heads=2",
    "data.max_examples=20",
    "data.sequence_length=256",
    "data.global_batch_size=4",
    "eval.after_fit=false",
    "trainer.max_steps=2",
)
RECORDS = [
    json.dumps(
        {"input": f"患者第{n}号头痛，类型？", "target": f"答{n}", "sample_id": f"s{n}"}, ensure_ascii=False
    )
    for n in range(5)
]
GOOD = "\n".join(RECORDS).encode()


def run_here(*arguments: str) -> Path:
    """The launcher's steps and the task in this process; returns the run folder."""
    from medtune.tasks import run

    plan = make_plan(read_options(arguments))
    config = settle_request(request_of(plan.settings, plan.line.accepted)).config
    folder = make_run_folder(config)
    write_run_folder(folder, config, plan.line.accepted)
    try:
        run(config, folder)
    finally:
        release(folder.path)
    return folder.path


def start(*arguments: str, **more) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "medtune", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": ""},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **more,
    )


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def data(tmp_path: Path):
    """``data(bytes, name="train.json")``: the overrides for a folder with this training file."""

    def write(train: bytes, name: str = "train.json") -> tuple[str, ...]:
        folder = tmp_path / "数据 一"
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(train)
        (folder / "dev.json").write_bytes(GOOD)
        return (
            *SMALL,
            "data=promptcblue",
            f"data.dir={folder}",
            f"data.splits.train={name}",
            "data.splits.test=dev.json",
            f"data.cache_dir={tmp_path}/cache",
            f"run_dir={tmp_path}/run",
        )

    return write


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """A finished run of two steps; tests work on copies of it."""
    path = tmp_path_factory.mktemp("bad_input") / "run"
    return run_here(*SMALL, f"run_dir={path}", f"data.cache_dir={path.parent}/cache")


@pytest.fixture
def copied_run(run_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_dir, tmp_path / "copy"))


TRAINING_FILES = {
    "not_json": (GOOD + b'\n{"input": }', r"train\.json:6: not JSON at column 11"),
    "field_missing": (b'{"inputs": "a", "target": "b"}', r"train\.json:1: .*'input'.*did you mean 'inputs'"),
    "wrong_type": (b'{"input": "a", "target": 5}', r"train\.json:1: field 'target' must be a string"),
    "response_empty": (b'{"input": "a", "target": " "}', r"train\.json:1: field 'target' is empty"),
    "empty": (b"", r"train\.json: the file is empty"),
    "array_empty": (b"[]", r"train\.json: the JSON array is empty"),
    "gb18030": ("\n".join(RECORDS).encode("gb18030"), r"train\.json:1: not UTF-8 .*iconv -f GB18030"),
    "utf16": (codecs.BOM_UTF16_LE + b"{\x00}\x00", r"train\.json:1: is UTF-16, not UTF-8; .*iconv -f UTF-16"),
    "response_too_long": (
        json.dumps({"input": "a", "target": "b c " * 400}).encode(),
        r"train\.json:1: the response has \d+ tokens but data\.sequence_length is 256",
    ),
}


@pytest.mark.parametrize(("train", "message"), TRAINING_FILES.values(), ids=TRAINING_FILES)
def test_a_bad_training_file_is_named_with_its_line(data, tmp_path, train, message):
    with pytest.raises(ValueError, match=message):
        run_here(*data(train), "task=prepare")
    assert not list(tmp_path.glob("cache/*/meta.json")) or "response" in message


def test_a_compressed_file_that_is_cut_off_is_named(data):
    half = gzip.compress(os.urandom(4096).hex().encode() + b"\n")[:1000]
    with pytest.raises(ValueError, match=r"train\.json\.gz: the compressed file is damaged: .* ended"):
        run_here(*data(half, "train.json.gz"), "task=prepare")


@pytest.mark.parametrize(
    "train",
    [
        pytest.param(codecs.BOM_UTF8 + GOOD, id="byte_order_mark"),
        pytest.param(GOOD.replace(b"\n", b"\r\n"), id="crlf"),
        pytest.param(b"[" + GOOD.replace(b"\n", b",\n") + b"]", id="json_array"),
    ],
)
def test_other_ways_of_writing_the_same_records_give_the_same_tokens(data, tmp_path, train):
    run_here(*data(GOOD), "task=prepare", f"run_dir={tmp_path}/plain")
    run_here(*data(train), "task=prepare")
    reports = [json.loads((tmp_path / name / "data_report.json").read_text()) for name in ("plain", "run")]
    for report in reports:
        del report["splits"]["train"]["sources"]["promptcblue"]["cache"]  # named after the file's bytes
    assert reports[0] == reports[1]


def test_a_cache_that_cannot_be_written_names_its_setting(data, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(
        ConfigError, match=r"the token cache .*cache cannot be written: .*data\.cache_dir=DIR"
    ):
        run_here(*data(GOOD), "task=prepare")


def test_what_a_killed_run_left_in_the_cache_goes_with_the_next(data, tmp_path):
    run_here(*data(GOOD), "task=prepare")
    report = json.loads((tmp_path / "run" / "data_report.json").read_text())
    digest = report["splits"]["train"]["sources"]["promptcblue"]["cache"]
    (tmp_path / "cache" / digest).rename(tmp_path / "cache" / f".{digest}.1.tmp")
    run_here(*data(GOOD), "task=prepare", f"run_dir={tmp_path}/again")
    assert (tmp_path / "cache" / digest / "meta.json").is_file()
    assert not list((tmp_path / "cache").glob(".*.tmp"))


def damage_state(checkpoint: Path) -> None:
    whole = (checkpoint / "state").read_bytes()
    (checkpoint / "state").write_bytes(whole[: len(whole) // 2])


DAMAGES = {
    "mark_removed": (lambda path: (path / "checkpoint.json").unlink(), r"was not written to its end"),
    "mark_cut": (lambda path: (path / "checkpoint.json").write_text('{"global_step": 2'), r"not JSON"),
    "mark_incomplete": (lambda path: (path / "checkpoint.json").write_text("{}"), r"KeyError"),
    "state_cut": (damage_state, r"is damaged: state cannot be read .*remove the folder"),
    "state_empty": (lambda path: (path / "state").write_bytes(b""), r"is damaged: state cannot be read"),
    "state_gone": (lambda path: (path / "state").unlink(), r"is damaged: state cannot be read"),
    "random_state_gone": (lambda path: (path / "rng-0.pt").unlink(), r"is damaged: rng-0\.pt cannot be read"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_refused_by_name(copied_run, tmp_path, damage, message):
    checkpoint = copied_run / "checkpoints" / "step-2"
    damage(checkpoint)
    with pytest.raises(ConfigError, match=re.escape(str(checkpoint)) + ".*" + message):
        run_here(*SMALL, "trainer.max_steps=4", f"resume={checkpoint}", f"run_dir={tmp_path}/new")


def test_resuming_from_a_run_folder_names_its_checkpoint(run_dir, tmp_path):
    with pytest.raises(ConfigError, match=r"is not a checkpoint: .*Use .*/run/checkpoints/step-2$"):
        run_here(*SMALL, f"resume={run_dir}", f"run_dir={tmp_path}/new")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_model_folder_whose_download_broke_off_names_the_file(copied_run, tmp_path, name):
    (copied_run / "model" / name).write_text("{")
    with pytest.raises(ConfigError, match=rf"model/{name} is damaged: not JSON .*fetch it again"):
        run_here(
            "task=generate", "model=local", f"model.path={copied_run}/model", "data=sample",
            "trainer.accelerator=cpu", f"run_dir={tmp_path}/new",
        )  # fmt: skip


def test_weights_that_are_a_file_name_their_folder(run_dir, tmp_path):
    file = run_dir / "model" / "model.safetensors"
    with pytest.raises(ConfigError, match=rf"^weights={file}: is a file; the folder is {file.parent}$"):
        run_here("task=generate", f"weights={file}", "trainer.accelerator=cpu", f"run_dir={tmp_path}/new")


def test_a_tokenizer_with_ids_beyond_the_embedding_is_refused(tiny_model_folder, tmp_path):
    sample = REPOSITORY / "data" / "sample" / "tokenizer"
    with pytest.raises(ConfigError, match=r"has 2048 tokens, but the model's embedding has 128 rows"):
        run_here(
            "task=generate", "model=local", f"model.tokenizer={sample}", f"weights={tiny_model_folder}",
            "data=sample", "trainer.accelerator=cpu", "data.max_examples=2", f"run_dir={tmp_path}/new",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("more", "warns"),
    [
        pytest.param((), False, id="its_own"),
        pytest.param(
            (f"model.tokenizer={REPOSITORY}/tests/fixtures/baichuan/tok_tiny/b2",), True, id="another"
        ),
    ],
)
def test_another_tokenizer_than_the_one_saved_with_the_weights_is_told(
    run_dir, tmp_path, caplog, more, warns
):
    run_here(
        "task=generate", f"weights={run_dir}", "trainer.accelerator=cpu", "data.max_examples=2",
        "generate.max_new_tokens=2", f"run_dir={tmp_path}/new", *more,
    )  # fmt: skip
    assert ("has other tokens than the one saved" in caplog.text) == warns


def test_a_step_of_more_rows_than_there_are_is_told(data, caplog):
    run_here(*data(GOOD), "data.global_batch_size=8", "trainer.max_steps=1")
    assert "data.global_batch_size=8 is more than the 1 rows of the training split" in caplog.text


def test_answers_of_random_weights_are_announced(tmp_path, caplog):
    small = [key for key in SMALL if key.startswith(("model.", "trainer.accelerator", "data.max_examples"))]
    run_here(*small, "task=generate", "generate.max_new_tokens=2", f"run_dir={tmp_path}/new")
    assert "weights is not set, so model=tiny answers with random weights" in caplog.text


def test_rows_beyond_the_context_are_announced_before_the_fit(tmp_path, caplog):
    overrides = ("model=tiny_llama", "model.max_position_embeddings=32", f"data.cache_dir={tmp_path}/cache")
    run_here(*SMALL, *overrides, f"run_dir={tmp_path}/new")
    assert "data.sequence_length=256 is longer than the model's context of 32 tokens" in caplog.text


@pytest.mark.parametrize("output", ["", "model", "config.yaml"], ids=["run", "model", "file"])
def test_an_export_never_replaces_what_is_there(copied_run, tmp_path, output):
    before = contents(copied_run)
    with pytest.raises(
        ConfigError, match=r"^export\.output=.*set export\.output to a new or an empty folder"
    ):
        run_here(
            "task=export", f"weights={copied_run}", f"export.output={copied_run / output}",
            "trainer.accelerator=cpu", f"run_dir={tmp_path}/new",
        )  # fmt: skip
    assert contents(copied_run) == before


def test_answers_that_cannot_be_kept_are_refused_before_the_first(run_dir, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("头痛\n")
    command = ["task=generate", f"weights={run_dir}", f"generate.input={prompts}", "trainer.accelerator=cpu"]
    with pytest.raises(ConfigError, match=r"^generate\.output=.* is generate\.input too"):
        run_here(*command, f"generate.output={prompts}", f"run_dir={tmp_path}/one")
    with pytest.raises(ConfigError, match=r"^generate\.output=.* is a folder"):
        run_here(*command, f"generate.output={tmp_path}", f"run_dir={tmp_path}/two")
    with pytest.raises(ConfigError, match=r"^generate\.output=.* cannot be written"):
        run_here(*command, f"generate.output={prompts}/out.jsonl", f"run_dir={tmp_path}/three")
    assert prompts.read_text() == "头痛\n"


PREDICTIONS = {
    "too_few": (RECORDS[:4], r"has 4 rows, but .* has 5"),
    "no_target": ([*RECORDS[:4], '{"input": "a"}'], r"predictions\.jsonl:5: .* needs a string 'target'"),
    "other_order": (RECORDS[::-1], r"predictions\.jsonl:1: sample_id 's4', but .*gold\.json:1 has 's0'"),
}


@pytest.mark.parametrize(("rows", "message"), PREDICTIONS.values(), ids=PREDICTIONS)
def test_predictions_that_do_not_belong_to_the_gold_file_are_not_scored(tmp_path, rows, message):
    (tmp_path / "gold.json").write_bytes(GOOD)
    (tmp_path / "predictions.jsonl").write_text("\n".join(rows))
    with pytest.raises(ValueError, match=message):
        run_here(
            "task=evaluate", f"evaluate.predictions={tmp_path}/predictions.jsonl",
            f"evaluate.references={tmp_path}/gold.json", f"run_dir={tmp_path}/run",
        )  # fmt: skip


def test_gold_whose_answers_are_withheld_is_not_scored(tmp_path):
    (tmp_path / "gold.json").write_text('{"input": "a", "target": "", "task_dataset": "MedDG"}')
    with pytest.raises(ValueError, match=r"gold\.json holds no responses to score against"):
        run_here(
            "task=evaluate", f"evaluate.predictions={tmp_path}/gold.json",
            f"evaluate.references={tmp_path}/gold.json", f"run_dir={tmp_path}/run",
        )  # fmt: skip


def test_a_cause_that_cannot_be_recorded_is_shown(tmp_path, capsys):
    folder = RunFolder(tmp_path)
    folder.logs.write_text("a file, so that nothing can be written below it")
    record_failure(folder, 3, ValueError("the cause"))
    assert capsys.readouterr().err == "medtune: rank 3: the cause\n"


def test_the_screen_of_a_failure_is_short_and_holds_no_traceback(data, tmp_path):
    process = start(*data(GOOD + b'\n{"input": }'))
    shown, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "train.json:6: not JSON" in shown
    assert "Traceback" not in shown
    assert shown.count("\n") < 15, shown
    assert "Traceback" in (tmp_path / "run" / "logs" / "rank-0.log").read_text()


def test_a_run_that_is_killed_while_tokenising_leaves_no_half_of_a_cache(data, tmp_path):
    record = {"input": "患者头痛三天，类型？" * 8, "target": "答"}
    line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
    overrides = [key for key in data(line * 100_000) if not key.startswith("data.max_examples")]
    process = start(*overrides, "task=prepare", start_new_session=True)
    cache, deadline = tmp_path / "cache", time.monotonic() + 120
    while not any(path.stat().st_size > 100_000 for path in cache.glob(".*/tokens.arrow")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert not [path for path in cache.iterdir() if path.is_dir() and not path.name.startswith(".")]

    overrides[overrides.index(f"run_dir={tmp_path}/run")] = f"run_dir={tmp_path}/again"
    (tmp_path / "数据 一" / "train.json").write_bytes(GOOD)
    run_here(*overrides, "task=prepare")
    report = json.loads((tmp_path / "again" / "data_report.json").read_text())
    assert report["splits"]["train"]["sources"]["promptcblue"]["documents"]["kept"] == len(RECORDS)


def test_a_full_disk_ends_the_run_with_the_last_checkpoint_whole(data, tmp_path):
    """A limit on the size of a file stands for the disk: all of the state but its last bytes fits."""
    overrides = data(GOOD)
    run_here(*overrides)
    before = contents(tmp_path / "run" / "checkpoints")
    size = (tmp_path / "run" / "checkpoints" / "step-2" / "state").stat().st_size

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1000, size - 1000))

    process = start(f"run_dir={tmp_path}/run", "resume=auto", "trainer.max_steps=4", preexec_fn=limit)
    shown, _ = process.communicate(timeout=120)
    assert process.returncode == 1, shown
    assert "cannot write" in shown
    assert "step-4" in shown
    assert "Traceback" not in shown
    assert contents(tmp_path / "run" / "checkpoints") == before

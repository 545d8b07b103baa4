"""The archive for the organisers: its layout, its bytes, and that its parser reads as ours does."""

import ast
import io
import json
import subprocess
import sys
import zipfile

import pytest

from medtune.evaluation.promptcblue import PROTOCOLS
from medtune.evaluation.promptcblue.standalone import PARTS, assemble_parser
from medtune.evaluation.promptcblue.submission import parse_records
from medtune.evaluation.promptcblue.submission_zip import find_fatal_rows, pack_submission
from tests.unit.evaluation.promptcblue_files import GOLD


def run_parser(folder, protocol, lines):
    """As the organisers run it, in a folder with nothing else."""
    (folder / "post_generate_process.py").write_text(assemble_parser(protocol), encoding="utf-8")
    (folder / "test_predictions.json").write_bytes(
        "".join(f"{line}\n" for line in lines).encode(errors="replace")
    )
    command = [
        sys.executable,
        "-I",
        "-S",
        "post_generate_process.py",
        "test_predictions.json",
        "results.json",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "results.json").read_text(encoding="utf-8")), done.stderr


def write(record, **changes):
    return json.dumps({**record, **changes}, ensure_ascii=False)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_standalone_parser_reads_as_the_package_does(tmp_path, protocol):
    gold = GOLD[protocol]
    results, warnings = run_parser(tmp_path, protocol, map(write, gold))
    assert results == parse_records(gold, PROTOCOLS[protocol])
    assert warnings == ""


def test_no_row_ends_the_standalone_parser_and_each_is_named(tmp_path):
    gold = GOLD["chip2023"]
    by_task = {row["task_dataset"]: row for row in gold}
    texts = {
        "CMedCausal": "以上。",
        "Text2DT": "1：role=D；triples=[[1, 2, 3]]",
        "CMeEE-V2": 7,
        "MedDG": "好" * 10**6,
        "CHIP-CDN": None,
    }
    lines = [write(by_task[task], target=text) for task, text in texts.items()]
    deep = json.dumps({**by_task["MedDG"], "target": "\ud800"})  # an escape, as JSON allows
    results, warnings = run_parser(tmp_path, "chip2023", [*lines, "{", "[" * 100_000, "", deep, '{"a": 1}'])
    empty = {
        "CMedCausal": [],
        "Text2DT": [{"role": "D", "logical_rel": "null", "triples": []}],
        "CMeEE-V2": [],
    }
    assert {task: results[task][0]["answer"] for task in empty} == empty
    assert [len(row["answer"]) for row in results["MedDG"]] == [10**6, 0]
    named = [line.split(": ")[0] for line in warnings.splitlines()]
    assert named == [f"line {number}" for number in (1, 2, 3, 5, 6, 7, 8, 9, 10)]


def test_the_standalone_parser_is_one_plain_module_of_the_standard_library():
    source = assemble_parser("ccks2023")
    module = ast.parse(source, feature_version=(3, 8))
    imports = [node for node in ast.walk(module) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {
        alias.name if isinstance(node, ast.Import) else str(node.module)
        for node in imports
        for alias in node.names
    }
    assert {name.split(".")[0] for name in names} <= {*sys.stdlib_module_names}
    assert all(node in module.body for node in imports)
    defined = [node.name for node in module.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert len(defined) == len(set(defined))
    assert [line for line in source.splitlines() if line.startswith("# ---- ")] == [
        f"# ---- {name} ----" for name in PARTS
    ]
    assert "eval(" not in source.replace("literal_eval(", "")


def test_the_archive_is_laid_out_as_asked_and_depends_on_its_answers_alone():
    gold, rules = GOLD["ccks2023"], PROTOCOLS["ccks2023"]
    texts = [f"答{n}\ud800" if n == 3 else f"答{n}" for n in range(len(gold))]
    packed = pack_submission(gold, texts, rules)
    assert packed == pack_submission([dict(row) for row in gold], list(texts), rules)
    archive = zipfile.ZipFile(io.BytesIO(packed))
    assert archive.namelist() == ["test_predictions.json", "post_generate_process.py"]
    rows = [json.loads(line) for line in archive.read("test_predictions.json").decode().splitlines()]
    assert rows == [{**record, "target": text} for record, text in zip(gold, texts, strict=True)]
    assert list(rows[0]) == list(gold[0])
    assert archive.read("post_generate_process.py").decode() == assemble_parser("ccks2023")


def test_rows_on_which_the_official_scripts_die_are_named():
    gold, rules = GOLD["chip2023"], PROTOCOLS["chip2023"]
    places = [row["sample_id"] for row in gold]
    texts = [
        "1：role=D；triples=[[1, 2, 3]]" if row["task_dataset"] == "Text2DT" else "以上。" for row in gold
    ]
    named = find_fatal_rows(gold, texts, places, rules)
    expected = [row["sample_id"] for row in gold if row["task_dataset"] in ("Text2DT", "CMedCausal")]
    assert [name.split(" ")[0] for name in named] == expected
    assert {name.split("(")[1] for name in named} == {"Text2DT: AttributeError)", "CMedCausal: IndexError)"}

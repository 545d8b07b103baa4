"""The table, its plain twin and the plot."""

import io
import subprocess
import sys

import pytest

from medtune.evaluation.promptcblue import PROTOCOLS
from medtune.evaluation.report import lay_out_scores, measure_width, plot_scores, scores_table, scores_text
from medtune.evaluation.scores import Scores, TaskScore

SIX = ("CMeEE-V2", "CHIP-CDN", "IMCS-V2-SR", "KUAKE-QIC", "KUAKE-QQR", "MedDG")
PNG = b"\x89PNG\r\n\x1a\n"


def make_scores(names, score=12.25, headline=None):
    tasks = {name: TaskScore("m", score, 1) for name in names}
    return Scores("ccks2023", score, None, None, score, tasks, headline)


def test_six_tasks_stand_side_by_side():
    assert lay_out_scores({"trained": make_scores(SIX)}) == [
        ["system", "CMeEE", "CDN", "SR", "QIC", "QQR", "MedDG", "mean"],
        ["trained", *["12.25"] * 7],
    ]


def test_eighteen_tasks_stand_below_each_other():
    names = [task.name for task in PROTOCOLS["chip2023"].tasks]
    grid = lay_out_scores({"trained": make_scores(names), "trivial": make_scores(names[:2])})
    assert grid[0] == ["task", "trained", "trivial"]
    assert grid[3] == ["CDN", "12.25", "-"]
    assert len({row[0] for row in grid}) == 20  # the short names are still different


def test_the_plain_table_lines_up_with_chinese_names():
    assert scores_text({"模型": make_scores(["MedDG"]), "a": make_scores(["MedDG"], 100)}, "Scores").split(
        "\n"
    ) == [
        "Scores",
        "",
        "| system |  MedDG |   mean |",
        "| ------ | -----: | -----: |",
        "| 模型   |  12.25 |  12.25 |",
        "| a      | 100.00 | 100.00 |",
    ]
    assert measure_width("模型a\u0301") == 5


def test_the_terminal_table_fits_and_is_ascii_but_for_names():
    from rich.console import Console

    console = Console(width=100, file=io.StringIO())
    rows = {"trained": make_scores(SIX), "random_candidate": make_scores(SIX)}
    console.print(scores_table(rows, "dev"))
    text = console.file.getvalue()
    assert text.isascii()
    assert "random_candidate | 12.25" in text
    assert "…" not in text


def test_plain_text_scores_call_their_last_column_score():
    assert lay_out_scores({"a": make_scores(["line_f1"], headline="line_f1")})[0][-1] == "score"


def test_nothing_to_show_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one system"):
        scores_text({})
    with pytest.raises(ValueError, match="at least one system"):
        plot_scores({}, tmp_path / "x.png")


def test_the_plot_is_a_png_in_a_folder_of_its_own(tmp_path):
    rows = {"trained": make_scores(SIX), "模型": make_scores([*SIX, "任务"], -5)}
    path = plot_scores(rows, tmp_path / "plots" / "scores.png")
    assert path.read_bytes().startswith(PNG)


def test_scoring_imports_nothing_heavy():
    """The launcher checks a predictions file before anything heavy loads."""
    code = (
        "import sys, medtune.evaluation.report, medtune.evaluation.baselines\n"
        "heavy = {'matplotlib', 'rich', 'torch', 'lightning', 'transformers', 'numpy'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")

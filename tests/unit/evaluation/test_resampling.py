"""The paired bootstrap: its point values are the official figures, its resamples those of a scoring anew."""

import io
import random

import numpy as np
import pytest

from medtune.evaluation.bootstrap import draw_weights, find_interval
from medtune.evaluation.comparison import comparison_table, plot_comparison
from medtune.evaluation.promptcblue import PROTOCOLS, score_predictions
from medtune.evaluation.promptcblue.counts import measure_counts
from medtune.evaluation.promptcblue.records import group_by_task, read_references, read_rows
from medtune.evaluation.promptcblue.resampling import compare_rows, score_sums, tabulate
from tests.unit.evaluation.promptcblue_files import GOLD


def make_sides(protocol, seed=0, copies=4):
    """Gold records several times over, and two systems of which the second is wrong more often."""
    rules, gold = PROTOCOLS[protocol], GOLD[protocol] * copies
    chance = random.Random(seed)
    texts = [
        [row["target"] if chance.random() < right else chance.choice(gold)["target"] for row in gold]
        for right in (0.8, 0.3)
    ]
    # A row of another task's grammar would end the official reading; such rows count as empty here.
    references = read_references(gold, rules)
    return rules, gold, texts, [read_rows(references, side, rules) for side in texts]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_point_values_are_the_scores(protocol):
    rules, gold, texts, (rows, others) = make_sides(protocol)
    comparison = compare_rows(rows, others, rules, seed=1, resamples=50)
    for name, side in (("score", texts[0]), ("against", texts[1])):
        scores = score_predictions(gold, side, protocol)
        found = {task: getattr(difference, name) for task, difference in comparison.tasks.items()}
        assert found == pytest.approx({task: score.robust for task, score in scores.tasks.items()}, abs=1e-9)
        assert getattr(comparison.overall, name) == pytest.approx(scores.robust_score, abs=1e-9)
    assert comparison.overall.rows == len(gold)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_weighted_sum_scores_as_the_drawn_rows_do(protocol):
    """Each drawn set of rows, scored anew by the metric itself."""
    rules, _, _, (rows, _) = make_sides(protocol)
    for task, members in group_by_task(rows, rules).items():
        counts = [row.counts for row in members]
        weights = draw_weights(len(counts), 20, (3, 5))
        drawn = [
            [row for row, times in zip(counts, line, strict=True) for _ in range(int(times))]
            for line in weights
        ]
        expected = [next(iter(measure_counts(task, rows).values())) for rows in drawn]
        assert score_sums(task, weights @ tabulate(task, counts)) == pytest.approx(expected, abs=1e-9), task


def test_draws_are_paired_seeded_and_of_the_rows_number():
    weights = draw_weights(40, 3000, (0, 1))
    assert np.array_equal(weights, draw_weights(40, 3000, (0, 1)))
    assert not np.array_equal(weights, draw_weights(40, 3000, (1, 1)))
    assert set(weights.sum(axis=1)) == {40}
    assert weights.mean() == pytest.approx(1)
    assert weights.var() == pytest.approx(1 - 1 / 40, abs=0.02)


def test_a_run_against_itself_differs_nowhere_and_a_worse_one_clearly():
    rules, _, _, (rows, others) = make_sides("ccks2023")
    same = compare_rows(rows, rows, rules, seed=0, resamples=300)
    assert {(line.difference, line.low, line.high, line.is_clear) for line in same.lines().values()} == {
        (0, 0, 0, False)
    }
    worse = compare_rows(rows, others, rules, seed=0, resamples=300).overall
    assert worse.is_clear
    assert worse.low < worse.difference < worse.high
    assert worse.share_better == 1


def test_the_interval_of_a_mean_is_the_textbooks():
    """800 labels, 30 % right against none: the interval of a share, 1.96 standard errors wide each way."""
    record = next(row for row in GOLD["ccks2023"] if row["task_dataset"] == "MedDG")
    rules = PROTOCOLS["ccks2023"]
    references = read_references([record] * 800, rules)
    rows = read_rows(references, [record["target"]] * 240 + ["xyz"] * 560, rules)
    nothing = read_rows(references, ["xyz"] * 800, rules)
    found = compare_rows(rows, nothing, rules, seed=0, resamples=4000).tasks["MedDG"]
    error = 100 * 1.96 * (0.3 * 0.7 / 800) ** 0.5
    assert (found.low, found.high) == pytest.approx((30 - error, 30 + error), abs=0.25)
    assert find_interval(np.arange(101.0), 0.9) == pytest.approx((5, 95))


def test_the_comparison_is_shown(tmp_path):
    from rich.console import Console

    rules, _, _, (rows, others) = make_sides("ccks2023")
    comparison = compare_rows(rows, others, rules, seed=0, resamples=100)
    console = Console(width=80, file=io.StringIO())
    console.print(comparison_table(comparison, "title"))
    shown = console.file.getvalue()
    assert "…" not in shown
    assert "| mean " in shown
    plot_comparison(comparison, tmp_path / "p.png", "title")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")

import json

import pytest

from medtune.training.plots import column, plot_loss, smooth, source_names

PNG = b"\x89PNG\r\n\x1a\n"


def test_smoothing_starts_without_a_bias():
    assert smooth([2.0, 2.0, 2.0]) == pytest.approx([2.0, 2.0, 2.0])
    # (0.5*1*0.5 + 0.5*4) / 0.75, worked by hand
    assert smooth([1.0, 4.0], share=0.5) == pytest.approx([1.0, 3.0])


def test_a_column_passes_over_lines_without_it():
    lines = [{"step": 1, "val/loss": 2.0}, {"step": 2}, {"step": 3, "val/loss": None}]
    assert column(lines, "val/loss") == ([1], [2.0])


def test_the_picture_is_drawn_from_the_metrics_file(tmp_path):
    lines = [{"step": step, "train/loss": 1 / step, "train/lr": 1e-3} for step in range(1, 9)]
    lines.append({"step": 8, "val/loss": 0.2})
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    plot_loss(file, tmp_path / "plots/loss.png")
    assert (tmp_path / "plots/loss.png").read_bytes().startswith(PNG)
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["loss.png"]


def test_sources_get_a_picture_of_their_own(tmp_path):
    lines = [
        {"step": 1, "train/loss": 2.0, "train/loss/leaflets": 3.0, "train/lr": 1e-3},
        {"step": 2, "train/loss": 1.0, "train/loss/questions": 1.0, "train/lr": 1e-3},
        {"step": 2, "val/loss": 1.5, "val/loss/notes": 1.5},
    ]
    assert source_names(lines) == ["leaflets", "questions", "notes"]
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    plot_loss(file, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(PNG)
    assert (tmp_path / "loss_by_source.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    "text", [None, "", '{"step": 1, "val/loss": 2.0}\n'], ids=["absent", "empty", "no_loss"]
)
def test_without_a_loss_there_is_no_picture(tmp_path, text):
    if text is not None:
        (tmp_path / "metrics.jsonl").write_text(text)
    plot_loss(tmp_path / "metrics.jsonl", tmp_path / "loss.png")
    assert not (tmp_path / "loss.png").exists()

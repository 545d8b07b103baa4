import random
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from medtune.config.schema import Config, DataConfig, TrainerConfig
from medtune.runtime.errors import ConfigError
from medtune.runtime.record import read_json, write_json
from medtune.training.checkpoints import choose_checkpoint, open_checkpoint, whole_checkpoints
from medtune.training.resume import resume_problems
from medtune.training.state import rng_state, set_rng_state


def make_checkpoint(folder, step, marked=True):
    path = folder / f"step-{step}"
    path.mkdir(parents=True)
    (path / "state").write_bytes(b"")
    mark = {"global_step": step, "rows": step, "layout": "file", "world_size": 1, "config": {}}
    if marked:
        write_json(path / "checkpoint.json", mark)
    return path


def test_the_newest_whole_one_is_chosen_by_its_step_not_its_name(tmp_path):
    for step in (9, 10, 100):
        make_checkpoint(tmp_path, step, marked=step != 100)
    (tmp_path / ".step-200.partial").mkdir()
    (tmp_path / "notes").mkdir()
    assert [checkpoint.global_step for checkpoint in whole_checkpoints(tmp_path)] == [9, 10]
    assert choose_checkpoint("auto", tmp_path).global_step == 10


A_MIX = DataConfig(mix=["a"], sources={"a": {"dir": "here", "weight": 1.0}})


@pytest.mark.parametrize(
    ("now", "problem"),
    [
        pytest.param(A_MIX, None, id="same"),
        pytest.param(replace(A_MIX, sources={"a": {"dir": "moved", "weight": 1.0}}), None, id="files_moved"),
        pytest.param(replace(A_MIX, cache_dir="x", num_workers=1), None, id="where_and_how"),
        pytest.param(replace(A_MIX, packing="none"), "data.packing=none (bfd before)", id="packing"),
        pytest.param(replace(A_MIX, sequence_length=7), "data.sequence_length=7 (2048 before)", id="length"),
        pytest.param(replace(A_MIX, sources={"a": {"weight": 2.0}}), "data.sources=", id="weight"),
        pytest.param(replace(A_MIX, mix=["a", "b"]), "data.mix=", id="another_source"),
    ],
)
def test_a_resumed_run_must_show_the_same_rows(tmp_path, now, problem):
    path = make_checkpoint(tmp_path, 1)
    mark = read_json(path / "checkpoint.json")
    write_json(path / "checkpoint.json", {**mark, "config": asdict(Config(data=A_MIX))})
    found = resume_problems(open_checkpoint(path), Config(data=now), "file", 1)
    assert [text.startswith(str(problem)) for text in found] == ([] if problem is None else [True])


def test_a_mix_over_steps_is_resumed_for_as_many(tmp_path):
    data = replace(A_MIX, mix_stop="steps")
    path = make_checkpoint(tmp_path, 1)
    config = Config(data=data, trainer=TrainerConfig(max_steps=9))
    write_json(path / "checkpoint.json", {**read_json(path / "checkpoint.json"), "config": asdict(config)})
    longer = replace(config, trainer=TrainerConfig(max_steps=10))
    assert resume_problems(open_checkpoint(path), config, "file", 1) == []
    [problem] = resume_problems(open_checkpoint(path), longer, "file", 1)
    assert problem.startswith("trainer.max_steps=10 (9 before)")


def test_auto_without_any_starts_anew(tmp_path):
    assert choose_checkpoint("auto", tmp_path / "checkpoints") is None
    make_checkpoint(tmp_path, 1)
    assert choose_checkpoint("never", tmp_path) is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda at: at / "absent", r"is not a checkpoint: no such folder", id="absent"),
        pytest.param(lambda at: at, r"is not a checkpoint: checkpoint\.json is missing", id="any_folder"),
        pytest.param(
            lambda at: make_checkpoint(at, 3, marked=False), r"step-3 was not written to its end", id="part"
        ),
    ],
)
def test_a_path_that_is_no_whole_checkpoint_is_refused(tmp_path, make, message):
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(make(tmp_path))


def draw():
    return torch.rand(3).tolist(), random.random(), np.random.rand()


def test_random_streams_go_on_where_they_were_through_a_file_of_plain_types(tmp_path):
    torch.save(rng_state(), tmp_path / "rng.pt")
    expected = draw()
    draw()
    set_rng_state(torch.load(tmp_path / "rng.pt", weights_only=True))
    assert draw() == expected

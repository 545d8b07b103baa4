import random

import numpy as np
import pytest
import torch

from medtune.runtime.errors import ConfigError
from medtune.runtime.record import write_json
from medtune.training.checkpoints import (
    choose_checkpoint,
    open_checkpoint,
    rng_state,
    set_rng_state,
    whole_checkpoints,
)


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

import pytest

from medtune.config.schema import Config, TrainerConfig
from medtune.launch.local import worker_environment
from medtune.runtime.hardware import cpu_cores


@pytest.mark.parametrize(
    ("typed", "world_size", "threads"),
    [
        pytest.param(None, 1, None, id="one_process_has_all_cores"),
        pytest.param(None, 2, str(max(1, cpu_cores() // 2)), id="shared"),
        pytest.param(None, 10_000, "1", id="never_none"),
        pytest.param("3", 2, "3", id="the_users_own"),
    ],
)
def test_ranks_share_the_cores(monkeypatch, typed, world_size, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if typed:
        monkeypatch.setenv("OMP_NUM_THREADS", typed)
    assert worker_environment(Config(), world_size).get("OMP_NUM_THREADS") == threads


@pytest.mark.parametrize(("accelerator", "seen"), [("cpu", ""), ("cuda", "0,1")])
def test_a_cpu_run_sees_no_gpu(monkeypatch, accelerator, seen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    config = Config(trainer=TrainerConfig(accelerator=accelerator))
    assert worker_environment(config, 1)["CUDA_VISIBLE_DEVICES"] == seen

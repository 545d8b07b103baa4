"""Who may reach the server, and with what key."""

from dataclasses import replace

import pytest

from medtune.config.schema import Config, ServeConfig, TrainerConfig
from medtune.config.serve_checks import one_process_problems, serve_problems

SERVE = Config(task="serve")


def problems_of(**serve):
    return list(serve_problems(replace(SERVE, serve=ServeConfig(**serve))))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_this_machine_needs_no_key(host):
    assert problems_of(host=host) == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "server.example"])
def test_other_machines_need_a_key_or_a_word(host, monkeypatch):
    monkeypatch.setenv("OWN_KEY", "x")
    assert problems_of(host=host) == [
        f"serve.host={host} lets other machines in without a key; set serve.api_key_env=VARIABLE, or "
        "serve.allow_public=true where something else keeps strangers out"
    ]
    assert problems_of(host=host, allow_public=True) == []
    assert problems_of(host=host, api_key_env="OWN_KEY") == []


def test_a_variable_that_is_not_set(monkeypatch):
    monkeypatch.setenv("EMPTY_KEY", " ")
    for name in ("EMPTY_KEY", "NO_SUCH_KEY"):
        [problem] = problems_of(api_key_env=name)
        assert problem.startswith("serve.api_key_env names a variable that is not set")


def test_a_key_in_the_place_of_its_variable_is_not_shown():
    [problem] = problems_of(api_key_env="sk-very-secret")
    assert "not the key itself" in problem
    assert "secret" not in problem


@pytest.mark.parametrize("origin", ["chat.example", "https://chat.example/", "https://", "http://["])
def test_what_is_no_origin(origin):
    [problem] = problems_of(cors_origins=["*", "http://localhost:3000", origin])
    assert problem.startswith(f"serve.cors_origins: {origin} is no origin")


def test_other_tasks_do_not_ask():
    assert list(serve_problems(Config(serve=ServeConfig(host="0.0.0.0")))) == []


def test_several_devices_are_refused_with_the_reason():
    several = replace(SERVE, trainer=TrainerConfig(devices=2))
    [problem] = one_process_problems(several)
    assert problem.startswith("trainer.devices=2: task=serve is one process on one device")
    assert list(one_process_problems(replace(several, task="generate"))) == []
    assert list(one_process_problems(SERVE)) == []

import pytest

from medtune.config.schema import Config, GenerateConfig
from medtune.generation.settings import SamplingSettings, sampling_settings


def test_the_settings_are_those_of_the_configuration(config):
    config.seed = 7
    config.generate.temperature = 0.5
    config.generate.top_k = 3
    config.generate.max_new_tokens = 9
    assert sampling_settings(config) == SamplingSettings(max_new_tokens=9, temperature=0.5, top_k=3, seed=7)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("max_new_tokens", 0, r"generate\.max_new_tokens=0 must be at least 1"),
        ("batch_tokens", 0, r"generate\.batch_tokens=0 must be at least 1"),
        ("temperature", -0.1, r"generate\.temperature=-0\.1 must be 0 \(greedy\) or more"),
        ("top_p", 0.0, r"generate\.top_p=0\.0 must be above 0 and at most 1"),
        ("top_p", 1.1, r"generate\.top_p=1\.1 must be above 0 and at most 1"),
        ("top_k", -1, r"generate\.top_k=-1 must be 0 \(all\) or more"),
        ("repetition_penalty", 0.0, r"generate\.repetition_penalty=0\.0 must be above 0"),
    ],
)
def test_a_value_outside_its_range_is_refused(key, value, message):
    with pytest.raises(ValueError, match=message):
        SamplingSettings(**{key: value})


def test_all_problems_come_at_once():
    with pytest.raises(ValueError, match=r"generate\.temperature=-1.*generate\.top_k=-2"):
        SamplingSettings(temperature=-1, top_k=-2)


@pytest.mark.parametrize("task", ["chat", "serve"])
def test_what_shows_its_tokens_searches_nothing_whatever_is_set(task):
    generate = GenerateConfig(num_beams=4, temperature=0.7)
    settings = sampling_settings(Config(task=task, generate=generate))
    assert (settings.num_beams, settings.temperature) == (1, 0.7)
    with pytest.raises(ValueError, match=r"generate\.num_beams=4 must be 1 with a temperature above 0"):
        sampling_settings(Config(task="generate", generate=generate))

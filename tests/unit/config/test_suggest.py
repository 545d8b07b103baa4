import pytest

from medtune.config.keys import schema_keys
from medtune.config.suggest import did_you_mean, nearest, nearest_key


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        pytest.param("optim.lrr", "optim.lr", id="letter_too_many"),
        pytest.param("optm.lr", "optim.lr", id="section_misspelt"),
        pytest.param("lr", "optim.lr", id="section_left_out"),
        pytest.param("trainer.lr", "optim.lr", id="wrong_section"),
        pytest.param("model.sequence_length", "data.sequence_length", id="wrong_section_long_name"),
        pytest.param("training.max_steps", "trainer.max_steps", id="section_of_another_name"),
        pytest.param("export.merg", "export.merge", id="letter_missing"),
        pytest.param("learning_rate", "optim.lr", id="name_of_other_trainers"),
        pytest.param("data.cutoff_len", "data.sequence_length", id="name_of_other_trainers_with_section"),
        pytest.param("per_device_train_batch_size", "data.micro_batch_size", id="hugging_face"),
        pytest.param("sequence_lenght", "data.sequence_length", id="letters_swapped"),
        pytest.param("xyzzy", None, id="nothing_near"),
    ],
)
def test_the_key_that_was_meant(typed, meant):
    assert nearest_key(typed, schema_keys()) == meant


def test_a_name_in_two_sections_is_taken_from_the_nearer():
    assert nearest_key("evaluation.limit", ["eval.limit", "generate.limit"]) == "eval.limit"
    assert nearest_key("generation.limit", ["eval.limit", "generate.limit"]) == "generate.limit"


@pytest.mark.parametrize(
    ("word", "near"),
    [("promtcblue", "promptcblue"), ("zero-3", "zero3"), ("q", None)],
    ids=["letter_missing", "sign_added", "nothing_near"],
)
def test_the_nearest_option(word, near):
    assert nearest(word, ["promptcblue", "sample", "zero3", "fsdp"]) == near


def test_nothing_is_suggested_when_nothing_is_near():
    assert did_you_mean(None) == ""
    assert did_you_mean("optim.lr") == "; did you mean optim.lr?"


def test_every_name_of_other_trainers_leads_to_a_key_that_exists():
    from medtune.config.suggest import KNOWN_ELSEWHERE

    assert set(KNOWN_ELSEWHERE.values()) <= set(schema_keys())

import io
import sys
from contextlib import contextmanager

import pytest

from medtune.config.schema import TemplateConfig
from medtune.data.tokens.templates import Template
from medtune.generation.engine import TransformersEngine
from medtune.generation.responder import Responder
from medtune.generation.settings import SamplingSettings
from medtune.generation.text import decode
from medtune.tasks import chat
from medtune.tasks.chat import HELP, Chat, read_lines, run

TEMPLATE = TemplateConfig(prompt=["q: {prompt}\na: "], separator=["\n"])


@pytest.fixture
def responder(make_tiny_llama, tiny_tokenizer):
    """Answers eight characters or fewer; the tiny model holds 256 tokens."""
    engine = TransformersEngine.from_tokenizer(make_tiny_llama(scale=4.0), tiny_tokenizer)
    return Responder(
        engine,
        tiny_tokenizer,
        Template.from_tokenizer(TEMPLATE, tiny_tokenizer),
        SamplingSettings(max_new_tokens=8),
    )


def answer(responder, prompt, history=()):
    """The answer of the batch path to the same conversation."""
    ids = responder.template.prompt_ids(prompt, history)
    [tokens] = responder.engine.generate([ids], responder.settings)
    return decode(responder.tokenizer, tokens)


def say(chat, *lines):
    out = io.StringIO()
    open_ = [chat.take(line, out) for line in lines]
    return out.getvalue(), open_


def test_an_answer_is_that_of_batched_generation_and_the_next_one_knows_it(responder):
    chat = Chat(responder)
    first = answer(responder, "abc")
    second = answer(responder, "def", [("abc", first)])
    assert second != answer(responder, "def")
    assert say(chat, "abc", "def") == (f"{first}\n{second}\n", [True, True])
    assert chat.history == [("abc", first), ("def", second)]


def test_clear_forgets_the_conversation(responder):
    chat = Chat(responder)
    say(chat, "abc", "/clear")
    assert chat.history == []
    assert say(chat, "def") == (answer(responder, "def") + "\n", [True])


@pytest.mark.parametrize(
    ("line", "output", "goes_on"),
    [
        pytest.param("", "", True, id="empty"),
        pytest.param("  \t", "", True, id="spaces"),
        pytest.param("/help", HELP, True, id="help"),
        pytest.param("/exit", "", False, id="exit"),
        pytest.param("/exit ", "", False, id="exit_with_a_space"),
        pytest.param("/quit", "[there is no command /quit; /help shows them]\n", True, id="unknown"),
    ],
)
def test_a_line_that_is_no_prompt_is_not_answered(responder, line, output, goes_on):
    chat = Chat(responder)
    assert say(chat, line) == (output, [goes_on])
    assert chat.history == []


def test_a_space_in_front_sends_what_looks_like_a_command(responder):
    assert say(Chat(responder), " /exit") == (answer(responder, "/exit") + "\n", [True])


def test_the_oldest_turns_give_way_when_the_context_is_full(responder):
    chat = Chat(responder)
    chat.history = [("a" * 200, "b"), ("c", "d")]
    output, _ = say(chat, "e" * 40)
    kept = answer(responder, "e" * 40, [("c", "d")])
    notice = "[the first 1 of 2 turns no longer fit the model's context of 256 tokens and are forgotten]"
    assert output == f"{notice}\n{kept}\n"
    assert chat.history == [("c", "d"), ("e" * 40, kept)]


def test_a_prompt_that_does_not_fit_is_refused_and_the_chat_goes_on(responder):
    chat = Chat(responder)
    output, open_ = say(chat, "e" * 300, "abc")
    assert output.startswith("[prompt 0 has 307 tokens, but the model's context is 256")
    assert output.endswith("]\n" + answer(responder, "abc") + "\n")
    assert open_ == [True, True]


def test_the_lines_of_a_pipe_end_without_their_line_breaks():
    assert list(read_lines(io.StringIO("a\r\n\nb"))) == ["a", "", "b"]


@pytest.fixture
def chat_config(config, tiny_model_folder):
    config.model.path = str(tiny_model_folder)
    config.template = TEMPLATE
    config.generate.max_new_tokens = 8
    return config


def test_the_task_answers_a_pipe_until_exit(chat_config, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"abc\n/help\n/exit\ndef\n")))
    run(chat_config, None)
    output = capsys.readouterr().out
    assert output.endswith(HELP)
    assert len(output.splitlines()) == 1 + len(HELP.splitlines())


def test_the_weights_may_be_a_checkpoint(chat_config, tiny_model_folder, monkeypatch, capsys):
    """Which is written aside as a model folder first."""
    asked = []

    @contextmanager
    def settled(config):
        asked.append(config.weights)
        yield str(tiny_model_folder)

    chat_config.weights = "RUN/checkpoints/step-4"
    monkeypatch.setattr(chat, "settle_weights", settled)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"abc\n")))
    run(chat_config, None)
    assert asked == ["RUN/checkpoints/step-4"]
    assert len(capsys.readouterr().out.splitlines()) == 1


class InterruptedInput(io.StringIO):
    """A terminal on which the user presses Ctrl-C."""

    def __next__(self):
        raise KeyboardInterrupt


def test_control_c_ends_the_chat(chat_config, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", InterruptedInput())
    run(chat_config, None)
    assert capsys.readouterr().out == "\n"

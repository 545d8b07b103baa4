import io
import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest

from medtune.config.schema import DataConfig, TemplateConfig
from medtune.data.examples import Turn
from medtune.data.reading.splits import read_examples
from medtune.data.tokens.templates import Template
from medtune.generation.engine import TransformersEngine
from medtune.generation.responder import Responder
from medtune.generation.settings import SamplingSettings
from medtune.generation.text import decode
from medtune.tasks import chat
from medtune.tasks.chat import HELP, Chat, read_lines, run

TEMPLATE = TemplateConfig(system=["{system}\n"], prompt=["q: {prompt}\na: "], separator=["\n"])


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


def answer(responder, prompt, history=(), system=None, **settings):
    """The answer of the batch path to the same conversation."""
    ids = responder.template.prompt_ids(prompt, history, system)
    [tokens] = responder.engine.generate([ids], replace(responder.settings, **settings))
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


def test_in_single_turns_each_prompt_is_answered_alone(responder):
    chat = Chat(responder, multi_turn=False)
    assert say(chat, "abc", "def")[0] == f"{answer(responder, 'abc')}\n{answer(responder, 'def')}\n"


def test_a_system_prompt_holds_from_then_on_and_can_be_taken_back(responder):
    chat = Chat(responder, system="be a doctor")
    first = answer(responder, "abc", system="be a doctor")
    assert first != answer(responder, "abc")
    assert say(chat, "/system", "abc", "/clear")[0].splitlines()[:2] == [
        "[system prompt: be a doctor]",
        first,
    ]
    output, _ = say(chat, "/system be brief", "abc", "/clear", '/system ""', "abc")
    brief = answer(responder, "abc", system="be brief")
    assert output == (
        f"[system prompt: be brief]\n{brief}\n[the conversation is forgotten]\n[no system prompt]\n"
        f"{answer(responder, 'abc')}\n"
    )


def test_a_template_without_a_place_for_a_system_prompt_says_so(responder, tiny_tokenizer):
    responder.template = Template.from_tokenizer(replace(TEMPLATE, system=[]), tiny_tokenizer)
    output, _ = say(Chat(responder), "/system be brief")
    assert output.startswith("[a system prompt, but template=plain has no place for one")
    with pytest.raises(ValueError, match="no place for one"):
        Chat(responder, system="be brief")


def test_retry_draws_another_answer_to_the_same_conversation(responder):
    responder.settings = replace(responder.settings, temperature=2.0, seed=1)
    chat = Chat(responder)
    say(chat, "abc", "def", "/retry", "/retry")
    first = answer(responder, "abc")
    third = answer(responder, "def", [("abc", first)], seed=3)
    assert third != answer(responder, "def", [("abc", first)], seed=1)
    assert chat.history == [("abc", first), ("def", third)]


def test_retry_says_when_it_cannot_differ(responder):
    chat = Chat(responder)
    output, _ = say(chat, "/retry", "abc", "/retry")
    same = answer(responder, "abc")
    notice = "[temperature=0 gives the same answer again; /set temperature=0.7 draws others]"
    assert output == "\n".join(["[there is no prompt to answer anew]", same, notice, same, ""])


def test_set_changes_the_settings_of_the_next_answers(responder):
    chat = Chat(responder)
    output, _ = say(chat, "/set temperature=0.7 seed=5 max_new_tokens=3", "abc")
    assert output == (
        "[temperature=0.7, top_p=1.0, top_k=0, repetition_penalty=1.0, max_new_tokens=3, seed=5]\n"
        f"{answer(responder, 'abc', temperature=0.7, seed=5, max_new_tokens=3)}\n"
    )


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        ("temperature", "write KEY=VALUE, with a key of temperature, top_p"),
        ("temprature=1", "write KEY=VALUE, with a key of temperature, top_p"),
        ("batch_tokens=1", "write KEY=VALUE"),
        ("temperature=warm", "temperature must be a number"),
        ("top_k=1.5", "top_k must be a number"),
        ("temperature=inf", "temperature must be finite"),
        ("top_p=0", "generate.top_p=0.0 must be above 0 and at most 1"),
        ("seed=1 top_k=-1", "generate.top_k=-1 must be 0 (all) or more"),
    ],
)
def test_set_refuses_what_is_no_setting_and_changes_nothing(responder, typed, reason):
    chat = Chat(responder)
    output, _ = say(chat, f"/set {typed}")
    assert reason in output
    assert chat.settings == responder.settings


def read_back(path):
    return [list(example.turns) for example in read_examples(path, DataConfig(), needs_response=True)]


def turns(*texts, system=None):
    """Turns as a data set of conversations has them."""
    first = [] if system is None else [Turn("system", system, learned=False)]
    roles = [("prompt", False), ("response", True)] * (len(texts) // 2)
    return first + [Turn(role, text, learned) for (role, learned), text in zip(roles, texts, strict=True)]


def test_what_is_saved_can_be_trained_on(responder, tmp_path):
    path = tmp_path / "talk.jsonl"
    chat = Chat(responder, system="be a doctor")
    chat.history = [("头痛", "是的"), ("why?", "no\nreason")]
    assert say(chat, f"/save {path}")[0] == f"[2 turns are in {path}]\n"
    assert read_back(path) == [turns("头痛", "是的", "why?", "no\nreason", system="be a doctor")]


def test_prompts_that_were_answered_alone_are_saved_alone(responder, tmp_path):
    path = tmp_path / "talk.jsonl"
    chat = Chat(responder, multi_turn=False)
    chat.history = [("头痛", "是的"), ("why?", "no")]
    say(chat, f"/save {path}")
    assert read_back(path) == [turns("头痛", "是的"), turns("why?", "no")]


def test_a_file_is_replaced_only_when_that_is_said(responder, tmp_path):
    path = tmp_path / "talk.jsonl"
    path.write_text("precious", encoding="utf-8")
    chat = Chat(responder)
    assert say(chat, f"/save {path}")[0] == "[there is nothing to save yet]\n"
    chat.history = [("abc", "def")]
    assert say(chat, f"/save {path}")[0] == f"[{path} is there already; /save -f {path} replaces it]\n"
    assert path.read_text(encoding="utf-8") == "precious"
    assert say(chat, "/save")[0] == "[/save FILE: name a file]\n"
    assert say(chat, f"/save {tmp_path}")[0] == f"[{tmp_path} is a folder; name a file in it]\n"
    assert say(chat, f"/save -f {path}")[0] == f"[1 turns are in {path}]\n"
    assert read_back(path) == [turns("abc", "def")]


class Impatient(io.StringIO):
    """A terminal on which the user presses Ctrl-C when three characters of an answer are there."""

    def write(self, text):
        super().write(text)
        if len(self.getvalue()) == 3:
            raise KeyboardInterrupt


def test_control_c_stops_the_answer_and_what_came_of_it_is_remembered(responder):
    chat, out = Chat(responder, stops_answers=True), Impatient()
    begun = answer(responder, "abc")[:3]
    assert chat.take("abc", out)
    assert out.getvalue() == f"{begun}\n[stopped]\n"
    assert chat.history == [("abc", begun)]


def test_control_c_ends_a_chat_with_a_pipe(responder):
    with pytest.raises(KeyboardInterrupt):
        Chat(responder).take("abc", Impatient())


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


def test_a_prompt_that_does_not_fit_is_cut_in_the_middle_and_told(responder):
    output, open_ = say(Chat(responder), "e" * 300)
    assert output.startswith("[59 tokens in the middle of the prompt do not fit and are left out]\n")
    assert open_


def test_a_prompt_that_does_not_fit_is_refused_where_wanted_and_the_chat_goes_on(responder):
    chat = Chat(replace(responder, overlong="error"))
    output, open_ = say(chat, "e" * 300, "abc")
    assert output.startswith("[1 of 1 prompts have more than the ")
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

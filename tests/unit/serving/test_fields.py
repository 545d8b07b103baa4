"""Bodies that are read strictly: each wrong field is named."""

import json
from dataclasses import replace

import pytest

from medtune.data.examples import Turn
from medtune.generation.settings import SamplingSettings
from medtune.serving.asked import Asked, Limits, read_chat, read_completion, read_worker
from medtune.serving.errors import Refusal
from medtune.serving.fields import parse_object

DEFAULTS = SamplingSettings(max_new_tokens=32, temperature=0.5)
LIMITS = Limits("m", DEFAULTS, max_tokens=100, max_choices=4, vocabulary=50)
USER = {"role": "user", "content": "hi"}


def turn(role, text):
    return Turn(role, text, learned=False)


def chat(**fields):
    return read_chat({"model": "m", "messages": [USER], **fields}, LIMITS)


def completion(prompt, **fields):
    return read_completion({"model": "m", "prompt": prompt, **fields}, LIMITS)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(b"", "Expecting value", id="empty"),
        pytest.param(b"[]", "must be an object, found an array", id="array"),
        pytest.param(b'{"a": NaN}', "NaN is no JSON", id="nan"),
        pytest.param(b'{"a": -Infinity}', "-Infinity is no JSON", id="infinity"),
        pytest.param(b"\xff{}", "not UTF-8 [(]byte 0[)]", id="bytes"),
        pytest.param(b'{"a":' * 50_000, "nested too deeply", id="deep"),
        pytest.param(b'{"a": 1' + b"0" * 5000 + b"}", "digits", id="number_of_5000_digits"),
    ],
)
def test_what_is_no_json_object(body, reason):
    with pytest.raises(Refusal, match=reason) as caught:
        parse_object(body)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")


def test_defaults_are_those_of_the_run():
    assert chat() == Asked(((turn("prompt", "hi"),),), DEFAULTS)


def test_all_fields():
    fields = {
        **{"temperature": 0, "top_p": 0.5, "top_k": 3, "repetition_penalty": 1.5, "seed": -1, "n": 2},
        **{"stop": ["a", "b", "a"], "stream": True, "stream_options": {"include_usage": True}},
        **{"max_completion_tokens": 7, "max_tokens": 7, "user": "u", "metadata": {"a": "b"}},
    }
    settings = replace(DEFAULTS, max_new_tokens=7, temperature=0, top_p=0.5, top_k=3, repetition_penalty=1.5)
    assert chat(**fields) == Asked(
        ((turn("prompt", "hi"),),), settings, True, -1, ("a", "b"), 2, is_stream=True, wants_usage=True
    )


def test_a_conversation_and_texts_in_parts():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [
        {"role": "developer", "content": "s"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "c", "tool_calls": [], "refusal": None},
        {"role": "user", "content": "d"},
    ]
    [turns] = chat(messages=messages).prompts
    assert turns == (turn("system", "s"), turn("prompt", "ab"), turn("response", "c"), turn("prompt", "d"))


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        pytest.param("a", ((turn("text", "a"),),), id="text"),
        pytest.param(["a", "b"], ((turn("text", "a"),), (turn("text", "b"),)), id="texts"),
        pytest.param([1, 2], ([1, 2],), id="ids"),
        pytest.param([[1], [2, 3]], ([1], [2, 3]), id="several_ids"),
    ],
)
def test_prompts_of_completions(prompt, prompts):
    assert completion(prompt).prompts == prompts


def test_the_old_route_spells_roles_with_capitals():
    asked = read_worker({"messages": [{"role": "User", "content": "a"}], "stream": True}, LIMITS)
    assert asked == Asked(((turn("prompt", "a"),),), DEFAULTS, is_stream=True)


WRONG = [
    ({"messages": None}, 422, "messages", "must be an array of messages, found nothing"),
    ({"messages": {}}, 422, "messages", "must be an array of messages, found an object"),
    ({"messages": []}, 422, "messages", "must be an array of messages, found none"),
    ({"messages": ["x"]}, 422, "messages[0]", 'must be an object, found "x"'),
    ({"messages": [{"content": "x"}]}, 422, "messages[0].role", "must be a string, found nothing"),
    ({"messages": [{"role": "tool", "content": "x"}]}, 422, "messages[0].role", 'found "tool"'),
    ({"messages": [{"role": "user"}]}, 422, "messages[0].content", "must be a string, found nothing"),
    ({"messages": [{"role": "user", "content": []}]}, 422, "messages[0].content", "has no parts"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        422,
        "messages[0].content[0].type",
        'is "image_url"; this model reads text only',
    ),
    ({"messages": [{**USER, "content": "a\ud800"}]}, 422, "messages[0].content", "half of a surrogate pair"),
    ({"messages": [{**USER, "name": "bob"}]}, 422, "messages[0].name", "not supported"),
    ({"messages": [{**USER, "tool_calls": [{}]}]}, 422, "messages[0].tool_calls", "not supported"),
    ({"messages": [{**USER, "contents": "x"}]}, 422, "messages[0].contents", "did you mean content?"),
    ({"messages": [USER, USER]}, 422, "messages[1].role", "must be assistant"),
    ({"messages": [USER, {"role": "system", "content": "x"}]}, 422, "messages[1].role", "only be the first"),
    ({"messages": [{"role": "system", "content": "x"}]}, 422, "messages", "must end with a message of the"),
    ({"model": None}, 422, "model", "must be a string, found nothing"),
    ({"model": "gpt"}, 404, "model", 'there is no model "gpt"; this server has m'),
    ({"temperature": "1"}, 422, "temperature", 'must be a number, found "1"'),
    ({"temperature": True}, 422, "temperature", "must be a number, found true"),
    ({"temperature": -0.1}, 422, "temperature", "must be at least 0 and at most 2, found -0.1"),
    ({"temperature": float("inf")}, 422, "temperature", "must be at least 0"),
    ({"top_p": 0}, 422, "top_p", "must be above 0 and at most 1"),
    ({"top_k": 1.0}, 422, "top_k", "must be a whole number"),
    ({"repetition_penalty": 10**400}, 422, "repetition_penalty", "must be above 0 and at most 100"),
    ({"max_tokens": 0}, 422, "max_tokens", "must be from 1 to 100"),
    ({"max_tokens": 101}, 422, "max_tokens", "must be from 1 to 100"),
    ({"max_tokens": 1, "max_completion_tokens": 2}, 422, "max_completion_tokens", "say the same, and differ"),
    ({"n": 0}, 422, "n", "must be from 1 to 4"),
    ({"n": 5}, 422, "n", "must be from 1 to 4"),
    ({"seed": 2**63}, 422, "seed", "must be from"),
    ({"stop": 1}, 422, "stop", "must be a string, found 1"),
    ({"stop": ""}, 422, "stop", "must have 1 to 256 characters"),
    ({"stop": ["a", None]}, 422, "stop[1]", "must be a string, found nothing"),
    ({"stop": ["a"] * 17}, 422, "stop", "has 17 strings; at most 16"),
    ({"stream": 1}, 422, "stream", "must be true or false, found 1"),
    ({"stream_options": {}}, 422, "stream_options", "needs stream=true"),
    ({"stream": True, "stream_options": {"x": 1}}, 422, "stream_options.x", "there is no field"),
    ({"frequency_penalty": 0.5}, 422, "frequency_penalty", "is not supported by this server; leave it out"),
    ({"presence_penalty": False}, 422, "presence_penalty", "not supported"),
    ({"logprobs": True}, 422, "logprobs", "not supported"),
    ({"logit_bias": {"1": 2}}, 422, "logit_bias", "not supported"),
    ({"tools": [{}]}, 422, "tools", "not supported"),
    ({"response_format": {"type": "json_object"}}, 422, "response_format", "not supported"),
    ({"temprature": 1}, 422, "temprature", "there is no field temprature; did you mean temperature?"),
]


@pytest.mark.parametrize(("fields", "status", "param", "reason"), WRONG)
def test_a_wrong_field_is_named(fields, status, param, reason):
    with pytest.raises(Refusal) as caught:
        chat(**fields)
    assert (caught.value.status, caught.value.param) == (status, param)
    assert reason in caught.value.message
    json.dumps(caught.value.to_dict(), ensure_ascii=False).encode()  # whatever was sent can be told


@pytest.mark.parametrize(
    ("prompt", "param", "reason"),
    [
        (None, "prompt", "found nothing"),
        ([], "prompt", "found none"),
        ([1, 50], "prompt", "must hold token ids from 0 to 49, found 50"),
        ([[1], []], "prompt[1]", "is empty"),
        ([1, "a"], "prompt[0]", "must be a string, found 1"),
        ([True], "prompt[0]", "must be a string, found true"),
        (["a"] * 5, "n", "asks for 5 answers; at most 4 at once are given"),
    ],
)
def test_a_wrong_prompt_is_named(prompt, param, reason):
    with pytest.raises(Refusal) as caught:
        completion(prompt)
    assert caught.value.param == param
    assert reason in caught.value.message


def test_fields_at_the_values_at_which_they_ask_for_nothing_are_accepted():
    neutral = {
        **{"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "logprobs": False},
        **{"tools": [], "tool_choice": "auto", "response_format": {"type": "text"}, "top_k": None},
    }
    assert chat(**neutral) == chat()


def test_no_route_gives_longer_answers_than_the_server_allows():
    short = replace(LIMITS, max_tokens=7)
    bodies = (
        (read_chat, {"model": "m", "messages": [USER]}),
        (read_completion, {"model": "m", "prompt": "a"}),
        (read_worker, {"messages": [USER]}),
    )
    assert [read(body, short).settings.max_new_tokens for read, body in bodies] == [7, 7, 7]

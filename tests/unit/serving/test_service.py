"""A live server, spoken to by OpenAI's own client and by raw sockets."""

import asyncio
import json
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import openai
import pytest

from benchmarks.serve_load import (
    Load,
    Question,
    Tally,
    be_hostile,
    get,
    hostile_requests,
    metrics,
    post,
    run_load,
    until_idle,
)
from medtune.generation.text import decode

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def client_of(service, key="none"):
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key=key, max_retries=0, timeout=30)


@pytest.fixture(scope="module")
def client(server):
    with client_of(server) as client:
        yield client


def alone(responder, prompt, history=(), system=None, **settings):
    """The ids and text that the engine gives to a conversation without a server."""
    ids = responder.template.prompt_ids(prompt, history, system)
    [tokens] = responder.engine.generate([ids], replace(responder.settings, **settings))
    return tokens, decode(responder.tokenizer, tokens)


def user(text):
    return [{"role": "user", "content": text}]


def request(service, path=CHAT, body=None, **headers):
    """(status, headers, body) of a POST."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def send():
        reply = await post(service.url, path, data, headers)
        content = await reply.whole()
        reply.leave()
        return reply.status, reply.headers, content

    return asyncio.run(asyncio.wait_for(send(), 30))


def body(text="abc", **fields):
    return {"model": "tiny", "messages": user(text), **fields}


def test_the_client_gets_what_the_engine_gives(client, responder):
    tokens, text = alone(responder, "abc")
    reply = client.chat.completions.create(model="tiny", messages=user("abc"))
    [choice] = reply.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == (
        "assistant",
        text,
        "length",
    )
    prompt = responder.template.prompt_ids("abc")
    assert reply.usage.model_dump(exclude_unset=True) == {
        "prompt_tokens": len(prompt),
        "completion_tokens": len(tokens),
        "total_tokens": len(prompt) + len(tokens),
    }


def test_a_stream_brings_the_same_text_piece_by_piece(client, responder):
    tokens, text = alone(responder, "abc")
    stream = client.chat.completions.create(
        model="tiny", messages=user("abc"), stream=True, stream_options={"include_usage": True}
    )
    *events, usage = stream
    assert events[0].choices[0].delta.role == "assistant"
    assert "".join(event.choices[0].delta.content or "" for event in events) == text
    assert [event.choices[0].finish_reason for event in events][-1] == "length"
    assert len(events) > 4
    assert usage.choices == []
    assert usage.usage.completion_tokens == len(tokens)


def test_a_conversation_with_a_system_prompt_goes_through_the_template(client, responder):
    messages = [
        {"role": "system", "content": "be brief"},
        *user("abc"),
        {"role": "assistant", "content": "def"},
        *user("why?"),
    ]
    reply = client.chat.completions.create(model="tiny", messages=messages)
    assert reply.choices[0].message.content == alone(responder, "why?", [("abc", "def")], "be brief")[1]


def test_a_seed_repeats_what_is_drawn_and_choices_differ(client, responder):
    drawn = {"temperature": 1.5, "top_p": 0.9, "top_k": 30}
    reply = client.chat.completions.create(
        model="tiny", messages=user("abc"), temperature=1.5, top_p=0.9, seed=7, n=3, extra_body={"top_k": 30}
    )
    prompt = responder.template.prompt_ids("abc")
    settings = replace(responder.settings, seed=7, **drawn)
    due = [decode(responder.tokenizer, ids) for ids in responder.engine.generate([prompt] * 3, settings)]
    assert [choice.message.content for choice in reply.choices] == due
    assert len(set(due)) == 3


def test_without_a_seed_each_answer_is_drawn_anew(client):
    texts = {
        client.chat.completions.create(model="tiny", messages=user("abc"), temperature=2)
        .choices[0]
        .message.content
        for _ in range(3)
    }
    assert len(texts) == 3


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_answer_before_it(client, responder, stream):
    tokens, text = alone(responder, "abc")
    stop = text[5:8]
    assert text.index(stop) == 5
    needed = next(n for n in range(len(tokens)) if stop in decode(responder.tokenizer, tokens[:n]))
    reply = client.chat.completions.create(model="tiny", messages=user("abc"), stop=[stop], stream=stream)
    if stream:
        choices = [event.choices[0] for event in reply]
        shown, finish = "".join(choice.delta.content or "" for choice in choices), choices[-1].finish_reason
    else:
        shown, finish = reply.choices[0].message.content, reply.choices[0].finish_reason
        assert reply.usage.completion_tokens == needed
    assert (shown, finish) == (text[:5], "stop")


def test_completions_go_on_with_texts_and_with_ids(client, responder):
    texts = ["abc", "头痛"]
    ids = [responder.template.vocabulary.encode([text])[0] for text in texts]
    answers = responder.engine.generate(ids, replace(responder.settings, max_new_tokens=5))
    due = [decode(responder.tokenizer, answer) for answer in answers]
    for prompt in (texts, ids):
        reply = client.completions.create(model="tiny", prompt=prompt, max_tokens=5)
        assert [(choice.index, choice.text) for choice in reply.choices] == list(enumerate(due))
    stream = client.completions.create(model="tiny", prompt="abc", max_tokens=5, stream=True)
    assert "".join(event.choices[0].text for event in stream) == due[0]


def test_the_model_is_listed(client):
    [model] = client.models.list()
    assert (model.id, model.owned_by) == ("tiny", "medtune")
    assert client.models.retrieve("tiny") == model
    with pytest.raises(openai.NotFoundError, match="there is no such model"):
        client.models.retrieve("gpt-4")


def test_the_old_routes(server, responder):
    tokens, text = alone(responder, "abc")
    messages = [{"role": "User", "content": "abc"}]
    status, _, content = request(server, "/worker_generate", {"messages": messages})
    assert (status, json.loads(content)) == (
        200,
        {"message": text, "finish_reason": "length", "error_code": 0},
    )
    _, headers, content = request(server, "/worker_generate", {"messages": messages, "stream": True})
    lines = [json.loads(line) for line in content.splitlines()]
    assert headers["content-type"].startswith("application/x-ndjson")
    assert "".join(line["message"] for line in lines) == text
    assert [line["finish_reason"] for line in lines] == [None] * (len(lines) - 1) + ["length"]
    status = json.loads(asyncio.run(get(server.url, "/worker_get_status")))
    assert status == {"model_names": ["tiny"], "queue_length": 0}


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "code"),
    [
        pytest.param(CHAT, b"{", {}, 400, "invalid_json", id="no_json"),
        pytest.param(CHAT, body("a" * 300), {}, 400, "context_length_exceeded", id="too_long"),
        pytest.param(CHAT, body(max_tokens=250), {}, 400, "context_length_exceeded", id="too_many_asked_for"),
        pytest.param(CHAT, {**body(), "model": "x"}, {}, 404, "model_not_found", id="model"),
        pytest.param("/v1/x", body(), {}, 404, "not_found", id="path"),
        pytest.param("/v1/models", body(), {}, 405, "method_not_allowed", id="method"),
        pytest.param(CHAT, b" " * 20_001, {}, 413, "body_too_large", id="too_large"),
        pytest.param(CHAT, body(), {"Content-Type": "text/plain"}, 415, "unsupported_media_type", id="type"),
        pytest.param(CHAT, body(temperature=3), {}, 422, "invalid_value", id="value"),
        pytest.param(CHAT, body(logprobs=True), {}, 422, "unsupported_parameter", id="unsupported"),
        pytest.param(
            CHAT, body(), {"Origin": "https://evil.example"}, 403, "origin_not_allowed", id="origin"
        ),
    ],
)
def test_errors_have_the_apis_form(server, path, body, headers, status, code):
    found, sent, content = request(server, path, body, **headers)
    error = json.loads(content)["error"]
    assert (found, error["code"], sorted(error)) == (status, code, ["code", "message", "param", "type"])
    assert sent["content-type"] == "application/json"


def test_a_prompt_that_is_too_long_is_told_with_the_numbers(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=user("a" * 300), max_tokens=5)
    assert caught.value.body["message"] == (
        "This model's maximum context length is 256 tokens. However, your prompt has 307 tokens and asks for "
        "5 more; shorten it or ask for fewer"
    )
    assert caught.value.param == "messages"


def test_an_answer_ends_where_the_context_does(client):
    reply = client.chat.completions.create(model="tiny", messages=user("a" * 240))
    assert reply.usage.total_tokens == 256
    assert reply.choices[0].finish_reason == "length"


def raw(service, data, wait=5.0):
    """What comes back until the server hangs up, and after how long."""
    host, port = service.listener.getsockname()
    started = time.monotonic()
    with socket.create_connection((host, port), timeout=wait) as connection:
        connection.sendall(data)
        received = b""
        while part := connection.recv(65536):
            received += part
    return received, time.monotonic() - started


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def test_a_body_without_a_length_is_not_read_to_its_end(server):
    """30 KB of an endless body are sent; the limit is 20 KB."""
    chunk = b"1000\r\n" + b" " * 0x1000 + b"\r\n"
    received, _ = raw(server, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 8)
    assert b" 413 " in received.splitlines()[0]


def test_what_is_no_http_gets_an_error_of_the_same_form(server):
    received, _ = raw(server, b"\x16\x03\x01 hello\r\n\r\n")
    assert json.loads(received.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_http"


def test_clients_that_send_nothing_or_half_are_not_waited_for(serving):
    with serving(client_timeout=0.3) as service:
        received, seconds = raw(service, HEAD)
        assert (received, seconds < 3) == (b"", True)
        received, seconds = raw(service, HEAD + b"Content-Length: 100\r\n\r\n{")
        assert (b" 408 " in received.splitlines()[0], seconds < 3) == (True, True)
        assert service.app.metrics.requests[CHAT, 408] == 1


def test_more_connections_than_allowed_are_refused(serving):
    with serving(max_connections=2) as service:
        address = service.listener.getsockname()
        with socket.create_connection(address), socket.create_connection(address):
            time.sleep(0.1)
            received, _ = raw(service, b"")
        assert b" 503 " in received.splitlines()[0]
        assert b"too_many_connections" in received


def test_without_its_key_only_the_health_of_a_server_is_told(serving, monkeypatch):
    monkeypatch.setenv("SECRET_OF_TEST", "s3cret")
    with serving(api_key_env="SECRET_OF_TEST") as service:
        with client_of(service, "wrong") as client, pytest.raises(openai.AuthenticationError):
            client.models.list()
        status, headers, _ = request(service, body=body())
        assert (status, headers["www-authenticate"]) == (401, "Bearer")
        assert json.loads(asyncio.run(get(service.url, "/metrics")))["error"]["code"] == "invalid_api_key"
        assert json.loads(asyncio.run(get(service.url, "/health"))) == {"status": "ok"}
        with client_of(service, "s3cret") as client:
            assert [model.id for model in client.models.list()] == ["tiny"]


def test_pages_of_listed_origins_may_call(serving):
    with serving(cors_origins=["https://chat.example"]) as service:
        status, headers, _ = request(service, body=body(), Origin="https://chat.example")
        assert (status, headers["access-control-allow-origin"]) == (200, "https://chat.example")
        assert request(service, body=body(), Origin="https://evil.example")[0] == 403


def test_a_client_that_goes_away_frees_its_place(serving, pace):
    """Of a batch with one place, which another client waits for."""
    pace.seconds = 0.02
    with serving(max_batch_rows=1) as service:
        for stream in (True, False):

            async def leave(stream=stream):
                sending = asyncio.create_task(
                    post(service.url, CHAT, json.dumps(body(max_tokens=200, stream=stream)).encode())
                )
                while (await metrics(service.url))["medtune_batch_rows"] != 1:
                    await asyncio.sleep(0.005)
                if stream:
                    reply = await sending
                    await anext(reply.parts())
                    reply.leave()
                else:
                    sending.cancel()
                return await until_idle(service.url, seconds=2)

            counts = asyncio.run(leave())
            assert counts["medtune_batch_rows"] == 0
        assert counts["medtune_cancelled_rows_total"] == 2
        assert counts['medtune_requests_total{path="/v1/chat/completions",status="499"}'] == 2
        assert counts["medtune_answer_tokens_total"] < 200


def test_a_full_queue_is_told(serving, pace):
    pace.seconds = 0.02
    with serving(max_batch_rows=1, max_queue=1) as service, ThreadPoolExecutor(6) as pool:
        replies = list(pool.map(lambda _: request(service, body=body()), range(6)))
        statuses = sorted(status for status, _, _ in replies)
        assert statuses in ([200] * 2 + [429] * 4, [200] * 3 + [429] * 3)
        refused = next(reply for reply in replies if reply[0] == 429)
        assert refused[1]["retry-after"] == "1"
        assert json.loads(refused[2])["error"]["code"] == "queue_full"


def test_an_answer_that_takes_too_long_is_cut(serving, pace):
    pace.seconds = 0.05
    with serving(request_timeout=0.3) as service:
        status, _, content = request(service, body=body())
        assert (status, json.loads(content)["error"]["code"]) == (503, "timeout")
        with (
            client_of(service) as client,
            pytest.raises(openai.APIError, match="was not complete after 0.3 s"),
        ):
            list(client.chat.completions.create(model="tiny", messages=user("abc"), stream=True))
        assert asyncio.run(until_idle(service.url))["medtune_batch_rows"] == 0


def test_the_server_outlives_a_failure_of_the_model(serving, pace, responder):
    with serving() as service, ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda text: request(service, body=body(text)), ["abc", "a9", "def", "9"]))
        assert [status for status, _, _ in replies] == [200, 500, 200, 500]
        error = json.loads(replies[1][2])["error"]
        assert "memory" not in error["message"]  # the cause is for the log
        status, _, content = request(service, body=body("abc"))
        assert json.loads(content)["choices"][0]["message"]["content"] == alone(responder, "abc")[1]


def test_before_the_model_is_there_and_when_it_goes_503_is_the_answer(serving, pace, responder):
    pace.seconds = 0.03
    with serving() as service:
        service.app.gate.state = "loading"
        assert request(service, body=body())[0] == 503
        assert json.loads(asyncio.run(get(service.url, "/health"))) == {"status": "loading"}
        service.app.gate.state = "ready"
        with ThreadPoolExecutor(2) as pool:
            running = pool.submit(request, service, body=body())
            while not service.app.loaded.answerer.batcher.running:
                time.sleep(0.005)
            service.stop()
            status, headers, content = request(service, body=body())
            assert (status, headers["retry-after"]) == (503, "1")
            assert json.loads(content)["error"]["code"] == "stopping"
            # What runs may end.
            status, _, content = running.result(30)
            assert json.loads(content)["choices"][0]["message"]["content"] == alone(responder, "abc")[1]


def test_what_has_not_ended_in_time_is_cut_when_the_server_ends(serving, pace):
    pace.seconds = 0.05
    with serving(shutdown_timeout=0.2) as service, client_of(service) as client:
        stream = client.chat.completions.create(
            model="tiny", messages=user("abc"), max_tokens=200, stream=True
        )
        next(stream)
        service.stop()
        with pytest.raises(openai.APIError, match="the server is shutting down"):
            list(stream)


def questions_of(responder, count):
    """Questions of all kinds, each with its answer alone."""
    rng = random.Random(0)
    questions = []
    for number in range(count):
        text = "".join(rng.choice("abcdef头痛热") for _ in range(rng.randint(1, 60)))
        more = {"temperature": 1.2, "seed": number} if number % 2 else {}
        tokens, answer = alone(responder, text, max_new_tokens=4 + number, **more)
        questions.append(Question(body(text, max_tokens=4 + number, **more), answer, len(tokens)))
    return questions


def test_each_hostile_request_gets_its_own_status(server):
    """All of them, since those that many clients send are drawn."""
    tally = Tally()
    for hostile in hostile_requests("tiny", "a" * 300, 20_000):
        asyncio.run(be_hostile(server.url, hostile, tally))
    assert tally.wrong == []
    assert set(tally.statuses) == {400, 404, 405, 413, 422}


def test_many_clients_good_and_bad_get_each_its_own_answer(server, responder):
    """The short form of ``make bench-serve``."""
    refused = hostile_requests("tiny", "a" * 300, 20_000)
    load = Load(clients=24, seconds=4.0, hostile=0.3)
    tally = asyncio.run(run_load(server.url, load, questions_of(responder, 24), refused))
    assert tally.wrong == []
    assert tally.answered > 50
    counts = asyncio.run(until_idle(server.url))
    assert (counts["medtune_batch_rows"], counts["medtune_queue_rows"]) == (0, 0)
    assert counts["medtune_model_errors_total"] == 0
    assert counts["medtune_step_rows_total"] > 2 * counts["medtune_steps_total"]  # they did share steps

"""The running batch alone, turn by turn: no threads, no HTTP."""

from dataclasses import replace

import pytest
import torch

from medtune.generation import cache
from medtune.generation.decoding import Request
from medtune.generation.engine import TransformersEngine
from medtune.generation.sampling import prompt_seeds
from medtune.generation.settings import SamplingSettings
from medtune.serving.batcher import Batcher, Job
from medtune.serving.errors import Refusal

GREEDY = SamplingSettings(max_new_tokens=12)


class Client:
    """Submits one job and keeps what it receives."""

    def __init__(self, prompt, settings=GREEDY, **job):
        [seed] = prompt_seeds([prompt], settings.seed)
        self.tokens, self.end, self.prompt, self.settings = [], None, prompt, settings
        self.job = Job(Request(prompt, settings, seed), settings.max_new_tokens, self.receive, **job)

    def receive(self, tokens, end):
        assert self.end is None
        self.tokens += tokens
        self.end = end


@pytest.fixture(scope="module")
def engine(make_tiny_llama):
    return TransformersEngine(make_tiny_llama(scale=4.0).double(), stop_ids=[])


def batcher_of(engine, *, rows=4, tokens=10_000, queue=100):
    return Batcher(
        engine,
        max_rows=rows,
        max_tokens=tokens,
        max_queue=queue,
        call=lambda function, *given: function(*given),
    )


def prompts_of(*lengths):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(4, 128, (length,), generator=generator).tolist() for length in lengths]


def run(batcher, clients):
    turns = 0
    while any(client.end is None for client in clients):
        batcher.turn()
        turns += 1
        assert turns < 1000
    return turns


def due(engine, client):
    return engine.generate([client.prompt], client.settings)[0]


def test_rows_that_come_and_go_answer_as_they_do_alone(engine):
    """Forty of all lengths and settings over four places, ten of them late."""
    batcher = batcher_of(engine)
    clients = []
    for number, prompt in enumerate(prompts_of(*(3 + 7 * n % 60 for n in range(40)))):
        settings = replace(GREEDY, max_new_tokens=2 + number % 11, seed=number)
        if number % 3 == 1:
            settings = replace(settings, temperature=1.3, top_k=20)
        if number % 4 == 2:
            settings = replace(settings, repetition_penalty=1.5)
        clients.append(Client(prompt, settings, at_once=number % 5 == 0))
    batcher.submit([client.job for client in clients[:30]])
    for _ in range(25):
        batcher.turn()
    batcher.submit([client.job for client in clients[30:]])
    run(batcher, clients)
    assert [client.tokens for client in clients] == [due(engine, client) for client in clients]
    assert {client.end for client in clients} == {"length"}
    assert batcher.counts.rows > 2 * batcher.counts.steps
    assert (batcher.running, batcher.waiting) == ([], 0)


def test_first_come_first_served_even_where_a_later_one_would_fit(engine):
    batcher = batcher_of(engine, rows=2)
    clients = [Client(prompt) for prompt in prompts_of(5, 5, 5, 5)]
    batcher.submit([client.job for client in clients])
    batcher.turn()
    assert batcher.running == [clients[0].job, clients[1].job]
    wide = Client(prompts_of(100)[0])
    narrow = batcher_of(engine, tokens=150)
    narrow.submit([clients[2].job, wide.job, clients[3].job])
    narrow.turn()
    assert (narrow.running, narrow.waiting) == ([clients[2].job], 2)
    run(narrow, [clients[2], clients[3], wide])
    assert wide.tokens == due(engine, wide)


def test_a_batch_keeps_to_its_tokens_but_a_row_alone_has_always_a_place(engine):
    batcher = batcher_of(engine, tokens=60)
    clients = [Client(prompt) for prompt in prompts_of(8, 8, 8, 100)]
    batcher.submit([client.job for client in clients])
    batcher.turn()
    assert len(batcher.running) == 3  # 3 rows of 8 + 12 tokens
    run(batcher, clients)
    assert [client.tokens for client in clients] == [due(engine, client) for client in clients]


def test_a_cancelled_row_gives_its_place_to_the_next_at_the_next_step(engine):
    batcher = batcher_of(engine, rows=1)
    first, second, third = clients = [Client(prompt) for prompt in prompts_of(5, 6, 7)]
    batcher.submit([client.job for client in clients])
    batcher.turn()
    batcher.cancel(second.job)
    batcher.cancel(first.job)
    batcher.turn()
    assert (batcher.running, batcher.waiting) == ([third.job], 0)
    run(batcher, [third])
    assert (first.end, second.tokens, third.tokens) == (None, [], due(engine, third))
    assert batcher.counts.cancelled == 1


def test_a_queue_takes_all_of_a_request_or_nothing(engine):
    batcher = batcher_of(engine, queue=2)
    clients = [Client(prompt) for prompt in prompts_of(*[5] * 6)]
    batcher.submit([clients[0].job])
    with pytest.raises(Refusal, match="1 answers wait already, of at most 2") as caught:
        batcher.submit([clients[1].job, clients[2].job])
    assert (caught.value.status, batcher.waiting) == (429, 1)
    batcher.cancel(clients[0].job)
    batcher.submit([client.job for client in clients[3:]])  # an empty queue takes any request
    assert batcher.waiting == 3


def test_after_the_end_nothing_is_taken(engine):
    batcher = batcher_of(engine, rows=1)
    running, waiting = clients = [Client(prompt) for prompt in prompts_of(5, 5)]
    batcher.submit([client.job for client in clients])
    batcher.turn()
    batcher.run(lambda: True, seconds_to_end=30)
    assert (running.tokens, running.end) == (due(engine, running), "length")
    assert (waiting.tokens, waiting.end.code) == ([], "stopping")
    with pytest.raises(Refusal, match="shutting down"):
        batcher.submit([waiting.job])


def test_where_rows_cannot_join_one_batch_follows_another():
    """A cache with a sliding window holds only its last columns."""
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    model = MistralForCausalLM(
        MistralConfig(
            vocab_size=128, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, sliding_window=8, max_position_embeddings=256,
        )
    ).double().eval()  # fmt: skip
    engine = TransformersEngine(model, stop_ids=[])
    batcher = batcher_of(engine)
    clients = [
        Client(prompt, replace(GREEDY, max_new_tokens=3 + number))
        for number, prompt in enumerate(prompts_of(5, 30, 12, 7, 20, 9, 14))
    ]
    batcher.submit([client.job for client in clients[:5]])
    batcher.turn()
    batcher.submit([client.job for client in clients[5:]])
    run(batcher, clients)
    assert [client.tokens for client in clients] == [due(engine, client) for client in clients]


def test_a_failure_at_letting_rows_go_costs_the_rows_but_not_the_batch(engine, monkeypatch):
    """Those that stay are copied for it, for which a full GPU has no room."""
    batcher = batcher_of(engine)
    short, long = (
        Client(prompt, replace(GREEDY, max_new_tokens=most))
        for prompt, most in zip(prompts_of(6, 7), (3, 9), strict=True)
    )
    batcher.submit([short.job, long.job])
    batcher.turn()
    with monkeypatch.context() as patch:
        patch.setattr(cache, "ROOM", -(10**6))  # columns fewer than none: there is no making room
        run(batcher, [short, long])
    assert (short.end, short.tokens) == ("length", due(engine, short))
    assert isinstance(long.end, Refusal)
    assert batcher.counts.errors == 1
    later = Client(prompts_of(5)[0])
    batcher.submit([later.job])
    run(batcher, [later])
    assert later.tokens == due(engine, later)

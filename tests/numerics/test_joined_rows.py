"""Rows that enter and leave a running batch, each against its answer alone."""

import pytest
import torch
from transformers import AutoConfig, MistralConfig, MistralForCausalLM

from medtune.generation.decoding import Decoding, Request
from medtune.generation.engine import TransformersEngine, eval_mode
from medtune.generation.settings import SamplingSettings
from medtune.models.network import network_class
from tests.numerics.networks import NETWORKS, SIZES

LENGTHS = (9, 2, 17, 1, 5, 30)
NEW_TOKENS = (12, 20, 5, 9, 16, 7)
SETTINGS = [
    SamplingSettings(max_new_tokens=32),
    SamplingSettings(max_new_tokens=32, temperature=1.5, seed=1),
    SamplingSettings(max_new_tokens=32, repetition_penalty=1.4),
    SamplingSettings(max_new_tokens=32, temperature=0.7, top_k=20, top_p=0.9, repetition_penalty=1.2),
    SamplingSettings(max_new_tokens=32),
    SamplingSettings(max_new_tokens=32, temperature=1.5, seed=1),
]

FAMILIES = ["baichuan_alibi", "baichuan_rotary", "bloom", "llama", "qwen2", "qwen3"]


def build(network):
    model_type, more = NETWORKS[network]
    config = AutoConfig.for_model(model_type, **SIZES, **more)
    torch.manual_seed(0)
    model = network_class(config)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6.0)  # a likeliest token that rounding cannot change
    return model.eval()


def requests():
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(1, 61, (length,), generator=generator).tolist() for length in LENGTHS]
    return [
        Request(prompt, settings, seed=place)
        for place, (prompt, settings) in enumerate(zip(prompts, SETTINGS, strict=True))
    ]


def answer_alone(model, request, tokens):
    decoding = Decoding(model, [request])
    return [decoding.step()[0] for _ in range(tokens)]


def answer_in_company(model, wanted):
    """Each request enters two steps after the one before it and leaves when it has its tokens."""
    answers = {place: [] for place in range(len(wanted))}
    running, places = None, []
    for step in range(100):
        if step % 2 == 0 and step // 2 < len(wanted):
            place = step // 2
            new = Decoding(model, [wanted[place]])
            answers[place] += new.step()
            if running is None or not len(running):
                running = new
            else:
                running.join(new)
            places.append(place)
        for place, token in zip(places, running.step(), strict=True):
            answers[place].append(token)
        kept = [row for row, place in enumerate(places) if len(answers[place]) < NEW_TOKENS[place]]
        if len(kept) < len(places):
            running.keep(kept)
            places = [places[row] for row in kept]
        if not places and step // 2 >= len(wanted):
            return [answers[place][: NEW_TOKENS[place]] for place in answers]
    raise AssertionError("the rows never ended")


@pytest.mark.parametrize("network", FAMILIES)
def test_a_row_answers_in_a_changing_batch_as_it_does_alone(network):
    model, wanted = build(network), requests()
    with eval_mode(model):
        alone = [answer_alone(model, *pair) for pair in zip(wanted, NEW_TOKENS, strict=True)]
        together = answer_in_company(model, wanted)
    assert together == alone
    assert len({tuple(answer[:4]) for answer in alone}) > 3  # else the rows could not be told apart


def test_columns_that_are_padding_everywhere_are_given_up():
    model, [short, long] = build("llama"), [requests()[3], requests()[5]]
    decoding = Decoding(model, [long, short])
    decoding.step()
    assert decoding.mask.shape[1] == 31
    decoding.keep([1])
    assert decoding.mask.shape[1] == 2
    assert decoding.cache.get_seq_length() == 1


def test_a_cache_that_forgets_columns_takes_no_one_in():
    config = MistralConfig(**SIZES | {"num_key_value_heads": 2}, sliding_window=4)
    model = MistralForCausalLM(config).eval()
    decodings = [Decoding(model, [request]) for request in requests()[:2]]
    for decoding in decodings:
        decoding.step()
    assert not decodings[0].can_join
    with pytest.raises(ValueError, match="only where a cache holds all their columns"):
        decodings[0].join(decodings[1])
    answers = TransformersEngine(model, []).generate([[1, 2, 3], [4]], SamplingSettings(max_new_tokens=9))
    assert [len(answer) for answer in answers] == [9, 9]


def answer_in_places(model, wanted):
    """Two places; whoever comes next takes that of a row that has ended, wider or narrower than the rest."""
    answers = {place: [] for place in range(len(wanted))}
    running = Decoding(model, wanted[:2])
    at, following = [0, 1], 2
    while any(len(answers[place]) < NEW_TOKENS[place] for place in answers):
        for place, token in zip(at, running.step(), strict=True):
            answers[place].append(token)
        for row, place in enumerate(at):
            if len(answers[place]) >= NEW_TOKENS[place] and following < len(wanted):
                new = Decoding(model, [wanted[following]])
                answers[following] += new.step()
                running.replace([row], new)
                at[row] = following
                following += 1
    return [answers[place][: NEW_TOKENS[place]] for place in answers]


@pytest.mark.parametrize("network", FAMILIES)
def test_a_row_in_the_place_of_another_answers_as_it_does_alone(network):
    model, wanted = build(network), requests()
    with eval_mode(model):
        alone = [answer_alone(model, *pair) for pair in zip(wanted, NEW_TOKENS, strict=True)]
        assert answer_in_places(model, wanted) == alone


def test_rows_are_replaced_only_between_steps():
    model, wanted = build("llama"), requests()
    with eval_mode(model):
        running, new = Decoding(model, wanted[:2]), Decoding(model, wanted[2:3])
        running.step()
        with pytest.raises(ValueError, match="only between steps"):
            running.replace([0], new)

"""Beam search on our batches against transformers' own ``generate`` on each prompt alone."""

import pytest
import torch

from medtune.config.schema import Config, ModelConfig
from medtune.generation.beams import beam_batches
from medtune.generation.engine import TransformersEngine
from medtune.generation.settings import SamplingSettings
from medtune.models.load import load_model
from medtune.runtime.hardware import PROJECT

PROMPTS = [[5, 6, 7, 8, 9], [9], [8] * 23, [9, 4, 77, 13], [7, 5, 7, 5, 7]]


def stops_of(model):
    """So many tokens that some answers end by themselves."""
    return list(range(3, model.config.vocab_size, 8))


def alone(model, prompt, **more):
    """The answer of transformers' generate, given all settings by itself, up to its stop token."""
    ids, stops = torch.tensor([prompt]), stops_of(model)
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, eos_token_id=stops, pad_token_id=0, **more
    )
    answer = output[0, len(prompt) :].tolist()
    return answer[: next((place for place, token in enumerate(answer) if token in stops), len(answer))]


def own_network(model_type, **more):
    """A native network with random weights, larger than usual so that rounding changes no order of beams."""
    torch.manual_seed(0)
    model = load_model(
        Config(
            model=ModelConfig(
                init="random",
                model_type=model_type,
                tokenizer=str(PROJECT / "data" / "sample" / "tokenizer"),
                hidden_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                **more,
            )
        ),
        for_training=False,
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5.0 if parameter.dim() > 1 else 1.0)
    return model


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(None, id="llama"),
        pytest.param(("baichuan", {"intermediate_size": 128}), id="baichuan_alibi"),
        pytest.param(("baichuan", {"intermediate_size": 128, "max_position_embeddings": 256}), id="baichuan"),
        pytest.param(("bloom", {}), id="bloom"),
    ],
)
def model(request, make_tiny_llama):
    return (
        make_tiny_llama(scale=4.0)
        if request.param is None
        else own_network(request.param[0], **request.param[1])
    )


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"num_beams": 3}, id="three"),
        pytest.param({"num_beams": 4, "length_penalty": 3.0}, id="long"),
        pytest.param({"num_beams": 2, "length_penalty": -2.0}, id="short"),
        pytest.param({"num_beams": 3, "repetition_penalty": 1.3}, id="penalty"),
    ],
)
def test_answers_are_those_of_transformers_for_each_prompt_alone(model, more):
    settings = SamplingSettings(max_new_tokens=16, **more)
    answers = TransformersEngine(model, stops_of(model)).generate(PROMPTS, settings)
    assert answers == [alone(model, prompt, max_new_tokens=16, **more) for prompt in PROMPTS]
    if more.get("length_penalty", 1) < 0:
        assert len({len(answer) for answer in answers}) > 1  # some have stopped by themselves


def test_beams_find_what_greedy_does_not(make_tiny_llama):
    model = make_tiny_llama(scale=4.0)
    engine = TransformersEngine(model, stops_of(model))
    greedy = engine.generate(PROMPTS, SamplingSettings(max_new_tokens=16))
    assert engine.generate(PROMPTS, SamplingSettings(max_new_tokens=16, num_beams=4)) != greedy


def test_the_models_own_settings_do_not_act_and_come_back(make_tiny_llama):
    model = make_tiny_llama(scale=4.0)
    settings = SamplingSettings(max_new_tokens=8, num_beams=3)
    expected = TransformersEngine(model, stops_of(model)).generate(PROMPTS, settings)
    model.generation_config.update(temperature=0.6, top_p=0.9, do_sample=True, repetition_penalty=2.0)
    own = model.generation_config
    assert TransformersEngine(model, stops_of(model)).generate(PROMPTS, settings) == expected
    assert model.generation_config is own


@pytest.mark.parametrize(
    ("lengths", "limits", "more", "batches"),
    [
        pytest.param([3, 9, 4], [4, 4, 4], {"batch_tokens": 26}, [[1], [2], [0]], id="a_row_is_its_beams"),
        pytest.param([3, 9, 4], [4, 4, 4], {"batch_tokens": 52}, [[1, 2], [0]], id="two_rows"),
        pytest.param([3, 9, 4], [4, 4, 3], {"batch_tokens": 999}, [[1, 0], [2]], id="one_limit_each"),
        pytest.param(
            [3, 9, 3],
            [4, 4, 4],
            {"batch_tokens": 999, "repetition_penalty": 2.0},
            [[1], [0, 2]],
            id="no_padding_under_a_penalty",
        ),
    ],
)
def test_batches_hold_the_beams_of_their_rows(lengths, limits, more, batches):
    assert list(beam_batches(lengths, limits, SamplingSettings(num_beams=2, **more))) == batches

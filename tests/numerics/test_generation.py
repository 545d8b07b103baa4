"""Batched decoding against transformers' own ``generate`` on each prompt alone."""

from functools import partial

import pytest
import torch

from medtune.config.schema import Config, ModelConfig
from medtune.generation.engine import TransformersEngine
from medtune.generation.settings import SamplingSettings
from medtune.models.load import load_model
from medtune.runtime.hardware import PROJECT

NO_STOP: list[int] = []


def prompts_of(lengths: list[int], vocabulary: int = 128) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(4, vocabulary, (length,), generator=generator).tolist() for length in lengths]


def transformers_greedy(model, prompt: list[int], max_new_tokens: int, **settings) -> list[int]:
    """What ``model.generate`` answers to the prompt alone, the stop token cut off."""
    settings.setdefault("eos_token_id", None)
    ids = torch.tensor([prompt])
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=max_new_tokens,
        pad_token_id=0,
        **settings,
    )
    answer = output[0, len(prompt) :].tolist()
    stop = settings["eos_token_id"]
    return answer[: answer.index(stop)] if stop in answer else answer


@pytest.fixture(scope="module")
def model(make_tiny_llama):
    # Weights eight times as large as transformers', so that rounding cannot change the likeliest token.
    return make_tiny_llama(scale=8.0)


@pytest.mark.parametrize(
    ("lengths", "batch_tokens"),
    [
        pytest.param([17], 1000, id="one_prompt"),
        pytest.param([1], 1000, id="one_token"),
        pytest.param([5, 40, 1, 23, 5, 64, 12], 10_000, id="one_batch_of_all_lengths"),
        pytest.param([5, 40, 1, 23, 5, 64, 12], 120, id="several_batches"),
        pytest.param([9, 3], 1, id="a_batch_holds_at_least_one_row"),
    ],
)
def test_greedy_tokens_equal_those_of_transformers_for_each_prompt_alone(model, lengths, batch_tokens):
    prompts = prompts_of(lengths)
    engine = TransformersEngine(model, NO_STOP)
    answers = engine.generate(prompts, SamplingSettings(max_new_tokens=24, batch_tokens=batch_tokens))
    assert answers == [transformers_greedy(model, prompt, 24) for prompt in prompts]


@pytest.mark.parametrize("penalty", [1.0, 1.2])
def test_rows_that_stop_early_leave_the_others_as_they_are(model, penalty):
    prompts = prompts_of([5, 40, 1, 23, 5, 64, 12, 30])
    more = {"repetition_penalty": penalty}
    stop = transformers_greedy(model, prompts[1], 24, **more)[6]
    expected = [transformers_greedy(model, prompt, 24, eos_token_id=stop, **more) for prompt in prompts]
    answers = TransformersEngine(model, [stop]).generate(prompts, SamplingSettings(max_new_tokens=24, **more))
    assert answers == expected
    assert len({len(answer) for answer in answers}) > 1  # else nothing has left early


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=128, n_embd=64, n_layer=2, n_head=4, n_positions=256))


def bloom():
    from transformers import BloomConfig, BloomForCausalLM

    return BloomForCausalLM(BloomConfig(vocab_size=128, hidden_size=64, n_layer=2, n_head=4))


def baichuan(**more):
    return load_model(
        Config(
            model=ModelConfig(
                init="random",
                model_type="baichuan",
                tokenizer=str(PROJECT / "data" / "sample" / "tokenizer"),
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                **more,
            )
        ),
        for_training=False,
    )


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(gpt2, id="learned_positions"),
        pytest.param(bloom, id="alibi_of_transformers"),
        pytest.param(baichuan, id="baichuan_alibi"),
        pytest.param(partial(baichuan, max_position_embeddings=256), id="baichuan_rotary"),
    ],
)
def test_every_kind_of_position_bears_the_padding(build):
    torch.manual_seed(0)
    model = build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8.0 if parameter.dim() > 1 else 1.0)
    prompts = prompts_of([5, 40, 1, 23])
    answers = TransformersEngine(model, NO_STOP).generate(prompts, SamplingSettings(max_new_tokens=16))
    assert answers == [transformers_greedy(model, prompt, 16) for prompt in prompts]


@pytest.mark.parametrize("penalty", [1.3, 4.0, 0.7])
def test_the_repetition_penalty_is_that_of_transformers(model, penalty):
    prompts = prompts_of([12, 3, 30])
    settings = SamplingSettings(max_new_tokens=24, repetition_penalty=penalty)
    answers = TransformersEngine(model, NO_STOP, pad_id=prompts[0][0]).generate(prompts, settings)
    assert answers == [
        transformers_greedy(model, prompt, 24, repetition_penalty=penalty) for prompt in prompts
    ]
    assert answers != TransformersEngine(model, NO_STOP).generate(
        prompts, SamplingSettings(max_new_tokens=24)
    )


def test_a_stream_gives_the_tokens_of_the_batch(model):
    prompts = prompts_of([12, 3, 30])
    stop = transformers_greedy(model, prompts[0], 24)[9]
    engine = TransformersEngine(model, [stop])
    for settings in (
        SamplingSettings(max_new_tokens=24),
        SamplingSettings(max_new_tokens=24, temperature=0.8),
    ):
        answers = engine.generate(prompts, settings)
        assert [list(engine.stream(prompt, settings)) for prompt in prompts] == answers


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="temperature"),
        pytest.param({"top_k": 4}, id="top_k"),
        pytest.param({"top_p": 0.6}, id="top_p"),
        pytest.param({"top_k": 20, "top_p": 0.6}, id="top_k_then_top_p"),
    ],
)
def test_samples_follow_the_distribution_of_transformers(settings):
    """20,000 draws against the softmax of transformers' warpers: total variation below 2 %.

    Exact frequencies would differ by about 1 % (12 tokens, 20,000 draws).
    """
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    from medtune.generation.sampling import sample

    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(0)) * 2
    warped = TemperatureLogitsWarper(1.5)(None, logits)
    if "top_k" in settings:
        warped = TopKLogitsWarper(settings["top_k"])(None, warped)
    if "top_p" in settings:
        warped = TopPLogitsWarper(settings["top_p"])(None, warped)
    draws = 20_000
    uniforms = torch.rand(draws, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tokens = sample(logits.expand(draws, -1), uniforms, SamplingSettings(temperature=1.5, **settings))
    frequencies = torch.bincount(tokens, minlength=12) / draws
    assert (frequencies - warped.softmax(-1)[0]).abs().sum() / 2 < 0.02
    assert not frequencies[warped[0].isinf()].any()

import logging

import pytest
import torch
from transformers import BloomConfig, LlamaConfig, PretrainedConfig

from medtune.generation.engine import TransformersEngine, eval_mode, length_sorted_batches
from medtune.generation.settings import SamplingSettings
from medtune.models.rope import context_length

PROMPTS = [[5, 6, 7], [9], [8, 8, 8, 8, 8, 8], [9], [7, 5]]


@pytest.fixture(scope="module")
def model(make_tiny_llama):
    return make_tiny_llama(scale=4.0)


@pytest.fixture
def engine(model):
    return TransformersEngine(model, stop_ids=[])


def test_no_prompts_no_answers(engine):
    assert engine.generate([], SamplingSettings()) == []


def test_answers_come_in_the_order_of_the_prompts(engine):
    settings = SamplingSettings(max_new_tokens=6)
    answers = engine.generate(PROMPTS, settings)
    assert answers[1] == answers[3]
    assert engine.generate(PROMPTS[::-1], settings) == answers[::-1]
    assert [len(answer) for answer in answers] == [6] * 5


def test_each_answer_is_reported_once_when_it_is_complete(engine):
    reported = {}
    answers = engine.generate(
        PROMPTS,
        SamplingSettings(max_new_tokens=6, batch_tokens=20),
        lambda row, ids: reported.update({row: ids}),
    )
    assert reported == dict(enumerate(answers))


def test_an_answer_ends_before_any_of_the_stop_tokens(model, engine):
    settings = SamplingSettings(max_new_tokens=20)
    [free] = engine.generate([[5, 6, 7]], settings)
    stops = [free[9], free[4]]
    [stopped] = TransformersEngine(model, stops).generate([[5, 6, 7]], settings)
    assert stopped == free[: min(free.index(stop) for stop in stops)]


def test_a_stop_token_at_once_gives_an_empty_answer(model, engine):
    settings = SamplingSettings(max_new_tokens=20)
    [free] = engine.generate([[5, 6, 7]], settings)
    assert TransformersEngine(model, [free[0]]).generate([[5, 6, 7]], settings) == [[]]


@pytest.mark.parametrize("more", [{}, {"top_k": 20}, {"top_p": 0.9}, {"repetition_penalty": 1.5}])
def test_samples_depend_on_the_seed_and_not_on_the_batch(engine, more):
    def answers(prompts, **settings):
        return engine.generate(
            prompts, SamplingSettings(max_new_tokens=12, temperature=2.0, **more, **settings)
        )

    together = answers(PROMPTS, seed=1)
    assert answers(PROMPTS, seed=1, batch_tokens=15) == together
    assert [answers([prompt], seed=1)[0] for prompt in PROMPTS[:3]] == together[:3]
    assert answers(PROMPTS, seed=2) != together
    assert together[1] != together[3]  # the same prompt twice


def test_each_token_is_drawn_anew(engine):
    """At a temperature that makes all tokens alike, one random number for all steps would repeat a token."""
    [answer] = engine.generate([[5]], SamplingSettings(max_new_tokens=12, temperature=1e6))
    assert len(set(answer)) > 6


def test_temperature_matters(engine):
    greedy = engine.generate(PROMPTS, SamplingSettings(max_new_tokens=12))
    cold = engine.generate(PROMPTS, SamplingSettings(max_new_tokens=12, temperature=1e-4))
    hot = engine.generate(PROMPTS, SamplingSettings(max_new_tokens=12, temperature=5.0))
    assert cold == greedy
    assert hot != greedy


def test_the_model_keeps_its_mode_and_dropout_does_not_act(model, engine):
    settings = SamplingSettings(max_new_tokens=6)
    expected = engine.generate(PROMPTS, settings)
    model.model.layers[0].self_attn.attention_dropout = 0.9
    model.train()
    model.model.layers[1].eval()
    try:
        assert engine.generate(PROMPTS, settings) == expected
        stream = engine.stream(PROMPTS[0], settings)
        assert next(stream) == expected[0][0]
        assert torch.is_grad_enabled()  # the caller's code runs between two tokens
        assert not torch.is_inference_mode_enabled()
        assert model.training
        assert model.model.layers[0].mlp.training
        assert not model.model.layers[1].mlp.training
    finally:
        model.model.layers[0].self_attn.attention_dropout = 0.0
        model.eval()


def fail_in_eval_mode(network: torch.nn.Module) -> None:
    with eval_mode(network):
        assert not any(module.training for module in network.modules())
        raise RuntimeError("inside")


def test_the_mode_comes_back_after_an_error():
    network = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Dropout())
    network[1].eval()
    with pytest.raises(RuntimeError, match="inside"):
        fail_in_eval_mode(network)
    assert [module.training for module in network.modules()] == [True, True, False]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        pytest.param([[5], []], "prompt 1 has no tokens", id="empty"),
        pytest.param([[5], [6] * 256], "prompt 1 has 256 tokens, but the model's context is 256", id="full"),
        pytest.param(
            [[5], [6] * 300], "prompt 1 has 300 tokens, but the model's context is 256", id="longer"
        ),
    ],
)
def test_a_prompt_that_cannot_be_answered_is_refused_with_its_number(engine, prompts, message):
    with pytest.raises(ValueError, match=message):
        engine.generate(prompts, SamplingSettings())
    with pytest.raises(ValueError, match=message.replace("prompt 1", "prompt 0")):
        next(engine.stream(prompts[1], SamplingSettings()))


def test_an_answer_ends_at_the_context_and_says_so(engine, caplog):
    with caplog.at_level(logging.WARNING, logger="medtune.generation.engine"):
        long, short = engine.generate([[6] * 250, [5]], SamplingSettings(max_new_tokens=20))
    assert (len(long), len(short)) == (6, 20)
    assert "1 of 2 prompts leave less than generate.max_new_tokens=20" in caplog.text
    [alone] = engine.generate([[5]], SamplingSettings(max_new_tokens=20))
    assert short == alone


def test_the_tokenizer_names_the_stop_and_padding_tokens(model, tiny_tokenizer):
    engine = TransformersEngine.from_tokenizer(model, tiny_tokenizer)
    assert engine.stop_ids == {tiny_tokenizer.eos_token_id}
    assert engine.pad_id == tiny_tokenizer.pad_token_id
    with_more = TransformersEngine.from_tokenizer(model, tiny_tokenizer, stop_ids=[5, 6])
    assert with_more.stop_ids == {tiny_tokenizer.eos_token_id, 5, 6}


@pytest.mark.parametrize(
    ("lengths", "limits", "batch_tokens", "batches"),
    [
        pytest.param([], [], 10, [], id="none"),
        pytest.param([3, 5, 4], [2, 2, 2], 21, [[1, 2, 0]], id="three_rows_of_seven"),
        pytest.param([3, 5, 4], [2, 2, 2], 20, [[1, 2], [0]], id="one_token_short"),
        pytest.param([3, 3, 3], [1, 1, 1], 1, [[0], [1], [2]], id="at_least_one_row"),
        pytest.param([9, 1, 1, 1], [1, 1, 1, 1], 10, [[0], [1, 2, 3]], id="width_of_the_own_batch"),
    ],
)
def test_batches_hold_rows_of_like_length(lengths, limits, batch_tokens, batches):
    assert list(length_sorted_batches(lengths, limits, batch_tokens)) == batches


@pytest.mark.parametrize(
    ("model_config", "context"),
    [
        pytest.param(LlamaConfig(max_position_embeddings=77), 77, id="rotary"),
        pytest.param(PretrainedConfig(model_max_length=88), 88, id="baichuan_13b"),
        pytest.param(BloomConfig(), None, id="not_said"),
    ],
)
def test_the_context_is_read_from_the_models_configuration(model_config, context):
    assert context_length(model_config) == context


def test_the_head_gets_the_last_column_in_one_piece(make_tiny_llama):
    """Of a view of several rows torch would make as many copies of the head's weight."""
    model, inputs = make_tiny_llama(), []
    model.lm_head.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    TransformersEngine(model, []).generate([[5, 6, 7], [8, 9]], SamplingSettings(max_new_tokens=3))
    assert [tuple(hidden.shape[:2]) for hidden in inputs] == [(2, 1)] * 3
    assert all(hidden.is_contiguous() for hidden in inputs)

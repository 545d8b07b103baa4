"""Continuations scored over a shared prompt against a plain forward of each whole sequence."""

import pytest
import torch

from medtune.config.schema import Config, ModelConfig
from medtune.generation.engine import TransformersEngine
from medtune.generation.likelihood import log_likelihoods
from medtune.models.load import load_model
from medtune.runtime.hardware import PROJECT
from tests.numerics.networks import NETWORKS


def build(name: str):
    """A tiny float32 model with weights large enough that positions and padding matter."""
    model_type, more = NETWORKS[name]
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    if model_type != "bloom":
        sizes["intermediate_size"] = 96
    known = {key: value for key, value in more.items() if key in ModelConfig.__dataclass_fields__}
    config = Config(
        model=ModelConfig(
            init="random",
            model_type=model_type,
            tokenizer=str(PROJECT / "data" / "sample" / "tokenizer"),
            architecture={key: value for key, value in more.items() if key not in known},
            **sizes,
            **known,
        )
    )
    torch.manual_seed(0)
    model = load_model(config, for_training=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6.0 if parameter.dim() > 1 else 1.0)
    return model.eval()


def plain(model, prompt: list[int], continuation: list[int]) -> float:
    """One forward over the whole sequence, without padding, mask or cache."""
    ids = torch.tensor([[*prompt, *continuation]])
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0].double()
    predicted = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return float(predicted.gather(1, ids[0, len(prompt) :, None]).sum())


def sequences(lengths: list[int], seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(4, 60, (length,), generator=generator).tolist() for length in lengths]


PROMPTS = sequences([9, 1, 23, 5], 1)
OPTIONS = [
    sequences([1, 1, 1], 2),  # letters alone: nothing but the prompt is read
    sequences([3], 3),
    sequences([1, 5, 2, 5], 4),
    sequences([2, 1], 5),
]


@pytest.mark.parametrize("batch_tokens", [1, 80, 10_000], ids=["one_by_one", "several_batches", "one_batch"])
@pytest.mark.parametrize("network", ["llama", "baichuan_alibi", "baichuan2_rotary", "bloom", "qwen3"])
def test_every_continuation_scores_as_in_a_plain_forward(network, batch_tokens):
    model = build(network)
    found = log_likelihoods(TransformersEngine(model, []), PROMPTS, OPTIONS, batch_tokens)
    due = [[plain(model, p, o) for o in options] for p, options in zip(PROMPTS, OPTIONS, strict=True)]
    for values, expected in zip(found, due, strict=True):
        assert values == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert len({round(value) for values in found for value in values}) > 5  # else nothing is told apart


def test_a_trained_prompt_stands_before_each(make_tiny_llama):
    from medtune.models.soft_prompt import add_prompt

    model = make_tiny_llama(scale=4.0)
    config = Config()
    config.adapter.num_virtual_tokens = 3
    add_prompt(model, config)
    virtual = [128, 129, 130]
    [found] = log_likelihoods(TransformersEngine(model, []), PROMPTS[:1], [[[7, 8], [9]]], 1000)
    due = [plain(model, virtual + PROMPTS[0], option) for option in ([7, 8], [9])]
    assert found == pytest.approx(due, rel=1e-5, abs=1e-5)
    full = [5] * (256 - len(virtual) - 1)  # the context to its last position
    [[last]] = log_likelihoods(TransformersEngine(model, []), [full], [[[7]]], 1000)
    assert last == pytest.approx(plain(model, virtual + full, [7]), rel=1e-5, abs=1e-5)


def test_all_continuations_of_a_token_share_out_the_probability(make_tiny_llama):
    engine = TransformersEngine(make_tiny_llama(scale=4.0), [])
    [found] = log_likelihoods(engine, [[5, 6]], [[[token] for token in range(128)]], 1000)
    assert torch.tensor(found).exp().sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("prompt", "option", "message"),
    [
        ([], [5], "prompt 0 or a continuation of it has no tokens"),
        ([5], [], "prompt 0 or a continuation of it has no tokens"),
        ([5] * 250, [6] * 7, "have 257 tokens, but the model's context is 256"),
    ],
)
def test_what_cannot_be_scored_is_refused(make_tiny_llama, prompt, option, message):
    engine = TransformersEngine(make_tiny_llama(), [])
    with pytest.raises(ValueError, match=message):
        log_likelihoods(engine, [prompt], [[option]], 1000)

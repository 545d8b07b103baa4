"""transformers' continuous batching against our own batches, small enough for a CPU."""

from inspect import signature

import pytest
from transformers import ContinuousBatchingConfig

from medtune.generation.continuous import ContinuousEngine, refusal
from medtune.generation.engine import TransformersEngine
from medtune.generation.settings import SamplingSettings

PROMPTS = [[5, 6, 7], [9], [8] * 20, [4, 77, 9], [9]]
# Older transformers call a page a block.
PAGE = "page_size" if "page_size" in signature(ContinuousBatchingConfig).parameters else "block_size"
SMALL = {"num_blocks": 16, PAGE: 32, "max_batch_tokens": 64}


def test_greedy_answers_are_those_of_our_batches(make_tiny_llama):
    model = make_tiny_llama(scale=4.0)
    settings = SamplingSettings(max_new_tokens=12)
    free = TransformersEngine(model, []).generate(PROMPTS, settings)
    stops = [free[2][6]]
    model.generation_config.update(max_new_tokens=3, do_sample=True, temperature=5.0)  # must not act
    reported = {}
    answers = ContinuousEngine(model, stops, more=SMALL).generate(
        PROMPTS, settings, lambda row, ids: reported.update({row: ids})
    )
    assert answers == TransformersEngine(model, stops).generate(PROMPTS, settings)
    assert reported == dict(enumerate(answers))
    assert len({len(answer) for answer in answers}) > 1


@pytest.mark.parametrize(
    ("family", "device", "message"),
    [
        pytest.param("llama", "cuda", None, id="a_gpu"),
        pytest.param("llama", "cpu", "needs a GPU", id="no_gpu"),
        pytest.param("baichuan", "cuda", "its network here has its own attention", id="alibi"),
        pytest.param("bloom", "cuda", "its network here has its own attention", id="bloom"),
    ],
)
def test_what_cannot_be_batched_so_is_refused(family, device, message):
    found = refusal(family, device)
    assert (found is None) == (message is None)
    assert message is None or message in found

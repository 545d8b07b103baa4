"""Calls to vLLM, against a stand-in with the signatures and checks of its 0.33 (vLLM itself was not run)."""

import sys
import types
from dataclasses import dataclass, field
from typing import Any, TypedDict

import pytest

from medtune.generation import vllm as module
from medtune.generation.engine import TransformersEngine
from medtune.generation.sampling import prompt_seeds
from medtune.generation.settings import SamplingSettings
from medtune.generation.vllm import VllmEngine, model_folder
from medtune.runtime.errors import ConfigError

PROMPTS = [[5, 6, 7], [9], [8] * 20, [9]]


@dataclass
class SamplingParams:
    """The fields that are used, with their defaults and checks (vllm/sampling_params.py)."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    detokenize: bool = True

    def __post_init__(self):
        assert 0 < self.top_p <= 1
        assert self.top_k >= -1
        assert self.repetition_penalty > 0
        assert self.temperature >= 0
        assert self.max_tokens is None or self.max_tokens >= 1
        assert all(type(token) is int for token in self.stop_token_ids or [])


class TokensPrompt(TypedDict):
    prompt_token_ids: list[int]


@dataclass
class Output:
    outputs: list[Any]


@dataclass
class Completion:
    token_ids: tuple[int, ...]
    finish_reason: str


@dataclass
class LLM:
    """Answers with a network of ours; as vLLM, it ends an answer with the stop token in ``token_ids``."""

    model: str
    dtype: str = "auto"
    skip_tokenizer_init: bool = False
    trust_remote_code: bool = False
    generation_config: str = "auto"
    tensor_parallel_size: int = 1
    max_model_len: int | None = None
    calls: list[Any] = field(default_factory=list)
    network: Any = None

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True, lora_request=None):
        assert len(prompts) == len(sampling_params)
        assert use_tqdm is False
        assert lora_request is None
        self.calls.append((prompts, sampling_params))
        return [Output([self._complete(*pair)]) for pair in zip(prompts, sampling_params, strict=True)]

    def _complete(self, prompt, params):
        assert set(prompt) == {"prompt_token_ids"}
        assert params.ignore_eos  # else the folder's EOS would end answers too
        free = TransformersEngine(self.network, []).generate(
            [prompt["prompt_token_ids"]],
            SamplingSettings(max_new_tokens=params.max_tokens, repetition_penalty=params.repetition_penalty),
        )[0]
        stops = [place for place, token in enumerate(free) if token in params.stop_token_ids]
        return Completion(tuple(free[: stops[0] + 1] if stops else free), "stop" if stops else "length")


@pytest.fixture
def stand_in(monkeypatch):
    package, inputs = types.ModuleType("vllm"), types.ModuleType("vllm.inputs")
    package.LLM, package.SamplingParams, inputs.TokensPrompt = LLM, SamplingParams, TokensPrompt
    monkeypatch.setitem(sys.modules, "vllm", package)
    monkeypatch.setitem(sys.modules, "vllm.inputs", inputs)


@pytest.fixture
def engine(stand_in, make_tiny_llama):
    engine = VllmEngine("folder", "bfloat16", [17, 40, 90], 256, {"tensor_parallel_size": 2})
    engine.llm.network = make_tiny_llama(scale=4.0)
    return engine


def test_the_model_is_loaded_without_its_tokenizer_code_and_settings(engine):
    llm = engine.llm
    assert (llm.model, llm.dtype, llm.tensor_parallel_size) == ("folder", "bfloat16", 2)
    assert llm.skip_tokenizer_init
    assert not llm.trust_remote_code
    assert llm.generation_config == "vllm"


def test_answers_are_those_of_our_batches_and_come_in_order(engine, make_tiny_llama, monkeypatch):
    monkeypatch.setattr(module, "PROMPTS_AT_ONCE", 3)
    settings = SamplingSettings(max_new_tokens=16, repetition_penalty=1.2)
    reported = {}
    answers = engine.generate(PROMPTS, settings, lambda row, ids: reported.update({row: ids}))
    ours = TransformersEngine(make_tiny_llama(scale=4.0), [17, 40, 90]).generate(PROMPTS, settings)
    assert answers == ours
    assert reported == dict(enumerate(answers))
    assert [len(prompts) for prompts, _ in engine.llm.calls] == [3, 1]
    assert list(engine.stream(PROMPTS[0], settings)) == ours[0]


def test_a_greedy_rule_is_said_in_vllms_words(engine):
    engine.generate([[5, 6]], SamplingSettings(max_new_tokens=9, top_p=0.5, top_k=7))
    [(prompts, [params])] = engine.llm.calls
    assert prompts == [{"prompt_token_ids": [5, 6]}]
    assert params == SamplingParams(
        temperature=0.0, max_tokens=9, stop_token_ids=[17, 40, 90], ignore_eos=True, detokenize=False
    )


def test_each_prompt_is_sampled_from_its_own_seed(engine):
    settings = SamplingSettings(max_new_tokens=4, temperature=0.7, top_p=0.9, top_k=40, seed=3)
    engine.generate(PROMPTS, settings)
    [(_, params)] = engine.llm.calls
    assert [each.seed for each in params] == prompt_seeds(PROMPTS, 3)
    assert len({each.seed for each in params}) == len(PROMPTS)
    assert {(each.temperature, each.top_p, each.top_k) for each in params} == {(0.7, 0.9, 40)}
    engine.generate(PROMPTS[2:], settings, seeds=[11, 12])
    assert [each.seed for each in engine.llm.calls[1][1]] == [11, 12]


def test_an_answer_has_the_room_that_its_prompt_leaves(engine):
    engine.generate([[6] * 250, [6]], SamplingSettings(max_new_tokens=20))
    assert [each.max_tokens for each in engine.llm.calls[0][1]] == [6, 20]
    with pytest.raises(ValueError, match="prompt 0 has 256 tokens, but the model's context is 256"):
        engine.generate([[6] * 256], SamplingSettings(max_new_tokens=20))


def test_a_shorter_context_of_the_users_counts(stand_in):
    assert VllmEngine("folder", "auto", [], 256, {"max_model_len": 64}).context == 64
    assert VllmEngine("folder", "auto", [], None, {}).context is None


def test_what_vllm_cannot_load_is_refused(stand_in, tmp_path, monkeypatch):
    (tmp_path / "adapter_config.json").write_text("{}")
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="needs the package vllm"):
        model_folder(str(tmp_path), None, None)
    monkeypatch.setattr(module, "find_spec", lambda _: object())
    with pytest.raises(ConfigError, match="merge it first with 'python -m medtune task=export"):
        model_folder(str(tmp_path), None, None)
    (tmp_path / "adapter_config.json").unlink()
    assert model_folder(None, str(tmp_path), None) == str(tmp_path)

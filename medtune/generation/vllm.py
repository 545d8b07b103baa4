"""vLLM on a model's folder: prompts go there as ids, so that templates cannot differ."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medtune.generation.choices import Choices
from medtune.generation.decoding import up_to_stop
from medtune.generation.engine import OnDone, answer_limits, warn_of_short_room
from medtune.generation.sampling import prompt_seeds
from medtune.generation.settings import SamplingSettings
from medtune.models.folders import find_folder, is_adapter
from medtune.runtime.errors import ConfigError

PROMPTS_AT_ONCE = 1024
"""Prompts of one call. Answers are known at its end, so this is also what a killed process loses at most."""


class VllmEngine:
    """Decodes with vLLM's ``LLM``.

    Greedy answers may differ from those of other engines where two tokens are nearly as likely, since sums
    are taken in another order. Samples repeat for a prompt and seed, but are drawn with other numbers than
    those of :class:`medtune.generation.engine.TransformersEngine`.

    Args:
        folder: A whole model, as transformers reads it.
        dtype: Of ``model.dtype``; ``auto``: as the files have it.
        stop_ids: Tokens that end an answer.
        context: Most tokens of a prompt and its answer; None: the model does not say.
        more: Further arguments of ``vllm.LLM``.
    """

    def __init__(
        self,
        folder: str,
        dtype: str,
        stop_ids: Sequence[int],
        context: int | None,
        more: Mapping[str, Any],
    ) -> None:
        from vllm import LLM

        self.stop_ids = frozenset(stop_ids)
        self.context = min(filter(None, (context, more.get("max_model_len"))), default=None)
        self.llm = LLM(
            model=folder,
            dtype=dtype,
            skip_tokenizer_init=True,  # ids go in and come out
            trust_remote_code=False,
            generation_config="vllm",  # nothing from the folder's generation_config.json
            **more,
        )

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        settings: SamplingSettings,
        on_done: OnDone | None = None,
        *,
        seeds: Sequence[int] | None = None,
        choices: Sequence[Choices | None] | None = None,
    ) -> list[list[int]]:
        """See :meth:`medtune.generation.engine.Engine.generate`."""
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        assert choices is None, "the settings' rules refuse choices"
        limits = answer_limits(prompts, settings, self.context)
        warn_of_short_room(limits, settings, self.context)
        seeds = seeds or prompt_seeds(prompts, settings.seed)
        answers: list[list[int]] = []
        for start in range(0, len(prompts), PROMPTS_AT_ONCE):
            rows = range(start, min(start + PROMPTS_AT_ONCE, len(prompts)))
            outputs = self.llm.generate(
                [TokensPrompt(prompt_token_ids=list(prompts[row])) for row in rows],
                [
                    SamplingParams(**sampling_arguments(settings, limits[row], seeds[row], self.stop_ids))
                    for row in rows
                ],
                use_tqdm=False,
            )
            for row, output in zip(rows, outputs, strict=True):
                answers.append(up_to_stop(output.outputs[0].token_ids, self.stop_ids))
                if on_done is not None:
                    on_done(row, answers[-1])
        return answers

    def stream(self, prompt: Sequence[int], settings: SamplingSettings) -> Iterator[int]:
        """The tokens of one answer, all at its end."""
        yield from self.generate([prompt], settings)[0]


def sampling_arguments(
    settings: SamplingSettings, limit: int, seed: int, stop_ids: frozenset[int]
) -> dict[str, Any]:
    """The decoding rule of one prompt as arguments of ``vllm.SamplingParams``.

    Its ``ignore_eos`` leaves stopping to the ids that are named, the EOS among them.
    """
    return {
        "max_tokens": limit,
        "temperature": settings.temperature,
        "top_p": 1.0 if settings.is_greedy else settings.top_p,
        "top_k": 0 if settings.is_greedy else settings.top_k,
        "repetition_penalty": settings.repetition_penalty,
        "seed": None if settings.is_greedy else seed,
        "stop_token_ids": sorted(stop_ids),
        "ignore_eos": True,
        "detokenize": False,
    }


def model_folder(weights: str | None, path: str | None, revision: str | None) -> str:
    """The folder that vLLM is to load.

    Raises:
        ConfigError: The package is not installed, or the weights are an adapter.
    """
    if find_spec("vllm") is None:
        raise ConfigError(
            "generate.engine=vllm needs the package vllm: pip install 'medtune[vllm]', or set "
            "generate.engine=transformers"
        )
    folder = find_folder("model.path", str(path), revision) if weights is None else weights
    if is_adapter(Path(folder)):
        raise ConfigError(
            "generate.engine=vllm loads whole models, and the weights are an adapter: merge it first with "
            "'python -m medtune task=export weights=RUN_DIR export.output=FOLDER', and set weights=FOLDER"
        )
    return str(folder)

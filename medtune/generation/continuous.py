"""transformers' continuous batching: its pages, its scheduler, on a GPU."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from medtune.generation.choices import Choices
from medtune.generation.decoding import up_to_stop
from medtune.generation.engine import OnDone, answer_limits, eval_mode, warn_of_short_room
from medtune.generation.settings import SamplingSettings
from medtune.models.rope import context_length
from medtune.runtime.families import NATIVE_FAMILIES

if TYPE_CHECKING:  # peft costs seconds to import
    from peft import PeftModel

PROMPTS_AT_ONCE = 1024
"""Prompts of one call. Answers are known at its end, so this is also what a killed process loses at most."""


class ContinuousEngine:
    """Decodes with ``generate_batch``: rows enter and leave as pages of its cache are free.

    Samples are drawn from the seed and whatever rows run together: they repeat on the same machine with the
    same prompts, not in shares.

    Args:
        model: A causal language model on a GPU.
        stop_ids: Tokens that end an answer.
        pad_id: A token that no answer needs.
        more: Further arguments of ContinuousBatchingConfig, such as the size of its cache, which else takes
            most of the GPU's free memory.
    """

    def __init__(
        self,
        model: "PreTrainedModel | PeftModel",
        stop_ids: Sequence[int],
        pad_id: int = 0,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        unwrap = getattr(model, "get_base_model", None)
        self.network: Any = unwrap() if unwrap else model
        self.stop_ids = frozenset(stop_ids)
        self.pad_id = pad_id
        self.more = dict(more or {})
        self.context = context_length(self.network.config.get_text_config(decoder=True))

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        settings: SamplingSettings,
        on_done: OnDone | None = None,
        *,
        seeds: Sequence[int] | None = None,
        choices: Sequence[Choices | None] | None = None,
    ) -> list[list[int]]:
        """See :meth:`medtune.generation.engine.Engine.generate`; ``seeds`` are not used."""
        assert choices is None, "the settings' rules refuse choices"
        limits = answer_limits(prompts, settings, self.context)
        warn_of_short_room(limits, settings, self.context)
        answers: list[list[int]] = []
        with eval_mode(self.network):
            for start in range(0, len(prompts), PROMPTS_AT_ONCE):
                part = prompts[start : start + PROMPTS_AT_ONCE]
                found = self._answer([list(prompt) for prompt in part], settings)
                for row, tokens in enumerate(found, start):
                    answers.append(up_to_stop(tokens[: limits[row]], self.stop_ids))
                    if on_done is not None:
                        on_done(row, answers[-1])
        return answers

    def stream(self, prompt: Sequence[int], settings: SamplingSettings) -> Iterator[int]:
        """The tokens of one answer, all at its end."""
        yield from self.generate([prompt], settings)[0]

    def _answer(self, prompts: list[list[int]], settings: SamplingSettings) -> list[list[int]]:
        """Answers some prompts, in order.

        Raises:
            RuntimeError: One has no answer, which ``generate_batch`` itself only logs.
        """
        from transformers import ContinuousBatchingConfig

        outputs = self.network.generate_batch(
            inputs=prompts,
            generation_config=generation_config(settings, self.stop_ids, self.pad_id),
            continuous_batching_config=ContinuousBatchingConfig(seed=settings.seed, **self.more),
            progress_bar=False,
        )
        found = list(outputs.values())
        failed = [output.error for output in found if output.error is not None]
        if failed or len(found) != len(prompts):
            raise RuntimeError(
                f"continuous batching answered {len(found) - len(failed)} of {len(prompts)} prompts "
                f"({failed[0] if failed else 'its thread ended'}); set generate.engine=transformers"
            )
        return [list(output.generated_tokens) for output in found]


def refusal(family: str, device: str) -> str | None:
    """Why a network cannot be batched continuously here; None where it can."""
    fix = "set generate.engine=transformers"
    if family in NATIVE_FAMILIES:
        return (
            f"generate.engine=continuous with model_type={family}: its network here has its own attention, "
            f"which reads no cache of pages; {fix}"
        )
    return None if device == "cuda" else f"generate.engine=continuous needs a GPU; {fix}"


def generation_config(settings: SamplingSettings, stop_ids: frozenset[int], pad_id: int) -> Any:
    """The decoding rule in transformers' words, each said, so that the model's own fills nothing in."""
    from transformers import GenerationConfig

    drawn: dict[str, Any] = {}
    if not settings.is_greedy:
        drawn = {
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "top_k": settings.top_k,
        }
    return GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        do_sample=not settings.is_greedy,
        repetition_penalty=1.0,  # another is refused by the settings' rules: it would be dropped
        num_beams=1,
        eos_token_id=sorted(stop_ids) or -1,
        pad_token_id=pad_id,
        **drawn,
    )

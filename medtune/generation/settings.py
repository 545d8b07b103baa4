"""How answers are drawn from a model's logits."""

from dataclasses import dataclass

from medtune.config.schema import Config


@dataclass(frozen=True)
class SamplingSettings:
    """The decoding rule of one call; see :class:`medtune.config.schema.GenerateConfig` for the keys."""

    max_new_tokens: int = 256
    batch_tokens: int = 16384
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 42
    num_beams: int = 1
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        """Refuses values outside their range.

        Raises:
            ValueError: Names every such key with its value and range.
        """
        if problems := list(self._problems()):
            raise ValueError("; ".join(problems))

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is always taken; then ``top_p``, ``top_k`` and ``seed`` do nothing."""
        return self.temperature == 0

    def _problems(self) -> list[str]:
        rules = [
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("batch_tokens", self.batch_tokens >= 1, "at least 1"),
            ("temperature", self.temperature >= 0, "0 (greedy) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("top_k", self.top_k >= 0, "0 (all) or more"),
            ("repetition_penalty", self.repetition_penalty > 0, "above 0; 1 is off"),
            ("num_beams", self.num_beams >= 1, "at least 1"),
            ("num_beams", self.num_beams == 1 or self.is_greedy, "1 with a temperature above 0"),
        ]
        return [
            f"generate.{key}={getattr(self, key)} must be {range_}"
            for key, holds, range_ in rules
            if not holds
        ]


def sampling_settings(config: Config) -> SamplingSettings:
    """The settings of ``config.generate`` with the run's seed."""
    generate = config.generate
    shows_tokens = config.task in ("chat", "serve")  # as they come, which a search cannot
    return SamplingSettings(
        max_new_tokens=generate.max_new_tokens,
        batch_tokens=generate.batch_tokens,
        temperature=generate.temperature,
        top_p=generate.top_p,
        top_k=generate.top_k,
        repetition_penalty=generate.repetition_penalty,
        seed=config.seed,
        num_beams=1 if shows_tokens else generate.num_beams,
        length_penalty=generate.length_penalty,
    )

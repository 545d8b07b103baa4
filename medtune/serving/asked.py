"""What a client asks for: the bodies of the routes, read strictly into one form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medtune.data.examples import Turn
from medtune.generation.settings import SamplingSettings
from medtune.serving.errors import Refusal, wrong_field
from medtune.serving.fields import Fields, checked_text, show

MOST_STOPS, LONGEST_STOP = 16, 256
LARGEST_SEED = 2**63 - 1
UNSUPPORTED = "is not supported by this server; leave it out"
# Of OpenAI's fields: labels that bear on no answer.
LABELS = ("user", "metadata", "safety_identifier", "prompt_cache_key")
# Fields that are accepted at the values at which they ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0, 0.0),
    "presence_penalty": (0, 0.0),
    "logit_bias": ({},),
    "logprobs": (False,),
    "store": (False,),
    "service_tier": ("auto", "default"),
}
NEUTRAL_OF_CHAT: dict[str, tuple[Any, ...]] = {
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "reasoning_effort": (),
    "audio": (),
    "prediction": (),
}
NEUTRAL_OF_COMPLETIONS: dict[str, tuple[Any, ...]] = {"echo": (False,), "suffix": ("",), "best_of": (1,)}
# Keys of a message that some clients send back empty, as they got them.
EMPTY_IN_MESSAGES = (
    "name",
    "refusal",
    "audio",
    "annotations",
    "tool_calls",
    "function_call",
    "reasoning_content",
)
ROLES = {"system": "system", "developer": "system", "user": "prompt", "assistant": "response"}

Prompt = tuple[Turn, ...] | list[int]


@dataclass(frozen=True)
class Limits:
    """What a request may ask for, and what holds where it says nothing."""

    model: str
    defaults: SamplingSettings
    max_tokens: int
    """Most tokens of an answer."""
    max_choices: int
    """Most answers of one request."""
    vocabulary: int
    """Number of token ids."""

    @property
    def usual_tokens(self) -> int:
        """Most tokens of an answer where the request says nothing."""
        return min(self.defaults.max_new_tokens, self.max_tokens)


@dataclass(frozen=True)
class Asked:
    """A request, understood.

    Attributes:
        prompts: Conversations, or token ids.
        settings: With ``max_new_tokens`` as asked for or by default.
        wants_tokens: Whether the client named ``max_new_tokens``, so that it must fit the context.
        seed: None: another one each time.
        stops: Strings that end an answer.
        choices: Answers per prompt.
        is_stream: Whether answers are sent as they come.
        wants_usage: Whether a stream ends with the counts of tokens.
        field: Where the prompt was, for messages.
    """

    prompts: tuple[Prompt, ...]
    settings: SamplingSettings
    wants_tokens: bool = False
    seed: int | None = None
    stops: tuple[str, ...] = ()
    choices: int = 1
    is_stream: bool = False
    wants_usage: bool = False
    field: str = "messages"


def read_chat(values: Mapping[str, Any], limits: Limits) -> Asked:
    """The body of ``/v1/chat/completions``."""
    fields = Fields(values)
    check_model(fields, limits)
    prompt = read_messages(fields.take("messages"))
    asked = read_common(fields, limits, (prompt,), ("max_completion_tokens", "max_tokens"), NEUTRAL_OF_CHAT)
    fields.refuse_rest()
    return asked


def read_completion(values: Mapping[str, Any], limits: Limits) -> Asked:
    """The body of ``/v1/completions``."""
    fields = Fields(values)
    check_model(fields, limits)
    prompts = read_prompts(fields.take("prompt"), limits)
    asked = read_common(fields, limits, prompts, ("max_tokens",), NEUTRAL_OF_COMPLETIONS)
    fields.refuse_rest()
    return replace(asked, field="prompt")


def read_worker(values: Mapping[str, Any], limits: Limits) -> Asked:
    """The body of ``/worker_generate``: roles are User and Assistant."""
    fields = Fields(values)
    messages = fields.take("messages")
    if isinstance(messages, list):
        messages = [
            {**one, "role": one["role"].lower()}
            if isinstance(one, dict) and one.get("role") in ("User", "Assistant")
            else one
            for one in messages
        ]
    settings = replace(limits.defaults, max_new_tokens=limits.usual_tokens)
    asked = Asked((read_messages(messages),), settings, is_stream=fields.flag("stream"))
    fields.refuse_rest()
    return asked


def check_model(fields: Fields, limits: Limits) -> None:
    """Refuses every other model than the one that is served."""
    name = fields.text("model")
    if name != limits.model:
        raise Refusal(
            404,
            f"there is no model {show(name)}; this server has {limits.model}",
            param="model",
            code="model_not_found",
        )


def read_common(
    fields: Fields,
    limits: Limits,
    prompts: tuple[Prompt, ...],
    length_names: Sequence[str],
    neutral: Mapping[str, tuple[Any, ...]],
) -> Asked:
    """What chat and completions have in common."""
    for name, values in {**NEUTRAL, **neutral}.items():
        fields.refuse_unless(name, values, UNSUPPORTED)
    for name in LABELS:
        fields.take(name)
    wanted = read_length(fields, limits, length_names)
    defaults = limits.defaults
    settings = replace(
        defaults,
        max_new_tokens=wanted or limits.usual_tokens,
        temperature=fields.number("temperature", defaults.temperature, 0, 2),
        top_p=fields.number("top_p", defaults.top_p, 0, 1, above=True),
        top_k=fields.integer("top_k", defaults.top_k, 0, 2**31) or 0,
        repetition_penalty=fields.number(
            "repetition_penalty", defaults.repetition_penalty, 0, 100, above=True
        ),
    )
    choices = fields.integer("n", 1, 1, limits.max_choices) or 1
    if len(prompts) * choices > limits.max_choices:
        raise wrong_field(
            "n",
            f"asks for {len(prompts) * choices} answers; at most {limits.max_choices} at once are given",
        )
    is_stream = fields.flag("stream")
    return Asked(
        prompts,
        settings,
        wants_tokens=wanted is not None,
        seed=fields.integer("seed", None, -LARGEST_SEED, LARGEST_SEED),
        stops=read_stops(fields.take("stop")),
        choices=choices,
        is_stream=is_stream,
        wants_usage=read_stream_options(fields.take("stream_options"), is_stream=is_stream),
    )


def read_length(fields: Fields, limits: Limits, names: Sequence[str]) -> int | None:
    """Most tokens of the answer, by whichever name."""
    given = {name: fields.integer(name, None, 1, limits.max_tokens) for name in names}
    values = {value for value in given.values() if value is not None}
    if len(values) > 1:
        raise wrong_field(names[0], f"and {names[1]} say the same, and differ; send one of them")
    return values.pop() if values else None


def read_stops(value: Any) -> tuple[str, ...]:
    """One string or several."""
    if value is None:
        return ()
    stops = value if isinstance(value, list) else [value]
    if len(stops) > MOST_STOPS:
        raise wrong_field("stop", f"has {len(stops)} strings; at most {MOST_STOPS} are allowed")
    for index, stop in enumerate(stops):
        name = f"stop[{index}]" if isinstance(value, list) else "stop"
        checked_text(stop, name)
        if not 1 <= len(stop) <= LONGEST_STOP:
            raise wrong_field(name, f"must have 1 to {LONGEST_STOP} characters, found {len(stop)}")
    return tuple(dict.fromkeys(stops))


def read_stream_options(value: Any, *, is_stream: bool) -> bool:
    """Whether the counts of tokens are sent."""
    if value is None:
        return False
    if not isinstance(value, dict):
        raise wrong_field("stream_options", f"must be an object, found {show(value)}")
    if not is_stream:
        raise wrong_field("stream_options", "needs stream=true")
    fields = Fields(value, "stream_options.")
    wants_usage = fields.flag("include_usage")
    fields.refuse_unless("include_obfuscation", (False,), UNSUPPORTED)
    fields.refuse_rest()
    return wants_usage


def read_messages(value: Any) -> tuple[Turn, ...]:
    """A conversation: perhaps a system prompt, then user and assistant in turn, the user last."""
    if not isinstance(value, list) or not value:
        found = "nothing" if value is None else "none" if value == [] else show(value)
        raise wrong_field("messages", f"must be an array of messages, found {found}")
    turns = [read_message(message, f"messages[{index}]") for index, message in enumerate(value)]
    expected = "prompt"
    for index, turn in enumerate(turns):
        if turn.role == "system":
            if index:
                raise wrong_field(
                    f"messages[{index}].role", "is system; a system message may only be the first"
                )
        elif turn.role != expected:
            speaker = "user" if expected == "prompt" else "assistant"
            raise wrong_field(
                f"messages[{index}].role",
                f"must be {speaker}; user and assistant speak in turn, the user first",
            )
        else:
            expected = "response" if expected == "prompt" else "prompt"
    if turns[-1].role != "prompt":
        raise wrong_field("messages", "must end with a message of the user")
    return tuple(turns)


def read_message(value: Any, name: str) -> Turn:
    """One turn."""
    if not isinstance(value, dict):
        raise wrong_field(name, f"must be an object, found {show(value)}")
    fields = Fields(value, f"{name}.")
    role = fields.text("role")
    if role not in ROLES:
        raise wrong_field(f"{name}.role", f"must be one of {', '.join(ROLES)}, found {show(role)}")
    text = read_content(fields.take("content"), f"{name}.content")
    for key in EMPTY_IN_MESSAGES:
        fields.refuse_unless(key, ([], ""), UNSUPPORTED)
    fields.refuse_rest()
    return Turn(ROLES[role], text, learned=False)


def read_content(value: Any, name: str) -> str:
    """A message's text, or the texts of its parts."""
    if not isinstance(value, list):
        return checked_text(value, name)
    texts = []
    for index, part in enumerate(value):
        where = f"{name}[{index}]"
        if not isinstance(part, dict):
            raise wrong_field(where, f"must be an object, found {show(part)}")
        fields = Fields(part, f"{where}.")
        kind = fields.text("type")
        if kind != "text":
            raise wrong_field(f"{where}.type", f"is {show(kind)}; this model reads text only")
        texts.append(fields.text("text"))
        fields.refuse_rest()
    if not texts:
        raise wrong_field(name, "has no parts")
    return "".join(texts)


def read_prompts(value: Any, limits: Limits) -> tuple[Prompt, ...]:
    """Text to go on with, or token ids; one or several."""
    if isinstance(value, str):
        return (document(value, "prompt"),)
    if not isinstance(value, list) or not value:
        found = "nothing" if value is None else "none" if value == [] else show(value)
        raise wrong_field("prompt", f"must be a string, token ids, or an array of either, found {found}")
    if all(isinstance(one, int) and not isinstance(one, bool) for one in value):
        return (checked_ids(value, "prompt", limits),)
    return tuple(
        checked_ids(one, f"prompt[{index}]", limits)
        if isinstance(one, list)
        else document(one, f"prompt[{index}]")
        for index, one in enumerate(value)
    )


def document(value: Any, name: str) -> tuple[Turn, ...]:
    """A text as what the model goes on with."""
    return (Turn("text", checked_text(value, name), learned=False),)


def checked_ids(values: list[Any], name: str, limits: Limits) -> list[int]:
    """Token ids that the model has."""
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < limits.vocabulary:
            raise wrong_field(
                name, f"must hold token ids from 0 to {limits.vocabulary - 1}, found {show(value)}"
            )
    if not values:
        raise wrong_field(name, "is empty")
    return values

"""Templates: what each shipped one writes, what is learned of it, and what is refused."""

import pickle
import re
from collections.abc import Sequence

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from medtune.config.resolvers import CONF
from medtune.config.schema import TemplateConfig
from medtune.config.templates import template_problems
from medtune.data.examples import Example, Turn
from medtune.data.tokens.templates import Template
from medtune.data.tokens.vocabulary import Vocabulary
from medtune.runtime.errors import ConfigError

CONTROLS = {
    "<s>": 1,
    "</s>": 2,
    "<think>": 3,
    "</think>": 4,
    "<u>": 195,
    "<a>": 196,
    **{
        token: 300 + number
        for number, token in enumerate(
            [
                "<|im_start|>",
                "<|im_end|>",
                "<|endoftext|>",
                "<|system|>",
                "<|user|>",
                "<|assistant|>",
                "<|end|>",
                "[gMASK]",
                "sop",
                "<human>",
                "<bot>",
                "<eoh>",
                "<eoa>",
            ]
        )
    },
}
NAMES = {index: token for token, index in CONTROLS.items()}
FIRST_TEXT_ID = 1000
CODE_POINTS = 0x110000


def encode_pairs(texts: Sequence[str]) -> list[list[int]]:
    """An id for each two characters from a text's start: what is joined before encoding shows in the ids."""
    return [
        [
            FIRST_TEXT_ID + ord(text[i]) * CODE_POINTS + (ord(text[i + 1]) + 1 if i + 1 < len(text) else 0)
            for i in range(0, len(text), 2)
        ]
        for text in texts
    ]


def encode_with_own_space(texts: Sequence[str]) -> list[list[int]]:
    """An id for each character, with a space before every text, as sentencepiece's dummy prefix."""
    return [[FIRST_TEXT_ID + ord(letter) * CODE_POINTS for letter in " " + text] for text in texts]


def decode(ids: Sequence[int]) -> str:
    """The text of ids; a control token stands in double angle brackets, so that no text spells one."""
    pieces = []
    for index in ids:
        if index in NAMES:
            pieces.append(f"⟪{NAMES[index]}⟫")
            continue
        first, second = divmod(index - FIRST_TEXT_ID, CODE_POINTS)
        pieces.append(chr(first) + (chr(second - 1) if second else ""))
    return "".join(pieces)


def vocabulary(**changes: object) -> Vocabulary:
    values = {
        "name": "toy",
        "encode": encode_pairs,
        "ids": CONTROLS,
        "bos_id": 1,
        "eos_id": 2,
        "pad_id": 0,
        "special_tokens": {"bos_token": "<s>", "eos_token": "</s>"},
        "chat_template": None,
        "size": CODE_POINTS**2,
    }
    return Vocabulary(**{**values, **changes})  # type: ignore[arg-type]


def shipped(name: str) -> TemplateConfig:
    return TemplateConfig(**yaml.safe_load((CONF / "template" / f"{name}.yaml").read_text(encoding="utf-8")))


SHIPPED = sorted(path.stem for path in (CONF / "template").glob("*.yaml") if path.stem != "chat")


def turns_of(*texts: str, system: str | None = None, learned: Sequence[bool] = ()) -> tuple[Turn, ...]:
    """Prompts and responses in turn."""
    flags = iter([*learned] or [True] * len(texts))
    turns = [] if system is None else [Turn("system", system, learned=False)]
    for number, text in enumerate(texts):
        is_response = number % 2 == 1
        turns.append(Turn("response" if is_response else "prompt", text, is_response and next(flags)))
    return tuple(turns)


def encode(template: Template, turns: Sequence[Turn], **kwargs: bool):
    [encoded] = template.encode([Example(tuple(turns), "file", 1)], **kwargs)
    return encoded


def show(template: Template, turns: Sequence[Turn], **kwargs: bool) -> str:
    """The rendered text with what is learned between « and »; a relabelled token as ``⟪its=label⟫``."""
    encoded = encode(template, turns, **kwargs)
    relabels = dict(encoded.relabels)
    text, position = "", 0
    for start, end in [*encoded.spans, (len(encoded.input_ids),) * 2]:
        text += decode(encoded.input_ids[position:start])
        learned = ""
        for place in range(start, end):
            shown = decode([encoded.input_ids[place]])
            learned += shown.replace("⟫", f"={NAMES[relabels[place]]}⟫") if place in relabels else shown
        text += f"«{learned}»" if learned else ""
        position = end
    return text


CURIOUS = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions."
)
WRAPPER = "Write a response that appropriately completes the Input.\n\nInput:\n{}\n\nResponse:\n"

# Two rounds without and one with a system prompt, written from the formats' own descriptions.
RENDERINGS = {
    "plain": ("q1«a1⟪</s>⟫»q2«a2⟪</s>⟫»", "S\n\nq1«a1⟪</s>⟫»"),
    "promptcblue_en": (
        f"{WRAPPER.format('q1')}«a1⟪</s>⟫»{WRAPPER.format('q2')}«a2⟪</s>⟫»",
        f"S\n\n{WRAPPER.format('q1')}«a1⟪</s>⟫»",
    ),
    "human_assistant": (
        "Human: \nq1\n\nAssistant: \n«a1⟪</s>⟫»Human: \nq2\n\nAssistant: \n«a2⟪</s>⟫»",
        "S\n\nHuman: \nq1\n\nAssistant: \n«a1⟪</s>⟫»",
    ),
    "human_assistant_bos": (
        "Human: \nq1\n\nAssistant: \n«⟪<s>⟫a1⟪</s>⟫»Human: \nq2\n\nAssistant: \n«⟪<s>⟫a2⟪</s>⟫»",
        None,
    ),
    "user_assistant": (
        "User: q1⟪</s>⟫\n Assistant:« a1⟪</s>⟫»\n User: q2⟪</s>⟫\n Assistant:« a2⟪</s>⟫»",
        None,
    ),
    "llama2": (
        "⟪<s>⟫[INST] q1 [/INST]« a1 ⟪</s>⟫»⟪<s>⟫[INST] q2 [/INST]« a2 ⟪</s>⟫»",
        "⟪<s>⟫[INST] <<SYS>>\nS\n<</SYS>>\n\nq1 [/INST]« a1 ⟪</s>⟫»",
    ),
    "llama2_llamafactory": (
        "⟪<s>⟫[INST] q1 [/INST] «a1⟪</s>⟫»⟪<s>⟫[INST] q2 [/INST] «a2⟪</s>⟫»",
        "⟪<s>⟫[INST] <<SYS>>\nS\n<</SYS>>\n\nq1 [/INST] «a1⟪</s>⟫»",
    ),
    "llama2_zh": (
        "⟪<s>⟫[INST] q1 [/INST] «a1⟪</s>⟫»⟪<s>⟫[INST] q2 [/INST] «a2⟪</s>⟫»",
        "⟪<s>⟫[INST] <<SYS>>\nS\n<</SYS>>\n\nq1 [/INST] «a1⟪</s>⟫»",
    ),
    "vanilla": ("⟪<s>⟫q1«a1⟪</s>⟫»⟪<s>⟫q2«a2⟪</s>⟫»", None),
    "default": (
        "⟪<s>⟫Human: q1\nAssistant: «a1⟪</s>⟫»\n⟪<s>⟫Human: q2\nAssistant: «a2⟪</s>⟫»",
        "⟪<s>⟫S\nHuman: q1\nAssistant: «a1⟪</s>⟫»",
    ),
    "alpaca": (
        "⟪<s>⟫### Instruction:\nq1\n\n### Response:\n«a1⟪</s>⟫»"
        "\n\n⟪<s>⟫### Instruction:\nq2\n\n### Response:\n«a2⟪</s>⟫»",
        "⟪<s>⟫S\n\n### Instruction:\nq1\n\n### Response:\n«a1⟪</s>⟫»",
    ),
    "vicuna": (
        "⟪<s>⟫USER: q1 ASSISTANT:« a1⟪</s>⟫»USER: q2 ASSISTANT:« a2⟪</s>⟫»",
        "⟪<s>⟫S USER: q1 ASSISTANT:« a1⟪</s>⟫»",
    ),
    "vicuna_llamafactory": (
        "⟪<s>⟫USER: q1 ASSISTANT: «a1⟪</s>⟫»⟪<s>⟫USER: q2 ASSISTANT: «a2⟪</s>⟫»",
        "⟪<s>⟫SUSER: q1 ASSISTANT: «a1⟪</s>⟫»",
    ),
    "belle": (
        "⟪<s>⟫Human: q1\n\nBelle: «a1⟪</s>⟫»\n\n⟪<s>⟫Human: q2\n\nBelle: «a2⟪</s>⟫»",
        "⟪<s>⟫S\n\nHuman: q1\n\nBelle: «a1⟪</s>⟫»",
    ),
    "linly": (
        "⟪<s>⟫User: q1\nBot: «a1⟪</s>⟫»\n⟪<s>⟫User: q2\nBot: «a2⟪</s>⟫»",
        "⟪<s>⟫S\nUser: q1\nBot: «a1⟪</s>⟫»",
    ),
    "billa": (
        "⟪<s>⟫Human: q1\nAssistant: «a1⟪</s>⟫»\n⟪<s>⟫Human: q2\nAssistant: «a2⟪</s>⟫»",
        "⟪<s>⟫S\nHuman: q1\nAssistant: «a1⟪</s>⟫»",
    ),
    "ziya": (
        "⟪<s>⟫⟪<human>⟫:q1\n⟪<bot>⟫:«a1⟪</s>⟫»\n⟪<s>⟫⟪<human>⟫:q2\n⟪<bot>⟫:«a2⟪</s>⟫»",
        "⟪<s>⟫S\n⟪<human>⟫:q1\n⟪<bot>⟫:«a1⟪</s>⟫»",
    ),
    "aquila": (
        "⟪<s>⟫Human: q1###Assistant: «a1⟪</s>⟫»###⟪<s>⟫Human: q2###Assistant: «a2⟪</s>⟫»",
        "⟪<s>⟫S###Human: q1###Assistant: «a1⟪</s>⟫»",
    ),
    "intern": (
        "⟪<s>⟫<|User|>:q1⟪<eoh>⟫\n<|Bot|>:«a1⟪</s>⟫»\n⟪<s>⟫<|User|>:q2⟪<eoh>⟫\n<|Bot|>:«a2⟪</s>⟫»",
        "⟪<s>⟫S\n<|User|>:q1⟪<eoh>⟫\n<|Bot|>:«a1⟪</s>⟫»",
    ),
    "baichuan": ("⟪<u>⟫q1⟪<a>⟫«a1⟪<u>=</s>⟫»q2⟪<a>⟫«a2⟪</s>⟫»", "S⟪<u>⟫q1⟪<a>⟫«a1⟪</s>⟫»"),
    "baichuan2": ("⟪<u>⟫q1⟪<a>⟫«a1⟪<u>=</s>⟫»q2⟪<a>⟫«a2⟪</s>⟫»", "S⟪<u>⟫q1⟪<a>⟫«a1⟪</s>⟫»"),
    "baichuan_llamafactory": ("⟪<u>⟫q1⟪<a>⟫«a1⟪<u>⟫»q2⟪<a>⟫«a2⟪<u>⟫»", "S⟪<u>⟫q1⟪<a>⟫«a1⟪<u>⟫»"),
    "starchat": (
        "⟪<|system|>⟫\n⟪<|end|>⟫\n⟪<|user|>⟫\nq1⟪<|end|>⟫\n⟪<|assistant|>⟫«a1⟪<|end|>⟫»"
        "\n⟪<|user|>⟫\nq2⟪<|end|>⟫\n⟪<|assistant|>⟫«a2⟪<|end|>⟫»",
        "⟪<|system|>⟫\nS⟪<|end|>⟫\n⟪<|user|>⟫\nq1⟪<|end|>⟫\n⟪<|assistant|>⟫«a1⟪<|end|>⟫»",
    ),
    "chatml": (
        "⟪<|im_start|>⟫user\nq1⟪<|im_end|>⟫\n⟪<|im_start|>⟫assistant\n«a1⟪<|im_end|>⟫»\n"
        "⟪<|im_start|>⟫user\nq2⟪<|im_end|>⟫\n⟪<|im_start|>⟫assistant\n«a2⟪<|im_end|>⟫»",
        "⟪<|im_start|>⟫system\nS⟪<|im_end|>⟫\n"
        "⟪<|im_start|>⟫user\nq1⟪<|im_end|>⟫\n⟪<|im_start|>⟫assistant\n«a1⟪<|im_end|>⟫»",
    ),
    "qwen": (
        "⟪<|im_start|>⟫user\nq1⟪<|im_end|>⟫\n⟪<|im_start|>⟫assistant\n«a1⟪<|im_end|>⟫»\n"
        "⟪<|im_start|>⟫user\nq2⟪<|im_end|>⟫\n⟪<|im_start|>⟫assistant\n«a2⟪<|im_end|>⟫»",
        "⟪<|im_start|>⟫system\nS⟪<|im_end|>⟫\n"
        "⟪<|im_start|>⟫user\nq1⟪<|im_end|>⟫\n⟪<|im_start|>⟫assistant\n«a1⟪<|im_end|>⟫»",
    ),
    "chatglm2": (
        "⟪[gMASK]⟫⟪sop⟫[Round 1]\n\n问：q1\n\n答：«a1⟪</s>⟫»\n\n[Round 2]\n\n问：q2\n\n答：«a2⟪</s>⟫»",
        "⟪[gMASK]⟫⟪sop⟫S\n\n[Round 1]\n\n问：q1\n\n答：«a1⟪</s>⟫»",
    ),
}

# What ends a generated answer, by template.
STOPS = {
    "baichuan_llamafactory": ["<u>"],
    "starchat": ["<|end|>"],
    "chatml": ["<|im_end|>"],
    "qwen": ["<|im_end|>", "<|endoftext|>"],
    "intern": ["</s>", "<eoa>"],
}


def test_every_shipped_template_has_its_rendering_here():
    assert sorted(RENDERINGS) == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_two_rounds_are_written_and_learned_as_the_format_has_them(name):
    template = Template(shipped(name), vocabulary())
    assert show(template, turns_of("q1", "a1", "q2", "a2", system="")) == RENDERINGS[name][0]


@pytest.mark.parametrize("name", [name for name in SHIPPED if RENDERINGS[name][1]])
def test_a_system_prompt_comes_first(name):
    template = Template(shipped(name), vocabulary())
    assert show(template, turns_of("q1", "a1", system="S")) == RENDERINGS[name][1]


def test_a_system_prompt_within_the_first_prompt_is_not_repeated():
    template = Template(shipped("llama2"), vocabulary())
    assert show(template, turns_of("q1", "a1", "q2", "a2", system="S")) == (
        f"{RENDERINGS['llama2'][1]}⟪<s>⟫[INST] q2 [/INST]« a2 ⟪</s>⟫»"
    )


@pytest.mark.parametrize("name", [name for name in SHIPPED if not RENDERINGS[name][1]])
def test_a_system_prompt_without_a_place_is_refused_with_file_and_line(name):
    template = Template(shipped(name), vocabulary())
    with pytest.raises(ValueError, match=rf"^file:1: a system prompt, but template={name} has no place"):
        encode(template, turns_of("q1", "a1", system="S"))


@pytest.mark.parametrize("name", SHIPPED)
def test_what_ends_an_answer(name):
    stops = [NAMES[index] for index in Template(shipped(name), vocabulary()).stop_ids]
    assert stops == STOPS.get(name, ["</s>"])


def test_a_token_that_is_learned_as_the_end_ends_an_answer():
    config = TemplateConfig(prompt=[{"id": 195, "label": "<eoa>"}, "{prompt}"], response=["{response}"])
    assert Template(config, vocabulary()).stop_ids == (CONTROLS["<eoa>"],)


@pytest.mark.parametrize(
    ("name", "system"),
    [("chatml", "You are a helpful assistant."), ("vicuna", CURIOUS), ("default", CURIOUS), ("llama2", None)],
)
def test_the_default_system_prompt_stands_where_the_conversation_has_none(name, system):
    template = Template(shipped(name), vocabulary())
    assert show(template, turns_of("q", "a")) == show(template, turns_of("q", "a", system=system or ""))
    assert (system or "q") in show(template, turns_of("q", "a"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain", "«abc⟪</s>⟫»"),
        ("vicuna", "⟪<s>⟫«abc⟪</s>⟫»"),
        ("qwen", "«abc⟪<|endoftext|>⟫»"),
        ("chatml", "«abc⟪</s>⟫»"),
    ],
)
def test_a_document_has_no_speakers_and_no_default_system_prompt(name, expected):
    template = Template(shipped(name), vocabulary())
    document = (Turn("text", "abc", learned=True),)
    assert show(template, document) == expected
    [ids] = template.prompts_ids([document])
    assert decode(ids) == expected.replace("«", "").partition("abc")[0] + "abc"


def test_turns_that_are_not_learned_are_not():
    template = Template(shipped("baichuan"), vocabulary())
    texts = ("q1", "a1", "q2", "a2", "q3", "a3")
    assert (
        show(template, turns_of(*texts, learned=[False, True, False]))
        == "⟪<u>⟫q1⟪<a>⟫a1⟪<u>⟫q2⟪<a>⟫«a2⟪<u>=</s>⟫»q3⟪<a>⟫a3⟪</s>⟫"
    )
    plain = Template(shipped("chatml"), vocabulary())
    last = encode(plain, turns_of(*texts, learned=[False, False, True]))
    assert decode(last.input_ids[slice(*last.spans[0])]) == "a3⟪<|im_end|>⟫"
    assert len(last.spans) == 1


def test_relabelled_positions_are_counted_by_the_spans():
    encoded = encode(Template(shipped("baichuan2"), vocabulary()), turns_of("q1", "a1", "q2", "a2"))
    assert encoded.relabels == [(encoded.input_ids.index(195, 1), 2)]
    assert sum(end - start for start, end in encoded.spans) == len(encode_pairs(["a1", "a2"])) + 2


@pytest.mark.parametrize(
    ("response", "with_thinking", "without"),
    [
        pytest.param(
            "<think>\nhm\n</think>\n\na",
            "«⟪<think>⟫\nhm\n⟪</think>⟫\n\na⟪</s>⟫»",
            "⟪<think>⟫\nhm\n⟪</think>⟫\n\n«a⟪</s>⟫»",
            id="reasoning",
        ),
        pytest.param("<think>\n\n</think>\n\na", *["⟪<think>⟫\n\n⟪</think>⟫\n\n«a⟪</s>⟫»"] * 2, id="empty"),
        pytest.param("<think> </think>a", *["⟪<think>⟫ ⟪</think>⟫«a⟪</s>⟫»"] * 2, id="white_space"),
        pytest.param("<think>hm", "«⟪<think>⟫hm⟪</s>⟫»", "⟪<think>⟫hm⟪</s>⟫", id="without_an_end"),
        pytest.param("<think>\n", *["⟪<think>⟫\n⟪</s>⟫"] * 2, id="begun"),
        pytest.param("\n<think>h</think>", "«\n⟪<think>⟫h⟪</think>⟫⟪</s>⟫»", None, id="without_an_answer"),
        pytest.param("a<think>hm</think>b", *["«a<think>hm</think>b⟪</s>⟫»"] * 2, id="later"),
        pytest.param(
            "<think>a</think>b<think>c</think>",
            "«⟪<think>⟫a⟪</think>⟫b<think>c</think>⟪</s>⟫»",
            "⟪<think>⟫a⟪</think>⟫«b<think>c</think>⟪</s>⟫»",
            id="twice",
        ),
    ],
)
def test_reasoning(response, with_thinking, without):
    template = Template(shipped("plain"), vocabulary())
    turns = turns_of("q", response)
    without = without or "\n⟪<think>⟫h⟪</think>⟫«⟪</s>⟫»"
    assert show(template, turns, learn_thinking=True) == f"q{with_thinking}"
    assert show(template, turns, learn_thinking=False) == f"q{without}"


def test_reasoning_tags_are_text_where_the_vocabulary_has_none():
    ids = {token: index for token, index in CONTROLS.items() if "think" not in token}
    template = Template(shipped("plain"), vocabulary(ids=ids))
    turns = turns_of("q", "<think>\nhm</think>\n\na")
    assert show(template, turns, learn_thinking=False) == "q<think>\nhm</think>\n\n«a⟪</s>⟫»"
    learned = encode(template, turns, learn_thinking=True)
    assert learned.input_ids == encode(template, turns, learn_thinking=False).input_ids


@pytest.mark.parametrize("name", ["baichuan", "chatml"])
def test_a_thought_that_is_not_learned_has_no_learned_end(name):
    template = Template(shipped(name), vocabulary())
    encoded = encode(template, turns_of("q", "<think>hm", "r", "<think>hm"), learn_thinking=False)
    assert (encoded.spans, encoded.relabels) == ([], [])


@pytest.mark.parametrize("name", ["user_assistant", "llama2", "vicuna"])
def test_the_space_before_a_response_is_left_to_a_tokenizer_that_adds_it(name):
    """Llama's tokenizer writes " a" for "a"; a second space would be another token than in joint text."""
    template = Template(shipped(name), vocabulary(encode=encode_with_own_space))
    encoded = encode(template, turns_of("q", "a", system="" if name == "user_assistant" else None))
    [span] = encoded.spans
    assert decode(encoded.input_ids[slice(*span)]).startswith(" a")


def test_a_response_that_begins_with_a_space_keeps_it():
    template = Template(shipped("vicuna"), vocabulary(encode=encode_with_own_space))
    encoded = encode(template, turns_of("q", " a"))
    assert decode(encoded.input_ids[slice(*encoded.spans[0])]).startswith("  a")


def test_an_optional_token_is_left_out_where_the_tokenizer_has_none():
    template = Template(shipped("vanilla"), vocabulary(bos_id=None))
    assert show(template, turns_of("q1", "a1", "q2", "a2")) == "q1«a1⟪</s>⟫»q2«a2⟪</s>⟫»"


def test_one_call_of_the_tokenizer_serves_a_batch():
    calls = []

    def encode_once(texts: Sequence[str]) -> list[list[int]]:
        calls.append(len(texts))
        return encode_pairs(texts)

    template = Template(shipped("plain"), vocabulary(encode=encode_once))
    calls.clear()
    examples = [Example(turns_of("q", "a", "r", "b"), "file", line) for line in range(3)]
    assert len(template.encode(examples)) == 3
    assert template.encode([]) == []
    template.prompts_ids([turns_of("q"), turns_of("r")])
    assert calls == [12, 0, 2]


def test_a_template_can_be_sent_to_another_process():
    template = Template(shipped("baichuan"), vocabulary())
    turns = turns_of("q", "a", "r", "b")
    assert encode(pickle.loads(pickle.dumps(template)), turns) == encode(template, turns)


def test_slots_in_a_text_stay_text():
    template = Template(shipped("chatglm2"), vocabulary())
    assert show(template, turns_of("{round} {prompt}", "{response}")).endswith(
        "[Round 1]\n\n问：{round} {prompt}\n\n答：«{response}⟪</s>⟫»"
    )


def test_prompt_ids_take_history_and_a_system_prompt():
    template = Template(shipped("vicuna"), vocabulary())
    ids = template.prompt_ids("q2", [("q1", "a1")], "S")
    assert decode(ids) == "⟪<s>⟫S USER: q1 ASSISTANT: a1⟪</s>⟫USER: q2 ASSISTANT:"
    assert decode(template.prompt_ids("q")) == f"⟪<s>⟫{CURIOUS} USER: q ASSISTANT:"
    assert decode(template.prompt_ids("q", system="")) == "⟪<s>⟫USER: q ASSISTANT:"


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ((), "the conversation is empty"),
        ((Turn("system", "S", False),), "the conversation is empty"),
        (turns_of("q", "a"), "ends with a response"),
        ((*turns_of("q", "a"), Turn("system", "S", False)), "role 'system' in the middle"),
        ((Turn("tool", "x", False), *turns_of("q")), "role 'tool' in the middle"),
    ],
)
def test_what_cannot_be_answered_is_refused(turns, message):
    with pytest.raises(ValueError, match=message):
        Template(shipped("chatml"), vocabulary()).prompts_ids([turns])


@pytest.mark.parametrize(
    ("settings_", "problem"),
    [
        ({"prompt": ["q"]}, r"template.prompt=\['q'\] has no \{prompt\}: the prompt would be lost"),
        ({"prompt": ["{prompt}", "{prompt}"]}, r"template.prompt holds \{prompt\} 2 times"),
        ({"prompt": []}, r"template.prompt=\[\] has no \{prompt\}"),
        ({"response": [{"token": "eos"}]}, r"template.response=.* has no \{response\}"),
        ({"text": ["{response}{text}"]}, r"template.text holds \{response\}, but has only \{text\}"),
        ({"system": ["hello"]}, r"template.system=\['hello'\] has no \{system\}"),
        ({"prompt": ["{system}{prompt}"]}, r"template.prompt holds \{system\}, but has only"),
        ({"prompt": ["{prompt}{promt}"]}, r"holds \{promt\}, but .*; did you mean \{prompt\}\?"),
        ({"prompt": ["{prompt}{query}"]}, r"holds \{query\}, but .*end the piece after it"),
        ({"separator": ["{round}"]}, r"template.separator holds \{round\}, but has only no slots"),
        ({"first_prompt": ["{prompt}"]}, r"neither it nor template.system holds \{system\}"),
        (
            {"system": ["{system}"], "first_prompt": ["{system}{prompt}"]},
            r"\{system\} stands in both template.system and template.first_prompt",
        ),
        ({"first_prompt": ["{system}{system}{prompt}"]}, r"first_prompt holds \{system\} 2 times"),
        ({"default_system": "hi"}, r"template.default_system='hi' has no place"),
        ({"prompt": "{prompt}"}, r"is not a list of pieces; write template.prompt=\['\{prompt\}'\]"),
        ({"prompt": ["{prompt}", 3]}, r"template.prompt\[1\]=3 is not text or a control token"),
        ({"stop": ["</s>"]}, r"template.stop\[0\]='</s>' is not a control token"),
        ({"end": [{"tokn": "eos"}]}, r"template.end\[0\]=.* there is no 'tokn'; did you mean token\?"),
        ({"end": [{"token": "eos", "id": 2}]}, r"template.end\[0\]=.* needs either a token or an id"),
        ({"end": [{"token": 2}]}, r"template.end\[0\].token=2 is not the text of a token"),
        ({"end": [{"id": -1}]}, r"template.end\[0\].id=-1 is not a whole number from 0"),
        ({"end": [{"id": True}]}, r"template.end\[0\].id=True is not a whole number"),
        ({"end": [{"token": "eos", "label": "eos"}]}, r"template.end\[0\].label=eos: only a token of"),
        ({"prompt": ["{prompt}", {"id": 1, "label": 1.5}]}, r"template.prompt\[1\].label=1.5 is neither"),
        ({"end": [{"token": "eos", "optional": "yes"}]}, r"end\[0\].optional='yes' is neither true nor"),
        ({"chat_arguments": {"messages": []}}, r"template.chat_arguments.messages is given by"),
    ],
)
def test_a_wrong_template_is_refused_without_a_tokenizer(settings_, problem):
    config = TemplateConfig(**settings_)
    [found] = [text for text in template_problems(config) if re.search(problem, text)]
    with pytest.raises(ConfigError, match=re.escape(found)):
        Template(config, vocabulary())


@pytest.mark.parametrize("name", [*SHIPPED, "chat"])
def test_a_shipped_template_has_no_problems_and_its_own_name(name):
    config = shipped(name)
    assert list(template_problems(config)) == []
    assert config.name == name


@pytest.mark.parametrize(
    ("settings_", "changes", "problem"),
    [
        (
            {"end": [{"token": "<|im_ned|>"}]},
            {},
            r"template.end\[0\]: .* toy has no control token '<\|im_ned\|>'; did you mean <\|im_end\|>\?",
        ),
        (
            {"end": [{"token": "völlig"}]},
            {},
            r"no control token 'völlig'; it belongs to another model",
        ),
        ({"end": [{"id": 500}]}, {"size": 400}, r"template.end\[0\]: there is no id 500: .* has 400 tokens"),
        ({}, {"eos_id": None}, r"template.response\[1\]: the tokenizer toy has no eos token; take the piece"),
        (
            {"prompt": [{"id": 195, "label": "eoz"}, "{prompt}"]},
            {},
            r"template.prompt\[0\].label: the tokenizer toy has no control token 'eoz'",
        ),
    ],
)
def test_a_template_of_another_tokenizer_is_refused(settings_, changes, problem):
    with pytest.raises(ConfigError, match=problem):
        Template(TemplateConfig(**settings_), vocabulary(**changes))


def test_all_problems_are_told_at_once():
    config = TemplateConfig(prompt=["q"], separator=[{"token": "<eos>"}], stop=[{"id": "x"}])
    with pytest.raises(ConfigError) as refused:
        Template(config, vocabulary())
    assert [problem.partition("=")[0].partition(":")[0] for problem in refused.value.problems] == [
        "template.prompt",
        "template.stop[0].id",
        "template.separator[0]",
    ]


TEXTS = st.lists(
    st.one_of(
        st.sampled_from([*CONTROLS, " ", "\n", "{prompt}", "⟪", "患者", "</think>\n"]), st.text(max_size=3)
    ),
    max_size=4,
).map("".join)
RESPONSES = st.one_of(
    TEXTS,
    st.builds("<think>{}</think>{}{}".format, TEXTS, st.sampled_from(["", "\n\n"]), TEXTS),
    st.builds("<think>{}".format, TEXTS),
)
CONVERSATIONS = st.lists(st.tuples(TEXTS, RESPONSES, st.booleans()), min_size=1, max_size=3)


def conversation(rounds: Sequence[tuple[str, str, bool]], system: str = "") -> tuple[Turn, ...]:
    turns = [Turn("system", system, learned=False)]
    for prompt, response, learned in rounds:
        turns += Turn("prompt", prompt, learned=False), Turn("response", response, learned)
    return tuple(turns)


def system_for(name: str, system: str) -> str:
    return system if RENDERINGS[name][1] else ""


TEMPLATES = {name: Template(shipped(name), vocabulary()) for name in SHIPPED}
names = st.sampled_from(SHIPPED)


@settings(max_examples=300, deadline=None)
@given(names, CONVERSATIONS, TEXTS)
def test_training_ids_of_a_prompt_are_its_generation_ids(name, rounds, system):
    turns = conversation(rounds, system_for(name, system))
    ids = encode(TEMPLATES[name], turns).input_ids
    for end in range(2, len(turns) + 1, 2):
        [prompt_ids] = TEMPLATES[name].prompts_ids([turns[:end]])
        assert ids[: len(prompt_ids)] == prompt_ids


@settings(max_examples=300, deadline=None)
@given(names, CONVERSATIONS, TEXTS)
def test_ids_do_not_depend_on_what_is_learned(name, rounds, system):
    turns = conversation(rounds, system_for(name, system))
    all_learned = conversation([(p, r, True) for p, r, _ in rounds], system_for(name, system))
    ids = encode(TEMPLATES[name], turns).input_ids
    assert encode(TEMPLATES[name], turns, learn_thinking=False).input_ids == ids
    assert encode(TEMPLATES[name], all_learned).input_ids == ids


@settings(max_examples=300, deadline=None)
@given(names, CONVERSATIONS, TEXTS, st.booleans())
def test_spans_are_sorted_and_disjoint_and_hold_the_relabels(name, rounds, system, learn_thinking):
    turns = conversation(rounds, system_for(name, system))
    encoded = encode(TEMPLATES[name], turns, learn_thinking=learn_thinking)
    bounds = [bound for span in encoded.spans for bound in span]
    assert bounds == sorted(set(bounds))  # neighbours are one span
    assert all(0 <= bound <= len(encoded.input_ids) for bound in bounds)
    learned = {place for start, end in encoded.spans for place in range(start, end)}
    assert {place for place, _ in encoded.relabels} <= learned


@settings(max_examples=300, deadline=None)
@given(names, CONVERSATIONS, TEXTS)
def test_no_text_becomes_a_control_token(name, rounds, system):
    turns = conversation([(p, f"a{r}", learned) for p, r, learned in rounds], f"s{system}")
    turns = turns if RENDERINGS[name][1] else turns[1:]
    neutral = tuple(Turn(turn.role, "x", turn.learned) for turn in turns)
    controls, wanted = (
        [index for index in encode(TEMPLATES[name], these).input_ids if index < FIRST_TEXT_ID]
        for these in (turns, neutral)
    )
    assert controls == wanted


@settings(max_examples=300, deadline=None)
@given(names, CONVERSATIONS)
def test_learned_spans_are_the_responses_and_their_ends(name, rounds):
    rounds = [(f"q{prompt}", response, learned) for prompt, response, learned in rounds]
    encoded = encode(TEMPLATES[name], conversation(rounds))
    learned = [decode(encoded.input_ids[start:end]) for start, end in encoded.spans]
    wanted = []
    for place, (_, response, is_learned) in enumerate(rounds):
        if is_learned and not re.match(r"\s*<think>\s*(</think>|\Z)", response):
            wanted.append(learned_text(name, response, is_last=place == len(rounds) - 1))
        elif is_learned and "</think>" in response:
            answer = re.sub(r"\A\s*<think>\s*</think>\s*", "", response)
            wanted.append(learned_text(name, answer, is_last=place == len(rounds) - 1, is_begun=True))
    assert learned == wanted


def learned_text(name: str, response: str, *, is_last: bool, is_begun: bool = False) -> str:
    """What is learned of a response, from the rendering of this file's own table."""
    first, last = re.findall(r"«(.*?)»", RENDERINGS[name][0], re.DOTALL)
    before, after = (last if is_last else first).split("a2" if is_last else "a1")
    after = after.replace("=</s>", "")
    if is_begun:
        return response + after
    if response.lstrip().startswith("<think>"):
        response = response.replace("<think>", "⟪<think>⟫", 1).replace("</think>", "⟪</think>⟫", 1)
    return before + response + after

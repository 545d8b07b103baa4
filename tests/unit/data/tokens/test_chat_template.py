"""The tokenizer's own chat template: equal to transformers', with exact learned spans."""

import pickle
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from medtune.config.schema import TemplateConfig
from medtune.data.examples import Example, Turn
from medtune.data.tokens.templates import Template
from medtune.data.tokens.vocabulary import vocabulary_of
from medtune.runtime.errors import ConfigError

LETTERS = "".join(map(chr, range(32, 127))) + "\n\t患者问答"
CONTROLS = [
    *("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|header|>", "<|close|>", "<|eot|>"),
    *("<turn>", "<end>", "<tur", "<think>", "</think>"),  # one begins like another
]

CHATML = """\
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

# A system prompt goes into the first prompt, contents are stripped, and speakers must take turns.
LLAMA2 = """\
{%- set ns = namespace(system='') %}
{%- for m in messages %}
    {%- if m['role'] == 'system' %}
        {%- set ns.system = '<<SYS>>\\n' ~ m['content'] ~ '\\n<</SYS>>\\n\\n' %}
    {%- elif m['role'] == 'user' %}
        {{- bos_token + '[INST] ' + (ns.system + m['content']) | trim + ' [/INST]' }}
        {%- set ns.system = '' %}
    {%- else %}
        {%- if loop.index0 == 0 %}{{ raise_exception('an answer without a question') }}{% endif %}
        {{- ' ' + m['content'] | trim + ' ' + eos_token }}
    {%- endif %}
{%- endfor %}"""

LLAMA3 = """\
{{- bos_token }}
{%- for m in messages %}
    {{- '<|header|>' + m.role + '<|close|>\\n\\n' + m.content | trim + '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|header|>assistant<|close|>\\n\\n' }}{% endif %}"""

GEMMA = """\
{{- bos_token }}
{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for m in messages %}
    {%- set role = 'model' if m.role == 'assistant' else m.role %}
    {{- '<turn>' + role + '\\n' + m.content | trim + '<end>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<turn>model\\n' }}{% endif %}"""

# Earlier reasoning is dropped; the last answer has a block, empty where nothing was thought.
THINKING = """\
{%- for m in messages %}
    {%- set content = m.content %}
    {%- set thought = '' %}
    {%- if m.role == 'assistant' and '</think>' in content %}
        {%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' + m.role + '\\n' }}
    {%- if m.role == 'assistant' and loop.last %}
        {{- '<think>\\n' + thought + '\\n</think>\\n\\n' }}
    {%- endif %}
    {{- content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}"""

# Reasoning stays as it is written; an empty block is put before the last response.
KEEPING = """\
{%- for m in messages %}
    {{- '<|im_start|>' + m.role + '\\n' }}
    {%- if loop.last and m.role == 'assistant' %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}
    {{- m.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' }}{% endif %}"""

GENERATION = """\
{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {{- '<turn>A ' }}{% generation %}{{ m.content + '<end>' }}{% endgeneration %}
    {%- else %}{{ '<turn>U ' + m.content }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<turn>A ' }}{% endif %}"""

TEMPLATES = {
    "chatml": CHATML,
    "llama2": LLAMA2,
    "llama3": LLAMA3,
    "gemma": GEMMA,
    "thinking": THINKING,
    "generation": GENERATION,
}
WITHOUT_SYSTEM = ("gemma", "generation")


def tokenizer(chat_template: str | None) -> PreTrainedTokenizerFast:
    """An id per character."""
    vocabulary = {token: index for index, token in enumerate(["<unk>", *CONTROLS, *LETTERS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=CONTROLS[2:],
        chat_template=chat_template,
    )


TOKENIZERS = {name: tokenizer(source) for name, source in TEMPLATES.items()}


def template(name: str, **arguments: object) -> Template:
    config = TemplateConfig(name="chat", chat=True, chat_arguments=arguments)
    return Template.from_tokenizer(config, TOKENIZERS[name])


def turns_of(*texts: str, system: str | None = None) -> tuple[Turn, ...]:
    turns = [] if system is None else [Turn("system", system, learned=False)]
    turns += (Turn(("prompt", "response")[i % 2], text, i % 2 == 1) for i, text in enumerate(texts))
    return tuple(turns)


def messages_of(turns: Sequence[Turn]) -> list[dict[str, str]]:
    roles = {"system": "system", "prompt": "user", "response": "assistant"}
    return [{"role": roles[turn.role], "content": turn.text} for turn in turns]


def encode(chat: Template, turns: Sequence[Turn], **kwargs: bool):
    [encoded] = chat.encode([Example(tuple(turns), "file", 1)], **kwargs)
    return encoded


def show(name: str, chat: Template, turns: Sequence[Turn], **kwargs: bool) -> str:
    """The text with what is learned between « and »."""
    encoded, text, position = encode(chat, turns, **kwargs), "", 0
    for start, end in encoded.spans:
        text += TOKENIZERS[name].decode(encoded.input_ids[position:start])
        text += f"«{TOKENIZERS[name].decode(encoded.input_ids[start:end])}»"
        position = end
    return text + TOKENIZERS[name].decode(encoded.input_ids[position:])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "chatml",
            "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n«a<|im_end|>»\n"
            "<|im_start|>user\nr<|im_end|>\n<|im_start|>assistant\n«b<|im_end|>»\n",
        ),
        ("llama2", "<s>[INST] q [/INST]« a </s>»<s>[INST] r [/INST]« b </s>»"),
        (
            "llama3",
            "<s><|header|>user<|close|>\n\nq<|eot|><|header|>assistant<|close|>\n\n«a<|eot|>»"
            "<|header|>user<|close|>\n\nr<|eot|><|header|>assistant<|close|>\n\n«b<|eot|>»",
        ),
        (
            "gemma",
            "<s><turn>user\nq<end>\n<turn>model\n«a<end>»\n<turn>user\nr<end>\n<turn>model\n«b<end>»\n",
        ),
        (
            "thinking",
            "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n«a<|im_end|>»\n"
            "<|im_start|>user\nr<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n«b<|im_end|>»\n",
        ),
        ("generation", "<turn>U q<turn>A «a<end>»<turn>U r<turn>A «b<end>»"),
    ],
)
def test_responses_are_learned_with_the_token_that_ends_them(name, expected):
    assert show(name, template(name), turns_of("q", "a", "r", "b")) == expected


@pytest.mark.parametrize(
    ("name", "end"),
    [("chatml", "<|im_end|>"), ("llama2", "</s>"), ("llama3", "<|eot|>"), ("gemma", "<end>")],
)
def test_the_token_that_ends_a_response_ends_an_answer(name, end):
    assert template(name).stop_ids == (TOKENIZERS[name].convert_tokens_to_ids(end),)


WORDS = st.text(st.sampled_from([*" \n\t", *"abcd问答{}'<&>"]), min_size=1, max_size=8).filter(str.strip)
RESPONSES = st.one_of(WORDS, st.builds("<think>{}</think>{}".format, WORDS, WORDS))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([*TEMPLATES]), st.lists(st.tuples(WORDS, RESPONSES), min_size=1, max_size=3), WORDS)
def test_ids_are_those_of_apply_chat_template(name, rounds, system):
    texts = [text for pair in rounds for text in pair]
    turns = turns_of(*texts, system=None if name in WITHOUT_SYSTEM else system)
    chat, plain = template(name), TOKENIZERS[name]
    ids = encode(chat, turns).input_ids
    assert ids == plain.apply_chat_template(messages_of(turns), return_dict=False)
    wanted = plain.apply_chat_template(messages_of(turns[:-1]), add_generation_prompt=True, return_dict=False)
    [prompt_ids] = chat.prompts_ids([turns[:-1]])
    assert prompt_ids == wanted
    assert ids[: len(wanted)] == wanted
    assert encode(chat, turns, learn_thinking=False).input_ids == ids


@pytest.mark.parametrize("thinks", [False, True])
def test_a_later_prompt_is_given_to_generation_as_it_is_trained(thinks):
    """Earlier responses are written without the block that the last one has."""
    chat, plain = template("thinking", enable_thinking=thinks), TOKENIZERS["thinking"]
    turns = turns_of("q", "a", "r", "<think>hm</think>b" if thinks else "b")
    [ids] = chat.prompts_ids([turns[:-1]])
    assert encode(chat, turns).input_ids[: len(ids)] == ids
    assert ids == plain.apply_chat_template(
        messages_of(turns[:-1]), add_generation_prompt=True, enable_thinking=thinks, return_dict=False
    )


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([*TEMPLATES]),
    st.lists(st.tuples(st.sampled_from(CONTROLS[:10]), WORDS), min_size=1, max_size=3),
)
def test_no_content_becomes_a_control_token(name, rounds):
    """Nor does it change the skeleton: the ids beside it are those of other words."""
    chat = template(name)
    spelled = encode(chat, turns_of(*(text for pair in rounds for text in pair)))
    neutral = encode(chat, turns_of(*("x" for _ in rounds for _ in range(2))))
    last_control = TOKENIZERS[name].convert_tokens_to_ids(CONTROLS[-1])
    controls, wanted = (
        [index for index in encoded.input_ids if index <= last_control] for encoded in (spelled, neutral)
    )
    assert controls == wanted


@pytest.mark.parametrize(
    ("response", "arguments", "with_thinking", "without"),
    [
        pytest.param(
            "<think>\nhm\n</think>\n\na",
            {"enable_thinking": True},
            "«<think>\nhm\n</think>\n\na<|im_end|>»",
            "<think>\nhm\n</think>\n\n«a<|im_end|>»",
            id="reasoning",
        ),
        pytest.param(
            "<think>\n\n</think>\n\na",
            {"enable_thinking": True},
            *["<think>\n\n</think>\n\n«a<|im_end|>»"] * 2,
            id="empty",
        ),
        pytest.param(
            "<think>hm",
            {"enable_thinking": True},
            "<think>\n\n</think>\n\n«<think>hm<|im_end|>»",
            "<think>\n\n</think>\n\n<think>hm<|im_end|>",
            id="without_an_end",
        ),
        pytest.param(
            "a", {"enable_thinking": False}, *["<think>\n\n</think>\n\n«a<|im_end|>»"] * 2, id="none"
        ),
    ],
)
def test_reasoning(response, arguments, with_thinking, without):
    chat = template("thinking", **arguments)
    before = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
    turns = turns_of("q", response)
    assert show("thinking", chat, turns, learn_thinking=True) == f"{before}{with_thinking}\n"
    assert show("thinking", chat, turns, learn_thinking=False) == f"{before}{without}\n"


def test_an_empty_block_in_a_template_that_knows_none_is_not_learned():
    turns = turns_of("q", "<think>\n\n</think>\n\na")
    assert show("chatml", template("chatml"), turns) == (
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n«a<|im_end|>»\n"
    )


def test_reasoning_in_a_template_that_knows_none():
    chat, turns = template("chatml"), turns_of("q", "<think>hm</think>\n\na", "r", "<think>hm")
    before = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    assert show("chatml", chat, turns, learn_thinking=False) == (
        f"{before.format('q')}<think>hm</think>«\n\na<|im_end|>»\n{before.format('r')}<think>hm<|im_end|>\n"
    )
    assert show("chatml", chat, turns) == (
        f"{before.format('q')}«<think>hm</think>\n\na<|im_end|>»\n{before.format('r')}«<think>hm<|im_end|>»\n"
    )


def test_earlier_reasoning_that_the_template_keeps_is_learned_from_its_tag():
    chat = Template.from_tokenizer(TemplateConfig(chat=True), tokenizer(KEEPING))
    before = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    assert show("chatml", chat, turns_of("q", "<think>hm</think>a", "r", "b")) == (
        f"{before.format('q')}«<think>hm</think>a<|im_end|>»\n"
        f"{before.format('r')}<think>\n\n</think>\n\n«b<|im_end|>»\n"
    )


def test_reasoning_that_generation_would_not_write_is_refused():
    chat = template("thinking", enable_thinking=False)
    message = r"^file:1: the chat template of .* a response with thinking .*enable_thinking=true"
    with pytest.raises(ValueError, match=message):
        encode(chat, turns_of("q", "<think>hm</think>a"))


def test_turns_that_are_not_learned_are_not():
    turns = [*turns_of("q", "a", "r", "b")]
    turns[1] = Turn("response", "a", learned=False)
    encoded = encode(template("chatml"), turns)
    [(start, end)] = encoded.spans
    assert TOKENIZERS["chatml"].decode(encoded.input_ids[start:end]) == "b<|im_end|>"


def test_a_document_is_written_by_the_pieces():
    assert show("chatml", template("chatml"), [Turn("text", "abc", learned=True)]) == "«abc</s>»"


def test_a_system_prompt_of_the_template_stands_where_the_conversation_has_none():
    config = TemplateConfig(chat=True, default_system="S")
    chat = Template.from_tokenizer(config, TOKENIZERS["llama3"])
    wanted = show("llama3", template("llama3"), turns_of("q", "a", system="S"))
    assert show("llama3", chat, turns_of("q", "a")) == wanted
    assert show("llama3", chat, turns_of("q", "a", system="")) == show(
        "llama3", template("llama3"), turns_of("q", "a")
    )


def test_it_can_be_sent_to_another_process():
    chat = template("thinking", enable_thinking=True).chat
    turns = turns_of("q", "<think>hm</think>a")
    before = list(chat.segments(turns))
    assert list(pickle.loads(pickle.dumps(chat)).segments(turns)) == before


def test_a_refusal_of_the_template_is_told():
    message = (
        r"^file:1: the chat template of .* refuses a conversation of system, user, assistant: System role"
    )
    with pytest.raises(ValueError, match=message):
        encode(template("gemma"), turns_of("q", "a", system="S"))


ENDED = "{{ '<end>' }}"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "has no chat template; set another template, such as template=chatml"),
        ("{% for m in messages %}{{ m.role ~ m.content }}\n{% endfor %}", "would not learn to stop"),
        ("{% for m in messages %}{{ m.content | upper }}<end>{% endfor %}", "changes contents"),
        ("{% for m in messages %}{{ m.content | tojson }}<end>{% endfor %}", "changes contents"),
        ("{{ messages[-1].content }}<end>", r"does not show turn 1 \(user\)"),
        ("{{ messages[0].content }}<end>", r"does not show turn 2 \(assistant\)"),
        ("{% for m in messages %}{{ m.content ~ '/' ~ m.content }}<end>{% endfor %}", "response 2 times"),
        ("{% for m in messages %}", "refuses a conversation of user, assistant: Unexpected end"),
        ("{{ messages[5].content }}", "refuses a conversation of user, assistant"),
        ("{{ raise_exception('not today') }}", "not today"),
    ],
)
def test_a_chat_template_that_cannot_be_learned_from_is_refused(source, message):
    with pytest.raises(ConfigError, match=message):
        Template.from_tokenizer(TemplateConfig(chat=True), tokenizer(source))


def test_a_response_that_begins_elsewhere_than_generation_is_refused():
    source = CHATML.replace("assistant\\n' }}{% endif", "model\\n' }}{% endif")
    chat = Template.from_tokenizer(TemplateConfig(chat=True), tokenizer(source))
    with pytest.raises(ValueError, match=r"answer after .*model\\n', but writes a response after"):
        encode(chat, turns_of("q", "a"))


def test_variables_reach_the_template_and_json_is_not_escaped():
    source = (
        "{% for m in messages %}{{ mood | tojson }}{{ m.content }}<end>{% endfor %}"
        "{{ mood | tojson if add_generation_prompt }}"
    )
    config = TemplateConfig(chat=True, chat_arguments={"mood": "<患>"})
    chat = Template.from_tokenizer(config, tokenizer(source))
    text = TOKENIZERS["chatml"].decode(encode(chat, turns_of("q", "a")).input_ids)
    assert text == '"<患>"q<end>"<患>"a<end>'


def test_the_space_before_a_response_is_left_to_a_tokenizer_that_adds_it():
    """As Llama's does: encoded alone, "a" has the ids that it has after "[/INST]"."""
    plain = vocabulary_of(TOKENIZERS["llama2"])
    own_space = replace(plain, encode=lambda texts: plain.encode([" " + text for text in texts]))
    chat = Template(TemplateConfig(chat=True), own_space)
    encoded = encode(chat, turns_of("q", "a"))
    [span] = encoded.spans
    assert TOKENIZERS["llama2"].decode(encoded.input_ids[slice(*span)]) == " a </s>"

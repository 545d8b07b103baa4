import logging
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtune.config.compose import compose_settings, plain_settings
from medtune.config.load import config_from_dict
from medtune.config.schema import TemplateConfig
from medtune.data.examples import Example, Turn
from medtune.data.tokens.templates import Template
from medtune.generation.engine import TransformersEngine
from medtune.generation.prompts import GAP, answer_room, fit_prompts
from medtune.generation.responder import Responder
from medtune.generation.settings import SamplingSettings
from medtune.generation.summary import Spent, summary

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TRIMMING_CHAT = CHAT.replace("m.content", "m.content | trim")
LONG = "请判断疾病。" + "患者有头痛，发热。" * 30 + "是否有高血压？"


@pytest.fixture(scope="module")
def byte_tokenizer():
    """A token per byte, so that a character is three tokens; with a chat template's control tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: place for place, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        chat_template=CHAT,
    )


def template_config(name):
    values, _ = plain_settings(compose_settings([f"template={name}"]))
    return config_from_dict(values).template


@pytest.fixture(
    params=["promptcblue_en", "plain", "alpaca", "chatml", "vicuna", "llama2", "chat", "trimming_chat"]
)
def template(request, byte_tokenizer):
    byte_tokenizer.chat_template = TRIMMING_CHAT if request.param == "trimming_chat" else CHAT
    config = (
        TemplateConfig(chat=True) if "chat" in request.param.split("_") else template_config(request.param)
    )
    return Template.from_tokenizer(config, byte_tokenizer)


def turns_of(text, *earlier):
    turns = [Turn("system", "你是医生", False)] if earlier else []
    for prompt, response in earlier:
        turns += [Turn("prompt", prompt, False), Turn("response", response, False)]
    return (*turns, Turn("prompt", text, False))


@pytest.mark.parametrize("more", [1, 2, 3, 100, 500])
def test_the_middle_of_the_text_goes_and_all_around_it_stays(template, byte_tokenizer, more):
    [whole] = template.prompts_ids([turns_of(LONG)])
    room = len(whole) - more
    [prompt] = fit_prompts(template, [turns_of(LONG)], [room])
    assert room - 3 < len(prompt.ids) <= room  # a character more would not fit
    assert prompt.cut == len(whole) - len(prompt.ids)
    text = byte_tokenizer.decode(prompt.ids)
    shown = byte_tokenizer.decode(whole)
    before, after = shown.split(LONG)
    assert text.startswith(before)
    assert text.endswith(after)
    head, tail = text[len(before) : len(text) - len(after)].split(GAP)
    assert LONG.startswith(head)
    assert LONG.endswith(tail)
    assert len(head) - len(tail) in (0, 1)
    # The answer cue as ids: what stands behind the text in the whole prompt stands behind it here.
    cue = len(byte_tokenizer.encode(after, add_special_tokens=False))
    assert prompt.ids[len(prompt.ids) - cue :] == whole[len(whole) - cue :]


def test_a_prompt_that_fits_is_the_prompt(template):
    [whole] = template.prompts_ids([turns_of(LONG)])
    for room in (len(whole), None):
        [prompt] = fit_prompts(template, [turns_of(LONG)], [room], "error")
        assert (prompt.ids, prompt.cut) == (whole, 0)


def test_earlier_turns_and_the_system_prompt_stay(byte_tokenizer):
    template = Template.from_tokenizer(template_config("chatml"), byte_tokenizer)
    turns = turns_of(LONG, ("头痛", "多久"))
    [whole] = template.prompts_ids([turns])
    [prompt] = fit_prompts(template, [turns], [len(whole) - 300])
    text = byte_tokenizer.decode(prompt.ids)
    assert "你是医生" in text
    assert "头痛<|im_end|>" in text
    assert "多久<|im_end|>" in text
    assert text.endswith("高血压？<|im_end|>\n<|im_start|>assistant\n")


def test_a_text_that_spells_control_tokens_is_cut_as_text(byte_tokenizer):
    byte_tokenizer.chat_template = CHAT
    template = Template.from_tokenizer(TemplateConfig(chat=True), byte_tokenizer)
    spelled = "<|im_end|>" * 40
    [prompt] = fit_prompts(template, [turns_of(spelled)], [200])
    end = byte_tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert prompt.ids.count(end) == 1
    assert len(prompt.ids) <= 200


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(codec="utf-8"), min_size=1, max_size=80), room=st.integers(4, 60))
def test_any_text_fits_and_decodes(byte_tokenizer, text, room):
    template = Template.from_tokenizer(TemplateConfig(), byte_tokenizer)
    [prompt] = fit_prompts(template, [turns_of(text)], [room])
    assert len(prompt.ids) <= room
    shown = byte_tokenizer.decode(prompt.ids)
    if not prompt.cut:
        assert shown == text
        return
    # The text may have a gap of its own, and U+FFFD only where the text has it.
    assert any(
        text.startswith(shown[: found.start()]) and text.endswith(shown[found.end() :])
        for found in re.finditer(GAP, shown)
    )


def test_too_long_prompts_are_refused_with_their_number_and_the_longest(byte_tokenizer):
    template = Template.from_tokenizer(TemplateConfig(), byte_tokenizer)
    conversations = [turns_of("a" * length) for length in (10, 30, 5, 50)]
    with pytest.raises(
        ValueError,
        match=r"2 of 4 prompts have more than the 20 tokens .* the longest: 4 \(50 tokens\), 2 \(30 tokens\)",
    ):
        fit_prompts(template, conversations, [20] * 4, "error")


def test_what_cannot_be_cut_is_refused(byte_tokenizer):
    template = Template.from_tokenizer(template_config("alpaca"), byte_tokenizer)
    with pytest.raises(ValueError, match=r"prompt 1: without its text \d+ tokens remain .* has room for 20"):
        fit_prompts(template, [turns_of(LONG)], [20])


@pytest.mark.parametrize(("wanted", "context", "room"), [(256, 4096, 256), (2048, 2048, 1024), (1, 3, 1)])
def test_an_answer_gets_what_it_may_have_and_at_most_half(wanted, context, room):
    assert answer_room(wanted, context) == room


def test_cut_prompts_and_cut_answers_are_told(make_tiny_llama, tiny_tokenizer, caplog):
    """The model's context is 256 tokens, of which 20 are kept for the answer."""
    engine = TransformersEngine(make_tiny_llama(scale=4.0), stop_ids=[])
    template = Template.from_tokenizer(TemplateConfig(), tiny_tokenizer)
    responder = Responder(engine, tiny_tokenizer, template, SamplingSettings(max_new_tokens=20))
    examples = [
        Example((Turn("prompt", text, False), Turn("response", "", True)), "rows.txt", 1)
        for text in ("头痛", "头" * 300, "发热" * 118, "痛" * 237)
    ]
    questions = responder.prepare(examples)
    assert [len(question.prompt.ids) for question in questions] == [2, 236, 236, 236]
    answers = responder.respond(questions, "rows")
    assert [answer.prompt_cut for answer in answers] == [0, 64, 0, 1]
    found = summary(dict(enumerate(answers)), Spent(2.0, 4, 80))
    assert found["cut_prompts"] == [{"row": 2, "tokens": 64}, {"row": 4, "tokens": 1}]
    assert found["cut_answers"] == [1, 2, 3, 4]
    assert (found["rows"], found["tokens"], found["tokens_per_second"]) == (4, 80, 40.0)
    with caplog.at_level(logging.INFO, logger="medtune.generation"):
        responder.answer(examples, "rows")
    assert caplog.text.count("leave less than generate.max_new_tokens") == 0
    assert "2 of 4 prompts were too long for the model's context and were cut in the middle" in caplog.text
    assert "rows 2, 4" in caplog.text
    assert "4 of 4 answers had not ended when they had as many tokens as they may have" in caplog.text
    assert responder.prompt(examples[1].turns[:1]) == questions[1].prompt
    responder.overlong = "error"
    with pytest.raises(ValueError, match="2 of 4 prompts have more than the 236 tokens"):
        responder.answer(examples, "rows")


def test_answers_that_the_context_ends_are_told_once(make_tiny_llama, tiny_tokenizer, caplog):
    engine = TransformersEngine(make_tiny_llama(), stop_ids=[])
    template = Template.from_tokenizer(TemplateConfig(), tiny_tokenizer)
    responder = Responder(engine, tiny_tokenizer, template, SamplingSettings(max_new_tokens=250))
    example = Example((Turn("prompt", "头痛" * 10, False),), "rows.txt", 1)
    with caplog.at_level(logging.WARNING, logger="medtune.generation.engine"):
        responder.respond(responder.prepare([example]), "rows")
    assert caplog.text.count("1 of 1 prompts leave less than generate.max_new_tokens=250") == 1

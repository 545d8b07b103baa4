import itertools
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medtune.config.schema import TemplateConfig
from medtune.data.examples import Example, Turn
from medtune.data.tokens.templates import Template
from medtune.generation.choices import NONE_OF_THEM, ChoiceTries, choices_of
from medtune.generation.engine import TransformersEngine
from medtune.generation.responder import Responder
from medtune.generation.settings import SamplingSettings

TOY = Path(__file__).resolve().parents[4] / "shared" / "data" / "promptcblue_toy" / "dev.json"
# One is the beginning of another; two begin alike.
CHOICES = ["是", "是的", "不是", "头痛", "头痛发热"]


def row(choices, task_type="cls", task_dataset="CHIP-STS", prompt="患者头痛为"):
    record = {
        "input": prompt,
        "target": "",
        "answer_choices": choices,
        "task_type": task_type,
        "task_dataset": task_dataset,
    }
    return Example((Turn("prompt", prompt, False), Turn("response", "", True)), "rows.json", 1, record)


@pytest.fixture(scope="module")
def template(tiny_tokenizer):
    return Template.from_tokenizer(
        TemplateConfig(prompt=["问：{prompt}\n答："], response=["{response}", {"token": "eos"}]),
        tiny_tokenizer,
    )


@pytest.fixture
def respond(make_tiny_llama, tiny_tokenizer, template):
    def respond(examples, seed=0, scale=6.0, stop_ids=None, **more):
        model = make_tiny_llama(seed=seed, scale=scale)
        engine = TransformersEngine.from_tokenizer(model, tiny_tokenizer, template.stop_ids)
        if stop_ids is not None:
            engine.stop_ids = frozenset(stop_ids)
        rules = SamplingSettings(**{"max_new_tokens": 8, **more})
        responder = Responder(engine, tiny_tokenizer, template, rules, use_choices=True)
        return responder.respond(responder.prepare(examples), "rows")

    return respond


@pytest.mark.parametrize(
    ("task_type", "task_dataset", "choices", "may_be"),
    [
        pytest.param("cls", "CHIP-STS", ["是的", "不是"], ("是的", "不是"), id="two"),
        pytest.param("matching", "KUAKE-IR", ["相关", "不相关"], ("相关", "不相关"), id="matching"),
        pytest.param("cls", "CHIP-CTC", ["疾病"], ("疾病", NONE_OF_THEM), id="none_of_them"),
        pytest.param("cls", "KUAKE-QIC", ["是", NONE_OF_THEM], ("是", NONE_OF_THEM), id="none_is_listed"),
        pytest.param("cls", "IMCS-V2-DAC", ["问", "问"], ("问", NONE_OF_THEM), id="listed_twice"),
        pytest.param("ner", "CMeEE-V2", ["疾病"], (), id="types_are_no_answers"),
        pytest.param("attr_cls", "IMCS-V2-SR", ["患有"], (), id="lists_are_open"),
        pytest.param("cls", "CHIP-STS", None, (), id="no_choices"),
        pytest.param("cls", "CHIP-CTC", [], (), id="empty"),
    ],
)
def test_rows_of_closed_tasks_have_choices(task_type, task_dataset, choices, may_be):
    assert choices_of(row(choices, task_type, task_dataset)) == may_be


@pytest.mark.skipif(not TOY.exists(), reason="the toy data is not here")
def test_every_gold_answer_of_the_toy_set_may_be_given():
    for line in TOY.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        may_be = choices_of(Example((), "toy", 1, record))
        assert not may_be or record["target"] in may_be
        assert bool(may_be) == (record["task_type"] in ("cls", "matching"))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 99),
    temperature=st.sampled_from([0.0, 1.0, 30.0]),
    choices=st.lists(st.sampled_from(CHOICES), min_size=1, max_size=5),
)
def test_a_random_model_says_nothing_but_a_choice(respond_once, seed, temperature, choices):
    answers = respond_once([row(choices), row(choices, prompt="为")], seed=seed, temperature=temperature)
    for answer in answers:
        assert answer.text in choices
        assert not answer.is_cut


@pytest.fixture(scope="module")
def respond_once(make_tiny_llama, tiny_tokenizer, template):
    """One model, whose output head alone is drawn anew: a whole one costs more than the answers."""
    model = make_tiny_llama(scale=6.0)
    engine = TransformersEngine.from_tokenizer(model, tiny_tokenizer, template.stop_ids)

    def respond(examples, seed, **more):
        rules = SamplingSettings(max_new_tokens=2, seed=seed, **more)  # fewer than the longest choice needs
        responder = Responder(engine, tiny_tokenizer, template, rules, use_choices=True)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(seed)
            model.lm_head.weight.copy_(torch.randn(model.lm_head.weight.shape, generator=generator))
        return responder.respond(responder.prepare(examples), "rows")

    return respond


def allowed_tokens(paths, so_far, stops):
    """Brute force: every token that some choice goes on with."""
    following = {
        path[len(so_far)] for path in paths if path[: len(so_far)] == so_far and len(path) > len(so_far)
    }
    return following | (set(stops) if so_far in paths else set())


@pytest.mark.parametrize("seed", range(4))
def test_greedy_takes_the_likeliest_of_the_allowed_tokens(
    respond, make_tiny_llama, tiny_tokenizer, template, seed
):
    """The whole network on the whole sequence at each step, over all tokens that a choice goes on with."""
    [answer] = respond([row(CHOICES)], seed=seed)
    model = make_tiny_llama(seed=seed, scale=6.0)
    paths = [tuple(tiny_tokenizer.encode(text)) for text in CHOICES]
    stops = [tiny_tokenizer.eos_token_id]
    prompt, so_far = template.prompt_ids("患者头痛为"), ()
    while True:
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *so_far]])).logits[0, -1]
        token = max(sorted(allowed_tokens(paths, so_far, stops)), key=lambda token: float(logits[token]))
        if token in stops:
            break
        so_far += (token,)
    assert answer.text == CHOICES[paths.index(so_far)]


@pytest.mark.parametrize("more", [{}, {"temperature": 1.5}, {"repetition_penalty": 1.3}, {"num_beams": 3}])
def test_free_rows_beside_closed_ones_are_answered_as_without(respond, tiny_tokenizer, more):
    free = [row(CHOICES, "ner", prompt=prompt) for prompt in ("患者", "头痛发热", "高血压是", "咳")]
    closed = [row(CHOICES, prompt=prompt) for prompt in ("为", "患者有头痛", "否")]
    alone = respond(free, **more)
    mixed = respond([*itertools.chain(*zip(free, closed, strict=False)), free[3]], **more)
    assert [mixed[place] for place in (0, 2, 4, 6)] == alone
    assert all(mixed[place].text in CHOICES for place in (1, 3, 5))


def test_a_row_that_stopped_where_a_choice_goes_on_may_stay_beside_many_others(respond):
    """Ended rows leave a batch when they are some; one of seventeen stays until the others have caught up."""
    stops_early, goes_on = row(["头痛", "头痛发热头痛发热"]), row(["头痛发热头痛发热头痛"])
    found = [respond([stops_early, *[goes_on] * 16], seed=seed)[0].text for seed in range(6)]
    assert set(found) == {"头痛", "头痛发热头痛发热"}, "one that stops and one that goes on are needed"


def test_a_choice_with_no_stop_token_at_all_ends_where_no_other_goes_on(respond):
    [answer] = respond([row(["不是", "头痛"])], stop_ids=[])
    assert answer.text in ("不是", "头痛")


def test_rows_with_equal_choices_share_a_trie(template):
    tries = ChoiceTries(template, [3])
    assert tries.of(row(CHOICES)) is tries.of(row(CHOICES, prompt="另"))
    assert tries.of(row(CHOICES)).longest == 4


def test_choices_that_the_tokenizer_cannot_tell_apart_are_refused(template):
    with pytest.raises(ValueError, match=r"rows\.json:1: .* writes the choices '㈠' and '㈡' alike"):
        ChoiceTries(template, [3]).of(row(["㈠", "㈡"]))

import pytest
import torch

from medtune.generation.sampling import draw_uniforms, penalise_repetition, prompt_seeds, sample
from medtune.generation.settings import SamplingSettings

# Falling probabilities .5 .25 .15 .10 of tokens 2 0 3 1.
LOGITS = torch.tensor([[0.25, 0.10, 0.50, 0.15]]).log()


@pytest.mark.parametrize(
    ("settings", "uniform", "token"),
    [
        # In order of id: mass .25 .35 .85 1.
        pytest.param({}, 0.0, 0, id="all_first"),
        pytest.param({}, 0.26, 1, id="all_second"),
        pytest.param({}, 0.999999, 3, id="all_last"),
        # In falling order: 2 and 0 remain, mass 2/3 and 1.
        pytest.param({"top_k": 2}, 0.66, 2, id="top_k_first"),
        pytest.param({"top_k": 2}, 0.67, 0, id="top_k_second"),
        pytest.param({"top_k": 99}, 0.26, 1, id="top_k_of_more_than_all"),
        # The mass before token 3 is .75: it stays at .76 and goes at .74.
        pytest.param({"top_p": 0.76}, 0.99, 3, id="top_p_three"),
        pytest.param({"top_p": 0.74}, 0.99, 0, id="top_p_two"),
        pytest.param({"top_p": 1e-6}, 0.99, 2, id="top_p_keeps_the_likeliest"),
        # The two of top-k have 2/3 and 1/3; top-p counts in those.
        pytest.param({"top_k": 2, "top_p": 0.6}, 0.99, 2, id="top_p_after_top_k"),
    ],
)
def test_a_uniform_number_picks_the_token_of_its_share(settings, uniform, token):
    uniforms = torch.tensor([uniform], dtype=torch.float64)
    assert sample(LOGITS, uniforms, SamplingSettings(temperature=1.0, **settings)).tolist() == [token]


def test_a_low_temperature_leaves_the_likeliest_and_a_high_one_levels():
    uniforms = torch.linspace(0.001, 0.999, 1000, dtype=torch.float64)
    logits = LOGITS.expand(1000, -1)
    cold = sample(logits, uniforms, SamplingSettings(temperature=0.01))
    hot = sample(logits, uniforms, SamplingSettings(temperature=100.0))
    assert cold.unique().tolist() == [2]
    assert all(abs(count - 250) < 10 for count in hot.bincount().tolist())


def test_a_token_without_mass_is_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf]])
    for uniform in (0.0, 0.5, 1 - 2**-53):
        uniforms = torch.tensor([uniform], dtype=torch.float64)
        assert sample(logits, uniforms, SamplingSettings(temperature=1.0)).item() == 1


def test_seen_tokens_lose_whatever_their_sign():
    logits = torch.tensor([[2.0, -2.0, 2.0, -2.0]])
    seen = torch.tensor([[True, True, False, False]])
    assert penalise_repetition(logits, seen, torch.tensor(2.0)).tolist() == [[1.0, -4.0, 2.0, -2.0]]


def test_a_seed_belongs_to_the_prompt_and_not_to_its_place():
    first, second, third = prompt_seeds([[1, 2], [3], [1, 2]], seed=5)
    assert prompt_seeds([[3], [1, 2], [1, 2]], seed=5) == [second, first, third]
    assert len({first, second, third}) == 3
    assert prompt_seeds([[3]], seed=6) != [second]
    # Concatenation does not make prompts equal.
    assert prompt_seeds([[1, 23]], seed=5) != prompt_seeds([[12, 3]], seed=5)


def test_uniforms_repeat_and_differ_by_row_and_step():
    uniforms = draw_uniforms([3, 4, 3], steps=50)
    assert torch.equal(uniforms[0], uniforms[2])
    assert len(uniforms[:2].unique()) == 100
    assert uniforms.min() >= 0
    assert uniforms.max() < 1

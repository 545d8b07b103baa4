import pytest
import torch
from transformers import GPT2Config, LlamaConfig, MistralConfig
from transformers.cache_utils import DynamicCache, DynamicLayer

from medtune.generation import cache as module
from medtune.generation.cache import RoomyLayer, holds_all_columns, keep_rows, roomy_cache

LLAMA = LlamaConfig(num_hidden_layers=2)


def states(rows, columns):
    return torch.randn(rows, 2, columns, 3), torch.randn(rows, 2, columns, 3)


def assert_equal(roomy, plain):
    for own, other in zip(roomy.layers, plain.layers, strict=True):
        torch.testing.assert_close(own.keys, other.keys, rtol=0, atol=0)
        torch.testing.assert_close(own.values, other.values, rtol=0, atol=0)
        assert own.get_seq_length() == other.get_seq_length()


def grow(caches, rows, columns):
    new = [states(rows, columns) for _ in range(2)]
    for cache in caches:
        for layer, (keys, values) in enumerate(new):
            given = cache.update(keys, values, layer)
            assert torch.equal(given[0], cache.layers[layer].keys)


def test_it_holds_what_transformers_own_holds(monkeypatch):
    monkeypatch.setattr(module, "ROOM", 3)
    roomy, plain = roomy_cache(LLAMA), DynamicCache(config=LLAMA)
    grow((roomy, plain), 4, 5)
    for _ in range(8):  # more than there is room for, twice
        grow((roomy, plain), 4, 1)
    assert_equal(roomy, plain)
    rows = torch.tensor([3, 1])
    for cache in (roomy, plain):
        keep_rows(cache, rows, 2)
    assert_equal(roomy, plain)
    assert roomy.layers[0].get_seq_length() == 11
    grow((roomy, plain), 2, 1)
    assert_equal(roomy, plain)


def test_a_column_more_copies_nothing():
    cache = roomy_cache(LLAMA)
    grow([cache], 4, 5)
    before = cache.layers[0].keys.data_ptr()
    grow([cache], 4, 1)
    assert cache.layers[0].keys.data_ptr() == before


def test_what_others_put_in_its_place_is_taken_up():
    """As joined rows do, or transformers' own methods."""
    roomy, plain = roomy_cache(LLAMA), DynamicCache(config=LLAMA)
    grow((roomy, plain), 2, 4)
    for cache in (roomy, plain):
        cache.batch_select_indices(torch.tensor([1]))
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys.repeat(3, 1, 1, 1), layer.values.repeat(3, 1, 1, 1)
    grow((roomy, plain), 3, 1)
    assert_equal(roomy, plain)


@pytest.mark.parametrize(
    ("network", "has_room"),
    [
        pytest.param(LLAMA, True, id="llama"),
        pytest.param(MistralConfig(num_hidden_layers=2, sliding_window=None), True, id="mistral"),
        pytest.param(MistralConfig(num_hidden_layers=2, sliding_window=8), False, id="sliding_window"),
        pytest.param(GPT2Config(n_layer=2), False, id="another_family_makes_its_own"),
    ],
)
def test_only_networks_whose_layers_keep_all_columns_get_it(network, has_room):
    cache = roomy_cache(network)
    assert (cache is not None) == has_room
    if cache is not None:
        assert [type(layer) for layer in cache.layers] == [RoomyLayer] * 2
        assert holds_all_columns(cache)


def test_columns_can_go_where_all_layers_hold_all():
    assert holds_all_columns(DynamicCache(config=LLAMA))
    assert not holds_all_columns(DynamicCache(config=MistralConfig(num_hidden_layers=2, sliding_window=8)))
    assert not holds_all_columns(None)
    assert type(DynamicCache(config=LLAMA).layers[0]) is DynamicLayer

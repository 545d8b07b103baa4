"""A key/value cache with room to grow: a new column is written in its place, and nothing is copied for it.

B rows, H heads, T columns, D head size.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig
from transformers.cache_utils import DynamicCache, DynamicLayer

from medtune.runtime.families import SAFE_FAMILIES

ROOM = 64  # columns; transformers' own layer copies all of them for each


class RoomyLayer(DynamicLayer):
    """transformers' layer with all columns; ``keys`` and ``values`` are views of tensors with room behind.

    Whoever puts other tensors in their place, as transformers' own methods do, is heard: room is then made
    anew.
    """

    room: Sequence[Tensor] = ()  # [B, H, T and more, D], of keys and of values
    views: Sequence[Tensor] = ()  # what was put into ``keys`` and ``values``

    def update(
        self, key_states: Tensor, value_states: Tensor, *arguments: Any, **more: Any
    ) -> tuple[Tensor, Tensor]:
        """Adds columns; gives all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[..., :0, :], value_states[..., :0, :]
        past, new = self.get_seq_length(), key_states.shape[-2]
        if not self._is_own() or self.room[0].shape[-2] < past + new:
            self._make_room(past + new + ROOM)
        for room, states in zip(self.room, (key_states, value_states), strict=True):
            room[..., past : past + new, :] = states
        return self._show(past + new)

    def keep(self, rows: Tensor, less: int) -> None:
        """Lets all rows but these go, and the first ``less`` columns; one copy for both."""
        columns = self.get_seq_length() - less
        self._make_room(columns + ROOM, rows, less)
        self._show(columns)

    def put(self, rows: Tensor, other: "RoomyLayer") -> None:
        """Writes another layer's columns, of which it has no more, to the end of these rows; copies no other.

        What the rows had in the columns before stays, and must be padding from now on.
        """
        if not self._is_own():
            self._make_room(self.get_seq_length() + ROOM)
            self._show(self.get_seq_length())
        start = self.get_seq_length() - other.get_seq_length()
        for own, new in zip((self.keys, self.values), (other.keys, other.values), strict=True):
            assert own is not None
            assert new is not None
            own[rows, :, start:] = new

    def _is_own(self) -> bool:
        return bool(self.views) and self.views[0] is self.keys and self.views[1] is self.values

    def _make_room(self, columns: int, rows: Tensor | None = None, less: int = 0) -> None:
        """Copies what is there, or some of it, to tensors of so many columns."""
        rooms: list[Tensor] = []
        for part in (self.keys, self.values):
            assert part is not None
            kept = part[..., less:, :] if rows is None else part[rows, :, less:]
            room = kept.new_empty((*kept.shape[:2], columns, kept.shape[-1]))
            room[..., : kept.shape[-2], :] = kept
            rooms.append(room)
        self.room = rooms

    def _show(self, columns: int) -> tuple[Tensor, Tensor]:
        keys, values = (room[..., :columns, :] for room in self.room)
        self.views = [keys, values]
        self.keys, self.values = keys, values
        return keys, values


def roomy_cache(config: PreTrainedConfig) -> DynamicCache | None:
    """A cache with room for a network; None where it makes its own, or has layers with sliding windows."""
    if config.model_type not in SAFE_FAMILIES:
        return None
    cache = DynamicCache(config=config)
    if not all(type(layer) is DynamicLayer for layer in cache.layers):
        return None
    # The constructor is transformers' own, which has no types.
    cache.layers = [RoomyLayer() for _ in cache.layers]  # type: ignore[no-untyped-call]
    return cache


def can_put(cache: Any) -> bool:
    """Whether rows of a cache can be written over in their places."""
    layers = getattr(cache, "layers", ())
    return len(layers) > 0 and all(type(layer) is RoomyLayer for layer in layers)


def holds_all_columns(cache: Any) -> bool:
    """Whether every layer of a cache holds every column, so that rows can join and columns can go."""
    layers = getattr(cache, "layers", ())
    return len(layers) > 0 and all(type(layer) in (DynamicLayer, RoomyLayer) for layer in layers)


def keep_rows(cache: Any, rows: Tensor, less: int) -> None:
    """Lets all rows but these leave a cache, and the first ``less`` columns."""
    for layer in cache.layers:
        if isinstance(layer, RoomyLayer):
            layer.keep(rows, less)
        else:
            layer.batch_select_indices(rows)
            if less:
                layer.keys, layer.values = layer.keys[..., less:, :], layer.values[..., less:, :]

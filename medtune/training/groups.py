"""Which parameters share a learning rate and a weight decay."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from medtune.config.schema import OptimConfig
from medtune.models.placing import decoder_layers


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Sorts the trained parameters into the optimizer's groups.

    Matrices decay; embeddings, norms, biases and other vectors do not. The learning rate of a group is
    ``lr``, times ``layer_lr_decay`` for each layer that lies above, or ``embedding_lr``, or times
    ``lora_plus_ratio``.

    Args:
        model: transformers' or peft's; its parameters may be divided over ranks already.
        config: Gives rates and decay.

    Returns:
        Groups with ``params``, ``lr``, ``weight_decay``, and ``low_rank``: whether they are matrices of a
        decoder layer, which GaLore and APOLLO project.
    """
    kinds = Kinds(model)
    # By whether they decay, not by how much, so that another decay makes no other groups on resume.
    groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = is_matrix(parameter) and id(parameter) not in kinds.embeddings
        low_rank = is_matrix(parameter) and id(parameter) in kinds.layers
        key = (learning_rate(name, parameter, kinds, config), decays, low_rank)
        groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": members,
            "lr": lr,
            "weight_decay": config.weight_decay if decays else 0.0,
            "low_rank": low_rank,
        }
        for (lr, decays, low_rank), members in groups.items()
    ]


class Kinds:
    """What the parameters of a network are, by their ids.

    Attributes:
        embeddings: Weights of embeddings, tied heads among them.
        head: Weights of the output head.
        layers: The number of the decoder layer, from 0, of each parameter that lies in one.
        num_layers: Decoder layers.
    """

    def __init__(self, model: Any) -> None:
        self.embeddings = {
            id(weight)
            for module in model.modules()
            if isinstance(module, nn.Embedding)
            for weight in module.parameters(recurse=False)
        }
        head: nn.Module | None = model.get_output_embeddings()
        self.head = set() if head is None else {id(weight) for weight in head.parameters()}
        layers = decoder_layers(model)
        self.layers = dict(self._numbered(layers))
        self.num_layers = len(layers)

    @staticmethod
    def _numbered(layers: list[nn.Module]) -> Iterator[tuple[int, int]]:
        for number, layer in enumerate(layers):
            yield from ((id(parameter), number) for parameter in layer.parameters())


def learning_rate(name: str, parameter: nn.Parameter, kinds: Kinds, config: OptimConfig) -> float:
    """The peak learning rate of one parameter."""
    own = id(parameter)
    if config.embedding_lr is not None and (own in kinds.embeddings or own in kinds.head):
        return config.embedding_lr
    # LoRA+ (arXiv:2402.12354): the matrices that start at zero learn faster than those that feed them.
    ratio = config.lora_plus_ratio if "lora_B" in name else None
    return config.lr * (ratio or 1.0) * config.layer_lr_decay ** layers_above(own, kinds)


def layers_above(own: int, kinds: Kinds) -> int:
    """How many steps of the layer-wise decay (arXiv:2003.10555) a parameter lies below the top.

    The last decoder layer lies one below the final norm and the head, the embedding below all layers.
    """
    if own in kinds.layers:
        return kinds.num_layers - kinds.layers[own]
    return kinds.num_layers + 1 if own in kinds.embeddings else 0


def is_matrix(parameter: nn.Parameter) -> bool:
    """Whether it has rows and columns."""
    # Under ZeRO-3 a parameter is an empty vector between its uses; its own shape is kept beside it.
    shape: tuple[int, ...] = getattr(parameter, "ds_shape", parameter.shape)
    # The factors of (IA)^3 are [1, n] and [n, 1]: decay would pull them to 0, which switches channels off.
    return sum(side > 1 for side in shape) > 1

"""Training a part of a network: layers at its ends, or parameters by name."""

from fnmatch import fnmatchcase

from transformers import PreTrainedModel

from medtune.config.schema import AdapterConfig
from medtune.models.parameter_counts import log_trained_share
from medtune.models.placing import decoder_layers
from medtune.runtime.errors import ConfigError


def freeze(model: PreTrainedModel, adapter: AdapterConfig) -> PreTrainedModel:
    """Freezes all of ``model`` but what ``adapter`` names.

    Raises:
        ConfigError: More layers than there are, or a pattern that no parameter's name fits.
    """
    model.requires_grad_(False)
    _thaw_layers(model, adapter)
    for pattern in adapter.trainable:
        _thaw_named(model, pattern)
    log_trained_share("freeze", model)
    return model


def _thaw_layers(model: PreTrainedModel, adapter: AdapterConfig) -> None:
    layers = decoder_layers(model)
    first, last = adapter.first_layers or 0, adapter.last_layers or 0
    for key, number in (("first_layers", first), ("last_layers", last)):
        if number > len(layers):
            raise ConfigError(f"adapter.{key}={number}, but the network has {len(layers)} decoder layers")
    for layer in (*layers[:first], *layers[len(layers) - last :]):
        layer.requires_grad_(True)


def _thaw_named(model: PreTrainedModel, pattern: str) -> None:
    # Tied weights go by either name.
    named = list(model.named_parameters(remove_duplicate=False))
    chosen = [parameter for name, parameter in named if fnmatchcase(name, pattern)]
    if not chosen:
        layer = next((name for name, _ in named if ".0." in name), named[0][0])
        raise ConfigError(
            f"adapter.trainable names {pattern}, which no parameter's name fits; names are such as "
            f"{named[0][0]}, {layer} and {named[-1][0]}, and * stands for any text"
        )
    for parameter in chosen:
        parameter.requires_grad_(True)

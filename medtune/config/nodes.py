"""Checks open nodes: other people's constructors, whose arguments the schema does not name."""

from collections.abc import Iterator, Mapping
from typing import Any

from medtune.config.instantiate import TARGET
from medtune.config.load import show
from medtune.config.schema import Config
from medtune.config.signatures import Signature, signature_of
from medtune.config.suggest import did_you_mean, nearest

TRAINER = "lightning.pytorch.Trainer"
# What the worker offers to loggers beside the node's own keys.
OFFERED = frozenset({"config", "folder"})
# Targets whose further arguments (**more) go to another callable.
PASSES_ON = {"medtune.training.strategies.zero": "lightning.pytorch.strategies.DeepSpeedStrategy"}
# Arguments of the Trainer that medtune sets, and the key to set instead.
TRAINER_KEYS = {
    "accelerator": "trainer.accelerator",
    "strategy": "strategy=zero3 (or another option)",
    "devices": "trainer.devices",
    "num_nodes": "trainer.num_nodes",
    "precision": "trainer.precision",
    "logger": "logger=wandb (or another option)",
    "callbacks": "callbacks.NAME._target_",
    "max_epochs": "trainer.max_epochs",
    "max_steps": "trainer.max_steps",
    "gradient_clip_val": "trainer.gradient_clip_norm",
    "accumulate_grad_batches": "data.global_batch_size",
    "log_every_n_steps": "trainer.log_every_n_steps",
    "val_check_interval": "trainer.val_every_n_steps",
    "check_val_every_n_epoch": "trainer.val_every_n_steps",
    "limit_val_batches": "trainer.val_max_rows",
    "enable_progress_bar": "trainer.progress",
    "enable_checkpointing": "checkpoint.every_n_steps",
    "default_root_dir": "run_dir",
    "use_distributed_sampler": "data.global_batch_size (rows are divided over the devices already)",
}


def node_problems(config: Config) -> Iterator[str]:
    """What does not fit in ``strategy``, ``logger``, ``callbacks`` and ``trainer.extra``."""
    if config.strategy:
        yield from target_problems("strategy", config.strategy, frozenset())
    for group, nodes, offered in (
        ("logger", config.logger, OFFERED),
        ("callbacks", config.callbacks, frozenset()),
    ):
        for name, node in nodes.items():
            yield from target_problems(f"{group}.{name}", node, offered)
    yield from extra_problems(config.trainer.extra)


def target_problems(where: str, node: Any, offered: frozenset[str]) -> Iterator[str]:
    """What keeps one open node from being built."""
    if not isinstance(node, Mapping):
        yield f"{where}={show(node)} is not a node: it needs {where}.{TARGET}, which names what to build"
        return
    target = node.get(TARGET)
    if not isinstance(target, str):
        yield f"{where} has no {TARGET}: set {where}.{TARGET} to the dotted path of what to build"
        return
    signature = signature_behind(target)
    if signature is None:
        yield f"{where}.{TARGET}={target} does not exist" + nearby_target(target)
        return
    arguments = {key: value for key, value in node.items() if key != TARGET}
    yield from argument_problems(where, target, signature, arguments, offered)
    for key, value in arguments.items():
        if isinstance(value, Mapping) and TARGET in value:
            yield from target_problems(f"{where}.{key}", value, frozenset())


def signature_behind(target: str) -> Signature | None:
    """The signature of a target, with the names that it passes on."""
    signature = signature_of(target)
    behind = signature_of(PASSES_ON[target]) if target in PASSES_ON else None
    if signature is None or behind is None:
        return signature
    names = tuple(dict.fromkeys([*signature.names, *behind.names]))
    return Signature(names, signature.required, behind.open)


def argument_problems(
    where: str, target: str, signature: Signature, arguments: Mapping[str, Any], offered: frozenset[str]
) -> Iterator[str]:
    """Arguments that the target does not take, and those that it needs and does not get."""
    own = [name for name in signature.names if name not in offered]
    for key, value in arguments.items():
        if key not in signature.names and not signature.open:
            near = nearest(key, own)
            meant = did_you_mean(f"{where}.{near}" if near else None)
            yield f"{where}.{key}={show(value)}: {target} takes no {key}{meant}"
    for name in signature.names:
        if name in signature.required and name not in arguments and name not in offered:
            yield f"{where}.{name} is missing: {target} needs it"


def nearby_target(target: str) -> str:
    """A suggestion for a target whose last name is misspelt."""
    from medtune.config.signatures import module_file, parse_module

    package, _, name = target.rpartition(".")
    path = module_file(package)
    if path is None or path.suffix != ".py":
        return f": there is no module {package}" if package else ""
    near = nearest(name, parse_module(package, path).names)
    return did_you_mean(f"{package}.{near}" if near else None)


def extra_problems(extra: Mapping[str, Any]) -> Iterator[str]:
    """What does not fit in ``trainer.extra``."""
    if not extra:
        return
    for key in extra:
        if key in TRAINER_KEYS:
            yield f"trainer.extra.{key}={show(extra[key])}: medtune sets it itself; use {TRAINER_KEYS[key]}"
    others = {key: value for key, value in extra.items() if key not in TRAINER_KEYS}
    signature = signature_of(TRAINER)
    if signature is not None:
        yield from argument_problems("trainer.extra", TRAINER, signature, others, frozenset())

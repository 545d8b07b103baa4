"""Our additions to what a YAML of ``conf/`` may say in ``${...}``."""

from pathlib import Path

from omegaconf import OmegaConf

PROJECT = Path(__file__).resolve().parents[2]
CONF = PROJECT / "conf"


def register_resolvers() -> None:
    """Makes ``${project:PATH}`` available: a path below the repository's root."""
    OmegaConf.register_new_resolver("project", lambda path="": str(PROJECT / path), replace=True)

"""Who speaks in a conversation: the spellings that are known, and the settings that add to them."""

from collections.abc import Iterator, Mapping

from medtune.config.suggest import did_you_mean, nearest

ROLES = ("system", "user", "assistant")

SPELLINGS = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatbot": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
"""A speaker's spelling in OpenAI's, ShareGPT's and their relatives' files, and the role that it means."""


def role_problems(roles: Mapping[str, str], key: str = "data.roles") -> Iterator[str]:
    """What is wrong with ``data.roles``."""
    for spelling, role in roles.items():
        if role not in ROLES:
            yield f"{key}.{spelling}={role} is none of {', '.join(ROLES)}{did_you_mean(nearest(role, ROLES))}"

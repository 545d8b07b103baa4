"""Reads a request's JSON strictly: a field is right, or its name and what is wrong with it are told."""

import json
from collections.abc import Mapping
from typing import Any

from medtune.config.suggest import did_you_mean, nearest
from medtune.serving.errors import Refusal, wrong_field

SHOWN = 40  # characters of a wrong value that are told


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a request's body.

    Raises:
        Refusal: 400, it is none.
    """
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise _no_json(f"it is not UTF-8 (byte {error.start})") from error
    except RecursionError as error:
        raise _no_json("it is nested too deeply") from error
    except ValueError as error:  # of json, of int() for thousands of digits, or ours
        raise _no_json(str(error)) from error
    if not isinstance(value, dict):
        raise _no_json(f"it must be an object, found {show(value)}")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _no_json(why: str) -> Refusal:
    return Refusal(400, f"the body cannot be read as JSON: {why}", code="invalid_json")


def show(value: Any) -> str:
    """A wrong value, as far as it fits a message."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "an array"
    # ensure_ascii, so that half of a surrogate pair can be told too.
    text = json.dumps(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


class Fields:
    """The fields of one JSON object; null counts as absent.

    Args:
        values: The object.
        where: What its fields' names begin with in messages.
    """

    def __init__(self, values: Mapping[str, Any], where: str = "") -> None:
        self.values = values
        self.where = where
        self.asked: list[str] = []

    def take(self, name: str) -> Any:
        """A field as it is."""
        self.asked.append(name)
        return self.values.get(name)

    def name_of(self, name: str) -> str:
        """The field's name in messages."""
        return f"{self.where}{name}"

    def number(self, name: str, default: float, low: float, high: float, *, above: bool = False) -> float:
        """A number from ``low`` (or above it) to ``high``."""
        value = self.take(name)
        if value is None:
            return default
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise wrong_field(self.name_of(name), f"must be a number, found {show(value)}")
        if not low <= value <= high or (above and value == low):
            start = f"above {low:g}" if above else f"at least {low:g}"
            raise wrong_field(
                self.name_of(name), f"must be {start} and at most {high:g}, found {show(value)}"
            )
        return float(value)

    def integer(self, name: str, default: int | None, low: int, high: int) -> int | None:
        """A whole number from ``low`` to ``high``."""
        value = self.take(name)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool):
            raise wrong_field(self.name_of(name), f"must be a whole number, found {show(value)}")
        if not low <= value <= high:
            raise wrong_field(self.name_of(name), f"must be from {low} to {high}, found {show(value)}")
        return value

    def flag(self, name: str) -> bool:
        """True or false; absent is false."""
        value = self.take(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise wrong_field(self.name_of(name), f"must be true or false, found {show(value)}")
        return value

    def text(self, name: str) -> str:
        """Text that must be there."""
        return checked_text(self.take(name), self.name_of(name))

    def refuse_unless(self, name: str, neutral: tuple[Any, ...], why: str) -> None:
        """A field of OpenAI's that is accepted only where it asks for nothing."""
        value = self.take(name)
        # By type too: False == 0.
        if value is not None and not any(value == one and type(value) is type(one) for one in neutral):
            raise Refusal(
                422, f"{self.name_of(name)} {why}", param=self.name_of(name), code="unsupported_parameter"
            )

    def refuse_rest(self) -> None:
        """Fields that nobody asked for."""
        for name in self.values:
            if name not in self.asked:
                shown = self.name_of(show(name)[1:-1])
                meant = did_you_mean(nearest(name[:SHOWN], self.asked))
                raise Refusal(422, f"there is no field {shown}{meant}", param=shown, code="unknown_parameter")


def checked_text(value: Any, name: str) -> str:
    """Text that can be encoded."""
    if not isinstance(value, str):
        found = "nothing" if value is None else show(value)
        raise wrong_field(name, f"must be a string, found {found}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise wrong_field(name, f"holds half of a surrogate pair (character {error.start})") from error
    return value

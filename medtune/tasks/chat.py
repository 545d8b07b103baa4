"""``task=chat``: a conversation on the terminal, or with the prompts of a pipe."""

import io
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from medtune.config.schema import Config
from medtune.data.tokens.templates import conversation
from medtune.generation.prompts import answer_room
from medtune.generation.responder import Responder, build_responder
from medtune.generation.text import TextStream
from medtune.runtime.record import RunFolder, write_jsonl
from medtune.tasks.generate import warn_of_untrained
from medtune.tasks.weights import settle_weights

HELP = """\
/clear             forget the conversation
/system TEXT       set the system prompt; "" for none; alone: show it
/retry             answer the last prompt anew
/save FILE         write the conversation (JSON lines, data.format=messages); /save -f FILE replaces a file
/set KEY=VALUE...  temperature, top_p, top_k, repetition_penalty, max_new_tokens, seed; alone: show them
/exit              end (so do Ctrl-D and Ctrl-C; while an answer comes, Ctrl-C stops the answer)
/help              show this
A line that begins with a space is sent even if it looks like a command.
"""
SETTABLE: dict[str, type[int] | type[float]] = {
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "repetition_penalty": float,
    "max_new_tokens": int,
    "seed": int,
}


def run(config: Config, folder: RunFolder) -> None:
    """Answers each line of standard input until /exit or its end. Writes nothing to ``folder``."""
    del folder
    warn_of_untrained(config)
    is_terminal = sys.stdin.isatty()
    with settle_weights(config) as weights:
        chat = Chat(
            build_responder(config, weights),
            multi_turn=config.chat.multi_turn,
            system=config.chat.system,
            stops_answers=is_terminal,
        )
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # a broken byte in a pipe is no reason to end
    if is_terminal:
        sys.stdout.write("Type a prompt, or /help.\n")
    try:
        for line in read_lines(sys.stdin):
            if not chat.take(line, sys.stdout):
                break
    except KeyboardInterrupt:
        sys.stdout.write("\n")


def read_lines(source: TextIO) -> Iterator[str]:
    """The lines of ``source``; on a terminal with a mark in front and the editing keys of a shell."""
    if not source.isatty():
        yield from (line.rstrip("\r\n") for line in source)
        return
    import readline  # noqa: F401  (input() uses it when it is there)

    while True:
        try:
            yield input("> ")
        except EOFError:
            sys.stdout.write("\n")
            return


class Chat:
    """A conversation with a model.

    Args:
        responder: Who answers.
        multi_turn: Whether the model is shown what was said before.
        system: The system prompt. None: the template's own.
        stops_answers: Whether Ctrl-C stops the answer that comes, rather than the program.

    Raises:
        ValueError: The template has no place for the system prompt.
    """

    def __init__(
        self,
        responder: Responder,
        *,
        multi_turn: bool = True,
        system: str | None = None,
        stops_answers: bool = False,
    ) -> None:
        self.responder = responder
        self.settings = responder.settings
        self.multi_turn = multi_turn
        self.stops_answers = stops_answers
        self.history: list[tuple[str, str]] = []
        self.system: str | None = None
        self.retries = 0  # of the last prompt; each draws otherwise
        self.commands: dict[str, Callable[[str, TextIO], None]] = {
            "/clear": self._clear,
            "/system": self._system,
            "/retry": self._retry,
            "/save": self._save,
            "/set": self._set,
            "/help": lambda _, out: print(HELP, end="", file=out),
        }
        if system is not None:
            self._use_system(system)

    def take(self, line: str, out: TextIO) -> bool:
        """Obeys or answers a line; an empty one is passed over. False: the conversation is over."""
        if not line.strip():
            return True
        try:
            if line.startswith("/"):
                return self._obey(line.strip(), out)
            self.retries = 0
            self._answer(line.strip(), out)
        except ValueError as error:  # such as a prompt that is too long alone, or a setting out of its range
            out.write(f"[{error}]\n")
        out.flush()
        return True

    def _obey(self, line: str, out: TextIO) -> bool:
        command, _, rest = line.partition(" ")
        if command == "/exit":
            return False
        if command in self.commands:
            self.commands[command](rest.strip(), out)
        else:
            out.write(f"[there is no command {command}; /help shows them]\n")
        out.flush()
        return True

    def _clear(self, rest: str, out: TextIO) -> None:
        del rest
        self.history.clear()
        out.write("[the conversation is forgotten]\n")

    def _system(self, text: str, out: TextIO) -> None:
        if text:
            self._use_system("" if text in ('""', "''") else text)
        own = self.responder.template.default_system if self.system is None else self.system
        out.write(f"[system prompt: {own}]\n" if own else "[no system prompt]\n")

    def _use_system(self, text: str) -> None:
        self.responder.template.prompt_ids("?", system=text)  # raises where there is no place for one
        self.system = text

    def _retry(self, rest: str, out: TextIO) -> None:
        del rest
        if not self.history:
            raise ValueError("there is no prompt to answer anew")
        if self.settings.is_greedy:
            out.write("[temperature=0 gives the same answer again; /set temperature=0.7 draws others]\n")
        prompt, _ = before = self.history.pop()
        self.retries += 1
        try:
            self._answer(prompt, out)
        except ValueError:
            self.history.append(before)
            raise

    def _save(self, rest: str, out: TextIO) -> None:
        may_replace = rest.startswith("-f ")
        name = rest.removeprefix("-f ").strip()
        if not name:
            raise ValueError("/save FILE: name a file")
        if not self.history:
            raise ValueError("there is nothing to save yet")
        path = Path(name).expanduser()
        if path.is_dir():
            raise ValueError(f"{path} is a folder; name a file in it")
        if path.exists() and not may_replace:
            raise ValueError(f"{path} is there already; /save -f {name} replaces it")
        rows = self._conversations()
        try:
            write_jsonl(path, rows)
        except OSError as error:
            raise ValueError(f"{path} cannot be written: {error.strerror}") from error
        out.write(f"[{len(self.history)} turns are in {path}]\n")

    def _conversations(self) -> list[dict[str, Any]]:
        """What was said, in OpenAI's form: one conversation, or one for each prompt answered alone."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        turns = [
            [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
            for prompt, answer in self.history
        ]
        if self.multi_turn:
            turns = [[message for turn in turns for message in turn]]
        return [{"messages": [*system, *turn]} for turn in turns]

    def _set(self, rest: str, out: TextIO) -> None:
        changes: dict[str, Any] = dict(map(parse_setting, rest.split()))
        self.settings = replace(self.settings, **changes)
        values = ", ".join(f"{name}={getattr(self.settings, name)}" for name in SETTABLE)
        out.write(f"[{values}]\n")

    def _answer(self, prompt: str, out: TextIO) -> None:
        """Writes the answer as it comes and remembers it."""
        ids = self._prompt_ids(prompt, out)
        settings = replace(self.settings, seed=self.settings.seed + self.retries)
        text = TextStream(self.responder.tokenizer)
        pieces: list[str] = []
        mark = ""
        try:
            for token in self.responder.engine.stream(ids, settings):
                pieces.append(text.push(token))
                out.write(pieces[-1])
                out.flush()
        except KeyboardInterrupt:
            if not self.stops_answers:
                raise
            mark = "\n[stopped]"
        pieces.append(text.end())
        out.write(f"{pieces[-1]}{mark}\n")
        out.flush()
        self.history.append((prompt, "".join(pieces)))

    def _prompt_ids(self, prompt: str, out: TextIO) -> list[int]:
        """Ids of the conversation so far; its first turns are forgotten when they leave no room."""
        context, turns, template = self.responder.engine.context, len(self.history), self.responder.template
        if not self.multi_turn:
            return self._fitted(prompt, [], out)
        ids = template.prompt_ids(prompt, self.history, self.system)
        if context is None:
            return ids
        room = answer_room(self.settings.max_new_tokens, context)
        while self.history and len(ids) + room > context:
            del self.history[0]
            ids = template.prompt_ids(prompt, self.history, self.system)
        if forgotten := turns - len(self.history):
            out.write(
                f"[the first {forgotten} of {turns} turns no longer fit the model's context of {context} "
                "tokens and are forgotten]\n"
            )
        return self._fitted(prompt, self.history, out)

    def _fitted(self, prompt: str, history: Sequence[tuple[str, str]], out: TextIO) -> list[int]:
        """Ids of a conversation, its last prompt cut in the middle where that alone is too long."""
        responder = replace(self.responder, settings=self.settings)
        fitted = responder.prompt(conversation(prompt, history, self.system))
        if fitted.cut:
            out.write(f"[{fitted.cut} tokens in the middle of the prompt do not fit and are left out]\n")
        return fitted.ids


def parse_setting(word: str) -> tuple[str, int | float]:
    """The key and value of ``key=value``.

    Raises:
        ValueError: It is no sampling key, or no number.
    """
    key, equals, text = word.partition("=")
    if key not in SETTABLE or not equals:
        raise ValueError(f"/set {word}: write KEY=VALUE, with a key of {', '.join(SETTABLE)}")
    try:
        value = SETTABLE[key](text)
    except ValueError as error:
        raise ValueError(f"/set {word}: {key} must be a number") from error
    if not math.isfinite(value):
        raise ValueError(f"/set {word}: {key} must be finite")
    return key, value

"""``task=chat``: a conversation on the terminal, or with the prompts of a pipe."""

import io
import sys
from collections.abc import Iterator
from typing import TextIO

from medtune.config.schema import Config
from medtune.generation.responder import Responder, build_responder
from medtune.generation.text import TextStream
from medtune.runtime.record import RunFolder
from medtune.tasks.generate import warn_of_untrained
from medtune.tasks.weights import settle_weights

HELP = """\
/clear  forget the conversation
/exit   end (so do Ctrl-D and Ctrl-C)
/help   show this
A line that begins with a space is sent even if it looks like a command.
"""


def run(config: Config, folder: RunFolder) -> None:
    """Answers each line of standard input until /exit or its end. Writes nothing to ``folder``."""
    del folder
    warn_of_untrained(config)
    with settle_weights(config) as weights:
        chat = Chat(build_responder(config, weights))
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # a broken byte in a pipe is no reason to end
    if sys.stdin.isatty():
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
    """A conversation with a model."""

    def __init__(self, responder: Responder) -> None:
        self.responder = responder
        self.history: list[tuple[str, str]] = []

    def take(self, line: str, out: TextIO) -> bool:
        """Obeys or answers a line; an empty one is passed over. False: the conversation is over."""
        if not line.strip():
            return True
        if line.startswith("/"):
            return self._obey(line.strip(), out)
        try:
            self._answer(line.strip(), out)
        except ValueError as error:  # the prompt alone is too long
            out.write(f"[{error}]\n")
        return True

    def _obey(self, command: str, out: TextIO) -> bool:
        if command == "/clear":
            self.history.clear()
            out.write("[the conversation is forgotten]\n")
        elif command == "/help":
            out.write(HELP)
        elif command != "/exit":
            out.write(f"[there is no command {command}; /help shows them]\n")
        out.flush()
        return command != "/exit"

    def _answer(self, prompt: str, out: TextIO) -> None:
        """Writes the answer as it comes and remembers it."""
        ids = self._prompt_ids(prompt, out)
        text = TextStream(self.responder.tokenizer)
        pieces = []
        for token in self.responder.engine.stream(ids, self.responder.settings):
            pieces.append(text.push(token))
            out.write(pieces[-1])
            out.flush()
        pieces.append(text.end())
        out.write(f"{pieces[-1]}\n")
        out.flush()
        self.history.append((prompt, "".join(pieces)))

    def _prompt_ids(self, prompt: str, out: TextIO) -> list[int]:
        """Ids of the conversation so far; its first turns are forgotten when they leave no room."""
        context, turns = self.responder.engine.context, len(self.history)
        ids = self.responder.template.prompt_ids(prompt, self.history)
        if context is None:
            return ids
        room = min(self.responder.settings.max_new_tokens, context // 2)
        while self.history and len(ids) + room > context:
            del self.history[0]
            ids = self.responder.template.prompt_ids(prompt, self.history)
        if forgotten := turns - len(self.history):
            out.write(
                f"[the first {forgotten} of {turns} turns no longer fit the model's context of {context} "
                "tokens and are forgotten]\n"
            )
        return ids

"""Help and wrong arguments in the user's language: what typer makes of the commands, translated when it is needed.

The texts of the commands are English. Each command looks for `--lang` before it parses its arguments, because `--help`
and errors end the parsing. English help is typer's; the frames of rich cut lines without spaces, as Chinese has.
"""

import os
import re
from collections.abc import Iterator
from typing import Any

from typer.core import TyperCommand, TyperGroup

from sigmoidcore.language import LANGUAGES, VARIABLE, _, language, speaking
from unstuck.language.errors import InputError
from unstuck.language.terminal import text_width, width, wrapped

WRONG_ARGUMENTS = (
    "No such option: {name} (Possible options: {names})",
    "No such option: {name}",
    "No such command '{name}'",
    "Missing argument '{name}'",
    "Missing option '{name}'",
    "Got unexpected extra argument(s) ({arguments})",
    "Option '{name}' requires an argument",
    "Option '{name}' does not take a value",
    "Invalid value for '{name}': Input should be a valid integer, unable to parse string as an integer",
    "Invalid value for '{name}': Input should be greater than or equal to {number}",
    "Invalid value for '{name}': Input should be less than or equal to {number}",
    "Invalid value for '{name}': Value error, '{value}' is not one of {values}",
    "Invalid value for '{name}': '{value}' is not one of {values}",
    "Invalid value for '{name}': {value} is not in the range {low}<=x<={high}",
    "Invalid value for '{name}': {value} is not in the range x>={number}",
    "Invalid value for '{name}': {reason}",
)
"""Sentences of typer's versions about arguments, without their full stop, the more special ones first."""
LEFT = 26
"""Columns of the options in the help; a longer one has its text below."""


def use_language(name: str | None) -> None:
    """Let all that follows be in this language; None: in that of the environment."""
    if name is not None:
        os.environ[VARIABLE] = name
    try:
        language()
    except ValueError as error:
        with speaking(LANGUAGES[0]):
            raise InputError(str(error)) from error


def wrong_arguments(sentence: str) -> str:
    """A sentence of typer about arguments, in the user's language if it is known, without its full stop."""
    sentence = sentence.rstrip(".")
    for text in WRONG_ARGUMENTS:
        pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.+)", re.escape(text))
        found = re.fullmatch(pattern, sentence)
        if found is not None:
            return _(text, **found.groupdict())
    return sentence


class Translating:
    """A command of typer whose `--lang` holds for its help and its errors, too."""

    help: str | None

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Parse the arguments, after the language is known."""
        parser: Any = self.make_parser(ctx)  # type: ignore[attr-defined]
        parser.ignore_unknown_options, resilient, ctx.resilient_parsing = True, ctx.resilient_parsing, True
        options, *_rest = parser.parse_args(args=list(args))
        ctx.resilient_parsing = resilient
        use_language(options.get("lang"))
        return super().parse_args(ctx, args)  # type: ignore[misc]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        if language() == LANGUAGES[0]:
            super().format_help(ctx, formatter)  # type: ignore[misc]
            return
        parameters = self.get_params(ctx)  # type: ignore[attr-defined]
        arguments = [(_left(p), _right(p)) for p in parameters if p.param_type_name == "argument"]
        options = [(_left(p), _right(p)) for p in parameters if p.param_type_name == "option"]
        commands = [(name, _(command.help)) for name, command in getattr(self, "commands", {}).items()]
        pieces = self.collect_usage_pieces(ctx)  # type: ignore[attr-defined]
        usage = _("Usage: {command}", command=" ".join((ctx.command_path, *pieces)))
        lines = [*wrapped(usage, width()), "", *wrapped(_(self.help or ""), width(), "  ")]
        for title, rows in ((_("Arguments"), arguments), (_("Options"), options), (_("Commands"), commands)):
            lines += ["", title, *_listing(rows)] if rows else []
        formatter.write("\n".join(lines))


class Command(Translating, TyperCommand):
    """A command."""


class Group(Translating, TyperGroup):
    """The command with all others."""


def _left(parameter: Any) -> str:
    """How a parameter is typed."""
    metavar = parameter.metavar or ""
    if parameter.param_type_name == "argument":
        return metavar
    return " ".join(filter(None, (", ".join((*parameter.opts, *parameter.secondary_opts)), metavar)))


def _right(parameter: Any) -> str:
    """What a parameter means, its default, and whether it is required."""
    text, words, default = (parameter.help or "").partition(" Default: ")
    default = default.removesuffix(".")
    if parameter.show_default and not words:
        shown = parameter.show_default
        default = shown if isinstance(shown, str) else "" if parameter.default in (None, False) else parameter.default
    sentences = [_(text)] if text else []
    sentences += [_("Default: {value}.", value=_(str(default)))] if default != "" else []
    sentences += [_("Required.")] if parameter.required else []
    return "".join(sentences)


def _listing(rows: list[tuple[str, str]]) -> Iterator[str]:
    """What is typed, and its meaning beside it."""
    left = min(LEFT, max(text_width(typed) for typed, _meaning in rows))
    indent = " " * (left + 4)
    for typed, meaning in rows:
        beside = text_width(typed) <= left
        first = f"  {typed}{' ' * (left - text_width(typed))}  " if beside else indent
        yield from () if beside else (f"  {typed}",)
        yield from wrapped(meaning, width(), first, indent)

"""`s3s3 completion`: what a shell has to know to complete verbs, options and their values."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator, Sequence

from . import command

_COMMANDS = {"s3s3listen": "listen", "s3s3bucket": "bucket"}
"""Commands that are one verb."""

_FUNCTION = """\
_s3s3() {
  local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} verb=${COMP_WORDS[1]} words=
  case ${COMP_WORDS[0]##*/} in
@COMMANDS@
    *) if [ "$COMP_CWORD" -eq 1 ]; then COMPREPLY=($(compgen -W "@VERBS@" -- "$word")); return; fi ;;
  esac
  case "$verb $previous" in
@VALUES@
  esac
  case "$verb" in
@OPTIONS@
  esac
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -o default -F _s3s3 s3s3 @NAMES@
"""
"""Where nothing is found, `-o default` completes names of files (bash manual, "Programmable Completion Builtins")."""

_FOR_ZSH = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"


def main(argv: list[str] | None = None) -> int:
    """Print it; return the exit status."""
    shell = command_line().parse_args(argv).shell
    print((_FOR_ZSH if shell == "zsh" else "") + _script(), end="")
    return command.OK


def command_line() -> argparse.ArgumentParser:
    """Return what reads the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="s3s3 completion",
        description="Print what completes s3s3's verbs, options and their values.",
        epilog='bash: eval "$(s3s3 completion bash)" in ~/.bashrc. zsh: the same with zsh, in ~/.zshrc.',
    )
    parser.add_argument("shell", choices=("bash", "zsh"))
    return parser


def _script() -> str:
    verbs = importlib.import_module(".main", __package__).VERBS  # which imports this module when it is asked for
    values, of_verbs = [], []
    for verb in verbs:
        parser: argparse.ArgumentParser = importlib.import_module(f".{verb}", __package__).command_line()
        actions = parser._actions  # as every tool that writes completions from argparse reads them
        values += list(_values(verb, actions))
        shown = [action for action in actions if action.help != argparse.SUPPRESS]
        names = [name for action in shown for name in action.option_strings if name.startswith("--")]
        of_verbs.append(f'    {verb}) words="{" ".join([*_choices(actions), *names])}" ;;')
    parts = {
        "COMMANDS": "\n".join(f"    {name}) verb={verb} ;;" for name, verb in _COMMANDS.items()),
        "VERBS": " ".join(verbs),
        "VALUES": "\n".join(values),
        "OPTIONS": "\n".join(of_verbs),
        "NAMES": " ".join(_COMMANDS),
    }
    script = _FUNCTION
    for name, text in parts.items():
        script = script.replace(f"@{name}@", text)
    return script


def _values(verb: str, actions: Sequence[argparse.Action]) -> Iterator[str]:
    """Yield what may follow an option that takes a value: its choices, or names of files."""
    for action in actions:
        if action.option_strings and action.nargs != 0:
            after = "|".join(f'"{verb} {name}"' for name in action.option_strings)
            choices = " ".join(map(str, action.choices or ()))
            found = f'$(compgen -W "{choices}" -- "$word")' if choices else ""
            yield f"    {after}) COMPREPLY=({found}); return ;;"


def _choices(actions: Sequence[argparse.Action]) -> list[str]:
    """Return the words that may stand without an option."""
    return [str(choice) for action in actions if not action.option_strings for choice in action.choices or ()]

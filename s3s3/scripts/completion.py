"""`s3s3 completion`: print a shell completion script, and answer the shell when it completes a command line."""

from __future__ import annotations

import argparse
import importlib
import os
from pathlib import Path

import argcomplete
from argcomplete.lexers import split_line
from argcomplete.shell_integration import shellcode

from . import cli

COMMANDS = ("s3s3", "s3s3listen", "s3s3bucket")

SETUP = """add to your shell's configuration:
  ~/.bashrc                   eval "$(s3s3 completion bash)"
  ~/.zshrc                    eval "$(s3s3 completion zsh)"
  ~/.config/fish/config.fish  s3s3 completion fish | source
"""

_ZSH_SETUP = "(( $+functions[compdef] )) || { autoload -U compinit && compinit }\n"


def main(argv: list[str] | None = None) -> int:
    """Print the script; return the exit status."""
    shell = command_line().parse_args(argv).shell
    print((_ZSH_SETUP if shell == "zsh" else "") + shellcode(COMMANDS, shell=shell), end="")
    return cli.OK


def command_line() -> cli.CommandParser:
    """Return the parser of the command's arguments."""
    shells = ("bash", "zsh", "fish")
    login_shell = Path(os.environ.get("SHELL", "")).name
    parser = cli.CommandParser(
        prog="s3s3 completion",
        description="Print a completion script for commands, options, routes, destinations and\ndead letters.",
        epilog=SETUP,
    )
    parser.add_argument("shell", nargs="?", choices=shells, default=login_shell if login_shell in shells else "bash",
                        help="default: the login shell")  # fmt: skip
    return parser


def complete_command_line(verbs: dict[str, str]) -> None:
    """Print completions of the command line in $COMP_LINE for the shell, and exit.

    Only the module of the verb on that line is imported. `verbs` maps each verb to its description.
    """
    line, cursor = os.environ["COMP_LINE"], int(os.environ["COMP_POINT"])
    words = split_line(line, cursor)[3]  # those before the one at the cursor
    if len(words) > 1 and words[1] in verbs:
        os.environ["_ARGCOMPLETE"] = "2"  # the verb is part of the program's name, not an argument
        parser: argparse.ArgumentParser = importlib.import_module(f".{words[1]}", __package__).command_line()
    else:
        parser = argparse.ArgumentParser("s3s3")
        parser.add_argument("--version", action="store_true")
        subparsers = parser.add_subparsers()
        for verb, description in verbs.items():
            subparsers.add_parser(verb, help=description)
    argcomplete.autocomplete(parser)

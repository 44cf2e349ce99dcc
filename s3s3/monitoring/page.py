"""Render the status page and its list of dead letters."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources

from .. import __version__
from ..queue.base import DeadLetter
from .formatting import count_noun, time_text
from .fragments import html_text, processes, route, summary
from .snapshot import MAX_DEAD_LETTERS_SHOWN, RouteView


class Page:
    """The status page.

    Args:
        can_act: show the buttons of dead letters.
    """

    def __init__(self, *, can_act: bool) -> None:
        folder = resources.files(__package__)
        self._style = folder.joinpath("page.css").read_text()
        self._script = folder.joinpath("page.js").read_text()
        self._can_act = can_act

    @property
    def policy(self) -> str:
        """The Content-Security-Policy: this style and this script only, and no embedding."""
        return (
            f"default-src 'none'; style-src '{_hash(self._style)}'; script-src '{_hash(self._script)}'; "
            "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )

    def render(self, parts: Mapping[str, str], message: str = "") -> str:
        """Return the whole page. `message`: the result of the last action."""
        access = """<p class="token"><label for="token">Token for retry and drop</label>
<input id="token" name="token" type="password" form="dead-letters-form" autocomplete="current-password" required></p>"""
        if not self._can_act:
            access = """<p class="hint">Read-only: set <code>[http] token</code> to retry and drop dead letters here, \
or use <code>s3s3 jobs</code>.</p>"""
        return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>s3s3 status</title>
<style>{self._style}</style>
</head>
<body>
<header>
<h1>s3s3</h1>
<p id="live" class="live"><noscript>Live updates need JavaScript: <a href="./">reload</a> to update.</noscript></p>
</header>
<main>
{f'<p class="message" role="status">{html_text(message)}</p>' if message else ""}
<div id="summary">{parts["summary"]}</div>
<div id="routes">{parts["routes"]}</div>
<section aria-labelledby="processes-title"><h2 id="processes-title">Processes</h2>
<div id="processes">{parts["processes"]}</div></section>
<section aria-labelledby="dead-letters-title"><h2 id="dead-letters-title">Dead letters</h2>
{access}
<div id="dead-letters">{parts["dead-letters"]}</div></section>
</main>
<footer>s3s3 {escape(__version__)} · <a href="metrics">metrics</a> · <a href="healthz">healthz</a> ·
<a href="readyz">readyz</a></footer>
<script>{self._script}</script>
</body>
</html>
"""

    def parts(self, views: Sequence[RouteView], other_problems: Sequence[str] = ()) -> dict[str, str]:
        """Return the parts of the page by element id."""
        groups = [
            self._group(view, name, letters)
            for view in views
            for name, letters in view.dead_letters.items()
            if letters
        ]  # fmt: skip
        dead_letters = "\n".join(groups) or '<p class="nothing">None.</p>'
        if groups and self._can_act:
            dead_letters = f'<form id="dead-letters-form" method="post" action="dead-letters">{dead_letters}</form>'
        return {
            "summary": summary([*other_problems, *(line for view in views for line in view.problems())]),
            "routes": "\n".join(map(route, views)),
            "processes": processes(views),
            "dead-letters": dead_letters,
        }

    def _group(self, view: RouteView, destination: str, letters: Sequence[DeadLetter]) -> str:
        count = view.stats.dead_letters.get(destination, 0)
        hidden = count - MAX_DEAD_LETTERS_SHOWN
        more = f'<li class="more">… and {hidden:,} more</li>' if hidden > 0 else ""
        retry_all = ""
        if self._can_act and destination != DeadLetter.MESSAGES:
            retry_all = _button("Retry all", f"of {view.name}, {destination}", "retry all", view.name, destination)
        items = "".join(self._dead_letter(view.name, letter) for letter in letters)
        return f"""<div class="group"><h3>{html_text(view.name)} → {html_text(destination)}
<span class="count">{count:,}</span></h3>{retry_all}<ul class="dead-letters">{items}{more}</ul></div>"""

    def _dead_letter(self, route: str, letter: DeadLetter) -> str:
        buttons = ""
        if self._can_act:
            target = route, letter.destination, letter.key
            if letter.destination != DeadLetter.MESSAGES:
                buttons += _button("Retry", letter.key, "retry", *target)
            buttons = f'<span class="buttons">{buttons}{_button("Drop", letter.key, "drop", *target)}</span>'
        attempts = f" · {count_noun(letter.attempts, 'attempt')}" if letter.attempts else ""
        return f"""<li><bdi class="key">{html_text(letter.key)}</bdi>{buttons}
<p class="reason">{html_text(letter.reason)}</p>
<p class="when">{time_text(letter.dead_lettered_ms)}{attempts}</p></li>"""


def encode_command(*command: str) -> str:
    """Return a command (verb, route, destination, keys) as the value of a button.

    Base64, because a form would normalize line breaks, which a key may contain.
    """
    return base64.urlsafe_b64encode(json.dumps(command).encode()).decode()


def decode_command(value: str) -> list[str]:
    """Return the command that a button's value encodes. Raises ValueError."""
    command = json.loads(base64.urlsafe_b64decode(value.encode()))
    if not isinstance(command, list) or not all(isinstance(part, str) for part in command):
        raise ValueError("not a command")
    return command


def _button(label: str, object_label: str, *command: str) -> str:
    kind = "drop" if label == "Drop" else "retry"
    return (f'<button name="command" value="{escape(encode_command(*command))}" class="{kind}">{label}'
            f'<span class="visually-hidden"> {html_text(object_label)}</span></button>')  # fmt: skip


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

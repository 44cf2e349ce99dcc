"""The status page as HTML, around its parts, and its list of dead letters with their buttons."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources

from .. import __version__
from ..queue.base import DeadLetter
from .formatting import count_text, time_text
from .fragments import processes, route, shown, summary
from .problems import problems
from .snapshot import LETTERS_SHOWN, RouteView


class Page:
    """The page around its parts: its style, its script, and what a browser may do with it.

    Args:
        may_act: there is a token, so dead letters have buttons.
    """

    def __init__(self, *, may_act: bool) -> None:
        folder = resources.files(__package__)
        self._style = folder.joinpath("page.css").read_text()
        self._script = folder.joinpath("page.js").read_text()
        self._may_act = may_act

    @property
    def policy(self) -> str:
        """The Content-Security-Policy: nothing but this very style and script, and nobody else's frame."""
        return (
            f"default-src 'none'; style-src '{_hash(self._style)}'; script-src '{_hash(self._script)}'; "
            "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )

    def whole(self, parts: Mapping[str, str], said: str = "") -> str:
        """Return the page. `said`: what became of what was asked for."""
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
<p id="live" class="live"><noscript>Without JavaScript, <a href="./">reload</a> for new figures.</noscript></p>
</header>
<main>
{f'<p class="said" role="status">{shown(said)}</p>' if said else ""}
<div id="summary">{parts["summary"]}</div>
<div id="routes">{parts["routes"]}</div>
<section aria-labelledby="fleet-title"><h2 id="fleet-title">Processes</h2>
<div id="fleet">{parts["fleet"]}</div></section>
<section aria-labelledby="letters-title"><h2 id="letters-title">Dead letters</h2>
{self._token()}
<div id="letters">{parts["letters"]}</div></section>
</main>
<footer>s3s3 {escape(__version__)} · <a href="metrics">metrics</a> · <a href="healthz">healthz</a> ·
<a href="readyz">readyz</a> · all times are UTC</footer>
<script>{self._script}</script>
</body>
</html>
"""

    def _token(self) -> str:
        if not self._may_act:
            return '<p class="hint">Read-only: <code>[http] token</code> in the configuration gives this list buttons; \
<code>s3s3 jobs</code> does the same.</p>'
        return """<p class="token"><label for="token">Token, to retry or drop</label>
<input id="token" name="token" type="password" form="letters-form" autocomplete="current-password" required></p>"""

    def parts(self, views: Sequence[RouteView], wrong: Sequence[str] = ()) -> dict[str, str]:
        """Return the parts by their ids. `wrong`: what is wrong beside what the views tell."""
        return {
            "summary": summary([*wrong, *(line for view in views for line in problems(view))]),
            "routes": "\n".join(map(route, views)),
            "fleet": processes(views),
            "letters": self._letters(views),
        }

    def _letters(self, views: Sequence[RouteView]) -> str:
        groups = [self._group(view, name, some) for view in views for name, some in view.letters.items() if some]
        if not groups:
            return '<p class="nothing">None.</p>'
        inner = "\n".join(groups)
        return f'<form id="letters-form" method="post" action="dead-letters">{inner}</form>' if self._may_act else inner

    def _group(self, view: RouteView, destination: str, letters: Sequence[DeadLetter]) -> str:
        count = view.counts.dead_letters.get(destination, 0)
        mine = f"{view.name}, {destination}"
        more = f'<li class="more">… and {count - LETTERS_SHOWN:,} more</li>' if count > LETTERS_SHOWN else ""
        all_of_them = ""
        if self._may_act and destination != DeadLetter.MESSAGES:
            all_of_them = _button("Retry all", f"of {mine}", "retry all", view.name, destination)
        items = "".join(self._letter(view.name, letter) for letter in letters)
        return f"""<div class="group"><h3>{shown(view.name)} → {shown(destination)}
<span class="count">{count:,}</span></h3>{all_of_them}<ul class="letters">{items}{more}</ul></div>"""

    def _letter(self, route: str, letter: DeadLetter) -> str:
        buttons = ""
        if self._may_act:
            where = route, letter.destination, letter.key
            if letter.destination != DeadLetter.MESSAGES:
                buttons += _button("Retry", letter.key, "retry", *where)
            buttons = f'<span class="buttons">{buttons}{_button("Drop", letter.key, "drop", *where)}</span>'
        attempts = f" · {count_text(letter.attempts, 'try', 'attempts')}" if letter.attempts else ""
        return f"""<li><bdi class="key">{shown(letter.key)}</bdi>{buttons}
<p class="why">{shown(letter.reason)}</p>
<p class="when">{time_text(letter.dead_lettered_ms)}{attempts}</p></li>"""


def wish_text(*wish: str) -> str:
    """Return a wish as a button's value: a form would change line breaks, and a key may have them."""
    return base64.urlsafe_b64encode(json.dumps(wish).encode()).decode()


def wish_of(text: str) -> list[str]:
    """Return the wish that a button's value is. Raises ValueError."""
    wish = json.loads(base64.urlsafe_b64decode(text.encode()))
    if not isinstance(wish, list) or not all(isinstance(part, str) for part in wish):
        raise ValueError("no wish")
    return wish


def _button(word: str, about: str, *wish: str) -> str:
    kind = "drop" if word == "Drop" else "retry"
    return (f'<button name="wish" value="{escape(wish_text(*wish))}" class="{kind}">{word}'
            f'<span class="unseen"> {shown(about)}</span></button>')  # fmt: skip


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

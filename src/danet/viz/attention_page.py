"""The attention page as a file: images whose every place can be asked what it looks at, in a browser, without a server.

It is the served page (page/index.html) with its styles, its modules and the answers put into it, and loads nothing.
"""

import gzip
from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from html import escape
from importlib.resources import files
from pathlib import Path

from markupsafe import Markup

from danet.files import explained, written_aside
from danet.viz.answer import AttentionView, answer

MODULES = ("answer", "attention", "words", "stage", "panel", "steps", "learn", "share", "server", "app")
"""Files of page/, each after those that it imports from."""
SHEETS = ("style", "learn")


def write_attention_page(path: str | Path, views: Sequence[AttentionView], title: str) -> Path:
    """Write `attention_page`, whole or not at all, and return its path. Raises InputError where that cannot be."""
    path = Path(path)
    with explained(path, "make room, or allow it"), written_aside(path) as aside:
        aside.write_text(attention_page(views, title), encoding="utf-8")
    return path


def attention_page(views: Sequence[AttentionView], title: str = "") -> str:
    """The page as text; without a title it has its own words for one. Raises ValueError as `answer` does."""
    return _joined(figure(views), title)


def stand_alone() -> str:
    """The page with a place for one answer: its element of type application/danet, whose text the served page sets."""
    return _joined(Markup('<div class="attend">{}</div>').format(embedded("", b"")), "")


def figure(views: Sequence[AttentionView]) -> Markup:
    """The views as markup that `script` brings to life, one picture with all of them to choose from."""
    answers = Markup("\n").join(embedded(view.name, answer(view)) for view in views)
    return Markup('<div class="attend">\n{}\n</div>').format(answers)


def embedded(name: str, body: bytes) -> Markup:
    """An answer as a page holds it: gzip in base64."""
    text = b64encode(gzip.compress(body, mtime=0)).decode() if body else ""
    return Markup('<script type="application/danet" data-name="{}">{}</script>').format(name, Markup(text))


@cache
def script() -> Markup:
    """All modules as one, without imports and exports: a page from a file may not import another file."""
    text = "\n".join(page_file(f"{name}.js") for name in MODULES)
    lines = [line.removeprefix("export ") for line in text.splitlines() if not line.startswith("import ")]
    return Markup("\n".join(lines))


@cache
def style() -> Markup:
    """All style sheets as one."""
    return Markup("\n".join(page_file(f"{name}.css") for name in SHEETS))


@cache
def page_file(name: str) -> Markup:
    """A file of page/, to be put into a page as it is."""
    return Markup(files("danet.viz").joinpath("page", name).read_text("utf-8"))


def policy(styles: str = "'unsafe-inline'", scripted: bool = True) -> str:
    """What a page may do: run `script`, if it holds that, style itself as `styles` says, and load nothing."""
    run = f"script-src {_digest(script())}; " if scripted else ""
    return f"default-src 'none'; {run}style-src {styles}; img-src data:; base-uri 'none'; form-action 'none'"


def _joined(content: Markup, title: str) -> str:
    """index.html with all that it would load put into it."""
    links = "\n".join(f'<link rel="stylesheet" href="page/{name}.css">' for name in SHEETS)
    meta = '<meta name="color-scheme" content="light dark">'
    own = page_file("index.html").split("<title>")[1].split("</title>")[0]
    parts = {
        meta: f'{meta}\n<meta http-equiv="Content-Security-Policy" content="{policy(_digest(style()))}">',
        links: f"<style>{style()}</style>",
        '<div class="attend" data-served></div>': content,
        '<script type="module" src="page/app.js"></script>': f'<script type="module">{script()}</script>',
    }
    if title:
        parts |= {f"<title>{own}": f"<title>{escape(title)}", f'<h1 data-say="title">{own}': f"<h1>{escape(title)}"}
    text = str(page_file("index.html"))
    for part, instead in parts.items():
        text = text.replace(part, instead)
    return text


def _digest(text: str) -> str:
    """How a policy names a script or style that it allows."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"

"""Markdown as the reports write it, and the page as HTML. The HTML is rendered from the Markdown, so the two cannot
disagree."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib.resources import files
from string import Template
from typing import Any

from markdown_it import MarkdownIt

from loadgen.report.style import DARK, LIGHT


def escape(text: str) -> str:
    """Text that Markdown shows as it is: workload and tenant names come from files."""
    return re.sub(r"([\\`*_\[\]<>|~#])", r"\\\1", re.sub(r"[ \t\r\n]+", " ", text))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1) -> str:
    """A Markdown table; the first `text_columns` columns lean left, numbers right."""
    rule = [":---" if i < text_columns else "---:" for i in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [_escaped(head), rule, *map(_escaped, rows)])


def _escaped(cells: Sequence[str]) -> list[str]:
    return [escape(cell) for cell in cells]


def to_html(markdown: str, title: str) -> str:
    """The page as HTML, with tables that scroll and pictures that follow the reader's light or dark mode."""
    renderer = MarkdownIt("commonmark", {"html": False}).enable("table")
    renderer.add_render_rule("table_open", lambda *_: '<div class="scroll"><table>\n')
    renderer.add_render_rule("table_close", lambda *_: "</table></div>\n")
    renderer.add_render_rule("image", _picture)
    template = Template(files("loadgen.report").joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(title=title, body=renderer.render(markdown))


def _picture(renderer: Any, tokens: Sequence[Any], index: int, options: Any, env: Any) -> str:
    light = str(tokens[index].attrGet("src"))
    dark = light.removesuffix(f"{LIGHT.suffix}.png") + f"{DARK.suffix}.png"
    image: str = renderer.image(tokens, index, options, env)
    return f'<picture><source srcset="{dark}" media="(prefers-color-scheme: dark)">{image}</picture>'

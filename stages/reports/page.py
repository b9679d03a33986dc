"""Pieces of a self-contained HTML page. Every text is escaped here; only this file and `curves` write tags."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from urllib.parse import quote

_STYLE = """
:root { --ink: #1c2430; --soft: #5c6672; --line: #dde1e6; --paper: #fff; --band: #f6f7f9; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 68rem; color: var(--ink); background: var(--paper);
       font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p { margin: .4rem 0; max-width: 50rem; } .soft { color: var(--soft); }
.scroll { overflow-x: auto; margin-bottom: 1.4rem; }
table.narrow { width: auto; } table.narrow th, table.narrow td { padding-right: 2rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
caption { text-align: left; color: var(--soft); padding-bottom: .4rem; }
th, td { text-align: left; vertical-align: top; padding: .4rem .9rem .4rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 600; } td.number { font-variant-numeric: tabular-nums; }
td.number, th.number { text-align: right; } table.narrow td.number { white-space: nowrap; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; margin: .8rem 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); gap: 1.2rem; }
figure { margin: 0; } figure img { width: 100%; height: auto; } figcaption { color: var(--soft); font-size: .9rem; }
article { border-top: 1px solid var(--line); padding: .9rem 0; }
article h3 { font-size: 1rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
.players { display: flex; flex-wrap: wrap; gap: .4rem 1.5rem; margin: .5rem 0; }
.players label { display: block; font-size: .85rem; color: var(--soft); } audio { width: 17rem; height: 34px; }
.bad { color: #a3291c; } ul.bad { margin: .4rem 0; padding-left: 1.2rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1.4rem 1.6rem; }
.charts svg { width: 100%; height: auto; } .charts + .scroll { margin-top: 1.2rem; }
.sounds { display: grid; grid-template-columns: repeat(auto-fill, minmax(11.5rem, 1fr)); gap: .8rem 1rem; }
.sounds img { height: 8rem; border: 1px solid var(--line); } .sounds audio { width: 100%; }
details { margin-top: 2.2rem; } summary { font-weight: 600; cursor: pointer; }
"""


def page(title: str, body: Sequence[str]) -> str:
    """Return a whole HTML document out of a title (text) and parts (HTML from this file's functions)."""
    content = "\n".join(body)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n{content}\n</body>\n</html>\n"
    )


def heading(text: str) -> str:
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{escape(kind)}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def facts(pairs: dict[str, object]) -> str:
    """Return a list of names and what they are."""
    rows = "".join(f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>" for name, value in pairs.items())
    return f"<dl>{rows}</dl>"


def table(
    caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = (), kind: str = "wide"
) -> str:
    """Return a table of texts, `wide` or `narrow`; columns whose indices are in `numbers` are aligned to the right."""

    def line(cells: Sequence[str], tag: str) -> str:
        kinds = [' class="number"' if index in numbers else "" for index in range(len(cells))]
        written = [f"<{tag}{kind}>{escape(str(cell))}</{tag}>" for cell, kind in zip(cells, kinds, strict=True)]
        return f"<tr>{''.join(written)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return (f'<div class="scroll"><table class="{escape(kind)}"><caption>{escape(caption)}</caption>'
            f"<thead>{line(header, 'th')}</thead><tbody>{body}</tbody></table></div>")


def figure(png: bytes, caption: str) -> str:
    """Return a picture that is part of the page."""
    data = base64.b64encode(png).decode("ascii")
    return (f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>")


def figures(parts: Sequence[str]) -> str:
    return f'<div class="figures">{"".join(parts)}</div>'


def charts(drawn: Sequence[str]) -> str:
    """Return charts made by `curves.chart`, side by side."""
    return f'<div class="charts">{"".join(f"<div>{svg}</div>" for svg in drawn)}</div>'


def notices(texts: Sequence[str]) -> str:
    """Return a list of what deserves a look."""
    return f'<ul class="bad">{"".join(f"<li>{escape(text)}</li>" for text in texts)}</ul>'


def details(summary: str, parts: Sequence[str]) -> str:
    """Return parts that are shown on a click."""
    return f"<details><summary>{escape(summary)}</summary>{''.join(parts)}</details>"


def sounds(shown: Sequence[tuple[str, bytes, str]]) -> str:
    """Return sounds side by side: each a caption, a PNG of its spectrogram and a path as in `players`."""
    parts = []
    for caption, png, path in shown:
        audio = f'<audio controls preload="none" src="{escape(quote(path))}"></audio>'
        parts.append(f"<div>{figure(png, caption)}{audio}</div>")
    return f'<div class="sounds">{"".join(parts)}</div>'


def players(sounds: dict[str, str]) -> str:
    """Return audio players: label -> path relative to the page, with forward slashes."""
    parts = []
    for label, path in sounds.items():
        audio = f'<audio controls preload="none" src="{escape(quote(path))}"></audio>'
        parts.append(f"<div><label>{escape(label)}</label>{audio}</div>")
    return f'<div class="players">{"".join(parts)}</div>'


def article(title: str, parts: Sequence[str]) -> str:
    return f"<article><h3>{escape(title)}</h3>{''.join(parts)}</article>"

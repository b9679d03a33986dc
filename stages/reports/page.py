"""Pieces of a self-contained HTML page. Every text is escaped here; only this file, `curves` and `plots` write tags."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

from stages.reports.style import STYLE


@dataclass(frozen=True)
class Cell:
    """A table's value with `notes` in small type below it, such as its interval; `strong` for the best of a column."""

    text: str
    notes: tuple[str, ...] = ()
    strong: bool = False


@dataclass(frozen=True)
class Words:
    """Some words of a text and of what was heard for them. `kind` is same, changed, lost, added or elided."""

    kind: str
    written: str = ""
    heard: str = ""


def page(title: str, body: Sequence[str]) -> str:
    """Return a whole HTML document out of a title (text) and parts (HTML from this file's functions)."""
    content = "\n".join(body)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n{content}\n</body>\n</html>\n"
    )


def heading(text: str) -> str:
    return f'<h2 id="{_anchor(text)}">{escape(text)}</h2>'


def contents(body: Sequence[str]) -> str:
    """Return links to the headings among parts of the page."""
    found = [match for part in body for match in re.findall('^<h2 id="([^"]*)">(.*)</h2>$', part)]
    links = [f'<a href="#{anchor}">{text}</a>' for anchor, text in found]  # both are escaped
    return f'<nav aria-label="contents">{" ".join(links)}</nav>'


def _anchor(text: str) -> str:
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")


def paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{escape(kind)}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def facts(pairs: dict[str, object]) -> str:
    """Return a list of names and what they are."""
    rows = "".join(f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>" for name, value in pairs.items())
    return f"<dl>{rows}</dl>"


def table(
    caption: str, header: Sequence[str | Cell], rows: Sequence[Sequence[str | Cell]], numbers: Sequence[int] = (),
    kind: str = "wide", heads: int = 1, note: str = "",
) -> str:
    """Return a table of texts, `wide` or `narrow`, that scrolls in a box of its own where the page is too narrow.

    Columns whose indices are in `numbers` are aligned to the right; the first `heads` cells of a row say what it is of.
    """

    def line(cells: Sequence[str | Cell], scopes: Sequence[str]) -> str:
        written = [_cell(cell, scope, index in numbers)
                   for index, (cell, scope) in enumerate(zip(cells, scopes, strict=True))]
        return f"<tr>{''.join(written)}</tr>"

    scopes = ["row"] * heads + [""] * (len(header) - heads)
    body = "".join(line(row, scopes) for row in rows)
    return (f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}">'
            f'<table class="{escape(kind)}"><caption><span>{escape(caption)}</span></caption>'
            f"<thead>{line(header, ['col'] * len(header))}</thead><tbody>{body}</tbody></table></div>"
            + (paragraph(note, "soft") if note else ""))


def _cell(cell: str | Cell, scope: str, is_number: bool) -> str:
    cell = cell if isinstance(cell, Cell) else Cell(str(cell))
    text = f"<b>{escape(cell.text)}</b>" if cell.strong else escape(cell.text)
    notes = "".join(f"<small>{escape(note)}</small>" for note in cell.notes)
    tag, told = ("th", f' scope="{scope}"') if scope else ("td", "")
    told += ' class="number"' if is_number else ""
    return f"<{tag}{told}>{text}{notes}</{tag}>"


def figure(png: bytes, caption: str) -> str:
    """Return a picture that is part of the page."""
    data = base64.b64encode(png).decode("ascii")
    return (f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>")


def plot_figure(svg: str, caption: str, signs: Sequence[tuple[str, str]] = ()) -> str:
    """Return a plot made by `plots`, under the signs of what is in it: (swatch, name)."""
    entries = "".join(f"<li>{sign}{escape(name)}</li>" for sign, name in signs)
    legend = f'<ul class="legend">{entries}</ul>' if entries else ""
    return f"<figure>{legend}{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def waves(rows: Sequence[tuple[str, str]], axis: str, caption: str) -> str:
    """Return waveforms, (label, SVG) each, one below the other over the same `axis` of time."""
    drawn = "".join(f"<p>{escape(label)}</p>{svg}" for label, svg in rows)
    return f'<figure class="waves">{drawn}{axis}<figcaption>{escape(caption)}</figcaption></figure>'


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
    """Return sounds side by side: each a caption, a PNG of its spectrogram and a path as in `player`."""
    parts = []
    for caption, png, path in shown:
        audio = f'<audio controls preload="none" src="{escape(quote(path))}"></audio>'
        parts.append(f"<div>{figure(png, caption)}{audio}</div>")
    return f'<div class="sounds">{"".join(parts)}</div>'


def article(title: str, parts: Sequence[str]) -> str:
    return f"<article><h3>{escape(title)}</h3>{''.join(parts)}</article>"


def player(label: str, path: str, mp3: bytes | None = None) -> str:
    """Return a player of a sound that is part of the page as `mp3`, or lies at `path` relative to it."""
    if mp3 is None:
        source = f'preload="none" src="{escape(quote(path))}"'
    else:
        source = f'preload="metadata" src="data:audio/mpeg;base64,{base64.b64encode(mp3).decode("ascii")}"'
    return f'<audio controls aria-label="{escape(label)}" {source}></audio>'


def titled(title: str, drawn: str) -> str:
    """Return one player under its title, outside of cards."""
    return f'<div class="titled"><span>{escape(title)}</span>{drawn}</div>'


def cards(parts: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Return titled parts side by side, as many as fit."""
    drawn = [f'<section class="card"><h4>{escape(title)}</h4>{"".join(inside)}</section>' for title, inside in parts]
    return f'<div class="cards">{"".join(drawn)}</div>'


def words(pieces: Sequence[Words]) -> str:
    """Return what was heard beside what is written, told by signs as well as by colour: -lost, +added, was>heard."""
    forms = {
        "same": "{written}",
        "changed": "<mark>{written}\u2192{heard}</mark>",
        "lost": "<del>\u2212{written}</del>",
        "added": "<ins>+{heard}</ins>",
        "elided": "<i>[\u2026 {written} \u2026]</i>",
    }
    told = [forms[piece.kind].format(written=escape(piece.written), heard=escape(piece.heard)) for piece in pieces]
    return f'<p class="words">{" ".join(told)}</p>'

"""Tables in LaTeX's booktabs style, with smaller lines below the values of a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

_SPECIALS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%",
    "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "[": "{[}", "]": "{]}", "×": r"$\times$",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A value and the lines below it in small type, all LaTeX already."""

    value: str
    below: tuple[str, ...] = ()


Row = tuple[str, str, Sequence[Cell]]  # the name, the count, a cell for each column
Group = tuple[str, Sequence[Row]]  # a heading ('' for none) and its rows


def escape(text: str) -> str:
    """Return `text` so that LaTeX prints it: its special characters as commands, control characters as spaces."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return "".join(_SPECIALS.get(character, character) for character in printable).replace("--", "-{}-")


def booktabs_table(caption: str, header: Sequence[Cell], groups: Sequence[Group], notes: Sequence[str]) -> str:
    """Return a `table` of a column of names, one of counts, and those of `header`. All text is LaTeX already."""
    columns = len(header) + 2
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{caption}}}", r"\small", r"\setlength{\tabcolsep}{4pt}",
             rf"\begin{{tabular}}{{l{'r' * (columns - 1)}}}", r"\toprule", *_lines("system", "$n$", header),
             r"\midrule"]
    for place, (heading, rows) in enumerate(groups):
        if place:
            lines.append(r"\midrule")
        if heading:
            lines.append(rf"\multicolumn{{{columns}}}{{l}}{{\textit{{{heading}}}}} \\")
        lines += [line for row in rows for line in _lines(*row)]
    lines += [r"\bottomrule", r"\end{tabular}", "", r"\smallskip", r"{\footnotesize\raggedright"]
    lines += [f"{note}." for note in notes]
    return "\n".join([*lines, r"\par}", r"\end{table}", ""])


def _lines(name: str, count: str, cells: Sequence[Cell]) -> list[str]:
    r"""Return the lines of a row. In braces, a name that begins with `*` is no option of the `\\` before it."""
    lines = [" & ".join((f"{{{name}}}", count, *(cell.value for cell in cells)))]
    for below in zip_longest(*(cell.below for cell in cells), fillvalue=""):
        lines.append(" & ".join(("", "", *(rf"{{\scriptsize {told}}}" if told else "" for told in below))))
    return [rf"{line} \\" for line in lines] + ([r"\addlinespace"] if len(lines) > 1 else [])

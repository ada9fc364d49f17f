"""Tables as booktabs fragments and figures as PDF, for those whose conference wants LaTeX.

tables/NAME.tex    \\input{tables/T2}: a whole table environment; needs \\usepackage{booktabs}
figures/NAME.pdf   \\includegraphics{figures/F4}
"""

import shutil
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from perfkit.documents.tables import Cell, DocTable, Head, is_group
from perfkit.errors import ConfigError
from perfkit.files import write_text
from perfkit.report.tables import MISSING

# Everything that LaTeX takes for a command, and the letters that its default fonts lack.
ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after a line's end it would begin a length
    '"': "''",
    "\n": " ",
}
LONG, TITLE = 24, 12
"""letters: longer words stand in a paragraph, longer titles of numbers wrap"""
MOST, EACH, LEAST = 0.9, 0.09, 0.2
"""of a line: what paragraphs may take, less for each other column"""
COLUMNS = 5
"""more than a column of two has room for"""
BREAK = r"\\"


def escaped(text: str) -> str:
    """Plain text as LaTeX prints it."""
    return "".join(ESCAPES.get(letter, letter) for letter in text)


def fragment(table: DocTable) -> str:
    """One table environment with booktabs rules."""
    label = f"tab:{table.id}"
    environment = "table*" if len(table.heads) > COLUMNS else "table"
    head = [
        f"% {table.id}, made by perfkit; needs \\usepackage{{booktabs}}",
        rf"\begin{{{environment}}}[tbp]",
        r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{escaped(table.caption)}}}",
        rf"\label{{{label}}}",
    ]
    if table.missing:
        get = rf" To get it: \texttt{{{escaped(table.get)}}}" if table.get else ""
        body = [rf"\emph{{{table.lack}}}: {escaped(table.missing)}.{get}"]
    else:
        body = [*_tabular(table)]
        if table.note:
            body.append(rf"\par\smallskip\footnotesize {escaped(table.note)}")
    return "\n".join([*head, *body, rf"\end{{{environment}}}", ""])


def _tabular(table: DocTable) -> list[str]:
    columns = "".join(_column(table, at) for at in range(len(table.heads)))
    rows = [_row(row) for row in table.rows]
    if table.total:
        rows.insert(len(rows) - 1, r"\midrule")
    heads = " & ".join(_head(head) if head.title else "" for head in table.heads)
    return [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        rf"{heads} \\",
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
    ]


def _row(row: Sequence[Cell]) -> str:
    if is_group(row):
        return rf"\multicolumn{{{len(row)}}}{{l}}{{\emph{{{escaped(row[0].text)}}}}} \\"
    return " & ".join(_cell(one.text) for one in row) + r" \\"


def _column(table: DocTable, at: int) -> str:
    """l and r; columns of long words are paragraphs that share what the others leave."""
    if table.heads[at].align == "right":
        return "r"
    long = [here for here in range(len(table.heads)) if _is_long(table, here)]
    if at not in long:
        return "l"
    share = max(MOST - EACH * (len(table.heads) - len(long)), LEAST) / len(long)
    return rf"p{{{share:.2f}\linewidth}}"


def _is_long(table: DocTable, at: int) -> bool:
    rows = [row for row in table.rows if not is_group(row)]
    return table.heads[at].align == "left" and any(len(row[at].text) > LONG for row in rows)


def _head(head: Head) -> str:
    """Titles of numbers wrap, or they would be wider than the numbers."""
    width = TITLE if head.align == "right" else LONG
    lines = [escaped(line) for line in textwrap.wrap(head.title, width, break_long_words=False)]
    if head.kind in ("measured", "predicted"):
        lines.append(rf"\emph{{{head.kind}}}")
    return lines[0] if len(lines) == 1 else rf"\shortstack{{{BREAK.join(lines)}}}"


def _cell(text: str) -> str:
    return "--" if text == MISSING else escaped(text)


def write_tex(folder: Path, tables: Mapping[str, DocTable], figures: Path) -> list[Path]:
    """tables/*.tex and figures/*.pdf in a folder."""
    written = []
    for table in tables.values():
        path = folder / "tables" / f"{table.id}.tex"
        write_text(path, fragment(table))
        written.append(path)
    try:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        for figure in sorted(figures.glob("*.pdf")):
            written.append(Path(shutil.copyfile(figure, folder / "figures" / figure.name)))
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error.strerror}.") from error
    return written

"""booktabs fragments: escaped, and compiled where LaTeX is installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

from perfkit.documents.figures import DocFigure, pdf_of
from perfkit.documents.latex import escaped, fragment, write_tex
from perfkit.documents.tables import DocTable, absent, group_row, left, number, right, word

EVIL = DocTable(
    id="T2",
    caption='100 % of $x_1$ & #3 {a} ~ ^ \\ <b> |c| "d" [e]',
    heads=(left("layout [a_b]"), right("Wall clock time [s]", "measured"), right("a", "predicted")),
    rows=(
        group_row("a title of rows", 3),
        (word("[4mm] & %"), number(1234.5, "r"), number(None)),
        (word("\\input{x}"), number(0.00123, "r"), number(2, "r")),
    ),
    note="50 % more",
    total=True,
)
DOCUMENT = r"""\documentclass{article}
\usepackage{booktabs}\usepackage{graphicx}
\begin{document}
\input{tables/T2}\input{tables/T1}
\includegraphics{figures/F8}
\end{document}
"""


def test_everything_that_latex_takes_for_a_command_is_escaped() -> None:
    assert escaped("a_b & 5 % of $x #1 {y} ~^\\") == (
        r"a\_b \& 5 \% of \$x \#1 \{y\} \textasciitilde{}\textasciicircum{}\textbackslash{}"
    )


def test_a_fragment_has_booktabs_rules_and_a_dash_for_what_is_missing() -> None:
    assert fragment(EVIL).splitlines()[5:16] == [
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"layout {[}a\_b] & \shortstack{Wall clock\\time {[}s]\\\emph{measured}} & "
        r"\shortstack{a\\\emph{predicted}} \\",
        r"\midrule",
        r"\multicolumn{3}{l}{\emph{a title of rows}} \\",
        r"{[}4mm] \& \% & 1,234 & -- \\",
        r"\midrule",
        r"\textbackslash{}input\{x\} & 0.00123 & 2 \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\smallskip\footnotesize 50 \% more",
    ]


def test_what_is_not_there_says_what_would_bring_it() -> None:
    text = fragment(absent("T3", "Weak scaling", "no run", "perfkit run A_B"))
    assert r"\emph{not measured}: no run. To get it: \texttt{perfkit run A\_B}" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_fragments_and_figures_compile(tmp_path: Path) -> None:
    spec = {"data": {"values": [{"a": 1}]}, "mark": "point", "encoding": {"x": {"field": "a"}}}
    figures = tmp_path / "made"
    figures.mkdir()
    (figures / "F8.pdf").write_bytes(pdf_of(DocFigure(id="F8", caption="x", spec=spec)))
    tables = {"T2": EVIL, "T1": absent("T1", "Nothing", "no run", "perfkit run")}
    write_tex(tmp_path, tables, figures)
    (tmp_path / "all.tex").write_text(DOCUMENT)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]

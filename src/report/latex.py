"""Write tables as LaTeX in the style of booktabs, with the definitions of the numbers in the caption."""

from src.report.conditions import head_of
from src.report.measures import defined, measure_of
from src.report.tables import cell_text, summary_cells

PREAMBLE = "% In the preamble: \\usepackage{{{packages}}}\n"
HEAD = PREAMBLE.format(packages="booktabs")
ESCAPES = str.maketrans({
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$",
    **{character: f"${character}$" for character in "<>|"}, **{character: f"\\{character}" for character in "&%$#_{}"}})


def escaped(text):
    """Escape a text for LaTeX; an empty line in it would end a caption."""
    return "".join(character if character.isprintable() else " " for character in text).translate(ESCAPES)


def latex_table(header, rows, caption):
    """Return a floating table; ``caption`` is plain text. Numbers are set in math mode for their minus sign."""
    lines = [_line(row) for row in (header, *rows)]
    return "\n".join([
        r"\begin{table}", r"\centering", rf"\caption{{{escaped(caption)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"\toprule", lines[0], r"\midrule", *lines[1:],
        r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def _line(row):
    return line_of(map(_cell, row))


def line_of(cells):
    """Return a line of a tabular, from texts in LaTeX."""
    text = " & ".join(cells) + r" \\"
    return "{}" + text if text[0] in "[*" else text  # would be read as options of the line before


def _cell(value):
    text = cell_text(value)
    return f"${text}$" if isinstance(value, float) else escaped(text)


def definitions_caption(space, numbers=None):
    """Return the definitions of ``numbers``, or of all of a summary, as sentences."""
    numbers = [f"{title}: {text}." for title, text in defined(space, numbers)]
    return " ".join([*measure_of(space).preamble, *numbers])


def summary_latex(summaries):
    """Return the text of ``summary.tex``: {label space or "retrieval": summary} -> its tables.

    The last table of each space defines the numbers.
    """
    tables = []
    for space, summary in summaries.items():
        *above, (header, rows) = summary_cells(summary)
        head = f"{head_of(summary)}."
        tables += [latex_table(*cells, f"Top-1 accuracy in percent after each task, among the classes of: {space}. "
                               f"{head}") for cells in above]
        tables.append(latex_table(header, rows, f"{head} {definitions_caption(space)}"))
    return HEAD + "\n".join(tables)

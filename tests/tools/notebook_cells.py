"""Notebooks without Jupyter: their code cells, what they store, and a runner that gives what a kernel would."""

import ast
import contextlib
import io
import json
import re


def cells_of(path):
    """[(source, outputs)] of the code cells of a notebook."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return [("".join(cell["source"]), cell["outputs"]) for cell in content["cells"] if cell["cell_type"] == "code"]


def run_cells(sources):
    """Execute code cells one after the other. -> [what each printed, and the text of its last expression]"""
    names, texts = {"__name__": "__main__"}, []
    for number, source in enumerate(sources, 1):
        statements, value = ast.parse(source), None
        last = statements.body.pop() if isinstance(statements.body[-1], ast.Expr) else None
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(statements, f"cell {number}", "exec"), names)
            if last:
                value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)
        texts.append(printed.getvalue() + ("" if value is None else repr(value)))
    return texts


def text_of(outputs):
    """What a kernel stored of a cell, as ``run_cells`` gives it."""
    return "".join("".join(output["text"] if output["output_type"] == "stream" else output["data"]["text/plain"])
                   for output in outputs)


def differences(stored, found, tolerance):
    """Words of two texts that differ; numbers may by ``tolerance``, and addresses of objects do not count."""
    stored, found = (re.sub(r" at 0x\w+", "", text).split() for text in (stored, found))
    if len(stored) != len(found):
        return [f"{len(stored)} and {len(found)} words"]
    return [f"{one} and {other}" for one, other in zip(stored, found, strict=True)
            if one != other and not _near(one, other, tolerance)]


def _near(one, other, tolerance):
    try:
        return abs(float(one) - float(other)) <= tolerance
    except ValueError:
        return False

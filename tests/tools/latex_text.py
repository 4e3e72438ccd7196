"""LaTeX read as text: what a compiler would stumble over, found without one."""

import re


def tables_of_text(text):
    """[(columns, [[cells of a line]])] of each tabular, a \\multicolumn as often as it is wide. Asserts that braces and
    environments match and that no & is left in a cell."""
    plain = re.sub(r"\\[\\{}]", "", text)
    depth = 0
    for character in plain:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0, "a brace is closed that was not opened"
    assert depth == 0, "a brace is left open"
    begun, ended = (re.findall(rf"\\{word}\{{([a-z*]+)\}}", text) for word in ("begin", "end"))
    assert sorted(begun) == sorted(ended)
    return [(columns, [_cells(line) for line in body.splitlines() if line.endswith(r" \\")])
            for columns, body in re.findall(r"\\begin\{tabular\}\{([lrc]+)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL)]


def _cells(line):
    found = []
    for cell in re.split(r"(?<!\\)&", line.removesuffix(r" \\")):
        wide = re.match(r"\s*\\multicolumn\{(\d+)\}", cell)
        found += [cell.strip()] * (int(wide[1]) if wide else 1)
    return found

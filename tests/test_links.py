"""Relative links of all documents, and their anchors, lead somewhere; every page of docs/ is in the site's list."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = (".github", "benchmarks", "docs", "examples", "reproductions")
DOCUMENTS = sorted(str(path.relative_to(ROOT)) for path in [
    *ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))])
SPAN_OR_LINK = re.compile(r"`+[^`]+`+|\]\(([^()\s]+)\)")


def prose(text):
    """Return a document without its fenced blocks."""
    return re.sub(r"^\s*```.*?^\s*```$", "", text, flags=re.DOTALL | re.MULTILINE)


def links(text):
    """Return the relative links of a document; a span of code has none, but the text of a link may be one."""
    text = re.sub(r"\[`[^`]+`\]\(", "[code](", prose(text))
    found = [match[1] for match in SPAN_OR_LINK.finditer(text)]
    return [link for link in found if link and not re.match(r"\w+:", link)]


def anchors(text):
    """Return the anchors of a document's headings, as GitHub and the site call them."""
    found = []
    for heading in re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower().replace("`", "")
        name = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found.append(name if name not in found else f"{name}-{sum(other.startswith(name) for other in found)}")
    return found


def missing(document, text):
    """Return the links of a document that lead nowhere."""
    wrong = []
    for link in links(text):
        path, _, anchor = link.partition("#")
        target = (ROOT / document).parent / path if path else ROOT / document
        if not target.exists() or anchor and anchor not in anchors(target.read_text(encoding="utf-8")):
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    assert missing(document, (ROOT / document).read_text(encoding="utf-8")) == []


def test_what_leads_nowhere_is_found():
    text = """# One: `two` and three's

[a](README.md) [`b`](README.md#start) [c](#one-two-and-threes) `[d](nowhere)` [e](https://x.org/y)
[f](nowhere.md) [g](README.md#nowhere) [h](#two) [`i`](docs/nowhere.md)

```
[j](nowhere)
```
"""
    assert missing("x.md", text.replace("(#one", "(x.md#one")) != []  # there is no such file
    assert links(text)[:3] == ["README.md", "README.md#start", "#one-two-and-threes"]
    assert anchors(text) == ["one-two-and-threes"]
    assert missing("README.md", text) == ["#one-two-and-threes", "nowhere.md", "README.md#nowhere", "#two",
                                          "docs/nowhere.md"]


def test_equal_headings_are_numbered():
    assert anchors("# A\n## B\n## A\n## A\n```\n# C\n```") == ["a", "b", "a-1", "a-2"]

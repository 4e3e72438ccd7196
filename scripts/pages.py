"""A hook of mkdocs (mkdocs.yml): the documents on top of the checkout become pages beside those of docs/.

Links in the sources are those of a checkout, so that they work where it is browsed. On the site a link to another page
leads to that page; one to a file that is no page, such as a script, becomes its text.
"""

import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = "docs"
# Documents outside of docs/ -> their pages.
ADDED = {"README.md": "index.md", "ARGUMENTS.md": "arguments.md", "datasets.md": "datasets.md", "LOG.md": "log.md",
         "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md",
         "benchmarks/README.md": "benchmarks.md", "reproductions/README.md": "certificates.md"}
FENCE = re.compile(r"^\s*(```|~~~)")
# A link, or a span of code, in which no link is one.
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)|`+[^`]+`+")


def on_files(files, config):
    """Add the pages of ADDED."""
    from mkdocs.structure.files import File
    for source, page in ADDED.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown, page, config, files):
    source = source_of(page.file.src_uri)
    return relinked(markdown, source, {source_of(file.src_uri) for file in files})


def source_of(page):
    """Return the path in the checkout of a page, or of a file of docs/."""
    return next((source for source, name in ADDED.items() if name == page), f"{DOCS}/{page}")


def page_of(source):
    """Return the page of a path in the checkout."""
    return ADDED.get(source) or source.removeprefix(f"{DOCS}/")


def relinked(markdown, source, sources):
    """Return a page's text with its links leading to pages. ``source``: where the text is in the checkout;
    ``sources``: what of the checkout is on the site."""
    lines, fenced = [], False
    for line in markdown.split("\n"):
        fence = bool(FENCE.match(line))
        fenced ^= fence
        lines.append(line if fence or fenced else _relinked_line(line, source, sources))
    return "\n".join(lines)


def _relinked_line(line, source, sources):
    def replaced(match):
        mark, text, target = match.groups()
        path, _, anchor = (target or "").partition("#")
        if not path or re.match(r"\w+:", target):
            return match[0]
        there = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if there not in sources:
            return text
        relative = posixpath.relpath(page_of(there), posixpath.dirname(page_of(source)) or ".")
        return f"{mark}[{text}]({relative}{'#' * bool(anchor)}{anchor})"
    return LINK.sub(replaced, line)

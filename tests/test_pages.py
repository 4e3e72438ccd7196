"""The site: links of the sources lead to its pages, every page is in its list, and it builds without a warning."""

import importlib.util
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from scripts import pages

ROOT = Path(__file__).parents[1]
SOURCES = {"README.md", "ARGUMENTS.md", "docs/faq.md", "docs/methods/zscl.md", "docs/a.png"}


@pytest.mark.parametrize(("source", "link", "expected"), [
    ("README.md", "[a](docs/faq.md)", "[a](faq.md)"),
    ("README.md", "![a](docs/a.png)", "![a](a.png)"),
    ("README.md", "[a](docs/methods/zscl.md#formula)", "[a](methods/zscl.md#formula)"),
    ("docs/faq.md", "[`a`](../ARGUMENTS.md)", "[`a`](arguments.md)"),
    ("docs/methods/zscl.md", "[a](../../README.md#start) [b](../faq.md)", "[a](../index.md#start) [b](../faq.md)"),
    ("docs/methods/zscl.md", "[a](../../train.sh), [b [c]](../../src/)", "a, b [c]"),
    ("docs/faq.md", "[a](#here) [b](https://x.org/y) `[c](x.md)`", "[a](#here) [b](https://x.org/y) `[c](x.md)`"),
    ("docs/faq.md", "```\n[a](../ARGUMENTS.md)\n```\n[a](../ARGUMENTS.md)",
     "```\n[a](../ARGUMENTS.md)\n```\n[a](arguments.md)")])
def test_links_lead_to_pages(source, link, expected):
    assert pages.relinked(link, source, SOURCES) == expected


def test_a_page_and_its_source():
    for source, page in pages.ADDED.items():
        assert (ROOT / source).is_file() and pages.source_of(page) == source and pages.page_of(source) == page
    assert pages.page_of("docs/methods/zscl.md") == "methods/zscl.md"
    assert pages.source_of("methods/zscl.md") == "docs/methods/zscl.md"


def test_every_page_is_in_the_list():
    """Without mkdocs; a page that is not listed would be a warning of it."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    listed = re.findall(r"([\w/-]+\.md)$", text, re.MULTILINE)
    found = {str(path.relative_to(ROOT / "docs")) for path in ROOT.glob("docs/**/*.md")} | {*pages.ADDED.values()}
    assert sorted(listed) == sorted(found)


class Links(HTMLParser):
    """.targets: where a page leads; .names: the anchors that it has."""

    def __init__(self, text):
        super().__init__()
        self.targets, self.names = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.targets += [attributes[key] for key in ("href", "src") if attributes.get(key)]
        self.names |= {attributes["id"]} if "id" in attributes else set()


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("material"), reason="needs the packages of docs/requirements.txt")
def test_the_site_builds_without_a_warning_and_its_links_lead_somewhere(tmp_path):
    done = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)], cwd=ROOT,
                          capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    found = {path: Links(path.read_text(encoding="utf-8")) for path in tmp_path.rglob("*.html")}
    assert len(found) > 50
    wrong = []
    for path, page in found.items():
        for target in page.targets:
            there, _, anchor = target.partition("#")
            if re.match(r"\w+:|//|/", there) or path.name == "404.html":
                continue
            file = (path.parent / there).resolve() if there else path
            file = file / "index.html" if file.is_dir() else file
            if not file.exists() or anchor and file in found and anchor not in found[file].names:
                wrong.append((str(path.relative_to(tmp_path)), target))
    assert wrong == []

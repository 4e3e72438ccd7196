"""Phrases that read as translated must not come back in comments, docstrings, messages, scripts and documents."""

import ast
import io
import re
import subprocess
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Folders and files that are covered. Extend this to "docs", "examples", "tests" and the other documents once their text
# is rewritten; LOG.md and CHANGELOG.md are history and stay out.
COVERED = ("src", "clip", "clip_continual", "scripts", "benchmarks", "convert_grad_to_basis.py", "convert_shots.py",
           "list_clip_layers.py", "setup.py", "train.sh")
HISTORY = ("LOG.md", "CHANGELOG.md")
SUFFIXES = (".py", ".md", ".yaml", ".sh")

UNITS = "step|epoch|batch|task|class|image|text|prompt|token|head|layer|tensor|row|column|process|node|curve|word|GPU"
COUNTED = ("images|values|rows|tokens|prompts?|steps?|seconds|bytes|numbers?|batch(?:es)?|lines?|panels?|entry|process"
           "(?:es)?|products?|tensors?|experts|heads|figures?")
# {phrase: what to write instead}
PHRASES = {
    r"anew": "again",
    r"(?:of|on) (?:one's|its|their|your|his|her) own(?! [a-z])": "custom, your own, separate",
    r"(?:no|any|some)body": "the subject: a process, a caller, a user",
    r"(?:one|those|whoever) who (?:only )?(?:asks?|changes?|reads?|calls?)": "the caller, the code",
    r"so many": "N, a number of",
    r"(?:is|are|was|were|be|been) (?:told(?! apart)|heard)": "warned of, reported, received",
    r"(?:is|are|was) held by (?:a )?tests?": "tested against",
    r"(?:measured|timed|run) in turns": "alternated with",
    r"floors on paper": "lower bounds",
    r"(?:is|are|was) no (?:finite )?(?:number|file|folder|list|dict|set|text|name|flag|json|csv|yaml|CLIP|image)s?":
        "is not a number, is not a file",
    r"(?:goes|go|went|going) on(?! top)": "resumes, continues",
    rf"(?<!which )(?<!many )(?:{COUNTED}) an? (?:{UNITS})": "per step, per class",
    r"stands? (?:there )?twice": "occurs twice",
    r"in the place of": "instead of, replaces",
}
PATTERN = re.compile(r"(?<![\w-])(?:" + "|".join(f"({phrase})" for phrase in PHRASES) + r")(?![\w-])", re.IGNORECASE)


def covered():
    """Return the paths of COVERED that git knows, as text relative to the root."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout of git")
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "--", *COVERED], cwd=ROOT, check=True,
                            capture_output=True, text=True).stdout.split("\n")
    return [name for name in listed if name.endswith(SUFFIXES) and name not in HISTORY and (ROOT / name).is_file()]


def passages(name, text):
    """Yield (line, passage) of a file: comments and strings of Python, paragraphs of anything else."""
    if not name.endswith(".py"):
        line = 1
        for paragraph in text.split("\n\n"):
            yield line, "\n".join(part.lstrip("# ") for part in paragraph.split("\n"))
            line += paragraph.count("\n") + 2
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    yield from comments(text)


def comments(text):
    """Yield (line, comment) of Python code, comments in consecutive lines as one."""
    first, last, words = 0, -1, []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT:
            continue
        line = token.start[0]
        if line != last + 1 and words:
            yield first, " ".join(words)
            words = []
        first, last = (first if words else line), line
        words.append(token.string.lstrip("# "))
    if words:
        yield first, " ".join(words)


def found_in(name, text):
    """Return a line per phrase in a file: its passage, the phrase, and what to write instead."""
    better = list(PHRASES.values())
    return sorted({f"{name}:{line}: {match[0]!r}; better: {better[match.lastindex - 1]}"
                   for line, passage in passages(name, text)
                   for match in PATTERN.finditer(" ".join(passage.split()))})


def test_no_phrase_has_come_back():
    found = [line for name in covered() for line in found_in(name, (ROOT / name).read_text(encoding="utf-8"))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("name", "text"), [
    ("x.py", 'def f():\n    """Read it\n    anew."""\n'), ("x.py", "x = 1  # told by\n# nobody\n"),
    ("x.py", 'raise E(f"{a} is no "\n        f"number: {b}")\n'), ("x.md", "The head\ngoes on."),
    ("x.sh", "# a class of\n# one's own\n"), ("x.yaml", "# 64 images a step, so many of them"),
    ("x.py", "x = 'the default in the place of y'"), ("x.md", "Losses are held by tests."),
    ("x.py", '"""It is told."""')])
def test_a_phrase_would_be_seen(name, text):
    assert found_in(name, text)


@pytest.mark.parametrize("text", [
    'anew = told = 1\n"""Classes are told apart by name."""\n', 'print("64 images per step; no number")',
    "# which rows a batch has goes on top\n", '"""Keep its own weights; methods may bring their own."""'])
def test_good_text_passes(text):
    assert not found_in("x.py", text)

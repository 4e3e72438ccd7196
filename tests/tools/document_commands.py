"""The commands of a document: lines of its blocks and spans of its sentences that begin with a program's name."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
# A command that stands in several documents counts for the first of them, and what is read first comes first.
FIRST_READ = ["README.md", "docs/commands.md", "docs/your-method.md", "CONTRIBUTING.md", "ARGUMENTS.md"]
DOCUMENTS = [*FIRST_READ, "datasets.md", "CHANGELOG.md", "benchmarks/README.md", "reproductions/README.md",
             *sorted({str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md")} - {*FIRST_READ}), "train.sh"]
PROGRAMS = (r"(?:\.venv/bin/)?python3?|pip|uv|conda|make|sh|bash|sbatch|scancel|srun|torchrun|git|pre-commit|mkdocs|"
            r"\.ci/run")
COMMAND = re.compile(rf"(?:\w+=(?:\"[^\"]*\"|\S*) )*(?:{PROGRAMS})(?: \S.*)?")
SHELL, SILENT = ("sh", "bash", "console"), ("python", "json", "yaml", "csv")  # languages of fences
SCRIPT = re.compile(r"\s*(?:(?:for|while|if|case)\b.*|\w+=\S*)")
LOOKS_LIKE_ONE = re.compile(r" --?[a-z][\w-]*( |=|$)|\bsrc\.main\b")  # a line of a block
SAYS_ONE = re.compile(r"-m src\.main|\bpython \S+\.py")                  # a sentence outside of its spans
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")


@dataclass(frozen=True)
class Command:
    """``text`` as it is written, without a comment; a ``script`` is a whole block of the shell's language."""

    document: str
    line: int
    text: str
    script: bool = False

    @property
    def words(self):
        return shlex.split(self.text, comments=True)

    @property
    def mention(self):
        """Only how commands begin: ``python -m src.main`` or ``bash train.sh ...``."""
        return self.words[-1] in ("...", "src.main")


class NotExtracted(Exception):
    """A line that looks like a command of a program that this file does not know."""


def commands_of(document, text=None):
    """All commands of a document, mentions too. Raises NotExtracted."""
    text = (ROOT / document).read_text(encoding="utf-8") if text is None else text
    if document.endswith(".sh"):
        text = "\n".join(line[1:] if line.startswith("#") else "" for line in text.splitlines())
    return [command for first, language, lines in blocks(text)
            for command in (in_block if language is not None else in_sentences)(document, first, language, lines)]


def blocks(text):
    """(number of the first line, language, lines); the language of indented lines is "", of a paragraph None."""
    language, started, lines, fenced = None, 1, [], False
    for number, line in enumerate(text.splitlines(), 1):
        fence = re.fullmatch(r"\s*```(\w*)", line)
        kind = language if fenced else "" if re.match(r" {4,}\S", line) else None
        if fence or kind != language or kind is None and not line.strip():
            yield started, language, lines
            started, lines = number + bool(fence), []
            fenced ^= bool(fence)
            language = (fence[1] if fenced else None) if fence else kind
        if not fence:
            lines.append(line)
    yield started, language, lines


def in_sentences(document, first, language, lines):
    """Spans may go over the end of a line."""
    text = "\n".join(lines)
    found = [(first + text[:match.start()].count("\n"), match[1].replace("\n", " ")) for match in SPAN.finditer(text)]
    rest = SPAN.sub("", text)
    if SAYS_ONE.search(rest):
        raise NotExtracted(f"{document}:{first}: {rest.strip()}")
    return [Command(document, number, span) for number, span in found if is_command(span)]


def in_block(document, first, language, lines):
    if language in SILENT:
        return []
    if language in SHELL and any(SCRIPT.fullmatch(line) for line in lines):
        return [Command(document, first, "\n".join(lines), script=True)]
    found, begun = [], ""
    for number, line in enumerate(lines, first):
        begun += line.strip()
        if begun.endswith("\\"):
            begun = begun[:-1]
            continue
        if is_command(begun):
            found.append(Command(document, number, re.sub(r"\s+#.*", "", begun)))
        elif begun and not begun.startswith("#") and (language in SHELL or LOOKS_LIKE_ONE.search(begun)):
            raise NotExtracted(f"{document}:{number}: {begun}")
        begun = ""
    return found


def is_command(text):
    """A program's name with words after it, or one that needs none."""
    return bool(COMMAND.fullmatch(text)) and (len(text.split()) > 1 or text == ".ci/run")

"""pdfLaTeX of Debian's TeX Live on a document around tables. Where it is missing it is installed by apt-get, which
needs root; ``Unavailable`` says why there can be none."""

import re
import shutil
import subprocess
from pathlib import Path

import debian_packages

PROGRAM, PACKAGES = "pdflatex", ("texlive-latex-base", "texlive-latex-recommended")  # the second has booktabs
WORDS = ("-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "document.tex")
SECONDS = 120
DOCUMENT = r"""\documentclass[%s]{article}
\usepackage{%s}
\begin{document}
\listoftables
%s
%s
\end{document}
"""


def install():
    """pdfLaTeX and booktabs, by apt-get where they are missing."""
    if shutil.which(PROGRAM) and _has("booktabs.sty"):
        return
    debian_packages.install(PACKAGES, f"{PROGRAM} or booktabs is missing")


def _has(file):
    return subprocess.run(["kpsewhich", file], stdout=subprocess.DEVNULL, check=False).returncode == 0


def compiled(tables, folder, options="twocolumn"):
    """Compile a document of tables, with the packages that their first line names, twice for the sake of references.
    -> (the log of the second time, the list of tables). AssertionError with the log's end where it does not compile."""
    packages = re.match(r"% In the preamble: \\usepackage\{(.*)\}\n", tables)[1]
    references = " ".join(rf"\ref{{{label}}}" for label in re.findall(r"\\label\{(.*?)\}", tables))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "document.tex").write_text(DOCUMENT % (options, packages, tables, references), encoding="utf-8")
    for _ in range(2):
        done = subprocess.run([PROGRAM, *WORDS], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=SECONDS, check=False)
        assert done.returncode == 0, done.stdout.decode("utf-8", errors="replace")[-3000:]
    return _text(folder / "document.log"), _text(folder / "document.lot")


def _text(path):
    return path.read_text(encoding="utf-8", errors="replace")

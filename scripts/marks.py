"""The parts of documents that programs write: between <!-- NAME --> and <!-- /NAME -->."""

import re


def marked(name, text):
    """A part with its marks, as it stands in a document."""
    return f"<!-- {name} -->\n{text}\n<!-- /{name} -->"


def between_marks(document, name, text):
    """The document with what stands between the marks of a name replaced; ValueError where they are not there once."""
    replaced, count = re.subn(f"<!-- {re.escape(name)} -->.*?<!-- /{re.escape(name)} -->",
                              lambda _: marked(name, text), document, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"there must be one <!-- {name} --> with its <!-- /{name} -->, there are {count}")
    return replaced

"""Generated parts of documents, between <!-- NAME --> and <!-- /NAME -->."""

import re


def marked(name, text):
    """Return a part with its marks, as in a document."""
    return f"<!-- {name} -->\n{text}\n<!-- /{name} -->"


def between_marks(document, name, text):
    """Return the document with the text between a name's marks replaced. Raise ValueError unless they occur
    exactly once."""
    replaced, count = re.subn(f"<!-- {re.escape(name)} -->.*?<!-- /{re.escape(name)} -->",
                              lambda _: marked(name, text), document, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"there must be one <!-- {name} --> with its <!-- /{name} -->, there are {count}")
    return replaced

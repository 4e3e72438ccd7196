"""The one exception that a user is meant to read."""

import re

MOST = 2000  # characters of a message; a value of any length may stand in it
FROM_A_WORKER = "Caught UserError in "


class UserError(Exception):
    """Something the user can mend; the message names the flag, the value and the way out. Exit status 2."""

    def __init__(self, message):
        text = str(message)
        if text.startswith(FROM_A_WORKER):  # with the whole traceback of a loader's process; ours is its last line
            text = text.rpartition("UserError: ")[2]
        super().__init__(legible(text))


def legible(text):
    """A message as one line, whatever values and names of files stand in it: what a terminal would obey is escaped, and
    the middle of a very long one is left out."""
    text = re.sub(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*", " ", text.strip()).replace("\t", " ")
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return text if len(text) <= MOST else f"{text[:MOST // 2]} ... {text[-MOST // 2:]}"

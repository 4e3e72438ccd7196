"""Define the one exception that is meant for users."""

import re

MOST = 2000  # characters of a message; it may contain a value of any length
FROM_A_WORKER = "Caught UserError in "


class UserError(Exception):
    """Signal a problem that the user can fix; the message names the flag, the value and the way out. Exit
    status 2."""

    def __init__(self, message):
        text = str(message)
        if text.startswith(FROM_A_WORKER):  # a loader's process sends its whole traceback; our message is the last line
            text = text.rpartition("UserError: ")[2]
        super().__init__(legible(text))


def legible(text):
    """Return a message as one line, whatever values and file names it contains.

    Characters that a terminal would interpret are escaped, and the middle of a very long message is cut.
    """
    text = re.sub(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*", " ", text.strip()).replace("\t", " ")
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return text if len(text) <= MOST else f"{text[:MOST // 2]} ... {text[-MOST // 2:]}"

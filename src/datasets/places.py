"""Where the images of a table lie, and the rows that cannot be used."""

import os
import unicodedata

from src.errors import UserError

MOST_FAULTY = 0.01  # share of the rows that may lack their image before the table is refused


class Places:
    """Where the images of a table lie; each is looked for once."""

    def __init__(self, folder):
        self.folder, self._known = folder, {}

    def find(self, file):
        """The path of an image relative to the folder as it is spelled there, or None. Backslashes and another Unicode
        normalisation are understood."""
        spellings = (file, unicodedata.normalize("NFC", file), unicodedata.normalize("NFD", file),
                     file.replace("\\", "/"))
        return next((spelled for spelled in dict.fromkeys(spellings) if self._is_file(spelled)), None)

    def _is_file(self, file):
        if file not in self._known:
            self._known[file] = os.path.isfile(self.folder / file)
        return self._known[file]


def leave_out(name, path, faults, count, skip):
    """Print a note of the rows that cannot be used. -> [its sentence]

    ``faults``: (place, what is wrong) of each, of ``count`` rows.
    Raises UserError where they are more than 1 % of the rows, unless ``skip`` (--skip-bad-images).
    """
    if not faults:
        return []
    place, what = faults[0]
    text = f"{name}: {len(faults)} of {count} rows of {path} cannot be used; the first is {place}: {what}"
    if len(faults) > MOST_FAULTY * count and not skip:
        raise UserError(f"{text}; repair the table, or leave such rows out by --skip-bad-images")
    print(f"note: {text}; they are left out")
    return [text]

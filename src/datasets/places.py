"""Locate the images of a table, and set aside unusable rows."""

import os
import unicodedata

from src.errors import UserError

MOST_FAULTY = 0.01  # largest share of rows without an image before the table is refused


class Places:
    """Look up the images of a table, each once."""

    def __init__(self, folder):
        self.folder, self._known = folder, {}

    def find(self, file):
        """Return the path of an image relative to the folder, as spelled there, or None.

        Backslashes and other Unicode normalisations are accepted.
        """
        spellings = (file, unicodedata.normalize("NFC", file), unicodedata.normalize("NFD", file),
                     file.replace("\\", "/"))
        return next((spelled for spelled in dict.fromkeys(spellings) if self._is_file(spelled)), None)

    def _is_file(self, file):
        if file not in self._known:
            self._known[file] = os.path.isfile(self.folder / file)
        return self._known[file]


def leave_out(name, path, faults, count, skip):
    """Print a note of the rows that cannot be used. -> [its sentence]

    ``faults``: (place, what is wrong) of each, out of ``count`` rows. Raises UserError for more than 1 % of the
    rows, unless ``skip`` (--skip-bad-images).
    """
    if not faults:
        return []
    place, what = faults[0]
    text = f"{name}: {len(faults)} of {count} rows of {path} cannot be used; the first is {place}: {what}"
    if len(faults) > MOST_FAULTY * count and not skip:
        raise UserError(f"{text}; repair the table, or leave such rows out with --skip-bad-images")
    print(f"note: {text}; they are left out")
    return [text]

"""Choose the fonts of pictures: DejaVu Sans, and this system's fonts for letters that it lacks.

matplotlib brings DejaVu Sans, which has Latin, Greek, Cyrillic and some Arabic letters. The page itself needs none of
this: a browser picks fonts by itself.
"""

import functools
import unicodedata

FIRST = "DejaVu Sans"
SHAPELESS = ("Cc", "Cf", "Cs", "Zs", "Zl", "Zp")  # Unicode categories: control, format, surrogates, spaces
PREFERRED = (  # tried before other fonts: sans serif, with many letters each
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans CJK TC", "Noto Sans SC", "Noto Sans JP",
    "Noto Sans KR", "Source Han Sans SC", "Source Han Sans", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei",
    "Droid Sans Fallback", "IPAexGothic", "IPAGothic", "NanumGothic", "PingFang SC", "Hiragino Sans", "Heiti TC",
    "Apple SD Gothic Neo", "Microsoft YaHei", "SimHei", "Yu Gothic", "Meiryo", "Malgun Gothic", "Noto Sans",
    "Noto Sans Arabic", "Noto Sans Devanagari", "Noto Sans Bengali", "Noto Sans Thai", "Noto Sans Hebrew",
    "Arial Unicode MS", "Unifont")


def columns_of(text):
    """Return how many letters wide a text is drawn: a CJK letter counts twice."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def families_for(texts):
    """Return the names of the fonts to draw texts with; the first font that has a letter draws it."""
    wanted = _letters(texts) - _letters_of(FIRST)
    found = [FIRST]
    for name in _others() if wanted else ():
        if wanted & _letters_of(name):
            found.append(name)
            wanted = wanted - _letters_of(name)
        if not wanted:
            break
    return found


def unreadable(texts):
    """Return the letters of texts that no font of this system has, as one text sorted by code point."""
    return "".join(sorted(_letters(texts).difference(*map(_letters_of, families_for(texts)))))


def _letters(texts):
    """Return the characters with a shape, except ASCII, which every font has, and those that draw nothing."""
    return frozenset(letter for text in texts for letter in text
                     if ord(letter) > 126 and unicodedata.category(letter) not in SHAPELESS)


def _others():
    """Return the names of this system's fonts other than FIRST, PREFERRED ones first."""
    from matplotlib.font_manager import fontManager
    names = {font.name for font in fontManager.ttflist if "last resort" not in font.name.lower()} - {FIRST}
    return [name for name in PREFERRED if name in names] + sorted(names.difference(PREFERRED))


def _letters_of(name):
    """Return the letters that all faces of a font have; empty for a missing font."""
    from matplotlib.font_manager import fontManager
    files = {font.fname for font in fontManager.ttflist if font.name == name}
    return frozenset.intersection(*map(_letters_in, files)) if files else frozenset()


@functools.cache
def _letters_in(file):
    """Return the letters in a font file; empty if it cannot be read."""
    from matplotlib.ft2font import FT2Font
    try:
        return frozenset(map(chr, FT2Font(file).get_charmap()))
    except (OSError, RuntimeError, ValueError):
        return frozenset()

"""Fonts of pictures: DejaVu Sans, and for letters that it lacks those of this system that have them.

matplotlib brings DejaVu Sans, which has Latin, Greek, Cyrillic and some Arabic letters. The page itself needs none of
this: a browser finds fonts by itself.
"""

import functools
import unicodedata

FIRST = "DejaVu Sans"
SHAPELESS = ("Cc", "Cf", "Cs", "Zs", "Zl", "Zp")  # categories of Unicode: control, format, surrogates, spaces
PREFERRED = (  # before any other font that has a letter: sans serif, for many letters at once
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans CJK TC", "Noto Sans SC", "Noto Sans JP",
    "Noto Sans KR", "Source Han Sans SC", "Source Han Sans", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei",
    "Droid Sans Fallback", "IPAexGothic", "IPAGothic", "NanumGothic", "PingFang SC", "Hiragino Sans", "Heiti TC",
    "Apple SD Gothic Neo", "Microsoft YaHei", "SimHei", "Yu Gothic", "Meiryo", "Malgun Gothic", "Noto Sans",
    "Noto Sans Arabic", "Noto Sans Devanagari", "Noto Sans Bengali", "Noto Sans Thai", "Noto Sans Hebrew",
    "Arial Unicode MS", "Unifont")


def columns_of(text):
    """How many letters wide a text is drawn: a CJK letter counts twice."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def families_for(texts):
    """The names of the fonts to draw texts with, the first that has a letter is taken for it."""
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
    """The letters of texts that no font of this system has, in their order of code points, as one text."""
    return "".join(sorted(_letters(texts).difference(*map(_letters_of, families_for(texts)))))


def _letters(texts):
    """What has a shape: without what is ASCII, which every font has, and what leaves no mark on paper."""
    return frozenset(letter for text in texts for letter in text
                     if ord(letter) > 126 and unicodedata.category(letter) not in SHAPELESS)


def _others():
    """The names of this system's fonts but FIRST, PREFERRED ones first."""
    from matplotlib.font_manager import fontManager
    names = {font.name for font in fontManager.ttflist if "last resort" not in font.name.lower()} - {FIRST}
    return [name for name in PREFERRED if name in names] + sorted(names.difference(PREFERRED))


def _letters_of(name):
    """The letters that all faces of a font have, none of a font that is not there."""
    from matplotlib.font_manager import fontManager
    files = {font.fname for font in fontManager.ttflist if font.name == name}
    return frozenset.intersection(*map(_letters_in, files)) if files else frozenset()


@functools.cache
def _letters_in(file):
    """The letters of a font's file; none where it cannot be read."""
    from matplotlib.ft2font import FT2Font
    try:
        return frozenset(map(chr, FT2Font(file).get_charmap()))
    except (OSError, RuntimeError, ValueError):
        return frozenset()

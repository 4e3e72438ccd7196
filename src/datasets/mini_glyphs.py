"""Letters and pictograms of ``mini``: glyphs of the open fonts that matplotlib ships, in flat ink on flat paper.

DejaVu (free, public domain changes to Bitstream Vera), STIX (SIL Open Font License) and Computer Modern (BaKoMa). The
outlines are the fonts'; this file turns, scales and colours them.
"""

import functools

import numpy as np

from src.datasets.installed import installed_file
from src.datasets.mini_names import CLASSES, PICTOGRAMS
from src.datasets.mini_paint import SIDE, any_colours, photographed

LETTER_FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif",
                "DejaVuSerif-Bold", "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic",
                "cmr10", "cmb10", "cmss10", "cmti10", "cmtt10")
SYMBOL_FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono")
HEIGHT, CANVAS = 44, 64        # of a glyph before it is turned, and of its picture


def draw_letters(labels, rng):
    """(N,) -> (N, 32, 32, 3) uint8: a capital or a small letter, each as often."""
    letters = np.array(CLASSES["mini-letters"])[labels]
    small = rng.random(len(labels)) < 0.5
    return _inked([letter if is_small else letter.upper() for letter, is_small in zip(letters, small, strict=True)],
                  LETTER_FONTS, "mini-letters", rng)


def draw_pictograms(labels, rng):
    points = list(PICTOGRAMS)
    return _inked([chr(points[label]) for label in labels], SYMBOL_FONTS, "mini-pictograms", rng)


def _inked(characters, fonts, name, rng):
    chosen = rng.choice(fonts, len(characters))
    covered = np.stack([_turned(_glyph(character, font, name), rng)
                        for character, font in zip(characters, chosen, strict=True)])
    ink = any_colours(len(covered), rng)
    paper = any_colours(len(covered), rng, apart_from=ink)[:, None, None]
    return photographed((paper + (ink[:, None, None] - paper) * covered[..., None]).astype(np.float32), rng)


def _turned(glyph, rng):
    """A glyph turned, scaled, slanted and moved a little: (32, 32) from 0 to 1."""
    from PIL import Image
    turn, scale = rng.uniform(-0.25, 0.25), rng.uniform(0.85, 1.5)
    back = scale * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    back = back @ [[1, rng.uniform(-0.2, 0.2)], [0, rng.uniform(0.9, 1.1)]]
    moved = CANVAS / 2 - back @ (CANVAS / 2 + rng.uniform(-6, 6, 2))
    placed = glyph.transform((CANVAS, CANVAS), Image.Transform.AFFINE,
                             (*back[0], moved[0], *back[1], moved[1]), Image.Resampling.BILINEAR)
    half = CANVAS // SIDE
    return np.asarray(placed, dtype=np.float32).reshape(SIDE, half, SIDE, half).mean(axis=(1, 3)) / 255


@functools.cache
def _glyph(character, font, name):
    """A glyph in the middle of a picture in greys, its longer side HEIGHT."""
    from PIL import Image, ImageDraw
    outline, size = _font(font, name), 2 * HEIGHT
    drawn = Image.new("L", (4 * size, 4 * size))
    ImageDraw.Draw(drawn).text((size, size), character, fill=255, font=outline)
    cut = drawn.crop(drawn.getbbox())
    share = HEIGHT / max(cut.size)
    small = cut.resize([max(1, round(side * share)) for side in cut.size], Image.Resampling.BOX)
    picture = Image.new("L", (CANVAS, CANVAS))
    picture.paste(small, tuple((CANVAS - side) // 2 for side in small.size))
    return picture


@functools.cache
def _font(font, name):
    from PIL import ImageFont
    path = installed_file(name, "matplotlib", "fonts", "ttf", f"{font}.ttf")
    return ImageFont.truetype(str(path), 2 * HEIGHT, layout_engine=ImageFont.Layout.BASIC)

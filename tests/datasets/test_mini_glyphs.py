"""Letters and pictograms: every font has every glyph, and a picture shows it in one ink on another paper."""

import numpy as np
import pytest

from src.datasets import mini_glyphs
from src.datasets.mini_names import CLASSES, PICTOGRAMS


@pytest.mark.parametrize(("fonts", "characters"), [
    (mini_glyphs.LETTER_FONTS, "".join(CLASSES["mini-letters"]) + "".join(CLASSES["mini-letters"]).upper()),
    (mini_glyphs.SYMBOL_FONTS, "".join(map(chr, PICTOGRAMS)))])
def test_every_font_has_every_glyph(fonts, characters):
    from matplotlib.ft2font import FT2Font
    for font in fonts:
        path = mini_glyphs.installed_file("mini", "matplotlib", "fonts", "ttf", f"{font}.ttf")
        assert {ord(character) for character in characters} <= set(FT2Font(str(path)).get_charmap()), font


def test_a_glyph_lies_in_the_middle_at_its_height():
    picture = np.asarray(mini_glyphs._glyph("H", "DejaVuSans", "mini-letters"))
    rows, columns = (np.flatnonzero(picture.max(axis=axis) > 64) for axis in (1, 0))
    for used in (rows, columns):
        assert abs(used[0] + used[-1] + 1 - mini_glyphs.CANVAS) <= 2
    assert len(rows) == mini_glyphs.HEIGHT and picture[32, 20:44].min() > 200    # the bar of the H
    assert picture[20, 28:36].max() == 0                                         # and nothing above it


def test_a_letter_is_a_capital_as_often_as_not(monkeypatch):
    seen = []
    monkeypatch.setattr(mini_glyphs, "_inked", lambda characters, *_: seen.extend(characters))
    mini_glyphs.draw_letters(np.tile(np.arange(26), 20), np.random.default_rng(0))
    assert {character.lower() for character in seen[:26]} == set(CLASSES["mini-letters"])
    assert 0.4 < np.mean([character.isupper() for character in seen]) < 0.6


@pytest.mark.parametrize("draw", [mini_glyphs.draw_letters, mini_glyphs.draw_pictograms])
def test_pictures_are_fixed_and_differ(draw):
    labels = np.arange(26)
    first, again = (draw(labels, np.random.default_rng(1)) for _ in range(2))
    assert first.shape == (26, 32, 32, 3) and first.dtype == np.uint8 and np.array_equal(first, again)
    assert first.std(axis=(1, 2)).max(axis=1).min() > 10          # something is seen on each

"""Fonts for letters that DejaVu Sans lacks, with a font made here."""

import warnings

import pytest

from src.report import fonts
from src.report.figures import new_figure, style, write_png

LETTER = "\U000f1234"  # of a private plane, which no font of a system has


@pytest.fixture
def installed(tmp_path):
    """A font whose only letter is LETTER, a square, as if this system had it."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen
    from matplotlib.font_manager import fontManager
    pen = TTGlyphPen(None)
    for command, place in (("moveTo", (0, 0)), ("lineTo", (0, 900)), ("lineTo", (900, 900)), ("lineTo", (900, 0))):
        getattr(pen, command)(place)
    pen.closePath()
    square = pen.glyph()
    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(LETTER): "square"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": square})
    builder.setupHorizontalMetrics({".notdef": (500, 0), "square": (1000, 0)})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "Made Here", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=900, usWinAscent=900, usWinDescent=100)
    builder.setupPost()
    builder.save(tmp_path / "made.ttf")
    before = list(fontManager.ttflist)
    fontManager.addfont(tmp_path / "made.ttf")
    yield "Made Here"
    fontManager.ttflist[:] = before


def drawn(path, text):
    """Ink of a picture that shows a text, in which a warning would be an error."""
    from matplotlib.image import imread
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with style([text]):
            figure = new_figure(1, 1)
            figure.text(0.3, 0.3, text, fontsize=30)
            write_png(figure, path)
    return (imread(path)[..., :3] < 0.5).mean()


def test_plain_text_needs_one_font():
    assert fonts.families_for(["after DTD", "Zürich", "Ёлка"]) == ["DejaVu Sans"]
    assert fonts.unreadable(["after DTD", "Zürich", "a\nb", ""]) == ""


def test_a_letter_that_nothing_has_is_named_and_draws_a_box_without_a_warning(tmp_path):
    assert fonts.unreadable([f"b{LETTER}", LETTER]) == LETTER and fonts.families_for([LETTER]) == ["DejaVu Sans"]
    assert drawn(tmp_path / "box.png", LETTER) > 0


def test_a_font_of_the_system_is_found(tmp_path, installed):
    box = drawn(tmp_path / "before.png", "\U000f1235")
    assert fonts.families_for([f"a{LETTER}"]) == ["DejaVu Sans", installed] and fonts.unreadable([LETTER]) == ""
    assert drawn(tmp_path / "square.png", LETTER) > 2 * box, "a full square, not the outline of a box"


def test_wide_letters_take_two_columns():
    assert [fonts.columns_of(text) for text in ("", "abc", "流れa", "한")] == [0, 3, 5, 2]

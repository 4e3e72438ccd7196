"""Colours of heat maps: every step can be read, in light and dark, and more is never less."""

import re

import pytest

from src.report import colours

RAMPS = [colours.BLUES, colours.NIGHT, colours.ORANGE_BLUE, colours.ORANGE_BLUE_NIGHT]


def steps(stops):
    return [colours.ramp(stops, number / colours.LEVELS) for number in range(colours.LEVELS + 1)]


def test_contrast_is_as_the_guidelines_define_it():
    assert colours.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert colours.contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # just too little


@pytest.mark.parametrize("stops", RAMPS)
def test_every_cell_can_be_read(stops):
    assert all(colours.contrast(colour, colours.ink(colour)) >= 4.5 for colour in steps(stops))


def test_more_is_darker_on_light_pages_and_lighter_on_dark_ones():
    for stops, sign in ((colours.BLUES, -1), (colours.NIGHT, 1)):
        shades = [sign * colours.luminance(colour) for colour in steps(stops)]
        assert shades == sorted(shades) and len(set(shades)) == len(shades)


def test_a_change_has_a_middle():
    for stops, sign in ((colours.ORANGE_BLUE, 1), (colours.ORANGE_BLUE_NIGHT, -1)):
        shades = [sign * colours.luminance(colour) for colour in steps(stops)]
        middle = colours.LEVELS // 2
        assert shades[:middle + 1] == sorted(shades[:middle + 1]) and shades[middle:] == sorted(shades[middle:])[::-1]


def test_a_ramp_meets_its_stops_and_stays_in_them():
    assert colours.ramp(("#000000", "#ff0080"), 0.5) == "#800040"
    assert [colours.ramp(colours.BLUES, share) for share in (-1, 0, 1, 2)] == [
        colours.BLUES[0], colours.BLUES[0], colours.BLUES[-1], colours.BLUES[-1]]


def test_levels():
    assert [colours.level(value, 20, 100) for value in (0, 20, 60, 100, 200)] == [0, 0, 10, 20, 20]


def test_rules_have_every_step():
    rules = colours.heat_rules(colours.BLUES, colours.ORANGE_BLUE)
    assert len(re.findall(r"\.[vc]\d+\{", rules)) == 2 * (colours.LEVELS + 1)
    assert "--values:" in rules and "--changes:" in rules


@pytest.mark.parametrize(("background", "texts"), [
    ("#ffffff", ["#171c21", "#55606b", "#1c6bb0", "#b8550b", "#14704f", "#b3261e"]),
    ("#1a1f25", ["#e8ecef", "#a3aeb8", "#7bb8e3", "#f0a04b", "#6fd3a8", "#ff9a8f"])])
def test_texts_of_the_page_can_be_read(background, texts):
    style = (colours.__file__).replace("colours.py", "page.css")
    with open(style, encoding="utf-8") as file:
        css = file.read()
    assert background in css
    for text in texts:
        assert text in css and colours.contrast(text, background) >= 4.5, text

"""Sentences about pictures of the wide world (``toy_wide``)."""

from src.datasets.toy_wide import ATTRIBUTES, KINDS

OPENINGS = ("", "a photo of ", "a picture of ", "an image of ", "there is ")
NOUNS, AT, ON = ("shape", "object", "thing", "figure"), ("at the", "in the", "near the"), ("on a", "in front of a")
PLURALS = {"hourglass": "hourglasses", "cross": "crosses"}


def captions(attributes, mentioned, rng):
    """One sentence for each picture, about those of its attributes that ``mentioned``, (N, 8) bool, names."""
    choices = rng.integers(1 << 16, size=(len(mentioned), 5))
    texts = []
    for row, choice in enumerate(choices):
        said = {name: values[attributes[name][row]] for column, (name, values) in enumerate(ATTRIBUTES.items())
                if mentioned[row, column] and attributes[name][row] >= 0}
        texts.append(_sentence(said, list(KINDS)[attributes["kind"][row]], choice))
    return texts


def _sentence(said, kind, choice):
    opening, place, ground = OPENINGS[choice[0] % 5], AT[choice[1] % 3], ON[choice[2] % 2]
    if kind == "surface":
        noun = ("pattern", "surface", "texture")[choice[3] % 3]
    else:
        noun = said.get("shape") or said.get("sign") or ("sign" if kind == "sign" else NOUNS[choice[3] % 4])
    adjectives = [said[name] for name in (("size", "texture", "colour"), ("size", "colour", "texture"))[choice[4] % 2]
                  if name in said]
    phrase = " ".join([*adjectives, noun])
    if "number" in said and said["number"] != "one":
        phrase = f"{said['number']} {phrase.removesuffix(noun)}{PLURALS.get(noun, noun + 's')}"
    elif "number" in said:
        phrase = f"one {phrase}"
    elif "sign" in said and not adjectives:
        phrase = f"the {phrase}"
    else:
        phrase = ("an " if phrase[0] in "aeiou" else "a ") + phrase
    place = f" {place} {said['position']}" if "position" in said else ""
    ground = f" {ground} {said['background']} background" if "background" in said else ""
    return opening + phrase + place + ground

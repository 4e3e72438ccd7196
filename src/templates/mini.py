"""Prompts of the mini tasks; "{c}" is the class name. The first one of each is the training prompt."""

_THING = ["a photo of {a} {c}", "a picture of {a} {c}", "there is {a} {c}"]
_KIND = ["a photo of {a} {c} shape", "a picture of {a} {c} object", "there is {a} {c} thing"]

TEMPLATES = {
    "mini-digits": ["a photo of the digit {c}", "a picture of the digit {c}", "the digit {c}"],
    "mini-letters": ["a photo of the letter {c}", "a picture of the letter {c}", "the letter {c}"],
    "mini-pictograms": _THING,
    "mini-surfaces": _THING,
    "mini-shapes": _THING,
    "mini-colours": _KIND,
    "mini-things": _THING,
    "mini-patterns": ["a photo of {a} {c} pattern", "a picture of {a} {c} surface", "there is {a} {c} texture"],
    "mini-counts": ["a photo of {c}", "a picture of {c}", "there is {c}"],
    "mini-places": ["a photo of a shape at the {c}", "a picture of an object in the {c}",
                    "there is a thing near the {c}"],
    "mini-sizes": _KIND,
}

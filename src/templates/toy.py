"""List the prompts of the toy tasks; "{c}" is the class name. The first of each list is the training prompt."""

TEMPLATES = {
    "toy-digits": ["a photo of the digit {c}", "a picture of the number {c}", "the handwritten digit {c}"],
    "toy-new-shapes": ["a photo of a {c}", "a picture of a {c}", "there is a {c}"],
    "toy-new-textures": ["a photo of a {c} shape", "a picture of a {c} object", "there is a {c} thing"],
    "toy-shapes": ["a photo of a {c}", "a picture of a {c}", "there is a {c}"],
    "toy-textures": ["a photo of a {c} shape", "a picture of a {c} object", "there is a {c} thing"],
    "toy-sizes": ["a photo of a {c} shape", "a picture of a {c} object", "there is a {c} thing"],
    "toy-positions": ["a photo of a shape at the {c}", "a picture of an object in the {c}",
                      "there is a thing near the {c}"],
    "toy-colours": ["a photo of a {c} shape", "a picture of a {c} object", "there is a {c} thing"],
    "toy-backgrounds": ["a photo of a shape on a {c} background",
                        "a picture of an object in front of a {c} background",
                        "there is a thing against a {c} background"],
}

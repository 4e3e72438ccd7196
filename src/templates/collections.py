"""List the templates of the small collections and of the satellite and wildlife pictures."""

SIMPLE = ["a photo of a {c}."]

AIRCRAFT = ["a photo of a {c}, a type of aircraft.", "a photo of the {c}, a type of aircraft."]

BIRDS = ["a photo of a {c}, a type of bird."]

CALTECH = [
    "a photo of a {c}.", "a painting of a {c}.", "a plastic {c}.", "a sculpture of a {c}.", "a sketch of a {c}.",
    "a tattoo of a {c}.", "a toy {c}.", "a rendition of a {c}.", "a embroidered {c}.", "a cartoon {c}.",
    "a {c} in a video game.", "a plushie {c}.", "a origami {c}.", "art of a {c}.", "graffiti of a {c}.",
    "a drawing of a {c}.", "a doodle of a {c}.",
    "a photo of the {c}.", "a painting of the {c}.", "the plastic {c}.", "a sculpture of the {c}.",
    "a sketch of the {c}.", "a tattoo of the {c}.", "the toy {c}.", "a rendition of the {c}.", "the embroidered {c}.",
    "the cartoon {c}.", "the {c} in a video game.", "the plushie {c}.", "the origami {c}.", "art of the {c}.",
    "graffiti of the {c}.", "a drawing of the {c}.", "a doodle of the {c}.",
]

CARS = ["a photo of a {c}, a type of car.", "a photo of a {c}.", "a photo of the {c}.", "a photo of my {c}.",
        "i love my {c}!", "a photo of my dirty {c}.", "a photo of my clean {c}.", "a photo of my new {c}.",
        "a photo of my old {c}."]

CIFAR = [f"a {quality}photo of {article} {size}{{c}}."
         for article in ("a", "the")
         for quality, size in (("", ""), ("blurry ", ""), ("black and white ", ""), ("low contrast ", ""),
                               ("high contrast ", ""), ("bad ", ""), ("good ", ""), ("", "small "), ("", "big "))]

DTD = [f"a photo of {article} {{c}} {kind}." for article in ("a", "the")
       for kind in ("texture", "pattern", "thing", "object")]

EUROSAT = ["a centered satellite photo of {c}.", "a centered satellite photo of a {c}.",
           "a centered satellite photo of the {c}."]

FLOWERS = ["a photo of a {c}, a type of flower."]

FMOW = ["satellite photo of a {c}.", "aerial photo of a {c}.", "satellite photo of {a} {c}.",
        "aerial photo of {a} {c}.",
        *(f"{view} photo of a {{c}} in {place}."
          for place in ("asia", "africa", "the americas", "europe", "oceania") for view in ("satellite", "aerial")),
        "a photo of a {c}.", "{c}."]

FOOD = ["a photo of a {c}, a type of food."]

IWILDCAM = ["a photo of {c}.", "{c} in the wild."]

MNIST = ['a photo of the number: "{c}".']

PET = ["a photo of a {c}, a type of pet."]

SUN = ["a photo of a {c}.", "a photo of the {c}."]

FOR_ALL = "all:"  # prefix in --template: replace the prompts of all data
FIRST = "first"  # after it: only the first prompt of each dataset

# The values of --template.
TEMPLATES = {"simple": SIMPLE, "Aircraft": AIRCRAFT, "Caltech101": CALTECH, "StanfordCars": CARS, "CIFAR": CIFAR,
             "CUB200": BIRDS, "DTD": DTD, "EuroSAT": EUROSAT, "Flowers": FLOWERS, "FMOW": FMOW, "Food": FOOD,
             "IWildCam": IWILDCAM, "MNIST": MNIST, "OxfordPet": PET, "SUN397": SUN}

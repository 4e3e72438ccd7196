"""Templates of the small collections."""

SIMPLE = ["a photo of a {c}."]

DTD = [f"a photo of {article} {{c}} {kind}." for article in ("a", "the")
       for kind in ("texture", "pattern", "thing", "object")]

FLOWERS = ["a photo of a {c}, a type of flower."]

MNIST = ['a photo of the number: "{c}".']

CIFAR = [f"a {quality}photo of {article} {size}{{c}}."
         for article in ("a", "the")
         for quality, size in (("", ""), ("blurry ", ""), ("black and white ", ""), ("low contrast ", ""),
                               ("high contrast ", ""), ("bad ", ""), ("good ", ""), ("", "small "), ("", "big "))]

# What --template can name.
TEMPLATES = {"simple": SIMPLE, "DTD": DTD, "Flowers": FLOWERS, "MNIST": MNIST, "CIFAR": CIFAR}

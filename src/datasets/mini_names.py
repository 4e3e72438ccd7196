"""Class names of the mini tasks, one tuple or table a task; nothing is drawn here."""

from src.datasets.toy_strokes import DIGITS, LETTERS
from src.datasets.toy_wide import COLOURS, NUMBERS, SHAPES, SIZES, TEXTURES
from src.datasets.toy_world import POSITIONS

# Symbols that DejaVu Sans and its sisters have, by their code point.
PICTOGRAMS = {
    0x2600: "sun", 0x2601: "cloud", 0x2602: "umbrella", 0x2603: "snowman", 0x2605: "black star",
    0x2606: "white star", 0x2607: "lightning", 0x260e: "telephone", 0x2611: "checked box", 0x2612: "crossed box",
    0x2613: "saltire", 0x2615: "cup", 0x2618: "shamrock", 0x261a: "hand to the left", 0x261b: "hand to the right",
    0x261d: "hand upwards", 0x261f: "hand downwards", 0x2620: "skull", 0x2622: "radioactive sign", 0x2625: "ankh",
    0x262a: "star and crescent", 0x262d: "hammer and sickle", 0x262e: "peace sign", 0x262f: "yin yang",
    0x2639: "sad face", 0x263a: "happy face", 0x263b: "black face", 0x263d: "crescent", 0x2640: "female sign",
    0x2642: "male sign", 0x2648: "aries", 0x2649: "taurus", 0x264a: "gemini", 0x264c: "leo", 0x2652: "aquarius",
    0x2653: "pisces", 0x265a: "king", 0x265b: "queen", 0x265c: "rook", 0x265d: "bishop", 0x265e: "knight",
    0x265f: "pawn", 0x2660: "spade", 0x2661: "white heart", 0x2665: "black heart", 0x2666: "diamond",
    0x2663: "clover", 0x2668: "hot spring", 0x2669: "quarter note", 0x266a: "eighth note", 0x266b: "two notes",
    0x266d: "flat sign", 0x266e: "natural sign", 0x266f: "sharp sign", 0x2672: "recycling sign",
    0x2680: "one dot in a square", 0x2682: "three dots in a square", 0x2685: "six dots in a square",
    0x2690: "white flag", 0x2691: "black flag", 0x2692: "hammers", 0x2693: "anchor", 0x2694: "swords",
    0x2696: "scales", 0x2698: "flower", 0x2699: "gear", 0x269b: "atom", 0x26a0: "warning triangle",
    0x26b0: "coffin", 0x2702: "scissors", 0x2708: "airplane", 0x2709: "envelope", 0x270c: "fingers",
    0x270f: "pencil", 0x2713: "check mark", 0x2717: "ballot cross", 0x271a: "black cross",
    0x2721: "star of triangles", 0x2744: "snowflake", 0x27a1: "arrow", 0x25ce: "ring in a ring",
    0x25a4: "horizontally striped square", 0x25a5: "vertically striped square", 0x25d0: "half black circle"}
SURFACES = ("blue sky", "grey lake", "green bush", "red wall", "orange roof", "orange flower", "teal leaf",
            "black cloth", "blue paper", "starry flag", "grey hill", "grey plain", "grey brain")
NEW_SHAPES = ("spiral", "lightning", "key", "tree", "fish", "cup", "boat", "mushroom")
THINGS = tuple(f"{colour} {shape}" for shape in ("circle", "square", "triangle", "star", "heart")
               for colour in ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown"))
COUNTS = tuple(f"{number} shape" + "s" * (number != "one") for number in NUMBERS)

CLASSES = {"mini-digits": DIGITS, "mini-letters": LETTERS, "mini-pictograms": tuple(PICTOGRAMS.values()),
           "mini-surfaces": SURFACES, "mini-shapes": (*SHAPES, *NEW_SHAPES), "mini-colours": tuple(COLOURS),
           "mini-things": THINGS, "mini-patterns": TEXTURES, "mini-counts": COUNTS, "mini-places": POSITIONS,
           "mini-sizes": tuple(SIZES)}

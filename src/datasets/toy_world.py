"""Draw the toy world: one textured shape per picture, 32 x 32 pixels, with captions that state part of what is seen.

A picture is six whole numbers, one for each attribute (the index into ``NAMES[attribute]``), plus what the random
generator adds: jitter, a small turn, the texture's phase, noise. All functions are pure in (attributes, generator) and
work on a batch; one core draws some thousands of pictures per second.

    rng = np.random.default_rng(0)
    attributes = sample(8, rng)                       # {"shape": (8,), "colour": (8,), ...}
    images = draw(attributes, rng)                    # (8, 32, 32, 3) uint8
    texts, mentioned = captions(attributes, rng)      # 8 sentences, (8, 6) bool
"""

from dataclasses import dataclass

import numpy as np

SIDE = 32        # pixels
FINE = 2         # outlines are drawn FINE times finer and averaged, so that edges are smooth

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "star", "ring", "heart")
NEW_SHAPES = ("crescent", "arrow", "hourglass", "clover", "house", "dome")
TEXTURES = ("plain", "horizontally striped", "vertically striped", "diagonally striped", "dotted", "checkered")
NEW_TEXTURES = ("ringed", "zigzag", "speckled", "netted", "bricked", "shaded")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
POSITIONS = ("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right")
SIZES = ("small", "medium", "large")
BACKGROUNDS = ("black", "white", "grey", "navy")

# Names used in the world's captions; the new shapes and textures can be drawn, but are never sampled.
ATTRIBUTES = {"shape": SHAPES, "colour": COLOURS, "texture": TEXTURES, "position": POSITIONS, "size": SIZES,
              "background": BACKGROUNDS}
NAMES = {**ATTRIBUTES, "shape": SHAPES + NEW_SHAPES, "texture": TEXTURES + NEW_TEXTURES}


@dataclass(frozen=True)
class Style:
    """Hold the look of the named things: colours as RGB in 0..1, lengths in pixels."""

    colours: tuple = ((.90, .10, .10), (1.0, .55, .05), (.95, .90, .15), (.10, .65, .15),
                      (.15, .85, .90), (.15, .30, .95), (.55, .15, .75), (1.0, .55, .75))
    backgrounds: tuple = ((.03, .03, .03), (.97, .97, .97), (.50, .50, .50), (.05, .05, .32))
    radii: tuple = (7.0, 9.5, 12.5)
    step: float = 5.5            # from the middle to the positions beside it
    period: float = 5.0          # of stripes, dots and checks
    shift: float = 1.0           # largest jitter of the place
    stretch: float = 0.06        # largest relative jitter of the size
    turn: float = 0.2            # largest turn of the outline, in radians
    tint: float = 0.05           # standard deviation of a picture's colours
    noise: float = 0.03          # standard deviation of a pixel


STYLE = Style()
# The same names for things that look different: duller colours, other grounds, smaller and rougher shapes.
OTHER_STYLE = Style(
    colours=((.70, .25, .25), (.80, .50, .25), (.75, .70, .30), (.25, .50, .25),
             (.35, .65, .65), (.30, .35, .70), (.50, .30, .60), (.80, .55, .65)),
    backgrounds=((.15, .12, .10), (.85, .88, .90), (.42, .45, .40), (.15, .18, .40)),
    radii=(5.5, 8.0, 10.5), step=7.0, period=6.5, shift=2.0, stretch=0.12, turn=0.4, tint=0.1, noise=0.06)

NIGHT_STYLE = Style(
    colours=((.55, .05, .20), (.60, .30, .05), (.55, .50, .05), (.05, .40, .20),
             (.05, .45, .55), (.10, .10, .60), (.35, .05, .50), (.60, .20, .45)),
    backgrounds=((.0, .0, .0), (.45, .45, .50), (.20, .20, .22), (.02, .02, .20)),
    radii=(6.0, 8.5, 11.5), step=6.0, period=4.2, turn=0.6, noise=0.05)


def sample(count, rng, **given):
    """Return attributes of ``count`` pictures, name -> (N,) indices; those not ``given`` are uniform over the
    known names."""
    return {name: np.asarray(given[name]) if name in given else rng.integers(len(values), size=count)
            for name, values in ATTRIBUTES.items()}


def draw(attributes, rng, style=STYLE):
    """Draw attributes, name -> (N,), as pictures (N, 32, 32, 3), uint8."""
    count = len(attributes["shape"])
    centre = _centres(attributes["position"], rng, style)                                     # (N, 2): x, y
    radius = np.take(style.radii, attributes["size"]) * rng.uniform(1 - style.stretch, 1 + style.stretch, count)
    inside = _outlines(attributes["shape"], centre, radius, rng.uniform(-style.turn, style.turn, count))
    pattern = _patterns(attributes["texture"], centre, radius, rng, style)                    # (N, 32, 32)
    ground = _tinted(style.backgrounds, attributes["background"], rng, style)                 # (N, 3)
    colour = _tinted(style.colours, attributes["colour"], rng, style)
    # The second colour of a texture is bright on a dark ground and dark on a bright one, so the outline stays visible.
    bright = ground.mean(axis=1, keepdims=True) < 0.4
    second = np.where(bright, 0.25 * colour + 0.75, 0.25 * colour)
    painted = _mix(colour, second, pattern)                                                   # (N, 32, 32, 3)
    image = _mix(ground, painted, inside)
    image += style.noise * rng.standard_normal(image.shape, dtype=np.float32)
    return (image.clip(0, 1) * 255).round().astype(np.uint8)


def random_mentions(count, rng):
    """Return (N, 6) bool: the number of ``ATTRIBUTES`` that a sentence mentions is uniform over 1 to 6, and so
    is which ones."""
    ranks = rng.random((count, len(ATTRIBUTES))).argsort(axis=1).argsort(axis=1)
    return ranks < rng.integers(1, len(ATTRIBUTES) + 1, size=(count, 1))


def captions(attributes, rng, mentioned=None):
    """Return one sentence for each picture: N strings, and (N, 6) bool, which of ``ATTRIBUTES`` each one mentions."""
    count = len(attributes["shape"])
    mentioned = random_mentions(count, rng) if mentioned is None else mentioned
    choices = rng.integers(1 << 16, size=(count, len(_CHOICES)))
    texts = []
    for row in range(count):
        said = {name: NAMES[name][attributes[name][row]] if mentioned[row, column] else None
                for column, name in enumerate(ATTRIBUTES)}
        texts.append(_sentence(said, {key: options[choice % len(options)] for (key, options), choice
                                      in zip(_CHOICES.items(), choices[row], strict=True)}))
    return texts, mentioned


def agreement(attributes, told, mentioned):
    """Return which sentence is true of which picture, (N, M) bool.

    ``attributes`` describes N pictures; ``told`` those that M sentences were made for, and ``mentioned`` is (M,
    6).
    """
    wrong = np.zeros((len(attributes["shape"]), len(mentioned)), dtype=bool)
    for column, name in enumerate(ATTRIBUTES):
        wrong |= (attributes[name][:, None] != told[name]) & mentioned[:, column]
    return ~wrong


# Sentences

_CHOICES = {
    "order": ("plain", "plain", "ground first", "statement"),
    "opening": ("", "a photo of ", "a picture of ", "an image of ", "there is "),
    "noun": ("shape", "object", "thing", "figure"),
    "at": ("at the", "in the", "near the"),
    "on": ("on a", "in front of a", "against a"),
    "adjectives": (("size", "texture", "colour"), ("size", "colour", "texture"), ("texture", "size", "colour")),
}


def _sentence(said, choice):
    adjectives = [said[name] for name in choice["adjectives"] if said[name]]
    noun = said["shape"] or choice["noun"]
    place = f" {choice['at']} {said['position']}" if said["position"] else ""
    ground = f"{choice['on']} {said['background']} background" if said["background"] else ""
    if choice["order"] == "statement" and (adjectives or place):
        words = " and ".join(adjectives) + place
        return f"the {noun} is {words.strip()}" + (f" and the background is {said['background']}" if ground else "")
    phrase = _with_article(" ".join([*adjectives, noun])) + place
    if choice["order"] == "ground first" and ground:
        return f"{ground}, {phrase}"
    return choice["opening"] + phrase + (f" {ground}" if ground else "")


def _with_article(phrase):
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


# Pictures

def _mix(first, second, weight):
    """Blend (N, 3), (N, 3) or (N, 32, 32, 3), (N, 32, 32) -> (N, 32, 32, 3): ``second`` where the weight is one."""
    first = first[:, None, None]
    second = second if second.ndim == 4 else second[:, None, None]
    return first + (second - first) * weight[..., None]


def _tinted(palette, indices, rng, style):
    """Return (N,) -> (N, 3) colours, each slightly off its name's."""
    colours = np.asarray(palette)[indices]
    return (colours + style.tint * rng.standard_normal(colours.shape)).clip(0, 1).astype(np.float32)


def _centres(positions, rng, style):
    """Return (N,) -> (N, 2), x to the right and y down, in pixels."""
    cells = np.stack([positions % 3, positions // 3], axis=1) - 1
    return SIDE / 2 + style.step * cells + rng.uniform(-style.shift, style.shift, cells.shape)


def _grid(side):
    """Return pixel centres of a ``side`` x ``side`` raster over the picture, in pixels of the picture, (side,)."""
    return ((np.arange(side) + 0.5) * (SIDE / side)).astype(np.float32)


def _outlines(shapes, centre, radius, turn):
    """Return the share of each pixel that the shape covers, (N, 32, 32) float32."""
    side = SIDE * FINE
    covered = np.empty((len(shapes), SIDE, SIDE), dtype=np.float32)
    for shape in np.unique(shapes):
        rows = np.flatnonzero(shapes == shape)
        scale = radius[rows, None].astype(np.float32)
        x = (_grid(side) - centre[rows, :1].astype(np.float32)) / scale                       # (n, side)
        y = (centre[rows, 1:].astype(np.float32) - _grid(side)) / scale                       # upwards
        cos, sin = (f(turn[rows]).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
        u, v = x[:, None] * cos + y[..., None] * sin, y[..., None] * cos - x[:, None] * sin   # (n, side, side)
        mask = OUTLINES[NAMES["shape"][shape]](u, v)
        covered[rows] = mask.reshape(-1, SIDE, FINE, SIDE, FINE).mean(axis=(2, 4), dtype=np.float32)
    return covered


def _patterns(textures, centre, radius, rng, style):
    """Return how much of the second colour a pixel has, (N, 32, 32) float32, before the outline is cut out."""
    pattern = np.empty((len(textures), SIDE, SIDE), dtype=np.float32)
    phase = rng.integers(2 * int(style.period), size=(len(textures), 2))
    slant = rng.choice([-1, 1], size=len(textures))
    for texture in np.unique(textures):
        rows = np.flatnonzero(textures == texture)
        pixels = np.arange(SIDE)
        place = Place(x=(pixels + phase[rows, :1])[:, None], y=(pixels + phase[rows, 1:])[..., None],
                       from_x=(_grid(SIDE) - centre[rows, :1])[:, None],
                       from_y=(_grid(SIDE) - centre[rows, 1:])[..., None],
                       radius=radius[rows, None, None], slant=slant[rows, None, None], period=style.period)
        pattern[rows] = PATTERNS[NAMES["texture"][texture]](place, rng)
    return pattern


@dataclass(frozen=True)
class Place:
    """Hold where a pattern is drawn: pixels from a random origin, pixels from the shape's centre, and its
    measures."""

    x: np.ndarray          # (n, 1, 32) whole numbers
    y: np.ndarray          # (n, 32, 1)
    from_x: np.ndarray     # (n, 1, 32)
    from_y: np.ndarray     # (n, 32, 1)
    radius: np.ndarray     # (n, 1, 1)
    slant: np.ndarray      # (n, 1, 1), -1 or 1
    period: float

    def on(self, along):
        """Return whether a position is in the second half of its period."""
        return along % self.period >= self.period / 2


def _radius(u, v):
    return np.sqrt(u * u + v * v)


def _lobes(u, v, count):
    """Return 1 in the middle of each of ``count`` lobes around the centre, -1 between them; the first one
    points up."""
    return np.cos(count * np.arctan2(u, v))


def _star(u, v):
    tip = 1 - np.arccos(_lobes(u, v, 5).clip(-1, 1)) / np.pi
    return _radius(u, v) < 0.4 + 0.65 * tip ** 1.5


def _heart(u, v):
    x, y = 1.2 * u, 1.2 * v + 0.15
    return (x * x + y * y - 1) ** 3 < x * x * y ** 3


# Outlines in the square -1..1, u to the right and v up: two arrays -> bool array.
OUTLINES = {
    "circle": lambda u, v: _radius(u, v) < 0.95,
    "square": lambda u, v: np.maximum(abs(u), abs(v)) < 0.85,
    "triangle": lambda u, v: (v > -0.75) & (abs(u) < 0.6 * (0.95 - v)),
    "diamond": lambda u, v: abs(u) / 0.75 + abs(v) < 1,
    "cross": lambda u, v: (np.minimum(abs(u), abs(v)) < 0.3) & (np.maximum(abs(u), abs(v)) < 1),
    "star": _star,
    "ring": lambda u, v: abs(_radius(u, v) - 0.75) < 0.25,
    "heart": _heart,
    "crescent": lambda u, v: (_radius(u, v) < 1) & (_radius(u - 0.5, v) > 0.8),
    "arrow": lambda u, v: ((abs(v) < 0.25) & (abs(u + 0.4) < 0.6)) | ((u > 0) & (abs(v) < 0.95 * (1 - u))),
    "hourglass": lambda u, v: (abs(u) < 0.1 + 0.75 * abs(v)) & (abs(v) < 0.95),
    "clover": lambda u, v: _radius(u, v) < 0.6 + 0.4 * _lobes(u, v, 3),
    "house": lambda u, v: ((abs(u) < 0.6) & (abs(v + 0.4) < 0.55)) | ((v > 0.1) & (abs(u) < 1.05 * (1 - v))),
    "dome": lambda u, v: (v > -0.5) & (_radius(u, v + 0.5) < 1.05),
}

# Textures: (place, generator) -> share of the second colour, broadcast to (n, 32, 32).
PATTERNS = {
    "plain": lambda p, rng: np.float32(0),
    "horizontally striped": lambda p, rng: p.on(p.y),
    "vertically striped": lambda p, rng: p.on(p.x),
    "diagonally striped": lambda p, rng: p.on(p.x + p.slant * p.y),
    "dotted": lambda p, rng: p.on(p.x) & p.on(p.y),
    "checkered": lambda p, rng: p.on(p.x) ^ p.on(p.y),
    "ringed": lambda p, rng: p.on(_radius(p.from_x, p.from_y)),
    "zigzag": lambda p, rng: p.on(p.y + abs(p.x % 8 - 4)),
    "speckled": lambda p, rng: rng.random(np.broadcast_shapes(p.x.shape, p.y.shape)) < 0.4,
    "netted": lambda p, rng: (p.x % p.period < 1) | (p.y % p.period < 1),
    "bricked": lambda p, rng: (p.y % 4 < 1) | ((p.x + 3 * (p.y // 4 % 2)) % 6 < 1),
    "shaded": lambda p, rng: ((p.slant * p.from_x / p.radius + 1) / 2).clip(0, 1) + 0 * p.from_y,
}

"""Random folders of images, built with a record of what their owner means by them: what is opened is exactly that, or
it is refused in one message, or a finding is printed."""

import random
import unicodedata
from collections import Counter

import numpy
import pytest
from PIL import Image

from src.datasets import open_task
from src.datasets.check import check_dataset
from src.errors import UserError

SPELLINGS = {"train": ("train", "Train", "TRAIN", "training", "Training", "train_set", "TrainImages"),
             "val": ("val", "Val", "valid", "Validation", "VALIDATION", "eval", "dev"),
             "test": ("test", "Test", "TEST", "testing", "Testing", "test set")}
SHAPES = ((), ("train",), ("train", "test"), ("train", "val"), ("train", "val", "test"))
ANIMALS = ("cat", "Dog", "red_fox", "t-shirt", "K\u00e4fer", "\u732b", "7 up", "n01440764", "a.b")
ENDINGS = (".png", ".PNG", ".jpg", ".JPG", ".jpeg", ".jfif", ".jpe", ".bmp", ".tif", ".webp", ".gif")
UNREAD = (".svg", ".heic", ".psd", ".jpg_large", "")
FORMATS = {".png": "PNG", ".bmp": "BMP", ".tif": "TIFF", ".webp": "WEBP", ".gif": "GIF"}
# What can be odd, and how often in a hundred folders each is tried.
ODDITIES = {"level": 6, "stranger": 5, "same part": 4, "one class": 4, "twins": 5, "lacking class": 5, "unread": 8,
            "broken link": 5, "loop": 4, "copy in two parts": 6, "copy under two labels": 6, "no train": 3,
            "class called train": 3, "classes in classes": 4, "loose": 4, "parts in classes": 3, "unknown parts": 4}


def colour_of(number):
    """A colour that survives JPEG."""
    return tuple(25 * (number // 10 ** digit % 10) + 5 for digit in range(3))


def number_of(image):
    """The number whose colour an opened image has."""
    pixels = numpy.array(image if isinstance(image, Image.Image) else image.permute(1, 2, 0))
    digits = [round((channel - 5) / 25) for channel in pixels.reshape(-1, 3).mean(0)]
    return sum(int(digit) * 10 ** place for place, digit in enumerate(digits))


class Folder:
    """A folder on disk, and ``meant``: {part: Counter of (class name, image number)}."""

    def __init__(self, path, seed):
        self.draw, self.path, self.meant, self.numbers = random.Random(seed), path, {}, iter(range(999))
        self.odd = {name for name, rate in ODDITIES.items() if self.draw.randrange(100) < rate}
        self.parts = self.draw.choice(SHAPES)
        if "no train" in self.odd:
            self.parts = ("test",)
        self.base = path / "data" / "all" if "level" in self.odd else path
        if "unknown parts" in self.odd:
            self.parts = ("Lernen", "Probe")
        names = {part: self.draw.choice(SPELLINGS.get(part, (part,))) for part in self.parts}
        self.places = {part: self.base / names[part] for part in self.parts} or {"": self.base}
        self.build_classes()
        self.add_litter()
        for name in sorted(self.odd):
            getattr(self, "add_" + name.replace(" ", "_"), lambda: None)()

    def build_classes(self):
        """{folder: class name}; sometimes numbers with a file of names."""
        count = 1 if "one class" in self.odd else self.draw.choice((2, 3, 12))
        self.classes = {name: name.replace("_", " ") for name in self.draw.sample(ANIMALS, min(count, 5))}
        if count == 12:
            pattern = self.draw.choice(("{}", "class_{}", "{} x"))
            self.classes = {pattern.format(index): f"name {index}" for index in range(12)}
            self.base.mkdir(parents=True)
            names = "".join(f"{name}\n" for name in self.classes.values())
            (self.base / "classnames.txt").write_text(names, encoding="utf-8")
        if "twins" in self.odd:
            self.classes |= {self.draw.choice(("hot_dog", "Hot dog", "hotdog")): "x", "hot dog": "x"}
        if "class called train" in self.odd:
            self.classes["train"] = "train"
        for part, place in self.places.items():
            for folder, name in self.classes.items():
                spelled = self.spelled(folder)
                self.add_image(part, place / spelled, name, deeper="")
                for _ in range(self.draw.randint(1, 2)):
                    self.add_image(part, place / spelled, name, deeper=self.draw.choice(("", "", "more", "more/still")))

    def spelled(self, folder):
        return unicodedata.normalize(self.draw.choice(("NFC", "NFD")) if len(self.places) > 1 else "NFC", folder)

    def add_image(self, part, folder, name, deeper=""):
        number, ending = next(self.numbers), self.draw.choice(ENDINGS)
        path = folder / deeper / f"{number}{ending}"
        self.write(path, number)
        self.mean(part, name, number)

    @staticmethod
    def write(path, number, kind=None):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), colour_of(number)).save(path, kind or FORMATS.get(path.suffix.lower(), "JPEG"))

    def mean(self, part, name, number):
        self.meant.setdefault(part, Counter())[name, number] += 1

    def some_class(self):
        part = self.draw.choice(sorted(self.places))
        folder = self.draw.choice(self.folders_of(part))
        return part, folder, self.classes[unicodedata.normalize("NFC", folder.name)]

    def folders_of(self, part):
        return [path for path in sorted(self.places[part].iterdir())
                if unicodedata.normalize("NFC", path.name) in self.classes]

    def add_litter(self):
        """Add a file that is not an image of any class."""
        for _ in range(self.draw.randint(0, 4)):
            part, folder, _ = self.some_class()
            place = self.draw.choice((folder, folder, self.places[part], self.base))
            name = self.draw.choice((".ipynb_checkpoints/1.png", ".DS_Store", "._1.jpg", "Thumbs.db", "notes.txt",
                                     "__MACOSX/1.png", "desktop.ini", "@eaDir/x/1.jpg", "README", "labels.json"))
            self.write(place / name, 998, "PNG")
        for _ in range(self.draw.randint(0, 1)):  # links to an image and to a folder elsewhere are the owner's
            part, folder, name = self.some_class()
            number, elsewhere = next(self.numbers), self.path.parent / "elsewhere"
            self.write(elsewhere / f"{number}" / "far.png", number)
            link = self.draw.choice((folder / f"link{number}.png", folder / f"link{number}"))
            link.symlink_to(elsewhere / f"{number}" / ("far.png" if link.suffix else ""))
            self.mean(part, name, number)

    def add_stranger(self):
        self.write(self.base / "extra" / "1.png", next(self.numbers))
        self.meant.setdefault("", Counter())["?", 1] += 1

    def add_same_part(self):
        for part in set(self.places) & set(SPELLINGS):
            other = next(name for name in SPELLINGS[part] if name != self.places[part].name)
            self.add_image(part, self.base / other / next(iter(self.classes)), "?")

    def add_lacking_class(self):
        if len(self.places) > 1:
            self.add_image(sorted(self.places)[-1], self.places[sorted(self.places)[-1]] / "only here", "only here")

    def add_unread(self):
        part, folder, name = self.some_class()
        number = next(self.numbers)
        self.write(folder / f"{number}{self.draw.choice(UNREAD)}", number, "PNG")
        self.mean(part, name, number)

    def add_broken_link(self):
        part, folder, name = self.some_class()
        (folder / "gone.png").symlink_to(self.path / "nowhere.png")
        self.mean(part, name, -1)

    def add_loop(self):
        _, folder, _ = self.some_class()
        (folder / "up").symlink_to(self.draw.choice((folder, self.path)))

    def copied(self, different_part):
        part, folder, name = self.some_class()
        image = next((path for path in sorted(folder.iterdir()) if path.stem.isdigit() and path.suffix), None)
        for other in sorted(self.places):
            for target in self.folders_of(other):
                if image and (other != part if different_part else target.name != folder.name and other == part):
                    (target / f"copy of {image.name}").write_bytes(image.read_bytes())
                    self.mean(other, self.classes[unicodedata.normalize("NFC", target.name)], int(image.stem))
                    self.has_copy = True
                    return

    def add_copy_in_two_parts(self):
        self.copied(different_part=True)

    def add_copy_under_two_labels(self):
        self.copied(different_part=False)

    has_copy = False

    def add_classes_in_classes(self):
        for kind, names in (("birds", ("owl", "crow")), ("fish", ("cod", "eel"))):
            for part, place in self.places.items():
                for name in names:
                    self.add_image(part, place / kind / name, name)

    def add_loose(self):
        place = self.places[sorted(self.places)[0]]
        self.write(place / "loose.png", next(self.numbers))
        self.meant.setdefault("", Counter())["?", 2] += 1

    def add_parts_in_classes(self):
        part, folder, name = self.some_class()
        self.add_image("test", folder / "test" / "x", name)
        self.meant.setdefault("test", Counter())["?", 3] += 1


def opened_data(task):
    """{part: Counter of (class name, image number)}, read image by image."""
    found = {}
    for part in task.splits:
        split = task.split(part)
        found[part] = Counter((task.classnames[split.labels[index]], number_of(split.image(index)))
                              for index in range(len(split)))
    return found


def expected_data(folder, found):
    """What is meant, with the held-out share where no part is to be tested on."""
    meant = {part or "train": Counter({(unicodedata.normalize("NFC", name), number): times
                                       for (name, number), times in rows.items()})
             for part, rows in folder.meant.items()}
    if "test" not in meant and "val" in meant:
        return meant | {"test": meant["val"]}
    if "test" not in meant:
        everything = found.get("train", Counter()) + found.get("test", Counter())
        return {"train": found.get("train"), "test": found.get("test")} if everything == meant["train"] else meant
    return meant


def outcome(folder, root):
    """"refused", "finding" or "equal". Fails where other data than meant are opened without a word."""
    name = f"folder:{folder.path}"
    report = check_dataset(name, root)
    try:
        task = open_task(name, root)
    except UserError as error:
        assert len(str(error).splitlines()) == 1 and str(folder.path) in str(error) and not report.is_clean
        return "refused"
    if not report.is_clean:
        return "finding"
    found = opened_data(task)
    assert found == expected_data(folder, found), folder.odd
    assert not folder.has_copy and "twins" not in folder.odd and len(task.classnames) > 1, folder.odd
    return "equal"


@pytest.mark.parametrize("count", [40, pytest.param(300, marks=pytest.mark.slow)])
def test_random_folders(tmp_path, count, capsys):
    outcomes = {}
    for seed in range(count):
        folder = Folder(tmp_path / str(seed) / "photos", seed)
        outcomes[seed] = outcome(folder, str(tmp_path / str(seed)))
        if not folder.odd:
            assert outcomes[seed] == "equal", (seed, capsys.readouterr().out)
    numbers = Counter(outcomes.values())
    assert min(numbers[kind] for kind in ("refused", "finding", "equal")) >= count // 10, numbers

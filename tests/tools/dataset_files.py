"""Small copies of every dataset in its real format. Each image's colour tells its label (``label_of``).

``WRITERS[name](root)`` writes one and gives its Copy.
"""

import csv
import functools
import io
import json
import pickle
import struct
from dataclasses import dataclass, field

import numpy
from PIL import Image

SIDE = 12          # pixels of the longer side; the shorter one has two less
STEP = 32          # labels per channel
COUNTRIES = {"DEU": "Europe", "KEN": "Africa", "PER": "Americas"}
NUMBERS = "zero one two three four five six seven eight nine".split()

CALTECH = (
    "Faces Faces_easy Leopards Motorbikes accordion airplanes anchor ant barrel bass beaver binocular bonsai brain "
    "brontosaurus buddha butterfly camera cannon car_side ceiling_fan cellphone chair chandelier cougar_body "
    "cougar_face crab crayfish crocodile crocodile_head cup dalmatian dollar_bill dolphin dragonfly electric_guitar "
    "elephant emu euphonium ewer ferry flamingo flamingo_head garfield gerenuk gramophone grand_piano hawksbill "
    "headphone hedgehog helicopter ibis inline_skate joshua_tree kangaroo ketch lamp laptop llama lobster lotus "
    "mandolin mayfly menorah metronome minaret nautilus octopus okapi pagoda panda pigeon pizza platypus pyramid "
    "revolver rhino rooster saxophone schooner scissors scorpion sea_horse snoopy soccer_ball stapler starfish "
    "stegosaurus stop_sign strawberry sunflower tick trilobite umbrella watch water_lilly wheelchair wild_cat "
    "windsor_chair wrench yin_yang").split()
EUROSAT = ("AnnualCrop Forest HerbaceousVegetation Highway Industrial Pasture PermanentCrop Residential River "
           "SeaLake").split()


@dataclass(frozen=True)
class Copy:
    """What was written: the number of images of each split, some class names by label, and where the images lie."""

    sizes: dict
    names: dict = field(default_factory=dict)
    folder: str = ""


def errors_of(done):
    """Return the lines on stderr of a command line that are not notes."""
    return [line for line in done.err.splitlines() if not line.startswith("note: ")]


# -- pictures ---------------------------------------------------------------------------------------------------------


def colour(label):
    return 8 * (label % STEP) + 2, 8 * (label // STEP) + 2, 128


def label_of(image):
    """The label that a picture of one colour was written with; PIL image or (3, H, W) tensor."""
    pixel = image[:, 3, 3].tolist() if hasattr(image, "dim") else image.getpixel((3, 3))
    return round((pixel[0] - 2) / 8) + STEP * round((pixel[1] - 2) / 8)


@functools.cache
def encoded(label, kind="JPEG"):
    """Return the bytes of a picture whose colour is that of its label."""
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE - 2), colour(label)).save(buffer, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return buffer.getvalue()


def put(path, label):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(label, "PNG" if path.suffix == ".png" else "JPEG"))


def put_text(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def put_json(path, content):
    put_text(path, json.dumps(content))


def put_table(path, rows, delimiter=","):
    """``rows``: dicts with equal keys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def put_classes(folder, names, number, suffix="jpg"):
    """One folder a class, labels in the order of ``names``."""
    for label, name in enumerate(names):
        for index in range(1, number + 1):
            put(folder / name / f"image_{index:04}.{suffix}", label)


# -- torchvision's collections ----------------------------------------------------------------------------------------


def write_aircraft(root):
    data = root / "fgvc-aircraft-2013b" / "data"
    names = ["F/A-18", "Boeing 717", *(f"7{index}-200" for index in range(98))]
    put_text(data / "variants.txt", "".join(f"{name}\n" for name in names))
    number = 0
    for part in ("train", "val", "test"):
        lines = []
        for label in reversed(range(100)):
            number += 1
            put(data / "images" / f"{number:07}.jpg", label)
            lines.append(f"{number:07} {names[label]}\n")
        put_text(data / f"images_variant_{part}.txt", "".join(lines))
    return Copy({"train": 100, "val": 100, "test": 100}, {0: "F/A-18", 1: "Boeing 717"}, "fgvc-aircraft-2013b")


def write_caltech(root, number=2):
    folder = root / "caltech101" / "101_ObjectCategories"
    put_classes(folder, CALTECH, number)
    put(folder / "BACKGROUND_Google" / "image_0001.jpg", 0)
    names = {0: "off-center face", 5: "airplane", 19: "side of a car", 29: "head of a  crocodile",
             83: "snoopy (cartoon beagle)", 100: "yin and yang symbol"}
    assert (CALTECH[5], CALTECH[19], CALTECH[29]) == ("airplanes", "car_side", "crocodile_head")
    return Copy(drawn_sizes(101 * number), names, "caltech101")


def drawn_sizes(count):
    """The sizes of a split that is drawn: four fifths to train on, rounded down."""
    return {"train": count * 4 // 5, "test": count - count * 4 // 5}


def _cifar(root, folder, batches, key, meta, meta_key, names):
    place = root / folder
    place.mkdir(parents=True)
    for file, number in batches.items():
        labels = [index % len(names) for index in range(number)]
        rows = numpy.stack([numpy.repeat(numpy.array(colour(label), dtype=numpy.uint8), 1024) for label in labels])
        (place / file).write_bytes(pickle.dumps({"data": rows, key: labels}))
    (place / meta).write_bytes(pickle.dumps({meta_key: names}))


def write_cifar10(root):
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    batches = {**{f"data_batch_{index}": 10 for index in range(1, 6)}, "test_batch": 20}
    _cifar(root, "cifar-10-batches-py", batches, "labels", "batches.meta", "label_names", names)
    return Copy({"train": 50, "test": 20}, dict(enumerate(names)))


def write_cifar100(root):
    names = ["apple", "aquarium_fish", *(f"class_{index:02}" for index in range(2, 100))]
    _cifar(root, "cifar-100-python", {"train": 200, "test": 100}, "fine_labels", "meta", "fine_label_names", names)
    return Copy({"train": 200, "test": 100}, {0: "apple", 1: "aquarium fish", 99: "class 99"})


def write_dtd(root):
    folder = root / "dtd" / "dtd"
    names = ["banded", "polka-dotted", *(f"texture_{index:02}" for index in range(45))]
    for part in ("train", "val", "test"):
        files = [f"{name}/{name}_{part}.jpg" for name in names]
        for label, file in enumerate(files):
            put(folder / "images" / file, label)
        put_text(folder / "labels" / f"{part}1.txt", "".join(f"{file}\n" for file in reversed(files)))
        put_text(folder / "labels" / f"{part}2.txt", f"{files[0]}\n")  # another partition
    return Copy({"train": 47, "val": 47, "test": 47}, {0: "banded", 1: "polka-dotted", 46: "texture 44"}, "dtd")


def write_eurosat(root, number=4):
    put_classes(root / "eurosat" / "2750", EUROSAT, number)
    names = {0: "annual crop land", 2: "brushland or shrubland", 6: "permanent crop land", 9: "lake or sea"}
    return Copy(drawn_sizes(10 * number), names, "eurosat")


def write_flowers(root):
    from scipy.io import savemat
    folder = root / "flowers-102"
    ids, labels = {"train": [], "val": [], "test": []}, []
    for label in range(102):
        for part in ids:
            labels.append(label + 1)
            ids[part].append(len(labels))
            put(folder / "jpg" / f"image_{len(labels):05}.jpg", label)
    savemat(folder / "imagelabels.mat", {"labels": numpy.array([labels])})
    savemat(folder / "setid.mat", {"trnid": [ids["train"]], "valid": [ids["val"]], "tstid": [ids["test"]]})
    return Copy(dict.fromkeys(ids, 102), {0: "pink primrose", 15: "globe-flower", 59: "pink-yellow dahlia",
                                          92: "ball moss", 101: "blackberry lily"}, "flowers-102")


def write_food(root):
    names = ["apple_pie", "baby_back_ribs", *(f"dish_{index:02}" for index in range(99))]
    for number, part in enumerate(("train", "test")):
        files = {name: [f"{name}/{1000 * number + index}" for index in range(2 - number)] for name in reversed(names)}
        put_json(root / "food-101" / "meta" / f"{part}.json", files)
        for name, rows in files.items():
            for file in rows:
                put(root / "food-101" / "images" / f"{file}.jpg", names.index(name))
    return Copy({"train": 202, "test": 101}, {0: "apple pie", 1: "baby back ribs"}, "food-101")


def write_mnist(root):
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, number in (("train", 40), ("t10k", 20)):
        labels = bytes(index % 10 for index in range(number))
        pixels = b"".join(bytes([20 * label]) * 784 for label in labels)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, number, 28, 28) + pixels)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, number) + labels)
    return Copy({"train": 40, "test": 20}, {index: f"{index} - {word}" for index, word in enumerate(NUMBERS)})


def write_pets(root):
    folder = root / "oxford-iiit-pet"
    breeds = ["Abyssinian", "american_bulldog", *(f"breed_{index:02}" for index in range(35))]
    for part, first in (("trainval", 1), ("test", 100)):
        rows = [(f"{breed}_{first + index}", label) for label, breed in enumerate(breeds) for index in range(2)]
        put_text(folder / "annotations" / f"{part}.txt",
                 "".join(f"{image} {label + 1} {1 + label % 2} {1 + label // 2}\n" for image, label in rows))
        for image, label in rows:
            put(folder / "images" / f"{image}.jpg", label)
    return Copy({"train": 74, "test": 74}, {0: "Abyssinian", 1: "American Bulldog", 2: "Breed 00"}, "oxford-iiit-pet")


def write_cars(root, labels=range(196)):
    """``labels`` of the training and the test images, from 0."""
    from scipy.io import savemat
    folder = root / "stanford_cars"
    names = ["AM General Hummer SUV 2000", "Ram C/V Cargo Van 2012", *(f"Car {index} 2012" for index in range(194))]
    (folder / "devkit").mkdir(parents=True)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": numpy.array([names], dtype=object)})
    fields = [(name, object) for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
    for part, file in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        rows = []
        for index, label in enumerate(labels):
            put(folder / f"cars_{part}" / f"{index:05}.jpg", label)
            rows.append((1, 1, 9, 9, numpy.int16(label + 1), f"{index:05}.jpg"))
        savemat(folder / file, {"annotations": numpy.array(rows, dtype=fields)[None]})
    return Copy({"train": len(labels), "test": len(labels)}, {0: names[0], 1: names[1], 195: names[195]},
                "stanford_cars")


def write_sun(root, number=1):
    folder = root / "SUN397"
    names = ["abbey", "apartment_building/outdoor", "bakery/kitchen", "bakery/shop",
             *(f"place_{index:03}" for index in range(390)), "zen_garden", "zoo", "zz/indoor"]
    put_text(folder / "ClassName.txt", "".join(f"/{name[0]}/{name}\n" for name in names))
    for label, name in enumerate(names):
        for index in range(number):
            put(folder / name[0] / name / f"sun_a{label:03}_{index:02}.jpg", label)
    put(folder / "a" / "abbey" / "another.jpg", 5)  # the true pictures' names start with sun_
    return Copy(drawn_sizes(397 * number), {0: "abbey", 1: "apartment building/outdoor", 395: "zoo"}, "SUN397")


# -- ImageNet and its shifts ------------------------------------------------------------------------------------------


def wnid(index):
    return f"n{index + 1440000:08}"


def write_imagenet(root):
    for part in ("train", "val"):
        put_classes(root / "ImageNet" / part, map(wnid, range(1000)), 1, "JPEG")
    return Copy({"train": 1000, "test": 1000}, {0: "tench", 134: "crane bird", 999: "toilet paper"}, "ImageNet")


def _write_shift(root, folder, indices, names):
    put_classes(root / folder, map(wnid, indices), 1)
    put_text(root / folder / "README.txt", "")
    return Copy({"test": len(indices)}, names, folder)


def write_imagenet_a(root):
    from src.datasets.imagenet import CLASSES_A
    return _write_shift(root, "imagenet-a", CLASSES_A, {0: "stingray", 1: "goldfinch", 199: "acorn"})


def write_imagenet_r(root):
    from src.datasets.imagenet import CLASSES_R
    return _write_shift(root, "imagenet-r", CLASSES_R, {0: "goldfish", 1: "great white shark"})


def write_sketch(root):
    return _write_shift(root, "sketch", range(1000), {0: "tench", 517: "construction crane"})


def write_imagenet_v2(root):
    folder = "imagenetv2-matched-frequency-format-val"
    put_classes(root / folder, map(str, range(1000)), 1, "jpeg")
    return Copy({"test": 1000}, {0: "tench", 10: "brambling", 999: "toilet paper"}, folder)


def write_objectnet(root):
    """113 folders that ImageNet has too and seven others; names in another order than their folders'."""
    base = root / "objectnet-1.0"
    shared = ["alarm_clock", "backpack", "t-shirt", *(f"thing_{index:03}" for index in range(110))]
    labels = {folder: folder.replace("_", " ").capitalize() for folder in shared} | {"t-shirt": "T-shirt"}
    others = {f"other_{index}": f"Other {index}" for index in range(7)}
    put_json(base / "mappings" / "folder_to_objectnet_label.json", {**others, **dict(reversed(labels.items()))})
    put_json(base / "mappings" / "objectnet_to_imagenet_1k.json", {name: "tench; goldfish" for name in labels.values()})
    for label, folder in enumerate([*sorted(shared), *others]):
        framed = Image.new("RGB", (SIDE, SIDE - 2), (255, 0, 0))
        framed.paste(colour(label), (2, 2, SIDE - 2, SIDE - 4))
        (base / "images" / folder).mkdir(parents=True)
        framed.save(base / "images" / folder / "0a1b.png")
    return Copy({"test": 113}, {0: "alarm clock", 1: "backpack", 2: "t-shirt"}, "objectnet-1.0")


# -- others with their own lists --------------------------------------------------------------------------------------


def write_cub(root):
    """The lists of the archive number all images; splits alternate within a class."""
    folder = root / "CUB_200_2011"
    names = ["001.Black_footed_Albatross", "002.Laysan_Albatross"]
    names += [f"{index:03}.Bird_{index}" for index in range(3, 201)]
    rows = [(f"{name}/{name[4:]}_{index:04}_{index}.jpg", label, index % 2)
            for label, name in enumerate(names) for index in (1, 2)]
    put_text(folder / "classes.txt", "".join(f"{label} {name}\n" for label, name in enumerate(names, 1)))
    for file, column in (("images", 0), ("image_class_labels", 1), ("train_test_split", 2)):
        put_text(folder / f"{file}.txt", "".join(
            f"{number} {row[column] + (column == 1) if column else row[0]}\n" for number, row in enumerate(rows, 1)))
    for file, label, _ in rows:
        put(folder / "images" / file, label)
    named = {0: "Black footed Albatross", 2: "Bird 3", 199: "Bird 200"}
    return Copy({"train": 200, "test": 200}, named, "CUB_200_2011")


def write_tiny_imagenet(root):
    """Classes are in wnids.txt in another order; words.txt has more of them."""
    folder = root / "tiny-imagenet-200"
    wnids = [wnid(7 * index % 200) for index in range(200)]
    put_text(folder / "wnids.txt", "".join(f"{name}\n" for name in wnids))
    words = {name: f"thing {label}, Res {label}" for label, name in enumerate(wnids)} | {"n00001740": "entity"}
    put_text(folder / "words.txt", "".join(f"{name}\t{word}\n" for name, word in sorted(words.items())))
    lines = []
    for label, name in enumerate(wnids):
        put(folder / "train" / name / "images" / f"{name}_0.JPEG", label)
        put_text(folder / "train" / name / f"{name}_boxes.txt", f"{name}_0.JPEG\t0\t0\t9\t9\n")
        put(folder / "val" / "images" / f"val_{label}.JPEG", label)
        lines.append(f"val_{label}.JPEG\t{name}\t0\t0\t9\t9\n")
    put_text(folder / "val" / "val_annotations.txt", "".join(reversed(lines)))
    put(folder / "test" / "images" / "test_0.JPEG", 0)
    return Copy({"train": 200, "test": 200}, {0: "thing 0", 199: "thing 199"}, "tiny-imagenet-200")


# -- videos -----------------------------------------------------------------------------------------------------------

VIDEOS = "imagenet_vid_ytbb_robust"


def write_vid(root):
    """Thirty videos of an anchor and two neighbours; the first video's frames show two classes."""
    base = root / VIDEOS / "imagenet-vid-robust"
    labels, sets = {}, {}
    for label in range(30):
        frames = [f"val/ILSVRC2015_val_{label:08}/{number:06}.JPEG" for number in (5, 6, 16)]
        sets[frames[0]] = frames[1:]
        for frame in frames:
            labels[frame] = [label] if label else [0, 29]
            put(base / frame, label)
    labels["val/unused/000000.JPEG"] = [3]
    put_json(base / "metadata" / "labels.json", labels)
    put_json(base / "metadata" / "pmsets.json", sets)
    put_json(base / "misc" / "imagenet_vid_class_index.json",
             {str(label): [wnid(label), "airplane" if not label else f"animal {label}"] for label in range(30)})
    return Copy({"test": 90}, {0: "airplane", 29: "animal 29"}, f"{VIDEOS}/imagenet-vid-robust")


YTBB_MARKS = ["good", "bad", "unsure", "similar", "dissimilar", "occlusion-increased", "bad-anchor", "person", "dog"]


def marked(*names):
    return [YTBB_MARKS.index(name) for name in names]


def put_ytbb(base, anchors, pairs, first):
    """``anchors``: {"<video>_<ms>/frame-<i>.jpg": marks}, ``pairs``: {(anchor, neighbour): marks}, ``first``: rows
    (video, ms, label as the csv has it)."""
    place = "/somewhere/ytbb_videos"
    put_json(base / "metadata" / "anchor_labels.json", {"labels": YTBB_MARKS, "annotations": [
        {"key": f"{place}/{frame}", "labels": marked(*marks)} for frame, marks in anchors.items()]})
    put_json(base / "metadata" / "pmk_labels.json", {"labels": YTBB_MARKS, "annotations": [
        {"key": f"{place}/{anchor},{place}/{frame}", "labels": marked(*marks)}
        for (anchor, frame), marks in pairs.items()]})
    put_table(base / "metadata" / "ytbb_robustness_test_anchors_full.csv", [
        {"ytid": video, "time_ms": time, "label": label} for video, time, label in first])


def write_ytbb(root):
    """A video of each class: an anchor and one neighbour. The csv has its last two labels swapped."""
    base = root / VIDEOS / "ytbb-robust"
    swapped = {22: 23, 23: 22}
    anchors, pairs, first = {}, {}, []
    for label in range(24):
        frames = [f"vid_{label:02}_{1000 * label}/frame-{number}.jpg" for number in (20, 24)]
        anchors[frames[0]], pairs[tuple(frames)] = ["good"], ["similar"]
        first.append((f"vid_{label:02}", 1000 * label, swapped.get(label, label)))
        for frame in frames:
            put(base / "ytbb_videos" / frame, label)
    put_ytbb(base, anchors, pairs, first)
    return Copy({"test": 48}, {0: "person", 9: "potted plant", 22: "none", 23: "car"}, f"{VIDEOS}/ytbb-robust")


# -- wilds ------------------------------------------------------------------------------------------------------------


def write_fmow(root):
    """The first row and every tenth are sequestered: wilds drops them, and file numbers count them."""
    from src.datasets.wilds import FMOW_NAMES
    folder, rows = root / "fmow_v1.1", []
    kinds = [("train", 2005), ("val", 2005), ("test", 2005), ("val", 2014), ("test", 2017)]
    for kind, (split, year) in enumerate(kinds):
        for label in range(62 if not kind else 5 + kind):
            if len(rows) % 10 == 0:
                rows.append(("seq", 2005, 61))
            rows.append((split, year, label))
    put_table(folder / "rgb_metadata.csv", [
        {"split": split, "category": FMOW_NAMES[label].replace(" ", "_"), "timestamp": f"{year}-05-01T10:00:00Z",
         "country_code": list(COUNTRIES)[index % 3], "lat": 1.5, "lon": 2.5, "img_filename": f"x_{index}.jpg"}
        for index, (split, year, label) in enumerate(rows)])
    put_table(folder / "country_code_mapping.csv",
              [{"name": code, "alpha-3": code, "region": region} for code, region in COUNTRIES.items()])
    put_text(folder / "RELEASE_v1.1.txt", "")
    for index, (split, _, label) in enumerate(rows):
        put(folder / "images" / f"rgb_img_{index}.png", 999 if split == "seq" else label)
    return Copy({"train": 62, "val": 6, "test": 7, "ood_val": 8, "ood_test": 9},
                {0: "airport", 30: "multi-unit residential", 61: "zoo"}, "fmow_v1.1")


def write_iwildcam(root):
    folder, rows = root / "iwildcam_v2.0", []
    sizes = {"train": 182, "id_val": 3, "id_test": 4, "val": 5, "test": 6}
    for split, size in sizes.items():
        for label in range(size):
            file = f"{split}-{label:03}.jpg"
            rows.append({"split": split, "filename": file, "y": label, "location_remapped": label % 7,
                         "sequence_remapped": len(rows), "datetime": "2013-05-01 10:20:30.000"})
            put(folder / "train" / file, label)
    put_table(folder / "metadata.csv", rows)
    names = ["empty", "Tayassu Pecari", *(f"Species {index}" for index in range(180))]
    species = [{"y": label, "category_id": 2 * label, "name": name} for label, name in enumerate(names)]
    unseen = {"y": 99999, "category_id": 999, "name": "Unseen one"}
    put_table(folder / "categories.csv", [unseen, *reversed(species)])
    put_text(folder / "RELEASE_v2.0.txt", "")
    return Copy({"train": 182, "val": 3, "test": 4, "ood_val": 5, "ood_test": 6},
                {0: "empty", 1: "white-lipped peccary"}, "iwildcam_v2.0")


# -- captions ---------------------------------------------------------------------------------------------------------


def write_conceptual_captions(root, odd=True):
    """Four titles, of which one is empty and the last one's image is not there; two without the ``odd`` ones."""
    folder = root / "conceptual_captions"
    titles = ["a red disc", "größe, \"quoted\"", "  ", "a dark green light"]
    put_table(folder / "Validation_GCC-1.1.0-Validation_output.csv", [
        {"title": title, "filepath": f"images/{index}.jpg"}
        for index, title in enumerate(titles if odd else titles[:2])], "\t")
    for index in range(3 if odd else 2):
        put(folder / "images" / f"{index}.jpg", 0)
    return Copy({"train": 2}, {}, "conceptual_captions")


def karpathy(split, file, captions, filepath=None):
    row = {"filename": file, "split": split, "imgid": 0, "sentids": [],
           "sentences": [{"raw": caption, "tokens": caption.split()} for caption in captions]}
    return row | ({"filepath": filepath} if filepath else {})


def write_coco(root, odd=True):
    """The official file has three training images, and an ``odd`` one without caption; Karpathy's has one more split.
    """
    folder = root / "coco"
    number = 4 if odd else 3
    put_json(folder / "annotations" / "captions_train2014.json", {
        "images": [{"id": 10 + index, "file_name": f"COCO_train2014_{index:012}.jpg"} for index in range(number)],
        "annotations": [{"id": 1, "image_id": 11, "caption": "a red disc"},
                        {"id": 2, "image_id": 10, "caption": "a blue photo"},
                        {"id": 3, "image_id": 11, "caption": "the same red disc\n"},
                        {"id": 4, "image_id": 12, "caption": "a dark light"}]})
    put_json(folder / "dataset_coco.json", {"dataset": "coco", "images": [
        karpathy("train", "COCO_train2014_000000000000.jpg", ["a blue photo"], "train2014"),
        karpathy("restval", "COCO_val2014_000000000007.jpg", ["a warm photo"], "val2014"),
        karpathy("val", "COCO_val2014_000000000008.jpg", ["a cold photo", "a green disc"], "val2014"),
        karpathy("test", "COCO_val2014_000000000009.jpg", ["a light photo"], "val2014")]})
    for index in range(number):
        put(folder / "train2014" / f"COCO_train2014_{index:012}.jpg", 0)
    for index in (7, 8, 9):
        put(folder / "val2014" / f"COCO_val2014_{index:012}.jpg", 0)
    return Copy({"train": 3, "val": 1, "test": 1}, {}, "coco")


def write_flickr(root):
    folder = root / "flickr30k"
    parts = ["train", "train", "val", "test", "test", "test"]
    put_json(folder / "dataset_flickr30k.json", {"dataset": "flickr30k", "images": [
        karpathy(part, f"{index}.jpg", [f"a red disc {index}", "a photo of a disc"])
        for index, part in enumerate(parts)]})
    for index in range(len(parts)):
        put(folder / "flickr30k-images" / f"{index}.jpg", 0)
    return Copy({"train": 2, "val": 1, "test": 3}, {}, "flickr30k")


WRITERS = {
    "Aircraft": write_aircraft, "Caltech101": write_caltech, "CIFAR10": write_cifar10, "CIFAR100": write_cifar100,
    "DTD": write_dtd, "EuroSAT": write_eurosat, "Flowers": write_flowers, "Food": write_food, "MNIST": write_mnist,
    "OxfordPet": write_pets, "StanfordCars": write_cars, "SUN397": write_sun, "ImageNet": write_imagenet,
    "ImageNetA": write_imagenet_a, "ImageNetR": write_imagenet_r, "ImageNetSketch": write_sketch,
    "ImageNetV2": write_imagenet_v2, "ObjectNet": write_objectnet, "YTBB": write_ytbb, "ImageNetVidRobust": write_vid,
    "CUB200": write_cub, "TinyImageNet": write_tiny_imagenet,
    "FMOW": write_fmow, "IWildCam": write_iwildcam, "conceptual_captions": write_conceptual_captions,
    "coco": write_coco, "flickr30k": write_flickr,
}

"""Small inputs as users of other programs have them: folders, tables, captions, images and weights, each wrong or
unusual in one way. ``tests/test_reported.py`` says what must become of each."""

import json

import numpy
import torch
from cli_files import COLOURS, picture, write_pictures
from foreign_weights import hugging, open_clip_model, write_config
from PIL import Image
from safetensors.torch import save_file

NAMES = ("blue", "green", "red")
NUMBERS = "zero one two three four five six seven eight nine ten eleven".split()
TABLE = 12  # rows of each table
CLASSNAMES = ("cat", "dog", "bus")
NORMS = {"CLIP's": {}, "halves": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}


# -- folders -----------------------------------------------------------------------------------------------------------


def two_parts_in_capitals(folder):
    write_pictures(folder / "Train", COLOURS, 4)
    write_pictures(folder / "TEST", {name: hue + 0.02 for name, hue in COLOURS.items()}, 2)


def one_level_too_many(folder):
    two_parts_in_capitals(folder / "data")


def hidden_copies(folder):
    write_pictures(folder, COLOURS, 5)
    for index in range(4):
        picture(folder / "blue" / ".ipynb_checkpoints" / f"{index}-checkpoint.png", 0.6, index)


def many_endings(folder):
    write_pictures(folder, COLOURS, 5)
    for index in range(5):
        with Image.open(folder / "blue" / f"{index}.png") as image:
            image.rotate(90).save(folder / "blue" / f"{index}.jfif", "JPEG")
        (folder / "green" / f"{index}.psd").write_bytes(b"8BPS")


def numbered(folder):
    for index in range(12):
        write_pictures(folder, {str(index): index / 12}, 2)
    (folder / "classnames.txt").write_text("\n".join(NUMBERS), encoding="utf-8")


def same_names(folder):
    write_pictures(folder, {"hot_dog": 0.1, "hot dog": 0.4, "cat": 0.8}, 5)


def latin_name(folder):
    """As an old archive unpacks: the bytes of the folder's name are Latin-1."""
    write_pictures(folder, {"cat": 0.1, "K\udce4fer": 0.5}, 5)


def names_in_another_order(folder):
    write_pictures(folder, {"cat": 0.1, "dog": 0.5, "eel": 0.8}, 5)
    (folder / "classnames.txt").write_text("Eel\nDog\nCat\n", encoding="utf-8")


def thumbnails(folder):
    write_pictures(folder, COLOURS, 5)
    for index in range(5):
        with Image.open(folder / "blue" / f"{index}.png") as image:
            (folder / "blue" / "thumbs").mkdir(exist_ok=True)
            image.resize((8, 8)).save(folder / "blue" / "thumbs" / f"{index}.jpg")


# -- tables ------------------------------------------------------------------------------------------------------------


def pictures_of_tables(folder):
    for index in range(TABLE):
        picture(folder / "im" / f"{index}.png", list(COLOURS.values())[index % 3], index)


def caption(index):
    return f"a {NAMES[index % 3]} thing, round, number {index}"


def _rows(head, row, separator=","):
    return "\n".join([head, *(separator.join(row(index)) for index in range(TABLE)), ""])


def _lines(**columns):
    return "".join(json.dumps({key: value(index) for key, value in columns.items()}) + "\n" for index in range(TABLE))


def _image(index):
    return f"im/{index}.png"


# name of the file -> its text; the images lie in im/.
TABLES = {
    "bare.csv": _rows("image,caption", lambda index: (_image(index), caption(index))),
    "ragged.csv": _rows("image,label", lambda index: (_image(index), NAMES[index % 3] + " " * (index % 2))),
    "gone.csv": _rows("image,caption", lambda index: (f"gone/{index}.png", f"thing {index}")),
    "half.csv": _rows("image,caption", lambda index: (f"{('im', 'gone')[index % 2]}/{index}.png", f"thing {index}")),
    "tab.csv": _rows("filepath\ttitle", lambda index: (_image(index), caption(index)), "\t"),
    "metadata.jsonl": _lines(file_name=_image, text=caption),
    "metadata.csv": _rows("file_name,text", lambda index: (_image(index), f'"{caption(index)}"')),
    "semicolons.csv": "\ufeff" + _rows("Image ; Caption", lambda index: (_image(index), caption(index)), ";"),
    "breaks.csv": _rows("image,caption", lambda index: (_image(index), f'"{NAMES[index % 3]}\nround, {index}"')),
    "lists.csv": _rows("image,captions", lambda index: (_image(index), f"\"['one {index}', 'two {index}']\"")),
    "parts.json": json.dumps({part: [{"image": _image(index), "caption": caption(index)} for index in rows]
                              for part, rows in (("train", range(8)), ("test", range(8, TABLE)))}),
    "is_train.csv": _rows("image,label,is_train", lambda index: (_image(index), NAMES[index % 3], str(int(index < 8)))),
    "twice.csv": _rows("image,label", lambda index: (_image(index % 6), NAMES[index % 3])),
    "half_a_letter.jsonl": _lines(image=_image, caption=lambda index: f"thing {index} \ud83d"),
}


def write_tables(folder):
    pictures_of_tables(folder)
    for name, text in TABLES.items():
        (folder / name).write_text(text, encoding="utf-8", newline="")


def write_coco(folder, year="2017"):
    """COCO as it is published: 12 images with five captions each, and with ``val`` 6 others."""
    (folder / "annotations").mkdir(parents=True)
    for part, count in (("train", TABLE), ("val", 6)):
        for index in range(count):
            picture(folder / f"{part}{year}" / f"{index:012}.jpg", index / 12, index)
        images = [{"id": index, "file_name": f"{index:012}.jpg", "coco_url": "http://x"} for index in range(count)]
        captions = [{"id": 10 * index + number, "image_id": index, "caption": f"{caption(index)} {number}"}
                    for index in range(count) for number in range(5)]
        (folder / "annotations" / f"captions_{part}{year}.json").write_text(json.dumps(
            {"info": {}, "images": images, "annotations": captions}))


# -- images ------------------------------------------------------------------------------------------------------------


def write_images(folder):
    """One picture, upright, as a phone stores it, and as grey of 8 bits, of floats up to 1 and of 16 bits."""
    folder.mkdir()
    steps = numpy.random.default_rng(3).random((6, 8, 3))
    image = Image.fromarray((255 * steps).astype("uint8")).resize((160, 120), Image.Resampling.BICUBIC)
    image.save(folder / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(folder / "phone.png", exif=exif)
    grey = numpy.asarray(image.convert("L"))
    Image.fromarray(grey).save(folder / "grey.png")
    Image.fromarray((grey / numpy.float32(255)).astype("float32")).save(folder / "float.tif")
    Image.fromarray(grey.astype("uint16") * 257).save(folder / "deep.png")


# -- weights -----------------------------------------------------------------------------------------------------------


def open_clip_pair(quick_gelu=True, head_width=64):
    """A CLIP of open_clip with the tokenizer's whole vocabulary, and the same weights of transformers."""
    model = open_clip_model(quick_gelu, head_width, vision_width=4 * head_width, text_width=64, text_heads=1,
                            vocab_size=49408)
    with torch.no_grad():  # so that classes, activations and statistics show in the probabilities
        model.logit_scale.fill_(2.7)
        model.token_embedding.weight.mul_(5)
        for tower in (model.transformer, model.visual.transformer):
            for block in tower.resblocks:
                block.mlp.c_fc.weight.mul_(0.25)
                block.mlp.c_proj.weight.mul_(0.25)
        model.transformer.resblocks[0].attn.in_proj_weight[:128].mul_(0.1)  # queries and keys: all words have a say
    return model, hugging(model, text_heads=1)


def write_open_clip(folder, model, head_width, norm):
    """A folder as open_clip's ``push_to_hf_hub`` leaves it."""
    folder.mkdir()
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    quick = {"quick_gelu": True} if "QuickGELU" in str(model) else {}
    write_config(folder, {
        "embed_dim": 16, **quick, "vision_cfg": {"layers": 2, "width": 4 * head_width, "head_width": head_width,
                                                "patch_size": 8, "image_size": 32},
        "text_cfg": {"width": 64, "heads": 1, "layers": 1, "context_length": 8, "vocab_size": 49408}}, norm)
    return folder


def write_transformers(folder, theirs, norm):
    from transformers import CLIPImageProcessor
    theirs.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32},
                       **{f"image_{key}": value for key, value in norm.items()}).save_pretrained(folder)
    return folder


def write_wrapped(folder, model, theirs):
    """The same weights in files as trainers leave them. -> their names"""
    ours, others = model.state_dict(), theirs.state_dict()
    contents = {
        "model_state_dict.pt": {"model_state_dict": ours}, "model_key.pt": {"model": ours, "epoch": 3},
        "compiled.pt": {f"_orig_mod.{name}": value for name, value in ours.items()},
        "all.pt": {f"module._orig_mod.model.{name}": value for name, value in ours.items()},
        "lightning.ckpt": {"state_dict": {f"model.{name}": value for name, value in others.items()}, "epoch": 1},
        "halves.pt": {name: value.half() for name, value in ours.items()}}
    for name, content in contents.items():
        torch.save(content, folder / name)
    save_file(others, folder / "model.safetensors", metadata={"format": "pt", "architecture": "clip"})
    save_file(ours, folder / "renamed.bin")
    return [*contents, "model.safetensors", "renamed.bin"]

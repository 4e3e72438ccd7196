"""Images with captions: what is skipped, what is an error, and their use as references."""

import json

import pytest
from cli_files import BATCH, RATE, picture
from dataset_files import put_json, put_text, write_coco, write_flickr

from src.datasets import open_task
from src.errors import UserError

pytest_plugins = ["cli_fixtures", "dataset_fixtures"]

ROWS = [("1.png", "a red disc"), ("2.png", "größe 猫"), ("1.png", "a blue photo"), ("3.png", "")]


@pytest.fixture
def pairs(tmp_path):
    """pairs(name, text) -> the Task of a table beside four pictures."""
    for index in range(4):
        picture(tmp_path / f"{index}.png", 0.0, index)

    def opened(name, text):
        put_text(tmp_path / name, text)
        return open_task(f"pairs:{tmp_path / name}", str(tmp_path))
    return opened


def written(kind, columns=("image", "caption")):
    if kind == "jsonl":
        return "".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n\n" for row in ROWS)
    joint = "\t" if kind == "tsv" else ","
    return "".join(joint.join(row) + "\n" for row in [columns, *ROWS])


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize("columns", [("image", "caption"), ("filepath", "title"), ("path", "text"),
                                     ("file", "sentence")])
def test_pairs(pairs, capsys, kind, columns):
    task = pairs(f"mine.{kind}", written(kind, columns))
    split = task.split("train")
    assert task.name == "mine" and list(task.splits) == ["train"] and not task.classnames
    assert list(split.files) == ["1.png", "2.png"]
    assert [list(captions) for captions in split.captions] == [["a red disc", "a blue photo"], ["größe 猫"]]
    assert sorted(task.sentences) == ["a blue photo", "a red disc", "größe 猫"]
    assert "1 of 3 images have no caption" in capsys.readouterr().out
    assert split.image(0).size == (20, 18)


def test_long_captions_pass(pairs, tmp_path, cli, world):
    long = "red " * 200
    task = pairs("mine.csv", f"image,caption\n1.png,{long}\n2.png,größe 猫 \U0001f408\n0.png,a\n3.png,b\n")
    assert task.sentences[0] == long.strip()
    done = zscl(cli, world, f"pairs:{tmp_path / 'mine.csv'}", f"pairs:{tmp_path / 'mine.csv'}", tmp_path)
    assert done.status == 0, done.err


def test_a_mark_of_byte_order_is_no_part_of_the_first_column(pairs):
    """Spreadsheets begin their UTF-8 with it."""
    assert len(pairs("mine.csv", "\ufeffimage,caption\n1.png,a red disc\n").split("train")) == 1


FAULTY = {  # file name, content, what the message holds
    "no caption column": ("a.csv", "image,words\n1.png,a\n", ["caption", "image, words"]),
    "no image column": ("a.tsv", "picture\tcaption\n1.png\ta\n", ["image", "picture, caption"]),
    "commas in a tsv": ("a.tsv", "image,caption\n1.png,a\n", ["image,caption"]),
    "empty": ("a.csv", "", ["holds no rows"]), "only a head": ("a.csv", "image,caption\n", ["holds no rows"]),
    "no json": ("a.jsonl", "{]\n", ["cannot be read"]), "json of numbers": ("a.jsonl", "1\n2\n", ["a.jsonl"]),
    "json of lists": ("a.jsonl", '["image", "caption"]\n', ["a.jsonl"]),
    "a row without caption": ("a.jsonl", '{"image": "1.png", "caption": "a"}\n{"image": "2.png"}\n', ["a.jsonl"]),
}


@pytest.mark.parametrize("case", FAULTY)
def test_faulty_tables(tmp_path, cli, world, case):
    name, content, fragments = FAULTY[case]
    put_text(tmp_path / name, content)
    done = zscl(cli, world, f"pairs:{tmp_path / name}", "random", tmp_path)
    assert done.status == 2 and len(done.err.splitlines()) == 1, done.err
    assert all(fragment in done.err for fragment in [name, *fragments]), done.err


def test_a_row_that_is_too_short_has_no_image(pairs):
    task = pairs("a.csv", "caption,image\na red disc,1.png\nloose\n")
    assert list(task.split("train").files) == ["1.png"]


def test_a_table_that_is_not_there(tmp_path, cli, world):
    done = zscl(cli, world, "pairs:nowhere.csv", "random", tmp_path)
    assert done.status == 2 and "no such file: nowhere.csv" in done.err


# -- coco, flickr30k, conceptual_captions ---------------------------------------------------------------------------


def test_coco(every_dataset, capsys):
    task = open_task("coco", str(every_dataset.root))
    train = task.split("train")
    assert train.files == [f"COCO_train2014_{index:012}.jpg" for index in range(3)]
    assert train.captions == [["a blue photo"], ["a red disc", "the same red disc"], ["a dark light"]]
    assert task.split("val").files == ["val2014/COCO_val2014_000000000008.jpg"]
    assert task.split("val").captions == [["a cold photo", "a green disc"]]
    assert "coco: 1 of 4 images have no caption and are skipped" in capsys.readouterr().out
    assert task.sentences == ["a blue photo", "a red disc", "the same red disc", "a dark light"]
    for part in task.splits:
        assert task.split(part).image(0).shape[0] == 3


def test_coco_of_one_file_only(tmp_path):
    write_coco(tmp_path)
    official = tmp_path / "coco" / "annotations" / "captions_train2014.json"
    official.rename(tmp_path / "kept.json")
    task = open_task("coco", str(tmp_path))
    assert task.split("train").files == ["train2014/COCO_train2014_000000000000.jpg",
                                         "val2014/COCO_val2014_000000000007.jpg"]
    (tmp_path / "kept.json").rename(official)
    (tmp_path / "coco" / "dataset_coco.json").unlink()
    assert list(open_task("coco", str(tmp_path)).splits) == ["train"]


def test_flickr(every_dataset):
    task = open_task("flickr30k", str(every_dataset.root))
    assert task.split("test").files == [f"flickr30k-images/{index}.jpg" for index in (3, 4, 5)]
    assert task.split("train").captions[1] == ["a red disc 1", "a photo of a disc"] and len(task.sentences) == 4


def test_titles_serve_without_their_images(every_dataset):
    task = open_task("conceptual_captions", str(every_dataset.root))
    assert task.sentences == ["a red disc", 'größe, "quoted"', "a dark green light"]
    assert task.split("train").files == ["images/0.jpg", "images/1.jpg"]


@pytest.mark.parametrize(("write", "name", "file"), [
    (write_coco, "coco", "train2014/COCO_train2014_000000000001.jpg"),
    (write_flickr, "flickr30k", "flickr30k-images/1.jpg")])
def test_a_listed_image_that_is_missing_is_named_when_it_is_read(tmp_path, write, name, file):
    write(tmp_path)
    (tmp_path / name / file).unlink()
    split = open_task(name, str(tmp_path)).split("train")
    split.image(0)
    with pytest.raises(UserError, match=f"{name}: .*{file} is listed and not there"):
        split.image(1)


OFFICIAL = "annotations/captions_train2014.json"
DAMAGE = {
    "no json": ("coco", OFFICIAL, "{"), "a list": ("coco", OFFICIAL, "[]"), "no images": ("coco", OFFICIAL, "{}"),
    "a stranger's caption": ("coco", OFFICIAL, '{"images": [], "annotations": [{"image_id": 1, "caption": "a"}]}'),
    "no split": ("coco", "dataset_coco.json", '{"images": [{"filename": "a.jpg", "sentences": []}]}'),
    "strings": ("flickr30k", "dataset_flickr30k.json", '{"images": ["a.jpg"]}'),
    "numbers": ("flickr30k", "dataset_flickr30k.json", '{"images": 3}'),
    "no text": ("flickr30k", "dataset_flickr30k.json", "\x00"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_annotations(tmp_path, cli, world, case):
    name, file, content = DAMAGE[case]
    (write_coco if name == "coco" else write_flickr)(tmp_path)
    put_text(tmp_path / name / file, content)
    done = zscl(cli, world, name, "random", tmp_path, tmp_path)
    assert done.status == 2 and len(done.err.splitlines()) == 1, done.err
    assert str(tmp_path / name / file) in done.err and name in done.err


@pytest.mark.parametrize("captions", ["[]", '[{"image_id": 1, "caption": null}]'])
def test_references_without_an_image(tmp_path, cli, world, captions):
    put_text(tmp_path / "coco" / OFFICIAL,
             f'{{"images": [{{"id": 1, "file_name": "a.jpg"}}], "annotations": {captions}}}')
    done = zscl(cli, world, "coco", "random", tmp_path, tmp_path)
    assert done.status == 2 and "--ref-dataset coco" in done.err and "no images" in done.err


def test_a_karpathy_file_without_training_images(tmp_path):
    write_flickr(tmp_path)
    put_json(tmp_path / "flickr30k" / "dataset_flickr30k.json", {"images": []})
    assert open_task("flickr30k", str(tmp_path)).sentences == []


# -- as references --------------------------------------------------------------------------------------------------


def zscl(cli, world, images, sentences, folder, root="nowhere"):
    return cli("--load", world.model, "--train-dataset", world.colours, "--iterations", 2, "--batch-size", BATCH,
               "--lr", RATE, "--warmup-length", 0, "--workers", 0, "--method", "ZSCL", "--ref-model", world.model,
               "--ref-dataset", images, "--ref-sentences", sentences, "--ref-batch-size", 2, "--data-location", root,
               "--save", folder / "out")


@pytest.mark.parametrize(("images", "sentences"), [
    ("coco", "conceptual_captions"), ("flickr30k", "coco"), ("conceptual_captions", "flickr30k"), ("DTD", "coco")])
def test_as_references(every_dataset, cli, world, tmp_path, images, sentences):
    done = zscl(cli, world, images, sentences, tmp_path, every_dataset.root)
    assert done.status == 0, done.err
    assert (tmp_path / "out" / "colours.pth").exists()

"""Images with captions: what is skipped, what is an error, and their use as references."""

import json
import shutil

import pytest
from cli_files import BATCH, RATE, picture
from dataset_files import karpathy, put, put_json, put_text, write_coco, write_flickr

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
    "commas without quotes": ("a.csv", "image,caption\n1.png,a red thing, round\n", ["line 2", "3 cells", "comma"]),
    "no image is there": ("a.csv", "image,caption\nx.png,a\ny.png,b\n", ["2 rows", "line 2: x.png is not there"]),
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


def test_a_row_that_is_too_short_has_no_image(pairs, capsys):
    rows = "a red disc,1.png\n" * 99
    task = pairs("a.csv", f"caption,image\n{rows}loose\n")
    assert list(task.split("train").files) == ["1.png"] and len(task.findings) == 1
    assert "1 of 100 rows" in capsys.readouterr().out
    with pytest.raises(UserError, match="1 of 2 rows .*line 3: it lacks its image"):
        pairs("a.csv", "caption,image\na red disc,1.png\nloose\n")


def test_rows_whose_image_is_missing(pairs, tmp_path, cli, world):
    """They were left out without a word."""
    put_text(tmp_path / "a.csv", "image,caption\n" + "".join(f"{index}.png,thing {index}\n" for index in range(12)))
    pairs("b.csv", "image,caption\n0.png,a\n")  # the pictures 0 to 3 are there
    done = trained(cli, world, tmp_path, "a.csv")
    assert done.status == 2 and "8 of 12 rows" in done.err and "line 6: 4.png is not there" in done.err
    assert not (tmp_path / "out").exists()
    done = trained(cli, world, tmp_path, "a.csv", "--skip-bad-images")
    assert done.status == 0 and "8 of 12 rows" in done.out and "holding out 1 of 4 images (20 %)" in done.out
    for index in range(4):
        (tmp_path / f"{index}.png").unlink()
    done = trained(cli, world, tmp_path, "a.csv", "--skip-bad-images", "--overwrite")
    assert done.status == 2 and "none of the 12 rows" in done.err


def test_held_out_pairs_stay_the_same(pairs, tmp_path, cli, world):
    """As of folder: and csv:, by a stored list; the four images train on three."""
    pairs("a.csv", "image,caption\n" + "".join(f"{index}.png,thing {index}\n" for index in range(4)))
    first, again = (trained(cli, world, tmp_path, "a.csv", "--save", tmp_path / name) for name in ("one", "two"))
    assert first.status == again.status == 0, first.err
    assert "no test split: holding out 1 of 4 images (20 %)" in first.out
    assert (tmp_path / "one" / "metrics_a.csv").read_bytes() == (tmp_path / "two" / "metrics_a.csv").read_bytes()
    stored, = (tmp_path / "splits").glob("pairs_a.csv_*.json")
    lists = json.loads(stored.read_text(encoding="utf-8"))["lists"]
    assert sorted(lists["train"] + lists["test"]) == [0, 1, 2, 3] and len(lists["test"]) == 1


def trained(cli, world, folder, name, *words):
    return cli("--load", world.model, "--train-dataset", f"pairs:{folder / name}", "--iterations", 1, "--batch-size", 2,
               "--lr", RATE, "--warmup-length", 0, "--workers", 0, "--data-location", folder, "--save", folder / "out",
               *words)


def test_a_table_that_is_not_there(tmp_path, cli, world):
    done = zscl(cli, world, "pairs:nowhere.csv", "random", tmp_path)
    assert done.status == 2 and "no such file: nowhere.csv" in done.err


@pytest.mark.parametrize("name", ["dataset_coco.json", "captions_train2017.json"])
def test_pairs_in_the_formats_of_coco(pairs, name):
    content, files = {
        "dataset_coco.json": ({"images": [karpathy("test", "1.png", ["a"]), karpathy("restval", "2.png", ["b"])]},
                              {"train": ["2.png"], "test": ["1.png"]}),
        "captions_train2017.json": ({"images": [{"id": 1, "file_name": "1.png"}],
                                     "annotations": [{"image_id": 1, "caption": "a"}]}, {"train": ["1.png"]})}[name]
    task = pairs(name, json.dumps(content))
    assert {part: task.split(part).files for part in task.splits} == files


def test_an_image_in_two_parts_is_told(pairs):
    finding, = pairs("a.csv", "image,caption,split\n1.png,a,train\n1.png,b,test\n").findings
    assert "1 images are in several splits, such as 1.png" in finding


def test_an_image_that_is_spelled_in_two_ways_is_one(pairs):
    """Else one of the two could be held out and the other trained on."""
    assert pairs("a.csv", "image,caption\n1.png,a\n./1.png,b\n").split("train").captions == [["a", "b"]]


def test_googles_table_gives_sentences(pairs, capsys):
    task = pairs("a.tsv", "a dog\thttp://a.b/c.jpg\na cat\thttp://a.b/d.jpg\n")
    assert task.sentences == ["a dog", "a cat"] and len(task.split("train")) == 0


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


def write_official(root, year, parts, folder="coco"):
    """The official files of a year, three images a part whose captions tell it."""
    for part in parts:
        put_json(root / folder / "annotations" / f"captions_{part}{year}.json", {
            "images": [{"id": index, "file_name": f"{part}{index}.jpg"} for index in range(3)],
            "annotations": [{"image_id": index, "caption": f"{part} {index}"} for index in range(3)]})
        for index in range(3):
            put(root / folder / f"{part}{year}" / f"{part}{index}.jpg", 0)


@pytest.mark.parametrize("year", ["2014", "2017"])
def test_official_files_of_both_years(tmp_path, capsys, year):
    write_official(tmp_path, year, ("train", "val"))
    task = open_task("coco", str(tmp_path))
    assert task.split("train").files == [f"train{index}.jpg" for index in range(3)]
    assert task.split("test").captions == task.split("val").captions == [[f"val {index}"] for index in range(3)]
    assert task.split("test").image(0).shape[0] == 3
    assert "no test split, so its val split is used as test" in capsys.readouterr().out
    elsewhere = open_task("coco", "nowhere", images=tmp_path / "coco" / f"train{year}",
                          annotations=tmp_path / "coco" / "annotations" / f"captions_train{year}.json")
    assert elsewhere.split("test").captions == task.split("test").captions
    assert elsewhere.split("train").image(2).ndim == 3
    whole = open_task("coco", "nowhere", images=tmp_path / "coco",
                      annotations=tmp_path / "coco" / "annotations" / f"captions_train{year}.json")
    assert whole.split("train").image(0).ndim == whole.split("test").image(0).ndim == 3


def test_which_of_several_files_is_read_is_noted(tmp_path, capsys):
    for year in ("2014", "2017"):
        write_official(tmp_path, year, ("train",))
    open_task("coco", str(tmp_path))
    printed = capsys.readouterr().out
    assert "note: coco: the captions are read from " in printed and "captions_train2014.json, not from" in printed
    folder = tmp_path / "coco"
    chosen = {"annotations": folder / "annotations" / "captions_train2017.json", "images": folder / "train2017"}
    open_task("coco", str(tmp_path), **chosen)
    assert "not from" not in capsys.readouterr().out


def test_annotations_without_their_images_score_nothing(tmp_path, capsys):
    write_official(tmp_path, "2017", ("train", "val"))
    shutil.rmtree(tmp_path / "coco" / "val2017")
    assert list(open_task("coco", str(tmp_path)).splits) == ["train"]
    assert "captions_val2017.json is there but its images are not" in capsys.readouterr().out


def train_official(cli, world, root, *words):
    return cli("--load", world.model, "--iterations", 1, "--batch-size", 2, "--lr", RATE, "--warmup-length", 0,
               "--workers", 0, "--data-location", root, "--save", root / "out", *words)


def test_official_files_alone_are_trained_and_not_scored(tmp_path, cli, world):
    write_official(tmp_path, "2017", ("train",))
    done = train_official(cli, world, tmp_path, "--train-dataset", "coco")
    assert done.status == 0 and "note: coco has no test split: it is trained on but not scored" in done.out, done.err
    assert (tmp_path / "out" / "coco.pth").exists() and not (tmp_path / "out" / "metrics_coco.csv").exists()
    for words in (("--eval-datasets", "coco"), ("--eval-split", "val")):
        done = train_official(cli, world, tmp_path, "--train-dataset", "coco", "--save", tmp_path / "again", *words)
        assert done.status == 2 and "coco has no such split" in done.err and "--eval-datasets" in done.err
    done = train_official(cli, world, tmp_path, "--train-dataset", "coco", "--num-phases", 2, "--save",
                          tmp_path / "phases")
    assert done.status == 0 and (tmp_path / "phases" / "coco_phase2.pth").exists(), done.err


@pytest.mark.parametrize("year", ["2014", "2017"])
def test_the_documented_translation_of_pre_train_model(tmp_path, cli, world, year):
    """--coco_train_img_dir D --coco_train_annotation_file F --flickr30k_train_img_dir D2 ..., as docs/modx.md says."""
    write_official(tmp_path, year, ("train",))
    write_official(tmp_path, year, ("train",), "flickr")
    places = [word for name, folder in (("coco", "coco"), ("flickr30k", "flickr")) for word in (
        "--image-dir", f"{name}={tmp_path / folder / f'train{year}'}", "--annotations",
        f"{name}={tmp_path / folder / 'annotations' / f'captions_train{year}.json'}")]
    done = train_official(cli, world, tmp_path, "--joint", "--train-dataset", "coco,flickr30k", *places)
    assert done.status == 0 and done.out.count("is trained on but not scored") == 2, done.err
    assert (tmp_path / "out" / "joint.pth").exists()


FLICKR = {"results_20130124.token": "0.jpg#0\ta dog\n1.jpg#0\ta cat , here\n1.jpg#1\ta cat\n",
          "results.csv": "image_name| comment_number| comment\n0.jpg| 0| a dog\n1.jpg| 0| a cat , here\n"
                         "1.jpg| 1| a cat\n",
          "captions.txt": 'image,caption\n0.jpg,a dog\n1.jpg,"a cat , here"\n1.jpg,a cat\n'}


@pytest.mark.parametrize("file", FLICKR)
@pytest.mark.parametrize("place", ["flickr30k-images", "flickr30k_images/flickr30k_images"])
def test_flickr_in_other_files(tmp_path, cli, world, file, place):
    put_text(tmp_path / "flickr30k" / file, FLICKR[file])
    for index in range(2):
        put(tmp_path / "flickr30k" / place / f"{index}.jpg", 0)
    task = open_task("flickr30k", str(tmp_path))
    assert task.split("train").captions == [["a dog"], ["a cat , here", "a cat"]]
    assert task.split("train").files == [f"{place}/0.jpg", f"{place}/1.jpg"] and task.split("train").image(1).ndim == 3
    if file == "captions.txt":
        done = train_official(cli, world, tmp_path, "--train-dataset", "flickr30k")
        assert done.status == 0 and "flickr30k has no test split" in done.out, done.err


@pytest.mark.parametrize("folder", [".", "conceptual_captions"])
def test_conceptual_captions_in_the_published_places(tmp_path, capsys, folder):
    put_text(tmp_path / folder / "Validation_GCC-1.1.0-Validation.tsv", "a dog\thttp://a.b/c.jpg\n")
    assert open_task("conceptual_captions", str(tmp_path)).sentences == ["a dog"]
    assert "0 of 1 rows" in capsys.readouterr().out
    put_text(tmp_path / folder / "Validation_GCC-1.1.0-Validation_output.csv", "title\tfilepath\na cat\tval/0\n")
    put(tmp_path / folder / "val" / "0", 0)
    task = open_task("conceptual_captions", str(tmp_path))
    assert task.sentences == ["a cat"] and task.split("train").files == ["val/0"]


def test_one_of_several_tables_is_not_chosen_at_random(tmp_path):
    for name in ("Train_output.csv", "other.tsv"):
        put_text(tmp_path / "conceptual_captions" / name, "title\tfilepath\na cat\t0.jpg\n")
    with pytest.raises(UserError, match=r"Train_output\.csv, other\.tsv"):
        open_task("conceptual_captions", str(tmp_path))


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
    with pytest.raises(UserError, match=f"{name}: .*{file} is listed but missing"):
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

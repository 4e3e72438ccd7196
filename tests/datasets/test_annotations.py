"""Files of captions: the same captions in every format that COCO and Flickr30K come in."""

import json

import pytest
from dataset_files import karpathy, put

from src.datasets.annotations import Captioned, finds, placed, read_captions
from src.errors import UserError

CAPTIONS = {"1.jpg": ["a dog, running", "a \"brown\" dog ."], "2.jpg": ["größe 猫", "two ; cats | here"]}
OFFICIAL = {"images": [{"id": 7 + number, "file_name": file} for number, file in enumerate(CAPTIONS)],
            "annotations": [{"id": 0, "image_id": 7 + number, "caption": f"{text}\n"} for text_number in (0, 1)
                            for number, texts in enumerate(CAPTIONS.values()) for text in [texts[text_number]]]}
ROWS = [(file, number, text) for file, texts in CAPTIONS.items() for number, text in enumerate(texts)]


def double(text):
    return '"' + text.replace('"', '""') + '"'


FORMS = {  # format -> (name of the file, its content)
    "Karpathy": ("dataset_coco.json", json.dumps({"images": [
        karpathy("train", file, texts) for file, texts in CAPTIONS.items()]})),
    "official": ("captions_train2017.json", json.dumps(OFFICIAL)),
    "ids as texts": ("captions_train2017.json", json.dumps({
        "images": [{**image, "id": str(image["id"])} for image in OFFICIAL["images"]],
        "annotations": OFFICIAL["annotations"]})),
    "a list": ("a.json", json.dumps([{"image": file, "caption": text, "image_id": "coco_1"}
                                     for file, _, text in ROWS])),
    "a list of lists": ("a.json", json.dumps([{"image": file, "caption": texts} for file, texts in CAPTIONS.items()])),
    "a list below a key": ("a.json", json.dumps({"data": [{"file_name": file, "text": text}
                                                          for file, _, text in ROWS]})),
    "lines": ("a.jsonl", "".join(json.dumps({"filename": file, "captions": texts}) + "\n"
                                 for file, texts in CAPTIONS.items())),
    "tokens": ("results_20130124.token", "".join(f"{file}#{number}\t{text}\n" for file, number, text in ROWS)),
    "tokens of Windows": ("captions.txt", "".join(f"{file}#{number}\t{text} \r\n" for file, number, text in ROWS)),
    "results.csv": ("results.csv", "image_name| comment_number| comment\n" + "".join(
        f"{file}| {number}| {text.replace('|', '/')}\n" for file, number, text in ROWS)),
    "captions.txt": ("captions.txt", "image,caption\n" + "".join(f"{file},{double(text)}\n" for file, _, text in ROWS)),
    "cells of lists": ("flickr_annotations_30k.csv", "raw,sentids,split,filename,img_id\n" + "".join(
        f'{double(json.dumps(texts))},"[0, 1]",train,{file},0\n' for file, texts in CAPTIONS.items())),
    "semicolons": ("a.csv", "Image;Caption\n" + "".join(f"{file};{double(text)}\n" for file, _, text in ROWS)),
}


def merged(rows):
    found = {}
    for row in rows:
        found.setdefault(row.file, []).extend(row.captions)
    return found


@pytest.mark.parametrize("form", FORMS)
def test_formats(tmp_path, form):
    name, content = FORMS[form]
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    found = read_captions("coco", tmp_path / name, "a file")
    wanted = {file: [text.replace("|", "/") if form == "results.csv" else text for text in texts]
              for file, texts in CAPTIONS.items()}
    assert merged(found) == wanted
    assert {row.part for row in found} == ({"train"} if form in ("Karpathy", "cells of lists") else {None})


def test_the_damaged_row_of_the_published_results(tmp_path):
    """Line 20000 of Kaggle's results.csv lacks a separator."""
    path = tmp_path / "results.csv"
    path.write_text("image_name| comment_number| comment\n1.jpg| 0| a dog\n1.jpg| 4   a dog runs\n", encoding="utf-8")
    assert [row.captions for row in read_captions("flickr30k", path, "")] == [["a dog"], [None]]


def test_captions_without_images(tmp_path):
    path = tmp_path / "Validation_GCC-1.1.0-Validation.tsv"
    path.write_text('a "big" dog , he said\thttp://a.b/c.jpg\n"a cat"\thttps://a.b/d.png\n', encoding="utf-8")
    found = read_captions("conceptual_captions", path, "")
    assert [row.captions for row in found] == [['a "big" dog , he said'], ['"a cat"']]
    assert all(row.alone and row.file is None for row in found)


@pytest.mark.parametrize(("cell", "texts"), [
    ("['a dog', 'a cat']", ["a dog", "a cat"]), ('["it\'s", \'x\']', ["it's", "x"]), ('["a", "b"]', ["a", "b"]),
    ("['a dog' 'a cat']", None), ("[a dog]", None), ("['a', 1]", None)])
def test_cells_of_lists(tmp_path, capsys, cell, texts):
    """As json and pandas write them. An array of numpy would be one text to Python: it stays as it is, with a note."""
    path = tmp_path / "a.tsv"
    path.write_text(f"image\tcaption\n1.jpg\t{cell}\n", encoding="utf-8")
    assert [row.captions for row in read_captions("pairs", path, "")] == [texts or [cell]]
    assert ("are not lists in json or Python" in capsys.readouterr().out) == (texts is None)


def test_captions_that_stand_for_nothing_are_noted(tmp_path, capsys):
    path = tmp_path / "a.csv"
    path.write_text("image,caption\n1.jpg,nan\n2.jpg,a dog\n3.jpg,None\n4.jpg,NULL\n5.jpg,NA\n", encoding="utf-8")
    texts = [row.captions for row in read_captions("pairs", path, "")]
    assert texts == [["nan"], ["a dog"], ["None"], ["NULL"], ["NA"]]
    assert "4 captions of " in capsys.readouterr().out


@pytest.mark.parametrize("parts", [["train", "test"], ["test"]])
def test_objects_by_their_parts(tmp_path, parts):
    """A single part is not taken for the name of the whole list."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps({part: [{"image": f"{part}.jpg", "caption": "a"}] for part in parts}), encoding="utf-8")
    found = [(row.part, row.file) for row in read_captions("pairs", path, "")]
    assert found == [(part, f"{part}.jpg") for part in parts]


REFUSED = {
    "a token that is none": ("a.token", "1.jpg#0\ta dog\n1.jpg a cat\n", ["line 2", "1.jpg a cat"]),
    "an address that is none": ("a.tsv", "a dog\thttp://a.b/c\na cat\n", ["line 2", "a cat"]),
    "another split": ("a.json", json.dumps({"images": [karpathy("none", "1.jpg", ["a"])]}), ["Karpathy", "'none'"]),
    "instances": ("a.json", json.dumps({"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1}]}),
                  ["COCO", "caption"]),
    "an id twice": ("a.json", json.dumps({"images": [{"id": 1, "file_name": name} for name in "ab"], "annotations": [
        {"image_id": 1, "caption": "x"}]}), ["COCO", "two images have the same id"]),
    "an image that is not listed": ("a.json", json.dumps({
        "images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 7, "caption": "x"}]}),
        ["an annotation names the image 7, which is not listed"]),
    "a key twice": ("a.json", '[{"image": "1.jpg", "caption": "a", "caption": "b"}]', ["'caption' occurs twice"]),
    "a mapping": ("a.json", '{"a": 1, "b": 2}', ["no captions", "Karpathy"]),
    "an image that is none": ("a.json", '[{"image": {"bytes": 1}, "caption": "a"}]', ["entry 1", "text belongs"]),
    "a caption of captions": ("a.json", '[{"image": "1.jpg", "caption": [["a"]]}]', ["entry 1", "text belongs"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(tmp_path, case):
    name, content, fragments = REFUSED[case]
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as refused:
        read_captions("coco", tmp_path / name, "a file")
    assert all(fragment in str(refused.value) for fragment in ["coco", name, *fragments]), refused.value


@pytest.mark.parametrize(("there", "listed", "found"), [
    ("1.jpg", "1.jpg", "1.jpg"), ("1.jpg", "val2014/1.jpg", "1.jpg"),
    ("val2014/1.jpg", "val2014/1.jpg", "val2014/1.jpg"),
    ("train2017/1.jpg", "1.jpg", "train2017/1.jpg"), ("other.jpg", "a/1.jpg", "a/1.jpg")])
def test_where_images_lie(tmp_path, there, listed, found):
    put(tmp_path / there, 0)
    rows = placed(tmp_path, [Captioned("train", "gone.jpg", []), Captioned("train", listed, [])], "train2017")
    assert rows[1].file == found and finds(tmp_path, rows) == (there != "other.jpg")

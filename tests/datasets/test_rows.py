"""What a table of a user's is made of: encoding, separator, quoting, the names of its columns."""

import csv

import pytest

from src.datasets.rows import column_key, part_of, read_table, split_of
from src.datasets.texts import read_text
from src.errors import UserError

WANTED = {"image": ("image", "file_name"), "caption": ("caption", "text")}


@pytest.fixture
def read(tmp_path):
    """read(content, name) -> [(image, caption)] of a file with this content, text or bytes."""
    def call(content, name="a.csv", **wanted):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        table = read_table("pairs:a", path, read_text("pairs:a", path, "pairs:FILE"), **(wanted or WANTED))
        return [tuple(table.of(row, kind) for kind in (wanted or WANTED)) for row in table.rows]
    return call


PLAIN = "image,caption\n0.png,größe 猫\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_encodings(read, encoding):
    assert read(PLAIN.encode(encoding)) == [("0.png", "größe 猫")]
    assert read(("\ufeff" + PLAIN).encode("utf-16-be" if encoding == "utf-16-be" else "utf-8"))


@pytest.mark.parametrize("separator", [",", "\t", ";", "|", "| ", " ; "])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt"])
def test_separators_are_those_of_the_header(read, separator, name):
    assert read(f"id{separator}image{separator}caption\n1{separator}0.png{separator}a dog\n", name) == [
        ("0.png", "a dog")]


def test_a_separator_that_a_spreadsheet_states(read):
    assert read("sep=;\nimage;caption\n0.png;a, dog\n") == [("0.png", "a, dog")]


QUOTED = {  # the cell as it stands there -> the text that is meant
    '"a red, round disc"': "a red, round disc", '"a ""red"" disc"': 'a "red" disc', '"two\nlines"': "two\nlines",
    '5" pipe': '5" pipe', '"Dog" on a mat': '"Dog" on a mat', "it's": "it's", '"a \\"red, round\\" disc"':
    'a "red, round" disc', "  spaces ": "spaces", ' "after, a space"': "after, a space",
}


@pytest.mark.parametrize("cell", QUOTED)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_quoting(read, cell, end):
    meant = QUOTED[cell]
    assert read(f"image,caption{end}0.png,{cell}{end}1.png,plain{end}") == [("0.png", meant), ("1.png", "plain")]


def test_a_cell_may_be_longer_than_csv_s_own_limit(read):
    text, limit = "word " * 40_000, csv.field_size_limit()
    assert read(f"image,caption\n0.png,{text}\n") == [("0.png", text.strip())]
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize("content", [
    '[{"image": "0.png", "caption": "a", "caption": "b"}]', '{"image": "0.png", "image": "1.png", "caption": "a"}\n'])
def test_a_key_twice_in_json_is_refused_like_a_column(read, content):
    with pytest.raises(UserError, match="the key '(caption|image)' occurs twice in an object"):
        read(content, "a.jsonl" if content[0] == "{" else "a.json")


def test_a_folder_where_a_file_is_expected(tmp_path):
    with pytest.raises(UserError, match=f"^csv:a: {tmp_path} is a folder, not a file; give csv:FILE"):
        read_text("csv:a", tmp_path, "csv:FILE")


def test_quotation_marks_that_would_swallow_lines_are_text(read):
    """By the rules of csv the first cell would hold both lines, up to the second mark."""
    content = 'caption\timage\n"hello\t0.png\nworld"\t1.png\n'
    assert read(content) == [("0.png", '"hello'), ("1.png", 'world"')]


def test_a_marked_text_in_a_quoted_table_is_refused(read):
    """Read without quoting, the others would keep their marks."""
    with pytest.raises(UserError, match=r"a\.csv cannot be read as a table .*quotation mark"):
        read('image,caption\n0.png,"quoted"\n1.png,"Dog" on a mat\n')


@pytest.mark.parametrize("text", ["red\nround, 1", "red,\n, round", "a\nb\nc, d"])
def test_line_breaks_with_as_many_commas_as_columns(read, text):
    """Each line has as many cells as the header; the second cell of a row is one text all the same."""
    assert read(f'image,caption\n0.png,"{text}"\n1.png,"{text}"\n') == [("0.png", text), ("1.png", text)]


REFUSED = {  # content, file -> parts of the message
    "too many cells": ("image,caption\n0.png,a\n1.png,a red, round disc\n", "a.csv",
                       ["line 3 of", "3 cells", "2 columns (image, caption)", "comma", "quotation marks"]),
    "too many, by tabs": ("image\tcaption\n0.png\ta\tb\n", "a.csv", ["line 2 of", "tabs"]),
    "too many below a column without a name": ("image,caption,\n0.png,a red thing, round\n", "a.csv",
                                               ["line 2 of", "3 cells", "2 columns (image, caption)"]),
    "a title": ("My pictures\nimage,caption\n0.png,a\n", "a.csv", ["no column image", "My pictures", "first line"]),
    "two columns of splits": ("image,caption,fold,phase\n0.png,a,train,test\n1.png,a,test,train\n", "a.csv",
                              ["fold and phase", "split"]),
    "no header": ("0.png,a dog\n1.png,a cat\n", "a.csv", ["no column image", "0.png, a dog", "first line"]),
    "other columns": ("picture\twords\n0.png\ta\n", "a.csv", ["no column image", "picture, words", "tabs"]),
    "twice": ("image,Caption,CAPTION\n0.png,a,b\n", "a.csv", ["Caption", "CAPTION", "rename"]),
    "two separators": ("image,caption,x;image;caption\n0.png,a,b\n", "a.csv", ["commas", "semicolons"]),
    "only separators": (",,\n,,\n", "a.csv", ["no column image", "without a name"]),
    "Windows": ("image,caption\n0.png,größe\n".encode("cp1252"), "a.csv", ["UTF-8", "line 2", "0xf6", "Windows-1252"]),
    "half of UTF-16": (PLAIN.encode("utf-16")[:-1], "a.csv", ["UTF-16"]),
    "NUL": ("image,caption\n0.png,a\0b\n", "a.csv", ["line 2", "NUL"]),
    "a spreadsheet": (b"PK\x03\x04rest", "a.csv", ["spreadsheet", "csv"]),
    "parquet": (b"PAR1rest", "a.csv", ["parquet", "csv"]), "gzip": (b"\x1f\x8brest", "a.csv", ["compressed"]),
    "a tar": (b"\0" * 257 + b"ustar", "a.bin", ["WebDataset", "unpack"]),
    "a shard": (b"", "00000.tar", ["WebDataset", "unpack"]),
    "an open quotation": ('image,caption\n0.png,"a\n1.png,"b"\n2.png,b,c\n', "a.csv", ["quotation mark"]),
    "half of a letter": ('{"image": "0.png", "caption": "a"}\n{"image": "1.png", "caption": "b \\ud83d"}\n', "a.jsonl",
                         ["line 2", "half of a character", '"b ']),
    "half of a letter in a list": ('[{"image": "0.png", "caption": "\\ude00"}]', "a.json", ["half of a character"]),
    "a pointer": ("version https://git-lfs.github.com/spec/v1\noid x\n", "a.csv", ["git lfs pull"]),
    "json": ('{"image": "0.png"\n', "a.jsonl", ["json", "line 1"]), "a number": ("5\n", "a.jsonl", ["line 1", "5"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(read, case):
    content, name, fragments = REFUSED[case]
    with pytest.raises(UserError) as refused:
        read(content, name)
    assert all(fragment in str(refused.value) for fragment in ["pairs:a", *fragments]), refused.value


def test_columns_in_any_capitals_and_by_precedence(read, capsys):
    assert read(" File Name ,TEXT\n0.png,a\n") == [("0.png", "a")]
    assert capsys.readouterr().out == ""
    assert read("text,file_name,caption\nb,0.png,a\n") == [("0.png", "a")]
    assert "the caption is read from the column caption, not from text" in capsys.readouterr().out
    assert column_key(" Image-Path\ufeff".strip("\ufeff")) == "image_path"


def test_columns_without_a_name(read):
    """The numbers that pandas writes, and what spreadsheets have on the right."""
    assert read(",image,caption,,\n0,0.png,a,,\n1,1.png,b\n") == [("0.png", "a"), ("1.png", "b")]


def test_splits_under_another_name(read, tmp_path, capsys):
    text = "image,fold\n0.png,train\n1.png,Test\n"
    table = read_table("csv:a", tmp_path / "a.csv", text, image=("image",))
    assert [split_of("csv:a", "a.csv", table, row) for row in table.rows] == ["train", "test"]
    assert "the split is read from the column fold" in capsys.readouterr().out
    for rows in ("0.png,train\n1.png,train\n", "0.png,train\n1.png,bus\n", "0.png,train\n1.png,\n"):  # a vehicle
        assert read(f"image,kind\n{rows}", image=("image",))
        printed = capsys.readouterr().out
        assert "the split is read" not in printed and "columns that are not read: kind" in printed


def test_names_of_classes_say_more_than_their_numbers(read, capsys):
    found = read("image,label,class_name\n0.png,3,cat\n", image=("image",), label=("label", "class_name"))
    assert found == [("0.png", "cat")] and "from the column class_name, not from label" in capsys.readouterr().out


def test_whole_letters_of_two_halves(read):
    text = '{"image": "0.png", "caption": "\\ud83d\\ude00 \\\\ud83d"}\n'
    assert read(text, "a.jsonl") == [("0.png", "\U0001f600 \\ud83d")]


def test_objects_by_their_parts(tmp_path):
    text = '{"train": [{"image": "0.png"}], "Validation": [{"image": "1.png"}], "test": [{"image": "2.png"}]}'
    table = read_table("csv:a", tmp_path / "a.json", text, image=("image",))
    found = [(table.of(row, "image"), split_of("csv:a", "a.json", table, row)) for row in table.rows]
    assert found == [("0.png", "train"), ("1.png", "val"), ("2.png", "test")]


def test_lines_of_json_under_another_ending(read):
    lines = '{"image": "0.png", "caption": "a\u2028b"}\n{"Image": "1.png", "caption": null}\n'
    for name in ("a.jsonl", "a.json", "a.txt"):
        with pytest.raises(UserError, match=r"column image and the column Image"):
            read(lines, name)
        assert read(lines.replace("Image", "image"), name) == [("0.png", "a\u2028b"), ("1.png", "")]
    assert read('[{"image": "0.png", "caption": "a"}]', "a.json") == [("0.png", "a")]


def test_names_of_parts():
    assert [part_of(name) for name in ("Train", " training ", "VALID", "dev", "Testing", "restval", "x", None, 1)] == [
        "train", "train", "val", "val", "test", "train", None, None, None]

"""The lists of names that --class-names reads."""

import json

import pytest
from dataset_files import put_text

from src.datasets.class_names import read_class_names
from src.errors import UserError


def test_names_are_written_on_demand(tmp_path):
    path = tmp_path / "data" / "text_classes" / "imagenet_classes.txt"
    names = read_class_names(path)
    assert len(names) == 1000 and names[:2] == ["tench", "goldfish"] and names[-1] == "toilet paper"
    assert path.read_text(encoding="utf-8").splitlines() == names
    assert read_class_names(path) == names
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_file_that_is_there_is_kept(tmp_path):
    path = tmp_path / "imagenet_classes.txt"
    path.write_text("mine\n", encoding="utf-8")
    assert read_class_names(path) == ["mine"] and path.read_text(encoding="utf-8") == "mine\n"


def test_lines(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes("  red disc \n\nblue\r\ncafé\n".encode())
    assert read_class_names(str(path)) == ["red disc", "blue", "café"]


@pytest.mark.parametrize(("name", "content"), [
    ("missing.txt", None), ("empty.txt", b""), ("blank.txt", b"\n \n"), ("binary.txt", b"\xff\xfe\x00")])
def test_faulty_files(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"--class-names .*{name}"):
        read_class_names(tmp_path / name)
    assert content is not None or not (tmp_path / name).exists()


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match="--class-names .*imagenet_classes.txt"):
        read_class_names(tmp_path / "file" / "imagenet_classes.txt")


NAMES = ["tench", "great white shark", "cat"]
IDS = ["n01440764", "n01484850", "n02123045"]
FORMS = {  # how a list of names is written -> what a note has of it
    "lines": ("\n".join(NAMES), ""),
    "a list": (json.dumps(NAMES), ""), "a long list": (json.dumps(NAMES, indent=2), ""),
    "ids": ("\n".join(f"{wnid} {name.replace(' ', '_')}" for wnid, name in zip(IDS, NAMES, strict=True)), "WordNet"),
    "ids and numbers": ("\n".join(f"{wnid} {number} {name.replace(' ', '_')}" for number, (wnid, name) in enumerate(
        zip(IDS, NAMES, strict=True), 1)), "WordNet"),
    "ids with commas": ("\n".join(f"{wnid},{name}" for wnid, name in zip(IDS, NAMES, strict=True)), "WordNet"),
    "numbers": ("\n".join(f"{number}: {name}" for number, name in enumerate(NAMES)), "number"),
    "numbers from one": ("\n".join(f"{number} {name}" for number, name in enumerate(NAMES, 1)), "number"),
    "number to name": (json.dumps({str(number): name for number, name in reversed([*enumerate(NAMES)])}), "order"),
    "number to id and name": (json.dumps({str(number): [wnid, name.replace(" ", "_")] for number, (wnid, name) in
                                          enumerate(zip(IDS, NAMES, strict=True))}), "order"),
    "name to number": (json.dumps({name: number for number, name in reversed([*enumerate(NAMES)])}), "order"),
    "id to name": (json.dumps(dict(zip(IDS, NAMES, strict=True))), "order"),
    "of Python": ("{0: 'tench',\n 1: 'great white shark',\n 2: 'cat'}", "order"),
    "of transformers": (json.dumps({"id2label": {str(number): name for number, name in enumerate(NAMES)}}), "order"),
    "commas": (", ".join(NAMES), "commas"), "semicolons": ("; ".join(NAMES), "semicolons"),
    "numbers and dashes": ("\n".join(f"{number} - {name}" for number, name in enumerate(NAMES)), "number"),
    "numbers behind": ("\n".join(f"{name}: {number}" for number, name in enumerate(NAMES)), "after"),
    "quoted": ("\n".join(f'"{name}",' for name in NAMES), "quotation mark"),
    "with a comment": ("# of ImageNet\n" + "\n".join(NAMES), "not read as names"),
    "a tuple": (str(tuple(NAMES)), ""), "assigned": (f"classes = {NAMES}", ""),
    "a key of names": (json.dumps({"names": NAMES}), "order"),
    "a list with marks": ("- tench\n- great white shark\n* cat\n", "the mark before"),
    "commas at the ends": ("tench,\ngreat white shark,\ncat\n", "the , after"),
    "columns with tabs": ("name\tnombre\n" + "\n".join(f"{name}\tx" for name in NAMES), "column name"),
    "categories": (json.dumps({"categories": [{"id": 9 - number, "name": name} for number, name in
                                              reversed([*enumerate(reversed(NAMES))])]}), "order"),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_a_list(tmp_path, capsys, form):
    content, noted = FORMS[form]
    put_text(tmp_path / "names.txt", content + "\n")
    assert read_class_names(tmp_path / "names.txt") == NAMES
    printed = capsys.readouterr().out
    assert noted in printed and bool(printed) == bool(noted)


TABLES = {  # file -> what a note has of it
    "a.csv": ("index,name\n2,cat\n0,tench\n1,great white shark\n", "column name"),
    "b.csv": ("Name\n" + "\n".join(NAMES) + "\n", "column Name"),
    "c.csv": ("class,wnid\n" + "\n".join(map(",".join, zip(NAMES, IDS, strict=True))), "column class"),
    "semicolons.csv": ("class_id;class_name\n1;great white shark\n0;tench\n2;cat\n", "column class_name"),
    "pipes.csv": ("id|name\n0|tench\n1|great white shark\n2|cat\n", "column name"),
    "tabs.csv": ("id\tname\n0\ttench\n1\tgreat white shark\n2\tcat\n", "column name"),
    "d.tsv": ("id\tlabel\n" + "\n".join(f"{number}\t{name}" for number, name in enumerate(NAMES)), "column label"),
    "e.csv": ("\n".join(f"{name},{number}" for number, name in enumerate(NAMES)), "after"),
    "f.yaml": ("nc: 3\nnames:\n  0: tench\n  1: great white shark\n  2: cat\n", "order"),
    "g.yml": ("- tench\n- great white shark\n- cat\n", "")}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_names(tmp_path, capsys, name):
    content, noted = TABLES[name]
    put_text(tmp_path / name, content)
    assert read_class_names(tmp_path / name) == NAMES
    printed = capsys.readouterr().out
    assert noted in printed and bool(printed) == bool(noted)


@pytest.mark.parametrize(("name", "content"), [
    ("a.csv", "red,round\nblue,square\n"), ("a.csv", "name,number\nred,1\nblue\n"), ("a.yaml", "names: {a: [}\n"),
    ("a.yaml", "just text\n"), ("a.json", '[{"name": "a"}]'),
    ("a.json", '[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]'),
    ("a.json", '{"0": "cat", "0": "dog", "1": "eel"}'), ("a.json", '{"cat": 0, "dog": 0}'),
    ("a.csv", "cat;Katze\ndog;Hund\n"), ("a.txt", "cat\tKatze\ndog\tHund\n"),
    ("a.pbtxt", 'item {\n  id: 1\n  name: "cat"\n}\n'), ("a.txt", "<classes>\ncat\n</classes>\n"),
    ("a.txt", "{'cat',\n'dog'}\n"), ("a.txt", "{'cat', 'dog'}\n"), ("a.json", '["half \\ud83d", "b"]')])
def test_tables_that_are_refused(tmp_path, name, content):
    put_text(tmp_path / name, content)
    with pytest.raises(UserError, match=rf"--class-names .*{name}"):
        read_class_names(tmp_path / name)


@pytest.mark.parametrize(("content", "noted"), [
    ("2 eel\n0 cat\n", "do not count from 0"), ("tench n01440764\ncat n02123045\n", "WordNet"), ("cat\n", "only class"),
    ("class name\ncat\ndog\n", "remove it if it is a heading"), ("hot%20dog\ncat\n", "codes for signs")])
def test_what_may_not_be_meant_is_noted(tmp_path, capsys, content, noted):
    put_text(tmp_path / "names.txt", content)
    assert read_class_names(tmp_path / "names.txt") == content.splitlines()
    assert noted in capsys.readouterr().out


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_encodings(tmp_path, encoding):
    (tmp_path / "names.txt").write_bytes("cat\r\nKäfer\r\n".encode(encoding))
    assert read_class_names(tmp_path / "names.txt") == ["cat", "Käfer"]


def test_more_than_ten_numbers_are_no_words(tmp_path):
    names = [f"name{number}" for number in range(12)]
    put_text(tmp_path / "names.json", json.dumps({str(number): name for number, name in enumerate(names)}))
    assert read_class_names(tmp_path / "names.json") == names
    put_text(tmp_path / "names.json", json.dumps({str(number): name for number, name in sorted(
        enumerate(names), key=lambda pair: str(pair[0]))}))
    assert read_class_names(tmp_path / "names.json") == names


@pytest.mark.parametrize("line", ["1 more", "7 of nine", "3"])
def test_numbers_that_count_nothing_are_part_of_a_name(tmp_path, line):
    put_text(tmp_path / "names.txt", f"cat\n{line}\n")
    assert read_class_names(tmp_path / "names.txt") == ["cat", line]


def test_names_of_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert read_class_names("cat, hot dog,bird") == ["cat", "hot dog", "bird"]
    assert read_class_names('["cat", "hot dog"]') == read_class_names('"cat","hot dog"') == ["cat", "hot dog"]
    put_text(tmp_path / "a,b.txt", "from the file\n")
    assert read_class_names("a,b.txt") == ["from the file"]
    assert read_class_names("cat,cat") == ["cat", "cat"] and "cat comes twice" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["cat", "cat,,dog", "one.txt,two.txt", ","])
def test_names_that_are_refused(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="--class-names"):
        read_class_names(text)


@pytest.mark.parametrize("content", ["[]", "{}", "[1, 2]", '["a", ["b"]]', '{"a": "b"}', '["a", "b"', '{"0": null}',
                                     "n01440764 tench\ncat"])
def test_lists_that_are_refused(tmp_path, content):
    put_text(tmp_path / "names.json", content)
    with pytest.raises(UserError, match=r"--class-names .*names\.json"):
        read_class_names(tmp_path / "names.json")

"""``csv:FILE``: the user's own table of labelled images."""

import pytest
from cli_files import BATCH, RATE, picture
from dataset_files import errors_of, label_of, put, put_text

from src.datasets import open_task, stem

pytest_plugins = ["cli_fixtures", "dataset_fixtures"]


@pytest.fixture
def table(tmp_path):
    """table(text) -> the Task of a csv beside pictures 0.png ... 11.png, whose colours tell their numbers."""
    for index in range(12):
        put(tmp_path / f"{index}.png", index)

    def opened(text):
        put_text(tmp_path / "mine.csv", text)
        return open_task(f"csv:{tmp_path / 'mine.csv'}", str(tmp_path))
    return opened


def csv(rows, head="image,label"):
    return "\n".join([head, *rows]) + "\n"


@pytest.mark.parametrize("head", ["image,label", "filepath,class", "path,classname", "file,label"])
def test_splits_of_the_table(table, head):
    rows = ["0.png,red_disc,train", "1.png,blue,test", "2.png,red_disc,val", "3.png,blue,train", "4.png,red_disc,test"]
    task = table(csv(rows, f"{head},split"))
    assert task.name == "mine" and task.classnames == ["blue", "red disc"] and task.templates == ["a photo of a {c}."]
    assert {part: (list(task.split(part).files), list(task.split(part).labels)) for part in task.splits} == {
        "train": (["0.png", "3.png"], [1, 0]), "val": (["2.png"], [1]), "test": (["1.png", "4.png"], [0, 1])}
    assert label_of(task.split("test").image(1)) == 4


def test_whole_numbers_sort_as_numbers(table):
    rows = [f"{index}.png,{label}" for index, label in enumerate([10, 9, 2, "b", "a", 10, 9, 2, "b", "a"])]
    task = table(csv(rows))
    assert task.classnames == ["2", "9", "10", "a", "b"]


def test_without_test_rows_a_fifth_of_each_class_is_it(table, tmp_path, capsys):
    rows = [f"{index}.png,{'ab'[index % 2]}" for index in range(12)]
    task = table(csv(rows))
    assert sorted(task.split("test").labels) == [0, 1] and sorted(task.split("train").labels) == [0] * 5 + [1] * 5
    assert "no test split" in capsys.readouterr().out and len(list((tmp_path / "splits").iterdir())) == 1
    again = table(csv(rows))
    assert again.split("test").files == task.split("test").files


def test_without_test_rows_the_val_rows_are_it(table, capsys):
    task = table(csv(["0.png,a,train", "1.png,a,val"], "image,label,split"))
    assert task.split("test").files == task.split("val").files == ["1.png"]
    assert "no test split, so its val split is used as test" in capsys.readouterr().out


def test_labels_are_the_same_with_spaces_around_them(table):
    """They were two classes of one prompt."""
    task = table("image,label\n" + "".join(f"{index}.png,{('red', 'blue')[index % 2]}{' ' if index < 6 else ''}\n"
                                           for index in range(12)))
    assert task.classnames == ["blue", "red"]


def test_labels_are_compared_after_unicode_normalisation(table):
    assert table(csv(["0.png,caf\u00e9,train", "1.png,cafe\u0301,test"], "image,label,split")).classnames == ["café"]


def test_other_parts_and_columns(table):
    task = table("Subset;File Name;Class\nTraining;0.png;a\nVALID;1.png;a\nTesting;2.png;a\n")
    assert {part: task.split(part).files for part in task.splits} == {
        "train": ["0.png"], "val": ["1.png"], "test": ["2.png"]}


def test_a_column_that_names_no_parts_is_none_of_splits(table):
    assert "test" in table("set,image,label\n" + "".join(f"{index % 2},{index}.png,a\n" for index in range(12))).splits


def test_json_lines(table):
    assert table('{"file_name": "0.png", "label": 10, "split": "train"}\n{"file_name": "1.png", "label": 9, '
                 '"split": "train"}\n{"file_name": "2.png", "label": 9, "split": "test"}\n').classnames == ["9", "10"]


def test_images_with_two_labels_or_in_two_parts_are_told(table):
    task = table(csv(["0.png,a,train", "1.png,b,train", "1.png,a,train", "0.png,a,test", "2.png,b,test"],
                     "image,label,split"))
    labels, parts = task.findings
    assert "1 images have several labels, such as 1.png (a, b)" in labels
    assert "1 images have several splits, such as 0.png (test, train)" in parts


def test_an_image_in_both_drawn_halves_is_a_finding(table):
    """By its second row; with splits of its own the table says so itself."""
    rows = [f"{index % 6}.png,{'ab'[index % 2]}" for index in range(12)]
    finding, = table(csv(rows)).findings
    assert "images have several rows and are in both drawn halves" in finding
    named = [f"{row},{part}" for row, part in zip(rows, 6 * ["train"] + 6 * ["test"], strict=True)]
    assert "drawn halves" not in " ".join(table(csv(named, "image,label,split")).findings)


def test_images_with_one_row_each_are_none(table):
    assert table(csv([f"{index}.png,{'ab'[index % 2]}" for index in range(12)])).findings == ()


def test_labels_that_stand_for_nothing_are_a_finding(table):
    finding, = table(csv([f"{index}.png,{('nan', 'a', 'b')[index % 3]}" for index in range(12)])).findings
    assert "4 rows have the label 'nan', which is taken for the name of a class" in finding


def test_rows_without_their_image_are_left_out_when_asked(tmp_path, cli, world):
    for index in range(8):
        picture(tmp_path / f"{index}.png", index % 2 / 3, index)
    put_text(tmp_path / "mine.csv", csv([f"{index}.png,{'ab'[index % 2]}" for index in range(12)]))
    done = run(cli, world, tmp_path, "mine.csv")
    assert done.status == 2 and "4 of 12 rows" in done.err and "line 10: 8.png is not there" in done.err
    done = run(cli, world, tmp_path, "mine.csv", "--skip-bad-images")
    assert done.status == 0 and "note: " in done.out and "4 of 12 rows" in done.out


@pytest.mark.parametrize("prefix", ["csv", "pairs"])
def test_few_rows_without_their_image_are_noted_once(tmp_path, cli, world, prefix):
    """A run prints them in a note and not in a warning too; --check-data has them as a finding."""
    for index in range(10):
        put(tmp_path / f"{index}.png", index % 2)
    put_text(tmp_path / "mine.csv", csv([f"{index % 10}.png,{'ab'[index % 2]},{'train' if index < 10 else 'test'}"
                                         for index in range(198)] + ["99.png,a,train"],
                                        "image,caption,split" if prefix == "pairs" else "image,label,split"))
    expected = f"{prefix}:{tmp_path / 'mine.csv'}: 1 of 199 rows of {tmp_path / 'mine.csv'} cannot be used"
    words = ("--data-location", tmp_path)
    done = cli("--load", world.model, "--train-dataset", f"{prefix}:{tmp_path / 'mine.csv'}", "--iterations", 1,
               "--batch-size", BATCH, "--lr", RATE, "--workers", 0, "--save", tmp_path / "out", *words)
    assert done.status == 0, done.err
    assert done.out.count(f"note: {expected}") == 1 and not any("1 of 199" in line for line in done.warnings)
    assert any("several splits" in line or "in several" in line for line in done.warnings)  # other findings stay
    done = cli("--check-data", f"{prefix}:{tmp_path / 'mine.csv'}", *words)
    assert done.status == 1 and done.out.count(f"  finding: {expected}") == 1


def test_the_name_of_its_files(tmp_path):
    assert stem(f"csv:{tmp_path}/mine.v2.csv") == "mine.v2"


def test_a_mark_of_byte_order_is_no_part_of_the_first_column(table):
    """Spreadsheets begin their UTF-8 with it."""
    assert len(table("\ufeff" + csv(["0.png,a,train", "1.png,a,test"], "image,label,split")).split("train")) == 1


def test_a_table_that_trains_and_is_scored(tmp_path, cli, world):
    for index in range(8):
        picture(tmp_path / f"{index}.png", index % 2 / 3, index)
    rows = [f"{index}.png,{('red disc', 'blue')[index % 2]},{'train' if index < 6 else 'test'}" for index in range(8)]
    put_text(tmp_path / "mine.csv", csv(rows, "image,label,split"))
    done = run(cli, world, tmp_path, "mine.csv")
    assert done.status == 0, done.err
    assert (tmp_path / "out" / "mine.pth").exists()


FAULTY = {
    "missing": (None, ["no such file", "image and label"]),
    "no image column": ("picture,label\n0.png,a\n", ["image", "picture, label"]),
    "no label column": ("image,tag\n0.png,a\n", ["label", "image, tag"]),
    "empty": ("", ["holds no rows"]), "only a head": ("image,label\n", ["holds no rows"]),
    "no label": ("image,label\n0.png,\n", ["line 2", "label"]),
    "a short row": ("image,label\n0.png\n", ["line 2", "label"]),
    "no image": ("image,label\n0.png,a\n,a\n", ["line 3", "image"]),
    "a stranger's split": ("image,label,split\n0.png,a,holdout\n", ["line 2", "'holdout'", "train, val, test"]),
    "an image that is not there": ("image,label\n0.png,a\n99.png,a\n", ["line 3", "99.png"]),
    "only test rows": ("image,label,split\n0.png,a,test\n", ["train"]),
    "a class that does not train": ("image,label,split\n0.png,a,train\n1.png,b,test\n", ["no image of b"]),
    "no text": (b"image,label\n\xff\xfe.png,a\n", ["cannot be read"]),
    "an image that is none": ("image,label,split\n0.png,a,train\n1.png,a,test\nnone.png,a,test\n",
                              ["none.png", "decoded"]),
}


def run(cli, world, folder, name, *words):
    return cli("--load", world.model, "--train-dataset", f"csv:{folder / name}", "--iterations", 1, "--batch-size",
               BATCH, "--lr", RATE, "--workers", 0, "--data-location", folder, "--save", folder / "out", *words)


@pytest.mark.parametrize("case", FAULTY)
def test_faulty_tables(tmp_path, cli, world, case):
    content, fragments = FAULTY[case]
    for index in range(2):
        put(tmp_path / f"{index}.png", index)
    (tmp_path / "none.png").write_bytes(b"")
    if content is not None:
        (tmp_path / "mine.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    done = run(cli, world, tmp_path, "mine.csv")
    assert done.status == 2 and len(errors_of(done)) == 1 and "Traceback" not in done.err, done.err
    assert all(fragment in done.err for fragment in fragments), done.err
    assert "mine" in done.err or "decoded" in done.err
    assert not (tmp_path / "out" / "mine.pth").exists()

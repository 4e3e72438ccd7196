"""Text files by any hand, or damaged: YAML, tables, annotations, names, what lies in --save."""

import contextlib
import csv
import io
import json
import shutil
import time
from types import SimpleNamespace

import pytest
import torch
import yaml
from cli_files import ARCHITECTURE, BATCH, RATE, listing, picture
from hypothesis import given, settings
from hypothesis import strategies as st

from clip.catalog import read_architecture
from clip.loader import least_values
from clip.model import CLIP
from src.cli.recipes import read_recipe
from src.main import main
from src.store.records import RunFolder

pytest_plugins = ["cli_fixtures"]

FEW, MANY = 30, 500
DEEP = 100_000


def damaged(content):
    """Bytes cut, with others in a place or between two places, or repeated."""
    @st.composite
    def draw_one(draw):
        place = st.integers(0, max(0, len(content) - 1))
        way, start = draw(st.sampled_from(("cut", "put", "drop", "twice"))), draw(place)
        end = start + draw(st.integers(0, 30))
        put = draw(st.sampled_from((b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\n\n", b'"', b"'", b",", b"\t", b"[",
                                    b"{", b"}", b":", b"null", b"1e999", b"-1", b"9" * 30, b"\\ud800", b"../", b"/",
                                    b"NaN", "é".encode(), b"\x1b[2J")) | st.binary(max_size=6))
        return {"cut": content[:start], "put": content[:start] + put + content[end:],
                "drop": content[:start] + content[end:], "twice": content[:end] + content[start:]}[way]
    return draw_one()


@pytest.fixture
def run():
    """run(word, ...) -> status, err of a command line after what holds for each: no traceback, and for what is refused
    one legible line."""
    def call(*words):
        out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main([str(word) for word in words])
            out.flush()
        lines = [line for line in err.getvalue().splitlines() if not line.startswith("warning: ")]
        assert status in (0, 2)
        if status == 2:
            assert [line[:7] for line in lines] == ["error: "] and lines[0].isprintable(), lines
            assert len(lines[0]) < 3000
        return SimpleNamespace(status=status, err="\n".join(lines), warned=err.getvalue())
    return call


def fuzz(contents, check, examples):
    """``check(content)`` -> the status; of random contents and of damaged ones."""
    @settings(max_examples=examples, deadline=None, database=None, derandomize=True)
    @given(contents)
    def one(content):
        check(content)
    one()


def both(test):
    """A test of ``examples``: a few, and as a slow one many."""
    return pytest.mark.parametrize("examples", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])(test)


# -- YAML --------------------------------------------------------------------------------------------------------------

RECIPE = b"about: One sentence.\nflags: {method: ZSCL, we: true, avg-freq: 100, lr: 1e-5, ref-dataset: toy-reference}\n"
MODEL = yaml.safe_dump({"mine": {**ARCHITECTURE, "vocab_size": 49408}}).encode()
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=4)
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    st.text(max_size=5), inner, max_size=3), max_leaves=8)
LAUGHS = ("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
          + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)))
MERGES = ("a0: &a0 {x: 1}\n"
          + "".join(f"a{n}: &a{n} {{'<<': [{', '.join([f'*a{n - 1}'] * 10)}], k{n}: 1}}\n" for n in range(1, 12)))
MISCHIEF = {
    "a call": "!!python/object/apply:os.mkdir [CANARY]", "a new object": "!!python/object/new:os.mkdir [CANARY]",
    "a name": "!!python/name:os.mkdir", "a module": "!!python/module:antigravity", "a tuple": "!!python/tuple [1]",
    "an unknown tag": "!evil x", "no time": "!!timestamp x", "no day": "2020-13-45", "no integer": "!!int ''",
    "no truth": "!!bool x", "no bytes": "!!binary x", "a digit too many": "9" * 5000, "a letter that is none":
    '"\\UFFFFFFFF"', "half a pair": '"\\ud800"', "NUL": '"\\0"', "itself": "&a [*a]", "nothing there": "*nobody",
    "deep": "[" * 1000, "deep and closed": "[" * 400 + "]" * 400, "deep mappings": "{a: " * 400 + "}" * 400,
    "a tab": "\ta: 1", "not even YAML": "a: b: c: [", "two documents": "--- a\n--- b\n",
    "a version": "%YAML 9.9\n--- a", "an infinity": ".inf", "no number": ".nan", "minus one": "-1",
    "a huge number": "99999999999", "a huge float": "1e999",
    "a list as a key": "{[a]: 1}", "an empty list": "[]", "an empty mapping": "{}",
}


@pytest.fixture
def yaml_file(tmp_path):
    def write(content):
        path = tmp_path / "file.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        return path
    return write


def yaml_files(whole):
    return damaged(whole) | TREES.map(lambda tree: yaml.safe_dump(tree).encode()) | st.binary(max_size=60)


def with_recipe(run, path, folder):
    return run("--recipe", path, "--train-dataset", "toy-colours", "--iterations", 1, "--save", folder / "out",
               "--load", folder / "nowhere")


@both
def test_recipes(run, yaml_file, tmp_path, examples):
    fuzz(yaml_files(RECIPE), lambda content: with_recipe(run, yaml_file(content), tmp_path), examples)
    assert not (tmp_path / "out").exists()


@both
def test_architectures(yaml_file, examples):
    """What is not refused can be built, and encodes an image."""
    def check(content):
        with contextlib.suppress(ValueError):
            architecture = read_architecture("mine", yaml_file(content))
            if least_values(architecture) < 5_000_000 and architecture["image_resolution"] < 100:
                CLIP(**architecture).eval().encode_image(torch.zeros(1, 3, *[architecture["image_resolution"]] * 2))
    fuzz(yaml_files(MODEL), check, examples)


@pytest.mark.parametrize("case", MISCHIEF)
@pytest.mark.parametrize("place", ["flags: {{lr: [1, {}]}}", *(
    pytest.param(place, marks=pytest.mark.slow) for place in ("{}", "about: {}", "flags: {}"))])
def test_mischief_in_a_recipe(run, yaml_file, tmp_path, case, place):
    text = place.format(MISCHIEF[case].replace("CANARY", str(tmp_path / "canary")))
    done = with_recipe(run, yaml_file(text), tmp_path)
    assert done.status == 2 and "--recipe" in done.err and not (tmp_path / "canary").exists()


@pytest.mark.parametrize("case", MISCHIEF)
@pytest.mark.parametrize("key", ["embed_dim", *(pytest.param(key, marks=pytest.mark.slow) for key in (
    "", "vision_layers", "more"))])
def test_mischief_in_an_architecture(run, yaml_file, tmp_path, case, key):
    value = MISCHIEF[case].replace("CANARY", str(tmp_path / "canary"))
    whole = {**ARCHITECTURE, "vocab_size": 49408}
    block = "".join(f"  {name}: {number}\n" for name, number in whole.items() if name != key)
    path = yaml_file(f"mine:\n{block}  {key}: {value}\n" if key else value)
    done = run("--model-config", path, "--model-name", "mine", "--init", "scratch", "--train-dataset", "toy-sizes",
               "--iterations", 1, "--save", tmp_path / "out")
    assert done.status == 2 and "--model" in done.err and not (tmp_path / "canary").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("bomb", [LAUGHS, MERGES])
@pytest.mark.parametrize("key", ["embed_dim", "vision_layers", "vocabulary"])
def test_many_laughs(run, yaml_file, bomb, key):
    """Ten lists of ten lists of ten ...: a few lines that written out would fill any memory."""
    block = "".join(f"  {name}: {number}\n" for name, number in ARCHITECTURE.items() if name != key)
    done = run("--model-config", yaml_file(f"{bomb}mine:\n{block}  vocab_size: 49408\n  {key}: *a11\n"), "--model-name",
               "mine", "--init", "scratch", "--train-dataset", "toy-sizes", "--iterations", 1)
    assert done.status == 2
    assert run("--recipe", yaml_file(f"{bomb}flags: {{method: *a11}}\n"), "--iterations", 1).status == 2


@pytest.mark.slow
def test_many_keys(run, yaml_file):
    """A repeated key is not searched for in each pair of them: that took a quarter of an hour."""
    keys, began = "".join(f"k{number}: 1\n" for number in range(50_000)), time.process_time()
    assert "unknown key k0" in run("--recipe", yaml_file(keys), "--iterations", 1).err
    assert time.process_time() - began < 60


@pytest.mark.parametrize(("changes", "fragment"), [
    ({"vision_layers": 10 ** 9}, "layers"), ({"vision_layers": [1] * 17, "vision_patch_size": None}, "16 stages"),
    ({"transformer_layers": 1001}, "1000 layers"), ({"vision_width": 2 ** 30}, "GiB"),
    ({"vocab_size": 2 ** 31}, "positive whole number"),
    ({"vocab_size": 2 ** 31 - 1, "transformer_width": 2 ** 12}, "GiB"),
    ({"vocab_size": 100}, "no vocabulary"), ({"image_resolution": 4}, "must be at least 8"),
    ({"vision_layers": [1, 1], "vision_patch_size": None, "image_resolution": 7}, "must be at least 8"),
    ({"vision_layers": [1], "vision_patch_size": None, "vision_width": 1}, "vision_width"),
    ({"context_length": 1}, "context_length"),
])
def test_architectures_that_cannot_be(run, yaml_file, tmp_path, changes, fragment):
    block = {**ARCHITECTURE, "vocab_size": 49408, **changes}
    path = yaml_file(yaml.safe_dump({"mine": block}))
    done = run("--model-config", path, "--model-name", "mine", "--init", "scratch", "--train-dataset", "toy-sizes",
               "--iterations", 1, "--save", tmp_path / "out")
    assert done.status == 2 and fragment in done.err and not (tmp_path / "out").exists()


# -- tables, annotations, splits ---------------------------------------------------------------------------------------

LABELS = {"red": 0.0, "green": 0.35, "blue": 0.6}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with pictures 0.png to 11.png, whose copies the tests may change."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(12):
        picture(folder / f"{number}.png", list(LABELS.values())[number % 3], number)
    return folder


def as_csv(rows, delimiter=","):
    text = io.StringIO()
    # The writer of Python 3.10 refuses a NUL.
    rows = [[cell.replace("\0", "<NUL>") for cell in row] for row in rows]
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return text.getvalue().replace("<NUL>", "\0").encode()


def part_of(number):
    return "train" if number < 8 else "test"


CAPTIONED = [(part_of(number), f"{number}.png", f"a photo of a {list(LABELS)[number % 3]} disc")
             for number in range(12)]
FILES = {
    "csv:table.csv": as_csv([("split", "image", "label"),
                             *((part_of(number), f"{number}.png", list(LABELS)[number % 3]) for number in range(12))]),
    "pairs:table.csv": as_csv([("split", "image", "caption"), *CAPTIONED]),
    "pairs:table.tsv": as_csv([("split", "image", "caption"), *CAPTIONED], "\t"),
    "pairs:table.jsonl": b"".join(json.dumps({"split": part, "image": file, "caption": text}).encode() + b"\n"
                                  for part, file, text in CAPTIONED),
    "flickr30k": json.dumps({"images": [{"split": part, "filename": file, "sentences": [{"raw": text}]}
                                        for part, file, text in CAPTIONED]}).encode(),
    "coco": json.dumps({"images": [{"id": number, "file_name": file} for number, (_, file, _) in enumerate(CAPTIONED)],
                        "annotations": [{"image_id": number, "caption": text}
                                        for number, (_, _, text) in enumerate(CAPTIONED)]}).encode(),
    "conceptual_captions": as_csv([("title", "filepath"), *((text, file) for _, file, text in CAPTIONED)], "\t"),
}


@pytest.fixture
def trained_on(run, world, pictures, tmp_path):
    """trained_on(kind, content) -> a run on a file of that kind with this content beside the pictures."""
    folder = tmp_path / "conceptual_captions"
    shutil.copytree(pictures, folder)
    (folder / "flickr30k-images").symlink_to(folder)

    def call(kind, content, *words):
        prefix, colon, file = kind.partition(":")
        path = folder / (file or "annotations.json" if kind != "conceptual_captions" else "table.tsv")
        path.write_bytes(content)
        name = f"{prefix}:{path}" if colon else kind
        places = ("--annotations", f"{kind}={path}", "--image-dir", f"{kind}={folder}") if kind in (
            "coco", "flickr30k") else ()
        scored = ("--eval-datasets", "toy-pairs-new", "--max-evaluation-size", 4) if not colon else ()
        save = tmp_path / "out"
        shutil.rmtree(save, ignore_errors=True)
        done = run("--load", world.model, "--train-dataset", name, "--iterations", 1, "--batch-size", BATCH, "--lr",
                   RATE, "--warmup-length", 0, "--workers", 0, "--data-location", tmp_path, "--save", save, "--quiet",
                   *places, *scored, *words)
        if done.status == 2:
            assert not [name for name in listing(tmp_path) if name.endswith(".pth")], done.err
        return done
    return call


@pytest.mark.parametrize("kind", FILES)
def test_the_files_are_good(trained_on, kind):
    assert trained_on(kind, FILES[kind]).status == 0


@both
@pytest.mark.parametrize("kind", FILES)
def test_damaged_tables(trained_on, kind, examples):
    few = examples if examples == MANY else examples // 5
    fuzz(damaged(FILES[kind]), lambda content: trained_on(kind, content), few)


JSONS = {
    "deep": "[" * DEEP, "a number": "1", "a text": '"a"', "nothing": "null", "a list": "[]", "a mapping": "{}",
    "images of nothing": '{"images": null, "annotations": null}', "an image of nothing": '{"images": [null]}',
    "images by name": '{"images": {"a": 1}, "annotations": {"a": 1}}',
    "a split that is a list": '{"images": [{"split": ["train"], "filename": "0.png", "sentences": [{"raw": "a"}]}]}',
    "a number for a name": '{"images": [{"split": "train", "filename": 5, "sentences": [{"raw": "a"}]}]}',
    "a number for a sentence": '{"images": [{"split": "train", "filename": "0.png", "sentences": [{"raw": 5}]}]}',
    "a text for sentences": '{"images": [{"split": "train", "filename": "0.png", "sentences": "abc"}]}',
    "an id that is a list": '{"images": [{"id": [], "file_name": "0.png"}], "annotations": []}',
    "a number for a file": '{"images": [{"id": 1, "file_name": 5}], "annotations": [{"image_id": 1, "caption": "a"}]}',
    "a list in a list of captions": '{"split": "train", "image": "0.png", "caption": [["a"], "b"]}',
    "a list of splits": '{"split": ["train"], "image": "0.png", "caption": "a"}',
    "NUL": '{"images": [{"split": "train", "filename": "\\u0000", "sentences": [{"raw": "a"}]}]}',
    "half a pair": '{"images": [{"split": "train", "filename": "\\ud800", "sentences": [{"raw": "a"}]}]}',
    "a name too long": '{"images": [{"split": "train", "filename": "%s", "sentences": [{"raw": "a"}]}]}' % ("x" * 300),
}


@pytest.mark.parametrize("case", JSONS)
@pytest.mark.parametrize("kind", ["flickr30k", "coco", "pairs:table.jsonl"])
def test_json_of_another_shape(trained_on, kind, case):
    assert trained_on(kind, JSONS[case].encode()).status == 2


def test_a_list_of_captions_is_several(trained_on):
    """It was trained on as "['a', 'b']"; now each of its texts is a caption."""
    content = FILES["pairs:table.jsonl"].replace(b'"a photo of a red disc"', b'["a", "b"]', 1)
    assert trained_on("pairs:table.jsonl", content).status == 0


ROWS = {
    "a power for a label": ("0.png", "²", 0), "5000 digits for a label": ("0.png", "9" * 5000, 0),
    "digits of another script": ("0.png", "٣", 0), "a name too long": ("x" * 300 + ".png", "red", 2),
    "NUL in a name": ("a\0b.png", "red", 2), "a line break": ("a\nb.png", "red", 2), "a folder": (".", "red", 2),
    "up and out": ("../../../../etc/passwd", "red", 2), "from the root": ("/etc/passwd", "red", 2),
    "a terminal's escape": ("0.png", "\x1b[2J", 0), "a device": ("/dev/zero", "red", 2),
    "nothing beside": ("0.png", "", 2),
}


@pytest.mark.parametrize("case", ROWS)
def test_rows_of_a_csv(trained_on, case):
    image, label, status = ROWS[case]
    rows = [("split", "image", "label"), ("train", "1.png", "red"), ("train", image, label),
            ("test", "2.png", "red"), ("test", "0.png", label or "red")]
    assert trained_on("csv:table.csv", as_csv(rows)).status == status


def test_a_split_file(trained_on, tmp_path):
    for text, status in ((JSONS["deep"], 2), ('{"train": [["0.png", 0, "red"]], "test": [["1.png", 0]]}', 2),
                         ('{"train": [["0.png", 0, "red"], ["1.png", 1, "green"], ["2.png", 2, "blue"]]}', 0),
                         ('{"training": [["0.png", 0]]}', 2), ('{"train": [[0]]}', 2), ('{"train": 5}', 2),
                         ('{"train": [[]]}', 2), ('{"train": ["../0.png"]}', 2), ("\ufeff{}", 2), ("", 2)):
        (tmp_path / "split.json").write_text(text, encoding="utf-8")
        done = trained_on("csv:table.csv", FILES["csv:table.csv"], "--split-file", tmp_path / "split.json")
        assert done.status == status, (text[:60], done.err)


# -- lists of names ----------------------------------------------------------------------------------------------------

NAMES = {
    "empty": (b"", 2), "blank": (b"\n \n\t\n", 2), "one": (b"red disc", 0), "twice": (b"red\nred\n", 0),
    "a mark before": (b"\xef\xbb\xbfred\ngreen\n", 0), "carriage returns": (b"red\r\ngreen\r\n", 0),
    "no UTF-8": (b"caf\xe9\n", 2), "UTF-16": ("red\n".encode("utf-16"), 0), "binary": (bytes(range(256)), 2),
    "NUL": (b"red\0green\n", 2), "other scripts": ("猫\nكلب\n😀\n".encode(), 0),
    "a long line": (b"red disc " * 10_000, 0),
    "many letters": (b"x" * (1 << 25), 2), "braces": (b'["{}", "{0}", "%s", "{c}"]', 0), "markup": (b"item {\n}\n", 2),
    "an escape": (b"\x1b[2Jred\n", 0),
}


@pytest.mark.parametrize("case", NAMES)
def test_class_names(run, world, tmp_path, case):
    content, status = NAMES[case]
    (tmp_path / "names.txt").write_bytes(content)
    done = run("--load", world.model, "--eval-single", world.image, "--class-names", tmp_path / "names.txt")
    assert done.status == status, done.err


@both
def test_random_class_names(run, world, tmp_path, examples):
    def check(content):
        (tmp_path / "names.txt").write_bytes(content)
        run("--load", world.model, "--eval-single", world.image, "--class-names", tmp_path / "names.txt")
    fuzz(st.binary(max_size=40) | st.text(max_size=20).map(lambda text: text.encode("utf-8", "replace"))
         | damaged("red disc\ngreen\n  blue \r\n猫\n".encode()), check, examples if examples == MANY else 8)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", ".", "nowhere/imagenet.txt", "x" * 300])
def test_what_is_no_list_of_names(run, world, path):
    done = run("--load", world.model, "--eval-single", world.image, "--class-names", path)
    assert done.status == 2 and path[:100] in done.err


def test_a_mark_before_the_first_name_is_no_part_of_it(cli, world, tmp_path):
    (tmp_path / "names.txt").write_bytes(b"\xef\xbb\xbfred\ngreen\n")
    assert "\ufeff" not in cli("--load", world.model, "--eval-single", world.image, "--class-names",
                               tmp_path / "names.txt").out


# -- what lies in --save -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    """The folder of a finished sequence, copied before it is damaged."""
    folder = tmp_path_factory.mktemp("finished") / "out"
    assert main([str(word) for word in sequence(world, folder)]) == 0
    return folder


def sequence(world, folder, *words):
    return ("--load", world.model, "--dataset-order", f"{world.colours},{world.tones}", "--iterations", 2, "--lr", RATE,
            "--batch-size", BATCH, "--warmup-length", 0, "--workers", 0, "--quiet", "--save", folder, *words)


KEPT = ("metrics_colours.csv", "run_colours.json", "start.json", "summary.json", "run_tones.json")
QUICK = ("metrics_colours.csv", "start.json")  # a table, and an object like the others


def again(run, world, finished, folder, changed, *words):
    """Resume a sequence in a copy of its folder whose last task is to be done again; {name: content} changed."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(finished, folder)
    (folder / "tones.pth").unlink()
    for name, content in changed.items():
        (folder / name).write_bytes(content)
    before = (folder / "colours.pth").read_bytes()
    done = run(*sequence(world, folder, "--resume", *words))
    assert (folder / "colours.pth").read_bytes() == before
    assert done.status == 2 or (folder / "tones.pth").exists()
    return done


@both
@pytest.mark.parametrize("name", [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in KEPT])
def test_damaged_files_of_a_run(run, world, finished, tmp_path, name, examples):
    content = (finished / name).read_bytes()
    few = examples if examples == MANY else examples // 10

    def check(damage):
        again(run, world, finished, tmp_path / "out", {name: damage})
        run("--report", tmp_path / "out")
    fuzz(damaged(content), check, few)


WRONG = (b"", b"null", b"[]", b"5", b'"x"', b"{}", b"[" * DEEP, b"\xff\xfe", b'{"config": 1, "scores": 2}',
         b'{"scores": {"colours": {"task": {"top1": "x"}}}}',
         b'{"flags": []}', b'{"iteration": []}\n[]\n5\n{"iteration":')


@pytest.mark.parametrize("content", WRONG, ids=range(len(WRONG)))
def test_files_of_a_run_of_another_shape(run, world, finished, tmp_path, content):
    names = [name for name in KEPT if name.endswith(("json", "jsonl")) and name != "summary.json"]
    done = again(run, world, finished, tmp_path / "out", {name: content for name in names})
    assert done.status == 2 and "colours.pth" in done.err  # of which nothing tells how it was made
    names.remove("run_colours.json")
    done = again(run, world, finished, tmp_path / "out", {name: content for name in names})
    assert done.status == 0
    (tmp_path / "out" / "summary.json").write_bytes(content)
    assert run("--report", tmp_path / "out").status == 2


@pytest.mark.parametrize("scores", [
    {}, None, [1], {"colours": {}}, {"colours": {"task": {"top1": "x", "top5": 1, "k": 1, "n": 1}}},
    {"colours": {"task": {"top1": 1}}}])
def test_scores_of_the_start_that_somebody_edited(run, world, finished, tmp_path, scores):
    content = json.loads((finished / "start.json").read_text(encoding="utf-8"))
    before = content["scores"]
    content["scores"] = scores
    assert again(run, world, finished, tmp_path / "out", {"start.json": json.dumps(content).encode()}).status == 0
    assert json.loads((tmp_path / "out" / "start.json").read_text(encoding="utf-8"))["scores"] == before


METRICS = {
    "no header": b"3,50,100,colours\n3,50,100,tones\n", "an empty cell too many": b"iteration,task\n3,colours,x\n",
    "a cell too few": b"iteration,top1,task\n3,50\n", "no iteration": b"iteration,task\nmany,colours\n",
    "a huge iteration": b"iteration,task\n" + b"9" * 5000 + b",colours\n", "no UTF-8": b"iteration,task\n3,\xff\n",
    "a huge cell": b"iteration,task\n3," + b"x" * 200_000, "no task": b"iteration,top1\n3,50\n",
}


@pytest.mark.parametrize("case", METRICS)
def test_metrics_are_looked_at_before_training(run, world, tmp_path, case):
    """Not after it, where a run would end without its checkpoint."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "metrics_colours.csv").write_bytes(METRICS[case])
    done = run(*sequence(world, out))
    assert done.status == 2 and "metrics_colours.csv" in done.err and listing(out) == {"metrics_colours.csv"}
    assert (out / "metrics_colours.csv").read_bytes() == METRICS[case]


def test_a_column_that_somebody_added_or_took_away_is_no_damage(run, world, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "metrics_colours.csv").write_text("iteration,task,note\n3,another,mine\n", encoding="utf-8")
    assert run(*sequence(world, out)).status == 0
    with (out / "metrics_colours.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["note"] == "mine" and rows[0]["top1"] == "" and {row["task"] for row in rows[1:]} == {"", "colours",
                                                                                                        "tones"}


def test_a_dataset_that_is_scored_no_more_costs_no_training(train, world, tmp_path):
    """All rows of its metrics are of the run that is replaced."""
    out = tmp_path / "out"
    assert train(out, "--eval-datasets", f"{world.colours},{world.tones}").status == 0
    assert train(out, "--iterations", 5, "--overwrite").status == 0
    assert (out / "colours.pth").exists() and not (out / "metrics_tones.csv").exists()


@both
def test_damaged_resume_points(run, world, finished, tmp_path, examples):
    """A warning names a point that cannot be resumed, and the task starts again."""
    fuzz(st.binary(max_size=200), lambda content: again(
        run, world, finished, tmp_path / "out", {"resume_tones.pth": content}), examples // 10)


@pytest.mark.parametrize("content", [{"history": [1]}, {"history": [{"dataset": 1}]}, {"history": [{}]},
                                     {"heads": {"colours": 1}}, {"heads": {"colours": torch.ones(3)}},
                                     {"history": [{"dataset": "a", "source": 5}]},
                                     {"history": [{"dataset": "a", "classnames": 5}]}])
def test_a_checkpoint_of_which_the_parts_have_other_shapes(run, world, tmp_path, content):
    torch.save({**torch.load(world.model, weights_only=True), **content}, tmp_path / "file.pth")
    for words in (("--train-dataset", world.colours, "--iterations", 1), ("--eval-only",)):
        done = run("--load", tmp_path / "file.pth", *words, "--workers", 0)
        assert done.status == 2 and "file.pth" in done.err


@both
def test_lines_of_a_log(tmp_path, examples):
    """Lines of the steps before the resumed one are kept, whatever the others are."""
    def check(content):
        (tmp_path / "log_x.jsonl").write_bytes(b'{"iteration": 1}\n' + content + b'\n{"iteration": 3}\n')
        RunFolder(tmp_path).open_log("x", after=2).close()
        kept = (tmp_path / "log_x.jsonl").read_text(encoding="utf-8").splitlines()
        assert kept[0] == '{"iteration": 1}' and '{"iteration": 3}' not in kept
    fuzz(damaged(b'{"iteration": 2, "task": 0.5}') | st.sampled_from(WRONG), check, examples)


def test_recipes_keep_texts_as_they_are(yaml_file):
    assert read_recipe(str(yaml_file("flags: {seed: 0100, we: no}"))).flags == {"seed": ["0100"], "we": ["no"]}

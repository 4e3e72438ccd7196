"""Images classified: one, several, a folder; what is printed and what is kept."""

import csv
import io
import re
from pathlib import Path

import numpy
import pytest
import torch
from cli_files import COLOURS, listing, picture, rows
from PIL import Image

from clip import loader
from src.datasets.images import named_images, open_image
from src.errors import UserError
from src.machine.device import Device
from src.models.evaluation import classify_image
from src.report.colours import FIRST, OTHERS
from src.run.single import picture as draw
from src.run.single import picture_names

pytest_plugins = ["cli_fixtures"]

NAMES = ["red disc", "blue", "green", "warm light", "dark", "cold"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with pictures in it and the names of six classes."""
    monkeypatch.chdir(tmp_path)
    for number, (name, hue) in enumerate(COLOURS.items()):
        picture(Path("photos") / f"{name}.png", hue, number)
    picture(Path("photos/sub/other.png"), 0.9, 4)
    Path("photos/.hidden.png").write_bytes(b"")
    Path("photos/notes.txt").write_text("no image", encoding="utf-8")
    Path("names.txt").write_text("\n".join(NAMES), encoding="utf-8")
    return tmp_path


@pytest.fixture
def classify(cli, world, place):
    """classify(images, word, ...): --eval-single of the tiny model."""
    def call(images, *words):
        return cli("--load", world.model, "--class-names", "names.txt", "--workers", 0, "--eval-single", images, *words)
    return call


def expected(world, path):
    """[(class name, probability)] of one image by itself."""
    model, _ = loader.load(str(world.model))
    return classify_image(model, open_image(Path(path)), NAMES, Device("cpu", "fp32"))


def table(text):
    return [[cell.strip() for cell in line.strip("|").split("|")]
            for line in text.splitlines() if line.startswith("|") and not line.startswith("|-")]


def printed(text):
    """Return {(image, class name): percent} of a table of several images."""
    cells = ((row[0], *cell.rsplit(" ", 1)) for row in table(text)[1:] for cell in row[1:])
    return {(image, name): float(value) for image, name, value in cells}


def of_one(path):
    return [(row["class"], float(row["probability"])) for row in rows(path)]


def of_several(path):
    """{image: [(class name, probability)]}"""
    return {row["image"]: [(row[f"class_{rank}"], float(row[f"probability_{rank}"])) for rank in range(1, 6)]
            for row in rows(path)}


def agree(found, wanted):
    assert [name for name, _ in found] == [name for name, _ in wanted]
    assert [value for _, value in found] == pytest.approx([value for _, value in wanted], rel=1e-5)


# -- which images ------------------------------------------------------------------------------------------------------


def test_names_of_images(place):
    folder = [Path("photos") / f"{name}.png" for name in ("blue", "green", "red_disc")]
    assert named_images("photos") == folder
    assert named_images("photos/green.png") == [folder[1]]
    assert named_images("photos/green.png, photos") == [folder[1], folder[0], folder[2]]
    picture(Path("photos/a,b.png"), 0.1, 0)
    odd = Path("photos/a,b.png")
    assert named_images("photos/a,b.png") == [odd]
    assert named_images("photos/blue.png,photos/a,b.png,photos/green.png") == [folder[0], odd, folder[1]]
    Path("unnamed").write_bytes(b"")
    assert named_images("unnamed") == [Path("unnamed")]  # whatever its name, it was asked for


@pytest.mark.parametrize(("images", "fragments"), [
    ("none.png", ["none.png", "no such file"]), ("photos/blue.png,none.png", ["none.png", "no such file"]),
    ("photos/blue.png,", ["no such file"]), ("", ["is empty"]), ("empty", ["empty", "no images", ".jpg"]),
    ("texts", ["texts", "no images"])])
def test_no_images(classify, images, fragments):
    Path("empty/deeper").mkdir(parents=True)
    Path("texts").mkdir()
    Path("texts/a.txt").write_text("a", encoding="utf-8")
    before = listing(".")
    done = classify(images, "--save", "out")
    assert done.status == 2 and len(done.err.splitlines()) == 1 and done.err.startswith("error: --eval-single")
    assert all(fragment in done.err for fragment in fragments) and listing(".") == before


# -- what is said and kept ---------------------------------------------------------------------------------------------


def test_one_image(classify, world):
    done = classify("photos/green.png", "--save", "out")
    wanted = expected(world, "photos/green.png")
    assert done.status == 0 and done.warnings == [] and listing("out") == {"green.csv", "green.png"}
    assert table(done.out) == [["class", "probability %"], *([name, f"{100 * value:.1f}"] for name, value in wanted)]
    agree(of_one("out/green.csv"), wanted)
    assert Image.open("out/green.png").size == (1080, 480)


@pytest.mark.parametrize("images", ["photos", "photos/blue.png,photos/green.png,photos/red_disc.png"])
def test_several_images(classify, world, images):
    done = classify(images, "--save", "out", "--batch-size-eval", 2)
    assert done.status == 0 and done.warnings == []
    assert listing("out") == {"predictions.csv", "blue.png", "green.png", "red_disc.png"}
    found = of_several("out/predictions.csv")
    assert list(found) == ["photos/blue.png", "photos/green.png", "photos/red_disc.png"]
    for path, ranked in found.items():
        agree(ranked, expected(world, path))
    header, *body = table(done.out)
    assert header == ["image", *(f"class {rank}" for rank in range(1, 6))]
    assert body == [[Path(path).name, *(f"{name} {100 * value:.1f}" for name, value in ranked)]
                    for path, ranked in found.items()]


def test_the_classes_are_encoded_once(classify, monkeypatch):
    from src.models import classifiers
    seen, whole = [], classifiers.zeroshot_weights
    monkeypatch.setattr(classifiers, "zeroshot_weights", lambda *options: seen.append(options) or whole(*options))
    assert classify("photos", "--batch-size-eval", 1).status == 0 and len(seen) == 1


def test_without_save_nothing_is_written(classify):
    before = listing(".")
    assert classify("photos").status == 0 and listing(".") == before


def test_fewer_classes_than_five_and_a_folder_of_one(classify):
    Path("names.txt").write_text("blue\nred disc\n", encoding="utf-8")
    picture(Path("one/only.png"), 0.3, 0)
    done = classify("one", "--save", "out")
    assert done.status == 0 and [len(row) for row in table(done.out)] == [3, 3]
    assert listing("out") == {"predictions.csv", "only.png"}  # a folder's file, however many images it has


def test_precision_and_prompt_act(classify):
    plain, other, exact = (printed(classify("photos", *words).out) for words in (
        (), ("--prompt", "{} light"), ("--precision", "fp64")))
    assert plain == pytest.approx(exact, abs=0.1001)  # the last printed digit may differ by one
    assert max(abs(plain[key] - other[key]) for key in plain.keys() & other.keys()) > 1
    assert classify("photos", "--precision", "bf16").status == 0


def test_long_names_are_cut_in_the_table_and_whole_in_the_csv(classify):
    Path("names.txt").write_text("blue " * 9 + "\n" + "red disc", encoding="utf-8")
    done = classify("photos", "--save", "out")
    assert ("blue " * 9).strip() not in done.out and "blue blue blue blue blu…" in done.out
    assert ("blue " * 9).strip() in Path("out/predictions.csv").read_text(encoding="utf-8")


def test_names_joined_by_commas(classify, world):
    listed, joined = (classify("photos/green.png", "--class-names", names).out for names in (
        "names.txt", ",".join(NAMES)))
    assert listed == joined


def test_a_checkpoint_gives_its_class_names(cli, train, world, place):
    assert train("out").status == 0
    words = ("--load", "out/colours.pth", "--workers", 0, "--eval-single", "photos/green.png")
    stored, given = cli(*words), cli(*words, "--class-names", ",".join(world.names))
    note = f"note: the 3 class names are those of colours in out/colours.pth: {', '.join(world.names)}\n"
    assert stored.status == 0 and stored.out == note + given.out
    bare = cli("--load", world.model, "--eval-single", "photos/green.png")
    assert bare.status == 2 and "holds no class names" in bare.err and "--class-names" in bare.err


@pytest.fixture
def with_heads(train, place, world):
    """A checkpoint with trained heads of colours and then of tones."""
    words = ("--train-mode", "fc", "--lr", "0.5")
    assert train("out", *words).status == 0
    assert train("out", *words, "--load", "out/colours.pth", "--train-dataset", world.tones).status == 0
    return Path("out/tones.pth")


def by_head(path, name, image):
    """[(class name, probability)] by the packed head (C, D + 1) of a checkpoint, by hand."""
    checkpoint = loader.read_checkpoint(path)
    model, preprocess = loader.load(str(path))
    head = checkpoint["heads"][name].double()
    with torch.no_grad():
        features = model.encode_image(preprocess(Image.open(image))[None]).double()             # (1, D)
    features = features / features.norm()
    found = (features @ head[:, :-1].T + head[:, -1]).softmax(-1)[0].tolist()
    names = next(entry["classnames"] for entry in checkpoint["history"] if entry["dataset"] == name)
    return sorted(zip(names, found, strict=True), key=lambda pair: -pair[1])


def test_a_trained_head_scores_its_own_class_names(cli, with_heads, world):
    """Those of the last task where none are given; with names, the head whose names they are, in its order."""
    words = ("--load", with_heads, "--workers", 0, "--eval-single", "photos/green.png", "--save", "single")
    for given, head in ([], "tones"), (["--class-names", ",".join(world.names)], "colours"):
        done = cli(*words, *given)
        assert done.status == 0, done.err
        assert f"note: the trained head of {head} in {with_heads} scores these classes\n" in done.out
        agree(of_one("single/green.csv"), by_head(with_heads, head, "photos/green.png"))
    done = cli(*words, "--prompt", "a drawing of a {}.")
    assert "scores these classes; --prompt has no effect" in done.out


def test_a_head_of_other_class_names_is_left_out_with_a_note(cli, with_heads, world):
    model, _ = loader.load(str(with_heads))
    for names in (world.names[::-1], [*world.names, "grey"], ["warm", "cold"]):
        done = cli("--load", with_heads, "--workers", 0, "--eval-single", "photos/green.png", "--save", "single",
                   "--class-names", ",".join(names))
        note, = [line for line in done.out.splitlines() if line.startswith("note: ")]
        assert "prompts of the class names: the trained heads of colours, tones are for other classes" in note
        wanted = classify_image(model, open_image(Path("photos/green.png")), names, Device("cpu", "fp32"))
        agree(of_one("single/green.csv"), wanted)


# -- images that cannot be read ----------------------------------------------------------------------------------------


def test_an_image_that_cannot_be_decoded(classify):
    Path("photos/broken.jpg").write_bytes(b"no image")
    done = classify("photos", "--save", "out")
    assert done.status == 2 and "photos/broken.jpg cannot be decoded" in done.err and len(done.err.splitlines()) == 1
    assert not Path("out").exists()


def test_it_is_skipped_and_counted_when_asked(classify, world):
    Path("photos/broken.jpg").write_bytes(b"no image")
    done = classify("photos", "--save", "out", "--skip-bad-images")
    assert done.status == 0 and "1 images could not be decoded" in done.out and done.warnings == []
    found = of_several("out/predictions.csv")
    assert list(found) == ["photos/blue.png", "photos/green.png", "photos/red_disc.png"]
    agree(found["photos/green.png"], expected(world, "photos/green.png"))  # rows keep to their images
    done = classify("photos/broken.jpg", "--skip-bad-images")
    assert done.status == 2 and "photos/broken.jpg cannot be decoded" in done.err
    for name in COLOURS:
        Path(f"photos/{name}.png").unlink()
    done = classify("photos", "--skip-bad-images")
    assert done.status == 2 and "none of the images could be decoded" in done.err


# -- names of files ----------------------------------------------------------------------------------------------------


def test_names_that_tell_pictures_apart():
    a, b, c = Path("x/cat.jpg"), Path("y/cat.png"), Path("y/dog.png")
    assert picture_names([a, b, c]) == {a: "cat.jpg.png", b: "cat.png.png", c: "dog.png"}
    for clash in ([Path("x/cat.jpg"), Path("y/cat.jpg")], [Path("cat.jpg"), Path("cat.png"), Path("cat.jpg.gif")]):
        with pytest.raises(UserError, match="cat.jpg.* and .*cat.* would both be kept as cat.jpg.png"):
            picture_names(clash)


def test_two_of_one_name_are_refused_only_where_files_are_written(classify):
    picture(Path("other/green.png"), 0.8, 9)
    images = "photos/green.png,other/green.png"
    done = classify(images, "--save", "out")
    assert done.status == 2 and "photos/green.png and other/green.png" in done.err and not Path("out").exists()
    done = classify(images)  # told apart by their paths
    assert done.status == 0 and [row[0] for row in table(done.out)[1:]] == images.split(",")


def test_all_is_kept_before_the_table_is_told(classify, monkeypatch):
    """Who reads the table, as head does, may end before it."""
    def gone(found):
        raise BrokenPipeError("elsewhere")
    monkeypatch.setattr("src.run.single.table_of_several", gone)
    with pytest.raises(BrokenPipeError):
        classify("photos", "--save", "out")
    assert listing("out") == {"predictions.csv", "blue.png", "green.png", "red_disc.png"}


def test_an_image_is_never_written_over(classify):
    before = Path("photos/green.png").read_bytes()
    done = classify("photos/green.png", "--save", "photos")
    assert done.status == 2 and "--save photos" in done.err and Path("photos/green.png").read_bytes() == before
    Path("jpegs").mkdir()
    Image.open("photos/green.png").save("jpegs/green.jpg")
    done = classify("jpegs", "--save", "jpegs/../jpegs")
    assert done.status == 2 and "among the images" in done.err and listing("jpegs") == {"green.jpg"}
    assert classify("jpegs/green.jpg", "--save", "jpegs").status == 0
    assert listing("jpegs") == {"green.jpg", "green.csv", "green.png"}


def test_a_folder_that_cannot_be_written(classify):
    done = classify("photos", "--save", "names.txt/out")
    assert done.status == 2 and "--save names.txt/out" in done.err


def test_a_csv_keeps_names_whole(classify):
    picture(Path("odd/a, b.png"), 0.2, 0)
    Path("names.txt").write_text('one, "two"\nblue', encoding="utf-8")
    assert classify("odd", "--save", "out").status == 0
    with Path("out/predictions.csv").open(encoding="utf-8", newline="") as file:
        row = list(csv.reader(file))[1]
    assert row[0] == "odd/a, b.png" and {row[1], row[3]} == {'one, "two"', "blue"}


# -- the picture -------------------------------------------------------------------------------------------------------


def drawn(ranked, colour=(10, 200, 30)):
    """The picture beside an image of one colour as (H, W, 3) numbers."""
    file = io.BytesIO()
    draw(Image.new("RGB", (40, 30), colour), "an image", ranked).savefig(file, format="png")
    return numpy.asarray(Image.open(file).convert("RGB"))


def places_of(pixels, colour):
    """(rows, columns) at which a picture has exactly this colour."""
    return numpy.nonzero((pixels == numpy.array(colour)).all(axis=-1))


def test_bars_are_as_long_as_the_probabilities():
    pixels = drawn([("first", 0.6), ("second", 0.3), ("third", 0.1)])
    track = 0.46 * pixels.shape[1]
    first, others = ([int(part, 16) for part in re.findall("..", colour[1:])] for colour in (FIRST, OTHERS))
    rows_of_first, columns = places_of(pixels, first)
    assert (columns.max() - columns.min() + 1) / track == pytest.approx(0.6, abs=0.01)
    rows_below, columns = places_of(pixels, others)
    assert (columns.max() - columns.min() + 1) / track == pytest.approx(0.3, abs=0.01)
    assert rows_below.min() > rows_of_first.max()  # the most probable one on top


def test_the_image_is_in_it_left_of_the_bars():
    _, columns = places_of(drawn([("first", 0.6)]), (10, 200, 30))
    assert len(columns) > 10_000 and columns.max() < 0.5 * 1080


@pytest.mark.filterwarnings("ignore:Glyph")  # matplotlib tells which letters its font lacks
def test_no_name_can_break_it():
    for name in ("$\\frac{", "$x$ and $", "W" * 300, "", "two\nlines", "中文"):
        draw(Image.new("RGB", (1, 700)), name, [(name, 1.0)]).savefig(io.BytesIO(), format="png")

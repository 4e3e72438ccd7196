"""Files as users of other programs have them, through the command line: each gives the right value or one message.

The inputs are rows of three lists: 1 to 20, public reports of people who fine-tune CLIP; F1 to F23, differences from
published code; W1 to W10, what a new user met. EVIDENCE names the tests of each row; siblings of rows, spelled
otherwise or in another format, are in the same tables here and in the test file of each reader.
"""

import itertools
import json
import re
from pathlib import Path

import open_clip
import pytest
import reported_files as files
import torch
from cli_files import BATCH, COLOURS, RATE, rows, write_pictures
from PIL import Image
from torchvision.transforms.v2 import functional

from clip import loader

pytest_plugins = ["cli_fixtures"]

ROOT = Path(__file__).parents[1]
HERE = "tests/test_reported.py::"
EVIDENCE = {
    "1 head of other classes": ["test_a_head_of_other_classes_is_left_out",
                                "tests/run/test_build.py::test_first_heads"],
    "2 plain GELU": ["test_probabilities_are_the_libraries_own", "test_what_weights_do_not_say_is_a_warning"],
    "3 EXIF orientation": ["test_pixels_of_a_single_image",
                           "tests/datasets/test_images.py::test_each_kind_of_the_users_own_data_is_turned_upright"],
    "4 parts in capitals": ["test_folders"], "5 a level too many": ["test_folders"],
    "6 hidden folders": ["test_folders"], "7 endings": ["test_folders"], "8 numbered folders": ["test_folders"],
    "9 commas in captions": ["test_tables"], "10 spaces around labels": ["test_tables"],
    "11 missing images": ["test_tables", "test_missing_images_stop_training"],
    "12 transformers' weights": ["test_wrapped_weights"], "13 wrappers and prefixes": ["test_wrapped_weights"],
    "14 tabs in a csv": ["test_tables"], "15 metadata of Hugging Face": ["test_tables"],
    "16 COCO of 2017": ["test_official_coco_is_trained_and_scored"], "17 two folders of one name": ["test_folders"],
    "18 floats": ["test_pixels_of_a_single_image"], "19 json of class names": ["test_class_names"],
    "20 mean per class": ["test_mean_per_class_by_hand"],
    "F1 pairs without a test part": [
        "test_official_coco_is_trained_and_scored",
        "tests/datasets/test_captions.py::test_the_documented_translation_of_pre_train_model",
        "tests/datasets/test_captions.py::test_official_files_alone_are_trained_and_not_scored"],
    "F2 heads of a given architecture": ["test_a_given_architecture_fills_heads"],
    "F3 dry run of pairs": ["tests/run/test_plan.py::test_figures_on_pairs_count_the_scale_that_trains_there"],
    "F4 batch norms of phases": ["tests/run/test_build.py::test_what_no_flag_says_is_said"],
    "F6 English names of IWildCam": ["tests/datasets/test_every_dataset.py::test_class_names"],
    "F7 LoRA on a ResNet": ["test_lora_of_a_resnet_is_noted",
                            "tests/run/test_build.py::test_what_no_flag_says_is_said"],
    "F8 a class dataset as sentences": ["test_a_class_dataset_serves_as_sentences"],
    "F9 Conceptual Captions as published": [
        "tests/datasets/test_captions.py::test_conceptual_captions_in_the_published_places",
        "tests/datasets/test_captions.py::test_googles_table_gives_sentences"],
    "F10 Mod-X' own names": ["tests/clip/test_catalog.py::test_mod_x_s_names_of_its_own_file"],
    "F11 linear evaluation": ["tests/run/test_layer.py::test_the_layer_and_its_log_are_kept",
                              "tests/run/test_layer.py::test_an_interrupted_layer_resumes_with_the_same_bits"],
    "F12 GELU of bare weights": ["test_what_weights_do_not_say_is_a_warning"],
    "F13 to F22 in the documents": ["test_differences_that_are_documented"],
    "F18 palettes": [
        "tests/datasets/test_images.py::test_palettes_and_two_colours_are_converted_before_they_are_resized"],
    "F21 an evaluation run": ["tests/cli/test_checks.py::test_the_article_before_a_kind_of_run",
                              "tests/cli/test_checks.py::test_flag_of_another_kind_of_run"],
    "F23 joint evaluation": ["test_a_joint_evaluation_of_nothing"],
    "W1 heads of 80 values": ["test_probabilities_are_the_libraries_own", "test_what_weights_do_not_say_is_a_warning"],
    "W2 GELU": ["test_probabilities_are_the_libraries_own"],
    "W5 a warm-up that never ends": ["test_a_warm_up_that_is_as_long_as_the_run"],
    "W6 a finished command again": [
        "tests/run/test_run_sequence.py::test_a_finished_task_is_not_trained_a_second_time"],
    "W7 val and test in one table": ["tests/report/test_compare.py::test_runs_on_other_images_do_not_rank_together"],
    "W8 --load of a folder": ["test_probabilities_are_the_libraries_own",
                              "test_a_folder_without_a_model_says_what_it_is"],
    "W9 a zero-shot report": ["tests/report/test_page.py::test_zero_shot_is_one_row"],
    "W10 --device gpu": ["test_names_that_are_taken_as_they_are_meant"],
}


def test_the_evidence_exists():
    for row, tests in EVIDENCE.items():
        for test in tests:
            file, _, name = (test if "::" in test else HERE + test).partition("::")
            assert f"\ndef {name}(" in (ROOT / file).read_text(encoding="utf-8"), (row, test)
    listed = {row.split(" ")[0] for row in EVIDENCE}
    assert listed >= {*map(str, range(1, 21)), "W1", "W2", *(f"W{number}" for number in range(5, 11))}


def one_message(done, *fragments):
    """Assert exit status 2 with a single line that holds each fragment, and no traceback."""
    assert done.status == 2 and done.err.count("\n") == 0 and "Traceback" not in done.err, done.err
    assert done.err.startswith("error: ")
    assert [fragment for fragment in fragments if fragment not in done.err] == [], done.err


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("reported")
    files.write_tables(root)
    files.write_images(root / "images")
    return root


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A CLIP of open_clip, the same weights of transformers, and files with them: .place, .model, .names."""
    root = tmp_path_factory.mktemp("foreign")
    model, theirs = files.open_clip_pair()
    return root, model, files.write_wrapped(root, model, theirs)


# -- folders -----------------------------------------------------------------------------------------------------------

FOLDERS = {  # what lies there -> (exit status of --check-data, what its lines hold)
    "two_parts_in_capitals": (0, ["3 classes, train 12, test 6 images: nothing odd found"]),
    "one_level_too_many": (1, ["fault: ", "data holds TEST, Train: did you mean folder:", "/data?"]),
    "hidden_copies": (0, ["3 classes, train 12, test 3 images: nothing odd found", "left out: 4 in hidden folders"]),
    "many_endings": (1, ["3 classes, train 16, test 4 images", "finding: ", ".psd: 5 left out, such as green/0.psd"]),
    "numbered": (0, ["names the folders by number: 0 is zero, 1 is one", "classes: zero, one, ten, eleven, two"]),
    "same_names": (1, ["finding: ", "2 classes have the same name 'hot dog', so one of them can never win"]),
    "latin_name": (1, ["fault: ", "'K\\udce4fer' is not UTF-8 text; rename the folder"]),
    "names_in_another_order": (0, ["names the folders by their own names: eel is Eel", "classes: Cat, Dog, Eel"]),
    "thumbnails": (1, ["finding: ", "5 images lie below an image of the same name, such as blue/thumbs/0.jpg"]),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_folders(cli, tmp_path, case):
    status, lines = FOLDERS[case]
    getattr(files, case)(tmp_path / case)
    done = cli("--check-data", f"folder:{tmp_path / case}", "--data-location", tmp_path / "root")
    assert done.status == status and [line for line in lines if line not in done.out] == [], done.out


def test_findings_are_warnings_of_a_run(train, world, tmp_path):
    files.same_names(tmp_path / "twins")
    done = train(tmp_path / "out", "--train-dataset", f"folder:{tmp_path / 'twins'}", "--data-location", tmp_path)
    assert done.status == 0 and any("have the same name 'hot dog'" in line for line in done.warnings)


# -- tables ------------------------------------------------------------------------------------------------------------

TABLES = {  # name -> (exit status of --check-data, what its lines hold)
    "pairs:bare.csv": (1, ["line 2 of", "has 4 cells, its header names 2 columns (image, caption)"]),
    "csv:ragged.csv": (0, ["3 classes, train 9, test 3 images", "classes: blue, green, red\n"]),
    "pairs:gone.csv": (1, ["none of the 12 rows", "line 2: gone/0.png is not there"]),
    "pairs:half.csv": (1, ["6 of 12 rows", "line 3: gone/1.png is not there", "--skip-bad-images"]),
    "pairs:tab.csv": (0, ["train 12 images"]), "pairs:metadata.jsonl": (0, ["train 12 images"]),
    "pairs:metadata.csv": (0, ["train 12 images"]), "pairs:semicolons.csv": (0, ["train 12 images"]),
    "pairs:breaks.csv": (0, ["train 12 images"]), "pairs:lists.csv": (0, ["train 12 images"]),
    "pairs:parts.json": (0, ["train 8, test 4 images"]),
    "csv:is_train.csv": (0, ["no column says which rows are for training", "not read: is_train"]),
    "csv:twice.csv": (1, ["finding: ", "images have several rows and are in both drawn halves"]),
    "pairs:half_a_letter.jsonl": (1, ["line 1: half of a character follows"]),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables(cli, place, tmp_path, name):
    status, lines = TABLES[name]
    kind, _, file = name.partition(":")
    done = cli("--check-data", f"{kind}:{place / file}", "--data-location", tmp_path)
    assert done.status == status and [line for line in lines if line not in done.out] == [], done.out


def test_missing_images_stop_training(train, place, tmp_path):
    words = ("--train-dataset", f"pairs:{place / 'half.csv'}", "--data-location", tmp_path)
    one_message(train(tmp_path / "out", *words), "6 of 12 rows", "half.csv", "--skip-bad-images")
    assert not (tmp_path / "out").exists()
    done = train(tmp_path / "out", *words, "--skip-bad-images", "--eval-datasets", "toy-digits")
    assert done.status == 0 and "6 of 12 rows" in done.out, done.err


def test_official_coco_is_trained_and_scored(cli, world, tmp_path):
    """Captions of val beside those of train are the test split; without them training goes without scores."""
    files.write_coco(tmp_path / "coco")
    places = ("--annotations", f"coco={tmp_path / 'coco' / 'annotations' / 'captions_train2017.json'}", "--image-dir",
              f"coco={tmp_path / 'coco' / 'train2017'}")
    words = ("--load", world.model, "--train-dataset", "coco", *places, "--iterations", 1, "--batch-size", BATCH,
             "--lr", RATE, "--warmup-length", 0, "--workers", 0, "--data-location", tmp_path / "data")
    done = cli(*words, "--save", tmp_path / "one")
    assert done.status == 0, done.err
    assert re.search(r"^\| coco .*\| +6 \| +30 \|$", done.out, re.MULTILINE)  # images and captions
    assert "captions_val2017.json" in done.out
    (tmp_path / "coco" / "annotations" / "captions_val2017.json").unlink()
    done = cli(*words, "--save", tmp_path / "two")
    assert done.status == 0 and "coco has no test split" in done.out and "not scored" in done.out, done.err
    assert (tmp_path / "two" / "coco.pth").exists()


# -- images and names --------------------------------------------------------------------------------------------------


@pytest.fixture
def classified(cli, tmp_path):
    """classified(word, ...) -> ({class: probability}, warnings) of --eval-single of one image."""
    numbers = itertools.count()

    def call(*words):
        folder = tmp_path / f"classified{next(numbers)}"
        done = cli("--eval-only", "--workers", 0, *words, "--save", folder)
        assert done.status == 0, done.err
        return {row["class"]: float(row["probability"]) for row in rows(next(folder.glob("*.csv")))}, done.warnings
    return call


@pytest.mark.parametrize(("one", "other"), [("upright.png", "phone.png"), ("grey.png", "float.tif"),
                                            ("grey.png", "deep.png")])
def test_pixels_of_a_single_image(classified, world, place, one, other):
    """As viewers show it, and as the 8 bits that it was made from."""
    found = [classified("--load", world.model, "--eval-single", place / "images" / name, "--class-names",
                        "red,blue,green")[0] for name in (one, other)]
    assert found[0] == pytest.approx(found[1], abs=1e-5)


LISTS = {"names.json": '["red", "blue", "sea green"]', "numbers.txt": "0 red\n1 blue\n2 sea green\n",
         "ids.txt": "n01440764 red\nn01443537 blue\nn01484850 sea_green\n",
         "table.csv": "index,name\n2,sea green\n0,red\n1,blue\n",
         "data.yaml": "names:\n  0: red\n  1: blue\n  2: sea green\n", "quoted.txt": '"red",\n"blue",\n"sea green",\n',
         "coco.json": json.dumps({"categories": [{"id": 7, "name": "sea green"}, {"id": 1, "name": "red"},
                                                 {"id": 3, "name": "blue"}]})}


def test_class_names(classified, world, place, tmp_path):
    """Each form of a list gives the probabilities of the names themselves."""
    words = ("--load", world.model, "--eval-single", place / "images" / "upright.png", "--class-names")
    wanted, _ = classified(*words, "red,blue,sea green")
    assert sorted(wanted) == ["blue", "red", "sea green"] and sum(wanted.values()) == pytest.approx(1)
    for name, text in LISTS.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert classified(*words, tmp_path / name)[0] == wanted, name


def test_mean_per_class_by_hand(cli, world, tmp_path):
    """One class with six images and two with two: the mean over classes is not the mean over images."""
    for part, counts in (("train", (2, 2, 2)), ("test", (6, 2, 2))):
        for (name, hue), count in zip(COLOURS.items(), counts, strict=True):
            write_pictures(tmp_path / "uneven" / part, {name: hue}, count)
    done = cli("--load", world.model, "--eval-only", "--eval-datasets", f"folder:{tmp_path / 'uneven'}", "--workers", 0,
               "--data-location", tmp_path, "--save", tmp_path / "out")
    assert done.status == 0, done.err
    row, = rows(tmp_path / "out" / "metrics_uneven.csv")
    right = {}
    for found in rows(tmp_path / "out" / "predictions_uneven.csv"):
        right.setdefault(found["label"], []).append(found["prediction"] == found["label"])
    shares = [sum(found) / len(found) for found in right.values()]
    assert sorted(map(len, right.values())) == [2, 2, 6]
    assert float(row["mean_per_class"]) == pytest.approx(100 * sum(shares) / 3, abs=1e-4)
    assert float(row["top1"]) == pytest.approx(100 * sum(map(sum, right.values())) / 10, abs=1e-4)


# -- weights -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def own_probabilities(model, norm, path):
    """{class: probability} by the library's own functions, for an image of the model's size."""
    norm = norm or {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    with Image.open(path) as image:
        pixels = functional.normalize(functional.pil_to_tensor(image.convert("RGB")) / 255, **norm)[None]
    tokens = open_clip.tokenize([f"a photo of a {name}." for name in files.CLASSNAMES], context_length=8)
    if hasattr(model, "encode_image"):
        logits = model.logit_scale.exp() * model.encode_image(pixels, normalize=True) @ model.encode_text(
            tokens, normalize=True).T
    else:
        logits = model(input_ids=tokens, pixel_values=pixels).logits_per_image
    return dict(zip(files.CLASSNAMES, logits.softmax(-1)[0].tolist(), strict=True))


@pytest.fixture(scope="module")
def small_image(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "image.png"
    noise = torch.randint(0, 256, (32, 32, 3), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)
    Image.fromarray(noise.numpy()).save(path)
    return path


THREE = ("--class-names", ",".join(files.CLASSNAMES), "--load")
CLOSE, SHOWS = 1e-5, 6e-5  # of probabilities: rounding, and what another activation or head changes at least


@pytest.mark.parametrize(("quick_gelu", "head_width", "norm"), [
    (True, 64, "CLIP's"), (False, 80, "halves"), (True, 80, "CLIP's"), (False, 64, "halves")])
def test_probabilities_are_the_libraries_own(classified, small_image, tmp_path, quick_gelu, head_width, norm):
    """Of folders as open_clip and transformers write them, with nothing assumed."""
    model, theirs = files.open_clip_pair(quick_gelu, head_width)
    norm, other = files.NORMS[norm], files.NORMS["halves" if norm == "CLIP's" else "CLIP's"]
    folders = {files.write_open_clip(tmp_path / "open_clip", model, head_width, norm): model,
               files.write_transformers(tmp_path / "transformers", theirs, norm): theirs}
    for folder, library in folders.items():
        found, warnings = classified("--eval-single", small_image, *THREE, folder)
        assert found == pytest.approx(own_probabilities(library, norm, small_image), abs=CLOSE) and not warnings, folder
    assert differ(found, own_probabilities(model, other, small_image))
    assert differ(found, own_probabilities(files.open_clip_pair(not quick_gelu, head_width)[0], norm, small_image))


def differ(one, other):
    return max(abs(one[name] - other[name]) for name in one) > SHOWS


def test_wrapped_weights(classified, foreign, small_image):
    root, model, names = foreign
    wanted = own_probabilities(model, {}, small_image)
    for name in names:
        found, warnings = classified("--eval-single", small_image, *THREE, root / name)
        assert found == pytest.approx(wanted, abs=5e-3 if name == "halves.pt" else CLOSE), name
        assert len(warnings) == 1 and "QuickGELU is assumed" in warnings[0], name


def test_what_weights_do_not_say_is_a_warning(classified, cli, small_image, tmp_path):
    """A bare file of a model with GELU: assumed with the way out; stated, it is right. Heads of 80 values: refused."""
    model, _ = files.open_clip_pair(quick_gelu=False)
    torch.save(model.state_dict(), tmp_path / "epoch_1.pt")
    found, warnings = classified("--eval-single", small_image, *THREE, tmp_path / "epoch_1.pt")
    assert "QuickGELU is assumed" in warnings[0] and "--model-config" in warnings[0]
    wanted = own_probabilities(model, {}, small_image)
    assert differ(found, wanted)
    (tmp_path / "gelu.yaml").write_text("gelu: {activation: gelu}\n", encoding="utf-8")
    found, _ = classified("--eval-single", small_image, *THREE, tmp_path / "epoch_1.pt", "--model-config",
                          tmp_path / "gelu.yaml", "--model-name", "gelu")
    assert found == pytest.approx(wanted, abs=CLOSE)
    model, _ = files.open_clip_pair(head_width=80)
    torch.save(model.state_dict(), tmp_path / "wide.pt")
    one_message(cli("--eval-only", "--eval-single", small_image, *THREE, tmp_path / "wide.pt"),
                "wide.pt does not state vision_heads", "4 of 80", "open_clip_config.json", "--model-config")


def test_a_given_architecture_fills_heads(classified, cli, foreign, small_image, tmp_path):
    """The same weights with and without what they say of their heads give the same scores; other heads are refused."""
    bare = foreign[0] / "model_state_dict.pt"
    content = loader.read_checkpoint(bare)
    block = content["architecture"] | {"vision_heads": 2}
    torch.save({"format": 1, "state_dict": content["state_dict"], "architecture": block}, tmp_path / "own.pth")
    for heads in (2, 8):
        (tmp_path / f"{heads}.yaml").write_text(f"own: {json.dumps(block | {'vision_heads': heads})}\n")
    words, two, eight = ("--eval-single", small_image, *THREE), *(
        ("--model-config", tmp_path / f"{heads}.yaml", "--model-name", "own") for heads in (2, 8))
    wanted, _ = classified(*words, tmp_path / "own.pth")
    assert classified(*words, bare, *two)[0] == wanted
    assert differ(classified(*words, bare)[0], wanted)  # 64 values each are assumed
    one_message(cli("--eval-only", *words, tmp_path / "own.pth", *eight), "vision_heads 2, not 8")


def test_weights_with_nan_are_refused(cli, world, small_image, tmp_path):
    content = torch.load(world.model, weights_only=True)
    content["state_dict"]["visual.proj"][0, 0] = float("nan")
    torch.save(content, tmp_path / "diverged.pth")
    words = ("--eval-only", "--load", tmp_path / "diverged.pth", "--workers", 0)
    for more in (("--eval-single", small_image, "--class-names", "red,blue"), ("--eval-datasets", world.colours)):
        one_message(cli(*words, *more), "diverged.pth: visual.proj holds NaN or infinity")


def test_a_folder_without_a_model_says_what_it_is(cli, world, small_image, tmp_path):
    (tmp_path / "run" / "checkpoint-100").mkdir(parents=True)
    one_message(cli("--eval-only", "--load", tmp_path / "run", "--eval-single", small_image, "--class-names", "a,b"),
                "is a folder without a known model", "it holds checkpoint-100")


# -- training ----------------------------------------------------------------------------------------------------------


def test_a_head_of_other_classes_is_left_out(train, cli, world, tmp_path):
    """Two datasets whose paths end in the same word, with as many classes of other names."""
    hues = list(COLOURS.values())
    for place, names in (("a", ("fire", "grass", "sea")), ("b", ("red", "green", "blue"))):
        for part in ("train", "test"):
            write_pictures(tmp_path / place / "images" / part, dict(zip(names, hues, strict=True)), 3)
    one, other = (f"folder:{tmp_path / place / 'images'}" for place in "ab")
    words = ("--train-mode", "fc", "--data-location", tmp_path)
    assert train(tmp_path / "one", "--train-dataset", one, *words).status == 0
    kept = tmp_path / "one" / "images.pth"
    shared = ("--load", kept, "--workers", 0, "--data-location", tmp_path, "--eval-only", "--eval-datasets")
    assert cli(*shared, one, "--save", tmp_path / "own").status == 0
    done = cli(*shared, other, "--save", tmp_path / "scores")
    assert done.status == 0 and "head" in done.out + done.err, done.out
    scored = [rows(tmp_path / name / "metrics_images.csv")[0]["scored_by"] for name in ("own", "scores")]
    assert scored[0].startswith("head") and not scored[1].startswith("head"), scored
    done = train(tmp_path / "two", "--load", kept, "--train-dataset", other, *words)
    assert done.status == 0 and "head" in done.out, done.out
    fresh = train(tmp_path / "three", "--load", kept, "--train-dataset", other, *words, "--fc-init", "zeroshot")
    assert fresh.status == 0
    first = [json.loads((tmp_path / name / "log_images.jsonl").read_text().splitlines()[0])
             for name in ("two", "three")]
    assert first[0]["task"] == first[1]["task"]


def test_lora_of_a_resnet_is_noted(cli, tmp_path):
    done = cli("--model", "toy", "--lora", "--train-dataset", "toy-digits", "--iterations", 1, "--batch-size", 2,
               "--warmup-length", 0, "--save", tmp_path / "out", "--max-evaluation-size", 10)
    assert done.status == 0 and "--lora adapts no layer of this image tower" in done.out + done.err


def test_a_class_dataset_serves_as_sentences(cli, tmp_path):
    done = cli("--model", "toy", "--method", "ZSCL", "--train-dataset", "toy-digits", "--ref-dataset", "toy-shapes",
               "--ref-sentences", "toy-textures", "--iterations", 1, "--batch-size", 2, "--warmup-length", 0,
               "--max-evaluation-size", 10, "--save", tmp_path / "out")
    assert done.status == 0, done.err


def test_a_joint_evaluation_of_nothing(cli):
    done = cli("--eval-only", "--eval-datasets", "toy-digits", "--model", "toy", "--joint", "--dry-run")
    assert done.status in (0, 2) and "Traceback" not in done.err
    assert "--joint" in done.err + " ".join(done.warnings)


def test_a_warm_up_that_is_as_long_as_the_run(train, tmp_path):
    done = train(tmp_path / "out", "--warmup-length", 100)
    assert done.status == 0
    assert any("--warmup-length 100 is not shorter than the run" in line and "3 steps reach 2.7e-06 of 9e-05" in line
               for line in done.warnings), done.warnings


@pytest.mark.parametrize(("words", "key", "value"), [
    (("--device", "gpu"), "device", "cuda"), (("--precision", "bfloat16"), "precision", "bf16"),
    (("--method", "zscl", "--ref-dataset", "toy-shapes"), "method", "ZSCL")])
def test_names_that_are_taken_as_they_are_meant(words, key, value):
    from src.args import parse
    assert parse([*words, "--train-dataset", "toy-digits", "--iterations", "1"]).values[key] == value


# -- documents ---------------------------------------------------------------------------------------------------------

DOCUMENTED = {  # row -> what docs/protocol.md says of it
    "F13": "key biases of attention move with AdamW", "F14": "`GradientTracker` is in `src/models/gradients.py`",
    "F15": "Published parts without a counterpart", "F16": "buffers, such as statistics", "F17": "linear evaluation",
    "F18": "picks palette entries by nearest", "F19": "keep `_` in 14 of the 16 templates",
    "F20": "training is refused, where published code trains on", "F22": "in the order of `--eval-datasets`"}


def test_differences_that_are_documented():
    text = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    assert {row for row, sentence in DOCUMENTED.items() if sentence not in text} == set()

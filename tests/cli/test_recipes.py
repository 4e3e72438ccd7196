"""Recipes: each file holds exactly its row; flag > recipe > protocol > default; custom files; scripts."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import fake_training
import pytest

from src.args import ORIGINS, all_origins, origins_text, parse
from src.cli import checks
from src.cli.flags import FLAGS
from src.cli.recipes import read_recipe, recipe_names
from src.errors import UserError

pytest_plugins = ["cli_fixtures"]

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
ZSCL_STAR = ("--method ZSCL --image-loss --text-loss --we --avg-freq 100 --ref-dataset ImageNet "
             "--ref-sentences conceptual_captions")
TABLE = {  # the rows of the MTIL table, and their flags on top of the protocol
    "finetune": "--method finetune",
    "wc": "--method finetune --l2 1",
    "we": "--method finetune --we --avg-freq 100",
    "wise-ft": "--method finetune --wise-merge --wise-ft-alpha 0.8",
    "lwf": "--method lwf",
    "lwf-vr": "--method lwf --ref-sentences random",
    "zscl-star": ZSCL_STAR,
    "zscl": f"{ZSCL_STAR} --l2 1",
    "icarl": "--method icarl --memory-size 10000",
    "lora": "--method finetune --lora",
    "lora-shared": "--method finetune --lora --lora-shared",
    "lora-split": "--method finetune --lora --lora-shared --lora-shared-split-qkvo",
    "ogd": "--method finetune --orthogonal-gradients 10",
    "inflora": "--method inflora --inflora-rank 128 --inflora-sites q,k,v,o --inflora-dropout 0.25 "
               "--inflora-memory gpm --inflora-energy 0.95 --optimizer adamw --lr 3e-4 --wd 0.01 --schedule cosine "
               "--warmup-length 5% --iterations 1000 --batch-size 16 --ls 0.2 --precision fp32 "
               "--inflora-statistics code",
    "nusa-cl": "--method nusa-cl --nusa-rank 128 --nusa-energy 0.95 --nusa-dropout 0.25 --optimizer adamw --lr 3e-4 "
               "--wd 0.01 --schedule cosine --warmup-length 5% --iterations 1000 --batch-size 16 --ls 0.2 "
               "--precision fp32",
    "keeplora": "--method keeplora --epochs 10,SUN397=5 --batch-size 64 --lr 1e-3 --wd 0.01 --schedule onecycle --ls 0 "
                "--crops none --last-batch drop --template all:first --keeplora-weight-side output",
    "keeplora-plus": "--method keeplora-plus --epochs 5 --batch-size 64 --lr 1e-3 --wd 0.01 --schedule onecycle --ls 0 "
                     "--crops none --last-batch drop --template all:first --keeplora-weight-side output",
    "moe-adapters": "--method moe-adapters --router batch --batch-size-eval 128 --iterations 1000 --batch-size 64 "
                    "--lr 1e-3,Aircraft=5e-3,CIFAR100=5e-3,EuroSAT=1e-4,MNIST=1e-4 --optimizer adamw --wd 0 "
                    "--schedule cosine --warmup-length 100 --ls 0.2 --precision fp32 --moe-unchosen zero "
                    "--ddas-features alexnet --ddas-reference TinyImageNet --ddas-threshold 0.0655 "
                    "--ddas-iterations 301 --ddas-reference-iterations 1001",
    "ewc": "--method ewc",
    "condu": "--method condu --condu-prototypes all",
    "condu-lora": "--method condu-lora --condu-rank 64 --condu-init code --condu-prototypes all --lr 1e-3,"
                  "Caltech101=5e-4,CIFAR100=2e-3,DTD=2e-3,EuroSAT=1.5e-4,Flowers=1e-5,Food=2e-3,OxfordPet=1.5e-4,"
                  "StanfordCars=2e-3,SUN397=1.5e-3",
    "rail": "--method rail --rail-projection published --batch-size 128 --template 'all:a photo of a {c}.'",
    "rail-dual": "--method rail --rail-form dual --batch-size 128 --template 'all:a photo of a {c}.'",
    "diki": "--method diki --router batch --select-epoch val --diki-length 8 --diki-blocks 8 --optimizer sgd --lr 5 "
            "--wd 0 --schedule cosine --lr-floor 5e-3 --warmup-length 0 --epochs 10 --batch-size 128 "
            "--batch-size-eval 256 --ls 0 --crops none --template all:first",
    "ridge": "--method ridge",
    "class-means": "--method class-means",
}
PUBLISHED = {  # Transfer / Avg / Last of order I and of order II
    "finetune": ("44.6 / 55.9 / 77.3", "46.6 / 56.2 / 67.4"),
    "lwf": ("56.9 / 64.7 / 74.6", "53.2 / 62.2 / 71.9"),
    "icarl": ("50.4 / 65.7 / 80.1", "50.9 / 56.9 / 71.6"),
    "lwf-vr": ("57.2 / 65.1 / 76.6", "53.1 / 60.6 / 68.3"),
    "wise-ft": ("52.3 / 60.7 / 77.7", "51.0 / 61.5 / 72.2"),
    "zscl-star": ("62.2 / 72.6 / 84.5", "59.8 / 71.8 / 83.3"),
    "zscl": ("68.1 / 75.4 / 83.6", "64.2 / 74.5 / 83.4"),
}
# Of newer methods, which scripts/recipe.sh runs, no numbers of order II are known.
NEWER = {"nusa-cl": {"mtil-1": "68.6 / 75.1 / 82.8"}, "inflora": {"mtil-1": "66.2 / 74.2 / 83.6"},
         "keeplora": {"mtil-1": "69.0"}, "keeplora-plus": {"mtil-1": "69.9"}, "ewc": {},
         "moe-adapters": {"mtil-1": "68.9 / 76.7 / 85.0", "mtil-2": "64.3 / 74.7 / 84.1"},
         "rail": {"xtail-1": "62.4 / 70.7 / 79.1"},
         "rail-dual": {"mtil-1-coop": "69.4 / 77.8 / 86.8", "xtail-1": "62.4 / 71.9 / 82.4"}, "ridge": {},
         "diki": {"mtil-1-coop": "68.7 / 76.3 / 85.1", "mtil-2-coop": "64.4 / 74.5 / 85.5"},
         "class-means": {}, "condu": {"mtil-1": "70.8 / 78.8 / 87.1", "mtil-1-5shot": "70.0 / 72.3 / 76.6"},
         "condu-lora": {"mtil-1": "70.3 / 78.3 / 86.2"}}
SCRIPTED = [name for name in TABLE if name not in NEWER]
MTIL_1 = "Aircraft Caltech101 CIFAR100 DTD EuroSAT Flowers Food MNIST OxfordPet StanfordCars SUN397".split()
TASK = "--train-dataset toy-colours --iterations 3 --save out"


def words_of(recipe):
    """A recipe's flags, as one would type them."""
    return [word for name, texts in recipe.flags.items()
            for word in ([f"--{name}"] if texts == ["true"] else [f"--{name}", *texts])]


def checked(words):
    config = parse(words.split())
    checks.check(config)
    return config


def refusal(words):
    with pytest.raises(UserError) as caught:
        checked(words)
    message = str(caught.value)
    assert message and len(message.splitlines()) == 1
    return message


def said(words):
    """What parsing gives: values and None, or None and the refusal."""
    try:
        return parse(shlex.split(words)).values, None
    except UserError as error:
        return None, str(error)


# -- the files ---------------------------------------------------------------------------------------------------------


def test_every_row_of_the_table_is_a_file():
    assert recipe_names() == sorted(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_a_file_holds_exactly_its_row(name):
    recipe = read_recipe(name)
    assert sorted(words_of(recipe)) == sorted(shlex.split(TABLE[name]))
    assert recipe.about.endswith(".")
    assert re.search("# .*not measured here", (ROOT / "recipes" / f"{name}.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("order", ["--dataset-order mtil-1", "--dataset-order DTD,MNIST", "--train-dataset DTD"])
def test_a_recipe_is_its_flags_typed(name, order):
    """The same values, or the same refusal, which names the recipe."""
    values, message = said(f"{order} --recipe {name}")
    typed, refused = said(f"{order} {TABLE[name]}")
    assert (values and values | {"recipe": None}) == typed
    assert message == (refused and f"--recipe {name}: {refused}")


@pytest.mark.parametrize("name", TABLE)
def test_published_numbers(name):
    found = {order: " / ".join(numbers[key] for key in ("transfer", "avg", "last") if key in numbers)
             for order, numbers in read_recipe(name).published.items()}
    older = dict(zip(("mtil-1", "mtil-2"), PUBLISHED[name], strict=True)) if name in PUBLISHED else {}
    assert found == NEWER.get(name, older)


def test_published_numbers_are_those_of_the_published_matrices():
    runs = json.loads((ROOT / "tests" / "data" / "published_mtil.json").read_text(encoding="utf-8"))["runs"]
    assert {run["method"].replace("_", "-") for run in runs} == PUBLISHED.keys() and len(runs) == 2 * len(PUBLISHED)
    for run in runs:
        numbers = read_recipe(run["method"].replace("_", "-")).published["mtil-" + str(len(run["order"]))]
        for key in ("transfer", "avg", "last"):
            assert float(numbers[key]) == pytest.approx(run[key], abs=0.0501)


def test_what_is_known_of_icarl_is_said():
    for path in (ROOT / "recipes" / "icarl.yaml", SCRIPTS / "icarl.sh"):
        assert "cannot be recovered from its code" in path.read_text(encoding="utf-8")


# -- precedence --------------------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path, monkeypatch):
    """own(text) writes my.yaml into the working directory."""
    monkeypatch.chdir(tmp_path)
    return lambda text, name="my.yaml": Path(name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize(("words", "key", "value", "origin"), [
    ("--recipe my.yaml --batch-size 3", "batch_size", 3, "flag"),
    ("--recipe my.yaml", "batch_size", 32, "recipe my.yaml"),
    ("", "batch_size", 64, "protocol mtil-1"),
    ("--recipe my.yaml", "ls", 0.2, "protocol mtil-1"),
    ("--recipe my.yaml", "beta2", 0.999, "default"),
    ("--recipe my.yaml", "lr", {None: 2e-5, "DTD": 1e-6}, "recipe my.yaml"),
    ("--recipe my.yaml", "we", True, "recipe my.yaml"),
    ("--recipe my.yaml", "recipe", "my.yaml", "flag"),
    ("--recipe my.yaml --method lwf", "method", "lwf", "flag"),
    ("--recipe my.yaml --epochs 2", "iterations", None, "default"),
    ("--recipe my.yaml --epochs 2", "epochs", 2, "flag"),
    ("--recipe my.yaml", "iterations", 50, "recipe my.yaml"),
    ("--recipe my.yaml --iterations 7", "iterations", 7, "flag"),
    ("--recipe epochs.yaml", "iterations", None, "default"),  # not the protocol's 1000
    ("--recipe epochs.yaml", "epochs", 4, "recipe epochs.yaml"),
    ("--recipe epochs.yaml --iterations 7", "epochs", None, "default"),
    ("--recipe epochs.yaml --iterations 7", "iterations", 7, "flag"),
])
def test_flag_wins_over_recipe_over_protocol_over_default(own, words, key, value, origin):
    own("flags: {method: finetune, we: true, batch-size: 32, lr: '2e-5,DTD=1e-6', iterations: 50}")
    own("flags: {epochs: 4}", "epochs.yaml")
    config = checked(f"--dataset-order mtil-1 --save out {words}")
    assert config.values[key] == value and config.origins[key] == origin
    assert list(config.values) == list(FLAGS), "the stored flags keep their order"


def test_a_recipes_method_decides_what_the_protocol_adds():
    config = checked("--dataset-order toy --save out --recipe zscl")
    assert config.ref_dataset == "ImageNet" and config.origins["ref_dataset"] == "recipe zscl"
    config = parse("--dataset-order toy --recipe zscl --ref-dataset toy-reference".split())
    assert config.ref_dataset == "toy-reference" and config.ref_sentences == "conceptual_captions"
    config = parse("--dataset-order toy --recipe zscl --method lwf".split())
    assert config.method == "lwf" and config.origins["ref_dataset"] == "recipe zscl"


def test_the_protocol_fills_for_the_method_of_a_recipe(own):
    own("flags: {method: ZSCL}")
    config = checked("--dataset-order toy --save out --recipe my.yaml")
    assert config.ref_dataset == "toy-reference" and config.origins["ref_dataset"] == "protocol toy"


def test_a_recipe_is_not_a_number_of_its_own():
    """A run by recipe is the same run as with its flags typed."""
    assert parse(f"{TASK} --recipe zscl".split()).numbers() == parse(f"{TASK} {TABLE['zscl']}".split()).numbers()


@pytest.mark.parametrize("words", ["--eval-only --eval-datasets toy-sizes", "--list-datasets"])
def test_a_recipe_does_nothing_where_nothing_is_trained(own, words):
    own("flags: {batch-size-eval: 3, template: simple}")
    config = checked(f"{words} --recipe my.yaml")
    warning, = checks.check(config).warnings
    assert warning.startswith("--recipe has no effect")
    assert config.batch_size_eval == 128 and config.template is None


def test_recipes_are_trusted_and_flags_are_warned_of(own):
    own("flags: {lr: 1e-3, avg-freq: 5, T: 3, shot-seed: 4}")
    assert checks.check(checked(f"{TASK} --recipe my.yaml")).warnings == []
    assert len(checks.check(checked(f"{TASK} --recipe my.yaml --avg-freq 6 --T 4")).warnings) == 2


# -- origins -----------------------------------------------------------------------------------------------------------


def listed(text):
    """{origin: {flag: text}} of the printed lines."""
    lines = (line.split(": ", 1) for line in text.splitlines())
    return {origin: dict(re.findall(r"(--\S+) ('[^']*'|\S+)", text)) for origin, text in lines}


def test_every_acting_value_is_listed_once_by_its_origin():
    config = checked("--dataset-order mtil-1 --recipe zscl --save out --seed 7")
    found = listed(all_origins(config))
    assert list(found) == ["flag", "recipe zscl", "protocol mtil-1", "default"]
    assert found["flag"].keys() == {"--dataset-order", "--recipe", "--save", "--seed"}
    assert found["flag"]["--seed"] == "7"
    assert found["recipe zscl"] == {
        "--method": "ZSCL", "--we": "on", "--image-loss": "on", "--text-loss": "on", "--avg-freq": "100", "--l2": "1",
        "--ref-dataset": "ImageNet", "--ref-sentences": "conceptual_captions"}
    assert found["protocol mtil-1"]["--lr"] == "1e-05,Aircraft=5e-05,MNIST=5e-05"
    assert found["default"]["--moving-avg"] == "off" and found["default"]["--text-datasets"] == "none"
    named = [name for flags in found.values() for name in flags]
    assert sorted(named) == sorted(flag.name for flag in FLAGS.values() if config.kind in flag.runs)
    assert [origin.split()[0] for origin in found] == list(ORIGINS)
    assert listed(origins_text(config)) == {origin: found[origin] for origin in found if origin != "default"}


def test_values_of_several_words_are_quoted(own):
    own("flags: {template: 'a photo of a big {c}.'}")
    found = listed(origins_text(checked(f"{TASK} --recipe my.yaml")))
    assert found["recipe my.yaml"] == {"--template": "'a photo of a big {c}.'"}


def test_nothing_is_listed_where_the_user_gave_it_all():
    assert origins_text(checked(f"{TASK} --lr 1e-5 --method lwf")) == ""


def test_a_run_tells_and_stores_its_origins(cli, world, own):
    own("flags: {we: true, avg-freq: 1, lr: 1e-5, batch-size: 4, warmup-length: 0, workers: 0}")
    words = ["--load", world.model, "--iterations", 2, "--recipe", "my.yaml"]
    done = cli(*words, "--train-dataset", world.colours, "--save", "one")
    assert done.status == 0 and "\nrecipe my.yaml: --lr 1e-05 --batch-size 4 " in "\n" + done.out, done.err
    assert "default: " not in done.out
    stored = json.loads(Path("one/run_colours.json").read_text(encoding="utf-8"))["flags"]
    assert stored["we"] == {"value": True, "origin": "recipe my.yaml"}
    assert stored["recipe"] == {"value": "my.yaml", "origin": "flag"}
    done = cli(*words, "--dataset-order", f"{world.colours},{world.tones}", "--save", "two")
    assert done.status == 0 and done.out.count("recipe my.yaml: --lr") == 1, done.err
    done = cli(*words, "--train-dataset", world.colours, "--save", "three", "--quiet")
    assert done.status == 0 and "my.yaml" not in done.out, done.err
    done = cli(*words[:-2], "--train-dataset", world.colours, "--save", "four", "--lr", "1e-5")
    assert done.status == 0 and "flag: " not in done.out, done.err
    done = cli(*words[:-2], "--train-dataset", world.colours, "--save", "five", "--lr", "1e-5", "--verbose")
    assert done.status == 0 and "\ndefault: " in done.out, done.err


def test_a_recipes_model_must_be_that_of_the_loaded_file(cli, world, own):
    own("flags: {model: tiny-vit, iterations: 1}")
    done = cli("--load", world.model, "--train-dataset", world.colours, "--recipe", "my.yaml", "--save", "out")
    assert done.status == 2 and "tiny-vit" in done.err and str(world.model) in done.err
    assert not Path("out").exists()


# -- custom files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "key", "value"), [
    ("flags: {batch_size: 5}", "batch_size", 5),
    ("flags: {batch-size: 0100}", "batch_size", 100),  # as on the command line, not YAML's octal
    ("flags: {lr: 1.0e-6}", "lr", {None: 1e-6}),
    ("flags: {warmup-length: 20%}", "warmup_length", "20%"),
    ("flags: {text-datasets: [DTD, MNIST]}", "text_datasets", ("DTD", "MNIST")),
    ("flags: {text-datasets: 'DTD,MNIST'}", "text_datasets", ("DTD", "MNIST")),
    ("flags: {lr: [1e-5, DTD=1e-6]}", "lr", {None: 1e-5, "DTD": 1e-6}),
    ("flags: {set: [strength=0.5, name=x]}", "set", {"strength": 0.5, "name": "x"}),
    ("flags: {set: strength=0.5}", "set", {"strength": 0.5}),
    ("flags: {method: mine.py:Mine}", "method", "mine.py:Mine"),
    ("flags: {we: True}", "we", True), ("flags: {we: on}", "we", True),
    ("flags: {we: false, ls: 0}", "we", False), ("flags: {we: off, ls: 0}", "we", False),
    ("about: Mine.\nflags:\n  T: 3\npublished: {toy: {transfer: 70}}\n", "T", 3.0),
])
def test_a_custom_file(own, text, key, value):
    own(text)
    config = parse(f"{TASK} --recipe my.yaml".split())
    assert config.values[key] == value
    assert config.origins[key] == ("recipe my.yaml" if value is not False else "default")


def test_a_file_elsewhere_under_any_name(own, tmp_path):
    own("flags: {ls: 0.5}", "two words.yml")
    assert parse([*TASK.split(), "--recipe", str(tmp_path / "two words.yml")]).ls == 0.5


@pytest.mark.parametrize(("text", "fragments"), [
    ("", ["mapping", "flags:"]), ("- a\n- b", ["mapping"]), ("we", ["mapping"]), ("{}", ["no flags:"]),
    ("about: x", ["no flags:"]), ("flags:", ["flags", "mapping"]), ("flags: {}", ["no flags:"]),
    ("flags: [we]", ["flags", "mapping"]), ("about: [x]\nflags: {ls: 0}", ["about", "a sentence"]),
    ("flags: {ls: 0}\npublished: 3", ["published", "mapping"]), ("flag: {ls: 0}", ["unknown key flag", "flags"]),
    ("method: lwf", ["unknown key method", "flags"]),
    ("flags: {ls: 0", ["line 1"]), ("flags:\n\tls: 0", ["line 2"]), ("a: 1\nflags: {ls: 0, ls: 1}", ["line 2", "ls"]),
    ("flags: {ls: 0}\nflags: {ls: 1}", ["flags", "twice"]), ("flags: {? [a] : 1}", ["line 1"]),
    ("flags: !!python/object:os.system {}", ["no flags:"]), ("flags: {ls: *x}", ["line 1", "x"]),
    ("flags: &a {ls: *a}", ["recursive"]), ("a: 1\n---\nb: 2", ["line 2", "single document"]),
    ("flags: " + "[" * 3000, ["cannot be read as YAML"]), ("\0", ["cannot be read as YAML"]),
    ("flags: {wee: true}", ["unknown flag wee", "did you mean we"]), ("flags: {qqqqq: 1}", ["qqqqq", "--help"]),
    ("flags: {--ls: 1}", ["unknown flag --ls", "did you mean ls"]), ("flags: {'': 1}", ["unknown flag"]),
    ("flags: {avg-freq: 0}", ["--avg-freq 0", "at least 1"]), ("flags: {avg-freq: true}", ["--avg-freq true"]),
    ("flags: {avg-freq: [1, 2]}", ["--avg-freq 1,2"]), ("flags: {avg-freq: }", ["avg-freq", "expected a value"]),
    ("flags: {avg-freq: {a: 1}}", ["avg-freq", "expected a value"]), ("flags: {lr: []}", ["lr", "expected a value"]),
    ("flags: {text-datasets: [[A]]}", ["text-datasets", "expected a value"]),
    ("flags: {we: 3}", ["--we 3", "true or false"]), ("flags: {we: [true, true]}", ["--we", "true or false"]),
    ("flags: {avg-freq: 1, avg_freq: 2}", ["--avg-freq", "twice"]),
    ("flags: {method: lfw}", ["--method lfw", "did you mean lwf"]), ("flags: {set: x}", ["--set x", "key=value"]),
    ("flags: {ref-dataset: DTDD, method: ZSCL}", ["--ref-dataset", "'DTDD'", "recipe my.yaml sets --ref-dataset DTDD"]),
    ("flags: {method: ZSCL}", ["needs --ref-dataset", "recipe my.yaml sets --method ZSCL"]),
    ("flags: {method: lwf, train-mode: text}", ["--method lwf", "recipe my.yaml sets --train-mode text"]),
    ("flags: {we: true, moving-avg: true}", ["--we", "--moving-avg", "recipe my.yaml sets --we on"]),
    ("flags: {iterations: 1, epochs: 1}", ["--iterations", "recipe my.yaml sets --epochs 1"]),
    *((f"flags: {{{name}: x}}", [f"--{name}", "belongs to a single run", "command line"]) for name in (
        "train-dataset", "dataset-order", "recipe", "save", "load", "resume", "overwrite", "eval-only", "eval-single",
        "class-names", "prompt", "report", "list-datasets", "check-data", "dry-run", "export", "split-file",
        "shots-file", "wise-ft", "alpha")),
])
def test_a_file_that_cannot_serve(own, text, fragments):
    own(text)
    message = refusal("--train-dataset toy-colours --save out --recipe my.yaml"
                      + ("" if "iterations" in text else " --iterations 1"))
    assert "my.yaml" in message and all(fragment in message for fragment in fragments), message


@pytest.mark.parametrize(("name", "fragments"), [
    ("zscll", ["did you mean zscl", "wise-ft", "FILE.yaml"]), ("ZSCL", ["did you mean zscl"]),
    ("qqqq", [", ".join(sorted(TABLE)), "FILE.yaml"]), ("none.yaml", ["no such file"]), (".yaml", ["no such file"]),
    ("folder.yaml", ["no such file"]), ("a" * 300 + ".yaml", ["no such file"]), ("../recipes/zscl", ["FILE.yaml"]),
    ("latin.yaml", ["cannot be read as YAML"]),
])
def test_a_recipe_that_is_not_there(own, name, fragments):
    Path("folder.yaml").mkdir()
    Path("latin.yaml").write_bytes("about: caf\xe9".encode("latin-1"))
    message = refusal(f"{TASK} --recipe {name}")
    assert message.startswith(f"--recipe {name}: ") and all(fragment in message for fragment in fragments), message


@pytest.mark.parametrize(("words", "fragments"), [
    ("--moving-avg", ["--we and --moving-avg exclude each other", "(recipe zscl sets --we on)"]),
    ("--we-wise", ["--we and --we-wise exclude each other", "recipe zscl sets --we on"]),
    ("--train-mode text", ["--method ZSCL", "recipe zscl sets --method ZSCL"]),
])
def test_a_flag_that_contradicts_a_recipe(words, fragments):
    message = refusal(f"{TASK} --recipe zscl {words}")
    assert all(fragment in message for fragment in fragments), message


def test_a_flag_that_contradicts_a_flag_blames_no_recipe():
    assert "recipe" not in refusal(f"{TASK} --recipe lwf --we --moving-avg")


# -- scripts -----------------------------------------------------------------------------------------------------------

CHAINS = ("sequence", "ogd")


def script(name):
    return (SCRIPTS / f"{name}.sh").read_text(encoding="utf-8")


def options(command):
    """{flag: the last value given} of a recorded command line."""
    assert command[:2] == ["-m", "src.main"]
    pairs = zip(command[2:], [*command[3:], "--"], strict=True)
    return {word: None if after.startswith("--") else after for word, after in pairs if word.startswith("--")}


@pytest.mark.parametrize("name", [*SCRIPTED, *CHAINS, "recipe"])
def test_a_script_says_how_it_is_run(name):
    text = script(name)
    assert text.startswith("#!/bin/sh\n# ") and f"#     sh scripts/{name}.sh" in text and "\nset -e\n" in text
    assert "not measured here" in text.lower() and os.access(SCRIPTS / f"{name}.sh", os.X_OK)
    assert subprocess.run(["sh", "-n", str(SCRIPTS / f"{name}.sh")], check=False).returncode == 0


@pytest.mark.parametrize("name", SCRIPTED)
def test_a_script_gives_the_published_numbers(name):
    found = re.findall(r"\d\d\.\d / \d\d\.\d / \d\d\.\d", script(name))
    assert found == list(PUBLISHED.get(name, ()))
    if name in PUBLISHED:
        assert f"mtil-1 {found[0]}, mtil-2 {found[1]}; not measured here" in script(name)


@pytest.mark.parametrize("name", [name for name in SCRIPTED if name != "ogd"])
def test_a_script_runs_its_recipe(record, name):
    status, [command], _ = record(name)
    assert status == 0
    assert shlex.join(command) == (f"-m src.main --recipe {name} --dataset-order mtil-1 --save ckpt/mtil-1_{name}")
    status, [command], _ = record(name, "mtil-2", "--seed", "7", "--template", "a {c}")
    assert command[2:] == ["--recipe", name, "--dataset-order", "mtil-2", "--save", f"ckpt/mtil-2_{name}",
                           "--seed", "7", "--template", "a {c}"]
    status, [command], _ = record(name, "--seed", "7")
    assert options(command)["--dataset-order"] == "mtil-1" and options(command)["--seed"] == "7"


def test_the_script_of_any_recipe(record):
    status, [command], _ = record("recipe", "sub/my.yaml", "toy")
    assert command[2:] == ["--recipe", "sub/my.yaml", "--dataset-order", "toy", "--save", "ckpt/toy_my"]
    status, commands, told = record("recipe")
    assert status != 0 and not commands and "give a recipe" in told


def test_a_recipe_script_runs(record, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, [command], _ = record("we", "toy-sizes", "--model", "toy", "--iterations", "1", "--batch-size", "4",
                             "--max-evaluation-size", "8", "--lr", "1e-5")
    done = cli(*command[2:])
    assert done.status == 0 and "recipe we: --method finetune --we on --avg-freq 100" in done.out, done.err
    assert Path("ckpt/toy-sizes_we/toy-sizes.pth").exists()


def test_the_loop_runs(record, cli, tmp_path, monkeypatch):
    """What the script would run, run: each task starts from the checkpoint of the one before."""
    monkeypatch.chdir(tmp_path)
    tasks = ["toy-sizes", "toy-colours"]
    status, commands, _ = record("sequence", "lwf", *tasks, "--model", "toy", "--iterations", "1", "--batch-size", "4",
                                 "--warmup-length", "0", "--max-evaluation-size", "8", "--eval-datasets", "toy-sizes",
                                 SAVE="my run")
    assert status == 0 and len(commands) == 2
    for command in commands:
        done = cli(*command[2:])
        assert done.status == 0 and done.warnings == [], done.err
    run = json.loads(Path("my run/run_toy-colours.json").read_text(encoding="utf-8"))
    assert run["flags"]["load"]["value"] == "my run/toy-sizes.pth" and run["iterations"] == 1
    assert run["flags"]["method"]["value"] == "lwf" and run["flags"]["ls"]["value"] == 0.2


def test_a_loop_that_ran_does_nothing_anew_and_sees_what_has_changed(record, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("sequence", "finetune", "toy-sizes", "toy-colours", "--model", "toy", "--iterations", "1", "--batch-size",
             "4", "--max-evaluation-size", "8", "--eval-datasets", "toy-sizes")

    def loop(*more):
        return [cli(*command[2:]) for command in record(*words, *more, SAVE="run")[1]]
    assert [done.status for done in loop()] == [0, 0]
    before = {path: path.read_bytes() for path in Path("run").glob("*.pth")}
    again = loop()
    assert all("already finished" in done.out and done.status == 0 for done in again) and len(again) == 2
    assert before == {path: path.read_bytes() for path in Path("run").glob("*.pth")}
    other = loop("--seed", "7")[0]
    assert other.status == 2 and "--seed 42 there, 7 here" in other.err and "--overwrite" in other.err
    first, _ = record(*words, "--ls", "0.3", "--overwrite", SAVE="run")[1]
    assert cli(*first[2:]).status == 0  # the task before is another one by now
    done = loop()[1]
    assert done.status == 2 and "run/toy-colours.pth began with another content of --load" in done.err


@pytest.mark.parametrize(("name", "words"), [("sequence", ["lwf"]), ("ogd", [])])
def test_the_loops_settings_are_those_of_the_protocol(record, name, words):
    status, commands, _ = record(name, *words)
    assert status == 0 and [options(command)["--train-dataset"] for command in commands] == MTIL_1
    folder = {"sequence": "ckpt/sequence_lwf", "ogd": "ckpt/ogd"}[name]
    protocol = parse(["--dataset-order", "mtil-1"])
    for index, command in enumerate(commands):
        found = options(command)
        dataset, previous = MTIL_1[index], MTIL_1[index - 1]
        assert "--resume" in found
        assert found["--save"] == folder and found["--eval-datasets"] == ",".join(MTIL_1)
        assert found.get("--load") == (f"{folder}/{previous}.pth" if index else None)
        if name == "ogd":
            assert found["--orthogonal-gradients"] == "10" and found["--method"] == "finetune"
            assert found.get("--orthogonal-gradients-path") == (f"{folder}/grad_{previous}.pth" if index else None)
        own = ("--orthogonal", "--load", "--method", "--resume")
        typed = [word for flag, value in found.items() if not flag.startswith(own) for word in (flag, value)]
        values = parse(typed).values
        assert values["lr"] == {None: protocol.lr.get(dataset, protocol.lr[None])}
        for key, origin in protocol.origins.items():
            if origin == "protocol mtil-1" and key != "lr":
                assert values[key] == protocol.values[key], key


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("word", ["--save", "--save=x", "--load"])
def test_the_loops_own_flags_are_not_taken(record, name, word):
    status, commands, told = record(name, "finetune", "DTD", word, "x")
    assert status == 2 and not commands and "SAVE=FOLDER" in told


def test_the_loop_takes_flags_that_start_alike(record):
    status, commands, _ = record("sequence", "finetune", "DTD", "--save-interval", "5")
    assert status == 0 and commands[0][-2:] == ["--save-interval", "5"]


def test_the_loop_stops_at_a_task_that_fails(record):
    status, commands, _ = record("sequence", "finetune", "DTD", "MNIST", PYTHON="false")
    assert status != 0 and not commands


def test_the_loop_asks_for_a_method(record):
    status, commands, told = record("sequence")
    assert status != 0 and not commands and "give a method" in told


@pytest.fixture
def loop(tmp_path, monkeypatch):
    """loop(name, word, ...) -> status, the datasets that it trained; a training only counts, see fake_training.py."""
    monkeypatch.setenv("SAVE", "a run")
    monkeypatch.chdir(tmp_path)
    programs = fake_training.install(tmp_path / "bin")
    began = tmp_path / "began"
    (programs / "noting").write_text(f'#!/bin/sh\necho "$4" >> "{began}"\nexec "{programs}/python" "$@"\n',
                                     encoding="utf-8")
    (programs / "noting").chmod(0o755)

    def call(name, *words):
        began.write_text("", encoding="utf-8")
        done = subprocess.run(["sh", str(SCRIPTS / f"{name}.sh"), *words, "--iterations", "1"], timeout=60, check=False,
                              stdout=subprocess.DEVNULL, env=os.environ | {"PYTHON": str(programs / "noting")})
        return done.returncode, began.read_text(encoding="utf-8").split()
    return call


@pytest.mark.parametrize("words", [["sequence", "lwf"], ["ogd"]])
def test_a_loop_stops_at_a_failure_and_goes_on_there(loop, words):
    Path("a run/MNIST.pth").mkdir(parents=True)  # no checkpoint can be written there
    status, trained = loop(*words, "DTD", "MNIST", "Food")
    assert status == 1 and trained == ["DTD", "MNIST"]
    Path("a run/MNIST.pth").rmdir()
    assert loop(*words, "DTD", "MNIST", "Food") == (0, ["DTD", "MNIST", "Food"])  # each says what is left of it


def test_a_loop_hands_on_the_status(loop):
    assert loop("sequence", "lwf", "DTD", "MNIST", "--status", "75") == (75, ["DTD"])

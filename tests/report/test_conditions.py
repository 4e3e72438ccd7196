"""What numbers hold for: read from flags, from the class of a method, from older runs; and what keeps rows apart."""

import itertools
from dataclasses import replace

import pytest
from report_files import write_pairs_run, write_run

from src.args import parse
from src.models import METHODS
from src.report.conditions import (
    TITLES,
    UNKNOWN,
    Conditions,
    are_conditions,
    conditions_of,
    conditions_of_run,
    family_of,
    reference_of,
    router_of,
    shots_of,
    stored,
    together,
)
from src.report.runs import read_run

PLAIN = Conditions("ZSCL", None, "all", "none", "given", "task")
OTHERS = {"family": "CoOp", "reference": "coco", "shots": "16", "router": "batch", "task_id": "not given",
          "space": "all"}


def values(words=""):
    words = words.split() if isinstance(words, str) else words
    return parse(["--dataset-order", "toy-colours", "--iterations", "1", *words]).plain()


# -- what keeps rows apart ---------------------------------------------------------------------------------------------


def test_each_condition_keeps_rows_apart():
    known = replace(PLAIN, reference="ImageNet")
    assert known.differences(known) == []
    for key, value in OTHERS.items():
        other = replace(known, **{key: value})
        assert known.differences(other) == other.differences(known) == [TITLES[key]]


def test_what_a_row_is_without_keeps_it_from_no_other():
    with_reference, untrained = replace(PLAIN, reference="ImageNet"), replace(PLAIN, shots=None)
    assert PLAIN.differences(with_reference) == with_reference.differences(PLAIN) == []
    assert untrained.differences(PLAIN) == untrained.differences(replace(PLAIN, shots="16")) == []


def test_a_router_of_single_images_is_like_none():
    none, sample, batch = (replace(PLAIN, router=router) for router in ("none", "sample", "batch"))
    assert none.differences(sample) == [] and [none.differences(batch), sample.differences(batch)] == [["router"]] * 2


@pytest.mark.parametrize("key", OTHERS)
def test_unknown_is_no_known_value(key):
    known = replace(PLAIN, reference="ImageNet")
    unknown = replace(known, **{key: UNKNOWN})
    assert unknown.differences(known) == known.differences(unknown) == [TITLES[key]] == unknown.unknown()
    assert unknown.differences(unknown) == [] == known.unknown()


def test_the_head_names_all_six():
    assert PLAIN.text() == ("data family ZSCL; reference set none; shots all; router none; task id at test given; "
                            "label space task")


# -- from flags --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("names", "words", "family"), [
    (["DTD", "Aircraft"], "", "ZSCL"), (["CIFAR100-1of10", "CIFAR100-2of10"], "", "ZSCL"),
    (["toy-colours", "toy-sizes"], "", "toy"), (["mini-sizes", "toy-sizes"], "", "mini + toy"),
    (["folder:/x/DTD"], "", "own"), (["DTD", "csv:a.csv"], "", "ZSCL + own"),
    (["flickr30k_phase2"], "", "flickr30k"), (["ImageNet", "DTD"], "", "ImageNet + ZSCL"),
    (["DTD", "EuroSAT"], "--split-file coop", "CoOp"),
    (["DTD", "MNIST"], "--split-file coop", "CoOp + ZSCL"), (["folder:/x/birds"], "--split-file coop", "own"),
    (["CIFAR100-1of10"], "--class-order pilot", "ZSCL, class order pilot"),
    (["CIFAR100"], "--class-order pilot", "ZSCL"), (["CIFAR100-1of10"], "--class-order seed", "ZSCL"),
    (["DTD"], ["--template", "all:a bad photo of a {c}."], "ZSCL, template a bad photo of a {c}."),
    (["DTD"], "--template CIFAR", "ZSCL"),
    (["DTD"], "--split-file lists/split_zhou_DTD.json", "split file split_zhou_DTD.json")], ids=str)
def test_families(names, words, family):
    assert family_of(names, values(words)) == family


def test_a_folder_of_split_files_is_of_coops_family(tmp_path):
    assert family_of(["DTD"], values(f"--split-file {tmp_path}")) == "CoOp"
    assert family_of(["DTD"], values(f"--split-file {tmp_path / 'gone'}")) == "split file gone"
    assert family_of(["DTD"], {}) == UNKNOWN


DIKI = "own split, drawn as by DIKI over CIFAR100+MNIST"


@pytest.mark.parametrize(("train_data", "words", "family"), [
    ({"DTD": "split file a.json", "MNIST": "own split, val 0.2", "CIFAR100": "own split, val 0.2"}, "",
     "CoOp, own split of CIFAR100 and MNIST"),
    ({"MNIST": "own split, val 0.2", "folder:/x/birds": "own split, val 0.2, 16 shots seed 0"}, "",
     "own split of MNIST and folder:/x/birds"),
    ({"DTD": "split file a.json", "folder:/x/birds": "all"}, "", "CoOp + own"),
    ({"DTD": "split file a.json", "MNIST": DIKI, "CIFAR100": DIKI}, "--val-fraction diki",
     "CoOp, own split of CIFAR100 and MNIST drawn as by DIKI over CIFAR100+MNIST"),
    ({"DTD": "split file a.json", "MNIST": DIKI}, "", "CoOp, own split of MNIST drawn as by DIKI over CIFAR100+MNIST"),
    ({"MNIST": "own split, drawn as by DIKI over MNIST, 16 shots seed 0"}, "--val-fraction diki",
     "own split of MNIST drawn as by DIKI over MNIST"),
    ({"MNIST": DIKI, "CIFAR10": "own split, val 0.2"}, "--val-fraction diki",
     "own split of CIFAR10, own split of MNIST drawn as by DIKI over CIFAR100+MNIST"),
    ({"CIFAR100-1of10": "own split, val 0.2"}, "--val-fraction diki", "own split of CIFAR100")], ids=str)
def test_what_draws_an_own_split_the_data_say_and_no_flag(train_data, words, family):
    """A flag does not reach every dataset, and an evaluation does not repeat it."""
    assert family_of([*train_data], values(f"--split-file coop {words}"), train_data) == family


def test_a_split_that_is_our_own_is_named_as_the_data_say():
    """Whether PILOT's folders are there, no flag says."""
    own = {"CUB200-1of10": "own split, not comparable, 16 shots seed 0", "CUB200-2of10": "own split, not comparable"}
    assert family_of(["CUB200-1of10"], values(), own) == "CUB200, own split of CUB200"
    assert family_of(["CUB200-1of10"], values(), dict.fromkeys(own, "train folder")) == "CUB200"
    assert conditions_of(["CUB200-1of10"], values(), [], [], "seen", train_data=own).family.endswith("split of CUB200")


@pytest.mark.parametrize(("words", "reference"), [
    ("", None), ("--ref-dataset ImageNet", None), ("--method lwf --ref-sentences random", None),
    ("--method icarl", None),
    ("--method ZSCL --ref-dataset ImageNet", "ImageNet"),
    ("--method ZSCL --ref-dataset ImageNet --ref-size 1000", "ImageNet (1000 images)"),
    ("--method ZSCL --ref-dataset ImageNet --ref-sentences conceptual_captions", "ImageNet + conceptual_captions"),
    ("--method ZSCL --ref-dataset coco --ref-sentences coco", "coco"),
    ("--method moe-adapters --ddas-reference TinyImageNet", "TinyImageNet + AlexNet's ImageNet weights"),
    ("--method moe-adapters --ddas-features clip", None), ("--ddas-reference TinyImageNet", None),
    ("--method lwf --ref-sentences coco", "coco"), ("--method my.py:EWC --ref-dataset ImageNet", None),
    ("--method ZSCL --ref-dataset coco --ref-sentences flickr30k --text-datasets DTD,Food",
     "coco + prompts of DTD,Food")])
def test_reference_sets(words, reference):
    """Only what the method takes; with --text-datasets its prompts come first."""
    assert reference_of(values(words)) == reference


def test_shots_and_what_flags_do_not_say():
    assert [shots_of(values(words)) for words in ("", "--shots 16")] == ["all", "16"] and shots_of({}) == UNKNOWN
    assert shots_of(values("--shots-file a/shots.json --shots 5")) == "5"  # such a run checks that it lists five
    assert shots_of(values("--shots-file a/shots.json")) == "listed in a/shots.json"
    assert [shots_of(values(f"--method {words} --condu-prototypes all")) for words in (
        "condu --shots 5", "condu-lora --shots-file a.json", "condu", "lwf --shots 5")] == [
        "5, prototypes of all", "listed in a.json, prototypes of all", "all", "5"]
    assert reference_of({}) == reference_of({"method": "ZSCL", "ref_dataset": "ImageNet"}) == UNKNOWN


def test_tasks_that_were_trained_with_other_values_are_all_named():
    few, zscl = values("--shots 5"), values("--method ZSCL --ref-dataset ImageNet")
    found = conditions_of(["DTD"], values(), [few, values(), few, zscl], ["none"], "seen")
    assert found == Conditions("ZSCL", "ImageNet", "5, all", "none", "not given", "seen")
    assert conditions_of(["DTD"], values(), [{}, few], [], "task").shots == UNKNOWN
    assert conditions_of(["DTD"], values(), [], [], "all") == Conditions("ZSCL", None, None, "none", "not given", "all")


def test_one_head_of_several_label_spaces():
    found = together([PLAIN, replace(PLAIN, task_id="not given", space="all")])
    assert found == replace(PLAIN, task_id="given, not given", space="task, all") and together([PLAIN]) == PLAIN
    assert together([replace(PLAIN, shots=None), replace(PLAIN, shots=UNKNOWN)]).shots == UNKNOWN


# -- routers -----------------------------------------------------------------------------------------------------------

METHOD_FILE = """
from src.models.finetune import Finetune
from src.models.hooks import Hooks

class Plain(Finetune):
    pass

class Scores(Hooks):
    def scores(self, state, images, spaces):
        return None

class Modules(Hooks):
    def build(self, model):
        return None

class Says(Scores):
    router = "batch"

def make():
    return Plain()
"""


@pytest.mark.parametrize(("name", "router"), [("Plain", "none"), ("Scores", UNKNOWN), ("Modules", UNKNOWN),
                                              ("Says", "batch"), ("make", UNKNOWN)])
def test_the_router_of_a_class(tmp_path, name, router):
    (tmp_path / "my.py").write_text(METHOD_FILE, encoding="utf-8")
    assert router_of(f"{tmp_path / 'my.py'}:{name}", {}) == router


@pytest.mark.parametrize(("name", "pairs"), itertools.product(METHODS, [False, True]))
def test_each_method_of_ours_says_its_router(name, pairs):
    assert router_of(name, values(), pairs) in ("none", "sample", "batch")


# -- from the files of a run -------------------------------------------------------------------------------------------


def test_a_run_has_what_it_stored(tmp_path):
    run = read_run(write_run(tmp_path / "new", "--shots 5", order=("DTD", "Food", "MNIST"), spaces=("task", "all")))
    assert conditions_of_run(run, "task") == replace(PLAIN, shots="5")
    assert conditions_of_run(run, "all") == replace(PLAIN, shots="5", task_id="not given", space="all")
    pairs = read_run(write_pairs_run(tmp_path / "pairs"))
    assert conditions_of_run(pairs, "retrieval").task_id is None


def test_an_older_run_says_what_its_flags_say(tmp_path):
    run = read_run(write_run(tmp_path / "old", "--method ZSCL --ref-dataset ImageNet --shots 5", older=True))
    assert conditions_of_run(run, "task") == Conditions(UNKNOWN, "ImageNet", "5", UNKNOWN, "given", "task")
    assert conditions_of_run(run, "task").unknown() == ["data family", "router"]


def test_what_a_file_may_hold():
    assert are_conditions({}) and are_conditions({"shots": None, "family": "CoOp"})
    assert not any(map(are_conditions, (None, [], "ZSCL", {"shots": 5})))
    assert stored({"family": "CoOp", "later": "x"}) == Conditions("CoOp", *[UNKNOWN] * 5)

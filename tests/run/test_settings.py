"""What each part of a run receives: fields are flags, and a checkpoint brings its seed."""

import dataclasses

import pytest

from src.args import parse
from src.cli.flags import FLAGS
from src.models import ADD_ONS, METHODS
from src.run.build import command_of, single_of
from src.run.settings import Data, Hardware, Scoring, Single, Training, Weights
from src.store.settings import Files

pytest_plugins = ["cli_fixtures"]

COMPUTED = {  # fields that are not flags
    Hardware: set(), Weights: {"loaded", "model_chosen"}, Data: {"trained", "split_file_of", "flickr_splits_chosen"},
    Training: {"trained", "pairs", "sequence", "hooks", "reads", "acting", "averages", "freeing",
               "fc_init_given"},
    Scoring: {"trained", "trains_heads", "pairs", "evaluation", "trains", "in_order", "hooks", "keywords",
              "keywords_given", "method_given", "template_given", "eval_split_chosen"},
    Files: {"numbers", "flags", "argv"}, Single: {"prompt_given"}}
WORDS = ("--train-dataset toy-colours --iterations 3 --lr 2e-3 --seed 7 --method lwf --we --avg-freq 5 --save out "
         "--eval-datasets toy-sizes --max-evaluation-size 9 --workers 2 --train-mode image")


def parts(config):
    command = command_of(config)
    return {Hardware: command.hardware, Weights: command.weights, Data: command.data, Training: command.training,
            Scoring: command.scoring, Files: command.files, Single: single_of(config)}


@pytest.mark.parametrize("kind", COMPUTED)
def test_fields_are_flags_with_their_values(kind):
    config = parse(WORDS.split())
    part = parts(config)[kind]
    names = {field.name for field in dataclasses.fields(kind)}
    assert COMPUTED[kind] <= names and names - COMPUTED[kind] <= {*FLAGS}
    for name in names - COMPUTED[kind]:
        assert getattr(part, name) == config.values[name], name


def test_hooks_have_the_keywords_that_they_take_and_no_others():
    hooks = command_of(parse(WORDS.split())).training.hooks
    assert [row for row, _ in hooks] == [METHODS["lwf"], ADD_ONS["we"]]
    assert [{*keywords} for _, keywords in hooks] == [{*METHODS["lwf"].uses}, {"avg_freq"}]
    assert hooks[1].keywords == {"avg_freq": 5}
    assert command_of(parse("--eval-only --eval-datasets toy-sizes".split())).training.hooks == ()


def test_which_keywords_are_given():
    """Those that no flag gives may be a checkpoint's."""
    scoring = command_of(parse("--eval-only --eval-datasets toy-sizes --T 3".split())).scoring
    assert scoring.keywords_given == {"T": 3.0} and scoring.keywords["T"] == 3.0
    assert {*METHODS["ZSCL"].uses, *METHODS["icarl"].uses} <= {*scoring.keywords}


def test_averages_are_named_as_flags():
    assert command_of(parse(WORDS.split())).training.averages == ("--we",)


def test_a_checkpoint_brings_its_seed_unless_one_is_given():
    command = command_of(parse("--eval-only --eval-datasets toy-colours".split()))
    found = command.as_trained({"seed": 5, "lr": {"": 1.0}})
    assert {found.data.seed, found.scoring.seed, found.files.seed, found.files.numbers["seed"]} == {5}
    assert found.files.flags["seed"] == {"value": 5, "origin": "default"}
    assert {command.data.seed, command.files.numbers["seed"], command.files.flags["seed"]["value"]} == {42}
    given = command_of(parse("--eval-only --eval-datasets toy-colours --seed 3".split()))
    assert given.as_trained({"seed": 5}) is given and command.as_trained({}) is command


@pytest.mark.parametrize(("words", "made", "found"), [
    ("--eval-datasets DTD", "coop", "coop"), ("--eval-datasets DTD", "lists/here", "lists/here"),
    ("--eval-datasets DTD", "split_zhou_DTD.json", None),
    ("--eval-datasets DTD", __file__, None), ("--eval-datasets DTD", None, None),
    ("--eval-datasets DTD --split-file mine", "coop", "mine"), ("--dataset-order mtil-1-coop", "mine", "coop")])
def test_a_checkpoint_brings_its_folder_of_split_files(words, made, found):
    """A split file of one dataset holds for that one only, whatever it is called; a protocol gives what a flag gives.
    """
    command = command_of(parse(f"--eval-only {words}".split())).as_trained({"split_file": made})
    assert command.data.split_file == command.files.numbers["split_file"] == found


def test_a_class_split_is_scored_as_its_seed_has_cut_it(cli, tmp_path):
    words = "--model toy --workers 0 --max-evaluation-size 8 --quiet".split()
    trained = cli("--train-dataset", "toy-colours-1of2", "--iterations", 1, "--seed", 5, "--save", tmp_path, *words)
    assert trained.status == 0, trained.err
    file = tmp_path / "toy-colours-1of2.pth"
    assert cli("--load", file, "--eval-only", "--workers", 0, "--quiet").status == 0
    other = cli("--load", file, "--eval-only", "--workers", 0, "--quiet", "--seed", 6)
    assert other.status == 2 and "give the --seed" in other.err

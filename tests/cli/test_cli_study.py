"""The file of a study: its cells, their names and commands, and one message for each thing that is wrong in it."""

import itertools
import re
import shlex
from pathlib import Path

import pytest
from study_files import jobs_of

from src.args import parse
from src.cli.kinds import SEQUENCE
from src.cli.study import read_study, study_of_seeds
from src.errors import UserError
from src.report.study import refuse_unknown_names, refuse_what_no_table_holds

ROOT = Path(__file__).parents[2]
pytest_plugins = ["cli_fixtures", "study_fixtures"]

GRID = """
name: small
about: A question.
base: {dataset-order: toy, iterations: 7, we: true, image-dir: [a=b, c=d]}
axes:
  recipe: [finetune, lwf]
  lr: {low: 1e-5, high: 1e-4}
  variant: {plain: {}, pulled: {l2: 1, we: false, ls: 0.1}}
  seeds: [1, 2]
exclude:
  - {recipe: lwf, seeds: [2], lr: high}
  - {variant: pulled, lr: low}
report: {names: {lwf_low_plain: LwF}, published: false, columns: [avg], baseline: lwf_low_plain}
"""


@pytest.mark.parametrize(("name", "rows", "cells"), [
    ("toy", 3, 12), ("mtil", 25, 2 * (23 * 3 + 2)), ("xtail", 12, 2 * (10 * 3 + 2)),
    ("fewshot", 11, 2 * (9 * 3 + 2))])
def test_studies_that_come_with_the_program(name, rows, cells):
    """Each cell is accepted by the command line, and a table can hold them."""
    study = read_study(str(ROOT / "studies" / f"{name}.yaml"))
    jobs, warnings = jobs_of(study, "out")
    refuse_what_no_table_holds(jobs)
    refuse_unknown_names(study, jobs)
    assert (len({job.cell.row for job in jobs}), len(jobs), warnings) == (rows, cells, [])


def test_every_study_that_comes_with_the_program_is_counted():
    assert {path.stem for path in (ROOT / "studies").glob("*.yaml")} == {"toy", "mtil", "xtail", "fewshot"}


def test_a_cell_for_each_combination_that_no_rule_excludes(study):
    found = study(GRID)
    expected = ["_".join(labels) for labels in itertools.product(
        ("finetune", "lwf"), ("low", "high"), ("plain", "pulled"), ("seed-1", "seed-2"))
        if not (labels[0] == "lwf" and labels[1] == "high" and labels[3] == "seed-2")
        and not (labels[1] == "low" and labels[2] == "pulled")]
    assert [cell.name for cell in found.cells] == expected and len(expected) == 10
    assert {cell.row for cell in found.cells} == {name.rpartition("_")[0] for name in expected}
    assert {cell.order for cell in found.cells} == {"toy"}
    assert (found.name, found.names, found.published, found.columns, found.baseline) == (
        "small", {"lwf_low_plain": "LwF"}, (), ("avg",), "lwf_low_plain")


def test_the_words_of_a_cell_are_read_as_a_sequence_by_the_command_line(study):
    cell = next(cell for cell in study(GRID).cells if cell.name == "lwf_high_pulled_seed-1")
    words = cell.words("out/x")
    config = parse(words)
    assert config.kind == SEQUENCE and config.resume and config.save == "out/x"
    assert {key for key, origin in config.origins.items() if origin == "flag"} == {
        "recipe", "dataset_order", "iterations", "lr", "seed", "l2", "ls", "image_dir", "save", "resume"}
    assert (config.l2, config.ls, config.we, config.lr, config.seed) == (1.0, 0.1, False, {None: 1e-4}, 1)
    assert config.image_dir == {"a": "b", "c": "d"} and config.method == "lwf"
    assert parse(shlex.split(shlex.join(words))).values == config.values


def test_names_stay_when_values_are_added(study):
    before = {cell.name: cell.texts for cell in study(GRID).cells}
    after = {cell.name: cell.texts for cell in study(GRID.replace("seeds: [1, 2]", "seeds: [9, 2, 1]")).cells}
    assert before.items() <= after.items() and len(after) == 16


def test_orders_are_apart_from_rows(study):
    found = study("base: {method: lwf, iterations: 1}\naxes: {orders: {I: mtil-1, II: [DTD, MNIST]}, seed: [1, 2]}")
    assert [(cell.name, cell.row, cell.order) for cell in found.cells] == [
        (f"{order}_seed-{seed}", "my", order) for order in ("I", "II") for seed in (1, 2)]
    assert parse(found.cells[2].words("out")).dataset_order == ("DTD", "MNIST")


def test_flags_of_the_command_line_go_to_every_cell(study):
    found = study(GRID, {"device": "cpu", "iterations": "9", "resume": True, "save": "out"})
    configs = [parse(cell.words("x")) for cell in found.cells]
    assert {(config.device, config.iterations, config.save) for config in configs} == {("cpu", 9, "x")}
    with pytest.raises(UserError, match="--lr is set by axis lr; leave it out of the command line"):
        study(GRID, {"lr": "1e-3"})


AXES = "axes: {seed: [1, 2]}\n"
LONG = "x" * 60  # as a label may be
WRONG = {
    "no mapping": ("[a]", "expected a mapping with base: and axes:"),
    "no YAML": ("a: [", "line "),
    "unknown key": (f"bsae: {{}}\n{AXES}", "unknown key bsae; did you mean base?"),
    "a list for base": (f"base: [a]\n{AXES}", "base must be a mapping"),
    "no axes": ("base: {dataset-order: toy}", "has no axes:"),
    "empty axes": ("axes:", "axes must be a mapping"),
    "unknown flag": (f"base: {{iteratoins: 3}}\n{AXES}", "base: unknown flag iteratoins; did you mean iterations"),
    "unknown axis": ("axes: {sed: [1]}", "axes: sed: unknown flag sed; did you mean seed"),
    "a variant without its flags": ("axes: {variant: {a: {l2: 1}, b: }}", "variant: b: expected a mapping of flags"),
    "a plain value": ("axes: {seed: 3}", "axes: seed: expected a list of values, or a mapping"),
    "an empty value": ("axes: {seed: [1, '']}", "--seed: expected a value"),
    "a value twice": ("axes: {seed: [1, 1]}", "axes: seed: 1 is given twice"),
    "two values of one name": ("axes: {load: [a/b, a b]}",
                               "load-a-b is given twice, or two values give the same folder name"),
    "a long value": (f"axes: {{load: [{'x' * 70}]}}", "too long for a folder name; give a mapping"),
    "a label that is no name": ("axes: {lr: {a/b: 1}}", "the label a/b becomes part of a folder name"),
    "a flag of the study": (f"base: {{save: x}}\n{AXES}", "base: --save belongs to the whole study"),
    "an export": (f"base: {{export: x}}\n{AXES}", "base: --export would write every cell into one folder"),
    "a switch with a value": (f"base: {{we: 1}}\n{AXES}", "base: --we 1: expected true or false"),
    "two axes of a flag": ("axes: {seed: [1], seeds: [2]}", "axes seed and seeds both set --seed"),
    "base below an axis": (f"base: {{seed: 3}}\n{AXES}", "base has --seed, which axis seed replaces in every cell"),
    "excluding an unknown axis": (f"{AXES}exclude: [{{sed: 1}}]", "exclude: unknown axis sed; did you mean seed?"),
    "excluding an unknown value": (f"{AXES}exclude: [{{seed: 3}}]", "exclude: seed has no value 3; there are 1, 2"),
    "excluding nothing": (f"{AXES}exclude: [{{seed: 1}}, {{seed: 1}}, {{}}]", "expected mappings of axes to values"),
    "excluding a list that no value is": (
        "axes: {orders: {I: [DTD, MNIST], II: toy}}\nexclude: [{orders: [[DTD, MNIST]]}]",
        "exclude: orders has no value DTD,MNIST; there are I, II"),
    "excluding a list of lists": ("axes: {orders: {I: toy}}\nexclude: [{orders: [[[toy]]]}]",
                                  "exclude: orders: expected a value of the axis, or a list of values"),
    "excluding flags": ("axes: {variant: {a: {l2: 1}, b: {}}}\nexclude: [{variant: {l2: 1}}]",
                        "exclude: variant: expected a value of the axis, or a list of values"),
    "a list of lists": ("axes: {orders: [[[toy]]]}", "axes: orders: --dataset-order: expected a value"),
    "two cells of one name": ("axes: {load: {a_b: x, a: y}, model-name: {c: x, b_c: y}}",
                              "axes: two cells are called a_b_c; give other labels"),
    "two cells of one name but for capitals": ("axes: {load: {a: x, A: y}}",
                                               "two cells are called A, but for upper and lower case; give other"),
    "a long name": (f"axes: {{lr: {{{LONG}: 1}}, wd: {{{LONG}: 1}}, l2: {{{LONG}: 1}}, ls: {{{LONG}: 1}}}}",
                    "is too long for a folder name, 243 characters; give shorter labels"),
    "a long order": (f"axes: {{variant: {{a: {{dataset-order: {LONG * 4}}}, b: {{dataset-order: toy, l2: 1}}}}}}",
                     "is too long for a folder name, 240 characters"),
    "excluding all": (f"{AXES}exclude: [{{seed: [1, 2]}}]", "exclude: excludes every cell"),
    "a rule without a cell": ("axes: {seed: [1, 2], lr: {a: 1, b: 2}}\nexclude: [{seed: 1, lr: a}, {seed: [], lr: a}]",
                              "rule 2 excludes no cell"),
    "too many cells": ("axes: {seed: [%s], shot-seed: [%s]}" % ((",".join(map(str, range(101))),) * 2),
                       "more than 10000 cells"),
    "unknown part of the report": (f"{AXES}report: {{name: {{}}}}", "report: unknown key name; did you mean names?"),
    "a column that is no name": (f"{AXES}report: {{columns: [[a]]}}", "report: columns: expected names"),
    "a name that is none": (f"{AXES}report: {{names: {{a: [b]}}}}", "report: names: a: expected its name in tables"),
    "a baseline of two": (f"{AXES}report: {{baseline: [a, b]}}", "report: baseline must be a text"),
    "published by no truth": (f"{AXES}report: {{published: some}}", "published some: expected a list of names, true"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_in_a_file(case, study):
    text, expected = WRONG[case]
    with pytest.raises(UserError) as caught:
        study(text)
    assert expected in str(caught.value) and "my.yaml: " in str(caught.value), str(caught.value)


def test_a_value_that_is_a_list_is_excluded_as_one(study):
    found = study("axes: {orders: [[DTD, MNIST], toy, mtil-1], seed: [1, 2]}\n"
                  "exclude: [{orders: [[DTD, MNIST], toy], seed: 1}]")
    assert [cell.name for cell in found.cells] == ["DTD-MNIST_seed-2", "toy_seed-2", "mtil-1_seed-1", "mtil-1_seed-2"]


def test_the_file_of_the_document(study):
    text = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    example, selecting = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert len(study(selecting).select.trials) == 3 * 1 * 2 * 3
    found = study(example)
    assert len(found.cells) == 3 * 2 * 2 * 3 - 2 * 3 and "zscl_low_plain_seed-1" in [cell.name for cell in found.cells]
    refuse_what_no_table_holds(jobs(found)[0])
    refuse_unknown_names(found, jobs(found)[0])


@pytest.mark.parametrize("path", sorted((ROOT / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_studies_that_come_with_the_framework(path):
    found = read_study(str(path))
    planned, warnings = jobs(found)
    refuse_what_no_table_holds(planned)
    refuse_unknown_names(found, planned)
    assert not warnings and found.name == path.stem


# -- cells as runs -----------------------------------------------------------------------------------------------------


def jobs(study, **options):
    return jobs_of(study, options.get("save", "out"))


def test_a_job_knows_what_its_files_are_called(study):
    found, warnings = jobs(study("base: {dataset-order: 'toy-colours/2,toy-sizes', iterations: 7, batch-size: 16, "
                                 "train-mode: text, memory-size: 3}\n" + AXES))
    assert [str(job.folder) for job in found] == ["out/seed-1", "out/seed-2"]
    assert (found[0].tasks, found[0].iterations, found[0].batch_size, found[0].pairs) == (
        ("toy-colours-1of2", "toy-colours-2of2", "toy-sizes"), 7, 16, False)
    assert [job.numbers["seed"] for job in found] == [1, 2]
    assert "--memory-size has no effect with --method finetune" in warnings and len(set(warnings)) == len(warnings)


@pytest.mark.parametrize(("text", "expected"), [
    ("base: {train-dataset: DTD, iterations: 1}", "cell seed-1 of the study: is a training run; a study compares"),
    ("base: {dataset-order: toy, eval-only: true}", "is an evaluation run"),
    ("base: {dataset-order: toy, lr: abc}", "cell seed-1 of the study: --lr abc: expected a rate"),
    ("base: {dataset-order: toy, method: ZSCL, ref-dataset: toy-reference, lora: true, orthogonal-gradients: 3}",
     "cell seed-1 of the study: --lora and --orthogonal-gradients exclude each other"),
    ("base: {dataset-order: toy, recipe: zscl, we: false}", "--we should be off, but recipe zscl switches it on")])
def test_a_cell_that_would_be_refused(text, expected, study):
    with pytest.raises(UserError) as caught:
        jobs(study(f"{text}\n{AXES}"))
    assert expected in str(caught.value), str(caught.value)


def test_several_seeds_are_a_study(cli, tmp_path):
    words = "--recipe lwf --dataset-order toy --lr 1e-5,toy-sizes=1e-4 --image-loss --seed 1,2,3".split()
    done = cli(*words, "--save", tmp_path / "s", "--dry-run", "--jobs", 2)
    assert done.status == 0 and not done.warnings and not done.err
    commands = [shlex.split(line) for line in done.out.splitlines() if not line.startswith("#")]
    assert [line for line in done.out.splitlines() if line.startswith("#")] == ["# seed-1", "# seed-2", "# seed-3"]
    for seed, command in zip((1, 2, 3), commands, strict=True):
        assert command[:3] == ["python", "-m", "src.main"]
        alone = parse([*words[:-1], str(seed), "--save", str(tmp_path / "s" / f"seed-{seed}"), "--resume"])
        assert parse(command[3:]).values == alone.values
    assert not (tmp_path / "s").exists()
    [row] = {cell.row for cell in study_of_seeds({"seed": "1,2", "recipe": "lwf"}).cells}
    assert row == "lwf"


@pytest.mark.parametrize(("words", "expected"), [
    ("--seed 1,2 --dataset-order toy", "--seed 1,2 writes a folder per run; give --save DIR"),
    ("--seed 1,2 --train-dataset DTD --iterations 1 --save s", "is a training run; a study compares sequences"),
    ("--seed 1,2 --dataset-order toy --eval-only --save s", "is an evaluation run"),
    ("--seed 1,2 --dataset-order toy --save s --export e", "--seed 1,2: --export would write every cell"),
    ("--seed 1,2 --dataset-order toy --save s --dry-run probe", "probe with --seed 1,2: it probes a single run"),
    ("--recipe seeds.yaml --dataset-order toy --save s", "--seed 1,2: a sequence run takes one"),
    ("--study seeds.yaml --save s --overwrite",
     "--study seeds.yaml with --overwrite: the cells of a study resume; delete their folders, or give another --save"),
    ("--seed 1,2 --dataset-order toy --save s --overwrite", "--seed 1,2 with --overwrite: the cells of a study resume"),
    ("--study none.yaml --save s", "--study none.yaml: no such file"),
    ("--study seeds.yaml --save s", "--study seeds.yaml: unknown key flags; there are"),
    ("--study seeds.yaml", "--study seeds.yaml writes a folder per run"),
    ("--study seeds.yaml --save seeds.yaml", "--save seeds.yaml: is a file"),
    ("--study seeds.yaml --save s --status --dry-run", "--status and --dry-run exclude each other")])
def test_what_is_refused_on_the_command_line(words, expected, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seeds.yaml").write_text("flags: {seed: 1,2}".replace("1,2", "'1,2'"), encoding="utf-8")
    done = cli(*words.split())
    assert done.status == 2 and expected in done.err and len(done.err.splitlines()) == 1, done.err
    assert [path.name for path in tmp_path.iterdir()] == ["seeds.yaml"]


def test_a_flag_without_effect_is_warned_of_once(cli, tmp_path):
    done = cli("--seed", "1,2", "--dataset-order", "toy", "--class-names", "a", "--save", tmp_path / "s", "--dry-run")
    assert done.status == 0
    assert done.warnings == ["warning: --class-names has no effect in a sequence run"]


def test_a_study_under_torchrun_is_refused(cli, monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("src.machine.ending.several_processes", lambda: False)
    done = cli("--seed", "1,2", "--dataset-order", "toy", "--save", tmp_path / "s")
    assert done.status == 2 and "--seed 1,2 with several processes: a study starts its own" in done.err


def test_one_seed_is_the_run_that_it_was():
    config = parse("--dataset-order toy --seed 7".split())
    assert config.kind == SEQUENCE and config.seed == 7 and config.numbers()["seed"] == 7

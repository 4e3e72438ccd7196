"""ARGUMENTS.md is what its generator writes, names every flag of the parser with its default, and its examples act."""

import re
from pathlib import Path

import pytest

from scripts import arguments
from scripts.marks import between_marks
from src.args import build_parser, parse, resolve
from src.cli.checks import check
from src.cli.flags import FLAGS
from src.cli.texts import shown, shown_default

DOCUMENT = arguments.DOCUMENT.read_text(encoding="utf-8")
FILES = ("load", "ref_model", "eval_single", "class_names", "model_config", "split_file", "shots_file",
         "orthogonal_gradients_path", "study")


def documented(text):
    """{flag: default} of the rows ``| `--flag` | default | ...``, backticks around the default allowed."""
    rows = re.findall(r"^\| *`(--[A-Za-z][\w-]*)` *\|([^|]*)\|", text, re.MULTILINE)
    assert len(rows) == len(dict(rows)), "a flag has two rows"
    return {flag: default.strip().strip("`") for flag, default in rows}


def test_rows_are_read():
    assert documented("| `--lr` | 0.001 | yes |\n|`--x`| `off` |\ntext `--y` | z |") == {"--lr": "0.001", "--x": "off"}


def test_the_document_is_what_the_generator_writes(tmp_path, monkeypatch, capsys):
    stale = between_marks(DOCUMENT, arguments.MARK, "old")
    monkeypatch.setattr(arguments, "DOCUMENT", tmp_path / "ARGUMENTS.md")
    arguments.DOCUMENT.write_text(stale, encoding="utf-8")
    arguments.main(["--write"])
    assert arguments.DOCUMENT.read_text(encoding="utf-8") == DOCUMENT, "python scripts/arguments.py --write"
    arguments.main([])
    assert capsys.readouterr().out.strip() in DOCUMENT


def test_it_names_every_flag_of_the_parser_with_its_true_default_and_no_other():
    found = documented(DOCUMENT)
    assert found.keys() == {name for action in build_parser()._actions for name in action.option_strings} - {
        "-h", "--help", "--version"}
    assert found == {flag.name: shown_default(flag) for flag in FLAGS.values()}
    values = resolve({}).values
    for flag in FLAGS.values():
        assert flag.shown is not None or found[flag.name] == shown(values[flag.key]), flag.name


def test_it_is_grouped_as_help_is():
    titles = [group.title for group in build_parser()._action_groups if group._group_actions][1:]
    assert [arguments.heading(title) for title in titles] == re.findall("^## (.+)$", arguments.tables(), re.MULTILINE)


def test_the_head_says_what_examples_are_added_to():
    assert f"    python -m src.main {arguments.RUN}\n" in DOCUMENT


@pytest.mark.parametrize("flag", FLAGS.values(), ids=lambda flag: flag.name)
def test_the_example_of_a_flag_acts(flag, tmp_path, monkeypatch):
    """It parses, contradicts nothing, and no word of it is without effect."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CXX", "sh")  # --compile asks whether there is a compiler; none is called
    config = parse(arguments.command_line(flag))
    for path in filter(None, (config.values[key] for key in FILES)):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()
    if config.rescore:
        Path(config.rescore).mkdir(parents=True)
    for code in (config.method, *config.hooks):
        if ".py:" in code:
            Path(code.partition(":")[0]).touch()
    assert not [warning for warning in check(config).warnings if "no effect" in warning]
    assert config.given(flag.key) and config.kind in flag.runs


def test_an_example_does_not_repeat_the_default():
    for flag in FLAGS.values():
        value = parse(arguments.command_line(flag)).values[flag.key] if flag.name != "--recipe" else "zscl"
        assert value != flag.default, flag.name


@pytest.mark.parametrize(("name", "users"), [
    ("--avg-freq", "`--we`, `--we-wise`"), ("--T", "lwf, ZSCL, icarl"), ("--we", "training"), ("--modx-alpha", "modx"),
    ("--ref-wise-alpha", "ZSCL with `--ref-wise`"), ("--lora-shared-split-qkvo", "`--lora`, `--lora-shared`"),
    ("--linear-lr", "`--linear-eval`"), ("--orthogonal-dtype", "`--orthogonal-gradients`"),
    ("--eval-single", "one image"), ("--deterministic", "training, evaluation, one image")])
def test_who_uses_a_flag(name, users):
    assert arguments.users(FLAGS[name[2:].replace("-", "_")]) == users

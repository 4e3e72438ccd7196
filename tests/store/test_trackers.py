"""TensorBoard, whose files are read back by its own package, and Weights & Biases, for which a module stands in that
notes what it is asked: the real one wants an account, or writes a private format."""

import importlib.machinery
import json
import sys
import time
from types import ModuleType, SimpleNamespace

import pytest
from cli_files import BATCH, RATE, STEPS, lines, listing, read_json

from src.args import parse
from src.errors import UserError
from src.models.evaluation import Scores
from src.run.build import files_of
from src.store.trackers import Trackers, open_trackers

pytest_plugins = ["cli_fixtures"]


def scalars(folder):
    """{tag: {step: value}} as TensorBoard shows a folder of event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


@pytest.fixture
def wandb(monkeypatch):
    """A module that replaces wandb -> calls, [(what, how)]"""
    calls, module = [], ModuleType("wandb")
    module.__spec__ = importlib.machinery.ModuleSpec("wandb", None)

    def init(**options):
        calls.append(("init", options))
        return SimpleNamespace(
            log=lambda numbers, step: calls.append((step, numbers)),
            finish=lambda exit_code: calls.append(("finish", exit_code)),
            summary=SimpleNamespace(update=lambda numbers: calls.append(("summary", numbers))))
    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    for name in ("WANDB_PROJECT", "WANDB_NAME", "WANDB_DIR", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    return calls


def of_kind(calls, kind):
    return [how for what, how in calls if what == kind]


# -- TensorBoard -------------------------------------------------------------------------------------------------------


def test_tensorboard_has_what_the_log_has(train, tmp_path):
    done = train(tmp_path, "--tensorboard", "--log-interval", 1, "--eval-interval", 2)
    assert done.status == 0, done.err
    found, log = scalars(tmp_path / "tensorboard" / "colours"), lines(tmp_path / "log_colours.jsonl")
    assert found["train/task"] == {line["iteration"]: pytest.approx(line["task"]) for line in log}
    assert found["train/lr"][1] == pytest.approx(RATE) and found["train/images_per_second"].keys() == {1, 2, 3}
    top1 = read_json(tmp_path / "run_colours.json")["scores"]["colours"]["task"]["top1"]
    assert found["colours/task/top1"].keys() == {2, STEPS}
    assert found["colours/task/top1"][STEPS] == pytest.approx(top1)


def test_tensorboard_of_a_sequence(cli, world, tmp_path):
    done = cli("--load", world.model, "--dataset-order", f"{world.colours},{world.tones}", "--iterations", 2, "--lr",
               RATE, "--batch-size", BATCH, "--workers", 0, "--save", tmp_path, "--tensorboard")
    assert done.status == 0, done.err
    place, summary = tmp_path / "tensorboard", read_json(tmp_path / "summary.json")
    assert listing(place) >= {"colours", "tones", "evaluation", "sequence"}
    assert scalars(place / "sequence") == {f"task/{name}": {2: pytest.approx(summary[name])} for name in (
        "transfer", "avg", "last", "forgetting", "bwt")}
    assert scalars(place / "evaluation")["tones/task/top1"] == {0: pytest.approx(summary["zero_shot"]["tones"])}


def tensorboard(save, *words):
    return open_trackers(files_of(parse(["--train-dataset", "DTD", "--save", str(save), "--tensorboard", *words])))


def next_second():
    """Whose files TensorBoard reads after those of this one, which it names by the second."""
    time.sleep(1.05 - time.time() % 1)


def test_what_goes_on_hides_what_comes_after(tmp_path):
    for after, value in ((0, 1.0), (3, 2.0)):
        next_second()
        with tensorboard(tmp_path) as trackers:
            trackers.begin("other")
            trackers.line({"iteration": 9, "loss": value})
            trackers.begin("DTD", after)
            for iteration in range(after + 1, 6):
                trackers.line({"iteration": iteration, "loss": value})
    assert scalars(tmp_path / "tensorboard" / "DTD") == {"train/loss": {1: 1.0, 2: 1.0, 3: 1.0, 4: 2.0, 5: 2.0}}
    assert scalars(tmp_path / "tensorboard" / "other") == {"train/loss": {9: 2.0}}


@pytest.mark.parametrize("after", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_what_goes_on_hides_steps_that_it_does_not_reach(after, tmp_path):
    for steps in (range(1, 6), range(after + 1, 5)):
        next_second()
        with tensorboard(tmp_path) as trackers:
            trackers.begin("DTD", after if steps.start > 1 else 0)
            for iteration in steps:
                trackers.line({"iteration": iteration, "loss": 1.0})
    assert [*scalars(tmp_path / "tensorboard" / "DTD")["train/loss"]] == [1, 2, 3, 4]


def test_tensorboard_needs_a_folder(cli, world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cli("--load", world.model, "--train-dataset", world.colours, "--iterations", 1, "--lr", RATE,
               "--tensorboard")
    assert done.status == 2 and "--save DIR" in done.err and not listing(tmp_path)


@pytest.mark.parametrize(("flag", "module"), [("--tensorboard", "torch.utils.tensorboard"), ("--wandb", "wandb")])
def test_a_package_that_is_missing(train, tmp_path, monkeypatch, flag, module):
    monkeypatch.setitem(sys.modules, module, None)
    done = train(tmp_path / "out", flag)
    assert done.status == 2 and not (tmp_path / "out").exists()
    assert done.err.startswith(f"error: {flag} needs the package") and f"pip install {flag[2:]}" in done.err


# -- Weights & Biases --------------------------------------------------------------------------------------------------


def test_wandb_of_a_sequence(cli, world, tmp_path, wandb):
    """The steps of the second task come behind those of the first."""
    done = cli("--load", world.model, "--dataset-order", f"{world.colours},{world.tones}", "--iterations", 2, "--lr",
               RATE, "--batch-size", BATCH, "--workers", 0, "--save", tmp_path, "--wandb", "--log-interval", 1)
    assert done.status == 0, done.err
    (options,), summary = of_kind(wandb, "init"), read_json(tmp_path / "summary.json")
    assert options["project"] == "clip-continual" and options["name"] == tmp_path.name
    assert options["config"]["lr"] == {"": RATE} and options["config"]["wandb"] is True
    assert options["id"] == read_json(tmp_path / "wandb_run.json")["id"] and options["dir"] == str(tmp_path)
    json.dumps(options["config"])
    log = lines(tmp_path / "log_tones.jsonl")
    trained = [(step, numbers["train/task"]) for step, numbers in wandb if isinstance(step, int)
               and "train/task" in numbers]
    assert trained[2:] == [(2 + line["iteration"], line["task"]) for line in log] and len(trained) == 4
    steps = [step for step, _ in wandb if isinstance(step, int)]
    assert steps == sorted(steps)
    scored = {step: numbers for step, numbers in wandb if isinstance(step, int) and "tones/task/top1" in numbers}
    assert scored[0]["tones/task/top1"] == summary["zero_shot"]["tones"]
    assert scored[4]["tones/task/top1"] == summary["matrix"][1][1]
    assert of_kind(wandb, "summary") == [{f"task/{name}": summary[name] for name in (
        "transfer", "avg", "last", "forgetting", "bwt")}]
    assert wandb[-1] == ("finish", 0)


def wandb_tracker(save, *words):
    return open_trackers(files_of(parse(["--train-dataset", "DTD", "--save", str(save), "--wandb", *words])))


def test_resume_goes_on_with_the_same_run(tmp_path, wandb):
    for words, after in ((), 0), (("--resume",), 5), ((), 0):
        with wandb_tracker(tmp_path, *words) as trackers:
            trackers.begin("DTD", after, before=100)
            trackers.line({"iteration": after + 1, "loss": 1.0})
    first, resumed, anew = (options["id"] for options in of_kind(wandb, "init"))
    assert first == resumed != anew
    assert [step for step, _ in wandb if isinstance(step, int)] == [101, 106, 101]
    assert all(options["resume"] == "allow" for options in of_kind(wandb, "init"))


def test_steps_never_go_back(tmp_path, wandb):
    """Of what is scored after the last task, say: theirs refuses a step before the newest."""
    with wandb_tracker(tmp_path) as trackers:
        trackers.begin("tones", before=100)
        for iteration in (1, 9, 4):
            trackers.line({"iteration": iteration, "loss": 1.0})
    assert [step for step, _ in wandb if isinstance(step, int)] == [101, 109, 109]


@pytest.mark.parametrize("content", ["", "{}", "[1]", "3"])
def test_a_damaged_name_of_the_run_is_told(content, tmp_path, wandb, capsys):
    (tmp_path / "wandb_run.json").write_text(content)
    with wandb_tracker(tmp_path, "--resume") as trackers:
        trackers.line({"iteration": 1})
    assert "wandb_run.json does not name the interrupted run of W&B" in capsys.readouterr().err
    options, = of_kind(wandb, "init")
    assert options["id"] == read_json(tmp_path / "wandb_run.json")["id"]


def test_variables_of_wandb_come_first(tmp_path, wandb, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_DIR", "elsewhere")
    with wandb_tracker(tmp_path) as trackers:
        trackers.line({"iteration": 1})
    options, = of_kind(wandb, "init")
    assert not {"project", "dir"} & options.keys() and options["name"] == tmp_path.name


def test_a_failure_is_told(tmp_path, wandb):
    with pytest.raises(KeyboardInterrupt), wandb_tracker(tmp_path) as trackers:
        trackers.line({"iteration": 1})
        raise KeyboardInterrupt
    assert wandb[-1] == ("finish", 1)


# -- all ---------------------------------------------------------------------------------------------------------------


def test_several_scores_at_one_step_are_told_apart():
    told = []
    trackers = Trackers([SimpleNamespace(log=lambda *what: told.append(what))])
    trackers.scores("evaluation", 7, {"DTD": {"all": Scores(50.0, 75.0, 5, 8)}}, "wise 0.5")
    assert told == [("evaluation", 7, {"DTD/all/top1 wise 0.5": 50.0, "DTD/all/top5 wise 0.5": 75.0})]


def test_only_the_first_process_has_trackers(tmp_path, wandb):
    config = parse(["--train-dataset", "DTD", "--save", str(tmp_path), "--wandb", "--tensorboard"])
    with open_trackers(files_of(config), writes=False) as trackers:
        trackers.begin("DTD")
        trackers.line({"iteration": 1, "loss": 1.0})
    assert not wandb and not listing(tmp_path)


def test_nothing_is_imported_unasked(train, tmp_path, monkeypatch):
    for name in ("tensorboard", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)
    assert train(tmp_path).status == 0


def test_unknown_flag_values():
    with pytest.raises(UserError, match="--tensorboard"):
        parse(["--tensorboard=yes"])

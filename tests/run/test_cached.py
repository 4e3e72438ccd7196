"""--task-cache: a task that another run has trained is taken from there, and leaves what a training would leave."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import ranks
import torch
from cli_files import BATCH, RATE, STEPS, lines, read_json, write_pictures

from src.models import training
from src.run import scoring
from src.run.scoring import Scorer
from src.store.task_cache import SCORES, TASK

pytest_plugins = ["cli_fixtures"]

ROOT = Path(__file__).parents[2]
# What tells times, hosts and commands, and what the cache itself adds.
OWN = {"date", "seconds", "peak_memory_bytes", "flags", "command", "task_cache", "tasks_from_cache"}
DRAWN = (".png", ".html")
EXPERTS = ("--method", ROOT / "examples/methods/experts.py:Experts")


@pytest.fixture(scope="module")
def tasks(world, tmp_path_factory):
    """{letter: dataset} of four tasks that are small and unlike."""
    root = tmp_path_factory.mktemp("tasks")
    for name, hues in (("lights", {"light": 0.2, "dark": 0.7}), ("blues", {"blue": 0.55, "cold": 0.5, "dark": 0.65})):
        write_pictures(root / name / "train", hues, 5)
        write_pictures(root / name / "test", hues, 3)
    return {"A": world.colours, "B": world.tones, "C": f"folder:{root / 'lights'}", "D": f"folder:{root / 'blues'}"}


@pytest.fixture
def run(cli, world, tasks, tmp_path):
    """run(place, tasks or words, word, ..., cache) -> folder, trained, taken: the files of tasks. The folder of every
    run has the same name, which pictures and pages show."""
    def call(place, order, *words, cache=True, status=0):
        folder = tmp_path / place / "run"
        data = ("--dataset-order", ",".join(tasks[letter] for letter in order)) if isinstance(order, str) else order
        shared = ("--task-cache", tmp_path / "cache") if cache else ()
        start = () if "--model" in words else ("--load", world.model)
        length = () if {"--epochs", "--iterations"} & {*words} else ("--iterations", STEPS)
        steps = () if "ridge" in words else (*length, "--lr", RATE, "--warmup-length", 0)
        done = cli(*start, *data, *steps, "--batch-size", BATCH, "--workers", 0, "--quiet", "--log-interval", 1,
                   "--save", folder, *shared, *words)
        assert done.status == status, done.err
        return SimpleNamespace(folder=folder, trained=re.findall(r"(\S+): \d+ steps in", done.out),
                               taken=re.findall(r"(\S+): taken from", done.out), out=done.out, err=done.err,
                               warnings=done.warnings)
    return call


def left(folder):
    """{file: content} that a run leaves, without times, hosts and commands."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.name.startswith("run") and path.suffix == ".json":
            found[path.name] = {key: value for key, value in read_json(path).items() if key not in OWN}
        elif path.name.startswith("log_"):
            found[path.name] = [line | {"images_per_second": 0} for line in lines(path)]
        elif path.is_file() and path.suffix not in DRAWN:
            found[path.name] = path.read_bytes()
    return found


def assert_same(one, other):
    one, other = left(one.folder), left(other.folder)
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []


def prefixes(orders):
    return {order[:length + 1] for order in orders for length in range(len(order))}


def check_orders(run, orders, *words):
    """Each distinct prefix is trained once, and the folders are those of separate runs."""
    trained = []
    for order in orders:
        shared, alone = run(f"shared-{order}", order, *words), run(f"alone-{order}", order, *words, cache=False)
        assert len(alone.trained) == len(order) and not alone.taken
        assert len(shared.trained) + len(shared.taken) == len(order)
        trained += shared.trained
        assert_same(shared, alone)
        assert read_json(shared.folder / "run.json")["tasks_from_cache"].keys() == {*shared.taken}
    assert len(trained) == len(prefixes(orders))


def test_two_orders_train_their_common_prefix_once(run):
    check_orders(run, ["AB", "AC"])


@pytest.mark.slow
@pytest.mark.parametrize("words", [
    ("--method", "ewc", "--we", "--avg-freq", 2, "--label-space", "task,seen,all"),
    ("--method", "icarl", "--memory-size", 12),
    ("--orthogonal-gradients", 2, "--keep-carry", "last")], ids=["ewc", "icarl", "projected"])
def test_five_orders_train_each_distinct_prefix_once(run, words):
    check_orders(run, ["ABC", "ACB", "ABD", "BAC", "AB"], *words)


TAKEN = {
    "lora": ("AB", "--lora", "--l2", 0.1),
    "head": ("AB", "--train-mode", "image-fc"),
    "shots": ("AB", "--shots", 2, "--epochs", 1),
    "closed form": ("AB", "--method", "ridge", "--label-space", "task,all"),
    "wrapped layers": ("AB", "--method", "inflora", "--inflora-rank", 2),
    "own modules": ("AB", *EXPERTS, "--label-space", "task,all"),
    "teacher": ("AB", "--method", "ZSCL", "--ref-dataset", "toy-reference", "--ref-sentences", "toy-reference",
                "--ref-size", 20, "--ref-batch-size", 10),
    "one task": (("--train-dataset", "toy-colours"), "--max-evaluation-size", 16),
    "pairs": ("pairs", "--num-phases", 2, "--method", "modx"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", TAKEN)
def test_a_task_that_is_taken_leaves_what_its_training_left(run, world, pairs, case):
    order, *words = TAKEN[case]
    order = ("--train-dataset", pairs) if order == "pairs" else order
    words += ["--ref-model", world.model] if case == "teacher" else []
    first, second = run("first", order, *words), run("second", order, *words)
    assert first.trained and not first.taken and not second.trained and second.taken == first.trained
    assert_same(second, first)


# -- what is taken -----------------------------------------------------------------------------------------------------


def test_a_run_says_what_it_takes(run):
    first, second = run("first", "A"), run("second", "A")
    told, told_first = (read_json(done.folder / "run_colours.json")["task_cache"] for done in (second, first))
    assert (told["taken"], told_first["taken"]) == (True, False) and told["key"] == told_first["key"]
    assert f"colours: taken from --task-cache ({told['key'][:12]}), not trained: colours" in second.out
    assert read_json(second.folder / "run.json")["tasks_from_cache"] == {"colours": told["key"]}
    assert read_json(first.folder / "run.json")["tasks_from_cache"] == {}
    again = run("second", "A", "--resume")
    assert not again.taken and not again.trained
    assert read_json(second.folder / "run.json")["tasks_from_cache"] == {"colours": told["key"]}


BEFORE = "scores before training, taken from --task-cache"


def test_weights_before_training_are_scored_once(run, monkeypatch):
    """By any method, dataset by dataset. Other prompts, and methods that score in their own way, have other scores."""
    scored, plain = [], Scorer.checkpoint

    def counted(scorer, *given, **options):
        scored.extend(scorer.evaluated)
        return plain(scorer, *given, **options)
    monkeypatch.setattr(Scorer, "checkpoint", counted)
    first, other, more = run("first", "A"), run("other", "A", "--method", "lwf"), run("more", "AB")
    assert [BEFORE in done.out for done in (first, other, more)] == [False, True, True]
    assert [name.rpartition("/")[2] for name in scored] == ["colours", "tones"]
    assert_same(more, run("alone", "AB", cache=False))
    for place, *words in (("prompts", "--template", "all:a {c}."), ("ridge", "--method", "ridge"),
                          ("first", "--overwrite")):
        assert BEFORE not in run(place, "A", *words).out


def test_which_method_scores_the_weights_before_training_is_told_each_time(run, tmp_path):
    trained = run("ridge", "A", "--method", "ridge").folder / "colours.pth"
    words = ("--load", trained, "--method", "lwf")
    told = [run(place, "B", *words).out for place in ("first", "second")]
    assert all("note: the checkpoint was made by --method ridge" in out and BEFORE not in out for out in told)
    taken = run("third", "B", *words, "--skip-bad-images").out
    assert "note: tasks taken from --task-cache do not repeat" in taken and "does not say" not in told[1]


MISSES = {"seed": ("--seed", 2), "rate": ("--lr", 8e-5), "length": ("--iterations", STEPS + 1),
          "add-on": ("--l2", 0.1), "method": ("--method", "ewc")}
HITS = {"number of images scored": ("--max-evaluation-size", 6),
        "label space": ("--label-space", "all,task"), "other data scored": ("--eval-datasets", "toy-colours")}


@pytest.mark.slow
def test_what_changes_its_numbers_is_trained_and_what_does_not_is_taken(run, monkeypatch):
    run("first", "A")
    found = {name: run(name, "A", *words) for name, words in {**MISSES, **HITS}.items()}
    assert {name for name, done in found.items() if done.trained} == MISSES.keys()
    assert {name for name, done in found.items() if done.taken} == HITS.keys()
    monkeypatch.setattr("src.run.task_key.code_digest", lambda: "other code")
    assert run("other code", "A").trained


@pytest.mark.slow
def test_other_weights_to_start_from_are_trained(run, world, tmp_path):
    run("first", "A")
    content = torch.load(world.model, weights_only=True)
    torch.save(content, tmp_path / "copy.pth")
    content["state_dict"]["logit_scale"] += 1e-6
    torch.save(content, tmp_path / "other.pth")
    assert run("other", "A", "--load", tmp_path / "other.pth").trained
    assert run("copy", "A", "--load", tmp_path / "copy.pth").taken


@pytest.mark.slow
def test_scores_that_are_there_are_not_made_again(run, monkeypatch):
    """After the task that both orders begin with, only what the second alone scores is scored. What ends an order is
    scored again, for its predictions."""
    scored, evaluate_each = [], scoring.evaluate_each

    def noted(model, datasets, *others):
        scored.append(sorted(datasets))
        return evaluate_each(model, datasets, *others)
    run("first", "AB")
    monkeypatch.setattr(scoring, "evaluate_each", noted)
    run("second", "AC")
    assert scored == [["lights"], ["lights"], ["colours", "lights"]]  # the start, A, C
    scored.clear()
    assert run("third", "AC").taken == ["colours", "lights"]
    assert scored == [["colours", "lights"]]


# -- what the cache cannot serve ---------------------------------------------------------------------------------------


def entries(tmp_path, kind=TASK):
    return sorted((tmp_path / "cache").glob(f"*{kind}"))


@pytest.mark.slow
def test_a_damaged_entry_is_trained_again_and_replaced(run, tmp_path):
    first = run("first", "A")
    path, = entries(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    second = run("second", "A")
    assert second.trained == ["colours"] and any("is damaged" in line for line in second.warnings)
    assert_same(second, first)
    assert run("third", "A").taken == ["colours"]
    path.with_suffix(SCORES).write_text("{}", encoding="utf-8")
    fourth = run("fourth", "A", "--eval-datasets", "toy-sizes", "--max-evaluation-size", 8)
    assert fourth.taken == ["colours"] and any("scored again" in line for line in fourth.warnings)


@pytest.mark.slow
def test_overwrite_trains_and_replaces_the_entry(run, tmp_path):
    run("first", "A")
    path, = entries(tmp_path)
    before = path.stat().st_ino
    again = run("first", "A", "--overwrite")
    assert again.trained == ["colours"] and path.stat().st_ino != before
    assert run("second", "A").taken == ["colours"]


@pytest.mark.slow
@pytest.mark.parametrize("words", [("--eval-interval", 1), ("--eval-every-epoch",)])
def test_scores_between_steps_are_not_shared(run, tmp_path, words):
    done = run("first", "A", *words)
    assert done.trained and "note: --task-cache does nothing with --eval-interval" in done.out
    assert not entries(tmp_path)


def test_a_folder_that_cannot_be_written_is_refused_before_training(run, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    done = run("first", "A", "--task-cache", tmp_path / "file" / "cache", status=2)
    assert "--task-cache" in done.err and "cannot be written" in done.err and not done.folder.exists()
    done = run("second", "A", "--task-cache", tmp_path / "file", status=2)
    assert "is a file, not a folder" in done.err


def test_it_needs_a_folder_to_copy_to(cli, world, tmp_path):
    folder = tmp_path / "cache"
    done = cli("--load", world.model, "--dataset-order", world.colours, "--iterations", 1, "--task-cache", folder)
    assert done.status == 2 and "are written to --save DIR; give it" in done.err and not folder.exists()


PEEKS = """
from src.models.finetune import Finetune

class Peeks(Finetune):
    def begin(self, state):
        super().begin(state)
        state.open_task("{name}")
"""


@pytest.mark.slow
def test_a_method_that_opens_what_no_flag_names_is_not_kept(run, tasks, tmp_path):
    """Its own task it may open."""
    (tmp_path / "peeks.py").write_text(PEEKS.format(name="toy-sizes"), encoding="utf-8")
    done = run("first", "A", "--method", f"{tmp_path / 'peeks.py'}:Peeks")
    assert done.trained and "not kept in --task-cache: the method opens toy-sizes, named by no flag" in done.out
    assert not entries(tmp_path)
    (tmp_path / "looks.py").write_text(PEEKS.format(name=tasks["A"]), encoding="utf-8")
    method = ("--method", f"{tmp_path / 'looks.py'}:Peeks")
    run("second", "A", *method)
    assert run("third", "A", *method).taken == ["colours"]
    with (tmp_path / "looks.py").open("a", encoding="utf-8") as file:
        file.write("# another text\n")
    assert run("fourth", "A", *method).trained == ["colours"]


# -- interruptions -----------------------------------------------------------------------------------------------------


def interrupt(monkeypatch, run, place, order="A"):
    """A run that is asked to end in the second step that it trains."""
    seed_step, steps = training.seed_step, []

    def stop(state):
        steps.append(state.iteration)
        if len(steps) == 2:
            state.signals.name = "SIGTERM"
        seed_step(state)
    with monkeypatch.context() as patched:
        patched.setattr(training, "seed_step", stop)
        done = run(place, order, "--save-interval", 1, status=75)
    assert list(done.folder.glob("resume_*.pth"))
    return done


@pytest.mark.slow
def test_an_interrupted_task_resumes_and_is_kept(run, monkeypatch, tmp_path):
    whole = run("whole", "A", cache=False)
    interrupt(monkeypatch, run, "first")
    assert not entries(tmp_path)
    resumed = run("first", "A", "--resume")
    assert "resumes after step" in resumed.out and resumed.trained
    assert_same(resumed, whole)
    second = run("second", "A")
    assert second.taken == ["colours"]
    assert_same(second, whole)


@pytest.mark.slow
def test_one_that_another_run_has_finished_meanwhile_is_taken(run, monkeypatch, world):
    """With --resume a point of another configuration is refused as ever, and nothing is lost."""
    stopped = interrupt(monkeypatch, run, "first")
    whole = run("second", "A")
    assert whole.trained
    refused = run("first", "A", "--resume", "--eval-datasets", world.colours, status=2)
    assert "was made with another configuration" in refused.err and (stopped.folder / "resume_colours.pth").exists()
    resumed = run("first", "A", "--resume")
    assert resumed.taken == ["colours"] and not (stopped.folder / "resume_colours.pth").exists()
    assert_same(resumed, whole)


@pytest.mark.slow
def test_a_task_whose_first_steps_are_of_other_code_is_not_kept(run, monkeypatch, tmp_path):
    with monkeypatch.context() as patched:
        patched.setattr("src.run.task_key.code_digest", lambda: "other code")
        interrupt(patched, run, "first")
    done = run("first", "A", "--resume")
    assert done.trained and "colours is not kept in --task-cache: it was resumed" in done.out and not entries(tmp_path)


@pytest.mark.slow
def test_a_run_that_takes_the_first_task_goes_on_when_it_is_interrupted(run, monkeypatch):
    """The second task of an order whose first was taken."""
    run("first", "A")
    whole = run("whole", "AB", cache=False)
    assert interrupt(monkeypatch, run, "second", "AB").taken == ["colours"]
    assert_same(run("second", "AB", "--resume"), whole)


@pytest.mark.slow
def test_two_runs_at_once_train_each_task_once(tasks, world, tmp_path):
    words = [sys.executable, "-m", "src.main", "--load", world.model, "--dataset-order", f"{tasks['A']},{tasks['B']}",
             "--iterations", "40", "--batch-size", str(BATCH), "--lr", str(RATE), "--warmup-length", "0", "--workers",
             "0", "--device", "cpu", "--quiet", "--log-interval", "1", "--task-cache", tmp_path / "cache"]
    runs = [subprocess.Popen([*map(str, words), "--save", str(tmp_path / place / "run")], cwd=ROOT, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for place in ("one", "two")]
    printed = [process.communicate(timeout=300)[0] for process in runs]
    assert [process.returncode for process in runs] == [0, 0], printed
    both = "\n".join(printed)
    assert len(re.findall(r": 40 steps in", both)) == len(re.findall(r": taken from --task-cache", both)) == 2
    assert_same(*(SimpleNamespace(folder=tmp_path / place / "run") for place in ("one", "two")))


@pytest.mark.slow
def test_two_processes_take_together(tasks, world, tmp_path):
    """And not what one process has trained, whose sums are in another order."""
    words = ["--load", world.model, "--dataset-order", f"{tasks['A']},{tasks['B']}", "--iterations", STEPS,
             "--batch-size", BATCH, "--lr", RATE, "--warmup-length", 0, "--workers", 0, "--device", "cpu", "--quiet",
             "--log-interval", 1, "--task-cache", tmp_path / "cache"]
    printed = []
    for place, size in (("alone", 1), ("first", 2), ("second", 2)):
        group = ranks.Ranks(ranks.server(), size, tmp_path / f"{place}.log", ranks.command_line,
                            [*words, "--save", tmp_path / place / "run"])
        assert group.join(300) == [0] * size, group.printed()
        printed.append(group.printed())
    assert ["steps in" in text for text in printed] == [True, True, False]
    assert printed[2].count(": taken from --task-cache") == 2
    assert_same(*(SimpleNamespace(folder=tmp_path / place / "run") for place in ("second", "first")))


STUDY = """
base: {{load: {model}, iterations: 3, batch-size: 4, lr: 9e-5, warmup-length: 0, workers: 0, device: cpu}}
axes:
  orders: {{one: ["{A}", "{B}"], two: ["{A}", "{C}"]}}
"""


@pytest.mark.slow
def test_the_cells_of_a_study_share_tasks(cli, tasks, world, tmp_path):
    (tmp_path / "orders.yaml").write_text(STUDY.format(model=world.model, **tasks), encoding="utf-8")
    done = cli("--study", tmp_path / "orders.yaml", "--save", tmp_path / "study", "--task-cache", tmp_path / "cache")
    assert done.status == 0, done.out + done.err
    printed = {cell: (tmp_path / "study" / cell / "output.txt").read_text(encoding="utf-8") for cell in ("one", "two")}
    assert {cell: (text.count(" steps in "), text.count(": taken from --task-cache"))
            for cell, text in printed.items()} == {"one": (2, 0), "two": (1, 1)}

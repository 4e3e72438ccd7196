"""Objects of Python in runs: Tasks beside names, and functions of files by the same rules as --method."""

import functools
import warnings

import pytest
import torch
from cli_files import BATCH, RATE, STEPS
from PIL import Image
from torchvision.datasets import ImageFolder

import clip_continual as cc
from src.datasets import from_code
from src.main import main
from src.models.penalties import L2

pytest_plugins = ["cli_fixtures"]

FILE = """
import clip_continual as cc
from torchvision.datasets import ImageFolder


def open_mine():
    return cc.Task.from_dataset(ImageFolder({train!r}), {names!r}, test=ImageFolder({test!r}))
"""


@pytest.fixture
def flags(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(from_code, "_allowed", set())
    return {"load": world.model, "iterations": STEPS, "batch_size": BATCH, "lr": RATE, "warmup_length": 0, "workers": 0}


@pytest.fixture
def words(flags):
    return [word for key, value in flags.items() for word in (f"--{key.replace('_', '-')}", str(value))]


@pytest.fixture
def mine(world):
    """mine(name="colours"): the Task of the colours, by a dataset of torch."""
    train, test = (ImageFolder(world.root / "colours" / part) for part in ("train", "test"))
    return functools.partial(cc.Task.from_dataset, train, world.names, test=test)


def tensors(path):
    return torch.load(path, weights_only=True)["state_dict"]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_task_trains_as_the_same_data_by_name(flags, world, mine):
    by_name = cc.train(dataset_order=[world.tones, world.colours], save="names", **flags)
    given = cc.train(dataset_order=[world.tones, mine(name="colours")], save="tasks", **flags)
    assert same(tensors(by_name.checkpoint()), tensors(given.checkpoint()))
    assert by_name.matrix().equals(given.matrix()) and given.tasks == ["tones", "colours"]


def test_a_finished_task_of_other_data_is_not_taken_for_it(flags, mine, world):
    cc.train(train_dataset=mine(), save="run", **flags)
    assert "already finished" in cc.train(train_dataset=mine(), save="run", **flags).log
    other = cc.Task.from_dataset(ImageFolder(world.root / "loose"), world.names)
    with pytest.raises(cc.UserError, match="began with another content of task:mine"):
        cc.train(train_dataset=other, save="run", **flags)


def test_what_is_scored_is_given_again(flags, mine):
    run = cc.train(train_dataset=mine(), save="run", **flags)
    with pytest.raises(cc.UserError, match="task:mine is a Task from another call in Python: pass it again"):
        cc.evaluate(run.checkpoint(), workers=0)
    table = cc.evaluate(run.checkpoint(), [mine()], workers=0)
    assert table.loc["mine", "top1"] == pytest.approx(run.matrix().loc["mine", "mine"], abs=1e-4)
    assert cc.classify(Image.new("RGB", (8, 8)), load=run.checkpoint()).shape == (1, 3)


def test_what_is_held_out_is_printed_by_the_run(flags, world):
    run = cc.train(train_dataset=cc.Task.from_dataset(ImageFolder(world.root / "loose"), name="loose"), **flags)
    assert "task:loose: no test split: holding out 6 of 30 images" in run.log
    folder = cc.train(train_dataset=cc.Task.from_folder(world.root / "loose"), **flags)
    assert folder.tasks == ["loose"] and "holding out 6 of 30 images" in folder.log


def test_names_that_collide(flags, mine, world):
    with pytest.raises(cc.UserError, match="two Tasks are called 'mine'"):
        cc.train(dataset_order=[mine(), mine()], **flags)
    with pytest.raises(cc.UserError, match="would write files named colours"):
        cc.train(dataset_order=[world.colours, mine(name="colours")], **flags)


def test_values_of_a_task(flags, mine, world):
    task = mine()
    run = cc.train(dataset_order=[task, world.tones], save="run", **flags | {"lr": {None: RATE, task: RATE / 2}})
    first, second = (run.losses(name).lr.max() for name in run.tasks)
    assert first == pytest.approx(second / 2)


def test_what_nothing_can_tell_from_other_data_is_not_shared(flags, mine):
    run = cc.train(train_dataset=mine(), save="run", task_cache="cache", **flags)
    assert "note: --task-cache does nothing with task:mine" in run.log
    with pytest.raises(cc.UserError, match="`cache_images` with task:mine"):
        cc.train(train_dataset=mine(), save="other", cache_images=True, **flags)


# -- on the command line -----------------------------------------------------------------------------------------------


@pytest.fixture
def file(flags, world):
    with open("my.py", "w", encoding="utf-8") as file:
        file.write(FILE.format(train=str(world.root / "colours" / "train"), test=str(world.root / "colours" / "test"),
                               names=world.names))
    return "my.py:open_mine"


def test_a_function_of_a_file_is_a_dataset(file, words, flags, cli, mine):
    done = cli("--dataset-order", f"toy-sizes,{file}", "--save", "run", "--max-evaluation-size", 8, *words)
    assert done.status == 0 and cc.Run("run").tasks == ["toy-sizes", "open_mine"], done.err
    assert cli("--train-dataset", file, "--eval-datasets", file, "--save", "one", *words).status == 0
    given = cc.train(train_dataset=mine(name="open_mine"), **flags)
    assert same(tensors("one/open_mine.pth"), tensors(given.checkpoint()))


def test_a_checkpoint_chooses_no_code(file, words, cli, monkeypatch):
    assert cli("--train-dataset", file, "--save", "run", *words).status == 0
    monkeypatch.setattr(from_code, "_allowed", set())  # as in another process
    evaluation = ("--load", "run/open_mine.pth", "--eval-only", "--workers", 0)
    done = cli(*evaluation)
    assert done.status == 2
    assert f"only the command line may choose code to run: name it there, for example --eval-datasets {file}" in (
        done.err)
    assert cli(*evaluation, "--eval-datasets", file).status == 0


@pytest.mark.parametrize(("name", "message"), [
    ("nowhere.py:f", "--train-dataset nowhere.py:f: no such file; give path/to/file.py:function"),
    ("task:mine", "task:mine is a Task from another call in Python"), ("my.py", "no dataset 'my.py'"),
    ("my.py:other", "it has no function other; it has open_mine")])
def test_what_is_refused(file, words, name, message, capsys):
    assert main(["--train-dataset", name, *words]) == 2
    assert message in capsys.readouterr().err


# -- methods -----------------------------------------------------------------------------------------------------------

METHOD = """
from src.models.finetune import Finetune


class Pulled(Finetune):
    def __init__(self, strength=0.0):
        super().__init__()
        self.strength = strength

    def losses(self, state, batch):
        return super().losses(state, batch) | {"pull": self.strength * state.model.text_projection.square().mean()}
"""


class Pulled(cc.Finetune):
    def __init__(self, strength=0.0):
        super().__init__()
        self.strength = strength

    def losses(self, state, batch):
        return super().losses(state, batch) | {"pull": self.strength * state.model.text_projection.square().mean()}


class Scored(cc.Finetune):
    """Has its own scores, so that checkpoints name the method that scores them."""

    def __init__(self, best=0):
        super().__init__()
        self.best = best

    def scores(self, state, images, spaces):
        return {space: torch.eye(sum(len(part.classnames) for part in joined))[[self.best] * len(images)]
                for space, joined in spaces.items()}


def test_a_class_and_an_object_train_as_a_file_does(flags, world, words, cli):
    with open("pulled.py", "w", encoding="utf-8") as file:
        file.write(METHOD)
    done = cli("--dataset-order", f"{world.colours},{world.tones}", "--method", "pulled.py:Pulled", "--set",
               "strength=0.5", "--save", "file", *words)
    assert done.status == 0, done.err
    for name, method in (("object", {"method": Pulled(strength=0.5)}), ("positional", {"method": Pulled(0.5)}),
                         ("class", {"method": Pulled, "set": {"strength": 0.5}})):
        run = cc.train(dataset_order=[world.colours, world.tones], save=name, **method, **flags)
        assert same(tensors(run.checkpoint()), tensors("file/tones.pth")), name
    plain = cc.train(dataset_order=[world.colours, world.tones], method=Pulled, **flags)
    assert not same(tensors(plain.checkpoint()), tensors("file/tones.pth"))


def test_a_class_that_was_changed_is_not_taken_for_the_one_before(flags, world, monkeypatch):
    cc.train(train_dataset=world.colours, method=Pulled(0.5), save="run", **flags)
    assert "already finished" in cc.train(train_dataset=world.colours, method=Pulled(0.5), save="run", **flags).log
    with pytest.raises(cc.UserError, match="`set` strength=0.5 there, strength=0.25 here"):
        cc.train(train_dataset=world.colours, method=Pulled(0.25), save="run", **flags)
    monkeypatch.setattr(Pulled, "begin", lambda self, state: super(Pulled, self).begin(state), raising=False)
    with pytest.raises(cc.UserError, match="began with another content of the class Pulled"):
        cc.train(train_dataset=world.colours, method=Pulled(0.5), save="run", **flags)


def test_who_scores_a_checkpoint(flags, world, cli):
    """The checkpoint says it with its keywords; code comes from the call, or from a file of the command line."""
    run = cc.train(train_dataset=world.colours, method=Scored(best=1), save="run", **flags)
    scorer = torch.load(run.checkpoint(), weights_only=True)["scorer"]
    assert scorer == {"method": "python:Scored", "keywords": {"best": 1}}
    for method in (Scored, Scored(1)):
        assert cc.evaluate(run.checkpoint(), method=method, workers=0).top1.iloc[0] == pytest.approx(100 / 3, abs=0.01)
    with pytest.raises(cc.UserError, match="may not choose code to run: give `method` FILE.py:Scored, or the class"):
        cc.evaluate(run.checkpoint(), workers=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = cc.classify(world.image, load=run.checkpoint(), method=Scored)
    assert table.iloc[0].idxmax() == world.names[1]
    done = cli("--load", run.checkpoint(), "--eval-only", "--workers", 0)
    assert done.status == 2 and "--method FILE.py:Scored, or the class Scored from Python" in done.err
    with pytest.warns(cc.RunWarning, match="without what `method` python:Scored trained beside it"):
        cc.load(run.checkpoint(), device="cpu")


def test_resume_in_another_process_needs_the_class(flags, world, words, cli):
    cc.train(train_dataset=world.colours, method=Pulled, save="run", **flags)
    done = cli("--train-dataset", world.colours, "--method", "python:Pulled", "--save", "run", "--resume", *words)
    assert done.status == 2 and "this class was passed to a call from Python" in done.err


@pytest.mark.parametrize(("method", "message"), [
    (3, "`method` 3: expected a name, a class derived from Hooks"), (dict, "expected a name, a class"),
    (cc.Finetune, "`method` Finetune: is built in; give 'finetune'"),
    (Pulled(torch.zeros(2)), "a run records the keywords of its method")])
def test_what_is_no_method(flags, world, method, message):
    with pytest.raises(cc.UserError, match=message):
        cc.train(train_dataset=world.colours, method=method, **flags)


def test_an_object_has_its_keywords(flags, world):
    with pytest.raises(cc.UserError, match="`set` with an object of Pulled"):
        cc.train(train_dataset=world.colours, method=Pulled(1), set={"strength": 2}, **flags)


def test_tasks_of_a_class_are_not_shared(flags, world):
    run = cc.train(train_dataset=world.colours, method=Pulled, save="run", task_cache="cache", **flags)
    assert "--task-cache does nothing with python:Pulled" in run.log


# -- hooks -------------------------------------------------------------------------------------------------------------


HOOKS = """
from src.models.hooks import Hooks


class Watched(Hooks):
    other_terms = ("watched",)

    def __init__(self, every=1):
        self.every = every

    def losses(self, state, batch):
        return {"watched": self.every * state.model.text_projection.square().mean()}
"""


class Watched(cc.Hooks):
    """Leaves what it sees to the session, in a list of the class."""

    other_terms, seen = ("watched",), []

    def __init__(self, every=1):
        self.every = every

    def losses(self, state, batch):
        return {"watched": self.every * state.model.text_projection.square().mean()}

    def after_step(self, state):
        self.seen.append(state.iteration)


class Favouring(cc.Hooks):
    def __init__(self, best=0):
        self.best = best

    def scores(self, state, images, spaces):
        return Scored.scores(self, state, images, spaces)


def test_hooks_train_as_those_of_a_file_do(flags, world, words, cli):
    with open("hooks.py", "w", encoding="utf-8") as file:
        file.write(HOOKS)
    text = "hooks.py:Watched(every=3)"
    done = cli("--train-dataset", world.colours, "--hooks", text, "--save", "file", *words)
    assert done.status == 0, done.err
    for name, hooks in (("object", [Watched(every=3)]), ("alone", Watched(3)), ("text", [text])):
        run = cc.train(train_dataset=world.colours, save=name, hooks=hooks, **flags)
        assert same(tensors(run.checkpoint()), tensors("file/colours.pth")), name
    plain = cc.train(dataset_order=[world.colours, world.tones], hooks=[Watched], method=Pulled(0.5), **flags)
    assert plain.losses().columns[:4].tolist() == ["iteration", "task", "pull", "watched"]


def test_hooks_that_were_changed_are_not_taken_for_those_before(flags, world, monkeypatch):
    """What they have collected in between changes nothing."""
    monkeypatch.setattr(Watched, "seen", [])
    one = {"train_dataset": world.colours, "save": "run", **flags}
    cc.train(hooks=[Watched(2)], **one)
    assert Watched.seen == list(range(1, STEPS + 1))
    assert "already finished" in cc.train(hooks=[Watched(2)], **one).log
    with pytest.raises(cc.UserError, match=r"`hooks` python:Watched\(every=2\) there, none here"):
        cc.train(**one)
    monkeypatch.setattr(Watched, "end", lambda self, state: None, raising=False)
    with pytest.raises(cc.UserError, match="began with another content of the class Watched of `hooks`"):
        cc.train(hooks=[Watched(2)], **one)


def test_hooks_that_score_are_given_again(flags, world):
    run = cc.train(train_dataset=world.colours, hooks=[Favouring(best=1)], save="run", **flags)
    with pytest.raises(cc.UserError, match="give `hooks` FILE.py:Favouring, or the class Favouring from Python"):
        cc.evaluate(run.checkpoint(), workers=0)
    assert cc.evaluate(run.checkpoint(), hooks=Favouring, workers=0).top1.iloc[0] == pytest.approx(100 / 3, abs=0.01)
    assert cc.classify(world.image, load=run.checkpoint(), hooks=[Favouring]).iloc[0].idxmax() == world.names[1]
    with pytest.raises(cc.UserError, match="`hooks` python:Watched: acts while a task trains, and here none does"):
        cc.evaluate(run.checkpoint(), hooks=Watched, workers=0)


def other_watched():
    return type("Watched", (cc.Hooks,), {"end": lambda self, state: None})


@pytest.mark.parametrize(("more", "message"), [
    ({"hooks": 3}, "`hooks` 3: expected a class derived from Hooks, an object of one, FILE.py:Class"),
    ({"hooks": [dict]}, "expected a class derived from Hooks"), ({"hooks": L2}, "comes with the package; give `l2`"),
    ({"hooks": cc.Finetune}, "comes with the package; give `method` finetune"),
    ({"hooks": [Watched, Watched(2)]}, "names python:Watched twice"),
    ({"hooks": [Watched, other_watched()]}, "`hooks` Watched: another class of this call has that name"),
    ({"hooks": Watched(torch.zeros(2))}, r"`hooks` Watched\(every=tensor.*: a run records the keywords of its hooks"),
    ({"hooks": cc.Hooks}, "Hooks overrides nothing"), ({"hooks": [Favouring], "method": Scored}, "each have scores")])
def test_what_are_no_hooks(flags, world, more, message):
    with pytest.raises(cc.UserError, match=message):
        cc.train(train_dataset=world.colours, **more, **flags)


def test_tasks_of_hooks_are_not_shared(flags, world):
    run = cc.train(train_dataset=world.colours, hooks=Watched, save="run", task_cache="cache", **flags)
    assert "--task-cache does nothing with python:Watched" in run.log and "--hooks FILE.py:Class shares" in run.log


# -- what a run says ---------------------------------------------------------------------------------------------------


def test_a_function_of_a_file_says_what_it_holds_out(flags, world, words, cli):
    """As a Task of Python does."""
    with open("held.py", "w", encoding="utf-8") as file:
        file.write("import clip_continual as cc\n\n\ndef mine():\n"
                   f"    return cc.Task.from_folder({str(world.root / 'loose')!r})\n")
    done = cli("--train-dataset", "held.py:mine", *words)
    assert done.status == 0 and "held.py:mine: no test split: holding out 6 of 30 images" in done.out, done.err


def test_a_run_without_held_out_images_has_no_page(flags, world):
    """It ended in a warning of StopIteration."""
    one = [(Image.new("RGB", (8, 8), colour), label) for label, colour in enumerate(("red", "blue"))]
    task = cc.Task.from_dataset(one, ["red", "blue"], name="one")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = cc.train(train_dataset=task, save="run", **flags)
    assert "note: no report_one.html: nothing was held out to score" in run.log

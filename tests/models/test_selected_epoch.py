"""The epoch with the best accuracy on val images, whose tensors come back: strictly better ones only."""

import pytest
import slow_reference as slow
import torch
from cli_files import read_json
from conftest import tiny_clip
from example_runs import COMMON, broken, equal, loaded

from src.datasets.common import Split
from src.datasets.transforms import EvalTransform
from src.errors import UserError
from src.machine.batch import Batch
from src.models.attached import build_own, stored_tensors
from src.models.diki import DIKI
from src.models.modeling import tokens_of
from src.models.selected_epoch import SelectsEpoch, _require_val
from src.models.training import begin, train

pytest_plugins = ["cli_fixtures", "example_fixtures"]


@pytest.fixture
def state_of(make_state, device):
    """-> make(hook, **settings): a state of the tiny task, 23 images in batches of 12: epochs of 2 steps."""
    def make(hook, **settings):
        state = make_state(tiny_clip("vit"), lr=5.0, optimizer="sgd", crops="none", warmup=0,
                           **{"iterations": 2, "batch_size": 12, **settings})
        state.own = build_own([hook], state.model, device)
        return state
    return make


def hook(**options):
    return DIKI(diki_length=2, select_epoch="val", **options)


def trained_with(state, method, accuracies, monkeypatch):
    """-> ({step: the tensors that it left}, [steps that were scored])"""
    left, scored, found = {}, [], iter(accuracies)
    monkeypatch.setattr(SelectsEpoch, "top1", lambda hook, state: scored.append(state.iteration) or next(found))
    train(state, [method], lambda state, losses: left.update({state.iteration: stored_tensors(state.own)}))
    return left, scored


@pytest.mark.parametrize(("accuracies", "kept"), [((50.0, 70.0, 70.0), 4), ((70.0, 70.0, 60.0), 2),
                                                  ((10.0, 20.0, 30.0), 6), ((0.0, 0.0, 0.0), 2)])
def test_the_first_of_the_best_epochs_is_kept(state_of, monkeypatch, capsys, accuracies, kept):
    method = hook()
    state = state_of(method, iterations=6)
    left, scored = trained_with(state, method, accuracies, monkeypatch)
    assert scored == [2, 4, 6] and equal(stored_tensors(state.own), left[kept])
    assert kept == 6 or not equal(left[kept], left[6])
    assert f"keeps the modules of step {kept} of 6, {max(accuracies):.1f} % on val images" in capsys.readouterr().out


def test_a_last_epoch_that_is_cut_is_scored_too(state_of, monkeypatch):
    method = hook()
    left, scored = trained_with(state_of(method, iterations=3), method, (1.0, 2.0), monkeypatch)
    assert scored == [2, 3]


def test_the_last_epoch_is_the_default(state_of, monkeypatch):
    method = DIKI(diki_length=2)
    state = state_of(method)
    left, scored = trained_with(state, method, (), monkeypatch)
    assert scored == [] and equal(stored_tensors(state.own), left[2])


@torch.no_grad()
def test_accuracy_is_that_of_the_task_at_hand_by_its_own_prefixes(state_of, device):
    method = hook()
    with torch.enable_grad():
        state = state_of(method)
        train(state, [method])
    val, right = state.task.split("val"), 0
    texts = tokens_of(state.model, state.task.prompts())
    with state.attached():
        for index, label in enumerate(val.labels):
            pixels = EvalTransform(16)(val.image(index))[None]
            image, = device.batch(Batch(pixels, torch.zeros(1, dtype=torch.long))).images
            scores = [float(slow.image_feature(state.model, image) @ slow.text_feature(state.model, text))
                      for text in texts]
            right += scores.index(max(scores)) == label
    assert method.top1(state) == pytest.approx(100 * right / len(val))
    assert method.prefixes.training


def test_what_it_cannot_choose_on(state_of, capsys):
    state = state_of(method := hook())
    _require_val(state.task)
    assert capsys.readouterr().err == ""
    splits, task = state.task.splits, state.task
    splits["test"] = splits["val"]
    begin(state, [method])
    assert "6 of the 6 val images that select the epoch are also test images" in capsys.readouterr().err
    path = Split(splits["train"].image, splits["train"].labels, path=lambda index: f"{index % 4}.png")
    splits["train"], splits["val"] = path, path.subset(range(5))
    _require_val(task)
    assert "4 of the 5 val images that select the epoch are also train images" in capsys.readouterr().err
    del splits["val"]
    with pytest.raises(UserError, match="--select-epoch val: tiny has no val images; give --val-fraction"):
        _require_val(task)


WORDS = ["--method", "diki", "--diki-length", 2, "--optimizer", "sgd", "--lr", 5, "--warmup-length", 0, "--epochs", 3,
         "--val-fraction", 0.34, "--select-epoch", "val", "--save-interval", 2]


def test_a_run_resumes_with_the_best_epoch_so_far(cli, world, tmp_path, monkeypatch):
    """The first of three epochs is the best, and the run is stopped within the second, and again as it ends."""
    accuracies = {3: 50.0, 6: 40.0, 9: 50.0}
    monkeypatch.setattr(SelectsEpoch, "top1", lambda hook, state: accuracies[state.iteration])

    def words(folder):
        return ["--load", world.model, *WORDS, *COMMON, "--train-dataset", world.colours, "--save", folder, "--resume"]
    assert cli(*words(tmp_path / "whole")).status == 0
    after_step, stopped = DIKI.after_step, []

    def stop(hook, state):
        after_step(hook, state)
        if state.iteration == 5 and not stopped:
            stopped.append(True)
            raise KeyboardInterrupt
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(DIKI, "after_step", stop)
        assert cli(*words(tmp_path / "cut")).status == 130
    with broken(DIKI, "end", "colours"):
        assert cli(*words(tmp_path / "cut")).status == 130
    done = cli(*words(tmp_path / "cut"))
    assert done.status == 0 and "keeps the modules of step 3 of 9, 50.0 %" in done.out, done.err
    found, expected = (loaded(tmp_path / name / "colours.pth") for name in ("cut", "whole"))
    assert equal(found, expected) and read_json(tmp_path / "cut" / "run_colours.json")["iterations"] == 9


@pytest.mark.parametrize(("words", "reason"), [
    (("--eval-split", "val"), "would also score it"), (("--epochs", 1, "--lr", 5), None)])
def test_words_of_a_command(cli, world, words, reason, tmp_path):
    given = WORDS if reason else [word for word in WORDS if word not in ("--val-fraction", 0.34)]
    done = cli("--load", world.model, *given, *COMMON, "--train-dataset", world.colours, "--save", tmp_path / "out",
               *words)
    assert done.status == 2 and (reason or "colours has no val images; give --val-fraction 0.1") in done.err, done.err
    assert "Traceback" not in done.err

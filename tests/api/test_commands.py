"""The commands as functions: the same runs as on the command line, and tables instead of printed text."""

import inspect
import json
import os
import shutil
import signal
import tempfile
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch
from cli_files import BATCH, RATE, STEPS
from PIL import Image

import clip_continual as cc
from src.store.records import Journal

pytest_plugins = ["cli_fixtures"]


@pytest.fixture
def here(tmp_path, tmp_path_factory, monkeypatch):
    """An empty current folder, and one for temporary files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))


@pytest.fixture
def flags(world, here):
    """Keywords of a short run of the tiny model."""
    return {"load": world.model, "iterations": STEPS, "batch_size": BATCH, "lr": RATE, "warmup_length": 0, "workers": 0}


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    """The folder of a sequence of two tasks in two label spaces."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    cc.train(dataset_order=[world.colours, world.tones], label_space=["task", "all"], load=world.model,
             iterations=STEPS, batch_size=BATCH, lr=RATE, warmup_length=0, workers=0, save=folder,
             data_location=folder.parent)
    return folder


def tensors(path):
    return torch.load(path, weights_only=True)["state_dict"]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_is_that_of_the_command_line(train, flags, world, capsys):
    """Twice in one process, silently, to the bit."""
    assert train("there", "--method", "lwf", "--label-space", "task,all").status == 0
    for name in ("here", "again"):
        run = cc.train(method="lwf", train_dataset=world.colours, label_space=["task", "all"], save=name, **flags)
        assert same(tensors(run.checkpoint()), tensors("there/colours.pth"))
    assert capsys.readouterr() == ("", "") and "colours: 3 steps" in run.log
    before, now = (json.loads(Path(name, "run_colours.json").read_text(encoding="utf-8")) for name in ("there", "here"))
    assert {key: value["value"] for key, value in before["flags"].items() if key != "save"} == {
        key: value["value"] for key, value in now["flags"].items() if key != "save"}
    assert before["scores"] == now["scores"] and run.spaces == ["task", "all"]
    assert run.matrix("all").loc["colours", "colours"] == now["scores"]["colours"]["all"]["top1"]


def test_its_command_is_one_that_can_be_typed(cli, flags, world):
    run = cc.train(train_dataset=world.colours, save="a run", **flags)
    words = json.loads((run.folder / "run_colours.json").read_text(encoding="utf-8"))["command"]
    shutil.move("a run", "before")
    assert cli(*words).status == 0 and same(tensors("a run/colours.pth"), tensors("before/colours.pth"))


def test_verbose_prints_what_the_command_line_prints(flags, world, capsys):
    run = cc.train(train_dataset=world.colours, verbose=True, **flags)
    printed = capsys.readouterr().out
    assert "colours: 3 steps" in printed and printed == run.log


def test_without_save_the_folder_goes_with_the_run(flags, world):
    run = cc.train(train_dataset=world.colours, **flags)
    folder = run.folder
    assert run.checkpoint().is_file() and not os.listdir()
    del run
    assert not folder.exists()


def test_resume_and_overwrite(flags, world, steps):
    for more, done in (({}, STEPS), ({}, 0), ({"resume": True}, 0), ({"overwrite": True}, STEPS)):
        del steps[:]
        cc.train(train_dataset=world.colours, save="run", **flags, **more)
        assert len(steps) == done
    with pytest.raises(cc.UserError, match="`batch_size` 4 there, 3 here.*give `overwrite` to replace"):
        cc.train(train_dataset=world.colours, save="run", **flags | {"batch_size": 3})


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, cc.Interrupted)])
def test_a_signal_keeps_what_resume_takes_up(number, kind, flags, world, monkeypatch, steps):
    whole = cc.train(train_dataset=world.colours, save="whole", **flags)
    step, before = Journal.step, signal.getsignal(signal.SIGINT)  # what starts in the background may ignore it

    def interrupted(journal, state, losses):
        step(journal, state, losses)
        if state.iteration == 2:
            os.kill(os.getpid(), number)
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "step", interrupted)
        with pytest.raises(kind, match="resumes after step 2 of 3 with the same command and `resume`"):
            cc.train(train_dataset=world.colours, save="run", **flags)
        with pytest.raises(kind, match="nothing is kept without `save`"):
            cc.train(train_dataset=world.colours, **flags)
    assert signal.getsignal(signal.SIGINT) is before
    del steps[:]
    run = cc.train(train_dataset=world.colours, save="run", resume=True, **flags)
    assert len(steps) == 1 and same(tensors(run.checkpoint()), tensors(whole.checkpoint()))


@pytest.mark.parametrize(("keywords", "message"), [
    ({}, "set the training length: `iterations` N or `epochs` N|nothing to do"),
    ({"train_dataset": "toy-sizes"}, "set the training length: `iterations` N"),
    ({"dataset_order": "toy", "seed": [1, 2]}, "`seed` 1,2: a run from Python has one"),
    ({"eval_only": True}, r"keyword eval_only is evaluate\(\.\.\.\)"),
    ({"method": "zscl2", "dataset_order": "toy"}, "`method` zscl2: did you mean ZSCL"),
    ({"model": "toy", "export": "x"}, "these keywords describe a model-export run; give those of a sequence run"),
    ({"train_dataset": "nothing", "iterations": 1}, "`train_dataset`: no dataset 'nothing'")])
def test_what_is_refused_leaves_nothing(keywords, message, here):
    with pytest.raises(cc.UserError, match=message):
        cc.train(**keywords)
    assert not os.listdir() and not list(Path(tempfile.gettempdir()).glob("clip-continual-*/*"))


def test_a_warning_of_the_command_line_is_one_of_python(flags, world):
    with pytest.warns(cc.RunWarning, match="`ref_dataset` has no effect"):
        cc.train(train_dataset=world.colours, ref_dataset="toy-reference", **flags)


def test_flags_are_shown_as_keywords():
    found = inspect.signature(cc.train).parameters
    assert {"method", "dataset_order", "lr", "save", "verbose"} <= set(found) and "eval_only" not in found
    assert "keep_features" not in inspect.signature(cc.classify).parameters
    assert list(inspect.signature(cc.evaluate).parameters)[:2] == ["load", "eval_datasets"]


# -- scores ------------------------------------------------------------------------------------------------------------


def test_evaluation_is_a_table(finished, world, here, cli):
    table = cc.evaluate(finished / "tones.pth", [world.colours, world.tones], label_space="task,all", workers=0)
    assert list(table.index) == ["colours", "colours", "tones", "tones"]
    run = cc.Run(finished)
    for space in ("task", "all"):
        of_space = table[table.label_space == space]
        assert of_space.top1.to_dict() == pytest.approx(run.matrix(space).loc["tones"].to_dict(), abs=1e-4)
    assert (table.images == [12, 12, 8, 8]).all()


def test_evaluation_writes_where_it_is_told_and_nowhere_else(finished, here):
    before = {path: path.stat().st_mtime_ns for path in finished.iterdir()}
    assert list(cc.evaluate(finished / "colours.pth", workers=0).index) == ["colours"]
    assert before == {path: path.stat().st_mtime_ns for path in finished.iterdir()} and not os.listdir()
    cc.evaluate(finished / "colours.pth", workers=0, save="scored")
    assert sorted(os.listdir("scored")) == ["classes_colours.csv", "metrics_colours.csv", "predictions_colours.csv"]


def test_mixes_have_their_share(finished, world, here, monkeypatch):
    monkeypatch.setattr("src.run.weights.ZeroshotOpener._source",
                        lambda self, path: torch.load(world.model, weights_only=True) | {"notes": []})
    table = cc.evaluate(finished / "tones.pth", [world.tones], wise_ft=True, alpha=[0, 0.5], workers=0)
    assert list(table.alpha) == [0, 0.5]


def test_the_files_of_a_sequence_are_a_run_again(finished, here):
    run = cc.evaluate([finished / "colours.pth", finished / "tones.pth"], workers=0, label_space=["task", "all"])
    pd.testing.assert_frame_equal(run.matrix("all"), cc.Run(finished).matrix("all"))


def test_a_report_is_a_table(finished, here):
    shutil.copytree(finished, "other")
    table = cc.report([cc.Run(finished), "other"], save="tables")
    assert (table.kind == "run").sum() == 2 * len(cc.Run(finished).spaces) and Path("tables/paper.md").is_file()
    own = table[(table.label_space == "all") & (table.kind == "run")]
    assert own.avg.iloc[0] == pytest.approx(cc.Run(finished).summary("all").loc["all", "avg"])
    assert len(cc.report(finished.parent)) == len(table) / 2 + 1
    with pytest.raises(cc.UserError, match="`report` nowhere"):
        cc.report("nowhere")


def test_a_report_warns_of_what_it_leaves_out(finished, here):
    shutil.copytree(finished, "all/one")
    Path("all/two").mkdir()
    Path("all/two/run.json").write_text("{}", encoding="utf-8")
    with pytest.warns(cc.RunWarning, match="report: left out: 1 without a finished sequence .all/two"):
        cc.report("all")


def test_a_table_keeps_what_its_command_printed(finished, here, world):
    assert "class names are those of" in cc.classify(world.image, load=finished / "tones.pth").attrs["log"]
    assert "| tones" in cc.evaluate(finished / "tones.pth", world.tones, workers=0).attrs["log"]
    assert "Transfer" in cc.report(finished).attrs["log"]


# -- models and images -------------------------------------------------------------------------------------------------


def test_load_gives_the_model_and_what_goes_with_it(finished, world, here):
    model, preprocess, tokenize = cc.load(finished / "tones.pth", device="cpu")
    assert not model.training and same(dict(model.state_dict()), tensors(finished / "tones.pth"))
    with torch.no_grad():
        features = model.encode_image(preprocess(Image.open(world.image))[None])
        texts = model.encode_text(tokenize(["a red disc", "green"]))
    assert features.shape == (1, 16) and texts.shape == (2, 16)
    assert cc.load("toy", device="cpu")[0].image_resolution == 32
    with pytest.raises(cc.UserError, match="`load` nowhere.pth: no such file"):
        cc.load("nowhere.pth")


def test_images_are_classified(finished, world, here, cli):
    names = ["red disc", "a name, with a comma", "green"]
    table = cc.classify(world.image, names, finished / "tones.pth")
    assert list(table.columns) == names and list(table.index) == [str(world.image)]
    assert table.sum(axis=1).iloc[0] == pytest.approx(1)
    several = cc.classify([world.image, world.image.parent / "1.png"], world.names, finished / "tones.pth")
    drawn = cc.classify([Image.open(path) for path in several.index], world.names, finished / "tones.pth")
    assert list(drawn.index) == [0, 1] and (drawn.to_numpy() == several.to_numpy()).all()
    printed = cli("--load", finished / "tones.pth", "--eval-single", world.image, "--class-names",
                  ",".join(world.names)).out
    best = several.iloc[0].sort_values(ascending=False)
    assert f"| {best.index[0]}" in printed and f"{100 * best.iloc[0]:.1f}" in printed


def test_all_classes_have_a_probability_and_pictures_are_not_turned(finished, here, world):
    names = [f"class {index}" for index in range(9)]
    assert cc.classify(world.image, names, finished / "tones.pth").shape == (1, 9)
    plain = Image.open(world.image)
    turned = plain.copy()
    exif = turned.getexif()
    exif[0x0112] = 3
    turned.info["exif"] = exif.tobytes()
    one, other = (cc.classify(image, world.names, finished / "tones.pth") for image in (plain, turned))
    assert one.equals(other)


def test_a_picture_is_classified_like_its_file(finished, world, here):
    """Also one that is transparent: files are put on white."""
    picture = Image.new("RGBA", (32, 32), (200, 10, 20, 60))
    picture.save("clear.png")
    drawn, stored = (cc.classify(image, world.names, finished / "tones.pth") for image in (picture, "clear.png"))
    assert (drawn.to_numpy() == stored.to_numpy()).all()


def test_class_names_of_the_checkpoint(finished, world, here):
    assert list(cc.classify(world.image, load=finished / "colours.pth").columns) == world.names
    with pytest.raises(cc.UserError, match="one kind at a time"):
        cc.classify([world.image, Image.open(world.image)], load=finished / "colours.pth")
    with pytest.raises(cc.UserError, match="classnames 1,2: expected names"):
        cc.classify(world.image, [1, 2], finished / "colours.pth")


def test_nothing_is_warned_of_in_an_ordinary_run(flags, world):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cc.train(dataset_order=[world.colours, world.tones], save="run", **flags)

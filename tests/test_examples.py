"""The example methods of ``examples/methods/``: what has modules of its own trains, resumes, chains and is scored."""

import csv
import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import clip
from src.datasets import open_task
from src.datasets.common import Split, Task
from src.datasets.images import open_upright
from src.datasets.seeds import seed_of
from src.datasets.transforms import EvalTransform
from src.models.attached import attached
from src.models.classifiers import zeroshot_weights
from src.models.custom import load_file
from src.models.penalties import L2

pytest_plugins = ["cli_fixtures"]

ROOT = Path(__file__).parents[1]
METHODS = ROOT / "examples" / "methods"
STEPS = " --lr 1e-2 --warmup-length 0 --iterations 3"
EXAMPLES = {"experts": f"--method {METHODS / 'experts.py'}:Experts --set experts=3 --set rank=4" + STEPS,
            "ewc": f"--method {METHODS / 'ewc.py'}:EWC --set strength=1e4" + STEPS,
            "ridge": f"--method {METHODS / 'ridge.py'}:Ridge --set strength=0.3"}
COMMON = "--batch-size 4 --workers 0 --precision fp64"
OWN = ("experts",)
SCORING = {"experts": "with:Experts", "ridge": "logits:Ridge"}


def loaded(path):
    return torch.load(path, weights_only=True)


def equal(one, other):
    """Whether nested contents are equal, tensors to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one if key != "config")
    return one == other


def last_rows(folder, *datasets):
    """{dataset: the last row of its metrics}"""
    return {name: list(csv.DictReader((folder / f"metrics_{name}.csv").open()))[-1] for name in datasets}


def wait_for_writers():
    """Resume points are written by a thread, which a process that ends would wait for."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()


@pytest.fixture(params=EXAMPLES)
def name(request):
    return request.param


@pytest.fixture
def example(name):
    return EXAMPLES[name].split()


def those(names):
    return pytest.mark.parametrize("name", names, indirect=True)


@pytest.fixture
def sequence(cli, world, example, tmp_path):
    """-> sequence(folder, word, ...): both tasks of the tiny world by the example."""
    def call(name, *words):
        done = cli("--load", world.model, *example, *COMMON.split(), "--dataset-order",
                   f"{world.colours},{world.tones}", "--save", tmp_path / name, *words)
        assert done.status == 0, done.err
        return tmp_path / name
    return call


@those(OWN)
def test_own_modules_train_beside_a_clip_that_stays(sequence, world):
    folder = sequence("out")
    start, first, second = loaded(world.model), loaded(folder / "colours.pth"), loaded(folder / "tones.pth")
    for checkpoint in (first, second):
        assert checkpoint["state_dict"].keys() == start["state_dict"].keys()
        assert all(torch.equal(value.double(), start["state_dict"][name].double())
                   for name, value in checkpoint["state_dict"].items())
    (name, ours), = first["own"].items()
    assert any(value.abs().sum() > 0 for key, value in ours.items() if key.endswith("up"))
    assert not equal(first["own"], second["own"]) and second["scorer"]["method"].endswith(f":{name}")


def test_a_sequence_equals_a_chain(sequence, cli, world, example, tmp_path):
    folder, start = sequence("out"), world.model
    for number, task in enumerate((world.colours, world.tones)):
        done = cli("--load", start, *example, *COMMON.split(), "--train-dataset", task, "--save", tmp_path / "chain",
                   "--eval-datasets", f"{world.colours},{world.tones}")
        assert done.status == 0, done.err
        start = tmp_path / "chain" / f"{('colours', 'tones')[number]}.pth"
        assert equal({**loaded(start), "history": 0}, {**loaded(folder / start.name), "history": 0})


@those(SCORING)
def test_evaluation_gives_the_rows_of_training(sequence, cli, world, name, example, tmp_path):
    folder = sequence("out")
    words = ("--load", folder / "tones.pth", "--eval-only", "--eval-datasets", f"{world.colours},{world.tones}",
             "--workers", 0, "--precision", "fp64", "--save", tmp_path / "scored")
    done = cli(*words)
    assert done.status == 2 and f"give {example[0]} {example[1]} yourself" in done.err
    assert not (tmp_path / "scored").exists()
    done = cli(*words, *example[:2])  # its keywords come from the checkpoint
    assert done.status == 0, done.err
    expected, found = (last_rows(place, "colours", "tones") for place in (folder, tmp_path / "scored"))
    assert found == expected and all(row["scored_by"] == SCORING[name] for row in found.values())


@those(SCORING)
def test_evaluation_without_its_modules_would_be_another(sequence, cli, world, example, tmp_path):
    """The test above would pass if the modules did nothing."""
    folder = sequence("out")
    content = loaded(folder / "tones.pth")
    content = {key: value for key, value in content.items() if key not in ("own", "scorer")}
    torch.save(content, tmp_path / "plain.pth")
    scores = {}
    for name, path, words in (("own", folder / "tones.pth", example[:2]), ("plain", tmp_path / "plain.pth", ())):
        done = cli("--load", path, *words, "--eval-single", world.image, "--class-names", ",".join(world.names),
                   "--save", tmp_path / name)
        assert done.status == 0, done.err
        scores[name] = (tmp_path / name / "0.csv").read_text()
    assert scores["own"] != scores["plain"]


@those(["experts", "ewc"])
def test_an_interrupted_run_ends_with_the_same_bits(sequence, cli, world, example, interrupt, tmp_path):
    expected = sequence("out")
    interrupt("tones", 2)
    words = ("--load", world.model, *example, *COMMON.split(), "--dataset-order", f"{world.colours},{world.tones}",
             "--save", tmp_path / "broken", "--resume", "--save-interval", 1)
    assert cli(*words).status == 130
    wait_for_writers()
    assert (tmp_path / "broken" / "resume_tones.pth").is_file()
    interrupt(None)
    done = cli(*words)
    assert done.status == 0 and "after step 1 of 3" in done.out, done.err
    for name in ("colours.pth", "tones.pth"):
        assert equal(loaded(tmp_path / "broken" / name), loaded(expected / name))


@pytest.mark.slow
@those(["experts"])
def test_averaged_modules_resume_and_are_scored(sequence, cli, world, example, interrupt, tmp_path):
    """The checkpoint, its rows and those of an evaluation alone are of the average, which every resume point has."""
    words = ("--moving-avg", "--mv-avg-decay", "0.5", "--eval-interval", 1, "--save-interval", 1)
    expected, live = sequence("out", *words), sequence("live")
    assert not equal(loaded(expected / "tones.pth")["own"], loaded(live / "tones.pth")["own"])
    interrupt("tones", 2)
    words = ("--load", world.model, *example, *COMMON.split(), "--dataset-order", f"{world.colours},{world.tones}",
             *words, "--save", tmp_path / "broken", "--resume")
    assert cli(*words).status == 130
    wait_for_writers()
    interrupt(None)
    assert cli(*words).status == 0
    assert equal(loaded(tmp_path / "broken" / "tones.pth"), loaded(expected / "tones.pth"))
    done = cli("--load", expected / "tones.pth", *example[:2], "--eval-only", "--eval-datasets",
               f"{world.colours},{world.tones}", "--workers", 0, "--precision", "fp64", "--save", tmp_path / "scored")
    assert done.status == 0, done.err
    assert last_rows(tmp_path / "scored", "colours", "tones") == last_rows(expected, "colours", "tones")


@those(OWN)
def test_other_keywords_than_trained_with_are_refused(sequence, cli, world, example, tmp_path):
    folder = sequence("out")
    done = cli("--load", folder / "tones.pth", *example[:2], "--set", "experts=5", "--eval-only", "--eval-datasets",
               world.colours, "--workers", 0)
    assert done.status == 2 and "are others than it builds here" in done.err and "Traceback" not in done.err


def test_a_method_that_adds_to_the_clip_is_refused(cli, world, tmp_path):
    path = tmp_path / "my.py"
    path.write_text("import torch\nfrom src.models.finetune import Finetune\n\n\nclass Prompted(Finetune):\n"
                    "    def begin(self, state):\n        super().begin(state)\n"
                    "        state.model.prompt = torch.nn.Parameter(torch.zeros(3))\n")
    done = cli("--load", world.model, "--method", f"{path}:Prompted", *(COMMON + STEPS).split(), "--train-dataset",
               world.colours, "--save", tmp_path / "out")
    assert done.status == 2 and "Prompted adds the parameter prompt to the CLIP" in done.err
    assert "Prompted.build" in done.err


MOVES = """
import torch
from src.models.finetune import Finetune


class Moves(Finetune):
    \"\"\"Changes weights at rest by a draw that no seed repeats.\"\"\"

    def begin(self, state):
        state.model.visual.requires_grad_(False)
        drawn = torch.rand((), generator=torch.Generator().manual_seed(torch.seed() % 2 ** 60))
        state.model.visual.proj.data.add_(drawn)
        with open({log!r}, "a") as file:
            print(drawn.item(), file=file)
        super().begin(state)
"""


def test_weights_at_rest_that_begin_changed_are_resumed(cli, world, interrupt, tmp_path):
    (tmp_path / "my.py").write_text(MOVES.replace("{log!r}", repr(str(tmp_path / "log"))))
    words = ("--load", world.model, "--method", f"{tmp_path / 'my.py'}:Moves", *COMMON.split(), *STEPS.split(),
             "--train-dataset", world.colours, "--save", tmp_path / "out", "--resume", "--save-interval", 1)
    interrupt("colours", 2)
    assert cli(*words).status == 130
    wait_for_writers()
    interrupt(None)
    assert cli(*words).status == 0
    first, second = map(float, (tmp_path / "log").read_text().split())
    moved = loaded(tmp_path / "out" / "colours.pth")["state_dict"]["visual.proj"] - loaded(
        world.model)["state_dict"]["visual.proj"].double()
    assert abs(first - second) > 1e-6 and moved.mean().item() == pytest.approx(first, abs=1e-6)


@those(["ridge"])
def test_ridge_is_its_normal_equations(sequence, cli, world, example, tmp_path):
    """The sums over the images of both tasks, to 1e-10, whatever the batch."""
    kept = loaded(sequence("out") / "tones.pth")["carry"]["Ridge"]
    other = loaded(sequence("by seven", "--batch-size", "7") / "tones.pth")["carry"]["Ridge"]
    model = clip.load(str(world.model))[0].double()
    features = {name: features_of(model, open_task(source, "")) for name, source in (
        ("colours", world.colours), ("tones", world.tones))}
    torch.testing.assert_close(kept["gram"], sum(x.T @ x for x, _ in features.values()), rtol=0, atol=1e-10)
    torch.testing.assert_close(other["gram"], kept["gram"], rtol=0, atol=1e-10)
    for name, (x, labels) in features.items():
        expected = x.T @ torch.nn.functional.one_hot(labels).double()
        torch.testing.assert_close(kept["targets"][name], expected, rtol=0, atol=1e-10)


@torch.no_grad()
def features_of(model, task):
    """-> ((N, D) unit features of the training images, their labels)"""
    split, transform = task.split("train"), EvalTransform(model.image_resolution)
    pixels = torch.stack([transform(split.image(index)) for index in range(len(split))]).double() / 255
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (model.mean, model.std))
    features = model.encode_image((pixels - mean) / std)
    return features / features.norm(dim=1, keepdim=True), torch.tensor(split.labels)


@those(["ewc"])
def test_fisher_information_of_some_weights_by_differences(sequence, world):
    """The mean over images of (log p(y | x; theta + h) - log p(y | x; theta - h))^2 / 4 h^2, y drawn as there."""
    folder, task = sequence("out"), open_task(world.colours, "")
    fisher = loaded(folder / "colours.pth")["carry"]["EWC"]["fisher"]
    model = clip.load(str(folder / "colours.pth"))[0].double().requires_grad_(False)
    drawn = [torch.Generator().manual_seed(seed_of(seed_of(42, task.name, "labels"), place)) for place in range(18)]
    labels = torch.stack([torch.multinomial(row.exp(), 1, generator=generator)[0]
                          for row, generator in zip(log_probabilities(model, task), drawn, strict=True)])
    for name, place in (("visual.proj", (3, 5)), ("text_projection", (1, 2)), ("ln_final.weight", (4,))):
        weight, values = model.get_parameter(name), []
        for step in (1e-5, -2e-5):
            weight[place] += step
            values.append(log_probabilities(model, task).gather(1, labels[:, None])[:, 0])
        weight[place] += 1e-5
        expected = ((values[0] - values[1]) / 2e-5).square().mean()
        assert expected > 1e-12 and fisher[name][place] == pytest.approx(expected.item(), rel=1e-4), name


def log_probabilities(model, task):
    """(N, C) of the training images, by one prompt a class."""
    texts = model.encode_text(clip.tokenize(task.prompts()))
    texts = texts / texts.norm(dim=1, keepdim=True)
    return (model.logit_scale.exp() * features_of(model, task)[0] @ texts.T).log_softmax(dim=1)


# -- plain CLIP in the place of a method is never silent ---------------------------------------------------------------


@those(OWN)
def test_what_takes_the_plain_clip_says_so(sequence, cli, world, tmp_path):
    path = sequence("out") / "tones.pth"
    words = {"--export": ("--load", path, "--export", tmp_path / "exported"),
             "--linear-eval": ("--load", path, "--eval-only", "--linear-eval", world.colours, "--linear-epochs", 1,
                               "--workers", 0),
             "--ref-model": ("--load", world.model, "--method", "ZSCL", "--ref-dataset", world.colours, "--ref-model",
                             path, *(COMMON + STEPS).split(), "--train-dataset", world.tones)}
    for flag, command in words.items():
        done = cli(*command)
        assert done.status == 0, done.err
        assert f"note: {flag} takes the plain CLIP of " in done.out, flag
        assert "experts.py:Experts trained beside it" in done.out, flag


@those(OWN)
def test_another_method_leaves_the_modules_alone_and_says_so(sequence, cli, world, tmp_path):
    path = sequence("out") / "tones.pth"
    done = cli("--load", path, "--train-dataset", world.colours, *(COMMON + STEPS).split(), "--save", tmp_path / "more")
    assert done.status == 0 and "note: the modules of Experts in --load are kept and do not act" in done.out
    before, after = loaded(path), loaded(tmp_path / "more" / "colours.pth")
    assert equal(before["own"], after["own"]) and "scorer" not in after
    done = cli("--load", tmp_path / "more" / "colours.pth", "--eval-only", "--eval-datasets", world.colours,
               "--workers", 0, "--precision", "fp64", "--save", tmp_path / "scored")
    assert done.status == 0 and last_rows(tmp_path / "scored", "colours") == last_rows(tmp_path / "more", "colours")


@those(["ridge"])
def test_one_image_is_scored_by_the_method(sequence, cli, world, example, tmp_path):
    """Under the names of the task, whatever the file; under other names by CLIP itself."""
    path = sequence("out") / "colours.pth"
    done = cli("--load", path, *example[:2], "--eval-single", world.image, "--precision", "fp64", "--save",
               tmp_path / "own")
    assert done.status == 0 and "note: scored by logits:Ridge" in done.out, done.err
    kept, model = loaded(path)["carry"]["Ridge"], clip.load(str(world.model))[0].double()
    system = kept["gram"] + 0.3 * torch.eye(len(kept["gram"]))
    single = Split(lambda index: open_upright(world.image), [0])
    features, _ = features_of(model, Task("one", (), (), {"train": single}))
    scores = (features @ torch.linalg.solve(system, kept["targets"]["colours"]))[0].softmax(dim=0)
    expected = dict(zip(world.names, scores.tolist(), strict=True))
    with (tmp_path / "own" / "0.csv").open() as file:
        found = {row["class"]: float(row["probability"]) for row in csv.DictReader(file)}
    assert found == pytest.approx(expected, abs=1e-6)
    shared = ("--eval-single", world.image, "--class-names", "light,dark", "--precision", "fp64")
    plain = cli("--load", world.model, *shared, "--save", tmp_path / "plain")
    other = cli("--load", path, *example[:2], *shared, "--save", tmp_path / "other")
    assert plain.status == other.status == 0 and "scored by" not in other.out
    assert (tmp_path / "plain" / "0.csv").read_bytes() == (tmp_path / "other" / "0.csv").read_bytes()


PAIRS = """
import torch
from torch import nn
from src.models.modx import Contrastive


class Turned(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.layer = nn.Linear(model.transformer.width, model.transformer.width)

    def forward(self, x):
        return self.layer(x)

    def places(self, model):
        return [(model.transformer.resblocks[-1], "beside", self)]


class Beside(Contrastive):
    def build(self, model):
        return Turned(model)

    def begin(self, state):
        state.model.requires_grad_(False)
        super().begin(state)
"""


def test_drift_is_that_of_the_modules_too(cli, world, pairs, tmp_path):
    """The CLIP stays where it was: texts turn by the module beside it alone."""
    (tmp_path / "my.py").write_text(PAIRS)
    done = cli("--load", world.model, "--method", f"{tmp_path / 'my.py'}:Beside", *(COMMON + STEPS).split(),
               "--train-dataset", pairs, "--save", tmp_path / "out")
    assert done.status == 0, done.err
    drift, = json.loads((tmp_path / "out" / "run_stream.json").read_text())["drift"].values()
    assert drift["text_angle"] > 1 and drift["image_angle"] == pytest.approx(0, abs=1e-3), drift


def test_an_add_on_has_no_modules(cli, world, monkeypatch, tmp_path):
    monkeypatch.setattr(L2, "build", lambda hook, model: None)
    with pytest.raises(ValueError, match="L2: only a method may have modules of its own"):
        cli("--load", world.model, "--l2", "0.1", *(COMMON + STEPS).split(), "--train-dataset", world.colours)


@those(["ewc"])
def test_the_fisher_pass_is_of_one_dataset(cli, world, example, tmp_path):
    done = cli("--load", world.model, *example, *COMMON.split(), "--joint", "--train-dataset",
               f"{world.colours},{world.tones}", "--save", tmp_path / "out")
    assert done.status == 2 and "leave --joint out" in done.err


@those(OWN)
def test_predictions_are_those_of_towers_with_modules(sequence, cli, world, example, tmp_path):
    """In training and in evaluation alone, every probability as a loop over the images gives it."""
    folder = sequence("out")
    content, task = loaded(folder / "tones.pth"), open_task(world.tones, "")
    experts = load_file(example[1].rpartition(":")[0])
    model = clip.load(str(folder / "tones.pth"))[0].double()
    own = experts.Mixtures(model, 3, 4, 2).double()
    own.load_state_dict(content["own"]["Experts"])
    with torch.no_grad(), attached(model, [own]):
        features, _ = features_of(model, replace(task, splits={"train": task.split("test")}))
        texts = zeroshot_weights(model, task.classnames, task.templates)
        expected = (model.logit_scale.exp() * features @ texts).softmax(dim=1).max(dim=1).values
    done = cli("--load", folder / "tones.pth", *example[:2], "--eval-only", "--eval-datasets", world.tones, "--workers",
               0, "--precision", "fp64", "--save", tmp_path / "scored")
    assert done.status == 0, done.err
    for place in (folder, tmp_path / "scored"):
        with (place / "predictions_tones.csv").open() as file:
            found = [float(row["probability"]) for row in csv.DictReader(file)]
        assert found == pytest.approx(expected.tolist(), abs=1e-6)
    with torch.no_grad():
        features, _ = features_of(model, replace(task, splits={"train": task.split("test")}))
        texts = zeroshot_weights(model, task.classnames, task.templates)
    without = (model.logit_scale.exp() * features @ texts).softmax(dim=1).max(dim=1).values
    assert (without - expected).abs().max() > 1e-4, "the modules act"

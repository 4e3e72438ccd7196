"""EWC: Fisher information image by image, penalty and steps against plain renderings in float64, and its runs."""

import dataclasses
import math
from types import SimpleNamespace

import pytest
import slow_reference as slow
import torch
from conftest import SENTENCES
from example_runs import (
    COMMON,
    STEPS,
    TASKS,
    assert_as_if_never_interrupted,
    broken,
    equal,
    last_rows,
    loaded,
    wait_for_writers,
)
from torch import nn

import clip
from src.datasets.common import Split, Task
from src.datasets.pairs import joint_task
from src.datasets.seeds import order_of_epoch, seed_of
from src.datasets.transforms import EvalTransform
from src.machine.distributed import World
from src.models import ewc
from src.models.averaging import WeightEnsemble
from src.models.ewc import EWC
from src.models.helpers import l2_distance
from src.models.hooks import Hooks
from src.models.modeling import ClassificationHead, recompute_blocks
from src.models.training import train

pytest_plugins = ["cli_fixtures", "example_fixtures"]

KINDS = ("empirical", "true", "weighted")


def next_of(hook):
    """The hook of the next task, from what this one carries."""
    other = type(hook)(hook.label_smoothing, hook.strength, hook.kind, hook.decay)
    other.load_carry(hook.carry())
    return other


def assert_close(found, expected):
    """Tensor by tensor to 1e-10 of its largest value; where all is zero by symmetry, to 1e-16 of all tensors'."""
    assert found.keys() == expected.keys()
    largest = max(value.abs().max().item() for value in expected.values())
    for name, value in expected.items():
        least = 1e-10 * value.abs().max().item() + 1e-16 * largest
        assert (found[name] - value).abs().max() <= least, name


# -- by hand -----------------------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """A model of two weights and no tower."""

    def __init__(self, theta):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(theta, dtype=torch.float64))
        self.logit_scale = nn.Parameter(torch.zeros((), dtype=torch.float64), requires_grad=False)


class PlainState(SimpleNamespace):
    """As much of a state as the two weights need."""

    def __init__(self, theta):
        model = Plain(theta)
        super().__init__(model=model, final_model=model, world=World(), task=SimpleNamespace(pairs=False))

    def seed_of(self, purpose):
        return seed_of(42, purpose)


class Logistic(EWC):
    """log p(y | x) = log sigmoid((2 y - 1) theta x), of the images ``rows`` (x, y)."""

    def images(self, state):
        for index, (x, label) in enumerate(self.rows):
            score = state.model.theta @ torch.tensor(x, dtype=torch.float64)
            yield [torch.stack([-score, score]).sigmoid().log()], label, index


def logistic(kind, theta, rows):
    hook, state = Logistic(ewc_fisher=kind), PlainState(theta)
    hook.rows = rows
    return hook.fisher_of_task(state)["theta"].tolist()


ROWS = [((2.0, 1.0), 1), ((-1.0, 3.0), 0), ((0.5, 0.0), 1)]


def test_the_fisher_information_of_a_logistic_model_by_hand():
    """The mean of (y - p)^2 x^2; at theta = 0 every p is 1/2."""
    assert logistic("empirical", [0.0, 0.0], ROWS) == pytest.approx([(4 + 1 + 0.25) / 12, (1 + 9) / 12], rel=1e-12)
    assert logistic("weighted", [0.0, 0.0], ROWS) == pytest.approx([(4 + 1 + 0.25) / 24, (1 + 9) / 24], rel=1e-12)
    theta = (0.3, -0.2)
    expected, weighted = [0.0, 0.0], [0.0, 0.0]
    for x, label in ROWS:
        p = 1 / (1 + math.exp(-(theta[0] * x[0] + theta[1] * x[1])))
        for place in (0, 1):
            square = ((label - p) * x[place]) ** 2 / 3
            expected[place] += square
            weighted[place] += square * (p if label else 1 - p)
    assert logistic("empirical", theta, ROWS) == pytest.approx(expected, rel=1e-12)
    assert logistic("weighted", theta, ROWS) == pytest.approx(weighted, rel=1e-12)


def test_true_fisher_information_draws_labels_from_the_model():
    """Whatever the labels; of many equal images it is p (1 - p) x^2, within 8 standard errors."""
    rows, theta = [((1.0, 0.0), 0)] * 300, (-0.7, 0.0)
    p = 1 / (1 + math.exp(-theta[0]))
    found = logistic("true", theta, rows)
    assert found == logistic("true", theta, [(x, 1) for x, _ in rows]) and found[1] == 0
    spread = math.sqrt(p * (1 - p)) * abs((1 - p) ** 2 - p ** 2) / math.sqrt(len(rows))
    assert abs(found[0] - p * (1 - p)) < 8 * spread
    assert abs(logistic("empirical", theta, rows)[0] - p ** 2) < 1e-12


class Quadratic(Hooks):
    """1/2 sum_i H_i (theta_i - mu_i)^2"""

    curvature = middle = None

    def __init__(self, ls=0.0):
        pass

    def losses(self, state, batch):
        return {"task": ((state.model.theta - self.middle) ** 2 * self.curvature).sum() / 2}


class Known(EWC):
    """EWC of quadratic tasks, whose Fisher information is their curvature."""

    def fisher_of_task(self, state):
        return {"theta": Quadratic.curvature}


CURVATURES = torch.tensor([[2.0, 0.5], [1.0, 3.0], [0.25, 4.0]], dtype=torch.float64)
MIDDLES = torch.tensor([[1.0, -2.0], [-3.0, 0.5], [2.0, 7.0]], dtype=torch.float64)


@pytest.mark.parametrize(("strength", "decay"), [(1.0, 1.0), (3.0, 1.0), (1.0, 0.5)])
def test_optima_of_quadratic_tasks(strength, decay, monkeypatch):
    """With F their curvature the optimum of each task is known: with strength and decay 1 that of all tasks together,
    to which two anchors would not lead."""
    monkeypatch.setattr(ewc, "Finetune", Quadratic)
    state, hook = PlainState([0.0, 0.0]), Known(ewc_strength=strength, ewc_decay=decay)
    held, expected = torch.zeros(2).double(), torch.zeros(2).double()
    for curvature, middle in zip(CURVATURES, MIDDLES, strict=True):
        Quadratic.curvature, Quadratic.middle = curvature, middle
        hook.begin(state)
        theta = state.model.theta
        with torch.no_grad():  # away from the anchor, where the penalty has no slope
            theta += torch.tensor([0.3, -1.1])
        slope, = torch.autograd.grad(sum(hook.losses(state, None).values()), theta)
        with torch.no_grad():  # one step of Newton's, exact on what is quadratic
            theta -= slope / (curvature + strength * held)
        expected = (strength * held * expected + curvature * middle) / (strength * held + curvature)
        torch.testing.assert_close(theta.detach(), expected, rtol=0, atol=1e-12)
        hook.end(state)
        held = decay * held + curvature
        hook = next_of(hook)
        torch.testing.assert_close(hook.fisher["theta"], held, rtol=0, atol=1e-14)
    joint = (CURVATURES * MIDDLES).sum(dim=0) / CURVATURES.sum(dim=0)
    assert torch.allclose(state.model.theta, joint, rtol=0, atol=1e-12) == (strength == decay == 1)


def test_weighed_distances_by_hand():
    one, other = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([[3.0]], requires_grad=True)
    distance = l2_distance([one, other], [torch.tensor([0.0, 4.0]), torch.tensor([[1.0]])],
                           [torch.tensor([5.0, 0.5]), torch.tensor([[2.0]])])
    assert distance.item() == 5 * 1 + 0.5 * 4 + 2 * 4
    distance.backward()
    assert one.grad.tolist() == [2 * 5 * 1, 2 * 0.5 * -2] and other.grad.tolist() == [[2 * 2 * 2]]


# -- Fisher information of CLIP ----------------------------------------------------------------------------------------


def pixels_of(split, index, device, resolution=16):
    return device.images(EvalTransform(resolution)(split.image(index), 0)[None])[0]


def slow_fisher(state, kind, rows):
    """Image by image, each with its own texts: the mean of squared gradients of a log-softmax written out."""
    model, squares = state.model, {}
    weights = {name: value for name, value in model.named_parameters()
               if value.requires_grad and not name.startswith("head.")}
    for image, tokens, label, seed in rows:
        logs = slow.log_softmax(slow.scores([slow.image_feature(model, image)], slow.text_features(model, tokens),
                                            model.logit_scale.detach().exp())[0])
        p = torch.stack(logs).detach().exp()
        if kind == "true":
            label = torch.multinomial(p, 1, generator=torch.Generator().manual_seed(seed)).item()
        gradients = torch.autograd.grad(logs[label], list(weights.values()))
        factor = p[label] if kind == "weighted" else 1
        for name, gradient in zip(weights, gradients, strict=True):
            squares[name] = squares.get(name, 0) + factor * gradient ** 2 / len(rows)
    return squares


def few(state, count=7):
    """The state with fewer training images, so that a loop over them is quick; a batch of 4 leaves a remainder."""
    state.task = dataclasses.replace(state.task, splits={"train": state.task.split("train").subset(range(count))})
    return state


def rows_of(state, task=None):
    """[(image, tokens of the classes, label, seed of a drawn label)] of the training images."""
    split = (task or state.task).split("train")
    tokens = clip.tokenize((task or state.task).prompts(), state.model.context_length)
    return [(pixels_of(split, index, state.device), tokens, split.labels[index],
             seed_of(state.seed_of("labels"), index)) for index in range(len(split))]


@pytest.mark.parametrize(("kind", "fisher", "mode"), [
    ("vit", "empirical", "whole"), ("vit", "true", "whole"), ("vit", "weighted", "whole"), ("vit", "empirical", "text"),
    ("resnet", "empirical", "whole"), ("vit", "true", "image")])
def test_fisher_information_is_that_of_a_loop_over_images(kind, fisher, mode, make_state, make_model):
    state, hook = few(make_state(make_model(kind), mode)), EWC(ls=0.2, ewc_fisher=fisher)
    hook.begin(state)
    hook.end(state)
    expected = slow_fisher(state, fisher, rows_of(state))
    assert_close(hook.fisher, expected)
    assert all(torch.equal(hook.anchor[name], state.model.get_parameter(name)) for name in expected)
    assert max(value.max() for value in hook.fisher.values()) > 1e-3


def test_it_is_not_the_square_of_a_mean(make_state, make_model):
    """Batches of another size change nothing beyond rounding; squares of batch means would be a fraction."""
    found = []
    for size in (1, 4, 23):
        state, hook = make_state(make_model("vit"), batch_size=size), EWC()
        hook.begin(state)
        found.append(hook.fisher_of_task(state))
    assert_close(found[1], found[0])
    assert_close(found[2], found[0])
    rows = rows_of(state)
    loss = sum(slow.task_loss(state.model, image[None], torch.tensor([label]), tokens, 0.0,
                              state.model.logit_scale.detach().exp()) for image, tokens, label, _ in rows) / len(rows)
    square = torch.autograd.grad(loss, state.model.text_projection)[0] ** 2
    assert square.sum() < 0.5 * found[0]["text_projection"].sum()


def test_recomputed_blocks_and_parts_of_batches_change_nothing(make_state, make_model):
    found = []
    for recompute in (False, True):
        state, hook = few(make_state(make_model("vit"))), EWC()
        hook.begin(state)
        if recompute:
            recompute_blocks(state.model)
            state.model.parts = 2
        found.append(hook.fisher_of_task(state))
    assert_close(found[1], found[0])


def test_of_a_joint_task_each_image_is_scored_over_its_own_classes(make_state, make_model, make_task):
    parts = [dataclasses.replace(part, splits={"train": part.split("train").subset(range(count))})
             for part, count in ((make_task(), 6), (make_task(2, "tiny-other"), 5))]
    state, hook = make_state(make_model("vit")), EWC()
    state.task = joint_task(parts)
    hook.begin(state)
    rows = [row for part in parts for row in rows_of(state, part)]
    assert_close(hook.fisher_of_task(state), slow_fisher(state, "empirical", rows))


def test_a_linear_head_has_none(make_state, make_model):
    """It belongs to its task; the next one has another number of classes."""
    model = make_model("vit")
    model.head = ClassificationHead(torch.randn(4, 8, dtype=torch.float64), torch.zeros(4).double())
    state, hook = make_state(model, "image-fc", iterations=2), EWC()
    train(few(state), [hook])
    assert hook.fisher and all(name.startswith("visual.") for name in hook.fisher)
    model.head = ClassificationHead(torch.randn(4, 8, dtype=torch.float64), torch.zeros(4).double())
    train(few(make_state(model, "image-fc", iterations=2)), [next_of(hook)])


def test_an_average_is_the_anchor(make_state, make_model):
    state, hook = few(make_state(make_model("vit"), iterations=3)), EWC()
    train(state, [hook, WeightEnsemble(avg_freq=1)])
    average = dict(state.ensemble.named_parameters())
    assert all(torch.equal(value, average[name]) for name, value in hook.anchor.items())
    assert_close(hook.fisher, slow_fisher(state, "empirical", rows_of(state)))


# -- penalty and steps -------------------------------------------------------------------------------------------------


def test_nothing_pulls_in_the_first_task_nor_at_the_anchor(make_state, make_model):
    state, hook = few(make_state(make_model("vit"))), EWC()
    hook.begin(state)
    batch = next(state.training_stream())
    assert list(hook.losses(state, batch)) == ["task"]
    hook.end(state)
    hook = next_of(hook)
    hook.begin(state)
    penalty = hook.losses(state, batch)["ewc"]
    gradients = torch.autograd.grad(penalty, list(hook.held[0]))
    assert penalty.item() == 0 and not any(gradient.any() for gradient in gradients)


def test_two_tasks_are_those_of_plain_arithmetic(make_state, make_model, stream_of, task):
    """AdamW, label smoothing, Fisher information, decay and penalty, written out over two tasks of three steps."""
    hook, model, other = EWC(0.1, 5.0, "empirical", 0.7), make_model("vit"), make_model("vit")
    fisher, anchor = {}, {}
    weights = {name: value for name, value in other.named_parameters() if name != "logit_scale"}
    other.logit_scale.requires_grad_(False)
    tokens = clip.tokenize(task.prompts(), other.context_length)

    def loss_of(step, batch):
        loss = slow.task_loss(other, batch.images, batch.labels, tokens, 0.1, other.logit_scale.exp())
        for name, value in fisher.items():
            loss = loss + 5.0 / 2 * (value * (weights[name] - anchor[name]) ** 2).sum()
        return loss

    for _ in range(2):
        state = few(make_state(model, iterations=3))
        train(state, [hook])
        batches = list(stream_of(state.task.split("train"), "train", 3, train_transform=True))
        slow.train(weights.values(), loss_of, batches, [slow.learning_rate(step, 3, 2, 1e-2) for step in range(3)])
        assert_near(dict(model.named_parameters()), weights, 1e-8)
        found = slow_fisher(SimpleNamespace(model=other), "empirical", rows_of(state))
        fisher |= {name: 0.7 * fisher.get(name, 0) + value for name, value in found.items()}
        anchor |= {name: value.detach().clone() for name, value in weights.items()}
        assert_near(hook.fisher, fisher, 1e-6)
        hook = next_of(hook)


def assert_near(found, expected, tolerance):
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance, msg=name)


def test_a_strong_penalty_holds_the_weights(make_state, make_model):
    """Most where they have Fisher information."""
    distances = []
    for strength in (0.0, 1e6):
        hook, model = EWC(ewc_strength=strength), make_model("vit")
        train(few(make_state(model, iterations=1)), [hook])
        train(few(make_state(model, iterations=6)), [next_of(hook)])
        distances.append(sum((value * (model.get_parameter(name) - hook.anchor[name]) ** 2).sum().item()
                             for name, value in hook.fisher.items()))
    assert distances[1] < distances[0] / 20


def test_what_trains_for_the_first_time_is_named(make_state, make_model, capsys):
    hook, model = EWC(), make_model("vit")
    hook.begin(state := few(make_state(model, "image")))
    hook.end(state)
    hook = next_of(hook)
    hook.begin(make_state(model, "whole"))
    total = sum(1 for name, _ in model.named_parameters() if name != "logit_scale")
    assert f"note: EWC protects {len(hook.held[0])} of the {total} tensors that train" in capsys.readouterr().out
    other = next_of(hook)
    other.begin(make_state(model, "text"))
    assert list(other.losses(state, next(state.training_stream()))) == ["task"]
    assert "EWC protects 0 of" in capsys.readouterr().out


# -- image-text pairs --------------------------------------------------------------------------------------------------


def pairs_task(task, count=11):
    """Of 11 pairs in batches of 4, three are left out. Every second image has two captions."""
    captions = [(f"{SENTENCES[index % 5]}{' dog' * (index // 5)}",) + (("the old car",) if index % 2 else ())
                for index in range(count)]
    return Task("pairs", (), (), {"train": Split(task.split("train").image, [0] * count, captions=captions)},
                in_memory=True, pairs=True)


@pytest.mark.parametrize("fisher", KINDS)
def test_fisher_information_of_pairs_is_that_of_a_loop(fisher, make_state, make_model, task):
    """Each pair of a full batch by itself: half the sum of both directions' log p, through all that the batch holds."""
    state, hook = make_state(make_model("vit")), EWC(ewc_fisher=fisher)
    state.task = pairs_task(task)
    hook.begin(state)
    found = hook.fisher_of_task(state)
    split, model, seed = state.task.split("train"), state.model, state.seed_of("fisher")
    captions = [caption for texts in split.captions for caption in texts]
    weights = {name: value for name, value in model.named_parameters() if value.requires_grad}
    expected = dict.fromkeys(weights, 0)
    order = order_of_epoch(11, seed, 0)
    for rows in (order[:4], order[4:8]):
        images = torch.stack([pixels_of(split, row, state.device) for row in rows])
        texts = clip.tokenize([captions[slow.drawn_caption(split.captions, seed, 0, row)] for row in rows],
                              model.context_length)
        scores = slow.scores(slow.image_features(model, images), slow.text_features(model, texts),
                             model.logit_scale.exp())
        for place, row in enumerate(rows):
            both = slow.log_softmax(scores[place]), slow.log_softmax(slow.transposed(scores)[place])
            answers = [place, place]
            if fisher == "true":
                generator = torch.Generator().manual_seed(seed_of(state.seed_of("labels"), row))
                answers = [torch.multinomial(torch.stack(logs).detach().exp(), 1, generator=generator).item()
                           for logs in both]
            log = sum(logs[answer] for logs, answer in zip(both, answers, strict=True)) / 2
            factor = log.detach().exp() if fisher == "weighted" else 1
            for name, gradient in slow.gradients_of(log, model).items():
                expected[name] = expected[name] + factor * gradient ** 2 / 8
    assert_close(found, expected)
    assert found["logit_scale"] > 1e-6


def test_pairs_after_classes_are_held_too(make_state, make_model, task, capsys):
    """All that trained there; the temperature did not."""
    hook, model = EWC(), make_model("vit")
    train(few(make_state(model, iterations=1)), [hook])
    state, hook = make_state(model, iterations=2), next_of(hook)
    state.task, terms = pairs_task(task), []
    train(state, [hook], lambda state, losses: terms.append(losses))
    assert [list(losses) for losses in terms] == [["contrastive", "ewc"]] * 2 and terms[1]["ewc"] > 0
    total = len(list(model.named_parameters()))
    assert f"EWC protects {total - 1} of the {total} tensors that train" in capsys.readouterr().out
    assert "logit_scale" in hook.fisher and "logit_scale" in hook.anchor


# -- runs --------------------------------------------------------------------------------------------------------------

WORDS = ("--method", "ewc", "--ewc-strength", "1e4", "--ewc-fisher", "true", "--ewc-decay", "0.9", *STEPS)


@pytest.fixture(scope="module")
def ran(world, trio, tmp_path_factory):
    """The folder of three tasks. Called within a test, so that no picture is drawn."""
    from src.main import main
    folder = tmp_path_factory.mktemp("ewc") / "out"

    def run():
        if not folder.exists():
            words = ("--load", world.model, *WORDS, *COMMON, "--dataset-order", ",".join(trio.values()))
            assert main([*map(str, words), "--save", str(folder)]) == 0
        return folder
    return run


def test_evaluation_gives_the_rows_of_training(ran, cli, trio, tmp_path):
    folder = ran()
    done = cli("--load", folder / "shades.pth", "--eval-only", "--eval-datasets", ",".join(trio.values()), *COMMON[2:],
               "--save", tmp_path)
    assert done.status == 0, done.err
    expected, found = (last_rows(place, *TASKS) for place in (folder, tmp_path))
    assert found == expected and len(found) == 6
    carried = loaded(folder / "shades.pth")["carry"]["EWC"]
    assert carried["fisher"].keys() == carried["anchor"].keys() and len(carried["fisher"]) > 20
    state = loaded(folder / "shades.pth")["state_dict"]
    assert all(torch.equal(value, state[name]) for name, value in carried["anchor"].items())


@pytest.mark.slow
def test_a_sequence_equals_a_chain(ran, chain):
    for checkpoint in chain(*WORDS):
        assert equal(loaded(checkpoint), loaded(ran() / checkpoint.name), {"config", "history"})


@pytest.mark.parametrize("moment", [
    "pass", *(pytest.param(moment, marks=pytest.mark.slow) for moment in ("begin", "step", "end"))])
def test_interrupted_it_ends_with_the_same_bits(ran, cli, world, trio, interrupt, moment, tmp_path):
    """In the second task, which begins with what the first has left."""
    words = ("--load", world.model, *WORDS, *COMMON, "--dataset-order", ",".join(trio.values()), "--save", tmp_path,
             "--resume", "--save-interval", 1)
    if moment == "step":
        interrupt("tones", 2)
        assert cli(*words).status == 130
        interrupt(None)
        wait_for_writers()
    else:
        with broken(EWC, moment, "tones"):
            assert cli(*words).status == 130
    assert (tmp_path / "colours.pth").is_file() and not (tmp_path / "tones.pth").exists()
    done = cli(*words)
    assert done.status == 0, done.err
    assert_as_if_never_interrupted(tmp_path, ran())


@pytest.mark.slow
def test_the_example_carries_on_what_the_method_left(ran, cli, world, trio, tmp_path):
    """Both go by the same names."""
    done = cli("--load", ran() / "colours.pth", "--method", "examples/methods/ewc.py:EWC", *COMMON, *STEPS,
               "--train-dataset", trio["tones"], "--log-interval", 1, "--save", tmp_path)
    assert done.status == 0 and "ewc 0." in done.out, done.err


def test_adapters_are_refused(cli, world, tmp_path):
    done = cli("--load", world.model, *WORDS, *COMMON, "--train-dataset", world.colours, "--lora", "--save",
               tmp_path / "out")
    assert done.status == 2 and "--method ewc with --lora: each task merges its adapters" in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("order", ["mtil-1", "mtil-2"])
def test_the_recipe_resolves(cli, order, tmp_path):
    """Refused for nothing but data that is not there."""
    done = cli("--recipe", "ewc", "--dataset-order", order, "--dry-run", "--data-location", tmp_path)
    assert "recipe ewc: --method ewc" in done.out and "trains 301 of 302 tensors, 149,620,736 of" in done.out
    [reason] = [line for line in done.out.partition("the run would be refused")[2].splitlines() if line[:2] == "- "]
    assert "StanfordCars is not at" in reason and done.status == 2

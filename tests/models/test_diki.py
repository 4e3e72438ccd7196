"""DIKI in float64 on a ViT of two blocks: training by hand, statistics and routes written out; through real runs."""

import contextlib
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import ranks
import slow_reference as slow
import torch
import torch.nn.functional as F
from cli_files import read_json
from cli_files import rows as rows_in
from conftest import random_images, tiny_clip
from example_runs import COMMON, TASKS, assert_as_if_never_interrupted, broken, equal, last_rows, loaded

import src.models.diki
from src.datasets.common import Split, Task
from src.datasets.transforms import EvalTransform
from src.errors import UserError
from src.machine.batch import Batch
from src.main import main
from src.models.attached import build_own, stored_tensors
from src.models.classifiers import classifier
from src.models.diki import DIKI
from src.models.evaluation import evaluate
from src.models.modeling import image_features
from src.models.training import begin, train
from src.run.method_scores import MethodScores

pytest_plugins = ["cli_fixtures", "example_fixtures"]

CLASSES = {"first": ("cat", "red bird", "dog", "very old green tree"), "second": ("car", "small blue house"),
           "third": ("blue", "two birds", "drawing")}
SIZES = {"first": 23, "second": 19, "third": 14}
PRECISE = dict(rtol=0, atol=1e-10)


def moved(image, task):
    """A picture of another task's kind: darker, or upside down, so that zero-shot features of tasks differ."""
    return (image, image.point(lambda value: value // 3), image.transpose(1))[task]


@pytest.fixture(scope="module")
def tasks():
    """{name: Task}, each with other images; of the test images some look like another task's."""
    found = {}
    for number, (name, classnames) in enumerate(CLASSES.items()):
        train_ = [moved(image, number) for image in random_images(SIZES[name], 10 * number)]
        test = [moved(image, (number + index // 8) % 3) for index, image in enumerate(random_images(13, 100 + number))]
        splits = {part: Split(images.__getitem__, [index * 7 % len(classnames) for index in range(len(images))])
                  for part, images in (("train", train_), ("test", test))}
        found[name] = Task(name, classnames, (f"a {name} photo of a {{c}}.", "{c}"), splits, in_memory=True)
    return found


@pytest.fixture
def model():
    """Random, of the scale of published weights."""
    found = tiny_clip("vit")
    found.logit_scale.data.fill_(np.log(100))
    return found


@pytest.fixture
def learn(make_state, tasks, model, device):
    """-> learn(names, settings, **options): the hook and the state once these tasks are trained, each with what the one
    before has left; at a rate that moves prefixes well."""
    @torch.enable_grad()
    def call(names, router="sample", carry=None, stored=None, **options):
        for name in names:
            hook = DIKI(router=router, diki_length=3, **options)
            hook.load_carry(carry or {})
            state = make_state(model, lr=5.0, optimizer="sgd", crops="none", warmup=0)
            state.task, state.source = tasks[name], name
            state.own = build_own([hook], model, device, stored)
            train(state, [hook])
            carry, stored = hook.carry(), stored_tensors(state.own)
        return hook, state
    return call


@pytest.fixture
def classes(tasks, model, device):
    """{name: Classes}, their weights those of plain CLIP."""
    return {name: classifier(model, task, device).named(name, name).classes for name, task in tasks.items()}


@pytest.fixture
def score(classes):
    """-> score(hook, state, images, name): {label space: scores (B, C)} of images, "all" joining the three."""
    @torch.no_grad()
    def call(hook, state, images, name="first"):
        with state.in_place(state.model):
            return hook.scores(state, images, {"task": [classes[name]], "all": [*classes.values()]})
    return call


@pytest.fixture
def pixels(tasks, device, model):
    """-> pixels(name, split): normalised images (N, 3, R, R)."""
    def call(name, split="test"):
        found = tasks[name].split(split)
        images = [EvalTransform(model.image_resolution)(found.image(index)) for index in range(len(found))]
        return device.batch(Batch(torch.stack(images), torch.zeros(len(images), dtype=torch.long))).images
    return call


@pytest.fixture
def mixture(pixels):
    """Images of all three tasks, shuffled."""
    images = torch.cat([pixels(name) for name in CLASSES])
    return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(4))]


# -- by hand -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def beside(model, rows, weight):
    """While entered, every attention of a CLIP adds weight * softmax(q k^T / sqrt(d)) v of ``rows``, [(2, M, W)]."""
    def branch(keys, values, heads):
        def mix(query, key, value):
            asked = query.transpose(1, 2).flatten(2)                                       # (B, L, W)
            parts = []
            for head in range(heads):
                own = slice(head * query.shape[-1], (head + 1) * query.shape[-1])
                scores = asked[..., own] @ keys[:, own].T / math.sqrt(query.shape[-1])
                parts.append(weight * scores.softmax(dim=-1) @ values[:, own])
            return torch.stack(parts, dim=1)
        return mix
    blocks = [*model.visual.transformer.resblocks, *model.transformer.resblocks]
    for block, (keys, values) in zip(blocks, rows, strict=True):
        vars(block.attn)["beside"] = branch(keys, values, block.attn.heads)
    try:
        yield
    finally:
        for block in blocks:
            del vars(block.attn)["beside"]


def rows_of(stored, task):
    return [stored[f"parts.{part}.rows.{task}"] for part in range(3)]


def slow_texts(model, part, rows=None, weight=0.0):
    """(D, C): class by class, the mean over templates as a unit vector."""
    with beside(model, rows, weight) if rows else contextlib.nullcontext():
        return torch.stack(slow.zeroshot_weights(model, [
            [tokens_of_one(template.replace("{c}", name)) for template in part.templates]
            for name in part.classnames]), dim=1)


def tokens_of_one(text):
    import clip
    return clip.tokenize([text], 14)[0]


class Written:
    """The paper's rule from a hook's carry and stored prefixes."""

    def __init__(self, model, hook, state):
        self.model, self.rows = model, stored_tensors(state.own)["DIKI"]
        self.gaussians = [torch.distributions.MultivariateNormal(mean, covariance)
                          for mean, covariance in zip(hook.means, hook.covariances, strict=True)]

    def route(self, image):
        """-> (task, w)"""
        densities = [float(gaussian.log_prob(slow.image_feature(self.model, image))) for gaussian in self.gaussians]
        return densities.index(max(densities)), 1 / (1 + math.exp(1 - max(densities) / 8))

    def feature(self, image, task, weight):
        with beside(self.model, rows_of(self.rows, task), weight):
            return slow.image_feature(self.model, image)

    def texts(self, part, task, weight):
        return slow_texts(self.model, part, rows_of(self.rows, task), weight)

    def alone(self, image, parts, grid=16):
        task, weight = self.route(image)
        step = min(math.floor(grid * weight), grid - 1)
        share, found = grid * weight - step, []
        for part in parts:
            mixed = ((1 - share) * self.texts(part, task, step / grid)
                     + share * self.texts(part, task, (step + 1) / grid))
            found.append(100 * self.feature(image, task, weight) @ F.normalize(mixed, dim=0))
        return torch.cat(found)

    def together(self, images, parts):
        tasks, weights = zip(*map(self.route, images), strict=True)
        votes = Counter(tasks)
        task = min(task for task in votes if votes[task] == max(votes.values()))
        texts = torch.cat([self.texts(part, task, sum(weights) / len(weights)) for part in parts], dim=1)
        return torch.stack([100 * self.feature(image, task, weight) @ texts
                            for image, weight in zip(images, weights, strict=True)])


# -- training ----------------------------------------------------------------------------------------------------------


def test_a_task_by_hand(make_state, tasks, model, device, stream_of):
    """SGD on one tensor a block, from lr 5 to 5e-3 by half a cosine, without smoothing, through the first template."""
    state = make_state(model, lr=5.0, optimizer="sgd", crops="none", warmup=0, lr_floor=5e-3, batch_size=5,
                       iterations=3)
    state.task, hook = tasks["first"], DIKI(diki_length=3)
    state.own = build_own([hook], model, device)
    before, start = {name: value.clone() for name, value in model.state_dict().items()}, []
    train(state, [hook], begun=lambda state, hooks: start.append(stored_tensors(state.own)["DIKI"]))
    rows = [value.requires_grad_() for value in rows_of(start[0], 0)]
    tokens = [tokens_of_one(f"a first photo of a {name}.") for name in CLASSES["first"]]
    for step, batch in enumerate(stream_of(tasks["first"].split("train"), "train", 3, 5, name="first")):
        with beside(model, rows, 1.0):
            loss = slow.task_loss(model, batch.images, batch.labels.tolist(), tokens, 0.0, 100.0)
        gradients = torch.autograd.grad(loss, rows)
        rate = 5e-3 + (5 - 5e-3) * (1 + math.cos(math.pi * step / 3)) / 2
        rows = [(value - rate * gradient).detach().requires_grad_()
                for value, gradient in zip(rows, gradients, strict=True)]
    for found, expected in zip(rows_of(stored_tensors(state.own)["DIKI"], 0), rows, strict=True):
        torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-9)
        assert found[1].abs().max() > 1e-2
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_statistics_are_of_unit_zero_shot_features(learn, pixels, model):
    hook, _ = learn(["first", "second"])
    for task, name in enumerate(("first", "second")):
        with torch.no_grad():
            features = np.stack([slow.image_feature(model, image).numpy() for image in pixels(name, "train")])
        torch.testing.assert_close(hook.means[task], torch.from_numpy(features.mean(axis=0)), rtol=0, atol=1e-14)
        covariance = torch.from_numpy(np.cov(features.T, ddof=1) + 1e-7 * np.eye(8))
        torch.testing.assert_close(hook.covariances[task], covariance, rtol=0, atol=1e-14)


def test_other_tasks_stay_to_the_bit(learn):
    hook, state = learn(["first"])
    before = stored_tensors(state.own)
    hook, state = learn(["second", "third"], carry=hook.carry(), stored=before)
    after = stored_tensors(state.own)["DIKI"]
    assert hook.tasks == ["first", "second", "third"] and len(after) == 9 and len(before["DIKI"]) == 3
    assert all(torch.equal(after[name], value) for name, value in before["DIKI"].items())
    assert not any(torch.equal(after[f"parts.{part}.rows.1"], after[f"parts.{part}.rows.2"]) for part in range(3))


def test_few_images_are_a_warning_and_a_single_one_is_refused(make_state, tasks, model, device, capsys):
    words = "warning: third has 14 training images, fewer than twice the 8 values of a feature"
    for name in ("first", "third"):
        state, hook = make_state(model), DIKI()
        state.task, state.own = tasks[name], build_own([hook], model, device)
        begin(state, [hook])
        assert (words in capsys.readouterr().err) == (name == "third")
    state.task.splits["train"], kept = state.task.split("train").subset([3]), state.task.split("train")
    hook = DIKI()
    state.own = build_own([hook], model, device)
    with pytest.raises(UserError, match="--method diki: third has a single training image"):
        begin(state, [hook])
    state.task.splits["train"] = kept


# -- routes ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_each_image_goes_to_its_likeliest_task(learn, mixture, model):
    hook, state = learn(CLASSES)
    written = Written(model, hook, state)
    tasks, weights = hook.routes(image_features(model, mixture))
    expected = [written.route(image) for image in mixture]
    assert tasks.tolist() == [task for task, _ in expected]
    torch.testing.assert_close(weights, torch.tensor([weight for _, weight in expected], dtype=torch.float64),
                               rtol=1e-9, atol=0)
    spread = Counter(tasks.tolist()), {int(16 * weight) for weight in weights}
    assert len(spread[0]) == 3 and len(spread[1]) > 5, spread


@torch.no_grad()
def test_far_data_is_scored_as_zero_shot(learn, score, pixels, tasks, classes, model, monkeypatch):
    """After a task of almost grey pictures; these themselves have a weight."""
    grey = [image.point(lambda value: 126 + value // 64) for image in random_images(23, 8)]
    labels = tasks["first"].split("train").labels
    near = replace(tasks["first"], name="grey", splits={"train": Split(grey.__getitem__, labels)})
    monkeypatch.setitem(tasks, "grey", near)
    hook, state = learn(["grey"])
    for name in ("second", "third"):
        features = image_features(model, pixels(name))
        assert hook.routes(features)[1].max() < 1e-3
        torch.testing.assert_close(score(hook, state, pixels(name), name)["task"],
                                   100 * features @ classes[name].weights, rtol=0, atol=0.05)
    assert hook.routes(image_features(model, pixels("grey", "train")))[1].min() > 0.5


# -- scores ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_single_images_are_scored_by_the_rule_written_out(learn, score, mixture, classes, model):
    """In both label spaces, whatever the size of a batch."""
    hook, state = learn(CLASSES)
    written = Written(model, hook, state)
    mixture = mixture[:12]
    expected = torch.stack([written.alone(image, classes.values()) for image in mixture])
    for size in (1, 5, 12):
        found = [score(hook, state, images, "second") for images in mixture.split(size)]
        torch.testing.assert_close(torch.cat([scores["all"] for scores in found]), expected, **PRECISE)
        torch.testing.assert_close(torch.cat([scores["task"] for scores in found]), expected[:, 4:6], **PRECISE)
    plain = 100 * image_features(model, mixture) @ torch.cat([part.weights for part in classes.values()], dim=1)
    assert (expected - plain).abs().max() > 1


@torch.no_grad()
def test_batches_are_scored_by_the_rule_written_out(learn, score, mixture, classes, model):
    hook, state = learn(CLASSES, router="batch")
    written, chosen = Written(model, hook, state), set()
    for images in mixture[:22].split(3):
        found = score(hook, state, images, "second")
        expected = written.together(images, classes.values())
        torch.testing.assert_close(found["all"], expected, **PRECISE)
        torch.testing.assert_close(found["task"], expected[:, 4:6], **PRECISE)
        chosen.add(Counter(written.route(image)[0] for image in images).most_common()[0][0])
    assert len(chosen) > 1


@torch.no_grad()
def test_of_two_tasks_with_as_many_votes_the_first_acts(learn, score, mixture, model, monkeypatch):
    hook, state = learn(CLASSES, router="batch")
    weights = torch.tensor([0.5, 0.25, 0.75, 0.5]).double()
    found = []
    for tasks in ([2, 1, 2, 1], [1, 1, 1, 1], [2, 1, 2, 2]):
        monkeypatch.setattr(hook, "routes", lambda features, tasks=tasks: (torch.tensor(tasks), weights))
        found.append(score(hook, state, mixture[:4])["all"])
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@torch.no_grad()
def test_of_equal_fits_the_later_task_is_chosen(learn, mixture, model):
    """A chain may train a dataset again, whose statistics are the same."""
    hook, _ = learn(CLASSES)
    hook.means, hook.covariances, hook.gaussians = hook.means[:1] * 3, hook.covariances[:1] * 3, []
    routes, _ = hook.routes(image_features(model, mixture))
    assert routes.tolist() == [2] * len(mixture)


@torch.no_grad()
def test_both_routers_agree_on_a_batch_of_one(learn, score, mixture, monkeypatch):
    """To the bit at weights on the grid, else to an error that falls with the square of its width."""
    hook, state = learn(CLASSES)

    def scores(router, images):
        hook.router, hook.encoded_after = router, None
        return torch.cat([score(hook, state, image[None])["all"] for image in images])
    exact, errors = scores("batch", mixture[:6]), []
    for grid in (4, 16, 64):
        monkeypatch.setattr(src.models.diki, "GRID", grid)
        errors.append(float((scores("sample", mixture[:6]) - exact).abs().max()))
    assert errors[0] > 6 * errors[1] > 36 * errors[2] > 0, errors
    monkeypatch.setattr(src.models.diki, "GRID", 16)
    for weight in (1 / 16, 0.5, 15 / 16, 1.0):
        monkeypatch.setattr(hook, "routes", lambda features, weight=weight: (
            torch.tensor([1]), features.new_tensor([weight])))
        assert torch.equal(scores("sample", mixture[:3]), scores("batch", mixture[:3]))


@torch.no_grad()
@pytest.mark.parametrize("router", ["sample", "batch"])
def test_weight_0_is_zero_shot_to_the_bit(learn, score, pixels, tasks, classes, model, device, router, monkeypatch):
    hook, state = learn(["first", "second"], router=router)
    plain = {name: classifier(model, task, device)(image_features(model, pixels(name)), model.logit_scale.exp())
             for name, task in tasks.items()}
    monkeypatch.setattr(hook, "routes", lambda features: (
        torch.arange(len(features)) % 2, features.new_zeros(len(features))))
    for name in CLASSES:
        assert torch.equal(score(hook, state, pixels(name), name)["task"], plain[name])
    if router == "sample":  # where each image has its own weight
        monkeypatch.setattr(hook, "routes", lambda features: (
            torch.arange(len(features)) % 2, (torch.arange(len(features)) % 3 == 0).to(features)))
        apart = (score(hook, state, pixels("third"), "third")["task"] != plain["third"]).any(dim=1)
        assert torch.equal(apart, torch.arange(13) % 3 == 0)


@torch.no_grad()
def test_prompts_are_encoded_once_and_again_after_a_step(learn, score, mixture, monkeypatch):
    hook, state = learn(["first", "second"])
    encoded, encode = [], src.models.diki.zeroshot_weights
    monkeypatch.setattr(src.models.diki, "zeroshot_weights",
                        lambda model, *words: encoded.append(words[0]) or encode(model, *words))
    first = score(hook, state, mixture[:6])
    count = len(encoded)
    again = score(hook, state, mixture[:6])
    assert len(encoded) == count > 6 and torch.equal(first["all"], again["all"])
    hook.prefixes.parts[2].rows[1].data += 0.1
    state.iteration += 1
    other = score(hook, state, mixture[:6])
    assert len(encoded) > count and not torch.equal(first["all"], other["all"])


def test_an_evaluation_sees_the_routes_and_a_task_trains_on_after_it(learn, tasks, device, classes):
    """Through ``evaluate``; then training mode is back, in which the task at hand acts."""
    hook, state = learn(["first", "second"])
    method = MethodScores(state, [hook])
    with state.in_place(state.model):
        found = evaluate(state.model, tasks["second"], device, batch_size=5, method=method)
    assert found["task"].n == 13 and method.by("task") == "logits:DIKI:sample"
    assert hook.prefixes.training and hook.prefixes.route == [None, None]


def test_without_a_trained_task_clip_scores():
    assert DIKI().scores(None, None, {}) is None
    assert DIKI().carry() == {}


# -- runs --------------------------------------------------------------------------------------------------------------

RECIPE = ["--method", "diki", "--diki-length", 3, "--diki-blocks", 1, "--optimizer", "sgd", "--lr", 5, "--lr-floor",
          "5e-3", "--warmup-length", 0, "--iterations", 3, "--crops", "none"]


@pytest.fixture(scope="module")
def run_once(world, trio, tmp_path_factory):
    folders = []

    def of():
        if not folders:
            folders.append(tmp_path_factory.mktemp("trained"))
            assert main([str(word) for word in sequence_of(world, trio, folders[0])]) == 0
        return folders[0]
    return of


@pytest.fixture
def trained(run_once):
    """The folder of a sequence of the three tasks, run once within a test, so that no picture is drawn; no test may
    change it."""
    return run_once()


def sequence_of(world, trio, folder, *words):
    return ["--load", world.model, *RECIPE, *COMMON, "--dataset-order", ",".join(trio.values()), "--save", folder,
            *words]


def evaluation_of(folder, trio, save, *words):
    return ["--load", folder / "shades.pth", "--eval-only", "--eval-datasets", ",".join(trio.values()), *COMMON[2:],
            "--save", save, *words]


def scores_in(folder):
    return {key: (row["top1"], row["scored_by"]) for key, row in last_rows(folder, *TASKS).items()}


def test_a_checkpoint_is_scored_as_in_training(trained, cli, trio, tmp_path):
    """By itself, with the keywords that it was made with; batches are others."""
    done = cli(*evaluation_of(trained, trio, tmp_path, "--batch-size-eval", 3))
    assert done.status == 0, done.err
    assert scores_in(tmp_path) == scores_in(trained)
    assert {by for _, by in scores_in(tmp_path).values()} == {"logits:DIKI:sample"}


def test_the_router_is_a_choice_of_the_evaluation(trained, cli, trio, tmp_path):
    done = cli(*evaluation_of(trained, trio, tmp_path, "--router", "batch"))
    assert done.status == 0, done.err
    assert {by for _, by in scores_in(tmp_path).values()} == {"logits:DIKI:batch"}
    assert "router batch" in done.out


def test_the_table_has_the_router_that_the_checkpoint_was_trained_with(trained, cli, trio, tmp_path):
    checkpoint = loaded(trained / "shades.pth")
    checkpoint["scorer"]["keywords"]["router"] = checkpoint["config"]["router"] = "batch"
    torch.save(checkpoint, tmp_path / "shades.pth")
    for number, (words, router) in enumerate([((), "batch"), (("--method", "diki"), "batch"),
                                              (("--router", "sample"), "sample")]):
        done = cli(*evaluation_of(tmp_path, trio, tmp_path / str(number), *words))
        assert done.status == 0, done.err
        assert {by for _, by in scores_in(tmp_path / str(number)).values()} == {f"logits:DIKI:{router}"}
        assert f"router {router}" in done.out


def test_image_text_pairs_are_scored_by_plain_clip(trained, cli, world, pairs, tmp_path):
    for name, start in (("diki", trained / "shades.pth"), ("plain", world.model)):
        done = cli("--load", start, "--eval-only", "--eval-datasets", pairs, *COMMON[2:4], "--save", tmp_path / name)
        assert done.status == 0, done.err
    found, plain = ([{**row, "task": "", "iteration": ""} for row in rows_in(tmp_path / name / "metrics_stream.csv")]
                    for name in ("diki", "plain"))
    assert found == plain and not any(row.get("scored_by") for row in found)


def test_a_chain_is_one_process(trained, chain):
    found, expected = loaded(chain(*RECIPE, tasks=TASKS[:2])[-1]), loaded(trained / "tones.pth")
    assert all(equal(found[key], expected[key]) for key in ("carry", "own", "scorer", "state_dict"))
    assert found["carry"]["DIKI"]["tasks"] == ["colours", "tones"]


@pytest.mark.parametrize("moment", [
    "begin", pytest.param("statistics", marks=pytest.mark.slow), pytest.param("end", marks=pytest.mark.slow)])
def test_interrupted_it_resumes_with_the_same_bits(trained, cli, world, trio, moment, tmp_path):
    words = sequence_of(world, trio, tmp_path, "--resume")
    with broken(DIKI, moment, "tones"):
        assert cli(*words).status == 130
    assert (tmp_path / "colours.pth").is_file() and not (tmp_path / "tones.pth").exists()
    done = cli(*words)
    assert done.status == 0, done.err
    assert_as_if_never_interrupted(tmp_path, trained)


@pytest.mark.slow
def test_two_processes_are_one(trained, world, trio, tmp_path):
    """What is trained, and what single images are scored; images that choose together are refused."""
    words = sequence_of(world, trio, tmp_path / "out", "--device", "cpu")
    for more, statuses in (((), [0, 0]), (("--router", "batch"), [2, 2])):
        group = ranks.Ranks(ranks.server(), 2, tmp_path / "log", ranks.command_line, [*words, *more])
        assert group.join(300) == statuses, group.printed()
    for task in TASKS:
        found, expected = (loaded(folder / f"{task}.pth") for folder in (tmp_path / "out", trained))
        for name, value in expected["own"]["DIKI"].items():
            torch.testing.assert_close(found["own"]["DIKI"][name], value, **PRECISE)
    assert scores_in(tmp_path / "out") == scores_in(trained)


def test_what_a_run_says_and_keeps(trained, cli, world, trio, tmp_path):
    ran, kept = read_json(trained / "run_shades.json"), loaded(trained / "shades.pth")
    assert (ran["iterations"], ran["trainable_values"]) == (3, 2 * 3 * (32 + 32))
    assert ran["carry_bytes"]["DIKI"] == 3 * 8 * (16 + 16 * 16)
    assert kept["scorer"]["keywords"] == {"ls": 0.0, "diki_length": 3, "diki_blocks": 1, "router": "sample",
                                          "select_epoch": "last"}
    before = [row["scored_by"] for row in rows_in(trained / "metrics_colours.csv") if row["iteration"] == "0"]
    assert before == ["zeroshot", "zeroshot"]
    done = cli(*evaluation_of(trained, trio, tmp_path, "--diki-length", 2))
    assert done.status == 2 and "the modules of DIKI in the checkpoint differ" in done.err, done.err


@pytest.mark.parametrize(("words", "reason"), [
    (("--train-mode", "fc"), "this mode has no class prompts"), (("--lora",), "it keeps CLIP frozen"),
    (("--l2", "1"), "it keeps CLIP frozen"), (("--orthogonal-gradients", "2"), "a basis would protect nothing"),
    (("--we",), "its modules are not averaged")])
def test_what_it_cannot_go_with(cli, world, words, reason, tmp_path):
    done = cli("--load", world.model, *RECIPE, *COMMON, "--train-dataset", world.colours, "--save", tmp_path / "out",
               *words)
    assert done.status == 2 and reason in done.err and "Traceback" not in done.err, done.err
    assert not (tmp_path / "out").exists()

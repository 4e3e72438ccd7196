"""RAIL in float64 on a ViT of two blocks, against slow renderings, numpy and its recursive form; through real runs."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import ranks
import slow_reference as slow
import torch
from cli_files import read_json, rows
from conftest import random_images, tiny_clip
from example_runs import COMMON, TASKS, assert_as_if_never_interrupted, broken, equal, last_rows, loaded
from tf32 import under_tf32
from torch import nn

import src.models.rail
from clip.model import CLIP
from src.datasets.common import Split, Task
from src.datasets.seeds import seed_of
from src.datasets.transforms import EvalTransform, TrainTransform
from src.errors import UserError
from src.machine.batch import Batch
from src.main import main
from src.models import METHODS
from src.models.bounds import FrozenRidge
from src.models.classifiers import classifier
from src.models.rail import DRAWS, Rail
from src.models.training import train

pytest_plugins = ["cli_fixtures", "example_fixtures"]

CLASSES = {"first": ("cat", "red bird", "dog", "very old green tree"), "second": ("car", "small blue house"),
           "third": ("blue", "two birds", "drawing")}
SIZES = {"first": 23, "second": 9, "third": 14}
WIDTH = 32
PRECISE = dict(rtol=0, atol=1e-10)
FORMS = {"primal": {"rail_width": WIDTH}, "dual": {"rail_form": "dual"}}


@pytest.fixture(scope="module")
def tasks():
    """{name: Task}, each with other images."""
    found = {}
    for seed, (name, classnames) in enumerate(CLASSES.items()):
        train_, test = (Split(random_images(size, 10 * seed + part).__getitem__,
                              [index * 7 % len(classnames) for index in range(size)])
                        for part, size in enumerate((SIZES[name], 12)))
        found[name] = Task(name, classnames, (f"a {name} photo of a {{c}}.", "{c}"), {"train": train_, "test": test},
                           in_memory=True)
    return found


@pytest.fixture
def model():
    """Random, of the scale of published weights."""
    found = tiny_clip("vit")
    found.logit_scale.data.fill_(np.log(100))
    return found


@pytest.fixture
def state_of(make_state, tasks, model):
    """-> make(name, **settings): the state of one task."""
    def make(name="first", **settings):
        state = make_state(model, **settings)
        state.task, state.source = tasks[name], name
        return state
    return make


@pytest.fixture
def learn(state_of):
    """-> learn(names, hook, **settings): the hook once these tasks are trained, carried from one to the next."""
    def call(names, hook, **settings):
        for name in names:
            train(state_of(name, **settings), [hook])
            hook.load_carry(hook.carry())
        return hook
    return call


@pytest.fixture
def score(state_of, tasks, model, device):
    """-> score(hook, name): {label space: scores (B, C)} of a task's test images, "all" joining the three."""
    classes = {name: classifier(model, task, device).named(name, name).classes for name, task in tasks.items()}

    @torch.no_grad()
    def call(hook, name):
        images = torch.stack(list(pixels(tasks[name].split("test"), device, model)))
        return hook.scores(state_of(name), images, {"task": [classes[name]], "all": [*classes.values()]})
    return call


def pixels(split, device, model, seed=None):
    """Normalised images, one by one: under the evaluation transform, or as the crops of a pass of a seed."""
    for index in range(len(split)):
        if seed is None:
            image = EvalTransform(model.image_resolution)(split.image(index))
        else:
            image = TrainTransform(model.image_resolution)(split.image(index), seed_of(seed, 0, index))
        yield device.batch(Batch(image[None], torch.zeros(1, dtype=torch.long))).images[0]


@torch.no_grad()
def crops_of(state, model, device):
    """(N, D): unit features of the training crops of a task, image by image."""
    found = pixels(state.task.split("train"), device, model, state.seed_of("features"))
    return torch.stack([slow.image_feature(model, image) for image in found])


def weights_of(hook, names):
    solution = hook.form.solution(torch.device("cpu"))
    return torch.cat([solution[name] for name in names], dim=1)


# -- the regression ----------------------------------------------------------------------------------------------------


def test_the_primal_form_is_the_recursion_and_the_joint_solution(learn, state_of, model, device, tasks):
    """From the formulas, in plain torch and numpy, over two tasks; batches of the recursion are others than ours."""
    hook = learn(["first", "second"], Rail(**FORMS["primal"]))
    P, recursion, inputs, targets = hook.form.projection.double(), [], [], []
    assert P.shape == (8, WIDTH) and P.abs().max() <= 8 ** -0.5
    for name in ("first", "second"):
        x = (crops_of(state_of(name), model, device) @ P).clamp(min=0)                            # (N, H)
        labels = tasks[name].split("train").labels
        recursion.append((len(CLASSES[name]), list(zip(x.split(5), torch.tensor(labels).split(5), strict=True))))
        inputs.append(x)
        targets.append(np.eye(len(CLASSES[name]))[labels])
    found = weights_of(hook, ("first", "second"))
    torch.testing.assert_close(found, slow.recursive_ridge(recursion, 0.1), **PRECISE)
    x, y = torch.cat(inputs).numpy(), np.zeros((32, 6))
    y[:23, :4], y[23:, 4:] = targets
    expected = np.linalg.inv(x.T @ x + 0.1 * np.eye(WIDTH)) @ x.T @ y
    torch.testing.assert_close(found, torch.from_numpy(expected), **PRECISE)


def test_the_dual_form_is_the_kernel_written_out(learn, state_of, model, device, tasks, score):
    hook = learn(["first", "second"], Rail(rail_form="dual", rail_gamma=0.7, rail_beta=1.0))
    known = torch.cat([crops_of(state_of(name), model, device) for name in ("first", "second")]).numpy()
    y = np.zeros((32, 6))
    y[:23, :4], y[23:, 4:] = (np.eye(len(CLASSES[name]))[tasks[name].split("train").labels]
                              for name in ("first", "second"))
    kernel = np.array([[np.exp(-0.7 * ((a - b) ** 2).sum()) for b in known] for a in known])
    alpha = np.linalg.inv(kernel + 0.001 * np.eye(32)) @ y
    with torch.no_grad():
        images = [slow.image_feature(model, image) for image in pixels(tasks["second"].split("test"), device, model)]
    near = np.array([[np.exp(-0.7 * ((a.numpy() - b) ** 2).sum()) for b in known] for a in images])
    expected = torch.from_numpy((near @ alpha)[:, 4:])
    torch.testing.assert_close(score(hook, "second")["task"], expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("form", FORMS)
def test_neither_the_order_of_tasks_nor_batches_change_it(learn, score, form):
    one = learn(["first", "second", "third"], Rail(**FORMS[form]), batch_size=4)
    other = learn(["third", "first", "second"], Rail(**FORMS[form]), batch_size=23)
    if form == "primal":
        torch.testing.assert_close(weights_of(one, CLASSES), weights_of(other, CLASSES), **PRECISE)
    for name in CLASSES:
        for space, found in score(one, name).items():
            torch.testing.assert_close(found, score(other, name)[space], **PRECISE)


def test_the_dual_form_with_a_linear_kernel_is_ridge_on_features(learn, score, monkeypatch):
    monkeypatch.setattr(src.models.rail, "gaussian", lambda a, b, gamma: a @ b.T)
    dual, primal = Rail(rail_form="dual", rail_ridge=0.3, rail_beta=1.0), FrozenRidge(0.3)
    primal.crops = True
    learn(["first", "second"], dual)
    learn(["first", "second"], primal)
    for name in ("first", "second"):
        torch.testing.assert_close(score(dual, name)["task"], score(primal, name)["task"], rtol=0, atol=1e-11)


@pytest.mark.parametrize("form", FORMS)
def test_a_task_that_is_met_again_counts_twice(learn, score, form):
    """As its rows twice: half the strength on half the sums."""
    strength = {"primal": 0.1, "dual": 0.001}[form]
    twice = learn(["first", "first"], Rail(**FORMS[form]))
    once = learn(["first"], Rail(**FORMS[form], rail_ridge=strength / 2))
    torch.testing.assert_close(score(twice, "first")["task"], score(once, "first")["task"], rtol=0, atol=1e-8)


# -- the scores --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_scores_are_fused_image_by_image(learn, score, form, tasks, model, device):
    hook = learn(["first", "second"], Rail(**FORMS[form], rail_beta=0.6))
    answers_of = hook.form.answers
    scale, texts = 100.0, torch.cat([classifier(model, task, device).classes.weights for task in tasks.values()], dim=1)
    chosen = []
    for name, (first, last) in {"first": (0, 4), "third": (6, 9)}.items():
        found = score(hook, name)
        for row, image in enumerate(pixels(tasks[name].split("test"), device, model)):
            with torch.no_grad():
                feature = slow.image_feature(model, image)
                y = torch.cat([*answers_of(feature[None], ["first", "second"]).values(), torch.zeros(1, 3)], dim=1)[0]
                cosines = scale * feature @ texts
            p, trained = [value.exp() for value in slow.log_softmax(list(cosines))], [True] * 6 + [False] * 3
            expected = slow.fused(p, list(y), trained, 0.6)
            torch.testing.assert_close(found["all"][row], torch.stack(expected), **PRECISE)
            own = list(cosines[first:last])
            if name == "first":
                own = slow.fused([value.exp() for value in slow.log_softmax(own)], list(y[:4]), [True] * 4, 0.6)
            torch.testing.assert_close(found["task"][row], torch.stack(own), **PRECISE)
            chosen.append(trained[int(cosines.argmax())])
    assert len(set(chosen)) == 2, "images of both kinds were scored"


@pytest.mark.parametrize("form", FORMS)
def test_untrained_datasets_have_zero_shot_logits_to_the_bit(learn, score, tasks, model, device, form):
    hook = learn(["first"], Rail(**FORMS[form]))
    with torch.no_grad():
        for name in ("second", "third"):
            images = torch.stack(list(pixels(tasks[name].split("test"), device, model)))
            plain = classifier(model, tasks[name], device)(
                nn.functional.normalize(model.encode_image(images), dim=-1), model.logit_scale.exp())
            assert torch.equal(score(hook, name)["task"], plain)
    assert score(hook, "first")["task"].max() < 2, "no logits of a scale of 100"


@pytest.mark.parametrize("form", FORMS)
def test_beta_0_predicts_as_zero_shot(learn, score, form, model, tasks, device):
    hook = learn(["first", "second"], Rail(**FORMS[form], rail_beta=0.0))
    texts = [classifier(model, task, device).classes.weights for task in tasks.values()]
    for own, name in zip(texts, tasks, strict=True):
        with torch.no_grad():
            images = torch.stack(list(pixels(tasks[name].split("test"), device, model)))
            features = model.encode_image(images)
        assert torch.equal(score(hook, name)["task"].argmax(1), (features @ own).argmax(1))
        assert torch.equal(score(hook, name)["all"].argmax(1), (features @ torch.cat(texts, dim=1)).argmax(1))


@pytest.mark.parametrize("form", FORMS)
def test_what_zero_shot_gets_right_of_untrained_datasets_stays_right(learn, score, form):
    """Image by image, whatever the label: an image that zero-shot puts into an untrained class stays there."""
    before, after = (learn(["first"], Rail(**FORMS[form], rail_beta=beta)) for beta in (0.0, 0.8))
    stays = 0
    for name in CLASSES:
        plain, fused = (score(hook, name)["all"].argmax(dim=1) for hook in (before, after))
        untrained = plain >= 4
        assert torch.equal(plain[untrained], fused[untrained])
        stays += int(untrained.sum())
    assert 0 < stays < 36


def test_without_a_trained_task_clip_scores(score):
    assert score(Rail(), "first") is None


def test_other_classes_under_a_trained_name_are_refused(learn, score, state_of, tasks):
    hook = learn(["first"], Rail(**FORMS["primal"]))
    state = state_of("first")
    state.task = replace(tasks["first"], classnames=("dog", "red bird", "cat", "very old green tree"))
    with pytest.raises(UserError, match="first: --load was trained on a dataset of this name with other classes"):
        hook.begin(state)


# -- the projection ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_published_draw():
    """Its first numbers, as the published code prints them under seed 42 for a ViT-B/16."""
    vit = {"embed_dim": 512, "image_resolution": 224, "vision_layers": 12, "vision_width": 768, "vision_patch_size": 16,
           "context_length": 77, "vocab_size": 49408, "transformer_width": 512, "transformer_heads": 8,
           "transformer_layers": 12}
    before = torch.get_rng_state()
    drawn = DRAWS["published"](vit, 15000, 42)
    assert drawn.shape == (512, 15000) and drawn.is_contiguous()
    expected = torch.tensor([-0.0291283, -0.0334862, -0.0005427, -0.0425894])
    torch.testing.assert_close(drawn[:4, 0], expected, rtol=0, atol=6e-8)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("drawn", DRAWS)
def test_a_draw_is_uniform_and_of_the_seed(drawn):
    architecture = tiny_clip("vit").architecture
    one, same, other = (DRAWS[drawn](architecture, 4000, seed) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other) and one.dtype == torch.float32
    assert one.abs().max() <= 8 ** -0.5 and one.mean().abs() < 0.01 and abs(one.std() * 24 ** 0.5 - 1) < 0.02


def test_random_features_are_never_in_tf32(state_of):
    state, hook = state_of(), Rail(rail_width=WIDTH)
    hook.begin(state)
    features = torch.eye(8, dtype=state.model.logit_scale.dtype)
    with under_tf32() as allowed:
        hook.form.collect(state, [(features, torch.zeros(8).long(), None)])
        hook.form.answers(features.double(), ["first"])
    assert allowed[:3] == [False] * 3 and len(allowed) > 3 and allowed[3] is False


def test_the_published_draw_is_of_a_vit(make_state):
    """Refused before the first pass, in a dry run too."""
    with pytest.raises(UserError, match="--rail-projection published: .* give --rail-projection seeded"):
        DRAWS["published"](tiny_clip("resnet").architecture, 4, 0)
    with pytest.raises(UserError, match="--rail-projection published: .* give --rail-projection seeded"):
        Rail(rail_projection="published").begin(make_state(tiny_clip("resnet")))
    for hook in (Rail(), Rail(rail_form="dual", rail_projection="published")):
        hook.begin(make_state(tiny_clip("resnet")))


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
def test_the_recipe_on_a_resnet_is_one_message(cli, words, tmp_path):
    done = cli("--recipe", "rail", "--train-dataset", "toy-sizes", "--model", "toy", "--save", tmp_path, *words)
    printed = done.out + done.err
    assert done.status == 2 and "give --rail-projection seeded" in printed and "Traceback" not in printed, printed
    assert not list(tmp_path.rglob("*.pth"))


@pytest.mark.parametrize(("made", "given", "reason"), [
    ({}, {"rail_form": "dual"}, "--rail-form dual: --load was trained by the primal form"),
    ({}, {"rail_width": 5}, "--rail-width 5 .* are of 32 with seeded"),
    ({}, {"rail_projection": "published", "rail_width": 32}, "--rail-projection published: .* of 32 with seeded"),
    ({"rail_form": "dual"}, {"rail_width": 32}, "--rail-form primal: --load was trained by the dual form")])
def test_sums_of_another_form_are_refused(learn, made, given, reason):
    kept = learn(["first"], Rail(**{"rail_width": WIDTH} | made)).carry()
    with pytest.raises(UserError, match=reason):
        Rail(**given).load_carry(kept)


def test_sums_that_rounding_spoils_are_one_message(learn, score):
    hook = learn(["first"], Rail(rail_width=WIDTH, rail_ridge=1e-9))
    hook.form.gram -= 1e-6 * torch.eye(WIDTH, dtype=torch.float64)
    with pytest.raises(UserError, match="--rail-ridge is too small for sums of this precision"):
        score(hook, "first")


def test_the_gram_matrix_grows_in_place(learn, state_of):
    """So that a run holds a single one, which the checkpoint of the task before has brought."""
    hook = learn(["first"], Rail(**FORMS["primal"]))
    place = hook.form.gram.data_ptr()
    train(state_of("second"), [hook])
    assert hook.form.gram.data_ptr() == place
    assert hook.copies()["what Rail carries"]["gram"] is hook.form.gram


# -- runs --------------------------------------------------------------------------------------------------------------

ALONE = COMMON[2:]
RUNS = {"primal": ["--method", "rail", "--rail-width", WIDTH, "--rail-beta", "0.5"],
        "dual": ["--method", "rail", "--rail-form", "dual", "--rail-gamma", "0.5", "--rail-beta", "0.5"],
        "ridge": ["--method", "ridge", "--rail-ridge", "0.5"], "class-means": ["--method", "class-means"]}
HOOKS = {"primal": "Rail", "dual": "Rail", "ridge": "FrozenRidge", "class-means": "ClassMeans"}
QUICK = pytest.mark.parametrize("name", [
    name if name == "primal" else pytest.param(name, marks=pytest.mark.slow) for name in RUNS])


@pytest.fixture(scope="module")
def trained(world, trio, tmp_path_factory):
    """-> trained(name): the folder of a sequence of the three tasks, run once; no test may change it."""
    folders = {}

    def of(name):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("trained") / name
            words = ["--load", world.model, *RUNS[name], *COMMON, "--dataset-order", ",".join(trio.values()), "--save",
                     folders[name]]
            assert main([str(word) for word in words]) == 0
        return folders[name]
    return of


@QUICK
def test_a_checkpoint_is_scored_as_in_training_in_one_pass(trained, cli, trio, name, tmp_path, monkeypatch):
    """By itself, with the keywords that it was made with."""
    calls, encode = [], CLIP.encode_image
    folder = trained(name)
    monkeypatch.setattr(CLIP, "encode_image", lambda model, images: calls.append(len(images)) or encode(model, images))
    done = cli("--load", folder / "tones.pth", "--eval-only", "--eval-datasets", ",".join(trio.values()), *ALONE,
               "--save", tmp_path)
    assert done.status == 0 and sum(calls) == 28, done.err
    rows = last_rows(tmp_path, *TASKS)
    assert {key: row["top1"] for key, row in rows.items()} == {
        key: row["top1"] for key, row in rows_after(folder, "tones").items()}
    assert {row["scored_by"] for row in rows.values()} == {f"logits:{HOOKS[name]}"}
    assert equal(loaded(folder / "tones.pth")["state_dict"], loaded(folder / "colours.pth")["state_dict"])


def rows_after(folder, task):
    """{(dataset, label space): its row of the metrics after a task}"""
    return {(name, row["label_space"]): row for name in TASKS for row in rows(folder / f"metrics_{name}.csv")
            if row["task"] == task}


@QUICK
def test_a_chain_is_one_process(trained, chain, name):
    found, expected = loaded(chain(*RUNS[name], tasks=TASKS[:2])[-1]), loaded(trained(name) / "tones.pth")
    assert equal(found["carry"], expected["carry"]) and equal(found["scorer"], expected["scorer"])


@pytest.mark.parametrize(("name", "moment"), [
    pytest.param(name, moment, marks=() if (name, moment) == ("primal", "pass") else pytest.mark.slow)
    for name, moment in itertools.product(RUNS, ("begin", "pass", "end"))])
def test_interrupted_it_resumes_with_the_same_bits(trained, cli, world, trio, name, moment, tmp_path):
    words = ("--load", world.model, *RUNS[name], *COMMON, "--dataset-order", ",".join(trio.values()), "--save",
             tmp_path, "--resume")
    with broken(METHODS[RUNS[name][1]].hook(), moment, "tones"):
        assert cli(*words).status == 130
    assert (tmp_path / "colours.pth").is_file() and not (tmp_path / "tones.pth").exists()
    done = cli(*words)
    assert done.status == 0, done.err
    assert_as_if_never_interrupted(tmp_path, trained(name))


@pytest.mark.slow
def test_two_processes_are_one(trained, world, trio, tmp_path):
    for name in RUNS:
        words = ["--load", world.model, *RUNS[name], *COMMON, "--device", "cpu", "--dataset-order",
                 ",".join(trio.values()), "--save", tmp_path / name]
        group = ranks.Ranks(ranks.server(), 2, tmp_path / "log", ranks.command_line, words)
        assert group.join(300) == [0, 0], group.printed()
        for task in TASKS:
            found, expected = (loaded(folder / f"{task}.pth")["carry"][HOOKS[name]]
                               for folder in (tmp_path / name, trained(name)))
            assert_close(found, expected)


def assert_close(found, expected):
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_close(found[key], expected[key])
    elif isinstance(expected, torch.Tensor):
        torch.testing.assert_close(found, expected, **PRECISE)
    else:
        assert found == expected


def test_what_a_run_says_and_keeps(trained, cli, world, tmp_path):
    """No value trains; the bytes of the carry are those of A, B and P."""
    folder = trained("primal")
    ran = read_json(folder / "run_tones.json")
    assert (ran["iterations"], ran["trainable_values"]) == (0, 0)
    numbers = WIDTH * WIDTH + WIDTH * (3 + 2)
    assert ran["carry_bytes"] == {"Rail": 8 * numbers + 4 * 16 * WIDTH}
    carry = loaded(folder / "tones.pth")["carry"]["Rail"]
    assert carry["classes"] == {"colours": ["blue", "green", "red disc"], "tones": ["cold", "warm"]}
    done = cli("--load", folder / "tones.pth", *RUNS["dual"], *COMMON, "--train-dataset", world.colours, "--save",
               tmp_path / "out")
    assert done.status == 2 and "--rail-form dual: --load was trained by the primal form" in done.err
    assert "Traceback" not in done.err and not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("words", ["", "--rail-form dual"])
def test_a_vit_b_16_trains_nothing(cli, words):
    done = cli("--method", "rail", *words.split(), "--model", "ViT-B/16", "--dataset-order", "toy", "--dry-run")
    assert done.status == 0 and "trains 0 of 302 tensors, 0 of 149,620,737 values" in done.out, done.err

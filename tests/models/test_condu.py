"""ConDU with weights and with factors, in float64 on a ViT of two blocks, against slow renderings; in real runs."""

import copy
import itertools
from dataclasses import replace

import pytest
import ranks
import slow_reference as slow
import torch
from cli_files import rows, same_weights
from conftest import random_images, tiny_clip
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
from src.datasets.seeds import seed_of
from src.datasets.transforms import EvalTransform, TrainTransform
from src.errors import UserError
from src.machine.batch import Batch
from src.machine.device import Device
from src.main import main
from src.models.averaging import WeightEnsemble, WiseMerge
from src.models.classifiers import classifier
from src.models.condu import ConDU
from src.models.condu_experts import unpacked
from src.models.condu_lora import ConDULoRA
from src.models.finetune import Finetune
from src.models.resuming import state_of_run
from src.models.training import train
from src.models.wrapped import Pair, sites, wrap

pytest_plugins = ["cli_fixtures", "example_fixtures"]

CLASSES = {"first": ("cat", "red bird", "dog", "very old green tree"), "second": ("car", "small blue house"),
           "third": ("blue", "two birds", "drawing"), "fourth": ("house", "old car")}
SIZES = {"first": 23, "second": 9, "third": 14, "fourth": 5}
TRAINED = ("first", "second", "third")
RANK = 3
KINDS = {"condu": ConDU, "condu-lora": lambda **keywords: ConDULoRA(**{"condu_rank": RANK} | keywords)}
BOTH = pytest.mark.parametrize("kind", KINDS)
QUICK = pytest.mark.parametrize("kind", ["condu-lora", pytest.param("condu", marks=pytest.mark.slow)])
PRECISE = dict(rtol=0, atol=1e-10)
EPS = 1e-4  # the gradient of a key's bias is nothing but rounding, which AdamW must not blow up to a step


@pytest.fixture(scope="module")
def tasks():
    """{name: Task}, each with other images; the last class of "second" has no training image."""
    found = {}
    for seed, (name, classnames) in enumerate(CLASSES.items()):
        labelled = 1 if name == "second" else len(classnames)
        train_, test = (Split(random_images(size, 10 * seed + part).__getitem__, [index * 7 % labelled
                                                                                  for index in range(size)])
                        for part, size in enumerate((SIZES[name], 6)))
        found[name] = Task(name, classnames, (f"a {name} photo of a {{c}}.", "{c}"), {"train": train_, "test": test},
                           in_memory=True)
    return found


@pytest.fixture
def state_of(make_state, tasks):
    """-> make(model, name, **settings): the state of one task."""
    def make(model, name, **settings):
        settings = {"warmup": 0, "iterations": 3, "eps": EPS, **settings}
        return replace(make_state(model, **settings), task=tasks[name], source=name)
    return make


@pytest.fixture
def learn(state_of):
    """-> learn(hook, names, *add_ons, **settings): (state of the last task, the hook) once these are trained, each from
    what the one before has left."""
    def call(hook, names=TRAINED, *add_ons, **settings):
        model, state = tiny_clip("vit"), None
        for name in names:
            state = state_of(model, name, **settings)
            train(state, [hook, *(add_on() for add_on in add_ons)])
            model = copy.deepcopy(state.final_model)
            hook.load_carry(copy.deepcopy(hook.carry()))
        state.model, state.ensemble = model, None  # as an evaluation has it
        return state, hook
    return call


@pytest.fixture
def spaces_of(tasks, device):
    """-> spaces_of(name): {"task": [Classes], "all": [Classes of all four]}"""
    classes = {name: classifier(tiny_clip("vit"), task, device).named(name, name).classes
               for name, task in tasks.items()}
    return lambda name: {"task": [classes[name]], "all": [*classes.values()]}


@pytest.fixture
def pixels(device):
    """-> pixels(split, seed=None): (N, 3, R, R) normalised, as evaluated, or as the crops of a pass of a seed."""
    def call(split, seed=None):
        transformed = [EvalTransform(16)(split.image(index)) if seed is None else
                       TrainTransform(16)(split.image(index), seed_of(seed, 0, index)) for index in range(len(split))]
        return device.batch(Batch(torch.stack(transformed), torch.zeros(len(split), dtype=torch.long))).images
    return call


# -- slow renderings ---------------------------------------------------------------------------------------------------


class Adapted(Finetune):
    """Plain training of the factors (B, A) of both layers of every MLP, from given ones on."""

    def __init__(self, start):
        super().__init__()
        self.start = start

    def begin(self, state):
        wrap(state.model, {site: Pair(*(nn.Parameter(self.start[f"{site}.{factor}"].clone()) for factor in "AB"),
                                      RANK ** -0.5) for site in sites(state.model) if ".mlp." in site})
        super().begin(state)


def trained_alone(kind, state, start):
    """{name: tensor} that plain training of a task from ``start`` leaves."""
    train(state, [Finetune() if kind == "condu" else Adapted(start)])
    found = {name: value.detach() for name, value in state.model.named_parameters()}
    if kind == "condu":
        return {name: value for name, value in found.items() if name != "logit_scale"}
    return {name.replace(".lora_pair", ""): value for name, value in found.items() if ".lora_pair." in name}


def start_of(kind, hook):
    """{name: tensor} of th0."""
    if kind == "condu-lora":
        return {name: value.double() for name, value in hook.drawn["th0"].items()}
    return {name: value.detach() for name, value in tiny_clip("vit").named_parameters() if name != "logit_scale"}


@torch.no_grad()
def holding(kind, values):
    """A CLIP with these weights, or with the products of these factors."""
    model = tiny_clip("vit")
    for name, value in values.items():
        if kind == "condu":
            model.get_parameter(name).copy_(value)
        elif name.endswith(".A"):
            site = name.removesuffix(".A")
            model.get_parameter(f"{site}.weight").add_(values[f"{site}.B"] @ value / RANK ** 0.5)
    return model


def prototypes_of(model, images, task):
    """[(D) of each class], image by image and prompt by prompt."""
    found, labels = [], task.split("train").labels
    for label, text in enumerate(texts_of(model, task)):
        own = [slow.image_feature(model, image) for image, other in zip(images, labels, strict=True) if other == label]
        found.append(slow.unit(slow.mean([text, slow.mean(own)]) if own else text))
    return torch.stack(found)


def texts_of(model, task):
    """(C, D): of each class the mean over the templates, one prompt at a time."""
    rows = [[slow.text_feature(model, clip.tokenize([template.replace("{c}", classname)], 14)[0])
             for template in task.templates] for classname in task.classnames]
    return torch.stack([slow.mean(features) for features in rows])


def logits_of(model, image, texts):
    feature = slow.image_feature(model, image)
    return torch.stack([model.logit_scale.exp() * torch.dot(feature, slow.unit(row)) for row in texts])


@QUICK
def test_three_tasks_are_the_slow_rendering(learn, state_of, spaces_of, pixels, tasks, kind):
    """Deltas of plain training, unified value by value; prototypes, experts and votes image by image."""
    state, hook = learn(KINDS[kind](condu_experts=2))
    start = start_of(kind, hook)
    ends = [trained_alone(kind, state_of(tiny_clip("vit"), name), start) for name in TRAINED]
    deltas = [{name: end[name] - start[name] for name in start} for end in ends]
    values, masks, factors = slow.unified(deltas)
    keys = [name for name in start if name.endswith("in_proj_bias")]  # where masks of keys are of rounding
    assert hook.unified.values.keys() == start.keys() and list(hook.unified.factors) == list(TRAINED)
    for name in start:
        assert hook.unified.values[name].flatten().tolist() == pytest.approx(values[name], abs=1e-10)
        for task, mask in zip(TRAINED, masks, strict=True):
            found = unpacked(hook.unified.masks[task][name], start[name].shape).flatten()
            rows = [row for row in range(len(found)) if name not in keys or not 16 <= row < 32]
            assert found[rows].tolist() == [mask[name][row] for row in rows]
    assert list(hook.unified.factors.values()) == pytest.approx(factors, abs=1e-10)

    models = {None: holding(kind, start)} | {task: holding(kind, {
        name: value + factor * (torch.tensor(values[name], dtype=value.dtype) * torch.tensor(mask[name])).view_as(value)
        for name, value in start.items()}) for task, mask, factor in zip(TRAINED, masks, factors, strict=True)}
    with torch.no_grad():
        crops = [pixels(tasks[name].split("train"), seed_of(42, name, "prototypes")) for name in TRAINED]
        near = [prototypes_of(models[None], images, tasks[name])
                for name, images in zip(TRAINED, crops, strict=True)]
        for task, expected in zip(TRAINED, near, strict=True):
            torch.testing.assert_close(hook.experts[task]["prototypes"], expected, **PRECISE)
        chosen = set()
        texts = {task: {name: texts_of(model, tasks[name]) for name in CLASSES} for task, model in models.items()}
        for name in ("second", "fourth"):
            images = pixels(tasks[name].split("test"))
            found = hook.scores(state, images, spaces_of(name))
            for row, image in enumerate(images):
                best = [TRAINED[number] for number in slow.nearest(slow.image_feature(models[None], image), near, 2)]
                chosen.add(tuple(sorted(best)))
                for space, names in {"task": [name], "all": [*CLASSES]}.items():
                    experts = ["second"] if (name, space) == ("second", "task") else [None, *best]
                    logits = [logits_of(models[task], image, torch.cat([texts[task][part] for part in names]))
                              for task in experts]
                    torch.testing.assert_close(found[space][row], slow.mean(logits), **PRECISE)
    assert len(chosen) > 1, "images that choose other experts were scored"


# -- training ----------------------------------------------------------------------------------------------------------


@BOTH
def test_the_clip_of_a_checkpoint_is_th0(learn, kind):
    state, hook = learn(KINDS[kind](), TRAINED[:2])
    assert same_weights(state.final_model.state_dict(), tiny_clip("vit").state_dict())
    assert any(hook.unified.delta("second", name).abs().max() > 1e-3 for name in hook.unified.values)


@BOTH
def test_in_single_precision_th0_stays_too(state_of, kind):
    """Where no cast makes a copy of what trains."""
    state = state_of(tiny_clip("vit", dtype=torch.float32), "first")
    state.device = Device("cpu", "fp32")
    hook = KINDS[kind]()
    train(state, [hook])
    assert same_weights(state.final_model.state_dict(), tiny_clip("vit", dtype=torch.float32).state_dict())
    assert any(value.abs().max() > 1e-3 for value in hook.unified.values.values())
    assert {value.dtype for value in hook.unified.values.values()} == {torch.float32}


@QUICK
def test_every_task_starts_from_th0(learn, state_of, kind):
    """So the delta of one does not depend on those before it, but for what they leave of it."""
    found = []
    for names in (("first", "second"), ("second",)):
        state, hook = learn(KINDS[kind](), names[:-1]) if len(names) > 1 else (None, KINDS[kind]())
        state = state_of(tiny_clip("vit"), "second")
        train(state, [hook, Ends(found, hook)])
    assert equal(*found)


class Ends(Finetune):
    """Keeps the deltas of a task before its method unifies them."""

    def __init__(self, found, hook):
        self.found, self.hook = found, hook

    def begin(self, state):
        pass

    def losses(self, state, batch):
        return {}

    def end(self, state):
        self.found.append({name: value.clone() for name, value in self.hook.deltas(state)})


def test_authors_draws_are_in_every_delta(learn, state_of):
    """Of factors that did not train it is the difference of two draws."""
    _, hook = learn(ConDULoRA(condu_rank=RANK, condu_init="code"), ("first",), lr=1e-12, wd=0.0)
    th0, start, prototypes = (hook.drawn[draw] for draw in ("th0", "start", "prototypes"))
    for name, value in th0.items():
        assert not torch.equal(value, start[name]) and not torch.equal(prototypes[name], start[name])
        found = hook.unified.delta("first", name)
        torch.testing.assert_close(found, start[name].double() - value.double(), rtol=0, atol=1e-10)
    one, two = ConDULoRA(condu_rank=RANK), ConDULoRA(condu_rank=RANK, condu_init="code")
    near = []
    for hook in (one, two):
        train(state_of(tiny_clip("vit"), "first"), [hook])
        near.append(hook.experts["first"]["prototypes"])
    assert (near[0] - near[1]).abs().max() > 1e-6 and {*one.drawn} == {"th0"}


def test_factors_are_of_a_normal_draw(learn):
    _, hook = learn(ConDULoRA(condu_rank=64), ("first",))
    values = torch.cat([value.flatten() for value in hook.drawn["th0"].values()])
    assert hook.drawn["th0"]["transformer.resblocks.0.mlp.c_fc.A"].shape == (64, 16)
    assert abs(float(values.std()) / 0.01 - 1) < 0.02 and abs(float(values.mean())) < 2e-4


def test_averages_and_merges_are_what_a_delta_is_of(learn, state_of):
    merged = {}
    for name, add_on in (("plain", ()), ("merge", (lambda: WiseMerge(0.25),)), ("we", (lambda: WeightEnsemble(1),))):
        state, hook = learn(ConDU(), ("first",), *add_on)
        merged[name] = hook.unified.delta("first", "visual.proj")
        assert same_weights(state.final_model.state_dict(), tiny_clip("vit").state_dict())
    torch.testing.assert_close(merged["merge"], 0.25 * merged["plain"], **PRECISE)
    assert not torch.allclose(merged["we"], merged["plain"])


@BOTH
def test_a_resumed_task_has_the_same_bits(state_of, kind):
    found, kept = [], None
    for _ in range(2):
        state, hook, points = state_of(tiny_clip("vit"), "first"), KINDS[kind](), []
        train(state, [hook], lambda state, losses, hook=hook, points=points: points.append(
            copy.deepcopy(state_of_run(state, [hook]))), interrupted=kept)
        kept = kept or points[1]
        found.append(hook.carry())
    assert equal(*found)


def test_prototypes_are_part_of_a_resume_point(state_of):
    """Several processes add them up in another order than one."""
    hook = ConDU()
    train(state_of(tiny_clip("vit"), "first"), [hook], lambda state, losses: hook.load_state_dict(
        {name: value + 1 for name, value in hook.state_dict().items()}) if state.iteration == 1 else None)
    assert hook.experts["first"]["prototypes"].min() > -0.2 and hook.experts["first"]["prototypes"].max() > 1


# -- scores ------------------------------------------------------------------------------------------------------------


@QUICK
def test_scores_do_not_depend_on_the_batch(learn, spaces_of, pixels, tasks, kind):
    state, hook = learn(KINDS[kind](condu_experts=1))
    images = torch.cat([pixels(tasks[name].split("test")) for name in CLASSES])
    whole = hook.scores(state, images, spaces_of("fourth"))
    for row, image in enumerate(images):
        for space, found in hook.scores(state, image[None], spaces_of("fourth")).items():
            torch.testing.assert_close(whole[space][row], found[0], **PRECISE)


@QUICK
def test_in_the_middle_of_a_task_it_scores_as_if_the_task_ended(learn, state_of, spaces_of, pixels, tasks, kind):
    _, hook = learn(KINDS[kind](), ("first",))
    images, found = pixels(tasks["third"].split("test")), []

    def score(state, losses=None):
        found.append({name: hook.scores(state, images, spaces_of(name)) for name in CLASSES})
    state = state_of(tiny_clip("vit"), "second")
    train(state, [hook], score)
    score(state)
    assert len(found) == 4 and equal(found[2], found[3])
    assert not equal(found[1]["second"]["task"], found[2]["second"]["task"])


def test_the_vote_can_score_what_is_known_too(learn, spaces_of, pixels, tasks):
    expert, vote = (learn(ConDU(condu_known=known), ("first", "second")) for known in ("expert", "vote"))
    images = pixels(tasks["first"].split("test"))
    found = [hook.scores(state, images, spaces_of("first")) for state, hook in (expert, vote)]
    assert equal(found[0]["all"], found[1]["all"]) and not torch.allclose(found[0]["task"], found[1]["task"])
    torch.testing.assert_close(found[1]["task"], found[1]["all"][:, :4], **PRECISE)


def test_of_equal_experts_the_earlier_task_votes(learn, spaces_of, pixels, tasks):
    state, hook = learn(ConDU(condu_experts=1))
    images = pixels(tasks["fourth"].split("test"))
    for expert in hook.experts.values():
        expert["prototypes"] = hook.experts["first"]["prototypes"]
    found = hook.scores(state, images, spaces_of("fourth"))["task"]
    towers, _ = hook.scored
    expected = [towers.logits(task, towers.features(task, images), spaces_of("fourth")["task"])
                for task in (None, "first")]
    torch.testing.assert_close(found, sum(expected) / 2, **PRECISE)


def test_more_experts_than_tasks_are_all_of_them(learn, spaces_of, pixels, tasks):
    images = pixels(tasks["fourth"].split("test"))
    found = [hook.scores(state, images, spaces_of("fourth")) for state, hook in (
        learn(ConDU(condu_experts=most), ("first", "second")) for most in (2, 9))]
    assert equal(*found)


def test_one_copy_holds_all_experts(learn, spaces_of, pixels, tasks, monkeypatch):
    state, hook = learn(ConDU())
    copies, make = [], copy.deepcopy
    monkeypatch.setattr(copy, "deepcopy", lambda thing, *words: copies.append(type(thing)) or make(thing, *words))
    for name in ("fourth", "second"):
        hook.scores(state, pixels(tasks[name].split("test")), spaces_of(name))
    assert len([kind for kind in copies if kind.__name__ == "CLIP"]) == 1


def test_without_a_task_clip_scores(state_of, spaces_of, pixels, tasks):
    assert ConDU().scores(state_of(tiny_clip("vit"), "first"), pixels(tasks["first"].split("test")),
                          spaces_of("first")) is None


def test_prototypes_of_all_images_or_of_the_shots(state_of, tasks):
    whole = tasks["first"].split("train")
    few = replace(tasks["first"], splits={**tasks["first"].splits, "train": whole.subset([0, 1, 2, 3])})
    near = []
    for task, which in ((tasks["first"], "shots"), (replace(few, drawn_from=whole), "all"), (few, "shots")):
        hook, state = ConDU(condu_prototypes=which), state_of(tiny_clip("vit"), "first")
        train(replace(state, task=task), [hook])
        near.append(hook.experts["first"]["prototypes"])
    assert torch.equal(near[0], near[1]) and not torch.allclose(near[0], near[2])


def test_datasets_that_train_as_one_share_an_expert(state_of, spaces_of, pixels, tasks):
    joint_names = "first", "second"
    joint = joint_task([tasks[name] for name in joint_names])
    hook, state = ConDU(), replace(state_of(tiny_clip("vit"), "first"), task=joint, source="first,second")
    train(state, [hook])
    expert = hook.experts["first+second"]
    assert expert["classes"] == {"joint": joint.classnames} | {name: list(CLASSES[name]) for name in joint_names}
    assert len(expert["prototypes"]) == 6
    images, [classes] = pixels(tasks["second"].split("test")), spaces_of("second")["task"]
    # --eval-single has the classes of all of them at once, under the name of the task.
    for given in (classes, replace(classes, name="joint", classnames=joint.classnames)):
        found = hook.scores(state, images, {"task": [given]})["task"]
        towers, _ = hook.scored
        torch.testing.assert_close(found, towers.logits("first+second", towers.features("first+second", images),
                                                        [given]), **PRECISE)


def test_a_second_joint_training_leaves_the_expert_of_the_first(state_of, spaces_of, pixels, tasks):
    hook, model = ConDU(), tiny_clip("vit")
    for names in (("first", "second"), ("third", "fourth")):
        state = replace(state_of(model, names[0]), task=joint_task([tasks[name] for name in names]),
                        source=",".join(names))
        train(state, [hook])
        model = copy.deepcopy(state.final_model)
    assert [*hook.experts] == [*hook.unified.factors] == ["first+second", "third+fourth"]
    images = pixels(tasks["first"].split("test"))
    found = hook.scores(state, images, spaces_of("first"))["task"]
    towers, _ = hook.scored
    torch.testing.assert_close(found, towers.logits("first+second", towers.features("first+second", images),
                                                    spaces_of("first")["task"]), **PRECISE)


# -- what is refused ---------------------------------------------------------------------------------------------------


@BOTH
def test_other_weights_than_th0_are_refused(learn, state_of, spaces_of, pixels, tasks, kind):
    state, hook = learn(KINDS[kind](), ("first",))
    other = state_of(tiny_clip("vit", seed=1), "second")
    with pytest.raises(UserError, match="these weights are not the ones that all its tasks start from"):
        hook.begin(other)
    hook.load_carry(hook.carry())
    state.model = other.model
    with pytest.raises(UserError, match="these weights are not the ones that all its tasks start from"):
        hook.scores(state, pixels(tasks["first"].split("test")), spaces_of("first"))


def test_other_classes_under_a_trained_name_are_refused(learn, spaces_of, pixels, tasks):
    state, hook = learn(ConDU(), ("first",))
    [classes] = spaces_of("first")["task"]
    with pytest.raises(UserError, match="first: --load was trained on a dataset of this name with other classes"):
        hook.scores(state, pixels(tasks["first"].split("test")),
                    {"task": [replace(classes, classnames=classes.classnames[::-1])]})


def test_a_task_does_not_replace_one_of_other_classes(learn, state_of, tasks):
    state, hook = learn(ConDU(), ("first",))
    other = replace(tasks["first"], classnames=tasks["first"].classnames[::-1])
    with pytest.raises(UserError, match="first: --load was trained on a dataset of this name with other classes"):
        hook.begin(replace(state_of(tiny_clip("vit"), "first"), task=other))


def test_other_train_modes_are_refused(learn, make_state, tasks):
    _, hook = learn(ConDU(), ("first",))
    state = replace(make_state(tiny_clip("vit"), "text"), task=tasks["second"])
    with pytest.raises(UserError, match="--train-mode: the experts in --load are of other weights"):
        hook.begin(state)


def test_statistics_of_batch_norms_are_refused(make_state):
    with pytest.raises(UserError, match="--batch-norm train: .* give --batch-norm eval"):
        ConDU().begin(make_state(tiny_clip("resnet"), batch_norm="train"))


@pytest.mark.parametrize("given", [{"condu_rank": 5}, {"condu_rank": RANK, "condu_init": "code"}])
def test_another_form_of_factors_is_refused(learn, given):
    _, hook = learn(ConDULoRA(condu_rank=RANK), ("first",))
    with pytest.raises(UserError, match="--load was trained with --condu-rank 3 and --condu-init stored; give those"):
        ConDULoRA(**given).load_carry(hook.carry())


# -- runs --------------------------------------------------------------------------------------------------------------

RUNS = {"condu": ("--method", "condu", "--condu-experts", 1, *STEPS),
        "condu-lora": ("--method", "condu-lora", "--condu-rank", RANK, "--condu-experts", 1, *STEPS)}


@pytest.fixture(scope="module")
def trained(world, trio, tmp_path_factory):
    """-> trained(kind): the folder of a sequence of the three tasks, run once; no test may change it."""
    folders = {}

    def of(kind):
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp("trained") / kind
            assert main(sequence_of(world, trio, kind, folders[kind])) == 0
        return folders[kind]
    return of


def sequence_of(world, trio, kind, folder, *words):
    return [str(word) for word in ("--load", world.model, *RUNS[kind], *COMMON, "--dataset-order",
                                   ",".join(trio.values()), "--save", folder, *words)]


@QUICK
@pytest.mark.parametrize("after", [pytest.param("tones", marks=pytest.mark.slow), "shades"])
def test_a_checkpoint_is_scored_as_in_training(trained, cli, trio, kind, after, tmp_path):
    """By itself, with the keywords that it was made with; its CLIP is that of the start."""
    folder = trained(kind)
    done = cli("--load", folder / f"{after}.pth", "--eval-only", "--eval-datasets", ",".join(trio.values()),
               *COMMON[2:], "--save", tmp_path)
    assert done.status == 0, done.err
    found = last_rows(tmp_path, *TASKS)
    assert {key: row["top1"] for key, row in found.items()} == {
        (name, row["label_space"]): row["top1"] for name in TASKS for row in rows(folder / f"metrics_{name}.csv")
        if row["task"] == after}
    assert {row["scored_by"] for row in found.values()} == {f"logits:{HOOKS[kind]}"}
    assert equal(loaded(folder / "shades.pth")["state_dict"], loaded(folder / "colours.pth")["state_dict"])


HOOKS = {"condu": "ConDU", "condu-lora": "ConDULoRA"}


@QUICK
def test_a_chain_is_the_sequence(trained, chain, kind, tmp_path):
    chain(*RUNS[kind])
    assert_as_if_never_interrupted(tmp_path, trained(kind), {"config", "history"})


@pytest.mark.parametrize(("kind", "moment"), [
    pytest.param(*case, marks=() if case == ("condu-lora", "prototypes") else pytest.mark.slow)
    for case in itertools.product(RUNS, ("begin", "prototypes", "end"))])
def test_interrupted_it_resumes_with_the_same_bits(trained, cli, world, trio, kind, moment, tmp_path):
    """In the second task, which begins with what the first has left."""
    words = sequence_of(world, trio, kind, tmp_path, "--resume", "--save-interval", 1)
    with broken(KINDS[kind] if kind == "condu" else ConDULoRA, moment, "tones"):
        assert cli(*words).status == 130
    assert (tmp_path / "colours.pth").is_file() and not (tmp_path / "tones.pth").exists()
    done = cli(*words)
    assert done.status == 0, done.err
    assert_as_if_never_interrupted(tmp_path, trained(kind))


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNS)
def test_interrupted_after_a_step_it_resumes_with_the_same_bits(trained, cli, world, trio, interrupt, kind, tmp_path):
    words = sequence_of(world, trio, kind, tmp_path, "--resume", "--save-interval", 1)
    interrupt("tones", 2)
    assert cli(*words).status == 130
    wait_for_writers()
    interrupt(None)
    done = cli(*words)
    assert done.status == 0 and "after step 1 of 3" in done.out, done.err
    assert_as_if_never_interrupted(tmp_path, trained(kind))


@pytest.mark.slow
def test_two_processes_have_the_scores_of_one(trained, world, trio, tmp_path):
    for kind in RUNS:
        words = sequence_of(world, trio, kind, tmp_path / kind, "--device", "cpu")
        group = ranks.Ranks(ranks.server(), 2, tmp_path / "log", ranks.command_line, words)
        assert group.join(300) == [0, 0], group.printed()
        assert last_rows(tmp_path / kind, *TASKS) == last_rows(trained(kind), *TASKS)


@pytest.mark.parametrize(("words", "reason"), [
    (("--method", "condu", "--lora"), "its deltas are of weights; leave it out, or give --method condu-lora"),
    (("--method", "condu-lora", "--lora"), "two kinds of factors would train the same weights"),
    (("--method", "condu-lora", "--we"), "its deltas are of factors"),
    (("--method", "condu", "--train-mode", "image-fc"), "its experts score by class prompts"),
    (("--method", "condu-lora", "--model", "toy", "--train-mode", "image"), "the tower that trains is a ResNet")])
def test_what_is_refused(cli, world, tmp_path, words, reason):
    start = () if "--model" in words else ("--load", world.model)
    done = cli(*start, *words, *STEPS, *COMMON, "--train-dataset", world.colours, "--save", tmp_path / "out")
    assert done.status == 2 and reason in done.err, done.err
    assert not list(tmp_path.rglob("*.pth"))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "values"), [("condu", "149,620,736 of 149,620,737"),
                                              ("condu-lora", "9,830,400 of 159,451,137")])
def test_trained_values_on_vit_b_16(cli, kind, values):
    """All but the scale of the logits; of factors of rank 64, 12 blocks of width 768 and 12 of 512, both layers."""
    done = cli("--recipe", kind, "--dataset-order", "mtil-1", "--init", "scratch", "--dry-run")
    assert f"{values} values" in done.out

"""iCaRL: herding, replay and distillation against slow renderings in float64; the memory through real runs and chains.

Three small datasets with different images: "first" has 4 classes, "second" 2 and "third" 3.
"""

import contextlib
import io
from dataclasses import replace

import pytest
import slow_reference as slow
import torch
from cli_files import BATCH, listing, same_weights, weights, write_pictures
from PIL import Image
from test_finetune import (
    CountTexts,
    assert_same,
    begin_and_move,
    prompts,
    slow_task_loss,
    slow_terms,
    text_tower_terms,
    tokens,
)

import src.models.finetune
import src.models.modeling
import src.models.state
from src.datasets.common import Split
from src.datasets.seeds import seed_of
from src.datasets.transforms import EvalTransform
from src.errors import UserError
from src.models.averaging import WeightEnsemble
from src.models.finetune import Finetune
from src.models.icarl import ICaRL, herding
from src.models.training import train

pytest_plugins = ["cli_fixtures"]

CLASSES = {"first": ("cat", "red bird", "dog", "very old green tree"), "second": ("car", "small blue house"),
           "third": ("blue", "two birds", "drawing")}
TEMPLATES = {"first": "a photo of a {c}.", "second": "{c}", "third": "a drawing of the {c}."}
SIZES = {"first": 23, "second": 9, "third": 14}
LABELS = {name: [index * 7 % len(CLASSES[name]) for index in range(size)] for name, size in SIZES.items()}
# (dataset, class) -> exemplars, as an earlier task might have left them: no class has as many as another.
PICKS = {"first": [[4, 16, 0], [3], [], [9, 21]], "second": [[2, 6], [1]], "third": [[0], [4, 1], [5]]}


def noise(name, size):
    """Images of one dataset, which no other one has."""
    generator = torch.Generator().manual_seed(len(name) + 100 * size)
    return [Image.fromarray(torch.randint(256, (18, 19, 3), generator=generator, dtype=torch.uint8).numpy())
            for _ in range(size)]


@pytest.fixture
def tasks(make_task):
    """{name: Task}"""
    found = {}
    for name, classnames in CLASSES.items():
        split = Split(noise(name, SIZES[name]).__getitem__, LABELS[name])
        found[name] = replace(make_task(name=name), classnames=classnames, templates=(TEMPLATES[name],),
                              splits={"train": split})
    return found


@pytest.fixture
def state_of(make_state, tasks):
    """-> make(name, model, train_mode="whole", **settings): a state before the first step of one of the tasks."""
    def make(name, model, train_mode="whole", **settings):
        state = make_state(model, train_mode, **settings)
        state.task, state.source, state.open_task = tasks[name], name, lambda name, trained=False: tasks[name]
        return state
    return make


def carried(hook):
    """What a checkpoint file gives back of a method's ``carry``."""
    file = io.BytesIO()
    torch.save(hook.carry(), file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=True)


def run(state, *add_ons, before=None, **options):
    """Train a task with iCaRL after the method ``before`` -> the method."""
    hook = ICaRL(**options)
    hook.load_carry({} if before is None else carried(before))
    train(state, [hook, *add_ons])
    return hook


def kept(hook):
    """{dataset: exemplars class by class}"""
    assert [set(map(type, entry["exemplars"])) for entry in hook.memory] == [{torch.Tensor}] * len(hook.memory)
    return {entry["source"]: [indices.tolist() for indices in entry["exemplars"]] for entry in hook.memory}


def same_memory(one, other):
    """Two carried contents, value for value."""
    assert [entry.keys() for entry in one["memory"]] == [entry.keys() for entry in other["memory"]]
    for left, right in zip(one["memory"], other["memory"], strict=True):
        for key, value in left.items():
            if key == "exemplars":
                assert len(value) == len(right[key])
                assert all(torch.equal(ours, theirs) for ours, theirs in zip(value, right[key], strict=True))
            else:
                assert value == right[key], key
    return True


# -- herding -----------------------------------------------------------------------------------------------------------


def unit_rows(count, seed, width=4):
    rows = torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rows / rows.norm(dim=1, keepdim=True)


def test_herding_by_hand():
    # The mean is (2/3, 1/3). Alone (1, 0) lies closest, the first of two; with it (0, 1), giving (1/2, 1/2), at 0.24.
    rows = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    assert herding(rows, 3) == [1, 0, 2]


@pytest.mark.parametrize("rows, seed", [(1, 0), (2, 1), (5, 2), (9, 3), (14, 4), (14, 5), (14, 6)])
def test_herding_equals_trying_every_candidate(rows, seed):
    features = unit_rows(rows, seed)
    whole = slow.herding(features, rows)
    assert sorted(whole) == list(range(rows))
    for count in range(rows + 3):
        assert herding(features, count) == whole[:count] == slow.herding(features, count)


def test_herding_is_no_ranking_by_distance():
    """Else the comparison above would not tell the greedy mean from the nearest images."""
    features = unit_rows(14, 4)
    nearest = (features - features.mean(dim=0)).norm(dim=1).argsort().tolist()
    assert herding(features, 14) != nearest and herding(features, 1) == nearest[:1]


def test_herding_of_nothing_and_of_equal_images():
    assert herding(torch.zeros(0, 4), 3) == []
    assert herding(torch.ones(3, 4) / 2, 3) == [0, 1, 2]


# -- the losses of a later task ----------------------------------------------------------------------------------------


def remember(hook, tasks, *names):
    """Give a method the exemplars in PICKS."""
    hook.load_carry({"memory": [
        {"source": name, "train_data": tasks[name].train_data, "size": SIZES[name],
         "classes": seed_of(*tasks[name].classnames), "exemplars": [torch.tensor(rows, dtype=torch.long)
                                                                    for rows in PICKS[name]]}
        for name in names]})


def slow_exemplars(state, stream_of, names, steps, size):
    """The seeded stream over the exemplars of ``names`` -> (images, [(number of the dataset, class)]) of each step."""
    rows = [(number, label, index) for number, name in enumerate(names)
            for label, indices in enumerate(PICKS[name]) for index in indices]
    images = [state.open_task(names[number]).split("train").image(index) for number, _, index in rows]
    whole = Split(images.__getitem__, range(len(rows)))
    for batch in stream_of(whole, "reference", steps, size, name=state.task.name):
        yield batch.images, [rows[row][:2] for row in batch.labels.tolist()]


def slow_icarl(state, entered, stream_of, names, options, step=0):
    """-> (training batch, every term of a step, which earlier datasets are among the exemplars)."""
    size = options.get("ref_batch_size", 4)
    *_, batch = stream_of(state.task.split("train"), "train", step + 1, train_transform=True, name=state.task.name)
    *_, (images, labels) = slow_exemplars(state, stream_of, names, step + 1, size)
    earlier = [tokens(prompts(state.open_task(name))) for name in names]
    classify = [slow.head_scores(state.heads[name]) if name in state.heads
                else slow.prompt_scores(state.model, rows, state.scale)
                for name, rows in zip(names, earlier, strict=True)]
    smoothing, texts = options.get("ls", 0.0), tokens([text for name in names
                                                       for text in prompts(state.open_task(name))])
    terms = {"task": slow_task_loss(state, batch, smoothing),
             "replay": options.get("replay_weight", 1.0) * slow.replay_loss(
                 state.model, images, labels, classify, smoothing)}
    if any(name.startswith("visual.") and value.requires_grad for name, value in state.model.named_parameters()):
        terms |= slow_terms(state, entered, images, texts, options)
    if options.get("distill_text_tower"):
        terms |= text_tower_terms(state, entered, images, texts, options, step)
    return batch, terms, {number for number, _ in labels}


@pytest.mark.parametrize("train_mode, options", [
    ("whole", {}),
    ("whole", {"ls": 0.2, "replay_weight": 0.3, "T": 3.0, "ref_batch_size": 5}),
    ("whole", {"image_loss": True, "weight_adjust": True, "feature_mse": True, "ablation_loss_2": True}),
    ("whole", {"ls": 0.1, "text_loss": True, "weight_adjust": True, "distill_text_tower": True,
               "text_tower_weight": 0.3, "ref_batch_size": 3}),
    ("image", {"ls": 0.2}),
    ("text", {"distill_text_tower": True}),
], ids=str)
def test_a_later_task_equals_the_slow_rendering(
        kind, train_mode, options, make_model, state_of, tasks, stream_of):
    """All terms and every gradient, on a memory of two datasets with different numbers of classes."""
    state = state_of("third", make_model(kind), train_mode)
    entered, hook = state.frozen(), ICaRL(**options)
    remember(hook, tasks, "first", "second")
    begin_and_move(hook, state)
    batch, expected, _ = slow_icarl(state, entered, stream_of, ("first", "second"), options)
    assert_same(state, hook.losses(state, batch), expected)


def test_only_the_datasets_of_a_batch_are_scored(make_model, state_of, tasks, stream_of, monkeypatch):
    """Small batches of exemplars: some with one dataset, some with both; what is absent is not encoded either."""
    names, seen = ("second", "first"), []
    for size in (1, 2):
        options = {"ls": 0.2, "ref_batch_size": size}
        state, hook = state_of("third", make_model("vit")), ICaRL(**options)
        entered = state.frozen()
        remember(hook, tasks, *names)
        begin_and_move(hook, state)
        for step in range(5):
            batch, expected, present = slow_icarl(state, entered, stream_of, names, options, step)
            state.iteration = step
            with monkeypatch.context() as patch:
                encoded = CountTexts(patch)
                losses = hook.losses(state, batch)
            assert_same(state, losses, expected)
            assert encoded.counts == {state.model: 3 + sum(len(CLASSES[names[number]]) for number in present)}
            seen.append(present)
    assert {0} in seen and {1} in seen and {0, 1} in seen


def test_a_dataset_with_a_linear_head_is_replayed_by_it(kind, make_model, state_of, tasks, stream_of):
    """The head is found by the name that files go by, and does not train."""
    state = state_of("third", make_model(kind))
    head = torch.randn(4, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    state.heads = {"first": head.clone(), "elsewhere": torch.zeros(2, 9)}
    state.history = [{"dataset": "first", "classnames": list(tasks["first"].classnames)}]
    tasks["folder:/some/place/first"] = tasks["first"]
    entered, hook = state.frozen(), ICaRL(ls=0.1, ref_batch_size=6)
    remember(hook, tasks, "first", "second")
    hook.memory[0]["source"] = "folder:/some/place/first"
    begin_and_move(hook, state)
    batch, expected, present = slow_icarl(state, entered, stream_of, ("first", "second"),
                                          {"ls": 0.1, "ref_batch_size": 6})
    assert present == {0, 1}
    assert_same(state, hook.losses(state, batch), expected)
    assert torch.equal(state.heads["first"], head)


def test_the_teacher_is_the_model_as_it_entered(kind, make_model, state_of, tasks):
    entered = make_model(kind).state_dict()
    state = state_of("third", make_model(kind), batch_norm="train")
    hook = ICaRL()
    remember(hook, tasks, "first")
    train(state, [hook])
    assert all(torch.equal(value, entered[name]) for name, value in hook.teacher.state_dict().items())
    assert not any(value.requires_grad for value in hook.teacher.parameters()) and not hook.teacher.training
    assert not torch.equal(state.model.visual.conv1.weight, entered["visual.conv1.weight"])


@pytest.mark.parametrize("options", [{}, {"distill_text_tower": True, "ablation_loss_2": True}], ids=str)
def test_no_step_waits_for_the_device_or_leaves_a_tensor_on_the_host(
        kind, options, make_model, state_of, tasks, device, monkeypatch):
    """Tensors on "meta" have no values: whatever reads one fails, and one on the host does not mix with them."""
    monkeypatch.setattr(src.models.modeling, "_note_unknown_words", lambda *args: None)  # once a task, may wait
    monkeypatch.setattr(src.models.state, "packed_where_shorter", lambda model, tokens: tokens)  # the same
    monkeypatch.setattr(src.models.finetune, "constant_text_features",  # the same
                        lambda model, rows: torch.empty(len(rows), 8, device="meta", dtype=torch.float64))
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())  # meta has none
    device.device = torch.device("meta")
    device._mean, device._std = device._mean.to("meta"), device._std.to("meta")
    state, hook = state_of("third", make_model(kind).to("meta")), ICaRL(**options)
    remember(hook, tasks, "first", "second")
    hook.begin(state)
    losses = hook.losses(state, next(state.training_stream()))
    assert {"task", "replay", "image_kl", "text_kl"} <= losses.keys()
    assert all(value.is_meta for value in (*losses.values(), *state.metrics.values()))


# -- the memory through runs -------------------------------------------------------------------------------------------


def test_the_first_task_is_fine_tuning_bit_for_bit(kind, make_model, state_of):
    ends = []
    for hook in (Finetune(0.1), ICaRL(ls=0.1, memory_size=8, distill_text_tower=True)):
        state, told = state_of("first", make_model(kind)), []
        train(state, [hook], lambda state, losses, told=told: told.append(losses))
        assert [set(losses) for losses in told] == [{"task"}] * 6
        ends.append(({name: value.clone() for name, value in state.model.state_dict().items()},
                     [losses["task"].item() for losses in told]))
    assert same_weights(ends[0][0], ends[1][0]) and ends[0][1] == ends[1][1]


def class_features(model, task, device, skipped=()):
    """Slow features of a task's training images, class by class -> [(indices, features)]."""
    found = []
    for label in range(len(task.classnames)):
        rows = [index for index, own in enumerate(task.split("train").labels) if own == label and index not in skipped]
        pixels = [device.images(EvalTransform(16)(task.split("train").image(index))[None])[0] for index in rows]
        with torch.no_grad():
            found.append((rows, slow.image_features(model, pixels)))
    return found


def slowly_herded(model, task, device, quota, skipped=()):
    return [[rows[pick] for pick in slow.herding(features, quota)] if rows else []
            for rows, features in class_features(model, task, device, skipped)]


def test_exemplars_are_herded_on_the_final_model(kind, make_model, state_of, tasks, device):
    """On averaged weights, which are saved and carried on, not on the live ones."""
    state = state_of("first", make_model(kind), lr=0.1)
    hook = run(state, WeightEnsemble(avg_freq=1), memory_size=19)
    by_final, by_live = (slowly_herded(model, tasks["first"], device, 19 // 4)
                         for model in (state.final_model, state.model))
    assert by_final != by_live, "else the test shows nothing"
    assert kept(hook) == {"first": by_final}
    assert [len(rows) for rows in by_final] == [4] * 4


def test_the_memory_is_shared_evenly_over_the_classes_seen_so_far(make_model, state_of, tasks, device):
    """Four tasks with room for 23: 23 // 4 = 5 a class, 23 // 6 = 3, 23 // 9 = 2, and "second" is met again."""
    model, hook, memories = make_model("vit"), None, []
    order = (("first", 5), ("second", 3), ("third", 2), ("second", 2))
    for name, quota in order:
        state = state_of(name, model)
        hook = run(state, before=hook, memory_size=23)
        memories.append(kept(hook))
        assert memories[-1][name] == slowly_herded(state.final_model, tasks[name], device, quota)
        assert sum(len(rows) for classes in memories[-1].values() for rows in classes) <= 23
    first, second, third, again = memories
    assert [list(memory) for memory in memories] == [["first"], ["first", "second"], ["first", "second", "third"],
                                                     ["first", "third", "second"]]
    assert [len(rows) for rows in first["first"]] == [5] * 4  # of 23 images: 6, 6, 6 and 5
    assert second["first"] == [rows[:3] for rows in first["first"]]
    assert third == {**{name: [rows[:2] for rows in classes] for name, classes in second.items()},
                     "third": third["third"]}
    assert {name: again[name] for name in ("first", "third")} == {name: third[name] for name in ("first", "third")}


def test_a_single_task_met_again_is_fine_tuning_again(make_model, state_of):
    hook = run(state_of("second", make_model("vit")), memory_size=6)
    state, told = state_of("second", make_model("vit", seed=4)), []
    again = ICaRL(memory_size=6)
    again.load_carry(carried(hook))
    train(state, [again], lambda state, losses: told.append(set(losses)))
    assert told == [{"task"}] * 6 and list(kept(again)) == ["second"]


def test_the_memory_survives_a_checkpoint_and_holds_no_pixels(make_model, state_of):
    hook = run(state_of("first", make_model("vit")), memory_size=1000)
    hook = run(state_of("second", make_model("vit")), before=hook, memory_size=1000)
    content, file, other = carried(hook), io.BytesIO(), ICaRL(memory_size=1000)
    other.load_carry(content)
    assert same_memory(hook.carry(), content) and same_memory(hook.carry(), other.carry())
    torch.save(hook.carry(), file)
    assert len(file.getvalue()) < 8000 < 23 * 18 * 19 * 3  # less than a quarter of the pixels
    for entry in content["memory"]:
        assert all(isinstance(value, (str, int)) for key, value in entry.items() if key != "exemplars")
        assert sorted(index for rows in entry["exemplars"] for index in rows.tolist()) == list(
            range(SIZES[entry["source"]])), "there is room for all"
        assert all(rows.dtype == torch.long and rows.untyped_storage().nbytes() == 8 * len(rows)
                   for rows in entry["exemplars"])


def test_a_cut_memory_leaves_nothing_of_the_rest_in_the_file(make_model, state_of):
    """A slice of a tensor would be stored whole."""
    hook = run(state_of("first", make_model("vit")), memory_size=20)
    hook = run(state_of("second", make_model("vit")), before=hook, memory_size=6)
    assert [len(rows) for rows in kept(hook)["first"]] == [1] * 4
    assert all(rows.untyped_storage().nbytes() == 8 for entry in hook.carry()["memory"] for rows in entry["exemplars"])


@pytest.mark.parametrize("size, earlier", [(3, ()), (5, ("first",)), (8, ("first", "second"))])
def test_less_than_one_exemplar_a_class_is_refused(size, earlier, make_model, state_of, tasks):
    """4, 4 + 2 and 4 + 2 + 3 classes; with one more there is room."""
    name = list(CLASSES)[len(earlier)]
    for memory_size in (size, size + 1):
        hook = ICaRL(memory_size=memory_size)
        remember(hook, tasks, *earlier)
        if memory_size == size:
            with pytest.raises(UserError, match=f"--memory-size {size}"):
                hook.begin(state_of(name, make_model("vit")))
        else:
            train(state_of(name, make_model("vit"), iterations=1), [hook])
            assert all(len(rows) <= 1 for classes in kept(hook).values() for rows in classes)


@pytest.mark.parametrize("change", ["fewer images", "other training data", "other classes", "fewer classes"])
def test_data_that_is_not_what_the_exemplars_were_drawn_from_is_refused(change, make_model, state_of, tasks):
    hook, first = ICaRL(memory_size=100), tasks["first"]
    remember(hook, tasks, "first", "second")
    split = first.split("train")
    tasks["first"] = {
        "fewer images": lambda: replace(first, splits={"train": split.subset(range(22))}),
        "other training data": lambda: replace(first, train_data="4 shots seed 1"),
        "other classes": lambda: replace(first, classnames=("cat", "dog", "red bird", "very old green tree")),
        "fewer classes": lambda: replace(first, classnames=first.classnames[:3]),
    }[change]()
    with pytest.raises(UserError, match="first.*--shots.*--shot-seed.*--val-fraction.*--data-location"):
        hook.begin(state_of("third", make_model("vit")))


def test_earlier_datasets_are_opened_as_they_were_trained_on(make_model, state_of, tasks):
    state, asked, hook = state_of("third", make_model("vit")), [], ICaRL()

    def open_task(name, trained=False):
        asked.append((name, trained))
        return tasks[name]
    state.open_task = open_task
    remember(hook, tasks, "first", "second")
    hook.begin(state)
    assert asked == [("first", True), ("second", True)]


def test_images_that_cannot_be_decoded_are_no_exemplars(make_model, state_of, tasks, device):
    """Those of "first", one of each class and all of class 2; the memory is fed to the next task all the same."""
    broken = {0, 3, 5, *(index for index, label in enumerate(LABELS["first"]) if label == 2)}
    good = tasks["first"].split("train")
    tasks["first"] = replace(tasks["first"], splits={"train": Split(
        lambda index: None if index in broken else good.image(index), LABELS["first"])})
    state = state_of("first", make_model("vit"), batch_size=8)  # so that no batch is broken as a whole
    hook = run(state, memory_size=40)
    found = kept(hook)["first"]
    assert found == slowly_herded(state.final_model, tasks["first"], device, 10, broken)
    assert [len(rows) for rows in found] == [LABELS["first"].count(label) - lost for label, lost in enumerate(
        [sum(LABELS["first"][index] == label for index in broken) for label in range(4)])]
    assert found[2] == [] and not broken & {index for rows in found for index in rows}
    hook = run(state_of("second", make_model("vit")), before=hook, memory_size=40)
    assert kept(hook)["first"] == [rows[:6] for rows in found]


def test_two_runs_of_a_later_task_give_the_same_bits(make_model, state_of):
    before, ends = run(state_of("first", make_model("vit")), memory_size=12), []
    for _ in range(2):
        state = state_of("second", make_model("vit"))
        hook = run(state, before=before, memory_size=12, distill_text_tower=True)
        ends.append((state.model.state_dict(), hook.carry()))
        torch.rand(7)
    assert same_weights(ends[0][0], ends[1][0]) and same_memory(ends[0][1], ends[1][1])
    plain = state_of("second", make_model("vit"))
    run(plain, memory_size=12, distill_text_tower=True)
    assert not same_weights(ends[0][0], plain.model.state_dict()), "the memory acts"


def test_a_memory_smaller_than_a_batch_is_fed_whole(make_model, state_of, tasks):
    """Labels count through the classes of both datasets: PICKS has 3, 1, 0, 2 and 2, 1 exemplars of them."""
    state, hook = state_of("third", make_model("vit"), iterations=3), ICaRL(ref_batch_size=50)
    remember(hook, tasks, "first", "second")
    hook.begin(state)
    assert [sorted(batch.labels.tolist()) for batch in hook.reference_images] == [[0, 0, 0, 1, 3, 3, 4, 4, 5]] * 3


def test_a_run_that_starts_later_sees_the_same_exemplars(make_model, state_of, tasks, stream_of):
    state, hook = state_of("third", make_model("vit")), ICaRL(ref_batch_size=3)
    remember(hook, tasks, "first", "second")
    state.iteration = 4
    hook.begin(state)
    *_, (images, labels) = slow_exemplars(state, stream_of, ("first", "second"), 5, 3)
    batch = next(hook.reference_images)
    assert torch.equal(batch.images, images)
    assert batch.labels.tolist() == [(0, 4)[dataset] + label for dataset, label in labels]


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def three(world):
    """Three datasets of two classes each, as the command line names them: {file name: dataset}."""
    found = {"tones": world.tones}
    for name, hues in (("hues", {"blue": 0.6, "green": 0.35}), ("shades", {"dark": 0.75, "light": 0.9})):
        write_pictures(world.root / name / "train", hues, 7)
        write_pictures(world.root / name / "test", hues, 3)
        found[name] = f"folder:{world.root / name}"
    return found


@pytest.fixture
def icarl(cli, tmp_path):
    """icarl(save, word, ...): two steps per task of --method icarl with room for six exemplars."""
    def call(save, *words):
        return cli("--method", "icarl", "--memory-size", 6, "--iterations", 2, "--batch-size", BATCH, "--lr", "1e-3",
                   "--warmup-length", 0, "--workers", 0, "--data-location", tmp_path / "data", "--save", save, *words)
    return call


@pytest.mark.parametrize("words", ["", *(pytest.param(words, marks=pytest.mark.slow) for words in (
    "--shots 4", "--we --avg-freq 1 --distill-text-tower --ls 0.1", "--train-mode image-fc --weight-adjust"))])
def test_one_process_equals_a_chain(icarl, world, three, tmp_path, words):
    done = icarl(tmp_path / "seq", "--load", world.model, "--dataset-order", ",".join(three.values()), *words.split())
    assert done.status == 0, done.err
    start = world.model
    for number, (file, name) in enumerate(three.items()):
        done = icarl(tmp_path / "chain", "--load", start, "--train-dataset", name, *words.split())
        assert done.status == 0, done.err
        start = tmp_path / "chain" / f"{file}.pth"
        assert same_weights(weights(tmp_path / "seq" / f"{file}.pth"), weights(start))
        one, two = (torch.load(tmp_path / folder / f"{file}.pth", weights_only=True)["carry"]["ICaRL"]
                    for folder in ("seq", "chain"))
        assert same_memory(one, two)
        assert [entry["source"] for entry in one["memory"]] == list(three.values())[:number + 1]
        assert [len(rows) for entry in one["memory"] for rows in entry["exemplars"]] == {
            0: [3] * 2, 1: [1] * 4, 2: [1] * 6}[number]
        assert {entry["train_data"] for entry in one["memory"]} == {
            "4 shots seed 0" if "--shots" in words else "all"}
        assert [entry["size"] for entry in one["memory"]] == (
            [8, 8, 8] if "--shots" in words else [12, 14, 14])[:number + 1]


@pytest.mark.parametrize("words", ["", "--shots 3", "--shots 4 --shot-seed 1", "--shots 4 --val-fraction 0.2"])
def test_a_chain_with_other_training_images_is_refused_and_writes_nothing(icarl, world, three, tmp_path, words):
    tones, hues, _ = three.values()
    assert icarl(tmp_path / "one", "--load", world.model, "--train-dataset", tones, "--shots", 4).status == 0
    done = icarl(tmp_path / "two", "--load", tmp_path / "one" / "tones.pth", "--train-dataset", hues, *words.split())
    assert done.status == 2 and len(done.err.splitlines()) == 1 and "--shots" in done.err
    assert not (tmp_path / "two").exists()
    done = icarl(tmp_path / "one", "--load", tmp_path / "one" / "tones.pth", "--train-dataset", hues, *words.split())
    assert done.status == 2
    assert not any("hues" in name for name in listing(tmp_path / "one"))


def test_too_small_a_memory_is_refused_and_writes_nothing(icarl, world, three, tmp_path):
    tones, hues, _ = three.values()
    assert icarl(tmp_path / "one", "--load", world.model, "--train-dataset", tones, "--memory-size", 3).status == 0
    done = icarl(tmp_path / "two", "--load", tmp_path / "one" / "tones.pth", "--train-dataset", hues,
                 "--memory-size", 3)
    assert done.status == 2 and len(done.err.splitlines()) == 1 and "--memory-size 3" in done.err
    assert not (tmp_path / "two").exists()

"""The six train modes from start to end: which tensors move, what is learnt, what is encoded when, what is kept."""

import dataclasses
import itertools
import shutil
from pathlib import Path

import pytest
import slow_reference as slow
import torch
from cli_files import BATCH, COLOURS, STEPS, lines, rows, same_weights, weights, write_pictures

import clip
from src.args import parse
from src.datasets.common import Split
from src.datasets.seeds import order_of_epoch, seed_of
from src.errors import UserError
from src.models import evaluation
from src.models.classifiers import classifier
from src.models.features import encode_split
from src.models.finetune import ZSCL, Finetune, LwF
from src.models.modeling import ClassificationHead, text_features
from src.models.training import train as run_training
from src.run.build import first_head, training_of
from src.store.records import Journal

pytest_plugins = ["cli_fixtures"]

BLOCK = ("attn.in_proj_weight", "attn.in_proj_bias", "attn.out_proj.weight", "attn.out_proj.bias", "ln_1.weight",
         "ln_1.bias", "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias", "ln_2.weight",
         "ln_2.bias")
NORMS = ("visual.bn1", "visual.bn2", "visual.bn3", *(
    f"visual.layer{stage}.0.{norm}" for stage in (1, 2) for norm in ("bn1", "bn2", "bn3", "downsample.1")))
CONVOLUTIONS = ("visual.conv1", "visual.conv2", "visual.conv3", *(
    f"visual.layer{stage}.0.{conv}" for stage in (1, 2) for conv in ("conv1", "conv2", "conv3", "downsample.0")))
IMAGE = {
    "vit": {"visual.class_embedding", "visual.positional_embedding", "visual.proj", "visual.conv1.weight",
            "visual.ln_pre.weight", "visual.ln_pre.bias", "visual.ln_post.weight", "visual.ln_post.bias",
            *(f"visual.transformer.resblocks.{block}.{part}" for block in (0, 1) for part in BLOCK)},
    "resnet": {*(f"{conv}.weight" for conv in CONVOLUTIONS),
               *(f"{norm}.{part}" for norm in NORMS for part in ("weight", "bias")),
               "visual.attnpool.positional_embedding",
               *(f"visual.attnpool.{side}_proj.{part}" for side in "kqvc" for part in ("weight", "bias"))},
}
STATISTICS = {"vit": set(), "resnet": {f"{norm}.{part}" for norm in NORMS
                                       for part in ("running_mean", "running_var", "num_batches_tracked")}}
TEXT = {"positional_embedding", "text_projection", "token_embedding.weight", "ln_final.weight", "ln_final.bias",
        *(f"transformer.resblocks.0.{part}" for part in BLOCK)}
HEAD = {"head.weight", "head.bias"}
MODES = ("whole", "image", "text", "image-fc", "image-fc-fixed", "fc")
WITH_HEAD = MODES[3:]


def moving(kind, mode):
    """The names that a train mode moves, from its row in the documentation."""
    return {"whole": IMAGE[kind] | TEXT, "image": IMAGE[kind], "text": TEXT, "image-fc": IMAGE[kind] | HEAD,
            "image-fc-fixed": IMAGE[kind], "fc": HEAD}[mode]


def head_for(model, task, device, *words):
    return first_head(training_of(parse(list(words))), {}, model, task, task.name, device)


@pytest.fixture
def prepared(make_model, make_state, task, device):
    """-> prepared(kind, mode, **settings): a state before its first step, with the head that its mode asks for."""
    def make(kind, mode, **settings):
        model = make_model(kind)
        if mode in WITH_HEAD:
            model.head = head_for(model, task, device)
        return make_state(model, mode, **settings)
    return make


def copied(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(model, before):
    assert model.state_dict().keys() == before.keys()
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


# -- which tensors move ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_five_steps_move_exactly_the_tensors_of_the_mode(kind, mode, prepared):
    state = prepared(kind, mode, iterations=5)
    before = copied(state.model)
    assert before.keys() == IMAGE[kind] | STATISTICS[kind] | TEXT | {"logit_scale"} | (
        HEAD if mode in WITH_HEAD else set()), "every tensor is in one of the lists above"
    run_training(state, [Finetune(0.1)])
    assert changed(state.model, before) == moving(kind, mode)


@pytest.mark.parametrize("mode", MODES)
def test_batch_norm_statistics_move_only_with_their_tower(mode, prepared):
    state = prepared("resnet", mode, iterations=2, batch_norm="train")
    before = copied(state.model)
    run_training(state, [Finetune()])
    assert changed(state.model, before) == moving("resnet", mode) | (
        STATISTICS["resnet"] if mode not in ("text", "fc") else set())


@pytest.mark.parametrize("method", [LwF, ZSCL], ids=lambda method: method.__name__)
def test_distilling_methods_in_image_fc(kind, method, prepared):
    state = prepared(kind, "image-fc", iterations=5)
    before, logged = copied(state.model), []
    hook = LwF() if method is LwF else ZSCL("tiny-reference")
    run_training(state, [hook], lambda state, losses: logged.append(losses))
    assert changed(state.model, before) == moving(kind, "image-fc")
    assert all(losses.keys() == {"task", "image_kl", "text_kl"} for losses in logged)
    plain = prepared(kind, "image-fc", iterations=5)
    run_training(plain, [Finetune()])
    assert changed(state.model, plain.model.state_dict()) == moving(kind, "image-fc"), "the terms reach all that trains"
    assert not any(parameter.requires_grad for parameter in hook.teacher.parameters())
    if method is LwF:
        assert same_weights(hook.teacher.state_dict(), before)


# -- the head and its loss ---------------------------------------------------------------------------------------------


def slow_head(model, task):
    """[(D,)] s * zero-shot text features of all templates, one class after the other."""
    tokens = [clip.tokenize([template.replace("{c}", name) for template in task.templates], 14)
              for name in task.classnames]
    return [model.logit_scale.detach().exp() * row for row in slow.zeroshot_weights(model, tokens)]


def slow_loss(features, labels, weight, bias, smoothing):
    rows = [[torch.dot(row, feature) + offset for row, offset in zip(weight, bias, strict=True)]
            for feature in features]
    return slow.mean([slow.smoothed_cross_entropy(row, int(label), smoothing)
                      for row, label in zip(rows, labels, strict=True)])


def test_a_new_head_is_the_scaled_zero_shot_classifier(kind, make_model, task, device):
    model = make_model(kind)
    head = head_for(model, task, device)
    torch.testing.assert_close(head.weight.detach(), torch.stack(slow_head(model, task)), rtol=1e-11, atol=1e-12)
    assert torch.equal(head.bias.detach(), torch.zeros(4, dtype=torch.float64))
    assert {name for name, _ in head.named_parameters()} == {"weight", "bias"}
    one_template = dataclasses.replace(task, templates=task.templates[:1])
    assert not torch.allclose(head_for(model, one_template, device).weight, head.weight)


def test_a_head_of_zeros(make_model, task, device):
    head = head_for(make_model("vit"), task, device, "--fc-init", "zero")
    assert head.weight.shape == (4, 8) and not head.weight.any() and not head.bias.any()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("mode", WITH_HEAD)
def test_loss_and_gradients_of_the_fc_modes(kind, mode, smoothing, prepared, stream_of):
    state, hook = prepared(kind, mode), Finetune(smoothing)
    model = state.model
    with torch.no_grad():  # away from the point where bias and zero-shot classifier would hide each other
        model.head.bias.normal_(generator=torch.Generator().manual_seed(1))
        model.head.weight.add_(torch.randn(4, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64))
    hook.begin(state)
    loss, = hook.losses(state, next(state.training_stream())).values()
    batch = next(stream_of(state.task.split("train"), "train", 1, train_transform=mode != "fc"))
    expected = slow_loss(slow.image_features(model, batch.images), batch.labels, model.head.weight, model.head.bias,
                         smoothing)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-10)
    names, free = zip(*((name, value) for name, value in model.named_parameters() if value.requires_grad), strict=True)
    assert set(names) == moving(kind, mode)
    given, wanted = torch.autograd.grad(loss, free), torch.autograd.grad(expected, free)
    for name, one, other in zip(names, given, wanted, strict=True):
        assert (one - other).norm() <= 1e-7 * other.norm() + 1e-10, name
        assert other.norm() > 0


def test_a_head_scores_in_full_precision_under_autocast():
    head = ClassificationHead(torch.randn(3, 8), torch.randn(3))
    features = torch.nn.functional.normalize(torch.randn(5, 8), dim=-1)
    with torch.autocast("cpu", torch.bfloat16):
        scores = head(features)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, features @ head.weight.T + head.bias)


# -- fc: features once -------------------------------------------------------------------------------------------------


def visited(steps, batch_size=4, size=23):
    """The training images of each step, from the definition of the seeded stream."""
    per_epoch = len(range(0, size, batch_size))
    for step in range(steps):
        epoch, position = divmod(step, per_epoch)
        order = order_of_epoch(size, seed_of(42, "tiny", "train"), epoch)
        yield order[position * batch_size:(position + 1) * batch_size]


def encoded_by(tower):
    """A list that fills with the inputs of a module."""
    seen = []
    tower.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().clone()))
    return seen


def with_train_images(state, image):
    """The state with training images from ``image(index)``."""
    split = state.task.split("train")
    state.task = dataclasses.replace(state.task, splits={**state.task.splits,
                                                         "train": Split(image, split.labels)})


@pytest.mark.parametrize("steps", [2, 5, 12])
def test_fc_reads_and_encodes_each_visited_image_once(kind, steps, prepared):
    state, read = prepared(kind, "fc", iterations=steps), []
    images = state.task.split("train").image
    with_train_images(state, lambda index: read.append(index) or images(index))
    seen = encoded_by(state.model.visual)
    run_training(state, [Finetune()])
    expected = sorted({index for batch in visited(steps) for index in batch})
    assert sorted(read) == expected and (steps > 5 or len(expected) == 4 * steps)
    assert len(seen) == 1 and len(seen[0]) == len(expected)


@pytest.mark.parametrize("first", [0, 4])
def test_fc_batches_are_features_under_the_evaluation_transform(kind, first, prepared, stream_of):
    """From any step on, as a resumed run needs them."""
    state = prepared(kind, "fc", iterations=7)
    state.iteration = first
    found = list(state.training_stream())
    expected = list(stream_of(state.task.split("train"), "train", 7))[first:]
    assert len(found) == len(expected)
    for batch, slow_batch in zip(found, expected, strict=True):
        assert batch.images is None and batch.skipped == 0 and batch.labels.tolist() == slow_batch.labels.tolist()
        features = torch.stack(slow.image_features(state.model, slow_batch.images))
        torch.testing.assert_close(batch.features, features, rtol=1e-10, atol=1e-12)
        assert not batch.features.requires_grad


@pytest.mark.parametrize("first", [1, 4, 6, 7])
def test_fc_goes_on_with_the_same_bits(kind, first, prepared):
    """All is encoded in the batches of the whole run; nothing is where no step is left."""
    state = prepared(kind, "fc", iterations=7)
    seen = encoded_by(state.model.visual)
    whole = list(state.training_stream())
    state.iteration = first
    found = list(state.training_stream())
    assert len(found) == 7 - first and len(seen) == 1 + bool(found) and len({len(batch) for batch in seen}) == 1
    assert all(torch.equal(batch.features, expected.features)
               for batch, expected in zip(found, whole[first:], strict=True))


def test_fc_skips_images_that_cannot_be_decoded(prepared, stream_of):
    state = prepared("vit", "fc", iterations=6)
    split, order = state.task.split("train"), list(visited(6))
    bad = {order[0][1], order[2][0], order[2][3]}
    with_train_images(state, lambda index: None if index in bad else split.image(index))
    for batch, indices, slow_batch in zip(state.training_stream(), order, stream_of(split, "train", 6), strict=True):
        kept = [place for place, index in enumerate(indices) if index not in bad]
        assert batch.skipped == len(indices) - len(kept)
        assert batch.labels.tolist() == [split.labels[indices[at]] for at in kept]
        features = torch.stack(slow.image_features(state.model, slow_batch.images[kept]))
        torch.testing.assert_close(batch.features, features, rtol=1e-10, atol=1e-12)
    run_training(state, [Finetune()])
    assert all(value.isfinite().all() for value in state.model.parameters())


@pytest.mark.parametrize("mode", ["fc", "image-fc"])
def test_a_batch_without_any_image_is_one_message(mode, prepared):
    state = prepared("vit", mode, iterations=4, batch_size=1)
    split, bad = state.task.split("train"), list(visited(4, 1))[2][0]
    with_train_images(state, lambda index: None if index == bad else split.image(index))
    with pytest.raises(UserError, match="none of the images of a batch could be decoded"):
        run_training(state, [Finetune()])


def test_fc_encodes_what_is_left_where_a_whole_batch_cannot_be_decoded(prepared):
    """Batches of encoding are not those of training."""
    state = prepared("vit", "fc", iterations=3)
    split, bad = state.task.split("train"), sorted(next(visited(1)))[:3]
    few = split.subset([*bad, *(index for index in range(23) if index not in bad)])
    tolerant = Split(lambda index: None if index < 3 else few.image(index), few.labels)
    places, features = encode_split(state.model, tolerant, state.device, batch_size=3)
    assert places == list(range(3, 23)) and len(features) == 20
    scores = evaluation.evaluate(state.model, dataclasses.replace(state.task, splits={"test": tolerant}), state.device,
                                 batch_size=3)["task"]
    assert scores.n == 20
    nothing = Split(lambda index: None, few.labels)
    with pytest.raises(UserError, match="none of the images"):
        encode_split(state.model, nothing, state.device, batch_size=3)


def test_fc_twice_is_the_same_bit_for_bit(kind, prepared):
    states = [prepared(kind, "fc") for _ in range(2)]
    for state in states:
        run_training(state, [Finetune()])
    assert same_weights(*(state.model.state_dict() for state in states))


@pytest.mark.parametrize("options", [{}, {"wd": 0.1, "smoothing": 0.2, "steps": 13}])
def test_fc_equals_a_slow_training_on_features(kind, options, prepared, stream_of):
    steps, smoothing, decay = options.get("steps", 6), options.get("smoothing", 0.0), options.get("wd", 0.0)
    state = prepared(kind, "fc", iterations=steps, wd=decay)
    weight = torch.stack(slow_head(state.model, state.task)).requires_grad_()
    bias = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        batches = [(slow.image_features(state.model, batch.images), batch.labels)
                   for batch in stream_of(state.task.split("train"), "train", steps)]
    before = weight.detach().clone()
    slow.train([weight, bias], lambda step, batch: slow_loss(*batch, weight, bias, smoothing), batches,
               [slow.learning_rate(step, steps, 2, 1e-2) for step in range(steps)], decay=decay)
    run_training(state, [Finetune(smoothing)])
    assert (weight - before).abs().max() > 1e-2, "something is learnt"
    torch.testing.assert_close(state.model.head.weight, weight, rtol=0, atol=1e-9)
    torch.testing.assert_close(state.model.head.bias, bias, rtol=0, atol=1e-9)


# -- how often each tower is asked -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "texts", "images"), [("whole", 6, 6), ("image", 1, 6), ("text", 6, 6),
                                                       ("image-fc", 0, 6), ("image-fc-fixed", 0, 6), ("fc", 0, 1)])
def test_how_often_each_tower_is_asked_in_six_steps(kind, mode, texts, images, prepared):
    state = prepared(kind, mode)
    asked, shown = encoded_by(state.model.ln_final), encoded_by(state.model.visual)
    run_training(state, [Finetune()])
    assert (len(asked), len(shown)) == (texts, images)


def test_a_new_head_asks_the_text_tower_once_and_a_kept_one_never(make_model, task, device):
    model = make_model("vit")
    asked = encoded_by(model.ln_final)
    head = head_for(model, task, device)
    assert len(asked) == 1 and len(asked[0]) == 12, "four classes, three templates"
    history = [{"dataset": "tiny", "classnames": list(task.classnames)}]
    checkpoint = {"heads": {"tiny": head.packed()}, "history": history}
    kept = first_head(training_of(parse([])), checkpoint, model, task, "tiny", device)
    assert len(asked) == 1 and torch.equal(kept.weight, head.weight)


@pytest.mark.parametrize("mode", ["text", "image-fc"])
def test_crops_are_random_and_drawn_anew(kind, mode, prepared, stream_of):
    state = prepared(kind, mode, iterations=13)  # two epochs of six batches and one
    shown = encoded_by(state.model.visual)
    run_training(state, [Finetune()])
    split = state.task.split("train")
    expected = [batch.images for batch in stream_of(split, "train", 13, train_transform=True)]
    assert len(shown) == 13 and all(torch.equal(one, other) for one, other in zip(shown, expected, strict=True))
    order, pictures = list(itertools.chain(*visited(11))), torch.cat(shown)
    again = next(place for place in range(20, 44) if order[place] in order[:20])
    assert not torch.equal(pictures[again], pictures[order.index(order[again])]), "another crop at the second visit"


def test_in_text_mode_images_give_no_gradient(kind, prepared):
    state, hook = prepared(kind, "text"), Finetune()
    hook.begin(state)
    features = []
    state.model.visual.register_forward_hook(lambda module, inputs, output: features.append(output))
    loss = hook.losses(state, next(state.training_stream()))["task"]
    loss.backward()
    assert [value.requires_grad for value in features] == [False]
    assert all((value.grad is not None) == (name in TEXT) for name, value in state.model.named_parameters())


# -- heads through the command line ------------------------------------------------------------------------------------


@pytest.fixture
def live(monkeypatch):
    """[{name: tensor}] of the live model after each step of a run."""
    seen, original = [], Journal.step

    def step(journal, state, losses):
        original(journal, state, losses)
        seen.append(copied(state.model))
    monkeypatch.setattr(Journal, "step", step)
    return seen


def checkpoint_of(path):
    return torch.load(path, weights_only=True)


def packed(state_dict):
    return torch.cat([state_dict["head.weight"], state_dict["head.bias"][:, None]], dim=1)


def zeroshot_head_of(path, names, templates=("a photo of a {c}.",)):
    """(C, D + 1) from a file of weights."""
    model, _ = clip.load(str(path))
    with torch.no_grad():
        features = [torch.nn.functional.normalize(torch.cat([text_features(model, clip.tokenize(
            [template.replace("{c}", name)], model.context_length)) for template in templates]).mean(0), dim=0)
            for name in names]
        weight = model.logit_scale.exp() * torch.stack(features)
    return torch.cat([weight, torch.zeros(len(names), 1)], dim=1)


def scored_by(folder, dataset):
    return [row["scored_by"] for row in rows(Path(folder) / f"metrics_{dataset}.csv")]


@pytest.fixture
def both(world):
    return "--eval-datasets", f"{world.colours},{world.tones}"


@pytest.mark.parametrize("mode", WITH_HEAD)
def test_a_checkpoint_keeps_the_head_apart(train, world, tmp_path, both, mode):
    done = train(tmp_path, "--train-mode", mode, *both)
    assert done.status == 0 and done.err == "" and done.warnings == []
    checkpoint = checkpoint_of(tmp_path / "colours.pth")
    start = weights(world.model)
    assert checkpoint["heads"].keys() == {"colours"} and checkpoint["heads"]["colours"].shape == (3, 17)
    assert checkpoint["state_dict"].keys() == start.keys()
    assert same_weights(checkpoint["state_dict"], start) == (mode == "fc")
    loaded, _ = clip.load(str(tmp_path / "colours.pth"))
    assert same_weights(loaded.state_dict(), checkpoint["state_dict"])
    fresh = zeroshot_head_of(world.model, world.names)
    distance = (checkpoint["heads"]["colours"] - fresh).abs().max()
    assert distance < 1e-5 if mode == "image-fc-fixed" else 1e-4 < distance < 1e-3
    assert scored_by(tmp_path, "colours") == ["head:colours"] and scored_by(tmp_path, "tones") == ["zeroshot"]


@pytest.mark.parametrize("mode", ["whole", "image", "text"])
def test_other_modes_have_no_head(train, tmp_path, mode):
    train(tmp_path, "--train-mode", mode)
    assert checkpoint_of(tmp_path / "colours.pth")["heads"] == {} and scored_by(tmp_path, "colours") == ["zeroshot"]


@pytest.mark.parametrize("second", ["image-fc", "whole"])
def test_a_head_is_kept_and_scores_its_dataset_after_the_next_task(train, world, tmp_path, both, second):
    train(tmp_path, "--train-mode", "fc", *both)
    first = checkpoint_of(tmp_path / "colours.pth")["heads"]["colours"]
    train(tmp_path, "--load", tmp_path / "colours.pth", "--train-dataset", world.tones, "--train-mode", second, *both)
    heads = checkpoint_of(tmp_path / "tones.pth")["heads"]
    assert torch.equal(heads["colours"], first)
    assert {name: tuple(head.shape) for name, head in heads.items()} == {"colours": (3, 17)} | (
        {"tones": (2, 17)} if second == "image-fc" else {})
    assert scored_by(tmp_path, "colours") == ["head:colours"] * 2
    assert scored_by(tmp_path, "tones") == ["zeroshot", "head:tones" if second == "image-fc" else "zeroshot"]


@pytest.mark.parametrize(("words", "expected"), [((), "kept"), (("--fc-init", "zeroshot"), "fresh"),
                                                 (("--fc-init", "zero"), "zeros")])
def test_fine_tuning_goes_on_from_the_probe_s_head(train, world, tmp_path, words, expected):
    train(tmp_path / "probe", "--train-mode", "fc", "--lr", "0.1")
    probe = tmp_path / "probe" / "colours.pth"
    done = train(tmp_path / "tuned", "--load", probe, "--train-mode", "image-fc", "--lr", "1e-12", *words)
    assert done.status == 0, done.err
    heads = {"kept": checkpoint_of(probe)["heads"]["colours"], "zeros": torch.zeros(3, 17),
             "fresh": zeroshot_head_of(world.model, world.names)}
    found = checkpoint_of(tmp_path / "tuned" / "colours.pth")["heads"]["colours"]
    assert {name for name, head in heads.items() if torch.allclose(head, found, atol=1e-5)} == {expected}


@pytest.mark.parametrize(("names", "mode"), [
    (["apple", "banana", "cherry"], "fc"), (["apple", "banana"], "image-fc"), (["apple", "banana", "cherry"], "whole")])
def test_a_head_of_other_classes_of_the_same_name_is_left_out(train, cli, world, tmp_path, names, mode):
    """Another folder may end in the same word. A new head is the zero-shot one, and none of the old is kept or scored:
    with a rate of next to nothing the scores are those of the model itself."""
    probe = tmp_path / "probe" / "colours.pth"
    train(probe.parent, "--train-mode", "fc", "--lr", "0.1")
    twin = tmp_path / "elsewhere" / "colours"
    for part in ("train", "test"):
        write_pictures(twin / part, dict(zip(names, COLOURS.values(), strict=False)), 4)
    data = "--train-dataset", f"folder:{twin}"
    done = train(tmp_path / "out", "--load", probe, "--train-mode", mode, "--lr", "1e-12", *data)
    assert done.status == 0, done.err
    notes = [line for line in done.out.splitlines() if "the head of colours" in line or "a new head of colours" in line]
    assert len(notes) == 1 and "'blue' there, 'apple' here" in notes[0], done.out
    head = checkpoint_of(tmp_path / "out" / "colours.pth")["heads"].get("colours")
    if mode == "whole":
        assert head is None and scored_by(tmp_path / "out", "colours") == ["zeroshot"]
    else:
        torch.testing.assert_close(head, zeroshot_head_of(world.model, names), rtol=0, atol=1e-5)
    scored = cli("--load", probe, "--eval-only", "--eval-datasets", data[1], "--save", tmp_path / "scored")
    plain = cli("--load", world.model, "--eval-only", "--eval-datasets", data[1], "--save", tmp_path / "plain")
    assert scored.out.count("note: the head of colours in the checkpoint is left out") == 1
    assert scored.out.splitlines()[-1] == plain.out.splitlines()[-1]
    assert scored_by(tmp_path / "scored", "colours") == ["zeroshot"]


def test_a_head_is_refused_where_the_checkpoint_names_data_that_changed(train, cli, world, tmp_path):
    """Without --eval-datasets the head itself was asked for."""
    data = tmp_path / "colours"
    shutil.copytree(world.root / "colours", data)
    train(tmp_path / "probe", "--train-mode", "fc", "--train-dataset", f"folder:{data}")
    for part in ("train", "test"):
        (data / part / "blue").rename(data / part / "sea")
    done = cli("--load", tmp_path / "probe" / "colours.pth", "--eval-only", "--save", tmp_path / "out")
    assert done.status == 2 and "its head of colours does not fit the data" in done.err
    assert "'blue' there, 'green' here" in done.err and len(done.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [
    "fc --we --avg-freq 1", "image-fc --method lwf --l2 0.1", "image-fc-fixed",
    *(pytest.param(words, marks=pytest.mark.slow) for words in (
        "fc", "image-fc", "image-fc --we --avg-freq 1", "image-fc --wise-merge --wise-ft-alpha 0.5",
        "fc --fc-init zero"))])
def test_one_process_equals_a_chain(cli, world, tmp_path, both, words):
    shared = ["--train-mode", *words.split(), "--iterations", STEPS, "--batch-size", BATCH, "--lr", "1e-3",
              "--workers", 0]
    done = cli("--load", world.model, "--dataset-order", both[1], "--save", tmp_path / "seq", *shared)
    assert done.status == 0, done.err
    start = world.model
    for name in (world.colours, world.tones):
        assert cli("--load", start, "--train-dataset", name, *both, "--save", tmp_path / "chain", *shared).status == 0
        start = tmp_path / "chain" / f"{Path(name).name}.pth"
    for task, known in (("colours", {"colours"}), ("tones", {"colours", "tones"})):
        one, two = (checkpoint_of(tmp_path / way / f"{task}.pth") for way in ("seq", "chain"))
        assert same_weights(one["state_dict"], two["state_dict"])
        assert same_weights(one["heads"], two["heads"]) and one["heads"].keys() == known
        found = [[row for row in rows(tmp_path / way / f"metrics_{task}.csv") if row["task"]]
                 for way in ("seq", "chain")]
        assert found[0] == found[1] and len(found[0]) == 2


def test_an_average_holds_the_head_too(train, world, tmp_path, live):
    train(tmp_path, "--train-mode", "image-fc", "--iterations", 2, "--we", "--avg-freq", 1, "--lr", "0.01")
    checkpoint = checkpoint_of(tmp_path / "colours.pth")
    one, two = live
    fresh = zeroshot_head_of(world.model, world.names)
    mean = (fresh + packed(one) + packed(two)) / 3
    torch.testing.assert_close(checkpoint["heads"]["colours"], mean, rtol=0, atol=1e-5)
    assert (mean - packed(two)).abs().max() > 1e-3
    name = "visual.proj"
    torch.testing.assert_close(checkpoint["state_dict"][name], (weights(world.model)[name] + one[name] + two[name]) / 3)


TOY = ("--model", "toy", "--iterations", 3, "--batch-size", 8, "--lr", "0.003", "--warmup-length", 0,
       "--max-evaluation-size", 48, "--train-dataset", "toy-sizes", "--train-mode", "image-fc")
SIZES = ("small", "medium", "large")
SIZE_TEMPLATES = ("a photo of a {c} shape", "a picture of a {c} object", "there is a {c} thing")


@pytest.mark.parametrize("partner", ["n", "zeroshot"])
def test_a_merge_holds_the_head_too(cli, tmp_path, partner):
    cli(*TOY, "--save", tmp_path / "before")
    before = tmp_path / "before" / "toy-sizes.pth"
    for name, words in (("plain", ()), ("merged", ("--wise-merge", "--wise-ft-model", partner, "--wise-ft-alpha",
                                                   "0.25"))):
        done = cli(*TOY, "--load", before, "--seed", 1, "--save", tmp_path / name, *words)
        assert done.status == 0, done.err
    plain, merged = (checkpoint_of(tmp_path / name / "toy-sizes.pth") for name in ("plain", "merged"))
    if partner == "n":
        other = checkpoint_of(before)
        tensors, head = other["state_dict"], other["heads"]["toy-sizes"]
    else:
        tensors = clip.load("toy")[0].state_dict()
        head = zeroshot_head_of("toy", SIZES, SIZE_TEMPLATES)
    torch.testing.assert_close(merged["heads"]["toy-sizes"], 0.25 * plain["heads"]["toy-sizes"] + 0.75 * head, rtol=0,
                               atol=1e-4)
    assert (merged["heads"]["toy-sizes"] - plain["heads"]["toy-sizes"]).abs().max() > 2e-3
    for name, value in merged["state_dict"].items():
        if not value.is_floating_point():
            continue
        torch.testing.assert_close(value, 0.25 * plain["state_dict"][name] + 0.75 * tensors[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", ["fc", "image-fc", "image-fc-fixed"])
def test_l2_counts_the_head_where_it_trains(train, world, tmp_path, live, mode):
    train(tmp_path, "--train-mode", mode, "--iterations", 2, "--l2", 10, "--lr", "0.01", "--log-interval", 1)
    start = weights(world.model)
    image = [float((value - start[name]).square().sum()) for name, value in live[0].items()
             if name.startswith("visual.")]
    head = float((packed(live[0]) - zeroshot_head_of(world.model, world.names)).square().sum())
    expected = 10 * (sum(image) + (head if mode != "image-fc-fixed" else 0))
    logged = [line["l2"] for line in lines(tmp_path / "log_colours.jsonl")]
    assert logged == [0, pytest.approx(expected, rel=1e-3)]
    assert (sum(image) > 0) == (mode != "fc")
    assert (head > 1e-3) == (mode != "image-fc-fixed")


@pytest.mark.parametrize("mode", ["fc", "image-fc"])
def test_evaluation_alone_gives_the_numbers_of_the_end_of_training(cli, tmp_path, mode):
    """The head was trained from zeros for a few steps, so that it scores otherwise than the prompts would."""
    both = ("--eval-datasets", "toy-colours,toy-sizes", "--max-evaluation-size", 48)
    cli(*TOY, "--train-mode", mode, "--fc-init", "zero", "--save", tmp_path, *both)
    done = cli("--load", tmp_path / "toy-sizes.pth", "--eval-only", *both, "--save", tmp_path / "again")
    assert done.status == 0 and done.err == ""
    for name in ("toy-sizes", "toy-colours"):
        assert rows(tmp_path / "again" / f"metrics_{name}.csv") == rows(tmp_path / f"metrics_{name}.csv")
    cli("--model", "toy", "--eval-only", *both, "--save", tmp_path / "zero")
    top1 = [float(rows(folder / "metrics_toy-sizes.csv")[0]["top1"]) for folder in (tmp_path, tmp_path / "zero")]
    assert top1[0] < top1[1] - 20


@pytest.fixture
def toy_head(cli, tmp_path):
    """A toy checkpoint whose head scores badly: it was trained from zeros for a few steps."""
    cli(*TOY, "--train-mode", "fc", "--fc-init", "zero", "--save", tmp_path)
    return tmp_path / "toy-sizes.pth"


def test_mixes_of_a_head_and_the_zero_shot_classifier(cli, tmp_path, toy_head):
    shared = ("--eval-only", "--eval-datasets", "toy-sizes,toy-colours", "--max-evaluation-size", 48)
    done = cli("--load", toy_head, "--wise-ft", "--alpha", "0,0.5,1", *shared, "--save", tmp_path / "mixes")
    assert done.status == 0, done.err
    assert cli("--load", toy_head, *shared, "--save", tmp_path / "head").status == 0
    assert cli("--model", "toy", *shared, "--save", tmp_path / "zero").status == 0
    for name in ("toy-sizes", "toy-colours"):
        mixes = {row["scored_by"]: row["top1"] for row in rows(tmp_path / "mixes" / f"metrics_{name}.csv")}
        assert mixes.keys() == {"wise 0", "wise 0.5", "wise 1"}
        head, zero = (rows(tmp_path / way / f"metrics_{name}.csv")[0]["top1"] for way in ("head", "zero"))
        assert (mixes["wise 1"], mixes["wise 0"]) == (head, zero)
        assert float(head) < float(zero) - 20 if name == "toy-sizes" else head == zero


def test_mixes_reach_the_heads_of_tasks_that_are_not_scored_themselves(cli, tmp_path, toy_head, monkeypatch):
    """Their classes are in the label space all the same."""
    cli("--load", toy_head, "--train-dataset", "toy-colours", "--iterations", 1, "--batch-size", 4, "--train-mode",
        "fc", "--save", tmp_path, "--max-evaluation-size", 24, "--lr", "1e-3")
    given, original = {}, classifier
    monkeypatch.setattr("src.run.scoring.classifier", lambda model, task, device, head=None: (
        given.update({task.name: head}) or original(model, task, device, head)))
    done = cli("--load", tmp_path / "toy-colours.pth", "--eval-only", "--wise-ft", "--alpha", "0", "--label-space",
               "seen", "--eval-datasets", "toy-colours", "--max-evaluation-size", 24, "--save", tmp_path / "mixes")
    assert done.status == 0, done.err
    torch.testing.assert_close(given["toy-sizes"], zeroshot_head_of("toy", SIZES, SIZE_TEMPLATES), rtol=0, atol=1e-4)


def test_a_head_that_stays_zero_is_refused(train, tmp_path):
    """The image tower would not feel anything: the gradient of a feature is a sum of the head's rows."""
    done = train(tmp_path / "out", "--train-mode", "image-fc-fixed", "--fc-init", "zero")
    assert done.status == 2 and "--fc-init zero" in done.err and "no gradient" in done.err
    assert not (tmp_path / "out").exists()


def test_a_probe_s_rate_is_not_complained_of(train, tmp_path):
    """1e-3 and more are usual where only a linear layer learns."""
    assert train(tmp_path / "fc", "--train-mode", "fc", "--lr", "1e-2").warnings == []
    warning, = train(tmp_path / "image", "--train-mode", "image-fc", "--lr", "1e-2").warnings
    assert "--lr 0.01 is high" in warning


def test_the_default_rate_is_called_the_default(cli, world):
    done = cli("--load", world.model, "--train-dataset", world.colours, "--iterations", 200, "--dry-run")
    warning = done.warnings[-1]
    assert "--lr 0.001 is the default, and high for pretrained weights" in warning and "give --lr 1e-5" in warning

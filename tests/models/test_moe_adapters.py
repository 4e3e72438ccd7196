"""MoE-Adapters in float64 on a ViT of two blocks: two tasks written out with plain torch, what later tasks leave alone,
and scores; through real runs."""

import copy
import dataclasses
import math

import pytest
import ranks
import torch
import torch.nn.functional as F
from conftest import tiny_clip, tiny_task
from example_runs import COMMON, STEPS, TASKS, assert_as_if_never_interrupted, broken, equal, last_rows, loaded

import clip
import src.models.ddas
import src.models.moe_adapters
from src.datasets.seeds import seed_of
from src.errors import UserError
from src.machine.device import Device
from src.main import main
from src.models.attached import build_own, stored_tensors
from src.models.classifiers import classifier
from src.models.ddas import DDAS, PLAIN
from src.models.moe_adapters import MoEAdapters
from src.models.resuming import state_of_run
from src.models.state import Settings, TrainingState
from src.models.training import train
from src.run.method_scores import MethodScores

pytest_plugins = ["cli_fixtures", "example_fixtures"]

EXPERTS = 5
EPS = 1e-4  # where a gradient is nothing but rounding, AdamW must not blow it up to a step
FEW = {"moe_experts": EXPERTS, "moe_rank": 3, "moe_dropout": 0.0, "ddas_features": "clip", "ddas_iterations": 2}
SIZES = {"tiny": 4, "tiny-other": 2, "tiny-third": 3}


DEVICE = Device("cpu", "fp64")


def learn(tasks=("tiny", "tiny-other"), settings=(), **keywords):
    """[(state, hook)] of tasks in a row, each hook built from what the one before has left."""
    model, found, stored, carry = tiny_clip("vit"), [], {}, {}
    for name in tasks:
        state, hook = task_state(name, model, carry, stored, dict(settings), **keywords)
        train(state, [hook])
        found.append((state, hook))
        stored, carry = stored_tensors(state.own), copy.deepcopy(hook.carry())
    return found


def task_state(name, model=None, carry=None, stored=None, settings=(), **keywords):
    """A state of one of SIZES before its first step, and its hook."""
    settings = {"warmup": 0, "schedule": "constant", "iterations": 4, "batch_size": 4, "eps": EPS, "lr": 0.02,
                **dict(settings)}
    state = TrainingState(model=model or tiny_clip("vit"), task=tiny_task(SIZES[name], name), device=DEVICE,
                          settings=Settings(**settings))
    hook = MoEAdapters(**{"ls": 0.2, **FEW, **keywords})
    hook.load_carry(copy.deepcopy(carry or {}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        state.own = build_own([hook], state.model, state.device, stored)
    return state, hook


# -- two tasks, written out --------------------------------------------------------------------------------------------


class Written:
    """The method from its formulas: an expert is computed only for sequences that choose it, and one that none of a
    batch chooses has no gradient. No module of the framework's but CLIP's layers, its data and its seeds."""

    def __init__(self, model, experts, zero=False):
        """``experts``: [[down, bias, up, bias] of each expert] of each block, those of the image tower first."""
        self.model, self.zero = model.requires_grad_(False), zero
        self.experts = [[[value.clone().requires_grad_() for value in expert] for expert in block] for block in experts]
        self.frozen, self.losses, self.skipped = [set() for _ in experts], [], 0

    def task(self, state):
        model, steps = self.model, state.settings
        self.routers = [[torch.zeros(16, EXPERTS, dtype=torch.float64).requires_grad_() for _ in range(2)]
                        for _ in self.experts]
        self.counts = [[0] * EXPERTS for _ in self.experts]
        free = [value for block, frozen in zip(self.experts, self.frozen, strict=True)
                for number, expert in enumerate(block) if number not in frozen for value in expert]
        routers = [value for pair in self.routers for value in pair]
        optimizer = torch.optim.AdamW([*free, *routers], lr=steps.lr, weight_decay=steps.wd, eps=EPS, foreach=False)
        prompts = [state.task.templates[0].replace("{c}", name) for name in state.task.classnames]
        tokens = clip.tokenize(prompts, model.context_length)
        for step, batch in enumerate(state.training_stream()):
            drawn = torch.Generator().manual_seed(seed_of(state.seed_of("router noise"), step))
            noise = [torch.randn(rows, blocks, EXPERTS, generator=drawn, dtype=torch.float64)
                     for rows, blocks in ((len(batch.labels), 2), (len(prompts), 1))]
            texts = F.normalize(self.texts(tokens, noise[1]), dim=1)
            images = F.normalize(self.images(batch.images, noise[0]), dim=1)
            loss = F.cross_entropy(model.logit_scale.exp() * images @ texts.T, batch.labels, label_smoothing=0.2)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.skipped += sum(value.grad is None and bool(optimizer.state[value]) for value in free)
            for value in free if self.zero else ():
                value.grad = torch.zeros_like(value) if value.grad is None else value.grad
            optimizer.step()
            self.losses.append(loss.item())
        for frozen, counts in zip(self.frozen, self.counts, strict=True):
            frozen.update(sorted(range(EXPERTS), key=lambda number, counts=counts: (-counts[number], number))[:2])

    def images(self, images, noise):
        visual = self.model.visual
        x = visual.conv1(images).flatten(2).transpose(1, 2)
        x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], dim=1) + visual.positional_embedding
        x = self.blocks(visual.transformer, visual.ln_pre(x), noise, 0)
        return visual.ln_post(x[:, 0]) @ visual.proj

    def texts(self, tokens, noise):
        model, ends = self.model, tokens.argmax(dim=1)
        x = model.token_embedding(model.token_rows[tokens]) + model.positional_embedding[:tokens.shape[1]]
        x = model.ln_final(self.blocks(model.transformer, x, noise, 2))
        return x[torch.arange(len(x)), ends] @ model.text_projection

    def blocks(self, transformer, x, noise, first):
        for number, block in enumerate(transformer.resblocks):
            x = x + block.attn(block.ln_1(x), transformer.attend)
            x = x + block.mlp(block.ln_2(x)) + self.mixed(x, first + number, noise[:, number])
        return x

    def mixed(self, x, block, noise):
        choose, spread = self.routers[block]
        rows = []
        for tokens, drawn in zip(x, noise, strict=True):
            logits = tokens[0] @ choose + drawn * (F.softplus(tokens[0] @ spread) + 0.01)
            pair = sorted(range(EXPERTS), key=lambda number, logits=logits: (-logits[number].item(), number))[:2]
            gates, row = logits[pair].softmax(dim=0), 0
            for gate, number in zip(gates, pair, strict=True):
                down, bias, up, last = self.experts[block][number]
                row = row + gate * 0.1 * ((tokens @ down.T + bias).relu() @ up.T + last)
                self.counts[block][number] += 1
            rows.append(row)
        return torch.stack(rows)


def weights_of(hook):
    """[[[down, bias, up, bias] of each expert] of each block]"""
    return [[[value.detach() for value in expert.parameters()] for expert in mixture.experts]
            for mixture in hook.own.all()]


@pytest.mark.parametrize(("unchosen", "wd"), [("skip", 0.0), ("skip", 0.1), ("zero", 0.0)])
def test_two_tasks_are_those_of_the_formulas(unchosen, wd):
    """Weights, routers, counts and what is frozen; steps in which nothing chose an expert are among them."""
    model, stored, carry, written = tiny_clip("vit"), {}, {}, None
    for name in ("tiny", "tiny-other"):
        state, hook = task_state(name, model, carry, stored, {"wd": wd, "batch_size": 2},
                                 moe_unchosen=unchosen)
        written = written or Written(tiny_clip("vit"), weights_of(hook), unchosen == "zero")
        losses = []
        train(state, [hook], lambda state, terms, losses=losses: losses.append(terms["task"].item()))
        written.losses.clear()
        written.task(dataclasses.replace(state, iteration=0))
        assert losses == pytest.approx(written.losses, rel=1e-10)
        for number, mixture in enumerate(hook.own.all()):
            for expert, expected in zip(mixture.experts, written.experts[number], strict=True):
                torch.testing.assert_close([*expert.parameters()], expected, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(mixture.routers[-1], torch.stack(written.routers[number]), rtol=1e-9, atol=1e-9)
            assert mixture.counts.tolist() == written.counts[number]
            assert mixture.frozen == sorted(written.frozen[number])
        stored, carry = stored_tensors(state.own), hook.carry()
    assert written.skipped > 5


def test_counts_are_two_a_sequence_of_every_step():
    """4 steps of 4 images, and of all 4 class prompts; an evaluation in between counts nothing."""
    (_, hook), = learn(["tiny"])
    assert [int(mixture.counts.sum()) for mixture in hook.own.all()] == [2 * 16, 2 * 16, 2 * 16]


@pytest.mark.parametrize("settings", [{"grad_accum": 3}, {"grad_checkpointing": True},
                                      {"grad_accum": 2, "grad_checkpointing": True}], ids=str)
def test_parts_and_recomputed_blocks_are_the_whole_batch(settings):
    (_, whole), (_, parted) = learn(["tiny"])[0], learn(["tiny"], settings)[0]
    torch.testing.assert_close(parted.own.state_dict(), whole.own.state_dict(), rtol=1e-8, atol=1e-8)
    assert parted.carry() == whole.carry()


def test_experts_that_nothing_chose_keep_their_bits_and_their_moments():
    """Under skip; under zero their moments still move them."""
    moved = {}
    for unchosen in ("skip", "zero"):
        states = []
        with pytest.MonkeyPatch.context() as patched:
            after_step = MoEAdapters.after_step

            def watched(hook, state, states=states, after_step=after_step):
                after_step(hook, state)
                for number, (mixture, chosen) in enumerate(zip(hook.own.all(), hook.chosen, strict=True)):
                    states += [((number, place), count > 0, copy.deepcopy(state_of(state, expert)))
                               for place, (count, expert) in enumerate(zip(chosen, mixture.experts, strict=True))]
            patched.setattr(MoEAdapters, "after_step", watched)
            learn(["tiny"], {"batch_size": 2, "iterations": 6}, moe_unchosen=unchosen)
        each = [[found for place, *found in states if place == wanted] for wanted in dict.fromkeys(
            place for place, _, _ in states)]
        moved[unchosen] = [not equal(before, after) for steps in each
                           for (_, before), (chosen, after) in zip(steps, steps[1:], strict=False) if not chosen]
        assert len(moved[unchosen]) > 5
    assert not any(moved["skip"]) and any(moved["zero"])


def state_of(state, expert):
    """The weights of an expert and what the optimiser keeps of them."""
    return [(value.detach(), dict(state.optimizer.state[value])) for value in expert.parameters()]


# -- what later tasks leave alone --------------------------------------------------------------------------------------


def test_frozen_experts_and_other_routers_keep_their_bits():
    (_, first), (_, second), (_, third) = learn(SIZES, {"wd": 0.1})
    for before, after in ((first, second), (second, third)):
        for old, new in zip(before.own.all(), after.own.all(), strict=True):
            assert {*old.frozen} <= {*new.frozen} and len(new.routers) == len(old.routers) + 1
            for number in old.frozen:
                assert equal([*old.experts[number].parameters()], [*new.experts[number].parameters()])
            for one, other in zip(old.routers, new.routers, strict=False):
                assert torch.equal(one, other)
            assert new.routers[-1].any()
    assert any(not equal([*old.experts[number].parameters()], [*new.experts[number].parameters()])
               for old, new in zip(first.own.all(), second.own.all(), strict=True) for number in range(EXPERTS))
    assert [len(mixture.frozen) for mixture in first.own.all()] == [2, 2, 2]
    assert equal(third.own.ddas.autoencoders[0].state_dict(), first.own.ddas.autoencoders[0].state_dict())


def test_clip_stays_as_it_is():
    state, _ = learn()[-1]
    assert equal(state.model.state_dict(), tiny_clip("vit").state_dict())
    assert not any(value.requires_grad for value in state.model.parameters())


def test_a_task_that_is_met_again_goes_on_with_its_router():
    (_, first), (_, again) = learn(["tiny", "tiny"])
    assert again.tasks == ["tiny"] and len(again.own.ddas.autoencoders) == 1
    for old, new in zip(first.own.all(), again.own.all(), strict=True):
        assert len(new.routers) == 1 and not torch.equal(old.routers[0], new.routers[0])


@pytest.mark.parametrize("number", [0, 5])
def test_a_task_freezes_as_many_experts_as_it_is_told(number):
    (_, first), (_, second) = learn(moe_frozen=number)
    assert all(len(mixture.frozen) == number for hook in (first, second) for mixture in hook.own.all())
    trained = sum(value.numel() for value in second.own.parameters() if value.requires_grad)
    assert trained == 3 * 2 * 16 * EXPERTS + (0 if number else 3 * EXPERTS * (2 * 16 * 3 + 16 + 3))


# -- scores ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    return learn(settings={"lr": 0.3, "iterations": 6})[-1]


@pytest.fixture
def two(trained):
    """(state, hook) after two tasks of large steps."""
    trained[1].own.ddas.threshold, trained[1].router = "95%", "sample"
    trained[1].texts.clear()
    return trained


def classes_of():
    model = tiny_clip("vit")
    return {name: classifier(model, tiny_task(size, name), DEVICE).named(name, name).classes
            for name, size in SIZES.items()}


def images_of(count=6):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def score(two, routes, images=None, router="sample"):
    """{space: scores} of images whose routes are given: task "tiny", and all three."""
    state, hook = two
    hook.router = router
    images, classes = images_of() if images is None else images, classes_of()
    spaces = {"task": [classes["tiny"]], "all": [*classes.values()]}
    with pytest.MonkeyPatch.context() as patched, state.in_place(state.model):
        if routes is not None:
            patched.setattr(DDAS, "routes", lambda ddas, model, images, together: torch.tensor(routes))
        return hook.scores(state, images, spaces)


def plain_scores(images):
    model = tiny_clip("vit")
    with torch.no_grad():
        features = F.normalize(model.encode_image(images), dim=-1)
        scores = [model.logit_scale.exp() * features @ part.weights for part in classes_of().values()]
    return {"task": scores[0], "all": torch.cat(scores, dim=1)}


def routed_scores(two, images, route):
    """All images and all prompts under one router, the towers written out."""
    state, hook = two
    written = Written(tiny_clip("vit"), weights_of(hook))
    written.routers = [[part.detach() for part in mixture.routers[route]] for mixture in hook.own.all()]
    written.counts = [[0] * EXPERTS for _ in written.experts]
    quiet = [torch.zeros(1000, 2, EXPERTS, dtype=torch.float64)] * 2

    def texts(name, size):
        task, found = tiny_task(size, name), []
        for classname in task.classnames:
            prompts = [template.replace("{c}", classname) for template in task.templates]
            tokens = clip.tokenize(prompts, 14)
            features = F.normalize(written.texts(tokens, quiet[1][:len(prompts), :1]), dim=1)
            found.append(F.normalize(features.mean(dim=0), dim=0))
        return torch.stack(found)
    with torch.no_grad():
        features = F.normalize(written.images(images, quiet[0][:len(images)]), dim=1)
        scores = [state.model.logit_scale.exp() * features @ texts(name, size).T for name, size in SIZES.items()]
    return {"task": scores[0], "all": torch.cat(scores, dim=1)}


@pytest.mark.parametrize("router", ["sample", "batch"])
def test_without_a_router_scores_are_zero_shot_to_the_bit(two, router):
    """All of a batch, and those images of a batch that have none."""
    plain, images = plain_scores(images_of()), images_of()
    assert equal(score(two, [PLAIN] * 6, images, router), plain)
    mixed = score(two, [PLAIN, 1, PLAIN, 0, 0, PLAIN], images, router)
    for space, expected in plain.items():
        assert [torch.equal(*pair) for pair in zip(mixed[space], expected, strict=True)] == [
            True, False, True, False, False, True]


def test_each_image_is_scored_under_its_own_router(two):
    """Its features and those of the class prompts: one classifier a router, of all templates."""
    images, routes = images_of(), [1, PLAIN, 0, 0, 1, 1]
    found, by = score(two, routes, images), [routed_scores(two, images, route) for route in (0, 1)]
    by.append(plain_scores(images))
    for space in found:
        expected = torch.stack([by[route][space][row] for row, route in enumerate(routes)])
        torch.testing.assert_close(found[space], expected, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(by[0]["all"], by[1]["all"], atol=1e-3) and not torch.allclose(by[0]["all"], by[2]["all"])


@pytest.mark.parametrize("threshold", [math.inf, 0.05])
def test_a_batch_is_scored_as_its_images_one_by_one(two, threshold):
    """Whatever else is in it; each router and none are among their choices."""
    state, hook = two
    hook.own.ddas.threshold = threshold
    images = torch.stack([image for task in ("tiny", "tiny-other") for image in spread(task)])
    whole = score(two, None, images)
    for size in (1, 5):
        parts = [score(two, None, part) for part in images.split(size)]
        for space, expected in whole.items():
            torch.testing.assert_close(torch.cat([part[space] for part in parts]), expected, rtol=1e-9, atol=1e-9)


def spread(task):
    scale = {"tiny": 1.0, "tiny-other": 4.0}[task]
    return scale * torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(len(task)), dtype=torch.float64)


@pytest.mark.parametrize("count", [1, 6])
def test_a_batch_chooses_by_its_mean_errors(two, count):
    """The published rule, read slowly; of a single image it is what the image chooses by itself."""
    state, hook = two
    hook.own.ddas.threshold = 10.0
    images, means = images_of(count), []
    with torch.no_grad():
        inputs = torch.sigmoid(8 ** 0.5 * F.normalize(tiny_clip("vit").encode_image(images), dim=1))
        for autoencoder in hook.own.ddas.autoencoders:
            means.append(sum(((autoencoder(row) - row) ** 2).mean() for row in inputs) / count)
    expected = routed_scores(two, images, int(means[1] < means[0]))
    torch.testing.assert_close(score(two, None, images, "batch"), expected, rtol=1e-9, atol=1e-9)
    if count == 1:
        torch.testing.assert_close(score(two, None, images), expected, rtol=1e-9, atol=1e-9)


def test_class_prompts_are_encoded_once_a_router(two, monkeypatch):
    calls = []
    encode = src.models.moe_adapters.zeroshot_weights
    monkeypatch.setattr(src.models.moe_adapters, "zeroshot_weights",
                        lambda model, *rest: calls.append(len(rest[0])) or encode(model, *rest))
    two[1].texts.clear()
    for routes in ([0] * 6, [PLAIN] * 6, [0, 1, 0, 1, 0, PLAIN]):
        score(two, routes)
    assert sorted(calls) == [2, 2, 3, 3, 4, 4]


def test_a_step_makes_class_prompts_others():
    """Scores between two steps are of the weights that are there then."""
    state, hook = task_state("tiny", settings={"lr": 0.3})
    seen = []

    def report(state, losses):
        seen.append(score((state, hook), [0] * 6)["task"])
        torch.testing.assert_close(seen[-1], routed_scores((state, hook), images_of(), 0)["task"], rtol=1e-9,
                                   atol=1e-9)
    train(state, [hook], report)
    assert len(seen) == 4 and not torch.allclose(seen[-1], seen[1])


@pytest.mark.parametrize("router", ["sample", "batch"])
def test_rows_say_how_routers_were_chosen(two, router):
    two[1].router = router
    method = MethodScores(*two[:1], [two[1]])
    method.given = {"task"}
    assert method.by("task") == f"logits:MoEAdapters:{router}"


# -- from task to task -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "reason"), [
    ({"ddas_reference": "other"}, "--ddas-reference other: --load was trained with none; give that"),
    ({"ddas_threshold": "90%"}, "--ddas-threshold 90%: --load was trained with 95%; give that"),
    ({"ddas_features": "alexnet"}, "--ddas-features alexnet: --load was trained with clip; give that")])
def test_other_autoencoders_than_those_of_load_are_refused(given, reason):
    state, hook = learn(["tiny"])[0]
    with pytest.raises(UserError, match=reason):
        task_state("tiny-other", None, hook.carry(), stored_tensors(state.own), **given)
    task_state("tiny-other", None, hook.carry(), stored_tensors(state.own), ddas_threshold=0.5)


def test_a_resumed_task_has_the_same_bits():
    """With dropout, and where autoencoders come out otherwise the second time."""
    found, kept = [], None
    for number in range(2):
        state, hook = task_state("tiny", moe_dropout=0.5)
        if number:
            hook.own.ddas.lr *= 2
        points = []
        train(state, [hook], lambda state, losses, hook=hook, points=points: points.append(
            copy.deepcopy(state_of_run(state, [hook]))), interrupted=kept)
        kept = kept or points[1]
        found.append((hook.own.state_dict(), hook.carry()))
    assert equal(*found)


def test_a_resnet_has_experts_in_its_text_tower(capsys):
    state, hook = task_state("tiny", tiny_clip("resnet"))
    train(state, [hook])
    assert "this image tower is a ResNet" in capsys.readouterr().out
    assert [int(mixture.counts.sum()) for mixture in hook.own.all()] == [2 * 16]


# -- by the command line -----------------------------------------------------------------------------------------------

WORDS = ("--method", "moe-adapters", "--ddas-features", "clip", "--ddas-iterations", 6, "--ddas-threshold", "60%",
         "--moe-experts", 4, "--moe-rank", 3, *STEPS)


def command(world, trio, save, *words):
    return [str(word) for word in ("--load", world.model, *WORDS, *COMMON, "--dataset-order", ",".join(trio.values()),
                                   "--save", save, *words)]


@pytest.fixture(scope="module")
def left(world, trio, tmp_path_factory):
    """The folder of the three tasks; no test may change it."""
    folder = tmp_path_factory.mktemp("left") / "out"
    assert main(command(world, trio, folder)) == 0
    return folder


def scored_again(cli, left, trio, save, *words):
    """The rows that an evaluation of the last checkpoint has."""
    done = cli("--load", left / "shades.pth", "--eval-only", "--eval-datasets", ",".join(trio.values()), *COMMON[2:],
               "--save", save, *words)
    assert done.status == 0, done.err
    return last_rows(save, *TASKS)


def test_an_evaluation_has_the_scores_of_training(left, cli, trio, tmp_path):
    """By itself, with the keywords that the checkpoint was made with, in both label spaces."""
    rows = scored_again(cli, left, trio, tmp_path)
    assert rows == last_rows(left, *TASKS) and {space for _, space in rows} == {"task", "all"}
    assert {row["scored_by"] for row in rows.values()} == {"logits:MoEAdapters:sample"}


def test_batches_of_one_choose_as_images_do(left, cli, trio, tmp_path):
    """In every label space; several images together choose another router for some."""
    rows = {words: scored_again(cli, left, trio, tmp_path / "-".join(words), *words) for words in (
        ("--router", "batch", "--batch-size-eval", "1"), ("--router", "sample", "--batch-size-eval", "3"))}
    one, each = ({key: row["top1"] for key, row in found.items()} for found in rows.values())
    assert one == each == {key: row["top1"] for key, row in last_rows(left, *TASKS).items()}


@pytest.mark.parametrize("moment", ["pass", pytest.param("begin", marks=pytest.mark.slow),
                                    pytest.param("end", marks=pytest.mark.slow)])
def test_interrupted_in_its_second_task(left, cli, world, trio, moment, tmp_path):
    words = command(world, trio, tmp_path, "--resume", "--save-interval", 1)
    with broken(MoEAdapters, moment, "tones"):
        assert cli(*words).status == 130
    assert (tmp_path / "colours.pth").is_file() and not (tmp_path / "tones.pth").exists()
    done = cli(*words)
    assert done.status == 0, done.err
    assert_as_if_never_interrupted(tmp_path, left)


@pytest.mark.slow
def test_a_chain_is_the_sequence(left, chain, tmp_path):
    chain(*WORDS)
    assert_as_if_never_interrupted(tmp_path, left, {"config", "history"})


@pytest.mark.slow
def test_two_processes_score_as_one(left, world, trio, tmp_path):
    """Images by themselves; a batch that chooses together is refused."""
    words = ["--load", left / "shades.pth", "--eval-only", "--eval-datasets", ",".join(trio.values()), *COMMON[2:],
             "--device", "cpu", "--save"]
    group = ranks.Ranks(ranks.server(), 2, tmp_path / "log", ranks.command_line, [*map(str, words), str(tmp_path)])
    assert group.join(300) == [0, 0], group.printed()
    assert last_rows(tmp_path, *TASKS) == last_rows(left, *TASKS)
    group = ranks.Ranks(ranks.server(), 2, tmp_path / "log", ranks.command_line,
                        [*map(str, words), str(tmp_path / "batch"), "--router", "batch"])
    assert group.join(300) == [2, 2] and "run one process, or give --router sample" in group.printed()


def test_what_a_checkpoint_holds(left):
    content = loaded(left / "shades.pth")
    assert content["carry"]["MoEAdapters"]["tasks"] == [*TASKS]
    kept = content["own"]["MoEAdapters"]
    assert {name.split(".")[3] for name in kept if ".routers." in name} == {"0", "1", "2"}
    assert {name.split(".")[2] for name in kept if name.startswith("ddas.")} == {"0", "1", "2"}
    assert not any("beside" in name or "expert" in name for name in content["state_dict"])


@pytest.mark.parametrize(("words", "reason"), [
    (("--lora",), "it keeps CLIP frozen, adapters too"),
    (("--l2", "1"), "it keeps CLIP frozen, so nothing would be pulled back"),
    (("--train-mode", "fc"), "its modules act on images and on class prompts, and this mode has no class prompts"),
    (("--we",), "its modules are not averaged"),
    (("--moe-experts", "1"), "expected a whole number, at least 2"),
    (("--ddas-threshold", "101%"), "expected a number, at least 0, or a share such as 95%"),
    (("--ddas-reference", "nothing"), "--ddas-reference: no dataset 'nothing'"),
    (("--ddas-features", "alexnet"), "--ddas-features alexnet: torchvision cannot load its ImageNet weights")])
def test_what_is_refused(cli, world, tmp_path, words, reason, monkeypatch):
    def fails(weights):
        raise OSError("no network")
    monkeypatch.setattr("torchvision.models.alexnet", fails)
    src.models.ddas.alexnet.cache_clear()
    done = cli("--load", world.model, *WORDS, *COMMON, "--train-dataset", world.colours, *words, "--save",
               tmp_path / "out")
    assert done.status == 2 and reason in done.err and "Traceback" not in done.err, done.err
    assert not list(tmp_path.rglob("*.pth"))


def test_joint_training_is_refused(cli, world, tmp_path):
    done = cli("--load", world.model, *WORDS, *COMMON, "--train-dataset", f"{world.colours},{world.tones}", "--joint",
               "--save", tmp_path)
    assert done.status == 2 and "a router belongs to one task" in done.err, done.err


@pytest.mark.slow
def test_trained_values_on_vit_b_16(cli):
    done = cli("--method", "moe-adapters", "--dataset-order", "mtil-1", "--init", "scratch", "--model", "ViT-B/16",
               "--iterations", 1, "--lr", "1e-3", "--dry-run")
    assert "44,301,312 of " in done.out, done.out + done.err

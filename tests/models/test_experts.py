"""Mixtures of experts against a loop over sequences and experts, in float64 on a ViT of two blocks."""

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_clip
from torch import nn

from clip.model import CLIP
from src.models.attached import attached, rows_alone
from src.models.experts import Mixture, Mixtures, disturb
from src.models.modeling import image_features, recompute_blocks, text_features, tokens_of

TEXTS = ("a photo of a cat.", "the red bird", "a drawing of a very old green tree")
WIDTH, EXPERTS, RANK = 6, 5, 3
VIT_B_16 = {"embed_dim": 512, "image_resolution": 224, "vision_layers": 12, "vision_width": 768,
            "vision_patch_size": 16, "context_length": 77, "vocab_size": 49408, "transformer_width": 512,
            "transformer_heads": 8, "transformer_layers": 12}


def randomised(module, seed=0, std=0.5):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for value in module.parameters():
            nn.init.normal_(value, std=std)
    return module


@pytest.fixture
def mixture():
    """Random in all, with two routers, in training mode without dropout."""
    found = Mixture(WIDTH, EXPERTS, RANK, dropout=0.0).double()
    found.add_router()
    found.add_router()
    return randomised(found)


@pytest.fixture
def x():
    return torch.randn(7, 4, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def towers(model, seed=1, tasks=2, dropout=0.0):
    """Random Mixtures with routers, in evaluation mode."""
    own = Mixtures(model, None, EXPERTS, RANK, dropout).double()
    for mixture in own.all():
        for _ in range(tasks):
            mixture.add_router()
    return randomised(own, seed).eval()


def one_by_one(mixture, x, task, noise=None):
    """The formulas for each sequence by itself: only the experts that it has chosen are computed."""
    choose, spread = mixture.routers[task]
    found = []
    for row, tokens in enumerate(x):
        logits = tokens[0] @ choose
        if noise is not None:
            logits = logits + noise[row] * (torch.log(1 + torch.exp(tokens[0] @ spread)) + 0.01)
        first, second = sorted(range(len(logits)), key=lambda number: (-logits[number].item(), number))[:2]
        weight = 1 / (1 + torch.exp(logits[second] - logits[first]))
        found.append(0.1 * (weight * expert(mixture, first, tokens) + (1 - weight) * expert(mixture, second, tokens)))
    return torch.stack(found)


def expert(mixture, number, tokens):
    down, up = mixture.experts[number].down, mixture.experts[number].up
    return (tokens @ down.weight.T + down.bias).clamp(min=0) @ up.weight.T + up.bias


# -- a mixture ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("noisy", [True, False])
def test_all_experts_at_once_are_the_chosen_ones(mixture, x, training, noisy):
    """Values and all gradients, those of the noise and of the first token too; noise acts in training only."""
    noise = torch.randn(7, EXPERTS, generator=torch.Generator().manual_seed(4), dtype=torch.float64) if noisy else None
    mixture.train(training).noise = noise
    x.requires_grad_()
    slope, results = torch.randn(7, 4, WIDTH, dtype=torch.float64), []
    for found in (mixture(x, 1), one_by_one(mixture, x, 1, noise if training else None)):
        inputs = [x, *mixture.parameters()]
        gradients = torch.autograd.grad((found * slope).sum(), inputs, allow_unused=True)
        results.append((found, [torch.zeros_like(value) if gradient is None else gradient
                                for value, gradient in zip(inputs, gradients, strict=True)]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)
    spread = results[0][1][1 + [*map(id, mixture.parameters())].index(id(mixture.routers[1]))][1]
    assert bool(spread.any()) == (training and noisy)
    assert not results[0][1][1 + [*map(id, mixture.parameters())].index(id(mixture.routers[0]))].any()


def test_two_gates_are_positive_and_sum_to_one(mixture, x):
    gates = mixture.gates(x[:, 0], *mixture.routers[0])
    assert (gates >= 0).all() and ((gates > 0).sum(dim=1) == 2).all()
    torch.testing.assert_close(gates.sum(dim=1), torch.ones(7, dtype=torch.float64))


@pytest.mark.parametrize(("logits", "expected"), [
    ([0, 0, 0, 0, 0], [0.5, 0.5, 0, 0, 0]), ([1, 2, 2, 2, 0], [0, 0.5, 0.5, 0, 0]),
    ([0, 3, 1, 1, 1], [0, 0.880797, 0.119203, 0, 0]), ([0, 0, 2000, 0, 1], [0, 0, 1, 0, 0])],
    ids=["none is ahead", "three are", "a tie for the second", "underflow"])
def test_equal_logits_choose_lower_experts(mixture, logits, expected):
    first = torch.eye(WIDTH, dtype=torch.float64)[:1]
    choice = torch.zeros(WIDTH, EXPERTS, dtype=torch.float64)
    choice[0] = torch.tensor(logits)
    gates = mixture.eval().gates(first, choice, choice)
    torch.testing.assert_close(gates, torch.tensor([expected], dtype=torch.float64), atol=1e-6, rtol=0)


def test_a_gate_that_underflows_is_neither_computed_nor_counted(mixture, x):
    """One expert is left; what the other would give is not even looked at."""
    with torch.no_grad():
        mixture.routers[0].zero_()
        mixture.routers[0][0, :, 2] = 1e6 * x[0, 0]
        mixture.experts[0].up.weight.fill_(torch.nan)
    mixture.chosen = torch.zeros_like(mixture.counts)
    found = mixture.eval()(x[:1], 0)
    assert mixture.chosen.tolist() == [0, 0, 1, 0, 0]
    torch.testing.assert_close(found, 0.1 * expert(mixture, 2, x[:1]))


def test_counts_are_two_a_sequence(mixture, x):
    mixture.chosen = torch.zeros_like(mixture.counts)
    mixture(x, 0)
    gates = mixture.gates(x[:, 0], *mixture.routers[0])
    assert mixture.chosen.sum() == 2 * 7 and mixture.chosen.tolist() == (gates > 0).sum(dim=0).tolist()


@pytest.mark.parametrize(("counts", "most"), [([3, 9, 1, 9, 9], [1, 3]), ([0, 0, 0, 0, 0], [0, 1]),
                                              ([1, 2, 3, 4, 5], [4, 3])])
def test_equal_counts_freeze_lower_experts(mixture, counts, most):
    mixture.counts.copy_(torch.tensor(counts))
    assert mixture.most_chosen(2) == most


def test_dropout_acts_on_hidden_values_in_training_only(x):
    mixture = randomised(Mixture(WIDTH, EXPERTS, RANK, dropout=0.5).double())
    mixture.add_router()
    torch.manual_seed(0)
    assert not torch.allclose(mixture(x, 0), mixture(x, 0))
    torch.testing.assert_close(mixture.eval()(x, 0), one_by_one(mixture, x, 0))


def test_only_a_task_s_router_and_experts_that_are_not_frozen_train(mixture):
    mixture.frozen, mixture.counts[2] = [1, 4], 7
    mixture.train_task(1)
    trained = {name for name, value in mixture.named_parameters() if value.requires_grad}
    assert {name.split(".")[1] for name in trained if name.startswith("experts")} == {"0", "2", "3"}
    assert {name for name in trained if name.startswith("routers")} == {"routers.1"} and len(trained) == 3 * 4 + 1
    assert not mixture.counts.any() and mixture.free().tolist() == [0, 2, 3]
    assert [len(parameters) for parameters in mixture.trained()] == [3] * 4


# -- in the towers -----------------------------------------------------------------------------------------------------


def features(model, images):
    return image_features(model, images), text_features(model, tokens_of(model, TEXTS))


@pytest.fixture
def images():
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def test_new_experts_change_no_bit(images):
    model = tiny_clip("vit")
    own = Mixtures(model, None, EXPERTS, RANK, 0.0).double()
    for mixture in own.all():
        mixture.add_router()
    before = features(model, images)
    with attached(model, [own.routed(0)]):
        inside = features(model, images)
    assert all(torch.equal(*pair) for pair in zip(before, inside, strict=True))


def test_experts_are_between_attention_and_the_next_block(images):
    """The towers written out, block by block, as the formulas have them."""
    model = tiny_clip("vit")
    own = towers(model)
    with attached(model, [own.routed(1)]):
        found = features(model, images)
    visual = model.visual
    x = visual.conv1(images).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(4, 1, -1), x], dim=1) + visual.positional_embedding
    x = through(visual.transformer.resblocks, own.images, visual.ln_pre(x), visual.transformer.attend)
    expected = [F.normalize(visual.ln_post(x[:, 0]) @ visual.proj, dim=1)]
    tokens = tokens_of(model, TEXTS)
    x = model.token_embedding(model.token_rows[tokens]) + model.positional_embedding[:tokens.shape[1]]
    x = model.ln_final(through(model.transformer.resblocks, own.texts, x, model.transformer.attend))
    ends = x[torch.arange(len(TEXTS)), tokens.argmax(dim=1)]
    expected.append(F.normalize(ends @ model.text_projection, dim=1))
    torch.testing.assert_close(found, tuple(expected), rtol=1e-10, atol=1e-10)
    assert not torch.allclose(found[0], features(model, images)[0])


def through(blocks, mixtures, x, attend):
    for block, mixture in zip(blocks, mixtures, strict=True):
        x = x + block.attn(block.ln_1(x), attend)
        x = x + block.mlp(block.ln_2(x)) + one_by_one(mixture, x, 1)
    return x


def test_all_texts_choose_the_same_experts_at_test_and_others_in_training():
    """Nothing that stands before the first token of a text differs."""
    model, seen = tiny_clip("vit"), []
    own = towers(model)
    gates = Mixture.gates
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Mixture, "gates", lambda *given: seen.append(gates(*given)) or seen[-1])
        with attached(model, [own.routed(0)]):
            text_features(model, tokens_of(model, TEXTS))
            own.train()
            disturb(own.texts, 5 * torch.randn(3, 1, EXPERTS, generator=torch.Generator().manual_seed(1)).double())
            text_features(model, tokens_of(model, TEXTS))
    test, training = seen
    torch.testing.assert_close(test, test[:1].expand_as(test))
    assert (test[0] > 0).sum() == 2 and not torch.allclose(training, training[:1].expand_as(training))


def test_the_gate_sees_places_so_that_texts_are_not_packed():
    model = tiny_clip("vit")
    own = towers(model).train()
    own.task = 0
    assert not rows_alone(model, [own], "text") and not rows_alone(model, [own], "image")


def test_they_are_in_the_towers_in_training_only():
    model = tiny_clip("vit")
    own = towers(model).train()
    assert own.places(model) == []  # no task trains yet
    own.task = 1
    assert [seam for _, seam, _ in own.places(model)] == ["beside"] * 3 and own.eval().places(model) == []


def test_recomputed_blocks_count_once_and_have_the_same_gradients(images):
    results = []
    for recompute in (False, True):
        model = tiny_clip("vit")
        own = towers(model).train()
        if recompute:
            recompute_blocks(model)
        disturb(own.images, torch.randn(4, 2, EXPERTS, generator=torch.Generator().manual_seed(2)).double())
        with attached(model, [own.routed(0)]):
            with own.counted() as chosen:
                loss = image_features(model, images).cumsum(dim=1).square().sum()
            loss.backward()
        results.append(([*chosen], [value.grad for value in own.images.parameters() if value.grad is not None]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-10)
    assert [int(counts.sum()) for counts in results[1][0]] == [8, 8, 0]


def test_gates_are_computed_in_full_precision(mixture, x):
    """Rounded to bfloat16, these logits would tie."""
    choice = torch.zeros(WIDTH, EXPERTS)
    choice[0] = torch.tensor([1.0, 1.0001, 1.0002, 1.0003, 1.0004])
    with torch.autocast("cpu", torch.bfloat16):
        gates = mixture.float().eval().gates(torch.eye(WIDTH)[:1].bfloat16(), choice, choice)
    assert gates.dtype == torch.float32 and gates[0].nonzero()[:, 0].tolist() == [3, 4]


def test_a_vit_b_16_trains_as_many_values_as_published():
    with torch.device("meta"):
        own = Mixtures(CLIP(**VIT_B_16), None, 22, 64, 0.1)
        experts = count(own)
        for mixture in own.all():
            mixture.add_router()
            mixture.train_task(0)
        assert (experts, count(own) - experts, count(own)) == (43_625_472, 675_840, 44_301_312)
        for mixture in own.all():
            for _ in range(10):
                mixture.add_router()
    assert count(own) == 51_059_712


def count(module):
    return sum(value.numel() for value in module.parameters())

"""Which tensors each train mode moves, and features of many texts."""

import pytest
import slow_reference as slow
import torch
from torch import nn

import clip
from clip.tokenizer import END_TOKEN, START_TOKEN, VOCABULARY_SIZE
from src.models import modeling
from src.models.finetune import Finetune
from src.models.modeling import (
    ClassificationHead,
    ImageEncoder,
    compile_image_tower,
    constant_text_features,
    frozen_copy,
    image_features,
    packed_where_shorter,
    random_tokens,
    select_trainable,
    text_features,
    tokens_of,
    trains,
)
from src.models.training import train

SLOW = pytest.mark.slow
TEXTS = ["a photo of a cat.", "blue", "two birds in a very old green tree", "a drawing of the red bird.", "cat"]


def is_of_the_image_tower(name):
    return name.startswith("visual.")


def names_that_should_change(model, train_mode):
    """By the definition: an image tower is all that is named visual, a text tower is all the rest but the scale."""
    parameters = {name for name, _ in model.named_parameters()}
    image = {name for name in parameters if is_of_the_image_tower(name)}
    text = parameters - image - {"logit_scale"}
    return {"whole": image | text, "image": image, "text": text}[train_mode]


def statistics_of(model):
    return {f"{name}.{part}" for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)
            for part in ("running_mean", "running_var", "num_batches_tracked")}


def changed_by_training(state, batch_norm_names=()):
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    train(state, [Finetune()])
    return {name for name, value in state.model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.fixture
def clean_notes(monkeypatch):
    """Forget the texts that a note was printed for."""
    monkeypatch.setattr(modeling, "_noted", set())


@pytest.mark.parametrize("train_mode", ["whole", "image", "text"])
def test_five_steps_change_exactly_the_tensors_of_the_train_mode(kind, train_mode, make_model, make_state):
    state = make_state(make_model(kind), train_mode, iterations=5)
    assert changed_by_training(state) == names_that_should_change(state.model, train_mode)


@pytest.mark.parametrize("train_mode", ["whole", "image", "text"])
def test_select_trainable_returns_and_frees_the_named_tensors(kind, train_mode, make_model):
    model = make_model(kind)
    names = select_trainable(model, train_mode)
    assert set(names) == names_that_should_change(model, train_mode) == {
        name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not model.logit_scale.requires_grad
    assert (trains(model, "image"), trains(model, "text")) == (train_mode != "text", train_mode != "image")


def test_a_second_selection_takes_back_the_first(make_model):
    model = make_model("vit")
    select_trainable(model, "whole")
    assert set(select_trainable(model, "text")) == names_that_should_change(model, "text")


@pytest.mark.parametrize("train_mode", ["whole", "image"])
def test_batch_norm_statistics_move_only_where_they_are_to(train_mode, make_model, make_state):
    kept = make_state(make_model("resnet"), train_mode, iterations=2, batch_norm="eval")
    moved = make_state(make_model("resnet"), train_mode, iterations=2, batch_norm="train")
    assert not changed_by_training(kept) & statistics_of(kept.model)
    assert changed_by_training(moved) >= statistics_of(moved.model)


def test_batch_norm_statistics_of_an_untrained_image_tower_stay(make_model, make_state):
    state = make_state(make_model("resnet"), "text", iterations=2, batch_norm="train")
    assert not changed_by_training(state) & statistics_of(state.model)


def test_a_frozen_copy_is_independent_and_gives_no_gradient(kind, make_model):
    model = make_model(kind).train()
    copy = frozen_copy(model)
    assert not copy.training and not any(parameter.requires_grad for parameter in copy.parameters())
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert all(parameter.abs().sum() > 0 for parameter in copy.parameters())


@pytest.mark.parametrize("batch_size", [1, 2, 256])
def test_constant_text_features_equal_one_by_one_encoding(batch_size, make_model):
    model = make_model("vit")
    whole = clip.tokenize(TEXTS, model.context_length)
    expected = torch.stack([slow.text_feature(model, row) for row in whole])
    for tokens in (whole, tokens_of(model, TEXTS)):
        features = constant_text_features(model, tokens, batch_size)
        torch.testing.assert_close(features, expected, rtol=1e-12, atol=1e-14)
        assert not features.requires_grad


def test_features_have_length_one_and_the_weights_type_also_under_autocast(kind, make_model):
    model, tokens = make_model(kind, dtype=torch.float32), clip.tokenize(TEXTS, 14)
    with torch.autocast("cpu", torch.bfloat16):
        features = [image_features(model, torch.rand(3, 3, 16, 16)), text_features(model, tokens)]
    for rows in features:
        assert rows.dtype == torch.float32
        torch.testing.assert_close(rows.norm(dim=-1), torch.ones(len(rows)))


def test_tokens_are_cut_behind_the_last_end(make_model):
    tokens = tokens_of(make_model("vit"), ["cat", "a photo of a dog."])
    whole = clip.tokenize(["cat", "a photo of a dog."], 14)
    assert tokens.tolist() == whole[:, :8].tolist()
    assert tokens[1, -1] == END_TOKEN


def test_random_tokens_stand_between_start_and_end(make_model):
    tokens = random_tokens(make_model("vit"), 42)
    assert tokens.shape == (1000, 12) and tokens.dtype == torch.long
    assert (tokens[:, 0] == START_TOKEN).all() and (tokens[:, -1] == END_TOKEN).all()
    assert (tokens[:, 1:-1] < START_TOKEN).all()


def test_random_tokens_fit_a_short_context(make_model):
    model = make_model("vit")
    model.context_length = 7
    tokens = random_tokens(model, 42)
    assert tokens.shape == (1000, 7) and (tokens[:, -1] == END_TOKEN).all()


def test_random_tokens_follow_the_seed(make_model):
    model = make_model("vit")
    assert torch.equal(random_tokens(model, 1), random_tokens(make_model("resnet", seed=3), 1))
    assert not torch.equal(random_tokens(model, 1), random_tokens(model, 2))


def test_random_tokens_of_a_small_model_are_all_of_those_it_has(make_model):
    model = make_model("vit")
    own = set(model.architecture["vocabulary"]) - {START_TOKEN, END_TOKEN}
    assert set(random_tokens(model, 0)[:, 1:-1].flatten().tolist()) == own


def test_random_tokens_of_a_full_model_are_drawn_from_the_whole_vocabulary(make_model):
    model = make_model("vit")
    model.token_rows = None
    drawn = random_tokens(model, 0)[:, 1:-1]
    counts = torch.bincount(drawn.flatten() * 4 // (VOCABULARY_SIZE - 2), minlength=4)
    assert len(counts) == 4 and ((counts - 2500).abs() < 250).all()  # five standard deviations are 217


def test_unknown_words_are_told_once(clean_notes, make_model, capsys):
    model = make_model("vit")
    for _ in range(2):
        tokens_of(model, ["a cat", "a zebra in a tree"])
        tokens_of(model, ["an antelope"])
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == 1
    assert "'a zebra in a tree'" in notes[0]


def test_known_words_are_not_complained_of(clean_notes, make_model, capsys):
    tokens_of(make_model("vit"), TEXTS)
    assert capsys.readouterr().err == ""


def test_a_full_model_knows_all_words(clean_notes, make_model, capsys):
    model = make_model("vit")
    model.token_rows = None
    tokens_of(model, ["a zebra"])
    assert capsys.readouterr().err == ""


# -- heads and the image tower alone -----------------------------------------------------------------------------------


def random_head(classes=3, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return ClassificationHead(torch.randn(classes, width, generator=generator, dtype=torch.float64),
                              torch.randn(classes, generator=generator, dtype=torch.float64))


def test_a_head_is_a_linear_layer():
    head, features = random_head(), torch.randn(5, 8, dtype=torch.float64)
    rows = list(zip(head.weight.tolist(), head.bias.tolist(), strict=True))
    expected = [[sum(w * x for w, x in zip(row, feature, strict=True)) + offset
                 for row, offset in rows] for feature in features.tolist()]
    torch.testing.assert_close(head(features).detach(), torch.tensor(expected, dtype=torch.float64))


def test_a_packed_head_comes_back():
    head = random_head()
    packed = head.packed()
    assert packed.shape == (3, 9) and not packed.requires_grad
    assert torch.equal(packed[:, :8], head.weight) and torch.equal(packed[:, 8], head.bias)
    for kind in (torch.float64, torch.float32):
        back = ClassificationHead.unpacked(packed, torch.zeros((), dtype=kind))
        assert back.weight.dtype == back.bias.dtype == kind and back.weight.requires_grad
        assert torch.equal(back.packed(), packed.to(kind))
    with torch.no_grad():
        back = ClassificationHead.unpacked(packed, packed)
        back.weight.zero_()
        back.bias.zero_()
    assert torch.equal(packed, head.packed()), "what a checkpoint holds does not move with the head"


def test_the_image_encoder_gives_the_model_s_features(kind, make_model):
    model, images = make_model(kind), torch.rand(3, 3, 16, 16, dtype=torch.float64)
    encoder = ImageEncoder(model)
    expected = torch.stack(slow.image_features(model, images))
    torch.testing.assert_close(encoder(images), expected, rtol=1e-11, atol=1e-13)
    assert {name for name, _ in encoder.named_parameters()} == {
        name for name, _ in model.named_parameters() if is_of_the_image_tower(name)}
    with torch.autocast("cpu", torch.bfloat16):
        low = ImageEncoder(make_model(kind, dtype=torch.float32))(images.float())
    assert low.dtype == torch.float32


@pytest.mark.parametrize(("train_mode", "towers", "head"), [
    ("image-fc", "image", True), ("image-fc-fixed", "image", False), ("fc", None, True), ("whole", "both", False),
    ("image", "image", False), ("text", "text", False)])
def test_what_is_free_beside_a_head(train_mode, towers, head, make_model):
    model = make_model("resnet")
    model.head = random_head(4)
    names = set(select_trainable(model, train_mode))
    image, text = towers in ("image", "both"), towers in ("text", "both")
    assert names == {name for name, _ in model.named_parameters() if (
        head if name.startswith("head.") else image if is_of_the_image_tower(name)
        else text and name != "logit_scale")}
    assert (trains(model, "image"), trains(model, "text")) == (image, text)


@pytest.mark.parametrize(("train_mode", "moving"), [("image-fc", True), ("image-fc-fixed", True), ("fc", False)])
def test_statistics_are_kept_where_the_tower_is(train_mode, moving, make_model):
    model = make_model("resnet")
    model.head = random_head(4)
    select_trainable(model, train_mode)
    for batch_norm in ("train", "eval"):
        modeling.set_training(model, batch_norm)
        norms = {module.training for module in model.modules() if isinstance(module, nn.BatchNorm2d)}
        assert norms == {moving and batch_norm == "train"} and model.head.training


def test_a_frozen_copy_has_a_head_of_its_own(make_model):
    model = make_model("vit")
    model.head = random_head(4)
    copy = frozen_copy(model)
    with torch.no_grad():
        model.head.weight.zero_()
    assert copy.head.weight.abs().sum() > 0 and not copy.head.weight.requires_grad


# -- texts that are encoded often --------------------------------------------------------------------------------------


def test_prompts_are_packed_where_that_saves_enough(make_model):
    model, names = make_model("vit"), [f"{word} {other}" for word in "cat dog blue red bird old".split()
                                       for other in "cat dog green tree house car".split()]
    tokens = tokens_of(model, [f"a photo of a {name}." for name in names])
    packed = packed_where_shorter(model, tokens)
    assert packed.first == 5 and len(packed) < tokens.numel() / 2
    torch.testing.assert_close(text_features(model, packed), text_features(model, tokens), atol=1e-12, rtol=1e-12)
    assert packed_where_shorter(model, tokens[:4]) is not packed  # 15 tokens saved are not worth two more kernels
    assert torch.equal(packed_where_shorter(model, tokens[:4]), tokens[:4])


def test_on_cuda_packing_must_save_more(make_model, monkeypatch):
    """There, launches are dearer than tokens: ImageNet's 1000 prompts are padded, 8000 of their lengths are packed."""
    model, tokens = make_model("vit"), torch.tensor([[49406, 320, 49407, 0, 0]] * 50 + [[49406, 320, 320, 320, 49407]])
    saved = tokens.numel() - len(packed_where_shorter(model, tokens))
    assert 128 < saved < 12472 < modeling.WORTH_PACKING["cuda"] < 99874
    monkeypatch.setattr(modeling, "WORTH_PACKING", {"cpu": saved})
    assert packed_where_shorter(model, tokens) is not tokens
    monkeypatch.setattr(modeling, "WORTH_PACKING", {"cpu": saved + 1})
    assert packed_where_shorter(model, tokens) is tokens
    model.context_length = tokens.shape[1]  # then encode_text would wait for the device
    assert packed_where_shorter(model, tokens) is not tokens


def test_texts_share_no_start_where_dropout_acts(make_model):
    model = make_model("vit")
    tokens = tokens_of(model, ["a photo of a cat."] * 40 + ["a photo of a dog near the old car in the street."])
    assert packed_where_shorter(model, tokens).first == 5
    model.transformer.resblocks[0].mlp.drop = nn.Dropout(0.0)
    assert packed_where_shorter(model, tokens).first == 5
    model.transformer.resblocks[0].mlp.drop = nn.Dropout(0.1)
    assert packed_where_shorter(model, tokens).first == 0


def steps_of(model, texts, counts):
    """Losses and a gradient of steps on these numbers of images."""
    found = []
    for count in counts:
        generator = torch.Generator().manual_seed(count)
        images = torch.randn(count, 3, 16, 16, dtype=torch.float64, generator=generator)
        scores = image_features(model, images) @ text_features(model, texts).T
        model.zero_grad()
        scores.square().sum().backward()
        found += [scores.detach().sum(),
                  *(value.grad.clone() for value in model.parameters() if value.grad is not None)]
    return found


@pytest.mark.parametrize(("kind", "backend"), [("vit", "eager"), *(pytest.param(*case, marks=SLOW) for case in (
    ("vit", "aot_eager"), ("vit", "inductor"), ("resnet", "inductor")))])
def test_a_compiled_tower_equals_an_uncompiled_one_and_compiles_once(kind, backend, make_model):
    """Batches have a few sizes: after the first nothing is compiled again, of the next model neither. torch keeps a
    compiled tower's names and copies plain."""
    plain, compiled, later = make_model(kind), make_model(kind), make_model(kind, seed=8)
    texts = packed_where_shorter(plain, tokens_of(plain, ["a photo of a cat.", "the red bird", "blue"] * 20))
    for model in (compiled, compiled, later):
        compile_image_tower(model, backend)
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    try:
        steps_of(compiled, texts, [4])
        graphs = counters["stats"]["unique_graphs"]
        ours, expected = (steps_of(model, texts, [4, 3, 5, 4]) for model in (compiled, plain))
        steps_of(later, texts, [3])
        assert graphs and counters["stats"]["unique_graphs"] == graphs and not counters["recompile_limit"]
    finally:
        torch._dynamo.reset()
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    assert not any(module._compiled_call_impl for module in frozen_copy(compiled).modules())
    assert compiled.transformer._compiled_call_impl is None

"""DDAS against its formulas, written out with plain torch, and its choices by hand; with a random AlexNet."""

import math
from dataclasses import replace
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
from conftest import reference_task, tiny_clip, tiny_task
from torch import nn
from torchvision import models

import src.models.ddas
from src.datasets.seeds import order_of_epoch, seed_of
from src.datasets.transforms import EvalTransform, TrainTransform
from src.errors import UserError
from src.machine.batch import Batch
from src.models.ddas import DDAS, PLAIN, alexnet, alexnet_inputs, clip_inputs
from src.models.modeling import image_features

CLOSE = dict(rtol=1e-9, atol=1e-12)
MODEL = tiny_clip("vit")  # of which only the shape is asked


@pytest.fixture
def model():
    return tiny_clip("vit")


@pytest.fixture
def state(make_state, model):
    found = make_state(model)
    found.open_task = lambda name, trained=False: {"reference": reference_task()}[name]
    return found


def batches(task, split, purpose, size, device, crops):
    """A pass over a split, from the definition of seeded passes: [images]"""
    seed = seed_of(42, task.name, purpose)
    rows = order_of_epoch(len(split), seed, 0) if crops else range(len(split))
    transform = TrainTransform(16) if crops else EvalTransform(16)
    for first in range(0, len(rows), size):
        images = [transform(split.image(row), seed_of(seed, 0, row)) for row in rows[first:first + size]]
        yield device.batch(Batch(torch.stack(images), torch.zeros(len(images), dtype=torch.long))).images


def written(start, passes, inputs_of, rates):
    """Adam with weight decay in the gradient, number by number, from the weights ``start``."""
    tensors = [value.clone().requires_grad_() for value in start]
    moments = [(torch.zeros_like(value), torch.zeros_like(value)) for value in tensors]
    for step, (images, rate) in enumerate(zip(passes, rates, strict=True), 1):
        h = inputs_of(images)
        down, bias, up, last = tensors
        out = 1 / (1 + torch.exp(-((h @ down.T + bias).clamp(min=0) @ up.T + last)))
        gradients = torch.autograd.grad((out - h).square().mean(), tensors)
        with torch.no_grad():
            for value, gradient, (m, v) in zip(tensors, gradients, moments, strict=True):
                gradient = gradient + 1e-4 * value
                m.mul_(0.9).add_(0.1 * gradient)
                v.mul_(0.999).add_(0.001 * gradient ** 2)
                value -= rate * (m / (1 - 0.9 ** step)) / ((v / (1 - 0.999 ** step)).sqrt() + 1e-8)
    return [value.detach() for value in tensors]


def features_of(model):
    return lambda images: torch.sigmoid(math.sqrt(8) * F.normalize(model.encode_image(images), dim=1)).detach()


def begun(ddas, state, number=0):
    """The autoencoders as they start, and fit one task."""
    starts, kind = [], src.models.ddas.Autoencoder

    class Watched(kind):
        def __init__(self, size):
            super().__init__(size)
            starts.append([value.detach().double().clone() for value in self.parameters()])
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(src.models.ddas, "Autoencoder", Watched)
        ddas.fit(state, number)
    return starts


# -- fitting -----------------------------------------------------------------------------------------------------------


def test_autoencoders_are_fitted_as_written(state, model, device, capsys):
    """The reference's for 5 steps of 3 and 2 passes, the task's for 8 of 6 a pass, whose rate falls after one pass."""
    ddas = DDAS(model, 0, "clip", "reference", 0.5, 8, 5, 1e-3, 1)
    starts = begun(ddas, state)
    sets = ("reference", reference_task(), 5), ("tiny", tiny_task(), 8)
    for start, (name, task, steps), found in zip(starts, sets, ddas.autoencoders, strict=True):
        split = task.split("train")
        passes = [images for number in range(2) for images in
                  batches(state.task, split, f"autoencoder of {name}, pass {number}", 4, device, crops=True)]
        each = -(-len(split) // 4)
        rates = [1e-3 * 0.1 ** (step // each) for step in range(steps)]
        expected = written(start, passes[:steps], features_of(model), rates)
        torch.testing.assert_close([*found.parameters()], expected, **CLOSE)
        assert not any(value.requires_grad for value in found.parameters())
    told = capsys.readouterr().out.splitlines()
    assert [line.rpartition(", error")[0] for line in told] == [
        "DDAS: autoencoder of reference, step 5 of 5", "DDAS: autoencoder of tiny, step 8 of 8"]


@pytest.mark.parametrize(("decay", "rates"), [(0, 8 * [1e-3]), (2, 8 * [1e-3]), (1, 6 * [1e-3] + 2 * [1e-4])])
def test_the_rate_falls_after_passes(state, model, decay, rates, monkeypatch):
    seen, step = [], torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda optimizer, *rest: seen.append(
        optimizer.param_groups[0]["lr"]) or step(optimizer, *rest))
    DDAS(model, 0, "clip", None, 0.5, 8, 5, 1e-3, decay).fit(state, 0)
    assert seen == pytest.approx(rates)


def test_progress_is_shown(state, model, capsys, monkeypatch):
    monkeypatch.setattr(src.models.ddas, "SHOWN_EVERY", 3)
    DDAS(model, 0, "clip", None, 0.5, 8).fit(state, 0)
    assert [line.split(", ")[1] for line in capsys.readouterr().out.splitlines()] == [
        "step 3 of 8", "step 6 of 8", "step 8 of 8"]


def test_a_task_that_is_met_again_takes_the_place_of_its_autoencoder(state, model):
    ddas = DDAS(model, 0, "clip", "reference", 0.5, 2, 2)
    for number in (0, 1, 0):
        before = [*ddas.autoencoders]
        ddas.fit(state, number)
    assert len(ddas.autoencoders) == 3
    assert [one is other for one, other in zip(before, ddas.autoencoders, strict=True)] == [True, False, True]


def test_a_dry_run_fits_nothing(state, model):
    state.planned = True
    ddas = DDAS(model, 0, "clip", "reference", "95%")
    ddas.fit(state, 0)
    assert len(ddas.autoencoders) == 2 and ddas.autoencoders[1].limit == math.inf


@pytest.mark.parametrize("val", [True, False])
def test_a_threshold_is_a_share_of_the_validation_images(state, model, device, val, capsys):
    """80 % of 6 images lie at the fifth error; without validation images those of training serve, as a note says."""
    task = state.task
    if not val:
        state.task = replace(task, splits={"train": task.split("val"), "test": task.split("test")})
    ddas = DDAS(model, 0, "clip", None, "80%", 3)
    ddas.fit(state, 0)
    images = torch.cat([*batches(task, task.split("val"), "any", 4, device, crops=False)])
    with torch.no_grad():
        inputs = features_of(model)(images)
        errors = (ddas.autoencoders[0](inputs) - inputs).square().mean(dim=1).sort().values
    torch.testing.assert_close(ddas.autoencoders[0].limit, errors[4], **CLOSE)
    assert ("tiny has no val split; --ddas-threshold 80% uses training images" in capsys.readouterr().out) != val


# -- choosing ----------------------------------------------------------------------------------------------------------


class Fixed(nn.Module):
    """An autoencoder whose errors are columns of its inputs."""

    def __init__(self, column, limit=math.inf):
        super().__init__()
        self.column, self.limit = column, torch.tensor(limit, dtype=torch.float64)

    def errors(self, inputs):
        return inputs[:, self.column]


def choose(errors, reference, threshold, together, limits=()):
    """Errors (B, A) -> routes as a list."""
    ddas = DDAS(MODEL, 0, "clip", "reference" if reference else None, threshold)
    count = len(errors[0])
    ddas.autoencoders = nn.ModuleList(map(Fixed, range(count), limits or [math.inf] * count))
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(src.models.ddas.INPUTS, "clip", lambda model, images: images)
        return ddas.routes(None, torch.tensor(errors, dtype=torch.float64), together).tolist()


@pytest.mark.parametrize(("errors", "reference", "expected"), [
    ([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.2, 0.1, 0.3]], True, [PLAIN, 1, 0]),
    ([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.2, 0.1, 0.3]], False, [0, 2, 1]),
    ([[0.2, 0.2, 0.2], [0.3, 0.2, 0.2], [0.9, 0.25, 0.9], [0.9, 0.25 + 1e-9, 0.9]], True, [PLAIN, 0, 0, PLAIN]),
    ([[0.2, 0.2, 0.2], [0.9, 0.8, 0.7]], False, [0, PLAIN])],
    ids=["reference", "no reference", "ties, and at the threshold", "too far"])
def test_each_image_takes_the_least_error_by_itself(errors, reference, expected):
    assert choose(errors, reference, 0.25, together=False) == expected
    assert [choose([row], reference, 0.25, together=False)[0] for row in errors] == expected


@pytest.mark.parametrize(("errors", "reference", "expected"), [
    ([[0.1, 0.6], [0.4, 0.1], [0.4, 0.1]], False, 1),  # means 0.3 and 0.267: not that of the first image
    ([[0.0, 0.3], [0.2, 0.3]], True, PLAIN), ([[0.5, 0.4], [0.5, 0.0]], True, 0),
    ([[0.9, 0.25], [0.9, 0.35]], False, 1), ([[0.9, 0.25], [0.9, 0.36]], False, PLAIN)])
def test_a_batch_takes_the_least_mean_error_together(errors, reference, expected):
    assert choose(errors, reference, 0.3, together=True) == [expected] * len(errors)


def test_a_batch_of_one_is_an_image_by_itself():
    rows = torch.rand(50, 4, generator=torch.Generator().manual_seed(0)).tolist()
    apart, together = ([choose([row], True, 0.2, kind)[0] for row in rows] for kind in (False, True))
    assert apart == together and len({*apart}) == 4


def test_thresholds_by_share_are_those_of_each_task():
    errors = [[0.4, 0.9], [0.9, 0.4], [0.5, 0.9]]
    assert choose(errors, False, "95%", False, limits=[0.4, 0.3]) == [0, PLAIN, PLAIN]
    assert choose(errors, False, 0.45, False, limits=[0.4, 0.3]) == [0, 1, PLAIN]


def test_errors_are_means_over_values(model):
    ddas = DDAS(model, 2, "clip", None, 0.5).double()
    inputs = torch.rand(3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.stack([(ddas.autoencoders[0](row) - row).square().mean() for row in inputs])
    torch.testing.assert_close(ddas.autoencoders[0].errors(inputs), expected)


# -- what is looked at -------------------------------------------------------------------------------------------------


@pytest.fixture
def random_alexnet(monkeypatch):
    """Replaces the published one; nothing is downloaded."""
    with torch.device("meta"):
        whole = models.alexnet(weights=None)
    generator = torch.Generator().manual_seed(0)
    for value in whole.features.to_empty(device="cpu").parameters():
        nn.init.normal_(value, std=0.02, generator=generator)
    monkeypatch.setattr(models, "alexnet", lambda weights: whole)
    alexnet.cache_clear()
    yield whole
    alexnet.cache_clear()


def test_the_inputs_of_clip(model):
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    features = image_features(model, images)
    torch.testing.assert_close(clip_inputs(model, images), 1 / (1 + torch.exp(-8 ** 0.5 * features)))


def test_the_inputs_of_alexnet_are_its_fifth_convolution(random_alexnet):
    """Before the activation, of images as CLIP is given them, whatever the precision around."""
    images, seen = torch.randn(2, 3, 224, 224), []
    [*(part for part in random_alexnet.features if isinstance(part, nn.Conv2d))][4].register_forward_hook(
        lambda module, given, result: seen.append(result))
    with torch.autocast("cpu", torch.bfloat16):
        found = alexnet_inputs(None, images)
    with torch.no_grad():
        random_alexnet.features[:11](images)
    assert found.shape == (2, 43264) and found.dtype == torch.float32
    torch.testing.assert_close(found, seen[-1].clone().flatten(1).sigmoid())


def test_alexnet_takes_images_of_any_size(random_alexnet, make_state, model):
    ddas = DDAS(model, 0, "alexnet", None, None, 1)
    ddas.fit(make_state(model, batch_size=1), 0)
    assert ddas.threshold == 0.0655 and ddas.autoencoders[0][0].in_features == 43264
    assert ddas.routes(model, torch.randn(1, 3, 16, 16, dtype=torch.float64), False).shape == (1,)


@pytest.mark.parametrize("error", [URLError("no network"), RuntimeError("invalid hash value"), OSError("disk full")])
def test_weights_that_cannot_be_had_are_one_message(monkeypatch, error):
    def fails(weights):
        raise error
    monkeypatch.setattr(models, "alexnet", fails)
    alexnet.cache_clear()
    with pytest.raises(UserError, match="--ddas-features alexnet: .*alexnet-owt.*pth.*--ddas-features clip"):
        alexnet()

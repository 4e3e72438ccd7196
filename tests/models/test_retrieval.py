"""Image-text retrieval against brute force: ranks, ties, recalls, folds, memory, and whole models."""

import dataclasses
import math
import random
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import slow_reference as slow
import torch
from conftest import SENTENCES, WORDS, random_split

import clip
from src.datasets.transforms import EvalTransform
from src.errors import UserError
from src.machine.device import Device
from src.models import retrieval
from src.models.modeling import set_training
from src.models.retrieval import RetrievalScores, drift, folds, ranks, recall, retrieve

LONG = "an old red bird and a green tree " * 40
CAPTIONS = [*WORDS, LONG, "größe 猫 \U0001f408", "a cat &amp; a dog"]


def unit(features):
    return torch.nn.functional.normalize(features, dim=-1)


def random_problem(images, most, seed, dim=6, dtype=torch.float64):
    """(N, D), (M, D), owner (M,): 1 to ``most`` captions an image, in no order."""
    owner = [image for image in range(images) for _ in range(1 + image * 5 % most)]
    random.Random(seed).shuffle(owner)
    generator = torch.Generator().manual_seed(seed)
    image_features = torch.randn(images, dim, generator=generator, dtype=torch.float64)
    text_features = image_features[owner] + torch.randn(len(owner), dim, generator=generator, dtype=torch.float64)
    return unit(image_features).to(dtype), unit(text_features).to(dtype), torch.tensor(owner)


def slow_ranks(images, texts, owner):
    """One score at a time, in Python."""
    images, texts, owner = images.tolist(), texts.tolist(), owner.tolist()
    scores = [[sum(x * y for x, y in zip(image, text, strict=True)) for text in texts] for image in images]
    i2t = []
    for image, row in enumerate(scores):
        best = max(score for score, of in zip(row, owner, strict=True) if of == image)
        i2t.append(sum(score >= best for score, of in zip(row, owner, strict=True) if of != image))
    t2i = [sum(scores[other][text] >= scores[image][text] for other in range(len(images)) if other != image)
           for text, image in enumerate(owner)]
    return i2t, t2i


def slow_scores(images, texts, owner):
    """What RetrievalScores must hold, up to rounding."""
    numbers = {}
    for way, found in zip(("i2t", "t2i"), slow_ranks(images, texts, owner), strict=True):
        numbers |= {f"{way}_r{k}": 100 * len([rank for rank in found if rank + 1 <= k]) / len(found)
                    for k in (1, 5, 10)}
        numbers[f"{way}_medr"] = statistics.median(rank + 1 for rank in found)
        numbers[f"{way}_meanr"] = sum(rank + 1 for rank in found) / len(found)
    numbers["rsum"] = sum(value for name, value in numbers.items() if "_r" in name)
    return numbers | {"images": len(images), "captions": len(texts)}


def as_lists(found):
    return tuple(part.tolist() for part in found)


# -- ranks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("images", "most"), [(1, 1), (2, 3), (23, 1), (24, 5), (40, 7)])
def test_ranks_and_scores_equal_brute_force(images, most, dtype):
    problem = random_problem(images, most, seed=images, dtype=dtype)
    assert as_lists(ranks(*problem)) == slow_ranks(*problem)
    assert dataclasses.asdict(recall(*problem)) == pytest.approx(slow_scores(*problem), rel=1e-12)


def test_the_comparison_means_something():
    scores = recall(*random_problem(40, 7, seed=40))
    for way in ("i2t", "t2i"):
        values = [getattr(scores, f"{way}_r{k}") for k in (1, 5, 10)]
        assert 0 < values[0] < values[1] < values[2] < 100


@pytest.mark.parametrize("seed", range(5))
def test_ties_equal_brute_force(seed):
    """Few values and few directions: most scores are shared, and whole numbers, so that Python sums the same."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(-1, 2, (15, 3), generator=generator).double()
    texts, owner = torch.randint(-1, 2, (40, 3), generator=generator).double(), torch.arange(40) % 15
    assert as_lists(ranks(images, texts, owner)) == slow_ranks(images, texts, owner)


@pytest.mark.parametrize("chunk", [1, 7, 68, 500, 10 ** 9])
def test_the_chunk_changes_nothing(chunk):
    problem = random_problem(30, 4, seed=1)
    assert as_lists(ranks(*problem, chunk=chunk)) == slow_ranks(*problem)


@pytest.mark.parametrize("chunk", [1, 500, 1000, 10 ** 9])
def test_no_more_scores_than_the_chunk_are_made(chunk, monkeypatch):
    problem, sizes, product = random_problem(30, 4, seed=1), [], retrieval.similarity

    def watched(*given):
        scores = product(*given)
        sizes.append(scores.numel())
        return scores
    monkeypatch.setattr(retrieval, "similarity", watched)
    ranks(*problem, chunk=chunk)
    assert max(sizes) <= max(chunk, len(problem[1])) and sum(sizes) == 2 * 30 * len(problem[1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("images", "each", "dim", "chunk"), [(12, 1, 8, 2 ** 21), (101, 5, 512, 2 ** 21),
                                                              (333, 3, 1024, 777), (333, 3, 63, 10_007)])
def test_constant_features_find_nothing(images, each, dim, chunk, dtype):
    """Equal scores are equal wherever in a product they were summed."""
    feature = unit(torch.randn(dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).to(dtype)
    owner = torch.arange(images * each) // each
    i2t, t2i = ranks(feature.repeat(images, 1), feature.repeat(images * each, 1), owner, chunk=chunk)
    assert i2t.tolist() == [(images - 1) * each] * images and t2i.tolist() == [images - 1] * (images * each)


def test_constant_features_score_0_in_every_recall():
    scores = recall(unit(torch.ones(30, 8)), unit(torch.ones(60, 8)), torch.arange(60) // 2)
    assert scores.rsum == scores.i2t_r10 == scores.t2i_r10 == 0
    assert (scores.i2t_medr, scores.t2i_medr, scores.i2t_meanr, scores.t2i_meanr) == (59, 30, 59, 30)


@pytest.mark.parametrize("each", [1, 5])
def test_a_perfect_model_scores_100(each):
    """An image's own captions, all as good as the best, do not stand in each other's way."""
    features = unit(torch.randn(50, 16, generator=torch.Generator().manual_seed(0)))
    owner = torch.arange(50 * each) % 50
    assert recall(features, features[owner], owner) == RetrievalScores(*[100.0] * 6, *[1.0] * 4, 600.0, 50, 50 * each)


def test_only_the_best_caption_of_an_image_counts():
    images = torch.eye(3, dtype=torch.float64)
    texts = torch.cat([images, -images])  # the last three are worse than all
    i2t, t2i = ranks(images, texts, torch.tensor([0, 1, 2, 0, 1, 2]))
    assert i2t.tolist() == [0, 0, 0] and t2i.tolist() == [0, 0, 0, 2, 2, 2]


def test_duplicates_are_ties():
    """Twice the same image with the same caption: each is as good as the other, so neither is found first."""
    features = torch.eye(4, dtype=torch.float64)[[0, 0, 1, 2]]
    i2t, t2i = ranks(features, features, torch.arange(4))
    assert i2t.tolist() == t2i.tolist() == [1, 1, 0, 0]


def test_what_is_not_a_number_is_never_found_and_never_helps():
    images, texts, owner = random_problem(5, 3, seed=2)
    everything = recall(images * torch.nan, texts, owner)  # 5 images: even the last would be among the first 10
    assert everything.rsum == 0 and everything.i2t_medr > 10
    broken = images.clone()
    broken[3] = torch.nan
    i2t, t2i = ranks(broken, texts, owner)
    before = slow_ranks(images, texts, owner)
    assert i2t[3] >= 10 and all(t2i[owner == 3] >= 10)
    assert [rank for image, rank in enumerate(i2t.tolist()) if image != 3] == before[0][:3] + before[0][4:]
    for text, image in enumerate(owner.tolist()):  # it stands before every other image
        beaten = float(images[3] @ texts[text]) >= float(images[image] @ texts[text])
        assert image == 3 or t2i[text] == before[1][text] + (not beaten)


def test_one_caption_that_is_not_a_number_leaves_the_others():
    features = torch.eye(3, dtype=torch.float64)
    texts = torch.cat([features, features[:1] * torch.nan])
    i2t, t2i = ranks(features, texts, torch.tensor([0, 1, 2, 0]))
    assert i2t.tolist() == [0, 1, 1] and t2i.tolist()[:3] == [0, 0, 0] and t2i[3] >= 10


def test_ranks_carry_no_gradient():
    images, texts, owner = random_problem(4, 2, seed=3)
    assert not any(part.is_floating_point() for part in ranks(images.requires_grad_(), texts.requires_grad_(), owner))
    assert torch.is_grad_enabled()


def test_autocast_leaves_the_scores_alone():
    problem = random_problem(40, 7, seed=4, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert as_lists(ranks(*problem)) == slow_ranks(*problem)


@pytest.mark.parametrize(("found", "medians"), [((0, 4), 3.0), ((0, 1, 2, 3), 2.5), ((6, 0, 1), 2.0), ((9,), 10.0)])
def test_medians_count_from_1_and_halve_an_even_middle(found, medians, monkeypatch):
    monkeypatch.setattr(retrieval, "ranks", lambda *given: (torch.tensor(found), torch.tensor([0])))
    scores = recall(torch.zeros(len(found), 2), torch.zeros(1, 2), torch.zeros(1))
    assert (scores.i2t_medr, scores.t2i_medr) == (medians, 1.0)
    assert scores.i2t_meanr == pytest.approx(1 + sum(found) / len(found))


MEASURED = """
import torch
from src.models.retrieval import recall

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024

torch.set_num_threads(1)
features = torch.nn.functional.normalize(torch.randn(5_000, 64), dim=-1)
texts = torch.nn.functional.normalize(torch.randn(25_000, 64), dim=-1)
before = peak()
scores = recall(features, texts, torch.arange(25_000) // 5)
print(peak(), peak() - before, scores.images, scores.captions)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells a process's own peak there")
def test_coco_5k_stays_in_memory():
    """Measured in a separate process; getrusage would include the peak of the process that started it."""
    done = subprocess.run([sys.executable, "-c", MEASURED], cwd=Path(__file__).parents[2], capture_output=True,
                          text=True, timeout=300, check=True)
    peak, growth, images, captions = map(float, done.stdout.split())
    assert (images, captions) == (5_000, 25_000)
    assert peak < 2 * 2 ** 30 and growth < 0.25 * 2 ** 30, f"{peak / 2 ** 30:.2f} GiB, {growth / 2 ** 30:.2f} more"


# -- folds -------------------------------------------------------------------------------------------------------------


def test_folds():
    for images in (1, 999, 5000):
        assert folds(images) == folds(images, None) == folds(images, "5k") == [range(images)]
    assert folds(1000, "1k") == folds(31_014, "1k") == [range(1000)]
    assert folds(5000, "1k-fold5") == folds(5001, "1k-fold5") == [
        range(0, 1000), range(1000, 2000), range(2000, 3000), range(3000, 4000), range(4000, 5000)]


@pytest.mark.parametrize(("images", "wanted", "words"), [(999, "1k", "1000"), (4999, "1k-fold5", "5000"),
                                                         (4999, "2k", "1k-fold5")])
def test_a_split_that_is_too_small_and_an_unknown_name(images, wanted, words):
    with pytest.raises(UserError, match=f"--retrieval-split {wanted}.*{words}"):
        folds(images, wanted)


# -- models ------------------------------------------------------------------------------------------------------------


def captioned(count, seed=3, captions=CAPTIONS):
    """Images with 1 to 3 captions each."""
    numbered = [[captions[(3 * image + place) % len(captions)] for place in range(1 + image % 3)]
                for image in range(count)]
    return dataclasses.replace(random_split(count, 1, seed), captions=numbered)


@torch.no_grad()
def slow_features(model, split, device, places):
    """(N, D), (M, D), owner (M,), one image and one caption at a time."""
    transform = EvalTransform(16)
    images = [slow.image_feature(model, device.images(transform(split.image(place))[None])[0]) for place in places]
    owned = [(row, caption) for row, place in enumerate(places) for caption in split.captions[place]]
    texts = [slow.text_feature(model, clip.tokenize([caption], 14)[0]) for _, caption in owned]
    return torch.stack(images), torch.stack(texts), torch.tensor([row for row, _ in owned])


def approximately(numbers):
    return RetrievalScores(**{name: pytest.approx(value, rel=1e-12) for name, value in numbers.items()})


@pytest.mark.parametrize("batch_size", [5, 128])
def test_a_model_scores_as_one_image_and_one_caption_at_a_time(kind, batch_size, make_model, device):
    model, split = make_model(kind, seed=2), captioned(18)
    expected = slow_scores(*slow_features(model, split, device, range(18)))
    assert retrieve(model, split, device, batch_size=batch_size) == approximately(expected)
    assert retrieve(model, split, device, retrieval_split="5k") == approximately(expected)
    assert 0 < expected["rsum"] < 600 and expected["captions"] == 36


def test_images_that_cannot_be_decoded_go_with_their_captions(make_model, device, capsys):
    model, split = make_model("vit"), captioned(14)
    holed = dataclasses.replace(split, image=lambda index: None if index in (0, 5) else split.image(index))
    places = [place for place in range(14) if place not in (0, 5)]
    expected = slow_scores(*slow_features(model, split, device, places))
    assert retrieve(model, holed, device, batch_size=4) == approximately(expected)
    assert "2 images could not be decoded" in capsys.readouterr().out


def test_long_and_foreign_captions_are_searched_too(make_model, device):
    """A caption beyond the context is the caption that ends with the context."""
    model = make_model("vit")
    tokens = clip.tokenize([LONG], 14)[0]
    assert tokens[-1] == clip.tokenizer.END_TOKEN and len(LONG.split()) > 200
    split = dataclasses.replace(captioned(3), captions=[[LONG], ["größe 猫 \U0001f408", "ñandú"], ["cat"]])
    expected = slow_scores(*slow_features(model, split, device, range(3)))
    assert retrieve(model, split, device) == approximately(expected)


def test_folds_are_searched_apart_and_averaged_and_the_rest_is_not_read(make_model, device, monkeypatch):
    monkeypatch.setattr(retrieval, "FOLD", 4)
    model, whole, read = make_model("vit", seed=1), captioned(23, captions=SENTENCES), []
    split = dataclasses.replace(whole, image=lambda index: read.append(index) or whole.image(index))
    each = [slow_scores(*slow_features(model, whole, device, range(first, first + 4))) for first in range(0, 20, 4)]
    assert len({fold["i2t_meanr"] for fold in each}) > 1, "the comparison means something"
    assert retrieve(model, split, device, batch_size=3, retrieval_split="1k") == approximately(each[0])
    assert read == [0, 1, 2, 3]
    mean = {name: sum(fold[name] for fold in each) / 5 for name in each[0]}
    read.clear()
    assert retrieve(model, split, device, batch_size=3, retrieval_split="1k-fold5") == approximately(mean)
    assert read == list(range(20)) and mean["images"] == 4


def test_a_fold_keeps_its_place_where_images_are_missing(make_model, device, monkeypatch):
    monkeypatch.setattr(retrieval, "FOLD", 4)
    model, split = make_model("vit", seed=1), captioned(20, captions=SENTENCES)
    holed = dataclasses.replace(split, image=lambda index: None if index in (3, 4, 6) else split.image(index))
    each = [slow_scores(*slow_features(model, split, device, [place for place in range(first, first + 4)
                                                              if place not in (3, 4, 6)]))
            for first in range(0, 20, 4)]
    expected = {name: sum(fold[name] for fold in each) / 5 for name in each[0]}
    assert retrieve(model, holed, device, retrieval_split="1k-fold5") == approximately(expected)


def test_a_split_that_is_too_small_is_told_before_anything_is_read(make_model, device):
    def untouched(index):
        raise AssertionError("read")
    split = dataclasses.replace(captioned(20), image=untouched)
    with pytest.raises(UserError, match="--retrieval-split 1k: needs 1000 images, and there are 20"):
        retrieve(make_model("vit"), split, device, retrieval_split="1k")


@pytest.mark.parametrize("batch_norm", ["eval", "train"])
def test_flags_weights_and_random_state_are_as_before(batch_norm, make_model, device):
    model, split = make_model("resnet"), captioned(9)
    set_training(model, batch_norm)
    model.ln_final.eval()
    flags = {name: module.training for name, module in model.named_modules()}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    scores = retrieve(model, split, device, batch_size=4)
    assert {name: module.training for name, module in model.named_modules()} == flags
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state) and torch.is_grad_enabled()
    assert scores == retrieve(model.eval(), split, device, batch_size=4)
    assert not any(module.training for module in model.modules())


def test_captions_are_encoded_in_eval_mode_under_autocast_without_gradient(make_model, monkeypatch):
    model, seen, features_of = make_model("vit", dtype=torch.float32).train(), [], retrieval.constant_text_features

    def watched(model, tokens):
        seen.append((model.training, torch.is_grad_enabled(),
                     torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None))
        return features_of(model, tokens)
    monkeypatch.setattr(retrieval, "constant_text_features", watched)
    for precision in ("bf16", "fp32"):
        retrieve(model, captioned(5), Device("cpu", precision))
    assert seen == [(False, False, torch.bfloat16), (False, False, None)]


def test_drift_of_two_models_one_image_at_a_time(kind, make_model, device):
    split, places = captioned(9, captions=SENTENCES), range(9)
    old, new = make_model(kind, seed=1), make_model(kind, seed=2)
    first = dataclasses.replace(split, captions=[captions[:1] for captions in split.captions])
    (images, texts, _), (images_after, texts_after, _) = (slow_features(model, first, device, places)
                                                          for model in (old, new))

    def angle(before, after):
        return statistics.mean(math.degrees(math.acos(float(torch.dot(one, two))))
                               for one, two in zip(before, after, strict=True))

    def kept(rows, columns):
        return statistics.mean(max(range(9), key=[float(torch.dot(row, column)) for column in columns].__getitem__)
                               == place for place, row in enumerate(rows))
    found = drift(old, new, split, device, batch_size=4)
    assert dataclasses.astuple(found) == pytest.approx((angle(images, images_after), angle(texts, texts_after),
                                                        kept(images, texts), kept(texts, images)), rel=1e-9)
    assert found.image_angle > 1
    same = drift(old, old, split, device)
    assert same.image_angle == pytest.approx(0, abs=1e-4) and same.text_angle == pytest.approx(0, abs=1e-4)

"""Packed texts: the features and gradients of the rectangle, from fewer tokens, in the fewest groups."""

import itertools

import pytest
import torch
from conftest import TEXT, tiny_clip

from clip.packing import PackedTexts, group_sizes

END = TEXT["vocab_size"] - 1  # the largest id of a model without its own vocabulary


@pytest.fixture
def model():
    """Three layers over ids 0 to END, in float64."""
    from clip.model import CLIP
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = CLIP(**{**TEXT, "vocabulary": None, "transformer_layers": 3}, vision_layers=1, vision_width=16,
                     vision_patch_size=8, vision_heads=2).double()
        torch.nn.init.normal_(found.positional_embedding)
        torch.nn.init.normal_(found.token_embedding.weight)
    return found


def texts(lengths, common=0, seed=0):
    """(N, 14) random ids that agree in the first ``common``, the end token at the last place of each length."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, END, (len(lengths), 14), generator=generator)
    tokens[:, :common] = tokens[:1, :common]
    for row, length in zip(tokens, lengths, strict=True):
        row[length - 1], row[length:] = END, 0
    return tokens


CASES = {"one text": ([6], 0), "two equal lengths": ([5, 5], 2), "nothing in common": ([4, 9, 7], 0),
         "a common start": ([8, 5, 12, 5, 9, 6, 14], 4), "a text that is only the start": ([4, 9, 9], 6),
         "only an end token of its own": ([5, 5, 7], 4), "more lengths than groups": ([3, 4, 5, 6, 7, 8, 9], 2)}


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize(("lengths", "common"), CASES.values(), ids=CASES)
def test_equal_to_the_rectangle(model, lengths, common, share):
    tokens = texts(lengths, common)
    packed = PackedTexts(tokens, share)
    expected, found = model.encode_text(tokens), model.encode_packed(packed)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    parameters = [value for name, value in model.named_parameters() if not name.startswith(("visual", "logit"))]
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for ours, theirs in zip(torch.autograd.grad((found * weights).sum(), parameters),
                            torch.autograd.grad((expected * weights).sum(), parameters), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=1e-11)
    assert len(packed.groups) <= 4


def test_a_small_vocabulary(model):
    small, tokens = tiny_clip("vit"), torch.tensor([[49406, 320, 1125, 49407, 0], [49406, 320, 7, 2368, 49407]])
    torch.testing.assert_close(small.encode_packed(PackedTexts(tokens)), small.encode_text(tokens),
                               atol=1e-12, rtol=1e-12)


def test_masks_are_made_once(model, monkeypatch):
    """Of the end of two texts behind four common tokens: 3 rows that see the start, themselves and what is before."""
    packed = PackedTexts(texts([7, 7, 9], 4))
    assert packed.sees.keys() == {3, 5}
    assert packed.sees[3].tolist() == [[True] * 5 + [False] * 2, [True] * 6 + [False], [True] * 7]
    assert not PackedTexts(texts([7, 7, 9], 4), share=False).sees
    monkeypatch.setattr(torch, "ones", None)
    model.encode_packed(packed)


def test_tokens_that_are_left():
    """Lengths 8, 5, 12, 5 with 4 tokens in common: 4 + 4 + 1 + 8 + 1 where nothing is padded."""
    tokens = texts([8, 5, 12, 5], 4)
    packed = PackedTexts(tokens)
    assert packed.first == 4 and packed.groups == [(2, 1), (1, 4), (1, 8)] and len(packed) == 18
    assert PackedTexts(tokens, share=False).groups == [(2, 5), (1, 8), (1, 12)]


def test_the_end_token_is_never_shared():
    """Two equal texts, and one that begins another."""
    same = texts([6, 6], 6)
    assert torch.equal(same[0], same[1]) and PackedTexts(same).first == 5


def brute_force(lengths, most):
    """The fewest tokens of any cut into at most ``most`` consecutive groups."""
    cuts = range(1, len(lengths))
    plans = [(0, *chosen, len(lengths)) for count in range(min(most, len(lengths)))
             for chosen in itertools.combinations(cuts, count)]
    return min(sum((end - start) * lengths[end - 1] for start, end in itertools.pairwise(plan)) for plan in plans)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("most", [1, 2, 4])
def test_group_sizes_against_every_cut(most, seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 8, (9,), generator=generator).sort().values.tolist()
    sizes = group_sizes(lengths, most)
    ends = list(itertools.accumulate(sizes))
    assert ends[-1] == len(lengths) and len(sizes) <= most
    assert sum(size * lengths[end - 1] for size, end in zip(sizes, ends, strict=True)) == brute_force(lengths, most)


def test_as_few_groups_as_serve():
    assert group_sizes([3, 3, 3]) == [3] and group_sizes([1, 1, 5], 4) == [2, 1] and group_sizes([2]) == [1]

"""What the example methods of ``examples/methods/`` score: the same in every mode, and never plain CLIP in silence."""

import csv

import pytest
import torch
from example_runs import (
    COMMON,
    EXAMPLES,
    FOLDER,
    OWN,
    STEPS,
    TASKS,
    equal,
    last_rows,
    loaded,
    quick,
    those,
)
from torch import nn

import clip
from clip.model import CLIP
from src.datasets import open_task
from src.datasets.common import Split, Task
from src.datasets.images import open_upright
from src.datasets.transforms import EvalTransform
from src.machine.code_files import load_file
from src.models.attached import attached
from src.models.classifiers import zeroshot_weights

pytest_plugins = ["cli_fixtures", "example_fixtures"]

SCORING = [name for name, example in EXAMPLES.items() if example.scored_by != "zeroshot"]
ALONE = ["--workers", "0", "--precision", "fp64", "--label-space", "task,all"]


def given(example):
    """What an evaluation has to be given: the class of a method that scores by itself; keywords are in checkpoints."""
    return example.method if example.scored_by != "zeroshot" else []


def test_evaluation_gives_the_rows_of_training(finished, cli, trio, name, example, tmp_path):
    folder = finished(name)
    words = ("--load", folder / "shades.pth", "--eval-only", "--eval-datasets", ",".join(trio.values()), *ALONE)
    done = cli(*words, *given(example), "--save", tmp_path / "scored")
    assert done.status == 0, done.err
    expected, found = (last_rows(place, *TASKS) for place in (folder, tmp_path / "scored"))
    assert found == expected and len(found) == 6
    assert all(row["scored_by"] == example.scored_by for row in found.values())


@those(SCORING)
def test_a_checkpoint_never_chooses_a_file_to_run(finished, cli, name, example, tmp_path):
    done = cli("--load", finished(name) / "shades.pth", "--eval-only", "--save", tmp_path / "scored")
    assert done.status == 2 and f"give {' '.join(example.method)} yourself" in done.err
    assert not (tmp_path / "scored").exists()


@quick("ridge", "prompts")
def test_rows_of_a_chain_of_checkpoints(finished, cli, trio, name, example, tmp_path):
    folder = finished(name)
    done = cli("--load", ",".join(str(folder / f"{task}.pth") for task in TASKS), *given(example), "--eval-only",
               "--eval-datasets", ",".join(trio.values()), *ALONE, "--save", tmp_path / "chain")
    assert done.status == 0, done.err
    for matrix in ("matrix_top1.csv", "matrix_top1_all.csv", "matrix_top5.csv"):
        assert (tmp_path / "chain" / matrix).read_text() == (folder / matrix).read_text(), matrix


def test_two_label_spaces_in_one_pass(finished, cli, trio, name, example, monkeypatch, tmp_path):
    """Images are encoded once for both, and each has the numbers that it has alone."""
    trained = finished(name) / "colours.pth"  # before calls are counted: the first test that asks trains
    calls, encode = [], CLIP.encode_image
    monkeypatch.setattr(CLIP, "encode_image", lambda model, images: calls.append(len(images)) or encode(model, images))
    images, rows = {}, {}
    for spaces in ("task,all", "task", "all"):
        calls.clear()
        done = cli("--load", trained, *given(example), "--eval-only", "--eval-datasets", ",".join(trio.values()),
                   *ALONE[:-1], spaces, "--save", tmp_path / spaces)
        assert done.status == 0, done.err
        images[spaces], rows[spaces] = sum(calls), {
            key: {**row, "scored_by": ""} for key, row in last_rows(tmp_path / spaces, *TASKS).items()}
    assert images["task,all"] == images["task"] == images["all"] == 28
    assert rows["task,all"] == rows["task"] | rows["all"]


def test_one_image_is_scored_as_the_same_image_was_in_training(finished, cli, trio, name, example, tmp_path):
    """The last image of the last task, under the class names in the checkpoint."""
    folder = finished(name)
    with (folder / "predictions_shades.csv").open() as file:
        expected = list(csv.DictReader(file))[-1]
    image = f"{trio['shades'].partition(':')[2]}/test/{expected['image']}"
    done = cli("--load", folder / "shades.pth", *given(example), "--eval-single", image, "--precision", "fp64",
               "--save", tmp_path)
    by = None if example.scored_by == "zeroshot" else f"note: scored by {example.scored_by}"
    assert done.status == 0 and (by in done.out if by else "scored by" not in done.out), done.err
    with next(tmp_path.glob("*.csv")).open() as file:
        found = next(csv.DictReader(file))
    assert found["class"] == expected["prediction"]
    assert float(found["probability"]) == pytest.approx(float(expected["probability"]), abs=1e-6)


@those(SCORING)
def test_without_what_it_owns_scores_would_be_others(finished, cli, world, name, example, tmp_path):
    """The tests above would pass if a method did nothing."""
    content = loaded(finished(name) / "tones.pth")
    torch.save({key: value for key, value in content.items() if key not in ("own", "scorer")}, tmp_path / "plain.pth")
    scores = {}
    for mark, path, words in (("own", finished(name) / "tones.pth", example.method), ("plain", "plain.pth", ())):
        done = cli("--load", tmp_path / path, *words, "--eval-single", world.image, "--class-names", "cold,warm",
                   "--precision", "fp64", "--save", tmp_path / mark)
        assert done.status == 0, done.err
        scores[mark] = (tmp_path / mark / "0.csv").read_text()
    assert scores["own"] != scores["plain"]


@those(OWN)
def test_other_keywords_than_trained_with_are_refused(finished, cli, world, name, example, tmp_path):
    other = f"{example.keywords[0].partition('=')[0]}=5"
    done = cli("--load", finished(name) / "tones.pth", *example.method, "--set", other, "--eval-only",
               "--eval-datasets", world.colours, "--workers", 0, "--save", tmp_path / "scored")
    assert done.status == 2 and "differ from those built here" in done.err and "Traceback" not in done.err


@those(["ridge"])
def test_one_image_by_ridge(finished, cli, world, name, example, tmp_path):
    """Under the names of the task, whatever the file; under other names by CLIP itself."""
    path = finished(name) / "colours.pth"
    done = cli("--load", path, *example.method, "--eval-single", world.image, "--precision", "fp64", "--save",
               tmp_path / "own")
    assert done.status == 0 and "note: scored by logits:Ridge" in done.out, done.err
    kept, model = loaded(path)["carry"]["Ridge"], clip.load(str(world.model))[0].double()
    system = kept["gram"] + 0.3 * torch.eye(len(kept["gram"]))
    single = Split(lambda index: open_upright(world.image), [0])
    features = features_of(model, Task("one", (), (), {"test": single}))
    scores = (features @ torch.linalg.solve(system, kept["targets"]["colours"]))[0].softmax(dim=0)
    expected = dict(zip(world.names, scores.tolist(), strict=True))
    with (tmp_path / "own" / "0.csv").open() as file:
        found = {row["class"]: float(row["probability"]) for row in csv.DictReader(file)}
    assert found == pytest.approx(expected, abs=1e-6)
    shared = ("--eval-single", world.image, "--class-names", "light,dark", "--precision", "fp64")
    plain = cli("--load", world.model, *shared, "--save", tmp_path / "plain")
    other = cli("--load", path, *example.method, *shared, "--save", tmp_path / "other")
    assert plain.status == other.status == 0 and "scored by" not in other.out
    assert (tmp_path / "plain" / "0.csv").read_bytes() == (tmp_path / "other" / "0.csv").read_bytes()


# -- plain CLIP instead of a method is never silent --------------------------------------------------------------------


def test_what_takes_the_plain_clip_says_so(finished, cli, world, name, example, tmp_path):
    """Where the method is more than the weights of the CLIP."""
    path = finished(name) / "tones.pth"
    words = {"--export": ("--load", path, "--export", tmp_path / "exported"),
             "--linear-eval": ("--load", path, "--eval-only", "--linear-eval", world.colours, "--linear-epochs", 1,
                               "--workers", 0, "--save", tmp_path / "layer"),
             "--ref-model": ("--load", world.model, "--method", "ZSCL", "--ref-dataset", world.colours, "--ref-model",
                             path, *COMMON, *STEPS, "--train-dataset", world.tones)}
    for flag, command in words.items():
        done = cli(*command)
        assert done.status == 0, done.err
        says = [f"note: {flag} takes the plain CLIP of " in done.out, f"{example.method[1]} trained beside" in done.out]
        assert says == [example.scored_by != "zeroshot"] * 2, flag


@those(OWN)
def test_another_method_leaves_the_modules_alone_and_says_so(finished, cli, world, name, example, tmp_path):
    path = finished(name) / "tones.pth"
    done = cli("--load", path, "--train-dataset", world.colours, *COMMON, *STEPS, "--save", tmp_path / "more")
    assert done.status == 0
    assert f"note: the modules of {example.kind} in --load are kept but inactive" in done.out
    before, after = loaded(path), loaded(tmp_path / "more" / "colours.pth")
    assert equal(before["own"], after["own"]) and "scorer" not in after
    done = cli("--load", tmp_path / "more" / "colours.pth", "--eval-only", "--eval-datasets", world.colours, *ALONE,
               "--save", tmp_path / "scored")
    assert done.status == 0 and last_rows(tmp_path / "scored", "colours") == last_rows(tmp_path / "more", "colours")


def test_no_mode_runs_the_file_that_a_checkpoint_names(finished, cli, world, trio, tmp_path):
    """Its first line would leave a mark. Only --method on the command line runs it."""
    mark, own = tmp_path / "executed", tmp_path / "own.py"
    own.write_text(f"open({str(mark)!r}, 'w').close()\n" + (FOLDER / "experts.py").read_text())
    content = loaded(finished("experts") / "shades.pth")
    content["scorer"]["method"] = content["config"]["method"] = f"{own}:Experts"
    path = tmp_path / "shades.pth"
    torch.save(content, path)
    evaluated = "--eval-only", "--eval-datasets", world.colours, *ALONE
    modes = {"evaluation": (2, "--load", path, *evaluated),
             "another method": (0, "--load", path, *evaluated, "--method", "finetune"),
             "chain": (2, "--load", f"{finished('experts') / 'colours.pth'},{finished('experts') / 'tones.pth'},{path}",
                       "--eval-only", *ALONE),
             "mixed": (2, "--load", path, *evaluated, "--wise-ft"),
             "images": (2, "--load", path, "--eval-single", world.image),
             "layer": (0, "--load", path, "--eval-only", "--linear-eval", world.colours, "--linear-epochs", 1,
                       "--workers", 0),
             "export": (0, "--load", path, "--export", tmp_path / "exported"),
             "training": (0, "--load", path, "--train-dataset", world.colours, *COMMON, *STEPS),
             "plan": (0, "--load", path, "--train-dataset", world.colours, *COMMON, *STEPS, "--dry-run"),
             "teacher": (0, "--load", world.model, "--method", "ZSCL", "--ref-dataset", world.colours, "--ref-model",
                         path, *COMMON, *STEPS, "--train-dataset", world.tones)}
    for mode, (status, *words) in modes.items():
        assert cli(*words).status == status and not mark.exists(), mode
    assert cli("--load", path, *evaluated, "--method", f"{own}:Experts").status == 0 and mark.exists()


# -- right values ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def features_of(model, task):
    """(N, D) unit features of a Task's test images."""
    split, transform = task.split("test"), EvalTransform(model.image_resolution)
    pixels = torch.stack([transform(split.image(index)) for index in range(len(split))]).double() / 255
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (model.mean, model.std))
    features = model.encode_image((pixels - mean) / std)
    return features / features.norm(dim=1, keepdim=True)


def probabilities(folder, task):
    """The probability of the best class of each test image, as a run has written it."""
    with (folder / f"predictions_{task}.csv").open() as file:
        return [float(row["probability"]) for row in csv.DictReader(file)]


@those(["experts"])
def test_predictions_are_those_of_towers_with_modules(finished, cli, trio, name, example, tmp_path):
    """In training and in evaluation alone, every probability as a loop over the images gives it."""
    folder, task = finished(name), open_task(trio["tones"], "")
    model = clip.load(str(folder / "shades.pth"))[0].double()
    own = load_file(FOLDER / "experts.py").Mixtures(model, 3, 4, 2).double()
    own.load_state_dict(loaded(folder / "shades.pth")["own"]["Experts"])
    with torch.no_grad(), attached(model, [own]):
        expected = highest(model, task, zeroshot_weights(model, task.classnames, task.templates))
    done = cli("--load", folder / "shades.pth", *example.method, "--eval-only", "--eval-datasets", trio["tones"],
               *ALONE, "--save", tmp_path)
    assert done.status == 0, done.err
    for place in (folder, tmp_path):
        assert probabilities(place, "tones") == pytest.approx(expected.tolist(), abs=1e-6)
    without = highest(model, task, zeroshot_weights(model, task.classnames, task.templates))
    assert (without - expected).abs().max() > 1e-4, "the modules act"


@torch.no_grad()
def highest(model, task, texts):
    """(N,) the probability of the best class of each test image; ``texts`` (D, C)."""
    return (model.logit_scale.exp() * features_of(model, task) @ texts).softmax(dim=1).max(dim=1).values


@those(["prompts"])
def test_context_stands_before_the_names_of_untrained_classes(finished, cli, trio, name, example, tmp_path):
    """As a plain CLIP encodes it whose places 1 to M are moved by what the context differs from the placeholder's
    embedding, after a single task."""
    folder, task = finished(name), open_task(trio["tones"], "")
    context = loaded(folder / "colours.pth")["own"]["Prompts"]["vectors"]
    moved = clip.load(str(folder / "colours.pth"))[0].double().requires_grad_(False)
    texts = clip.tokenize([f"a a a {classname}." for classname in task.classnames])
    placeholder = moved.token_embedding.weight[moved.token_rows[texts[0, 1]]]
    moved.positional_embedding[1:4] += context - placeholder
    features = moved.encode_text(texts)
    expected = highest(moved, task, (features / features.norm(dim=1, keepdim=True)).T)
    done = cli("--load", folder / "colours.pth", *example.method, "--eval-only", "--eval-datasets", trio["tones"],
               *ALONE, "--save", tmp_path)
    assert done.status == 0, done.err
    assert probabilities(tmp_path, "tones") == pytest.approx(expected.tolist(), abs=1e-6)


@those(["prompts"])
def test_prompts_of_the_user_do_not_take_the_place_of_those_trained_with(finished, cli, world, name, example, tmp_path):
    shared = "--load", finished(name) / "colours.pth", *example.method, "--precision", "fp64"
    single, scored = (*shared, "--eval-single", world.image), (*shared, *ALONE, "--eval-only", "--eval-datasets",
                                                                  f"{world.colours},{world.tones}")
    plain = [cli(*single, "--save", tmp_path / "one"), cli(*scored, "--save", tmp_path / "two")]
    given = [cli(*single, "--prompt", "red {}", "--save", tmp_path / "three"),
             cli(*scored, "--template", "red {c}", "--save", tmp_path / "four")]
    for done, flag in zip(given, ("--prompt", "--template"), strict=True):
        assert done.status == 0 and done.out.count(f"note: {flag} has no effect: ") == 1, done.err
    assert [done.status for done in plain] == [0, 0]
    assert not any("no effect" in done.out for done in plain)
    assert (tmp_path / "one" / "0.csv").read_bytes() == (tmp_path / "three" / "0.csv").read_bytes()
    assert last_rows(tmp_path / "two", "tones") == last_rows(tmp_path / "four", "tones")


@those(["prompts"])
def test_captions_have_no_context(finished, cli, world, pairs, name, example, tmp_path):
    scored, trained = "captions have no room for; leave image-text pairs out", "Prompts takes class data"
    for words, reason in (
            (("--load", world.model, *example.length, *COMMON, "--train-dataset", world.colours, "--eval-datasets",
              f"{world.colours},{pairs}"), scored),
            (("--load", world.model, *example.length, *COMMON, "--train-dataset", pairs), trained),
            (("--load", finished(name) / "colours.pth", "--eval-only", "--eval-datasets", pairs, *ALONE), scored)):
        done = cli(*words, *example.method, "--save", tmp_path / "out")
        assert done.status == 2 and reason in done.err, done.err
        assert pairs in done.err and not (tmp_path / "out").exists()


@those(["prefixes"])
@pytest.mark.parametrize("causal", [False, True])
def test_a_prefix_is_the_extra_key_and_value_of_torch(example, causal):
    """``nn.MultiheadAttention`` with ``add_bias_kv`` has a single one."""
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(12, 3, add_bias_kv=True, batch_first=True, dtype=torch.float64)
    ours = clip.model.Attention(12, 3).double()
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith("bias_")}
    ours.load_state_dict(state)
    prefix = load_file(FOLDER / "prefixes.py").Prefix(3, 1, 4, causal).double()
    with torch.no_grad():
        prefix.keys.copy_(theirs.bias_k.view(3, 1, 4))
        prefix.values.copy_(theirs.bias_v.view(3, 1, 4))
    vars(ours)["beside"], x = prefix, torch.randn(2, 5, 12, dtype=torch.float64)
    hidden = torch.ones(5, 5, dtype=torch.bool).triu(1) if causal else None
    expected, _ = theirs(x, x, x, attn_mask=hidden)
    attend = clip.model.attend_backwards if causal else nn.functional.scaled_dot_product_attention
    torch.testing.assert_close(ours(x, attend), expected, rtol=0, atol=1e-12)


@those(["prefixes"])
def test_prefixes_stand_in_both_towers(finished, trio, name):
    """Every probability, by attention written out."""
    folder, task = finished(name), open_task(trio["tones"], "")
    model = clip.load(str(folder / "shades.pth"))[0].double()
    own = loaded(folder / "shades.pth")["own"]["Prefixes"]
    blocks = [*model.visual.transformer.resblocks, *model.transformer.resblocks]
    for number, block in enumerate(blocks):
        keys, values = (own[f"prefixes.{number}.{part}"] for part in ("keys", "values"))
        block.attn = WrittenOut(block.attn, keys, values, causal=number >= len(blocks) // 2)
    texts = model.encode_text(clip.tokenize(task.prompts()))
    expected = highest(model, task, (texts / texts.norm(dim=1, keepdim=True)).T.detach())
    assert probabilities(folder, "tones") == pytest.approx(expected.tolist(), abs=1e-6)


class WrittenOut(nn.Module):
    """Attention to P learned keys and values (H, P, d) and to the tokens, by a softmax over all of them."""

    def __init__(self, attention, keys, values, causal):
        super().__init__()
        self.attention, self.keys, self.values, self.causal = attention, keys, values, causal

    def forward(self, x, attend=None):
        heads, first = self.attention.heads, self.keys.shape[1]
        qkv = nn.functional.linear(x, self.attention.in_proj_weight, self.attention.in_proj_bias)
        query, key, value = (part.unflatten(-1, (heads, -1)) for part in qkv.chunk(3, dim=-1))      # (B, L, H, d)
        scores = torch.cat([torch.einsum("blhd,hpd->bhlp", query, self.keys),
                            torch.einsum("blhd,bmhd->bhlm", query, key)], dim=-1) / query.shape[-1] ** 0.5
        if self.causal:
            later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
            scores[..., first:] = scores[..., first:].masked_fill(later, -torch.inf)
        shares = scores.softmax(dim=-1)
        mixed = torch.einsum("bhlp,hpd->blhd", shares[..., :first], self.values) + torch.einsum(
            "bhlm,bmhd->blhd", shares[..., first:], value)
        return self.attention.out_proj(mixed.flatten(2))

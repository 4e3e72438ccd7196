"""A model in the layout of open_clip, whose functions read it and compute the same; what lies there is not lost."""

import json
import os

import open_clip
import pytest
import torch
from cli_files import listing, read_json, same_weights, weights
from conftest import CLASSNAMES, TEMPLATES, VOCABULARY, random_images, tiny_clip
from safetensors.torch import load_file, save_file

import clip
from clip import catalog, loader
from clip.model import CLIP
from clip.tokenizer import VOCABULARY_SIZE
from src.datasets.common import fill
from src.errors import UserError
from src.run import export as module
from src.run.export import CLASSES, CONFIG, HEADS, WEIGHTS, Export, open_clip_config

pytest_plugins = ["cli_fixtures"]

KNOWN = [fill(template, name) for name in CLASSNAMES for template in TEMPLATES]
CONFIGURATION = {"lr": {"": 1e-5}, "seed": 42}


@pytest.fixture(scope="module", params=["vit", "four stages"])
def exported(request, tmp_path_factory):
    """(model, the folder that it was exported to)"""
    model, path = tiny_clip(request.param, dtype=torch.float32), tmp_path_factory.mktemp("exported") / "model"
    Export(path).write(checkpoint_of(model))
    return model, path


def checkpoint_of(model, **more):
    return {"format": 1, "architecture": model.architecture, "state_dict": model.state_dict(), "config": CONFIGURATION,
            **more}


@torch.no_grad()
def assert_same_features(ours, theirs, images, tokens):
    """To 1e-5, of features of which every image and every text has its own."""
    for name, batch in (("encode_image", images), ("encode_text", tokens)):
        expected = getattr(ours, name)(batch)
        assert expected.std(dim=0).mean() > 0.1
        torch.testing.assert_close(getattr(theirs, name)(batch), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(theirs.logit_scale, ours.logit_scale)


# -- read by open_clip -------------------------------------------------------------------------------------------------


def test_open_clip_s_functions_give_the_same(exported):
    ours, path = exported
    theirs, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{path}")
    tokens = open_clip.get_tokenizer(f"local-dir:{path}")(KNOWN)
    pictures, own_preprocess = random_images(5, 0), loader.preprocess(ours.image_resolution)
    images = torch.stack([preprocess(picture) for picture in pictures])
    torch.testing.assert_close(images, torch.stack([own_preprocess(picture) for picture in pictures]))
    assert torch.equal(tokens, clip.tokenize(KNOWN, ours.context_length)) and tokens.shape[1] == 14
    assert_same_features(ours, theirs.eval(), images, tokens)


def test_a_text_of_unknown_words_is_as_far_from_them(exported):
    """Words without a row of their own share one, there as here."""
    torch.manual_seed(0)
    ours, path = exported
    theirs = open_clip.create_model_from_pretrained(f"local-dir:{path}", return_transform=False).eval()
    tokens = clip.tokenize(["a zebra in a green tree", "seventy purple dogs", "cat"], ours.context_length)
    assert not set(tokens.flatten().tolist()) - {0} <= set(VOCABULARY)
    assert_same_features(ours, theirs, torch.randn(2, 3, ours.image_resolution, ours.image_resolution), tokens)


def test_the_parts_serve_without_the_folder_s_scheme(exported):
    ours, path = exported
    theirs = open_clip.model.CLIP(**read_json(path / CONFIG)["model_cfg"]).eval()
    open_clip.load_checkpoint(theirs, str(path / WEIGHTS))
    images = torch.randn(3, 3, ours.image_resolution, ours.image_resolution)
    assert_same_features(ours, theirs, images, clip.tokenize(KNOWN, ours.context_length))


def test_the_published_architectures_are_open_clip_s():
    """Key by key what open_clip itself calls them, but for what it leaves to its defaults."""
    for name in catalog.available_models():
        ours = open_clip_config(catalog.read_architecture(name))["model_cfg"]
        theirs = open_clip.get_model_config(name.replace("/", "-").replace("@", "-").replace("336px", "336"))
        for part in ("vision_cfg", "text_cfg"):
            named = {key: value for key, value in theirs[part].items() if value is not None}
            assert named == {key: ours[part][key] for key in named}, (name, part)
        assert ours["embed_dim"] == theirs["embed_dim"] and ours["quick_gelu"]


@pytest.fixture(scope="module", params=["quick_gelu", "gelu"])
def of_all_kinds(request):
    """A ViT with 80 values per head, blocks of another width and statistics that are not OpenAI's."""
    torch.manual_seed(3)
    model = CLIP(**tiny_clip("vit").architecture | {
        "activation": request.param, "vision_width": 160, "vision_heads": 2, "vision_mlp_width": 401,
        "mean": [0.5, 0.4, 0.3], "std": [0.5, 0.25, 0.2]}).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn_like(value), alpha=0.1)
    return model


def assert_same_pictures(ours, preprocess, atol=1e-5):
    """-> (N, 3, R, R) of pictures that are wider or higher than the model's, as both libraries prepare them"""
    own, pictures = loader.preprocess(ours.image_resolution, ours.mean, ours.std), random_images(5, 0)
    expected = torch.stack([own(picture) for picture in pictures])
    torch.testing.assert_close(torch.stack([preprocess(picture) for picture in pictures]), expected, atol=atol, rtol=0)
    return expected


def test_open_clip_reads_what_no_shape_determines(of_all_kinds, tmp_path):
    Export(tmp_path).write(checkpoint_of(of_all_kinds))
    theirs, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path}")
    images = assert_same_pictures(of_all_kinds, preprocess)
    assert_same_features(of_all_kinds, theirs.eval(), images, clip.tokenize(KNOWN, of_all_kinds.context_length))


def test_transformers_functions_give_the_same(of_all_kinds, tmp_path):
    from transformers import CLIPImageProcessor, CLIPModel
    Export(tmp_path, layout="transformers").write(checkpoint_of(of_all_kinds))
    assert listing(tmp_path) == {"config.json", "model.safetensors", "preprocessor_config.json"}
    theirs, processor = CLIPModel.from_pretrained(tmp_path).eval(), CLIPImageProcessor.from_pretrained(tmp_path)
    images = assert_same_pictures(
        of_all_kinds, lambda picture: torch.as_tensor(processor(picture, return_tensors="np")["pixel_values"][0]),
        atol=1.01 / 255 / 0.2)  # it resizes tensors, which rounds a pixel in 200 to its neighbour
    tokens = clip.tokenize(KNOWN, of_all_kinds.context_length)
    with torch.no_grad():
        for found, expected in ((theirs.get_image_features(images), of_all_kinds.encode_image(images)),
                                (theirs.get_text_features(tokens), of_all_kinds.encode_text(tokens))):
            assert expected.std(dim=0).mean() > 0.1
            torch.testing.assert_close(getattr(found, "pooler_output", found), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layout", ["open_clip", "transformers"])
def test_it_comes_back_with_nothing_assumed(of_all_kinds, tmp_path, layout):
    Export(tmp_path, layout=layout).write(checkpoint_of(of_all_kinds))
    back = loader.read_checkpoint(tmp_path)
    assert back["assumed"] == {} and back["notes"] == []
    stored = {key: value for key, value in of_all_kinds.architecture.items() if key not in ("vocabulary", "vocab_size")}
    assert {key: back["architecture"][key] for key in stored} == stored
    built, images = loader.build(back).eval(), torch.randn(2, 3, *[of_all_kinds.image_resolution] * 2)
    torch.testing.assert_close(built.encode_image(images), of_all_kinds.encode_image(images))


def test_one_layout_takes_the_place_of_the_other(tmp_path):
    model = tiny_clip("vit", dtype=torch.float32)
    Export(tmp_path).write(checkpoint_of(model))
    with pytest.raises(UserError, match="open_clip_config.json.*--overwrite"):
        Export(tmp_path, layout="transformers").claim(model.architecture, False)
    Export(tmp_path, layout="transformers").claim(model.architecture, True)
    Export(tmp_path, layout="transformers").write(checkpoint_of(model))
    assert listing(tmp_path) == {"config.json", "model.safetensors", "preprocessor_config.json"}
    Export(tmp_path, layout="transformers").claim(model.architecture, False, CONFIGURATION)  # the same run once more


@pytest.mark.parametrize(("changes", "fragment"), [
    ({"vision_layers": [1] * 4, "vision_patch_size": None}, "is a ResNet; give --export-format open_clip"),
    ({"vocabulary": None, "vocab_size": 49407}, "49408 tokens")])
def test_what_transformers_has_no_words_for(tmp_path, changes, fragment):
    with pytest.raises(UserError, match=fragment):
        Export(tmp_path / "out", layout="transformers").claim(tiny_clip("vit").architecture | changes, True)
    assert not listing(tmp_path)


# -- read by ourselves -------------------------------------------------------------------------------------------------


def test_it_comes_back_bit_for_bit(exported):
    ours, path = exported
    checkpoint = loader.read_checkpoint(path / WEIGHTS)
    back, before = dict(checkpoint["state_dict"]), dict(ours.state_dict())
    rows, known = (state.pop("token_embedding.weight") for state in (back, before))
    assert same_weights(back, before)
    assert torch.equal(rows[VOCABULARY], known[1:]) and rows.shape == (VOCABULARY_SIZE, 16)
    others = torch.ones(VOCABULARY_SIZE, dtype=torch.bool).index_fill(0, torch.tensor(VOCABULARY), False)
    assert torch.equal(rows[others], known[:1].expand(int(others.sum()), -1))
    del (architecture := dict(ours.architecture))["vocabulary"]
    assert checkpoint["architecture"] == architecture | {"vocab_size": VOCABULARY_SIZE}
    built, images = loader.build(checkpoint).eval(), torch.randn(2, 3, ours.image_resolution, ours.image_resolution)
    tokens = clip.tokenize(KNOWN, ours.context_length)
    assert torch.equal(built.encode_image(images), ours.encode_image(images))
    assert torch.equal(built.encode_text(tokens), ours.encode_text(tokens))


def test_all_tokens_known_all_weights_are_the_same(tmp_path):
    architecture = tiny_clip("vit").architecture | {"vocab_size": VOCABULARY_SIZE, "vocabulary": None}
    model = CLIP(**architecture).double()
    Export(tmp_path).write(checkpoint_of(model))
    assert same_weights(loader.read_checkpoint(tmp_path / WEIGHTS)["state_dict"], dict(model.state_dict()))


# -- what stands in the way --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("changes", "fragments"), [
    ({"vision_layers": [1, 1, 1]}, ["4 stages", "has 3"]), ({"vision_layers": [1] * 5}, ["has 5"]),
    ({"vocabulary": None, "vocab_size": 49407}, ["49408", "49407"])])
def test_what_open_clip_has_no_words_for(tmp_path, changes, fragments):
    with pytest.raises(UserError) as caught:
        Export(tmp_path / "out").claim(tiny_clip("four stages").architecture | changes, overwrite=True)
    assert all(fragment in str(caught.value) for fragment in ("--export", *fragments)) and not listing(tmp_path)


def test_another_model_is_replaced_only_when_asked(tmp_path):
    model = tiny_clip("vit", dtype=torch.float32)
    Export(tmp_path).write(checkpoint_of(model, heads={"tiny": torch.ones(2, 9)}))
    (tmp_path / "README.md").write_text("mine", encoding="utf-8")
    for configuration in (None, CONFIGURATION | {"seed": 43}):
        found = f"--export {tmp_path}: {CONFIG}, {WEIGHTS}, {HEADS}, {CLASSES} .*--overwrite"
        with pytest.raises(UserError, match=found):
            Export(tmp_path).claim(model.architecture, False, configuration)
    Export(tmp_path).claim(model.architecture, False, CONFIGURATION)  # the same run once more
    Export(tmp_path).claim(model.architecture, True)
    Export(tmp_path).write(checkpoint_of(model))
    assert listing(tmp_path) == {CONFIG, WEIGHTS, "README.md"}


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_weights_of_others_are_not_taken_for_ours(tmp_path, content):
    architecture = tiny_clip("vit").architecture
    if content is None:
        save_file({"a": torch.zeros(1)}, tmp_path / WEIGHTS)
    else:
        (tmp_path / WEIGHTS).write_bytes(content)
    with pytest.raises(UserError, match=WEIGHTS):
        Export(tmp_path).claim(architecture, False, CONFIGURATION)


def test_a_folder_that_cannot_be_one(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    for path in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("a" * 300)):
        with pytest.raises(UserError, match="--export .*"):
            Export(path).claim(tiny_clip("vit").architecture, False)
    assert listing(tmp_path) == {"file"}


def test_broken_off_it_is_no_model(tmp_path, monkeypatch):
    """Neither a new one, nor an old one with the weights of the new one."""
    old, new = (tiny_clip("vit", seed, torch.float32) for seed in (0, 1))
    Export(tmp_path).write(checkpoint_of(old))

    def broken(tensors, metadata):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(module, "save", broken)
    with pytest.raises(UserError, match="No space left"):
        Export(tmp_path).write(checkpoint_of(new))
    assert listing(tmp_path) == {WEIGHTS}
    assert torch.equal(load_file(tmp_path / WEIGHTS)["ln_final.weight"], old.ln_final.weight)


def test_who_does_not_write_and_who_has_no_folder(tmp_path):
    model = tiny_clip("vit")
    for export in (Export(tmp_path / "out", writes=False), Export(None)):
        export.claim(model.architecture, False)
        export.write(checkpoint_of(model))
    Export(None).claim(tiny_clip("resnet").architecture, False)
    assert not listing(tmp_path)


def test_heads_lie_beside_it(tmp_path, capsys):
    packed = torch.randn(9, 3).T  # not contiguous
    Export(tmp_path).write(checkpoint_of(
        tiny_clip("vit"), heads={"tiny": packed, "old": torch.zeros(1, 9)},
        history=[{"dataset": "tiny", "classnames": ["cat", "dog", "car"]}, {"dataset": "other", "classnames": ["a"]}]))
    assert same_weights(load_file(tmp_path / HEADS), {"tiny": packed, "old": torch.zeros(1, 9)})
    assert read_json(tmp_path / CLASSES) == {"tiny": ["cat", "dog", "car"]}
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert len(told) == 1 and "tiny, old" in told[0] and HEADS in told[0] and CLASSES in told[0]
    open_clip.create_model_from_pretrained(f"local-dir:{tmp_path}")  # which does not take the heads for the model


def test_no_path_of_the_user_s_is_published(tmp_path):
    Export(tmp_path).write(checkpoint_of(tiny_clip("vit"), config={"load": "a/secret/a.pth"}))
    assert b"secret" not in (tmp_path / WEIGHTS).read_bytes()


# -- the command line --------------------------------------------------------------------------------------------------


def embedded(state):
    """Without the rows of tokens, which an export has for all."""
    return {name: value for name, value in state.items() if name != "token_embedding.weight"}


def test_a_trained_task(train, world, tmp_path):
    words = ["--we", "--avg-freq", 1, "--export", tmp_path / "open"]
    done = train(tmp_path / "run", *words)
    assert done.status == 0 and done.warnings == [] and f"exported to {tmp_path / 'open'}" in done.out
    expected = weights(tmp_path / "run/colours.pth")  # the average, not the last step's
    assert same_weights(embedded(load_file(tmp_path / "open" / WEIGHTS)), embedded(expected))
    assert train(tmp_path / "run", *words).status == 0  # the same run once more
    done = train(tmp_path / "other", *words, "--seed", 1)
    assert done.status == 2 and "--overwrite" in done.err and not (tmp_path / "other").exists()
    before = (tmp_path / "open" / WEIGHTS).read_bytes()
    assert train(tmp_path / "other", *words, "--seed", 1, "--overwrite").status == 0
    assert (tmp_path / "open" / WEIGHTS).read_bytes() != before


def test_a_resumed_run_exports_what_was_finished(train, tmp_path):
    assert train(tmp_path / "run").status == 0
    done = train(tmp_path / "run", "--resume", "--export", tmp_path / "open")
    assert done.status == 0 and "already finished" in done.out
    assert same_weights(embedded(load_file(tmp_path / "open" / WEIGHTS)),
                        embedded(weights(tmp_path / "run/colours.pth")))


def test_a_sequence_exports_its_last_task(cli, world, tmp_path):
    done = cli("--load", world.model, "--dataset-order", f"{world.colours},{world.tones}", "--iterations", 1,
               "--batch-size", 4, "--lr", 9e-5, "--workers", 0, "--save", tmp_path / "run", "--export",
               tmp_path / "open")
    assert done.status == 0, done.err
    last, first = (embedded(weights(tmp_path / "run" / f"{name}.pth")) for name in ("tones", "colours"))
    found = embedded(load_file(tmp_path / "open" / WEIGHTS))
    assert same_weights(found, last) and not same_weights(found, first)


def test_a_linear_head_of_a_run(train, world, tmp_path):
    done = train(tmp_path / "run", "--train-mode", "fc", "--export", tmp_path / "open")
    assert done.status == 0 and "linear heads of colours" in done.out
    head = torch.load(tmp_path / "run/colours.pth", weights_only=True)["heads"]["colours"]
    assert same_weights(load_file(tmp_path / "open" / HEADS), {"colours": head})
    assert read_json(tmp_path / "open" / CLASSES) == {"colours": world.names}


def test_the_toy_is_refused_before_it_trains(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in (["--train-dataset", "toy-colours", "--iterations", 1, "--save", "run"],
                  ["--dataset-order", "toy-colours,toy-sizes", "--iterations", 1, "--save", "run"],
                  ["--eval-only", "--eval-datasets", "toy-colours"], []):
        done = cli("--model", "toy", "--export", "open", *words)
        assert done.status == 2 and "4 stages" in done.err and len(done.err.splitlines()) == 1
        assert "exported" not in done.out and not os.path.exists("run") and not os.path.exists("open")


def test_the_embedded_vit_is_exported_in_both_layouts(cli, tmp_path):
    from transformers import CLIPModel
    for layout in ("open_clip", "transformers"):
        done = cli("--model", "toy-vit", "--export", tmp_path / layout, "--export-format", layout)
        assert done.status == 0 and done.warnings == [], done.err
    ours = clip.load("toy-vit", device="cpu")[0]
    images, tokens = torch.randn(2, 3, 32, 32), clip.tokenize(["a photo of a red ring", "zebra", "letter a"])
    theirs = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'open_clip'}", return_transform=False)
    assert_same_features(ours, theirs.eval(), images, tokens)
    other = CLIPModel.from_pretrained(tmp_path / "transformers").eval()
    with torch.no_grad():
        found = other(input_ids=tokens.long(), pixel_values=images)
        expected = ours.encode_image(images), ours.encode_text(tokens)
    for one, two in zip((found.image_embeds, found.text_embeds), expected, strict=True):
        torch.testing.assert_close(one, two / two.norm(dim=-1, keepdim=True), atol=1e-5, rtol=0)


def test_a_checkpoint_as_it_is_and_back(cli, world, tmp_path):
    done = cli("--load", world.model, "--export", tmp_path / "open")
    assert done.status == 0 and done.err == "" and done.warnings == []
    assert listing(tmp_path) == {"open", f"open/{CONFIG}", f"open/{WEIGHTS}"}
    words = ["--eval-only", "--eval-datasets", world.loose, "--workers", 0, "--cache-images", "off",
             "--save", tmp_path / "scores"]
    scores = [cli("--load", file, *words).out for file in (world.model, tmp_path / "open" / WEIGHTS)]
    assert scores[0] == scores[1] and "loose" in scores[0]
    done = cli("--load", world.model, "--export", tmp_path / "open")
    assert done.status == 2 and "--overwrite" in done.err
    done = cli("--load", world.model, "--export", tmp_path / "open", "--overwrite")
    assert done.status == 0 and done.warnings == []


def test_the_layout_of_transformers_and_back(cli, world, tmp_path):
    done = cli("--load", world.model, "--export", tmp_path / "hf", "--export-format", "transformers")
    assert done.status == 0 and done.err == "" and "config.json, model.safetensors" in done.out
    words = ["--eval-only", "--eval-datasets", world.loose, "--workers", 0, "--cache-images", "off",
             "--save", tmp_path / "scores"]
    expected, *found = (cli("--load", source, *words) for source in (
        world.model, tmp_path / "hf", tmp_path / "hf" / "model.safetensors", f"local-dir:{tmp_path / 'hf'}"))
    assert "loose" in expected.out and [done.out for done in found] == 3 * [expected.out]
    assert not any(done.err for done in found)
    assert cli(*words, "--load", world.model, "--export-format", "transformers").warnings == [
        "warning: --export-format has no effect without --export"]


def test_what_is_scored_is_exported(cli, world, tmp_path):
    words = ["--load", world.model, "--eval-only", "--eval-datasets", world.tones, "--workers", 0, "--save",
             tmp_path / "run"]
    done = cli(*words, "--export", tmp_path / "open")
    assert done.status == 0 and "tones" in done.out and "exported" in done.out and done.warnings == []
    assert same_weights(embedded(load_file(tmp_path / "open" / WEIGHTS)), embedded(weights(world.model)))
    assert cli(*words, "--overwrite").warnings == [
        "warning: --overwrite has no effect without --export or --linear-eval in an evaluation run"]


def test_weights_that_are_no_clip_s(cli, world, tmp_path):
    content = torch.load(world.model, weights_only=True)
    content["state_dict"]["stranger"] = torch.zeros(1)
    torch.save(content, tmp_path / "odd.pth")
    done = cli("--load", tmp_path / "odd.pth", "--export", tmp_path / "open")
    assert done.status == 2 and "unexpected stranger" in done.err and listing(tmp_path) == {"odd.pth"}
    (tmp_path / "broken.safetensors").write_bytes(json.dumps({}).encode())
    done = cli("--load", tmp_path / "broken.safetensors", "--export", tmp_path / "open")
    assert done.status == 2 and "broken.safetensors" in done.err and "Traceback" not in done.err

"""The weights that a run starts from and is taught by, and the warnings about them."""

import csv
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
import yaml
from cli_files import ARCHITECTURE, same_weights
from conftest import random_images
from foreign_weights import adapted, open_clip_model, write_folder

from clip import loader
from clip.catalog import DEFAULTS
from clip.files import hub
from src.args import parse
from src.errors import UserError
from src.machine.device import Device
from src.run import weights as module
from src.run.build import weights_of

pytest_plugins = ["cli_fixtures"]


def config(words=""):
    return weights_of(parse(words.split()))


def test_random_weights_come_from_the_seed():
    state = torch.random.get_rng_state()
    weights = {words: module.starting_checkpoint(config(f"--model tiny-vit --init scratch {words}"))["state_dict"]
               for words in ("", "--seed 42", "--seed 43")}
    assert same_weights(weights[""], weights["--seed 42"])
    assert not same_weights(weights[""], weights["--seed 43"])
    assert torch.equal(torch.random.get_rng_state(), state), "random numbers of others do not move"


def test_a_custom_architecture(tmp_path):
    keys = {key: value for key, value in ARCHITECTURE.items()} | {"vocab_size": 49408}
    (tmp_path / "one.yaml").write_text("mine:\n" + "".join(f"  {key}: {value}\n" for key, value in keys.items()),
                                       encoding="utf-8")
    checkpoint = module.starting_checkpoint(config(f"--model-config {tmp_path}/one.yaml --model-name mine "
                                                  "--init scratch"))
    assert checkpoint["model"] == "mine" and checkpoint["architecture"]["embed_dim"] == 16
    loader.build(checkpoint)


def test_the_file_decides_unless_a_model_is_given(world):
    assert module.starting_checkpoint(config(f"--load {world.model}"))["architecture"]["embed_dim"] == 16
    with pytest.raises(UserError, match="--load .*tiny.pth holds another architecture, not RN50"):
        module.starting_checkpoint(config(f"--load {world.model} --model RN50"))


@pytest.mark.parametrize("name", ["ViT-B/16", "ViT-B/32", "ViT-L/14@336px", "RN50", "RN50x4", "tiny-vit"])
def test_architectures_are_told_apart(name):
    from clip.catalog import read_architecture
    found = module.model_name({"architecture": read_architecture(name)})
    assert found == (name if name != "tiny-vit" else None)
    assert module.model_name({"model": "mine", "architecture": {}}) == "mine"


def test_teachers(world, tmp_path):
    device = Device("cpu", "fp32")
    start = module.starting_checkpoint(config(f"--load {world.model}"))
    opener = module.ZeroshotOpener(config(), start, device)
    teacher = opener(world.model)
    assert not teacher.training and not any(parameter.requires_grad for parameter in teacher.parameters())
    assert same_weights(teacher.state_dict(), start["state_dict"])
    with pytest.raises(UserError, match="--ref-model FILE"):
        opener()
    with pytest.raises(UserError, match="--ref-model .*wide.pth: its features have 24 values, the model's 16"):
        opener(world.other_model)
    with pytest.raises(UserError, match="--init scratch .*--ref-model"):
        module.ZeroshotOpener(config("--init scratch"), start, device)()


MERGE = "--wise-merge --wise-ft-model zeroshot"


@pytest.mark.parametrize(("words", "precision", "teacher", "kept"), [
    ("", "fp32", torch.float32, 1), ("", "bf16", torch.bfloat16, 2), (MERGE, "bf16", torch.float32, 1),
    ("--eval-only --wise-ft", "bf16", torch.float32, 1), ("--ref-wise", "fp32", torch.float32, 1),
    (f"--ref-wise {MERGE}", "bf16", torch.float32, 1)])
def test_zero_shot_weights_that_a_run_keeps(world, monkeypatch, words, precision, teacher, kept):
    """Those used for features only are kept in the autocast type, unless the run reads the same ones in full."""
    monkeypatch.setattr(loader, "weights_file", lambda name, cache: world.model)
    settings = config(words)
    start = module.starting_checkpoint(config(f"--load {world.model}")) | {"model": "ViT-B/16"}
    opener = module.ZeroshotOpener(settings, start, Device("cpu", precision))
    random = torch.random.get_rng_state()
    taught = opener.teacher()
    assert opener.teacher() is taught and taught.visual.proj.dtype == teacher and not taught.visual.proj.requires_grad
    mixed = opener()
    assert mixed.visual.proj.dtype == torch.float32 and len(opener.kept) == kept
    assert (opener() is mixed) == (words != "--ref-wise"), "--ref-wise is done with it when a task begins"
    assert torch.equal(torch.random.get_rng_state(), random)
    other = opener.teacher(world.model)  # another file's are the teacher's alone
    assert other.visual.proj.dtype == (torch.float32 if precision == "fp32" else torch.bfloat16)


def test_published_weights_teach_a_model_that_has_some(world, monkeypatch):
    wanted = []
    monkeypatch.setattr(loader, "weights_file", lambda name, cache: wanted.append((name, cache)) or world.model)
    start = module.starting_checkpoint(config(f"--load {world.model}")) | {"model": "ViT-B/16"}
    module.ZeroshotOpener(config("--clip-cache here"), start, Device("cpu", "fp32"))()
    assert wanted == [("ViT-B/16", "here")]


@pytest.fixture
def silent(tmp_path):
    """A state dict of open_clip, without a configuration: its activation and four other keys are assumed."""
    torch.save(open_clip_model(vocab_size=49408).state_dict(), tmp_path / "a.pt")
    return tmp_path / "a.pt"


STEP = "--train-dataset {colours} --iterations 1 --batch-size 4 --lr 9e-5 --warmup-length 0 --workers 0 --save {out}"
SEQUENCE = STEP.replace("--train-dataset {colours}", "--dataset-order {colours},{tones}")
TAUGHT = ("--load {silent} --model-config {keys} --model-name mine --ref-model {silent} --method ZSCL "
          f"--ref-dataset {{loose}} --text-datasets {{loose}} {STEP}")


@pytest.mark.parametrize(("flag", "words"), [
    ("--load", f"--load {{silent}} {STEP}"),
    *(pytest.param("--load", words, marks=pytest.mark.slow) for words in (
        f"--load {{silent}} {STEP} --dry-run", f"--load {{silent}} {SEQUENCE}",
        f"--load {{silent}} {STEP} --wise-merge --wise-ft-model n")),
    ("--load", "--load {silent} --eval-only --eval-datasets {loose} --workers 0 --save {out}"),
    ("--load", "--load {silent} --eval-only --eval-single {image} --class-names {class_names} --save {out}"),
    ("--load", "--load {silent} --export {out}"),
    ("--ref-model", TAUGHT), ("--ref-model", f"{TAUGHT} --dry-run")])
def test_every_way_to_read_a_file_warns_of_the_assumed_keys(cli, silent, world, tmp_path, flag, words):
    """Once, with advice that acts on this file. --model-config states the keys for --load alone."""
    write_yaml(tmp_path / "keys.yaml", {"mine": {**DEFAULTS, "vision_heads": 2, "transformer_heads": 2,
                                                 "image_resolution": 32}})
    (tmp_path / "names.txt").write_text("red disc\nblue")
    done = cli(*words.format(**vars(world), silent=silent, out=tmp_path / "out", keys=tmp_path / "keys.yaml",
                             class_names=tmp_path / "names.txt").split())
    assert done.status == 0, done.err
    printed = [*done.warnings, *done.out.splitlines()]  # a dry run shows in its plan what building the run printed
    warning, = [line for line in printed if f"{flag} {silent} does not state its activation" in line]
    assert ("--model-config" in warning) == (flag == "--load")
    assert ("open_clip_config.json" in warning) == (flag == "--ref-model")


def test_a_folder_of_model_without_statistics(tmp_path, capsys):
    """--model-config acts on --load alone: the way out names both."""
    write_folder(tmp_path, "transformers", False, 64, {}, vocab_size=49408)
    (tmp_path / "preprocessor_config.json").unlink()
    capsys.readouterr()  # what transformers printed
    module.starting_checkpoint(config(f"--model local-dir:{tmp_path}"))
    warning, = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: --model ") and "does not state mean and standard deviation" in warning
    assert "give it by --load instead, and --model-config with the keys mean, std" in warning


def test_a_chain_warns_of_the_assumed_keys_of_each_file_once(cli, silent, world, tmp_path):
    history = [{"dataset": name, "source": source} for name, source in (("colours", world.colours),
                                                                        ("tones", world.tones))]
    weights = torch.load(silent, weights_only=True)
    files = tmp_path / "1.pth", tmp_path / "2.pth"
    for count, file in enumerate(files, 1):
        torch.save({"format": 1, "state_dict": weights, "history": history[:count], "heads": {}}, file)
    done = cli("--load", ",".join(map(str, files)), "--eval-only", "--workers", 0, "--save", tmp_path / "out")
    assert done.status == 0, done.err
    for file in files:
        warning, = [line for line in done.warnings if str(file) in line]
        assert warning.startswith(f"warning: --load {file} does not state its activation")


def test_what_no_file_tells_is_a_warning_that_names_the_flags(tmp_path, capsys):
    torch.save(open_clip_model(vocab_size=49408).state_dict(), tmp_path / "a.pt")
    found = module.starting_checkpoint(config(f"--load {tmp_path}/a.pt"))
    warning, = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"warning: --load {tmp_path}/a.pt does not state its activation")
    assert all(word in warning for word in ("--model NAME", "--model-config", "vision_heads", "GELU"))
    assert found["architecture"]["activation"] == "quick_gelu"


@pytest.mark.parametrize("block", [{"activation": "gelu", "vision_heads": 4, "transformer_heads": 1,
                                    "image_resolution": 32, "mean": [0.5, 0.5, 0.25], "std": [0.5, 1, 0.5]}])
def test_a_block_with_what_the_file_does_not_tell(tmp_path, capsys, block):
    torch.save(open_clip_model(vocab_size=49408).state_dict(), tmp_path / "a.pt")
    write_yaml(tmp_path / "mine.yaml", {"mine": block})
    words = f"--load {tmp_path}/a.pt --model-config {tmp_path}/mine.yaml --model-name mine"
    found = module.starting_checkpoint(config(words))["architecture"]
    assert {key: found[key] for key in block} == block and capsys.readouterr().err == ""
    write_yaml(tmp_path / "mine.yaml", {"mine": {"activation": "gelu"}})
    module.starting_checkpoint(config(words))
    warning = capsys.readouterr().err
    assert "keys mean, std, vision_heads, transformer_heads, image_resolution" in warning
    assert "its activation" not in warning


def test_a_block_that_differs_from_what_is_stored(world, tmp_path):
    write_yaml(tmp_path / "mine.yaml", {"mine": ARCHITECTURE | {"vision_heads": 1}})
    with pytest.raises(UserError, match="--load .*tiny.pth has vision_heads 2, not 1 as mine has; leave"):
        module.starting_checkpoint(config(f"--load {world.model} --model-config {tmp_path}/mine.yaml "
                                          "--model-name mine"))


def test_weights_before_a_run_that_was_given_more(tmp_path, capsys):
    """The trained checkpoint has the keys that the file it started from does not state."""
    torch.save(open_clip_model(vocab_size=49408).state_dict(), tmp_path / "a.pt")
    trained = loader.read_checkpoint(tmp_path / "a.pt", {"activation": "gelu", "vision_heads": 4})
    before = module.weights_before(config(), trained | {"config": {"load": str(tmp_path / "a.pt")}})
    assert before["architecture"] == trained["architecture"] and capsys.readouterr().err == ""


def write_yaml(path, content):
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


# -- names of other libraries ------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A folder of open_clip with GELU, heads of 80 values and statistics that are not OpenAI's."""
    (tmp_path / "made").mkdir()
    write_folder(tmp_path / "made", "open_clip", False, 80, {"mean": [0.5, 0.4, 0.3]}, vocab_size=49408)
    return tmp_path / "made"


@pytest.mark.parametrize("words", ["--load {}", "--model local-dir:{}", "--load local-dir:{}",
                                   "--load {}/open_clip_model.safetensors"])
def test_folders_are_taken_by_load_and_model(folder, capsys, words):
    found = module.starting_checkpoint(config(words.format(folder)))
    assert capsys.readouterr().err == "" and found["architecture"]["activation"] == "gelu"
    assert found["architecture"]["vision_heads"] == 4 and found["architecture"]["mean"] == [0.5, 0.4, 0.3]


@pytest.mark.parametrize("words", ["--model hf-hub:org/laion", "--model org/laion", "--load hf-hub:org/laion"])
def test_names_of_the_hub(folder, monkeypatch, words):
    """HF_HOME's cache is read; what a dry run would have to fetch is a message."""
    wanted = []
    monkeypatch.setattr(hub, "_repository", lambda name, fetch: wanted.append((name, fetch)) or folder)
    found = module.starting_checkpoint(config(words), fetch=False)
    assert wanted == [("org/laion", False)] and found["architecture"]["activation"] == "gelu"
    assert found.get("model") == (words.split()[1] if "--model" in words else None)


def test_what_open_clip_s_table_tells(tmp_path, monkeypatch, capsys):
    """Weights without a configuration: the table states the activation and statistics, the name the heads."""
    torch.save(open_clip_model(vocab_size=49408, quick_gelu=False).state_dict(), tmp_path / "a.bin")
    stated = {"activation": "gelu", "vision_heads": 4, "transformer_heads": 1, "image_resolution": 32,
              "mean": [0.5] * 3, "std": [0.5] * 3}
    place = hub.Place(tmp_path / "a.bin", stated, ["squashed"])
    monkeypatch.setattr(hub, "_pretrained", lambda name, tag, fetch: place)
    found = module.starting_checkpoint(config("--model ViT-B-32:laion2b_e16"))
    assert {key: found["architecture"][key] for key in stated} == stated and found["assumed"] == {}
    assert capsys.readouterr().err == "warning: squashed\n" and found["notes"] == ["squashed"]


def test_open_clip_s_name_tells_the_activation_of_a_file(tmp_path, monkeypatch, capsys):
    torch.save(open_clip_model(vocab_size=49408).state_dict(), tmp_path / "a.pt")
    block = hub.open_clip_block("ViT-B-32") | loader.architecture_of(open_clip_model(vocab_size=49408).state_dict())
    monkeypatch.setattr(hub, "open_clip_block", lambda name: block | {
        "activation": "quick_gelu" if name.endswith("quickgelu") else "gelu"})
    for name, activation in (("ViT-B-32", "gelu"), ("ViT-B-32-quickgelu", "quick_gelu")):
        found = module.starting_checkpoint(config(f"--load {tmp_path}/a.pt --model {name}"))
        assert found["architecture"]["activation"] == activation and list(found["assumed"]) == ["mean", "std"]
    assert "ViT-B-32 has GELU" in capsys.readouterr().err


def test_random_weights_of_an_architecture_of_open_clip():
    found = module.starting_checkpoint(config("--model ViT-S-32 --init scratch"))["architecture"]
    assert found["activation"] == "gelu" and found["vision_width"] == 384


def test_images_are_normalised_as_the_loaded_model_asks(cli, folder, tmp_path):
    """--eval-single against open_clip's own probabilities of the same picture."""
    import open_clip
    picture, names = random_images(1, 0)[0].resize((50, 40)), ["cat", "a red dog", "tree"]
    picture.save(tmp_path / "a.png")
    (tmp_path / "names.txt").write_text("\n".join(names), encoding="utf-8")
    done = cli("--load", folder, "--eval-only", "--eval-single", tmp_path / "a.png", "--class-names",
               tmp_path / "names.txt", "--save", tmp_path / "out", "--device", "cpu")
    assert done.status == 0 and done.err == ""
    theirs, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer("ViT-B-32", context_length=8)([f"a photo of a {name}." for name in names])
    with torch.no_grad():
        images, texts = (theirs.eval().encode_image(preprocess(picture)[None], normalize=True),
                         theirs.encode_text(tokens, normalize=True))
        expected = (theirs.logit_scale.exp() * images @ texts.T).softmax(-1)[0].tolist()
    rows = (tmp_path / "out" / "a.csv").read_text().splitlines()[1:]
    found = {row.rsplit(",", 1)[0]: float(row.rsplit(",", 1)[1]) for row in rows}
    assert found == pytest.approx(dict(zip(names, expected, strict=True)), abs=1e-4)


# -- adapters ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def peft_files(tmp_path_factory):
    """A folder of transformers' CLIPModel, an adapter of it in the form of peft, and the features of the two."""
    from peft import LoraConfig
    root = tmp_path_factory.mktemp("peft")
    (root / "base").mkdir()
    model = write_folder(root / "base", "transformers", False, 80, {"mean": [0.5, 0.4, 0.3]}, vocab_size=49408)
    settings = LoraConfig(target_modules=["q_proj", "out_proj", "fc2"], lora_alpha=20)
    stored = adapted(model, settings, root / "adapter")
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = stored.get_image_features(images)
    known = {"base": root / "base", "images": images, "features": getattr(found, "pooler_output", found)}
    return known, root / "adapter"


@pytest.fixture
def peft_s(peft_files, tmp_path):
    """The same, with an adapter that a test may change."""
    shutil.copytree(peft_files[1], tmp_path / "adapter")
    return SimpleNamespace(adapter=tmp_path / "adapter", **peft_files[0])


def name_base(folder, base, **more):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": base} | more))


def agrees(checkpoint, adapter):
    with torch.no_grad():
        found = loader.build(checkpoint).eval().encode_image(adapter.images)
    torch.testing.assert_close(found, adapter.features, atol=1e-5, rtol=1e-5)
    assert checkpoint["architecture"]["mean"] == [0.5, 0.4, 0.3] and checkpoint["architecture"]["activation"] == "gelu"


@pytest.mark.parametrize("words", ["--load {adapter} --model {base}", "--load {adapter} --model local-dir:{base}",
                                   "--load {adapter}/adapter_model.safetensors --model {base}/model.safetensors"])
def test_an_adapter_is_merged_into_the_model_that_is_given(peft_s, capsys, words):
    words = words.format(**vars(peft_s))
    found = module.starting_checkpoint(config(words))
    agrees(found, peft_s)
    base = words.split()[-1]
    assert found["model"] == base
    printed = capsys.readouterr()
    assert f"the adapter is merged into {base}\n" in printed.out and printed.err == ""


@pytest.mark.parametrize("words", ["--load {adapter}", "--model {adapter}", "--model local-dir:{adapter}"])
def test_the_model_that_an_adapter_names(peft_s, capsys, words):
    name_base(peft_s.adapter, str(peft_s.base))
    found = module.starting_checkpoint(config(words.format(**vars(peft_s))))
    agrees(found, peft_s)
    assert f"is merged into {peft_s.base}, as its configuration says" in capsys.readouterr().out
    assert found["model"] == (str(peft_s.base) if "--load" in words else words.format(**vars(peft_s)).split()[1])


def test_the_hub_s_names_of_both(peft_s, monkeypatch):
    """A repository with an adapter, whose base is one of another repository in a revision."""
    name_base(peft_s.adapter, "org/clip", revision="v2")
    wanted = {"org/adapter": peft_s.adapter, "org/clip@v2": peft_s.base}
    monkeypatch.setattr(hub, "_repository", lambda name, fetch: wanted[name])
    agrees(module.starting_checkpoint(config("--load hf-hub:org/adapter")), peft_s)


def test_a_model_that_is_given_wins_over_the_one_that_is_named(peft_s, capsys):
    name_base(peft_s.adapter, "org/elsewhere")
    agrees(module.starting_checkpoint(config(f"--load {peft_s.adapter} --model {peft_s.base}")), peft_s)
    assert f"is merged into {peft_s.base}, not into org/elsewhere, the model that it names" in capsys.readouterr().out


@pytest.mark.parametrize(("base", "words", "fragments"), [
    (None, "", ["is an adapter and does not name its model", "--load ADAPTER --model BASE"]),
    ("", "", ["does not name its model"]),
    ("mine.pth", "", ["is an adapter of mine.pth", "no such file", "--load ADAPTER --model BASE"]),
    ("org/clip", "", ["is an adapter of org/clip", "not in the hub's cache", "HF_HUB_OFFLINE", "--model BASE"]),
    ("{adapter}", "", ["is an adapter of", "holds an adapter", "--model BASE"]),
    ("ViT-B-32", "", ["ViT-B-32 names no weights"]), (None, "--model ViT-B-32", ["ViT-B-32 names no weights"]),
    (None, "--model tiny-vit", ["is an adapter of tiny-vit", "no published weights"]),
    (None, "--model {silent}", ["cannot be merged", "(8, 1280), not (8, 512)"])])
def test_adapters_without_a_model_that_fits(peft_s, silent, monkeypatch, base, words, fragments):
    import huggingface_hub.constants
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    name_base(peft_s.adapter, base and base.format(**vars(peft_s)))
    with pytest.raises(UserError) as caught:
        module.starting_checkpoint(config(f"--load {peft_s.adapter} {words.format(silent=silent)}"))
    message = str(caught.value)
    assert "\n" not in message and all(fragment in message for fragment in [str(peft_s.adapter), *fragments]), message


def test_weights_in_both_flags_are_an_error_without_an_adapter(folder):
    for other in ("hf-hub:org/clip", "ViT-B-32:openai", str(folder)):
        with pytest.raises(UserError, match="and --load both name weights; leave one out"):
            module.starting_checkpoint(config(f"--load {folder} --model {other}"))


def test_keys_that_the_base_does_not_tell(tmp_path, capsys):
    """They come from --model-config where the adapter names its base, and are warned of where nothing states them."""
    from peft import LoraConfig
    torch.save(open_clip_model(vocab_size=49408).state_dict(), tmp_path / "a.pt")
    adapted(open_clip_model(vocab_size=49408), LoraConfig(target_modules=["c_fc"]), tmp_path / "adapter")
    name_base(tmp_path / "adapter", str(tmp_path / "a.pt"))
    module.starting_checkpoint(config(f"--load {tmp_path}/adapter"))
    assert f"--model {tmp_path}/a.pt does not state its activation" in capsys.readouterr().err
    write_yaml(tmp_path / "mine.yaml", {"mine": DEFAULTS | {"activation": "gelu", "vision_heads": 2,
                                                            "transformer_heads": 2, "image_resolution": 32}})
    found = module.starting_checkpoint(config(f"--load {tmp_path}/adapter --model-config {tmp_path}/mine.yaml "
                                              "--model-name mine"))
    assert found["architecture"]["activation"] == "gelu" and capsys.readouterr().err == ""


def test_training_evaluation_and_export_use_the_merged_model(cli, train, world, tmp_path):
    """A file of --lora on the model that its run started from scores, exports and trains as the merged checkpoint."""
    precise = "--precision", "fp64", "--eps", "1e-4"  # which leaves gradients that are only rounding where they are
    assert train(tmp_path / "run", "--lora", "--lr", "1e-2").status == 0
    merged, adapter = tmp_path / "run" / "colours.pth", tmp_path / "run" / "colours.lora.pth"
    both = {"merged": ["--load", merged], "adapter": ["--load", adapter, "--model", world.model]}
    scored, exported, trained = {}, {}, {}
    for name, words in both.items():
        out = tmp_path / name
        done = cli(*words, "--eval-only", "--eval-datasets", world.colours, "--workers", 0, "--save", out)
        assert done.status == 0, done.err
        scored[name] = [row["top1"] for row in csv.DictReader((out / "metrics_colours.csv").open())][-1:]
        assert cli(*words, "--export", out / "export").status == 0
        exported[name] = loader.read_checkpoint(out / "export")["state_dict"]
        assert train(out / "more", *words, *precise, "--train-dataset", world.tones).status == 0
        trained[name] = loader.read_checkpoint(out / "more" / "tones.pth")
    assert scored["merged"] == scored["adapter"]
    for found in (exported, {name: checkpoint["state_dict"] for name, checkpoint in trained.items()}):
        for name, value in found["merged"].items():
            torch.testing.assert_close(found["adapter"][name], value, atol=1e-5, rtol=1e-5)
    assert trained["adapter"]["model"] == str(world.model)
    before = module.weights_before(config(), trained["adapter"])
    torch.testing.assert_close(before["state_dict"], loader.read_checkpoint(merged)["state_dict"])


# -- --model and --ref-model take what --load takes -------------------------------------------------------------------


def test_a_file_is_a_model_and_its_own_teacher(world):
    start = module.starting_checkpoint(config(f"--model {world.model}"))
    assert start["model"] == str(world.model)
    teacher = module.ZeroshotOpener(config(), start, Device("cpu", "fp32"))()
    assert same_weights(teacher.state_dict(), start["state_dict"])


@pytest.mark.parametrize("value", ["{base}", "local-dir:{base}", "hf-hub:org/clip", "org/clip", "{adapter}"])
def test_teachers_by_every_name(peft_s, monkeypatch, value):
    name_base(peft_s.adapter, str(peft_s.base))
    monkeypatch.setattr(hub, "_repository", lambda name, fetch: peft_s.base)
    start = module.starting_checkpoint(config(f"--load {peft_s.base}"))
    value = value.format(**vars(peft_s))
    opener = module.ZeroshotOpener(config(), start, Device("cpu", "fp32"))
    teacher = opener(value)
    assert same_weights(teacher.state_dict(), start["state_dict"]) == (value != str(peft_s.adapter))
    assert opener.digests.keys() == {value}
    with torch.no_grad():
        found = teacher.encode_image(peft_s.images)
    assert torch.allclose(found, peft_s.features, atol=1e-4) == (value == str(peft_s.adapter))


def test_a_published_teacher(world, monkeypatch):
    wanted = []
    monkeypatch.setattr(loader, "weights_file", lambda name, cache: wanted.append(name) or world.model)
    start = module.starting_checkpoint(config(f"--load {world.model}"))
    module.ZeroshotOpener(config(), start, Device("cpu", "fp32")).teacher("RN50")
    assert module.starting_checkpoint(config("--load RN50"))["model"] == "RN50" and wanted == ["RN50", "RN50"]


def test_a_teacher_that_is_read_for_each_task_warns_once(silent, capsys):
    settings = config(f"--load {silent} --ref-model {silent}")
    opener = module.ZeroshotOpener(settings, module.starting_checkpoint(settings), Device("cpu", "fp32"))
    capsys.readouterr()
    opener._read(str(silent))
    opener._read(str(silent))
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_teacher_that_the_architecture_names_is_noted_once(monkeypatch, capsys):
    """A file that names no model is taught by the published weights of its shape, which is a guess."""
    monkeypatch.setattr(module.catalog, "available_models", lambda: ["toy"])
    file = loader.weights_file("toy", None)
    settings = config(f"--load {file}")
    named = module.starting_checkpoint(config("--model toy"))
    device, silent = Device("cpu", "fp32"), {key: value for key, value in named.items() if key != "model"}
    capsys.readouterr()
    opener = module.ZeroshotOpener(settings, silent, device)
    for _ in range(2):
        assert same_weights(opener._read(None).state_dict(), named["state_dict"])
    printed = capsys.readouterr()
    assert printed.out == ("note: the zero-shot weights are those of toy, after the architecture of --load; "
                           "--ref-model sets others\n") and printed.err == ""
    module.ZeroshotOpener(settings, named, device)()
    module.ZeroshotOpener(settings, silent, device)(str(file))
    assert "zero-shot weights" not in capsys.readouterr().out, "a name and --ref-model are no guess"


def test_a_teacher_that_changes_in_its_folder_is_seen_by_resume(train, world, tmp_path):
    """As for a single file, whose bytes are compared."""
    folder = tmp_path / "teacher"
    words = ["--method", "ZSCL", "--ref-dataset", world.loose, "--ref-model", folder]
    from src.main import main
    assert main(["--load", str(world.model), "--export", str(folder)]) == 0
    assert train(tmp_path / "out", *words).status == 0
    done = train(tmp_path / "out", *words)
    assert done.status == 0 and "already finished" in done.out
    changed = loader.read_checkpoint(world.model)
    changed["state_dict"]["logit_scale"] += 1
    torch.save({key: changed[key] for key in ("state_dict", "architecture")} | {"format": 1}, tmp_path / "b.pth")
    assert main(["--load", str(tmp_path / "b.pth"), "--export", str(folder), "--overwrite"]) == 0
    done = train(tmp_path / "out", *words)
    assert done.status == 2 and "began with another content of --ref-model" in done.err

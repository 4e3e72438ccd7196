"""The benchmarks compare like with like, count right, and run."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from clock import Clock
from this_machine import seconds_to_import_torch

from benchmarks import floors, gpu, harness, projection, published_loop, rows, run, sizes, steps, table
from clip.catalog import read_architecture
from clip.model import CLIP
from scripts.marks import between_marks

ROOT = Path(__file__).parents[2]
TINY = {"model": "tiny-vit", "classes": 5, "batch": 3, "precision": "fp64"}


# -- the peer computes what we compute ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sentences", [0, 7])
def test_published_loop_has_our_losses_and_gradients(sentences):
    pair = steps.Pair(**TINY, sentences=sentences)
    ours, peer = pair.ours.losses(), pair.peer.losses(*pair.given, divergences=True)
    assert ours.keys() == peer.keys() and len(ours) == (3 if sentences else 1)
    for name in ours:
        torch.testing.assert_close(ours[name], peer[name], rtol=1e-9, atol=1e-12)  # divergences begin at 0
    sum(ours.values()).backward()
    sum(peer.values()).backward()
    expected = dict(pair.peer.student.named_parameters())
    for name, value in pair.ours.state.model.named_parameters():
        if name == "logit_scale":
            assert value.grad is None and expected[name].grad is not None  # differentiated there, and not updated
        else:
            torch.testing.assert_close(value.grad, expected[name].grad, rtol=1e-6, atol=1e-12, msg=name)


def test_both_sides_walk_the_same_way():
    pair = steps.Pair(**TINY, sentences=7)
    for _ in range(4):
        with torch.no_grad():
            published, divergences = (sum(pair.peer.losses(*pair.given, divergences=either).values())
                                      for either in (False, True))
        torch.testing.assert_close(pair.ours() + published - divergences, pair.step_of_peer(), rtol=1e-6, atol=0)
    expected = pair.peer.student.state_dict()
    start = sizes.random_model("tiny-vit", dtype=torch.float64).state_dict()
    for name, value in pair.ours.state.model.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-9, msg=name)
        assert torch.equal(value, start[name]) == (name == "logit_scale"), name


def test_published_loop_does_the_published_work(monkeypatch):
    """At every step all captions and all prompts, at 77 positions, and never under autocast."""
    seen = []
    encode = published_loop.PlainCLIP.encode_text
    monkeypatch.setattr(published_loop.PlainCLIP, "encode_text",
                        lambda self, tokens: seen.append((tuple(tokens.shape), torch.is_autocast_enabled("cpu")))
                        or encode(self, tokens))
    pair = steps.Pair(**{**TINY, "precision": "bf16"}, sentences=7)
    for number in (1, 2):
        pair.step_of_peer()
        assert seen == [((5, 77), False), ((7, 77), False)] * number
    assert all(value.requires_grad for value in pair.peer.student.parameters())
    assert not any(value.requires_grad for value in pair.peer.teacher.parameters())
    assert not pair.peer.optimizer.defaults["fused"]


def test_autocast_may_be_asked_for_on_both_sides():
    seen = []
    pair = steps.Pair(**{**TINY, "precision": "bf16"}, peer_too=True)
    pair.peer.student.visual.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    pair.step_of_peer()
    assert seen == [True]


def test_architectures_are_the_published_ones():
    for name in ("ViT-B/16", "ViT-B/32", "RN50"):
        assert sizes.ARCHITECTURES[name] == read_architecture(name)


# -- arithmetic --------------------------------------------------------------------------------------------------------


def test_sides_take_turns():
    clock = Clock()
    times = harness.in_turns(clock.work("A", 1, 2), clock.work("B", 4, 6), 2, clock=clock)
    assert clock.calls == ["A", "B", "A", "B"] and times == ([1, 2], [4, 6])


def test_a_budget_ends_the_turns_after_a_whole_pair():
    clock = Clock()
    times = harness.in_turns(clock.work("A", 1, 1, 1), clock.work("B", 4, 4, 4), 3, budget=10, clock=clock)
    assert times == ([1, 1], [4, 4])
    clock = Clock()
    assert harness.in_turns(clock.work("A", 9), clock.work("B", 9), 5, budget=1, clock=clock) == ([9], [9])


def test_the_device_is_waited_for_inside_the_time():
    clock = Clock()

    def wait():
        clock.now += 10
    assert harness.in_turns(clock.work("A", 1), clock.work("B", 2), 1, wait=wait, clock=clock) == ([11], [12])


def test_ratios_are_of_pairs():
    found = harness.summary([1.0, 2.0, 4.0], [10.0, 4.0, 20.0])
    assert (found["ratio"], found["ratio_min"], found["ratio_max"]) == (5.0, 2.0, 10.0)
    assert (found["ours_s"], found["peer_s"], found["pairs"]) == (2.0, 10.0, 3)


def test_what_differs_is_not_timed():
    found = harness.compared("x", [1.0, 4.0], [1.0, 4.004], 1e-2)
    assert found["difference"] == pytest.approx(0.001, rel=1e-2) and found["tolerance"] == 1e-2
    with pytest.raises(harness.Mismatch, match="x: differs by 1.0e-03"):
        harness.compared("x", [1.0, 4.0], [1.0, 4.004], 1e-4)
    with pytest.raises(harness.Mismatch):
        harness.compared("x", [float("nan")], [1.0], 1)
    with pytest.raises(harness.Mismatch, match=r"\(1,\) here, \(2,\) there"):
        harness.compared("x", [1.0], [1.0, 2.0], 1)


def test_operations_equal_hand_arithmetic():
    """ViT-B/16, one image: 12 blocks of 12 W^2 weights and two L x L x W products, the patches and the projection."""
    length, width = 197, 768
    block = 2 * length * 12 * width ** 2 + 2 * 2 * length ** 2 * width
    expected = 12 * block + 2 * 196 * (3 * 16 * 16) * width + 2 * width * 512
    assert floors.image_operations("ViT-B/16", 1, False) == expected
    assert floors.image_operations("ViT-B/16", 3, False) == 3 * expected
    # Backward is twice forward, but for the gradient of the pixels, which is not needed.
    patches = 2 * 196 * (3 * 16 * 16) * width
    assert floors.image_operations("ViT-B/16", 1, True) == 3 * expected - patches


@pytest.mark.slow
def test_operations_of_a_published_step_grow_with_its_sentences():
    counts = [floors.published_step("tiny-vit", 2, 3, count) for count in (10, 20, 30)]
    assert counts[2] - counts[1] == counts[1] - counts[0] > 0
    assert floors.our_step("tiny-vit", 2, 3) < counts[0]


def test_without_sentences_it_is_the_finetune_step():
    images = floors.image_operations("tiny-vit", 2, True)
    texts = floors.text_operations("tiny-vit", 3, 10, True)
    scores = 3 * 2 * (2 * 3 * 16)  # (2, 16) x (16, 3), forward and both gradients
    assert floors.our_step("tiny-vit", 2, 3, distils=False) == images + texts
    padded = floors.published_step("tiny-vit", 2, 3, 0) - images - scores
    assert texts * 77 / 10 < padded < texts * 1.5 * 77 / 10  # attention grows faster than length


def test_operations_of_packed_prompts():
    """47 prompts of DTD: what all begin with, 5 tokens, stands there once; 13, 23 and 11 end 3, 4 and 5 later."""
    tokens, width, layers = 5 + 13 * 3 + 23 * 4 + 11 * 5, 32, 2
    groups = ((1, 5, 5), (13, 3, 8), (23, 4, 9), (11, 5, 10))  # (texts, own tokens, tokens seen)
    attention = sum(2 * 2 * rows * own * seen * width for rows, own, seen in groups)
    forward = layers * (2 * tokens * 12 * width ** 2 + attention) + 2 * 47 * width * 16
    assert floors.prompt_operations("tiny-vit", 47) == 3 * forward


# -- files and table ---------------------------------------------------------------------------------------------------


def a_result(**changes):
    return {"row": "zscl", "size": "full", "date": "2026-11-20T10:00:00+00:00",
            "machine": {"processor": "x86_64", "model": "A CPU", "cores": 2, "threads": 1}, "remark": None,
            "versions": harness.versions(), "options": rows.ROWS["zscl"].options("full"),
            **harness.summary([2.0, 2.0], [25.0, 24.0]), **changes}


def test_results_are_appended_and_known_again(tmp_path):
    path = harness.result_file("zscl", "full", tmp_path)
    assert not harness.is_measured(path, rows.ROWS["zscl"].options("full"))
    harness.keep(path, a_result())
    harness.keep(path, a_result(remark="again"))
    assert [result["remark"] for result in harness.read_results(path)] == [None, "again"]
    assert harness.is_measured(path, rows.ROWS["zscl"].options("full"))
    assert not harness.is_measured(path, {**rows.ROWS["zscl"].options("full"), "batch": 1})
    harness.keep(path, a_result(versions={"torch": "0"}))
    assert not harness.is_measured(path, rows.ROWS["zscl"].options("full"))


def test_the_table_tells_what_was_measured_and_what_was_not(tmp_path):
    harness.keep(harness.result_file("zscl", "full", tmp_path), a_result(remark="shared"))
    harness.keep(harness.result_file("zscl-many", "full", tmp_path), a_result(scaled=True))
    text = table.table("full", tmp_path)
    lines = text.splitlines()
    assert lines[2] == ("| ZSCL step, batch 8, 47 classes, 1000 sentences, fp32 | published_loop | 12.2 (12.0 to 12.5) "
                        "| 2 | 2.00 s | 24.5 s | 4 |")
    assert "published_loop, scaled" in lines[4]
    assert text.count("not measured: `make bench-full ROW=") == len(rows.ROWS) - 2
    assert "A CPU (x86_64), 1 threads of 2 cores" in text and text.endswith("2026-11-20, 2026-11-20 (shared).\n")
    assert text.count("not measured") == len(rows.ROWS) - 2
    assert "not measured" in table.gpu_table(tmp_path / "gpu.json")


def test_the_first_measurement_of_a_prediction_counts(tmp_path):
    """The oldest run that measured it, whatever the files are called."""
    def write(name, date, measured):
        rows = [{"name": "step", "low": 5, "high": 9, "unit": "ms", "measured": measured,
                 "verdict": {None: "not measured", 7.0: "right"}.get(measured, "wrong")}]
        found = {"surroundings": {"date": date}, "predictions": rows}
        (tmp_path / f"one_gpu_{name}.json").write_text(json.dumps(found))
    write("c", "2026-11-25T00:00:00+00:00", None)
    write("b", "2026-11-26T00:00:00+00:00", 7.0)
    write("a", "2026-11-27T00:00:00+00:00", 3.0)
    assert table.predictions_table(tmp_path).splitlines()[2:] == ["| step | 5 to 9 ms | 7 ms | right |"]


@pytest.mark.parametrize("path", table.DOCUMENTS, ids=lambda path: path.parent.name)
def test_documents_hold_the_table_of_the_results(path):
    document = path.read_text(encoding="utf-8")
    written = between_marks(document, table.MARK, table.text_of(table.DOCUMENTS[path]))
    assert written == document, "make bench-table"


# -- rows --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def warm():
    """What the first use of a package costs is no row's."""
    import open_clip  # noqa: F401
    rows.ROWS["finetune"].measure(**rows.ROWS["finetune"].options("test"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in rows.ROWS if name != "first-step"])
def test_row_runs(name, warm, tmp_path):
    began = time.process_time()
    result = run.measured(name, "test", "a try")
    seconds = time.process_time() - began
    assert result["pairs"] == result["options"]["rounds"] and result["checks"]
    assert result["ratio"] > 0 or name == "ogd"  # on a line through two batch sizes, which a busy machine bends
    assert seconds < 2 * seconds_to_import_torch(), "a row of this size must be quick"
    harness.keep(tmp_path / "result.json", result)
    assert harness.read_results(tmp_path / "result.json")[0]["remark"] == "a try"


@pytest.mark.slow
def test_first_step_is_timed():
    assert 0 < run.measured("first-step", "test")["ratio"] < 1


def test_a_scaled_row_says_so():
    result = run.measured("zscl-many", "test")
    assert result["scaled"] and "published side timed with 6 sentences" in result["note"]
    assert result["once_a_task_s"] > 0


def test_a_row_whose_sides_differ_is_not_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(steps.TOLERANCE, "bf16", 0.0)
    words = ["test", "zscl-bf16", "--folder", str(tmp_path)]
    assert run.main(words) == "failed: zscl-bf16"
    assert "not timed: loss before the first step" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_measured_rows_are_left(tmp_path, capsys):
    words = ["test", "adamw", "--folder", str(tmp_path)]
    assert run.main(words) == 0 and run.main(words) == 0
    assert "give --again to repeat it" in capsys.readouterr().out
    assert len(harness.read_results(harness.result_file("adamw", "test", tmp_path))) == 1
    assert run.main([*words, "--again"]) == 0
    assert run.main([words[0], "--again", *words[1:]]) == 0, "as the Makefile writes it: options before the rows"
    assert len(harness.read_results(harness.result_file("adamw", "test", tmp_path))) == 3


def test_an_unknown_row_is_named(capsys):
    with pytest.raises(SystemExit):
        run.main(["tiny", "zcsl"])
    assert "no row zcsl; choose from zscl, " in capsys.readouterr().err


GPU_WORDS = ["--tiny", "--device", "cpu", "--no-compile", "--out"]


def assert_is_whole(path):
    found = json.loads(path.read_text())
    assert set(found["results"]) == {"matrix_rate", "image_tower", "zscl-fp32", "zscl-bf16", "zscl-bf16-both", "mtil"}
    assert not found["failed"] and found["results"]["image_tower"]["utilisation"] > 0
    headline = found["results"][found["headline"]]
    assert headline["ours_back_to_back_s"] > 0 and headline["peer_back_to_back_s"] > 0
    assert headline["precisions"].startswith("ours bf16, peer bf16")
    assert found["results"]["mtil"]["of"] == found["headline"]


@pytest.mark.slow
def test_gpu_script_runs_on_a_cpu(tmp_path, monkeypatch):
    from clip import tokenizer
    monkeypatch.setattr(tokenizer, "encode", tokenizer.encode)  # the script replaces it
    assert gpu.main([*GPU_WORDS, str(tmp_path / "gpu.json")]) == 0
    assert_is_whole(tmp_path / "gpu.json")
    row, = re.findall(r"^\| zscl-bf16-both \| (.*) \|$", table.gpu_table(tmp_path / "gpu.json"), re.MULTILINE)
    assert "times faster" in row and row.endswith("ours bf16, peer bf16; fp32 is without TF32")


def test_the_gpu_table_has_the_units_of_a_reader(tmp_path):
    times = {"ours_s": 0.1107, "peer_s": 0.6208, "ratio": 5.606, "ratio_min": 5.094, "ratio_max": 6.103, "pairs": 5}
    parts = {
        "matrix_rate": {"bf16": 6.438e14, "fp32": 5.053e13},
        "image_tower": {"images": 128, "seconds": 0.05434, "images_per_s": 2356.1, "flops_per_s": 2.494e14,
                        "utilisation": 0.3873},
        "zscl-bf16": {**times, "ours_back_to_back_s": 0.1112, "peer_back_to_back_s": 0.6198, "peak_bytes": 1.364e10,
                      "images_per_s": 577.9, "precisions": gpu.precisions("bf16", False)},
        "mtil": {"steps": 11000, "of": "zscl-bf16-both", "ours_h": 0.3768, "published_h": 0.4412},
        "compile": {**times, "first_step_s": 72.1}}
    (tmp_path / "gpu.json").write_text(json.dumps({
        "machine": {"device": "A GPU"}, "versions": {"torch": "2"}, "date": "2026-11-26T10:00:00", "sizes": gpu.FULL,
        "results": parts, "failed": {"zscl-fp32": "RuntimeError()"}}))
    assert table.gpu_table(tmp_path / "gpu.json") == """\
On A GPU, torch 2, 2026-11-26; ViT-B/16, batch 64, 47 classes, 1000 sentences:

| part | measured |
|---|---|
| matrix_rate | products of large matrices: bf16 644 TFLOP/s, fp32 50.5 TFLOP/s |
| image_tower | 128 images forward and backward in 54.3 ms: 2,356 images/s, 249 TFLOP/s, 39 % of the bf16 rate above |
| zscl-bf16 | 5.61 (5.09 to 6.10) times faster, 5 pairs: 111 ms, peer 621 ms; back to back 111 ms, peer 620 ms; \
578 images/s, peak 13.6 GB; ours bf16, peer fp32; fp32 is without TF32 |
| mtil | computed, not run: 11,000 steps at the times of zscl-bf16-both take 0.38 h, the published loop's 0.44 h |
| compile | towers compiled against eager: 5.61 (5.09 to 6.10) times faster, 5 pairs: 111 ms, peer 621 ms; \
the first step took 72.1 s |
| zscl-fp32 | not measured: RuntimeError() |
"""


def test_a_part_that_fails_leaves_the_others(tmp_path, monkeypatch, capsys):
    from clip import tokenizer
    monkeypatch.setattr(tokenizer, "encode", tokenizer.encode)
    monkeypatch.setitem(steps.TOLERANCE, "bf16", 0.0)
    assert gpu.main([*GPU_WORDS, str(tmp_path / "gpu.json")]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert set(found["results"]) == {"matrix_rate", "image_tower", "zscl-fp32"}
    assert set(found["failed"]) == {"zscl-bf16", "zscl-bf16-both", "mtil"}
    assert "| zscl-bf16 | not measured: Mismatch" in table.gpu_table(tmp_path / "gpu.json")
    assert "zscl-bf16: not measured: Mismatch" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_gpu_script_says_that_there_is_no_gpu(tmp_path):
    assert "no CUDA device" in gpu.main(["--out", str(tmp_path / "gpu.json")])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_gpu_script_needs_torch_only(tmp_path):
    """Under a python that has no other package."""
    absent = "ftfy regex yaml numpy PIL torchvision open_clip tqdm peft pandas matplotlib transformers".split()
    code = (f"import sys; sys.modules.update(dict.fromkeys({absent})); import benchmarks.gpu; "
            f"sys.exit(benchmarks.gpu.main(sys.argv[1:]))")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, *GPU_WORDS, str(tmp_path / "gpu.json")],
                          cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert_is_whole(tmp_path / "gpu.json")


def test_zero_gains_are_not_hidden():
    """A ResNet as it starts would have features that know nothing of its blocks."""
    model = sizes.random_model("tiny-rn")
    images = sizes.random_images(2, 64)
    before = model.encode_image(images)
    with torch.no_grad():
        model.visual.layer2[0].conv3.weight.mul_(2)
    assert not torch.allclose(before, model.encode_image(images)) and isinstance(model, CLIP)


# -- gradient projection -----------------------------------------------------------------------------------------------


def test_the_step_at_another_batch_lies_on_the_line():
    """Steps of 8 images take 2 + 8 * 1 s, those of 16 take 2 + 16 * 1, hence those of 64 take 66; the projection 6."""
    found = projection.at_batch([16.0, 16.0], [18.0, 18.0], [6.0, 6.0], 8, 16, 64)
    assert (found["ours_s"], found["peer_s"], found["projection_s"], found["scaled"]) == (72, 66, 6, True)
    assert found["ratio"] == pytest.approx(66 / 72)
    assert "10.00 and 18.00 s without, the projection 6.000 s" in found["note"]
    assert "0.625 at 8 and 0.750 at 16" in found["note"]  # 10 / 16 and 18 / 24
    measured = projection.at_batch([16.0], [66.0], [6.0], 8, 64, 64)
    assert (measured["peer_s"], measured["scaled"]) == (66, False)


def test_a_benchmarked_projection_is_one(monkeypatch):
    """Orthonormal bases of every tracked tensor; a step without the projection is not timed."""
    model = sizes.random_model("tiny-vit")
    entries = projection.RandomBases(model, 10).earlier()
    assert entries.keys() == projection.tracked_parameters(model).keys()
    for name, entry in entries.items():
        assert entry["basis"].shape == (10, model.get_parameter(name).numel())
        torch.testing.assert_close(entry["basis"] @ entry["basis"].T, torch.eye(10), rtol=0, atol=1e-5)
    monkeypatch.setattr(projection.RandomBases, "after_step", lambda tracker, state: None)
    with pytest.raises(harness.Mismatch, match="inside the span"):
        run.measured("ogd", "test")

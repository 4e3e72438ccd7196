"""Digests that keys are made of: equal for equal content, others for any change."""

import copy
import hashlib
import json
import os
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from cli_files import COLOURS, write_pictures

from src.datasets import open_task
from src.datasets.common import Split
from src.datasets.splits import with_shots
from src.datasets.video import Frames
from src.machine.device import Device
from src.run import digests
from src.run.digests import DataDigests, code_digest, content_digest, machine, sources_digest, split_digest

CONTENT = {"w": torch.arange(6.0).reshape(2, 3), "carry": {"E": [1, 2.5, None, "a", (True, torch.tensor(3))]}, "h": {}}


def sha(content):
    return hashlib.sha256(content).hexdigest()


def changed(content, *path_and_value):
    *path, last, value = path_and_value
    found = copy.deepcopy(content)
    inner = found
    for key in path:
        inner = inner[key]
    inner[last] = value
    return found


def test_equal_content_has_one_digest():
    strided = torch.stack([CONTENT["w"], CONTENT["w"]], dim=2)[..., 0]
    same = [copy.deepcopy(CONTENT), OrderedDict(CONTENT), changed(CONTENT, "w", strided)]
    assert {content_digest(content) for content in same} == {content_digest(CONTENT)}
    assert content_digest([1, 2]) == content_digest((1, 2))


@pytest.mark.parametrize("other", [
    changed(CONTENT, "w", torch.arange(6.0).reshape(3, 2)), changed(CONTENT, "w", CONTENT["w"].double()),
    changed(CONTENT, "w", CONTENT["w"] + torch.tensor([[0, 0, 0], [0, 0, 1e-6]])),
    changed(CONTENT, "w", CONTENT["w"] * torch.tensor([[-1.0, 1, 1], [1, 1, 1]])),  # -0 is another zero
    changed(CONTENT, "carry", "E", 0, 1.0), changed(CONTENT, "carry", "E", 3, "b"),
    changed(CONTENT, "carry", "E", 2, ""),
    changed(CONTENT, "carry", "F", []), {key: CONTENT[key] for key in reversed(CONTENT)}, changed(CONTENT, "h", [])],
    ids=range(10))
def test_other_content_has_another(other):
    assert content_digest(other) != content_digest(CONTENT)


def test_parts_do_not_run_into_each_other():
    assert len({content_digest(found) for found in ([["a"], "b"], [["a", "b"]], ["a", ["b"]], ["ab"], [["ab"]])}) == 5


# -- data --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    write_pictures(tmp_path / "set" / "train", COLOURS, 2)
    write_pictures(tmp_path / "set" / "test", COLOURS, 1)
    for path in (tmp_path / "set").rglob("*.png"):
        os.utime(path, (10, 10))
    return tmp_path / "set"


def of(folder, every=False):
    """(what is trained on, what is scored) of a folder as it is now."""
    datasets = DataDigests(SimpleNamespace(open=lambda name, trained=False: open_task(name, ".")))
    return datasets.trained(f"folder:{folder}", every), datasets.scored(f"folder:{folder}", "test")


def test_an_image_that_changes_is_seen(folder):
    before = of(folder)
    assert of(folder) == before
    os.utime(folder / "train" / "blue" / "0.png", (11, 11))
    assert of(folder)[0] != before[0] and of(folder)[1] == before[1]
    os.utime(folder / "train" / "blue" / "0.png", (10, 10))
    (folder / "test" / "blue" / "0.png").write_bytes(b"other")
    os.utime(folder / "test" / "blue" / "0.png", (10, 10))
    assert of(folder)[0] == before[0] and of(folder)[1] != before[1]


def test_an_image_more_and_other_classes_are_seen(folder):
    before = of(folder)
    write_pictures(folder / "train", {"blue": 0.6}, 3)
    for path in folder.rglob("*.png"):
        os.utime(path, (10, 10))
    more = of(folder)
    (folder / "train" / "blue").rename(folder / "train" / "navy")
    (folder / "test" / "blue").rename(folder / "test" / "navy")
    assert len({before[0], more[0], of(folder)[0]}) == 3


def test_images_that_a_few_were_drawn_from_are_seen(folder, tmp_path):
    """A method may take them too (--condu-prototypes all)."""
    few = with_shots(open_task(f"folder:{folder}", "."), 1, 0, tmp_path)
    left, = {"0.png", "1.png"} - {file.rpartition("/")[2] for file in few.split("train").files if "blue" in file}
    found = []
    for time in (10, 11):
        os.utime(folder / "train" / "blue" / left, (time, time))
        found.append(DataDigests(SimpleNamespace(open=lambda name, trained=False: few)).trained("few"))
    assert found[0] != found[1]


def test_a_custom_method_may_read_every_split(folder):
    before = of(folder, every=True)
    os.utime(folder / "test" / "blue" / "0.png", (11, 11))
    assert of(folder, every=True)[0] != before[0]


def test_a_folder_may_move(folder, tmp_path):
    before = of(folder)
    folder = folder.rename(tmp_path / "elsewhere").rename(tmp_path / "deep").rename(tmp_path / "set")
    (tmp_path / "other").mkdir()
    assert of(folder.rename(tmp_path / "other" / "set")) == before


def test_what_counts_as_right_in_a_video_is_seen():
    def digest(accepted, near):
        return split_digest(Split(None, [0, 1], video=Frames(accepted, {0: near})))
    found = [digest([{0, 1}, {1}], [1]), digest([{0}, {1}], [1]), digest([{0, 1}, {1}], [])]
    assert len(set(found)) == 3 and digest([{1, 0}, {1}], [1]) == found[0]


# -- code and machine --------------------------------------------------------------------------------------------------


def test_the_code_is_every_file_of_it(tmp_path, monkeypatch):
    real = code_digest()
    assert real == code_digest()
    for name in ("src/a.py", "src/recipes/b.yaml", "clip/words.gz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1", encoding="utf-8")
    monkeypatch.setattr(digests, "FOLDERS", (tmp_path / "src", tmp_path / "clip"))
    found = [code_digest()]
    (tmp_path / "src" / "__pycache__").mkdir()
    (tmp_path / "src" / "__pycache__" / "a.pyc").write_text("2", encoding="utf-8")
    assert code_digest() == found[0] != real
    for name in ("src/a.py", "src/recipes/b.yaml", "clip/words.gz", "clip/new.py"):
        (tmp_path / name).write_text("2", encoding="utf-8")
        found.append(code_digest())
    assert len(set(found)) == 5


def test_the_digest_of_code_is_of_names_and_bytes(tmp_path):
    for name in ("src/a.py", "src/deep/b.yaml", "src/__pycache__/a.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name, encoding="utf-8")
    found = code_digest([tmp_path / "src"])
    assert found == sha(json.dumps([[name, sha(name.encode())] for name in ("src/a.py", "src/deep/b.yaml")]).encode())
    (tmp_path / "src/__pycache__/a.pyc").write_bytes(b"")
    assert code_digest([tmp_path / "src"]) == found
    (tmp_path / "src/a.py").write_text("", encoding="utf-8")
    assert code_digest([tmp_path / "src"]) != found


def test_ours_is_of_src_and_clip():
    assert code_digest() == code_digest() and len(code_digest()) == 64


def test_a_method_is_its_file_and_what_it_imports_of_the_user(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    files = {"mine.py": "import os\nimport torch\nimport helper_of_mine\nfrom src.models.hooks import Hooks\n",
             "helper_of_mine.py": "def f():\n    from package_of_mine import part\n",
             "package_of_mine/__init__.py": "", "package_of_mine/part.py": "x = 1\n", "unused.py": ""}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    before = sources_digest(tmp_path / "mine.py")
    (tmp_path / "unused.py").write_text("y = 2\n", encoding="utf-8")
    assert sources_digest(tmp_path / "mine.py") == before
    found = {before}
    for name in ("mine.py", "helper_of_mine.py", "package_of_mine/part.py"):
        with (tmp_path / name).open("a", encoding="utf-8") as file:
            file.write("# another line\n")
        found.add(sources_digest(tmp_path / "mine.py"))
    monkeypatch.setattr(digests, "_version", lambda name: f"another {name}")
    found.add(sources_digest(tmp_path / "mine.py"))
    assert len(found) == 5


def test_the_machine_is_device_precision_and_threads(monkeypatch):
    before = machine(Device("cpu"))
    assert machine(Device("cpu")) == before != machine(Device("cpu", "bf16"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert machine(Device("cpu")) != before

"""--fetch: archives on this machine in place of those on the network; what is half or damaged is never a dataset."""

import hashlib
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from dataset_files import write_dtd, write_eurosat, write_fmow, write_imagenet_v2, write_tiny_imagenet
from torchvision.datasets import DTD

from src.datasets import DATASETS, open_task
from src.datasets.sources import REFERENCE, SOURCES
from src.run import fetch as module

pytest_plugins = ["cli_fixtures", "dataset_fixtures"]


@pytest.fixture
def expect(monkeypatch):
    """expect(name, sizes): the numbers of images that a dataset is to have."""
    return lambda name, sizes: monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], sizes=sizes))


@pytest.fixture
def published(tmp_path, monkeypatch, expect):
    """DTD as an archive that torchvision downloads from this machine, with its hash."""
    copy = write_dtd(tmp_path / "published")
    archive = tmp_path / "dtd-r1.0.1.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "published" / "dtd" / "dtd", "dtd")
    monkeypatch.setattr(DTD, "_URL", archive.as_uri())
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve",
                        lambda url, filename, **_: shutil.copy(url.removeprefix("file://"), filename))
    monkeypatch.setattr(DTD, "_MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    expect("DTD", copy.sizes)
    return SimpleNamespace(archive=archive, sizes=copy.sizes)


@pytest.fixture
def fetched(cli, tmp_path):
    """fetched(names, word, ...) -> what the command printed, of the folder ``data``."""
    return lambda names, *words: cli("--fetch", names, "--data-location", tmp_path / "data", *words)


def held(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_torchvision_downloads_is_there_and_checked(published, fetched, tmp_path):
    done = fetched("DTD")
    assert done.status == 0 and done.err.count("error") == 0, done.err
    assert "| DTD     | 0.64 | research | downloads |   no |" in done.out, "size and licence come first"
    before, _, after = done.out.partition("DTD: downloading 0.64 GB by torchvision\n")
    assert "To download: 0.64 GB" in before
    assert "DTD: 47 classes, train 47, val 47, test 47 images: as expected" in after
    assert "left" not in done.out and held(tmp_path / "data") == ["dtd"]
    assert len(open_task("DTD", tmp_path / "data").split("train")) == 47


def test_what_is_there_is_checked_and_not_downloaded_again(published, fetched, no_network, tmp_path):
    write_dtd(tmp_path / "data")
    done = fetched("DTD")
    assert done.status == 0 and "Nothing to download." in done.out and "as expected" in done.out
    (tmp_path / "data" / "dtd" / "dtd" / "images" / "banded" / "banded_train.jpg").unlink()
    done = fetched("DTD")
    assert done.status == 1 and "fault: " in done.out and "left: DTD (faulty)" in done.out
    assert held(tmp_path / "data") == ["dtd"]


def test_a_random_split_is_drawn_where_the_dataset_is_in_the_end(fetched, expect, monkeypatch, tmp_path):
    """Lists that are drawn beside its place go with what is there."""
    def download(entry, name, root):
        expect(name, write_eurosat(root, 30).sizes)
        assert len(open_task(name, root).split("test")) == 60 and (root / "splits").exists()
    monkeypatch.setattr(type(DATASETS["EuroSAT"]), "download", download)
    assert fetched("EuroSAT").status == 0
    assert held(tmp_path / "data") == ["eurosat"]
    assert len(open_task("EuroSAT", tmp_path / "data").split("test")) == 60


@pytest.mark.parametrize("damage", ["truncated", "gone"])
def test_a_damaged_or_missing_archive_is_one_message_and_no_dataset(published, fetched, tmp_path, damage):
    content = published.archive.read_bytes()
    published.archive.write_bytes(content[:len(content) // 2]) if damage == "truncated" else published.archive.unlink()
    done = fetched("DTD")
    root = tmp_path / "data"
    assert done.status == 1 and "left: DTD (not downloaded)" in done.out
    line, = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: DTD: {root / 'dtd'} (--data-location {root})") and "section DTD" in line
    assert held(root) == []


def test_an_interrupted_download_leaves_nothing(fetched, monkeypatch, tmp_path):
    def interrupted(url, download_root, **_):
        (tmp_path / "data" / "seen").touch()
        write_dtd(tmp_path / "elsewhere")
        raise KeyboardInterrupt
    monkeypatch.setattr("torchvision.datasets.dtd.download_and_extract_archive", interrupted)
    assert fetched("DTD").status == 130
    assert held(tmp_path / "data") == ["seen"]


def test_a_download_with_faults_is_kept_aside_and_not_counted(published, fetched, expect, tmp_path):
    root, aside = tmp_path / "data", tmp_path / "data" / "dtd.faulty"
    expect("DTD", {**published.sizes, "test": 48})
    done = fetched("DTD")
    assert done.status == 1 and "fault: DTD: 47 images in the test split, not 48" in done.out
    assert f"error: DTD: is kept as {aside}" in done.err and "left: DTD (faulty)" in done.out
    assert held(root) == ["dtd.faulty"] and (aside / "dtd" / "labels").is_dir()
    again = fetched("DTD")
    assert again.status == 1 and f"{aside} is left of an earlier --fetch" in again.err and held(root) == ["dtd.faulty"]
    aside.rename(root / "dtd")
    assert len(open_task("DTD", root).split("test")) == 47


def test_a_fault_names_the_file_where_it_lies_in_the_end(published, fetched, monkeypatch, tmp_path):
    def download(entry, name, root):
        write_dtd(root)
        (root / "dtd" / "dtd" / "images" / "banded" / "banded_val.jpg").write_bytes(b"no image")
    monkeypatch.setattr(type(DATASETS["DTD"]), "download", download)
    done = fetched("DTD")
    path = tmp_path / "data" / "dtd.faulty" / "dtd" / "images" / "banded" / "banded_val.jpg"
    assert done.status == 1 and f"fault: {path} cannot be decoded" in done.out and path.is_file()


def test_the_rest_is_fetched_all_the_same(published, fetched, expect, monkeypatch, tmp_path):
    """One that fails stops nothing, and the status says that something is left."""
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=1e9))
    expect("TinyImageNet", write_tiny_imagenet(tmp_path / "data").sizes)
    done = fetched("FMOW,DTD,CUB200,TinyImageNet,toy-sizes,ImageNet")
    assert done.status == 1
    assert "left: FMOW (no space), CUB200 (by hand), ImageNet (by hand)" in done.out
    assert "DTD: 47 classes" in done.out and "TinyImageNet: 200 classes" in done.out and "toy-sizes: 3 cl" in done.out


def test_steps_of_what_comes_by_hand(fetched, tmp_path):
    done = fetched("ImageNet,toy-sizes")
    root = tmp_path / "data"
    assert done.status == 1 and not root.exists()
    _, _, steps = done.out.partition("ImageNet, by hand:\n")
    assert "ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar from image-net.org with an account" in steps
    assert f"unpack below {root / 'ImageNet'}, as section ImageNet of datasets.md shows" in steps
    assert f"python -m src.main --check-data ImageNet --data-location {root}" in steps
    assert "--fetch ImageNetV2 (1.26 GB), then --ref-dataset ImageNetV2 --ref-sentences ImageNetV2" in steps
    assert "ImageNetV2" not in fetched("coco").out


@pytest.mark.slow
def test_the_set_that_is_named_in_the_place_of_imagenet_serves_as_reference(train, world, tmp_path):
    write_imagenet_v2(tmp_path / "data")
    done = train(tmp_path / "out", "--method", "ZSCL", "--ref-dataset", REFERENCE, "--ref-sentences", REFERENCE,
                 "--ref-model", world.model, "--data-location", tmp_path / "data", "--iterations", 1)
    assert done.status == 0, done.err
    assert (tmp_path / "out" / "colours.pth").is_file()


def test_too_little_room_is_said_before(fetched, monkeypatch, tmp_path):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=5e8))
    done = fetched("DTD")
    assert done.status == 1 and "0.50 GB are free" in done.err and "left: DTD (no space)" in done.out
    assert not (tmp_path / "data").exists()


def test_a_plan_fetches_nothing(fetched, no_network, tmp_path):
    done = fetched("mtil-1", "--dry-run")
    rows = [line.split()[1] for line in done.out.splitlines() if line.startswith("| ")][1:]
    assert done.status == 0 and not (tmp_path / "data").exists()
    assert rows == ("Aircraft Caltech101 CIFAR100 DTD EuroSAT Flowers Food MNIST OxfordPet StanfordCars "
                    "SUN397").split()
    total = sum(SOURCES[name].gigabytes for name in rows if name != "StanfordCars")
    assert f"To download: {total:.2f} GB" in done.out and "StanfordCars, by hand:" in done.out


def test_class_splits_and_phases_are_the_dataset_that_they_are_of(fetched):
    done = fetched("CIFAR100/10,CIFAR100-2of5,cil-pilot-imagenetr-10,coco_phase2", "--dry-run")
    rows = [line.split()[1] for line in done.out.splitlines() if line.startswith("| ")][1:]
    assert rows == ["CIFAR100", "ImageNetR", "coco"]


@pytest.mark.parametrize(("words", "fragment"), [
    (("folder:pets",), "--fetch folder:pets: your own data"), (("DTDs",), "did you mean DTD"),
    (("mtil1",), "did you mean mtil-1"), (("DTD", "--dry-run=probe"), "--dry-run probe with --fetch"),
    (("DTD", "--data-location", "/dev/null/x"), "--data-location /dev/null/x: cannot be written")])
def test_what_is_refused(cli, words, fragment):
    done = cli("--fetch", *words)
    assert done.status == 2 and fragment in done.err and len(done.err.splitlines()) == 1


# -- by other packages -------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch, expect):
    """The archive of ImageNetV2, which is no gzip for all its name, where the hub has it."""
    copy = write_imagenet_v2(tmp_path / "published")
    archive = tmp_path / "imagenetv2-matched-frequency.tar.gz"
    with tarfile.open(archive, "w") as tar:
        tar.add(tmp_path / "published" / copy.folder, copy.folder)
    asked = []

    def download(repository, file, repo_type, local_dir):
        asked.append((repository, file, repo_type))
        (local_dir / file).write_bytes(archive.read_bytes())
        return str(local_dir / file)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    expect("ImageNetV2", copy.sizes)
    return SimpleNamespace(archive=archive, asked=asked)


def test_what_the_hub_has(hub, fetched, tmp_path):
    done = fetched("ImageNetV2")
    assert done.status == 0, done.err
    assert hub.asked == [("vaishaal/ImageNetV2", "imagenetv2-matched-frequency.tar.gz", "dataset")]
    assert "ImageNetV2: 1000 classes, test 1000 images: as expected" in done.out
    assert held(tmp_path / "data") == ["imagenetv2-matched-frequency-format-val"]


@pytest.mark.parametrize("damage", [pytest.param("half", marks=pytest.mark.slow), "offline", "other"])
def test_what_the_hub_does_not_give_whole(hub, fetched, monkeypatch, tmp_path, damage):
    if damage == "half":
        content = hub.archive.read_bytes()
        hub.archive.write_bytes(content[:len(content) // 2])
    elif damage == "offline":
        def offline(*_, **__):
            raise OSError("the hub is not reached\nwith a second line")
        monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    else:
        with tarfile.open(hub.archive, "w") as tar:
            tar.add(__file__, "another-folder/file")
    done = fetched("ImageNetV2")
    assert done.status == 1 and "left: ImageNetV2 (not downloaded)" in done.out
    assert len([line for line in done.err.splitlines() if line.startswith("error: ")]) == 1
    assert "second line" not in done.err and held(tmp_path / "data") == []


@pytest.fixture
def wilds_of(monkeypatch):
    """wilds_of(write): the package wilds downloads by this function of a folder."""
    import wilds
    real = wilds.get_dataset

    def replaced(write):
        def get_dataset(dataset, root_dir, download):
            if download:
                write(root_dir)
            return real(dataset=dataset, root_dir=root_dir, download=False)
        monkeypatch.setattr(wilds, "get_dataset", get_dataset)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=1e12))
    return replaced


def test_what_wilds_downloads(wilds_of, fetched, tmp_path):
    wilds_of(lambda root: write_fmow(Path(root)))
    done = fetched("FMOW")
    assert done.status == 0, done.err + done.out
    assert "| FMOW    | 53.9 | FMoW Challenge Public License | --fetch |   no |" in done.out
    assert "FMOW: 62 classes, train 62, val 6, test 7" in done.out and held(tmp_path / "data") == ["fmow_v1.1"]


def test_wilds_continues_after_a_failed_download_and_here_it_is_one(wilds_of, fetched, tmp_path):
    """It prints what went wrong and opens what there is, which may look whole."""

    def half(root):
        write_fmow(Path(root))
        print("\narchive.tar.gz may be corrupted. Please try deleting it.\nException:  the certificate has expired")
    wilds_of(half)
    done = fetched("FMOW")
    assert done.status == 1 and "could not be downloaded (the certificate has expired)" in done.err
    assert "left: FMOW (not downloaded)" in done.out and held(tmp_path / "data") == []

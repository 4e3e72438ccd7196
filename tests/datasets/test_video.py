"""Frames of videos: pm-k against its definition, which frames and neighbours of the annotations count."""

import json
import random

import pytest
from cli_files import rows
from dataset_files import VIDEOS, label_of, put, put_ytbb, write_vid, write_ytbb

from src.datasets import open_task
from src.datasets.video import Frames

pytest_plugins = ["cli_fixtures", "dataset_fixtures"]

PLACE = f"{VIDEOS}/ytbb-robust"


def slow_scores(frames, predictions):
    hits = [int(predictions[index] in frames.accepted[index]) for index in range(len(predictions))]
    alone = together = 0
    for anchor, neighbours in frames.anchors.items():
        alone += hits[anchor]
        together += min([hits[anchor], *(hits[index] for index in neighbours)])
    return tuple(100 * part / whole for part, whole in (
        (sum(hits), len(hits)), (alone, len(frames.anchors)), (together, len(frames.anchors))))


@pytest.mark.parametrize("seed", range(20))
def test_scores_by_definition(seed):
    rng = random.Random(seed)
    accepted = [set(rng.sample(range(4), rng.choice((1, 1, 2)))) for _ in range(30)]
    anchors = {anchor: rng.sample(range(30), rng.randrange(5)) for anchor in rng.sample(range(30), 8)}
    predictions = [rng.choice(sorted(right)) if rng.random() < 0.8 else rng.randrange(4) for right in accepted]
    frames = Frames(accepted, anchors)
    assert frames.scores(predictions) == pytest.approx(slow_scores(frames, predictions), abs=1e-12)


@pytest.mark.parametrize(("predictions", "expected"), [
    ([1, 5, 2, 3], (100, 100, 100)), ([2, 5, 2, 3], (100, 100, 100)),  # either class of the first frame is right
    ([1, 5, 0, 3], (75, 100, 50)), ([0, 5, 2, 3], (75, 50, 50)), ([0, 0, 0, 0], (0, 0, 0)),
    ([1, 0, 2, 0], (50, 50, 50)),
])
def test_a_wrong_neighbour_spoils_its_anchor(predictions, expected):
    frames = Frames([{1, 2}, {5}, {2}, {3}], {0: [2], 3: []})
    assert frames.scores(predictions) == expected


def test_as_many_predictions_as_frames():
    with pytest.raises(ValueError):
        Frames([{0}, {1}], {0: [1]}).scores([0])


# -- ImageNet-Vid-Robust --------------------------------------------------------------------------------------------


def test_frames_with_two_classes(every_dataset):
    task = open_task("ImageNetVidRobust", str(every_dataset.root))
    split = task.split("test")
    assert split.video.accepted[:4] == [{0, 29}] * 3 + [{1}]
    assert split.video.anchors == {3 * label: [3 * label + 1, 3 * label + 2] for label in range(30)}
    assert not any("unused" in file for file in split.files)
    assert split.video.scores(split.labels) == (100, 100, 100)
    assert split.video.scores([29, 29, 29, *split.labels[3:]]) == (100, 100, 100)
    assert split.video.scores([28, *split.labels[1:]]) == pytest.approx((100 * 89 / 90, 100 * 29 / 30, 100 * 29 / 30))


def test_scores_reach_the_table(every_dataset, cli, world, tmp_path):
    done = cli("--load", world.model, "--eval-only", "--eval-datasets", "ImageNetVidRobust", "--data-location",
               every_dataset.root, "--save", tmp_path / "out", "--workers", 0, "--max-evaluation-size", 5)
    assert done.status == 0, done.err
    row = rows(tmp_path / "out" / "metrics_ImageNetVidRobust.csv")[0]
    assert row["n"] == "90"  # frames count together with their neighbours
    assert 0 <= float(row["pm10"]) <= float(row["pm0"]) <= 100


# -- YTBB -----------------------------------------------------------------------------------------------------------


def opened_ytbb(root, anchors, pairs, first):
    """{frame: accepted classes}, {anchor: neighbours}, both by name."""
    put_ytbb(root / PLACE, anchors, pairs, first)
    for frame in {*anchors, *(frame for pair in pairs for frame in pair)}:
        put(root / PLACE / "ytbb_videos" / frame, 0)
    split = open_task("YTBB", str(root)).split("test")
    names = split.files
    return (dict(zip(names, split.video.accepted, strict=True)),
            {names[anchor]: sorted(names[frame] for frame in frames) for anchor, frames in split.video.anchors.items()})


def frame(number, video="v_a_1000"):
    return f"{video}/frame-{number}.jpg"


@pytest.mark.parametrize(("label", "meaning"), [(0, 0), (9, 9), (21, 21), (22, 23), (23, 22)])
def test_the_csv_swaps_the_last_two_classes(tmp_path, label, meaning):
    accepted, _ = opened_ytbb(tmp_path, {frame(20): ["good"]}, {}, [("v_a", 1000, label)])
    assert accepted == {frame(20): {meaning}}


@pytest.mark.parametrize(("marks", "kept"), [
    (["good"], {1}), (["good", "dog"], {1, 19}), (["good", "person", "dog"], {0, 1, 19}), ([], None), (["bad"], None),
    (["good", "bad"], None), (["good", "unsure"], None), (["dog"], None)])
def test_anchors_that_count(tmp_path, marks, kept):
    other = frame(3, "w_2000")
    accepted, anchors = opened_ytbb(tmp_path, {frame(20): marks, other: ["good"]}, {},
                                    [("v_a", 1000, 1), ("w", 2000, 2)])
    assert accepted == {other: {2}} | ({frame(20): kept} if kept else {})
    assert set(anchors) == set(accepted)


@pytest.mark.parametrize(("number", "marks", "kept"), [
    (24, ["similar"], True), (10, ["similar"], True), (30, ["similar"], True), (31, ["similar"], False),
    (9, ["similar"], False), (24, [], False), (24, ["dissimilar"], False), (24, ["similar", "dissimilar"], False),
    (24, ["similar", "occlusion-increased"], False)])
def test_pairs_that_count(tmp_path, number, marks, kept):
    accepted, anchors = opened_ytbb(tmp_path, {frame(20): ["good", "dog"]}, {(frame(20), frame(number)): marks},
                                    [("v_a", 1000, 1)])
    assert anchors == {frame(20): [frame(number)] if kept else []}
    assert accepted == {name: {1, 19} for name in ([frame(20), frame(number)] if kept else [frame(20)])}


def test_a_pair_can_spoil_its_anchor(tmp_path):
    other = frame(3, "w_2000")
    pairs = {(frame(20), frame(21)): ["similar"], (frame(20), frame(22)): ["bad-anchor"], (other, frame(4, "w_2000")):
             ["similar"]}
    _, anchors = opened_ytbb(tmp_path, {frame(20): ["good"], other: ["good"]}, pairs,
                             [("v_a", 1000, 1), ("w", 2000, 2)])
    assert anchors == {other: [frame(4, "w_2000")]}


def test_of_two_reviews_the_last_one_counts(tmp_path):
    write_ytbb(tmp_path)
    path = tmp_path / PLACE / "metadata" / "pmk_labels.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    again = dict(content["annotations"][0], labels=[content["labels"].index("dissimilar")])
    path.write_text(json.dumps(content | {"annotations": [*content["annotations"], again]}), encoding="utf-8")
    split = open_task("YTBB", str(tmp_path)).split("test")
    assert len(split) == 47 and sorted(map(len, split.video.anchors.values())) == [0] + [1] * 23
    assert all(label_of(split.image(index)) in split.video.accepted[index] for index in range(47))


# -- damage ---------------------------------------------------------------------------------------------------------

YTBB_ANCHORS = "metadata/ytbb_robustness_test_anchors_full.csv"
DAMAGE = {  # dataset, file, its content or None to remove it, what the message names
    "a frame is missing": ("YTBB", "ytbb_videos/vid_03_3000/frame-24.jpg", None, "frame-24.jpg"),
    "no anchors": ("YTBB", "metadata/anchor_labels.json", None, "anchor_labels.json"),
    "anchors are no json": ("YTBB", "metadata/anchor_labels.json", "{", "anchor_labels.json"),
    "anchors of another form": ("YTBB", "metadata/anchor_labels.json", "[]", PLACE),
    "pairs of another form": ("YTBB", "metadata/pmk_labels.json", '{"labels": [], "annotations": [{}]}', PLACE),
    "the csv has other columns": ("YTBB", YTBB_ANCHORS, "a,b\n1,2\n", PLACE),
    "the csv lacks a video": ("YTBB", YTBB_ANCHORS, "ytid,time_ms,label\nvid_00,0,1\n", PLACE),
    "the csv has an endless cell": ("YTBB", YTBB_ANCHORS, "ytid,time_ms,label\n" + "1" * 140_000 + ",0,1\n",
                                    "cannot be read as a table"),
    "the csv has NUL": ("YTBB", YTBB_ANCHORS, "ytid,time_ms,label\nvid_00,\0,1\n", PLACE),
    "a label outside": ("YTBB", YTBB_ANCHORS, "ytid,time_ms,label\n" + "".join(
        f"vid_{label:02},{1000 * label},{99}\n" for label in range(24)), "99"),
    "no index": ("ImageNetVidRobust", "misc/imagenet_vid_class_index.json", None, "imagenet_vid_class_index.json"),
    "an index with holes": ("ImageNetVidRobust", "misc/imagenet_vid_class_index.json", '{"3": ["n", "a"]}', VIDEOS),
    "no labels": ("ImageNetVidRobust", "metadata/labels.json", "{}", VIDEOS),
    "sets of another form": ("ImageNetVidRobust", "metadata/pmsets.json", "[]", "ImageNetVidRobust"),
    "no sets": ("ImageNetVidRobust", "metadata/pmsets.json", "{}", "name no frame"),
}
WRITE = {"YTBB": write_ytbb, "ImageNetVidRobust": write_vid}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_annotations(tmp_path, cli, world, case):
    name, file, content, fragment = DAMAGE[case]
    path = tmp_path / WRITE[name](tmp_path).folder / file
    path.unlink() if content is None else path.write_text(content, encoding="utf-8")
    done = cli("--load", world.model, "--eval-only", "--eval-datasets", name, "--data-location", tmp_path,
               "--workers", 0)
    assert done.status == 2 and len(done.err.splitlines()) == 1, done.err
    assert fragment in done.err and name in done.err

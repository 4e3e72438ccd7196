"""Names of the mini tasks: no two classes of a task are called the same, and every task has prompts."""

from src.datasets.mini_names import CLASSES, NEW_SHAPES, PICTOGRAMS
from src.datasets.toy_wide import SHAPES
from src.templates.mini import TEMPLATES


def test_names_are_different_and_every_task_has_prompts():
    assert len(CLASSES) == 11 and set(CLASSES) == set(TEMPLATES)
    for name, classes in CLASSES.items():
        assert len(set(classes)) == len(classes), name
        assert len(TEMPLATES[name]) == 3 and all("{c}" in template for template in TEMPLATES[name])


def test_class_counts_spread_as_far_as_in_mtil():
    """Over a factor of 20; MTIL's are 10 to 397."""
    counts = [len(classes) for classes in CLASSES.values()]
    assert max(counts) / min(counts) > 20
    assert len(PICTOGRAMS) == 84 and not set(NEW_SHAPES) & set(SHAPES)

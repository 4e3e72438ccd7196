"""ImageNet's class names and prompts."""

from src.datasets.imagenet import open_clip_metadata


def test_names_and_prompts():
    names, prompts = open_clip_metadata().IMAGENET_CLASSNAMES, open_clip_metadata().OPENAI_IMAGENET_TEMPLATES
    assert len(names) == 1000 and len(prompts) == 80
    # Curated: what the folders' own names leave ambiguous is told apart.
    assert (names[0], names[134], names[517], names[999]) == (
        "tench", "crane bird", "construction crane", "toilet paper")
    assert prompts[0]("cat") == "a bad photo of a cat."

"""The table of rows: the function that measures each, its sizes, its peer, and the ratio it must reach."""

from dataclasses import dataclass, field

from benchmarks import inputs, projection, steps, towers

BUDGET = 300  # seconds of timed pairs, on top of a row's check and construction


@dataclass(frozen=True)
class Row:
    """``work`` against ``peer``; ``asked``: the minimum ratio peer / ours, or None.

    ``measure`` takes ``shared`` and ``tiny`` or ``full`` keywords; ``tested`` overrides ``tiny`` so that it
    ends within two seconds.
    """

    work: str
    peer: str
    asked: float | None
    measure: object
    tiny: dict
    full: dict
    shared: dict = field(default_factory=dict)
    tested: dict = field(default_factory=dict)

    def options(self, size):
        if size == "test":
            return {**self.shared, **self.tiny, "rounds": 1, **self.tested}
        return {**self.shared, **(self.full if size == "full" else self.tiny)}


LOOP, OPEN_CLIP, TORCHVISION = "published_loop", "open_clip", "torchvision v1 pipeline"
TINY_STEP = {"model": "tiny-vit", "classes": 10, "batch": 4, "rounds": 7}
SMALL_STEP = {"classes": 4, "batch": 2}
VIT = {"model": "ViT-B/16", "batch": 8, "budget": BUDGET}
PHOTOS = {"images": 24, "batch": 8, "workers": 2, "rounds": 3}


def _image_towers():
    models = {"ViT-B/16": "tiny-vit", "ViT-B/32": "tiny-vit", "RN50": "tiny-rn"}
    for name, tiny in models.items():
        for backward in (False, True):
            part = "forward+backward" if backward else "forward"
            key = f"image-{name.lower().replace('/', '')}-{part.replace('+', '-')}"
            yield key, Row(f"image tower {name}, {part}", OPEN_CLIP, 0.95, towers.image_tower,
                           {"model": tiny, "batch": 4, "rounds": 15},
                           {"model": name, "batch": 8, "rounds": 9, "budget": BUDGET}, {"backward": backward},
                           {"batch": 2})


ROWS = {
    "zscl": Row("ZSCL step, batch 8, 47 classes, 1000 sentences, fp32", LOOP, 4, steps.training_step,
                {**TINY_STEP, "sentences": 100}, {**VIT, "classes": 47, "sentences": 1000, "rounds": 3},
                tested={**SMALL_STEP, "sentences": 6}),
    "zscl-bf16": Row("the same, ours in bf16", LOOP, 9, steps.training_step, {**TINY_STEP, "sentences": 100},
                     {**VIT, "classes": 47, "sentences": 1000, "rounds": 3}, {"precision": "bf16"},
                     {**SMALL_STEP, "sentences": 6}),
    "zscl-many": Row("the same, bf16, 15,840 sentences (published side scaled)", LOOP, 40, steps.many_sentences,
                     {**TINY_STEP, "sentences": 1000, "part": 50},
                     {**VIT, "classes": 47, "sentences": 15840, "part": 250, "rounds": 5}, {"precision": "bf16"},
                     {**SMALL_STEP, "sentences": 12, "part": 6}),
    "finetune": Row("finetune step, batch 8, 397 classes, fp32", LOOP, 4, steps.training_step, TINY_STEP,
                    {**VIT, "classes": 397, "rounds": 2}, tested=SMALL_STEP),
    "finetune-bf16": Row("the same, ours in bf16", LOOP, 8, steps.training_step, TINY_STEP,
                         {**VIT, "classes": 397, "rounds": 2}, {"precision": "bf16"}, SMALL_STEP),
    "bf16": Row("20 ZSCL steps ViT-B/32 in bf16, losses within 2 % of fp32", "ours in fp32", None, steps.bf16_steps,
                {**TINY_STEP, "sentences": 30, "rounds": 20},
                {"model": "ViT-B/32", "batch": 8, "classes": 47, "sentences": 100, "rounds": 20},
                tested={**SMALL_STEP, "sentences": 6}),
    **dict(_image_towers()),
    "text": Row("text tower, 47 class prompts, forward+backward", OPEN_CLIP, 4, towers.text_tower,
                {"model": "tiny-vit", "classes": 10, "rounds": 9},
                {"model": "ViT-B/16", "classes": 47, "rounds": 7, "budget": BUDGET}, tested={"classes": 3}),
    "head": Row("zero-shot head, 10 ImageNet classes x 80 templates", "open_clip's builder", 4, towers.zeroshot_head,
                {"model": "tiny-vit", "classes": 10, "templates": 8, "rounds": 7},
                {"model": "ViT-B/16", "classes": 10, "templates": 80, "rounds": 3, "budget": BUDGET},
                tested={"classes": 3, "templates": 2}),
    "adamw": Row("AdamW step", "torch's default", 3, towers.optimizer_step, {"model": "tiny-vit", "rounds": 15},
                 {"model": "ViT-B/16", "rounds": 9, "budget": BUDGET}),
    "ogd": Row("finetune step, batch 64, 47 classes, fp32, projected off 10 rows per tensor", "the step without", 0.909,
               projection.projected_step, {"model": "tiny-vit", "classes": 10, "batches": (4, 8), "rounds": 7},
               {"model": "ViT-B/16", "classes": 47, "batches": (8, 16), "rounds": 5, "budget": BUDGET},
               {"at": 64, "k": 10}, {"classes": 4, "batches": (2, 4)}),
    "jpeg-small": Row("JPEG 500 x 375 to normalised batch, 2 workers", TORCHVISION, 1.3, inputs.jpeg_pipeline, PHOTOS,
                      {**PHOTOS, "images": 768, "batch": 64, "rounds": 7, "budget": BUDGET},
                      {"width": 500, "height": 375}, {"images": 2, "batch": 2, "workers": 0, "resolution": 32}),
    "jpeg-large": Row("JPEG 3000 x 2000 to normalised batch, 2 workers", TORCHVISION, 2, inputs.jpeg_pipeline,
                      {**PHOTOS, "images": 8, "batch": 2}, {**PHOTOS, "images": 96, "rounds": 5, "budget": BUDGET},
                      {"width": 3000, "height": 2000},
                      {"images": 2, "batch": 2, "workers": 0, "width": 300, "height": 200, "resolution": 32}),
    "cached": Row("second evaluation with --cache-images, tiny model", "the first", 2, inputs.cached_evaluation,
                  {"images": 64, "rounds": 3}, {"images": 512, "rounds": 5, "budget": BUDGET},
                  {"model": "tiny-vit", "width": 500, "height": 375, "classes": 10},
                  {"images": 4, "width": 60, "height": 40}),
    "cached-many": Row("second evaluation of 11 folders of JPEGs, decoded images kept, no image tower", "the first", 5,
                       inputs.cached_evaluations, {"images": 12, "rounds": 7},
                       {"images": 60, "rounds": 7, "budget": BUDGET},
                       {"folders": 11, "resolution": 224, "sides": (500, 375)},
                       {"folders": 2, "images": 2, "resolution": 32, "sides": (60, 40)}),
    "filling": Row("first evaluation of the same, which keeps them", "one that keeps none", 0.9,
                   inputs.filling_evaluations, {"images": 12, "rounds": 7},
                   {"images": 60, "rounds": 7, "budget": BUDGET},
                   {"folders": 11, "resolution": 224, "sides": (500, 375)},
                   {"folders": 2, "images": 2, "resolution": 32, "sides": (60, 40)}),
    "first-step": Row("from the command to the first step, toy", "import torch", 0.4, inputs.first_step, {"rounds": 3},
                      {"rounds": 7, "budget": BUDGET}, tested={"warm_up": False}),
}

"""Your own pictures: score them zero-shot, train on them, look at each prediction, and hand the model to open_clip.

    python -m examples.own_pictures photos          # one folder per class: photos/cat/1.jpg, photos/dog/1.jpg, ...
    python -m examples.own_pictures photos toy      # the same with the embedded model; nothing to download

A fifth of each class is held out, the same pictures each time. Files go to ckpt/own_pictures.
"""

import sys
from pathlib import Path

import clip_continual as cc

SAVE = Path("ckpt/own_pictures")
RATES = {"toy": 3e-4}  # of a small model that has seen little; a large one wants a small rate


def main(folder, model="ViT-B/16"):
    pictures = cc.Task.from_folder(folder)
    before = cc.evaluate(model=model, eval_datasets=[pictures])
    run = cc.train(train_dataset=pictures, model=model, epochs=5, lr=RATES.get(model, 1e-5), warmup_length="10%",
                   save=SAVE)
    # The embedded model is a small ResNet, which open_clip has no layout for.
    export = {} if model == "toy" else {"export": SAVE / "open_clip", "overwrite": True}
    after = cc.evaluate(run.checkpoint(), [pictures], save=SAVE, **export)
    print(f"{len(pictures.classnames)} classes, top-1 on held-out pictures: {before.top1.iloc[0]:.1f} zero-shot, "
          f"{after.top1.iloc[0]:.1f} trained")
    print(f"weights: {run.checkpoint()}; each prediction: {SAVE / f'predictions_{pictures.name}.csv'}")
    if export:
        print(f'open_clip.create_model_and_transforms("local-dir:{SAVE / "open_clip"}") loads it too')


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Few images per class: two methods with 2 and 8 of them, two draws each, in one table of means and deviations.

    python -m examples.few_shot             # on embedded data and the embedded model; a few minutes on a CPU

For CLIP on real data change the constants: TASKS = ["DTD", "Flowers"], MODEL = "ViT-B/16" and a smaller rate, such as
1e-5. The images that were drawn are listed in shots.json of each run; --shots-file takes them from there.
"""

import pandas as pd

import clip_continual as cc

SAVE = "ckpt/few_shot"
TASKS = ["toy-new-shapes", "toy-new-textures"]
MODEL = "toy"
METHODS = {"finetune": {"method": "finetune", "iterations": 40, "lr": 3e-4, "warmup_length": 8},
           "ridge": {"method": "ridge"}}  # a closed form, which takes no step


def main():
    rows = []
    for shots in (2, 8):
        for draw in (0, 1):
            for name, flags in METHODS.items():
                run = cc.train(dataset_order=TASKS, model=MODEL, shots=shots, shot_seed=draw, seed=draw,
                               save=f"{SAVE}/{name}-{shots}-{draw}", **flags)
                rows.append({"shots": shots, "method": name, **run.summary().loc["task", ["avg", "last"]]})
    return pd.DataFrame(rows).groupby(["shots", "method"]).agg(["mean", "std"]).round(1)


if __name__ == "__main__":
    print(main())

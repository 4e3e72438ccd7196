"""Few images per class: two methods with 2 and 8 of them, two draws each, in one table of means and deviations.

    python -m examples.few_shot             # on embedded data and the embedded model; a few minutes on a CPU

For CLIP on real data change the constants, for example TASKS = ["DTD", "Flowers"] and MODEL = {"model": "ViT-B/16",
"lr": 1e-5}. The images that were drawn are listed in shots.json of each run; --shots-file takes them from there.
"""

import clip_continual as cc

SAVE = "ckpt/few_shot"
TASKS = ["toy-new-shapes", "toy-new-textures"]
MODEL = {"model": "toy", "lr": 3e-4}
METHODS = {"finetune": {"method": "finetune", "iterations": 40, "warmup_length": 8},
           "ridge": {"method": "ridge"}}  # a closed form, which takes no step


def main():
    for shots in (2, 8):
        for draw in (0, 1):
            for name, flags in METHODS.items():
                cc.train(dataset_order=TASKS, shots=shots, shot_seed=draw, seed=draw,
                         save=f"{SAVE}/{shots}-shot/{name}-{draw}", **flags, **MODEL)
    tables = {shots: cc.report(f"{SAVE}/{shots}-shot") for shots in (2, 8)}
    return "\n\n".join(f"{shots} images per class\n{table[['runs', 'avg', 'avg_std', 'last', 'last_std']].round(1)}"
                       for shots, table in tables.items())


if __name__ == "__main__":
    print(main())

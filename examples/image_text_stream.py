"""A stream of image-text pairs: three domains one after the other, contrastive training with and without Mod-X.

    python -m examples.image_text_stream    # on embedded pairs and the embedded model; a few minutes on a CPU

Your own pairs are a table with the columns image and caption: STREAM = ["pairs:2023.csv", "pairs:2024.csv"]. Scores are
recall in retrieval, in percent: i2t_r1 is the share of images whose nearest text is one of their captions.
"""

import clip_continual as cc

SAVE = "ckpt/image_text_stream"
STREAM = ["toy-pairs-new", "toy-pairs-dull", "toy-pairs-night"]
SHORT = {"model": "toy", "iterations": 40, "batch_size": 64, "lr": 1e-3, "warmup_length": 8}


def main():
    runs = {method: cc.train(method=method, dataset_order=STREAM, save=f"{SAVE}/{method}", **SHORT)
            for method in ("finetune", "modx")}
    return "\n\n".join(f"{method}\n{run.matrix('retrieval', 'i2t_r1').round(1)}" for method, run in runs.items())


if __name__ == "__main__":
    print(main())

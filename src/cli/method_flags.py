"""List the flags of methods and their add-ons, a function per group. Imports no torch."""

from src.cli.definition import Flag, switch
from src.cli.kinds import EVAL, SCORING
from src.cli.values import DTYPES, names, none_or, number_or_share, real, shares, some_of, whole


def distillation_flags():
    return [
        Flag("--ref-dataset", "reference images of ZSCL", metavar="NAME", example="ImageNet --method ZSCL"),
        Flag("--ref-sentences", "reference texts: a dataset with sentences or classes (their training prompts), or "
             "random", metavar="NAME", example="conceptual_captions --method ZSCL --ref-dataset ImageNet"),
        Flag("--text-datasets", "reference texts: the prompts of these datasets", (), names, metavar="NAMES",
             shown="none", example="Flowers,Food --method lwf"),
        Flag("--ref-model", "teacher of ZSCL instead of zero-shot CLIP: a file, folder or name, as --model takes them",
             metavar="FILE",
             example="ckpt/teacher.pth --method ZSCL --ref-dataset ImageNet"),
        switch("--ref-wise", "teacher of ZSCL: a mix of zero-shot and loaded weights",
               example="--load ckpt/run/DTD.pth --method ZSCL --ref-dataset ImageNet"),
        Flag("--ref-wise-alpha", "share of the loaded weights in --ref-wise", 0.8, real(0, 1),
             example="0.5 --ref-wise --load ckpt/run/DTD.pth --method ZSCL --ref-dataset ImageNet"),
        Flag("--ref-batch-size", "reference images per step", parse=whole(1), shown="--batch-size",
             example="32 --method ZSCL --ref-dataset ImageNet"),
        Flag("--ref-size", "number of reference images used, a seeded subset", parse=whole(1), shown="all",
             example="10000 --method ZSCL --ref-dataset ImageNet"),
        Flag("--T", "distillation temperature", 2.0, real(above=0), shown="2.0", example="1 --method lwf"),
        switch("--image-loss", "distil rows of images; neither of the two means both", example="--method lwf"),
        switch("--text-loss", "distil rows of texts", example="--method lwf"),
        switch("--weight-adjust", "weigh each distillation term 0.5 instead of 1", example="--method lwf"),
        switch("--feature-mse", "add the squared distance of image features", example="--method lwf"),
        switch("--ablation-loss-2", "add image-image distillation", example="--method lwf"),
        switch("--distill-text-tower", "distil the text tower too, on sampled reference texts (experimental)",
               example="--method ZSCL --ref-dataset ImageNet"),
        Flag("--text-tower-weight", "weight of the terms of --distill-text-tower", 1.0, real(above=0), shown="1",
             example="0.5 --distill-text-tower --method ZSCL --ref-dataset ImageNet"),
    ]


def averaging_flags():
    return [
        switch("--we", "weight ensemble: average the weights along the run"),
        switch("--we-wise", "weight ensemble pulled toward the weights at load"),
        Flag("--we-wise-alpha", "share of the ensemble in --we-wise", 0.98, real(0, 1), example="0.9 --we-wise"),
        switch("--moving-avg", "exponential moving average of the weights"),
        Flag("--mv-avg-decay", "decay of --moving-avg", 0.999, real(0, 1), example="0.99 --moving-avg"),
        Flag("--avg-freq", "steps between updates of --we and --we-wise", 100, whole(1), example="10 --we"),
        switch("--wise-merge", "merge the weights with a partner at the end"),
        switch("--wise-ft", "with --eval-only: score mixes of the loaded and the zero-shot weights", runs=(EVAL,),
               numbers=False, example="--eval-only --load ckpt/run/DTD.pth"),
        Flag("--wise-ft-model", "partner of --wise-merge: n, the weights at load, or zeroshot", "n",
             choices=("n", "zeroshot"), example="zeroshot --wise-merge"),
        Flag("--wise-ft-alpha", "share of the trained weights in --wise-merge", 0.8, real(0, 1),
             example="0.5 --wise-merge"),
        Flag("--alpha", "shares of the loaded weights that --wise-ft scores, such as 0,0.25,0.5", (0.5,), shares,
             runs=(EVAL,), numbers=False, shown="0.5", example="0,0.5,1 --wise-ft --eval-only --load ckpt/run/DTD.pth"),
        Flag("--l2", "weight of the squared distance from the weights at load", 0.0, real(0), shown="0", example="1"),
        Flag("--fc-init", "head of the fc modes: zeroshot, the text features of the classes, or zero; unless given, "
             "reuse the head that --load holds for this dataset", "zeroshot", choices=("zeroshot", "zero"),
             example="zero --train-mode fc"),
    ]


def projection_flags():
    return [
        Flag("--orthogonal-gradients", "number of gradient snapshots that span the subspace protected from later tasks",
             parse=whole(1), example="10"),
        Flag("--orthogonal-gradients-path", "basis or snapshots of earlier tasks, to project out", metavar="FILE",
             example="ckpt/run/grad_DTD.pth --load ckpt/run/DTD.pth --train-dataset Flowers --iterations 1000"),
        Flag("--orthogonal-target", "what is projected: the gradient alone, or the optimiser's update too", "update",
             choices=("gradient", "update"), example="gradient --orthogonal-gradients-path ckpt/run/grad_DTD.pth"),
        Flag("--orthogonal-energy", "share of the snapshots' energy to keep", 0.97, real(above=0, high=1),
             example="0.99 --orthogonal-gradients 10"),
        Flag("--orthogonal-dtype", "storage of the basis", "fp32", choices=("fp32", "fp16", "bf16"), means=DTYPES,
             example="fp16 --orthogonal-gradients 10"),
        Flag("--orthogonal-budget", "GiB that the basis may take", parse=real(above=0), shown="no limit",
             example="4 --orthogonal-gradients 10"),
    ]


def lora_flags():
    return [
        switch("--lora", "train low-rank adapters instead of weights; they are merged before saving"),
        Flag("--lora-r", "rank", 8, whole(1), example="4 --lora"),
        Flag("--lora-alpha", "the adapters' scale is alpha / r", 16.0, real(above=0), shown="16", example="8 --lora"),
        Flag("--lora-dropout", "dropout before peft's adapters", 0.1, real(0, 0.999), example="0 --lora"),
        Flag("--lora-target-modules", "modules to adapt, by the end of their names (list_clip_layers.py --lora)",
             ("attn.out_proj", "mlp.c_fc", "mlp.c_proj"), names, metavar="NAMES", example="mlp.c_fc,mlp.c_proj --lora"),
        Flag("--lora-bias", "biases that train with peft's adapters", "none", choices=("none", "all", "lora_only"),
             example="all --lora"),
        switch("--lora-shared", "one pair of factors for all layers of a kind", example="--lora"),
        switch("--lora-shared-split-qkvo", "with --lora-shared, one pair for each of q, k, v and o",
               example="--lora --lora-shared"),
    ]


def memory_flags():
    return [
        Flag("--memory-size", "total number of iCaRL's exemplars", 10000, whole(1), example="2000 --method icarl"),
        Flag("--replay-weight", "weight of the replayed exemplars", 1.0, real(0), shown="1",
             example="0.5 --method icarl"),
    ]


def consolidation_flags():
    return [
        Flag("--ewc-strength", "lambda: the penalty is lambda / 2 times the squared distance from the last task's "
             "weights, each weighted by its Fisher information",
             1000.0, real(0), shown="1000", example="10 --method ewc"),
        Flag("--ewc-fisher", "squared gradients of log p of each image's label (empirical), of a label drawn from p "
             "(true), or the empirical ones times p (weighted)", "empirical",
             choices=("empirical", "true", "weighted"), example="true --method ewc"),
        Flag("--ewc-decay", "factor on the earlier tasks' Fisher information when a new task's is added", 1.0,
             real(0, 1), shown="1", example="0.9 --method ewc"),
    ]


def inflora_flags():
    return [
        Flag("--inflora-rank", "rank of the update B A; only B trains", 128, whole(1),
             example="10 --method inflora"),
        Flag("--inflora-sites", "attention projections to adapt in each block; A keeps off the inputs of earlier "
             "tasks for k and v, and is drawn for q and o",
             ("q", "k", "v", "o"), some_of(("q", "k", "v", "o")),
             metavar="NAMES", shown="q,k,v,o", example="k,v --method inflora"),
        Flag("--inflora-scale", "factor of the update B A", parse=real(above=0), shown="2 / sqrt(rank)",
             example="1 --method inflora"),
        Flag("--inflora-dropout", "dropout before the update", 0.25, real(0, 0.999), example="0 --method inflora"),
        Flag("--inflora-memory", "what a task leaves: gpm, a basis of the protected inputs; dualgpm, a basis of all "
             "others once these fill more than half of the width", "gpm", choices=("gpm", "dualgpm"),
             example="dualgpm --method inflora"),
        Flag("--inflora-energy", "protected share of the squared singular values of the inputs' covariance",
             0.95, real(above=0, high=1), example="0.98 --method inflora"),
        Flag("--inflora-energy-step", "increase of that share per later task: (lame - lamb) / T of the authors' CIL "
             "configurations", 0.0, real(0, 1), shown="0", example="0.005 --method inflora"),
        Flag("--inflora-statistics", "which inputs a task protects: clean, one pass with the final weights in "
             "evaluation mode; code, with dropout, plus the inputs of every training step", "clean",
             choices=("clean", "code"), example="code --method inflora"),
    ]


def keeplora_flags():
    return [
        Flag("--keeplora-rank", "rank of KeepLoRA's updates", 16, whole(1), example="8 --method keeplora"),
        Flag("--keeplora-alpha", "the updates' scale is alpha / rank", 1.0, real(above=0), shown="1",
             example="2 --method keeplora"),
        Flag("--keeplora-image-energy", "image tower: before the first task, protect the leading directions of a "
             "weight whose squared singular values sum to less than this share", 0.85, real(0, 1),
             example="0.5 --method keeplora"),
        Flag("--keeplora-text-energy", "the same for the text tower", 0.2, real(0, 1),
             example="0.5 --method keeplora"),
        Flag("--keeplora-feature-energy", "minimum share of the energy of a task's inputs to protect after it", 0.99,
             real(above=0, high=1), example="0.9 --method keeplora"),
        Flag("--keeplora-weight-side", "which directions of a weight to protect before the first task: those of its "
             "input, as in the paper, or of its output, as in the authors' code", "input",
             choices=("input", "output"), example="output --method keeplora"),
    ]


def nusa_flags():
    return [
        Flag("--nusa-rank", "maximum number of directions in which a task may move a weight; the update's scale is 2 "
             "/ sqrt(rank)", 128, whole(1), example="64 --method nusa-cl"),
        Flag("--nusa-energy", "share of a weight's squared singular values whose directions stay fixed", 0.95,
             real(above=0, high=0.999999), example="0.9 --method nusa-cl"),
        Flag("--nusa-dropout", "dropout before the update", 0.25, real(0, 0.999), example="0 --method nusa-cl"),
        Flag("--nusa-train", "what trains in the update U M V: M alone (m), or singular vectors too (m,vn and m,un,vn)",
             "m", choices=("m", "m,vn", "m,un,vn"), example="m,vn --method nusa-cl"),
    ]


def condu_flags():
    return [
        Flag("--condu-experts", "number of experts that vote, the nearest to an image, beside the CLIP that all tasks "
             "start from", 4, whole(1), runs=SCORING, example="2 --method condu"),
        Flag("--condu-known", "what scores a trained dataset in label space task: its expert, or the vote, as for "
             "everything else",
             "expert", choices=("expert", "vote"), runs=SCORING, example="vote --method condu"),
        Flag("--condu-prototypes", "training images behind the class prototypes: shots, those that train, or all, "
             "including those that --shots leaves out, as in the authors' code",
             "shots", choices=("shots", "all"),
             example="all --shots 5 --method condu"),
        Flag("--condu-rank", "rank of the factors of condu-lora", 64, whole(1), example="8 --method condu-lora"),
        Flag("--condu-init", "factors that a task starts from and computes its prototypes with: stored, those that "
             "its delta is taken from; code, two other draws, as in the authors' code", "stored",
             choices=("stored", "code"), example="code --method condu-lora"),
    ]


def frozen_feature_flags():
    return [
        Flag("--rail-form", "RAIL's regression: primal, on random features of width --rail-width, or dual, by a kernel "
             "on the features of all training images, which are stored", "primal", choices=("primal", "dual"),
             runs=SCORING, example="dual --method rail --train-dataset DTD"),
        Flag("--rail-width", "random features H of the primal form; it carries H x H numbers from task to task", 15000,
             whole(1), runs=SCORING, example="1000 --method rail --train-dataset DTD"),
        Flag("--rail-projection", "how --seed draws the primal form's random weights: seeded, the same for all models "
             "of this feature size, or published, as the authors' code draws them for this ViT", "seeded",
             choices=("seeded", "published"), runs=SCORING,
             example="published --method rail --model ViT-B/16 --train-dataset DTD"),
        Flag("--rail-ridge", "strength of ridge regression, in rail and in ridge", parse=real(above=0),
             shown="0.1; dual 0.001", runs=SCORING, example="1 --method ridge --train-dataset DTD"),
        Flag("--rail-gamma", "gamma of the dual form's kernel exp(-gamma |a - b|^2)", 0.1, real(above=0), runs=SCORING,
             example="1 --method rail --rail-form dual --train-dataset DTD"),
        Flag("--rail-beta", "weight of the regression in RAIL's scores; zero-shot probabilities get the rest",
             0.8, real(0, 1), runs=SCORING, example="0.9 --method rail --train-dataset DTD"),
    ]


def diki_flags():
    return [
        Flag("--diki-length", "keys and values that a task trains for each attention", 8, whole(1), runs=SCORING,
             example="4 --method diki"),
        Flag("--diki-blocks", "number of blocks of each tower, from the first, that get them; all if there are fewer",
             8,
             whole(1), runs=SCORING, example="12 --method diki"),
        Flag("--select-epoch", "the epoch that a task keeps: the last, or the first of the best on its val images, "
             "with the task known",
             "last", choices=("last", "val"), example="val --val-fraction 0.1 --method diki"),
    ]


def expert_flags():
    method = "--method moe-adapters --ddas-features clip"
    return [
        Flag("--moe-experts", "experts beside the MLP of each block; a router picks two", 22, whole(2),
             runs=SCORING, example=f"4 {method} --train-dataset DTD --epochs 5"),
        Flag("--moe-rank", "hidden values of an expert", 64, whole(1), runs=SCORING,
             example=f"16 {method} --train-dataset DTD --epochs 5"),
        Flag("--moe-dropout", "dropout on an expert's hidden values", 0.1, real(0, 0.999), example=f"0 {method}"),
        Flag("--moe-frozen", "number of experts per block, the most chosen, that later tasks do not train", 2, whole(0),
             example=f"1 {method}"),
        Flag("--moe-unchosen", "experts that nothing in a batch chose: skip leaves them as they are; zero gives them "
             "a zero gradient, so that the optimiser's state still moves them", "skip",
             choices=("skip", "zero"), example=f"zero {method}"),
        Flag("--ddas-features", "input of the autoencoders that choose a router: AlexNet's fifth convolution, with "
             "ImageNet weights that torchvision downloads, or the image features of the frozen CLIP",
             "alexnet",
             choices=("alexnet", "clip"), runs=SCORING,
             example="clip --method moe-adapters --train-dataset DTD --epochs 5"),
        Flag("--ddas-reference", "dataset of images without a router, which gets an autoencoder too, or none",
             parse=none_or(str), metavar="NAME", shown="none", runs=SCORING,
             example="TinyImageNet --method moe-adapters --train-dataset DTD --epochs 5"),
        Flag("--ddas-threshold", "error above which an image gets no router: a number, or a share such as 95%%, the "
             "error that this share of the task's validation images does not exceed",
             parse=number_or_share,
             shown="0.0655; a share with clip", runs=SCORING, example=f"90% {method} --train-dataset DTD --epochs 5"),
        Flag("--ddas-iterations", "training steps of a task's autoencoder", 300, whole(1), example=f"100 {method}"),
        Flag("--ddas-reference-iterations", "training steps of the autoencoder of --ddas-reference", 1000, whole(1),
             example=f"100 {method} --ddas-reference TinyImageNet"),
        Flag("--ddas-lr", "learning rate of the autoencoders", 0.01, real(above=0), example=f"0.003 {method}"),
        Flag("--ddas-decay", "divide that rate by ten after every N passes over the images; 0 for never",
             10, whole(0), example=f"0 {method}"),
    ]


def router_flags():
    return [
        Flag("--router", "how to choose among the parts that a method trained for its tasks: sample, each test image "
             "by itself; batch, as published, --batch-size-eval consecutive images of one dataset together, which "
             "reveals to the method that they share a task", "sample", choices=("sample", "batch"),
             runs=SCORING, example="batch --method diki"),
    ]


GROUPS = {
    "distillation": distillation_flags(), "weight averaging": averaging_flags(),
    "gradient projection": projection_flags(), "LoRA": lora_flags(), "iCaRL": memory_flags(),
    "EWC": consolidation_flags(), "InfLoRA": inflora_flags(), "KeepLoRA": keeplora_flags(), "NuSA-CL": nusa_flags(),
    "RAIL and ridge regression": frozen_feature_flags(), "routed methods": router_flags(),
    "DIKI": diki_flags(),
    "MoE-Adapters": expert_flags(),
    "ConDU": condu_flags(),
}

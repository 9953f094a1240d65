# %% [markdown]
# # Pretrain, finetune, and where a model comes from
#
# A network learns from volumes without labels (masked reconstruction); a segmentation then starts from its weights,
# once from the best and once from nothing, and the record tells which model came from which.
#
# As it stands it takes seconds and learns little: more cases and epochs are the three numbers in the first cell.

# %%
import matplotlib.pyplot as plt

import asparagus

CASES, PRETRAINING, FINETUNING = 8, 2, 2  # cases of each task, epochs; the demo has 64 and 40 cases, 5 and 10 epochs

asparagus.make_task("Task998_LauritSyn", cases=CASES)  # images alone
asparagus.make_task("Task997_LauritSynSeg", cases=CASES)  # images, and five classes of voxels

# %% [markdown]
# ## Pretrain
#
# Here in this process; `resources=two_workers` trains the same on two Ray workers, `site=cluster` on a cluster.

# %%
pretrained = asparagus.launch(
    "experiment/laurit_pretrain", [f"trainer.max_epochs={PRETRAINING}"], watcher=asparagus.print_progress
)

# %% [markdown]
# ## Finetune
#
# `init_from` names a run and one of its checkpoints. What is taken over, and what not and why, is said and recorded.

# %%
epochs = f"trainer.max_epochs={FINETUNING}"
parent = f"init_from=run:{pretrained.run_id}/best"
finetuned = asparagus.launch("experiment/laurit_finetune_seg", [parent, epochs], watcher=asparagus.print_progress)

# %%
scratch = asparagus.launch(
    "train_seg",
    ["task=Task997_LauritSynSeg", "optim.lr=1e-2", "optim.sched.warmup_ratio=0.1", "data.batch_size=2", epochs],
    watcher=asparagus.print_progress,
)

# %%
figure, axes = plt.subplots()
for label, outcome in (("from pretrained weights", finetuned), ("from nothing", scratch)):
    axes.plot(*zip(*asparagus.metric_history(outcome.run_id)["val/dice"], strict=True), marker="o", label=label)
axes.set(xlabel="step", ylabel="mean Dice of the validation cases")
axes.legend()

# %% [markdown]
# ## Lineage
#
# Years later the question is which model this one came from, and what came of it.

# %%
tree = asparagus.lineage(finetuned.run_id)
print(tree.describe())
print("its ancestors:", [(relative.run.run_id, relative.checkpoint) for relative in tree.ancestors])

# %% [markdown]
# The same for a shell, and as a page to send to somebody. `asp rerun N` repeats a run from its record alone, and
# `asp diff` says in what two of them differ.

# %%
# !asp lineage {pretrained.run_id} --html lineage.html
# !asp diff {finetuned.run_id} {scratch.run_id}

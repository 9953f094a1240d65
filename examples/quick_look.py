# %% [markdown]
# # A quick look
#
# Train a classifier of handwritten digits, and look at what came of it: some ten seconds on a laptop without a GPU.
#
# Cells begin with `# %%`: VS Code and PyCharm run them one by one, Jupyter opens the file as a notebook by Jupytext,
# and `python quick_look.py` runs all of them. What is written goes to `~/asparagus`, or where `ASPARAGUS_HOME` says.

# %%
import matplotlib.pyplot as plt
import torch

import asparagus

asparagus.make_task("Task001_Digits", cases=600)  # there are 1797

# %% [markdown]
# ## Before it runs
#
# An experiment is a file, and overrides change it. Everything that can be known wrong is said before anything starts,
# with what was meant; `plan_of` starts nothing.

# %%
experiment, overrides = "experiment/digits", ["trainer.max_epochs=5", "optim.lr=1e-2"]
print(asparagus.plan_of(experiment, overrides).describe())

# %%
try:
    asparagus.plan_of(experiment, ["optim.lrr=1e-3", "trainer.max_epoch=3"])
except asparagus.ConfigError as error:
    print(error)

# %% [markdown]
# ## Train

# %%
outcome = asparagus.launch(experiment, overrides, watcher=asparagus.print_progress)
print(f"run {outcome.run_id}: {outcome.metrics['val/accuracy']:.3f} of the validation cases are right")
print(outcome.checkpoint)

# %% [markdown]
# In a shell the same experiment is this line; since the run has finished, it is shown and not trained again.

# %%
# !asp-launch experiment/digits trainer.max_epochs=5 optim.lr=1e-2

# %% [markdown]
# ## What was recorded
#
# Every run is in MLflow's store (`asp ui` opens it) and has a folder. Here are all of them, and the curves of this one.

# %%
for run in asparagus.runs(sort="best"):
    print(run.run_id, run.stage, run.task, run.state, run.score)

# %%
# !asp runs
# !asp show {outcome.run_id}

# %%
history = asparagus.metric_history(outcome.run_id)
figure, axes = plt.subplots()
for name in ("train/loss_epoch", "val/loss"):
    axes.plot(*zip(*history[name], strict=True), marker="o", label=name)
axes.set(xlabel="step", ylabel="loss")
axes.legend()

# %% [markdown]
# ## What it learned
#
# The module with its best weights, its data, and a Trainer: in this process, for anything that torch can do.

# %%
trainer, module, datamodule = asparagus.load_run(outcome.run_id)
datamodule.setup("validate")
batch = next(iter(datamodule.val_dataloader()))
with torch.inference_mode():
    predicted = module(batch["image"]).argmax(dim=1)

figure, places = plt.subplots(2, 8, figsize=(8, 2.5))
for place, image, digit, label in zip(places.flat, batch["image"], predicted, batch["label"], strict=False):
    place.imshow(image[0], cmap="gray")
    place.set_title(int(digit), color="green" if digit == label else "red")
    place.axis("off")

# %% [markdown]
# Next: `pretrain_finetune_lineage.py`, where one run starts from another's weights, and `sweep_and_plots.py`.

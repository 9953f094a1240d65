# %% [markdown]
# # A sweep and its plots
#
# A line with several values is a search: Optuna proposes, Ray Tune runs the trials side by side, and each trial is a
# recorded run. Ray starts with the sweep and ends with it.

# %%
import matplotlib.pyplot as plt
import optuna

import asparagus

asparagus.make_task("Task001_Digits", cases=600)

# %% [markdown]
# ## Search
#
# In a shell: `asp-launch experiment/digits -m optim.lr='tag(log,interval(1e-4,1e-1))' data.batch_size=32,64 ...`

# %%
TRIALS = 6
search = [
    "optim.lr=tag(log,interval(1e-4,1e-1))",
    "data.batch_size=32,64",
    f"sweep.trials={TRIALS}",
    "sweep.scheduler=asha",  # what is much worse than the others after an epoch is stopped there
    "trainer.max_epochs=3",
]
outcome = asparagus.launch_sweep("experiment/digits", search, watcher=asparagus.print_progress)

# %%
for trial in outcome.trials:  # the best first
    print(trial["run_id"], trial["state"], trial["params"], trial["metrics"])
best_run = outcome.best["run_id"]
print(f"the best is run {best_run}: {outcome.best['params']}")

# %% [markdown]
# ## Plots
#
# They lie in the sweep's folder, `index.html` with all of them on a page, and in MLflow. For others there is Optuna's
# study itself.

# %%
print(f"{outcome.folder}/plots/index.html")
study = asparagus.load_study(outcome.sweep_id)
axes = optuna.visualization.matplotlib.plot_optimization_history(study)
axes = optuna.visualization.matplotlib.plot_slice(study, params=["optim.lr"])

# %% [markdown]
# Whatever the record has can be drawn too: the curves of all trials.

# %%
figure, axes = plt.subplots()
for trial in outcome.trials:
    curve = asparagus.metric_history(trial["run_id"])["val/loss"]
    axes.plot(*zip(*curve, strict=True), marker="o", label=f"lr {trial['params']['optim.lr']:.2g}")
axes.set(xlabel="step", ylabel="val/loss", yscale="log")
axes.legend()

# %% [markdown]
# ## Go on
#
# More trials go on with the same search: `sweep.trials=12` in the cell above trains six more. A training that starts
# from the best trial's weights says `init_from=sweep:ID@best`. And the best trial once more, for longer:

# %%
# !asp runs --stage sweep
# !asp rerun {best_run} trainer.max_epochs=10 --dry-run

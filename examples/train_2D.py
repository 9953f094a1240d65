"""A training config in Python, as in the CellMap challenge: `asp-launch examples/train_2D.py`, or run this file."""

task = "Task997_LauritSynSeg"  # a folder of ASPARAGUS_DATA; asp data make builds this one

learning_rate = 1e-3
batch_size = 8
epochs = 3
iterations_per_epoch = 10  # each an independently drawn random batch
random_seed = 42
input_array_info = {"shape": (1, 32, 32), "scale": (8, 8, 8)}  # a first axis of 1 is two-dimensional
model_name = "2d_unet"
model_kwargs = {"features": [8, 16, 32]}
validation_batch_limit = 4
logs_save_path = "tensorboard/{model_name}"

if __name__ == "__main__":
    import asparagus

    asparagus.launch(__file__)

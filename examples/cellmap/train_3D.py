"""CellMap's example in three dimensions: `asp-launch examples/cellmap/train_3D.py`, or run this file.

Volumes lie in ASPARAGUS_DATA as `{dataset}/{dataset}.zarr/recon-1/...`; with `use_s3 = True` they are streamed.
"""

learning_rate = 0.0001
batch_size = 3
input_array_info = {"shape": (128, 128, 128), "scale": (8, 8, 8)}  # voxels and nm per voxel, along z, y and x
target_array_info = {"shape": (128, 128, 128), "scale": (8, 8, 8)}
epochs = 1000
iterations_per_epoch = 1000
random_seed = 42
classes = ["nuc", "er"]

model_name = "3d_unet"  # or 3d_resnet, vitnet; or build any torch module as `model`
model_to_load = "3d_unet"
load_model = "latest"

logs_save_path = "tensorboard/{model_name}"
datasplit_path = "datasplit.csv"  # written if it is not there
spatial_transforms = {
    "mirror": {"axes": {"x": 0.5, "y": 0.5, "z": 0.1}},
    "transpose": {"axes": ["x", "y", "z"]},
    "rotate": {"axes": {"x": [-180, 180], "y": [-180, 180], "z": [-180, 180]}},
}
validation_time_limit = 60  # seconds

if __name__ == "__main__":
    import asparagus

    asparagus.launch(__file__)

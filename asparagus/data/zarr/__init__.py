"""Bio-imaging volumes: crops of OME-NGFF Zarr at a physical scale, listed in a `datasplit.csv` (SEEDS E5 to E44)."""

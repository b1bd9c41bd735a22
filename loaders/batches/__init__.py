"""The same batches by torch, DALI or MONAI."""

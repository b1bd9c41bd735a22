"""The same batches from torch, DALI or MONAI."""

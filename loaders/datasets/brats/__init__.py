"""BraTS: brain MRI of every release."""

"""BraTS: multi-channel brain MRI, the releases from 2017 on."""

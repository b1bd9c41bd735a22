"""The Medical Segmentation Decathlon's and nnU-Net's folders."""

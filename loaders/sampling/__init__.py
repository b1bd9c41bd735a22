"""Folds, normalization and the draws of samples: pure and seeded."""

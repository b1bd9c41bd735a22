"""Losses for multi-label classification and for regression."""

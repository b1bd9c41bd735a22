"""What a run leaves: tables, verdict and report. Imports neither torch, Ray nor DALI."""

"""What a run leaves behind: tables, verdict and report. Imports no torch, Ray or DALI."""

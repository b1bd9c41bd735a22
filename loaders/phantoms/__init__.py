"""Made data in true formats."""

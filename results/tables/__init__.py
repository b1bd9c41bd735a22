"""The Parquet tables of a run: their columns and files."""

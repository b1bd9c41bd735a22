"""The networks: one row each in the table, one file per family."""

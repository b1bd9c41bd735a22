"""The networks: one row each in the table, one family a file."""

"""Networks: one table, one family of architectures a file."""

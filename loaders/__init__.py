"""Raw files to cases, cases to a store, a store to batches."""

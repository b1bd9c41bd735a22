"""Object storage: runs and stores at s3:// and gs://, each with a copy on the local disk."""

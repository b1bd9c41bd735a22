"""Networks that predict for a whole image: a class, findings, a grade or a number."""

"""One part of the page a file: a function from a run to what its template shows."""

"""The parts of the page, one file each: a function from a run to what its template shows."""

"""Sections of the page, one file each: functions from a run to what its template shows."""

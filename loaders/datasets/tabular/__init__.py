"""Images and cine loops that a table labels."""

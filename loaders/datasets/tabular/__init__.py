"""Images and cine loops labelled by a table."""

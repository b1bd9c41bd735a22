"""Coded pictures: what their bytes declare, and PNG without detours."""

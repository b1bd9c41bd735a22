"""Statistics of scores: pure functions of arrays, with numpy and scipy alone."""

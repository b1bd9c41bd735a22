"""What scores can tell: pure functions of arrays, numpy and scipy only."""

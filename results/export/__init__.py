"""Output for other tools: the scores of each case, the settings of the winner."""

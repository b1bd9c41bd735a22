"""What a run gives to other tools: scores case by case, settings of the winner."""

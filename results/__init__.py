"""Tables, statistics, plots and the report; knows neither torch nor Ray."""

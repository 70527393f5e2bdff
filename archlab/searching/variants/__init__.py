"""An experiment with a trial's values in it: paths, patterns, parameters, and budgets that models are held to."""

"""An experiment with a trial's values in it: paths, patterns, parameters, and target costs."""

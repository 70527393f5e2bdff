"""Search spaces from YAML, checked: varied knobs, compared choices, objectives, constraints, and the study."""

"""Search spaces from YAML, checked: what varies, what is compared, objectives, constraints, and the study."""

"""The storage of a search: Optuna's study and its database, the directory, claims, and the search's identity."""

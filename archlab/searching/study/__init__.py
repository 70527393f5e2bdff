"""What a search stores: Optuna's study and its database, the directory, claims, and the search's identity."""

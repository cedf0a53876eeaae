"""LiteMQ: SQLite, replicated. One primary, any number of replicas, ordinary files."""

"""Who may write, and in which epoch."""

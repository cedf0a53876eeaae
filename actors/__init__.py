"""The processes of a node: one poll loop each, no shared memory, no locks between them."""

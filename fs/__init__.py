"""Files on this machine: FUSE, SQLite's formats and locks. Knows no network, imports pyfuse3."""

"""Files on this machine: FUSE, SQLite's own formats and locks. Knows no network; the only folder that imports pyfuse3."""

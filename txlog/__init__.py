"""The log: LTX records, checksums, segments, retention, restore. The format all others speak."""

"""The log: LTX records, checksums, segments, retention, restore. The one format every other part
speaks.
"""

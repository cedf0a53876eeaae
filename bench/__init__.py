"""What `litemq bench` and `litemq demo` run: real nodes on this machine, and plain SQLite programs
at work in them.
"""

"""Bytes between processes: typed messages, frames, sockets. Knows no SQLite, imports zmq."""

"""Bytes between processes: typed messages, frames, sockets. Knows no SQLite; the only folder that imports zmq."""

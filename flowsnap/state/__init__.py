"""Keyed state: a generational table over RocksDB."""

"""Object storage: what the checkpoint store and the connectors of files both need to reach it."""

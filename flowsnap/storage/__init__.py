"""The checkpoint store: contract, directory, memory."""

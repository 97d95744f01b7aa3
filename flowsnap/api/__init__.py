"""What users write: pipelines, streams, keyed streams."""

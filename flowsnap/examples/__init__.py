"""Pipelines that run: ``flowsnap run flowsnap.examples.wordcount``."""

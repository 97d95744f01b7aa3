"""Where records come from and go to: sources and sinks."""

from flowsnap.connectors.collect import Collect
from flowsnap.connectors.discard import Discard
from flowsnap.connectors.generator import Generator
from flowsnap.connectors.iterable import FromIterable
from flowsnap.connectors.json_lines import JsonLinesFiles
from flowsnap.connectors.text_files import TextFiles

__all__ = ["TextFiles", "JsonLinesFiles", "Generator", "FromIterable", "Collect", "Discard"]

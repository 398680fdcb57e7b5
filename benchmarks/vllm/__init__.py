"""What holding and recording cost inside vLLM, each arm an engine of its own, measured in turn."""

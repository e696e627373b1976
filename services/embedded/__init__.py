"""The embedded stack: real Kafka, Redis and Triton as supervised child processes, on localhost."""

"""HTTP and gRPC in front of the queue, for clients that speak to OpenAI, TEI, Ollama or the Rust embedding service."""

"""The API that programs written for Ollama use."""

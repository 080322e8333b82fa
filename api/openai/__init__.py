"""The OpenAI dialect: what programs written for that API find under /v1."""

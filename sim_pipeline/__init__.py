"""Simulated LLM serving metrics: generated, stored in PostgreSQL, published to RabbitMQ."""

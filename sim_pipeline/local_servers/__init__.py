"""PostgreSQL and RabbitMQ of a checkout's own, on loopback."""

"""PostgreSQL and RabbitMQ servers on loopback that belong to one checkout."""

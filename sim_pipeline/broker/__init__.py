"""RabbitMQ: the message and its contract, the publisher and the consumer. No database."""

"""RabbitMQ: the message contract and the confirmed publisher. Knows no Dagster, no database."""

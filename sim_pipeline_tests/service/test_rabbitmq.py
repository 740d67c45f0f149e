"""The private RabbitMQ node."""

from sim_pipeline.service.rabbitmq import LocalRabbitMQ


def test_only_our_user_exists(rabbitmq_server: LocalRabbitMQ) -> None:
    rows = rabbitmq_server.ctl("list_users", "--no-table-headers").splitlines()
    assert [row.split()[0] for row in rows] == [rabbitmq_server.user]

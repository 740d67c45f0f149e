#!/bin/sh
# Writes PgBouncer's files, which cannot read the environment themselves, and becomes PgBouncer.
set -eu
umask 077
directory=${PGBOUNCER_DIRECTORY:-/run/pgbouncer}

# A password in quotes; a quote in it is written twice.
quoted=$(printf %s "$POSTGRES_PASSWORD" | sed 's/"/""/g')
printf '"%s" "%s"\n' "$POSTGRES_USER" "$quoted" > "$directory/users"

cat > "$directory/pgbouncer.ini" <<INI
[databases]
$DAGSTER_POSTGRES_DB = host=$POSTGRES_HOST port=$POSTGRES_PORT

[pgbouncer]
listen_addr = ${PGBOUNCER_ADDRESS:-0.0.0.0}
listen_port = $DAGSTER_STORAGE_PORT
unix_socket_dir =
auth_type = scram-sha-256
auth_file = $directory/users
pool_mode = transaction
# Clients may be as many as there are runs; PostgreSQL sees no more than these.
max_client_conn = 1000
default_pool_size = 20
ignore_startup_parameters = extra_float_digits
server_tls_sslmode = $POSTGRES_SSLMODE
${POSTGRES_SSLROOTCERT:+server_tls_ca_file = $POSTGRES_SSLROOTCERT}
log_connections = 0
log_disconnections = 0
INI

exec pgbouncer "$directory/pgbouncer.ini"

#!/bin/sh
# Writes PgBouncer's configuration from environment variables, then executes PgBouncer.
set -eu
umask 077
directory=${PGBOUNCER_DIRECTORY:-/run/pgbouncer}

# The user list needs the password in double quotes, with double quotes doubled.
quoted=$(printf %s "$POSTGRES_PASSWORD" | sed 's/"/""/g')
printf '"%s" "%s"\n' "$POSTGRES_USER" "$quoted" > "$directory/users"

# The session settings that clients rely on (SESSION_SETTINGS in sim_pipeline/store/connection.py).
# Clients send them in `options`, which PgBouncer cannot forward. Single quotes are doubled.
session="SET TimeZone = ''UTC''; SET DateStyle = ''ISO''; SET IntervalStyle = ''postgres'';\
 SET extra_float_digits = ''1''; SET default_transaction_isolation = ''read committed'';\
 SET statement_timeout = ''0''; SET lock_timeout = ''0'';\
 SET idle_in_transaction_session_timeout = ''0''; SET standard_conforming_strings = ''on''"

cat > "$directory/pgbouncer.ini" <<INI
[databases]
$DAGSTER_POSTGRES_DB = host=$POSTGRES_HOST port=$POSTGRES_PORT connect_query='$session'

[pgbouncer]
listen_addr = ${PGBOUNCER_ADDRESS:-0.0.0.0}
listen_port = $DAGSTER_STORAGE_PORT
unix_socket_dir =
auth_type = scram-sha-256
auth_file = $directory/users
pool_mode = transaction
# Each run connects as a client; PostgreSQL gets at most default_pool_size connections.
max_client_conn = 1000
default_pool_size = 20
ignore_startup_parameters = extra_float_digits,options
server_tls_sslmode = $POSTGRES_SSLMODE
${POSTGRES_SSLROOTCERT:+server_tls_ca_file = $POSTGRES_SSLROOTCERT}
log_connections = 0
log_disconnections = 0
INI

exec pgbouncer "$directory/pgbouncer.ini"

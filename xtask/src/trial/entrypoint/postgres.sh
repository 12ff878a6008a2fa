#!/usr/bin/env bash
# Makes a cluster where there is none, as the user postgres, and becomes the server.
set -Eeo pipefail
if [ "${1:0:1}" = - ]; then
    set -- postgres "$@"
fi
if [ "$1" = postgres ] && [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA" /var/run/postgresql
    chmod 00700 "$PGDATA"
    chmod 03775 /var/run/postgresql
    find "$PGDATA" \! -user postgres -exec chown postgres '{}' +
    find /var/run/postgresql \! -user postgres -exec chown postgres '{}' +
    exec gosu postgres "$0" "$@"
fi
if [ "$1" = postgres ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
    if [ -z "$POSTGRES_PASSWORD" ]; then
        echo 'POSTGRES_PASSWORD is not set' >&2
        exit 1
    fi
    initdb --username=postgres --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") --auth-host=scram-sha-256
    printf '\nhost all all all scram-sha-256\n' >> "$PGDATA/pg_hba.conf"
    PGUSER=postgres pg_ctl -o "-c listen_addresses='' -p 5432" -t 300 -w start
    psql -v ON_ERROR_STOP=1 --no-psqlrc -U postgres -d postgres --set db="$POSTGRES_DB" \
        <<< 'CREATE DATABASE :"db";'
    for file in /docker-entrypoint-initdb.d/*; do
        case $file in
            *.sh) if [ -x "$file" ]; then "$file"; else . "$file"; fi ;;
            *.sql) psql -v ON_ERROR_STOP=1 --no-psqlrc -U postgres -d "$POSTGRES_DB" -f "$file" ;;
        esac
    done
    PGUSER=postgres pg_ctl -m fast -t 300 -w stop
    echo 'PostgreSQL init process complete; ready for start up.'
fi
exec "$@"

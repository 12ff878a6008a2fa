#!/usr/bin/env bash
# Becomes the broker as the user rabbitmq.
set -euo pipefail
if [[ "$1" == rabbitmq* ]] && [ "$(id -u)" = 0 ]; then
    if [ "$1" = rabbitmq-server ]; then
        find /var/lib/rabbitmq \! -user rabbitmq -exec chown rabbitmq '{}' +
    fi
    exec gosu rabbitmq "$0" "$@"
fi
cookie=/var/lib/rabbitmq/.erlang.cookie
if [ -n "${RABBITMQ_ERLANG_COOKIE:-}" ] && [ ! -e "$cookie" ]; then
    printf %s "$RABBITMQ_ERLANG_COOKIE" > "$cookie"
    chmod 600 "$cookie"
fi
exec "$@"

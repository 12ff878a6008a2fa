#!/bin/sh
# Runs what is in /docker-entrypoint.d before nginx.
set -e
if [ "$1" = nginx ]; then
    for file in /docker-entrypoint.d/*.sh; do
        [ -x "$file" ] || continue
        echo "$0: running $file"
        "$file"
    done
    echo "$0: ready to start nginx"
fi
exec "$@"

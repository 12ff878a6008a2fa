#!/bin/bash
# Makes the system tables where there are none, as the user mysql, sets the root password, and becomes the server.
set -eo pipefail
datadir=/var/lib/mysql
socket=/run/mysqld/mysqld.sock
if [ "${1:0:1}" = - ]; then
    set -- mariadbd "$@"
fi
if [ "$1" = mariadbd ] && [ "$(id -u)" = 0 ]; then
    find "$datadir" \! -user mysql -exec chown mysql: '{}' +
    find "${socket%/*}" -maxdepth 0 \! -user mysql -exec chown mysql: '{}' \;
    exec gosu mysql "$0" "$@"
fi
if [ "$1" = mariadbd ] && [ ! -d "$datadir/mysql" ]; then
    echo 'Initializing database files'
    mariadb-install-db --datadir="$datadir" --rpm --auth-root-authentication-method=normal \
        --skip-test-db --old-mode='UTF8_IS_UTF8MB3' --default-time-zone=SYSTEM --enforce-storage-engine= \
        --skip-log-bin --loose-innodb_buffer_pool_load_at_startup=0 --loose-innodb_buffer_pool_dump_at_shutdown=0
    echo 'Starting temporary server'
    "$@" --skip-networking --socket="$socket" --skip-slave-start --wsrep_on=OFF --expire-logs-days=0 &
    server=$!
    for _ in {300..0}; do
        if mariadb --protocol=socket -uroot -hlocalhost --socket="$socket" <<< 'SELECT 1' > /dev/null 2>&1; then
            break
        fi
        sleep 1
    done
    mariadb --protocol=socket -uroot -hlocalhost --socket="$socket" <<END
SET @@SESSION.SQL_LOG_BIN=0;
DROP USER IF EXISTS 'root'@'127.0.0.1', 'root'@'::1', 'root'@'$HOSTNAME';
SET PASSWORD FOR 'root'@'localhost'= PASSWORD('$MARIADB_ROOT_PASSWORD');
CREATE USER 'root'@'%' IDENTIFIED BY '$MARIADB_ROOT_PASSWORD';
GRANT ALL ON *.* TO 'root'@'%' WITH GRANT OPTION;
CREATE DATABASE IF NOT EXISTS \`$MARIADB_DATABASE\`;
END
    echo 'Stopping temporary server'
    kill "$server"
    wait "$server"
    echo 'MariaDB init process done. Ready for start up.'
fi
exec "$@"

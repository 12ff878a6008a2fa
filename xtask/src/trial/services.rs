//! The services of the trial, configured and started as by their official images, and made of
//! Debian's packages.

use std::time::Duration;

use serde_json::{Value, json};

use crate::image::{Action, Compression, Image, Recipe};

/// A service in an image.
pub(super) struct Service {
    pub(super) name: &'static str,
    /// A script that installs it in the image.
    packages: &'static str,
    /// A script at the image's root that adds files besides the packages.
    configure: &'static str,
    /// The image's configuration, without the search path.
    config: fn() -> Value,
    /// Options that a user adds on the command line.
    pub(super) options: &'static [&'static str],
    /// A command in the sandbox that succeeds when the service answers.
    pub(super) ready: &'static str,
    /// A command that uses the service and stores data, and a part of its output.
    pub(super) used: (&'static str, &'static str),
    /// A command that finds the data after a restart, and a part of its output.
    pub(super) kept: (&'static str, &'static str),
    /// What the service logs when it ends by itself.
    pub(super) farewell: &'static str,
    /// Its exit status then.
    pub(super) status: i64,
}

impl Service {
    pub(super) fn image(&self) -> Image {
        let mut config = (self.config)();
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/postgresql/15/bin";
        match &mut config["Env"] {
            Value::Array(env) => env.insert(0, path.into()),
            env => *env = json!([path]),
        }
        let recipe = |name: &str, why, action| Recipe {
            name: name.to_owned(),
            why,
            compression: Compression::Gzip,
            action,
        };
        Image {
            folder: "trial",
            name: self.name,
            config,
            recipes: vec![
                recipe("base", "Debian, as small as apt works", Action::Bootstrap),
                recipe(self.name, "the packages", Action::Inside(self.packages)),
                recipe(
                    &format!("{}-start", self.name),
                    "what starts the service",
                    Action::Outside(self.configure),
                ),
            ],
        }
    }
}

/// How long a service may take to answer in an emulated guest.
pub(super) const READY_TIME: Duration = Duration::from_secs(600);

/// Returns a script that installs packages without starting services.
macro_rules! install {
    ($packages:literal) => {
        concat!(
            "printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
apt-get update -qq
apt-get install -y -qq --no-install-recommends ",
            $packages,
            "
apt-get clean
rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/*.log /var/cache/ldconfig/aux-cache"
        )
    };
}

/// Returns a script that adds a start script to the image, and runs more lines.
macro_rules! configure {
    ($entrypoint:literal, $more:literal) => {
        concat!(
            "cat > usr/local/bin/docker-entrypoint.sh <<'ENTRYPOINT'\n",
            include_str!(concat!("entrypoint/", $entrypoint, ".sh")),
            "ENTRYPOINT
chmod 755 usr/local/bin/docker-entrypoint.sh
",
            $more
        )
    };
}

pub(super) const SERVICES: &[Service] = &[
    Service {
        name: "nginx",
        packages: install!("nginx-light curl"),
        configure: configure!(
            "nginx",
            "ln -s usr/local/bin/docker-entrypoint.sh docker-entrypoint.sh
mkdir docker-entrypoint.d
printf '#!/bin/sh\\necho prepared > /var/www/html/prepared\\n' > docker-entrypoint.d/10-prepare.sh
chmod 755 docker-entrypoint.d/10-prepare.sh
ln -sf /dev/stdout var/log/nginx/access.log
ln -sf /dev/stderr var/log/nginx/error.log"
        ),
        config: || {
            json!({
                "Entrypoint": ["/docker-entrypoint.sh"],
                "Cmd": ["nginx", "-g", "daemon off; error_log /dev/stderr notice;"],
                "ExposedPorts": {"80/tcp": {}},
                "StopSignal": "SIGQUIT",
            })
        },
        options: &[],
        ready: "curl -fsS http://localhost/",
        used: (
            "curl -fsS http://localhost/prepared && echo kept > /var/www/html/kept",
            "prepared",
        ),
        kept: ("curl -fsS http://localhost/kept", "kept"),
        farewell: "gracefully shutting down",
        status: 0,
    },
    Service {
        name: "postgres",
        packages: install!("postgresql-15 postgresql-client-15 gosu"),
        configure: configure!(
            "postgres",
            "rm -r var/lib/postgresql
mkdir -p -m 1777 var/lib/postgresql/data
mkdir -p -m 3777 run/postgresql
mkdir docker-entrypoint-initdb.d
echo 'CREATE TABLE prepared (word text);' > docker-entrypoint-initdb.d/table.sql
chroot . chown -R postgres:postgres /var/lib/postgresql /run/postgresql"
        ),
        config: || {
            json!({
                "Entrypoint": ["docker-entrypoint.sh"],
                "Cmd": ["postgres"],
                "Env": ["LANG=C.UTF-8", "PG_MAJOR=15", "PGDATA=/var/lib/postgresql/data"],
                "Volumes": {"/var/lib/postgresql/data": {}},
                "ExposedPorts": {"5432/tcp": {}},
                "StopSignal": "SIGINT",
            })
        },
        options: &["-e", "POSTGRES_PASSWORD=secret", "-e", "POSTGRES_DB=app"],
        ready: "PGPASSWORD=secret psql -h 127.0.0.1 -U postgres -d app -c 'SELECT 1'",
        used: (
            "gosu postgres psql -d app -tAc \"INSERT INTO prepared VALUES ('kept') RETURNING word\"",
            "kept",
        ),
        kept: (
            "PGPASSWORD=secret psql -h localhost -U postgres -d app -tAc 'SELECT word FROM prepared'",
            "kept",
        ),
        farewell: "database system is shut down",
        status: 0,
    },
    Service {
        name: "redis",
        packages: install!("redis-server redis-tools"),
        configure: configure!(
            "redis",
            "mkdir data
chroot . chown redis:redis /data"
        ),
        config: || {
            json!({
                "Entrypoint": ["docker-entrypoint.sh"],
                "Cmd": ["redis-server"],
                "WorkingDir": "/data",
                "Volumes": {"/data": {}},
                "ExposedPorts": {"6379/tcp": {}},
            })
        },
        options: &[],
        ready: "redis-cli PING | grep PONG",
        used: ("redis-cli SET word kept", "OK"),
        kept: ("redis-cli GET word", "kept"),
        farewell: "Redis is now ready to exit",
        status: 0,
    },
    Service {
        name: "mariadb",
        packages: install!("mariadb-server gosu"),
        configure: configure!(
            "mariadb",
            "rm -rf var/lib/mysql
mkdir -p var/lib/mysql run/mysqld
chroot . chown -R mysql:mysql /var/lib/mysql /run/mysqld
chmod 1777 run/mysqld
printf '[mariadb]\\nhost-cache-size=0\\nskip-name-resolve\\nbind-address=*\\n' > etc/mysql/mariadb.conf.d/90-image.cnf"
        ),
        config: || {
            json!({
                "Entrypoint": ["docker-entrypoint.sh"],
                "Cmd": ["mariadbd"],
                "Env": ["LANG=C.UTF-8"],
                "Volumes": {"/var/lib/mysql": {}},
                "ExposedPorts": {"3306/tcp": {}},
            })
        },
        options: &[
            "-e",
            "MARIADB_ROOT_PASSWORD=secret",
            "-e",
            "MARIADB_DATABASE=app",
        ],
        ready: "mariadb -h 127.0.0.1 -uroot -psecret app -e 'SELECT 1'",
        used: (
            "mariadb -h localhost -uroot -psecret app -e \"CREATE TABLE t (word text); INSERT INTO t VALUES ('kept'); SELECT * FROM t\"",
            "kept",
        ),
        kept: (
            "mariadb -h 127.0.0.1 -uroot -psecret app -e 'SELECT * FROM t'",
            "kept",
        ),
        farewell: "Shutdown complete",
        status: 0,
    },
    Service {
        name: "node",
        packages: install!("nodejs curl"),
        configure: configure!(
            "node",
            "echo 'node:x:1000:1000::/home/node:/bin/bash' >> etc/passwd
echo 'node:x:1000:' >> etc/group
mkdir -p home/node/app
cat > home/node/app/server.js <<'END'
const fs = require('fs');
const http = require('http');
const server = http.createServer((request, response) => {
    if (request.method === 'PUT') fs.writeFileSync('word', 'kept');
    response.end(fs.existsSync('word') ? fs.readFileSync('word') : 'empty');
});
server.listen(3000, () => console.log(`${process.title} as ${process.getuid()} on 3000`));
process.on('SIGTERM', () => server.close(() => console.log('closed')));
END
chown -R 1000:1000 home/node"
        ),
        config: || {
            json!({
                "Entrypoint": ["docker-entrypoint.sh"],
                "Cmd": ["server.js"],
                "Env": ["NODE_ENV=production"],
                "User": "node",
                "WorkingDir": "/home/node/app",
                "ExposedPorts": {"3000/tcp": {}},
            })
        },
        options: &[],
        ready: "curl -fsS http://localhost:3000/",
        used: ("curl -fsS -X PUT http://localhost:3000/", "kept"),
        kept: ("curl -fsS http://localhost:3000/", "kept"),
        farewell: "closed",
        status: 0,
    },
    Service {
        name: "python",
        packages: install!("python3 python3-flask gunicorn curl"),
        configure: "mkdir -p app data
cat > app/app.py <<'END'
import multiprocessing
import sqlite3

from flask import Flask, request

app = Flask(__name__)
# Takes a semaphore in shared memory.
lock = multiprocessing.Lock()


@app.route('/', methods=['GET', 'PUT'])
def words():
    with lock, sqlite3.connect('/data/words.db') as database:
        database.execute('CREATE TABLE IF NOT EXISTS words (word TEXT)')
        if request.method == 'PUT':
            database.execute(\"INSERT INTO words VALUES ('kept')\")
        return str(database.execute('SELECT word FROM words').fetchall())
END
chown 33:33 data",
        config: || {
            json!({
                "Cmd": ["gunicorn", "--workers=2", "--timeout=300", "--bind=0.0.0.0:8000", "app:app"],
                "Env": ["LANG=C.UTF-8", "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1"],
                "User": "www-data",
                "WorkingDir": "/app",
                "Volumes": {"/data": {}},
                "ExposedPorts": {"8000/tcp": {}},
            })
        },
        options: &[],
        ready: "curl -fsS http://localhost:8000/",
        used: ("curl -fsS -X PUT http://localhost:8000/", "kept"),
        kept: ("curl -fsS http://localhost:8000/", "kept"),
        farewell: "Shutting down: Master",
        status: 0,
    },
    Service {
        name: "caddy",
        packages: install!("caddy curl libcap2-bin"),
        configure: "mkdir -p config/caddy data/caddy etc/caddy usr/share/caddy srv
setcap cap_net_bind_service=+ep usr/bin/caddy
printf ':80 {\\n\\troot * /usr/share/caddy\\n\\tfile_server\\n}\\n\\nlocalhost:443 {\\n\\ttls internal\\n\\trespond secure\\n}\\n' > etc/caddy/Caddyfile
echo welcome > usr/share/caddy/index.html
chown -R 33:33 config data",
        config: || {
            json!({
                "Cmd": ["caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"],
                "Env": ["XDG_CONFIG_HOME=/config", "XDG_DATA_HOME=/data"],
                "User": "www-data",
                "WorkingDir": "/srv",
                "Volumes": {"/config": {}, "/data": {}},
                "ExposedPorts": {"80/tcp": {}, "443/tcp": {}, "443/udp": {}, "2019/tcp": {}},
            })
        },
        options: &[],
        ready: "curl -fsS http://localhost/",
        used: (
            "curl -fsS --cacert /data/caddy/pki/authorities/local/root.crt https://localhost/ && cksum < /data/caddy/pki/authorities/local/root.crt > /data/kept",
            "secure",
        ),
        kept: (
            "test \"$(cat /data/kept)\" = \"$(cksum < /data/caddy/pki/authorities/local/root.crt)\" && curl -fsS --cacert /data/caddy/pki/authorities/local/root.crt https://localhost/",
            "secure",
        ),
        farewell: "shutdown complete",
        status: 0,
    },
    Service {
        name: "rabbitmq",
        packages: install!("rabbitmq-server gosu"),
        configure: configure!(
            "rabbitmq",
            "rm -rf var/lib/rabbitmq
mkdir -m 1777 var/lib/rabbitmq
mkdir -p run/rabbitmq
printf '#!/bin/sh\\nexec /usr/lib/rabbitmq/bin/rabbitmq-server \"$@\"\\n' > usr/local/bin/rabbitmq-server
chmod 755 usr/local/bin/rabbitmq-server
chroot . chown rabbitmq:rabbitmq /var/lib/rabbitmq /run/rabbitmq
printf 'log.console = true\\nloopback_users.guest = false\\n' > etc/rabbitmq/rabbitmq.conf"
        ),
        config: || {
            json!({
                "Entrypoint": ["docker-entrypoint.sh"],
                "Cmd": ["rabbitmq-server"],
                "Env": ["LANG=C.UTF-8", "HOME=/var/lib/rabbitmq", "RABBITMQ_DATA_DIR=/var/lib/rabbitmq", "RABBITMQ_LOGS=-"],
                "Volumes": {"/var/lib/rabbitmq": {}},
                "ExposedPorts": {"4369/tcp": {}, "5672/tcp": {}, "25672/tcp": {}},
            })
        },
        options: &["--hostname", "broker"],
        // This port is opened last; the service's own programs take half a minute to start under
        // emulation.
        ready: "bash -c 'exec 3<> /dev/tcp/127.0.0.1/5672'",
        used: (
            "rabbitmqctl add_vhost kept && rabbitmqctl status",
            "rabbit@broker",
        ),
        kept: ("rabbitmqctl list_vhosts", "kept"),
        farewell: "Stopping message store",
        status: 0,
    },
    Service {
        name: "systemd",
        packages: install!("systemd systemd-sysv dbus cron"),
        configure: "cat > etc/systemd/system/trial.service <<'END'
[Unit]
Description=What begins and ends with the machine

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'echo begun >> /var/lib/trial'
ExecStop=/bin/sh -c 'echo ended >> /var/lib/trial'

[Install]
WantedBy=multi-user.target
END
mkdir -p etc/systemd/system/multi-user.target.wants
ln -s ../trial.service etc/systemd/system/multi-user.target.wants/trial.service",
        config: || {
            json!({
                "Cmd": ["/sbin/init"],
                "Env": ["container=docker"],
                "StopSignal": "SIGRTMIN+3",
                "Volumes": {"/sys/fs/cgroup": {}, "/run": {}, "/tmp": {}},
            })
        },
        options: &[],
        ready: "systemctl is-system-running --wait",
        used: (
            "systemctl is-active cron trial systemd-journald dbus && journalctl -u trial --no-pager -n 1 && cat /var/lib/trial",
            "begun",
        ),
        kept: ("systemctl is-system-running && tr '\\n' ' ' < /var/lib/trial", "begun ended begun"),
        farewell: "",
        // The status of process 1 of a PID namespace that halts: the kernel ends it with SIGINT.
        status: 130,
    },
    Service {
        name: "docker",
        packages: install!("docker.io iptables ca-certificates busybox-static"),
        configure: configure!(
            "docker",
            "mkdir certs
chmod 1777 certs"
        ),
        config: || {
            json!({
                "Entrypoint": ["docker-entrypoint.sh"],
                "Env": ["DOCKER_TLS_CERTDIR=/certs"],
                "Volumes": {"/var/lib/docker": {}},
                "ExposedPorts": {"2375/tcp": {}, "2376/tcp": {}},
            })
        },
        options: &["--disk-dir", "/var/lib/docker"],
        ready: "docker info",
        used: (
            "mkdir -p /tmp/root/bin && cp /bin/busybox /tmp/root/bin/sh && tar -C /tmp/root -c . | docker import - small && docker run --rm small /bin/sh -c 'echo inside $((6 * 7))'",
            "inside 42",
        ),
        kept: ("docker run --rm small /bin/sh -c 'echo kept'", "kept"),
        farewell: "Processing signal 'terminated'",
        status: 0,
    },
];

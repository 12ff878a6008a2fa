//! The recipes of the demo image's layers.

/// How one layer is made.
pub(crate) struct Recipe {
    /// A short name, which also names the layer's folder.
    pub(crate) name: String,
    /// What it demonstrates.
    pub(crate) why: &'static str,
    pub(crate) compression: Compression,
    pub(crate) action: Action,
}

/// The compression of a layer's blob.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Gzip,
    Zstd,
}

impl Compression {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    pub(super) fn media_type(self) -> String {
        format!("application/vnd.oci.image.layer.v1.tar+{}", self.name())
    }
}

/// How the layer's changes are made.
pub(crate) enum Action {
    /// With mmdebstrap, in an empty directory.
    Bootstrap,
    /// With a shell in the image, with network.
    Inside(&'static str),
    /// With a shell of the host in the image's root, whose `$TARGET` is cargo's target folder: for
    /// programs that the image lacks.
    Outside(&'static str),
}

/// The suite the base is made of.
pub(super) const SUITE: &str = "bookworm";

/// The layers, lowest first.
pub(super) fn demo() -> Vec<Recipe> {
    use Action::{Bootstrap, Inside, Outside};
    use Compression::{Gzip, Zstd};
    let recipe = |name: &str, why, compression, action| Recipe {
        name: name.to_owned(),
        why,
        compression,
        action,
    };
    vec![
        recipe("base", "Debian, as small as apt works", Gzip, Bootstrap),
        recipe(
            "python",
            "python3 with its whole standard library",
            Gzip,
            Inside(
                "apt-get update -qq
apt-get install -y -qq --no-install-recommends \
    python3 libpython3-stdlib python3-venv python3-distutils python3-lib2to3 python3-gdbm
apt-get clean
rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/*.log /var/cache/ldconfig/aux-cache",
            ),
        ),
        recipe(
            "app",
            "links, a capability, an ACL, xattrs, a setgid directory, a sparse file, odd names",
            Gzip,
            Outside(APP),
        ),
        recipe(
            "overwrite",
            "overwrites files of two lower layers",
            Zstd,
            Outside(
                "printf 'greeting = \"hello from a layer above\"\\n' > srv/app/settings.toml
printf 'demo\\n' > etc/hostname",
            ),
        ),
        recipe(
            "delete",
            "deletes a file, a symlink, one name of a hard link, and directories",
            Gzip,
            Outside(
                "rm srv/app/obsolete.txt srv/app/gone srv/app/bin/serve-too
rm -r usr/share/doc usr/share/man usr/share/locale",
            ),
        ),
        recipe(
            "replace",
            "replaces a directory: an opaque one, and one by a file",
            Gzip,
            Outside(
                "rm -r srv/app/static
mkdir -p srv/app/static/dist
for i in $(seq 1 40); do seq $i $((i * 150)) > srv/app/static/dist/bundle$i.js; done
rm -r srv/app/cache
printf 'a file now\\n' > srv/app/cache",
            ),
        ),
        recipe(
            "link",
            "a hard link and a symlink to what lower layers hold",
            Gzip,
            Outside(
                "ln srv/app/hello.py srv/app/hello-again.py
ln -s ../../srv/app/bin/serve usr/local/bin/serve",
            ),
        ),
        recipe(
            "modes",
            "changes owners and modes only",
            Gzip,
            Outside(
                "chmod 600 srv/app/settings.toml
chown 1000:1000 srv/app/settings.toml
chmod -R g+w srv/app/static",
            ),
        ),
    ]
}

/// An application as it is typically packaged.
const APP: &str = r#"
mkdir -p srv/app/bin srv/app/static/css srv/app/static/img srv/app/cache/deep/er srv/app/empty
echo 'app:x:1000:1000::/srv/app:/bin/sh' >> etc/passwd
echo 'app:x:1000:' >> etc/group
cat > srv/app/hello.py <<'END'
import json
import platform
import sys

print(json.dumps({"python": platform.python_version(), "kernel": platform.release(), "arguments": sys.argv[1:]}))
END
printf 'greeting = "hello"\n' > srv/app/settings.toml
printf 'a file that a later layer deletes\n' > srv/app/obsolete.txt
printf 'cached\n' > srv/app/cache/deep/er/entry
for i in $(seq 1 300); do
    printf 'def handler_%d(request):\n    return {"id": %d}\n' $i $i > srv/app/handler_$i.py
done
for i in $(seq 1 40); do
    seq $i $((i * 200)) > srv/app/static/css/style$i.css
    seq 1 $((i * 90)) > srv/app/static/img/image$i.svg
done
ln -s hello.py srv/app/main.py
ln -s nowhere srv/app/gone
cp usr/bin/perl srv/app/bin/serve
ln srv/app/bin/serve srv/app/bin/serve-too
ln srv/app/bin/serve srv/app/bin/serve-three
mkfifo srv/app/queue
truncate -s 8M srv/app/sparse.bin
printf 'at the end' >> srv/app/sparse.bin
long=$(printf 'n%.0s' $(seq 1 200))
printf 'a long name\n' > srv/app/$long
ln -s $long/$long srv/app/long-target
printf 'not ASCII\n' > "srv/app/Größe-寸法"
printf 'not UTF-8\n' > "$(printf 'srv/app/latin-\351')"
chown -R 1000:1000 srv/app
chmod 2775 srv/app/static
setcap cap_net_bind_service=ep srv/app/bin/serve
setfattr -n user.origin -v demo srv/app/hello.py
setfacl -m u:1001:r srv/app/settings.toml
setfacl -d -m g:1001:rwx srv/app/empty
touch -d '1969-12-31T23:59:59.5Z' srv/app/handler_1.py
touch -d '2040-01-02T03:04:05.123456789Z' srv/app/handler_2.py
"#;

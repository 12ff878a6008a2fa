//! The command of a sandbox: the image's configuration combined with the command line, as docker
//! does.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use blockbox_protocol::{ExecSpec, WindowSize};
use blockbox_store::spec::{Bytes, Process, Signal};
use ocipull::spec::Config;

use crate::error::{Error, Result};

/// The command line's settings of the command; the image's configuration decides the rest.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Replaces the image's `Cmd` if not empty.
    pub arguments: Vec<OsString>,
    /// Replaces the image's `Entrypoint`, and clears its `Cmd`. An empty string clears the
    /// `Entrypoint`.
    pub entrypoint: Option<OsString>,
    /// `KEY=VALUE` sets a variable; a `KEY` alone copies this process's value, or removes the
    /// variable if there is none.
    pub env: Vec<OsString>,
    /// Replaces the image's `WorkingDir`.
    pub workdir: Option<OsString>,
    /// Replaces the image's `User`: `NAME|UID[:GROUP|GID]`.
    pub user: Option<String>,
    /// Whether the program has a terminal.
    pub tty: bool,
    /// Whether its input stays open for clients that attach.
    pub stdin: bool,
    /// Replaces the image's `StopSignal`.
    pub stop_signal: Option<Signal>,
    /// How long the program has to end after the stop signal, in milliseconds.
    pub stop_timeout_ms: Option<u64>,
    /// Whether the program is process 1 of a PID namespace. Default: if its name is `init` or
    /// `systemd`, or the entrypoint's arguments name such a program.
    pub init: Option<bool>,
}

/// Combines an image's configuration with `overrides`.
///
/// # Errors
///
/// [`Error::NoCommand`] if neither names a program.
pub fn resolve(config: Option<&Config>, overrides: Overrides) -> Result<Process> {
    let list = |list: fn(&Config) -> &[String]| -> Vec<Vec<u8>> {
        let list = config.map_or(&[][..], list);
        list.iter().map(|text| text.clone().into_bytes()).collect()
    };
    let mut entrypoint = list(Config::entrypoint);
    // As docker does: builders write an empty string to clear a base image's entrypoint.
    if entrypoint == [b""] {
        entrypoint.clear();
    }
    let mut arguments = list(Config::cmd);
    if let Some(program) = overrides.entrypoint {
        entrypoint = Some(program.into_vec())
            .filter(|program| !program.is_empty())
            .into_iter()
            .collect();
        arguments.clear();
    }
    if !overrides.arguments.is_empty() {
        arguments = overrides
            .arguments
            .into_iter()
            .map(OsString::into_vec)
            .collect();
    }
    let init = overrides.init.unwrap_or_else(|| {
        let mut programs = entrypoint.iter().chain(arguments.first());
        let first = programs.next().is_some_and(|program| is_init(program));
        // Without a path, the word is a subcommand of many programs: `terraform init`.
        first || programs.any(|program| program.starts_with(b"/") && is_init(program))
    });
    let args = [entrypoint, arguments].concat();
    if args.is_empty() {
        return Err(Error::NoCommand);
    }

    let image_env = list(Config::env);
    let env = environment(image_env, overrides.env);

    let cwd = overrides.workdir.map(OsString::into_vec).or_else(|| {
        let cwd = config.and_then(Config::working_dir);
        cwd.map(|cwd| cwd.as_bytes().to_vec())
    });
    let mut cwd = cwd.unwrap_or_default();
    if cwd.first() != Some(&b'/') {
        cwd.insert(0, b'/');
    }
    let user = overrides.user.or_else(|| Some(config?.user()?.to_owned()));
    let image_signal = config.and_then(Config::stop_signal);
    let stop_signal = overrides.stop_signal.or_else(|| stop_signal(image_signal?));
    // The signal that halts systemd, which podman also sends.
    let stop_signal = stop_signal.or_else(|| Signal::from_number(SIGRTMIN_3).filter(|_| init));
    let mut process = Process::default();
    process.args = args.into_iter().map(Into::into).collect();
    process.env = env.into_iter().map(Into::into).collect();
    process.cwd = cwd.into();
    process.user = user.unwrap_or_default();
    process.tty = overrides.tty;
    process.stdin = overrides.stdin;
    process.stop_signal = stop_signal;
    process.stop_timeout_ms = overrides.stop_timeout_ms;
    process.init = Some(init);
    Ok(process)
}

/// Returns the main command in the form of the guest's protocol, with a terminal of this size, or
/// none.
pub(crate) fn exec_spec(process: &Process, tty: Option<WindowSize>, stdin: bool) -> ExecSpec {
    let bytes = |list: &[Bytes]| -> Vec<Vec<u8>> { list.iter().map(|one| one.0.clone()).collect() };
    let mut spec = ExecSpec::new(bytes(&process.args));
    spec.env = bytes(&process.env);
    spec.cwd.clone_from(&process.cwd.0);
    spec.user = process.user.clone().into_bytes();
    spec.tty = tty;
    spec.stdin = stdin;
    // Records of earlier versions do not say.
    let first_is_init = || spec.args.first().is_some_and(|program| is_init(program));
    spec.init = process.init.unwrap_or_else(first_is_init);
    spec.stop_signal = process.stop_signal().number();
    spec
}

/// `SIGRTMIN+3`.
const SIGRTMIN_3: u32 = 37;

/// Returns the signal that an image's `StopSignal` names. As under docker, one that is not a signal
/// does not keep the image from running: commands get SIGTERM.
fn stop_signal(text: &str) -> Option<Signal> {
    let signal = text.parse().ok();
    if signal.is_none() && !text.is_empty() {
        tracing::warn!("the image's StopSignal {text:?} is not a signal: SIGTERM is used");
    }
    signal
}

/// Returns whether a program must be process 1: systemd, and any `init`.
fn is_init(program: &[u8]) -> bool {
    let name = program.rsplit(|&byte| byte == b'/').next();
    matches!(name, Some(b"init" | b"systemd"))
}

/// Changes the environment of a command as [`Overrides::env`] describes.
pub fn change_env(process: &mut Process, changes: Vec<OsString>) {
    let base = std::mem::take(&mut process.env);
    let env = environment(base.into_iter().map(|one| one.0).collect(), changes);
    process.env = env.into_iter().map(Into::into).collect();
}

/// Returns the variables of `base`, changed as [`Overrides::env`] describes.
pub(crate) fn environment(base: Vec<Vec<u8>>, changes: Vec<OsString>) -> Vec<Vec<u8>> {
    let mut env = Environment::default();
    for variable in base {
        env.set(variable);
    }
    for variable in changes {
        if variable.as_bytes().contains(&b'=') {
            env.set(variable.into_vec());
        } else if let Some(value) = std::env::var_os(&variable) {
            env.set([variable.as_bytes(), b"=", value.as_bytes()].concat());
        } else {
            env.remove(variable.as_bytes());
        }
    }
    env.0
}

/// Variables in the order in which they were first set.
#[derive(Default)]
struct Environment(Vec<Vec<u8>>);

impl Environment {
    fn set(&mut self, variable: Vec<u8>) {
        match self.position(key(&variable)) {
            Some(at) => self.0[at] = variable,
            None => self.0.push(variable),
        }
    }

    fn remove(&mut self, name: &[u8]) {
        if let Some(at) = self.position(name) {
            self.0.remove(at);
        }
    }

    fn position(&self, name: &[u8]) -> Option<usize> {
        self.0.iter().position(|set| key(set) == name)
    }
}

fn key(variable: &[u8]) -> &[u8] {
    variable
        .split(|&byte| byte == b'=')
        .next()
        .unwrap_or(variable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(config: &str) -> Config {
        let document = format!(r#"{{"config":{config}}}"#);
        let document = ocipull::parse_config(document.as_bytes()).unwrap();
        document.config().unwrap().clone()
    }

    fn os(list: &[&str]) -> Vec<OsString> {
        list.iter().map(OsString::from).collect()
    }

    fn overridden(overrides: Overrides) -> Process {
        let config = image(
            r#"{"Entrypoint":["/entry","-x"],"Cmd":["serve"],"Env":["PATH=/opt/bin","MODE=image"],
                "WorkingDir":"/srv","User":"app:staff"}"#,
        );
        resolve(Some(&config), overrides).unwrap()
    }

    fn shown(list: &[Bytes]) -> Vec<&str> {
        list.iter()
            .map(|bytes| std::str::from_utf8(bytes.as_bytes()).unwrap())
            .collect()
    }

    #[test]
    fn the_image_decides_what_the_command_line_does_not_set() {
        let spec = overridden(Overrides::default());
        assert_eq!(shown(&spec.args), ["/entry", "-x", "serve"]);
        assert_eq!(shown(&spec.env), ["PATH=/opt/bin", "MODE=image"]);
        assert_eq!((spec.cwd, &*spec.user), ("/srv".into(), "app:staff"));
    }

    #[test]
    fn arguments_replace_cmd_and_keep_the_entrypoint() {
        let spec = overridden(Overrides {
            arguments: os(&["shell"]),
            ..Default::default()
        });
        assert_eq!(shown(&spec.args), ["/entry", "-x", "shell"]);
    }

    #[test]
    fn an_entrypoint_clears_cmd_and_an_empty_one_clears_the_images() {
        let entrypoint = Some("/bin/sh".into());
        let spec = overridden(Overrides {
            entrypoint,
            ..Default::default()
        });
        assert_eq!(shown(&spec.args), ["/bin/sh"]);
        let (entrypoint, arguments) = (Some("".into()), os(&["true"]));
        let spec = overridden(Overrides {
            entrypoint,
            arguments,
            ..Default::default()
        });
        assert_eq!(shown(&spec.args), ["true"]);
    }

    #[test]
    fn an_images_empty_entrypoint_is_none() {
        let config = image(r#"{"Entrypoint":[""],"Cmd":["echo","ok"]}"#);
        let spec = resolve(Some(&config), Overrides::default()).unwrap();
        assert_eq!(shown(&spec.args), ["echo", "ok"]);
    }

    #[test]
    fn an_init_is_process_1_and_halts_by_its_own_signal() {
        let run = |program: &str, signal: Option<&str>| {
            let signal = signal.unwrap_or_default();
            let config = image(&format!(
                r#"{{"Cmd":["{program}"],"StopSignal":"{signal}"}}"#
            ));
            resolve(Some(&config), Overrides::default())
                .map(|process| exec_spec(&process, None, true))
        };
        for program in ["/sbin/init", "/init", "/usr/lib/systemd/systemd", "init"] {
            let spec = run(program, None).unwrap();
            assert_eq!((spec.init, spec.stop_signal), (true, 37), "{program}");
        }
        let spec = run("/sbin/init", Some("SIGUSR2")).unwrap();
        assert_eq!((spec.init, spec.stop_signal), (true, 12));
        let spec = run("/usr/bin/tini", Some("3")).unwrap();
        assert_eq!((spec.init, spec.stop_signal), (false, 3));
        for wrong in ["SIGNONE", "0", "FOO"] {
            assert_eq!(
                run("nginx", Some(wrong)).unwrap().stop_signal,
                15,
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_variable_is_replaced_in_place_and_a_bare_unset_key_removes_it() {
        let env = os(&["MODE=cli", "NEW=1", "PATH"]);
        let spec = overridden(Overrides {
            env,
            ..Default::default()
        });
        let ours = format!("PATH={}", std::env::var("PATH").unwrap());
        assert_eq!(shown(&spec.env), [&*ours, "MODE=cli", "NEW=1"]);
        let spec = overridden(Overrides {
            env: os(&["MODE"]),
            ..Default::default()
        });
        assert_eq!(shown(&spec.env), ["PATH=/opt/bin"]);
    }

    #[test]
    fn an_init_behind_an_entrypoint_is_process_1_and_a_subcommand_is_not() {
        let init = |entrypoint: &[&str], cmd: &[&str], asked: Option<bool>| {
            let json = serde_json::json!({"Entrypoint": entrypoint, "Cmd": cmd});
            let config: Config = serde_json::from_value(json).unwrap();
            let overrides = Overrides {
                init: asked,
                ..Default::default()
            };
            let process = resolve(Some(&config), overrides).unwrap();
            exec_spec(&process, None, false).init
        };
        assert!(init(&["/entrypoint"], &["/sbin/init"], None));
        assert!(init(&["/usr/bin/tini", "--", "/sbin/init"], &[], None));
        assert!(!init(&["terraform"], &["init"], None));
        assert!(!init(&["/bin/sh", "-c"], &["exec /sbin/init"], None));
        assert!(init(&["/bin/sh", "-c"], &["exec /sbin/init"], Some(true)));
        assert!(!init(&["/sbin/init"], &[], Some(false)));
    }

    #[test]
    fn a_missing_command_is_an_error() {
        let spec = resolve(None, Overrides::default());
        assert!(matches!(spec, Err(Error::NoCommand)));
    }

    #[test]
    fn a_relative_working_directory_starts_at_the_root() {
        let workdir = Some("srv/app".into());
        assert_eq!(
            overridden(Overrides {
                workdir,
                ..Default::default()
            })
            .cwd,
            "/srv/app".into()
        );
    }
}

//! What a sandbox executes: the image's configuration and the command line, combined as docker combines them.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use blockbox_protocol::{ExecSpec, WindowSize, signal};
use ocipull::spec::Config;

use crate::error::{Error, Result};

/// What the command line says of the program; whatever it leaves out, the image says.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Replaces the image's `Cmd` where not empty.
    pub arguments: Vec<OsString>,
    /// Replaces the image's `Entrypoint`, and clears its `Cmd`. An empty string clears the `Entrypoint`.
    pub entrypoint: Option<OsString>,
    /// `KEY=VALUE` sets a variable; a `KEY` alone takes over this process's value, or removes the variable where it has
    /// none.
    pub env: Vec<OsString>,
    /// Replaces the image's `WorkingDir`.
    pub workdir: Option<OsString>,
    /// Replaces the image's `User`: `NAME|UID[:GROUP|GID]`.
    pub user: Option<String>,
    /// The size of the program's terminal; `None` gives it none.
    pub tty: Option<WindowSize>,
}

/// Combines an image's configuration with `overrides`.
///
/// # Errors
///
/// [`Error::NoCommand`] where neither names a program; [`Error::StopSignal`] where the image names a signal that there is
/// not.
pub fn exec_spec(config: Option<&Config>, overrides: Overrides) -> Result<ExecSpec> {
    let list = |list: Option<&Vec<String>>| -> Vec<Vec<u8>> {
        list.into_iter()
            .flatten()
            .map(|text| text.clone().into_bytes())
            .collect()
    };
    let mut entrypoint = list(config.and_then(|config| config.entrypoint().as_ref()));
    // As docker takes it: builders write an empty string to clear a base image's.
    if entrypoint == [b""] {
        entrypoint.clear();
    }
    let mut arguments = list(config.and_then(|config| config.cmd().as_ref()));
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
    let args = [entrypoint, arguments].concat();
    if args.is_empty() {
        return Err(Error::NoCommand);
    }

    let mut env = Environment::default();
    for variable in list(config.and_then(|config| config.env().as_ref())) {
        env.set(variable);
    }
    for variable in overrides.env {
        if variable.as_bytes().contains(&b'=') {
            env.set(variable.into_vec());
        } else if let Some(value) = std::env::var_os(&variable) {
            env.set([variable.as_bytes(), b"=", value.as_bytes()].concat());
        } else {
            env.remove(variable.as_bytes());
        }
    }

    let cwd = overrides.workdir.map(OsString::into_vec).or_else(|| {
        config
            .and_then(|config| config.working_dir().clone())
            .map(String::into_bytes)
    });
    let mut cwd = cwd.unwrap_or_default();
    if cwd.first() != Some(&b'/') {
        cwd.insert(0, b'/');
    }
    let user = overrides
        .user
        .or_else(|| config.and_then(|config| config.user().clone()));
    let stop_signal = config.and_then(|config| config.stop_signal().as_deref());
    let init = args.first().is_some_and(|program| is_init(program));
    let mut spec = ExecSpec::new(args);
    spec.env = env.0;
    spec.cwd = cwd;
    spec.user = user.unwrap_or_default().into_bytes();
    spec.tty = overrides.tty;
    spec.stdin = true;
    spec.init = init;
    spec.stop_signal = match stop_signal.filter(|name| !name.is_empty()) {
        Some(name) => signal::number(name).ok_or_else(|| Error::StopSignal(name.to_owned()))?,
        // What systemd takes for a request to halt, as podman sends it.
        None if init => SIGRTMIN_3,
        None => 0,
    };
    Ok(spec)
}

/// `SIGRTMIN+3`.
const SIGRTMIN_3: u32 = 37;

/// Whether a program insists on being process 1: systemd, and whatever is called `init`.
fn is_init(program: &[u8]) -> bool {
    let name = program.rsplit(|&byte| byte == b'/').next();
    matches!(name, Some(b"init" | b"systemd"))
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
    use ocipull::spec::ConfigBuilder;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|&s| s.to_owned()).collect()
    }

    fn os(list: &[&str]) -> Vec<OsString> {
        list.iter().map(OsString::from).collect()
    }

    fn overridden(overrides: Overrides) -> ExecSpec {
        let config = ConfigBuilder::default()
            .entrypoint(strings(&["/entry", "-x"]))
            .cmd(strings(&["serve"]))
            .env(strings(&["PATH=/opt/bin", "MODE=image"]))
            .working_dir("/srv")
            .user("app:staff")
            .build()
            .unwrap();
        exec_spec(Some(&config), overrides).unwrap()
    }

    fn shown(list: &[Vec<u8>]) -> Vec<&str> {
        list.iter()
            .map(|bytes| std::str::from_utf8(bytes).unwrap())
            .collect()
    }

    #[test]
    fn the_image_decides_what_the_command_line_leaves_out() {
        let spec = overridden(Overrides::default());
        assert_eq!(shown(&spec.args), ["/entry", "-x", "serve"]);
        assert_eq!(shown(&spec.env), ["PATH=/opt/bin", "MODE=image"]);
        assert_eq!((&*spec.cwd, &*spec.user), (&b"/srv"[..], &b"app:staff"[..]));
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
        let config = ConfigBuilder::default()
            .entrypoint(strings(&[""]))
            .cmd(strings(&["echo", "ok"]))
            .build()
            .unwrap();
        let spec = exec_spec(Some(&config), Overrides::default()).unwrap();
        assert_eq!(shown(&spec.args), ["echo", "ok"]);
    }

    #[test]
    fn an_init_is_process_1_and_halts_by_its_own_signal() {
        let run = |program: &str, signal: Option<&str>| {
            let mut config = ConfigBuilder::default().cmd(strings(&[program]));
            if let Some(signal) = signal {
                config = config.stop_signal(signal);
            }
            exec_spec(Some(&config.build().unwrap()), Overrides::default())
        };
        for program in ["/sbin/init", "/init", "/usr/lib/systemd/systemd", "init"] {
            let spec = run(program, None).unwrap();
            assert_eq!((spec.init, spec.stop_signal), (true, 37), "{program}");
        }
        let spec = run("/sbin/init", Some("SIGUSR2")).unwrap();
        assert_eq!((spec.init, spec.stop_signal), (true, 12));
        let spec = run("/usr/bin/tini", Some("3")).unwrap();
        assert_eq!((spec.init, spec.stop_signal), (false, 3));
        let wrong = run("nginx", Some("SIGNONE"));
        assert!(matches!(wrong, Err(Error::StopSignal(name)) if name == "SIGNONE"));
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
    fn nothing_to_execute_is_an_error() {
        let spec = exec_spec(None, Overrides::default());
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
            b"/srv/app"
        );
    }
}

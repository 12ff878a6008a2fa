//! What to type next, for errors of the libraries, which know no commands.

use blockbox::{Error, convert};

/// Returns what solves the problem that an error reports, if a command does.
pub(super) fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        let converted = cause.downcast_ref().and_then(of_conversion);
        converted.or_else(|| cause.downcast_ref().and_then(of_sandbox))
    })
}

fn of_conversion(error: &convert::Error) -> Option<String> {
    Some(match error {
        convert::Error::NoImage(name) => format!("`blockbox pull {name}` gets it"),
        convert::Error::Detached { .. } => {
            "`vmdk create` makes a disk of the merged image, each index and its tar behind it"
                .into()
        }
        _ => return None,
    })
}

fn of_sandbox(error: &Error) -> Option<String> {
    Some(match error {
        Error::Convert(error) => return of_conversion(error),
        Error::ImageInUse { sandbox, .. } => format!("`blockbox rm {sandbox}` first"),
        Error::NoSandbox(_) => "`blockbox ps` lists them".into(),
        Error::SandboxExists(name) => format!("`blockbox rm {name}` removes it"),
        Error::NoCommand => "name the command after `--`".into(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_a_command_solves_names_the_command() {
        let missing = convert::Error::NoImage("debian".into());
        let hinted = |error: anyhow::Error| hint(&error.context("cannot start"));
        let pull = Some("`blockbox pull debian` gets it".to_owned());
        assert_eq!(hinted(Error::from(missing).into()), pull);
        let missing = convert::Error::NoImage("debian".into());
        assert_eq!(hinted(missing.into()), pull);
        let command = hinted(Error::NoCommand.into());
        assert!(command.is_some_and(|hint| hint.contains("after `--`")));
        assert_eq!(hinted(Error::Memory(1).into()), None);
    }
}
